//! `PUF1`: a bsdiff patch between files whose deflate streams were made puffs.
//!
//! # Layout
//! `"PUF1"`, length of the header (4 bytes, big-endian), the header (a protobuf message), a [`bsdiff`] patch. The header
//! tells for the old and for the new file which runs of bits are deflate blocks and where their puffs are (in bits too),
//! and how long the file is with puffs. Between puffs the file's bytes stand as they are; a byte that a deflate block
//! starts or ends in is there only with the bits that are not the block's, shifted down.
//!
//! # Source
//! AOSP `external/puffin`, `puffin.proto`, `puffpatch.cc`, `puffin_stream.cc` and `utils.cc`.

use std::{
    collections::HashMap,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use prost::Message;
use relevo_types::ByteLen;

use super::{
    Limits, PatchError, bsdiff,
    deflate::{BitWriter, DeflateError, huff, puff_into},
    locate::Deflate,
};
use crate::ReadAt;

const MAGIC: &[u8; 4] = b"PUF1";

#[derive(Clone, PartialEq, Message)]
struct BitExtent {
    #[prost(uint64, tag = "1")]
    offset: u64,
    #[prost(uint64, tag = "2")]
    length: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StreamInfo {
    #[prost(message, repeated, tag = "1")]
    deflates: Vec<BitExtent>,
    #[prost(message, repeated, tag = "2")]
    puffs: Vec<BitExtent>,
    #[prost(uint64, tag = "3")]
    puff_length: u64,
}

#[derive(Clone, PartialEq, Message)]
struct PatchHeader {
    #[prost(int32, tag = "1")]
    version: i32,
    #[prost(message, optional, tag = "2")]
    src: Option<StreamInfo>,
    #[prost(message, optional, tag = "3")]
    dst: Option<StreamInfo>,
}

/// Makes the target of `patch` out of `old` and writes it to `out`.
///
/// A puff is in memory as a whole, and so are old ones that were used last, together up to [`Limits::memory`] bytes.
///
/// # Errors
/// [`PatchError`]; `out` has then got a part of the target.
pub fn apply(old: &dyn ReadAt, patch: &[u8], out: &mut dyn Write, limits: &Limits) -> Result<(), PatchError> {
    let (header, patch) = parse(patch)?;
    let source = Layout::new(header.src.unwrap_or_default(), limits)?;
    let target = Layout::new(header.dst.unwrap_or_default(), limits)?;
    if target.len > limits.output {
        return Err(PatchError::Output { len: target.len, limit: limits.output });
    }
    if source.len > old.len() {
        return Err(PatchError::Extents { reason: "the old file is shorter" });
    }
    let puffed_len = ByteLen::new(target.puffed_len);
    if bsdiff::target_len(patch)? != puffed_len {
        return Err(PatchError::Extents { reason: "the inner patch makes another length" });
    }
    let source = OldPuffs { old, layout: source, cache: Mutex::default(), memory: limits.memory.get() };
    let mut target = Huffer { out, layout: &target, index: 0, done: 0, buffer: Vec::new(), bits: BitWriter::default() };
    bsdiff::apply(&source, patch, &mut target, &Limits { output: puffed_len, ..limits.clone() }).map_err(unwrap)?;
    target.finish().map_err(PatchError::Write)
}

/// A file with puffs in place of deflate blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Puffed {
    /// Its bytes: what a matcher compares, and what the inner patch is between. [`write()`] does not need them any more.
    pub stream: Vec<u8>,
    runs: Vec<Run>,
    puffed_len: u64,
}

/// Most bytes of deflate blocks that are taken together.
///
/// Blocks that follow each other can be one run, which saves some 25 bytes of the header for each; but phones take 64
/// bytes of memory for each byte of the longest run, and take whole runs apart to read one byte.
const MAX_RUN: u64 = 128 << 10;
/// Most bytes of the puff of a run of several blocks, well below the 5 MiB that phones keep of puffs.
const MAX_RUN_PUFF: u64 = 1 << 20;

/// Takes the deflate blocks of a file apart.
///
/// `deflates` are some or all of those that [`locate`](super::locate) found in `bytes`, in order.
///
/// # Errors
/// [`PatchError::Extents`] and [`PatchError::Deflate`] if they are not.
pub fn puff(bytes: &[u8], deflates: &[Deflate]) -> Result<Puffed, PatchError> {
    let runs = runs(deflates);
    let place = |at: u64| usize::try_from(at).ok().filter(|&at| at <= bytes.len());
    let bad = || PatchError::Extents { reason: "deflate streams are out of order" };
    let mut stream = Vec::with_capacity(bytes.len());
    let gap = |stream: &mut Vec<u8>, start: u64, end: u64| {
        if start == end {
            return Some(());
        }
        let from = stream.len();
        stream.extend_from_slice(bytes.get(place(start / 8)?..place(end.div_ceil(8))?)?);
        if !end.is_multiple_of(8) {
            *stream.last_mut()? &= (1 << (end % 8)) - 1;
        }
        stream[from] >>= start % 8;
        Some(())
    };
    let mut at = 0;
    let mut placed = Vec::with_capacity(runs.len());
    for deflate in runs {
        gap(&mut stream, at, deflate.bit).filter(|()| at <= deflate.bit).ok_or_else(bad)?;
        let range = deflate.bytes();
        let part = place(range.start).zip(place(range.end)).ok_or_else(bad)?;
        let puff = stream.len() as u64;
        puff_into(&bytes[part.0..part.1], deflate.bit % 8, deflate.bits, deflate.puff_len, &mut stream)
            .map_err(PatchError::Deflate)?;
        placed.push(Run { bit: deflate.bit, bits: deflate.bits, puff, puff_len: deflate.puff_len });
        at = deflate.end();
    }
    gap(&mut stream, at, 8 * bytes.len() as u64).ok_or_else(bad)?;
    Ok(Puffed { puffed_len: stream.len() as u64, stream, runs: placed })
}

/// Writes the patch between two files out of `patch`, the [`bsdiff`] patch between their [`Puffed::stream`]s.
pub fn write(old: &Puffed, new: &Puffed, patch: &[u8]) -> Vec<u8> {
    let info = |puffed: &Puffed| {
        let deflates = puffed.runs.iter().map(|run| BitExtent { offset: run.bit, length: run.bits });
        let puffs = puffed.runs.iter().map(|run| BitExtent { offset: 8 * run.puff, length: 8 * run.puff_len });
        Some(StreamInfo { deflates: deflates.collect(), puffs: puffs.collect(), puff_length: puffed.puffed_len })
    };
    let header = PatchHeader { version: 1, src: info(old), dst: info(new) }.encode_to_vec();
    let len = u32::try_from(header.len()).expect("a header has some bytes for each block of a file");
    [&MAGIC[..], &len.to_be_bytes(), &header, patch].concat()
}

/// What went wrong in reading puffs or in making deflate streams, out of the error of a reader or a writer.
fn unwrap(error: PatchError) -> PatchError {
    let (PatchError::Read(inner) | PatchError::Write(inner)) = &error else { return error };
    if !inner.get_ref().is_some_and(|inner| inner.is::<PatchError>()) {
        return error;
    }
    let (PatchError::Read(inner) | PatchError::Write(inner)) = error else { unreachable!("it was one of them") };
    inner.downcast::<PatchError>().unwrap_or_else(PatchError::Read)
}

fn parse(patch: &[u8]) -> Result<(PatchHeader, &[u8]), PatchError> {
    let short = |expected: u64| PatchError::Truncated { expected, actual: patch.len() as u64 };
    let rest = patch.strip_prefix(MAGIC).ok_or(PatchError::Magic { format: "puffin" })?;
    let (len, rest) = rest.split_first_chunk().ok_or_else(|| short(8))?;
    let len = u32::from_be_bytes(*len);
    let header = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len));
    let (header, rest) = header.ok_or_else(|| short(8 + u64::from(len)))?;
    let header = PatchHeader::decode(header).map_err(PatchError::Header)?;
    if header.version != 1 {
        return Err(PatchError::Version(header.version));
    }
    Ok((header, rest))
}

