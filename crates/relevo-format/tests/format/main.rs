//! The crate through its public face.
//!
//! One binary for all, so that fixtures are compiled once. `tests/memory.rs` is another, as it looks at the memory of
//! its own process.
#![expect(clippy::unwrap_used, reason = "fixtures are tests too")]

mod applying;
mod damage;
mod fixture;
mod front;
mod golden;
mod manifest;
mod operations;
mod round_trip;
mod signing;
mod source;
mod sparse;
