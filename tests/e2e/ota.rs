//! `relevo ota diff` and `ota apply`: what comes out is what went in.

use std::{
    fs,
    path::{Path, PathBuf},
};

use relevo_tests::{
    corpus,
    images::{self, Images},
    program::{Said, command, run},
    sparse,
};

fn relevo(words: &[&str]) -> Said {
    let mut command = command("relevo");
    command.arg("--quiet").args(words);
    run(command)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Diffs, verifies, applies, compares; returns the package.
fn round_trip(base: &Path, old: &Path, new: &Path, level: &str) -> PathBuf {
    let package = base.join("update.rvp");
    let out = base.join("out");

    relevo(&["ota", "diff", text(old), text(new), "--out", text(&package), "--level", level]).ok();
    relevo(&["ota", "verify", text(&package)]).ok();
    relevo(&["ota", "apply", text(&package), "--source", text(old), "--out", text(&out)]).ok();

    images::assert_same(&images::read(&out), &images::read(new));
    package
}

fn corpus_round_trip(from: u8, to: u8, at_most: f64) {
    let base = tempfile::tempdir().unwrap();
    let (old, new) = (corpus::build(from), corpus::build(to));

    let package = round_trip(base.path(), &old, &new, "9");

    // Far from any claim: only that this is a delta, and no copy of the new build.
    let whole: u64 = images::read(&new).values().map(|image| image.len() as u64).sum();
    let share = fs::metadata(package).unwrap().len() as f64 / whole as f64;
    assert!(share < at_most, "the delta is {:.1} % of the images", share * 100.0);
}

#[test]
fn real_builds_v1_to_v2_come_out_identical() {
    corpus_round_trip(1, 2, 0.25);
}

#[test]
fn real_builds_v2_to_v3_come_out_identical() {
    corpus_round_trip(2, 3, 0.35);
}

#[test]
fn real_builds_v1_to_v3_come_out_identical() {
    corpus_round_trip(1, 3, 0.40);
}

fn generated_round_trip(old: &Images, new: &Images) {
    let base = tempfile::tempdir().unwrap();
    images::write(&base.path().join("old"), old);
    images::write(&base.path().join("new"), new);

    round_trip(base.path(), &base.path().join("old"), &base.path().join("new"), "3");
}

fn set(images: &[(&str, Vec<u8>)]) -> Images {
    images.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect()
}

#[test]
fn partitions_may_grow_shrink_and_swap_sizes() {
    let (small, large) = (images::image(1, 40), images::image(2, 300));

    let old = set(&[("product", small.clone()), ("system", large.clone()), ("vendor", images::image(3, 64))]);
    let new = set(&[
        ("product", images::update(&large, 4, 9)),
        ("system", images::update(&small, 5, 0)),
        ("vendor", images::update(&images::image(3, 64), 6, -60)),
    ]);
    generated_round_trip(&old, &new);
}

#[test]
fn partitions_may_be_empty_before_after_or_both() {
    let image = images::image(7, 50);

    let old = set(&[("boot", vec![]), ("odm", vec![]), ("system", image.clone()), ("vendor", image.clone())]);
    let new = set(&[("boot", image.clone()), ("odm", vec![]), ("system", vec![]), ("vendor", image)]);
    generated_round_trip(&old, &new);
}

#[test]
fn partitions_may_appear_and_vanish() {
    let image = images::image(8, 80);

    let old = set(&[("cust", images::image(9, 30)), ("system", image.clone())]);
    let new = set(&[("system", images::update(&image, 10, 2)), ("system_ext", images::update(&image, 11, -4))]);
    generated_round_trip(&old, &new);
}

#[test]
fn all_partitions_may_be_new_or_the_same() {
    let image = set(&[("system", images::image(12, 80))]);

    generated_round_trip(&set(&[("old", images::image(13, 4))]), &image);
    generated_round_trip(&image, &image);
}

#[test]
fn images_need_not_be_whole_blocks() {
    let mut old = images::image(14, 20);
    let mut new = images::update(&old, 15, 1);
    old.truncate(old.len() - 1234);
    new.truncate(new.len() - 777);

    generated_round_trip(&set(&[("dtbo", old)]), &set(&[("dtbo", new)]));
}

#[test]
fn sparse_images_are_what_they_stand_for() {
    let base = tempfile::tempdir().unwrap();
    let (old, new) = (images::image(16, 120), images::update(&images::image(16, 120), 17, 5));
    let (raw, packed) = (base.path().join("raw"), base.path().join("sparse"));
    for (directory, convert) in [(&raw, None), (&packed, Some(sparse::encode as fn(&[u8]) -> Vec<u8>))] {
        for (name, image) in [("old", &old), ("new", &new)] {
            let image = convert.map_or_else(|| image.clone(), |convert| convert(image));
            images::write(&directory.join(name), &set(&[("system", image)]));
        }
    }
    let package = |directory: &Path| {
        let package = directory.join("update.rvp");
        let (old, new) = (directory.join("old"), directory.join("new"));
        relevo(&["ota", "diff", text(&old), text(&new), "--out", text(&package), "--level", "3"]).ok();
        fs::read(package).unwrap()
    };

    assert!(package(&raw) == package(&packed), "sparse images gave another package");
}

#[test]
fn a_package_does_not_depend_on_the_number_of_threads() {
    let base = tempfile::tempdir().unwrap();
    let [first, second, _] = images::builds();
    let (old, new) = (base.path().join("old"), base.path().join("new"));
    images::write(&old, &first);
    images::write(&new, &second);

    let packages = ["1", "2", "7"].map(|threads| {
        let package = base.path().join(format!("{threads}.rvp"));
        let words =
            ["ota", "diff", text(&old), text(&new), "--level", "3", "--threads", threads, "--out", text(&package)];
        relevo(&words).ok();
        fs::read(package).unwrap()
    });

    assert!(packages.iter().all(|package| *package == packages[0]));
}

#[test]
fn a_differing_source_is_refused_by_name_and_nothing_is_left() {
    let base = tempfile::tempdir().unwrap();
    let [first, second, _] = images::builds();
    let (old, new, out) = (base.path().join("old"), base.path().join("new"), base.path().join("out"));
    images::write(&old, &first);
    images::write(&new, &second);
    let package = base.path().join("update.rvp");
    relevo(&["ota", "diff", text(&old), text(&new), "--out", text(&package), "--level", "3"]).ok();
    let mut wrong = first["vendor"].clone();
    wrong[70_000] ^= 1;
    fs::write(old.join("vendor.img"), wrong).unwrap();

    let said = relevo(&["ota", "apply", text(&package), "--source", text(&old), "--out", text(&out)]);

    said.failed(&["vendor"]);
    assert!(!out.exists() || images::read(&out).is_empty(), "images were written from a wrong source");
}

#[test]
fn a_missing_source_partition_is_refused_by_name() {
    let base = tempfile::tempdir().unwrap();
    let [first, second, _] = images::builds();
    let (old, new, out) = (base.path().join("old"), base.path().join("new"), base.path().join("out"));
    images::write(&old, &first);
    images::write(&new, &second);
    let package = base.path().join("update.rvp");
    relevo(&["ota", "diff", text(&old), text(&new), "--out", text(&package), "--level", "3"]).ok();
    fs::remove_file(old.join("system.img")).unwrap();

    relevo(&["ota", "apply", text(&package), "--source", text(&old), "--out", text(&out)]).failed(&["system"]);
}
