//! Zucchini.

use proptest::prelude::*;
use relevo_format::patch::{
    Limits, PatchError,
    bsdiff::Match,
    zucchini::{Program, apply, build, build_bytes, compress, is_program, normal_form, walk},
};
use relevo_types::ByteLen;

use crate::{
    golden,
    program::{KINDS, Source, matches},
};

fn run(old: &[u8], blob: &[u8]) -> Result<Vec<u8>, PatchError> {
    let mut out = Vec::new();
    apply(&old, blob, &mut out, &Limits { output: ByteLen::mib(1), memory: ByteLen::mib(4) })?;
    Ok(out)
}

fn pair(program: Program, thumb: bool) -> (Vec<u8>, Vec<u8>, Vec<Match>) {
    let (old, new) = (Source::old(thumb).build(program), Source::new(thumb).build(program));
    let found = matches(&old, &new);
    (old.bytes, new.bytes, found)
}

#[test]
fn references_that_moved_cost_little_in_each_kind_of_program() {
    for (program, thumb) in KINDS {
        let (old, new, found) = pair(program, thumb);
        assert_eq!((is_program(&old), is_program(&new)), (Some(program), Some(program)));

        let ensemble = build(&old, &new, &found).unwrap();
        let blob = compress(&ensemble);

        assert!(run(&old, &blob).unwrap() == new, "{program:?} {thumb}");
        assert!(4 * blob.len() < new.len(), "{program:?} {thumb}: {} of {}", blob.len(), new.len());
    }
}

#[test]
fn matches_may_be_any() {
    let (old, new, found) = pair(Program::ElfX64, false);
    let far = Match { old: old.len() - 100, new: 7, len: 1000, extra: 0 };
    let all = Match { old: 3, new: 0, len: old.len().min(new.len()) - 3, extra: 0 };
    for matches in [vec![all], [found.as_slice(), &[all, far]].concat(), found.iter().rev().copied().collect()] {
        let ensemble = build(&old, &new, &matches).unwrap();

        assert!(run(&old, &compress(&ensemble)).unwrap() == new);
    }
    assert_eq!(build(&old, &new, &[]), None);
    assert_eq!(build(&old, b"text", &found), None);
}

#[test]
fn a_patch_tells_what_it_is_made_of() {
    let old: Vec<u8> = (0..400_u32).flat_map(|number| (number * number).to_le_bytes()).collect();
    let new = [&old[800..1200], b"new bytes", &old[40..90]].concat();
    let found = [Match { old: 800, new: 0, len: 400, extra: 9 }, Match { old: 40, new: 409, len: 50, extra: 0 }];
    let blob = compress(&build_bytes(&old, &new, &found).unwrap());

    let mut runs = Vec::new();
    walk(&blob, &Limits::default(), |new, old, len| runs.push((new, old, len))).unwrap();

    assert_eq!(runs, [(0, 800, 400), (409, 40, 50)]);
    let few = Limits { memory: ByteLen::new(64), ..Limits::default() };
    assert!(matches!(walk(&blob, &few, |_, _, _| {}), Err(PatchError::Memory { .. })));
    assert!(walk(&blob[..blob.len() - 1], &Limits::default(), |_, _, _| {}).is_err());
}

#[test]
fn padding_becomes_an_element_of_its_own() {
    let (mut old, mut new, found) = pair(Program::ElfArm64, false);
    old.resize(old.len().next_multiple_of(4096), 0);
    new.resize(new.len().next_multiple_of(4096), 0);

    let ensemble = build(&old, &new, &found).unwrap();

    assert_eq!(ensemble[24], 2);
    assert!(run(&old, &compress(&ensemble)).unwrap() == new);
}

#[test]
fn the_normal_form_forgets_addresses_but_no_lengths() {
    for (program, thumb) in KINDS {
        let (old, new, found) = pair(program, thumb);
        let forms = [&old, &new].map(|bytes| normal_form(bytes).unwrap());
        assert_eq!([forms[0].len(), forms[1].len()], [old.len(), new.len()]);
        let differences = |old: &[u8], new: &[u8]| {
            let of = |run: &Match| (0..run.len).filter(|at| old[run.old + at] != new[run.new + at]).count();
            found.iter().map(of).sum::<usize>()
        };

        let (plain, normal) = (differences(&old, &new), differences(&forms[0], &forms[1]));

        assert!(normal * 2 < plain, "{program:?} {thumb}: {normal} of {plain}");
    }
    assert_eq!(normal_form(b"text"), None);
}

#[test]
fn applies_what_aosp_made() {
    for (program, thumb) in KINDS {
        let (old, new, _) = pair(program, thumb);
        let name = format!("{program:?}{}.zucchini", if thumb { "Thumb" } else { "" });

        assert!(run(&old, &golden::read(&name)).unwrap() == new, "{name}");
    }
}

