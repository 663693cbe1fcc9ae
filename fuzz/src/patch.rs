//! Patches of AOSP.
//!
//! The first byte of an input says what the rest is: 0 for an old file and a patch as they are, else parts that a patch is
//! made of, so that a fuzzer gets behind the compressed streams.

use relevo_format::{
    fs::{Cluster, Coding},
    patch::{DeflateError, Limits, PatchError, bsdiff, locate as find, lz4diff as lz4, puffin as puf, zucchini as zuc},
};
use relevo_types::ByteLen;

const MAX_OUTPUT: u32 = 1;

fn limits() -> Limits {
    Limits { output: ByteLen::mib(MAX_OUTPUT), memory: ByteLen::mib(4) }
}

/// Splits off as many bytes as the first two say, or all.
fn part<'a>(data: &mut &'a [u8]) -> &'a [u8] {
    let Some((len, rest)) = data.split_first_chunk() else { return std::mem::take(data) };
    let (part, rest) = rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()));
    *data = rest;
    part
}

/// A brotli stream that holds `raw`, of at most 64 KiB, as it is.
fn stored(raw: &[u8]) -> Vec<u8> {
    let Some(last) = raw.len().checked_sub(1) else { return vec![6] };
    // A window of 64 KiB; no last block, of so many bytes, not compressed; then the last one, empty.
    let head = u32::try_from(last).expect("64 KiB") << 4 | 1 << 20;
    [&head.to_le_bytes()[..3], raw, &[3]].concat()
}

/// A patch of raw streams.
fn pack(control: &[u8], diff: &[u8], extra: &[u8], new_len: u64) -> Vec<u8> {
    let [control, diff, extra] = [control, diff, extra].map(stored);
    let lengths = [control.len() as u64, diff.len() as u64, new_len].map(u64::to_le_bytes).concat();
    [&b"BSDF2\x02\x02\x02"[..], &lengths, &control, &diff, &extra].concat()
}

/// A patch that makes `new` out of anything, of at most 64 KiB.
fn from_nothing(new: &[u8]) -> Vec<u8> {
    let control = [0, new.len() as u64, 0].map(u64::to_le_bytes).concat();
    pack(if new.is_empty() { &[] } else { &control }, &[], new, new.len() as u64)
}

type Apply = fn(&dyn relevo_format::ReadAt, &[u8], &mut dyn std::io::Write, &Limits) -> Result<(), PatchError>;

/// What a patch makes; never more than it may.
fn run(apply: Apply, old: &[u8], patch: &[u8]) -> Result<Vec<u8>, PatchError> {
    let mut out = Vec::new();
    let made = apply(&old, patch, &mut out, &limits());
    assert!(ByteLen::new(out.len() as u64) <= limits().output);
    made.map(|()| out)
}

/// `BSDIFF40` and `BSDF2`: as a second reader of the streams has it.
pub fn bsdf2(data: &[u8]) {
    let Some((&kind, mut data)) = data.split_first() else { return };
    let old = part(&mut data);
    if kind == 0 {
        if let Ok(out) = run(bsdiff::apply, old, data) {
            assert_eq!(out.len() as u64, bsdiff::target_len(data).expect("it was read").get());
        }
        return;
    }
    let (control, diff, extra) = (part(&mut data), part(&mut data), data);
    if extra.len() > 1 << 16 {
        return;
    }
    let new_len = (diff.len() + extra.len()) as u64;
    let made = run(bsdiff::apply, old, &pack(control, diff, extra, new_len)).ok();
    assert_eq!(made, model(old, control, diff, extra));
}

/// The target, if the streams are good: all of them used up, none twice.
fn model(old: &[u8], control: &[u8], mut diff: &[u8], mut extra: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut at = 0_i64;
    let mut entries = control.chunks(24);
    while !diff.is_empty() || !extra.is_empty() {
        let entry: &[u8; 24] = entries.next()?.try_into().ok()?;
        let [add, insert, step] = [0, 8, 16].map(|at| {
            let raw = u64::from_le_bytes(*entry[at..].first_chunk().expect("24 bytes"));
            let size = (raw & i64::MAX as u64) as i64;
            if raw > i64::MAX as u64 { -size } else { size }
        });
        let (added, left) = diff.split_at_checked(usize::try_from(add).ok()?)?;
        let (inserted, rest) = extra.split_at_checked(usize::try_from(insert).ok()?)?;
        let behind = old.get(usize::try_from(at).ok()?..)?;
        let behind = behind.iter().copied().chain(std::iter::repeat(0));
        out.extend(added.iter().zip(behind).map(|(new, old)| new.wrapping_add(old)));
        out.extend_from_slice(inserted);
        (diff, extra) = (left, rest);
        at = at.saturating_add(add).saturating_add(step);
    }
    entries.next().is_none().then_some(out)
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value > 127 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    [&[tag << 3 | 2], &varint(bytes.len() as u64)[..], bytes].concat()
}

