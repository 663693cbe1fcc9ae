//! From a poll to a confirmed build, and every reason to refuse a package before anything is written.

use std::fs;

use relevo_format::{apply::ApplyError, package::PackageError};
use relevo_types::{BuildId, PartitionName};
use relevo_updater::{
    boot::{BootControl, BootFile, Slot, SlotState},
    install::InstallError,
    updater::{Found, UpdateError},
};

use crate::support::{Phone, Recipe, Repo, Server, images, made};

fn setup(recipes: &[Recipe]) -> (Server, Phone) {
    let mut repo = recipes.iter().fold(Repo::new(), |repo, recipe| repo.with(recipe));
    let server = Server::start(repo.publish());
    let phone = Phone::new(&repo, &[server.url()]);
    (server, phone)
}

fn control(phone: &Phone) -> BootControl {
    BootFile::new(&phone.config.block.boot_control).read().unwrap()
}

/// Downloads and tries to install; nothing of the other slot and of boot control may have changed.
fn refusal(phone: &Phone) -> InstallError {
    let before = control(phone);

    let error = phone.go(|updater| updater.install()).unwrap_err();

    assert_eq!(control(phone), before);
    assert!(!phone.path("slots/b").exists(), "the slot was touched");
    match error {
        UpdateError::Install(error) => error,
        error => panic!("{error:?}"),
    }
}

#[test]
fn goes_from_a_poll_to_a_confirmed_build() {
    let (_server, mut phone) = setup(&[Recipe::full("101"), Recipe::delta("100", "101")]);

    let found = phone.go(|updater| updater.check()).unwrap().found;
    let Found::Update { offer } = found else { panic!("{found:?}") };
    assert_eq!(offer.from, Some(BuildId::parse("100").unwrap()), "the delta is cheaper");
    phone.go(|updater| updater.download()).unwrap();
    assert_eq!(phone.status().phase, "staged");
    phone.go(|updater| updater.install()).unwrap();

    assert_eq!(phone.status().phase, "pending_reboot");
    assert!(phone.holds(Slot::A, "100"));
    assert!(phone.holds(Slot::B, "101"), "the partition that vanished is gone, the empty one is there");
    assert_eq!(control(&phone).slot(Slot::B), SlotState::trial(3));

    assert_eq!(phone.reboot(), Slot::B);
    let status = phone.status();
    assert_eq!((status.phase, status.confirmed, status.build.as_str()), ("trial", false, "101"));
    assert_eq!(control(&phone).slot(Slot::B).tries_left, 2);

    phone.go(|updater| updater.confirm()).unwrap();
    let status = phone.status();
    assert_eq!((status.phase, status.confirmed), ("committed", true));
    assert_eq!(phone.reboot(), Slot::B);
    let found = phone.go(|updater| updater.check()).unwrap().found;
    assert_eq!(found, Found::UpToDate { build: BuildId::parse("101").unwrap() });
    assert_eq!(fs::read_dir(phone.path("state/downloads")).unwrap().count(), 1, "only the chunk list is left");
}

#[test]
fn installs_over_what_the_other_slot_held() {
    let (_server, mut phone) = setup(&[Recipe::delta("100", "101"), Recipe::delta("101", "102")]);
    for _ in 0..2 {
        phone.go(|updater| updater.install()).unwrap();
        phone.reboot();
        phone.go(|updater| updater.confirm()).unwrap();
    }

    assert_eq!(phone.status().build.as_str(), "102");
    assert_eq!(phone.status().slot, Slot::A);
    assert!(phone.holds(Slot::A, "102"), "what build 100 had and build 102 has not is gone");
}

#[test]
fn a_build_that_does_not_boot_is_given_up_and_not_tried_again() {
    let (_server, mut phone) = setup(&[Recipe::delta("100", "101")]);
    phone.go(|updater| updater.install()).unwrap();

    let slots: Vec<Slot> = (0..5).map(|_| phone.reboot()).collect();

    assert_eq!(slots, [Slot::B, Slot::B, Slot::B, Slot::A, Slot::A]);
    let status = phone.status();
    assert_eq!(status.phase, "rolled_back");
    assert_eq!(status.failed.len(), 1);
    let found = phone.go(|updater| updater.check()).unwrap().found;
    assert!(matches!(&found, Found::Nothing { reason } if reason.contains("failed")), "{found:?}");
    assert_eq!(control(&phone).active, Slot::A);
    assert_eq!(control(&phone).slot(Slot::B), SlotState::UNBOOTABLE);
}

#[test]
fn a_newer_build_is_tried_after_one_that_failed() {
    let mut repo = Repo::new().with(&Recipe::delta("100", "101"));
    let server = Server::start(repo.publish());
    let mut phone = Phone::new(&repo, &[server.url()]);
    phone.go(|updater| updater.install()).unwrap();
    for _ in 0..4 {
        phone.reboot();
    }
    let mut repo = repo.with(&Recipe::delta("100", "102"));
    server.set_files(repo.publish());

    phone.go(|updater| updater.install()).unwrap();

    assert_eq!(phone.reboot(), Slot::B);
    assert_eq!(phone.status().build.as_str(), "102");
}

