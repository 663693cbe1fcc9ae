//! The attacks that the threat model names, in its order: one fixture for each, breaking one rule only. More about each
//! rule is in `refresh.rs` and `search.rs`.

use jiff::SignedDuration;
use relevo_meta::{
    BadTarget, Limits, Stored, TrustError,
    log::{Checkpoint, Entry, LogError, LogKey, Proof, Relation},
    testing::TestRepo,
    testing::key,
};
use relevo_types::{ByteLen, Codename, Vendor};
use serde_json::{Value, json};

use crate::log::{Log, compare, log_key};

fn repo() -> TestRepo {
    let mut repo = TestRepo::new();
    repo.add_device("xiaomi", "ginkgo");
    repo.add_device("xiaomi", "willow");
    repo.add_package("xiaomi/ginkgo", "stable", "", "100", 1_700_000_000, b"a full package");
    repo.publish();
    repo
}

fn ginkgo() -> Codename {
    Codename::parse("ginkgo").unwrap()
}

fn xiaomi() -> Vendor {
    Vendor::parse("xiaomi").unwrap()
}

fn phone(repo: &TestRepo) -> Stored {
    let run = repo.refresh(&repo.stored_root(), TestRepo::device_scope("xiaomi", "ginkgo"));
    run.result.unwrap();
    run.stored
}

fn refuse(repo: &TestRepo, stored: &Stored) -> TrustError {
    repo.refresh(stored, TestRepo::device_scope("xiaomi", "ginkgo")).result.unwrap_err()
}

/// A new state in which every file but the root has another version.
fn change_everything(repo: &mut TestRepo) {
    let day = SignedDuration::from_hours(24);
    let later = repo.now + day * 100;
    repo.targets.set_expires(later);
    repo.vendors.get_mut(&xiaomi()).unwrap().set_expires(later);
    repo.add_package("xiaomi/ginkgo", "stable", "", "101", 1_700_000_001, b"another full package");
    repo.publish();
}

/// The role listed with the same key under two ids, and both signatures wanted.
fn two_ids(role_keys: &mut Value, keys: &mut Value) {
    let id = role_keys["keyids"][0].as_str().unwrap().to_owned();
    let mut alias = keys[&id].clone();
    // Written differently, too.
    let public = alias["keyval"]["public"].as_str().unwrap().to_ascii_uppercase();
    alias["keyval"]["public"] = public.into();
    keys["another-name"] = alias;
    role_keys["keyids"] = json!([id, "another-name"]);
    role_keys["threshold"] = json!(2);
}

/// The file with its first signature also under the other id.
fn sign_under_both(repo: &mut TestRepo, file: &str) {
    let mut value: Value = serde_json::from_slice(&repo.metadata[file]).unwrap();
    let mut signature = value["signatures"][0].clone();
    signature["keyid"] = json!("another-name");
    value["signatures"].as_array_mut().unwrap().push(signature);
    repo.metadata.insert(file.to_owned(), serde_json::to_vec(&value).unwrap());
}

#[test]
fn rollback_of_each_role() {
    // Each file alone is offered in its old version; the rest of the repository is the new one.
    let cases = [("timestamp", "timestamp.json"), ("snapshot", "2.snapshot.json"), ("targets", "2.targets.json")];
    for (role, file) in cases.into_iter().chain([("v-xiaomi", "2.v-xiaomi.json"), ("d-ginkgo", "2.d-ginkgo.json")]) {
        let mut repo = repo();
        let old = repo.metadata[&file.replace("2.", "1.")].clone();
        change_everything(&mut repo);
        let mut stored = phone(&repo);
        if role != "timestamp" {
            // What is stored and still pinned would not even be asked for.
            stored.0.retain(|name, _| *name != format!("{role}.json"));
        }
        repo.metadata.insert(file.to_owned(), old);

        let error = refuse(&repo, &stored);

        match role {
            "timestamp" => assert!(matches!(error, TrustError::Rollback { trusted: 2, offered: 1, .. }), "{error:?}"),
            // The timestamp pins it by hash.
            "snapshot" => assert!(matches!(error, TrustError::WrongHash { .. } | TrustError::WrongLength { .. })),
            _ => assert!(matches!(error, TrustError::WrongVersion { expected: 2, actual: 1, .. }), "{role}: {error:?}"),
        }
    }

    // And the root, whose next version can only be the next.
    let mut repo = repo();
    repo.publish_root();
    let stored = phone(&repo);
    let old = repo.metadata["1.root.json"].clone();
    repo.metadata.insert("3.root.json".to_owned(), old);
    assert!(matches!(refuse(&repo, &stored), TrustError::VersionGap { trusted: 2, offered: 1, .. }));
}

