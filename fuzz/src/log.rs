//! The transparency log: signed notes, proofs and entries, tiles.

use relevo_meta::log::{
    Checkpoint, Entry, LogKey, Proof, Tile, Tiles, bundle, node_hash, unbundle, verify_consistency, verify_inclusion,
};
use relevo_types::Sha256;

/// The key of the specification's example, which nobody here can sign with.
const KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";

/// A checkpoint, as it is kept and as it comes; and the same bytes as a key.
pub fn checkpoint(data: &[u8]) {
    let key = LogKey::parse(KEY).expect("the specification's key");
    let opened = Checkpoint::open(data, &key);
    match Checkpoint::parse_kept(data) {
        Ok(kept) => {
            assert_eq!(kept.note(), data);
            assert!(kept.size <= 1 << 62 && !kept.origin.is_empty());
            assert!(opened.is_err(), "nobody has the key");
        }
        Err(_) => assert!(opened.is_err()),
    }
    if let Some(key) = std::str::from_utf8(data).ok().and_then(|text| LogKey::parse(text).ok()) {
        assert_eq!(key.to_string().as_bytes(), data);
    }
}

/// A proof, an entry, and a bundle of entries.
pub fn log_proof(data: &[u8]) {
    if let Ok(proof) = Proof::parse(data) {
        assert_eq!(Proof::parse(&proof.encode()).expect("it was just written"), proof);
        let (key, entry) = (LogKey::parse(KEY).expect("the specification's key"), Entry::new("d-ginkgo", 1, b""));
        assert!(proof.verify(&entry.expect("a plain name"), &key).is_err(), "nobody has the key");
    }
    if let Ok(entry) = Entry::parse(data) {
        assert_eq!(entry.to_bytes(), data);
    }
    let Some((width, data)) = data.split_first() else { return };
    if let Ok(entries) = unbundle(data, u16::from(*width)) {
        let mut again = Vec::new();
        entries.iter().for_each(|entry| bundle(&mut again, entry).expect("it was as short before"));
        assert!(data.starts_with(&again));
    }
}

/// Two sizes, a place, and the hashes of the one tile of a tree that small: proofs made from it hold.
pub fn log_tiles(data: &[u8]) {
    let [old, new, index, rest @ ..] = data else { return };
    let (old, new) = (u64::from(*old.min(new)), u64::from(*old.max(new)));
    // Large trees: what is wanted is little, whatever the sizes are.
    let huge = u64::from_le_bytes(std::array::from_fn(|at| rest.get(at).copied().unwrap_or(0))) >> 2;
    let wanted = Tiles::new(huge).for_consistency(huge.wrapping_mul(u64::from(*index)) >> 8);
    assert!(wanted.len() <= 24 && wanted.iter().all(|tile| tile.width() > 0));

    let mut tiles = Tiles::new(new);
    for tile in tiles.for_consistency(old).into_iter().chain(tiles.for_inclusion(u64::from(*index))) {
        if tiles.insert(&tile, rest).is_err() {
            return;
        }
    }
    if new == 0 {
        return;
    }
    let Ok(hashes) = Tile::of_entry(0, new).hashes(rest) else { return };
    let root = |size: u64| root(&hashes[..usize::try_from(size).expect("one byte")]);
    if old > 0 && old < new {
        let proof = tiles.consistency(old).expect("its tiles are here");
        assert_eq!(verify_consistency(old, &root(old), new, &root(new), &proof), Ok(true));
    }
    let index = u64::from(*index);
    let leaf = hashes.get(usize::try_from(index).expect("one byte")).copied();
    if let (Some(leaf), Some(proof)) = (leaf, tiles.inclusion(index)) {
        assert!(verify_inclusion(leaf, index, new, &proof, &root(new)));
        assert!(!verify_inclusion(leaf, index, new, &[&proof[..], &[leaf]].concat(), &root(new)));
    }
}

/// RFC 6962 section 2.1, over leaf hashes.
fn root(hashes: &[Sha256]) -> Sha256 {
    match hashes {
        [] => relevo_meta::log::empty_root(),
        [hash] => *hash,
        more => {
            let (left, right) = more.split_at(more.len().next_power_of_two() / 2);
            node_hash(&root(left), &root(right))
        }
    }
}
