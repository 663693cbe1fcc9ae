//! The transparency log as files: every role's file that phones are to believe, in one order.
//!
//! It is written before the commit of a publication, so that no phone sees a role that is not in it. A checkpoint is on
//! disk under a hidden name before anybody can see it: whatever happens after that, the next publication continues that
//! very tree, and so the log never signs two histories. A publication that was cut may leave an entry of a version that
//! was never published; such a version is never used again.

mod check;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read as _},
    path::PathBuf,
};

pub(crate) use check::check;
use relevo_meta::{
    keys::Signer,
    log::{
        Checkpoint, Entry, LogError, LogKey, MAX_BUNDLE, MAX_CHECKPOINT, MAX_PROOF, Proof, Tile, Tiles, Tree, bundle,
        leaf_hash, unbundle,
    },
};
use relevo_types::ByteLen;
pub use watch::{Seen, Watch, WatchError};

use crate::{error::RepoError, layout, repository::Repository, signers::Signers};

/// Under which name [`Signers`] hold the log's key.
pub const LOG_SIGNER: &str = "log";

/// Entries in a full bundle.
const BUNDLE: u64 = 256;

/// The log of a repository on disk.
#[derive(Debug, Clone, Copy)]
pub struct Log<'a> {
    repository: &'a Repository,
}

/// The state that a publication is about to make, as far as the log is about it.
pub(crate) struct Coming<'a> {
    /// The key that its root names.
    pub(crate) key: &'a LogKey,
    pub(crate) root_version: u64,
    /// The versions of all roles of its snapshot.
    pub(crate) pinned: Vec<(String, u64)>,
    /// The files that are new in it, by name.
    pub(crate) staged: &'a BTreeMap<String, Vec<u8>>,
}

impl Repository {
    /// The transparency log; there may be none.
    pub fn log(&self) -> Log<'_> {
        Log { repository: self }
    }
}

