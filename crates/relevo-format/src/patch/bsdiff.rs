//! `BSDIFF40` and `BSDF2`: the new bytes as differences to runs of old ones, with bytes that are new between them.
//!
//! # Layout
//! `"BSDIFF40"` (three bzip2 streams), or `"BSDF2"` and one byte for the [`Codec`] of each stream; length of the control
//! and of the diff stream as stored, length of the target; then the control, diff and extra streams. Integers are of 8
//! bytes, little-endian, with the sign in the highest bit. A control entry is three of them: how many bytes to make of
//! old bytes plus diff bytes, how many of extra bytes, and how far to move on in the old bytes after that.
//!
//! # Source
//! AOSP `external/bsdiff`, `bspatch.cc` and `patch_reader.cc`; Colin Percival's bsdiff 4.

use std::io::Write;

use relevo_types::ByteLen;

use super::{
    Codec, Limits, PatchError, StreamError,
    stream::{self, Contents, Decoder, compress},
};
use crate::ReadAt;

const HEADER_LEN: usize = 32;
const LEGACY_MAGIC: &[u8; 8] = b"BSDIFF40";
const MAGIC: &[u8; 5] = b"BSDF2";
/// Bytes moved at once.
const BUFFER: usize = 1 << 16;
/// Control entries that make nothing and are put up with, besides one for each byte of the target.
const IDLE_ENTRIES: u64 = 1024;

/// Makes the target of `patch` out of `old` and writes it to `out`.
///
/// As AOSP's reader has it, old bytes after the end count as 0, while a position after the end or before the start is
/// refused even where nothing is read there.
///
/// # Errors
/// [`PatchError`]; `out` has then got a part of the target.
pub fn apply(old: &dyn ReadAt, patch: &[u8], out: &mut dyn Write, limits: &Limits) -> Result<(), PatchError> {
    let header = Header::parse(patch)?;
    if header.new_len > limits.output {
        return Err(PatchError::Output { len: header.new_len, limit: limits.output });
    }
    let old_len = old.len().get();
    let [control, mut diff, mut extra] = header.streams.map(|(codec, bytes)| Decoder::new(codec, bytes));
    let mut entries = Entries::new(header.new_len, control);
    let (mut old_buffer, mut buffer) = (vec![0; BUFFER], vec![0; BUFFER]);
    while let Some(Entry { position, add, insert, .. }) = entries.next()? {
        let outside = || PatchError::Position { at: position, len: old.len() };
        let start = u64::try_from(position).ok().filter(|&start| start <= old_len).ok_or_else(outside)?;
        let mut done = 0;
        while done < add {
            let len = usize::try_from(add - done).unwrap_or(usize::MAX).min(BUFFER);
            let new_bytes = &mut buffer[..len];
            diff.fill(new_bytes).map_err(damaged("diff"))?;
            let at = start.saturating_add(done);
            let left = usize::try_from(old_len.saturating_sub(at)).unwrap_or(usize::MAX).min(len);
            if left > 0 {
                let old_bytes = &mut old_buffer[..left];
                old.read_exact_at(old_bytes, at).map_err(PatchError::Read)?;
                for (new, old) in new_bytes.iter_mut().zip(old_bytes) {
                    *new = new.wrapping_add(*old);
                }
            }
            out.write_all(new_bytes).map_err(PatchError::Write)?;
            done += len as u64;
        }
        let mut done = 0;
        while done < insert {
            let len = usize::try_from(insert - done).unwrap_or(usize::MAX).min(BUFFER);
            let new_bytes = &mut buffer[..len];
            extra.fill(new_bytes).map_err(damaged("extra"))?;
            out.write_all(new_bytes).map_err(PatchError::Write)?;
            done += len as u64;
        }
    }
    entries.control.finish().map_err(damaged("control"))?;
    diff.finish().map_err(damaged("diff"))?;
    extra.finish().map_err(damaged("extra"))
}

/// The length of the target that the header of `patch` tells of.
///
/// # Errors
/// [`PatchError`] if there is no good header.
pub fn target_len(patch: &[u8]) -> Result<ByteLen, PatchError> {
    Ok(Header::parse(patch)?.new_len)
}

