//! Chooses operations between two sets of images and writes the package.
//!
//! The way of a delta, one stage after the other:
//!
//! 1. `scan`: both builds are read once; every image gets its SHA-256, every 4 KiB block a digest.
//! 2. `plan`: target blocks that stand somewhere in the source become copies, blocks of zeros become zeros; what is
//!    left is cut into pieces of bounded work.
//! 3. `anchor`: for each piece, a sampled index over the whole source says which parts of it are alike.
//! 4. `matcher`: bsdiff's mismatch-tolerant matching of what is left against those parts alone.
//! 5. `piece`: operations, differences and new bytes become streams, compressed on all cores.
//! 6. `verify`: the finished package is applied and compared with the target, byte by byte.
//!
//! Memory is bounded by [`Options::memory`] whatever the images' sizes, since no image is ever held as a whole, and the
//! same input gives the same bytes with any number of threads.
//!
//! # Examples
//! ```
//! use std::collections::BTreeMap;
//!
//! use relevo_delta::{Options, Silent, diff};
//! use relevo_format::ReadAt;
//! use relevo_types::PartitionName;
//!
//! let dir = tempfile::tempdir()?;
//! let system = PartitionName::parse("system")?;
//! let image = |text: &str| -> BTreeMap<PartitionName, Box<dyn ReadAt>> {
//!     BTreeMap::from([(system.clone(), Box::new(text.as_bytes().repeat(1000)) as Box<dyn ReadAt>)])
//! };
//! let report = diff(&image("old build "), &image("new build "), &Options::default(), &dir.path().join("x.rvp"), &Silent)?;
//! assert!(report.package_len.get() < 1000);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod ab;
mod anchor;
mod matcher;
mod piece;
mod plan;
mod progress;
mod scan;
mod verify;
mod write;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use relevo_format::{
    ReadAt,
    apply::ApplyError,
    package::{Base, BaseKind, Info, Limits, PackageError},
    payload,
};
use relevo_types::{ByteLen, PartitionName};

pub use progress::{Progress, Silent, Stage};

/// A build's images by partition.
pub type Images<'a> = BTreeMap<PartitionName, Box<dyn ReadAt + 'a>>;

/// How to make a package.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of threads; 0 for one per core.
    pub threads: usize,
    /// Memory to stay within, in bytes. Below [`Options::MIN_MEMORY`] it is refused; from 1 GiB on more memory allows
    /// more threads at a time and changes nothing else.
    pub memory: ByteLen,
    /// zstd's compression level, 1 to 22.
    pub level: i32,
    /// For which device and builds; the memory of applying is filled in.
    pub info: Info,
}

impl Options {
    /// Least memory that a delta can be made with, in bytes.
    pub const MIN_MEMORY: ByteLen = ByteLen::mib(128);
}

impl Default for Options {
    /// All cores, 1 GiB, level 19.
    fn default() -> Self {
        Self { threads: 0, memory: ByteLen::mib(1024), level: 19, info: Info::default() }
    }
}

/// What was made.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Length of the package.
    pub package_len: ByteLen,
    /// Length of all target images.
    pub target_len: ByteLen,
    /// By partition, in the order of the package.
    pub partitions: Vec<PartitionReport>,
    /// Time by stage, on the clock.
    pub times: Vec<(Stage, Duration)>,
}

/// What one partition costs; all in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionReport {
    /// Which partition.
    pub name: PartitionName,
    /// Length of the target image.
    pub target_len: u64,
    /// Copied as they are.
    pub copied: u64,
    /// Copied with differences.
    pub added: u64,
    /// New.
    pub inserted: u64,
    /// Zeros.
    pub zeros: u64,
    /// Stored in the package for this partition.
    pub stored: u64,
}

