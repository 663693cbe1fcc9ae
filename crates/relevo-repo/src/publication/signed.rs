//! Devices' roles that were signed elsewhere: maintainers sign at home, the origin takes in what they signed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use relevo_meta::{Target, author::DeviceFile};
use relevo_types::{Codename, TargetPath};

use super::{Publication, Source, roles::Name};
use crate::{error::RepoError, repository::Repository, signers::Signers};

impl Publication<'_> {
    /// Takes the role of a device, or of its nightly channel, as its maintainers signed it; says whether that changes
    /// anything.
    ///
    /// It has to be made from the current one: of the version that comes next. Signatures, paths and what phones would
    /// do with it are checked by [`Self::rehearse`] and [`Self::commit`], as with all other changes.
    ///
    /// # Errors
    /// [`RepoError::NoSuchRole`] for what is no device's role, or a device that no vendor lists;
    /// [`RepoError::RoleVersion`], [`RepoError::OtherContent`] for a published target with another content, and
    /// [`RepoError::Author`] for what is no such file.
    pub fn adopt_role(&mut self, role: &str, bytes: &[u8]) -> Result<bool, RepoError> {
        let signed = DeviceFile::edit(bytes).map_err(RepoError::author(role))?;
        let unknown = || RepoError::NoSuchRole { role: role.to_owned() };
        if !matches!(self.name(role)?, Name::Device(_) | Name::Nightly(_)) || self.keys(role)?.is_none() {
            return Err(unknown());
        }
        let pinned = self.snapshot.roles().into_iter().find(|(name, _)| name == role).map(|(_, version)| version);
        let current = match pinned {
            Some(version) => {
                // Verified on the way, if it verifies at all; one that does not is what is to be mended.
                let path = self.repository.metadata_path(&format!("{version}.{role}.json"));
                let current = fs::read(&path).map_err(RepoError::read(path))?;
                if current == bytes {
                    return Ok(false);
                }
                DeviceFile::edit(&current).map_err(RepoError::author(role))?
            }
            // Whoever delegates lists it, and it has never published.
            None => DeviceFile::new(Timestamp::UNIX_EPOCH),
        };
        let attempted = self.attempted.get(role).copied().unwrap_or(0);
        let next = pinned.unwrap_or(0).max(attempted).saturating_add(1);
        if signed.version() != next {
            return Err(RepoError::RoleVersion { role: role.to_owned(), found: signed.version(), next });
        }
        for (path, new) in targets(&signed) {
            if current.target(&path).is_some_and(|(old, _)| old != new) {
                return Err(RepoError::OtherContent { path: Box::new(path) });
            }
        }
        self.adopt_one(role, bytes.to_vec())?;
        Ok(true)
    }

    /// Puts a file in place for a role that lists it, without a copy where the file system can do that. `file` stays
    /// where it is; its content was hashed and made durable by the caller, and is not written to any more.
    ///
    /// # Errors
    /// [`RepoError::Write`], [`RepoError::SourceChanged`].
    pub fn adopt_target(&mut self, path: &TargetPath, target: Target, file: &Path) -> Result<(), RepoError> {
        let to = self.repository.target_file(path, target);
        if is_whole(&to, target) {
            return Ok(());
        }
        self.mark()?;
        let directory = to.parent().expect("a target lies in a directory").to_owned();
        let storage = &self.repository.storage;
        storage.create_dirs(&directory)?;
        if !storage.link(file, &to)? {
            self.copy_in(target, &Source { path: file, bytes: None }, &to)?;
        }
        self.unsynced.insert(directory);
        Ok(())
    }

    /// Verifies all changes as [`Self::commit`] does, and publishes nothing. Files need not be there yet.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn rehearse(mut self, signers: &Signers, now: Timestamp) -> Result<(), RepoError> {
        if self.changed.is_empty() {
            return Ok(());
        }
        let staged = self.stage(signers, now)?;
        self.verify(&staged, now).map(|_| ())
    }

    /// What the current state offers for a device; nothing if it has no role yet, or one that does not verify.
    pub fn published_targets(&mut self, codename: &Codename) -> Vec<(TargetPath, Target)> {
        if self.load_device(codename).is_err() {
            return Vec::new();
        }
        let before = self.before.get(codename);
        before
            .map(|device| device.targets.iter().map(|(path, target)| (path.clone(), *target)).collect())
            .unwrap_or_default()
    }
}

impl Repository {
    /// Whether the file of a target is in place, whatever metadata says of it.
    pub fn has_target(&self, path: &TargetPath, target: Target) -> bool {
        is_whole(&self.target_file(path, target), target)
    }

    /// Where a target's file lies, or would.
    pub fn target_file(&self, path: &TargetPath, target: Target) -> PathBuf {
        self.targets_dir().join(path.consistent(&target.sha256))
    }
}

/// A file only gets such a name once it was hashed and made durable, so its length is enough.
fn is_whole(file: &Path, target: Target) -> bool {
    fs::metadata(file).is_ok_and(|found| found.len() == target.length.get())
}

/// What a device's role lists, as far as it can be read.
pub(crate) fn targets(file: &DeviceFile) -> Vec<(TargetPath, Target)> {
    let paths = file.paths().into_iter().filter_map(|path| TargetPath::parse(&path).ok());
    paths.filter_map(|path| file.target(&path).map(|(target, _)| (path, target))).collect()
}
