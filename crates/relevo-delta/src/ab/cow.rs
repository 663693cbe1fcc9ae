//! How large the snapshots get that a phone writes, found out by compressing as it does.
//!
//! The manifest has to say so beforehand: the phone reserves that much and 2 MiB more, and an update that needs more
//! fails in the middle. Phones that know them write copies and differences as the manifest lists them; everything else
//! is stored as blocks (format 2) or as runs of blocks (format 3), compressed one by one.
//!
//! The number is an upper bound by these rules:
//!
//! - All operations end with a label, as if the phone wrote one after each; it does so at most once a second.
//! - Format 2 is laid out with clusters of 200 operations (Android 12 to 14) and of 1024 (later), and the larger counts.
//! - Blocks that the phone computes, for verity, are compressed one by one and make one operation each.
//! - Blocks that stay in place and are not listed as copies count as stored in format 2, as Android 12 does it.
//! - Differences count as such only if the phone is known to write them ([`Settings::xor`]). If not, and the partition
//!   lists some, every block of them counts as the larger of both, as one never knows.
//! - On top come parts that depend on the compressor, see [`Compression`]: libraries differ between phones and here.
//!
//! # Source
//! AOSP `libsnapshot` of Android 12 to 15: `cow_format.h`, `writer_v2.cpp`, `writer_v3.cpp`, `cow_compress.cpp`,
//! `partition_cow_creator.cpp`; `update_engine`: `payload_generator/cow_size_estimator.cc`,
//! `payload_consumer/block_extent_writer.cc`.

mod compress;

use std::io;

use rayon::prelude::*;
use relevo_format::{
    ReadAt,
    payload::{Extent, MergeKind, OperationKind, Partition},
};
use relevo_types::BLOCK;

pub use self::compress::Compression;
pub(in crate::ab) use self::compress::Compressor;

/// How a phone writes snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Version of the format, 2 or 3.
    pub version: u32,
    /// How blocks are compressed.
    pub compression: Compression,
    /// Bytes that are compressed at a time in format 3: a power of two, 4096 to 262144. Format 2 takes single blocks.
    pub factor: u64,
    /// Whether the phone writes differences to old blocks (`ro.virtual_ab.compression.xor.enabled`).
    pub xor: bool,
}

/// What a snapshot takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Bytes that it has at most; the phone adds 2 MiB.
    pub size: u64,
    /// Operations that it has at most; 0 in format 2, where nothing is reserved for them.
    pub op_count_max: u64,
    /// Bytes by the dry run, without what is put on top.
    pub dry_run: u64,
}

/// Why there is no estimate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CowError {
    /// No such compression.
    #[error("{0:?} is no compression of snapshots; expected gz, brotli, lz4, zstd or none, perhaps with a level")]
    Compression(String),
    /// No such version.
    #[error("version {0} of snapshots is not known; expected 2 or 3")]
    Version(u32),
    /// No such factor.
    #[error("snapshots cannot compress {0} bytes at a time; expected a power of two, 4096 to 262144")]
    Factor(u64),
    /// An image of another length than the partition says.
    #[error("{what} has {actual} bytes; the partition says {expected}")]
    Size {
        /// Which image.
        what: &'static str,
        /// What the partition says.
        expected: u64,
        /// What it has.
        actual: u64,
    },
    /// An image could not be read.
    #[error("could not read {what} at byte {offset}")]
    Read {
        /// Which image.
        what: &'static str,
        /// Where.
        offset: u64,
        /// What reading answered.
        source: io::Error,
    },
    /// The compressor refused.
    #[error("{name} could not compress a block: {detail}")]
    Compress {
        /// Which one.
        name: &'static str,
        /// What it answered.
        detail: String,
    },
}

/// Bytes of a block.
const BLOCK_LEN: u64 = BLOCK.get();
/// Room that merging works in, between header and operations.
const SCRATCH: u64 = 2 << 20;
/// Blocks that `update_engine` hands over at a time when it writes what an operation makes.
const CHUNK: u64 = 256;
/// Blocks that are stored at a time at most, whatever is handed over.
const BATCH: u64 = 1024;
/// Labels besides one for each operation: at the start, at the end, and of interruptions.
const MORE_LABELS: u64 = 64;
/// Operations that format 3 has room for at least, as AOSP's generator has it.
const LEAST_OPERATIONS: u64 = 25;

