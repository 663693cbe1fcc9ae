//! Imported builds: raw images and `build.json`.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use relevo_delta::Images;
use relevo_format::{
    FileAt, ReadAt, Section,
    image::{ImageError, open_image},
    payload::{Postinstall, wire},
    target_files,
};
use relevo_types::{BuildId, ByteLen, Channel, Codename, Compression, DeviceManifest, PartitionName, Sha256};
use serde::{Deserialize, Serialize};
use sha2::Digest;

use crate::{
    build_source::BuildSource,
    durable::{self, PUBLIC, read_text, sync_dir},
    error::CliError,
    facts::BuildFacts,
    home::{Home, names, or_none},
    progress::Bars,
};

/// Longest build.json or build.prop that we read, in bytes; a build.prop has about 20 KB.
pub(crate) const MAX_FACTS: u64 = 1 << 20;
/// Largest file beside the images that goes with updates as it is.
const MAX_BESIDE: u64 = 4 << 20;
/// Bytes copied or hashed at a time.
const BUFFER: usize = 1 << 18;
/// Runs of zeros of this length become holes in the file.
const HOLE: usize = 4096;

/// `build.json`: one imported build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Build {
    /// Version of this file; 1.
    pub(crate) schema: u32,
    /// The build's id.
    pub(crate) build: BuildId,
    /// Which device it is for.
    pub(crate) device: Codename,
    /// Which channel it goes to.
    pub(crate) channel: Channel,
    /// Its date in seconds since 1970.
    pub(crate) timestamp: u64,
    /// Its version as people know it.
    pub(crate) version: String,
    /// SDK level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sdk: Option<u32>,
    /// Security patch level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) spl: Option<String>,
    /// What A/B updates of it are made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ab: Option<AbFacts>,
    /// Its images.
    pub(crate) partitions: BTreeMap<PartitionName, ImageFacts>,
}

/// What A/B updates from and to a build are made with, beside its images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AbFacts {
    /// What the build said of itself when it was imported.
    #[serde(flatten)]
    pub(crate) facts: BuildFacts,
    /// Groups of dynamic partitions, and how snapshots are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dynamic: Option<DynamicFacts>,
    /// Programs that run after an update to it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) postinstall: BTreeMap<PartitionName, PostinstallFacts>,
}

/// Groups of dynamic partitions, and how snapshots are made, as the build's update says it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DynamicFacts {
    groups: Vec<GroupFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot_enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vabc_enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compression: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cow_version: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compression_factor: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threaded: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_writes: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct GroupFacts {
    name: String,
    size: u64,
    partitions: Vec<String>,
}

impl DynamicFacts {
    fn of(raw: &wire::DynamicPartitionMetadata) -> Self {
        let group = |group: &wire::DynamicPartitionGroup| GroupFacts {
            name: group.name.clone().unwrap_or_default(),
            size: group.size.unwrap_or(0),
            partitions: group.partition_names.clone(),
        };
        Self {
            groups: raw.groups.iter().map(group).collect(),
            snapshot_enabled: raw.snapshot_enabled,
            vabc_enabled: raw.vabc_enabled,
            compression: raw.vabc_compression_param.clone(),
            cow_version: raw.cow_version,
            compression_factor: raw.compression_factor,
            threaded: raw.vabc_feature_set.and_then(|set| set.threaded),
            batch_writes: raw.vabc_feature_set.and_then(|set| set.batch_writes),
        }
    }

    fn to_wire(&self) -> wire::DynamicPartitionMetadata {
        let group = |group: &GroupFacts| wire::DynamicPartitionGroup {
            name: Some(group.name.clone()),
            size: Some(group.size),
            partition_names: group.partitions.clone(),
        };
        let features = self.threaded.is_some() || self.batch_writes.is_some();
        wire::DynamicPartitionMetadata {
            groups: self.groups.iter().map(group).collect(),
            snapshot_enabled: self.snapshot_enabled,
            vabc_enabled: self.vabc_enabled,
            vabc_compression_param: self.compression.clone(),
            cow_version: self.cow_version,
            vabc_feature_set: features
                .then_some(wire::VabcFeatureSet { threaded: self.threaded, batch_writes: self.batch_writes }),
            compression_factor: self.compression_factor,
        }
    }
}

/// A program that runs after an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PostinstallFacts {
    path: String,
    filesystem: String,
    optional: bool,
}

/// What came with a build and goes with its updates as it is, and the most bytes that each has.
const BESIDE: [&str; 4] = ["care_map.pb", "care_map.txt", "apex_info.pb", "otacert.pem"];

impl AbFacts {
    /// What a source says.
    pub(crate) fn of(source: &BuildSource) -> Self {
        let postinstall = source.postinstall.iter().map(|(name, program)| {
            let Postinstall { path, filesystem, optional } = program.clone();
            (name.clone(), PostinstallFacts { path, filesystem, optional })
        });
        Self {
            facts: source.facts.clone(),
            dynamic: source.dynamic.as_ref().map(DynamicFacts::of),
            postinstall: postinstall.collect(),
        }
    }

