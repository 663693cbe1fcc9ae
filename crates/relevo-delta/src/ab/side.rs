//! Both images of a partition after one reading.

use std::io;

use relevo_format::{
    ReadAt,
    fs::{self, FileSystem, FsError},
    payload::{Extent, ImageInfo},
};
use relevo_types::PartitionName;

use super::bases::Bases;
use crate::{
    DeltaError, Images, Progress,
    scan::{BlockHash, read_image},
};

/// A partition of the new build with what the old one has of it.
pub(super) struct Pair<'a> {
    pub name: &'a PartitionName,
    /// None if it is made from nothing.
    pub old: Option<Side<'a>>,
    pub new: Side<'a>,
    /// What may serve as a base; empty without an old image.
    pub bases: Bases,
}

/// One image.
pub(super) struct Side<'a> {
    pub image: &'a dyn ReadAt,
    pub info: ImageInfo,
    /// The digest of each block.
    pub blocks: Vec<BlockHash>,
    /// Its files; none if it is to be taken as plain bytes.
    pub files: Option<FileSystem>,
    /// Why its file system is not used although it has one.
    damage: Option<FsError>,
}

impl Side<'_> {
    /// The bytes of extents, one after the other.
    pub(super) fn read(&self, extents: &[Extent]) -> io::Result<Vec<u8>> {
        let len: u64 = extents.iter().map(Extent::len).sum();
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?];
        let mut rest = &mut bytes[..];
        for extent in extents {
            let (now, after) = rest.split_at_mut(usize::try_from(extent.len()).expect("a part of a length that fits"));
            self.image.read_exact_at(now, extent.offset())?;
            rest = after;
        }
        Ok(bytes)
    }
}

impl Pair<'_> {
    /// What was not as it should be.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        let sides = [("source", self.old.as_ref()), ("target", Some(&self.new))];
        let damaged = sides.into_iter().filter_map(|(build, side)| {
            let error = side?.damage.as_ref()?;
            Some(format!("partition {} of the {build} build is taken as plain bytes: {error}", self.name))
        });
        let broken = self.bases.broken.iter().map(|path| {
            let path = String::from_utf8_lossy(path);
            format!("partition {} of the source build is broken: {path} does not decompress", self.name)
        });
        damaged.chain(broken)
    }

    pub(super) fn old_error(&self, source: io::Error) -> DeltaError {
        DeltaError::Read { partition: self.name.clone(), build: "source", source }
    }

    pub(super) fn new_error(&self, source: io::Error) -> DeltaError {
        DeltaError::Read { partition: self.name.clone(), build: "target", source }
    }
}

/// Reads both builds.
pub(super) fn read_all<'a>(
    old: &'a Images<'_>,
    new: &'a Images<'_>,
    decoded: bool,
    anchors: u64,
    progress: &dyn Progress,
) -> Result<Vec<Pair<'a>>, DeltaError> {
    // One setting for all partitions: together their anchors stay within what is planned for.
    let old_len: u64 = old.values().map(|image| image.len().get()).sum();
    new.iter()
        .map(|(name, image)| {
            let old = old.get(name).filter(|image| !image.is_empty());
            let old = old.map(|image| scan(name, &**image, "source", progress)).transpose()?;
            let new = scan(name, &**image, "target", progress)?;
            let mut pair = Pair { name, old, new, bases: Bases::default() };
            if let Some(old) = &pair.old {
                let is_erofs = pair.new.files.as_ref().is_some_and(|files| files.kind == fs::Kind::Erofs);
                let bases = Bases::new(old, decoded && is_erofs, old_len, anchors);
                pair.bases = bases.map_err(|source| pair.old_error(source))?;
            }
            Ok(pair)
        })
        .collect()
}

fn scan<'a>(
    name: &PartitionName,
    image: &'a dyn ReadAt,
    build: &'static str,
    progress: &dyn Progress,
) -> Result<Side<'a>, DeltaError> {
    let (sha256, blocks, _) = read_image(name, image, build, |_, _| Vec::<()>::new(), progress)?;
    let (files, damage) = match fs::read(image, &fs::Limits::default()) {
        Ok(files) => (Some(files), None),
        Err(FsError::Unknown) => (None, None),
        Err(error) => (None, Some(error)),
    };
    Ok(Side { image, info: ImageInfo { size: image.len(), sha256 }, blocks, files, damage })
}
