//! Keeps the daemon's other threads off the CPUs of pinned workers.
//!
//! A worker that is sent full rate has no time to give: whatever the kernel schedules on its CPU is
//! paid for with packets, which wait in a ring of a few thousand. Applying a million tunnels takes
//! seconds.

use std::collections::BTreeSet;
use std::io;

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// Moves every thread of this process to the CPUs it may use and that are not among `workers`;
/// threads that these start later follow. Call it before the workers start.
///
/// Returns how many CPUs are left for them, `None` where the workers need all there are: then
/// everything stays as it is.
///
/// # Errors
///
/// The threads cannot be listed, or the kernel refuses one of them.
pub(crate) fn keep_off(workers: &BTreeSet<usize>) -> io::Result<Option<u32>> {
    let rest = without(sched_getaffinity(None)?, workers);
    if rest.count() == 0 {
        return Ok(None);
    }
    for entry in std::fs::read_dir("/proc/self/task")? {
        let name = entry?.file_name();
        let thread = name.to_str().and_then(|name| name.parse().ok());
        match sched_setaffinity(thread.and_then(Pid::from_raw), &rest) {
            // it ended after it was listed
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(rest.count()))
}

fn without(allowed: CpuSet, taken: &BTreeSet<usize>) -> CpuSet {
    let mut rest = allowed;
    for &cpu in taken.range(..CpuSet::MAX_CPU) {
        rest.unset(cpu);
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cpus: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        for &cpu in cpus {
            set.set(cpu);
        }
        set
    }

    #[test]
    fn only_what_is_allowed_and_not_a_workers_is_left() {
        let allowed = set(&[0, 2, 3, 1023]);
        let rest = |taken: &[usize]| without(allowed, &taken.iter().copied().collect());
        assert!(rest(&[]) == allowed);
        assert!(rest(&[1, 2, 4000]) == set(&[0, 3, 1023]));
        assert_eq!(rest(&[0, 1, 2, 3, 1023]).count(), 0);
    }
}
