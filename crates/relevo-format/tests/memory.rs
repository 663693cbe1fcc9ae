//! Whatever a package says, reading it and refusing it takes less than 24 MiB, all of the process included.
//!
//! A binary and a test of its own: it looks at the peak of the process's resident memory, libzstd's share with it.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "fixtures are tests too")]

use std::{fs, io, ops::ControlFlow};

use relevo_format::{
    apply::{apply_piece, body, check_source},
    package::{Codec, Engine, Front, Info, Limits, Manifest, PackageError, Partition, Piece, Role, Stream},
};
use relevo_types::{ByteLen, Sha256};
use sha2::Digest;

const MOST: ByteLen = ByteLen::mib(24);
/// Largest block of a zstd frame (RFC 8878, section 3.1.1.2.4).
const BLOCK: usize = 128 << 10;

fn peak() -> ByteLen {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    ByteLen::kib(line.trim().trim_end_matches(" kB").parse().unwrap())
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while value > 0x7f {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
    out
}

fn word(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap().to_le_bytes()
}

fn header(stored: usize, raw: usize) -> Vec<u8> {
    [&b"RVP\r\n\x1a\n\0\x01\0\0\0"[..], &word(stored), &word(raw)].concat()
}

/// A frame with a window of 2^(10 + `exponent`) bytes and these blocks: kind (0 raw, 1 one byte over and over), bytes.
fn frame(exponent: u8, blocks: impl Iterator<Item = (usize, Vec<u8>)>) -> Vec<u8> {
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0, exponent << 3];
    for (kind, content) in blocks {
        let size = if kind == 1 { BLOCK } else { content.len() };
        out.extend_from_slice(&word(size << 3 | kind << 1)[..3]);
        out.extend(content);
    }
    // The last block, empty.
    out.extend([1, 0, 0]);
    out
}

fn raw_frame(content: &[u8]) -> Vec<u8> {
    frame(7, content.chunks(BLOCK).map(|block| (0, block.to_vec())))
}

/// A manifest of just under 2 MiB with `bases` bases and as many pieces as fit.
fn manifest(bases: usize, piece: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut section = |tag: &[u8; 4], content: &[u8]| {
        out.extend_from_slice(tag);
        out.extend_from_slice(&word(content.len()));
        out.extend_from_slice(content);
    };
    let names =
        ["base/source", "codec/store", "codec/zstd", "engine/bsdiff", "stream/diff", "stream/extra", "stream/ops"];
    let mut table = varint(names.len());
    for name in names {
        table.extend(varint(name.len()));
        table.extend_from_slice(name.as_bytes());
    }
    section(b"FEAT", &table);
    section(b"INFO", &[&b"\x01\x06memory\x04"[..], &varint(16 << 20)].concat());
    let mut list = varint(bases);
    for base in 0..bases {
        list.extend([0, 4]);
        list.extend(format!("b{base:03}").into_bytes());
        list.push(0);
        list.extend([0; 32]);
    }
    section(b"BASE", &list);
    let count = ((2 << 20) - 8000) / piece.len();
    let mut partition = vec![1, 1, b'p'];
    partition.extend(varint(count * 127));
    partition.extend([0; 32]);
    partition.extend(varint(count));
    partition.extend(piece.repeat(count));
    section(b"PART", &partition);
    section(b"GONE", &[0]);
    out
}

fn piece(bases: usize, streams: &[u8]) -> Vec<u8> {
    let own: Vec<u8> = (0..bases).map(|base| u8::try_from(base).unwrap()).collect();
    [&[127][..], &[0; 32], &[3], &varint(bases), &own, &[0], streams].concat()
}

fn stream(role: u8) -> Vec<u8> {
    [&[role, 1, 0, 1, 1][..], &[0; 32]].concat()
}

#[test]
fn no_package_makes_its_reader_take_more_than_24_mib() {
    let limits = Limits::default();
    let most = usize::try_from(limits.manifest.get()).unwrap();
    let read = |package: &[u8]| Front::read(&mut &package[..], &limits);

    // Lengths of 4 GiB, with a reader that would go on giving.
    for (stored, raw) in [(u32::MAX as usize, 100), (100, u32::MAX as usize), (u32::MAX as usize, u32::MAX as usize)] {
        let mut reader = io::Read::chain(io::Cursor::new(header(stored, raw)), io::repeat(0));
        assert!(matches!(Front::read(&mut reader, &limits), Err(PackageError::Limit { .. })));
    }

    // Bombs: 64 KB that decode to 2 GiB, with a stated length that is allowed; small and large windows.
    for exponent in [0, 10, 21] {
        let bomb = frame(exponent, (0..16_384).map(|_| (1, vec![0])));
        let package = [header(bomb.len(), most), bomb].concat();
        assert!(matches!(read(&package), Err(PackageError::Compressed(_))));
    }

    // The manifests that take most memory for their bytes: bases of pieces, pieces, streams.
    for (bases, piece) in [
        (128, piece(128, &[0])),
        (0, piece(0, &[0])),
        (0, piece(0, &[&[1][..], &stream(6)].concat())),
        (0, piece(0, &[&[3][..], &stream(6), &stream(4), &stream(5)].concat())),
    ] {
        let raw = manifest(bases, &piece);
        let raw_len = raw.len();
        let stored = raw_frame(&raw);
        drop(raw);
        let package = [header(stored.len(), raw_len), stored, vec![0, 0]].concat();
        let front = read(&package).unwrap();
        assert!(front.manifest().partitions[0].pieces.len() > 10_000);
    }

    // A stream whose frame asks for a window of 2 GiB where 4 KiB are declared.
    let stored = frame(21, std::iter::once((1, vec![0])));
    let zeros = Sha256::new(sha2::Sha256::digest([0; BLOCK]).into());
    let sha256 = |bytes: &[u8]| Sha256::new(sha2::Sha256::digest(bytes).into());
    let ops = [varint(BLOCK << 3 | 2)].concat();
    let at = |role, codec, offset: usize, stored: &[u8], raw: usize, window_log| Stream {
        role,
        codec,
        offset: offset as u64,
        stored_len: stored.len() as u64,
        raw_len: raw as u64,
        window_log,
        sha256: sha256(stored),
    };
    let streams = vec![
        at(Role::Ops, Codec::Store, 0, &ops, ops.len(), 0),
        at(Role::Extra, Codec::Zstd, ops.len(), &stored, BLOCK, 12),
    ];
    let len = BLOCK as u64;
    let piece = Piece { start: 0, len, sha256: zeros, engine: Engine::Bsdiff, bases: vec![], streams };
    let name = relevo_types::PartitionName::parse("p").unwrap();
    let partition = Partition { name, size: ByteLen::new(len), sha256: zeros, pieces: vec![piece] };
    let info = Info { memory: ByteLen::mib(2), ..Info::default() };
    let manifest = Manifest { info, bases: vec![], partitions: vec![partition], removed: vec![] };
    let front = Front::new(manifest, &limits).unwrap();
    let package = [front.encode(), ops, stored].concat();
    let source =
        check_source(front.manifest(), |_| Err(io::ErrorKind::NotFound.into()), |_| ControlFlow::Continue(())).unwrap();
    assert!(apply_piece(&front, 0, 0, &source, &body(&front, &package).unwrap(), &mut io::sink()).is_err());

    assert!(peak() < MOST, "peak of {}", peak().human());
    // Shown with --nocapture.
    println!("peak of {}", peak().human());
}
