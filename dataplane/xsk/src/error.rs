//! What can go wrong while ports are set up. Each message names the cause and, where there is
//! one, the fix.

use std::error::Error;
use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::bind::{PortMode, Rung};
use crate::link::AttachedProgram;

/// Set-up of a port, or a change to its steering, failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The name is not that of an interface in this network namespace.
    #[error("{interface}: no such interface; `ip link` lists those of this network namespace")]
    NoSuchInterface {
        /// As configured.
        interface: String,
    },
    /// AF_XDP needs the interface up.
    #[error("{interface}: the interface is down; fix: ip link set {interface} up")]
    InterfaceDown {
        /// Its name.
        interface: String,
    },
    /// Only interfaces with Ethernet addresses can be ports.
    #[error("{interface}: not an Ethernet interface; choose one with a MAC address")]
    NotEthernet {
        /// Its name.
        interface: String,
    },
    /// The kernel refused for lack of a capability.
    #[error(
        "{interface}: cannot {operation}: not permitted; fix: run as root or grant {}",
        operation.capability()
    )]
    NotPermitted {
        /// Its name.
        interface: String,
        /// What was tried.
        operation: Operation,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The memory for packets may not be locked.
    #[error(
        "{interface}: cannot {}: the limit of locked memory is too low; fix: `ulimit -l \
         unlimited`, LimitMEMLOCK=infinity in the unit, or CAP_IPC_LOCK",
        Operation::RegisterUmem
    )]
    MemoryLimit {
        /// Its name.
        interface: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// An XDP program is attached to the interface already.
    #[error("{interface}: {program}")]
    ProgramPresent {
        /// Its name.
        interface: String,
        /// Whose it is, as far as the kernel tells.
        program: AttachedProgram,
    },
    /// Another socket has the queue.
    #[error(
        "{interface}: queue {queue} is in use by another AF_XDP socket; fix: stop the other \
         program (`ss --xdp -p` names it)"
    )]
    QueueBusy {
        /// Its name.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// More workers than queues.
    #[error(
        "{interface}: {queues} queue(s) for {workers} workers; fix: ethtool -L {interface} \
         combined {workers}, or fewer workers"
    )]
    TooFewQueues {
        /// Its name.
        interface: String,
        /// Queues it has.
        queues: u32,
        /// Workers asked for.
        workers: u32,
    },
    /// No rung of the ladder held.
    #[error(
        "{interface}: AF_XDP mode `{mode}` cannot be had: {}",
        tried_text(tried)
    )]
    NoMode {
        /// Its name.
        interface: String,
        /// What was configured.
        mode: PortMode,
        /// Every attempt and the kernel's answer.
        tried: Vec<(Rung, String)>,
    },
    /// A steering table is at its limit.
    #[error("{interface}: at most {limit} {table} can be steered, {wanted} were asked for")]
    TableFull {
        /// Its name.
        interface: String,
        /// Which table, in the plural.
        table: &'static str,
        /// How many it holds.
        limit: usize,
        /// How many were wanted.
        wanted: usize,
    },
    /// Anything else the kernel or the loader answered.
    #[error("{interface}: cannot {operation}")]
    Failed {
        /// Its name.
        interface: String,
        /// What was tried.
        operation: Operation,
        /// Why not.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// The step of the set-up that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Asking the kernel about the interface.
    ReadLink,
    /// `socket(AF_XDP)`.
    OpenSocket,
    /// Registering the packet memory.
    RegisterUmem,
    /// Making and mapping the rings.
    MakeRings,
    /// Binding a socket to a queue.
    Bind,
    /// Loading the XDP program and its maps.
    LoadProgram,
    /// Attaching the XDP program.
    Attach,
    /// Changing a map of the program.
    UpdateMap,
    /// Reading the counters.
    ReadCounters,
    /// Running the program on a test frame.
    TestRun,
}

