//! What a build says of itself: beside its images, around them, and in them.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::Path,
};

use relevo_format::{
    ReadAt, Section, avb,
    fs::{self, FileKind, FsError},
    ota_zip::Metadata,
    payload::Manifest,
    target_files::Properties,
};
use relevo_types::{BuildId, Codename, PartitionName};
use serde::{Deserialize, Serialize};

use crate::{builds::MAX_FACTS, durable::read_text, error::CliError};

/// What `build.json` and `build.prop` beside the images say, the former first.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Facts {
    pub(crate) build: Option<BuildId>,
    pub(crate) device: Option<Codename>,
    pub(crate) timestamp: Option<u64>,
    pub(crate) version: Option<String>,
    pub(crate) sdk: Option<u32>,
    pub(crate) spl: Option<String>,
}

impl Facts {
    /// Reads both files, so far as they are there.
    pub(crate) fn read(dir: &Path) -> Result<Self, CliError> {
        let path = dir.join("build.json");
        let json: Self = match read_text(&path, MAX_FACTS)? {
            Some(text) => {
                serde_json::from_str(&text).map_err(|error| CliError::Damaged { path, reason: error.to_string() })?
            }
            None => Self::default(),
        };
        let path = dir.join("build.prop");
        let prop = match read_text(&path, MAX_FACTS)? {
            Some(text) => Self::from_properties(&text).map_err(|reason| CliError::Damaged { path, reason })?,
            None => Self::default(),
        };
        Ok(Self {
            build: json.build.or(prop.build),
            device: json.device.or(prop.device),
            timestamp: json.timestamp.or(prop.timestamp),
            version: json.version.or(prop.version),
            sdk: json.sdk.or(prop.sdk),
            spl: json.spl.or(prop.spl),
        })
    }

    /// Reads Android's properties. In a build.prop the first assignment of a `ro.` property counts, since the
    /// property cannot be changed once it is set.
    fn from_properties(text: &str) -> Result<Self, String> {
        let get = |keys: &[&str]| {
            keys.iter().find_map(|key| {
                let value = |line: &str| Some(line.trim().strip_prefix(key)?.strip_prefix('=')?.trim().to_owned());
                text.lines().find_map(value).filter(|value| !value.is_empty())
            })
        };
        let number = |key: &'static str, text: Option<String>| -> Result<Option<u64>, String> {
            let parse = |text: String| text.parse().map_err(|_| format!("{key} is {text:?}; expected a number"));
            text.map(parse).transpose()
        };
        let build = get(&["ro.build.version.incremental", "ro.system.build.version.incremental"]);
        let timestamp = get(&["ro.build.date.utc", "ro.system.build.date.utc"]);
        let sdk = number("ro.build.version.sdk", get(&["ro.build.version.sdk", "ro.system.build.version.sdk"]))?;
        Ok(Self {
            build: build.map(|text| BuildId::parse(&text).map_err(|error| error.to_string())).transpose()?,
            // A generic system image names no device that anybody added; it is compared, not required.
            device: get(&["ro.product.device", "ro.build.product", "ro.product.system.device"])
                .and_then(|text| Codename::parse(&text).ok()),
            timestamp: number("ro.build.date.utc", timestamp)?,
            version: get(&["ro.modversion", "ro.build.display.id"]),
            sdk: sdk.map(u32::try_from).transpose().map_err(|_| "ro.build.version.sdk is over 2^32".to_owned())?,
            spl: get(&["ro.build.version.security_patch"]),
        })
    }
}

