//! `relevo ota`: package files, without a repository.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    io::{self, BufReader, Read, Write},
    ops::ControlFlow,
    path::Path,
};

use anyhow::Context;
use relevo_format::{
    FileAt, ReadAt, Section,
    apply::{self, ApplyError, apply_piece, body, check_source, check_streams},
    image::open_image,
    ops::{Decoder, Op},
    package::{Codec, Front, Info, Limits, Role, Stream, key_id, sign_file},
};
use relevo_types::{BuildId, ByteLen, Codename, PackageKind, PartitionName, Sha256};
use serde::Serialize;
use sha2::Digest;

use crate::{
    args::{OtaApply, OtaDiff, OtaExtract, OtaSign, OtaVerify},
    build_source::{self, BuildSource},
    command::{ab, ab_diff, ab_sign},
    durable::{Aside, Draft, PUBLIC},
    error::CliError,
    home::human,
    keys, packages,
    progress::Bars,
    session::{Answer, Session},
};

/// An opened package.
struct Package {
    front: Front,
    file: FileAt,
}

/// Opens a package and checks that it is as long as it says.
fn open(path: &Path) -> anyhow::Result<Package> {
    let file = FileAt::open(path).map_err(|source| CliError::Read { path: path.into(), source })?;
    let refused = || format!("{} is refused", path.display());
    let front = Front::read(&mut Section::whole(&file), &Limits::default()).with_context(refused)?;
    front.check_len(file.len()).with_context(refused)?;
    Ok(Package { front, file })
}

/// A package in numbers.
#[derive(Debug, Serialize)]
struct Inspection {
    kind: PackageKind,
    /// Bytes of the whole file.
    bytes: ByteLen,
    device: Option<Codename>,
    from: Option<BuildId>,
    to: Option<BuildId>,
    timestamp: Option<u64>,
    /// Bytes of memory that applying takes.
    memory: ByteLen,
    partitions: Vec<PartitionView>,
    /// Partitions of the source build that go away.
    removed: Vec<PartitionName>,
    /// Bytes that each kind of operation makes, over all partitions.
    operations: BTreeMap<&'static str, Count>,
    /// Stored and raw bytes by what a stream is and how it is stored.
    streams: BTreeMap<String, StreamCount>,
    signatures: Vec<Sha256>,
}

#[derive(Debug, Serialize)]
struct PartitionView {
    name: PartitionName,
    bytes: ByteLen,
    sha256: Sha256,
    /// Bytes in the package for it.
    stored: u64,
    pieces: usize,
    /// The image that must be there; none if nothing of it is used.
    source: Option<Image>,
    operations: BTreeMap<&'static str, Count>,
}

/// A whole image.
#[derive(Debug, Serialize)]
pub(super) struct Image {
    pub(super) bytes: ByteLen,
    pub(super) sha256: Sha256,
}

/// Operations of one kind.
#[derive(Debug, Default, Clone, Copy, Serialize)]
struct Count {
    count: u64,
    bytes: u64,
}

#[derive(Debug, Default, Clone, Copy, Serialize)]
struct StreamCount {
    count: u64,
    stored: u64,
    raw: u64,
}

pub(crate) fn inspect(session: &Session<'_>, path: &Path) -> anyhow::Result<Answer> {
    if ab::is_ab(path)? {
        return ab::inspect(session, path);
    }
    let package = open(path)?;
    let inspection = inspection(&package).with_context(|| format!("{} is refused", path.display()))?;
    let text = table(&inspection);
    Ok(Answer::new(&inspection).text(text))
}

