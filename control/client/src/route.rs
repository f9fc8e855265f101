//! Routes, typed.

use std::net::IpAddr;

use ipnet::IpNet;
use sixferry_proto::dataplane::v1 as api;

use crate::address::{ip_to_bytes, net_to_proto, optional_ip, required_net};
use crate::{Error, WriteMode};

pub use api::{NextHopState, RouteOrigin};

/// What happens to packets of a route that a controller writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteAction {
    /// Sent on.
    Forward(NextHop),
    /// Dropped silently.
    Blackhole,
    /// Answered: no route.
    Unreachable,
    /// Answered: administratively prohibited.
    Prohibit,
    /// Only read: an address of the relay host.
    Local,
    /// Only read: into this tunnel.
    Tunnel(String),
    /// Into this domain, to its way out: the border relay of a 6rd customer edge, the relay of a
    /// 6to4 site. IPv6 only.
    Domain(String),
}

/// The way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Name of the port.
    pub port: String,
    /// 802.1Q VLAN; `None`: untagged.
    pub vlan_id: Option<u16>,
    /// The gateway; `None`: the destination is directly connected.
    pub gateway: Option<IpAddr>,
}

/// What a controller writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Natural key.
    pub destination: IpNet,
    /// What happens to matching packets.
    pub action: RouteAction,
}

impl Route {
    /// The message for the API; output-only fields stay empty.
    pub fn to_proto(&self) -> api::Route {
        let action = match &self.action {
            RouteAction::Forward(_) => api::RouteAction::Forward,
            RouteAction::Blackhole => api::RouteAction::Blackhole,
            RouteAction::Unreachable => api::RouteAction::Unreachable,
            RouteAction::Prohibit => api::RouteAction::Prohibit,
            RouteAction::Local => api::RouteAction::Local,
            RouteAction::Tunnel(_) => api::RouteAction::Tunnel,
            RouteAction::Domain(_) => api::RouteAction::Domain,
        };
        let next_hop = match &self.action {
            RouteAction::Forward(hop) => Some(api::NextHop {
                port: hop.port.clone(),
                vlan_id: hop.vlan_id.map_or(0, u32::from),
                gateway: hop.gateway.map_or_else(Vec::new, ip_to_bytes),
                ..Default::default()
            }),
            _ => None,
        };
        api::Route {
            destination: Some(net_to_proto(self.destination)),
            action: action.into(),
            next_hop,
            tunnel_id: match &self.action {
                RouteAction::Tunnel(id) => id.clone(),
                _ => String::new(),
            },
            domain_id: match &self.action {
                RouteAction::Domain(id) => id.clone(),
                _ => String::new(),
            },
            ..Default::default()
        }
    }
}

/// A route as the dataplane has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// Destination and action.
    pub route: Route,
    /// Where it comes from.
    pub origin: RouteOrigin,
    /// For API routes, who wrote it; else empty.
    pub owner: String,
    /// For FORWARD: whether the next hop is resolved.
    pub next_hop_state: NextHopState,
    /// For FORWARD: destination MAC address, empty when not resolved.
    pub mac: Vec<u8>,
    /// For FORWARD: IP MTU of the egress interface.
    pub mtu: u32,
    /// Generation of the sync that last confirmed it, 0 if none did.
    pub generation: u64,
    /// A sync of its owner runs and has not mentioned it yet.
    pub stale: bool,
}

impl TryFrom<api::Route> for RouteEntry {
    type Error = Error;

