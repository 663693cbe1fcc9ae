//! Files that are either whole or not there.

use std::{
    fs::{self, File, Permissions, TryLockError},
    io::{self, BufWriter, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use relevo_types::Sha256;
use sha2::Digest;
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

/// A directory for what is unfinished of one result, beside it: held by one process at a time, and empty at the start,
/// whatever a run that was killed has left there.
pub(crate) struct Aside {
    dir: PathBuf,
    /// The directory that it lies in, if that was made for it: it goes away too unless something has been put there.
    made: Option<PathBuf>,
    /// The lock ends when it is closed.
    _lock: File,
}

impl Aside {
    /// Name of the file in it whose lock holds it.
    const LOCK: &str = ".lock";

    /// For a file, in the same directory. A directory cannot become one, which is better said before the work than after it.
    pub(crate) fn beside(out: &Path) -> Result<Self, CliError> {
        if out.is_dir() {
            let source = io::ErrorKind::IsADirectory.into();
            return Err(CliError::Write { path: out.into(), source });
        }
        // Of the name's digest, since a name may be as long as names can be.
        let digest = sha2::Sha256::digest(out.file_name().unwrap_or_default().as_bytes());
        let digest = Sha256::new(digest.into()).to_string();
        Self::take(parent(out).join(format!("{UNFINISHED}{}", &digest[..16])), out)
    }

    /// For files of a directory, which is made if it is not there, in it.
    pub(crate) fn within(out: &Path) -> Result<Self, CliError> {
        let made = (!out.exists()).then(|| out.to_owned());
        make_dir(out)?;
        let mut aside = Self::take(out.join(format!("{UNFINISHED}images")), out)?;
        aside.made = made;
        Ok(aside)
    }

    fn take(dir: PathBuf, out: &Path) -> Result<Self, CliError> {
        let failed = |source| CliError::Write { path: dir.clone(), source };
        let path = dir.join(Self::LOCK);
        loop {
            match fs::create_dir(&dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(CliError::Write { path: out.into(), source: error });
                }
                _ => {}
            }
            let lock = match File::options().write(true).create(true).truncate(false).open(&path) {
                // Who held it has removed it since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(failed)?,
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(CliError::BeingMade { path: out.into() }),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            // A lock on a file without a name holds nothing.
            let held = lock.metadata().map_err(failed)?;
            if fs::metadata(&path).is_ok_and(|named| (named.dev(), named.ino()) == (held.dev(), held.ino())) {
                let aside = Self { dir, made: None, _lock: lock };
                aside.clear()?;
                return Ok(aside);
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// Removes all but the lock.
    fn clear(&self) -> Result<(), CliError> {
        remove(&self.dir, |name| name != Self::LOCK)
    }
}

impl Drop for Aside {
    /// Best effort: the next run to the same result removes it otherwise.
    fn drop(&mut self) {
        // The lock goes last, and the directory only if nobody else has made a lock in it meanwhile.
        if self.clear().is_ok() && fs::remove_file(self.dir.join(Self::LOCK)).is_ok() {
            let _ = fs::remove_dir(&self.dir);
            let _ = self.made.as_ref().map(fs::remove_dir);
        }
    }
}

/// A file that gets its name when it is finished.
pub(crate) struct Draft {
    file: BufWriter<NamedTempFile>,
    path: PathBuf,
}

impl Draft {
    /// Starts the file that will be `path`, in the same directory.
    pub(crate) fn new(path: &Path, mode: u32) -> Result<Self, CliError> {
        Self::new_in(parent(path), path, mode)
    }

    /// Starts the file that will be `path`, in a directory of the same file system.
    pub(crate) fn new_in(dir: &Path, path: &Path, mode: u32) -> Result<Self, CliError> {
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
    remove(dir, |name| name.starts_with(OURS))
}

/// Removes what is called so.
fn remove(dir: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<(), CliError> {
    let failed = |source| CliError::Write { path: dir.into(), source };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if is_wanted(&entry.file_name().to_string_lossy()) {
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
