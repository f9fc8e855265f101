//! DTCP's lines, as the server and a client read them.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| sixferry_bench::fuzz_targets::dtcp(data));
