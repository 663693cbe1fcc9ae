//! The transparency log, as a phone with a policy for it looks at it.
//!
//! A role that this phone has not yet found in the log costs one small proof, and the tiles that show that the log is still
//! the one that this phone knows. Nothing is asked for while the device's roles stay what they are.

use std::{path::Path, time::Duration};

use jiff::{SignedDuration, Timestamp};
use relevo_meta::{
    Trusted, TrustedDevice,
    log::{Checkpoint, Comparison, Entry, LogError, LogKey, MAX_CHECKPOINT, MAX_PROOF, Proof, Relation},
};
use relevo_types::Sha256;
use serde::{Deserialize, Serialize};

use crate::{
    http::{FetchError, Http},
    mirror::{Aside, Mirrors, chain},
    stop::Stop,
    storage::{self, Storage, StorageError},
};

/// How many packages' first sights are remembered; a device has about twenty in a channel.
const MAX_SEEN: usize = 256;

/// The last checkpoint that this phone verified.
const CHECKPOINT: &str = "checkpoint";

/// Why a device's role does not count as logged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransparencyError {
    /// What the log's own files say against it.
    #[error("the transparency log was refused")]
    Log(#[source] Box<LogError>),
    /// No mirror had the proof and the tiles, or all that came was refused.
    #[error("no mirror showed that version {version} of {role} is in the transparency log: {}", reasons(.mirrors))]
    NoMirror {
        /// The role.
        role: String,
        /// Its version.
        version: u64,
        /// The mirrors, each with what it did.
        mirrors: Vec<Aside>,
    },
    /// Reading or keeping files failed.
    #[error("what the log showed could not be kept")]
    Storage(#[from] StorageError),
    /// We were asked to end.
    #[error("stopped")]
    Stopped,
}

impl From<LogError> for TransparencyError {
    fn from(error: LogError) -> Self {
        Self::Log(Box::new(error))
    }
}

fn reasons(mirrors: &[Aside]) -> String {
    let each = mirrors.iter().map(|aside| format!("{}: {}", aside.mirror, aside.reason));
    each.collect::<Vec<_>>().join("; ")
}

/// What a phone remembers of the log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Transparency {
    /// The log whose entries these are.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log: String,
    /// The roles that were found in it last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logged: Vec<Logged>,
    /// When this phone first saw each package that is offered now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seen: Vec<FirstSight>,
    /// Why the device's roles do not count as logged; none if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Whether two checkpoints contradict each other; both are in the state directory, below `log/`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forked: bool,
}

/// A role's file that is in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// The role.
    pub role: String,
    /// Its version.
    pub version: u64,
    /// The file's digest.
    pub sha256: Sha256,
    /// Its place in the log.
    pub index: u64,
}

/// When a package was first seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstSight {
    /// The package.
    pub sha256: Sha256,
    /// The time.
    pub at: Timestamp,
}

impl Transparency {
    /// Remembers the packages that are offered now, and forgets those that are not any more.
    pub(crate) fn see(&mut self, offered: impl Iterator<Item = Sha256>, now: Timestamp) {
        let offered: Vec<Sha256> = offered.take(MAX_SEEN).collect();
        self.seen.retain(|sight| offered.contains(&sight.sha256));
        for sha256 in offered {
            if !self.seen.iter().any(|sight| sight.sha256 == sha256) {
                self.seen.push(FirstSight { sha256, at: now });
            }
        }
    }

    /// From when on a package may be installed unattended; none if it was never seen.
    pub(crate) fn ripe_at(&self, package: &Sha256, soak: Duration) -> Option<Timestamp> {
        let sight = self.seen.iter().find(|sight| sight.sha256 == *package)?;
        let soak = SignedDuration::try_from(soak).unwrap_or(SignedDuration::MAX);
        Some(sight.at.checked_add(soak).unwrap_or(Timestamp::MAX))
    }
}

/// What it takes to look at the log.
pub(crate) struct LogReader<'a> {
    pub(crate) http: &'a Http,
    pub(crate) mirrors: &'a Mirrors,
    pub(crate) stop: &'a Stop,
    pub(crate) storage: &'a dyn Storage,
    /// Where checkpoints are kept.
    pub(crate) directory: &'a Path,
    /// Where verified metadata is kept.
    pub(crate) trusted: &'a Path,
}

