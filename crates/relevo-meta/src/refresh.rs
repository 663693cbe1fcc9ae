//! The client workflow of TUF 1.0.34 section 5, without IO and without a clock.
//!
//! The machine asks for bytes and is handed bytes; whoever drives it owns sockets, retries and files. After an error of
//! [`Refresh::supply`] the machine stands where it stood, and the same request can be answered by another source.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::Arc,
};

use ed25519_dalek::VerifyingKey;
use jiff::{SignedDuration, Timestamp};
use relevo_types::{ByteLen, Codename, Sha256, TargetPath, Vendor};
use sigstore_tuf::{DelegatedRole, Error as CoreError, Key, MetaFile, Metadata, Snapshot, Targets};

use crate::{
    crypto, delegation,
    delegation::Cover,
    error::{BadTarget, TrustError, check_digits, from_core},
    log::LogKey,
    threshold::Core,
    trusted::{Custom, Found, Package, RoleFile, Signatories, Target, Trusted, TrustedDevice},
};

/// Most that is read of each file, in decompressed bytes, and most steps that are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// `root.json`; a root with 5 + 3 + 1 + 1 keys and 3 signatures has 3.6 KB.
    pub root: ByteLen,
    /// `timestamp.json`; 464 bytes with one key.
    pub timestamp: ByteLen,
    /// `snapshot.json`; 10.4 KB for 300 devices.
    pub snapshot: ByteLen,
    /// `targets.json`; 8.4 KB for 25 vendors.
    pub targets: ByteLen,
    /// Every delegated role; 5.6 KB for a device with 18 targets, 45 KB for a vendor with 75 devices.
    pub role: ByteLen,
    /// Delegated roles visited on the search for one device (`Scope::Device`) or one target (`Scope::TopLevel`).
    pub max_roles: usize,
    /// New roots followed in one run.
    pub root_steps: usize,
}

/// Whose metadata is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// One device, as a phone wants it: nothing about other devices is asked for, and nothing about them can harm.
    Device {
        /// Its vendor.
        vendor: Vendor,
        /// Its codename.
        codename: Codename,
    },
    /// All roles but those of devices, as a publisher wants them who then looks at one device only. Which devices there
    /// are is known from [`Trusted::listed`].
    Registries,
    /// All roles, as a server or a mirror wants them. A broken device role harms that device only.
    Everything,
    /// The four top-level roles, of any TUF repository, whatever its paths look like. [`Refresh::search`] goes on from
    /// there to single targets.
    TopLevel,
}

/// What earlier runs kept, by the names under which [`Step::Keep`] handed it out; at least `root.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored(pub BTreeMap<String, Vec<u8>>);

/// A request for a file below the repository's `metadata/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its name: `timestamp.json`, `2.root.json`, `7.d-ginkgo.json`.
    pub name: String,
    /// Read no more than this; an answer over it is refused.
    pub limit: ByteLen,
    /// Whether [`Answer::Absent`] is an ordinary answer and no error.
    pub may_be_absent: bool,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The file's bytes, decompressed.
    Found(Vec<u8>),
    /// The source says that there is no such file. A source that cannot be reached has said nothing: ask another.
    Absent,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Fetch this and hand the answer to [`Refresh::supply`].
    Get(Request),
    /// Persist these verified bytes atomically under this name before going on.
    Keep {
        /// The name, to be found in [`Stored`] by the next run.
        name: String,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Nothing; call [`Refresh::finish`].
    Done,
}

/// A refresh under way.
///
/// # Examples
/// ```
/// # use relevo_meta::{Answer, Limits, Refresh, Scope, Step, testing::TestRepo};
/// # let mut repo = TestRepo::new();
/// # repo.add_device("xiaomi", "ginkgo");
/// # repo.publish();
/// # let now = repo.now;
/// # let fetch = |name: &str| repo.metadata.get(name).cloned();
/// # let mut stored = repo.stored_root();
/// # let scope = Scope::Everything;
/// let mut refresh = Refresh::start(stored.clone(), scope, now, Limits::default())?;
/// let trusted = loop {
///     match refresh.next() {
///         Step::Get(request) => match fetch(&request.name) {
///             Some(bytes) => refresh.supply(Answer::Found(bytes))?,
///             None => refresh.supply(Answer::Absent)?,
///         },
///         Step::Keep { name, bytes } => {
///             stored.0.insert(name, bytes);
///         }
///         Step::Done => break refresh.finish()?,
///     }
/// };
/// assert_eq!(trusted.devices().len(), 1);
/// # Ok::<(), relevo_meta::TrustError>(())
/// ```
pub struct Refresh {
    core: Core,
    stored: Stored,
    scope: Scope,
    /// The caller's time and one nanosecond: the core takes metadata that expires at this very moment as valid, TUF
    /// 5.3.10 wants the expiry to be later.
    now: Timestamp,
    limits: Limits,
    /// Whether a timestamp past its date is taken, for as long as the root allows.
    stale: bool,
    state: State,
    keep: VecDeque<(String, Vec<u8>)>,
    failure: Option<TrustError>,
    /// Bytes of the trusted timestamp, to be kept beside the snapshot that it pins.
    timestamp: Vec<u8>,
    root_steps: usize,
    walk: Walk,
    /// The target that is searched for; none during the refresh.
    search: Option<Search>,
}