#[test]
fn rollback_of_each_role_by_whoever_holds_the_online_keys() {
    for role in ["targets", "v-xiaomi", "d-ginkgo"] {
        let mut repo = repo();
        change_everything(&mut repo);
        let stored = phone(&repo);
        repo.snapshot.put_role(role, 1).unwrap();
        repo.publish_snapshot();
        repo.publish_timestamp();

        let error = refuse(&repo, &stored);

        let found = matches!(&error, TrustError::Rollback { role: named, trusted: 2, offered: 1, .. } if named == role);
        assert!(found, "{role}: {error:?}");
    }
}

#[test]
fn freeze() {
    let mut repo = repo();
    let stored = phone(&repo);
    repo.now += SignedDuration::from_hours(24 * 8);

    let error = refuse(&repo, &stored);

    assert!(matches!(error, TrustError::Expired { ref role, .. } if role == "timestamp"), "{error:?}");
}

#[test]
fn mix_and_match() {
    // Files of two states, each well signed, that were never current together.
    let mut repo = repo();
    let (snapshot, device) = (repo.metadata["1.snapshot.json"].clone(), repo.metadata["1.d-ginkgo.json"].clone());
    change_everything(&mut repo);
    let fresh = repo.stored_root();

    let mixed = repo.metadata.insert("2.snapshot.json".to_owned(), snapshot).unwrap();
    let error = refuse(&repo, &fresh);
    assert!(matches!(error, TrustError::WrongHash { .. } | TrustError::WrongLength { .. }), "{error:?}");

    repo.metadata.insert("2.snapshot.json".to_owned(), mixed);
    repo.metadata.insert("2.d-ginkgo.json".to_owned(), device);
    let error = refuse(&repo, &fresh);
    assert!(matches!(error, TrustError::WrongVersion { expected: 2, actual: 1, .. }), "{error:?}");
}

#[test]
fn wrong_length() {
    let mut repo = repo();
    repo.metadata.get_mut("1.snapshot.json").unwrap().push(b'\n');

    let error = refuse(&repo, &repo.stored_root());

    // One byte more than was asked for.
    assert!(matches!(error, TrustError::TooLong { .. }), "{error:?}");
    let package = b"a full package";
    let target = relevo_meta::Target::of(package);
    assert!(matches!(target.check("p", &package[1..]), Err(TrustError::WrongLength { .. })));
}

#[test]
fn endless_data() {
    // The limits are on bytes as they are parsed, after any decompression.
    let repo = repo();
    let limits = Limits::default();
    for (file, limit) in [
        ("2.root.json", limits.root),
        ("timestamp.json", limits.timestamp),
        ("1.targets.json", limits.targets),
        ("1.v-xiaomi.json", limits.role),
        ("1.d-ginkgo.json", limits.role),
    ] {
        let scope = TestRepo::device_scope("xiaomi", "ginkgo");
        let run = repo.refresh_with(&repo.stored_root(), scope, &limits, |name, bytes| {
            if name != file {
                return bytes;
            }
            let mut bytes = bytes.unwrap_or_else(|| repo.metadata["1.root.json"].clone());
            bytes.resize(usize::try_from(limit.get()).unwrap() + 1, b' ');
            Some(bytes)
        });

        let error = run.result.unwrap_err();

        let found =
            matches!(&error, TrustError::TooLong { file: named, limit: most, .. } if named == file && *most == limit);
        assert!(found, "{file}: {error:?}");
    }
    assert_eq!(
        (limits.root, limits.timestamp, limits.snapshot),
        (ByteLen::kib(32), ByteLen::kib(4), ByteLen::kib(256))
    );
    assert_eq!((limits.targets, limits.role), (ByteLen::kib(128), ByteLen::kib(128)));
    assert_eq!((limits.max_roles, limits.root_steps), (8, 32));
}

#[test]
fn missing_threshold() {
    let mut repo = repo();
    let keys = ["a", "b", "c"].map(|name| key(name).public().clone());
    repo.vendors.get_mut(&xiaomi()).unwrap().put_device(&xiaomi(), &ginkgo(), &keys, 2).unwrap();
    repo.signers.insert("d-ginkgo".to_owned(), vec!["b".to_owned()]);
    repo.devices.get_mut(&ginkgo()).unwrap().set_version(2);
    repo.publish();

    let error = refuse(&repo, &repo.stored_root());

    assert!(matches!(error, TrustError::Threshold { found: 1, threshold: 2, .. }), "{error:?}");
}

