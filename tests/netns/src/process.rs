//! Child processes that cannot outlive the test.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::wait::wait_for;

/// How much of a log a failure message shows.
const TAIL: usize = 6_000;

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started.
pub fn output(command: &mut Command) -> Output {
    match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => panic!("cannot run {command:?}: {error}"),
    }
}

/// Runs a command to its end and gives its standard output.
///
/// # Panics
/// When it cannot be started or does not succeed; with everything it printed.
pub fn succeed(command: &mut Command) -> String {
    let done = output(command);
    assert!(
        done.status.success(),
        "{command:?}: {}\n{}{}",
        done.status,
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr),
    );
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// A long-running child in a process group of its own; killed with its whole group on drop.
#[derive(Debug)]
pub struct Guarded {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Guarded {
    /// Starts `program` with its output in the file `log`.
    ///
    /// The kernel kills it when the starting thread ends, so start it from the test's own thread:
    /// a test runner that kills the test then takes the child along.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(name: &str, wrapper: &[&str], program: &[&str], log: &Path) -> Self {
        Self::spawn_with(name, wrapper, program, log, |_| {})
    }

    /// Like [`Guarded::spawn`]; `adjust` may set environment and working directory.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn_with(
        name: &str,
        wrapper: &[&str],
        program: &[&str],
        log: &Path,
        adjust: impl FnOnce(&mut Command),
    ) -> Self {
        let file = File::create(log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let second = file
            .try_clone()
            .unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let mut words = wrapper.to_vec();
        words.extend_from_slice(&["setpriv", "--pdeathsig", "KILL"]);
        words.extend_from_slice(program);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(second)
            .process_group(0);
        adjust(&mut command);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        Self {
            child,
            name: name.to_owned(),
            log: log.to_owned(),
        }
    }

    /// Its process id, which is also its process group's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            let _ = file.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of its log, for failure messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let start = log.len().saturating_sub(TAIL);
        let start = (start..=log.len())
            .find(|&i| log.is_char_boundary(i))
            .unwrap_or(0);
        format!("--- {} log ---\n{}--- end ---", self.name, &log[start..])
    }

    /// The exit status once it has ended.
    ///
    /// # Panics
    /// When the kernel refuses to say.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child
            .try_wait()
            .unwrap_or_else(|error| panic!("waiting for {}: {error}", self.name))
    }

    /// Sends `signal` to the process itself.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.raw_pid(), signal);
    }

    /// Sends SIGKILL to the process and reaps it.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// Asks it to stop and waits; the exit status, or a panic after `timeout`.
    ///
    /// # Panics
    /// When it does not stop in time.
    pub fn stop(&mut self, timeout: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        match self.wait(timeout) {
            Some(status) => status,
            None => panic!(
                "{} ignored SIGTERM for {timeout:?}\n{}",
                self.name,
                self.log_tail()
            ),
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        wait_for(timeout, || self.ended()).map(|(status, _)| status)
    }

    /// Waits until its log contains `text`.
    ///
    /// # Panics
    /// When it ends, or `timeout` passes, before that; with the log.
    pub fn wait_for_log(&mut self, text: &str, timeout: Duration) {
        let found = wait_for(timeout, || {
            if self.log().contains(text) {
                return Some(true);
            }
            self.ended().map(|_| self.log().contains(text))
        });
        let said = found.is_some_and(|(said, _)| said);
        assert!(
            said,
            "{} never said {text:?}\n{}",
            self.name,
            self.log_tail()
        );
    }

    fn raw_pid(&self) -> Pid {
        let raw = i32::try_from(self.child.id()).expect("a process id fits");
        Pid::from_raw(raw).expect("a process id is not zero")
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // The group first: helpers of a leader that is already reaped would be missed otherwise.
        let _ = kill_process_group(self.raw_pid(), Signal::KILL);
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
    }
}

/// The exit code, with 128 + n for a process that signal n ended.
#[must_use]
pub fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|n| 128 + n))
        .unwrap_or(-1)
}
