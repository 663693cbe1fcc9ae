//! What is known about a device: `manifests/<codename>.toml`.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    ByteLen, Channel, Codename, InstallKind, PartitionName, Vendor,
    device_people::{Buttons, Firmware, Hardware, Links, Recovery, Variant},
};

/// Longest manifest that we read, in bytes; the longest of ours is under 5 KiB, guides in eight languages add 20.
pub const MAX_MANIFEST: ByteLen = ByteLen::kib(128);

/// What a maintainer tells Relevo about one device, once.
///
/// Read it with [`DeviceManifest::parse`], which checks every value and refuses unknown keys; write it with
/// [`DeviceManifest::to_toml`]. `Serialize` gives the same shape as the TOML, for `--json`.
///
/// # Examples
/// ```
/// use relevo_types::{DeviceManifest, InstallKind};
///
/// let manifest = DeviceManifest::parse(
///     r#"
///     codename = "ginkgo"
///     vendor = "xiaomi"
///     kind = "block"
///     names = ["Redmi Note 8"]
///
///     [partitions]
///     boot = { size = "64 MiB" }
///     system = {}
///     "#,
/// )?;
/// assert_eq!(manifest.kind, InstallKind::Block);
/// assert_eq!(manifest.channels[0].as_str(), "stable");
///
/// let error = DeviceManifest::parse("codename = \"x\"\nvendr = \"y\"\nkind = \"ab\"").unwrap_err();
/// assert!(error.to_string().contains("line 2: unknown key vendr; did you mean vendor?"));
/// # Ok::<(), relevo_types::ManifestError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceManifest {
    /// The device's codename.
    pub codename: Codename,
    /// Who made it.
    pub vendor: Vendor,
    /// How it installs updates.
    pub kind: InstallKind,
    /// Names that it was sold under, those of the variants too: `Redmi Note 8`.
    pub names: Vec<String>,
    /// Model numbers (`ro.product.model`, or as printed on it), those of the variants too: `M2012K11AG`.
    pub models: Vec<String>,
    /// Other codenames that the same builds install on, those of the variants too: `willow`.
    pub aliases: Vec<Codename>,
    /// Channels that builds are published to; never empty. Default: `stable`.
    pub channels: Vec<Channel>,
    /// The partitions that a build brings, by name. Empty: not known, and so not checked.
    pub partitions: BTreeMap<PartitionName, DevicePartition>,
    /// The `super` partition, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamic: Option<DynamicPartitions>,
    /// Facts about Virtual A/B; none if the device has real slots or none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_ab: Option<VirtualAb>,
    /// What update_engine on the device understands; for kind `ab` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<PayloadFacts>,
    /// What is inside, for people who look for their device.
    #[serde(skip_serializing_if = "Hardware::is_empty")]
    pub hardware: Hardware,
    /// Where it is described, and where the source code of its builds is.
    #[serde(skip_serializing_if = "Links::is_empty")]
    pub links: Links,
    /// Firmware of the maker that builds need.
    #[serde(skip_serializing_if = "Firmware::is_empty")]
    pub firmware: Firmware,
    /// What is held down, with the device off, to get into its modes.
    #[serde(skip_serializing_if = "Buttons::is_empty")]
    pub buttons: Buttons,
    /// Where its recovery is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// How the bootloader is unlocked.
    #[serde(skip_serializing_if = "Guide::is_empty")]
    pub unlock: Guide,
    /// How the first build gets onto the device.
    #[serde(skip_serializing_if = "Guide::is_empty")]
    pub install: Guide,
    /// Which builds get a delta to the newest one.
    pub deltas: DeltaPolicy,
    /// How a build is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildRecipe>,
    /// The members of the family, where the same builds run on several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<Variant>,
}

