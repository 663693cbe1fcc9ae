//! The transparency log: which role files were ever published, in one order, the same for everybody.
//!
//! Formats are C2SP's: [signed notes] for checkpoints, [tiles] for the Merkle tree of RFC 6962, [proofs] that can be
//! checked without a network. A leaf is an [`Entry`]: name, version and SHA-256 of a role's file, and nothing that whoever
//! runs the log could choose, such as a time. So a phone computes the leaf from what it holds.
//!
//! Nothing here does IO: [`Comparison`] and [`Tiles`] say which tiles they need, by name and limit, and are handed bytes.
//!
//! # Examples
//! Somebody remembers a checkpoint and is shown another one (see [`Comparison`] for the tiles):
//! ```
//! # use relevo_meta::{log::{Checkpoint, Comparison, LogKey, Relation, Tree, Entry}, testing::key};
//! # let signer = key("log");
//! # let name = "example.org/log";
//! # let log = LogKey::new(name, *signer.public().verifying_key())?;
//! # let mut tree = Tree::default();
//! # tree.push(&Entry::new("d-ginkgo", 1, b"{}")?.to_bytes());
//! # let first = Checkpoint::sign(name, tree.size(), tree.root(), &signer)?;
//! # tree.push(&Entry::new("d-ginkgo", 2, b"{ }")?.to_bytes());
//! # let second = Checkpoint::sign(name, tree.size(), tree.root(), &signer)?;
//! let kept = Checkpoint::open(&first, &log)?;
//! let offered = Checkpoint::open(&second, &log)?;
//! let mut comparison = Comparison::new(&kept, &offered)?;
//! for tile in comparison.wanted() {
//!     let bytes = tree.tile(&tile); // a real one comes from tile.path()
//!     comparison.supply(&tile, &bytes)?;
//! }
//! assert_eq!(comparison.finish()?, Relation::Ahead);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [signed notes]: https://c2sp.org/signed-note
//! [tiles]: https://c2sp.org/tlog-tiles
//! [proofs]: https://c2sp.org/tlog-proof

mod checkpoint;
mod merkle;
mod proof;
mod tile;

pub use checkpoint::{Checkpoint, LogKey, MAX_CHECKPOINT};
pub use merkle::{Tree, empty_root, leaf_hash, node_hash, verify_consistency, verify_inclusion};
pub use proof::{Comparison, MAX_PROOF, Proof, Relation};
use relevo_types::Sha256;
pub use tile::{MAX_BUNDLE, Tile, Tiles, bundle, unbundle};

/// First line of an entry: what it is, and how it is written.
const ENTRY: &str = "relevo role v1";

/// Longest name of a role in an entry, in bytes.
const MAX_ROLE: usize = 128;

/// Why a log, or what was shown of it, is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Bytes that are not what they should be.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// The root names no log, or none that can be used.
    #[error("the repository's root names no log key that can be used")]
    NoLog,
    /// A checkpoint of another log.
    #[error("the checkpoint is of the log {found:?}; expected {expected:?}")]
    OtherLog {
        /// The log that is followed.
        expected: String,
        /// The log that the checkpoint names, cut at 100 characters.
        found: String,
    },
    /// The log's key did not sign the checkpoint.
    #[error("the checkpoint has no valid signature by the key of the log {log:?}")]
    Signature {
        /// The log.
        log: String,
    },
    /// The proof does not lead from the entry to the checkpoint: it is not in that log, or not at that place.
    #[error("version {version} of {role} is not in the log at entry {index} of {size}")]
    NotIncluded {
        /// The role.
        role: String,
        /// Its version.
        version: u64,
        /// Where it should be.
        index: u64,
        /// Entries of the log at that checkpoint.
        size: u64,
    },
    /// Tiles that do not make up the tree that was signed: whoever sent them is at fault, and the log may be sound.
    #[error("the tiles do not make up the signed tree of {size} entries")]
    Tiles {
        /// Entries of the tree.
        size: u64,
    },
    /// Two checkpoints, both signed by the log, that no single log can have: somebody was shown another history.
    #[error(
        "the log forked: it signed {} entries with root {} and {} entries with root {}, and neither continues the other",
        .kept.size, .kept.root, .offered.size, .offered.root
    )]
    Fork {
        /// The checkpoint that was kept.
        kept: Box<Checkpoint>,
        /// The one that was offered.
        offered: Box<Checkpoint>,
    },
}

impl LogError {
    /// Whether another source may answer better: true unless two signatures of the log contradict each other, or the
    /// repository has none.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Fork { .. } | Self::NoLog)
    }

    fn malformed(what: &'static str, reason: &'static str) -> Self {
        Self::Malformed { what, reason }
    }
}

/// One entry of the log: a role's file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    role: String,
    version: u64,
    sha256: Sha256,
}

impl Entry {
    /// The entry of a role's file.
    ///
    /// # Errors
    /// [`LogError::Malformed`] for a name that has a space or control character, or is over 128 bytes long.
    pub fn new(role: &str, version: u64, file: &[u8]) -> Result<Self, LogError> {
        Self::of(role, version, crate::crypto::sha256(file))
    }

    /// The entry of a role's file with this digest.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of(role: &str, version: u64, sha256: Sha256) -> Result<Self, LogError> {
        let unusable = |c: char| c.is_whitespace() || c.is_control();
        if role.is_empty() || role.len() > MAX_ROLE || role.contains(unusable) {
            return Err(LogError::malformed("a log entry", "the role's name is not usable"));
        }
        Ok(Self { role: role.to_owned(), version, sha256 })
    }

    /// The role: `d-ginkgo`.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// The version of its file.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The file's digest.
    pub fn sha256(&self) -> Sha256 {
        self.sha256
    }

    /// The entry as it is hashed into the tree: four lines.
    ///
    /// # Layout
    /// `relevo role v1`, the role's name, its version in decimal, the SHA-256 of its file in lower-case hexadecimal; each
    /// with a newline after it.
    pub fn to_bytes(&self) -> Vec<u8> {
        format!("{ENTRY}\n{}\n{}\n{}\n", self.role, self.version, self.sha256).into_bytes()
    }

    /// Reads [`Self::to_bytes`].
    ///
    /// # Errors
    /// [`LogError::Malformed`] for anything else, also for another spelling of the same.
    pub fn parse(bytes: &[u8]) -> Result<Self, LogError> {
        let error = || LogError::malformed("a log entry", "it is none of a role's file");
        let text = std::str::from_utf8(bytes).map_err(|_| error())?;
        let mut lines = text.split('\n');
        let mut line = || lines.next().ok_or_else(error);
        let (kind, role, version, sha256) = (line()?, line()?, line()?, line()?);
        if kind != ENTRY {
            return Err(error());
        }
        let version = version.parse().map_err(|_| error())?;
        let entry = Self::of(role, version, Sha256::parse(sha256).map_err(|_| error())?)?;
        if entry.to_bytes() == bytes { Ok(entry) } else { Err(error()) }
    }

    /// Its hash in the tree.
    pub fn leaf(&self) -> Sha256 {
        leaf_hash(&self.to_bytes())
    }
}
