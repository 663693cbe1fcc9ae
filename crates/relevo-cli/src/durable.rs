//! Files that are either whole or not there.

use std::{
    fs::{self, File, Permissions},
    io::{self, BufWriter, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use crate::{error::CliError, progress::Bars};

/// How names of unfinished files and directories start.
pub(crate) const UNFINISHED: &str = ".relevo-unfinished-";
/// How they start with all that we call: `relevo-delta` has a name of its own behind it.
const OURS: &str = ".relevo-";

/// Mode of files that anybody may read; the user's umask takes away from it.
pub(crate) const PUBLIC: u32 = 0o666;
/// Mode of private files.
pub(crate) const PRIVATE: u32 = 0o600;

/// A file that gets its name when it is finished.
pub(crate) struct Draft {
    file: BufWriter<NamedTempFile>,
    path: PathBuf,
}

impl Draft {
    /// Starts the file that will be `path`, in the same directory.
    pub(crate) fn new(path: &Path, mode: u32) -> Result<Self, CliError> {
        let dir = parent(path);
        let file = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(dir)
            .map_err(|source| CliError::Write { path: path.into(), source })?;
        Ok(Self { file: BufWriter::with_capacity(1 << 18, file), path: path.into() })
    }

    /// Where the unfinished file lies.
    pub(crate) fn unfinished(&self) -> &Path {
        self.file.get_ref().path()
    }

    /// The unfinished file, for who writes at offsets instead of in order.
    pub(crate) fn file(&self) -> &File {
        self.file.get_ref().as_file()
    }

    /// Makes the file durable and gives it its name.
    pub(crate) fn finish(self) -> Result<(), CliError> {
        let path = self.path;
        let failed = |source| CliError::Write { path: path.clone(), source };
        let file = self.file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        sync_dir(parent(&path))
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes a whole file.
pub(crate) fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CliError> {
    let mut draft = Draft::new(path, mode)?;
    draft.write_all(bytes).map_err(|source| CliError::Write { path: path.into(), source })?;
    draft.finish()
}

/// Gives a file a second name, or copies it where that is not possible; the name stands for the whole file or is not there.
pub(crate) fn keep_file(from: &Path, to: &Path, bars: &Bars<'_>) -> Result<(), CliError> {
    let written = |source| CliError::Write { path: to.into(), source };
    let unfinished = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(parent(to)).map_err(written)?;
    let link = unfinished.path().join("file");
    if fs::hard_link(from, &link).is_ok() {
        fs::rename(&link, to).map_err(written)?;
        return sync_dir(parent(to));
    }
    let read = |source| CliError::Read { path: from.into(), source };
    let mut file = File::open(from).map_err(read)?;
    bars.step("copying", file.metadata().map_err(read)?.len());
    let mut draft = Draft::new(to, PUBLIC)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let len = io::Read::read(&mut file, &mut buffer).map_err(read)?;
        if len == 0 {
            return draft.finish();
        }
        draft.write_all(&buffer[..len]).map_err(written)?;
        if bars.add(len as u64).is_break() {
            return Err(CliError::Stopped);
        }
    }
}

/// Makes a directory and those above it.
pub(crate) fn make_dir(path: &Path) -> Result<(), CliError> {
    fs::create_dir_all(path).map_err(|source| CliError::Write { path: path.into(), source })
}

/// Makes names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), CliError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| CliError::Write { path: dir.into(), source })
}

/// Removes what earlier runs did not finish; only for who holds the directory's lock.
pub(crate) fn sweep(dir: &Path) -> Result<(), CliError> {
    let failed = |source| CliError::Write { path: dir.into(), source };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().starts_with(OURS) {
            let path = entry.path();
            let removed = match entry.file_type() {
                Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path),
                _ => fs::remove_file(&path),
            };
            removed.map_err(|source| CliError::Write { path, source })?;
        }
    }
    Ok(())
}

/// The directory of a file; `.` for a bare name.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Reads a text file of at most `limit` bytes; none if it is not there.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<Option<String>, CliError> {
    let Some(bytes) = read_bytes(path, limit)? else { return Ok(None) };
    let no_text = |_| io::Error::new(io::ErrorKind::InvalidData, "it is no UTF-8 text");
    String::from_utf8(bytes).map(Some).map_err(|error| CliError::Read { path: path.into(), source: no_text(error) })
}

/// Reads a file of at most `limit` bytes; none if it is not there.
pub(crate) fn read_bytes(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, CliError> {
    use io::Read;

    let failed = |source| CliError::Read { path: path.into(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        let reason = format!("it is over {limit} bytes long");
        return Err(CliError::Damaged { path: path.into(), reason });
    }
    Ok(Some(bytes))
}
