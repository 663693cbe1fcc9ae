//! Header and the manifest's frame.

use std::io::{self, Read};

use relevo_format::package::{Front, Limits, PackageError};
use relevo_types::ByteLen;

use crate::fixture::{Content, Sections, front_of, read};

/// Gives one byte at a time, with an interruption before each.
struct Stutter<'a> {
    bytes: &'a [u8],
    interrupted: bool,
}

impl Read for Stutter<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = buf.len().min(1);
        self.bytes.read(&mut buf[..len])
    }
}

#[test]
fn reads_through_short_reads_and_interruptions_and_stops_at_the_body() {
    let package = Content::small().package();
    let mut reader = Stutter { bytes: &package, interrupted: false };

    let front = Front::read(&mut reader, &Limits::default()).unwrap();

    assert_eq!(front, read(&package).unwrap());
    assert_eq!((package.len() - reader.bytes.len()) as u64, front.body_offset().get());
}

#[test]
fn refuses_what_is_no_package() {
    let mut zip = b"PK\x03\x04".to_vec();
    zip.resize(100, 0);

    let error = read(&zip).unwrap_err();

    assert_eq!(
        error.to_string(),
        "this is no Relevo package: it starts with PK\\x03\\x04\\x00\\x00\\x00\\x00, not with RVP"
    );
}

#[test]
fn refuses_another_version_by_its_number() {
    let mut package = Content::small().package();
    package[8..10].copy_from_slice(&7_u16.to_le_bytes());

    assert!(matches!(read(&package), Err(PackageError::Version { found: 7 })));
}

#[test]
fn refuses_reserved_bytes_that_are_not_0() {
    for at in [10, 11] {
        let mut package = Content::small().package();
        package[at] = 1;

        assert!(matches!(read(&package), Err(PackageError::Manifest(_))));
    }
}

#[test]
fn refuses_a_manifest_over_the_limit_by_either_length() {
    for at in [12, 16] {
        let mut package = Content::small().package();
        package[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());

        let error = read(&package).unwrap_err();

        assert!(matches!(error, PackageError::Limit { found: 0xffff_ffff, limit: 0x20_0000, .. }), "{error}");
    }
}

#[test]
fn refuses_a_frame_of_another_length_than_stated() {
    let raw = Sections::of(&Content::small().build().0).bytes();
    let front = front_of(&raw);
    assert!(read(&front).is_ok());
    let stated = u32::try_from(raw.len()).unwrap();

    for wrong in [0, 1, stated - 1, stated + 1, 2 * stated] {
        let mut front = front.clone();
        front[16..20].copy_from_slice(&wrong.to_le_bytes());

        let error = read(&front).unwrap_err();

        assert!(matches!(error, PackageError::Manifest(_) | PackageError::Compressed(_)), "{wrong}: {error}");
    }
}

#[test]
fn refuses_a_second_frame_or_other_bytes_behind_the_first() {
    let raw = Sections::of(&Content::small().build().0).bytes();
    let second = zstd::bulk::compress(b"", 1).unwrap();
    // A skippable frame (RFC 8878, section 3.1.2) of 4 bytes.
    let skippable = *b"\x50\x2a\x4d\x18\x04\0\0\0skip";
    for behind in [&second[..], b"\0", &skippable] {
        let front = front_of(&raw);
        let (frame, signatures) = front.split_at(front.len() - 2);
        let mut front = [frame, behind, signatures].concat();
        let stored = u32::try_from(frame.len() - 20 + behind.len()).unwrap();
        front[12..16].copy_from_slice(&stored.to_le_bytes());

        let error = read(&front).unwrap_err();

        assert!(matches!(error, PackageError::Manifest("it is not one whole zstd frame")), "{error}");
    }
}

#[test]
fn refuses_a_package_that_takes_more_memory_than_the_reader_gives() {
    let package = Content::small().package();
    let limits = Limits { memory: ByteLen::mib(1), ..Limits::default() };

    let error = Front::read(&mut &package[..], &limits).unwrap_err();

    assert!(matches!(error, PackageError::Memory { limit, .. } if limit == ByteLen::mib(1)), "{error}");
}

#[test]
fn refuses_more_signatures_than_the_limit() {
    let raw = Sections::of(&Content::small().build().0).bytes();
    let mut front = front_of(&raw);
    let at = front.len() - 2;
    front[at..].copy_from_slice(&[0xff, 0xff]);

    assert!(matches!(read(&front), Err(PackageError::Limit { what: "signatures", found: 0xffff, .. })));
}
