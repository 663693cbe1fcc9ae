//! `relevo ota` for A/B updates: OTA zips and payloads.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    io,
    ops::ControlFlow,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use rayon::prelude::*;
use relevo_format::{
    FileAt, ReadAt,
    image::{ImageError, open_image},
    ota_zip::{self, METADATA, OtaZip, PAYLOAD, PROPERTIES, Properties, WholeFile, WholeFileError},
    payload::{
        self, ApplyError, Limits, Partition, Payload, PublicKey, SignatureError, Sink, apply_operation, check_data,
        is_applied,
    },
    verity,
};
use relevo_types::{ByteLen, PackageKind, PartitionName, Sha256};
use serde::Serialize;
use sha2::Digest;

use super::ota::{self, Image};
use crate::{
    args::{OtaApply, OtaExtract, OtaVerify},
    durable::{Aside, Draft, PUBLIC},
    error::CliError,
    home::human,
    progress::Bars,
    session::{Answer, Session},
};

/// First bytes of a zip: of its first entry, or of its end if it is empty.
const ZIP: [[u8; 4]; 2] = [*b"PK\x03\x04", *b"PK\x05\x06"];
/// Bytes that are hashed at a time.
const BUFFER: usize = 1 << 18;
/// Largest key or certificate file that is read.
const MAX_KEY: u64 = 64 << 10;

/// Whether a file is a zip or a payload, by its first bytes.
pub(crate) fn is_ab(path: &Path) -> anyhow::Result<bool> {
    let file = FileAt::open(path).map_err(|source| CliError::Read { path: path.into(), source })?;
    let mut start = [0; 4];
    let known = file.read_exact_at(&mut start, 0).is_ok();
    Ok(known && (start == payload::MAGIC || ZIP.contains(&start)))
}

/// A payload, and the zip that it lies in.
pub(crate) struct Update {
    path: PathBuf,
    container: Container,
    pub(crate) payload: Payload,
}

enum Container {
    Bare(FileAt),
    Zip(Box<OtaZip<FileAt>>),
}

impl Update {
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let refused = || format!("{} is refused", path.display());
        let file = FileAt::open(path).map_err(|source| CliError::Read { path: path.into(), source })?;
        let mut start = [0; 4];
        let bare = file.read_exact_at(&mut start, 0).is_ok() && start == payload::MAGIC;
        let (container, payload) = if bare {
            let payload = Payload::read(&file, &Limits::default()).with_context(refused)?;
            (Container::Bare(file), payload)
        } else {
            let zip = OtaZip::read(file, &ota_zip::Limits::default()).with_context(refused)?;
            let stored = zip.stored(PAYLOAD).with_context(refused)?;
            let payload = Payload::read(&stored, &Limits::default()).with_context(refused)?;
            (Container::Zip(Box::new(zip)), payload)
        };
        Ok(Self { path: path.into(), container, payload })
    }

    /// The payload's bytes, where they lie.
    pub(crate) fn content(&self) -> Box<dyn ReadAt + '_> {
        match &self.container {
            Container::Bare(file) => Box::new(file),
            Container::Zip(zip) => Box::new(zip.stored(PAYLOAD).expect("it was read from there")),
        }
    }

    pub(crate) fn zip(&self) -> Option<&OtaZip<FileAt>> {
        match &self.container {
            Container::Bare(_) => None,
            Container::Zip(zip) => Some(zip),
        }
    }

    fn len(&self) -> ByteLen {
        match &self.container {
            Container::Bare(file) => file.len(),
            Container::Zip(zip) => zip.file().len(),
        }
    }

    /// The zip's statement on its payload; none for a bare one, or where it is missing.
    pub(crate) fn properties(&self) -> anyhow::Result<Option<Properties>> {
        match self.zip().filter(|zip| zip.entry(PROPERTIES).is_some()) {
            Some(zip) => Ok(Some(zip.properties()?)),
            None => Ok(None),
        }
    }

    pub(crate) fn bars<'a>(&self, session: &Session<'a>) -> Bars<'a> {
        session.bars(self.path.file_name().unwrap_or_default().to_string_lossy())
    }
}

/// Images to start from, by partition.
pub(crate) type Sources = BTreeMap<PartitionName, (PathBuf, Box<dyn ReadAt>)>;

