//! The repository of a maintainer's directory.

use std::collections::BTreeMap;

use anyhow::Context;
use relevo_meta::{Target, Trusted};
use relevo_repo::Repository;
use relevo_types::TargetPath;

use crate::home::Home;

/// Opens the repository; a change of the root that was cut off is brought to its end.
pub(crate) fn open(home: &Home) -> anyhow::Result<Repository> {
    let repository = Repository::open(&home.repo())?;
    repository.recover()?;
    Ok(repository.with_expiries(home.settings.expiry_days))
}

/// Its current state, verified, whatever has expired.
pub(crate) fn current(home: &Home) -> anyhow::Result<Trusted> {
    open(home)?.current().with_context(|| format!("could not read the repository {}", home.repo().display()))
}

/// Every target that is published.
pub(crate) fn published(home: &Home) -> anyhow::Result<BTreeMap<TargetPath, Target>> {
    let state = current(home)?;
    let targets = state.devices().values().flat_map(|device| &device.targets);
    Ok(targets.map(|(path, target)| (path.clone(), *target)).collect())
}

/// Whether a role is in the repository, verified or not.
pub(crate) fn has_role(state: &Trusted, role: &str) -> bool {
    state.roles().contains_key(role) || state.troubles().contains_key(role)
}
