//! The client workflow against a repository in memory: one test per rule, each breaking only that rule.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use relevo_meta::{
    Answer, Limits, Refresh, Scope, Step, Stored, Target, TrustError,
    author::{DeviceFile, TopRole, add_signatures},
    testing::{TestRepo, key},
};
use relevo_types::{ByteLen, Codename, TargetPath, Vendor};
use serde_json::{Value, json};

fn repo() -> TestRepo {
    let mut repo = TestRepo::new();
    repo.add_device("xiaomi", "ginkgo");
    repo.add_device("xiaomi", "willow");
    repo.add_device("samsung", "a5y17lte");
    repo.add_package("xiaomi/ginkgo", "stable", "", "100", 1_700_000_000, b"a full package");
    repo.publish();
    repo
}

fn ginkgo() -> Scope {
    TestRepo::device_scope("xiaomi", "ginkgo")
}

fn codename(text: &str) -> Codename {
    Codename::parse(text).unwrap()
}

fn vendor(text: &str) -> Vendor {
    Vendor::parse(text).unwrap()
}

/// What a phone has stored after a first run.
fn phone(repo: &TestRepo) -> Stored {
    let run = repo.refresh(&repo.stored_root(), ginkgo());
    run.result.unwrap();
    run.stored
}

fn refuse(repo: &TestRepo, stored: &Stored) -> TrustError {
    repo.refresh(stored, ginkgo()).result.unwrap_err()
}

/// Publishes a change of ginkgo that is visible in its role.
fn next_build(repo: &mut TestRepo, build: u32) {
    let timestamp = 1_700_000_000 + i64::from(build);
    repo.add_package("xiaomi/ginkgo", "stable", "", &build.to_string(), timestamp, format!("build {build}").as_bytes());
    repo.publish();
}

fn past(repo: &TestRepo) -> Timestamp {
    repo.now - SignedDuration::from_hours(1)
}

fn signed(bytes: &[u8]) -> Value {
    serde_json::from_slice::<Value>(bytes).unwrap()["signed"].clone()
}

/// The files that a new phone reads after its root.
const FILES: [&str; 5] = ["timestamp.json", "1.snapshot.json", "1.targets.json", "1.v-xiaomi.json", "1.d-ginkgo.json"];

// What is asked for.

#[test]
fn a_new_phone_asks_for_its_own_roles_only() {
    let repo = repo();

    let run = repo.refresh(&repo.stored_root(), ginkgo());

    let trusted = run.result.unwrap();
    assert_eq!(run.requests, [&["2.root.json"], &FILES[..]].concat());
    let device = trusted.device(&codename("ginkgo")).unwrap();
    assert_eq!(trusted.devices().len(), 1);
    assert_eq!(device.packages.len(), 1);
    assert_eq!(device.targets.len(), 2);
    assert_eq!(device.keys, [*key("d-ginkgo").public().verifying_key()]);
    assert_eq!(device.threshold, 1);
    assert!(device.chunk_list(&device.packages[0]).is_some());
    assert!(device.refused.is_empty());
}

#[test]
fn a_poll_without_news_asks_for_the_next_root_and_the_timestamp_only() {
    let repo = repo();

    let run = repo.refresh(&phone(&repo), ginkgo());

    assert_eq!(run.requests, ["2.root.json", "timestamp.json"]);
    assert_eq!(run.result.unwrap().device(&codename("ginkgo")).unwrap().packages.len(), 1);
}

#[test]
fn a_timestamp_signed_again_costs_nothing_more() {
    let mut repo = repo();
    let stored = phone(&repo);
    repo.publish_timestamp();

    let run = repo.refresh(&stored, ginkgo());

    assert_eq!(run.requests, ["2.root.json", "timestamp.json"]);
    assert_eq!(run.result.unwrap().timestamp_version(), 2);
}

#[test]
fn news_of_another_device_cost_the_snapshot_only() {
    let mut repo = repo();
    let stored = phone(&repo);
    repo.add_package("xiaomi/willow", "stable", "", "7", 1_700_000_000, b"for willow");
    repo.publish();

    let run = repo.refresh(&stored, ginkgo());

    assert_eq!(run.requests, ["2.root.json", "timestamp.json", "2.snapshot.json"]);
    run.result.unwrap();
}

#[test]
fn news_of_the_own_device_cost_its_role_in_addition() {
    let mut repo = repo();
    let stored = phone(&repo);
    next_build(&mut repo, 101);

    let run = repo.refresh(&stored, ginkgo());

    assert_eq!(run.requests, ["2.root.json", "timestamp.json", "2.snapshot.json", "2.d-ginkgo.json"]);
    assert_eq!(run.result.unwrap().device(&codename("ginkgo")).unwrap().packages.len(), 2);
}

#[test]
fn a_damaged_stored_role_is_fetched_again() {
    let repo = repo();
    for name in ["snapshot.json", "targets.json", "v-xiaomi.json", "d-ginkgo.json", "timestamp.json"] {
        let mut stored = phone(&repo);
        stored.0.get_mut(name).unwrap()[40] ^= 1;

        let run = repo.refresh(&stored, ginkgo());

        assert!(run.result.is_ok(), "{name}: {:?}", run.result);
    }
}

#[test]
fn a_server_sees_all_devices() {
    let repo = repo();

    let trusted = repo.refresh(&repo.stored_root(), Scope::Everything).result.unwrap();

    let names: Vec<String> = trusted.devices().keys().map(ToString::to_string).collect();
    assert_eq!(names, ["a5y17lte", "ginkgo", "willow"]);
    assert_eq!(trusted.device(&codename("a5y17lte")).unwrap().vendor, vendor("samsung"));
    assert!(trusted.troubles().is_empty());
    assert_eq!(trusted.roles().len(), 4 + 2 + 3);
    assert_eq!(trusted.roles()["d-ginkgo"].file, "1.d-ginkgo.json");
}

#[test]
fn a_publisher_can_leave_the_devices_out() {
    let mut repo = repo();
    repo.metadata.remove("1.d-willow.json");

    let run = repo.refresh(&repo.stored_root(), Scope::Registries);

    let trusted = run.result.unwrap();
    assert!(!run.requests.iter().any(|name| name.contains(".d-")), "{:?}", run.requests);
    assert!(trusted.devices().is_empty() && trusted.troubles().is_empty());
    let listed: Vec<String> = trusted.listed().iter().map(|(device, vendor)| format!("{vendor}/{device}")).collect();
    assert_eq!(listed, ["samsung/a5y17lte", "xiaomi/ginkgo", "xiaomi/willow"]);
}

