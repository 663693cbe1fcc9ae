//! The manifest: what a package needs, what it makes, and where its streams lie.

use std::collections::BTreeMap;

use relevo_types::{BuildId, ByteLen, Codename, PartitionName, Sha256};

use super::{
    feature::{self, BaseKind, Codec, Engine, Role},
    front::{Limits, PackageError},
};
use crate::{ops, varint};

/// What a package needs and makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// For which device and builds, and at what cost.
    pub info: Info,
    /// Images that must be there, unchanged; none for a full package.
    pub bases: Vec<Base>,
    /// The partitions that the package makes, in the order of their streams.
    pub partitions: Vec<Partition>,
    /// Partitions of the source build that the target build does not have.
    pub removed: Vec<PartitionName>,
}

/// For which device and builds a package is; empty where a package was made outside of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Info {
    /// The only device that may install it.
    pub device: Option<Codename>,
    /// The build that it starts from; none for a full package.
    pub from: Option<BuildId>,
    /// The build that it makes.
    pub to: Option<BuildId>,
    /// Date of the target build in seconds since 1970.
    pub timestamp: Option<u64>,
    /// Memory that applying any one piece takes, in bytes, beside this manifest.
    pub memory: ByteLen,
}

/// An image that pieces copy from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// What it is.
    pub kind: BaseKind,
    /// Which partition.
    pub partition: PartitionName,
    /// Its size in bytes.
    pub size: ByteLen,
    /// Its digest; applying refuses any other image before writing anything.
    pub sha256: Sha256,
}

/// A partition that the package makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its name.
    pub name: PartitionName,
    /// Its size in bytes.
    pub size: ByteLen,
    /// Its digest.
    pub sha256: Sha256,
    /// Its pieces: contiguous, in order, covering it exactly.
    pub pieces: Vec<Piece>,
}

/// A run of bytes of a partition, made on its own: the unit of work, of checking and of resuming.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// First byte in the partition.
    pub start: u64,
    /// Number of bytes; never 0.
    pub len: u64,
    /// Digest of those bytes.
    pub sha256: Sha256,
    /// How the streams make them.
    pub engine: Engine,
    /// Indices into [`Manifest::bases`]; operations refer to this list.
    pub bases: Vec<u32>,
    /// Its streams, in the order in which they lie in the body.
    pub streams: Vec<Stream>,
}

/// Bytes of the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// What it is to the engine.
    pub role: Role,
    /// How it is stored.
    pub codec: Codec,
    /// First byte, counted from the start of the body.
    pub offset: u64,
    /// Bytes in the body.
    pub stored_len: u64,
    /// Bytes after decoding.
    pub raw_len: u64,
    /// Base-2 logarithm of the window that decoding needs, in bytes; 0 for [`Codec::Store`].
    pub window_log: u32,
    /// Digest of the stored bytes.
    pub sha256: Sha256,
}

impl Stream {
    /// Memory that decoding takes in bytes: the window, and what libzstd keeps beside it.
    pub fn memory(&self) -> u64 {
        match self.codec {
            Codec::Store => 0,
            // Measured with libzstd 1.5: a streaming decoder holds the window, two blocks of up to 128 KiB and about
            // 160 KiB of tables.
            Codec::Zstd => (1_u64 << self.window_log.min(63)).saturating_add(ZSTD_OVERHEAD),
        }
    }
}

/// What a zstd decoder holds beside its window, in bytes.
const ZSTD_OVERHEAD: u64 = 512 << 10;
/// Buffers of applying a piece, in bytes: output, diff and source windows.
pub(crate) const APPLY_BUFFERS: u64 = 1 << 20;
/// The largest window that any reader can decode with, as libzstd sees it.
const MAX_WINDOW_LOG: u64 = 31;
/// The smallest window that a zstd frame can have.
const MIN_WINDOW_LOG: u64 = 10;
/// Longest name of a feature and longest key of an info entry, in bytes.
const MAX_NAME: usize = 64;
/// Fewest bytes that an entry of each list takes: what a count may claim is never more than what is there.
const MIN_INFO: usize = 2;
const MIN_BASE: usize = 1 + 2 + 1 + 32;
const MIN_PARTITION: usize = 2 + 1 + 32 + 1;
const MIN_PIECE: usize = 1 + 32 + 1 + 1 + 1 + 1;
const MIN_STREAM: usize = 5 + 32;
const MIN_REMOVED: usize = 2;

