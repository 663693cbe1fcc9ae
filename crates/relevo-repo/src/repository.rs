//! A repository on disk: make it, open it, verify it, keep it fresh.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use relevo_meta::{
    Answer, Limits, Refresh, Request, Scope, Step, Stored, Target, Trusted,
    author::{RegistryFile, RoleKeys, RootFile, SnapshotFile, TimestampFile, TopRole},
    ceremony::Ground,
    log::LogKey,
};

use crate::{
    error::RepoError,
    layout::{self, MetadataName},
    log::Coming,
    publication::{Publication, Published},
    signers::Signers,
    storage::{Hook, Storage},
};

/// What phones are allowed with an offline carrier that their owner chose by hand, in days past the timestamp's date. With
/// the timestamp's own 7 days that is a disk that travels for seven weeks; the snapshot's 60 days end it anyway.
const OFFLINE_GRACE_DAYS: u32 = 45;

/// A repository on disk.
///
/// # Examples
/// ```
/// # use relevo_meta::{author::TopRole, testing::key};
/// use relevo_repo::{NewRepository, Repository, RoleKeys, Signers};
///
/// # let directory = tempfile::tempdir()?;
/// # let now: jiff::Timestamp = "2026-01-01T00:00:00Z".parse()?;
/// let mut signers = Signers::new();
/// let mut keys = Vec::new();
/// for role in TopRole::ALL {
///     let key = key(role.name()); // a real one comes out of an encrypted file
///     keys.push((role, RoleKeys::one(key.public())));
///     signers.add(role.name(), key);
/// }
/// let repository = Repository::create(directory.path(), &NewRepository::new(keys), &signers, now)?;
/// assert_eq!(repository.trusted(now)?.root_version(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Repository {
    directory: PathBuf,
    expiries: Expiries,
    pub(crate) storage: Storage,
}

/// How long each kind of metadata is valid, in days from its signing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expiries {
    /// `root`
    pub root: u32,
    /// `targets`
    pub targets: u32,
    /// `v-<vendor>`
    pub vendor: u32,
    /// `d-<codename>`
    pub device: u32,
    /// `d-<codename>-nightly`
    pub nightly: u32,
    /// `snapshot`
    pub snapshot: u32,
    /// `timestamp`
    pub timestamp: u32,
}

/// A repository to be made.
#[derive(Debug, Clone)]
pub struct NewRepository {
    /// The keys of the four top-level roles.
    pub keys: BTreeMap<TopRole, RoleKeys>,
    /// How long metadata is valid.
    pub expiries: Expiries,
    /// Name and key of the transparency log, if there is to be one; [`Signers`] hold its key as `log`.
    pub log: Option<LogKey>,
}

/// Files that become visible together, by name: `.rotating`.
#[derive(serde::Serialize, serde::Deserialize)]
struct Rotation(BTreeMap<String, String>);

/// A verified state, and what a phone that followed it has stored.
pub(crate) struct Base {
    pub(crate) trusted: Trusted,
    pub(crate) stored: Stored,
}

impl Default for Expiries {
    fn default() -> Self {
        Self { root: 365, targets: 365, vendor: 365, device: 180, nightly: 45, snapshot: 60, timestamp: 7 }
    }
}

impl NewRepository {
    /// A repository with these keys and the default expiries, without a transparency log.
    pub fn new(keys: impl IntoIterator<Item = (TopRole, RoleKeys)>) -> Self {
        Self { keys: keys.into_iter().collect(), expiries: Expiries::default(), log: None }
    }
}

impl Repository {
    /// Makes a repository without devices in an empty or absent directory.
    ///
    /// A creation that was cut before its end can simply be repeated.
    ///
    /// # Errors
    /// [`RepoError::AlreadyThere`] if the directory holds anything else, [`RepoError::NoSigner`],
    /// [`RepoError::WouldBeRefused`] if too few keys signed, [`RepoError::Write`].
    pub fn create(directory: &Path, new: &NewRepository, signers: &Signers, now: Timestamp) -> Result<Self, RepoError> {
        Self::create_on(Storage::default(), directory, new, signers, now)
    }

