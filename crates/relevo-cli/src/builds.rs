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
};
use relevo_types::{BuildId, ByteLen, Channel, Codename, PartitionName, Sha256};
use serde::{Deserialize, Serialize};
use sha2::Digest;

use crate::{
    durable::{self, PUBLIC, read_text, sync_dir},
    error::CliError,
    home::{Home, names, or_none},
    progress::Bars,
};

/// Longest build.json or build.prop that we read, in bytes; a build.prop has about 20 KB.
pub(crate) const MAX_FACTS: u64 = 1 << 20;
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
    /// Its images.
    pub(crate) partitions: BTreeMap<PartitionName, ImageFacts>,
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
