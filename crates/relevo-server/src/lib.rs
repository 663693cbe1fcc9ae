//! The origin over HTTP: the public repository as files, pages about it, and what operators ask.
//!
//! Trust is never decided here. The repository is plain signed files; everybody who asks for a URL gets the same
//! bytes, and nothing of a request but its path and the standard fields for ranges, conditions and content coding has
//! a say in the answer. The database is an index that can be lost at any time.

pub mod args;
mod body;
mod catalog;
mod database;
mod encoding;
pub mod layout;
mod precondition;
mod range;
mod recent;
mod routes;
pub mod settings;
mod startup;
pub mod telemetry;

pub use database::DatabaseError;
pub use startup::{Application, BuildError, Clock, Migrated, migrate};
