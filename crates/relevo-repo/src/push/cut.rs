//! Cutting a file into chunks that the next build's file has too.
//!
//! An OTA zip is cut where its payload's operations and its entries begin: an operation that two builds share has the
//! same bytes in both zips, wherever it lies. Inside of an operation, and in all other files, the content says where
//! to cut (FastCDC), so that bytes that move take their cuts with them. Two machines need not cut alike: what is cut in
//! another way is only sent once more.

use std::io;

use fastcdc::v2020::StreamCDC;
use relevo_format::{
    ReadAt, Section,
    ota_zip::{self, OtaZip, PAYLOAD},
    payload::{self, Payload},
};
use relevo_types::{ByteLen, Sha256};
use sha2::Digest as _;

/// The chunks that a file is made of, in order.
///
/// # Layout
/// ```text
/// 0   4  "RVK1"
/// 4   4  number of chunks, u32 little-endian
/// 8   8  length of the file in bytes, u64 little-endian
/// 16  36 for each chunk: its length in bytes, u32 little-endian, and its SHA-256
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutList {
    length: ByteLen,
    chunks: Vec<Chunk>,
}

/// One chunk of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its length in bytes; never 0.
    pub length: u32,
    /// Its SHA-256.
    pub sha256: Sha256,
}

/// Why bytes are no list of chunks.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum CutError {
    /// It does not begin as one.
    #[error("no list of chunks: it does not begin with \"RVK1\"")]
    Magic,
    /// It is not as long as its own header says.
    #[error("the list has {actual}; for {chunks} chunks it must have {expected}")]
    ListLength {
        /// Number of chunks in its header.
        chunks: u32,
        /// What it must have.
        expected: ByteLen,
        /// What it has.
        actual: ByteLen,
    },
    /// More chunks than are taken.
    #[error("{0} chunks; at most {MAX_CHUNKS} are taken")]
    TooMany(u32),
    /// An empty chunk, or one that is too long.
    #[error("chunk {index} has {length} bytes; it must have 1 to {MAX_CHUNK}")]
    ChunkLength {
        /// Which one, from 0.
        index: usize,
        /// Its length in bytes.
        length: u32,
    },
    /// The chunks are not the file.
    #[error("the chunks have {chunks} together; the file has {file}")]
    FileLength {
        /// The chunks' length.
        chunks: ByteLen,
        /// The file's length.
        file: ByteLen,
    },
}

/// Most chunks of a file; 16 GiB in chunks of the usual length.
pub const MAX_CHUNKS: u32 = 1 << 18;

/// Longest chunk, in bytes; the server holds one in memory for each request.
pub const MAX_CHUNK: u32 = 1 << 20;

/// Longest list in bytes.
pub const MAX_LIST: u64 = HEADER as u64 + ENTRY as u64 * MAX_CHUNKS as u64;

/// Usual length of a chunk in bytes. A list has 0.06 % of the file; half the length would find 1 % more to share in
/// two builds of full OTA zips and make lists twice as long.
const USUAL: usize = 64 << 10;
/// Shortest chunk that the content alone can make, in bytes.
const SHORTEST: usize = USUAL / 4;
/// Longest chunk that the content can make, in bytes.
const LONGEST: usize = USUAL * 4;

const MAGIC: [u8; 4] = *b"RVK1";
const HEADER: usize = 16;
const ENTRY: usize = 36;

impl CutList {
    /// A file in one piece.
    ///
    /// # Errors
    /// [`CutError::ChunkLength`] for an empty file, or one that is longer than a chunk.
    pub fn whole(length: ByteLen, sha256: Sha256) -> Result<Self, CutError> {
        let bytes = u32::try_from(length.get()).unwrap_or(u32::MAX);
        if bytes == 0 || bytes > MAX_CHUNK {
            return Err(CutError::ChunkLength { index: 0, length: bytes });
        }
        Ok(Self { length, chunks: vec![Chunk { offset: 0, length: bytes, sha256 }] })
    }

    /// Cuts a file; `seen` is told how many bytes were read.
    ///
    /// # Errors
    /// Those of reading, and [`io::ErrorKind::FileTooLarge`] for more than [`MAX_CHUNKS`] chunks.
    pub fn of(file: &dyn ReadAt, seen: &mut dyn FnMut(u64)) -> io::Result<Self> {
        let length = file.len();
        // Files of over 8 GiB in longer chunks.
        let scale = usize::try_from(length.get() >> 33).map_or(4, |scale| (scale + 1).next_power_of_two().min(4));
        let mut bounds = bounds(file);
        bounds.push(length.get());
        let mut chunks = Vec::new();
        let mut start = 0;
        for end in bounds {
            let section = Section::new(file, start, end - start)?;
            for chunk in StreamCDC::new(section, SHORTEST * scale, USUAL * scale, LONGEST * scale) {
                let chunk = chunk.map_err(io::Error::other)?;
                let length = u32::try_from(chunk.length).map_err(|_| io::ErrorKind::FileTooLarge)?;
                let sha256 = Sha256::new(sha2::Sha256::digest(&chunk.data).into());
                chunks.push(Chunk { offset: start + chunk.offset, length, sha256 });
                if chunks.len() > MAX_CHUNKS as usize {
                    return Err(io::ErrorKind::FileTooLarge.into());
                }
                seen(u64::from(length));
            }
            start = end;
        }
        Ok(Self { length, chunks })
    }

