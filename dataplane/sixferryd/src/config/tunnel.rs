//! `[[tunnel]]`: each by itself, then all of them against each other.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::str::FromStr;

use sixferry_fwd::{
    Dscp, Ecn, EncapKind, Ipv6Prefix, MtuMode, Rebind, Ttl, TunnelLink, TunnelSpec, UdpEncap,
};
use toml::Spanned;

use sixferry_service::Findings;

use super::StaticTunnel;
use super::check::{copied, prefix, word};
use super::raw::{Key, RawDscp, RawTtl, RawTunnel};
use crate::control::liveness::LivenessMode;
use crate::control::patch::Wanted;
use crate::control::spec::{Violation, check_id};

/// A tunnel with the places of what may collide.
struct Placed {
    index: usize,
    tunnel: StaticTunnel,
    nested: bool,
    places: Places,
}

/// Where the keys stand that later checks complain about.
struct Places {
    whole: Range<usize>,
    by_field: HashMap<&'static str, Range<usize>>,
}

impl Places {
    fn of(&self, field: &str) -> Range<usize> {
        self.by_field.get(field).unwrap_or(&self.whole).clone()
    }
}

pub(super) fn tunnels(
    raw: Vec<Spanned<RawTunnel>>,
    findings: &mut Findings<'_>,
) -> Vec<StaticTunnel> {
    let placed: Vec<Placed> = raw
        .into_iter()
        .enumerate()
        .filter_map(|(index, spanned)| {
            let whole = spanned.span();
            one(index, spanned.into_inner(), whole, findings)
        })
        .collect();
    unique_names(&placed, findings);
    unique_prefixes(&placed, findings);
    placed.into_iter().map(|p| p.tunnel).collect()
}

fn one(
    index: usize,
    raw: RawTunnel,
    whole: Range<usize>,
    findings: &mut Findings<'_>,
) -> Option<Placed> {
    let places = places(&raw, whole);
    let key = |field: &str| format!("tunnel[{index}].{field}");
    let id = raw.id.as_ref().map(|id| id.get_ref().clone());
    match &id {
        None => {
            let message = "missing; e.g. id = \"example\"".to_owned();
            findings.error(&key("id"), Some(places.of("id")), message);
        }
        Some(id) => {
            if let Err(violation) = check_id(id) {
                findings.error(&key("id"), Some(places.of("id")), violation.text);
            }
        }
    }
    let udp_words = [("6in4", false), ("udp", true)];
    let is_udp = word(&key("encap"), &raw.encap, &udp_words, false, findings);
    let local = required::<Ipv4Addr>(&key("local"), &raw.local, &places, "198.51.100.1", findings);
    // The peer of a UDP tunnel may make itself known later.
    let remote = if is_udp && raw.remote.is_none() {
        Some(Ipv4Addr::UNSPECIFIED)
    } else {
        required::<Ipv4Addr>(&key("remote"), &raw.remote, &places, "192.0.2.10", findings)
    };
    let mut spec = TunnelSpec::new(local?, remote?);
    spec.prefixes = raw
        .prefixes
        .iter()
        .enumerate()
        .filter_map(|(i, text)| prefix(&key(&format!("prefixes[{i}]")), text, findings))
        .collect();
    spec.link = link(&raw, &key, &places, findings);
    spec.link_local = raw.link_local_address.as_ref().and_then(|text| {
        parsed::<Ipv6Addr>(
            &key("link_local_address"),
            text,
            "an IPv6 address",
            findings,
        )
    });
    let mtu = header_fields(&mut spec, &raw, &key, findings);
    spec.strict_source = raw.strict_source.as_ref().is_none_or(|v| *v.get_ref());
    spec.up = raw.up.as_ref().is_none_or(|v| *v.get_ref());
    let wanted = Wanted {
        is_udp,
        udp: udp(&raw, &key, findings),
        mtu,
        liveness: liveness(&raw, &key, findings),
        liveness_interval: number(&raw.liveness_interval_seconds),
        spec,
    };
    let checked = wanted.finish().map_err(|violations| {
        for Violation { field, text } in violations {
            findings.error(&key(field), Some(places.of(field)), text);
        }
    });
    let (spec, liveness) = checked.ok()?;
    if let EncapKind::Udp(udp) = spec.encap
        && spec.remote.is_unspecified()
        && udp.rebind != Rebind::InnerSource
    {
        let message = "missing: nobody says where the peer is; give remote and remote_port, or \
                       rebind = \"inner-source\" to learn it";
        let at = Some(places.of("local_port"));
        findings.warning(&key("remote"), at, message.to_owned());
    }
    let nested = raw.nested.as_ref().is_some_and(|v| *v.get_ref());
    let id = id?;
    Some(Placed {
        index,
        tunnel: StaticTunnel { id, spec, liveness },
        nested,
        places,
    })
}

