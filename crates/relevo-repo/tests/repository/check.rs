//! Every file is held against what vouches for it.

use std::fs;

use jiff::SignedDuration;
use relevo_meta::{TrustError, log::LogError};
use relevo_repo::{Fault, Problem};
use serde_json::Value;

use crate::support::{Fixture, find, flip, path, signers};

fn problems(fixture: &Fixture) -> Vec<Problem> {
    fixture.open().check(fixture.now).unwrap().problems
}

fn paths(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(|problem| problem.path.to_string_lossy().into_owned()).collect()
}

/// A repository with a past: old versions of every role, and a target that is no longer listed.
fn with_a_past() -> Fixture {
    let fixture = Fixture::logged_with_device();
    fixture.publish("100").unwrap();
    fixture.publish("101").unwrap();
    let repository = fixture.open();
    let mut publication = repository.publication().unwrap();
    publication.remove_target(&path("100")).unwrap();
    publication.renew("targets").unwrap();
    publication.renew("v-xiaomi").unwrap();
    publication.commit(&signers(), fixture.now).unwrap();
    fixture
}

#[test]
fn a_whole_repository_is_clean() {
    let fixture = with_a_past();

    let report = fixture.open().check(fixture.now).unwrap();

    assert!(report.is_clean(), "{:?}", report.problems);
    let files = fixture.files().len() - 1; // without the lock
    assert_eq!(report.checked, files);
    assert!(report.unused >= 4, "{report:?}");
}

#[test]
fn a_flipped_bit_anywhere_is_found_and_the_file_named() {
    let fixture = with_a_past();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for (path, bytes) in fixture.files() {
        if !["metadata", "targets", "log"].iter().any(|directory| path.starts_with(directory)) {
            continue;
        }
        for round in 0..12 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let position = usize::try_from(random >> 33).unwrap() % bytes.len();
            // Not bit 5: it only changes the case of a signature's hexadecimal digit, which says the same.
            let mask = [0x01, 0x02, 0x04, 0x08, 0x10, 0x40, 0x80][round % 7];
            let file = fixture.root.join(&path);
            flip(&file, position, mask);

            let problems = problems(&fixture);

            assert!(
                problems.iter().any(|problem| problem.path == path),
                "{} at {position} by {mask:#x}: {problems:?}",
                path.display()
            );
            fs::write(&file, &bytes).unwrap();
        }
    }
    assert!(problems(&fixture).is_empty());
}

#[test]
fn missing_long_and_short_files_are_named() {
    let fixture = with_a_past();
    let package = find(&fixture, "ginkgo-101-full.rvp");
    let relative = package.strip_prefix(&fixture.root).unwrap().to_owned();
    let bytes = fs::read(&package).unwrap();

    fs::write(&package, &bytes[1..]).unwrap();
    assert!(matches!(&problems(&fixture)[..],
        [Problem { path, fault: Fault::WrongLength { .. } }] if *path == relative));
    fs::write(&package, [&bytes[..], b"x"].concat()).unwrap();
    assert!(matches!(&problems(&fixture)[..], [Problem { fault: Fault::WrongLength { .. }, .. }]));
    fs::remove_file(&package).unwrap();
    assert!(matches!(&problems(&fixture)[..], [Problem { path, fault: Fault::Missing }] if *path == relative));
}

#[test]
fn missing_metadata_is_named() {
    let fixture = with_a_past();
    for name in ["4.d-ginkgo.json", "2.v-xiaomi.json", "3.targets.json", "5.snapshot.json"] {
        let file = fixture.root.join("metadata").join(name);
        let bytes = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();

        let problems = problems(&fixture);

        let found =
            problems.iter().any(|problem| problem.path.ends_with(name) && matches!(problem.fault, Fault::Missing));
        assert!(found, "{name}: {problems:?}");
        fs::write(file, bytes).unwrap();
    }
}

#[test]
fn strangers_are_named_and_leftovers_only_counted() {
    let fixture = with_a_past();
    let before = fixture.open().check(fixture.now).unwrap().unused;
    fs::write(fixture.root.join("metadata/notes.txt"), b"x").unwrap();
    fs::write(fixture.root.join("targets/xiaomi/README"), b"x").unwrap();
    fs::write(fixture.root.join("metadata/.tmp-9.d-ginkgo.json"), b"half").unwrap();
    fs::write(fixture.root.join("targets/xiaomi/ginkgo/stable/.tmp-x"), b"half").unwrap();

    let report = fixture.open().check(fixture.now).unwrap();

    assert_eq!(paths(&report.problems), ["metadata/notes.txt", "targets/xiaomi/README"]);
    assert!(report.problems.iter().all(|problem| matches!(problem.fault, Fault::Extra)));
    assert_eq!(report.unused, before + 2);
}

#[test]
fn an_old_file_that_its_keys_never_signed_is_named() {
    let fixture = with_a_past();
    let mut forged: Value =
        serde_json::from_slice(&fs::read(fixture.root.join("metadata/2.d-ginkgo.json")).unwrap()).unwrap();
    forged["signed"]["targets"] = serde_json::json!({});
    fs::write(fixture.root.join("metadata/2.d-ginkgo.json"), forged.to_string()).unwrap();

    let problems = problems(&fixture);

    // It is not the file that was logged, either.
    assert!(
        matches!(&problems[..], [
            Problem { path: proof, fault: Fault::Log(LogError::NotIncluded { .. }) },
            Problem { path, fault: Fault::Untrusted(TrustError::Threshold { .. }) },
        ] if proof == "log/proof/2.d-ginkgo.tlog-proof" && path == "metadata/2.d-ginkgo.json"),
        "{problems:?}"
    );
}

#[test]
fn what_has_expired_is_named() {
    let mut fixture = with_a_past();
    fixture.now += SignedDuration::from_hours(24 * 8);

    let problems = problems(&fixture);

    assert_eq!(paths(&problems), ["metadata/timestamp.json"]);
    assert!(matches!(problems[0].fault, Fault::Expired(_)));
}

#[test]
fn links_are_not_followed() {
    let fixture = with_a_past();
    let package = find(&fixture, "ginkgo-101-full.rvp");
    let elsewhere = fixture.inbox.join("moved");
    fs::rename(&package, &elsewhere).unwrap();
    std::os::unix::fs::symlink("/", fixture.root.join("targets/root")).unwrap();

    let problems = problems(&fixture);

    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems.iter().any(|problem| problem.path.ends_with("targets/root")));
}
