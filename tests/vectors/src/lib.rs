//! Runs packet vectors through the forwarding core.
//!
//! A vector file holds configurations, packets with the expected verdict, and Ethernet frames with the
//! decision of the steering program. Every packet enters as an Ethernet frame and goes through the same
//! [`sixferry_fwd::process`] as on a NIC; the result is compared byte for byte, and so are the counters.
//!
//! `proto41.json` beside this crate is the project's own copy; the runner takes any file of the schema
//! `proto41-vectors-1` (README.md describes it).

#![forbid(unsafe_code)]

pub mod config;
pub mod fuzz;
pub mod harness;
pub mod mixed;
pub mod relay;
pub mod run;
pub mod schema;
#[cfg(feature = "steering")]
pub mod steering;
