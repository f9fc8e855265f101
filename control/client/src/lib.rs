//! Typed client of the dataplane API (`sixferry.dataplane.v1`), and in [`control`] of the control
//! plane's.
//!
//! * [`Client`] connects over the unix socket, or over TCP with mutual TLS, and reads: tunnels,
//!   domains, routes, neighbours, ports, counters, the daemon itself. Every call has a deadline.
//! * [`Session`] writes as one owner. [`Session::program_tunnels`] sends any number of updates
//!   over one stream in batches of at most 512, collects what failed, and resumes a broken
//!   stream from the last acknowledged batch.
//! * [`TunnelStream`] stays open: for a controller that writes a few tunnels at a time, all day.
//! * [`Resync`] brings the dataplane in step with a controller: begin, upsert everything, commit.
//! * [`TunnelWatch`] follows the table across broken connections, [`EventWatch`] what the
//!   dataplane learns and notices.
//!
//! What it must not do: decide what to write. It knows no users, pools or leases. When the
//! dataplane restarts, sessions and syncs end with [`Error::InstanceChanged`]; only the
//! controller knows what has to be written again.
#![forbid(unsafe_code)]

mod address;
mod client;
mod connect;
pub mod control;
mod domain;
mod error;
mod event;
mod neighbour;
mod outer;
mod pages;
mod policy;
mod program;
mod resync;
mod retry;
mod route;
mod session;
mod stream;
mod table;
mod tunnel;
mod watch;

pub use address::{format_mac, ip_from_bytes, ip_to_bytes, net_from_proto, net_to_proto};
pub use client::{Client, TunnelKey, TunnelMatch};
pub use connect::{DEFAULT_SOCKET, Options, Target, TlsFiles, open_lazy};
pub use domain::{
    Domain, DomainEntry, DomainField, DomainKey, DomainMatch, DomainUpdate, Mechanism, SixRd,
    SixRdRole, SixToFour, SixToFourRole, Urpf,
};
pub use error::{Error, FieldViolation, Precondition, Resource, RpcError};
pub use event::{Event, EventKind, EventWatch, Happening, Noticed};
pub use neighbour::{Neighbour, NeighbourState};
pub use outer::{Dscp, Ecn, Endpoint, MtuMode, Ttl};
pub use pages::{DomainPages, NeighbourPages, Page, Pages, RoutePages, TunnelPages};
pub use policy::{
    OuterOptions, PacketForm, Policy, PolicyField, PolicyReport, RateLimit, TestPacket, TestResult,
    TestVerdict,
};
pub use program::{
    Atomicity, ItemFailure, MAX_FAILURES_KEPT, ProgramOptions, ProgramReport, Progress, WriteMode,
};
pub use resync::{Resync, SyncReport};
pub use retry::Backoff;
pub use route::{NextHop, NextHopState, Route, RouteAction, RouteEntry, RouteOrigin, RouteUpdate};
pub use session::{ElectionId, Session};
pub use stream::{TunnelAck, TunnelStream};
pub use tunnel::{
    DEFAULT_MIN_PATH_MTU, Encap, Liveness, LivenessMode, Rebind, Tunnel, TunnelEntry, TunnelField,
    TunnelLink, TunnelState, TunnelUpdate, UdpEncap,
};
pub use watch::{TunnelWatch, WatchEvent};

/// The generated messages, for what has no typed form here: ports, counters, the daemon.
pub use sixferry_proto::dataplane::v1 as api;
pub use tonic::Code;
