//! Boot control: which slot a bootloader boots, and when it gives up on one.
//!
//! The updater writes the file, a bootloader reads it and counts tries down. [`bootloader_boot`] does what a bootloader
//! has to do; pretend phones and tests boot with it, and it is the specification for real ones.
//!
//! # Layout
//! 32 bytes, integers little-endian:
//!
//! | offset | what |
//! |---|---|
//! | 0 | `RVBC` |
//! | 4 | version, 1 |
//! | 5 | active slot (0 = a, 1 = b): the one to boot |
//! | 6 | slot that was active before |
//! | 7 | committed slot: the one that was last confirmed |
//! | 8 | slot a: flags (1 bootable, 2 successful), tries left, two bytes 0 |
//! | 12 | slot b: the same |
//! | 16 | number of writes so far, `u32` |
//! | 20 | 8 bytes 0 |
//! | 28 | CRC-32 of the 28 bytes before |
//!
//! A file has its second copy beside it (`<name>.backup`); a block device has it [`BACKUP_OFFSET`] bytes in. The backup
//! is written first, then the first copy, each in one write; the first copy counts whenever its CRC is right. So a cut
//! leaves the old or the new state, and never a mix of the two.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::storage::{self, Storage, StorageError};

/// Where the second copy lies on a block device, in bytes: another erase block than the first, so that one bad write
/// cannot take both.
pub const BACKUP_OFFSET: u64 = 64 * 1024;

const LEN: usize = 32;
const MAGIC: &[u8; 4] = b"RVBC";
const VERSION: u8 = 1;

/// One of the two sets of partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// The first one.
    A,
    /// The second one.
    B,
}

impl Slot {
    /// The other one of the two.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Its letter, as in `{slot}` of the config.
    pub fn letter(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// Parses `a`, `b`, `_a` or `_b`; bootloaders say it either way.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix('_').unwrap_or(text) {
            "a" => Some(Self::A),
            "b" => Some(Self::B),
            _ => None,
        }
    }

    fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    fn from_index(index: u8) -> Option<Self> {
        match index {
            0 => Some(Self::A),
            1 => Some(Self::B),
            _ => None,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.letter())
    }
}

/// What boot control says about a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SlotState {
    /// It holds a whole build.
    pub bootable: bool,
    /// That build was confirmed.
    pub successful: bool,
    /// How often the bootloader may still try it before it was confirmed.
    pub tries_left: u8,
}

impl SlotState {
    /// A slot that is being written, or whose build was given up.
    pub const UNBOOTABLE: Self = Self { bootable: false, successful: false, tries_left: 0 };
    /// A slot whose build was confirmed.
    pub const CONFIRMED: Self = Self { bootable: true, successful: true, tries_left: 0 };

    /// A slot whose build the bootloader is to try `tries` times.
    pub fn trial(tries: u8) -> Self {
        Self { bootable: true, successful: false, tries_left: tries }
    }

    fn may_boot(self) -> bool {
        self.bootable && (self.successful || self.tries_left > 0)
    }
}

/// The contents of boot control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootControl {
    /// The slot to boot.
    pub active: Slot,
    /// The slot that was active before.
    pub previous: Slot,
    /// The slot that was last confirmed; booted when nothing else may be.
    pub committed: Slot,
    slots: [SlotState; 2],
    writes: u32,
}

impl BootControl {
    /// As a phone leaves the factory: `slot` holds the build, the other one nothing.
    pub fn factory(slot: Slot) -> Self {
        let mut control =
            Self { active: slot, previous: slot, committed: slot, slots: [SlotState::UNBOOTABLE; 2], writes: 0 };
        control.slots[slot.index()] = SlotState::CONFIRMED;
        control
    }

    /// The state of a slot.
    pub fn slot(&self, slot: Slot) -> SlotState {
        self.slots[slot.index()]
    }

    /// Changes the state of a slot.
    pub fn set(&mut self, slot: Slot, state: SlotState) {
        self.slots[slot.index()] = state;
    }

    /// Whether the active slot still has to prove itself.
    pub fn trial_pending(&self) -> bool {
        let active = self.slot(self.active);
        active.bootable && !active.successful
    }

