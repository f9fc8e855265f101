//! Fragments in any order, size and shape.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| sixferry_vectors::fuzz::reassembly(data));
