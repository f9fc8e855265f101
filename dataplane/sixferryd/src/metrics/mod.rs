//! Prometheus metrics: read from the live counters at scrape time, so they cost nothing between.
//!
//! Labels are bounded: workers, ports, queues, reasons, owners (at most 256), domains (at most 64).
//! Never tunnels; the API ranks those.

mod learnt;

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;
use sixferry_engine::PuntTotals;
use sixferry_fwd::{CounterSnapshot, DropReason, PacketsBytes, PuntReason, TunnelTotals};

use sixferry_service::{Families, label as one};

use crate::control::domains::MAX_DOMAINS;
use crate::control::shared::Shared;
use crate::live::Live;
use crate::netlink::{Mirror, MirrorStats};
use crate::runtime::Runtime;
use crate::state_file::SaveCounts;

/// Reads everything at scrape time.
pub(crate) struct Metrics {
    pub(crate) shared: Arc<Shared>,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) mirror: Option<Arc<Mirror>>,
    pub(crate) live: Arc<dyn Live>,
    /// `None`: the tables are not saved.
    pub(crate) saved: Option<Arc<SaveCounts>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// The registry to scrape.
    pub(crate) fn registry(self) -> Registry {
        let mut registry = Registry::with_prefix("sixferry");
        registry.register_collector(Box::new(self));
        registry
    }
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut out = Families { encoder };
        let labels = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        out.gauges("build_info", "The running version", [(labels, 1)])?;
        self.packets(&mut out)?;
        self.workers(&mut out)?;
        self.slow_path(&mut out)?;
        self.ports(&mut out)?;
        self.tables(&mut out)?;
        self.domains(&mut out)?;
        learnt::encode(&mut out, &*self.live)?;
        if let Some(saved) = &self.saved {
            let (written, failed, objects) = saved.read();
            out.counter("state_file_writes", "Times the tables were saved", written)?;
            out.counter("state_file_failures", "Times that failed", failed)?;
            out.gauge("state_file_objects", "Objects in the last file", objects)?;
        }
        match &self.mirror {
            Some(mirror) => netlink(&mut out, mirror.stats()),
            None => Ok(()),
        }
    }
}

impl Metrics {
    fn packets(&self, out: &mut Families<'_>) -> Result<(), Error> {
        type Pick = fn(&CounterSnapshot) -> PacketsBytes;
        const KINDS: [(&str, &str, Pick); 5] = [
            ("received", "taken from ports", |c| c.received),
            ("injected", "given back by the slow path", |c| c.injected),
            ("forwarded", "sent on", |c| c.forwarded),
            ("answered", "turned into an answer", |c| c.answered),
            ("punted", "handed to the slow path", |c| c.punted),
        ];
        let each = self.runtime.counters();
        for (kind, text, pick) in KINDS {
            let packets = each
                .iter()
                .enumerate()
                .map(|(i, c)| (one("worker", i), pick(c).packets));
            out.counters(
                &format!("{kind}_packets"),
                &format!("Packets {text}"),
                packets,
            )?;
            let bytes = each
                .iter()
                .enumerate()
                .map(|(i, c)| (one("worker", i), pick(c).bytes));
            out.counters(&format!("{kind}_bytes"), &format!("Bytes {text}"), bytes)?;
        }
        let total = each
            .iter()
            .fold(CounterSnapshot::default(), |sum, one| sum.sum(one));
        let drops = DropReason::ALL
            .iter()
            .map(|r| (one("reason", r.label()), total.drops_for(*r)));
        let packets = drops.clone().map(|(labels, count)| (labels, count.packets));
        out.counters("drop_packets", "Packets dropped, by reason", packets)?;
        let bytes = drops.map(|(labels, count)| (labels, count.bytes));
        out.counters("drop_bytes", "Bytes dropped, by reason", bytes)?;
        let punts = PuntReason::ALL.iter().zip(total.punts);
        let punts = punts.map(|(reason, count)| (one("reason", reason.name()), count));
        out.counters(
            "punt_packets",
            "Packets handed to the slow path, by reason",
            punts,
        )?;
        let text = "Packets with an unusual combination of ECN fields (RFC 6040)";
        out.counter("ecn_unusual_packets", text, total.ecn_unusual)
    }

