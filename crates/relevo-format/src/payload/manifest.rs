//! What a payload says of itself, checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use relevo_types::{BLOCK, ByteLen, NameError, PartitionName, Sha256};

use super::{PayloadError, wire};

/// What a payload makes and of what.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Which operations the source build has to know; 0 in a full payload.
    pub minor_version: u32,
    /// Date of the build in seconds since 1970; phones with a newer build refuse it. None if it is not said.
    pub max_timestamp: Option<i64>,
    /// Whether partitions that are not named stay as they are.
    pub partial: bool,
    /// Security patch level of the build.
    pub security_patch_level: Option<String>,
    /// Partitions, in the payload's order.
    pub partitions: Vec<Partition>,
    /// What Virtual A/B is told: groups, snapshots, compression.
    pub dynamic: Option<wire::DynamicPartitionMetadata>,
    /// APEXes of the build.
    pub apexes: Vec<wire::ApexInfo>,
}

/// An image by length and digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageInfo {
    /// Its length in bytes.
    pub size: ByteLen,
    /// Its SHA-256.
    pub sha256: Sha256,
}

/// One partition of a payload.
#[derive(Debug, Clone, PartialEq)]
pub struct Partition {
    /// Its name, without a slot.
    pub name: PartitionName,
    /// The image that it starts from; none if it is made from the payload alone.
    pub old: Option<ImageInfo>,
    /// The image that it makes.
    pub new: ImageInfo,
    /// How, in the payload's order.
    pub operations: Vec<Operation>,
    /// What the phone computes; none if operations make all.
    pub verity: Option<Verity>,
    /// Its own version, as phones compare it.
    pub version: Option<String>,
    /// The program that runs after it was written.
    pub postinstall: Option<Postinstall>,
    /// How its snapshot is merged, in this order; what is not named is merged before as it was written.
    pub merge_operations: Vec<MergeOperation>,
    /// Bytes that its snapshot takes.
    pub estimate_cow_size: Option<u64>,
    /// Operations that its snapshot takes.
    pub estimate_op_count_max: Option<u64>,
}

impl Partition {
    /// Blocks that the phone computes.
    pub fn computed(&self) -> impl Iterator<Item = Extent> + '_ {
        self.verity.iter().flat_map(Verity::extents)
    }
}

/// Blocks that a phone computes out of those that operations make.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verity {
    /// The hash tree.
    pub hash_tree: Option<HashTree>,
    /// The error correction; it may cover the hash tree.
    pub fec: Option<Fec>,
}

impl Verity {
    /// The blocks: those of the hash tree, then those of the error correction.
    pub fn extents(&self) -> impl Iterator<Item = Extent> + '_ {
        let tree = self.hash_tree.iter().map(|tree| tree.tree);
        tree.chain(self.fec.iter().map(|fec| fec.fec))
    }
}

/// A hash tree of dm-verity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashTree {
    /// What it covers.
    pub data: Extent,
    /// Where it goes; behind what it covers.
    pub tree: Extent,
    /// Its digest; stock generators know `sha256` alone.
    pub algorithm: String,
    /// What each block is hashed with.
    pub salt: Vec<u8>,
}

/// Error correction of dm-verity, Reed-Solomon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fec {
    /// What it covers.
    pub data: Extent,
    /// Where it goes; behind what it covers and behind the hash tree.
    pub fec: Extent,
    /// Parity bytes of a code word of 255.
    pub roots: u32,
}

/// How a part of a snapshot is merged into its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeOperation {
    /// In what way.
    pub kind: MergeKind,
    /// What it reads; there always for the kinds that read.
    pub source: Option<Extent>,
    /// What it writes.
    pub target: Extent,
    /// Bytes of the first block that it leaves out.
    pub source_offset: u32,
}

/// What a step of a merge does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MergeKind {
    /// Moves blocks within the partition.
    Copy,
    /// Moves blocks, and combines them with a difference that the snapshot holds.
    Xor,
    /// Writes what the snapshot holds.
    Replace,
}

