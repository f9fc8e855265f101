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
pub mod controller;
pub mod daemon;
pub mod floods;
pub mod generator;
pub mod lab;
pub mod reference;
pub mod report;
pub mod resync;
pub mod rig;
pub mod role;
pub mod sink;
pub mod trial;

/// What went wrong, with what was being done.
#[derive(Debug, thiserror::Error)]
#[error("{action}: {source}")]
pub struct Error {
    action: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Adds what was being done to an error.
pub trait Context<T> {
    /// Names the action.
    ///
    /// # Errors
    /// The error, with the action.
    fn during(self, action: impl Into<String>) -> Result<T, Error>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> Context<T> for Result<T, E> {
    fn during(self, action: impl Into<String>) -> Result<T, Error> {
        self.map_err(|error| Error {
            action: action.into(),
            source: error.into(),
        })
    }
}
