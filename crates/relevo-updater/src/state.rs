//! What the updater remembers, and how it makes sense of it after anything.
//!
//! Rule: write the intent, flush, act, write the result, flush. At each start the journal is compared with what the
//! machine says ([`Reality`]), and the machine is right: [`reconcile`].

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use relevo_types::{BuildId, ByteLen, Sha256, TargetPath};
use serde::{Deserialize, Serialize};

use crate::{
    boot::{BootControl, Booted, Slot},
    mirror::{Aside, Measured},
    storage::{self, Storage, StorageError},
    transparency::Transparency,
};

/// The longest state file that we read, in bytes.
const MAX_STATE: u64 = 256 * 1024;
/// How many failed builds are remembered.
const MAX_FAILED: usize = 16;

/// A package that was chosen from verified metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The package.
    pub path: TargetPath,
    /// Its length in bytes.
    pub length: ByteLen,
    /// Its hash.
    pub sha256: Sha256,
    /// The build that it starts from; `None` for a full package.
    pub from: Option<BuildId>,
    /// The build that it makes.
    pub to: BuildId,
    /// That build's version for people.
    pub version: String,
    /// That build's date, in seconds since 1970.
    pub timestamp: i64,
    /// Its chunk list, a target in the same directory.
    pub chunks: TargetPath,
    /// Updates, each with a reboot, that are needed after this one to reach the newest build.
    pub steps_after: usize,
}

/// Where the updater is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Nothing is under way.
    #[default]
    Idle,
    /// A package is on its way; what came is kept.
    Downloading {
        /// What was chosen.
        offer: Offer,
    },
    /// A package is whole and its hash right.
    Staged {
        /// What was chosen.
        offer: Offer,
    },
    /// The other slot is being written, and cannot be booted.
    Applying {
        /// What was chosen.
        offer: Offer,
        /// The slot that runs.
        from: Slot,
        /// The slot that is written.
        to: Slot,
    },
    /// The other slot is written and was read back.
    Applied {
        /// What was chosen.
        offer: Offer,
        /// The slot that runs.
        from: Slot,
        /// The slot that was written.
        to: Slot,
    },
    /// Boot control is about to name the other slot.
    Activating {
        /// What was chosen.
        offer: Offer,
        /// The slot that runs.
        from: Slot,
        /// The slot that was written.
        to: Slot,
        /// The boot in which this happens.
        boot_id: String,
    },
    /// The next boot tries the new build.
    PendingReboot {
        /// The build that waits.
        build: BuildId,
        /// Its date, in seconds since 1970.
        timestamp: i64,
        /// The slot that runs.
        from: Slot,
        /// The slot that will.
        to: Slot,
        /// The boot in which it was activated.
        boot_id: String,
    },
    /// The new build runs and was not confirmed yet.
    Trial {
        /// The build.
        build: BuildId,
        /// Its date, in seconds since 1970.
        timestamp: i64,
        /// The slot to go back to.
        from: Slot,
        /// The slot that runs.
        to: Slot,
    },
    /// The new build was confirmed.
    Committed {
        /// The build.
        build: BuildId,
    },
    /// The next boot leaves the running build for the one before.
    Reverting {
        /// The build that is left.
        build: BuildId,
        /// Its date, in seconds since 1970.
        timestamp: i64,
        /// The slot that runs.
        from: Slot,
        /// The slot that will.
        to: Slot,
        /// The boot in which it was asked for.
        boot_id: String,
    },
    /// A build was given up; the one before runs.
    RolledBack {
        /// The build that failed.
        build: BuildId,
        /// Why.
        reason: String,
    },
}

impl Phase {
    /// The name, as in `status --json`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Downloading { .. } => "downloading",
            Self::Staged { .. } => "staged",
            Self::Applying { .. } => "applying",
            Self::Applied { .. } => "applied",
            Self::Activating { .. } => "activating",
            Self::PendingReboot { .. } => "pending_reboot",
            Self::Trial { .. } => "trial",
            Self::Committed { .. } => "committed",
            Self::Reverting { .. } => "reverting",
            Self::RolledBack { .. } => "rolled_back",
        }
    }

    /// The package that is being dealt with.
    pub fn offer(&self) -> Option<&Offer> {
        match self {
            Self::Downloading { offer }
            | Self::Staged { offer }
            | Self::Applying { offer, .. }
            | Self::Applied { offer, .. }
            | Self::Activating { offer, .. } => Some(offer),
            _ => None,
        }
    }

    /// Whether another build may be chosen now.
    pub fn is_free(&self) -> bool {
        matches!(
            self,
            Self::Idle
                | Self::Downloading { .. }
                | Self::Staged { .. }
                | Self::Committed { .. }
                | Self::RolledBack { .. }
        )
    }
}

