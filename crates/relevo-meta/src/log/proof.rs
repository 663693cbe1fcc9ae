//! Proofs that can be carried around, and holding two checkpoints against each other.

use base64ct::{Base64, Encoding as _};
use relevo_types::{ByteLen, Sha256};

use super::{
    Checkpoint, Entry, LogError, LogKey, MAX_CHECKPOINT, Tile, Tiles,
    checkpoint::{decimal, hash},
    verify_consistency, verify_inclusion,
};

/// Longest proof that we read: a checkpoint, 62 hashes of 45 bytes, and what else may stand there.
pub const MAX_PROOF: ByteLen = ByteLen::kib(80);

const HEADER: &str = "c2sp.org/tlog-proof@v1\n";

/// That an entry is in the log, to be checked without a network.
///
/// # Source
/// C2SP tlog-proof, version 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    index: u64,
    hashes: Vec<Sha256>,
    checkpoint: Vec<u8>,
}

/// How an offered checkpoint stands to the kept one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The same tree.
    Same,
    /// It continues the kept one.
    Ahead,
    /// The kept one continues it: whoever offered it has not caught up, or shows something old.
    Behind,
}

/// Whether two checkpoints are of one history. Made from two that were verified, it asks for tiles of the larger tree.
#[derive(Debug, Clone)]
pub struct Comparison {
    kept: Checkpoint,
    offered: Checkpoint,
    tiles: Tiles,
}

impl Proof {
    /// A proof; `checkpoint` is the signed note.
    pub fn new(index: u64, hashes: Vec<Sha256>, checkpoint: &[u8]) -> Self {
        Self { index, hashes, checkpoint: checkpoint.to_vec() }
    }

    /// Place of the entry in the log, from 0.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The checkpoint's signed note.
    pub fn checkpoint(&self) -> &[u8] {
        &self.checkpoint
    }

    /// Reads a proof. Nothing is verified yet.
    ///
    /// # Errors
    /// [`LogError::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, LogError> {
        let error = |reason| LogError::malformed("a proof", reason);
        if bytes.len() as u64 > MAX_PROOF.get() {
            return Err(error("it is over 80 KiB long"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| error("it is no UTF-8"))?;
        let mut rest = text.strip_prefix(HEADER).ok_or_else(|| error("it begins otherwise"))?;
        let mut line = || -> Option<&str> {
            let (line, after) = rest.split_once('\n')?;
            rest = after;
            Some(line)
        };
        let mut index = line();
        if index.is_some_and(|line| line.starts_with("extra ")) {
            index = line();
        }
        let index = index.and_then(|line| line.strip_prefix("index ")).and_then(decimal);
        let index = index.ok_or_else(|| error("it has no index"))?;
        let mut hashes = Vec::new();
        loop {
            match line() {
                Some("") => break,
                // A tree of 2^62 entries needs no more.
                Some(text) if hashes.len() < 63 => {
                    hashes.push(hash(text).ok_or_else(|| error("a hash is no base64 of 32 bytes"))?);
                }
                _ => return Err(error("its hashes do not end")),
            }
        }
        if rest.len() as u64 > MAX_CHECKPOINT.get() {
            return Err(error("its checkpoint is over 64 KiB long"));
        }
        Ok(Self { index, hashes, checkpoint: rest.as_bytes().to_vec() })
    }

    /// Writes it, without extra data.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = format!("{HEADER}index {}\n", self.index);
        for hash in &self.hashes {
            text += &Base64::encode_string(hash.as_bytes());
            text.push('\n');
        }
        text.push('\n');
        [text.into_bytes(), self.checkpoint.clone()].concat()
    }

    /// Checks that the log, by its key, vouches for `entry`; gives the checkpoint under which it does.
    ///
    /// # Errors
    /// - What [`Checkpoint::open`] says of the checkpoint.
    /// - [`LogError::NotIncluded`] if the entry is not in that tree at that place.
    pub fn verify(&self, entry: &Entry, key: &LogKey) -> Result<Checkpoint, LogError> {
        let checkpoint = Checkpoint::open(&self.checkpoint, key)?;
        if verify_inclusion(entry.leaf(), self.index, checkpoint.size, &self.hashes, &checkpoint.root) {
            return Ok(checkpoint);
        }
        let (role, version) = (entry.role().to_owned(), entry.version());
        Err(LogError::NotIncluded { role, version, index: self.index, size: checkpoint.size })
    }
}

impl Comparison {
    /// Compares two checkpoints of one log that were verified.
    ///
    /// # Errors
    /// - [`LogError::OtherLog`] if they are of two.
    /// - [`LogError::Fork`] if both have the same size and differ; this needs no tiles.
    pub fn new(kept: &Checkpoint, offered: &Checkpoint) -> Result<Self, LogError> {
        if kept.origin != offered.origin {
            let (expected, found) = (kept.origin.clone(), offered.origin.clone());
            return Err(LogError::OtherLog { expected, found });
        }
        let tiles = Tiles::new(kept.size.max(offered.size));
        let comparison = Self { kept: kept.clone(), offered: offered.clone(), tiles };
        if kept.size == offered.size && kept.root != offered.root { Err(comparison.fork()) } else { Ok(comparison) }
    }

    /// Which tiles are needed and missing, of the larger tree: ask whoever showed that one. Each is read up to
    /// [`Tile::length`]; where a partial one is gone, the full one does.
    pub fn wanted(&self) -> Vec<Tile> {
        self.tiles.for_consistency(self.kept.size.min(self.offered.size))
    }

    /// Takes a tile.
    ///
    /// # Errors
    /// [`LogError::Malformed`] for one of another length.
    pub fn supply(&mut self, tile: &Tile, bytes: &[u8]) -> Result<(), LogError> {
        self.tiles.insert(tile, bytes)
    }

    /// The answer, once no tile is wanted any more.
    ///
    /// # Errors
    /// - [`LogError::Fork`] with both checkpoints, which together are the evidence: the tiles are those of the larger tree,
    ///   and the smaller one is not in it.
    /// - [`LogError::Tiles`] if tiles are missing or are not those of the larger tree.
    pub fn finish(&self) -> Result<Relation, LogError> {
        let (kept, offered) = (&self.kept, &self.offered);
        let (old, new) = if kept.size <= offered.size { (kept, offered) } else { (offered, kept) };
        let proof = self.tiles.consistency(old.size).ok_or(LogError::Tiles { size: new.size })?;
        if !verify_consistency(old.size, &old.root, new.size, &new.root, &proof)? {
            return Err(self.fork());
        }
        Ok(match kept.size.cmp(&offered.size) {
            std::cmp::Ordering::Equal => Relation::Same,
            std::cmp::Ordering::Less => Relation::Ahead,
            std::cmp::Ordering::Greater => Relation::Behind,
        })
    }

    fn fork(&self) -> LogError {
        LogError::Fork { kept: Box::new(self.kept.clone()), offered: Box::new(self.offered.clone()) }
    }
}
