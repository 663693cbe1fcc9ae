//! Contents of one file.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use relevo_types::ByteLen;

use super::{Cluster, Coding, Content, Extent, File, Stored, lz4};
use crate::ReadAt;

/// Most stored bytes of a compressed cluster: EROFS's own limit (`Z_EROFS_PCLUSTER_MAX_SIZE`).
pub(super) const MAX_STORED: u64 = 1 << 20;
/// Most decoded bytes of a compressed cluster that we hold; mkfs.erofs compresses less than 4 MiB at a time.
pub(super) const MAX_DECODED: u64 = 16 << 20;

/// The contents of `file`, which is one of `image`'s.
pub fn open<'a>(image: &'a dyn ReadAt, file: &'a File) -> Contents<'a> {
    Contents { image, file, last: Mutex::default() }
}

/// Contents of a file, readable at any offset; [`Section::whole`](crate::Section::whole) reads them in order.
///
/// One decoded cluster is kept, so that reading in order decodes each of them once.
pub struct Contents<'a> {
    image: &'a dyn ReadAt,
    file: &'a File,
    last: Mutex<Decoded>,
}

/// A cluster, by its number, and what it decoded to.
#[derive(Default)]
struct Decoded {
    index: Option<usize>,
    bytes: Vec<u8>,
    stored: Vec<u8>,
}

impl std::fmt::Debug for Contents<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").field("file", self.file).finish_non_exhaustive()
    }
}

impl ReadAt for Contents<'_> {
    fn len(&self) -> ByteLen {
        ByteLen::new(self.file.size)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.file.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &self.file.content {
            Content::Plain(extents) => self.read_plain(extents, buf, offset),
            Content::Compressed(clusters) => self.read_clusters(clusters, buf, offset),
        }
    }
}

impl Contents<'_> {
    fn read_plain(&self, extents: &[Extent], mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        let mut index = extents.partition_point(|extent| extent.file_offset <= offset).wrapping_sub(1);
        while !buf.is_empty() {
            let extent = extents.get(index).ok_or_else(gap)?;
            let (skip, len) = overlap(extent.file_offset, extent.len, offset, buf.len())?;
            let (target, rest) = buf.split_at_mut(len);
            match extent.stored {
                Stored::Blocks(start) | Stored::Inline(start) => {
                    self.image.read_exact_at(target, start.checked_add(skip).ok_or_else(gap)?)?;
                }
                Stored::Hole => target.fill(0),
            }
            buf = rest;
            offset += len as u64;
            index += 1;
        }
        Ok(())
    }

    fn read_clusters(&self, clusters: &[Cluster], mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        let mut index = clusters.partition_point(|cluster| cluster.file_offset <= offset).wrapping_sub(1);
        while !buf.is_empty() {
            let cluster = clusters.get(index).ok_or_else(gap)?;
            let (skip, len) = overlap(cluster.file_offset, cluster.len, offset, buf.len())?;
            let (target, rest) = buf.split_at_mut(len);
            if cluster.coding == Coding::Plain {
                let start = cluster.image_offset.checked_add(cluster.skip).and_then(|start| start.checked_add(skip));
                self.image.read_exact_at(target, start.ok_or_else(gap)?)?;
            } else {
                // A panic while the lock is held leaves no more than a number without its bytes, which is set last.
                let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.index != Some(index) {
                    last.index = None;
                    let Decoded { bytes, stored, .. } = &mut *last;
                    cluster.decode(self.image, stored, bytes)?;
                    last.index = Some(index);
                }
                let start = usize::try_from(cluster.skip.saturating_add(skip)).map_err(|_| gap())?;
                let end = start.checked_add(len).ok_or_else(gap)?;
                target.copy_from_slice(last.bytes.get(start..end).ok_or_else(gap)?);
            }
            buf = rest;
            offset += len as u64;
            index += 1;
        }
        Ok(())
    }
}

impl Cluster {
    /// Decodes the first `skip + len` bytes of the cluster into `out`, with its stored bytes in `stored`.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] if the stored bytes do not decode to as many, or if the cluster is larger than
    /// any that [`read`](super::read) returns; whatever the image answers otherwise.
    pub fn decode(&self, image: &dyn ReadAt, stored: &mut Vec<u8>, out: &mut Vec<u8>) -> io::Result<()> {
        let wanted = self.skip.checked_add(self.len).filter(|&wanted| wanted <= MAX_DECODED);
        let (Some(wanted), true) = (wanted, self.stored_len <= MAX_STORED || self.coding == Coding::Plain) else {
            return Err(invalid(format!("the cluster at byte {} of the image is too large", self.image_offset)));
        };
        let to_len = |len: u64| usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory));
        let wanted = to_len(wanted)?;
        let damaged = || {
            invalid(format!("the cluster at byte {} of the image does not decode to {wanted} bytes", self.image_offset))
        };
        // Plain bytes beyond those wanted are no concern of anyone.
        let len = if self.coding == Coding::Plain { wanted } else { to_len(self.stored_len)? };
        stored.clear();
        stored.resize(len, 0);
        image.read_exact_at(stored, self.image_offset)?;
        match self.coding {
            Coding::Plain => out.clone_from(stored),
            Coding::Interlaced(start) => {
                let start = to_len(start.into())?;
                if wanted > stored.len() || start >= stored.len() {
                    return Err(damaged());
                }
                out.clone_from(stored);
                out.rotate_left(start);
                out.truncate(wanted);
            }
            Coding::Lz4 => {
                let padding = stored.iter().take_while(|&&byte| byte == 0).count();
                lz4::decode(&stored[padding..], wanted, out).map_err(|lz4::Damaged| damaged())?;
            }
            Coding::Lz4Unpadded => lz4::decode(stored, wanted, out).map_err(|lz4::Damaged| damaged())?,
        }
        Ok(())
    }
}

/// How far `offset` is into a run, and how much of `wanted` the run has.
fn overlap(run_start: u64, run_len: u64, offset: u64, wanted: usize) -> io::Result<(u64, usize)> {
    let skip = offset.checked_sub(run_start).ok_or_else(gap)?;
    let left = run_len.checked_sub(skip).filter(|&left| left > 0).ok_or_else(gap)?;
    Ok((skip, usize::try_from(left).unwrap_or(usize::MAX).min(wanted)))
}

/// The runs of a file do not follow each other; [`read`](super::read) returns no such file.
fn gap() -> io::Error {
    invalid("the parts of the file do not follow each other".into())
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
