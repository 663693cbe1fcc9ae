//! Patch formats of AOSP, through the public face of the crate.
#![expect(clippy::unwrap_used, reason = "fixtures are tests too")]

mod bits;
mod bsdiff;
mod golden;
mod locate;
mod lz4diff;
mod message;
mod program;
mod puffin;
mod zucchini;