fn inspection(package: &Package) -> anyhow::Result<Inspection> {
    let manifest = package.front.manifest();
    let content = body(&package.front, &package.file)?;
    let mut streams: BTreeMap<String, StreamCount> = BTreeMap::new();
    let mut operations: BTreeMap<&'static str, Count> = BTreeMap::new();
    let mut partitions = Vec::new();
    for partition in &manifest.partitions {
        let mut own: BTreeMap<&'static str, Count> = BTreeMap::new();
        let mut stored = 0;
        for piece in &partition.pieces {
            check_streams(piece, &piece.name(&partition.name), &content)?;
            for stream in &piece.streams {
                let count = streams.entry(format!("{} {}", short(stream.role.name()), short(stream.codec.name())));
                let count = count.or_default();
                count.count += 1;
                count.stored += stream.stored_len;
                count.raw += stream.raw_len;
                stored += stream.stored_len;
                if stream.role == Role::Ops {
                    count_operations(stream, &content, piece.bases.len(), &mut own)
                        .with_context(|| format!("could not read the operations of {}", piece.name(&partition.name)))?;
                }
            }
        }
        for (kind, count) in &own {
            let sum = operations.entry(kind).or_default();
            sum.count += count.count;
            sum.bytes = sum.bytes.saturating_add(count.bytes);
        }
        let source = manifest.bases.iter().find(|base| base.partition == partition.name);
        partitions.push(PartitionView {
            name: partition.name.clone(),
            bytes: partition.size,
            sha256: partition.sha256,
            stored,
            pieces: partition.pieces.len(),
            source: source.map(|base| Image { bytes: base.size, sha256: base.sha256 }),
            operations: own,
        });
    }
    let info = &manifest.info;
    Ok(Inspection {
        kind: PackageKind::Native,
        bytes: package.file.len(),
        device: info.device.clone(),
        from: info.from.clone(),
        to: info.to.clone(),
        timestamp: info.timestamp,
        memory: info.memory,
        partitions,
        removed: manifest.removed.clone(),
        operations,
        streams,
        signatures: package.front.signatures().iter().map(|signature| signature.key_id).collect(),
    })
}

/// Counts the operations of one stream, in bounded memory.
fn count_operations(
    stream: &Stream,
    content: &dyn ReadAt,
    bases: usize,
    counts: &mut BTreeMap<&'static str, Count>,
) -> anyhow::Result<()> {
    let section = Section::new(content, stream.offset, stream.stored_len)?;
    let reader: Box<dyn Read + '_> = match stream.codec {
        Codec::Store => Box::new(section),
        Codec::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(section)?.single_frame();
            decoder.window_log_max(stream.window_log)?;
            Box::new(decoder)
        }
        codec => anyhow::bail!("operations stored with {}, which this version does not know", codec.name()),
    };
    let mut decoder = Decoder::new(BufReader::new(reader.take(stream.raw_len)), bases);
    while let Some(op) = decoder.next_op()? {
        let kind = match op {
            Op::Copy { .. } => "copy",
            Op::Add { .. } => "add",
            Op::Insert { .. } => "insert",
            Op::Zero { .. } => "zero",
        };
        let count = counts.entry(kind).or_default();
        count.count += 1;
        count.bytes = count.bytes.saturating_add(op.len());
    }
    Ok(())
}

