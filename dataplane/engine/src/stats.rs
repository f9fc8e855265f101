//! What a worker tells about itself: turns, batches, time, frames, its queues of each port.
//!
//! One writer and relaxed stores, like the packet counters. Nothing here is exact between fields.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use sixferry_fwd::PortId;

use crate::frame::BATCH_MAX;
use crate::port::PortQueueStats;

/// Upper bounds of the batch size histogram's buckets.
pub const BATCH_BUCKETS: [usize; 8] = [1, 2, 4, 8, 16, 32, BATCH_MAX - 1, BATCH_MAX];

/// A worker's statistics; readable by any thread at any time.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerStats {
    turns: AtomicU64,
    empty_turns: AtomicU64,
    sleeps: AtomicU64,
    busy_ns: AtomicU64,
    idle_ns: AtomicU64,
    batches: [AtomicU64; BATCH_BUCKETS.len()],
    transmitted: AtomicU64,
    transmit_refused: AtomicU64,
    frames_free: AtomicU64,
    frames_total: AtomicU64,
    /// The CPU the worker is pinned to, or -1.
    cpu: AtomicI64,
    ports: Box<[PortSlot]>,
}

#[derive(Debug, Default)]
struct PortSlot {
    present: AtomicU64,
    held: AtomicU64,
    values: [AtomicU64; PortQueueStats::COUNT],
}

impl Default for WorkerStats {
    fn default() -> Self {
        Self {
            turns: AtomicU64::default(),
            empty_turns: AtomicU64::default(),
            sleeps: AtomicU64::default(),
            busy_ns: AtomicU64::default(),
            idle_ns: AtomicU64::default(),
            batches: Default::default(),
            transmitted: AtomicU64::default(),
            transmit_refused: AtomicU64::default(),
            frames_free: AtomicU64::default(),
            frames_total: AtomicU64::default(),
            cpu: AtomicI64::new(-1),
            ports: (0..PortId::MAX).map(|_| PortSlot::default()).collect(),
        }
    }
}

/// A reading of [`WorkerStats`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerReport {
    /// Iterations of the loop.
    pub turns: u64,
    /// Those that found nothing to do.
    pub empty_turns: u64,
    /// How often it went to sleep.
    pub sleeps: u64,
    /// Nanoseconds spent on turns that had packets.
    pub busy_ns: u64,
    /// Nanoseconds spent on empty turns and asleep.
    pub idle_ns: u64,
    /// Batches by size, see [`BATCH_BUCKETS`].
    pub batches: [u64; BATCH_BUCKETS.len()],
    /// Packets of the slow path sent as they were ([`InjectKind::Transmit`]). Not part of the
    /// packet counters' invariant, which is about packets that are decided upon.
    ///
    /// [`InjectKind::Transmit`]: crate::InjectKind::Transmit
    pub transmitted: u64,
    /// Those for which the tx ring had no room, or whose port is not there.
    pub transmit_refused: u64,
    /// Frames in the pool at the last look.
    pub frames_free: u64,
    /// Frames the worker owns.
    pub frames_total: u64,
    /// The CPU the worker is pinned to.
    pub cpu: Option<u32>,
}

impl WorkerReport {
    /// Share of the time spent on turns that had packets, 0 to 1.
    #[must_use]
    pub fn busy_share(&self) -> f64 {
        let total = self.busy_ns.saturating_add(self.idle_ns);
        if total == 0 {
            0.0
        } else {
            self.busy_ns as f64 / total as f64
        }
    }
}

impl WorkerStats {
    /// The statistics now.
    pub fn report(&self) -> WorkerReport {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        WorkerReport {
            turns: load(&self.turns),
            empty_turns: load(&self.empty_turns),
            sleeps: load(&self.sleeps),
            busy_ns: load(&self.busy_ns),
            idle_ns: load(&self.idle_ns),
            batches: std::array::from_fn(|i| load(&self.batches[i])),
            transmitted: load(&self.transmitted),
            transmit_refused: load(&self.transmit_refused),
            frames_free: load(&self.frames_free),
            frames_total: load(&self.frames_total),
            cpu: u32::try_from(self.cpu.load(Ordering::Relaxed)).ok(),
        }
    }

