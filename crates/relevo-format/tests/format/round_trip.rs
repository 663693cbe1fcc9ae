//! What is written is read back, and what is made is what the model makes.

use crate::fixture::{Content, PieceContent, apply, name, read, sha256};
use proptest::prelude::*;
use relevo_format::{
    ops::Op,
    package::{Base, BaseKind, Codec, Engine, Front, Info, Limits, Manifest, Partition, Piece, Role, Stream},
};
use relevo_types::{BuildId, ByteLen, Codename, PartitionName};

fn names(max: usize) -> impl Strategy<Value = Vec<PartitionName>> {
    prop::collection::btree_set("[A-Za-z0-9][a-z0-9._+-]{0,12}", 0..max)
        .prop_map(|names| names.iter().map(|text| name(text)).collect())
}

/// A piece without its position and its streams' offsets.
fn piece(bases: usize) -> impl Strategy<Value = Piece> {
    let codec = prop_oneof![Just((Codec::Store, 0)), (10..24_u32).prop_map(|log| (Codec::Zstd, log))];
    let streams = prop::collection::vec((codec, 0..1_u64 << 30, 0..100_u64, any::<u8>()), 3);
    let own = prop::collection::vec(0..u32::try_from(bases.max(1)).unwrap(), 0..=bases.min(5));
    (200..1_u64 << 34, any::<u8>(), own, streams, prop::sample::subsequence(vec![0, 1, 2], 0..=3).prop_shuffle())
        .prop_map(|(len, digest, own, streams, roles)| Piece {
            start: 0,
            len,
            sha256: sha256(&[digest]),
            engine: Engine::Bsdiff,
            bases: own,
            streams: roles
                .into_iter()
                .map(|role| {
                    let ((codec, window_log), stored_len, raw_len, digest) = streams[role];
                    let stored_len = if codec == Codec::Store { raw_len } else { stored_len };
                    let role = [Role::Ops, Role::Diff, Role::Extra][role];
                    let sha256 = sha256(&[digest]);
                    Stream { role, codec, offset: 0, stored_len, raw_len, window_log, sha256 }
                })
                .collect(),
        })
}

prop_compose! {
    fn manifest()(bases in names(6), mut made in names(12))(
        pieces in prop::collection::vec(prop::collection::vec(piece(bases.len()), 0..4), made.len()),
        gone in 0..=made.len(),
        sizes in prop::collection::vec(0..1_u64 << 40, bases.len()),
        device in prop::option::of("[a-z][a-z0-9_]{0,9}"),
        builds in prop::option::of(("[a-zA-Z0-9][a-zA-Z0-9.+]{0,20}", "[0-9]{1,8}")),
        timestamp in prop::option::of(any::<u64>()),
        spare in 0..1_u64 << 40,
        bases in Just(bases.clone()),
        made in Just(std::mem::take(&mut made)),
    ) -> Manifest {
        let mut offset = 0;
        let bases: Vec<_> = bases.into_iter().zip(sizes).map(|(partition, size)| Base {
            kind: BaseKind::Source, partition, size: ByteLen::new(size), sha256: sha256(&size.to_le_bytes()),
        }).collect();
        let (removed, made) = made.split_at(gone);
        let partitions = made.iter().zip(pieces).map(|(name, mut pieces)| {
            let mut start = 0;
            for piece in &mut pieces {
                piece.start = start;
                start += piece.len;
                for stream in &mut piece.streams {
                    stream.offset = offset;
                    offset += stream.stored_len;
                }
            }
            Partition { name: name.clone(), size: ByteLen::new(start), sha256: sha256(&[1]), pieces }
        }).collect();
        let (from, to) = builds.unzip();
        let info = Info {
            device: device.map(|text| Codename::parse(&text).unwrap()),
            from: from.map(|text| BuildId::parse(&text).unwrap()),
            to: to.map(|text| BuildId::parse(&text).unwrap()),
            timestamp,
            memory: ByteLen::ZERO,
        };
        let mut manifest = Manifest { info, bases, partitions, removed: removed.to_vec() };
        manifest.info.memory = ByteLen::new(manifest.memory().get() + spare);
        manifest
    }
}

/// A piece over two bases of 300,000 bytes: short operations, long ones, near ones and far ones.
fn content() -> impl Strategy<Value = PieceContent> {
    const BASE: u64 = 300_000;
    let len = prop_oneof![8 => 1..200_u64, 1 => 1..BASE];
    let op = (0..5_u8, 0..2_u32, 0..BASE, len).prop_map(|(kind, base, start, len)| {
        let near = len.min(BASE - start);
        match kind {
            0 | 4 => Op::Copy { base, start, len: near },
            1 => Op::Add { base, start, len: near },
            2 => Op::Insert { len },
            _ => Op::Zero { len },
        }
    });
    let codec = prop_oneof![Just(Codec::Store), Just(Codec::Zstd)];
    (prop::collection::vec(op, 1..40), codec, any::<u8>(), prop::sample::select(vec![[0, 1], [1, 0], [1, 1]])).prop_map(
        |(ops, codec, seed, bases)| {
            let noise = |len: u64| (0..len).map(|at| ((at * 31) >> 3).to_le_bytes()[0] ^ seed).collect();
            let sum = |wanted: fn(&Op) -> bool| ops.iter().filter(|op| wanted(op)).map(Op::len).sum();
            let diff = noise(sum(|op| matches!(op, Op::Add { .. })));
            let extra = noise(sum(|op| matches!(op, Op::Insert { .. })));
            PieceContent { bases: bases.to_vec(), ops, diff, extra, codec }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_manifest_is_read_as_it_was_written(manifest in manifest()) {
        let limits = Limits { memory: ByteLen::new(u64::MAX), ..Limits::default() };

        let front = Front::new(manifest.clone(), &limits).unwrap();
        let bytes = front.encode();

        let read = Front::read(&mut &bytes[..], &limits).unwrap();
        prop_assert_eq!(read.manifest(), &manifest);
        prop_assert_eq!(read.manifest().encode(), manifest.encode());
        prop_assert_eq!(read.body_offset().get(), bytes.len() as u64);
        prop_assert_eq!(read, front);
    }

    #[test]
    fn a_package_makes_what_the_model_makes(pieces in prop::collection::vec(content(), 1..4), other in content()) {
        let noise = |seed: u64| (0..300_000_u64).map(|at| (((at * at) >> 7) ^ (at * seed)).to_le_bytes()[0]).collect();
        let content = Content {
            bases: vec![("boot", noise(1)), ("system", noise(3))],
            partitions: vec![("system", pieces), ("vendor", vec![other]), ("empty", vec![])],
            removed: vec!["boot"],
        };
        let package = content.package();

        let made = apply(&read(&package).unwrap(), &package, &content.source()).unwrap();

        prop_assert!(made == content.targets());
    }

    #[test]
    fn no_bytes_make_the_manifest_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Manifest::decode(&bytes, &Limits::default());
        let _ = Front::read(&mut &bytes[..], &Limits::default());
    }
}

#[test]
fn equal_manifests_give_equal_bytes() {
    assert_eq!(Content::small().package(), Content::small().package());
}

#[test]
fn refuses_to_write_what_it_would_not_read() {
    let (mut manifest, _) = Content::small().build();
    manifest.partitions[0].pieces[1].start += 1;

    assert!(Front::new(manifest, &Limits::default()).is_err());
}
