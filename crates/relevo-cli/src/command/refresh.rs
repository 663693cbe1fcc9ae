//! `relevo refresh`: keeps the repository fresh, and says what will expire.

use jiff::Timestamp;
use relevo_meta::Trusted;
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

#[derive(Debug, Serialize)]
struct Expiry {
    role: String,
    version: u64,
    expires: Timestamp,
    /// Whole days from now; negative once it has expired.
    days_left: i64,
    level: Level,
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Fine,
    /// Within 60 days.
    Notice,
    /// Within 14 days.
    Soon,
    /// Within 3 days.
    Urgent,
    Expired,
}

impl Level {
    fn of(days_left: i64) -> Self {
        match days_left {
            ..0 => Self::Expired,
            0..=3 => Self::Urgent,
            4..=14 => Self::Soon,
            15..=60 => Self::Notice,
            _ => Self::Fine,
        }
    }
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
    let roles = expiries(&state, session.now);
    roles.iter().filter_map(warning).for_each(|text| session.warn(text));
    let answer = Refreshed { timestamp_version: refreshed.timestamp_version, signed, roles };
    let expires = state.timestamp_expires();
    let text = format!("signed {}: fresh until {expires}\n", answer.signed.join(", "));
    Ok(Answer::new(&answer).text(text))
}

fn expiries(state: &Trusted, now: Timestamp) -> Vec<Expiry> {
    let mut roles: Vec<_> = state
        .roles()
        .iter()
        .map(|(role, file)| {
            let days_left = (file.expires.as_second() - now.as_second()).div_euclid(86_400);
            let (role, version, expires) = (role.clone(), file.version, file.expires);
            // These two are signed anew at every refresh, so their short time is nobody's worry.
            let online = role == "snapshot" || role == "timestamp";
            let level = if online { Level::Fine } else { Level::of(days_left) };
            Expiry { role, version, expires, days_left, level }
        })
        .collect();
    roles.sort_by(|a, b| (a.expires, &a.role).cmp(&(b.expires, &b.role)));
    roles
}

fn warning(expiry: &Expiry) -> Option<String> {
    let Expiry { role, days_left, .. } = expiry;
    let remedy = match role.as_str() {
        "root" => "a new root has to be signed and reach the phones before".to_owned(),
        role => format!("sign it anew with relevo refresh --role {role}"),
    };
    match expiry.level {
        Level::Fine => None,
        Level::Notice => Some(format!("{role} expires in {days_left} days; {remedy}")),
        Level::Soon => Some(format!("{role} expires soon, in {days_left} days; {remedy}")),
        Level::Urgent => Some(format!("{role} EXPIRES within {} hours; {remedy}", (days_left + 1) * 24)),
        Level::Expired => Some(format!("{role} HAS EXPIRED, at {}; {remedy}", expiry.expires)),
    }
}
