//! Hash trees and error correction: left to phones that know how, and made by operations for the others.

use relevo_delta::ab::{Generated, Options};
use relevo_format::payload::Verity;

use crate::{
    avb::{self, image},
    support::{Build, made, noise},
};

const BLOCK: usize = 4096;
/// Blocks of data, of the tree over them, and of the error correction.
const DATA: u64 = 300;
const TREE: u64 = 4;
const FEC: u64 = 4;

fn bytes(blocks: u64) -> usize {
    usize::try_from(blocks).unwrap() * BLOCK
}

fn expected() -> Verity {
    assert_eq!(avb::bounds(DATA), [DATA, DATA + TREE, DATA + TREE + FEC]);
    avb::left(DATA)
}

fn builds() -> (Build, Build) {
    let old = noise(bytes(DATA), 1);
    let mut new = old.clone();
    new[bytes(90)..bytes(110)].copy_from_slice(&noise(bytes(20), 2));
    (Build::from([("system", image(old))]), Build::from([("system", image(new))]))
}

/// Bytes of all data.
fn stored(generated: &Generated) -> u64 {
    use relevo_format::ReadAt;

    generated.blobs.len().get()
}

#[test]
fn what_phones_compute_is_left_to_them_from_minor_version_6_on() {
    let (old, new) = builds();

    for minor in [5, 6, 9] {
        let generated = made(&old, &new, &Options { minor, ..Options::default() });

        let left = (minor >= 6).then(expected);
        assert_eq!(generated.partitions[0].verity, left, "{minor}");
        assert_eq!(generated.report.warnings, [""; 0]);
        // Twenty new blocks, and of the tree and the error correction next to all.
        let most = bytes(20) + if minor < 6 { bytes(TREE + FEC) } else { 0 };
        let least = if minor < 6 { bytes(20 + FEC) } else { bytes(20) };
        assert!((least as u64..most as u64 + 4000).contains(&stored(&generated)), "{minor}: {}", stored(&generated));
    }
}

#[test]
fn nothing_is_left_where_it_was_not_asked_for_or_in_a_full_payload() {
    let (old, new) = builds();

    let generated = made(&old, &new, &Options { verity: false, ..Options::default() });
    assert_eq!(generated.partitions[0].verity, None);
    let generated = made(&Build::new(), &new, &Options::default());
    assert_eq!(generated.partitions[0].verity, None);
}

#[test]
fn what_a_phone_would_compute_otherwise_is_carried_with_a_warning() {
    let (old, new) = builds();
    let damaged = |block: u64| {
        let mut new = new.clone();
        new.get_mut("system").unwrap()[bytes(block) + 9] ^= 1;
        made(&old, &new, &Options::default())
    };

    let tree = damaged(DATA);
    assert_eq!(tree.partitions[0].verity, None);
    assert_eq!(
        tree.report.warnings,
        [
            "system carries its hash tree: the hash tree is not what a phone would compute; byte 1228809 is the first that \
          was seen to differ"
        ]
    );
    let fec = damaged(DATA + TREE + 1);
    assert_eq!(fec.partitions[0].verity, Some(Verity { fec: None, ..expected() }));
    assert!(fec.report.warnings[0].starts_with("system carries its error correction: "), "{:?}", fec.report.warnings);
    assert_eq!(fec.report.warnings.len(), 1);
}

#[test]
fn a_footer_that_is_none_is_plain_bytes() {
    let (old, mut new) = builds();
    let image = new.get_mut("system").unwrap();
    let footer = image.len() - 64;
    image[footer + 20..footer + 28].fill(0xff);

    let generated = made(&old, &new, &Options::default());

    assert_eq!(generated.partitions[0].verity, None);
    assert!(generated.report.warnings[0].starts_with("system carries its hash tree: the image's AVB footer"));
}
