//! Makes the pieces: matches what is new against what it is like, and compresses the streams.

use rayon::prelude::*;
use relevo_format::{
    ReadAt,
    ops::{Encoder, Op},
    package::{Codec, Engine, Role},
};
use relevo_types::{ByteLen, Sha256};
use sha2::Digest;

use crate::{
    DeltaError, Images, Options, PartitionReport, Progress,
    anchor::{Anchors, Extent},
    matcher::{Match, Matcher, Search},
    plan::{From, PiecePlan, Run},
    progress::advance,
    scan::{ImageScan, read},
    write::{Spill, Spilled},
};

/// Largest window of a stream, as a power of two: two such decoders and a small one stay below the 16 MiB that a phone
/// gives; a larger one gains under 0.5 %.
const MAX_WINDOW_LOG: u32 = 22;
/// Window of the operations, which are few and far smaller than this.
const OPS_WINDOW_LOG: u32 = 20;
/// Smallest window that zstd has.
const MIN_WINDOW_LOG: u32 = 10;
/// Agreeing bytes in a row that are worth an operation of their own instead of zeros among the differences.
const EXACT: usize = 256;

/// How much one piece may hold, and how many are made at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Budget {
    pub threads: usize,
    /// Most bytes of a piece that are matched.
    pub piece_new: u64,
    /// Most bytes of a piece.
    pub piece_len: u64,
    /// Most bytes of the source that a piece is matched against.
    pub old_len: u64,
    /// Most anchors in the index.
    pub anchors: u64,
}

impl Budget {
    /// Plans for `memory` and at most `threads` threads.
    pub(crate) fn new(memory: ByteLen, threads: usize) -> Self {
        const MIB: u64 = 1 << 20;
        let (piece_new, old_len, anchors) = match memory.get() / MIB {
            1024.. => (8 * MIB, 32 * MIB, 8 << 20),
            512.. => (8 * MIB, 24 * MIB, 4 << 20),
            256.. => (4 * MIB, 12 * MIB, 2 << 20),
            _ => (2 * MIB, 6 * MIB, 1 << 20),
        };
        // The new bytes and their streams; old bytes with four bytes of index each, rounded up to the hash table; and
        // what zstd takes at its highest levels for a window of 4 MiB.
        let job = piece_new * 4 + old_len * 5 + old_len.next_power_of_two() * 4 + 90 * MIB;
        let fixed = anchors * 16 + 32 * MIB;
        let fits = usize::try_from(memory.get().saturating_sub(fixed) / job).unwrap_or(usize::MAX);
        Self { threads: threads.min(fits).max(1), piece_new, piece_len: 64 * MIB, old_len, anchors }
    }
}

/// A piece whose streams are in the spill file.
#[derive(Debug)]
pub(crate) struct Made {
    pub image: usize,
    pub start: u64,
    pub len: u64,
    pub sha256: Sha256,
    pub bases: Vec<u32>,
    pub streams: Vec<MadeStream>,
    /// Bytes copied, added, inserted and zero.
    pub counts: [u64; 4],
}

/// A stream in the spill file.
#[derive(Debug)]
pub(crate) struct MadeStream {
    pub role: Role,
    pub codec: Codec,
    pub raw_len: u64,
    pub window_log: u32,
    pub sha256: Sha256,
    pub stored: Spilled,
}

/// The engine of all pieces so far.
pub(crate) const ENGINE: Engine = Engine::Bsdiff;

/// Makes all pieces, in the order of the plan.
#[expect(clippy::too_many_arguments, reason = "the stages' results, handed through once")]
pub(crate) fn make_all(
    plan: &[PiecePlan],
    bases: &[&dyn ReadAt],
    target: &Images<'_>,
    anchors: &Anchors,
    options: &Options,
    budget: &Budget,
    spill: &Spill,
    progress: &dyn Progress,
) -> Result<Vec<Made>, DeltaError> {
    let targets: Vec<_> = target.iter().collect();
    plan.par_iter()
        .map(|piece| {
            let (name, image) = targets[piece.image];
            let work = Work { piece, bases, image: &**image, anchors, budget };
            let drafted = work.run().map_err(|error| match error {
                Failed::Source(source) => DeltaError::Read { partition: name.clone(), build: "source", source },
                Failed::Target(source) => DeltaError::Read { partition: name.clone(), build: "target", source },
            })?;
            let made = drafted.store(piece, options, spill)?;
            advance(progress, piece.len)?;
            Ok(made)
        })
        .collect()
}

/// What each partition costs.
pub(crate) fn report(images: &[ImageScan], pieces: &[Made]) -> Vec<PartitionReport> {
    let report = |(index, image): (usize, &ImageScan)| {
        let own = || pieces.iter().filter(move |piece| piece.image == index);
        let count = |kind: usize| own().map(|piece| piece.counts[kind]).sum();
        PartitionReport {
            name: image.name.clone(),
            target_len: image.len,
            copied: count(0),
            added: count(1),
            inserted: count(2),
            zeros: count(3),
            stored: own().flat_map(|piece| &piece.streams).map(|stream| stream.stored.len).sum(),
        }
    };
    images.iter().enumerate().map(report).collect()
}