/// A run of deflate blocks: bits in the file, bytes among puffs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    bit: u64,
    bits: u64,
    puff: u64,
    puff_len: u64,
}

/// Where the deflate streams of a file are.
struct Layout {
    deflates: Vec<Run>,
    /// Length of the file.
    len: ByteLen,
    /// Its length with puffs.
    puffed_len: u64,
}

/// Blocks that follow each other, together as far as that is good.
fn runs(deflates: &[Deflate]) -> Vec<Deflate> {
    let mut runs: Vec<Deflate> = Vec::new();
    let mut rest = deflates;
    while let Some(first) = rest.first() {
        let mut run = *first;
        // How many blocks of the run so far may be its last one, and the run up to there.
        let (mut count, mut good) = (1, None);
        loop {
            if run.can_be_last() {
                good = Some((run, count));
            }
            let next = rest.get(count).filter(|next| {
                let is_small = run.bits + next.bits <= 8 * MAX_RUN && run.puff_len + next.puff_len <= MAX_RUN_PUFF;
                next.bit == run.end() && is_small
            });
            let Some(next) = next else { break };
            run = Deflate {
                bit: run.bit,
                bits: run.bits + next.bits,
                puff_len: run.puff_len + next.puff_len,
                beyond: next.beyond,
            };
            count += 1;
        }
        // Blocks of which none may be the last stay as they are.
        let (run, count) = good.map_or((None, count), |(run, count)| (Some(run), count));
        runs.extend(run);
        rest = &rest[count..];
    }
    runs
}

