//! `relevo import`: takes in a build's images.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::Context;
use relevo_format::ReadAt;
use relevo_types::{BuildId, Channel, Codename, DeviceManifest, InstallKind, PartitionName, Sha256};
use serde::Serialize;

use crate::{
    args::Import,
    build_source::{self, BuildSource},
    builds::{self, AbFacts, Build, ImageFacts, copy, give_name, hash},
    durable::UNFINISHED,
    error::CliError,
    facts::is_patch_level,
    home::{Home, human},
    lint::{self, Finding, Level},
    packages::{self, Outcome},
    repository,
    session::{Answer, Session},
};

/// What `--json` says.
#[derive(Debug, Serialize)]
struct Imported {
    device: Codename,
    build: BuildId,
    channel: Channel,
    timestamp: u64,
    version: String,
    /// `imported`, or `already imported`.
    state: &'static str,
    bytes: u64,
    partitions: BTreeMap<PartitionName, ImageFacts>,
    /// The full package; none with `--no-full`.
    full: Option<Outcome>,
    /// What is wrong with the build.
    findings: Vec<Finding>,
}

pub(crate) fn run(session: &Session<'_>, args: &Import) -> anyhow::Result<Answer> {
    let home = Home::open(&session.dir)?;
    let manifest = home.manifest(&args.device)?;
    let _lock = home.lock_device(&args.device)?;
    let mut findings = Vec::new();
    // A zip is looked at as a whole before anything is unpacked.
    let zip = build_source::ota_zip(&args.from)?;
    if let Some(finding) = zip.as_ref().and_then(lint::container) {
        return Err(stopped(&[finding], 1));
    }
    let ab = match &zip {
        Some(_) => {
            let checked = lint::ota_zip(session, &args.from)?;
            findings.extend(checked.findings);
            Some(checked.ab)
        }
        None => None,
    };
    // What is unpacked lies where it is to stay, so that it gets there by its name alone.
    let source = build_source::open(&args.from, &home.builds(&args.device), session)?;
    let mut build = describe(args, &manifest, &source)?;
    if manifest.kind == InstallKind::Ab {
        build.ab = Some(AbFacts::of(&source));
    }

    let existing = builds::list(&home, &args.device)?;
    let there = existing.iter().find(|other| other.build == build.build);
    build.partitions = match there {
        Some(_) => hash_all(session, &build, &source, "comparing")?,
        None => known(&source),
    };
    // Whatever an image's digest is, its length is known, and more is not asked for.
    findings.extend(lint::build(&manifest, &source, &build, &existing));
    let stops = lint::stopping(&findings, &args.accept).len();
    if stops > 0 {
        return Err(stopped(&findings, stops));
    }
    findings.iter().for_each(|finding| session.warn(finding.text.clone()));

    let state = match there {
        Some(there) => {
            same(there, &build)?;
            if (&there.version, there.sdk, &there.spl) != (&build.version, build.sdk, &build.spl) {
                session.warn(format!(
                    "build {} keeps what was said of it first: version {}, SDK {}, patch level {}",
                    there.build,
                    there.version,
                    there.sdk.map_or("unknown".to_owned(), |sdk| sdk.to_string()),
                    there.spl.as_deref().unwrap_or("unknown")
                ));
            }
            let ab = build.ab.take();
            build = there.clone();
            let dynamic = |ab: &Option<AbFacts>| ab.as_ref().is_some_and(|ab| ab.dynamic.is_some());
            if ab.is_some() && (build.ab.is_none() || dynamic(&ab) && !dynamic(&build.ab)) {
                // The same images came before, without all that A/B updates are made with.
                build.ab = ab;
                let dir = build.dir(&home);
                AbFacts::write_beside(&source, &dir)?;
                build.write(&dir)?;
            }
            "already imported"
        }
        None => {
            take_in(&home, session, &mut build, &source)?;
            "imported"
        }
    };

    let full = if args.no_full {
        None
    } else {
        let published = repository::published(&home)?;
        let is_published = |target: &_| published.contains_key(target);
        Some(match &ab {
            Some(ab) if manifest.kind == InstallKind::Ab => {
                // The zip is signed already; without the key it lacks what Custota asks for, and nothing else.
                let signers = packages::ota_signers(session, &home, &manifest, &args.passphrase);
                let signers = signers.unwrap_or_else(|error| {
                    session.warn(format!("Custota will not be told of build {}: {error:#}", build.build));
                    None
                });
                let zip = (&build, &*args.from, ab);
                packages::keep(session, &home, &manifest, zip, &is_published, signers.as_ref())?
            }
            _ => {
                let signers = packages::ota_signers(session, &home, &manifest, &args.passphrase)?;
                let builds = (None, &build);
                packages::make(session, &home, &manifest, builds, &is_published, &args.effort, signers.as_ref())?
            }
        })
    };

    let mut text = format!(
        "{state} build {} of {} into {}: {} partitions, {}\n",
        build.build,
        build.device,
        build.channel,
        build.partitions.len(),
        human(build.size())
    );
    if let Some(full) = &full {
        text += &outcome_line(full);
    }
    let older = existing.iter().any(|other| other.build != build.build);
    let mut notes = String::new();
    for finding in &findings {
        notes += &format!("{}: {}\n", finding.code, finding.fix);
    }
    notes += &match (older, &full) {
        (true, _) => format!("next: relevo delta {}, then relevo publish\n", build.device),
        (false, Some(full)) if full.state != "already published" => "next: relevo publish\n".to_owned(),
        (false, _) => "next: relevo import the next build\n".to_owned(),
    };
    let answer = Imported {
        device: build.device.clone(),
        build: build.build.clone(),
        channel: build.channel.clone(),
        timestamp: build.timestamp,
        version: build.version.clone(),
        state,
        bytes: build.size(),
        partitions: build.partitions,
        full,
        findings,
    };
    Ok(Answer::new(&answer).text(text).notes(notes))
}