/// Where the workflow stands: what it needs next.
#[derive(Debug)]
enum State {
    Root,
    Timestamp,
    Snapshot,
    Targets,
    Roles,
    /// A delegated role that has to be fetched.
    Role(Edge),
    Done,
}

/// The pre-order search through the delegations, TUF 5.6.7.
#[derive(Debug, Default)]
struct Walk {
    queue: VecDeque<Edge>,
    visited: BTreeSet<(String, String)>,
    loaded: Vec<Edge>,
    listed: BTreeMap<Codename, Vendor>,
    troubles: BTreeMap<String, TrustError>,
}

/// A search for one target by its path, of any form.
#[derive(Debug)]
struct Search {
    path: String,
    found: Option<Found>,
}

/// One delegation from a role to another.
#[derive(Debug, Clone)]
struct Edge {
    delegator: String,
    role: Arc<DelegatedRole>,
    kind: Kind,
    /// The delegations that led here, this one last; a target counts only if all of them match its path.
    chain: Vec<Arc<DelegatedRole>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// On the way to devices.
    Registry,
    /// The device's own role.
    Device(Vendor, Codename),
    /// A role below the device's.
    Below(Vendor, Codename),
}

/// Where the root says how long the offline grace is: `"x-relevo": {"offline_grace_days": 45}`.
pub(crate) const ROOT_FIELD: &str = "x-relevo";
pub(crate) const GRACE_FIELD: &str = "offline_grace_days";
/// Where the root says who signs the transparency log, in the same field: a key as [`LogKey`] writes it.
pub(crate) const LOG_FIELD: &str = "log";

/// Longest offline grace that a root can give; with it, a snapshot of 60 days ends first.
const MAX_GRACE: SignedDuration = SignedDuration::from_hours(24 * 90);

/// The timestamp that pins the stored snapshot. After a newer timestamp was kept and before its snapshot came, only
/// with this one can the stored snapshot still be verified, and so still be the floor against a rollback.
const SNAPSHOT_PIN: &str = "snapshot.timestamp";

impl Default for Limits {
    fn default() -> Self {
        Self {
            root: ByteLen::kib(32),
            timestamp: ByteLen::kib(4),
            snapshot: ByteLen::kib(256),
            targets: ByteLen::kib(128),
            role: ByteLen::kib(128),
            max_roles: 8,
            root_steps: 32,
        }
    }
}

impl Stored {
    /// Only a trusted root, as a new phone has it.
    pub fn with_root(root: Vec<u8>) -> Self {
        Self(BTreeMap::from([("root.json".to_owned(), root)]))
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }
}

impl Refresh {
    /// Starts from what is stored. `now` is the start time of TUF 5.1, used for all expiries.
    ///
    /// # Errors
    /// - [`TrustError::NoRoot`] if nothing is stored.
    /// - [`TrustError::Malformed`], [`TrustError::Threshold`] and [`TrustError::SignatureDigits`] for a stored root that
    ///   is damaged.
    pub fn start(stored: Stored, scope: Scope, now: Timestamp, limits: Limits) -> Result<Self, TrustError> {
        crypto::install_crypto();
        let root = stored.get("root.json").ok_or(TrustError::NoRoot)?;
        check_limit("root.json", root, limits.root)?;
        check_digits("root.json", root)?;
        let core = Core::from_root(root).map_err(|error| from_core(error, "root.json", "root"))?;
        let now = now.checked_add(jiff::SignedDuration::from_nanos(1)).unwrap_or(now);
        Ok(Self {
            core,
            stored,
            scope,
            now,
            limits,
            stale: false,
            state: State::Root,
            keep: VecDeque::new(),
            failure: None,
            timestamp: Vec::new(),
            root_steps: 0,
            walk: Walk::default(),
            search: None,
        })
    }

    /// Takes a timestamp past its date as well, by at most as many days as the root gives (its field `x-relevo`; none
    /// if it says nothing). For a source without a network that a person chose by hand, and for nothing
    /// else: within these days, such a source can hide what is newer, such as that a build was withdrawn or a key revoked.
    ///
    /// All else holds: nothing goes back behind what is stored, and root, snapshot, registries and device role must not
    /// have expired. [`Trusted::stale_since`] says that the state is such a one.
    #[must_use]
    pub fn allow_stale(mut self) -> Self {
        self.stale = true;
        self
    }

    /// Verifies again what is stored, without asking anybody: what an installer does that starts long after the check.
    ///
    /// # Errors
    /// [`TrustError::NotFound`] for a file that is not stored, and everything that the stored files can break.
    pub fn offline(stored: Stored, scope: Scope, now: Timestamp, limits: Limits) -> Result<Trusted, TrustError> {
        Self::start(stored, scope, now, limits)?.verify_stored()
    }

    /// As [`Self::offline`], with what was set since the start.
    ///
    /// # Errors
    /// As [`Self::offline`].
    pub fn verify_stored(mut self) -> Result<Trusted, TrustError> {
        self.finish_root()?;
        if self.core.timestamp().is_none() {
            return Err(TrustError::NotFound { file: "timestamp.json".to_owned() });
        }
        self.check_timestamp_fresh()?;
        self.state = State::Snapshot;
        match self.next() {
            Step::Get(request) => Err(TrustError::NotFound { file: request.name }),
            Step::Keep { .. } => Err(TrustError::Misuse("stored files are not kept again")),
            Step::Done => self.finish(),
        }
    }

