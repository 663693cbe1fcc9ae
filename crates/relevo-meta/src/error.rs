//! Why metadata is not believed.

use jiff::Timestamp;
use relevo_types::{ByteLen, Codename, NameError, Sha256, Vendor};

/// What the verification core or a parser said, kept as the cause.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why metadata is not believed; one variant for each rule.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// There is no `root.json` to start from.
    #[error("no trusted root.json to start from")]
    NoRoot,
    /// The source does not have the file.
    #[error("{file} is missing at the source")]
    NotFound {
        /// The file that was asked for.
        file: String,
    },
    /// More bytes than were asked for.
    #[error("{file} has {length}, over the limit of {limit}")]
    TooLong {
        /// The file.
        file: String,
        /// What came, at least.
        length: ByteLen,
        /// The most that is read.
        limit: ByteLen,
    },
    /// No metadata, or metadata of another kind.
    #[error("{file} is no metadata of the role {role:?}")]
    Malformed {
        /// The file.
        file: String,
        /// The role that it should be.
        role: String,
        /// What is wrong with it.
        source: Cause,
    },
    /// Too few valid signatures by the role's keys.
    #[error("{file} has {found} valid signatures by the keys of the role {role:?}; it needs {threshold}")]
    Threshold {
        /// The file.
        file: String,
        /// The role whose keys had to sign.
        role: String,
        /// Valid signatures by different keys of the role.
        found: usize,
        /// Signatures that the delegating role asks for.
        threshold: usize,
    },
    /// A signature written in another way than with the digits `0` to `9` and `a` to `f`. The core would read capitals
    /// as well; then a byte could be changed on the way and the file still be believed.
    #[error("{file} has a signature by the key {key_id} that is not in lower-case hexadecimal")]
    SignatureDigits {
        /// The file.
        file: String,
        /// The key that the signature names, cut at 80 characters.
        key_id: String,
    },
    /// One key signed twice.
    #[error("{file} is signed twice by the key {key_id} of the role {role:?}")]
    DuplicateSignature {
        /// The file.
        file: String,
        /// The role.
        role: String,
        /// The key.
        key_id: String,
    },
    /// A root whose version does not follow the trusted one.
    #[error("{file} has version {offered}; the root after version {trusted} must have the next one")]
    VersionGap {
        /// The file.
        file: String,
        /// The trusted root's version.
        trusted: u64,
        /// The version offered.
        offered: u64,
    },
    /// More new roots in a row than one run follows; all of them were kept, so that the next run goes on from there.
    #[error("root.json moved {steps} versions to {reached} and there may be more")]
    TooManyRoots {
        /// Roots followed in this run.
        steps: usize,
        /// The version that is trusted now.
        reached: u64,
    },
    /// The expiry date has passed.
    #[error("{file} expired at {expires}")]
    Expired {
        /// The file.
        file: String,
        /// The role.
        role: String,
        /// When it expired.
        expires: Timestamp,
    },
    /// The device's own role expired: nobody vouches for its packages any more.
    #[error("{codename} is unmaintained: {file} expired at {expires}")]
    Unmaintained {
        /// The device.
        codename: Codename,
        /// The file.
        file: String,
        /// When it expired.
        expires: Timestamp,
    },
    /// An older version than the trusted one.
    #[error("{file} rolls {role:?} back from version {trusted} to {offered}")]
    Rollback {
        /// The file that offers it.
        file: String,
        /// The role that would go back.
        role: String,
        /// The trusted version.
        trusted: u64,
        /// The version offered.
        offered: u64,
    },
    /// Not the version that the signed metadata above it names.
    #[error("{file} has version {actual}; its signed version is {expected}")]
    WrongVersion {
        /// The file.
        file: String,
        /// The version that is vouched for.
        expected: u64,
        /// The version found.
        actual: u64,
    },
    /// Not the length that is vouched for.
    #[error("{file} has {actual}; its signed length is {expected}")]
    WrongLength {
        /// The file.
        file: String,
        /// The length that is vouched for.
        expected: ByteLen,
        /// The length found.
        actual: ByteLen,
    },
    /// Not the hash that is vouched for.
    #[error("{file} has SHA-256 {actual}; its signed SHA-256 is {expected}")]
    WrongHash {
        /// The file.
        file: String,
        /// The hash that is vouched for.
        expected: Sha256,
        /// The hash found.
        actual: Sha256,
    },
    /// Not the hash that is vouched for, of a target that has other hashes than SHA-256.
    #[error("{file} is not the file whose {algorithm} was signed")]
    WrongDigest {
        /// The file.
        file: String,
        /// The hash that differs.
        algorithm: &'static str,
    },
    /// The snapshot forgets a role that it once listed.
    #[error("{file} no longer lists {entry}, which an earlier snapshot lists")]
    Removed {
        /// The snapshot's file.
        file: String,
        /// What it dropped.
        entry: String,
    },
    /// Signed metadata does not name the version of a file that is needed.
    #[error("{file} does not list {entry}")]
    NotPinned {
        /// The file that should list it.
        file: String,
        /// What is missing in it.
        entry: String,
    },
    /// No trusted metadata gives the role any keys.
    #[error("{file} is of the role {role:?}, to which nobody delegates")]
    Undelegated {
        /// The file.
        file: String,
        /// The role.
        role: String,
    },
    /// No role is responsible for the device.
    #[error("this repository has no device {vendor}/{codename}")]
    NoSuchDevice {
        /// The vendor asked for.
        vendor: Vendor,
        /// The device asked for.
        codename: Codename,
    },
    /// The search for the device's role passes through too many roles.
    #[error("the search for a device passes through more than {limit} roles")]
    TooManyRoles {
        /// The most that are visited.
        limit: usize,
    },
    /// A role lists a target outside the paths that were delegated to it.
    #[error("{file} lists {path:?}, which lies outside what was delegated to the role {role:?}")]
    PathOutsideDelegation {
        /// The file.
        file: String,
        /// The role.
        role: String,
        /// The path, cut at 200 characters.
        path: String,
    },
    /// A target that its role may list, but that is none as Relevo defines it.
    #[error("{file} lists {path:?}, which cannot be used")]
    BadTarget {
        /// The file.
        file: String,
        /// The path, cut at 200 characters.
        path: String,
        /// What is wrong with it.
        source: BadTarget,
    },
    /// The caller broke the order of calls; nothing is wrong with the metadata.
    #[error("{0}")]
    Misuse(&'static str),
}

