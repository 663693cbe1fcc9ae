//! `LZ4DIFF`: a patch between files whose LZ4 blocks were decompressed, as EROFS has them.
//!
//! # Layout
//! `"LZ4DIFF"`, version (4 bytes, big-endian), length of the header (4 bytes, big-endian), one byte that is not used, the
//! header (a protobuf message), a [`bsdiff`] or [`puffin`] patch. The header lists the blocks of the old and of the new
//! file with their lengths, raw and stored, and how they are compressed. A block that is stored as long as it is raw is
//! not compressed. A new block may come with a hash of what LZ4 should make of it and with a bsdiff patch from there.
//!
//! LZ4 has no canonical form, so this works with the liblz4 that the patch was made for, and with others as far as they
//! agree; where they do not, the hash of the block or of the target says so.
//!
//! # Writing
//! [`plain`] decodes the old clusters of a file, [`Target::new`] the new ones; a patch between their raw bytes, of either
//! kind, makes [`write()`] a patch between their stored bytes. What is assumed of the phone: its liblz4 makes of each
//! new block what ours (1.10) makes. For LZ4HC, 1.9 and 1.10 were found to agree; AOSP is content to try with a copy of
//! the phone's library. A phone where they differ notices when it compares the partition's hash, and has then to be
//! given a package without these operations. Hashes are written only for blocks with a patch of their own: phones do
//! not look at others, and they would be most of the header.
//!
//! # Source
//! AOSP `update_engine`, `lz4diff/lz4diff.proto`, `lz4patch.cc`, `lz4diff_compress.cc` and `lz4diff_format.h`.

use std::io::Write;

use lzzzz::{lz4, lz4_hc};
use prost::Message;
use relevo_types::ByteLen;
use sha2::{Digest, Sha256};

use super::{
    Limits, PatchError, bsdiff,
    bsdiff::{Format, Match},
    puffin,
};
use crate::{
    ReadAt,
    fs::{Cluster, Coding},
};

const MAGIC: &[u8; 7] = b"LZ4DIFF";
const VERSION: u32 = 1;
/// Where the header starts: eight bytes were meant for the magic, but the integers follow its seventh.
const HEADER_START: usize = 16;
/// How much of the memory that is allowed a header's bytes may be; in memory they take up to 40 times as much.
const HEADER_SHARE: u64 = 32;
/// Most zeros that are skipped before a block; the block size of EROFS.
const MAX_PADDING: usize = 4096;

#[derive(Clone, PartialEq, Message)]
struct Algorithm {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(int32, tag = "2")]
    level: i32,
}

#[derive(Clone, PartialEq, Message)]
struct BlockInfo {
    #[prost(uint64, tag = "1")]
    uncompressed_offset: u64,
    #[prost(uint64, tag = "2")]
    uncompressed_length: u64,
    #[prost(uint64, tag = "3")]
    compressed_length: u64,
    #[prost(bytes = "vec", tag = "4")]
    sha256_hash: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    postfix_bspatch: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct CompressionInfo {
    #[prost(message, optional, tag = "1")]
    algo: Option<Algorithm>,
    #[prost(message, repeated, tag = "2")]
    block_info: Vec<BlockInfo>,
    #[prost(bool, tag = "3")]
    zero_padding_enabled: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(message, optional, tag = "1")]
    src_info: Option<CompressionInfo>,
    #[prost(message, optional, tag = "2")]
    dst_info: Option<CompressionInfo>,
    #[prost(int32, tag = "3")]
    inner_type: i32,
}

/// Makes the target of `patch` out of `old` and writes it to `out`.
///
/// The old and the new file are in memory decompressed, each up to [`Limits::memory`].
///
/// # Errors
/// [`PatchError`]; `out` has then got a part of the target.
pub fn apply(old: &dyn ReadAt, patch: &[u8], out: &mut dyn Write, limits: &Limits) -> Result<(), PatchError> {
    let (header, inner) = parse(patch, limits)?;
    let (source, target) = (header.src_info.unwrap_or_default(), header.dst_info.unwrap_or_default());
    let (old_len, old_raw_len) = lengths(&source, limits)?;
    let (new_len, new_raw_len) = lengths(&target, limits)?;
    if old_len != old.len() {
        return Err(PatchError::Extents { reason: "the old file has another length" });
    }
    if new_len > limits.output {
        return Err(PatchError::Output { len: new_len, limit: limits.output });
    }
    let old_raw = decompress(old, &source, old_raw_len)?;
    let mut new_raw = Vec::new();
    let inner_limits = Limits { output: new_raw_len, ..limits.clone() };
    match header.inner_type {
        0 => bsdiff::apply(&old_raw, inner, &mut new_raw, &inner_limits)?,
        1 => puffin::apply(&old_raw, inner, &mut new_raw, &inner_limits)?,
        kind => return Err(PatchError::Inner(kind)),
    }
    drop(old_raw);
    if new_raw.len() as u64 != new_raw_len.get() {
        return Err(PatchError::Extents { reason: "the inner patch makes another length" });
    }
    compress(&new_raw, &target, out, limits)
}

