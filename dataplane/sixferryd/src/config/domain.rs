//! `[[domain]]`: each by itself, then all of them against each other and the tunnels.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::Range;

use sixferry_fwd::{DomainKind, Ipv4Prefix, Ipv6Prefix, MtuMode, SixRdRole, SixToFourRole, Urpf};
use toml::Spanned;

use sixferry_service::Findings;

use super::check::{copied, place, prefix, word};
use super::raw::{Key, RawDomain};
use super::{StaticDomain, StaticTunnel, tunnel};
use crate::control::domain_spec::{SIX_TO_FOUR_ANYCAST, WantedDomain, way_out};
use crate::control::domains::MAX_DOMAINS;
use crate::control::spec::check_id;

/// Most routes of one domain: a file is written by hand.
const MAX_ROUTES: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Relay,
    Site,
    Br,
    Ce,
}

/// A domain while it is read.
struct Reader<'a, 'f> {
    raw: &'a RawDomain,
    index: usize,
    whole: Range<usize>,
    findings: &'a mut Findings<'f>,
}

pub(super) fn domains(
    raw: Vec<Spanned<RawDomain>>,
    tunnels: &[StaticTunnel],
    findings: &mut Findings<'_>,
) -> Vec<StaticDomain> {
    if raw.len() > MAX_DOMAINS {
        let message = format!("{} domains; at most {MAX_DOMAINS}", raw.len());
        let at = raw.get(MAX_DOMAINS).map(Spanned::span);
        findings.error("domain", at, message);
    }
    let mut read = Vec::new();
    for (index, spanned) in raw.iter().enumerate() {
        let mut reader = Reader {
            raw: spanned.get_ref(),
            index,
            whole: spanned.span(),
            findings: &mut *findings,
        };
        if let Some(domain) = reader.domain() {
            read.push((index, spanned, domain));
        }
    }
    unique(&read, tunnels, findings);
    read.into_iter().map(|(_, _, domain)| domain).collect()
}

impl Reader<'_, '_> {
    fn key(&self, field: &str) -> String {
        format!("domain[{}].{field}", self.index)
    }

    fn error(&mut self, field: &str, at: Option<Range<usize>>, message: impl Into<String>) {
        let at = at.unwrap_or_else(|| self.whole.clone());
        let key = self.key(field);
        self.findings.error(&key, Some(at), message.into());
    }

    fn domain(&mut self) -> Option<StaticDomain> {
        let raw = self.raw;
        let id = self.id();
        let local = self.address("local", &raw.local, "198.51.100.1");
        let (part, kind) = self.kind()?;
        self.misplaced(part);
        let wanted = self.wanted(kind?, local?);
        let spec = match wanted.finish() {
            Ok(spec) => spec,
            Err(violations) => {
                for violation in violations {
                    let field = file_key(violation.field);
                    let at = self.place_of(field);
                    self.error(field, at, violation.text);
                }
                return None;
            }
        };
        let routes = self.routes(&spec.kind);
        let id = id?;
        Some(StaticDomain { id, spec, routes })
    }

    fn id(&mut self) -> Option<String> {
        let Some(id) = &self.raw.id else {
            self.error("id", None, "missing; e.g. id = \"6rd\"");
            return None;
        };
        if let Err(violation) = check_id(id.get_ref()) {
            self.error("id", Some(id.span()), violation.text);
        }
        Some(id.get_ref().clone())
    }

    fn address(&mut self, field: &str, value: &Key<String>, example: &str) -> Option<Ipv4Addr> {
        let Some(text) = value else {
            self.error(field, None, format!("missing; e.g. \"{example}\""));
            return None;
        };
        let parsed = text.get_ref().parse().ok();
        if parsed.is_none() {
            let message = format!("{:?} is not an IPv4 address", text.get_ref());
            self.error(field, Some(text.span()), message);
        }
        parsed
    }

