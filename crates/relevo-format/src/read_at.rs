//! Reading at an offset, from many threads at once.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
};

use relevo_types::ByteLen;

/// Bytes of a known length that can be read at any offset, without a cursor.
pub trait ReadAt: Send + Sync {
    /// The length in bytes.
    fn len(&self) -> ByteLen;

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the range reaches past the end; whatever the source says otherwise.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == ByteLen::ZERO
    }
}

impl ReadAt for [u8] {
    fn len(&self) -> ByteLen {
        ByteLen::new(<[u8]>::len(self) as u64)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn len(&self) -> ByteLen {
        ByteLen::new(<[u8]>::len(self) as u64)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.as_slice().read_exact_at(buf, offset)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn len(&self) -> ByteLen {
        (**self).len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buf, offset)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Box<T> {
    fn len(&self) -> ByteLen {
        (**self).len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buf, offset)
    }
}

/// A file or a block device of the length that it had when it was opened.
#[derive(Debug)]
pub struct FileAt {
    file: File,
    len: ByteLen,
}

impl FileAt {
    /// Opens `path` for reading.
    ///
    /// # Errors
    /// What opening or seeking answers.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::new(File::open(path)?)
    }

    /// Wraps an open file; its length is where its end is now (block devices say 0 in their metadata).
    ///
    /// # Errors
    /// What seeking answers.
    pub fn new(mut file: File) -> io::Result<Self> {
        let len = ByteLen::new(file.seek(SeekFrom::End(0))?);
        Ok(Self { file, len })
    }

    /// The first `len` bytes alone: a slot on a block device is larger than the image in it.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the file is shorter.
    pub fn cut(self, len: ByteLen) -> io::Result<Self> {
        if len > self.len {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("holds {}, but {len} are expected", self.len),
            ));
        }
        Ok(Self { len, ..self })
    }
}

impl ReadAt for FileAt {
    fn len(&self) -> ByteLen {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        if end > self.len.get() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.read_exact_at(buf, offset)
    }
}

/// A range of a [`ReadAt`] as a [`Read`].
#[derive(Debug, Clone)]
pub struct Section<R> {
    inner: R,
    offset: u64,
    left: u64,
}

impl<R: ReadAt> Section<R> {
    /// The `len` bytes of `inner` from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if `inner` does not hold that range.
    pub fn new(inner: R, offset: u64, len: u64) -> io::Result<Self> {
        match offset.checked_add(len) {
            Some(end) if end <= inner.len().get() => Ok(Self { inner, offset, left: len }),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// All of `inner`.
    pub fn whole(inner: R) -> Self {
        let left = inner.len().get();
        Self { inner, offset: 0, left }
    }

    /// Bytes that were not read yet.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }
}

impl<R: ReadAt> Read for Section<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        self.inner.read_exact_at(&mut buf[..len], self.offset)?;
        self.offset += len as u64;
        self.left -= len as u64;
        Ok(len)
    }
}
