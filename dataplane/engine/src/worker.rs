//! The worker: one thread's ports, frames and counters, and one iteration of its loop.
//!
//! A turn takes what was injected, then a batch of every port in turn, and has `process` decide:
//! packets are sent, punted or recycled, then every port is flushed once. A turn never locks,
//! allocates, frees or logs; the only system calls are the ports' wake-ups and that of the punt
//! thread.

use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;
use sixferry_fwd::{
    Batch, DropReason, Local, Packet, PortId, PuntReason, Tables, Ticks, Verdict, process,
};

use crate::frame::{BATCH_MAX, FRAME_LEN, FramePool, HEADROOM};
use crate::host::HostProducer;
use crate::inject::{InjectKind, InjectReceiver};
use crate::port::{Port, RxPacket};
use crate::publisher::TablesReader;
use crate::punt::PuntProducer;
use crate::stats::WorkerStats;
use crate::wake::Waker;

/// How often a busy worker looks at its ports' statistics. Asking a port may be a system call.
const STATS_INTERVAL: u64 = Ticks::PER_SECOND / 10;
/// A worker that becomes idle shows its final figures at once, but not more often than this: with
/// single packets it becomes idle a million times a second.
const STATS_PAUSE: u64 = Ticks::PER_SECOND / 1000;

/// A worker's queues, by port.
#[derive(Debug)]
pub struct PortSet<P> {
    slots: [Option<P>; PortId::MAX],
    /// Bit `i`: slot `i` is taken. Spares a turn the walk over all slots.
    present: u32,
}

impl<P> Default for PortSet<P> {
    fn default() -> Self {
        Self {
            slots: std::array::from_fn(|_| None),
            present: 0,
        }
    }
}

impl<P> PortSet<P> {
    /// No ports.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a port in its place.
    ///
    /// # Errors
    /// Gives it back when the place is taken or there is none of that number.
    pub fn insert(&mut self, id: PortId, port: P) -> Result<(), P> {
        match self.slots.get_mut(id.index()) {
            Some(slot @ None) => {
                *slot = Some(port);
                self.present |= 1 << id.0;
                Ok(())
            }
            _ => Err(port),
        }
    }

    /// Takes a port out.
    pub fn remove(&mut self, id: PortId) -> Option<P> {
        let port = self.slots.get_mut(id.index())?.take()?;
        self.present &= !(1 << id.0);
        Some(port)
    }

    /// The port of that number.
    pub fn get(&self, id: PortId) -> Option<&P> {
        self.slots.get(id.index())?.as_ref()
    }

    /// The port of that number.
    pub fn get_mut(&mut self, id: PortId) -> Option<&mut P> {
        self.slots.get_mut(id.index())?.as_mut()
    }

    /// The numbers of the ports present.
    pub fn ids(&self) -> PortIds {
        PortIds(self.present)
    }

    /// The ports present.
    pub fn iter(&self) -> impl Iterator<Item = (PortId, &P)> {
        self.ids().filter_map(|id| Some((id, self.get(id)?)))
    }
}

/// The numbers of the ports of a [`PortSet`], lowest first.
#[derive(Clone, Copy, Debug)]
pub struct PortIds(u32);

impl Iterator for PortIds {
    type Item = PortId;

    fn next(&mut self) -> Option<PortId> {
        if self.0 == 0 {
            return None;
        }
        let lowest = self.0.trailing_zeros();
        self.0 &= self.0 - 1;
        Some(PortId(lowest as u8))
    }
}

/// What one iteration did, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Taken from the ports.
    pub received: usize,
    /// Taken from the inject ring.
    pub injected: usize,
    /// Given to the ports: forwarded, answered and transmitted for the slow path.
    pub sent: usize,
    /// Given to the slow path.
    pub punted: usize,
    /// Discarded.
    pub dropped: usize,
}

impl Turn {
    /// Whether there was nothing to do.
    pub fn is_empty(&self) -> bool {
        self.received == 0 && self.injected == 0
    }
}

/// A change of the worker's ports while it runs.
#[derive(Debug)]
pub(crate) enum PortChange<P> {
    Attach(PortId, P),
    Detach(PortId),
}

/// The queues of port changes between a worker and its handle.
#[derive(Debug)]
pub(crate) struct PortChanges<P> {
    pub(crate) wanted: ArrayQueue<PortChange<P>>,
    /// Ports that left, to be dropped by the other thread: closing one is a system call.
    pub(crate) departed: ArrayQueue<(PortId, P)>,
}

