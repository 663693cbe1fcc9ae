//! `relevo ota diff` for A/B updates: what stock `update_engine` installs, out of two builds.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
};

use anyhow::Context;
use relevo_delta::{
    DeltaError,
    ab::{self, Generated, Operations, Tally, dynamic},
};
use relevo_format::{
    ReadAt,
    ota_zip::{APEX_INFO, DeviceState, Metadata, PartitionState},
    payload::{KeyKind, Manifest, OperationKind, Partition, wire},
    target_files,
};
use relevo_types::{ByteLen, PackageKind, PartitionName, Sha256};
use serde::Serialize;

use crate::{
    ab_keys::Signers,
    ab_package::{self, AbPackage, AbZip, Written},
    args::{AbOptions, Effort, OtaDiff, Without},
    build_source::{self, BuildSource},
    durable::Aside,
    error::CliError,
    facts::BuildFacts,
    home::human,
    progress::Bars,
    session::{Answer, Session},
};

/// First minor version whose phones leave partitions alone that are not named.
const PARTIAL: u32 = 7;
/// First one whose phones compute hash trees.
const VERITY: u32 = 6;

/// What `ota diff --json` says of an A/B update.
#[derive(Debug, Serialize)]
pub(crate) struct Diffed {
    package: String,
    kind: PackageKind,
    bytes: ByteLen,
    target_bytes: u64,
    minor_version: u32,
    /// Where the payload is in the file.
    payload_offset: ByteLen,
    payload_bytes: ByteLen,
    payload_sha256: Sha256,
    metadata_bytes: ByteLen,
    metadata_sha256: Sha256,
    partitions: BTreeMap<PartitionName, Made>,
    /// Kinds of the keys that signed.
    signed_by: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct Made {
    bytes: u64,
    stored: u64,
    operations: BTreeMap<&'static str, Count>,
    merge_operations: usize,
    /// Bytes that the phone computes.
    computed: u64,
    estimate_cow_size: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Count {
    count: u64,
    bytes: u64,
    stored: u64,
}

pub(crate) fn diff(session: &Session<'_>, args: &OtaDiff) -> anyhow::Result<Answer> {
    if args.key.is_empty() && !args.unsigned {
        return Err(CliError::NoSigner.into());
    }
    let signers = Signers::open(session, &args.key, &args.cert, None, is_zip_name(&args.out), &args.passphrase)?;
    // All that is unpacked lies beside the result, and goes away with this.
    let scratch = Aside::beside(&args.out)?;
    let failed = || format!("could not make {}", args.out.display());
    let bars = session.bars(args.out.file_name().unwrap_or_default().to_string_lossy());
    let mut old = build_source::open(&args.old, scratch.path(), session).with_context(failed)?;
    let mut new = build_source::open(&args.new, scratch.path(), session).with_context(failed)?;
    settle_facts(args, &mut old, &mut new);
    let (options, effort, signers, out, scratch) = (&args.ab, &args.effort, &signers, &*args.out, scratch.path());
    let update = Update { old, new, options, effort, signers, out, scratch };
    let diffed = make(session, update, &bars).with_context(failed)?;

    let mut text = format!(
        "made {}: {} for {} of images, minor version {}\n",
        args.out.display(),
        human(diffed.bytes.get()),
        human(diffed.target_bytes),
        diffed.minor_version
    );
    let _ = writeln!(text, "\n{:<20} {:>10} {:>10} {:>10}", "partition", "size", "stored", "operations");
    for (name, made) in &diffed.partitions {
        let count: u64 = made.operations.values().map(|count| count.count).sum();
        let _ =
            writeln!(text, "{:<20} {:>10} {:>10} {count:>10}", name.as_str(), human(made.bytes), human(made.stored));
    }
    let unsigned = "it is not signed: no phone takes it before `relevo ota sign`\n";
    let notes = if diffed.signed_by.is_empty() { unsigned } else { "" };
    Ok(Answer::new(&diffed).text(text).notes(notes))
}

/// An update that is to be made.
pub(crate) struct Update<'a> {
    pub(crate) old: BuildSource,
    pub(crate) new: BuildSource,
    pub(crate) options: &'a AbOptions,
    pub(crate) effort: &'a Effort,
    pub(crate) signers: &'a Signers,
    /// What is written: a zip, or a bare payload if it is not called one.
    pub(crate) out: &'a Path,
    /// Where what is unfinished may lie: a directory of the same file system.
    pub(crate) scratch: &'a Path,
}

/// Makes an update, signs it, and gives it its name.
pub(crate) fn make(session: &Session<'_>, update: Update<'_>, bars: &Bars<'_>) -> anyhow::Result<Diffed> {
    let Update { mut old, mut new, options, effort, signers, out, scratch } = update;
    let minor = options.minor.or_else(|| old.facts.minor()).ok_or(CliError::NoMinor)?;
    check_builds(session, options, (&old, &new), minor, is_zip_name(out))?;
    if options.partial {
        leave_out_same(&mut old, &mut new, bars)?;
    }
    let choice = choose_snapshots(session, (&old, &new), options, minor)?;

    let generator = ab::Options {
        minor,
        threads: effort.threads,
        memory: effort.memory,
        allowed: allowed(&options.without),
        verity: !options.no_verity && minor >= VERITY && choice.verity,
    };
    let generated = ab::generate(&old.images, &new.images, &generator, scratch, bars).map_err(delta_error)?;
    for warning in &generated.report.warnings {
        session.warn(warning);
    }
    let Generated { mut partitions, blobs, report } = generated;
    for partition in &mut partitions {
        partition.postinstall = new.postinstall.get(&partition.name).cloned();
        // An update that goes back must not be refused for being older than what is there.
        let facts = if options.downgrade { &old.facts } else { &new.facts };
        partition.version = facts.versions.get(&partition.name).cloned();
    }
    plan_snapshots((&old, &new), &choice, effort, &mut partitions, &blobs, bars)?;
    let is_delta = options.partial || partitions.iter().any(|partition| partition.old.is_some());
    let manifest = Manifest {
        minor_version: if is_delta { minor } else { 0 },
        max_timestamp: max_timestamp(options, &old.facts, &new.facts),
        partial: options.partial,
        security_patch_level: new.facts.spl.clone(),
        partitions,
        dynamic: choice.metadata,
        apexes: new.apexes.clone(),
    };
    let entries = entries(&old, &new)?;
    let metadata = metadata(options, &old.facts, &new.facts, &manifest);
    let package = AbPackage {
        manifest: &manifest,
        blobs: &blobs,
        zip: is_zip_name(out).then_some(AbZip { metadata, entries }),
        properties: properties(options, &old.facts, &new.facts),
    };
    let Written::Done { bytes, properties, offset } = ab_package::write(&package, signers, (out, scratch), bars)?
    else {
        return Err(CliError::NoSigner.into());
    };
    let made = manifest.partitions.iter().zip(&report.partitions);
    Ok(Diffed {
        package: out.display().to_string(),
        kind: PackageKind::Ab,
        bytes,
        target_bytes: manifest.partitions.iter().map(|partition| partition.new.size.get()).sum(),
        minor_version: manifest.minor_version,
        payload_offset: offset,
        payload_bytes: properties.file_size,
        payload_sha256: properties.file_sha256,
        metadata_bytes: properties.metadata_size,
        metadata_sha256: properties.metadata_sha256,
        partitions: made.map(|(p, report)| (p.name.clone(), self::made(p, &report.operations))).collect(),
        signed_by: signers.kinds().into_iter().map(KeyKind::name).collect(),
    })
}

fn made(partition: &Partition, operations: &BTreeMap<OperationKind, Tally>) -> Made {
    let count = |tally: &Tally| Count { count: tally.count, bytes: tally.target_len, stored: tally.data_len };
    Made {
        bytes: partition.new.size.get(),
        stored: operations.values().map(|tally| tally.data_len).sum(),
        operations: operations.iter().map(|(kind, tally)| (kind.name(), count(tally))).collect(),
        merge_operations: partition.merge_operations.len(),
        computed: partition.computed().map(|extent| extent.len()).sum(),
        estimate_cow_size: partition.estimate_cow_size,
    }
}

pub(crate) fn delta_error(error: DeltaError) -> anyhow::Error {
    match error {
        DeltaError::Stopped => CliError::Stopped.into(),
        error => error.into(),
    }
}

/// Decides what the manifest says of dynamic partitions and their snapshots.
fn choose_snapshots(
    session: &Session<'_>,
    (old, new): (&BuildSource, &BuildSource),
    options: &AbOptions,
    minor: u32,
) -> Result<dynamic::Choice, dynamic::DynamicError> {
    fn facts<'a>(source: &'a BuildSource, options: &AbOptions) -> dynamic::BuildFacts<'a> {
        dynamic::BuildFacts {
            metadata: source.dynamic.as_ref(),
            sdk: source.facts.sdk,
            xor: options.xor || source.facts.snapshot_xor == Some(true),
            suppressed: source.facts.plain_snapshots == Some(true),
        }
    }
    let updated = new.images.iter().map(|(name, image)| dynamic::Updated {
        name,
        size: image.len(),
        versioned: new.facts.versions.contains_key(name),
    });
    let updated: Vec<_> = updated.collect();
    let asked = dynamic::Options {
        minor,
        partial: options.partial,
        without_compression: options.disable_vabc,
        compression: options.vabc_compression_param,
        version: options.vabc_cow_version,
        factor: options.compression_factor,
    };
    let choice = dynamic::choose(&facts(old, options), &facts(new, options), &updated, &asked)?;
    for warning in &choice.warnings {
        session.warn(warning.to_string());
    }
    let is_asked = asked.compression.is_some() || asked.version.is_some() || asked.factor.is_some();
    if is_asked && choice.settings.is_none() {
        session.warn("what was asked for snapshots changes nothing: with these builds the phone compresses none");
    }
    Ok(choice)
}

