//! Signed metadata: the verification state machine, authoring, keys, and the policy of a phone.
//!
//! This is TUF 1.0.34 on the verification core of `sigstore-tuf`, with our cryptography under it and a machine without
//! IO and clock above it: [`Refresh`] says which file it wants, is handed bytes, and in the end gives a [`Trusted`]
//! state. [`policy::choose`] decides from that what a phone installs. Nothing here reads files, sockets, clocks or
//! random numbers.
//!
//! Features: `authoring` makes and signs metadata and never belongs on a phone; `testing` is a repository in memory.

#[cfg(feature = "authoring")]
pub mod author;
pub mod chunks;
mod crypto;
mod delegation;
mod error;
#[cfg(feature = "authoring")]
pub mod keys;
pub mod policy;
mod refresh;
#[cfg(feature = "testing")]
pub mod testing;
mod trusted;

pub use crypto::install_crypto;
pub use ed25519_dalek::VerifyingKey;
pub use error::{BadTarget, TrustError};
pub use refresh::{Answer, Limits, Refresh, Request, Scope, Step, Stored};
pub use trusted::{Custom, Package, RoleFile, Size, Target, Trusted, TrustedDevice};
