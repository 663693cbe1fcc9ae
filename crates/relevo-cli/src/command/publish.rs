//! `relevo publish`: signs what was made and puts it into the repository, all at once.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context;
use relevo_dialect::{Table, Warning};
use relevo_meta::{Trusted, expiry::Expiry};
use relevo_repo::{Added, Publication, RoleKeys, Signers};
use relevo_types::{ByteLen, Codename, DeviceManifest, InstallKind, PackageKind, Sha256, TargetPath};
use serde::Serialize;

use crate::{
    args::Publish,
    command::{ceremony, ota::check_streams_of, publish_to},
    csig,
    durable::{UNFINISHED, make_dir, sweep},
    error::CliError,
    home::{Home, human, names},
    keyring::{Hand, Held, Keyring},
    packages::{self, Made},
    repository,
    session::{Answer, Session},
};

/// What `--json` says.
#[derive(Debug, Default, Serialize)]
struct Published {
    /// What became visible, in the order of the builds.
    packages: Vec<Visible>,
    /// Roles that were signed anew.
    roles: Vec<String>,
    /// Version of the timestamp that makes it visible.
    timestamp_version: u64,
    /// What updater apps of ROMs would not take of it, by device; absent if there is nothing.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    app_warnings: BTreeMap<Codename, Vec<Warning>>,
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
    if let Some(url) = &args.to {
        return publish_to::run(session, args, url);
    }
    let home = Home::open(&session.dir)?;
    let codenames = if args.codenames.is_empty() { home.devices()? } else { args.codenames.clone() };
    if args.resign {
        return resign(session, args, &home, &codenames);
    }
    let mut work: Vec<(DeviceManifest, Vec<Made>)> = Vec::new();
    for codename in &codenames {
        let manifest = home.manifest(codename)?;
        let pending = packages::pending(&home, &manifest)?;
        work.push((manifest, pending));
    }
    let repository = repository::open(&home)?;
    let mut publication = repository.publication()?;
    let mut answer = Published::default();
    if work.iter().all(|(_, pending)| pending.is_empty()) {
        if args.ceremony.is_some() {
            return Err(CliError::NoChange.into());
        }
        let published = publication.commit(&Signers::new(), session.now)?;
        published.expiries.iter().filter_map(Expiry::warning).for_each(|text| session.warn(text));
        answer.timestamp_version = published.timestamp_version;
        tidy(&home, &work)?;
        return Ok(Answer::new(&answer).text("nothing new to publish\n"));
    }

    let ring = Keyring::open(session, &home, &args.passphrase)?;
    let dir = home.dir().join("packages");
    make_dir(&dir)?;
    // The repository's lock, which is held, keeps other publications away from here; `import` and `delta` work below.
    sweep(&dir)?;
    let signed = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempdir_in(&dir)
        .map_err(|source| CliError::Write { path: dir, source })?;
    for (manifest, pending) in work.iter().filter(|(_, pending)| !pending.is_empty()) {
        let mut signing = Signing::of(&manifest.codename, &ring, &mut publication)?;
        for made in pending {
            let failed = || format!("could not publish {}", made.target);
            let who = signing.who(&made.target);
            if who.hands.len() < who.keys.threshold && args.ceremony.is_none() {
                return Err(ring.missing(&who.role, &who.keys, who.hands.len()).into());
            }
            // It may have lain here for long: what the disk made of it must not get a signature.
            let added = if made.custom.kind == PackageKind::Native {
                check_streams_of(session, &made.path)?;
                // What others have to sign as well stays where it is, signed by those who are here.
                let path = match &args.ceremony {
                    Some(_) => made.path.clone(),
                    None => signed.path().join(made.target.file()),
                };
                let front = packages::sign_native(&made.path, &path, who.open(&ring)?)?;
                let keys: Vec<_> = who.keys.keys.iter().map(|key| *key.verifying_key()).collect();
                if front.verify(&keys, who.keys.threshold).is_err() {
                    let (threshold, role) = (who.keys.threshold, who.role.clone());
                    return Err(CliError::PackageSignatures { path, threshold, role }.into());
                }
                let added = publication.add_package(&made.target, &path, &made.custom).with_context(failed)?;
                if args.ceremony.is_none() {
                    fs::remove_file(&path).map_err(|source| CliError::Write { path, source })?;
                }
                added
            } else {
                // An OTA zip has the signatures that phones look for; the device's role vouches for it as it is.
                packages::check_zip(session, made).with_context(failed)?;
                let added = publication.add_package(&made.target, &made.path, &made.custom).with_context(failed)?;
                if let Some(path) = csig::check(&home, made).with_context(failed)? {
                    let kind = serde_json::json!({"kind": "csig"});
                    publication.add_target(&csig::target(&made.target)?, &path, &kind).with_context(failed)?;
                }
                added
            };
            answer.packages.push(Visible {
                path: made.target.clone(),
                bytes: added.target.length,
                sha256: added.target.sha256,
                changed: added.changed,
            });
        }
    }
    if let Some(file) = &args.ceremony {
        let proposal = publication.propose(session.now)?;
        return ceremony::started(session, &home, file, &proposal);
    }
    let signers = ring.signers(&publication.needs()?)?;
    let published = publication.commit(&signers, session.now)?;
    published.expiries.iter().filter_map(Expiry::warning).for_each(|text| session.warn(text));
    answer.roles = published.roles;
    answer.timestamp_version = published.timestamp_version;
    packages::remove_published(work.iter().flat_map(|(_, pending)| pending))?;
    tidy(&home, &work)?;
    answer.app_warnings = warn(session, &repository::current(&home)?, &work);

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

/// Says what updater apps of ROMs would not take of the devices that were published.
fn warn(
    session: &Session<'_>,
    state: &Trusted,
    work: &[(DeviceManifest, Vec<Made>)],
) -> BTreeMap<Codename, Vec<Warning>> {
    let table = Table::built_in();
    let mut all = BTreeMap::new();
    for (manifest, _) in work.iter().filter(|(_, pending)| !pending.is_empty()) {
        let Some(device) = state.device(&manifest.codename) else { continue };
        let warnings = relevo_dialect::lint(device, manifest.kind != InstallKind::Native, &table);
        for warning in &warnings {
            session.warn(format!("{}, {}: {}; {}", manifest.codename, warning.channel, warning.text, warning.fix));
        }
        if !warnings.is_empty() {
            all.insert(manifest.codename.clone(), warnings);
        }
    }
    all
}

/// Signs published packages again whose signatures phones would no longer count.
fn resign(session: &Session<'_>, args: &Publish, home: &Home, codenames: &[Codename]) -> anyhow::Result<Answer> {
    let repository = repository::open(home)?;
    let mut publication = repository.publication()?;
    let ring = Keyring::open(session, home, &args.passphrase)?;
    let state = repository.current()?;
    let dir = home.dir().join("packages");
    make_dir(&dir)?;
    sweep(&dir)?;
    let signed = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempdir_in(&dir)
        .map_err(|source| CliError::Write { path: dir, source })?;
    let mut answer = Published::default();
    for device in codenames.iter().filter_map(|codename| state.device(codename)) {
        let mut signing = Signing::of(&device.codename, &ring, &mut publication)?;
        for package in &device.packages {
            let from = home.repo().join("targets").join(package.path.consistent(&package.sha256));
            let (keys, threshold) = device.signatories(&package.path);
            if packages::is_signed(&from, package.custom.kind, keys, threshold)? {
                continue;
            }
            let who = signing.who(&package.path);
            if who.hands.len() < threshold {
                return Err(ring.missing(&who.role, &who.keys, who.hands.len()).into());
            }
            let path = signed.path().join(package.path.file());
            check_streams_of(session, &from)?;
            packages::sign_native(&from, &path, who.open(&ring)?)?;
            let added = publication.replace_package(&package.path, &path, &package.custom)?;
            remove(&path)?;
            let Added { target, changed } = added;
            answer.packages.push(Visible {
                path: package.path.clone(),
                bytes: target.length,
                sha256: target.sha256,
                changed,
            });
        }
    }
    let signers = ring.signers(&publication.needs()?)?;
    let published = publication.commit(&signers, session.now)?;
    published.expiries.iter().filter_map(Expiry::warning).for_each(|text| session.warn(text));
    (answer.roles, answer.timestamp_version) = (published.roles, published.timestamp_version);
    let count = answer.packages.len();
    Ok(Answer::new(&answer).text(format!("{count} packages signed again\n")))
}

/// Who signs a device's packages: for its nightly channel the build machine, where that has a role and its key is here.
struct Signing<'a> {
    device: Who<'a>,
    nightly: Option<Who<'a>>,
}

