//! What a build comes in: a full OTA zip, its payload, a zip of target files, or a directory of images.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::Context;
use rayon::prelude::*;
use relevo_delta::Images;
use relevo_format::{
    FileAt, ReadAt,
    image::image_dir,
    ota_zip::{self, METADATA, OtaZip, PAYLOAD},
    payload::{Postinstall, wire},
    target_files::{self, Properties},
};
use relevo_types::{ByteLen, PartitionName, Sha256};
use tempfile::TempDir;

use crate::{
    builds::{MAX_FACTS, open_dir, write_with_holes},
    command::ab::{self, Sources, Update},
    durable::{UNFINISHED, make_dir, read_bytes},
    error::CliError,
    facts::{BuildFacts, Facts, WITH_PROPERTIES, image_properties},
    session::Session,
};

/// Largest image in a zip of target files.
const MAX_IMAGE: ByteLen = ByteLen::new(64 << 30);
/// Largest text or message beside the images; a care map has some 100 KB.
const MAX_BESIDE: ByteLen = ByteLen::mib(4);
/// The certificate that comes with an OTA.
const OTACERT: &str = "META-INF/com/android/otacert";

/// What a build came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// An OTA zip with a full payload.
    OtaZip,
    /// A full payload alone.
    Payload,
    /// A zip of target files.
    TargetFiles,
    /// A directory of `NAME.img`.
    Directory,
}

/// A build: its images, and what is known of it.
pub(crate) struct BuildSource {
    /// What it came in.
    pub(crate) origin: Origin,
    /// The images, as the partitions have them.
    pub(crate) images: Images<'static>,
    /// Where they lie; raw or sparse.
    pub(crate) paths: BTreeMap<PartitionName, PathBuf>,
    /// Raw images that lie in the scratch directory and may be moved away, with their digests where those are known.
    pub(crate) owned: BTreeMap<PartitionName, Option<Sha256>>,
    /// What `build.json` and `build.prop` beside the images say.
    pub(crate) beside: Facts,
    /// What the build says of itself.
    pub(crate) facts: BuildFacts,
    /// What Virtual A/B is told.
    pub(crate) dynamic: Option<wire::DynamicPartitionMetadata>,
    /// The build's APEXes.
    pub(crate) apexes: Vec<wire::ApexInfo>,
    /// The message that says so, for OTA zips.
    pub(crate) apex_info: Option<Vec<u8>>,
    /// Blocks that are read at the first start: `care_map.pb` or `care_map.txt`.
    pub(crate) care_map: Option<(String, Vec<u8>)>,
    /// Programs that run after the update.
    pub(crate) postinstall: BTreeMap<PartitionName, Postinstall>,
    /// The certificate that came with the build.
    pub(crate) otacert: Option<Vec<u8>>,
    /// Removed with what was unpacked into it.
    pub(crate) _scratch: Option<TempDir>,
}

impl BuildSource {
    /// Images of which nothing else is known yet.
    pub(crate) fn of_images(images: Images<'static>) -> Self {
        Self {
            origin: Origin::Directory,
            images,
            paths: BTreeMap::new(),
            owned: BTreeMap::new(),
            beside: Facts::default(),
            facts: BuildFacts::default(),
            dynamic: None,
            apexes: Vec::new(),
            apex_info: None,
            care_map: None,
            postinstall: BTreeMap::new(),
            otacert: None,
            _scratch: None,
        }
    }

    /// Bytes of all images.
    pub(crate) fn size(&self) -> u64 {
        self.images.values().map(|image| image.len().get()).sum()
    }
}

/// Opens a build. What has to be unpacked goes into a directory below `scratch` and goes away with the build.
pub(crate) fn open(path: &Path, scratch: &Path, session: &Session<'_>) -> anyhow::Result<BuildSource> {
    if path.is_dir() {
        return open_directory(path, session);
    }
    if !ab::is_ab(path)? {
        return Err(CliError::NoBuildSource { path: path.into() }.into());
    }
    let file = FileAt::open(path).map_err(|source| CliError::Read { path: path.into(), source })?;
    if is_zip(&file) {
        let refused = || format!("{} is refused", path.display());
        let zip = OtaZip::read(file, &ota_zip::Limits::default()).with_context(refused)?;
        if is_target_files(&zip) {
            return open_target_files(path, &zip, scratch, session).with_context(refused);
        }
        if is_block(&zip) {
            return Err(CliError::BlockOta { path: path.into() }.into());
        }
    }
    open_update(path, scratch, session)
}

