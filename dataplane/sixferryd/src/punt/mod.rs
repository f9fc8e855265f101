//! The slow path's thread: packets whose next hop is not resolved wait here while the kernel is
//! asked, and go back to their worker when it answers; fragments are put together
//! and cut; events of the workers go on to whoever watches.

mod fragments;
mod waiting;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sixferry_engine::{
    Held, Hold, HoldLimits, HoldQueue, InjectKind, Injector, Noted, PuntConsumer, PuntMeta,
    SlowPathCounters, Waker, monotonic,
};
use sixferry_fwd::reassembly::Limits;
use sixferry_fwd::{DropReason, PortId, PuntInfo, PuntReason};

use fragments::Fragments;
pub(crate) use fragments::{Egress, ReassemblyStats};
use waiting::Waiting;

/// Longest the thread sleeps while nothing waits.
const IDLE: Duration = Duration::from_secs(1);
/// How often it looks whether neighbours resolved while packets wait for them.
const LOOK: Duration = Duration::from_millis(10);
/// How often it looks whether the workers see that they did.
const PUBLISHED: Duration = Duration::from_millis(1);
/// How often it looks whether datagrams are overdue while fragments wait.
const OVERDUE: Duration = Duration::from_millis(250);

/// What the thread asks of the rest of the daemon.
pub(crate) trait Surroundings: Send + Sync {
    /// Has the kernel resolve the neighbour a packet waits for.
    fn ask(&self, info: &PuntInfo);
    /// Those of `waiting` that the workers can send to once they see the change of this number.
    fn settled(&self, waiting: &[PuntInfo]) -> (Vec<PuntInfo>, u64);
    /// Number of the last change that the workers see.
    fn visible(&self) -> u64;
    /// Whether packets of a port begin with an Ethernet header.
    fn is_ethernet(&self, port: PortId) -> bool;
    /// Where a packet that is too big leaves.
    fn egress(&self, info: &PuntInfo) -> Option<Egress>;
    /// Workers noticed these; that many never arrived, in all.
    fn noted(&self, events: &[Noted], lost: u64);
}

/// What the thread shares with those who read counters.
#[derive(Clone, Debug, Default)]
pub(crate) struct PuntStats {
    pub(crate) slow_path: Arc<SlowPathCounters>,
    pub(crate) reassembly: Arc<ReassemblyStats>,
}

/// The thread's state.
pub(crate) struct Punts {
    consumer: PuntConsumer,
    injector: Injector,
    surroundings: Arc<dyn Surroundings>,
    stats: PuntStats,
    queue: HoldQueue,
    /// Whom packets wait for.
    waiting: Waiting,
    fragments: Fragments,
    events_lost: u64,
    stop: Arc<AtomicBool>,
}

/// Ends the thread.
#[derive(Clone, Debug)]
pub(crate) struct StopPunts {
    flag: Arc<AtomicBool>,
    waker: Waker,
}

