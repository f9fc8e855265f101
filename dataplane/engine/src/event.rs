//! The way of events from the workers to the slow path's thread: one bounded ring for all workers.
//!
//! Events are rare and paced by the forwarding core; should they come faster than the slow path
//! takes them, the surplus is counted and lost, never waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use sixferry_fwd::{Event, Ticks};

/// An event, and who noticed it when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// What happened.
    pub event: Event,
    /// The worker.
    pub worker: usize,
    /// When.
    pub at: Ticks,
}

/// What both ends share.
#[derive(Debug)]
pub(crate) struct EventRing {
    queue: ArrayQueue<Noted>,
    /// By worker: events that found no room here, or none in their batch.
    lost: Box<[AtomicU64]>,
}

impl EventRing {
    pub(crate) fn new(workers: usize, capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            queue: ArrayQueue::new(capacity.max(1)),
            lost: (0..workers).map(|_| AtomicU64::default()).collect(),
        })
    }

    pub(crate) fn pop(&self) -> Option<Noted> {
        // An empty `pop` costs a full fence: look first.
        if self.queue.is_empty() {
            return None;
        }
        self.queue.pop()
    }

    pub(crate) fn lost(&self) -> u64 {
        let lost = self.lost.iter();
        lost.map(|worker| worker.load(Ordering::Relaxed)).sum()
    }
}

/// A worker's end.
#[derive(Debug)]
pub(crate) struct EventProducer {
    ring: Arc<EventRing>,
    worker: usize,
    refused: u64,
}

impl EventProducer {
    pub(crate) fn new(ring: Arc<EventRing>, worker: usize) -> Self {
        Self {
            ring,
            worker,
            refused: 0,
        }
    }

    /// Queues an event; `false` when there is no room for it.
    pub(crate) fn push(&mut self, event: Event, at: Ticks) -> bool {
        let noted = Noted {
            event,
            worker: self.worker,
            at,
        };
        let queued = self.ring.queue.push(noted).is_ok();
        self.refused += u64::from(!queued);
        queued
    }

    /// Publishes how many events are lost: those refused here, and `left_out` that never came.
    pub(crate) fn count_lost(&self, left_out: u64) {
        if let Some(lost) = self.ring.lost.get(self.worker) {
            lost.store(self.refused.wrapping_add(left_out), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use sixferry_fwd::TunnelId;

    use super::*;

    #[test]
    fn the_ring_is_bounded_and_counts_what_it_loses() {
        let ring = EventRing::new(2, 3);
        let mut producers = [0, 1].map(|worker| EventProducer::new(Arc::clone(&ring), worker));
        let event = |n| Event::PathMtu {
            tunnel: TunnelId(n),
            mtu: 1400,
        };
        let queued = (0..5).filter(|n| producers[*n as usize % 2].push(event(*n), Ticks(7)));
        assert_eq!(queued.count(), 3);
        for producer in &producers {
            producer.count_lost(10);
        }
        assert_eq!(ring.lost(), 2 + 20);
        let seen: Vec<(u32, usize)> = std::iter::from_fn(|| ring.pop())
            .map(|noted| (noted.event.tunnel().0, noted.worker))
            .collect();
        assert_eq!(seen, [(0, 0), (1, 1), (2, 0)]);
    }
}
