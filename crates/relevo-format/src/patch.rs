//! Patch formats of AOSP, as the operations of A/B payloads and of transfer lists carry them.
//!
//! - [`bsdiff`]: `BSDIFF40` and `BSDF2`, read and written.
//! - [`puffin`]: `PUF1`, bsdiff over deflate streams taken apart, read and written.
//! - [`locate`]: where the deflate streams of a file are.
//! - [`lz4diff`]: `LZ4DIFF`, either of them over LZ4 blocks decompressed, read and written.
//! - [`zucchini`]: programs, by what in them refers to what, read and written.
//!
//! An applier takes the old bytes, a patch and where the new bytes go. It streams: memory is bounded by [`Limits`]
//! whatever the patch says, and what is wrong is an error. None of these formats holds a hash of the new bytes; who
//! applies a patch compares with the one that came signed.

pub mod bsdiff;
mod deflate;
pub mod locate;
pub mod lz4diff;
pub mod puffin;
mod stream;
pub mod zucchini;

use std::io;

use relevo_types::ByteLen;

pub use deflate::DeflateError;
pub use stream::{Codec, StreamError};

/// What a patch may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the target; who knows how many it must have sets this.
    pub output: ByteLen,
    /// Bytes kept in memory besides the patch and its decompressors.
    pub memory: ByteLen,
}

impl Default for Limits {
    /// 200 MiB of target, the most that AOSP's generator makes of one patch; 128 MiB of memory.
    fn default() -> Self {
        Self { output: ByteLen::mib(200), memory: ByteLen::mib(128) }
    }
}

/// Why a patch could not be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PatchError {
    /// Other first bytes than the format's.
    #[error("this is no {format} patch")]
    Magic {
        /// The format that was expected.
        format: &'static str,
    },
    /// The patch ends inside of its header, or before what its header tells of.
    #[error("the patch has {actual} bytes, but its header asks for {expected}")]
    Truncated {
        /// Bytes that the header needs.
        expected: u64,
        /// Bytes that there are.
        actual: u64,
    },
    /// A length below 0.
    #[error("the {what} has a length of {value}")]
    Negative {
        /// What the length is of.
        what: &'static str,
        /// The length.
        value: i64,
    },
    /// No codec that the format has.
    #[error("unknown codec {0}")]
    Codec(u8),
    /// A target over [`Limits::output`].
    #[error("the patch makes {len}, but {limit} are allowed")]
    Output {
        /// What the patch says.
        len: ByteLen,
        /// The limit.
        limit: ByteLen,
    },
    /// A stream that cannot be decompressed, or that does not end where its last byte is used.
    #[error("the {name} stream is damaged")]
    Stream {
        /// Which one.
        name: &'static str,
        /// What is wrong with it.
        source: StreamError,
    },
    /// A header that is no protobuf message.
    #[error("the header is damaged")]
    Header(#[source] prost::DecodeError),
    /// A version that did not exist when this was written.
    #[error("unknown version {0}")]
    Version(i32),
    /// Places of streams that cannot be.
    #[error("the header's extents are wrong: {reason}")]
    Extents {
        /// Why not.
        reason: &'static str,
    },
    /// A deflate stream, of the old file or for the new one.
    #[error("a deflate stream is damaged")]
    Deflate(#[source] DeflateError),
    /// A kind of patch inside of another that does not exist.
    #[error("unknown kind {0} of inner patch")]
    Inner(i32),
    /// No compression that blocks can have.
    #[error("unknown compression {0}")]
    Algorithm(i32),
    /// A block that is no LZ4, of the old file, or that LZ4 cannot make, of the new one.
    #[error("block {index} is no LZ4 block")]
    Lz4 {
        /// The number of the block, from 0.
        index: usize,
        /// What the library says; nothing if it made another length.
        source: Option<lzzzz::Error>,
    },
    /// LZ4 makes something else of a block than where the patch was made.
    #[error("block {index} was compressed to other bytes than by the maker of the patch")]
    Recompressed {
        /// The number of the block, from 0.
        index: usize,
    },
    /// Something over [`Limits::memory`].
    #[error("the patch needs {needed} of memory, but {limit} are allowed")]
    Memory {
        /// What the patch asks for at once.
        needed: ByteLen,
        /// The limit.
        limit: ByteLen,
    },
    /// Control entries that make more than the target, or very many that make nothing.
    #[error("control entries go beyond the target of {0}")]
    Overrun(ByteLen),
    /// A position before the start or after the end of the old bytes.
    #[error("old position {at} of {len}")]
    Position {
        /// The position, after which diff or extra bytes come.
        at: i64,
        /// Length of the old bytes.
        len: ByteLen,
    },
    /// A zucchini patch that contradicts itself or the old file.
    #[error("the ensemble of elements is wrong: {reason}")]
    Ensemble {
        /// What is wrong.
        reason: &'static str,
    },
    /// A kind of program that Android's reader does not have.
    #[error("unknown kind {:?} of program", .0.escape_ascii().to_string())]
    Program([u8; 4]),
    /// An element that is no program of its kind, or of another length.
    #[error("the {what} element is no {program:?} of its length")]
    NoProgram {
        /// The old or the new one.
        what: &'static str,
        /// What it has to be.
        program: zucchini::Program,
    },
    /// A file that is not the one that the patch is for, or not the one that it has to make.
    #[error("the {what} file has CRC-32 {actual:08x}; expected {expected:08x}")]
    Checksum {
        /// The old or the new one.
        what: &'static str,
        /// As the patch has it.
        expected: u32,
        /// As it is.
        actual: u32,
    },
    /// The old bytes could not be read.
    #[error("could not read the old bytes")]
    Read(#[source] io::Error),
    /// The new bytes could not be written.
    #[error("could not write the new bytes")]
    Write(#[source] io::Error),
}
