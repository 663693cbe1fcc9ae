//! Zucchini.

use relevo_format::patch::{
    Limits, PatchError,
    bsdiff::Match,
    zucchini::{Program, apply, build, compress, is_program, normal_form},
};
use relevo_types::ByteLen;

use crate::program::{KINDS, Source, matches};

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
