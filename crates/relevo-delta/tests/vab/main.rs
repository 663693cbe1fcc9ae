//! Virtual A/B: plans of merging and estimates of snapshots, held against a phone that is played here.
#![expect(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "fixtures are tests too, and small")]

mod build;
mod cow;
mod device;
mod dynamic;
mod merge;
mod writer;
