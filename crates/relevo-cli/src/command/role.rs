//! `relevo role`: who signs for what.

use std::fmt::Write;

use jiff::{SignedDuration, Timestamp};
use relevo_meta::expiry::Expiry;
use relevo_repo::RoleState;
use serde::Serialize;

use crate::{
    args::{PassphraseFrom, RoleAdd, RoleExpire, RoleRemove},
    changes::Changes,
    error::CliError,
    home::Home,
    keyring::{Keyring, known_names},
    repository,
    session::{Answer, Session},
};

/// A role for `--json`.
#[derive(Debug, Serialize)]
struct Listed {
    role: String,
    /// What it may speak for; none for the top roles.
    paths: Option<String>,
    version: u64,
    expires: Option<Timestamp>,
    threshold: usize,
    keys: Vec<Key>,
    /// How many of the keys are at hand.
    at_hand: usize,
}

#[derive(Debug, Serialize)]
struct Key {
    id: String,
    /// What it is called here, if it is known.
    name: Option<String>,
    at_hand: bool,
}

pub(crate) fn list(session: &Session<'_>) -> anyhow::Result<Answer> {
    let home = Home::open(&session.dir)?;
    let states = repository::open(&home)?.publication()?.roles()?;
    let roles = listed(session, &home, states)?;
    let mut text = String::new();
    for role in &roles {
        let expires = role.expires.map_or("does not verify".to_owned(), |date| format!("until {date}"));
        let keys = format!("{} of {}", role.threshold, role.keys.len());
        let here = match role.at_hand {
            count if count >= role.threshold => "here",
            0 => "elsewhere",
            _ => "partly here",
        };
        let _ = writeln!(text, "{:<28} {keys:<8} {here:<12} version {}, {expires}", role.role, role.version);
    }
    Ok(Answer::new(&serde_json::json!({ "roles": roles })).text(text))
}

pub(crate) fn show(session: &Session<'_>, role: &str) -> anyhow::Result<Answer> {
    let home = Home::open(&session.dir)?;
    let state = repository::open(&home)?.publication()?.role(role)?;
    let shown = listed(session, &home, vec![state])?.remove(0);
    let mut text = format!("role       {}, version {}\n", shown.role, shown.version);
    let _ = writeln!(text, "speaks for {}", shown.paths.as_deref().unwrap_or("the repository as a whole"));
    if let Some(expires) = shown.expires {
        let _ = writeln!(text, "expires    {expires}");
    }
    let _ = writeln!(text, "signatures {} of {} keys", shown.threshold, shown.keys.len());
    for key in &shown.keys {
        let name = key.name.as_deref().unwrap_or("not known here");
        let _ = writeln!(text, "key        {} {name}{}", key.id, if key.at_hand { ", at hand" } else { "" });
    }
    Ok(Answer::new(&shown).text(text))
}

fn listed(session: &Session<'_>, home: &Home, states: Vec<RoleState>) -> anyhow::Result<Vec<Listed>> {
    let nowhere = PassphraseFrom { passphrase_file: None };
    let ring = Keyring::open(session, home, &nowhere)?;
    let names = known_names(home)?;
    let one = |state: RoleState| {
        let held = ring.of(&state.role, &state.keys);
        let keys = state.keys.keys.iter().map(|key| Key {
            id: key.key_id(),
            name: names.get(&key.key_id()).cloned(),
            at_hand: held.iter().any(|held| held.public == *key),
        });
        Listed {
            at_hand: held.len(),
            keys: keys.collect(),
            role: state.role,
            paths: state.paths,
            version: state.version,
            expires: state.expires,
            threshold: state.keys.threshold,
        }
    };
    Ok(states.into_iter().map(one).collect())
}

pub(crate) fn add(session: &Session<'_>, args: &RoleAdd) -> anyhow::Result<Answer> {
    let changes = Changes {
        add: args.keys.iter().map(|key| (args.role.clone(), key.clone())).collect(),
        threshold: args.threshold.iter().map(|threshold| (args.role.clone(), usize::from(*threshold))).collect(),
        vendor: args.vendor.clone(),
        ..Changes::default()
    };
    change(session, &args.role, &changes, &args.passphrase)
}

