//! What `diff` makes, applied, is the target: for any images, sizes and sets of partitions.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::{
    collections::BTreeMap,
    io,
    ops::ControlFlow,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use proptest::prelude::*;
use relevo_delta::{DeltaError, Images, Options, Progress, Report, Silent, Stage, diff};
use relevo_format::{FileAt, ReadAt, Section, apply, package::Front, package::Limits};
use relevo_types::{ByteLen, PartitionName};

type Build = BTreeMap<&'static str, Vec<u8>>;

fn images(build: &Build) -> Images<'_> {
    build
        .iter()
        .map(|(name, bytes)| (PartitionName::parse(name).unwrap(), Box::new(&bytes[..]) as Box<dyn ReadAt>))
        .collect()
}

fn fast() -> Options {
    Options { level: 3, memory: Options::MIN_MEMORY, ..Options::default() }
}

/// Applies the package at `path` as a phone would: with the default limits.
fn apply_all(path: &Path, old: &Build) -> Build {
    let file = FileAt::open(path).unwrap();
    let front = Front::read(&mut Section::whole(&file), &Limits::default()).unwrap();
    let body = apply::body(&front, &file).unwrap();
    let open = |name: &PartitionName| -> io::Result<Box<dyn ReadAt>> {
        Ok(Box::new(&old.get(name.as_str()).ok_or(io::ErrorKind::NotFound)?[..]))
    };
    let source = apply::check_source(front.manifest(), open, |_| ControlFlow::Continue(())).unwrap();
    let mut made = Build::new();
    for (number, partition) in front.manifest().partitions.iter().enumerate() {
        let mut image = Vec::new();
        for piece in 0..partition.pieces.len() {
            apply::apply_piece(&front, number, piece, &source, &body, &mut image).unwrap();
        }
        let name: &'static str = Box::leak(partition.name.to_string().into_boxed_str());
        made.insert(name, image);
    }
    made
}

fn check(old: &Build, new: &Build) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.rvp");

    let report = diff(&images(old), &images(new), &fast(), &out, &Silent).unwrap();

    assert_eq!(&apply_all(&out, old), new);
    assert_eq!(report.package_len.get(), out.metadata().unwrap().len());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "only the package is left");
    report
}

/// Bytes without repetitions, the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn a_build_that_did_not_change_costs_next_to_nothing() {
    let build = Build::from([("system", noise(1, 3 << 20)), ("boot", noise(2, 100_000))]);

    let report = check(&build, &build);

    assert!(report.package_len < ByteLen::kib(1), "{report:?}");
}

#[test]
fn partitions_may_appear_vanish_be_empty_and_have_any_size() {
    let old =
        Build::from([("gone", noise(1, 70_000)), ("kept", noise(2, 90_001)), ("empty", vec![]), ("fills", vec![])]);
    let new = Build::from([
        ("kept", noise(2, 123)),
        ("empty", vec![]),
        ("fills", noise(3, 5000)),
        ("appears", vec![7; 4097]),
    ]);

    check(&old, &new);
    check(&Build::new(), &new);
}

#[test]
fn content_that_moved_to_another_partition_is_copied_from_there() {
    let old = Build::from([("system", noise(1, 1 << 20)), ("product", noise(2, 1 << 20))]);
    let new = Build::from([("system", noise(2, 1 << 20)), ("product", noise(1, 1 << 20))]);

    let report = check(&old, &new);

    assert!(report.package_len < ByteLen::kib(2), "{report:?}");
}

#[test]
fn content_that_moved_by_odd_lengths_is_found() {
    let old = noise(1, 2 << 20);
    let new = [&old[1_000_001..], &noise(9, 777)[..], &old[..999_999]].concat();

    let report = check(&Build::from([("system", old)]), &Build::from([("system", new)]));

    assert!(report.package_len < ByteLen::kib(8), "{report:?}");
}

#[test]
fn scattered_changes_cost_little_more_than_themselves() {
    let old = noise(1, 2 << 20);
    let mut new = old.clone();
    for at in (0..new.len()).step_by(97) {
        new[at] = new[at].wrapping_add(1);
    }

    let report = check(&Build::from([("system", old)]), &Build::from([("system", new)]));

    // 21,620 differences of one byte; as new bytes they would be 2 MiB.
    assert!(report.package_len < ByteLen::kib(64), "{report:?}");
}

#[test]
fn long_runs_of_one_byte_take_no_time() {
    let mut old = vec![0x55; 4 << 20];
    old[..1000].copy_from_slice(&noise(1, 1000));
    let mut new = vec![0x55; 4 << 20];
    for at in (0..new.len()).step_by(5000) {
        new[at] = 1;
    }

    check(&Build::from([("system", old)]), &Build::from([("system", new)]));
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let old = Build::from([("system", noise(1, 9 << 20)), ("vendor", noise(2, 1 << 20))]);
    let mut system = noise(1, 9 << 20);
    system.rotate_left(12_345);
    let new = Build::from([("system", system), ("vendor", noise(3, 1 << 20))]);
    let dir = tempfile::tempdir().unwrap();

    let packages = [1, 2, 7].map(|threads| {
        let out = dir.path().join(threads.to_string());
        diff(&images(&old), &images(&new), &Options { threads, ..fast() }, &out, &Silent).unwrap();
        std::fs::read(out).unwrap()
    });

    assert!(packages.iter().all(|package| package == &packages[0]));
}

