//! Makes one piece of a partition out of a checked source and a package.
//!
//! Memory is bounded by what the manifest declares: the windows of the piece's decoders and a few fixed buffers. The
//! order of the checks is the point of this module: every base is hashed before the first byte is written
//! ([`check_source`] is the only way to a [`VerifiedSource`]), each stream's stored bytes are hashed before they are
//! decoded, and the target's hash decides whether a piece was made.

use std::{
    io::{self, BufReader, Read, Write},
    ops::ControlFlow,
};

use relevo_types::{ByteLen, PartitionName, Sha256};
use sha2::Digest;

use crate::{
    ReadAt, Section,
    ops::{Decoder, Op, OpsError},
    package::{Base, Codec, Engine, Front, Manifest, PackageError, Piece, Role, Stream},
};

/// Size of the buffers for output, differences and hashing, in bytes.
const BUFFER: usize = 64 << 10;
/// Bytes of a base that are read at a time where copies go forward; small ones close to each other share one read.
const SOURCE_WINDOW: usize = 64 << 10;
/// Bytes that are read at a time where they jump about: a read of the whole window for a byte or two of each of
/// millions of operations would take hours.
const SOURCE_JUMP: usize = 4 << 10;

/// Why a piece could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// A base is not the image that the package was made from.
    #[error("partition {partition} of the source has SHA-256 {actual}; the package starts from {expected}")]
    SourceDiffers {
        /// Which partition.
        partition: PartitionName,
        /// What the manifest names.
        expected: Sha256,
        /// What is there.
        actual: Sha256,
    },
    /// A base is of another size.
    #[error("partition {partition} of the source is {actual} long; the package starts from {expected}")]
    SourceLength {
        /// Which partition.
        partition: PartitionName,
        /// What the manifest names.
        expected: ByteLen,
        /// What is there.
        actual: ByteLen,
    },
    /// A base could not be read.
    #[error("could not read partition {partition} of the source")]
    Source {
        /// Which partition.
        partition: PartitionName,
        /// What reading answered.
        source: io::Error,
    },
    /// The caller stopped the work.
    #[error("stopped")]
    Stopped,
    /// The source was checked for a package with other bases.
    #[error("the source was checked against another package")]
    OtherSource,
    /// There is no such partition or piece.
    #[error("the package has no piece {piece} of partition number {partition}")]
    NoSuchPiece {
        /// Index of the partition.
        partition: usize,
        /// Index of the piece.
        piece: usize,
    },
    /// The stored bytes of a stream are not those that the manifest vouches for.
    #[error("{} of {piece} has SHA-256 {actual}, expected {expected}", .role.name())]
    StreamDiffers {
        /// Which piece.
        piece: PieceName,
        /// Which stream.
        role: Role,
        /// What the manifest names.
        expected: Sha256,
        /// What is there.
        actual: Sha256,
    },
    /// A stream could not be read or decoded.
    #[error("could not decode {} of {piece}", .role.name())]
    Stream {
        /// Which piece.
        piece: PieceName,
        /// Which stream.
        role: Role,
        /// What decoding answered.
        source: io::Error,
    },
    /// A stream that an operation needs is missing.
    #[error("{piece} has no {}", .role.name())]
    NoStream {
        /// Which piece.
        piece: PieceName,
        /// Which stream.
        role: Role,
    },
    /// A stream is longer than its operations use.
    #[error("{} of {piece} has bytes left over", .role.name())]
    StreamLeft {
        /// Which piece.
        piece: PieceName,
        /// Which stream.
        role: Role,
    },
    /// The operations are damaged.
    #[error("the operations of {piece} are damaged")]
    Operations {
        /// Which piece.
        piece: PieceName,
        /// What is wrong with them.
        source: OpsError,
    },
    /// The operations make another number of bytes than the piece has.
    #[error("the operations of {piece} do not make its {expected} bytes")]
    Length {
        /// Which piece.
        piece: PieceName,
        /// Length of the piece.
        expected: u64,
    },
    /// An operation reads outside of its base.
    #[error("{piece} reads {start}+{len} of a base of {base_len}")]
    OutsideBase {
        /// Which piece.
        piece: PieceName,
        /// First byte.
        start: u64,
        /// Number of bytes.
        len: u64,
        /// Length of the base.
        base_len: ByteLen,
    },
    /// What was made is not what the manifest promises.
    #[error("{piece} came out with SHA-256 {actual}, expected {expected}")]
    TargetDiffers {
        /// Which piece.
        piece: PieceName,
        /// What the manifest names.
        expected: Sha256,
        /// What came out.
        actual: Sha256,
    },
    /// Writing the target failed.
    #[error("could not write {piece}")]
    Write {
        /// Which piece.
        piece: PieceName,
        /// What writing answered.
        source: io::Error,
    },
}

