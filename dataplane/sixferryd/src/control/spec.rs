//! What a tunnel may look like, whoever asks for it: the configuration file and the API share
//! these rules (RFC 4213).

use std::net::{Ipv4Addr, Ipv6Addr};

use sixferry_fwd::{Dscp, EncapKind, MtuMode, Rebind, Ttl, TunnelSpec, UdpEncap};

use super::liveness::{INTERVAL, LivenessMode};

/// Most prefixes of one tunnel.
pub(crate) const MAX_PREFIXES: usize = TunnelSpec::MAX_PREFIXES;
/// Smallest inner MTU: IPv6's minimum (RFC 8200 section 5).
pub(crate) const MIN_MTU: u16 = 1280;
/// Largest inner MTU: Ethernet's 1500 less the outer header; more would need fragmentation on every
/// link there is.
pub(crate) const MAX_MTU: u16 = 1480;
/// The same less a UDP header.
pub(crate) const MAX_UDP_MTU: u16 = 1472;
/// The least an IPv4 link carries (RFC 791).
const MIN_PATH_MTU: u16 = 68;

/// One field that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Name of the field, as in the API's `Tunnel` message.
    pub(crate) field: &'static str,
    /// What is wrong and what would be right.
    pub(crate) text: String,
}

impl Violation {
    pub(crate) fn new(field: &'static str, text: impl Into<String>) -> Self {
        Self {
            field,
            text: text.into(),
        }
    }
}

/// Whether `id` can name a tunnel or a domain.
pub(crate) fn check_id(id: &str) -> Result<(), Violation> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if id.is_empty() || id.len() > 63 || !id.bytes().all(ok) {
        let text = format!("{id:?} is no id: 1 to 63 of A-Z a-z 0-9 . _ -");
        return Err(Violation::new("id", text));
    }
    Ok(())
}

/// The link-local address of a tunnel that names none (RFC 4213 section 3.7): fe80::/96 and the
/// IPv4 address.
pub(crate) fn default_link_local(local: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from(0xfe80_u128 << 112 | u128::from(u32::from(local)))
}

/// Everything wrong with a tunnel taken by itself.
pub(crate) fn check_tunnel(
    spec: &TunnelSpec,
    liveness: LivenessMode,
    interval_seconds: u16,
) -> Vec<Violation> {
    let mut found = Vec::new();
    check_outer(spec, &mut found);
    check_prefixes(spec, &mut found);
    check_link(spec, &mut found);
    let most = match spec.encap {
        EncapKind::SixInFour => MAX_MTU,
        EncapKind::Udp(udp) => {
            check_udp(spec, udp, &mut found);
            MAX_UDP_MTU
        }
    };
    check_header(spec.mtu, most, spec.ttl, spec.dscp, &mut found);
    check_path_mtu(spec, &mut found);
    check_liveness(spec, liveness, interval_seconds, &mut found);
    found
}

/// What tunnels and domains say of the outer header.
pub(super) fn check_header(mtu: u16, most: u16, ttl: Ttl, dscp: Dscp, found: &mut Vec<Violation>) {
    if !(MIN_MTU..=most).contains(&mtu) {
        let text = format!("{mtu} is outside {MIN_MTU}..{most}");
        found.push(Violation::new("mtu", text));
    }
    if ttl == Ttl::Fixed(0) {
        found.push(Violation::new("ttl", "0 is outside 1..255"));
    }
    if matches!(dscp, Dscp::Fixed(value) if value > 63) {
        found.push(Violation::new("dscp", "outside 0..63"));
    }
}

fn check_path_mtu(spec: &TunnelSpec, found: &mut Vec<Violation>) {
    if spec.mtu_mode != MtuMode::Dynamic {
        let given = [
            ("path_mtu", spec.path_mtu.is_some()),
            (
                "min_path_mtu",
                spec.min_path_mtu != TunnelSpec::MIN_PATH_MTU,
            ),
        ];
        for (field, _) in given.iter().filter(|(_, given)| *given) {
            found.push(Violation::new(field, "only with mtu_mode DYNAMIC"));
        }
        return;
    }
    if spec.min_path_mtu < MIN_PATH_MTU {
        let text = format!("{} is outside {MIN_PATH_MTU}..65535", spec.min_path_mtu);
        found.push(Violation::new("min_path_mtu", text));
    }
    if let Some(path) = spec.path_mtu
        && path < spec.min_path_mtu.max(MIN_PATH_MTU)
    {
        let least = spec.min_path_mtu.max(MIN_PATH_MTU);
        let text = format!("{path} is below min_path_mtu, {least}");
        found.push(Violation::new("path_mtu", text));
    }
}

fn check_liveness(
    spec: &TunnelSpec,
    mode: LivenessMode,
    interval_seconds: u16,
    found: &mut Vec<Violation>,
) {
    if !INTERVAL.contains(&interval_seconds) {
        let (least, most) = (INTERVAL.start(), INTERVAL.end());
        let text = format!("{interval_seconds} is outside {least}..{most}");
        found.push(Violation::new("liveness_interval_seconds", text));
    }
    match mode {
        LivenessMode::Off | LivenessMode::Passive => {}
        LivenessMode::Nud => {
            // Behind a NAT the peer's link-local address does not follow from where packets come from.
            if spec.encap != EncapKind::SixInFour {
                let text = "NUD probes need protocol 41; use ECHO or PASSIVE with UDP";
                found.push(Violation::new("liveness", text));
            }
        }
        LivenessMode::Echo => {
            if spec.link.is_none() {
                let text = "ECHO asks the peer's address on the link; give link_prefix and \
                            link_address";
                found.push(Violation::new("liveness", text));
            }
        }
    }
}

