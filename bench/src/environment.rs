//! What a figure depends on besides the code: machine, kernel, load, moment.

use serde::{Deserialize, Serialize};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// The machine and the moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Seconds since 1970.
    pub time: u64,
    /// The date in UTC, as in 2026-01-31.
    pub date: String,
    /// The commit that was built, with `-dirty` if the tree differs; empty when not known.
    pub commit: String,
    /// The kernel's release.
    pub kernel: String,
    /// The CPU's name.
    pub cpu: String,
    /// How many CPUs there are.
    pub cpus: usize,
    /// Load averages over 1, 5 and 15 minutes: what else the machine does.
    pub load: String,
}

impl Environment {
    /// Of this machine, now.
    #[must_use]
    pub fn now() -> Self {
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        Self {
            time,
            date: output("date", &["-u", "+%F"]),
            commit: output("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
            kernel: file("/proc/sys/kernel/osrelease"),
            cpu: cpu_name(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            load: load(),
        }
    }
}

/// Load averages over 1, 5 and 15 minutes.
#[must_use]
pub fn load() -> String {
    let text = file("/proc/loadavg");
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn file(path: &str) -> String {
    std::fs::read_to_string(path)
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn cpu_name() -> String {
    let info = file("/proc/cpuinfo");
    let name = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let name = name.map(|rest| rest.trim_start_matches([' ', '\t', ':']));
    name.unwrap_or("unknown").to_owned()
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.ok().filter(|output| output.status.success());
    text.map_or_else(String::new, |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}