    /// As [`Self::create`], telling `hook` of every write.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_with_hook(
        directory: &Path,
        new: &NewRepository,
        signers: &Signers,
        now: Timestamp,
        hook: Arc<dyn Hook>,
    ) -> Result<Self, RepoError> {
        Self::create_on(Storage::with_hook(hook), directory, new, signers, now)
    }

    fn create_on(
        storage: Storage,
        directory: &Path,
        new: &NewRepository,
        signers: &Signers,
        now: Timestamp,
    ) -> Result<Self, RepoError> {
        let repository = Self { directory: directory.to_owned(), expiries: new.expiries, storage };
        let metadata = layout::metadata_dir(directory);
        // What a cut creation leaves; anything else is somebody's.
        let ours = ["1.root.json", "1.targets.json", "1.snapshot.json"];
        for name in layout::files_in(&metadata)? {
            if layout::metadata_name(&name) != layout::MetadataName::Temporary && !ours.contains(&name.as_str()) {
                return Err(RepoError::AlreadyThere { path: metadata.join(name) });
            }
        }
        if let Some(path) = layout::files_below(&layout::targets_dir(directory))?.into_iter().next() {
            return Err(RepoError::AlreadyThere { path: layout::targets_dir(directory).join(path) });
        }
        repository.storage.create_dirs(&metadata)?;
        repository.storage.create_dirs(&layout::targets_dir(directory))?;
        let _lock = repository.lock()?;

        let days = &new.expiries;
        let mut root = RootFile::new(after(now, days.root)?);
        root.set_offline_grace(OFFLINE_GRACE_DAYS).map_err(RepoError::author("root"))?;
        for (role, keys) in &new.keys {
            root.set_role(*role, &keys.keys, keys.threshold).map_err(RepoError::author("root"))?;
        }
        if let Some(log) = &new.log {
            root.set_log(log).map_err(RepoError::author("root"))?;
        }
        let targets = RegistryFile::new(after(now, days.targets)?);
        let mut snapshot = SnapshotFile::new(after(now, days.snapshot)?);
        snapshot.put_role("targets", 1).map_err(RepoError::author("snapshot"))?;
        let sign = |role: &str, draft: &relevo_meta::author::Draft| {
            draft.sign(&signers.get(role)?).map_err(RepoError::author(role))
        };
        let snapshot = sign("snapshot", &snapshot)?;
        let mut timestamp = TimestampFile::new(after(now, days.timestamp)?);
        timestamp.set_snapshot(1, &snapshot).map_err(RepoError::author("timestamp"))?;

        let root = sign("root", &root)?;
        let staged = BTreeMap::from([
            ("1.root.json".to_owned(), root.clone()),
            ("1.targets.json".to_owned(), sign("targets", &targets)?),
            ("1.snapshot.json".to_owned(), snapshot),
            ("timestamp.json".to_owned(), sign("timestamp", &timestamp)?),
        ]);
        let read = |request: &Request| Ok(staged.get(&request.name).cloned());
        drive(Stored::with_root(root), Scope::Everything, now, read).map_err(refused)?;
        // What a cut creation logged was never part of a repository.
        repository.log().clear()?;
        if let Some(key) = &new.log {
            let pinned = vec![("targets".to_owned(), 1)];
            repository.log().append(&Coming { key, root_version: 1, pinned, staged: &staged }, signers)?;
        }
        repository.put_metadata(&staged)?;
        Ok(repository)
    }

    /// Opens a repository. Nothing is verified yet, and leftovers of a cut publication are not touched.
    ///
    /// # Errors
    /// [`RepoError::NotARepository`].
    pub fn open(directory: &Path) -> Result<Self, RepoError> {
        let metadata = layout::metadata_dir(directory);
        if !metadata.join("1.root.json").is_file() || !metadata.join("timestamp.json").is_file() {
            return Err(RepoError::NotARepository { path: directory.to_owned() });
        }
        let expiries = Expiries::default();
        Ok(Self { directory: directory.to_owned(), expiries, storage: Storage::default() })
    }

    /// Brings a change of the root to its end that was cut off between its two last steps; else it does nothing.
    ///
    /// # Errors
    /// [`RepoError::Locked`], [`RepoError::Read`], [`RepoError::Write`].
    pub fn recover(&self) -> Result<(), RepoError> {
        if !layout::rotation(&self.directory).exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        self.finish_rotation()
    }

    /// The same repository with other expiries for what it will sign.
    #[must_use]
    pub fn with_expiries(self, expiries: Expiries) -> Self {
        Self { expiries, ..self }
    }

    /// The same repository, telling `hook` of every write.
    #[must_use]
    pub fn with_hook(self, hook: Arc<dyn Hook>) -> Self {
        Self { storage: Storage::with_hook(hook), ..self }
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The first root: what a phone must be given, once, by somebody it trusts.
    ///
    /// # Errors
    /// [`RepoError::Read`].
    pub fn first_root(&self) -> Result<Vec<u8>, RepoError> {
        let path = layout::metadata_dir(&self.directory).join("1.root.json");
        fs::read(&path).map_err(RepoError::read(path))
    }

    /// The current state, verified from `1.root.json` on and fresh at `now`: what pages show and mirrors copy.
    ///
    /// # Errors
    /// [`RepoError::Trust`] if it does not verify or has expired; [`RepoError::Read`].
    pub fn trusted(&self, now: Timestamp) -> Result<Trusted, RepoError> {
        Ok(self.base(Scope::Everything, now)?.trusted)
    }

    /// The current state, verified as in [`Self::trusted`] but whatever has expired.
    ///
    /// # Errors
    /// [`RepoError::Trust`] if it does not verify; [`RepoError::Read`].
    pub fn current(&self) -> Result<Trusted, RepoError> {
        self.trusted(Timestamp::MIN)
    }

    /// Starts a publication: takes the lock and clears away what a cut one left.
    ///
    /// # Errors
    /// [`RepoError::Locked`], [`RepoError::Trust`] if the current state does not verify, [`RepoError::Read`],
    /// [`RepoError::Write`].
    pub fn publication(&self) -> Result<Publication<'_>, RepoError> {
        Publication::start(self, self.lock()?)
    }

    /// As [`Self::publication`], waiting for a publication that is under way.
    ///
    /// # Errors
    /// As [`Self::publication`], but never [`RepoError::Locked`].
    pub fn wait_for_publication(&self) -> Result<Publication<'_>, RepoError> {
        let path = layout::lock_file(&self.directory);
        let file = File::create(&path).map_err(RepoError::write(&path))?;
        file.lock().map_err(RepoError::write(path))?;
        Publication::start(self, file)
    }

    /// Whether [`Self::refresh`] would have something to log, and so wants the log's key as well: the log was not made yet,
    /// is signed by another key, or does not know the newest root.
    ///
    /// # Errors
    /// [`RepoError::Trust`] if the current state does not verify; [`RepoError::Read`].
    pub fn is_log_behind(&self) -> Result<bool, RepoError> {
        let state = self.base(Scope::Registries, Timestamp::MIN)?.trusted;
        state.log_key().map_or(Ok(false), |key| self.log().is_behind(key, state.root_version()))
    }

    /// Signs the timestamp again, and the snapshot too once half of its time has passed: what keeps a repository alive
    /// between publications. Only the two online keys are needed; with that of the log, what is missing there is logged.
    ///
    /// # Errors
    /// As [`Publication::commit`].
    pub fn refresh(&self, signers: &Signers, now: Timestamp) -> Result<Published, RepoError> {
        let mut publication = self.publication()?;
        publication.renew_online(now)?;
        publication.commit(signers, now)
    }

    /// The files of all roles as they were verified, whatever has expired: what ceremonies are compared with.
    ///
    /// # Errors
    /// As [`Self::current`].
    pub fn ground(&self) -> Result<Ground, RepoError> {
        let first = Target::of(&self.first_root()?).sha256;
        let Base { trusted, mut stored } = self.base(Scope::Everything, Timestamp::MIN)?;
        let files = trusted.roles().keys().filter_map(|role| {
            let file = stored.0.remove(&format!("{role}.json"))?;
            Some((role.clone(), file))
        });
        Ok(Ground::new(first, files.collect()))
    }

    pub(crate) fn expiries(&self) -> &Expiries {
        &self.expiries
    }

    pub(crate) fn metadata_path(&self, name: &str) -> PathBuf {
        layout::metadata_dir(&self.directory).join(name)
    }

    pub(crate) fn targets_dir(&self) -> PathBuf {
        layout::targets_dir(&self.directory)
    }

    pub(crate) fn lock(&self) -> Result<File, RepoError> {
        let path = layout::lock_file(&self.directory);
        let file = File::create(&path).map_err(RepoError::write(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(RepoError::Locked { path }),
            Err(TryLockError::Error(source)) => Err(RepoError::Write { path, source }),
        }
    }

    /// The current state as a new phone sees it.
    pub(crate) fn base(&self, scope: Scope, now: Timestamp) -> Result<Base, RepoError> {
        let stored = Stored::with_root(self.first_root()?);
        drive(stored, scope, now, |request| self.read_metadata(request))
    }

    /// Reads a metadata file, and no more of it than is allowed.
    pub(crate) fn read_metadata(&self, request: &Request) -> Result<Option<Vec<u8>>, RepoError> {
        let path = self.metadata_path(&request.name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RepoError::read(path)(error)),
        };
        let mut bytes = Vec::new();
        // One byte more than the limit is enough for the machine to see that there is more.
        file.take(request.limit.get().saturating_add(1)).read_to_end(&mut bytes).map_err(RepoError::read(path))?;
        Ok(Some(bytes))
    }

    /// Writes metadata with a new root among them. Phones see a root as soon as it has its name, so that there are two
    /// files to be renamed; what is to be done is written down first, and done to its end by whoever comes next.
    ///
    /// The timestamp goes first: where it is signed by old and new keys, phones take it with either root, and there is no
    /// moment at which anybody is refused.
    pub(crate) fn put_rotation(&self, files: &BTreeMap<String, Vec<u8>>) -> Result<(), RepoError> {
        let directory = layout::metadata_dir(&self.directory);
        let (visible, others): (Vec<_>, Vec<_>) = files.iter().partition(|(name, _)| {
            *name == "timestamp.json"
                || matches!(layout::metadata_name(name), MetadataName::Versioned { role, .. } if role == "root")
        });
        for (name, bytes) in others {
            self.storage.put(&directory.join(name), bytes)?;
        }
        self.storage.sync_dir(&directory)?;
        let rotation = Rotation(visible.into_iter().map(|(name, bytes)| (name.clone(), text(bytes))).collect());
        let bytes = serde_json::to_vec(&rotation).expect("texts can be written");
        self.storage.put(&layout::rotation(&self.directory), &bytes)?;
        self.storage.sync_dir(&self.directory)?;
        self.finish_rotation()
    }

    /// Does to its end what [`Self::put_rotation`] wrote down, if anything. The caller holds the lock.
    pub(crate) fn finish_rotation(&self) -> Result<(), RepoError> {
        let path = layout::rotation(&self.directory);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(RepoError::read(path)(error)),
        };
        let rotation: Rotation = serde_json::from_slice(&bytes)
            .map_err(|source| RepoError::read(&path)(std::io::Error::new(std::io::ErrorKind::InvalidData, source)))?;
        let directory = layout::metadata_dir(&self.directory);
        // In this order: "timestamp.json" stands behind every "N.root.json".
        for (name, text) in rotation.0.iter().rev() {
            if !matches!(layout::metadata_name(name), MetadataName::Timestamp | MetadataName::Versioned { .. }) {
                continue;
            }
            self.storage.put(&directory.join(name), text.as_bytes())?;
            self.storage.sync_dir(&directory)?;
        }
        self.storage.remove(&path)?;
        self.storage.sync_dir(&self.directory)
    }

    /// Writes metadata so that the rename of `timestamp.json` is the one moment at which the state changes.
    pub(crate) fn put_metadata(&self, files: &BTreeMap<String, Vec<u8>>) -> Result<(), RepoError> {
        let directory = layout::metadata_dir(&self.directory);
        let (timestamp, others): (Vec<_>, Vec<_>) = files.iter().partition(|(name, _)| *name == "timestamp.json");
        for (name, bytes) in others {
            self.storage.put(&directory.join(name), bytes)?;
        }
        self.storage.sync_dir(&directory)?;
        for (name, bytes) in timestamp {
            self.storage.put(&directory.join(name), bytes)?;
        }
        self.storage.sync_dir(&directory)
    }
}