#[test]
fn another_source_can_answer_after_a_bad_one() {
    let repo = repo();
    let mut refresh = Refresh::start(repo.stored_root(), ginkgo(), repo.now, Limits::default()).unwrap();

    let mut refused = 0;
    let trusted = loop {
        match refresh.next() {
            Step::Get(request) => {
                let good = repo.metadata.get(&request.name);
                for bad in [Answer::Found(b"{}".to_vec()), Answer::Absent] {
                    if bad == Answer::Absent && request.may_be_absent {
                        continue;
                    }
                    assert!(refresh.supply(bad).unwrap_err().is_retryable());
                    refused += 1;
                }
                refresh.supply(good.map_or(Answer::Absent, |bytes| Answer::Found(bytes.clone()))).unwrap();
            }
            Step::Keep { .. } => {}
            Step::Done => break refresh.finish().unwrap(),
        }
    };

    assert_eq!(refused, 11);
    assert_eq!(trusted.devices().len(), 1);
}

#[test]
fn an_installer_verifies_what_is_stored_without_asking_anybody() {
    let mut repo = repo();
    let stored = phone(&repo);

    let trusted = Refresh::offline(stored.clone(), ginkgo(), repo.now, Limits::default()).unwrap();
    assert_eq!(trusted.device(&codename("ginkgo")).unwrap().packages.len(), 1);

    let mut part = stored.clone();
    part.0.remove("d-ginkgo.json");
    let error = Refresh::offline(part, ginkgo(), repo.now, Limits::default()).unwrap_err();
    assert!(matches!(error, TrustError::NotFound { file } if file == "1.d-ginkgo.json"));

    repo.now += SignedDuration::from_hours(24 * 8);
    let error = Refresh::offline(stored, ginkgo(), repo.now, Limits::default()).unwrap_err();
    assert!(matches!(error, TrustError::Expired { role, .. } if role == "timestamp"));
}

#[test]
fn an_answer_that_nobody_asked_for_is_misuse() {
    let repo = repo();
    let mut refresh = Refresh::start(repo.stored_root(), ginkgo(), repo.now, Limits::default()).unwrap();
    assert!(matches!(refresh.supply(Answer::Found(Vec::new())), Err(TrustError::Malformed { .. })));

    let unfinished = Refresh::start(repo.stored_root(), ginkgo(), repo.now, Limits::default()).unwrap();

    assert!(matches!(unfinished.finish(), Err(TrustError::Misuse(_))));
    let nothing = Refresh::start(Stored::default(), ginkgo(), repo.now, Limits::default());
    assert!(matches!(nothing, Err(TrustError::NoRoot)));
}

#[test]
fn a_trusted_state_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}

    shared::<relevo_meta::Trusted>();
    shared::<Refresh>();
    shared::<TrustError>();
}

// Rollback.

#[test]
fn refuses_a_timestamp_older_than_the_trusted_one() {
    let mut repo = repo();
    let old = repo.metadata["timestamp.json"].clone();
    repo.publish_timestamp();
    let stored = phone(&repo);
    repo.metadata.insert("timestamp.json".to_owned(), old);

    let error = refuse(&repo, &stored);

    assert!(
        matches!(error, TrustError::Rollback { ref role, trusted: 2, offered: 1, .. } if role == "timestamp"),
        "{error:?}"
    );
}

#[test]
fn an_expired_stored_timestamp_is_still_a_floor() {
    let mut repo = repo();
    let old = repo.metadata["timestamp.json"].clone();
    repo.publish_timestamp();
    let stored = phone(&repo);
    repo.now += SignedDuration::from_hours(24 * 30);
    repo.metadata.insert("timestamp.json".to_owned(), old);

    let error = refuse(&repo, &stored);

    assert!(matches!(error, TrustError::Rollback { ref role, .. } if role == "timestamp"), "{error:?}");
}

#[test]
fn refuses_a_snapshot_older_than_the_trusted_one() {
    let mut repo = repo();
    let old = repo.metadata["1.snapshot.json"].clone();
    next_build(&mut repo, 101);
    let stored = phone(&repo);
    repo.timestamp.set_snapshot(1, &old).unwrap();
    repo.publish_timestamp();

    let error = refuse(&repo, &stored);

    assert!(
        matches!(error, TrustError::Rollback { ref role, trusted: 2, offered: 1, .. } if role == "snapshot"),
        "{error:?}"
    );
}

#[test]
fn refuses_a_snapshot_that_rolls_a_role_back() {
    for role in ["targets", "v-xiaomi", "d-ginkgo", "d-willow"] {
        let mut repo = repo();
        repo.snapshot.put_role(role, 5).unwrap();
        repo.publish_snapshot();
        repo.publish_timestamp();
        let mut stored = repo.stored_root();
        // The phone keeps the snapshot although the role of version 5 does not exist.
        stored = repo.refresh(&stored, ginkgo()).stored;
        repo.snapshot.put_role(role, 4).unwrap();
        repo.publish_snapshot();
        repo.publish_timestamp();

        let error = refuse(&repo, &stored);

        assert!(
            matches!(&error, TrustError::Rollback { role: named, trusted: 5, offered: 4, .. } if named == role),
            "{error:?}"
        );
    }
}

#[test]
fn refuses_a_snapshot_that_forgets_a_role() {
    let mut repo = repo();
    let stored = phone(&repo);
    repo.snapshot.signed_mut()["meta"].as_object_mut().unwrap().remove("d-willow.json");
    repo.publish_snapshot();
    repo.publish_timestamp();

    let error = refuse(&repo, &stored);

    assert!(
        matches!(error, TrustError::Removed { ref entry, ref file } if entry == "d-willow.json" && file == "2.snapshot.json"),
        "{error:?}"
    );
}

