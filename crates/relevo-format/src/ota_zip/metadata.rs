//! What an OTA zip says of itself: `metadata`, `metadata.pb`, `payload_properties.txt`.

use std::collections::BTreeMap;

use base64::Engine as _;
use prost::Message as _;
use relevo_types::{ByteLen, Sha256};

use super::{METADATA, METADATA_PB, OtaZip, PROPERTIES, ZipError};
use crate::ReadAt;

/// Most bytes of the text files; stock ones have under 1 KB.
const MAX_TEXT: ByteLen = ByteLen::kib(64);
/// Most bytes of the message; one with every partition's state has a few KB.
const MAX_MESSAGE: ByteLen = ByteLen::mib(1);

/// Why metadata could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The entry is missing or damaged.
    #[error(transparent)]
    Zip(#[from] ZipError),
    /// It is no text.
    #[error("{name} is not UTF-8")]
    Text {
        /// Which entry.
        name: &'static str,
    },
    /// A line that is no pair.
    #[error("line {line} of {name} is not KEY=VALUE")]
    Line {
        /// Which entry.
        name: &'static str,
        /// Which line, from 1.
        line: usize,
    },
    /// The same key twice.
    #[error("{name} has {key} twice")]
    Twice {
        /// Which entry.
        name: &'static str,
        /// Which key.
        key: String,
    },
    /// No message.
    #[error("{METADATA_PB} could not be decoded")]
    Decode {
        /// What is wrong.
        source: prost::DecodeError,
    },
    /// The properties are not what they have to be.
    #[error("{PROPERTIES} is damaged")]
    Properties(#[from] PropertiesError),
}

/// What is wrong with a payload's properties.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PropertiesError {
    /// A key that has to be there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// No such value.
    #[error("{key} is {value:?}; expected {expected}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What it is, shortened.
        value: String,
        /// What it has to be.
        expected: &'static str,
    },
}

/// `metadata.pb`.
///
/// # Source
/// AOSP `build/tools/releasetools/ota_metadata.proto`, the field numbers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Metadata {
    /// 1 A/B, 2 block, 3 brick.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// Whether user data are erased.
    #[prost(bool, tag = "2")]
    pub wipe: bool,
    /// Whether it goes to an older build.
    #[prost(bool, tag = "3")]
    pub downgrade: bool,
    /// Where entries lie, for updaters that fetch parts.
    #[prost(btree_map = "string, string", tag = "4")]
    pub property_files: BTreeMap<String, String>,
    /// What the phone has to be before.
    #[prost(message, optional, tag = "5")]
    pub precondition: Option<DeviceState>,
    /// What it is afterwards.
    #[prost(message, optional, tag = "6")]
    pub postcondition: Option<DeviceState>,
    /// Whether it brings dynamic partitions to a phone that had none.
    #[prost(bool, tag = "7")]
    pub retrofit_dynamic_partitions: bool,
    /// Bytes of cache that it needs.
    #[prost(int64, tag = "8")]
    pub required_cache: i64,
    /// Whether the security patch level goes back.
    #[prost(bool, tag = "9")]
    pub spl_downgrade: bool,
}

impl Metadata {
    /// Of an A/B update.
    pub const AB: i32 = 1;
    /// Of a block-based one.
    pub const BLOCK: i32 = 2;

    /// What the text says, by key: less than the message does.
    pub fn lines(&self) -> BTreeMap<String, String> {
        let (pre, post) =
            (self.precondition.clone().unwrap_or_default(), self.postcondition.clone().unwrap_or_default());
        let mut lines = self.property_files.clone();
        let mut line = |key: &str, value: String| lines.insert(key.to_owned(), value);
        match self.kind {
            Self::AB => line("ota-type", "AB".to_owned()),
            Self::BLOCK => line("ota-type", "BLOCK".to_owned()),
            _ => None,
        };
        let flags = [
            (self.wipe, "ota-wipe"),
            (self.retrofit_dynamic_partitions, "ota-retrofit-dynamic-partitions"),
            (self.downgrade, "ota-downgrade"),
            (self.spl_downgrade, "spl-downgrade"),
        ];
        for (_, key) in flags.iter().filter(|(set, _)| *set) {
            line(key, "yes".to_owned());
        }
        line("ota-required-cache", self.required_cache.to_string());
        line("post-timestamp", post.timestamp.to_string());
        line("pre-device", pre.device.join("|"));
        // What nobody knows is left out rather than said to be nothing. Without a build to start from, any will do.
        for (key, value) in [
            ("pre-build", pre.build.join("|")),
            ("pre-build-incremental", pre.build_incremental),
            ("post-build", post.build.join("|")),
            ("post-build-incremental", post.build_incremental),
            ("post-sdk-level", post.sdk_level),
            ("post-security-patch-level", post.security_patch_level),
        ] {
            if !value.is_empty() {
                line(key, value);
            }
        }
        lines
    }

    /// What the text says as a message, for zips that have the text alone; none if it is not of this kind.
    pub fn from_lines(lines: &BTreeMap<String, String>) -> Option<Self> {
        let get = |key: &str| lines.get(key).cloned().unwrap_or_default();
        let list =
            |key: &str| lines.get(key).map(|text| text.split('|').map(str::to_owned).collect()).unwrap_or_default();
        let is = |key: &str| lines.get(key).is_some_and(|value| value == "yes");
        let number = |key: &str| match lines.get(key) {
            Some(text) => text.trim().parse().ok(),
            None => Some(0),
        };
        let kind = match &*get("ota-type") {
            "AB" => Self::AB,
            "BLOCK" => Self::BLOCK,
            _ => return None,
        };
        Some(Self {
            kind,
            wipe: is("ota-wipe"),
            downgrade: is("ota-downgrade"),
            property_files: BTreeMap::new(),
            precondition: Some(DeviceState {
                device: list("pre-device"),
                build: list("pre-build"),
                build_incremental: get("pre-build-incremental"),
                ..DeviceState::default()
            }),
            postcondition: Some(DeviceState {
                build: list("post-build"),
                build_incremental: get("post-build-incremental"),
                timestamp: number("post-timestamp")?,
                sdk_level: get("post-sdk-level"),
                security_patch_level: get("post-security-patch-level"),
                ..DeviceState::default()
            }),
            retrofit_dynamic_partitions: is("ota-retrofit-dynamic-partitions"),
            required_cache: number("ota-required-cache")?,
            spl_downgrade: is("spl-downgrade"),
        })
    }

