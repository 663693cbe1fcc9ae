//! Who signs for which role.

use std::collections::BTreeMap;

use relevo_meta::keys::Signer;

use crate::error::RepoError;

/// Signers by role name: `root`, `targets`, `snapshot`, `timestamp`, `v-<vendor>`, `d-<codename>`; and `log`, which is no
/// role but signs the transparency log.
#[derive(Default)]
pub struct Signers(BTreeMap<String, Vec<Box<dyn Signer>>>);

impl Signers {
    /// Nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a signer for a role; a role with a threshold needs several.
    pub fn add(&mut self, role: &str, signer: impl Signer + 'static) {
        self.0.entry(role.to_owned()).or_default().push(Box::new(signer));
    }

    /// Whether anybody signs for the role.
    pub fn has(&self, role: &str) -> bool {
        self.0.contains_key(role)
    }

    pub(crate) fn get(&self, role: &str) -> Result<Vec<&dyn Signer>, RepoError> {
        let signers = self.0.get(role).ok_or_else(|| RepoError::NoSigner { role: role.to_owned() })?;
        Ok(signers.iter().map(|signer| &**signer).collect())
    }
}

impl std::fmt::Debug for Signers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
