//! The transparency log: what goes into it, what continues it, and who notices when it is another.

use std::{collections::BTreeMap, fs, io, path::Path};

use relevo_meta::{
    author::RootFile,
    log::{Checkpoint, Entry, LogError, Tile, unbundle},
    testing::key,
};
use relevo_repo::{Fault, RepoError, Repository, Seen, Signers, Watch, WatchError};

use crate::support::{
    Fixture, find, flip, ginkgo, keys, log_key, logged_repository, new_repository, phone, signers, vendor, watch,
};

fn checkpoint(fixture: &Fixture) -> Checkpoint {
    fixture.open().log().checkpoint(&log_key("log")).unwrap().unwrap()
}

/// All entries, as `<version> <role>`.
fn entries(fixture: &Fixture) -> Vec<String> {
    let size = checkpoint(fixture).size;
    let log = fixture.open();
    let mut names = Vec::new();
    for first in (0..size).step_by(256) {
        let tile = Tile::of_entry(first, size);
        let bundle = log.log().entries(&tile).unwrap().unwrap();
        let entries = unbundle(&bundle, tile.width()).unwrap();
        names.extend(entries.into_iter().map(|bytes| {
            let entry = Entry::parse(bytes).unwrap();
            let file = fs::read(fixture.root.join(format!("metadata/{}.{}.json", entry.version(), entry.role())));
            // Of versions that gc took away, nothing can be said any more.
            if let Ok(file) = file {
                assert_eq!(Entry::new(entry.role(), entry.version(), &file).unwrap(), entry);
            }
            format!("{} {}", entry.version(), entry.role())
        }));
    }
    names
}

/// A new root for a repository, published as a ceremony would: `change` says what is new in it.
fn rotate(fixture: &Fixture, version: u64, change: impl Fn(&mut RootFile)) {
    let path = |version| fixture.root.join(format!("metadata/{version}.root.json"));
    let mut root = RootFile::edit(&fs::read(path(version - 1)).unwrap()).unwrap();
    root.bump().unwrap();
    change(&mut root);
    fs::write(path(version), root.sign(&[&key("root")]).unwrap()).unwrap();
}

fn is_clean(fixture: &Fixture) {
    let report = fixture.open().check(fixture.now).unwrap();
    assert!(report.is_clean(), "{:?}", report.problems);
}

#[test]
fn logs_each_role_that_gets_a_new_version() {
    let fixture = Fixture::logged_with_device();
    fixture.publish("100").unwrap();
    let before = checkpoint(&fixture);

    fixture.publish("101").unwrap();
    fixture.open().refresh(&signers(), fixture.now).unwrap();

    assert_eq!(
        entries(&fixture),
        ["1 root", "1 targets", "1 d-ginkgo", "2 targets", "1 v-xiaomi", "2 d-ginkgo", "3 d-ginkgo"]
    );
    assert_eq!(checkpoint(&fixture).size, before.size + 1);
    is_clean(&fixture);
    phone(&fixture, None).unwrap();
}

#[test]
fn many_publications_fill_tiles() {
    let fixture = Fixture::logged_with_device();
    fixture.publish("100").unwrap();
    let watcher = Watch::new(&fixture.inbox.join("watch"));
    watch(&fixture, &watcher).unwrap();
    for _ in 0..260 {
        let repository = fixture.open();
        let mut publication = repository.publication().unwrap();
        publication.renew("d-ginkgo").unwrap();
        publication.commit(&signers(), fixture.now).unwrap();
    }

    assert_eq!(watch(&fixture, &watcher).unwrap(), Some(Seen::Ahead { from: 6 }));
    assert_eq!(entries(&fixture).len(), 266);
    phone(&fixture, None).unwrap();
    is_clean(&fixture);
    let partial =
        |fixture: &Fixture| fixture.files().keys().filter(|path| path.to_string_lossy().contains(".p/")).count();
    assert!(partial(&fixture) > 500);
    fixture.open().gc(0).unwrap();
    // Those of the tile that is not full, its bundles and the one partial tile of level 1.
    assert_eq!(partial(&fixture), 10 + 10 + 1);
    assert_eq!(fixture.files().keys().filter(|path| path.starts_with("log/proof")).count(), 4);
    is_clean(&fixture);
    watch(&fixture, &watcher).unwrap();
    phone(&fixture, None).unwrap();
}

#[test]
fn a_repository_without_a_log_has_none() {
    let fixture = Fixture::empty();
    Repository::create(&fixture.root, &new_repository(), &signers(), fixture.now).unwrap();

    assert!(!fixture.root.join("log").exists());
    assert!(!fixture.open().is_log_behind().unwrap());
    is_clean(&fixture);
    fs::create_dir(fixture.root.join("log")).unwrap();
    fs::write(fixture.root.join("log/checkpoint"), b"x").unwrap();
    let report = fixture.open().check(fixture.now).unwrap();
    assert!(matches!(&report.problems[..], [problem] if matches!(problem.fault, Fault::Extra)));
}

