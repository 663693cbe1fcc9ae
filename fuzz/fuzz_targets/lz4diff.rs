//! `relevo_fuzz::lz4diff` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relevo_fuzz::lz4diff(data));
