//! Hash trees and error correction: as avbtool and veritysetup make them, and by their definitions.

use std::{
    fs, io,
    sync::{Arc, RwLock},
};

use proptest::prelude::*;
use relevo_format::{
    ReadAt,
    payload::{Extent, Fec, HashTree, Sink, Verity},
    verity::{self, Computable, Plain, VerityError},
};
use relevo_types::ByteLen;
use sha2::{Digest as _, Sha256};

use crate::golden::{image, path};

const BLOCK: usize = 4096;

/// A partition in memory that can be read while it is written.
#[derive(Clone)]
struct Memory(Arc<RwLock<Vec<u8>>>);

impl Memory {
    fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(RwLock::new(bytes)))
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.read().unwrap().clone()
    }
}

impl ReadAt for Memory {
    fn len(&self) -> ByteLen {
        ReadAt::len(&*self.0.read().unwrap())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read().unwrap().read_exact_at(buf, offset)
    }
}

impl Sink for Memory {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        self.0.write().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

fn extent(start: u64, blocks: u64) -> Extent {
    Extent { start, blocks }
}

fn salt() -> Vec<u8> {
    (0x40..0x60).collect()
}

/// The blocks of `golden/make.py`.
fn contents(blocks: u32) -> Vec<u8> {
    (0..blocks).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes().repeat(BLOCK / 4)).collect()
}

