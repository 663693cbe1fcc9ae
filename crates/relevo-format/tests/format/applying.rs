//! Pieces whose digests are right and whose streams lie.

use std::{io, ops::ControlFlow};

use relevo_format::{
    ReadAt,
    apply::{ApplyError, apply_piece, body, check_source},
    ops::Op,
    package::{Codec, Engine, Front, Info, Limits, Manifest, Partition, Piece, Role, Stream},
};
use relevo_types::ByteLen;

use crate::fixture::{Content, PieceContent, WINDOW_LOG, encode, name, sha256, stream};

const BASE_LEN: u64 = 1000;

/// A piece that is to make `target` out of a base of zeros and these streams, put together as they are.
fn apply_streams(target: &[u8], streams: Vec<(Stream, Vec<u8>)>) -> Result<Vec<u8>, ApplyError> {
    let content = Content { bases: vec![("boot", vec![0; 1000])], ..Content::default() };
    let mut body_bytes = Vec::new();
    let mut own = Vec::new();
    for (mut stream, stored) in streams {
        stream.offset = body_bytes.len() as u64;
        own.push(stream);
        body_bytes.extend(stored);
    }
    let len = target.len() as u64;
    let piece = Piece { start: 0, len, sha256: sha256(target), engine: Engine::Bsdiff, bases: vec![0], streams: own };
    let (mut manifest, _) = content.build();
    manifest.partitions =
        vec![Partition { name: name("boot"), size: ByteLen::new(len), sha256: sha256(target), pieces: vec![piece] }];
    manifest.info = Info { memory: ByteLen::mib(16), ..Info::default() };
    let front = Front::new(manifest, &Limits::default()).unwrap();
    let package = [front.encode(), body_bytes].concat();
    let image = &content.bases[0].1;
    let open = |_: &_| Ok(Box::new(image) as Box<dyn ReadAt>);
    let source = check_source(front.manifest(), open, |_| ControlFlow::Continue(())).unwrap();
    let mut out = Vec::new();
    apply_piece(&front, 0, 0, &source, &body(&front, &package).unwrap(), &mut out)?;
    Ok(out)
}

fn ops(ops: &[Op]) -> (Stream, Vec<u8>) {
    let content = PieceContent { bases: vec![0], ops: ops.to_vec(), diff: vec![], extra: vec![], codec: Codec::Store };
    let bytes = content.ops_bytes();
    (stream(Role::Ops, Codec::Store, &bytes, bytes.len(), 0), bytes)
}

fn extra(codec: Codec, stored: Vec<u8>, raw_len: usize) -> (Stream, Vec<u8>) {
    (stream(Role::Extra, codec, &stored, raw_len, 0), stored)
}

const NEWS: &[u8] = b"news of today";

fn insert_news() -> (Stream, Vec<u8>) {
    ops(&[Op::Insert { len: NEWS.len() as u64 }])
}

#[test]
fn makes_the_piece_if_nothing_lies() {
    let made = apply_streams(NEWS, vec![insert_news(), extra(Codec::Zstd, encode(Codec::Zstd, NEWS), NEWS.len())]);

    assert_eq!(made.unwrap(), NEWS);
}

#[test]
fn refuses_a_frame_that_holds_more_than_stated() {
    let stored = encode(Codec::Zstd, &[NEWS, b"!"].concat());

    let made = apply_streams(NEWS, vec![insert_news(), extra(Codec::Zstd, stored, NEWS.len())]);

    assert!(matches!(made, Err(ApplyError::StreamLeft { role: Role::Extra, .. })), "{made:?}");
}

#[test]
fn refuses_a_frame_that_holds_less_than_stated() {
    let stored = encode(Codec::Zstd, &NEWS[..NEWS.len() - 1]);

    let made = apply_streams(NEWS, vec![insert_news(), extra(Codec::Zstd, stored, NEWS.len())]);

    assert!(matches!(made, Err(ApplyError::Stream { role: Role::Extra, .. })), "{made:?}");
}

#[test]
fn refuses_stored_bytes_behind_the_frame() {
    let frame = encode(Codec::Zstd, NEWS);
    for behind in [&b"\0"[..], &frame, &[0; 100_000]] {
        let stored = [&frame, behind].concat();

        let made = apply_streams(NEWS, vec![insert_news(), extra(Codec::Zstd, stored, NEWS.len())]);

        assert!(matches!(made, Err(ApplyError::StreamLeft { role: Role::Extra, .. })), "{made:?}");
    }
}

#[test]
fn refuses_a_frame_that_is_cut() {
    let frame = encode(Codec::Zstd, NEWS);
    for len in 0..frame.len() {
        let stored = frame[..len].to_vec();

        let made = apply_streams(NEWS, vec![insert_news(), extra(Codec::Zstd, stored, NEWS.len())]);

        assert!(matches!(made, Err(ApplyError::Stream { role: Role::Extra, .. })), "cut at {len}: {made:?}");
    }
}

#[test]
fn refuses_a_frame_with_a_larger_window_than_declared() {
    let news: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(WINDOW_LOG + 1).unwrap();
    io::copy(&mut &news[..], &mut encoder).unwrap();
    let stored = encoder.finish().unwrap();

    let insert = ops(&[Op::Insert { len: news.len() as u64 }]);
    let made = apply_streams(&news, vec![insert, extra(Codec::Zstd, stored, news.len())]);

    assert!(matches!(made, Err(ApplyError::Stream { role: Role::Extra, .. })), "{made:?}");
}