/// Names a piece in messages: `bytes 0+16777216 of system`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceName {
    partition: PartitionName,
    start: u64,
    len: u64,
}

impl std::fmt::Display for PieceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bytes {}+{} of {}", self.start, self.len, self.partition)
    }
}

/// The images of the source build, each with the hash that the package names.
pub struct VerifiedSource<'a> {
    bases: Vec<Box<dyn ReadAt + 'a>>,
    /// What the manifest said of each.
    checked: Vec<Base>,
}

impl std::fmt::Debug for VerifiedSource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifiedSource").field("checked", &self.checked).finish_non_exhaustive()
    }
}

/// Opens and hashes every base that the package starts from.
///
/// `progress` is told the number of bytes hashed since it was last called, and can stop the work.
///
/// # Errors
/// - [`ApplyError::Source`] if `open` or reading fails.
/// - [`ApplyError::SourceLength`], [`ApplyError::SourceDiffers`] if an image is not the one named.
/// - [`ApplyError::Stopped`] if `progress` said so.
pub fn check_source<'a>(
    manifest: &Manifest,
    mut open: impl FnMut(&PartitionName) -> io::Result<Box<dyn ReadAt + 'a>>,
    mut progress: impl FnMut(u64) -> ControlFlow<()>,
) -> Result<VerifiedSource<'a>, ApplyError> {
    let mut source = VerifiedSource { bases: Vec::new(), checked: Vec::new() };
    for base in &manifest.bases {
        let partition = base.partition.clone();
        let failed = |source| ApplyError::Source { partition: partition.clone(), source };
        let image = open(&base.partition).map_err(failed)?;
        if image.len() != base.size {
            return Err(ApplyError::SourceLength { partition, expected: base.size, actual: image.len() });
        }
        let actual = hash(Section::whole(&image), &mut progress).map_err(|error| match error {
            HashError::Io(source) => ApplyError::Source { partition: partition.clone(), source },
            HashError::Stopped => ApplyError::Stopped,
        })?;
        if actual != base.sha256 {
            return Err(ApplyError::SourceDiffers { partition, expected: base.sha256, actual });
        }
        source.bases.push(image);
        source.checked.push(base.clone());
    }
    Ok(source)
}

/// Writes the target bytes of one piece to `out`.
///
/// `body` is the body of the package (the package without its front; see [`Front::body_offset`]). `out` may have been
/// written to when this fails; the caller keeps what it holds only on success.
///
/// # Errors
/// [`ApplyError`]; a stream whose stored bytes differ is refused before it is decoded, and a source that was checked
/// against other bases before anything.
pub fn apply_piece(
    front: &Front,
    partition: usize,
    piece: usize,
    source: &VerifiedSource<'_>,
    body: &dyn ReadAt,
    out: &mut dyn Write,
) -> Result<(), ApplyError> {
    let missing = ApplyError::NoSuchPiece { partition, piece };
    let Some(partition) = front.manifest().partitions.get(partition) else { return Err(missing) };
    let Some(piece) = partition.pieces.get(piece) else { return Err(missing) };
    // Else the operations of one package would run on the verified source of another.
    if source.checked != front.manifest().bases {
        return Err(ApplyError::OtherSource);
    }
    let name = piece.name(&partition.name);
    check_streams(piece, &name, body)?;
    let base = |&index: &u32| {
        let index = index as usize;
        let (image, base) = (source.bases.get(index)?, source.checked.get(index)?);
        Some((&**image as &dyn ReadAt, base.partition.clone()))
    };
    let bases: Option<(Vec<_>, Vec<_>)> = piece.bases.iter().map(base).collect();
    let (bases, names) = bases.ok_or(ApplyError::OtherSource)?;
    match piece.engine {
        Engine::Bsdiff => Bsdiff::new(piece, &name, &bases, &names, body, out)?.run(),
    }
}

