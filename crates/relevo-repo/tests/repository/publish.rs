//! Publishing, refreshing, removing: what phones see afterwards.

use std::{collections::BTreeMap, fs};

use jiff::SignedDuration;
use relevo_meta::{TrustError, author::TopRole, chunks::ChunkList, testing::key};
use relevo_repo::{Expiries, NewRepository, RepoError, Repository, RoleKeys, Signers};
use relevo_types::{Codename, TargetPath, Vendor};
use serde_json::json;

use crate::support::{
    Fixture, builds, content, custom, find, ginkgo, keys, new_repository, path, phone, signers, vendor,
};

fn willow() -> Codename {
    Codename::parse("willow").unwrap()
}

#[test]
fn a_published_package_is_vouched_for_with_its_chunk_list() {
    let fixture = Fixture::with_device();

    let published = fixture.publish("100").unwrap();

    assert_eq!(published.roles, ["d-ginkgo", "snapshot", "timestamp"]);
    assert_eq!((published.snapshot_version, published.timestamp_version), (3, 3));
    let state = fixture.open().trusted(fixture.now).unwrap();
    let device = state.device(&ginkgo()).unwrap();
    let package = &device.packages[0];
    let (chunks, target) = device.chunk_list(package).unwrap();
    let file =
        |path: &TargetPath, sha256| fs::read(fixture.root.join("targets").join(path.consistent(&sha256))).unwrap();
    assert_eq!(file(&package.path, package.sha256), content("100"));
    let list = ChunkList::parse(&file(&chunks, target.sha256), package.length).unwrap();
    list.check(0, &content("100")).unwrap();
    let report = fixture.open().check(fixture.now).unwrap();
    assert!(report.is_clean(), "{:?}", report.problems);
}

#[test]
fn a_publication_writes_only_what_changed() {
    let fixture = Fixture::logged_with_device();
    fixture.publish("100").unwrap();
    let before = fixture.files();

    fixture.publish("101").unwrap();

    let after = fixture.files();
    let new: Vec<String> = after
        .iter()
        .filter(|(path, bytes)| before.get(*path) != Some(*bytes))
        .map(|(path, _)| path.to_string_lossy().into_owned())
        .collect();
    let metadata: Vec<&String> = new.iter().filter(|path| path.starts_with("metadata")).collect();
    assert_eq!(metadata, ["metadata/3.d-ginkgo.json", "metadata/4.snapshot.json", "metadata/timestamp.json"]);
    let log: Vec<&String> = new.iter().filter(|path| path.starts_with("log")).collect();
    assert_eq!(
        log,
        [
            "log/.signed",
            "log/checkpoint",
            "log/proof/3.d-ginkgo.tlog-proof",
            "log/tile/0/000.p/7",
            "log/tile/entries/000.p/7"
        ]
    );
    assert_eq!(new.len(), 3 + 5 + 2, "{new:?}");
    assert!(before.keys().all(|path| after.contains_key(path)), "nothing is removed");
}

#[test]
fn publishing_the_same_again_changes_nothing_and_needs_no_keys() {
    let fixture = Fixture::with_device();
    fixture.publish("100").unwrap();
    let before = fixture.files();
    let repository = fixture.open();
    let file = fixture.file("again.rvp", &content("100"));

    let mut publication = repository.publication().unwrap();
    let added = publication.add_package(&path("100"), &file, &custom("100")).unwrap();
    assert!(!added.changed);
    assert!(publication.needed_signers().is_empty());
    let published = publication.commit(&Signers::new(), fixture.now).unwrap();

    assert!(published.roles.is_empty());
    assert_eq!(fixture.files(), before);
}

#[test]
fn a_published_file_never_becomes_another() {
    let fixture = Fixture::with_device();
    fixture.publish("100").unwrap();
    let repository = fixture.open();
    let other = fixture.file("other.rvp", b"something else");

    let error = repository.publication().unwrap().add_package(&path("100"), &other, &custom("100")).unwrap_err();

    assert!(matches!(error, RepoError::OtherContent { .. }), "{error:?}");
}

