//! A proposal against the reader's own verified copy of the repository: what it changes, who has signed, who is missing.

use std::collections::BTreeMap;

use jiff::Timestamp;
use relevo_types::{Codename, Sha256, Vendor};
use serde::Serialize;
use serde_json::Value;

use super::{
    CeremonyError, Document, Proposal,
    shape::{self, Kind, ShapeError},
    words,
};
use crate::{
    Target,
    author::{AuthorError, RegistryFile, RoleKeys, RootFile, TopRole},
    delegation,
    keys::PublicKey,
};

/// A verified state of the repository: the files of all its roles as they were verified.
#[derive(Debug, Clone)]
pub struct Ground {
    repository: Sha256,
    files: BTreeMap<String, Vec<u8>>,
}

/// A proposal that fits to a repository, in words and numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Review {
    /// Names the proposal: what signers compare.
    pub id: Sha256,
    /// Its documents, in the order of the file.
    pub documents: Vec<Reviewed>,
}

/// One document of a proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reviewed {
    /// The role.
    pub role: String,
    /// The version that it has now; none if it is new.
    pub from: Option<u64>,
    /// The version that it would have.
    pub version: u64,
    /// Until when it would be valid.
    pub expires: Timestamp,
    /// What would change, a sentence each.
    pub changes: Vec<String>,
    /// What a signer should think about twice.
    pub warnings: Vec<String>,
    /// Who has to sign; all of them.
    pub groups: Vec<Group>,
}

/// Keys of which so many have to sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Whose keys these are: `targets`, or for the root both `root 3` and `root 4`.
    pub name: String,
    /// Ids of all of them.
    pub keys: Vec<String>,
    /// How many have to sign.
    pub threshold: usize,
    /// Ids of those that have signed.
    pub signed: Vec<String>,
}

impl Group {
    /// How many signatures are missing.
    pub fn missing(&self) -> usize {
        self.threshold.saturating_sub(self.signed.len())
    }
}

impl Reviewed {
    /// Whether everybody has signed who has to.
    pub fn is_complete(&self) -> bool {
        self.groups.iter().all(|group| group.missing() == 0)
    }

    /// Whether a key has a say in it and has not signed yet.
    pub fn waits_for(&self, key_id: &str) -> bool {
        let has = |ids: &[String]| ids.iter().any(|id| id == key_id);
        self.groups.iter().any(|group| has(&group.keys) && !has(&group.signed))
    }
}

impl Review {
    /// Whether everybody has signed who has to.
    pub fn is_complete(&self) -> bool {
        self.documents.iter().all(Reviewed::is_complete)
    }

    /// The roles for which a key may sign and has not.
    pub fn waits_for(&self, key_id: &str) -> Vec<&str> {
        let documents = self.documents.iter().filter(|document| document.waits_for(key_id));
        documents.map(|document| document.role.as_str()).collect()
    }

    /// Whether a key has any say in it.
    pub fn knows(&self, key_id: &str) -> bool {
        let groups = self.documents.iter().flat_map(|document| &document.groups);
        groups.flat_map(|group| &group.keys).any(|id| id == key_id)
    }
}

impl Ground {
    /// The files of a repository by role (`root`, `targets`, `v-xiaomi`, …), all verified by the caller, and the SHA-256
    /// of its first root.
    pub fn new(repository: Sha256, files: BTreeMap<String, Vec<u8>>) -> Self {
        Self { repository, files }
    }

    /// SHA-256 of the first root.
    pub fn repository(&self) -> Sha256 {
        self.repository
    }

    /// The file of a role.
    pub fn file(&self, role: &str) -> Option<&[u8]> {
        self.files.get(role).map(Vec::as_slice)
    }

    fn version(&self, role: &str) -> Result<u64, CeremonyError> {
        let Some(bytes) = self.file(role) else { return Ok(0) };
        let signed = signed(bytes).ok_or(AuthorError::Field("signed"));
        let version = signed.map(|signed| signed.get("version").and_then(Value::as_u64));
        let error = |source| CeremonyError::Ground { role: role.to_owned(), source };
        version.and_then(|version| version.ok_or(AuthorError::Field("version"))).map_err(error)
    }
}