/// Why no package was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeltaError {
    /// An image could not be read.
    #[error("could not read partition {partition} of the {build} build")]
    Read {
        /// Which partition.
        partition: PartitionName,
        /// `source` or `target`.
        build: &'static str,
        /// What reading answered.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("could not write {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What writing answered.
        source: io::Error,
    },
    /// Less memory than the work takes.
    #[error("{given} of memory is not enough; give at least {needed}")]
    Memory {
        /// What was given.
        given: ByteLen,
        /// What is needed.
        needed: ByteLen,
    },
    /// There is nothing to make a package of.
    #[error("the target build has no images")]
    NoTarget,
    /// An image that is no number of blocks, or of too many.
    #[error(
        "partition {partition} of the {build} build has {len} bytes; A/B payloads take a multiple of 4096, below 16 TiB"
    )]
    Size {
        /// Which partition.
        partition: PartitionName,
        /// `source` or `target`.
        build: &'static str,
        /// Its bytes.
        len: u64,
    },
    /// No such minor version of payloads.
    #[error("there are no operations for minor version {0}; expected 2 to 9")]
    Minor(u32),
    /// An operation does not apply: a fault of this program; nothing was handed over.
    #[error("an operation for partition {partition} does not make the new image")]
    Operation {
        /// Which partition.
        partition: PartitionName,
        /// What applying answered.
        source: Box<payload::ApplyError>,
    },
    /// The compressor refused.
    #[error("could not compress a stream at level {level}")]
    Compress {
        /// The level asked for.
        level: i32,
        /// What it answered.
        source: io::Error,
    },
    /// Threads could not be started.
    #[error("could not start {threads} threads")]
    Threads {
        /// How many.
        threads: usize,
        /// What the pool answered.
        source: rayon::ThreadPoolBuildError,
    },
    /// The package could not be put together.
    #[error("could not put the package together")]
    Package(#[from] PackageError),
    /// The finished package does not apply: a fault of this program; nothing was handed over.
    #[error("the finished package does not apply")]
    Verify(#[source] ApplyError),
    /// The finished package makes other bytes: a fault of this program, or the images changed meanwhile.
    #[error("the finished package does not make partition {partition} of the target build; did its image change?")]
    Differs {
        /// Which partition.
        partition: PartitionName,
    },
    /// The caller stopped the work.
    #[error("stopped")]
    Stopped,
}

/// Makes a package that turns `old` into `new` (an empty `old` makes a full package) and writes it, unsigned, to `out`.
///
/// The file gets its name only after the package was applied to `old` and gave `new` byte by byte.
///
/// # Errors
/// [`DeltaError`]; then nothing is left at `out` but what was there before.
pub fn diff(
    old: &Images<'_>,
    new: &Images<'_>,
    options: &Options,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Report, DeltaError> {
    if new.is_empty() {
        return Err(DeltaError::NoTarget);
    }
    if options.memory < Options::MIN_MEMORY {
        return Err(DeltaError::Memory { given: options.memory, needed: Options::MIN_MEMORY });
    }
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let budget = piece::Budget::new(options.memory, threads);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(budget.threads).build();
    let pool = pool.map_err(|source| DeltaError::Threads { threads, source })?;
    pool.install(|| run(old, new, options, &budget, out, progress))
}

fn run(
    old: &Images<'_>,
    new: &Images<'_>,
    options: &Options,
    budget: &piece::Budget,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Report, DeltaError> {
    let mut times = progress::Times::default();

    progress.start(Stage::Scan, total(old) + total(new));
    let source = scan::scan(old, "source", budget, true, progress)?;
    let target = scan::scan(new, "target", budget, false, progress)?;
    times.lap(Stage::Scan);

    let plan = plan::plan(&source, &target, budget);
    drop(target.blocks);
    let anchors = source.anchors;

    progress.start(Stage::Match, total(new));
    let bases: Vec<&dyn ReadAt> = old.values().map(|image| &**image).collect();
    let spill = write::Spill::new(out)?;
    let pieces = piece::make_all(&plan, &bases, new, &anchors, options, budget, &spill, progress)?;
    drop(anchors);
    times.lap(Stage::Match);

    progress.start(Stage::Write, 0);
    let bases = source.images.iter().map(|image| Base {
        kind: BaseKind::Source,
        partition: image.name.clone(),
        size: ByteLen::new(image.len),
        sha256: image.sha256,
    });
    let removed = old.keys().filter(|name| !new.contains_key(*name)).cloned().collect();
    let limits = Limits { memory: ByteLen::new(u64::MAX), ..Limits::default() };
    let draft = write::write(&target.images, bases.collect(), removed, &pieces, options, &spill, &limits, out)?;
    times.lap(Stage::Write);

    progress.start(Stage::Verify, total(old) + total(new));
    verify::verify(draft.path(), old, new, &limits, progress)?;
    let package_len = draft.keep(out)?;
    times.lap(Stage::Verify);

    Ok(Report {
        package_len,
        target_len: ByteLen::new(total(new)),
        partitions: piece::report(&target.images, &pieces),
        times: times.finish(),
    })
}

fn total(images: &Images<'_>) -> u64 {
    images.values().map(|image| image.len().get()).sum()
}
