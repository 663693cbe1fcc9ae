//! A publication: changes are gathered, verified as a phone would, and committed by one rename.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use relevo_meta::{
    Custom, RoleFile, Scope, Stored, Target, TrustedDevice,
    author::{DeviceFile, Draft, RegistryFile, RoleKeys, RootFile, SnapshotFile, TimestampFile},
    chunks::{self, ChunkList},
    expiry::{self, Expiry},
    log::LogKey,
};
use relevo_types::{ByteLen, Codename, Sha256, TargetPath, Vendor};
use serde_json::{Map, Value, json};
use sha2::Digest as _;

use crate::{
    error::RepoError,
    gc, layout,
    log::{Coming, LOG_SIGNER},
    repository::{Base, Repository, after, drive, refused},
    signers::Signers,
    simulate,
};

mod ceremony;
mod roles;
mod signed;

pub use roles::{Need, RoleState};
pub(crate) use signed::targets;

/// A publication under way. It holds the repository's lock until it is dropped; dropped without
/// [`commit`](Self::commit), it changes nothing that phones see.
pub struct Publication<'a> {
    repository: &'a Repository,
    _lock: File,
    base: Base,
    snapshot: SnapshotFile,
    timestamp: TimestampFile,
    root: Option<RootFile>,
    targets: Option<RegistryFile>,
    vendors: BTreeMap<Vendor, RegistryFile>,
    devices: BTreeMap<Codename, (Vendor, DeviceFile)>,
    /// Roles below those of devices, for their nightly channels.
    nightlies: BTreeMap<Codename, DeviceFile>,
    /// Devices whose nightly channel is written by that role.
    by_nightly: BTreeSet<Codename>,
    /// Dates that were asked for, by role.
    dates: BTreeMap<String, Timestamp>,
    /// Finished files that a ceremony brought, by role.
    adopted: BTreeMap<String, Vec<u8>>,
    /// The ceremony that they come from.
    ceremony: Option<Sha256>,
    /// The devices that are touched, as the last published state has them.
    before: BTreeMap<Codename, TrustedDevice>,
    /// Roles that get a new version, `snapshot` and `timestamp` among them.
    changed: BTreeSet<String>,
    /// Directories below `targets/` with new entries that are not durable yet.
    unsynced: BTreeSet<PathBuf>,
    /// Whether the marker is on disk.
    marked: bool,
    /// Versions that interrupted publications may have shown to somebody before the power went, although they are not
    /// the current ones. They are never used again: a version has one content for ever.
    attempted: BTreeMap<String, u64>,
    /// The ceremony of which the interrupted publication was a part: what it would publish again is the same content.
    attempted_by: Option<Sha256>,
}

/// What became of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// The file.
    pub target: Target,
    /// Whether anything changed; false if the very same was published before.
    pub changed: bool,
}

/// What a publication did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// The roles that got a new version; empty if there was nothing to do.
    pub roles: Vec<String>,
    /// Version of the snapshot.
    pub snapshot_version: u64,
    /// Version of the timestamp.
    pub timestamp_version: u64,
    /// When the roles expire that were looked at: those that sign for what changed, and those above them.
    pub expiries: Vec<Expiry>,
}

/// What phones saw of a staged state.
struct Verified {
    roles: BTreeMap<String, RoleFile>,
    /// The key of the transparency log.
    log: Option<LogKey>,
    root_version: u64,
}

/// Bytes that are read, hashed and written at once.
const BUFFER: usize = 1 << 20;

