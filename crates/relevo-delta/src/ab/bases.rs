//! Which parts of an old image may serve as the base of a piece.
//!
//! The old image is sampled for anchors file by file, what EROFS has compressed after decompression, so that content is
//! found again wherever it went. Each file has windows of its own; what belongs to no file is sampled where it stands.

use std::{collections::HashMap, io};

use rayon::prelude::*;
use relevo_format::{
    Section,
    fs::{self, Cluster, Content, File, FileKind, FileSystem, Kind, Stored},
    payload::Extent,
};
use relevo_types::BLOCK;

use super::side::Side;
use crate::{
    anchor::{Anchors, Sampler, WINDOW, window_count},
    scan::read,
};

/// Bytes that are sampled at a time; a number of windows.
const SLICE: u64 = 4 << 20;
/// Blocks of a window of anchors.
const WINDOW_BLOCKS: u64 = WINDOW / BLOCK.get();
/// How many times as much of another file has to be found than of the one of the same path.
const CLEARLY: u32 = 2;

/// What an old image offers.
#[derive(Default)]
pub(super) struct Bases {
    anchors: Anchors,
    blocks: u64,
    files: Vec<OldFile>,
    by_path: HashMap<Vec<u8>, usize>,
    /// By the last part of the path, without digits.
    by_stem: HashMap<Vec<u8>, Vec<usize>>,
    /// The first file that does not decompress.
    pub broken: Option<Vec<u8>>,
}

/// A file of an old image.
#[derive(Debug)]
pub(super) struct OldFile {
    pub extents: Vec<Extent>,
    /// If it is compressed, and looked at decompressed.
    pub clusters: Vec<Cluster>,
    len: u64,
    first_window: u32,
}

impl OldFile {
    /// Bytes of its blocks.
    pub(super) fn stored_len(&self) -> u64 {
        self.extents.iter().map(Extent::len).sum()
    }

    /// Its bytes from a window on, as blocks.
    fn window(&self, index: u64) -> Vec<Extent> {
        let (start, end) = (index * WINDOW, (index + 1) * WINDOW);
        if self.clusters.is_empty() {
            return part(&self.extents, index * WINDOW_BLOCKS, WINDOW_BLOCKS);
        }
        let inside = self
            .clusters
            .iter()
            .filter(|cluster| cluster.file_offset < end && start < cluster.file_offset + cluster.len);
        inside.filter_map(cluster_blocks).collect()
    }
}

/// Blocks from the `first` one of extents on.
fn part(extents: &[Extent], first: u64, blocks: u64) -> Vec<Extent> {
    let mut found = Vec::new();
    let (mut skip, mut left) = (first, blocks);
    for extent in extents {
        let skipped = skip.min(extent.blocks);
        let taken = left.min(extent.blocks - skipped);
        if taken > 0 {
            found.push(Extent { start: extent.start + skipped, blocks: taken });
        }
        skip -= skipped;
        left -= taken;
    }
    found
}

/// The blocks of a cluster, if it has blocks of its own.
pub(super) fn cluster_blocks(cluster: &Cluster) -> Option<Extent> {
    let aligned = cluster.image_offset.is_multiple_of(BLOCK.get()) && cluster.stored_len.is_multiple_of(BLOCK.get());
    let (start, blocks) = (cluster.image_offset / BLOCK.get(), cluster.stored_len / BLOCK.get());
    (aligned && !cluster.inline && blocks > 0).then_some(Extent { start, blocks })
}

/// The clusters of a file, if all have blocks of their own.
pub(super) fn whole_clusters(file: &File) -> Option<&[Cluster]> {
    match &file.content {
        Content::Compressed(clusters) if clusters.iter().all(|cluster| cluster_blocks(cluster).is_some()) => {
            Some(clusters)
        }
        _ => None,
    }
}

/// Some bytes of a file, or of the image, that are sampled at a time.
struct Slice<'a> {
    file: Option<&'a File>,
    start: u64,
    end: u64,
    /// Number of the first window of the file.
    first: u32,
}

