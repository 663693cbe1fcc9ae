//! What the repository offers, as its signed metadata says: read again whenever `timestamp.json` changes.
//!
//! Publishing writes `timestamp.json` last, so its bytes name the whole state. Expiry is judged when a page is made, not
//! when the metadata is read: an expired repository still shows what it holds, and says that it expired.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Read},
    sync::{Arc, PoisonError, RwLock},
};

use jiff::Timestamp;
use relevo_dialect::Offers;
use relevo_meta::{
    RoleFile, Trusted, TrustedDevice,
    expiry::{Expiry, Level, expiries},
};
use relevo_repo::{RepoError, Repository};
use relevo_types::{BuildId, ByteLen, Channel, Codename, PackageKind, Sha256, TargetPath, Vendor};
use sha2::Digest;

use crate::{
    database::chain,
    layout::{RepoFile, Root, is_absent},
};

/// Longest `timestamp.json` that is looked at, in bytes; clients take 4 KiB.
const MAX_TIMESTAMP: u64 = 64 << 10;

/// Most parts that do not verify, or will expire, that are told of; one mistake can break hundreds of roles.
pub(crate) const MAX_TROUBLES: usize = 20;

/// A verified state of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Catalog {
    /// SHA-256 of the `timestamp.json` that it was read from.
    pub id: Sha256,
    /// Version of the timestamp role.
    pub timestamp_version: u64,
    /// When the first of the four top-level roles expires.
    pub expires: Timestamp,
    /// The role that expires then.
    pub expires_first: &'static str,
    /// Devices by vendor and codename.
    pub devices: Vec<Device>,
    /// Roles that did not verify, with the reason; their devices are missing above.
    pub troubles: Vec<String>,
    /// The roles that verified.
    pub roles: BTreeMap<String, RoleFile>,
    /// What of it is for the updater apps of ROMs.
    pub offers: Offers,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// Its vendor.
    pub vendor: Vendor,
    /// Its codename.
    pub codename: Codename,
    /// When nobody vouches for its builds any more.
    pub expires: Timestamp,
    /// Its builds, newest first.
    pub builds: Vec<Build>,
}

/// A build on one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Build {
    /// The channel.
    pub channel: Channel,
    /// The build's id.
    pub id: BuildId,
    /// Its version, for people.
    pub version: String,
    /// When it was made.
    pub made: Timestamp,
    /// Full packages, one of each kind.
    pub full: Vec<Package>,
    /// Deltas that lead to it, smallest first.
    pub deltas: Vec<Package>,
}

/// A package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    /// Its path.
    pub path: TargetPath,
    /// Its digest, which is part of its file's name.
    pub sha256: Sha256,
    /// Its length.
    pub length: ByteLen,
    /// Its kind.
    pub kind: PackageKind,
    /// The build that it starts from; none for a full package.
    pub from: Option<BuildId>,
    /// Percentage of phones that it is offered to.
    pub rollout: u8,
    /// Taken back.
    pub withdrawn: bool,
}

/// Why there is no catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// There is no repository yet.
    Empty,
    /// The files are there, and cannot be read.
    Unreadable(String),
    /// The files are there, and do not verify.
    Untrusted(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there is no repository in the server's directory"),
            Self::Unreadable(reason) => write!(f, "the repository cannot be read: {reason}"),
            Self::Untrusted(reason) => write!(f, "the repository does not verify: {reason}"),
        }
    }
}

/// What is known about the repository at this moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// The last state that verified; it stays when a later one does not.
    pub catalog: Option<Arc<Catalog>>,
    /// What is wrong with the files that are there now.
    pub problem: Option<Problem>,
}

/// Keeps the view up to date.
pub(crate) struct Catalogs {
    root: Root,
    known: RwLock<Known>,
    /// One reader at a time: verifying a large repository takes tens of milliseconds.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    view: View,
    /// What was said of roles that will expire: once for each level.
    said: BTreeMap<String, Level>,
    /// SHA-256 of the last `timestamp.json` that was looked at, whether it verified or not.
    seen: Option<Sha256>,
}

