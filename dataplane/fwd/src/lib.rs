//! The forwarding core: a batch of packets in, one [`Verdict`] each out.
//!
//! [`process`] is the only public verb. It makes three passes over a batch (parse, look up, check
//! and rewrite) so that the cache misses of different packets overlap, and it does no I/O, reads no
//! clock, takes no lock and allocates nothing: time, randomness and tables come in by argument, so a
//! replay is exact. The control side builds the immutable [`Tables`] with [`TablesBuilder`].
//!
//! Protocol rules: RFC 4213 (6in4), RFC 6040 (ECN), RFC 4443 (ICMPv6), RFC 4861 (NUD), RFC 6324
//! (loops).

#![forbid(unsafe_code)]
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod answer;
mod batch;
mod classify;
mod counters;
mod decap;
mod drop_reason;
mod ecn;
mod embedded;
mod encap;
mod event;
mod fast;
pub mod fragment;
mod icmp4;
mod icmp_error;
mod id;
mod limiter;
mod local;
mod lookup;
mod mss;
mod packet;
mod prefix;
mod probe;
mod process;
pub mod reassembly;
mod rewrite;
pub mod tables;
mod udp;
mod verdict;

pub use batch::{BATCH_MAX, Batch, PuntInfo};
pub use counters::{CounterSnapshot, PacketsBytes, WorkerCounters};
pub use drop_reason::DropReason;
pub use event::{EVENTS_MAX, Event};
pub use id::{NextHopId, PortId, Ticks, TunnelId};
pub use local::{IpId, Local, LocalConfig};
pub use packet::{FRAME_LEN, HEADROOM, Packet};
pub use prefix::{Ipv4Prefix, Ipv6Prefix, ParsePrefixError, link_scoped};
pub use probe::{NoProbe, Probe, probe};
pub use process::process;
pub use tables::{
    DomainKind, DomainSpec, Dscp, Ecn, EncapKind, MtuMode, NextHop, NextHopState, OuterOptions,
    PortConfig, PortKind, RateLimits, Rebind, Route, RouteSource, RouteView, Settings, SixRdRole,
    SixToFourRole, TableError, Tables, TablesBuilder, TakenTunnel, Ttl, TunnelLink, TunnelSpec,
    TunnelTotals, UdpEncap, Urpf,
};
pub use verdict::{PuntReason, Verdict};
