//! What goes over the wire beside chunks: JSON, strict in what an origin reads.

use relevo_types::{ByteLen, Codename, Sha256, TargetPath};
use serde::{Deserialize, Serialize};

/// Version of the protocol that these types are.
pub const PROTOCOL: u32 = 1;

/// What a maintainer wants to publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The roles that are published anew, signed.
    pub roles: Vec<ManifestRole>,
    /// The files that they list and that may be missing at the origin.
    pub targets: Vec<ManifestTarget>,
}

/// The role of a device or of its nightly channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestRole {
    /// The device.
    pub codename: Codename,
    /// Whether it is the role of its nightly channel.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nightly: bool,
    /// The signed file, as it is.
    pub file: String,
}

impl ManifestRole {
    /// The role's name in metadata.
    pub fn name(&self) -> String {
        format!("d-{}{}", self.codename, if self.nightly { "-nightly" } else { "" })
    }
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestTarget {
    /// Its path, as a role lists it.
    pub path: TargetPath,
    /// Its length in bytes.
    pub length: ByteLen,
    /// Its SHA-256.
    pub sha256: Sha256,
    /// SHA-256 of its list of chunks; none for a file that is one chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Sha256>,
}

/// How far a publication has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Id of the publication: SHA-256 of its manifest.
    pub session: Sha256,
    /// How far.
    pub state: State,
    /// The manifest's targets, in its order.
    pub targets: Vec<TargetStatus>,
}

/// How far a publication has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Files, or the commit, are still to come.
    Open,
    /// It is what the repository says already; there is nothing to do.
    Published,
}

/// What the origin lacks of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// How many bytes of the list of chunks are there, if it has to be sent first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_have: Option<u64>,
    /// Runs of missing chunks: the number of the first one, from 0, and how many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<(u32, u32)>,
    /// Their bytes.
    #[serde(default)]
    pub missing_bytes: u64,
}

/// What a commit did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The roles that were published.
    pub roles: Vec<ReceiptRole>,
    /// Version of the snapshot.
    pub snapshot_version: u64,
    /// Version of the timestamp.
    pub timestamp_version: u64,
    /// False if the very same was published before.
    pub changed: bool,
}

/// A role that was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptRole {
    /// Its name.
    pub role: String,
    /// Its version.
    pub version: u64,
}
