//! Counters and gauges of the mirror.

use std::sync::atomic::{AtomicU64, Ordering};

use super::neigh::KeeperStats;

/// A snapshot of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MirrorStats {
    /// Changes heard of, dumps included.
    pub(crate) changes: u64,
    /// Times the kernel dropped notifications because we were too slow.
    pub(crate) overruns: u64,
    /// Tables dumped.
    pub(crate) dumps: u64,
    /// Messages the codec did not understand.
    pub(crate) undecodable: u64,
    /// IPv4 prefixes mirrored.
    pub(crate) routes4: u64,
    /// IPv6 prefixes mirrored.
    pub(crate) routes6: u64,
    /// Of both, those that are unreachable because no port leads there.
    pub(crate) routes_without_port: u64,
    /// Neighbours with a MAC address.
    pub(crate) neighbours: u64,
    /// Routes and neighbours refused because there were too many.
    pub(crate) over_limit: u64,
    /// Neighbours kept resolved.
    pub(crate) kept: u64,
    /// Neighbours asked for and not answered yet.
    pub(crate) pending: u64,
    /// Resolutions not started: over a limit.
    pub(crate) resolve_refused: u64,
    /// Neighbour requests that the kernel refused.
    pub(crate) resolve_failed: u64,
}

/// What the mirror counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) changes: AtomicU64,
    pub(super) overruns: AtomicU64,
    pub(super) dumps: AtomicU64,
    pub(super) undecodable: AtomicU64,
    pub(super) routes4: AtomicU64,
    pub(super) routes6: AtomicU64,
    pub(super) without_port: AtomicU64,
    pub(super) neighbours: AtomicU64,
    pub(super) over_limit: AtomicU64,
    pub(super) resolve_dropped: AtomicU64,
}

impl Counters {
    pub(super) fn snapshot(&self, keeper: &KeeperStats) -> MirrorStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MirrorStats {
            changes: load(&self.changes),
            overruns: load(&self.overruns),
            dumps: load(&self.dumps),
            undecodable: load(&self.undecodable),
            routes4: load(&self.routes4),
            routes6: load(&self.routes6),
            routes_without_port: load(&self.without_port),
            neighbours: load(&self.neighbours),
            over_limit: load(&self.over_limit),
            kept: load(&keeper.kept),
            pending: load(&keeper.pending),
            resolve_refused: load(&keeper.refused) + load(&self.resolve_dropped),
            resolve_failed: load(&keeper.failed),
        }
    }
}
