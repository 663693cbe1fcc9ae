//! Encodings of a piece's bytes, and which of them is the smallest.

use std::{io::Write as _, ops::Range};

use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
use relevo_format::{
    fs::{Cluster, Coding},
    patch::{
        bsdiff::{self, Effort, Format, Match, Streams},
        locate,
        lz4diff::{self, Inner, Plain, Target},
        puffin::{self, Puffed},
        zucchini,
    },
    payload::{Extent, Operation, OperationKind},
};
use relevo_types::{BLOCK, Sha256};

use super::{
    Operations,
    bases::cluster_blocks,
    piece::{data, join, sha256, trim},
};
use crate::matcher::{Matcher, Search};

/// Bytes that an operation takes in a manifest besides its extents: kind, data and digests.
const OPERATION_COST: usize = 50;
/// Bytes that an operation takes more if it reads the old image: a digest.
const SOURCE_COST: usize = 34;
/// Bytes of an extent in a manifest.
const EXTENT_COST: usize = 8;
/// Alike bytes from which on a patch of zucchini, which has no zeros, is looked at: brotli takes long to go through those.
const SPARSE: usize = 256 << 10;
/// What brotli's best has to save. BENCHMARKS.md has what other numbers give: half of it takes half as long again for
/// 0.6 %, twice of it makes a monthly update larger than AOSP's.
const EFFORT: Effort = Effort { saved_per_second: 4000 };
/// Old bytes from which on seeds are long: short ones have so many places in them that the few looked at are not the best.
const LARGE: usize = 32 << 20;
/// Preset of xz: a dictionary of 8 MiB, as AOSP's generator has it.
const XZ_PRESET: u32 = 6;
/// Largest dictionary that is asked of a phone, in bytes.
const XZ_DICTIONARY: u32 = 8 << 20;

/// A piece as an operation would carry it.
#[derive(Debug)]
pub(super) struct Encoded {
    kind: OperationKind,
    pub blob: Vec<u8>,
    source: Vec<Extent>,
    source_sha256: Option<Sha256>,
}

impl Encoded {
    /// Bytes in the payload, those in the manifest included, the target's extents left out.
    pub(super) fn cost(&self) -> usize {
        let source = if self.source.is_empty() { 0 } else { SOURCE_COST + EXTENT_COST * self.source.len() };
        self.blob.len() + OPERATION_COST + source
    }

    /// The operation, without its place among the blobs.
    pub(super) fn operation(&self, target: Vec<Extent>) -> Operation {
        Operation {
            kind: self.kind,
            data: Some(data(&self.blob)),
            source: self.source.clone(),
            source_sha256: self.source_sha256,
            target,
        }
    }
}

/// The smallest of what needs no base.
pub(super) fn replace(new: &[u8], allowed: &Operations) -> Encoded {
    let (kind, blob) = match allowed {
        Operations { xz: true, .. } => (OperationKind::ReplaceXz, xz(new)),
        Operations { bz: true, .. } => (OperationKind::ReplaceBz, bzip2(new)),
        _ => (OperationKind::Replace, Vec::new()),
    };
    let is_smaller = kind != OperationKind::Replace && blob.len() < new.len();
    let (kind, blob) = if is_smaller { (kind, blob) } else { (OperationKind::Replace, new.to_vec()) };
    Encoded { kind, blob, source: Vec::new(), source_sha256: None }
}

/// One xz stream as phones take it: LZMA2 alone, CRC32.
fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut options = LzmaOptions::new_preset(XZ_PRESET).expect("the preset exists");
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    options.dict_size(len.checked_next_power_of_two().unwrap_or(XZ_DICTIONARY).clamp(4096, XZ_DICTIONARY));
    let mut filters = Filters::new();
    filters.lzma2(&options);
    let stream = Stream::new_stream_encoder(&filters, Check::Crc32).expect("a preset with another dictionary is valid");
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(bytes).expect("memory can be written");
    encoder.finish().expect("memory can be written")
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    encoder.write_all(bytes).expect("memory can be written");
    encoder.finish().expect("memory can be written")
}

/// A patch that is not compressed yet.
pub(super) struct Draft {
    kind: OperationKind,
    patch: Patch,
    puffs: Option<(Puffed, Puffed)>,
    clusters: Option<(Plain, Target)>,
    source: Vec<Extent>,
    source_sha256: Sha256,
    mostly_new: bool,
}

/// What is to be compressed.
enum Patch {
    /// It is: for source builds that know no brotli, nothing takes long.
    Legacy(Vec<u8>),
    Bsdiff(bsdiff::Trial),
    Zucchini(zucchini::Trial),
}

