//! Which parts of an old image may serve as the base of a piece.

use std::{collections::HashMap, io};

use relevo_format::{
    fs::{Content, File, FileKind, FileSystem, Stored},
    payload::Extent,
};
use relevo_types::BLOCK;

use super::side::{Side, slices};
use crate::anchor::{Anchors, Sampler, WINDOW};

/// Bytes that are sampled at a time.
const SLICE: u64 = 4 << 20;

/// What an old image offers.
#[derive(Default)]
pub(super) struct Bases {
    anchors: Anchors,
    /// Blocks of the old files by path.
    files: HashMap<Vec<u8>, Vec<Extent>>,
}

impl Bases {
    /// Samples an old image. `total` is the length of all of them, which share `anchors`.
    pub(super) fn new(old: &Side<'_>, total: u64, anchors: u64) -> io::Result<Self> {
        let sampler = Sampler::for_len(total, anchors);
        let found = slices(old.image, SLICE, |start, bytes| {
            let window = |at: u64| u32::try_from(at / WINDOW).unwrap_or(u32::MAX);
            let mut found: Vec<_> =
                sampler.sample(&bytes, start).into_iter().map(|(key, at)| (key, window(at))).collect();
            found.sort_unstable();
            found.dedup();
            found
        })?;
        let anchors = Anchors::of_windows(sampler, found.concat(), &[old.image.len().get()]);
        let files = old.files.iter().flat_map(regular_files);
        let files = files.map(|file| (file.path.clone(), blocks(file))).collect();
        Ok(Self { anchors, files })
    }

    /// Blocks of the old file of that path.
    pub(super) fn file(&self, path: &[u8]) -> Option<&[Extent]> {
        self.files.get(path).map(|extents| &extents[..])
    }

    /// The windows that share most content with `parts`, at most `limit` bytes, in the order of the image.
    pub(super) fn alike<'b>(&self, parts: impl Iterator<Item = &'b [u8]>, limit: u64) -> Vec<Extent> {
        let mut choice = self.anchors.choose();
        parts.for_each(|part| choice.like(part));
        let windows = choice.finish(limit).into_iter();
        windows.map(|found| Extent { start: found.start / BLOCK.get(), blocks: found.len / BLOCK.get() }).collect()
    }
}

/// Files with contents, one for each inode.
pub(super) fn regular_files(files: &FileSystem) -> impl Iterator<Item = &File> {
    files.files.iter().filter(|file| file.kind == FileKind::Regular && file.size > 0)
}

/// Blocks of the image that hold a file's contents, in the order of the file; those that it shares with metadata are
/// left out.
pub(super) fn blocks(file: &File) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut push = |offset: u64, len: u64| {
        let (start, end) = (offset / BLOCK.get(), (offset.saturating_add(len)).div_ceil(BLOCK.get()));
        match extents.last_mut() {
            // File systems with smaller blocks have several extents in one of ours.
            Some(last) if start < last.end() && last.start <= start => last.blocks = last.blocks.max(end - last.start),
            Some(last) if last.end() == start => last.blocks += end - start,
            _ if start < end => extents.push(Extent { start, blocks: end - start }),
            _ => {}
        }
    };
    match &file.content {
        Content::Plain(plain) => {
            for extent in plain {
                if let Stored::Blocks(offset) = extent.stored {
                    push(offset, extent.len);
                }
            }
        }
        Content::Compressed(clusters) => {
            for cluster in clusters.iter().filter(|cluster| !cluster.inline) {
                push(cluster.image_offset, cluster.stored_len);
            }
        }
    }
    extents
}

/// The union of extents, in the order of the image; gaps of at most `gap` blocks are closed.
pub(super) fn union(mut extents: Vec<Extent>, gap: u64) -> Vec<Extent> {
    extents.sort_unstable();
    let mut joined: Vec<Extent> = Vec::with_capacity(extents.len());
    for extent in extents {
        match joined.last_mut() {
            Some(last) if extent.start <= last.end() + gap => {
                last.blocks = last.blocks.max(extent.end() - last.start);
            }
            _ => joined.push(extent),
        }
    }
    joined
}