impl<'a> Publication<'a> {
    pub(crate) fn start(repository: &'a Repository, lock: File) -> Result<Self, RepoError> {
        repository.finish_rotation()?;
        // Expired metadata is the usual reason to publish, so it is no obstacle here.
        // Devices are looked at one by one when they are touched, so that the cost does not grow with their number.
        let base = repository.base(Scope::Registries, Timestamp::MIN)?;
        let stored = |name: &str| base.stored.0.get(name).map(Vec::as_slice).unwrap_or_default();
        let snapshot = SnapshotFile::edit(stored("snapshot.json")).map_err(RepoError::author("snapshot"))?;
        let timestamp = TimestampFile::edit(stored("timestamp.json")).map_err(RepoError::author("timestamp"))?;
        let attempted = read_marker(repository)?;
        if attempted.is_some() {
            let removed = gc::sweep(repository)?;
            tracing::info!(files = removed.removed.len(), "removed what an interrupted publication left");
        }
        Ok(Self {
            repository,
            _lock: lock,
            base,
            snapshot,
            timestamp,
            root: None,
            targets: None,
            vendors: BTreeMap::new(),
            devices: BTreeMap::new(),
            nightlies: BTreeMap::new(),
            by_nightly: BTreeSet::new(),
            dates: BTreeMap::new(),
            adopted: BTreeMap::new(),
            ceremony: None,
            before: BTreeMap::new(),
            changed: BTreeSet::new(),
            unsynced: BTreeSet::new(),
            marked: attempted.is_some(),
            attempted_by: attempted.as_ref().and_then(|attempt| attempt.ceremony),
            attempted: attempted.map(|attempt| attempt.versions).unwrap_or_default(),
        })
    }

    /// The roles whose keys [`Self::commit`] needs, and `log` if the transparency log has to be signed; none if nothing
    /// changed.
    pub fn needed_signers(&self) -> Vec<String> {
        let mut roles: Vec<String> = self.changed.iter().cloned().collect();
        for online in ["snapshot", "timestamp"] {
            let follows = online == "timestamp" || self.changes_snapshot();
            if !roles.is_empty() && follows && !roles.iter().any(|role| role == online) {
                roles.push(online.to_owned());
            }
        }
        if self.needs_log() {
            roles.push(LOG_SIGNER.to_owned());
        }
        roles
    }

    /// Whether something of this publication goes into the transparency log, or is missing there from before.
    fn needs_log(&self) -> bool {
        let Some(key) = self.log_key().filter(|_| !self.changed.is_empty()) else { return false };
        let logged = self.changed.iter().any(|role| role != "snapshot" && role != "timestamp");
        // A log that cannot be read needs its key as well, if only to say so.
        logged || self.repository.log().is_behind(&key, self.base.trusted.root_version()).unwrap_or(true)
    }

    /// Registers a vendor, or gives it other keys.
    ///
    /// # Errors
    /// [`RepoError::Author`] for a threshold that the keys cannot reach.
    pub fn add_vendor(&mut self, vendor: &Vendor, keys: &RoleKeys) -> Result<(), RepoError> {
        self.set_role(&format!("v-{vendor}"), None, keys)
    }

    /// Registers a device of a vendor, or gives it other keys.
    ///
    /// # Errors
    /// [`RepoError::NoSuchVendor`], [`RepoError::CodenameTaken`], [`RepoError::WrongRole`], and [`RepoError::Author`] for
    /// a threshold that the keys cannot reach.
    pub fn add_device(&mut self, vendor: &Vendor, codename: &Codename, keys: &RoleKeys) -> Result<(), RepoError> {
        let owner = match self.devices.get(codename) {
            Some((owner, _)) => Some(owner),
            None => self.base.trusted.listed().get(codename),
        };
        if let Some(owner) = owner.filter(|owner| *owner != vendor) {
            return Err(RepoError::CodenameTaken { codename: codename.clone(), vendor: owner.clone() });
        }
        let role = format!("d-{codename}");
        if matches!(self.name(&role)?, roles::Name::Nightly(_)) {
            return Err(RepoError::WrongRole {
                role,
                reason: "would be the nightly channel's of a device that is here",
            });
        }
        self.set_role(&role, Some(vendor), keys)
    }

    /// Publishes a package together with its chunk list, which is made here: `<file>.chunks`.
    ///
    /// # Errors
    /// As [`Self::add_target`], and [`RepoError::Chunks`] for a file over 64 GiB.
    pub fn add_package(&mut self, path: &TargetPath, file: &Path, custom: &Custom) -> Result<Added, RepoError> {
        let chunks_path = chunks_path(path)?;
        let (target, list) = hash(file, true)?;
        let list = list.expect("a list was asked for").encode();
        let custom = Custom { chunks: Some(chunks_path.file().to_owned()), ..custom.clone() };

        // Both files are in place before either is listed, so that an error leaves nothing half said.
        let chunks = Target::of(&list);
        self.store(&chunks_path, chunks, &Source { path: file, bytes: Some(&list) })?;
        self.store(path, target, &Source { path: file, bytes: None })?;
        let chunks_changed = self.put_target(&chunks_path, chunks, &json!({"kind": "chunks"}))?;
        let changed = self.put_target(path, target, &custom.to_value())?;
        Ok(Added { target, changed: changed || chunks_changed })
    }