/// What a build says of itself, wherever it says so; texts as they stand there, not yet believed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct BuildFacts {
    /// Codenames of the devices that it is for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) device: Vec<String>,
    /// Its fingerprint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) build: Option<String>,
    /// `ro.build.version.incremental`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) incremental: Option<String>,
    /// Its date in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timestamp: Option<u64>,
    /// SDK level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sdk: Option<u32>,
    /// Security patch level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) spl: Option<String>,
    /// Version for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
    /// `ro.build.tags`: `release-keys`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tags: Option<String>,
    /// `ro.lineage.build.version`, which LineageOS's updater compares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lineage_version: Option<String>,
    /// `ro.lineage.releasetype`, which it asks with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) release_type: Option<String>,
    /// Which payloads its update_engine understands, as the build says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) minor: Option<u32>,
    /// `ro.virtual_ab.compression.xor.enabled` of the vendor partition: whether snapshots have differences.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot_xor: Option<bool>,
    /// `ro.vendor.build.dont_use_vabc`: whether snapshots are not to be compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plain_snapshots: Option<bool>,
    /// `ro.<partition>.build.date.utc` of each partition.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) versions: BTreeMap<PartitionName, String>,
}

impl BuildFacts {
    /// Which payloads the build's update_engine understands: what it says, else what Android of its SDK level had in
    /// its first release.
    ///
    /// # Source
    /// AOSP `update_engine/update_engine.conf` by release; 9 came in the middle of Android 14's life.
    pub(crate) fn minor(&self) -> Option<u32> {
        self.minor.or_else(|| {
            Some(match self.sdk? {
                ..=23 => return None,
                24..=27 => 3,
                28 => 5,
                29 | 30 => 6,
                31 | 32 => 7,
                33 | 34 => 8,
                35.. => 9,
            })
        })
    }

    /// What this does not say, `other` does.
    pub(crate) fn or(self, other: Self) -> Self {
        let mut versions = other.versions;
        versions.extend(self.versions);
        Self {
            device: if self.device.is_empty() { other.device } else { self.device },
            build: self.build.or(other.build),
            incremental: self.incremental.or(other.incremental),
            timestamp: self.timestamp.or(other.timestamp),
            sdk: self.sdk.or(other.sdk),
            spl: self.spl.or(other.spl),
            version: self.version.or(other.version),
            tags: self.tags.or(other.tags),
            lineage_version: self.lineage_version.or(other.lineage_version),
            release_type: self.release_type.or(other.release_type),
            minor: self.minor.or(other.minor),
            snapshot_xor: self.snapshot_xor.or(other.snapshot_xor),
            plain_snapshots: self.plain_snapshots.or(other.plain_snapshots),
            versions,
        }
    }

    /// What the text metadata of an OTA zip say of the build that it makes.
    pub(crate) fn of_metadata(lines: &BTreeMap<String, String>) -> Self {
        let get = |key: &str| lines.get(key).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let build = get("post-build");
        Self {
            device: names(get("pre-device").as_deref().unwrap_or_default()),
            tags: build.as_deref().and_then(tags_of),
            build,
            incremental: get("post-build-incremental"),
            timestamp: get("post-timestamp").and_then(|text| text.parse().ok()),
            sdk: get("post-sdk-level").and_then(|text| text.parse().ok()),
            spl: get("post-security-patch-level"),
            ..Self::default()
        }
    }

    /// The same of `metadata.pb`.
    pub(crate) fn of_message(metadata: &Metadata) -> Self {
        let state = metadata.postcondition.clone().unwrap_or_default();
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        let build = state.build.first().cloned();
        let versions = state
            .partition_state
            .into_iter()
            .filter_map(|state| Some((PartitionName::parse(&state.partition_name).ok()?, text(state.version)?)));
        Self {
            device: metadata.precondition.as_ref().map(|state| state.device.clone()).unwrap_or_default(),
            tags: build.as_deref().and_then(tags_of),
            build,
            incremental: text(state.build_incremental),
            timestamp: u64::try_from(state.timestamp).ok().filter(|&timestamp| timestamp > 0),
            sdk: state.sdk_level.parse().ok(),
            spl: text(state.security_patch_level),
            versions: versions.collect(),
            ..Self::default()
        }
    }

