//! Verified metadata, in Relevo's words.

use std::collections::BTreeMap;

use ed25519_dalek::VerifyingKey;
use jiff::Timestamp;
use relevo_types::{BuildId, ByteLen, Channel, Codename, PackageKind, Sha256, TargetPath, Vendor};
use serde::{Deserialize, Serialize};
use sigstore_tuf::TargetFile;

use crate::{
    error::{BadTarget, TrustError},
    log::LogKey,
};

/// A whole verified state of a repository, as far as the [`Scope`](crate::Scope) asked for it.
#[derive(Debug)]
pub struct Trusted {
    pub(crate) roles: BTreeMap<String, RoleFile>,
    pub(crate) devices: BTreeMap<Codename, TrustedDevice>,
    pub(crate) listed: BTreeMap<Codename, Vendor>,
    pub(crate) troubles: BTreeMap<String, TrustError>,
    pub(crate) stale_since: Option<Timestamp>,
    pub(crate) log: Option<LogKey>,
}

/// One verified metadata file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleFile {
    /// Its name in the repository's `metadata/`: `12.d-ginkgo.json`.
    pub file: String,
    /// Its version.
    pub version: u64,
    /// When it expires.
    pub expires: Timestamp,
}

/// A device and everything that its maintainers vouch for.
#[derive(Debug)]
pub struct TrustedDevice {
    /// Its vendor.
    pub vendor: Vendor,
    /// Its codename.
    pub codename: Codename,
    /// The keys that sign for the device, for its role and for its packages alike; Ed25519 only. Packages that a role
    /// below it speaks for have keys of their own: [`Self::signatories`].
    pub keys: Vec<VerifyingKey>,
    /// How many of the keys have to sign.
    pub threshold: usize,
    /// Version of the device's role.
    pub role_version: u64,
    /// The roles that speak for the device: its own first, then those below it, such as that of a build box.
    pub roles: Vec<String>,
    /// When the device's role expires, and with it everything here.
    pub expires: Timestamp,
    /// Until when this is known to be all that there is: when the timestamp expires.
    pub fresh_until: Timestamp,
    /// Its packages, in the order of their paths.
    pub packages: Vec<Package>,
    /// All its targets: packages, chunk lists, whatever else.
    pub targets: BTreeMap<TargetPath, Target>,
    /// Who signs for targets that a role below the device's speaks for, such as those of a nightly channel.
    pub delegated: BTreeMap<TargetPath, Signatories>,
    /// What the device's roles list and may not, or cannot be used; it is not in `targets`.
    pub refused: Vec<TrustError>,
}

/// Keys, and how many of them have to sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signatories {
    /// The keys; Ed25519 only.
    pub keys: Vec<VerifyingKey>,
    /// How many of them have to sign.
    pub threshold: usize,
}

/// What metadata vouches for about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its length.
    pub length: ByteLen,
    /// Its SHA-256.
    pub sha256: Sha256,
}

/// A target of any TUF repository, found by [`Refresh::search`](crate::Refresh::search).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its path.
    pub path: String,
    /// Its length.
    pub length: ByteLen,
    /// Its hashes in hexadecimal, by algorithm.
    pub hashes: BTreeMap<String, String>,
    /// Whether its file has a hash in front of its name.
    consistent: bool,
}

/// A package that metadata vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its path.
    pub path: TargetPath,
    /// Its length.
    pub length: ByteLen,
    /// Its SHA-256.
    pub sha256: Sha256,
    /// What it is.
    pub custom: Custom,
}

