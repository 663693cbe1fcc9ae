//! The transparency log: notes and checkpoints of the specifications, trees of every size, damage.

use proptest::prelude::*;
use relevo_meta::{
    keys::Signer as _,
    log::{
        Checkpoint, Comparison, Entry, LogError, LogKey, Proof, Relation, Tile, Tiles, Tree, bundle, empty_root,
        leaf_hash, node_hash, unbundle, verify_consistency, verify_inclusion,
    },
    testing::key,
};
use relevo_types::Sha256;

const NAME: &str = "relevo.example/log";

pub(crate) fn log_key(name: &str) -> LogKey {
    LogKey::new(NAME, *key(name).public().verifying_key()).unwrap()
}

/// A log in memory that can show every state it ever had.
#[derive(Default)]
pub(crate) struct Log {
    entries: Vec<Vec<u8>>,
}

impl Log {
    pub(crate) fn of(size: u64) -> Self {
        Self { entries: (0..size).map(|number| format!("entry {number}").into_bytes()).collect() }
    }

    pub(crate) fn push(&mut self, entry: &Entry) {
        self.entries.push(entry.to_bytes());
    }

    /// Merkle tree hash as RFC 6962 section 2.1 defines it, without anything clever.
    pub(crate) fn root(&self, start: u64, end: u64) -> Sha256 {
        match end - start {
            0 => empty_root(),
            1 => leaf_hash(&self.entries[usize::try_from(start).unwrap()]),
            count => {
                let middle = start + (count.next_power_of_two() / 2);
                node_hash(&self.root(start, middle), &self.root(middle, end))
            }
        }
    }

    /// A tile by the formula of tlog-tiles.
    pub(crate) fn tile(&self, tile: &Tile) -> Vec<u8> {
        let step = 256_u64.pow(u32::from(tile.level()));
        let first = tile.index() * 256;
        let hash = |i: u64| *self.root((first + i) * step, (first + i + 1) * step).as_bytes();
        (0..u64::from(tile.width())).flat_map(hash).collect()
    }

    pub(crate) fn checkpoint(&self, size: u64) -> Vec<u8> {
        Checkpoint::sign(NAME, size, self.root(0, size), &key("log")).unwrap()
    }

    pub(crate) fn proof(&self, index: u64, size: u64) -> Proof {
        let mut tiles = Tiles::new(size);
        for tile in tiles.for_inclusion(index) {
            tiles.insert(&tile, &self.tile(&tile)).unwrap();
        }
        Proof::new(index, tiles.inclusion(index).unwrap(), &self.checkpoint(size))
    }
}

pub(crate) fn compare(kept: &Checkpoint, offered: &Checkpoint, source: &Log) -> Result<Relation, LogError> {
    let mut comparison = Comparison::new(kept, offered)?;
    for tile in comparison.wanted() {
        comparison.supply(&tile, &source.tile(&tile))?;
    }
    comparison.finish()
}

fn opened(note: &[u8]) -> Checkpoint {
    Checkpoint::open(note, &log_key("log")).unwrap()
}

/// The example of C2SP signed-note: its verifier key reads as itself, which binds name, id and key together.
#[test]
fn reads_the_verifier_key_of_the_specification() {
    let text = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";

    let key = LogKey::parse(text).unwrap();

    assert_eq!((key.name(), key.id(), key.to_string().as_str()), ("example.com/foo", 0x530d_903a, text));
    for wrong in [
        "example.com/foo+530d903b+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/fop+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530D903A+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903a+AukyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U0",
        "example.com/foo+530d903a",
        "",
    ] {
        assert!(LogKey::parse(wrong).is_err(), "{wrong}");
    }
}

