//! Makes what one operation writes, in bounded memory.

use std::io::{self, BufReader, BufWriter, Read, Write};

use relevo_types::{ByteLen, PartitionName, Sha256};
use sha2::Digest as _;

use super::{Data, Extent, Operation, OperationKind, Partition, Payload};
use crate::{
    ReadAt, Section,
    patch::{self, PatchError},
};

/// Bytes of a buffer; four fit into the caches of a core.
const BUFFER: usize = 1 << 18;
/// Memory that an xz decoder may take, in bytes: a dictionary of 64 MiB, the most that phones take, and its tables.
const XZ_MEMORY: u64 = 72 << 20;
/// Largest window of Zstandard, as a power of two: 64 MiB.
const ZSTD_WINDOW_LOG: u32 = 26;

/// Where the blocks of a partition go; each is written once, in any order and from any thread.
pub trait Sink: Sync {
    /// Writes `bytes` at `offset` of the partition.
    ///
    /// # Errors
    /// What writing answers.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Writes `len` zeros at `offset`; a sink that starts out as zeros need not do anything.
    ///
    /// # Errors
    /// What writing answers.
    fn zero_at(&self, offset: u64, len: u64) -> io::Result<()> {
        let zeros = vec![0; BUFFER];
        let mut done = 0;
        while done < len {
            let now = (len - done).min(BUFFER as u64);
            self.write_at(&zeros[..usize::try_from(now).expect("at most a buffer")], offset + done)?;
            done += now;
        }
        Ok(())
    }
}

/// Why an operation could not be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// Its patch is of a kind that we do not apply.
    #[error("operation {operation} of {partition} is {kind}, which this version does not apply")]
    Kind {
        /// Which partition.
        partition: PartitionName,
        /// Which operation.
        operation: usize,
        /// What it does.
        kind: OperationKind,
    },
    /// It reads the old image, and there is none.
    #[error("operation {operation} of {partition} is {kind}, which reads the old image; none was given")]
    NoSource {
        /// Which partition.
        partition: PartitionName,
        /// Which operation.
        operation: usize,
        /// What it does.
        kind: OperationKind,
    },
    /// Data or source are not what they have to be.
    #[error("the {what} of operation {operation} of {partition} has SHA-256 {actual}; expected {expected}")]
    Differs {
        /// Data or source.
        what: &'static str,
        /// Which partition.
        partition: PartitionName,
        /// Which operation.
        operation: usize,
        /// As promised.
        expected: Sha256,
        /// As it is.
        actual: Sha256,
    },
    /// The payload could not be read.
    #[error("could not read the data of operation {operation} of {partition}")]
    Data {
        /// Which partition.
        partition: PartitionName,
        /// Which operation.
        operation: usize,
        /// What reading answered.
        source: io::Error,
    },
    /// The old image could not be read.
    #[error("could not read what operation {operation} of {partition} starts from")]
    Source {
        /// Which partition.
        partition: PartitionName,
        /// Which operation.
        operation: usize,
        /// What reading answered.
        source: io::Error,
    },
    /// Stored data that do not decode.
    #[error("the {kind} of operation {operation} of {partition} could not be decoded")]
    Decode {
        /// Which partition.
        partition: PartitionName,
        /// Which operation.
        operation: usize,
        /// What it does.
        kind: OperationKind,
        /// What is wrong.
        source: io::Error,
    },
    /// A patch that does not apply.
    #[error("the {kind} of operation {operation} of {partition} could not be applied")]
    Patch {
        /// Which partition.
        partition: PartitionName,
        /// Which operation.
        operation: usize,
        /// What it does.
        kind: OperationKind,
        /// What is wrong.
        source: PatchError,
    },
    /// It makes another number of bytes.
    #[error("the {kind} of operation {operation} of {partition} makes {made}; expected {expected} bytes")]
    Length {
        /// Which partition.
        partition: PartitionName,
        /// Which operation.
        operation: usize,
        /// What it does.
        kind: OperationKind,
        /// How many it makes, in words: more than expected are not counted.
        made: String,
        /// As many as it has to write.
        expected: u64,
    },
    /// The new image could not be written.
    #[error("could not write what operation {operation} of {partition} makes")]
    Write {
        /// Which partition.
        partition: PartitionName,
        /// Which operation.
        operation: usize,
        /// What writing answered.
        source: io::Error,
    },
}