/// A feature's name without its kind: `zstd` of `codec/zstd`.
fn short(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn table(inspection: &Inspection) -> String {
    let mut out = String::new();
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(out, "{label:<11} {value}");
    };
    let kind = if inspection.partitions.iter().any(|partition| partition.source.is_some()) { "delta" } else { "full" };
    line("package", &format!("native {kind}, {} ({})", human(inspection.bytes.get()), inspection.bytes));
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    line("device", &or_dash(inspection.device.as_ref().map(ToString::to_string)));
    line("from", &or_dash(inspection.from.as_ref().map(ToString::to_string)));
    line("to", &or_dash(inspection.to.as_ref().map(ToString::to_string)));
    let date = inspection.timestamp.and_then(|seconds| i64::try_from(seconds).ok());
    let date = date.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    line("date", &or_dash(date.map(|date| date.to_string())));
    line("memory", &format!("{} to apply", human(inspection.memory.get())));
    let removed: Vec<_> = inspection.removed.iter().map(ToString::to_string).collect();
    if !removed.is_empty() {
        line("removes", &removed.join(", "));
    }
    for (index, id) in inspection.signatures.iter().enumerate() {
        line(if index == 0 { "signed by" } else { "" }, &id.to_string());
    }
    if inspection.signatures.is_empty() {
        line("signed by", "nobody");
    }
    let _ = writeln!(
        out,
        "\n{:<20} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>6}",
        "partition", "size", "stored", "copy", "add", "insert", "zero", "pieces"
    );
    for partition in &inspection.partitions {
        let bytes = |kind| human(partition.operations.get(kind).copied().unwrap_or_default().bytes);
        let _ = writeln!(
            out,
            "{:<20} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>6}",
            partition.name.as_str(),
            human(partition.bytes.get()),
            human(partition.stored),
            bytes("copy"),
            bytes("add"),
            bytes("insert"),
            bytes("zero"),
            partition.pieces
        );
    }
    if !inspection.streams.is_empty() {
        let _ = writeln!(out, "\n{:<20} {:>10} {:>10} {:>10}", "streams", "stored", "raw", "count");
    }
    for (name, count) in &inspection.streams {
        let (stored, raw) = (human(count.stored), human(count.raw));
        let _ = writeln!(out, "{name:<20} {stored:>10} {raw:>10} {:>10}", count.count);
    }
    out
}

/// What `ota diff --json` says.
#[derive(Debug, Serialize)]
struct Diffed {
    package: String,
    bytes: ByteLen,
    target_bytes: ByteLen,
    partitions: BTreeMap<PartitionName, Made>,
    signatures: Vec<Sha256>,
}

#[derive(Debug, Serialize)]
struct Made {
    bytes: u64,
    copied: u64,
    added: u64,
    inserted: u64,
    zeros: u64,
    stored: u64,
}

pub(crate) fn diff(session: &Session<'_>, args: &OtaDiff) -> anyhow::Result<Answer> {
    let named_ab = ab_diff::is_ab_name(&args.out);
    let kind = args.kind.unwrap_or(if named_ab { PackageKind::Ab } else { PackageKind::Native });
    if kind == PackageKind::Block {
        return Err(CliError::Kind { kind }.into());
    }
    if named_ab != (kind == PackageKind::Ab) {
        return Err(CliError::OutName { path: args.out.clone(), kind }.into());
    }
    if kind == PackageKind::Ab {
        return ab_diff::diff(session, args);
    }
    let for_ab = [
        (!args.cert.is_empty(), "--cert"),
        (args.unsigned, "--unsigned"),
        (args.ab.minor.is_some(), "--minor"),
        (!args.ab.without.is_empty(), "--without"),
        (args.ab.no_verity, "--no-verity"),
        (args.ab.xor, "--xor"),
        (args.ab.vabc_compression_param.is_some(), "--vabc-compression-param"),
        (args.ab.vabc_cow_version.is_some(), "--vabc-cow-version"),
        (args.ab.compression_factor.is_some(), "--compression-factor"),
        (args.ab.disable_vabc, "--disable-vabc"),
        (args.ab.partial, "--partial"),
        (args.ab.wipe, "--wipe"),
        (args.ab.downgrade, "--downgrade"),
    ];
    if let Some((_, option)) = for_ab.into_iter().find(|(given, _)| *given) {
        return Err(CliError::OtherKind { option, kind: PackageKind::Ab }.into());
    }
    let signers = keys::open_files(session, &args.key, &args.passphrase)?;
    // Made aside, then copied with its signatures: no half of it ever has the name that was asked for.
    let aside = Aside::beside(&args.out)?;
    let failed = || format!("could not make {}", args.out.display());
    let mut old = build_source::open(&args.old, aside.path(), session).with_context(failed)?;
    let mut new = build_source::open(&args.new, aside.path(), session).with_context(failed)?;
    ab_diff::settle_facts(args, &mut old, &mut new);
    let incremental = |build: &BuildSource| BuildId::parse(build.facts.incremental.as_ref()?).ok();
    let info = Info {
        device: new.facts.device.first().and_then(|device| Codename::parse(device).ok()),
        from: incremental(&old),
        to: incremental(&new),
        timestamp: new.facts.timestamp,
        memory: ByteLen::ZERO,
    };
    let subject = args.out.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let unsigned = aside.path().join("unsigned.rvp");
    let report = packages::diff(session, &old.images, &new.images, &args.effort, info, &unsigned, &subject)
        .with_context(failed)?;
    sign_to(&unsigned, (&args.out, aside.path()), &signers).with_context(failed)?;
    let package = open(&args.out)?;
    let partitions = report.partitions.iter().map(|partition| {
        let made = Made {
            bytes: partition.target_len,
            copied: partition.copied,
            added: partition.added,
            inserted: partition.inserted,
            zeros: partition.zeros,
            stored: partition.stored,
        };
        (partition.name.clone(), made)
    });
    let answer = Diffed {
        package: args.out.display().to_string(),
        bytes: package.file.len(),
        target_bytes: report.target_len,
        partitions: partitions.collect(),
        signatures: package.front.signatures().iter().map(|signature| signature.key_id).collect(),
    };
    let text = format!(
        "made {}: {} for {} of images\n",
        args.out.display(),
        human(answer.bytes.get()),
        human(answer.target_bytes.get())
    );
    let unsigned = "it is not signed: no phone takes it before `relevo ota sign`\n";
    let notes = if answer.signatures.is_empty() { unsigned } else { "" };
    Ok(Answer::new(&answer).text(text).notes(notes))
}