#[test]
fn a_root_that_begins_to_name_a_log_has_all_that_is_there_logged() {
    let fixture = Fixture::empty();
    Repository::create(&fixture.root, &new_repository(), &signers(), fixture.now).unwrap();
    let repository = fixture.open();
    let mut publication = repository.publication().unwrap();
    publication.add_vendor(&vendor(), &keys("v-xiaomi")).unwrap();
    publication.add_device(&vendor(), &ginkgo(), &keys("d-ginkgo")).unwrap();
    publication.commit(&signers(), fixture.now).unwrap();
    rotate(&fixture, 2, |root| root.set_log(&log_key("log")).unwrap());
    assert!(fixture.open().is_log_behind().unwrap());

    // Whoever has not the key refreshes all the same, and the log waits.
    let mut online = Signers::new();
    online.add("snapshot", key("snapshot"));
    online.add("timestamp", key("timestamp"));
    fixture.open().refresh(&online, fixture.now).unwrap();
    assert!(fixture.open().is_log_behind().unwrap());
    fixture.open().refresh(&signers(), fixture.now).unwrap();

    assert_eq!(entries(&fixture), ["1 root", "2 root", "1 d-ginkgo", "2 targets", "1 v-xiaomi"]);
    assert!(!fixture.open().is_log_behind().unwrap());
    phone(&fixture, None).unwrap();
    is_clean(&fixture);
}

#[test]
fn a_log_goes_on_under_another_key() {
    let fixture = Fixture::logged_with_device();
    fixture.publish("100").unwrap();
    let watcher = Watch::new(&fixture.inbox.join("watch"));
    watch(&fixture, &watcher).unwrap();
    rotate(&fixture, 2, |root| root.set_log(&log_key("new log")).unwrap());

    let wrong = fixture.open().refresh(&signers(), fixture.now).unwrap_err();
    assert!(matches!(wrong, RepoError::OtherLogKey { .. }), "{wrong:?}");
    let mut rotated = Signers::new();
    for role in ["snapshot", "timestamp"] {
        rotated.add(role, key(role));
    }
    rotated.add("log", key("new log"));
    fixture.open().refresh(&rotated, fixture.now).unwrap();

    // Phones read proofs of roles that did not change; their proofs end in a checkpoint by the new key now.
    phone(&fixture, None).unwrap();
    is_clean(&fixture);
    let note = fs::read(fixture.root.join("log/checkpoint")).unwrap();
    let read = |name: &str, _| fs::read(fixture.root.join("log").join(name)).map(Some);
    let (seen, _) = watcher.see(&log_key("new log"), &note, read).unwrap();
    assert_eq!(seen, Seen::Ahead { from: 6 });
}

#[test]
fn a_publication_without_the_key_of_the_log_does_not_happen() {
    let fixture = Fixture::logged_with_device();
    let before = fixture.files();
    let mut without = Signers::new();
    for role in ["d-ginkgo", "snapshot", "timestamp"] {
        without.add(role, key(role));
    }
    let repository = fixture.open();
    let mut publication = repository.publication().unwrap();
    publication.renew("d-ginkgo").unwrap();
    assert_eq!(publication.needed_signers(), ["d-ginkgo", "snapshot", "timestamp", "log"]);

    let error = publication.commit(&without, fixture.now).unwrap_err();

    assert!(matches!(&error, RepoError::NoSigner { role } if role == "log"), "{error:?}");
    let after: BTreeMap<_, _> =
        fixture.files().into_iter().filter(|(path, _)| path != Path::new(".publishing")).collect();
    assert_eq!(after, before);
}

#[test]
fn a_damaged_log_is_found_and_not_continued() {
    let fixture = Fixture::logged_with_device();
    for (name, position) in [
        ("log/tile/0/000.p/5", 40),
        ("log/tile/entries/000.p/5", 40),
        ("log/checkpoint", 25),
        ("log/proof/1.d-ginkgo.tlog-proof", 40),
    ] {
        let broken = fixture.copy();
        flip(&broken.root.join(name), position, 1);

        let report = broken.open().check(broken.now).unwrap();

        assert!(!report.is_clean(), "{name}");
        if name.contains("tile") {
            let error = broken.publish("100").unwrap_err();
            assert!(matches!(error, RepoError::Log(LogError::Tiles { .. } | LogError::Malformed { .. })), "{error:?}");
        }
        fs::remove_file(broken.root.join(name)).unwrap();
        assert!(!broken.open().check(broken.now).unwrap().is_clean(), "{name}");
    }
}