#[test]
fn refuses_too_little_memory_and_an_empty_target() {
    let build = Build::from([("system", vec![1; 10])]);
    let options = Options { memory: ByteLen::mib(64), ..fast() };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.rvp");

    let memory = diff(&images(&build), &images(&build), &options, &out, &Silent).unwrap_err();
    let target = diff(&images(&build), &Images::new(), &fast(), &out, &Silent).unwrap_err();

    assert!(matches!(memory, DeltaError::Memory { .. }));
    assert!(matches!(target, DeltaError::NoTarget));
    assert!(!out.exists());
}

#[test]
fn an_image_that_changes_while_it_is_read_is_noticed() {
    struct Changing(Vec<u8>, AtomicU64);
    impl ReadAt for Changing {
        fn len(&self) -> ByteLen {
            ByteLen::new(self.0.len() as u64)
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            self.0.read_exact_at(buf, offset)?;
            // Read twice in the scan (image, blocks); from then on it is another image.
            if self.1.fetch_add(1, Ordering::SeqCst) >= 2 {
                buf[0] ^= 0xff;
            }
            Ok(())
        }
    }
    let name = PartitionName::parse("system").unwrap();
    let image: Box<dyn ReadAt> = Box::new(Changing(noise(1, 50_000), AtomicU64::new(0)));
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.rvp");
    std::fs::write(&out, "what was there before").unwrap();

    let result = diff(&Images::new(), &Images::from([(name, image)]), &fast(), &out, &Silent);

    assert!(matches!(result, Err(DeltaError::Differs { .. })), "{result:?}");
    assert_eq!(std::fs::read_to_string(out).unwrap(), "what was there before");
}

#[test]
fn stops_at_every_stage_and_leaves_nothing() {
    struct StopIn(Stage, std::sync::Mutex<Option<Stage>>);
    impl Progress for StopIn {
        fn start(&self, stage: Stage, _total: u64) {
            *self.1.lock().unwrap() = Some(stage);
        }
        fn advance(&self, _bytes: u64) -> ControlFlow<()> {
            if *self.1.lock().unwrap() == Some(self.0) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    }
    let old = Build::from([("system", noise(1, 100_000))]);
    let new = Build::from([("system", noise(2, 100_000))]);
    for stage in [Stage::Scan, Stage::Match, Stage::Verify] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("x.rvp");

        let result = diff(&images(&old), &images(&new), &fast(), &out, &StopIn(stage, Default::default()));

        assert!(matches!(result, Err(DeltaError::Stopped)), "{stage}: {result:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{stage}");
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let build = Build::from([("system", vec![1; 10])]);

    let result = diff(&images(&build), &images(&build), &fast(), Path::new("/nonexistent/x.rvp"), &Silent);

    let error = result.unwrap_err();
    assert_eq!(error.to_string(), "could not write /nonexistent");
}

/// An edit of an image: where, how much, and what.
#[derive(Debug, Clone)]
enum Edit {
    Overwrite(usize, Vec<u8>),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Zero(usize, usize),
    Repeat(usize, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = 0..200_000_usize;
    let len = 0..20_000_usize;
    let bytes = prop::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        (at.clone(), bytes.clone()).prop_map(|(at, bytes)| Edit::Overwrite(at, bytes)),
        (at.clone(), bytes).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (at.clone(), len.clone()).prop_map(|(at, len)| Edit::Remove(at, len)),
        (at.clone(), len.clone()).prop_map(|(at, len)| Edit::Zero(at, len)),
        (at, len).prop_map(|(at, len)| Edit::Repeat(at, len)),
    ]
}

fn edited(image: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut image = image.to_vec();
    for edit in edits {
        let at = |at: usize| at.min(image.len());
        match edit {
            Edit::Overwrite(start, bytes) => {
                let start = at(*start);
                let end = at(start + bytes.len());
                image[start..end].copy_from_slice(&bytes[..end - start]);
            }
            Edit::Insert(start, bytes) => {
                let start = at(*start);
                image.splice(start..start, bytes.iter().copied());
            }
            Edit::Remove(start, len) => {
                let range = at(*start)..at(start + len);
                image.drain(range);
            }
            Edit::Zero(start, len) => {
                let range = at(*start)..at(start + len);
                image[range].fill(0);
            }
            Edit::Repeat(start, len) => {
                let copy = image[at(*start)..at(start + len)].to_vec();
                image.extend(copy);
            }
        }
    }
    image
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_edit_of_any_image_comes_back(
        seed: u64,
        len in 0..200_000_usize,
        edits in prop::collection::vec(edit(), 0..12),
        moved: bool,
    ) {
        let old = noise(seed, len);
        let new = edited(&old, &edits);
        let name = if moved { "product" } else { "system" };

        check(&Build::from([("system", old)]), &Build::from([(name, new)]));
    }
}
