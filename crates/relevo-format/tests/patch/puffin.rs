//! `PUF1`.

use relevo_format::patch::{
    Codec, DeflateError, Limits, PatchError,
    bsdiff::{self, Format, Match},
    puffin::apply,
};
use relevo_types::ByteLen;

use crate::{
    bits::Bits,
    golden,
    message::{field, varint},
};

fn run(old: &[u8], patch: &[u8]) -> Result<Vec<u8>, PatchError> {
    let mut out = Vec::new();
    apply(&old, patch, &mut out, &Limits { output: ByteLen::mib(1), memory: ByteLen::mib(1) })?;
    Ok(out)
}

/// The puff of `Bits::fixed`.
const FIXED: &[u8] = &[0, 0, 0xa0, 0, b'a', 0x80, 0, 0, 0xff, 0x81];
const FIXED_BITS: u64 = 30;

/// Bits and bytes: where deflate streams and their puffs are.
#[derive(Clone, Default)]
struct Side {
    deflates: Vec<(u64, u64)>,
    puffs: Vec<(u64, u64)>,
    puffed_len: u64,
}

impl Side {
    /// A file without deflate streams.
    fn plain(len: usize) -> Self {
        Self { puffed_len: len as u64, ..Self::default() }
    }

    fn message(&self) -> Vec<u8> {
        let extent = |&(offset, len): &(u64, u64)| [&[8], &varint(offset)[..], &[16], &varint(len)[..]].concat();
        let mut out: Vec<u8> = self.deflates.iter().flat_map(|deflate| field(1, &extent(deflate))).collect();
        out.extend(self.puffs.iter().flat_map(|&(offset, len)| field(2, &extent(&(offset * 8, len * 8)))));
        out.extend([&[24], &varint(self.puffed_len)[..]].concat());
        out
    }
}

fn pack(old: &Side, new: &Side, inner: &[u8]) -> Vec<u8> {
    let header = [&[8, 1], &field(2, &old.message())[..], &field(3, &new.message())].concat();
    [&b"PUF1"[..], &u32::try_from(header.len()).unwrap().to_be_bytes(), &header, inner].concat()
}

/// A patch that makes a file of its bytes with puffs, out of nothing.
fn from_nothing(new: &Side, puffed: &[u8]) -> Vec<u8> {
    let all = [Match { old: 0, new: 0, len: 0, extra: puffed.len() }];
    pack(&Side::plain(0), new, &bsdiff::write(b"", puffed, &all, Format::Bsdf2([Codec::Bzip2; 3])))
}

/// A file with two blocks of fixed codes within bytes, one right after the other, and a stored block; where they are;
/// and its bytes with puffs.
fn file() -> (Vec<u8>, Side, Vec<u8>) {
    let mut bits = Bits::default();
    bits.put(5, 3).fixed().fixed().put(1, 1);
    bits.put(0x1234, 16);
    bits.put(0, 3).put(21, 5).put(3, 16).put(0xfffc, 16).put(u32::from_le_bytes(*b"xyz\0"), 24);
    bits.put(0x77, 8);

    let stored = &[0, 0, 21, 2, b'x', b'y', b'z', 0xff, 0x81][..];
    let puffed = [&[5], FIXED, FIXED, &[1, 0x34, 0x12], stored, &[0x77]].concat();
    let side = Side {
        deflates: vec![(3, FIXED_BITS), (33, FIXED_BITS), (80, 64)],
        puffs: vec![(1, 10), (11, 10), (24, 9)],
        puffed_len: puffed.len() as u64,
    };
    (bits.bytes(), side, puffed)
}

#[test]
fn applies_what_aosp_made() {
    let [old, new, patch] = ["17.old", "17.new", "17.puf1"].map(golden::read);

    assert!(run(&old, &patch).unwrap() == new);
}

#[test]
fn makes_deflate_streams_that_share_bytes() {
    let (file, side, puffed) = file();

    assert_eq!(run(b"", &from_nothing(&side, &puffed)).unwrap(), file);
}

#[test]
fn reads_deflate_streams_that_share_bytes() {
    let (file, side, puffed) = file();
    // Every start in the file with puffs, so that each byte is also the first of a read.
    for start in 0..puffed.len() {
        let tail = &puffed[start..];
        let all = [Match { old: start, new: 0, len: tail.len(), extra: 0 }];
        let inner = bsdiff::write(&puffed, tail, &all, Format::Bsdiff40);

        assert_eq!(run(&file, &pack(&side, &Side::plain(tail.len()), &inner)).unwrap(), tail, "from {start}");
    }
}

