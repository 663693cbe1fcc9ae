//! Where the deflate streams of a file are.
//!
//! What is found is a block each, for [`puffin`](super::puffin) to take apart: entries of zip archives (APK, JAR, APEX;
//! also archives stored in others, and with sizes after the data) and members of gzip files wherever they begin (a boot
//! image has its kernel somewhere in the middle). Only blocks that become the same bits again after they were taken
//! apart count; a block that is stored is left out, since its bytes are there anyway.
//!
//! A stream that only looks like one does no harm: its blocks can be taken apart and put together like others.
//!
//! # Source
//! APPNOTE 6.3.10; RFC 1952; AOSP `external/puffin`, `utils.cc` and `puffer.cc`.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
};

use super::deflate::{Block, follow};

/// A block of a deflate stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deflate {
    /// First bit, counted from the start of the file, from the lowest bit of each byte on.
    pub bit: u64,
    /// Bits.
    pub bits: u64,
    /// Bytes of the puff that it becomes.
    pub puff_len: u64,
    /// How many bits after its last one have to be there for AOSP's puffers; of those before 2019, which phones with
    /// Android 9 have, if it is the last block of a run (<https://crbug.com/915559>).
    pub beyond: u8,
}

impl Deflate {
    /// The bytes that it has bits in.
    pub fn bytes(&self) -> Range<u64> {
        self.bit / 8..(self.bit + self.bits).div_ceil(8)
    }

    /// The bit after its last one.
    pub fn end(&self) -> u64 {
        self.bit + self.bits
    }

    /// Whether every puffer can read it without the bits of another one behind it.
    pub(super) fn can_be_last(&self) -> bool {
        u64::from(self.beyond) <= self.end().next_multiple_of(8) - self.end()
    }
}

/// What is looked for at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Blocks. A stream that has more than are left is left out.
    pub deflates: usize,
    /// Bytes of one puff. A block that makes more is left out: phones have puffs in memory as a whole.
    pub puff_len: u64,
    /// How many times the bytes of the file may be followed, in streams that turn out to be none.
    pub passes: usize,
}

impl Default for Limits {
    /// A million blocks, 4 MiB (below the 5 MiB that update_engine keeps of old puffs), two passes.
    fn default() -> Self {
        Self { deflates: 1 << 20, puff_len: 4 << 20, passes: 2 }
    }
}

/// Finds the blocks of deflate streams in `bytes`, in order.
pub fn deflates(bytes: &[u8], limits: &Limits) -> Vec<Deflate> {
    let mut found = Vec::new();
    let mut wasted = bytes.len().saturating_mul(limits.passes);
    let mut at = 0;
    while let Some(start) = next(bytes, at) {
        at = start.at + 1;
        let known = found.len();
        let end = match follow(bytes, start.data, limits, &mut found) {
            Ok(stream) if start.agrees(bytes, stream.end, stream.raw_len) => {
                at = stream.end;
                continue;
            }
            Ok(stream) => stream.end,
            Err((end, _)) => end,
        };
        found.truncate(known);
        // A stream that goes wrong late, and begins everywhere, would take forever.
        wasted = wasted.saturating_sub(end.saturating_sub(start.data));
        if wasted == 0 {
            break;
        }
    }
    found.iter().map(|&Block { bit, bits, puff_len, beyond }| Deflate { bit, bits, puff_len, beyond }).collect()
}

/// Where a deflate stream seems to begin.
struct Start {
    /// Its header.
    at: usize,
    data: usize,
    size: Size,
}

/// What is known of the length of a stream.
enum Size {
    /// Nothing.
    Unknown,
    /// Compressed bytes.
    Compressed(usize),
    /// The inflated length comes four bytes after the end of the stream.
    Trailer,
}

impl Start {
    /// Whether a stream that ends there and inflates to so much is what the header told of.
    fn agrees(&self, bytes: &[u8], end: usize, raw_len: u64) -> bool {
        match self.size {
            Size::Unknown => true,
            Size::Compressed(len) => end - self.data == len,
            Size::Trailer => {
                let trailer = bytes.get(end + 4..).and_then(<[u8]>::first_chunk);
                trailer.is_some_and(|&len| u64::from(u32::from_le_bytes(len)) == raw_len & u64::from(u32::MAX))
            }
        }
    }
}

/// The next header at `at` or after it.
fn next(bytes: &[u8], at: usize) -> Option<Start> {
    let mut rest = at;
    loop {
        rest += bytes.get(rest..)?.iter().position(|&byte| byte == b'P' || byte == GZIP[0])?;
        if let Some((data, size)) = zip_entry(&bytes[rest..]).or_else(|| gzip_member(&bytes[rest..])) {
            return Some(Start { at: rest, data: rest + data, size });
        }
        rest += 1;
    }
}

