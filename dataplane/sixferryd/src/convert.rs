//! Between the API's messages and the dataplane's types. No state, no decisions but "is this a
//! value of that type".

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sixferry_fwd::{
    CounterSnapshot, DropReason, Dscp, Ecn, EncapKind, Ipv6Prefix, MtuMode, NextHopState,
    PuntReason, Route, Ttl, TunnelLink, TunnelSpec, TunnelTotals,
};
use sixferry_proto::dataplane::v1 as pb;

use crate::control::error::Error;
use crate::control::patch::{Mask, TunnelPatch};
use crate::control::read::TunnelView;
use crate::control::route_read::RouteEntry;
use crate::control::routes::{Origin, RouteOp, WantedAction};
use crate::control::spec::{Violation, default_link_local};
use crate::control::tunnels::TunnelOp;
use crate::control::{Atomicity, Control, Counts, WriteMode};
use crate::netlink::Prefix;

// --- addresses and prefixes ---

/// An address of either family.
pub(crate) fn ip_from(bytes: &[u8]) -> Result<IpAddr, String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(v4).into());
    }
    if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        return Ok(Ipv6Addr::from(v6).into());
    }
    Err(format!("{} bytes; an address has 4 or 16", bytes.len()))
}

/// An IPv4 address.
pub(crate) fn ip4_from(bytes: &[u8]) -> Result<Ipv4Addr, String> {
    let bytes: [u8; 4] = bytes.try_into().map_err(|_| wrong_len(bytes, "IPv4", 4))?;
    Ok(bytes.into())
}

/// An IPv6 address.
pub(crate) fn ip6_from(bytes: &[u8]) -> Result<Ipv6Addr, String> {
    let bytes: [u8; 16] = bytes.try_into().map_err(|_| wrong_len(bytes, "IPv6", 16))?;
    Ok(bytes.into())
}

fn wrong_len(bytes: &[u8], family: &str, len: usize) -> String {
    match bytes.len() {
        0 => format!("missing; an {family} address of {len} bytes"),
        given => format!("{given} bytes; an {family} address has {len}"),
    }
}

/// An address as bytes.
pub(crate) fn ip_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// An IPv6 prefix.
pub(crate) fn prefix6_from(prefix: &pb::IpPrefix) -> Result<Ipv6Prefix, String> {
    let address = ip6_from(&prefix.address)?;
    let len = u8::try_from(prefix.length).ok().filter(|len| *len <= 128);
    let len = len.ok_or_else(|| format!("length {} is beyond 128", prefix.length))?;
    Ipv6Prefix::new(address, len).ok_or_else(|| {
        let meant = Ipv6Prefix::containing(address, len);
        format!("{address}/{len} has bits set after the prefix; did you mean {meant}?")
    })
}

/// A prefix of either family.
pub(crate) fn prefix_from(prefix: &pb::IpPrefix) -> Result<Prefix, String> {
    let address = ip_from(&prefix.address)?;
    let found = u8::try_from(prefix.length)
        .ok()
        .and_then(|len| Prefix::of(address, len));
    let found = found.ok_or_else(|| format!("length {} is beyond the address", prefix.length))?;
    if found.addr() != address {
        let (meant, len) = (found.addr(), found.len());
        return Err(format!(
            "{address}/{len} has bits set after the prefix; did you mean {meant}/{len}?"
        ));
    }
    Ok(found)
}

/// An IPv6 prefix as a message.
pub(crate) fn prefix6_message(prefix: Ipv6Prefix) -> pb::IpPrefix {
    let address = prefix.address().octets().to_vec();
    pb::IpPrefix {
        address,
        length: prefix.len().into(),
    }
}

/// A prefix as a message.
pub(crate) fn prefix_message(prefix: Prefix) -> pb::IpPrefix {
    pb::IpPrefix {
        address: ip_bytes(prefix.addr()),
        length: prefix.len().into(),
    }
}

// --- requests ---

pub(crate) fn atomicity(value: i32) -> Result<Atomicity, Error> {
    match pb::Atomicity::try_from(value) {
        Ok(pb::Atomicity::Unspecified | pb::Atomicity::ContinueOnError) => {
            Ok(Atomicity::EachForItself)
        }
        Ok(pb::Atomicity::RollbackOnError | pb::Atomicity::DataplaneAtomic) => {
            Ok(Atomicity::AllOrNothing)
        }
        Err(_) => Err(Error::field(
            "atomicity",
            format!("{value} is no Atomicity"),
        )),
    }
}

fn write_mode(value: i32) -> Result<WriteMode, Error> {
    match pb::WriteMode::try_from(value) {
        Ok(pb::WriteMode::Unspecified | pb::WriteMode::Upsert) => Ok(WriteMode::Upsert),
        Ok(pb::WriteMode::Create) => Ok(WriteMode::Create),
        Ok(pb::WriteMode::Update) => Ok(WriteMode::Update),
        Err(_) => Err(Error::field("mode", format!("{value} is no WriteMode"))),
    }
}

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
        Err(_) => bad.push(Violation::new("mtu_mode", "unknown to this version")),
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