    /// Publishes a package anew under the path that it has, though its bytes are others: its signatures, after the keys of
    /// its role have changed. The file that it was stays for those who are loading it, until [`Repository::gc`] runs.
    ///
    /// # Errors
    /// As [`Self::add_package`] and [`Self::remove_target`].
    pub fn replace_package(&mut self, path: &TargetPath, file: &Path, custom: &Custom) -> Result<Added, RepoError> {
        self.remove_target(path)?;
        self.add_package(path, file, custom)
    }

    /// Publishes a file as a target. The same file with the same custom field again changes nothing.
    ///
    /// # Errors
    /// [`RepoError::NoSuchDevice`], [`RepoError::OtherContent`], [`RepoError::SourceChanged`], [`RepoError::Read`],
    /// [`RepoError::Write`].
    pub fn add_target(&mut self, path: &TargetPath, file: &Path, custom: &Value) -> Result<Added, RepoError> {
        let (target, _) = hash(file, false)?;
        self.store(path, target, &Source { path: file, bytes: None })?;
        let changed = self.put_target(path, target, custom)?;
        Ok(Added { target, changed })
    }

    /// Changes what is said about a published target: rollout, withdrawn, floor. What `change` leaves alone stays.
    ///
    /// # Errors
    /// [`RepoError::NoSuchDevice`], [`RepoError::NoSuchTarget`].
    pub fn edit_custom(
        &mut self,
        path: &TargetPath,
        change: impl FnOnce(&mut Map<String, Value>),
    ) -> Result<(), RepoError> {
        let role = self.role_of(path);
        let device = self.device(path)?;
        let before = device.target(path).ok_or_else(|| RepoError::NoSuchTarget(Box::new(path.clone())))?;
        device.edit_custom(path, change).map_err(RepoError::author(&role))?;
        if device.target(path) != Some(before) {
            self.changed.insert(role);
        }
        Ok(())
    }

    /// Stops publishing a target and, with a package, its chunk list. The files stay until [`Repository::gc`] finds
    /// that no kept snapshot needs them.
    ///
    /// # Errors
    /// [`RepoError::NoSuchDevice`], [`RepoError::NoSuchTarget`].
    pub fn remove_target(&mut self, path: &TargetPath) -> Result<(), RepoError> {
        let role = self.role_of(path);
        let device = self.device(path)?;
        let (_, custom) = device.target(path).ok_or_else(|| RepoError::NoSuchTarget(Box::new(path.clone())))?;
        device.remove_target(path).map_err(RepoError::author(&role))?;
        let list = custom.get("chunks").and_then(Value::as_str);
        let list = list.and_then(|file| TargetPath::new(path.vendor(), path.codename(), path.channel(), file).ok());
        if let Some(list) = list {
            device.remove_target(&list).map_err(RepoError::author(&role))?;
        }
        self.changed.insert(role);
        Ok(())
    }

    /// Has a role signed again although nothing in it changes, for a new expiry: `root`, `targets`, `snapshot`,
    /// `timestamp`, `v-<vendor>`, `d-<codename>` or `d-<codename>-nightly`.
    ///
    /// # Errors
    /// [`RepoError::NoSuchRole`], [`RepoError::BrokenRole`].
    pub fn renew(&mut self, role: &str) -> Result<(), RepoError> {
        if role != "snapshot" && role != "timestamp" {
            self.load_role(role)?;
        }
        self.changed.insert(role.to_owned());
        Ok(())
    }

