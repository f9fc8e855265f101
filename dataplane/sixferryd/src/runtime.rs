//! What the running dataplane tells about itself: ports, queues, workers. Read by the API and the
//! metrics; empty when the daemon runs without ports.

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use sixferry_engine::{PortQueueStats, PuntCounters, SlowPathCounters, WorkerStats};
use sixferry_fwd::{CounterSnapshot, PortId, WorkerCounters};
use sixferry_xsk::{BindMode, BindReport, Rung, Steering, XdpMode};

/// One packet thread.
#[derive(Debug)]
pub(crate) struct WorkerView {
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) stats: Arc<WorkerStats>,
    pub(crate) punts: Arc<PuntCounters>,
}

/// What may change while a port is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) vlans: Vec<u16>,
    /// Frames begin with an Ethernet header.
    pub(crate) ethernet: bool,
}

/// One interface.
pub(crate) struct PortView {
    pub(crate) id: PortId,
    pub(crate) name: String,
    pub(crate) ifindex: u32,
    pub(crate) driver: String,
    pub(crate) report: BindReport,
    pub(crate) queue_count: u32,
    pub(crate) steering: Arc<Mutex<Steering>>,
    pub(crate) link: RwLock<LinkState>,
}

impl PortView {
    /// Why the port runs in no faster mode; empty when there is none.
    pub(crate) fn bind_reason(&self) -> String {
        let report = &self.report;
        let tried: Vec<_> = report
            .tried
            .iter()
            .map(|(rung, error)| format!("{rung} refused: {error}"))
            .collect();
        match (tried.is_empty(), report.mode) {
            (false, _) => tried.join("; "),
            (true, BindMode::ZeroCopy) => String::new(),
            (true, BindMode::Copy) => format!("asked for {}", report.asked),
        }
    }

    /// The mode's name: zero-copy, copy or generic.
    pub(crate) fn bind_mode(&self) -> &'static str {
        match (self.report.rung, self.report.mode) {
            (Rung::Generic, _) => "generic",
            (_, BindMode::ZeroCopy) => "zero-copy",
            (_, BindMode::Copy) => "copy",
        }
    }

    /// Where the XDP program runs.
    pub(crate) fn xdp_mode(&self) -> &'static str {
        match self.report.xdp_mode {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        }
    }
}

/// Everything that runs.
#[derive(Default)]
pub(crate) struct Runtime {
    pub(crate) workers: Vec<WorkerView>,
    pub(crate) ports: Vec<PortView>,
    pub(crate) slow_path: Arc<SlowPathCounters>,
    /// Addresses of the host, whatever interface they are on.
    pub(crate) hosts: RwLock<Vec<IpAddr>>,
    /// How idle workers wait.
    pub(crate) idle: &'static str,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime")
            .field("workers", &self.workers.len())
            .field("ports", &self.ports.len())
            .finish_non_exhaustive()
    }
}

impl Runtime {
    /// Every worker's counters, each from one moment.
    pub(crate) fn counters(&self) -> Vec<CounterSnapshot> {
        self.workers
            .iter()
            .map(|worker| worker.counters.snapshot())
            .collect()
    }

    /// Packets of the slow path that the workers sent as they were, and those they could not send.
    pub(crate) fn transmitted(&self) -> (u64, u64) {
        self.workers.iter().fold((0, 0), |(sent, refused), worker| {
            let report = worker.stats.report();
            (sent + report.transmitted, refused + report.transmit_refused)
        })
    }

    /// A port by name.
    pub(crate) fn port(&self, name: &str) -> Option<&PortView> {
        self.ports.iter().find(|port| port.name == name)
    }

    /// A port's queues: worker (which is the queue's number too) and counters.
    pub(crate) fn queues(&self, port: PortId) -> impl Iterator<Item = (u32, PortQueueStats)> {
        (0..)
            .zip(&self.workers)
            .filter_map(move |(worker, view)| Some((worker, view.stats.port(port)?)))
    }
}