    /// The text that says the same, as recoveries and updaters read it.
    pub fn to_text(&self) -> String {
        self.lines().iter().map(|(key, value)| format!("{key}={value}\n")).collect()
    }
}

/// A phone before or after.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeviceState {
    /// Names of the device.
    #[prost(string, repeated, tag = "1")]
    pub device: Vec<String>,
    /// Fingerprints of the build.
    #[prost(string, repeated, tag = "2")]
    pub build: Vec<String>,
    /// Its incremental version.
    #[prost(string, tag = "3")]
    pub build_incremental: String,
    /// Its date, seconds since 1970.
    #[prost(int64, tag = "4")]
    pub timestamp: i64,
    /// Its SDK level.
    #[prost(string, tag = "5")]
    pub sdk_level: String,
    /// Its security patch level.
    #[prost(string, tag = "6")]
    pub security_patch_level: String,
    /// State of single partitions.
    #[prost(message, repeated, tag = "7")]
    pub partition_state: Vec<PartitionState>,
}

/// A partition before or after.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PartitionState {
    /// Its name.
    #[prost(string, tag = "1")]
    pub partition_name: String,
    /// Names of the device.
    #[prost(string, repeated, tag = "2")]
    pub device: Vec<String>,
    /// Fingerprints of the build.
    #[prost(string, repeated, tag = "3")]
    pub build: Vec<String>,
    /// Its version.
    #[prost(string, tag = "4")]
    pub version: String,
}

/// `payload_properties.txt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// SHA-256 of the payload.
    pub file_sha256: Sha256,
    /// Bytes of the payload.
    pub file_size: ByteLen,
    /// SHA-256 of its header and manifest.
    pub metadata_sha256: Sha256,
    /// Bytes of its header and manifest.
    pub metadata_size: ByteLen,
    /// What else is said to the phone, `POWERWASH` and such.
    pub others: BTreeMap<String, String>,
}

impl<R: ReadAt> OtaZip<R> {
    /// The lines of `metadata`.
    ///
    /// # Errors
    /// [`MetadataError`] if it is missing, too long, or not lines of `key=value`.
    pub fn metadata_text(&self) -> Result<BTreeMap<String, String>, MetadataError> {
        pairs(METADATA, &self.small(METADATA, MAX_TEXT)?)
    }

    /// `metadata.pb`; none in zips from before Android 12.
    ///
    /// # Errors
    /// [`MetadataError`] if it is damaged.
    pub fn metadata(&self) -> Result<Option<Metadata>, MetadataError> {
        if self.entry(METADATA_PB).is_none() {
            return Ok(None);
        }
        // Its smallest part takes two bytes here and under 200 in memory, so this is bounded by some 100 MiB.
        let bytes = self.small(METADATA_PB, MAX_MESSAGE)?;
        Ok(Some(Metadata::decode(&bytes[..]).map_err(|source| MetadataError::Decode { source })?))
    }

    /// `payload_properties.txt`.
    ///
    /// # Errors
    /// [`MetadataError`] if it is missing or damaged.
    pub fn properties(&self) -> Result<Properties, MetadataError> {
        let mut pairs = pairs(PROPERTIES, &self.small(PROPERTIES, MAX_TEXT)?)?;
        let file_sha256 = digest(&mut pairs, "FILE_HASH")?;
        let file_size = number(&mut pairs, "FILE_SIZE")?;
        let metadata_sha256 = digest(&mut pairs, "METADATA_HASH")?;
        let metadata_size = number(&mut pairs, "METADATA_SIZE")?;
        Ok(Properties { file_sha256, file_size, metadata_sha256, metadata_size, others: pairs })
    }
}

fn pairs(name: &'static str, bytes: &[u8]) -> Result<BTreeMap<String, String>, MetadataError> {
    let text = std::str::from_utf8(bytes).map_err(|_| MetadataError::Text { name })?;
    let mut pairs = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let (key, value) = line.split_once('=').ok_or(MetadataError::Line { name, line: index + 1 })?;
        if pairs.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(MetadataError::Twice { name, key: key.to_owned() });
        }
    }
    Ok(pairs)
}

fn value<T>(
    pairs: &mut BTreeMap<String, String>,
    key: &'static str,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, PropertiesError> {
    let value = pairs.remove(key).ok_or(PropertiesError::Missing(key))?;
    let wrong = || PropertiesError::Value { key, value: value.chars().take(80).collect(), expected };
    parse(value.trim()).ok_or_else(wrong)
}

fn digest(pairs: &mut BTreeMap<String, String>, key: &'static str) -> Result<Sha256, PropertiesError> {
    value(pairs, key, "a SHA-256 in base64", |text| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
        Some(Sha256::new(bytes.try_into().ok()?))
    })
}

fn number(pairs: &mut BTreeMap<String, String>, key: &'static str) -> Result<ByteLen, PropertiesError> {
    value(pairs, key, "a number of bytes", |text| text.parse().ok().map(ByteLen::new))
}
