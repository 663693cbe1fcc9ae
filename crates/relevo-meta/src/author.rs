//! Making, editing and signing metadata.
//!
//! Each role has its own type over the same [`Draft`]: the JSON object that will be signed. An edited file keeps what we
//! do not know, so that metadata made by other tools, or by later versions of ours, passes through unharmed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use relevo_types::{ByteLen, Codename, Sha256, TargetPath, Vendor};
use serde_json::{Map, Value, json};
use sigstore_tuf::{Key, Metadata, Role, Root, Snapshot, Targets};

use crate::{
    delegation,
    error::{Cause, TrustError, check_digits, from_core},
    keys::{PublicKey, SignError, Signer},
    log::LogKey,
    refresh::{GRACE_FIELD, LOG_FIELD, ROOT_FIELD},
    trusted::Target,
};

mod roles;

pub use roles::RoleKeys;

/// Version of the specification that we write.
const SPEC_VERSION: &str = "1.0.34";

/// Why metadata cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorError {
    /// The bytes are no metadata.
    #[error("the file to edit is no metadata")]
    Malformed(#[source] Cause),
    /// Metadata of another role.
    #[error("the file to edit is of type {found:?}; expected {expected:?}")]
    Type {
        /// The type wanted.
        expected: &'static str,
        /// The type found.
        found: String,
    },
    /// A field that must be there has another form.
    #[error("the file to edit has no usable {0:?}")]
    Field(&'static str),
    /// Versions have come to their end.
    #[error("version {0} has no successor")]
    LastVersion(u64),
    /// A threshold that the keys cannot reach.
    #[error("a threshold of {threshold} with {keys} keys")]
    Threshold {
        /// The threshold.
        threshold: usize,
        /// The number of different keys.
        keys: usize,
    },
    /// Nobody signs.
    #[error("nobody signs")]
    NoSigner,
    /// One key twice.
    #[error("the key {0} would sign twice")]
    TwiceTheSameKey(String),
    /// A signer did not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The role does not list the target.
    #[error("the role lists no {0}")]
    NoSuchTarget(Box<TargetPath>),
    /// A key that this crate did not write and so cannot write again.
    #[error(
        "the role has the key {0}, which is no Ed25519 key under the id that belongs to it; it is not changed here"
    )]
    ForeignKey(String),
}

/// The part of a metadata file that is signed, while it is being made.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    signed: Map<String, Value>,
}

/// The four roles that the root names itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TopRole {
    /// `root`
    Root,
    /// `targets`
    Targets,
    /// `snapshot`
    Snapshot,
    /// `timestamp`
    Timestamp,
}

impl TopRole {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Root, Self::Targets, Self::Snapshot, Self::Timestamp];

    /// The role's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Targets => "targets",
            Self::Snapshot => "snapshot",
            Self::Timestamp => "timestamp",
        }
    }
}

impl Draft {
    fn new(kind: &str, expires: Timestamp) -> Self {
        let value = json!({"_type": kind, "spec_version": SPEC_VERSION, "version": 1, "expires": whole(expires)});
        let Value::Object(signed) = value else { unreachable!("json! of an object is an object") };
        Self { signed }
    }

    fn edit(bytes: &[u8], expected: &'static str) -> Result<Self, AuthorError> {
        let value: Value = serde_json::from_slice(bytes).map_err(|source| AuthorError::Malformed(source.into()))?;
        let Some(Value::Object(signed)) = value.get("signed").cloned() else {
            return Err(AuthorError::Field("signed"));
        };
        let found = signed.get("_type").and_then(Value::as_str).unwrap_or_default();
        if found != expected {
            return Err(AuthorError::Type { expected, found: found.chars().take(40).collect() });
        }
        let draft = Self { signed };
        if draft.signed.get("version").and_then(Value::as_u64).is_none() {
            return Err(AuthorError::Field("version"));
        }
        Ok(draft)
    }

    /// The version.
    pub fn version(&self) -> u64 {
        self.signed.get("version").and_then(Value::as_u64).unwrap_or(0)
    }

    /// Sets the version.
    pub fn set_version(&mut self, version: u64) {
        self.signed.insert("version".to_owned(), version.into());
    }

