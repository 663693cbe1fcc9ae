//! Applies operations and compares what they make with the new image.

use std::{
    io,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use relevo_format::{
    ReadAt,
    payload::{self, ApplyError, Extent, Operation, Sink},
};
use relevo_types::{ByteLen, Sha256};
use sha2::Digest as _;

use super::side::Pair;
use crate::DeltaError;

/// Bytes compared at a time.
const BUFFER: usize = 1 << 20;

/// Compares what is written with what has to be.
struct Compare<'a> {
    target: &'a [Extent],
    /// The bytes of the target's extents, one after the other.
    expected: &'a [u8],
    written: AtomicU64,
    /// Finding the extent of what is written; operations write from front to back.
    hint: Mutex<(usize, u64)>,
}

impl Sink for Compare<'_> {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let differs = || io::Error::other("it makes other bytes than the new image has");
        let mut hint = self.hint.lock().expect("nothing panics while it holds this lock");
        let (mut index, mut before) = *hint;
        while self
            .target
            .get(index)
            .is_some_and(|extent| offset < extent.offset() || extent.offset() + extent.len() <= offset)
        {
            before += self.target[index].len();
            index += 1;
        }
        let extent = self.target.get(index).ok_or_else(differs)?;
        let start = usize::try_from(before + offset - extent.offset()).map_err(|_| differs())?;
        *hint = (index, before);
        if self.expected.get(start..).and_then(|rest| rest.get(..bytes.len())) != Some(bytes) {
            return Err(differs());
        }
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// Applies an operation that has data; `new` is what it has to write.
pub(super) fn patch(pair: &Pair<'_>, operation: &Operation, blob: &[u8], new: &[u8]) -> Result<(), ApplyError> {
    let partition = payload::Partition {
        name: pair.name.clone(),
        old: pair.old.as_ref().map(|old| old.info),
        new: pair.new.info,
        operations: vec![operation.clone()],
        verity: None,
        version: None,
        postinstall: None,
        merge_operations: Vec::new(),
        estimate_cow_size: None,
        estimate_op_count_max: None,
    };
    let sink =
        Compare { target: &operation.target, expected: new, written: AtomicU64::new(0), hint: Mutex::new((0, 0)) };
    payload::apply_unpacked(&Blob(blob), &partition, 0, pair.old.as_ref().map(|old| old.image), &sink)?;
    match sink.written.into_inner() {
        written if written == new.len() as u64 => Ok(()),
        written => Err(ApplyError::Length {
            partition: pair.name.clone(),
            operation: 0,
            kind: operation.kind,
            made: format!("{written} bytes"),
            expected: new.len() as u64,
        }),
    }
}

struct Blob<'a>(&'a [u8]);

impl ReadAt for Blob<'_> {
    fn len(&self) -> ByteLen {
        ReadAt::len(self.0)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
}

/// The error of an operation for which there is nothing to fall back to.
pub(super) fn failed(pair: &Pair<'_>, source: ApplyError) -> DeltaError {
    DeltaError::Operation { partition: pair.name.clone(), source: Box::new(source) }
}

/// Compares blocks of both images; gives the digest of the old ones.
pub(super) fn copy(pair: &Pair<'_>, source: &[Extent], target: &[Extent]) -> Result<Sha256, DeltaError> {
    let old = pair.old.as_ref().expect("copies have an old image");
    let mut hasher = sha2::Sha256::new();
    let (mut left, mut right) = (Cursor::new(old.image, source), Cursor::new(pair.new.image, target));
    let (mut old_bytes, mut new_bytes) = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        let read = left.read(&mut old_bytes).map_err(|source| pair.old_error(source))?;
        right.read(&mut new_bytes[..read]).map_err(|source| pair.new_error(source))?;
        if read == 0 {
            return Ok(Sha256::new(hasher.finalize().into()));
        }
        if old_bytes[..read] != new_bytes[..read] {
            return Err(DeltaError::Differs { partition: pair.name.clone() });
        }
        hasher.update(&old_bytes[..read]);
    }
}

/// Reads extents from front to back.
struct Cursor<'a> {
    image: &'a dyn ReadAt,
    extents: &'a [Extent],
    done: u64,
}

impl<'a> Cursor<'a> {
    fn new(image: &'a dyn ReadAt, extents: &'a [Extent]) -> Self {
        Self { image, extents, done: 0 }
    }

    /// Fills as much of `buf` as there is.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len()
            && let Some(extent) = self.extents.first()
        {
            let step = usize::try_from(extent.len() - self.done).unwrap_or(usize::MAX).min(buf.len() - filled);
            self.image.read_exact_at(&mut buf[filled..filled + step], extent.offset() + self.done)?;
            filled += step;
            self.done += step as u64;
            if self.done == extent.len() {
                (self.extents, self.done) = (&self.extents[1..], 0);
            }
        }
        Ok(filled)
    }
}
