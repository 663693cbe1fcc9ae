//! Packages that were made and not yet published.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use jiff::Timestamp;
use relevo_delta::{Images, Options};
use relevo_format::{
    FileAt, Section,
    package::{Front, Info, Limits},
};
use relevo_meta::{Custom, Size};
use relevo_types::{BuildId, ByteLen, Channel, Codename, DeviceManifest, InstallKind, PackageKind, Sha256, TargetPath};

use crate::{
    args::Effort,
    builds::{Build, MAX_FACTS},
    durable::{self, PUBLIC, read_text},
    error::CliError,
    home::{Home, names},
    session::Session,
};

/// A package that was made.
#[derive(Debug)]
pub(crate) struct Made {
    /// The unsigned package.
    pub(crate) path: PathBuf,
    /// What will be said of it in the repository.
    pub(crate) custom: Custom,
    /// Where it will lie in the repository.
    pub(crate) target: TargetPath,
}

impl Made {
    /// The file with [`Made::custom`].
    pub(crate) fn description(&self) -> PathBuf {
        description(&self.path)
    }
}

fn description(package: &Path) -> PathBuf {
    let mut name = package.as_os_str().to_owned();
    name.push(".json");
    name.into()
}

/// The package's file name.
pub(crate) fn file_name(codename: &Codename, from: Option<&BuildId>, to: &BuildId) -> String {
    match from {
        Some(from) => format!("{codename}-{from}-to-{to}.rvp"),
        None => format!("{codename}-{to}-full.rvp"),
    }
}

/// The package's path in the repository.
pub(crate) fn target(manifest: &DeviceManifest, channel: &Channel, file: &str) -> anyhow::Result<TargetPath> {
    TargetPath::new(&manifest.vendor, &manifest.codename, channel, file)
        .with_context(|| format!("no package can be named {file}"))
}

/// All packages of a device that wait for `publish`.
pub(crate) fn pending(home: &Home, manifest: &DeviceManifest) -> anyhow::Result<Vec<Made>> {
    let mut made = Vec::new();
    for channel in &manifest.channels {
        let dir = home.packages(&manifest.codename, channel);
        for name in names(&dir)? {
            let path = dir.join(&name);
            if name.starts_with('.') || !name.ends_with(".rvp") {
                continue;
            }
            // Without its description the package is one that was being made when the power went.
            let Some(custom) = read_custom(&path)? else { continue };
            made.push(Made { target: target(manifest, channel, &name)?, path, custom });
        }
    }
    made.sort_by(|a, b| (a.custom.timestamp, &a.target).cmp(&(b.custom.timestamp, &b.target)));
    Ok(made)
}

fn read_custom(package: &Path) -> Result<Option<Custom>, CliError> {
    let path = description(package);
    let Some(text) = read_text(&path, MAX_FACTS)? else { return Ok(None) };
    let custom = serde_json::from_str(&text).map_err(|error| CliError::Damaged { path, reason: error.to_string() })?;
    Ok(Some(custom))
}

/// What came of one package.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Outcome {
    /// Its file name.
    pub(crate) file: String,
    /// The build that it starts from; none for a full package.
    pub(crate) from: Option<BuildId>,
    /// The build that it makes.
    pub(crate) to: BuildId,
    /// Which channel it is for.
    pub(crate) channel: Channel,
    /// `made`, `already made` or `already published`.
    pub(crate) state: &'static str,
    /// Its length in bytes, unless it is published already.
    pub(crate) bytes: Option<u64>,
}