impl StopPunts {
    pub(crate) fn stop(&self) {
        self.flag.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl Punts {
    pub(crate) fn new(
        consumer: PuntConsumer,
        injector: Injector,
        surroundings: Arc<dyn Surroundings>,
        limits: Limits,
        stats: PuntStats,
    ) -> (Self, StopPunts) {
        let flag = Arc::new(AtomicBool::new(false));
        let stop = StopPunts {
            flag: Arc::clone(&flag),
            waker: consumer.waker(),
        };
        let punts = Self {
            consumer,
            injector,
            surroundings,
            stats,
            queue: HoldQueue::new(HoldLimits::default()),
            waiting: Waiting::default(),
            fragments: Fragments::new(limits),
            events_lost: 0,
            stop: flag,
        };
        (punts, stop)
    }

    /// The thread.
    pub(crate) fn run(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            let pause = match (self.queue.is_empty(), self.fragments.held()) {
                (false, _) if self.waiting.settles() => PUBLISHED,
                (false, _) => LOOK,
                (true, 0) => IDLE,
                (true, _) => OVERDUE,
            };
            if let Err(error) = self.consumer.wait(pause) {
                tracing::error!(%error, "the punt thread cannot wait");
                std::thread::sleep(pause);
            }
            self.turn();
        }
        for held in self.queue.clear() {
            self.give_up(&held);
        }
        self.stats.slow_path.set_held(0);
    }

    /// Everything that is due now.
    fn turn(&mut self) {
        self.take();
        self.look();
        self.fragments.expire(monotonic(), &self.stats.slow_path);
        self.fragments.show(&self.stats.reassembly);
        let held = self.queue.len() as u64 + self.fragments.held();
        let slow_path = &self.stats.slow_path;
        slow_path.set_held(usize::try_from(held).unwrap_or(usize::MAX));
        self.pass_on();
    }

    fn take(&mut self) {
        let copied = |consumer: &mut PuntConsumer| {
            consumer
                .pop()
                .map(|loan| (loan.meta, loan.bytes().to_vec()))
        };
        while let Some((meta, bytes)) = copied(&mut self.consumer) {
            self.stats.slow_path.count_taken();
            self.packet(&meta, bytes);
        }
    }

    fn packet(&mut self, meta: &PuntMeta, bytes: Vec<u8>) {
        match meta.reason {
            PuntReason::NextHopUnresolved => self.hold(meta, bytes),
            PuntReason::Fragment => {
                let ethernet = self.surroundings.is_ethernet(meta.rx_port);
                let (stats, injector) = (&self.stats, &self.injector);
                let gauges = &stats.reassembly;
                self.fragments
                    .receive(meta, &bytes, ethernet, &stats.slow_path, gauges, injector);
            }
            PuntReason::OuterTooBig => match self.surroundings.egress(&meta.info) {
                Some(egress) => {
                    let counters = &self.stats.slow_path;
                    self.fragments
                        .send(meta, &bytes, &egress, counters, &self.injector);
                }
                None => self.drop_packet(DropReason::PortDown, bytes.len()),
            },
            // Nobody subscribes to the others, so the workers do not punt them.
            _ => self.drop_packet(DropReason::PuntLimit, bytes.len()),
        }
    }

    fn drop_packet(&self, reason: DropReason, len: usize) {
        self.stats.slow_path.count_drop(reason, len);
    }

    fn hold(&mut self, meta: &PuntMeta, bytes: Vec<u8>) {
        let held = Held {
            bytes,
            rx_port: meta.rx_port,
            worker: meta.worker,
            since: meta.at,
        };
        match self.queue.hold(&meta.info, held) {
            Hold::First => {
                self.surroundings.ask(&meta.info);
                self.waiting.add(meta.info);
            }
            Hold::Behind => {}
            Hold::Replaced(lost) | Hold::Refused(lost) => self.give_up(&lost),
        }
    }

    /// Sends on what resolved, gives up what has waited too long.
    fn look(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let (settled, change) = self.surroundings.settled(self.waiting.asked());
        self.waiting.settle(settled, change);
        for info in self.waiting.seen(self.surroundings.visible()) {
            let released = match (info.resolve, info.next_hop) {
                (Some(address), _) => self.queue.release(address),
                (None, Some(id)) => self.queue.release_next_hop(id),
                (None, None) => Vec::new(),
            };
            for held in released {
                self.send_back(&held);
            }
        }
        for held in self.queue.expire(monotonic()) {
            self.give_up(&held);
        }
        if self.queue.is_empty() {
            self.waiting.clear();
        } else {
            let alive: Vec<IpAddr> = self.queue.addresses().collect();
            self.waiting.keep(&alive);
        }
    }

    fn send_back(&self, held: &Held) {
        let kind = InjectKind::Process {
            rx_port: held.rx_port,
        };
        match self.injector.inject(held.worker, &held.bytes, kind) {
            Ok(()) => self.stats.slow_path.count_reinjected(),
            Err(_) => self.give_up(held),
        }
    }

    fn give_up(&self, held: &Held) {
        self.drop_packet(DropReason::NexthopUnresolved, held.bytes.len());
    }

    /// The workers' events.
    fn pass_on(&mut self) {
        let events: Vec<Noted> = std::iter::from_fn(|| self.consumer.pop_event()).collect();
        let lost = self.consumer.events_lost();
        if !events.is_empty() || lost != self.events_lost {
            self.events_lost = lost;
            self.surroundings.noted(&events, lost);
        }
    }
}