impl MergeKind {
    /// As the format calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Copy => "COPY",
            Self::Xor => "XOR",
            Self::Replace => "REPLACE",
        }
    }

    fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            0 => Self::Copy,
            1 => Self::Xor,
            2 => Self::Replace,
            _ => return None,
        })
    }

    fn number(self) -> i32 {
        match self {
            Self::Copy => 0,
            Self::Xor => 1,
            Self::Replace => 2,
        }
    }
}

/// A program of a partition that runs after it was written, before the phone starts from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postinstall {
    /// Where it is in the partition.
    pub path: String,
    /// File system that the partition is mounted as; empty if it is not said.
    pub filesystem: String,
    /// Whether it may fail.
    pub optional: bool,
}

/// A run of blocks of [`BLOCK`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extent {
    /// First block, counted from the start of the partition.
    pub start: u64,
    /// Number of blocks; never 0.
    pub blocks: u64,
}

impl Extent {
    /// First byte in the partition.
    pub fn offset(&self) -> u64 {
        // An extent is inside its partition, whose size is a number of bytes.
        self.start * BLOCK.get()
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.blocks * BLOCK.get()
    }

    /// Never: extents of no blocks are refused.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The block behind the last one.
    pub fn end(&self) -> u64 {
        self.start + self.blocks
    }
}

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum OperationKind {
    /// Writes its data.
    Replace,
    /// Writes its data, stored with bzip2.
    ReplaceBz,
    /// Copies blocks of the source.
    SourceCopy,
    /// A patch of bsdiff's first format.
    SourceBsdiff,
    /// Writes zeros.
    Zero,
    /// Gives the blocks back; they read as zeros.
    Discard,
    /// Writes its data, stored with xz.
    ReplaceXz,
    /// A patch between inflated streams.
    Puffdiff,
    /// A patch of bsdiff's second format.
    BrotliBsdiff,
    /// A patch between programs.
    Zucchini,
    /// A patch between files that were stored with LZ4.
    Lz4diffBsdiff,
    /// The same, with a puffin patch inside.
    Lz4diffPuffdiff,
    /// Writes its data, stored with Zstandard.
    ReplaceZstd,
}

impl OperationKind {
    /// By its number.
    fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            0 => Self::Replace,
            1 => Self::ReplaceBz,
            4 => Self::SourceCopy,
            5 => Self::SourceBsdiff,
            6 => Self::Zero,
            7 => Self::Discard,
            8 => Self::ReplaceXz,
            9 => Self::Puffdiff,
            10 => Self::BrotliBsdiff,
            11 => Self::Zucchini,
            12 => Self::Lz4diffBsdiff,
            13 => Self::Lz4diffPuffdiff,
            14 => Self::ReplaceZstd,
            _ => return None,
        })
    }

    fn number(self) -> i32 {
        match self {
            Self::Replace => 0,
            Self::ReplaceBz => 1,
            Self::SourceCopy => 4,
            Self::SourceBsdiff => 5,
            Self::Zero => 6,
            Self::Discard => 7,
            Self::ReplaceXz => 8,
            Self::Puffdiff => 9,
            Self::BrotliBsdiff => 10,
            Self::Zucchini => 11,
            Self::Lz4diffBsdiff => 12,
            Self::Lz4diffPuffdiff => 13,
            Self::ReplaceZstd => 14,
        }
    }

    /// As the format calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Replace => "REPLACE",
            Self::ReplaceBz => "REPLACE_BZ",
            Self::SourceCopy => "SOURCE_COPY",
            Self::SourceBsdiff => "SOURCE_BSDIFF",
            Self::Zero => "ZERO",
            Self::Discard => "DISCARD",
            Self::ReplaceXz => "REPLACE_XZ",
            Self::Puffdiff => "PUFFDIFF",
            Self::BrotliBsdiff => "BROTLI_BSDIFF",
            Self::Zucchini => "ZUCCHINI",
            Self::Lz4diffBsdiff => "LZ4DIFF_BSDIFF",
            Self::Lz4diffPuffdiff => "LZ4DIFF_PUFFDIFF",
            Self::ReplaceZstd => "REPLACE_ZSTD",
        }
    }

    /// Whether it reads the old partition.
    pub fn reads_source(self) -> bool {
        matches!(
            self,
            Self::SourceCopy
                | Self::SourceBsdiff
                | Self::Puffdiff
                | Self::BrotliBsdiff
                | Self::Zucchini
                | Self::Lz4diffBsdiff
                | Self::Lz4diffPuffdiff
        )
    }

    /// Whether it has data in the payload.
    pub fn has_data(self) -> bool {
        !matches!(self, Self::SourceCopy | Self::Zero | Self::Discard)
    }
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An operation's bytes in the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Data {
    /// First byte, counted from the first blob.
    pub offset: u64,
    /// Number of bytes; never 0.
    pub len: u64,
    /// Their SHA-256; old generators leave it out.
    pub sha256: Option<Sha256>,
}

