//! The origin over HTTP: the public repository as files, pages about it, and what operators ask.
//!
//! Trust is never decided here. The repository is plain signed files; everybody who asks for a URL gets the same
//! bytes, and nothing of a request but its path and the standard fields for ranges, conditions and content coding has
//! a say in the answer. The database is an index that can be lost at any time.
//!
//! # Examples
//! ```
//! use std::sync::Arc;
//!
//! use relevo_server::{Application, settings::Layer};
//!
//! # let directory = tempfile::tempdir()?;
//! let settings = Layer {
//!     listen: Some("127.0.0.1:0".parse()?),
//!     repository: Some(directory.path().join("relevo")),
//!     ..Layer::default()
//! }
//! .settings()?;
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let application = Application::build(settings, Arc::new(|| jiff::Timestamp::UNIX_EPOCH)).await?;
//! assert_ne!(application.port(), 0);
//! application.run_until(async { /* a signal to stop */ }).await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod account;
pub mod args;
mod body;
mod catalog;
mod database;
mod dialects;
mod encoding;
pub mod layout;
mod origin;
mod precondition;
mod range;
mod recent;
mod routes;
pub mod settings;
mod startup;
pub mod telemetry;

pub use database::DatabaseError;
pub use origin::OriginError;
pub use startup::{Application, BuildError, Clock, Migrated, migrate};