fn check_udp(spec: &TunnelSpec, udp: UdpEncap, found: &mut Vec<Violation>) {
    if udp.local_port == 0 {
        let text = "missing: a UDP tunnel needs a port of its own, 1..65535";
        found.push(Violation::new("local_port", text));
    }
    let known = !spec.remote.is_unspecified();
    let port_only = udp.rebind == Rebind::InnerSourcePort;
    match (known, udp.remote_port) {
        (true, 0) if !port_only => {
            let text = "missing: remote is given; leave both out if the peer is not known yet";
            found.push(Violation::new("remote_port", text));
        }
        (false, 1..) => {
            let text = "missing: remote_port is given; leave both out if the peer is not known yet";
            found.push(Violation::new("remote", text));
        }
        _ => {}
    }
    if udp.shared && !known {
        let text = "a shared port needs remote and remote_port: they tell its tunnels apart";
        found.push(Violation::new("shared_port", text));
    }
    if port_only && !known {
        let text = "missing: with INNER_SOURCE_PORT only the port is learnt, not the address";
        found.push(Violation::new("remote", text));
    }
    let name = match udp.rebind {
        Rebind::Deny | Rebind::Control => return,
        Rebind::InnerSource => "INNER_SOURCE",
        Rebind::InnerSourcePort => "INNER_SOURCE_PORT",
    };
    if udp.shared {
        let text = format!("{name} cannot work on a shared port: the peer's endpoint is its key");
        found.push(Violation::new("rebind", text));
    }
    if !spec.strict_source {
        let text =
            format!("{name} needs strict_source: the inner source is all the proof there is");
        found.push(Violation::new("rebind", text));
    }
}

fn check_outer(spec: &TunnelSpec, found: &mut Vec<Violation>) {
    if let Err(why) = unicast4(spec.local) {
        found.push(Violation::new("local", format!("{} {why}", spec.local)));
    }
    if spec.remote.is_unspecified() {
        // The peer of a UDP tunnel may make itself known later.
        if spec.encap == EncapKind::SixInFour {
            let text = "missing; an IPv4 address of 4 bytes";
            found.push(Violation::new("remote", text));
        }
        return;
    }
    if let Err(why) = unicast4(spec.remote) {
        found.push(Violation::new("remote", format!("{} {why}", spec.remote)));
    }
    if spec.local == spec.remote {
        let text = format!(
            "{} is the local address too: a tunnel to itself",
            spec.remote
        );
        found.push(Violation::new("remote", text));
    }
}

/// Private and documentation addresses are fine here: the operator names both ends by hand.
pub(super) fn unicast4(address: Ipv4Addr) -> Result<(), &'static str> {
    match address {
        a if a.is_unspecified() || a.octets()[0] == 0 => Err("is no host address"),
        a if a.is_loopback() => Err("is a loopback address"),
        a if a.is_multicast() => Err("is a multicast address"),
        a if a.octets()[0] >= 240 => Err("is reserved (240.0.0.0/4)"),
        _ => Ok(()),
    }
}

fn check_prefixes(spec: &TunnelSpec, found: &mut Vec<Violation>) {
    if spec.prefixes.len() > MAX_PREFIXES {
        let text = format!("{} prefixes; at most {MAX_PREFIXES}", spec.prefixes.len());
        found.push(Violation::new("prefixes", text));
        return;
    }
    for (i, prefix) in spec.prefixes.iter().enumerate() {
        if let Err(why) = routable6(prefix.address(), prefix.len()) {
            found.push(Violation::new("prefixes", format!("{prefix} {why}")));
        }
        if spec.prefixes.iter().take(i).any(|other| other == prefix) {
            found.push(Violation::new(
                "prefixes",
                format!("{prefix} is listed twice"),
            ));
        }
    }
}

pub(super) fn routable6(address: Ipv6Addr, len: u8) -> Result<(), &'static str> {
    match address.segments()[0] {
        0xff00.. => Err("is multicast"),
        0xfe80..=0xfebf => Err("is link-local"),
        // A route that wide into one user's tunnel would also make nearly every source acceptable.
        _ if len < 8 => Err("is shorter than /8"),
        // RFC 4213 section 3.6 drops ::/96 and mapped sources: such a prefix could never work.
        0 => Err("is in ::/16, reserved"),
        _ => Ok(()),
    }
}

fn check_link(spec: &TunnelSpec, found: &mut Vec<Violation>) {
    if let Some(link) = &spec.link {
        if let Err(why) = routable6(link.prefix.address(), link.prefix.len()) {
            found.push(Violation::new(
                "link_prefix",
                format!("{} {why}", link.prefix),
            ));
        }
        if link.prefix.len() == 128 {
            let text = format!("{} has no room for both ends", link.prefix);
            found.push(Violation::new("link_prefix", text));
        }
        if spec.prefixes.contains(&link.prefix) {
            let text = format!("{} is among prefixes too", link.prefix);
            found.push(Violation::new("link_prefix", text));
        }
        if !link.prefix.contains(link.address) {
            let text = format!("{} lies outside link_prefix {}", link.address, link.prefix);
            found.push(Violation::new("link_address", text));
        }
    }
    if let Some(address) = spec.link_local
        && address.segments()[0] & 0xffc0 != 0xfe80
    {
        let text = format!("{address} is not in fe80::/10");
        found.push(Violation::new("link_local_address", text));
    }
}
