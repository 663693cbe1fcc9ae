//! Metadata past their date, from an offline source that a person chose.

use jiff::SignedDuration;
use relevo_meta::{
    Answer, Limits, Refresh, Scope, Step, Stored, TrustError, Trusted,
    policy::{Choice, PhoneState, Reason, choose},
    testing::TestRepo,
};
use relevo_types::{BuildId, Channel, Codename, PackageKind, Vendor};

/// A repository whose root gives 45 days, and whose timestamp ends in 7.
fn repo() -> TestRepo {
    let mut repo = TestRepo::new();
    repo.add_device("xiaomi", "ginkgo");
    repo.add_package("xiaomi/ginkgo", "stable", "", "100", 1_700_000_000, b"a full package");
    repo.root.set_offline_grace(45).unwrap();
    repo.publish_root();
    repo.publish();
    repo
}

fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

fn scope() -> Scope {
    TestRepo::device_scope("xiaomi", "ginkgo")
}

fn stale(repo: &TestRepo, stored: &mut Stored) -> Result<Trusted, TrustError> {
    let mut refresh = Refresh::start(stored.clone(), scope(), repo.now, Limits::default())?.allow_stale();
    loop {
        match refresh.next() {
            Step::Get(request) => {
                let bytes = repo.metadata.get(&request.name).cloned();
                refresh.supply(bytes.map_or(Answer::Absent, Answer::Found))?;
            }
            Step::Keep { name, bytes } => {
                stored.0.insert(name, bytes);
            }
            Step::Done => return refresh.finish(),
        }
    }
}

fn is_expired(result: Result<Trusted, TrustError>, name: &str) -> bool {
    let error = result.unwrap_err();
    let found = match &error {
        TrustError::Expired { role, .. } => role == name,
        TrustError::Unmaintained { .. } => name == "d-ginkgo",
        _ => false,
    };
    assert!(found, "{name}: {error:?}");
    found
}

#[test]
fn is_taken_by_hand_alone_and_for_as_long_as_the_root_says() {
    let mut repo = repo();
    let first = repo.stored_root();
    let expires = repo.now + days(7);

    repo.now = expires - SignedDuration::from_nanos(1);
    assert_eq!(stale(&repo, &mut first.clone()).unwrap().stale_since(), None);
    for passed in [days(0), days(45) - SignedDuration::from_nanos(1)] {
        repo.now = expires + passed;
        assert!(is_expired(repo.refresh(&first, scope()).result, "timestamp"));
        assert_eq!(stale(&repo, &mut first.clone()).unwrap().stale_since(), Some(expires));
    }
    repo.now = expires + days(45);
    assert!(is_expired(stale(&repo, &mut first.clone()), "timestamp"));
}

#[test]
fn a_root_that_says_nothing_gives_no_days() {
    let mut repo = TestRepo::new();
    repo.add_device("xiaomi", "ginkgo");
    repo.publish();
    repo.now += days(8);

    assert!(is_expired(stale(&repo, &mut repo.stored_root()), "timestamp"));
}

#[test]
fn no_root_gives_more_than_90_days() {
    let mut repo = repo();
    repo.snapshot.set_expires(repo.now + days(300));
    repo.publish_snapshot();
    repo.publish_timestamp();
    repo.root.set_offline_grace(u32::MAX).unwrap();
    repo.publish_root();

    repo.now += days(7 + 89);
    assert!(stale(&repo, &mut repo.stored_root()).is_ok());
    repo.now += days(2);
    assert!(is_expired(stale(&repo, &mut repo.stored_root()), "timestamp"));
}

