//! The power goes at every step of an update.

use std::fs;

use relevo_updater::{boot::Slot, updater::Found};

use crate::support::{Cut, CutDisk, Phone, Recipe, Repo, Server, sha256};

const CUTS: [Cut; 3] = [Cut::Kill, Cut::Power, Cut::Torn];

fn setup() -> (Server, Repo) {
    let mut repo = Repo::new().with(&Recipe::delta("100", "101"));
    let server = Server::start(repo.publish());
    (server, repo)
}

/// What must be true at any moment, whatever was cut.
fn is_sound(phone: &Phone, what: &str) {
    for entry in fs::read_dir(phone.path("state/downloads")).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.ends_with(".rvp") || name.ends_with(".chunks") {
            let hash = sha256(&fs::read(&path).unwrap()).to_string();
            assert!(name.starts_with(&hash), "{what}: {name} is not what its name says");
        }
    }
    if phone.path("slots/b/build.json").exists() {
        assert!(phone.holds(Slot::B, "101"), "{what}: slot b has a record and not the build");
    }
}

/// After a cut: a restart finds a whole build, and the next runs end in the right state.
fn recovers(phone: &mut Phone, what: &str) {
    is_sound(phone, what);
    let slot = phone.reboot();
    let build = if slot == Slot::A { "100" } else { "101" };
    assert!(phone.holds(slot, build), "{what}: slot {slot} is a mix");
    assert_eq!(phone.status().build.as_str(), build, "{what}");
    if slot == Slot::A {
        let message = phone.go(|updater| updater.install()).unwrap_or_else(|error| panic!("{what}: {error:?}")).message;
        assert!(phone.holds(Slot::B, "101"), "{what}: {message}");
        assert!(phone.holds(Slot::A, "100"), "{what}");
        assert_eq!(phone.reboot(), Slot::B, "{what}: {message}");
    }
    phone.go(|updater| updater.confirm()).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert_eq!(phone.reboot(), Slot::B, "{what}");
    let status = phone.status();
    assert_eq!((status.phase, status.confirmed), ("committed", true), "{what}");
    assert!(status.failed.is_empty(), "{what}: {:?}", status.failed);
    let found = phone.go(|updater| updater.check()).unwrap().found;
    assert!(matches!(found, Found::UpToDate { .. }), "{what}: {found:?}");
}

/// Cuts poll, download and install at every step.
fn cut_everywhere(cut: Cut) {
    let (server, repo) = setup();
    for at in 0.. {
        let mut phone = Phone::new(&repo, &[server.url()]);
        let disk = CutDisk::new(at, cut);

        let result = phone.run(&disk, |updater| updater.install());

        let what = format!("{cut:?} at step {at}");
        if !disk.was_cut() {
            result.unwrap();
            assert!(at > 100, "{at} steps");
            break;
        }
        assert!(result.is_err(), "{what}");
        recovers(&mut phone, &what);
    }
}

#[test]
fn a_kill_at_every_step_of_poll_download_and_install_ends_in_the_right_state() {
    cut_everywhere(Cut::Kill);
}

#[test]
fn a_power_cut_at_every_step_of_poll_download_and_install_ends_in_the_right_state() {
    cut_everywhere(Cut::Power);
}

#[test]
fn a_torn_write_at_every_step_of_poll_download_and_install_ends_in_the_right_state() {
    cut_everywhere(Cut::Torn);
}

#[test]
fn a_second_cut_while_recovering_from_the_first_ends_in_the_right_state_too() {
    let (server, repo) = setup();
    for (first, second) in [(40, 3), (60, 11), (80, 20), (95, 7), (110, 31), (120, 2), (130, 16), (150, 5)] {
        for cut in CUTS {
            let mut phone = Phone::new(&repo, &[server.url()]);
            let _ = phone.run(&CutDisk::new(first, cut), |updater| updater.install());
            let disk = CutDisk::new(second, cut);
            let _ = phone.run(&disk, |updater| updater.install());

            recovers(&mut phone, &format!("{cut:?} at steps {first} and {second}"));
        }
    }
}

#[test]
fn a_cut_at_every_step_of_boot_and_confirm_ends_in_the_right_state() {
    let (server, repo) = setup();
    for cut in CUTS {
        for at in 0.. {
            let mut phone = Phone::new(&repo, &[server.url()]);
            phone.go(|updater| updater.install()).unwrap();
            let disk = CutDisk::new(at, cut);

            phone.reboot_on(&disk);
            let _ = phone.run(&disk, |updater| updater.confirm());

            if !disk.was_cut() {
                break;
            }
            recovers(&mut phone, &format!("{cut:?} at step {at}"));
        }
    }
}

#[test]
fn a_cut_at_every_step_of_a_revert_leaves_one_whole_build_to_boot() {
    let (server, repo) = setup();
    for stage in ["pending", "trial", "confirmed"] {
        for cut in CUTS {
            for at in 0.. {
                let mut phone = Phone::new(&repo, &[server.url()]);
                phone.go(|updater| updater.install()).unwrap();
                if stage != "pending" {
                    phone.reboot();
                }
                if stage == "confirmed" {
                    phone.go(|updater| updater.confirm()).unwrap();
                }
                let disk = CutDisk::new(at, cut);

                let result = phone.run(&disk, |updater| updater.revert());

                let what = format!("{stage}: {cut:?} at step {at}");
                if !disk.was_cut() {
                    result.unwrap();
                    assert_eq!(phone.reboot(), Slot::A, "{what}");
                    break;
                }
                let slot = phone.reboot();
                let build = if slot == Slot::A { "100" } else { "101" };
                assert!(phone.holds(slot, build), "{what}");
                let status = phone.status();
                let expected: &[&str] = match slot {
                    Slot::A => &["rolled_back"],
                    Slot::B => &["trial", "committed"],
                };
                assert!(expected.contains(&status.phase), "{what}: {status:?}");
                if slot == Slot::A {
                    assert_eq!(status.failed.len(), 1, "{what}: the build that was left is not taken again");
                }
            }
        }
    }
}

#[test]
fn the_slots_are_exchanged_often_without_a_mix() {
    let builds = ["100", "101", "102", "103", "104"];
    let repo = builds.windows(2).fold(Repo::new(), |repo, pair| repo.with(&Recipe::delta(pair[0], pair[1])));
    let mut repo = repo;
    let server = Server::start(repo.publish());
    let mut phone = Phone::new(&repo, &[server.url()]);
    // A cut somewhere in each update, another place each time.
    for (index, pair) in builds.windows(2).enumerate() {
        let running = phone.status().slot;
        let _ = phone.run(&CutDisk::new(37 + 29 * index, CUTS[index % 3]), |updater| updater.install());
        assert!(phone.holds(running, pair[0]));
        if phone.reboot() == running {
            phone.go(|updater| updater.install()).unwrap();
            phone.reboot();
        }
        assert!(phone.holds(running.other(), pair[1]));
        phone.go(|updater| updater.confirm()).unwrap();
        assert_eq!(phone.status().build.as_str(), pair[1]);
    }
}
