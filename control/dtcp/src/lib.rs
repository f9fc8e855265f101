//! The DTCP server: TCP logins that become IPv6 tunnels, compatible with dtcps(8).
//!
//! * [`wire`]: lines, commands, replies, the digest; of use to clients too
//! * [`machine`]: one session, without I/O or clock
//! * [`config`], [`interfaces`], [`routetable`], [`plan`]: what a login gets
//! * [`net`]: sockets, limits, the sessions there are
//! * [`import`], [`options`]: password stores and command lines of the original
//!
//! The server knows no store and no dataplane: it asks [`Tunnels`], in the same process or not.
//!
//! [`Tunnels`]: sixferry_lifecycle::Tunnels
#![forbid(unsafe_code)]

pub mod config;
pub mod import;
pub mod interfaces;
mod limit;
pub mod machine;
pub mod net;
pub mod options;
pub mod plan;
pub mod routetable;
mod stats;

use std::io;
use std::net::SocketAddrV4;
use std::path::PathBuf;

pub use config::Config;
pub use net::{Server, SessionInfo, TrafficSource};
pub use sixferry_dtcp_wire as wire;
pub use stats::Stats;

/// Why the server could not start or take another configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong.
    #[error("dtcp: {}", .0.join("; "))]
    Config(Vec<String>),
    /// An address could not be listened on.
    #[error("dtcp: cannot listen on {address}: {operation}: {source}")]
    Listen {
        /// Which.
        address: SocketAddrV4,
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The routetable could not be read.
    #[error("dtcp: cannot read the routetable {}: {source}", path.display())]
    RouteTable {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no runtime to run in.
    #[error("dtcp: must be started within a tokio runtime")]
    NoRuntime,
}
