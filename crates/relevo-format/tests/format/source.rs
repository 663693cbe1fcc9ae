//! Nothing is made out of a source that is not the one named.

use std::{io, ops::ControlFlow};

use relevo_format::{
    ReadAt,
    apply::{ApplyError, VerifiedSource, apply_piece, body, check_source},
    package::Manifest,
};
use relevo_types::{ByteLen, PartitionName};

use crate::fixture::{Content, read};

fn check(manifest: &Manifest, image: Vec<u8>) -> Result<VerifiedSource<'static>, ApplyError> {
    let mut image = Some(image);
    let open = |_: &PartitionName| Ok(Box::new(image.take().unwrap()) as Box<dyn ReadAt>);
    check_source(manifest, open, |_| ControlFlow::Continue(()))
}

#[test]
fn refuses_a_source_with_any_bit_changed() {
    let (manifest, _) = Content::small().build();
    let image = &Content::small().bases[0].1;
    assert!(check(&manifest, image.clone()).is_ok());

    for bit in 0..image.len() * 8 {
        let mut image = image.clone();
        image[bit / 8] ^= 1 << (bit % 8);

        let error = check(&manifest, image).unwrap_err();

        assert!(matches!(error, ApplyError::SourceDiffers { .. }), "{error}");
    }
}

#[test]
fn refuses_a_source_of_another_length() {
    let (manifest, _) = Content::small().build();
    for len in [0, 255, 257, 4096] {
        let mut image = Content::small().bases[0].1.clone();
        image.resize(len, 0);

        let error = check(&manifest, image).unwrap_err();

        assert_eq!(
            error.to_string(),
            format!("partition boot of the source is {len} bytes long; the package starts from 256 bytes")
        );
    }
}

#[test]
fn says_which_source_could_not_be_opened_or_read() {
    struct Broken;
    impl ReadAt for Broken {
        fn len(&self) -> ByteLen {
            ByteLen::new(256)
        }

        fn read_exact_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }
    let (manifest, _) = Content::small().build();
    let go_on = |_| ControlFlow::Continue(());

    let opened = check_source(&manifest, |_| Err(io::ErrorKind::NotFound.into()), go_on).unwrap_err();
    let read = check_source(&manifest, |_| Ok(Box::new(Broken) as Box<dyn ReadAt>), go_on).unwrap_err();

    for error in [opened, read] {
        assert_eq!(error.to_string(), "could not read partition boot of the source");
    }
}

#[test]
fn stops_when_told_to() {
    let (manifest, _) = Content::small().build();
    let image = Content::small().bases[0].1.clone();

    let open = |_: &PartitionName| Ok(Box::new(image.clone()) as Box<dyn ReadAt>);
    let stopped = check_source(&manifest, open, |_| ControlFlow::Break(()));

    assert!(matches!(stopped, Err(ApplyError::Stopped)));
}

#[test]
fn a_source_that_was_checked_for_one_package_is_refused_for_another() {
    let package = Content::small().package();
    let front = read(&package).unwrap();
    let mut other = Content::small();
    other.bases[0].1[0] ^= 1;
    let (other_manifest, _) = other.build();
    let source = check(&other_manifest, other.bases[0].1.clone()).unwrap();
    let nothing = check(&Content::default().build().0, Vec::new()).unwrap();

    for source in [source, nothing] {
        let mut out = Vec::new();
        let refused = apply_piece(&front, 0, 0, &source, &body(&front, &package).unwrap(), &mut out);

        assert!(matches!(refused, Err(ApplyError::OtherSource)));
        assert!(out.is_empty());
    }
}

#[test]
fn asking_for_a_piece_that_does_not_exist_is_an_error() {
    let content = Content::small();
    let package = content.package();
    let front = read(&package).unwrap();
    let source = check(front.manifest(), content.bases[0].1.clone()).unwrap();
    let body = body(&front, &package).unwrap();

    for (partition, piece) in [(0, 2), (1, 0), (2, 0), (usize::MAX, usize::MAX)] {
        let refused = apply_piece(&front, partition, piece, &source, &body, &mut Vec::new());

        assert!(matches!(refused, Err(ApplyError::NoSuchPiece { .. })), "{partition} {piece}");
    }
}