pub(crate) fn extract(session: &Session<'_>, args: &OtaExtract) -> anyhow::Result<Answer> {
    let update = Update::open(&args.package)?;
    let wanted = choose(&update, &args.partition)?;
    let aside = Aside::within(&args.out)?;
    make(session, &update, &wanted, &Sources::new(), (&args.out, aside.path()))?;
    Ok(answer(&wanted, &args.out))
}

pub(crate) fn apply(session: &Session<'_>, args: &OtaApply) -> anyhow::Result<Answer> {
    let update = Update::open(&args.package)?;
    let wanted = choose(&update, &[])?;
    check_kinds(&wanted)?;
    if let Some(source) = &args.source
        && let (Ok(from), Ok(to)) = (fs::canonicalize(source), fs::canonicalize(&args.out))
        && from == to
    {
        return Err(CliError::SameDirectory { dir: args.out.clone() }.into());
    }
    let aside = Aside::within(&args.out)?;
    let Some(source) = &args.source else {
        make(session, &update, &wanted, &Sources::new(), (&args.out, aside.path()))?;
        return Ok(answer(&wanted, &args.out));
    };
    // A source that is itself a full OTA is taken apart there too, and goes away with it.
    let dir = if source.is_dir() {
        source
    } else {
        let full = Update::open(source)?;
        let names: Vec<_> = wanted.iter().filter(|p| p.old.is_some()).map(|p| p.name.clone()).collect();
        let from = choose(&full, &names)?;
        if !from.is_empty() && !names.is_empty() {
            make(session, &full, &from, &Sources::new(), (aside.path(), aside.path()))?;
        }
        aside.path()
    };
    let mut sources = Sources::new();
    for partition in wanted.iter().filter(|partition| partition.old.is_some()) {
        let path = dir.join(format!("{}.img", partition.name));
        let image = open_image(&path).map_err(|error| match error {
            ImageError::Read { path, source } => anyhow::Error::new(CliError::Read { path, source }),
            error => error.into(),
        })?;
        sources.insert(partition.name.clone(), (path, image));
    }
    make(session, &update, &wanted, &sources, (&args.out, aside.path()))?;
    Ok(answer(&wanted, &args.out))
}

fn answer(wanted: &[&Partition], out: &Path) -> Answer {
    let images = wanted.iter().map(|p| (p.name.clone(), Image { bytes: p.new.size, sha256: p.new.sha256 }));
    ota::applied(out, images.collect(), Vec::new())
}

/// The partitions that were asked for, or all.
fn choose<'a>(update: &'a Update, names: &[PartitionName]) -> anyhow::Result<Vec<&'a Partition>> {
    let all = &update.payload.manifest().partitions;
    for name in names {
        if !all.iter().any(|partition| partition.name == *name) {
            let present: Vec<_> = all.iter().map(|partition| partition.name.as_str()).collect();
            return Err(CliError::NoPartition { partition: name.clone(), present: present.join(", ") }.into());
        }
    }
    Ok(all.iter().filter(|partition| names.is_empty() || names.contains(&partition.name)).collect())
}

/// Refuses what could not be made to its end, before anything is written.
fn check_kinds(wanted: &[&Partition]) -> anyhow::Result<()> {
    for partition in wanted {
        if let Some(verity) = &partition.verity {
            let wrong = |source| CliError::Verity { partition: partition.name.clone(), source };
            verity::check(verity, partition.new.size).map_err(wrong)?;
        }
        let unknown = partition.operations.iter().enumerate().find(|(_, operation)| !is_applied(operation.kind));
        if let Some((operation, found)) = unknown {
            let (partition, kind) = (partition.name.clone(), found.kind);
            return Err(ApplyError::Kind { partition, operation, kind }.into());
        }
    }
    Ok(())
}

/// A new file, which reads as zeros where nothing was written.
struct Output<'a>(&'a File);

impl Sink for Output<'_> {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn zero_at(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// An output that counts what is written, and takes nothing more once it is to stop.
struct Watched<'a> {
    sink: Output<'a>,
    bars: &'a Bars<'a>,
}

impl Sink for Watched<'_> {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.sink.write_at(bytes, offset)?;
        match self.bars.add(bytes.len() as u64) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(io::Error::other("stopped")),
        }
    }
}

