//! AVB metadata, hash trees and error correction: images of AOSP's tools, and damage.
#![expect(clippy::unwrap_used, reason = "fixtures are tests too")]

mod damage;
mod golden;
mod verity;