/// Copies a package, with signatures added, into a file that gets its name at the end.
///
/// Until then it lies in `scratch`, a directory of the same file system.
fn sign_to(from: &Path, (to, scratch): (&Path, &Path), signers: &[ed25519_dalek::SigningKey]) -> anyhow::Result<Front> {
    let draft = Draft::new_in(scratch, to, PUBLIC)?;
    let front = sign_file(from, draft.unfinished(), signers, &Limits::default())
        .with_context(|| format!("could not sign {}", from.display()))?;
    draft.finish()?;
    Ok(front)
}

pub(crate) fn sign(session: &Session<'_>, args: &OtaSign) -> anyhow::Result<Answer> {
    if ab::is_ab(&args.package)? {
        return ab_sign::sign(session, args);
    }
    for (given, option) in [(!args.cert.is_empty(), "--cert"), (args.exchange.is_some(), "--exchange")] {
        if given {
            return Err(CliError::OtherKind { option, kind: PackageKind::Ab }.into());
        }
    }
    let signers = keys::open_files(session, &args.key, &args.passphrase)?;
    let aside = Aside::beside(&args.out)?;
    let front = sign_to(&args.package, (&args.out, aside.path()), &signers)?;
    let signatures: Vec<_> = front.signatures().iter().map(|signature| signature.key_id).collect();
    let answer = serde_json::json!({ "package": args.out, "signatures": signatures });
    let count = signatures.len();
    Ok(Answer::new(&answer).text(format!("signed {}: {count} signatures\n", args.out.display())))
}

/// What `ota apply --json` and `ota extract --json` say.
#[derive(Debug, Serialize)]
struct Applied {
    out: String,
    partitions: BTreeMap<PartitionName, Image>,
    removed: Vec<PartitionName>,
}

