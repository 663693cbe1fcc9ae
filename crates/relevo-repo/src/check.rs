//! Every file of a repository against its metadata.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use relevo_meta::{Target, TrustError, author, log::LogError};
use relevo_types::{ByteLen, Sha256};
use sha2::Digest as _;

use crate::{
    error::RepoError,
    layout::{self, MetadataName, TargetName},
    log,
    repository::Repository,
};

/// What a check found.
#[derive(Debug, Default)]
pub struct Report {
    /// Everything that is wrong, by path.
    pub problems: Vec<Problem>,
    /// Files that were read and checked.
    pub checked: usize,
    /// Their bytes together.
    pub bytes: ByteLen,
    /// Files that are whole but no longer (or not yet) part of the current state; [`Repository::gc`] removes them.
    pub unused: usize,
}

/// Something wrong with a file.
#[derive(Debug)]
pub struct Problem {
    /// The file, relative to the repository.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Metadata vouches for it, and it is not there.
    #[error("it is missing")]
    Missing,
    /// It has another length.
    #[error("it has {actual}; its signed length is {expected}")]
    WrongLength {
        /// The length that is vouched for.
        expected: ByteLen,
        /// The length found.
        actual: ByteLen,
    },
    /// It has another content.
    #[error("it has SHA-256 {actual}; its signed SHA-256 is {expected}")]
    WrongHash {
        /// The hash that is vouched for, or that its name gives.
        expected: Sha256,
        /// The hash found.
        actual: Sha256,
    },
    /// Metadata that does not verify.
    #[error(transparent)]
    Untrusted(TrustError),
    /// Valid, but its time is over.
    #[error("it expired at {0}")]
    Expired(Timestamp),
    /// It cannot be read.
    #[error("it cannot be read")]
    Unreadable(#[source] io::Error),
    /// The transparency log does not hold together.
    #[error(transparent)]
    Log(LogError),
    /// The log has two files of one version: somebody may have been shown either.
    #[error("it has two files of version {version} of {role}")]
    TwoFiles {
        /// The role.
        role: String,
        /// The version.
        version: u64,
    },
    /// Nothing of a repository has such a name.
    #[error("it is not part of a repository")]
    Extra,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.fault)
    }
}

impl Repository {
    /// Reads every file and holds it against the metadata: the current state as a new phone verifies it, old metadata
    /// against the keys of their time, target files against length and hash.
    ///
    /// # Errors
    /// [`RepoError::Read`] if a directory cannot be read. Everything wrong with a file is in the report.
    pub fn check(&self, now: Timestamp) -> Result<Report, RepoError> {
        let mut check =
            Check { repository: self, report: Report::default(), current: BTreeSet::new(), versions: BTreeMap::new() };
        let targets = check.current_state(now)?;
        check.metadata_files()?;
        check.target_files(&targets)?;
        let mut report = check.report;
        report.problems.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(report)
    }
}

struct Check<'a> {
    repository: &'a Repository,
    report: Report,
    /// Names of the metadata files that the current state is made of.
    current: BTreeSet<String>,
    /// Versions of the current roles.
    versions: BTreeMap<String, u64>,
}

