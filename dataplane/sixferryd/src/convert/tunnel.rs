//! Tunnels from and to messages.

use std::net::Ipv4Addr;

use sixferry_fwd::{EncapKind, MtuMode, Rebind, TunnelLink, TunnelSpec, UdpEncap};
use sixferry_proto::dataplane::v1 as pb;

use super::counter::tunnel_counters;
use super::mask::masked;
use super::{
    Outer, OuterFields, OuterShown, ip4_from, ip6_from, prefix6_from, prefix6_message, write_mode,
};
use crate::control::error::Error;
use crate::control::liveness::LivenessMode;
use crate::control::patch::{Mask, TunnelPatch, Wanted};
use crate::control::read::TunnelView;
use crate::control::spec::{Violation, default_link_local};
use crate::control::tunnels::TunnelOp;
use crate::live::Life;

/// One entry of ProgramTunnels.
pub(crate) fn tunnel_op(update: pb::TunnelUpdate) -> TunnelOp {
    use pb::tunnel_update::Update;
    match update.update {
        None => TunnelOp::Bad(Error::field("", "neither upsert nor delete")),
        Some(Update::Delete(delete)) => TunnelOp::Delete {
            id: delete.id,
            must_exist: delete.must_exist,
        },
        Some(Update::Upsert(upsert)) => {
            tunnel_upsert(upsert).unwrap_or_else(|error| TunnelOp::Bad(error.below("upsert.")))
        }
    }
}

fn tunnel_upsert(upsert: pb::TunnelUpsert) -> Result<TunnelOp, Error> {
    let mode = write_mode(upsert.mode)?;
    let mask = match &upsert.update_mask {
        None => Mask::ALL,
        Some(mask) => Mask::from_names(mask.paths.iter().map(String::as_str))
            .map_err(|name| Error::field("update_mask", format!("no field {name:?} to set")))?,
    };
    let tunnel = upsert
        .tunnel
        .ok_or_else(|| Error::field("tunnel", "missing"))?;
    let (wanted, unreadable) = wanted(&tunnel);
    let patch = Box::new(TunnelPatch {
        wanted,
        unreadable,
        mask,
    });
    Ok(TunnelOp::Upsert {
        id: tunnel.id,
        patch,
        mode,
    })
}

/// The tunnel of a message with defaults where nothing is given, and what cannot be read.
fn wanted(tunnel: &pb::Tunnel) -> (Wanted, Vec<Violation>) {
    let mut bad = Vec::new();
    let mut spec = TunnelSpec::new(Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
    match ip4_from(&tunnel.local) {
        Ok(local) => spec.local = local,
        Err(text) => bad.push(Violation::new("local", text)),
    }
    if !tunnel.remote.is_empty() {
        match ip4_from(&tunnel.remote) {
            Ok(remote) => spec.remote = remote,
            Err(text) => bad.push(Violation::new("remote", text)),
        }
    }
    for (i, prefix) in tunnel.prefixes.iter().enumerate() {
        match prefix6_from(prefix) {
            Ok(prefix) => spec.prefixes.push(prefix),
            Err(text) => bad.push(Violation::new("prefixes", format!("[{i}]: {text}"))),
        }
    }
    let is_udp = match pb::Encapsulation::try_from(tunnel.encapsulation) {
        Ok(pb::Encapsulation::Unspecified | pb::Encapsulation::SixInFour) => false,
        Ok(pb::Encapsulation::Udp) => true,
        Err(_) => {
            bad.push(Violation::new("encapsulation", "unknown to this version"));
            false
        }
    };
    addresses(tunnel, &mut spec, &mut bad);
    let outer = Outer::read(&OuterFields::from(tunnel), &mut bad);
    spec.mtu_mode = outer.mtu_mode.unwrap_or(MtuMode::Static);
    spec.ttl = outer.ttl;
    spec.dscp = outer.dscp.unwrap_or_default();
    spec.dscp_decap_copy = tunnel.dscp_decap_copy;
    spec.ecn = outer.ecn;
    spec.path_mtu = match short("path_mtu", tunnel.path_mtu, &mut bad) {
        0 => None,
        given => Some(given),
    };
    spec.min_path_mtu = match short("min_path_mtu", tunnel.min_path_mtu, &mut bad) {
        0 => TunnelSpec::MIN_PATH_MTU,
        given => given,
    };
    spec.mss_clamp = tunnel.mss_clamp;
    spec.strict_source = tunnel.strict_source.unwrap_or(true);
    spec.up = tunnel.admin_up.unwrap_or(true);
    let wanted = Wanted {
        spec,
        is_udp,
        udp: udp(tunnel, &mut bad),
        mtu: outer.mtu,
        liveness: liveness(tunnel, &mut bad),
        liveness_interval: short(
            "liveness_interval_seconds",
            tunnel.liveness_interval_seconds,
            &mut bad,
        ),
    };
    (wanted, bad)
}

/// A number of 16 bits.
fn short(field: &'static str, value: u32, bad: &mut Vec<Violation>) -> u16 {
    u16::try_from(value).unwrap_or_else(|_| {
        bad.push(Violation::new(
            field,
            format!("{value} is outside 0..65535"),
        ));
        0
    })
}

fn udp(tunnel: &pb::Tunnel, bad: &mut Vec<Violation>) -> UdpEncap {
    let rebind = match pb::RebindPolicy::try_from(tunnel.rebind) {
        Ok(pb::RebindPolicy::Unspecified | pb::RebindPolicy::Control) => Rebind::Control,
        Ok(pb::RebindPolicy::Deny) => Rebind::Deny,
        Ok(pb::RebindPolicy::InnerSource) => Rebind::InnerSource,
        Ok(pb::RebindPolicy::InnerSourcePort) => Rebind::InnerSourcePort,
        Err(_) => {
            bad.push(Violation::new("rebind", "unknown to this version"));
            Rebind::Control
        }
    };
    UdpEncap {
        local_port: short("local_port", tunnel.local_port, bad),
        remote_port: short("remote_port", tunnel.remote_port, bad),
        shared: tunnel.shared_port,
        rebind,
    }
}

fn liveness(tunnel: &pb::Tunnel, bad: &mut Vec<Violation>) -> LivenessMode {
    match pb::LivenessMode::try_from(tunnel.liveness) {
        Ok(pb::LivenessMode::Unspecified | pb::LivenessMode::Off) => LivenessMode::Off,
        Ok(pb::LivenessMode::Passive) => LivenessMode::Passive,
        Ok(pb::LivenessMode::Nud) => LivenessMode::Nud,
        Ok(pb::LivenessMode::Echo) => LivenessMode::Echo,
        Err(_) => {
            bad.push(Violation::new("liveness", "unknown to this version"));
            LivenessMode::Off
        }
    }
}

impl<'a> From<&'a pb::Tunnel> for OuterFields<'a> {
    fn from(tunnel: &'a pb::Tunnel) -> Self {
        Self {
            mtu: tunnel.mtu,
            mtu_mode: tunnel.mtu_mode,
            ttl: tunnel.ttl.as_ref(),
            ttl_inherit: tunnel.ttl_inherit,
            dscp: tunnel.dscp.as_ref(),
            dscp_copy: tunnel.dscp_copy.then_some(true),
            ecn: tunnel.ecn,
        }
    }
}