const FEATURES: &[u8; 4] = b"FEAT";
const INFO: &[u8; 4] = b"INFO";
const BASES: &[u8; 4] = b"BASE";
const PARTITIONS: &[u8; 4] = b"PART";
const REMOVED: &[u8; 4] = b"GONE";
const SECTIONS: [&[u8; 4]; 5] = [FEATURES, INFO, BASES, PARTITIONS, REMOVED];

impl Manifest {
    /// The memory that applying takes in bytes: that of the piece that needs most.
    pub fn memory(&self) -> ByteLen {
        let piece = |piece: &Piece| piece.streams.iter().fold(0_u64, |sum, stream| sum.saturating_add(stream.memory()));
        let most = self.partitions.iter().flat_map(|p| &p.pieces).map(piece).max().unwrap_or(0);
        ByteLen::new(most.saturating_add(APPLY_BUFFERS))
    }

    /// Bytes of the body.
    pub fn body_len(&self) -> u64 {
        self.streams().map(|stream| stream.stored_len).fold(0, u64::saturating_add)
    }

    /// All streams in the order of the body.
    pub fn streams(&self) -> impl Iterator<Item = &Stream> {
        self.partitions.iter().flat_map(|partition| &partition.pieces).flat_map(|piece| &piece.streams)
    }

    /// Bytes of all partitions that the package makes.
    pub fn target_len(&self) -> ByteLen {
        ByteLen::new(self.partitions.iter().map(|partition| partition.size.get()).fold(0, u64::saturating_add))
    }

    /// The manifest as bytes; equal manifests give equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut names = BTreeMap::new();
        for base in &self.bases {
            names.insert(base.kind.name(), 0);
        }
        for piece in self.partitions.iter().flat_map(|partition| &partition.pieces) {
            names.insert(piece.engine.name(), 0);
            for stream in &piece.streams {
                names.insert(stream.role.name(), 0);
                names.insert(stream.codec.name(), 0);
            }
        }
        names.values_mut().zip(0..).for_each(|(index, number)| *index = number);

        let mut out = Vec::new();
        section(&mut out, FEATURES, |out| {
            varint::put(out, names.len() as u64);
            names.keys().for_each(|name| put_bytes(out, name.as_bytes()));
        });
        section(&mut out, INFO, |out| self.info.encode(out));
        section(&mut out, BASES, |out| {
            varint::put(out, self.bases.len() as u64);
            for base in &self.bases {
                varint::put(out, names[base.kind.name()]);
                put_bytes(out, base.partition.as_str().as_bytes());
                varint::put(out, base.size.get());
                out.extend_from_slice(base.sha256.as_bytes());
            }
        });
        section(&mut out, PARTITIONS, |out| {
            varint::put(out, self.partitions.len() as u64);
            self.partitions.iter().for_each(|partition| partition.encode(out, &names));
        });
        section(&mut out, REMOVED, |out| {
            varint::put(out, self.removed.len() as u64);
            self.removed.iter().for_each(|name| put_bytes(out, name.as_str().as_bytes()));
        });
        out
    }

    /// Parses what [`Manifest::encode`] writes.
    ///
    /// # Errors
    /// - [`PackageError::UnknownFeatures`] naming every feature that this version does not know.
    /// - [`PackageError::UnknownSection`], [`PackageError::UnknownInfo`] for other things that it does not know.
    /// - [`PackageError::Manifest`] for what no writer makes: lengths beyond the end, pieces that do not cover their
    ///   partition, indices out of range.
    /// - [`PackageError::Limit`] for more of anything than `limits` allows.
    pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Self, PackageError> {
        let mut rest = Input { bytes };
        let mut take = |wanted: &[u8; 4]| -> Result<Input<'_>, PackageError> {
            loop {
                let (tag, content) = rest.section()?;
                if &tag == wanted {
                    return Ok(content);
                }
                pass_over(tag)?;
            }
        };

        let features = decode_features(&mut take(FEATURES)?)?;
        let info = Info::decode(&mut take(INFO)?)?;
        let bases = decode_bases(&mut take(BASES)?, &features, limits)?;
        let partitions = decode_partitions(&mut take(PARTITIONS)?, &features, &bases, limits)?;
        let mut gone = take(REMOVED)?;
        let mut removed: Vec<PartitionName> = Vec::new();
        for _ in 0..gone.count("removed partitions", limits.partitions, MIN_REMOVED)? {
            let name = gone.name()?;
            if removed.contains(&name) || partitions.iter().any(|partition| partition.name == name) {
                return Err(PackageError::Manifest("a partition is removed twice, or made as well as removed"));
            }
            removed.push(name);
        }
        gone.end()?;
        while !rest.bytes.is_empty() {
            pass_over(rest.section()?.0)?;
        }

        let manifest = Self { info, bases, partitions, removed };
        if manifest.memory() > manifest.info.memory {
            return Err(PackageError::Manifest("the pieces need more memory than the manifest declares"));
        }
        if manifest.info.memory > limits.memory {
            return Err(PackageError::Memory { needed: manifest.info.memory, limit: limits.memory });
        }
        Ok(manifest)
    }
}

