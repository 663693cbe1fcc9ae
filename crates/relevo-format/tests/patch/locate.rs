//! Finding deflate streams, and writing `PUF1` with them.

use std::io::Write as _;

use flate2::{Compression, write::DeflateEncoder};
use proptest::prelude::*;
use relevo_format::patch::{
    Limits,
    bsdiff::{self, Format, Match},
    locate::{self, Deflate, cut, deflates, drop_equal},
    puffin::{self, apply, puff},
};

use crate::{bits::Bits, golden};

fn find(bytes: &[u8]) -> Vec<Deflate> {
    deflates(bytes, &locate::Limits::default())
}

fn deflated(raw: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(raw).unwrap();
    encoder.finish().unwrap()
}

/// A local header and what follows it; `len` is what the header says of its length.
fn entry(data: &[u8], flags: u16, len: u32) -> Vec<u8> {
    let mut out = b"PK\x03\x04\x14\0".to_vec();
    out.extend(flags.to_le_bytes());
    out.extend(8_u16.to_le_bytes());
    out.extend([0; 8]);
    out.extend(len.to_le_bytes());
    out.extend(1234_u32.to_le_bytes());
    out.extend(b"\x05\0\x03\0name1xtr");
    out.extend_from_slice(data);
    out
}

fn sized(data: &[u8]) -> Vec<u8> {
    entry(data, 0, u32::try_from(data.len()).unwrap())
}

fn member(raw: &[u8], level: u32) -> Vec<u8> {
    let mut out = b"\x1f\x8b\x08\x1f\0\0\0\0\x02\x03\x02\0xxname\0comment\0cc".to_vec();
    // A field of two bytes and a checksum of the header, before and after the texts.
    out.extend(deflated(raw, level));
    out.extend([0; 4]);
    out.extend(u32::try_from(raw.len()).unwrap().to_le_bytes());
    out
}

/// Text that does not repeat too much.
fn text(seed: u32, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut word = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ["ro.product.", "vendor=", "android:", "\n", "0x7f0a", "<item name=", "build", "\"/>\n"][(state >> 29) as usize]
    };
    let mut out = Vec::new();
    while out.len() < len {
        out.extend(word().bytes());
        out.extend(word().bytes().map(|byte| byte ^ 1));
    }
    out.truncate(len);
    out
}

/// Makes a patch between the files and applies it. The matches are as poor as can be: equal bytes from the start.
fn patched(old: &[u8], old_deflates: &[Deflate], new: &[u8], new_deflates: &[Deflate]) -> Vec<u8> {
    let (old_puffed, new_puffed) = (puff(old, old_deflates).unwrap(), puff(new, new_deflates).unwrap());
    let len = old_puffed.stream.len().min(new_puffed.stream.len());
    let all = [Match { old: 0, new: 0, len, extra: new_puffed.stream.len() - len }];
    let inner = bsdiff::write(&old_puffed.stream, &new_puffed.stream, &all, Format::Bsdiff40);
    let mut out = Vec::new();
    apply(&old, &puffin::write(&old_puffed, &new_puffed, &inner), &mut out, &Limits::default()).unwrap();
    out
}

#[test]
fn finds_the_blocks_that_aosp_found() {
    let [old, new, patch] = ["17.old", "17.new", "17.puf1"].map(golden::read);

    // The patch between AOSP's puffs has to fit between ours.
    let header_len = u32::from_be_bytes(*patch[4..].first_chunk().unwrap()) as usize;
    let [old_puffed, new_puffed] = [&old, &new].map(|file| puff(file, &find(file)).unwrap().stream);
    let mut out = Vec::new();
    bsdiff::apply(&old_puffed, &patch[8 + header_len..], &mut out, &Limits::default()).unwrap();

    assert!(out == new_puffed);
    assert!(patched(&old, &find(&old), &new, &find(&new)) == new);
}

