//! The worked example of docs/format.md is read, verified, applied and written again.

use std::collections::BTreeMap;

use crate::fixture::{apply, name, read};
use ed25519_dalek::SigningKey;
use relevo_format::package::{Codec, Role, Signature};

const PAGE: &str = include_str!("../../../../docs/format.md");

/// The bytes of the listing; each row must stand at the offset that it says.
fn example() -> Vec<u8> {
    let example = PAGE.split_once("\n### Example\n").expect("the section").1;
    let listing = example.split_once("```text\n").expect("the listing").1.split_once("```").expect("its end").0;
    let mut bytes = Vec::new();
    for row in listing.lines() {
        let (offset, rest) = row.split_once("  ").expect("an offset");
        assert_eq!(usize::from_str_radix(offset, 16).unwrap(), bytes.len(), "{row}");
        let hex = rest.split(';').next().unwrap();
        bytes.extend(hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    bytes
}

fn source() -> BTreeMap<relevo_types::PartitionName, Vec<u8>> {
    BTreeMap::from([(name("boot"), b"kernel 6.1.0 of may, then its modules".to_vec())])
}

#[test]
fn the_example_says_what_the_page_says() {
    let front = read(&example()).unwrap();

    let manifest = front.manifest();
    assert_eq!(manifest.info.device.as_ref().unwrap().as_str(), "ginkgo");
    assert_eq!(manifest.info.from.as_ref().unwrap().as_str(), "100");
    assert_eq!(manifest.info.to.as_ref().unwrap().as_str(), "101");
    assert_eq!(manifest.info.timestamp, Some(1_746_403_200));
    assert_eq!(manifest.info.memory.get(), 1_573_888);
    assert_eq!(manifest.memory(), manifest.info.memory);
    assert_eq!(manifest.bases.len(), 1);
    assert_eq!(manifest.removed, [name("splash")]);
    let streams: Vec<_> = manifest.streams().map(|stream| (stream.role, stream.codec, stream.offset)).collect();
    assert_eq!(
        streams,
        [
            (Role::Ops, Codec::Store, 0),
            (Role::Diff, Codec::Zstd, 9),
            (Role::Extra, Codec::Store, 30),
            (Role::Ops, Codec::Store, 33),
            (Role::Extra, Codec::Store, 35),
        ]
    );
    assert_eq!(front.package_len().get(), example().len() as u64);
}

#[test]
fn the_example_is_signed_by_its_key_and_by_no_other() {
    let front = read(&example()).unwrap();
    let key = SigningKey::from_bytes(&[0x2a; 32]);

    assert!(front.verify(&[key.verifying_key()], 1).is_ok());
    assert_eq!(front.signatures(), [Signature::new(&front, &key)]);
    assert!(front.verify(&[SigningKey::from_bytes(&[0x2b; 32]).verifying_key()], 1).is_err());
}

#[test]
fn the_example_makes_the_images_of_the_page() {
    let package = example();
    let front = read(&package).unwrap();

    let made = apply(&front, &package, &source()).unwrap();

    assert_eq!(made, [&b"kernel 6.1.2 of jun, then its modules\0\0\0\0\0\0\0\0"[..], b"AVB0\0\0\0\0"]);
}

#[test]
fn the_example_is_written_as_it_was_read() {
    let package = example();
    let front = read(&package).unwrap();
    let body = usize::try_from(front.body_offset().get()).unwrap();

    // The manifest is compared decoded, since another libzstd compresses to other bytes: it stands in the frame's one
    // raw block, after 20 bytes of header and 10 of frame and block headers.
    let manifest = front.manifest().encode();
    assert_eq!(manifest, package[30..30 + manifest.len()]);
    assert_eq!(u32::from_le_bytes(package[16..20].try_into().unwrap()) as usize, manifest.len());
    assert_eq!(front.encode(), package[..body]);
}
