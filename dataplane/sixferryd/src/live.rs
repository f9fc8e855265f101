//! What the dataplane learns beside its tables, as the API and the metrics read it.
//!
//! The threads that learn it (liveness, events, reassembly, host port) stand behind one trait, so
//! that the API runs, and is tested, without them.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sixferry_fwd::{PacketsBytes, TunnelId};
use tokio::sync::broadcast;

/// Events a slow watcher can fall behind before it loses some.
pub(crate) const EVENT_QUEUE: usize = 1024;

/// An IPv4 address and a UDP port.
pub(crate) type Endpoint = (Ipv4Addr, u16);

/// Whether a watched peer is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LifeState {
    /// The first verdict is still due.
    Unknown,
    Up,
    /// Silent for three intervals.
    Unreachable,
}

/// What is known of a watched peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) state: LifeState,
    /// Time since the last sign of life.
    pub(crate) last_seen: Option<Duration>,
}

/// Something noticed, for whoever watches.
#[derive(Clone, Debug)]
pub(crate) struct Notice {
    pub(crate) at: SystemTime,
    /// Owner of the tunnel it is about; `None` for ports.
    pub(crate) owner: Option<Arc<str>>,
    pub(crate) what: What,
}

/// What was noticed. Tunnels are named: they may be gone when somebody reads it.
#[derive(Clone, Debug)]
pub(crate) enum What {
    EndpointMismatch {
        tunnel: Arc<str>,
        local: Endpoint,
        seen: Endpoint,
        current: Option<Endpoint>,
    },
    EndpointChanged {
        tunnel: Arc<str>,
        from: Option<Endpoint>,
        to: Endpoint,
    },
    Liveness {
        tunnel: Arc<str>,
        from: LifeState,
        to: LifeState,
    },
    PathMtu {
        tunnel: Arc<str>,
        path_mtu: u16,
        /// Largest inner packet now.
        mtu: u16,
    },
    OuterError {
        tunnel: Arc<str>,
        icmp_type: u8,
        icmp_code: u8,
    },
    Port {
        port: Arc<str>,
        up: bool,
    },
    /// This many were lost before they could be told.
    Lost(u64),
}

/// Counters of liveness; the last four are of this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LivenessCounts {
    pub(crate) probes_sent: u64,
    pub(crate) replies: u64,
    /// Probes put off because the pace was reached.
    pub(crate) deferred: u64,
    pub(crate) watched: u64,
    pub(crate) up: u64,
    pub(crate) unreachable: u64,
    pub(crate) unknown: u64,
}

/// Counters of reassembly; the last two are of this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReassemblyCounts {
    pub(crate) fragments: u64,
    pub(crate) reassembled: u64,
    /// Fragments of peers without a tunnel here.
    pub(crate) refused: u64,
    pub(crate) open: u64,
    pub(crate) held_bytes: u64,
}

/// Counters of the host port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostPortCounts {
    pub(crate) to_host: PacketsBytes,
    pub(crate) from_host: PacketsBytes,
    /// The device would not take them.
    pub(crate) dropped: u64,
}

/// Counters of events by kind, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EventCounts {
    pub(crate) endpoint_mismatches: u64,
    pub(crate) endpoint_changes: u64,
    pub(crate) path_mtu_changes: u64,
    pub(crate) outer_errors: u64,
    /// Lost between the workers and the watchers.
    pub(crate) lost: u64,
}

/// State of a neighbour in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NeighbourState {
    Incomplete,
    Reachable,
    Stale,
    Delay,
    Probe,
    Failed,
    Permanent,
    NoArp,
}

/// A neighbour on a link of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NeighbourView {
    pub(crate) address: IpAddr,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) port: Arc<str>,
    /// 0: untagged.
    pub(crate) vlan: u16,
    pub(crate) state: NeighbourState,
    /// The kernel keeps it alive because we asked for it.
    pub(crate) managed: bool,
    pub(crate) used_by_next_hop: bool,
}

/// Everything that is learnt.
pub(crate) trait Live: Debug + Send + Sync {
    /// Events from now on. Made with [`EVENT_QUEUE`] places.
    fn events(&self) -> broadcast::Receiver<Arc<Notice>>;

    /// Counters of the events.
    fn event_counts(&self) -> EventCounts;

    /// What is known of a tunnel's peer; `None`: it is not watched.
    fn life(&self, tunnel: TunnelId) -> Option<Life>;

    /// Counters of liveness.
    fn liveness(&self) -> LivenessCounts;

    /// Counters of reassembly.
    fn reassembly(&self) -> ReassemblyCounts;

    /// Counters of the host port; `None`: there is none.
    fn host_port(&self) -> Option<HostPortCounts>;

    /// All neighbours on the links of the ports, at most 65,536.
    fn neighbours(&self) -> Vec<NeighbourView>;
}

/// Learns nothing: a daemon without ports.
#[derive(Debug)]
pub(crate) struct Idle {
    events: broadcast::Sender<Arc<Notice>>,
}

impl Default for Idle {
    fn default() -> Self {
        let events = broadcast::Sender::new(EVENT_QUEUE);
        Self { events }
    }
}

impl Live for Idle {
    fn events(&self) -> broadcast::Receiver<Arc<Notice>> {
        self.events.subscribe()
    }

    fn event_counts(&self) -> EventCounts {
        EventCounts::default()
    }

    fn life(&self, _tunnel: TunnelId) -> Option<Life> {
        None
    }

    fn liveness(&self) -> LivenessCounts {
        LivenessCounts::default()
    }

    fn reassembly(&self) -> ReassemblyCounts {
        ReassemblyCounts::default()
    }

    fn host_port(&self) -> Option<HostPortCounts> {
        None
    }

    fn neighbours(&self) -> Vec<NeighbourView> {
        Vec::new()
    }
}