/// Whether [`apply_operation`] knows how.
pub fn is_applied(kind: OperationKind) -> bool {
    matches!(
        kind,
        OperationKind::Replace
            | OperationKind::ReplaceBz
            | OperationKind::ReplaceXz
            | OperationKind::ReplaceZstd
            | OperationKind::Zero
            | OperationKind::Discard
            | OperationKind::SourceCopy
            | OperationKind::SourceBsdiff
            | OperationKind::BrotliBsdiff
            | OperationKind::Puffdiff
            | OperationKind::Zucchini
            | OperationKind::Lz4diffBsdiff
            | OperationKind::Lz4diffPuffdiff
    )
}

/// Which operation it is, for errors.
#[derive(Clone, Copy)]
struct Place<'a> {
    partition: &'a PartitionName,
    operation: usize,
    kind: OperationKind,
}

impl Place<'_> {
    fn data(self, source: io::Error) -> ApplyError {
        ApplyError::Data { partition: self.partition.clone(), operation: self.operation, source }
    }

    fn source(self, source: io::Error) -> ApplyError {
        ApplyError::Source { partition: self.partition.clone(), operation: self.operation, source }
    }

    fn decode(self, source: io::Error) -> ApplyError {
        ApplyError::Decode { partition: self.partition.clone(), operation: self.operation, kind: self.kind, source }
    }

    fn write(self, source: io::Error) -> ApplyError {
        ApplyError::Write { partition: self.partition.clone(), operation: self.operation, source }
    }

    fn length(self, made: String, expected: u64) -> ApplyError {
        let (partition, operation, kind) = (self.partition.clone(), self.operation, self.kind);
        ApplyError::Length { partition, operation, kind, made, expected }
    }

    fn compare(self, what: &'static str, expected: Option<Sha256>, actual: Sha256) -> Result<(), ApplyError> {
        match expected {
            Some(expected) if expected != actual => {
                let (partition, operation) = (self.partition.clone(), self.operation);
                Err(ApplyError::Differs { what, partition, operation, expected, actual })
            }
            _ => Ok(()),
        }
    }
}

fn place(partition: &Partition, index: usize) -> (Place<'_>, &Operation) {
    let operation = &partition.operations[index];
    (Place { partition: &partition.name, operation: index, kind: operation.kind }, operation)
}

/// Checks an operation's data against its digest; gives the bytes that were read.
///
/// # Errors
/// [`ApplyError::Differs`], or [`ApplyError::Data`] if it cannot be read.
///
/// # Panics
/// If the partition has no operation `index`.
pub fn check_data(
    payload: &Payload,
    file: &dyn ReadAt,
    partition: &Partition,
    index: usize,
) -> Result<u64, ApplyError> {
    let (place, operation) = place(partition, index);
    let Some(data) = operation.data else { return Ok(0) };
    hash_data(place, Blobs::of(payload, file), &data)?;
    Ok(data.len)
}

/// Where blobs are.
#[derive(Clone, Copy)]
struct Blobs<'a> {
    file: &'a dyn ReadAt,
    /// The first one's first byte.
    offset: u64,
}

impl<'a> Blobs<'a> {
    fn of(payload: &Payload, file: &'a dyn ReadAt) -> Self {
        Self { file, offset: payload.blobs_offset().get() }
    }
}

/// The data's stored bytes.
fn section<'a>(blobs: Blobs<'a>, data: &Data) -> io::Result<Section<&'a dyn ReadAt>> {
    // `Payload::read` has seen that all blobs are inside the file it was given.
    Section::new(blobs.file, blobs.offset.saturating_add(data.offset), data.len)
}

fn hash_data(place: Place<'_>, blobs: Blobs<'_>, data: &Data) -> Result<(), ApplyError> {
    if data.sha256.is_none() {
        return Ok(());
    }
    let mut section = section(blobs, data).map_err(|error| place.data(error))?;
    let actual = hash(&mut section).map_err(|error| place.data(error))?;
    place.compare("data", data.sha256, actual)
}

/// Writes what operation `index` of a partition makes to `sink`.
///
/// `file` is the payload, `source` the partition's old image. Data and source are checked against their digests
/// before the first byte is written. Memory stays under 80 MiB for what is not a patch, however large it is; a patch takes
/// its own size, 256 MiB at most, and what [`patch::Limits`] allows; a zucchini patch up to 1 GiB.
///
/// # Errors
/// [`ApplyError`]; what was written to `sink` by then is of no use.
///
/// # Panics
/// If the partition has no operation `index`.
pub fn apply_operation(
    payload: &Payload,
    file: &dyn ReadAt,
    partition: &Partition,
    index: usize,
    source: Option<&dyn ReadAt>,
    sink: &dyn Sink,
) -> Result<(), ApplyError> {
    apply(Blobs::of(payload, file), partition, index, source, sink)
}

