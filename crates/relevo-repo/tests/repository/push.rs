//! Taking in what maintainers push: what is believed, what is kept, what a cut leaves.

use std::{fs, path::PathBuf, sync::Arc};

use relevo_meta::{Target, author::DeviceFile, chunks::ChunkList, testing::key};
use relevo_repo::{
    Hook, Operation, RepoError, Signers,
    push::{
        Account, AccountError, AccountName, CutList, Intake, IntakeError, Limits, Manifest, ManifestRole,
        ManifestTarget, PROTOCOL, State, Status,
    },
};
use relevo_types::{ByteLen, Sha256, TargetPath};
use serde_json::json;

use crate::support::{Fixture, builds, custom, ginkgo, path};

fn online() -> Signers {
    let mut signers = Signers::new();
    for role in ["snapshot", "timestamp"] {
        signers.add(role, key(role));
    }
    signers
}

fn account() -> Account {
    Account {
        name: AccountName::parse("ana").unwrap(),
        keys: vec![key("ana").public().clone()],
        devices: vec![ginkgo()],
        quota: ByteLen::mib(64),
    }
}

/// Bytes that no two places share.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..len.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(len).collect()
}

/// A maintainer's side of one publication.
struct Push {
    manifest: Vec<u8>,
    /// The files, in the manifest's order, and how they are cut.
    files: Vec<(Vec<u8>, Option<CutList>)>,
}

struct Origin {
    fixture: Fixture,
    directory: tempfile::TempDir,
}