/// One partition of a device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct DevicePartition {
    /// Its size, where it is fixed and known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteLen>,
    /// The group of dynamic partitions that it belongs to; none for one with a place of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// The `super` partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DynamicPartitions {
    /// Size of `super`.
    pub size: ByteLen,
    /// Its groups, and the most that each may hold.
    pub groups: BTreeMap<String, ByteLen>,
}

/// Facts about Virtual A/B.
///
/// # Source
/// AOSP `system/update_engine`, `DynamicPartitionMetadata`; `fs_mgr/libsnapshot`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VirtualAb {
    /// How snapshots are compressed.
    pub compression: Compression,
    /// Version of the snapshot format, 2 or 3; needed with compression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cow_version: Option<u8>,
    /// SDK level of the vendor partition (`ro.vendor.api_level`), which bounds what the snapshots can do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sdk: Option<u32>,
}

/// How a Virtual A/B device compresses its snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all: snapshots of the kernel.
    None,
    /// zlib; the first that was there.
    Gz,
    /// Brotli.
    Brotli,
    /// LZ4, since Android 14.
    Lz4,
    /// Zstandard, since Android 15.
    Zstd,
}

impl Compression {
    /// All of them, with their names in a manifest.
    pub(crate) const ALL: [(&'static str, Self); 5] =
        [("none", Self::None), ("gz", Self::Gz), ("brotli", Self::Brotli), ("lz4", Self::Lz4), ("zstd", Self::Zstd)];
}

/// What update_engine on the device understands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PayloadFacts {
    /// `PAYLOAD_MINOR_VERSION` of the builds in use, 2 to 9. A delta is made for that of its source build.
    pub minor_versions: Vec<u32>,
}

/// Steps for people, per language, or where they are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Guide {
    /// Ids of the guides that hold for this device, in order; see [`crate::guide`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub guides: Vec<String>,
    /// What `fastboot` is told, for a guide that says so; of `unlock` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// A page with the steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Steps in order, by language (`en`, `es`, `pt-BR`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub steps: BTreeMap<String, Vec<String>>,
}

impl Guide {
    /// Says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Which builds get a delta to the newest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaPolicy {
    /// The last so many builds before it.
    BuildsBack(u32),
    /// Every build that a phone asked with in the last so many days. Only an origin knows which those are; without
    /// one, every build that is at hand counts.
    PolledWithinDays(u32),
}

impl Default for DeltaPolicy {
    /// Three builds back: with weekly builds, a phone that was off for a month still gets a delta.
    fn default() -> Self {
        Self::BuildsBack(3)
    }
}

impl Serialize for DeltaPolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (key, value) = match self {
            Self::BuildsBack(builds) => ("builds_back", builds),
            Self::PolledWithinDays(days) => ("polled_within_days", days),
        };
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(key, value)?;
        map.end()
    }
}

/// How a build is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BuildRecipe {
    /// Program and arguments; no shell in between.
    pub command: Vec<String>,
    /// Where it runs; relative to the maintainer's directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Variables added to its environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// Where what it made comes out, relative to `directory`; `*` stands for any part of a name.
    pub output: String,
}

impl DeviceManifest {
    /// A manifest with the least that one can have.
    pub fn new(codename: Codename, vendor: Vendor, kind: InstallKind) -> Self {
        Self {
            codename,
            vendor,
            kind,
            names: Vec::new(),
            models: Vec::new(),
            aliases: Vec::new(),
            channels: vec![Channel::parse("stable").expect("stable is a channel's name")],
            partitions: BTreeMap::new(),
            dynamic: None,
            virtual_ab: None,
            payload: None,
            hardware: Hardware::default(),
            links: Links::default(),
            firmware: Firmware::default(),
            buttons: Buttons::default(),
            recovery: None,
            unlock: Guide::default(),
            install: Guide::default(),
            deltas: DeltaPolicy::default(),
            build: None,
            variants: Vec::new(),
        }
    }

    /// Writes the manifest as TOML that [`DeviceManifest::parse`] reads back as the same.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a manifest holds only what TOML can say")
    }
}