#[test]
fn duplicate_signatures() {
    let mut repo = repo();
    let mut file: Value = serde_json::from_slice(&repo.metadata["timestamp.json"]).unwrap();
    let again = file["signatures"][0].clone();
    file["signatures"].as_array_mut().unwrap().push(again);
    repo.metadata.insert("timestamp.json".to_owned(), serde_json::to_vec(&file).unwrap());

    let error = refuse(&repo, &repo.stored_root());

    assert!(matches!(error, TrustError::DuplicateSignature { ref role, .. } if role == "timestamp"), "{error:?}");
}

#[test]
fn one_key_under_two_ids_counts_once() {
    // In a delegation.
    let mut repo = repo();
    let delegations = &mut repo.vendors.get_mut(&xiaomi()).unwrap().signed_mut()["delegations"];
    let (mut roles, mut keys) = (delegations["roles"].take(), delegations["keys"].take());
    let role = roles.as_array_mut().unwrap().iter_mut().find(|role| role["name"] == "d-ginkgo").unwrap();
    two_ids(role, &mut keys);
    (delegations["roles"], delegations["keys"]) = (roles, keys);
    repo.publish();
    sign_under_both(&mut repo, "1.d-ginkgo.json");
    let error = refuse(&repo, &repo.stored_root());
    assert!(
        matches!(error, TrustError::Threshold { ref role, found: 1, threshold: 2, .. } if role == "d-ginkgo"),
        "{error:?}"
    );

    // In the root: for the roles below it, and for itself.
    for (role, file) in [("timestamp", "timestamp.json"), ("targets", "1.targets.json"), ("root", "2.root.json")] {
        let mut repo = self::repo();
        let root = repo.root.signed_mut();
        let (mut roles, mut keys) = (root["roles"].take(), root["keys"].take());
        two_ids(&mut roles[role], &mut keys);
        (root["roles"], root["keys"]) = (roles, keys);
        repo.publish_root();
        sign_under_both(&mut repo, file);

        let error = refuse(&repo, &repo.stored_root());

        let found =
            matches!(&error, TrustError::Threshold { role: named, found: 1, threshold: 2, .. } if named == role);
        assert!(found, "{role}: {error:?}");
    }
}

#[test]
fn one_key_under_two_ids_still_counts() {
    let mut repo = repo();
    let root = repo.root.signed_mut();
    let (mut roles, mut keys) = (root["roles"].take(), root["keys"].take());
    two_ids(&mut roles["timestamp"], &mut keys);
    roles["timestamp"]["threshold"] = json!(1);
    (root["roles"], root["keys"]) = (roles, keys);
    repo.publish_root();
    sign_under_both(&mut repo, "timestamp.json");

    phone(&repo);
}

#[test]
fn key_of_another_device() {
    let mut repo = repo();
    repo.signers.insert("d-ginkgo".to_owned(), vec!["d-willow".to_owned()]);
    let draft = repo.devices[&ginkgo()].clone();
    repo.put("d-ginkgo", 1, &draft);

    let error = refuse(&repo, &repo.stored_root());

    assert!(matches!(error, TrustError::Threshold { ref role, found: 0, .. } if role == "d-ginkgo"), "{error:?}");
}

#[test]
fn path_outside_the_delegation() {
    let mut repo = repo();
    let target = relevo_meta::Target::of(b"for the neighbour");
    let path = relevo_types::TargetPath::parse("xiaomi/willow/stable/p.rvp").unwrap();
    repo.devices.get_mut(&ginkgo()).unwrap().put_target(&path, target, &Value::Null).unwrap();
    repo.publish();

    let trusted = repo.refresh(&repo.stored_root(), relevo_meta::Scope::Everything).result.unwrap();

    let refused = &trusted.device(&ginkgo()).unwrap().refused;
    assert!(matches!(&refused[..], [TrustError::PathOutsideDelegation { role, .. }] if role == "d-ginkgo"));
    let willow = Codename::parse("willow").unwrap();
    assert!(trusted.device(&willow).unwrap().targets.is_empty());
}

#[test]
fn version_gap_in_the_root() {
    let mut repo = repo();
    repo.publish_root();
    repo.publish_root();
    let third = repo.metadata.remove("3.root.json").unwrap();
    repo.metadata.insert("2.root.json".to_owned(), third);

    let error = refuse(&repo, &repo.stored_root());

    assert!(matches!(error, TrustError::VersionGap { trusted: 1, offered: 3, .. }), "{error:?}");
}