    /// The worker's queue of `port` as of its last look: when packets last ceased,
    /// or less than 100 ms ago.
    pub fn port(&self, port: PortId) -> Option<PortQueueStats> {
        let slot = self.ports.get(port.index())?;
        if slot.present.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let values = std::array::from_fn(|i| slot.values[i].load(Ordering::Relaxed));
        Some(PortQueueStats::from_values(values))
    }

    /// Frames inside the worker's queue of `port` as of its last look.
    pub fn port_held(&self, port: PortId) -> Option<u64> {
        let slot = self.ports.get(port.index())?;
        (slot.present.load(Ordering::Relaxed) != 0).then(|| slot.held.load(Ordering::Relaxed))
    }

    pub(crate) fn count_turn(&self, empty: bool) {
        add(&self.turns, 1);
        if empty {
            add(&self.empty_turns, 1);
        }
    }

    pub(crate) fn count_batch(&self, len: usize) {
        let bucket = BATCH_BUCKETS.iter().position(|bound| len <= *bound);
        if let Some(count) = bucket.and_then(|at| self.batches.get(at)) {
            add(count, 1);
        }
    }

    pub(crate) fn count_time(&self, busy: bool, nanoseconds: u64) {
        add(
            if busy { &self.busy_ns } else { &self.idle_ns },
            nanoseconds,
        );
    }

    pub(crate) fn count_sleep(&self) {
        add(&self.sleeps, 1);
    }

    pub(crate) fn count_transmit(&self, sent: bool) {
        add(
            if sent {
                &self.transmitted
            } else {
                &self.transmit_refused
            },
            1,
        );
    }

    pub(crate) fn set_frames(&self, free: usize, total: usize) {
        self.frames_free.store(free as u64, Ordering::Relaxed);
        self.frames_total.store(total as u64, Ordering::Relaxed);
    }

    pub(crate) fn set_cpu(&self, cpu: usize) {
        self.cpu
            .store(i64::try_from(cpu).unwrap_or(-1), Ordering::Relaxed);
    }

    pub(crate) fn set_port(&self, port: PortId, stats: &PortQueueStats, held: usize) {
        let Some(slot) = self.ports.get(port.index()) else {
            return;
        };
        for (shared, (_, value)) in slot.values.iter().zip(stats.fields()) {
            shared.store(value, Ordering::Relaxed);
        }
        slot.held.store(held as u64, Ordering::Relaxed);
        slot.present.store(1, Ordering::Relaxed);
    }

    pub(crate) fn clear_port(&self, port: PortId) {
        if let Some(slot) = self.ports.get(port.index()) {
            slot.present.store(0, Ordering::Relaxed);
        }
    }
}

/// One writer: no locked add.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(more),
        Ordering::Relaxed,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_batch_size_has_its_bucket() {
        let stats = WorkerStats::default();
        for len in 1..=BATCH_MAX {
            stats.count_batch(len);
        }
        assert_eq!(stats.report().batches, [1, 1, 2, 4, 8, 16, 31, 1]);
    }

    #[test]
    fn a_port_that_left_is_not_reported() {
        let stats = WorkerStats::default();
        let port = PortId(4);
        assert_eq!(stats.port(port), None);
        let queue = PortQueueStats {
            rx_packets: 3,
            ..PortQueueStats::default()
        };
        stats.set_port(port, &queue, 7);
        assert_eq!(
            (stats.port(port), stats.port_held(port)),
            (Some(queue), Some(7))
        );
        stats.clear_port(port);
        assert_eq!((stats.port(port), stats.port_held(port)), (None, None));
    }

    #[test]
    fn busy_share_of_no_time_is_zero() {
        let stats = WorkerStats::default();
        assert_eq!(stats.report().busy_share(), 0.0);
        stats.count_time(true, 30);
        stats.count_time(false, 70);
        assert!((stats.report().busy_share() - 0.3).abs() < 1e-9);
    }
}