/// One step of making a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// What it does.
    pub kind: OperationKind,
    /// What it has in the payload.
    pub data: Option<Data>,
    /// What it reads of the old partition, in this order.
    pub source: Vec<Extent>,
    /// SHA-256 of what it reads.
    pub source_sha256: Option<Sha256>,
    /// What it writes, in this order.
    pub target: Vec<Extent>,
}

impl Operation {
    /// Bytes that it reads of the old partition.
    pub fn source_len(&self) -> u64 {
        self.source.iter().map(Extent::len).sum()
    }

    /// Bytes that it writes.
    pub fn target_len(&self) -> u64 {
        self.target.iter().map(Extent::len).sum()
    }
}

/// What is wrong with one operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperationError {
    /// A number that means nothing to us.
    #[error("its kind is {0}, which this version does not know")]
    Kind(i32),
    /// MOVE and BSDIFF, which wrote over what they read.
    #[error("its kind is {0}, which works in place and ended with version 1 of the format")]
    InPlace(&'static str),
    /// It has no kind.
    #[error("it does not say what it does")]
    NoKind,
    /// Data where none belongs, or none where some does.
    #[error("{kind} with {len} bytes of data")]
    Data {
        /// What it does.
        kind: OperationKind,
        /// Bytes of data.
        len: u64,
    },
    /// A gap between blobs, or bytes that two operations share.
    #[error("its data starts at byte {actual}; what came before ends at {expected}")]
    DataOffset {
        /// Where it has to start.
        expected: u64,
        /// Where it starts.
        actual: u64,
    },
    /// Lengths that are over 64 bits together.
    #[error("its lengths are over 2^64 together")]
    Overflow,
    /// An extent without blocks.
    #[error("an extent at block {start} has no blocks")]
    EmptyExtent {
        /// First block.
        start: u64,
    },
    /// An extent beyond the image.
    #[error("the {whose} has {image} blocks; an extent is {blocks} blocks at {start}")]
    Beyond {
        /// Old or new image.
        whose: &'static str,
        /// Blocks of the image.
        image: u64,
        /// First block of the extent.
        start: u64,
        /// Its blocks.
        blocks: u64,
    },
    /// It writes nothing.
    #[error("{0} writes nothing")]
    NoTarget(OperationKind),
    /// Extents of the source where none belong, or none where some do.
    #[error("{kind} reads {blocks} blocks of the old image")]
    Source {
        /// What it does.
        kind: OperationKind,
        /// Blocks that it reads.
        blocks: u64,
    },
    /// A copy of another length.
    #[error("it copies {source_blocks} blocks to {target_blocks}")]
    CopyLength {
        /// Blocks that it reads.
        source_blocks: u64,
        /// Blocks that it writes.
        target_blocks: u64,
    },
    /// No SHA-256.
    #[error("its {whose} digest has {len} bytes; a SHA-256 has 32")]
    Digest {
        /// Of data or source.
        whose: &'static str,
        /// Bytes.
        len: usize,
    },
    /// It reads from an image that the payload says nothing of.
    #[error("it reads the old image, of which nothing is said")]
    NoOld,
}

