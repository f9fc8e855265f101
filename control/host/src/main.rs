//! The control-plane daemon.
#![forbid(unsafe_code)]

fn main() {}