#[test]
fn reverts_before_the_reboot_in_the_trial_and_after_it() {
    let (_server, mut phone) = setup(&[Recipe::delta("100", "101")]);
    phone.go(|updater| updater.install()).unwrap();
    phone.go(|updater| updater.revert()).unwrap();
    assert_eq!(phone.reboot(), Slot::A);
    assert_eq!(phone.status().phase, "rolled_back");

    let (_server, mut phone) = setup(&[Recipe::delta("100", "101")]);
    phone.go(|updater| updater.install()).unwrap();
    assert_eq!(phone.reboot(), Slot::B);
    phone.go(|updater| updater.revert()).unwrap();
    assert_eq!(phone.status().phase, "reverting");
    assert_eq!(phone.reboot(), Slot::A);
    assert_eq!(phone.status().phase, "rolled_back");
    let error = phone.go(|updater| updater.revert()).unwrap_err();
    assert!(
        matches!(error, UpdateError::Install(InstallError::NothingToGoBackTo { slot: Slot::B, .. })),
        "the build that was given up is nothing to go back to: {error:?}"
    );

    let (_server, mut phone) = setup(&[Recipe::delta("100", "101")]);
    phone.go(|updater| updater.install()).unwrap();
    phone.reboot();
    phone.go(|updater| updater.confirm()).unwrap();
    phone.go(|updater| updater.revert()).unwrap();
    assert_eq!(phone.reboot(), Slot::A);
    let status = phone.status();
    assert_eq!((status.phase, status.build.as_str()), ("rolled_back", "100"));
    let found = phone.go(|updater| updater.check()).unwrap().found;
    assert!(matches!(found, Found::Nothing { .. }), "the build that was left is not offered again: {found:?}");
}

#[test]
fn tells_that_there_is_nothing_to_go_back_to() {
    let (_server, phone) = setup(&[]);

    let error = phone.go(|updater| updater.revert()).unwrap_err();

    assert!(matches!(error, UpdateError::Install(InstallError::NothingToGoBackTo { .. })), "{error:?}");
    assert_eq!(phone.status().phase, "idle");
}

#[test]
fn refuses_a_package_for_another_device() {
    let (_server, phone) = setup(&[Recipe { device: Some("laurel"), ..Recipe::full("101") }]);
    assert!(matches!(refusal(&phone), InstallError::WrongDevice { actual: Some(_), .. }));

    let (_server, phone) = setup(&[Recipe { device: None, ..Recipe::full("101") }]);
    assert!(matches!(refusal(&phone), InstallError::WrongDevice { actual: None, .. }));
}

#[test]
fn refuses_a_package_that_starts_from_another_build() {
    let mut repo = Repo::new();
    // Metadata says 100, the package itself says 99.
    repo.add("100", "101", &Recipe { from: Some(("99", images("100"))), ..Recipe::full("101") }.make());
    let server = Server::start(repo.publish());
    let phone = Phone::new(&repo, &[server.url()]);

    assert!(matches!(refusal(&phone), InstallError::WrongSource { .. }));
}

#[test]
fn refuses_a_package_whose_own_words_contradict_metadata() {
    for recipe in [
        Recipe { to: ("102", images("101")), timestamp: made("101"), ..Recipe::full("101") },
        Recipe { timestamp: made("103"), ..Recipe::full("101") },
    ] {
        let mut repo = Repo::new();
        repo.add("", "101", &recipe.make());
        let server = Server::start(repo.publish());
        let phone = Phone::new(&repo, &[server.url()]);

        assert!(matches!(refusal(&phone), InstallError::Contradiction { .. }));
    }
}

#[test]
fn refuses_a_package_that_too_few_of_the_devices_keys_signed() {
    for keys in [vec![], vec!["d-laurel"], vec!["v-xiaomi", "targets"]] {
        let (_server, phone) = setup(&[Recipe { keys, ..Recipe::full("101") }]);

        let error = refusal(&phone);

        let InstallError::Package { source, .. } = error else { panic!("{error:?}") };
        assert!(matches!(source, PackageError::Threshold { valid: 0, threshold: 1, .. }), "{source:?}");
    }
}

#[test]
fn refuses_a_running_slot_that_was_changed_and_takes_the_full_package_then() {
    let (_server, phone) = setup(&[Recipe::delta("100", "101"), Recipe::full("101")]);
    let path = phone.path("slots/a/system.img");
    let mut system = fs::read(&path).unwrap();
    system[123_456] ^= 1;
    fs::write(&path, system).unwrap();

    let error = refusal(&phone);

    let system = PartitionName::parse("system").unwrap();
    assert!(
        matches!(&error, InstallError::Apply(ApplyError::SourceDiffers { partition, .. }) if *partition == system),
        "{error:?}"
    );
    phone.go(|updater| updater.install()).unwrap();
    assert!(phone.holds(Slot::B, "101"));
}