#[test]
fn the_stored_snapshot_stays_a_floor_after_a_newer_timestamp_was_kept() {
    let mut repo = repo();
    next_build(&mut repo, 101);
    let mut stored = phone(&repo);
    repo.publish_snapshot();
    repo.publish_timestamp();
    // The power goes after the timestamp was kept and before the snapshot came.
    let mut refresh = Refresh::start(stored.clone(), ginkgo(), repo.now, Limits::default()).unwrap();
    loop {
        match refresh.next() {
            Step::Get(request) => match repo.metadata.get(&request.name) {
                Some(bytes) => refresh.supply(Answer::Found(bytes.clone())).unwrap(),
                None => refresh.supply(Answer::Absent).unwrap(),
            },
            Step::Keep { name, bytes } => {
                assert_eq!(name, "timestamp.json");
                stored.0.insert(name, bytes);
                break;
            }
            Step::Done => panic!("there is a newer timestamp"),
        }
    }
    // Whoever has the online keys now rolls the device back.
    repo.snapshot.put_role("d-ginkgo", 1).unwrap();
    repo.publish_snapshot();
    repo.publish_timestamp();

    let error = refuse(&repo, &stored);

    assert!(matches!(error, TrustError::Rollback { ref role, .. } if role == "d-ginkgo"), "{error:?}");
}

#[test]
fn a_power_cut_after_any_kept_file_loses_no_floor() {
    let mut repo = repo();
    next_build(&mut repo, 101);
    let before = phone(&repo);
    next_build(&mut repo, 102);
    let keeps = {
        let after = repo.refresh(&before, ginkgo());
        after.stored.0.iter().filter(|(name, bytes)| before.0.get(*name) != Some(*bytes)).count()
    };
    assert_eq!(keeps, 4);

    for cut in 0..=keeps {
        let mut stored = before.clone();
        let mut refresh = Refresh::start(stored.clone(), ginkgo(), repo.now, Limits::default()).unwrap();
        let mut kept = 0;
        while kept < cut {
            match refresh.next() {
                Step::Get(request) => {
                    let answer = repo.metadata.get(&request.name).cloned().map_or(Answer::Absent, Answer::Found);
                    refresh.supply(answer).unwrap();
                }
                Step::Keep { name, bytes } => {
                    stored.0.insert(name, bytes);
                    kept += 1;
                }
                Step::Done => unreachable!("all files were kept before"),
            }
        }
        let mut bad = repo.metadata.clone();
        let mut evil = TestRepo { metadata: std::mem::take(&mut bad), ..self::repo() };
        evil.snapshot = repo.snapshot.clone();
        evil.timestamp = repo.timestamp.clone();
        evil.snapshot.put_role("d-ginkgo", 1).unwrap();
        evil.publish_snapshot();
        evil.publish_timestamp();

        let error = refuse(&evil, &stored);

        assert!(matches!(error, TrustError::Rollback { .. }), "cut after {cut}: {error:?}");
        repo.refresh(&stored, ginkgo()).result.unwrap();
    }
}

// Expiry.

#[test]
fn refuses_what_has_expired() {
    type Expire = fn(&mut TestRepo, Timestamp);
    let past = past(&repo());
    let expire: [(&str, Expire); 5] = [
        ("root", |repo, past| {
            repo.root.set_expires(past);
            repo.publish_root();
        }),
        ("timestamp", |repo, past| {
            repo.timestamp.set_expires(past);
            repo.publish_timestamp();
        }),
        ("snapshot", |repo, past| {
            repo.snapshot.set_expires(past);
            repo.publish_snapshot();
            repo.publish_timestamp();
        }),
        ("targets", |repo, past| {
            repo.targets.set_expires(past);
            repo.publish();
        }),
        ("v-xiaomi", |repo, past| {
            repo.vendors.get_mut(&vendor("xiaomi")).unwrap().set_expires(past);
            repo.publish();
        }),
    ];
    for (name, expire) in expire {
        let mut repo = repo();
        expire(&mut repo, past);

        for stored in [repo.stored_root(), phone(&self::repo())] {
            let error = refuse(&repo, &stored);

            let found = matches!(&error, TrustError::Expired { role, expires, .. } if role == name && *expires == past);
            assert!(found, "{name}: {error:?}");
        }
    }
}

#[test]
fn an_expired_own_device_is_unmaintained() {
    let mut repo = repo();
    let expires = past(&repo);
    repo.devices.get_mut(&codename("ginkgo")).unwrap().set_expires(expires);
    repo.publish();

    let error = refuse(&repo, &repo.stored_root());

    assert!(
        matches!(&error, TrustError::Unmaintained { codename, file, .. }
            if codename.as_str() == "ginkgo" && file == "2.d-ginkgo.json"),
        "{error:?}"
    );
    assert!(error.hint().is_some());
}

#[test]
fn a_stored_device_role_that_expires_later_is_unmaintained_without_asking_again() {
    let mut repo = repo();
    let soon = repo.now + SignedDuration::from_hours(1);
    repo.devices.get_mut(&codename("ginkgo")).unwrap().set_expires(soon);
    repo.publish();
    let stored = phone(&repo);
    repo.now = soon;

    let run = repo.refresh(&stored, ginkgo());

    assert!(matches!(run.result, Err(TrustError::Unmaintained { .. })), "{:?}", run.result);
    assert_eq!(run.requests, ["2.root.json", "timestamp.json"]);
}

#[test]
fn metadata_that_expires_this_moment_has_expired() {
    let mut repo = repo();
    repo.now += SignedDuration::from_hours(24 * 7);

    let error = refuse(&repo, &repo.stored_root());

    assert!(matches!(error, TrustError::Expired { ref role, .. } if role == "timestamp"), "{error:?}");
    repo.now -= SignedDuration::from_nanos(1);
    repo.refresh(&repo.stored_root(), ginkgo()).result.unwrap();
}

#[test]
fn the_expiry_of_roots_on_the_way_does_not_matter() {
    let mut repo = repo();
    let good = repo.root.expires().unwrap();
    let expired = past(&repo);
    repo.root.set_expires(expired);
    repo.publish_root();
    repo.root.set_expires(good);
    repo.publish_root();

    let trusted = repo.refresh(&repo.stored_root(), ginkgo()).result.unwrap();

    assert_eq!(trusted.root_version(), 3);
}

#[test]
fn an_expired_device_does_not_harm_another() {
    let mut repo = repo();
    let expires = past(&repo);
    repo.devices.get_mut(&codename("willow")).unwrap().set_expires(expires);
    repo.publish();

    repo.refresh(&repo.stored_root(), ginkgo()).result.unwrap();
    let all = repo.refresh(&repo.stored_root(), Scope::Everything).result.unwrap();

    assert_eq!(all.devices().len(), 2);
    assert!(matches!(all.troubles()["d-willow"], TrustError::Unmaintained { .. }));
}