impl Info {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut entries: Vec<(&str, Vec<u8>)> = Vec::new();
        if let Some(device) = &self.device {
            entries.push(("device", device.as_str().into()));
        }
        if let Some(from) = &self.from {
            entries.push(("from", from.as_str().into()));
        }
        let number = |value: u64| {
            let mut bytes = Vec::new();
            varint::put(&mut bytes, value);
            bytes
        };
        entries.push(("memory", number(self.memory.get())));
        if let Some(timestamp) = self.timestamp {
            entries.push(("timestamp", number(timestamp)));
        }
        if let Some(to) = &self.to {
            entries.push(("to", to.as_str().into()));
        }
        varint::put(out, entries.len() as u64);
        for (key, value) in entries {
            put_bytes(out, key.as_bytes());
            put_bytes(out, &value);
        }
    }

    fn decode(input: &mut Input<'_>) -> Result<Self, PackageError> {
        let mut info = Self::default();
        let mut last: Option<&[u8]> = None;
        for _ in 0..input.count("info entries", 64, MIN_INFO)? {
            let key = input.bytes()?;
            // Before anything that would print it.
            if key.len() > MAX_NAME {
                return Err(PackageError::Manifest("the key of an info entry is too long"));
            }
            if last.is_some_and(|last| last >= key) {
                return Err(PackageError::Manifest("the info entries are not in order"));
            }
            last = Some(key);
            let value = input.bytes()?;
            let number = || -> Result<u64, PackageError> {
                let mut input = Input { bytes: value };
                let number = input.number()?;
                input.end()?;
                Ok(number)
            };
            match key {
                b"device" => info.device = Some(text(value, Codename::parse)?),
                b"from" => info.from = Some(text(value, BuildId::parse)?),
                b"to" => info.to = Some(text(value, BuildId::parse)?),
                b"memory" => info.memory = ByteLen::new(number()?),
                b"timestamp" => info.timestamp = Some(number()?),
                key if key.starts_with(b"x-") => {}
                key => return Err(PackageError::UnknownInfo { key: key.escape_ascii().to_string() }),
            }
        }
        input.end()?;
        Ok(info)
    }
}

impl Partition {
    fn encode(&self, out: &mut Vec<u8>, names: &BTreeMap<&str, u64>) {
        put_bytes(out, self.name.as_str().as_bytes());
        varint::put(out, self.size.get());
        out.extend_from_slice(self.sha256.as_bytes());
        varint::put(out, self.pieces.len() as u64);
        for piece in &self.pieces {
            varint::put(out, piece.len);
            out.extend_from_slice(piece.sha256.as_bytes());
            varint::put(out, names[piece.engine.name()]);
            varint::put(out, piece.bases.len() as u64);
            piece.bases.iter().for_each(|&base| varint::put(out, u64::from(base)));
            // Number of transforms: none is defined yet, and each will be a feature with parameters.
            varint::put(out, 0);
            varint::put(out, piece.streams.len() as u64);
            for stream in &piece.streams {
                varint::put(out, names[stream.role.name()]);
                varint::put(out, names[stream.codec.name()]);
                varint::put(out, u64::from(stream.window_log));
                varint::put(out, stream.stored_len);
                varint::put(out, stream.raw_len);
                out.extend_from_slice(stream.sha256.as_bytes());
            }
        }
    }
}

fn decode_features<'a>(input: &mut Input<'a>) -> Result<Vec<&'a str>, PackageError> {
    let mut features: Vec<&str> = Vec::new();
    for _ in 0..input.count("features", 256, 1)? {
        let name = input.bytes()?;
        let printable = (1..=MAX_NAME).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic);
        let name = std::str::from_utf8(name).ok().filter(|_| printable);
        let name = name.ok_or(PackageError::Manifest("a feature's name is no short ASCII word"))?;
        if features.last().is_some_and(|&last| last >= name) {
            return Err(PackageError::Manifest("the features are not in order"));
        }
        features.push(name);
    }
    input.end()?;
    let unknown: Vec<_> = features.iter().filter(|name| !feature::is_known(name)).map(|&name| name.into()).collect();
    if unknown.is_empty() { Ok(features) } else { Err(PackageError::UnknownFeatures { names: unknown }) }
}