enum Failed {
    Source(std::io::Error),
    Target(std::io::Error),
}

/// The making of one piece.
struct Work<'a> {
    piece: &'a PiecePlan,
    bases: &'a [&'a dyn ReadAt],
    image: &'a dyn ReadAt,
    anchors: &'a Anchors,
    budget: &'a Budget,
}

impl Work<'_> {
    fn run(&self) -> Result<Draft, Failed> {
        let (old, places) = self.old()?;
        let matcher = Matcher::new(&old, Search::QUICK);
        let mut draft = Draft::default();
        let mut lead = None;
        for run in &self.piece.runs {
            match run.from {
                From::Source { base, start } => {
                    draft.push(Op::Copy { base, start, len: run.len });
                    lead = places.local(base, start + run.len);
                }
                From::Zero => {
                    draft.push(Op::Zero { len: run.len });
                    lead = None;
                }
                From::New => {
                    let new = read(self.image, run.start, run.len).map_err(Failed::Target)?;
                    for found in matcher.matches(&new, lead) {
                        draft.take(&found, &old, &new, &places);
                    }
                    lead = None;
                }
            }
        }
        draft.sha256 = self.hash().map_err(Failed::Target)?;
        Ok(draft)
    }

    /// The parts of the source that the piece's new bytes are like.
    fn old(&self) -> Result<(Vec<u8>, Places), Failed> {
        let mut choice = self.anchors.choose();
        let mut before: Option<Run> = None;
        for run in &self.piece.runs {
            match (run.from, before.map(|before| before.from)) {
                (From::New, _) => {
                    let new = read(self.image, run.start, run.len).map_err(Failed::Target)?;
                    choice.like(&new);
                    if let Some(Run { from: From::Source { base, start }, len, .. }) = before {
                        choice.near(base, start + len);
                    }
                }
                (From::Source { base, start }, Some(From::New)) => choice.near(base, start),
                _ => {}
            }
            before = Some(*run);
        }
        let extents = choice.finish(self.budget.old_len);
        let total: u64 = extents.iter().map(|extent| extent.len).sum();
        let mut old = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
        let mut places = Places::default();
        for extent in extents {
            places.extents.push((old.len(), extent));
            let bytes = read(self.bases[extent.base as usize], extent.start, extent.len).map_err(Failed::Source)?;
            old.extend_from_slice(&bytes);
        }
        Ok((old, places))
    }

    fn hash(&self) -> std::io::Result<Sha256> {
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        let mut done = 0;
        while done < self.piece.len {
            let step = usize::try_from(self.piece.len - done).unwrap_or(usize::MAX).min(buffer.len());
            self.image.read_exact_at(&mut buffer[..step], self.piece.start + done)?;
            hasher.update(&buffer[..step]);
            done += step as u64;
        }
        Ok(Sha256::new(hasher.finalize().into()))
    }
}

/// Where each part of the old bytes stands in the source.
#[derive(Debug, Default)]
struct Places {
    /// Offset in the old bytes, and the extent there; sorted by both.
    extents: Vec<(usize, Extent)>,
}

impl Places {
    /// The offset in the old bytes of a source position, if it is among them.
    fn local(&self, base: u32, at: u64) -> Option<usize> {
        let index = self.extents.partition_point(|(_, extent)| (extent.base, extent.start) <= (base, at));
        let &(local, extent) = self.extents.get(index.checked_sub(1)?)?;
        let inside = at.checked_sub(extent.start).filter(|&inside| extent.base == base && inside < extent.len)?;
        Some(local + usize::try_from(inside).ok()?)
    }

    /// The source position of an offset, and how many bytes follow it there.
    fn source(&self, local: usize) -> (u32, u64, usize) {
        let index = self.extents.partition_point(|&(start, _)| start <= local);
        let (start, extent) = self.extents[index - 1];
        let inside = local - start;
        let len = usize::try_from(extent.len).unwrap_or(usize::MAX);
        (extent.base, extent.start + inside as u64, len - inside)
    }
}

/// Operations and streams of a piece, not yet stored.
#[derive(Debug)]
struct Draft {
    ops: Vec<Op>,
    diff: Vec<u8>,
    extra: Vec<u8>,
    sha256: Sha256,
}

impl Default for Draft {
    fn default() -> Self {
        Self { ops: Vec::new(), diff: Vec::new(), extra: Vec::new(), sha256: Sha256::new([0; 32]) }
    }
}

impl Draft {
    /// Appends an operation, or lengthens the last one if it goes on.
    fn push(&mut self, op: Op) {
        if op.is_empty() {
            return;
        }
        match (self.ops.last_mut(), op) {
            (Some(Op::Copy { base, start, len }), Op::Copy { base: next_base, start: next, len: more })
            | (Some(Op::Add { base, start, len }), Op::Add { base: next_base, start: next, len: more })
                if *base == next_base && *start + *len == next =>
            {
                *len += more;
            }
            (Some(Op::Insert { len }), Op::Insert { len: more }) | (Some(Op::Zero { len }), Op::Zero { len: more }) => {
                *len += more;
            }
            _ => self.ops.push(op),
        }
    }

