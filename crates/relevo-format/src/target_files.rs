//! What a zip of target files holds: the build's images and what its tools said of them.
//!
//! Pure parsing of small texts; [`OtaZip`](crate::ota_zip::OtaZip) finds and unpacks the entries.
//!
//! # Source
//! AOSP `build/make/tools/releasetools` and `update_engine/payload_generator/payload_generation_config.cc` of
//! android-15.0.0_r23, the names of files and keys.
//!
//! # Examples
//! ```
//! use relevo_format::target_files::{Properties, minor_version};
//!
//! let config = Properties::parse("PAYLOAD_MAJOR_VERSION=2\nPAYLOAD_MINOR_VERSION=8\n");
//! assert_eq!(minor_version(&config)?, Some(8));
//! # Ok::<(), relevo_format::target_files::TargetFilesError>(())
//! ```

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use relevo_types::{NameError, PartitionName};

use crate::payload::{
    Postinstall,
    wire::{ApexInfo, DynamicPartitionGroup, DynamicPartitionMetadata, VabcFeatureSet},
};

/// Which partitions an A/B update brings, one in each line. No zip of target files for A/B is without it.
pub const AB_PARTITIONS: &str = "META/ab_partitions.txt";
/// What the build's tools were told.
pub const MISC_INFO: &str = "META/misc_info.txt";
/// Groups of dynamic partitions, and how snapshots are made.
pub const DYNAMIC_PARTITIONS: &str = "META/dynamic_partitions_info.txt";
/// Which payloads update_engine of this build understands.
pub const UPDATE_ENGINE: &str = "META/update_engine_config.txt";
/// Programs that run after an update.
pub const POSTINSTALL: &str = "META/postinstall_config.txt";
/// The build's APEXes, as a message.
pub const APEX_INFO: &str = "META/apex_info.pb";
/// Blocks that are read at the first start, as a message and as older builds have it.
pub const CARE_MAPS: [&str; 2] = ["META/care_map.pb", "META/care_map.txt"];

/// Most partitions that we take; phones have under 60.
const MAX_PARTITIONS: usize = 512;

/// Why one of the texts is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetFilesError {
    /// A line that names no partition.
    #[error("{file} names no partition in line {line}")]
    Partition {
        /// Which file.
        file: &'static str,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with the name.
        source: NameError,
    },
    /// The same partition twice.
    #[error("{file} has {partition} twice")]
    Twice {
        /// Which file.
        file: &'static str,
        /// Which partition.
        partition: String,
    },
    /// More partitions than any phone has, or none.
    #[error("{file} has {actual} partitions; expected 1 to {MAX_PARTITIONS}")]
    Count {
        /// Which file.
        file: &'static str,
        /// How many.
        actual: usize,
    },
    /// A key that has to be there.
    #[error("{file} has no {key}")]
    Missing {
        /// Which file.
        file: &'static str,
        /// Which key.
        key: String,
    },
    /// No such value.
    #[error("{file} has {key} {value:?}; expected {expected}")]
    Value {
        /// Which file.
        file: &'static str,
        /// Which key.
        key: String,
        /// What it is, shortened.
        value: String,
        /// What it has to be.
        expected: &'static str,
    },
    /// No message.
    #[error("{file} could not be decoded")]
    Decode {
        /// Which file.
        file: &'static str,
        /// What is wrong.
        source: prost::DecodeError,
    },
}

/// Lines of `KEY=VALUE`; what is no such line is left out, as the tools of AOSP do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties(BTreeMap<String, String>);

impl Properties {
    /// Reads the lines. Of two with one key the first counts: a `ro.` property cannot be changed once it is set.
    pub fn parse(text: &str) -> Self {
        let mut pairs = BTreeMap::new();
        for line in text.lines() {
            let line = line.trim();
            if line.starts_with('#') {
                continue;
            }
            if let Some((key, value)) = line.split_once('=') {
                pairs.entry(key.trim().to_owned()).or_insert_with(|| value.trim().to_owned());
            }
        }
        Self(pairs)
    }