    /// What a payload says of the build that it makes.
    pub(crate) fn of_payload(manifest: &Manifest) -> Self {
        let version = |partition: &relevo_format::payload::Partition| {
            Some((partition.name.clone(), partition.version.clone().filter(|version| !version.is_empty())?))
        };
        Self {
            timestamp: manifest.max_timestamp.and_then(|seconds| u64::try_from(seconds).ok()).filter(|&at| at > 0),
            spl: manifest.security_patch_level.clone().filter(|spl| !spl.is_empty()),
            // A full payload has 0, which says nothing of the build.
            minor: Some(manifest.minor_version).filter(|&minor| minor > 0),
            versions: manifest.partitions.iter().filter_map(version).collect(),
            ..Self::default()
        }
    }

    /// What the properties of the partitions say, looked up as AOSP's releasetools do.
    pub(crate) fn of_properties(properties: &BTreeMap<PartitionName, Properties>) -> Self {
        let of = |partition: &str| PartitionName::parse(partition).ok().and_then(|name| properties.get(&name));
        let system = |key: &str| of("system").and_then(|properties| properties.get(key));
        let any = |keys: &[&str]| keys.iter().find_map(|key| system(key)).map(str::to_owned);
        let vendor = |key: &str| Some(of("vendor")?.get(key)?.eq_ignore_ascii_case("true"));
        let product = |what: &str| {
            let sources = ["product", "odm", "vendor", "system_ext", "system"];
            let own = system(&format!("ro.product.{what}"));
            own.or_else(|| sources.iter().find_map(|source| of(source)?.get(&format!("ro.product.{source}.{what}"))))
        };
        let fingerprint = || {
            Some(format!(
                "{}/{}/{}:{}/{}/{}:{}/{}",
                product("brand")?,
                product("name")?,
                product("device")?,
                system("ro.build.version.release")?,
                system("ro.build.id")?,
                system("ro.build.version.incremental")?,
                system("ro.build.type")?,
                system("ro.build.tags")?
            ))
        };
        let mut versions = BTreeMap::new();
        for (name, properties) in properties {
            // A boot image keeps the properties of its ramdisk.
            let keys = [format!("ro.{name}.build.date.utc"), "ro.bootimage.build.date.utc".to_owned()];
            if let Some(version) = keys.iter().find_map(|key| properties.get(key)) {
                versions.insert(name.clone(), version.to_owned());
            }
        }
        let device = product("device").map(|device| vec![device.to_owned()]);
        Self {
            device: device.unwrap_or_default(),
            build: any(&["ro.build.fingerprint", "ro.build.thumbprint"]).or_else(fingerprint),
            incremental: any(&["ro.build.version.incremental", "ro.system.build.version.incremental"]),
            timestamp: any(&["ro.build.date.utc", "ro.system.build.date.utc"]).and_then(|text| text.parse().ok()),
            sdk: any(&["ro.build.version.sdk", "ro.system.build.version.sdk"]).and_then(|text| text.parse().ok()),
            spl: any(&["ro.build.version.security_patch"]),
            version: any(&["ro.modversion", "ro.build.display.id"]),
            tags: any(&["ro.build.tags", "ro.system.build.tags"]),
            lineage_version: any(&["ro.lineage.build.version"]),
            release_type: any(&["ro.lineage.releasetype"]),
            minor: None,
            snapshot_xor: vendor("ro.virtual_ab.compression.xor.enabled"),
            plain_snapshots: vendor("ro.vendor.build.dont_use_vabc"),
            versions,
        }
    }
}