/// A number of 16 bits; one beyond is out of every range, which the check of the whole says.
fn number(value: &Key<u32>) -> u16 {
    u16::try_from(copied(value, 0)).unwrap_or(u16::MAX)
}

/// A UDP port, or an error.
fn port(key: &str, value: &Key<u32>, findings: &mut Findings<'_>) -> u16 {
    let Some(given) = value else { return 0 };
    u16::try_from(*given.get_ref()).unwrap_or_else(|_| {
        let message = format!("{} is outside 1..65535", given.get_ref());
        findings.error(key, Some(given.span()), message);
        0
    })
}

fn udp(raw: &RawTunnel, key: &dyn Fn(&str) -> String, findings: &mut Findings<'_>) -> UdpEncap {
    let rebind = [
        ("deny", Rebind::Deny),
        ("control", Rebind::Control),
        ("inner-source", Rebind::InnerSource),
        ("inner-source-port", Rebind::InnerSourcePort),
    ];
    UdpEncap {
        local_port: port(&key("local_port"), &raw.local_port, findings),
        remote_port: port(&key("remote_port"), &raw.remote_port, findings),
        shared: copied(&raw.shared_port, false),
        rebind: word(
            &key("rebind"),
            &raw.rebind,
            &rebind,
            Rebind::Control,
            findings,
        ),
    }
}

fn liveness(
    raw: &RawTunnel,
    key: &dyn Fn(&str) -> String,
    findings: &mut Findings<'_>,
) -> LivenessMode {
    let modes = [
        ("off", LivenessMode::Off),
        ("passive", LivenessMode::Passive),
        ("nud", LivenessMode::Nud),
        ("echo", LivenessMode::Echo),
    ];
    let default = LivenessMode::Off;
    word(&key("liveness"), &raw.liveness, &modes, default, findings)
}

fn places(raw: &RawTunnel, whole: Range<usize>) -> Places {
    let mut by_field = HashMap::new();
    let mut note = |field: &'static str, place: Option<Range<usize>>| {
        if let Some(place) = place {
            by_field.insert(field, place);
        }
    };
    note("id", raw.id.as_ref().map(Spanned::span));
    note("local", raw.local.as_ref().map(Spanned::span));
    note("remote", raw.remote.as_ref().map(Spanned::span));
    note("prefixes", raw.prefixes.first().map(Spanned::span));
    note("link_prefix", raw.link_prefix.as_ref().map(Spanned::span));
    note("link_address", raw.link_address.as_ref().map(Spanned::span));
    note(
        "link_local_address",
        raw.link_local_address.as_ref().map(Spanned::span),
    );
    note("mtu", raw.mtu.as_ref().map(Spanned::span));
    note("ttl", raw.ttl.as_ref().map(Spanned::span));
    note("dscp", raw.dscp.as_ref().map(Spanned::span));
    note("local_port", raw.local_port.as_ref().map(Spanned::span));
    note("remote_port", raw.remote_port.as_ref().map(Spanned::span));
    note("shared_port", raw.shared_port.as_ref().map(Spanned::span));
    note("rebind", raw.rebind.as_ref().map(Spanned::span));
    note("path_mtu", raw.path_mtu.as_ref().map(Spanned::span));
    note("min_path_mtu", raw.min_path_mtu.as_ref().map(Spanned::span));
    note("liveness", raw.liveness.as_ref().map(Spanned::span));
    let interval = raw.liveness_interval_seconds.as_ref();
    note("liveness_interval_seconds", interval.map(Spanned::span));
    Places { whole, by_field }
}

fn required<T: FromStr>(
    key: &str,
    value: &Key<String>,
    places: &Places,
    example: &str,
    findings: &mut Findings<'_>,
) -> Option<T> {
    let Some(text) = value else {
        let message = format!("missing; e.g. \"{example}\"");
        findings.error(key, Some(places.whole.clone()), message);
        return None;
    };
    parsed(key, text, "an IPv4 address", findings)
}

