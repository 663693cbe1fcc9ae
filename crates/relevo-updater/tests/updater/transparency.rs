//! What an unattended install asks of the transparency log.

use std::{collections::BTreeMap, fs};

use jiff::SignedDuration;
use relevo_meta::{
    log::{Checkpoint, Entry, LogKey, Proof, Tiles, Tree},
    testing::key,
};
use relevo_updater::{boot::Slot, updater::Found};

use crate::support::{Fault, Phone, Recipe, Repo, Server};

const REQUIRE: &str = "[transparency]\nrequire = true\n";
const SOAK: &str = "[transparency]\nrequire = true\nsoak_hours = 48\n";

/// What is said, what is done to the files of a repository, and that repository.
type Case = (&'static str, fn(&mut BTreeMap<String, Vec<u8>>), fn() -> Repo);

fn log_key() -> LogKey {
    LogKey::self_named(*key("log").public().verifying_key())
}

/// The log of a repository, in memory.
#[derive(Clone, Default)]
struct Log {
    entries: Vec<Entry>,
}

impl Log {
    /// Other devices' business.
    fn crowd(&mut self, count: u64) {
        self.entries.extend((0..count).map(|number| Entry::new("d-other", number, b"").unwrap()));
    }

    /// Publishes a repository and logs what is new of the device; all files, by path.
    fn publish(&mut self, repo: &mut Repo) -> BTreeMap<String, Vec<u8>> {
        let mut files = repo.publish();
        let version = repo.0.devices.values().next().unwrap().version();
        let entry = Entry::new("d-ginkgo", version, &repo.0.metadata[&format!("{version}.d-ginkgo.json")]).unwrap();
        if !self.entries.contains(&entry) {
            self.entries.push(entry.clone());
        }
        let index = self.entries.iter().position(|known| *known == entry).unwrap() as u64;
        let mut tree = Tree::default();
        self.entries.iter().for_each(|entry| tree.push(&entry.to_bytes()));
        let key_name = log_key();
        let note = Checkpoint::sign(key_name.name(), tree.size(), tree.root(), &key("log")).unwrap();
        let mut tiles = Tiles::new(tree.size());
        for tile in tree.new_tiles(0) {
            files.insert(format!("/repo/log/{}", tile.path()), tree.tile(&tile));
            tiles.insert(&tile, &tree.tile(&tile)).unwrap();
        }
        let proof = Proof::new(index, tiles.inclusion(index).unwrap(), &note);
        files.insert(format!("/repo/log/proof/{version}.d-ginkgo.tlog-proof"), proof.encode());
        files
    }
}

fn logged_repo() -> Repo {
    let mut repo = Repo::new();
    repo.0.root.set_log(&log_key()).unwrap();
    repo.0.publish_root();
    repo.with(&Recipe::full("101"))
}

/// The paths that were asked for since `before` requests, and the bytes sent since.
fn cost(server: &Server, before: (usize, usize)) -> (Vec<String>, usize) {
    let paths = server.asked("").into_iter().skip(before.0).map(|(path, _)| path).collect();
    (paths, server.sent() - before.1)
}

fn so_far(server: &Server) -> (usize, usize) {
    (server.requests().len(), server.sent())
}

#[test]
fn a_logged_role_is_installed_unattended() {
    let (mut repo, mut log) = (logged_repo(), Log::default());
    let server = Server::start(log.publish(&mut repo));
    let phone = Phone::with(&repo, &[server.url()], "100", REQUIRE);

    phone.go(|updater| updater.poll(true, true)).unwrap();

    let status = phone.status();
    assert_eq!(status.phase, "pending_reboot");
    let known = status.transparency.unwrap();
    assert_eq!((known.problem, known.forked), (None, false));
    assert_eq!((known.logged[0].role.as_str(), known.logged[0].version, known.logged[0].index), ("d-ginkgo", 1, 0));
    assert!(phone.holds(Slot::B, "101"));
}

#[test]
fn what_is_not_in_the_log_is_installed_by_hand_alone() {
    let without_log = || Repo::new().with(&Recipe::full("101"));
    // No log, a log without this role's proof, and the proof of another file.
    let cases: [Case; 3] = [
        ("names no log", |_| {}, without_log),
        ("no mirror showed", |files| files.retain(|path, _| !path.contains("tlog-proof")), logged_repo),
        (
            "not in the log",
            |files| {
                let mut log = Log::default();
                log.crowd(1);
                let other = log.publish(&mut logged_repo().with(&Recipe::full("102")));
                let path = "/repo/log/proof/1.d-ginkgo.tlog-proof";
                files.insert(path.to_owned(), other[path].clone());
            },
            logged_repo,
        ),
    ];
    for (reason, damage, repo) in cases {
        let (mut repo, mut log) = (repo(), Log::default());
        let mut files = log.publish(&mut repo);
        damage(&mut files);
        let server = Server::start(files);
        let phone = Phone::with(&repo, &[server.url()], "100", REQUIRE);

        phone.go(|updater| updater.poll(true, true)).unwrap();

        let status = phone.status();
        assert_eq!(status.phase, "idle", "{reason}");
        assert!(status.transparency.unwrap().problem.unwrap().contains(reason), "{reason}");
        assert!(status.last_check.unwrap().answer.contains("not installed unattended"), "{reason}");
        let outcome = phone.go(|updater| updater.check()).unwrap();
        assert!(matches!(outcome.found, Found::Update { .. }) && outcome.held.unwrap().contains(reason));
        let done = phone.go(|updater| updater.install()).unwrap();
        assert!(done.message.contains("because you asked for it") && done.message.contains(reason), "{}", done.message);
        assert_eq!(phone.status().phase, "pending_reboot");
    }
}

#[test]
fn a_fork_of_the_log_is_noticed_and_both_checkpoints_are_kept() {
    let (mut repo, mut log) = (logged_repo(), Log::default());
    log.crowd(300);
    let server = Server::start(log.publish(&mut repo));
    let phone = Phone::with(&repo, &[server.url()], "100", REQUIRE);
    phone.go(|updater| updater.check()).unwrap();
    let kept = fs::read(phone.path("state/log/checkpoint")).unwrap();
    // Signed by the same log, but without an entry that this phone was shown.
    let mut repo = repo.with(&Recipe::full("102"));
    let mut other = Log::default();
    other.crowd(290);
    server.set_files(other.publish(&mut repo));
    let shorter = phone.go(|updater| updater.poll(true, true));
    assert!(shorter.is_ok());
    assert!(phone.status().transparency.unwrap().problem.is_some(), "it lacks the tiles of what this phone knows");
    other.crowd(100);
    let mut repo = repo.with(&Recipe::full("103"));
    server.set_files(other.publish(&mut repo));

    phone.go(|updater| updater.poll(true, true)).unwrap();

    let known = phone.status().transparency.unwrap();
    assert!(known.forked && known.problem.unwrap().contains("the log forked"));
    assert_eq!(phone.status().phase, "idle");
    assert_eq!(fs::read(phone.path("state/log/checkpoint")).unwrap(), kept);
    assert_eq!(fs::read(phone.path("state/log/fork-kept")).unwrap(), kept);
    let offered = fs::read(phone.path("state/log/fork-offered")).unwrap();
    assert_eq!(Checkpoint::open(&offered, &log_key()).unwrap().size, 392);
    let done = phone.go(|updater| updater.install()).unwrap();
    assert!(done.message.contains("the log forked"), "{}", done.message);
}

#[test]
fn a_package_is_installed_unattended_once_this_phone_has_seen_it_for_long_enough() {
    let (mut repo, mut log) = (logged_repo(), Log::default());
    let server = Server::start(log.publish(&mut repo));
    let mut phone = Phone::with(&repo, &[server.url()], "100", SOAK);
    let poll = |phone: &Phone| phone.go(|updater| updater.poll(true, true)).unwrap();

    poll(&phone);
    assert_eq!(phone.status().phase, "idle");
    assert!(phone.status().last_check.unwrap().answer.contains("waits until 2026-01-03T00:00:00Z"));
    // A newer build every day would never be old enough; the one before is.
    phone.now += SignedDuration::from_hours(24);
    repo.0.now = phone.now;
    let mut repo = repo.with(&Recipe::full("102"));
    server.set_files(log.publish(&mut repo));
    poll(&phone);
    assert_eq!(phone.status().phase, "idle");
    phone.now += SignedDuration::from_hours(24);
    let before = so_far(&server);
    poll(&phone);

    let status = phone.status();
    assert_eq!(status.phase, "pending_reboot");
    assert!(phone.holds(Slot::B, "101"));
    let (paths, _) = cost(&server, before);
    assert!(!paths.iter().any(|path| path.contains("/log/")), "{paths:?}");
}

#[test]
fn by_hand_nobody_waits() {
    let (mut repo, mut log) = (logged_repo(), Log::default());
    let server = Server::start(log.publish(&mut repo));
    let phone = Phone::with(&repo, &[server.url()], "100", SOAK);

    // Downloaded by hand, it stays; but no poll installs it.
    phone.go(|updater| updater.download()).unwrap();
    phone.go(|updater| updater.poll(true, true)).unwrap();
    assert_eq!(phone.status().phase, "staged");
    let done = phone.go(|updater| updater.install()).unwrap();

    assert!(done.message.contains("waits until 2026-01-03T00:00:00Z"), "{}", done.message);
}

#[test]
fn what_was_found_in_the_log_counts_without_network() {
    let (mut repo, mut log) = (logged_repo(), Log::default());
    let server = Server::start(log.publish(&mut repo));
    let phone = Phone::with(&repo, &[server.url()], "100", "[network]\nretries = 0\n[transparency]\nrequire = true\n");
    phone.go(|updater| updater.download()).unwrap();
    server.fault("", Fault::Status(500), usize::MAX);

    let done = phone.go(|updater| updater.install()).unwrap();

    assert_eq!(phone.status().phase, "pending_reboot");
    assert!(!done.message.contains("because you asked"), "{}", done.message);
}

#[test]
fn a_mirror_without_the_log_is_no_obstacle() {
    let (mut repo, mut log) = (logged_repo(), Log::default());
    let files = log.publish(&mut repo);
    let mut bare = files.clone();
    bare.retain(|path, _| !path.contains("/log/"));
    let (bare, whole) = (Server::start(bare), Server::start(files));
    let phone = Phone::with(&repo, &[bare.url(), whole.url()], "100", REQUIRE);

    phone.go(|updater| updater.poll(true, true)).unwrap();

    assert_eq!(phone.status().phase, "pending_reboot");
}

#[test]
fn looking_at_the_log_costs_little_and_only_when_the_device_has_news() {
    let (mut repo, mut log) = (logged_repo(), Log::default());
    log.crowd(100_000);
    let server = Server::start(log.publish(&mut repo));
    let phone = Phone::with(&repo, &[server.url()], "100", REQUIRE);
    phone.go(|updater| updater.check()).unwrap();

    let before = so_far(&server);
    phone.go(|updater| updater.check()).unwrap();
    let (paths, _) = cost(&server, before);
    assert_eq!(paths, ["/repo/metadata/3.root.json", "/repo/metadata/timestamp.json"]);

    // A day later, 300 devices have had their nightly.
    log.crowd(299);
    let mut repo = repo.with(&Recipe::full("102"));
    server.set_files(log.publish(&mut repo));
    let before = so_far(&server);
    phone.go(|updater| updater.check()).unwrap();
    let (paths, _) = cost(&server, before);
    let files = server.asked("");
    let bytes: usize = files[before.0..]
        .iter()
        .filter(|(path, _)| path.contains("/log/"))
        .map(|(path, _)| {
            let file = server.file(path);
            file.map_or(0, |file| file.len())
        })
        .sum();
    println!("a new role, 300 entries later: {bytes} bytes of log: {paths:?}");
    assert!(bytes < 20_000, "{bytes} bytes");
}