/// One side of a puffin header: a deflate stream in the middle of a file, in bits, and its puff, in bytes.
fn side(deflate: Option<[u64; 2]>, puff: [u64; 2], puffed_len: u64) -> Vec<u8> {
    let extent = |[offset, len]: [u64; 2]| [&[8], &varint(offset)[..], &[16], &varint(len)].concat();
    let extents = deflate.map(|deflate| [field(1, &extent(deflate)), field(2, &extent(puff.map(|byte| byte * 8)))]);
    [extents.map_or(Vec::new(), |extents| extents.concat()), vec![24], varint(puffed_len)].concat()
}

fn puf1(old: &[u8], new: &[u8], inner: &[u8]) -> Vec<u8> {
    let header = [&[8, 1], &field(2, old)[..], &field(3, new)].concat();
    let len = u32::try_from(header.len()).expect("short");
    [&b"PUF1"[..], &len.to_be_bytes(), &header, inner].concat()
}

/// `PUF1`: a puff that becomes a deflate stream becomes the same one again after it was made a puff.
pub fn puffin(data: &[u8]) {
    let Some((&kind, mut data)) = data.split_first() else { return };
    if kind == 0 {
        let old = part(&mut data);
        let _ = run(puf::apply, old, data);
        return;
    }
    if data.len() > 1 << 15 || data.is_empty() {
        return;
    }
    let bit = u64::from(kind % 8);
    let plain = |len: usize| side(None, [0; 2], len as u64);
    // A byte before and after, as far as they have bits of their own.
    let gap = u64::from(bit > 0);
    let huff = |puff: &[u8], bits: u64| {
        let tail = (bit + bits).div_ceil(8) * 8 - (bit + bits);
        let puffed = [&vec![1; gap as usize][..], puff, &vec![0; usize::from(tail > 0)]].concat();
        let new = side(Some([bit, bits]), [gap, puff.len() as u64], puffed.len() as u64);
        run(puf::apply, &[], &puf1(&plain(0), &new, &from_nothing(&puffed)))
    };
    // How many bits it makes is what the error says about a guess that is too low.
    let bits = match huff(data, 1) {
        Err(PatchError::Deflate(DeflateError::Length { actual, .. })) => actual,
        _ => return,
    };
    let file = huff(data, bits).expect("as many bits as it said");

    let tail = u64::from((bit + bits) % 8 > 0);
    let puff = |len: u64, patch: &[u8], new_len: usize| {
        let old = side(Some([bit, bits]), [gap, len], gap + len + tail);
        run(puf::apply, &file, &puf1(&old, &plain(new_len), patch))
    };
    let copy = |len: u64| {
        let control = [len, 0, 0].map(u64::to_le_bytes).concat();
        pack(&control, &vec![0; usize::try_from(len).expect("short")], &[], len)
    };
    let len = match puff(1 << 20, &copy(gap + 1), gap as usize + 1) {
        Err(PatchError::Deflate(DeflateError::Length { actual, .. })) => actual,
        other => panic!("a deflate stream that was just made: {other:?}"),
    };
    let whole = gap + len + tail;
    if whole > 1 << 16 {
        return;
    }
    let again = puff(len, &copy(whole), whole as usize).expect("as many bytes as it said");
    let again = &again[gap as usize..][..len as usize];
    assert_eq!(huff(again, bits).expect("it was a deflate stream"), file);
}

/// `LZ4DIFF`: over blocks of any kind, and what is read is as long as it says.
pub fn lz4diff(data: &[u8]) {
    let Some((&kind, mut data)) = data.split_first() else { return };
    let old = part(&mut data);
    if kind == 0 {
        let _ = run(lz4::apply, old, data);
        return;
    }
    let (raw_len, new_raw) = (u64::from(u16::from_le_bytes([kind, old.len() as u8])), part(&mut data));
    let (padding, algorithm) = (kind >> 1 & 1, kind & 1);
    let block = |raw: u64, stored: u64| {
        let block = [&[16], &varint(raw)[..], &[24], &varint(stored)].concat();
        [field(1, &[8, algorithm + 1, 16, kind >> 2 & 15]), field(2, &block), vec![24, padding]].concat()
    };
    let stored_len = data.first().map_or(1, |&len| u64::from(len)).min(new_raw.len() as u64);
    let old_info = block(raw_len.max(old.len() as u64), old.len() as u64);
    let header = [field(1, &old_info), field(2, &block(new_raw.len() as u64, stored_len))].concat();
    let len = u32::try_from(header.len()).expect("short");
    let patch = [&b"LZ4DIFF\0\0\0\x01"[..], &len.to_be_bytes(), &[0], &header, &from_nothing(new_raw)].concat();
    if let Ok(out) = run(lz4::apply, old, &patch) {
        assert_eq!(out.len() as u64, stored_len);
    }
    rewritten(old, raw_len, kind);
}

