//! Names in a repository's directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use relevo_types::Sha256;

use crate::error::RepoError;

const TEMPORARY: &str = ".tmp-";

/// A file below `metadata/` by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MetadataName {
    Timestamp,
    /// `N.<role>.json`
    Versioned {
        version: u64,
        role: String,
    },
    Temporary,
    Unknown,
}

/// A file below `targets/` by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TargetName {
    /// `<sha256>.<file>`
    Hashed(Sha256),
    Temporary,
    Unknown,
}

/// A file below `log/` by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogName {
    /// The checkpoints, shown and hidden.
    Checkpoint,
    /// A full tile or bundle.
    Full,
    /// A partial one of `width` hashes or entries; `full` is where the full one is, or will be.
    Partial {
        full: PathBuf,
        width: u16,
    },
    /// The proof of a metadata file, with that file's name.
    Proof {
        metadata: String,
    },
    Temporary,
    Unknown,
}

/// The checkpoint that was signed last, before anybody may see it.
pub(crate) const SIGNED: &str = ".signed";

/// Where proofs lie, below `log/`.
pub(crate) const PROOFS: &str = "proof";

const PROOF: &str = ".tlog-proof";

pub(crate) fn log_dir(repository: &Path) -> PathBuf {
    repository.join("log")
}

/// Name of a role's file below `metadata/`.
pub(crate) fn metadata(role: &str, version: u64) -> String {
    format!("{version}.{role}.json")
}

/// Name of the proof of a role's file, below `log/`.
pub(crate) fn proof(role: &str, version: u64) -> String {
    format!("{PROOFS}/{version}.{role}{PROOF}")
}

/// Whether a metadata file is one of the two that the origin signs by itself, and that no log is about.
pub(crate) fn is_online(name: &str) -> bool {
    match metadata_name(name) {
        MetadataName::Timestamp => true,
        MetadataName::Versioned { role, .. } => role == "snapshot",
        _ => false,
    }
}

pub(crate) fn log_name(path: &Path) -> LogName {
    let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
    let Some(last) = parts.last() else { return LogName::Unknown };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = |text: &str| text.len() == 3 && digits(text);
    let group = |text: &&str| text.strip_prefix('x').is_some_and(number);
    match parts.as_slice() {
        _ if last.starts_with(TEMPORARY) => LogName::Temporary,
        ["checkpoint" | SIGNED] => LogName::Checkpoint,
        [PROOFS, name] => match name.strip_suffix(PROOF).map(|stem| format!("{stem}.json")) {
            Some(metadata) if matches!(metadata_name(&metadata), MetadataName::Versioned { .. }) => {
                LogName::Proof { metadata }
            }
            _ => LogName::Unknown,
        },
        ["tile", level, rest @ .., name] if (digits(level) || *level == "entries") && !rest.is_empty() => {
            match rest.split_last() {
                Some((tile, groups)) if tile.ends_with(".p") && digits(name) && groups.iter().all(group) => {
                    let tile = tile.trim_end_matches(".p");
                    let full = path.parent().map(|parent| parent.with_file_name(tile)).unwrap_or_default();
                    match name.parse() {
                        Ok(width @ 1..=255) if number(tile) => LogName::Partial { full, width },
                        _ => LogName::Unknown,
                    }
                }
                _ if rest.iter().all(group) && number(name) => LogName::Full,
                _ => LogName::Unknown,
            }
        }
        ["tile", level, name] if (digits(level) || *level == "entries") && number(name) => LogName::Full,
        _ => LogName::Unknown,
    }
}

pub(crate) fn metadata_dir(repository: &Path) -> PathBuf {
    repository.join("metadata")
}

pub(crate) fn targets_dir(repository: &Path) -> PathBuf {
    repository.join("targets")
}

pub(crate) fn lock_file(repository: &Path) -> PathBuf {
    repository.join(".lock")
}

pub(crate) fn marker(repository: &Path) -> PathBuf {
    repository.join(".publishing")
}

pub(crate) fn rotation(repository: &Path) -> PathBuf {
    repository.join(".rotating")
}

/// Where a file is written before it gets its name; at most 250 bytes long, as a target's name has 245 at most.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!("{TEMPORARY}{name}"))
}

