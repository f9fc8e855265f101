//! Benches of the forwarding core, the pcap replay tool and the bodies of the fuzz targets.
//!
//! Everything here drives [`sixferry_fwd::process`] over memory; nothing is part of the relay.

#![forbid(unsafe_code)]

pub mod arena;
pub mod changes;
pub mod corpus;
pub mod cpu;
#[cfg(feature = "dtcp")]
pub mod dtcp;
#[cfg(feature = "e2e")]
pub mod e2e;
mod egress;
pub mod environment;
pub mod error;
pub mod frame;
mod fuzz_dtcp;
pub mod fuzz_targets;
pub mod goals;
pub mod latency;
pub mod mutate;
#[cfg(feature = "e2e")]
pub mod pktgen;
pub mod population;
pub mod relay;
pub mod replay;
pub mod rng;
pub mod seeds;
pub mod statistics;
pub mod summary;
pub mod yardstick;
