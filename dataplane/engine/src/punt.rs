//! The way from the workers to the slow path: one bounded ring per worker, one consumer.
//!
//! A worker may punt only as fast as its per-reason rates allow and only while a buffer is free;
//! otherwise the packet is dropped as `PUNT_LIMIT`. An attacker who provokes punts therefore costs
//! a fixed amount of memory and of the punt thread's time, and one reason cannot starve another of
//! its rate.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sixferry_fwd::{Event, PortId, PuntInfo, PuntReason, Ticks};

use crate::event::{EventProducer, EventRing, Noted};
use crate::limit::{Rate, TokenBucket};
use crate::ring::{Loan, PacketRing};
use crate::wake::Waker;

/// Bounds of the punt path, per worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PuntConfig {
    /// Packet buffers, 2 KiB each.
    pub buffers: usize,
    /// Rate per reason, by [`PuntReason::index`].
    pub rates: [Rate; PuntReason::COUNT],
    /// Events of all workers together that may wait for the slow path.
    pub events: usize,
}

impl Default for PuntConfig {
    /// 512 buffers; 1,000 packets a second for each reason with a burst of 128, but 20,000 for what
    /// is traffic of users (fragments, and packets to be fragmented) with a burst of 256: a TCP
    /// window comes at once, and half of the buffers stay free for others; 4,096 events.
    fn default() -> Self {
        let mut rates = [Rate {
            per_second: 1000,
            burst: 128,
        }; PuntReason::COUNT];
        for reason in [PuntReason::Fragment, PuntReason::OuterTooBig] {
            rates[reason.index()] = Rate {
                per_second: 20_000,
                burst: 256,
            };
        }
        Self {
            buffers: 512,
            rates,
            events: 4096,
        }
    }
}

/// What the slow path learns about a punted packet besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct PuntMeta {
    /// Why it was punted.
    pub reason: PuntReason,
    /// Where it came in.
    pub rx_port: PortId,
    /// The unresolved neighbour, the tunnel.
    pub info: PuntInfo,
    /// Which worker punted it: an answer is best injected there, behind the packets of its flow.
    pub worker: usize,
    /// When.
    pub at: Ticks,
}

/// One worker's punts, counted by reason.
#[derive(Debug, Default)]
pub struct PuntCounters {
    queued: [AtomicU64; PuntReason::COUNT],
    over_rate: [AtomicU64; PuntReason::COUNT],
    no_buffer: [AtomicU64; PuntReason::COUNT],
}

/// A reading of [`PuntCounters`], or the sum of several; arrays are by [`PuntReason::index`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PuntTotals {
    /// Handed to the slow path.
    pub queued: [u64; PuntReason::COUNT],
    /// Dropped: over the reason's rate.
    pub over_rate: [u64; PuntReason::COUNT],
    /// Dropped: no buffer free, the slow path is behind.
    pub no_buffer: [u64; PuntReason::COUNT],
}

impl PuntTotals {
    /// The sum of both.
    #[must_use]
    pub fn sum(&self, other: &Self) -> Self {
        let add = |a: [u64; PuntReason::COUNT], b: [u64; PuntReason::COUNT]| {
            std::array::from_fn(|i| a[i].wrapping_add(b[i]))
        };
        Self {
            queued: add(self.queued, other.queued),
            over_rate: add(self.over_rate, other.over_rate),
            no_buffer: add(self.no_buffer, other.no_buffer),
        }
    }
}

impl PuntCounters {
    /// The counts now.
    pub fn totals(&self) -> PuntTotals {
        let load = |counts: &[AtomicU64; PuntReason::COUNT]| {
            std::array::from_fn(|i| counts[i].load(Ordering::Relaxed))
        };
        PuntTotals {
            queued: load(&self.queued),
            over_rate: load(&self.over_rate),
            no_buffer: load(&self.no_buffer),
        }
    }
}

/// One writer per counter: a load and a store do, no locked add.
pub(crate) fn bump(counter: &AtomicU64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(1),
        Ordering::Relaxed,
    );
}

