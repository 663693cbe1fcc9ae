//! Durable writes, each announced to a hook so that tests can cut the power at any of them.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{error::RepoError, layout};

/// A change that is about to be made to the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation<'a> {
    /// Make a directory.
    CreateDir(&'a Path),
    /// Create a file or empty it.
    Create(&'a Path),
    /// Write a part of a file.
    Write(&'a Path),
    /// Make a file's content durable.
    SyncFile(&'a Path),
    /// Give a file its final name.
    Rename {
        /// The name so far.
        from: &'a Path,
        /// The final name.
        to: &'a Path,
    },
    /// Make a directory's entries durable.
    SyncDir(&'a Path),
    /// Remove a file.
    Remove(&'a Path),
}

/// Is told of every change before it is made, and can prevent it by an error: a test's power switch.
pub trait Hook: Send + Sync {
    /// Called before `operation`.
    ///
    /// # Errors
    /// Whatever shall come out instead of the operation.
    fn before(&self, operation: Operation<'_>) -> io::Result<()>;
}

/// The file system as this crate writes it.
#[derive(Clone, Default)]
pub(crate) struct Storage {
    hook: Option<Arc<dyn Hook>>,
}

/// A file under its temporary name, in the directory of its final one.
pub(crate) struct Pending {
    temporary: PathBuf,
    to: PathBuf,
    file: File,
}

impl Storage {
    pub(crate) fn with_hook(hook: Arc<dyn Hook>) -> Self {
        Self { hook: Some(hook) }
    }

    /// Makes a directory and those above it, durably.
    pub(crate) fn create_dirs(&self, path: &Path) -> Result<(), RepoError> {
        if path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            self.create_dirs(parent)?;
        }
        self.step(Operation::CreateDir(path), path)?;
        match fs::create_dir(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(error) => return Err(RepoError::write(path)(error)),
        }
        self.sync_dir(parent.unwrap_or(Path::new(".")))
    }

    /// Opens the temporary file that will become `to`. Only one writer is at work, so a fixed name is enough; one that
    /// a cut left behind is emptied.
    pub(crate) fn begin(&self, to: &Path) -> Result<Pending, RepoError> {
        let temporary = layout::temporary(to);
        self.step(Operation::Create(&temporary), &temporary)?;
        let file = File::create(&temporary).map_err(RepoError::write(&temporary))?;
        Ok(Pending { temporary, to: to.to_owned(), file })
    }

    pub(crate) fn write(&self, pending: &mut Pending, bytes: &[u8]) -> Result<(), RepoError> {
        self.step(Operation::Write(&pending.temporary), &pending.temporary)?;
        pending.file.write_all(bytes).map_err(RepoError::write(&pending.temporary))
    }

    /// Makes the content durable and gives the file its name; the directory is the caller's to sync.
    pub(crate) fn finish(&self, pending: Pending) -> Result<(), RepoError> {
        let Pending { temporary, to, file } = pending;
        self.step(Operation::SyncFile(&temporary), &temporary)?;
        file.sync_all().map_err(RepoError::write(&temporary))?;
        drop(file);
        self.step(Operation::Rename { from: &temporary, to: &to }, &to)?;
        fs::rename(&temporary, &to).map_err(RepoError::write(to))
    }

    /// Gives a durable file a second name; false if the file system cannot, and nothing was changed.
    pub(crate) fn link(&self, from: &Path, to: &Path) -> Result<bool, RepoError> {
        let temporary = layout::temporary(to);
        self.step(Operation::Create(&temporary), &temporary)?;
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(RepoError::write(temporary)(error)),
            _ => {}
        }
        if fs::hard_link(from, &temporary).is_err() {
            return Ok(false);
        }
        self.step(Operation::Rename { from: &temporary, to }, to)?;
        fs::rename(&temporary, to).map_err(RepoError::write(to))?;
        Ok(true)
    }

    /// Writes a whole small file: temporary file, write, fsync, rename.
    pub(crate) fn put(&self, to: &Path, bytes: &[u8]) -> Result<(), RepoError> {
        let mut pending = self.begin(to)?;
        self.write(&mut pending, bytes)?;
        self.finish(pending)
    }

    pub(crate) fn sync_dir(&self, path: &Path) -> Result<(), RepoError> {
        self.step(Operation::SyncDir(path), path)?;
        File::open(path).and_then(|directory| directory.sync_all()).map_err(RepoError::write(path))
    }

    pub(crate) fn sync_dirs(&self, paths: &BTreeSet<PathBuf>) -> Result<(), RepoError> {
        paths.iter().try_for_each(|path| self.sync_dir(path))
    }

    /// Removes a file; one that is gone already is no error.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), RepoError> {
        self.step(Operation::Remove(path), path)?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RepoError::write(path)(error)),
            _ => Ok(()),
        }
    }

    fn step(&self, operation: Operation<'_>, path: &Path) -> Result<(), RepoError> {
        match &self.hook {
            Some(hook) => hook.before(operation).map_err(RepoError::write(path)),
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage").field("hook", &self.hook.is_some()).finish()
    }
}
