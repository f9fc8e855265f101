//! The Sixferry dataplane daemon.

fn main() {}