#[test]
fn a_patch_cut_short_is_an_error() {
    let (old, new, found) = pair(Program::ElfArm64, false);
    let ensemble = build(&old, &new, &found).unwrap();
    let blob = compress(&ensemble);
    for len in 0..blob.len() {
        assert!(run(&old, &blob[..len]).is_err(), "cut to {len} bytes");
    }
    for len in (0..ensemble.len()).step_by(3) {
        assert!(run(&old, &stored(&ensemble[..len])).is_err(), "cut to {len} bytes");
    }
}

#[test]
fn a_changed_byte_is_an_error() {
    for (program, thumb) in [(Program::ElfArm, true), (Program::Dex, false)] {
        let (old, new, found) = pair(program, thumb);
        let ensemble = build(&old, &new, &found).unwrap();
        for at in 0..ensemble.len() {
            let mut changed = ensemble.clone();
            changed[at] ^= 0x55;
            // The second half of the version means nothing; else the checksum at least is another one. Stored targets that
            // nothing refers to are the only bytes that make no difference, and ours are all used.
            let applied = run(&old, &stored(&changed));
            assert!(applied.is_err() || (applied.unwrap() == new && (6..8).contains(&at)), "{program:?} byte {at}");
        }
    }
}

#[test]
fn a_changed_byte_of_the_old_file_is_an_error() {
    let (old, new, found) = pair(Program::ElfX86, false);
    let blob = compress(&build(&old, &new, &found).unwrap());
    for at in (0..old.len()).step_by(5) {
        let mut old = old.clone();
        old[at] ^= 0x55;
        assert!(matches!(run(&old, &blob), Err(PatchError::Checksum { what: "old", .. })));
    }
}

#[test]
fn damaged_programs_are_taken_apart_or_are_none() {
    for (program, thumb) in KINDS {
        let (old, new, found) = pair(program, thumb);
        // Headers and tables at both ends, and some of what is between them.
        for at in (0..old.len()).filter(|at| at % 37 == 0 || *at < 120 || at + 240 > old.len()) {
            for change in [0x80, 0x55] {
                let mut old = old.clone();
                old[at] ^= change;
                if let Some(ensemble) = build(&old, &new, &found) {
                    assert!(run(&old, &stored(&ensemble)).unwrap() == new, "{program:?} byte {at}");
                }
                let _ = normal_form(&old);
            }
        }
        for len in (0..old.len()).step_by(13) {
            assert_eq!(build(&old[..len], &new, &found), None, "{program:?} cut to {len} bytes");
        }
    }
}

#[test]
fn refuses_sections_with_the_same_code() {
    let (old, _, _) = pair(Program::ElfArm64, false);
    let mut twice = old.clone();
    let sections = twice.len() - 5 * 64;
    // The code of the second section once more, as data of the third.
    let code = twice[sections + 128..sections + 192].to_vec();
    twice[sections + 192..sections + 256].copy_from_slice(&code);

    assert_eq!(is_program(&twice), Some(Program::ElfArm64), "its headers are good");
    assert_eq!(build(&twice, &old, &[Match { old: 0, new: 0, len: 64, extra: 0 }]), None);
    assert_eq!(normal_form(&twice), None);
}

#[test]
fn refuses_what_is_over_the_limits() {
    let (old, new, found) = pair(Program::ElfX64, false);
    let blob = compress(&build(&old, &new, &found).unwrap());
    let apply_with = |output: u64, memory: u64| {
        let limits = Limits { output: ByteLen::new(output), memory: ByteLen::new(memory) };
        apply(&old, &blob, &mut Vec::new(), &limits)
    };
    let len = new.len() as u64;

    assert!(matches!(apply_with(len - 1, 1 << 20), Err(PatchError::Output { .. })));
    for memory in [100, old.len() as u64 + 10, old.len() as u64 + 1000, (old.len() + new.len()) as u64 + 3000] {
        assert!(matches!(apply_with(len, memory), Err(PatchError::Memory { .. })), "{memory}");
    }
    apply_with(len, 1 << 18).unwrap();
}

#[test]
fn refuses_kinds_that_android_does_not_have() {
    let (old, new, found) = pair(Program::ElfX64, false);
    let mut ensemble = build(&old, &new, &found).unwrap();
    let windows = *b"Px64";
    ensemble[44..48].copy_from_slice(&windows);
    assert!(matches!(run(&old, &stored(&ensemble)), Err(PatchError::Program(kind)) if kind == windows));
    ensemble[44..48].copy_from_slice(b"Ex86");
    assert!(matches!(run(&old, &stored(&ensemble)), Err(PatchError::NoProgram { what: "old", .. })));
    ensemble[4] = 2;
    assert!(matches!(run(&old, &stored(&ensemble)), Err(PatchError::Version(2))));
    ensemble[0] = 0;
    assert!(matches!(run(&old, &stored(&ensemble)), Err(PatchError::Magic { .. })));
}