/// Makes the package from one build, or none, to another, unless it is there.
pub(crate) fn make(
    session: &Session<'_>,
    home: &Home,
    manifest: &DeviceManifest,
    (from, to): (Option<&Build>, &Build),
    is_published: &dyn Fn(&TargetPath) -> bool,
    effort: &Effort,
) -> anyhow::Result<Outcome> {
    let from_id = from.map(|build| build.build.clone());
    let file = file_name(&manifest.codename, from_id.as_ref(), &to.build);
    let target = target(manifest, &to.channel, &file)?;
    let dir = home.packages(&manifest.codename, &to.channel);
    let path = dir.join(&file);
    let mut outcome = Outcome {
        file: file.clone(),
        from: from_id,
        to: to.build.clone(),
        channel: to.channel.clone(),
        state: "already published",
        bytes: None,
    };
    if is_published(&target) {
        return Ok(outcome);
    }
    if let Ok(metadata) = fs::metadata(&path)
        && read_custom(&path)?.is_some()
    {
        outcome.state = "already made";
        outcome.bytes = Some(metadata.len());
        return Ok(outcome);
    }

    if manifest.kind != InstallKind::Native {
        session.warn(format!(
            "{} installs by {}; packages of this version are native, and only relevo-updater installs those",
            manifest.codename, manifest.kind
        ));
    }
    durable::make_dir(&dir)?;
    let old = from.map(|build| build.open(home)).transpose()?.unwrap_or_default();
    let new = to.open(home)?;
    let subject = match from {
        Some(from) => format!("{} {} to {}", manifest.codename, from.build, to.build),
        None => format!("{} {} full", manifest.codename, to.build),
    };
    let info = Info {
        device: Some(manifest.codename.clone()),
        from: outcome.from.clone(),
        to: Some(to.build.clone()),
        timestamp: Some(to.timestamp),
        memory: ByteLen::ZERO,
    };
    let report = diff(session, &old, &new, effort, info, &path, &subject)
        .with_context(|| format!("could not make {}", path.display()))?;
    check_images(home, &path, from, to).inspect_err(|_| {
        // It was made of changed images; without a description nobody would take it, but it should not lie around.
        let _ = fs::remove_file(&path);
    })?;
    let custom = custom(manifest, from, to)?;
    let mut text = serde_json::to_string_pretty(&custom).expect("the field has text keys only");
    text.push('\n');
    durable::write_file(&description(&path), text.as_bytes(), PUBLIC)?;
    outcome.state = "made";
    outcome.bytes = Some(report.package_len.get());
    Ok(outcome)
}

/// Makes a package file.
pub(crate) fn diff(
    session: &Session<'_>,
    old: &Images<'_>,
    new: &Images<'_>,
    effort: &Effort,
    info: Info,
    out: &Path,
    subject: &str,
) -> anyhow::Result<relevo_delta::Report> {
    let options = Options { threads: effort.threads, memory: effort.memory, level: effort.level, info };
    let bars = session.bars(subject);
    relevo_delta::diff(old, new, &options, out, &bars).map_err(|error| match error {
        relevo_delta::DeltaError::Stopped => anyhow::Error::new(CliError::Stopped),
        error => anyhow::Error::new(error),
    })
}

/// Refuses a package that was made of other images than those imported: a disk or a program changed them since.
fn check_images(home: &Home, package: &Path, from: Option<&Build>, to: &Build) -> anyhow::Result<()> {
    let file = FileAt::open(package).map_err(|source| CliError::Read { path: package.into(), source })?;
    let front = Front::read(&mut Section::whole(&file), &Limits::default())
        .with_context(|| format!("could not read back {}", package.display()))?;
    let manifest = front.manifest();
    let bases = manifest.bases.iter().filter_map(|base| Some((from?, &base.partition, base.sha256)));
    let targets = manifest.partitions.iter().map(|partition| (to, &partition.name, partition.sha256));
    for (build, name, actual) in bases.chain(targets) {
        let expected: Sha256 = build.partitions.get(name).map(|facts| facts.sha256).unwrap_or(actual);
        if expected != actual {
            let path = build.dir(home).join(format!("{name}.img"));
            return Err(CliError::ImageDiffers { path, expected, actual }.into());
        }
    }
    Ok(())
}

fn custom(manifest: &DeviceManifest, from: Option<&Build>, to: &Build) -> anyhow::Result<Custom> {
    let timestamp = i64::try_from(to.timestamp).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let timestamp = timestamp.with_context(|| format!("build {} has no possible date: {}", to.build, to.timestamp))?;
    let spl = to.spl.as_deref().map(str::parse).transpose();
    Ok(Custom {
        kind: PackageKind::Native,
        from: from.map(|build| build.build.clone()),
        to: to.build.clone(),
        version: to.version.clone(),
        timestamp,
        sdk: to.sdk,
        spl: spl.with_context(|| format!("build {} of {} has no valid patch level", to.build, manifest.codename))?,
        size: Size { install: ByteLen::new(to.size()) },
        rollout: 100,
        floor: None,
        withdrawn: false,
        // The repository makes the chunk list when it takes the package.
        chunks: None,
    })
}
