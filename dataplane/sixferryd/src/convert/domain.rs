//! Domains from and to messages.

use std::net::Ipv4Addr;

use sixferry_fwd::{DomainKind, DomainSpec, Ipv4Prefix, SixRdRole, SixToFourRole, Urpf};
use sixferry_proto::dataplane::v1 as pb;
use sixferry_proto::dataplane::v1::embedded_domain::Mechanism;

use super::counter::tunnel_counters;
use super::mask::masked;
use super::{
    Outer, OuterFields, OuterShown, ip4_from, prefix4_from, prefix4_message, prefix6_from,
    prefix6_message, write_mode,
};
use crate::control::domain_spec::{DomainMask, DomainPatch, SIX_TO_FOUR_ANYCAST, WantedDomain};
use crate::control::domains::{DomainOp, DomainView};
use crate::control::error::Error;
use crate::control::spec::Violation;

/// One entry of ProgramDomains.
pub(crate) fn domain_op(update: pb::DomainUpdate) -> DomainOp {
    use pb::domain_update::Update;
    match update.update {
        None => DomainOp::Bad(Error::field("", "neither upsert nor delete")),
        Some(Update::Delete(delete)) => DomainOp::Delete {
            id: delete.id,
            must_exist: delete.must_exist,
        },
        Some(Update::Upsert(upsert)) => {
            domain_upsert(upsert).unwrap_or_else(|error| DomainOp::Bad(error.below("upsert.")))
        }
    }
}

fn domain_upsert(upsert: pb::DomainUpsert) -> Result<DomainOp, Error> {
    let mode = write_mode(upsert.mode)?;
    let mask = match &upsert.update_mask {
        None => DomainMask::ALL,
        Some(mask) => DomainMask::from_names(mask.paths.iter().map(String::as_str))
            .map_err(|name| Error::field("update_mask", format!("no field {name:?} to set")))?,
    };
    let domain = upsert
        .domain
        .ok_or_else(|| Error::field("domain", "missing"))?;
    let (wanted, unreadable) = wanted(&domain);
    let patch = Box::new(DomainPatch {
        wanted,
        unreadable,
        mask,
    });
    Ok(DomainOp::Upsert {
        id: domain.id,
        patch,
        mode,
    })
}

fn wanted(domain: &pb::EmbeddedDomain) -> (WantedDomain, Vec<Violation>) {
    let mut bad = Vec::new();
    let kind = match &domain.mechanism {
        None => None,
        Some(Mechanism::SixToFour(six_to_four)) => six_to_four_kind(six_to_four, &mut bad),
        Some(Mechanism::SixRd(six_rd)) => six_rd_kind(six_rd, &mut bad),
    };
    let local = address("local", &domain.local, &mut bad);
    let urpf = match pb::UrpfMode::try_from(domain.urpf) {
        Ok(pb::UrpfMode::Unspecified | pb::UrpfMode::Off) => Urpf::Off,
        Ok(pb::UrpfMode::Loose) => Urpf::Loose,
        Ok(pb::UrpfMode::Strict) => Urpf::Strict,
        Err(_) => {
            bad.push(Violation::new("urpf", "unknown to this version"));
            Urpf::Off
        }
    };
    let outer = Outer::read(&OuterFields::from(domain), &mut bad);
    let wanted = WantedDomain {
        kind,
        local,
        input: domain.input.unwrap_or(true),
        urpf,
        allow_v4: filters("allow_v4", &domain.allow_v4, &mut bad),
        deny_v4: filters("deny_v4", &domain.deny_v4, &mut bad),
        mtu: outer.mtu,
        mtu_mode: outer.mtu_mode,
        ttl: outer.ttl,
        dscp: outer.dscp,
        dscp_decap_copy: domain.dscp_decap_copy,
        ecn: outer.ecn,
        mss_clamp: domain.mss_clamp,
        up: domain.admin_up.unwrap_or(true),
    };
    (wanted, bad)
}