#[test]
fn finds_zip_entries_whatever_their_header_says_of_sizes() {
    let data = deflated(&text(1, 3000), 6);
    for file in [sized(&data), entry(&data, 8, 0), entry(&data, 8, 77), entry(&data, 0, u32::MAX), entry(&data, 0, 0)] {
        let found = find(&[b"PK\x03junk", &file[..], b"PK\x01\x02 and more"].concat());

        assert!(!found.is_empty());
        assert_eq!(found[0].bit, 8 * (7 + 38));
        assert_eq!(found.last().unwrap().end().div_ceil(8), 7 + 38 + data.len() as u64);
    }
}

#[test]
fn leaves_what_is_no_stream_of_that_length() {
    let data = deflated(&text(1, 3000), 6);
    let mut short = member(&text(2, 999), 9);
    let last = short.len() - 1;
    short[last] ^= 1;

    assert_eq!(find(&entry(&data, 0, 17)), []);
    assert_eq!(find(&entry(&data, 1, 0)), [], "encrypted");
    assert_eq!(find(&entry(&data[..data.len() - 1], 8, 0)), [], "cut short");
    assert_eq!(find(&short), []);
    assert_eq!(find(b"PK\x03\x04"), []);
    assert_eq!(find(b""), []);
}

#[test]
fn finds_gzip_members_anywhere() {
    let (first, second) = (member(&text(3, 40_000), 9), member(&text(4, 500), 1));
    let file = [&[0; 100][..], &first, &second, &[0xd0, 0x0d]].concat();

    let found = find(&file);

    assert!(found.iter().any(|deflate| deflate.end() < 8 * (100 + first.len() as u64)));
    assert!(found.iter().any(|deflate| deflate.bit > 8 * (100 + first.len() as u64)));
    assert_eq!(patched(b"old", &[], &file, &found), file);
}

#[test]
fn finds_archives_stored_in_archives() {
    let inner = sized(&deflated(&text(5, 800), 6));
    let mut outer = entry(&inner, 0, u32::try_from(inner.len()).unwrap());
    outer[8] = 0;

    assert_eq!(find(&outer)[0].bit, 8 * (38 + 38));
}

#[test]
fn a_length_that_would_be_written_otherwise_stays_as_it_is() {
    // `a`, then 258 bytes from one byte back: once as 258 + 0, once as 227 + 31.
    let block = |bits: &mut Bits, is_odd: bool| {
        bits.put(1, 1).put(1, 2).code(0x30 + u32::from(b'a'), 8);
        if is_odd {
            bits.code(0xc4, 8).put(31, 5)
        } else {
            bits.code(0xc5, 8)
        };
        bits.code(0, 5).code(0, 7);
    };
    let stream = |is_odd: bool| {
        let mut bits = Bits::default();
        block(&mut bits, is_odd);
        bits.padded()
    };

    assert_eq!(find(&entry(&stream(false), 8, 0)).len(), 1);
    assert_eq!(find(&entry(&stream(true), 8, 0)), []);
}

/// A block of dynamic codes with distances of up to 15 bits, that ends soon after one of a bit.
fn dynamic(bits: &mut Bits, is_last: bool) -> &mut Bits {
    bits.put(u32::from(is_last), 1).put(2, 2).put(1, 5).put(15, 5).put(15, 4);
    for symbol in [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15] {
        bits.put(if [16, 17, 0].contains(&symbol) { 0 } else { 4 }, 3);
    }
    // 97 literals without a code, `a`, 158 without one, the end, length 3; 16 distances.
    bits.code(15, 4).put(97 - 11, 7).code(1, 4).code(15, 4).put(127, 7).code(15, 4).put(9, 7).code(0, 4).code(1, 4);
    (1..=15).for_each(|length| {
        bits.code(length - 1, 4);
    });
    bits.code(14, 4);
    // `a`; three bytes from one back; the end.
    bits.code(2, 2).code(3, 2).code(0, 1).code(0, 1)
}

