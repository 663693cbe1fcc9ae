//! `relevo_fuzz::log_tiles` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relevo_fuzz::log_tiles(data));