impl Settings {
    /// Checks them.
    ///
    /// # Errors
    /// [`CowError::Version`], [`CowError::Factor`].
    pub fn check(&self) -> Result<(), CowError> {
        if !(2..=3).contains(&self.version) {
            return Err(CowError::Version(self.version));
        }
        if !self.factor.is_power_of_two() || !(BLOCK_LEN..=64 * BLOCK_LEN).contains(&self.factor) {
            return Err(CowError::Factor(self.factor));
        }
        Ok(())
    }

    /// Blocks that are compressed at a time.
    pub(in crate::ab) fn together(&self) -> u64 {
        if self.version == 2 { 1 } else { self.factor / BLOCK_LEN }
    }

    /// A compressor for them.
    pub(in crate::ab) fn compressor(&self) -> Result<Compressor, CowError> {
        let longest = usize::try_from(self.together() * BLOCK_LEN).expect("factors are at most 256 KiB");
        Compressor::new(self.compression, longest)
    }
}

/// Something that is stored with data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    /// Blocks as they are in the new image.
    Raw(Extent),
    /// Blocks as differences to what starts at a byte of the old image.
    Xor(Extent, u64),
}

/// What a phone writes for a partition.
#[derive(Debug, Default)]
struct Plan {
    writes: Vec<Write>,
    /// Operations without data: copies and zeros.
    bare: u64,
    labels: u64,
    /// Blocks whose order of merging is stored.
    sequence: u64,
}

/// What writes come to.
#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    operations: u64,
    bytes: u64,
}

impl Sum {
    fn add(self, other: Self) -> Self {
        Self { operations: self.operations + other.operations, bytes: self.bytes + other.bytes }
    }
}

/// Finds out what the snapshot of `partition` takes, whose merge is planned. `old` is empty if there is none.
///
/// Runs in rayon's pool that the caller is in; the result does not depend on it.
///
/// # Errors
/// [`CowError`].
pub fn estimate(
    partition: &Partition,
    old: &dyn ReadAt,
    new: &dyn ReadAt,
    settings: &Settings,
) -> Result<Estimate, CowError> {
    settings.check()?;
    check_sizes(partition, old, new)?;
    let mut size = 0;
    let mut operations = 0;
    // Whether differences are written is up to the phone; where that is not known, both are tried.
    let listed = partition.merge_operations.iter().any(|merge| merge.kind == MergeKind::Xor);
    let tries: &[bool] = match (listed, settings.xor) {
        (false, _) => &[false],
        (true, true) => &[true],
        (true, false) => &[false, true],
    };
    for &xor in tries {
        let plan = Plan::new(partition, settings, xor);
        let sum = plan.sum(old, new, settings)?;
        let count = sum.operations + plan.bare;
        operations = operations.max(count);
        size = size.max(match settings.version {
            2 => [200, 1024].map(|cluster| size_v2(&plan, sum, cluster)).into_iter().max().expect("there are two"),
            _ => size_v3(&plan, sum, op_count_max(count, partition)),
        });
    }
    let op_count_max = if settings.version == 2 { 0 } else { op_count_max(operations, partition) };
    Ok(Estimate { size: size + settings.compression.slack(size), op_count_max, dry_run: size })
}

/// Checks that the images are those of the partition.
pub(in crate::ab) fn check_sizes(partition: &Partition, old: &dyn ReadAt, new: &dyn ReadAt) -> Result<(), CowError> {
    let old_size = partition.old.map_or(0, |info| info.size.get());
    for (what, expected, image) in [(OLD, old_size, old), (NEW, partition.new.size.get(), new)] {
        if image.len().get() != expected {
            return Err(CowError::Size { what, expected, actual: image.len().get() });
        }
    }
    Ok(())
}

pub(in crate::ab) const OLD: &str = "the old image";
pub(in crate::ab) const NEW: &str = "the new image";

/// How many operations to make room for: some more than were counted, never more than there are blocks.
fn op_count_max(count: u64, partition: &Partition) -> u64 {
    let blocks = partition.new.size.get() / BLOCK_LEN;
    (count + count / 64 + LEAST_OPERATIONS).min(blocks.max(LEAST_OPERATIONS))
}

