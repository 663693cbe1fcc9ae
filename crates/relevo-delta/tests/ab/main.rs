//! Operations of A/B payloads: what is made applies, and is only what the source build knows.
#![expect(clippy::unwrap_used, reason = "fixtures are tests too")]

mod avb;
mod files;
mod random;
mod raw;
mod samples;
mod support;
mod verity;