/// Makes images: operations of all partitions side by side, names for all of them at the end or for none; until then they
/// lie in `scratch`, a directory of the same file system.
pub(crate) fn make(
    session: &Session<'_>,
    update: &Update,
    wanted: &[&Partition],
    sources: &Sources,
    (out, scratch): (&Path, &Path),
) -> anyhow::Result<()> {
    check_kinds(wanted)?;
    let reads = |partition: &&&Partition| partition.operations.iter().any(|operation| operation.kind.reads_source());
    let bases = wanted.iter().filter(reads).count();
    if bases > 0 && sources.is_empty() {
        return Err(CliError::NoSource { bases }.into());
    }
    let bars = update.bars(session);
    if !sources.is_empty() {
        let old = |partition: &&Partition| partition.old.map_or(0, |old| old.size.get());
        bars.step("checking the source", wanted.iter().map(old).sum());
        wanted.par_iter().try_for_each(|partition| check_source(partition, sources, &bars))?;
    }
    bars.step("making the images", wanted.iter().map(|partition| partition.new.size.get()).sum());
    let failed = || format!("{} could not be applied", update.path.display());
    let drafts: Vec<Draft> = wanted
        .par_iter()
        .map(|partition| make_image(update, partition, sources, (out, scratch), &bars))
        .collect::<anyhow::Result<_>>()
        .with_context(failed)?;
    drafts.into_iter().try_for_each(Draft::finish)?;
    Ok(())
}

fn check_source(partition: &Partition, sources: &Sources, bars: &Bars<'_>) -> anyhow::Result<()> {
    let (Some(old), Some((path, image))) = (partition.old, sources.get(&partition.name)) else { return Ok(()) };
    // A partition is as long as its slot in what somebody read back from a phone; the image is the first part.
    let failed = |source| CliError::Read { path: path.clone(), source };
    if image.len() < old.size {
        let message = format!("holds {}, but {} are expected", image.len(), old.size);
        return Err(failed(io::Error::new(io::ErrorKind::UnexpectedEof, message)).into());
    }
    let actual = hash(image, old.size.get(), failed, |bytes| bars.add(bytes))?;
    if actual != old.sha256 {
        return Err(CliError::SourceDiffers { path: path.clone(), expected: old.sha256, actual }.into());
    }
    Ok(())
}

fn hash(
    image: &dyn ReadAt,
    len: u64,
    failed: impl Fn(io::Error) -> CliError,
    mut advance: impl FnMut(u64) -> ControlFlow<()>,
) -> Result<Sha256, CliError> {
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut done = 0;
    while done < len {
        let now = usize::try_from(len - done).unwrap_or(BUFFER).min(BUFFER);
        image.read_exact_at(&mut buffer[..now], done).map_err(&failed)?;
        hasher.update(&buffer[..now]);
        done += now as u64;
        if advance(now as u64).is_break() {
            return Err(CliError::Stopped);
        }
    }
    Ok(Sha256::new(hasher.finalize().into()))
}

/// Makes one image, checked, without its name.
fn make_image(
    update: &Update,
    partition: &Partition,
    sources: &Sources,
    (out, scratch): (&Path, &Path),
    bars: &Bars<'_>,
) -> anyhow::Result<Draft> {
    let path = out.join(format!("{}.img", partition.name));
    let draft = Draft::new_in(scratch, &path, PUBLIC)?;
    let failed = |source| CliError::Write { path: path.clone(), source };
    draft.file().set_len(partition.new.size.get()).map_err(failed)?;
    let (content, sink) = (update.content(), Output(draft.file()));
    let source = sources.get(&partition.name).map(|(_, image)| &**image as &dyn ReadAt);
    (0..partition.operations.len()).into_par_iter().try_for_each(|index| -> anyhow::Result<()> {
        apply_operation(&update.payload, &content, partition, index, source, &sink)?;
        match bars.add(partition.operations[index].target_len()) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(CliError::Stopped.into()),
        }
    })?;
    let made = FileAt::open(draft.unfinished()).map_err(failed)?;
    if let Some(verity) = &partition.verity {
        verity::compute(verity, &made, &Watched { sink, bars }).map_err(|source| match bars.add(0) {
            ControlFlow::Continue(()) => CliError::Verity { partition: partition.name.clone(), source },
            ControlFlow::Break(()) => CliError::Stopped,
        })?;
    }
    let actual = hash(&made, partition.new.size.get(), failed, |_| bars.add(0))?;
    if actual != partition.new.sha256 {
        let (partition, expected) = (partition.name.clone(), partition.new.sha256);
        return Err(CliError::TargetDiffers { partition, expected, actual }.into());
    }
    Ok(draft)
}