fn addresses(tunnel: &pb::Tunnel, spec: &mut TunnelSpec, bad: &mut Vec<Violation>) {
    let given = (&tunnel.link_prefix, tunnel.link_address.is_empty());
    match given {
        (None, true) => {}
        (None, false) => {
            bad.push(Violation::new(
                "link_prefix",
                "missing: link_address is given",
            ));
        }
        (Some(_), true) => {
            bad.push(Violation::new(
                "link_address",
                "missing: link_prefix is given",
            ));
        }
        (Some(prefix), false) => match (prefix6_from(prefix), ip6_from(&tunnel.link_address)) {
            (Ok(prefix), Ok(address)) => spec.link = Some(TunnelLink { prefix, address }),
            (Err(text), _) => bad.push(Violation::new("link_prefix", text)),
            (_, Err(text)) => bad.push(Violation::new("link_address", text)),
        },
    }
    if !tunnel.link_local_address.is_empty() {
        match ip6_from(&tunnel.link_local_address) {
            Ok(address) => spec.link_local = Some(address),
            Err(text) => bad.push(Violation::new("link_local_address", text)),
        }
    }
}

/// A tunnel as a message; `life` is what is known of its peer, if it is watched.
pub(crate) fn tunnel_message(view: &TunnelView, life: Option<Life>) -> pb::Tunnel {
    let spec = &view.spec;
    let outer = OuterShown::of(spec.mtu_mode, spec.ttl, spec.dscp, spec.ecn);
    let udp = match spec.encap {
        EncapKind::SixInFour => None,
        EncapKind::Udp(udp) => Some(udp),
    };
    let encapsulation = match udp {
        None => pb::Encapsulation::SixInFour,
        Some(_) => pb::Encapsulation::Udp,
    };
    let rebind = udp.map_or(pb::RebindPolicy::Unspecified, |udp| match udp.rebind {
        Rebind::Deny => pb::RebindPolicy::Deny,
        Rebind::Control => pb::RebindPolicy::Control,
        Rebind::InnerSource => pb::RebindPolicy::InnerSource,
        Rebind::InnerSourcePort => pb::RebindPolicy::InnerSourcePort,
    });
    let liveness = match view.liveness.mode() {
        LivenessMode::Off => pb::LivenessMode::Off,
        LivenessMode::Passive => pb::LivenessMode::Passive,
        LivenessMode::Nud => pb::LivenessMode::Nud,
        LivenessMode::Echo => pb::LivenessMode::Echo,
    };
    let dynamic = spec.mtu_mode == MtuMode::Dynamic;
    let link_local = spec
        .link_local
        .unwrap_or_else(|| default_link_local(spec.local));
    pb::Tunnel {
        id: view.id.clone(),
        owner: view.owner.to_string(),
        encapsulation: encapsulation.into(),
        local: spec.local.octets().to_vec(),
        remote: spec.remote.octets().to_vec(),
        prefixes: spec.prefixes.iter().map(|p| prefix6_message(*p)).collect(),
        link_prefix: spec.link.as_ref().map(|link| prefix6_message(link.prefix)),
        link_address: spec
            .link
            .as_ref()
            .map_or_else(Vec::new, |l| l.address.octets().to_vec()),
        link_local_address: link_local.octets().to_vec(),
        mtu: spec.mtu.into(),
        mtu_mode: outer.mtu_mode.into(),
        ttl: outer.ttl,
        ttl_inherit: outer.ttl_inherit,
        dscp: outer.dscp,
        dscp_copy: outer.dscp_copy,
        dscp_decap_copy: spec.dscp_decap_copy,
        ecn: outer.ecn.into(),
        strict_source: Some(spec.strict_source),
        admin_up: Some(spec.up),
        local_port: udp.map_or(0, |udp| udp.local_port.into()),
        remote_port: udp.map_or(0, |udp| udp.remote_port.into()),
        shared_port: udp.is_some_and(|udp| udp.shared),
        rebind: rebind.into(),
        path_mtu: spec.path_mtu.unwrap_or(0).into(),
        min_path_mtu: if dynamic { spec.min_path_mtu.into() } else { 0 },
        mss_clamp: spec.mss_clamp,
        liveness: liveness.into(),
        liveness_interval_seconds: view.liveness.interval_seconds().into(),
        counters: view.totals.as_ref().map(tunnel_counters),
        generation: view.generation.into(),
        stale: view.stale,
        revision: view.revision,
        endpoint: view.endpoint.map(endpoint_message),
        learnt_path_mtu: view.path_mtu.unwrap_or(0).into(),
        current_mtu: current_mtu(spec, view.path_mtu).into(),
        state: state(view, life).into(),
        last_seen: life
            .and_then(|life| life.last_seen)
            .and_then(|ago| prost_types::Duration::try_from(ago).ok()),
        outer_errors: view.outer_errors.unwrap_or(0),
    }
}