fn parse<'a>(patch: &'a [u8], limits: &Limits) -> Result<(Header, &'a [u8]), PatchError> {
    if !patch.starts_with(MAGIC) {
        return Err(PatchError::Magic { format: "lz4diff" });
    }
    let short = |expected: u64| PatchError::Truncated { expected, actual: patch.len() as u64 };
    let (start, rest) = patch.split_at_checked(HEADER_START).ok_or_else(|| short(HEADER_START as u64))?;
    let integer = |at: usize| u32::from_be_bytes(*start[at..].first_chunk().expect("16 bytes"));
    let (version, len) = (integer(MAGIC.len()), integer(MAGIC.len() + 4));
    if version != VERSION {
        return Err(PatchError::Version(i32::try_from(version).unwrap_or(i32::MAX)));
    }
    let header = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len));
    let (header, rest) = header.ok_or_else(|| short(HEADER_START as u64 + u64::from(len)))?;
    let needed = ByteLen::new(HEADER_SHARE * u64::from(len));
    if needed > limits.memory {
        return Err(PatchError::Memory { needed, limit: limits.memory });
    }
    Ok((Header::decode(header).map_err(PatchError::Header)?, rest))
}

/// The length of a file, stored and raw, if its blocks follow each other and can be in memory.
fn lengths(info: &CompressionInfo, limits: &Limits) -> Result<(ByteLen, ByteLen), PatchError> {
    let (mut stored, mut raw) = (0_u64, 0_u64);
    for block in &info.block_info {
        if block.uncompressed_offset != raw || block.compressed_length == 0 {
            return Err(PatchError::Extents { reason: "blocks are out of order" });
        }
        if !is_compressed(block) && block.compressed_length != block.uncompressed_length {
            return Err(PatchError::Extents { reason: "a block is longer than its raw bytes" });
        }
        raw = raw.saturating_add(block.uncompressed_length);
        stored = stored.saturating_add(block.compressed_length);
    }
    let needed = ByteLen::new(raw);
    // LZ4 counts in 31 bits.
    let limit = limits.memory.min(ByteLen::new(1 << 30));
    if needed > limit {
        return Err(PatchError::Memory { needed, limit });
    }
    Ok((ByteLen::new(stored), needed))
}

fn is_compressed(block: &BlockInfo) -> bool {
    block.compressed_length < block.uncompressed_length
}

/// A length that was summed up to one that fits into memory.
fn len(length: u64) -> usize {
    usize::try_from(length).expect("blocks are checked to fit into memory")
}

fn decompress(old: &dyn ReadAt, info: &CompressionInfo, raw_len: ByteLen) -> Result<Vec<u8>, PatchError> {
    let mut raw = Vec::new();
    let mut at = 0;
    for (index, block) in info.block_info.iter().enumerate() {
        let mut stored = vec![0; len(block.compressed_length)];
        old.read_exact_at(&mut stored, at).map_err(PatchError::Read)?;
        at += block.compressed_length;
        if !is_compressed(block) {
            raw.append(&mut stored);
            continue;
        }
        let padding = padding(&stored, info.zero_padding_enabled);
        let (start, expected) = (raw.len(), len(block.uncompressed_length));
        raw.resize(start + expected, 0);
        let made = lz4::decompress_partial(&stored[padding..], &mut raw[start..], expected);
        if made.map_err(|source| PatchError::Lz4 { index, source: Some(source) })? != expected {
            return Err(PatchError::Lz4 { index, source: None });
        }
    }
    debug_assert_eq!(raw.len() as u64, raw_len.get());
    Ok(raw)
}

