//! Why an origin does not take something in.

use std::{io, path::PathBuf};

use relevo_types::{ByteLen, Codename, Sha256, TargetPath};

use super::{AccountError, CutError};
use crate::error::RepoError;

/// Why an origin does not take something in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IntakeError {
    /// The manifest is none.
    #[error("the manifest cannot be read")]
    Manifest(#[source] serde_json::Error),
    /// A manifest of another version.
    #[error("the manifest is of protocol {found}; this origin knows {known}")]
    Protocol {
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The manifest contradicts itself, or says too much.
    #[error("the manifest is not right: {0}")]
    Contents(String),
    /// A device that the account may not publish.
    #[error("the account {account} may not publish {codename}")]
    NotYours {
        /// The account.
        account: String,
        /// The device.
        codename: Codename,
    },
    /// More bytes than the account may have.
    #[error("the account {account} may have {quota}; this publication needs {needed}, with what is under way")]
    Quota {
        /// The account.
        account: String,
        /// What it may have.
        quota: ByteLen,
        /// What it would have.
        needed: ByteLen,
    },
    /// Too many publications under way.
    #[error("{open} publications are under way already; finish one or wait a day")]
    TooMany {
        /// How many.
        open: usize,
    },
    /// The publication is not known; send its manifest again.
    #[error("there is no publication {0} under way; send its manifest again")]
    NoSession(Sha256),
    /// No such file or chunk in the publication.
    #[error("the publication has no {what}")]
    NoSuchPart {
        /// What was asked for.
        what: String,
    },
    /// Other bytes than were announced.
    #[error("{what} has SHA-256 {actual}; expected {expected}")]
    Digest {
        /// What.
        what: String,
        /// What was announced.
        expected: Sha256,
        /// What came.
        actual: Sha256,
    },
    /// A list of chunks that is none.
    #[error("the list of chunks of {path} is not right")]
    Cut {
        /// Whose.
        path: Box<TargetPath>,
        /// Why.
        source: CutError,
    },
    /// A piece that does not follow what is there.
    #[error("the piece begins at byte {at}; {have} bytes are there")]
    Gap {
        /// Where it begins.
        at: u64,
        /// How much is there.
        have: u64,
    },
    /// Something is still missing.
    #[error("{path} is not whole yet: {chunks} chunks are missing")]
    Incomplete {
        /// The first such file.
        path: Box<TargetPath>,
        /// How many chunks it lacks.
        chunks: usize,
    },
    /// The list of chunks beside a package is not that of the package.
    #[error("{path} is not the chunk list of its package, so no phone could check the package")]
    ChunkList {
        /// The list.
        path: Box<TargetPath>,
    },
    /// The accounts cannot be read.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The repository does not take it.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// The disk failed or is full.
    #[error("could not write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The disk failed.
    #[error("could not read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

impl IntakeError {
    pub(crate) fn write(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Write { path, source }
    }

    pub(crate) fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Read { path, source }
    }

    /// Whether the disk of the origin failed, so that trying again later can help.
    pub fn is_disk(&self) -> bool {
        matches!(
            self,
            Self::Write { .. } | Self::Read { .. } | Self::Repository(RepoError::Write { .. } | RepoError::Read { .. })
        )
    }
}
