//! Users, pools, tunnels and sessions of the control plane as JSON.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};
use sixferry_client::control::api;

use super::timestamp;

fn time(stamp: Option<prost_types::Timestamp>) -> Option<String> {
    stamp.and_then(|stamp| timestamp(stamp.seconds))
}

/// What makes no sense is left out: a newer control plane may say more than is known here.
fn net(prefix: &api::Prefix) -> Option<Ipv6Net> {
    let octets = <[u8; 16]>::try_from(prefix.address.as_slice()).ok()?;
    Ipv6Net::new(Ipv6Addr::from(octets), u8::try_from(prefix.length).ok()?).ok()
}

fn nets(prefixes: &[api::Prefix]) -> Vec<Ipv6Net> {
    prefixes.iter().filter_map(net).collect()
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

fn ipv6(bytes: &[u8]) -> Option<Ipv6Addr> {
    <[u8; 16]>::try_from(bytes).ok().map(Ipv6Addr::from)
}

pub(crate) fn prefix_message(net: Ipv6Net) -> api::Prefix {
    api::Prefix {
        address: net.addr().octets().to_vec(),
        length: net.prefix_len().into(),
    }
}

/// A user; as it is exported with his secret, it can be imported again.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) status: String,
    pub(crate) has_secret: bool,
    pub(crate) prefixes: Vec<Ipv6Net>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) create_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) change_time: Option<String>,
    /// Only in an export that asks for it; hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret_hex: Option<String>,
}

impl From<api::User> for User {
    fn from(proto: api::User) -> Self {
        let status = match proto.status() {
            api::UserStatus::Suspended => "suspended",
            api::UserStatus::Active | api::UserStatus::Unspecified => "active",
        };
        Self {
            status: status.to_owned(),
            has_secret: proto.has_secret,
            prefixes: nets(&proto.prefixes),
            create_time: time(proto.create_time),
            change_time: time(proto.change_time),
            name: proto.name,
            secret_hex: None,
        }
    }
}

/// A pool and its use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pool {
    pub(crate) name: String,
    pub(crate) prefix: Option<Ipv6Net>,
    /// 0: address pairs.
    pub(crate) delegated_length: u32,
    pub(crate) quarantine_seconds: u32,
    pub(crate) capacity: u64,
    pub(crate) used: u64,
    pub(crate) quarantined: u64,
}

impl From<api::PoolEntry> for Pool {
    fn from(proto: api::PoolEntry) -> Self {
        let pool = proto.pool.unwrap_or_default();
        Self {
            prefix: pool.prefix.as_ref().and_then(net),
            name: pool.name,
            delegated_length: pool.delegated_length,
            quarantine_seconds: pool.quarantine_seconds,
            capacity: proto.capacity,
            used: proto.used,
            quarantined: proto.quarantined,
        }
    }
}

pub(crate) fn state(state: api::TunnelState) -> &'static str {
    match state {
        api::TunnelState::Unspecified => "none",
        api::TunnelState::Pending => "pending",
        api::TunnelState::Active => "active",
        api::TunnelState::Orphaned => "orphaned",
        api::TunnelState::Releasing => "releasing",
        api::TunnelState::Tombstone => "tombstone",
    }
}

fn profile(profile: api::Profile) -> &'static str {
    match profile {
        api::Profile::Unspecified => "unknown",
        api::Profile::Link => "link",
        api::Profile::Host => "host",
        api::Profile::Network => "network",
    }
}

fn cause(cause: api::Cause) -> &'static str {
    match cause {
        api::Cause::Unspecified => "unknown",
        api::Cause::Login => "login",
        api::Cause::Confirmed => "confirmed",
        api::Cause::Quit => "quit",
        api::Cause::ConnectionLost => "connection-lost",
        api::Cause::IdleTimeout => "idle-timeout",
        api::Cause::Replaced => "replaced",
        api::Cause::Administrative => "administrative",
        api::Cause::Shutdown => "shutdown",
        api::Cause::Restart => "restart",
        api::Cause::GraceEnded => "grace-ended",
        api::Cause::Refused => "refused",
    }
}

/// A tunnel as the control plane has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ControlTunnel {
    pub(crate) id: String,
    pub(crate) user: String,
    pub(crate) service: String,
    pub(crate) slot: String,
    pub(crate) profile: &'static str,
    pub(crate) encapsulation: &'static str,
    pub(crate) local: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) local_port: Option<u32>,
    pub(crate) remote: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_address: Option<Ipv6Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_address: Option<Ipv6Addr>,
    pub(crate) prefixes: Vec<Ipv6Net>,
    pub(crate) mtu: u32,
    pub(crate) state: &'static str,
    pub(crate) state_time: Option<String>,
    pub(crate) create_time: Option<String>,
    pub(crate) revision: i64,
}