/// Makes the punt path of `workers` workers: a producer for each, and the punt thread's end.
///
/// # Errors
/// When the process has no file descriptor left for the wake-up.
pub fn punt_path(
    workers: usize,
    config: &PuntConfig,
) -> io::Result<(Vec<PuntProducer>, PuntConsumer)> {
    let waker = Waker::new()?;
    let blank = PuntMeta {
        reason: PuntReason::NextHopUnresolved,
        rx_port: PortId(0),
        info: PuntInfo::default(),
        worker: 0,
        at: Ticks(0),
    };
    let events = EventRing::new(workers, config.events);
    let producers: Vec<PuntProducer> = (0..workers)
        .map(|worker| PuntProducer {
            worker,
            ring: PacketRing::new(config.buffers, blank),
            buckets: config.rates.map(TokenBucket::new),
            counters: Arc::default(),
            events: EventProducer::new(Arc::clone(&events), worker),
            waker: waker.clone(),
            unannounced: false,
        })
        .collect();
    let consumer = PuntConsumer {
        events,
        rings: producers
            .iter()
            .map(|producer| producer.ring.clone())
            .collect(),
        counters: producers
            .iter()
            .map(|producer| Arc::clone(&producer.counters))
            .collect(),
        next: 0,
        waker,
    };
    Ok((producers, consumer))
}

/// A worker's end of the punt path.
#[derive(Debug)]
pub struct PuntProducer {
    worker: usize,
    ring: PacketRing<PuntMeta>,
    buckets: [TokenBucket; PuntReason::COUNT],
    counters: Arc<PuntCounters>,
    events: EventProducer,
    waker: Waker,
    unannounced: bool,
}

impl PuntProducer {
    /// Copies a packet to the punt ring; `false` when it is over its reason's rate or no buffer is
    /// free, and the packet is to be dropped as [`PuntLimit`](sixferry_fwd::DropReason::PuntLimit).
    pub fn offer(
        &mut self,
        bytes: &[u8],
        reason: PuntReason,
        rx_port: PortId,
        info: PuntInfo,
        now: Ticks,
    ) -> bool {
        let at = reason.index();
        if !self.buckets[at].take(now) {
            bump(&self.counters.over_rate[at]);
            return false;
        }
        let meta = PuntMeta {
            reason,
            rx_port,
            info,
            worker: self.worker,
            at: now,
        };
        if self.ring.push(bytes, meta).is_err() {
            bump(&self.counters.no_buffer[at]);
            return false;
        }
        bump(&self.counters.queued[at]);
        self.unannounced = true;
        true
    }

    /// Hands the slow path an event, if there is room.
    pub fn tell(&mut self, event: Event, now: Ticks) {
        self.unannounced |= self.events.push(event, now);
    }

    /// Publishes how many events were lost, with those the forwarding core left out itself.
    pub fn count_lost_events(&self, left_out: u64) {
        self.events.count_lost(left_out);
    }

    /// Wakes the punt thread if something was queued since the last call. Once per turn: the rates
    /// bound how many system calls that can be.
    pub fn announce(&mut self) {
        if self.unannounced {
            self.unannounced = false;
            self.waker.wake();
        }
    }

    /// The shared counters.
    pub fn counters(&self) -> &Arc<PuntCounters> {
        &self.counters
    }
}

/// The punt thread's end of the punt path: takes from the workers in turn.
#[derive(Debug)]
pub struct PuntConsumer {
    rings: Vec<PacketRing<PuntMeta>>,
    counters: Vec<Arc<PuntCounters>>,
    next: usize,
    events: Arc<EventRing>,
    waker: Waker,
}

impl PuntConsumer {
    /// The next punted packet. Its buffer goes back when the loan is dropped: copy what must
    /// outlive that, and do not hold many.
    pub fn pop(&mut self) -> Option<Loan<'_, PuntMeta>> {
        let workers = self.rings.len();
        let at = (0..workers)
            .map(|step| (self.next + step) % workers)
            .find(|at| !self.rings[*at].is_empty())?;
        self.next = (at + 1) % workers;
        self.rings[at].pop()
    }

    /// The next event of any worker.
    pub fn pop_event(&mut self) -> Option<Noted> {
        self.events.pop()
    }

    /// Events that found no room.
    pub fn events_lost(&self) -> u64 {
        self.events.lost()
    }

    /// Waits until a worker has punted or somebody used [`PuntConsumer::waker`], at most
    /// `timeout`. The caller then pops until there is nothing.
    ///
    /// # Errors
    /// When `poll` fails for another reason than a signal.
    pub fn wait(&self, timeout: Duration) -> io::Result<()> {
        let timeout = Timespec::try_from(timeout).unwrap_or(Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        });
        let mut fds = [PollFd::new(&self.waker, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.clear();
        Ok(())
    }

    /// Forgets past wake-ups; for callers that wait on the descriptor by other means. Clear first,
    /// then pop: what arrives in between wakes again.
    pub fn clear(&self) {
        self.waker.clear();
    }

    /// Wakes the punt thread for other work: to stop, or because a neighbour resolved.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Packets waiting in all rings.
    pub fn backlog(&self) -> usize {
        self.rings.iter().map(PacketRing::len).sum()
    }

    /// The counters of each worker.
    pub fn counters(&self) -> &[Arc<PuntCounters>] {
        &self.counters
    }
}

