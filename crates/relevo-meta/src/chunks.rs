//! The chunk list of a package: SHA-256 of each piece of fixed size, so that any range from any mirror can be checked
//! alone.
//!
//! # Layout
//! `"RVC1"`, chunk size in bytes `u32`, file length in bytes `u64`, then 32 bytes of SHA-256 for each chunk, nothing
//! after; integers are little-endian. The last chunk may be shorter. The list is a target itself and so vouched for.

use std::{io, ops::Range};

use relevo_types::{ByteLen, Sha256};
use sha2::Digest as _;

/// The hashes of a file's chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkList {
    chunk_size: u32,
    length: ByteLen,
    hashes: Vec<Sha256>,
}

/// Hashes a file that comes in pieces.
#[derive(Debug)]
pub struct Builder {
    list: ChunkList,
    hasher: sha2::Sha256,
    /// Bytes in the chunk that is being hashed.
    filled: u32,
    seen: u64,
}

/// Why bytes are no chunk list, or not that chunk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// It does not start with `RVC1`.
    #[error("no chunk list: it starts with {0:02x?} instead of \"RVC1\"")]
    Magic([u8; 4]),
    /// It ends inside the header.
    #[error("no chunk list: {0}, shorter than its header of {HEADER}")]
    Header(ByteLen),
    /// A chunk size that is no power of two from 64 KiB to 16 MiB.
    #[error("a chunk size of {0} bytes; it must be a power of two from {MIN_CHUNK} to {MAX_CHUNK}")]
    ChunkSize(u32),
    /// More chunks than [`MAX_CHUNKS`].
    #[error("{length} in chunks of {chunk_size} bytes are more than {MAX_CHUNKS} chunks")]
    TooMany {
        /// The file's length.
        length: ByteLen,
        /// The chunk size in bytes.
        chunk_size: u32,
    },
    /// The list speaks of a file of another length.
    #[error("the list is of a file of {actual}; the file has {expected}")]
    FileLength {
        /// The length that is vouched for.
        expected: ByteLen,
        /// The length in the list.
        actual: ByteLen,
    },
    /// The list is not as long as its own header says.
    #[error("the list has {actual}; for its file it must have {expected}")]
    ListLength {
        /// What it must have.
        expected: ByteLen,
        /// What it has.
        actual: ByteLen,
    },
    /// There is no such chunk.
    #[error("there is no chunk {index}; there are {count}")]
    NoSuchChunk {
        /// The chunk asked for, from 0.
        index: usize,
        /// The number of chunks.
        count: usize,
    },
    /// The chunk has another length.
    #[error("chunk {index} has {actual}; it must have {expected}")]
    ChunkLength {
        /// The chunk, from 0.
        index: usize,
        /// What it must have.
        expected: ByteLen,
        /// What it has.
        actual: ByteLen,
    },
    /// The chunk has another content.
    #[error("chunk {index} has SHA-256 {actual}; it must have {expected}")]
    ChunkHash {
        /// The chunk, from 0.
        index: usize,
        /// What it must have.
        expected: Sha256,
        /// What it has.
        actual: Sha256,
    },
    /// The file could not be read.
    #[error("could not read the file to hash")]
    Read(#[from] io::Error),
}

/// Most chunks in a list; its length stays under [`MAX_LIST`].
pub const MAX_CHUNKS: u64 = 4096;

/// Longest list: the header and 4096 hashes.
pub const MAX_LIST: ByteLen = ByteLen::new(HEADER.get() + MAX_CHUNKS * 32);

/// Default chunk size: a wrong mirror costs this much at most, and a list adds 0.01 % to the download.
pub const DEFAULT_CHUNK: ByteLen = ByteLen::kib(256);

/// Smallest chunk size.
pub const MIN_CHUNK: ByteLen = ByteLen::kib(64);

/// Largest chunk size; a phone holds one chunk in memory.
pub const MAX_CHUNK: ByteLen = ByteLen::mib(16);

const HEADER: ByteLen = ByteLen::new(16);
const MAGIC: [u8; 4] = *b"RVC1";

/// The chunk size for a file: [`DEFAULT_CHUNK`], doubled until the list has at most [`MAX_CHUNKS`] chunks.
///
/// # Errors
/// [`ChunkError::TooMany`] for a file over 64 GiB.
pub fn chunk_size_for(length: ByteLen) -> Result<ByteLen, ChunkError> {
    let mut size = DEFAULT_CHUNK.get();
    while length.get().div_ceil(size) > MAX_CHUNKS {
        if size == MAX_CHUNK.get() {
            return Err(ChunkError::TooMany { length, chunk_size: 1 << 24 });
        }
        size *= 2;
    }
    Ok(ByteLen::new(size))
}