impl BuildFacts {
    /// What verified boot's properties say of a build whose files cannot be read.
    pub(crate) fn of_avb<'i>(images: impl Iterator<Item = (&'i PartitionName, &'i dyn ReadAt)>) -> Self {
        let mut facts = Self::default();
        for (name, image) in images {
            // A damaged one is found elsewhere.
            let Ok(Some(located)) = avb::read(image) else { continue };
            let said = located.vbmeta.build_properties(name.as_str());
            let spl = said.security_patch.map(str::to_owned);
            let fingerprint = said.fingerprint.map(str::to_owned);
            // Vendor images are older than the system's at times.
            let own = name.as_str() == "system" || name.as_str() == "boot";
            let found = Self {
                device: fingerprint.as_deref().and_then(device_of).into_iter().collect(),
                incremental: fingerprint.as_deref().and_then(incremental_of),
                tags: fingerprint.as_deref().and_then(tags_of),
                spl,
                build: fingerprint,
                ..Self::default()
            };
            facts = if own { found.or(facts) } else { facts.or(found) };
        }
        facts
    }
}

/// The device in `brand/name/device:version/id/incremental:type/tags`.
fn device_of(fingerprint: &str) -> Option<String> {
    let (_, rest) = fingerprint.split_once('/')?;
    let (device, _) = rest.split_once('/')?.1.split_once(':')?;
    Some(device.to_owned()).filter(|device| !device.is_empty())
}

/// The incremental version in it.
fn incremental_of(fingerprint: &str) -> Option<String> {
    let (front, _) = fingerprint.rsplit_once(':')?;
    let (_, incremental) = front.rsplit_once('/')?;
    Some(incremental.to_owned()).filter(|text| !text.is_empty())
}

