//! Every command, through the library and through the real binary.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test's world that cannot be made fails the test"
)]

mod ab;
mod ab_release;
mod ab_write;
mod ceremony;
mod custota;
mod help;
mod import;
mod keys;
mod log;
mod offer;
mod ota;
mod ota_sources;
mod release;
mod support;
mod trouble;