    /// Signs what changed and publishes it. Without a change nothing is written and no key is needed.
    ///
    /// New target files are in place and durable first, then the transparency log, then the roles and the snapshot; the
    /// rename of `timestamp.json` is the commit. Before anything of the metadata is written, the new state has been verified as a
    /// new phone would, and as one that has the old state; then phones of each channel and build of the devices that changed
    /// are played on the old and the new state, so that none is left behind.
    ///
    /// # Errors
    /// [`RepoError::NoSigner`], [`RepoError::WouldBeRefused`], [`RepoError::NotForPhones`], [`RepoError::Write`]. After an error the old state
    /// stands, unless the error came from the very last step, when it is the new one.
    pub fn commit(mut self, signers: &Signers, now: Timestamp) -> Result<Published, RepoError> {
        if self.changed.is_empty() {
            if self.marked {
                // One that was cut after its last step but one: there is nothing to publish, only its mark to clear.
                self.unmark()?;
            }
            let trusted = &self.base.trusted;
            let (snapshot_version, timestamp_version) = (trusted.snapshot_version(), trusted.timestamp_version());
            let expiries = expiry::expiries(trusted.roles(), now);
            return Ok(Published { roles: Vec::new(), snapshot_version, timestamp_version, expiries });
        }
        let mut roles = self.needed_signers();
        roles.retain(|role| role != LOG_SIGNER);
        if let Some(path) = self.missing_files().into_iter().next() {
            return Err(RepoError::NotPlaced { path: Box::new(path) });
        }
        let staged = self.stage(signers, now)?;
        let Verified { roles: seen, log, root_version } = self.verify(&staged, now)?;
        let expiries = expiry::expiries(&seen, now);

        // A root that is seen is the root: there is no other of its version later.
        self.attempted.extend(staged.keys().filter_map(|name| match layout::metadata_name(name) {
            layout::MetadataName::Versioned { version, role } if role != "root" => Some((role, version)),
            _ => None,
        }));
        self.attempted_by = self.ceremony;
        self.attempted.insert("timestamp".to_owned(), self.timestamp.version());
        self.write_marker()?;
        self.repository.storage.sync_dirs(&self.unsynced)?;
        let trusted = &self.base.trusted;
        if let Some(key) = trusted.log_key() {
            let root_version = trusted.root_version();
            let coming = Coming { key, root_version, pinned: self.snapshot.roles(), staged: &staged };
            self.repository.log().append(&coming, signers)?;
        }
        match self.changed.contains("root") {
            true => self.repository.put_rotation(&staged)?,
            false => self.repository.put_metadata(&staged)?,
        }
        // A root is logged once it is the root: one that a cut kept from that may get another content.
        if let (true, Some(key)) = (self.changed.contains("root"), &log) {
            let coming = Coming { key, root_version, pinned: self.snapshot.roles(), staged: &BTreeMap::new() };
            self.repository.log().append(&coming, signers)?;
        }
        self.unmark()?;
        let (snapshot_version, timestamp_version) = (self.snapshot.version(), self.timestamp.version());
        Ok(Published { roles, snapshot_version, timestamp_version, expiries })
    }

    /// Version of the timestamp before this publication.
    pub(crate) fn timestamp_version(&self) -> u64 {
        self.base.trusted.timestamp_version()
    }

    pub(crate) fn snapshot_expires(&self) -> Timestamp {
        self.base.trusted.snapshot_expires()
    }

    /// Gives every changed role but the online ones its next version and date, unless it came finished; says which version
    /// each has.
    fn finish_drafts(&mut self, now: Timestamp) -> Result<Vec<(String, u64)>, RepoError> {
        let days = *self.repository.expiries();
        let pinned: BTreeMap<String, u64> = self.snapshot.roles().into_iter().collect();
        let mut drafts: Vec<(String, &mut Draft, u32)> = Vec::new();
        if let Some(root) = &mut self.root {
            drafts.push(("root".to_owned(), root, days.root));
        }
        if let Some(targets) = &mut self.targets {
            drafts.push(("targets".to_owned(), targets, days.targets));
        }
        drafts.extend(self.vendors.iter_mut().map(|(vendor, file)| (format!("v-{vendor}"), &mut **file, days.vendor)));
        drafts.extend(
            self.devices.iter_mut().map(|(codename, (_, file))| (format!("d-{codename}"), &mut **file, days.device)),
        );
        drafts.extend(
            self.nightlies
                .iter_mut()
                .map(|(codename, file)| (format!("d-{codename}-nightly"), &mut **file, days.nightly)),
        );
        let mut versions = Vec::new();
        for (role, draft, days) in drafts {
            if !self.changed.contains(&role) {
                continue;
            }
            if !self.adopted.contains_key(&role) {
                let so_far = match role.as_str() {
                    "root" => self.base.trusted.root_version(),
                    _ => {
                        let attempted = self.attempted.get(&role).copied().unwrap_or(0);
                        pinned.get(&role).copied().unwrap_or(0).max(attempted)
                    }
                };
                draft.set_version(so_far);
                draft.bump().map_err(RepoError::author(&role))?;
                let date = self.dates.get(&role).copied().map_or_else(|| after(now, days), Ok)?;
                draft.set_expires(date);
            }
            versions.push((role, draft.version()));
        }
        Ok(versions)
    }