/// What is wrong with a stream.
fn damaged(name: &'static str) -> impl Fn(StreamError) -> PatchError {
    move |source| PatchError::Stream { name, source }
}

/// One control entry, and where it stands.
struct Entry {
    /// First byte of the target that it makes.
    new: u64,
    /// First old byte; it is not checked.
    position: i64,
    /// Bytes made of old ones.
    add: u64,
    /// Bytes after them.
    insert: u64,
}

/// Control entries up to the end of the target.
struct Entries<'a> {
    new_len: ByteLen,
    control: Decoder<'a>,
    made: u64,
    position: i64,
    read: u64,
}

impl<'a> Entries<'a> {
    fn new(new_len: ByteLen, control: Decoder<'a>) -> Self {
        Self { new_len, control, made: 0, position: 0, read: 0 }
    }

    fn next(&mut self) -> Result<Option<Entry>, PatchError> {
        let (new, position, new_len) = (self.made, self.position, self.new_len.get());
        if new >= new_len {
            return Ok(None);
        }
        let mut entry = [0; 24];
        self.control.fill(&mut entry).map_err(damaged("control"))?;
        let [add, insert, step] = integers(&entry);
        let length = |value| u64::try_from(value).map_err(|_| PatchError::Negative { what: "control entry", value });
        let (add, insert) = (length(add)?, length(insert)?);
        self.read += 1;
        // Entries without bytes are cheap to compress; only so many of them make a patch.
        let end = new.checked_add(add).and_then(|sum| sum.checked_add(insert)).filter(|&end| end <= new_len);
        let end = end.filter(|_| self.read <= new_len.saturating_add(IDLE_ENTRIES));
        self.made = end.ok_or(PatchError::Overrun(self.new_len))?;
        // Where this leads to only matters if another entry follows.
        self.position = position.saturating_add_unsigned(add).saturating_add(step);
        Ok(Some(Entry { new, position, add, insert }))
    }
}

/// Calls `found` with each run of the target that is made of old bytes: where it is, where they are, how long it is.
///
/// Only the control stream is read, so this is no proof that the patch applies.
///
/// # Errors
/// [`PatchError`]; `found` was then called for what came before.
pub fn walk(patch: &[u8], mut found: impl FnMut(u64, u64, u64)) -> Result<(), PatchError> {
    let header = Header::parse(patch)?;
    let [(codec, control), ..] = header.streams;
    let mut entries = Entries::new(header.new_len, Decoder::new(codec, control));
    while let Some(entry) = entries.next()? {
        if let Ok(old) = u64::try_from(entry.position)
            && entry.add > 0
        {
            found(entry.new, old, entry.add);
        }
    }
    Ok(())
}

/// The header with the streams that it tells of: control, diff, extra.
struct Header<'a> {
    new_len: ByteLen,
    streams: [(Codec, &'a [u8]); 3],
}

impl<'a> Header<'a> {
    fn parse(patch: &'a [u8]) -> Result<Self, PatchError> {
        let short = |expected: u64| PatchError::Truncated { expected, actual: patch.len() as u64 };
        let (head, body) = patch.split_at_checked(HEADER_LEN).ok_or_else(|| short(HEADER_LEN as u64))?;
        let (magic, lengths) = head.split_at(LEGACY_MAGIC.len());
        let codecs = match magic.strip_prefix(MAGIC) {
            Some(&[control, diff, extra]) => [codec(control)?, codec(diff)?, codec(extra)?],
            _ if magic == LEGACY_MAGIC => [Codec::Bzip2; 3],
            _ => return Err(PatchError::Magic { format: "bsdiff" }),
        };
        let length = |what, value| u64::try_from(value).map_err(|_| PatchError::Negative { what, value });
        let [control_len, diff_len, new_len] = integers(lengths.try_into().expect("32 bytes less 8"));
        let control_len = length("control stream", control_len)?;
        let diff_len = length("diff stream", diff_len)?;
        let new_len = length("target", new_len)?;
        let short = || short((HEADER_LEN as u64).saturating_add(control_len).saturating_add(diff_len));
        let split = |bytes: &'a [u8], len| {
            usize::try_from(len).ok().and_then(|len| bytes.split_at_checked(len)).ok_or_else(short)
        };
        let (control, body) = split(body, control_len)?;
        let (diff, extra) = split(body, diff_len)?;
        let [a, b, c] = codecs;
        Ok(Self { new_len: ByteLen::new(new_len), streams: [(a, control), (b, diff), (c, extra)] })
    }
}