/// One entry of ProgramRoutes.
pub(crate) fn route_op(update: pb::RouteUpdate) -> RouteOp {
    use pb::route_update::Update;
    let destination = |prefix: Option<&pb::IpPrefix>, path: &str| {
        prefix
            .ok_or_else(|| "missing".to_owned())
            .and_then(prefix_from)
            .map_err(|text| Error::field(path, text))
    };
    let op = match update.update {
        None => Err(Error::field("", "neither upsert nor delete")),
        Some(Update::Delete(delete)) => {
            destination(delete.destination.as_ref(), "delete.destination").map(|prefix| {
                RouteOp::Delete {
                    prefix,
                    must_exist: delete.must_exist,
                }
            })
        }
        Some(Update::Upsert(upsert)) => {
            let route = upsert.route.unwrap_or_default();
            let mode = write_mode(upsert.mode).map_err(|e| e.below("upsert."));
            mode.and_then(|mode| {
                let path = "upsert.route.destination";
                let prefix = destination(route.destination.as_ref(), path)?;
                let action = wanted_action(&route, prefix).map_err(|e| e.below("upsert.route."))?;
                Ok(RouteOp::Upsert {
                    prefix,
                    action,
                    mode,
                })
            })
        }
    };
    op.unwrap_or_else(RouteOp::Bad)
}

fn wanted_action(route: &pb::Route, prefix: Prefix) -> Result<WantedAction, Error> {
    match pb::RouteAction::try_from(route.action) {
        Ok(pb::RouteAction::Unspecified | pb::RouteAction::Forward) => {}
        Ok(pb::RouteAction::Blackhole) => return Ok(WantedAction::Blackhole),
        Ok(pb::RouteAction::Unreachable) => return Ok(WantedAction::Unreachable),
        Ok(pb::RouteAction::Prohibit) => return Ok(WantedAction::Prohibit),
        Ok(pb::RouteAction::Local | pb::RouteAction::Tunnel) => {
            return Err(Error::field("action", "output only; it cannot be set"));
        }
        Err(_) => return Err(Error::field("action", "unknown to this version")),
    }
    let hop = route
        .next_hop
        .as_ref()
        .ok_or_else(|| Error::field("next_hop", "missing: the action is FORWARD"))?;
    let vlan = u16::try_from(hop.vlan_id).ok().filter(|vlan| *vlan <= 4094);
    let vlan = vlan.ok_or_else(|| Error::field("next_hop.vlan_id", "outside 1..4094"))?;
    if hop.port.is_empty() {
        return Err(Error::field("next_hop.port", "missing: the name of a port"));
    }
    let gateway = if hop.gateway.is_empty() {
        None
    } else {
        let gateway =
            ip_from(&hop.gateway).map_err(|text| Error::field("next_hop.gateway", text))?;
        if gateway.is_ipv4() != prefix.addr().is_ipv4() {
            return Err(Error::field(
                "next_hop.gateway",
                "of another family than destination",
            ));
        }
        if gateway.is_unspecified() || gateway.is_multicast() {
            return Err(Error::field(
                "next_hop.gateway",
                format!("{gateway} is no gateway"),
            ));
        }
        Some(gateway)
    };
    Ok(WantedAction::Forward {
        port: hop.port.clone(),
        vlan,
        gateway,
    })
}

// --- answers ---

pub(crate) fn counts_message(counts: Counts) -> pb::ApplyCounts {
    let Counts {
        created,
        updated,
        unchanged,
        deleted,
    } = counts;
    pb::ApplyCounts {
        created,
        updated,
        unchanged,
        deleted,
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
    }
}

/// A tunnel's traffic as a message.
pub(crate) fn tunnel_counters(totals: &TunnelTotals) -> pb::TunnelCounters {
    let drop = |(reason, packets): &(DropReason, u64)| pb::DropCount {
        reason: reason.name().to_owned(),
        count: Some(pb::PacketsBytes {
            packets: *packets,
            bytes: 0,
        }),
    };
    pb::TunnelCounters {
        received: Some(pb::PacketsBytes {
            packets: totals.in_packets,
            bytes: totals.in_bytes,
        }),
        sent: Some(pb::PacketsBytes {
            packets: totals.out_packets,
            bytes: totals.out_bytes,
        }),
        drops: totals.drops.iter().map(drop).collect(),
        ecn_unusual: totals.ecn_unusual,
    }
}

/// Removes the top-level fields of a tunnel that a read mask does not name.
pub(crate) fn mask_tunnel(tunnel: &mut pb::Tunnel, names: &[String]) {
    let has = |name: &str| names.iter().any(|n| n == name);
    let full = std::mem::replace(
        tunnel,
        pb::Tunnel {
            id: tunnel.id.clone(),
            ..pb::Tunnel::default()
        },
    );
    macro_rules! keep {
        ($($field:ident),+) => {
            $(if has(stringify!($field)) { tunnel.$field = full.$field; })+
        };
    }
    keep!(
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
        counters,
        generation,
        stale,
        revision
    );
}

