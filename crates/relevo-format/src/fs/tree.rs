//! What both file systems need: reading from the image, counting against the limits, and the list that comes of it.

use std::ops::Range;

use super::{Content, Extent, File, FileKind, FileSystem, FsError, Kind, Limits, Stored};
use crate::ReadAt;

/// An image, what was found in it, and what may still be found.
pub(super) struct Tree<'a> {
    image: &'a dyn ReadAt,
    kind: Kind,
    limits: Limits,
    files: Vec<File>,
    path_bytes: u64,
    directory_bytes: u64,
    extents: u64,
}

impl<'a> Tree<'a> {
    pub(super) fn new(image: &'a dyn ReadAt, kind: Kind, limits: &Limits) -> Self {
        Self { image, kind, limits: *limits, files: Vec::new(), path_bytes: 0, directory_bytes: 0, extents: 0 }
    }

    /// Bytes of the image.
    pub(super) fn len(&self) -> u64 {
        self.image.len().get()
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), FsError> {
        let len = buf.len() as u64;
        self.image.read_exact_at(buf, offset).map_err(|source| FsError::Read { offset, len, source })
    }

    pub(super) fn array<const N: usize>(&self, offset: u64) -> Result<[u8; N], FsError> {
        let mut bytes = [0; N];
        self.read(&mut bytes, offset)?;
        Ok(bytes)
    }

    pub(super) fn damaged(&self, what: &'static str, found: impl Into<u64>, offset: u64) -> FsError {
        FsError::Damaged { kind: self.kind, what, found: found.into(), offset }
    }

    pub(super) fn unsupported(&self, feature: impl Into<String>) -> FsError {
        FsError::Unsupported { kind: self.kind, feature: feature.into() }
    }

    fn limit(&self, what: &'static str, limit: u64) -> FsError {
        FsError::Limit { kind: self.kind, what, limit }
    }

    /// Counts `count` extents, or work that takes as long.
    pub(super) fn count_extents(&mut self, count: u64) -> Result<(), FsError> {
        self.extents = self.extents.saturating_add(count);
        if self.extents > self.limits.extents {
            return Err(self.limit("extents", self.limits.extents));
        }
        Ok(())
    }

    /// Counts the bytes of a directory.
    pub(super) fn count_directory(&mut self, bytes: u64) -> Result<(), FsError> {
        self.directory_bytes = self.directory_bytes.saturating_add(bytes);
        if self.directory_bytes > self.limits.directory_bytes {
            return Err(self.limit("bytes of directories", self.limits.directory_bytes));
        }
        Ok(())
    }

    /// Whether `count` more names, and the work of finding them, are still within the limits.
    pub(super) fn check_names(&self, count: usize) -> Result<(), FsError> {
        if (self.files.len() + count) as u64 > self.limits.files {
            return Err(self.limit("files", self.limits.files));
        }
        Ok(())
    }

    pub(super) fn check_file_size(&self, size: u64) -> Result<(), FsError> {
        // Whatever is asked for: so much keeps all sums within 64 bits.
        let limit = self.limits.file_bytes.min(1 << 60);
        if size > limit {
            return Err(self.limit("bytes in one file", limit));
        }
        Ok(())
    }

    /// The path of `name` in the directory `parent` at `depth`, counted as one more file.
    pub(super) fn path(&mut self, parent: &[u8], depth: u32, name: &[u8], offset: u64) -> Result<Vec<u8>, FsError> {
        if name.is_empty() || name.iter().any(|&byte| byte == b'/' || byte == 0) {
            return Err(self.damaged("the length of a name with / or NUL, or of none,", name.len() as u64, offset));
        }
        if depth >= self.limits.depth {
            return Err(self.limit("directories in each other", self.limits.depth.into()));
        }
        if self.files.len() as u64 >= self.limits.files {
            return Err(self.limit("files", self.limits.files));
        }
        let mut path = Vec::with_capacity(parent.len() + 1 + name.len());
        if !parent.is_empty() {
            path.extend_from_slice(parent);
            path.push(b'/');
        }
        path.extend_from_slice(name);
        self.path_bytes = self.path_bytes.saturating_add(path.len() as u64);
        if self.path_bytes > self.limits.path_bytes {
            return Err(self.limit("bytes of paths", self.limits.path_bytes));
        }
        Ok(path)
    }

    pub(super) fn push(&mut self, path: Vec<u8>, inode: u64, kind: FileKind, size: u64, content: Content) {
        self.files.push(File { path, inode, kind, size, content });
    }