/// Says how the phone merges compressed snapshots, and how much room they take.
fn plan_snapshots(
    (old, new): (&BuildSource, &BuildSource),
    choice: &dynamic::Choice,
    effort: &Effort,
    partitions: &mut [Partition],
    blobs: &dyn ReadAt,
    bars: &Bars<'_>,
) -> anyhow::Result<()> {
    let Some(settings) = &choice.settings else { return Ok(()) };
    let wanted = partitions.iter_mut().filter(|partition| choice.is_dynamic(&partition.name));
    let wanted: Vec<_> = wanted.collect();
    bars.step("planning the snapshots", wanted.iter().map(|partition| partition.new.size.get()).sum());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(effort.threads).build()?;
    let nothing = Vec::new();
    for partition in wanted {
        let name = partition.name.clone();
        let before: &dyn ReadAt = match (partition.old, old.images.get(&name)) {
            (Some(_), Some(image)) => image,
            _ => &nothing,
        };
        pool.install(|| dynamic::describe(partition, blobs, before, &new.images[&name], settings))
            .with_context(|| format!("could not plan the snapshot of {name}"))?;
        if bars.add(partition.new.size.get()).is_break() {
            return Err(CliError::Stopped.into());
        }
    }
    Ok(())
}

/// What options say counts before what builds say.
pub(super) fn settle_facts(args: &OtaDiff, old: &mut BuildSource, new: &mut BuildSource) {
    let text = |text: &dyn std::fmt::Display| Some(text.to_string());
    for source in [&mut *old, &mut *new] {
        let beside = &source.beside;
        let facts = BuildFacts {
            device: beside.device.iter().map(ToString::to_string).collect(),
            incremental: beside.build.as_ref().and_then(|build| text(build)),
            timestamp: beside.timestamp,
            sdk: beside.sdk,
            spl: beside.spl.clone(),
            ..BuildFacts::default()
        };
        source.facts = facts.or(std::mem::take(&mut source.facts));
    }
    if let Some(device) = &args.device {
        new.facts.device = vec![device.to_string()];
        old.facts.device = vec![device.to_string()];
    }
    old.facts.incremental = args.from.as_ref().and_then(|build| text(build)).or(old.facts.incremental.take());
    new.facts.incremental = args.to.as_ref().and_then(|build| text(build)).or(new.facts.incremental.take());
    new.facts.timestamp = args.timestamp.or(new.facts.timestamp);
}