#[test]
fn rollout_and_withdrawal_change_the_words_and_not_the_files() {
    let fixture = Fixture::with_device();
    fixture.publish("100").unwrap();
    let targets = |fixture: &Fixture| {
        let files = fixture.files().into_iter().filter(|(path, _)| path.starts_with("targets"));
        files.collect::<BTreeMap<_, _>>()
    };
    let before = targets(&fixture);
    let repository = fixture.open();

    let mut publication = repository.publication().unwrap();
    publication
        .edit_custom(&path("100"), |custom| {
            custom.insert("withdrawn".to_owned(), true.into());
            custom.insert("rollout".to_owned(), 5.into());
        })
        .unwrap();
    assert_eq!(publication.needed_signers(), ["d-ginkgo", "snapshot", "timestamp"]);
    publication.commit(&signers(), fixture.now).unwrap();

    let state = repository.trusted(fixture.now).unwrap();
    let custom = &state.device(&ginkgo()).unwrap().packages[0].custom;
    assert!(custom.withdrawn && custom.rollout == 5 && custom.version == "build 100");
    assert_eq!(targets(&fixture), before);
}

#[test]
fn a_removed_package_goes_with_its_chunk_list() {
    let fixture = Fixture::with_device();
    fixture.publish("100").unwrap();
    fixture.publish("101").unwrap();
    let repository = fixture.open();

    let mut publication = repository.publication().unwrap();
    publication.remove_target(&path("100")).unwrap();
    publication.commit(&signers(), fixture.now).unwrap();

    assert_eq!(builds(&repository, fixture.now), ["101"]);
    assert_eq!(repository.trusted(fixture.now).unwrap().device(&ginkgo()).unwrap().targets.len(), 2);
    let mut publication = repository.publication().unwrap();
    assert!(matches!(publication.remove_target(&path("100")), Err(RepoError::NoSuchTarget(_))));
}

#[test]
fn a_device_added_later_leaves_the_others_alone() {
    let fixture = Fixture::with_device();
    fixture.publish("100").unwrap();
    let repository = fixture.open();

    let mut publication = repository.publication().unwrap();
    publication.add_device(&vendor(), &willow(), &keys("d-willow")).unwrap();
    let published = publication.commit(&signers(), fixture.now).unwrap();

    assert_eq!(published.roles, ["d-willow", "v-xiaomi", "snapshot", "timestamp"]);
    let state = repository.trusted(fixture.now).unwrap();
    assert_eq!(state.devices().len(), 2);
    assert_eq!(state.roles()["d-ginkgo"].version, 2);
    // Saying it again says nothing.
    let mut publication = repository.publication().unwrap();
    publication.add_vendor(&vendor(), &keys("v-xiaomi")).unwrap();
    publication.add_device(&vendor(), &willow(), &keys("d-willow")).unwrap();
    assert!(publication.needed_signers().is_empty());
}

#[test]
fn vendor_device_and_package_can_come_in_one_publication() {
    let fixture = Fixture::new();
    let repository = fixture.open();
    let file = fixture.file("100.rvp", &content("100"));

    let mut publication = repository.publication().unwrap();
    publication.add_vendor(&vendor(), &keys("v-xiaomi")).unwrap();
    publication.add_device(&vendor(), &ginkgo(), &keys("d-ginkgo")).unwrap();
    publication.add_package(&path("100"), &file, &custom("100")).unwrap();
    publication.commit(&signers(), fixture.now).unwrap();

    assert_eq!(builds(&repository, fixture.now), ["100"]);
}

#[test]
fn a_codename_belongs_to_one_vendor() {
    let fixture = Fixture::with_device();
    let repository = fixture.open();
    let samsung = Vendor::parse("samsung").unwrap();

    let mut publication = repository.publication().unwrap();
    publication.add_vendor(&samsung, &keys("v-samsung")).unwrap();
    let error = publication.add_device(&samsung, &ginkgo(), &keys("d-ginkgo")).unwrap_err();

    assert!(matches!(error, RepoError::CodenameTaken { ref vendor, .. } if vendor.as_str() == "xiaomi"), "{error:?}");
    let file = fixture.file("x", b"x");
    let foreign = TargetPath::parse("samsung/ginkgo/stable/x").unwrap();
    let error = publication.add_target(&foreign, &file, &json!(null)).unwrap_err();
    assert!(matches!(error, RepoError::CodenameTaken { .. }), "{error:?}");
}

