//! The CPU of a thread.

use rustix::io::Errno;
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Keeps the calling thread on one CPU.
///
/// # Errors
/// Where there is no such CPU, or it is not for this process.
pub fn pin(cpu: usize) -> Result<(), Errno> {
    pin_thread(None, cpu)
}

/// [`pin`] for any thread; `None` is the calling one.
///
/// # Errors
/// As [`pin`], and where there is no such thread.
pub fn pin_thread(thread: Option<Pid>, cpu: usize) -> Result<(), Errno> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(thread, &set)
}

/// Keeps the calling thread, and those it starts, off a CPU: that is for another process.
///
/// # Errors
/// Where there is no other for this one.
pub fn leave(cpu: usize) -> Result<(), Errno> {
    let mut set = sched_getaffinity(None)?;
    set.unset(cpu);
    sched_setaffinity(None, &set)
}

/// How long the calling thread has been on a CPU.
#[must_use]
pub fn time_of_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}