/// Checks the stored bytes of every stream of a piece against the manifest.
///
/// # Errors
/// [`ApplyError::StreamDiffers`] or [`ApplyError::Stream`], naming the stream.
pub fn check_streams(piece: &Piece, name: &PieceName, body: &dyn ReadAt) -> Result<(), ApplyError> {
    for stream in &piece.streams {
        let actual = Section::new(body, stream.offset, stream.stored_len)
            .map_err(HashError::Io)
            .and_then(|section| hash(section, &mut |_| ControlFlow::Continue(())));
        match actual {
            Ok(actual) if actual == stream.sha256 => {}
            Ok(actual) => {
                let (piece, role) = (name.clone(), stream.role);
                return Err(ApplyError::StreamDiffers { piece, role, expected: stream.sha256, actual });
            }
            Err(HashError::Io(source)) => {
                return Err(ApplyError::Stream { piece: name.clone(), role: stream.role, source });
            }
            Err(HashError::Stopped) => return Err(ApplyError::Stopped),
        }
    }
    Ok(())
}

impl Piece {
    /// How messages name the piece.
    pub fn name(&self, partition: &PartitionName) -> PieceName {
        PieceName { partition: partition.clone(), start: self.start, len: self.len }
    }
}

/// The package after its front.
///
/// # Errors
/// [`PackageError::Length`] if `package` is not exactly as long as its manifest says, [`PackageError::Io`] if it
/// cannot be read.
pub fn body<R: ReadAt>(front: &Front, package: R) -> Result<Body<R>, PackageError> {
    front.check_len(package.len())?;
    Ok(Body { package, offset: front.body_offset().get() })
}

/// The body of a package, for [`apply_piece`].
#[derive(Debug)]
pub struct Body<R> {
    package: R,
    offset: u64,
}

impl<R: ReadAt> ReadAt for Body<R> {
    fn len(&self) -> ByteLen {
        ByteLen::new(self.package.len().get().saturating_sub(self.offset))
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let offset = offset.checked_add(self.offset).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.package.read_exact_at(buf, offset)
    }
}

/// Why hashing ended early.
#[derive(Debug)]
enum HashError {
    Io(io::Error),
    Stopped,
}

fn hash(mut reader: impl Read, progress: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<Sha256, HashError> {
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = match reader.read(&mut buffer) {
            Ok(0) => return Ok(Sha256::new(hasher.finalize().into())),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(HashError::Io(error)),
        };
        hasher.update(&buffer[..len]);
        if progress(len as u64).is_break() {
            return Err(HashError::Stopped);
        }
    }
}

/// A stream of a piece while it is decoded: exactly `left` more bytes will come.
struct StreamReader<'a> {
    left: u64,
    reader: Decoded<'a>,
}

type Stored<'a> = Section<&'a dyn ReadAt>;

enum Decoded<'a> {
    Store(Stored<'a>),
    Zstd(zstd::stream::read::Decoder<'static, BufReader<Stored<'a>>>),
}

impl Read for Decoded<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Store(reader) => reader.read(buf),
            Self::Zstd(reader) => reader.read(buf),
        }
    }
}

impl<'a> StreamReader<'a> {
    fn open(stream: &Stream, body: &'a dyn ReadAt) -> io::Result<Self> {
        let section = Section::new(body, stream.offset, stream.stored_len)?;
        let reader = match stream.codec {
            Codec::Store => Decoded::Store(section),
            Codec::Zstd => {
                let input = BufReader::with_capacity(BUFFER, section);
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?.single_frame();
                decoder.window_log_max(stream.window_log)?;
                Decoded::Zstd(decoder)
            }
        };
        Ok(Self { left: stream.raw_len, reader })
    }

