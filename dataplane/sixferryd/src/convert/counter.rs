//! Counters as messages.

use sixferry_fwd::{CounterSnapshot, DropReason, PuntReason, TunnelTotals};
use sixferry_proto::dataplane::v1 as pb;

use crate::live::{HostPortCounts, LivenessCounts, ReassemblyCounts};

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

pub(crate) fn packets_bytes(count: sixferry_fwd::PacketsBytes) -> pb::PacketsBytes {
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

pub(crate) fn reassembly_counters(now: ReassemblyCounts) -> pb::ReassemblyCounters {
    pb::ReassemblyCounters {
        fragments: now.fragments,
        reassembled: now.reassembled,
        open: now.open,
        held_bytes: now.held_bytes,
        refused: now.refused,
    }
}

pub(crate) fn host_port_counters(now: HostPortCounts) -> pb::HostPortCounters {
    pb::HostPortCounters {
        to_host: Some(packets_bytes(now.to_host)),
        from_host: Some(packets_bytes(now.from_host)),
        dropped: now.dropped,
    }
}

pub(crate) fn liveness_counters(now: LivenessCounts) -> pb::LivenessCounters {
    pb::LivenessCounters {
        probes_sent: now.probes_sent,
        replies: now.replies,
        watched: now.watched,
        up: now.up,
        unreachable: now.unreachable,
        unknown: now.unknown,
        deferred: now.deferred,
    }
}