impl Origin {
    fn new() -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        Self { fixture: Fixture::with_device(), directory }
    }

    fn intake(&self) -> Intake {
        Intake::open(self.directory.path(), self.fixture.open(), Limits::default()).unwrap()
    }

    /// The role's newest published file.
    fn role(&self) -> DeviceFile {
        let version = self.fixture.open().current().unwrap().roles()["d-ginkgo"].version;
        let file = self.fixture.root.join(format!("metadata/{version}.d-ginkgo.json"));
        DeviceFile::edit(&fs::read(file).unwrap()).unwrap()
    }

    /// What a maintainer would send who adds a build, signed by the key of this role.
    fn push(&self, build: &str, content: &[u8], signer: &str) -> Push {
        self.push_with(build, content, signer, |_| {})
    }

    fn push_with(&self, build: &str, content: &[u8], signer: &str, change: impl FnOnce(&mut DeviceFile)) -> Push {
        let mut role = self.role();
        let list = ChunkList::for_reader(content, ByteLen::new(content.len() as u64)).unwrap().encode();
        let (package, beside) = (path(build), TargetPath::parse(&format!("{}.chunks", path(build))).unwrap());
        let custom = relevo_meta::Custom { chunks: Some(beside.file().to_owned()), ..custom(build) };
        role.put_target(&package, Target::of(content), &custom.to_value()).unwrap();
        role.put_target(&beside, Target::of(&list), &json!({"kind": "chunks"})).unwrap();
        role.bump().unwrap();
        role.set_expires("2026-06-01T00:00:00Z".parse().unwrap());
        change(&mut role);
        let file = role.sign(&[&key(signer)]).unwrap();
        let mut targets = Vec::new();
        let mut files = Vec::new();
        for (path, bytes) in [(package, content.to_vec()), (beside, list)] {
            let Target { length, sha256 } = Target::of(&bytes);
            let cut = (length > ByteLen::kib(64)).then(|| CutList::of(&bytes, &mut |_| {}).unwrap());
            let sent = cut.as_ref().map(|cut| Target::of(&cut.encode()).sha256);
            targets.push(ManifestTarget { path, length, sha256, cut: sent });
            files.push((bytes, cut));
        }
        let role = ManifestRole { codename: ginkgo(), nightly: false, file: String::from_utf8(file).unwrap() };
        let manifest = Manifest { protocol: PROTOCOL, roles: vec![role], targets };
        Push { manifest: serde_json::to_vec(&manifest).unwrap(), files }
    }

    fn begin(&self, intake: &Intake, push: &Push) -> Result<Status, IntakeError> {
        intake.begin(&account(), &push.manifest, &online(), self.fixture.now)
    }

    /// Sends all that is missing; gives the bytes of the chunks.
    fn send(&self, intake: &Intake, push: &Push) -> u64 {
        let (name, now) = (account().name, self.fixture.now);
        let mut status = self.begin(intake, push).unwrap();
        for (target, (_, cut)) in status.targets.iter().zip(&push.files).filter(|(target, _)| target.cut_have.is_some())
        {
            assert!(target.missing.is_empty());
            let bytes = cut.as_ref().unwrap().encode();
            // In two pieces, as over a line that broke.
            let (one, two) = bytes.split_at(bytes.len() / 2);
            let sha256 = Target::of(&bytes).sha256;
            let have = target.cut_have.unwrap();
            if have == 0 {
                intake.put_cut(&name, status.session, sha256, (0, one), now).unwrap();
            }
            intake.put_cut(&name, status.session, sha256, (one.len() as u64, two), now).unwrap();
        }
        status = self.begin(intake, push).unwrap();
        let mut sent = 0;
        for (number, (target, (bytes, _))) in status.targets.iter().zip(&push.files).enumerate() {
            for (first, count) in &target.missing {
                let (first, count) = (*first as usize, *count as usize);
                for index in first..first + count {
                    let run = intake.run(&name, status.session, number, (index, index), now).unwrap();
                    let before: u64 = (0..index)
                        .map(|index| {
                            let run = intake.run(&name, status.session, number, (index, index), now).unwrap();
                            run.length().get()
                        })
                        .sum();
                    let chunk = &bytes[usize::try_from(before).unwrap()..][..run.length().to_usize().unwrap()];
                    run.put(0, chunk).unwrap();
                    sent += chunk.len() as u64;
                }
            }
        }
        sent
    }

    fn commit(&self, intake: &Intake, push: &Push) -> Result<relevo_repo::push::Receipt, IntakeError> {
        let id = Target::of(&push.manifest).sha256;
        intake.commit(&account(), "the key", id, &online(), self.fixture.now)
    }

    fn builds(&self) -> Vec<String> {
        builds(&self.fixture.open(), self.fixture.now)
    }

    fn staged(&self) -> Vec<PathBuf> {
        let staging = self.directory.path().join("staging/ana");
        let entries = fs::read_dir(staging).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

#[test]
fn a_push_is_published_and_logged_and_leaves_nothing_behind() {
    let origin = Origin::new();
    let intake = origin.intake();
    let content = noise(1, 900_000);
    let push = origin.push("101", &content, "d-ginkgo");

    let sent = origin.send(&intake, &push);
    let receipt = origin.commit(&intake, &push).unwrap();

    assert!(receipt.changed && sent >= content.len() as u64);
    assert_eq!(origin.builds(), ["101"]);
    assert!(origin.fixture.open().check(origin.fixture.now).unwrap().is_clean());
    assert!(origin.staged().is_empty());
    let [line] = &intake.audit().unwrap()[..] else { panic!("one line") };
    assert_eq!((line.account.as_str(), line.key.as_str()), ("ana", "the key"));
    assert_eq!(line.roles[0].targets.len(), 2);
}

#[test]
fn the_next_build_sends_what_the_last_one_has_not() {
    let origin = Origin::new();
    let intake = origin.intake();
    let first = noise(1, 4_000_000);
    let push = origin.push("101", &first, "d-ginkgo");
    origin.send(&intake, &push);
    origin.commit(&intake, &push).unwrap();
    // A run of bytes in the middle changes, and all behind it moves.
    let mut second = first.clone();
    second.splice(1_000_000..1_000_100, noise(2, 5_000));
    let push = origin.push("102", &second, "d-ginkgo");

    let sent = origin.send(&intake, &push);
    origin.commit(&intake, &push).unwrap();

    assert!(sent < 700_000, "{sent} bytes");
    assert_eq!(origin.builds(), ["101", "102"]);
    assert!(origin.fixture.open().check(origin.fixture.now).unwrap().is_clean());
}

#[test]
fn a_push_goes_on_after_the_server_was_lost() {
    let origin = Origin::new();
    let content = noise(3, 2_000_000);
    let push = origin.push("101", &content, "d-ginkgo");
    {
        let intake = origin.intake();
        let name = account().name;
        let status = origin.begin(&intake, &push).unwrap();
        let cut = push.files[0].1.as_ref().unwrap();
        let bytes = cut.encode();
        intake.put_cut(&name, status.session, Target::of(&bytes).sha256, (0, &bytes), origin.fixture.now).unwrap();
        let status = origin.begin(&intake, &push).unwrap();
        // Every other chunk, and then the process is gone.
        for (index, chunk) in cut.chunks().iter().enumerate().step_by(2) {
            let run = intake.run(&name, status.session, 0, (index, index), origin.fixture.now).unwrap();
            run.put(0, &content[usize::try_from(chunk.offset).unwrap()..][..chunk.length as usize]).unwrap();
        }
    }

    let intake = origin.intake();
    let id = Target::of(&push.manifest).sha256;
    assert!(matches!(
        intake.commit(&account(), "", id, &online(), origin.fixture.now),
        Err(IntakeError::NoSession(session)) if session == id
    ));
    let sent = origin.send(&intake, &push);
    origin.commit(&intake, &push).unwrap();

    assert!(sent < 1_300_000, "{sent} bytes");
    assert_eq!(origin.builds(), ["101"]);
    // Whoever did not hear the answer asks again.
    assert_eq!(origin.begin(&intake, &push).unwrap().state, State::Published);
}

#[test]
fn bytes_that_the_disk_lost_are_asked_for_again() {
    let origin = Origin::new();
    let content = noise(3, 900_000);
    let push = origin.push("101", &content, "d-ginkgo");
    origin.send(&origin.intake(), &push);
    let part = origin.staged().into_iter().find(|path| path.extension().is_some_and(|end| end == "part")).unwrap();
    let mut bytes = fs::read(&part).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&part, bytes).unwrap();

    let intake = origin.intake();
    let sent = origin.send(&intake, &push);
    origin.commit(&intake, &push).unwrap();

    assert!((1..900_000).contains(&sent), "{sent}");
    assert!(origin.fixture.open().check(origin.fixture.now).unwrap().is_clean());
}

