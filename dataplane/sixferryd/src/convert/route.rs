//! Routes from and to messages.

use std::net::{IpAddr, Ipv6Addr};

use sixferry_fwd::{NextHopState, Route};
use sixferry_proto::dataplane::v1 as pb;

use super::{ip_bytes, ip_from, prefix_from, prefix_message, write_mode};
use crate::control::Control;
use crate::control::error::Error;
use crate::control::route_read::RouteEntry;
use crate::control::routes::{Origin, RouteOp, WantedAction};
use crate::netlink::Prefix;

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
        Ok(pb::RouteAction::Domain) => {
            if prefix.addr().is_ipv4() {
                let text = "DOMAIN is for IPv6 destinations";
                return Err(Error::field("action", text));
            }
            if route.domain_id.is_empty() {
                return Err(Error::field("domain_id", "missing: the action is DOMAIN"));
            }
            return Ok(WantedAction::Domain(route.domain_id.clone()));
        }
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
    let domain = match entry.route {
        Route::Domain(id) => control.domain_name(id),
        _ => None,
    };
    let (action, tunnel) = match entry.route {
        Route::NextHop(_) => (pb::RouteAction::Forward, None),
        Route::Tunnel(id) => (pb::RouteAction::Tunnel, control.tunnel_name(id)),
        Route::Domain(_) => (pb::RouteAction::Domain, None),
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
        domain_id: domain.unwrap_or_default().to_owned(),
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