/// The custom field of a package: what it is and to whom it is offered.
///
/// Unknown keys are ignored on reading, so that older phones understand newer repositories; a known key of a wrong type
/// makes the package unusable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Custom {
    /// What kind of package.
    pub kind: PackageKind,
    /// The build that it starts from; none for a full package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<BuildId>,
    /// The build that it leads to.
    pub to: BuildId,
    /// The build's version, for people: `LineageOS 22.2-20250505`.
    pub version: String,
    /// When the build was made; decides what is newer.
    #[serde(with = "jiff::fmt::serde::timestamp::second::required")]
    pub timestamp: Timestamp,
    /// Android API level of the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sdk: Option<u32>,
    /// Security patch level of the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spl: Option<jiff::civil::Date>,
    /// Sizes that a phone must know beforehand.
    #[serde(default)]
    pub size: Size,
    /// Percentage of phones, 0 to 100, by their own dice.
    #[serde(default = "everybody", deserialize_with = "percentage")]
    pub rollout: u8,
    /// A build that must be installed first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<BuildId>,
    /// Taken back: nobody installs it any more.
    #[serde(default)]
    pub withdrawn: bool,
    /// File name of its chunk list, in the same directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks: Option<String>,
    /// What installing an A/B OTA zip takes; of kind `ab` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ab: Option<Ab>,
}

/// What phones and the updaters of ROMs need to know of an A/B OTA zip before they have it, so that nobody who answers
/// them has to open the zip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ab {
    /// Where the payload is in the zip, for update_engine.
    pub payload: AbFile,
    /// Bytes of the payload's header and manifest with their signature: `payload_metadata.bin`.
    pub metadata: AbFile,
    /// The zip's other entries that updaters fetch by range, by name: `payload_properties.txt`, `metadata.pb`,
    /// `care_map.pb`, …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, AbFile>,
    /// The lines of `payload_properties.txt`, which update_engine is given: `FILE_HASH`, `METADATA_SIZE`, …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
    /// `ota-property-files` as it stands in the zip's metadata.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub property_files: String,
    /// `ota-streaming-property-files`, the same.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub streaming_property_files: String,
    /// Codenames that the zip names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// Fingerprint of the build that it makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// `ro.build.version.incremental` of that build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incremental: Option<String>,
    /// Fingerprint of the build that it starts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_fingerprint: Option<String>,
    /// `ro.build.version.incremental` of that build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_incremental: Option<String>,
    /// `ro.boot.vbmeta.digest` of a phone that runs the build that it makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vbmeta_digest: Option<Sha256>,
    /// The same of the build that it starts from; Custota asks by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_vbmeta_digest: Option<Sha256>,
    /// Minor version of the payload: what update_engine of the build that it starts from has to know.
    #[serde(default)]
    pub minor: u32,
    /// `ro.lineage.build.version` of the build, which LineageOS's updater compares as it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage_version: Option<String>,
    /// `ro.lineage.releasetype` of the build, which that updater asks with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release_type: Option<String>,
}

/// A run of bytes in a zip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbFile {
    /// First byte in the zip.
    pub offset: ByteLen,
    /// Bytes.
    pub size: ByteLen,
    /// SHA-256 of these bytes.
    pub sha256: Sha256,
}

/// Sizes that a phone must know beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Size {
    /// Bytes of the installed partitions together.
    #[serde(default)]
    pub install: ByteLen,
}

impl Trusted {
    /// Version of the root.
    pub fn root_version(&self) -> u64 {
        self.role("root").version
    }

    /// Version of the timestamp; it grows with every publication and refresh.
    pub fn timestamp_version(&self) -> u64 {
        self.role("timestamp").version
    }

    /// Version of the snapshot; it grows with every publication.
    pub fn snapshot_version(&self) -> u64 {
        self.role("snapshot").version
    }

    /// When the root expires.
    pub fn root_expires(&self) -> Timestamp {
        self.role("root").expires
    }

    /// When the timestamp expires: the moment at which the whole state stops being fresh.
    pub fn timestamp_expires(&self) -> Timestamp {
        self.role("timestamp").expires
    }

    /// When the snapshot expires.
    pub fn snapshot_expires(&self) -> Timestamp {
        self.role("snapshot").expires
    }

