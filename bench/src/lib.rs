//! Benches of the forwarding core, the pcap replay tool and the bodies of the fuzz targets.
//!
//! Everything here drives [`sixferry_fwd::process`] over memory; nothing is part of the relay.

#![forbid(unsafe_code)]

pub mod arena;
pub mod frame;
pub mod latency;
pub mod population;
pub mod rng;
pub mod statistics;