fn codec(byte: u8) -> Result<Codec, PatchError> {
    match byte {
        1 => Ok(Codec::Bzip2),
        2 => Ok(Codec::Brotli),
        _ => Err(PatchError::Codec(byte)),
    }
}

fn integers(bytes: &[u8; 24]) -> [i64; 3] {
    let mut integers = [0; 3];
    for (integer, bytes) in integers.iter_mut().zip(bytes.as_chunks().0) {
        let raw = u64::from_le_bytes(*bytes);
        let size = (raw & (u64::MAX >> 1)).cast_signed();
        *integer = if raw >> 63 == 1 { -size } else { size };
    }
    integers
}

fn put(out: &mut Vec<u8>, integer: i64) {
    let sign = u64::from(integer < 0) << 63;
    out.extend((integer.unsigned_abs() | sign).to_le_bytes());
}

fn put_entry(control: &mut Vec<u8>, entry: [i64; 3]) {
    entry.into_iter().for_each(|integer| put(control, integer));
}

/// A run of new bytes like old ones, and the new bytes after it that are like nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// First old byte.
    pub old: usize,
    /// First new byte.
    pub new: usize,
    /// Bytes that are alike.
    pub len: usize,
    /// Bytes after them that are like nothing.
    pub extra: usize,
}

/// How a patch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `BSDIFF40`, for source builds of minor version 2 and 3 and for transfer lists.
    Bsdiff40,
    /// `BSDF2` with these codecs for control, diff and extra.
    Bsdf2([Codec; 3]),
    /// `BSDF2` with the smaller codec for each stream.
    Smallest,
}

/// How much processor time a patch is worth: at least so many bytes must a second of it save.
///
/// What it decides is the quality of brotli: the best takes ten times as long as a good one, and makes streams 3 to 9 %
/// smaller. Both the time and what it saves are estimated from a quick trial, never measured: the same input makes the
/// same patch everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Effort {
    /// Bytes.
    pub saved_per_second: u32,
}

impl Effort {
    /// The smallest patch, whatever it costs.
    pub const BEST: Self = Self { saved_per_second: 0 };
    /// Nothing that takes long.
    pub const QUICK: Self = Self { saved_per_second: u32::MAX };
}

/// The streams of a patch before they are compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streams {
    control: Vec<u8>,
    diff: Vec<u8>,
    extra: Vec<u8>,
    new_len: usize,
}

impl Streams {
    /// The streams that make `new` of `old`.
    ///
    /// # Panics
    /// If `matches` do not cover `new` in order and completely, or reach outside of `old`: the matcher's mistake, never
    /// the input's.
    pub fn new(old: &[u8], new: &[u8], matches: &[Match]) -> Self {
        // What makes nothing must not be the last entry: no reader gets to it.
        let matches: Vec<Match> = matches.iter().copied().filter(|found| found.len + found.extra > 0).collect();
        let matched: usize = matches.iter().map(|found| found.len).sum();
        let (mut control, mut diff) = (Vec::with_capacity(24 * matches.len()), Vec::with_capacity(matched));
        let mut extra = Vec::with_capacity(new.len().saturating_sub(matched));
        let (mut at, mut position) = (0, 0);
        // A seek comes after the bytes of its entry, so the first match needs an entry of its own to get to its place.
        if let Some(first) = matches.first().filter(|first| first.old > 0 && first.len > 0) {
            put_entry(&mut control, [0, 0, signed(first.old)]);
            position = first.old;
        }
        for (index, found) in matches.iter().enumerate() {
            assert_eq!(found.new, at, "the matches leave a gap or overlap");
            // Where nothing of the old bytes is used, it does not matter which.
            let start = if found.len == 0 { position } else { found.old };
            let (new_bytes, rest) = new[at..].split_at(found.len);
            diff.extend(new_bytes.iter().zip(&old[start..start + found.len]).map(|(new, old)| new.wrapping_sub(*old)));
            extra.extend_from_slice(&rest[..found.extra]);
            at += found.len + found.extra;
            let end = start + found.len;
            position = matches.get(index + 1).filter(|next| next.len > 0).map_or(end, |next| next.old);
            put_entry(&mut control, [signed(found.len), signed(found.extra), signed(position) - signed(end)]);
        }
        assert_eq!(at, new.len(), "the matches end too early");
        Self { control, diff, extra, new_len: new.len() }
    }