/// Whether a state that did not verify is tried again although its timestamp is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Try again: something else may have changed, such as a right to read.
    Yes,
    /// Leave it; requests must not be able to make the server verify the same bytes over and over.
    No,
}

impl Catalogs {
    /// Nothing is known yet.
    pub(crate) fn new(root: Root) -> Self {
        Self { root, known: RwLock::default(), reading: tokio::sync::Mutex::new(()) }
    }

    /// The view, after a look at `timestamp.json`.
    pub(crate) async fn current(self: &Arc<Self>, retry: Retry) -> View {
        let this = Arc::clone(self);
        // One open and one read of half a kilobyte; only a change costs more.
        let looked = tokio::task::spawn_blocking(move || this.look()).await.map_err(io::Error::other);
        let looked = looked.and_then(|looked| looked);
        let id = match looked {
            Ok(id) => id,
            Err(error) => {
                let problem = if is_absent(&error) {
                    Problem::Empty
                } else {
                    Problem::Unreadable(format!("metadata/timestamp.json: {error}"))
                };
                let mut known = self.write();
                known.seen = None;
                known.note(problem);
                return known.view.clone();
            }
        };
        if let Some(view) = self.settled(id, retry) {
            return view;
        }
        let _one = self.reading.lock().await;
        if let Some(view) = self.settled(id, retry) {
            return view;
        }
        let root = self.root.clone();
        let read = tokio::task::spawn_blocking(move || read(&root, id)).await;
        let mut known = self.write();
        known.seen = Some(id);
        match read {
            Ok(Ok(catalog)) => known.accept(catalog),
            Ok(Err(problem)) => known.note(problem),
            Err(error) => known.note(Problem::Unreadable(error.to_string())),
        }
        known.view.clone()
    }

    /// The last state that verified, as of the last look at the files: at most as old as the time between two looks.
    pub(crate) fn last(&self) -> Option<Arc<Catalog>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).view.catalog.clone()
    }

    /// Says in the log which roles will expire, 60, 14 and 3 days before.
    pub(crate) fn warn(&self, now: Timestamp) {
        let mut known = self.write();
        let Some(catalog) = known.view.catalog.clone() else { return };
        let expiring = catalog.expiring(now);
        known.said.retain(|role, _| expiring.iter().any(|expiry| expiry.role == *role));
        for expiry in expiring {
            let before = known.said.insert(expiry.role.clone(), expiry.level);
            if before.is_none_or(|before| before < expiry.level)
                && let Some(warning) = expiry.warning()
            {
                tracing::warn!(role = expiry.role, days_left = expiry.days_left, "{warning}");
            }
        }
    }

    fn look(&self) -> io::Result<Sha256> {
        let mut bytes = Vec::new();
        self.root.open(&RepoFile::Timestamp)?.take(MAX_TIMESTAMP).read_to_end(&mut bytes)?;
        Ok(Sha256::new(sha2::Sha256::digest(&bytes).into()))
    }

    /// The view, if it is about the state `id`.
    fn settled(&self, id: Sha256, retry: Retry) -> Option<View> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let same = known.seen == Some(id);
        (same && (known.view.problem.is_none() || retry == Retry::No)).then(|| known.view.clone())
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn accept(&mut self, catalog: Catalog) {
        tracing::info!(
            version = catalog.timestamp_version,
            expires = %catalog.expires,
            devices = catalog.devices.len(),
            "the repository verifies"
        );
        for trouble in &catalog.troubles {
            tracing::warn!(trouble, "a part of the repository does not verify");
        }
        self.view = View { catalog: Some(Arc::new(catalog)), problem: None };
    }

    fn note(&mut self, problem: Problem) {
        // Once for each change: this is looked at with every page.
        if self.view.problem.as_ref() != Some(&problem) {
            match &problem {
                Problem::Empty => tracing::warn!(
                    "there is no repository yet; make one with `relevo init DIR`, then `relevo device add`, \
                     `relevo import` and `relevo publish`; it is served as soon as it is there"
                ),
                other => tracing::warn!("{other}"),
            }
        }
        self.view.problem = Some(problem);
    }
}