    /// Since when the state is past its date, if it was only taken because the caller allowed that
    /// ([`Refresh::allow_stale`](crate::Refresh::allow_stale)). It may be forward, but nobody says that it is the newest.
    pub fn stale_since(&self) -> Option<Timestamp> {
        self.stale_since
    }

    /// The key of the transparency log that the root names; none if it names none, or none that can be used.
    pub fn log_key(&self) -> Option<&LogKey> {
        self.log.as_ref()
    }

    /// All verified files by role: `root`, `timestamp`, `snapshot`, `targets`, `v-xiaomi`, `d-ginkgo`, …
    pub fn roles(&self) -> &BTreeMap<String, RoleFile> {
        &self.roles
    }

    /// The devices whose roles verified. With `Scope::Device` this is the one asked for.
    pub fn devices(&self) -> &BTreeMap<Codename, TrustedDevice> {
        &self.devices
    }

    /// The devices to which the registries delegate, with their vendors, whether their own roles verified or not.
    pub fn listed(&self) -> &BTreeMap<Codename, Vendor> {
        &self.listed
    }

    /// A device.
    pub fn device(&self, codename: &Codename) -> Option<&TrustedDevice> {
        self.devices.get(codename)
    }

    /// Roles that did not verify, by name, and why; their devices are missing in [`Self::devices`].
    ///
    /// An expired device role is here as [`TrustError::Unmaintained`].
    pub fn troubles(&self) -> &BTreeMap<String, TrustError> {
        &self.troubles
    }

    /// Takes the state apart: the devices, and the roles that did not verify.
    pub fn into_parts(self) -> (BTreeMap<Codename, TrustedDevice>, BTreeMap<String, TrustError>) {
        (self.devices, self.troubles)
    }

    fn role(&self, name: &str) -> &RoleFile {
        self.roles.get(name).expect("a finished refresh holds the four top-level roles")
    }
}

impl TrustedDevice {
    /// Whose signatures a package has to carry: those of the role that speaks for its path.
    pub fn signatories(&self, path: &TargetPath) -> (&[VerifyingKey], usize) {
        match self.delegated.get(path) {
            Some(Signatories { keys, threshold }) => (keys, *threshold),
            None => (&self.keys, self.threshold),
        }
    }

    /// The chunk list of a package: its path and what is vouched for about it.
    pub fn chunk_list(&self, package: &Package) -> Option<(TargetPath, Target)> {
        let file = package.custom.chunks.as_deref()?;
        let path = &package.path;
        let path = TargetPath::new(path.vendor(), path.codename(), path.channel(), file).ok()?;
        let target = *self.targets.get(&path)?;
        Some((path, target))
    }

    /// The packages of a channel.
    pub fn channel<'a>(&'a self, channel: &'a Channel) -> impl Iterator<Item = &'a Package> {
        self.packages.iter().filter(move |package| package.path.channel() == channel)
    }
}

impl Package {
    /// What is vouched for about the file.
    pub fn target(&self) -> Target {
        Target { length: self.length, sha256: self.sha256 }
    }
}

impl Target {
    /// What `bytes` are.
    pub fn of(bytes: &[u8]) -> Self {
        Self { length: ByteLen::new(bytes.len() as u64), sha256: crate::crypto::sha256(bytes) }
    }

    /// Checks that `bytes` are the target, which is called `file`.
    ///
    /// # Errors
    /// [`TrustError::WrongLength`] or [`TrustError::WrongHash`].
    pub fn check(&self, file: &str, bytes: &[u8]) -> Result<(), TrustError> {
        let actual = ByteLen::new(bytes.len() as u64);
        if actual != self.length {
            return Err(TrustError::WrongLength { file: file.to_owned(), expected: self.length, actual });
        }
        let actual = crate::crypto::sha256(bytes);
        if actual != self.sha256 {
            return Err(TrustError::WrongHash { file: file.to_owned(), expected: self.sha256, actual });
        }
        Ok(())
    }
}