/// What is wrong with one partition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    /// No such name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It was there before.
    #[error("it is named twice")]
    Twice,
    /// Nothing is said of the image that it makes.
    #[error("the length and digest of the new image are missing")]
    NoNew,
    /// A digest of another length.
    #[error("the digest of the {whose} has {len} bytes; a SHA-256 has 32")]
    Digest {
        /// Old or new image.
        whose: &'static str,
        /// Bytes.
        len: usize,
    },
    /// Not a number of blocks, or beyond the limit.
    #[error("the {whose} has {size} bytes; expected a multiple of {BLOCK}, at most {limit}")]
    Size {
        /// Old or new image.
        whose: &'static str,
        /// Bytes.
        size: u64,
        /// The most that we take.
        limit: ByteLen,
    },
    /// One operation is wrong.
    #[error("operation {index} is wrong")]
    Operation {
        /// Which one.
        index: usize,
        /// What is wrong.
        source: OperationError,
    },
    /// Two operations write the same block, or one does so twice.
    #[error("block {block} is written twice")]
    Overlap {
        /// Which one.
        block: u64,
    },
    /// Blocks that nothing writes.
    #[error("{written} of {blocks} blocks are written")]
    Uncovered {
        /// Blocks that are written.
        written: u64,
        /// Blocks that have to be.
        blocks: u64,
    },
    /// An extent of the hash tree or of the error correction beyond the image, or none where one has to be.
    #[error("{what}: {source}")]
    VerityExtent {
        /// Which extent.
        what: &'static str,
        /// What is wrong.
        source: OperationError,
    },
    /// Computed out of what comes later.
    #[error("{what} starts at block {start}; what it is computed from ends at {end}")]
    VerityOrder {
        /// Which one.
        what: &'static str,
        /// Its first block.
        start: u64,
        /// The block behind the last one that it is computed from.
        end: u64,
    },
    /// No such code.
    #[error("the error correction has {0} parity bytes in 255; expected 1 to 254")]
    FecRoots(u32),
    /// Text or bytes of a length that no generator writes.
    #[error("its {what} has {len} bytes; the limit is {limit}")]
    TooLong {
        /// Which field.
        what: &'static str,
        /// Bytes.
        len: usize,
        /// The most that we take.
        limit: usize,
    },
    /// A step of the merge of a kind that is not known, or that does not go with what it reads.
    #[error("step {index} of the merge is of kind {kind} and {reads}")]
    MergeKind {
        /// Which one.
        index: usize,
        /// The kind's number.
        kind: i32,
        /// Whether it reads anything.
        reads: &'static str,
    },
    /// Blocks that do not go together.
    #[error("step {index} of the merge writes {target_blocks} blocks from {source_blocks}, {offset} bytes in")]
    MergeLength {
        /// Which one.
        index: usize,
        /// Blocks that it reads.
        source_blocks: u64,
        /// Blocks that it writes.
        target_blocks: u64,
        /// Bytes of the first block that it leaves out.
        offset: u32,
    },
    /// A merge that touches what it has written: no order, or a cycle.
    #[error("step {index} of the merge reads or writes blocks that an earlier step writes")]
    MergeOrder {
        /// Which one.
        index: usize,
    },
    /// An extent of the merge beyond its image.
    #[error("step {index} of the merge reaches beyond the image")]
    MergeBeyond {
        /// Which one.
        index: usize,
    },
}

/// Checks a decoded manifest; gives it with the length of all blobs.
pub(super) fn check(raw: wire::DeltaArchiveManifest, limit: ByteLen) -> Result<(Manifest, u64), PayloadError> {
    let block_size = raw.block_size.unwrap_or(4096);
    if u64::from(block_size) != BLOCK.get() {
        return Err(PayloadError::BlockSize(block_size));
    }
    let mut names = BTreeSet::new();
    let mut blobs = 0;
    let mut partitions = Vec::with_capacity(raw.partitions.len());
    for partition in raw.partitions {
        let name = partition.partition_name.clone().unwrap_or_default();
        let wrong = |source| PayloadError::Partition { name: name.chars().take(80).collect(), source };
        let checked = check_partition(partition, limit, &mut blobs).map_err(wrong)?;
        if !names.insert(checked.name.clone()) {
            return Err(wrong(PartitionError::Twice));
        }
        partitions.push(checked);
    }
    if partitions.is_empty() {
        return Err(PayloadError::NoPartitions);
    }
    let manifest = Manifest {
        minor_version: raw.minor_version.unwrap_or(0),
        max_timestamp: raw.max_timestamp,
        partial: raw.partial_update.unwrap_or(false),
        security_patch_level: raw.security_patch_level,
        partitions,
        dynamic: raw.dynamic_partition_metadata,
        apexes: raw.apex_info,
    };
    Ok((manifest, blobs))
}