    /// What to do next.
    #[expect(clippy::should_implement_trait, reason = "no iterator: what comes depends on what is supplied between")]
    pub fn next(&mut self) -> Step {
        if let Some((name, bytes)) = self.keep.pop_front() {
            return Step::Keep { name, bytes };
        }
        loop {
            if self.failure.is_some() {
                return Step::Done;
            }
            match self.advance() {
                Ok(Some(step)) => return step,
                Ok(None) => {}
                Err(error) => self.failure = Some(error),
            }
        }
    }

    /// Takes the answer to the last request.
    ///
    /// # Errors
    /// One variant of [`TrustError`] per rule. Nothing of a refused answer stays; the machine asks the same again, so
    /// that another source can answer where [`TrustError::is_retryable`].
    pub fn supply(&mut self, answer: Answer) -> Result<(), TrustError> {
        let request = self.request()?;
        let bytes = match answer {
            Answer::Found(bytes) => bytes,
            Answer::Absent if request.may_be_absent => return self.finish_root(),
            Answer::Absent => return self.refuse(TrustError::NotFound { file: request.name }),
        };
        let checked = check_limit(&request.name, &bytes, request.limit);
        if let Err(error) = checked.and_then(|()| check_digits(&request.name, &bytes)) {
            return self.refuse(error);
        }
        match &self.state {
            State::Root => self.take_root(&request.name, bytes),
            State::Timestamp => self.take_timestamp(bytes),
            State::Snapshot => self.take_snapshot(&request.name, bytes),
            State::Targets => self.take_targets(&request.name, bytes),
            State::Role(edge) => {
                let edge = edge.clone();
                self.take_role(&request.name, edge, bytes)
            }
            State::Roles | State::Done => Err(TrustError::Misuse("an answer that nobody asked for")),
        }
    }

