//! What the manifest says of dynamic partitions and their snapshots.
//!
//! The phone that installs runs the source build: its `update_engine` writes the snapshots, so its settings count. The
//! first start and the merge run what the new build has, so neither may be asked for more than it knows. Groups are the
//! new build's: a dynamic partition that is in none of them is deleted by the phone, unless the update is partial.
//!
//! # Source
//! AOSP `releasetools` (`ota_from_target_files.py`, `GenerateAbOtaPackage`), `update_engine`
//! (`dynamic_partition_control_android.cc`), `libsnapshot` (`snapshot.cpp`, `snapshot_metadata_updater.cpp`).

use std::collections::{BTreeMap, BTreeSet};

use relevo_format::{
    ReadAt,
    payload::{
        Partition,
        wire::{DynamicPartitionGroup, DynamicPartitionMetadata},
    },
};
use relevo_types::{ByteLen, PartitionName};

use super::{
    cow::{self, Compression, CowError, Settings},
    merge::{self, MergeError},
};

/// What is known of a build.
#[derive(Debug, Clone, Copy, Default)]
pub struct BuildFacts<'a> {
    /// What its full update or its target files say of dynamic partitions; `None` if there are none, or nothing is known.
    pub metadata: Option<&'a DynamicPartitionMetadata>,
    /// `ro.build.version.sdk`.
    pub sdk: Option<u32>,
    /// Whether `ro.virtual_ab.compression.xor.enabled` is set in its vendor partition.
    pub xor: bool,
    /// Whether `ro.vendor.build.dont_use_vabc` is set there.
    pub suppressed: bool,
}

/// What the update asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Minor version of the payload.
    pub minor: u32,
    /// Whether partitions that are not in the update stay as they are.
    pub partial: bool,
    /// No compressed snapshots.
    pub without_compression: bool,
    /// Another compression than the source build's.
    pub compression: Option<Compression>,
    /// Another version of snapshots than the lower one of both builds.
    pub version: Option<u32>,
    /// Another factor than the source build's.
    pub factor: Option<u64>,
}

/// One partition of the update.
#[derive(Debug, Clone)]
pub struct Updated<'a> {
    /// Its name.
    pub name: &'a PartitionName,
    /// Bytes of the new image.
    pub size: ByteLen,
    /// Whether its version is known.
    pub versioned: bool,
}

/// What the manifest is to say.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// For the manifest; `None` for phones without dynamic partitions.
    pub metadata: Option<DynamicPartitionMetadata>,
    /// How snapshots are written, if they are compressed: then partitions in groups need estimates.
    pub settings: Option<Settings>,
    /// Whether the phone can compute hash trees: Android 11 with compressed snapshots cannot.
    pub verity: bool,
    /// What was not as asked for, or may surprise.
    pub warnings: Vec<Warning>,
}

/// What may surprise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// Nothing is known of the source build.
    #[error("nothing says how the source build makes snapshots; it is taken for one like the new build")]
    Source,
    /// A partition that the new build has no more.
    #[error("partition {0} is not in the new build; phones delete it")]
    Removed(String),
    /// Snapshots are switched off in the new build.
    #[error("the new build says nothing of snapshots, but the source build uses them; the update uses them too")]
    Snapshots,
    /// A partial update without all versions.
    #[error("the versions of partitions {} are not known; phones that know theirs refuse a partial update", .0.join(", "))]
    Versions(Vec<String>),
    /// A compression that the source build is too old for.
    #[error("the source build has SDK {sdk}, which does not know {compression} for snapshots; the update uses gz")]
    Compression {
        /// What was wanted.
        compression: Compression,
        /// What the source build has.
        sdk: u32,
    },
}

/// Why no phone would take the update, or what it would break.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DynamicError {
    /// Partitions that phones would delete.
    #[error("dynamic partitions {} are not in the update, so phones would delete them", .0.join(", "))]
    Missing(Vec<String>),
    /// Partitions of the source build's groups that the update has, and the new build's groups have not.
    #[error("partitions {} are dynamic in the source build, but in no group of the new build", .0.join(", "))]
    NoGroup(Vec<String>),
    /// The new build says nothing of its groups.
    #[error("the source build has dynamic partitions; the new build says nothing of its groups")]
    NoGroups,
    /// A name in two groups, or twice in one.
    #[error("partition {0} is in the groups twice")]
    Twice(String),
    /// More than the group holds.
    #[error("the partitions of group {group} have {size} together; it holds {limit}")]
    GroupSize {
        /// Which group.
        group: String,
        /// Its partitions.
        size: ByteLen,
        /// What it holds.
        limit: ByteLen,
    },
    /// A partial update that phones do not take.
    #[error("partial updates need minor version 7 and snapshots; this one has minor version {minor} and {snapshots}")]
    Partial {
        /// What it has.
        minor: u32,
        /// Whether it has snapshots, in words.
        snapshots: &'static str,
    },
    /// A compression that was asked for and the source build does not know.
    #[error("{compression} for snapshots needs SDK {since}; the source build has {sdk}")]
    Compression {
        /// What was asked for.
        compression: Compression,
        /// What it needs.
        since: u32,
        /// What the source build has.
        sdk: u32,
    },
    /// A version that was asked for and not both builds know.
    #[error("version {asked} of snapshots was asked for; the builds know {known} both")]
    Version {
        /// What was asked for.
        asked: u32,
        /// What both know.
        known: u32,
    },
    /// A version, factor or compression that there is not.
    #[error("the settings of snapshots are wrong")]
    Settings(#[from] CowError),
}