/// An update in numbers.
#[derive(Debug, Serialize)]
struct Inspection {
    kind: PackageKind,
    container: &'static str,
    /// Bytes of the whole file.
    bytes: ByteLen,
    /// Whether it starts from other images.
    delta: bool,
    minor_version: u32,
    timestamp: Option<i64>,
    security_patch_level: Option<String>,
    /// Whether partitions that are not named stay.
    partial: bool,
    payload: PayloadView,
    partitions: Vec<PartitionView>,
    /// Operations over all partitions.
    operations: BTreeMap<OperationName, Count>,
    dynamic: Option<DynamicView>,
    apexes: usize,
    signatures: Signatures,
    /// Lines of the zip's metadata.
    metadata: Option<BTreeMap<String, String>>,
    /// Whether metadata.pb is there and can be read.
    metadata_pb: bool,
    properties: Option<PropertiesView>,
    /// Names in the zip.
    entries: Vec<EntryView>,
}

/// As the format calls it.
type OperationName = &'static str;

#[derive(Debug, Serialize)]
struct PayloadView {
    /// First byte in the file.
    offset: ByteLen,
    bytes: ByteLen,
    /// Bytes of header and manifest.
    metadata_bytes: ByteLen,
    metadata_sha256: Sha256,
    data_bytes: ByteLen,
}

#[derive(Debug, Serialize)]
struct PartitionView {
    name: PartitionName,
    bytes: ByteLen,
    sha256: Sha256,
    source: Option<Image>,
    /// Bytes in the payload for it.
    stored: u64,
    operations: BTreeMap<OperationName, Count>,
    /// Bytes that the phone computes.
    computed: u64,
    verity: Option<VerityView>,
    version: Option<String>,
    postinstall: Option<PostinstallView>,
    /// Steps of the merge, by kind.
    merge_operations: BTreeMap<&'static str, Merges>,
    estimate_cow_size: Option<u64>,
    estimate_op_count_max: Option<u64>,
}

/// What the phone computes.
#[derive(Debug, Serialize)]
struct VerityView {
    hash_tree: Option<TreeView>,
    fec: Option<FecView>,
}

#[derive(Debug, Serialize)]
struct TreeView {
    data: ExtentView,
    tree: ExtentView,
    algorithm: String,
    /// In hexadecimal digits.
    salt: String,
}

#[derive(Debug, Serialize)]
struct FecView {
    data: ExtentView,
    fec: ExtentView,
    roots: u32,
}

#[derive(Debug, Serialize)]
struct ExtentView {
    start_block: u64,
    blocks: u64,
}

#[derive(Debug, Serialize)]
struct PostinstallView {
    path: String,
    filesystem: String,
    optional: bool,
}

#[derive(Debug, Default, Serialize)]
struct Merges {
    count: u64,
    blocks: u64,
}

#[derive(Debug, Default, Clone, Copy, Serialize)]
struct Count {
    count: u64,
    /// Bytes that they make.
    bytes: u64,
    /// Bytes that they have in the payload.
    stored: u64,
}

#[derive(Debug, Serialize)]
struct DynamicView {
    groups: Vec<GroupView>,
    snapshot_enabled: bool,
    vabc_enabled: bool,
    vabc_compression: Option<String>,
    cow_version: Option<u32>,
    compression_factor: Option<u64>,
}

#[derive(Debug, Serialize)]
struct GroupView {
    name: String,
    bytes: u64,
    partitions: Vec<String>,
}

/// How many of each kind there are.
#[derive(Debug, Serialize)]
struct Signatures {
    metadata: usize,
    payload: usize,
    /// None of a bare payload.
    whole_file: Option<bool>,
}

