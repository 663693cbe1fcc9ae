//! Other keys, thresholds and dates for roles; and what ceremonies bring.

use jiff::SignedDuration;
use relevo_meta::{
    TrustError,
    author::TopRole,
    ceremony::{CeremonyError, Proposal},
    keys::PublicKey,
    testing::key,
};
use relevo_repo::{Need, RepoError, RoleKeys, Signers};
use relevo_types::TargetPath;

use crate::support::{Fixture, builds, custom, ginkgo, keys, phone, signers, vendor};

fn of(names: &[&str], threshold: usize) -> RoleKeys {
    let mut keys: Vec<PublicKey> = names.iter().map(|name| key(name).public().clone()).collect();
    // As they stand in metadata.
    keys.sort_by_key(PublicKey::key_id);
    RoleKeys { keys, threshold }
}

/// The usual keys, with others for one role.
fn signers_with(role: &str, names: &[&str]) -> Signers {
    let mut signers = Signers::new();
    for usual in ["root", "targets", "snapshot", "timestamp", "v-xiaomi", "d-ginkgo", "d-willow"] {
        if usual != role {
            signers.add(usual, key(usual));
        }
    }
    names.iter().for_each(|name| signers.add(role, key(name)));
    signers
}

fn published() -> Fixture {
    let fixture = Fixture::with_device();
    fixture.publish("100").unwrap();
    fixture
}

#[test]
fn every_role_is_shown_with_its_keys() {
    let fixture = published();
    let repository = fixture.open();

    let roles = repository.publication().unwrap().roles().unwrap();

    let names: Vec<&str> = roles.iter().map(|role| role.role.as_str()).collect();
    assert_eq!(names, ["root", "targets", "snapshot", "timestamp", "v-xiaomi", "d-ginkgo"]);
    for role in &roles {
        assert_eq!(role.keys, keys(&role.role));
        assert!(role.expires.is_some(), "{}", role.role);
    }
    assert_eq!(roles[5].paths.as_deref(), Some("xiaomi/ginkgo/*/*"));
    assert_eq!((roles[0].version, roles[5].version), (1, 2));
}

#[test]
fn the_root_gets_three_keys_of_which_two_sign_and_phones_follow() {
    let fixture = published();
    let repository = fixture.open();
    let old_phone = phone(&fixture, None).unwrap();

    let mut publication = repository.publication().unwrap();
    publication.set_role("root", None, &of(&["root", "alice", "bob"], 2)).unwrap();
    let needs = publication.needs().unwrap();
    let alone = publication.commit(&signers(), fixture.now).unwrap_err();
    let mut publication = repository.publication().unwrap();
    publication.set_role("root", None, &of(&["root", "alice", "bob"], 2)).unwrap();
    publication.commit(&signers_with("root", &["root", "alice"]), fixture.now).unwrap();

    let root = needs.iter().find(|need| need.role == "root").unwrap();
    assert_eq!(root.groups, [keys("root"), of(&["root", "alice", "bob"], 2)]);
    assert!(!needs.iter().any(|need| need.role == "snapshot"), "the snapshot does not list the root");
    assert!(matches!(alone, RepoError::WouldBeRefused(TrustError::Threshold { .. })), "{alone:?}");
    assert_eq!(repository.current().unwrap().root_version(), 2);
    for stored in [Some(old_phone), None] {
        phone(&fixture, stored).unwrap();
    }
    // The next root is signed by two of the three, whichever they are.
    let mut publication = repository.publication().unwrap();
    publication.expire("root", fixture.now + SignedDuration::from_hours(24 * 500)).unwrap();
    publication.commit(&signers_with("root", &["bob", "alice"]), fixture.now).unwrap();
    assert_eq!(repository.current().unwrap().root_expires(), fixture.now + SignedDuration::from_hours(24 * 500));
    assert!(repository.check(fixture.now).unwrap().is_clean());
}

#[test]
fn an_added_key_leaves_what_is_signed_and_a_replaced_one_does_not() {
    let fixture = published();
    let repository = fixture.open();
    let roles_of = |role: &str, keys: &RoleKeys| {
        let mut publication = repository.publication().unwrap();
        publication.set_role(role, None, keys).unwrap();
        let mut roles = publication.needed_signers();
        roles.retain(|role| role != "snapshot" && role != "timestamp");
        roles
    };

    assert_eq!(roles_of("d-ginkgo", &keys("d-ginkgo")), Vec::<String>::new());
    assert_eq!(roles_of("d-ginkgo", &of(&["d-ginkgo", "bob"], 1)), ["v-xiaomi"]);
    assert_eq!(roles_of("d-ginkgo", &of(&["d-ginkgo", "bob"], 2)), ["d-ginkgo", "v-xiaomi"]);
    assert_eq!(roles_of("v-xiaomi", &of(&["bob"], 1)), ["targets", "v-xiaomi"]);
    assert_eq!(roles_of("targets", &of(&["bob"], 1)), ["root", "targets"]);
    assert_eq!(roles_of("timestamp", &of(&["bob"], 1)), ["root"]);
}

