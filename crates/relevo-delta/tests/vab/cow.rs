//! Estimates of snapshots, against snapshots that are written.

use std::{collections::BTreeMap, fs, path::Path, sync::OnceLock};

use proptest::prelude::*;
use relevo_delta::ab::{
    cow::{Compression, CowError, Estimate, Settings, estimate},
    merge,
};
use relevo_format::payload::{self, Extent, Fec, Partition, Payload, Verity};

use crate::{
    build::{BLOCK, Build, noise, text},
    merge::mixed,
    writer::{Phone, install, read_and_merge},
};

const COMPRESSIONS: [Compression; 5] =
    [Compression::None, Compression::Gz(9), Compression::Brotli(3), Compression::Lz4, Compression::Zstd(3)];
const V2: Settings = Settings { version: 2, compression: Compression::Gz(9), factor: 4096, xor: true };
const V3: Settings = Settings { version: 3, compression: Compression::Lz4, factor: 65536, xor: true };

fn planned(mut build: Build, settings: &Settings) -> Build {
    let merge = merge::plan(&build.partition, &build.blobs, build.old(), build.new_image(), settings);
    build.partition.merge_operations = merge.unwrap();
    build
}

fn estimated(build: &Build, settings: &Settings) -> Estimate {
    estimate(&build.partition, build.old(), build.new_image(), settings).unwrap()
}

/// Installs with room for as much as was estimated; gives how large it got.
fn check(build: &Build, settings: Settings, cluster: usize, stores_what_stays: bool) -> u64 {
    let estimate = estimated(build, &settings);
    let phone = Phone { settings, cluster, op_count_max: estimate.op_count_max, stores_what_stays };

    let snapshot = install(build, phone);

    let len = snapshot.len() as u64;
    assert!(len <= estimate.size, "{settings:?}: {len} bytes, estimated {estimate:?}");
    // And what was written is an update.
    assert!(read_and_merge(build, phone, &snapshot) == build.new, "{settings:?}: the merge makes other bytes");
    len
}

#[test]
fn no_snapshot_is_larger_than_estimated() {
    let pieces =
        [(0, 3, 40, 7), (2, 9, 60, 8), (4, 0, 300, 5), (3, 1, 9, 1), (2, 70, 20, 100), (0, 0, 50, 9), (1, 5, 9, 60)];
    for compression in COMPRESSIONS {
        for (version, factor, xor) in [(2, 4096, true), (2, 4096, false), (3, 4096, true), (3, 262_144, true)] {
            let settings = Settings { version, compression, factor, xor };
            let build = planned(mixed(&pieces), &settings);
            let dry_run = estimated(&build, &settings).dry_run;
            for cluster in [200, 1024] {
                let len = check(&build, settings, cluster, version == 2);
                // Room for labels and operations that are not written, and one cluster.
                assert!(dry_run <= len + 80_000, "{settings:?}: {len} bytes, {dry_run} by the dry run");
            }
        }
    }
}

#[test]
fn what_does_not_compress_takes_more_than_itself_in_format_2() {
    let mut build = Build::new(Vec::new());
    build.replace(&noise(7, 300 * BLOCK));
    for compression in COMPRESSIONS {
        check(&build, Settings { compression, ..V2 }, 1024, false);
        check(&build, Settings { compression, ..V3 }, 1024, false);
    }
    assert!(estimated(&build, &V2).dry_run > (2 << 20) + 300 * (BLOCK as u64 + 11 + 20));
}

#[test]
fn what_the_phone_computes_counts_block_by_block() {
    let mut build = Build::new(Vec::new());
    build.replace(&text(7, 300 * BLOCK));
    let extent = Extent { start: 300, blocks: 20 };
    build.new.extend_from_slice(&noise(8, 20 * BLOCK));
    build.partition.new.size = relevo_types::ByteLen::new(build.new.len() as u64);
    let data = Extent { start: 0, blocks: 300 };
    build.partition.verity = Some(Verity { hash_tree: None, fec: Some(Fec { data, fec: extent, roots: 2 }) });

    check(&build, V3, 0, false);
    check(&build, V2, 200, false);
    // 18 of 64 KiB, one of 32 and two of 16; then each by itself; and some more.
    assert!(estimated(&build, &V3).op_count_max >= 20 + 20 + 25);
}

#[test]
fn differences_count_only_where_they_are_written() {
    let mut build = Build::new(noise(1, 100 * BLOCK));
    let mut new = build.old[10..90 * BLOCK + 10].to_vec();
    new.iter_mut().step_by(997).for_each(|byte| *byte ^= 1);
    build.patch(10, &new);
    let build = planned(build, &V3);

    let with = estimated(&build, &V3).size;
    let unknown = estimated(&build, &Settings { xor: false, ..V3 }).size;

    assert!(with + 80 * (BLOCK as u64) < unknown, "{with} and {unknown}");
    check(&build, Settings { xor: false, ..V3 }, 0, false);
    check(&build, V3, 0, false);
}

#[test]
fn a_build_that_stays_takes_almost_nothing() {
    let mut build = Build::new(noise(1, 100 * BLOCK));
    build.copy(&[(0, 100)]);
    let stays = estimated(&build, &V2).size;

    let listed = estimated(&planned(build, &V2), &V2).size;

    // Not listed, Android 12 stores it all.
    assert!(listed < (2 << 20) + 65536 && stays > listed + 100 * BLOCK as u64, "{listed} and {stays}");
}

