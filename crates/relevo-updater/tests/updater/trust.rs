//! Metadata from mirrors that are stale, broken or hostile.

use relevo_meta::TrustError;
use relevo_updater::{
    boot::Slot,
    trust::RefreshError,
    updater::{Found, UpdateError, Updater},
};

use crate::support::{Fault, Phone, Recipe, Repo, Server};

fn repo() -> Repo {
    Repo::new().with(&Recipe::full("101"))
}

fn refused(error: UpdateError) -> TrustError {
    match error {
        UpdateError::Refresh(RefreshError::RefusedEverywhere { source, .. } | RefreshError::Refused(source)) => *source,
        error => panic!("{error:?}"),
    }
}

#[test]
fn a_poll_that_finds_nothing_new_asks_for_two_small_files() {
    let mut repo = repo();
    let server = Server::start(repo.publish());
    let phone = Phone::new(&repo, &[server.url()]);
    phone.go(|updater| updater.check()).unwrap();
    let (requests, sent) = (server.requests().len(), server.sent());

    phone.go(|updater| updater.check()).unwrap();

    let paths: Vec<String> = server.asked("").into_iter().skip(requests).map(|(path, _)| path).collect();
    assert_eq!(paths, ["/repo/metadata/2.root.json", "/repo/metadata/timestamp.json"]);
    assert!(server.sent() - sent < 1000, "{} bytes", server.sent() - sent);
}

#[test]
fn metadata_comes_from_whichever_mirror_answers() {
    let mut repo = repo();
    let files = repo.publish();
    let (bad, good) = (Server::start(files.clone()), Server::start(files));
    for fault in [Fault::Status(500), Fault::Flip(30), Fault::DropAt(3), Fault::Endless, Fault::Status(404)] {
        let phone = Phone::new(&repo, &[bad.url(), good.url()]);
        bad.fault("timestamp.json", fault.clone(), 100);

        let outcome = phone.go(|updater| updater.check()).unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));

        assert!(matches!(outcome.found, Found::Update { .. }), "{fault:?}");
    }
}

#[test]
fn metadata_comes_compressed_where_a_mirror_can() {
    let mut repo = repo();
    let server = Server::start(repo.publish());
    let plain = Phone::new(&repo, &[server.url()]);
    plain.go(|updater| updater.check()).unwrap();
    let raw = server.sent();
    server.fault("", Fault::Gzip, usize::MAX);
    let phone = Phone::new(&repo, &[server.url()]);

    phone.go(|updater| updater.download()).unwrap();

    let metadata: usize =
        server.asked(".json").iter().map(|(path, _)| server.file(path).map_or(0, |file| file.len())).sum();
    assert!(raw * 2 >= metadata, "{raw} bytes of {metadata}");
    assert_eq!(phone.status().phase, "staged");
    let one = Phone::new(&repo, &[server.url()]);
    let before = server.sent();
    one.go(|updater| updater.check()).unwrap();
    assert!((server.sent() - before) * 10 < raw * 7, "{} of {raw} bytes", server.sent() - before);
}

#[test]
fn a_compressed_answer_is_held_to_the_limits_of_what_it_holds() {
    let mut repo = repo();
    let files = repo.publish();
    let (bad, good) = (Server::start(files.clone()), Server::start(files));
    // A timestamp has 4 KiB at most: one byte more, and far more than a phone's memory should ever see.
    for fault in [Fault::Bomb(4097), Fault::Bomb(64 << 20), Fault::Encoded] {
        let phone = Phone::new(&repo, &[bad.url(), good.url()]);
        bad.fault("timestamp.json", fault.clone(), 1);

        let outcome = phone.go(|updater| updater.check()).unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));

        assert_eq!(outcome.aside[0].mirror, bad.url(), "{fault:?}");
    }
}

#[test]
fn a_stale_mirror_is_put_aside_and_the_others_are_asked() {
    let mut repo = repo();
    let old = repo.publish();
    let mut repo = repo.with(&Recipe::full("102"));
    let new = repo.publish();
    let good = Server::start(new);
    let phone = Phone::new(&repo, &[good.url()]);
    phone.go(|updater| updater.check()).unwrap();
    let stale = Server::start(old);
    let mut both = Phone::new(&repo, &[stale.url(), good.url()]);
    std::fs::create_dir_all(both.path("state")).unwrap();
    std::fs::rename(phone.path("state/trusted"), both.path("state/trusted")).unwrap();
    both.seed = 2;

    let outcome = both.go(|updater| updater.check()).unwrap();

    let Found::Update { offer } = &outcome.found else { panic!("{outcome:?}") };
    assert_eq!(offer.to.as_str(), "102");
    assert_eq!(outcome.aside[0].mirror, stale.url());
}

#[test]
fn refuses_rolled_back_and_expired_metadata() {
    let mut repo = repo();
    let old = repo.publish();
    let mut repo = repo.with(&Recipe::full("102"));
    let server = Server::start(repo.publish());
    let mut phone = Phone::new(&repo, &[server.url()]);
    phone.go(|updater| updater.check()).unwrap();
    server.set_files(old);

    let error = phone.go(|updater| updater.check()).unwrap_err();
    assert!(matches!(refused(error), TrustError::Rollback { .. }));

    server.set_files(repo.publish());
    phone.now = "2026-02-01T00:00:00Z".parse().unwrap();
    let error = phone.go(|updater| updater.check()).unwrap_err();
    assert!(matches!(refused(error), TrustError::Expired { .. }));
}