    fn try_from(proto: api::Route) -> Result<Self, Error> {
        let Some(destination) = &proto.destination else {
            return Err(Error::malformed("route.destination", "is missing"));
        };
        let destination = required_net("route.destination", destination)?;
        let origin = proto.origin();
        let action = match proto.action() {
            api::RouteAction::Forward | api::RouteAction::Unspecified => {
                let Some(hop) = &proto.next_hop else {
                    return Err(Error::malformed("route.next_hop", "is missing"));
                };
                let vlan_id = u16::try_from(hop.vlan_id)
                    .map_err(|_| Error::malformed("route.next_hop.vlan_id", "is too large"))?;
                RouteAction::Forward(NextHop {
                    port: hop.port.clone(),
                    vlan_id: (vlan_id != 0).then_some(vlan_id),
                    gateway: optional_ip("route.next_hop.gateway", &hop.gateway)?,
                })
            }
            api::RouteAction::Local => RouteAction::Local,
            api::RouteAction::Blackhole => RouteAction::Blackhole,
            api::RouteAction::Unreachable => RouteAction::Unreachable,
            api::RouteAction::Prohibit => RouteAction::Prohibit,
            api::RouteAction::Tunnel => RouteAction::Tunnel(proto.tunnel_id),
            api::RouteAction::Domain => RouteAction::Domain(proto.domain_id),
        };
        let hop = proto.next_hop.unwrap_or_default();
        Ok(Self {
            route: Route {
                destination,
                action,
            },
            origin,
            owner: proto.owner,
            next_hop_state: hop.state(),
            mac: hop.mac,
            mtu: hop.mtu,
            generation: proto.generation,
            stale: proto.stale,
        })
    }
}

/// One change to the API routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteUpdate {
    /// Creates or changes.
    Upsert {
        /// The route.
        route: Route,
        /// Whether it must or must not exist.
        mode: WriteMode,
    },
    /// Removes.
    Delete {
        /// Natural key.
        destination: IpNet,
        /// Whether a missing route is an error.
        must_exist: bool,
    },
}

impl RouteUpdate {
    /// An idempotent upsert.
    pub fn upsert(route: Route) -> Self {
        Self::Upsert {
            route,
            mode: WriteMode::Upsert,
        }
    }

    /// An idempotent removal.
    pub fn delete(destination: IpNet) -> Self {
        Self::Delete {
            destination,
            must_exist: false,
        }
    }

    pub(crate) fn key(&self) -> String {
        match self {
            Self::Upsert { route, .. } => route.destination.to_string(),
            Self::Delete { destination, .. } => destination.to_string(),
        }
    }

    pub(crate) fn is_idempotent(&self) -> bool {
        match self {
            Self::Upsert { mode, .. } => *mode != WriteMode::Create,
            Self::Delete { must_exist, .. } => !must_exist,
        }
    }

    pub(crate) fn to_proto(&self) -> api::RouteUpdate {
        let update = match self {
            Self::Upsert { route, mode } => api::route_update::Update::Upsert(api::RouteUpsert {
                route: Some(route.to_proto()),
                mode: mode.to_proto().into(),
            }),
            Self::Delete {
                destination,
                must_exist,
            } => api::route_update::Update::Delete(api::RouteDelete {
                destination: Some(net_to_proto(*destination)),
                must_exist: *must_exist,
            }),
        };
        api::RouteUpdate {
            update: Some(update),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_convert_both_ways() {
        let hop = NextHop {
            port: "eth0".into(),
            vlan_id: Some(7),
            gateway: Some("2001:db8::1".parse().unwrap()),
        };
        let connected = NextHop {
            port: "eth1".into(),
            vlan_id: None,
            gateway: None,
        };
        for action in [
            RouteAction::Forward(hop),
            RouteAction::Forward(connected),
            RouteAction::Blackhole,
            RouteAction::Unreachable,
            RouteAction::Prohibit,
            RouteAction::Local,
            RouteAction::Tunnel("t1".into()),
            RouteAction::Domain("d1".into()),
        ] {
            let route = Route {
                destination: "2001:db8:5::/48".parse().unwrap(),
                action,
            };
            assert_eq!(RouteEntry::try_from(route.to_proto()).unwrap().route, route);
        }
    }

    #[test]
    fn malformed_routes_name_the_field() {
        let route = Route {
            destination: "192.0.2.0/24".parse().unwrap(),
            action: RouteAction::Blackhole,
        };
        let mut proto = route.to_proto();
        proto.action = api::RouteAction::Forward.into();
        let error = RouteEntry::try_from(proto.clone()).unwrap_err();
        assert!(error.to_string().contains("route.next_hop is missing"));
        proto.destination = None;
        let error = RouteEntry::try_from(proto).unwrap_err();
        assert!(error.to_string().contains("route.destination is missing"));
    }
}
