//! Garbage collection keeps what anybody may still need.

use std::{fs, path::PathBuf};

use crate::support::{Fixture, builds, path, phone, signers};

/// Builds 100 to 104, of which only 104 is still listed.
fn with_five_builds() -> Fixture {
    let fixture = Fixture::with_device();
    for build in ["100", "101", "102", "103", "104"] {
        fixture.publish(build).unwrap();
        if build != "104" {
            let repository = fixture.open();
            let mut publication = repository.publication().unwrap();
            publication.remove_target(&path(build)).unwrap();
            publication.commit(&signers(), fixture.now).unwrap();
        }
    }
    fixture
}

fn names(fixture: &Fixture, below: &str) -> Vec<String> {
    let files = fixture.files().into_keys().filter(|path| path.starts_with(below));
    files.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
}

#[test]
fn without_a_past_only_the_current_state_and_all_roots_stay() {
    let fixture = with_five_builds();

    let report = fixture.open().gc(0).unwrap();

    let mut metadata = names(&fixture, "metadata");
    metadata.sort();
    let current =
        ["1.root.json", "1.v-xiaomi.json", "10.d-ginkgo.json", "11.snapshot.json", "2.targets.json", "timestamp.json"];
    assert_eq!(metadata, current);
    assert_eq!(names(&fixture, "targets").len(), 2);
    assert!(report.freed.get() > 0 && report.removed.len() > 20, "{report:?}");
    assert_eq!(report.kept, 8);
    let check = fixture.open().check(fixture.now).unwrap();
    assert!(check.is_clean() && check.unused == 0, "{check:?}");
    assert_eq!(builds(&fixture.open(), fixture.now), ["104"]);
}

#[test]
fn what_the_last_snapshots_reference_stays() {
    let fixture = with_five_builds();

    fixture.open().gc(2).unwrap();

    // Snapshots 11, 10 and 9: build 104, none, build 103.
    let targets = names(&fixture, "targets");
    assert_eq!(targets.iter().filter(|name| name.ends_with(".rvp")).count(), 2);
    assert!(targets.iter().any(|name| name.contains("-103-")) && targets.iter().any(|name| name.contains("-104-")));
    assert!(names(&fixture, "metadata").contains(&"8.d-ginkgo.json".to_owned()));
    assert!(!names(&fixture, "metadata").contains(&"7.d-ginkgo.json".to_owned()));
    assert!(fixture.open().gc(2).unwrap().removed.is_empty(), "the second time there is nothing to do");
}

#[test]
fn strangers_stay_and_leftovers_go() {
    let fixture = with_five_builds();
    let put = |path: &str| fs::write(fixture.root.join(path), b"x").unwrap();
    put("metadata/notes.txt");
    put("targets/README");
    put("metadata/.tmp-77.snapshot.json");
    put("metadata/77.snapshot.json");
    put("targets/xiaomi/.tmp-something");

    let report = fixture.open().gc(100).unwrap();

    let mut removed = report.removed;
    removed.sort();
    let expected = ["metadata/.tmp-77.snapshot.json", "metadata/77.snapshot.json", "targets/xiaomi/.tmp-something"];
    assert_eq!(removed, expected.map(PathBuf::from));
    assert!(fixture.root.join("metadata/notes.txt").exists() && fixture.root.join("targets/README").exists());
}

#[test]
fn a_phone_that_was_away_finds_its_way_afterwards() {
    let fixture = Fixture::with_device();
    let stored = phone(&fixture, None).unwrap();
    for build in ["100", "101", "102"] {
        fixture.publish(build).unwrap();
    }
    fixture.open().gc(0).unwrap();

    phone(&fixture, Some(stored)).unwrap();
    phone(&fixture, None).unwrap();
    fixture.publish("103").unwrap();

    assert_eq!(builds(&fixture.open(), fixture.now), ["100", "101", "102", "103"]);
}

#[test]
fn a_repository_that_does_not_verify_is_left_alone() {
    let fixture = with_five_builds();
    crate::support::flip(&fixture.root.join("metadata/11.snapshot.json"), 30, 1);
    let before = fixture.files();

    fixture.open().gc(0).unwrap_err();

    assert_eq!(fixture.files(), before);
}
