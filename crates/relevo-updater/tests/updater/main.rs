//! The updater against repositories made in memory, servers that misbehave, and power that goes away.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod boot;
mod cli;
mod daemon;
mod download;
mod install;
mod power;
mod requests;
mod support;
mod transparency;
mod trust;
mod wire;
