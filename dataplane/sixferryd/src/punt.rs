//! The slow path's thread: packets whose next hop is not resolved wait here while the kernel is
//! asked, and go back to their worker when it answers (proto41.md 6.2).

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sixferry_engine::{
    Held, Hold, HoldLimits, HoldQueue, InjectKind, Injector, PuntConsumer, PuntMeta,
    SlowPathCounters, Waker, monotonic,
};
use sixferry_fwd::{DropReason, PuntInfo, PuntReason};

/// Longest the thread sleeps while nothing waits.
const IDLE: Duration = Duration::from_secs(1);
/// How often it looks whether neighbours resolved while packets wait.
const LOOK: Duration = Duration::from_millis(10);

/// What the thread asks of the rest of the daemon.
pub(crate) trait Resolver: Send + Sync {
    /// Has the kernel resolve the neighbour a packet waits for.
    fn ask(&self, info: &PuntInfo);
    /// Those of `waiting` that can be sent to now.
    fn settled(&self, waiting: &[PuntInfo]) -> Vec<PuntInfo>;
}

/// The thread's state.
pub(crate) struct Punts {
    consumer: PuntConsumer,
    injector: Injector,
    resolver: Arc<dyn Resolver>,
    counters: Arc<SlowPathCounters>,
    queue: HoldQueue,
    /// Whom packets wait for.
    waiting: Vec<PuntInfo>,
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
        resolver: Arc<dyn Resolver>,
        counters: Arc<SlowPathCounters>,
    ) -> (Self, StopPunts) {
        let flag = Arc::new(AtomicBool::new(false));
        let stop = StopPunts {
            flag: Arc::clone(&flag),
            waker: consumer.waker(),
        };
        let queue = HoldQueue::new(HoldLimits::default());
        let waiting = Vec::new();
        let punts = Self {
            consumer,
            injector,
            resolver,
            counters,
            queue,
            waiting,
            stop: flag,
        };
        (punts, stop)
    }

    /// The thread.
    pub(crate) fn run(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            let pause = if self.queue.is_empty() { IDLE } else { LOOK };
            if let Err(error) = self.consumer.wait(pause) {
                tracing::error!(%error, "the punt thread cannot wait");
                std::thread::sleep(pause);
            }
            self.take();
            self.look();
            self.counters.set_held(self.queue.len());
        }
        for held in self.queue.clear() {
            self.give_up(&held);
        }
        self.counters.set_held(0);
    }

    fn take(&mut self) {
        let copied = |consumer: &mut PuntConsumer| {
            consumer
                .pop()
                .map(|loan| (loan.meta, loan.bytes().to_vec()))
        };
        while let Some((meta, bytes)) = copied(&mut self.consumer) {
            self.counters.count_taken();
            self.packet(&meta, bytes);
        }
    }

    fn packet(&mut self, meta: &PuntMeta, bytes: Vec<u8>) {
        let held = Held {
            bytes,
            rx_port: meta.rx_port,
            worker: meta.worker,
            since: meta.at,
        };
        if meta.reason != PuntReason::NextHopUnresolved {
            // Nobody subscribes to the others yet, so the workers do not punt them.
            self.counters
                .count_drop(DropReason::PuntLimit, held.bytes.len());
            return;
        }
        match self.queue.hold(&meta.info, held) {
            Hold::First => {
                self.resolver.ask(&meta.info);
                if !self.waiting.contains(&meta.info) {
                    self.waiting.push(meta.info);
                }
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
        for info in self.resolver.settled(&self.waiting) {
            let released = match (info.resolve, info.next_hop) {
                (Some(address), _) => self.queue.release(address),
                (None, Some(id)) => self.queue.release_next_hop(id),
                (None, None) => Vec::new(),
            };
            for held in released {
                self.send_back(&held);
            }
            self.waiting.retain(|other| *other != info);
        }
        for held in self.queue.expire(monotonic()) {
            self.give_up(&held);
        }
        if self.queue.is_empty() {
            self.waiting.clear();
        } else {
            let alive: Vec<IpAddr> = self.queue.addresses().collect();
            self.waiting
                .retain(|info| info.resolve.is_none_or(|address| alive.contains(&address)));
        }
    }

    fn send_back(&self, held: &Held) {
        let kind = InjectKind::Process {
            rx_port: held.rx_port,
        };
        match self.injector.inject(held.worker, &held.bytes, kind) {
            Ok(()) => self.counters.count_reinjected(),
            Err(_) => self.give_up(held),
        }
    }

    fn give_up(&self, held: &Held) {
        self.counters
            .count_drop(DropReason::NexthopUnresolved, held.bytes.len());
    }
}
