//! Metadata files that were read lately: a poll then costs two looks at the file system, no thread and no hash.
//!
//! An entry counts only while the file system still shows the very file that it was read from, so that a new
//! `timestamp.json` is served from the first request after its rename on.

use std::{
    collections::HashMap,
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{PoisonError, RwLock},
};

use bytes::Bytes;
use relevo_types::Sha256;

use crate::layout::{RepoFile, Root};

/// Most bytes that are kept.
const MAX_KEPT: usize = 16 << 20;

/// A file changed less than this many seconds ago is not kept: within the grain of its times (10 ms on old kernels,
/// 2 s on the coarsest file systems) it could change again and look the same.
const SETTLED_SECONDS: i64 = 3;

/// A metadata file in memory.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub(crate) bytes: Bytes,
    pub(crate) sha256: Sha256,
    pub(crate) attributes: Metadata,
}

/// Documents by path.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    kept: RwLock<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    documents: HashMap<PathBuf, Document>,
    len: usize,
}

impl Recent {
    /// The document, if the file is still the one that was read. Looks at the file system and does not wait for a disk
    /// unless the directory has fallen out of memory.
    pub(crate) fn get(&self, root: &Root, file: &RepoFile) -> Option<Document> {
        if matches!(file, RepoFile::Target { .. }) {
            return None;
        }
        let path = root.public().join(file.path());
        let document = self.kept.read().unwrap_or_else(PoisonError::into_inner).documents.get(&path).cloned()?;
        // Following a symlink is no door to the outside: what it leads to must be the file that was let through before.
        let attributes = std::fs::metadata(&path).ok()?;
        same_file(&attributes, &document.attributes).then_some(document)
    }

    /// Keeps a document for the next request; `now_seconds` since 1970.
    pub(crate) fn keep(&self, root: &Root, file: &RepoFile, document: &Document, now_seconds: i64) {
        let changed = document.attributes.ctime().max(document.attributes.mtime());
        if changed.checked_add(SETTLED_SECONDS).is_none_or(|settled| settled > now_seconds) {
            return;
        }
        let path = root.public().join(file.path());
        let cost = 512 + document.bytes.len();
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.len.saturating_add(cost) > MAX_KEPT {
            // Old versions pile up over months; the ones in use are back after one request each.
            *kept = Kept::default();
        }
        match kept.documents.insert(path, document.clone()) {
            Some(old) => kept.len = kept.len.saturating_sub(old.bytes.len()) + document.bytes.len(),
            None => kept.len += cost,
        }
    }
}

/// Whether nothing says that the file has changed or is another one.
fn same_file(now: &Metadata, then: &Metadata) -> bool {
    let identity = |attributes: &Metadata| (attributes.dev(), attributes.ino(), attributes.len());
    let modified = |attributes: &Metadata| (attributes.mtime(), attributes.mtime_nsec());
    let changed = |attributes: &Metadata| (attributes.ctime(), attributes.ctime_nsec());
    identity(now) == identity(then) && modified(now) == modified(then) && changed(now) == changed(then)
}
