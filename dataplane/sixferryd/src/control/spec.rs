//! What a tunnel may look like, whoever asks for it: the configuration file and the API share
//! these rules (proto41.md 1.1 to 1.3, RFC 4213).

use std::net::{Ipv4Addr, Ipv6Addr};

use sixferry_fwd::{Dscp, Ttl, TunnelSpec};

/// Most prefixes of one tunnel.
pub(crate) const MAX_PREFIXES: usize = TunnelSpec::MAX_PREFIXES;
/// Smallest inner MTU: IPv6's minimum (RFC 8200 section 5).
pub(crate) const MIN_MTU: u32 = 1280;
/// Largest inner MTU: Ethernet's 1500 less the outer header; more would need fragmentation, which
/// proto41.md 1.2 leaves out.
pub(crate) const MAX_MTU: u32 = 1480;

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

/// Whether `id` can name a tunnel.
pub(crate) fn check_id(id: &str) -> Result<(), Violation> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if id.is_empty() || id.len() > 63 || !id.bytes().all(ok) {
        let text = format!("{id:?} is no tunnel id: 1 to 63 of A-Z a-z 0-9 . _ -");
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
pub(crate) fn check_spec(spec: &TunnelSpec) -> Vec<Violation> {
    let mut found = Vec::new();
    check_outer(spec, &mut found);
    check_prefixes(spec, &mut found);
    check_link(spec, &mut found);
    let mtu = u32::from(spec.mtu);
    if !(MIN_MTU..=MAX_MTU).contains(&mtu) {
        let text = format!("{mtu} is outside {MIN_MTU}..{MAX_MTU}");
        found.push(Violation::new("mtu", text));
    }
    if spec.ttl == Ttl::Fixed(0) {
        found.push(Violation::new("ttl", "0 is outside 1..255"));
    }
    if matches!(spec.dscp, Dscp::Fixed(value) if value > 63) {
        found.push(Violation::new("dscp", "outside 0..63"));
    }
    found
}

fn check_outer(spec: &TunnelSpec, found: &mut Vec<Violation>) {
    for (field, address) in [("local", spec.local), ("remote", spec.remote)] {
        if let Err(why) = unicast4(address) {
            found.push(Violation::new(field, format!("{address} {why}")));
        }
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
fn unicast4(address: Ipv4Addr) -> Result<(), &'static str> {
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

fn routable6(address: Ipv6Addr, len: u8) -> Result<(), &'static str> {
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
