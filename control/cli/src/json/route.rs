//! A route as JSON.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;
use sixferry_client::{self as client, NextHopState, RouteAction, RouteOrigin};

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Route {
    pub(crate) destination: IpNet,
    pub(crate) origin: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) owner: String,
    pub(crate) action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_hop: Option<NextHop>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tunnel_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) domain_id: Option<String>,
    pub(crate) generation: u64,
    pub(crate) stale: bool,
}

/// The way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NextHop {
    pub(crate) port: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vlan_id: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<IpAddr>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) mac: String,
    pub(crate) state: &'static str,
    pub(crate) mtu: u32,
}

impl From<client::RouteEntry> for Route {
    fn from(entry: client::RouteEntry) -> Self {
        let action = match &entry.route.action {
            RouteAction::Forward(_) => "forward",
            RouteAction::Blackhole => "blackhole",
            RouteAction::Unreachable => "unreachable",
            RouteAction::Prohibit => "prohibit",
            RouteAction::Local => "local",
            RouteAction::Tunnel(_) => "tunnel",
            RouteAction::Domain(_) => "domain",
        };
        let (next_hop, tunnel_id, domain_id) = match entry.route.action {
            RouteAction::Forward(hop) => {
                let hop = NextHop {
                    port: hop.port,
                    vlan_id: hop.vlan_id,
                    gateway: hop.gateway,
                    mac: client::format_mac(&entry.mac),
                    state: state_name(entry.next_hop_state),
                    mtu: entry.mtu,
                };
                (Some(hop), None, None)
            }
            RouteAction::Tunnel(id) => (None, Some(id), None),
            RouteAction::Domain(id) => (None, None, Some(id)),
            _ => (None, None, None),
        };
        Self {
            destination: entry.route.destination,
            origin: origin_name(entry.origin),
            owner: entry.owner,
            action,
            next_hop,
            tunnel_id,
            domain_id,
            generation: entry.generation,
            stale: entry.stale,
        }
    }
}

fn state_name(state: NextHopState) -> &'static str {
    match state {
        NextHopState::Unspecified => "unknown",
        NextHopState::Resolved => "resolved",
        NextHopState::Unresolved => "unresolved",
        NextHopState::OnLink => "onLink",
        NextHopState::Down => "down",
    }
}

fn origin_name(origin: RouteOrigin) -> &'static str {
    match origin {
        RouteOrigin::Unspecified => "unknown",
        RouteOrigin::Tunnel => "tunnel",
        RouteOrigin::Api => "api",
        RouteOrigin::Neighbour => "neighbour",
        RouteOrigin::Kernel => "kernel",
    }
}