    /// Kind and role; the inner `None`: further keys of it are wrong.
    fn kind(&mut self) -> Option<(Part, Option<DomainKind>)> {
        let raw = self.raw;
        let kind = raw.kind.as_ref().map(|k| k.get_ref().as_str());
        let role = raw.role.as_ref().map(|r| r.get_ref().as_str());
        let part = match (kind, role) {
            (Some("6to4"), Some("relay")) => Part::Relay,
            (Some("6to4"), Some("site")) => Part::Site,
            (Some("6rd"), Some("br")) => Part::Br,
            (Some("6rd"), Some("ce")) => Part::Ce,
            (Some("6to4"), _) => {
                self.error("role", place(&raw.role), "give \"relay\" or \"site\"");
                return None;
            }
            (Some("6rd"), _) => {
                self.error("role", place(&raw.role), "give \"br\" or \"ce\"");
                return None;
            }
            _ => {
                self.error("kind", place(&raw.kind), "give \"6to4\" or \"6rd\"");
                return None;
            }
        };
        let kind = match part {
            Part::Relay | Part::Site => self.six_to_four(part),
            Part::Br | Part::Ce => self.six_rd(part),
        };
        Some((part, kind))
    }

    fn six_to_four(&mut self, part: Part) -> Option<DomainKind> {
        let raw = self.raw;
        let role = match (part, &raw.relay) {
            (Part::Relay, _) => SixToFourRole::Relay,
            (_, None) => SixToFourRole::Site {
                relay: SIX_TO_FOUR_ANYCAST,
            },
            (_, given) => SixToFourRole::Site {
                relay: self.address("relay", given, "192.88.99.1")?,
            },
        };
        Some(DomainKind::SixToFour {
            role,
            peer_v4_len: u8::try_from(copied(&raw.peer_v4_length, 0)).unwrap_or(u8::MAX),
            anycast: copied(&raw.anycast, false),
        })
    }

    fn six_rd(&mut self, part: Part) -> Option<DomainKind> {
        let raw = self.raw;
        let prefix = match &raw.prefix {
            Some(text) => prefix(&self.key("prefix"), text, self.findings),
            None => {
                self.error("prefix", None, "missing; e.g. prefix = \"2001:db8::/32\"");
                None
            }
        };
        let common = match &raw.v4_common {
            None => Some(Ipv4Prefix::all()),
            Some(text) => self.prefix4("v4_common", text),
        };
        let role = match part {
            Part::Ce => SixRdRole::Ce {
                br: self.address("br", &raw.br, "10.0.0.1")?,
            },
            _ => SixRdRole::Br {
                anycast: copied(&raw.anycast, false),
            },
        };
        let common = common?;
        Some(DomainKind::SixRd {
            prefix: prefix?,
            v4_common: common.address(),
            v4_mask_len: common.len(),
            role,
        })
    }

    fn prefix4(&mut self, field: &str, text: &Spanned<String>) -> Option<Ipv4Prefix> {
        match text.get_ref().parse() {
            Ok(prefix) => Some(prefix),
            Err(error) => {
                let message = format!("{:?}: {error}; e.g. \"10.0.0.0/8\"", text.get_ref());
                self.error(field, Some(text.span()), message);
                None
            }
        }
    }

    /// Keys of another kind or role say that the file means something else than it does.
    fn misplaced(&mut self, part: Part) {
        let raw = self.raw;
        let given = [
            ("relay", place(&raw.relay), &[Part::Site][..], "a 6to4 site"),
            (
                "peer_v4_length",
                place(&raw.peer_v4_length),
                &[Part::Relay, Part::Site],
                "6to4",
            ),
            ("prefix", place(&raw.prefix), &[Part::Br, Part::Ce], "6rd"),
            (
                "v4_common",
                place(&raw.v4_common),
                &[Part::Br, Part::Ce],
                "6rd",
            ),
            ("br", place(&raw.br), &[Part::Ce], "a 6rd customer edge"),
            (
                "anycast",
                place(&raw.anycast).filter(|_| copied(&raw.anycast, false)),
                &[Part::Relay, Part::Br],
                "a 6to4 relay or 6rd border relay",
            ),
            (
                "allow_v4",
                raw.allow_v4.first().map(Spanned::span),
                &[Part::Relay, Part::Site],
                "6to4; a 6rd domain knows no martians",
            ),
        ];
        for (field, at, parts, whose) in given {
            if at.is_some() && !parts.contains(&part) {
                self.error(field, at, format!("only for {whose}"));
            }
        }
    }