#[test]
fn every_tile_of_an_earlier_size_is_as_long_as_its_name_says() {
    let fixture = Fixture::logged_with_device();
    fixture.publish("100").unwrap();
    for name in ["log/tile/0/000.p/5", "log/tile/entries/000.p/5"] {
        let whole = fs::read(fixture.root.join(name)).unwrap();
        for bytes in [&[][..], &whole[..whole.len() - 1], &[whole.as_slice(), b"}"].concat()] {
            let broken = fixture.copy();
            fs::write(broken.root.join(name), bytes).unwrap();

            assert!(!broken.open().check(broken.now).unwrap().is_clean(), "{name} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn a_lost_hidden_checkpoint_is_no_loss() {
    let fixture = Fixture::logged_with_device();
    let watcher = Watch::new(&fixture.inbox.join("watch"));
    watch(&fixture, &watcher).unwrap();
    // As when the repository was copied by something that passes over hidden files.
    fs::remove_file(fixture.root.join("log/.signed")).unwrap();

    fixture.publish("100").unwrap();

    assert_eq!(watch(&fixture, &watcher).unwrap(), Some(Seen::Ahead { from: 5 }));
    is_clean(&fixture);
}

#[test]
fn a_watch_notices_a_fork_and_keeps_the_evidence() {
    // A repository restored from a backup, or one shown to some only: both went on from the same state, each its way.
    let fixture = Fixture::logged_with_device();
    let other = fixture.copy();
    fixture.publish("100").unwrap();
    fixture.publish("101").unwrap();
    other.publish("102").unwrap();
    let watcher = Watch::new(&fixture.inbox.join("watch"));
    assert_eq!(watch(&fixture, &watcher).unwrap(), Some(Seen::First));
    assert_eq!(watch(&fixture, &watcher).unwrap(), Some(Seen::Same));
    let kept = watcher.last().unwrap().unwrap();

    // The other one is shorter: its history is not in the one that was seen. Tiles of the longer tree are needed, which the
    // accused does not have; whoever showed the longer one has.
    let note = fs::read(other.root.join("log/checkpoint")).unwrap();
    let read = |name: &str, _| match fs::read(fixture.root.join("log").join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    };
    let error = watcher.see(&log_key("log"), &note, read).unwrap_err();
    let WatchError::Fork { log: LogError::Fork { .. }, evidence } = error else { panic!("{error:?}") };
    assert_eq!(fs::read(evidence.join("kept")).unwrap(), kept.note());
    assert_eq!(fs::read(evidence.join("offered")).unwrap(), note);

    // Once it is longer, it has all that convicts it.
    other.publish("103").unwrap();
    other.publish("104").unwrap();
    assert!(matches!(watch(&other, &watcher), Err(WatchError::Fork { .. })));
    assert_eq!(watcher.last().unwrap().unwrap(), kept);
}

#[test]
fn a_watch_tells_a_mirror_that_is_behind() {
    let fixture = Fixture::logged_with_device();
    let mirror = fixture.copy();
    fixture.publish("100").unwrap();
    let watcher = Watch::new(&fixture.inbox.join("watch"));
    watch(&fixture, &watcher).unwrap();
    let note = fs::read(mirror.root.join("log/checkpoint")).unwrap();

    let read = |name: &str, _| fs::read(fixture.root.join("log").join(name)).map(Some);
    let (seen, _) = watcher.see(&log_key("log"), &note, read).unwrap();

    assert_eq!(seen, Seen::Behind { by: 1 });
    assert_eq!(watch(&fixture, &watcher).unwrap(), Some(Seen::Same));
    let forged = Watch::new(&fixture.inbox.join("other"));
    let error = forged.see(&log_key("somebody"), &note, read).unwrap_err();
    assert!(matches!(error, WatchError::Log(LogError::Signature { .. })), "{error:?}");
}

#[test]
fn a_creation_that_was_cut_leaves_no_log_behind() {
    let fixture = Fixture::empty();
    Repository::create(&fixture.root, &logged_repository(), &signers(), fixture.now).unwrap();
    fs::remove_file(fixture.root.join("metadata/timestamp.json")).unwrap();
    let later = fixture.now + jiff::SignedDuration::from_hours(1);

    Repository::create(&fixture.root, &logged_repository(), &signers(), later).unwrap();

    assert_eq!(entries(&fixture), ["1 root", "1 targets"]);
    let report = fixture.open().check(later).unwrap();
    assert!(report.is_clean(), "{:?}", report.problems);
    assert!(find(&fixture, "log/checkpoint").exists());
}
