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
//! # Source
//! AOSP `update_engine`, `lz4diff/lz4diff.proto`, `lz4patch.cc`, `lz4diff_compress.cc` and `lz4diff_format.h`.

use std::io::Write;

use lzzzz::{lz4, lz4_hc};
use prost::Message;
use relevo_types::ByteLen;
use sha2::{Digest, Sha256};

use super::{Limits, PatchError, bsdiff, puffin};
use crate::ReadAt;

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
        let zeros = || stored.iter().take(MAX_PADDING).take_while(|&&byte| byte == 0).count();
        let padding = if info.zero_padding_enabled { zeros() } else { 0 };
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

fn compress(raw: &[u8], info: &CompressionInfo, out: &mut dyn Write, limits: &Limits) -> Result<(), PatchError> {
    let algorithm = info.algo.clone().unwrap_or_default();
    for (index, block) in info.block_info.iter().enumerate() {
        // The compressor gets all that follows, not only the block: so it stops where the block is full, and does not
        // end it as if it were the last.
        let rest = &raw[len(block.uncompressed_offset)..];
        let mut stored = if is_compressed(block) {
            let mut stored = vec![0; len(block.compressed_length)];
            let made = match algorithm.kind {
                1 => lz4::compress_fill(rest, &mut stored),
                2 => lz4_hc::compress_fill(rest, &mut stored, algorithm.level),
                kind => return Err(PatchError::Algorithm(kind)),
            };
            let (_, made) = made.map_err(|source| PatchError::Lz4 { index, source: Some(source) })?;
            // What the compressor left behind its end is no part of the block.
            stored[made..].fill(0);
            if info.zero_padding_enabled {
                let padding = stored.len() - made;
                stored.rotate_right(padding);
            }
            stored
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