    fn wanted(&mut self, kind: DomainKind, local: Ipv4Addr) -> WantedDomain {
        let raw = self.raw;
        let urpf = [
            ("off", Urpf::Off),
            ("loose", Urpf::Loose),
            ("strict", Urpf::Strict),
        ];
        let modes = [
            ("static", Some(MtuMode::Static)),
            ("managed", Some(MtuMode::Managed)),
        ];
        let urpf = word(
            &self.key("urpf"),
            &raw.urpf,
            &urpf,
            Urpf::Off,
            self.findings,
        );
        let mode_key = self.key("mtu_mode");
        let mtu_mode = word(&mode_key, &raw.mtu_mode, &modes, None, self.findings);
        let six_to_four = matches!(kind, DomainKind::SixToFour { .. });
        WantedDomain {
            kind: Some(kind),
            local,
            input: copied(&raw.input, true),
            urpf,
            // Elsewhere `misplaced` has complained already.
            allow_v4: if six_to_four {
                self.filters("allow_v4", &raw.allow_v4)
            } else {
                Vec::new()
            },
            deny_v4: self.filters("deny_v4", &raw.deny_v4),
            mtu: raw
                .mtu
                .as_ref()
                .map(|mtu| u16::try_from(*mtu.get_ref()).unwrap_or(u16::MAX)),
            mtu_mode,
            ttl: tunnel::ttl(&self.key("ttl"), &raw.ttl, self.findings),
            dscp: tunnel::dscp(&self.key("dscp"), &raw.dscp, self.findings),
            dscp_decap_copy: copied(&raw.dscp_decap_copy, false),
            ecn: tunnel::ecn(&self.key("ecn"), &raw.ecn, self.findings),
            mss_clamp: copied(&raw.mss_clamp, false),
            up: copied(&raw.up, true),
        }
    }

    fn filters(&mut self, field: &str, texts: &[Spanned<String>]) -> Vec<Ipv4Prefix> {
        let mut read = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            read.extend(self.prefix4(&format!("{field}[{i}]"), text));
        }
        read
    }

    fn routes(&mut self, kind: &DomainKind) -> Vec<Ipv6Prefix> {
        let raw = self.raw;
        let first = raw.routes.first().map(Spanned::span);
        if first.is_some() && way_out(kind).is_none() {
            let message = "only for a 6to4 site or a 6rd customer edge: the others have no way out \
                           through the domain";
            self.error("routes", first, message);
            return Vec::new();
        }
        if raw.routes.len() > MAX_ROUTES {
            let message = format!("{} routes; at most {MAX_ROUTES}", raw.routes.len());
            self.error("routes", first, message);
        }
        let mut routes = Vec::new();
        for (i, text) in raw.routes.iter().enumerate() {
            let key = self.key(&format!("routes[{i}]"));
            routes.extend(prefix(&key, text, self.findings));
        }
        routes
    }

    fn place_of(&self, field: &str) -> Option<Range<usize>> {
        let raw = self.raw;
        match field {
            "local" => place(&raw.local),
            "prefix" => place(&raw.prefix),
            "v4_common" => place(&raw.v4_common),
            "relay" => place(&raw.relay),
            "br" => place(&raw.br),
            "peer_v4_length" => place(&raw.peer_v4_length),
            "allow_v4" => raw.allow_v4.first().map(Spanned::span),
            "deny_v4" => raw.deny_v4.first().map(Spanned::span),
            "mtu" => place(&raw.mtu),
            "mtu_mode" => place(&raw.mtu_mode),
            "ttl" => place(&raw.ttl),
            "dscp" => place(&raw.dscp),
            _ => None,
        }
    }
}

