//! `sigstore-tuf`'s verification core, and what it leaves open: a key counts once, under however many ids it is listed.
//!
//! The core counts ids of keys, as `python-tuf` does. A delegator that lists one key under two ids, by mistake or to
//! pass for careful, would then ask for two signatures and be content with one person's.

use std::{collections::BTreeMap, ops::Deref};

use jiff::Timestamp as Time;
use sigstore_tuf::{Error, Key, Metadata, Role, RoleKeys, Root, Snapshot, Targets, Timestamp, TrustedMetadataSet};

type Result<T> = std::result::Result<T, Error>;

/// The trusted metadata. What only looks at it goes to the core as it is.
#[derive(Debug, Clone)]
pub(crate) struct Core(TrustedMetadataSet);

impl Deref for Core {
    type Target = TrustedMetadataSet;

    fn deref(&self) -> &TrustedMetadataSet {
        &self.0
    }
}

impl Core {
    pub(crate) fn from_root(bytes: &[u8]) -> Result<Self> {
        let core = TrustedMetadataSet::from_root(bytes)?;
        count_root::<Root>(bytes, core.root(), "root")?;
        Ok(Self(core))
    }

    pub(crate) fn update_root(&mut self, bytes: &[u8]) -> Result<()> {
        let mut next = self.0.clone();
        next.update_root(bytes)?;
        count_root::<Root>(bytes, self.0.root(), "root")?;
        count_root::<Root>(bytes, next.root(), "root")?;
        self.0 = next;
        Ok(())
    }

    pub(crate) fn update_timestamp(&mut self, bytes: &[u8], now: Time) -> Result<()> {
        count_root::<Timestamp>(bytes, self.0.root(), "timestamp")?;
        self.0.update_timestamp(bytes, now)
    }

    pub(crate) fn update_snapshot(&mut self, bytes: &[u8], now: Time) -> Result<()> {
        count_root::<Snapshot>(bytes, self.0.root(), "snapshot")?;
        self.0.update_snapshot(bytes, now)
    }

    pub(crate) fn update_targets(&mut self, bytes: &[u8], now: Time) -> Result<()> {
        count_root::<Targets>(bytes, self.0.root(), "targets")?;
        self.0.update_targets(bytes, now).map(|_| ())
    }

    pub(crate) fn update_delegated_targets(
        &mut self,
        bytes: &[u8],
        role: &str,
        delegator: &str,
        now: Time,
    ) -> Result<()> {
        if let Some((keys, role_keys)) = self.delegation(role, delegator) {
            count::<Targets>(bytes, keys, &role_keys, role)?;
        }
        self.0.update_delegated_targets(bytes, role, delegator, now).map(|_| ())
    }

    /// Whether a role that is loaded is also what this delegator delegates to.
    pub(crate) fn verify_delegated_targets(&self, role: &str, delegator: &str, now: Time) -> Result<()> {
        self.0.verify_delegated_targets(role, delegator, now)?;
        // The core does not hand out the signatures of what it has loaded, so that they cannot be counted again here. Two
        // delegators of one role, one of which lists a key twice, have no honest use.
        match self.delegation(role, delegator) {
            Some((keys, role_keys)) if distinct(keys, &role_keys).values().any(|ids| ids.len() > 1) => {
                Err(Error::ThresholdNotMet { role: role.to_owned(), found: 0, threshold: role_keys.threshold })
            }
            _ => Ok(()),
        }
    }

    /// The keys of a delegation. Of two delegations to one name the core takes the first, and so do we.
    fn delegation(&self, role: &str, delegator: &str) -> Option<(&BTreeMap<String, Key>, RoleKeys)> {
        let delegations = self.0.targets_role(delegator)?.delegations.as_ref()?;
        let delegated = delegations.roles.iter().find(|known| known.name == role)?;
        Some((&delegations.keys, delegated.role_keys()))
    }
}

fn count_root<T: Role>(bytes: &[u8], root: &Root, role: &str) -> Result<()> {
    match root.role(role) {
        Some(role_keys) => count::<T>(bytes, &root.keys, role_keys, role),
        // The core has a better word for it.
        None => Ok(()),
    }
}

/// Counts the keys that signed, where the role lists a key under several ids; all else is left to the core.
fn count<T: Role>(bytes: &[u8], keys: &BTreeMap<String, Key>, role_keys: &RoleKeys, role: &str) -> Result<()> {
    let distinct = distinct(keys, role_keys);
    if distinct.values().all(|ids| ids.len() == 1) {
        return Ok(());
    }
    let metadata = Metadata::<T>::from_slice(bytes)?;
    let mut found = 0;
    for ids in distinct.into_values() {
        let mut one = role_keys.clone();
        (one.keyids, one.threshold) = (ids, 1);
        match metadata.verify_threshold(keys, &one, role) {
            Ok(()) => found += 1,
            Err(Error::ThresholdNotMet { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    if found < role_keys.threshold {
        return Err(Error::ThresholdNotMet { role: role.to_owned(), found, threshold: role_keys.threshold });
    }
    Ok(())
}

/// The keys of a role, each with the ids under which it is listed. A key that cannot be read signs nothing.
fn distinct(keys: &BTreeMap<String, Key>, role_keys: &RoleKeys) -> BTreeMap<Vec<u8>, Vec<String>> {
    let mut distinct: BTreeMap<Vec<u8>, Vec<String>> = BTreeMap::new();
    for id in &role_keys.keyids {
        let Some(key) = keys.get(id).and_then(|key| key.verification_key().ok()) else { continue };
        let ids = distinct.entry(key.as_bytes().to_vec()).or_default();
        if !ids.contains(id) {
            ids.push(id.clone());
        }
    }
    distinct
}