fn decode_bases(input: &mut Input<'_>, features: &[&str], limits: &Limits) -> Result<Vec<Base>, PackageError> {
    let mut bases: Vec<Base> = Vec::new();
    for _ in 0..input.count("bases", limits.partitions, MIN_BASE)? {
        let base = Base {
            kind: input.feature(features, BaseKind::from_name)?,
            partition: input.name()?,
            size: input.size(limits)?,
            sha256: Sha256::new(input.array()?),
        };
        if bases.iter().any(|other| other.kind == base.kind && other.partition == base.partition) {
            return Err(PackageError::Manifest("a base is named twice"));
        }
        bases.push(base);
    }
    input.end()?;
    Ok(bases)
}

fn decode_partitions(
    input: &mut Input<'_>,
    features: &[&str],
    bases: &[Base],
    limits: &Limits,
) -> Result<Vec<Partition>, PackageError> {
    let mut partitions: Vec<Partition> = Vec::new();
    let mut offset = 0_u64;
    for _ in 0..input.count("partitions", limits.partitions, MIN_PARTITION)? {
        let name = input.name()?;
        if partitions.iter().any(|other| other.name == name) {
            return Err(PackageError::Manifest("a partition is named twice"));
        }
        let size = input.size(limits)?;
        let sha256 = Sha256::new(input.array()?);
        let count = input.count("pieces", limits.pieces, MIN_PIECE)?;
        let mut pieces = Vec::with_capacity(count);
        let mut start = 0_u64;
        for _ in 0..count {
            let piece = decode_piece(input, features, bases, start, &mut offset)?;
            start = start.checked_add(piece.len).ok_or(PackageError::Manifest("a partition is over 2^64 bytes"))?;
            pieces.push(piece);
        }
        if start != size.get() {
            return Err(PackageError::Manifest("the pieces do not cover their partition"));
        }
        partitions.push(Partition { name, size, sha256, pieces });
    }
    input.end()?;
    Ok(partitions)
}

fn decode_piece(
    input: &mut Input<'_>,
    features: &[&str],
    bases: &[Base],
    start: u64,
    offset: &mut u64,
) -> Result<Piece, PackageError> {
    let len = input.number()?;
    if len == 0 {
        return Err(PackageError::Manifest("a piece of length 0"));
    }
    let sha256 = Sha256::new(input.array()?);
    let engine = input.feature(features, Engine::from_name)?;
    let count = input.count("bases of a piece", bases.len(), 1)?;
    let mut own = Vec::with_capacity(count);
    for _ in 0..count {
        let index = input.number()?;
        let index = u32::try_from(index).ok().filter(|&index| (index as usize) < bases.len());
        own.push(index.ok_or(PackageError::Manifest("a piece names a base that does not exist"))?);
    }
    if input.count("transforms of a piece", 16, 1)? > 0 {
        // Cannot happen with a table of known features: no transform is known. Left for the reader of the error.
        return Err(PackageError::Manifest("a piece has a transform, but no transform is defined"));
    }
    let count = input.count("streams of a piece", 16, MIN_STREAM)?;
    let mut streams: Vec<Stream> = Vec::with_capacity(count);
    for _ in 0..count {
        let role = input.feature(features, Role::from_name)?;
        let codec = input.feature(features, Codec::from_name)?;
        let window_log = input.number()?;
        let stored_len = input.number()?;
        let raw_len = input.number()?;
        let sha256 = Sha256::new(input.array()?);
        let fits = match codec {
            Codec::Store => window_log == 0 && stored_len == raw_len,
            Codec::Zstd => (MIN_WINDOW_LOG..=MAX_WINDOW_LOG).contains(&window_log),
        };
        if !fits || streams.iter().any(|other| other.role == role) {
            return Err(PackageError::Manifest(
                "a stream's window or length does not fit its codec, or it comes twice",
            ));
        }
        let window_log = u32::try_from(window_log).map_err(|_| PackageError::Manifest("a window is too large"))?;
        streams.push(Stream { role, codec, offset: *offset, stored_len, raw_len, window_log, sha256 });
        *offset = offset.checked_add(stored_len).ok_or(PackageError::Manifest("the body is over 2^64 bytes"))?;
    }
    match engine {
        Engine::Bsdiff => check_bsdiff(len, &streams)?,
    }
    Ok(Piece { start, len, sha256, engine, bases: own, streams })
}