/// The A/B OTA zip at `path`; none if it is something else.
pub(crate) fn ota_zip(path: &Path) -> anyhow::Result<Option<OtaZip<FileAt>>> {
    if path.is_dir() {
        return Ok(None);
    }
    let file = FileAt::open(path).map_err(|source| CliError::Read { path: path.into(), source })?;
    if !is_zip(&file) {
        return Ok(None);
    }
    let zip = OtaZip::read(file, &ota_zip::Limits::default());
    let zip = zip.with_context(|| format!("{} is refused", path.display()))?;
    Ok(Some(zip).filter(|zip| !is_target_files(zip) && !is_block(zip)))
}

fn is_target_files(zip: &OtaZip<FileAt>) -> bool {
    [target_files::MISC_INFO, target_files::AB_PARTITIONS].iter().any(|name| zip.entry(name).is_some())
}

/// Whether it is an OTA for devices without slots.
fn is_block(zip: &OtaZip<FileAt>) -> bool {
    zip.entry(PAYLOAD).is_none() && zip.entries().iter().any(|entry| entry.name.ends_with(".transfer.list"))
}

fn is_zip(file: &FileAt) -> bool {
    let mut start = [0; 2];
    file.read_exact_at(&mut start, 0).is_ok() && start == *b"PK"
}

/// A directory that goes away with the build.
fn unpacked(scratch: &Path) -> Result<TempDir, CliError> {
    make_dir(scratch)?;
    let dir = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(scratch);
    dir.map_err(|source| CliError::Write { path: scratch.into(), source })
}

fn open_directory(dir: &Path, session: &Session<'_>) -> anyhow::Result<BuildSource> {
    let beside = Facts::read(dir)?;
    let paths = image_dir(dir)?;
    let images = open_dir(&paths)?;
    let partitions: Vec<_> = images.keys().cloned().collect();
    // What is under META in a zip of target files may lie beside the images.
    let read = |entry: &str| {
        let name = entry.rsplit('/').next().unwrap_or(entry);
        Ok(read_bytes(&dir.join(name), MAX_BESIDE.get())?)
    };
    let beside_images = Beside::read(&read, &partitions).with_context(|| format!("{} is refused", dir.display()))?;
    let mut properties = BTreeMap::new();
    if let Some(text) = read_bytes(&dir.join("build.prop"), MAX_FACTS)? {
        let system = PartitionName::parse("system").expect("it is a name");
        properties.insert(system, Properties::parse(&String::from_utf8_lossy(&text)));
    }
    let facts = BuildFacts::of_properties(&properties).or(facts_in(&images, session));
    let facts = BuildFacts { minor: beside_images.minor, ..facts };
    Ok(BuildSource {
        origin: Origin::Directory,
        images,
        paths,
        owned: BTreeMap::new(),
        beside,
        facts,
        dynamic: beside_images.dynamic,
        apexes: beside_images.apexes,
        apex_info: beside_images.apex_info,
        care_map: beside_images.care_map,
        postinstall: beside_images.postinstall,
        otacert: None,
        _scratch: None,
    })
}

/// What the images' own properties say.
fn facts_in(images: &Images<'_>, session: &Session<'_>) -> BuildFacts {
    let wanted = images.iter().filter(|(name, _)| WITH_PROPERTIES.contains(&name.as_str()));
    let wanted: Vec<_> = wanted.collect();
    let read = wanted.par_iter().map(|(name, image)| (*name, image_properties(image)));
    let mut properties = BTreeMap::new();
    for (name, found) in read.collect::<Vec<_>>() {
        match found {
            Ok(Some(found)) => {
                properties.insert(name.clone(), found);
            }
            Ok(None) => {}
            Err(error) => session.warn(format!("the files in {name} cannot be read: {error}")),
        }
    }
    let images = images.iter().map(|(name, image)| (name, &**image as &dyn ReadAt));
    BuildFacts::of_properties(&properties).or(BuildFacts::of_avb(images))
}