/// The format that all phones with compressed snapshots know.
const OLDEST: u32 = 2;
/// Bytes that are compressed at a time if nobody says so.
const USUAL_FACTOR: u64 = 4096;
/// First minor version with partial updates.
const PARTIAL_MINOR: u32 = 7;
/// First SDK whose phones write differences.
const XOR_SDK: u32 = 33;
/// First SDK whose phones read a level of compression.
const LEVEL_SDK: u32 = 35;
/// The SDK that compressed snapshots were brought to without verity.
const WITHOUT_VERITY_SDK: u32 = 30;

/// Decides what the manifest says of the dynamic partitions among `updated`.
///
/// # Errors
/// [`DynamicError`], before anything is made that no phone would take.
pub fn choose(
    source: &BuildFacts<'_>,
    target: &BuildFacts<'_>,
    updated: &[Updated<'_>],
    options: &Options,
) -> Result<Choice, DynamicError> {
    let mut warnings = Vec::new();
    let Some(new) = target.metadata.filter(|metadata| !metadata.groups.is_empty()) else {
        return match source.metadata.filter(|metadata| !metadata.groups.is_empty()) {
            Some(_) => Err(DynamicError::NoGroups),
            None if options.partial => Err(DynamicError::Partial { minor: options.minor, snapshots: NO_SNAPSHOTS }),
            None => Ok(Choice { metadata: None, settings: None, verity: true, warnings }),
        };
    };
    let old = source.metadata.unwrap_or_else(|| {
        warnings.push(Warning::Source);
        new
    });
    let groups = groups(old, new, updated, options, &mut warnings)?;

    let enabled = |metadata: &DynamicPartitionMetadata| metadata.snapshot_enabled.unwrap_or(false);
    if enabled(old) && !enabled(new) {
        warnings.push(Warning::Snapshots);
    }
    let snapshots = enabled(old) || enabled(new);
    if options.partial {
        if options.minor < PARTIAL_MINOR || !snapshots {
            let snapshots = if snapshots { "snapshots" } else { NO_SNAPSHOTS };
            return Err(DynamicError::Partial { minor: options.minor, snapshots });
        }
        // Not every partition has one; whether a phone knows one cannot be told from here.
        let unknown: Vec<_> = updated.iter().filter(|updated| !updated.versioned).collect();
        if !unknown.is_empty() {
            warnings.push(Warning::Versions(unknown.iter().map(|updated| updated.name.to_string()).collect()));
        }
    }

    let compressed = |metadata: &DynamicPartitionMetadata| metadata.vabc_enabled.unwrap_or(false);
    let compress =
        snapshots && compressed(old) && compressed(new) && !options.without_compression && !target.suppressed;
    let mut metadata =
        DynamicPartitionMetadata { groups, snapshot_enabled: Some(snapshots), ..DynamicPartitionMetadata::default() };
    if !compress {
        // Said outright: a phone that could compress its snapshots must not expect estimates.
        metadata.vabc_enabled = Some(false);
        return Ok(Choice { metadata: Some(metadata), settings: None, verity: true, warnings });
    }

    let settings = settings(source, target, old, new, options, &mut warnings)?;
    metadata.vabc_enabled = Some(true);
    metadata.vabc_compression_param = Some(settings.compression.to_string());
    metadata.cow_version = Some(settings.version);
    // The source build's `update_engine` is told how to write; it is not asked for what it does not say that it has.
    metadata.vabc_feature_set = old.vabc_feature_set;
    // Mandatory in format 3, where phones refuse none; nobody minds it in format 2.
    metadata.compression_factor = Some(settings.factor);
    let verity = source.sdk != Some(WITHOUT_VERITY_SDK);
    Ok(Choice { metadata: Some(metadata), settings: Some(settings), verity, warnings })
}

const NO_SNAPSHOTS: &str = "no snapshots";

/// The new build's groups, with those partitions that the update has.
fn groups(
    old: &DynamicPartitionMetadata,
    new: &DynamicPartitionMetadata,
    updated: &[Updated<'_>],
    options: &Options,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<DynamicPartitionGroup>, DynamicError> {
    let sizes: BTreeMap<&str, u64> = updated.iter().map(|one| (one.name.as_str(), one.size.get())).collect();
    let mut grouped = BTreeSet::new();
    let mut missing = Vec::new();
    let mut groups = new.groups.clone();
    for group in &mut groups {
        let mut size = 0_u64;
        for name in &group.partition_names {
            if !grouped.insert(name.clone()) {
                return Err(DynamicError::Twice(name.clone()));
            }
            match sizes.get(name.as_str()) {
                Some(&one) => size = size.saturating_add(one),
                None => missing.push(name.clone()),
            }
        }
        let limit = group.size.unwrap_or(0);
        // A group without a size, or of size 0, is not limited.
        if limit > 0 && size > limit {
            let group = group.name.clone().unwrap_or_default();
            return Err(DynamicError::GroupSize { group, size: ByteLen::new(size), limit: ByteLen::new(limit) });
        }
        group.partition_names.retain(|name| sizes.contains_key(name.as_str()));
    }
    if !options.partial && !missing.is_empty() {
        return Err(DynamicError::Missing(missing));
    }
    let before = old.groups.iter().flat_map(|group| &group.partition_names);
    let gone: Vec<_> = before.filter(|name| !grouped.contains(*name)).collect();
    let (updated, removed): (Vec<_>, Vec<_>) = gone.into_iter().partition(|name| sizes.contains_key(name.as_str()));
    if !updated.is_empty() {
        return Err(DynamicError::NoGroup(updated.into_iter().cloned().collect()));
    }
    if !options.partial {
        warnings.extend(removed.into_iter().map(|name| Warning::Removed(name.clone())));
    }
    Ok(groups)
}

fn settings(
    source: &BuildFacts<'_>,
    target: &BuildFacts<'_>,
    old: &DynamicPartitionMetadata,
    new: &DynamicPartitionMetadata,
    options: &Options,
    warnings: &mut Vec<Warning>,
) -> Result<Settings, DynamicError> {
    let own: Compression = old.vabc_compression_param.as_deref().unwrap_or_default().parse()?;
    let asked = options.compression.unwrap_or(own);
    // What phones before took for a name with a level they refuse.
    let since = if asked.to_string().contains(',') { LEVEL_SDK } else { asked.since_sdk() };
    let compression = match source.sdk.filter(|&sdk| sdk < since) {
        None => asked,
        Some(sdk) if options.compression.is_some() => {
            return Err(DynamicError::Compression { compression: asked, since, sdk });
        }
        Some(sdk) => {
            warnings.push(Warning::Compression { compression: asked, sdk });
            Compression::Gz(9)
        }
    };
    let version = |metadata: &DynamicPartitionMetadata| metadata.cow_version.unwrap_or(OLDEST).max(OLDEST);
    // Versions that are not known here are not written, though both builds might.
    let known = version(old).min(version(new)).min(3);
    let version = match options.version {
        Some(asked) if asked > known || asked < OLDEST => return Err(DynamicError::Version { asked, known }),
        Some(asked) => asked,
        None => known,
    };
    let said = [old.compression_factor, new.compression_factor].into_iter().flatten().find(|&factor| factor > 0);
    let factor = options.factor.or(said).unwrap_or(USUAL_FACTOR);
    let xor =
        source.xor && target.xor && compression != Compression::None && source.sdk.is_none_or(|sdk| sdk >= XOR_SDK);
    let settings = Settings { version, compression, factor, xor };
    settings.check()?;
    Ok(settings)
}

/// Why a partition's snapshot could not be described.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Its merge could not be planned.
    #[error("could not plan the merge")]
    Merge(#[from] MergeError),
    /// Its size could not be found out.
    #[error("could not find out the size of the snapshot")]
    Cow(#[from] CowError),
}

impl Choice {
    /// Whether phones make a snapshot of this partition: it is in a group.
    pub fn is_dynamic(&self, name: &PartitionName) -> bool {
        let groups = self.metadata.iter().flat_map(|metadata| &metadata.groups);
        groups.flat_map(|group| &group.partition_names).any(|other| other == name.as_str())
    }
}

/// Adds merge operations and estimates to a finished partition, whose operations have their data in `blobs`. `old` is
/// empty if there is none.
///
/// Runs in rayon's pool that the caller is in; the result does not depend on it.
///
/// # Errors
/// [`SnapshotError`]; the partition is then as it was.
pub fn describe(
    partition: &mut Partition,
    blobs: &dyn ReadAt,
    old: &dyn ReadAt,
    new: &dyn ReadAt,
    settings: &Settings,
) -> Result<(), SnapshotError> {
    let merge_operations = merge::plan(partition, blobs, old, new, settings)?;
    let before = std::mem::replace(&mut partition.merge_operations, merge_operations);
    match cow::estimate(partition, old, new, settings) {
        Ok(estimate) => {
            partition.estimate_cow_size = Some(estimate.size);
            partition.estimate_op_count_max = (estimate.op_count_max > 0).then_some(estimate.op_count_max);
            Ok(())
        }
        Err(error) => {
            partition.merge_operations = before;
            Err(error.into())
        }
    }
}
