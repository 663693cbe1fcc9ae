//! Files of the file systems that Android's read-only partitions have: ext4 and EROFS.
//!
//! [`read`] lists a whole image: which bytes of it make up which file, and which belong to no file. [`open`] reads the
//! contents of one of them. Nothing is mounted, nothing is kept but the list. Images are hostile: a damaged one, or one
//! with a feature that is not known here, is an error that names it, and its user treats the image as plain bytes.
//!
//! # Examples
//! ```
//! use relevo_format::fs::{self, FsError, Limits};
//!
//! let image = vec![0; 8192];
//! assert!(matches!(fs::read(&image, &Limits::default()), Err(FsError::Unknown)));
//! ```

mod contents;
mod erofs;
mod ext4;
mod lz4;
mod tree;

use std::{io, ops::Range};

pub use contents::{Contents, open};

use crate::ReadAt;

/// Which file system an image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// ext2, ext3 or ext4.
    Ext4,
    /// EROFS.
    Erofs,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ext4 => "ext4",
            Self::Erofs => "EROFS",
        })
    }
}

/// What is in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// Which file system it is.
    pub kind: Kind,
    /// Bytes of a block; a power of two.
    pub block_size: u32,
    /// Everything that has a name, sorted by path. Hard links are files of the same inode.
    pub files: Vec<File>,
    /// Ranges of the image, in bytes, that belong to no file's blocks: inodes, directories, free space, what follows
    /// the file system. Sorted, never empty, never touching.
    pub metadata: Vec<Range<u64>>,
}

/// One name in a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// The path from the root, without a leading `/`; bytes, as the file system keeps them.
    pub path: Vec<u8>,
    /// Number of the inode; equal for hard links.
    pub inode: u64,
    /// What it is.
    pub kind: FileKind,
    /// Length of the contents, in bytes; of a symbolic link, that of its target. 0 for all other kinds.
    pub size: u64,
    /// Where the contents are.
    pub content: Content,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A file with contents.
    Regular,
    /// A symbolic link; its contents are its target.
    Symlink,
    /// A directory. Its blocks count as metadata.
    Directory,
    /// A device, a pipe or a socket.
    Special,
}

/// Where the contents of a file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// As they are, in the order of the file; the extents follow each other from 0 to the file's size.
    Plain(Vec<Extent>),
    /// In clusters, some of them compressed, in the order of the file; they follow each other from 0 to its size.
    Compressed(Vec<Cluster>),
}

/// A run of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte in the file.
    pub file_offset: u64,
    /// Bytes; never 0. The last block of a file reaches on to the end of that block.
    pub len: u64,
    /// Where they are.
    pub stored: Stored,
}

/// Where a run of bytes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// In blocks of its own (or shared with another file), from this byte of the image on.
    Blocks(u64),
    /// Between metadata, from this byte of the image on.
    Inline(u64),
    /// Nowhere; the bytes are zero.
    Hole,
}

/// A run of a file's bytes that is decoded as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cluster {
    /// First byte in the file.
    pub file_offset: u64,
    /// Bytes in the file; never 0.
    pub len: u64,
    /// First stored byte in the image.
    pub image_offset: u64,
    /// Stored bytes, padding included: compressing again has to make exactly these.
    pub stored_len: u64,
    /// How they are stored.
    pub coding: Coding,
    /// Decoded bytes before those of the file: the file is a fragment of something that many share.
    pub skip: u64,
    /// Whether the stored bytes stand between metadata, not in blocks of their own.
    pub inline: bool,
    /// Whether the stored bytes decode to more than `skip + len` bytes: another file has the rest.
    pub partial: bool,
}

/// How a cluster is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// As it is, from the first stored byte on.
    Plain,
    /// As it is, in one block, rotated: the first byte is this far into the block, and after its end it goes on at
    /// its start.
    Interlaced(u32),
    /// As one LZ4 block without a header that ends where the stored bytes end, after zero bytes (none of which can
    /// begin a block).
    Lz4,
    /// As one LZ4 block without a header at the start of the stored bytes; what follows it means nothing.
    Lz4Unpadded,
}

/// What is read at most. The defaults are several times what phones have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Names.
    pub files: u64,
    /// Bytes of all paths together.
    pub path_bytes: u64,
    /// Directories in directories.
    pub depth: u32,
    /// Extents, clusters, and the nodes of trees on the way to them.
    pub extents: u64,
    /// Bytes of all directories together.
    pub directory_bytes: u64,
    /// Bytes of one file.
    pub file_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            files: 1 << 20,
            path_bytes: 128 << 20,
            depth: 256,
            extents: 1 << 22,
            directory_bytes: 256 << 20,
            file_bytes: 64 << 30,
        }
    }
}

/// Why an image could not be read as files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FsError {
    /// Neither magic number is there.
    #[error("the image is neither ext4 nor EROFS")]
    Unknown,
    /// Reading the image failed.
    #[error("could not read {len} bytes at byte {offset} of the image")]
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// What the image answered.
        source: io::Error,
    },
    /// A feature that is not known or not wanted.
    #[error("the {kind} file system has {feature}, which is not supported")]
    Unsupported {
        /// Which file system.
        kind: Kind,
        /// The feature, as its own tools call it.
        feature: String,
    },
    /// A value that no sound file system has.
    #[error("the {kind} file system is damaged: {what} is {found} (byte {offset} of the image)")]
    Damaged {
        /// Which file system.
        kind: Kind,
        /// Which value.
        what: &'static str,
        /// What it is.
        found: u64,
        /// Where it was found, or where what it was found in begins.
        offset: u64,
    },
    /// More than [`Limits`] allow.
    #[error("the {kind} file system has more than {limit} {what}")]
    Limit {
        /// Which file system.
        kind: Kind,
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

/// Lists the files of an image.
///
/// # Errors
/// [`FsError::Unknown`] if it is no file system known here, and every other [`FsError`] as it says.
pub fn read(image: &dyn ReadAt, limits: &Limits) -> Result<FileSystem, FsError> {
    // Both keep their first block free for a boot loader and have their superblock behind it.
    const SUPERBLOCK: u64 = 1024;
    if image.len().get() < SUPERBLOCK + 128 {
        return Err(FsError::Unknown);
    }
    let mut superblock = [0; 128];
    image.read_exact_at(&mut superblock, SUPERBLOCK).map_err(|source| FsError::Read {
        offset: SUPERBLOCK,
        len: 128,
        source,
    })?;
    if superblock[..4] == erofs::MAGIC {
        erofs::read(image, limits)
    } else if superblock[0x38..0x3a] == ext4::MAGIC {
        ext4::read(image, limits)
    } else {
        Err(FsError::Unknown)
    }
}