impl Found {
    pub(crate) fn new(path: &str, entry: &TargetFile, consistent: bool) -> Self {
        let (path, length) = (path.to_owned(), ByteLen::new(entry.length));
        Self { path, length, hashes: entry.hashes.clone(), consistent }
    }

    /// Where the file lies below the repository's `targets/`.
    ///
    /// # Errors
    /// [`TrustError::BadTarget`] if it has no hash that we know.
    pub fn file(&self) -> Result<String, TrustError> {
        if !self.consistent {
            return Ok(self.path.clone());
        }
        let hash = ["sha256", "sha512"].iter().find_map(|name| self.hashes.get(*name)).ok_or_else(|| self.no_hash())?;
        Ok(match self.path.rsplit_once('/') {
            Some((directory, file)) => format!("{directory}/{hash}.{file}"),
            None => format!("{hash}.{}", self.path),
        })
    }

    /// Checks that `bytes` are the target, by every hash that we know.
    ///
    /// # Errors
    /// [`TrustError::WrongLength`], [`TrustError::WrongDigest`], [`TrustError::BadTarget`].
    pub fn check(&self, bytes: &[u8]) -> Result<(), TrustError> {
        let actual = ByteLen::new(bytes.len() as u64);
        if actual != self.length {
            return Err(TrustError::WrongLength { file: self.path.clone(), expected: self.length, actual });
        }
        let known: Vec<_> =
            ["sha256", "sha512"].iter().filter_map(|name| Some((*name, self.hashes.get(*name)?))).collect();
        if known.is_empty() {
            return Err(self.no_hash());
        }
        for (algorithm, expected) in known {
            let actual = match algorithm {
                "sha256" => crate::crypto::sha256(bytes).to_string(),
                _ => crate::crypto::sha512(bytes),
            };
            if !actual.eq_ignore_ascii_case(expected) {
                return Err(TrustError::WrongDigest { file: self.path.clone(), algorithm });
            }
        }
        Ok(())
    }

    fn no_hash(&self) -> TrustError {
        let path: String = self.path.chars().take(200).collect();
        TrustError::BadTarget { file: "targets.json".to_owned(), path, source: BadTarget::Hash }
    }
}

impl Custom {
    /// Longest version text in bytes; it stands on pages and screens.
    pub const MAX_VERSION: usize = 200;

    /// Reads the custom field of a target; `None` if the target is no package but, say, a chunk list.
    ///
    /// # Errors
    /// [`BadTarget`] for a package whose fields are wrong.
    pub fn read(value: &serde_json::Value) -> Result<Option<Self>, BadTarget> {
        let kind = value.get("kind").and_then(serde_json::Value::as_str);
        if kind.is_none_or(|kind| kind.parse::<PackageKind>().is_err()) {
            return Ok(None);
        }
        let custom = Self::deserialize(value).map_err(BadTarget::Custom)?;
        if custom.version.len() > Self::MAX_VERSION {
            return Err(BadTarget::Inconsistent("the version is longer than 200 bytes"));
        }
        if custom.from.as_ref() == Some(&custom.to) {
            return Err(BadTarget::Inconsistent("it leads from a build to the same build"));
        }
        if custom.floor.as_ref() == Some(&custom.to) {
            return Err(BadTarget::Inconsistent("the build is its own floor"));
        }
        if custom.ab.is_some() && custom.kind != PackageKind::Ab {
            return Err(BadTarget::Inconsistent("it says where a payload is, and is no A/B package"));
        }
        Ok(Some(custom))
    }

    /// The field as JSON.
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("a custom field has string keys and no floats")
    }
}

fn everybody() -> u8 {
    100
}

fn percentage<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let value = u8::deserialize(deserializer)?;
    if value > 100 {
        return Err(serde::de::Error::custom(format_args!("rollout is {value}; it must be 0 to 100")));
    }
    Ok(value)
}
