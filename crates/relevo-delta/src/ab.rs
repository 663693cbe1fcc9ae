//! Operations of A/B payloads between two sets of images, for the `update_engine` that phones have.
//!
//! The way of one build, all partitions at a time:
//!
//! 1. `side`: both builds are read once; every image gets its SHA-256, every block a digest, and its files are listed.
//! 2. `plan`: blocks that stand somewhere in the old image become copies, blocks of zeros become zeros. What is left is
//!    cut along files into pieces: a large file is several of them, many small ones are one.
//! 3. `bases`: which parts of the old image a piece is like, by the old file of that path and by shared content.
//! 4. `encode`: what the source build's `update_engine` knows is estimated, and the smallest is made in full.
//! 5. `check`: every operation is applied and compared with the new image before it is kept.
//!
//! For phones with compressed snapshots, [`dynamic`] then adds what the manifest says of them, with [`merge`] and [`cow`].
//!
//! No image is held as a whole, and the same input gives the same bytes with any number of threads.

mod bases;
mod blobs;
mod check;
pub mod cow;
pub mod dynamic;
mod encode;
pub mod merge;
mod piece;
mod plan;
mod side;
mod verity;
mod work;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use relevo_format::payload::{self, OperationKind};
use relevo_types::{BLOCK, ByteLen, PartitionName};

pub use blobs::Blobs;

use crate::{DeltaError, Images, Progress, Stage, progress::Times};

/// Which operations may be made. What [`Options::minor`] does not have is never made, whatever stands here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operations {
    /// `SOURCE_BSDIFF`.
    pub bsdiff: bool,
    /// `BROTLI_BSDIFF`, from minor version 4 on.
    pub brotli: bool,
    /// `PUFFDIFF`, from 5 on.
    pub puffdiff: bool,
    /// `ZUCCHINI`, from 8 on.
    pub zucchini: bool,
    /// `LZ4DIFF_BSDIFF` and `LZ4DIFF_PUFFDIFF`, from 9 on.
    pub lz4diff: bool,
    /// `REPLACE_XZ`.
    pub xz: bool,
    /// `REPLACE_BZ`.
    pub bz: bool,
    /// `ZERO`, from 4 on.
    pub zero: bool,
}

impl Operations {
    /// All of them.
    pub const ALL: Self = Self {
        bsdiff: true,
        brotli: true,
        puffdiff: true,
        zucchini: true,
        lz4diff: true,
        xz: true,
        bz: true,
        zero: true,
    };

    /// Those that an `update_engine` of minor version `minor` knows.
    fn known_to(self, minor: u32) -> Self {
        Self {
            bsdiff: self.bsdiff && minor >= 2,
            brotli: self.brotli && minor >= 4,
            puffdiff: self.puffdiff && minor >= 5,
            zucchini: self.zucchini && minor >= 8,
            lz4diff: self.lz4diff && minor >= 9,
            xz: self.xz,
            bz: self.bz,
            zero: self.zero && minor >= 4,
        }
    }
}

impl Default for Operations {
    fn default() -> Self {
        Self::ALL
    }
}

/// How to make operations.
#[derive(Debug, Clone)]
pub struct Options {
    /// Minor version of the source build's `update_engine`, 2 to 9: what it knows.
    pub minor: u32,
    /// Number of threads; 0 for one per core.
    pub threads: usize,
    /// Memory to stay within, in bytes; below [`Options::MIN_MEMORY`] it is refused.
    pub memory: ByteLen,
    /// Which operations may be made.
    pub allowed: Operations,
    /// Whether phones compute hash trees and error correction where they can, from minor version 6 on.
    pub verity: bool,
}

impl Options {
    /// Least memory that operations can be made with, in bytes.
    pub const MIN_MEMORY: ByteLen = ByteLen::mib(256);
    /// Minor versions that there are operations for.
    pub const MINORS: std::ops::RangeInclusive<u32> = 2..=9;
}

impl Default for Options {
    /// Minor version 9, all cores, 1 GiB, everything.
    fn default() -> Self {
        Self { minor: 9, threads: 0, memory: ByteLen::mib(1024), allowed: Operations::ALL, verity: true }
    }
}