impl Patch {
    fn new(streams: Streams, allowed: &Operations) -> Self {
        if allowed.brotli {
            Self::Bsdiff(streams.try_out())
        } else {
            Self::Legacy(streams.write(Format::Bsdiff40, EFFORT))
        }
    }

    /// About how many bytes it will have.
    fn estimate(&self) -> usize {
        match self {
            Self::Legacy(patch) => patch.len(),
            Self::Bsdiff(trial) => trial.estimate(EFFORT),
            Self::Zucchini(trial) => trial.estimate(EFFORT),
        }
    }

    fn write(self) -> Vec<u8> {
        match self {
            Self::Legacy(patch) => patch,
            Self::Bsdiff(trial) => trial.write(EFFORT),
            Self::Zucchini(trial) => trial.write(EFFORT),
        }
    }
}

impl Draft {
    /// Whether little of it is like anything old, so that it may do as well without.
    pub(super) fn is_mostly_new(&self) -> bool {
        self.mostly_new
    }

    /// About how many bytes it will have.
    pub(super) fn estimate(&self) -> u64 {
        (self.patch.estimate() + OPERATION_COST + SOURCE_COST + EXTENT_COST * self.source.len()) as u64
    }

    /// Compresses it.
    pub(super) fn finish(self) -> Encoded {
        let mut blob = self.patch.write();
        if let Some((old, new)) = &self.puffs {
            blob = puffin::write(old, new, &blob);
        }
        if let Some((old, new)) = &self.clusters {
            let inner = if self.puffs.is_some() { Inner::Puffdiff(&blob) } else { Inner::Bsdiff(&blob) };
            blob = lz4diff::write(old, new, inner);
        }
        Encoded { kind: self.kind, blob, source: self.source, source_sha256: Some(self.source_sha256) }
    }
}

/// `new`, which `parts` make up, as a patch of bsdiff against `old`, the bytes of `source`.
pub(super) fn bsdiff(
    old: &[u8],
    source: &[Extent],
    parts: &[&[u8]],
    new: &[u8],
    allowed: &Operations,
) -> Option<Draft> {
    let mut matches = matches(old, parts);
    let alike: usize = matches.iter().map(|found| found.len).sum();
    if alike == 0 {
        return None;
    }
    let (old, source) = narrow(old, source, &mut matches);
    let mut kind = if allowed.brotli { OperationKind::BrotliBsdiff } else { OperationKind::SourceBsdiff };
    let mut patch = Patch::new(Streams::new(&old, new, &matches), allowed);
    if allowed.zucchini
        && alike >= SPARSE
        && let Some(ensemble) = zucchini::build_bytes(&old, new, &matches)
    {
        let other = Patch::Zucchini(zucchini::Trial::new(ensemble));
        if other.estimate() < patch.estimate() {
            (kind, patch) = (OperationKind::Zucchini, other);
        }
    }
    let (source_sha256, mostly_new) = (sha256(&old), alike < new.len() / 2);
    Some(Draft { kind, patch, puffs: None, clusters: None, source, source_sha256, mostly_new })
}

fn matches(old: &[u8], parts: &[&[u8]]) -> Vec<Match> {
    let search = if old.len() > LARGE { Search::LARGE } else { Search::THOROUGH };
    let matcher = Matcher::new(old, search);
    let mut matches = Vec::new();
    let mut start = 0;
    for part in parts {
        let found = matcher.matches(part, None).into_iter().filter(|found| found.len + found.extra > 0);
        let moved =
            found.map(|found| Match { old: found.old, new: start + found.new, len: found.len, extra: found.extra });
        matches.extend(moved);
        start += part.len();
    }
    matches
}

/// The bytes of `ranges` of a new file as a patch between inflated streams against an old file, the bytes of `source`.
///
/// None if both have no such streams that differ.
pub(super) fn puffdiff(
    old: &[u8],
    source: &[Extent],
    whole: &[u8],
    ranges: &[Range<u64>],
    allowed: &Operations,
) -> Option<Draft> {
    let parts = ranges.iter().map(|range| &whole[place(range.start)..place(range.end)]);
    let new = parts.collect::<Vec<_>>().concat();
    let (streams, puffs, mostly_new) = puffed(old, &new, whole, ranges)?;
    let (kind, source, source_sha256) = (OperationKind::Puffdiff, source.to_vec(), sha256(old));
    let patch = Patch::new(streams, allowed);
    Some(Draft { kind, patch, puffs: Some(puffs), clusters: None, source, source_sha256, mostly_new })
}

