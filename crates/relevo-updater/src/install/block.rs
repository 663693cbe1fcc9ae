//! Two slots of files or block devices, and boot control.

use std::{
    io::{self, Seek, SeekFrom, Write},
    ops::ControlFlow,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use relevo_format::{
    FileAt, ReadAt, apply,
    apply::{ApplyError, Body, VerifiedSource},
    package::{Front, Limits},
};
use relevo_meta::TrustedDevice;
use relevo_types::{ByteLen, Codename, PackageKind, Sha256};
use sha2::Digest;

use super::{InstallError, Installer};
use crate::{
    boot::{BootFile, Booted, Slot, SlotState},
    config::BlockConfig,
    state::{BuildRecord, Offer, PartitionRecord, Reality},
    stop::Stop,
    storage::{self, Handle, Storage, StorageError},
};

/// Size of the buffers for writing and reading back, in bytes.
const BUFFER: usize = 256 * 1024;
/// After this many written bytes they are flushed and journalled; a cut costs at most as much work again.
const FLUSH_BYTES: u64 = 8 << 20;
/// The longest record of a build that we read, in bytes.
const MAX_RECORD: u64 = 256 * 1024;
/// The manifest stays in memory while pieces are applied, and both have to fit into 24 MiB: a 3 GiB partition takes
/// 30 KB of it, and no package that we make comes near this limit.
const MAX_MANIFEST: ByteLen = ByteLen::mib(1);

/// The `block` backend.
#[derive(Debug)]
pub struct Block<'a> {
    /// Where slots and boot control are.
    pub config: &'a BlockConfig,
    /// The device.
    pub codename: &'a Codename,
    /// How often a new build is tried.
    pub tries: u8,
    /// Bytes to leave free on the file system of file slots.
    pub reserve: ByteLen,
    /// Where the journal of applying is.
    pub journal: PathBuf,
    /// What is changed on disk.
    pub storage: &'a dyn Storage,
    /// Ends the work.
    pub stop: &'a Stop,
}

/// A package that passed every check.
pub struct Staged {
    front: Front,
    source: VerifiedSource<'static>,
    body: Body<FileAt>,
    package: Sha256,
    record: BuildRecord,
    from: Slot,
    to: Slot,
}

impl std::fmt::Debug for Staged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staged").field("package", &self.package).field("to", &self.to).finish_non_exhaustive()
    }
}

impl Staged {
    /// The slot that is written.
    pub fn target(&self) -> Slot {
        self.to
    }
}