/// Largest inner packet sent into a tunnel whose path MTU is this (RFC 4213 section 3.2.2).
pub(crate) fn current_mtu(spec: &TunnelSpec, path_mtu: Option<u16>) -> u16 {
    let overhead = match spec.encap {
        EncapKind::SixInFour => 20,
        EncapKind::Udp(_) => 28,
    };
    match path_mtu.filter(|_| spec.mtu_mode == MtuMode::Dynamic) {
        Some(path) => spec.mtu.min(path.saturating_sub(overhead).max(1280)),
        None => spec.mtu,
    }
}

fn state(view: &TunnelView, life: Option<Life>) -> pb::TunnelState {
    if !view.spec.up {
        return pb::TunnelState::Down;
    }
    if view.endpoint.is_none() {
        return pb::TunnelState::Unknown;
    }
    match (view.liveness.mode(), life) {
        (LivenessMode::Off, _) => pb::TunnelState::Up,
        (_, None) => pb::TunnelState::Unknown,
        (_, Some(life)) => life_state(life.state),
    }
}

/// What a watch says of a peer.
pub(crate) fn life_state(state: crate::live::LifeState) -> pb::TunnelState {
    use crate::live::LifeState;
    match state {
        LifeState::Unknown => pb::TunnelState::Unknown,
        LifeState::Up => pb::TunnelState::Up,
        LifeState::Unreachable => pb::TunnelState::Unreachable,
    }
}

/// An address and port as a message.
pub(crate) fn endpoint_message((address, port): (Ipv4Addr, u16)) -> pb::Endpoint {
    pb::Endpoint {
        address: address.octets().to_vec(),
        port: port.into(),
    }
}

masked!(
    pb::Tunnel,
    id,
    owner,
    encapsulation,
    local,
    remote,
    prefixes,
    link_prefix,
    link_address,
    link_local_address,
    mtu,
    mtu_mode,
    ttl,
    ttl_inherit,
    dscp,
    dscp_copy,
    dscp_decap_copy,
    ecn,
    strict_source,
    admin_up,
    local_port,
    remote_port,
    shared_port,
    rebind,
    path_mtu,
    min_path_mtu,
    mss_clamp,
    liveness,
    liveness_interval_seconds,
    counters,
    generation,
    stale,
    revision,
    endpoint,
    learnt_path_mtu,
    current_mtu,
    state,
    last_seen,
    outer_errors
);
