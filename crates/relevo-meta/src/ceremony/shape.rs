//! What a role file of ours looks like. Whoever signs looks at words; what the words do not cover must not be possible.

use jiff::Timestamp;
use relevo_types::{ByteLen, Codename, TargetPath, Vendor};
use serde_json::{Map, Value};

use crate::{
    Limits,
    author::{AuthorError, DeviceFile, RegistryFile, RootFile, TopRole},
    delegation,
};

/// Highest step of a version: interrupted publications skip a few, and what skips many wants to exhaust them.
const MAX_STEP: u64 = 1000;
/// Furthest date, in days from now.
const MAX_DAYS: i64 = 3660;

/// What is not as Relevo makes it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// No role that a ceremony is for.
    #[error(
        "ceremonies are for root, targets, v-VENDOR, d-CODENAME and d-CODENAME-nightly; the online roles are signed at its end"
    )]
    Role,
    /// A field that every file has.
    #[error("its {0:?} is missing or of another form")]
    Field(&'static str),
    /// The version does not follow.
    #[error("its version is {found}; expected {expected}")]
    Version {
        /// The version found.
        found: u64,
        /// The lowest expected.
        expected: u64,
    },
    /// A date beyond all plans.
    #[error("it would be valid until {expires}, which is more than ten years ahead")]
    Expiry {
        /// The date.
        expires: Timestamp,
    },
    /// Keys or thresholds that cannot be.
    #[error("its keys and thresholds do not fit together")]
    Keys(#[source] AuthorError),
    /// A threshold of none, or of more than there are keys.
    #[error("the role {role:?} would need {threshold} signatures of {keys} keys")]
    Threshold {
        /// The role.
        role: String,
        /// The threshold.
        threshold: usize,
        /// The number of keys.
        keys: usize,
    },
    /// A delegation that reaches too far, or is none of ours.
    #[error("its delegation to {name:?} has another name, other paths or another form than the role may give")]
    Delegation {
        /// The role delegated to.
        name: String,
    },
    /// A target that the role cannot speak for.
    #[error("it lists {path:?}, for which it cannot speak")]
    Target {
        /// The path.
        path: String,
    },
    /// Phones would not read so much.
    #[error("it is {length} long; phones read {limit} of such a file")]
    TooLong {
        /// Its length.
        length: ByteLen,
        /// The limit.
        limit: ByteLen,
    },
}

/// What a role is, as its name and its delegator say together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Root,
    Targets,
    Vendor(Vendor),
    Device(Vendor, Codename),
    Nightly(Vendor, Codename),
}

impl Kind {
    fn file_type(&self) -> &'static str {
        if *self == Self::Root { "root" } else { "targets" }
    }

    /// Name and paths of what the role may delegate to under this name.
    fn may_delegate(&self, name: &str) -> Option<String> {
        match self {
            Self::Targets => {
                let vendor = Vendor::parse(name.strip_prefix("v-")?).ok()?;
                Some(format!("{vendor}/*/*/*"))
            }
            Self::Vendor(vendor) => {
                let codename = Codename::parse(name.strip_prefix("d-")?).ok()?;
                Some(format!("{vendor}/{codename}/*/*"))
            }
            Self::Device(vendor, codename) if name == delegation::nightly_role(codename) => {
                Some(format!("{vendor}/{codename}/{}/*", delegation::NIGHTLY))
            }
            _ => None,
        }
    }

    fn may_list(&self, path: &TargetPath) -> bool {
        match self {
            Self::Device(vendor, codename) => path.vendor() == vendor && path.codename() == codename,
            Self::Nightly(vendor, codename) => {
                path.vendor() == vendor && path.codename() == codename && path.channel().as_str() == delegation::NIGHTLY
            }
            _ => false,
        }
    }
}