impl AsFd for PuntConsumer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}

/// For event loops that ask for a raw descriptor.
impl AsRawFd for PuntConsumer {
    fn as_raw_fd(&self) -> RawFd {
        self.waker.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REASON: PuntReason = PuntReason::Dhcpv6;

    fn offer(producer: &mut PuntProducer, reason: PuntReason, byte: u8, now: Ticks) -> bool {
        producer.offer(&[byte; 60], reason, PortId(3), PuntInfo::default(), now)
    }

    #[test]
    fn over_rate_is_refused_per_reason() {
        let mut config = PuntConfig::default();
        config.rates[REASON.index()] = Rate {
            per_second: 10,
            burst: 4,
        };
        let (mut producers, mut consumer) = punt_path(1, &config).unwrap();
        let producer = &mut producers[0];
        let now = Ticks(5 * Ticks::PER_SECOND);
        assert_eq!(
            (0..20).filter(|i| offer(producer, REASON, *i, now)).count(),
            4
        );
        assert!(
            offer(producer, PuntReason::RouterSolicitation, 9, now),
            "another reason's rate"
        );
        let later = Ticks(now.0 + Ticks::PER_SECOND / 10);
        assert!(offer(producer, REASON, 1, later));
        assert!(!offer(producer, REASON, 1, later));

        let totals = producer.counters().totals();
        assert_eq!(totals.queued[REASON.index()], 5);
        assert_eq!(totals.over_rate[REASON.index()], 17);
        assert_eq!(totals.no_buffer, [0; PuntReason::COUNT]);
        assert_eq!(consumer.backlog(), 6);
        let first = consumer.pop().unwrap();
        assert_eq!(
            (first.bytes(), first.meta.rx_port),
            (&[0_u8; 60][..], PortId(3))
        );
    }

    #[test]
    fn without_free_buffers_nothing_is_queued() {
        let config = PuntConfig {
            buffers: 3,
            rates: [Rate::UNLIMITED; PuntReason::COUNT],
            events: 1,
        };
        let (mut producers, mut consumer) = punt_path(1, &config).unwrap();
        let producer = &mut producers[0];
        assert_eq!(
            (0..10)
                .filter(|i| offer(producer, REASON, *i, Ticks(0)))
                .count(),
            3
        );
        assert_eq!(producer.counters().totals().no_buffer[REASON.index()], 7);
        drop(consumer.pop().unwrap());
        assert!(
            offer(producer, REASON, 42, Ticks(0)),
            "the buffer came back"
        );
    }

    #[test]
    fn consumer_takes_from_the_workers_in_turn() {
        let config = PuntConfig {
            rates: [Rate::UNLIMITED; PuntReason::COUNT],
            ..PuntConfig::default()
        };
        let (mut producers, mut consumer) = punt_path(3, &config).unwrap();
        for worker in [0, 0, 0, 2, 2] {
            assert!(offer(&mut producers[worker], REASON, 0, Ticks(1)));
        }
        let order: Vec<usize> =
            std::iter::from_fn(|| consumer.pop().map(|punt| punt.meta.worker)).collect();
        assert_eq!(order, [0, 2, 0, 2, 0]);
    }

    #[test]
    fn announce_wakes_the_waiting_consumer() {
        let (mut producers, mut consumer) = punt_path(1, &PuntConfig::default()).unwrap();
        let punting = std::thread::spawn(move || {
            assert!(offer(&mut producers[0], REASON, 1, Ticks(1)));
            producers[0].announce();
            producers
        });
        // without the wake-up this waits out its minute and the runner's limit ends the test
        let started = std::time::Instant::now();
        while consumer.pop().is_none() {
            consumer.wait(Duration::from_secs(60)).unwrap();
        }
        assert!(started.elapsed() < Duration::from_secs(30));
        punting.join().unwrap();
    }
}