#[test]
fn unknown_vendors_devices_and_roles_are_named() {
    let fixture = Fixture::new();
    let repository = fixture.open();
    let mut publication = repository.publication().unwrap();
    let file = fixture.file("x", b"x");

    let error = publication.add_device(&vendor(), &ginkgo(), &keys("d-ginkgo")).unwrap_err();
    assert!(matches!(error, RepoError::NoSuchVendor(_)), "{error:?}");
    let error = publication.add_target(&path("100"), &file, &json!(null)).unwrap_err();
    assert!(matches!(error, RepoError::NoSuchDevice(_)), "{error:?}");
    for role in ["d-ginkgo", "v-xiaomi", "x"] {
        assert!(publication.renew(role).is_err(), "{role}");
    }

    let fixture = Fixture::with_device();
    let missing = fixture.inbox.join("missing.rvp");
    let repository = fixture.open();
    let mut publication = repository.publication().unwrap();
    let error = publication.add_target(&path("100"), &missing, &json!(null)).unwrap_err();
    assert!(matches!(error, RepoError::Read { ref path, .. } if *path == missing), "{error:?}");
}

#[test]
fn what_phones_would_refuse_is_not_published() {
    let fixture = Fixture::with_device();
    let before = fixture.files();
    let repository = fixture.open();
    let publish = |signers: &Signers, custom: serde_json::Value| {
        let file = fixture.file("100.rvp", &content("100"));
        let mut publication = repository.publication().unwrap();
        publication.add_target(&path("100"), &file, &custom).unwrap();
        publication.commit(signers, fixture.now).unwrap_err()
    };

    let mut wrong = signers_without("d-ginkgo");
    wrong.add("d-ginkgo", key("stranger"));
    let error = publish(&wrong, custom("100").to_value());
    assert!(
        matches!(error, RepoError::WouldBeRefused(TrustError::Threshold { ref role, .. }) if role == "d-ginkgo"),
        "{error:?}"
    );

    let mut few = Signers::new();
    few.add("d-ginkgo", key("d-ginkgo"));
    let error = publish(&few, custom("100").to_value());
    assert!(matches!(error, RepoError::NoSigner { ref role } if role == "snapshot"), "{error:?}");

    let error = publish(&signers(), json!({"kind": "native", "to": 100}));
    assert!(matches!(error, RepoError::WouldBeRefused(TrustError::BadTarget { .. })), "{error:?}");

    let metadata = |files: BTreeMap<std::path::PathBuf, Vec<u8>>| {
        files.into_iter().filter(|(path, _)| path.starts_with("metadata")).collect::<Vec<_>>()
    };
    assert_eq!(metadata(fixture.files()), metadata(before));
}

#[test]
fn a_role_with_a_threshold_needs_that_many_keys() {
    let fixture = Fixture::with_device();
    let repository = fixture.open();
    let two = RoleKeys { keys: ["a", "b"].map(|name| key(name).public().clone()).to_vec(), threshold: 2 };
    let with = |names: &[&str]| {
        let mut signers = signers_without("d-ginkgo");
        for name in names {
            signers.add("d-ginkgo", key(name));
        }
        signers
    };

    let mut publication = repository.publication().unwrap();
    publication.add_device(&vendor(), &ginkgo(), &two).unwrap();
    assert_eq!(publication.needed_signers(), ["d-ginkgo", "v-xiaomi", "snapshot", "timestamp"]);
    let error = publication.commit(&with(&["a"]), fixture.now).unwrap_err();
    assert!(matches!(error, RepoError::WouldBeRefused(TrustError::Threshold { found: 1, .. })), "{error:?}");

    let mut publication = repository.publication().unwrap();
    publication.add_device(&vendor(), &ginkgo(), &two).unwrap();
    publication.commit(&with(&["a", "b"]), fixture.now).unwrap();
    assert_eq!(repository.trusted(fixture.now).unwrap().device(&ginkgo()).unwrap().threshold, 2);
}