impl Check<'_> {
    /// Verifies the current state; gives the target files that it vouches for.
    fn current_state(&mut self, now: Timestamp) -> Result<BTreeMap<PathBuf, Target>, RepoError> {
        let mut vouched = BTreeMap::new();
        let state = match self.repository.current() {
            Ok(state) => state,
            Err(RepoError::Trust(error)) => {
                self.untrusted(error, "timestamp.json");
                return Ok(vouched);
            }
            Err(RepoError::Read { path, source }) => {
                let path = path.strip_prefix(self.repository.directory()).unwrap_or(&path).to_owned();
                self.problem(path, Fault::Unreadable(source));
                return Ok(vouched);
            }
            Err(other) => return Err(other),
        };
        for (name, role) in state.roles() {
            self.current.insert(role.file.clone());
            self.versions.insert(name.clone(), role.version);
            if role.expires <= now {
                self.problem(Path::new("metadata").join(&role.file), Fault::Expired(role.expires));
            }
        }
        let log = log::check(self.repository, &state)?;
        self.report.checked += log.files;
        self.report.bytes = ByteLen::new(self.report.bytes.get().saturating_add(log.bytes));
        self.report.unused += log.unused;
        log.problems.into_iter().for_each(|(path, fault)| self.problem(path, fault));
        let (devices, troubles) = state.into_parts();
        for device in devices.into_values() {
            for (path, target) in &device.targets {
                vouched.insert(PathBuf::from(path.consistent(&target.sha256)), *target);
            }
            let file = format!("{}.d-{}.json", device.role_version, device.codename);
            for error in device.refused {
                self.untrusted(error, &file);
            }
        }
        for (role, error) in troubles {
            self.untrusted(error, &format!("{role}.json"));
        }
        Ok(vouched)
    }

    /// Checks the metadata files that the current state does not need, and finds strangers.
    fn metadata_files(&mut self) -> Result<(), RepoError> {
        let directory = layout::metadata_dir(self.repository.directory());
        let mut roots: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut delegators: Vec<Vec<u8>> = Vec::new();
        let mut old: Vec<(String, u64, String, Vec<u8>)> = Vec::new();
        for name in layout::files_in(&directory)? {
            let relative = Path::new("metadata").join(&name);
            let (version, role) = match layout::metadata_name(&name) {
                MetadataName::Versioned { version, role } => (version, role),
                MetadataName::Timestamp => (0, "timestamp".to_owned()),
                // What a cut publication was writing: no part of any state, and gone with the next publication.
                MetadataName::Temporary => {
                    self.report.unused += 1;
                    continue;
                }
                MetadataName::Unknown => {
                    self.problem(relative, Fault::Extra);
                    continue;
                }
            };
            let bytes = match fs::read(directory.join(&name)) {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.problem(relative, Fault::Unreadable(error));
                    continue;
                }
            };
            self.count(bytes.len() as u64);
            if role == "root" {
                roots.insert(version, bytes);
            } else if self.current.contains(&name) {
                delegators.push(bytes);
            } else if role != "timestamp" {
                old.push((name, version, role, bytes));
            }
        }
        // The chain of roots was walked with the current state; here each root is held against itself as well, so that
        // one behind a gap, which no phone reaches, is checked too.
        let mut good_roots = Vec::new();
        for (version, bytes) in roots {
            let name = format!("{version}.root.json");
            let own = [bytes];
            match author::check_old(&name, &own[0], "root", version, &own) {
                Ok(()) => good_roots.extend(own),
                Err(error) => self.untrusted(error, &name),
            }
        }
        delegators.extend(good_roots);
        // An old registry vouches for old roles below it, so this goes on until nothing new is vouched for.
        loop {
            let before = old.len();
            let mut rest = Vec::new();
            for (name, version, role, bytes) in old {
                if author::check_old(&name, &bytes, &role, version, &delegators).is_ok() {
                    self.report.unused += 1;
                    delegators.push(bytes);
                } else {
                    rest.push((name, version, role, bytes));
                }
            }
            old = rest;
            if old.len() == before {
                break;
            }
        }
        // What a cut publication wrote of a state that never came about may lack the registry above it. It is gone with
        // the next publication.
        let interrupted = layout::marker(self.repository.directory()).exists();
        for (name, version, role, bytes) in old {
            if interrupted && self.versions.get(&role).is_none_or(|current| version > *current) {
                self.report.unused += 1;
            } else if let Err(error) = author::check_old(&name, &bytes, &role, version, &delegators) {
                self.untrusted(error, &name);
            }
        }
        Ok(())
    }

    fn target_files(&mut self, vouched: &BTreeMap<PathBuf, Target>) -> Result<(), RepoError> {
        let directory = self.repository.targets_dir();
        let mut found = BTreeSet::new();
        for path in layout::files_below(&directory)? {
            let relative = Path::new("targets").join(&path);
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let named = match layout::target_name(&name) {
                TargetName::Hashed(hash) => hash,
                TargetName::Temporary => {
                    self.report.unused += 1;
                    continue;
                }
                TargetName::Unknown => {
                    self.problem(relative, Fault::Extra);
                    continue;
                }
            };
            let actual = match hash_file(&directory.join(&path)) {
                Ok(actual) => actual,
                Err(error) => {
                    self.problem(relative, Fault::Unreadable(error));
                    continue;
                }
            };
            self.count(actual.length.get());
            let listed = vouched.get(&path);
            if listed.is_none() {
                self.report.unused += 1;
            }
            let expected = listed.copied().unwrap_or(Target { length: actual.length, sha256: named });
            if actual.length != expected.length {
                let (expected, actual) = (expected.length, actual.length);
                self.problem(relative, Fault::WrongLength { expected, actual });
            } else if actual.sha256 != expected.sha256 {
                let (expected, actual) = (expected.sha256, actual.sha256);
                self.problem(relative, Fault::WrongHash { expected, actual });
            }
            found.insert(path);
        }
        for path in vouched.keys().filter(|path| !found.contains(*path)) {
            let relative = Path::new("targets").join(path);
            // One that could not be read has been reported as such.
            if !self.report.problems.iter().any(|problem| problem.path == relative) {
                self.problem(relative, Fault::Missing);
            }
        }
        Ok(())
    }

    fn count(&mut self, bytes: u64) {
        self.report.checked += 1;
        self.report.bytes = ByteLen::new(self.report.bytes.get().saturating_add(bytes));
    }

    fn problem(&mut self, path: PathBuf, fault: Fault) {
        self.report.problems.push(Problem { path, fault });
    }

    /// Files a metadata error under the file that it is about.
    fn untrusted(&mut self, error: TrustError, otherwise: &str) {
        let file = error.file().unwrap_or(otherwise);
        let file = if file == "root.json" { "1.root.json" } else { file };
        let path = Path::new("metadata").join(file);
        if self.report.problems.iter().any(|problem| problem.path == path) {
            return;
        }
        let fault = if matches!(error, TrustError::NotFound { .. }) { Fault::Missing } else { Fault::Untrusted(error) };
        self.problem(path, fault);
    }
}

fn hash_file(path: &Path) -> io::Result<Target> {
    let mut file = File::open(path)?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut length = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&buffer[..count]);
                length += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Target { length: ByteLen::new(length), sha256: Sha256::new(hasher.finalize().into()) })
}