#[test]
fn a_broken_device_does_not_harm_another() {
    let breakers: [fn(&mut Vec<u8>); 3] = [|bytes| bytes.truncate(10), |bytes| bytes.clear(), |bytes| bytes[60] ^= 1];
    for breaker in breakers {
        let mut repo = repo();
        breaker(repo.metadata.get_mut("1.d-willow.json").unwrap());

        repo.refresh(&repo.stored_root(), ginkgo()).result.unwrap();
        let all = repo.refresh(&repo.stored_root(), Scope::Everything).result.unwrap();

        assert_eq!(all.devices().len(), 2);
        assert_eq!(all.troubles().keys().collect::<Vec<_>>(), ["d-willow"]);
    }
    let mut repo = repo();
    repo.metadata.remove("1.d-willow.json");
    repo.metadata.insert("1.v-samsung.json".to_owned(), vec![b' '; 1 << 18]);
    let all = repo.refresh(&repo.stored_root(), Scope::Everything).result.unwrap();
    assert!(matches!(all.troubles()["d-willow"], TrustError::NotFound { .. }));
    assert!(matches!(all.troubles()["v-samsung"], TrustError::TooLong { .. }));
}

// Length, hash, version.

#[test]
fn refuses_a_snapshot_of_another_length_or_hash() {
    let mut repo = repo();
    let mut longer = repo.metadata["1.snapshot.json"].clone();
    longer.pop();
    repo.metadata.insert("1.snapshot.json".to_owned(), longer.clone());
    let error = refuse(&repo, &repo.stored_root());
    assert!(matches!(error, TrustError::WrongLength { ref file, .. } if file == "1.snapshot.json"), "{error:?}");

    longer.push(b' ');
    repo.metadata.insert("1.snapshot.json".to_owned(), longer);
    let error = refuse(&repo, &repo.stored_root());
    assert!(matches!(error, TrustError::WrongHash { ref file, .. } if file == "1.snapshot.json"), "{error:?}");
}

#[test]
fn refuses_a_role_of_another_version_than_the_snapshot_names() {
    for role in ["targets", "v-xiaomi", "d-ginkgo"] {
        let mut repo = repo();
        let old = repo.metadata[&format!("1.{role}.json")].clone();
        repo.snapshot.put_role(role, 2).unwrap();
        repo.publish_snapshot();
        repo.publish_timestamp();
        repo.metadata.insert(format!("2.{role}.json"), old);

        let error = refuse(&repo, &repo.stored_root());

        let found = matches!(&error, TrustError::WrongVersion { file, expected: 2, actual: 1 }
            if *file == format!("2.{role}.json"));
        assert!(found, "{error:?}");
    }
}

#[test]
fn refuses_a_snapshot_of_another_version_than_the_timestamp_names() {
    let mut repo = repo();
    let bytes = repo.metadata["1.snapshot.json"].clone();
    repo.timestamp.set_snapshot(2, &bytes).unwrap();
    repo.publish_timestamp();
    repo.metadata.insert("2.snapshot.json".to_owned(), bytes);

    let error = refuse(&repo, &repo.stored_root());

    assert!(matches!(error, TrustError::WrongVersion { expected: 2, actual: 1, .. }), "{error:?}");
}

#[test]
fn names_what_signed_metadata_does_not_list() {
    let mut repo = repo();
    repo.snapshot.signed_mut()["meta"].as_object_mut().unwrap().remove("d-ginkgo.json");
    repo.publish_snapshot();
    repo.publish_timestamp();
    let error = refuse(&repo, &repo.stored_root());
    assert!(matches!(error, TrustError::NotPinned { ref entry, .. } if entry == "d-ginkgo.json"), "{error:?}");

    repo.timestamp.signed_mut()["meta"] = json!({});
    repo.publish_timestamp();
    let error = refuse(&repo, &repo.stored_root());
    assert!(matches!(error, TrustError::NotPinned { ref entry, .. } if entry == "snapshot.json"), "{error:?}");
}

#[test]
fn names_the_file_that_a_source_lacks() {
    for name in FILES {
        let mut repo = repo();
        repo.metadata.remove(name);

        let error = refuse(&repo, &repo.stored_root());

        assert!(matches!(&error, TrustError::NotFound { file } if file == name), "{error:?}");
    }
}

// Signatures.

#[test]
fn refuses_each_role_that_a_stranger_signed() {
    for role in ["timestamp", "snapshot", "targets", "v-xiaomi", "d-ginkgo"] {
        let mut repo = repo();
        repo.signers.insert(role.to_owned(), vec!["stranger".to_owned()]);
        sign_again(&mut repo, role);

        let error = refuse(&repo, &repo.stored_root());

        let found =
            matches!(&error, TrustError::Threshold { role: named, found: 0, threshold: 1, .. } if named == role);
        assert!(found, "{role}: {error:?}");
    }
}

#[test]
fn refuses_a_device_role_signed_by_the_key_of_another_device() {
    let mut repo = repo();
    repo.signers.insert("d-ginkgo".to_owned(), vec!["d-willow".to_owned()]);
    sign_again(&mut repo, "d-ginkgo");

    let error = refuse(&repo, &repo.stored_root());

    assert!(matches!(error, TrustError::Threshold { ref role, .. } if role == "d-ginkgo"), "{error:?}");
}

#[test]
fn refuses_a_device_role_signed_by_the_key_of_its_own_vendor() {
    let mut repo = repo();
    repo.signers.insert("d-ginkgo".to_owned(), vec!["v-xiaomi".to_owned()]);
    sign_again(&mut repo, "d-ginkgo");

    assert!(matches!(refuse(&repo, &repo.stored_root()), TrustError::Threshold { .. }));
}

#[test]
fn refuses_fewer_signatures_than_the_threshold() {
    let mut repo = two_of_three();
    repo.signers.insert("d-ginkgo".to_owned(), vec!["a".to_owned()]);
    repo.publish();

    let error = refuse(&repo, &repo.stored_root());

    assert!(matches!(error, TrustError::Threshold { found: 1, threshold: 2, .. }), "{error:?}");
}

#[test]
fn takes_any_of_the_keys_up_to_the_threshold() {
    let mut repo = two_of_three();
    repo.signers.insert("d-ginkgo".to_owned(), vec!["c".to_owned(), "a".to_owned()]);
    repo.publish();

    let trusted = repo.refresh(&repo.stored_root(), ginkgo()).result.unwrap();

    let device = trusted.device(&codename("ginkgo")).unwrap();
    assert_eq!((device.keys.len(), device.threshold), (3, 2));
}