const OLD: &str = "old image";
const NEW: &str = "new image";

fn image(raw: &wire::PartitionInfo, whose: &'static str, limit: ByteLen) -> Result<ImageInfo, PartitionError> {
    let hash = raw.hash.as_deref().unwrap_or_default();
    let size = raw.size.unwrap_or(0);
    if !size.is_multiple_of(BLOCK.get()) || size > limit.get() {
        return Err(PartitionError::Size { whose, size, limit });
    }
    let hash = <[u8; 32]>::try_from(hash).map_err(|_| PartitionError::Digest { whose, len: hash.len() })?;
    Ok(ImageInfo { size: ByteLen::new(size), sha256: Sha256::new(hash) })
}

fn check_partition(raw: wire::PartitionUpdate, limit: ByteLen, blobs: &mut u64) -> Result<Partition, PartitionError> {
    let name = PartitionName::parse(raw.partition_name.as_deref().unwrap_or_default())?;
    // A partition that is new in this build has an old image of no bytes, and may have no digest of it.
    let old = raw.old_partition_info.as_ref().filter(|old| old.size.unwrap_or(0) > 0);
    let old = old.map(|old| image(old, OLD, limit)).transpose()?;
    let new = image(raw.new_partition_info.as_ref().ok_or(PartitionError::NoNew)?, NEW, limit)?;
    let blocks = new.size.get() / BLOCK.get();
    let old_blocks = old.map(|old| old.size.get() / BLOCK.get());
    let verity = check_verity(&raw, blocks)?;
    let mut operations = Vec::with_capacity(raw.operations.len());
    for (index, operation) in raw.operations.into_iter().enumerate() {
        let operation = check_operation(operation, old_blocks, blocks, blobs);
        operations.push(operation.map_err(|source| PartitionError::Operation { index, source })?);
    }
    let merge_operations = check_merge(&raw.merge_operations, old_blocks.unwrap_or(0), blocks)?;
    let postinstall = raw.run_postinstall.unwrap_or(false).then(|| Postinstall {
        // What phones run if nothing is said.
        path: raw.postinstall_path.unwrap_or_else(|| "postinstall".to_owned()),
        filesystem: raw.filesystem_type.unwrap_or_default(),
        optional: raw.postinstall_optional.unwrap_or(false),
    });
    let partition = Partition {
        name,
        old,
        new,
        operations,
        verity,
        version: raw.version,
        postinstall,
        merge_operations,
        estimate_cow_size: raw.estimate_cow_size,
        estimate_op_count_max: raw.estimate_op_count_max,
    };
    check_cover(&partition, blocks)?;
    Ok(partition)
}

/// Longest name of a digest, in bytes.
const MAX_ALGORITHM: usize = 32;
/// Longest salt of a hash tree, in bytes; avbtool writes 32.
const MAX_SALT: usize = 256;

fn check_verity(raw: &wire::PartitionUpdate, blocks: u64) -> Result<Option<Verity>, PartitionError> {
    // What the device is not asked to compute is absent or empty.
    let asked = |extent: Option<wire::Extent>| extent.filter(|extent| extent.num_blocks.unwrap_or(0) > 0);
    let within = |what, extent: &wire::Extent| {
        inside(extent, NEW, blocks).map_err(|source| PartitionError::VerityExtent { what, source })
    };
    let after = |what, extent: Extent, end| {
        if extent.start < end { Err(PartitionError::VerityOrder { what, start: extent.start, end }) } else { Ok(()) }
    };
    let limit = |what, len, limit| {
        if len > limit { Err(PartitionError::TooLong { what, len, limit }) } else { Ok(()) }
    };
    let mut verity = Verity::default();
    if let Some(tree) = asked(raw.hash_tree_extent) {
        let what = "the hash tree";
        let tree = within(what, &tree)?;
        let data = within("what the hash tree covers", &raw.hash_tree_data_extent.unwrap_or_default())?;
        after(what, tree, data.end())?;
        let algorithm = raw.hash_tree_algorithm.clone().unwrap_or_default();
        let salt = raw.hash_tree_salt.clone().unwrap_or_default();
        limit("digest of the hash tree", algorithm.len(), MAX_ALGORITHM)?;
        limit("salt of the hash tree", salt.len(), MAX_SALT)?;
        verity.hash_tree = Some(HashTree { data, tree, algorithm, salt });
    }
    if let Some(fec) = asked(raw.fec_extent) {
        let what = "the error correction";
        let fec = within(what, &fec)?;
        let data = within("what the error correction covers", &raw.fec_data_extent.unwrap_or_default())?;
        let tree = verity.hash_tree.as_ref().map_or(0, |tree| tree.tree.end());
        after(what, fec, data.end().max(tree))?;
        let roots = raw.fec_roots.unwrap_or(2);
        if !(1..255).contains(&roots) {
            return Err(PartitionError::FecRoots(roots));
        }
        verity.fec = Some(Fec { data, fec, roots });
    }
    Ok((verity != Verity::default()).then_some(verity))
}

