//! Repositories that somebody else carries, here or elsewhere, as far as the transparency log needs them.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use jiff::Timestamp;
use relevo_meta::{
    Answer, Limits, Refresh, Scope, Step, Stored,
    log::{
        Checkpoint, Comparison, Entry, LogError, LogKey, MAX_BUNDLE, MAX_CHECKPOINT, Relation, Tile, Tiles, unbundle,
        verify_inclusion,
    },
};
use ureq::Agent;

use crate::error::CliError;

/// How long anything about a connection may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A repository: a directory, or an address.
pub(crate) struct Source {
    /// As it was given.
    pub(crate) name: String,
    place: Place,
}

enum Place {
    Directory(PathBuf),
    Address(String, Agent),
}

impl Source {
    /// A directory (a repository, or a maintainer's with one in it), or an `http://` or `https://` address.
    pub(crate) fn new(name: &str) -> Self {
        let place = if name.starts_with("http://") || name.starts_with("https://") {
            let agent = Agent::config_builder()
                .http_status_as_error(false)
                .proxy(None)
                .user_agent("relevo")
                .timeout_resolve(Some(TIMEOUT))
                .timeout_connect(Some(TIMEOUT))
                .timeout_recv_response(Some(TIMEOUT))
                .timeout_recv_body(Some(TIMEOUT * 10))
                .max_redirects(3)
                .build();
            Place::Address(format!("{}/", name.trim_end_matches('/')), agent.into())
        } else {
            let inner = Path::new(name).join("repo");
            Place::Directory(if inner.is_dir() { inner } else { name.into() })
        };
        Self { name: name.to_owned(), place }
    }

    /// The first root, if this is a directory: whoever names a directory trusts what is in it.
    pub(crate) fn own_root(&self) -> Option<PathBuf> {
        match &self.place {
            Place::Directory(path) => Some(path.join("metadata/1.root.json")),
            Place::Address(..) => None,
        }
    }

    /// Reads a file by its name in the repository, and little more than `limit` bytes of it.
    pub(crate) fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, SourceError> {
        let mut bytes = Vec::new();
        match &self.place {
            Place::Directory(directory) => {
                let path = directory.join(name);
                let failed = |source| SourceError::Read { path: path.clone(), source };
                match File::open(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    file => file.map_err(failed)?.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?,
                };
            }
            Place::Address(base, agent) => {
                let url = format!("{base}{name}");
                let failed = |source| SourceError::Fetch { url: url.clone(), source: Box::new(source) };
                let response = agent.get(&url).call().map_err(failed)?;
                match response.status().as_u16() {
                    200 => {}
                    404 | 410 => return Ok(None),
                    status => return Err(SourceError::Status { url, status }),
                }
                let failed = |source| SourceError::Body { url: url.clone(), source };
                let body = response.into_body().into_reader();
                body.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
            }
        }
        Ok(Some(bytes))
    }

    /// The key of its log, named by the newest root that it shows, to which `root` leads. Dates are not looked at: what is
    /// asked here is what a source shows, and not whether it is fresh.
    pub(crate) fn log_key(&self, root: &Path) -> anyhow::Result<LogKey> {
        let root = std::fs::read(root).map_err(|source| CliError::Read { path: root.into(), source })?;
        let limits = Limits { root_steps: usize::MAX, ..Limits::default() };
        let mut refresh = Refresh::start(Stored::with_root(root), Scope::TopLevel, Timestamp::MIN, limits)?;
        loop {
            match refresh.next() {
                Step::Get(request) => {
                    let bytes = self.read(&format!("metadata/{}", request.name), request.limit.get())?;
                    refresh.supply(bytes.map_or(Answer::Absent, Answer::Found))?;
                }
                Step::Keep { .. } => {}
                Step::Done => break,
            }
        }
        Ok(refresh.finish()?.log_key().cloned().ok_or(LogError::NoLog)?)
    }

    /// The checkpoint that it shows, not verified.
    pub(crate) fn note(&self) -> anyhow::Result<Vec<u8>> {
        let note = self.read("log/checkpoint", MAX_CHECKPOINT.get())?;
        note.with_context(|| format!("{} has no log/checkpoint", self.name))
    }

    fn tile(&self, tile: &Tile) -> anyhow::Result<Vec<u8>> {
        for tile in [*tile, tile.full()] {
            if let Some(bytes) = self.read(&format!("log/{}", tile.path()), tile.length().get())? {
                return Ok(bytes);
            }
        }
        anyhow::bail!("{} has no log/{}", self.name, tile.path())
    }

    /// How `offered`, which this source showed, stands to `kept`; tiles come from `newer`, who showed the larger one.
    pub(crate) fn compare(kept: &Checkpoint, offered: &Checkpoint, newer: &Self) -> anyhow::Result<Relation> {
        let mut comparison = Comparison::new(kept, offered)?;
        for tile in comparison.wanted() {
            comparison.supply(&tile, &newer.tile(&tile)?)?;
        }
        Ok(comparison.finish()?)
    }

    /// The entries from `first` on, each verified to be in the tree of the checkpoint.
    pub(crate) fn entries(&self, checkpoint: &Checkpoint, first: u64) -> anyhow::Result<Vec<(u64, Entry)>> {
        let size = checkpoint.size;
        let mut tiles = Tiles::new(size);
        let mut entries = Vec::new();
        let mut index = first;
        while index < size {
            let tile = Tile::of_entry(index, size);
            let mut bytes = self.read(&format!("log/{}", tile.entries_path()), MAX_BUNDLE.get())?;
            if bytes.is_none() {
                bytes = self.read(&format!("log/{}", tile.full().entries_path()), MAX_BUNDLE.get())?;
            }
            let bytes = bytes.with_context(|| format!("{} has no log/{}", self.name, tile.entries_path()))?;
            let skipped = usize::try_from(index % 256).expect("under 256");
            for bytes in unbundle(&bytes, tile.width())?.into_iter().skip(skipped) {
                for tile in tiles.for_inclusion(index) {
                    tiles.insert(&tile, &self.tile(&tile)?)?;
                }
                let entry = Entry::parse(bytes)?;
                let proof = tiles.inclusion(index).ok_or(LogError::Tiles { size })?;
                if !verify_inclusion(entry.leaf(), index, size, &proof, &checkpoint.root) {
                    return Err(LogError::Tiles { size }.into());
                }
                entries.push((index, entry));
                index += 1;
            }
        }
        Ok(entries)
    }
}

/// Why a source did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("could not read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("could not fetch {url}")]
    Fetch { url: String, source: Box<ureq::Error> },
    #[error("{url} answered {status}")]
    Status { url: String, status: u16 },
    #[error("the answer to {url} broke off")]
    Body { url: String, source: io::Error },
}
