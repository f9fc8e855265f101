//! One network namespace.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

use crate::process::{output, succeed};

/// All our namespaces begin with this.
const PREFIX: &str = "sixt";

static NEXT: AtomicU32 = AtomicU32::new(0);
static SWEPT: Once = Once::new();

/// A namespace of this test; removed on drop.
#[derive(Debug)]
pub struct Net {
    name: String,
    handle: File,
}

impl Net {
    /// Makes an empty namespace with its loopback up and duplicate address detection off, so
    /// that an address is usable at once.
    ///
    /// # Panics
    /// Without root, or when the kernel refuses.
    #[must_use]
    pub fn new(role: &str) -> Self {
        SWEPT.call_once(sweep_stale);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{}-{serial}-{role}", std::process::id());
        succeed(Command::new("ip").args(["netns", "add", &name]));
        let path = format!("/run/netns/{name}");
        let handle = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let net = Self { name, handle };
        for key in [
            "default/accept_dad",
            "all/accept_dad",
            "default/router_solicitations",
        ] {
            net.sysctl(&format!("net/ipv6/conf/{key}"), "0");
        }
        net.ip("link set lo up");
        net
    }

    /// The namespace's name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` here; the words are split at blanks.
    ///
    /// # Panics
    /// When `ip` fails.
    pub fn ip(&self, words: &str) -> String {
        succeed(
            Command::new("ip")
                .args(["-n", &self.name])
                .args(words.split_whitespace()),
        )
    }

    /// Runs `ip` here and tells whether it succeeded.
    #[must_use]
    pub fn try_ip(&self, words: &str) -> bool {
        let mut command = Command::new("ip");
        output(
            command
                .args(["-n", &self.name])
                .args(words.split_whitespace()),
        )
        .status
        .success()
    }

    /// The words that start a program here, for [`crate::process::Guarded::spawn`].
    #[must_use]
    pub fn wrapper(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }

    /// A command that runs here, with this namespace's `/sys`.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs a command line here, split at blanks.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, words: &str) -> String {
        succeed(&mut self.split(words))
    }

    /// Runs a command line here and gives all it said.
    #[must_use]
    pub fn try_run(&self, words: &str) -> Output {
        output(&mut self.split(words))
    }

    fn split(&self, words: &str) -> Command {
        let mut words = words.split_whitespace();
        let mut command = self.command(words.next().expect("a command line has a program"));
        command.args(words);
        command
    }

    /// Calls `work` on a thread inside this namespace and waits for its result.
    ///
    /// # Panics
    /// When `work` panics.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                join(&self.handle);
                work()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts `work` on a thread inside this namespace.
    ///
    /// # Panics
    /// When the namespace's handle cannot be copied.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let handle = self.handle.try_clone().expect("a file descriptor to copy");
        thread::spawn(move || {
            join(&handle);
            work()
        })
    }

    /// Writes a file below `/proc/sys` as this namespace sees it.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/{key}");
        self.enter(|| {
            fs::write(&path, value).unwrap_or_else(|error| panic!("{path} = {value}: {error}"));
        });
    }

    /// The MAC address of an interface.
    ///
    /// # Panics
    /// When there is no such interface.
    #[must_use]
    pub fn mac(&self, interface: &str) -> String {
        let text = self.ip(&format!("-o link show dev {interface}"));
        let mut words = text
            .split_whitespace()
            .skip_while(|word| *word != "link/ether");
        words
            .nth(1)
            .unwrap_or_else(|| panic!("no MAC in {text:?}"))
            .to_owned()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = output(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

fn join(handle: &File) {
    move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))
        .unwrap_or_else(|error| panic!("entering a namespace (needs root): {error}"));
}

/// A directory of this test; removed on drop.
///
/// # Panics
/// When none can be made.
#[must_use]
pub fn scratch(role: &str) -> TempDir {
    let prefix = format!("{PREFIX}-{}-{role}-", std::process::id());
    tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir()
        .expect("a directory")
}

/// Removes what a killed test process left: namespaces and directories named after a process that
/// is gone, and the processes inside them, which only that test can have started.
fn sweep_stale() {
    for name in stale("/run/netns".as_ref()) {
        let inside = output(Command::new("ip").args(["netns", "pids", &name]));
        for pid in String::from_utf8_lossy(&inside.stdout).split_whitespace() {
            if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = output(Command::new("ip").args(["netns", "del", &name]));
    }
    let scratch = std::env::temp_dir();
    for name in stale(&scratch) {
        let _ = fs::remove_dir_all(scratch.join(name));
    }
}

/// Entries of a directory that carry our prefix and the id of a process that is gone.
fn stale(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| owner(name).is_some_and(is_gone))
        .collect()
}

/// The process id in `sixt-PID-...`.
fn owner(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(PREFIX)?.strip_prefix('-')?;
    rest.split('-').next()?.parse().ok()
}

fn is_gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

#[cfg(test)]
mod tests {
    use super::{is_gone, owner};

    #[test]
    fn only_our_names_have_an_owner() {
        assert_eq!(owner("sixt-123-0-user"), Some(123));
        assert_eq!(owner("sixt-123-guest-Ab3"), Some(123));
        assert_eq!(owner("sixties-1"), None);
        assert_eq!(owner("sixt-user"), None);
        assert!(!is_gone(std::process::id()));
    }
}
