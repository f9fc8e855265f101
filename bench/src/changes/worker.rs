//! The worker: a batch, the newest tables, the next batch.

use crate::arena::{Arena, Direction, FRAMES};
use crate::cpu;
use crate::population::Destinations;
use sixferry_engine::TablesReader;
use sixferry_fwd::{BATCH_MAX, Local, Tables, Ticks, process};
use std::time::{Duration, Instant};

/// Passes before those that count.
const WARM_UP: usize = 2;

/// A snapshot was met for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Adoption {
    pub(super) generation: u64,
    /// Since the bench's epoch.
    pub(super) at: Duration,
}

/// What the worker did for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Stretch {
    pub(super) packets: u64,
    pub(super) lost: u64,
    /// In batches; writing the frames anew is not in it.
    pub(super) busy: Duration,
    pub(super) longest_batch: Duration,
    pub(super) on_cpu: Duration,
    pub(super) took: Duration,
}

impl Stretch {
    /// Both together.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            lost: self.lost + other.lost,
            busy: self.busy + other.busy,
            longest_batch: self.longest_batch.max(other.longest_batch),
            on_cpu: self.on_cpu + other.on_cpu,
            took: self.took + other.took,
        }
    }

    /// The share of its CPU that it had.
    pub(super) fn share(&self) -> f64 {
        self.on_cpu.as_secs_f64() / self.took.as_secs_f64().max(1e-9)
    }

    /// Million packets a second.
    pub(super) fn mpps(&self) -> f64 {
        self.packets as f64 / self.busy.as_secs_f64().max(1e-9) / 1e6
    }
}

/// The tables as a worker has them, and when it got them.
struct Newest {
    reader: TablesReader,
    adoptions: Vec<Adoption>,
    epoch: Instant,
}

impl Newest {
    fn tables(&mut self) -> &Tables {
        let before = self.reader.generation();
        _ = self.reader.load();
        let generation = self.reader.generation();
        if generation != before {
            let at = self.epoch.elapsed();
            self.adoptions.push(Adoption { generation, at });
        }
        self.reader.load()
    }
}

/// Processes packets of the tunnels that do not change.
pub(super) struct Worker<'m> {
    arena: Arena<'m>,
    local: Local,
    newest: Newest,
}

impl<'m> Worker<'m> {
    pub(super) fn new(
        arena: Arena<'m>,
        local: Local,
        reader: TablesReader,
        epoch: Instant,
    ) -> Self {
        Self {
            arena,
            local,
            newest: Newest {
                reader,
                adoptions: Vec::new(),
                epoch,
            },
        }
    }

    /// Takes the newest tables and does nothing with them.
    pub(super) fn look(&mut self) {
        _ = self.newest.tables();
    }

    /// Works for a while; also says which tables came meanwhile.
    pub(super) fn stretch(
        &mut self,
        traffic: &Destinations,
        direction: Direction,
        inner_len: usize,
        length: Duration,
    ) -> (Stretch, Vec<Adoption>) {
        let mut stretch = Stretch::default();
        for _ in 0..WARM_UP {
            self.pass(traffic, direction, inner_len, &mut stretch);
        }
        stretch = Stretch::default();
        let (start, on_cpu) = (Instant::now(), cpu::time_of_thread());
        while start.elapsed() < length {
            self.pass(traffic, direction, inner_len, &mut stretch);
        }
        stretch.on_cpu = cpu::time_of_thread().saturating_sub(on_cpu);
        stretch.took = start.elapsed();
        (stretch, std::mem::take(&mut self.newest.adoptions))
    }

    fn pass(
        &mut self,
        traffic: &Destinations,
        direction: Direction,
        inner_len: usize,
        stretch: &mut Stretch,
    ) {
        let Self {
            arena,
            local,
            newest,
        } = self;
        arena.fill_and(traffic, direction, inner_len, || _ = newest.tables());
        let before = local.counters().forwarded.packets;
        let mut last = Instant::now();
        let start = last;
        arena.each_batch(direction, BATCH_MAX, |batch| {
            process(batch, newest.tables(), local, Ticks(1));
            let now = Instant::now();
            stretch.longest_batch = stretch.longest_batch.max(now - last);
            last = now;
        });
        stretch.busy += last - start;
        stretch.packets += FRAMES as u64;
        stretch.lost += FRAMES as u64 - (local.counters().forwarded.packets - before);
    }
}