    /// The new files by name, signed.
    fn stage(&mut self, signers: &Signers, now: Timestamp) -> Result<BTreeMap<String, Vec<u8>>, RepoError> {
        let days = *self.repository.expiries();
        let mut staged = BTreeMap::new();
        let mut listed = false;
        for (role, version) in self.finish_drafts(now)? {
            let bytes = match self.adopted.get(&role) {
                Some(bytes) => bytes.clone(),
                None => {
                    let draft = self.draft(&role).expect("a role that was just finished");
                    draft.sign(&signers.get(&role)?).map_err(RepoError::author(&role))?
                }
            };
            staged.insert(format!("{version}.{role}.json"), bytes);
            if role != "root" {
                self.snapshot.put_role(&role, version).map_err(RepoError::author("snapshot"))?;
                listed = true;
            }
        }
        if listed || self.changed.contains("snapshot") {
            let error = || RepoError::author("snapshot");
            let attempted = self.attempted.get("snapshot").copied().unwrap_or(0);
            let version = self.snapshot.version().max(attempted);
            self.snapshot.set_version(version);
            let version = self.snapshot.bump().map_err(error())?;
            let date = self.date("snapshot", days.snapshot, now)?;
            self.snapshot.set_expires(date);
            let bytes = self.snapshot.sign(&signers.get("snapshot")?).map_err(error())?;
            self.timestamp.set_snapshot(version, &bytes).map_err(RepoError::author("timestamp"))?;
            staged.insert(format!("{version}.snapshot.json"), bytes);
        }
        let error = || RepoError::author("timestamp");
        let attempted = self.attempted.get("timestamp").copied().unwrap_or(0);
        let version = self.timestamp.version().max(attempted);
        self.timestamp.set_version(version);
        self.timestamp.bump().map_err(error())?;
        let date = self.date("timestamp", days.timestamp, now)?;
        self.timestamp.set_expires(date);
        let bytes = self.timestamp.sign(&signers.get("timestamp")?).map_err(error())?;
        staged.insert("timestamp.json".to_owned(), bytes);
        Ok(staged)
    }

    /// Verifies the staged state as phones would: one that is new, and one that has the state before.
    fn verify(&self, staged: &BTreeMap<String, Vec<u8>>, now: Timestamp) -> Result<Verified, RepoError> {
        let mut verified = Verified { roles: BTreeMap::new(), log: None, root_version: 0 };
        let first = Stored::with_root(self.repository.first_root()?);
        let mut scopes: Vec<(Scope, Option<&Codename>)> = Vec::new();
        for (codename, (vendor, _)) in &self.devices {
            let own = [format!("d-{codename}"), format!("d-{codename}-nightly")];
            if own.iter().any(|role| self.changed.contains(role)) {
                let scope = Scope::Device { vendor: vendor.clone(), codename: codename.clone() };
                scopes.push((scope, Some(codename)));
            }
        }
        if self.changed.contains("targets") || self.changed.iter().any(|role| role.starts_with("v-")) {
            // A change of the registries can concern every device.
            scopes.push((Scope::Everything, None));
        } else if scopes.is_empty() {
            scopes.push((Scope::Registries, None));
        }
        // Troubles from before are not this publication's business; new ones are, also those of roles that it does not
        // write: a registry that gives a device other keys than its role is signed by harms that device.
        let known = self.known_troubles(&scopes, now)?;
        for (scope, codename) in scopes {
            for stored in [&first, &self.base.stored] {
                let read = |request: &relevo_meta::Request| match staged.get(&request.name) {
                    Some(bytes) => Ok(Some(bytes.clone())),
                    None => self.repository.read_metadata(request),
                };
                let state = drive(stored.clone(), scope.clone(), now, read).map_err(refused)?.trusted;
                verified.roles.extend(state.roles().clone());
                verified.log = state.log_key().cloned();
                verified.root_version = state.root_version();
                let (devices, troubles) = state.into_parts();
                let trouble =
                    troubles.into_iter().find(|(role, _)| self.changed.contains(role) || !known.contains(role));
                if let Some((_, error)) = trouble {
                    return Err(RepoError::WouldBeRefused(error));
                }
                let Some((codename, mut own)) = devices.into_iter().find(|(name, _)| Some(name) == codename) else {
                    continue;
                };
                if let Some(error) = own.refused.pop() {
                    return Err(RepoError::WouldBeRefused(error));
                }
                simulate::phones(self.before.get(&codename), &own, now)
                    .map_err(|fault| RepoError::NotForPhones(Box::new(fault)))?;
            }
        }
        Ok(verified)
    }