    fn workers(&self, out: &mut Families<'_>) -> Result<(), Error> {
        let reports: Vec<_> = self
            .runtime
            .workers
            .iter()
            .map(|w| w.stats.report())
            .collect();
        let each = |pick: fn(&sixferry_engine::WorkerReport) -> u64| {
            let values: Vec<_> = reports
                .iter()
                .enumerate()
                .map(|(i, r)| (one("worker", i), pick(r)))
                .collect();
            values
        };
        out.counters("worker_turns", "Iterations of the loop", each(|r| r.turns))?;
        out.counters(
            "worker_empty_turns",
            "Those without a packet",
            each(|r| r.empty_turns),
        )?;
        out.counters(
            "worker_sleeps",
            "Times it went to sleep",
            each(|r| r.sleeps),
        )?;
        out.counters(
            "worker_busy_nanoseconds",
            "Time with packets",
            each(|r| r.busy_ns),
        )?;
        out.counters(
            "worker_idle_nanoseconds",
            "Time without",
            each(|r| r.idle_ns),
        )?;
        let free = reports.iter().enumerate().map(|(i, r)| {
            (
                one("worker", i),
                i64::try_from(r.frames_free).unwrap_or(i64::MAX),
            )
        });
        out.gauges("worker_free_frames", "Packet buffers free", free)
    }

    fn slow_path(&self, out: &mut Families<'_>) -> Result<(), Error> {
        let punts = self.runtime.workers.iter().map(|w| w.punts.totals());
        let punts = punts.fold(PuntTotals::default(), |sum, one| sum.sum(&one));
        for (name, text, counts) in [
            (
                "punt_over_rate_packets",
                "Punts refused: over the reason's rate",
                punts.over_rate,
            ),
            (
                "punt_no_buffer_packets",
                "Punts refused: no buffer free",
                punts.no_buffer,
            ),
        ] {
            let counts = PuntReason::ALL.iter().zip(counts);
            let counts = counts.map(|(reason, count)| (one("reason", reason.name()), count));
            out.counters(name, text, counts)?;
        }
        let slow = &self.runtime.slow_path;
        out.counter(
            "slow_path_taken_packets",
            "Punted packets taken",
            slow.taken(),
        )?;
        out.counter(
            "slow_path_reinjected_packets",
            "Given back to a worker",
            slow.reinjected(),
        )?;
        out.counter("slow_path_delivered_packets", "Delivered", slow.delivered())?;
        let (transmitted, refused) = self.runtime.transmitted();
        out.counter(
            "slow_path_transmitted_packets",
            "Sent by a worker as they were: fragments, probes",
            transmitted,
        )?;
        out.counter(
            "slow_path_transmit_refused_packets",
            "Not sent for want of room in the ring, or of the port",
            refused,
        )?;
        out.gauge(
            "slow_path_held_packets",
            "Waiting for a next hop, or for the rest of their datagram",
            slow.held(),
        )?;
        out.counter(
            "slow_path_merged_packets",
            "Fragments that became part of a datagram",
            slow.merged(),
        )?;
        let drops = DropReason::ALL
            .iter()
            .map(|r| (one("reason", r.label()), slow.drops_for(*r).packets))
            .filter(|(_, count)| *count > 0);
        out.counters(
            "slow_path_drop_packets",
            "Given up by the slow path, by reason",
            drops,
        )
    }

    fn ports(&self, out: &mut Families<'_>) -> Result<(), Error> {
        let ports = &self.runtime.ports;
        let info = ports.iter().map(|port| {
            let labels = vec![
                ("port", port.name.clone()),
                ("mode", port.bind_mode().to_owned()),
                ("xdp", port.xdp_mode().to_owned()),
                ("reason", port.bind_reason()),
                ("driver", port.driver.clone()),
            ];
            (labels, 1)
        });
        out.gauges(
            "port_info",
            "The mode a port runs in, and why in no faster one",
            info,
        )?;
        let up = ports
            .iter()
            .map(|p| (one("port", &p.name), i64::from(p.link.read().up)));
        out.gauges("port_up", "Whether the port can send and receive", up)?;
        let queues: Vec<_> = ports
            .iter()
            .flat_map(|port| {
                self.runtime
                    .queues(port.id)
                    .map(move |(q, s)| (port, q, s.fields()))
            })
            .collect();
        let fields = sixferry_engine::PortQueueStats::default().fields();
        for (at, (name, _)) in fields.into_iter().enumerate() {
            let values = queues.iter().filter_map(|(port, queue, fields)| {
                let labels = vec![("port", port.name.clone()), ("queue", queue.to_string())];
                Some((labels, fields.get(at)?.1))
            });
            out.counters(&format!("queue_{name}"), "See docs/counters.md", values)?;
        }
        let mut steering = Vec::new();
        for port in ports {
            // A port that is going has no counters any more.
            let Ok(counters) = port.steering.lock().counters() else {
                continue;
            };
            for (outcome, packets) in counters.iter() {
                let labels = vec![
                    ("port", port.name.clone()),
                    ("outcome", outcome.name().to_owned()),
                ];
                steering.push((labels, packets));
            }
        }
        out.counters("steering_packets", "Decisions of the XDP program", steering)
    }