impl ChunkList {
    /// Reads the list of a file that must have `length` bytes.
    ///
    /// # Errors
    /// [`ChunkError`] for every list that is not exactly as [`Self::encode`] writes it, or is of another length.
    pub fn parse(bytes: &[u8], length: ByteLen) -> Result<Self, ChunkError> {
        let short = || ChunkError::Header(ByteLen::new(bytes.len() as u64));
        let (magic, rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
        if *magic != MAGIC {
            return Err(ChunkError::Magic(*magic));
        }
        let (chunk_size, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let (stated, hashes) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        let chunk_size = u32::from_le_bytes(*chunk_size);
        let stated = ByteLen::new(u64::from_le_bytes(*stated));
        let count = count(stated, chunk_size)?;
        if stated != length {
            return Err(ChunkError::FileLength { expected: length, actual: stated });
        }
        let expected = ByteLen::new(HEADER.get() + count * 32);
        let actual = ByteLen::new(bytes.len() as u64);
        if actual != expected {
            return Err(ChunkError::ListLength { expected, actual });
        }
        let (hashes, _) = hashes.as_chunks::<32>();
        Ok(Self { chunk_size, length, hashes: hashes.iter().copied().map(Sha256::new).collect() })
    }

    /// The list as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16 + self.hashes.len() * 32);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.chunk_size.to_le_bytes());
        bytes.extend_from_slice(&self.length.get().to_le_bytes());
        for hash in &self.hashes {
            bytes.extend_from_slice(hash.as_bytes());
        }
        bytes
    }

    /// Hashes a whole file of `length` bytes, in chunks of the size that fits it.
    ///
    /// # Errors
    /// [`ChunkError::Read`], [`ChunkError::FileLength`] if the reader gives more or less, and [`ChunkError::TooMany`].
    pub fn for_reader(mut reader: impl io::Read, length: ByteLen) -> Result<Self, ChunkError> {
        let mut builder = Builder::new(length, chunk_size_for(length)?)?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return builder.finish(),
                Ok(count) => builder.update(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Length of the file.
    pub fn file_length(&self) -> ByteLen {
        self.length
    }

    /// Size of every chunk but the last.
    pub fn chunk_size(&self) -> ByteLen {
        ByteLen::new(self.chunk_size.into())
    }

    /// Number of chunks.
    pub fn count(&self) -> usize {
        self.hashes.len()
    }

    /// The bytes of the file that a chunk covers.
    ///
    /// # Errors
    /// [`ChunkError::NoSuchChunk`].
    pub fn range(&self, index: usize) -> Result<Range<u64>, ChunkError> {
        self.hash(index)?;
        let start = index as u64 * u64::from(self.chunk_size);
        Ok(start..(start + u64::from(self.chunk_size)).min(self.length.get()))
    }

    /// Checks that `bytes` are the chunk.
    ///
    /// # Errors
    /// [`ChunkError::NoSuchChunk`], [`ChunkError::ChunkLength`], [`ChunkError::ChunkHash`].
    pub fn check(&self, index: usize, bytes: &[u8]) -> Result<(), ChunkError> {
        let range = self.range(index)?;
        let expected = ByteLen::new(range.end - range.start);
        let actual = ByteLen::new(bytes.len() as u64);
        if actual != expected {
            return Err(ChunkError::ChunkLength { index, expected, actual });
        }
        let expected = self.hash(index)?;
        let actual = crate::crypto::sha256(bytes);
        if actual != expected {
            return Err(ChunkError::ChunkHash { index, expected, actual });
        }
        Ok(())
    }

    fn hash(&self, index: usize) -> Result<Sha256, ChunkError> {
        self.hashes.get(index).copied().ok_or(ChunkError::NoSuchChunk { index, count: self.hashes.len() })
    }
}

impl Builder {
    /// Starts a list for a file of `length` bytes.
    ///
    /// # Errors
    /// [`ChunkError::ChunkSize`] and [`ChunkError::TooMany`].
    pub fn new(length: ByteLen, chunk_size: ByteLen) -> Result<Self, ChunkError> {
        let chunk_size = u32::try_from(chunk_size.get()).map_err(|_| ChunkError::ChunkSize(u32::MAX))?;
        count(length, chunk_size)?;
        let list = ChunkList { chunk_size, length, hashes: Vec::new() };
        Ok(Self { list, hasher: sha2::Sha256::new(), filled: 0, seen: 0 })
    }

    /// Takes the next bytes of the file.
    ///
    /// # Errors
    /// [`ChunkError::FileLength`] as soon as the file is longer than was said.
    pub fn update(&mut self, mut bytes: &[u8]) -> Result<(), ChunkError> {
        self.seen = self.seen.saturating_add(bytes.len() as u64);
        if self.seen > self.list.length.get() {
            return Err(self.wrong_length());
        }
        while !bytes.is_empty() {
            let room = (self.list.chunk_size - self.filled) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.hasher.update(now);
            self.filled += u32::try_from(now.len()).expect("no more than the room in a chunk, which is a u32");
            if self.filled == self.list.chunk_size {
                self.end_chunk();
            }
            bytes = later;
        }
        Ok(())
    }

    /// The list.
    ///
    /// # Errors
    /// [`ChunkError::FileLength`] if the file was shorter than was said.
    pub fn finish(mut self) -> Result<ChunkList, ChunkError> {
        if self.seen != self.list.length.get() {
            return Err(self.wrong_length());
        }
        if self.filled > 0 {
            self.end_chunk();
        }
        Ok(self.list)
    }

    fn end_chunk(&mut self) {
        let hash: [u8; 32] = self.hasher.finalize_reset().into();
        self.list.hashes.push(Sha256::new(hash));
        self.filled = 0;
    }

    fn wrong_length(&self) -> ChunkError {
        ChunkError::FileLength { expected: self.list.length, actual: ByteLen::new(self.seen) }
    }
}

fn count(length: ByteLen, chunk_size: u32) -> Result<u64, ChunkError> {
    let size = u64::from(chunk_size);
    if !chunk_size.is_power_of_two() || size < MIN_CHUNK.get() || size > MAX_CHUNK.get() {
        return Err(ChunkError::ChunkSize(chunk_size));
    }
    let count = length.get().div_ceil(size);
    if count > MAX_CHUNKS {
        return Err(ChunkError::TooMany { length, chunk_size });
    }
    Ok(count)
}