/// As [`apply_operation`], where the blobs are in no payload yet: `blobs` starts with the first of them.
///
/// # Errors
/// [`ApplyError`]; what was written to `sink` by then is of no use.
///
/// # Panics
/// If the partition has no operation `index`.
pub fn apply_unpacked(
    blobs: &dyn ReadAt,
    partition: &Partition,
    index: usize,
    source: Option<&dyn ReadAt>,
    sink: &dyn Sink,
) -> Result<(), ApplyError> {
    apply(Blobs { file: blobs, offset: 0 }, partition, index, source, sink)
}

fn apply(
    blobs: Blobs<'_>,
    partition: &Partition,
    index: usize,
    source: Option<&dyn ReadAt>,
    sink: &dyn Sink,
) -> Result<(), ApplyError> {
    let (place, operation) = place(partition, index);
    let kind = operation.kind;
    if !is_applied(kind) {
        return Err(ApplyError::Kind { partition: partition.name.clone(), operation: index, kind });
    }
    let old = || {
        let none = || ApplyError::NoSource { partition: partition.name.clone(), operation: index, kind };
        let old = Extents { image: source.ok_or_else(none)?, extents: &operation.source };
        if let Some(expected) = operation.source_sha256 {
            let actual = hash(&mut old.reader()).map_err(|error| place.source(error))?;
            place.compare("source", Some(expected), actual)?;
        }
        Ok(old)
    };
    match operation.data {
        Some(data) => {
            hash_data(place, blobs, &data)?;
            let stored = section(blobs, &data).map_err(|error| place.data(error))?;
            if kind.reads_source() {
                patch(place, &old()?, stored, operation, sink)
            } else {
                replace(place, stored, operation, sink)
            }
        }
        None if kind == OperationKind::SourceCopy => {
            write_all(place, &mut old()?.reader(), operation, sink, |error| place.source(error))
        }
        None => operation
            .target
            .iter()
            .try_for_each(|extent| sink.zero_at(extent.offset(), extent.len()))
            .map_err(|error| place.write(error)),
    }
}

fn hash(reader: &mut dyn Read) -> io::Result<Sha256> {
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(Sha256::new(hasher.finalize().into())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// The bytes of extents, one after the other, as if they were a file.
struct Extents<'a> {
    image: &'a dyn ReadAt,
    extents: &'a [Extent],
}

impl<'a> Extents<'a> {
    fn reader(&self) -> impl Read + 'a {
        let Self { image, extents } = *self;
        ExtentReader { image, extents, done: 0 }
    }
}

impl ReadAt for Extents<'_> {
    fn len(&self) -> ByteLen {
        ByteLen::new(self.extents.iter().map(Extent::len).sum())
    }

    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        // Operations have few extents, so they are gone through from the first one.
        for extent in self.extents {
            if buf.is_empty() {
                return Ok(());
            }
            if offset >= extent.len() {
                offset -= extent.len();
                continue;
            }
            let len = usize::try_from(extent.len() - offset).unwrap_or(usize::MAX).min(buf.len());
            let (now, rest) = buf.split_at_mut(len);
            self.image.read_exact_at(now, extent.offset() + offset)?;
            (buf, offset) = (rest, 0);
        }
        if buf.is_empty() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// Reads the bytes of extents one after the other.
struct ExtentReader<'a> {
    image: &'a dyn ReadAt,
    extents: &'a [Extent],
    /// Bytes of the first extent that were read.
    done: u64,
}

impl Read for ExtentReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some((first, rest)) = self.extents.split_first() else { return Ok(0) };
        let len = usize::try_from(first.len() - self.done).unwrap_or(usize::MAX).min(buf.len());
        self.image.read_exact_at(&mut buf[..len], first.offset() + self.done)?;
        self.done += len as u64;
        if self.done == first.len() {
            (self.extents, self.done) = (rest, 0);
        }
        Ok(len)
    }
}

/// Writes what it is given to an operation's target, in order.
struct Target<'a> {
    sink: &'a dyn Sink,
    extents: &'a [Extent],
    /// Bytes of the first extent that were written.
    done: u64,
    written: u64,
}