    /// Whether all of the stream was used: what it holds decoded, and every stored byte.
    fn ends(mut self) -> io::Result<bool> {
        let more = loop {
            match self.reader.read(&mut [0]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read? > 0,
            }
        };
        let stored_left = match self.reader {
            Decoded::Store(section) => section.left() > 0,
            Decoded::Zstd(decoder) => {
                let input = decoder.finish();
                !input.buffer().is_empty() || input.get_ref().left() > 0
            }
        };
        Ok(self.left == 0 && !more && !stored_left)
    }

    fn fill(&mut self, buf: &mut [u8]) -> io::Result<()> {
        self.left = self.left.checked_sub(buf.len() as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.reader.read_exact(buf)
    }
}

impl Read for StreamReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        let len = self.reader.read(&mut buf[..limit])?;
        if len == 0 && limit > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= len as u64;
        Ok(len)
    }
}

/// The engine of [`crate::ops`].
struct Bsdiff<'a> {
    piece: &'a Piece,
    name: &'a PieceName,
    bases: &'a [&'a dyn ReadAt],
    /// The partitions that they are of, for messages.
    names: &'a [PartitionName],
    ops: Decoder<BufReader<StreamReader<'a>>>,
    diff: Option<StreamReader<'a>>,
    extra: Option<StreamReader<'a>>,
    window: SourceWindow,
    out: &'a mut dyn Write,
    hasher: sha2::Sha256,
    left: u64,
}

impl<'a> Bsdiff<'a> {
    fn new(
        piece: &'a Piece,
        name: &'a PieceName,
        bases: &'a [&'a dyn ReadAt],
        names: &'a [PartitionName],
        body: &'a dyn ReadAt,
        out: &'a mut dyn Write,
    ) -> Result<Self, ApplyError> {
        let open = |role| {
            let stream = piece.streams.iter().find(|stream| stream.role == role);
            let failed = |source| ApplyError::Stream { piece: name.clone(), role, source };
            stream.map(|stream| StreamReader::open(stream, body).map_err(failed)).transpose()
        };
        let ops = open(Role::Ops)?.ok_or_else(|| ApplyError::NoStream { piece: name.clone(), role: Role::Ops })?;
        Ok(Self {
            piece,
            name,
            bases,
            names,
            ops: Decoder::new(BufReader::with_capacity(BUFFER, ops), bases.len()),
            diff: open(Role::Diff)?,
            extra: open(Role::Extra)?,
            window: SourceWindow { base: usize::MAX, start: 0, bytes: Vec::new() },
            out,
            hasher: sha2::Sha256::new(),
            left: piece.len,
        })
    }

    fn run(mut self) -> Result<(), ApplyError> {
        let length = |name: &PieceName, expected| ApplyError::Length { piece: name.clone(), expected };
        // Operations of a few bytes are gathered here: `out` may be a file, where each write is a system call.
        let mut buffer = vec![0; BUFFER];
        let mut filled = 0;
        let mut differences = vec![0; BUFFER];
        loop {
            let op = self.ops.next_op();
            let op = op.map_err(|source| ApplyError::Operations { piece: self.name.clone(), source })?;
            let Some(op) = op else { break };
            self.left = self.left.checked_sub(op.len()).ok_or_else(|| length(self.name, self.piece.len))?;
            if let Op::Copy { base, start, len } | Op::Add { base, start, len } = op {
                let base_len = self.bases[base as usize].len();
                if start.checked_add(len).is_none_or(|end| end > base_len.get()) {
                    return Err(ApplyError::OutsideBase { piece: self.name.clone(), start, len, base_len });
                }
            }
            let mut done = 0;
            while done < op.len() {
                let step = usize::try_from(op.len() - done).unwrap_or(BUFFER).min(BUFFER - filled);
                let bytes = &mut buffer[filled..filled + step];
                match op {
                    Op::Copy { base, start, .. } => self.read_base(base, start + done, bytes)?,
                    Op::Add { base, start, .. } => {
                        self.read_base(base, start + done, bytes)?;
                        let differences = &mut differences[..step];
                        Self::fill(self.name, Role::Diff, &mut self.diff, differences)?;
                        for (byte, difference) in bytes.iter_mut().zip(differences) {
                            *byte = byte.wrapping_add(*difference);
                        }
                    }
                    Op::Insert { .. } => Self::fill(self.name, Role::Extra, &mut self.extra, bytes)?,
                    Op::Zero { .. } => bytes.fill(0),
                }
                done += step as u64;
                filled += step;
                if filled == BUFFER {
                    self.hasher.update(&buffer);
                    write(self.out, &buffer, self.name)?;
                    filled = 0;
                }
            }
        }
        if self.left > 0 {
            return Err(length(self.name, self.piece.len));
        }
        let rest = &buffer[..filled];
        self.hasher.update(rest);
        let ops = self.ops.into_input().into_inner();
        for (role, stream) in [(Role::Ops, Some(ops)), (Role::Diff, self.diff), (Role::Extra, self.extra)] {
            let Some(stream) = stream else { continue };
            let piece = || self.name.clone();
            if !stream.ends().map_err(|source| ApplyError::Stream { piece: piece(), role, source })? {
                return Err(ApplyError::StreamLeft { piece: piece(), role });
            }
        }
        let actual = Sha256::new(self.hasher.finalize().into());
        if actual != self.piece.sha256 {
            let expected = self.piece.sha256;
            return Err(ApplyError::TargetDiffers { piece: self.name.clone(), expected, actual });
        }
        write(self.out, rest, self.name)
    }

    fn fill(
        name: &PieceName,
        role: Role,
        stream: &mut Option<StreamReader<'a>>,
        buf: &mut [u8],
    ) -> Result<(), ApplyError> {
        let stream = stream.as_mut().ok_or_else(|| ApplyError::NoStream { piece: name.clone(), role })?;
        stream.fill(buf).map_err(|source| ApplyError::Stream { piece: name.clone(), role, source })
    }

    fn read_base(&mut self, base: u32, start: u64, buf: &mut [u8]) -> Result<(), ApplyError> {
        let index = base as usize;
        self.window.read(index, self.bases[index], start, buf).map_err(|source| {
            let partition = self.names[index].clone();
            ApplyError::Source { partition, source }
        })
    }
}