#[test]
fn refuses_a_stream_that_no_operation_uses_up() {
    for codec in [Codec::Store, Codec::Zstd] {
        let zero = ops(&[Op::Zero { len: 20 }]);
        let made = apply_streams(&[0; 20], vec![zero, extra(codec, encode(codec, NEWS), NEWS.len())]);

        assert!(matches!(made, Err(ApplyError::StreamLeft { role: Role::Extra, .. })), "{made:?}");
    }
}

#[test]
fn refuses_operations_that_need_a_stream_that_is_not_there() {
    let made = apply_streams(NEWS, vec![insert_news()]);
    assert!(matches!(made, Err(ApplyError::NoStream { role: Role::Extra, .. })), "{made:?}");

    let add = ops(&[Op::Add { base: 0, start: 0, len: 13 }]);
    let made = apply_streams(NEWS, vec![add]);
    assert!(matches!(made, Err(ApplyError::NoStream { role: Role::Diff, .. })), "{made:?}");

    let made = apply_streams(NEWS, vec![]);
    assert!(matches!(made, Err(ApplyError::NoStream { role: Role::Ops, .. })), "{made:?}");
}

#[test]
fn refuses_operations_that_use_more_of_a_stream_than_there_is() {
    for codec in [Codec::Store, Codec::Zstd] {
        let short = &NEWS[..5];
        let made = apply_streams(NEWS, vec![insert_news(), extra(codec, encode(codec, short), short.len())]);

        assert!(matches!(made, Err(ApplyError::Stream { role: Role::Extra, .. })), "{made:?}");
    }
}

#[test]
fn refuses_operations_that_make_more_or_less_than_the_piece() {
    for ops_list in [
        &[][..],
        &[Op::Zero { len: 19 }],
        &[Op::Zero { len: 21 }],
        &[Op::Zero { len: 20 }, Op::Zero { len: 1 }],
        &[Op::Zero { len: u64::MAX >> 3 }],
        &[Op::Zero { len: 10 }, Op::Zero { len: u64::MAX >> 3 }],
    ] {
        let made = apply_streams(&[0; 20], vec![ops(ops_list)]);

        assert!(matches!(made, Err(ApplyError::Length { expected: 20, .. })), "{ops_list:?}: {made:?}");
    }
}

#[test]
fn refuses_to_read_outside_of_a_base() {
    for (start, len) in [(BASE_LEN, 1), (BASE_LEN - 1, 2), (1 << 60, 20), (0, BASE_LEN + 1)] {
        let target = vec![0; usize::try_from(len).unwrap()];
        let made = apply_streams(&target, vec![ops(&[Op::Copy { base: 0, start, len }])]);

        let Err(ApplyError::OutsideBase { start: said, len: said_len, .. }) = made else { panic!("{made:?}") };
        assert_eq!((said, said_len), (start, len));
    }
    assert!(apply_streams(&[0; 1000], vec![ops(&[Op::Copy { base: 0, start: 0, len: BASE_LEN }])]).is_ok());
}

#[test]
fn refuses_damaged_operations() {
    let bytes = vec![7 << 3 | 7];
    let made = apply_streams(NEWS, vec![(stream(Role::Ops, Codec::Store, &bytes, 1, 0), bytes)]);

    assert!(matches!(made, Err(ApplyError::Operations { .. })), "{made:?}");
}

#[test]
fn refuses_a_result_that_is_not_the_one_promised() {
    let made = apply_streams(&[1; 20], vec![ops(&[Op::Zero { len: 20 }])]);

    let Err(error @ ApplyError::TargetDiffers { .. }) = made else { panic!("{made:?}") };
    assert!(error.to_string().starts_with("bytes 0+20 of boot came out with SHA-256 de47c9b27eb8d300"), "{error}");
}

#[test]
fn says_when_writing_fails() {
    struct Full;
    impl io::Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let content = Content::small();
    let package = content.package();
    let front = crate::fixture::read(&package).unwrap();
    let image = &content.bases[0].1;
    let open = |_: &_| Ok(Box::new(image) as Box<dyn ReadAt>);
    let source = check_source(front.manifest(), open, |_| ControlFlow::Continue(())).unwrap();

    let made = apply_piece(&front, 0, 0, &source, &body(&front, &package).unwrap(), &mut Full);

    assert_eq!(made.unwrap_err().to_string(), "could not write bytes 0+109 of boot");
}

#[test]
fn a_manifest_without_partitions_makes_nothing() {
    let (mut manifest, _) = Content::default().build();
    manifest.info = Info { memory: manifest.memory(), ..Info::default() };

    let front = Front::new(manifest.clone(), &Limits::default()).unwrap();

    assert_eq!(front.package_len(), front.body_offset());
    assert_eq!(Manifest::decode(&manifest.encode(), &Limits::default()).unwrap(), manifest);
}

#[test]
fn short_operations_are_written_together() {
    // Each was a write of its own, which is a system call where `out` is a file.
    struct Counted(usize, usize);
    impl io::Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            self.1 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let ops = (0..20_000).map(|at| Op::Copy { base: 0, start: at * 13 % 800, len: 7 }).collect();
    let piece = PieceContent { bases: vec![0], ops, diff: vec![], extra: vec![], codec: Codec::Zstd };
    let content =
        Content { bases: vec![("boot", vec![3; 1000])], partitions: vec![("boot", vec![piece])], removed: vec![] };
    let package = content.package();
    let front = crate::fixture::read(&package).unwrap();
    let open = |_: &_| Ok(Box::new(&content.bases[0].1) as Box<dyn ReadAt>);
    let source = check_source(front.manifest(), open, |_| ControlFlow::Continue(())).unwrap();
    let mut out = Counted(0, 0);

    apply_piece(&front, 0, 0, &source, &body(&front, &package).unwrap(), &mut out).unwrap();

    assert_eq!(out.1, 140_000);
    assert!(out.0 <= 3, "{} writes", out.0);
}