impl Write for Target<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // 0 once all is full, which `write_all` makes an error of.
        let Some((first, rest)) = self.extents.split_first() else { return Ok(0) };
        let len = usize::try_from(first.len() - self.done).unwrap_or(usize::MAX).min(bytes.len());
        self.sink.write_at(&bytes[..len], first.offset() + self.done)?;
        self.done += len as u64;
        self.written += len as u64;
        if self.done == first.len() {
            (self.extents, self.done) = (rest, 0);
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn patch(
    place: Place<'_>,
    old: &Extents<'_>,
    mut stored: Section<&dyn ReadAt>,
    operation: &Operation,
    sink: &dyn Sink,
) -> Result<(), ApplyError> {
    let expected = operation.target_len();
    // The patch is in the file, so it is no longer than that; but it is held in memory.
    let limit = ByteLen::mib(256);
    if stored.left() > limit.get() {
        return Err(place.length(format!("a patch of {} bytes, over the limit of {limit}", stored.left()), expected));
    }
    let mut bytes = Vec::new();
    stored.read_to_end(&mut bytes).map_err(|error| place.data(error))?;
    let mut limits = patch::Limits { output: ByteLen::new(expected), ..Default::default() };
    if place.kind == OperationKind::Zucchini {
        // Old and new bytes are in memory too, each up to the 150 MiB that AOSP's generator makes one patch of.
        limits.memory = ByteLen::mib(1024);
    }
    let mut out = BufWriter::with_capacity(BUFFER, Target { sink, extents: &operation.target, done: 0, written: 0 });
    let apply = match place.kind {
        OperationKind::Puffdiff => patch::puffin::apply,
        OperationKind::Zucchini => patch::zucchini::apply,
        OperationKind::Lz4diffBsdiff | OperationKind::Lz4diffPuffdiff => patch::lz4diff::apply,
        _ => patch::bsdiff::apply,
    };
    apply(old, &bytes, &mut out, &limits).map_err(|source| {
        let (partition, operation, kind) = (place.partition.clone(), place.operation, place.kind);
        ApplyError::Patch { partition, operation, kind, source }
    })?;
    let target = out.into_inner().map_err(|error| place.write(error.into_error()))?;
    match target.written {
        written if written == expected => Ok(()),
        written => Err(place.length(format!("{written} bytes"), expected)),
    }
}

fn replace(
    place: Place<'_>,
    stored: Section<&dyn ReadAt>,
    operation: &Operation,
    sink: &dyn Sink,
) -> Result<(), ApplyError> {
    let decode = |error| place.decode(error);
    let mut stored = BufReader::with_capacity(BUFFER, stored);
    match operation.kind {
        OperationKind::ReplaceBz => {
            let mut decoder = bzip2::bufread::BzDecoder::new(&mut stored);
            write_all(place, &mut decoder, operation, sink, decode)?;
        }
        OperationKind::ReplaceXz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, 0);
            let stream = stream.map_err(|error| decode(io::Error::other(error)))?;
            let mut decoder = liblzma::bufread::XzDecoder::new_stream(&mut stored, stream);
            write_all(place, &mut decoder, operation, sink, decode)?;
        }
        OperationKind::ReplaceZstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(&mut stored).map_err(decode)?.single_frame();
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(decode)?;
            write_all(place, &mut decoder, operation, sink, decode)?;
        }
        _ => write_all(place, &mut stored, operation, sink, decode)?,
    }
    let mut rest = [0];
    match stored.read(&mut rest).map_err(|error| place.data(error))? {
        0 => Ok(()),
        _ => Err(decode(io::Error::new(io::ErrorKind::InvalidData, "bytes follow the end of the stream"))),
    }
}

/// Writes a reader's bytes to the operation's target, which they have to fill exactly.
fn write_all(
    place: Place<'_>,
    reader: &mut dyn Read,
    operation: &Operation,
    sink: &dyn Sink,
    failed: impl Fn(io::Error) -> ApplyError,
) -> Result<(), ApplyError> {
    let expected = operation.target_len();
    let mut buffer = vec![0; BUFFER];
    let mut written = 0;
    for extent in &operation.target {
        let mut done = 0;
        while done < extent.len() {
            let most = usize::try_from(extent.len() - done).unwrap_or(BUFFER).min(BUFFER);
            let mut filled = 0;
            while filled < most {
                match reader.read(&mut buffer[filled..most]) {
                    Ok(0) => return Err(place.length(format!("{} bytes", written + filled as u64), expected)),
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(failed(error)),
                }
            }
            sink.write_at(&buffer[..filled], extent.offset() + done).map_err(|error| place.write(error))?;
            done += filled as u64;
            written += filled as u64;
        }
    }
    // The end is read too: a stream's own checksum stands there, and a bomb goes on.
    loop {
        match reader.read(&mut buffer[..1]) {
            Ok(0) => return Ok(()),
            Ok(_) => return Err(place.length("more bytes".to_owned(), expected)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
}