/// What is wrong with one target.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadTarget {
    /// The path is not `<vendor>/<codename>/<channel>/<file>`.
    #[error("the path is not <vendor>/<codename>/<channel>/<file>")]
    Path(#[source] NameError),
    /// There is no SHA-256, or it is none.
    #[error("it has no valid SHA-256")]
    Hash,
    /// The custom field says something impossible.
    #[error("its custom field is wrong")]
    Custom(#[source] serde_json::Error),
    /// A build of a time to come: it would be newer than every build that follows.
    #[error("it was made at {made}, after the metadata that offers it ends at {ends}")]
    FromTheFuture {
        /// When it claims to be made.
        made: Timestamp,
        /// When the timestamp role expires.
        ends: Timestamp,
    },
    /// The custom field is consistent in itself, but not with the rest.
    #[error("its custom field is wrong: {0}")]
    Inconsistent(&'static str),
}

impl TrustError {
    /// Whether the same question to another source can help.
    ///
    /// True for everything that a bad, broken or stale source alone can cause.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NotFound { .. }
            | Self::TooLong { .. }
            | Self::Malformed { .. }
            | Self::Threshold { .. }
            | Self::SignatureDigits { .. }
            | Self::DuplicateSignature { .. }
            | Self::VersionGap { .. }
            | Self::Expired { .. }
            | Self::Rollback { .. }
            | Self::WrongVersion { .. }
            | Self::WrongLength { .. }
            | Self::WrongHash { .. }
            | Self::WrongDigest { .. }
            | Self::Removed { .. }
            | Self::TooManyRoots { .. } => true,
            Self::NoRoot
            | Self::Unmaintained { .. }
            | Self::NotPinned { .. }
            | Self::Undelegated { .. }
            | Self::NoSuchDevice { .. }
            | Self::TooManyRoles { .. }
            | Self::PathOutsideDelegation { .. }
            | Self::BadTarget { .. }
            | Self::Misuse(_) => false,
        }
    }

    /// The file that it is about, if it is about one.
    pub fn file(&self) -> Option<&str> {
        match self {
            Self::NotFound { file }
            | Self::TooLong { file, .. }
            | Self::Malformed { file, .. }
            | Self::Threshold { file, .. }
            | Self::SignatureDigits { file, .. }
            | Self::DuplicateSignature { file, .. }
            | Self::VersionGap { file, .. }
            | Self::Expired { file, .. }
            | Self::Unmaintained { file, .. }
            | Self::Rollback { file, .. }
            | Self::WrongVersion { file, .. }
            | Self::WrongLength { file, .. }
            | Self::WrongHash { file, .. }
            | Self::WrongDigest { file, .. }
            | Self::Removed { file, .. }
            | Self::NotPinned { file, .. }
            | Self::Undelegated { file, .. }
            | Self::PathOutsideDelegation { file, .. }
            | Self::BadTarget { file, .. } => Some(file),
            Self::NoRoot
            | Self::TooManyRoots { .. }
            | Self::NoSuchDevice { .. }
            | Self::TooManyRoles { .. }
            | Self::Misuse(_) => None,
        }
    }

    /// What a person can do about it, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoRoot => Some("copy 1.root.json of the repository, from somebody you trust, to root.json"),
            Self::NotFound { .. } => Some("the source is incomplete or still being filled; try another mirror"),
            Self::Expired { role, .. } if role == "timestamp" => {
                Some("check the date and time of this machine; if they are right, the source is stale: try another")
            }
            Self::Expired { .. } => {
                Some("check the date and time of this machine; if they are right, the maintainers must sign again")
            }
            Self::Unmaintained { .. } => {
                Some("check the date and time of this machine; if they are right, ask the device's maintainers")
            }
            Self::Rollback { .. } | Self::Removed { .. } => {
                Some("the source offers an older state than the one already seen; try another mirror")
            }
            Self::TooManyRoots { .. } => Some("run again: the next run goes on from there"),
            Self::NoSuchDevice { .. } => Some("check the vendor and the codename in the configuration"),
            Self::Threshold { .. }
            | Self::SignatureDigits { .. }
            | Self::DuplicateSignature { .. }
            | Self::VersionGap { .. }
            | Self::WrongVersion { .. }
            | Self::WrongLength { .. }
            | Self::WrongHash { .. }
            | Self::WrongDigest { .. }
            | Self::Malformed { .. }
            | Self::TooLong { .. } => Some("the source serves damaged or false files; try another mirror"),
            _ => None,
        }
    }
}