/// Verifies what is there. Blocking.
///
/// No expiry counts here: it is judged when a page is made.
fn read(root: &Root, id: Sha256) -> Result<Catalog, Problem> {
    match Repository::open(&root.public()).and_then(|repository| repository.current()) {
        Ok(trusted) => Ok(Catalog::new(id, &trusted)),
        // These texts go out with `/readyz`: they name files, not the directories of this machine.
        Err(RepoError::NotARepository { .. }) => Err(Problem::Untrusted("metadata/1.root.json is missing".to_owned())),
        Err(RepoError::Read { path, source }) => {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Err(Problem::Unreadable(format!("metadata/{name}: {source}")))
        }
        Err(RepoError::Trust(error)) => Err(Problem::Untrusted(chain(&error))),
        Err(error) => {
            tracing::warn!(error = %chain(&error), "the repository cannot be opened");
            Err(Problem::Unreadable("the log says why".to_owned()))
        }
    }
}

impl Catalog {
    /// The roles of which it is time to say when they expire, the next one first.
    pub(crate) fn expiring(&self, now: Timestamp) -> Vec<Expiry> {
        let mut expiring = expiries(&self.roles, now);
        expiring.retain(|expiry| expiry.level != Level::Fine);
        expiring
    }

    fn new(id: Sha256, trusted: &Trusted) -> Self {
        let role_expires = |role: &str| trusted.roles().get(role).map(|file| file.expires);
        let (expires_first, expires) = ["timestamp", "snapshot", "targets", "root"]
            .into_iter()
            .filter_map(|role| Some((role, role_expires(role)?)))
            .min_by_key(|(_, expires)| *expires)
            .expect("a trusted state holds the four top-level roles");
        let mut devices: Vec<Device> = trusted
            .devices()
            .values()
            .map(|device| {
                let vendor = role_expires(&format!("v-{}", device.vendor)).unwrap_or(device.expires);
                Device {
                    vendor: device.vendor.clone(),
                    codename: device.codename.clone(),
                    expires: device.expires.min(vendor),
                    builds: builds(device),
                }
            })
            .collect();
        devices.sort_by(|a, b| (&a.vendor, &a.codename).cmp(&(&b.vendor, &b.codename)));
        let roles = trusted.troubles().values().map(|trouble| chain(trouble));
        let targets = trusted.devices().values().flat_map(|device| &device.refused).map(|refused| chain(refused));
        Self {
            id,
            timestamp_version: trusted.timestamp_version(),
            expires,
            expires_first,
            devices,
            troubles: roles.chain(targets).take(MAX_TROUBLES).collect(),
            roles: trusted.roles().clone(),
            offers: Offers::new(trusted),
        }
    }
}

/// The packages of a device by build, the newest build first.
fn builds(device: &TrustedDevice) -> Vec<Build> {
    let mut builds: BTreeMap<(&Channel, &BuildId), Build> = BTreeMap::new();
    for package in &device.packages {
        let custom = &package.custom;
        let channel = package.path.channel();
        let build = builds.entry((channel, &custom.to)).or_insert_with(|| Build {
            channel: channel.clone(),
            id: custom.to.clone(),
            version: custom.version.clone(),
            made: custom.timestamp,
            full: Vec::new(),
            deltas: Vec::new(),
        });
        let list = if custom.from.is_some() { &mut build.deltas } else { &mut build.full };
        list.push(Package {
            path: package.path.clone(),
            sha256: package.sha256,
            length: package.length,
            kind: custom.kind,
            from: custom.from.clone(),
            rollout: custom.rollout,
            withdrawn: custom.withdrawn,
        });
    }
    let mut builds: Vec<Build> = builds.into_values().collect();
    for build in &mut builds {
        build.full.sort_by_key(|package| package.length);
        build.deltas.sort_by_key(|package| package.length);
    }
    builds.sort_by(|a, b| b.made.cmp(&a.made).then_with(|| (&a.channel, &b.id).cmp(&(&b.channel, &a.id))));
    builds
}
