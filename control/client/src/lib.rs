//! Typed client of the dataplane API (`sixferry.dataplane.v1`).
//!
//! * [`Client`] connects over the unix socket, or over TCP with mutual TLS, and reads: tunnels,
//!   routes, ports, counters, the daemon itself. Every call has a deadline.
//! * [`Session`] writes as one owner. [`Session::program_tunnels`] sends any number of updates
//!   over one stream in batches of at most 512, collects what failed, and resumes a broken
//!   stream from the last acknowledged batch.
//! * [`Resync`] brings the dataplane in step with a controller: begin, upsert everything, commit.
//! * [`TunnelWatch`] follows the table across broken connections.
//!
//! What it must not do: decide what to write. It knows no users, pools or leases. When the
//! dataplane restarts, sessions and syncs end with [`Error::InstanceChanged`]; only the
//! controller knows what has to be written again.
#![forbid(unsafe_code)]

mod address;
mod client;
mod connect;
mod error;
mod pages;
mod program;
mod resync;
mod retry;
mod route;
mod session;
mod table;
mod tunnel;
mod watch;

pub use address::{format_mac, ip_from_bytes, ip_to_bytes, net_from_proto, net_to_proto};
pub use client::{Client, TunnelKey, TunnelMatch};
pub use connect::{DEFAULT_SOCKET, Options, Target, TlsFiles};
pub use error::{Error, FieldViolation, Precondition, Resource, RpcError};
pub use pages::{Page, RoutePages, TunnelPages};
pub use program::{
    Atomicity, ItemFailure, MAX_FAILURES_KEPT, ProgramOptions, ProgramReport, Progress, WriteMode,
};
pub use resync::{Resync, SyncReport};
pub use retry::Backoff;
pub use route::{NextHop, NextHopState, Route, RouteAction, RouteEntry, RouteOrigin, RouteUpdate};
pub use session::{ElectionId, Session};
pub use tunnel::{
    Dscp, Ecn, MtuMode, Ttl, Tunnel, TunnelEntry, TunnelField, TunnelLink, TunnelUpdate,
};
pub use watch::{TunnelWatch, WatchEvent};

/// The generated messages, for what has no typed form here: ports, counters, the daemon.
pub use sixferry_proto::dataplane::v1 as api;
pub use tonic::Code;