/// Refuses a signature that is not in lower-case hexadecimal. What is no metadata at all is left to the core.
pub(crate) fn check_digits(file: &str, bytes: &[u8]) -> Result<(), TrustError> {
    #[derive(serde::Deserialize)]
    struct File {
        #[serde(default)]
        signatures: Vec<Signature>,
    }
    #[derive(serde::Deserialize)]
    struct Signature {
        keyid: String,
        sig: String,
    }
    let Ok(File { signatures }) = serde_json::from_slice(bytes) else { return Ok(()) };
    for Signature { keyid, sig } in signatures {
        if sig.contains(|c: char| !matches!(c, '0'..='9' | 'a'..='f')) {
            let key_id = keyid.chars().take(80).collect();
            return Err(TrustError::SignatureDigits { file: file.to_owned(), key_id });
        }
    }
    Ok(())
}

/// Translates an error of the verification core about `file`, which should be `role`.
pub(crate) fn from_core(error: sigstore_tuf::Error, file: &str, role: &str) -> TrustError {
    use sigstore_tuf::Error as Core;

    let file = file.to_owned();
    match error {
        Core::ThresholdNotMet { role, found, threshold } => TrustError::Threshold { file, role, found, threshold },
        Core::DuplicateSignature { role, key_id } => TrustError::DuplicateSignature { file, role, key_id },
        Core::BadRootVersion { trusted, new } => TrustError::VersionGap { file, trusted, offered: new },
        Core::Expired { role, expires } => TrustError::Expired { file, role, expires },
        Core::Rollback { role, trusted, new } => {
            // The core writes "d-ginkgo.json (via snapshot)".
            let role = role.split(" (").next().unwrap_or(&role);
            let role = role.strip_suffix(".json").unwrap_or(role).to_owned();
            TrustError::Rollback { file, role, trusted, offered: new }
        }
        other => TrustError::Malformed { file, role: role.to_owned(), source: Box::new(other) },
    }
}