/// A build that is not tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The build.
    pub build: BuildId,
    /// Its date, in seconds since 1970.
    pub timestamp: i64,
    /// What happened.
    pub reason: String,
}

/// The last poll.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastCheck {
    /// When it was.
    pub at: Timestamp,
    /// The answer, in words.
    pub answer: String,
    /// Mirrors that were put aside in it or in the download after it.
    pub aside: Vec<Aside>,
}

/// Everything that the updater remembers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    /// The phone's own dice: rollout percentages and jitter come from it. It never leaves the phone.
    pub seed: u64,
    /// The latest time at which metadata was verified; the clock is never believed to be before it.
    pub verified_at: Option<Timestamp>,
    /// Where we are.
    pub phase: Phase,
    /// Builds that are not tried again.
    pub failed: Vec<Failed>,
    /// The running build, if its images turned out to be others than it was made of: only full packages fit it.
    #[serde(default)]
    pub source_differs: Option<BuildId>,
    /// The last poll.
    pub last_check: Option<LastCheck>,
    /// The last error, in words.
    pub last_error: Option<String>,
    /// What was measured of each mirror.
    pub mirrors: BTreeMap<String, Measured>,
    /// What is known of the transparency log.
    #[serde(default)]
    pub transparency: Transparency,
}

impl State {
    /// Remembers a build that is not to be tried again.
    pub fn remember_failed(&mut self, failed: Failed) {
        self.failed.retain(|known| known.build != failed.build);
        self.failed.push(failed);
        if self.failed.len() > MAX_FAILED {
            self.failed.remove(0);
        }
    }
}

/// The state on disk: two files that are written in turn, each `relevo-state 1 <sequence> <crc32>` and a line of JSON.
#[derive(Debug)]
pub struct StateFile {
    directory: PathBuf,
    sequence: u64,
}

const NAMES: [&str; 2] = ["state-0", "state-1"];

impl StateFile {
    /// Reads the newer of the two that are whole; the default state if none is.
    ///
    /// # Errors
    /// [`StorageError`] only if a file is there and cannot be read; a damaged one counts as none.
    pub fn open(directory: &Path) -> Result<(Self, State), StorageError> {
        let mut newest: Option<(u64, State)> = None;
        for name in NAMES {
            let Some(bytes) = storage::read(&directory.join(name), MAX_STATE)? else { continue };
            match decode(&bytes) {
                Some((sequence, state)) if newest.as_ref().is_none_or(|(newest, _)| sequence > *newest) => {
                    newest = Some((sequence, state));
                }
                Some(_) => {}
                None => tracing::warn!(file = name, "a copy of the state is damaged; the other one counts"),
            }
        }
        let (sequence, state) = newest.unwrap_or_default();
        Ok((Self { directory: directory.to_owned(), sequence }, state))
    }

    /// Writes the state durably, over the older of the two files.
    ///
    /// # Errors
    /// [`StorageError`]; the state on disk is then what it was.
    pub fn save(&mut self, storage: &dyn Storage, state: &State) -> Result<(), StorageError> {
        let sequence = self.sequence.wrapping_add(1);
        let name = NAMES[usize::from(sequence % 2 == 1)];
        storage::replace(storage, &self.directory.join(name), &encode(sequence, state))?;
        self.sequence = sequence;
        Ok(())
    }
}

fn encode(sequence: u64, state: &State) -> Vec<u8> {
    let json = serde_json::to_vec(state).expect("the state is JSON");
    let mut covered = sequence.to_le_bytes().to_vec();
    covered.extend_from_slice(&json);
    let mut bytes = format!("relevo-state 1 {sequence} {:08x}\n", storage::crc32(&covered)).into_bytes();
    bytes.extend_from_slice(&json);
    bytes.push(b'\n');
    bytes
}

fn decode(bytes: &[u8]) -> Option<(u64, State)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, json) = text.split_once('\n')?;
    let json = json.strip_suffix('\n')?;
    let (sequence, crc) = head.strip_prefix("relevo-state 1 ")?.split_once(' ')?;
    let sequence: u64 = sequence.parse().ok()?;
    let mut covered = sequence.to_le_bytes().to_vec();
    covered.extend_from_slice(json.as_bytes());
    if u32::from_str_radix(crc, 16).ok()? != storage::crc32(&covered) {
        return None;
    }
    Some((sequence, serde_json::from_str(json).ok()?))
}

/// Which build a slot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// The build.
    pub build: BuildId,
    /// Its date, in seconds since 1970.
    pub timestamp: i64,
    /// Its partitions.
    pub partitions: BTreeMap<relevo_types::PartitionName, PartitionRecord>,
}

