//! Images of partitions: raw files, Android sparse files, and directories of `NAME.img`.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use relevo_types::{ByteLen, NameError, PartitionName};

use crate::{FileAt, ReadAt};

/// First four bytes of a sparse image, little-endian.
const SPARSE_MAGIC: u32 = 0xed26_ff3a;
/// Bytes of the file header and of a chunk header that version 1 has.
const FILE_HEADER: u16 = 28;
const CHUNK_HEADER: u16 = 12;
const RAW: u16 = 0xcac1;
const FILL: u16 = 0xcac2;
const DONT_CARE: u16 = 0xcac3;
const CRC32: u16 = 0xcac4;
/// Most chunks that we take; an image of 16 GiB in alternating blocks has half as many.
const MAX_CHUNKS: u32 = 1 << 22;
/// Largest image that we take, in bytes.
const MAX_SIZE: u64 = 1 << 40;

/// Why an image or a directory of images could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The operating system refused.
    #[error("could not read {}", path.display())]
    Read {
        /// Which file or directory.
        path: PathBuf,
        /// What it answered.
        source: io::Error,
    },
    /// A sparse image is damaged.
    #[error("the sparse image {} is damaged", path.display())]
    Sparse {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: SparseError,
    },
    /// A file is named `*.img`, but no partition can have that name.
    #[error("{} is not named after a partition", path.display())]
    Name {
        /// Which file.
        path: PathBuf,
        /// What is wrong with the name.
        source: NameError,
    },
    /// There is no image in the directory.
    #[error("{} holds no NAME.img", path.display())]
    Empty {
        /// Which directory.
        path: PathBuf,
    },
}

/// What is wrong with a sparse image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SparseError {
    /// Reading failed, or the file ends too early.
    #[error("it cannot be read to its end")]
    Read(#[from] io::Error),
    /// Not version 1.
    #[error("version {major}.{minor}; only 1.x is known")]
    Version {
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
    },
    /// The header says what no image says.
    #[error("{what} {found}")]
    Header {
        /// Which field.
        what: &'static str,
        /// Its value.
        found: u64,
    },
    /// A chunk of a kind that does not exist.
    #[error("chunk {index} is of unknown kind {kind:#06x}")]
    Kind {
        /// Number of the chunk.
        index: u32,
        /// Its kind.
        kind: u16,
    },
    /// A chunk's length does not fit its kind or the image.
    #[error("chunk {index} has {total} bytes for {blocks} blocks, which does not fit its kind or the image")]
    Chunk {
        /// Number of the chunk.
        index: u32,
        /// Its length in the file.
        total: u32,
        /// Its length in the image.
        blocks: u32,
    },
    /// The chunks do not add up to the image.
    #[error("the chunks make {found} blocks, the header says {expected}")]
    Blocks {
        /// What the chunks make.
        found: u64,
        /// What the header says.
        expected: u32,
    },
}

/// Opens an image, raw or sparse, as the bytes that the partition has.
///
/// # Errors
/// [`ImageError::Read`], [`ImageError::Sparse`].
pub fn open_image(path: &Path) -> Result<Box<dyn ReadAt>, ImageError> {
    let read = |source| ImageError::Read { path: path.into(), source };
    let file = FileAt::open(path).map_err(read)?;
    if !starts_sparse(&file).map_err(read)? {
        return Ok(Box::new(file));
    }
    let image = SparseImage::new(file).map_err(|source| ImageError::Sparse { path: path.into(), source })?;
    Ok(Box::new(image))
}

fn starts_sparse(file: &FileAt) -> io::Result<bool> {
    let mut magic = [0; 4];
    if file.len().get() < u64::from(FILE_HEADER) {
        return Ok(false);
    }
    file.read_exact_at(&mut magic, 0)?;
    Ok(u32::from_le_bytes(magic) == SPARSE_MAGIC)
}

/// Whether an image is sparse, by how it starts.
///
/// # Errors
/// [`ImageError::Read`].
pub fn is_sparse(path: &Path) -> Result<bool, ImageError> {
    let read = |source| ImageError::Read { path: path.into(), source };
    FileAt::open(path).and_then(|file| starts_sparse(&file)).map_err(read)
}

/// The images in a directory: every `NAME.img`, by partition.
///
/// # Errors
/// [`ImageError::Read`], [`ImageError::Name`], [`ImageError::Empty`].
pub fn image_dir(dir: &Path) -> Result<BTreeMap<PartitionName, PathBuf>, ImageError> {
    let read = |source| ImageError::Read { path: dir.into(), source };
    let mut images = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".img"));
        if let Some(name) = name
            && path.is_file()
        {
            let name = PartitionName::parse(name).map_err(|source| ImageError::Name { path: path.clone(), source })?;
            images.insert(name, path);
        }
    }
    if images.is_empty() { Err(ImageError::Empty { path: dir.into() }) } else { Ok(images) }
}