/// Header, scratch, then clusters: room for `cluster` operations, behind it their data.
fn size_v2(plan: &Plan, sum: Sum, cluster: u64) -> u64 {
    const HEADER: u64 = 38;
    const OPERATION: u64 = 20;
    const FOOTER: u64 = 84;
    /// Entries of the order that one operation holds.
    const ENTRIES: u64 = 2 * BLOCK_LEN / 4;
    let operations = sum.operations + plan.bare + plan.labels + plan.sequence.div_ceil(ENTRIES);
    // The last operation of a cluster leads to the next one, which is begun at once.
    let clusters = operations / (cluster - 1) + 1;
    HEADER + SCRATCH + clusters * cluster * OPERATION + sum.bytes + 4 * plan.sequence + FOOTER
}

/// Header, scratch, order, resume points, operations, data.
fn size_v3(plan: &Plan, sum: Sum, op_count_max: u64) -> u64 {
    const HEADER: u64 = 78;
    const OPERATION: u64 = 16;
    const RESUME: u64 = 4 * 16;
    HEADER + SCRATCH + 4 * plan.sequence + RESUME + OPERATION * op_count_max + sum.bytes
}

impl Plan {
    fn new(partition: &Partition, settings: &Settings, with_xor: bool) -> Self {
        let mut plan = Self::default();
        // By target, for the search below; the check of the manifest says that they do not overlap.
        let mut copies: Vec<Extent> = Vec::new();
        let mut xors: Vec<(Extent, u64)> = Vec::new();
        for merge in &partition.merge_operations {
            match (merge.kind, merge.source) {
                (MergeKind::Copy, Some(source)) => {
                    copies.push(merge.target);
                    if source.start != merge.target.start {
                        plan.sequence += merge.target.blocks;
                    }
                }
                (MergeKind::Xor, Some(source)) if with_xor => {
                    xors.push((merge.target, source.offset() + u64::from(merge.source_offset)));
                    plan.sequence += merge.target.blocks;
                }
                _ => {}
            }
        }
        copies.sort_unstable();
        xors.sort_unstable();

        for operation in &partition.operations {
            match operation.kind {
                OperationKind::Zero | OperationKind::Discard => plan.bare += operation.target_len() / BLOCK_LEN,
                OperationKind::SourceCopy => plan.copy(&operation.source, &operation.target, &copies, settings),
                kind => {
                    let xors = if kind.reads_source() { &xors[..] } else { &[] };
                    for &extent in &operation.target {
                        plan.store(extent, xors);
                    }
                }
            }
        }
        let verity = partition.verity.iter();
        let verity = verity.flat_map(|verity| {
            let tree = verity.hash_tree.iter().map(|tree| tree.tree);
            tree.chain(verity.fec.iter().map(|fec| fec.fec))
        });
        for extent in verity {
            let blocks = extent.start..extent.end();
            plan.writes.extend(blocks.map(|start| Write::Raw(Extent { start, blocks: 1 })));
            plan.labels += 1;
        }
        plan.labels += partition.operations.len() as u64 + MORE_LABELS;
        plan
    }

    /// Blocks that an operation makes, handed over in chunks.
    fn store(&mut self, extent: Extent, xors: &[(Extent, u64)]) {
        let mut start = extent.start;
        while start < extent.end() {
            let chunk = Extent { start, blocks: CHUNK.min(extent.end() - start) };
            let first = xors.partition_point(|(xor, _)| xor.end() <= chunk.start);
            let inside = xors[first..].iter().take_while(|(xor, _)| xor.start < chunk.end());
            for &(xor, source) in inside {
                let from = xor.start.max(start);
                let blocks = xor.end().min(chunk.end()) - from;
                self.raw(start, from);
                let source = source + (from - xor.start) * BLOCK_LEN;
                self.writes.push(Write::Xor(Extent { start: from, blocks }, source));
                start = from + blocks;
            }
            self.raw(start, chunk.end());
            start = chunk.end();
        }
    }