impl Block<'_> {
    fn go_on(&self) -> ControlFlow<()> {
        if self.stop.is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn boot(&self) -> BootFile {
        BootFile::new(&self.config.boot_control)
    }

    fn booted(&self) -> Result<Booted, InstallError> {
        Ok(Booted::read(&self.config.booted, self.config.boot_id.as_deref())?)
    }

    fn record(&self, slot: Slot) -> Result<BuildRecord, InstallError> {
        let path = self.config.build_file(slot);
        let wrong = |source| InstallError::NoBuild { slot, path: path.clone(), source };
        let bytes = storage::read(&path, MAX_RECORD)?.ok_or_else(|| wrong(io::ErrorKind::NotFound.into()))?;
        serde_json::from_slice(&bytes).map_err(|source| wrong(source.into()))
    }

    /// Checks that every partition has a place that is large enough.
    fn check_places(&self, front: &Front, to: Slot) -> Result<(), InstallError> {
        // Free space is asked once for each file system that slots of files are on.
        let mut needed: Vec<(u64, PathBuf, u64)> = Vec::new();
        for partition in &front.manifest().partitions {
            let path = self.config.partition(to, &partition.name);
            if storage::is_block_device(&path) {
                let available = self.device_size(&partition.name, &path)?;
                if available < partition.size {
                    let (partition, needed) = (partition.name.clone(), partition.size);
                    return Err(InstallError::TooLarge { partition, path, needed, available });
                }
                continue;
            }
            let directory = existing(storage::directory_of(&path));
            let device = std::fs::metadata(directory).map(|metadata| metadata.dev()).unwrap_or(0);
            let present = std::fs::metadata(&path).map_or(0, |metadata| metadata.blocks().saturating_mul(512));
            let missing = partition.size.get().saturating_sub(present);
            match needed.iter_mut().find(|(known, ..)| *known == device) {
                Some((_, _, sum)) => *sum = sum.saturating_add(missing),
                None => needed.push((device, directory.to_owned(), missing)),
            }
        }
        for (_, directory, sum) in needed {
            let free = self.storage.free_bytes(&directory)?;
            if sum > 0 && free < sum.saturating_add(self.reserve.get()) {
                return Err(InstallError::DiskFull { needed: ByteLen::new(sum), free: ByteLen::new(free) });
            }
        }
        Ok(())
    }

    fn device_size(&self, partition: &relevo_types::PartitionName, path: &Path) -> Result<ByteLen, InstallError> {
        let size = std::fs::File::open(path).and_then(|mut device| device.seek(SeekFrom::End(0)));
        let size = size.map_err(|source| {
            let source = StorageError::new("open", path, source);
            InstallError::NoPlace { partition: partition.clone(), source }
        })?;
        Ok(ByteLen::new(size))
    }

    /// Removes the record of what was in the slot and files of partitions that the new build has no more.
    fn clear_slot(&self, staged: &Staged) -> Result<(), InstallError> {
        let path = self.config.build_file(staged.to);
        let manifest = staged.front.manifest();
        let old = self.record(staged.to).map(|record| record.partitions.into_keys().collect::<Vec<_>>());
        let gone = manifest.removed.iter().cloned().chain(old.unwrap_or_default());
        for name in gone.filter(|name| manifest.partitions.iter().all(|partition| partition.name != *name)) {
            let path = self.config.partition(staged.to, &name);
            if !storage::is_block_device(&path) {
                storage::remove(self.storage, &path)?;
            }
        }
        // The record goes last: a cut before this finds the same files to remove again.
        Ok(storage::remove(self.storage, &path)?)
    }

    fn open_place(&self, path: &Path, len: u64, keep: bool) -> Result<Box<dyn Handle>, InstallError> {
        if storage::is_block_device(path) {
            return Ok(self.storage.open(path)?);
        }
        let present = std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == len);
        if keep && present {
            return Ok(self.storage.open(path)?);
        }
        self.storage.create_directory(storage::directory_of(path))?;
        let file = self.storage.create(path)?;
        file.allocate(len).map_err(|error| {
            if !error.is_full() {
                return InstallError::Storage(error);
            }
            let free = self.storage.free_bytes(storage::directory_of(path)).unwrap_or(0);
            InstallError::DiskFull { needed: ByteLen::new(len), free: ByteLen::new(free) }
        })?;
        self.storage.sync_directory(storage::directory_of(path))?;
        Ok(file)
    }

    /// Hashes `len` bytes from `start` on.
    fn hash(
        &self,
        handle: &dyn Handle,
        start: u64,
        len: u64,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Sha256, InstallError> {
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; BUFFER];
        let mut done = 0;
        while done < len {
            let part = usize::try_from(len - done).unwrap_or(usize::MAX).min(buffer.len());
            handle.read_at(&mut buffer[..part], start + done)?;
            hasher.update(&buffer[..part]);
            done += part as u64;
            if progress(part as u64).is_break() {
                return Err(InstallError::Stopped);
            }
        }
        Ok(Sha256::new(hasher.finalize().into()))
    }

    /// Writes the pieces of a partition from `first` on.
    fn write_pieces(
        &self,
        staged: &Staged,
        index: usize,
        first: usize,
        journal: &mut Journal<'_>,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), InstallError> {
        let partition = &staged.front.manifest().partitions[index];
        let path = self.config.partition(staged.to, &partition.name);
        let handle = self.open_place(&path, partition.size.get(), first > 0)?;
        let first = self.last_good(staged, index, first, handle.as_ref())?;
        let mut unflushed = 0;
        for (number, piece) in partition.pieces.iter().enumerate().skip(first) {
            let mut out = PieceWriter::new(handle.as_ref(), piece.start, piece.len);
            let made = apply::apply_piece(&staged.front, index, number, &staged.source, &staged.body, &mut out);
            made.and_then(|()| {
                let name = piece.name(&partition.name);
                out.flush().map_err(|source| ApplyError::Write { piece: name, source })
            })
            .map_err(unwrap_write)?;
            unflushed += piece.len;
            if unflushed >= FLUSH_BYTES {
                handle.sync()?;
                journal.write(index, number + 1)?;
                unflushed = 0;
            }
            if progress(piece.len).is_break() {
                return Err(InstallError::Stopped);
            }
        }
        handle.sync()?;
        journal.write(index + 1, 0)
    }

    /// The piece to go on from: the last one that the journal names is hashed again, and those before it if it is torn.
    fn last_good(
        &self,
        staged: &Staged,
        index: usize,
        mut first: usize,
        handle: &dyn Handle,
    ) -> Result<usize, InstallError> {
        let partition = &staged.front.manifest().partitions[index];
        first = first.min(partition.pieces.len());
        while first > 0 {
            let piece = &partition.pieces[first - 1];
            let found = self.hash(handle, piece.start, piece.len, &mut |_| ControlFlow::Continue(()));
            if matches!(found, Ok(found) if found == piece.sha256) {
                break;
            }
            tracing::warn!(partition = %partition.name, piece = first - 1, "a journalled piece is damaged; writing it again");
            first -= 1;
        }
        Ok(first)
    }

    fn read_back(
        &self,
        staged: &Staged,
        index: usize,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Result<(), InstallError>, InstallError> {
        let partition = &staged.front.manifest().partitions[index];
        let path = self.config.partition(staged.to, &partition.name);
        let handle = self.storage.open(&path)?;
        handle.drop_cache();
        let actual = self.hash(handle.as_ref(), 0, partition.size.get(), progress)?;
        if actual == partition.sha256 {
            return Ok(Ok(()));
        }
        let (partition, expected) = (partition.name.clone(), partition.sha256);
        Ok(Err(InstallError::ReadBack { partition, path, expected, actual }))
    }
}

