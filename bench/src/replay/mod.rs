//! Capture files through the forwarding core: pcap in, `process`, pcap out, counters.
//!
//! Exact: time comes from the capture (or a fixed step), the outer ID from the configuration, and
//! nothing else is random, so the same files give the same bytes on every machine.

mod config;
mod report;
mod run;

pub use config::{Config, ConfigError};
pub use report::{PortReport, Report, TunnelReport};
pub use run::{Decided, Error, Files, Replay, Time};