#[derive(Debug, Serialize)]
struct PropertiesView {
    file_sha256: Sha256,
    file_size: ByteLen,
    metadata_sha256: Sha256,
    metadata_size: ByteLen,
    others: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct EntryView {
    name: String,
    offset: u64,
    bytes: u64,
    stored: u64,
}

pub(crate) fn inspect(session: &Session<'_>, path: &Path) -> anyhow::Result<Answer> {
    let update = Update::open(path)?;
    let inspection = inspection(session, &update).with_context(|| format!("{} is refused", path.display()))?;
    let text = table(&inspection);
    Ok(Answer::new(&inspection).text(text))
}

fn partition_view(partition: &Partition) -> PartitionView {
    let mut operations: BTreeMap<OperationName, Count> = BTreeMap::new();
    let mut stored = 0;
    for operation in &partition.operations {
        let count = operations.entry(operation.kind.name()).or_default();
        let data = operation.data.map_or(0, |data| data.len);
        count.count += 1;
        count.bytes += operation.target_len();
        count.stored += data;
        stored += data;
    }
    let mut merge_operations: BTreeMap<_, Merges> = BTreeMap::new();
    for step in &partition.merge_operations {
        let merges = merge_operations.entry(step.kind.name()).or_default();
        merges.count += 1;
        merges.blocks += step.target.blocks;
    }
    let extent = |extent: &payload::Extent| ExtentView { start_block: extent.start, blocks: extent.blocks };
    let verity = partition.verity.as_ref().map(|verity| VerityView {
        hash_tree: verity.hash_tree.as_ref().map(|tree| TreeView {
            data: extent(&tree.data),
            tree: extent(&tree.tree),
            algorithm: tree.algorithm.clone(),
            salt: tree.salt.iter().map(|byte| format!("{byte:02x}")).collect(),
        }),
        fec: verity.fec.as_ref().map(|fec| FecView {
            data: extent(&fec.data),
            fec: extent(&fec.fec),
            roots: fec.roots,
        }),
    });
    let postinstall = partition.postinstall.clone().map(|postinstall| PostinstallView {
        path: postinstall.path,
        filesystem: postinstall.filesystem,
        optional: postinstall.optional,
    });
    PartitionView {
        name: partition.name.clone(),
        bytes: partition.new.size,
        sha256: partition.new.sha256,
        source: partition.old.map(|old| Image { bytes: old.size, sha256: old.sha256 }),
        stored,
        operations,
        computed: partition.computed().map(|extent| extent.len()).sum(),
        version: partition.version.clone(),
        verity,
        postinstall,
        merge_operations,
        estimate_cow_size: partition.estimate_cow_size,
        estimate_op_count_max: partition.estimate_op_count_max,
    }
}

fn inspection(session: &Session<'_>, update: &Update) -> anyhow::Result<Inspection> {
    let payload = &update.payload;
    let manifest = payload.manifest();
    let partitions: Vec<_> = manifest.partitions.iter().map(partition_view).collect();
    let mut operations: BTreeMap<OperationName, Count> = BTreeMap::new();
    for (name, count) in partitions.iter().flat_map(|partition| &partition.operations) {
        let sum = operations.entry(name).or_default();
        sum.count += count.count;
        sum.bytes = sum.bytes.saturating_add(count.bytes);
        sum.stored = sum.stored.saturating_add(count.stored);
    }
    let dynamic = manifest.dynamic.as_ref().map(|dynamic| DynamicView {
        groups: dynamic
            .groups
            .iter()
            .map(|group| GroupView {
                name: group.name.clone().unwrap_or_default(),
                bytes: group.size.unwrap_or(0),
                partitions: group.partition_names.clone(),
            })
            .collect(),
        snapshot_enabled: dynamic.snapshot_enabled.unwrap_or(false),
        vabc_enabled: dynamic.vabc_enabled.unwrap_or(false),
        vabc_compression: dynamic.vabc_compression_param.clone(),
        cow_version: dynamic.cow_version,
        compression_factor: dynamic.compression_factor,
    });
    let zip = update.zip();
    let metadata = match zip.filter(|zip| zip.entry(METADATA).is_some()) {
        Some(zip) => Some(zip.metadata_text()?),
        None => None,
    };
    let metadata_pb = match zip {
        Some(zip) => zip.metadata()?.is_some(),
        None => false,
    };
    let whole_file = zip.map(|zip| whole_file(session, zip).is_some());
    let offset = match zip {
        Some(zip) => zip.stored(PAYLOAD)?.offset(),
        None => ByteLen::ZERO,
    };
    Ok(Inspection {
        kind: PackageKind::Ab,
        container: if zip.is_some() { "zip" } else { "payload" },
        bytes: update.len(),
        delta: manifest.partitions.iter().any(|partition| partition.old.is_some()),
        minor_version: manifest.minor_version,
        timestamp: manifest.max_timestamp,
        security_patch_level: manifest.security_patch_level.clone(),
        partial: manifest.partial,
        payload: PayloadView {
            offset,
            bytes: payload.len(),
            metadata_bytes: payload.metadata_len(),
            metadata_sha256: payload.metadata_sha256(),
            data_bytes: payload.blobs_len(),
        },
        partitions,
        operations,
        dynamic,
        apexes: manifest.apexes.len(),
        signatures: Signatures {
            metadata: payload.metadata_signatures().len(),
            payload: payload.signatures().len(),
            whole_file,
        },
        metadata,
        metadata_pb,
        properties: update.properties()?.map(|properties| PropertiesView {
            file_sha256: properties.file_sha256,
            file_size: properties.file_size,
            metadata_sha256: properties.metadata_sha256,
            metadata_size: properties.metadata_size,
            others: properties.others,
        }),
        entries: zip
            .map(OtaZip::entries)
            .unwrap_or_default()
            .iter()
            .map(|entry| EntryView {
                name: entry.name.clone(),
                offset: entry.offset,
                bytes: entry.len,
                stored: entry.stored,
            })
            .collect(),
    })
}

/// The signature over a whole zip; a damaged one is a warning, as the payload has its own.
fn whole_file(session: &Session<'_>, zip: &OtaZip<FileAt>) -> Option<WholeFile> {
    match zip.signature() {
        Ok(signature) => Some(signature),
        Err(WholeFileError::Unsigned) => None,
        Err(error) => {
            session.warn(error.to_string());
            None
        }
    }
}

fn table(inspection: &Inspection) -> String {
    let mut out = String::new();
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(out, "{label:<11} {value}");
    };
    let what = if inspection.delta { "delta" } else { "full" };
    let container = inspection.container;
    line("package", &format!("A/B {what} in a {container}, {} ({})", human(inspection.bytes.get()), inspection.bytes));
    let (payload, minor) = (&inspection.payload, inspection.minor_version);
    line("payload", &format!("{} at byte {}, minor version {minor}", payload.bytes, payload.offset.get()));
    let date = inspection.timestamp.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    line("date", &date.map_or_else(|| "-".to_owned(), |date| date.to_string()));
    line("patch level", inspection.security_patch_level.as_deref().unwrap_or("-"));
    let signatures = &inspection.signatures;
    let whole = match signatures.whole_file {
        Some(true) => ", whole file 1",
        Some(false) => ", whole file 0",
        None => "",
    };
    line("signatures", &format!("metadata {}, payload {}{whole}", signatures.metadata, signatures.payload));
    if inspection.partial {
        line("partial", "partitions that are not named stay as they are");
    }
    if let Some(dynamic) = &inspection.dynamic {
        for group in &dynamic.groups {
            line("group", &format!("{}, {}: {}", group.name, human(group.bytes), group.partitions.join(", ")));
        }
        let compression = dynamic.vabc_compression.as_deref().filter(|_| dynamic.vabc_enabled).unwrap_or("none");
        let version = dynamic.cow_version.map_or_else(|| "-".to_owned(), |version| version.to_string());
        let snapshots = if dynamic.snapshot_enabled { "yes" } else { "no" };
        line("snapshots", &format!("{snapshots}, compression {compression}, format {version}"));
    }
    let _ = writeln!(out, "\n{:<20} {:>10} {:>10} {:>10} {:>10}", "partition", "size", "from", "stored", "operations");
    for partition in &inspection.partitions {
        let from = partition.source.as_ref().map_or_else(|| "-".to_owned(), |source| human(source.bytes.get()));
        let count: u64 = partition.operations.values().map(|count| count.count).sum();
        let _ = writeln!(
            out,
            "{:<20} {:>10} {from:>10} {:>10} {count:>10}",
            partition.name.as_str(),
            human(partition.bytes.get()),
            human(partition.stored)
        );
    }
    let _ = writeln!(out, "\n{:<20} {:>10} {:>10} {:>10}", "operations", "makes", "stored", "count");
    for (name, count) in &inspection.operations {
        let (bytes, stored) = (human(count.bytes), human(count.stored));
        let _ = writeln!(out, "{name:<20} {bytes:>10} {stored:>10} {:>10}", count.count);
    }
    for partition in &inspection.partitions {
        out.push_str(&beside(partition));
    }
    let properties = inspection.properties.as_ref().map(|stated| {
        let properties = payload::Properties {
            file_sha256: stated.file_sha256,
            file_size: stated.file_size,
            metadata_sha256: stated.metadata_sha256,
            metadata_size: stated.metadata_size,
        };
        let text = properties.to_text();
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        let mut lines: BTreeMap<_, _> = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        lines.extend(stated.others.clone());
        lines
    });
    for (title, lines) in [("metadata", inspection.metadata.as_ref()), ("properties", properties.as_ref())] {
        let Some(lines) = lines.filter(|lines| !lines.is_empty()) else { continue };
        let _ = writeln!(out, "\n{title}");
        for (key, value) in lines {
            // Control characters of a stranger's file are no business of a terminal.
            let shown: String = value.trim_end().chars().filter(|c| !c.is_control()).collect();
            let key: String = key.chars().filter(|c| !c.is_control()).collect();
            let _ = writeln!(out, "  {key}: {shown}");
        }
    }
    out
}

