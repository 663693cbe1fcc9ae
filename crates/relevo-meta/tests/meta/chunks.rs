//! Chunk lists: golden bytes, round trip, damage.

use proptest::prelude::*;
use relevo_meta::chunks::{
    Builder, ChunkError, ChunkList, DEFAULT_CHUNK, MAX_CHUNK, MAX_CHUNKS, MAX_LIST, MIN_CHUNK, chunk_size_for,
};
use relevo_types::ByteLen;

/// The list of a file of 65,537 zero bytes in chunks of 64 KiB, put together by hand from `sha256sum`.
const GOLDEN: &str = "5256433100000100010001000000000\
0de2f256064a0af797747c2b97505dc0b9f3df0de4f489eac731c23ae9ca9cc31\
6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d";

fn golden() -> Vec<u8> {
    (0..GOLDEN.len()).step_by(2).map(|at| u8::from_str_radix(&GOLDEN[at..at + 2], 16).unwrap()).collect()
}

fn length(bytes: usize) -> ByteLen {
    ByteLen::new(bytes as u64)
}

fn list(content: &[u8], chunk: ByteLen) -> ChunkList {
    let mut builder = Builder::new(length(content.len()), chunk).unwrap();
    builder.update(content).unwrap();
    builder.finish().unwrap()
}

#[test]
fn writes_and_reads_the_golden_list() {
    let content = vec![0; 65_537];

    let list = list(&content, MIN_CHUNK);

    assert_eq!(list.encode(), golden());
    assert_eq!(ChunkList::parse(&golden(), length(65_537)).unwrap(), list);
    assert_eq!((list.count(), list.range(1).unwrap()), (2, 65_536..65_537));
    list.check(0, &content[..65_536]).unwrap();
    list.check(1, &content[65_536..]).unwrap();
}

#[test]
fn refuses_a_chunk_of_other_length_or_content_or_place() {
    let mut content = vec![0; 65_537];
    let list = list(&content, MIN_CHUNK);
    content[7] = 1;

    assert!(matches!(list.check(0, &content[..65_536]), Err(ChunkError::ChunkHash { index: 0, .. })));
    assert!(matches!(list.check(0, &content[..65_535]), Err(ChunkError::ChunkLength { index: 0, .. })));
    assert!(matches!(list.check(1, &[1]), Err(ChunkError::ChunkHash { index: 1, .. })));
    assert!(matches!(list.check(2, &[]), Err(ChunkError::NoSuchChunk { index: 2, count: 2 })));
}

#[test]
fn refuses_a_list_cut_at_any_length_or_with_bytes_after_it() {
    let golden = golden();
    for cut in 0..golden.len() {
        let error = ChunkList::parse(&golden[..cut], length(65_537)).unwrap_err();

        assert!(matches!(error, ChunkError::Header(_) | ChunkError::ListLength { .. }), "{cut}: {error:?}");
    }
    let longer = [&golden[..], &[0]].concat();
    assert!(matches!(ChunkList::parse(&longer, length(65_537)), Err(ChunkError::ListLength { .. })));
}

#[test]
fn a_flipped_bit_in_the_header_is_an_error_and_in_a_hash_shows_at_the_chunk() {
    let golden = golden();
    let content = vec![0; 65_537];
    for position in 0..golden.len() {
        for bit in 0..8 {
            let mut flipped = golden.clone();
            flipped[position] ^= 1 << bit;

            let list = ChunkList::parse(&flipped, length(65_537));

            if position < 16 {
                assert!(list.is_err(), "byte {position}, bit {bit}");
            } else {
                let list = list.unwrap();
                let index = (position - 16) / 32;
                let range = list.range(index).unwrap();
                let chunk = &content[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
                assert!(matches!(list.check(index, chunk), Err(ChunkError::ChunkHash { .. })));
            }
        }
    }
}

#[test]
fn refuses_the_list_of_another_file() {
    let error = ChunkList::parse(&golden(), length(65_536)).unwrap_err();

    assert!(matches!(error, ChunkError::FileLength { .. }), "{error:?}");
}

#[test]
fn refuses_chunk_sizes_and_counts_beyond_the_limits_before_allocating() {
    for (size, file) in [(0u32, 1u64), (3 << 16, 1), (1 << 15, 1), (1 << 25, 1), (1 << 16, u64::MAX)] {
        let mut bytes = b"RVC1".to_vec();
        bytes.extend_from_slice(&size.to_le_bytes());
        bytes.extend_from_slice(&file.to_le_bytes());

        let error = ChunkList::parse(&bytes, ByteLen::new(file)).unwrap_err();

        assert!(matches!(error, ChunkError::ChunkSize(_) | ChunkError::TooMany { .. }), "{error:?}");
    }
}

#[test]
fn no_list_has_more_than_4096_chunks() {
    let files = [0, 1, 1 << 30, (1 << 30) + 1, 5 << 30, 64 << 30].map(ByteLen::new);
    let sizes = files.map(|length| chunk_size_for(length).unwrap());

    assert_eq!(sizes[..3], [DEFAULT_CHUNK; 3]);
    assert_eq!(sizes[3..], [ByteLen::kib(512), ByteLen::mib(2), MAX_CHUNK]);
    for (file, size) in files.iter().zip(sizes) {
        assert!(file.get().div_ceil(size.get()) <= MAX_CHUNKS);
    }
    assert!(matches!(chunk_size_for(ByteLen::new((64 << 30) + 1)), Err(ChunkError::TooMany { .. })));
    assert_eq!(MAX_LIST, ByteLen::new(16 + 4096 * 32));
}

#[test]
fn an_empty_file_has_no_chunks() {
    let list = ChunkList::for_reader(&[][..], ByteLen::ZERO).unwrap();

    assert_eq!(list.count(), 0);
    assert_eq!(ChunkList::parse(&list.encode(), ByteLen::ZERO).unwrap(), list);
}

#[test]
fn a_file_of_another_length_than_said_is_an_error() {
    for said in [4, 6] {
        let error = ChunkList::for_reader(&b"hello"[..], ByteLen::new(said)).unwrap_err();

        assert!(matches!(error, ChunkError::FileLength { .. }), "{error:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_back_however_it_was_fed(size in 0usize..300_000, seed: u8, step in 1usize..100_000) {
        let content: Vec<u8> = (0..251u8).cycle().map(|byte| byte ^ seed).take(size).collect();
        let whole = list(&content, MIN_CHUNK);
        let mut builder = Builder::new(length(size), MIN_CHUNK).unwrap();
        for piece in content.chunks(step) {
            builder.update(piece).unwrap();
        }

        prop_assert_eq!(&builder.finish().unwrap(), &whole);
        prop_assert_eq!(&ChunkList::parse(&whole.encode(), length(size)).unwrap(), &whole);
        for index in 0..whole.count() {
            let range = whole.range(index).unwrap();
            whole.check(index, &content[usize::try_from(range.start)?..usize::try_from(range.end)?]).unwrap();
        }
    }

    #[test]
    fn any_bytes_are_a_list_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200), file: u64) {
        if let Ok(list) = ChunkList::parse(&bytes, ByteLen::new(file)) {
            prop_assert_eq!(list.encode(), bytes);
        }
    }
}
