//! The host as the checks see it: files and a few commands, both replaceable in tests.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where everything is read.
pub(super) struct System {
    root: PathBuf,
    commands: Commands,
    /// Whether a socket of family AF_XDP can be made.
    pub(super) af_xdp: AfXdp,
}

/// What became of the attempt to open an AF_XDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfXdp {
    Works,
    /// The kernel has it; we may not.
    NotPermitted,
    /// The kernel was built without.
    Unsupported,
}

enum Commands {
    Real,
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests make one"))]
    Canned(HashMap<String, String>),
}

/// What a command said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Text(String),
    /// It is not installed.
    Missing,
    /// It ended with an error.
    Failed,
}

impl System {
    pub(super) fn real() -> Self {
        Self {
            root: PathBuf::from("/"),
            commands: Commands::Real,
            af_xdp: try_af_xdp(),
        }
    }

    #[cfg(test)]
    pub(super) fn fake(root: &Path, commands: &[(&str, &str)]) -> Self {
        let own = |(command, text): &(&str, &str)| ((*command).to_owned(), (*text).to_owned());
        Self {
            root: root.to_owned(),
            commands: Commands::Canned(commands.iter().map(own).collect()),
            af_xdp: AfXdp::Works,
        }
    }

    /// A path below the root; absolute ones too.
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A small file, trimmed.
    pub(super) fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = std::fs::read_to_string(self.path(path)).ok()?;
        Some(text.trim().to_owned())
    }

    /// A file with one number.
    pub(super) fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// Names in a directory, sorted; none if it cannot be read.
    pub(super) fn list(&self, path: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(path)) else {
            return Vec::new();
        };
        let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// The last part of what a symbolic link points to.
    pub(super) fn link_name(&self, path: impl AsRef<Path>) -> Option<String> {
        let target = std::fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// Runs a command.
    pub(super) fn ask(&self, program: &str, args: &[&str]) -> Answer {
        match &self.commands {
            Commands::Real => run(program, args),
            Commands::Canned(answers) => {
                let line = [&[program], args].concat().join(" ");
                match answers.get(&line) {
                    Some(text) => Answer::Text(text.clone()),
                    None if answers.contains_key(program) => Answer::Failed,
                    None => Answer::Missing,
                }
            }
        }
    }
}

fn run(program: &str, args: &[&str]) -> Answer {
    // Ordinary users often have no sbin in their path.
    let path = std::env::var("PATH").unwrap_or_default();
    let outcome = Command::new(program)
        .args(args)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    match outcome {
        Ok(output) if output.status.success() => {
            Answer::Text(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(_) => Answer::Failed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Answer::Missing,
        Err(_) => Answer::Failed,
    }
}

fn try_af_xdp() -> AfXdp {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let flags = SocketFlags::CLOEXEC;
    match socket_with(AddressFamily::XDP, SocketType::RAW, flags, None) {
        Ok(_) => AfXdp::Works,
        Err(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => AfXdp::NotPermitted,
        Err(_) => AfXdp::Unsupported,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_tell_missing_from_failed() {
        assert_eq!(run("sixferry-has-no-such-program", &[]), Answer::Missing);
        assert_eq!(run("false", &[]), Answer::Failed);
        assert_eq!(run("echo", &["hi"]), Answer::Text("hi\n".into()));
    }

    #[test]
    fn absolute_paths_stay_below_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), " 7 \n").unwrap();
        let system = System::fake(dir.path(), &[]);
        assert_eq!(system.number("/x"), Some(7));
        assert_eq!(system.number("x"), Some(7));
        assert_eq!(system.read("y"), None);
    }
}
