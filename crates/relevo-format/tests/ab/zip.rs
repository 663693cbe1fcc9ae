//! Zips that are cut, flipped or made up.

use relevo_format::{
    ReadAt,
    ota_zip::{Limits, OtaZip, ZipError},
};
use relevo_types::ByteLen;

use crate::fixture::sample;

/// One entry of a zip, as it stands in the directory; the header before its data may be changed apart.
#[derive(Clone)]
struct File {
    name: &'static str,
    method: u16,
    stored: Vec<u8>,
    len: u32,
    crc32: u32,
}

fn file(name: &'static str, bytes: &[u8]) -> File {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    File { name, method: 0, stored: bytes.to_vec(), len: u32::try_from(bytes.len()).unwrap(), crc32: crc.sum() }
}

fn deflated(name: &'static str, bytes: &[u8]) -> File {
    use std::io::Read as _;

    let mut stored = Vec::new();
    flate2::read::DeflateEncoder::new(bytes, flate2::Compression::best()).read_to_end(&mut stored).unwrap();
    File { method: 8, stored, ..file(name, bytes) }
}

fn header(file: &File) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend([0, 0]);
    out.extend(file.method.to_le_bytes());
    out.extend([0; 4]);
    out.extend(file.crc32.to_le_bytes());
    out.extend(u32::try_from(file.stored.len()).unwrap().to_le_bytes());
    out.extend(file.len.to_le_bytes());
    out.extend(u16::try_from(file.name.len()).unwrap().to_le_bytes());
    out.extend([0, 0]);
    out
}

fn central(file: &File, at: usize) -> Vec<u8> {
    let mut out = b"PK\x01\x02\x14\x00\x14\x00".to_vec();
    out.extend(header(file));
    out.extend([0; 10]);
    out.extend(u32::try_from(at).unwrap().to_le_bytes());
    out.extend(file.name.as_bytes());
    out
}

fn local(file: &File) -> Vec<u8> {
    [b"PK\x03\x04\x14\x00", &header(file)[..], file.name.as_bytes(), &file.stored].concat()
}

fn end(entries: u16, directory: usize, len: usize, comment: &[u8]) -> Vec<u8> {
    let mut out = b"PK\x05\x06\0\0\0\0".to_vec();
    out.extend(entries.to_le_bytes());
    out.extend(entries.to_le_bytes());
    out.extend(u32::try_from(len).unwrap().to_le_bytes());
    out.extend(u32::try_from(directory).unwrap().to_le_bytes());
    out.extend(u16::try_from(comment.len()).unwrap().to_le_bytes());
    out.extend(comment);
    out
}

/// A zip whose headers before the data are of `locals`, and whose directory is of `files`.
fn zip_of(locals: &[File], files: &[File], comment: &[u8]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (before, file) in locals.iter().zip(files) {
        directory.extend(central(file, out.len()));
        out.extend(local(before));
    }
    let at = out.len();
    out.extend(&directory);
    out.extend(end(u16::try_from(files.len()).unwrap(), at, directory.len(), comment));
    out
}

fn zip(files: &[File]) -> Vec<u8> {
    zip_of(files, files, &[])
}

fn read(bytes: &Vec<u8>) -> Result<OtaZip<&Vec<u8>>, ZipError> {
    OtaZip::read(bytes, &Limits::default())
}

#[test]
fn entries_are_read_in_place_or_inflated() {
    let bytes = zip_of(
        &[file("a", b"as it is"), deflated("b", &[7; 5000])],
        &[file("a", b"as it is"), deflated("b", &[7; 5000])],
        b"a comment",
    );
    let zip = read(&bytes).unwrap();

    let stored = zip.stored("a").unwrap();
    let mut inside = [0; 5];
    stored.read_exact_at(&mut inside, 3).unwrap();
    assert_eq!(&inside, b"it is");
    assert!(stored.read_exact_at(&mut inside, 4).is_err());
    assert_eq!(zip.small("a", ByteLen::new(8)).unwrap(), b"as it is");
    assert_eq!(zip.small("b", ByteLen::new(5000)).unwrap(), [7; 5000]);
    assert!(matches!(zip.small("b", ByteLen::new(4999)), Err(ZipError::TooLong { .. })));
    assert!(matches!(zip.stored("b"), Err(ZipError::Compressed { .. })));
    assert!(matches!(zip.stored("c"), Err(ZipError::Missing { .. })));
    assert!(zip.signature().is_err());
}

