//! Encodings of a piece's bytes, and which of them is the smallest.

use std::io::Write as _;

use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
use relevo_format::{
    patch::bsdiff::{self, Format, Match},
    payload::{Extent, Operation, OperationKind},
};
use relevo_types::{BLOCK, Sha256};

use super::{
    Operations,
    piece::{data, sha256, trim},
};
use crate::matcher::Matcher;

/// Bytes that an operation takes in a manifest besides its extents: kind, data and digests.
const OPERATION_COST: usize = 50;
/// Bytes that an operation takes more if it reads the old image: a digest.
const SOURCE_COST: usize = 34;
/// Bytes of an extent in a manifest.
const EXTENT_COST: usize = 8;
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
    /// Whether little of it is like anything old, so that it may do as well without.
    pub mostly_new: bool,
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

/// The smallest of what needs no base, if it costs less than `bound`.
pub(super) fn replace(new: &[u8], allowed: &Operations, bound: Option<usize>) -> Option<Encoded> {
    let encoded = |kind, blob| Encoded { kind, blob, source: Vec::new(), source_sha256: None, mostly_new: true };
    let mut best: Option<Encoded> = None;
    let mut take = |candidate: Encoded| {
        let cost = best.as_ref().map(Encoded::cost).or(bound);
        if cost.is_none_or(|cost| candidate.cost() < cost) {
            best = Some(candidate);
        }
    };
    if allowed.xz {
        take(encoded(OperationKind::ReplaceXz, xz(new)));
    } else if allowed.bz {
        take(encoded(OperationKind::ReplaceBz, bzip2(new)));
    }
    if bound.is_none_or(|bound| new.len() < bound) {
        take(encoded(OperationKind::Replace, new.to_vec()));
    }
    best
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

/// `new`, which `parts` make up, as a patch of bsdiff against `old`, the bytes of `source`.
pub(super) fn bsdiff(
    old: &[u8],
    source: &[Extent],
    parts: &[&[u8]],
    new: &[u8],
    allowed: &Operations,
) -> Option<Encoded> {
    let matcher = Matcher::new(old);
    let mut matches = Vec::new();
    let mut start = 0;
    for part in parts {
        let found = matcher.matches(part, None);
        let found = found.into_iter().filter(|found| found.len + found.extra > 0);
        matches.extend(found.map(|found| Match {
            old: found.old,
            new: start + found.new,
            len: found.len,
            extra: found.extra,
        }));
        start += part.len();
    }
    drop(matcher);
    let alike: usize = matches.iter().map(|found| found.len).sum();
    if alike == 0 {
        return None;
    }
    let (old, source) = narrow(old, source, &mut matches);
    let format = if allowed.brotli { Format::Smallest } else { Format::Bsdiff40 };
    let kind = if allowed.brotli { OperationKind::BrotliBsdiff } else { OperationKind::SourceBsdiff };
    let blob = bsdiff::write(&old, new, &matches, format);
    let source_sha256 = Some(sha256(&old));
    Some(Encoded { kind, blob, source, source_sha256, mostly_new: alike < new.len() / 2 })
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