/// How the blocks of an image were compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// LZ4, the fast one.
    Lz4,
    /// LZ4HC of a level from 3 to 12.
    Lz4Hc(i32),
}

impl Compression {
    /// All that an image is tried with, the likely ones first: 9 is what `mkfs.erofs` takes for LZ4HC if not told
    /// otherwise, 12 the best.
    const ALL: [Self; 11] = [
        Self::Lz4Hc(9),
        Self::Lz4,
        Self::Lz4Hc(12),
        Self::Lz4Hc(11),
        Self::Lz4Hc(10),
        Self::Lz4Hc(8),
        Self::Lz4Hc(7),
        Self::Lz4Hc(6),
        Self::Lz4Hc(5),
        Self::Lz4Hc(4),
        Self::Lz4Hc(3),
    ];

    fn message(self) -> Algorithm {
        match self {
            Self::Lz4 => Algorithm { kind: 1, level: 0 },
            Self::Lz4Hc(level) => Algorithm { kind: 2, level },
        }
    }
}

/// The clusters of a file, or of a part of one, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain {
    /// The raw bytes, one block after the other: what a matcher compares, and what the inner patch is between.
    /// [`write()`] does not need them any more.
    pub raw: Vec<u8>,
    blocks: Vec<Block>,
    is_padded: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    raw: usize,
    stored: usize,
}

impl Block {
    fn is_compressed(self) -> bool {
        self.stored < self.raw
    }
}

/// Decodes the clusters of the old side.
///
/// `stored` are the bytes of `clusters`, one after the other: all that the operation reads, in this order. What comes
/// after the last cluster, and what cannot be decoded or would not grow, stays as it is.
///
/// # Errors
/// [`PatchError::Extents`] if `stored` is shorter than the clusters, or a side has nothing or over 1 GiB.
pub fn plain(stored: &[u8], clusters: &[Cluster]) -> Result<Plain, PatchError> {
    decode(stored, clusters, false)
}

/// Most raw bytes of a side; LZ4 counts in 31 bits.
const MAX_RAW: usize = 1 << 30;

/// Decodes clusters; if `whole`, only those that a file has all of.
fn decode(stored: &[u8], clusters: &[Cluster], whole: bool) -> Result<Plain, PatchError> {
    let bad = |reason| PatchError::Extents { reason };
    if stored.is_empty() {
        return Err(bad("a side has no blocks"));
    }
    let (mut raw, mut blocks, mut rest) = (Vec::<u8>::new(), Vec::<Block>::new(), stored);
    let is_padded = clusters.iter().any(|cluster| cluster.coding == Coding::Lz4);
    let keep = |raw: &mut Vec<u8>, blocks: &mut Vec<Block>, bytes: &[u8]| {
        raw.extend_from_slice(bytes);
        match blocks.last_mut().filter(|last| !last.is_compressed()) {
            Some(last) => *last = Block { raw: last.raw + bytes.len(), stored: last.stored + bytes.len() },
            None => blocks.push(Block { raw: bytes.len(), stored: bytes.len() }),
        }
    };
    for cluster in clusters {
        let len = usize::try_from(cluster.stored_len).ok().filter(|&len| len > 0);
        let bytes;
        (bytes, rest) = len
            .and_then(|len| rest.split_at_checked(len))
            .ok_or_else(|| bad("clusters are longer than their bytes"))?;
        // Of a cluster that is shared, the beginning is enough to read from, but not to compress again.
        let raw_len = usize::try_from(cluster.skip.saturating_add(cluster.len)).unwrap_or(usize::MAX);
        let is_coded = match cluster.coding {
            Coding::Plain | Coding::Interlaced(_) => false,
            Coding::Lz4 => true,
            Coding::Lz4Unpadded => !is_padded,
        };
        if raw.len().saturating_add(raw_len.max(bytes.len())) > MAX_RAW {
            return Err(bad("a side is over 1 GiB"));
        }
        let start = raw.len();
        if is_coded && raw_len > bytes.len() && !(whole && cluster.partial) {
            raw.resize(start + raw_len, 0);
            let block = &bytes[padding(bytes, is_padded)..];
            if lz4::decompress_partial(block, &mut raw[start..], raw_len).is_ok_and(|made| made == raw_len) {
                blocks.push(Block { raw: raw_len, stored: bytes.len() });
                continue;
            }
            raw.truncate(start);
        }
        keep(&mut raw, &mut blocks, bytes);
    }
    if !rest.is_empty() {
        keep(&mut raw, &mut blocks, rest);
    }
    Ok(Plain { raw, blocks, is_padded })
}

