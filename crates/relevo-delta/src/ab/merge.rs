//! How a phone with compressed snapshots merges them: which blocks it moves instead of storing them, and in what order.
//!
//! After the restart, `snapuserd` makes the new image in place, over the old one. A block that the snapshot says is a
//! copy of an old block, or an old block with a difference, is made of what the partition holds at that moment; so the
//! manifest lists these blocks in an order in which nothing is overwritten that a later one reads. Everything else is
//! stored in the snapshot as a whole, and merged after them.
//!
//! - `COW_COPY`, for blocks of `SOURCE_COPY`. Copies that overlap themselves are cut, as phones without sequence data
//!   (Android 12) merge a step in either direction. Blocks that stay where they are come last, where they bind nothing:
//!   from Android 14 on they are skipped without being listed, but Android 12 and 13 store them if they are not.
//! - `COW_XOR`, for blocks of patches that are like some old bytes, if what is left of their difference is enough smaller
//!   than the block. Only if the phone writes such differences ([`Settings::xor`]).
//!
//! # Source
//! AOSP `update_engine`: `payload_generator/merge_sequence_generator.cc`, `payload_consumer/vabc_partition_writer.cc` and
//! `xor_extent_writer.cc` of Android 12 to 15; `libsnapshot`: `cow_reader.cpp`, `VerifyMergeOps`.

mod order;
mod xor;

use std::io;

use relevo_format::{
    ReadAt,
    patch::PatchError,
    payload::{Extent, MergeKind, MergeOperation, OperationKind, Partition},
};
use relevo_types::BLOCK;

use self::order::Step;
use super::cow::{self, Compressor, CowError, Settings};

/// Why no merge was planned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// An image or the blobs could not be read.
    #[error("could not read {what} at byte {offset}")]
    Read {
        /// What was read.
        what: &'static str,
        /// Where.
        offset: u64,
        /// What reading answered.
        source: io::Error,
    },
    /// More blocks than the format of snapshots can name.
    #[error("the partition has {blocks} blocks; snapshots name at most {limit}")]
    TooLarge {
        /// Its blocks, of the larger image.
        blocks: u64,
        /// The most that there may be.
        limit: u64,
    },
    /// A patch that is none.
    #[error("the patch of operation {index} cannot be read")]
    Patch {
        /// Which operation.
        index: usize,
        /// What is wrong with it.
        source: PatchError,
    },
    /// Settings or images that do not fit, or no compression.
    #[error("could not find out what the snapshot would take")]
    Cow(#[from] CowError),
}

/// Snapshots name blocks by 32 bits; half of that leaves room to count.
const MOST_BLOCKS: u64 = 1 << 31;
/// Blocks of a step that are compressed to find out what leaving it out costs.
const SAMPLES: u64 = 8;
/// Steps for which that is done. Of more, some stand for their neighbours: millions of blocks take longer than all else.
const SAMPLED: usize = 16 << 10;

/// Plans the merge of `partition`, whose operations are finished and have their data in `blobs`.
///
/// The same input gives the same plan with any number of threads; the work runs in rayon's pool that the caller is in.
///
/// # Errors
/// [`MergeError`].
pub fn plan(
    partition: &Partition,
    blobs: &dyn ReadAt,
    old: &dyn ReadAt,
    new: &dyn ReadAt,
    settings: &Settings,
) -> Result<Vec<MergeOperation>, MergeError> {
    settings.check()?;
    cow::check_sizes(partition, old, new)?;
    let (old_blocks, new_blocks) = (old.len().get() / BLOCK.get(), new.len().get() / BLOCK.get());
    let blocks = old_blocks.max(new_blocks);
    if blocks > MOST_BLOCKS {
        return Err(MergeError::TooLarge { blocks, limit: MOST_BLOCKS });
    }
    let mut steps = Vec::new();
    let mut still = Vec::new();
    for operation in partition.operations.iter().filter(|operation| operation.kind == OperationKind::SourceCopy) {
        for (source, target) in pairs(&operation.source, &operation.target) {
            if source.start == target.start {
                still.push(target);
            } else {
                steps.push((source.start, target, 0, None));
            }
        }
    }
    if settings.xor {
        for found in xor::find(partition, blobs, old, new, settings)? {
            steps.push((found.source, found.target, found.offset, Some(found.gain)));
        }
    }

    let mut compressor = Compressor::quick();
    let mut ordered = Vec::with_capacity(steps.len());
    let copies = steps.iter().filter(|(.., gain)| gain.is_none()).count();
    let (every, mut copied, mut sampled) = (copies.div_ceil(SAMPLED), 0, 0);
    for (origin, (source, target, offset, gain)) in (0..).zip(steps) {
        let cost = match gain {
            Some(gain) => gain / target.blocks,
            None => {
                if copied % every == 0 {
                    sampled = cost(target, new, &mut compressor)?;
                }
                copied += 1;
                sampled
            }
        };
        ordered.push(Step {
            origin,
            target: narrow(target.start),
            source: narrow(source),
            blocks: narrow(target.blocks),
            xor: gain.is_some(),
            offset,
            cost: narrow(cost),
        });
    }
    let ordered = order::order(&ordered, narrow(new_blocks));

    let mut merge: Vec<_> = ordered.iter().map(operation).collect();
    still.sort_unstable();
    merge.extend(still.into_iter().map(|extent| MergeOperation {
        kind: MergeKind::Copy,
        source: Some(extent),
        target: extent,
        source_offset: 0,
    }));
    Ok(merge)
}

/// The runs that two lists of extents, of as many blocks, have in common.
fn pairs(source: &[Extent], target: &[Extent]) -> Vec<(Extent, Extent)> {
    let mut out = Vec::new();
    let (mut sources, mut targets) = (source.iter().copied(), target.iter().copied());
    let (mut source, mut target) = (sources.next(), targets.next());
    while let (Some(from), Some(to)) = (source, target) {
        let blocks = from.blocks.min(to.blocks);
        out.push((Extent { blocks, ..from }, Extent { blocks, ..to }));
        let rest = |extent: Extent| Extent { start: extent.start + blocks, blocks: extent.blocks - blocks };
        source = Some(rest(from)).filter(|rest| rest.blocks > 0).or_else(|| sources.next());
        target = Some(rest(to)).filter(|rest| rest.blocks > 0).or_else(|| targets.next());
    }
    out
}

/// About how many bytes a block of `target` takes if it is stored.
fn cost(target: Extent, new: &dyn ReadAt, compressor: &mut Compressor) -> Result<u64, MergeError> {
    let samples = target.blocks.min(SAMPLES);
    let mut block = vec![0; usize::try_from(BLOCK.get()).expect("a block is small")];
    let mut sum = 0;
    for sample in 0..samples {
        let offset = (target.start + sample * target.blocks / samples) * BLOCK.get();
        let read = new.read_exact_at(&mut block, offset);
        read.map_err(|source| MergeError::Read { what: cow::NEW, offset, source })?;
        sum += compressor.len(&block)? as u64;
    }
    Ok(sum / samples)
}

fn operation(step: &Step) -> MergeOperation {
    MergeOperation {
        kind: if step.xor { MergeKind::Xor } else { MergeKind::Copy },
        source: Some(Extent { start: step.source.into(), blocks: step.reads().into() }),
        target: Extent { start: step.target.into(), blocks: step.blocks.into() },
        source_offset: step.offset.into(),
    }
}

/// Blocks and the bytes of one; both were checked against [`MOST_BLOCKS`].
fn narrow(number: u64) -> u32 {
    u32::try_from(number).expect("partitions have at most 2^31 blocks")
}
