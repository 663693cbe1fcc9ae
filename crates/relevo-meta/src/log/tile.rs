//! Tiles: the hashes of the tree, 256 to a file.

use std::collections::BTreeMap;

use relevo_types::{ByteLen, Sha256};

use super::{LogError, merkle, node_hash};

/// Hashes in a full tile.
pub(super) const WIDTH: u64 = 256;

/// Longest bundle of entries: 256 of them, each with its length in front.
pub const MAX_BUNDLE: ByteLen = ByteLen::new(256 * (2 + 0xffff));

/// One tile of a tree, by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    level: u8,
    index: u64,
    width: u16,
}

/// Tiles of one tree, as far as they were asked for and came.
#[derive(Debug, Clone)]
pub struct Tiles {
    size: u64,
    held: BTreeMap<(u8, u64), Vec<Sha256>>,
}

/// A run of entries, `start` up to but without `end`, whose subtree's root is part of a proof.
pub(super) type Run = (u64, u64);

impl Tile {
    /// The tile of a tree of `size` entries at a level, as wide as that tree has it.
    pub(super) fn of(level: u8, index: u64, size: u64) -> Self {
        let count = (size >> (8 * u32::from(level))).saturating_sub(index * WIDTH).min(WIDTH);
        Self { level, index, width: u16::try_from(count).expect("at most 256") }
    }

    /// The tile of leaf hashes, and bundle of entries, in which entry `index` of `size` is.
    pub fn of_entry(index: u64, size: u64) -> Self {
        Self::of(0, index / WIDTH, size)
    }

    /// Its level; leaf hashes are at level 0.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Its place in the level.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Its hashes: 256 if it is full.
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Its bytes.
    pub fn length(&self) -> ByteLen {
        ByteLen::new(32 * u64::from(self.width))
    }

    /// The same tile once it is full. A log may remove a partial tile then.
    #[must_use]
    pub fn full(&self) -> Self {
        Self { width: 256, ..*self }
    }

    /// Where it lies below the log's address: `tile/0/x001/234.p/5`.
    ///
    /// # Source
    /// C2SP tlog-tiles, "Merkle Tree".
    pub fn path(&self) -> String {
        format!("tile/{}/{}", self.level, self.name())
    }

    /// Where the entries lie whose hashes are in this tile of level 0.
    ///
    /// # Source
    /// C2SP tlog-tiles, "Log entries".
    pub fn entries_path(&self) -> String {
        format!("tile/entries/{}", self.name())
    }

    fn name(&self) -> String {
        let mut name = format!("{:03}", self.index % 1000);
        let mut rest = self.index / 1000;
        while rest > 0 {
            name = format!("x{:03}/{name}", rest % 1000);
            rest /= 1000;
        }
        if u64::from(self.width) < WIDTH { format!("{name}.p/{}", self.width) } else { name }
    }

    /// Reads its hashes.
    ///
    /// # Errors
    /// [`LogError::Malformed`] for another length than this tile's, or the full tile's.
    pub fn hashes(&self, bytes: &[u8]) -> Result<Vec<Sha256>, LogError> {
        let (hashes, rest) = bytes.as_chunks::<32>();
        let width = usize::from(self.width);
        // A full tile begins with the partial one.
        if !rest.is_empty() || hashes.len() != width && hashes.len() as u64 != WIDTH {
            return Err(LogError::malformed("a tile", "it has another length"));
        }
        Ok(hashes[..width].iter().map(|hash| Sha256::new(*hash)).collect())
    }
}

impl Tiles {
    /// No tiles yet, of a tree of `size` entries.
    pub fn new(size: u64) -> Self {
        Self { size, held: BTreeMap::new() }
    }

    /// Which tiles [`Self::inclusion`] needs and are not held yet. Each is read up to [`Tile::length`], or the full tile in
    /// its place; there are at most two for each level.
    pub fn for_inclusion(&self, index: u64) -> Vec<Tile> {
        self.missing(&inclusion_runs(index, self.size))
    }

    /// The proof that entry `index` is in this tree; none while tiles are missing, or if there is no such entry.
    pub fn inclusion(&self, index: u64) -> Option<Vec<Sha256>> {
        if index >= self.size {
            return None;
        }
        inclusion_runs(index, self.size).into_iter().map(|run| self.root_of(run)).collect()
    }

    /// Which tiles [`Self::consistency`] needs and are not held yet.
    pub fn for_consistency(&self, old_size: u64) -> Vec<Tile> {
        self.missing(&consistency_runs(old_size, self.size))
    }

    /// The proof that this tree continues one of `old_size` entries; none while tiles are missing.
    pub fn consistency(&self, old_size: u64) -> Option<Vec<Sha256>> {
        consistency_runs(old_size, self.size).into_iter().map(|run| self.root_of(run)).collect()
    }