/// The example of C2SP tlog-checkpoint, signed by a key that it does not give.
#[test]
fn reads_the_checkpoint_of_the_specification() {
    let note = include_bytes!("golden/checkpoint");

    let checkpoint = Checkpoint::parse_kept(note).unwrap();

    assert_eq!((checkpoint.origin.as_str(), checkpoint.size), ("example.com/behind-the-sofa", 20_852_163));
    let root = "0ac5186a91863e8e1d90c808014aa89bf5da8e3ee1d9f07630f0378f68f1ab62";
    assert_eq!(checkpoint.root.to_string(), root);
    assert_eq!(checkpoint.note(), note);
    assert!(matches!(Checkpoint::open(note, &log_key("log")), Err(LogError::OtherLog { .. })));
}

/// The signed note of C2SP signed-note verifies under its key: a note that is no checkpoint is refused as that, and one
/// letter more as a forgery.
#[test]
fn verifies_the_note_of_the_specification() {
    let key = LogKey::parse("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k").unwrap();
    let line = "\u{2014} example.com/foo \
        Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
    let signature: Vec<u8> = base64(line.trim_end().rsplit(' ').next().unwrap());
    let signature = ed25519_dalek::Signature::from_slice(&signature[4..]).unwrap();

    key.verifying_key().verify_strict(b"This is an example message.\n", &signature).unwrap();
    let note = format!("This is an example message.\n\n{line}");

    assert!(matches!(Checkpoint::open(note.as_bytes(), &key), Err(LogError::Malformed { .. })));
    let forged = format!("example.com/foo\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n{line}");
    assert!(matches!(Checkpoint::open(forged.as_bytes(), &key), Err(LogError::Signature { .. })));
}

fn base64(text: &str) -> Vec<u8> {
    use base64ct::Encoding as _;
    base64ct::Base64::decode_vec(text).unwrap()
}

#[test]
fn a_log_without_a_name_is_named_after_its_first_key() {
    let named = LogKey::self_named(*key("log").public().verifying_key());

    assert!(named.name().starts_with("relevo-log/") && named.name().len() == 27);
    assert_eq!(LogKey::parse(&named.to_string()).unwrap(), named);
}

#[test]
fn signs_what_it_reads() {
    let log = Log::of(5);
    let note = log.checkpoint(5);

    let checkpoint = opened(&note);

    assert_eq!((checkpoint.size, checkpoint.root), (5, log.root(0, 5)));
    assert!(matches!(Checkpoint::open(&note, &log_key("other")), Err(LogError::Signature { .. })));
    // Signatures by others, a witness's among them, change nothing.
    let mut more = note.clone();
    more.extend("\u{2014} witness.example AAAAAAAAAAAAAAAAAAAA\n".as_bytes());
    assert_eq!(opened(&more).root, checkpoint.root);
    // A second signature that claims to be the log's must be.
    let line = String::from_utf8(note.clone()).unwrap().lines().last().unwrap().to_owned();
    let mut twice = note.clone();
    twice.extend(format!("{}AAAA\n", &line[..line.len() - 4]).as_bytes());
    assert!(Checkpoint::open(&twice, &log_key("log")).is_err());
}