#[test]
fn people_can_sign_one_after_the_other() {
    let mut repo = two_of_three();
    repo.signers.insert("d-ginkgo".to_owned(), vec!["a".to_owned()]);
    repo.publish();
    let bytes = repo.metadata["2.d-ginkgo.json"].clone();

    let both = add_signatures(&bytes, &[&key("b")]).unwrap();

    assert_eq!(signed(&both), signed(&bytes));
    repo.metadata.insert("2.d-ginkgo.json".to_owned(), both);
    repo.refresh(&repo.stored_root(), ginkgo()).result.unwrap();
}

#[test]
fn refuses_one_signature_counted_twice() {
    let mut repo = two_of_three();
    repo.signers.insert("d-ginkgo".to_owned(), vec!["a".to_owned()]);
    repo.publish();
    let mut file: Value = serde_json::from_slice(&repo.metadata["2.d-ginkgo.json"]).unwrap();
    let twice = file["signatures"][0].clone();
    file["signatures"].as_array_mut().unwrap().push(twice);
    repo.metadata.insert("2.d-ginkgo.json".to_owned(), serde_json::to_vec(&file).unwrap());

    let error = refuse(&repo, &repo.stored_root());

    assert!(matches!(error, TrustError::DuplicateSignature { ref role, .. } if role == "d-ginkgo"), "{error:?}");
}

#[test]
fn refuses_a_signature_in_capital_digits() {
    let mut repo = repo();
    let mut file: Value = serde_json::from_slice(&repo.metadata["timestamp.json"]).unwrap();
    let signature = file["signatures"][0]["sig"].as_str().unwrap().to_ascii_uppercase();
    file["signatures"][0]["sig"] = signature.into();
    repo.metadata.insert("timestamp.json".to_owned(), serde_json::to_vec(&file).unwrap());

    let error = refuse(&repo, &repo.stored_root());

    assert!(matches!(error, TrustError::SignatureDigits { ref file, .. } if file == "timestamp.json"), "{error:?}");
}

#[test]
fn refuses_a_role_in_place_of_another() {
    let mut repo = repo();
    let willow = repo.metadata["1.d-willow.json"].clone();
    repo.metadata.insert("1.d-ginkgo.json".to_owned(), willow);
    assert!(matches!(refuse(&repo, &repo.stored_root()), TrustError::Threshold { .. }));

    let snapshot = repo.metadata["1.snapshot.json"].clone();
    repo.metadata.insert("timestamp.json".to_owned(), snapshot);
    let error = refuse(&repo, &repo.stored_root());
    assert!(matches!(error, TrustError::Malformed { ref role, .. } if role == "timestamp"), "{error:?}");
}

// Delegations.

#[test]
fn a_target_outside_the_delegation_does_not_count() {
    let outside = [
        "xiaomi/willow/stable/a.rvp",
        "samsung/ginkgo/stable/a.rvp",
        "xiaomi/ginkgo/a.rvp",
        "xiaomi/ginkgo/stable/deep/a.rvp",
        "../../a.rvp",
    ];
    for path in outside {
        let mut repo = repo();
        let entry = json!({"length": 1, "hashes": {"sha256": "00".repeat(32)}, "custom": {"kind": "chunks"}});
        repo.devices.get_mut(&codename("ginkgo")).unwrap().signed_mut()["targets"][path] = entry;
        repo.publish();

        let trusted = repo.refresh(&repo.stored_root(), ginkgo()).result.unwrap();

        let device = trusted.device(&codename("ginkgo")).unwrap();
        assert_eq!(device.targets.len(), 2, "{path}");
        let refused = &device.refused[..];
        let found = match refused {
            [TrustError::PathOutsideDelegation { path: named, role, .. }] => named == path && role == "d-ginkgo",
            // What is no path of four parts is not even looked up.
            [TrustError::BadTarget { path: named, .. }] => named == path,
            _ => false,
        };
        assert!(found, "{path}: {refused:?}");
        let all = repo.refresh(&repo.stored_root(), Scope::Everything).result.unwrap();
        assert!(all.device(&codename("willow")).unwrap().targets.is_empty());
    }
}

#[test]
fn refuses_a_target_that_its_vendor_may_not_delegate() {
    let mut repo = repo();
    let registry = repo.vendors.get_mut(&vendor("samsung")).unwrap();
    // Samsung hands Xiaomi's phone to itself.
    registry.put_device(&vendor("xiaomi"), &codename("ginkgo"), &[key("d-a5y17lte").public().clone()], 1).unwrap();
    repo.publish();

    repo.refresh(&repo.stored_root(), ginkgo()).result.unwrap();
    let all = repo.refresh(&repo.stored_root(), Scope::Everything).result.unwrap();

    let device = all.device(&codename("ginkgo")).unwrap();
    assert_eq!(device.keys, [*key("d-ginkgo").public().verifying_key()]);
    assert_eq!(device.packages.len(), 1);
    assert!(matches!(all.troubles()["d-ginkgo"], TrustError::Threshold { .. }));
}

#[test]
fn a_vendor_has_no_say_over_the_devices_of_another() {
    let mut repo = repo();
    let targets = repo.targets.signed_mut()["delegations"]["roles"].as_array_mut().unwrap();
    // The registry names Samsung first, but not for this path.
    targets.sort_by_key(|role| role["name"] != "v-samsung");
    repo.publish();

    let run = repo.refresh(&repo.stored_root(), ginkgo());

    run.result.unwrap();
    assert!(!run.requests.iter().any(|name| name.contains("samsung")));
}

#[test]
fn there_is_no_device_under_another_vendor() {
    let repo = repo();

    for scope in [TestRepo::device_scope("samsung", "ginkgo"), TestRepo::device_scope("nokia", "ginkgo")] {
        let error = repo.refresh(&repo.stored_root(), scope).result.unwrap_err();

        assert!(matches!(error, TrustError::NoSuchDevice { .. }), "{error:?}");
    }
}

#[test]
fn a_terminating_delegation_ends_the_search() {
    let mut repo = repo();
    let key_ids = json!([key("v-samsung").public().key_id()]);
    let roles = repo.targets.signed_mut()["delegations"]["roles"].as_array_mut().unwrap();
    roles.push(json!({"name": "v-late", "keyids": key_ids, "threshold": 1, "paths": ["*/*/*/*"], "terminating": true}));
    repo.publish();

    let run = repo.refresh(&repo.stored_root(), ginkgo());

    run.result.unwrap();
    assert!(!run.requests.iter().any(|name| name.contains("v-late")));
}