impl Proposal {
    /// Checks the proposal against a verified state, and says what it is. `names` are names of keys by id, for the words.
    ///
    /// # Errors
    /// Everything of [`CeremonyError`] that is about the repository: another one, a stale or an expired proposal, files
    /// that Relevo would not make, signatures that do not fit or are by strangers.
    pub fn review(
        &self,
        ground: &Ground,
        names: &BTreeMap<String, String>,
        now: Timestamp,
    ) -> Result<Review, CeremonyError> {
        if self.repository() != ground.repository {
            return Err(CeremonyError::OtherRepository { expected: ground.repository, found: self.repository() });
        }
        let reviewed = |document| self.review_document(document, ground, names, now);
        let documents = self.documents().iter().map(reviewed).collect::<Result<_, _>>()?;
        Ok(Review { id: self.id(), documents })
    }

    fn review_document(
        &self,
        document: &Document,
        ground: &Ground,
        names: &BTreeMap<String, String>,
        now: Timestamp,
    ) -> Result<Reviewed, CeremonyError> {
        let role = document.role.clone();
        let current = ground.version(&role)?;
        let base = document.base.map_or(0, |base| base.version);
        if base < current {
            return Err(CeremonyError::Stale { role, base, current });
        }
        if base > current {
            return Err(CeremonyError::Behind { role, base, current });
        }
        if let (Some(base), Some(bytes)) = (document.base, ground.file(&role))
            && Target::of(bytes).sha256 != base.sha256
        {
            return Err(CeremonyError::OtherBase { role, version: base.version });
        }
        let (kind, groups) = self.who_signs(document, ground)?;
        let file = self.file(&role)?;
        let shaped = shape::check(&kind, &document.signed, &file, base, now);
        let expires = shaped.map_err(|source| CeremonyError::Shape { role: role.clone(), source })?;
        if expires <= now {
            return Err(CeremonyError::Expired { role, expires });
        }
        let groups = self.count(document, groups)?;
        let old = ground.file(&role).and_then(signed);
        let said = words::explain(&kind, old.as_ref(), &document.signed, names, now);
        Ok(Reviewed {
            from: document.base.map(|base| base.version),
            version: document.version(),
            expires,
            changes: said.changes,
            warnings: said.warnings,
            groups,
            role,
        })
    }

    /// What the role is, and whose signatures count for it.
    fn who_signs(
        &self,
        document: &Document,
        ground: &Ground,
    ) -> Result<(Kind, Vec<(String, RoleKeys)>), CeremonyError> {
        let role = document.role.as_str();
        let shape = |source| CeremonyError::Shape { role: role.to_owned(), source };
        match role {
            "root" => {
                let old = ground.file("root").ok_or_else(|| CeremonyError::NoDelegator { role: role.to_owned() })?;
                let ground_error = |source| CeremonyError::Ground { role: role.to_owned(), source };
                let old = RootFile::edit(old).map_err(ground_error)?;
                let new = RootFile::edit(&self.file("root")?).map_err(|source| shape(ShapeError::Keys(source)))?;
                let keys = new.role(TopRole::Root).map_err(|source| shape(ShapeError::Keys(source)))?;
                let groups = vec![
                    (format!("root {}", old.version()), old.role(TopRole::Root).map_err(ground_error)?),
                    (format!("root {}", new.version()), keys),
                ];
                Ok((Kind::Root, groups))
            }
            "targets" => {
                let (bytes, from) = self.newest("root", ground)?;
                let root = RootFile::edit(&bytes).and_then(|root| root.role(TopRole::Targets));
                Ok((Kind::Targets, vec![(role.to_owned(), root.map_err(|source| from.error("root", source))?)]))
            }
            _ => {
                let (kind, keys) = self.delegated(role, ground)?;
                Ok((kind, vec![(role.to_owned(), keys)]))
            }
        }
    }