    /// Roles that do not verify in the last published state either, where the new one is looked at as a whole.
    fn known_troubles(
        &self,
        scopes: &[(Scope, Option<&Codename>)],
        now: Timestamp,
    ) -> Result<BTreeSet<String>, RepoError> {
        if !scopes.iter().any(|(scope, _)| *scope == Scope::Everything) {
            return Ok(BTreeSet::new());
        }
        let read = |request: &relevo_meta::Request| self.repository.read_metadata(request);
        // Without a look at dates, since those of the whole may have passed: that is why it is published anew.
        let trusted = drive(self.base.stored.clone(), Scope::Everything, Timestamp::MIN, read)?.trusted;
        let expired = trusted.roles().iter().filter(|(_, role)| role.expires <= now).map(|(name, _)| name.clone());
        let mut known: BTreeSet<String> = expired.collect();
        known.extend(trusted.into_parts().1.into_keys());
        Ok(known)
    }

    fn changes_snapshot(&self) -> bool {
        self.changed.iter().any(|role| role != "timestamp" && role != "root")
    }

    fn is_pinned(&self, role: &str) -> bool {
        self.snapshot.roles().iter().any(|(name, _)| name == role)
    }

    fn stored(&self, role: &str) -> Result<&[u8], RepoError> {
        let known = self.base.trusted.roles().contains_key(role);
        let bytes = self.base.stored.0.get(&format!("{role}.json")).filter(|_| known);
        bytes.map(Vec::as_slice).ok_or_else(|| RepoError::BrokenRole { role: role.to_owned(), source: None })
    }

    fn targets(&mut self) -> Result<&mut RegistryFile, RepoError> {
        if self.targets.is_none() {
            let file = RegistryFile::edit(self.stored("targets")?).map_err(RepoError::author("targets"))?;
            self.targets = Some(file);
        }
        Ok(self.targets.as_mut().expect("it was just put there"))
    }

    fn vendor(&mut self, vendor: &Vendor) -> Result<&mut RegistryFile, RepoError> {
        if !self.vendors.contains_key(vendor) {
            let role = format!("v-{vendor}");
            if !self.is_pinned(&role) {
                return Err(RepoError::NoSuchVendor(vendor.clone()));
            }
            let file = RegistryFile::edit(self.stored(&role)?).map_err(RepoError::author(&role))?;
            self.vendors.insert(vendor.clone(), file);
        }
        Ok(self.vendors.get_mut(vendor).expect("it was just put there"))
    }

    fn date(&self, role: &str, days: u32, now: Timestamp) -> Result<Timestamp, RepoError> {
        self.dates.get(role).copied().map_or_else(|| after(now, days), Ok)
    }

