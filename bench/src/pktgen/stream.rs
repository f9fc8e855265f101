//! One stream of frames through a device under test, and what became of it.

use super::histogram::{Delays, Histogram};
use super::pace::Pace;
use super::remote::Role;
use super::role::{self, Reading};
use super::sink::{Arrived, DELAYS};
use crate::error::Error;
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long frames may be on their way.
const SETTLE: Duration = Duration::from_secs(3);
/// Nothing arrives for so long: nothing is on its way.
const QUIET: Duration = Duration::from_millis(50);
/// Between two looks at a stream of a number of frames.
const LOOK: Duration = Duration::from_millis(5);

/// How long a stream is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// So long.
    Time(Duration),
    /// So many frames.
    Frames(u64),
}

/// A stream to send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stream {
    /// Frames a second.
    pub pace: Pace,
    /// Until when.
    pub length: Length,
}

/// What became of a stream.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Frames sent.
    pub sent: u64,
    /// Frames that arrived.
    pub received: u64,
    /// Frames sent less frames that arrived; negative when more arrived.
    pub lost: i64,
    /// Tagged frames sent.
    pub tagged: u64,
    /// Tagged frames that arrived twice.
    pub duplicates: u64,
    /// Tagged frames that arrived after one sent later.
    pub reordered: u64,
    /// From the first frame to the order to stop.
    pub seconds: f64,
    /// The share of its CPU that the generator had in that time.
    pub generator_share: f64,
    /// The share of its CPU that the worker of the device under test had; 1 when nobody looks.
    pub worker_share: f64,
    /// One-way delays of the tagged frames.
    pub delays: Delays,
    /// The same, all of it.
    #[serde(skip)]
    pub histogram: Histogram,
}

impl Outcome {
    /// Million frames a second that were sent.
    #[must_use]
    pub fn offered_mpps(&self) -> f64 {
        self.sent as f64 / self.seconds.max(1e-9) / 1e6
    }

    /// Million frames a second that arrived, over the time in which frames were sent.
    #[must_use]
    pub fn received_mpps(&self) -> f64 {
        self.received as f64 / self.seconds.max(1e-9) / 1e6
    }

    /// The share of the frames that was lost.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.lost.max(0) as f64 / self.sent.max(1) as f64
    }
}

/// A generator and a sink with a device under test between them.
#[derive(Debug)]
pub struct Tester {
    /// Sends.
    pub generator: Role,
    /// Counts.
    pub sink: Role,
    /// The thread that does the device's work, its directory in /proc: it polls, so it is always on its
    /// CPU unless something keeps it from it.
    pub worker: Option<PathBuf>,
}

impl Tester {
    /// Sends a stream, and waits until nothing of it is on its way any more.
    ///
    /// # Errors
    /// When generator or sink do not answer.
    pub fn run(&mut self, stream: &Stream) -> Result<Outcome, Error> {
        settle(&mut self.sink)?;
        let arrived = self.arrived()?;
        let from = self.generator.read()?;
        let worker = self.worker()?;
        match stream.length {
            Length::Time(time) => {
                self.generator.tell(&stream.pace.line())?;
                // the length of the measurement, not a hope that something is ready
                std::thread::sleep(time);
            }
            Length::Frames(frames) => self.send(stream.pace, from.packets + frames)?,
        }
        let to = self.generator.tell(&Pace::Paused.line())?;
        settle(&mut self.sink)?;
        let all = self.generator.read()?;
        let mut outcome = outcome(&[from, to, all], &arrived, &self.arrived()?);
        if let Some((before, after)) = worker.zip(self.worker()?) {
            let span = (after.at - before.at).max(1) as f64;
            outcome.worker_share = (after.on_cpu - before.on_cpu) as f64 / span;
        }
        Ok(outcome)
    }

    fn worker(&self) -> Result<Option<Reading>, Error> {
        let read = |task: &PathBuf| {
            Ok(Reading {
                at: role::now(),
                on_cpu: role::schedstat(task)?,
                ..Reading::default()
            })
        };
        self.worker.as_ref().map(read).transpose()
    }

    fn send(&mut self, pace: Pace, limit: u64) -> Result<(), Error> {
        let mut sent = self.generator.tell(&pace.up_to(limit))?;
        while sent.packets < limit {
            std::thread::sleep(LOOK);
            sent = self.generator.read()?;
        }
        Ok(())
    }

    fn arrived(&mut self) -> Result<Arrived, Error> {
        self.sink.order(DELAYS)?;
        self.sink.answer()
    }
}

/// `sender`: before, when told to stop, and when nothing was on its way.
fn outcome(sender: &[Reading; 3], before: &Arrived, after: &Arrived) -> Outcome {
    let [from, to, all] = sender;
    let sent = all.packets - from.packets;
    let received = after.reading.packets - before.reading.packets;
    let span = (to.at - from.at).max(1) as f64;
    let empty = Histogram::default();
    let histogram =
        (after.delays.as_ref().unwrap_or(&empty)).since(before.delays.as_ref().unwrap_or(&empty));
    Outcome {
        sent,
        received,
        lost: sent.cast_signed() - received.cast_signed(),
        tagged: all.tagged - from.tagged,
        duplicates: after.duplicates - before.duplicates,
        reordered: after.reordered - before.reordered,
        seconds: span / 1e9,
        generator_share: (to.on_cpu - from.on_cpu) as f64 / span,
        worker_share: 1.0,
        delays: histogram.delays(),
        histogram,
    }
}

/// Waits until nothing arrives any more; returns how much has.
///
/// # Errors
/// When the sink does not answer.
pub fn settle(sink: &mut Role) -> Result<u64, Error> {
    let deadline = Instant::now() + SETTLE;
    let mut arrived = sink.read()?.packets;
    let mut since = Instant::now();
    while since.elapsed() < QUIET && Instant::now() < deadline {
        std::thread::sleep(QUIET / 10);
        let now = sink.read()?.packets;
        if now != arrived {
            arrived = now;
            since = Instant::now();
        }
    }
    Ok(arrived)
}