#[test]
fn nobody_publishes_what_is_not_theirs() {
    let origin = Origin::new();
    let intake = origin.intake();
    let content = noise(1, 1000);

    // Signed by a key that is not the device's.
    let push = origin.push("101", &content, "d-willow");
    assert!(matches!(origin.begin(&intake, &push), Err(IntakeError::Repository(RepoError::WouldBeRefused(_)))));
    // A device that is not the account's, although the role is signed well.
    let push = origin.push("101", &content, "d-ginkgo");
    let other = Account { devices: Vec::new(), ..account() };
    assert!(matches!(
        intake.begin(&other, &push.manifest, &online(), origin.fixture.now),
        Err(IntakeError::NotYours { .. })
    ));
    // A path of another device in the device's own role.
    let outside = TargetPath::parse("xiaomi/willow/stable/x.rvp").unwrap();
    let push = origin.push_with("101", &content, "d-ginkgo", |role| {
        role.put_target(&outside, Target::of(b"x"), &json!({"kind": "chunks"})).unwrap();
    });
    assert!(matches!(origin.begin(&intake, &push), Err(IntakeError::Contents(_))));
    // A role that is no file at all, and one that has expired.
    let expired = origin.push_with("101", &content, "d-ginkgo", |role| {
        role.set_expires("2025-12-31T00:00:00Z".parse().unwrap());
    });
    assert!(matches!(origin.begin(&intake, &expired), Err(IntakeError::Repository(RepoError::WouldBeRefused(_)))));
    // Another account's publication.
    let push = origin.push("101", &content, "d-ginkgo");
    let session = origin.begin(&intake, &push).unwrap().session;
    let bob = AccountName::parse("bob").unwrap();
    assert!(matches!(intake.run(&bob, session, 0, (0, 0), origin.fixture.now), Err(IntakeError::NoSession(_))));
    assert_eq!(origin.builds(), [""; 0]);
    assert!(intake.audit().unwrap().is_empty());
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    let origin = Origin::new();
    let intake = origin.intake();
    let content = noise(1, 1000);
    let push = origin.push("101", &content, "d-ginkgo");
    let good: Manifest = serde_json::from_slice(&push.manifest).unwrap();
    let begin = |manifest: &Manifest| {
        let bytes = serde_json::to_vec(manifest).unwrap();
        intake.begin(&account(), &bytes, &online(), origin.fixture.now)
    };

    for change in [
        |manifest: &mut Manifest| manifest.roles.clear(),
        |manifest: &mut Manifest| manifest.roles.push(manifest.roles[0].clone()),
        |manifest: &mut Manifest| manifest.targets.push(manifest.targets[0].clone()),
        |manifest: &mut Manifest| manifest.targets[0].length = ByteLen::new(1 << 40),
        |manifest: &mut Manifest| manifest.targets[0].sha256 = Sha256::new([0; 32]),
        |manifest: &mut Manifest| drop(manifest.targets.remove(0)),
        |manifest: &mut Manifest| manifest.targets[0].path = "xiaomi/ginkgo/beta/x.rvp".parse().unwrap(),
    ] {
        let mut manifest = good.clone();
        change(&mut manifest);
        assert!(matches!(begin(&manifest), Err(IntakeError::Contents(_))), "{manifest:?}");
    }
    let other = Manifest { protocol: 2, ..good };
    assert!(matches!(begin(&other), Err(IntakeError::Protocol { found: 2, known: 1 })));
    for bytes in [&b""[..], b"{}", b"[]", br#"{"protocol":1,"roles":[],"targets":[],"more":1}"#] {
        let began = intake.begin(&account(), bytes, &online(), origin.fixture.now);
        assert!(matches!(began, Err(IntakeError::Manifest(_))));
    }
}

