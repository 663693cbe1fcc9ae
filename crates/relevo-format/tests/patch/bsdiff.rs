//! `BSDIFF40` and `BSDF2`.

use std::io::{Read, Write};

use bzip2::{Compression, read::BzDecoder, write::BzEncoder};
use proptest::prelude::*;
use relevo_format::patch::{
    Codec, Limits, PatchError, StreamError,
    bsdiff::{Effort, Format, Match, Streams, apply, target_len, walk, write},
};
use relevo_types::ByteLen;

use crate::golden;

const OPERATIONS: [u32; 5] = [9, 17, 22, 55, 58];
const FORMATS: [Format; 4] =
    [Format::Bsdiff40, Format::Bsdf2([Codec::Brotli; 3]), Format::Bsdf2([Codec::Bzip2; 3]), Format::Smallest];

fn run(old: &[u8], patch: &[u8]) -> Result<Vec<u8>, PatchError> {
    let mut out = Vec::new();
    apply(&old, patch, &mut out, &Limits { output: ByteLen::mib(1), ..Limits::default() })?;
    Ok(out)
}

/// A sign and a magnitude.
fn integer(value: i64) -> [u8; 8] {
    (value.unsigned_abs() | u64::from(value < 0) << 63).to_le_bytes()
}

fn integer_of(bytes: &[u8]) -> i64 {
    let raw = u64::from_le_bytes(bytes.try_into().unwrap());
    let size = (raw << 1 >> 1).cast_signed();
    if raw >> 63 == 1 { -size } else { size }
}

fn bzip2(raw: &[u8]) -> Vec<u8> {
    let mut encoder = BzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(raw).unwrap();
    encoder.finish().unwrap()
}

/// A `BSDIFF40` patch of these streams.
fn pack(control: &[[i64; 3]], diff: &[u8], extra: &[u8], new_len: i64) -> Vec<u8> {
    let control: Vec<u8> = control.iter().flatten().flat_map(|&value| integer(value)).collect();
    let [control, diff, extra] = [&control[..], diff, extra].map(bzip2);
    let lengths = [control.len(), diff.len()].map(|len| integer(i64::try_from(len).unwrap()));
    [&b"BSDIFF40"[..], &lengths.concat(), &integer(new_len), &control, &diff, &extra].concat()
}

/// The control entries, diff and extra bytes of a `BSDIFF40` patch.
fn unpack(patch: &[u8]) -> (Vec<[i64; 3]>, Vec<u8>, Vec<u8>) {
    let len = |at: usize| usize::try_from(integer_of(&patch[at..at + 8])).unwrap();
    let (control, rest) = patch[32..].split_at(len(8));
    let (diff, extra) = rest.split_at(len(16));
    let [control, diff, extra] = [control, diff, extra].map(|stored| {
        let mut raw = Vec::new();
        BzDecoder::new(stored).read_to_end(&mut raw).unwrap();
        raw
    });
    let entries = control.chunks(24).map(|entry| [0, 8, 16].map(|at| integer_of(&entry[at..at + 8]))).collect();
    (entries, diff, extra)
}

#[test]
fn applies_what_aosp_made() {
    for operation in OPERATIONS {
        let [old, new] = ["old", "new"].map(|end| golden::read(&format!("{operation}.{end}")));
        for format in ["bsdiff40", "bsdf2"] {
            let patch = golden::read(&format!("{operation}.{format}"));

            assert_eq!(target_len(&patch).unwrap().get(), new.len() as u64);
            assert!(run(&old, &patch).unwrap() == new, "{operation}.{format}");
        }
    }
}