/// Names in a list as recoveries read it.
fn names(text: &str) -> Vec<String> {
    text.split(['|', ',']).map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The tags at the end of a fingerprint: `test-keys`.
fn tags_of(fingerprint: &str) -> Option<String> {
    let (_, tags) = fingerprint.rsplit_once('/')?;
    Some(tags.to_owned()).filter(|tags| !tags.is_empty())
}

/// Partitions whose images have a `build.prop`.
pub(crate) const WITH_PROPERTIES: [&str; 8] =
    ["system", "vendor", "product", "system_ext", "odm", "vendor_dlkm", "odm_dlkm", "system_dlkm"];

/// The `build.prop` in an image of ext4 or EROFS; none if there is none, or no such file system.
///
/// # Errors
/// [`FsError`] for a damaged file system.
pub(crate) fn image_properties(image: &dyn ReadAt) -> Result<Option<Properties>, FsError> {
    let files = match fs::read(image, &fs::Limits::default()) {
        Ok(system) => system.files,
        Err(FsError::Unknown) => return Ok(None),
        Err(error) => return Err(error),
    };
    // The system's image may hold the root of all.
    let paths: [&[u8]; 3] = [b"system/build.prop", b"build.prop", b"etc/build.prop"];
    for path in paths {
        let Ok(index) = files.binary_search_by(|file| file.path[..].cmp(path)) else { continue };
        let file = &files[index];
        if file.kind != FileKind::Regular || file.size > MAX_FACTS {
            continue;
        }
        let mut bytes = Vec::new();
        let contents = fs::open(image, file);
        let read = Section::whole(&contents).read_to_end(&mut bytes);
        read.map_err(|source: io::Error| FsError::Read { offset: 0, len: file.size, source })?;
        return Ok(Some(Properties::parse(&String::from_utf8_lossy(&bytes))));
    }
    Ok(None)
}

/// Whether a text is a security patch level: `2025-05-05`.
pub(crate) fn is_patch_level(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_properties_of_a_build() {
        let text = "# begin\nro.build.version.incremental=eng.1\nro.build.date.utc=1746403200\n\
                    ro.build.version.sdk=35\nro.build.version.security_patch=2025-05-05\nro.product.device=ginkgo\n\
                    ro.build.version.incremental=eng.2\n";

        let facts = Facts::from_properties(text).unwrap();

        assert_eq!(facts.build, Some(BuildId::parse("eng.1").unwrap()));
        assert_eq!(facts.timestamp, Some(1_746_403_200));
        assert_eq!((facts.sdk, facts.spl.as_deref()), (Some(35), Some("2025-05-05")));
    }

    #[test]
    fn says_which_property_is_wrong() {
        assert_eq!(
            Facts::from_properties("ro.build.date.utc=today").unwrap_err(),
            "ro.build.date.utc is \"today\"; expected a number"
        );
        assert!(Facts::from_properties("ro.build.version.incremental=../x").is_err());
    }

    #[test]
    fn knows_a_patch_level() {
        assert!(is_patch_level("2025-05-05"));
        assert!(!is_patch_level("2025-13-05"));
        assert!(!is_patch_level("May 2025"));
    }

    fn partition(text: &str) -> PartitionName {
        PartitionName::parse(text).unwrap()
    }

    #[test]
    fn puts_a_fingerprint_together_as_releasetools_do() {
        let system = "ro.build.version.release=15\nro.build.id=AP4A\nro.build.version.incremental=7\n\
            ro.build.type=user\nro.build.tags=release-keys\nro.product.system.device=generic\n\
            ro.build.version.sdk=35\nro.lineage.build.version=22.2\nro.system.build.date.utc=1746403200\n";
        let vendor = "ro.product.vendor.brand=Xiaomi\nro.product.vendor.name=alioth\n\
            ro.product.vendor.device=alioth\nro.vendor.build.date.utc=1746400000\n\
            ro.virtual_ab.compression.xor.enabled=true\n";
        let properties = [("system", system), ("vendor", vendor)];
        let properties = properties.map(|(name, text)| (partition(name), Properties::parse(text)));

        let facts = BuildFacts::of_properties(&properties.into_iter().collect());

        assert_eq!(facts.build.as_deref(), Some("Xiaomi/alioth/alioth:15/AP4A/7:user/release-keys"));
        assert_eq!(facts.device, ["alioth"]);
        assert_eq!((facts.timestamp, facts.sdk), (Some(1_746_403_200), Some(35)));
        assert_eq!(facts.versions[&partition("vendor")], "1746400000");
        assert_eq!((facts.snapshot_xor, facts.plain_snapshots), (Some(true), None));
        assert_eq!(facts.lineage_version.as_deref(), Some("22.2"));
    }

    #[test]
    fn what_the_build_says_of_its_payloads_counts_before_its_sdk_level() {
        let of = |sdk, minor| BuildFacts { sdk, minor, ..BuildFacts::default() }.minor();

        assert_eq!([of(Some(34), None), of(Some(34), Some(9)), of(None, None)], [Some(8), Some(9), None]);
        assert_eq!([of(Some(30), None), of(Some(36), None), of(Some(23), None)], [Some(6), Some(9), None]);
    }

    #[test]
    fn takes_a_fingerprint_apart() {
        let fingerprint = "Xiaomi/alioth/aliothin:15/AP4A/eng.7:user/test-keys";

        assert_eq!(device_of(fingerprint).as_deref(), Some("aliothin"));
        assert_eq!(incremental_of(fingerprint).as_deref(), Some("eng.7"));
        assert_eq!(tags_of(fingerprint).as_deref(), Some("test-keys"));
        assert_eq!((device_of("x"), incremental_of("x"), tags_of("x")), (None, None, None));
    }

    #[test]
    fn reads_the_metadata_of_an_ota() {
        let lines = [
            ("pre-device", "alioth|aliothin"),
            ("post-build", "Xiaomi/alioth/alioth:15/AP4A/7:user/test-keys"),
            ("post-timestamp", "1746403200"),
            ("post-sdk-level", "35"),
        ];
        let lines = lines.map(|(key, value)| (key.to_owned(), value.to_owned()));

        let facts = BuildFacts::of_metadata(&lines.into_iter().collect());

        assert_eq!(facts.device, ["alioth", "aliothin"]);
        assert_eq!((facts.tags.as_deref(), facts.timestamp), (Some("test-keys"), Some(1_746_403_200)));
    }
}
