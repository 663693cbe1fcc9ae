//! `relevo refresh`: keeps the repository fresh, and says what will expire.

use relevo_meta::expiry::{Expiry, expiries};
use serde::Serialize;

use crate::{
    args::Refresh,
    home::Home,
    keys, repository,
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
    let passphrase = keys::passphrase(session, &args.passphrase)?;
    let online = ["snapshot".to_owned(), "timestamp".to_owned()];
    let mut signed = Vec::new();
    if !args.role.is_empty() {
        let mut publication = repository.publication()?;
        args.role.iter().try_for_each(|role| publication.renew(role))?;
        let signers = repository::signers(&home, &publication.needed_signers(), &passphrase)?;
        signed = publication.commit(&signers, session.now)?.roles;
    }
    let signers = repository::signers(&home, &online, &passphrase)?;
    let refreshed = repository.refresh(&signers, session.now)?;
    signed.extend(refreshed.roles);
    signed.sort();
    signed.dedup();

    let state = repository.current()?;
    let roles = expiries(state.roles(), session.now);
    roles.iter().filter_map(Expiry::warning).for_each(|text| session.warn(text));
    let answer = Refreshed { timestamp_version: refreshed.timestamp_version, signed, roles };
    let expires = state.timestamp_expires();
    let text = format!("signed {}: fresh until {expires}\n", answer.signed.join(", "));
    Ok(Answer::new(&answer).text(text))
}