/// Checks a document. `base` is the version that it follows; 0 for none.
pub(super) fn check(
    kind: &Kind,
    signed: &Map<String, Value>,
    file: &[u8],
    base: u64,
    now: Timestamp,
) -> Result<Timestamp, ShapeError> {
    let text = |name: &'static str| signed.get(name).and_then(Value::as_str).ok_or(ShapeError::Field(name));
    if text("_type")? != kind.file_type() {
        return Err(ShapeError::Field("_type"));
    }
    if !text("spec_version")?.starts_with("1.") {
        return Err(ShapeError::Field("spec_version"));
    }
    let found = signed.get("version").and_then(Value::as_u64).ok_or(ShapeError::Field("version"))?;
    let expected = base.saturating_add(1);
    let last = if *kind == Kind::Root { expected } else { expected.saturating_add(MAX_STEP) };
    if !(expected..=last).contains(&found) {
        return Err(ShapeError::Version { found, expected });
    }
    let expires: Timestamp = text("expires")?.parse().map_err(|_| ShapeError::Field("expires"))?;
    if expires.as_second().saturating_sub(now.as_second()) > MAX_DAYS * 86_400 {
        return Err(ShapeError::Expiry { expires });
    }
    let limits = Limits::default();
    let limit = match kind {
        Kind::Root => limits.root,
        Kind::Targets => limits.targets,
        _ => limits.role,
    };
    let length = ByteLen::new(file.len() as u64);
    if length > limit {
        return Err(ShapeError::TooLong { length, limit });
    }
    match kind {
        Kind::Root => check_root(signed, file)?,
        Kind::Targets | Kind::Vendor(_) => {
            check_delegations(kind, signed, |name| RegistryFile::edit(file)?.role(name))?;
            check_targets(kind, signed)?;
        }
        Kind::Device(..) | Kind::Nightly(..) => {
            check_delegations(kind, signed, |name| DeviceFile::edit(file)?.role(name))?;
            check_targets(kind, signed)?;
        }
    }
    Ok(expires)
}

fn check_root(signed: &Map<String, Value>, file: &[u8]) -> Result<(), ShapeError> {
    if signed.get("consistent_snapshot") != Some(&Value::Bool(true)) {
        return Err(ShapeError::Field("consistent_snapshot"));
    }
    let root = RootFile::edit(file).map_err(ShapeError::Keys)?;
    for role in TopRole::ALL {
        let keys = root.role(role).map_err(ShapeError::Keys)?;
        check_threshold(role.name(), &keys)?;
    }
    let named = signed.get("roles").and_then(Value::as_object).map_or(0, Map::len);
    if named != TopRole::ALL.len() {
        return Err(ShapeError::Field("roles"));
    }
    Ok(())
}

fn check_threshold(role: &str, keys: &crate::author::RoleKeys) -> Result<(), ShapeError> {
    let mut ids: Vec<String> = keys.keys.iter().map(crate::keys::PublicKey::key_id).collect();
    ids.sort();
    ids.dedup();
    let distinct = ids.len();
    if distinct != keys.keys.len() || keys.threshold == 0 || keys.threshold > distinct {
        let (role, threshold) = (role.to_owned(), keys.threshold);
        return Err(ShapeError::Threshold { role, threshold, keys: distinct });
    }
    Ok(())
}

fn check_delegations(
    kind: &Kind,
    signed: &Map<String, Value>,
    keys: impl Fn(&str) -> Result<Option<crate::author::RoleKeys>, AuthorError>,
) -> Result<(), ShapeError> {
    let Some(delegations) = signed.get("delegations") else { return Ok(()) };
    let field = || ShapeError::Field("delegations");
    let roles = delegations.get("roles").and_then(Value::as_array).ok_or_else(field)?;
    let mut seen: Vec<&str> = Vec::new();
    for role in roles {
        let name = role.get("name").and_then(Value::as_str).ok_or_else(field)?;
        let refused = || ShapeError::Delegation { name: name.chars().take(80).collect() };
        let expected = kind.may_delegate(name).ok_or_else(refused)?;
        let paths: Vec<&str> =
            role.get("paths").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let terminating = role.get("terminating") == Some(&Value::Bool(true));
        if paths != [expected.as_str()]
            || !terminating
            || role.get("path_hash_prefixes").is_some()
            || seen.contains(&name)
        {
            return Err(refused());
        }
        seen.push(name);
        let keys = keys(name).map_err(ShapeError::Keys)?.ok_or_else(refused)?;
        check_threshold(name, &keys)?;
    }
    Ok(())
}

fn check_targets(kind: &Kind, signed: &Map<String, Value>) -> Result<(), ShapeError> {
    let targets = signed.get("targets").and_then(Value::as_object).ok_or(ShapeError::Field("targets"))?;
    for (path, entry) in targets {
        let refused = || ShapeError::Target { path: path.chars().take(200).collect() };
        let parsed = TargetPath::parse(path).map_err(|_| refused())?;
        let whole = entry.get("length").and_then(Value::as_u64).is_some()
            && entry.get("hashes").and_then(|hashes| hashes.get("sha256")).and_then(Value::as_str).is_some();
        if !kind.may_list(&parsed) || !whole {
            return Err(refused());
        }
    }
    Ok(())
}