    /// Moves to the next version.
    ///
    /// # Errors
    /// [`AuthorError::LastVersion`].
    pub fn bump(&mut self) -> Result<u64, AuthorError> {
        let version = self.version();
        let next = version.checked_add(1).ok_or(AuthorError::LastVersion(version))?;
        self.set_version(next);
        Ok(next)
    }

    /// When it expires, if that can be read.
    pub fn expires(&self) -> Option<Timestamp> {
        self.signed.get("expires")?.as_str()?.parse().ok()
    }

    /// Sets the expiry, in whole seconds.
    pub fn set_expires(&mut self, expires: Timestamp) {
        self.signed.insert("expires".to_owned(), whole(expires).into());
    }

    /// The object that will be signed.
    pub fn signed(&self) -> &Map<String, Value> {
        &self.signed
    }

    /// The object that will be signed, for fields that have no method here.
    pub fn signed_mut(&mut self) -> &mut Map<String, Value> {
        &mut self.signed
    }

    /// Signs by all `signers` and gives the finished file: compact JSON.
    ///
    /// # Errors
    /// [`AuthorError::NoSigner`], [`AuthorError::TwiceTheSameKey`], [`AuthorError::Sign`], and
    /// [`AuthorError::Malformed`] for values that canonical JSON does not know, such as fractions.
    pub fn sign(&self, signers: &[&dyn Signer]) -> Result<Vec<u8>, AuthorError> {
        seal(&self.signed, Vec::new(), signers)
    }

    fn object(&mut self, field: &'static str) -> Result<&mut Map<String, Value>, AuthorError> {
        let value = self.signed.entry(field).or_insert_with(|| Value::Object(Map::new()));
        value.as_object_mut().ok_or(AuthorError::Field(field))
    }
}

/// Adds signatures to a finished file without changing what is signed: how several people sign, one after the other.
///
/// A signature by the same key that is there already is replaced.
///
/// # Errors
/// As [`Draft::sign`].
pub fn add_signatures(bytes: &[u8], signers: &[&dyn Signer]) -> Result<Vec<u8>, AuthorError> {
    let value: Value = serde_json::from_slice(bytes).map_err(|source| AuthorError::Malformed(source.into()))?;
    let signed = value.get("signed").and_then(Value::as_object).ok_or(AuthorError::Field("signed"))?;
    let mut signatures = value.get("signatures").and_then(Value::as_array).cloned().unwrap_or_default();
    let ids: Vec<String> = signers.iter().map(|signer| signer.key_id()).collect();
    signatures.retain(|entry| {
        let id = entry.get("keyid").and_then(Value::as_str);
        !id.is_some_and(|id| ids.iter().any(|other| other == id))
    });
    seal(signed, signatures, signers)
}

/// Checks an old file that no current metadata pins: whether any of the `delegators` (roots, registries) would have
/// trusted it as `role` of this version. Expiry is not looked at.
///
/// # Errors
/// The [`TrustError`] of the last delegator that names the role; [`TrustError::Undelegated`] if none does.
pub fn check_old(file: &str, bytes: &[u8], role: &str, version: u64, delegators: &[Vec<u8>]) -> Result<(), TrustError> {
    crate::crypto::install_crypto();
    let mut result = Err(TrustError::Undelegated { file: file.to_owned(), role: role.to_owned() });
    for delegator in delegators {
        let (keys, role_keys) = if let Ok(root) = Metadata::<Root>::from_slice(delegator) {
            let Some(role_keys) = root.signed().role(role).cloned() else { continue };
            (root.signed().keys.clone(), role_keys)
        } else if let Ok(targets) = Metadata::<Targets>::from_slice(delegator) {
            let Some(delegations) = &targets.signed().delegations else { continue };
            let Some(role) = delegations.roles.iter().find(|known| known.name == role) else { continue };
            (delegations.keys.clone(), role.role_keys())
        } else {
            continue;
        };
        result = match role {
            "snapshot" => check_signed::<Snapshot>(file, bytes, role, version, &keys, &role_keys),
            "root" => check_signed::<Root>(file, bytes, role, version, &keys, &role_keys),
            _ => check_signed::<Targets>(file, bytes, role, version, &keys, &role_keys),
        };
        if result.is_ok() {
            break;
        }
    }
    result
}