#[test]
fn refuses_a_running_partition_of_another_size() {
    let (_server, phone) = setup(&[Recipe::delta("100", "101")]);
    fs::write(phone.path("slots/a/boot.img"), b"short").unwrap();

    assert!(matches!(refusal(&phone), InstallError::Apply(ApplyError::SourceLength { .. })));
}

#[test]
fn a_download_that_was_damaged_on_disk_is_not_installed() {
    let (_server, phone) = setup(&[Recipe::full("101")]);
    let file = phone.go(|updater| updater.download()).unwrap().file.unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();

    let error = phone.go(|updater| updater.install()).unwrap_err();

    assert!(matches!(error, UpdateError::Damaged { .. }), "{error:?}");
    assert!(!file.exists());
    phone.go(|updater| updater.install()).unwrap();
    assert!(phone.holds(Slot::B, "101"));
}

#[test]
fn what_was_downloaded_can_be_installed_without_network_and_after_metadata_expired() {
    let (server, mut phone) = setup(&[Recipe::full("101")]);
    phone.go(|updater| updater.download()).unwrap();
    drop(server);
    phone.now = "2026-03-01T00:00:00Z".parse().unwrap();

    phone.go(|updater| updater.install()).unwrap();

    assert!(phone.holds(Slot::B, "101"));
}

#[test]
fn what_was_withdrawn_after_the_download_is_not_installed() {
    let mut repo = Repo::new().with(&Recipe::full("101"));
    let server = Server::start(repo.publish());
    let phone = Phone::new(&repo, &[server.url()]);
    phone.go(|updater| updater.download()).unwrap();
    let mut other = Repo::new();
    std::mem::swap(&mut other.0.devices, &mut repo.0.devices);
    let codename = relevo_types::Codename::parse("ginkgo").unwrap();
    let expires = repo.0.now + jiff::SignedDuration::from_hours(24 * 180);
    repo.0.devices.insert(codename, relevo_meta::author::DeviceFile::new(expires));
    server.set_files(repo.publish());

    let error = phone.go(|updater| updater.install()).unwrap_err();

    assert!(matches!(error, UpdateError::NotOffered { .. }), "{error:?}");
    assert_eq!(phone.status().phase, "idle");
}

#[test]
fn prefers_one_package_to_a_chain_that_would_need_a_reboot_each() {
    let steps = [Recipe::delta("100", "101"), Recipe::delta("101", "102"), Recipe::full("102")];
    let (_server, phone) = setup(&steps);

    let found = phone.go(|updater| updater.check()).unwrap().found;

    let Found::Update { offer } = found else { panic!("{found:?}") };
    assert_eq!((offer.from, offer.to.as_str(), offer.steps_after), (None, "102", 0));
}

#[test]
fn goes_step_by_step_where_only_a_chain_leads_there() {
    let (_server, mut phone) = setup(&[Recipe::delta("100", "101"), Recipe::delta("101", "102")]);

    let found = phone.go(|updater| updater.check()).unwrap().found;

    let Found::Update { offer } = found else { panic!("{found:?}") };
    assert_eq!((offer.to.as_str(), offer.steps_after), ("101", 1));
    phone.go(|updater| updater.download()).unwrap();
    assert!(phone.status().message.contains("the first of 2 steps"), "{}", phone.status().message);
    phone.go(|updater| updater.install()).unwrap();
    phone.reboot();
    phone.go(|updater| updater.confirm()).unwrap();
    phone.go(|updater| updater.install()).unwrap();
    phone.reboot();
    assert_eq!(phone.status().build.as_str(), "102");
}

#[test]
fn only_one_process_at_a_time_works() {
    let (_server, phone) = setup(&[]);

    let error = phone.go(|_| phone.go(|updater| updater.check())).unwrap_err();

    assert!(matches!(error, UpdateError::Busy { .. }), "{error:?}");
}

#[test]
fn flipping_any_byte_of_a_package_is_found_before_the_slot_is_written() {
    // The mirror is honest about its bytes here: metadata was made for the damaged package, and its chunks are right.
    // Only the package's own signature and hashes are left to find the damage.
    let package = Recipe::full("101").make();
    for at in (0..package.len()).step_by(package.len() / 40) {
        let mut damaged = package.clone();
        damaged[at] ^= 0x10;
        let mut repo = Repo::new();
        repo.add("", "101", &damaged);
        let server = Server::start(repo.publish());
        let mut phone = Phone::new(&repo, &[server.url()]);

        let error = phone.go(|updater| updater.install()).unwrap_err();

        assert!(matches!(error, UpdateError::Install(_)), "byte {at}: {error:?}");
        assert_eq!(phone.reboot(), Slot::A, "byte {at}");
        assert!(!phone.path("slots/b/build.json").exists(), "byte {at}");
    }
}
