//! The messages of a payload, field by field as they are numbered.
//!
//! Everything is optional here, as in the definition: what must be there, and what it may be, is decided in
//! [`Payload::read`](super::Payload::read).
//!
//! # Source
//! AOSP `update_engine/update_metadata.proto`, the field numbers.

/// A run of blocks.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Extent {
    /// First block.
    #[prost(uint64, optional, tag = "1")]
    pub start_block: Option<u64>,
    /// Number of blocks.
    #[prost(uint64, optional, tag = "2")]
    pub num_blocks: Option<u64>,
}

/// One signature.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Signature {
    /// The signature, padded with zeros to what its key takes at most.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub data: Option<Vec<u8>>,
    /// Bytes of it that are signature.
    #[prost(fixed32, optional, tag = "3")]
    pub unpadded_signature_size: Option<u32>,
}

/// What lies behind the manifest and behind the last blob.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Signatures {
    /// Each by one key.
    #[prost(message, repeated, tag = "1")]
    pub signatures: Vec<Signature>,
}

/// An image.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PartitionInfo {
    /// Its length in bytes.
    #[prost(uint64, optional, tag = "1")]
    pub size: Option<u64>,
    /// Its SHA-256.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub hash: Option<Vec<u8>>,
}

/// One step of making a partition.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InstallOperation {
    /// Which one.
    #[prost(int32, optional, tag = "1")]
    pub kind: Option<i32>,
    /// Where its data is, counted from the first blob.
    #[prost(uint64, optional, tag = "2")]
    pub data_offset: Option<u64>,
    /// Bytes of data.
    #[prost(uint64, optional, tag = "3")]
    pub data_length: Option<u64>,
    /// What it reads of the old partition.
    #[prost(message, repeated, tag = "4")]
    pub src_extents: Vec<Extent>,
    /// Bytes that it reads; up to minor version 3.
    #[prost(uint64, optional, tag = "5")]
    pub src_length: Option<u64>,
    /// What it writes.
    #[prost(message, repeated, tag = "6")]
    pub dst_extents: Vec<Extent>,
    /// Bytes that it writes; up to minor version 3.
    #[prost(uint64, optional, tag = "7")]
    pub dst_length: Option<u64>,
    /// SHA-256 of its data.
    #[prost(bytes = "vec", optional, tag = "8")]
    pub data_sha256_hash: Option<Vec<u8>>,
    /// SHA-256 of what it reads.
    #[prost(bytes = "vec", optional, tag = "9")]
    pub src_sha256_hash: Option<Vec<u8>>,
}

/// One step of merging a snapshot into its partition.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CowMergeOperation {
    /// Copy 0, xor 1, replace 2.
    #[prost(int32, optional, tag = "1")]
    pub kind: Option<i32>,
    /// What it reads.
    #[prost(message, optional, tag = "2")]
    pub src_extent: Option<Extent>,
    /// What it writes.
    #[prost(message, optional, tag = "3")]
    pub dst_extent: Option<Extent>,
    /// Where in the first block it starts to read.
    #[prost(uint32, optional, tag = "4")]
    pub src_offset: Option<u32>,
}

/// All about one partition.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PartitionUpdate {
    /// Its name without the slot.
    #[prost(string, optional, tag = "1")]
    pub partition_name: Option<String>,
    /// Whether a program of it runs after it was written.
    #[prost(bool, optional, tag = "2")]
    pub run_postinstall: Option<bool>,
    /// Which program.
    #[prost(string, optional, tag = "3")]
    pub postinstall_path: Option<String>,
    /// How it is mounted for that.
    #[prost(string, optional, tag = "4")]
    pub filesystem_type: Option<String>,
    /// The image that it starts from.
    #[prost(message, optional, tag = "6")]
    pub old_partition_info: Option<PartitionInfo>,
    /// The image that it makes.
    #[prost(message, optional, tag = "7")]
    pub new_partition_info: Option<PartitionInfo>,
    /// How.
    #[prost(message, repeated, tag = "8")]
    pub operations: Vec<InstallOperation>,
    /// Whether that program may fail.
    #[prost(bool, optional, tag = "9")]
    pub postinstall_optional: Option<bool>,
    /// What the hash tree covers.
    #[prost(message, optional, tag = "10")]
    pub hash_tree_data_extent: Option<Extent>,
    /// Where the device puts the hash tree.
    #[prost(message, optional, tag = "11")]
    pub hash_tree_extent: Option<Extent>,
    /// Digest of the hash tree.
    #[prost(string, optional, tag = "12")]
    pub hash_tree_algorithm: Option<String>,
    /// Salt of the hash tree.
    #[prost(bytes = "vec", optional, tag = "13")]
    pub hash_tree_salt: Option<Vec<u8>>,
    /// What the error correction covers.
    #[prost(message, optional, tag = "14")]
    pub fec_data_extent: Option<Extent>,
    /// Where the device puts the error correction.
    #[prost(message, optional, tag = "15")]
    pub fec_extent: Option<Extent>,
    /// Parity bytes of a code word.
    #[prost(uint32, optional, tag = "16")]
    pub fec_roots: Option<u32>,
    /// Build date in seconds since 1970, as text.
    #[prost(string, optional, tag = "17")]
    pub version: Option<String>,
    /// How the snapshot is merged.
    #[prost(message, repeated, tag = "18")]
    pub merge_operations: Vec<CowMergeOperation>,
    /// Bytes that the snapshot takes.
    #[prost(uint64, optional, tag = "19")]
    pub estimate_cow_size: Option<u64>,
    /// Operations that the snapshot takes.
    #[prost(uint64, optional, tag = "20")]
    pub estimate_op_count_max: Option<u64>,
}

