//! Counters as JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use sixferry_client::api;

use super::tunnel::TunnelCounters;
use super::{DropCount, PacketsBytes, timestamp};

/// The counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) time: Option<String>,
    pub(crate) total: Worker,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) workers: Vec<Worker>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) top_tunnels: Option<Vec<TopTunnel>>,
    pub(crate) held_packets: u64,
    pub(crate) slow_path: SlowPath,
    pub(crate) reassembly: Reassembly,
    /// Absent: there is no host port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host_port: Option<HostPort>,
    pub(crate) liveness: Liveness,
}

/// What became of punted packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SlowPath {
    pub(crate) taken: u64,
    pub(crate) reinjected: u64,
    pub(crate) delivered: u64,
    pub(crate) merged: u64,
    pub(crate) held: u64,
    pub(crate) transmitted: u64,
    pub(crate) transmit_refused: u64,
    pub(crate) drops: Vec<DropCount>,
}

/// Outer fragments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Reassembly {
    pub(crate) fragments: u64,
    pub(crate) reassembled: u64,
    pub(crate) open: u64,
    pub(crate) held_bytes: u64,
    pub(crate) refused: u64,
}

/// Traffic between tunnels and the relay host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HostPort {
    pub(crate) to_host: PacketsBytes,
    pub(crate) from_host: PacketsBytes,
    pub(crate) dropped: u64,
}

/// Tunnels whose life is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Liveness {
    pub(crate) watched: u64,
    pub(crate) up: u64,
    pub(crate) unreachable: u64,
    pub(crate) unknown: u64,
    pub(crate) probes_sent: u64,
    pub(crate) replies: u64,
    pub(crate) deferred: u64,
}

/// Counters of one worker, or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Worker {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) worker: Option<u32>,
    pub(crate) received: PacketsBytes,
    pub(crate) injected: PacketsBytes,
    pub(crate) forwarded: PacketsBytes,
    pub(crate) answered: PacketsBytes,
    pub(crate) punted: PacketsBytes,
    pub(crate) drops: Vec<DropCount>,
    pub(crate) punts: Vec<PuntCount>,
    pub(crate) ecn_unusual: u64,
}

/// Packets punted for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct PuntCount {
    pub(crate) reason: String,
    pub(crate) packets: u64,
}

/// One of the busiest tunnels.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TopTunnel {
    pub(crate) tunnel_id: String,
    pub(crate) owner: String,
    pub(crate) counters: TunnelCounters,
    pub(crate) received_packets_per_second: f64,
    pub(crate) received_bytes_per_second: f64,
    pub(crate) sent_packets_per_second: f64,
    pub(crate) sent_bytes_per_second: f64,
    pub(crate) dropped_packets_per_second: f64,
}

impl Worker {
    /// All drops.
    pub(crate) fn dropped(&self) -> PacketsBytes {
        let mut sum = PacketsBytes::default();
        for drop in &self.drops {
            sum.packets += drop.count.packets;
            sum.bytes += drop.count.bytes;
        }
        sum
    }

    /// Packets that came in and have no recorded fate; 0 while every packet is accounted for.
    pub(crate) fn unaccounted(&self) -> i128 {
        let came = i128::from(self.received.packets) + i128::from(self.injected.packets);
        let went = i128::from(self.forwarded.packets)
            + i128::from(self.answered.packets)
            + i128::from(self.punted.packets)
            + i128::from(self.dropped().packets);
        came - went
    }
}

impl From<api::WorkerCounters> for Worker {
    fn from(proto: api::WorkerCounters) -> Self {
        let punt = |p: api::PuntCount| PuntCount {
            reason: p.reason,
            packets: p.packets,
        };
        Self {
            worker: proto.worker,
            received: proto.received.into(),
            injected: proto.injected.into(),
            forwarded: proto.forwarded.into(),
            answered: proto.answered.into(),
            punted: proto.punted.into(),
            drops: proto.drops.into_iter().map(Into::into).collect(),
            punts: proto.punts.into_iter().map(punt).collect(),
            ecn_unusual: proto.ecn_unusual,
        }
    }
}