/// Refuses what every phone would refuse, or what would harm one.
fn check_builds(
    session: &Session<'_>,
    options: &AbOptions,
    (old, new): (&BuildSource, &BuildSource),
    minor: u32,
    zip: bool,
) -> anyhow::Result<()> {
    if let (Some(from), Some(to)) = (old.facts.device.first(), new.facts.device.first())
        && !old.facts.device.iter().any(|device| new.facts.device.contains(device))
    {
        return Err(CliError::TwoDevices { from: from.clone(), to: to.clone() }.into());
    }
    if new.facts.timestamp.is_none() {
        if zip {
            return Err(CliError::NoFact { option: "--timestamp" }.into());
        }
        session
            .warn("nothing says the new build's date; phones that know their own refuse the payload: give --timestamp");
    }
    // A bare payload does not say which device it is for.
    if zip && new.facts.device.is_empty() {
        return Err(CliError::NoFact { option: "--device" }.into());
    }
    if let (Some(from), Some(to), false) = (old.facts.timestamp, new.facts.timestamp, options.downgrade)
        && from > to
    {
        return Err(CliError::GoesBack { what: "date", from: from.to_string(), to: to.to_string() }.into());
    }
    if let (Some(from), Some(to), false) = (&old.facts.spl, &new.facts.spl, options.downgrade)
        && from > to
    {
        return Err(CliError::GoesBack { what: "security patch level", from: from.clone(), to: to.clone() }.into());
    }
    let unknown = |whose: &str, what: &str| {
        session.warn(format!("nothing says the {whose} build's {what}; recoveries compare it"))
    };
    // A bare payload says nothing of them, and a full update starts from no build.
    let from = Some(("old", &old.facts)).filter(|_| !old.images.is_empty());
    for (whose, facts) in from.into_iter().chain([("new", &new.facts)]).filter(|_| zip) {
        if facts.build.is_none() {
            unknown(whose, "fingerprint");
        }
        if facts.incremental.is_none() {
            unknown(whose, "id");
        }
    }
    let snapshots = new.dynamic.as_ref().is_some_and(|dynamic| dynamic.snapshot_enabled.unwrap_or(false));
    if options.partial && (minor < PARTIAL || !snapshots) {
        return Err(CliError::NoPartial { minor, snapshots }.into());
    }
    if !options.partial {
        let groups = new.dynamic.iter().flat_map(|dynamic| &dynamic.groups);
        let named: BTreeSet<&str> = groups.flat_map(|group| &group.partition_names).map(String::as_str).collect();
        let missing: Vec<_> =
            named.into_iter().filter(|name| !new.images.keys().any(|image| image.as_str() == *name)).collect();
        if !missing.is_empty() {
            return Err(CliError::WouldDelete { partitions: missing.join(", ") }.into());
        }
    }
    Ok(())
}

