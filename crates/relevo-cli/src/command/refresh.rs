//! `relevo refresh`: keeps the repository fresh, and says what will expire.

use relevo_meta::expiry::{Expiry, expiries};
use relevo_repo::{LOG_SIGNER, RoleKeys};
use serde::Serialize;

use crate::{
    args::Refresh,
    home::Home,
    keyring::Keyring,
    repository,
    session::{Answer, Session},
};

/// What `--json` says.
#[derive(Debug, Serialize)]
struct Refreshed {
    timestamp_version: u64,
    /// Roles that were signed anew.
    signed: Vec<String>,
    /// All roles and when they expire, the next one first.
    roles: Vec<Expiry>,
}

pub(crate) fn run(session: &Session<'_>, args: &Refresh) -> anyhow::Result<Answer> {
    let home = Home::open(&session.dir)?;
    let repository = repository::open(&home)?;
    let mut publication = repository.publication()?;
    args.role.iter().try_for_each(|role| publication.renew(role))?;
    publication.renew_online(session.now)?;
    let ring = Keyring::open(session, &home, &args.passphrase)?;
    let mut needs = publication.needs()?;
    // Where only the online keys are, a log that is behind waits for the next publication.
    let at_hand = |keys: &RoleKeys| !ring.of(LOG_SIGNER, keys).is_empty();
    needs.retain(|need| need.role != LOG_SIGNER || !args.role.is_empty() || need.groups.iter().all(at_hand));
    let signers = ring.signers(&needs)?;
    let refreshed = publication.commit(&signers, session.now)?;
    let mut signed = refreshed.roles;
    signed.sort();

    let state = repository.current()?;
    let roles = expiries(state.roles(), session.now);
    roles.iter().filter_map(Expiry::warning).for_each(|text| session.warn(text));
    let answer = Refreshed { timestamp_version: refreshed.timestamp_version, signed, roles };
    let expires = state.timestamp_expires();
    let text = format!("signed {}: fresh until {expires}\n", answer.signed.join(", "));
    Ok(Answer::new(&answer).text(text))
}