impl Log<'_> {
    /// Reads a file of the log by its name below `log/`, and little more than `limit` bytes of it.
    ///
    /// # Errors
    /// [`RepoError::Read`]; `None` if there is no such file.
    pub fn read(&self, name: &str, limit: ByteLen) -> Result<Option<Vec<u8>>, RepoError> {
        let path = self.directory().join(name);
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RepoError::read(path)(error)),
        };
        let mut bytes = Vec::new();
        // One byte more lets whoever parses it see that there is more.
        file.take(limit.get() + 1).read_to_end(&mut bytes).map_err(RepoError::read(path))?;
        Ok(Some(bytes))
    }

    /// The checkpoint that everybody sees, verified; none if there is no log yet.
    ///
    /// # Errors
    /// [`RepoError::Read`], [`RepoError::Log`].
    pub fn checkpoint(&self, key: &LogKey) -> Result<Option<Checkpoint>, RepoError> {
        let bytes = self.read("checkpoint", MAX_CHECKPOINT)?;
        Ok(bytes.map(|bytes| Checkpoint::open(&bytes, key)).transpose()?)
    }

    /// The proof that a version of a role is in the log, not verified; none if there is none here.
    ///
    /// # Errors
    /// [`RepoError::Read`], [`RepoError::Log`] for a file that is no proof.
    pub fn proof(&self, role: &str, version: u64) -> Result<Option<Proof>, RepoError> {
        let bytes = self.read(&layout::proof(role, version), MAX_PROOF)?;
        Ok(bytes.map(|bytes| Proof::parse(&bytes)).transpose()?)
    }

    /// Reads a tile, or the full one in place of a partial one that is gone.
    ///
    /// # Errors
    /// [`RepoError::Read`].
    pub fn tile(&self, tile: &Tile) -> Result<Option<Vec<u8>>, RepoError> {
        match self.read(&tile.path(), tile.length())? {
            None => self.read(&tile.full().path(), tile.full().length()),
            found => Ok(found),
        }
    }

    /// Reads the bundle of entries of a tile of level 0, as [`Self::tile`] does.
    ///
    /// # Errors
    /// [`RepoError::Read`].
    pub fn entries(&self, tile: &Tile) -> Result<Option<Vec<u8>>, RepoError> {
        match self.read(&tile.entries_path(), MAX_BUNDLE)? {
            None => self.read(&tile.full().entries_path(), MAX_BUNDLE),
            found => Ok(found),
        }
    }

    pub(crate) fn directory(&self) -> PathBuf {
        layout::log_dir(self.repository.directory())
    }

    /// Whether the log has to be made, signed by another key or told of new roots, whatever else there is to publish.
    pub(crate) fn is_behind(&self, key: &LogKey, root_version: u64) -> Result<bool, RepoError> {
        Ok(!self.is_shown_by(key)? || self.proof("root", root_version)?.is_none())
    }

    fn is_shown_by(&self, key: &LogKey) -> Result<bool, RepoError> {
        let shown = self.read("checkpoint", MAX_CHECKPOINT)?;
        Ok(shown.is_some_and(|note| Checkpoint::open(&note, key).is_ok()))
    }

    fn kept(&self, name: &str) -> Result<Option<Checkpoint>, RepoError> {
        let bytes = self.read(name, MAX_CHECKPOINT)?;
        Ok(bytes.map(|bytes| Checkpoint::parse_kept(&bytes)).transpose()?)
    }

    /// What was signed last, whether anybody could see it or not.
    fn signed(&self) -> Result<Option<Checkpoint>, RepoError> {
        // Hidden files are easily lost when a repository is copied; then the shown one is what counts.
        Ok(match (self.kept(layout::SIGNED)?, self.kept("checkpoint")?) {
            (Some(hidden), Some(shown)) if hidden.size < shown.size => Some(shown),
            (None, shown) => shown,
            (hidden, _) => hidden,
        })
    }

    /// Puts what is new into the log, and proofs beside it. All roles are looked at only if the log is new or has another
    /// key; else the cost does not grow with their number.
    pub(crate) fn append(&self, coming: &Coming<'_>, signers: &Signers) -> Result<(), RepoError> {
        let Coming { key, root_version, pinned, staged } = coming;
        let whole = !self.is_shown_by(key)?;
        let mut last = self.signed()?;
        match &last {
            Some(checkpoint) if checkpoint.origin == key.name() => self.recover(checkpoint)?,
            // A log that was never shown, or one that the root has given up for another.
            _ => {
                self.clear()?;
                last = None;
            }
        }

        let mut roles: Vec<(&str, u64)> = Vec::new();
        for version in (1..=*root_version).rev() {
            if !whole && self.proof("root", version)?.is_some() {
                break;
            }
            roles.insert(0, ("root", version));
        }
        let is_new = |role: &str, version: u64| staged.contains_key(&layout::metadata(role, version));
        roles.extend(
            pinned
                .iter()
                .map(|(role, version)| (role.as_str(), *version))
                .filter(|(role, version)| whole || is_new(role, *version)),
        );
        let (mut entries, mut renewed) = (Vec::new(), Vec::new());
        for (role, version) in roles {
            let name = layout::metadata(role, version);
            let path = self.repository.metadata_path(&name);
            let entry = match staged.get(&name) {
                Some(bytes) => Entry::new(role, version, bytes)?,
                None => Entry::new(role, version, &fs::read(&path).map_err(RepoError::read(path))?)?,
            };
            match self.proof(role, version)? {
                Some(proof) if proof.verify(&entry, key).is_ok() => {}
                // By the key before; a proof of something else is what a cut publication left of this version.
                Some(proof) if self.entry(proof.index())?.as_ref() == Some(&entry) => {
                    renewed.push((proof.index(), entry));
                }
                _ => entries.push(entry),
            }
        }
        if entries.is_empty() && renewed.is_empty() && self.is_shown_by(key)? {
            return Ok(());
        }
        if !signers.has(LOG_SIGNER) && staged.keys().all(|name| layout::is_online(name)) {
            tracing::warn!("the transparency log is behind, and its key was not given; the next publication needs it");
            return Ok(());
        }
        let signer = signers.get(LOG_SIGNER)?;
        let signer = signer.into_iter().find(|signer| signer.public().verifying_key() == key.verifying_key());
        let signer = signer.ok_or_else(|| RepoError::OtherLogKey { log: key.to_string() })?;
        self.write(key, signer, last.as_ref(), &entries, renewed)
    }

    /// Tiles and entries, then the hidden checkpoint, then proofs, then the checkpoint for all to see; each durable before
    /// the next.
    fn write(
        &self,
        key: &LogKey,
        signer: &dyn Signer,
        last: Option<&Checkpoint>,
        entries: &[Entry],
        mut proved: Vec<(u64, Entry)>,
    ) -> Result<(), RepoError> {
        let storage = &self.repository.storage;
        let directory = self.directory();
        let mut tree = match last {
            Some(last) => Tree::resume(last.size, &last.root, |tile| {
                let bytes = self.tile(tile).ok()??;
                tile.hashes(&bytes).ok()
            })?,
            None => Tree::default(),
        };
        let before = tree.size();
        let mut files = self.bundles(&tree, entries)?;
        for entry in entries {
            proved.push((tree.size(), entry.clone()));
            tree.push(&entry.to_bytes());
        }
        files.extend(tree.new_tiles(before).iter().map(|tile| (tile.path(), tree.tile(tile))));
        let mut directories = BTreeSet::new();
        for (name, bytes) in files {
            let path = directory.join(name);
            let parent = path.parent().expect("a tile lies in a directory").to_owned();
            storage.create_dirs(&parent)?;
            storage.put(&path, &bytes)?;
            directories.insert(parent);
        }
        storage.create_dirs(&directory)?;
        storage.sync_dirs(&directories)?;

        let note = Checkpoint::sign(key.name(), tree.size(), tree.root(), signer);
        let note = note.map_err(|error| RepoError::author("log")(error.into()))?;
        storage.put(&directory.join(layout::SIGNED), &note)?;
        storage.sync_dir(&directory)?;
        self.show(&Checkpoint::open(&note, key)?, &proved)
    }

    /// The bundles that change when entries are added to a tree.
    fn bundles(&self, tree: &Tree, entries: &[Entry]) -> Result<BTreeMap<String, Vec<u8>>, RepoError> {
        let mut at = tree.size();
        let size = at + entries.len() as u64;
        let mut bundles = BTreeMap::new();
        let mut bytes = Vec::new();
        if !at.is_multiple_of(BUNDLE) && !entries.is_empty() {
            let tile = Tile::of_entry(at - 1, at);
            let hashes = tile.hashes(&tree.tile(&tile))?;
            let kept = self.entries(&tile)?.unwrap_or_default();
            for (entry, hash) in unbundle(&kept, tile.width())?.into_iter().zip(hashes) {
                if leaf_hash(entry) != hash {
                    return Err(LogError::Tiles { size: at }.into());
                }
                bundle(&mut bytes, entry)?;
            }
        }
        for entry in entries {
            bundle(&mut bytes, &entry.to_bytes())?;
            at += 1;
            if at.is_multiple_of(BUNDLE) || at == size {
                bundles.insert(Tile::of_entry(at - 1, size).entries_path(), std::mem::take(&mut bytes));
            }
        }
        Ok(bundles)
    }

    /// Lets everybody see a checkpoint, once the proofs that end in it are there.
    fn show(&self, checkpoint: &Checkpoint, proved: &[(u64, Entry)]) -> Result<(), RepoError> {
        let storage = &self.repository.storage;
        let directory = self.directory();
        let mut tiles = Tiles::new(checkpoint.size);
        let proofs = directory.join(layout::PROOFS);
        if !proved.is_empty() {
            storage.create_dirs(&proofs)?;
        }
        for (index, entry) in proved {
            for tile in tiles.for_inclusion(*index) {
                tiles.insert(&tile, &self.tile(&tile)?.unwrap_or_default())?;
            }
            let bad = || LogError::Tiles { size: checkpoint.size };
            let hashes = tiles.inclusion(*index).ok_or_else(bad)?;
            // As a phone would look at it.
            if !relevo_meta::log::verify_inclusion(entry.leaf(), *index, checkpoint.size, &hashes, &checkpoint.root) {
                return Err(bad().into());
            }
            let proof = Proof::new(*index, hashes, checkpoint.note());
            storage.put(&directory.join(layout::proof(entry.role(), entry.version())), &proof.encode())?;
        }
        if !proved.is_empty() {
            storage.sync_dir(&proofs)?;
        }
        storage.put(&directory.join("checkpoint"), checkpoint.note())?;
        storage.sync_dir(&directory)
    }

    /// Ends what a cut publication began: the checkpoint was signed, and perhaps not yet shown.
    fn recover(&self, signed: &Checkpoint) -> Result<(), RepoError> {
        let shown = self.kept("checkpoint")?;
        if shown.as_ref().is_some_and(|shown| shown.note() == signed.note()) {
            return Ok(());
        }
        let shown = shown.filter(|shown| shown.origin == signed.origin).map_or(0, |shown| shown.size);
        let mut unproved = Vec::new();
        for index in shown..signed.size {
            let entry = self.entry_of(index, signed.size)?.ok_or(LogError::Tiles { size: signed.size })?;
            unproved.push((index, entry));
        }
        self.show(signed, &unproved)
    }

    /// The entry at a place, of what was signed last.
    fn entry(&self, index: u64) -> Result<Option<Entry>, RepoError> {
        let size = self.signed()?.map_or(0, |signed| signed.size);
        if index < size { self.entry_of(index, size) } else { Ok(None) }
    }

    fn entry_of(&self, index: u64, size: u64) -> Result<Option<Entry>, RepoError> {
        let tile = Tile::of_entry(index, size);
        let Some(bytes) = self.entries(&tile)? else { return Ok(None) };
        let entries = unbundle(&bytes, tile.width())?;
        let at = usize::try_from(index % BUNDLE).expect("under 256");
        Ok(entries.get(at).map(|entry| Entry::parse(entry)).transpose()?)
    }

    /// Removes all files of a log that is none any more; the checkpoints first, so that a cut leaves no log either.
    pub(crate) fn clear(&self) -> Result<(), RepoError> {
        let storage = &self.repository.storage;
        let directory = self.directory();
        let (first, others): (Vec<_>, Vec<_>) =
            layout::files_below(&directory)?.into_iter().partition(|path| path.components().count() == 1);
        if first.is_empty() && others.is_empty() {
            return Ok(());
        }
        for path in first {
            storage.remove(&directory.join(path))?;
        }
        storage.sync_dir(&directory)?;
        others.iter().try_for_each(|path| storage.remove(&directory.join(path)))
    }
}
