//! What a phone needs before its first update: a record of the build in its slot, boot control, and a report of the boot.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use relevo_types::{BuildId, ByteLen, PartitionName};

use crate::{
    boot::{BootControl, BootError, BootFile, Booted, Slot},
    config::BlockConfig,
    download::hash_file,
    state::{BuildRecord, PartitionRecord},
    stop::Stop,
    storage::{self, Storage, StorageError},
};

/// Why a phone could not be prepared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FactoryError {
    /// There is boot control already.
    #[error("{} exists already; a phone is prepared once", .path.display())]
    Exists {
        /// Boot control.
        path: PathBuf,
    },
    /// No images.
    #[error("{} holds no partitions; name them, or put NAME.img there", .path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// Boot control failed.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The disk refused something.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// We were asked to end.
    #[error("stopped")]
    Stopped,
}

/// Prepares a phone that holds `build` in `slot`: hashes its partitions (`partitions`, or every `NAME.img` of the slot's
/// directory), and writes the record of the build, boot control and the report of the first boot.
///
/// # Errors
/// [`FactoryError`]; boot control is written last, so a phone is prepared wholly or not at all.
pub fn prepare(
    config: &BlockConfig,
    storage: &dyn Storage,
    slot: Slot,
    build: BuildId,
    timestamp: i64,
    partitions: &[PartitionName],
    boot_id: &str,
) -> Result<BuildRecord, FactoryError> {
    let boot = BootFile::new(&config.boot_control);
    let there = boot.read().is_ok() || (!storage::is_block_device(boot.path()) && boot.path().exists());
    if there {
        return Err(FactoryError::Exists { path: boot.path().to_owned() });
    }
    let partitions = if partitions.is_empty() { images(config, slot)? } else { partitions.to_vec() };
    let stop = Stop::new();
    let mut record = BuildRecord { build, timestamp, partitions: BTreeMap::new() };
    for name in partitions {
        let path = config.partition(slot, &name);
        let sha256 = hash_file(&path, &stop)?.ok_or(FactoryError::Stopped)?;
        let size = size_of(&path).map_err(|source| StorageError::new("measure", &path, source))?;
        record.partitions.insert(name, PartitionRecord { size, sha256 });
    }
    let json = serde_json::to_vec_pretty(&record).expect("a record of a build is JSON");
    let path = config.build_file(slot);
    for path in [&path, &config.booted, &config.boot_control] {
        storage.create_directory(storage::directory_of(path))?;
    }
    storage::replace(storage, &path, &json)?;
    let booted = Booted { slot, boot_id: boot_id.to_owned() };
    let json = serde_json::to_vec(&booted).expect("a slot and a text are JSON");
    storage::replace(storage, &config.booted, &json)?;
    boot.write(storage, &BootControl::factory(slot))?;
    Ok(record)
}

fn size_of(path: &Path) -> io::Result<ByteLen> {
    use std::io::Seek;
    Ok(ByteLen::new(File::open(path)?.seek(io::SeekFrom::End(0))?))
}

fn images(config: &BlockConfig, slot: Slot) -> Result<Vec<PartitionName>, FactoryError> {
    let probe = PartitionName::parse("x").expect("a letter is a name");
    let path = config.partition(slot, &probe);
    let directory = storage::directory_of(&path).to_owned();
    let error = |source| StorageError::new("list", &directory, source);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&directory).map_err(error)? {
        let name = entry.map_err(error)?.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".img"));
        if let Some(Ok(name)) = stem.map(PartitionName::parse) {
            found.push(name);
        }
    }
    if found.is_empty() {
        return Err(FactoryError::Empty { path: directory });
    }
    found.sort();
    Ok(found)
}