#[test]
fn the_search_goes_down_before_it_goes_on() {
    let mut repo = repo();
    let id = key("x").public().key_id();
    let delegate = |name: &str| json!({"name": name, "keyids": [id], "threshold": 1, "paths": ["xiaomi/*/*/*"]});
    let delegations = repo.targets.signed_mut()["delegations"].as_object_mut().unwrap();
    delegations["keys"][&id] = key("x").public().to_value();
    delegations["roles"].as_array_mut().unwrap().splice(0..0, [delegate("x-1"), delegate("x-2")]);
    for name in ["x-1", "x-2", "x-1-1"] {
        let mut role = DeviceFile::new(repo.now + SignedDuration::from_hours(24));
        if name == "x-1" {
            let key = json!({&id: key("x").public().to_value()});
            let delegations = json!({"keys": key, "roles": [delegate("x-1-1"), delegate("x-1")]});
            role.signed_mut().insert("delegations".to_owned(), delegations);
        }
        repo.signers.insert(name.to_owned(), vec!["x".to_owned()]);
        repo.put(name, 1, &role);
        repo.snapshot.put_role(name, 1).unwrap();
    }
    repo.publish();

    let run = repo.refresh(&repo.stored_root(), ginkgo());

    run.result.unwrap();
    assert_eq!(run.requests[4..], ["1.x-1.json", "1.x-1-1.json", "1.x-2.json", "1.v-xiaomi.json", "1.d-ginkgo.json"]);
}

#[test]
fn a_stored_role_is_held_against_the_keys_of_today() {
    let mut repo = repo();
    let stored = phone(&repo);
    let registry = repo.vendors.get_mut(&vendor("xiaomi")).unwrap();
    registry.put_device(&vendor("xiaomi"), &codename("ginkgo"), &[key("heir").public().clone()], 1).unwrap();
    repo.publish();

    let error = refuse(&repo, &stored);

    assert!(matches!(error, TrustError::Threshold { ref role, .. } if role == "d-ginkgo"), "{error:?}");
}

#[test]
fn the_search_for_a_device_visits_a_limited_number_of_roles() {
    let mut repo = repo();
    let id = key("x").public().key_id();
    let roles: Vec<Value> = (0..20)
        .map(|n| json!({"name": format!("x-{n}"), "keyids": [id], "threshold": 1, "paths": ["*/*/*/*"]}))
        .collect();
    repo.targets.signed_mut()["delegations"] = json!({"keys": {id: key("x").public().to_value()}, "roles": roles});
    let empty = DeviceFile::new(repo.now + SignedDuration::from_hours(24));
    for n in 0..20 {
        let role = format!("x-{n}");
        repo.signers.insert(role.clone(), vec!["x".to_owned()]);
        repo.put(&role, 1, &empty);
        repo.snapshot.put_role(&role, 1).unwrap();
    }
    repo.publish();

    let run = repo.refresh(&repo.stored_root(), ginkgo());

    assert!(matches!(run.result, Err(TrustError::TooManyRoles { limit: 8 })), "{:?}", run.result);
    assert_eq!(run.requests.len(), 4 + 8);
}

#[test]
fn a_role_below_the_device_speaks_for_its_channel_only() {
    let mut repo = nightly();

    let trusted = repo.refresh(&repo.stored_root(), ginkgo()).result.unwrap();

    let device = trusted.device(&codename("ginkgo")).unwrap();
    let paths: Vec<String> = device.targets.keys().map(ToString::to_string).collect();
    assert!(paths.contains(&"xiaomi/ginkgo/nightly/n.rvp".to_owned()));
    assert!(!paths.contains(&"xiaomi/ginkgo/stable/n.rvp".to_owned()));
    assert!(
        matches!(&device.refused[..], [TrustError::PathOutsideDelegation { role, .. }] if role == "d-ginkgo-nightly")
    );

    // Its end is not the device's end.
    repo.now += SignedDuration::from_hours(24 * 6);
    let trusted = repo.refresh(&repo.stored_root(), ginkgo()).result.unwrap();
    assert!(matches!(trusted.troubles()["d-ginkgo-nightly"], TrustError::Expired { .. }));
    assert_eq!(trusted.device(&codename("ginkgo")).unwrap().packages.len(), 1);
}

// Roots.

#[test]
fn follows_the_roots_one_by_one_and_keeps_each() {
    let mut repo = repo();
    for version in 2..=40 {
        rotate(&mut repo, TopRole::Root, &format!("root-{version}"));
    }

    let first = repo.refresh(&repo.stored_root(), ginkgo());
    let second = repo.refresh(&first.stored, ginkgo());

    assert!(matches!(first.result, Err(TrustError::TooManyRoots { steps: 32, reached: 33 })), "{:?}", first.result);
    assert_eq!(first.stored.0["root.json"], repo.metadata["33.root.json"]);
    assert_eq!(second.requests[0], "34.root.json");
    assert_eq!(second.result.unwrap().root_version(), 40);
}

#[test]
fn refuses_a_root_that_skips_a_version() {
    let mut repo = repo();
    repo.root.set_version(2);
    repo.publish_root();
    let third = repo.metadata.remove("3.root.json").unwrap();
    repo.metadata.insert("2.root.json".to_owned(), third);

    let error = refuse(&repo, &repo.stored_root());

    assert!(
        matches!(error, TrustError::VersionGap { trusted: 1, offered: 3, ref file } if file == "2.root.json"),
        "{error:?}"
    );
}

#[test]
fn refuses_the_same_root_as_the_next_one() {
    let mut repo = repo();
    let first = repo.metadata["1.root.json"].clone();
    repo.metadata.insert("2.root.json".to_owned(), first);

    assert!(matches!(refuse(&repo, &repo.stored_root()), TrustError::VersionGap { trusted: 1, offered: 1, .. }));
}

#[test]
fn refuses_a_root_that_only_its_own_keys_or_only_the_old_ones_signed() {
    for signer in ["thief", "root"] {
        let mut repo = repo();
        repo.root.set_role(TopRole::Root, &[key("thief").public().clone()], 1).unwrap();
        repo.signers.insert("root".to_owned(), vec![signer.to_owned()]);
        repo.publish_root();

        let error = refuse(&repo, &repo.stored_root());

        assert!(matches!(error, TrustError::Threshold { ref role, .. } if role == "root"), "{error:?}");
    }
}

