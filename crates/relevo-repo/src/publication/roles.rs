//! Who signs: keys, thresholds and dates of the roles.

use jiff::Timestamp;
use relevo_meta::{
    Scope,
    author::{DeviceFile, Draft, RegistryFile, RoleKeys, RootFile, TopRole, check_old},
    keys::PublicKey,
    log::LogKey,
};
use relevo_types::{Codename, TargetPath, Vendor};

use super::Publication;
use crate::{
    error::RepoError,
    log::LOG_SIGNER,
    repository::{after, drive},
};

/// The channel that a build machine may sign for.
const NIGHTLY: &str = "nightly";

/// A role, as the repository has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleState {
    /// Its name.
    pub role: String,
    /// What it may speak for: the pattern of its paths; none for the four top roles.
    pub paths: Option<String>,
    /// Who signs for it.
    pub keys: RoleKeys,
    /// Its version; 0 if it has never been published.
    pub version: u64,
    /// When it expires; none if it does not verify.
    pub expires: Option<Timestamp>,
}

/// Whose signatures a publication needs for a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The role.
    pub role: String,
    /// The keys, each group up to its threshold: for the root the old ones and the new ones.
    pub groups: Vec<RoleKeys>,
    /// Keys that the role had so far. If they are at hand they sign as well, so that phones take the file with the old
    /// root and with the new one.
    pub also: Vec<PublicKey>,
}

/// A role by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    Top(TopRole),
    Vendor(Vendor),
    Device(Codename),
    Nightly(Codename),
}

