//! The updater apps of ROMs against the server: each client here does what the app's sources do, no more and no less.

#![expect(clippy::unwrap_used, reason = "clippy knows tests only by their attribute, and the clients are tests too")]

mod custota;
mod fixture;
mod forks;
mod graphene;
mod lineage_ota;
mod lineage_v1;
mod lineage_v2;
mod net;
#[path = "../support/mod.rs"]
mod support;