impl From<api::TopTunnelEntry> for TopTunnel {
    fn from(proto: api::TopTunnelEntry) -> Self {
        Self {
            tunnel_id: proto.tunnel_id,
            owner: proto.owner,
            counters: proto.counters.unwrap_or_default().into(),
            received_packets_per_second: proto.received_packets_per_second,
            received_bytes_per_second: proto.received_bytes_per_second,
            sent_packets_per_second: proto.sent_packets_per_second,
            sent_bytes_per_second: proto.sent_bytes_per_second,
            dropped_packets_per_second: proto.dropped_packets_per_second,
        }
    }
}

impl From<api::SlowPathCounters> for SlowPath {
    fn from(proto: api::SlowPathCounters) -> Self {
        Self {
            taken: proto.taken,
            reinjected: proto.reinjected,
            delivered: proto.delivered,
            merged: proto.merged,
            held: proto.held,
            transmitted: proto.transmitted,
            transmit_refused: proto.transmit_refused,
            drops: proto.drops.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<api::ReassemblyCounters> for Reassembly {
    fn from(proto: api::ReassemblyCounters) -> Self {
        Self {
            fragments: proto.fragments,
            reassembled: proto.reassembled,
            open: proto.open,
            held_bytes: proto.held_bytes,
            refused: proto.refused,
        }
    }
}

impl From<api::HostPortCounters> for HostPort {
    fn from(proto: api::HostPortCounters) -> Self {
        Self {
            to_host: proto.to_host.into(),
            from_host: proto.from_host.into(),
            dropped: proto.dropped,
        }
    }
}

impl From<api::LivenessCounters> for Liveness {
    fn from(proto: api::LivenessCounters) -> Self {
        Self {
            watched: proto.watched,
            up: proto.up,
            unreachable: proto.unreachable,
            unknown: proto.unknown,
            probes_sent: proto.probes_sent,
            replies: proto.replies,
            deferred: proto.deferred,
        }
    }
}

impl Report {
    /// All drops by reason, those of the slow path among them.
    pub(crate) fn drops(&self) -> BTreeMap<String, PacketsBytes> {
        let mut sums: BTreeMap<String, PacketsBytes> = BTreeMap::new();
        for drop in self.total.drops.iter().chain(&self.slow_path.drops) {
            let sum = sums.entry(drop.reason.clone()).or_default();
            sum.packets += drop.count.packets;
            sum.bytes += drop.count.bytes;
        }
        sums
    }

    pub(crate) fn new(proto: api::CounterReport, with_top: bool) -> Self {
        let top = proto.top_tunnels.into_iter().map(Into::into);
        Self {
            time: proto.time.and_then(|t| timestamp(t.seconds)),
            total: proto.total.unwrap_or_default().into(),
            workers: proto.workers.into_iter().map(Into::into).collect(),
            top_tunnels: with_top.then(|| top.collect()),
            held_packets: proto.held_packets,
            slow_path: proto.slow_path.unwrap_or_default().into(),
            reassembly: proto.reassembly.unwrap_or_default().into(),
            host_port: proto.host_port.map(Into::into),
            liveness: proto.liveness.unwrap_or_default().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_without_a_fate_are_found() {
        let packets = |packets| PacketsBytes { packets, bytes: 0 };
        let mut worker = Worker {
            received: packets(100),
            injected: packets(2),
            forwarded: packets(90),
            answered: packets(3),
            punted: packets(4),
            drops: vec![DropCount {
                reason: "NO_TUNNEL".into(),
                count: packets(5),
            }],
            ..Worker::default()
        };
        assert_eq!(worker.unaccounted(), 0);
        worker.forwarded.packets -= 1;
        assert_eq!(worker.unaccounted(), 1);
        worker.received.packets = 0;
        assert_eq!(worker.unaccounted(), -99);
    }
}
