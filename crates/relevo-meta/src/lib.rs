//! Signed metadata: the verification state machine, authoring, keys, and the policy of a phone.
//!
//! This is TUF 1.0.34 on the verification core of `sigstore-tuf`, with our cryptography under it and a machine without
//! IO and clock above it: [`Refresh`] says which file it wants, is handed bytes, and in the end gives a [`Trusted`]
//! state. [`policy::choose`] decides from that what a phone installs. Nothing here reads files, sockets, clocks or
//! random numbers.
//!
//! # Examples
//! A phone that has followed a refresh (see [`Refresh`]) decides what to install:
//! ```
//! # use relevo_meta::testing::TestRepo;
//! use relevo_meta::policy::{Choice, PhoneState, choose};
//! use relevo_types::{BuildId, Channel, Codename, PackageKind};
//!
//! # let mut repo = TestRepo::new();
//! # repo.add_device("xiaomi", "ginkgo");
//! # repo.add_package("xiaomi/ginkgo", "stable", "", "101", 1_750_000_000, b"the whole build");
//! # repo.add_package("xiaomi/ginkgo", "stable", "100", "101", 1_750_000_000, b"delta");
//! # repo.publish();
//! # let now = repo.now;
//! # let trusted = repo.refresh(&repo.stored_root(), TestRepo::device_scope("xiaomi", "ginkgo")).result?;
//! let device = trusted.device(&Codename::parse("ginkgo")?).ok_or("no such device")?;
//! let phone = PhoneState {
//!     build: BuildId::parse("100")?,
//!     build_timestamp: "2025-01-01T00:00:00Z".parse()?,
//!     channel: Channel::parse("stable")?,
//!     seed: 42,
//!     failed: Vec::new(),
//!     kinds: vec![PackageKind::Native],
//! };
//! let Choice::Install(packages) = choose(device, &phone, now) else { panic!("there is a newer build") };
//! assert_eq!(packages[0].path.file(), "ginkgo-100-to-101.rvp");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Features: `authoring` makes and signs metadata and never belongs on a phone; `testing` is a repository in memory.

#[cfg(feature = "authoring")]
pub mod author;
#[cfg(feature = "authoring")]
pub mod ceremony;
pub mod chunks;
mod crypto;
mod delegation;
mod error;
pub mod expiry;
#[cfg(feature = "authoring")]
pub mod http_signature;
#[cfg(feature = "authoring")]
pub mod keys;
pub mod log;
pub mod policy;
mod refresh;
#[cfg(feature = "testing")]
pub mod testing;
mod threshold;
mod trusted;

pub use crypto::install_crypto;
pub use ed25519_dalek::VerifyingKey;
pub use error::{BadTarget, TrustError};
pub use refresh::{Answer, Limits, Refresh, Request, Scope, Step, Stored};
pub use trusted::{Ab, AbFile, Custom, Found, Package, RoleFile, Signatories, Size, Target, Trusted, TrustedDevice};