/// Where the data of a zip entry begins, if its local header is there and it is deflated.
fn zip_entry(bytes: &[u8]) -> Option<(usize, Size)> {
    const HEADER_LEN: usize = 30;
    const ENCRYPTED: u16 = 1;
    const SIZES_LATER: u16 = 8;
    let header: &[u8; HEADER_LEN] = bytes.strip_prefix(b"PK\x03\x04").and_then(|_| bytes.first_chunk())?;
    let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let (flags, method) = (u16_at(6), u16_at(8));
    if method != 8 || flags & ENCRYPTED != 0 {
        return None;
    }
    let len = u32::from(u16_at(18)) | u32::from(u16_at(20)) << 16;
    // 2^32 - 1 stands for a length in a zip64 field.
    let size = match usize::try_from(len) {
        Ok(len) if flags & SIZES_LATER == 0 && !matches!(len, 0 | 0xffff_ffff) => Size::Compressed(len),
        _ => Size::Unknown,
    };
    let data = HEADER_LEN + usize::from(u16_at(26)) + usize::from(u16_at(28));
    (data < bytes.len()).then_some((data, size))
}

const GZIP: [u8; 3] = [0x1f, 0x8b, 8];

/// Where the data of a gzip member begins, if its header is there.
fn gzip_member(bytes: &[u8]) -> Option<(usize, Size)> {
    const HEADER_LEN: usize = 10;
    // Names and comments are not longer in anything that a build makes.
    const MAX_TEXT: usize = 4096;
    let header: &[u8; HEADER_LEN] = bytes.strip_prefix(&GZIP).and_then(|_| bytes.first_chunk())?;
    let flags = header[3];
    if flags & 0xe0 != 0 {
        return None;
    }
    let mut at = HEADER_LEN;
    if flags & 4 != 0 {
        let &len = bytes.get(at..)?.first_chunk()?;
        at += 2 + usize::from(u16::from_le_bytes(len));
    }
    for flag in [8, 16] {
        if flags & flag != 0 {
            at += bytes.get(at..)?.iter().take(MAX_TEXT).position(|&byte| byte == 0)? + 1;
        }
    }
    if flags & 2 != 0 {
        at += 2;
    }
    (at < bytes.len()).then_some((at, Size::Trailer))
}

/// The blocks that lie whole in a piece of the file, counted from the start of the piece.
///
/// The piece is `ranges` of the file's bytes put one after the other, in any order; `start` is where the first of them
/// comes. Blocks that reach from one range into another that does not follow it in the file are left out.
pub fn cut(deflates: &[Deflate], ranges: impl IntoIterator<Item = Range<u64>>, start: u64) -> Vec<Deflate> {
    let mut cut = Vec::new();
    let mut take = |range: &Range<u64>, start: u64| {
        let first = deflates.partition_point(|deflate| deflate.bytes().start < range.start);
        let inside = deflates[first..].iter().take_while(|deflate| deflate.bytes().end <= range.end);
        cut.extend(inside.map(|deflate| Deflate { bit: deflate.bit - 8 * range.start + 8 * start, ..*deflate }));
    };
    let mut start = start;
    let mut last: Option<Range<u64>> = None;
    for range in ranges {
        last = match last {
            Some(last) if last.end == range.start => Some(last.start..range.end),
            Some(last) => {
                take(&last, start);
                start += last.end - last.start;
                Some(range)
            }
            None => Some(range),
        };
    }
    if let Some(last) = last {
        take(&last, start);
    }
    cut
}

/// Removes the blocks that are there on both sides, bit for bit and as far into their bytes.
///
/// As bytes they are as equal as they would be as puffs, and need no room in the header of a patch nor time on a phone.
pub fn drop_equal(old: &[u8], old_deflates: &mut Vec<Deflate>, new: &[u8], new_deflates: &mut Vec<Deflate>) {
    let mut by_hash: HashMap<u64, Vec<usize>> = HashMap::new();
    for (index, deflate) in old_deflates.iter().enumerate() {
        by_hash.entry(hash(old, deflate)).or_default().push(index);
    }
    let mut is_equal = vec![false; old_deflates.len()];
    new_deflates.retain(|deflate| {
        let same = by_hash.get(&hash(new, deflate)).map_or(&[][..], Vec::as_slice);
        // All of the equal old ones go: what is equal to one is equal to each.
        let mut found = false;
        for &index in same {
            // Each is compared once, or very many equal ones would take forever.
            if found && is_equal[index] {
                break;
            }
            if parts(old, &old_deflates[index]) == parts(new, deflate) {
                (is_equal[index], found) = (true, true);
            }
        }
        !found
    });
    let mut index = 0;
    old_deflates.retain(|_| {
        index += 1;
        !is_equal[index - 1]
    });
}

/// Where in its bytes a block begins, how long it is, its bits of its first byte, whole bytes, its bits of its last.
fn parts<'a>(bytes: &'a [u8], deflate: &Deflate) -> (u64, u64, u8, &'a [u8], u8) {
    let range = deflate.bytes();
    let place = |at: u64| usize::try_from(at).expect("it is in memory");
    let bytes = &bytes[place(range.start)..place(range.end)];
    let (before, after) = (deflate.bit % 8, range.end * 8 - deflate.end());
    let (first, last) = (bytes.first().copied().unwrap_or(0) >> before, bytes.last().copied().unwrap_or(0) << after);
    let whole = if bytes.len() > 2 { &bytes[1..bytes.len() - 1] } else { &[] };
    (before, deflate.bits, first, whole, last)
}

fn hash(bytes: &[u8], deflate: &Deflate) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts(bytes, deflate).hash(&mut hasher);
    hasher.finish()
}