/// Partitions that are the same in both builds stay as they are.
fn leave_out_same(old: &mut BuildSource, new: &mut BuildSource, bars: &Bars<'_>) -> anyhow::Result<()> {
    bars.step("comparing the builds", new.size());
    let mut same = Vec::new();
    for (name, image) in &new.images {
        let Some(before) = old.images.get(name).filter(|before| before.len() == image.len()) else { continue };
        let mut equal = true;
        let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        let mut done = 0;
        while equal && done < image.len().get() {
            let now = usize::try_from(image.len().get() - done).unwrap_or(usize::MAX).min(a.len());
            let read =
                image.read_exact_at(&mut a[..now], done).and_then(|()| before.read_exact_at(&mut b[..now], done));
            read.with_context(|| format!("could not read {name}"))?;
            equal = a[..now] == b[..now];
            done += now as u64;
            if bars.add(now as u64).is_break() {
                return Err(CliError::Stopped.into());
            }
        }
        if equal {
            same.push(name.clone());
        }
    }
    for name in same {
        new.images.remove(&name);
        old.images.remove(&name);
    }
    if new.images.is_empty() { Err(CliError::NothingChanged.into()) } else { Ok(()) }
}

fn allowed(without: &[Without]) -> Operations {
    let has = |operation| !without.contains(&operation);
    Operations {
        bsdiff: has(Without::Bsdiff),
        brotli: has(Without::Brotli),
        puffdiff: has(Without::Puffdiff),
        zucchini: has(Without::Zucchini),
        lz4diff: has(Without::Lz4diff),
        xz: has(Without::Xz),
        bz: has(Without::Bz),
        zero: has(Without::Zero),
    }
}