#[test]
fn refuses_very_many_programs_of_one_old_part() {
    let (old, new, found) = pair(Program::ElfArm64, false);
    let ensemble = build(&old, &new, &found).unwrap();
    // The same element again and again: each makes the whole file from the whole old one.
    let count = 64_usize;
    let mut many = ensemble[..28].to_vec();
    let len = u32::try_from(new.len()).unwrap();
    for index in 0..u32::try_from(count).unwrap() {
        let mut element = ensemble[28..].to_vec();
        element[8..12].copy_from_slice(&(index * len).to_le_bytes());
        many.extend(element);
    }
    many[16..20].copy_from_slice(&(64 * len).to_le_bytes());
    many[24] = 64;
    let repeated = new.repeat(count);
    many[20..24].copy_from_slice(&crc32(&repeated).to_le_bytes());
    // As many new bytes as old ones: that is fine.
    assert!(run(&old, &stored(&many)).unwrap() == repeated);

    // But not for new parts of 128 bytes: a program that is nothing but its headers.
    let mut tiny = many[..28].to_vec();
    tiny[24..28].copy_from_slice(&5000_u32.to_le_bytes());
    tiny[16..20].copy_from_slice(&(5000 * 208_u32).to_le_bytes());
    let program = tiny_program();
    for index in 0..5000_u32 {
        let places = [0, u32::try_from(old.len()).unwrap(), index * 208, 208];
        tiny.extend(places.into_iter().flat_map(u32::to_le_bytes));
        tiny.extend(b"EA64\x01\0");
        tiny.extend([0; 12]);
        tiny.extend(208_u32.to_le_bytes());
        tiny.extend(&program);
        tiny.extend([0; 16]);
    }
    let applied = run(&old, &stored(&tiny));
    assert!(matches!(applied, Err(PatchError::Ensemble { reason }) if reason.starts_with("too many")), "{applied:?}");
}

/// An ELF file of a header and one section, which is empty.
fn tiny_program() -> Vec<u8> {
    let (old, _, _) = pair(Program::ElfArm64, false);
    let mut program = old[..64].to_vec();
    program[40..48].copy_from_slice(&144_u64.to_le_bytes());
    program[60..64].copy_from_slice(&[1, 0, 0, 0]);
    program.resize(208, 0);
    program
}

fn crc32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ ((crc & 1) * 0xedb8_8320))
    }) ^ u32::MAX
}

/// A brotli stream that holds `raw` as it is, in pieces of at most 64 KiB.
fn stored(raw: &[u8]) -> Vec<u8> {
    let mut bits = Vec::new();
    let mut out = Vec::new();
    // A window of 64 KiB.
    bits.push(0);
    for piece in raw.chunks(1 << 16) {
        // Not the last; four nibbles of its length less 1; not compressed; up to the next byte.
        let last = piece.len() - 1;
        bits.extend([0, 0, 0]);
        bits.extend((0..16).map(|bit| last >> bit & 1));
        bits.push(1);
        out.extend(
            bits.chunks(8).map(|byte| byte.iter().rev().fold(0_u8, |byte, &bit| byte << 1 | u8::from(bit == 1))),
        );
        bits.clear();
        out.extend_from_slice(piece);
    }
    // The last one, which is empty.
    bits.extend([1, 1]);
    out.extend(bits.chunks(8).map(|byte| byte.iter().rev().fold(0_u8, |byte, &bit| byte << 1 | u8::from(bit == 1))));
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_built_makes_the_new_file(
        kind in 0..6_usize,
        old in proptest::sample::subsequence((1..40).collect::<Vec<u32>>(), 1..39),
        new in proptest::sample::subsequence((1..40).collect::<Vec<u32>>(), 1..39).prop_shuffle(),
        wild in proptest::collection::vec((0..3000_usize, 0..3000_usize, 0..500_usize), 0..8),
    ) {
        let (program, thumb) = KINDS[kind];
        let [old, new] = [old, new].map(|functions| Source { functions, thumb }.build(program));
        let mut found = matches(&old, &new);
        found.extend(wild.into_iter().map(|(old, new, len)| Match { old, new, len, extra: 0 }));

        if let Some(ensemble) = build(&old.bytes, &new.bytes, &found) {
            prop_assert!(run(&old.bytes, &stored(&ensemble)).unwrap() == new.bytes);
        }
    }
}