fn parsed<T: FromStr>(
    key: &str,
    text: &Spanned<String>,
    what: &str,
    findings: &mut Findings<'_>,
) -> Option<T> {
    let value = text.get_ref().parse().ok();
    if value.is_none() {
        findings.error(
            key,
            Some(text.span()),
            format!("{:?} is not {what}", text.get_ref()),
        );
    }
    value
}

fn link(
    raw: &RawTunnel,
    key: &dyn Fn(&str) -> String,
    places: &Places,
    findings: &mut Findings<'_>,
) -> Option<TunnelLink> {
    match (&raw.link_prefix, &raw.link_address) {
        (None, None) => None,
        (Some(_), None) => {
            let at = Some(places.of("link_prefix"));
            let message = "missing: our address on the link of link_prefix".to_owned();
            findings.error(&key("link_address"), at, message);
            None
        }
        (None, Some(_)) => {
            let at = Some(places.of("link_address"));
            let message = "missing: the prefix link_address lies in".to_owned();
            findings.error(&key("link_prefix"), at, message);
            None
        }
        (Some(prefix_text), Some(address)) => {
            let prefix = prefix(&key("link_prefix"), prefix_text, findings);
            let addr = parsed(&key("link_address"), address, "an IPv6 address", findings);
            Some(TunnelLink {
                prefix: prefix?,
                address: addr?,
            })
        }
    }
}

/// Gives the MTU, if one is given.
fn header_fields(
    spec: &mut TunnelSpec,
    raw: &RawTunnel,
    key: &dyn Fn(&str) -> String,
    findings: &mut Findings<'_>,
) -> Option<u16> {
    let modes = [
        ("static", MtuMode::Static),
        ("managed", MtuMode::Managed),
        ("dynamic", MtuMode::Dynamic),
    ];
    spec.mtu_mode = word(
        &key("mtu_mode"),
        &raw.mtu_mode,
        &modes,
        spec.mtu_mode,
        findings,
    );
    spec.path_mtu = raw.path_mtu.is_some().then(|| number(&raw.path_mtu));
    if raw.min_path_mtu.is_some() {
        spec.min_path_mtu = number(&raw.min_path_mtu);
    }
    spec.mss_clamp = copied(&raw.mss_clamp, false);
    spec.ecn = ecn(&key("ecn"), &raw.ecn, findings);
    spec.dscp_decap_copy = copied(&raw.dscp_decap_copy, false);
    spec.ttl = ttl(&key("ttl"), &raw.ttl, findings);
    spec.dscp = dscp(&key("dscp"), &raw.dscp, findings).unwrap_or_default();
    raw.mtu.is_some().then(|| number(&raw.mtu))
}

pub(super) fn ecn(key: &str, value: &Key<String>, findings: &mut Findings<'_>) -> Ecn {
    let words = [("normal", Ecn::Normal), ("compat", Ecn::Compat)];
    word(key, value, &words, Ecn::Normal, findings)
}

pub(super) fn ttl(key: &str, value: &Key<RawTtl>, findings: &mut Findings<'_>) -> Ttl {
    let Some(given) = value else {
        return Ttl::default();
    };
    match given.get_ref() {
        RawTtl::Word(word) if word == "inherit" => return Ttl::Inherit,
        RawTtl::Number(n) if (1..=255).contains(n) => {
            return Ttl::Fixed(u8::try_from(*n).unwrap_or(u8::MAX));
        }
        _ => {}
    }
    let message = "neither 1..255 nor \"inherit\"".to_owned();
    findings.error(key, Some(given.span()), message);
    Ttl::default()
}

/// `None`: the default.
pub(super) fn dscp(key: &str, value: &Key<RawDscp>, findings: &mut Findings<'_>) -> Option<Dscp> {
    let given = value.as_ref()?;
    match given.get_ref() {
        RawDscp::Word(word) if word == "copy" => return Some(Dscp::Copy),
        RawDscp::Number(n) if *n <= 63 => {
            return Some(Dscp::Fixed(u8::try_from(*n).unwrap_or(0)));
        }
        _ => {}
    }
    let message = "neither 0..63 nor \"copy\"".to_owned();
    findings.error(key, Some(given.span()), message);
    None
}