/// Phones with a newer build than this refuse the update.
fn max_timestamp(options: &AbOptions, old: &BuildFacts, new: &BuildFacts) -> Option<i64> {
    let timestamp = if options.downgrade { old.timestamp.max(new.timestamp) } else { new.timestamp };
    timestamp.and_then(|seconds| i64::try_from(seconds).ok())
}

/// Whether the security patch level goes back, which is only let through if it is said.
fn spl_goes_back(options: &AbOptions, old: &BuildFacts, new: &BuildFacts) -> bool {
    options.downgrade && matches!((&old.spl, &new.spl), (Some(from), Some(to)) if from > to)
}

/// Whether data are erased: what an older build makes of a newer one's data nobody can say.
fn wipes(options: &AbOptions) -> bool {
    options.wipe || options.downgrade
}

fn properties(options: &AbOptions, old: &BuildFacts, new: &BuildFacts) -> Vec<(String, String)> {
    let all = [(wipes(options), "POWERWASH"), (spl_goes_back(options, old, new), "SPL_DOWNGRADE")];
    all.iter().filter(|(set, _)| *set).map(|(_, key)| ((*key).to_owned(), "1".to_owned())).collect()
}

fn metadata(options: &AbOptions, old: &BuildFacts, new: &BuildFacts, manifest: &Manifest) -> Metadata {
    let state = |facts: &BuildFacts, device: &[String]| DeviceState {
        device: device.to_vec(),
        build: facts.build.iter().cloned().collect(),
        build_incremental: facts.incremental.clone().unwrap_or_default(),
        partition_state: manifest
            .partitions
            .iter()
            .filter_map(|partition| {
                Some(PartitionState {
                    partition_name: partition.name.to_string(),
                    device: device.to_vec(),
                    build: facts.build.iter().cloned().collect(),
                    version: facts.versions.get(&partition.name)?.clone(),
                })
            })
            .collect(),
        ..DeviceState::default()
    };
    Metadata {
        kind: Metadata::AB,
        wipe: wipes(options),
        downgrade: options.downgrade,
        spl_downgrade: spl_goes_back(options, old, new),
        precondition: Some(state(old, &new.device)),
        postcondition: Some(DeviceState {
            timestamp: new.timestamp.and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0),
            sdk_level: new.sdk.map(|sdk| sdk.to_string()).unwrap_or_default(),
            security_patch_level: new.spl.clone().unwrap_or_default(),
            ..state(new, &new.device)
        }),
        ..Metadata::default()
    }
}

/// What the new build's full OTA has beside its payload; APEXes each with the version that the old build has.
///
/// # Source
/// AOSP `build/tools/releasetools/ota_utils.py`, `ConstructOtaApexInfo`.
fn entries(old: &BuildSource, new: &BuildSource) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut entries: Vec<_> = new.care_map.iter().cloned().collect();
    if let Some(bytes) = &new.apex_info {
        let mut apexes = target_files::apexes(bytes)?;
        for apex in &mut apexes {
            let same = |other: &&wire::ApexInfo| other.package_name == apex.package_name;
            apex.source_version = old.apexes.iter().find(same).and_then(|apex| apex.version).or(apex.source_version);
        }
        entries.push((APEX_INFO.to_owned(), target_files::apex_info(&apexes)));
    }
    Ok(entries)
}

/// Whether a name says that an A/B update goes there.
pub(crate) fn is_ab_name(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "zip" || extension == "bin")
}

/// Whether it is a zip that goes there.
fn is_zip_name(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "zip")
}