    /// The value of a key; an empty one counts as none.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn is_true(&self, key: &str) -> bool {
        self.get(key) == Some("true")
    }

    fn number<T: std::str::FromStr>(&self, file: &'static str, key: &str) -> Result<Option<T>, TargetFilesError> {
        let wrong = |text: &str| TargetFilesError::Value {
            file,
            key: key.to_owned(),
            value: text.chars().take(80).collect(),
            expected: "a number",
        };
        self.get(key).map(|text| text.parse().map_err(|_| wrong(text))).transpose()
    }
}

/// The partitions of [`AB_PARTITIONS`], sorted.
///
/// # Errors
/// [`TargetFilesError`] for a line that is no partition's name, for one that is there twice, and for no line at all.
pub fn ab_partitions(text: &str) -> Result<Vec<PartitionName>, TargetFilesError> {
    let file = AB_PARTITIONS;
    let mut names = BTreeSet::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let name = PartitionName::parse(line);
        let name = name.map_err(|source| TargetFilesError::Partition { file, line: index + 1, source })?;
        if names.contains(&name) {
            return Err(TargetFilesError::Twice { file, partition: name.to_string() });
        }
        names.insert(name);
    }
    if names.is_empty() || names.len() > MAX_PARTITIONS {
        return Err(TargetFilesError::Count { file, actual: names.len() });
    }
    Ok(names.into_iter().collect())
}

/// The minor version of [`UPDATE_ENGINE`].
///
/// # Errors
/// [`TargetFilesError::Value`] for what is no number.
pub fn minor_version(config: &Properties) -> Result<Option<u32>, TargetFilesError> {
    config.number(UPDATE_ENGINE, "PAYLOAD_MINOR_VERSION")
}

/// What Virtual A/B is told, from [`DYNAMIC_PARTITIONS`] or [`MISC_INFO`]; none of a build without dynamic partitions.
///
/// # Errors
/// [`TargetFilesError`] for a group without a size, and for numbers that are none.
pub fn dynamic_partitions(info: &Properties) -> Result<Option<DynamicPartitionMetadata>, TargetFilesError> {
    let file = DYNAMIC_PARTITIONS;
    let Some(names) = info.get("super_partition_groups") else { return Ok(None) };
    let mut groups = Vec::new();
    for name in names.split_whitespace() {
        if groups.len() == MAX_PARTITIONS {
            return Err(TargetFilesError::Count { file, actual: groups.len() + 1 });
        }
        // Builds from before Android 11 have the shorter keys.
        let key = format!("super_{name}_group_size");
        let size = match info.number(file, &key)? {
            Some(size) => Some(size),
            None => info.number(file, &format!("{name}_size"))?,
        };
        let size: u64 = size.ok_or(TargetFilesError::Missing { file, key })?;
        let list = [format!("super_{name}_partition_list"), format!("{name}_partition_list")];
        let list = list.iter().find_map(|key| info.get(key)).unwrap_or_default();
        groups.push(DynamicPartitionGroup {
            name: Some(name.to_owned()),
            size: Some(size),
            partition_names: list.split_whitespace().take(MAX_PARTITIONS).map(str::to_owned).collect(),
        });
    }
    let compressed = info.is_true("virtual_ab_compression");
    let mut dynamic = DynamicPartitionMetadata {
        groups,
        snapshot_enabled: Some(info.is_true("virtual_ab")),
        vabc_enabled: Some(compressed),
        ..Default::default()
    };
    if compressed {
        // What AOSP's generator takes where a build does not say.
        dynamic.vabc_compression_param = Some(info.get("virtual_ab_compression_method").unwrap_or("gz").to_owned());
        dynamic.cow_version = Some(info.number(file, "virtual_ab_cow_version")?.unwrap_or(2));
        dynamic.compression_factor = info.number(file, "virtual_ab_compression_factor")?;
        let (threaded, batch) = ("virtual_ab_compression_threaded", "virtual_ab_batch_writes");
        if info.get(threaded).is_some() || info.get(batch).is_some() {
            let said = |key| info.get(key).map(|_| info.is_true(key));
            dynamic.vabc_feature_set = Some(VabcFeatureSet { threaded: said(threaded), batch_writes: said(batch) });
        }
    }
    Ok(Some(dynamic))
}

