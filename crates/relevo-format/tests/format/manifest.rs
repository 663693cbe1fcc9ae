//! Manifests that no writer of this version makes.

use relevo_format::package::{Limits, Manifest, PackageError};
use relevo_types::ByteLen;

use crate::fixture::{Content, Sections, front_of, read, sha256, text, varint};

fn small() -> Sections {
    Sections::of(&Content::small().build().0)
}

fn features(names: &[&str]) -> Vec<u8> {
    let texts: Vec<u8> = names.iter().flat_map(|name| text(name)).collect();
    [varint(names.len() as u64), texts].concat()
}

/// A manifest with one partition, whose list of pieces is `pieces`; features 0 to 3 are codec/store, codec/zstd,
/// engine/bsdiff and stream/ops.
fn with_pieces(size: u64, count: u64, pieces: &[u8]) -> Sections {
    let partition = [&text("system")[..], &varint(size), sha256(b"").as_bytes(), &varint(count), pieces].concat();
    with_partitions(&[varint(1), partition].concat())
}

fn with_partitions(partitions: &[u8]) -> Sections {
    let mut sections = small();
    *sections.get(b"FEAT") = features(&["codec/store", "codec/zstd", "engine/bsdiff", "stream/ops"]);
    *sections.get(b"INFO") = [varint(1), text("memory"), vec![4], varint(16 << 20)].concat();
    *sections.get(b"BASE") = varint(0);
    *sections.get(b"PART") = partitions.to_vec();
    *sections.get(b"GONE") = varint(0);
    sections
}

fn piece(len: u64, bases: &[u8], transforms: &[u8], streams: &[u8]) -> Vec<u8> {
    [&varint(len)[..], sha256(b"").as_bytes(), &[2], bases, transforms, streams].concat()
}

fn stream(codec: u8, window_log: u64, stored_len: u64, raw_len: u64) -> Vec<u8> {
    let numbers = [varint(window_log), varint(stored_len), varint(raw_len)].concat();
    [&[3, codec][..], &numbers, sha256(b"").as_bytes()].concat()
}

fn one_stream(len: u64, stream: Vec<u8>) -> Result<Manifest, PackageError> {
    with_pieces(len, 1, &piece(len, &[0], &[0], &[vec![1], stream].concat())).decode()
}

