//! A port as JSON.

use serde::Serialize;
use sixferry_client::{self as client, api};

use super::PacketsBytes;

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) port_id: u32,
    pub(crate) ifindex: u32,
    pub(crate) driver: String,
    pub(crate) bind_mode: &'static str,
    pub(crate) bind_reason: String,
    pub(crate) xdp_mode: String,
    pub(crate) queue_count: u32,
    pub(crate) mac: String,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) vlan_ids: Vec<u32>,
    pub(crate) local_addresses: Vec<LocalAddress>,
    pub(crate) steering: Vec<Steering>,
    pub(crate) counters: QueueCounters,
    /// Only with `port show`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) queues: Vec<Queue>,
}

/// An address of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LocalAddress {
    pub(crate) address: String,
    pub(crate) prefix_length: u32,
    pub(crate) vlan_id: u32,
}

/// One outcome of the XDP program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Steering {
    pub(crate) outcome: String,
    pub(crate) packets: u64,
}

/// One queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Queue {
    pub(crate) port: String,
    pub(crate) queue_id: u32,
    pub(crate) worker: u32,
    pub(crate) bind_mode: &'static str,
    pub(crate) bind_reason: String,
    pub(crate) counters: QueueCounters,
}

/// Counters of one queue, or of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct QueueCounters {
    pub(crate) received: PacketsBytes,
    pub(crate) sent: PacketsBytes,
    pub(crate) rx_dropped: u64,
    pub(crate) rx_ring_full: u64,
    pub(crate) rx_fill_ring_empty: u64,
    pub(crate) tx_ring_full: u64,
    pub(crate) tx_kicks: u64,
    pub(crate) tx_invalid: u64,
}

impl QueueCounters {
    /// Packets lost between the wire and the worker.
    pub(crate) fn lost(&self) -> u64 {
        self.rx_dropped + self.rx_ring_full + self.tx_invalid
    }
}

impl From<Option<api::QueueCounters>> for QueueCounters {
    fn from(proto: Option<api::QueueCounters>) -> Self {
        let proto = proto.unwrap_or_default();
        Self {
            received: proto.received.into(),
            sent: proto.sent.into(),
            rx_dropped: proto.rx_dropped,
            rx_ring_full: proto.rx_ring_full,
            rx_fill_ring_empty: proto.rx_fill_ring_empty,
            tx_ring_full: proto.tx_ring_full,
            tx_kicks: proto.tx_kicks,
            tx_invalid: proto.tx_invalid,
        }
    }
}

impl From<api::Queue> for Queue {
    fn from(proto: api::Queue) -> Self {
        Self {
            bind_mode: mode_name(proto.bind_mode()),
            port: proto.port,
            queue_id: proto.queue_id,
            worker: proto.worker,
            bind_reason: proto.bind_reason,
            counters: proto.counters.into(),
        }
    }
}

impl From<api::Port> for Port {
    fn from(proto: api::Port) -> Self {
        let address = |a: api::LocalAddress| LocalAddress {
            address: client::ip_from_bytes(&a.address).map_or_else(String::new, |a| a.to_string()),
            prefix_length: a.prefix_length,
            vlan_id: a.vlan_id,
        };
        let steering = |s: api::SteeringCounter| Steering {
            outcome: s.outcome,
            packets: s.packets,
        };
        Self {
            bind_mode: mode_name(proto.bind_mode()),
            name: proto.name,
            port_id: proto.port_id,
            ifindex: proto.ifindex,
            driver: proto.driver,
            bind_reason: proto.bind_reason,
            xdp_mode: proto.xdp_mode,
            queue_count: proto.queue_count,
            mac: client::format_mac(&proto.mac),
            mtu: proto.mtu,
            up: proto.up,
            vlan_ids: proto.vlan_ids,
            local_addresses: proto.local_addresses.into_iter().map(address).collect(),
            steering: proto.steering.into_iter().map(steering).collect(),
            counters: proto.counters.into(),
            queues: Vec::new(),
        }
    }
}

pub(crate) fn mode_name(mode: api::BindMode) -> &'static str {
    match mode {
        api::BindMode::Unspecified => "unknown",
        api::BindMode::ZeroCopy => "zero-copy",
        api::BindMode::Copy => "copy",
        api::BindMode::Generic => "generic",
    }
}