    /// What a delegated role is, and its keys, as its delegator says: the proposed one if there is one, else the current.
    fn delegated(&self, role: &str, ground: &Ground) -> Result<(Kind, RoleKeys), CeremonyError> {
        let missing = || CeremonyError::NoDelegator { role: role.chars().take(80).collect() };
        let keys_of = |delegator: &str| -> Result<Option<RoleKeys>, CeremonyError> {
            let Ok((bytes, from)) = self.newest(delegator, ground) else { return Ok(None) };
            // Registries and devices differ in nothing that is asked here.
            let file = RegistryFile::edit(&bytes).and_then(|file| file.role(role));
            file.map_err(|source| from.error(delegator, source))
        };
        if let Some(vendor) = role.strip_prefix("v-") {
            let vendor = Vendor::parse(vendor).map_err(|_| missing())?;
            return Ok((Kind::Vendor(vendor), keys_of("targets")?.ok_or_else(missing)?));
        }
        let Some(name) = role.strip_prefix("d-") else {
            return Err(CeremonyError::Shape { role: role.chars().take(80).collect(), source: ShapeError::Role });
        };
        if let Some((vendor, codename, keys)) = self.device(role, name, ground, &keys_of)? {
            return Ok((Kind::Device(vendor, codename), keys));
        }
        let device = name.strip_suffix("-nightly").ok_or_else(missing)?;
        let codename = Codename::parse(device).map_err(|_| missing())?;
        let delegator = delegation::device_role(&codename);
        let keys = keys_of(&delegator)?.ok_or_else(missing)?;
        let vendor_of = |name: &str| -> Result<Option<RoleKeys>, CeremonyError> {
            let Ok((bytes, from)) = self.newest(name, ground) else { return Ok(None) };
            let file = RegistryFile::edit(&bytes).and_then(|file| file.role(&delegator));
            file.map_err(|source| from.error(name, source))
        };
        let (vendor, ..) = self.device(&delegator, device, ground, &vendor_of)?.ok_or_else(missing)?;
        Ok((Kind::Nightly(vendor, codename), keys))
    }

    /// The vendor whose registry delegates to a device's role.
    fn device(
        &self,
        role: &str,
        name: &str,
        ground: &Ground,
        keys_of: &dyn Fn(&str) -> Result<Option<RoleKeys>, CeremonyError>,
    ) -> Result<Option<(Vendor, Codename, RoleKeys)>, CeremonyError> {
        debug_assert!(role.ends_with(name));
        let Ok(codename) = Codename::parse(name) else { return Ok(None) };
        let proposed = self.documents().iter().map(|document| document.role.as_str());
        for registry in proposed.chain(ground.files.keys().map(String::as_str)) {
            let Some(vendor) = registry.strip_prefix("v-").and_then(|vendor| Vendor::parse(vendor).ok()) else {
                continue;
            };
            if let Some(keys) = keys_of(registry)? {
                return Ok(Some((vendor, codename, keys)));
            }
        }
        Ok(None)
    }

    /// The file of a role as it would be: the proposed one, else the current one.
    fn newest(&self, role: &str, ground: &Ground) -> Result<(Vec<u8>, From), CeremonyError> {
        if self.document(role).is_some() {
            return Ok((self.file(role)?, From::Proposal));
        }
        let bytes = ground.file(role).ok_or_else(|| CeremonyError::NoDelegator { role: role.to_owned() })?;
        Ok((bytes.to_vec(), From::Ground))
    }

    /// Checks every signature of a document, and says who of each group has signed.
    fn count(&self, document: &Document, groups: Vec<(String, RoleKeys)>) -> Result<Vec<Group>, CeremonyError> {
        let message = document.message()?;
        let role = &document.role;
        let mut signed: Vec<&str> = Vec::new();
        for mark in self.signatures().iter().filter(|mark| mark.role == *role) {
            let keys = || groups.iter().flat_map(|(_, keys)| &keys.keys);
            let key_id = || mark.key_id.chars().take(80).collect::<String>();
            let Some(key) = keys().find(|key| key.key_id() == mark.key_id) else {
                return Err(CeremonyError::Stranger { role: role.clone(), key_id: key_id() });
            };
            if !key.verifies(&message, &mark.signature) {
                return Err(CeremonyError::BadSignature { role: role.clone(), key_id: key_id() });
            }
            signed.push(&mark.key_id);
        }
        let group = |(name, keys): (String, RoleKeys)| {
            // A key counts once, however often it is listed.
            let mut ids: Vec<String> = keys.keys.iter().map(PublicKey::key_id).collect();
            ids.sort();
            ids.dedup();
            let has = |id: &&String| signed.contains(&id.as_str());
            Group { name, threshold: keys.threshold, signed: ids.iter().filter(has).cloned().collect(), keys: ids }
        };
        Ok(groups.into_iter().map(group).collect())
    }
}

/// Where a file came from, and so whose fault it is.
#[derive(Debug, Clone, Copy)]
enum From {
    Proposal,
    Ground,
}

impl From {
    fn error(self, role: &str, source: AuthorError) -> CeremonyError {
        let role = role.to_owned();
        match self {
            Self::Proposal => CeremonyError::Shape { role, source: ShapeError::Keys(source) },
            Self::Ground => CeremonyError::Ground { role, source },
        }
    }
}

fn signed(bytes: &[u8]) -> Option<serde_json::Map<String, Value>> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    value.get("signed")?.as_object().cloned()
}