/// The keys of a role, and who of them is at hand.
struct Who<'a> {
    role: String,
    keys: RoleKeys,
    hands: Vec<&'a Held>,
    opened: Option<Vec<Hand>>,
}

impl<'a> Signing<'a> {
    fn of(codename: &Codename, ring: &'a Keyring<'_>, publication: &mut Publication<'_>) -> anyhow::Result<Self> {
        let role = format!("d-{codename}");
        let keys = publication.role(&role)?.keys;
        let device = Who::new(role, keys, ring);
        let nightly = publication.nightly_keys(codename)?;
        let nightly = nightly.map(|keys| Who::new(format!("d-{codename}-nightly"), keys, ring));
        let nightly = nightly.filter(|who| who.hands.len() >= who.keys.threshold);
        if nightly.is_some() {
            publication.use_nightly(codename)?;
        }
        Ok(Self { device, nightly })
    }

    fn who(&mut self, target: &TargetPath) -> &mut Who<'a> {
        match &mut self.nightly {
            Some(nightly) if target.channel().as_str() == "nightly" => nightly,
            _ => &mut self.device,
        }
    }
}

impl<'a> Who<'a> {
    fn new(role: String, keys: RoleKeys, ring: &'a Keyring<'_>) -> Self {
        let mut hands = ring.of(&role, &keys);
        hands.truncate(keys.threshold);
        Self { role, keys, hands, opened: None }
    }

    /// Opens the keys, once.
    fn open(&mut self, ring: &Keyring<'_>) -> anyhow::Result<&[Hand]> {
        if self.opened.is_none() {
            let subject = format!("a package of {}", self.role);
            let hands = self.hands.iter().map(|held| ring.hand(held, &subject)).collect::<Result<_, _>>()?;
            self.opened = Some(hands);
        }
        Ok(self.opened.as_deref().expect("it was just put there"))
    }
}

fn remove(path: &Path) -> Result<(), CliError> {
    fs::remove_file(path).map_err(|source| CliError::Write { path: path.into(), source })
}

/// Removes what lay beside packages that were published and removed just before the power went.
pub(crate) fn tidy(home: &Home, work: &[(DeviceManifest, Vec<Made>)]) -> Result<(), CliError> {
    for (manifest, _) in work {
        for channel in &manifest.channels {
            let dir = home.packages(&manifest.codename, channel);
            for name in names(&dir)? {
                if let Some(package) = name.strip_suffix(".json").or_else(|| name.strip_suffix(".csig"))
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
