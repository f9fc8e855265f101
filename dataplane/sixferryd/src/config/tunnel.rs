//! `[[tunnel]]`: each by itself, then all of them against each other.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::str::FromStr;

use sixferry_fwd::{Dscp, Ecn, Ipv6Prefix, MtuMode, Ttl, TunnelLink, TunnelSpec};
use toml::Spanned;

use super::StaticTunnel;
use super::check::{prefix, word};
use super::finding::Findings;
use super::raw::{Key, RawDscp, RawTtl, RawTunnel};
use crate::control::spec::{check_id, check_spec};

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
    let local = required::<Ipv4Addr>(&key("local"), &raw.local, &places, "198.51.100.1", findings);
    let remote = required::<Ipv4Addr>(&key("remote"), &raw.remote, &places, "192.0.2.10", findings);
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
    header_fields(&mut spec, &raw, &key, findings);
    spec.strict_source = raw.strict_source.as_ref().is_none_or(|v| *v.get_ref());
    spec.up = raw.up.as_ref().is_none_or(|v| *v.get_ref());

    for violation in check_spec(&spec) {
        let at = Some(places.of(violation.field));
        findings.error(&key(violation.field), at, violation.text);
    }
    let nested = raw.nested.as_ref().is_some_and(|v| *v.get_ref());
    Some(Placed {
        index,
        tunnel: StaticTunnel { id: id?, spec },
        nested,
        places,
    })
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

fn header_fields(
    spec: &mut TunnelSpec,
    raw: &RawTunnel,
    key: &dyn Fn(&str) -> String,
    findings: &mut Findings<'_>,
) {
    if let Some(mtu) = &raw.mtu {
        // A value beyond u16 is out of range anyway; `check_spec` says so.
        spec.mtu = u16::try_from(*mtu.get_ref()).unwrap_or(u16::MAX);
    }
    let modes = [("static", MtuMode::Static), ("managed", MtuMode::Managed)];
    spec.mtu_mode = word(
        &key("mtu_mode"),
        &raw.mtu_mode,
        &modes,
        spec.mtu_mode,
        findings,
    );
    let ecn = [("normal", Ecn::Normal), ("compat", Ecn::Compat)];
    spec.ecn = word(&key("ecn"), &raw.ecn, &ecn, spec.ecn, findings);
    spec.dscp_decap_copy = raw.dscp_decap_copy.as_ref().is_some_and(|v| *v.get_ref());
    if let Some(ttl) = &raw.ttl {
        match ttl.get_ref() {
            RawTtl::Word(word) if word == "inherit" => spec.ttl = Ttl::Inherit,
            RawTtl::Number(n) if (1..=255).contains(n) => {
                spec.ttl = Ttl::Fixed(u8::try_from(*n).unwrap_or(u8::MAX));
            }
            _ => {
                let message = "neither 1..255 nor \"inherit\"".to_owned();
                findings.error(&key("ttl"), Some(ttl.span()), message);
            }
        }
    }
    if let Some(dscp) = &raw.dscp {
        match dscp.get_ref() {
            RawDscp::Word(word) if word == "copy" => spec.dscp = Dscp::Copy,
            RawDscp::Number(n) if *n <= 63 => {
                spec.dscp = Dscp::Fixed(u8::try_from(*n).unwrap_or(0));
            }
            _ => {
                let message = "neither 0..63 nor \"copy\"".to_owned();
                findings.error(&key("dscp"), Some(dscp.span()), message);
            }
        }
    }
}

fn unique_names(placed: &[Placed], findings: &mut Findings<'_>) {
    let mut ids: HashMap<&str, &Placed> = HashMap::new();
    let mut outers: HashMap<(Ipv4Addr, Ipv4Addr), &Placed> = HashMap::new();
    for this in placed {
        let key = |field: &str| format!("tunnel[{}].{field}", this.index);
        if let Some(first) = ids.insert(&this.tunnel.id, this) {
            let line = findings.line_of(&first.places.of("id"));
            let message = format!("{:?} is already the id of line {line}", this.tunnel.id);
            findings.error(&key("id"), Some(this.places.of("id")), message);
        }
        let outer = (this.tunnel.spec.local, this.tunnel.spec.remote);
        if let Some(first) = outers.insert(outer, this) {
            let message = format!(
                "{} from {} is already tunnel {:?} of line {}",
                outer.1,
                outer.0,
                first.tunnel.id,
                findings.line_of(&first.places.of("remote"))
            );
            findings.error(&key("remote"), Some(this.places.of("remote")), message);
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
