//! What processes and the machine have used, from /proc.

use crate::e2e::{Context, Error};
use serde::Serialize;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

/// Ticks a second that Linux tells programs, whatever its own clock does.
const HERTZ: f64 = 100.0;

/// What a process has used at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// CPU time of all its threads, those that ended as well, in seconds.
    pub cpu: f64,
    /// Resident bytes.
    pub resident: u64,
}

impl Usage {
    /// Of a process.
    ///
    /// # Errors
    /// When it has ended.
    pub fn of(process: u32) -> Result<Self, Error> {
        let read = |file: &str| {
            let path = format!("/proc/{process}/{file}");
            fs::read_to_string(&path).during(path)
        };
        let ticks = ticks(&read("stat")?);
        let kilobytes = resident(&read("status")?);
        let known = ticks.zip(kilobytes).ok_or("unexpected text");
        let (ticks, kilobytes) = known.during(format!("/proc/{process}"))?;
        Ok(Self {
            cpu: ticks as f64 / HERTZ,
            resident: kilobytes * 1024,
        })
    }
}

/// Ticks in user and system mode. The name before may have spaces and parentheses.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    // proc(5) counts from 1, and the name is the second
    let mut fields = fields.split(' ').skip(14 - 3).map(str::parse::<u64>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}

fn resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// CPU seconds of a process and its children, for a server with a process per connection.
///
/// # Errors
/// When the process has ended.
pub fn family_cpu(parent: u32) -> Result<f64, Error> {
    let mut sum = Usage::of(parent)?.cpu;
    let path = format!("/proc/{parent}/task/{parent}/children");
    let children = fs::read_to_string(&path).during(&path)?;
    for child in children.split_whitespace().flat_map(str::parse) {
        // one may have ended meanwhile
        sum += Usage::of(child).map_or(0.0, |usage| usage.cpu);
    }
    Ok(sum)
}

/// Seconds that all CPUs together were busy, and that there were.
///
/// # Errors
/// Without /proc.
pub fn machine() -> Result<(f64, f64), Error> {
    let text = fs::read_to_string("/proc/stat").during("/proc/stat")?;
    let (busy, all) = cpu_line(&text).ok_or("no CPUs").during("/proc/stat")?;
    Ok((busy as f64 / HERTZ, all as f64 / HERTZ))
}

fn cpu_line(text: &str) -> Option<(u64, u64)> {
    let fields = text.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = fields
        .split_whitespace()
        // guests are in user time already
        .take(8)
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    let all: u64 = fields.iter().sum();
    // 4th idle, 5th waiting for a disk
    Some((all - fields.get(3)? - fields.get(4)?, all))
}

/// The load average of the last minute.
#[must_use]
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or(0.0)
}

/// What the machine is.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// CPUs this process may use.
    pub cpus: usize,
    /// Milliseconds of a durable append of 16 KiB where the store is, median of 100.
    pub append_ms: f64,
}

impl Machine {
    /// Of this machine, with the disk of a directory.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn here(directory: &Path) -> Result<Self, Error> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Ok(Self {
            kernel: release.trim().to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            append_ms: append(directory).during("a durable append")?,
        })
    }
}

fn append(directory: &Path) -> std::io::Result<f64> {
    const APPENDS: usize = 100;
    let path = directory.join("append");
    let mut file = fs::File::create(&path)?;
    let mut times = Vec::with_capacity(APPENDS);
    for _ in 0..APPENDS {
        let start = Instant::now();
        file.write_all(&[0x5a; 16 << 10])?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    fs::remove_file(path)?;
    times.sort_by(f64::total_cmp);
    Ok(times[APPENDS / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_from_the_last_parenthesis() {
        let text = "71 (a) b (c) S 1 71 71 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 3 0 99 8192 77\n";
        assert_eq!(ticks(text), Some(300));
        assert_eq!(ticks("71 (short) S 1"), None);
        assert_eq!(resident("Name:\tx\nVmRSS:\t  1234 kB\n"), Some(1234));
        assert_eq!(resident("Name:\tx\n"), None);
    }

    #[test]
    fn waiting_for_a_disk_is_not_being_busy() {
        let text = "cpu  10 1 5 80 20 2 3 4 9 9\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(cpu_line(text), Some((25, 125)));
    }

    #[test]
    fn this_process_has_memory_and_this_machine_a_clock() {
        assert!(Usage::of(std::process::id()).unwrap().resident > 0);
        let (busy, all) = machine().unwrap();
        assert!(busy > 0.0 && all >= busy);
    }
}