impl<P> Default for PortChanges<P> {
    fn default() -> Self {
        Self {
            wanted: ArrayQueue::new(PortId::MAX),
            departed: ArrayQueue::new(PortId::MAX),
        }
    }
}

/// What a worker is made of.
#[derive(Debug)]
pub struct WorkerParts<P> {
    /// Its queue of every port.
    pub ports: PortSet<P>,
    /// Its frames.
    pub pool: FramePool,
    /// Where the tables come from.
    pub tables: TablesReader,
    /// Its counters and rate limits.
    pub local: Local,
    /// To the slow path.
    pub punt: PuntProducer,
    /// From the slow path.
    pub inject: InjectReceiver,
    /// To and from the host's own stack.
    pub host: Option<(HostProducer, InjectReceiver)>,
    /// Wakes it: the one its tables reader and inject ring know.
    pub waker: Waker,
}

/// One thread's part of the dataplane.
#[derive(Debug)]
pub struct Worker<P> {
    tables: TablesReader,
    inject: InjectReceiver,
    from_host: Option<InjectReceiver>,
    rx: ArrayVec<RxPacket, BATCH_MAX>,
    inner: Inner<P>,
    /// When the ports' statistics were published, and whether packets have passed since.
    stats_at: Ticks,
    stats_behind: bool,
    pub(crate) waker: Waker,
    pub(crate) changes: Arc<PortChanges<P>>,
}

/// What is written while the tables are borrowed.
#[derive(Debug)]
struct Inner<P> {
    ports: PortSet<P>,
    pool: FramePool,
    local: Local,
    punt: PuntProducer,
    host: Option<HostProducer>,
    stats: Arc<WorkerStats>,
}

impl<P: Port> Worker<P> {
    /// A worker that has not turned yet.
    pub fn new(parts: WorkerParts<P>) -> Self {
        let WorkerParts {
            ports,
            pool,
            tables,
            local,
            punt,
            inject,
            host,
            waker,
        } = parts;
        let stats = Arc::new(WorkerStats::default());
        let (host, from_host) = host.unzip();
        Self {
            tables,
            inject,
            from_host,
            rx: ArrayVec::new(),
            inner: Inner {
                ports,
                pool,
                local,
                punt,
                host,
                stats,
            },
            stats_at: Ticks(0),
            stats_behind: false,
            waker,
            changes: Arc::default(),
        }
    }

    /// One iteration. `now` must not step back between turns.
    pub fn turn(&mut self, now: Ticks) -> Turn {
        let mut turn = Turn::default();
        if !self.changes.wanted.is_empty() {
            self.change_ports();
        }
        let tables = self.tables.load();
        if !self.inject.is_empty() {
            self.inner
                .take_injected(&self.inject, &mut self.rx, tables, now, &mut turn);
        }
        if let Some(host) = self.from_host.as_ref().filter(|ring| !ring.is_empty()) {
            self.inner
                .take_injected(host, &mut self.rx, tables, now, &mut turn);
        }
        for id in self.inner.ports.ids() {
            let Inner { ports, pool, .. } = &mut self.inner;
            let Some(port) = ports.get_mut(id) else {
                continue;
            };
            port.rx(pool, &mut self.rx);
            if !self.rx.is_empty() {
                turn.received += self.rx.len();
                self.inner.stats.count_batch(self.rx.len());
                self.inner
                    .run(Source::Port(id), &mut self.rx, tables, now, &mut turn);
            }
        }
        self.inner.flush(&turn);
        self.stats_behind |= !turn.is_empty();
        let due = if turn.is_empty() && self.stats_behind {
            self.stats_at.0.saturating_add(STATS_PAUSE)
        } else {
            self.stats_at.0.saturating_add(STATS_INTERVAL)
        };
        if now.0 >= due {
            self.stats_at = now;
            self.stats_behind = false;
            self.inner.publish_stats();
        }
        turn
    }

    /// Stops for good: closes the ports, takes back what frames can be had, publishes the counters.
    pub fn shut_down(&mut self) {
        let Inner { ports, pool, .. } = &mut self.inner;
        for id in ports.ids() {
            if let Some(port) = ports.get_mut(id) {
                port.flush(pool);
                port.close(pool);
            }
        }
        self.inner.local.flush();
        self.inner.publish_stats();
    }