    /// A directory or a special file.
    pub(super) fn push_empty(&mut self, path: Vec<u8>, inode: u64, kind: FileKind) {
        self.push(path, inode, kind, 0, Content::Plain(Vec::new()));
    }

    /// The list, with what belongs to no file.
    pub(super) fn finish(mut self, block_size: u32) -> Result<FileSystem, FsError> {
        self.files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        if let Some([_, again]) = self.files.array_windows().find(|[a, b]| a.path == b.path) {
            return Err(self.damaged("the inode of a second file of the same name", again.inode, 0));
        }
        let metadata = self.unclaimed(u64::from(block_size));
        Ok(FileSystem { kind: self.kind, block_size, files: self.files, metadata })
    }

    fn unclaimed(&self, block_size: u64) -> Vec<Range<u64>> {
        let mut claimed = Vec::new();
        for file in &self.files {
            match &file.content {
                Content::Plain(extents) => claimed.extend(extents.iter().filter_map(|extent| match extent.stored {
                    Stored::Blocks(start) => Some((start, start + extent.len)),
                    Stored::Inline(_) | Stored::Hole => None,
                })),
                Content::Compressed(clusters) => {
                    let own = clusters.iter().filter(|cluster| !cluster.inline);
                    claimed
                        .extend(own.map(|cluster| (cluster.image_offset, cluster.image_offset + cluster.stored_len)));
                }
            }
        }
        claimed.sort_unstable();
        let (mut metadata, mut at) = (Vec::new(), 0);
        for (start, end) in claimed {
            if start > at {
                metadata.push(at..start);
            }
            at = at.max(end.next_multiple_of(block_size).min(self.len()));
        }
        if at < self.len() {
            metadata.push(at..self.len());
        }
        metadata
    }
}

/// Extents of one file as they are found, in order.
pub(super) struct Extents {
    size: u64,
    reached: u64,
    extents: Vec<Extent>,
}

impl Extents {
    pub(super) fn new(size: u64) -> Self {
        Self { size, reached: 0, extents: Vec::new() }
    }

    /// Bytes of the file.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// First byte that no extent has said anything about.
    pub(super) fn reached(&self) -> u64 {
        self.reached
    }

    /// Adds a run, after a hole if it does not begin where the last one ended; what is beyond the end of the file is
    /// left out. `file_offset` is at or after [`reached`](Self::reached).
    pub(super) fn push(
        &mut self,
        tree: &mut Tree<'_>,
        file_offset: u64,
        len: u64,
        stored: Stored,
    ) -> Result<(), FsError> {
        if file_offset > self.reached {
            self.append(tree, file_offset - self.reached, Stored::Hole)?;
        }
        self.append(tree, len, stored)
    }

    fn append(&mut self, tree: &mut Tree<'_>, len: u64, stored: Stored) -> Result<(), FsError> {
        let len = len.min(self.size - self.reached);
        if len == 0 {
            return Ok(());
        }
        let file_offset = self.reached;
        self.reached += len;
        if let Some(last) = self.extents.last_mut() {
            let goes_on = match (last.stored, stored) {
                (Stored::Blocks(last_start), Stored::Blocks(start)) => start.checked_sub(last.len) == Some(last_start),
                (Stored::Hole, Stored::Hole) => true,
                _ => false,
            };
            if goes_on {
                last.len += len;
                return Ok(());
            }
        }
        tree.count_extents(1)?;
        self.extents.push(Extent { file_offset, len, stored });
        Ok(())
    }

    pub(super) fn finish(mut self, tree: &mut Tree<'_>) -> Result<Vec<Extent>, FsError> {
        self.append(tree, self.size - self.reached, Stored::Hole)?;
        Ok(self.extents)
    }
}

/// Reads `len` bytes from `start` of what `extents` describe.
pub(super) fn read_extents(tree: &Tree<'_>, extents: &[Extent], buf: &mut [u8], start: u64) -> Result<(), FsError> {
    let mut filled = 0;
    let mut index = extents.partition_point(|extent| extent.file_offset + extent.len <= start);
    while filled < buf.len() {
        let at = start + filled as u64;
        let Some(extent) = extents.get(index) else { return Err(tree.damaged("the end of a directory", at, at)) };
        let skip = at - extent.file_offset;
        let len = usize::try_from(extent.len - skip).unwrap_or(usize::MAX).min(buf.len() - filled);
        let target = &mut buf[filled..filled + len];
        match extent.stored {
            Stored::Blocks(offset) | Stored::Inline(offset) => tree.read(target, offset + skip)?,
            Stored::Hole => target.fill(0),
        }
        filled += len;
        index += 1;
    }
    Ok(())
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