#[test]
fn all_other_dates_still_count() {
    let soon = repo().now + days(10);
    let vendor = Vendor::parse("xiaomi").unwrap();
    let codename = Codename::parse("ginkgo").unwrap();
    type Change<'a> = &'a dyn Fn(&mut TestRepo);
    let changes: [(&str, Change<'_>); 5] = [
        ("root", &|repo| {
            repo.root.set_expires(soon);
            repo.publish_root();
        }),
        ("snapshot", &|repo| {
            repo.snapshot.set_expires(soon);
            repo.publish_snapshot();
            repo.publish_timestamp();
        }),
        ("targets", &|repo| repo.targets.set_expires(soon)),
        ("v-xiaomi", &|repo| repo.vendors.get_mut(&vendor).unwrap().set_expires(soon)),
        ("d-ginkgo", &|repo| repo.devices.get_mut(&codename).unwrap().set_expires(soon)),
    ];
    for (role, change) in changes {
        let mut repo = repo();
        change(&mut repo);
        repo.publish();
        let mut stored = repo.stored_root();
        repo.now += days(9);
        stale(&repo, &mut stored).unwrap();
        repo.now += days(1);

        // To a new phone, and to one that has it all stored.
        assert!(is_expired(stale(&repo, &mut repo.stored_root()), role));
        assert!(is_expired(stale(&repo, &mut stored), role));
    }
}

#[test]
fn goes_forward_only() {
    let mut repo = repo();
    let (old, snapshot) = (repo.metadata["timestamp.json"].clone(), repo.metadata["1.snapshot.json"].clone());
    repo.add_package("xiaomi/ginkgo", "stable", "", "101", 1_700_000_001, b"another full package");
    repo.publish();
    let mut stored = repo.stored_root();
    repo.refresh(&stored, scope()).result.unwrap();
    stored = repo.refresh(&stored, scope()).stored;
    repo.now += days(8);

    // What the phone already has is no step back.
    assert!(stale(&repo, &mut stored.clone()).is_ok());
    repo.metadata.insert("timestamp.json".to_owned(), old);
    repo.metadata.insert("1.snapshot.json".to_owned(), snapshot);

    let error = stale(&repo, &mut stored).unwrap_err();

    assert!(matches!(error, TrustError::Rollback { ref role, .. } if role == "timestamp"), "{error:?}");
}

#[test]
fn what_was_kept_of_it_is_a_floor_and_can_be_verified_again() {
    let mut repo = repo();
    repo.now += days(8);
    let mut stored = repo.stored_root();
    stale(&repo, &mut stored).unwrap();

    let verify = |stale: bool| {
        let refresh = Refresh::start(stored.clone(), scope(), repo.now, Limits::default()).unwrap();
        if stale { refresh.allow_stale().verify_stored() } else { refresh.verify_stored() }
    };
    assert!(verify(true).unwrap().stale_since().is_some());
    assert!(is_expired(verify(false), "timestamp"));
    // And a fresh one goes on from there.
    repo.publish_timestamp();
    assert!(is_expired(repo.refresh(&stored, scope()).result, "timestamp"));
    repo.timestamp.set_expires(repo.now + days(7));
    repo.publish_timestamp();
    assert_eq!(repo.refresh(&stored, scope()).result.unwrap().stale_since(), None);
}

#[test]
fn is_never_called_up_to_date() {
    let mut repo = repo();
    let until = repo.now + days(7);
    repo.now += days(8);
    let trusted = stale(&repo, &mut repo.stored_root()).unwrap();
    let device = trusted.device(&Codename::parse("ginkgo").unwrap()).unwrap();
    let phone = |build: &str, made: i64| PhoneState {
        build: BuildId::parse(build).unwrap(),
        build_timestamp: jiff::Timestamp::from_second(made).unwrap(),
        channel: Channel::parse("stable").unwrap(),
        seed: 0,
        failed: Vec::new(),
        kinds: vec![PackageKind::Native],
    };

    let choice = choose(device, &phone("100", 1_700_000_000), repo.now);
    assert_eq!(choice, Choice::Nothing { reason: Reason::Stale { until } });
    assert!(matches!(choose(device, &phone("99", 1_699_999_999), repo.now), Choice::Install(_)));
}