fn inside(raw: &wire::Extent, whose: &'static str, image: u64) -> Result<Extent, OperationError> {
    let (start, blocks) = (raw.start_block.unwrap_or(0), raw.num_blocks.unwrap_or(0));
    if blocks == 0 {
        return Err(OperationError::EmptyExtent { start });
    }
    match start.checked_add(blocks) {
        Some(end) if end <= image => Ok(Extent { start, blocks }),
        _ => Err(OperationError::Beyond { whose, image, start, blocks }),
    }
}

fn digest(bytes: Option<Vec<u8>>, whose: &'static str) -> Result<Option<Sha256>, OperationError> {
    // An empty one is as good as none: protobuf writers do not agree on which to write.
    let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
    let bytes = <[u8; 32]>::try_from(&bytes[..]).map_err(|_| OperationError::Digest { whose, len: bytes.len() })?;
    Ok(Some(Sha256::new(bytes)))
}

fn check_operation(
    raw: wire::InstallOperation,
    old_blocks: Option<u64>,
    new_blocks: u64,
    blobs: &mut u64,
) -> Result<Operation, OperationError> {
    let kind = match raw.kind.ok_or(OperationError::NoKind)? {
        2 => return Err(OperationError::InPlace("MOVE")),
        3 => return Err(OperationError::InPlace("BSDIFF")),
        number => OperationKind::from_number(number).ok_or(OperationError::Kind(number))?,
    };
    let len = raw.data_length.unwrap_or(0);
    if (len > 0) != kind.has_data() {
        return Err(OperationError::Data { kind, len });
    }
    let data = if kind.has_data() {
        let offset = raw.data_offset.unwrap_or(0);
        // Phones read a payload once, front to back, and refuse one that goes back or leaves bytes out.
        if offset != *blobs {
            return Err(OperationError::DataOffset { expected: *blobs, actual: offset });
        }
        *blobs = blobs.checked_add(len).ok_or(OperationError::Overflow)?;
        Some(Data { offset, len, sha256: digest(raw.data_sha256_hash, "data's")? })
    } else {
        None
    };
    let sum = |extents: &[Extent]| extents.iter().try_fold(0_u64, |sum, extent| sum.checked_add(extent.len()));
    let target: Vec<_> =
        raw.dst_extents.iter().map(|extent| inside(extent, NEW, new_blocks)).collect::<Result<_, _>>()?;
    let target_len = sum(&target).ok_or(OperationError::Overflow)?;
    if target.is_empty() {
        return Err(OperationError::NoTarget(kind));
    }
    if !kind.reads_source() && !raw.src_extents.is_empty()
        || kind == OperationKind::SourceCopy && raw.src_extents.is_empty()
    {
        let blocks = raw.src_extents.iter().filter_map(|extent| extent.num_blocks).fold(0, u64::saturating_add);
        return Err(OperationError::Source { kind, blocks });
    }
    let mut source = Vec::with_capacity(raw.src_extents.len());
    for extent in &raw.src_extents {
        source.push(inside(extent, OLD, old_blocks.ok_or(OperationError::NoOld)?)?);
    }
    let source_len = sum(&source).ok_or(OperationError::Overflow)?;
    if kind == OperationKind::SourceCopy && source_len != target_len {
        let (source_blocks, target_blocks) = (source_len / BLOCK.get(), target_len / BLOCK.get());
        return Err(OperationError::CopyLength { source_blocks, target_blocks });
    }
    Ok(Operation { kind, data, source, source_sha256: digest(raw.src_sha256_hash, "source's")?, target })
}

