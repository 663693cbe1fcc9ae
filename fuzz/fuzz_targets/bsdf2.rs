//! `relevo_fuzz::bsdf2` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relevo_fuzz::bsdf2(data));