/// The directory, or the nearest one above it that exists; nothing is made before every check was passed.
fn existing(mut directory: &Path) -> &Path {
    while !directory.is_dir() {
        directory = storage::directory_of(directory);
        if directory == Path::new(".") {
            break;
        }
    }
    directory
}

fn stopped(error: ApplyError) -> InstallError {
    match error {
        ApplyError::Stopped => InstallError::Stopped,
        error => error.into(),
    }
}

/// A full disk or a test's cut comes through the writer as the cause; it is reported as what it is.
fn unwrap_write(error: ApplyError) -> InstallError {
    match error {
        ApplyError::Write { piece, source } => match source.downcast::<StorageError>() {
            Ok(error) => InstallError::Storage(error),
            Err(source) => ApplyError::Write { piece, source }.into(),
        },
        error => error.into(),
    }
}

impl Installer for Block<'_> {
    type Staged = Staged;

    fn probe(&self) -> Vec<PackageKind> {
        vec![PackageKind::Native]
    }

    fn observe(&self) -> Result<Reality, InstallError> {
        let booted = self.booted()?;
        let control = self.boot().read()?;
        let running = self.record(booted.slot)?;
        let other = booted.slot.other();
        let whole = control.slot(other).bootable;
        let other = whole.then(|| self.record(other).ok()).flatten();
        Ok(Reality { booted, control, running, other })
    }

    fn stage(
        &self,
        package: &Path,
        offer: &Offer,
        device: &TrustedDevice,
        reality: &Reality,
    ) -> Result<Staged, InstallError> {
        let refused = |source| InstallError::Package { path: package.to_owned(), source };
        let file = FileAt::open(package).map_err(|source| StorageError::new("open", package, source))?;
        let limits = Limits { manifest: MAX_MANIFEST, ..Limits::default() };
        let mut reader = relevo_format::Section::whole(&file);
        let front = Front::read(&mut reader, &limits).map_err(refused)?;
        let (keys, threshold) = device.signatories(&offer.path);
        front.verify(keys, threshold).map_err(refused)?;
        front.check_len(offer.length).map_err(refused)?;

        let info = &front.manifest().info;
        if info.device.as_ref() != Some(self.codename) {
            let (expected, actual) = (self.codename.clone(), info.device.clone());
            return Err(InstallError::WrongDevice { expected, actual });
        }
        if let Some(from) = info.from.as_ref().filter(|from| **from != reality.running.build) {
            let (expected, actual) = (reality.running.build.clone(), from.clone());
            return Err(InstallError::WrongSource { expected, actual });
        }
        let text =
            |build: &Option<relevo_types::BuildId>| build.as_ref().map_or("none".to_owned(), ToString::to_string);
        for (field, expected, actual) in [
            ("it starts from build", text(&offer.from), text(&info.from)),
            ("it makes build", offer.to.to_string(), text(&info.to)),
        ] {
            if expected != actual {
                return Err(InstallError::Contradiction { field, expected, actual });
            }
        }
        let made = info.timestamp.map_or(Ok(offer.timestamp), i64::try_from).unwrap_or(i64::MAX);
        if made != offer.timestamp {
            let (field, expected, actual) = ("its build was made at", offer.timestamp.to_string(), made.to_string());
            return Err(InstallError::Contradiction { field, expected, actual });
        }
        if made <= reality.running.timestamp {
            let (build, running) = (offer.to.clone(), reality.running.timestamp);
            return Err(InstallError::Older { build, timestamp: made, running });
        }

        let (from, to) = (reality.booted.slot, reality.booted.slot.other());
        self.check_places(&front, to)?;
        let sizes: Vec<_> = front.manifest().bases.iter().map(|base| (base.partition.clone(), base.size)).collect();
        let open = |name: &relevo_types::PartitionName| -> io::Result<Box<dyn ReadAt>> {
            let path = self.config.partition(from, name);
            let image = FileAt::open(&path)?;
            // A device is larger than the image in it; a file must be the image.
            match sizes.iter().find(|(known, _)| known == name) {
                Some((_, size)) if storage::is_block_device(&path) => Ok(Box::new(image.cut(*size)?)),
                _ => Ok(Box::new(image)),
            }
        };
        let source = apply::check_source(front.manifest(), open, |_| self.go_on()).map_err(stopped)?;
        let body = apply::body(&front, file).map_err(refused)?;
        let partitions = front.manifest().partitions.iter().map(|partition| {
            (partition.name.clone(), PartitionRecord { size: partition.size, sha256: partition.sha256 })
        });
        let record = BuildRecord { build: offer.to.clone(), timestamp: made, partitions: partitions.collect() };
        Ok(Staged { source, body, package: offer.sha256, record, from, to, front })
    }

    fn apply(&self, staged: &Staged, progress: &mut dyn FnMut(u64, u64)) -> Result<(), InstallError> {
        let boot = self.boot();
        let mut control = boot.repair(self.storage)?;
        if control.slot(staged.to) != SlotState::UNBOOTABLE || control.active == staged.to {
            control.set(staged.to, SlotState::UNBOOTABLE);
            control.active = staged.from;
            boot.write(self.storage, &control)?;
        }

        let partitions = &staged.front.manifest().partitions;
        // Everything is written once and read once.
        let all = staged.front.manifest().target_len().get().saturating_mul(2);
        let mut done = 0u64;
        let mut step = |bytes: u64| {
            done = done.saturating_add(bytes).min(all);
            progress(done, all);
            self.go_on()
        };
        let (mut journal, start) = Journal::open(&self.journal, self.storage, staged)?;
        self.clear_slot(staged)?;
        let (first_partition, first_piece) = start;
        for (index, partition) in partitions.iter().enumerate() {
            if index < first_partition {
                let _ = step(partition.size.get());
                continue;
            }
            let first = if index == first_partition { first_piece } else { 0 };
            let _ = step(partition.pieces.iter().take(first).map(|piece| piece.len).sum());
            self.write_pieces(staged, index, first, &mut journal, &mut step)?;
        }
        for index in 0..partitions.len() {
            if let Err(error) = self.read_back(staged, index, &mut step)? {
                // Once more from the start: a part that was journalled can have been lost with the power.
                tracing::warn!(partition = %partitions[index].name, "read-back differs; writing the partition again");
                tracing::debug!(%error, "read-back");
                journal.write(index, 0)?;
                self.write_pieces(staged, index, 0, &mut journal, &mut step)?;
                self.read_back(staged, index, &mut step)??;
                journal.write(partitions.len(), 0)?;
            }
        }
        let path = self.config.build_file(staged.to);
        self.storage.create_directory(storage::directory_of(&path))?;
        let record = serde_json::to_vec_pretty(&staged.record).expect("a record of a build is JSON");
        Ok(storage::replace(self.storage, &path, &record)?)
    }

    fn activate(&self) -> Result<(), InstallError> {
        let booted = self.booted()?;
        let boot = self.boot();
        let mut control = boot.repair(self.storage)?;
        let to = booted.slot.other();
        control.set(to, SlotState::trial(self.tries));
        control.previous = booted.slot;
        control.active = to;
        boot.write(self.storage, &control)?;
        Ok(storage::remove(self.storage, &self.journal)?)
    }

    fn deactivate(&self) -> Result<(), InstallError> {
        let booted = self.booted()?;
        let boot = self.boot();
        let mut control = boot.repair(self.storage)?;
        let other = booted.slot.other();
        control.active = booted.slot;
        if !control.slot(other).successful {
            control.set(other, SlotState::UNBOOTABLE);
        }
        boot.write(self.storage, &control)?;
        Ok(())
    }

    fn confirm(&self) -> Result<(), InstallError> {
        let booted = self.booted()?;
        let boot = self.boot();
        let mut control = boot.repair(self.storage)?;
        control.set(booted.slot, SlotState::CONFIRMED);
        control.active = booted.slot;
        control.committed = booted.slot;
        boot.write(self.storage, &control)?;
        Ok(())
    }

    fn revert(&self) -> Result<Slot, InstallError> {
        let booted = self.booted()?;
        let boot = self.boot();
        let mut control = boot.repair(self.storage)?;
        let slot = booted.slot.other();
        let state = control.slot(slot);
        if !state.bootable {
            let reason = "it holds no whole build; a later update was written over it or the build in it was given up";
            return Err(InstallError::NothingToGoBackTo { slot, reason });
        }
        if !state.successful {
            return Err(InstallError::NothingToGoBackTo { slot, reason: "the build in it was never confirmed" });
        }
        if self.record(slot).is_err() {
            return Err(InstallError::NothingToGoBackTo { slot, reason: "nothing says which build it holds" });
        }
        if !control.slot(booted.slot).successful {
            control.set(booted.slot, SlotState::UNBOOTABLE);
        }
        control.previous = booted.slot;
        control.active = slot;
        control.committed = slot;
        boot.write(self.storage, &control)?;
        Ok(slot)
    }
}