#[test]
fn wrong_bytes_are_refused_wherever_they_come() {
    let origin = Origin::new();
    let intake = origin.intake();
    let content = noise(1, 900_000);
    let push = origin.push("101", &content, "d-ginkgo");
    let (name, now) = (account().name, origin.fixture.now);
    let session = origin.begin(&intake, &push).unwrap().session;
    let list = push.files[0].1.as_ref().unwrap().encode();
    let sha256 = Target::of(&list).sha256;

    let cut_short = &list[..list.len() - 1];
    let mut other = list.clone();
    other[40] ^= 1;
    assert!(matches!(intake.put_cut(&name, session, sha256, (0, &other), now), Err(IntakeError::Digest { .. })));
    assert!(matches!(intake.put_cut(&name, session, sha256, (0, b"no list"), now), Ok(())));
    assert!(matches!(
        intake.put_cut(&name, session, sha256, (0, &list), now),
        Err(IntakeError::Gap { at: 0, have: 7 })
    ));
    assert!(matches!(intake.put_cut(&name, session, sha256, (7, b" at all"), now), Err(IntakeError::Cut { .. })));
    let unknown = intake.put_cut(&name, session, Target::of(cut_short).sha256, (0, cut_short), now);
    assert!(matches!(unknown, Err(IntakeError::NoSuchPart { .. })));
    intake.put_cut(&name, session, sha256, (0, &list), now).unwrap();
    origin.begin(&intake, &push).unwrap();
    let run = intake.run(&name, session, 0, (0, 0), now).unwrap();
    assert!(matches!(run.put(0, b"other bytes"), Err(IntakeError::Digest { .. })));
    for (target, chunks) in [(0, (0, 1 << 20)), (0, (5, 4)), (0, (usize::MAX, usize::MAX)), (7, (0, 0))] {
        let run = intake.run(&name, session, target, chunks, now);
        assert!(matches!(run, Err(IntakeError::NoSuchPart { .. })), "{target} {chunks:?}");
    }
    assert!(matches!(origin.commit(&intake, &push), Err(IntakeError::Incomplete { .. })));
    assert_eq!(origin.builds(), [""; 0]);
}

