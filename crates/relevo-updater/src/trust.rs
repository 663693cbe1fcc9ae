//! Metadata: fetched from whichever mirror answers, verified by `relevo-meta`, kept in `trusted/`.

use std::{collections::BTreeMap, fs, io, path::Path};

use jiff::Timestamp;
use relevo_meta::{Answer, Limits, Refresh, Request, Scope, Step, Stored, TrustError, Trusted};

use crate::{
    http::{FetchError, Http},
    mirror::{Aside, Mirrors, chain},
    stop::Stop,
    storage::{self, Storage, StorageError},
};

/// The longest metadata file that we keep, in bytes; above every limit of `relevo-meta`.
const MAX_KEPT: u64 = 1 << 20;
/// How many metadata files we keep at most; a phone has about ten.
const MAX_FILES: usize = 64;

/// Why there is no verified metadata.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RefreshError {
    /// Metadata was refused, by a rule that no other mirror can mend.
    #[error("the metadata was refused")]
    Refused(#[source] Box<TrustError>),
    /// What every mirror sent was refused.
    #[error("{file} was refused from every mirror: {}", reasons(.mirrors))]
    RefusedEverywhere {
        /// The file.
        file: String,
        /// The mirrors, each with what was wrong.
        mirrors: Vec<Aside>,
        /// What was wrong the last time.
        source: Box<TrustError>,
    },
    /// No mirror answered.
    #[error("no mirror answered with {file}: {}", reasons(.mirrors))]
    NoMirror {
        /// The file.
        file: String,
        /// The mirrors, each with what it did.
        mirrors: Vec<Aside>,
    },
    /// Reading or keeping files failed.
    #[error("the metadata could not be kept")]
    Storage(#[from] StorageError),
    /// We were asked to end.
    #[error("stopped")]
    Stopped,
}

impl From<TrustError> for RefreshError {
    fn from(error: TrustError) -> Self {
        Self::Refused(Box::new(error))
    }
}

fn reasons(mirrors: &[Aside]) -> String {
    let each = mirrors.iter().map(|aside| format!("{}: {}", aside.mirror, aside.reason));
    each.collect::<Vec<_>>().join("; ")
}

/// Verified metadata on disk.
#[derive(Debug)]
pub struct TrustStore<'a> {
    /// Where it is kept.
    pub directory: &'a Path,
    /// The root that trust starts from.
    pub root: &'a Path,
    /// What is changed on disk.
    pub storage: &'a dyn Storage,
    /// The device.
    pub scope: Scope,
    /// Whether metadata past their date are taken, for as long as the root allows.
    pub stale: bool,
}

impl TrustStore<'_> {
    /// What earlier runs kept, or the root that came with the phone.
    ///
    /// # Errors
    /// [`RefreshError::Storage`].
    pub fn stored(&self) -> Result<Stored, RefreshError> {
        let mut files = BTreeMap::new();
        let error = |source| StorageError::new("list", self.directory, source);
        let entries = match fs::read_dir(self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other.map_err(error)?),
        };
        for entry in entries.into_iter().flatten().take(MAX_FILES) {
            let path = entry.map_err(error)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            // What a cut left behind of a write.
            if name.ends_with(".new") {
                continue;
            }
            if let Some(bytes) = storage::read(&path, MAX_KEPT)? {
                files.insert(name.to_owned(), bytes);
            }
        }
        if !files.contains_key("root.json") {
            let root = storage::read(self.root, MAX_KEPT)?;
            let root = root.ok_or_else(|| StorageError::new("open", self.root, io::ErrorKind::NotFound.into()))?;
            files.insert("root.json".to_owned(), root);
        }
        Ok(Stored(files))
    }

    /// Brings metadata up to date over the network.
    ///
    /// # Errors
    /// [`RefreshError`]. What was verified until then is kept; the next run goes on from there.
    pub fn refresh(
        &self,
        http: &Http,
        mirrors: &Mirrors,
        stop: &Stop,
        wait: impl Fn(u32) -> std::time::Duration,
        now: Timestamp,
    ) -> Result<Trusted, RefreshError> {
        self.storage.create_directory(self.directory)?;
        let mut refresh = Refresh::start(self.stored()?, self.scope.clone(), now, Limits::default())?;
        if self.stale {
            refresh = refresh.allow_stale();
        }
        loop {
            match refresh.next() {
                Step::Get(request) => ask(&mut refresh, &request, http, mirrors, stop, &wait)?,
                Step::Keep { name, bytes } => {
                    storage::replace(self.storage, &self.directory.join(checked(&name)?), &bytes)?;
                }
                Step::Done => return Ok(refresh.finish()?),
            }
        }
    }

    /// Verifies again what is kept, without the network.
    ///
    /// # Errors
    /// [`RefreshError::Refused`] and [`RefreshError::Storage`].
    pub fn offline(&self, now: Timestamp) -> Result<Trusted, RefreshError> {
        Ok(Refresh::offline(self.stored()?, self.scope.clone(), now, Limits::default())?)
    }
}

/// A name of a metadata file as a file name here.
fn checked(name: &str) -> Result<&str, RefreshError> {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+');
    if name.is_empty() || name.starts_with('.') || name.ends_with(".new") || !name.chars().all(safe) {
        return Err(TrustError::Misuse("a metadata file's name is no safe file name").into());
    }
    Ok(name)
}

/// Asks one mirror after the other until an answer is accepted. A mirror whose answer is refused is put aside; one that
/// fails is asked again after the others.
fn ask(
    refresh: &mut Refresh,
    request: &Request,
    http: &Http,
    mirrors: &Mirrors,
    stop: &Stop,
    wait: &impl Fn(u32) -> std::time::Duration,
) -> Result<(), RefreshError> {
    let mut tried: Vec<String> = Vec::new();
    let mut refused = None;
    let mut round = 0;
    loop {
        if stop.is_set() {
            return Err(RefreshError::Stopped);
        }
        let Some(lease) = mirrors.best_but(false, &tried) else {
            if tried.is_empty() {
                let (file, mirrors) = (request.name.clone(), mirrors.aside());
                return Err(match refused {
                    Some(source) => RefreshError::RefusedEverywhere { file, mirrors, source },
                    None => RefreshError::NoMirror { file, mirrors },
                });
            }
            // All were tried; those that only failed get another round.
            tried.clear();
            round += 1;
            if stop.wait(wait(round)) {
                return Err(RefreshError::Stopped);
            }
            continue;
        };
        let url = format!("{}metadata/{}", lease.url, request.name);
        let (answer, latency) = match http.get_compressible(&url, request.limit.get()) {
            Ok((bytes, latency)) => (Answer::Found(bytes), Some(latency)),
            Err(FetchError::Status { status: 404 | 410, .. }) => (Answer::Absent, None),
            Err(error) if error.is_retryable() => {
                lease.failed(&chain(&error));
                tried.push(lease.url.clone());
                continue;
            }
            Err(error) => {
                lease.put_aside(&chain(&error));
                continue;
            }
        };
        match refresh.supply(answer) {
            Ok(()) => {
                if let Some(latency) = latency {
                    lease.answered(latency);
                    lease.succeeded();
                }
                return Ok(());
            }
            Err(error) if error.is_retryable() => {
                lease.put_aside(&chain(&error));
                refused = Some(Box::new(error));
            }
            Err(error) => return Err(error.into()),
        }
    }
}