fn signers_without(role: &str) -> Signers {
    let mut some = Signers::new();
    for name in ["root", "targets", "snapshot", "timestamp", "v-xiaomi"] {
        if name != role {
            some.add(name, key(name));
        }
    }
    some
}

#[test]
fn a_refresh_signs_the_timestamp_and_at_half_time_the_snapshot() {
    let mut fixture = Fixture::with_device();
    let mut online = Signers::new();
    online.add("timestamp", key("timestamp"));
    fixture.now += SignedDuration::from_hours(24 * 5);

    let published = fixture.open().refresh(&online, fixture.now).unwrap();
    assert_eq!(published.roles, ["timestamp"]);
    let error = fixture.open().refresh(&online, fixture.now + SignedDuration::from_hours(24 * 25)).unwrap_err();
    assert!(matches!(error, RepoError::NoSigner { ref role } if role == "snapshot"), "{error:?}");

    online.add("snapshot", key("snapshot"));
    // Long after everything online has expired.
    fixture.now += SignedDuration::from_hours(24 * 70);
    assert!(matches!(fixture.open().trusted(fixture.now), Err(RepoError::Trust(TrustError::Expired { .. }))));
    let published = fixture.open().refresh(&online, fixture.now).unwrap();
    assert_eq!(published.roles, ["snapshot", "timestamp"]);
    fixture.open().trusted(fixture.now).unwrap();
}

#[test]
fn a_refresh_does_not_hide_an_expired_registry() {
    let mut fixture = Fixture::with_device();
    fixture.now += SignedDuration::from_hours(24 * 366);

    let error = fixture.open().refresh(&signers(), fixture.now).unwrap_err();

    assert!(matches!(error, RepoError::WouldBeRefused(TrustError::Expired { .. })), "{error:?}");
}

#[test]
fn an_expired_device_is_renewed_by_its_next_publication() {
    let mut fixture = Fixture::with_device();
    fixture.now += SignedDuration::from_hours(24 * 200);
    fixture.open().refresh(&signers(), fixture.now).unwrap();
    let state = fixture.open().trusted(fixture.now).unwrap();
    assert!(matches!(state.troubles()["d-ginkgo"], TrustError::Unmaintained { .. }));

    fixture.publish("100").unwrap();

    assert_eq!(builds(&fixture.open(), fixture.now), ["100"]);
    let repository = fixture.open();
    let mut publication = repository.publication().unwrap();
    publication.renew("d-ginkgo").unwrap();
    assert_eq!(publication.commit(&signers(), fixture.now).unwrap().roles, ["d-ginkgo", "snapshot", "timestamp"]);
}

#[test]
fn expiries_are_the_repositorys_own() {
    let fixture = Fixture::with_device();
    let expiries = Expiries { device: 30, snapshot: 20, timestamp: 2, ..Expiries::default() };
    let repository = fixture.open().with_expiries(expiries);

    fixture.publish_on(&repository, "100").unwrap();

    let state = repository.trusted(fixture.now).unwrap();
    let days = |role: &str| state.roles()[role].expires.duration_since(fixture.now).as_hours() / 24;
    assert_eq!((days("d-ginkgo"), days("snapshot"), days("timestamp")), (30, 20, 2));
    assert_eq!((days("root"), days("targets"), days("v-xiaomi")), (365, 365, 365));
}

#[test]
fn a_phone_follows_every_publication() {
    let fixture = Fixture::with_device();
    let mut stored = phone(&fixture, None).unwrap();
    for build in ["100", "101", "102"] {
        fixture.publish(build).unwrap();

        stored = phone(&fixture, Some(stored)).unwrap();
    }

    let now_signed: serde_json::Value = serde_json::from_slice(&stored.0["d-ginkgo.json"]).unwrap();
    assert_eq!(now_signed["signed"]["version"], 4);
}

