//! Who published what: one line of JSON for each publication, appended and never changed.
//!
//! The line is written down as pending before the commit, so that a cut between the commit and its line loses nothing:
//! whoever comes next holds what is pending against the repository, and appends it or knows that it never happened.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use relevo_types::{ByteLen, Sha256, TargetPath};
use serde::{Deserialize, Serialize};

use super::IntakeError;
use crate::storage::Storage;

/// One publication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    /// When it was committed, to the second before.
    pub time: Timestamp,
    /// The account.
    pub account: String,
    /// Id of the key that signed the request.
    pub key: String,
    /// Id of the publication: SHA-256 of its manifest.
    pub session: Sha256,
    /// What was published.
    pub roles: Vec<AuditRole>,
    /// Version of the timestamp before it.
    pub timestamp_before: u64,
}

/// What one role published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRole {
    /// Its name.
    pub role: String,
    /// Its version.
    pub version: u64,
    /// SHA-256 of its file.
    pub sha256: Sha256,
    /// The files that came with it.
    pub targets: Vec<AuditTarget>,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditTarget {
    /// Its path.
    pub path: TargetPath,
    /// Its length.
    pub length: ByteLen,
    /// Its SHA-256.
    pub sha256: Sha256,
}

/// Longest pending line that is read, in bytes; a manifest has at most a third of that.
const MAX_PENDING: u64 = 4 << 20;

/// The log in an origin's directory. Only who holds the repository's lock writes to it.
#[derive(Debug)]
pub(super) struct Audit {
    directory: PathBuf,
    storage: Storage,
}

impl Audit {
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.join("audit"), storage: Storage::default() }
    }

    /// Writes down what is about to be committed.
    pub(super) fn begin(&self, line: &AuditLine) -> Result<(), IntakeError> {
        let bytes = serde_json::to_vec(line).expect("a line has text keys only");
        self.storage.create_dirs(&self.directory)?;
        self.storage.put(&self.pending(), &bytes)?;
        Ok(self.storage.sync_dir(&self.directory)?)
    }

    /// Appends what is pending if `happened` says that it was committed, and forgets it.
    pub(super) fn settle(&self, happened: impl FnOnce(&AuditLine) -> bool) -> Result<(), IntakeError> {
        let path = self.pending();
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(MAX_PENDING).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(IntakeError::read(path)(error)),
        }
        // One that cannot be read was damaged by the disk, and there is nobody to ask.
        if let Ok(line) = serde_json::from_slice::<AuditLine>(&bytes)
            && happened(&line)
            && !self.ends_with(&bytes)?
        {
            self.append(&bytes)?;
        }
        Ok(self.storage.remove(&path)?)
    }

    fn append(&self, line: &[u8]) -> Result<(), IntakeError> {
        let path = self.log();
        let write = || IntakeError::write(path.clone());
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(write())?;
        let mut bytes = Vec::with_capacity(line.len() + 2);
        // A line that a cut left half written ends here.
        let torn = file.metadata().map_err(write())?.len() > 0 && !self.ends_with(b"\n")?;
        if torn {
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(write())?;
        Ok(self.storage.sync_dir(&self.directory)?)
    }

    /// Whether the log's last bytes are these, with or without the end of a line.
    fn ends_with(&self, line: &[u8]) -> Result<bool, IntakeError> {
        use std::os::unix::fs::FileExt as _;

        let path = self.log();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(IntakeError::read(path)(error)),
        };
        let length = file.metadata().map_err(IntakeError::read(&path))?.len();
        let wanted = (line.len() as u64 + 1).min(length);
        let mut last = vec![0; usize::try_from(wanted).expect("no more than the line has")];
        file.read_exact_at(&mut last, length - wanted).map_err(IntakeError::read(&path))?;
        Ok(last.ends_with(line) || last.strip_suffix(b"\n").is_some_and(|last| last.ends_with(line)))
    }

    /// All lines that can be read, oldest first.
    pub(super) fn lines(&self) -> Result<Vec<AuditLine>, IntakeError> {
        match fs::read_to_string(self.log()) {
            Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(IntakeError::read(self.log())(error)),
        }
    }

    fn pending(&self) -> PathBuf {
        self.directory.join("pending.json")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log.jsonl")
    }
}
