//! Response bodies: a part of an open file in bounded memory, and the absent body of a HEAD.

use std::{
    fs::File,
    future::Future,
    io,
    os::unix::fs::FileExt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use tokio::task::JoinHandle;

/// Bytes read at once; what an open download costs in memory, besides the socket's buffer.
pub(crate) const CHUNK: usize = 64 << 10;

/// A part of an open file, read on the blocking pool one chunk at a time.
///
/// The file is the one that was opened: replacing it under its name does not touch a download in progress.
pub(crate) struct FileBody {
    file: Arc<File>,
    offset: u64,
    left: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileBody {
    /// `len` bytes of `file` from `offset` on.
    pub(crate) fn new(file: File, offset: u64, len: u64) -> Self {
        Self { file: Arc::new(file), offset, left: len, reading: None }
    }
}

impl MessageBody for FileBody {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.left)
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let this = &mut *self;
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let reading = this.reading.get_or_insert_with(|| {
            let (file, offset) = (Arc::clone(&this.file), this.offset);
            let len = usize::try_from(this.left).map_or(CHUNK, |left| left.min(CHUNK));
            tokio::task::spawn_blocking(move || read(&file, offset, len))
        });
        let read = match Pin::new(reading).poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(joined) => joined.map_err(io::Error::other).and_then(|read| read),
        };
        this.reading = None;
        match read {
            Ok(bytes) => {
                let len = bytes.len() as u64;
                this.offset += len;
                this.left -= len;
                Poll::Ready(Some(Ok(bytes)))
            }
            // Someone cut the file short in place. The connection ends here, so the client sees that bytes are missing.
            Err(error) => {
                tracing::warn!(%error, offset = this.offset, "a file changed or failed while it was sent");
                this.left = 0;
                Poll::Ready(Some(Err(error)))
            }
        }
    }
}

/// Reads exactly `len` bytes at `offset`. Blocking.
///
/// # Errors
/// Those of the operating system, and `UnexpectedEof` if the file ends before.
pub(crate) fn read(file: &File, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; len];
    file.read_exact_at(&mut buffer, offset)?;
    Ok(Bytes::from(buffer))
}

/// No body, with the length that the answer to a GET would have.
pub(crate) struct HeadBody(pub u64);

impl MessageBody for HeadBody {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.0)
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        Poll::Ready(None)
    }
}