#[test]
fn what_was_downloaded_is_installed_without_network_but_not_by_refused_metadata() {
    let mut repo = repo();
    let server = Server::start(repo.publish());
    let mut phone = Phone::new(&repo, &[server.url()]);
    phone.go(|updater| updater.download()).unwrap();
    let before = phone.images_of(Slot::B);
    phone.now = "2026-02-01T00:00:00Z".parse().unwrap();

    let error = phone.go(|updater| updater.install()).unwrap_err();

    assert!(matches!(refused(error), TrustError::Expired { .. }));
    assert_eq!(phone.images_of(Slot::B), before, "nothing is written to the slot");
    drop(server);
    phone.go(|updater| updater.install()).unwrap();
}

#[test]
fn a_clock_that_went_back_does_not_revive_expired_metadata() {
    let mut repo = repo();
    let old = repo.publish();
    repo.0.now = "2026-01-20T00:00:00Z".parse().unwrap();
    repo.0.timestamp.set_expires(repo.0.now + jiff::SignedDuration::from_hours(24 * 7));
    let server = Server::start(repo.publish());
    let mut phone = Phone::new(&repo, &[server.url()]);
    phone.now = repo.0.now;
    phone.go(|updater| updater.check()).unwrap();
    std::fs::remove_dir_all(phone.path("state/trusted")).unwrap();
    server.set_files(old);
    phone.now = "1970-01-05T00:00:00Z".parse().unwrap();

    let error = phone.go(|updater| updater.check()).unwrap_err();

    assert!(matches!(refused(error), TrustError::Expired { .. }));
}

#[test]
fn flipping_any_byte_of_metadata_is_found() {
    let mut repo = repo();
    let files = repo.publish();
    let server = Server::start(files.clone());
    for path in files.keys().filter(|path| path.contains("/metadata/") && !path.contains("root.json")) {
        let name = path.rsplit('/').next().unwrap();
        let len = files[path].len() as u64;
        for at in (0..len).step_by(usize::try_from(len / 12).unwrap()) {
            let phone = Phone::new(&repo, &[server.url()]);
            let mut damaged = files.clone();
            damaged.get_mut(path).unwrap()[usize::try_from(at).unwrap()] ^= 0x08;
            server.set_files(damaged);

            let error = phone.go(|updater| updater.check()).unwrap_err();

            assert!(error.to_string().len() > 5 && matches!(error, UpdateError::Refresh(_)), "{name} at {at}");
        }
    }
}

#[test]
fn a_device_that_the_repository_does_not_know_is_named() {
    let mut repo = Repo::new();
    repo.0.devices.clear();
    repo.0.vendors.clear();
    let server = Server::start(repo.publish());
    let phone = Phone::new(&repo, &[server.url()]);

    let error = phone.go(|updater| updater.check()).unwrap_err();

    let UpdateError::Refresh(error) = error else { panic!("{error:?}") };
    assert!(relevo_updater::mirror::chain(&error).contains("xiaomi"), "{error:?}");
}

#[test]
fn an_unmaintained_device_is_an_answer_of_its_own() {
    let mut repo = repo();
    let expires = repo.0.now + jiff::SignedDuration::from_hours(24);
    repo.0.devices.values_mut().for_each(|device| device.set_expires(expires));
    let server = Server::start(repo.publish());
    let mut phone = Phone::new(&repo, &[server.url()]);
    assert!(matches!(phone.go(|updater| updater.check()).unwrap().found, Found::Update { .. }));
    phone.now = expires;

    for outcome in [phone.go(|updater| updater.check()), phone.go(|updater| updater.download())] {
        let outcome = outcome.unwrap();
        assert_eq!(outcome.found, Found::Unmaintained { since: expires });
        assert!(outcome.aside.is_empty(), "no mirror is to blame: {:?}", outcome.aside);
    }
    let said = phone.go(|updater| Ok(updater.state().last_check.clone())).unwrap().unwrap().answer;
    assert!(said.starts_with("this device is unmaintained since 2026-"), "{said}");
}

#[test]
fn metadata_past_their_date_are_taken_when_the_owner_says_so() {
    let mut repo = repo();
    repo.0.root.set_offline_grace(45).unwrap();
    repo.0.publish_root();
    let carrier = Server::start(repo.publish());
    let mut phone = Phone::new(&repo, &[carrier.url()]);
    phone.go(|updater| updater.check()).unwrap();
    let fresh = phone.now;
    phone.now += jiff::SignedDuration::from_hours(24 * 30);
    assert!(matches!(refused(phone.go(|updater| updater.check()).unwrap_err()), TrustError::Expired { .. }));

    let by_hand = |updater: &mut Updater<'_>| {
        updater.accept_stale();
        updater.install()
    };
    phone.go(by_hand).unwrap();

    assert_eq!(phone.reboot(), Slot::B);
    phone.go(|updater| updater.confirm()).unwrap();
    let verified = phone.go(|updater| Ok(updater.state().verified_at)).unwrap();
    assert_eq!(verified, Some(fresh), "what is not fresh does not move the time");
    let outcome = phone.go(|updater| {
        updater.accept_stale();
        updater.check()
    });
    let Found::Nothing { reason } = outcome.unwrap().found else { panic!("it is not known to be up to date") };
    assert!(reason.contains("cannot say more"), "{reason}");
}