/// Writes one piece at its place and never beyond it.
struct PieceWriter<'a> {
    handle: &'a dyn Handle,
    at: u64,
    left: u64,
    buffer: Vec<u8>,
}

impl<'a> PieceWriter<'a> {
    fn new(handle: &'a dyn Handle, start: u64, len: u64) -> Self {
        Self { handle, at: start, left: len, buffer: Vec::with_capacity(BUFFER) }
    }
}

impl Write for PieceWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = (BUFFER - self.buffer.len()).min(bytes.len());
        if room as u64 > self.left {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "the piece is longer than its place"));
        }
        self.buffer.extend_from_slice(&bytes[..room]);
        self.left -= room as u64;
        if self.buffer.len() == BUFFER {
            self.flush()?;
        }
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.handle.write_at(&self.buffer, self.at).map_err(|error| io::Error::new(error.source.kind(), error))?;
            self.at += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }
}

/// How far applying came: two copies written in turn, each `RVAJ`, sequence `u32`, SHA-256 of the package, slot,
/// partition `u32`, piece `u32`, CRC-32 of all that; little-endian.
struct Journal<'a> {
    file: Box<dyn Handle>,
    sequence: u32,
    package: Sha256,
    to: Slot,
    path: &'a Path,
}

const JOURNAL_MAGIC: &[u8; 4] = b"RVAJ";
const JOURNAL_LEN: usize = 4 + 4 + 32 + 1 + 4 + 4 + 4;
/// Copies start this far from each other, so that one sector never holds parts of both.
const JOURNAL_STRIDE: usize = 4096;