    #[cold]
    fn change_ports(&mut self) {
        let Inner {
            ports, pool, stats, ..
        } = &mut self.inner;
        // A port must have somewhere to go before it leaves.
        while !self.changes.departed.is_full()
            && let Some(change) = self.changes.wanted.pop()
        {
            let departed = match change {
                PortChange::Attach(id, port) => ports.insert(id, port).err().map(|port| (id, port)),
                PortChange::Detach(id) => ports.remove(id).map(|mut port| {
                    port.flush(pool);
                    port.close(pool);
                    stats.clear_port(id);
                    (id, port)
                }),
            };
            if let Some(departed) = departed {
                let refused = self.changes.departed.push(departed);
                debug_assert!(
                    refused.is_ok(),
                    "there was room and this is the only writer"
                );
            }
        }
    }

    /// The queues.
    pub fn ports(&self) -> &PortSet<P> {
        &self.inner.ports
    }

    /// The queues.
    pub fn ports_mut(&mut self) -> &mut PortSet<P> {
        &mut self.inner.ports
    }

    /// The worker's statistics, to be read by any thread.
    pub fn stats(&self) -> &Arc<WorkerStats> {
        &self.inner.stats
    }

    /// The packet counters as of the last turn.
    pub fn local(&self) -> &Local {
        &self.inner.local
    }

    /// Frames in the pool and in all ports. Between turns this is the capacity of the pool.
    pub fn frames(&self) -> usize {
        let held: usize = self.inner.ports.iter().map(|(_, port)| port.held()).sum();
        self.inner.pool.available() + held
    }

    /// How many frames the worker was given.
    pub fn frames_total(&self) -> usize {
        self.inner.pool.capacity()
    }

    /// The number of the snapshot used by the last turn.
    pub fn generation(&self) -> u64 {
        self.tables.generation()
    }

    /// Takes the worker apart, to look at its ports after a run.
    pub fn into_ports(self) -> PortSet<P> {
        self.inner.ports
    }
}

/// What became of one packet of a batch, once the batch no longer borrows the frames.
#[derive(Clone, Copy)]
struct Outcome {
    verdict: Verdict,
    head: u16,
    len: u16,
}

impl<P: Port> Inner<P> {
    /// Has one batch decided and carries the verdicts out; leaves `rx` empty.
    fn run(
        &mut self,
        source: Source<'_>,
        rx: &mut ArrayVec<RxPacket, BATCH_MAX>,
        tables: &Tables,
        now: Ticks,
        turn: &mut Turn,
    ) {
        let mut outcomes: ArrayVec<Outcome, BATCH_MAX> = ArrayVec::new();
        {
            let mut batch = match source {
                Source::Port(_) => Batch::new(),
                Source::Injected(_) => Batch::injected(),
            };
            for (i, packet) in rx.iter_mut().enumerate() {
                let pushed = batch.push(view(packet, source.rx_port(i)));
                debug_assert!(pushed.is_ok(), "a batch takes as many packets as `rx`");
            }
            process(&mut batch, tables, &mut self.local, now);
            for (i, (packet, verdict)) in batch.packets().iter().zip(batch.verdicts()).enumerate() {
                let len = packet.bytes().len();
                match *verdict {
                    Verdict::Punt(reason) => {
                        let (rx_port, info) = (packet.rx_port(), batch.punt_info(i));
                        let taken = match &mut self.host {
                            Some(host) if reason == PuntReason::HostDelivery => {
                                host.offer(packet.bytes())
                            }
                            _ => self.punt.offer(packet.bytes(), reason, rx_port, info, now),
                        };
                        if taken {
                            turn.punted += 1;
                        } else {
                            self.local.punt_refused(reason, len);
                            turn.dropped += 1;
                        }
                    }
                    Verdict::Drop(_) => turn.dropped += 1,
                    Verdict::Tx(_) | Verdict::Answer(_) => {}
                }
                outcomes.push(Outcome {
                    verdict: *verdict,
                    head: packet.head() as u16,
                    len: len as u16,
                });
            }
        }
        debug_assert_eq!(outcomes.len(), rx.len(), "one verdict per packet");
        self.local.take_events(|event| self.punt.tell(event, now));
        for (packet, outcome) in rx.drain(..).zip(outcomes) {
            self.dispatch(packet, outcome, turn);
        }
    }

