//! Random tables and packets through `process`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| sixferry_bench::fuzz_targets::process(data));
