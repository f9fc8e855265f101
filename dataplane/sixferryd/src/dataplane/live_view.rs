//! What the threads of the dataplane have learnt, as the API and the metrics read it.

use std::sync::Arc;

use sixferry_fwd::TunnelId;
use tokio::sync::broadcast;

use crate::events::EventBus;
use crate::host_port::HostPortCounters;
use crate::live::{
    EventCounts, HostPortCounts, Life, Live, LivenessCounts, NeighbourView, Notice,
    ReassemblyCounts,
};
use crate::liveness::driver::Liveness;
use crate::netlink::Mirror;
use crate::punt::PuntStats;

pub(super) struct LiveView {
    pub(super) bus: Arc<EventBus>,
    pub(super) stats: PuntStats,
    pub(super) host: Option<Arc<HostPortCounters>>,
    pub(super) liveness: Arc<Liveness>,
    pub(super) mirror: Arc<Mirror>,
}

impl std::fmt::Debug for LiveView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveView").finish_non_exhaustive()
    }
}

impl Live for LiveView {
    fn events(&self) -> broadcast::Receiver<Arc<Notice>> {
        self.bus.subscribe()
    }

    fn event_counts(&self) -> EventCounts {
        self.bus.counts()
    }

    fn life(&self, tunnel: TunnelId) -> Option<Life> {
        self.liveness.life(tunnel)
    }

    fn liveness(&self) -> LivenessCounts {
        self.liveness.counts()
    }

    fn reassembly(&self) -> ReassemblyCounts {
        self.stats.reassembly.counts(&self.stats.slow_path)
    }

    fn host_port(&self) -> Option<HostPortCounts> {
        self.host.as_ref().map(|counters| counters.counts())
    }

    fn neighbours(&self) -> Vec<NeighbourView> {
        self.mirror.neighbours()
    }
}
