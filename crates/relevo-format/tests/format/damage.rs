//! A package that is cut or changed anywhere is refused, or makes the very same.

use ed25519_dalek::SigningKey;
use relevo_format::{
    apply::{self, ApplyError},
    package::{Front, PackageError, Signature},
};

use crate::fixture::{Content, Error, apply, read};

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

/// A small package with one signature: its bytes, and where signatures and body start.
fn signed() -> (Vec<u8>, usize, usize) {
    let package = Content::small().package();
    let unsigned = read(&package).unwrap();
    let body = usize::try_from(unsigned.body_offset().get()).unwrap();
    let mut front = unsigned.clone();
    front.add_signature(Signature::new(&front, &key()));
    let bytes = [front.encode(), package[body..].to_vec()].concat();
    (bytes, body - 2, usize::try_from(front.body_offset().get()).unwrap())
}

fn flips(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    (0..bytes.len() * 8).map(|bit| {
        let mut damaged = bytes.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        (bit / 8, damaged)
    })
}

#[test]
fn refuses_a_package_cut_at_any_length() {
    let (package, _, body) = signed();

    for len in 0..package.len() {
        let front = read(&package[..len]);

        if len < body {
            assert!(matches!(front, Err(PackageError::Truncated)), "cut at {len}: {front:?}");
        } else {
            let refused = apply(&front.unwrap(), &package[..len], &Content::small().source());
            assert!(matches!(refused, Err(Error::Package(PackageError::Length { .. }))), "cut at {len}");
        }
    }
}

#[test]
fn refuses_a_package_with_bytes_after_its_end() {
    let (mut package, ..) = signed();
    package.push(0);

    let refused = apply(&read(&package).unwrap(), &package, &Content::small().source());

    assert!(matches!(refused, Err(Error::Package(PackageError::Length { .. }))));
}

#[test]
fn a_flipped_bit_never_makes_another_image_even_without_signatures() {
    let content = Content::small();
    let (package, signatures, body) = signed();
    let original = read(&package).unwrap();

    for (at, damaged) in flips(&package) {
        let made = read(&damaged).map_err(Error::from).and_then(|front| {
            let made = apply(&front, &damaged, &content.source())?;
            Ok((front, made))
        });

        match made {
            Err(error) if at >= body => {
                assert!(matches!(error, Error::Apply(ApplyError::StreamDiffers { .. })), "byte {at}: {error:?}");
            }
            Err(_) => {}
            Ok((front, made)) if (signatures..body).contains(&at) => {
                assert_eq!(front.manifest(), original.manifest(), "byte {at}");
                assert_eq!(made, content.targets(), "byte {at}");
            }
            // Names and dates are covered by signatures alone.
            Ok((_, made)) => assert!(at < signatures && made == content.targets(), "byte {at} made something"),
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_in_front_is_refused_where_signatures_are_asked_for() {
    let (package, _, body) = signed();
    let trusted = |bytes: &[u8]| -> Result<Front, PackageError> {
        let front = read(bytes)?;
        front.verify(&[key().verifying_key()], 1)?;
        apply::body(&front, bytes)?;
        Ok(front)
    };
    assert!(trusted(&package).is_ok());

    for (at, damaged) in flips(&package).take_while(|(at, _)| *at < body) {
        assert!(trusted(&damaged).is_err(), "byte {at}");
    }
}

#[test]
fn a_flipped_bit_in_the_body_is_refused_before_anything_of_its_piece_is_written() {
    let content = Content::small();
    let (package, _, body) = signed();
    let front = read(&package).unwrap();
    let source = content.source();
    let open = |name: &_| Ok(Box::new(&source[name]) as Box<dyn relevo_format::ReadAt>);
    let source = apply::check_source(front.manifest(), open, |_| std::ops::ControlFlow::Continue(())).unwrap();

    for (at, damaged) in flips(&package).skip_while(|(at, _)| *at < body) {
        let view = apply::body(&front, &damaged).unwrap();
        let offset = (at - body) as u64;
        let pieces = &front.manifest().partitions[0].pieces;
        let hit =
            |index: usize| pieces[index].streams.iter().any(|s| (s.offset..s.offset + s.stored_len).contains(&offset));
        for index in 0..pieces.len() {
            let mut out = Vec::new();
            let made = apply::apply_piece(&front, 0, index, &source, &view, &mut out);

            if hit(index) {
                assert!(matches!(made, Err(ApplyError::StreamDiffers { .. })), "byte {at}: {made:?}");
                assert!(out.is_empty(), "byte {at}");
            } else {
                assert!(made.is_ok(), "byte {at} is none of piece {index}: {made:?}");
            }
        }
    }
}