impl Operation {
    /// The capabilities the step needs.
    pub fn capability(self) -> &'static str {
        match self {
            Self::ReadLink => "CAP_NET_ADMIN",
            Self::OpenSocket | Self::MakeRings | Self::Bind => "CAP_NET_RAW",
            Self::RegisterUmem => "CAP_IPC_LOCK",
            Self::LoadProgram | Self::TestRun => "CAP_BPF and CAP_NET_ADMIN",
            Self::Attach => "CAP_NET_ADMIN",
            Self::UpdateMap | Self::ReadCounters => "CAP_BPF",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadLink => "read the interface's state",
            Self::OpenSocket => "open an AF_XDP socket",
            Self::RegisterUmem => "register the packet memory",
            Self::MakeRings => "make the AF_XDP rings",
            Self::Bind => "bind an AF_XDP socket",
            Self::LoadProgram => "load the XDP program",
            Self::Attach => "attach the XDP program",
            Self::UpdateMap => "update the XDP program's tables",
            Self::ReadCounters => "read the XDP program's counters",
            Self::TestRun => "run the XDP program on a test frame",
        })
    }
}

impl SetupError {
    /// Sorts an error of the kernel (found anywhere in the chain) or of the loader.
    pub(crate) fn new(
        interface: &str,
        operation: Operation,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        let source = source.into();
        let interface = interface.to_owned();
        match errno(source.as_ref()) {
            Some(Errno::NODEV | Errno::NXIO) if operation == Operation::ReadLink => {
                Self::NoSuchInterface { interface }
            }
            Some(Errno::NETDOWN) => Self::InterfaceDown { interface },
            // EACCES from loading a program is the verifier's, and its log says why.
            Some(found @ (Errno::PERM | Errno::ACCESS))
                if found == Errno::PERM || operation != Operation::LoadProgram =>
            {
                Self::NotPermitted {
                    interface,
                    operation,
                    source: found.into(),
                }
            }
            Some(found @ (Errno::NOBUFS | Errno::NOMEM))
                if operation == Operation::RegisterUmem =>
            {
                Self::MemoryLimit {
                    interface,
                    source: found.into(),
                }
            }
            _ => Self::Failed {
                interface,
                operation,
                source,
            },
        }
    }

    /// The error number behind a `Failed`.
    pub(crate) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Failed { source, .. } => errno(source.as_ref()),
            _ => None,
        }
    }
}

/// The chain of an error in one line, as the ladder's report and logs want it.
pub(crate) fn chain_text(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let part = error.to_string();
        // Transparent wrappers repeat their source.
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = error.source();
    }
    text.replace('\n', " ")
}

fn errno(error: &(dyn Error + 'static)) -> Option<Errno> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<Errno>() {
            return Some(*found);
        }
        if let Some(found) = error.downcast_ref::<io::Error>() {
            return found.raw_os_error().map(Errno::from_raw_os_error);
        }
        next = error.source();
    }
    None
}

fn tried_text(tried: &[(Rung, String)]) -> String {
    let parts: Vec<String> = tried
        .iter()
        .map(|(rung, error)| format!("{rung}: {error}"))
        .collect();
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capability_is_named() {
        let source = io::Error::from_raw_os_error(libc::EPERM);
        let error = SetupError::new("eth0", Operation::OpenSocket, source);
        assert_eq!(
            error.to_string(),
            "eth0: cannot open an AF_XDP socket: not permitted; fix: run as root or grant \
             CAP_NET_RAW"
        );
    }

    #[test]
    fn errno_is_found_deep_in_the_chain() {
        let inner = aya::sys::SyscallError {
            call: "bpf_link_create",
            io_error: io::Error::from_raw_os_error(libc::EBUSY),
        };
        let error = SetupError::new(
            "eth0",
            Operation::Attach,
            aya::programs::ProgramError::from(inner),
        );
        assert_eq!(error.errno(), Some(Errno::BUSY));
        assert_eq!(
            chain_text(&error),
            "eth0: cannot attach the XDP program: `bpf_link_create` failed: Device or resource \
             busy (os error 16)"
        );
    }

    #[test]
    fn locked_memory_limit_names_the_fix() {
        let error = SetupError::new("eth0", Operation::RegisterUmem, Errno::NOBUFS);
        assert!(error.to_string().contains("LimitMEMLOCK=infinity"));
    }

    #[test]
    fn down_interface_names_the_fix() {
        let error = SetupError::new("eth0", Operation::Bind, Errno::NETDOWN);
        assert!(error.to_string().ends_with("fix: ip link set eth0 up"));
    }
}
