//! A/B OTA zips and payloads: AOSP's own samples, payloads made here, and damage.
#![expect(clippy::unwrap_used, reason = "fixtures are tests too")]

mod damage;
mod fixture;
mod full;
mod keys;
mod samples;
mod write;
mod write_zip;
mod zip;