/// How many zeros stand before a block.
fn padding(stored: &[u8], is_padded: bool) -> usize {
    if is_padded { stored.iter().take(MAX_PADDING).take_while(|&&byte| byte == 0).count() } else { 0 }
}

/// The new side: its clusters decoded, and what it takes to get exactly them from LZ4 again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The clusters, decoded.
    pub plain: Plain,
    compression: Compression,
    /// For each block, what LZ4 makes of it (a hash), and the patch from there, if that is something else.
    fixes: Vec<Option<Fix>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Fix {
    sha256: Vec<u8>,
    patch: Vec<u8>,
}

/// Blocks that a compression is tried on.
const TRIALS: usize = 6;

impl Target {
    /// Decodes the clusters of the new side and compresses them again.
    ///
    /// `stored` are the bytes of `clusters`, one after the other: all that the operation writes, in this order. Without
    /// a `compression`, what the first blocks fit to is found by trial; take [`Self::compression`] for the next file of
    /// the image.
    ///
    /// # Errors
    /// - [`PatchError::Extents`] as [`plain`].
    /// - [`PatchError::Recompressed`] if LZ4 makes so much else of the blocks that a patch would not pay.
    pub fn new(stored: &[u8], clusters: &[Cluster], compression: Option<Compression>) -> Result<Self, PatchError> {
        let plain = decode(stored, clusters, true)?;
        let compression = compression.unwrap_or_else(|| detect(stored, &plain));
        let mut fixes = Vec::with_capacity(plain.blocks.len());
        let (mut raw, mut rest, mut fix_len) = (&plain.raw[..], stored, 0);
        for (index, block) in plain.blocks.iter().enumerate() {
            let expected;
            (expected, rest) = rest.split_at(block.stored);
            let made = if block.is_compressed() {
                compress_block(raw, block.stored, &compression.message(), plain.is_padded, index)?
            } else {
                expected.to_vec()
            };
            raw = &raw[block.raw..];
            fixes.push((made != expected).then(|| {
                let patch = fix(&made, expected);
                fix_len += patch.len() + 40;
                Fix { sha256: Sha256::digest(&made).to_vec(), patch }
            }));
            if fix_len > stored.len() / 4 + MAX_PADDING {
                return Err(PatchError::Recompressed { index });
            }
        }
        Ok(Self { plain, compression, fixes })
    }

    /// How its blocks are compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// How many blocks come out of LZ4 as they are, and how many need a patch of their own.
    pub fn counts(&self) -> (usize, usize) {
        let fixed = self.fixes.iter().flatten().count();
        let compressed = self.plain.blocks.iter().filter(|block| block.is_compressed()).count();
        (compressed - fixed, fixed)
    }
}

/// The compression that makes most of the first blocks as they are stored.
fn detect(stored: &[u8], plain: &Plain) -> Compression {
    let hits = |compression: &Compression| {
        let (mut raw, mut rest, mut hits, mut trials) = (&plain.raw[..], stored, 0, 0);
        for (index, block) in plain.blocks.iter().enumerate() {
            if trials == TRIALS {
                break;
            }
            if block.is_compressed() {
                trials += 1;
                let made = compress_block(raw, block.stored, &compression.message(), plain.is_padded, index);
                hits += usize::from(made.is_ok_and(|made| made == rest[..block.stored]));
            }
            (raw, rest) = (&raw[block.raw..], &rest[block.stored..]);
        }
        (hits, trials)
    };
    let mut best = (0, Compression::ALL[0]);
    for compression in Compression::ALL {
        let (found, trials) = hits(&compression);
        if found == trials {
            return compression;
        }
        if found > best.0 {
            best = (found, compression);
        }
    }
    best.1
}

/// The patch from what LZ4 made of a block to what is stored: they part somewhere and may meet again.
fn fix(made: &[u8], stored: &[u8]) -> Vec<u8> {
    let same = |pairs: &mut dyn Iterator<Item = (&u8, &u8)>| pairs.take_while(|(made, stored)| made == stored).count();
    let head = same(&mut made.iter().zip(stored));
    let tail = same(&mut made[head..].iter().rev().zip(stored[head..].iter().rev()));
    let (at, end) = (stored.len() - tail, made.len() - tail);
    let matches =
        [Match { old: 0, new: 0, len: head, extra: at - head }, Match { old: end, new: at, len: tail, extra: 0 }];
    bsdiff::write(made, stored, &matches, Format::Smallest)
}