pub(crate) fn metadata_name(name: &str) -> MetadataName {
    if name == "timestamp.json" {
        return MetadataName::Timestamp;
    }
    if name.starts_with(TEMPORARY) {
        return MetadataName::Temporary;
    }
    let parts = name.split_once('.').and_then(|(version, rest)| Some((version, rest.strip_suffix(".json")?)));
    match parts {
        Some((version, role)) if !role.is_empty() => match version.parse::<u64>() {
            // Written back as it was read: "01" would be another file.
            Ok(number) if number.to_string() == version => {
                MetadataName::Versioned { version: number, role: role.to_owned() }
            }
            _ => MetadataName::Unknown,
        },
        _ => MetadataName::Unknown,
    }
}

pub(crate) fn target_name(name: &str) -> TargetName {
    if name.starts_with(TEMPORARY) {
        return TargetName::Temporary;
    }
    match name.split_once('.').map(|(hash, _)| (hash, Sha256::parse(hash))) {
        Some((text, Ok(hash))) if hash.to_string() == text => TargetName::Hashed(hash),
        _ => TargetName::Unknown,
    }
}

/// Names of the files in a directory, sorted; a directory that is not there has none.
pub(crate) fn files_in(directory: &Path) -> Result<Vec<String>, RepoError> {
    let mut names = Vec::new();
    walk_one(directory, &mut |name, kind| {
        if !kind.is_dir() {
            names.push(name);
        }
    })?;
    names.sort();
    Ok(names)
}

/// Paths of all files below a directory, relative to it and sorted.
pub(crate) fn files_below(directory: &Path) -> Result<Vec<PathBuf>, RepoError> {
    let mut files = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(relative) = directories.pop() {
        walk_one(&directory.join(&relative), &mut |name, kind| {
            let path = relative.join(name);
            // Links are not followed: what they lead to is not part of the repository.
            if kind.is_dir() { directories.push(path) } else { files.push(path) }
        })?;
    }
    files.sort();
    Ok(files)
}

fn walk_one(directory: &Path, found: &mut dyn FnMut(String, fs::FileType)) -> Result<(), RepoError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(RepoError::read(directory)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(RepoError::read(directory))?;
        let kind = entry.file_type().map_err(RepoError::read(entry.path()))?;
        found(entry.file_name().to_string_lossy().into_owned(), kind);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_own_names_and_no_others() {
        let versioned = |version, role: &str| MetadataName::Versioned { version, role: role.to_owned() };

        assert_eq!(metadata_name("timestamp.json"), MetadataName::Timestamp);
        assert_eq!(metadata_name("12.d-a.b.json"), versioned(12, "d-a.b"));
        assert_eq!(metadata_name(".tmp-12.d-a.json"), MetadataName::Temporary);
        for name in ["01.root.json", "x.root.json", "1.json", "1.root.txt", "README", "1..json"] {
            assert_eq!(metadata_name(name), MetadataName::Unknown, "{name}");
        }
        assert_eq!(target_name(&format!("{}.a.rvp", "ab".repeat(32))), TargetName::Hashed(Sha256::new([0xab; 32])));
        assert_eq!(target_name(&format!("{}.a.rvp", "AB".repeat(32))), TargetName::Unknown);
        assert_eq!(target_name("notes.txt"), TargetName::Unknown);
    }

    #[test]
    fn knows_the_names_of_a_log() {
        let name = |path: &str| log_name(Path::new(path));

        for path in ["checkpoint", ".signed"] {
            assert_eq!(name(path), LogName::Checkpoint, "{path}");
        }
        for path in ["tile/0/000", "tile/entries/x001/234", "tile/1/x001/x234/567"] {
            assert_eq!(name(path), LogName::Full, "{path}");
        }
        assert_eq!(name("tile/0/000.p/5"), LogName::Partial { full: "tile/0/000".into(), width: 5 });
        assert_eq!(
            name("tile/entries/x001/234.p/255"),
            LogName::Partial { full: "tile/entries/x001/234".into(), width: 255 }
        );
        assert_eq!(name("proof/12.d-ginkgo.tlog-proof"), LogName::Proof { metadata: "12.d-ginkgo.json".to_owned() });
        assert_eq!(name("tile/0/000.p/.tmp-5"), LogName::Temporary);
        for path in
            ["", "tile", "tile/0", "tile/x/000", "tile/0/00", "tile/0/000.p", "tile/0/001/000", "proof/a", "notes"]
                .into_iter()
                .chain(["tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/99999"])
        {
            assert_eq!(name(path), LogName::Unknown, "{path}");
        }
    }
}
