//! Orders of merging.

use proptest::prelude::*;
use relevo_delta::ab::{
    cow::{Compression, Settings},
    merge,
};
use relevo_format::payload::{Extent, MergeKind, MergeOperation};

use crate::{
    build::{BLOCK, Build, noise, text},
    device::{self, Direction},
};

const COPIES: Settings = Settings { version: 3, compression: Compression::Lz4, factor: 65536, xor: false };
const XOR: Settings = Settings { xor: true, ..COPIES };

fn plan(build: &Build, settings: &Settings) -> Vec<MergeOperation> {
    merge::plan(&build.partition, &build.blobs, build.old(), build.new_image(), settings).unwrap()
}

fn copy(source: u64, target: u64, blocks: u64) -> MergeOperation {
    let extent = |start| Extent { start, blocks };
    MergeOperation { kind: MergeKind::Copy, source: Some(extent(source)), target: extent(target), source_offset: 0 }
}

/// Blocks that are made of old ones.
fn moved(merge: &[MergeOperation]) -> u64 {
    merge.iter().filter(|step| device::moves(step)).map(|step| step.target.blocks).sum()
}

fn check(build: &Build, merge: &[MergeOperation]) {
    for direction in [Direction::Up, Direction::Down] {
        for xor in [true, false] {
            assert!(device::merge(build, merge, xor, direction) == build.new, "{direction:?}, xor {xor}: other bytes");
        }
    }
}

#[test]
fn reads_before_it_overwrites() {
    let mut build = Build::new(noise(1, 6 * BLOCK));
    // A chain: 3 is read before it is written, 0 before that.
    build.copy(&[(3, 1), (0, 1), (2, 1), (1, 1), (4, 2)]);

    let merge = plan(&build, &COPIES);

    // 0 <- 3 <- 1 <- 0 is a circle of three; one block of it is stored.
    assert_eq!(moved(&merge), 2);
    check(&build, &merge);
}

#[test]
fn blocks_that_stay_are_listed_last() {
    let mut build = Build::new(noise(1, 4 * BLOCK));
    build.copy(&[(0, 1), (3, 1), (2, 1), (2, 1)]);

    let merge = plan(&build, &COPIES);

    assert_eq!(merge, [copy(3, 1, 1), copy(2, 3, 1), copy(0, 0, 1), copy(2, 2, 1)]);
    check(&build, &merge);
}

#[test]
fn of_two_runs_that_change_places_one_is_stored() {
    let mut build = Build::new([noise(1, 100 * BLOCK), text(2, 100 * BLOCK)].concat());
    build.copy(&[(100, 100)]);
    build.copy(&[(0, 100)]);

    let merge = plan(&build, &COPIES);

    // The one that compresses is left out, as a whole: the other is moved in one step.
    assert_eq!(merge, [copy(0, 100, 100)]);
    check(&build, &merge);
}

#[test]
fn of_steps_in_a_circle_only_the_part_is_stored_that_closes_it() {
    let mut build = Build::new(noise(1, 100 * BLOCK));
    // Blocks 95 to 99 go to the front, and the rest behind them; the front's part of the circle is the smaller.
    build.copy(&[(95, 5)]);
    build.copy(&[(0, 40)]);
    build.replace(&noise(2, 50 * BLOCK));
    build.copy(&[(40, 5)]);

    let merge = plan(&build, &COPIES);

    assert_eq!(moved(&merge), 45);
    check(&build, &merge);
}

#[test]
fn runs_that_overlap_themselves_are_cut() {
    for (source, target) in [(7, 0), (0, 7)] {
        let mut build = Build::new(noise(1, 32 * BLOCK));
        if target > 0 {
            build.replace(&noise(2, 7 * BLOCK));
        }
        build.copy(&[(source, 24)]);

        let merge = plan(&build, &COPIES);

        let lens: Vec<_> = merge.iter().map(|step| step.target.blocks).collect();
        assert_eq!(lens.iter().sum::<u64>(), 24);
        assert!(lens.iter().all(|&len| len <= 7), "{lens:?}");
        check(&build, &merge);
    }
}

