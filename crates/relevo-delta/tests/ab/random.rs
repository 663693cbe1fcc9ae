//! Whatever the images are and whatever may be made, the result is the new image.

use proptest::prelude::*;
use relevo_delta::ab::{Operations, Options};

use crate::{
    avb,
    files::{self, edited, gzip, text},
    support::{Build, contents, made, noise},
};

const BLOCK: usize = 4096;

/// Part of an image: what it is of, where in the old image or from which seed, and how many blocks.
type Part = (u8, usize, usize);

fn parts() -> impl Strategy<Value = Vec<Part>> {
    prop::collection::vec((0_u8..7, 0_usize..120, 1_usize..24), 0..12)
}

/// An image out of parts, some of them of what was there before.
fn image(old: &[u8], parts: &[Part]) -> Vec<u8> {
    let mut image = Vec::new();
    for &(kind, place, blocks) in parts {
        let len = blocks * BLOCK;
        let from_old = || {
            let start = (place * BLOCK).min(old.len());
            let mut part = old[start..old.len().min(start + len)].to_vec();
            part.resize(len, 0);
            part
        };
        let mut part = match kind {
            0 => vec![0; len],
            1 => noise(len, place as u64 + 1),
            2 => text(len, place as u64 + 1),
            3 => gzip(&text(len, place as u64 + 1)),
            4 => from_old(),
            5 => edited(&from_old()),
            // An inflated stream that stands elsewhere.
            _ => [&b"head of something"[..], &gzip(&edited(&text(len, place as u64 + 1)))].concat(),
        };
        part.resize(part.len().next_multiple_of(BLOCK), 0);
        image.extend(part);
    }
    image
}

fn switches() -> impl Strategy<Value = Operations> {
    any::<[bool; 8]>().prop_map(|[bsdiff, brotli, puffdiff, zucchini, lz4diff, xz, bz, zero]| Operations {
        bsdiff,
        brotli,
        puffdiff,
        zucchini,
        lz4diff,
        xz,
        bz,
        zero,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_image_is_made_of_any_other(
        old in parts(),
        new in parts(),
        other in parts(),
        minor in 2_u32..=9,
        allowed in prop_oneof![Just(Operations::ALL), switches()],
        threads in 1_usize..4,
        is_verified in any::<bool>(),
    ) {
        let base = image(&[], &old);
        let finish = |bytes: Vec<u8>| if is_verified && !bytes.is_empty() { avb::image(bytes) } else { bytes };
        let changed = image(&base, &new);
        let old = Build::from([("a", finish(base)), ("b", image(&[], &other))]);
        let new = Build::from([("a", finish(changed)), ("b", image(&old["b"], &new)), ("c", image(&[], &other))]);
        let options = Options { minor, allowed, threads, memory: Options::MIN_MEMORY, ..Options::default() };

        let first = made(&old, &new, &options);
        let again = made(&old, &new, &Options { threads: 4 - threads, ..options });

        prop_assert!(contents(&first) == contents(&again), "other bytes with other threads");
    }

    #[test]
    fn file_systems_with_damage_anywhere_come_back(
        damage in prop::collection::vec((any::<bool>(), 0_usize..1 << 21, any::<u8>()), 1..6),
        is_erofs in any::<bool>(),
        minor in prop::sample::select(vec![4_u32, 9]),
    ) {
        let Some((mut old, mut new)) = files::small(is_erofs) else { return Ok(()) };
        for (is_new, place, value) in damage {
            let build = if is_new { &mut new } else { &mut old };
            let image = build.get_mut("system").unwrap();
            // Most of it among the first blocks, where metadata are.
            let place = if place % 4 == 0 { place % image.len() } else { place % image.len().min(20_000) };
            image[place] = value;
        }

        made(&old, &new, &Options { minor, ..Options::default() });
    }
}
