//! AF_XDP: sockets, packet memory and the XDP program that steers frames to them.
//!
//! Three things, from the bottom up:
//!
//! * [`Umem`], [`XskPort`]: one worker's packet memory and its socket on one queue of one
//!   interface, as an [`engine::Port`](sixferry_engine::Port);
//! * [`Steering`]: the XDP program of one interface with its maps, attached as a bpf link, so
//!   that it goes when this process goes;
//! * [`open`](open::open): the two together for a list of interfaces and a number of workers,
//!   trying zero-copy, native copy and generic mode in turn, and saying which it was and why.
//!
//! This is the only crate with unsafe code. It decides nothing about packets beyond whose they
//! are (relay or kernel), and nothing at all in Rust.

mod attach;
pub mod bind;
mod error;
mod ethtool;
mod harness;
mod link;
pub mod open;
mod port;
mod ring;
mod socket;
mod steer;
mod tables;
mod umem;

pub use attach::{AttachedPass, Steering};
pub use bind::{BindMode, BindReport, PortMode, Rung, XdpMode};
pub use error::{Operation, SetupError};
pub use ethtool::{OffloadReport, QueueCounts, driver, queue_counts, switch_offloads_off};
pub use harness::{SteerVerdict, SteeringHarness};
pub use link::{AttachedProgram, LinkInfo, XdpAttachment};
pub use open::{OpenOptions, OpenPort, PortSpec, WorkerPorts, XskSet};
pub use port::XskPort;
pub use steer::{AddressUse, Covering, Outcome, SteerConfig, SteerCounters};
pub use tables::SteerTables;
pub use umem::Umem;

/// Entries of each of the four rings of a socket. A ring of 2,048 overflows when the worker
/// loses its core for 4 ms at 0.5 Mpps.
pub const RING_ENTRIES: u32 = 4096;

/// The largest interface MTU whose frames fit a buffer: 2,048 bytes less the headroom, the
/// Ethernet header and one VLAN tag. The kernel drops longer frames on receive.
pub const MAX_MTU: u32 = (sixferry_engine::FRAME_LEN - sixferry_engine::HEADROOM) as u32 - 14 - 4;

/// The oldest kernel the XDP program loads on (`bpf_xdp_load_bytes`); bpf links, shared packet
/// memory and the ring statistics are older.
pub const MIN_KERNEL: (u32, u32) = (5, 18);
