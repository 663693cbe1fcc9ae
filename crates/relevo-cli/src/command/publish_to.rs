//! `relevo publish --to URL`: signs what was made, and has an origin publish it.

use relevo_types::{ByteLen, Codename, DeviceManifest, Sha256, TargetPath};
use serde::Serialize;

use crate::{
    args::Publish,
    command::publish::tidy,
    durable::{UNFINISHED, make_dir, sweep},
    error::CliError,
    home::{Home, Lock, human},
    keyring::Keyring,
    keys,
    packages::{self, Made},
    push,
    session::{Answer, Session},
};

/// What `--json` says.
#[derive(Debug, Default, Serialize)]
struct Published {
    /// What became visible.
    packages: Vec<Visible>,
    /// Roles that were signed anew.
    roles: Vec<String>,
    /// Version of the timestamp that makes it visible.
    timestamp_version: u64,
    /// Where it went.
    origin: String,
    /// Bytes that were sent, those of requests that broke as well.
    sent_bytes: u64,
    /// Bytes of the files that were published.
    total_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Visible {
    path: TargetPath,
    bytes: ByteLen,
    sha256: Sha256,
    /// False if the very same was published already.
    changed: bool,
}

pub(crate) fn run(session: &Session<'_>, args: &Publish, url: &str) -> anyhow::Result<Answer> {
    let home = Home::open(&session.dir)?;
    let codenames = if args.codenames.is_empty() { home.devices()? } else { args.codenames.clone() };
    let mut work: Vec<(DeviceManifest, Vec<Made>)> = Vec::new();
    for codename in &codenames {
        let manifest = home.manifest(codename)?;
        let pending = packages::pending(&home, &manifest)?;
        work.push((manifest, pending));
    }
    let mut answer = Published { origin: url.to_owned(), ..Published::default() };
    if work.iter().all(|(_, pending)| pending.is_empty()) {
        tidy(&home, &work)?;
        return Ok(Answer::new(&answer).text("nothing new to publish\n"));
    }
    let dir = home.dir().join("origin");
    make_dir(&dir)?;
    let _lock = Lock::take(&dir)?;
    sweep(&dir)?;
    let scratch = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempdir_in(&dir)
        .map_err(|source| CliError::Write { path: dir, source })?;

    let ring = Keyring::open(session, &home, &args.passphrase)?;
    let account = match &args.key {
        Some(path) => keys::open_account(session, path, &ring.passphrase()?)?,
        // Whoever runs the origin needs the public half; the answer to a key that nobody knows says so.
        None => home.key_or_new(session, "origin", &ring.passphrase()?)?,
    };
    let origin = push::Origin::new(session, url, &account, args.limit, args.parallel, args.retries)?;
    let devices: Vec<(&DeviceManifest, &[Made])> = work
        .iter()
        .filter(|(_, pending)| !pending.is_empty())
        .map(|(manifest, pending)| (manifest, &pending[..]))
        .collect();
    let pushed = push::run(session, &home, &ring, &origin, &devices, args.parallel, scratch.path());
    if origin.corrected_clock() {
        session.warn("this computer's clock is wrong: requests were signed by the origin's");
    }
    let pushed = pushed?;
    let visible = pushed.packages.iter().map(|(path, target, changed)| Visible {
        path: path.clone(),
        bytes: target.length,
        sha256: target.sha256,
        changed: *changed,
    });
    answer.packages = visible.collect();
    answer.roles = pushed.receipt.roles.into_iter().map(|role| role.role).collect();
    answer.timestamp_version = pushed.receipt.timestamp_version;
    (answer.sent_bytes, answer.total_bytes) = (pushed.sent, pushed.total);
    packages::remove_published(work.iter().flat_map(|(_, pending)| pending))?;
    tidy(&home, &work)?;

    let mut text = String::new();
    for package in &answer.packages {
        let state = if package.changed { "published" } else { "already published" };
        text += &format!("{state} {}, {}\n", package.path, human(package.bytes.get()));
    }
    text += &format!("sent {} of {}\n", human(answer.sent_bytes), human(answer.total_bytes));
    let codenames: Vec<&Codename> = devices.iter().map(|(manifest, _)| &manifest.codename).collect();
    let codenames = codenames.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let notes = format!("phones of {codenames} see it at their next check: timestamp {}\n", answer.timestamp_version);
    Ok(Answer::new(&answer).text(text).notes(notes))
}
