//! A small repository on disk for the tests, with keys that are the same each time.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use relevo_meta::{
    Answer, Custom, Limits, Refresh, Scope, Size, Step, Stored, TrustError,
    author::TopRole,
    log::{Entry, LogKey, Proof, Tile, Tiles, leaf_hash, unbundle, verify_inclusion},
    testing::key,
};
use relevo_repo::{NewRepository, Published, Repository, RoleKeys, Seen, Signers, Watch, WatchError};
use relevo_types::{BuildId, ByteLen, Codename, PackageKind, TargetPath, Vendor};

pub(crate) struct Fixture {
    /// Removed when the test ends.
    _directory: tempfile::TempDir,
    pub(crate) root: PathBuf,
    pub(crate) inbox: PathBuf,
    pub(crate) now: Timestamp,
}

impl Fixture {
    pub(crate) fn empty() -> Self {
        // Hundreds of publications with a dozen fsyncs each: in memory where there is such a place, since the cuts are
        // played by the hook and not by the disk.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let root = directory.path().join("repo");
        let inbox = directory.path().join("inbox");
        std::fs::create_dir(&inbox).unwrap();
        Self { _directory: directory, root, inbox, now: "2026-01-01T00:00:00Z".parse().unwrap() }
    }

    pub(crate) fn new() -> Self {
        Self::created(&new_repository())
    }

    /// With a transparency log.
    pub(crate) fn logged() -> Self {
        Self::created(&logged_repository())
    }

    fn created(new: &NewRepository) -> Self {
        let fixture = Self::empty();
        Repository::create(&fixture.root, new, &signers(), fixture.now).unwrap();
        fixture
    }

    pub(crate) fn with_device() -> Self {
        Self::new().and_device()
    }

    /// With a transparency log.
    pub(crate) fn logged_with_device() -> Self {
        Self::logged().and_device()
    }

    fn and_device(self) -> Self {
        let fixture = self;
        let repository = fixture.open();
        let mut publication = repository.publication().unwrap();
        publication.add_vendor(&vendor(), &keys("v-xiaomi")).unwrap();
        publication.add_device(&vendor(), &ginkgo(), &keys("d-ginkgo")).unwrap();
        publication.commit(&signers(), fixture.now).unwrap();
        fixture
    }

    /// The same repository once more, in a directory of its own.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self { now: self.now, ..Self::empty() };
        for (path, bytes) in self.files() {
            let path = copy.root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        copy
    }

    pub(crate) fn open(&self) -> Repository {
        Repository::open(&self.root).unwrap()
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.inbox.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Publishes a full package of a build.
    pub(crate) fn publish(&self, build: &str) -> Result<Published, relevo_repo::RepoError> {
        self.publish_on(&self.open(), build)
    }

    pub(crate) fn publish_on(&self, repository: &Repository, build: &str) -> Result<Published, relevo_repo::RepoError> {
        let file = self.file(&format!("{build}.rvp"), content(build).as_slice());
        let mut publication = repository.publication()?;
        publication.add_package(&path(build), &file, &custom(build))?;
        publication.commit(&signers(), self.now)
    }

    /// All files of the repository with their content.
    pub(crate) fn files(&self) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
        let mut files = std::collections::BTreeMap::new();
        let mut open = vec![self.root.clone()];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    let relative = path.strip_prefix(&self.root).unwrap().to_owned();
                    files.insert(relative, std::fs::read(path).unwrap());
                }
            }
        }
        files
    }
}

pub(crate) fn new_repository() -> NewRepository {
    NewRepository::new(TopRole::ALL.map(|role| (role, keys(role.name()))))
}

/// One with a transparency log.
pub(crate) fn logged_repository() -> NewRepository {
    NewRepository { log: Some(log_key("log")), ..new_repository() }
}

/// The log's name with the key of this name.
pub(crate) fn log_key(name: &str) -> LogKey {
    LogKey::new("relevo.example/log", *key(name).public().verifying_key()).unwrap()
}