    /// Blocks of a copy: nothing if they stay, an operation if they are listed, else stored.
    fn copy(&mut self, source: &[Extent], target: &[Extent], copies: &[Extent], settings: &Settings) {
        let mut run: Option<(u64, u64, u64)> = None;
        let blocks = |extents: &[Extent]| {
            let extents = extents.to_vec();
            extents.into_iter().flat_map(|extent| extent.start..extent.end())
        };
        for (from, to) in blocks(source).zip(blocks(target)) {
            let place = copies.partition_point(|copy| copy.end() <= to);
            let listed = copies.get(place).is_some_and(|copy| copy.start <= to);
            if listed || from == to && settings.version > 2 {
                self.bare += u64::from(from != to);
                continue;
            }
            match &mut run {
                Some((run_from, run_to, len)) if *run_from + *len == from && *run_to + *len == to => *len += 1,
                _ => {
                    if let Some((_, start, len)) = run.replace((from, to, 1)) {
                        self.raw(start, start + len);
                    }
                }
            }
        }
        if let Some((_, start, len)) = run {
            self.raw(start, start + len);
        }
    }

    fn raw(&mut self, mut start: u64, end: u64) {
        while start < end {
            let blocks = BATCH.min(end - start);
            self.writes.push(Write::Raw(Extent { start, blocks }));
            start += blocks;
        }
    }

    fn sum(&self, old: &dyn ReadAt, new: &dyn ReadAt, settings: &Settings) -> Result<Sum, CowError> {
        if settings.compression == Compression::None {
            return Ok(self.writes.iter().map(|write| uncompressed(write, settings)).fold(Sum::default(), Sum::add));
        }
        // One is made here, so that threads need not say that they could not.
        drop(settings.compressor()?);
        let compressor = || settings.compressor().expect("one was made before");
        let state = || (compressor(), Vec::new(), Vec::new());
        let sums = self.writes.par_iter().map_init(state, |(compressor, data, other), write| match *write {
            Write::Raw(extent) => {
                read(new, NEW, data, extent.offset(), extent.len())?;
                raw_sum(data, settings, compressor)
            }
            Write::Xor(extent, source) => {
                read(new, NEW, data, extent.offset(), extent.len())?;
                read(old, OLD, other, source, extent.len())?;
                xor(data, other);
                let single = Settings { factor: BLOCK_LEN, ..*settings };
                raw_sum(data, &single, compressor)
            }
        });
        sums.try_reduce(Sum::default, |a, b| Ok(a.add(b)))
    }
}

fn uncompressed(write: &Write, settings: &Settings) -> Sum {
    match write {
        Write::Xor(extent, _) => Sum { operations: extent.blocks, bytes: extent.len() },
        Write::Raw(extent) => {
            Sum { operations: pieces(extent.blocks, settings.together()).count() as u64, bytes: extent.len() }
        }
    }
}

/// How a run of blocks is cut: as many at a time as allowed, of what is left the largest power of two.
pub(in crate::ab) fn pieces(blocks: u64, together: u64) -> impl Iterator<Item = u64> {
    let mut left = blocks;
    std::iter::from_fn(move || {
        let piece = if left >= together { together } else { 1 << left.checked_ilog2()? };
        left -= piece;
        Some(piece)
    })
}

/// What storing a run of blocks takes.
fn raw_sum(data: &[u8], settings: &Settings, compressor: &mut Compressor) -> Result<Sum, CowError> {
    let mut sum = Sum::default();
    let mut rest = data;
    for piece in pieces(data.len() as u64 / BLOCK_LEN, settings.together()) {
        let (now, then) = rest.split_at(usize::try_from(piece * BLOCK_LEN).expect("it is in memory"));
        let len = compressor.len(now)? as u64;
        // Format 3 stores what does not get shorter as it is; format 2 stores it as it came out.
        let len = if settings.version == 2 { len } else { len.min(now.len() as u64) };
        sum = sum.add(Sum { operations: 1, bytes: len });
        rest = then;
    }
    Ok(sum)
}

/// Reads `len` bytes into `data`.
pub(in crate::ab) fn read(
    image: &dyn ReadAt,
    what: &'static str,
    data: &mut Vec<u8>,
    offset: u64,
    len: u64,
) -> Result<(), CowError> {
    data.resize(usize::try_from(len).expect("runs are at most 4 MiB"), 0);
    image.read_exact_at(data, offset).map_err(|source| CowError::Read { what, offset, source })
}

/// Combines two runs of bytes.
pub(in crate::ab) fn xor(data: &mut [u8], other: &[u8]) {
    for (data, other) in data.iter_mut().zip(other) {
        *data ^= other;
    }
}