fn write(out: &mut dyn Write, bytes: &[u8], name: &PieceName) -> Result<(), ApplyError> {
    out.write_all(bytes).map_err(|source| ApplyError::Write { piece: name.clone(), source })
}

/// The bytes of a base that were read last.
struct SourceWindow {
    base: usize,
    start: u64,
    bytes: Vec<u8>,
}

impl SourceWindow {
    fn read(&mut self, index: usize, base: &dyn ReadAt, start: u64, buf: &mut [u8]) -> io::Result<()> {
        // Long copies go straight through; they would only push the window out.
        if buf.len() >= SOURCE_WINDOW / 2 {
            return base.read_exact_at(buf, start);
        }
        let inside = |window: &Self| {
            let at = usize::try_from(start.checked_sub(window.start)?).ok()?;
            let end = at.checked_add(buf.len())?;
            (window.base == index && end <= window.bytes.len()).then_some(at..end)
        };
        let range = match inside(self) {
            Some(range) => range,
            None => {
                let forward = self.base == index
                    && start.checked_sub(self.start).is_some_and(|step| step < 2 * SOURCE_WINDOW as u64);
                let most = if forward { SOURCE_WINDOW } else { SOURCE_JUMP.max(buf.len()) };
                let len = usize::try_from(base.len().get() - start).unwrap_or(most).min(most);
                self.base = usize::MAX;
                self.bytes.resize(len, 0);
                base.read_exact_at(&mut self.bytes, start)?;
                (self.base, self.start) = (index, start);
                0..buf.len()
            }
        };
        buf.copy_from_slice(&self.bytes[range]);
        Ok(())
    }
}
