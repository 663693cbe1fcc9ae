//! `relevo_fuzz::ota_zip` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relevo_fuzz::ota_zip(data));
