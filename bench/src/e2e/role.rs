//! The processes of a trial and how they are asked for their counters: a line on standard input, a
//! line of JSON back. Each ends when its standard input does, so none outlives the bench.

use super::{Context, Error};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write};

/// The first line of a process that is at work.
pub const READY: &str = "ready";

/// What a process has counted at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The moment: nanoseconds of the monotonic clock, which all processes share.
    pub at: u64,
    /// Packets.
    pub packets: u64,
    /// Nanoseconds that its working thread has been on a CPU.
    pub on_cpu: u64,
}

/// Now, in nanoseconds of the monotonic clock.
#[must_use]
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Answers every line on standard input with `count()`, until it ends.
///
/// # Errors
/// Of standard input and output, and `count`'s.
pub fn serve(mut count: impl FnMut() -> Result<Reading, Error>) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    let mut say = |text: &str| writeln!(out, "{text}").and_then(|()| out.flush());
    say(READY).during("standard output")?;
    for line in std::io::stdin().lock().lines() {
        line.during("standard input")?;
        let reading = serde_json::to_string(&count()?).during("a reading")?;
        say(&reading).during("standard output")?;
    }
    Ok(())
}

/// Keeps the calling thread on one CPU, and first in line there.
///
/// # Errors
/// Where there is no such CPU.
pub fn settle(cpu: usize) -> Result<(), Error> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).during(format!("CPU {cpu}"))?;
    // a container may forbid it; the report says what share of its CPU the generator got
    _ = rustix::process::setpriority_process(None, -15);
    Ok(())
}

/// Nanoseconds that a thread of this process has been on a CPU.
///
/// # Errors
/// When the kernel does not say.
pub fn on_cpu(thread: i32) -> Result<u64, Error> {
    let path = format!("/proc/self/task/{thread}/schedstat");
    let text = std::fs::read_to_string(&path).during(&path)?;
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().during(path)
}
