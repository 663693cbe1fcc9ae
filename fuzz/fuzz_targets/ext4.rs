//! `relevo_fuzz::ext4` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| relevo_fuzz::ext4(data));