impl<'a> Journal<'a> {
    /// Opens the journal, and says at which partition and piece to go on; a journal of another package counts as none.
    fn open(path: &'a Path, storage: &'a dyn Storage, staged: &Staged) -> Result<(Self, (usize, usize)), InstallError> {
        let bytes = storage::read(path, 2 * JOURNAL_STRIDE as u64).unwrap_or_default().unwrap_or_default();
        let mut newest = None;
        for copy in bytes.chunks(JOURNAL_STRIDE) {
            if let Some((sequence, position)) = Self::decode(copy, staged.package, staged.to)
                && newest.is_none_or(|(newest, _)| sequence > newest)
            {
                newest = Some((sequence, position));
            }
        }
        let fresh = newest.is_none();
        let file = if fresh { storage.create(path)? } else { storage.open(path)? };
        let (sequence, position) = newest.unwrap_or_default();
        let mut journal = Self { file, sequence, package: staged.package, to: staged.to, path };
        if fresh {
            storage.sync_directory(storage::directory_of(path))?;
            journal.write(0, 0)?;
        }
        Ok((journal, position))
    }

    fn decode(copy: &[u8], package: Sha256, to: Slot) -> Option<(u32, (usize, usize))> {
        let copy = copy.get(..JOURNAL_LEN)?;
        let word = |at: usize| u32::from_le_bytes([copy[at], copy[at + 1], copy[at + 2], copy[at + 3]]);
        let right = copy.starts_with(JOURNAL_MAGIC)
            && word(JOURNAL_LEN - 4) == storage::crc32(&copy[..JOURNAL_LEN - 4])
            && copy[8..40] == *package.as_bytes()
            && copy[40] == to.letter().as_bytes()[0];
        right.then(|| (word(4), (word(41) as usize, word(45) as usize)))
    }

    fn write(&mut self, partition: usize, piece: usize) -> Result<(), InstallError> {
        let number = |index: usize| {
            let source = || io::Error::from(io::ErrorKind::FileTooLarge);
            u32::try_from(index).map_err(|_| StorageError::new("write", self.path, source()))
        };
        let (partition, piece) = (number(partition)?, number(piece)?);
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = JOURNAL_MAGIC.to_vec();
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(self.package.as_bytes());
        bytes.extend_from_slice(self.to.letter().as_bytes());
        bytes.extend_from_slice(&partition.to_le_bytes());
        bytes.extend_from_slice(&piece.to_le_bytes());
        bytes.extend_from_slice(&storage::crc32(&bytes).to_le_bytes());
        self.file.write_at(&bytes, u64::from(self.sequence % 2) * JOURNAL_STRIDE as u64)?;
        Ok(self.file.sync()?)
    }
}