impl LogReader<'_> {
    /// Finds the device's roles in the log, and holds the log against the last checkpoint that this phone verified.
    ///
    /// # Errors
    /// [`TransparencyError`]; of a fork both checkpoints are kept.
    pub(crate) fn check(
        &self,
        known: &mut Transparency,
        trusted: &Trusted,
        device: &TrustedDevice,
    ) -> Result<(), TransparencyError> {
        let key = trusted.log_key().ok_or(LogError::NoLog)?;
        if known.log != key.name() {
            // Another log, by decision of those who sign the root: nothing is known of it yet.
            *known = Transparency {
                log: key.name().to_owned(),
                seen: std::mem::take(&mut known.seen),
                ..Default::default()
            };
        }
        let mut logged = Vec::new();
        for role in &device.roles {
            let Some(file) = trusted.roles().get(role) else { continue };
            let kept = storage::read(&self.trusted.join(format!("{role}.json")), 1 << 20)?.unwrap_or_default();
            let entry = Entry::new(role, file.version, &kept)?;
            let same = |known: &&Logged| {
                (known.role.as_str(), known.version, known.sha256) == (entry.role(), entry.version(), entry.sha256())
            };
            let found = match known.logged.iter().find(same) {
                Some(found) => found.clone(),
                None => self.find(key, &entry)?,
            };
            logged.push(found);
        }
        known.logged = logged;
        Ok(())
    }

    /// Asks one mirror after the other for the proof.
    fn find(&self, key: &LogKey, entry: &Entry) -> Result<Logged, TransparencyError> {
        let (role, version) = (entry.role(), entry.version());
        let mut tried = Vec::new();
        let mut reasons = Vec::new();
        while let Some(lease) = self.mirrors.best_but(false, &tried) {
            if self.stop.is_set() {
                return Err(TransparencyError::Stopped);
            }
            let proof = format!("proof/{version}.{role}.tlog-proof");
            let fetched = self.http.get_compressible(&format!("{}log/{proof}", lease.url), MAX_PROOF.get());
            let found = fetched.map_err(|error| Trouble::Mirror(chain(&error))).and_then(|(bytes, _)| {
                let proof = Proof::parse(&bytes)?;
                let checkpoint = proof.verify(entry, key)?;
                self.compare(&lease.url, &checkpoint)?;
                Ok(proof.index())
            });
            match found {
                Ok(index) => {
                    let (role, sha256) = (role.to_owned(), entry.sha256());
                    return Ok(Logged { role, version, sha256, index });
                }
                Err(Trouble::Fatal(error)) => return Err(error),
                // A mirror without a log is a good mirror all the same; one that fails is asked again in the next run.
                Err(Trouble::Mirror(reason)) => {
                    tracing::warn!(mirror = lease.url, reason, "a mirror did not show the transparency log");
                    reasons.push(Aside { mirror: lease.url.clone(), reason });
                    tried.push(lease.url.clone());
                }
            }
        }
        Err(TransparencyError::NoMirror { role: role.to_owned(), version, mirrors: reasons })
    }

    /// Holds a checkpoint against the one that was kept, and keeps the newer one.
    fn compare(&self, mirror: &str, offered: &Checkpoint) -> Result<(), Trouble> {
        let path = self.directory.join(CHECKPOINT);
        let kept = storage::read(&path, MAX_CHECKPOINT.get()).map_err(fatal)?;
        // A damaged one counts as none, as with the state: the phone must not be stuck over it.
        let kept =
            kept.and_then(|note| Checkpoint::parse_kept(&note).ok()).filter(|kept| kept.origin == offered.origin);
        let Some(kept) = kept else { return self.keep(CHECKPOINT, offered) };
        match self.relation(mirror, &kept, offered) {
            Ok(Relation::Ahead) => self.keep(CHECKPOINT, offered),
            Ok(Relation::Same | Relation::Behind) => Ok(()),
            Err(Trouble::Fatal(error)) => {
                if matches!(&error, TransparencyError::Log(log) if matches!(**log, LogError::Fork { .. })) {
                    self.keep("fork-kept", &kept)?;
                    self.keep("fork-offered", offered)?;
                }
                Err(Trouble::Fatal(error))
            }
            Err(other) => Err(other),
        }
    }

    fn relation(&self, mirror: &str, kept: &Checkpoint, offered: &Checkpoint) -> Result<Relation, Trouble> {
        let mut comparison = Comparison::new(kept, offered)?;
        for tile in comparison.wanted() {
            let bytes = match self.fetch(mirror, &tile.path(), tile.length().get()) {
                Err(Trouble::Mirror(_)) => self.fetch(mirror, &tile.full().path(), tile.full().length().get())?,
                other => other?,
            };
            comparison.supply(&tile, &bytes)?;
        }
        Ok(comparison.finish()?)
    }

    fn keep(&self, name: &str, checkpoint: &Checkpoint) -> Result<(), Trouble> {
        self.storage.create_directory(self.directory).map_err(fatal)?;
        storage::replace(self.storage, &self.directory.join(name), checkpoint.note()).map_err(fatal)
    }

    fn fetch(&self, mirror: &str, name: &str, limit: u64) -> Result<Vec<u8>, Trouble> {
        let answer = self.http.get_whole(&format!("{mirror}log/{name}"), limit);
        answer.map(|(bytes, _)| bytes).map_err(|error: FetchError| Trouble::Mirror(chain(&error)))
    }
}

/// What went wrong: with a mirror, so that another may do better, or for good.
enum Trouble {
    Mirror(String),
    Fatal(TransparencyError),
}

impl From<LogError> for Trouble {
    fn from(error: LogError) -> Self {
        if error.is_retryable() { Self::Mirror(error.to_string()) } else { Self::Fatal(error.into()) }
    }
}

fn fatal(error: StorageError) -> Trouble {
    Trouble::Fatal(error.into())
}
