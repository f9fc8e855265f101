//! A generator, a sink or another process of a trial, seen from the bench.

use super::role::{READY, Reading};
use crate::error::{Context, Error};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Weighs a process and its threads against all other sessions of the host: where the kernel groups
/// tasks by session, a nice value counts only inside of one.
pub fn weigh(process: u32, nice: i32) {
    // without such groups there is no file, and the nice value itself counts
    _ = std::fs::write(format!("/proc/{process}/autogroup"), nice.to_string());
}

/// Takes a process off the CPU, threads that poll included, or lets it go on.
///
/// # Errors
/// When there is no such process.
pub fn hold(process: u32, held: bool) -> Result<(), Error> {
    let signal = if held { Signal::STOP } else { Signal::CONT };
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or("no such process").during("holding a process")?;
    kill_process(pid, signal).during(format!("holding process {process}"))
}

/// A process that takes orders and answers them (see [`super::role`]); killed on drop.
#[derive(Debug)]
pub struct Role {
    name: String,
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Role {
    /// Starts `command` and waits until it is at work; `nice` is its weight against whatever else the
    /// host does.
    ///
    /// # Errors
    /// When it ends instead; it has said why on standard error.
    pub fn spawn(name: String, command: &mut Command, nice: i32) -> Result<Self, Error> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .during(&name)?;
        let ask = child.stdin.take().ok_or("no pipe").during(&name)?;
        let answers = child.stdout.take().ok_or("no pipe").during(&name)?;
        let mut role = Self {
            name,
            child,
            ask,
            answers: BufReader::new(answers),
        };
        match role.line()?.as_str() {
            READY => {
                weigh(role.child.id(), nice);
                Ok(role)
            }
            other => Err(format!("said `{other}`")).during(&role.name),
        }
    }

    fn line(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line).during(&self.name)?;
        if read == 0 {
            return Err("ended early").during(&self.name);
        }
        Ok(line.trim_end().to_owned())
    }

    /// Asks for its counters.
    ///
    /// # Errors
    /// When it has ended.
    pub fn read(&mut self) -> Result<Reading, Error> {
        self.tell("")
    }

    /// Gives it a command, and asks for its counters.
    ///
    /// # Errors
    /// When it has ended.
    pub fn tell(&mut self, command: &str) -> Result<Reading, Error> {
        self.order(command)?;
        self.answer()
    }

    /// Gives it a command without waiting for the answer.
    ///
    /// # Errors
    /// When it has ended.
    pub fn order(&mut self, command: &str) -> Result<(), Error> {
        let line = format!("{command}\n");
        self.ask.write_all(line.as_bytes()).during(&self.name)
    }

    /// Its answer to the oldest command without one.
    ///
    /// # Errors
    /// When it has ended, or says something else.
    pub fn answer<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        let line = self.line()?;
        serde_json::from_str(&line).during(&self.name)
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
