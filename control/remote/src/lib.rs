//! The lifecycle over `sixferry.control.v1`.
//!
//! * [`RemoteLifecycle`] is what a plugin in a process of its own has in the place of the lifecycle.
//! * [`convert`] and [`status`] translate between the model and the messages, for it and for the
//!   server.
#![forbid(unsafe_code)]

pub mod convert;
mod lifecycle;
pub mod status;

pub use lifecycle::RemoteLifecycle;
