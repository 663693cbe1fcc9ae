//! Installing a package: what every backend does, and the one for two slots of files or block devices.

mod block;

use std::{
    io,
    path::{Path, PathBuf},
};

use relevo_format::{apply::ApplyError, package::PackageError};
use relevo_meta::TrustedDevice;
use relevo_types::{BuildId, ByteLen, Codename, PackageKind, PartitionName, Sha256};

pub use block::{Block, Staged};

use crate::{
    boot::{BootError, Slot},
    state::{Offer, Reality},
    storage::StorageError,
};

/// A way to get a package onto the phone. Between any two calls the power may go; what a call has done, the machine
/// tells in [`Installer::observe`].
pub trait Installer {
    /// A package that may be installed: every check that needs no write was passed. There is no other way to get one.
    type Staged;

    /// Kinds of packages that it installs.
    fn probe(&self) -> Vec<PackageKind>;

    /// What the machine says now. Changes nothing.
    ///
    /// # Errors
    /// [`InstallError`] if boot control, the running slot or its build are unknown.
    fn observe(&self) -> Result<Reality, InstallError>;

    /// Checks everything about a package that can be checked before anything is written.
    ///
    /// # Errors
    /// [`InstallError`], one variant for each rule.
    fn stage(
        &self,
        package: &Path,
        offer: &Offer,
        device: &TrustedDevice,
        reality: &Reality,
    ) -> Result<Self::Staged, InstallError>;

    /// Writes the new build to where it cannot be booted yet, and reads it back. Goes on where a cut ended it.
    ///
    /// `progress` is told the bytes done and all bytes.
    ///
    /// # Errors
    /// [`InstallError`]; running it again goes on.
    fn apply(&self, staged: &Self::Staged, progress: &mut dyn FnMut(u64, u64)) -> Result<(), InstallError>;

    /// Makes the next boot try the new build: one durable write, before which the old and after which the new one counts.
    ///
    /// # Errors
    /// [`InstallError`].
    fn activate(&self) -> Result<(), InstallError>;

    /// Makes the next boot stay with the running build, where something else was activated.
    ///
    /// # Errors
    /// [`InstallError`].
    fn deactivate(&self) -> Result<(), InstallError>;

    /// Marks the running build as good.
    ///
    /// # Errors
    /// [`InstallError`].
    fn confirm(&self) -> Result<(), InstallError>;

    /// Makes the next boot take the build before; says which slot that is.
    ///
    /// # Errors
    /// [`InstallError::NothingToGoBackTo`] if there is none.
    fn revert(&self) -> Result<Slot, InstallError>;
}

/// Why an installation did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// The package cannot be read or is not signed by enough of the device's keys.
    #[error("{} is refused", .path.display())]
    Package {
        /// The package.
        path: PathBuf,
        /// What is wrong with it.
        source: PackageError,
    },
    /// The package is for another device.
    #[error("the package is for {}, this device is {expected}", .actual.as_ref().map_or("no device in particular", |actual| actual.as_str()))]
    WrongDevice {
        /// This device.
        expected: Codename,
        /// What the package says.
        actual: Option<Codename>,
    },
    /// The package starts from another build than the one that runs.
    #[error("the package starts from build {actual}, but build {expected} runs")]
    WrongSource {
        /// The build that runs.
        expected: BuildId,
        /// What the package says.
        actual: BuildId,
    },
    /// What is in the package is not what metadata said about it.
    #[error("the package says {field} {actual}, metadata says {expected}")]
    Contradiction {
        /// What it is about.
        field: &'static str,
        /// What metadata says.
        expected: String,
        /// What the package says.
        actual: String,
    },
    /// The package would lead back in time.
    #[error("build {build} was made at {timestamp}, before the running one at {running} (seconds since 1970)")]
    Older {
        /// The build in the package.
        build: BuildId,
        /// When it was made.
        timestamp: i64,
        /// When the running one was made.
        running: i64,
    },
    /// An image of the running slot is not the one that the package was made from, or applying failed.
    #[error("the package cannot be applied")]
    Apply(#[from] ApplyError),
    /// A partition does not fit.
    #[error("{partition} needs {needed}, but {} has {available}", .path.display())]
    TooLarge {
        /// The partition.
        partition: PartitionName,
        /// Its place in the slot.
        path: PathBuf,
        /// Size of the image.
        needed: ByteLen,
        /// Size of the place.
        available: ByteLen,
    },
    /// A partition has no place in the slot.
    #[error("the slot has no place for {partition}")]
    NoPlace {
        /// The partition.
        partition: PartitionName,
        /// What opening its place answered.
        source: StorageError,
    },
    /// The file system of the slot is full.
    #[error("the slot needs {needed} more, but its file system has {free} free")]
    DiskFull {
        /// What the build needs.
        needed: ByteLen,
        /// What there is.
        free: ByteLen,
    },
    /// What was read back is not what was written, twice.
    #[error("{partition} reads back with SHA-256 {actual}, expected {expected}; the storage under {} may be failing", .path.display())]
    ReadBack {
        /// The partition.
        partition: PartitionName,
        /// Its place.
        path: PathBuf,
        /// What the package says.
        expected: Sha256,
        /// What is there.
        actual: Sha256,
    },
    /// The file that says which build a slot holds is missing or damaged.
    #[error("{} does not say which build slot {slot} holds", .path.display())]
    NoBuild {
        /// The slot.
        slot: Slot,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// There is no build to go back to.
    #[error("slot {slot} cannot be booted: {reason}")]
    NothingToGoBackTo {
        /// The other slot.
        slot: Slot,
        /// Why not.
        reason: &'static str,
    },
    /// Boot control failed.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The disk refused something.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// We were asked to end.
    #[error("stopped; run again to go on")]
    Stopped,
}

impl InstallError {
    /// Whether the images of the running slot are not those of its build, so that no delta can start from them.
    pub fn source_differs(&self) -> bool {
        matches!(self, Self::Apply(ApplyError::SourceDiffers { .. } | ApplyError::SourceLength { .. }))
    }
}
