//! A file that is being filled, chunk by chunk, in any order, by several requests at once.
//!
//! Which chunks are there is never written down: whoever opens the file hashes what it holds. So there is nothing that
//! a cut could leave saying more than the disk has, and nothing has to be flushed before the end.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use relevo_meta::{Target, chunks};
use relevo_types::{ByteLen, Sha256};
use sha2::Digest as _;

use super::{Chunk, CutList, IntakeError};

/// A file that is being filled.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) cut: CutList,
    file: File,
    /// Which chunks are there.
    have: Mutex<Vec<bool>>,
}

/// A file that may hold some of the chunks, and how it is cut.
pub(super) struct Source {
    pub(super) file: File,
    pub(super) cut: CutList,
}

/// Bytes that are hashed at once.
const BUFFER: usize = 1 << 20;

impl Part {
    /// Opens the file, or makes it, and finds out which chunks it holds.
    pub(super) fn open(path: &Path, cut: CutList) -> Result<Self, IntakeError> {
        let write = || IntakeError::write(path);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(write())?;
        let before = file.metadata().map_err(write())?.len();
        if before != cut.length().get() {
            file.set_len(cut.length().get()).map_err(write())?;
        }
        let mut have = vec![false; cut.chunks().len()];
        if before > 0 {
            let mut buffer = Vec::new();
            for (have, chunk) in have.iter_mut().zip(cut.chunks()) {
                *have = read(&file, chunk, &mut buffer).is_ok_and(|actual| actual == chunk.sha256);
            }
        }
        Ok(Self { path: path.to_owned(), cut, file, have: Mutex::new(have) })
    }

    /// Fills what other files hold. One that changed or cannot be read gives nothing.
    pub(super) fn fill(&self, sources: &[Source]) -> Result<(), IntakeError> {
        let mut found = std::collections::HashMap::new();
        for (number, source) in sources.iter().enumerate() {
            found.extend(source.cut.chunks().iter().map(|chunk| (chunk.sha256, (number, *chunk))));
        }
        let mut buffer = Vec::new();
        for index in self.missing() {
            let chunk = self.cut.chunks()[index];
            let Some((number, at)) = found.get(&chunk.sha256) else { continue };
            if read(&sources[*number].file, at, &mut buffer).is_ok_and(|actual| actual == chunk.sha256) {
                self.put(index, &buffer)?;
            }
        }
        Ok(())
    }

    /// Writes a chunk, if it is that chunk.
    pub(super) fn put(&self, index: usize, bytes: &[u8]) -> Result<(), IntakeError> {
        let what = || format!("chunk {index}");
        let chunk = *self.cut.chunks().get(index).ok_or_else(|| IntakeError::NoSuchPart { what: what() })?;
        let actual = Sha256::new(sha2::Sha256::digest(bytes).into());
        if actual != chunk.sha256 || bytes.len() != chunk.length as usize {
            return Err(IntakeError::Digest { what: what(), expected: chunk.sha256, actual });
        }
        // A chunk that is there is not written again: the file may be published already.
        if self.have()[index] {
            return Ok(());
        }
        self.file.write_all_at(bytes, chunk.offset).map_err(IntakeError::write(&self.path))?;
        self.have()[index] = true;
        Ok(())
    }

    /// The chunks that are not there, in order.
    pub(super) fn missing(&self) -> Vec<usize> {
        let have = self.have();
        have.iter().enumerate().filter(|(_, have)| !**have).map(|(index, _)| index).collect()
    }

    /// Hashes the whole file and makes it durable; also gives the list of chunks that phones check it by.
    pub(super) fn seal(&self) -> Result<(Target, Vec<u8>), IntakeError> {
        let length = self.cut.length();
        let failed = |source: chunks::ChunkError| IntakeError::Read {
            path: self.path.clone(),
            source: io::Error::other(source),
        };
        let mut list =
            chunks::chunk_size_for(length).and_then(|size| chunks::Builder::new(length, size)).map_err(failed)?;
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; BUFFER];
        let mut at = 0;
        while at < length.get() {
            let len = usize::try_from(length.get() - at).unwrap_or(BUFFER).min(BUFFER);
            self.file.read_exact_at(&mut buffer[..len], at).map_err(IntakeError::read(&self.path))?;
            hasher.update(&buffer[..len]);
            list.update(&buffer[..len]).map_err(failed)?;
            at += len as u64;
        }
        let list = list.finish().map_err(failed)?.encode();
        self.file.sync_all().map_err(IntakeError::write(&self.path))?;
        Ok((Target { length, sha256: Sha256::new(hasher.finalize().into()) }, list))
    }

    /// Forgets what is there: some chunk is not what it was, or the list of chunks is not of this file.
    pub(super) fn forget(&self) -> Result<(), IntakeError> {
        self.have().fill(false);
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(IntakeError::write(&self.path)(error)),
            _ => Ok(()),
        }
    }

    fn have(&self) -> std::sync::MutexGuard<'_, Vec<bool>> {
        self.have.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a chunk into `buffer` and hashes it.
fn read(file: &File, chunk: &Chunk, buffer: &mut Vec<u8>) -> io::Result<Sha256> {
    buffer.resize(chunk.length as usize, 0);
    file.read_exact_at(buffer, chunk.offset)?;
    Ok(Sha256::new(sha2::Sha256::digest(&buffer[..]).into()))
}

/// Bytes of some chunks.
pub(super) fn bytes_of(cut: &CutList, indices: &[usize]) -> ByteLen {
    ByteLen::new(indices.iter().map(|index| u64::from(cut.chunks()[*index].length)).sum())
}
