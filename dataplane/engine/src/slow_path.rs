//! What the slow path did with the packets it took.

use std::sync::atomic::{AtomicU64, Ordering};

use sixferry_fwd::{DropReason, PacketsBytes};

/// What the slow path did with the packets it took, so that none goes unaccounted:
/// `taken = delivered + reinjected + merged + sum of drops + held`.
#[derive(Debug)]
pub struct SlowPathCounters {
    taken: AtomicU64,
    delivered: AtomicU64,
    reinjected: AtomicU64,
    merged: AtomicU64,
    reassembled: AtomicU64,
    held: AtomicU64,
    drops: [(AtomicU64, AtomicU64); DropReason::COUNT],
}

impl Default for SlowPathCounters {
    fn default() -> Self {
        Self {
            taken: AtomicU64::default(),
            delivered: AtomicU64::default(),
            reinjected: AtomicU64::default(),
            merged: AtomicU64::default(),
            reassembled: AtomicU64::default(),
            held: AtomicU64::default(),
            drops: std::array::from_fn(|_| (AtomicU64::default(), AtomicU64::default())),
        }
    }
}

impl SlowPathCounters {
    /// A packet was popped from a punt ring.
    pub fn count_taken(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// A packet reached the subscriber it was meant for, or the host.
    pub fn count_delivered(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }

    /// A packet went back to a worker, as it came or in pieces.
    pub fn count_reinjected(&self) {
        self.reinjected.fetch_add(1, Ordering::Relaxed);
    }

    /// Fragments became one datagram, which went back to a worker.
    pub fn count_reassembled(&self, fragments: u64) {
        self.merged.fetch_add(fragments, Ordering::Relaxed);
        self.reassembled.fetch_add(1, Ordering::Relaxed);
    }

    /// A packet was discarded.
    pub fn count_drop(&self, reason: DropReason, len: usize) {
        self.count_drops(reason, 1, len as u64);
    }

    /// Several packets were discarded.
    pub fn count_drops(&self, reason: DropReason, packets: u64, bytes: u64) {
        let (count, sum) = &self.drops[reason.index()];
        count.fetch_add(packets, Ordering::Relaxed);
        sum.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many packets wait now: for a next hop, or for the rest of their datagram.
    pub fn set_held(&self, held: usize) {
        self.held.store(held as u64, Ordering::Relaxed);
    }

    /// Popped from the punt rings.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Reached a subscriber or the host.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Went back to a worker.
    pub fn reinjected(&self) -> u64 {
        self.reinjected.load(Ordering::Relaxed)
    }

    /// Fragments that became part of a datagram.
    pub fn merged(&self) -> u64 {
        self.merged.load(Ordering::Relaxed)
    }

    /// Datagrams put together.
    pub fn reassembled(&self) -> u64 {
        self.reassembled.load(Ordering::Relaxed)
    }

    /// Waiting for a next hop, or for the rest of their datagram.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Discarded for `reason`.
    pub fn drops_for(&self, reason: DropReason) -> PacketsBytes {
        let (packets, bytes) = &self.drops[reason.index()];
        PacketsBytes {
            packets: packets.load(Ordering::Relaxed),
            bytes: bytes.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_path_counters_add_up() {
        let counters = SlowPathCounters::default();
        (0..4).for_each(|_| counters.count_taken());
        counters.count_delivered();
        counters.count_reinjected();
        counters.count_drop(DropReason::NexthopUnresolved, 100);
        counters.set_held(1);
        (0..3).for_each(|_| counters.count_taken());
        counters.count_reassembled(3);
        assert_eq!((counters.merged(), counters.reassembled()), (3, 1));
        let drops = counters.drops_for(DropReason::NexthopUnresolved);
        assert_eq!((drops.packets, drops.bytes), (1, 100));
        let kept = counters.delivered() + counters.reinjected() + counters.merged();
        assert_eq!(counters.taken(), kept + drops.packets + counters.held());
    }
}
