//! `relevo_fuzz::front` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relevo_fuzz::front(data));
