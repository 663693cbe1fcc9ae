//! What people far from here sign: proposed by one publication, published by another.

use jiff::Timestamp;
use relevo_meta::{
    Target,
    author::{DeviceFile, RegistryFile, RootFile},
    ceremony::{Base, CeremonyError, Document, Proposal},
};
use relevo_types::{Codename, TargetPath, Vendor};

use super::{Publication, roles::Name};
use crate::error::RepoError;

impl Publication<'_> {
    /// What this publication would change, as a proposal for others to sign; nothing is published. The online roles are
    /// no part of it: they are signed when it is published.
    ///
    /// # Errors
    /// [`RepoError::Ceremony`] if nothing changes that anybody could sign for.
    pub fn propose(mut self, now: Timestamp) -> Result<Proposal, RepoError> {
        let mut documents = Vec::new();
        for (role, _) in self.finish_drafts(now)? {
            let draft = self.draft(&role).expect("a role that was just finished");
            let signed = draft.signed().clone();
            documents.push(Document { base: self.published(&role)?, signed, role });
        }
        let first = Target::of(&self.repository.first_root()?).sha256;
        Ok(Proposal::new(first, documents)?)
    }

    /// Takes over what a ceremony finished. [`Self::commit`] then signs the online roles and publishes it.
    ///
    /// # Errors
    /// [`RepoError::Ceremony`] if it does not fit to the repository as it is now or has expired,
    /// [`RepoError::Unfinished`].
    pub fn adopt(&mut self, proposal: &Proposal, now: Timestamp) -> Result<(), RepoError> {
        let review = proposal.review(&self.repository.ground()?, &Default::default(), now)?;
        for document in &review.documents {
            if let Some(missing) =
                document.groups.iter().map(|group| group.missing()).max().filter(|missing| *missing > 0)
            {
                return Err(RepoError::Unfinished { role: document.role.clone(), missing });
            }
        }
        let id = proposal.id();
        for document in proposal.documents() {
            let role = &document.role;
            let attempted = self.attempted.get(role).copied().unwrap_or(0);
            let pinned =
                self.snapshot.roles().into_iter().find(|(name, _)| name == role).map_or(0, |(_, version)| version);
            let taken = attempted >= document.version() && self.attempted_by != Some(id);
            if taken || pinned >= document.version() {
                let (base, current) = (document.version().saturating_sub(1), attempted.max(pinned));
                return Err(CeremonyError::Stale { role: role.clone(), base, current }.into());
            }
        }
        // Vendors before devices, so that each finds its own above it.
        let mut documents: Vec<&Document> = proposal.documents().iter().collect();
        documents.sort_by_key(|document| (document.role.starts_with("d-"), document.role.len()));
        for document in documents {
            self.adopt_one(&document.role, proposal.file(&document.role)?)?;
        }
        if proposal.document("root").is_some() {
            self.follow_root()?;
        }
        self.ceremony = Some(id);
        Ok(())
    }

    /// The targets that adopted roles offer and whose files are not in place.
    pub fn missing_files(&self) -> Vec<TargetPath> {
        let mut missing = Vec::new();
        let devices = self.devices.iter().map(|(codename, (_, file))| (format!("d-{codename}"), file));
        let nightlies = self.nightlies.iter().map(|(codename, file)| (format!("d-{codename}-nightly"), file));
        for (role, file) in devices.chain(nightlies).filter(|(role, _)| self.adopted.contains_key(role)) {
            for text in file.paths() {
                let Ok(path) = TargetPath::parse(&text) else { continue };
                let Some((target, _)) = file.target(&path) else { continue };
                let place = self.repository.targets_dir().join(path.consistent(&target.sha256));
                if !std::fs::metadata(&place).is_ok_and(|found| found.len() == target.length.get()) {
                    tracing::debug!(role, %path, "a file of the proposal is not in place");
                    missing.push(path);
                }
            }
        }
        missing
    }

    pub(super) fn adopt_one(&mut self, role: &str, bytes: Vec<u8>) -> Result<(), RepoError> {
        let error = || RepoError::author(role);
        match self.name(role)? {
            Name::Top(_) if role == "root" => self.root = Some(RootFile::edit(&bytes).map_err(error())?),
            Name::Top(_) => self.targets = Some(RegistryFile::edit(&bytes).map_err(error())?),
            Name::Vendor(vendor) => drop(self.vendors.insert(vendor, RegistryFile::edit(&bytes).map_err(error())?)),
            Name::Device(codename) => {
                // The state before, for the phones that are played on it; a device that is new has none.
                let vendor = match self.load_device(&codename) {
                    Ok((vendor, _)) => vendor.clone(),
                    Err(RepoError::NoSuchDevice(_) | RepoError::BrokenRole { .. }) => self.adopted_vendor(&codename)?,
                    Err(error) => return Err(error),
                };
                self.devices.insert(codename, (vendor, DeviceFile::edit(&bytes).map_err(error())?));
            }
            Name::Nightly(codename) => {
                self.load_device(&codename)?;
                self.by_nightly.insert(codename.clone());
                self.nightlies.insert(codename, DeviceFile::edit(&bytes).map_err(error())?);
            }
        }
        self.changed.insert(role.to_owned());
        self.adopted.insert(role.to_owned(), bytes);
        Ok(())
    }

    /// The vendor that an adopted or current registry gives a device to.
    fn adopted_vendor(&mut self, codename: &Codename) -> Result<Vendor, RepoError> {
        let role = format!("d-{codename}");
        let has = |file: &RegistryFile| file.delegated().contains(&role);
        let adopted = self.vendors.iter().find(|(_, file)| has(file)).map(|(vendor, _)| vendor.clone());
        let listed = || self.base.trusted.listed().get(codename).cloned();
        adopted.or_else(listed).ok_or_else(|| RepoError::NoSuchDevice(codename.clone()))
    }

    /// Signs what a new root gives new keys to: the online roles, at their publication.
    fn follow_root(&mut self) -> Result<(), RepoError> {
        for role in ["snapshot", "timestamp"] {
            if self.keys_so_far(role)? != self.keys(role)? {
                self.changed.insert(role.to_owned());
            }
        }
        Ok(())
    }

    /// The published file of a role, as a proposal names it.
    fn published(&self, role: &str) -> Result<Option<Base>, RepoError> {
        let version = match role {
            "root" => Some(self.base.trusted.root_version()),
            _ => self.snapshot.roles().into_iter().find(|(name, _)| name == role).map(|(_, version)| version),
        };
        let Some(version) = version else { return Ok(None) };
        // A role that ended and is made again starts from nothing, though its number goes on.
        if role != "root" && !self.is_delegated(role) {
            return Ok(None);
        }
        let path = self.repository.metadata_path(&format!("{version}.{role}.json"));
        let bytes = std::fs::read(&path).map_err(RepoError::read(path))?;
        Ok(Some(Base { version, sha256: Target::of(&bytes).sha256 }))
    }

    /// Whether the last published state leads to the role.
    fn is_delegated(&self, role: &str) -> bool {
        let known = self.base.trusted.roles().contains_key(role);
        let listed = role.strip_prefix("d-").and_then(|name| Codename::parse(name).ok());
        let is_device = listed.is_some_and(|codename| self.base.trusted.listed().contains_key(&codename));
        let nightly =
            role.strip_suffix("-nightly").and_then(|device| self.base.stored.0.get(&format!("{device}.json")));
        let is_nightly = nightly.and_then(|bytes| DeviceFile::edit(bytes).ok()?.role(role).ok().flatten()).is_some();
        known || is_device || is_nightly
    }
}
