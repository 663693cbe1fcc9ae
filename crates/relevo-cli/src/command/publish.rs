//! `relevo publish`: signs what was made and puts it into the repository, all at once.

use std::{fs, path::Path};

use anyhow::Context;
use relevo_meta::expiry::Expiry;
use relevo_repo::Signers;
use relevo_types::{ByteLen, Codename, DeviceManifest, PackageKind, Sha256, TargetPath};
use serde::Serialize;

use crate::{
    args::Publish,
    command::ota::{check_streams_of, sign_to},
    durable::{UNFINISHED, make_dir, sweep},
    error::CliError,
    home::{Home, human, names},
    keys,
    packages::{self, Made},
    repository,
    session::{Answer, Session},
};

/// What `--json` says.
#[derive(Debug, Serialize)]
struct Published {
    /// What became visible, in the order of the builds.
    packages: Vec<Visible>,
    /// Roles that were signed anew.
    roles: Vec<String>,
    /// Version of the timestamp that makes it visible.
    timestamp_version: u64,
}

#[derive(Debug, Serialize)]
struct Visible {
    path: TargetPath,
    bytes: ByteLen,
    sha256: Sha256,
    /// False if the very same was published already.
    changed: bool,
}

pub(crate) fn run(session: &Session<'_>, args: &Publish) -> anyhow::Result<Answer> {
    let home = Home::open(&session.dir)?;
    let codenames = if args.codenames.is_empty() { home.devices()? } else { args.codenames.clone() };
    let mut work: Vec<(DeviceManifest, Vec<Made>)> = Vec::new();
    for codename in &codenames {
        let manifest = home.manifest(codename)?;
        let pending = packages::pending(&home, &manifest)?;
        work.push((manifest, pending));
    }
    let repository = repository::open(&home)?;
    let mut publication = repository.publication()?;
    let mut answer = Published { packages: Vec::new(), roles: Vec::new(), timestamp_version: 0 };
    if work.iter().all(|(_, pending)| pending.is_empty()) {
        let published = publication.commit(&Signers::new(), session.now)?;
        published.expiries.iter().filter_map(Expiry::warning).for_each(|text| session.warn(text));
        answer.timestamp_version = published.timestamp_version;
        tidy(&home, &work)?;
        return Ok(Answer::new(&answer).text("nothing new to publish\n"));
    }

    let passphrase = keys::passphrase(session, &args.passphrase)?;
    let dir = home.dir().join("packages");
    make_dir(&dir)?;
    // The repository's lock, which is held, keeps other publications away from here; `import` and `delta` work below.
    sweep(&dir)?;
    let signed = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempdir_in(&dir)
        .map_err(|source| CliError::Write { path: dir, source })?;
    for (manifest, pending) in work.iter().filter(|(_, pending)| !pending.is_empty()) {
        let key = home.key(&format!("d-{}", manifest.codename), &passphrase)?;
        let signers = [key.signing_key().clone()];
        for made in pending {
            let failed = || format!("could not publish {}", made.target);
            // It may have lain here for long: what the disk made of it must not get a signature.
            let added = if made.custom.kind == PackageKind::Native {
                let path = signed.path().join(made.target.file());
                check_streams_of(session, &made.path)?;
                sign_to(&made.path, (&path, signed.path()), &signers)?;
                let added = publication.add_package(&made.target, &path, &made.custom).with_context(failed)?;
                fs::remove_file(&path).map_err(|source| CliError::Write { path, source })?;
                added
            } else {
                // An OTA zip has the signatures that phones look for; the device's role vouches for it as it is.
                packages::check_zip(session, made).with_context(failed)?;
                publication.add_package(&made.target, &made.path, &made.custom).with_context(failed)?
            };
            answer.packages.push(Visible {
                path: made.target.clone(),
                bytes: added.target.length,
                sha256: added.target.sha256,
                changed: added.changed,
            });
        }
    }
    let signers = repository::signers(&home, &publication.needed_signers(), &passphrase)?;
    let published = publication.commit(&signers, session.now)?;
    published.expiries.iter().filter_map(Expiry::warning).for_each(|text| session.warn(text));
    answer.roles = published.roles;
    answer.timestamp_version = published.timestamp_version;
    for made in work.iter().flat_map(|(_, pending)| pending) {
        // The package goes first: a description without one is nothing, a package without one would stay for ever.
        remove(&made.path)?;
        remove(&made.description())?;
    }
    tidy(&home, &work)?;

    let mut text = String::new();
    for package in &answer.packages {
        let state = if package.changed { "published" } else { "already published" };
        text += &format!("{state} {}, {}\n", package.path, human(package.bytes.get()));
    }
    let devices: Vec<&Codename> = work.iter().filter(|(_, p)| !p.is_empty()).map(|(m, _)| &m.codename).collect();
    let devices = devices.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let notes = format!("phones of {devices} see it at their next check: timestamp {}\n", answer.timestamp_version);
    Ok(Answer::new(&answer).text(text).notes(notes))
}

fn remove(path: &Path) -> Result<(), CliError> {
    fs::remove_file(path).map_err(|source| CliError::Write { path: path.into(), source })
}

/// Removes descriptions whose package was published and removed just before the power went.
fn tidy(home: &Home, work: &[(DeviceManifest, Vec<Made>)]) -> Result<(), CliError> {
    for (manifest, _) in work {
        for channel in &manifest.channels {
            let dir = home.packages(&manifest.codename, channel);
            for name in names(&dir)? {
                if let Some(package) = name.strip_suffix(".json")
                    && packages::is_package(package)
                    && !dir.join(package).exists()
                {
                    remove(&dir.join(&name))?;
                }
            }
        }
    }
    Ok(())
}