fn place(at: u64) -> usize {
    usize::try_from(at).expect("a place in memory")
}

/// Streams between both sides inflated; `new` are the `ranges` of `whole`.
fn puffed(old: &[u8], new: &[u8], whole: &[u8], ranges: &[Range<u64>]) -> Option<(Streams, (Puffed, Puffed), bool)> {
    let limits = locate::Limits::default();
    let mut new_deflates = locate::cut(&locate::deflates(whole, &limits), ranges.iter().cloned(), 0);
    if new_deflates.is_empty() {
        return None;
    }
    let mut old_deflates = locate::deflates(old, &limits);
    locate::drop_equal(old, &mut old_deflates, new, &mut new_deflates);
    if new_deflates.is_empty() || old_deflates.is_empty() {
        return None;
    }
    let mut old = puffin::puff(old, &old_deflates).ok()?;
    let mut new = puffin::puff(new, &new_deflates).ok()?;
    let matches = matches(&old.stream, &[&new.stream]);
    let alike: usize = matches.iter().map(|found| found.len).sum();
    let mostly_new = alike < new.stream.len() / 2;
    let streams = Streams::new(&old.stream, &new.stream, &matches);
    // Their bytes are not needed any more, and they are large.
    (old.stream, new.stream) = (Vec::new(), Vec::new());
    Some((streams, (old, new), mostly_new))
}

/// A whole program as a patch between programs, if it is smaller than `bound`.
pub(super) fn zucchini(old: &[u8], source: Vec<Extent>, new: &[u8], bound: u64) -> Option<Encoded> {
    let (old_form, new_form) = (zucchini::normal_form(old)?, zucchini::normal_form(new)?);
    let matches = matches(&old_form, &[&new_form]);
    drop((old_form, new_form));
    let ensemble = zucchini::build(old, new, &matches)?;
    let trial = zucchini::Trial::new(ensemble);
    if trial.estimate(EFFORT) as u64 >= bound {
        return None;
    }
    let blob = trial.write(EFFORT);
    let source_sha256 = Some(sha256(old));
    let encoded = Encoded { kind: OperationKind::Zucchini, blob, source, source_sha256 };
    ((encoded.cost() as u64) < bound).then_some(encoded)
}

/// New clusters of a file, decompressed.
pub(super) struct Decompressed {
    target: Target,
    /// All of the file, and which parts of it are in `target`.
    whole: Vec<u8>,
    ranges: Vec<Range<u64>>,
}

impl Decompressed {
    /// Takes the clusters at `fresh` ranges of a file's stored bytes apart; `new` are these bytes. None if LZ4 would not
    /// make the same of them again.
    pub(super) fn new(stored: &[u8], clusters: &[Cluster], fresh: &[Range<u64>], new: &[u8]) -> Option<Self> {
        let whole = lz4diff::plain(stored, clusters).ok()?.raw;
        let (mut at, mut raw_at) = (0, 0);
        let mut wanted = Vec::new();
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for cluster in clusters {
            let raw_len = raw_len(cluster);
            if fresh.iter().any(|range| range.contains(&at)) {
                wanted.push(*cluster);
                match ranges.last_mut() {
                    Some(last) if last.end == raw_at => last.end += raw_len,
                    _ => ranges.push(raw_at..raw_at + raw_len),
                }
            }
            at += cluster.stored_len;
            raw_at += raw_len;
        }
        let target = Target::new(new, &wanted, None).ok()?;
        let is_whole = raw_at == whole.len() as u64;
        let raw_len: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        (is_whole && raw_len == target.plain.raw.len() as u64).then_some(Self { target, whole, ranges })
    }

    /// The decompressed bytes.
    pub(super) fn raw(&self) -> &[u8] {
        &self.target.plain.raw
    }