/// Names a read mask may hold.
pub(crate) const TUNNEL_FIELDS: [&str; 23] = [
    "id",
    "owner",
    "encapsulation",
    "local",
    "remote",
    "prefixes",
    "link_prefix",
    "link_address",
    "link_local_address",
    "mtu",
    "mtu_mode",
    "ttl",
    "ttl_inherit",
    "dscp",
    "dscp_copy",
    "dscp_decap_copy",
    "ecn",
    "strict_source",
    "admin_up",
    "counters",
    "generation",
    "stale",
    "revision",
];

fn packets_bytes(count: sixferry_fwd::PacketsBytes) -> pb::PacketsBytes {
    pb::PacketsBytes {
        packets: count.packets,
        bytes: count.bytes,
    }
}

/// Counters of a worker, or of all when `worker` is `None`.
pub(crate) fn worker_counters(worker: Option<u32>, now: &CounterSnapshot) -> pb::WorkerCounters {
    let drops = DropReason::ALL
        .iter()
        .map(|reason| (reason, now.drops_for(*reason)))
        .filter(|(_, count)| count.packets > 0)
        .map(|(reason, count)| pb::DropCount {
            reason: reason.name().to_owned(),
            count: Some(packets_bytes(count)),
        });
    let punts = PuntReason::ALL
        .iter()
        .zip(&now.punts)
        .filter(|(_, packets)| **packets > 0)
        .map(|(r, packets)| pb::PuntCount {
            reason: r.name().to_owned(),
            packets: *packets,
        });
    pb::WorkerCounters {
        worker,
        received: Some(packets_bytes(now.received)),
        injected: Some(packets_bytes(now.injected)),
        forwarded: Some(packets_bytes(now.forwarded)),
        answered: Some(packets_bytes(now.answered)),
        punted: Some(packets_bytes(now.punted)),
        drops: drops.collect(),
        punts: punts.collect(),
        ecn_unusual: now.ecn_unusual,
    }
}

/// The tables write the link into the middle of a link-local address (`link_scoped`); readers see
/// the address, and the link as the next hop's port.
fn unscoped(prefix: Prefix) -> Prefix {
    match prefix.addr() {
        IpAddr::V6(a) if a.is_unicast_link_local() => {
            let bits = u128::from(a) & (0x3ff_u128 << 118 | u128::from(u64::MAX));
            Prefix::of(Ipv6Addr::from(bits).into(), prefix.len()).unwrap_or(prefix)
        }
        _ => prefix,
    }
}

/// A route as a message.
pub(crate) fn route_message(entry: &RouteEntry, control: &Control) -> pb::Route {
    let (action, tunnel) = match entry.route {
        Route::NextHop(_) => (pb::RouteAction::Forward, None),
        Route::Tunnel(id) => (pb::RouteAction::Tunnel, control.tunnel_name(id)),
        Route::Domain(id) => (pb::RouteAction::Domain, control.tunnel_name(id)),
        Route::Local => (pb::RouteAction::Local, None),
        Route::Blackhole => (pb::RouteAction::Blackhole, None),
        Route::Unreachable => (pb::RouteAction::Unreachable, None),
        Route::Prohibit => (pb::RouteAction::Prohibit, None),
    };
    let origin = match entry.origin {
        Origin::Api => pb::RouteOrigin::Api,
        Origin::Neighbour => pb::RouteOrigin::Neighbour,
        Origin::Kernel => pb::RouteOrigin::Kernel,
    };
    let next_hop = entry.next_hop.as_ref().map(|hop| {
        let (state, mac) = match hop.state {
            NextHopState::Resolved { dst_mac } => (pb::NextHopState::Resolved, dst_mac.to_vec()),
            NextHopState::Unresolved { .. } => (pb::NextHopState::Unresolved, Vec::new()),
            NextHopState::OnLink => (pb::NextHopState::OnLink, Vec::new()),
            NextHopState::Down => (pb::NextHopState::Down, Vec::new()),
        };
        pb::NextHop {
            port: control.port_name(hop.port).unwrap_or_default().to_owned(),
            vlan_id: hop.vlan.unwrap_or(0).into(),
            gateway: entry.gateway.map(ip_bytes).unwrap_or_default(),
            mac,
            state: state.into(),
            mtu: hop.mtu.into(),
        }
    });
    pb::Route {
        destination: Some(prefix_message(unscoped(entry.prefix))),
        origin: origin.into(),
        owner: entry.owner.as_deref().unwrap_or_default().to_owned(),
        action: action.into(),
        next_hop,
        tunnel_id: tunnel.unwrap_or_default().to_owned(),
        generation: entry.generation.into(),
        stale: entry.stale,
    }
}

#[cfg(test)]
mod tests {
    use sixferry_fwd::{PortId, link_scoped};

    use super::*;

    #[test]
    fn a_scoped_link_local_address_is_shown_plain() {
        let plain: Ipv6Addr = "fe80::940f:b1ff:fe2b:e1ca".parse().expect("an address");
        let scoped = Prefix::host(link_scoped(plain, PortId(1), 100).into());
        assert_ne!(scoped.addr(), IpAddr::from(plain));
        assert_eq!(unscoped(scoped), Prefix::host(plain.into()));
    }
}