/// What a partition has besides its operations, in lines; none if it has nothing.
fn beside(partition: &PartitionView) -> String {
    let mut lines = Vec::new();
    for (kind, merges) in &partition.merge_operations {
        lines.push(format!("merge {kind}: {} steps, {} blocks", merges.count, merges.blocks));
    }
    if let Some(size) = partition.estimate_cow_size {
        let count = partition.estimate_op_count_max.map_or_else(String::new, |count| format!(", {count} operations"));
        lines.push(format!("snapshot: at most {}{count}", human(size)));
    }
    if let Some(tree) = partition.verity.as_ref().and_then(|verity| verity.hash_tree.as_ref()) {
        let (data, at) = (tree.data.blocks, tree.tree.start_block);
        let algorithm: String = tree.algorithm.chars().filter(|c| !c.is_control()).collect();
        lines.push(format!("hash tree: computed by the phone, {algorithm} over {data} blocks, at block {at}"));
    }
    if let Some(fec) = partition.verity.as_ref().and_then(|verity| verity.fec.as_ref()) {
        let (data, at, roots) = (fec.data.blocks, fec.fec.start_block, fec.roots);
        lines.push(format!("error correction: computed by the phone, {roots} roots over {data} blocks, at block {at}"));
    }
    if let Some(postinstall) = &partition.postinstall {
        let path: String = postinstall.path.chars().filter(|c| !c.is_control()).collect();
        let optional = if postinstall.optional { ", and may fail" } else { "" };
        lines.push(format!("postinstall: runs {path}{optional}"));
    }
    let mut out = String::new();
    if !lines.is_empty() {
        let _ = writeln!(out, "\n{}", partition.name);
        for line in lines {
            let _ = writeln!(out, "  {line}");
        }
    }
    out
}