/// Holds what the repository's log shows against what a watch saw before; nothing that is shown may be without its tiles.
pub(crate) fn watch(fixture: &Fixture, watch: &Watch) -> Result<Option<Seen>, WatchError<std::io::Error>> {
    let read = |name: &str| match std::fs::read(fixture.root.join("log").join(name)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    };
    let Some(note) = read("checkpoint").unwrap() else { return Ok(None) };
    let (seen, checkpoint) = watch.see(&log_key("log"), &note, |name, _| read(name))?;
    let log = fixture.open();
    for index in 0..checkpoint.size {
        let tile = Tile::of_entry(index, checkpoint.size);
        let mut tiles = Tiles::new(checkpoint.size);
        for tile in tiles.for_inclusion(index) {
            tiles.insert(&tile, &log.log().tile(&tile).unwrap().unwrap()).unwrap();
        }
        let bundle = log.log().entries(&tile).unwrap().unwrap();
        let entry = unbundle(&bundle, tile.width()).unwrap()[usize::try_from(index % 256).unwrap()].to_vec();
        let (leaf, hashes) = (leaf_hash(&entry), tiles.inclusion(index).unwrap());
        assert!(verify_inclusion(leaf, index, checkpoint.size, &hashes, &checkpoint.root), "entry {index}");
    }
    Ok(Some(seen))
}

pub(crate) fn keys(role: &str) -> RoleKeys {
    RoleKeys::one(key(role).public())
}

pub(crate) fn signers() -> Signers {
    let mut signers = Signers::new();
    for role in ["root", "targets", "snapshot", "timestamp", "v-xiaomi", "d-ginkgo", "d-willow", "log"] {
        signers.add(role, key(role));
    }
    signers
}

pub(crate) fn vendor() -> Vendor {
    Vendor::parse("xiaomi").unwrap()
}

pub(crate) fn ginkgo() -> Codename {
    Codename::parse("ginkgo").unwrap()
}

pub(crate) fn path(build: &str) -> TargetPath {
    TargetPath::parse(&format!("xiaomi/ginkgo/stable/ginkgo-{build}-full.rvp")).unwrap()
}

pub(crate) fn content(build: &str) -> Vec<u8> {
    format!("the package of build {build}").repeat(40).into_bytes()
}

pub(crate) fn custom(build: &str) -> Custom {
    Custom {
        kind: PackageKind::Native,
        from: None,
        to: BuildId::parse(build).unwrap(),
        version: format!("build {build}"),
        timestamp: Timestamp::from_second(1_700_000_000 + build.parse::<i64>().unwrap()).unwrap(),
        sdk: Some(35),
        spl: Some("2025-05-05".parse().unwrap()),
        size: Size { install: ByteLen::new(4096) },
        rollout: 100,
        floor: None,
        withdrawn: false,
        chunks: None,
        ab: None,
    }
}

/// The builds that a verified state offers.
pub(crate) fn builds(repository: &Repository, now: Timestamp) -> Vec<String> {
    let state = repository.trusted(now).unwrap();
    let device = state.device(&ginkgo());
    device.into_iter().flat_map(|device| &device.packages).map(|package| package.custom.to.to_string()).collect()
}

/// A file of the repository, by the end of its name.
pub(crate) fn find(fixture: &Fixture, end: &str) -> PathBuf {
    let files = fixture.files();
    let path = files.keys().find(|path| path.to_string_lossy().ends_with(end)).unwrap();
    fixture.root.join(path)
}

pub(crate) fn flip(path: &Path, position: usize, mask: u8) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[position] ^= mask;
    std::fs::write(path, bytes).unwrap();
}

/// Refreshes as ginkgo: a new phone, or one with what it stored.
pub(crate) fn phone(fixture: &Fixture, stored: Option<Stored>) -> Result<Stored, TrustError> {
    let read = |name: &str| std::fs::read(fixture.root.join("metadata").join(name)).ok();
    let mut stored = stored.unwrap_or_else(|| Stored::with_root(read("1.root.json").unwrap_or_default()));
    let scope = Scope::Device { vendor: vendor(), codename: ginkgo() };
    let mut refresh = Refresh::start(stored.clone(), scope, fixture.now, Limits::default())?;
    loop {
        match refresh.next() {
            Step::Get(request) => refresh.supply(read(&request.name).map_or(Answer::Absent, Answer::Found))?,
            Step::Keep { name, bytes } => drop(stored.0.insert(name, bytes)),
            Step::Done => {
                let state = refresh.finish()?;
                let (Some(key), Some(device)) = (state.log_key(), state.device(&ginkgo())) else { return Ok(stored) };
                // No phone sees a role that is not in the log.
                for role in &device.roles {
                    let version = state.roles()[role].version;
                    let proof = std::fs::read(fixture.root.join(format!("log/proof/{version}.{role}.tlog-proof")));
                    let entry = Entry::new(role, version, &stored.0[&format!("{role}.json")]).unwrap();
                    Proof::parse(&proof.unwrap()).unwrap().verify(&entry, key).unwrap();
                }
                return Ok(stored);
            }
        }
    }
}