#[test]
fn a_list_of_chunks_of_another_file_ends_in_an_error_and_no_file() {
    let origin = Origin::new();
    let intake = origin.intake();
    let (content, other) = (noise(1, 900_000), noise(2, 900_000));
    let mut push = origin.push("101", &content, "d-ginkgo");
    // The list is in order and of the right length, and each chunk that comes is the one that it names.
    let cut = CutList::of(&other, &mut |_| {}).unwrap();
    let mut manifest: Manifest = serde_json::from_slice(&push.manifest).unwrap();
    manifest.targets[0].cut = Some(Target::of(&cut.encode()).sha256);
    push.manifest = serde_json::to_vec(&manifest).unwrap();
    push.files[0] = (other, Some(cut));

    origin.send(&intake, &push);
    let error = origin.commit(&intake, &push);

    assert!(matches!(error, Err(IntakeError::Digest { .. })), "{error:?}");
    assert_eq!(origin.builds(), [""; 0]);
    assert!(origin.fixture.open().check(origin.fixture.now).unwrap().is_clean());
}

#[test]
fn a_package_whose_chunk_list_is_of_another_one_is_not_published() {
    let origin = Origin::new();
    let intake = origin.intake();
    let content = noise(1, 1000);
    let list = ChunkList::for_reader(&b"something else"[..], ByteLen::new(14)).unwrap().encode();
    let beside: TargetPath = format!("{}.chunks", path("101")).parse().unwrap();
    let mut push = origin.push_with("101", &content, "d-ginkgo", |role| {
        role.put_target(&beside, Target::of(&list), &json!({"kind": "chunks"})).unwrap();
    });
    let mut manifest: Manifest = serde_json::from_slice(&push.manifest).unwrap();
    let Target { length, sha256 } = Target::of(&list);
    manifest.targets[1] = ManifestTarget { path: beside, length, sha256, cut: None };
    push.manifest = serde_json::to_vec(&manifest).unwrap();
    push.files[1] = (list, None);

    origin.send(&intake, &push);

    assert!(matches!(origin.commit(&intake, &push), Err(IntakeError::ChunkList { .. })));
}

#[test]
fn of_two_that_start_from_the_same_role_the_second_is_told_which_version_comes_next() {
    let origin = Origin::new();
    let intake = origin.intake();
    let (first, second) = (origin.push("101", b"one", "d-ginkgo"), origin.push("102", b"two", "d-ginkgo"));
    origin.send(&intake, &first);
    origin.commit(&intake, &first).unwrap();

    let error = origin.begin(&intake, &second);

    let Err(IntakeError::Repository(RepoError::RoleVersion { found, next, .. })) = error else { panic!("{error:?}") };
    assert_eq!(next, found + 1);
    // A published file does not become another one either.
    let changed = origin.push("101", b"another one", "d-ginkgo");
    let error = origin.begin(&intake, &changed);
    assert!(matches!(error, Err(IntakeError::Repository(RepoError::OtherContent { .. }))), "{error:?}");
}

#[test]
fn quota_and_number_of_publications_are_limits() {
    let origin = Origin::new();
    let intake =
        Intake::open(origin.directory.path(), origin.fixture.open(), Limits { sessions: 1, ..Limits::default() })
            .unwrap();
    let push = origin.push("101", &noise(1, 10_000), "d-ginkgo");
    let poor = Account { quota: ByteLen::new(9_999), ..account() };

    let refused = intake.begin(&poor, &push.manifest, &online(), origin.fixture.now);

    assert!(matches!(refused, Err(IntakeError::Quota { .. })));
    assert!(origin.staged().is_empty());
    // The same devices anew take the place of the old publication, so a maintainer is never locked out.
    origin.begin(&intake, &push).unwrap();
    origin.begin(&intake, &origin.push("102", &noise(2, 10_000), "d-ginkgo")).unwrap();
    assert!(matches!(origin.commit(&intake, &push), Err(IntakeError::NoSession(_))));
}

#[test]
fn what_nobody_goes_on_with_is_removed_after_its_time() {
    let origin = Origin::new();
    let intake = origin.intake();
    let push = origin.push("101", &noise(1, 900_000), "d-ginkgo");
    origin.send(&intake, &push);
    let modified = fs::metadata(&origin.staged()[0]).unwrap().modified().unwrap();
    let written = jiff::Timestamp::try_from(modified).unwrap();
    let later = |days: i64| written + jiff::SignedDuration::from_hours(24 * days);

    intake.sweep(later(13)).unwrap();
    assert!(!origin.staged().is_empty());
    intake.sweep(later(15)).unwrap();
    assert!(origin.staged().is_empty());
    assert!(matches!(origin.commit(&intake, &push), Err(IntakeError::NoSession(_))));
}