/// Says which images were made in `out`, and which partitions the new build has no more.
pub(super) fn applied(out: &Path, partitions: BTreeMap<PartitionName, Image>, removed: Vec<PartitionName>) -> Answer {
    let answer = Applied { out: out.display().to_string(), partitions, removed };
    let mut text = String::new();
    for (name, image) in &answer.partitions {
        let _ = writeln!(text, "made {name}.img, {}, SHA-256 {}", human(image.bytes.get()), image.sha256);
    }
    for name in &answer.removed {
        let _ = writeln!(text, "{name} is no longer part of the build");
    }
    Answer::new(&answer).text(text)
}

pub(crate) fn extract(session: &Session<'_>, args: &OtaExtract) -> anyhow::Result<Answer> {
    if ab::is_ab(&args.package)? {
        return ab::extract(session, args);
    }
    if !args.partition.is_empty() {
        return Err(CliError::OtherKind { option: "--partition", kind: PackageKind::Ab }.into());
    }
    apply(session, &OtaApply { package: args.package.clone(), source: None, out: args.out.clone() })
}

pub(crate) fn apply(session: &Session<'_>, args: &OtaApply) -> anyhow::Result<Answer> {
    if ab::is_ab(&args.package)? {
        return ab::apply(session, args);
    }
    let package = open(&args.package)?;
    let manifest = package.front.manifest();
    if args.source.is_none() && !manifest.bases.is_empty() {
        return Err(CliError::NoSource { bases: manifest.bases.len() }.into());
    }
    if let Some(source) = &args.source
        && let (Ok(from), Ok(to)) = (fs::canonicalize(source), fs::canonicalize(&args.out))
        && from == to
    {
        return Err(CliError::SameDirectory { dir: args.out.clone() }.into());
    }
    let content = body(&package.front, &package.file)?;
    let bars = session.bars(args.package.file_name().unwrap_or_default().to_string_lossy());
    bars.step("checking the source", manifest.bases.iter().map(|base| base.size.get()).sum());
    let open_base = |name: &PartitionName| -> io::Result<Box<dyn ReadAt>> {
        let dir = args.source.as_deref().ok_or(io::ErrorKind::NotFound)?;
        let path = dir.join(format!("{name}.img"));
        open_image(&path).map_err(|error| match error {
            relevo_format::image::ImageError::Read { source, .. } => source,
            error => io::Error::new(io::ErrorKind::InvalidData, error),
        })
    };
    let wrong_source = || match &args.source {
        Some(dir) => format!("{} is not what {} starts from", dir.display(), args.package.display()),
        None => format!("{} cannot be applied", args.package.display()),
    };
    let source =
        check_source(manifest, open_base, |bytes| bars.add(bytes)).map_err(stopped).with_context(wrong_source)?;

    let aside = Aside::within(&args.out)?;
    bars.step("making the images", manifest.target_len().get());
    let mut finished = Vec::new();
    for index in 0..manifest.partitions.len() {
        let draft = make_image(&package.front, index, &source, &content, (&args.out, aside.path()), &bars)
            .with_context(|| format!("{} could not be applied", args.package.display()))?;
        finished.push(draft);
    }
    // Only now does any image get its name: all of them, or none if a later one is damaged.
    finished.into_iter().try_for_each(Draft::finish)?;

    let partitions = manifest.partitions.iter();
    let partitions = partitions.map(|p| (p.name.clone(), Image { bytes: p.size, sha256: p.sha256 }));
    Ok(applied(&args.out, partitions.collect(), manifest.removed.clone()))
}

fn stopped(error: ApplyError) -> anyhow::Error {
    match error {
        ApplyError::Stopped => CliError::Stopped.into(),
        error => error.into(),
    }
}