/// Refuses streams that hold more than a piece of `len` bytes can use: decoding them would be work for nothing.
fn check_bsdiff(len: u64, streams: &[Stream]) -> Result<(), PackageError> {
    let raw_len = |role| streams.iter().find(|stream| stream.role == role).map_or(0, |stream| stream.raw_len);
    let content = raw_len(Role::Diff).saturating_add(raw_len(Role::Extra));
    if content > len || raw_len(Role::Ops) > len.saturating_mul(ops::MAX_ENCODED) {
        return Err(PackageError::Manifest("a stream holds more than its piece can use"));
    }
    Ok(())
}

/// Refuses a section that was not asked for, unless it may be passed over.
fn pass_over(tag: [u8; 4]) -> Result<(), PackageError> {
    // A lower-case first letter marks a section that may be passed over, as in PNG.
    if tag[0].is_ascii_lowercase() {
        return Ok(());
    }
    if SECTIONS.contains(&&tag) {
        return Err(PackageError::Manifest("a section is missing, comes twice or stands in the wrong place"));
    }
    Err(PackageError::UnknownSection { tag: tag.escape_ascii().to_string() })
}

fn section(out: &mut Vec<u8>, tag: &[u8; 4], write: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let len = u32::try_from(out.len() - at - 4).expect("a section is far below 4 GiB");
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    varint::put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn text<T>(bytes: &[u8], parse: impl FnOnce(&str) -> Result<T, relevo_types::NameError>) -> Result<T, PackageError> {
    let text = std::str::from_utf8(bytes).map_err(|_| PackageError::Manifest("a name is not UTF-8"))?;
    parse(text).map_err(PackageError::Name)
}

/// Bytes of the manifest that are still to be read.
struct Input<'a> {
    bytes: &'a [u8],
}

const ENDS_EARLY: PackageError = PackageError::Manifest("something in it reaches past its end");

impl<'a> Input<'a> {
    fn section(&mut self) -> Result<([u8; 4], Self), PackageError> {
        let tag = self.array()?;
        let len = u32::from_le_bytes(self.array()?);
        Ok((tag, Input { bytes: self.take(u64::from(len))? }))
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], PackageError> {
        let len = usize::try_from(len).ok().filter(|&len| len <= self.bytes.len()).ok_or(ENDS_EARLY)?;
        let (taken, rest) = self.bytes.split_at(len);
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PackageError> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(ENDS_EARLY)?;
        self.bytes = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<u64, PackageError> {
        match varint::read(&mut self.bytes) {
            Ok(Some(value)) => Ok(value),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Err(PackageError::Manifest("a number is over 64 bits or longer than need be"))
            }
            _ => Err(ENDS_EARLY),
        }
    }

    /// A number of things, each of which takes at least `each` bytes: never more than the bytes left can hold.
    fn count(&mut self, what: &'static str, limit: usize, each: usize) -> Result<usize, PackageError> {
        let found = self.number()?;
        let limited = usize::try_from(found).ok().filter(|&count| count <= limit);
        let count = limited.ok_or(PackageError::Limit { what, found, limit: limit as u64 })?;
        if count > self.bytes.len() / each { Err(ENDS_EARLY) } else { Ok(count) }
    }

    fn bytes(&mut self) -> Result<&'a [u8], PackageError> {
        let len = self.number()?;
        self.take(len)
    }

    fn name(&mut self) -> Result<PartitionName, PackageError> {
        text(self.bytes()?, PartitionName::parse)
    }

    fn size(&mut self, limits: &Limits) -> Result<ByteLen, PackageError> {
        let size = self.number()?;
        if size > limits.partition_size.get() {
            let limit = limits.partition_size.get();
            return Err(PackageError::Limit { what: "bytes of a partition", found: size, limit });
        }
        Ok(ByteLen::new(size))
    }

    fn feature<T>(&mut self, names: &[&str], parse: impl Fn(&str) -> Option<T>) -> Result<T, PackageError> {
        let index = self.number()?;
        let name = usize::try_from(index).ok().and_then(|index| names.get(index));
        let name = name.ok_or(PackageError::Manifest("a feature's index is beyond the table"))?;
        parse(name).ok_or(PackageError::Manifest("a feature stands where one of another kind belongs"))
    }

    fn end(&self) -> Result<(), PackageError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(PackageError::Manifest("a section is longer than its content")) }
    }
}