    /// The bytes as laid out above.
    pub fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4] = VERSION;
        for (at, slot) in [(5, self.active), (6, self.previous), (7, self.committed)] {
            bytes[at] = u8::from(slot == Slot::B);
        }
        for (at, slot) in [(8, Slot::A), (12, Slot::B)] {
            let state = self.slot(slot);
            bytes[at] = u8::from(state.bootable) | u8::from(state.successful) << 1;
            bytes[at + 1] = state.tries_left;
        }
        bytes[16..20].copy_from_slice(&self.writes.to_le_bytes());
        let crc = storage::crc32(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Parses a copy; `None` if it is damaged or of another version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LEN] = bytes.try_into().ok()?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if &bytes[..4] != MAGIC || bytes[4] != VERSION || word(28) != storage::crc32(&bytes[..28]) {
            return None;
        }
        let state = |at: usize| {
            let known = bytes[at] <= 3 && bytes[at + 2] == 0 && bytes[at + 3] == 0;
            known.then_some(SlotState {
                bootable: bytes[at] & 1 != 0,
                successful: bytes[at] & 2 != 0,
                tries_left: bytes[at + 1],
            })
        };
        if bytes[20..28].iter().any(|&byte| byte != 0) {
            return None;
        }
        Some(Self {
            active: Slot::from_index(bytes[5])?,
            previous: Slot::from_index(bytes[6])?,
            committed: Slot::from_index(bytes[7])?,
            slots: [state(8)?, state(12)?],
            writes: word(16),
        })
    }
}

/// Why boot control could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// Reading or writing failed.
    #[error("boot control could not be used")]
    Storage(#[from] StorageError),
    /// Neither copy is whole.
    #[error("both copies of boot control {} are damaged", .path.display())]
    Damaged {
        /// The first copy.
        path: PathBuf,
    },
    /// There is no such file.
    #[error("there is no boot control at {}", .path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The file that names the running slot is missing or unreadable.
    #[error("{} does not say which slot runs: it holds {found:?}; expected a, b, or {{\"slot\":\"a\",\"boot_id\":\"…\"}}", .path.display())]
    Booted {
        /// The file.
        path: PathBuf,
        /// What it holds, cut at 80 characters.
        found: String,
    },
}

/// Boot control at its place: a file with its backup beside it, or a block device.
#[derive(Debug, Clone)]
pub struct BootFile {
    path: PathBuf,
    in_place: bool,
}

impl BootFile {
    /// Boot control at `path`; a block device is written in place, a file is replaced.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), in_place: storage::is_block_device(path) }
    }

    /// Boot control written in place, as on a block device, also where `path` is a file.
    pub fn in_place(path: &Path) -> Self {
        Self { path: path.to_owned(), in_place: true }
    }

    /// The first copy.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn backup(&self) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".backup");
        self.path.with_file_name(name)
    }

    /// Reads the first copy, or the backup where that is damaged.
    ///
    /// # Errors
    /// - [`BootError::Missing`] if there is none.
    /// - [`BootError::Damaged`] if neither copy is whole.
    /// - [`BootError::Storage`] if it cannot be read.
    pub fn read(&self) -> Result<BootControl, BootError> {
        let [first, backup] = self.copies()?;
        let missing = first.is_none() && backup.is_none();
        let decode = |bytes: Option<Vec<u8>>| bytes.and_then(|bytes| BootControl::decode(&bytes));
        decode(first).or_else(|| decode(backup)).ok_or_else(|| {
            let path = self.path.clone();
            if missing { BootError::Missing { path } } else { BootError::Damaged { path } }
        })
    }

    fn copies(&self) -> Result<[Option<Vec<u8>>; 2], BootError> {
        if !self.in_place {
            return Ok([storage::read(&self.path, 4096)?, storage::read(&self.backup(), 4096)?]);
        }
        use std::os::unix::fs::FileExt;
        let error = |source| StorageError::new("open", &self.path, source);
        let file = match std::fs::File::open(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok([None, None]),
            other => other.map_err(error)?,
        };
        let copy = |offset| {
            let mut bytes = vec![0; LEN];
            file.read_exact_at(&mut bytes, offset).ok().map(|()| bytes)
        };
        Ok([copy(0), copy(BACKUP_OFFSET)])
    }

    /// Writes both copies durably, the backup first: the write of the first copy is the moment at which it counts.
    ///
    /// # Errors
    /// [`BootError::Storage`] of the step that failed.
    pub fn write(&self, storage: &dyn Storage, control: &BootControl) -> Result<BootControl, BootError> {
        let control = BootControl { writes: control.writes.wrapping_add(1), ..*control };
        let bytes = control.encode();
        if self.in_place {
            let device = storage.open(&self.path)?;
            for offset in [BACKUP_OFFSET, 0] {
                device.write_at(&bytes, offset)?;
                device.sync()?;
            }
        } else {
            storage::replace(storage, &self.backup(), &bytes)?;
            storage::replace(storage, &self.path, &bytes)?;
        }
        Ok(control)
    }

    /// Makes the copies equal again after a cut between them, so that an older backup never comes back.
    ///
    /// # Errors
    /// As for [`BootFile::read`] and [`BootFile::write`].
    pub fn repair(&self, storage: &dyn Storage) -> Result<BootControl, BootError> {
        let control = self.read()?;
        let bytes = control.encode();
        let [first, backup] = self.copies()?;
        if first.as_deref() == Some(&bytes) && backup.as_deref() == Some(&bytes) {
            return Ok(control);
        }
        self.write(storage, &control)
    }
}

