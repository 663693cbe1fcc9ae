//! Blocks of patches that are worth storing as differences to old bytes.
//!
//! Which old bytes a block is like is read from the patch where it is bsdiff's or zucchini's. Patches between inflated
//! streams match what they have taken apart; there the old bytes that the operation reads are searched: where a block of
//! new bytes starts to be like some old ones, the following blocks are tried at the same distance first. Patches over LZ4
//! are left out: what they write is compressed, so nothing of a difference gets smaller. AOSP's generator has differences
//! where its bsdiff was tried, whatever the operation became, and for LZ4 none either.
//!
//! Then both ways of storing are compressed as the phone would, and runs of blocks are chosen for which differences save
//! more than the line in the manifest is worth.

use std::collections::HashMap;

use rayon::prelude::*;
use relevo_format::{
    ReadAt,
    patch::{Limits, bsdiff, zucchini},
    payload::{Extent, Operation, OperationKind, Partition},
};
use relevo_types::BLOCK;

use super::{
    super::cow::{self, Compression, Compressor, Settings},
    MergeError,
};

/// Blocks that are worth it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// First block that is read.
    pub(super) source: u64,
    /// Bytes of it that are left out.
    pub(super) offset: u16,
    /// What is written.
    pub(super) target: Extent,
    /// Bytes of the snapshot that it saves.
    pub(super) gain: u64,
}

const BLOCK_LEN: u64 = BLOCK.get();
/// What a run has to save. Its line takes about 20 bytes of the download, so each of them saves 100 on the phone.
const LEAST_GAIN: i64 = 2048;
/// What a block costs more as a difference: its place in the order, and often its own operation.
const BLOCK_COST: i64 = 20;
/// Bytes that tell of likeness, and the distance of those that are known by heart.
const SEED: usize = 32;
const STRIDE: usize = 64;
/// Bytes of an operation that are searched at most, on either side; with the table it takes two and a half times that.
const LONGEST_SEARCH: u64 = 64 << 20;
/// Bytes of a new block that are looked up: any run of it that stayed as it was for [`STRIDE`] and a seed is found.
const LOOKED_UP: usize = 1024;
/// Places of the old bytes that are compared with a new block before it is given up.
const TRIES: usize = 8;

/// Finds them in all operations, in the order of operations.
pub(super) fn find(
    partition: &Partition,
    blobs: &dyn ReadAt,
    old: &dyn ReadAt,
    new: &dyn ReadAt,
    settings: &Settings,
) -> Result<Vec<Found>, MergeError> {
    if settings.compression == Compression::None {
        return Ok(Vec::new());
    }
    // Brotli is so slow that trying all twice is not worth it; zlib tells as well which way is shorter.
    let trial = match settings.compression {
        Compression::Brotli(_) => Settings { compression: Compression::Gz(9), ..*settings },
        _ => *settings,
    };
    let operations: Vec<_> = (0..).zip(&partition.operations).collect();
    let found = operations.into_par_iter().map(|(index, operation)| {
        let likes = match operation.kind {
            OperationKind::SourceBsdiff | OperationKind::BrotliBsdiff | OperationKind::Zucchini => {
                from_patch(index, operation, blobs)?
            }
            OperationKind::Puffdiff => search(operation, old, new)?,
            _ => return Ok(Vec::new()),
        };
        choose(operation, &likes, old, new, &trial)
    });
    let found: Vec<Vec<Found>> = found.collect::<Result<_, MergeError>>()?;
    Ok(found.into_iter().flatten().collect())
}

/// What a block of an operation's new bytes is like: a position in the old bytes that it reads.
type Like = Option<u64>;

/// By the patch: for each block the match that makes most of it.
fn from_patch(index: usize, operation: &Operation, blobs: &dyn ReadAt) -> Result<Vec<Like>, MergeError> {
    let blocks = usize::try_from(operation.target_len() / BLOCK_LEN).expect("its new bytes were in memory");
    let mut likes = vec![(0, None); blocks];
    let Some(data) = operation.data else { return Ok(Vec::new()) };
    let len = data.len.min(blobs.len().get());
    let mut patch = vec![0; usize::try_from(len).expect("patches were in memory")];
    let read = blobs.read_exact_at(&mut patch, data.offset);
    read.map_err(|source| MergeError::Read { what: "the blobs", offset: data.offset, source })?;
    let found = |new: u64, old: u64, len: u64| {
        // A block that begins before the match is like what begins before the old bytes; if that is nothing, none.
        let (mut at, end) = (new - new % BLOCK_LEN, new + len);
        while at < end {
            let covered = (at + BLOCK_LEN).min(end) - at.max(new);
            if let Some((most, like)) = usize::try_from(at / BLOCK_LEN).ok().and_then(|block| likes.get_mut(block))
                && covered > *most
                && let Some(start) = (old + at).checked_sub(new)
            {
                (*most, *like) = (covered, Some(start));
            }
            at += BLOCK_LEN;
        }
    };
    let walked = match operation.kind {
        OperationKind::Zucchini => zucchini::walk(&patch, &Limits::default(), found),
        _ => bsdiff::walk(&patch, found),
    };
    walked.map_err(|source| MergeError::Patch { index, source })?;
    // As AOSP has it: what is less than half a block is not worth a look.
    Ok(likes.into_iter().map(|(covered, like)| like.filter(|_| 2 * covered >= BLOCK_LEN)).collect())
}