#[test]
fn what_is_like_old_bytes_is_a_difference_to_them() {
    for (shift, zucchini) in [0, 1, BLOCK, BLOCK + 100, 40 * BLOCK].into_iter().flat_map(|by| [(by, false), (by, true)])
    {
        let mut build = Build::new(noise(1, 100 * BLOCK));
        let mut new = build.old[shift..shift + 50 * BLOCK].to_vec();
        new.iter_mut().step_by(97).for_each(|byte| *byte ^= 1);
        build.patch_by(zucchini, shift, &new);

        let merge = plan(&build, &XOR);

        assert_eq!(merge.iter().map(|step| step.target.blocks).sum::<u64>(), 50, "{shift}");
        assert!(merge.iter().all(|step| step.kind == MergeKind::Xor && step.source_offset as usize == shift % BLOCK));
        check(&build, &merge);
        assert_eq!(plan(&build, &COPIES), []);
    }
}

#[test]
fn what_compresses_as_well_by_itself_is_no_difference() {
    let mut build = Build::new(noise(1, 50 * BLOCK));
    build
        .patch(0, &noise(1, 10 * BLOCK).iter().enumerate().map(|(at, byte)| byte ^ (at % 2) as u8).collect::<Vec<_>>());
    build.patch(10 * BLOCK, &vec![0; 10 * BLOCK]);
    build.patch(20 * BLOCK, &noise(3, 10 * BLOCK));

    let merge = plan(&build, &XOR);

    // Only the first one is: bits that are alike are few in noise, and zeros are short.
    assert_eq!(merge.iter().map(|step| step.target).collect::<Vec<_>>(), [Extent { start: 0, blocks: 10 }]);
    check(&build, &merge);
}

#[test]
fn the_end_of_the_old_image_is_not_read_beyond() {
    let mut build = Build::new(noise(1, 20 * BLOCK));
    let mut new = build.old[100..].to_vec();
    new.resize(20 * BLOCK, 7);
    build.patch(100, &new);

    let merge = plan(&build, &XOR);

    assert_eq!(merge.iter().map(|step| step.target.blocks).sum::<u64>(), 19);
    check(&build, &merge);
}

#[test]
fn the_plan_does_not_depend_on_threads() {
    let build = mixed(&[(0, 3, 40, 7), (2, 9, 30, 8), (0, 60, 30, 0), (3, 1, 9, 1), (2, 70, 20, 100), (0, 0, 50, 9)]);
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| plan(&build, &XOR))
    };

    assert_eq!(with(1), with(4));
}

/// A build of pieces: kind, where in the old image, how many blocks, something else.
pub(crate) fn mixed(pieces: &[(u8, usize, usize, usize)]) -> Build {
    let blocks = 128;
    let mut build = Build::new([text(3, blocks / 2 * BLOCK), noise(4, blocks / 2 * BLOCK)].concat());
    for &(kind, start, len, more) in pieces {
        let start = start % blocks;
        let len = len.clamp(1, blocks - start);
        match kind {
            0 => build.copy(&[(start as u64, len as u64)]),
            1 => {
                let second = more % blocks;
                let second_len = len.min(blocks - second);
                build.copy(&[(start as u64, len as u64), (second as u64, second_len as u64)]);
            }
            2 => {
                let from = (start * BLOCK + more % BLOCK).min((blocks - len) * BLOCK);
                let mut new = build.old[from..from + len * BLOCK].to_vec();
                new.iter_mut().step_by(more % 3000 + 5).for_each(|byte| *byte ^= 0x55);
                build.patch(from, &new);
            }
            3 => build.zero(len),
            _ => build.replace(&text(more as u64, len * BLOCK)),
        }
    }
    build
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn merging_in_order_in_place_makes_the_new_image(
        pieces in prop::collection::vec((0_u8..5, 0_usize..128, 1_usize..64, 0_usize..8192), 1..24)
    ) {
        let build = mixed(&pieces);

        for settings in [COPIES, XOR] {
            let merge = plan(&build, &settings);

            check(&build, &merge);
        }
    }

    #[test]
    fn of_each_circle_of_copies_one_block_is_stored(order in Just((0..64_u64).collect::<Vec<_>>()).prop_shuffle()) {
        let mut build = Build::new(noise(1, 64 * BLOCK));
        build.copy(&order.iter().map(|&source| (source, 1)).collect::<Vec<_>>());

        let merge = plan(&build, &COPIES);

        check(&build, &merge);
        let mut circles = 0;
        let mut seen = [false; 64];
        for start in 0..64 {
            let mut at = start;
            circles += u64::from(!seen[at] && order[at] != at as u64);
            while !std::mem::replace(&mut seen[at], true) {
                at = order[at] as usize;
            }
        }
        let still = order.iter().enumerate().filter(|&(at, &source)| at as u64 == source).count() as u64;
        prop_assert_eq!(moved(&merge), 64 - still - circles);
    }
}
