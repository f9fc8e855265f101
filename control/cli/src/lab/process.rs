//! The lab's programs: found, started in a namespace, watched, stopped by process id.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::netns::Netns;

/// Time a program has to stop by itself before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Lines of a log that are worth showing in an error.
const LOG_TAIL: usize = 12;

/// A process, named so that another one with the same number is never taken for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessId {
    pub(super) program: String,
    pub(super) pid: i32,
    /// Start time in clock ticks since boot.
    pub(super) started: u64,
}

impl ProcessId {
    pub(super) fn of(program: &str, pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok()?;
        Some(Self {
            program: program.to_owned(),
            pid,
            started: start_time(pid)?,
        })
    }

    pub(super) fn of_self() -> Option<Self> {
        Self::of("sixferry", std::process::id())
    }

    /// A handle on exactly this process, if it is still there.
    fn open(&self) -> Option<OwnedFd> {
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // The handle keeps the number from being given away, so this test is final.
        (start_time(self.pid)? == self.started).then_some(pidfd)
    }

    pub(super) fn is_alive(&self) -> bool {
        self.open().is_some()
    }

    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pidfd) = self.open() {
            let _ = pidfd_send_signal(pidfd, signal);
        }
    }

    /// Asks it to stop, then makes it.
    pub(super) fn stop(&self) {
        let Some(pidfd) = self.open() else { return };
        for signal in [Signal::TERM, Signal::KILL] {
            if pidfd_send_signal(&pidfd, signal).is_err() || ended(&pidfd, STOP_LIMIT) {
                return;
            }
        }
    }
}

/// Waits until the process behind the handle is gone.
fn ended(pidfd: &OwnedFd, limit: Duration) -> bool {
    let timeout = Timespec::try_from(limit).ok();
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    loop {
        match poll(&mut fds, timeout.as_ref()) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Field 22 of `/proc/PID/stat`; nothing for a process that is gone or only waits to be reaped.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_start_time(&stat)
}

fn parse_start_time(stat: &str) -> Option<u64> {
    // The name in brackets may hold anything, brackets included.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    (state != "Z" && state != "X").then(|| fields.nth(18)?.parse().ok())?
}

/// A program of ours that runs in the background.
#[derive(Debug)]
pub(super) struct Program {
    name: &'static str,
    child: Child,
    id: ProcessId,
    log: PathBuf,
}

impl Program {
    /// Starts a program inside a namespace; what it prints goes to `log`.
    pub(super) fn start(
        netns: &Netns,
        name: &'static str,
        path: &Path,
        args: &[&str],
        log: &Path,
    ) -> Result<Self, Error> {
        let open =
            || File::create(log).map_err(Error::io(format!("cannot write {}", log.display())));
        let (out, err) = (open()?, File::options().append(true).open(log));
        let err = err.map_err(Error::io(format!("cannot write {}", log.display())))?;
        let child = netns
            .command(path)
            .args(args)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            // Ctrl-C is for us: we stop the programs in order, and `lab up` leaves them behind.
            .process_group(0)
            .spawn()
            .map_err(Error::io(format!("cannot start {name}")))?;
        let mut program = Self {
            name,
            id: ProcessId {
                program: name.to_owned(),
                pid: 0,
                started: 0,
            },
            child,
            log: log.to_owned(),
        };
        match ProcessId::of(name, program.child.id()) {
            Some(id) => program.id = id,
            None => return Err(program.died()),
        }
        Ok(program)
    }

    pub(super) fn id(&self) -> &ProcessId {
        &self.id
    }

    /// An error if the program has ended.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            _ => Err(self.died()),
        }
    }

    fn died(&mut self) -> Error {
        let status = match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        Error::Exited {
            program: self.name,
            status,
            log: self.log_tail(),
        }
    }

    pub(super) fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Stops it and waits for its end.
    pub(super) fn stop(&mut self) -> io::Result<ExitStatus> {
        self.id.stop();
        self.child.wait()
    }
}

/// Finds a program of ours: beside this one, else in PATH.
pub(super) fn find(program: &'static str, package: &str) -> Result<PathBuf, Error> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join(program)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = beside.iter().cloned().chain(
        std::env::split_paths(&path)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(program)),
    );
    candidates
        .into_iter()
        .find(|path| is_executable(path))
        .ok_or_else(|| Error::Missing {
            program,
            hint: format!(
                "it is neither {} nor in PATH; build it with `cargo build --release -p {package}`",
                beside.map_or_else(
                    || "beside this program".to_owned(),
                    |p| p.display().to_string()
                )
            ),
        })
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Removes a file that may not be there.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_survives_strange_names_and_ignores_the_dead() {
        let stat = |name: &str, state: &str| {
            format!("77 ({name}) {state} 1 77 77 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1 1")
        };
        assert_eq!(parse_start_time(&stat("sixferryd", "S")), Some(4242));
        assert_eq!(parse_start_time(&stat("a) R (b", "S")), Some(4242));
        assert_eq!(parse_start_time(&stat("sixferryd", "Z")), None);
        assert_eq!(parse_start_time(""), None);
    }

    #[test]
    fn a_stranger_with_our_number_is_left_alone() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep runs");
        let id = ProcessId::of("sleep", child.id()).expect("it runs");
        let stranger = ProcessId {
            started: id.started + 1,
            ..id.clone()
        };
        stranger.stop();
        assert!(!stranger.is_alive());
        assert!(id.is_alive(), "stopped although the start time differs");
        id.stop();
        let status = child.wait().expect("it was ours");
        assert!(!status.success());
        assert!(!id.is_alive());
    }
}