/// By looking for it.
fn search(operation: &Operation, old: &dyn ReadAt, new: &dyn ReadAt) -> Result<Vec<Like>, MergeError> {
    if operation.source_len() > LONGEST_SEARCH || operation.target_len() > LONGEST_SEARCH {
        return Ok(Vec::new());
    }
    let old = linear(&operation.source, old, cow::OLD)?;
    let new = linear(&operation.target, new, cow::NEW)?;
    let mut places: HashMap<u64, usize> = HashMap::with_capacity(old.len() / STRIDE);
    for (index, seed) in old.chunks_exact(STRIDE).map(|chunk| &chunk[..SEED]).enumerate() {
        // Runs of one byte are everywhere.
        if seed.iter().any(|&byte| byte != seed[0]) {
            places.entry(key(seed)).or_insert(index * STRIDE);
        }
    }
    let block_len = usize::try_from(BLOCK_LEN).expect("a block is small");
    let mut likes = Vec::with_capacity(new.len() / block_len);
    let mut last: Option<usize> = None;
    for block in new.chunks_exact(block_len) {
        let alike = |start: usize| {
            let old = old.get(start..start + block_len)?;
            let same = old.iter().zip(block).filter(|(old, new)| old == new).count();
            (2 * same >= block_len).then_some(start)
        };
        let found = last.and_then(|last| alike(last + block_len)).or_else(|| {
            let starts = block.windows(SEED).take(LOOKED_UP).enumerate();
            let mut starts = starts.filter_map(|(at, seed)| places.get(&key(seed))?.checked_sub(at));
            let mut tried = None;
            let mut left = TRIES;
            starts.find_map(|start| {
                if tried.replace(start) == Some(start) || left == 0 {
                    return None;
                }
                left -= 1;
                alike(start)
            })
        });
        last = found;
        likes.push(found.map(|start| start as u64));
    }
    Ok(likes)
}

