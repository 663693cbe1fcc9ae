//! `relevo withdraw` and `relevo repo retire`: taking back what is offered.

use std::collections::BTreeMap;

use jiff::Timestamp;
use relevo_meta::{Package, TrustedDevice, expiry::Expiry};
use relevo_repo::Publication;
use relevo_types::{BuildId, Channel, Codename, TargetPath};
use serde::Serialize;

use crate::{
    args::{Retire, TakenBack, Withdraw},
    command::ceremony,
    error::CliError,
    home::{Home, human, or_none},
    keyring::Keyring,
    repository,
    session::{Answer, Session},
};

/// What `--json` says.
#[derive(Debug, Serialize)]
struct Changed {
    device: Codename,
    /// The packages.
    packages: Vec<TargetPath>,
    /// Roles that were signed anew.
    signed: Vec<String>,
    /// Length of the device's role, in bytes; phones read 128 KiB of it.
    role_bytes: u64,
}

pub(crate) fn withdraw(session: &Session<'_>, args: &Withdraw) -> anyhow::Result<Answer> {
    let withdrawn = !args.undo;
    let choose = |device: &TrustedDevice| -> Result<Vec<TargetPath>, CliError> {
        let of_build = || device.packages.iter().filter(|package| package.custom.to == args.build);
        if of_build().next().is_none() {
            let mut known: Vec<String> = device.packages.iter().map(|package| package.custom.to.to_string()).collect();
            known.dedup();
            let (codename, build) = (args.codename.clone(), args.build.clone());
            return Err(CliError::NotOffered { codename, build, known: or_none(&known) });
        }
        let changing = of_build().filter(|package| package.custom.withdrawn != withdrawn);
        Ok(changing.map(|package| package.path.clone()).collect())
    };
    let change = |publication: &mut Publication<'_>, path: &TargetPath| {
        publication.edit_custom(path, |custom| drop(custom.insert("withdrawn".to_owned(), withdrawn.into())))
    };
    let word = if withdrawn { "withdrawn" } else { "offered again" };
    take_back(session, &args.codename, &args.how, &choose, &change, word)
}

pub(crate) fn retire(session: &Session<'_>, args: &Retire) -> anyhow::Result<Answer> {
    let choose = |device: &TrustedDevice| -> Result<Vec<TargetPath>, CliError> {
        Ok(old_packages(device, args.channel.as_ref(), usize::from(args.keep)))
    };
    let change = |publication: &mut Publication<'_>, path: &TargetPath| publication.remove_target(path);
    take_back(session, &args.codename, &args.how, &choose, &change, "no longer offered")
}

/// Packages that lead to other builds than the newest of their channel and those that the newest need first.
fn old_packages(device: &TrustedDevice, channel: Option<&Channel>, keep: usize) -> Vec<TargetPath> {
    let mut channels: BTreeMap<&Channel, Vec<&Package>> = BTreeMap::new();
    for package in &device.packages {
        channels.entry(package.path.channel()).or_default().push(package);
    }
    let mut old = Vec::new();
    for (_, packages) in channels.into_iter().filter(|(name, _)| channel.is_none_or(|wanted| wanted == *name)) {
        let mut builds: Vec<(Timestamp, &BuildId)> =
            packages.iter().map(|package| (package.custom.timestamp, &package.custom.to)).collect();
        builds.sort();
        builds.dedup();
        let mut kept: Vec<&BuildId> = builds.iter().rev().take(keep).map(|(_, build)| *build).collect();
        let floors: Vec<&BuildId> = packages
            .iter()
            .filter(|package| kept.contains(&&package.custom.to))
            .filter_map(|package| package.custom.floor.as_ref())
            .collect();
        kept.extend(floors);
        let gone = packages.iter().filter(|package| !kept.contains(&&package.custom.to));
        old.extend(gone.map(|package| package.path.clone()));
    }
    old
}

fn take_back(
    session: &Session<'_>,
    codename: &Codename,
    how: &TakenBack,
    choose: &dyn Fn(&TrustedDevice) -> Result<Vec<TargetPath>, CliError>,
    change: &dyn Fn(&mut Publication<'_>, &TargetPath) -> Result<(), relevo_repo::RepoError>,
    word: &str,
) -> anyhow::Result<Answer> {
    let home = Home::open(&session.dir)?;
    let repository = repository::open(&home)?;
    let mut publication = repository.publication()?;
    let state = repository.current()?;
    let device = state.device(codename).ok_or_else(|| relevo_repo::RepoError::NoSuchDevice(codename.clone()))?;
    let packages = choose(device)?;
    if packages.iter().any(|path| device.delegated.contains_key(path)) {
        publication.use_nightly(codename)?;
    }
    packages.iter().try_for_each(|path| change(&mut publication, path))?;
    if let Some(file) = how.ceremony.as_ref().filter(|_| !packages.is_empty()) {
        let proposal = publication.propose(session.now)?;
        return ceremony::started(session, &home, file, &proposal);
    }
    let ring = Keyring::open(session, &home, &how.passphrase)?;
    let signers = ring.signers(&publication.needs()?)?;
    let published = publication.commit(&signers, session.now)?;
    published.expiries.iter().filter_map(Expiry::warning).for_each(|text| session.warn(text));

    let ground = repository.ground()?;
    let role_bytes = ground.file(&format!("d-{codename}")).map_or(0, <[u8]>::len) as u64;
    let mut text: String = packages.iter().map(|path| format!("{word}: {path}\n")).collect();
    text += &format!("{} packages; the role of {codename} has {}\n", packages.len(), human(role_bytes));
    let changed = Changed { device: codename.clone(), packages, signed: published.roles, role_bytes };
    Ok(Answer::new(&changed).text(text))
}
