//! Namespace tests with real peers: the harness.
//!
//! Every test builds its own network namespaces, starts the real `sixferryd` in one of them and
//! lets another implementation talk to it: the kernel's own IPv6 and TCP, and a real Linux router
//! in a kernel of its own ([`guest`]). Nothing leaves the namespaces.
//!
//! Everything is a guard: dropping it kills what it started (by process id, never by name) and
//! removes what it made. A test process that was killed hard leaves namespaces behind; the next
//! one sweeps those whose owner is gone.
//!
//! Helpers panic on failure: they are only called from tests, and a panic names the command and
//! what it printed.
#![forbid(unsafe_code)]

pub mod api;
pub mod control;
pub mod customer;
pub mod daemon;
pub mod flow;
pub mod guest;
pub mod ledger;
pub mod link;
pub mod login;
pub mod net;
pub mod ping;
pub mod process;
pub mod raw;
pub mod require;
pub mod site;
pub mod tcp;
pub mod topology;
pub mod wait;

pub use control::{Control, ControlConfig};
pub use customer::Customer;
pub use daemon::{Daemon, DaemonConfig};
pub use guest::Guest;
pub use link::Veth;
pub use net::Net;
pub use ping::Ping;
pub use wait::wait_until;