impl From<api::Tunnel> for ControlTunnel {
    fn from(proto: api::Tunnel) -> Self {
        use api::transport::Transport;
        let udp = match proto.transport.as_ref().and_then(|t| t.transport.as_ref()) {
            Some(Transport::Udp(udp)) => Some(udp.local_port),
            _ => None,
        };
        let slot = proto.slot.clone().unwrap_or_default();
        let pair = proto.pair.as_ref();
        Self {
            slot: format!("{}{}", slot.stem, slot.unit),
            profile: profile(proto.profile()),
            encapsulation: if udp.is_some() { "udp" } else { "6in4" },
            local: ipv4(&proto.local),
            local_port: udp,
            remote: ipv4(&proto.remote),
            client_address: pair.and_then(|pair| ipv6(&pair.client)),
            server_address: pair.and_then(|pair| ipv6(&pair.server)),
            prefixes: nets(&proto.prefixes),
            mtu: proto.mtu,
            state: state(proto.state()),
            state_time: time(proto.state_time),
            create_time: time(proto.create_time),
            revision: proto.revision,
            id: proto.id,
            user: proto.user,
            service: proto.service,
        }
    }
}

/// A change of state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Transition {
    pub(crate) tunnel_id: String,
    pub(crate) user: String,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) cause: &'static str,
    pub(crate) time: Option<String>,
    pub(crate) revision: i64,
}

impl From<api::Transition> for Transition {
    fn from(proto: api::Transition) -> Self {
        Self {
            from: state(proto.from()),
            to: state(proto.to()),
            cause: cause(proto.cause()),
            time: time(proto.time),
            revision: proto.revision,
            tunnel_id: proto.tunnel_id,
            user: proto.user,
        }
    }
}

/// A DTCP session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Session {
    pub(crate) id: u64,
    pub(crate) client: Option<IpAddr>,
    pub(crate) client_port: u32,
    pub(crate) server: Option<IpAddr>,
    pub(crate) user: String,
    pub(crate) tunnel_id: String,
    pub(crate) r#type: String,
    pub(crate) connect_time: Option<String>,
    pub(crate) heard_time: Option<String>,
}

impl From<api::DtcpSession> for Session {
    fn from(proto: api::DtcpSession) -> Self {
        Self {
            id: proto.id,
            client: ipv4(&proto.client).map(Into::into),
            client_port: proto.client_port,
            server: ipv4(&proto.server).map(Into::into),
            user: proto.user,
            tunnel_id: proto.tunnel_id,
            r#type: proto.r#type,
            connect_time: time(proto.connect_time),
            heard_time: time(proto.heard_time),
        }
    }
}

/// The daemon and its parts.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Control {
    pub(crate) control_instance_id: String,
    pub(crate) version: String,
    pub(crate) start_time: Option<String>,
    pub(crate) uptime_seconds: f64,
    pub(crate) pid: u32,
    pub(crate) config_path: String,
    pub(crate) resident_bytes: u64,
    pub(crate) parts: Vec<Part>,
    pub(crate) figures: std::collections::BTreeMap<String, u64>,
}

/// A part of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) state: &'static str,
    pub(crate) message: String,
    pub(crate) restarts: u64,
}

impl Control {
    pub(crate) fn new(info: api::GetInfoResponse, status: api::GetStatusResponse) -> Self {
        let uptime = info.uptime.unwrap_or_default();
        let part = |part: api::Part| Part {
            state: match part.state() {
                api::PartState::Up => "up",
                api::PartState::Down | api::PartState::Unspecified => "down",
            },
            name: part.name,
            message: part.message,
            restarts: part.restarts,
        };
        let figures = status.figures.into_iter();
        Self {
            control_instance_id: info.control_instance_id,
            version: info.version,
            start_time: time(info.start_time),
            uptime_seconds: uptime.seconds as f64 + f64::from(uptime.nanos) / 1e9,
            pid: info.pid,
            config_path: info.config_path,
            resident_bytes: info.resident_bytes,
            parts: status.parts.into_iter().map(part).collect(),
            figures: figures.map(|figure| (figure.name, figure.value)).collect(),
        }
    }
}
