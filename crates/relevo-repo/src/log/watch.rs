//! Remembering what a log showed, and raising the alarm when somebody is shown something else.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use relevo_meta::log::{Checkpoint, Comparison, LogError, LogKey, MAX_CHECKPOINT, Relation, Tile};

use crate::{error::RepoError, storage::Storage};

/// The last checkpoint of a log that anybody showed us, in a directory of its own. Mirrors keep one, and operators who watch
/// several sources: whatever the sources are, they are held against this one memory.
#[derive(Debug, Clone)]
pub struct Watch {
    directory: PathBuf,
    storage: Storage,
}

/// What a source showed, held against what was seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Nothing was seen before; from now on this is what counts.
    First,
    /// The same as before.
    Same,
    /// The log has grown; this is kept now.
    Ahead {
        /// Entries before.
        from: u64,
    },
    /// The source is behind by this many entries. A mirror may be; one that stays behind shows an old state.
    Behind {
        /// Entries that it does not have.
        by: u64,
    },
}

/// Why what a source showed was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError<E: std::error::Error + 'static> {
    /// The source showed another history; both checkpoints are kept in `evidence`.
    #[error("{log}; both checkpoints are in {}", .evidence.display())]
    Fork {
        /// The two checkpoints.
        log: LogError,
        /// The directory with `kept` and `offered`.
        evidence: PathBuf,
    },
    /// The checkpoint or its tiles are not believed.
    #[error(transparent)]
    Log(LogError),
    /// The source did not answer.
    #[error("the source did not answer with {file}")]
    Source {
        /// The file.
        file: String,
        /// Why; none if it says that it has no such file.
        source: Option<E>,
    },
    /// The memory could not be read or written.
    #[error("what was seen could not be kept")]
    Keep(#[source] RepoError),
}

impl Watch {
    /// Opens a memory; the directory is made when there is something to remember.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), storage: Storage::default() }
    }

    /// The last checkpoint that was seen.
    ///
    /// # Errors
    /// [`RepoError::Read`], [`RepoError::Log`] for a file that is no checkpoint.
    pub fn last(&self) -> Result<Option<Checkpoint>, RepoError> {
        let path = self.directory.join("checkpoint");
        let mut bytes = Vec::new();
        match fs::File::open(&path) {
            Ok(file) => file.take(MAX_CHECKPOINT.get() + 1).read_to_end(&mut bytes).map_err(RepoError::read(path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RepoError::read(path)(error)),
        };
        Ok(Some(Checkpoint::parse_kept(&bytes)?))
    }

    /// Holds a checkpoint that some source showed against what was seen before, and remembers it if it is newer; `tile`
    /// reads a tile at that source by its path, up to a number of bytes.
    ///
    /// # Errors
    /// [`WatchError`]; the memory is as it was, and of a fork the evidence is on disk.
    pub fn see<E: std::error::Error + 'static>(
        &self,
        key: &LogKey,
        note: &[u8],
        mut tile: impl FnMut(&str, u64) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<(Seen, Checkpoint), WatchError<E>> {
        let offered = Checkpoint::open(note, key).map_err(WatchError::Log)?;
        let last = self.last().map_err(WatchError::Keep)?;
        // The root, which a threshold of people signs, has given up the log before for another.
        let Some(kept) = last.filter(|last| last.origin == offered.origin) else {
            self.keep(&offered).map_err(WatchError::Keep)?;
            return Ok((Seen::First, offered));
        };
        match self.compare(&kept, &offered, &mut tile) {
            Ok(Relation::Same) => Ok((Seen::Same, offered)),
            Ok(Relation::Ahead) => {
                self.keep(&offered).map_err(WatchError::Keep)?;
                Ok((Seen::Ahead { from: kept.size }, offered))
            }
            Ok(Relation::Behind) => Ok((Seen::Behind { by: kept.size - offered.size }, offered)),
            Err(WatchError::Log(log @ LogError::Fork { .. })) => {
                let evidence = self.accuse(&kept, &offered).map_err(WatchError::Keep)?;
                Err(WatchError::Fork { log, evidence })
            }
            Err(other) => Err(other),
        }
    }

    fn compare<E: std::error::Error + 'static>(
        &self,
        kept: &Checkpoint,
        offered: &Checkpoint,
        tile: &mut impl FnMut(&str, u64) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Relation, WatchError<E>> {
        let mut comparison = Comparison::new(kept, offered).map_err(WatchError::Log)?;
        for wanted in comparison.wanted() {
            let bytes = read_tile(&wanted, tile)?;
            comparison.supply(&wanted, &bytes).map_err(WatchError::Log)?;
        }
        comparison.finish().map_err(WatchError::Log)
    }

    fn keep(&self, checkpoint: &Checkpoint) -> Result<(), RepoError> {
        self.storage.create_dirs(&self.directory)?;
        self.storage.put(&self.directory.join("checkpoint"), checkpoint.note())?;
        self.storage.sync_dir(&self.directory)
    }

    /// Keeps the two checkpoints, which together show anybody that the log signed two histories.
    fn accuse(&self, kept: &Checkpoint, offered: &Checkpoint) -> Result<PathBuf, RepoError> {
        let root: String = offered.root.to_string().chars().take(16).collect();
        let evidence = self.directory.join(format!("fork-{}-{}-{root}", kept.size, offered.size));
        self.storage.create_dirs(&evidence)?;
        self.storage.put(&evidence.join("kept"), kept.note())?;
        self.storage.put(&evidence.join("offered"), offered.note())?;
        self.storage.sync_dir(&evidence)?;
        Ok(evidence)
    }
}

/// Reads a tile at a source, or the full one where the partial one is gone.
fn read_tile<E: std::error::Error + 'static>(
    tile: &Tile,
    read: &mut impl FnMut(&str, u64) -> Result<Option<Vec<u8>>, E>,
) -> Result<Vec<u8>, WatchError<E>> {
    for tile in [*tile, tile.full()] {
        let path = tile.path();
        match read(&path, tile.length().get()) {
            Ok(Some(bytes)) => return Ok(bytes),
            Ok(None) => {}
            Err(source) => return Err(WatchError::Source { file: path, source: Some(source) }),
        }
    }
    Err(WatchError::Source { file: tile.path(), source: None })
}