#[test]
fn directory_and_headers_agree() {
    let right = file("a", b"content");
    let mismatch = |wrong: File| match read(&zip_of(&[wrong], std::slice::from_ref(&right), &[])) {
        Err(ZipError::Mismatch { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(mismatch(File { name: "b", ..right.clone() }), "name");
    assert_eq!(mismatch(File { method: 8, ..right.clone() }), "compression");
    assert_eq!(mismatch(File { len: 6, ..right.clone() }), "length");
    assert_eq!(mismatch(File { crc32: 1, ..right.clone() }), "CRC-32");
    let mut moved = zip(std::slice::from_ref(&right));
    moved[0] = b'X';
    assert!(matches!(read(&moved), Err(ZipError::Mismatch { what: "place", .. })));
}

#[test]
fn entries_are_apart_and_named_once() {
    let (a, b) = (file("a", b"one"), file("b", b"two"));
    let mut out = [local(&a), local(&b)].concat();
    let at = out.len();
    let again = File { name: "a", ..a.clone() };
    for (directory, overlap) in [
        ([central(&a, 0), central(&again, 0)].concat(), false),
        // An entry whose data are the other entry, header and all.
        ([central(&File { name: "a", ..file("a", &out[31..]) }, 0), central(&b, local(&a).len())].concat(), true),
    ] {
        let mut bytes = out.clone();
        if overlap {
            bytes.splice(..31, local(&file("a", &out[31..]))[..31].iter().copied());
        }
        bytes.extend(&directory);
        bytes.extend(end(2, at, directory.len(), &[]));
        match read(&bytes) {
            Err(ZipError::Overlap { .. }) if overlap => {}
            Err(ZipError::Twice { .. }) if !overlap => {}
            other => panic!("{overlap}: {other:?}"),
        }
    }
    // Data that reach into the directory.
    let long = file("a", &[0; 400]);
    out.splice(..31, local(&long)[..31].iter().copied());
    out.extend(central(&long, 0));
    out.extend(end(1, at, out.len() - at, &[]));
    assert!(matches!(read(&out), Err(ZipError::Overrun { .. })));
}

#[test]
fn a_bomb_ends_at_the_length_it_says() {
    let bomb = File { len: 100, ..deflated("a", &vec![0; 64 << 20]) };
    let bytes = zip(&[bomb]);
    let zip = read(&bytes).unwrap();

    assert!(matches!(zip.small("a", ByteLen::mib(1)), Err(ZipError::Damaged { .. })));
}

#[test]
fn other_ends_are_refused() {
    let bytes = zip(&[file("a", b"x")]);
    let inside = end(0, 0, 0, &[]);
    // A comment that is itself an end record, with the comment's length right.
    let two = zip_of(&[file("a", b"x")], &[file("a", b"x")], &inside);
    assert!(matches!(read(&two), Err(ZipError::TwoEnds { .. })));
    assert!(matches!(read(&Vec::new()), Err(ZipError::NoEnd)));
    let in_front = [b"x".to_vec(), bytes.clone()].concat();
    assert!(matches!(read(&in_front), Err(ZipError::Directory { .. })));
    let mut many = bytes.clone();
    let at = many.len() - 22;
    many[at + 8..at + 12].copy_from_slice(&[9, 0, 9, 0]);
    assert!(matches!(read(&many), Err(ZipError::Entry { index: 1, entries: 9 })));
    let limits = Limits { entries: 0, ..Limits::default() };
    assert!(matches!(OtaZip::read(&bytes, &limits), Err(ZipError::TooMany { .. })));
    let limits = Limits { directory: ByteLen::new(10), ..Limits::default() };
    assert!(matches!(OtaZip::read(&bytes, &limits), Err(ZipError::TooMany { .. })));
}

#[test]
fn the_records_for_64_bits_are_read() {
    let files = [file("a", b"content")];
    let plain = zip(&files);
    let at = local(&files[0]).len();
    let len = plain.len() - 22 - at;
    let record = |size: u64, entries: u64, len: u64, at: u64| {
        let mut out = b"PK\x06\x06".to_vec();
        out.extend(size.to_le_bytes());
        out.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        [entries, entries, len, at].iter().for_each(|number| out.extend(number.to_le_bytes()));
        out
    };
    let make = |record: &[u8]| {
        let mut out = plain[..at + len].to_vec();
        let record_at = out.len() as u64;
        out.extend(record);
        out.extend(b"PK\x06\x07\0\0\0\0");
        out.extend(record_at.to_le_bytes());
        out.extend([1, 0, 0, 0]);
        out.extend(b"PK\x05\x06\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0");
        out
    };
    let (len, at) = (len as u64, at as u64);

    let right = make(&record(44, 1, len, at));
    assert_eq!(read(&right).unwrap().small("a", ByteLen::kib(1)).unwrap(), b"content");
    assert!(matches!(read(&make(&record(45, 1, len, at))), Err(ZipError::End64 { .. })));
    assert!(matches!(read(&make(&record(44, u64::MAX, len, at))), Err(ZipError::TooMany { .. })));
    assert!(matches!(read(&make(&record(44, 1, u64::MAX, at))), Err(ZipError::TooMany { .. })));
    assert!(matches!(read(&make(&record(44, 1, len, u64::MAX))), Err(ZipError::Directory { .. })));
}

#[test]
fn a_zip_that_is_cut_anywhere_is_refused() {
    let bytes = sample("incremental_ota.zip");
    for len in (0..bytes.len()).step_by(20_011).chain(bytes.len() - 1700..bytes.len()) {
        let cut = bytes[..len].to_vec();
        assert!(read(&cut).is_err(), "{len}");
    }
}

#[test]
fn a_flipped_byte_of_the_signed_zips_frame_is_refused() {
    let bytes = sample("incremental_ota.zip");
    let keys = [crate::fixture::key("ota_cert.x509.pem")];
    let go_on = |_| std::ops::ControlFlow::Continue(());
    let zip = read(&bytes).unwrap();
    let signed = usize::try_from(zip.signature().unwrap().signed().get()).unwrap();
    // The directory, the end record, the comment's length and the footer, and a byte of the data.
    let frame = (signed - 400..signed + 2).chain(bytes.len() - 6..bytes.len()).chain([5000]);
    for at in frame {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        let Ok(zip) = read(&flipped) else { continue };
        let Ok(signature) = zip.signature() else { continue };
        assert!(signature.verify(&flipped, &keys, go_on).is_err(), "{at}");
    }
}