fn check_signed<T: Role>(
    file: &str,
    bytes: &[u8],
    role: &str,
    version: u64,
    keys: &BTreeMap<String, Key>,
    role_keys: &sigstore_tuf::RoleKeys,
) -> Result<(), TrustError> {
    check_digits(file, bytes)?;
    let parsed = Metadata::<T>::from_slice(bytes).map_err(|error| from_core(error, file, role))?;
    let actual = parsed.signed().version();
    if actual != version {
        return Err(TrustError::WrongVersion { file: file.to_owned(), expected: version, actual });
    }
    parsed.verify_threshold(keys, role_keys, role).map_err(|error| from_core(error, file, role))
}

fn seal(
    signed: &Map<String, Value>,
    mut signatures: Vec<Value>,
    signers: &[&dyn Signer],
) -> Result<Vec<u8>, AuthorError> {
    if signers.is_empty() {
        return Err(AuthorError::NoSigner);
    }
    let signed = Value::Object(signed.clone());
    let canonical = sigstore_tuf::canonical_json::to_canonical_bytes(&signed)
        .map_err(|source| AuthorError::Malformed(source.into()))?;
    let mut ids = Vec::new();
    for signer in signers {
        let id = signer.key_id();
        if ids.contains(&id) {
            return Err(AuthorError::TwiceTheSameKey(id));
        }
        let signature: String = signer.sign(&canonical)?.iter().map(|byte| format!("{byte:02x}")).collect();
        signatures.push(json!({"keyid": id, "sig": signature}));
        ids.push(id);
    }
    let file = json!({"signatures": signatures, "signed": signed});
    Ok(serde_json::to_vec(&file).expect("a JSON value can be written"))
}

macro_rules! role_file {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name(pub(crate) Draft);

        impl $name {
            /// Opens a finished file for editing; signatures fall away, unknown fields stay.
            ///
            /// # Errors
            /// [`AuthorError::Malformed`], [`AuthorError::Type`], [`AuthorError::Field`].
            pub fn edit(bytes: &[u8]) -> Result<Self, AuthorError> {
                Draft::edit(bytes, $kind).map(Self)
            }
        }

        impl std::ops::Deref for $name {
            type Target = Draft;

            fn deref(&self) -> &Draft {
                &self.0
            }
        }

        impl std::ops::DerefMut for $name {
            fn deref_mut(&mut self) -> &mut Draft {
                &mut self.0
            }
        }
    };
}

role_file! {
    /// The root role: the keys of the four top-level roles.
    RootFile, "root"
}
role_file! {
    /// A role that delegates and lists no targets: `targets` (to vendors) and `v-<vendor>` (to devices).
    RegistryFile, "targets"
}
role_file! {
    /// A device's role: its targets.
    DeviceFile, "targets"
}
role_file! {
    /// The snapshot: the version of every other file. It carries no hashes, which keeps it under 3 KB compressed with
    /// 300 devices; so the content of a version never changes once it is published.
    SnapshotFile, "snapshot"
}
role_file! {
    /// The timestamp: which snapshot is the current one.
    TimestampFile, "timestamp"
}

impl RootFile {
    /// A root of version 1 without keys.
    pub fn new(expires: Timestamp) -> Self {
        let mut draft = Draft::new("root", expires);
        draft.signed.insert("consistent_snapshot".to_owned(), true.into());
        draft.signed.insert("keys".to_owned(), json!({}));
        draft.signed.insert("roles".to_owned(), json!({}));
        Self(draft)
    }

    /// Gives a role its keys; keys that no role uses any more are dropped.
    ///
    /// # Errors
    /// [`AuthorError::Threshold`], and [`AuthorError::Field`] for a root of another shape.
    pub fn set_role(&mut self, role: TopRole, keys: &[PublicKey], threshold: usize) -> Result<(), AuthorError> {
        let ids = key_ids(keys, threshold)?;
        add_keys(self.0.object("keys")?, keys);
        let roles = self.0.object("roles")?;
        let entry = roles.entry(role.name()).or_insert_with(|| json!({}));
        let entry = entry.as_object_mut().ok_or(AuthorError::Field("roles"))?;
        entry.insert("keyids".to_owned(), ids.into());
        entry.insert("threshold".to_owned(), threshold.into());
        let used = used_ids(roles.values());
        self.0.object("keys")?.retain(|id, _| used.contains(id));
        Ok(())
    }
}