/// Checks that each block is written once: by an operation, or by the phone. Takes memory for extents, not for blocks.
fn check_cover(partition: &Partition, blocks: u64) -> Result<(), PartitionError> {
    let targets = partition.operations.iter().flat_map(|operation| &operation.target).copied();
    let mut all: Vec<Extent> = targets.chain(partition.computed()).collect();
    all.sort_unstable();
    let mut written = 0;
    for pair in all.windows(2) {
        if pair[0].end() > pair[1].start {
            return Err(PartitionError::Overlap { block: pair[1].start });
        }
    }
    for extent in &all {
        written += extent.blocks;
    }
    if written != blocks { Err(PartitionError::Uncovered { written, blocks }) } else { Ok(()) }
}

/// Checks that no step of a merge reads what an earlier one has written; an order that does so has a cycle in it.
fn check_merge(
    steps: &[wire::CowMergeOperation],
    old_blocks: u64,
    new_blocks: u64,
) -> Result<Vec<MergeOperation>, PartitionError> {
    // Ends of what was written, by first block.
    let mut written: BTreeMap<u64, u64> = BTreeMap::new();
    let touched = |written: &BTreeMap<u64, u64>, extent: &Extent| {
        written.range(..extent.end()).next_back().is_some_and(|(_, &end)| end > extent.start)
    };
    // A snapshot is merged into the partition that the old image lies in, so both lengths bound it.
    let most = old_blocks.max(new_blocks);
    let mut checked = Vec::with_capacity(steps.len());
    for (index, step) in steps.iter().enumerate() {
        let beyond = |_| PartitionError::MergeBeyond { index };
        let source = step.src_extent.filter(|extent| extent.num_blocks.unwrap_or(0) > 0);
        let source = source.map(|extent| inside(&extent, OLD, most)).transpose().map_err(beyond)?;
        let target = inside(&step.dst_extent.unwrap_or_default(), NEW, new_blocks).map_err(beyond)?;
        let number = step.kind.unwrap_or(0);
        let reads = if source.is_some() { "reads blocks" } else { "reads nothing" };
        let wrong = PartitionError::MergeKind { index, kind: number, reads };
        let Some(kind) = MergeKind::from_number(number) else { return Err(wrong) };
        if kind != MergeKind::Replace && source.is_none() {
            return Err(wrong);
        }
        let offset = step.src_offset.unwrap_or(0);
        if let Some(source) = source {
            // What starts within a block ends within one more.
            let more = source.blocks.checked_sub(target.blocks).is_some_and(|more| more <= u64::from(offset > 0));
            if !more || u64::from(offset) >= BLOCK.get() || offset > 0 && kind == MergeKind::Copy {
                let (source_blocks, target_blocks) = (source.blocks, target.blocks);
                return Err(PartitionError::MergeLength { index, source_blocks, target_blocks, offset });
            }
        }
        if source.is_some_and(|source| touched(&written, &source)) || touched(&written, &target) {
            return Err(PartitionError::MergeOrder { index });
        }
        written.insert(target.start, target.end());
        checked.push(MergeOperation { kind, source, target, source_offset: offset });
    }
    Ok(checked)
}

/// A manifest as a message, with the blobs that it copies, by offset and length, in its order.
pub(super) fn to_wire(manifest: &Manifest) -> (wire::DeltaArchiveManifest, Vec<(u64, u64)>) {
    let mut blobs = Blobs::default();
    let minor = manifest.minor_version;
    let partitions = manifest.partitions.iter().map(|partition| partition_to_wire(partition, minor, &mut blobs));
    let raw = wire::DeltaArchiveManifest {
        block_size: Some(u32::try_from(BLOCK.get()).expect("4096")),
        minor_version: Some(minor),
        partitions: partitions.collect(),
        max_timestamp: manifest.max_timestamp,
        dynamic_partition_metadata: manifest.dynamic.clone(),
        partial_update: manifest.partial.then_some(true),
        apex_info: manifest.apexes.clone(),
        security_patch_level: manifest.security_patch_level.clone(),
        signatures_offset: None,
        signatures_size: None,
    };
    (raw, blobs.copied)
}