/// What may be two clusters is decoded, and a patch makes the same bytes again.
fn rewritten(stored: &[u8], raw_len: u64, kind: u8) {
    let coding = if kind >> 1 & 1 == 1 { Coding::Lz4 } else { Coding::Lz4Unpadded };
    let first = u64::from(kind).min(stored.len() as u64);
    let cluster = |at: u64, stored_len: u64| Cluster {
        file_offset: 0,
        len: raw_len,
        image_offset: at,
        stored_len,
        coding,
        skip: u64::from(kind >> 5),
        inline: false,
        partial: kind >> 4 & 1 == 1,
    };
    let clusters = [cluster(0, first), cluster(first, stored.len() as u64 - first)];
    let (old, new) = (lz4::plain(stored, &clusters), lz4::Target::new(stored, &clusters, None));
    let (Ok(old), Ok(new)) = (old, new) else { return };
    if new.plain.raw.len() > 1 << 16 {
        return;
    }
    let patch = lz4::write(&old, &new, lz4::Inner::Bsdiff(&from_nothing(&new.plain.raw)));
    assert_eq!(run(lz4::apply, stored, &patch).expect("it was just written"), stored);
}

/// The locator: what it finds lies in the file, in order, and becomes the same bytes again, also of a piece.
pub fn locate(data: &[u8]) {
    let Some((&kind, data)) = data.split_first() else { return };
    let header = match kind % 4 {
        // An entry with its sizes after the data; a member without any texts.
        1 => &b"PK\x03\x04\x14\0\x08\0\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..],
        2 => b"\x1f\x8b\x08\0\0\0\0\0\x02\x03",
        _ => b"",
    };
    let file = [header, data].concat();
    let found = find::deflates(&file, &find::Limits { deflates: 1000, puff_len: 1 << 14, passes: 4 });
    assert!(found.is_sorted_by(|a, b| a.end() <= b.bit));
    assert!(found.last().is_none_or(|last| last.end() <= 8 * file.len() as u64));
    same(&file, &found);
    let half = file.len() as u64 * u64::from(kind) / 256;
    let (first, second) = file.split_at(usize::try_from(half).expect("short"));
    let ranges = [half..file.len() as u64, 0..half];
    same(&[second, first].concat(), &find::cut(&found, ranges, 0));
    let (mut old, mut new) = (found.clone(), found);
    find::drop_equal(&file, &mut old, &file, &mut new);
    assert!(old.is_empty() && new.is_empty());
}

fn same(file: &[u8], deflates: &[find::Deflate]) {
    let puffed = puf::puff(file, deflates).expect("they were found there");
    if puffed.stream.len() > 1 << 16 {
        return;
    }
    let nothing = puf::puff(b"", &[]).expect("nothing is fine");
    let made = run(puf::apply, b"", &puf::write(&nothing, &puffed, &from_nothing(&puffed.stream)));
    assert_eq!(made.expect("it was just written"), file);
    let copy = [puffed.stream.len() as u64, 0, 0].map(u64::to_le_bytes).concat();
    let len = puffed.stream.len();
    if len == 0 {
        return;
    }
    let patch = puf::write(&puffed, &puffed, &pack(&copy, &vec![0; len], &[], len as u64));
    assert_eq!(run(puf::apply, file, &patch).expect("it was just written"), file);
}

/// Zucchini: an ensemble patch of any bytes, or one that is made for any program and makes the new file of it.
pub fn zucchini(data: &[u8]) {
    let Some((&kind, mut data)) = data.split_first() else { return };
    let old = part(&mut data);
    if kind == 0 {
        if data.len() > 1 << 16 {
            return;
        }
        let mut ensemble = data.to_vec();
        // Without this, nothing gets behind the header.
        if let Some(place) = ensemble.get_mut(8..16) {
            place[..4].copy_from_slice(&(old.len() as u32).to_le_bytes());
            place[4..].copy_from_slice(&crc32(old).to_le_bytes());
        }
        let _ = run(zuc::apply, old, &stored(&ensemble));
        return;
    }
    let (matches, new) = (part(&mut data), data);
    if let Some(form) = zuc::normal_form(new) {
        assert_eq!(form.len(), new.len());
        assert!(zuc::is_program(new).is_some());
    }
    let found: Vec<_> = matches
        .as_chunks::<6>()
        .0
        .iter()
        .map(|bytes| {
            let [old, new, len] = [0, 2, 4].map(|at| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]])));
            bsdiff::Match { old, new, len, extra: 0 }
        })
        .collect();
    // It was applied before it was handed out.
    let Some(ensemble) = zuc::build(old, new, &found).filter(|ensemble| ensemble.len() <= 1 << 16) else { return };
    let limits = Limits { output: ByteLen::mib(1), memory: ByteLen::mib(64) };
    let mut out = Vec::new();
    zuc::apply(&old, &stored(&ensemble), &mut out, &limits).expect("a patch that was just made");
    assert_eq!(out, new);
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ ((crc & 1) * 0xedb8_8320);
    !bytes.iter().fold(u32::MAX, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}
