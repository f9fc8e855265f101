//! What can go wrong while a lab is set up: the operation, the cause, and what to do.

use std::io;
use std::time::Duration;

/// A lab that could not be built, used or taken down.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("a lab needs root: it creates network namespaces and loads an XDP program")]
    NotRoot,
    #[error("cannot find `{program}`: {hint}")]
    Missing { program: &'static str, hint: String },
    #[error("`{command}` failed ({status}): {stderr}")]
    Command {
        command: String,
        status: String,
        stderr: String,
    },
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("{what} did not happen within {waited:?}{detail}")]
    Timeout {
        what: String,
        waited: Duration,
        detail: String,
    },
    #[error("{program} has stopped ({status}); its last words:\n{log}")]
    Exited {
        program: &'static str,
        status: String,
        log: String,
    },
    #[error(
        "a lab named \"{name}\" is running: take it down with `sixferry lab down{flag}`, or use \
         another --name"
    )]
    Running { name: String, flag: String },
    #[error("no lab named \"{name}\" is running: start one with `sixferry lab up{flag}`")]
    NotRunning { name: String, flag: String },
    #[error("the lab named \"{name}\" has no namespace for \"{role}\"")]
    NoSuchRole { name: String, role: &'static str },
    #[error(transparent)]
    Api(#[from] sixferry_client::Error),
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub(super) fn errno(what: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let what = what.into();
        move |source| Self::Io {
            what,
            source: source.into(),
        }
    }
}