#[test]
fn a_block_that_old_phones_read_beyond_is_not_the_last_of_a_run() {
    let mut alone = Bits::default();
    dynamic(&mut alone, true);
    let alone = entry(&alone.padded(), 8, 0);
    let mut followed = Bits::default();
    dynamic(&mut followed, false).fixed();
    let followed = entry(&followed.padded(), 8, 0);

    let (found, more) = (find(&alone), find(&followed));

    assert_eq!(found.len(), 1);
    assert!(found[0].beyond > 7);
    assert_eq!(puff(&alone, &found).unwrap().stream, alone, "it stays as it is");
    assert_eq!(more.len(), 2);
    assert_ne!(puff(&followed, &more).unwrap().stream, followed);
    assert_eq!(patched(&alone, &found, &followed, &more), followed);
    assert_eq!(patched(&followed, &more, &alone, &found), alone);
}

#[test]
fn a_piece_has_the_blocks_that_lie_in_it() {
    let deflate = |bit, bits| Deflate { bit, bits, puff_len: 1, beyond: 0 };
    let all = [deflate(80, 20), deflate(100, 60), deflate(160, 3), deflate(400, 800)];

    assert_eq!(cut(&all, [0..500, 500..1000], 0), all);
    assert_eq!(cut(&all, [10..15, 15..21, 60..1000], 5), [deflate(40, 20), deflate(60, 60), deflate(120, 3)]);
    assert_eq!(cut(&all, [20..21, 12..20, 50..150], 0), [deflate(0, 3), deflate(12, 60), deflate(72, 800)]);
    assert_eq!(cut(&all, [], 7), []);
}

#[test]
fn blocks_that_both_files_have_stay_as_they_are() {
    let [first, second, third] = [1, 2, 3].map(|seed| sized(&deflated(&text(seed, 5000), 6)));
    let (old, new) = ([&first[..], &second].concat(), [&third[..], &first].concat());
    let (mut old_deflates, mut new_deflates) = (find(&old), find(&new));

    drop_equal(&old, &mut old_deflates, &new, &mut new_deflates);

    assert!(old_deflates.iter().all(|deflate| deflate.bit >= 8 * first.len() as u64));
    assert!(!old_deflates.is_empty());
    assert!(new_deflates.iter().all(|deflate| deflate.end() <= 8 * third.len() as u64));
    assert!(!new_deflates.is_empty());
    assert_eq!(patched(&old, &old_deflates, &new, &new_deflates), new);
}

#[test]
fn streams_that_go_wrong_everywhere_end_the_search() {
    // Each header begins a stream that goes on to the damaged end of the file.
    let mut file = Vec::new();
    for _ in 0..2000 {
        file.extend(b"PK\x03\x04\x14\0\x08\0\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    }
    file.extend(deflated(&text(9, 100_000), 1));
    file.pop();

    assert_eq!(find(&file), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_found_comes_back(
        entries in proptest::collection::vec((any::<u32>(), 0_usize..30_000, 0_u32..10, any::<bool>(), 0_u8..8), 1..5),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 2),
    ) {
        let mut file = Vec::new();
        for (seed, len, level, is_zip, noise) in entries {
            let mut raw = text(seed, len);
            raw.iter_mut().step_by(1 << noise).for_each(|byte| *byte = byte.wrapping_mul(31).wrapping_add(noise));
            file.extend(if is_zip { sized(&deflated(&raw, level)) } else { member(&raw, level) });
        }
        let found = find(&file);

        prop_assert!(patched(b"", &[], &file, &found) == file);
        prop_assert!(patched(&file, &found, b"new", &[]) == b"new");
        prop_assert!(patched(&file, &found, &file, &found) == file);

        // And so do pieces.
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(file.len() + 1)).collect();
        cuts.sort_unstable();
        let piece = [&file[cuts[1]..], &file[..cuts[0]]].concat();
        let ranges = [cuts[1]..file.len(), 0..cuts[0]].map(|range| range.start as u64..range.end as u64);
        let inside = cut(&found, ranges, 0);
        prop_assert!(patched(b"", &[], &piece, &inside) == piece);
    }

    #[test]
    fn bytes_of_any_kind_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..300), start in 0_usize..3) {
        let file = [&[entry(b"", 8, 0), member(b"", 0)[..22].to_vec(), Vec::new()][start][..], &bytes].concat();

        prop_assert_eq!(patched(b"", &[], &file, &find(&file)), file);
    }
}
