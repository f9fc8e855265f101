//! The worker over ports in memory and in files, with the real forwarding core.
#![forbid(unsafe_code)]

mod host;
mod replay;
mod slow_path;
mod support;
mod threads;
mod worker;
