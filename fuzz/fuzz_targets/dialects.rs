//! `relevo_fuzz::dialects` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relevo_fuzz::dialects(data));