impl RootFile {
    /// Lets phones take metadata from an offline source that their owner chose by hand up to `days` after the timestamp
    /// expired; 0 takes that back. Phones cap it at 90.
    ///
    /// # Errors
    /// [`AuthorError::Field`] for a root of another shape.
    pub fn set_offline_grace(&mut self, days: u32) -> Result<(), AuthorError> {
        self.0.object(ROOT_FIELD)?.insert(GRACE_FIELD.to_owned(), days.into());
        Ok(())
    }

    /// The key of the transparency log that it names.
    pub fn log(&self) -> Option<LogKey> {
        LogKey::parse(self.0.signed.get(ROOT_FIELD)?.get(LOG_FIELD)?.as_str()?).ok()
    }

    /// Names the key of the transparency log. Another key under the same name goes on with the log; another name begins a
    /// new one, and phones forget what they knew of the old one.
    ///
    /// # Errors
    /// [`AuthorError::Field`] for a root of another shape.
    pub fn set_log(&mut self, key: &LogKey) -> Result<(), AuthorError> {
        self.0.object(ROOT_FIELD)?.insert(LOG_FIELD.to_owned(), key.to_string().into());
        Ok(())
    }
}

impl RegistryFile {
    /// A registry of version 1 that delegates nothing.
    pub fn new(expires: Timestamp) -> Self {
        let mut draft = Draft::new("targets", expires);
        draft.signed.insert("targets".to_owned(), json!({}));
        draft.signed.insert("delegations".to_owned(), json!({"keys": {}, "roles": []}));
        Self(draft)
    }

    /// Delegates a vendor's paths to its role `v-<vendor>`, or changes that delegation's keys.
    ///
    /// # Errors
    /// [`AuthorError::Threshold`], [`AuthorError::Field`].
    pub fn put_vendor(&mut self, vendor: &Vendor, keys: &[PublicKey], threshold: usize) -> Result<(), AuthorError> {
        self.0.delegate(&delegation::vendor_role(vendor), format!("{vendor}/*/*/*"), keys, threshold)
    }

    /// Delegates a device's paths to its role `d-<codename>`, or changes that delegation's keys.
    ///
    /// # Errors
    /// [`AuthorError::Threshold`], [`AuthorError::Field`].
    pub fn put_device(
        &mut self,
        vendor: &Vendor,
        codename: &Codename,
        keys: &[PublicKey],
        threshold: usize,
    ) -> Result<(), AuthorError> {
        self.0.delegate(&delegation::device_role(codename), format!("{vendor}/{codename}/*/*"), keys, threshold)
    }

    /// Names of the roles that this one delegates to, in order.
    pub fn delegated(&self) -> Vec<String> {
        let roles = self.0.signed.get("delegations").and_then(|delegations| delegations.get("roles"));
        let names = roles.and_then(Value::as_array).into_iter().flatten();
        names.filter_map(|role| role.get("name")?.as_str().map(str::to_owned)).collect()
    }
}

impl DeviceFile {
    /// A device role of version 1 without targets.
    pub fn new(expires: Timestamp) -> Self {
        let mut draft = Draft::new("targets", expires);
        draft.signed.insert("targets".to_owned(), json!({}));
        Self(draft)
    }

    /// Lists a target, or replaces what is listed; says whether that changed anything.
    ///
    /// # Errors
    /// [`AuthorError::Field`].
    pub fn put_target(&mut self, path: &TargetPath, target: Target, custom: &Value) -> Result<bool, AuthorError> {
        let mut entry = json!({"length": target.length, "hashes": {"sha256": target.sha256}});
        if !custom.is_null() {
            entry["custom"] = custom.clone();
        }
        let targets = self.0.object("targets")?;
        if targets.get(&path.to_string()) == Some(&entry) {
            return Ok(false);
        }
        targets.insert(path.to_string(), entry);
        Ok(true)
    }

    /// Stops listing a target; says whether it was listed.
    ///
    /// # Errors
    /// [`AuthorError::Field`].
    pub fn remove_target(&mut self, path: &TargetPath) -> Result<bool, AuthorError> {
        Ok(self.0.object("targets")?.remove(&path.to_string()).is_some())
    }