    /// Takes a tile.
    ///
    /// # Errors
    /// As [`Tile::hashes`].
    pub fn insert(&mut self, tile: &Tile, bytes: &[u8]) -> Result<(), LogError> {
        self.held.insert((tile.level, tile.index), tile.hashes(bytes)?);
        Ok(())
    }

    fn missing(&self, runs: &[Run]) -> Vec<Tile> {
        let subtrees = runs.iter().flat_map(|run| subtrees(*run));
        let tiles = subtrees.map(|(start, height)| {
            let (level, at) = place(start, height);
            Tile::of(level, at / WIDTH, self.size)
        });
        let mut tiles: Vec<Tile> = tiles.filter(|tile| !self.held.contains_key(&(tile.level, tile.index))).collect();
        tiles.sort();
        tiles.dedup();
        tiles
    }

    /// Root of the subtree over a run.
    fn root_of(&self, run: Run) -> Option<Sha256> {
        let mut root: Option<Sha256> = None;
        let parts: Vec<_> = subtrees(run).collect();
        for (start, height) in parts.into_iter().rev() {
            let (level, at) = place(start, height);
            let hashes = self.held.get(&(level, at / WIDTH))?;
            let first = usize::try_from(at % WIDTH).ok()?;
            let count = 1_usize << (height % 8);
            let part = merkle::perfect(hashes.get(first..first + count)?);
            root = Some(root.map_or(part, |root| node_hash(&part, &root)));
        }
        root
    }
}

/// Writes entries as a bundle, or appends them to one.
///
/// # Errors
/// [`LogError::Malformed`] for an entry over 65,535 bytes.
///
/// # Source
/// C2SP tlog-tiles, "Log entries".
pub fn bundle(into: &mut Vec<u8>, entry: &[u8]) -> Result<(), LogError> {
    let length = u16::try_from(entry.len()).map_err(|_| LogError::malformed("a log entry", "it is too long"))?;
    into.extend(length.to_be_bytes());
    into.extend(entry);
    Ok(())
}

/// Reads the entries of a bundle; `width` are wanted, and a full bundle may come in a partial one's place.
///
/// # Errors
/// [`LogError::Malformed`].
pub fn unbundle(bytes: &[u8], width: u16) -> Result<Vec<&[u8]>, LogError> {
    let error = || LogError::malformed("a bundle of entries", "it is cut short, or has other entries than it should");
    let (mut entries, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() && entries.len() as u64 <= WIDTH {
        let (length, after) = rest.split_first_chunk::<2>().ok_or_else(error)?;
        let (entry, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or_else(error)?;
        entries.push(entry);
        rest = after;
    }
    if entries.len() != usize::from(width) && entries.len() as u64 != WIDTH {
        return Err(error());
    }
    entries.truncate(usize::from(width));
    Ok(entries)
}

/// The perfect subtrees that a run is made of, from the left: where each starts, and how high it is.
fn subtrees((start, end): Run) -> impl Iterator<Item = (u64, u32)> {
    let mut at = start;
    std::iter::from_fn(move || {
        let height = (end - at).checked_ilog2()?;
        let start = at;
        at += 1 << height;
        Some((start, height))
    })
}

/// The level of tiles, and the place in it, of a perfect subtree's first hash.
fn place(start: u64, height: u32) -> (u8, u64) {
    let level = height / 8;
    (u8::try_from(level).expect("heights are under 64"), start >> (8 * level))
}

/// Largest power of two below `count`, which is over 1.
fn split(count: u64) -> u64 {
    1 << (count - 1).ilog2()
}

/// RFC 6962 section 2.1.1, the sibling of the leaf first.
fn inclusion_runs(index: u64, size: u64) -> Vec<Run> {
    let (mut start, mut end) = (0, size);
    let mut runs = Vec::new();
    while index < size && end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            runs.push((middle, end));
            end = middle;
        } else {
            runs.push((start, middle));
            start = middle;
        }
    }
    runs.reverse();
    runs
}

/// RFC 6962 section 2.1.2.
fn consistency_runs(old: u64, new: u64) -> Vec<Run> {
    let (mut start, mut end) = (0, new);
    let mut runs = Vec::new();
    if old == 0 || old >= new {
        return runs;
    }
    while end > old {
        let middle = start + split(end - start);
        if old <= middle {
            runs.push((middle, end));
            end = middle;
        } else {
            runs.push((start, middle));
            start = middle;
        }
    }
    // What is left is a subtree of both. The RFC leaves it out if it is the whole old tree; see `verify_consistency`.
    runs.push((start, end));
    runs.reverse();
    runs
}