    /// Takes a match over.
    fn take(&mut self, found: &Match, old: &[u8], new: &[u8], places: &Places) {
        let (mut from, mut to) = (found.old, found.new);
        let end = found.new + found.len;
        while to < end {
            let agree = agreeing(&old[from..], &new[to..end]);
            // Nearly everything of a long match agrees, so differences are collected up to the next long agreement.
            let (len, exact) = if agree >= EXACT || to + agree == end {
                (agree, true)
            } else {
                let mut len = agree;
                loop {
                    len += differing(&old[from + len..], &new[to + len..end]);
                    let agree = agreeing(&old[from + len..], &new[to + len..end]);
                    if to + len >= end || agree >= EXACT {
                        break;
                    }
                    len += agree;
                }
                (len, false)
            };
            self.copy(from, to, len, exact, old, new, places);
            from += len;
            to += len;
        }
        let extra = &new[end..end + found.extra];
        self.extra.extend_from_slice(extra);
        self.push(Op::Insert { len: extra.len() as u64 });
    }

    #[expect(clippy::too_many_arguments, reason = "a private step of `take`, which has them all at hand")]
    fn copy(&mut self, from: usize, to: usize, len: usize, exact: bool, old: &[u8], new: &[u8], places: &Places) {
        let mut done = 0;
        while done < len {
            let (base, start, room) = places.source(from + done);
            let step = room.min(len - done);
            let (old, new) = (&old[from + done..][..step], &new[to + done..][..step]);
            let len = step as u64;
            if exact {
                self.push(Op::Copy { base, start, len });
            } else {
                self.diff.extend(new.iter().zip(old).map(|(new, old)| new.wrapping_sub(*old)));
                self.push(Op::Add { base, start, len });
            }
            done += step;
        }
    }

    /// Compresses the streams and appends them to the spill file.
    fn store(self, piece: &PiecePlan, options: &Options, spill: &Spill) -> Result<Made, DeltaError> {
        let mut bases: Vec<u32> = Vec::new();
        let mut counts = [0; 4];
        for op in &self.ops {
            let kind = match op {
                Op::Copy { base, .. } | Op::Add { base, .. } => {
                    bases.push(*base);
                    usize::from(matches!(op, Op::Add { .. }))
                }
                Op::Insert { .. } => 2,
                Op::Zero { .. } => 3,
            };
            counts[kind] += op.len();
        }
        bases.sort_unstable();
        bases.dedup();
        let local = |base: u32| {
            let index = bases.binary_search(&base).expect("every base of an operation was collected");
            u32::try_from(index).expect("there are as few bases as partitions")
        };
        let mut encoder = Encoder::new(bases.len());
        for op in &self.ops {
            encoder.push(match *op {
                Op::Copy { base, start, len } => Op::Copy { base: local(base), start, len },
                Op::Add { base, start, len } => Op::Add { base: local(base), start, len },
                other => other,
            });
        }

        let mut streams = Vec::new();
        for (role, raw, window_log) in [
            (Role::Ops, encoder.finish(), OPS_WINDOW_LOG),
            (Role::Diff, self.diff, MAX_WINDOW_LOG),
            (Role::Extra, self.extra, MAX_WINDOW_LOG),
        ] {
            if !raw.is_empty() {
                streams.push(store(role, &raw, window_log, options.level, spill)?);
            }
        }
        let (start, len) = (piece.start, piece.len);
        Ok(Made { image: piece.image, start, len, sha256: self.sha256, bases, streams, counts })
    }
}

fn store(role: Role, raw: &[u8], most: u32, level: i32, spill: &Spill) -> Result<MadeStream, DeltaError> {
    let fits = usize::BITS - (raw.len() - 1).leading_zeros();
    let window_log = fits.clamp(MIN_WINDOW_LOG, most);
    let compress = || {
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        compressor.set_parameter(zstd::zstd_safe::CParameter::WindowLog(window_log))?;
        compressor.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(false))?;
        compressor.compress(raw)
    };
    let compressed = compress().map_err(|source| DeltaError::Compress { level, source })?;
    let raw_len = raw.len() as u64;
    let (codec, window_log, stored) =
        if compressed.len() < raw.len() { (Codec::Zstd, window_log, &compressed[..]) } else { (Codec::Store, 0, raw) };
    let sha256 = Sha256::new(sha2::Sha256::digest(stored).into());
    Ok(MadeStream { role, codec, raw_len, window_log, sha256, stored: spill.append(stored)? })
}

/// How many bytes agree from the start on.
fn agreeing(old: &[u8], new: &[u8]) -> usize {
    old.iter().zip(new).take_while(|(old, new)| old == new).count()
}

/// How many bytes differ from the start on.
fn differing(old: &[u8], new: &[u8]) -> usize {
    old.iter().zip(new).take_while(|(old, new)| old != new).count()
}
