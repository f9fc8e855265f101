//! Tunnels from and to messages.

use std::net::Ipv4Addr;

use sixferry_fwd::{Dscp, Ecn, EncapKind, MtuMode, Ttl, TunnelLink, TunnelSpec};
use sixferry_proto::dataplane::v1 as pb;

use super::counter::tunnel_counters;
use super::mask::masked;
use super::{ip4_from, ip6_from, prefix6_from, prefix6_message, write_mode};
use crate::control::error::Error;
use crate::control::patch::{Mask, TunnelPatch};
use crate::control::read::TunnelView;
use crate::control::spec::{Violation, default_link_local};
use crate::control::tunnels::TunnelOp;

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
    let (spec, unreadable) = tunnel_spec(&tunnel);
    let patch = Box::new(TunnelPatch {
        spec,
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
fn tunnel_spec(tunnel: &pb::Tunnel) -> (TunnelSpec, Vec<Violation>) {
    let mut bad = Vec::new();
    let mut spec = TunnelSpec::new(Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
    match ip4_from(&tunnel.local) {
        Ok(local) => spec.local = local,
        Err(text) => bad.push(Violation::new("local", text)),
    }
    match ip4_from(&tunnel.remote) {
        Ok(remote) => spec.remote = remote,
        Err(text) => bad.push(Violation::new("remote", text)),
    }
    for (i, prefix) in tunnel.prefixes.iter().enumerate() {
        match prefix6_from(prefix) {
            Ok(prefix) => spec.prefixes.push(prefix),
            Err(text) => bad.push(Violation::new("prefixes", format!("[{i}]: {text}"))),
        }
    }
    if pb::Encapsulation::try_from(tunnel.encapsulation).is_err() {
        bad.push(Violation::new("encapsulation", "unknown to this version"));
    }
    spec.encap = EncapKind::SixInFour;
    addresses(tunnel, &mut spec, &mut bad);
    header(tunnel, &mut spec, &mut bad);
    spec.strict_source = tunnel.strict_source.unwrap_or(true);
    spec.up = tunnel.admin_up.unwrap_or(true);
    (spec, bad)
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

fn header(tunnel: &pb::Tunnel, spec: &mut TunnelSpec, bad: &mut Vec<Violation>) {
    if tunnel.mtu != 0 {
        // Beyond u16 is out of range anyway: the check of the whole says so.
        spec.mtu = u16::try_from(tunnel.mtu).unwrap_or(u16::MAX);
    }
    match pb::MtuMode::try_from(tunnel.mtu_mode) {
        Ok(pb::MtuMode::Unspecified | pb::MtuMode::Static) => spec.mtu_mode = MtuMode::Static,
        Ok(pb::MtuMode::Managed) => spec.mtu_mode = MtuMode::Managed,
        Ok(pb::MtuMode::Dynamic) | Err(_) => {
            bad.push(Violation::new("mtu_mode", "unknown to this version"));
        }
    }
    match (tunnel.ttl, tunnel.ttl_inherit) {
        (Some(_), true) => bad.push(Violation::new("ttl", "not together with ttl_inherit")),
        (None, true) => spec.ttl = Ttl::Inherit,
        (None, false) => {}
        (Some(ttl), false) => match u8::try_from(ttl) {
            Ok(ttl) if ttl > 0 => spec.ttl = Ttl::Fixed(ttl),
            _ => bad.push(Violation::new("ttl", format!("{ttl} is outside 1..255"))),
        },
    }
    match (tunnel.dscp, tunnel.dscp_copy) {
        (Some(_), true) => bad.push(Violation::new("dscp", "not together with dscp_copy")),
        (None, true) => spec.dscp = Dscp::Copy,
        (None, false) => {}
        (Some(dscp), false) => match u8::try_from(dscp) {
            Ok(dscp) if dscp <= 63 => spec.dscp = Dscp::Fixed(dscp),
            _ => bad.push(Violation::new("dscp", format!("{dscp} is outside 0..63"))),
        },
    }
    spec.dscp_decap_copy = tunnel.dscp_decap_copy;
    match pb::EcnMode::try_from(tunnel.ecn) {
        Ok(pb::EcnMode::Unspecified | pb::EcnMode::Normal) => spec.ecn = Ecn::Normal,
        Ok(pb::EcnMode::Compat) => spec.ecn = Ecn::Compat,
        Err(_) => bad.push(Violation::new("ecn", "unknown to this version")),
    }
}

/// A tunnel as a message.
pub(crate) fn tunnel_message(view: &TunnelView) -> pb::Tunnel {
    let spec = &view.spec;
    let (ttl, ttl_inherit) = match spec.ttl {
        Ttl::Fixed(ttl) => (Some(ttl.into()), false),
        Ttl::Inherit => (None, true),
    };
    let (dscp, dscp_copy) = match spec.dscp {
        Dscp::Fixed(dscp) => (Some(dscp.into()), false),
        Dscp::Copy => (None, true),
    };
    let mtu_mode = match spec.mtu_mode {
        MtuMode::Static => pb::MtuMode::Static,
        MtuMode::Managed => pb::MtuMode::Managed,
        MtuMode::Dynamic => pb::MtuMode::Dynamic,
    };
    let ecn = match spec.ecn {
        Ecn::Normal => pb::EcnMode::Normal,
        Ecn::Compat => pb::EcnMode::Compat,
    };
    let encapsulation = match spec.encap {
        EncapKind::SixInFour => pb::Encapsulation::SixInFour,
        EncapKind::Udp(_) => pb::Encapsulation::Udp,
    };
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
        mtu_mode: mtu_mode.into(),
        ttl,
        ttl_inherit,
        dscp,
        dscp_copy,
        dscp_decap_copy: spec.dscp_decap_copy,
        ecn: ecn.into(),
        strict_source: Some(spec.strict_source),
        admin_up: Some(spec.up),
        counters: view.totals.as_ref().map(tunnel_counters),
        generation: view.generation.into(),
        stale: view.stale,
        revision: view.revision,
        ..pb::Tunnel::default()
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
