//! The Merkle tree of RFC 6962: hashes, and checking that an entry is in it and that one tree continues another.

use relevo_types::Sha256;
use sha2::Digest as _;

use super::{
    LogError,
    tile::{Tile, WIDTH},
};

/// Hash of an entry, RFC 6962 section 2.1.
pub fn leaf_hash(entry: &[u8]) -> Sha256 {
    digest(&[&[0], entry])
}

/// Hash over two subtrees, RFC 6962 section 2.1.
pub fn node_hash(left: &Sha256, right: &Sha256) -> Sha256 {
    digest(&[&[1], left.as_bytes(), right.as_bytes()])
}

/// Root hash of a tree without entries.
pub fn empty_root() -> Sha256 {
    digest(&[])
}

fn digest(parts: &[&[u8]]) -> Sha256 {
    let mut hasher = sha2::Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    Sha256::new(hasher.finalize().into())
}

/// Whether `proof` leads from `leaf`, entry `index` of `size`, to `root`.
///
/// # Source
/// RFC 9162 section 2.1.3.2; the proof is RFC 6962's audit path, sibling of the leaf first.
pub fn verify_inclusion(leaf: Sha256, index: u64, size: u64, proof: &[Sha256], root: &Sha256) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether the tree of `new_size` entries with `new_root` continues that of `old_size` entries with `old_root`; `proof` is
/// what [`Tiles::consistency`](super::Tiles::consistency) gives.
///
/// # Errors
/// [`LogError::Tiles`] if the proof is none of the new tree: nothing is said about the logs then.
///
/// # Source
/// RFC 9162 section 2.1.4.2. There, both roots decide together; here the new one alone says whether the proof is any good,
/// so that a liar's proof is no evidence against a sound log. For that, the proof always begins with the first subtree; the
/// RFC leaves it out, and takes the old root in its place, where the old tree has a power of two of entries.
pub fn verify_consistency(
    old_size: u64,
    old_root: &Sha256,
    new_size: u64,
    new_root: &Sha256,
    proof: &[Sha256],
) -> Result<bool, LogError> {
    let bad = || LogError::Tiles { size: new_size };
    if old_size > new_size || (old_size == new_size || old_size == 0) && !proof.is_empty() {
        return Err(bad());
    }
    if old_size == 0 {
        return Ok(*old_root == empty_root());
    }
    if old_size == new_size {
        return Ok(old_root == new_root);
    }
    let (mut node, mut last) = (old_size - 1, new_size - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let mut hashes = proof.iter();
    let start = hashes.next().ok_or_else(bad)?;
    let (mut old, mut new) = (*start, *start);
    for hash in hashes {
        if last == 0 {
            return Err(bad());
        }
        if node & 1 == 1 || node == last {
            old = node_hash(hash, &old);
            new = node_hash(hash, &new);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(&new, hash);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 || new != *new_root { Err(bad()) } else { Ok(old == *old_root) }
}

/// The right edge of a growing tree, from which everything to come can be computed: of each level of tiles the hashes of
/// the one that is not full.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    edge: Vec<Vec<Sha256>>,
    /// Full tiles that came to be since the start, and not those from before.
    full: std::collections::BTreeMap<(u8, u64), Vec<Sha256>>,
}

impl Tree {
    /// The tiles that make up the edge of a tree of `size` entries; each is partial.
    pub fn edge_tiles(size: u64) -> Vec<Tile> {
        (0..8)
            .filter_map(|level| {
                let count = size >> (8 * u32::from(level));
                let width = count % WIDTH;
                (width > 0).then(|| Tile::of(level, count / WIDTH, size))
            })
            .collect()
    }

    /// Takes up a tree where it stood: the hashes of the tiles that [`Self::edge_tiles`] names, and the root that they
    /// must lead to.
    ///
    /// # Errors
    /// [`LogError::Tiles`] if they do not lead there.
    pub fn resume(
        size: u64,
        root: &Sha256,
        mut hashes: impl FnMut(&Tile) -> Option<Vec<Sha256>>,
    ) -> Result<Self, LogError> {
        let bad = || LogError::Tiles { size };
        let mut tree = Self { size, ..Self::default() };
        for tile in Self::edge_tiles(size) {
            let level = usize::from(tile.level());
            tree.edge.resize(tree.edge.len().max(level + 1), Vec::new());
            let hashes = hashes(&tile).filter(|hashes| hashes.len() == usize::from(tile.width())).ok_or_else(bad)?;
            tree.edge[level] = hashes;
        }
        if tree.root() == *root { Ok(tree) } else { Err(bad()) }
    }

    /// Appends an entry.
    pub fn push(&mut self, entry: &[u8]) {
        let mut hash = leaf_hash(entry);
        let mut index = self.size;
        self.size += 1;
        for level in 0_u8.. {
            let at = usize::from(level);
            if self.edge.len() <= at {
                self.edge.push(Vec::new());
            }
            self.edge[at].push(hash);
            if (self.edge[at].len() as u64) < WIDTH {
                return;
            }
            let full = std::mem::take(&mut self.edge[at]);
            hash = perfect(&full);
            index /= WIDTH;
            self.full.insert((level, index), full);
        }
    }

    /// Number of entries.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Root hash.
    pub fn root(&self) -> Sha256 {
        let mut root: Option<Sha256> = None;
        // From the right: each level's hashes stand left of all that is below them.
        for hashes in &self.edge {
            let mut rest = hashes.as_slice();
            while !rest.is_empty() {
                let (left, right) = rest.split_at(rest.len() - (1 << rest.len().trailing_zeros()));
                let group = perfect(right);
                root = Some(root.map_or(group, |root| node_hash(&group, &root)));
                rest = left;
            }
        }
        root.unwrap_or_else(empty_root)
    }

    /// The tiles that this tree has and the one of `before` entries had not; their bytes are [`Self::tile`].
    pub fn new_tiles(&self, before: u64) -> Vec<Tile> {
        let old = Self::edge_tiles(before);
        let full = self.full.keys().map(|(level, index)| Tile::of(*level, *index, self.size));
        full.chain(Self::edge_tiles(self.size)).filter(|tile| !old.contains(tile)).collect()
    }

    /// Bytes of a tile of the edge, or of one that became full here; empty for any other.
    pub fn tile(&self, tile: &Tile) -> Vec<u8> {
        let is_edge = self.size >> (8 * u32::from(tile.level())) >> 8 == tile.index();
        let edge = self.edge.get(usize::from(tile.level())).filter(|_| is_edge);
        let hashes = self.full.get(&(tile.level(), tile.index())).or(edge);
        let hashes = hashes.map(|hashes| &hashes[..hashes.len().min(usize::from(tile.width()))]);
        hashes.into_iter().flatten().flat_map(|hash| *hash.as_bytes()).collect()
    }
}

/// Root of a perfect tree over these hashes, of which there is a power of two.
pub(super) fn perfect(hashes: &[Sha256]) -> Sha256 {
    match hashes {
        [] => empty_root(),
        [hash] => *hash,
        more => {
            let (left, right) = more.split_at(more.len() / 2);
            node_hash(&perfect(left), &perfect(right))
        }
    }
}
