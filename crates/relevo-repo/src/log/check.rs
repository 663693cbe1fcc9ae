//! The whole log against its checkpoint and the current state.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use relevo_meta::{
    Trusted,
    author::RootFile,
    log::{Checkpoint, Entry, LogError, LogKey, Proof, Tile, Tree, unbundle},
};

use crate::{
    check::Fault,
    error::RepoError,
    layout::{self, LogName, MetadataName},
    repository::Repository,
};

/// Hashes or entries in a full tile or bundle.
const FULL: u16 = 256;

/// Bytes of a hash.
const HASH: usize = 32;

/// What was found: files that were read, their bytes, and everything that is wrong.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) files: usize,
    pub(crate) bytes: u64,
    pub(crate) unused: usize,
    pub(crate) problems: Vec<(PathBuf, Fault)>,
}

/// Builds the tree anew from the entries, compares it with every tile and with the checkpoint, and looks for the files of
/// the current state in it.
pub(crate) fn check(repository: &Repository, state: &Trusted) -> Result<Found, RepoError> {
    let mut earlier_keys = Vec::new();
    for version in 1..state.root_version() {
        let root = fs::read(repository.metadata_path(&layout::metadata("root", version)));
        // One that cannot be read is reported with the metadata.
        earlier_keys.extend(root.ok().and_then(|root| RootFile::edit(&root).ok()?.log()));
    }
    earlier_keys.dedup();
    let mut check = Check { repository, found: Found::default(), earlier_keys, expected: BTreeMap::new() };
    match state.log_key() {
        Some(key) => check.log(key, state)?,
        None => {
            for path in layout::files_below(&repository.log().directory())? {
                check.found.problems.push((Path::new("log").join(path), Fault::Extra));
            }
        }
    }
    Ok(check.found)
}

struct Check<'a> {
    repository: &'a Repository,
    found: Found,
    /// Keys that earlier roots named.
    earlier_keys: Vec<LogKey>,
    /// What a tile or bundle begins with, by the name that it has, or will have, once it is full.
    expected: BTreeMap<PathBuf, Vec<u8>>,
}