    /// The file that speaks for a path: the device's, or that of its nightly channel.
    fn device(&mut self, path: &TargetPath) -> Result<&mut DeviceFile, RepoError> {
        let codename = path.codename();
        let (vendor, _) = self.load_device(codename)?;
        if vendor != path.vendor() {
            let vendor = vendor.clone();
            return Err(RepoError::CodenameTaken { codename: codename.clone(), vendor });
        }
        if self.role_of(path) != format!("d-{codename}") {
            return self.load_nightly(&path.codename().clone());
        }
        let (_, file) = self.devices.get_mut(codename).expect("it was just loaded");
        Ok(file)
    }

    fn load_device(&mut self, codename: &Codename) -> Result<&(Vendor, DeviceFile), RepoError> {
        if !self.devices.contains_key(codename) {
            let role = format!("d-{codename}");
            if !self.is_pinned(&role) {
                return Err(RepoError::NoSuchDevice(codename.clone()));
            }
            let broken = |source| RepoError::BrokenRole { role: role.clone(), source };
            let vendor = self.base.trusted.listed().get(codename).ok_or_else(|| broken(None))?.clone();
            let scope = Scope::Device { vendor: vendor.clone(), codename: codename.clone() };
            let read = |request: &relevo_meta::Request| self.repository.read_metadata(request);
            let device = match drive(self.base.stored.clone(), scope, Timestamp::MIN, read) {
                Err(RepoError::Trust(error)) => return Err(broken(Some(Box::new(error)))),
                other => other?,
            };
            self.base.stored = device.stored;
            self.before.extend(device.trusted.into_parts().0);
            let bytes = self.base.stored.0.get(&format!("{role}.json")).ok_or_else(|| broken(None))?;
            let file = DeviceFile::edit(bytes).map_err(RepoError::author(&role))?;
            self.devices.insert(codename.clone(), (vendor, file));
        }
        Ok(&self.devices[codename])
    }

    /// Lists a target whose file is in place; says whether that changed anything.
    fn put_target(&mut self, path: &TargetPath, target: Target, custom: &Value) -> Result<bool, RepoError> {
        let role = self.role_of(path);
        let device = self.device(path)?;
        let changed = device.put_target(path, target, custom).map_err(RepoError::author(&role))?;
        if changed {
            if self.adopted.contains_key(&role) {
                return Err(RepoError::Adopted { path: Box::new(path.clone()) });
            }
            self.changed.insert(role);
        }
        Ok(changed)
    }

    /// Copies a target's file to its final name, unless it is there.
    fn store(&mut self, path: &TargetPath, target: Target, source: &Source<'_>) -> Result<(), RepoError> {
        if self.device(path)?.target(path).is_some_and(|(listed, _)| listed != target) {
            return Err(RepoError::OtherContent { path: Box::new(path.clone()) });
        }
        let to = self.repository.targets_dir().join(path.consistent(&target.sha256));
        // A file only gets such a name once it was hashed and made durable.
        if fs::metadata(&to).is_ok_and(|found| found.len() == target.length.get()) {
            return Ok(());
        }
        self.mark()?;
        let directory = to.parent().expect("a target lies in a directory").to_owned();
        self.repository.storage.create_dirs(&directory)?;
        self.copy_in(target, source, &to)?;
        self.unsynced.insert(directory);
        Ok(())
    }

    /// Copies a file to a target's final name.
    fn copy_in(&self, target: Target, source: &Source<'_>, to: &Path) -> Result<(), RepoError> {
        let storage = &self.repository.storage;
        let mut pending = storage.begin(to)?;
        let mut hasher = sha2::Sha256::new();
        let mut length = 0;
        source.for_each(|bytes| {
            hasher.update(bytes);
            length += bytes.len() as u64;
            storage.write(&mut pending, bytes)
        })?;
        let written = Target { length: ByteLen::new(length), sha256: Sha256::new(hasher.finalize().into()) };
        if written != target {
            return Err(RepoError::SourceChanged { path: source.path.to_owned() });
        }
        storage.finish(pending)
    }

    /// Says on disk that a publication is under way, so that the next one knows that there may be something to clear.
    fn mark(&mut self) -> Result<(), RepoError> {
        if self.marked { Ok(()) } else { self.write_marker() }
    }