/// Makes one image, checked, without its name.
fn make_image(
    front: &Front,
    index: usize,
    source: &apply::VerifiedSource<'_>,
    content: &dyn ReadAt,
    (out, aside): (&Path, &Path),
    bars: &Bars<'_>,
) -> anyhow::Result<Draft> {
    let partition = &front.manifest().partitions[index];
    let draft = Draft::new_in(aside, &out.join(format!("{}.img", partition.name)), PUBLIC)?;
    let mut hashed = Hashed { inner: draft, hasher: sha2::Sha256::new() };
    for (number, piece) in partition.pieces.iter().enumerate() {
        apply_piece(front, index, number, source, content, &mut hashed).map_err(stopped)?;
        if bars.add(piece.len) == ControlFlow::Break(()) {
            return Err(CliError::Stopped.into());
        }
    }
    let actual = Sha256::new(hashed.hasher.finalize().into());
    if actual != partition.sha256 {
        let (partition, expected) = (partition.name.clone(), partition.sha256);
        return Err(CliError::TargetDiffers { partition, expected, actual }.into());
    }
    Ok(hashed.inner)
}

/// Hashes what goes through.
struct Hashed<W> {
    inner: W,
    hasher: sha2::Sha256,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Checks every stream of a package against its manifest.
pub(crate) fn check_streams_of(session: &Session<'_>, path: &Path) -> anyhow::Result<()> {
    let package = open(path)?;
    check_body(session, path, &package).with_context(|| format!("{} is refused", path.display()))?;
    Ok(())
}

/// The number of streams, each of which is as the manifest says.
fn check_body(session: &Session<'_>, path: &Path, package: &Package) -> anyhow::Result<usize> {
    let content = body(&package.front, &package.file)?;
    let bars = session.bars(path.file_name().unwrap_or_default().to_string_lossy());
    bars.step("checking the streams", content.len().get());
    let mut streams = 0;
    for partition in &package.front.manifest().partitions {
        for piece in &partition.pieces {
            check_streams(piece, &piece.name(&partition.name), &content)?;
            streams += piece.streams.len();
            if bars.add(piece.streams.iter().map(|stream| stream.stored_len).sum()) == ControlFlow::Break(()) {
                return Err(CliError::Stopped.into());
            }
        }
    }
    Ok(streams)
}

/// What `ota verify --json` says.
#[derive(Debug, Serialize)]
struct Verified {
    package: String,
    bytes: ByteLen,
    streams: usize,
    signatures: Vec<Sha256>,
    /// Ids of given keys that signed; none if no keys were given.
    valid: Option<BTreeSet<Sha256>>,
    threshold: Option<usize>,
}

pub(crate) fn verify(session: &Session<'_>, args: &OtaVerify) -> anyhow::Result<Answer> {
    if ab::is_ab(&args.package)? {
        return ab::verify(session, args);
    }
    if !args.cert.is_empty() {
        return Err(CliError::OtherKind { option: "--cert", kind: PackageKind::Ab }.into());
    }
    let refused = || format!("{} is refused", args.package.display());
    let given = keys::open_public(&args.key)?;
    let package = open(&args.package)?;
    let valid = if given.is_empty() {
        None
    } else {
        package.front.verify(&given, args.threshold).with_context(refused)?;
        let signed = |key: &&ed25519_dalek::VerifyingKey| package.front.verify(&[**key], 1).is_ok();
        Some(given.iter().filter(signed).map(key_id).collect::<BTreeSet<_>>())
    };
    let streams = check_body(session, &args.package, &package).with_context(refused)?;
    let signatures: Vec<_> = package.front.signatures().iter().map(|signature| signature.key_id).collect();
    let mut text = format!("{}: {streams} streams are as the manifest says\n", args.package.display());
    let notes = match &valid {
        Some(valid) => {
            let _ =
                writeln!(text, "signed by {} of {} given keys, {} needed", valid.len(), given.len(), args.threshold);
            ""
        }
        None if signatures.is_empty() => "it is not signed\n",
        None => "its signatures were not checked: give the keys with --key\n",
    };
    let answer = Verified {
        package: args.package.display().to_string(),
        bytes: package.file.len(),
        streams,
        signatures,
        threshold: valid.as_ref().map(|_| args.threshold),
        valid,
    };
    Ok(Answer::new(&answer).text(text).notes(notes))
}
