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
    package::{Front, Info, Limits, Signature, key_id, sign_file_with},
};
use relevo_meta::{Ab, Custom, Size, VerifyingKey, keys::Signer as _};
use relevo_repo::Publication;
use relevo_types::{BuildId, ByteLen, Channel, Codename, DeviceManifest, InstallKind, PackageKind, Sha256, TargetPath};

use crate::{
    ab_keys::Signers,
    args::{AbOptions, Effort, PassphraseFrom},
    build_source::BuildSource,
    builds::{Build, MAX_FACTS},
    command::{ab::Update, ab_diff},
    csig,
    durable::{self, PUBLIC, read_text},
    error::CliError,
    home::{Home, OtaKey, names},
    keyring::Hand,
    lint,
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
pub(crate) fn file_name(kind: PackageKind, codename: &Codename, from: Option<&BuildId>, to: &BuildId) -> String {
    let extension = match kind {
        PackageKind::Native => "rvp",
        PackageKind::Ab | PackageKind::Block => "zip",
    };
    match from {
        Some(from) => format!("{codename}-{from}-to-{to}.{extension}"),
        None => format!("{codename}-{to}-full.{extension}"),
    }
}

/// Whether a file is named as a package.
pub(crate) fn is_package(name: &str) -> bool {
    !name.starts_with('.') && (name.ends_with(".rvp") || name.ends_with(".zip"))
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
            if !is_package(&name) {
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

/// A package that is to be: its names, and whether it is there.
struct Planned {
    path: PathBuf,
    outcome: Outcome,
}

impl Planned {
    fn new(
        home: &Home,
        manifest: &DeviceManifest,
        kind: PackageKind,
        (from, to): (Option<&Build>, &Build),
        is_published: &dyn Fn(&TargetPath) -> bool,
    ) -> anyhow::Result<Self> {
        let from = from.map(|build| build.build.clone());
        let file = file_name(kind, &manifest.codename, from.as_ref(), &to.build);
        let target = target(manifest, &to.channel, &file)?;
        let path = home.packages(&manifest.codename, &to.channel).join(&file);
        let (to, channel) = (to.build.clone(), to.channel.clone());
        let mut outcome = Outcome { file, from, to, channel, state: "made", bytes: None };
        if is_published(&target) {
            outcome.state = "already published";
        } else if let Ok(metadata) = fs::metadata(&path)
            && read_custom(&path)?.is_some()
        {
            outcome.state = "already made";
            outcome.bytes = Some(metadata.len());
        }
        Ok(Self { path, outcome })
    }

    fn is_there(&self) -> bool {
        self.outcome.state != "made"
    }

    /// Writes what will be said of the package, which makes it one.
    fn finish(mut self, custom: &Custom) -> anyhow::Result<Outcome> {
        let metadata = fs::metadata(&self.path);
        let metadata = metadata.map_err(|source| CliError::Read { path: self.path.clone(), source })?;
        let mut text = serde_json::to_string_pretty(custom).expect("the field has text keys only");
        text.push('\n');
        durable::write_file(&description(&self.path), text.as_bytes(), PUBLIC)?;
        self.outcome.bytes = Some(metadata.len());
        Ok(self.outcome)
    }
}

/// Keeps a full OTA zip, which its maintainer has signed, as the full package of the build that came in it.
pub(crate) fn keep(
    session: &Session<'_>,
    home: &Home,
    manifest: &DeviceManifest,
    (build, zip, ab): (&Build, &Path, &Ab),
    is_published: &dyn Fn(&TargetPath) -> bool,
    signers: Option<&Signers>,
) -> anyhow::Result<Outcome> {
    let planned = Planned::new(home, manifest, PackageKind::Ab, (None, build), is_published)?;
    if planned.is_there() {
        return Ok(planned.outcome);
    }
    durable::make_dir(durable::parent(&planned.path))?;
    let bars = session.bars(planned.outcome.file.clone());
    durable::keep_file(zip, &planned.path, &bars)?;
    let custom = custom(home, manifest, None, build, Some(ab))?;
    if let (Some(signers), Some(ab)) = (signers, &custom.ab) {
        csig::write(session, &planned.path, ab, true, signers)?;
    }
    planned.finish(&custom)
}

/// Who signs a device's OTA zips; nobody if no key was given for that, or if it installs in other ways.
pub(crate) fn ota_signers(
    session: &Session<'_>,
    home: &Home,
    manifest: &DeviceManifest,
    from: &PassphraseFrom,
) -> anyhow::Result<Option<Signers>> {
    let key = Some(manifest).filter(|manifest| manifest.kind == InstallKind::Ab);
    let Some(OtaKey { key, cert }) = key.and_then(|manifest| home.ota_key(&manifest.codename)) else { return Ok(None) };
    Ok(Some(Signers::open(session, &[key], &[cert], None, true, from)?))
}

/// Makes the package from one build, or none, to another, unless it is there: an OTA zip where somebody signs those, else
/// a native one.
pub(crate) fn make(
    session: &Session<'_>,
    home: &Home,
    manifest: &DeviceManifest,
    builds: (Option<&Build>, &Build),
    is_published: &dyn Fn(&TargetPath) -> bool,
    effort: &Effort,
    signers: Option<&Signers>,
) -> anyhow::Result<Outcome> {
    let kind = if signers.is_some() { PackageKind::Ab } else { PackageKind::Native };
    let planned = Planned::new(home, manifest, kind, builds, is_published)?;
    if planned.is_there() {
        return Ok(planned.outcome);
    }
    durable::make_dir(durable::parent(&planned.path))?;
    let custom = match signers {
        Some(signers) => make_ab(session, home, manifest, builds, &planned, effort, signers),
        None => make_native(session, home, manifest, builds, &planned, effort),
    };
    planned.finish(&custom?)
}

fn make_ab(
    session: &Session<'_>,
    home: &Home,
    manifest: &DeviceManifest,
    (from, to): (Option<&Build>, &Build),
    planned: &Planned,
    effort: &Effort,
    signers: &Signers,
) -> anyhow::Result<Custom> {
    let path = &*planned.path;
    let old = match from {
        Some(from) => from.source(home, manifest)?,
        None => BuildSource::of_images(Images::new()),
    };
    let new = to.source(home, manifest)?;
    let minor = match from {
        Some(from) => minor(manifest, from, &old)?,
        // A full payload says nothing of the build that it comes upon, so it may have what all of them know.
        None => *relevo_delta::ab::Options::MINORS.start(),
    };
    let options = AbOptions { minor: Some(minor), ..AbOptions::default() };
    let bars = session.bars(planned.outcome.file.clone());
    let (options, out, scratch) = (&options, path, durable::parent(path));
    ab_diff::make(session, ab_diff::Update { old, new, options, effort, signers, out, scratch }, &bars)
        .with_context(|| format!("could not make {}", path.display()))?;
    let made = check_ab(session, home, path, from, to).inspect_err(|_| {
        // Without a description nobody would take it, but it should not lie around.
        let _ = fs::remove_file(path);
    })?;
    let custom = custom(home, manifest, from, to, Some(&made))?;
    if let Some(ab) = &custom.ab {
        csig::write(session, path, ab, from.is_none(), signers)?;
    }
    Ok(custom)
}

/// Which payloads the build that an update starts from understands: as it says, as the device's manifest says of its
/// builds, or as builds of its SDK level do.
fn minor(manifest: &DeviceManifest, from: &Build, source: &BuildSource) -> Result<u32, CliError> {
    let by_level = source.facts.minor();
    let listed = manifest.payload.as_ref().map(|payload| &payload.minor_versions[..]).unwrap_or_default();
    let known = match (source.facts.minor, by_level) {
        (Some(said), _) => Some(said),
        (None, Some(minor)) if listed.is_empty() || listed.contains(&minor) => Some(minor),
        // What the least of them understands, all do.
        (None, _) => listed.iter().min().copied(),
    };
    known.ok_or_else(|| CliError::UnknownMinor { codename: manifest.codename.clone(), build: from.build.clone() })
}

/// Checks a finished OTA zip as one of somebody else's is: what it makes, and of what; its signatures; its properties.
fn check_ab(session: &Session<'_>, home: &Home, path: &Path, from: Option<&Build>, to: &Build) -> anyhow::Result<Ab> {
    let update = Update::open(path)?;
    for partition in &update.payload.manifest().partitions {
        let old = from.zip(partition.old);
        for (build, actual) in old.into_iter().chain([(to, partition.new)]) {
            let expected = build.partitions.get(&partition.name).map_or(actual.sha256, |facts| facts.sha256);
            if expected != actual.sha256 {
                let path = build.dir(home).join(format!("{}.img", partition.name));
                return Err(CliError::ImageDiffers { path, expected, actual: actual.sha256 }.into());
            }
        }
    }
    let checked = lint::ota_zip(session, path)?;
    checked.findings.iter().for_each(|finding| session.warn(finding.text.clone()));
    Ok(checked.ab)
}

fn make_native(
    session: &Session<'_>,
    home: &Home,
    manifest: &DeviceManifest,
    (from, to): (Option<&Build>, &Build),
    planned: &Planned,
    effort: &Effort,
) -> anyhow::Result<Custom> {
    let path = &*planned.path;
    match manifest.kind {
        InstallKind::Native => {}
        InstallKind::Ab => session.warn(format!(
            "{0} installs by ab, and has no key for OTA zips: its packages are native, and only relevo-updater installs \
             those; give a key with `relevo device add {0} --ota-key PEM --ota-cert PEM`",
            manifest.codename
        )),
        InstallKind::Block => session.warn(format!(
            "{} installs by {}; packages of this version are native, and only relevo-updater installs those",
            manifest.codename, manifest.kind
        )),
    }
    let old = from.map(|build| build.open(home)).transpose()?.unwrap_or_default();
    let new = to.open(home)?;
    let subject = match from {
        Some(from) => format!("{} {} to {}", manifest.codename, from.build, to.build),
        None => format!("{} {} full", manifest.codename, to.build),
    };
    let info = Info {
        device: Some(manifest.codename.clone()),
        from: planned.outcome.from.clone(),
        to: Some(to.build.clone()),
        timestamp: Some(to.timestamp),
        memory: ByteLen::ZERO,
    };
    diff(session, &old, &new, effort, info, path, &subject)
        .with_context(|| format!("could not make {}", path.display()))?;
    check_images(home, path, from, to).inspect_err(|_| {
        // It was made of changed images; without a description nobody would take it, but it should not lie around.
        let _ = fs::remove_file(path);
    })?;
    custom(home, manifest, from, to, None)
}

/// Whether phones will find enough signatures in a published package. Only native ones carry those of their role.
pub(crate) fn is_signed(
    file: &Path,
    kind: PackageKind,
    keys: &[VerifyingKey],
    threshold: usize,
) -> anyhow::Result<bool> {
    if kind != PackageKind::Native {
        return Ok(true);
    }
    let failed = || format!("could not read {}", file.display());
    let package = FileAt::open(file).with_context(failed)?;
    let front = Front::read(&mut Section::whole(&package), &Limits::default()).with_context(failed)?;
    Ok(front.verify(keys, threshold).is_ok())
}

/// Copies a native package to `to` with signatures by `hands` added.
pub(crate) fn sign_native(from: &Path, to: &Path, hands: &[Hand]) -> anyhow::Result<Front> {
    let draft = durable::Draft::new(to, PUBLIC)?;
    let sign = |message: &[u8]| -> anyhow::Result<Vec<Signature>> {
        let one = |hand: &Hand| -> anyhow::Result<Signature> {
            Ok(Signature { key_id: key_id(hand.public().verifying_key()), bytes: hand.sign(message)? })
        };
        hands.iter().map(one).collect()
    };
    let front = sign_file_with(from, draft.unfinished(), &Limits::default(), sign)
        .with_context(|| format!("could not sign {}", from.display()))?;
    draft.finish()?;
    Ok(front)
}

/// Puts the packages into place that a finished proposal offers and that still wait here.
pub(crate) fn place_missing(home: &Home, publication: &mut Publication<'_>) -> anyhow::Result<Vec<Made>> {
    let missing = publication.missing_files();
    let mut placed = Vec::new();
    for codename in home.devices()? {
        if !missing.iter().any(|path| *path.codename() == codename) {
            continue;
        }
        for made in pending(home, &home.manifest(&codename)?)? {
            if missing.contains(&made.target) {
                let failed = || format!("could not publish {}", made.target);
                publication.add_package(&made.target, &made.path, &made.custom).with_context(failed)?;
                placed.push(made);
            }
        }
    }
    Ok(placed)
}

/// Removes packages that are published.
pub(crate) fn remove_published<'a>(published: impl IntoIterator<Item = &'a Made>) -> Result<(), CliError> {
    let remove = |path: &Path| fs::remove_file(path).map_err(|source| CliError::Write { path: path.into(), source });
    for made in published {
        // The package goes first: a description without one is nothing, a package without one would stay for ever.
        remove(&made.path)?;
        if csig::path(&made.path).exists() {
            remove(&csig::path(&made.path))?;
        }
        remove(&made.description())?;
    }
    Ok(())
}

/// Refuses an OTA zip that is not what it was when it was described: the disk or a program changed it since.
pub(crate) fn check_zip(session: &Session<'_>, made: &Made) -> anyhow::Result<()> {
    let checked = lint::ota_zip(session, &made.path)?;
    let ab = made.custom.ab.as_ref().map(|ab| (&ab.payload, &ab.metadata, &ab.files, &ab.properties));
    let actual = &checked.ab;
    if ab != Some((&actual.payload, &actual.metadata, &actual.files, &actual.properties)) {
        let reason = "it is not what it was when it was made or imported".to_owned();
        return Err(CliError::Damaged { path: made.path.clone(), reason }.into());
    }
    Ok(())
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

fn custom(
    home: &Home,
    manifest: &DeviceManifest,
    from: Option<&Build>,
    to: &Build,
    ab: Option<&Ab>,
) -> anyhow::Result<Custom> {
    let (mut vbmeta_digest, mut from_vbmeta_digest) = (None, None);
    if ab.is_some() {
        vbmeta_digest = csig::vbmeta_digest(home, to)?;
        from_vbmeta_digest = from.map(|from| csig::vbmeta_digest(home, from)).transpose()?.flatten();
    }
    let timestamp = i64::try_from(to.timestamp).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let timestamp = timestamp.with_context(|| format!("build {} has no possible date: {}", to.build, to.timestamp))?;
    let spl = to.spl.as_deref().map(str::parse).transpose();
    Ok(Custom {
        kind: if ab.is_some() { PackageKind::Ab } else { PackageKind::Native },
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
        ab: ab.map(|ab| {
            let facts = to.ab.as_ref().map(|ab| &ab.facts);
            // The zip names the build that it starts from only where its fingerprint is known.
            let before = from.map(|from| {
                let said = from.ab.as_ref().and_then(|ab| ab.facts.incremental.clone());
                said.unwrap_or_else(|| from.build.to_string())
            });
            Ab {
                from_incremental: ab.from_incremental.clone().or(before),
                lineage_version: facts.and_then(|facts| facts.lineage_version.clone()),
                release_type: facts.and_then(|facts| facts.release_type.clone()),
                vbmeta_digest,
                from_vbmeta_digest,
                ..ab.clone()
            }
        }),
    })
}
