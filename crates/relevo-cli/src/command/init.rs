//! `relevo init`: a maintainer's directory with an empty repository.

use std::{collections::BTreeMap, fs, io, os::unix::fs::DirBuilderExt, path::Path};

use anyhow::Context;
use relevo_meta::{author::TopRole, keys::PrivateKey, log::LogKey};
use relevo_repo::{LOG_SIGNER, NewRepository, Repository, RoleKeys, Signers};
use relevo_types::Sha256;
use serde::Serialize;
use sha2::Digest;

use crate::{
    args::Init,
    durable::{self, PUBLIC, make_dir, sync_dir, write_file},
    error::CliError,
    home::{Home, Lock, Settings, names},
    keys,
    session::{Answer, Session},
};

/// There while `init` is at work, so that one that was cut off can go on.
const MARKER: &str = ".relevo-init";

/// What `--json` says.
#[derive(Debug, Serialize)]
struct Made {
    dir: String,
    /// Ids of the keys, by role.
    keys: BTreeMap<&'static str, String>,
    /// The first root, which phones are built with.
    root: String,
    root_sha256: Sha256,
}

pub(crate) fn run(session: &Session<'_>, args: &Init) -> anyhow::Result<Answer> {
    let dir = &args.path;
    check_empty(dir)?;
    let passphrase = keys::new_passphrase(session, &args.passphrase)?;
    make_dir(dir)?;
    write_file(&dir.join(MARKER), b"relevo init is at work here, or was cut off; run it again\n", PUBLIC)?;
    let _lock = Lock::take(dir)?;

    let settings = Settings { key_cost: args.key_cost, ..Settings::default() };
    let home = Home::new(dir, settings.clone());
    private_dir(&home.keys())?;
    private_dir(&dir.join("builds"))?;
    make_dir(&dir.join("manifests"))?;
    make_dir(&dir.join("packages"))?;
    durable::sweep(&home.keys())?;

    let mut role_keys = Vec::new();
    let mut ids = BTreeMap::new();
    let mut signers = Signers::new();
    for role in TopRole::ALL {
        let key: PrivateKey = home.key_or_new(session, role.name(), &passphrase)?;
        ids.insert(role.name(), key.public().key_id());
        role_keys.push((role, RoleKeys::one(key.public())));
        signers.add(role.name(), key);
    }
    let log = home.key_or_new(session, LOG_SIGNER, &passphrase)?;
    let log_key = LogKey::self_named(*log.public().verifying_key());
    ids.insert(LOG_SIGNER, log.public().key_id());
    signers.add(LOG_SIGNER, log);
    let repository = match Repository::open(&home.repo()) {
        Ok(repository) => repository,
        Err(_) => {
            let new =
                NewRepository { expiries: settings.expiry_days, log: Some(log_key), ..NewRepository::new(role_keys) };
            Repository::create(&home.repo(), &new, &signers, session.now)
                .with_context(|| format!("could not make the repository {}", home.repo().display()))?
        }
    };
    write_file(&dir.join("relevo.toml"), settings.to_toml().as_bytes(), PUBLIC)?;
    let marker = dir.join(MARKER);
    fs::remove_file(&marker).map_err(|source| CliError::Write { path: marker, source })?;
    sync_dir(dir)?;

    let root = repository.first_root()?;
    let answer = Made {
        dir: dir.display().to_string(),
        keys: ids,
        root: home.repo().join("metadata/1.root.json").display().to_string(),
        root_sha256: Sha256::new(sha2::Sha256::digest(&root).into()),
    };
    let text = format!(
        "made {}: keys of root, targets, snapshot, timestamp and log, and an empty repository\n",
        dir.display()
    );
    let days = settings.expiry_days.timestamp;
    let shown = dir.display();
    let notes = format!(
        "next:\n\
         - copy {shown}/keys and the passphrase to two places that do not burn together; nobody can replace them\n\
         - relevo device add CODENAME --manifest FILE --dir {shown}\n\
         - relevo import DIR --device CODENAME --dir {shown}, then relevo publish --dir {shown}\n\
         - serve {shown}/repo, and nothing else of it, with relevo-server or any web server\n\
         - run relevo refresh --dir {shown} every day: after {days} days without it phones see the repository as stale\n\
         - build {shown}/repo/metadata/1.root.json into the phones' updater; its SHA-256 is {}\n",
        answer.root_sha256
    );
    Ok(Answer::new(&answer).text(text).notes(notes))
}

/// Refuses a directory with anything in it but what an `init` that was cut off left.
fn check_empty(dir: &Path) -> Result<(), CliError> {
    let names = names(dir)?;
    let cut_off = names.iter().any(|name| name == MARKER);
    let unfinished = |name: &String| name.starts_with(durable::UNFINISHED);
    if cut_off || names.iter().all(unfinished) { Ok(()) } else { Err(CliError::NotEmpty { dir: dir.into() }) }
}

/// Makes a directory that only its owner may look into.
fn private_dir(path: &Path) -> Result<(), CliError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(|source| CliError::Write { path: path.into(), source }),
    }
}
