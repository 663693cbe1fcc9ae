//! Removing what nobody needs any more.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use relevo_meta::{
    Scope,
    author::{DeviceFile, SnapshotFile},
};
use relevo_types::{ByteLen, TargetPath};

use crate::{
    error::RepoError,
    layout::{self, LogName, MetadataName, TargetName},
    repository::Repository,
};

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// The files, relative to the repository.
    pub removed: Vec<PathBuf>,
    /// Their bytes together.
    pub freed: ByteLen,
    /// Number of files that stay.
    pub kept: usize,
}

impl Repository {
    /// Removes what neither the current snapshot nor the `keep` snapshots before it reference.
    ///
    /// All roots stay for ever, since a phone from a drawer has to follow them one by one; so does the transparency log,
    /// but for proofs of files that are gone and partial tiles that became full ones. Files that are none of ours by their
    /// names stay too.
    ///
    /// # Errors
    /// [`RepoError::Locked`], [`RepoError::Trust`] if the current state does not verify, [`RepoError::Read`],
    /// [`RepoError::Write`].
    pub fn gc(&self, keep: u64) -> Result<GcReport, RepoError> {
        let _lock = self.lock()?;
        self.finish_rotation()?;
        let current = self.current()?.snapshot_version();
        remove(self, |version| version <= current && version >= current.saturating_sub(keep))
    }
}

/// Removes what a cut publication left: all that no snapshot up to the current one references.
pub(crate) fn sweep(repository: &Repository) -> Result<GcReport, RepoError> {
    let current = repository.base(Scope::Registries, Timestamp::MIN)?.trusted.snapshot_version();
    remove(repository, |version| version <= current)
}

/// Removes what the snapshots that stay do not reference. The caller holds the lock.
fn remove(repository: &Repository, stays: impl Fn(u64) -> bool) -> Result<GcReport, RepoError> {
    let directory = layout::metadata_dir(repository.directory());
    let names = layout::files_in(&directory)?;
    let mut metadata: BTreeSet<String> = BTreeSet::new();
    for name in &names {
        if let MetadataName::Versioned { version, role } = layout::metadata_name(name)
            && role == "snapshot"
            && stays(version)
        {
            metadata.insert(name.clone());
            // An old snapshot that cannot be read is of no use to anybody; the current one was verified.
            let bytes = fs::read(directory.join(name)).map_err(RepoError::read(directory.join(name)))?;
            let roles = SnapshotFile::edit(&bytes).map(|file| file.roles()).unwrap_or_default();
            metadata.extend(roles.into_iter().map(|(role, version)| format!("{version}.{role}.json")));
        }
    }
    let mut targets: BTreeSet<PathBuf> = BTreeSet::new();
    for name in names.iter().filter(|name| metadata.contains(*name)) {
        let bytes = fs::read(directory.join(name)).map_err(RepoError::read(directory.join(name)))?;
        targets.extend(listed_files(&bytes));
    }

    let mut report = GcReport::default();
    for name in &names {
        let gone = match layout::metadata_name(name) {
            MetadataName::Timestamp | MetadataName::Unknown => false,
            MetadataName::Temporary => true,
            MetadataName::Versioned { role, .. } => role != "root" && !metadata.contains(name),
        };
        report.take(repository, &Path::new("metadata").join(name), gone)?;
    }
    for path in layout::files_below(&repository.targets_dir())? {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let gone = match layout::target_name(&name) {
            TargetName::Unknown => false,
            TargetName::Temporary => true,
            TargetName::Hashed(_) => !targets.contains(&path),
        };
        report.take(repository, &Path::new("targets").join(path), gone)?;
    }
    let log = repository.log().directory();
    for path in layout::files_below(&log)? {
        let gone = match layout::log_name(&path) {
            LogName::Temporary => true,
            // Whoever wants a partial tile that is gone takes the full one.
            LogName::Partial { full, .. } => log.join(full).exists(),
            LogName::Proof { metadata } => !layout::metadata_dir(repository.directory()).join(metadata).exists(),
            LogName::Checkpoint | LogName::Full | LogName::Unknown => false,
        };
        report.take(repository, &Path::new("log").join(path), gone)?;
    }
    for name in layout::files_in(repository.directory())? {
        if layout::metadata_name(&name) == MetadataName::Temporary {
            report.take(repository, Path::new(&name), true)?;
        }
    }
    Ok(report)
}

/// The files below `targets/` that a role's file lists.
pub(crate) fn listed_files(bytes: &[u8]) -> Vec<PathBuf> {
    let Ok(file) = DeviceFile::edit(bytes) else { return Vec::new() };
    file.paths()
        .iter()
        .filter_map(|text| {
            let path = TargetPath::parse(text).ok()?;
            let (target, _) = file.target(&path)?;
            Some(PathBuf::from(path.consistent(&target.sha256)))
        })
        .collect()
}

impl GcReport {
    fn take(&mut self, repository: &Repository, relative: &Path, gone: bool) -> Result<(), RepoError> {
        if !gone {
            self.kept += 1;
            return Ok(());
        }
        let path = repository.directory().join(relative);
        let length = fs::symlink_metadata(&path).map(|found| found.len()).unwrap_or(0);
        repository.storage.remove(&path)?;
        self.freed = self.freed.checked_add(ByteLen::new(length)).unwrap_or(self.freed);
        self.removed.push(relative.to_owned());
        Ok(())
    }
}
