//! Who signs for the roles that a file names, as it is written there.

use relevo_types::{Codename, Vendor};
use serde_json::{Map, Value, json};

use super::{AuthorError, DeviceFile, Draft, RegistryFile, RootFile, TopRole, add_keys, key_ids, used_ids};
use crate::{delegation, keys::PublicKey};

/// Who signs for a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleKeys {
    /// The keys.
    pub keys: Vec<PublicKey>,
    /// How many of them have to sign.
    pub threshold: usize,
}

impl RoleKeys {
    /// One key that signs alone.
    pub fn one(key: &PublicKey) -> Self {
        Self { keys: vec![key.clone()], threshold: 1 }
    }

    /// Whether a key of this id is one of them.
    pub fn has(&self, key_id: &str) -> bool {
        self.keys.iter().any(|key| key.key_id() == key_id)
    }
}

impl Draft {
    /// The file as it stands, without a signature: for showing and comparing.
    pub fn unsigned(&self) -> Vec<u8> {
        let file = json!({"signatures": [], "signed": self.signed});
        serde_json::to_vec(&file).expect("a JSON value can be written")
    }

    /// A delegation of this file and the keys that it lists; none if there is no such delegation.
    pub(super) fn delegation(&self, name: &str) -> Result<Option<RoleKeys>, AuthorError> {
        let Some(delegations) = self.signed.get("delegations") else { return Ok(None) };
        let roles = delegations.get("roles").and_then(Value::as_array).into_iter().flatten();
        let Some(role) = roles.into_iter().find(|role| role.get("name").and_then(Value::as_str) == Some(name)) else {
            return Ok(None);
        };
        role_keys(role, delegations.get("keys")).map(Some)
    }

    /// Adds a terminating delegation for one pattern of paths, or changes its keys.
    pub(super) fn delegate(
        &mut self,
        name: &str,
        path: String,
        keys: &[PublicKey],
        threshold: usize,
    ) -> Result<(), AuthorError> {
        let ids = key_ids(keys, threshold)?;
        let delegations = self.object("delegations")?;
        let field = || AuthorError::Field("delegations");
        add_keys(delegations.entry("keys").or_insert_with(|| json!({})).as_object_mut().ok_or_else(field)?, keys);
        let roles = delegations.entry("roles").or_insert_with(|| json!([])).as_array_mut().ok_or_else(field)?;
        let known = roles.iter().position(|role| role.get("name").and_then(Value::as_str) == Some(name));
        let index = known.unwrap_or_else(|| {
            roles.push(json!({"name": name}));
            roles.len() - 1
        });
        let role = roles[index].as_object_mut().ok_or_else(field)?;
        role.insert("keyids".to_owned(), ids.into());
        role.insert("threshold".to_owned(), threshold.into());
        role.insert("terminating".to_owned(), true.into());
        role.insert("paths".to_owned(), json!([path]));
        drop_unused(delegations)
    }

    /// Ends a delegation; says whether there was one.
    fn undelegate(&mut self, name: &str) -> Result<bool, AuthorError> {
        let delegations = self.object("delegations")?;
        let Some(roles) = delegations.get_mut("roles").and_then(Value::as_array_mut) else { return Ok(false) };
        let before = roles.len();
        roles.retain(|role| role.get("name").and_then(Value::as_str) != Some(name));
        let removed = roles.len() < before;
        drop_unused(delegations)?;
        Ok(removed)
    }
}

impl RootFile {
    /// The keys of a top-level role.
    ///
    /// # Errors
    /// [`AuthorError::Field`] for a root of another shape, [`AuthorError::ForeignKey`] for a key that is none of ours.
    pub fn role(&self, role: TopRole) -> Result<RoleKeys, AuthorError> {
        let entry = self.0.signed.get("roles").and_then(|roles| roles.get(role.name()));
        role_keys(entry.ok_or(AuthorError::Field("roles"))?, self.0.signed.get("keys"))
    }
}

impl RegistryFile {
    /// The keys of a role that this one delegates to; none if it does not.
    ///
    /// # Errors
    /// As [`RootFile::role`].
    pub fn role(&self, name: &str) -> Result<Option<RoleKeys>, AuthorError> {
        self.0.delegation(name)
    }

    /// Stops delegating to a role; says whether it did. The role's file stays listed in the snapshot, since phones take
    /// none in which a role has vanished.
    ///
    /// # Errors
    /// [`AuthorError::Field`].
    pub fn remove_role(&mut self, name: &str) -> Result<bool, AuthorError> {
        self.0.undelegate(name)
    }
}

impl DeviceFile {
    /// Delegates a device's nightly channel, `<vendor>/<codename>/nightly/*`, to its role `d-<codename>-nightly`, or
    /// changes that delegation's keys: for a build machine, which signs alone and can reach nothing else.
    ///
    /// # Errors
    /// [`AuthorError::Threshold`], [`AuthorError::Field`].
    pub fn put_nightly(
        &mut self,
        vendor: &Vendor,
        codename: &Codename,
        keys: &[PublicKey],
        threshold: usize,
    ) -> Result<(), AuthorError> {
        let path = format!("{vendor}/{codename}/{}/*", delegation::NIGHTLY);
        self.0.delegate(&delegation::nightly_role(codename), path, keys, threshold)
    }

    /// The keys of a role that this one delegates to; none if it does not.
    ///
    /// # Errors
    /// As [`RootFile::role`].
    pub fn role(&self, name: &str) -> Result<Option<RoleKeys>, AuthorError> {
        self.0.delegation(name)
    }

    /// As [`RegistryFile::remove_role`].
    ///
    /// # Errors
    /// [`AuthorError::Field`].
    pub fn remove_role(&mut self, name: &str) -> Result<bool, AuthorError> {
        if !self.0.signed.contains_key("delegations") {
            return Ok(false);
        }
        let removed = self.0.undelegate(name)?;
        let empty = self.0.object("delegations")?.get("roles").and_then(Value::as_array).is_none_or(Vec::is_empty);
        if empty {
            self.0.signed.remove("delegations");
        }
        Ok(removed)
    }
}

fn role_keys(role: &Value, keys: Option<&Value>) -> Result<RoleKeys, AuthorError> {
    let ids = role.get("keyids").and_then(Value::as_array).ok_or(AuthorError::Field("keyids"))?;
    let threshold = role.get("threshold").and_then(Value::as_u64).and_then(|number| usize::try_from(number).ok());
    let mut found = Vec::new();
    for id in ids {
        let id = id.as_str().ok_or(AuthorError::Field("keyids"))?;
        let key = keys.and_then(|keys| keys.get(id)).and_then(PublicKey::from_value);
        match key.filter(|key| key.key_id() == id) {
            Some(key) => found.push(key),
            None => return Err(AuthorError::ForeignKey(id.chars().take(80).collect())),
        }
    }
    Ok(RoleKeys { keys: found, threshold: threshold.ok_or(AuthorError::Field("threshold"))? })
}

fn drop_unused(delegations: &mut Map<String, Value>) -> Result<(), AuthorError> {
    let field = || AuthorError::Field("delegations");
    let roles = delegations.get("roles").and_then(Value::as_array).ok_or_else(field)?;
    let used = used_ids(roles.iter());
    let keys = delegations.get_mut("keys").and_then(Value::as_object_mut).ok_or_else(field)?;
    keys.retain(|id, _| used.contains(id));
    Ok(())
}