impl<'a> Slice<'a> {
    /// Cuts a range into slices.
    fn of(file: Option<&'a File>, range: std::ops::Range<u64>, first: u32) -> impl Iterator<Item = Self> {
        let starts = (range.start / SLICE..range.end.div_ceil(SLICE)).map(|index| index * SLICE);
        let cut =
            move |start: u64| Self { file, start: start.max(range.start), end: (start + SLICE).min(range.end), first };
        starts.map(cut).filter(|slice| slice.start < slice.end)
    }
}

/// Windows of an old image with the votes for them, most first.
pub(super) type Votes = Vec<(u32, u32)>;

impl Bases {
    /// Samples an old image; `decoded` if what is compressed is looked at decompressed. `total` is the length of all old
    /// images, which share `anchors`.
    pub(super) fn new(old: &Side<'_>, decoded: bool, total: u64, anchors: u64) -> io::Result<Self> {
        let sampler = Sampler::for_len(total, anchors);
        let len = old.image.len().get();
        let decoded = decoded && old.files.as_ref().is_some_and(|files| files.kind == Kind::Erofs);
        let mut bases = Self { blocks: len / BLOCK.get(), ..Self::default() };
        let mut next_window = window_count(len);
        // What is sampled: a file's bytes or the image's, and the number of the first window.
        let mut slices: Vec<Slice<'_>> = Vec::new();
        match &old.files {
            None => slices.extend(Slice::of(None, 0..len, 0)),
            Some(files) => {
                let ranges = files.metadata.iter();
                slices.extend(ranges.flat_map(|range| Slice::of(None, range.start..range.end.min(len), 0)));
            }
        }
        for file in old.files.iter().flat_map(regular_files) {
            let clusters = if decoded { whole_clusters(file).unwrap_or_default() } else { &[] };
            let extents = blocks(file);
            let stored: u64 = extents.iter().map(Extent::len).sum();
            let len = if clusters.is_empty() { stored } else { file.size };
            let (index, first_window) = (bases.files.len(), next_window);
            slices.extend(Slice::of(Some(file), 0..len, first_window));
            // One at least, so that no two files have the same first window: files within metadata have no blocks.
            next_window = next_window.saturating_add(window_count(len).max(1));
            bases.by_path.insert(file.path.clone(), index);
            bases.by_stem.entry(stem(&file.path)).or_default().push(index);
            bases.files.push(OldFile { extents, clusters: clusters.to_vec(), len, first_window });
        }
        let bases_files = &bases.files;
        let sample = |&Slice { file, start, end, first }: &Slice<'_>| -> io::Result<(Vec<(u32, u32)>, bool)> {
            let mut is_whole = true;
            let bytes = match file {
                None => read(old.image, start, end - start)?,
                Some(file) => {
                    let index = bases_files.partition_point(|other| other.first_window < first);
                    let known = &bases_files[index];
                    if known.clusters.is_empty() {
                        old.read(&part(&known.extents, start / BLOCK.get(), (end - start).div_ceil(BLOCK.get())))?
                    } else {
                        let mut bytes = Vec::new();
                        let contents = fs::open(old.image, file);
                        match io::Read::read_to_end(&mut Section::new(contents, start, end - start)?, &mut bytes) {
                            // Somebody broke it, or packed it otherwise; it is found by what comes before.
                            Err(error) if error.kind() == io::ErrorKind::InvalidData => is_whole = false,
                            read => {
                                read?;
                            }
                        }
                        bytes
                    }
                }
            };
            let window = |at: u64| first.saturating_add(u32::try_from(at / WINDOW).unwrap_or(u32::MAX));
            let found = sampler.sample(&bytes, start).into_iter();
            let mut found: Vec<_> = found.map(|(key, at)| (key, window(at))).collect();
            found.sort_unstable();
            found.dedup();
            Ok((found, is_whole))
        };
        let (found, whole): (Vec<_>, Vec<_>) = slices.par_iter().map(sample).collect::<io::Result<_>>()?;
        let broken = slices.iter().zip(whole).find(|(_, is_whole)| !is_whole);
        bases.broken = broken.and_then(|(slice, _)| Some(slice.file?.path.clone()));
        bases.anchors = Anchors::of_windows(sampler, found.concat());
        Ok(bases)
    }

    /// Which windows share content with `parts`.
    pub(super) fn votes<'b>(&self, parts: impl Iterator<Item = &'b [u8]>) -> Votes {
        let mut choice = self.anchors.choose();
        parts.for_each(|part| choice.like(part));
        choice.ranked()
    }

    /// Blocks of the windows with most votes, at most about `limit` bytes.
    pub(super) fn windows(&self, votes: &Votes, limit: u64) -> Vec<Extent> {
        let mut left = limit;
        let mut extents = Vec::new();
        for &(window, _) in votes {
            let found = match self.owner(window) {
                Some(file) => file.window(u64::from(window - file.first_window)),
                None => {
                    let start = u64::from(window) * WINDOW_BLOCKS;
                    vec![Extent { start, blocks: WINDOW_BLOCKS.min(self.blocks.saturating_sub(start)) }]
                }
            };
            let len: u64 = found.iter().map(Extent::len).sum();
            if len > left {
                break;
            }
            left -= len;
            extents.extend(found.into_iter().filter(|extent| extent.blocks > 0));
        }
        extents
    }

    fn owner(&self, window: u32) -> Option<&OldFile> {
        let index = self.files.partition_point(|file| file.first_window <= window).checked_sub(1)?;
        let file = &self.files[index];
        (window < file.first_window.saturating_add(window_count(file.len))).then_some(file)
    }

    /// The old file that a new one is most likely made from: that of the same path, unless another one is clearly more
    /// like it; without one the most alike, then one of that name, then one whose name differs in digits alone.
    pub(super) fn file(&self, path: &[u8], votes: &Votes) -> Option<&OldFile> {
        let mut sums: HashMap<u32, u32> = HashMap::new();
        for &(window, vote) in votes {
            if let Some(file) = self.owner(window) {
                *sums.entry(file.first_window).or_default() += vote;
            }
        }
        let sum = |file: &OldFile| sums.get(&file.first_window).copied().unwrap_or(0);
        let alike = self.files.iter().filter(|file| sum(file) > 0);
        let alike = alike.max_by_key(|file| (sum(file), std::cmp::Reverse(file.first_window)));
        let same = self.by_path.get(path).map(|&index| &self.files[index]);
        let named = || {
            let stem = self.by_stem.get(&stem(path))?;
            let name = |path: &[u8]| path.rsplit(|&byte| byte == b'/').next().map(<[u8]>::to_vec);
            let own = name(path);
            let equal = self.by_path.iter().filter(|(other, _)| name(other) == own).map(|(_, &index)| index).min();
            equal.or_else(|| stem.first().copied()).map(|index| &self.files[index])
        };
        match (same, alike) {
            (Some(same), Some(alike)) if sum(alike) > CLEARLY * sum(same) + 64 => Some(alike),
            (Some(same), _) => Some(same),
            (None, Some(alike)) if sum(alike) >= 64 => Some(alike),
            (None, alike) => named().or(alike),
        }
    }

    /// All clusters of the old files that lie in `extents`, in the order of the image, each once.
    pub(super) fn clusters_in(&self, extents: &[Extent]) -> Vec<Cluster> {
        let wanted = |cluster: &Cluster| {
            let Some(blocks) = cluster_blocks(cluster) else { return false };
            let index = extents.partition_point(|extent| extent.end() <= blocks.start);
            extents.get(index).is_some_and(|extent| extent.start <= blocks.start && blocks.end() <= extent.end())
        };
        let mut clusters: Vec<Cluster> = Vec::new();
        for file in &self.files {
            clusters.extend(file.clusters.iter().filter(|cluster| wanted(cluster)));
        }
        clusters.sort_by_key(|cluster| (cluster.image_offset, cluster.partial, std::cmp::Reverse(cluster.len)));
        clusters.dedup_by_key(|cluster| cluster.image_offset);
        clusters
    }
}

/// The last part of a path without digits.
fn stem(path: &[u8]) -> Vec<u8> {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    name.iter().copied().filter(|byte| !byte.is_ascii_digit()).collect()
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
