//! Data of operations, in a file without a name.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use relevo_format::{FileAt, ReadAt};
use relevo_types::ByteLen;

use super::write_error;
use crate::DeltaError;

/// Data of all operations, one after the other; gone when it is dropped.
#[derive(Debug)]
pub struct Blobs {
    file: FileAt,
}

impl ReadAt for Blobs {
    fn len(&self) -> ByteLen {
        self.file.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

/// Bytes in the spill file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spilled {
    offset: u64,
    pub len: u64,
}

/// Data in the order in which they were finished.
#[derive(Debug)]
pub(super) struct Spill {
    scratch: PathBuf,
    file: File,
    end: Mutex<u64>,
}

impl Spill {
    /// Makes one in `scratch`.
    pub(super) fn new(scratch: &Path) -> Result<Self, DeltaError> {
        let file = tempfile::tempfile_in(scratch).map_err(write_error(scratch))?;
        Ok(Self { scratch: scratch.into(), file, end: Mutex::new(0) })
    }

    /// Appends `bytes`.
    pub(super) fn append(&self, bytes: &[u8]) -> Result<Spilled, DeltaError> {
        let len = bytes.len() as u64;
        let offset = {
            let mut end = self.end.lock().expect("nothing panics while it holds this lock");
            let offset = *end;
            *end += len;
            offset
        };
        self.file.write_all_at(bytes, offset).map_err(write_error(&self.scratch))?;
        Ok(Spilled { offset, len })
    }

    /// The same data in the order that is asked for.
    pub(super) fn in_order(self, order: impl Iterator<Item = Spilled>) -> Result<Blobs, DeltaError> {
        let copy = || -> io::Result<Blobs> {
            let file = tempfile::tempfile_in(&self.scratch)?;
            let mut writer = BufWriter::with_capacity(1 << 20, &file);
            let mut buffer = vec![0; 1 << 20];
            for spilled in order {
                let mut done = 0;
                while done < spilled.len {
                    let step = usize::try_from(spilled.len - done).unwrap_or(usize::MAX).min(buffer.len());
                    self.file.read_exact_at(&mut buffer[..step], spilled.offset + done)?;
                    writer.write_all(&buffer[..step])?;
                    done += step as u64;
                }
            }
            writer.flush()?;
            drop(writer);
            Ok(Blobs { file: FileAt::new(file)? })
        };
        copy().map_err(write_error(&self.scratch))
    }
}
