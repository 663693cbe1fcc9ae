//! `relevo key`: keys as files, and those that programs sign with.

use std::{fmt::Write, path::PathBuf};

use anyhow::Context;
use relevo_meta::keys::{PrivateKey, PublicKey};
use relevo_repo::LOG_SIGNER;
use serde::Serialize;

use crate::{
    args::{KeyCost, KeyNew, KeyPasswd, PassphraseFrom},
    durable::{PUBLIC, make_dir, write_file},
    error::CliError,
    home::{Home, or_none},
    keyring::{self, Keyring, Place},
    keys, repository,
    session::{Answer, Passphrase, Session},
};

/// Longest name of a key, in bytes; it becomes a file's.
const MAX_NAME: usize = 80;

/// What `key new --json` says.
#[derive(Debug, Serialize)]
struct Made {
    name: String,
    id: String,
    private: PathBuf,
    public: PathBuf,
}

pub(crate) fn new(session: &Session<'_>, args: &KeyNew) -> anyhow::Result<Answer> {
    check_name(&args.name)?;
    let home = match &args.out {
        Some(_) => None,
        None => Some(Home::open(&session.dir)?),
    };
    let cost = args.key_cost.or(home.as_ref().map(|home| home.settings.key_cost)).unwrap_or(KeyCost::Standard);
    let dir = args.out.clone().or_else(|| home.as_ref().map(Home::keys)).expect("one of both is given");
    let (private, public) = (dir.join(format!("{}.key", args.name)), dir.join(format!("{}.pub", args.name)));
    if let Some(path) = [&private, &public].into_iter().find(|path| path.exists()) {
        return Err(CliError::KeyExists { path: path.clone() }.into());
    }
    let passphrase = keys::new_passphrase(session, &args.passphrase)?;
    if let Some(home) = &home {
        // All files of a directory share one passphrase.
        same_passphrase(home, &passphrase)?;
    }
    make_dir(&dir)?;
    let key = PrivateKey::from_random(*session.random::<32>()?);
    keys::write_key(session, &private, &key, &passphrase, cost)?;
    write_file(&public, key.public().to_text(&args.name).as_bytes(), PUBLIC)?;

    let made = Made { name: args.name.clone(), id: key.public().key_id(), private, public };
    let text = format!("made the key {}, id {}\n", made.name, made.id);
    let notes = format!(
        "- {} is private: keep a copy where this one cannot burn\n\
         - {} may be given to anybody; whoever gets it compares the id with you over another way\n",
        made.private.display(),
        made.public.display()
    );
    Ok(Answer::new(&made).text(text).notes(notes))
}

/// Fails if another key file of the directory does not open with this passphrase.
fn same_passphrase(home: &Home, passphrase: &Passphrase) -> Result<(), CliError> {
    let first = keyring::file_names(home)?.into_iter().next_back();
    first.map_or(Ok(()), |name| home.key(&name, passphrase).map(drop))
}

/// One line of `key list`.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    id: String,
    /// `file`, or the program.
    with: String,
    /// The roles that list it.
    roles: Vec<String>,
}

pub(crate) fn list(session: &Session<'_>) -> anyhow::Result<Answer> {
    let home = Home::open(&session.dir)?;
    let nowhere = PassphraseFrom { passphrase_file: None };
    let ring = Keyring::open(session, &home, &nowhere)?;
    let signed = signed_for(&home)?;
    let mut listed = Vec::new();
    for held in ring.held() {
        listed.push(Listed {
            name: held.name.clone(),
            id: held.public.key_id(),
            with: match &held.place {
                Place::File => "file".to_owned(),
                Place::Command(settings) => settings.command.join(" "),
            },
            roles: roles_of(&signed, &held.public),
        });
    }
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    let mut text = String::new();
    for key in &listed {
        let _ = writeln!(text, "{}  {:<20} {:<8} signs for {}", key.id, key.name, key.with, or_none(&key.roles));
    }
    if listed.is_empty() {
        text.push_str("no keys\n");
    }
    Ok(Answer::new(&serde_json::json!({ "keys": listed })).text(text))
}

/// What is signed in the repository, and by which keys: the roles, and the transparency log.
fn signed_for(home: &Home) -> anyhow::Result<Vec<(String, Vec<PublicKey>)>> {
    let repository = repository::open(home)?;
    let roles = repository.publication()?.roles()?;
    let mut signed: Vec<_> = roles.into_iter().map(|role| (role.role, role.keys.keys)).collect();
    let log = repository.current()?.log_key().map(|log| PublicKey::from(*log.verifying_key()));
    signed.extend(log.map(|key| (LOG_SIGNER.to_owned(), vec![key])));
    Ok(signed)
}

fn roles_of(signed: &[(String, Vec<PublicKey>)], key: &PublicKey) -> Vec<String> {
    signed.iter().filter(|(_, keys)| keys.contains(key)).map(|(role, _)| role.clone()).collect()
}

/// What `key show --json` says.
#[derive(Debug, Serialize)]
struct Shown {
    id: String,
    pem: String,
    /// The roles that list it; none without a maintainer's directory.
    roles: Option<Vec<String>>,
}

pub(crate) fn show(session: &Session<'_>, key: &str) -> anyhow::Result<Answer> {
    let home = Home::open(&session.dir).ok();
    let public: PublicKey = keyring::public_by_name(home.as_ref(), key)?;
    let roles = match &home {
        None => None,
        Some(home) => Some(roles_of(&signed_for(home)?, &public)),
    };
    let shown = Shown { id: public.key_id(), pem: public.to_pem(), roles };
    let mut text = format!("id {}\n", shown.id);
    if let Some(roles) = &shown.roles {
        let _ = writeln!(text, "signs for {}", or_none(roles));
    }
    text += &shown.pem;
    Ok(Answer::new(&shown).text(text))
}

pub(crate) fn passwd(session: &Session<'_>, args: &KeyPasswd) -> anyhow::Result<Answer> {
    let home = Home::open(&session.dir);
    let files = if args.files.is_empty() {
        let home = home.as_ref().map_err(|error| anyhow::anyhow!("{error}"));
        let home = home.context("no key files were given")?;
        keyring::file_names(home)?.iter().map(|name| home.key_path(name)).collect()
    } else {
        args.files.clone()
    };
    let cost = home.as_ref().map_or(KeyCost::Standard, |home| home.settings.key_cost);
    let old = keys::passphrase(session, &args.passphrase)?;
    let new = keys::replacing_passphrase(session, args.new_passphrase_file.as_deref())?;
    // All are opened before one is written: a wrong passphrase changes nothing. Those that have the new one already were
    // written by a run that was cut off.
    let mut opened = Vec::new();
    for path in &files {
        let key = keys::open_key(path, &old).or_else(|error| keys::open_key(path, &new).map_err(|_| error))?;
        opened.push((path, key));
    }
    for (path, key) in &opened {
        keys::write_key(session, path, key, &new, cost)?;
    }
    let text = format!("{} key files have the new passphrase\n", opened.len());
    let notes = "copies that you keep elsewhere still have the old one: make new ones, and destroy those\n";
    Ok(Answer::new(&serde_json::json!({ "files": files })).text(text).notes(notes))
}

fn check_name(name: &str) -> Result<(), CliError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    // Another kind of key has this ending.
    let usable = starts && name.len() <= MAX_NAME && name.chars().all(allowed) && !name.ends_with(".ota");
    if usable { Ok(()) } else { Err(CliError::KeyName { name: name.chars().take(100).collect() }) }
}
