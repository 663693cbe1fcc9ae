//! `relevo delta`: makes the deltas that are missing.

use relevo_types::{BuildId, Channel, Codename, DeltaPolicy, DeviceManifest};
use serde::Serialize;

use crate::{
    args::Delta,
    builds::{self, Build, find},
    command::import::outcome_line,
    error::CliError,
    home::Home,
    packages::{self, Outcome},
    repository,
    session::{Answer, Session},
};

/// What `--json` says.
#[derive(Debug, Serialize)]
struct Deltas {
    device: Codename,
    /// The builds that were gone to, one for each channel.
    to: Vec<BuildId>,
    packages: Vec<Outcome>,
}

pub(crate) fn run(session: &Session<'_>, args: &Delta) -> anyhow::Result<Answer> {
    let home = Home::open(&session.dir)?;
    let manifest = home.manifest(&args.codename)?;
    if let Some(channel) = &args.channel {
        Home::channel(&manifest, Some(channel))?;
    }
    let _lock = home.lock_device(&args.codename)?;
    let all = builds::list(&home, &args.codename)?;
    let pairs = choose(&manifest, &all, args)?;
    let published = repository::published(&home)?;
    let is_published = |target: &_| published.contains_key(target);
    let signers = packages::ota_signers(session, &home, &manifest, &args.passphrase)?;
    let signers = signers.as_ref();

    let mut answer = Deltas { device: args.codename.clone(), to: Vec::new(), packages: Vec::new() };
    let mut text = String::new();
    for (from, to) in pairs {
        if !answer.to.contains(&to.build) {
            answer.to.push(to.build.clone());
        }
        let Some(from) = from else { continue };
        let outcome =
            packages::make(session, &home, &manifest, (Some(from), to), &is_published, &args.effort, signers)?;
        text += &outcome_line(&outcome);
        answer.packages.push(outcome);
    }
    if text.is_empty() {
        text = "no older build to start from\n".to_owned();
    }
    let made = answer.packages.iter().any(|outcome| outcome.state != "already published");
    let notes = if made { "next: relevo publish\n" } else { "" };
    Ok(Answer::new(&answer).text(text).notes(notes))
}

/// Which deltas there should be: pairs of source and target. A target without any source comes once, alone.
fn choose<'b>(
    manifest: &DeviceManifest,
    all: &'b [Build],
    args: &Delta,
) -> Result<Vec<(Option<&'b Build>, &'b Build)>, CliError> {
    let targets: Vec<&Build> = match &args.to {
        Some(to) => vec![find(all, &manifest.codename, to)?],
        None => {
            let newest = |channel: &Channel| all.iter().rfind(|build| build.channel == *channel);
            let wanted = |channel: &Channel| args.channel.as_ref().is_none_or(|wanted| wanted == channel);
            manifest.channels.iter().filter(|&channel| wanted(channel)).filter_map(newest).collect()
        }
    };
    if targets.is_empty() {
        return Err(CliError::NoBuilds { codename: manifest.codename.clone() });
    }
    if !args.from.is_empty() {
        let mut pairs = Vec::new();
        for from in &args.from {
            let from = find(all, &manifest.codename, from)?;
            // With sources of several channels, each goes to the newest build of its own.
            let to = targets.iter().find(|to| to.channel == from.channel).copied().unwrap_or(targets[0]);
            check_pair(from, to)?;
            pairs.push((Some(from), to));
        }
        return Ok(pairs);
    }
    let mut pairs = Vec::new();
    for to in targets {
        let older = all.iter().rev().filter(|from| from.channel == to.channel && from.timestamp < to.timestamp);
        let most = match manifest.deltas {
            DeltaPolicy::BuildsBack(builds) => builds as usize,
            // Only an origin knows which builds phones ask with; here every build that is at hand may be one.
            DeltaPolicy::PolledWithinDays(_) => usize::MAX,
        };
        pairs.push((None, to));
        pairs.extend(older.take(most).map(|from| (Some(from), to)));
    }
    Ok(pairs)
}

fn check_pair(from: &Build, to: &Build) -> Result<(), CliError> {
    if from.channel != to.channel {
        return Err(CliError::OtherChannel {
            from: from.build.clone(),
            from_channel: from.channel.clone(),
            to: to.build.clone(),
            to_channel: to.channel.clone(),
        });
    }
    if from.timestamp >= to.timestamp {
        return Err(CliError::NotOlder { from: from.build.clone(), to: to.build.clone() });
    }
    Ok(())
}