    fn tables(&self, out: &mut Families<'_>) -> Result<(), Error> {
        let (owners, bytes, revision) = self.shared.with(|control| {
            (
                control.owner_counts(),
                control.builder().memory(),
                control.revision(),
            )
        });
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let tunnels = owners
            .iter()
            .map(|(name, has)| (one("owner", name), gauge(has.tunnels)));
        out.gauges("tunnels", "Tunnels, by owner", tunnels)?;
        let domains = owners
            .iter()
            .map(|(name, has)| (one("owner", name), gauge(has.domains)));
        out.gauges("domains", "6to4 and 6rd domains, by owner", domains)?;
        let routes = owners
            .iter()
            .map(|(name, has)| (one("owner", name), gauge(has.routes)));
        out.gauges(
            "api_routes",
            "Routes written over the API, by owner",
            routes,
        )?;
        out.gauge(
            "table_bytes",
            "Memory of the forwarding tables",
            bytes as u64,
        )?;
        out.counter(
            "tunnel_table_changes",
            "Changes of the tunnel table",
            revision,
        )?;
        let resident = sixferry_service::resident_bytes().unwrap_or(0);
        out.gauge(
            "resident_memory_bytes",
            "Resident memory of the process",
            resident,
        )
    }
}

impl Metrics {
    fn domains(&self, out: &mut Families<'_>) -> Result<(), Error> {
        let (views, _) = self
            .shared
            .with(|control| control.list_domains(None, None, MAX_DOMAINS));
        let totals: Vec<_> = views
            .into_iter()
            .filter_map(|view| Some((view.id, view.totals?)))
            .collect();
        type Pick = fn(&TunnelTotals) -> u64;
        const KINDS: [(&str, &str, Pick); 4] = [
            ("domain_received_packets", "Packets out of a domain", |t| {
                t.in_packets
            }),
            ("domain_received_bytes", "Their bytes", |t| t.in_bytes),
            ("domain_sent_packets", "Packets into a domain", |t| {
                t.out_packets
            }),
            ("domain_sent_bytes", "Their bytes", |t| t.out_bytes),
        ];
        for (name, text, pick) in KINDS {
            let values = totals.iter().map(|(id, t)| (one("domain", id), pick(t)));
            out.counters(name, text, values)?;
        }
        let drops = totals.iter().flat_map(|(id, totals)| {
            totals.drops.iter().map(move |(reason, packets)| {
                let labels = vec![("domain", id.clone()), ("reason", reason.label())];
                (labels, *packets)
            })
        });
        out.counters(
            "domain_drop_packets",
            "Drops charged to a domain, by reason",
            drops,
        )
    }
}

fn netlink(out: &mut Families<'_>, stats: MirrorStats) -> Result<(), Error> {
    out.counter(
        "netlink_changes",
        "Changes heard from the kernel",
        stats.changes,
    )?;
    out.counter(
        "netlink_overruns",
        "Times the kernel dropped notifications",
        stats.overruns,
    )?;
    out.counter(
        "netlink_dumps",
        "Kernel tables read as a whole",
        stats.dumps,
    )?;
    out.counter(
        "netlink_undecodable",
        "Messages not understood",
        stats.undecodable,
    )?;
    out.counter(
        "netlink_over_limit",
        "Routes and neighbours refused",
        stats.over_limit,
    )?;
    let routes = [
        (one("family", "ipv4"), stats.routes4),
        (one("family", "ipv6"), stats.routes6),
    ];
    let routes = routes.map(|(l, count)| (l, i64::try_from(count).unwrap_or(i64::MAX)));
    out.gauges("kernel_routes", "Kernel routes mirrored", routes)?;
    let text = "Kernel routes that no port leads to";
    out.gauge(
        "kernel_routes_without_port",
        text,
        stats.routes_without_port,
    )?;
    out.gauge(
        "neighbours",
        "Neighbours with a MAC address",
        stats.neighbours,
    )?;
    out.gauge("neighbours_kept", "Neighbours kept resolved", stats.kept)?;
    out.gauge("neighbours_pending", "Neighbours asked for", stats.pending)?;
    out.counter(
        "neighbour_refused",
        "Resolutions not started",
        stats.resolve_refused,
    )?;
    out.counter(
        "neighbour_failed",
        "Resolutions the kernel refused",
        stats.resolve_failed,
    )
}

#[cfg(test)]
mod tests;
