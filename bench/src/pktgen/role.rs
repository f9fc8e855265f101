//! The processes of a trial and how they are asked for their counters: a line on standard input
//! (empty, or what to do from now on), a line of JSON back. Each ends when its standard input does, so
//! none outlives the bench.

use crate::cpu;
use crate::error::{Context, Error};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

/// The nice value of a thread that is to have a CPU for itself.
pub const FIRST_IN_LINE: i32 = -20;

/// The first line of a process that is at work.
pub const READY: &str = "ready";

/// What a process has counted at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The moment: nanoseconds of the monotonic clock, which all processes share.
    pub at: u64,
    /// Packets.
    pub packets: u64,
    /// Packets besides, such as a relay drops.
    #[serde(default)]
    pub flooded: u64,
    /// Bytes of the packets, without FCS.
    #[serde(default)]
    pub bytes: u64,
    /// Packets with a time tag.
    #[serde(default)]
    pub tagged: u64,
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

/// Answers every line on standard input with `count(line)`, until it ends.
///
/// # Errors
/// Of standard input and output, and `count`'s.
pub fn serve<T: Serialize>(mut count: impl FnMut(&str) -> Result<T, Error>) -> Result<(), Error> {
    say(READY)?;
    for line in std::io::stdin().lock().lines() {
        let line = line.during("standard input")?;
        say(&serde_json::to_string(&count(&line)?).during("a reading")?)?;
    }
    Ok(())
}

/// Writes a line that the bench reads at once.
///
/// # Errors
/// When the bench is gone.
pub fn say(line: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .during("standard output")
}

/// Where a thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its CPU.
    pub cpu: usize,
    /// Its nice value there.
    pub nice: i32,
}

/// Keeps the calling thread on one CPU, with a nice value.
///
/// # Errors
/// Where there is no such CPU.
pub fn settle(cpu: usize, nice: i32) -> Result<(), Error> {
    cpu::pin(cpu).during(format!("CPU {cpu}"))?;
    // a container may forbid it; the report says what share of its CPU the generator got
    _ = rustix::process::setpriority_process(None, nice);
    Ok(())
}

/// Nanoseconds that a thread of this process has been on a CPU.
///
/// # Errors
/// When the kernel does not say.
pub fn on_cpu(thread: i32) -> Result<u64, Error> {
    schedstat(format!("/proc/self/task/{thread}").as_ref())
}

/// Nanoseconds that the task with this directory in /proc has been on a CPU.
///
/// # Errors
/// When it has ended.
pub fn schedstat(task: &Path) -> Result<u64, Error> {
    let path = task.join("schedstat");
    let name = path.display().to_string();
    let text = std::fs::read_to_string(&path).during(&name)?;
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().during(name)
}

/// The directory in /proc of the thread of a process whose name begins so.
///
/// # Errors
/// When there is none.
pub fn thread_of(process: u32, name: &str) -> Result<PathBuf, Error> {
    let tasks = format!("/proc/{process}/task");
    for task in std::fs::read_dir(&tasks).during(&tasks)?.flatten() {
        let comm = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if comm.starts_with(name) {
            return Ok(task.path());
        }
    }
    Err(format!("no thread {name}")).during(tasks)
}
