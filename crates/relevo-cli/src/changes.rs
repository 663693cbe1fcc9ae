//! Changes of roles, as `role` and `ceremony start` are asked for them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use relevo_meta::{author::RoleKeys, keys::PublicKey};
use relevo_repo::{Publication, RepoError};
use relevo_types::{Codename, Vendor};

use crate::{
    error::CliError,
    home::{Home, or_none},
    keyring::public_by_name,
};

/// Changes of roles. Those of one role are made together, so that a key can be replaced in one step.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Role and key.
    pub(crate) add: Vec<(String, String)>,
    /// Role and key.
    pub(crate) remove: Vec<(String, String)>,
    /// Role and threshold.
    pub(crate) threshold: Vec<(String, usize)>,
    /// Role and date.
    pub(crate) expire: Vec<(String, Timestamp)>,
    pub(crate) renew: Vec<String>,
    pub(crate) retire: Vec<String>,
    /// Of new devices.
    pub(crate) vendor: Option<Vendor>,
}

impl Changes {
    /// Makes them in a publication.
    pub(crate) fn make(&self, home: &Home, publication: &mut Publication<'_>) -> anyhow::Result<()> {
        let mut roles: Vec<&str> = Vec::new();
        let named = self.add.iter().chain(&self.remove).map(|(role, _)| role);
        for role in named.chain(self.threshold.iter().map(|(role, _)| role)) {
            if !roles.contains(&role.as_str()) {
                roles.push(role);
            }
        }
        // Vendors come before their devices, and devices before their nightly channels.
        roles.sort_by_key(|role| (role.starts_with("d-"), role.len()));
        for role in roles {
            let keys = self.keys(home, publication, role)?;
            let vendor = self.vendor_of(home, role)?;
            publication.set_role(role, vendor.as_ref(), &keys)?;
        }
        for (role, date) in &self.expire {
            publication.expire(role, *date)?;
        }
        for role in &self.renew {
            publication.renew(role)?;
        }
        for role in &self.retire {
            publication.retire(role)?;
        }
        Ok(())
    }

    /// The command that proposes them.
    pub(crate) fn as_ceremony(&self) -> String {
        let mut words = vec!["relevo ceremony start FILE".to_owned()];
        words.extend(self.add.iter().map(|(role, key)| format!("--add {role}={key}")));
        words.extend(self.remove.iter().map(|(role, key)| format!("--remove {role}={key}")));
        words.extend(self.threshold.iter().map(|(role, threshold)| format!("--threshold {role}={threshold}")));
        words.extend(self.expire.iter().map(|(role, date)| format!("--expire {role}={date}")));
        words.extend(self.renew.iter().map(|role| format!("--renew {role}")));
        words.extend(self.retire.iter().map(|role| format!("--retire {role}")));
        words.extend(self.vendor.iter().map(|vendor| format!("--vendor {vendor}")));
        words.join(" ")
    }

    /// The keys and the threshold that a role will have.
    fn keys(&self, home: &Home, publication: &mut Publication<'_>, role: &str) -> anyhow::Result<RoleKeys> {
        let mut keys = match publication.role(role) {
            Ok(state) => state.keys,
            Err(RepoError::NoSuchRole { .. } | RepoError::NoSuchDevice(_)) if self.adds(role) => {
                RoleKeys { keys: Vec::new(), threshold: 1 }
            }
            Err(error) => return Err(error.into()),
        };
        for (_, key) in self.add.iter().filter(|(to, _)| to == role) {
            let key = public_by_name(Some(home), key)?;
            if !keys.keys.contains(&key) {
                keys.keys.push(key);
            }
        }
        for (_, key) in self.remove.iter().filter(|(from, _)| from == role) {
            let key = find(home, role, &keys, key)?;
            keys.keys.retain(|known| *known != key);
        }
        if let Some((_, threshold)) = self.threshold.iter().rev().find(|(of, _)| of == role) {
            keys.threshold = *threshold;
        }
        if keys.threshold == 0 || keys.threshold > keys.keys.len() {
            let (threshold, keys) = (keys.threshold, keys.keys.len());
            return Err(CliError::Threshold { role: role.to_owned(), threshold, keys }.into());
        }
        Ok(keys)
    }

    fn adds(&self, role: &str) -> bool {
        self.add.iter().any(|(to, _)| to == role)
    }

    /// The vendor of a device's role: as it was said, else as the device's manifest says.
    fn vendor_of(&self, home: &Home, role: &str) -> Result<Option<Vendor>, CliError> {
        if self.vendor.is_some() {
            return Ok(self.vendor.clone());
        }
        let Some(Ok(codename)) = role.strip_prefix("d-").map(Codename::parse) else { return Ok(None) };
        match home.manifest(&codename) {
            Ok(manifest) => Ok(Some(manifest.vendor)),
            Err(CliError::NoDevice { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A key of a role, by its file, its name here, or the beginning of its id.
fn find(home: &Home, role: &str, keys: &RoleKeys, text: &str) -> Result<PublicKey, CliError> {
    let ids: BTreeMap<String, &PublicKey> = keys.keys.iter().map(|key| (key.key_id(), key)).collect();
    let mut by_id = ids.iter().filter(|(id, _)| text.len() >= 8 && id.starts_with(text));
    if let (Some((_, key)), None) = (by_id.next(), by_id.next()) {
        return Ok((*key).clone());
    }
    let named = public_by_name(Some(home), text)?;
    if keys.keys.contains(&named) {
        return Ok(named);
    }
    let known = or_none(&ids.into_keys().collect::<Vec<_>>());
    Err(CliError::NotItsKey { role: role.to_owned(), key: text.chars().take(100).collect(), known })
}