fn damaged(result: &Result<Manifest, PackageError>) -> &'static str {
    match result {
        Err(PackageError::Manifest(what)) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn refuses_unknown_features_by_name_even_if_nothing_uses_them() {
    let mut sections = small();
    *sections.get(b"FEAT") = features(&[
        "base/source",
        "codec/store",
        "codec/zstd",
        "engine/bsdiff",
        "engine/zucchini",
        "transform/inflate",
    ]);

    let error = sections.decode().unwrap_err();

    assert!(
        matches!(&error, PackageError::UnknownFeatures { names } if names == &["engine/zucchini", "transform/inflate"])
    );
    assert_eq!(
        error.to_string(),
        "the package needs engine/zucchini, transform/inflate, which this version does not know; update it first"
    );
}

#[test]
fn refuses_feature_names_that_are_none_or_not_in_order() {
    let long = "x".repeat(65);
    for names in [&["b", "a"][..], &["a", "a"], &[""], &[&long], &["a b"], &["engine/\u{e9}"], &["a\n"]] {
        let mut sections = small();
        *sections.get(b"FEAT") = features(names);

        assert!(damaged(&sections.decode()).starts_with("a feature") || names.len() == 2, "{names:?}");
    }
}

#[test]
fn refuses_an_unknown_critical_section_by_its_tag_and_passes_over_an_ancillary_one() {
    for at in 0..=5 {
        let mut sections = small();
        sections.0.insert(at, (*b"nOTE", vec![1, 2, 3]));
        assert_eq!(sections.decode().unwrap(), Content::small().build().0, "at {at}");

        sections.0[at].0 = *b"NOTE";
        let error = sections.decode().unwrap_err();
        assert!(matches!(&error, PackageError::UnknownSection { tag } if tag == "NOTE"), "at {at}: {error}");
    }
}

#[test]
fn refuses_sections_that_are_missing_twice_or_out_of_order() {
    for at in 0..5 {
        let mut sections = small();
        let section = sections.0.remove(at);
        damaged(&sections.decode());

        sections.0.insert(at, section.clone());
        sections.0.insert(at, section.clone());
        damaged(&sections.decode());

        sections.0.swap(at, (at + 2) % 5);
        damaged(&sections.decode());
    }
    assert_eq!(damaged(&Sections(Vec::new()).decode()), "something in it reaches past its end");
}

#[test]
fn refuses_sections_with_bytes_left_over() {
    for at in 0..5 {
        let mut sections = small();
        sections.0[at].1.push(0);

        assert_eq!(damaged(&sections.decode()), "a section is longer than its content");
    }
}

#[test]
fn refuses_an_unknown_info_entry_by_its_key_unless_it_says_that_it_may_be_passed_over() {
    let entry = |key: &str| {
        let mut sections = with_partitions(&varint(0));
        let memory = [text("memory"), vec![4], varint(16 << 20)].concat();
        *sections.get(b"INFO") = [varint(2), memory, text(key), text("value")].concat();
        sections.decode()
    };

    assert!(matches!(entry("spl"), Err(PackageError::UnknownInfo { key }) if key == "spl"));
    assert!(matches!(entry("s\x01"), Err(PackageError::UnknownInfo { key }) if key == "s\\x01"));
    assert!(entry("x-spl").is_ok());
    assert_eq!(damaged(&entry("device")), "the info entries are not in order");
    assert_eq!(damaged(&entry("memory")), "the info entries are not in order");
    // A message of megabytes was the first answer to a key of megabytes.
    assert_eq!(damaged(&entry(&"z".repeat(1 << 20))), "the key of an info entry is too long");
}

#[test]
fn refuses_bytes_behind_a_number_in_an_info_entry() {
    for (key, behind) in [("memory", 0), ("timestamp", 1)] {
        let mut sections = with_partitions(&varint(0));
        let value = [varint(16 << 20), vec![behind]].concat();
        *sections.get(b"INFO") = [varint(1), text(key), varint(value.len() as u64), value].concat();

        assert_eq!(damaged(&sections.decode()), "a section is longer than its content", "{key}");
    }
}

#[test]
fn refuses_a_manifest_that_declares_less_memory_than_its_pieces_need() {
    let (mut manifest, _) = Content::small().build();
    manifest.info.memory = ByteLen::new(manifest.memory().get() - 1);

    let decoded = Manifest::decode(&manifest.encode(), &Limits::default());

    assert_eq!(damaged(&decoded), "the pieces need more memory than the manifest declares");
}

#[test]
fn refuses_a_window_beyond_the_declared_memory() {
    // Two MiB over all that is declared.
    let window_over = one_stream(100, stream(1, 24, 10, 10));

    assert_eq!(damaged(&window_over), "the pieces need more memory than the manifest declares");
    assert!(one_stream(100, stream(1, 23, 10, 10)).is_ok());
}

#[test]
fn refuses_windows_that_do_not_fit_their_codec() {
    for (codec, window_log) in [(1, 0), (1, 9), (1, 32), (1, u64::MAX), (0, 1), (0, 20)] {
        damaged(&one_stream(100, stream(codec, window_log, 10, 10)));
    }
    damaged(&one_stream(100, stream(0, 0, 10, 11)));
}

#[test]
fn refuses_pieces_that_do_not_cover_their_partition() {
    let pieces = |size, lens: &[u64]| {
        let pieces: Vec<u8> = lens.iter().flat_map(|&len| piece(len, &[0], &[0], &[0])).collect();
        with_pieces(size, lens.len() as u64, &pieces).decode()
    };

    assert!(pieces(30, &[10, 20]).is_ok());
    assert!(pieces(0, &[]).is_ok());
    assert_eq!(damaged(&pieces(31, &[10, 20])), "the pieces do not cover their partition");
    assert_eq!(damaged(&pieces(29, &[10, 20])), "the pieces do not cover their partition");
    assert_eq!(damaged(&pieces(30, &[])), "the pieces do not cover their partition");
    assert_eq!(damaged(&pieces(10, &[10, 0])), "a piece of length 0");
    assert_eq!(damaged(&pieces(9, &[u64::MAX, 10])), "a partition is over 2^64 bytes");
}

#[test]
fn refuses_streams_that_sum_up_to_more_than_64_bits() {
    let streams = |stored_len| {
        let streams = [vec![1], stream(1, 10, stored_len, 10)].concat();
        let piece = piece(1, &[0], &[0], &streams);
        with_pieces(2, 2, &[piece.clone(), piece].concat()).decode()
    };

    assert!(streams(u64::MAX / 2).is_ok());
    assert_eq!(damaged(&streams(u64::MAX / 2 + 1)), "the body is over 2^64 bytes");
    assert_eq!(damaged(&streams(u64::MAX)), "the body is over 2^64 bytes");
}

#[test]
fn a_body_of_almost_64_bits_is_a_wrong_length_not_an_overflow() {
    let streams = [vec![1], stream(1, 10, u64::MAX, 10)].concat();
    let raw = with_pieces(1, 1, &piece(1, &[0], &[0], &streams)).bytes();

    let front = read(&front_of(&raw)).unwrap();

    assert!(matches!(front.check_len(ByteLen::new(1 << 40)), Err(PackageError::Length { .. })));
    assert!(relevo_format::apply::body(&front, &raw).is_err());
}

#[test]
fn refuses_streams_that_hold_more_than_their_piece_can_use() {
    // Without this, a few KB of zstd made hours of work that wrote nothing.
    assert!(one_stream(2, stream(1, 10, 10, 60)).is_ok());
    assert_eq!(damaged(&one_stream(2, stream(1, 10, 10, 61))), "a stream holds more than its piece can use");

    let (mut manifest, _) = Content::small().build();
    let piece = &mut manifest.partitions[0].pieces[0];
    piece.streams[1].raw_len = piece.len - piece.streams[2].raw_len;
    assert!(Manifest::decode(&manifest.encode(), &Limits::default()).is_ok());
    manifest.partitions[0].pieces[0].streams[1].raw_len += 1;
    let decoded = Manifest::decode(&manifest.encode(), &Limits::default());
    assert_eq!(damaged(&decoded), "a stream holds more than its piece can use");
}

#[test]
fn refuses_a_role_that_comes_twice() {
    let streams = [vec![2], stream(0, 0, 1, 1), stream(0, 0, 1, 1)].concat();

    damaged(&with_pieces(1, 1, &piece(1, &[0], &[0], &streams)).decode());
}

#[test]
fn refuses_bases_and_transforms_that_do_not_exist() {
    let bases = |list: &[u8]| with_pieces(1, 1, &piece(1, list, &[0], &[0])).decode();
    assert!(matches!(bases(&[1, 0]), Err(PackageError::Limit { what: "bases of a piece", found: 1, limit: 0 })));

    let mut content = Content::small();
    content.partitions[0].1[0].bases = vec![0];
    let (mut manifest, _) = content.build();
    manifest.partitions[0].pieces[0].bases = vec![1];
    let decoded = Manifest::decode(&manifest.encode(), &Limits::default());
    assert_eq!(damaged(&decoded), "a piece names a base that does not exist");

    let transforms = with_pieces(1, 1, &piece(1, &[0], &[1, 0], &[0])).decode();
    assert_eq!(damaged(&transforms), "a piece has a transform, but no transform is defined");
}

#[test]
fn refuses_features_of_another_kind_or_beyond_the_table() {
    for codec in [2, 3, 4, 100] {
        let kind = damaged(&one_stream(100, stream(codec, 0, 10, 10)));
        assert!(kind.starts_with("a feature"), "{codec}: {kind}");
    }
}

#[test]
fn refuses_names_that_come_twice() {
    let partition = |name: &str| [&text(name)[..], &[0], sha256(b"").as_bytes(), &[0]].concat();
    let made = |names: &[&str]| {
        let partitions: Vec<u8> = names.iter().flat_map(|name| partition(name)).collect();
        with_partitions(&[varint(names.len() as u64), partitions].concat())
    };
    assert!(made(&["system", "vendor"]).decode().is_ok());
    assert_eq!(damaged(&made(&["system", "system"]).decode()), "a partition is named twice");

    let removed = |names: &[&str]| {
        let mut sections = made(&["system"]);
        *sections.get(b"GONE") = features(names);
        sections.decode()
    };
    let twice = "a partition is removed twice, or made as well as removed";
    assert!(removed(&["splash", "boot"]).is_ok());
    assert_eq!(damaged(&removed(&["splash", "splash"])), twice);
    assert_eq!(damaged(&removed(&["system"])), twice);

    let (mut manifest, _) = Content::small().build();
    manifest.bases.push(manifest.bases[0].clone());
    assert_eq!(damaged(&Manifest::decode(&manifest.encode(), &Limits::default())), "a base is named twice");
}

#[test]
fn refuses_names_that_would_leave_their_directory() {
    for name in ["..", "../boot", "a/b", "a\0", &"x".repeat(100), "\u{202e}boot"] {
        let partition = [&text(name)[..], &[0], sha256(b"").as_bytes(), &[0]].concat();

        let error = with_partitions(&[varint(1), partition].concat()).decode().unwrap_err();

        assert!(matches!(error, PackageError::Name(_)), "{name:?}: {error}");
    }
}

#[test]
fn refuses_too_many_of_everything() {
    let limit = |result: Result<Manifest, PackageError>| match result {
        Err(PackageError::Limit { what, found, limit }) => (what, found, limit),
        other => panic!("{other:?}"),
    };
    let list = |tag: &[u8; 4], count| {
        let mut sections = with_partitions(&varint(0));
        *sections.get(tag) = varint(count);
        limit(sections.decode())
    };
    assert_eq!(list(b"FEAT", 257), ("features", 257, 256));
    assert_eq!(list(b"INFO", u64::MAX), ("info entries", u64::MAX, 64));
    assert_eq!(list(b"BASE", 129), ("bases", 129, 128));
    assert_eq!(list(b"PART", 129), ("partitions", 129, 128));
    assert_eq!(list(b"GONE", 129), ("removed partitions", 129, 128));
    assert_eq!(limit(with_pieces(1, 65_537, &[]).decode()), ("pieces", 65_537, 65_536));
    let streams = with_pieces(1, 1, &piece(1, &[0], &[0], &[17]));
    assert_eq!(limit(streams.decode()), ("streams of a piece", 17, 16));
    assert_eq!(limit(with_pieces((1 << 40) + 1, 0, &[]).decode()), ("bytes of a partition", (1 << 40) + 1, 1 << 40));
}

#[test]
fn refuses_counts_that_the_bytes_behind_them_cannot_hold() {
    for (tag, count) in [(b"FEAT", 256), (b"INFO", 64), (b"BASE", 128), (b"PART", 128), (b"GONE", 128)] {
        let mut sections = with_partitions(&varint(0));
        *sections.get(tag) = varint(count);

        assert_eq!(damaged(&sections.decode()), "something in it reaches past its end");
    }
    assert_eq!(damaged(&with_pieces(1, 65_536, &[0; 1000]).decode()), "something in it reaches past its end");
}

#[test]
fn refuses_numbers_over_64_bits_or_longer_than_need_be() {
    for number in [&[0x80, 0][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]] {
        assert_eq!(damaged(&with_partitions(number).decode()), "a number is over 64 bits or longer than need be");
    }
}
