//! What a lab leaves behind while it runs, written down so that a later command finds it.
//!
//! `TMPDIR/sixferry-lab[-NAME]/`, mode 0700: `run.json`, the daemon's configuration, socket and
//! state, and the logs.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::process::ProcessId;
use super::topology::{Arms, Kind};

/// Longest path a unix socket can have, without the closing zero.
const SOCKET_PATH_MAX: usize = 107;

/// The lab's private directory.
#[derive(Clone, Debug)]
pub(super) struct RunDir(PathBuf);

impl RunDir {
    /// Where a lab of this name lives.
    pub(super) fn of(lab: &str) -> Self {
        let name = if lab.is_empty() {
            "sixferry-lab".to_owned()
        } else {
            format!("sixferry-lab-{lab}")
        };
        Self(std::env::temp_dir().join(name))
    }

    /// Creates it, for our eyes only.
    pub(super) fn create(&self) -> Result<(), Error> {
        let cannot = || format!("cannot create {}", self.0.display());
        DirBuilder::new()
            .mode(0o700)
            .create(&self.0)
            .map_err(Error::io(cannot()))?;
        if self.socket().as_os_str().len() > SOCKET_PATH_MAX {
            let _ = fs::remove_dir(&self.0);
            let source = io::Error::other("the path is too long for a socket: set TMPDIR");
            return Err(Error::Io {
                what: cannot(),
                source,
            });
        }
        Ok(())
    }

    /// Whether it is there and ours. The name can be guessed, so anybody may have made it: one
    /// that others can write to is not believed.
    pub(super) fn exists(&self) -> Result<bool, Error> {
        let meta = match fs::symlink_metadata(&self.0) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => {
                return Err(Error::Io {
                    what: self.0.display().to_string(),
                    source,
                });
            }
        };
        let ours = meta.is_dir()
            && meta.uid() == rustix::process::geteuid().as_raw()
            && meta.mode() & 0o077 == 0;
        if ours {
            return Ok(true);
        }
        Err(Error::Io {
            what: self.0.display().to_string(),
            source: io::Error::other("not a directory of ours: remove it, or set TMPDIR"),
        })
    }

    pub(super) fn remove(&self) -> Result<(), Error> {
        match fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::Io {
                what: format!("cannot remove {}", self.0.display()),
                source: e,
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn join(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.join("dataplane.sock")
    }

    pub(super) fn control_socket(&self) -> PathBuf {
        self.join("control.sock")
    }

    fn run_file(&self) -> PathBuf {
        self.join("run.json")
    }

    /// Reads the run file; nothing if there is none, or none that makes sense.
    pub(super) fn load(&self) -> Option<RunState> {
        serde_json::from_slice(&fs::read(self.run_file()).ok()?).ok()
    }

    /// Writes the run file; a reader sees the old one or the new one, never half of it.
    pub(super) fn save(&self, state: &RunState) -> Result<(), Error> {
        let path = self.run_file();
        let draft = self.join("run.json.new");
        let text = serde_json::to_vec_pretty(state).map_err(io::Error::from);
        text.and_then(|text| fs::write(&draft, text))
            .and_then(|()| fs::rename(&draft, &path))
            .map_err(Error::io(format!("cannot write {}", path.display())))
    }
}

/// Contents of the run file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunState {
    pub(super) arms: Arms,
    #[serde(default)]
    pub(super) kind: Kind,
    /// The command that takes the lab down when it ends; none after `lab up`.
    pub(super) keeper: Option<ProcessId>,
    pub(super) processes: Vec<ProcessId>,
}

impl RunState {
    /// Whether somebody still needs the lab: its keeper lives, or it was left running and does.
    pub(super) fn is_alive(&self) -> bool {
        match &self.keeper {
            Some(keeper) => keeper.is_alive(),
            None => self.processes.iter().any(ProcessId::is_alive),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn run_file_round_trip_and_foreign_directories() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = RunDir(temp.path().join("lab"));
        assert!(!dir.exists().expect("nothing there"));
        dir.create().expect("new directory");
        assert!(dir.exists().expect("ours"));
        assert!(dir.create().is_err(), "two labs in one directory");
        assert_eq!(dir.load(), None);
        let state = RunState {
            arms: Arms::One,
            kind: Kind::Udp,
            keeper: ProcessId::of_self(),
            processes: vec![ProcessId {
                program: "sixferryd".to_owned(),
                pid: 1,
                started: 2,
            }],
        };
        dir.save(&state).expect("saved");
        assert_eq!(dir.load().as_ref(), Some(&state));
        assert!(state.is_alive(), "we are alive");
        let left_behind = RunState {
            keeper: None,
            ..state
        };
        assert!(
            !left_behind.is_alive(),
            "no process 1 that started at tick 2"
        );
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("ours");
        assert!(
            dir.exists().is_err(),
            "a directory others can write to was believed"
        );
        dir.remove().expect("removed");
        dir.remove().expect("removing nothing is fine");
    }
}