/// Blobs by offset and length, and where the next one goes.
#[derive(Default)]
struct Blobs {
    copied: Vec<(u64, u64)>,
    end: u64,
}

fn partition_to_wire(partition: &Partition, minor: u32, blobs: &mut Blobs) -> wire::PartitionUpdate {
    let image = |image: &ImageInfo| wire::PartitionInfo {
        size: Some(image.size.get()),
        hash: Some(image.sha256.as_bytes().to_vec()),
    };
    let (postinstall, verity) = (partition.postinstall.as_ref(), partition.verity.as_ref());
    let tree = verity.and_then(|verity| verity.hash_tree.as_ref());
    let fec = verity.and_then(|verity| verity.fec.as_ref());
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    wire::PartitionUpdate {
        partition_name: Some(partition.name.to_string()),
        run_postinstall: postinstall.map(|_| true),
        postinstall_path: postinstall.and_then(|postinstall| text(&postinstall.path)),
        filesystem_type: postinstall.and_then(|postinstall| text(&postinstall.filesystem)),
        postinstall_optional: postinstall.map(|postinstall| postinstall.optional),
        old_partition_info: partition.old.as_ref().map(image),
        new_partition_info: Some(image(&partition.new)),
        operations: partition.operations.iter().map(|operation| operation_to_wire(operation, minor, blobs)).collect(),
        hash_tree_data_extent: tree.map(|tree| extent_to_wire(&tree.data)),
        hash_tree_extent: tree.map(|tree| extent_to_wire(&tree.tree)),
        hash_tree_algorithm: tree.map(|tree| tree.algorithm.clone()),
        hash_tree_salt: tree.map(|tree| tree.salt.clone()).filter(|salt| !salt.is_empty()),
        fec_data_extent: fec.map(|fec| extent_to_wire(&fec.data)),
        fec_extent: fec.map(|fec| extent_to_wire(&fec.fec)),
        fec_roots: fec.map(|fec| fec.roots),
        version: partition.version.clone(),
        merge_operations: partition.merge_operations.iter().map(merge_to_wire).collect(),
        estimate_cow_size: partition.estimate_cow_size,
        estimate_op_count_max: partition.estimate_op_count_max,
    }
}

fn extent_to_wire(extent: &Extent) -> wire::Extent {
    wire::Extent { start_block: Some(extent.start), num_blocks: Some(extent.blocks) }
}

fn operation_to_wire(operation: &Operation, minor: u32, blobs: &mut Blobs) -> wire::InstallOperation {
    // Phones of the first minor versions are told these lengths, and later ones refuse them.
    let lengths = operation.kind == OperationKind::SourceBsdiff && minor <= 3;
    let bytes = |digest: Sha256| digest.as_bytes().to_vec();
    let data_offset = operation.data.map(|data| {
        let here = blobs.end;
        blobs.copied.push((data.offset, data.len));
        // An overflow is found when the message is checked: no blob starts where the sum of all before it is not.
        blobs.end = blobs.end.wrapping_add(data.len);
        here
    });
    wire::InstallOperation {
        kind: Some(operation.kind.number()),
        data_offset,
        data_length: operation.data.map(|data| data.len),
        src_extents: operation.source.iter().map(extent_to_wire).collect(),
        src_length: lengths.then(|| operation.source_len()),
        dst_extents: operation.target.iter().map(extent_to_wire).collect(),
        dst_length: lengths.then(|| operation.target_len()),
        data_sha256_hash: operation.data.and_then(|data| data.sha256).map(bytes),
        src_sha256_hash: operation.source_sha256.map(bytes),
    }
}

fn merge_to_wire(step: &MergeOperation) -> wire::CowMergeOperation {
    wire::CowMergeOperation {
        kind: Some(step.kind.number()),
        src_extent: step.source.as_ref().map(extent_to_wire),
        dst_extent: Some(extent_to_wire(&step.target)),
        // Stock ones say it of all that read, 0 too.
        src_offset: step.source.map(|_| step.source_offset),
    }
}