#[test]
fn a_rotation_of_the_online_keys_recovers_from_versions_far_ahead() {
    for rotated in [&[TopRole::Timestamp, TopRole::Snapshot][..], &[TopRole::Snapshot], &[TopRole::Timestamp]] {
        let mut repo = repo();
        let good = (repo.snapshot.clone(), repo.timestamp.clone());
        // Whoever stole the online keys pushes the versions up, so that nothing newer can ever come.
        repo.snapshot.set_version(u64::from(u32::MAX));
        repo.timestamp.set_version(u64::from(u32::MAX));
        repo.publish_snapshot();
        repo.publish_timestamp();
        let stored = phone(&repo);
        (repo.snapshot, repo.timestamp) = good;
        repo.publish_snapshot();
        repo.publish_timestamp();
        assert!(matches!(refuse(&repo, &stored), TrustError::Rollback { .. }));

        for role in rotated {
            rotate(&mut repo, *role, &format!("new-{}", role.name()));
        }
        repo.publish_snapshot();
        repo.publish_timestamp();
        let run = repo.refresh(&stored, ginkgo());

        let trusted = run.result.unwrap_or_else(|error| panic!("{rotated:?}: {error:?}"));
        assert!(trusted.timestamp_version() < 100);
        // And from there on the new floors hold.
        let requests = repo.refresh(&run.stored, ginkgo()).requests;
        assert_eq!(requests.len(), 2, "{requests:?}");
    }
}

// Damage.

#[test]
fn a_flipped_bit_is_never_accepted_as_other_content() {
    let mut repo = repo();
    rotate(&mut repo, TopRole::Root, "root-2");
    let good = summary(&repo, |_, bytes| bytes).unwrap();
    for name in ["2.root.json"].into_iter().chain(FILES) {
        let original = repo.metadata[name].clone();
        for position in 0..original.len() {
            let mask = if position % 2 == 0 { 0x01 } else { 0x20 };
            let mut flipped = original.clone();
            flipped[position] ^= mask;

            let result = summary(&repo, |asked, bytes| if asked == name { Some(flipped.clone()) } else { bytes });

            // The case of a hexadecimal digit in a signature says nothing; that is the most that may pass.
            if let Ok(summary) = result {
                assert_eq!(summary, good, "{name} at {position}");
                assert_eq!(signed(&flipped), signed(&original), "{name} at {position}");
            }
        }
    }
}

#[test]
fn a_truncated_file_is_refused_at_every_length() {
    let repo = repo();
    for name in FILES {
        let original = &repo.metadata[name];
        for length in 0..original.len() {
            let result =
                summary(&repo, |asked, bytes| if asked == name { Some(original[..length].to_vec()) } else { bytes });

            let error = result.unwrap_err();
            assert!(
                matches!(error, TrustError::Malformed { .. } | TrustError::WrongLength { .. }),
                "{name} cut at {length}: {error:?}"
            );
        }
    }
}

#[test]
fn endless_data_is_refused_by_name_and_limit() {
    let repo = repo();
    let limits = Limits::default();
    let endless = vec![b' '; 1 << 19];
    let pinned = ByteLen::new(repo.metadata["1.snapshot.json"].len() as u64);
    let expected = BTreeMap::from([
        ("2.root.json", limits.root),
        ("timestamp.json", limits.timestamp),
        ("1.snapshot.json", pinned),
        ("1.targets.json", limits.targets),
        ("1.v-xiaomi.json", limits.role),
        ("1.d-ginkgo.json", limits.role),
    ]);
    for (name, expected) in expected {
        let error =
            summary(&repo, |asked, bytes| if asked == name { Some(endless.clone()) } else { bytes }).unwrap_err();

        assert!(
            matches!(&error, TrustError::TooLong { file, limit, .. } if file == name && *limit == expected),
            "{error:?}"
        );
    }
}

#[test]
fn deep_nesting_and_odd_values_are_errors_and_no_panics() {
    let repo = repo();
    let odd = [
        "[".repeat(3000),
        format!("{{\"signed\":{}", "{\"a\":".repeat(500)),
        "{\"signatures\":[],\"signed\":{\"_type\":\"timestamp\",\"version\":1.5}}".to_owned(),
        "{\"signatures\":[],\"signed\":{\"version\":18446744073709551615}}".to_owned(),
        "{\"signatures\":0,\"signed\":[]}".to_owned(),
        "null".to_owned(),
        "\u{0}".to_owned(),
    ];
    for text in odd {
        for name in FILES {
            let result =
                summary(&repo, |asked, bytes| if asked == name { Some(text.clone().into_bytes()) } else { bytes });

            assert!(result.is_err(), "{name}: {text}");
        }
    }
}

// The custom field.

#[test]
fn a_package_with_a_wrong_custom_field_is_not_offered_and_harms_no_other() {
    let wrong = [
        json!({"kind": "native"}),
        json!({"kind": "native", "to": 101, "version": "x", "timestamp": 1}),
        json!({"kind": "native", "to": "101", "version": "x", "timestamp": "1"}),
        json!({"kind": "native", "to": "101", "version": "x", "timestamp": 1, "rollout": 101}),
        json!({"kind": "native", "to": "101", "version": "x", "timestamp": 1, "rollout": -1}),
        json!({"kind": "native", "to": "../x", "version": "x", "timestamp": 1}),
        json!({"kind": "native", "to": "101", "from": "101", "version": "x", "timestamp": 1}),
        json!({"kind": "native", "to": "101", "version": "x", "timestamp": 1, "withdrawn": "yes"}),
        json!({"kind": "native", "to": "101", "version": "x", "timestamp": 1, "spl": "soon"}),
    ];
    for custom in wrong {
        let mut repo = repo();
        repo.add_target("xiaomi/ginkgo/stable/bad.rvp", b"bad", &custom);
        repo.publish();

        let trusted = repo.refresh(&repo.stored_root(), ginkgo()).result.unwrap();

        let device = trusted.device(&codename("ginkgo")).unwrap();
        assert_eq!(device.packages.len(), 1, "{custom}");
        assert!(matches!(&device.refused[..], [TrustError::BadTarget { .. }]), "{custom}: {:?}", device.refused);
    }
}

