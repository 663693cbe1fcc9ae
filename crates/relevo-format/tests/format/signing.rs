//! Signatures by a threshold of keys, and signing files.

use std::fs;

use ed25519_dalek::{SigningKey, VerifyingKey};
use relevo_format::package::{Front, Limits, PackageError, Signature, sign_file};

use crate::fixture::{Content, read};

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn public(seeds: &[u8]) -> Vec<VerifyingKey> {
    seeds.iter().map(|&seed| key(seed).verifying_key()).collect()
}

fn signed_by(seeds: &[u8]) -> Front {
    let mut front = read(&Content::small().package()).unwrap();
    for &seed in seeds {
        let signature = Signature::new(&front, &key(seed));
        front.add_signature(signature);
    }
    front
}

#[test]
fn needs_a_threshold_of_distinct_keys() {
    let keys = public(&[1, 2, 3]);

    for (signers, valid) in [(&[][..], 0), (&[1], 1), (&[2, 1], 2), (&[3, 1, 2], 3), (&[1, 1], 1), (&[9, 8, 2], 1)] {
        let front = signed_by(signers);
        for threshold in 1..=4 {
            assert_eq!(front.verify(&keys, threshold).is_ok(), valid >= threshold, "{signers:?} for {threshold}");
        }
    }
}

#[test]
fn a_key_that_is_given_twice_counts_once() {
    let error = signed_by(&[1]).verify(&public(&[1, 1, 1]), 2).unwrap_err();

    assert!(matches!(error, PackageError::Threshold { valid: 1, threshold: 2, present: 1 }), "{error}");
}

#[test]
fn no_keys_or_no_threshold_is_never_met() {
    assert!(signed_by(&[1]).verify(&[], 1).is_err());
    assert!(signed_by(&[1]).verify(&public(&[1]), 0).is_err());
}

#[test]
fn foreign_signatures_are_not_in_the_way() {
    let front = signed_by(&[50, 1, 51, 2, 52]);

    assert!(front.verify(&public(&[1, 2, 3]), 2).is_ok());
    assert_eq!(front.signatures().len(), 5);
}

#[test]
fn a_signature_under_the_id_of_another_key_does_not_count() {
    let mut front = signed_by(&[]);
    let mut signature = Signature::new(&front, &key(2));
    signature.key_id = relevo_format::package::key_id(&key(1).verifying_key());
    front.add_signature(signature);

    assert!(front.verify(&public(&[1, 2]), 1).is_err());
}

#[test]
fn a_signature_over_another_package_does_not_count() {
    let mut content = Content::small();
    content.removed.clear();
    let other = read(&content.package()).unwrap();
    let mut front = signed_by(&[]);
    front.add_signature(Signature::new(&other, &key(1)));

    assert!(front.verify(&public(&[1]), 1).is_err());
}

#[test]
fn the_order_of_signing_does_not_show() {
    assert_eq!(signed_by(&[1, 2, 3]).encode(), signed_by(&[3, 1, 2]).encode());
}

#[test]
fn refuses_signatures_out_of_order_or_twice() {
    let front = signed_by(&[1, 2]);
    let bytes = front.encode();
    let (start, signatures) = bytes.split_at(bytes.len() - 2 * 96);
    let (first, second) = signatures.split_at(96);

    assert!(read(&[start, first, second].concat()).is_ok());
    for wrong in [[start, second, first], [start, first, first]] {
        assert!(matches!(read(&wrong.concat()), Err(PackageError::Manifest(_))));
    }
}

#[test]
fn signing_a_file_adds_to_what_is_there_and_leaves_the_body() {
    let dir = tempfile::tempdir().unwrap();
    let (unsigned, once, twice) = (dir.path().join("0.rvp"), dir.path().join("1.rvp"), dir.path().join("2.rvp"));
    fs::write(&unsigned, Content::small().package()).unwrap();

    sign_file(&unsigned, &once, &[key(1)], &Limits::default()).unwrap();
    let front = sign_file(&once, &twice, &[key(2)], &Limits::default()).unwrap();

    let bytes = fs::read(&twice).unwrap();
    assert_eq!(read(&bytes).unwrap(), front);
    assert!(front.verify(&public(&[1, 2, 3]), 2).is_ok());
    let made = crate::fixture::apply(&front, &bytes, &Content::small().source()).unwrap();
    assert_eq!(made, Content::small().targets());
}

#[test]
fn a_file_can_be_signed_in_place() {
    // The first version opened the target for writing, which emptied the package that it was about to copy.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("package.rvp");
    fs::write(&path, Content::small().package()).unwrap();

    sign_file(&path, &path, &[key(1)], &Limits::default()).unwrap();

    let bytes = fs::read(&path).unwrap();
    let front = read(&bytes).unwrap();
    assert!(front.verify(&public(&[1]), 1).is_ok());
    assert!(front.check_len(relevo_types::ByteLen::new(bytes.len() as u64)).is_ok());
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_file_that_cannot_be_signed_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from.rvp"), dir.path().join("to.rvp"));
    let mut package = Content::small().package();
    package.pop();
    fs::write(&from, package).unwrap();
    assert!(matches!(sign_file(&from, &to, &[key(1)], &Limits::default()), Err(PackageError::Length { .. })));

    fs::write(&from, Content::small().package()).unwrap();
    let few = Limits { signatures: 1, ..Limits::default() };
    assert!(matches!(
        sign_file(&from, &to, &[key(1), key(2)], &few),
        Err(PackageError::Limit { what: "signatures", found: 2, limit: 1 })
    ));

    fs::create_dir(&to).unwrap();
    let error = sign_file(&from, &to, &[key(1)], &Limits::default()).unwrap_err();
    assert!(matches!(error, PackageError::Write { path, .. } if path == to));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 2, "only what was there before");
}
