//! The power is cut before every single change to the file system, in three ways, and the repository is whole.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use relevo_meta::testing::key;
use relevo_repo::{Hook, Operation, Repository, Seen, Watch};

use crate::support::{Fixture, builds, ginkgo, keys, logged_repository, path, phone, signers, vendor, watch};

/// How the file system looks after a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// The process was killed: everything that it wrote is there.
    Killed,
    /// The power went: nothing that was not synced is there.
    All,
    /// The power went: of what was not synced, every second change is there, whatever came first.
    Even,
    /// The same with the other half.
    Odd,
}

const LOSSES: [Loss; 4] = [Loss::Killed, Loss::All, Loss::Even, Loss::Odd];

/// Cuts the power before the n-th change, and knows what was not durable then.
#[derive(Default)]
struct Switch(Mutex<State>);

#[derive(Default)]
struct State {
    cut_at: usize,
    seen: usize,
    /// Files whose content is not durable.
    dirty: BTreeSet<PathBuf>,
    /// Entries whose directory was not synced since, oldest first.
    entries: Vec<Entry>,
}

enum Entry {
    Renamed { from: PathBuf, to: PathBuf, before: Option<Vec<u8>> },
    Removed { path: PathBuf, before: Vec<u8> },
}

impl Switch {
    fn new(cut_at: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { cut_at, ..State::default() })))
    }

    /// Makes the file system look as it would after the cut.
    fn lose(&self, loss: Loss) {
        let state = self.0.lock().unwrap();
        let lost = |index: usize| match loss {
            Loss::Killed => false,
            Loss::All => true,
            Loss::Even => index.is_multiple_of(2),
            Loss::Odd => !index.is_multiple_of(2),
        };
        for (_, entry) in state.entries.iter().enumerate().rev().filter(|(index, _)| lost(*index)) {
            match entry {
                Entry::Renamed { from, to, before } => {
                    if let Ok(content) = fs::read(to) {
                        fs::write(from, content).unwrap();
                    }
                    match before {
                        Some(before) => fs::write(to, before).unwrap(),
                        None => drop(fs::remove_file(to)),
                    }
                }
                Entry::Removed { path, before } => fs::write(path, before).unwrap(),
            }
        }
        for path in state.dirty.iter().filter(|_| loss != Loss::Killed) {
            if let Ok(content) = fs::read(path) {
                fs::write(path, &content[..content.len() / 2]).unwrap();
            }
        }
    }

    fn was_cut(&self) -> bool {
        let state = self.0.lock().unwrap();
        state.seen > state.cut_at
    }
}

impl Hook for Switch {
    fn before(&self, operation: Operation<'_>) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.seen += 1;
        if state.seen > state.cut_at {
            return Err(io::Error::other("the power is off"));
        }
        match operation {
            Operation::Create(path) | Operation::Write(path) => drop(state.dirty.insert(path.to_owned())),
            Operation::SyncFile(path) => drop(state.dirty.remove(path)),
            Operation::Rename { from, to } => {
                let (from, to) = (from.to_owned(), to.to_owned());
                let before = fs::read(&to).ok();
                state.entries.push(Entry::Renamed { from, to, before });
            }
            Operation::Remove(path) => {
                if let Ok(before) = fs::read(path) {
                    state.entries.push(Entry::Removed { path: path.to_owned(), before });
                }
            }
            Operation::SyncDir(directory) => state.entries.retain(|entry| {
                let path: &Path = match entry {
                    Entry::Renamed { to, .. } => to,
                    Entry::Removed { path, .. } => path,
                };
                path.parent() != Some(directory)
            }),
            _ => {}
        }
        Ok(())
    }
}

/// Runs `job` on a copy of `start` with a cut before every change, in every way; `judge` looks at what is left.
///
/// Ends when the job comes through without meeting its cut.
fn cut_everywhere(
    start: &Fixture,
    job: impl Fn(&Fixture, Arc<Switch>),
    judge: impl Fn(&Fixture, &dyn Fn(), &str),
) -> usize {
    for cut in 0.. {
        for loss in LOSSES {
            let fixture = start.copy();
            let switch = Switch::new(cut);

            job(&fixture, Arc::clone(&switch));

            if !switch.was_cut() {
                return cut;
            }
            judge(&fixture, &|| switch.lose(loss), &format!("cut before change {cut}, {loss:?}"));
        }
    }
    unreachable!("every job ends")
}

fn is_clean(fixture: &Fixture, context: &str) {
    let report = fixture.open().check(fixture.now).unwrap();
    assert!(report.is_clean(), "{context}: {:?}", report.problems);
}

fn has_no_leftovers(fixture: &Fixture, context: &str) {
    for path in fixture.files().into_keys() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(
            !name.starts_with(".tmp-") && name != ".publishing" && name != ".rotating",
            "{context}: {}",
            path.display()
        );
    }
}

