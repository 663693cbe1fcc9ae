//! `relevo_fuzz::chunks` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relevo_fuzz::chunks(data));