    /// Writes what came with the images into the build's directory.
    pub(crate) fn write_beside(source: &BuildSource, dir: &Path) -> Result<(), CliError> {
        let write = |name: &str, bytes: &[u8]| durable::write_file(&dir.join(name), bytes, PUBLIC);
        if let Some((name, bytes)) = &source.care_map {
            write(name, bytes)?;
        }
        if let Some(bytes) = &source.apex_info {
            write(BESIDE[2], bytes)?;
        }
        match &source.otacert {
            Some(bytes) => write(BESIDE[3], bytes),
            None => Ok(()),
        }
    }
}

/// Size and digest of an image, raw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageFacts {
    pub(crate) size: ByteLen,
    pub(crate) sha256: Sha256,
}

impl Build {
    /// Bytes of all images.
    pub(crate) fn size(&self) -> u64 {
        self.partitions.values().map(|image| image.size.get()).sum()
    }

    pub(crate) fn dir(&self, home: &Home) -> PathBuf {
        home.builds(&self.device).join(self.build.as_str())
    }

    /// Reads a build.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, CliError> {
        let path = dir.join("build.json");
        let Some(text) = read_text(&path, MAX_FACTS)? else { return Ok(None) };
        let damaged = |reason| CliError::Damaged { path: path.clone(), reason };
        let build: Self = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if build.schema != 1 {
            return Err(damaged(format!("schema is {}; this version knows 1", build.schema)));
        }
        Ok(Some(build))
    }

    /// Writes `build.json` into `dir`.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), CliError> {
        let mut text = serde_json::to_string_pretty(self).expect("a build has text keys only");
        text.push('\n');
        durable::write_file(&dir.join("build.json"), text.as_bytes(), PUBLIC)
    }

    /// The build as what an A/B update is made of; what it did not say of itself, the device's manifest says.
    pub(crate) fn source(&self, home: &Home, manifest: &DeviceManifest) -> anyhow::Result<BuildSource> {
        let (images, dir) = (self.open(home)?, self.dir(home));
        let path = |name: &PartitionName| (name.clone(), dir.join(format!("{name}.img")));
        let ab = self.ab.clone().unwrap_or_default();
        let read = |name: &str| durable::read_bytes(&dir.join(name), MAX_BESIDE);
        let mut care_map = None;
        for name in &BESIDE[..2] {
            if let (None, Some(bytes)) = (&care_map, read(name)?) {
                care_map = Some(((*name).to_owned(), bytes));
            }
        }
        let apex_info = read(BESIDE[2])?;
        let apexes = apex_info.as_deref().map(target_files::apexes).transpose();
        let apexes = apexes.with_context(|| format!("{} is damaged", dir.display()))?.unwrap_or_default();
        let mut device = vec![self.device.to_string()];
        device.extend(manifest.aliases.iter().map(ToString::to_string));
        // What was said on import counts before what the build says; its id there may be another than its own.
        let given = BuildFacts {
            timestamp: Some(self.timestamp),
            sdk: self.sdk,
            spl: self.spl.clone(),
            version: Some(self.version.clone()),
            ..BuildFacts::default()
        };
        let assumed = BuildFacts { device, incremental: Some(self.build.to_string()), ..BuildFacts::default() };
        let programs = ab.postinstall.into_iter().map(|(name, program)| {
            let PostinstallFacts { path, filesystem, optional } = program;
            (name, Postinstall { path, filesystem, optional })
        });
        let dynamic = ab.dynamic.as_ref().map(DynamicFacts::to_wire);
        Ok(BuildSource {
            paths: images.keys().map(path).collect(),
            facts: given.or(ab.facts).or(assumed),
            dynamic: dynamic.or_else(|| dynamic_of(manifest, &images)),
            apexes,
            apex_info,
            care_map,
            postinstall: programs.collect(),
            otacert: read(BESIDE[3])?,
            ..BuildSource::of_images(images)
        })
    }

    /// Opens the images.
    pub(crate) fn open(&self, home: &Home) -> Result<Images<'static>, CliError> {
        let mut images: Images<'static> = BTreeMap::new();
        for (name, facts) in &self.partitions {
            let path = self.dir(home).join(format!("{name}.img"));
            let image = FileAt::open(&path).map_err(|source| CliError::Read { path: path.clone(), source })?;
            if image.len() != facts.size {
                let reason = format!("it is {} long; it was imported with {}", image.len(), facts.size);
                return Err(CliError::Damaged { path, reason });
            }
            images.insert(name.clone(), Box::new(image));
        }
        Ok(images)
    }
}