    /// The verified state.
    ///
    /// # Errors
    /// What made the refresh end early, such as [`TrustError::NoSuchDevice`] or [`TrustError::Unmaintained`];
    /// [`TrustError::Misuse`] before [`Step::Done`].
    pub fn finish(self) -> Result<Trusted, TrustError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if !matches!(self.state, State::Done) || !self.keep.is_empty() {
            return Err(TrustError::Misuse("finish before done"));
        }
        self.into_trusted()
    }

    /// Begins a search for the target `path`, TUF 5.6.7, after a refresh with `Scope::TopLevel`; [`Self::next`] then
    /// asks for the delegated roles on the way, and after [`Step::Done`] the answer is [`Self::found`].
    ///
    /// # Errors
    /// What ended the refresh early; [`TrustError::Misuse`] for another scope and before [`Step::Done`];
    /// [`TrustError::Malformed`] for patterns that cannot be read.
    pub fn search(&mut self, path: &str) -> Result<(), TrustError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let ready = matches!(self.state, State::Done) && self.keep.is_empty();
        if self.scope != Scope::TopLevel || !ready {
            return Err(TrustError::Misuse("a search before the refresh of the top-level roles is done"));
        }
        self.walk = Walk::default();
        self.search = Some(Search { path: path.to_owned(), found: None });
        self.state = State::Roles;
        self.look_into("targets", &Kind::Registry, &[])
    }

    /// What the search found: the target, or none if no role that may speak for its path lists it.
    ///
    /// # Errors
    /// What ended the search early; [`TrustError::Misuse`] without a search or before [`Step::Done`].
    pub fn found(&mut self) -> Result<Option<Found>, TrustError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if !matches!(self.state, State::Done) || !self.keep.is_empty() {
            return Err(TrustError::Misuse("found before done"));
        }
        Ok(self.search.as_mut().ok_or(TrustError::Misuse("found without a search"))?.found.take())
    }

    /// Goes on as far as what is stored allows: the next step for the caller, or none if the state changed.
    fn advance(&mut self) -> Result<Option<Step>, TrustError> {
        match &self.state {
            State::Snapshot => {
                // TUF 5.5: a stored snapshot that the timestamp still pins is not fetched again.
                let stored = self.stored.0.remove("snapshot.json");
                if let Some(bytes) = &stored
                    && self.update_snapshot(bytes).is_ok()
                {
                    self.state = State::Targets;
                    return Ok(None);
                }
            }
            State::Targets => {
                if let Some(bytes) = self.stored.0.remove("targets.json") {
                    match self.core.update_targets(&bytes, self.now) {
                        Ok(_) => {
                            self.enter_targets()?;
                            return Ok(None);
                        }
                        // Expiry is the last check: these are the bytes that the snapshot pins, no need to fetch them.
                        Err(error @ CoreError::Expired { .. }) => {
                            return Err(from_core(error, &self.file_of("targets")?, "targets"));
                        }
                        Err(_) => {}
                    }
                }
            }
            State::Roles => return self.next_role(),
            State::Done => return Ok(Some(Step::Done)),
            State::Root | State::Timestamp | State::Role(_) => {}
        }
        self.request().map(|request| Some(Step::Get(request)))
    }

    /// The request that the state needs answered.
    fn request(&self) -> Result<Request, TrustError> {
        let (name, limit) = match &self.state {
            State::Root => {
                if self.root_steps >= self.limits.root_steps {
                    let reached = self.core.root().version;
                    return Err(TrustError::TooManyRoots { steps: self.root_steps, reached });
                }
                let name = format!("{}.root.json", self.core.root().version.saturating_add(1));
                return Ok(Request { name, limit: self.limits.root, may_be_absent: true });
            }
            State::Timestamp => ("timestamp.json".to_owned(), self.limits.timestamp),
            State::Snapshot => {
                let pin = self.snapshot_pin()?;
                (self.versioned("snapshot", pin.version), pinned_limit(self.limits.snapshot, pin))
            }
            State::Targets => {
                let pin = self.role_pin("targets")?;
                (self.versioned("targets", pin.version), pinned_limit(self.limits.targets, pin))
            }
            State::Role(edge) => {
                let pin = self.role_pin(&edge.role.name)?;
                (self.versioned(&edge.role.name, pin.version), pinned_limit(self.limits.role, pin))
            }
            State::Roles | State::Done => return Err(TrustError::Misuse("an answer that nobody asked for")),
        };
        Ok(Request { name, limit, may_be_absent: false })
    }

    /// TUF 5.3.4 to 5.3.8.
    fn take_root(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), TrustError> {
        self.core.update_root(&bytes).map_err(|error| from_core(error, name, "root"))?;
        self.root_steps += 1;
        self.keep.push_back(("root.json".to_owned(), bytes));
        Ok(())
    }

    /// TUF 5.3.10 and 5.3.11.
    fn finish_root(&mut self) -> Result<(), TrustError> {
        self.core.check_root_expired(self.now).map_err(|error| from_core(error, "root.json", "root"))?;
        self.load_stored();
        self.state = State::Timestamp;
        Ok(())
    }

    /// Loads the stored timestamp and snapshot as floors, whether expired or not.
    fn load_stored(&mut self) {
        let timestamp = self.stored.get("timestamp.json");
        let snapshot = self.stored.get("snapshot.json");
        let mut rotated = false;
        if let Some(snapshot) = snapshot {
            for pin in [self.stored.get(SNAPSHOT_PIN), timestamp].into_iter().flatten() {
                let mut trial = self.core.clone();
                if trial.update_timestamp(pin, Timestamp::MIN).is_err() {
                    continue;
                }
                match trial.update_snapshot(snapshot, Timestamp::MIN) {
                    Ok(()) => {
                        self.core = trial;
                        self.timestamp = pin.to_vec();
                        break;
                    }
                    // Its hash is the one pinned, so it is whole; but these are no longer its keys.
                    Err(CoreError::ThresholdNotMet { .. }) => rotated = true,
                    Err(_) => {}
                }
            }
        }
        if rotated && self.core.snapshot().is_none() {
            // TUF 5.3.11: after a rotation of the snapshot's or the timestamp's keys both floors go, since whoever had
            // the old keys may have set them to any height. A timestamp of rotated keys does not load anyway.
            return;
        }
        if let Some(timestamp) = timestamp
            && self.core.update_timestamp(timestamp, Timestamp::MIN).is_ok()
        {
            self.timestamp = timestamp.to_vec();
        }
    }

    /// TUF 5.4.
    fn take_timestamp(&mut self, bytes: Vec<u8>) -> Result<(), TrustError> {
        match self.update_timestamp(&bytes) {
            Ok(()) => {
                self.keep.push_back(("timestamp.json".to_owned(), bytes.clone()));
                self.timestamp = bytes;
            }
            // TUF 5.4.3.1: nothing new; but what is there must still be fresh.
            Err(CoreError::EqualVersion { .. }) => self.check_timestamp_fresh()?,
            Err(error) => return Err(from_core(error, "timestamp.json", "timestamp")),
        }
        self.state = State::Snapshot;
        Ok(())
    }

    fn check_timestamp_fresh(&self) -> Result<(), TrustError> {
        match self.core.check_timestamp_expired(self.now) {
            Err(_) if self.is_within_grace(&self.core) => Ok(()),
            other => other.map_err(|error| from_core(error, "timestamp.json", "timestamp")),
        }
    }

    /// Whether the timestamp, whose date has passed, may still be used.
    fn is_within_grace(&self, core: &Core) -> bool {
        let days = core.root().extra.get(ROOT_FIELD).and_then(|field| field.get(GRACE_FIELD)?.as_i64()).unwrap_or(0);
        let grace = SignedDuration::from_hours(days.clamp(0, 366) * 24).min(MAX_GRACE);
        let end = core.timestamp().and_then(|timestamp| timestamp.expires.checked_add(grace).ok());
        self.stale && end.is_some_and(|end| end >= self.now)
    }

    fn update_timestamp(&mut self, bytes: &[u8]) -> Result<(), CoreError> {
        match self.core.update_timestamp(bytes, self.now) {
            // Expiry is the last check, so nothing but the date is wrong with it.
            Err(error @ CoreError::Expired { .. }) if self.stale => {
                let mut trial = self.core.clone();
                trial.update_timestamp(bytes, Timestamp::MIN)?;
                if !self.is_within_grace(&trial) {
                    return Err(error);
                }
                self.core = trial;
                Ok(())
            }
            other => other,
        }
    }

    fn update_snapshot(&mut self, bytes: &[u8]) -> Result<(), CoreError> {
        if !self.stale || self.core.check_timestamp_expired(self.now).is_ok() {
            return self.core.update_snapshot(bytes, self.now);
        }
        // The core would look at the date of the timestamp again, which has had its say; the snapshot's own counts.
        let mut trial = self.core.clone();
        trial.update_snapshot(bytes, Timestamp::MIN)?;
        trial.check_snapshot_expired(self.now)?;
        self.core = trial;
        Ok(())
    }

    /// TUF 5.5.
    fn take_snapshot(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), TrustError> {
        let pin = self.snapshot_pin()?;
        check_pin(name, &bytes, pin)?;
        let expected = pin.version;
        if let Err(error) = self.update_snapshot(&bytes) {
            // The core has one variant for a wrong version and for a vanished role; only the bytes tell which.
            if let (CoreError::IntegrityMismatch(_), Ok(parsed)) = (&error, Metadata::<Snapshot>::from_slice(&bytes)) {
                let actual = parsed.signed().version;
                let file = name.to_owned();
                if actual != expected {
                    return Err(TrustError::WrongVersion { file, expected, actual });
                }
                let kept = &parsed.signed().meta;
                let listed = self.core.snapshot().map(|snapshot| &snapshot.meta);
                if let Some(entry) =
                    listed.into_iter().flat_map(|meta| meta.keys()).find(|key| !kept.contains_key(*key))
                {
                    return Err(TrustError::Removed { file, entry: entry.clone() });
                }
            }
            return Err(from_core(error, name, "snapshot"));
        }
        // In this order: with the new snapshot and the old pin, the kept timestamp still vouches for the snapshot.
        self.keep.push_back(("snapshot.json".to_owned(), bytes));
        self.keep.push_back((SNAPSHOT_PIN.to_owned(), self.timestamp.clone()));
        self.state = State::Targets;
        Ok(())
    }

    /// TUF 5.6.
    fn take_targets(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), TrustError> {
        let pin = self.role_pin("targets")?;
        check_pin(name, &bytes, pin)?;
        let expected = pin.version;
        if let Err(error) = self.core.update_targets(&bytes, self.now) {
            return Err(targets_error(error, name, "targets", expected, &bytes));
        }
        self.keep.push_back(("targets.json".to_owned(), bytes));
        self.enter_targets()
    }

    fn enter_targets(&mut self) -> Result<(), TrustError> {
        if self.scope == Scope::TopLevel {
            self.state = State::Done;
            return Ok(());
        }
        self.state = State::Roles;
        self.follow("targets", &Kind::Registry, &[])
    }

    /// Takes the target that is searched for from a loaded role, or goes on to the roles that it delegates to.
    fn look_into(&mut self, role: &str, kind: &Kind, chain: &[Arc<DelegatedRole>]) -> Result<(), TrustError> {
        let targets = self.core.targets_role(role).expect("the role was just loaded");
        if let Some(search) = &mut self.search
            && let Some(entry) = targets.target(&search.path)
        {
            search.found = Some(Found::new(&search.path, entry, self.core.root().consistent_snapshot));
            self.walk.queue.clear();
            return Ok(());
        }
        self.follow(role, kind, chain)
    }

    /// Visits the next delegation, TUF 5.6.7.
    fn next_role(&mut self) -> Result<Option<Step>, TrustError> {
        let Some(edge) = self.walk.queue.pop_front() else {
            if let Scope::Device { vendor, codename } = &self.scope
                && !self.walk.loaded.iter().any(|edge| matches!(edge.kind, Kind::Device(..)))
            {
                return Err(TrustError::NoSuchDevice { vendor: vendor.clone(), codename: codename.clone() });
            }
            self.state = State::Done;
            return Ok(None);
        };
        if !self.walk.visited.insert((edge.delegator.clone(), edge.role.name.clone())) {
            return Ok(None);
        }
        let searches = matches!(self.scope, Scope::Device { .. } | Scope::TopLevel);
        if searches && self.walk.visited.len() > self.limits.max_roles {
            return Err(TrustError::TooManyRoles { limit: self.limits.max_roles });
        }

        if let Kind::Device(vendor, codename) = &edge.kind {
            self.walk.listed.entry(codename.clone()).or_insert_with(|| vendor.clone());
            if self.scope == Scope::Registries {
                return Ok(None);
            }
        }

        let role = edge.role.name.clone();
        let name = match self.file_of(&role) {
            Ok(name) => name,
            Err(error) => return self.excuse(&edge, error).map(|()| None),
        };
        if self.core.targets_role(&role).is_some() {
            // Another delegator led here before; its keys say nothing about this one's.
            return match self.core.verify_delegated_targets(&role, &edge.delegator, self.now) {
                Ok(_) => self.enter_role(edge).map(|()| None),
                Err(error) => self.excuse(&edge, from_core(error, &name, &role)).map(|()| None),
            };
        }
        if let Some(bytes) = self.stored.get(&stored_name(&role)) {
            match self.core.update_delegated_targets(bytes, &role, &edge.delegator, self.now) {
                Ok(_) => return self.enter_role(edge).map(|()| None),
                // As with targets.json: the pinned bytes, only too old.
                Err(error @ CoreError::Expired { .. }) => {
                    return self.excuse(&edge, from_core(error, &name, &role)).map(|()| None);
                }
                Err(_) => {}
            }
        }
        self.state = State::Role(edge);
        Ok(None)
    }

    fn take_role(&mut self, name: &str, edge: Edge, bytes: Vec<u8>) -> Result<(), TrustError> {
        let role = edge.role.name.clone();
        let pin = self.role_pin(&role)?;
        let expected = pin.version;
        let checked = check_pin(name, &bytes, pin).and_then(|()| {
            self.core
                .update_delegated_targets(&bytes, &role, &edge.delegator, self.now)
                .map(|_| ())
                .map_err(|error| targets_error(error, name, &role, expected, &bytes))
        });
        match checked {
            Ok(()) => {
                self.keep.push_back((stored_name(&role), bytes));
                self.state = State::Roles;
                self.enter_role(edge)
            }
            Err(error) => {
                self.excuse(&edge, error)?;
                self.state = State::Roles;
                Ok(())
            }
        }
    }

    /// Refuses an answer as a whole; a role that can be done without is passed over.
    fn refuse(&mut self, error: TrustError) -> Result<(), TrustError> {
        let State::Role(edge) = &self.state else { return Err(error) };
        let edge = edge.clone();
        self.excuse(&edge, error)?;
        self.state = State::Roles;
        Ok(())
    }

    /// Passes over a role that did not verify, where the scope allows to go on without it.
    fn excuse(&mut self, edge: &Edge, error: TrustError) -> Result<(), TrustError> {
        let error = match (error, &edge.kind) {
            (TrustError::Expired { file, expires, .. }, Kind::Device(_, codename)) => {
                TrustError::Unmaintained { codename: codename.clone(), file, expires }
            }
            (error, _) => error,
        };
        let fatal = match self.scope {
            Scope::Device { .. } => !matches!(edge.kind, Kind::Below(..)),
            Scope::TopLevel => true,
            Scope::Registries | Scope::Everything => false,
        };
        if fatal {
            return Err(error);
        }
        self.walk.troubles.insert(edge.role.name.clone(), error);
        Ok(())
    }

    fn enter_role(&mut self, edge: Edge) -> Result<(), TrustError> {
        if matches!((&self.scope, &edge.kind), (Scope::Device { .. }, Kind::Device(..))) {
            // Found: what else the queue holds is about other roles.
            self.walk.queue.clear();
        }
        let followed = self.look_into(&edge.role.name, &edge.kind, &edge.chain);
        self.walk.loaded.push(edge.clone());
        followed.or_else(|error| self.excuse(&edge, error))
    }

    /// Queues the delegations of a loaded role, before all others: pre-order.
    fn follow(&mut self, delegator: &str, kind: &Kind, chain: &[Arc<DelegatedRole>]) -> Result<(), TrustError> {
        let targets = self.core.targets_role(delegator).expect("the role was just loaded");
        let mut children = Vec::new();
        let mut cut = false;
        for role in targets.delegations.iter().flat_map(|delegations| &delegations.roles) {
            if !delegation::is_usable(&role.name) {
                continue;
            }
            let malformed = |error| from_core(error, &stored_name(delegator), delegator);
            let device = delegation::device_of(role);
            let kind = match (kind, &self.scope) {
                (_, Scope::TopLevel) => {
                    let path = self.search.as_ref().map_or("", |search| &search.path);
                    if !role.matches_path(path).map_err(malformed)? {
                        continue;
                    }
                    cut = role.terminating;
                    Kind::Registry
                }
                (Kind::Device(vendor, codename) | Kind::Below(vendor, codename), _) => {
                    if delegation::cover(role, vendor, codename).map_err(malformed)? == Cover::Nothing {
                        continue;
                    }
                    Kind::Below(vendor.clone(), codename.clone())
                }
                (Kind::Registry, Scope::Device { vendor, codename }) => {
                    let cover = delegation::cover(role, vendor, codename).map_err(malformed)?;
                    if cover == Cover::Nothing {
                        continue;
                    }
                    // A terminating delegation ends the search for every path that it matches, here: for all.
                    cut = role.terminating && cover == Cover::All;
                    if role.name == delegation::device_role(codename) {
                        Kind::Device(vendor.clone(), codename.clone())
                    } else {
                        Kind::Registry
                    }
                }
                (Kind::Registry, Scope::Registries | Scope::Everything) => match device {
                    Some((vendor, codename)) => Kind::Device(vendor, codename),
                    None => Kind::Registry,
                },
            };
            let role = Arc::new(role.clone());
            let mut chain = chain.to_vec();
            chain.push(Arc::clone(&role));
            children.push(Edge { delegator: delegator.to_owned(), role, kind, chain });
            if cut {
                break;
            }
        }
        if cut {
            self.walk.queue.clear();
        }
        for edge in children.into_iter().rev() {
            self.walk.queue.push_front(edge);
        }
        Ok(())
    }

    fn snapshot_pin(&self) -> Result<&MetaFile, TrustError> {
        let missing = || TrustError::NotPinned { file: "timestamp.json".to_owned(), entry: "snapshot.json".to_owned() };
        self.core.timestamp().and_then(|timestamp| timestamp.snapshot_meta()).ok_or_else(missing)
    }

    fn role_pin(&self, role: &str) -> Result<&MetaFile, TrustError> {
        let entry = format!("{role}.json");
        let pin = self.core.snapshot().and_then(|snapshot| snapshot.meta.get(&entry));
        pin.ok_or_else(|| TrustError::NotPinned { file: "snapshot.json".to_owned(), entry })
    }

    /// Name of a role's pinned file at the source.
    fn file_of(&self, role: &str) -> Result<String, TrustError> {
        Ok(self.versioned(role, self.role_pin(role)?.version))
    }

    fn versioned(&self, role: &str, version: u64) -> String {
        let role = delegation::encode_role(role);
        if self.core.root().consistent_snapshot { format!("{version}.{role}.json") } else { format!("{role}.json") }
    }

    fn into_trusted(mut self) -> Result<Trusted, TrustError> {
        let incomplete = TrustError::Misuse("finish before done");
        let (Some(timestamp), Some(snapshot)) = (self.core.timestamp(), self.core.snapshot()) else {
            return Err(incomplete);
        };
        let mut roles = BTreeMap::new();
        let mut add = |role: &str, file: String, version, expires| {
            roles.insert(role.to_owned(), RoleFile { file, version, expires });
        };
        let root = self.core.root();
        add("root", format!("{}.root.json", root.version), root.version, root.expires);
        add("timestamp", "timestamp.json".to_owned(), timestamp.version, timestamp.expires);
        add("snapshot", self.versioned("snapshot", snapshot.version), snapshot.version, snapshot.expires);
        let names = self.walk.loaded.iter().map(|edge| edge.role.name.as_str());
        for role in names.chain(["targets"]) {
            if let Some(targets) = self.core.targets_role(role) {
                add(role, self.versioned(role, targets.version), targets.version, targets.expires);
            }
        }

        let mut devices = BTreeMap::new();
        for edge in &self.walk.loaded {
            if let Kind::Device(vendor, codename) = &edge.kind
                && !devices.contains_key(codename)
            {
                devices.insert(codename.clone(), self.device(edge, vendor, codename, &roles));
            }
        }
        let Walk { troubles, listed, .. } = std::mem::take(&mut self.walk);
        let stale_since =
            self.core.timestamp().map(|timestamp| timestamp.expires).filter(|expires| *expires < self.now);
        let log = root.extra.get(ROOT_FIELD).and_then(|field| field.get(LOG_FIELD)?.as_str());
        let log = log.and_then(|key| LogKey::parse(key).ok());
        Ok(Trusted { roles, devices, listed, troubles, stale_since, log })
    }

    fn device(
        &self,
        edge: &Edge,
        vendor: &Vendor,
        codename: &Codename,
        roles: &BTreeMap<String, RoleFile>,
    ) -> TrustedDevice {
        let own = self.core.targets_role(&edge.role.name).expect("loaded edges have their role");
        let mut device = TrustedDevice {
            vendor: vendor.clone(),
            codename: codename.clone(),
            keys: self.keys(edge),
            threshold: edge.role.threshold,
            role_version: own.version,
            roles: Vec::new(),
            expires: own.expires,
            fresh_until: roles.get("timestamp").map_or(Timestamp::MIN, |timestamp| timestamp.expires),
            packages: Vec::new(),
            targets: BTreeMap::new(),
            delegated: BTreeMap::new(),
            refused: Vec::new(),
        };
        let family: Vec<&Edge> = self
            .walk
            .loaded
            .iter()
            .filter(|other| match &other.kind {
                Kind::Device(..) => std::ptr::eq(*other, edge),
                Kind::Below(v, c) => v == vendor && c == codename,
                Kind::Registry => false,
            })
            .collect();
        for member in &family {
            let Some(targets) = self.core.targets_role(&member.role.name) else { continue };
            for (text, entry) in &targets.targets {
                let role = &member.role.name;
                let file = roles.get(role).map_or_else(|| stored_name(role), |role| role.file.clone());
                let shown: String = text.chars().take(200).collect();
                let path = match TargetPath::parse(text) {
                    Ok(path) => path,
                    Err(source) => {
                        let source = BadTarget::Path(source);
                        device.refused.push(TrustError::BadTarget { file, path: shown, source });
                        continue;
                    }
                };
                let inside = member.chain.iter().all(|role| delegation::matches(role, &path).unwrap_or(false));
                if !inside || path.vendor() != vendor || path.codename() != codename {
                    let role = role.clone();
                    device.refused.push(TrustError::PathOutsideDelegation { file, role, path: shown });
                    continue;
                }
                // Another role of the family may come first for this path.
                if self.resolve(edge, &family, &path).as_ref() != Some(role) {
                    continue;
                }
                let ends = roles.get("timestamp").map_or(Timestamp::MAX, |timestamp| timestamp.expires);
                match read_target(&path, entry, ends) {
                    Ok((target, package)) => {
                        if let Kind::Below(..) = member.kind {
                            let signatories = Signatories { keys: self.keys(member), threshold: member.role.threshold };
                            device.delegated.insert(path.clone(), signatories);
                        }
                        device.packages.extend(package);
                        device.targets.insert(path, target);
                    }
                    Err(source) => device.refused.push(TrustError::BadTarget { file, path: shown, source }),
                }
            }
        }
        for member in &family {
            // One role can be reached by two ways.
            if !device.roles.contains(&member.role.name) {
                device.roles.push(member.role.name.clone());
            }
        }
        device.packages.sort_by(|a, b| a.path.cmp(&b.path));
        device.packages.dedup_by(|a, b| a.path == b.path);
        device
    }

    /// The role below (and with) the device's that speaks for `path`: pre-order, terminating, TUF 5.6.7.
    fn resolve(&self, device: &Edge, family: &[&Edge], path: &TargetPath) -> Option<String> {
        let mut queue = VecDeque::from([(device.delegator.clone(), device.role.name.clone())]);
        let mut visited = BTreeSet::new();
        while let Some((delegator, role)) = queue.pop_front() {
            if !visited.insert(role.clone()) {
                continue;
            }
            let known = family.iter().any(|edge| edge.delegator == delegator && edge.role.name == role);
            // A role that did not verify ends the search: what stands behind it in order does not speak for the path.
            let targets: &Targets = self.core.targets_role(&role).filter(|_| known)?;
            if targets.targets.contains_key(&path.to_string()) {
                return Some(role);
            }
            let mut children = Vec::new();
            for child in targets.delegations.iter().flat_map(|delegations| &delegations.roles) {
                if delegation::is_usable(&child.name) && delegation::matches(child, path).unwrap_or(false) {
                    children.push((role.clone(), child.name.clone()));
                    if child.terminating {
                        queue.clear();
                        break;
                    }
                }
            }
            for child in children.into_iter().rev() {
                queue.push_front(child);
            }
        }
        None
    }

    /// The Ed25519 keys of a delegation, each once.
    fn keys(&self, edge: &Edge) -> Vec<VerifyingKey> {
        let delegator = self.core.targets_role(&edge.delegator);
        let Some(delegations) = delegator.and_then(|targets| targets.delegations.as_ref()) else { return Vec::new() };
        let mut keys: Vec<VerifyingKey> = Vec::new();
        for key in edge.role.keyids.iter().filter_map(|id| delegations.keys.get(id)).filter_map(ed25519_key) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }
}