#[test]
fn online_keys_change_with_both_keys_signing_once() {
    let fixture = published();
    let repository = fixture.open();
    let old_phone = phone(&fixture, None).unwrap();

    let mut publication = repository.publication().unwrap();
    publication.set_role("snapshot", None, &of(&["snapshot-2"], 1)).unwrap();
    let needs = publication.needs().unwrap();
    publication.commit(&signers_with("snapshot", &["snapshot", "snapshot-2"]), fixture.now).unwrap();

    let snapshot = needs.iter().find(|need| need.role == "snapshot").unwrap();
    let expected = Need {
        role: "snapshot".to_owned(),
        groups: vec![of(&["snapshot-2"], 1)],
        also: vec![key("snapshot").public().clone()],
    };
    assert_eq!(*snapshot, expected);
    for stored in [Some(old_phone), None] {
        phone(&fixture, stored).unwrap();
    }
    // From now on the new one is enough.
    let mut publication = repository.publication().unwrap();
    publication.renew("snapshot").unwrap();
    publication.commit(&signers_with("snapshot", &["snapshot-2"]), fixture.now).unwrap();
    let old = repository.refresh(&signers(), fixture.now + SignedDuration::from_hours(24 * 40)).unwrap_err();
    assert!(matches!(old, RepoError::WouldBeRefused(_)), "{old:?}");
}

#[test]
fn a_device_that_ended_is_unknown_to_phones_and_can_come_back() {
    let fixture = published();
    let repository = fixture.open();
    let old_phone = phone(&fixture, None).unwrap();

    let mut publication = repository.publication().unwrap();
    publication.retire("d-ginkgo").unwrap();
    publication.commit(&signers(), fixture.now).unwrap();
    let ended = phone(&fixture, Some(old_phone.clone())).unwrap_err();
    let mut publication = repository.publication().unwrap();
    let again = publication.retire("d-ginkgo").unwrap_err();
    publication.add_device(&vendor(), &ginkgo(), &keys("d-ginkgo")).unwrap();
    publication.commit(&signers(), fixture.now).unwrap();

    assert!(matches!(ended, TrustError::NoSuchDevice { .. }), "{ended:?}");
    assert!(matches!(again, RepoError::NoSuchRole { .. }), "{again:?}");
    phone(&fixture, Some(old_phone)).unwrap();
    fixture.publish("101").unwrap();
    assert_eq!(builds(&repository, fixture.now), ["101"]);
    assert_eq!(repository.current().unwrap().device(&ginkgo()).unwrap().role_version, 4, "its number went on");
    for role in ["root", "targets", "snapshot", "timestamp"] {
        assert!(matches!(repository.publication().unwrap().retire(role), Err(RepoError::WrongRole { .. })), "{role}");
    }
}

#[test]
fn a_build_machine_signs_the_nightly_channel_and_nothing_else() {
    let fixture = published();
    let repository = fixture.open();
    let mut publication = repository.publication().unwrap();
    publication.set_role("d-ginkgo-nightly", None, &keys("box")).unwrap();
    publication.commit(&signers_with("d-ginkgo-nightly", &["box"]), fixture.now).unwrap();
    let mut machine = Signers::new();
    machine.add("d-ginkgo-nightly", key("box"));
    machine.add("snapshot", key("snapshot"));
    machine.add("timestamp", key("timestamp"));

    let file = fixture.file("n.rvp", b"a nightly");
    let nightly = TargetPath::parse("xiaomi/ginkgo/nightly/n.rvp").unwrap();
    let mut publication = repository.publication().unwrap();
    assert_eq!(publication.nightly_keys(&ginkgo()).unwrap(), Some(keys("box")));
    publication.use_nightly(&ginkgo()).unwrap();
    publication.add_package(&nightly, &file, &custom("101")).unwrap();
    assert_eq!(publication.needed_signers(), ["d-ginkgo-nightly", "snapshot", "timestamp"]);
    let published = publication.commit(&machine, fixture.now).unwrap();
    let mut publication = repository.publication().unwrap();
    publication.use_nightly(&ginkgo()).unwrap();
    let stable = TargetPath::parse("xiaomi/ginkgo/stable/n.rvp").unwrap();
    publication.add_package(&stable, &file, &custom("101")).unwrap();
    let stable = publication.commit(&machine, fixture.now).unwrap_err();

    assert_eq!(published.roles, ["d-ginkgo-nightly", "snapshot", "timestamp"]);
    assert!(matches!(stable, RepoError::NoSigner { ref role } if role == "d-ginkgo"), "{stable:?}");
    let state = repository.trusted(fixture.now).unwrap();
    let device = state.device(&ginkgo()).unwrap();
    assert_eq!(device.signatories(&nightly).0, [*key("box").public().verifying_key()]);
    assert_eq!(state.roles()["d-ginkgo-nightly"].expires, fixture.now + SignedDuration::from_hours(24 * 45));
    let names: Vec<String> =
        repository.publication().unwrap().roles().unwrap().into_iter().map(|role| role.role).collect();
    assert_eq!(names.last().unwrap(), "d-ginkgo-nightly");
    assert!(repository.check(fixture.now).unwrap().is_clean());
    // Without its role, what the machine signed is gone; and a device of such a name cannot be.
    let mut publication = repository.publication().unwrap();
    let taken = publication.add_device(&vendor(), &"ginkgo-nightly".parse().unwrap(), &keys("x")).unwrap_err();
    publication.retire("d-ginkgo-nightly").unwrap();
    publication.commit(&signers(), fixture.now).unwrap();
    assert!(matches!(taken, RepoError::WrongRole { .. }), "{taken:?}");
    assert_eq!(builds(&repository, fixture.now), ["100"]);
}