/// An Android sparse image, read as the image that it stands for.
///
/// # Source
/// AOSP `system/core/libsparse/sparse_format.h`.
#[derive(Debug)]
pub struct SparseImage<R> {
    file: R,
    len: ByteLen,
    chunks: Vec<Chunk>,
}

#[derive(Debug, Clone, Copy)]
struct Chunk {
    /// First byte in the image.
    start: u64,
    content: Content,
}

#[derive(Debug, Clone, Copy)]
enum Content {
    /// Bytes of the file from this offset on.
    At(u64),
    /// These four bytes over and over.
    Fill([u8; 4]),
}

impl<R: ReadAt> SparseImage<R> {
    /// Reads the chunk table.
    ///
    /// # Errors
    /// [`SparseError`]. Chunks that nobody cares about read as zeros; checksums are not looked at, since nothing that
    /// makes images writes them.
    pub fn new(file: R) -> Result<Self, SparseError> {
        let mut header = [0; FILE_HEADER as usize];
        file.read_exact_at(&mut header, 0)?;
        let short = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let wrong = |what, found: u64| Err(SparseError::Header { what, found });
        if word(0) != SPARSE_MAGIC {
            return wrong("magic", word(0).into());
        }
        if short(4) != 1 {
            return Err(SparseError::Version { major: short(4), minor: short(6) });
        }
        let (file_header, chunk_header) = (short(8), short(10));
        let (block, blocks, chunk_count) = (word(12), word(16), word(20));
        if file_header < FILE_HEADER {
            return wrong("file header length", file_header.into());
        }
        if chunk_header < CHUNK_HEADER {
            return wrong("chunk header length", chunk_header.into());
        }
        let (file_header, chunk_header) = (u64::from(file_header), u64::from(chunk_header));
        if block == 0 || block % 4 != 0 || block > 1 << 20 {
            return wrong("block size", block.into());
        }
        if u64::from(block) * u64::from(blocks) > MAX_SIZE {
            return wrong("number of blocks", blocks.into());
        }
        if chunk_count > MAX_CHUNKS || u64::from(chunk_count) > file.len().get() / chunk_header {
            return wrong("number of chunks", chunk_count.into());
        }

        let mut chunks = Vec::with_capacity(chunk_count as usize);
        let (mut at, mut done) = (file_header, 0_u64);
        for index in 0..chunk_count {
            let mut head = [0; CHUNK_HEADER as usize];
            file.read_exact_at(&mut head, at)?;
            let kind = u16::from_le_bytes([head[0], head[1]]);
            let count = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
            let total = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
            let bytes = u64::from(count) * u64::from(block);
            let (data, content) = match kind {
                RAW => (bytes, Content::At(at + chunk_header)),
                FILL => {
                    let mut value = [0; 4];
                    file.read_exact_at(&mut value, at + chunk_header)?;
                    (4, Content::Fill(value))
                }
                DONT_CARE => (0, Content::Fill([0; 4])),
                CRC32 => (4, Content::Fill([0; 4])),
                _ => return Err(SparseError::Kind { index, kind }),
            };
            let end = at.checked_add(u64::from(total)).filter(|&end| end <= file.len().get());
            let fits = u64::from(total) == chunk_header + data && (kind != CRC32 || count == 0);
            let (Some(end), true) = (end, fits && done + u64::from(count) <= u64::from(blocks)) else {
                return Err(SparseError::Chunk { index, total, blocks: count });
            };
            if count > 0 {
                chunks.push(Chunk { start: done * u64::from(block), content });
            }
            done += u64::from(count);
            at = end;
        }
        if done != u64::from(blocks) {
            return Err(SparseError::Blocks { found: done, expected: blocks });
        }
        Ok(Self { file, len: ByteLen::new(done * u64::from(block)), chunks })
    }
}

impl<R: ReadAt> ReadAt for SparseImage<R> {
    fn len(&self) -> ByteLen {
        self.len
    }

    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        if end > self.len.get() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // The chunk that holds the offset is the last that starts at or before it.
        let mut index = self.chunks.partition_point(|chunk| chunk.start <= offset);
        while !buf.is_empty() {
            let chunk = self.chunks[index - 1];
            let chunk_end = self.chunks.get(index).map_or(self.len.get(), |next| next.start);
            let len = usize::try_from(chunk_end - offset).unwrap_or(usize::MAX).min(buf.len());
            let (now, rest) = buf.split_at_mut(len);
            let inside = offset - chunk.start;
            match chunk.content {
                Content::At(at) => self.file.read_exact_at(now, at + inside)?,
                Content::Fill(value) => {
                    let phase = (inside % 4) as usize;
                    now.iter_mut().enumerate().for_each(|(at, byte)| *byte = value[(phase + at) % 4]);
                }
            }
            buf = rest;
            offset += len as u64;
            index += 1;
        }
        Ok(())
    }
}