/// A number for a seed; two seeds may have the same, so what it finds is compared.
fn key(seed: &[u8]) -> u64 {
    let words = seed.as_chunks().0.iter().map(|&word| u64::from_le_bytes(word));
    words.fold(0, |key: u64, word| (key.rotate_left(29) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// All bytes of some extents.
fn linear(extents: &[Extent], image: &dyn ReadAt, what: &'static str) -> Result<Vec<u8>, MergeError> {
    let len = extents.iter().map(Extent::len).sum::<u64>();
    let mut bytes = vec![0; usize::try_from(len).expect("it is at most LONGEST_SEARCH")];
    let mut rest = &mut bytes[..];
    for extent in extents {
        let (now, then) = rest.split_at_mut(usize::try_from(extent.len()).expect("it is a part of that"));
        let offset = extent.offset();
        image.read_exact_at(now, offset).map_err(|source| MergeError::Read { what, offset, source })?;
        rest = then;
    }
    Ok(bytes)
}

/// A block with the bytes of the old image that it is like.
struct Candidate {
    target: u64,
    /// Position in the old image.
    source: u64,
}

/// Which of them to store as differences.
fn choose(
    operation: &Operation,
    likes: &[Like],
    old: &dyn ReadAt,
    new: &dyn ReadAt,
    settings: &Settings,
) -> Result<Vec<Found>, MergeError> {
    let mut found = Vec::new();
    let mut likes = likes.iter();
    let mut compressor: Option<Compressor> = None;
    let sources = Places::new(&operation.source);
    for target in &operation.target {
        let mut run: Vec<Candidate> = Vec::new();
        for target in target.start..target.end() {
            let source = likes.next().copied().flatten().and_then(|like| sources.locate(like));
            let source = source.filter(|&source| source + BLOCK_LEN <= old.len().get());
            let follows = run.last().is_some_and(|last| source == Some(last.source + BLOCK_LEN));
            if !follows && !run.is_empty() {
                choose_of_run(&run, old, new, settings, &mut compressor, &mut found)?;
                run.clear();
            }
            run.extend(source.map(|source| Candidate { target, source }));
        }
        if !run.is_empty() {
            choose_of_run(&run, old, new, settings, &mut compressor, &mut found)?;
        }
    }
    Ok(found)
}

/// Blocks that are compressed both ways before the next ones are read.
const WINDOW: usize = 1024;

/// Of blocks that follow one another in both images: parts that save most.
fn choose_of_run(
    run: &[Candidate],
    old: &dyn ReadAt,
    new: &dyn ReadAt,
    settings: &Settings,
    compressor: &mut Option<Compressor>,
    found: &mut Vec<Found>,
) -> Result<(), MergeError> {
    let compressor = match compressor {
        Some(compressor) => compressor,
        none => none.insert(settings.compressor()?),
    };
    let block_len = usize::try_from(BLOCK_LEN).expect("a block is small");
    let mut gains = Vec::with_capacity(run.len());
    let (mut data, mut other) = (Vec::new(), Vec::new());
    for window in run.chunks(WINDOW) {
        let len = window.len() as u64 * BLOCK_LEN;
        cow::read(new, cow::NEW, &mut data, window[0].target * BLOCK_LEN, len)?;
        cow::read(old, cow::OLD, &mut other, window[0].source, len)?;
        let mut rest = &data[..];
        let first = gains.len();
        for piece in cow::pieces(window.len() as u64, settings.together()) {
            let (now, then) = rest.split_at(usize::try_from(piece * BLOCK_LEN).expect("it is in memory"));
            let stored = i64::try_from(compressor.len(now)?.min(now.len())).expect("it is in memory");
            // Blocks that are compressed together share what they take.
            let blocks = i64::try_from(piece).expect("it is at most 64");
            gains.extend((0..blocks).map(|block| (stored + block) / blocks));
            rest = then;
        }
        cow::xor(&mut data, &other);
        for (gain, block) in gains[first..].iter_mut().zip(data.chunks_exact(block_len)) {
            *gain -= i64::try_from(compressor.len(block)?).expect("it is in memory") + BLOCK_COST;
        }
    }
    for (start, end, gain) in best_parts(&gains) {
        found.push(Found {
            source: run[start].source / BLOCK_LEN,
            offset: u16::try_from(run[start].source % BLOCK_LEN).expect("a block has 4096 bytes"),
            target: Extent { start: run[start].target, blocks: (end - start) as u64 },
            gain: gain.unsigned_abs(),
        });
    }
    Ok(())
}

/// The parts of a run whose gains, less [`LEAST_GAIN`] for each part, are largest together: start, end, gain.
fn best_parts(gains: &[i64]) -> Vec<(usize, usize, i64)> {
    // The best sum so far, outside and inside of a part; for the way back, whether a part goes on, and whether it begins.
    let (mut outside, mut inside) = (0, i64::MIN / 2);
    let mut steps = Vec::with_capacity(gains.len());
    for &gain in gains {
        let begins = outside - LEAST_GAIN > inside;
        let ends = inside > outside;
        steps.push((begins, ends));
        let within = gain + if begins { outside - LEAST_GAIN } else { inside };
        outside = outside.max(inside);
        inside = within;
    }
    let mut parts: Vec<(usize, usize, i64)> = Vec::new();
    let mut open = (inside > outside).then_some(gains.len());
    for (index, &(begins, ends)) in steps.iter().enumerate().rev() {
        match open {
            Some(end) if begins => {
                parts.push((index, end, gains[index..end].iter().sum()));
                // What is before a part is outside of it.
                open = None;
            }
            Some(_) => {}
            None => open = ends.then_some(index),
        }
    }
    parts.reverse();
    parts
}

/// Finds positions of an operation's old bytes in the old image.
struct Places<'a> {
    extents: &'a [Extent],
    /// Where each extent starts in the operation's bytes.
    starts: Vec<u64>,
}

impl<'a> Places<'a> {
    fn new(extents: &'a [Extent]) -> Self {
        let mut sum = 0;
        let starts = extents.iter().map(|extent| {
            let start = sum;
            sum += extent.len();
            start
        });
        Self { starts: starts.collect(), extents }
    }

    fn locate(&self, position: u64) -> Option<u64> {
        let index = self.starts.partition_point(|&start| start <= position).checked_sub(1)?;
        let within = position - self.starts[index];
        (within < self.extents[index].len()).then(|| self.extents[index].offset() + within)
    }
}