/// How many bytes stand for the bits from `start` to `end`, which are no deflate stream's.
fn gap_len(start: u64, end: u64) -> u64 {
    if start == end { 0 } else { end.div_ceil(8) - start / 8 }
}

impl Layout {
    fn new(info: StreamInfo, limits: &Limits) -> Result<Self, PatchError> {
        let bad = |reason| PatchError::Extents { reason };
        if info.deflates.len() != info.puffs.len() {
            return Err(bad("there are not as many puffs as deflate streams"));
        }
        let (mut bit, mut byte) = (0, 0);
        let mut deflates = Vec::with_capacity(info.deflates.len());
        for (deflate, puff) in info.deflates.iter().zip(&info.puffs) {
            let (puff, puff_len) = (puff.offset / 8, puff.length / 8);
            let end =
                deflate.offset.checked_add(deflate.length).filter(|_| deflate.offset >= bit && deflate.length > 0);
            let end = end.ok_or_else(|| bad("deflate streams are out of order"))?;
            if puff.checked_sub(byte) != Some(gap_len(bit, deflate.offset)) {
                return Err(bad("a puff is not where its deflate stream is"));
            }
            if puff_len > limits.memory.get() {
                return Err(PatchError::Memory { needed: ByteLen::new(puff_len), limit: limits.memory });
            }
            deflates.push(Run { bit: deflate.offset, bits: deflate.length, puff, puff_len });
            byte = puff.checked_add(puff_len).ok_or_else(|| bad("a puff goes beyond 2^64 bytes"))?;
            bit = end;
        }
        let tail = info.puff_length.checked_sub(byte).filter(|&tail| tail > 0 || bit % 8 == 0);
        let tail = tail.ok_or_else(|| bad("the file ends inside of a deflate stream"))?;
        // The byte that the last deflate stream ends in is a byte of the tail, if there are bits left in it.
        let len = (bit / 8).checked_add(tail).filter(|&len| len <= u64::MAX / 8);
        let len = ByteLen::new(len.ok_or_else(|| bad("the file is over 2^61 bytes"))?);
        Ok(Self { deflates, len, puffed_len: info.puff_length })
    }

    /// The bits between the deflate stream before the one at `index` and that one, and where their bytes start.
    fn gap(&self, index: usize) -> (u64, u64, u64) {
        let before = index.checked_sub(1).map(|before| &self.deflates[before]);
        let (start, at) = before.map_or((0, 0), |before| (before.bit + before.bits, before.puff + before.puff_len));
        let end = self.deflates.get(index).map_or(8 * self.len.get(), |next| next.bit);
        (start, end, at)
    }
}

/// The old file with puffs.
struct OldPuffs<'a> {
    old: &'a dyn ReadAt,
    layout: Layout,
    cache: Mutex<Cache>,
    memory: u64,
}

/// Puffs that were used last.
#[derive(Default)]
struct Cache {
    /// By the number of the deflate stream: the puff, and when it was used.
    puffs: HashMap<usize, (Arc<Vec<u8>>, u64)>,
    bytes: u64,
    clock: u64,
}

impl OldPuffs<'_> {
    fn puff(&self, index: usize) -> io::Result<Arc<Vec<u8>>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.clock += 1;
        let now = cache.clock;
        if let Some((puff, used)) = cache.puffs.get_mut(&index) {
            *used = now;
            return Ok(Arc::clone(puff));
        }
        let deflate = self.layout.deflates[index];
        while cache.bytes + deflate.puff_len > self.memory {
            let Some((&oldest, _)) = cache.puffs.iter().min_by_key(|(_, (_, used))| *used) else { break };
            cache.puffs.remove(&oldest);
            cache.bytes -= self.layout.deflates[oldest].puff_len;
        }
        let (start, end) = (deflate.bit / 8, (deflate.bit + deflate.bits).div_ceil(8));
        let needed = ByteLen::new(end - start);
        let limit = ByteLen::new(self.memory);
        if needed > limit {
            return Err(io::Error::other(PatchError::Memory { needed, limit }));
        }
        let mut bytes = vec![0; needed.to_usize().map_err(io::Error::other)?];
        self.old.read_exact_at(&mut bytes, start)?;
        let mut puff = Vec::new();
        puff_into(&bytes, deflate.bit % 8, deflate.bits, deflate.puff_len, &mut puff).map_err(broken)?;
        let puff = Arc::new(puff);
        cache.bytes += deflate.puff_len;
        cache.puffs.insert(index, (Arc::clone(&puff), now));
        Ok(puff)
    }
}