/// The programs of [`POSTINSTALL`] for these partitions.
pub fn postinstall(config: &Properties, partitions: &[PartitionName]) -> BTreeMap<PartitionName, Postinstall> {
    let mut programs = BTreeMap::new();
    for name in partitions {
        if !config.is_true(&format!("RUN_POSTINSTALL_{name}")) {
            continue;
        }
        let text = |key: &str| config.get(&format!("{key}_{name}")).unwrap_or_default().to_owned();
        let optional = config.is_true(&format!("POSTINSTALL_OPTIONAL_{name}"));
        let (path, filesystem) = (text("POSTINSTALL_PATH"), text("FILESYSTEM_TYPE"));
        programs.insert(name.clone(), Postinstall { path, filesystem, optional });
    }
    programs
}

/// The message of [`APEX_INFO`].
#[derive(Clone, PartialEq, prost::Message)]
struct ApexMetadata {
    #[prost(message, repeated, tag = "1")]
    apexes: Vec<ApexInfo>,
}

/// The APEXes of [`APEX_INFO`]; `bytes` are to be of a length that the caller has bounded.
///
/// # Errors
/// [`TargetFilesError::Decode`].
pub fn apexes(bytes: &[u8]) -> Result<Vec<ApexInfo>, TargetFilesError> {
    let decoded = ApexMetadata::decode(bytes);
    Ok(decoded.map_err(|source| TargetFilesError::Decode { file: APEX_INFO, source })?.apexes)
}

/// APEXes as the message of [`APEX_INFO`].
pub fn apex_info(apexes: &[ApexInfo]) -> Vec<u8> {
    ApexMetadata { apexes: apexes.to_vec() }.encode_to_vec()
}

/// Where the image of a partition may be, the likeliest first: as built, or as its maker gave it.
pub fn image_entries(partition: &PartitionName) -> [String; 3] {
    ["IMAGES", "RADIO", "PREBUILT_IMAGES"].map(|dir| format!("{dir}/{partition}.img"))
}