fn proposal(fixture: &Fixture, keys: &RoleKeys) -> Proposal {
    let repository = fixture.open();
    let mut publication = repository.publication().unwrap();
    publication.set_role("root", None, keys).unwrap();
    publication.propose(fixture.now).unwrap()
}

#[test]
fn a_proposal_travels_is_signed_and_published() {
    let fixture = published();
    let before = fixture.files();
    let mut first = proposal(&fixture, &of(&["root", "alice", "bob"], 2));
    assert_eq!(fixture.files(), before, "a proposal changes nothing");

    let mut second = Proposal::parse(first.to_text().as_bytes()).unwrap();
    assert!(first.sign("root", &key("root")).unwrap());
    let unfinished = fixture.open().publication().unwrap().adopt(&first, fixture.now).unwrap_err();
    assert!(second.sign("root", &key("bob")).unwrap());
    first.merge(&second).unwrap();
    let repository = fixture.open();
    let mut publication = repository.publication().unwrap();
    publication.adopt(&first, fixture.now).unwrap();
    let needs = publication.needs().unwrap();
    let mut online = Signers::new();
    online.add("timestamp", key("timestamp"));
    publication.commit(&online, fixture.now).unwrap();

    assert!(matches!(unfinished, RepoError::Unfinished { ref role, missing: 1 } if role == "root"), "{unfinished:?}");
    assert_eq!(needs.iter().map(|need| need.role.as_str()).collect::<Vec<_>>(), ["timestamp"]);
    assert_eq!(repository.current().unwrap().root_version(), 2);
    let stale = repository.publication().unwrap().adopt(&first, fixture.now).unwrap_err();
    let expected = |error: &RepoError| matches!(error, RepoError::Ceremony(CeremonyError::Stale { .. }));
    assert!(expected(&stale), "{stale:?}");
}

#[test]
fn a_proposal_for_packages_waits_for_their_files() {
    let fixture = published();
    let repository = fixture.open();
    let file = fixture.file("101.rvp", b"the package of build 101");
    let path = crate::support::path("101");
    let mut publication = repository.publication().unwrap();
    publication.add_package(&path, &file, &custom("101")).unwrap();
    let mut proposal = publication.propose(fixture.now).unwrap();
    proposal.sign("d-ginkgo", &key("d-ginkgo")).unwrap();
    // Another publication clears away what nobody lists yet.
    repository.refresh(&signers(), fixture.now).unwrap();

    let adopt = || {
        let mut publication = repository.publication().unwrap();
        publication.adopt(&proposal, fixture.now).unwrap();
        publication
    };
    let missing = adopt().commit(&signers(), fixture.now).unwrap_err();
    let mut other = adopt();
    let changed = other.add_package(&path, &file, &custom("102")).unwrap_err();
    drop(other);
    let mut publication = adopt();
    assert_eq!(publication.missing_files().len(), 2, "the package and its chunk list");
    publication.add_package(&path, &file, &custom("101")).unwrap();
    publication.commit(&signers(), fixture.now).unwrap();

    assert!(matches!(missing, RepoError::NotPlaced { .. }), "{missing:?}");
    assert!(matches!(changed, RepoError::Adopted { .. }), "{changed:?}");
    assert_eq!(builds(&repository, fixture.now), ["100", "101"]);
}

#[test]
fn every_top_role_can_change_all_its_keys() {
    for role in TopRole::ALL {
        let fixture = published();
        let repository = fixture.open();
        let old_phone = phone(&fixture, None).unwrap();
        let mut publication = repository.publication().unwrap();
        publication.set_role(role.name(), None, &keys("fresh")).unwrap();

        publication.commit(&signers_with(role.name(), &[role.name(), "fresh"]), fixture.now).unwrap();

        for stored in [Some(old_phone), None] {
            phone(&fixture, stored).unwrap_or_else(|error| panic!("{}: {error:?}", role.name()));
        }
        assert!(repository.check(fixture.now).unwrap().is_clean(), "{}", role.name());
    }
}