/// A group of dynamic partitions.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DynamicPartitionGroup {
    /// Its name.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// Bytes that it may take.
    #[prost(uint64, optional, tag = "2")]
    pub size: Option<u64>,
    /// Its partitions.
    #[prost(string, repeated, tag = "3")]
    pub partition_names: Vec<String>,
}

/// How the phone may compress.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct VabcFeatureSet {
    /// In threads.
    #[prost(bool, optional, tag = "1")]
    pub threaded: Option<bool>,
    /// In batches.
    #[prost(bool, optional, tag = "2")]
    pub batch_writes: Option<bool>,
}

/// What Virtual A/B is told.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DynamicPartitionMetadata {
    /// The groups.
    #[prost(message, repeated, tag = "1")]
    pub groups: Vec<DynamicPartitionGroup>,
    /// Whether snapshots are used.
    #[prost(bool, optional, tag = "2")]
    pub snapshot_enabled: Option<bool>,
    /// Whether they are compressed.
    #[prost(bool, optional, tag = "3")]
    pub vabc_enabled: Option<bool>,
    /// With what.
    #[prost(string, optional, tag = "4")]
    pub vabc_compression_param: Option<String>,
    /// Version of the snapshot's format.
    #[prost(uint32, optional, tag = "5")]
    pub cow_version: Option<u32>,
    /// How.
    #[prost(message, optional, tag = "6")]
    pub vabc_feature_set: Option<VabcFeatureSet>,
    /// Bytes that are compressed at a time.
    #[prost(uint64, optional, tag = "7")]
    pub compression_factor: Option<u64>,
}

/// An APEX of the build.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ApexInfo {
    /// Its name.
    #[prost(string, optional, tag = "1")]
    pub package_name: Option<String>,
    /// Its version.
    #[prost(int64, optional, tag = "2")]
    pub version: Option<i64>,
    /// Whether it is compressed.
    #[prost(bool, optional, tag = "3")]
    pub is_compressed: Option<bool>,
    /// Bytes of it without compression.
    #[prost(int64, optional, tag = "4")]
    pub decompressed_size: Option<i64>,
    /// The version that the build has which an update starts from.
    #[prost(int64, optional, tag = "5")]
    pub source_version: Option<i64>,
}

/// The manifest.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaArchiveManifest {
    /// Bytes of a block; 4096 if absent.
    #[prost(uint32, optional, tag = "3")]
    pub block_size: Option<u32>,
    /// Where the payload's signatures are, counted from the first blob.
    #[prost(uint64, optional, tag = "4")]
    pub signatures_offset: Option<u64>,
    /// Bytes of them.
    #[prost(uint64, optional, tag = "5")]
    pub signatures_size: Option<u64>,
    /// Which operations the source build knows; 0 in a full payload.
    #[prost(uint32, optional, tag = "12")]
    pub minor_version: Option<u32>,
    /// The partitions.
    #[prost(message, repeated, tag = "13")]
    pub partitions: Vec<PartitionUpdate>,
    /// Date of the build.
    #[prost(int64, optional, tag = "14")]
    pub max_timestamp: Option<i64>,
    /// What Virtual A/B is told.
    #[prost(message, optional, tag = "15")]
    pub dynamic_partition_metadata: Option<DynamicPartitionMetadata>,
    /// Whether partitions that are not named stay as they are.
    #[prost(bool, optional, tag = "16")]
    pub partial_update: Option<bool>,
    /// APEXes of the build.
    #[prost(message, repeated, tag = "17")]
    pub apex_info: Vec<ApexInfo>,
    /// Of the build.
    #[prost(string, optional, tag = "18")]
    pub security_patch_level: Option<String>,
}