#[test]
fn any_damage_to_a_checkpoint_is_noticed() {
    let note = Log::of(3).checkpoint(3);

    for len in 0..note.len() {
        assert!(Checkpoint::open(&note[..len], &log_key("log")).is_err(), "cut at {len}");
    }
    for at in 0..note.len() {
        for bit in 0..8 {
            let mut damaged = note.clone();
            damaged[at] ^= 1 << bit;
            assert!(Checkpoint::open(&damaged, &log_key("log")).is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn a_growing_tree_has_the_root_and_the_tiles_of_the_definition() {
    let log = Log::of(600);
    let mut tree = Tree::default();

    for (size, entry) in (1_u64..).zip(&log.entries) {
        let before = tree.clone();
        tree.push(entry);

        assert_eq!((tree.size(), tree.root()), (size, log.root(0, size)));
        for tile in Tree::edge_tiles(size) {
            assert_eq!(tree.tile(&tile), log.tile(&tile), "{}", tile.path());
        }
        // Taken up from its tiles, it is the same tree.
        let again = Tree::resume(size, &tree.root(), |tile| tile.hashes(&log.tile(tile)).ok()).unwrap();
        assert_eq!(again.root(), tree.root());
        assert!(Tree::resume(size, &empty_root(), |tile| tile.hashes(&log.tile(tile)).ok()).is_err());
        for tile in tree.new_tiles(before.size()) {
            assert_eq!(tree.tile(&tile), log.tile(&tile), "{}", tile.path());
        }
    }

    let full: Vec<String> = tree.new_tiles(0).iter().map(Tile::path).collect();
    assert_eq!(full, ["tile/0/000", "tile/0/001", "tile/0/002.p/88", "tile/1/000.p/2"]);
}

/// The example of tlog-tiles: a tree of 70,000 entries.
#[test]
fn names_tiles_as_the_specification_does() {
    let mut tiles: Vec<String> = Tree::edge_tiles(70_000).iter().map(Tile::path).collect();
    tiles.push(Tile::of_entry(1_234_067 * 256, 1 << 40).path());
    tiles.push(Tile::of_entry(69_999, 70_000).entries_path());

    assert_eq!(
        tiles,
        ["tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1", "tile/0/x001/x234/067", "tile/entries/273.p/112"]
    );
}

#[test]
fn every_entry_of_every_tree_has_a_proof() {
    let log = Log::of(300);
    for size in 1..=300_u64 {
        let root = log.root(0, size);
        for index in (0..size).filter(|index| size < 34 || index % 41 == 0 || index + 2 > size) {
            let mut tiles = Tiles::new(size);
            for tile in tiles.for_inclusion(index) {
                tiles.insert(&tile, &log.tile(&tile)).unwrap();
            }
            let proof = tiles.inclusion(index).unwrap();
            let leaf = leaf_hash(&log.entries[usize::try_from(index).unwrap()]);

            assert!(verify_inclusion(leaf, index, size, &proof, &root), "{index} of {size}");

            let wrong = leaf_hash(b"another entry");
            assert!(!verify_inclusion(wrong, index, size, &proof, &root));
            assert!(!verify_inclusion(leaf, index + 1, size, &proof, &root));
            // Entries are all different, so no other place or tree has this proof, but for the right edge of trees that
            // share their path.
            assert!(size == 1 || !verify_inclusion(leaf, index, size, &proof[1..], &root));
            let longer = [&proof[..], &[root]].concat();
            assert!(!verify_inclusion(leaf, index, size, &longer, &root));
        }
        assert!(Tiles::new(size).inclusion(size).is_none());
    }
}

#[test]
fn every_tree_continues_every_smaller_one() {
    let log = Log::of(264);
    let roots: Vec<Sha256> = (0..=264).map(|size| log.root(0, size)).collect();
    let at = |size: u64| &roots[usize::try_from(size).unwrap()];
    // All small ones, and those around a full tile.
    for new in (0..=140_u64).chain(250..=264) {
        let mut tiles = Tiles::new(new);
        for old in 0..=new {
            for tile in tiles.for_consistency(old) {
                tiles.insert(&tile, &log.tile(&tile)).unwrap();
            }
            let proof = tiles.consistency(old).unwrap();

            assert_eq!(verify_consistency(old, at(old), new, at(new), &proof), Ok(true), "{old} to {new}");

            let other = leaf_hash(b"another tree");
            assert_eq!(verify_consistency(old, &other, new, at(new), &proof), Ok(false), "{old} to {new}");
            if old > 0 && old < new {
                // Whoever sends a wrong proof proves nothing.
                let mut wrong = proof.clone();
                wrong[0] = other;
                assert!(verify_consistency(old, at(old), new, at(new), &wrong).is_err(), "{old} to {new}");
                assert!(verify_consistency(old, at(old), new, at(new), &proof[1..]).is_err(), "{old} to {new}");
                let longer = [&proof[..], &[other]].concat();
                assert!(verify_consistency(old, at(old), new, at(new), &longer).is_err(), "{old} to {new}");
            }
        }
    }
}

/// Roots of the trees over the eight leaves of the tests of the reference implementation of RFC 6962
/// (certificate-transparency, merkletree/merkle_tree_test).
#[test]
fn hashes_as_certificate_transparency_does() {
    let leaves = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    let roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let mut tree = Tree::default();
    for (leaf, root) in leaves.iter().zip(roots) {
        let pairs = leaf.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        tree.push(&pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect::<Vec<_>>());
        assert_eq!(tree.root().to_string(), root);
    }
}

#[test]
fn compares_checkpoints() {
    let log = Log::of(700);
    let at = |size| opened(&log.checkpoint(size));

    assert_eq!(compare(&at(3), &at(3), &log), Ok(Relation::Same));
    assert_eq!(compare(&at(0), &at(3), &log), Ok(Relation::Ahead));
    assert_eq!(compare(&at(300), &at(700), &log), Ok(Relation::Ahead));
    assert_eq!(compare(&at(700), &at(300), &log), Ok(Relation::Behind));
}

#[test]
fn a_fork_is_told_from_a_source_that_lies() {
    let log = Log::of(700);
    let mut other = Log::of(700);
    other.entries[299] = b"what only some are shown".to_vec();
    let (kept, offered) = (opened(&log.checkpoint(300)), opened(&other.checkpoint(700)));

    let fork = compare(&kept, &offered, &other).unwrap_err();

    assert!(!fork.is_retryable());
    let LogError::Fork { kept: one, offered: two } = fork else { panic!("{fork:?}") };
    assert_eq!((*one, *two), (kept.clone(), offered));
    // Sound checkpoints, and tiles of another log: that is the source's doing, and no evidence.
    let offered = opened(&log.checkpoint(700));
    assert_eq!(compare(&kept, &offered, &other), Err(LogError::Tiles { size: 700 }));
    // Behind a fork, it is one as well; of one size it needs no tiles.
    let longer = opened(&other.checkpoint(400));
    assert!(matches!(compare(&offered, &longer, &log), Err(LogError::Fork { .. })));
    let same = opened(&other.checkpoint(300));
    assert!(matches!(Comparison::new(&kept, &same), Err(LogError::Fork { .. })));
}

#[test]
fn a_full_tile_does_in_place_of_a_partial_one() {
    let log = Log::of(256);
    let (kept, offered) = (opened(&log.checkpoint(100)), opened(&log.checkpoint(200)));
    let mut comparison = Comparison::new(&kept, &offered).unwrap();
    let wanted = comparison.wanted();
    assert_eq!(wanted.iter().map(Tile::path).collect::<Vec<_>>(), ["tile/0/000.p/200"]);

    comparison.supply(&wanted[0], &log.tile(&wanted[0].full())).unwrap();

    assert_eq!(comparison.finish(), Ok(Relation::Ahead));
    assert!(wanted[0].hashes(&[0; 31]).is_err());
    assert!(wanted[0].hashes(&[0; 32 * 199]).is_err());
}

#[test]
fn a_proof_of_the_log_reads_as_it_was_written_and_holds() {
    let mut log = Log::of(40);
    let entry = Entry::new("d-ginkgo", 7, b"the role").unwrap();
    log.push(&entry);
    let proof = log.proof(40, 41);
    let bytes = proof.encode();

    assert_eq!(Proof::parse(&bytes).unwrap(), proof);
    assert_eq!(proof.verify(&entry, &log_key("log")).unwrap().size, 41);
    assert_eq!((proof.index(), proof.checkpoint()), (40, &log.checkpoint(41)[..]));

    let text = String::from_utf8(bytes.clone()).unwrap();
    let extra = text.replacen("index", "extra AAAA\nindex", 1);
    assert_eq!(Proof::parse(extra.as_bytes()).unwrap(), proof);
    for other in [Entry::new("d-ginkgo", 8, b"the role").unwrap(), Entry::new("d-ginkgo", 7, b"other").unwrap()] {
        assert!(matches!(proof.verify(&other, &log_key("log")), Err(LogError::NotIncluded { .. })));
    }
    for at in 0..bytes.len() {
        let verified = |bytes: &[u8]| Proof::parse(bytes).and_then(|proof| proof.verify(&entry, &log_key("log")));
        assert!(verified(&bytes[..at]).is_err(), "cut at {at}");
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            assert!(verified(&damaged).is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn entries_read_as_they_were_written() {
    let entry = Entry::new("d-ginkgo-nightly", 12, b"{}").unwrap();
    let bytes = entry.to_bytes();

    assert_eq!(
        String::from_utf8(bytes.clone()).unwrap(),
        "relevo role v1\nd-ginkgo-nightly\n12\n44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\n"
    );
    assert_eq!(Entry::parse(&bytes).unwrap(), entry);
    for at in 0..bytes.len() {
        assert!(Entry::parse(&bytes[..at]).is_err());
    }
    let text = String::from_utf8(bytes).unwrap();
    for other in [text.replace("\n12\n", "\n012\n"), text.replace("44136f", "44136F"), format!("{text}\n")] {
        assert!(Entry::parse(other.as_bytes()).is_err(), "{other}");
    }
    assert!(Entry::new("", 1, b"").is_err() && Entry::new("a\nb", 1, b"").is_err());
}

#[test]
fn bundles_read_as_they_were_written() {
    let mut bytes = Vec::new();
    for entry in [&b"one"[..], b"", b"three"] {
        bundle(&mut bytes, entry).unwrap();
    }

    assert_eq!(unbundle(&bytes, 3).unwrap(), [&b"one"[..], b"", b"three"]);
    assert!(unbundle(&bytes, 2).is_err() && unbundle(&bytes, 4).is_err());
    for len in 0..bytes.len() {
        assert!(unbundle(&bytes[..len], 3).is_err(), "cut at {len}");
    }
    assert!(bundle(&mut bytes, &[0; 65_536]).is_err());
}

#[test]
fn the_root_says_who_signs_the_log() {
    let mut repo = relevo_meta::testing::TestRepo::new();
    repo.add_device("xiaomi", "ginkgo");
    repo.root.set_log(&log_key("log")).unwrap();
    repo.publish();
    let before = repo.refresh(&repo.stored_root(), relevo_meta::Scope::Everything);
    assert_eq!(before.result.unwrap().log_key(), None);
    repo.publish_root();

    let after = repo.refresh(&before.stored, relevo_meta::Scope::Everything).result.unwrap();

    assert_eq!(after.log_key(), Some(&log_key("log")));
    assert_eq!(after.devices().values().next().unwrap().roles, ["d-ginkgo"]);
    assert_eq!(after.log_key().unwrap().verifying_key(), key("log").public().verifying_key());
    assert_eq!(key("log").key_id().len(), 64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn trees_of_any_size_hold_together(old in 0_u64..3_000, more in 0_u64..3_000, at in 0_u64..3_000) {
        let log = Log::of(old + more);
        let (kept, offered) = (opened(&log.checkpoint(old)), opened(&log.checkpoint(old + more)));
        prop_assert!(compare(&kept, &offered, &log).is_ok());
        let size = old + more;
        if size > 0 {
            let index = at % size;
            let mut tiles = Tiles::new(size);
            let wanted = tiles.for_inclusion(index);
            prop_assert!(wanted.len() <= 4, "{} tiles", wanted.len());
            for tile in wanted {
                tiles.insert(&tile, &log.tile(&tile)).unwrap();
            }
            let leaf = leaf_hash(&log.entries[usize::try_from(index).unwrap()]);
            prop_assert!(verify_inclusion(leaf, index, size, &tiles.inclusion(index).unwrap(), &offered.root));
        }
    }

    #[test]
    fn bytes_from_anywhere_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Checkpoint::open(&bytes, &log_key("log"));
        let _ = Proof::parse(&bytes);
        let _ = Entry::parse(&bytes);
        let _ = unbundle(&bytes, 3);
        let _ = LogKey::parse(&String::from_utf8_lossy(&bytes));
    }
}