/// An import that findings stop, of which nothing was taken in.
fn stopped(findings: &[Finding], stops: usize) -> anyhow::Error {
    let mut text = String::new();
    for Finding { level, code, text: what, fix } in findings {
        let level = if *level == Level::Error { "error" } else { "warning" };
        text += &format!("{level} {code}: {what}\n  {fix}\n");
    }
    Answer::new(&serde_json::json!({ "findings": findings })).text(text).failed(stops)
}

/// The images as far as they are known without reading them.
fn known(source: &BuildSource) -> BTreeMap<PartitionName, ImageFacts> {
    let mut facts = BTreeMap::new();
    for (name, image) in &source.images {
        let sha256 = source.owned.get(name).copied().flatten().unwrap_or(Sha256::new([0; 32]));
        facts.insert(name.clone(), ImageFacts { size: image.len(), sha256 });
    }
    facts
}

/// One line on a package, for people.
pub(crate) fn outcome_line(outcome: &Outcome) -> String {
    match outcome.bytes {
        Some(bytes) => format!("{} {}, {}\n", outcome.state, outcome.file, human(bytes)),
        None => format!("{} {}\n", outcome.state, outcome.file),
    }
}

/// Everything about the build but its images: options first, then the files beside the images, then what it came in.
fn describe(args: &Import, manifest: &DeviceManifest, source: &BuildSource) -> anyhow::Result<Build> {
    let (beside, facts) = (&source.beside, &source.facts);
    let unknown = |what, option| CliError::UnknownFact { what, option, dir: args.from.clone() };
    let said = facts.incremental.as_deref().filter(|_| args.build.is_none() && beside.build.is_none());
    let said = said.map(|text| {
        BuildId::parse(text).map_err(|error| CliError::Damaged { path: args.from.clone(), reason: error.to_string() })
    });
    let build = args.build.clone().or_else(|| beside.build.clone());
    let build = build.map_or_else(|| said.transpose(), |build| Ok(Some(build)))?;
    let build = build.ok_or_else(|| unknown("id", "--build ID"))?;
    let timestamp = args.timestamp.or(beside.timestamp).or(facts.timestamp);
    let timestamp = timestamp.ok_or_else(|| unknown("date", "--timestamp SECONDS"))?;
    let spl = args.spl.clone().or_else(|| beside.spl.clone()).or_else(|| facts.spl.clone());
    if let Some(spl) = spl.as_deref().filter(|spl| !is_patch_level(spl)) {
        let reason = format!("the security patch level is {spl:?}; expected YYYY-MM-DD");
        return Err(CliError::Damaged { path: args.from.clone(), reason }.into());
    }
    // Year 9999: what a date can be in the metadata.
    if timestamp > 253_402_207_200 {
        let reason = format!("the build's date is {timestamp} seconds since 1970; is it in milliseconds?");
        return Err(CliError::Damaged { path: args.from.clone(), reason }.into());
    }
    let version = args.version.clone().or_else(|| beside.version.clone()).or_else(|| facts.version.clone());
    let version = version.unwrap_or_else(|| build.to_string());
    if version.len() > relevo_meta::Custom::MAX_VERSION || version.chars().any(char::is_control) {
        let most = relevo_meta::Custom::MAX_VERSION;
        let reason = format!("the version is {} bytes long; expected one line of at most {most}", version.len());
        return Err(CliError::Damaged { path: args.from.clone(), reason }.into());
    }
    Ok(Build {
        schema: 1,
        version,
        build,
        device: manifest.codename.clone(),
        channel: Home::channel(manifest, args.channel.as_ref())?,
        timestamp,
        sdk: args.sdk.or(beside.sdk).or(facts.sdk),
        spl,
        ab: None,
        partitions: BTreeMap::new(),
    })
}