fn broken(error: DeflateError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, PatchError::Deflate(error))
}

impl ReadAt for OldPuffs<'_> {
    fn len(&self) -> ByteLen {
        ByteLen::new(self.layout.puffed_len)
    }

    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.layout.puffed_len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !buf.is_empty() {
            let deflates = &self.layout.deflates;
            let index = deflates.partition_point(|deflate| deflate.puff + deflate.puff_len <= offset);
            let (part, rest);
            match deflates.get(index).filter(|deflate| deflate.puff <= offset) {
                Some(deflate) => {
                    let puff = self.puff(index)?;
                    let from = usize::try_from(offset - deflate.puff).map_err(io::Error::other)?;
                    let bytes = &puff[from..];
                    (part, rest) = buf.split_at_mut(bytes.len().min(buf.len()));
                    part.copy_from_slice(&bytes[..part.len()]);
                }
                None => {
                    let (start, end, at) = self.layout.gap(index);
                    let (skip, len) = (offset - at, gap_len(start, end));
                    let left = usize::try_from(len - skip).unwrap_or(usize::MAX);
                    (part, rest) = buf.split_at_mut(left.min(buf.len()));
                    self.old.read_exact_at(part, start / 8 + skip)?;
                    if skip + part.len() as u64 == len
                        && end % 8 > 0
                        && let Some(last) = part.last_mut()
                    {
                        *last &= (1 << (end % 8)) - 1;
                    }
                    if skip == 0
                        && let Some(first) = part.first_mut()
                    {
                        *first >>= start % 8;
                    }
                }
            }
            offset += part.len() as u64;
            buf = rest;
        }
        Ok(())
    }
}

/// Takes the new file with puffs and writes it with deflate streams.
struct Huffer<'a> {
    out: &'a mut dyn Write,
    layout: &'a Layout,
    /// The deflate stream that is next or being gathered.
    index: usize,
    /// Bytes of the gap before it that were taken.
    done: u64,
    /// What there is of its puff.
    buffer: Vec<u8>,
    bits: BitWriter,
}

impl Huffer<'_> {
    /// Takes some of `bytes`, which is not empty.
    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (start, end, _) = self.layout.gap(self.index);
        let len = gap_len(start, end);
        if self.done < len {
            return self.take_gap(bytes, start, end, len);
        }
        let Some(deflate) = self.layout.deflates.get(self.index) else {
            return Err(io::Error::other(PatchError::Extents { reason: "the inner patch makes more" }));
        };
        let puff_len = usize::try_from(deflate.puff_len).map_err(io::Error::other)?;
        let taken = (puff_len - self.buffer.len()).min(bytes.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == puff_len {
            let before = self.bits.written;
            huff(&self.buffer, &mut self.bits).map_err(broken)?;
            let actual = self.bits.written - before;
            if actual != deflate.bits {
                return Err(broken(DeflateError::Length { expected: deflate.bits, actual, unit: "bits" }));
            }
            self.buffer.clear();
            self.index += 1;
            self.done = 0;
        }
        Ok(taken)
    }

    /// Takes bytes of the gap of `len` bytes for the bits from `start` to `end`.
    fn take_gap(&mut self, bytes: &[u8], start: u64, end: u64, len: u64) -> io::Result<usize> {
        let is_first = self.done == 0 && !start.is_multiple_of(8);
        let is_last = self.done + 1 == len && !end.is_multiple_of(8);
        if is_first || is_last {
            let from = if is_first { start % 8 } else { 0 };
            let to = if is_last { end % 8 } else { 8 };
            let count = u32::try_from(to - from).expect("at most 8");
            if u32::from(bytes[0]) >> count != 0 {
                return Err(io::Error::other(PatchError::Extents { reason: "a byte between puffs has too many bits" }));
            }
            self.bits.put(u32::from(bytes[0]), count);
            self.done += 1;
            return Ok(1);
        }
        let whole = len - self.done - u64::from(!end.is_multiple_of(8));
        let taken = usize::try_from(whole).unwrap_or(usize::MAX).min(bytes.len());
        self.bits.put_bytes(&bytes[..taken]);
        self.done += taken as u64;
        Ok(taken)
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        let (start, end, _) = self.layout.gap(self.index);
        let is_complete =
            self.index == self.layout.deflates.len() && self.done == gap_len(start, end) && self.bits.is_aligned();
        if is_complete { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl Write for Huffer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self.take(rest)?;
            rest = &rest[taken..];
            self.out.write_all(&self.bits.bytes)?;
            self.bits.bytes.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.bits.bytes)?;
        self.bits.bytes.clear();
        Ok(())
    }
}