/// The file has no nested messages: `six_rd.prefix` is just `prefix` there.
fn file_key(field: &'static str) -> &'static str {
    match field.rsplit('.').next().unwrap_or(field) {
        "v4_mask_length" => "v4_common",
        last => last,
    }
}

fn unique(
    domains: &[(usize, &Spanned<RawDomain>, StaticDomain)],
    tunnels: &[StaticTunnel],
    findings: &mut Findings<'_>,
) {
    let mut ids: HashMap<&str, u32> = HashMap::new();
    let mut locals: HashMap<Ipv4Addr, (&str, u32)> = HashMap::new();
    let mut prefixes: HashMap<Ipv6Prefix, (&str, u32)> = HashMap::new();
    let mut routes: HashMap<Ipv6Prefix, (&str, u32)> = HashMap::new();
    for (index, spanned, domain) in domains {
        let raw = spanned.get_ref();
        let key = |field: &str| format!("domain[{index}].{field}");
        let line = findings.line_of(&spanned.span());
        let me = (domain.id.as_str(), line);
        let at = |key: Option<Range<usize>>| key.or_else(|| Some(spanned.span()));
        if let Some(first) = ids.insert(&domain.id, line) {
            let message = format!("{:?} is already the id of line {first}", domain.id);
            findings.error(&key("id"), at(place(&raw.id)), message);
        } else if tunnels.iter().any(|tunnel| tunnel.id == domain.id) {
            let message = format!("{:?} is already the id of a tunnel", domain.id);
            findings.error(&key("id"), at(place(&raw.id)), message);
        }
        for local in works_at(domain) {
            if let Some((id, first)) = locals.insert(local, me) {
                // RFC 3964 section 6.1: packets of the two could not be told apart.
                let message = format!(
                    "domain {id:?} of line {first} works at {local} already; each automatic \
                     mechanism needs an address of its own (RFC 3964 section 6.1)"
                );
                findings.error(&key("local"), at(place(&raw.local)), message);
            }
        }
        let prefix = domain.spec.prefix();
        if let Some((id, first)) = prefixes.insert(prefix, me) {
            let message = format!("{prefix} is already that of domain {id:?}, line {first}");
            let place = place(&raw.prefix).or_else(|| place(&raw.kind));
            findings.error(&key("prefix"), at(place), message);
        }
        if let Some(tunnel) = tunnels.iter().find(|t| t.spec.prefixes.contains(&prefix)) {
            let message = format!("{prefix} is already that of tunnel {:?}", tunnel.id);
            let place = place(&raw.prefix).or_else(|| place(&raw.kind));
            findings.error(&key("prefix"), at(place), message);
        }
        for (i, route) in domain.routes.iter().enumerate() {
            if let Some((id, first)) = routes.insert(*route, me) {
                let message = format!("{route} is already a route of domain {id:?}, line {first}");
                let place = raw.routes.get(i).map(Spanned::span);
                findings.error(&key(&format!("routes[{i}]")), at(place), message);
            }
        }
    }
}

/// Our IPv4 addresses the domain answers at.
fn works_at(domain: &StaticDomain) -> impl Iterator<Item = Ipv4Addr> {
    let anycast = matches!(
        domain.spec.kind,
        DomainKind::SixToFour { anycast: true, .. }
    );
    let second =
        (anycast && domain.spec.local != SIX_TO_FOUR_ANYCAST).then_some(SIX_TO_FOUR_ANYCAST);
    [Some(domain.spec.local), second].into_iter().flatten()
}