fn hash_all(
    session: &Session<'_>,
    build: &Build,
    source: &BuildSource,
    what: &str,
) -> Result<BTreeMap<PartitionName, ImageFacts>, CliError> {
    let bars = session.bars(format!("{} {}", build.device, build.build));
    bars.step(what, source.size());
    let mut facts = BTreeMap::new();
    for (name, image) in &source.images {
        let known = source.owned.get(name).copied().flatten();
        let found = match known {
            Some(sha256) => ImageFacts { size: image.len(), sha256 },
            None => hash(image, &source.paths[name], &bars)?,
        };
        facts.insert(name.clone(), found);
    }
    Ok(facts)
}

/// Refuses the same id with other content.
fn same(there: &Build, given: &Build) -> Result<(), CliError> {
    let differs = |what: String, there_text: String, given_text: String| {
        let (codename, build) = (given.device.clone(), given.build.clone());
        Err(CliError::BuildDiffers { codename, build, what, there: there_text, given: given_text })
    };
    if there.channel != given.channel {
        return differs("channel".into(), there.channel.to_string(), given.channel.to_string());
    }
    if there.timestamp != given.timestamp {
        return differs("date".into(), there.timestamp.to_string(), given.timestamp.to_string());
    }
    let names: BTreeSet<_> = there.partitions.keys().chain(given.partitions.keys()).collect();
    for name in names {
        let (a, b) = (there.partitions.get(name), given.partitions.get(name));
        if a != b {
            let show = |facts: Option<&ImageFacts>| match facts {
                Some(facts) => format!("{} with SHA-256 {}", facts.size, facts.sha256),
                None => "none".to_owned(),
            };
            return differs(format!("partition {name}"), show(a), show(b));
        }
    }
    Ok(())
}

/// Puts the images into a directory that gets its name at the end.
fn take_in(home: &Home, session: &Session<'_>, build: &mut Build, source: &BuildSource) -> anyhow::Result<()> {
    let dir = build.dir(home);
    let parent = home.builds(&build.device);
    let unfinished = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempdir_in(&parent)
        .map_err(|source| CliError::Write { path: parent, source })?;
    let bars = session.bars(format!("{} {}", build.device, build.build));
    bars.step("copying", source.size());
    for (name, image) in &source.images {
        let out = unfinished.path().join(format!("{name}.img"));
        let facts = match source.owned.get(name) {
            Some(known) => {
                let facts = match known {
                    Some(sha256) => ImageFacts { size: image.len(), sha256: *sha256 },
                    None => hash(image, &source.paths[name], &bars)?,
                };
                rename(&source.paths[name], &out)?;
                facts
            }
            None => copy(image, &source.paths[name], &out, &bars)?,
        };
        build.partitions.insert(name.clone(), facts);
    }
    AbFacts::write_beside(source, unfinished.path())?;
    build.write(unfinished.path())?;
    give_name(unfinished, &dir).with_context(|| format!("could not take in build {}", build.build))
}

fn rename(from: &Path, to: &Path) -> Result<(), CliError> {
    fs::rename(from, to).map_err(|source| CliError::Write { path: to.into(), source })
}
