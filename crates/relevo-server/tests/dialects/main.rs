//! The updater apps of ROMs against the server: each client here does what the app's sources do, no more and no less.

mod fixture;
mod lineage_v1;
mod net;
#[path = "../support/mod.rs"]
mod support;