/// What a device's manifest says of its dynamic partitions, for builds that do not say it themselves.
fn dynamic_of(manifest: &DeviceManifest, images: &Images<'_>) -> Option<wire::DynamicPartitionMetadata> {
    let dynamic = manifest.dynamic.as_ref()?;
    let groups = dynamic.groups.iter().map(|(name, size)| {
        let inside = |partition: &&PartitionName| {
            manifest.partitions.get(*partition).is_some_and(|facts| facts.group.as_ref() == Some(name))
        };
        wire::DynamicPartitionGroup {
            name: Some(name.clone()),
            size: Some(size.get()),
            partition_names: images.keys().filter(inside).map(ToString::to_string).collect(),
        }
    });
    let mut out = wire::DynamicPartitionMetadata { groups: groups.collect(), ..Default::default() };
    if let Some(facts) = &manifest.virtual_ab {
        let method = match facts.compression {
            Compression::None => None,
            Compression::Gz => Some("gz"),
            Compression::Brotli => Some("brotli"),
            Compression::Lz4 => Some("lz4"),
            Compression::Zstd => Some("zstd"),
        };
        out.snapshot_enabled = Some(true);
        out.vabc_enabled = Some(method.is_some());
        out.vabc_compression_param = method.map(str::to_owned);
        out.cow_version = facts.cow_version.map(u32::from).filter(|_| method.is_some());
    }
    Some(out)
}

/// A device's builds, oldest first.
pub(crate) fn list(home: &Home, codename: &Codename) -> Result<Vec<Build>, CliError> {
    let dir = home.builds(codename);
    let mut builds = Vec::new();
    for name in names(&dir)? {
        if BuildId::parse(&name).is_ok()
            && let Some(build) = Build::read(&dir.join(&name))?
        {
            if build.build.as_str() != name || build.device != *codename {
                let path = dir.join(&name).join("build.json");
                let reason = format!("it says build {} of {}, and lies in {name}", build.build, build.device);
                return Err(CliError::Damaged { path, reason });
            }
            builds.push(build);
        }
    }
    builds.sort_by(|a, b| (a.timestamp, &a.build).cmp(&(b.timestamp, &b.build)));
    Ok(builds)
}

/// One of a device's builds.
pub(crate) fn find<'b>(builds: &'b [Build], codename: &Codename, wanted: &BuildId) -> Result<&'b Build, CliError> {
    builds.iter().find(|build| build.build == *wanted).ok_or_else(|| {
        let known: Vec<_> = builds.iter().map(|build| build.build.to_string()).collect();
        CliError::NoBuild { codename: codename.clone(), build: wanted.clone(), known: or_none(&known) }
    })
}

/// Opens the images of a directory, raw or sparse.
pub(crate) fn open_dir(paths: &BTreeMap<PartitionName, PathBuf>) -> Result<Images<'static>, ImageError> {
    paths.iter().map(|(name, path)| Ok((name.clone(), open_image(path)?))).collect()
}

/// Hashes an image.
pub(crate) fn hash(image: &dyn ReadAt, path: &Path, bars: &Bars<'_>) -> Result<ImageFacts, CliError> {
    each_chunk(image, path, bars, |_| Ok(()))
}

/// Copies an image as raw bytes to `out`, leaving holes for zeros.
pub(crate) fn copy(image: &dyn ReadAt, path: &Path, out: &Path, bars: &Bars<'_>) -> anyhow::Result<ImageFacts> {
    let failed = |source| CliError::Write { path: out.into(), source };
    let mut file = File::create_new(out).map_err(failed)?;
    let facts = each_chunk(image, path, bars, |chunk| write_with_holes(&mut file, chunk).map_err(failed))
        .with_context(|| format!("could not copy {}", path.display()))?;
    file.set_len(facts.size.get()).and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(facts)
}

/// Writes on at the end of a file, and leaves holes for blocks of zeros.
pub(crate) fn write_with_holes(file: &mut File, chunk: &[u8]) -> io::Result<()> {
    for block in chunk.chunks(HOLE) {
        if block.len() == HOLE && block.iter().all(|&byte| byte == 0) {
            file.seek(SeekFrom::Current(HOLE as i64))?;
        } else {
            file.write_all(block)?;
        }
    }
    Ok(())
}

fn each_chunk(
    image: &dyn ReadAt,
    path: &Path,
    bars: &Bars<'_>,
    mut take: impl FnMut(&[u8]) -> Result<(), CliError>,
) -> Result<ImageFacts, CliError> {
    let mut reader = Section::whole(image);
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut size = 0;
    loop {
        let len = reader.read(&mut buffer).map_err(|source| CliError::Read { path: path.into(), source })?;
        if len == 0 {
            let sha256 = Sha256::new(hasher.finalize().into());
            return Ok(ImageFacts { size: ByteLen::new(size), sha256 });
        }
        hasher.update(&buffer[..len]);
        take(&buffer[..len])?;
        size += len as u64;
        if bars.add(len as u64).is_break() {
            return Err(CliError::Stopped);
        }
    }
}

/// Syncs a finished directory of images and gives it its name.
pub(crate) fn give_name(unfinished: tempfile::TempDir, dir: &Path) -> Result<(), CliError> {
    sync_dir(unfinished.path())?;
    let from = unfinished.keep();
    std::fs::rename(&from, dir).map_err(|source| {
        // Best effort: the next import sweeps it away otherwise.
        let _ = std::fs::remove_dir_all(&from);
        CliError::Write { path: dir.into(), source }
    })?;
    sync_dir(durable::parent(dir))
}
