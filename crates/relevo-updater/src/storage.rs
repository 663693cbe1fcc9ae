//! Everything that the updater changes on disk goes through [`Storage`].
//!
//! Reading goes straight to the file system; writing, renaming, removing and flushing go through this trait, so that a
//! test can cut the power at each of them.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileExt, FileTypeExt},
    path::{Path, PathBuf},
};

use rustix::fs::FallocateFlags;

/// What the disk refused to do.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} {}", .path.display())]
pub struct StorageError {
    /// What was tried, as a verb.
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// What the system answered.
    pub source: io::Error,
}

impl StorageError {
    /// Wraps an error of the system with what was tried.
    pub fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self { action, path: path.to_owned(), source }
    }

    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// The primitive steps that change a disk.
pub trait Storage: fmt::Debug + Send + Sync {
    /// Makes an empty file, or empties the one that is there.
    ///
    /// # Errors
    /// What the system answers.
    fn create(&self, path: &Path) -> Result<Box<dyn Handle>, StorageError>;

    /// Opens a file or block device that exists, for reading and writing.
    ///
    /// # Errors
    /// What the system answers.
    fn open(&self, path: &Path) -> Result<Box<dyn Handle>, StorageError>;

    /// Renames a file over another one; durable only after [`Storage::sync_directory`].
    ///
    /// # Errors
    /// What the system answers.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError>;

    /// Removes a file; one that is not there is fine.
    ///
    /// # Errors
    /// What the system answers.
    fn remove(&self, path: &Path) -> Result<(), StorageError>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// What the system answers.
    fn sync_directory(&self, path: &Path) -> Result<(), StorageError>;

    /// Makes a directory and those above it.
    ///
    /// # Errors
    /// What the system answers.
    fn create_directory(&self, path: &Path) -> Result<(), StorageError>;

    /// The bytes that a file in this directory could still take.
    ///
    /// # Errors
    /// What the system answers.
    fn free_bytes(&self, directory: &Path) -> Result<u64, StorageError>;
}

/// An open file or block device.
pub trait Handle: fmt::Debug + Send + Sync {
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// What the system answers.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError>;

    /// Gives a file exactly this length, with its space reserved where the file system can.
    ///
    /// # Errors
    /// What the system answers, a full disk among it.
    fn allocate(&self, len: u64) -> Result<(), StorageError>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// What the system answers.
    fn sync(&self) -> Result<(), StorageError>;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// What the system answers; a file that ends too early among it.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StorageError>;

    /// Asks the system to drop its cached copy, so that the next read comes from the medium.
    fn drop_cache(&self) {}
}

/// The disk of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

#[derive(Debug)]
struct DiskHandle {
    file: File,
    path: PathBuf,
}

impl Storage for Disk {
    fn create(&self, path: &Path) -> Result<Box<dyn Handle>, StorageError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.open(path).map_err(|source| StorageError::new("create", path, source))?;
        Ok(Box::new(DiskHandle { file, path: path.to_owned() }))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Handle>, StorageError> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|source| StorageError::new("open", path, source))?;
        Ok(Box::new(DiskHandle { file, path: path.to_owned() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        fs::rename(from, to).map_err(|source| StorageError::new("rename a finished file to", to, source))
    }

    fn remove(&self, path: &Path) -> Result<(), StorageError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StorageError::new("remove", path, error)),
            _ => Ok(()),
        }
    }

    fn sync_directory(&self, path: &Path) -> Result<(), StorageError> {
        File::open(path)
            .and_then(|directory| directory.sync_all())
            .map_err(|source| StorageError::new("flush directory", path, source))
    }

    fn create_directory(&self, path: &Path) -> Result<(), StorageError> {
        fs::create_dir_all(path).map_err(|source| StorageError::new("create directory", path, source))
    }

    fn free_bytes(&self, directory: &Path) -> Result<u64, StorageError> {
        let answer = rustix::fs::statvfs(directory)
            .map_err(|source| StorageError::new("ask the free space of", directory, source.into()))?;
        Ok(answer.f_bavail.saturating_mul(answer.f_frsize))
    }
}

impl DiskHandle {
    fn error(&self, action: &'static str, source: impl Into<io::Error>) -> StorageError {
        StorageError::new(action, &self.path, source.into())
    }
}

impl Handle for DiskHandle {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        self.file.write_all_at(bytes, offset).map_err(|source| self.error("write", source))
    }

    fn allocate(&self, len: u64) -> Result<(), StorageError> {
        self.file.set_len(len).map_err(|source| self.error("set the length of", source))?;
        if len == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            // Some file systems cannot reserve; writing finds out about a full disk then.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => Ok(()),
            Err(source) => Err(self.error("reserve the space of", source)),
        }
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(|source| self.error("flush", source))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StorageError> {
        self.file.read_exact_at(buffer, offset).map_err(|source| self.error("read", source))
    }

    fn drop_cache(&self) {
        // Only advice: a system that ignores it checks its cache instead of the medium.
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
    }
}

/// Replaces a file by `bytes`: it holds the old ones or the new ones after a power cut at any moment.
///
/// # Errors
/// [`StorageError`] of the step that failed; the file then holds what it held.
pub fn replace(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let aside = path.with_file_name(name);
    let file = storage.create(&aside)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    drop(file);
    storage.rename(&aside, path)?;
    storage.sync_directory(directory_of(path))
}

/// Removes a file durably; one that is not there is fine.
///
/// # Errors
/// [`StorageError`] of the step that failed.
pub fn remove(storage: &dyn Storage, path: &Path) -> Result<(), StorageError> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    storage.remove(path)?;
    storage.sync_directory(directory_of(path))
}

/// Reads a file of at most `limit` bytes; `None` if there is none.
///
/// # Errors
/// [`StorageError`] if it cannot be read or is longer.
pub fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StorageError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StorageError::new("open", path, error)),
    };
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|source| StorageError::new("read", path, source))?;
    if bytes.len() as u64 > limit {
        let source = io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {limit} bytes"));
        return Err(StorageError::new("read", path, source));
    }
    Ok(Some(bytes))
}

/// The directory that holds `path`.
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Whether `path` is a block device.
pub fn is_block_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// CRC-32 as in IEEE 802.3, zlib and U-Boot (reflected, polynomial 0xEDB88320).
pub fn crc32(bytes: &[u8]) -> u32 {
    // Bit by bit: it runs over a few hundred bytes at a time, and a table would be 1 KiB of the binary.
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computes_the_check_value_of_crc32() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn refuses_to_read_more_than_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        replace(&Disk, &path, &[7; 10]).unwrap();

        assert_eq!(read(&path, 10).unwrap(), Some(vec![7; 10]));
        assert!(read(&path, 9).is_err());
        assert_eq!(read(&directory.path().join("none"), 9).unwrap(), None);
    }
}
