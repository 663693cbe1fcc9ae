//! The words of Relevo as types.
//!
//! A value with a meaning is parsed once, at the edge, and trusted from there on: a [`BuildId`] is never a bare
//! `String`, a [`ByteLen`] never a bare `u64`. This crate does no IO and knows no clock.
//!
//! # Examples
//! ```
//! use relevo_types::{BuildId, Channel, Codename, TargetPath, Vendor};
//!
//! let path = TargetPath::new(
//!     &Vendor::parse("xiaomi")?,
//!     &Codename::parse("ginkgo")?,
//!     &Channel::parse("stable")?,
//!     "ginkgo-eng.20250505-full.rvp",
//! )?;
//! assert_eq!(path.to_string(), "xiaomi/ginkgo/stable/ginkgo-eng.20250505-full.rvp");
//! assert!(BuildId::parse("../../etc/passwd").is_err());
//! # Ok::<(), relevo_types::NameError>(())
//! ```

#[cfg(feature = "manifest")]
mod device;
#[cfg(feature = "manifest")]
mod device_check;
#[cfg(feature = "manifest")]
mod device_people;
#[cfg(feature = "manifest")]
mod device_toml;
#[cfg(feature = "manifest")]
pub mod guide;
#[cfg(feature = "manifest")]
mod guide_toml;
mod kind;
mod length;
#[cfg(feature = "manifest")]
mod manifest_reader;
mod name;
mod sha256;
mod spelling;
mod target;

#[cfg(feature = "manifest")]
pub use device::{
    BuildRecipe, Compression, DeltaPolicy, DeviceManifest, DevicePartition, DynamicPartitions, Guide, MAX_MANIFEST,
    PayloadFacts, VirtualAb,
};
#[cfg(feature = "manifest")]
pub use device_check::{Clash, Examined, clashes};
#[cfg(feature = "manifest")]
pub use device_people::{Architecture, Button, Buttons, Firmware, Hardware, Links, Recovery, RecoveryStart, Variant};
pub use kind::{InstallKind, PackageKind, UnknownKind};
pub use length::{BLOCK, Blocks, ByteLen, LengthError};
#[cfg(feature = "manifest")]
pub use manifest_reader::{ManifestError, ManifestProblem};
pub use name::{BuildId, Channel, Codename, NameError, PartitionName, Vendor};
pub use sha256::{Sha256, Sha256Error};
pub use spelling::nearest;
pub use target::TargetPath;