    /// The patch against old clusters; `stored` are their bytes.
    pub(super) fn against(self, stored: &[u8], clusters: Vec<Cluster>, allowed: &Operations) -> Option<Draft> {
        let old = lz4diff::plain(stored, &clusters).ok()?;
        let extents = |clusters: &[Cluster]| join(clusters.iter().filter_map(cluster_blocks));
        let inflated = if allowed.puffdiff { puffed(&old.raw, self.raw(), &self.whole, &self.ranges) } else { None };
        if let Some((streams, puffs, mostly_new)) = inflated {
            let (kind, source, source_sha256) = (OperationKind::Lz4diffPuffdiff, extents(&clusters), sha256(stored));
            let clusters = Some((old, self.target));
            let puffs = Some(puffs);
            let patch = Patch::new(streams, allowed);
            return Some(Draft { kind, patch, puffs, clusters, source, source_sha256, mostly_new });
        }
        let mut matches = matches(&old.raw, &[self.raw()]);
        let alike: usize = matches.iter().map(|found| found.len).sum();
        if alike < self.raw().len() / 8 {
            return None;
        }
        let mut kept = (old, clusters, stored.to_vec());
        // A cluster that nothing is made from takes room in the header and time on the phone.
        if let Some(fewer) = used_clusters(&kept, &mut matches) {
            kept = fewer;
        }
        let (old, clusters, stored) = kept;
        let streams = Streams::new(&old.raw, self.raw(), &matches);
        let (kind, source, source_sha256) = (OperationKind::Lz4diffBsdiff, extents(&clusters), sha256(&stored));
        let mostly_new = alike < self.raw().len() / 2;
        let clusters = Some((old, self.target));
        let patch = Patch::new(streams, allowed);
        Some(Draft { kind, patch, puffs: None, clusters, source, source_sha256, mostly_new })
    }
}

/// Bytes that a cluster becomes.
fn raw_len(cluster: &Cluster) -> u64 {
    let raw = cluster.skip.saturating_add(cluster.len);
    let is_coded = matches!(cluster.coding, Coding::Lz4 | Coding::Lz4Unpadded);
    if is_coded && raw > cluster.stored_len { raw } else { cluster.stored_len }
}

/// The old clusters that matches use, with the matches moved along; none if it cannot be said which.
fn used_clusters(
    (old, clusters, stored): &(Plain, Vec<Cluster>, Vec<u8>),
    matches: &mut [Match],
) -> Option<(Plain, Vec<Cluster>, Vec<u8>)> {
    let mut starts = vec![0];
    for cluster in clusters {
        starts.push(starts[starts.len() - 1] + usize::try_from(raw_len(cluster)).ok()?);
    }
    if starts.last() != Some(&old.raw.len()) {
        return None;
    }
    let mut is_used = vec![false; clusters.len()];
    for found in matches.iter().filter(|found| found.len > 0) {
        let first = starts.partition_point(|&start| start <= found.old) - 1;
        let end = starts.partition_point(|&start| start < found.old + found.len);
        is_used[first..end].fill(true);
    }
    let (mut kept, mut bytes, mut moved) = (Vec::new(), Vec::new(), vec![0; clusters.len()]);
    let (mut at, mut raw_at) = (0, 0);
    for (index, cluster) in clusters.iter().enumerate() {
        let len = usize::try_from(cluster.stored_len).ok()?;
        if is_used[index] {
            kept.push(*cluster);
            bytes.extend_from_slice(&stored[at..at + len]);
            moved[index] = raw_at;
            raw_at += starts[index + 1] - starts[index];
        }
        at += len;
    }
    let plain = lz4diff::plain(&bytes, &kept).ok().filter(|plain| plain.raw.len() == raw_at)?;
    for found in matches.iter_mut().filter(|found| found.len > 0) {
        let index = starts.partition_point(|&start| start <= found.old) - 1;
        found.old = found.old - starts[index] + moved[index];
    }
    Some((plain, kept, bytes))
}

/// Leaves out what no match uses of the old bytes, and moves the matches along.
fn narrow(old: &[u8], source: &[Extent], matches: &mut [Match]) -> (Vec<u8>, Vec<Extent>) {
    let mut used: Vec<_> =
        matches.iter().filter(|found| found.len > 0).map(|found| found.old..found.old + found.len).collect();
    used.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<std::ops::Range<usize>> = Vec::new();
    for range in used {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    let kept = trim(source, &joined);
    // For each kept extent: where it was among the old bytes, and where it is now.
    let mut moved = Vec::with_capacity(kept.len());
    let mut bytes = Vec::new();
    let (mut before, mut index) = (0_u64, 0);
    for extent in &kept {
        while source[index].end() <= extent.start {
            before += source[index].len();
            index += 1;
        }
        let from = usize::try_from(before + (extent.start - source[index].start) * BLOCK.get());
        let from = from.expect("a place in memory");
        let len = usize::try_from(extent.len()).expect("a length in memory");
        moved.push((from, bytes.len()));
        bytes.extend_from_slice(&old[from..from + len]);
    }
    for found in matches.iter_mut().filter(|found| found.len > 0) {
        let (from, to) = moved[moved.partition_point(|&(from, _)| from <= found.old) - 1];
        found.old = found.old - from + to;
    }
    (bytes, kept)
}