    /// What is listed under `path`: the target and its custom field.
    pub fn target(&self, path: &TargetPath) -> Option<(Target, Value)> {
        let entry = self.0.signed.get("targets")?.get(path.to_string())?;
        let length = ByteLen::new(entry.get("length")?.as_u64()?);
        let sha256 = Sha256::parse(entry.get("hashes")?.get("sha256")?.as_str()?).ok()?;
        Some((Target { length, sha256 }, entry.get("custom").cloned().unwrap_or(Value::Null)))
    }

    /// Changes a target's custom field in place, keeping what `change` does not touch.
    ///
    /// # Errors
    /// [`AuthorError::NoSuchTarget`], [`AuthorError::Field`].
    pub fn edit_custom(
        &mut self,
        path: &TargetPath,
        change: impl FnOnce(&mut Map<String, Value>),
    ) -> Result<(), AuthorError> {
        let targets = self.0.object("targets")?;
        let entry =
            targets.get_mut(&path.to_string()).ok_or_else(|| AuthorError::NoSuchTarget(Box::new(path.clone())))?;
        let entry = entry.as_object_mut().ok_or(AuthorError::Field("targets"))?;
        let custom = entry.entry("custom").or_insert_with(|| json!({}));
        change(custom.as_object_mut().ok_or(AuthorError::Field("custom"))?);
        Ok(())
    }

    /// Paths of all targets, as they are written.
    pub fn paths(&self) -> Vec<String> {
        let targets = self.0.signed.get("targets").and_then(Value::as_object);
        targets.into_iter().flat_map(|targets| targets.keys().cloned()).collect()
    }
}

impl SnapshotFile {
    /// A snapshot of version 1 that lists nothing.
    pub fn new(expires: Timestamp) -> Self {
        let mut draft = Draft::new("snapshot", expires);
        draft.signed.insert("meta".to_owned(), json!({}));
        Self(draft)
    }

    /// Lists the version of a role.
    ///
    /// # Errors
    /// [`AuthorError::Field`].
    pub fn put_role(&mut self, role: &str, version: u64) -> Result<(), AuthorError> {
        let entry = self.0.object("meta")?.entry(format!("{role}.json")).or_insert_with(|| json!({}));
        entry.as_object_mut().ok_or(AuthorError::Field("meta"))?.insert("version".to_owned(), version.into());
        Ok(())
    }

    /// Versions of all listed roles.
    pub fn roles(&self) -> Vec<(String, u64)> {
        let meta = self.0.signed.get("meta").and_then(Value::as_object);
        let entries = meta.into_iter().flatten();
        entries
            .filter_map(|(name, entry)| Some((name.strip_suffix(".json")?.to_owned(), entry.get("version")?.as_u64()?)))
            .collect()
    }
}

impl TimestampFile {
    /// A timestamp of version 1 that names no snapshot.
    pub fn new(expires: Timestamp) -> Self {
        let mut draft = Draft::new("timestamp", expires);
        draft.signed.insert("meta".to_owned(), json!({}));
        Self(draft)
    }

    /// Names the current snapshot.
    ///
    /// # Errors
    /// [`AuthorError::Field`].
    pub fn set_snapshot(&mut self, version: u64, bytes: &[u8]) -> Result<(), AuthorError> {
        let Target { length, sha256 } = Target::of(bytes);
        let entry = json!({"version": version, "length": length, "hashes": {"sha256": sha256}});
        self.0.object("meta")?.insert("snapshot.json".to_owned(), entry);
        Ok(())
    }
}

fn whole(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

fn key_ids(keys: &[PublicKey], threshold: usize) -> Result<Vec<String>, AuthorError> {
    let mut ids: Vec<String> = keys.iter().map(PublicKey::key_id).collect();
    ids.sort();
    ids.dedup();
    if threshold == 0 || threshold > ids.len() {
        return Err(AuthorError::Threshold { threshold, keys: ids.len() });
    }
    Ok(ids)
}

fn add_keys(into: &mut Map<String, Value>, keys: &[PublicKey]) {
    for key in keys {
        // A key that is there stays as it is written, with whatever else its owner noted beside it.
        into.entry(key.key_id()).or_insert_with(|| key.to_value());
    }
}

fn used_ids<'a>(roles: impl Iterator<Item = &'a Value>) -> Vec<String> {
    roles
        .filter_map(|role| role.get("keyids")?.as_array())
        .flatten()
        .filter_map(|id| id.as_str().map(str::to_owned))
        .collect()
}
