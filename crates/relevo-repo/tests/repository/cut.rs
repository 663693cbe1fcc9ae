//! Lists of chunks: golden bytes, round trips, damage, and where files are cut.

use proptest::prelude::*;
use relevo_meta::Target;
use relevo_repo::push::{Chunk, CutError, CutList, MAX_CHUNK};
use relevo_types::{ByteLen, Sha256};

/// A list of two chunks of 1 and 2 bytes, as docs/format.md shows it.
const GOLDEN: &str = "52564b31 02000000 0300000000000000 \
    01000000 ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb \
    02000000 68d617d6d2ee5715af77d9795566cfaba9a43a33d14cbbc95831c507c935bad1";

fn golden() -> Vec<u8> {
    let digits: Vec<char> = GOLDEN.chars().filter(|c| !c.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

fn sha256(bytes: &[u8]) -> Sha256 {
    Target::of(bytes).sha256
}

#[test]
fn reads_the_golden_list_and_writes_it_again() {
    let list = CutList::parse(&golden()).unwrap();

    assert_eq!(list.length(), ByteLen::new(3));
    let one = Chunk { offset: 0, length: 1, sha256: sha256(b"a") };
    let two = Chunk { offset: 1, length: 2, sha256: sha256(b"yz") };
    assert_eq!(list.chunks(), [one, two]);
    assert_eq!(list.encode(), golden());
}

#[test]
fn refuses_damage() {
    let golden = golden();
    for len in 0..golden.len() {
        assert!(CutList::parse(&golden[..len]).is_err(), "{len}");
    }
    let mut more = golden.clone();
    more.push(0);
    assert!(matches!(CutList::parse(&more), Err(CutError::ListLength { .. })));
    for at in 0..golden.len() {
        let mut bytes = golden.clone();
        bytes[at] ^= 1;
        // A digest is as good as any other here: the chunks are held against it later.
        let in_a_digest = (20..52).contains(&at) || at >= 56;
        assert_eq!(CutList::parse(&bytes).is_ok(), in_a_digest, "{at}");
    }
    let huge = [&b"RVK1"[..], &u32::MAX.to_le_bytes(), &0_u64.to_le_bytes()].concat();
    assert_eq!(CutList::parse(&huge), Err(CutError::TooMany(u32::MAX)));
    assert!(CutList::whole(ByteLen::ZERO, sha256(b"")).is_err());
    assert!(CutList::whole(ByteLen::new(u64::from(MAX_CHUNK) + 1), sha256(b"")).is_err());
}

proptest! {
    #[test]
    fn chunks_are_the_file(seed: u64, len in 0_usize..400_000) {
        let bytes: Vec<u8> = (0..len as u64).map(|at| (at.wrapping_mul(seed | 1) >> 11).to_le_bytes()[0]).collect();

        let list = CutList::of(&bytes, &mut |_| {}).unwrap();

        prop_assert_eq!(list.length().get(), len as u64);
        let mut end = 0;
        for chunk in list.chunks() {
            prop_assert_eq!(chunk.offset, end);
            end += u64::from(chunk.length);
            let (from, to) = (usize::try_from(chunk.offset).unwrap(), usize::try_from(end).unwrap());
            prop_assert_eq!(chunk.sha256, sha256(&bytes[from..to]));
        }
        prop_assert_eq!(end, len as u64);
        prop_assert_eq!(CutList::parse(&list.encode()).unwrap(), list);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = [&b"RVK1"[..], &bytes].concat();
        if let Ok(list) = CutList::parse(&bytes) {
            prop_assert_eq!(list.encode(), bytes);
        }
    }
}