/// Runs a refresh to its end. An error of the source is the caller's own; one of the machine is [`RepoError::Trust`].
pub(crate) fn drive(
    mut stored: Stored,
    scope: Scope,
    now: Timestamp,
    mut read: impl FnMut(&Request) -> Result<Option<Vec<u8>>, RepoError>,
) -> Result<Base, RepoError> {
    // A phone follows 32 roots in one run and goes on in the next; here the whole chain is walked at once.
    let limits = Limits { root_steps: usize::MAX, ..Limits::default() };
    let mut refresh = Refresh::start(stored.clone(), scope, now, limits).map_err(RepoError::Trust)?;
    loop {
        match refresh.next() {
            Step::Get(request) => {
                let answer = read(&request)?.map_or(Answer::Absent, Answer::Found);
                refresh.supply(answer).map_err(RepoError::Trust)?;
            }
            Step::Keep { name, bytes } => {
                stored.0.insert(name, bytes);
            }
            Step::Done => {
                let trusted = refresh.finish().map_err(RepoError::Trust)?;
                return Ok(Base { trusted, stored });
            }
        }
    }
}

/// What a phone would say to a state that is not published yet.
pub(crate) fn refused(error: RepoError) -> RepoError {
    match error {
        RepoError::Trust(error) => RepoError::WouldBeRefused(error),
        other => other,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `days` days after `now`.
pub(crate) fn after(now: Timestamp, days: u32) -> Result<Timestamp, RepoError> {
    let span = SignedDuration::from_hours(i64::from(days) * 24);
    now.checked_add(span).map_err(|_| RepoError::Expiry { days })
}