#[test]
fn one_publication_at_a_time() {
    let fixture = Fixture::with_device();
    let repository = fixture.open();
    let first = repository.publication().unwrap();

    let other = fixture.open();
    assert!(matches!(other.publication(), Err(RepoError::Locked { .. })));
    assert!(matches!(other.gc(2), Err(RepoError::Locked { .. })));
    other.trusted(fixture.now).unwrap();

    drop(first);
    other.publication().unwrap();
}

#[test]
fn a_second_publisher_can_wait() {
    let fixture = Fixture::with_device();
    let repository = fixture.open();
    let first = repository.publication().unwrap();

    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            let repository = fixture.open();
            let mut publication = repository.wait_for_publication().unwrap();
            publication.renew("timestamp").unwrap();
            publication.commit(&signers(), fixture.now).unwrap()
        });
        let mut first = first;
        first.renew("timestamp").unwrap();
        let first = first.commit(&signers(), fixture.now).unwrap();

        // Whoever comes second builds on what the first one did.
        assert_eq!(second.join().unwrap().timestamp_version, first.timestamp_version + 1);
    });
}

#[test]
fn a_repository_is_made_in_an_empty_directory_only() {
    let fixture = Fixture::new();
    let error = Repository::create(&fixture.root, &new_repository(), &signers(), fixture.now).unwrap_err();
    assert!(matches!(error, RepoError::AlreadyThere { ref path } if path.ends_with("timestamp.json")), "{error:?}");

    let fixture = Fixture::empty();
    fs::create_dir_all(fixture.root.join("targets/mine")).unwrap();
    fs::write(fixture.root.join("targets/mine/file"), b"precious").unwrap();
    let error = Repository::create(&fixture.root, &new_repository(), &signers(), fixture.now).unwrap_err();
    assert!(matches!(error, RepoError::AlreadyThere { .. }), "{error:?}");

    let fixture = Fixture::empty();
    assert!(matches!(Repository::open(&fixture.root), Err(RepoError::NotARepository { .. })));
}

#[test]
fn a_repository_is_not_made_without_its_keys() {
    let fixture = Fixture::empty();
    let error = Repository::create(&fixture.root, &new_repository(), &Signers::new(), fixture.now).unwrap_err();
    assert!(matches!(error, RepoError::NoSigner { .. }), "{error:?}");

    let two = RoleKeys { keys: ["root", "b"].map(|name| key(name).public().clone()).to_vec(), threshold: 2 };
    let mut new = NewRepository::new(TopRole::ALL.map(|role| (role, keys(role.name()))));
    new.keys.insert(TopRole::Root, two);
    let error = Repository::create(&fixture.root, &new, &signers(), fixture.now).unwrap_err();
    assert!(matches!(error, RepoError::WouldBeRefused(TrustError::Threshold { found: 1, .. })), "{error:?}");
    assert!(!fixture.root.join("metadata/timestamp.json").exists());
}

#[test]
fn a_repository_that_does_not_verify_is_not_published_to() {
    let fixture = Fixture::with_device();
    let snapshot = find(&fixture, "2.snapshot.json");
    crate::support::flip(&snapshot, 30, 1);

    let error = fixture.publish("100").unwrap_err();

    assert!(matches!(error, RepoError::Trust(TrustError::WrongHash { .. })), "{error:?}");
}

#[test]
fn a_broken_device_does_not_keep_another_from_publishing() {
    let fixture = Fixture::with_device();
    let repository = fixture.open();
    let mut publication = repository.publication().unwrap();
    publication.add_device(&vendor(), &willow(), &keys("d-willow")).unwrap();
    publication.commit(&signers(), fixture.now).unwrap();
    let role = find(&fixture, "1.d-willow.json");
    crate::support::flip(&role, 30, 1);

    fixture.publish("100").unwrap();

    assert_eq!(builds(&repository, fixture.now), ["100"]);
    let mut publication = repository.publication().unwrap();
    let file = fixture.file("x", b"x");
    let target = TargetPath::parse("xiaomi/willow/stable/x").unwrap();
    let error = publication.add_target(&target, &file, &json!(null)).unwrap_err();
    assert!(matches!(error, RepoError::BrokenRole { ref role, source: Some(_) } if role == "d-willow"), "{error:?}");
}
