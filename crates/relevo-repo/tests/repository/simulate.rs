//! What phones would do with a state, asked before it is published.

use relevo_meta::{Custom, policy::Reason};
use relevo_repo::{PhoneFault, Publication, Published, RepoError};
use relevo_types::{BuildId, Channel, TargetPath};

use crate::support::{Fixture, content, custom, ginkgo, keys, path, signers, vendor};

fn build(text: &str) -> BuildId {
    BuildId::parse(text).unwrap()
}

fn stable() -> Channel {
    Channel::parse("stable").unwrap()
}

fn delta(from: &str, to: &str) -> (TargetPath, Custom) {
    let path = TargetPath::parse(&format!("xiaomi/ginkgo/stable/ginkgo-{from}-to-{to}.rvp")).unwrap();
    (path, Custom { from: Some(build(from)), ..custom(to) })
}

/// Adds packages and publishes.
fn publish(fixture: &Fixture, packages: &[(TargetPath, Custom)]) -> Result<Published, RepoError> {
    publish_with(fixture, packages, |_| {})
}

fn publish_with(
    fixture: &Fixture,
    packages: &[(TargetPath, Custom)],
    change: impl FnOnce(&mut Publication<'_>),
) -> Result<Published, RepoError> {
    let repository = fixture.open();
    let mut publication = repository.publication()?;
    for (path, custom) in packages {
        let file = fixture.file(path.file(), &content(path.file()));
        publication.add_package(path, &file, custom)?;
    }
    change(&mut publication);
    publication.commit(&signers(), fixture.now)
}

fn fault(result: Result<Published, RepoError>) -> PhoneFault {
    match result {
        Err(RepoError::NotForPhones(fault)) => *fault,
        other => panic!("{other:?}"),
    }
}

fn full(build: &str) -> (TargetPath, Custom) {
    (path(build), custom(build))
}

#[test]
fn a_package_without_its_chunk_list_is_not_published() {
    let fixture = Fixture::with_device();
    let repository = fixture.open();
    let file = fixture.file("100.rvp", &content("100"));
    for chunks in [None, Some("nowhere.chunks".to_owned())] {
        let mut publication = repository.publication().unwrap();
        let custom = Custom { chunks, ..custom("100") };
        publication.add_target(&path("100"), &file, &custom.to_value()).unwrap();

        let fault = fault(publication.commit(&signers(), fixture.now));

        assert_eq!(fault, PhoneFault::NoChunkList { path: Box::new(path("100")) });
    }
}

#[test]
fn a_build_has_one_date() {
    let fixture = Fixture::with_device();
    let (path, mut later) = delta("100", "102");
    later.timestamp = custom("103").timestamp;

    let fault = fault(publish(&fixture, &[full("100"), full("102"), (path, later.clone())]));

    let (one, other) = (later.timestamp, custom("102").timestamp);
    assert_eq!(fault, PhoneFault::Dates { channel: stable(), build: build("102"), one, other });
}

#[test]
fn a_delta_leads_forward() {
    let fixture = Fixture::with_device();

    let fault = fault(publish(&fixture, &[full("100"), full("101"), delta("101", "100")]));

    let path = Box::new(delta("101", "100").0);
    assert_eq!(fault, PhoneFault::Backwards { path, from: build("101") });
}

#[test]
fn a_floor_is_older_than_what_stands_on_it() {
    let fixture = Fixture::with_device();
    let floored = Custom { floor: Some(build("102")), ..custom("101") };

    let fault = fault(publish(&fixture, &[(path("101"), floored), full("102")]));

    assert_eq!(fault, PhoneFault::Floor { path: Box::new(path("101")), floor: build("102") });
}

#[test]
fn no_phone_is_left_behind() {
    let fixture = Fixture::with_device();
    publish(&fixture, &[full("100"), full("101"), delta("100", "101")]).unwrap();
    let before = fixture.files();

    // Only phones on 101 could go on to 102; those on 100 still get there by way of 101.
    publish(&fixture.copy(), &[delta("101", "102")]).unwrap();
    // Only phones on 100 could go on, and those on 101 were up to date until now.
    let result = publish(&fixture, &[delta("100", "102")]);
    let expected = PhoneFault::LeftBehind {
        device: ginkgo(),
        channel: stable(),
        running: build("101"),
        source: Reason::NoPath { build: build("102") },
    };
    assert_eq!(fault(result), expected);
    // And a floor on which nobody can come to stand.
    let floored = Custom { floor: Some(build("99")), ..custom("102") };
    let result = publish_with(&fixture, &[(path("102"), floored)], |publication| {
        publication.remove_target(&path("101")).unwrap();
    });
    assert!(
        matches!(fault(result), PhoneFault::LeftBehind { source: Reason::FloorUnreachable { .. }, .. }),
        "build 99 is nowhere to be had"
    );
    assert!(before.iter().all(|(path, bytes)| fixture.files().get(path) == Some(bytes)), "nothing was published");
}

#[test]
fn a_rollout_or_a_withdrawn_build_leaves_nobody_behind() {
    let fixture = Fixture::with_device();
    publish(&fixture, &[full("100")]).unwrap();

    publish(&fixture, &[(path("101"), Custom { rollout: 5, ..custom("101") })]).unwrap();
    publish_with(&fixture, &[], |publication| {
        publication
            .edit_custom(&path("101"), |custom| drop(custom.insert("withdrawn".to_owned(), true.into())))
            .unwrap();
    })
    .unwrap();
    // Nor does a channel that is closed.
    publish_with(&fixture, &[], |publication| {
        publication.remove_target(&path("100")).unwrap();
        publication.remove_target(&path("101")).unwrap();
    })
    .unwrap();
}

#[test]
fn a_bad_build_can_always_be_stopped() {
    let fixture = Fixture::with_device();
    publish(&fixture, &[full("100"), full("101"), delta("101", "102")]).unwrap();
    // Phones on 100 get to 102 by way of 101 alone.
    let stop = |fixture: &Fixture, key: &str, value: serde_json::Value| {
        publish_with(fixture, &[], |publication| {
            publication.edit_custom(&path("101"), |custom| drop(custom.insert(key.to_owned(), value))).unwrap();
        })
    };

    stop(&fixture.copy(), "withdrawn", true.into()).unwrap();
    stop(&fixture.copy(), "rollout", 0.into()).unwrap();
    // To take it away altogether is another matter.
    let gone = publish_with(&fixture, &[], |publication| publication.remove_target(&path("101")).unwrap());
    assert!(matches!(fault(gone), PhoneFault::LeftBehind { running, .. } if running == build("100")));
}

#[test]
fn a_device_that_was_broken_before_does_not_stop_a_new_one() {
    let mut fixture = Fixture::with_device();
    publish(&fixture, &[full("100")]).unwrap();
    // Everything but root, targets and the vendor has expired, the device among it.
    fixture.now += jiff::SignedDuration::from_hours(24 * 200);
    let repository = fixture.open();
    let mut publication = repository.publication().unwrap();
    let willow = relevo_types::Codename::parse("willow").unwrap();
    publication.add_device(&vendor(), &willow, &keys("d-willow")).unwrap();
    publication.renew("snapshot").unwrap();

    publication.commit(&signers(), fixture.now).unwrap();

    let state = repository.trusted(fixture.now).unwrap();
    assert!(state.device(&willow).is_some());
    assert!(state.troubles().contains_key("d-ginkgo"));
}

#[test]
fn a_publication_cut_after_its_last_step_but_one_leaves_no_mark_for_ever() {
    let fixture = Fixture::with_device();
    publish(&fixture, &[full("100")]).unwrap();
    let mark = fixture.root.join(".publishing");
    std::fs::write(&mark, "snapshot 3\ntimestamp 3\nd-ginkgo 2\n").unwrap();

    let published = publish(&fixture, &[full("100")]).unwrap();

    assert!(published.roles.is_empty());
    assert!(!mark.exists());
}