    /// Reads a list.
    ///
    /// # Errors
    /// [`CutError`] for all that is not exactly as [`Self::encode`] writes it.
    pub fn parse(bytes: &[u8]) -> Result<Self, CutError> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(CutError::Magic)?;
        let short = |chunks: u32| CutError::ListLength {
            chunks,
            expected: ByteLen::new(HEADER as u64 + ENTRY as u64 * u64::from(chunks)),
            actual: ByteLen::new(bytes.len() as u64),
        };
        let (count, rest) = rest.split_first_chunk::<4>().ok_or_else(|| short(0))?;
        let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(|| short(0))?;
        let (count, file) = (u32::from_le_bytes(*count), ByteLen::new(u64::from_le_bytes(*length)));
        if count > MAX_CHUNKS {
            return Err(CutError::TooMany(count));
        }
        let (entries, more) = rest.as_chunks::<ENTRY>();
        if entries.len() != count as usize || !more.is_empty() {
            return Err(short(count));
        }
        let mut chunks = Vec::with_capacity(entries.len());
        let mut offset = 0;
        for (index, entry) in entries.iter().enumerate() {
            let (length, sha256) = entry.split_first_chunk::<4>().expect("an entry has 36 bytes");
            let length = u32::from_le_bytes(*length);
            if length == 0 || length > MAX_CHUNK {
                return Err(CutError::ChunkLength { index, length });
            }
            let sha256 = <[u8; 32]>::try_from(sha256).expect("32 bytes are left of 36");
            chunks.push(Chunk { offset, length, sha256: Sha256::new(sha256) });
            // At most 2^18 chunks of 2^20 bytes.
            offset += u64::from(length);
        }
        if offset != file.get() {
            return Err(CutError::FileLength { chunks: ByteLen::new(offset), file });
        }
        Ok(Self { length: file, chunks })
    }

    /// How long the list is whose first bytes these are, if they can say so.
    pub(super) fn encoded_len(first: &[u8]) -> Option<u64> {
        let count = first.strip_prefix(&MAGIC)?.first_chunk::<4>().map(|count| u32::from_le_bytes(*count))?;
        (count <= MAX_CHUNKS).then(|| HEADER as u64 + ENTRY as u64 * u64::from(count))
    }

    /// The list as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + ENTRY * self.chunks.len());
        bytes.extend_from_slice(&MAGIC);
        let count = u32::try_from(self.chunks.len()).expect("a list has at most 2^18 chunks");
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&self.length.get().to_le_bytes());
        for chunk in &self.chunks {
            bytes.extend_from_slice(&chunk.length.to_le_bytes());
            bytes.extend_from_slice(chunk.sha256.as_bytes());
        }
        bytes
    }

    /// Length of the file.
    pub fn length(&self) -> ByteLen {
        self.length
    }

    /// The chunks, in the order of the file.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }
}

/// Where parts of a file begin that another build's file may share; sorted, without the first.
fn bounds(file: &dyn ReadAt) -> Vec<u64> {
    let length = file.len().get();
    // What is no zip, or one that nobody can read, has no parts that are known here.
    let Ok(zip) = OtaZip::read(file, &ota_zip::Limits::default()) else { return Vec::new() };
    let mut bounds: Vec<u64> = Vec::new();
    for entry in zip.entries() {
        bounds.extend([entry.offset, entry.offset.saturating_add(entry.stored)]);
    }
    if let Ok(stored) = zip.stored(PAYLOAD)
        && let Ok(payload) = Payload::read(&stored, &payload::Limits::default())
    {
        let first = stored.offset().get().saturating_add(payload.blobs_offset().get());
        let operations = payload.manifest().partitions.iter().flat_map(|partition| &partition.operations);
        let data = operations.filter_map(|operation| operation.data);
        bounds.extend(data.map(|data| first.saturating_add(data.offset)));
        bounds.push(first.saturating_add(payload.blobs_len().get()));
    }
    bounds.retain(|at| (1..length).contains(at));
    bounds.sort_unstable();
    bounds.dedup();
    // A zip of a great many tiny entries is better cut by its content.
    if bounds.len() > MAX_CHUNKS as usize / 2 { Vec::new() } else { bounds }
}
