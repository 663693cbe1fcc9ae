//! What can go wrong with a repository.

use std::{io, path::PathBuf};

use relevo_meta::{TrustError, author::AuthorError, ceremony::CeremonyError, chunks::ChunkError, log::LogError};
use relevo_types::{Codename, TargetPath, Vendor};

use crate::simulate::PhoneFault;

/// What can go wrong with a repository.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepoError {
    /// A file could not be read.
    #[error("could not read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file could not be written, renamed, removed or made durable.
    #[error("could not write {path}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// There is no repository in the directory.
    #[error("{path} is no repository: it has no metadata/1.root.json and metadata/timestamp.json")]
    NotARepository {
        /// The directory.
        path: PathBuf,
    },
    /// There is something in the directory already.
    #[error("{path} is there already; a new repository needs an empty directory")]
    AlreadyThere {
        /// What is there.
        path: PathBuf,
    },
    /// Somebody else is publishing.
    #[error("another publication is under way: {path} is locked")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The repository's metadata does not verify.
    #[error("the repository's metadata does not verify")]
    Trust(#[source] TrustError),
    /// What would be published would be refused by phones; nothing was published.
    #[error("a phone would refuse what is to be published; nothing was published")]
    WouldBeRefused(#[source] TrustError),
    /// What would be published verifies, but phones could not use it, or could no longer update; nothing was published.
    #[error("phones could not use what is to be published; nothing was published")]
    NotForPhones(#[source] Box<PhoneFault>),
    /// Metadata could not be made.
    #[error("could not make the metadata of the role {role:?}")]
    Author {
        /// The role.
        role: String,
        /// The reason.
        source: AuthorError,
    },
    /// No key was given for a role that has to be signed.
    #[error("no key of the role {role:?} was given, and its metadata has to be signed")]
    NoSigner {
        /// The role.
        role: String,
    },
    /// The vendor has no role yet.
    #[error("the repository has no vendor {0}; add it first")]
    NoSuchVendor(Vendor),
    /// The device has no role yet.
    #[error("the repository has no device {0}; add it first")]
    NoSuchDevice(Codename),
    /// A codename stands for one device in the whole repository.
    #[error("the codename {codename} is taken: it belongs to {vendor}")]
    CodenameTaken {
        /// The codename.
        codename: Codename,
        /// The vendor that has it.
        vendor: Vendor,
    },
    /// The role does not verify, so it cannot be edited.
    #[error("the role {role:?} of the repository does not verify, so it cannot be changed")]
    BrokenRole {
        /// The role.
        role: String,
        /// What is wrong with it, where that is known.
        source: Option<Box<TrustError>>,
    },
    /// The role does not exist.
    #[error("the repository has no role {role:?}")]
    NoSuchRole {
        /// The role.
        role: String,
    },
    /// The role cannot be ended, or cannot be made.
    #[error("the role {role:?} {reason}")]
    WrongRole {
        /// The role.
        role: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The proposal does not fit, or nobody could sign it.
    #[error("the proposal cannot be used")]
    Ceremony(#[from] CeremonyError),
    /// The proposal has too few signatures.
    #[error("the proposal is not finished: {missing} signatures are missing for the role {role:?}")]
    Unfinished {
        /// The role.
        role: String,
        /// How many are missing.
        missing: usize,
    },
    /// What a ceremony brought finished cannot be changed any more.
    #[error("{path} is not as the proposal has it; a proposal that people signed is not changed")]
    Adopted {
        /// The target.
        path: Box<TargetPath>,
    },
    /// A role that was signed elsewhere lists a file that is not here.
    #[error("what was signed offers {path}, and the file is not here")]
    NotPlaced {
        /// The target.
        path: Box<TargetPath>,
    },
    /// The device does not list the target.
    #[error("the repository has no target {0}")]
    NoSuchTarget(Box<TargetPath>),
    /// A role that was not made from the current one: somebody published in between.
    #[error("the role {role:?} has version {found}; the next one is {next}: sign it anew from the current one")]
    RoleVersion {
        /// The role.
        role: String,
        /// Its version.
        found: u64,
        /// The version that is taken.
        next: u64,
    },
    /// A published file cannot become another one: phones and mirrors may hold half of it.
    #[error("{path} is published with other content; give the new file another name")]
    OtherContent {
        /// The target.
        path: Box<TargetPath>,
    },
    /// The file changed between two readings.
    #[error("{path} changed while it was being published")]
    SourceChanged {
        /// The file.
        path: PathBuf,
    },
    /// The chunk list could not be made.
    #[error("could not make the chunk list of {path}")]
    Chunks {
        /// The package's file.
        path: PathBuf,
        /// The reason.
        source: ChunkError,
    },
    /// The chunk list's name is too long.
    #[error("the name of the chunk list of {path} is not usable")]
    ChunkName {
        /// The package.
        path: Box<TargetPath>,
        /// The reason.
        source: relevo_types::NameError,
    },
    /// The transparency log is damaged, or cannot be continued from what is there.
    #[error("the transparency log cannot be used; restore the directory log/ from a mirror or a copy")]
    Log(#[from] LogError),
    /// The key that was given for the log is not the one that the root names.
    #[error("the key that was given for the transparency log is not {log}, which the root names")]
    OtherLogKey {
        /// The key that the root names.
        log: String,
    },
    /// A date so far away that it cannot be written.
    #[error("an expiry of {days} days lies beyond all calendars")]
    Expiry {
        /// The days.
        days: u32,
    },
}

impl RepoError {
    pub(crate) fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Read { path, source }
    }

    pub(crate) fn write(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Write { path, source }
    }

    pub(crate) fn author(role: &str) -> impl FnOnce(AuthorError) -> Self {
        let role = role.to_owned();
        move |source| Self::Author { role, source }
    }
}