fn address(field: &'static str, bytes: &[u8], bad: &mut Vec<Violation>) -> Ipv4Addr {
    ip4_from(bytes).unwrap_or_else(|text| {
        bad.push(Violation::new(field, text));
        Ipv4Addr::UNSPECIFIED
    })
}

fn filters(
    field: &'static str,
    prefixes: &[pb::IpPrefix],
    bad: &mut Vec<Violation>,
) -> Vec<Ipv4Prefix> {
    let mut read = Vec::new();
    for (i, prefix) in prefixes.iter().enumerate() {
        match prefix4_from(prefix) {
            Ok(prefix) => read.push(prefix),
            Err(text) => bad.push(Violation::new(field, format!("[{i}]: {text}"))),
        }
    }
    read
}

fn six_to_four_kind(domain: &pb::SixToFour, bad: &mut Vec<Violation>) -> Option<DomainKind> {
    let role = match pb::SixToFourRole::try_from(domain.role) {
        Ok(pb::SixToFourRole::Relay) => {
            if !domain.relay.is_empty() {
                let text = "only with role SITE: a relay sends native packets itself";
                bad.push(Violation::new("six_to_four.relay", text));
            }
            SixToFourRole::Relay
        }
        Ok(pb::SixToFourRole::Site) => {
            if domain.anycast {
                let text = "only with role RELAY (RFC 3068)";
                bad.push(Violation::new("six_to_four.anycast", text));
            }
            let relay = match domain.relay.as_slice() {
                [] => SIX_TO_FOUR_ANYCAST,
                given => address("six_to_four.relay", given, bad),
            };
            SixToFourRole::Site { relay }
        }
        Ok(pb::SixToFourRole::Unspecified) | Err(_) => {
            bad.push(Violation::new("six_to_four.role", "give RELAY or SITE"));
            return None;
        }
    };
    Some(DomainKind::SixToFour {
        role,
        peer_v4_len: u8::try_from(domain.peer_v4_length).unwrap_or(u8::MAX),
        anycast: domain.anycast,
    })
}

fn six_rd_kind(domain: &pb::SixRd, bad: &mut Vec<Violation>) -> Option<DomainKind> {
    let prefix = domain.prefix.as_ref().ok_or_else(|| "missing".to_owned());
    let prefix = prefix.and_then(prefix6_from).map_err(|text| {
        bad.push(Violation::new("six_rd.prefix", text));
    });
    let v4_common = match domain.v4_common.as_slice() {
        [] if domain.v4_mask_length == 0 => Ipv4Addr::UNSPECIFIED,
        given => address("six_rd.v4_common", given, bad),
    };
    let role = match pb::SixRdRole::try_from(domain.role) {
        Ok(pb::SixRdRole::Br) => {
            if !domain.br.is_empty() {
                let text = "only with role CE: a border relay's own address is local";
                bad.push(Violation::new("six_rd.br", text));
            }
            SixRdRole::Br {
                anycast: domain.anycast,
            }
        }
        Ok(pb::SixRdRole::Ce) => {
            if domain.anycast {
                bad.push(Violation::new("six_rd.anycast", "only with role BR"));
            }
            SixRdRole::Ce {
                br: address("six_rd.br", &domain.br, bad),
            }
        }
        Ok(pb::SixRdRole::Unspecified) | Err(_) => {
            bad.push(Violation::new("six_rd.role", "give BR or CE"));
            return None;
        }
    };
    Some(DomainKind::SixRd {
        prefix: prefix.ok()?,
        v4_common,
        v4_mask_len: u8::try_from(domain.v4_mask_length).unwrap_or(u8::MAX),
        role,
    })
}

