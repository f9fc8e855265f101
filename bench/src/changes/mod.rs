//! What the packets of untouched tunnels notice while others are added, replaced and removed.
//!
//! ```text
//!   CPU A: changes that are due -> TablesBuilder -> snapshot -> Publisher     (as sixferryd does)
//!                                                                   |
//!   CPU B: a batch of packets -> process(newest snapshot) <--------- one load a batch, as a worker
//! ```
//!
//! A round has two stretches with changes and two without, short ones, in an order in which what drifts
//! (the memory of a shared machine is faster in one second than in the next) favours neither; what
//! counts is the ratio within the round.

pub(crate) mod plan;
mod publisher;
mod report;
mod worker;

pub use publisher::Demand;
pub use report::Report;

use crate::arena::{Arena, Direction, Memory};
use crate::cpu;
use crate::error::{Context, Error};
use crate::population::{Destination, Destinations, Layout, local, programmed};
use plan::{ABSENT, Plan};
use publisher::{Changer, Changes};
use report::{Case, Round};
use sixferry_engine::{Publisher, Waker};
use sixferry_fwd::Tables;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};
use worker::Worker;

/// One of so many tunnels changes; the others carry the traffic. They lie among each other, so that a
/// changed one shares its chunk of every table with busy ones.
const CHANGING: usize = 8;

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Tunnels.
    pub tunnels: u32,
    /// How their prefixes lie.
    pub layout: Layout,
    /// What is changed, and how fast.
    pub demand: Demand,
    /// Rounds.
    pub rounds: u32,
    /// Length of each of the four stretches of a round.
    pub stretch: Duration,
    /// Length of the IPv6 packets.
    pub inner_len: usize,
    /// CPU of the worker, and of who makes the changes.
    pub cpus: [usize; 2],
}

/// Measures both directions.
///
/// # Errors
/// Where a CPU is not there, and what the tables refuse.
pub fn run(settings: &Settings) -> Result<Report, Error> {
    let [worker_cpu, changer_cpu] = settings.cpus;
    cpu::pin(worker_cpu).during(format!("CPU {worker_cpu}"))?;
    let programmed = programmed(settings.tunnels, settings.layout, 1);
    let (mut builder, all) = programmed.during("the tunnels")?;
    let (traffic, changing) = split(all);
    let absent = changing.len() / ABSENT;
    let plan = Plan::new(changing.len(), absent, 0x0c4a_46e5);
    let changes = Changes::new(&mut builder, changing, plan).during("the changing tunnels")?;
    let bytes_before = builder.memory();
    let mut publisher = Publisher::new(builder.snapshot());
    let reader = publisher.reader(Waker::new().during("a waker")?);
    let epoch = Instant::now();
    let mut memory = Memory::new();
    let mut worker = Worker::new(Arena::new(&mut memory, 7), local(), reader, epoch);
    let changer = Changer::new(builder, publisher, changes, settings.demand, epoch);

    let stop = AtomicBool::new(false);
    let (order, orders) = mpsc::channel();
    let (answer, answers) = mpsc::channel();
    std::thread::scope(|scope| {
        let stop = &stop;
        let thread = scope.spawn(move || work(changer, changer_cpu, &orders, stop, &answer));
        let mut bench = Bench {
            settings,
            traffic,
            worker: &mut worker,
            order,
            answers,
            stop,
        };
        let cases = bench.cases();
        // without anybody to give orders the thread ends
        drop(bench);
        let ended = thread.join().unwrap_or_else(|_| Err("it panicked".into()));
        let bytes_after = ended.during("the changes")?;
        Ok(Report::new(settings, cases?, [bytes_before, bytes_after]))
    })
}

/// Those that carry traffic, and those that change.
fn split(all: Vec<Destination>) -> (Destinations, Vec<Destination>) {
    let (mut traffic, mut changing) = (Vec::new(), Vec::new());
    for (at, destination) in all.into_iter().enumerate() {
        if at % CHANGING == CHANGING / 2 {
            changing.push(destination);
        } else {
            traffic.push(destination);
        }
    }
    (Destinations::new(traffic), changing)
}

/// The thread that makes changes; returns how large the tables are in the end.
fn work(
    mut changer: Changer<Tables>,
    cpu: usize,
    orders: &Receiver<()>,
    stop: &AtomicBool,
    answer: &Sender<publisher::Done>,
) -> Result<usize, String> {
    cpu::pin(cpu).map_err(|error| format!("CPU {cpu}: {error}"))?;
    while orders.recv().is_ok() {
        let done = changer.change_until(stop).map_err(|e| e.to_string())?;
        if answer.send(done).is_err() {
            break;
        }
    }
    Ok(changer.bytes())
}

struct Bench<'a, 'm> {
    settings: &'a Settings,
    traffic: Destinations,
    worker: &'a mut Worker<'m>,
    order: Sender<()>,
    answers: Receiver<publisher::Done>,
    stop: &'a AtomicBool,
}

impl Bench<'_, '_> {
    fn cases(&mut self) -> Result<Vec<Case>, Error> {
        let mut rounds = [const { Vec::new() }; 2];
        for round in 0..self.settings.rounds {
            for (direction, rounds) in Direction::ALL.into_iter().zip(&mut rounds) {
                rounds.push(self.round(direction, round % 2 == 0)?);
            }
        }
        let cases = Direction::ALL.into_iter().zip(rounds);
        Ok(cases
            .map(|(direction, rounds)| Case::new(direction, &rounds))
            .collect())
    }

    fn round(&mut self, direction: Direction, changes_first: bool) -> Result<Round, Error> {
        let mut round = Round::default();
        for with_changes in [true, false, false, true] {
            if with_changes == changes_first {
                let (stretch, done, adoptions) = self.changing(direction)?;
                round.changing(stretch, &done, &adoptions);
            } else {
                round.quiet(self.stretch(direction).0);
            }
        }
        Ok(round)
    }

    fn stretch(&mut self, direction: Direction) -> (worker::Stretch, Vec<worker::Adoption>) {
        let Settings {
            stretch, inner_len, ..
        } = *self.settings;
        self.worker
            .stretch(&self.traffic, direction, inner_len, stretch)
    }

    fn changing(
        &mut self,
        direction: Direction,
    ) -> Result<(worker::Stretch, publisher::Done, Vec<worker::Adoption>), Error> {
        self.stop.store(false, Ordering::Relaxed);
        let gone = "who makes the changes is gone";
        self.order.send(()).during(gone)?;
        let (stretch, adoptions) = self.stretch(direction);
        self.stop.store(true, Ordering::Relaxed);
        // the last snapshot still waits for somebody to take it
        let done = loop {
            self.worker.look();
            match self.answers.try_recv() {
                Ok(done) => break done,
                Err(TryRecvError::Empty) => std::thread::yield_now(),
                Err(TryRecvError::Disconnected) => return Err("it ended").during(gone),
            }
        };
        Ok((stretch, done, adoptions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_reach_the_worker_and_cost_no_packet() {
        let settings = Settings {
            tunnels: 4000,
            layout: Layout::Contiguous,
            demand: Demand {
                per_second: 10_000,
                batch: 20,
            },
            rounds: 1,
            stretch: Duration::from_millis(150),
            inner_len: 64,
            // one CPU is enough to be right
            cpus: [0, 0],
        };
        let report = run(&settings).expect("it runs");
        assert_eq!(report.lost(), 0);
        assert!(report.changes_seen() > 0, "no change reached the worker");
    }
}