impl fmt::Debug for Refresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refresh")
            .field("scope", &self.scope)
            .field("now", &self.now)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// Name under which a targets role is stored: without its version, so that it replaces the one before.
fn stored_name(role: &str) -> String {
    format!("{}.json", delegation::encode_role(role))
}

fn check_limit(file: &str, bytes: &[u8], limit: ByteLen) -> Result<(), TrustError> {
    let length = ByteLen::new(bytes.len() as u64);
    if length > limit {
        return Err(TrustError::TooLong { file: file.to_owned(), length, limit });
    }
    Ok(())
}

fn pinned_limit(limit: ByteLen, pin: &MetaFile) -> ByteLen {
    pin.length.map_or(limit, |length| limit.min(ByteLen::new(length)))
}

/// Checks length and SHA-256 where the metadata above pins them; the core checks them again, with fewer words.
fn check_pin(file: &str, bytes: &[u8], pin: &MetaFile) -> Result<(), TrustError> {
    let actual = ByteLen::new(bytes.len() as u64);
    if let Some(expected) = pin.length.map(ByteLen::new)
        && actual != expected
    {
        return Err(TrustError::WrongLength { file: file.to_owned(), expected, actual });
    }
    let expected = pin.hashes.as_ref().and_then(|hashes| Sha256::parse(hashes.get("sha256")?).ok());
    if let Some(expected) = expected {
        let actual = crypto::sha256(bytes);
        if actual != expected {
            return Err(TrustError::WrongHash { file: file.to_owned(), expected, actual });
        }
    }
    Ok(())
}