#[test]
fn a_publication_is_there_or_not() {
    let start = Fixture::logged_with_device();
    start.publish("100").unwrap();
    let old_phone = phone(&start, None).unwrap();

    let cuts = cut_everywhere(
        &start,
        |fixture, switch| drop(fixture.publish_on(&fixture.open().with_hook(switch), "101")),
        |fixture, lose, context| {
            // Somebody looks at the very moment of the cut, before what was not durable is lost.
            let early_phone = phone(fixture, Some(old_phone.clone())).unwrap();
            let watcher = Watch::new(&fixture.inbox.join("watch"));
            watch(fixture, &watcher).unwrap_or_else(|error| panic!("{context}: {error:?}"));
            lose();
            watch(fixture, &watcher).unwrap_or_else(|error| panic!("{context}: {error:?}"));

            let seen = builds(&fixture.open(), fixture.now);
            assert!(seen == ["100"] || seen == ["100", "101"], "{context}: {seen:?}");
            is_clean(fixture, context);
            let later_phone = phone(fixture, Some(old_phone.clone())).unwrap();

            // Another publication than the one that was cut, and then that one again.
            fixture.publish("102").unwrap();
            let role = |stored| phone(fixture, stored).map(|stored| stored.0["d-ginkgo.json"].clone());
            let told = [Some(early_phone.clone()), Some(later_phone.clone()), None].map(role).map(Result::unwrap);
            assert!(told.iter().all(|one| *one == told[0]), "{context}: phones know different things");
            fixture.publish("101").unwrap();
            assert_eq!(builds(&fixture.open(), fixture.now), ["100", "101", "102"], "{context}");
            is_clean(fixture, context);
            has_no_leftovers(fixture, context);
            let new_phone = phone(fixture, None).unwrap();
            let seen = watch(fixture, &watcher).unwrap_or_else(|error| panic!("{context}: {error:?}"));
            assert!(matches!(seen, Some(Seen::Ahead { .. })), "{context}: {seen:?}");
            for stored in [&old_phone, &early_phone, &later_phone] {
                let caught_up = phone(fixture, Some(stored.clone())).unwrap_or_else(|e| panic!("{context}: {e:?}"));
                assert_eq!(caught_up.0["d-ginkgo.json"], new_phone.0["d-ginkgo.json"], "{context}");
            }
        },
    );

    assert!(cuts > 30, "{cuts} changes");
}

#[test]
fn what_was_published_survives_the_power() {
    let fixture = Fixture::logged_with_device();
    let switch = Switch::new(usize::MAX);

    fixture.publish_on(&fixture.open().with_hook(Arc::clone(&switch) as Arc<dyn Hook>), "100").unwrap();
    switch.lose(Loss::All);

    assert_eq!(builds(&fixture.open(), fixture.now), ["100"]);
    is_clean(&fixture, "after the publication");
    fixture.publish("101").unwrap();
    has_no_leftovers(&fixture, "after the next one");
}

#[test]
fn a_new_device_is_there_or_not() {
    let start = Fixture::logged();
    let job = |fixture: &Fixture, repository: &Repository| {
        let mut publication = repository.publication()?;
        publication.add_vendor(&vendor(), &keys("v-xiaomi"))?;
        publication.add_device(&vendor(), &ginkgo(), &keys("d-ginkgo"))?;
        publication.commit(&signers(), fixture.now)
    };

    cut_everywhere(
        &start,
        |fixture, switch| drop(job(fixture, &fixture.open().with_hook(switch))),
        |fixture, lose, context| {
            lose();

            let devices = fixture.open().trusted(fixture.now).unwrap().devices().len();
            assert!(devices <= 1, "{context}");
            is_clean(fixture, context);
            job(fixture, &fixture.open()).unwrap();
            fixture.publish("100").unwrap();
            assert_eq!(builds(&fixture.open(), fixture.now), ["100"], "{context}");
            has_no_leftovers(fixture, context);
        },
    );
}

#[test]
fn a_refresh_is_there_or_not() {
    let start = Fixture::logged_with_device();
    start.publish("100").unwrap();

    cut_everywhere(
        &start,
        |fixture, switch| drop(fixture.open().with_hook(switch).refresh(&signers(), fixture.now)),
        |fixture, lose, context| {
            lose();

            let version = fixture.open().trusted(fixture.now).unwrap().timestamp_version();
            assert!(version == 3 || version == 4, "{context}: {version}");
            is_clean(fixture, context);
            let refreshed = fixture.open().refresh(&signers(), fixture.now).unwrap();
            assert!(refreshed.timestamp_version > version, "{context}");
            has_no_leftovers(fixture, context);
        },
    );
}

#[test]
fn garbage_collection_can_stop_anywhere() {
    let start = Fixture::logged_with_device();
    for build in ["100", "101"] {
        start.publish(build).unwrap();
    }
    let repository = start.open();
    let mut publication = repository.publication().unwrap();
    publication.remove_target(&path("100")).unwrap();
    publication.commit(&signers(), start.now).unwrap();

    cut_everywhere(
        &start,
        |fixture, switch| drop(fixture.open().with_hook(switch).gc(0)),
        |fixture, lose, context| {
            lose();

            assert_eq!(builds(&fixture.open(), fixture.now), ["101"], "{context}");
            is_clean(fixture, context);
            fixture.open().gc(0).unwrap();
            assert_eq!(fixture.open().check(fixture.now).unwrap().unused, 0, "{context}");
        },
    );
}

