//! Network namespaces: made with `ip`, entered by a thread.
//!
//! A socket stays in the namespace it was made in, whoever uses it afterwards. So traffic needs
//! no helper processes: a short-lived thread enters, opens the socket and hands it out.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::error::Error;

/// Where `ip netns` keeps its namespaces.
const NETNS_DIR: &str = "/run/netns";

/// A named network namespace.
#[derive(Clone, Debug)]
pub(super) struct Netns {
    name: String,
}

impl Netns {
    pub(super) fn new(name: String) -> Self {
        Self { name }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(NETNS_DIR).join(&self.name)
    }

    pub(super) fn exists(&self) -> bool {
        self.path().exists()
    }

    pub(super) fn create(&self) -> Result<(), Error> {
        run("ip", &["netns", "add", &self.name])
    }

    pub(super) fn delete(&self) -> Result<(), Error> {
        run("ip", &["netns", "del", &self.name])
    }

    /// `ip -n NAME ...`
    pub(super) fn ip(&self, args: &[&str]) -> Result<(), Error> {
        run("ip", &[&["-n", &self.name], args].concat())
    }

    /// `ip netns exec NAME ...`, to the end.
    pub(super) fn exec(&self, args: &[&str]) -> Result<(), Error> {
        run("ip", &[&["netns", "exec", &self.name], args].concat())
    }

    /// A command that will run inside. `ip` replaces itself, so the process is the program's.
    pub(super) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Sets `/proc/sys/net/...`; which namespace that means is decided by the writing thread.
    pub(super) fn sysctl(&self, key: &str, value: &str) -> Result<(), Error> {
        let path = format!("/proc/sys/net/{key}");
        self.enter(|| fs::write(&path, value))?
            .map_err(Error::io(format!(
                "cannot write {value} to {path} in {}",
                self.name
            )))
    }

    /// Runs something on a thread inside the namespace.
    pub(super) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let cannot = |doing| format!("cannot {doing} network namespace {}", self.name);
        let file = File::open(self.path()).map_err(Error::io(cannot("open")))?;
        std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                    Ok(work())
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
        .map_err(Error::errno(cannot("enter")))
    }
}

/// Runs a program to its end and keeps what it had to say for the error.
pub(super) fn run(program: &'static str, args: &[&str]) -> Result<(), Error> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::Missing {
            program,
            hint: hint(program),
        },
        _ => Error::Io {
            what: format!("cannot run {program}"),
            source,
        },
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: [&[program], args].concat().join(" "),
        status: output.status.to_string(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

fn hint(program: &str) -> String {
    let package = if program == "ip" { "iproute2" } else { program };
    format!("install the package {package}")
}