#[test]
fn settings_that_no_phone_has_are_refused() {
    let mut build = Build::new(Vec::new());
    build.zero(1);
    let run = |settings| estimate(&build.partition, build.old(), build.new_image(), &settings).unwrap_err();

    assert!(matches!(run(Settings { version: 1, ..V3 }), CowError::Version(1)));
    assert!(matches!(run(Settings { version: 4, ..V3 }), CowError::Version(4)));
    for factor in [0, 2048, 12288, 524_288] {
        assert!(matches!(run(Settings { factor, ..V3 }), CowError::Factor(found) if found == factor));
    }
    let other = estimate(&build.partition, build.old(), &vec![0; 2 * BLOCK], &V3).unwrap_err();
    assert!(matches!(other, CowError::Size { what: "the new image", expected: 4096, actual: 8192 }));
}

#[test]
fn compressions_are_read_as_manifests_have_them() {
    for (text, compression, back) in [
        ("", Compression::Gz(9), "gz"),
        ("gz", Compression::Gz(9), "gz"),
        ("gz,3", Compression::Gz(3), "gz,3"),
        ("brotli", Compression::Brotli(11), "brotli"),
        ("lz4", Compression::Lz4, "lz4"),
        ("zstd,-7", Compression::Zstd(-7), "zstd,-7"),
        ("zstd,3", Compression::Zstd(3), "zstd"),
        ("none", Compression::None, "none"),
    ] {
        let parsed: Compression = text.parse().unwrap();
        assert_eq!((parsed, &*parsed.to_string()), (compression, back));
    }
    for text in ["xz", "gz,10", "gz,-1", "gz,3,4", "brotli,12", "zstd,23", "zstd,", " gz"] {
        assert!(matches!(text.parse::<Compression>(), Err(CowError::Compression(_))), "{text}");
    }
}

/// Images of AOSP's sample, by path in the archive.
fn images() -> &'static BTreeMap<String, Vec<u8>> {
    static IMAGES: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let tar = zstd::decode_all(&sample("images.tar.zst")[..]).unwrap();
        let mut images = BTreeMap::new();
        let mut rest = &tar[..];
        while let Some((header, body)) = rest.split_first_chunk::<512>().filter(|(header, _)| header[0] != 0) {
            let text = |range: std::ops::Range<usize>| {
                let bytes = &header[range];
                let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
                String::from_utf8(bytes[..end].to_vec()).unwrap()
            };
            let len = usize::from_str_radix(text(124..136).trim(), 8).unwrap();
            images.insert(text(0..100), body[..len].to_vec());
            rest = &body[len.next_multiple_of(512)..];
        }
        images
    })
}

fn sample(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/aosp").join(name)).unwrap()
}

/// A partition of AOSP's Virtual A/B sample.
fn aosp(name: &str) -> Build {
    let bytes = sample("vabc.bin");
    let payload = Payload::read(&bytes, &payload::Limits::default()).unwrap();
    let partition: Partition =
        payload.manifest().partitions.iter().find(|partition| partition.name.as_str() == name).unwrap().clone();
    let image = |build: &str| images()[&format!("{build}/{name}.img")].clone();
    let blobs = bytes[payload.blobs_offset().get() as usize..].to_vec();
    Build { old: image("old"), new: image("new"), blobs, partition }
}

#[test]
fn what_aosp_estimates_is_estimated_here_too() {
    // What AOSP's generator put into the manifest, with 1 % on top: bytes, operations.
    for (name, size, operations) in [("system", 3_140_158, 12_106), ("product", 3_473_318, 1_776)] {
        let build = aosp(name);
        assert_eq!(build.partition.estimate_cow_size, Some(size));
        assert_eq!(build.partition.estimate_op_count_max, Some(operations));

        let estimate = estimated(&build, &V3);
        let len = check(&build, V3, 0, false);

        // The same within a thousandth, but for the room that is made for more operations.
        let room = 16 * (estimate.op_count_max - operations) * 101 / 100;
        assert!(estimate.size.abs_diff(size + room) < size / 1000, "{name}: {estimate:?}, written {len}, AOSP {size}");
        assert!((operations..=operations + operations / 50 + 25).contains(&estimate.op_count_max), "{estimate:?}");
    }
}

#[test]
fn a_merge_of_aosps_operations_stores_less() {
    for name in ["system", "product"] {
        let build = aosp(name);
        let theirs = estimated(&build, &V3).dry_run;

        let build = planned(build, &V3);

        let ours = check(&build, V3, 0, false);
        assert!(ours <= theirs, "{name}: {ours}, with AOSP's merge {theirs}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn estimates_never_fall_short(
        pieces in prop::collection::vec((0_u8..5, 0_usize..128, 1_usize..64, 0_usize..8192), 1..16),
        compression in prop::sample::select(&COMPRESSIONS[..]),
        version in 2_u32..=3,
        factor in 12_u32..=18,
        (planned_with, written_with) in prop::sample::select(vec![(true, true), (true, false), (false, false)]),
    ) {
        let settings = Settings { version, compression, factor: 1 << factor, xor: planned_with };
        let build = planned(mixed(&pieces), &settings);

        check(&build, Settings { xor: written_with, ..settings }, 200, version == 2);
    }
}