/// Cuts the power before the operation of this number.
struct Power {
    left: std::sync::atomic::AtomicI64,
}

impl Hook for Power {
    fn before(&self, _: Operation<'_>) -> std::io::Result<()> {
        match self.left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) {
            left if left > 0 => Ok(()),
            _ => Err(std::io::ErrorKind::StorageFull.into()),
        }
    }
}

#[test]
fn a_cut_at_each_write_of_a_commit_leaves_one_of_the_two_states_and_a_true_log() {
    let mut published = 0;
    for moment in 0.. {
        let origin = Origin::new();
        let push = origin.push("101", &noise(1, 300_000), "d-ginkgo");
        origin.send(&origin.intake(), &push);
        let cut = {
            let power = Arc::new(Power { left: moment.into() });
            let repository = origin.fixture.open().with_hook(power);
            let intake = Intake::open(origin.directory.path(), repository, Limits::default()).unwrap();
            origin.begin(&intake, &push).unwrap();
            origin.commit(&intake, &push).is_err()
        };
        // Whatever was cut, phones see one of the two states, and it is whole.
        let seen = origin.builds();
        assert!(seen.is_empty() || seen == ["101"], "{moment}");
        published += usize::from(cut && !seen.is_empty());

        // The next start knows whether it happened.
        let intake = origin.intake();
        intake.recover().unwrap();
        assert_eq!(intake.audit().unwrap().len(), seen.len(), "{moment}");
        assert!(origin.fixture.open().check(origin.fixture.now).unwrap().is_clean(), "{moment}");

        // And the maintainer ends it, with the version that is free by now.
        match origin.begin(&intake, &push) {
            Ok(status) if status.state == State::Published => {}
            Ok(_) => {
                origin.send(&intake, &push);
                origin.commit(&intake, &push).unwrap();
            }
            Err(IntakeError::Repository(RepoError::RoleVersion { next, .. })) => {
                let push = origin.push_with("101", &noise(1, 300_000), "d-ginkgo", |role| role.set_version(next));
                assert_eq!(origin.send(&intake, &push), 0, "{moment}: what came is kept");
                origin.commit(&intake, &push).unwrap();
            }
            Err(error) => panic!("{moment}: {error:?}"),
        }
        assert_eq!(origin.builds(), ["101"], "{moment}");
        assert_eq!(intake.audit().unwrap().len(), 1, "{moment}");
        if !cut {
            assert!(moment > 10 && published > 0, "{moment} operations, {published} cuts after the commit");
            return;
        }
    }
}

#[test]
fn accounts_are_plain_files_that_say_all() {
    let origin = Origin::new();
    let intake = origin.intake();
    let accounts = intake.accounts();
    let ana = account();

    accounts.add(&ana).unwrap();

    assert_eq!(accounts.list().unwrap(), std::slice::from_ref(&ana));
    assert!(matches!(accounts.add(&ana), Err(AccountError::Exists(_))));
    let twin = Account { name: AccountName::parse("bob").unwrap(), ..ana.clone() };
    assert!(matches!(accounts.add(&twin), Err(AccountError::KeyTaken { .. })));
    accounts.remove(&ana.name).unwrap();
    assert!(matches!(accounts.remove(&ana.name), Err(AccountError::Absent(_))));
    assert_eq!(accounts.list().unwrap(), []);
    for name in ["", "-a", "A", "a/b", "..", "a.b", &"a".repeat(49)] {
        assert!(AccountName::parse(name).is_err(), "{name}");
    }
    let damaged = accounts.directory().join("eve.toml");
    fs::write(&damaged, "devices = [\"ginkgo\"]\nquota_bytes = 1\nkeys = [\"no key\"]\n").unwrap();
    assert!(matches!(accounts.list(), Err(AccountError::Damaged { path, .. }) if path == damaged));
}