/// What was made.
#[derive(Debug)]
pub struct Generated {
    /// The new build's partitions by name; each operation's `data.offset` counts in `blobs`.
    pub partitions: Vec<payload::Partition>,
    /// Data of the operations, in their order.
    pub blobs: Blobs,
    /// What it came to.
    pub report: Report,
}

/// What operations came to.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// By partition, in the order of [`Generated::partitions`].
    pub partitions: Vec<PartitionReport>,
    /// What was not as it should be and was worked around, in words.
    pub warnings: Vec<String>,
    /// Time by stage, on the clock.
    pub times: Vec<(Stage, Duration)>,
}

/// What one partition came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionReport {
    /// Which one.
    pub name: PartitionName,
    /// Bytes of the new image.
    pub target_len: u64,
    /// By kind of operation: how many, bytes that they write, bytes of data.
    pub operations: BTreeMap<OperationKind, Tally>,
}

/// Operations of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// Bytes that they write.
    pub target_len: u64,
    /// Bytes of their data.
    pub data_len: u64,
}

/// Makes operations that turn `old` into `new`; a partition that `old` has not is made from nothing.
///
/// `scratch` is a directory for a file without a name that holds the blobs.
///
/// # Errors
/// [`DeltaError`].
pub fn generate(
    old: &Images<'_>,
    new: &Images<'_>,
    options: &Options,
    scratch: &Path,
    progress: &dyn Progress,
) -> Result<Generated, DeltaError> {
    if new.is_empty() {
        return Err(DeltaError::NoTarget);
    }
    if !Options::MINORS.contains(&options.minor) {
        return Err(DeltaError::Minor(options.minor));
    }
    if options.memory < Options::MIN_MEMORY {
        return Err(DeltaError::Memory { given: options.memory, needed: Options::MIN_MEMORY });
    }
    for (build, images) in [("source", old), ("target", new)] {
        for (name, image) in images {
            let len = image.len().get();
            if !len.is_multiple_of(BLOCK.get()) || len / BLOCK.get() >= plan::MAX_BLOCKS {
                return Err(DeltaError::Size { partition: name.clone(), build, len });
            }
        }
    }
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|source| DeltaError::Threads { threads, source })?;
    let is_delta = new.keys().any(|name| old.get(name).is_some_and(|image| !image.is_empty()));
    let mut allowed = options.allowed.known_to(options.minor);
    // A payload without any source is a full one, and no generator writes zeros into those.
    allowed.zero &= is_delta;

    let mut times = Times::default();
    let mut warnings = Vec::new();
    let total = |images: &Images<'_>| images.values().map(|image| image.len().get()).sum::<u64>();
    progress.start(Stage::Scan, total(old) + total(new));
    let pairs = pool.install(|| side::read_all(old, new, allowed.lz4diff, anchors(options.memory), progress))?;
    for pair in &pairs {
        warnings.extend(pair.warnings());
    }
    let mut computed = vec![None; pairs.len()];
    // Full payloads leave nothing to phones: their minor version is 0.
    if options.verity && options.minor >= verity::SINCE && is_delta {
        for (pair, computed) in pairs.iter().zip(&mut computed) {
            let left = pool.install(|| verity::left(pair.name, pair.new.image));
            let (left, words) = left.map_err(|source| pair.new_error(source))?;
            *computed = left;
            warnings.extend(words);
        }
    }
    let limits = work::Limits::new(options.memory, threads);
    let plans = pool.install(|| plan::plan(&pairs, computed, &allowed, &limits))?;
    times.lap(Stage::Scan);

    progress.start(Stage::Match, total(new));
    let spill = blobs::Spill::new(scratch)?;
    let made = work::make_all(&pairs, &plans, &allowed, &limits, &spill, progress)?;
    times.lap(Stage::Match);

    progress.start(Stage::Write, 0);
    let generated = piece::finish(&pairs, plans, made, spill, Report { warnings, ..Report::default() })?;
    times.lap(Stage::Write);
    Ok(Generated { report: Report { times: times.finish(), ..generated.report }, ..generated })
}

/// How many anchors are kept, in all: 8 bytes each, and as much again while they are sorted.
fn anchors(memory: ByteLen) -> u64 {
    memory.get() / 256
}

/// Where something went wrong while a file was written.
fn write_error(path: &Path) -> impl Fn(std::io::Error) -> DeltaError {
    let path = PathBuf::from(path);
    move |source| DeltaError::Write { path: path.clone(), source }
}