fn open_update(path: &Path, scratch: &Path, session: &Session<'_>) -> anyhow::Result<BuildSource> {
    let update = Update::open(path)?;
    let manifest = update.payload.manifest();
    if let Some(delta) = manifest.partitions.iter().find(|partition| partition.old.is_some()) {
        return Err(CliError::NotFull { path: path.into(), partition: delta.name.clone() }.into());
    }
    let dir = unpacked(scratch)?;
    let wanted: Vec<_> = manifest.partitions.iter().collect();
    ab::make(session, &update, &wanted, &Sources::new(), (dir.path(), dir.path()))?;
    let paths: BTreeMap<_, _> =
        wanted.iter().map(|p| (p.name.clone(), dir.path().join(format!("{}.img", p.name)))).collect();
    let images = open_dir(&paths)?;

    let mut facts = BuildFacts::default();
    let (mut care_map, mut apex_info, mut otacert) = (None, None, None);
    if let Some(zip) = update.zip() {
        let refused = || format!("{} is refused", path.display());
        if zip.entry(METADATA).is_some() {
            facts = facts.or(BuildFacts::of_metadata(&zip.metadata_text().with_context(refused)?));
        }
        if let Some(metadata) = zip.metadata().with_context(refused)? {
            facts = facts.or(BuildFacts::of_message(&metadata));
        }
        let read = |name: &str| entry(zip, name).with_context(refused);
        for name in ["care_map.pb", "care_map.txt"] {
            if let (None, Some(bytes)) = (&care_map, read(name)?) {
                care_map = Some((name.to_owned(), bytes));
            }
        }
        apex_info = read("apex_info.pb")?;
        otacert = read(OTACERT)?;
    }
    if apex_info.is_none() && !manifest.apexes.is_empty() {
        apex_info = Some(target_files::apex_info(&manifest.apexes));
    }
    let facts = facts.or(BuildFacts::of_payload(manifest)).or(facts_in(&images, session));
    let postinstall = wanted.iter().filter_map(|p| Some((p.name.clone(), p.postinstall.clone()?))).collect();
    Ok(BuildSource {
        origin: if update.zip().is_some() { Origin::OtaZip } else { Origin::Payload },
        images,
        paths,
        owned: wanted.iter().map(|partition| (partition.name.clone(), Some(partition.new.sha256))).collect(),
        beside: Facts::default(),
        facts,
        dynamic: manifest.dynamic.clone(),
        apexes: manifest.apexes.clone(),
        apex_info,
        care_map,
        postinstall,
        otacert,
        _scratch: Some(dir),
    })
}

/// A small entry, if it is there.
fn entry(zip: &OtaZip<FileAt>, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
    match zip.entry(name) {
        Some(_) => Ok(Some(zip.small(name, MAX_BESIDE)?)),
        None => Ok(None),
    }
}

/// What stands under `META` in a zip of target files, or beside a directory's images.
#[derive(Default)]
struct Beside {
    minor: Option<u32>,
    dynamic: Option<wire::DynamicPartitionMetadata>,
    apexes: Vec<wire::ApexInfo>,
    apex_info: Option<Vec<u8>>,
    care_map: Option<(String, Vec<u8>)>,
    postinstall: BTreeMap<PartitionName, Postinstall>,
}

impl Beside {
    fn read(
        read: &dyn Fn(&str) -> anyhow::Result<Option<Vec<u8>>>,
        partitions: &[PartitionName],
    ) -> anyhow::Result<Self> {
        let properties = |name| -> anyhow::Result<Properties> {
            let bytes = read(name)?.unwrap_or_default();
            Ok(Properties::parse(&String::from_utf8_lossy(&bytes)))
        };
        let mut dynamic = target_files::dynamic_partitions(&properties(target_files::DYNAMIC_PARTITIONS)?)?;
        if dynamic.is_none() {
            dynamic = target_files::dynamic_partitions(&properties(target_files::MISC_INFO)?)?;
        }
        let apex_info = read(target_files::APEX_INFO)?;
        let mut care_map = None;
        for name in target_files::CARE_MAPS {
            if let (None, Some(bytes)) = (&care_map, read(name)?) {
                care_map = Some((name.trim_start_matches("META/").to_owned(), bytes));
            }
        }
        Ok(Self {
            minor: target_files::minor_version(&properties(target_files::UPDATE_ENGINE)?)?,
            dynamic,
            apexes: apex_info.as_deref().map(target_files::apexes).transpose()?.unwrap_or_default(),
            apex_info,
            care_map,
            postinstall: target_files::postinstall(&properties(target_files::POSTINSTALL)?, partitions),
        })
    }
}