fn hash_tree(data: u64, blocks: u64, algorithm: &str) -> HashTree {
    HashTree { data: extent(0, data), tree: extent(data, blocks), algorithm: algorithm.to_owned(), salt: salt() }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Overwrites what a phone would compute.
fn blank(image: &mut [u8], verity: &Verity) {
    for extent in verity.hash_tree.iter().map(|tree| tree.tree).chain(verity.fec.iter().map(|fec| fec.fec)) {
        let start = usize::try_from(extent.offset()).unwrap();
        image[start..start + usize::try_from(extent.len()).unwrap()].fill(0xa5);
    }
}

#[test]
fn what_avbtool_made_is_left_to_the_device_and_computed_again() {
    let cases = [
        ("system", (300, 4), Some((304, 4, 2))),
        ("vendor", (130, 3), Some((133, 2, 2))),
        ("product", (3, 1), None),
        ("odm", (228, 3), Some((231, 24, 24))),
    ];
    for (name, (data, tree), fec) in cases {
        let image = image(name);

        let verity = verity::left_to_device(&image).unwrap().unwrap();

        let fec = fec.map(|(start, blocks, roots)| Fec { data: extent(0, start), fec: extent(start, blocks), roots });
        let expected = Verity { hash_tree: Some(hash_tree(data, tree, "sha256")), fec };
        assert_eq!(verity, expected, "{name}");
        let mut blanked = image.clone();
        blank(&mut blanked, &verity);
        let memory = Memory::new(blanked);
        verity::compute(&verity, &memory, &memory).unwrap();
        assert!(memory.bytes() == image, "{name}");
    }
}

#[test]
fn what_has_no_hash_tree_is_left_to_nobody() {
    for name in ["boot", "recovery", "vbmeta"] {
        assert_eq!(verity::left_to_device(&image(name)).unwrap(), None, "{name}");
    }

    // It speaks of the hash trees of other partitions.
    assert!(matches!(verity::described(&image("vbmeta")).unwrap(), Err(Plain::NoFooter)));
    assert!(matches!(verity::described(&image("boot")).unwrap(), Err(Plain::NoHashtree)));
    assert!(matches!(verity::described(&vec![1; 3 * BLOCK]).unwrap(), Err(Plain::NoFooter)));
}

#[test]
fn a_tree_of_three_levels_is_as_veritysetup_makes_it() {
    let golden = fs::read_to_string(path("three-levels.txt")).unwrap();
    let mut lines = golden.lines().map(|line| line.split(' ').skip(1).collect::<Vec<_>>());
    let (root, tree_line, fec_line) = (lines.next().unwrap(), lines.next().unwrap(), lines.next().unwrap());
    let mut bytes = contents(16500);
    bytes.resize((16500 + 132 + 132) * BLOCK, 0);
    let memory = Memory::new(bytes);
    let verity = Verity {
        hash_tree: Some(hash_tree(16500, 132, "sha256")),
        fec: Some(Fec { data: extent(0, 16632), fec: extent(16632, 132), roots: 2 }),
    };

    verity::compute(&verity, &memory, &memory).unwrap();

    let made = memory.bytes();
    let (tree, fec) = made[16500 * BLOCK..].split_at(132 * BLOCK);
    assert_eq!(vec![sha256(tree), tree.len().to_string()], tree_line);
    assert_eq!(vec![sha256(fec), fec.len().to_string()], fec_line);
    assert_eq!(vec![sha256(&[&salt(), &tree[..BLOCK]].concat())], root);
}

#[test]
fn other_digests_are_as_veritysetup_makes_them() {
    for line in fs::read_to_string(path("other-digests.txt")).unwrap().lines() {
        let [algorithm, digest, len] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let blocks = len.parse::<usize>().unwrap() / BLOCK;
        let mut bytes = contents(300);
        bytes.resize((300 + blocks) * BLOCK, 0xa5);
        let memory = Memory::new(bytes);
        // update_engine compares names without regard to case.
        let hash_tree = hash_tree(300, blocks as u64, &algorithm.to_uppercase());

        verity::compute(&Verity { hash_tree: Some(hash_tree), fec: None }, &memory, &memory).unwrap();

        assert_eq!(sha256(&memory.bytes()[300 * BLOCK..]), digest, "{algorithm}");
    }
}

/// The tree over `data` by its definition, levels from the top.
fn plain_tree(data: &[u8], salt: &[u8]) -> Vec<u8> {
    let mut level: Vec<u8> =
        data.chunks(BLOCK).flat_map(|block| Sha256::digest([salt, block].concat()).to_vec()).collect();
    level.resize(level.len().next_multiple_of(BLOCK), 0);
    if level.len() == BLOCK {
        return level;
    }
    [plain_tree(&level, salt), level].concat()
}

fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(0x9e37_79b1).wrapping_add(0x7f4a_7c15);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

/// A value of the field times another.
fn times(a: u8, b: u8) -> u8 {
    let mut product = (0..8).filter(|bit| b >> bit & 1 == 1).fold(0_u16, |sum, bit| sum ^ (u16::from(a) << bit));
    for bit in (8..16).rev() {
        if product >> bit & 1 == 1 {
            product ^= 0x11d << (bit - 8);
        }
    }
    u8::try_from(product).unwrap()
}

/// Whether codewords, taken as polynomials, are zero at each root of the generator.
fn is_codeword(data: &[u8], parity: &[u8], roots: usize) -> bool {
    let stretches = 255 - roots;
    let rounds = (data.len() / BLOCK).div_ceil(stretches);
    assert_eq!(parity.len(), rounds * roots * BLOCK);
    // One in a few: all of them take seconds without optimisation.
    (0..rounds * BLOCK).step_by(37).all(|place| {
        let data = (0..stretches).map(|j| data.get(j * rounds * BLOCK + place).copied().unwrap_or(0));
        let word: Vec<u8> = data.chain(parity[place * roots..][..roots].iter().copied()).collect();
        let mut root = 1;
        (0..roots).all(|_| {
            let value = word.iter().fold(0, |value, &byte| times(value, root) ^ byte);
            root = times(root, 2);
            value == 0
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_is_what_its_definition_says(
        blocks in 1_usize..600, seed: u32, start in 0_u64..3, salt in proptest::collection::vec(any::<u8>(), 0..70),
    ) {
        let front = usize::try_from(start).unwrap() * BLOCK;
        let mut bytes: Vec<u8> = noise(front + blocks * BLOCK, seed);
        let expected = plain_tree(&bytes[front..], &salt);
        let data = extent(start, blocks as u64);
        let tree = extent(start + blocks as u64 + 1, (expected.len() / BLOCK) as u64);
        bytes.resize(bytes.len() + BLOCK, 0x11);
        let kept = bytes.clone();
        bytes.resize(bytes.len() + expected.len(), 0xa5);
        let memory = Memory::new(bytes);

        let hash_tree = HashTree { data, tree, algorithm: "sha256".to_owned(), salt };
        verity::compute(&Verity { hash_tree: Some(hash_tree), fec: None }, &memory, &memory).unwrap();

        prop_assert!(memory.bytes() == [kept, expected].concat());
    }

    #[test]
    fn parity_makes_codewords_of_what_it_covers(blocks in 1_usize..530, roots in 2_u32..=24, seed: u32) {
        let data: Vec<u8> = noise(blocks * BLOCK, seed);
        let roots_len = usize::try_from(roots).unwrap();
        let parity = blocks.div_ceil(255 - roots_len) * roots_len;
        let mut bytes = data.clone();
        bytes.resize((blocks + parity) * BLOCK, 0xa5);
        let memory = Memory::new(bytes);
        let fec = Fec { data: extent(0, blocks as u64), fec: extent(blocks as u64, parity as u64), roots };

        verity::compute(&Verity { hash_tree: None, fec: Some(fec) }, &memory, &memory).unwrap();

        let made = memory.bytes();
        prop_assert!(made[..data.len()] == data[..]);
        prop_assert!(is_codeword(&data, &made[data.len()..], roots_len));
    }
}

#[test]
fn a_changed_block_is_carried() {
    let whole = image("system");
    let computable = |at: usize| {
        let mut image = whole.clone();
        image[at] ^= 1;
        let hashtree = verity::described(&image).unwrap().unwrap();
        let left = verity::left_to_device(&image).unwrap();
        (verity::computable(&image, &hashtree).unwrap(), left)
    };

    // In the data: the tree is of something else, and so is the error correction.
    let (Computable { hash_tree, fec }, left) = computable(200 * BLOCK + 5);
    assert!(matches!(hash_tree, Err(Plain::Differs { what: "the hash tree", .. })));
    assert!(matches!(fec, Some(Err(Plain::Differs { what: "the error correction", .. }))));
    assert_eq!(left, None);
    // In what no digest fills of the tree's last block.
    let (Computable { hash_tree, .. }, left) = computable(304 * BLOCK - 1);
    assert!(matches!(hash_tree, Err(Plain::Differs { at, .. }) if at == 304 * BLOCK as u64 - 1));
    assert_eq!(left, None);
    // In the error correction: the tree can still be left.
    let (Computable { hash_tree, fec }, left) = computable(307 * BLOCK);
    assert!(hash_tree.is_ok());
    assert!(matches!(fec, Some(Err(Plain::Differs { at, .. })) if at == 307 * BLOCK as u64));
    assert_eq!(left, Some(Verity { hash_tree: hash_tree.ok(), fec: None }));
    // Behind it is the vbmeta image, of which the release string is not needed, and an empty block.
    assert!(computable(308 * BLOCK + 130).1.is_some());
}

#[test]
fn refuses_what_does_not_fit_together() {
    let memory = Memory::new(vec![0; 320 * BLOCK]);
    let tree = hash_tree(300, 4, "sha256");
    let fec = Fec { data: extent(0, 304), fec: extent(304, 4), roots: 2 };
    let good = Verity { hash_tree: Some(tree.clone()), fec: Some(fec.clone()) };
    let with_tree = |change: &dyn Fn(&mut HashTree)| {
        let mut tree = tree.clone();
        change(&mut tree);
        let untouched = memory.bytes();
        let error = verity::compute(&Verity { hash_tree: Some(tree), ..good.clone() }, &memory, &memory).unwrap_err();
        assert!(memory.bytes() == untouched, "{error}");
        error
    };
    let with_fec = |change: &dyn Fn(&mut Fec)| {
        let mut fec = fec.clone();
        change(&mut fec);
        let untouched = memory.bytes();
        let error = verity::compute(&Verity { fec: Some(fec), ..good.clone() }, &memory, &memory).unwrap_err();
        assert!(memory.bytes() == untouched, "{error}");
        error
    };

    assert!(matches!(with_tree(&|tree| tree.algorithm = "md5".into()), VerityError::Algorithm(name) if name == "md5"));
    assert!(matches!(with_tree(&|tree| tree.salt = vec![0; 257]), VerityError::Salt(257)));
    assert!(matches!(with_tree(&|tree| tree.tree.start = 317), VerityError::Beyond { end: 321, blocks: 320, .. }));
    assert!(matches!(with_tree(&|tree| tree.data.blocks = u64::MAX), VerityError::Beyond { .. }));
    assert!(matches!(with_tree(&|tree| tree.data.start = 1), VerityError::Order { start: 300, end: 301, .. }));
    assert!(matches!(with_tree(&|tree| tree.tree.blocks = 3), VerityError::Size { expected: 4, actual: 3, .. }));
    assert!(matches!(with_fec(&|fec| fec.roots = 1), VerityError::Roots(1)));
    assert!(matches!(with_fec(&|fec| fec.roots = 255), VerityError::Roots(255)));
    assert!(matches!(with_fec(&|fec| fec.fec.start = 318), VerityError::Beyond { end: 322, blocks: 320, .. }));
    assert!(matches!(with_fec(&|fec| fec.fec.start = 303), VerityError::Order { start: 303, end: 304, .. }));
    assert!(matches!(with_fec(&|fec| fec.fec.blocks = 6), VerityError::Size { expected: 4, actual: 6, .. }));
    verity::compute(&good, &memory, &memory).unwrap();
}