pub(crate) fn remove(session: &Session<'_>, args: &RoleRemove) -> anyhow::Result<Answer> {
    let changes = Changes {
        remove: args.keys.iter().map(|key| (args.role.clone(), key.clone())).collect(),
        threshold: args.threshold.iter().map(|threshold| (args.role.clone(), usize::from(*threshold))).collect(),
        retire: if args.retire { vec![args.role.clone()] } else { Vec::new() },
        ..Changes::default()
    };
    change(session, &args.role, &changes, &args.passphrase)
}

pub(crate) fn threshold(
    session: &Session<'_>,
    role: &str,
    threshold: u16,
    passphrase: &PassphraseFrom,
) -> anyhow::Result<Answer> {
    let changes = Changes { threshold: vec![(role.to_owned(), usize::from(threshold))], ..Changes::default() };
    change(session, role, &changes, passphrase)
}

pub(crate) fn expire(session: &Session<'_>, args: &RoleExpire) -> anyhow::Result<Answer> {
    let days = args.days.map(|days| session.now + SignedDuration::from_hours(24 * i64::from(days)));
    let mut changes = Changes::default();
    match args.on.or(days) {
        Some(date) => changes.expire.push((args.role.clone(), date)),
        None => changes.renew.push(args.role.clone()),
    }
    change(session, &args.role, &changes, &args.passphrase)
}

/// What a change says with `--json`.
#[derive(Debug, Serialize)]
struct Changed {
    role: String,
    /// Roles that were signed anew.
    signed: Vec<String>,
    /// None once the role has ended.
    state: Option<Listed>,
}

fn change(session: &Session<'_>, role: &str, changes: &Changes, from: &PassphraseFrom) -> anyhow::Result<Answer> {
    let home = Home::open(&session.dir)?;
    let repository = repository::open(&home)?;
    let mut publication = repository.publication()?;
    changes.make(&home, &mut publication)?;
    let ring = Keyring::open(session, &home, from)?;
    let signers = ring.signers(&publication.needs()?).map_err(|error| match error.downcast::<CliError>() {
        Ok(source @ CliError::NotAtHand { .. }) => {
            CliError::NeedsCeremony { command: changes.as_ceremony(), source: Box::new(source) }.into()
        }
        Ok(other) => other.into(),
        Err(error) => error,
    })?;
    let published = publication.commit(&signers, session.now)?;
    published.expiries.iter().filter_map(Expiry::warning).for_each(|text| session.warn(text));
    warn_of_packages(session, &home, role)?;

    let state = match changes.retire.is_empty() {
        true => {
            let state = repository.publication()?.role(role)?;
            Some(listed(session, &home, vec![state])?.remove(0))
        }
        false => None,
    };
    let text = match &state {
        _ if published.roles.is_empty() => format!("{role} is so already\n"),
        None => format!("{role} has ended; signed {}\n", published.roles.join(", ")),
        Some(state) => {
            let (threshold, keys) = (state.threshold, state.keys.len());
            format!("{role}: {threshold} of {keys} keys sign; signed {}\n", published.roles.join(", "))
        }
    };
    let notes = match &state {
        None => "its last file stays listed in the snapshot, since phones take none from which a role has vanished\n",
        Some(_) => "",
    };
    let changed = Changed { role: role.to_owned(), signed: published.roles, state };
    Ok(Answer::new(&changed).text(text).notes(notes))
}

/// Says which native packages phones will no longer install: those that too few of a device's keys signed themselves.
pub(crate) fn warn_of_packages(session: &Session<'_>, home: &Home, role: &str) -> anyhow::Result<()> {
    if !role.starts_with("d-") {
        return Ok(());
    }
    let state = repository::current(home)?;
    for (codename, device) in state.devices() {
        if role != format!("d-{codename}") && role != format!("d-{codename}-nightly") {
            continue;
        }
        let mut weak = 0;
        for package in &device.packages {
            let (keys, threshold) = device.signatories(&package.path);
            let file = home.repo().join("targets").join(package.path.consistent(&package.sha256));
            weak += usize::from(!crate::packages::is_signed(&file, package.custom.kind, keys, threshold)?);
        }
        if weak > 0 {
            session.warn(format!(
                "{weak} packages of {codename} are signed inside by too few of its keys now; phones of kind native will \
                 not install them: publish a new build, or `relevo publish {codename} --resign`"
            ));
        }
    }
    Ok(())
}
