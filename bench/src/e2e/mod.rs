//! End to end over veth: packets per second of `sixferryd` beside what bare AF_XDP does.
//!
//! ```text
//!   gen0 ------- dut0 [relay or reference worker] dut1 ------- sink0
//!   CPU 0: generator and the receive work it triggers    CPU 1: the worker and what it sends
//! ```
//!
//! Three namespaces, made anew for every round. Each test of a round runs the same generator for the
//! same time; what differs is who stands in the middle. A result is a ratio within a round: on a
//! shared machine, and on veth at all, absolute figures say little.

pub mod account;
pub mod changer;
pub mod changes;
pub mod controller;
pub mod daemon;
pub mod device;
pub mod first;
pub mod floods;
pub mod lab;
pub mod matrix;
pub mod peers;
pub mod reference;
pub mod report;
pub mod resync;
pub mod rfc8219;
pub mod rig;
pub mod timing;
pub mod trial;

pub use crate::error::{Context, Error};
pub use crate::pktgen::role;

use std::path::Path;
use std::time::Duration;

/// How long to wait before looking again whether something has happened; what is waited for may need
/// the CPU.
const LOOK: Duration = Duration::from_millis(2);

/// What a program said last.
fn last_lines(log: &Path) -> String {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let last: Vec<&str> = log.lines().rev().take(3).collect();
    last.join(" | ")
}