#[test]
fn a_patch_cut_short_is_an_error() {
    let [old, patch] = ["17.old", "17.puf1"].map(golden::read);
    for len in 0..patch.len() {
        assert!(run(&old, &patch[..len]).is_err(), "cut to {len} bytes");
    }
}

#[test]
fn a_changed_byte_is_an_error_or_another_target_of_the_same_length() {
    let [old, new, patch] = ["17.old", "17.new", "17.puf1"].map(golden::read);
    for at in 0..patch.len() {
        let mut patch = patch.clone();
        patch[at] ^= 0x55;
        // Neither brotli nor puffs have checksums. Who applies a patch compares the target's hash.
        if let Ok(out) = run(&old, &patch) {
            assert_eq!(out.len(), new.len(), "byte {at}");
        }
    }
}

#[test]
fn a_changed_byte_of_a_puff_is_an_error_or_another_target() {
    let (file, side, puffed) = file();
    for at in 0..puffed.len() {
        for change in [1, 0x55, 0x80] {
            let mut puffed = puffed.clone();
            puffed[at] ^= change;
            assert!(run(b"", &from_nothing(&side, &puffed)).map_or(true, |out| out != file), "byte {at}");
        }
    }
}

#[test]
fn a_changed_byte_of_the_old_file_is_an_error_or_another_puff() {
    let (file, side, puffed) = file();
    let all = [Match { old: 0, new: 0, len: puffed.len(), extra: 0 }];
    let patch = pack(&side, &Side::plain(puffed.len()), &bsdiff::write(&puffed, &puffed, &all, Format::Bsdiff40));
    for at in 0..file.len() {
        let mut file = file.clone();
        file[at] ^= 0x55;
        assert!(run(&file, &patch).map_or(true, |out| out != puffed), "byte {at}");
    }
}

#[test]
fn refuses_extents_that_cannot_be() {
    let (file, good, puffed) = file();
    let changes: [fn(&mut Side); 8] = [
        |side| side.deflates.swap(0, 1),
        |side| side.deflates[1].0 -= 1,
        |side| side.deflates[2].1 = u64::MAX,
        |side| side.puffs[1].0 += 1,
        |side| side.puffs[2].0 = 0,
        |side| side.puffs.truncate(2),
        |side| side.puffed_len -= 2,
        |side| side.puffed_len = u64::MAX,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut side = good.clone();
        change(&mut side);

        let made = run(b"", &from_nothing(&side, &puffed));
        assert!(matches!(made, Err(PatchError::Extents { .. } | PatchError::Output { .. })), "{index}: {made:?}");
        let read = run(&file, &pack(&side, &Side::plain(0), &bsdiff::write(b"", b"", &[], Format::Bsdiff40)));
        assert!(matches!(read, Err(PatchError::Extents { .. })), "{index}: {read:?}");
    }
}

#[test]
fn refuses_a_puff_over_the_limit() {
    let side = Side { deflates: vec![(0, 8)], puffs: vec![(0, 1 << 40)], puffed_len: 1 << 40 };

    assert!(matches!(run(b"x", &from_nothing(&side, b"")), Err(PatchError::Memory { .. })));
}

#[test]
fn refuses_a_puff_of_another_length_than_announced() {
    let (file, mut side, _) = file();
    side.puffs.truncate(1);
    side.deflates.truncate(1);
    for len in [9, 11] {
        side.puffs[0].1 = len;
        side.puffed_len = 1 + len + 15;
        let all = [Match { old: 0, new: 0, len: 12, extra: 0 }];
        let inner = bsdiff::write(&[0; 12], &[0; 12], &all, Format::Bsdiff40);
        let made = run(&file, &pack(&side, &Side::plain(12), &inner));

        assert!(matches!(made, Err(PatchError::Deflate(DeflateError::Length { .. }))), "{made:?}");
    }
}

#[test]
fn refuses_bits_that_are_not_of_the_gap() {
    let (_, side, mut puffed) = file();
    puffed[0] |= 8;

    assert!(matches!(run(b"", &from_nothing(&side, &puffed)), Err(PatchError::Extents { .. })));
}

#[test]
fn refuses_another_magic_and_an_unknown_version() {
    assert!(matches!(run(b"", b"PUF2\0\0\0\0"), Err(PatchError::Magic { .. })));
    assert!(matches!(run(b"", b"PUF1\0\0\0\x02\x08\x02"), Err(PatchError::Version(2))));
}