/// A partition of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionRecord {
    /// Its size in bytes.
    pub size: ByteLen,
    /// Its hash.
    pub sha256: Sha256,
}

/// What the machine says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reality {
    /// What the bootloader booted.
    pub booted: Booted,
    /// What it will do next.
    pub control: BootControl,
    /// The build in the running slot.
    pub running: BuildRecord,
    /// The build in the other slot, if it holds a whole one.
    pub other: Option<BuildRecord>,
}

/// What follows from journal and machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Where we really are.
    pub phase: Phase,
    /// A build that failed since the journal was written.
    pub failed: Option<Failed>,
    /// Boot control still names a slot that was given up, and must go back to the running one.
    pub deactivate: bool,
}

/// Compares the journal with the machine; the machine is right.
pub fn reconcile(journal: &Phase, reality: &Reality) -> Settled {
    let running = reality.booted.slot;
    let control = &reality.control;
    let other = running.other();
    let keep = |phase: Phase| Settled { phase, failed: None, deactivate: false };
    let rolled_back = |build: &BuildId, timestamp: i64, reason: &str| Settled {
        phase: Phase::RolledBack { build: build.clone(), reason: reason.to_owned() },
        failed: Some(Failed { build: build.clone(), timestamp, reason: reason.to_owned() }),
        deactivate: control.active != running,
    };
    // An unconfirmed build that runs is on trial whatever the journal says.
    let trial = |build: &BuildId, timestamp: i64| {
        if control.slot(running).successful {
            keep(Phase::Committed { build: build.clone() })
        } else {
            keep(Phase::Trial { build: build.clone(), timestamp, from: other, to: running })
        }
    };
    const GIVEN_UP: &str = "the bootloader went back to the build before";

    match journal {
        Phase::PendingReboot { build, timestamp, from, to, boot_id } => {
            if running == *to {
                trial(build, *timestamp)
            } else if reality.booted.boot_id != *boot_id {
                rolled_back(build, *timestamp, GIVEN_UP)
            } else if control.active == *to && running == *from {
                keep(journal.clone())
            } else {
                keep(Phase::Idle)
            }
        }
        Phase::Activating { offer, from, to, boot_id } => {
            let activated = control.active == *to && control.slot(*to).bootable;
            let pending = Phase::PendingReboot {
                build: offer.to.clone(),
                timestamp: offer.timestamp,
                from: *from,
                to: *to,
                boot_id: boot_id.clone(),
            };
            if running == *to || activated {
                reconcile(&pending, reality)
            } else {
                keep(Phase::Applied { offer: offer.clone(), from: *from, to: *to })
            }
        }
        Phase::Trial { build, timestamp, to, .. } => {
            if running == *to {
                trial(build, *timestamp)
            } else {
                rolled_back(build, *timestamp, GIVEN_UP)
            }
        }
        Phase::Reverting { build, timestamp, to, boot_id, .. } => {
            if running == *to {
                rolled_back(build, *timestamp, "reverted by hand")
            } else if control.active == *to && reality.booted.boot_id == *boot_id {
                keep(journal.clone())
            } else {
                trial(build, *timestamp)
            }
        }
        Phase::Applying { to, offer, .. } | Phase::Applied { to, offer, .. } if running == *to => {
            // Another slot was started in between; what was written so far is of no use here.
            let fits = offer.from.as_ref().is_none_or(|from| *from == reality.running.build);
            let fits = fits && offer.to != reality.running.build;
            keep(if fits { Phase::Staged { offer: offer.clone() } } else { Phase::Idle })
        }
        Phase::Downloading { offer } | Phase::Staged { offer }
            if offer.to == reality.running.build
                || offer.from.as_ref().is_some_and(|from| *from != reality.running.build) =>
        {
            keep(Phase::Idle)
        }
        Phase::Idle | Phase::Committed { .. } | Phase::RolledBack { .. } => {
            // The journal may be lost or older than what happened: the flags of the slots tell.
            if !control.slot(running).successful && control.slot(running).bootable {
                return trial(&reality.running.build, reality.running.timestamp);
            }
            match &reality.other {
                Some(waiting) if control.active == other && control.trial_pending() => {
                    let (build, timestamp) = (waiting.build.clone(), waiting.timestamp);
                    if control.slot(other).tries_left == 0 {
                        return rolled_back(&build, timestamp, GIVEN_UP);
                    }
                    let boot_id = reality.booted.boot_id.clone();
                    keep(Phase::PendingReboot { build, timestamp, from: running, to: other, boot_id })
                }
                _ => keep(journal.clone()),
            }
        }
        Phase::Applying { .. } | Phase::Applied { .. } | Phase::Downloading { .. } | Phase::Staged { .. } => {
            keep(journal.clone())
        }
    }
}