/// What `ota verify --json` says of an A/B update.
#[derive(Debug, Serialize)]
struct Verified {
    package: String,
    bytes: ByteLen,
    /// Operations whose data are as the manifest says.
    operations: usize,
    /// Whether payload_properties.txt is right; none if there is none.
    properties: Option<bool>,
    /// Ids of the keys that signed; none if no keys were given.
    signed_by: Option<SignedBy>,
}

#[derive(Debug, Serialize)]
struct SignedBy {
    metadata: Sha256,
    payload: Sha256,
    /// None of a bare payload.
    whole_file: Option<Sha256>,
}

fn open_key(path: &Path) -> anyhow::Result<PublicKey> {
    use std::io::Read;

    let failed = |source| CliError::Read { path: path.into(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_KEY + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(PublicKey::parse(&bytes).map_err(|source| CliError::AbKey { path: path.into(), source })?)
}

fn stopped(error: SignatureError) -> anyhow::Error {
    match error {
        SignatureError::Stopped => CliError::Stopped.into(),
        error => error.into(),
    }
}

pub(crate) fn verify(session: &Session<'_>, args: &OtaVerify) -> anyhow::Result<Answer> {
    if args.threshold != 1 {
        return Err(CliError::OtherKind { option: "--threshold", kind: PackageKind::Native }.into());
    }
    let keys: Vec<_> = args.key.iter().chain(&args.cert).map(|path| open_key(path)).collect::<anyhow::Result<_>>()?;
    let update = Update::open(&args.package)?;
    let refused = || format!("{} is refused", args.package.display());
    let bars = update.bars(session);
    let content = update.content();
    let signed_by = if keys.is_empty() {
        None
    } else {
        Some(check_signatures(&update, &content, &keys, &bars).with_context(refused)?)
    };
    bars.step("checking the data", update.payload.blobs_len().get());
    let partitions = &update.payload.manifest().partitions;
    let all: Vec<_> = partitions.iter().flat_map(|p| (0..p.operations.len()).map(move |index| (p, index))).collect();
    all.par_iter()
        .try_for_each(|(partition, index)| -> anyhow::Result<()> {
            let bytes = check_data(&update.payload, &content, partition, *index)?;
            if bars.add(bytes).is_break() { Err(CliError::Stopped.into()) } else { Ok(()) }
        })
        .with_context(refused)?;
    let properties = update.properties().with_context(refused)?;
    if let Some(properties) = &properties {
        bars.step("checking the properties", update.payload.len().get());
        check_properties(&update, &content, properties, &bars).with_context(refused)?;
    }

    let mut text =
        format!("{}: the data of {} operations are as the manifest says\n", args.package.display(), all.len());
    if properties.is_some() {
        text.push_str("payload_properties.txt is right\n");
    }
    let mut notes = "";
    match &signed_by {
        Some(signed) => {
            let whole = if signed.whole_file.is_some() { ", payload and whole file" } else { " and payload" };
            let _ = writeln!(text, "metadata{whole} are signed by the keys given");
        }
        None => notes = "its signatures were not checked: give keys with --key or certificates with --cert\n",
    }
    let unhashed = partitions.iter().flat_map(|partition| &partition.operations);
    if unhashed.filter_map(|operation| operation.data).any(|data| data.sha256.is_none()) {
        session.warn("some operations have no SHA-256 of their data; phones with a release build refuse them");
    }
    let answer = Verified {
        package: args.package.display().to_string(),
        bytes: update.len(),
        operations: all.len(),
        properties: properties.map(|_| true),
        signed_by,
    };
    Ok(Answer::new(&answer).text(text).notes(notes))
}

fn check_signatures(
    update: &Update,
    content: &dyn ReadAt,
    keys: &[PublicKey],
    bars: &Bars<'_>,
) -> anyhow::Result<SignedBy> {
    bars.step("checking the signatures", update.payload.len().get() + update.zip().map_or(0, |_| update.len().get()));
    let metadata = update.payload.verify_metadata(keys)?.id();
    let payload = update.payload.verify(content, keys, |bytes| bars.add(bytes)).map_err(stopped)?.id();
    let whole_file = match update.zip() {
        Some(zip) => {
            let signature = zip.signature()?;
            Some(signature.verify(zip.file(), keys, |bytes| bars.add(bytes)).map_err(stopped)?.id())
        }
        None => None,
    };
    Ok(SignedBy { metadata, payload, whole_file })
}

fn check_properties(update: &Update, content: &dyn ReadAt, stated: &Properties, bars: &Bars<'_>) -> anyhow::Result<()> {
    let failed = |source| CliError::Read { path: update.path.clone(), source };
    let payload = &update.payload;
    let actual = hash(content, payload.len().get(), failed, |bytes| bars.add(bytes))?;
    let pairs = [
        ("FILE_SIZE", stated.file_size.to_string(), payload.len().to_string()),
        ("FILE_HASH", stated.file_sha256.to_string(), actual.to_string()),
        ("METADATA_SIZE", stated.metadata_size.to_string(), payload.metadata_len().to_string()),
        ("METADATA_HASH", stated.metadata_sha256.to_string(), payload.metadata_sha256().to_string()),
    ];
    for (key, stated, actual) in pairs {
        if stated != actual {
            return Err(CliError::Property { key, stated, actual }.into());
        }
    }
    Ok(())
}
