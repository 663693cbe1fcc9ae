//! Puts the package together: streams wait in a spill file until the manifest is known.

use std::{
    fs::{File, Permissions},
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Mutex,
};

use relevo_format::package::{Base, Front, Limits, Manifest, Partition, Piece, Stream};
use relevo_types::{ByteLen, PartitionName};
use tempfile::NamedTempFile;

use crate::{
    DeltaError, Options,
    piece::{ENGINE, Made},
    scan::ImageScan,
};

/// Bytes in the spill file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spilled {
    pub offset: u64,
    pub len: u64,
}

/// A file without a name, beside the package, that holds the streams in the order in which they were finished.
#[derive(Debug)]
pub(crate) struct Spill {
    path: PathBuf,
    file: File,
    end: Mutex<u64>,
}

impl Spill {
    /// Makes one in the directory of `out`.
    pub(crate) fn new(out: &Path) -> Result<Self, DeltaError> {
        let path = directory(out);
        let file = tempfile::tempfile_in(&path).map_err(|source| DeltaError::Write { path: path.clone(), source })?;
        Ok(Self { path, file, end: Mutex::new(0) })
    }

    /// Appends `bytes`.
    pub(crate) fn append(&self, bytes: &[u8]) -> Result<Spilled, DeltaError> {
        let len = bytes.len() as u64;
        let offset = {
            let mut end = self.end.lock().expect("nothing panics while it holds this lock");
            let offset = *end;
            *end += len;
            offset
        };
        let written = self.file.write_all_at(bytes, offset);
        written.map_err(|source| DeltaError::Write { path: self.path.clone(), source })?;
        Ok(Spilled { offset, len })
    }
}

fn directory(out: &Path) -> PathBuf {
    match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => ".".into(),
    }
}

/// A package under a temporary name.
#[derive(Debug)]
pub(crate) struct DraftPackage {
    file: NamedTempFile,
}

impl DraftPackage {
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Gives it its name, durably.
    pub(crate) fn keep(self, out: &Path) -> Result<ByteLen, DeltaError> {
        let failed = |source| DeltaError::Write { path: out.into(), source };
        let len = self.file.as_file().metadata().map_err(failed)?.len();
        self.file.as_file().sync_all().map_err(failed)?;
        self.file.persist(out).map_err(|error| failed(error.error))?;
        File::open(directory(out)).and_then(|directory| directory.sync_all()).map_err(failed)?;
        Ok(ByteLen::new(len))
    }
}

/// Writes the package beside `out`, under a temporary name.
#[expect(clippy::too_many_arguments, reason = "the parts of a package, put together once")]
pub(crate) fn write(
    images: &[ImageScan],
    bases: Vec<Base>,
    removed: Vec<PartitionName>,
    pieces: &[Made],
    options: &Options,
    spill: &Spill,
    limits: &Limits,
    out: &Path,
) -> Result<DraftPackage, DeltaError> {
    let mut offset = 0;
    let mut partitions = Vec::new();
    for (index, image) in images.iter().enumerate() {
        let own = pieces.iter().filter(|piece| piece.image == index);
        let pieces = own.map(|piece| finish(piece, &mut offset)).collect();
        let size = ByteLen::new(image.len);
        partitions.push(Partition { name: image.name.clone(), size, sha256: image.sha256, pieces });
    }
    let mut manifest = Manifest { info: options.info.clone(), bases, partitions, removed };
    manifest.info.memory = manifest.memory();
    let front = Front::new(manifest, limits)?;

    let failed = |source| DeltaError::Write { path: out.into(), source };
    // A package is for everybody; the umask takes away what the caller does not want to give.
    let mode = Permissions::from_mode(0o666);
    let file = tempfile::Builder::new().prefix(".relevo-").permissions(mode).tempfile_in(directory(out));
    let file = file.map_err(failed)?;
    let mut writer = BufWriter::with_capacity(1 << 20, file.as_file());
    let mut copy = || -> io::Result<()> {
        writer.write_all(&front.encode())?;
        let mut reader = &spill.file;
        for stream in pieces.iter().flat_map(|piece| &piece.streams) {
            reader.seek(SeekFrom::Start(stream.stored.offset))?;
            io::copy(&mut reader.take(stream.stored.len), &mut writer)?;
        }
        writer.flush()
    };
    copy().map_err(failed)?;
    drop(writer);
    Ok(DraftPackage { file })
}

fn finish(piece: &Made, offset: &mut u64) -> Piece {
    let mut stream = |made: &crate::piece::MadeStream| {
        let stored_len = made.stored.len;
        let stream = Stream {
            role: made.role,
            codec: made.codec,
            offset: *offset,
            stored_len,
            raw_len: made.raw_len,
            window_log: made.window_log,
            sha256: made.sha256,
        };
        *offset += stored_len;
        stream
    };
    Piece {
        start: piece.start,
        len: piece.len,
        sha256: piece.sha256,
        engine: ENGINE,
        bases: piece.bases.clone(),
        streams: piece.streams.iter().map(&mut stream).collect(),
    }
}
