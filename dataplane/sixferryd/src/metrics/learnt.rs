//! What the threads beside the packet path count.

use std::fmt::Error;

use crate::live::{HostPortCounts, Live};
use sixferry_service::{Families, Labels, label as one};

pub(super) fn encode(out: &mut Families<'_>, live: &dyn Live) -> Result<(), Error> {
    events(out, live)?;
    liveness(out, live)?;
    reassembly(out, live)?;
    match live.host_port() {
        Some(counts) => host_port(out, counts),
        None => Ok(()),
    }
}

fn events(out: &mut Families<'_>, live: &dyn Live) -> Result<(), Error> {
    let now = live.event_counts();
    let kinds = [
        ("endpoint_mismatch", now.endpoint_mismatches),
        ("endpoint_changed", now.endpoint_changes),
        ("path_mtu", now.path_mtu_changes),
        ("outer_error", now.outer_errors),
    ];
    let kinds = kinds.map(|(kind, count)| (one("kind", kind), count));
    out.counters("events", "Events of the packet path, by kind", kinds)?;
    let text = "Events lost between the workers and the watchers";
    out.counter("events_lost", text, now.lost)
}

fn liveness(out: &mut Families<'_>, live: &dyn Live) -> Result<(), Error> {
    let now = live.liveness();
    let states = [
        ("up", now.up),
        ("unreachable", now.unreachable),
        ("unknown", now.unknown),
    ];
    let states: [(Labels, i64); 3] = states.map(|(state, count)| {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        (one("state", state), count)
    });
    let text = "Tunnels whose peer is watched, by state";
    out.gauges("liveness_tunnels", text, states)?;
    out.counter("liveness_probes", "Liveness probes sent", now.probes_sent)?;
    out.counter("liveness_replies", "Answers to them", now.replies)?;
    let text = "Probes put off because the pace was reached";
    out.counter("liveness_deferred_probes", text, now.deferred)
}

fn reassembly(out: &mut Families<'_>, live: &dyn Live) -> Result<(), Error> {
    let now = live.reassembly();
    let text = "Fragments taken for reassembly";
    out.counter("reassembly_fragments", text, now.fragments)?;
    let text = "Datagrams put together";
    out.counter("reassembly_datagrams", text, now.reassembled)?;
    let text = "Fragments of peers without a tunnel here";
    out.counter("reassembly_refused_fragments", text, now.refused)?;
    let text = "Datagrams being collected";
    out.gauge("reassembly_open", text, now.open)?;
    out.gauge(
        "reassembly_held_bytes",
        "Bytes held for them",
        now.held_bytes,
    )
}

fn host_port(out: &mut Families<'_>, now: HostPortCounts) -> Result<(), Error> {
    let ways = [("to_host", now.to_host), ("from_host", now.from_host)];
    let packets = ways.map(|(way, count)| (one("direction", way), count.packets));
    let text = "Packets between tunnels and this host's own stack";
    out.counters("host_port_packets", text, packets)?;
    let bytes = ways.map(|(way, count)| (one("direction", way), count.bytes));
    out.counters("host_port_bytes", "Their bytes", bytes)?;
    let text = "Packets the host's device would not take";
    out.counter("host_port_dropped_packets", text, now.dropped)
}