impl Publication<'_> {
    /// All roles with their keys: the top roles, the vendors and their devices.
    ///
    /// # Errors
    /// [`RepoError::Author`] for roles with keys that are none of ours, [`RepoError::BrokenRole`].
    pub fn roles(&mut self) -> Result<Vec<RoleState>, RepoError> {
        let mut names: Vec<String> = TopRole::ALL.iter().map(|role| role.name().to_owned()).collect();
        for vendor in self.targets()?.delegated() {
            names.push(vendor.clone());
            let Some(vendor) = vendor.strip_prefix("v-").and_then(|vendor| Vendor::parse(vendor).ok()) else {
                continue;
            };
            for device in self.vendor(&vendor)?.delegated() {
                names.push(device.clone());
                let Some(codename) = device.strip_prefix("d-").and_then(|name| Codename::parse(name).ok()) else {
                    continue;
                };
                // One device whose role is broken says nothing about the others.
                if self.load_device(&codename).is_ok() {
                    let nightly = format!("{device}-{NIGHTLY}");
                    names.extend(self.devices[&codename].1.role(&nightly).ok().flatten().map(|_| nightly));
                }
            }
        }
        names.iter().map(|role| self.role(role)).collect()
    }

    /// A role and its keys.
    ///
    /// # Errors
    /// [`RepoError::NoSuchRole`], and those of [`Self::roles`].
    pub fn role(&mut self, role: &str) -> Result<RoleState, RepoError> {
        let unknown = || RepoError::NoSuchRole { role: role.to_owned() };
        let name = self.name(role)?;
        let keys = self.keys(role)?.ok_or_else(unknown)?;
        let paths = match &name {
            Name::Top(_) => None,
            Name::Vendor(vendor) => Some(format!("{vendor}/*/*/*")),
            Name::Device(codename) => Some(format!("{}/{codename}/*/*", self.vendor_of(codename)?)),
            Name::Nightly(codename) => Some(format!("{}/{codename}/{NIGHTLY}/*", self.vendor_of(codename)?)),
        };
        let pinned = self.snapshot.roles().into_iter().find(|(name, _)| name == role).map(|(_, version)| version);
        let known = self.base.trusted.roles().get(role);
        let (version, expires) = match known {
            Some(file) => (file.version, Some(file.expires)),
            None => (pinned.unwrap_or(0), self.load_role(role).ok().and_then(|()| self.draft(role)?.expires())),
        };
        Ok(RoleState { role: role.to_owned(), paths, keys, version, expires })
    }

    /// The key of the transparency log, as this publication leaves it.
    pub(super) fn log_key(&self) -> Option<LogKey> {
        match &self.root {
            Some(root) => root.log(),
            None => self.base.trusted.log_key().cloned(),
        }
    }

    /// Names the key of the transparency log in the root, for the first time or in place of another.
    ///
    /// # Errors
    /// [`RepoError::BrokenRole`], [`RepoError::Author`] for a root of another shape.
    pub fn set_log(&mut self, key: &LogKey) -> Result<(), RepoError> {
        let root = self.root()?;
        if root.log().as_ref() != Some(key) {
            root.set_log(key).map_err(RepoError::author("root"))?;
            self.changed.insert("root".to_owned());
        }
        Ok(())
    }

    /// Gives a role these keys and this threshold; makes it if it is not there, a device's for `vendor`. What the role
    /// signed so far is signed anew if it would not count any more.
    ///
    /// # Errors
    /// [`RepoError::NoSuchRole`] without the role above, [`RepoError::WrongRole`] for a device without a vendor,
    /// [`RepoError::CodenameTaken`], and [`RepoError::Author`] for a threshold that the keys cannot reach.
    pub fn set_role(&mut self, role: &str, vendor: Option<&Vendor>, keys: &RoleKeys) -> Result<(), RepoError> {
        let is_new = match self.name(role)? {
            Name::Top(_) => false,
            _ => self.keys(role)?.is_none(),
        };
        let (delegator, changed) = match self.name(role)? {
            Name::Top(top) => {
                let root = self.root()?;
                let before = root.clone();
                root.set_role(top, &keys.keys, keys.threshold).map_err(RepoError::author("root"))?;
                ("root".to_owned(), *root != before)
            }
            Name::Vendor(vendor) => {
                let targets = self.targets()?;
                let before = targets.clone();
                targets.put_vendor(&vendor, &keys.keys, keys.threshold).map_err(RepoError::author("targets"))?;
                let changed = *targets != before;
                if is_new {
                    self.vendors.insert(vendor, RegistryFile::new(Timestamp::UNIX_EPOCH));
                }
                ("targets".to_owned(), changed)
            }
            Name::Device(codename) => {
                let owner = self.base.trusted.listed().get(&codename).cloned();
                let wrong = || RepoError::WrongRole {
                    role: role.to_owned(),
                    reason: "is new, and nothing says which vendor the device is of",
                };
                let vendor = match (owner, vendor) {
                    (Some(owner), Some(vendor)) if owner != *vendor && !is_new => {
                        return Err(RepoError::CodenameTaken { codename, vendor: owner });
                    }
                    (Some(owner), _) if !is_new => owner,
                    (_, vendor) => vendor.cloned().ok_or_else(wrong)?,
                };
                let name = format!("v-{vendor}");
                let registry = self.vendor(&vendor)?;
                let before = registry.clone();
                registry
                    .put_device(&vendor, &codename, &keys.keys, keys.threshold)
                    .map_err(RepoError::author(&name))?;
                let changed = *registry != before;
                if is_new {
                    self.devices.insert(codename, (vendor, DeviceFile::new(Timestamp::UNIX_EPOCH)));
                }
                (name, changed)
            }
            Name::Nightly(codename) => {
                let name = format!("d-{codename}");
                let vendor = self.load_device(&codename)?.0.clone();
                let (_, device) = self.devices.get_mut(&codename).expect("it was just loaded");
                let before = device.clone();
                device.put_nightly(&vendor, &codename, &keys.keys, keys.threshold).map_err(RepoError::author(&name))?;
                let changed = *device != before;
                if is_new {
                    self.nightlies.insert(codename, DeviceFile::new(Timestamp::UNIX_EPOCH));
                }
                (name, changed)
            }
        };
        if !changed {
            return Ok(());
        }
        self.changed.insert(delegator.clone());
        if is_new || !self.still_counts(role, &delegator)? {
            self.renew(role)?;
        }
        Ok(())
    }

    /// Ends a role: it is no longer delegated to, and nothing that it signs counts. Its last file stays listed in the
    /// snapshot, since phones take no snapshot from which a role has vanished.
    ///
    /// # Errors
    /// [`RepoError::NoSuchRole`]; [`RepoError::WrongRole`] for the top roles, without which there is no repository.
    pub fn retire(&mut self, role: &str) -> Result<(), RepoError> {
        let unknown = || RepoError::NoSuchRole { role: role.to_owned() };
        if self.keys(role)?.is_none() {
            return Err(unknown());
        }
        let delegator = match self.name(role)? {
            Name::Top(_) => {
                let reason = "is one of the four without which there is no repository";
                return Err(RepoError::WrongRole { role: role.to_owned(), reason });
            }
            Name::Vendor(_) => {
                self.targets()?.remove_role(role).map_err(RepoError::author("targets"))?;
                "targets".to_owned()
            }
            Name::Device(codename) => {
                let vendor = self.vendor_of(&codename)?;
                let name = format!("v-{vendor}");
                self.vendor(&vendor)?.remove_role(role).map_err(RepoError::author(&name))?;
                self.devices.remove(&codename);
                name
            }
            Name::Nightly(codename) => {
                let name = format!("d-{codename}");
                self.load_device(&codename)?;
                let (_, device) = self.devices.get_mut(&codename).expect("it was just loaded");
                device.remove_role(role).map_err(RepoError::author(&name))?;
                self.nightlies.remove(&codename);
                name
            }
        };
        self.changed.insert(delegator);
        Ok(())
    }

    /// Has a role signed anew with this date.
    ///
    /// # Errors
    /// As [`Self::renew`].
    pub fn expire(&mut self, role: &str, date: Timestamp) -> Result<(), RepoError> {
        self.renew(role)?;
        self.dates.insert(role.to_owned(), date);
        Ok(())
    }

    /// Has the timestamp signed anew, and the snapshot too once half of its time has passed.
    ///
    /// # Errors
    /// As [`Self::renew`].
    pub fn renew_online(&mut self, now: Timestamp) -> Result<(), RepoError> {
        let half = after(now, self.repository.expiries().snapshot / 2)?;
        if self.snapshot_expires() <= half {
            self.renew("snapshot")?;
        }
        self.renew("timestamp")
    }

    /// Whether a device's nightly channel has a role of its own, and whose signatures that one needs.
    ///
    /// # Errors
    /// As [`Self::role`].
    pub fn nightly_keys(&mut self, codename: &Codename) -> Result<Option<RoleKeys>, RepoError> {
        if self.load_device(codename).is_err() {
            return Ok(None);
        }
        self.keys(&format!("d-{codename}-{NIGHTLY}"))
    }

    /// Lets the role of a device's nightly channel sign what is published there from now on, rather than the device's.
    ///
    /// # Errors
    /// [`RepoError::NoSuchRole`], [`RepoError::BrokenRole`].
    pub fn use_nightly(&mut self, codename: &Codename) -> Result<(), RepoError> {
        self.load_nightly(codename)?;
        self.by_nightly.insert(codename.clone());
        Ok(())
    }

    /// Whose signatures [`Self::commit`] needs, for everything that did not come finished from a ceremony.
    ///
    /// # Errors
    /// As [`Self::role`].
    pub fn needs(&mut self) -> Result<Vec<Need>, RepoError> {
        let mut needs = Vec::new();
        for role in self.needed_signers() {
            if self.adopted.contains_key(&role) {
                continue;
            }
            if role == LOG_SIGNER {
                let keys = self.log_key().map(|key| RoleKeys::one(&PublicKey::from(*key.verifying_key())));
                needs.push(Need { role, groups: keys.into_iter().collect(), also: Vec::new() });
                continue;
            }
            let unknown = || RepoError::NoSuchRole { role: role.clone() };
            let keys = self.keys(&role)?.ok_or_else(unknown)?;
            let old = self.keys_so_far(&role)?;
            let (groups, also) = match old.filter(|old| *old != keys) {
                Some(old) if role == "root" => (vec![old, keys], Vec::new()),
                Some(old) => (vec![keys], old.keys),
                None => (vec![keys], Vec::new()),
            };
            needs.push(Need { role, groups, also });
        }
        Ok(needs)
    }

    /// The keys of a role as the publication has them; none for a role that nobody delegates to.
    pub(super) fn keys(&mut self, role: &str) -> Result<Option<RoleKeys>, RepoError> {
        match self.name(role)? {
            Name::Top(top) => self.root()?.role(top).map(Some).map_err(RepoError::author("root")),
            Name::Vendor(_) => self.targets()?.role(role).map_err(RepoError::author("targets")),
            Name::Device(codename) => {
                let known = self.devices.get(&codename).map(|(vendor, _)| vendor.clone());
                let vendor = known.or_else(|| self.base.trusted.listed().get(&codename).cloned());
                match vendor {
                    None => Ok(None),
                    Some(vendor) => self.vendor(&vendor)?.role(role).map_err(RepoError::author(&format!("v-{vendor}"))),
                }
            }
            Name::Nightly(codename) => {
                let name = format!("d-{codename}");
                let (_, device) = self.load_device(&codename)?;
                device.role(role).map_err(RepoError::author(&name))
            }
        }
    }

    /// The keys of a top role in the last published root.
    pub(super) fn keys_so_far(&self, role: &str) -> Result<Option<RoleKeys>, RepoError> {
        let Some(top) = TopRole::ALL.into_iter().find(|top| top.name() == role) else { return Ok(None) };
        let root = RootFile::edit(self.stored("root")?).map_err(RepoError::author("root"))?;
        root.role(top).map(Some).map_err(RepoError::author("root"))
    }

    /// What a name of a role says. `d-x-nightly` is the nightly channel of `x`, unless there is a device of that name.
    pub(super) fn name(&self, role: &str) -> Result<Name, RepoError> {
        let unknown = || RepoError::NoSuchRole { role: role.to_owned() };
        if let Some(top) = TopRole::ALL.into_iter().find(|top| top.name() == role) {
            return Ok(Name::Top(top));
        }
        if let Some(vendor) = role.strip_prefix("v-") {
            return Vendor::parse(vendor).map(Name::Vendor).map_err(|_| unknown());
        }
        let codename = role.strip_prefix("d-").ok_or_else(unknown)?;
        let is_device = |codename: &Codename| {
            self.devices.contains_key(codename) || self.base.trusted.listed().contains_key(codename)
        };
        let whole = Codename::parse(codename).ok();
        let device = codename.strip_suffix("-nightly").and_then(|device| Codename::parse(device).ok());
        match (whole, device) {
            (Some(whole), _) if is_device(&whole) => Ok(Name::Device(whole)),
            (_, Some(device)) if is_device(&device) => Ok(Name::Nightly(device)),
            (Some(whole), _) => Ok(Name::Device(whole)),
            (None, _) => Err(unknown()),
        }
    }

    pub(super) fn root(&mut self) -> Result<&mut RootFile, RepoError> {
        if self.root.is_none() {
            self.root = Some(RootFile::edit(self.stored("root")?).map_err(RepoError::author("root"))?);
        }
        Ok(self.root.as_mut().expect("it was just put there"))
    }

    /// The file of a role, once it was loaded.
    pub(super) fn draft(&self, role: &str) -> Option<&Draft> {
        match self.name(role).ok()? {
            Name::Top(TopRole::Root) => self.root.as_deref(),
            Name::Top(TopRole::Targets) => self.targets.as_deref(),
            Name::Top(TopRole::Snapshot) => Some(&self.snapshot),
            Name::Top(TopRole::Timestamp) => Some(&self.timestamp),
            Name::Vendor(vendor) => self.vendors.get(&vendor).map(|file| &**file),
            Name::Device(codename) => self.devices.get(&codename).map(|(_, file)| &**file),
            Name::Nightly(codename) => self.nightlies.get(&codename).map(|file| &**file),
        }
    }

    /// Loads a role's file for editing.
    pub(super) fn load_role(&mut self, role: &str) -> Result<(), RepoError> {
        let unknown = |_| RepoError::NoSuchRole { role: role.to_owned() };
        match self.name(role)? {
            Name::Top(TopRole::Root) => self.root().map(drop),
            Name::Top(TopRole::Targets) => self.targets().map(drop),
            Name::Top(_) => Ok(()),
            Name::Vendor(vendor) => self.vendor(&vendor).map(drop).map_err(unknown),
            Name::Device(codename) => self.load_device(&codename).map(drop),
            Name::Nightly(codename) => self.load_nightly(&codename).map(drop),
        }
    }

    pub(super) fn load_nightly(&mut self, codename: &Codename) -> Result<&mut DeviceFile, RepoError> {
        if !self.nightlies.contains_key(codename) {
            let role = format!("d-{codename}-{NIGHTLY}");
            let (vendor, device) = self.load_device(codename)?;
            let scope = Scope::Device { vendor: vendor.clone(), codename: codename.clone() };
            if device.role(&role).map_err(RepoError::author(&format!("d-{codename}")))?.is_none() {
                return Err(RepoError::NoSuchRole { role });
            }
            let read = |request: &relevo_meta::Request| self.repository.read_metadata(request);
            let state = drive(self.base.stored.clone(), scope, Timestamp::MIN, read)?;
            let (_, mut troubles) = state.trusted.into_parts();
            if let Some(error) = troubles.remove(&role) {
                return Err(RepoError::BrokenRole { role, source: Some(Box::new(error)) });
            }
            let bytes = state.stored.0.get(&format!("{role}.json"));
            let bytes = bytes.ok_or_else(|| RepoError::BrokenRole { role: role.clone(), source: None })?;
            let file = DeviceFile::edit(bytes).map_err(RepoError::author(&role))?;
            self.nightlies.insert(codename.clone(), file);
        }
        Ok(self.nightlies.get_mut(codename).expect("it was just put there"))
    }

    /// The role that a target is published by.
    pub(super) fn role_of(&self, path: &TargetPath) -> String {
        let codename = path.codename();
        // What the device's own role lists is found there first, by phones too.
        let own = self.devices.get(codename).is_some_and(|(_, file)| file.target(path).is_some());
        match path.channel().as_str() == NIGHTLY && self.by_nightly.contains(codename) && !own {
            true => format!("d-{codename}-{NIGHTLY}"),
            false => format!("d-{codename}"),
        }
    }

    fn vendor_of(&mut self, codename: &Codename) -> Result<Vendor, RepoError> {
        if let Some((vendor, _)) = self.devices.get(codename) {
            return Ok(vendor.clone());
        }
        let listed = self.base.trusted.listed().get(codename).cloned();
        listed.ok_or_else(|| RepoError::NoSuchDevice(codename.clone()))
    }

    /// Whether what a role signed so far still counts under the keys that its delegator gives it now.
    fn still_counts(&mut self, role: &str, delegator: &str) -> Result<bool, RepoError> {
        match self.name(role)? {
            // Phones look at the keys before they look at anything else, and both are signed at every turn anyway.
            Name::Top(TopRole::Root | TopRole::Snapshot | TopRole::Timestamp) => return Ok(false),
            _ => self.load_role(role)?,
        }
        let version =
            self.snapshot.roles().into_iter().find(|(name, _)| name == role).map_or(0, |(_, version)| version);
        let file = format!("{version}.{role}.json");
        let Ok(bytes) = std::fs::read(self.repository.metadata_path(&file)) else { return Ok(false) };
        let delegator = self.draft(delegator).expect("it was just changed").unsigned();
        Ok(check_old(&file, &bytes, role, version, &[delegator]).is_ok())
    }
}