impl Check<'_> {
    fn problem(&mut self, name: impl AsRef<Path>, fault: Fault) {
        self.found.problems.push((Path::new("log").join(name), fault));
    }

    fn log(&mut self, key: &LogKey, state: &Trusted) -> Result<(), RepoError> {
        let log = self.repository.log();
        let checkpoint = match log.checkpoint(key) {
            Ok(Some(checkpoint)) => checkpoint,
            Ok(None) => {
                self.problem("checkpoint", Fault::Missing);
                return Ok(());
            }
            Err(RepoError::Log(error)) => {
                self.problem("checkpoint", Fault::Log(error));
                return Ok(());
            }
            Err(other) => return Err(other),
        };
        let Some(tree) = self.entries(&checkpoint)? else { return Ok(()) };
        if tree.root() != checkpoint.root {
            return self.accuse(&tree, &checkpoint);
        }
        for tile in tree.new_tiles(0) {
            self.expected.insert(tile.full().path().into(), tree.tile(&tile));
            if log.tile(&tile)?.is_none() {
                self.problem(tile.path(), Fault::Missing);
            }
        }
        let current: BTreeSet<&str> = state.roles().values().map(|role| role.file.as_str()).collect();
        for (role, file) in state.roles() {
            let proof = layout::proof(role, file.version);
            if !layout::is_online(&file.file) && !log.directory().join(&proof).exists() {
                self.problem(proof, Fault::Missing);
            }
        }
        for path in layout::files_below(&log.directory())? {
            self.file(&path, &checkpoint, key, &current)?;
        }
        Ok(())
    }

    /// Reads all entries and builds the tree from them; none if they cannot be read.
    fn entries(&mut self, checkpoint: &Checkpoint) -> Result<Option<Tree>, RepoError> {
        let mut known: BTreeMap<(String, u64), Entry> = BTreeMap::new();
        let mut tree = Tree::default();
        while tree.size() < checkpoint.size {
            let tile = Tile::of_entry(tree.size(), checkpoint.size);
            let name = tile.entries_path();
            let Some(bytes) = self.repository.log().entries(&tile)? else {
                self.problem(&name, Fault::Missing);
                return Ok(None);
            };
            let entries = match unbundle(&bytes, tile.width()) {
                Ok(entries) => entries,
                Err(error) => {
                    self.problem(&name, Fault::Log(error));
                    return Ok(None);
                }
            };
            for bytes in entries {
                tree.push(bytes);
                match Entry::parse(bytes) {
                    Ok(entry) => {
                        let (role, version) = (entry.role().to_owned(), entry.version());
                        if known.insert((role.clone(), version), entry.clone()).is_some_and(|other| other != entry) {
                            self.problem(&name, Fault::TwoFiles { role, version });
                        }
                    }
                    Err(error) => self.problem(&name, Fault::Log(error)),
                }
            }
            self.expected.insert(tile.full().entries_path().into(), bytes);
        }
        Ok(Some(tree))
    }

    /// Entries that do not lead to the checkpoint: names where they and their hashes differ, else the checkpoint.
    fn accuse(&mut self, tree: &Tree, checkpoint: &Checkpoint) -> Result<(), RepoError> {
        let fault = || Fault::Log(LogError::Tiles { size: checkpoint.size });
        let before = self.found.problems.len();
        for tile in tree.new_tiles(0).into_iter().filter(|tile| tile.level() == 0) {
            let bytes = self.repository.log().tile(&tile)?.unwrap_or_default();
            if !bytes.starts_with(&tree.tile(&tile)) {
                self.problem(tile.path(), fault());
                self.problem(tile.entries_path(), fault());
            }
        }
        if self.found.problems.len() == before {
            self.problem("checkpoint", fault());
        }
        Ok(())
    }

    fn file(
        &mut self,
        path: &Path,
        checkpoint: &Checkpoint,
        key: &LogKey,
        current: &BTreeSet<&str>,
    ) -> Result<(), RepoError> {
        let absolute = self.repository.log().directory().join(path);
        let bytes = fs::read(&absolute).map_err(RepoError::read(absolute))?;
        self.found.files += 1;
        self.found.bytes += bytes.len() as u64;
        let (full, width) = match layout::log_name(path) {
            LogName::Full => (path.to_owned(), FULL),
            LogName::Partial { full, width } => (full, width),
            LogName::Checkpoint => {
                if let Err(error) = Checkpoint::open(&bytes, key) {
                    self.problem(path, Fault::Log(error));
                }
                return Ok(());
            }
            LogName::Proof { metadata } => return self.proof(path, &metadata, &bytes, key, current),
            // What a cut publication left.
            LogName::Temporary => {
                self.found.unused += 1;
                return Ok(());
            }
            LogName::Unknown => {
                self.problem(path, Fault::Extra);
                return Ok(());
            }
        };
        let is_whole = if path.starts_with("tile/entries") {
            unbundle(&bytes, width).is_ok_and(|entries| {
                // What `unbundle` takes in place of a partial one does not lie under its name.
                entries.iter().map(|entry| entry.len() + 2).sum::<usize>() == bytes.len()
            })
        } else {
            bytes.len() == usize::from(width) * HASH
        };
        // Partial ones of earlier sizes begin as the latest does; one that goes further is of a publication that was cut.
        let begins = self.expected.get(&full).is_none_or(|expected| {
            let common = expected.len().min(bytes.len());
            expected[..common] == bytes[..common]
        });
        let fits = is_whole && begins;
        if !fits {
            self.problem(path, Fault::Log(LogError::Tiles { size: checkpoint.size }));
        }
        Ok(())
    }

    /// A proof, against the file that it is about.
    fn proof(
        &mut self,
        path: &Path,
        metadata: &str,
        bytes: &[u8],
        key: &LogKey,
        current: &BTreeSet<&str>,
    ) -> Result<(), RepoError> {
        let MetadataName::Versioned { version, role } = layout::metadata_name(metadata) else { return Ok(()) };
        let file = match fs::read(self.repository.metadata_path(metadata)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.found.unused += 1;
                return Ok(());
            }
            Err(error) => return Err(RepoError::read(self.repository.metadata_path(metadata))(error)),
        };
        let verified = Entry::new(&role, version, &file).and_then(|entry| {
            let proof = Proof::parse(bytes)?;
            // Of what phones no longer ask for, a proof may end in a checkpoint by a key that the log had before.
            let earlier = self.earlier_keys.iter().filter(|_| !current.contains(metadata));
            let known = earlier.into_iter().any(|key| proof.verify(&entry, key).is_ok());
            if known { Ok(()) } else { proof.verify(&entry, key).map(drop) }
        });
        if let Err(error) = verified {
            self.problem(path, Fault::Log(error));
        }
        Ok(())
    }
}