/// What tells a tunnel's packets apart on the IPv4 side.
#[derive(PartialEq, Eq, Hash)]
enum OuterKey {
    Proto41(Ipv4Addr, Ipv4Addr),
    Port(Ipv4Addr, u16),
    Shared(Ipv4Addr, u16, Ipv4Addr, u16),
}

impl OuterKey {
    fn of(spec: &TunnelSpec) -> Self {
        match spec.encap {
            EncapKind::SixInFour => Self::Proto41(spec.local, spec.remote),
            EncapKind::Udp(udp) if udp.shared => {
                Self::Shared(spec.local, udp.local_port, spec.remote, udp.remote_port)
            }
            EncapKind::Udp(udp) => Self::Port(spec.local, udp.local_port),
        }
    }
}

fn unique_names(placed: &[Placed], findings: &mut Findings<'_>) {
    let mut ids: HashMap<&str, &Placed> = HashMap::new();
    let mut outers: HashMap<OuterKey, &Placed> = HashMap::new();
    let mut shared: HashMap<(Ipv4Addr, u16), bool> = HashMap::new();
    for this in placed {
        let key = |field: &str| format!("tunnel[{}].{field}", this.index);
        if let Some(first) = ids.insert(&this.tunnel.id, this) {
            let line = findings.line_of(&first.places.of("id"));
            let message = format!("{:?} is already the id of line {line}", this.tunnel.id);
            findings.error(&key("id"), Some(this.places.of("id")), message);
        }
        let spec = &this.tunnel.spec;
        let field = match spec.encap {
            EncapKind::SixInFour => "remote",
            EncapKind::Udp(_) => "local_port",
        };
        if let Some(first) = outers.insert(OuterKey::of(spec), this) {
            let outer = match spec.encap {
                EncapKind::SixInFour => format!("{} from {}", spec.remote, spec.local),
                EncapKind::Udp(udp) => format!("UDP port {} of {}", udp.local_port, spec.local),
            };
            let message = format!(
                "{outer} is already tunnel {:?} of line {}",
                first.tunnel.id,
                findings.line_of(&first.places.of(field))
            );
            findings.error(&key(field), Some(this.places.of(field)), message);
        } else if let EncapKind::Udp(udp) = spec.encap
            && shared
                .insert((spec.local, udp.local_port), udp.shared)
                .is_some_and(|other| other != udp.shared)
        {
            let message = format!(
                "UDP port {} of {} is shared by some tunnels and not by others; set shared_port on \
                 all of them",
                udp.local_port, spec.local
            );
            let at = Some(this.places.of("local_port"));
            findings.error(&key("shared_port"), at, message);
        }
    }
}

/// Equal prefixes never work. Nested ones do (longest match), but in a file written by hand they
/// are far more often a slip that gives one user's addresses to another: they must be asked for.
fn unique_prefixes(placed: &[Placed], findings: &mut Findings<'_>) {
    let mut all: Vec<(Ipv6Prefix, &Placed, &'static str)> = Vec::new();
    for this in placed {
        let spec = &this.tunnel.spec;
        all.extend(spec.prefixes.iter().map(|p| (*p, this, "prefixes")));
        all.extend(
            spec.link
                .iter()
                .map(|link| (link.prefix, this, "link_prefix")),
        );
    }
    // In this order a prefix follows whatever covers it; `open` is the chain of those around it.
    all.sort_by_key(|(p, this, _)| (p.bits(), p.len(), this.index));
    let mut open: Vec<(Ipv6Prefix, &Placed)> = Vec::new();
    for (prefix, this, field) in all {
        while open
            .last()
            .is_some_and(|(around, _)| !around.covers(prefix))
        {
            open.pop();
        }
        if let Some((around, other)) = open.last()
            && other.index != this.index
            && (*around == prefix || !this.nested)
        {
            let relation = if *around == prefix {
                "is already"
            } else {
                "lies inside"
            };
            let fix = if *around == prefix {
                "two tunnels cannot share a prefix"
            } else {
                "set nested = true here if that is meant"
            };
            let message = format!(
                "{prefix} {relation} {around} of tunnel {:?}, line {}; {fix}",
                other.tunnel.id,
                findings.line_of(&other.places.whole)
            );
            let key = format!("tunnel[{}].{field}", this.index);
            findings.error(&key, Some(this.places.of(field)), message);
        }
        open.push((prefix, this));
    }
}