#[test]
fn what_a_phone_does_not_know_it_passes_over() {
    let mut repo = repo();
    let newer = json!({"kind": "native", "to": "101", "version": "x", "timestamp": 1, "witness": {"a": [1]}});
    repo.add_target("xiaomi/ginkgo/stable/new.rvp", b"new", &newer);
    repo.add_target("xiaomi/ginkgo/stable/notes.txt", b"notes", &json!({"kind": "notes", "to": 5}));
    repo.add_target("xiaomi/ginkgo/stable/plain.txt", b"plain", &Value::Null);
    repo.publish();

    let trusted = repo.refresh(&repo.stored_root(), ginkgo()).result.unwrap();

    let device = trusted.device(&codename("ginkgo")).unwrap();
    assert_eq!((device.packages.len(), device.targets.len()), (2, 5));
    assert!(device.refused.is_empty(), "{:?}", device.refused);
    assert_eq!(device.packages[1].custom.rollout, 100);
}

// Helpers.

fn sign_again(repo: &mut TestRepo, role: &str) {
    match role {
        "timestamp" => repo.publish_timestamp(),
        "snapshot" => {
            repo.publish_snapshot();
            repo.publish_timestamp();
        }
        "targets" => {
            let draft = repo.targets.clone();
            repo.put(role, 1, &draft);
        }
        "v-xiaomi" => {
            let draft = repo.vendors[&vendor("xiaomi")].clone();
            repo.put(role, 1, &draft);
        }
        _ => {
            let draft = repo.devices[&codename("ginkgo")].clone();
            repo.put(role, 1, &draft);
        }
    }
}

/// Ginkgo with keys a, b and c, of which two have to sign; not published yet.
fn two_of_three() -> TestRepo {
    let mut repo = repo();
    let keys = ["a", "b", "c"].map(|name| key(name).public().clone());
    let registry = repo.vendors.get_mut(&vendor("xiaomi")).unwrap();
    registry.put_device(&vendor("xiaomi"), &codename("ginkgo"), &keys, 2).unwrap();
    let expires = repo.now + SignedDuration::from_hours(24 * 90);
    repo.devices.get_mut(&codename("ginkgo")).unwrap().set_expires(expires);
    repo
}

/// Ginkgo with a role `d-ginkgo-nightly` for the build box, valid for five days.
fn nightly() -> TestRepo {
    let mut repo = repo();
    let id = key("ci").public().key_id();
    repo.devices.get_mut(&codename("ginkgo")).unwrap().signed_mut().insert(
        "delegations".to_owned(),
        json!({
            "keys": {&id: key("ci").public().to_value()},
            "roles": [{
                "name": "d-ginkgo-nightly", "keyids": [id], "threshold": 1, "terminating": true,
                "paths": ["xiaomi/ginkgo/nightly/*"],
            }],
        }),
    );
    let mut role = DeviceFile::new(repo.now + SignedDuration::from_hours(24 * 5));
    for path in ["xiaomi/ginkgo/nightly/n.rvp", "xiaomi/ginkgo/stable/n.rvp"] {
        let target = relevo_meta::Target::of(b"nightly");
        let path = relevo_types::TargetPath::parse(path).unwrap();
        role.put_target(&path, target, &json!({"kind": "chunks"})).unwrap();
    }
    repo.signers.insert("d-ginkgo-nightly".to_owned(), vec!["ci".to_owned()]);
    repo.put("d-ginkgo-nightly", 1, &role);
    repo.snapshot.put_role("d-ginkgo-nightly", 1).unwrap();
    repo.publish();
    repo
}

/// Gives a role a new key and publishes the root, signed by the old and the new root keys.
fn rotate(repo: &mut TestRepo, role: TopRole, name: &str) {
    repo.root.set_role(role, &[key(name).public().clone()], 1).unwrap();
    let old = repo.signers.get("root").cloned().unwrap_or_else(|| vec!["root".to_owned()]);
    let old = old.last().cloned().unwrap();
    let mut signers = vec![old];
    if role == TopRole::Root {
        signers.push(name.to_owned());
    } else {
        repo.signers.insert(role.name().to_owned(), vec![name.to_owned()]);
    }
    repo.signers.insert("root".to_owned(), signers);
    repo.publish_root();
}

/// What a new phone believes, when its mirror changes answers.
fn summary(repo: &TestRepo, change: impl Fn(&str, Option<Vec<u8>>) -> Option<Vec<u8>>) -> Result<String, TrustError> {
    let run = repo.refresh_with(&repo.stored_root(), ginkgo(), &Limits::default(), change);
    let trusted = run.result?;
    let devices = trusted.devices();
    let told: Vec<_> = devices.values().map(|d| (&d.packages, &d.targets, &d.keys, d.threshold, d.expires)).collect();
    Ok(format!("{:?} {told:?}", trusted.roles()))
}

#[test]
fn a_nightly_package_has_the_keys_of_the_nightly_role() {
    let mut repo = TestRepo::new();
    repo.add_device("xiaomi", "ginkgo");
    repo.add_package("xiaomi/ginkgo", "stable", "", "101", 1_750_000_000, b"stable");
    repo.publish();
    let (vendor, codename) = ("xiaomi".parse().unwrap(), Codename::parse("ginkgo").unwrap());
    let device = repo.devices.get_mut(&codename).unwrap();
    device.put_nightly(&vendor, &codename, &[key("d-ginkgo-nightly").public().clone()], 1).unwrap();
    repo.publish();
    let nightly = TargetPath::parse("xiaomi/ginkgo/nightly/a.rvp").unwrap();
    let mut file = DeviceFile::new(repo.now + SignedDuration::from_hours(24 * 45));
    file.put_target(&nightly, Target::of(b"nightly"), &serde_json::Value::Null).unwrap();
    repo.put("d-ginkgo-nightly", 1, &file);
    repo.snapshot.put_role("d-ginkgo-nightly", 1).unwrap();
    repo.publish_snapshot();
    repo.publish_timestamp();

    let trusted = repo.refresh(&repo.stored_root(), TestRepo::device_scope("xiaomi", "ginkgo")).result.unwrap();

    let device = trusted.device(&codename).unwrap();
    let stable = TargetPath::parse("xiaomi/ginkgo/stable/ginkgo-101-full.rvp").unwrap();
    let of = |name: &str| vec![*key(name).public().verifying_key()];
    assert_eq!(device.signatories(&stable), (of("d-ginkgo").as_slice(), 1));
    assert_eq!(device.signatories(&nightly), (of("d-ginkgo-nightly").as_slice(), 1));
}