/// Where the properties of a partition may be in the zip, the likeliest first.
pub fn property_entries(partition: &PartitionName) -> [String; 3] {
    let dir = match partition.as_str() {
        // Older builds have the system's files in the directory of the root.
        "boot" | "init_boot" => format!("{}/RAMDISK/system", partition.as_str().to_ascii_uppercase()),
        other => other.to_ascii_uppercase(),
    };
    [format!("{dir}/build.prop"), format!("{dir}/etc/build.prop"), format!("{dir}/etc/ramdisk/build.prop")]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PartitionName {
        PartitionName::parse(text).unwrap()
    }

    const INFO: &str = "use_dynamic_partitions=true\nvirtual_ab=true\nvirtual_ab_compression=true\n\
        virtual_ab_compression_method=lz4\nvirtual_ab_cow_version=3\nvirtual_ab_compression_factor=65536\n\
        super_partition_groups=main extra\nsuper_main_group_size=1073741824\nsuper_main_partition_list=system vendor\n\
        super_extra_group_size=4096\n";

    #[test]
    fn reads_groups_and_how_snapshots_are_made() {
        let dynamic = dynamic_partitions(&Properties::parse(INFO)).unwrap().unwrap();

        assert_eq!(dynamic.groups.len(), 2);
        assert_eq!(dynamic.groups[0].partition_names, ["system", "vendor"]);
        assert_eq!((dynamic.groups[0].size, dynamic.groups[1].size), (Some(1 << 30), Some(4096)));
        assert_eq!((dynamic.snapshot_enabled, dynamic.vabc_enabled), (Some(true), Some(true)));
        assert_eq!(dynamic.vabc_compression_param.as_deref(), Some("lz4"));
        assert_eq!((dynamic.cow_version, dynamic.compression_factor), (Some(3), Some(65536)));
    }

    #[test]
    fn knows_the_keys_of_android_10_and_builds_without_dynamic_partitions() {
        let old = "super_partition_groups=main\nmain_size=8192\nmain_partition_list=system\n";
        let dynamic = dynamic_partitions(&Properties::parse(old)).unwrap().unwrap();

        assert_eq!(dynamic.groups[0].size, Some(8192));
        assert_eq!(dynamic.groups[0].partition_names, ["system"]);
        assert_eq!((dynamic.snapshot_enabled, dynamic.cow_version), (Some(false), None));
        assert_eq!(dynamic_partitions(&Properties::parse("a=b\n")).unwrap(), None);
    }

    #[test]
    fn says_what_is_wrong_with_a_group() {
        let missing = dynamic_partitions(&Properties::parse("super_partition_groups=main\n")).unwrap_err();
        let text = "super_partition_groups=main\nsuper_main_group_size=-1\n";
        let negative = dynamic_partitions(&Properties::parse(text)).unwrap_err();

        assert_eq!(missing.to_string(), "META/dynamic_partitions_info.txt has no super_main_group_size");
        let expected = "META/dynamic_partitions_info.txt has super_main_group_size \"-1\"; expected a number";
        assert_eq!(negative.to_string(), expected);
    }

    #[test]
    fn lists_partitions_once_each() {
        assert_eq!(ab_partitions("vendor\nboot\n\nsystem\n").unwrap(), ["boot", "system", "vendor"].map(name));
        assert!(matches!(ab_partitions("boot\nboot\n"), Err(TargetFilesError::Twice { .. })));
        assert!(matches!(ab_partitions("../boot\n"), Err(TargetFilesError::Partition { line: 1, .. })));
        assert!(matches!(ab_partitions("\n\n"), Err(TargetFilesError::Count { actual: 0, .. })));
        let many: String = (0..600).map(|number| format!("p{number}\n")).collect();
        assert!(matches!(ab_partitions(&many), Err(TargetFilesError::Count { actual: 600, .. })));
    }

    #[test]
    fn reads_what_runs_afterwards() {
        let text = "RUN_POSTINSTALL_system=true\nPOSTINSTALL_PATH_system=system/bin/otapreopt_script\n\
            FILESYSTEM_TYPE_system=ext4\nPOSTINSTALL_OPTIONAL_system=true\nRUN_POSTINSTALL_vendor=false\n";

        let programs = postinstall(&Properties::parse(text), &[name("system"), name("vendor")]);

        assert_eq!(programs.len(), 1);
        let program = &programs[&name("system")];
        assert_eq!((program.path.as_str(), program.optional), ("system/bin/otapreopt_script", true));
        assert_eq!(program.filesystem, "ext4");
    }

    #[test]
    fn the_first_line_of_a_key_counts() {
        let properties = Properties::parse("# a=0\na = 1\na=2\nb=\nnothing\n");

        assert_eq!((properties.get("a"), properties.get("b"), properties.get("nothing")), (Some("1"), None, None));
    }

    #[test]
    fn reads_apexes_and_refuses_what_is_no_message() {
        let apex = ApexInfo { package_name: Some("com.android.art".into()), version: Some(35), ..Default::default() };
        let bytes = apex_info(std::slice::from_ref(&apex));

        assert_eq!(apexes(&bytes).unwrap(), [apex]);
        for end in 1..bytes.len() {
            // Cut between two fields it is a shorter message; anywhere else it is none. It never panics.
            let _ = apexes(&bytes[..end]);
        }
        assert!(matches!(apexes(&[0xff; 9]), Err(TargetFilesError::Decode { .. })));
    }
}