    /// Sends or recycles the frame of a decided packet.
    fn dispatch(&mut self, packet: RxPacket, outcome: Outcome, turn: &mut Turn) {
        let Outcome { verdict, head, len } = outcome;
        let id = match verdict {
            Verdict::Tx(id) | Verdict::Answer(id) => id,
            Verdict::Punt(_) | Verdict::Drop(_) => return self.pool.push(packet.frame),
        };
        let packet = RxPacket {
            frame: packet.frame,
            head,
            len,
        };
        match self.send(id, packet) {
            Ok(()) => turn.sent += 1,
            Err(reason) => {
                self.local.tx_refused(verdict, reason, usize::from(len));
                turn.dropped += 1;
            }
        }
    }

    /// Queues a packet on a port; recycles the frame and says why when that cannot be.
    fn send(&mut self, id: PortId, packet: RxPacket) -> Result<(), DropReason> {
        let RxPacket { frame, head, len } = packet;
        let (frame, reason) = match self.ports.get_mut(id) {
            Some(port) => match port.tx(frame, head, len, &mut self.pool) {
                Ok(()) => return Ok(()),
                Err(frame) => (frame, DropReason::TxRingFull),
            },
            None => match &mut self.host {
                Some(host) if host.port() == id => {
                    let (from, to) = (usize::from(head), usize::from(head) + usize::from(len));
                    let bytes = frame.bytes().get(from..to).unwrap_or_default();
                    let taken = host.offer(bytes);
                    self.pool.push(frame);
                    return if taken {
                        Ok(())
                    } else {
                        Err(DropReason::TxRingFull)
                    };
                }
                _ => (frame, DropReason::PortDown),
            },
        };
        self.pool.push(frame);
        Err(reason)
    }

    /// Takes at most a batch from the inject ring. Without a free frame the packets wait there.
    fn take_injected(
        &mut self,
        inject: &InjectReceiver,
        rx: &mut ArrayVec<RxPacket, BATCH_MAX>,
        tables: &Tables,
        now: Ticks,
        turn: &mut Turn,
    ) {
        let mut rx_ports: ArrayVec<PortId, BATCH_MAX> = ArrayVec::new();
        for _ in 0..BATCH_MAX {
            let Some(mut frame) = self.pool.pop() else {
                break;
            };
            let Some(injected) = inject.pop() else {
                self.pool.push(frame);
                break;
            };
            let bytes = injected.bytes();
            frame.bytes_mut()[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
            let packet = RxPacket {
                frame,
                head: HEADROOM as u16,
                len: bytes.len() as u16,
            };
            turn.injected += 1;
            match injected.meta {
                InjectKind::Process { rx_port } => {
                    rx.push(packet);
                    rx_ports.push(rx_port);
                }
                InjectKind::Transmit { port } => {
                    let sent = self.send(port, packet).is_ok();
                    self.stats.count_transmit(sent);
                    *(if sent {
                        &mut turn.sent
                    } else {
                        &mut turn.dropped
                    }) += 1;
                }
            }
        }
        if !rx.is_empty() {
            self.run(Source::Injected(&rx_ports), rx, tables, now, turn);
        }
    }

    /// Flushes the ports, tells the punt thread and publishes the counters.
    fn flush(&mut self, turn: &Turn) {
        for id in self.ports.ids() {
            if let Some(port) = self.ports.get_mut(id) {
                port.flush(&mut self.pool);
            }
        }
        if !turn.is_empty() {
            self.punt.announce();
            if let Some(host) = &mut self.host {
                host.announce();
            }
            self.local.flush();
        }
        self.stats.count_turn(turn.is_empty());
    }

    fn publish_stats(&self) {
        self.punt.count_lost_events(self.local.events_lost());
        self.stats
            .set_frames(self.pool.available(), self.pool.capacity());
        for (id, port) in self.ports.iter() {
            self.stats.set_port(id, &port.stats(), port.held());
        }
    }
}

/// Where the packets of a batch come from.
#[derive(Clone, Copy)]
enum Source<'a> {
    Port(PortId),
    Injected(&'a [PortId]),
}

impl Source<'_> {
    fn rx_port(&self, i: usize) -> PortId {
        match self {
            Source::Port(id) => *id,
            Source::Injected(ids) => ids[i],
        }
    }
}

/// The packet as `process` takes it. A port that reports a range outside the frame (only a defect
/// could) yields an empty packet, which is dropped and counted.
fn view(packet: &mut RxPacket, rx_port: PortId) -> Packet<'_> {
    let (head, len) = (usize::from(packet.head), usize::from(packet.len));
    let (head, len) = if head + len <= FRAME_LEN {
        (head, len)
    } else {
        (HEADROOM, 0)
    };
    Packet::new(packet.frame.bytes_mut(), head, len, rx_port)
        .expect("the range was just checked against the frame")
}