    /// Finds out what quick ways make of each stream.
    pub fn try_out(self) -> Trial {
        let tried = self.raw().map(|(raw, contents)| stream::Trial::new(raw, contents));
        Trial { streams: self, tried }
    }

    fn raw(&self) -> [(&[u8], Contents); 3] {
        [(&self.control, Contents::Control), (&self.diff, Contents::Diff), (&self.extra, Contents::Extra)]
    }

    /// The patch.
    pub fn write(&self, format: Format, effort: Effort) -> Vec<u8> {
        let chosen = match format {
            Format::Bsdiff40 => self.raw().map(|(raw, _)| (Codec::Bzip2, compress(Codec::Bzip2, raw))),
            Format::Bsdf2(codecs) => {
                let mut codecs = codecs.into_iter();
                self.raw().map(|(raw, _)| {
                    let codec = codecs.next().expect("there are as many codecs as streams");
                    (codec, compress(codec, raw))
                })
            }
            Format::Smallest => self.raw().map(|(raw, contents)| stream::Trial::new(raw, contents).finish(raw, effort)),
        };
        pack(format, &chosen, self.new_len)
    }
}

/// The streams of a patch, with what quick ways make of them.
#[derive(Debug, Clone)]
pub struct Trial {
    streams: Streams,
    tried: [stream::Trial; 3],
}

impl Trial {
    /// About how long [`Trial::write`] makes the patch, within a few hundredths.
    pub fn estimate(&self, effort: Effort) -> usize {
        HEADER_LEN + self.tried.iter().map(|tried| tried.estimate(effort)).sum::<usize>()
    }

    /// The patch, as [`Streams::write`] makes it of [`Format::Smallest`].
    pub fn write(self, effort: Effort) -> Vec<u8> {
        let mut tried = self.tried.into_iter();
        let chosen = self.streams.raw().map(|(raw, _)| {
            let tried = tried.next().expect("every stream was tried");
            tried.finish(raw, effort)
        });
        pack(Format::Smallest, &chosen, self.streams.new_len)
    }
}

/// Header and streams.
fn pack(format: Format, chosen: &[(Codec, Vec<u8>); 3], new_len: usize) -> Vec<u8> {
    let mut out = Vec::from(LEGACY_MAGIC);
    if format != Format::Bsdiff40 {
        out.clear();
        out.extend_from_slice(MAGIC);
        out.extend(chosen.iter().map(|&(codec, _)| codec as u8));
    }
    put(&mut out, signed(chosen[0].1.len()));
    put(&mut out, signed(chosen[1].1.len()));
    put(&mut out, signed(new_len));
    chosen.iter().for_each(|(_, bytes)| out.extend_from_slice(bytes));
    out
}

fn signed(value: usize) -> i64 {
    i64::try_from(value).expect("memory is smaller than 2^63 bytes")
}

/// Writes the smallest patch that makes `new` of `old` with these matches.
///
/// # Panics
/// As [`Streams::new`].
pub fn write(old: &[u8], new: &[u8], matches: &[Match], format: Format) -> Vec<u8> {
    Streams::new(old, new, matches).write(format, Effort::BEST)
}