impl<'a> From<&'a pb::EmbeddedDomain> for OuterFields<'a> {
    fn from(domain: &'a pb::EmbeddedDomain) -> Self {
        Self {
            mtu: domain.mtu,
            mtu_mode: domain.mtu_mode,
            ttl: domain.ttl.as_ref(),
            ttl_inherit: domain.ttl_inherit,
            dscp: domain.dscp.as_ref(),
            dscp_copy: domain.dscp_copy,
            ecn: domain.ecn,
        }
    }
}

/// A domain as a message.
pub(crate) fn domain_message(view: &DomainView) -> pb::EmbeddedDomain {
    let spec = &view.spec;
    let outer = OuterShown::of(spec.mtu_mode, spec.ttl, spec.dscp, spec.ecn);
    let urpf = match spec.urpf {
        Urpf::Off => pb::UrpfMode::Off,
        Urpf::Loose => pb::UrpfMode::Loose,
        Urpf::Strict => pb::UrpfMode::Strict,
    };
    pb::EmbeddedDomain {
        id: view.id.clone(),
        owner: view.owner.to_string(),
        mechanism: Some(mechanism(spec)),
        local: spec.local.octets().to_vec(),
        input: Some(spec.input),
        urpf: urpf.into(),
        allow_v4: spec.allow_v4.iter().map(|p| prefix4_message(*p)).collect(),
        deny_v4: spec.deny_v4.iter().map(|p| prefix4_message(*p)).collect(),
        mtu: spec.mtu.into(),
        mtu_mode: outer.mtu_mode.into(),
        ttl: outer.ttl,
        ttl_inherit: outer.ttl_inherit,
        dscp: outer.dscp,
        dscp_copy: Some(outer.dscp_copy),
        dscp_decap_copy: spec.dscp_decap_copy,
        ecn: outer.ecn.into(),
        admin_up: Some(spec.up),
        mss_clamp: spec.mss_clamp,
        counters: view.totals.as_ref().map(tunnel_counters),
        generation: view.generation.into(),
        stale: view.stale,
        revision: view.revision,
        domain_prefix: Some(prefix6_message(spec.prefix())),
        delegated_prefix: spec.delegated(spec.local).map(prefix6_message),
    }
}

fn mechanism(spec: &DomainSpec) -> Mechanism {
    match spec.kind {
        DomainKind::SixToFour {
            role,
            peer_v4_len,
            anycast,
        } => {
            let (role, relay) = match role {
                SixToFourRole::Relay => (pb::SixToFourRole::Relay, Vec::new()),
                SixToFourRole::Site { relay } => (pb::SixToFourRole::Site, relay.octets().to_vec()),
            };
            Mechanism::SixToFour(pb::SixToFour {
                role: role.into(),
                relay,
                peer_v4_length: peer_v4_len.into(),
                anycast,
            })
        }
        DomainKind::SixRd {
            prefix,
            v4_common,
            v4_mask_len,
            role,
        } => {
            let (role, br, anycast) = match role {
                SixRdRole::Br { anycast } => (pb::SixRdRole::Br, Vec::new(), anycast),
                SixRdRole::Ce { br } => (pb::SixRdRole::Ce, br.octets().to_vec(), false),
            };
            Mechanism::SixRd(pb::SixRd {
                prefix: Some(prefix6_message(prefix)),
                v4_common: if v4_mask_len == 0 {
                    Vec::new()
                } else {
                    v4_common.octets().to_vec()
                },
                v4_mask_length: v4_mask_len.into(),
                role: role.into(),
                br,
                anycast,
            })
        }
    }
}

masked!(
    pb::EmbeddedDomain,
    id,
    owner,
    local,
    input,
    urpf,
    allow_v4,
    deny_v4,
    mtu,
    mtu_mode,
    ttl,
    ttl_inherit,
    dscp,
    dscp_copy,
    dscp_decap_copy,
    ecn,
    admin_up,
    mss_clamp,
    counters,
    generation,
    stale,
    revision,
    domain_prefix,
    delegated_prefix;
    mechanism: "six_to_four", "six_rd"
);