    fn write_marker(&mut self) -> Result<(), RepoError> {
        let mut lines: String = self.attempted.iter().map(|(role, version)| format!("{role} {version}\n")).collect();
        if let Some(ceremony) = self.attempted_by {
            lines += &format!("{CEREMONY} {ceremony}\n");
        }
        let storage = &self.repository.storage;
        storage.put(&layout::marker(self.repository.directory()), lines.as_bytes())?;
        storage.sync_dir(self.repository.directory())?;
        self.marked = true;
        Ok(())
    }

    /// Ends the publication: the marker goes, or stays for attempts of earlier ones that still matter.
    fn unmark(&mut self) -> Result<(), RepoError> {
        let mut pinned: BTreeMap<String, u64> = self.snapshot.roles().into_iter().collect();
        pinned.insert("snapshot".to_owned(), self.snapshot.version());
        pinned.insert("timestamp".to_owned(), self.timestamp.version());
        self.attempted.retain(|role, version| pinned.get(role).is_none_or(|pinned| pinned < version));
        if !self.attempted.is_empty() {
            return self.write_marker();
        }
        self.marked = false;
        self.repository.storage.remove(&layout::marker(self.repository.directory()))
    }
}

/// How the line of the marker starts that names a ceremony; no role is called so.
const CEREMONY: &str = "ceremony";

/// What interrupted publications tried.
struct Attempt {
    versions: BTreeMap<String, u64>,
    ceremony: Option<Sha256>,
}

/// What interrupted publications tried, or `None` if none was interrupted.
fn read_marker(repository: &Repository) -> Result<Option<Attempt>, RepoError> {
    let path = layout::marker(repository.directory());
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(RepoError::read(path)(error)),
    };
    // A damaged line is as good as none: it only costs the skipped version.
    let lines = || text.lines().filter_map(|line| line.split_once(' '));
    let versions = lines().filter_map(|(role, version)| Some((role.to_owned(), version.parse().ok()?))).collect();
    let ceremony = lines().find(|(role, _)| *role == CEREMONY).and_then(|(_, id)| Sha256::parse(id).ok());
    Ok(Some(Attempt { versions, ceremony }))
}

impl std::fmt::Debug for Publication<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publication").field("changed", &self.changed).finish_non_exhaustive()
    }
}

/// Where a target's bytes come from.
struct Source<'a> {
    path: &'a Path,
    /// The bytes themselves, where they were made here.
    bytes: Option<&'a [u8]>,
}

impl Source<'_> {
    fn for_each(&self, mut take: impl FnMut(&[u8]) -> Result<(), RepoError>) -> Result<(), RepoError> {
        match self.bytes {
            Some(bytes) => take(bytes),
            None => read_through(self.path, take),
        }
    }
}

fn chunks_path(path: &TargetPath) -> Result<TargetPath, RepoError> {
    let file = format!("{}.chunks", path.file());
    TargetPath::new(path.vendor(), path.codename(), path.channel(), &file)
        .map_err(|source| RepoError::ChunkName { path: Box::new(path.clone()), source })
}

/// Hashes a file, and makes its chunk list on the way.
fn hash(path: &Path, with_chunks: bool) -> Result<(Target, Option<ChunkList>), RepoError> {
    let error = |source| RepoError::Chunks { path: path.to_owned(), source };
    let length = ByteLen::new(fs::metadata(path).map_err(RepoError::read(path))?.len());
    let mut builder = None;
    if with_chunks {
        builder =
            Some(chunks::chunk_size_for(length).and_then(|size| chunks::Builder::new(length, size)).map_err(error)?);
    }
    let mut hasher = sha2::Sha256::new();
    let mut read = 0;
    read_through(path, |bytes| {
        hasher.update(bytes);
        read += bytes.len() as u64;
        builder.as_mut().map_or(Ok(()), |builder| builder.update(bytes).map_err(error))
    })?;
    let list = builder.map(|builder| builder.finish().map_err(error)).transpose()?;
    Ok((Target { length: ByteLen::new(read), sha256: Sha256::new(hasher.finalize().into()) }, list))
}

fn read_through(path: &Path, mut take: impl FnMut(&[u8]) -> Result<(), RepoError>) -> Result<(), RepoError> {
    let mut file = File::open(path).map_err(RepoError::read(path))?;
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => take(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(RepoError::read(path)(error)),
        }
    }
}