/// Names what the core found in a targets file; it has one variant for several rules.
fn targets_error(error: CoreError, file: &str, role: &str, expected: u64, bytes: &[u8]) -> TrustError {
    if let (CoreError::IntegrityMismatch(_), Ok(parsed)) = (&error, Metadata::<Targets>::from_slice(bytes)) {
        let actual = parsed.signed().version;
        if actual != expected {
            return TrustError::WrongVersion { file: file.to_owned(), expected, actual };
        }
    }
    from_core(error, file, role)
}

/// Reads a target and, if it is one, the package that it is. `ends` is when the timestamp expires: no honest build was
/// made after it, whatever the clock of this machine says.
fn read_target(
    path: &TargetPath,
    entry: &sigstore_tuf::TargetFile,
    ends: Timestamp,
) -> Result<(Target, Option<Package>), BadTarget> {
    let sha256 = entry.hashes.get("sha256").and_then(|text| Sha256::parse(text).ok()).ok_or(BadTarget::Hash)?;
    let target = Target { length: ByteLen::new(entry.length), sha256 };
    let custom = entry.custom.as_ref().map(Custom::read).transpose()?.flatten();
    if let Some(made) = custom.as_ref().map(|custom| custom.timestamp).filter(|made| *made > ends) {
        return Err(BadTarget::FromTheFuture { made, ends });
    }
    let package = custom.map(|custom| Package { path: path.clone(), length: target.length, sha256, custom });
    Ok((target, package))
}

fn ed25519_key(key: &Key) -> Option<VerifyingKey> {
    if key.keytype != "ed25519" || key.scheme != "ed25519" {
        return None;
    }
    // Thirty-two bytes in hexadecimal, as a digest is.
    let bytes = Sha256::parse(&key.keyval.public).ok()?;
    VerifyingKey::from_bytes(bytes.as_bytes()).ok()
}