#[test]
fn a_creation_can_be_repeated() {
    let start = Fixture::empty();
    fs::create_dir(&start.root).unwrap();

    cut_everywhere(
        &start,
        |fixture, switch| {
            drop(Repository::create_with_hook(&fixture.root, &logged_repository(), &signers(), fixture.now, switch));
        },
        |fixture, lose, context| {
            lose();

            if Repository::open(&fixture.root).is_err() {
                Repository::create(&fixture.root, &logged_repository(), &signers(), fixture.now)
                    .unwrap_or_else(|error| panic!("{context}: {error:?}"));
            }
            let repository = fixture.open();
            repository.trusted(fixture.now).unwrap();
            let mut publication = repository.publication().unwrap();
            publication.add_vendor(&vendor(), &keys("v-xiaomi")).unwrap();
            publication.commit(&signers(), fixture.now).unwrap();
            is_clean(fixture, context);
        },
    );
}

/// Changes both online keys, as after the loss of a machine.
fn rotate(fixture: &Fixture, repository: &Repository, with_old: bool) -> Result<(), relevo_repo::RepoError> {
    let mut publication = repository.publication()?;
    let mut signers = relevo_repo::Signers::new();
    signers.add("root", key("root"));
    signers.add("log", key("log"));
    for role in ["snapshot", "timestamp"] {
        publication.set_role(role, None, &keys("fresh"))?;
        signers.add(role, key("fresh"));
        if with_old {
            signers.add(role, key(role));
        }
    }
    publication.commit(&signers, fixture.now).map(drop)
}

fn fresh_signers() -> relevo_repo::Signers {
    let mut signers = relevo_repo::Signers::new();
    signers.add("log", key("log"));
    for role in ["snapshot", "timestamp"] {
        signers.add(role, key("fresh"));
        signers.add(role, key(role));
    }
    signers
}

#[test]
fn new_online_keys_are_there_or_not_and_no_phone_notices() {
    let start = Fixture::logged_with_device();
    start.publish("100").unwrap();
    let old_phone = phone(&start, None).unwrap();

    let cuts = cut_everywhere(
        &start,
        |fixture, switch| drop(rotate(fixture, &fixture.open().with_hook(switch), true)),
        |fixture, lose, context| {
            let early_phone = phone(fixture, Some(old_phone.clone())).unwrap_or_else(|e| panic!("{context}: {e:?}"));
            lose();
            for stored in [Some(old_phone.clone()), None] {
                phone(fixture, stored).unwrap_or_else(|error| panic!("{context}: {error:?}"));
            }

            fixture.open().refresh(&fresh_signers(), fixture.now).unwrap();

            is_clean(fixture, context);
            rotate(fixture, &fixture.open(), true).unwrap();
            // Whether or not it was there before: one more publication takes away what a cut one tried.
            let repository = fixture.open();
            let mut publication = repository.publication().unwrap();
            publication.renew("snapshot").unwrap();
            publication.commit(&fresh_signers(), fixture.now).unwrap();
            has_no_leftovers(fixture, context);
            assert_eq!(fixture.open().trusted(fixture.now).unwrap().root_version(), 2, "{context}");
            for stored in [Some(early_phone), Some(old_phone.clone()), None] {
                phone(fixture, stored).unwrap_or_else(|error| panic!("{context}: {error:?}"));
            }
        },
    );

    assert!(cuts > 20, "{cuts} changes");
}

#[test]
fn keys_that_replace_lost_ones_are_there_or_not() {
    let start = Fixture::logged_with_device();
    start.publish("100").unwrap();
    let old_phone = phone(&start, None).unwrap();

    cut_everywhere(
        &start,
        |fixture, switch| drop(rotate(fixture, &fixture.open().with_hook(switch), false)),
        |fixture, lose, context| {
            // Between two renames a phone may be refused; it must not learn anything that does not come true.
            let early_phone = phone(fixture, Some(old_phone.clone())).unwrap_or_else(|_| old_phone.clone());
            lose();

            let repository = fixture.open();
            let half = repository.publication().map(drop);
            assert!(half.is_ok(), "{context}: {half:?}");
            if repository.trusted(fixture.now).unwrap().root_version() == 1 {
                rotate(fixture, &repository, false).unwrap();
            }
            repository.refresh(&fresh_signers(), fixture.now).unwrap();

            has_no_leftovers(fixture, context);
            is_clean(fixture, context);
            for stored in [Some(early_phone), Some(old_phone.clone()), None] {
                phone(fixture, stored).unwrap_or_else(|error| panic!("{context}: {error:?}"));
            }
        },
    );
}