fn open_target_files(
    path: &Path,
    zip: &OtaZip<FileAt>,
    scratch: &Path,
    session: &Session<'_>,
) -> anyhow::Result<BuildSource> {
    let Some(list) = entry(zip, target_files::AB_PARTITIONS)? else {
        return Err(CliError::NoAbPartitions { path: path.into() }.into());
    };
    let partitions = target_files::ab_partitions(&String::from_utf8_lossy(&list))?;
    let mut entries = Vec::new();
    for name in &partitions {
        let found = target_files::image_entries(name).into_iter().find(|entry| zip.entry(entry).is_some());
        let entry = found.ok_or_else(|| CliError::NoImage { partition: name.clone() })?;
        entries.push((name, entry));
    }
    let beside = Beside::read(&|name| entry(zip, name), &partitions)?;
    let mut properties = BTreeMap::new();
    for name in &partitions {
        for candidate in target_files::property_entries(name) {
            if let (false, Some(found)) = (properties.contains_key(name), zip.entry(&candidate)) {
                if found.len > MAX_FACTS {
                    continue;
                }
                let text = zip.small(&candidate, ByteLen::new(MAX_FACTS))?;
                properties.insert(name.clone(), Properties::parse(&String::from_utf8_lossy(&text)));
            }
        }
    }

    let dir = unpacked(scratch)?;
    let bars = session.bars(path.file_name().unwrap_or_default().to_string_lossy());
    bars.step("unpacking", entries.iter().filter_map(|(_, entry)| zip.entry(entry)).map(|entry| entry.len).sum());
    let unpack = |(name, entry): &(&PartitionName, String)| -> anyhow::Result<(PartitionName, PathBuf)> {
        let out = dir.path().join(format!("{name}.img"));
        let failed = |source| CliError::Write { path: out.clone(), source };
        let mut file = File::create_new(&out).map_err(failed)?;
        let mut len = 0;
        let unpacked = zip.unpack(entry, MAX_IMAGE, &mut |part| {
            write_with_holes(&mut file, part)?;
            len += part.len() as u64;
            match bars.add(part.len() as u64).is_break() {
                true => Err(std::io::Error::other(CliError::Stopped)),
                false => Ok(()),
            }
        });
        if bars.add(0).is_break() {
            return Err(CliError::Stopped.into());
        }
        unpacked?;
        file.set_len(len).and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(((*name).clone(), out))
    };
    let paths: BTreeMap<_, _> = entries.par_iter().map(unpack).collect::<anyhow::Result<_>>()?;
    let images = open_dir(&paths)?;
    // A sparse image is longer or shorter than the file that it is in; one that happens to be as long is copied too.
    let raw = |name: &PartitionName| !relevo_format::image::is_sparse(&paths[name]).unwrap_or(true);
    let owned: BTreeSet<_> = paths.keys().filter(|name| raw(name)).cloned().collect();
    let facts = BuildFacts { minor: beside.minor, ..BuildFacts::of_properties(&properties) };
    let facts = if facts.incremental.is_some() { facts } else { facts.or(facts_in(&images, session)) };
    Ok(BuildSource {
        origin: Origin::TargetFiles,
        images,
        paths,
        owned: owned.into_iter().map(|name| (name, None)).collect(),
        beside: Facts::default(),
        facts,
        dynamic: beside.dynamic,
        apexes: beside.apexes,
        apex_info: beside.apex_info,
        care_map: beside.care_map,
        postinstall: beside.postinstall,
        otacert: None,
        _scratch: Some(dir),
    })
}
