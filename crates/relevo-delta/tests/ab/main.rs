//! Operations of A/B payloads: what is made applies, and is only what the source build knows.

mod raw;
mod support;
mod verity;