/// The patch between the raw bytes of two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inner<'a> {
    /// A [`bsdiff`] patch; the operation is `LZ4DIFF_BSDIFF`.
    Bsdiff(&'a [u8]),
    /// A [`puffin`] patch; the operation is `LZ4DIFF_PUFFDIFF`.
    Puffdiff(&'a [u8]),
}

/// Writes the patch between the stored bytes of two sides.
pub fn write(old: &Plain, new: &Target, inner: Inner<'_>) -> Vec<u8> {
    let (inner_type, inner) = match inner {
        Inner::Bsdiff(patch) => (0, patch),
        Inner::Puffdiff(patch) => (1, patch),
    };
    let header = Header { src_info: Some(info(old, &[])), dst_info: None, inner_type };
    let mut target = info(&new.plain, &new.fixes);
    target.algo = Some(new.compression.message());
    let header = Header { dst_info: Some(target), ..header }.encode_to_vec();
    let len = u32::try_from(header.len()).expect("a header has some bytes for each block of a side");
    [&MAGIC[..], &VERSION.to_be_bytes(), &len.to_be_bytes(), &[0], &header, inner].concat()
}

fn info(plain: &Plain, fixes: &[Option<Fix>]) -> CompressionInfo {
    let mut at = 0;
    let blocks = plain.blocks.iter().enumerate().map(|(index, block)| {
        let fix = fixes.get(index).and_then(Option::as_ref);
        let info = BlockInfo {
            uncompressed_offset: at,
            uncompressed_length: block.raw as u64,
            compressed_length: block.stored as u64,
            sha256_hash: fix.map(|fix| fix.sha256.clone()).unwrap_or_default(),
            postfix_bspatch: fix.map(|fix| fix.patch.clone()).unwrap_or_default(),
        };
        at += block.raw as u64;
        info
    });
    CompressionInfo { algo: None, block_info: blocks.collect(), zero_padding_enabled: plain.is_padded }
}

/// Compresses as much of `raw` as fits into `stored` bytes, padded.
///
/// The compressor gets all that follows the block, not only the block: so it stops where the block is full, and does not
/// end it as if it were the last.
fn compress_block(
    raw: &[u8],
    stored: usize,
    algorithm: &Algorithm,
    is_padded: bool,
    index: usize,
) -> Result<Vec<u8>, PatchError> {
    let mut block = vec![0; stored];
    let made = match algorithm.kind {
        1 => lz4::compress_fill(raw, &mut block),
        2 => lz4_hc::compress_fill(raw, &mut block, algorithm.level),
        kind => return Err(PatchError::Algorithm(kind)),
    };
    let (_, made) = made.map_err(|source| PatchError::Lz4 { index, source: Some(source) })?;
    // What the compressor left behind its end is no part of the block.
    block[made..].fill(0);
    if is_padded {
        block.rotate_right(stored - made);
    }
    Ok(block)
}

fn compress(raw: &[u8], info: &CompressionInfo, out: &mut dyn Write, limits: &Limits) -> Result<(), PatchError> {
    let algorithm = info.algo.clone().unwrap_or_default();
    for (index, block) in info.block_info.iter().enumerate() {
        let rest = &raw[len(block.uncompressed_offset)..];
        let mut stored = if is_compressed(block) {
            compress_block(rest, len(block.compressed_length), &algorithm, info.zero_padding_enabled, index)?
        } else {
            rest[..len(block.uncompressed_length)].to_vec()
        };
        if !block.sha256_hash.is_empty() && Sha256::digest(&stored)[..] != block.sha256_hash[..] {
            return Err(PatchError::Recompressed { index });
        }
        if !block.postfix_bspatch.is_empty() {
            let mut fixed = Vec::new();
            let output = ByteLen::new(block.compressed_length);
            bsdiff::apply(&stored, &block.postfix_bspatch, &mut fixed, &Limits { output, ..limits.clone() })?;
            if fixed.len() != stored.len() {
                return Err(PatchError::Extents { reason: "a block's own patch makes another length" });
            }
            stored = fixed;
        }
        out.write_all(&stored).map_err(PatchError::Write)?;
    }
    Ok(())
}