/// What the bootloader reported about this boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booted {
    /// The slot that runs.
    pub slot: Slot,
    /// Differs from boot to boot.
    pub boot_id: String,
}

impl Booted {
    /// Reads what the bootloader left at `path`: JSON as [`bootloader_boot`] writes it, or the bare letter of the slot,
    /// with the boot id in `boot_id` (Linux has one in `/proc/sys/kernel/random/boot_id`).
    ///
    /// # Errors
    /// [`BootError::Booted`] if it says nothing of the kind, [`BootError::Storage`] if it cannot be read.
    pub fn read(path: &Path, boot_id: Option<&Path>) -> Result<Self, BootError> {
        let text = |path: &Path| -> Result<String, BootError> {
            let bytes = storage::read(path, 4096)?.unwrap_or_default();
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        let booted = text(path)?;
        let unclear = |path: &Path, found: &str| BootError::Booted {
            path: path.to_owned(),
            found: found.chars().take(80).collect(),
        };
        let (slot, given) = match Slot::parse(&booted) {
            Some(slot) => (slot, None),
            None => {
                let Booted { slot, boot_id } = serde_json::from_str(&booted).map_err(|_| unclear(path, &booted))?;
                (slot, Some(boot_id))
            }
        };
        let boot_id = match (boot_id, given) {
            (Some(path), _) => text(path)?,
            (None, Some(given)) => given,
            (None, None) => return Err(unclear(path, &booted)),
        };
        if boot_id.is_empty() {
            return Err(unclear(path, &booted));
        }
        Ok(Self { slot, boot_id })
    }
}

/// Chooses the slot to boot as a bootloader must, counts a try, and reports the choice in the file `booted`.
///
/// 1. The active slot, if it is bootable and confirmed, or has tries left. A try is counted down, and written before the
///    slot is started, only while a trial is pending: a confirmed slot can be booted and cut off as often as you like.
/// 2. Else the slot that was active before, else the other one, if it may be booted.
/// 3. Else the slot that was last confirmed, whatever its flags say: a phone that tries is better than one that stops.
///
/// # Errors
/// As for [`BootFile::read`] and [`BootFile::write`].
pub fn bootloader_boot(
    storage: &dyn Storage,
    file: &BootFile,
    booted: &Path,
    boot_id: &str,
) -> Result<Booted, BootError> {
    let mut control = file.read()?;
    let slot = [control.active, control.previous, control.active.other()]
        .into_iter()
        .find(|&slot| control.slot(slot).may_boot())
        .unwrap_or(control.committed);
    let state = control.slot(slot);
    if !state.successful && state.tries_left > 0 {
        control.set(slot, SlotState { tries_left: state.tries_left - 1, ..state });
        file.write(storage, &control)?;
    }
    let answer = Booted { slot, boot_id: boot_id.to_owned() };
    let text = serde_json::to_vec(&answer).expect("a slot and a text are JSON");
    storage::replace(storage, booted, &text)?;
    Ok(answer)
}