#[test]
fn replay_of_another_channel() {
    // The nightly's file under the name of the stable one: the path is signed together with the hash.
    let mut repo = repo();
    repo.add_package("xiaomi/ginkgo", "nightly", "", "101", 1_700_000_001, b"a nightly build");
    repo.publish();
    let trusted = repo.refresh(&repo.stored_root(), TestRepo::device_scope("xiaomi", "ginkgo")).result.unwrap();
    let device = trusted.device(&ginkgo()).unwrap();
    let package =
        |channel: &str| device.packages.iter().find(|package| package.path.channel().as_str() == channel).unwrap();

    let error = package("stable").target().check("the stable package", b"a nightly build").unwrap_err();

    assert!(matches!(error, TrustError::WrongLength { .. } | TrustError::WrongHash { .. }), "{error:?}");
    // And a phone that follows the one channel does not look at the other.
    let stable: Vec<_> = device.channel(package("stable").path.channel()).collect();
    assert_eq!(stable, [package("stable")]);
}

#[test]
fn timestamp_from_the_future() {
    // A build of tomorrow is newer than every build to come; a phone that took it would never update again.
    let mut repo = repo();
    let expires = repo.timestamp.expires().unwrap().as_second();
    repo.add_package("xiaomi/ginkgo", "stable", "", "101", expires, b"made just in time");
    repo.add_package("xiaomi/ginkgo", "stable", "", "102", expires + 1, b"made after the metadata ended");
    repo.publish();

    let trusted = repo.refresh(&repo.stored_root(), TestRepo::device_scope("xiaomi", "ginkgo")).result.unwrap();

    let device = trusted.device(&ginkgo()).unwrap();
    let builds: Vec<&str> = device.packages.iter().map(|package| package.custom.to.as_str()).collect();
    assert_eq!(builds, ["100", "101"]);
    let [TrustError::BadTarget { source, path, .. }] = &device.refused[..] else { panic!("{:?}", device.refused) };
    assert!(matches!(source, BadTarget::FromTheFuture { .. }) && path.ends_with("102-full.rvp"), "{source:?}");
}

/// A repository whose log holds the device's role, and what a phone that followed it kept.
fn logged() -> (Log, Entry, Checkpoint) {
    let repo = repo();
    let mut log = Log::of(5);
    let entry = Entry::new("d-ginkgo", 1, &repo.metadata["1.d-ginkgo.json"]).unwrap();
    log.push(&entry);
    let kept = log.proof(5, 6).verify(&entry, &log_key("log")).unwrap();
    (log, entry, kept)
}

#[test]
fn fork_of_the_log() {
    // Some phones are shown a log in which another build of the same version stands, signed by the log all the same.
    let (_, _, kept) = logged();
    let bad = Entry::new("d-ginkgo", 2, b"a build for one region only").unwrap();
    let mut other = Log::of(6);
    other.push(&bad);
    let offered = other.proof(6, 7).verify(&bad, &log_key("log")).unwrap();

    let error = compare(&kept, &offered, &other).unwrap_err();

    let LogError::Fork { kept: one, offered: two } = error else { panic!("{error:?}") };
    assert_eq!((*one, *two), (kept, offered));
}

#[test]
fn replay_of_an_older_checkpoint() {
    // It is signed and consistent, and says nothing about what came after: what is not in it cannot be proved by it.
    let (mut log, entry, kept) = logged();
    let next = Entry::new("d-ginkgo", 2, b"the next build").unwrap();
    log.push(&next);
    let old = Proof::new(6, Vec::new(), &log.checkpoint(6));

    assert!(matches!(old.verify(&next, &log_key("log")), Err(LogError::NotIncluded { index: 6, size: 6, .. })));
    let newer = log.proof(5, 7).verify(&entry, &log_key("log")).unwrap();
    assert_eq!(compare(&newer, &kept, &log), Ok(Relation::Behind));
}

#[test]
fn a_role_that_is_not_in_the_log() {
    let (log, entry, _) = logged();
    let hidden = Entry::new("d-ginkgo", 1, b"another file of the same version").unwrap();

    let error = log.proof(5, 6).verify(&hidden, &log_key("log")).unwrap_err();

    assert!(matches!(error, LogError::NotIncluded { ref role, version: 1, index: 5, size: 6 } if role == "d-ginkgo"));
    assert!(matches!(log.proof(4, 6).verify(&entry, &log_key("log")), Err(LogError::NotIncluded { .. })));
}

#[test]
fn a_log_signed_by_another_key() {
    let (log, entry, _) = logged();

    let error = log.proof(5, 6).verify(&entry, &log_key("somebody else")).unwrap_err();

    assert!(matches!(error, LogError::Signature { .. }), "{error:?}");
    let elsewhere = LogKey::new("elsewhere.example/log", *key("log").public().verifying_key()).unwrap();
    assert!(matches!(log.proof(5, 6).verify(&entry, &elsewhere), Err(LogError::OtherLog { .. })));
}