/// An old file, and a new one that was cut from it: matches with changed bytes, and bytes between them.
fn pair() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, Vec<Match>)> {
    let run = (any::<prop::sample::Index>(), 0..200_usize, prop::collection::vec(any::<u8>(), 0..40));
    (prop::collection::vec(any::<u8>(), 1..300), prop::collection::vec(run, 0..12), any::<u8>()).prop_map(
        |(old, runs, noise)| {
            let (mut new, mut matches) = (Vec::new(), Vec::new());
            for (start, len, extra) in runs {
                let start = start.index(old.len());
                let len = len.min(old.len() - start);
                matches.push(Match { old: start, new: new.len(), len, extra: extra.len() });
                new.extend_from_slice(&old[start..start + len]);
                if let Some(last) = new.last_mut() {
                    *last = last.wrapping_add(noise);
                }
                new.extend(extra);
            }
            (old, new, matches)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_applies((old, new, matches) in pair()) {
        for format in FORMATS {
            let patch = write(&old, &new, &matches, format);
            prop_assert_eq!(run(&old, &patch).unwrap(), &new[..], "{:?}", format);
        }
    }

    #[test]
    fn the_reference_engine_applies_what_is_written((old, new, matches) in pair()) {
        let (entries, mut diff, mut extra) = unpack(&write(&old, &new, &matches, Format::Bsdiff40));
        // Its patches are one stream: each entry, then its bytes.
        let mut stream = Vec::new();
        for entry in entries {
            stream.extend(entry.into_iter().flat_map(integer));
            stream.extend(diff.drain(..usize::try_from(entry[0]).unwrap()));
            stream.extend(extra.drain(..usize::try_from(entry[1]).unwrap()));
        }

        let mut out = Vec::new();
        ::bsdiff::patch(&old, &mut &stream[..], &mut out).unwrap();

        prop_assert!(diff.is_empty() && extra.is_empty());
        prop_assert_eq!(out, new);
    }

    #[test]
    fn applies_what_the_reference_engine_makes((old, new, _) in pair()) {
        let mut stream = Vec::new();
        ::bsdiff::diff(&old, &new, &mut stream).unwrap();
        let (mut entries, mut diff, mut extra) = (Vec::new(), Vec::new(), Vec::new());
        let mut rest = &stream[..];
        while let Some((entry, bytes)) = rest.split_at_checked(24) {
            let entry = [0, 8, 16].map(|at| integer_of(&entry[at..at + 8]));
            let (add, bytes) = bytes.split_at(usize::try_from(entry[0]).unwrap());
            let (insert, bytes) = bytes.split_at(usize::try_from(entry[1]).unwrap());
            entries.push(entry);
            diff.extend_from_slice(add);
            extra.extend_from_slice(insert);
            rest = bytes;
        }

        let patch = pack(&entries, &diff, &extra, i64::try_from(new.len()).unwrap());

        prop_assert_eq!(run(&old, &patch).unwrap(), new);
    }
}

#[test]
fn a_smallest_patch_is_no_larger_than_one_of_either_codec() {
    let [old, new] = ["55.old", "55.new"].map(golden::read);
    let matches =
        [Match { old: 0, new: 0, len: 8192, extra: 0 }, Match { old: 8192, new: 8192, len: 8192, extra: 8192 }];

    let sizes = FORMATS.map(|format| {
        let patch = write(&old, &new, &matches, format);
        assert!(run(&old, &patch).unwrap() == new, "{format:?}");
        patch.len()
    });

    assert!(sizes.iter().all(|&size| size >= sizes[3]), "{sizes:?}");
}

#[test]
fn a_patch_cut_short_is_an_error() {
    for name in ["9.bsdiff40", "9.bsdf2"] {
        let (old, patch) = (golden::read("9.old"), golden::read(name));
        for len in 0..patch.len() {
            assert!(run(&old, &patch[..len]).is_err(), "{name} cut to {len} bytes");
        }
    }
}

#[test]
fn a_changed_byte_is_an_error_or_harmless_under_bzip2() {
    let [old, new, patch] = ["9.old", "9.new", "9.bsdiff40"].map(golden::read);
    for at in 0..patch.len() {
        let mut patch = patch.clone();
        patch[at] ^= 0x55;
        // Every block has a checksum; what is left are bits without a meaning, as the padding at a stream's end.
        assert!(run(&old, &patch).map_or(true, |out| out == new), "byte {at}");
    }
}

#[test]
fn a_changed_byte_never_makes_another_length_under_brotli() {
    let [old, patch] = ["9.old", "9.bsdf2"].map(golden::read);
    for at in 0..patch.len() {
        let mut patch = patch.clone();
        patch[at] ^= 0x55;
        // Brotli has no checksum. Who applies a patch compares the target's hash.
        if let Ok(out) = run(&old, &patch) {
            assert_eq!(out.len() as u64, target_len(&patch).unwrap().get(), "byte {at}");
        }
    }
}

#[test]
fn old_bytes_after_the_end_count_as_zero() {
    assert_eq!(run(b"abc", &pack(&[[5, 0, 0]], b"\0\0\0de", b"", 5)).unwrap(), b"abcde");
}

#[test]
fn refuses_a_position_before_the_start() {
    let patch = pack(&[[1, 0, -2], [1, 0, 0]], b"\0\0", b"", 2);

    assert!(matches!(run(b"abc", &patch), Err(PatchError::Position { at: -1, .. })));
}

#[test]
fn refuses_a_position_after_the_end() {
    let patch = pack(&[[1, 0, 3], [0, 1, 0]], b"\0", b"x", 2);

    assert!(matches!(run(b"abc", &patch), Err(PatchError::Position { at: 4, .. })));
}

#[test]
fn the_last_entry_may_lead_anywhere() {
    assert_eq!(run(b"abc", &pack(&[[1, 0, i64::MIN + 1]], b"\0", b"", 1)).unwrap(), b"a");
}

#[test]
fn refuses_a_control_entry_that_goes_beyond_the_target() {
    for entry in [[4, 0, 0], [3, 1, 0], [i64::MAX, i64::MAX, 0]] {
        assert!(matches!(run(b"abc", &pack(&[entry], b"", b"", 3)), Err(PatchError::Overrun(_))));
    }
}

#[test]
fn refuses_negative_lengths() {
    for (control, new_len) in [([-1, 0, 0], 3), ([0, -1, 0], 3), ([3, 0, 0], -3)] {
        assert!(matches!(run(b"abc", &pack(&[control], b"\0\0\0", b"", new_len)), Err(PatchError::Negative { .. })));
    }
}

#[test]
fn refuses_a_target_over_the_limit() {
    let patch = pack(&[[0, 1 << 40, 0]], b"", b"", 1 << 40);

    assert!(matches!(run(b"abc", &patch), Err(PatchError::Output { .. })));
}

#[test]
fn refuses_millions_of_entries_that_make_nothing() {
    let patch = pack(&vec![[0, 0, 0]; 1 << 18], b"", b"", 1);

    assert!(patch.len() < 1000);
    assert!(matches!(run(b"abc", &patch), Err(PatchError::Overrun(_))));
}

#[test]
fn refuses_a_stream_that_goes_on_after_the_target() {
    for (diff, extra) in [(&b"\0\0"[..], &b"x"[..]), (b"\0", b"xy")] {
        let patch = pack(&[[1, 1, 0]], diff, extra, 2);

        let surplus = matches!(run(b"abc", &patch), Err(PatchError::Stream { source: StreamError::Surplus, .. }));
        assert!(surplus);
    }
    let mut patch = pack(&[[1, 1, 0]], b"\0", b"x", 2);
    patch.push(0);
    assert!(matches!(run(b"abc", &patch), Err(PatchError::Stream { name: "extra", source: StreamError::Surplus })));
}

#[test]
fn refuses_another_magic_and_unknown_codecs() {
    assert!(matches!(run(b"", &[0; 40]), Err(PatchError::Magic { .. })));
    for codec in [0, 3] {
        let mut patch = golden::read("9.bsdf2");
        patch[6] = codec;
        assert!(matches!(run(b"", &patch), Err(PatchError::Codec(found)) if found == codec));
    }
}

#[test]
fn refuses_a_brotli_window_over_16_mib() {
    // A stream of the large-window extension starts with these bits, then the window's in six more.
    let stream = [0x11, 30, 3];
    let mut patch = b"BSDF2\x02\x02\x02".to_vec();
    patch.extend([integer(3), integer(0), integer(1)].concat());
    patch.extend(stream);

    assert!(matches!(run(b"", &patch), Err(PatchError::Stream { name: "control", source: StreamError::Brotli })));
}

#[test]
fn tells_which_runs_are_made_of_old_bytes() {
    let (old, new) = (vec![1; 300], vec![2; 250]);
    let matches = [
        Match { old: 40, new: 0, len: 100, extra: 20 },
        Match { old: 0, new: 120, len: 0, extra: 30 },
        Match { old: 200, new: 150, len: 100, extra: 0 },
    ];
    for format in FORMATS {
        let mut found = Vec::new();

        walk(&write(&old, &new, &matches, format), |new, old, len| found.push((new, old, len))).unwrap();

        assert_eq!(found, [(0, 40, 100), (150, 200, 100)]);
    }
    let damaged = pack(&[[100, 0, 0], [200, 0, 0]], &[], &[], 250);
    assert!(matches!(walk(&damaged, |_, _, _| {}), Err(PatchError::Overrun(_))));
    assert!(matches!(walk(b"BSDIFF40", |_, _, _| {}), Err(PatchError::Truncated { .. })));
}

#[test]
fn every_effort_makes_the_same_target() {
    let old: Vec<u8> = (0_u32..60_000).flat_map(|number| (number * number % 10_007).to_le_bytes()).collect();
    let mut new = old.clone();
    new.iter_mut().step_by(97).for_each(|byte| *byte = byte.wrapping_add(3));
    new.extend((0_u32..3000).map(|number| (number * number % 251).to_le_bytes()[0]));
    let streams = Streams::new(&old, &new, &[Match { old: 0, new: 0, len: old.len(), extra: 3000 }]);

    let efforts = [Effort::QUICK, Effort { saved_per_second: 1000 }, Effort::BEST];
    let patches = efforts.map(|effort| streams.write(Format::Smallest, effort));

    for patch in &patches {
        let mut out = Vec::new();
        apply(&&old[..], patch, &mut out, &Limits::default()).unwrap();
        assert!(out == new);
    }
    assert!(patches[2].len() < patches[0].len() + patches[0].len() / 50);
    assert_eq!(
        patches[2],
        write(&old, &new, &[Match { old: 0, new: 0, len: old.len(), extra: 3000 }], Format::Smallest)
    );
    for (effort, patch) in efforts.into_iter().zip(patches) {
        let trial = streams.clone().try_out();
        assert!(trial.estimate(effort).abs_diff(patch.len()) < patch.len() / 4, "{effort:?}");
        assert_eq!(trial.write(effort), patch);
    }
}

#[test]
fn matches_that_make_nothing_leave_no_entry() {
    let (old, new) = (b"0123456789", b"4567xy");
    let nothing = |old, new| Match { old, new, len: 0, extra: 0 };
    let all = [nothing(3, 0), Match { old: 4, new: 0, len: 4, extra: 2 }, nothing(0, 6)];

    let patch = write(old, new, &all, Format::Bsdiff40);
    let mut out = Vec::new();
    apply(&&old[..], &patch, &mut out, &Limits::default()).unwrap();

    assert_eq!(out, new);
}
