//! A relay with every mechanism at once.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| sixferry_vectors::fuzz::mixed(data));
