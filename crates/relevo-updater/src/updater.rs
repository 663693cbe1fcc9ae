//! The updater itself: check, download, install, confirm, revert, status, and the poll loop.

use std::{
    fs::{File, TryLockError},
    io,
    path::PathBuf,
    time::Duration,
};

use jiff::Timestamp;
use relevo_meta::{
    Package, Scope, TrustError, Trusted, TrustedDevice,
    chunks::{ChunkError, ChunkList, MAX_LIST},
    log::LogError,
    policy::{self, Choice, PhoneState},
};
use relevo_types::{BuildId, Sha256};
use serde::Serialize;

use crate::{
    boot::Slot,
    config::Config,
    download::{Chunks, DownloadError, Downloader, Received, Wanted, hash_file},
    http::Http,
    install::{Block, InstallError, Installer},
    mirror::{Aside, Mirrors, chain},
    state::{self, Failed, LastCheck, Offer, Phase, Reality, State, StateFile},
    stop::Stop,
    storage::{self, Storage, StorageError},
    transparency::{LogReader, Transparency, TransparencyError},
    trust::{RefreshError, TrustStore},
};

/// What only `main.rs` may ask the machine for.
pub struct Environment<'a> {
    /// The clock.
    pub now: &'a (dyn Fn() -> Timestamp + Sync),
    /// A random number; the phone's dice if it has none yet.
    pub seed: u64,
    /// What is changed on disk.
    pub storage: &'a dyn Storage,
    /// Ends the work.
    pub stop: Stop,
    /// Is told what is going on, with bytes done and all bytes.
    pub progress: &'a (dyn Fn(Activity, u64, u64) + Sync),
}

impl std::fmt::Debug for Environment<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment").field("storage", &self.storage).finish_non_exhaustive()
    }
}

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Chunks are arriving.
    Downloading,
    /// The other slot is written and read back.
    Installing,
}

/// Why an update did not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// Another process has the state directory.
    #[error("another relevo-updater is at work in {}", .directory.display())]
    Busy {
        /// The state directory.
        directory: PathBuf,
    },
    /// There is no verified metadata.
    #[error("could not find out what there is")]
    Refresh(#[from] RefreshError),
    /// The download did not end well.
    #[error("could not download build {build}")]
    Download {
        /// The build.
        build: BuildId,
        /// Why.
        source: DownloadError,
    },
    /// The chunk list of a package cannot be used.
    #[error("could not download build {build}: {what} is damaged although it is the one that was signed")]
    ChunkList {
        /// The build.
        build: BuildId,
        /// The chunk list.
        what: String,
        /// What is wrong with it.
        source: Box<ChunkError>,
    },
    /// A package has no chunk list.
    #[error("the package {path} has no chunk list, so it cannot be checked as it comes")]
    NoChunkList {
        /// The package.
        path: String,
    },
    /// Installing did not end well.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// A package that was downloaded is not offered any more.
    #[error("build {build} was downloaded, but is not offered any more")]
    NotOffered {
        /// The build.
        build: BuildId,
    },
    /// The downloaded file is not what was verified.
    #[error("the download of build {build} was damaged on disk and was removed; run download again")]
    Damaged {
        /// The build.
        build: BuildId,
    },
    /// The policy for the transparency log wants something that is not so; by hand, it can be installed.
    #[error("build {build} is not installed unattended: {because}")]
    Held {
        /// The build.
        build: BuildId,
        /// What is missing.
        because: String,
    },
    /// It makes no sense in this phase.
    #[error("{action} is not possible now: {because}")]
    NotNow {
        /// What was asked for.
        action: &'static str,
        /// Why not.
        because: String,
    },
    /// The disk refused something.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// We were asked to end.
    #[error("stopped")]
    Stopped,
}

/// The answer of `check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Found {
    /// The newest build of the channel runs.
    UpToDate {
        /// The build.
        build: BuildId,
    },
    /// There is an update.
    Update {
        /// The package for it.
        offer: Box<Offer>,
    },
    /// Nobody vouches for the device any more; no update will come until somebody does.
    Unmaintained {
        /// Since when.
        since: Timestamp,
    },
    /// There is an update, and the policy for the transparency log lets it be installed by hand alone for now.
    Waiting {
        /// The package for it.
        offer: Box<Offer>,
        /// What is waited for.
        reason: String,
    },
    /// There is nothing for this phone now.
    Nothing {
        /// Why.
        reason: String,
    },
    /// An update is under way already.
    UnderWay {
        /// What is next, in words.
        next: String,
    },
}

/// What `check` and `download` cost and found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// What there is.
    #[serde(flatten)]
    pub found: Found,
    /// Mirrors that were put aside, with reasons.
    pub aside: Vec<Aside>,
    /// Bytes of package and chunk list that came over the network.
    pub received_bytes: u64,
    /// Bytes that were on disk already.
    pub kept_bytes: u64,
    /// Requests for parts of the package.
    pub requests: u64,
    /// The finished package.
    pub file: Option<PathBuf>,
    /// What speaks against installing it unattended, by the policy for the transparency log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
}

/// The answer of `install`, `confirm` and `revert`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Done {
    /// What happened and what is next, in words.
    pub message: String,
    /// Where we are now.
    pub phase: &'static str,
}

/// The answer of `status`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// Where we are.
    pub phase: &'static str,
    /// The same in words, with what is next.
    pub message: String,
    /// The running slot.
    pub slot: Slot,
    /// The build in it.
    pub build: BuildId,
    /// When that was made, in seconds since 1970.
    pub build_timestamp: i64,
    /// Whether it was confirmed.
    pub confirmed: bool,
    /// The build in the other slot, if it holds a whole one.
    pub other_build: Option<BuildId>,
    /// The package that is being dealt with.
    pub offer: Option<Offer>,
    /// Bytes of it on disk that were verified, if it is being downloaded.
    pub downloaded_bytes: Option<u64>,
    /// Builds that are not tried again.
    pub failed: Vec<Failed>,
    /// The last poll.
    pub last_check: Option<LastCheck>,
    /// The last error.
    pub last_error: Option<String>,
    /// What is known of the transparency log, if there is a policy for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transparency: Option<Transparency>,
}

/// The updater with its state directory locked.
pub struct Updater<'a> {
    config: &'a Config,
    environment: &'a Environment<'a>,
    installer: Block<'a>,
    file: StateFile,
    state: State,
    stale: bool,
    /// Whether nobody asked for what is being done, so that the policy for the transparency log decides.
    unattended: bool,
    _lock: Option<File>,
}

impl std::fmt::Debug for Updater<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Updater").field("state", &self.state).finish_non_exhaustive()
    }
}

impl<'a> Updater<'a> {
    /// Opens the state directory and brings journal and machine together.
    ///
    /// # Errors
    /// - [`UpdateError::Busy`] while another process has it.
    /// - [`UpdateError::Install`] if the machine does not say what runs.
    /// - [`UpdateError::Storage`].
    pub fn open(config: &'a Config, environment: &'a Environment<'a>) -> Result<Self, UpdateError> {
        let directory = &config.state_dir;
        for directory in [directory.clone(), directory.join("downloads")] {
            environment.storage.create_directory(&directory)?;
        }
        let path = directory.join("lock");
        let error = |source| StorageError::new("lock", &path, source);
        let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(error)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(UpdateError::Busy { directory: directory.clone() }),
            Err(TryLockError::Error(source)) => return Err(error(source).into()),
        }
        let mut updater = Self::read(config, environment)?;
        updater._lock = Some(lock);
        if updater.state.seed == 0 {
            updater.state.seed = environment.seed.max(1);
            updater.save()?;
        }
        updater.settle()?;
        Ok(updater)
    }

    /// Takes metadata past their date from the mirrors, for as long as the root allows: for an offline carrier that the
    /// owner of the phone chose by hand. The poll loop never does this by itself.
    pub fn accept_stale(&mut self) {
        self.stale = true;
    }

    fn read(config: &'a Config, environment: &'a Environment<'a>) -> Result<Self, UpdateError> {
        let (file, state) = StateFile::open(&config.state_dir)?;
        let installer = Block {
            config: &config.block,
            codename: &config.codename,
            tries: config.tries,
            reserve: config.reserve,
            journal: config.state_dir.join("apply.journal"),
            storage: environment.storage,
            stop: &environment.stop,
        };
        Ok(Self { config, environment, installer, file, state, stale: false, unattended: false, _lock: None })
    }

    /// Says where we are, without changing anything; works while another process is busy.
    ///
    /// # Errors
    /// [`UpdateError::Install`] if the machine does not say what runs; [`UpdateError::Storage`].
    pub fn status(config: &'a Config, environment: &'a Environment<'a>) -> Result<Status, UpdateError> {
        let updater = Self::read(config, environment)?;
        let reality = updater.installer.observe()?;
        let settled = state::reconcile(&updater.state.phase, &reality);
        let mut state = updater.state;
        if let Some(failed) = settled.failed {
            state.remember_failed(failed);
        }
        let phase = settled.phase;
        let downloads = config.state_dir.join("downloads");
        let downloaded_bytes = match &phase {
            Phase::Downloading { offer } => Some(wanted(offer).verified_bytes(&downloads)),
            _ => None,
        };
        Ok(Status {
            phase: phase.name(),
            message: describe(&phase, &reality),
            slot: reality.booted.slot,
            build: reality.running.build.clone(),
            build_timestamp: reality.running.timestamp,
            confirmed: reality.control.slot(reality.booted.slot).successful,
            other_build: reality.other.as_ref().map(|other| other.build.clone()),
            offer: phase.offer().cloned(),
            downloaded_bytes,
            failed: state.failed,
            last_check: state.last_check,
            last_error: state.last_error,
            transparency: Some(state.transparency).filter(|_| config.transparency.is_active()),
        })
    }

    fn save(&mut self) -> Result<(), UpdateError> {
        Ok(self.file.save(self.environment.storage, &self.state)?)
    }

    /// Saves what is good to know about an error; that error counts more than one of saving.
    fn save_aside(&mut self) {
        if let Err(error) = self.save() {
            tracing::warn!(reason = chain(&error), "the state could not be saved");
        }
    }

    fn enter(&mut self, phase: Phase) -> Result<(), UpdateError> {
        tracing::info!(phase = phase.name(), "phase");
        self.state.phase = phase;
        self.save()
    }

    /// Brings journal and machine together; the machine is right.
    fn settle(&mut self) -> Result<Reality, UpdateError> {
        let reality = self.installer.observe()?;
        let settled = state::reconcile(&self.state.phase, &reality);
        if settled.phase != self.state.phase || settled.failed.is_some() {
            if let Some(failed) = settled.failed {
                tracing::warn!(build = %failed.build, reason = failed.reason, "a build was given up");
                self.state.remember_failed(failed);
            }
            self.enter(settled.phase)?;
        }
        if !settled.deactivate {
            return Ok(reality);
        }
        self.installer.deactivate()?;
        Ok(self.installer.observe()?)
    }

    /// The time: never before the running build was made, and never before metadata was last verified.
    fn now(&self, reality: &Reality) -> Timestamp {
        let built = Timestamp::from_second(reality.running.timestamp).unwrap_or(Timestamp::MIN);
        policy::present((self.environment.now)(), built, self.state.verified_at)
    }

    fn mirrors(&self) -> Mirrors {
        Mirrors::new(&self.config.mirrors, &self.state.mirrors, self.config.network.retries)
    }

    fn trust_directory(&self) -> PathBuf {
        self.config.state_dir.join("trusted")
    }

    fn with_store<T>(&self, work: impl FnOnce(&TrustStore<'_>) -> T) -> T {
        let directory = self.trust_directory();
        let scope = Scope::Device { vendor: self.config.vendor.clone(), codename: self.config.codename.clone() };
        let (root, storage) = (&self.config.root, self.environment.storage);
        work(&TrustStore { directory: &directory, root, storage, scope, stale: self.stale })
    }

    fn refresh(&mut self, http: &Http, mirrors: &Mirrors, reality: &Reality) -> Result<Trusted, UpdateError> {
        let now = self.now(reality);
        let wait = |round: u32| backoff(self.config.network.retry_wait, round);
        let answer = self.with_store(|store| store.refresh(http, mirrors, &self.environment.stop, wait, now));
        self.state.mirrors = mirrors.measured();
        match answer {
            Ok(trusted) => {
                match trusted.stale_since() {
                    None => self.state.verified_at = Some(now),
                    // What was not fresh says nothing about the time.
                    Some(since) => tracing::warn!(%since, "metadata are past their date; taken as asked"),
                }
                Ok(trusted)
            }
            Err(error) => {
                let answer = chain(&error);
                self.state.last_check = Some(LastCheck { at: now, answer, aside: mirrors.aside() });
                self.save_aside();
                Err(error.into())
            }
        }
    }

    fn device<'t>(&self, trusted: &'t Trusted) -> Result<&'t TrustedDevice, UpdateError> {
        trusted.device(&self.config.codename).ok_or_else(|| {
            let codename = self.config.codename.clone();
            let vendor = self.config.vendor.clone();
            RefreshError::from(TrustError::NoSuchDevice { vendor, codename }).into()
        })
    }

    /// Polls: is there something for this phone?
    ///
    /// # Errors
    /// [`UpdateError::Refresh`], [`UpdateError::Install`], [`UpdateError::Storage`].
    pub fn check(&mut self) -> Result<Outcome, UpdateError> {
        let reality = self.settle()?;
        let (http, mirrors) = (Http::new(&self.config.network, &self.environment.stop), self.mirrors());
        let found = match maintained(self.refresh(&http, &mirrors, &reality))? {
            Ok(trusted) => {
                self.look_at_log(&http, &mirrors, &trusted, &reality)?;
                self.choose(self.device(&trusted)?, &reality)?
            }
            Err(unmaintained) => unmaintained,
        };
        self.checked(&found, &mirrors, &reality)?;
        Ok(self.outcome(found, &mirrors, &reality))
    }

    /// Finds the device's roles in the transparency log, and remembers which packages are seen; what is wrong with the log
    /// is remembered, and decides when somebody wants to install.
    fn look_at_log(
        &mut self,
        http: &Http,
        mirrors: &Mirrors,
        trusted: &Trusted,
        reality: &Reality,
    ) -> Result<(), UpdateError> {
        let policy = &self.config.transparency;
        if !policy.is_active() {
            return Ok(());
        }
        let device = self.device(trusted)?;
        let mut known = self.state.transparency.clone();
        if policy.require {
            let (directory, kept) = (self.config.state_dir.join("log"), self.trust_directory());
            let (stop, storage) = (&self.environment.stop, self.environment.storage);
            let reader = LogReader { http, mirrors, stop, storage, directory: &directory, trusted: &kept };
            let checked = reader.check(&mut known, trusted, device);
            known.forked = match &checked {
                Err(TransparencyError::Stopped) => return Err(UpdateError::Stopped),
                Err(TransparencyError::Log(error)) => matches!(**error, LogError::Fork { .. }),
                _ => false,
            };
            known.problem = checked.err().map(|error| {
                let reason = chain(&error);
                tracing::warn!(reason, "the transparency log does not have what it should");
                reason
            });
        }
        // What the log does not have was not seen by anybody else either.
        if known.problem.is_none() {
            let packages = device.packages.iter().filter(|package| *package.path.channel() == self.config.channel);
            known.see(packages.map(|package| package.sha256), self.now(reality));
        }
        self.state.transparency = known;
        self.save()
    }

    /// What the policy for the transparency log has against installing a package unattended.
    fn held(&self, package: &Sha256, reality: &Reality) -> Option<String> {
        let policy = &self.config.transparency;
        if !policy.is_active() {
            return None;
        }
        if let Some(problem) = &self.state.transparency.problem {
            return Some(problem.clone());
        }
        if policy.require && self.state.transparency.logged.is_empty() {
            return Some("the transparency log was not looked at yet".to_owned());
        }
        if policy.soak.is_zero() {
            return None;
        }
        match self.state.transparency.ripe_at(package, policy.soak) {
            Some(ripe) if ripe <= self.now(reality) => None,
            Some(ripe) => Some(format!("this phone waits until {ripe}, so that others can look at it")),
            None => Some("this phone has not seen it before".to_owned()),
        }
    }

    fn outcome(&self, found: Found, mirrors: &Mirrors, reality: &Reality) -> Outcome {
        let held = match &found {
            Found::Update { offer } => self.held(&offer.sha256, reality),
            _ => None,
        };
        Outcome { held, ..Outcome::new(found, mirrors) }
    }

    /// Remembers the answer of a poll; a download of something else is given up.
    fn checked(&mut self, found: &Found, mirrors: &Mirrors, reality: &Reality) -> Result<(), UpdateError> {
        let at = self.now(reality);
        self.state.last_check = Some(LastCheck { at, answer: found.words(), aside: mirrors.aside() });
        self.state.last_error = None;
        let superseded = match (&self.state.phase, found) {
            (
                Phase::Downloading { offer: old } | Phase::Staged { offer: old },
                Found::Update { offer } | Found::Waiting { offer, .. },
            ) => *old != **offer,
            (Phase::Downloading { .. } | Phase::Staged { .. }, _) => true,
            _ => false,
        };
        if superseded {
            self.state.phase = Phase::Idle;
        }
        self.save()
    }

    /// What there is for this phone; unattended, only what the policy for the transparency log lets through.
    fn choose(&self, device: &TrustedDevice, reality: &Reality) -> Result<Found, UpdateError> {
        let any = self.choose_among(device, reality, |_| true)?;
        let Found::Update { offer } = &any else { return Ok(any) };
        if !self.unattended || !self.config.transparency.is_active() {
            return Ok(any);
        }
        // A build that has been seen for long enough is better than none, until the newest one has.
        let ripe = self.choose_among(device, reality, |package| self.held(&package.sha256, reality).is_none())?;
        if matches!(ripe, Found::Update { .. }) {
            return Ok(ripe);
        }
        let reason = self.held(&offer.sha256, reality).unwrap_or_else(|| "what leads to it is too new".to_owned());
        Ok(Found::Waiting { offer: offer.clone(), reason })
    }

    fn choose_among(
        &self,
        device: &TrustedDevice,
        reality: &Reality,
        allowed: impl Fn(&Package) -> bool,
    ) -> Result<Found, UpdateError> {
        if !self.state.phase.is_free() {
            return Ok(Found::UnderWay { next: describe(&self.state.phase, reality) });
        }
        let differs = self.state.source_differs.as_ref() == Some(&reality.running.build);
        let now = self.now(reality);
        let phone = PhoneState {
            build: reality.running.build.clone(),
            build_timestamp: Timestamp::from_second(reality.running.timestamp).unwrap_or(Timestamp::MIN),
            channel: self.config.channel.clone(),
            seed: self.state.seed,
            failed: self.state.failed.iter().map(|failed| failed.build.clone()).collect(),
            kinds: self.installer.probe(),
        };
        let usable = |package: &Package| !(differs && package.custom.from.is_some()) && allowed(package);
        let answer = policy::choose(&narrowed(device, usable), &phone, now);
        let path = match answer {
            Choice::UpToDate => return Ok(Found::UpToDate { build: reality.running.build.clone() }),
            Choice::Nothing { reason } => return Ok(Found::Nothing { reason: reason.to_string() }),
            Choice::Unmaintained { since } => return Ok(Found::Unmaintained { since }),
            Choice::Install(path) => path,
        };
        let Some(last) = path.last() else { return Ok(Found::UpToDate { build: reality.running.build.clone() }) };
        let first = if path.len() == 1 {
            last.clone()
        } else {
            // Each step of a chain would cost a reboot: one package that leads there at once is better, if there is one.
            let direct = |package: &Package| {
                let from = package.custom.from.as_ref();
                usable(package) && from.is_none_or(|from| *from == phone.build) && package.custom.to == last.custom.to
            };
            match policy::choose(&narrowed(device, direct), &phone, now) {
                Choice::Install(direct) if direct.len() == 1 => direct[0].clone(),
                _ => path[0].clone(),
            }
        };
        let steps_after = if first.custom.to == last.custom.to { 0 } else { path.len() - 1 };
        let (chunks, _) =
            device.chunk_list(&first).ok_or_else(|| UpdateError::NoChunkList { path: first.path.to_string() })?;
        let offer = Offer {
            path: first.path.clone(),
            length: first.length,
            sha256: first.sha256,
            from: first.custom.from.clone(),
            to: first.custom.to.clone(),
            version: first.custom.version.clone(),
            timestamp: first.custom.timestamp.as_second(),
            chunks,
            steps_after,
        };
        Ok(Found::Update { offer: Box::new(offer) })
    }

    /// Polls, and downloads what there is.
    ///
    /// # Errors
    /// As [`Updater::check`]; [`UpdateError::Download`], with everything kept that was verified.
    pub fn download(&mut self) -> Result<Outcome, UpdateError> {
        let reality = self.settle()?;
        let (http, mirrors) = (Http::new(&self.config.network, &self.environment.stop), self.mirrors());
        let trusted = match maintained(self.refresh(&http, &mirrors, &reality))? {
            Ok(trusted) => trusted,
            Err(unmaintained) => {
                self.checked(&unmaintained, &mirrors, &reality)?;
                return Ok(Outcome::new(unmaintained, &mirrors));
            }
        };
        self.look_at_log(&http, &mirrors, &trusted, &reality)?;
        let device = self.device(&trusted)?;
        let found = self.choose(device, &reality)?;
        self.checked(&found, &mirrors, &reality)?;
        let Found::Update { offer } = &found else { return Ok(Outcome::new(found, &mirrors)) };
        let offer = Offer::clone(offer);

        let directory = self.config.state_dir.join("downloads");
        let downloader = Downloader {
            http: &http,
            mirrors: &mirrors,
            storage: self.environment.storage,
            stop: &self.environment.stop,
            network: &self.config.network,
            directory: &directory,
            reserve: self.config.reserve,
        };
        let failed = |source| UpdateError::Download { build: offer.to.clone(), source };
        if !matches!(&self.state.phase, Phase::Downloading { .. } | Phase::Staged { .. }) {
            self.enter(Phase::Downloading { offer: offer.clone() })?;
        }
        let target = device.targets.get(&offer.chunks).copied();
        let target = target.filter(|target| target.length <= MAX_LIST);
        let target = target.ok_or_else(|| UpdateError::NoChunkList { path: offer.path.to_string() })?;
        downloader.remove_others(&[offer.sha256, target.sha256]).map_err(failed)?;
        let list = Wanted {
            what: offer.chunks.file().to_owned(),
            path: format!("targets/{}", offer.chunks.consistent(&target.sha256)),
            length: target.length,
            sha256: target.sha256,
        };
        let result = (|| {
            let bytes = downloader.small(&list).map_err(failed)?;
            let chunks = chunks_of(&bytes, &offer)?;
            let progress = |done| (self.environment.progress)(Activity::Downloading, done, offer.length.get());
            downloader.download(&wanted(&offer), &chunks, &progress).map_err(failed)
        })();
        self.state.mirrors = mirrors.measured();
        if let Some(last) = &mut self.state.last_check {
            last.aside = mirrors.aside();
        }
        let (file, received) = match result {
            Ok(done) => done,
            Err(error) => {
                self.save_aside();
                return Err(error);
            }
        };
        self.enter(Phase::Staged { offer })?;
        let mut outcome = self.outcome(found, &mirrors, &reality);
        let Received { bytes, kept, requests } = received;
        (outcome.received_bytes, outcome.kept_bytes, outcome.requests) = (bytes, kept, requests);
        outcome.file = Some(file);
        Ok(outcome)
    }

    /// Installs what was downloaded (and downloads it first, if nothing was); the next boot tries it.
    ///
    /// # Errors
    /// [`UpdateError::Install`] with nothing written to the slot for everything that can be known beforehand;
    /// otherwise running it again goes on.
    pub fn install(&mut self) -> Result<Done, UpdateError> {
        let reality = self.settle()?;
        if matches!(
            self.state.phase,
            Phase::Idle | Phase::Downloading { .. } | Phase::Committed { .. } | Phase::RolledBack { .. }
        ) {
            let outcome = self.download()?;
            if !matches!(outcome.found, Found::Update { .. }) {
                return Ok(Done { message: outcome.found.words(), phase: self.state.phase.name() });
            }
        }
        let offer = match &self.state.phase {
            Phase::Staged { offer } | Phase::Applying { offer, .. } | Phase::Applied { offer, .. } => offer.clone(),
            Phase::PendingReboot { .. } => {
                let message = describe(&self.state.phase, &reality);
                return Ok(Done { message, phase: self.state.phase.name() });
            }
            phase => {
                let because = describe(phase, &reality);
                return Err(UpdateError::NotNow { action: "install", because });
            }
        };
        let result = self.install_offer(&offer, &reality);
        if let Err(error) = &result {
            self.state.last_error = Some(chain(error));
            if matches!(error, UpdateError::Install(error) if error.source_differs()) && offer.from.is_some() {
                // Somebody wrote to the running system: no delta fits it any more, a full package does.
                self.state.source_differs = Some(reality.running.build.clone());
                self.state.phase = Phase::Idle;
            }
            if matches!(error, UpdateError::NotOffered { .. } | UpdateError::Damaged { .. }) {
                self.state.phase = Phase::Idle;
            }
            self.save_aside();
        }
        result
    }

    fn install_offer(&mut self, offer: &Offer, reality: &Reality) -> Result<Done, UpdateError> {
        let directory = self.config.state_dir.join("downloads");
        let package = wanted(offer).final_path(&directory);
        let trusted = self.trusted_for_install(reality)?;
        let held = self.held(&offer.sha256, reality);
        if let (true, Some(because)) = (self.unattended, &held) {
            return Err(UpdateError::Held { build: offer.to.clone(), because: because.clone() });
        }
        let device = self.device(&trusted)?;
        let offered = device
            .packages
            .iter()
            .any(|package| package.path == offer.path && package.sha256 == offer.sha256 && !package.custom.withdrawn);
        if !offered || self.state.failed.iter().any(|failed| failed.build == offer.to) {
            return Err(UpdateError::NotOffered { build: offer.to.clone() });
        }
        match hash_file(&package, &self.environment.stop) {
            Ok(Some(actual)) if actual == offer.sha256 => {}
            Ok(None) => return Err(UpdateError::Stopped),
            Ok(Some(_)) => {
                storage::remove(self.environment.storage, &package)?;
                return Err(UpdateError::Damaged { build: offer.to.clone() });
            }
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => {
                return Err(UpdateError::Damaged { build: offer.to.clone() });
            }
            Err(error) => return Err(error.into()),
        }
        let staged = self.installer.stage(&package, offer, device, reality)?;
        let (from, to) = (reality.booted.slot, staged.target());
        drop(trusted);

        if !matches!(self.state.phase, Phase::Applying { .. }) {
            self.enter(Phase::Applying { offer: offer.clone(), from, to })?;
        }
        let mut progress = |done, all| (self.environment.progress)(Activity::Installing, done, all);
        self.installer.apply(&staged, &mut progress)?;
        drop(staged);
        self.enter(Phase::Applied { offer: offer.clone(), from, to })?;

        let boot_id = reality.booted.boot_id.clone();
        self.enter(Phase::Activating { offer: offer.clone(), from, to, boot_id: boot_id.clone() })?;
        self.installer.activate()?;
        let (build, timestamp) = (offer.to.clone(), offer.timestamp);
        self.state.last_error = None;
        self.enter(Phase::PendingReboot { build, timestamp, from, to, boot_id })?;
        storage::remove(self.environment.storage, &package)?;
        let mut message = describe(&self.state.phase, reality);
        if let Some(because) = held {
            message.push_str(&format!("; it was installed because you asked for it: unattended, {because}"));
        }
        Ok(Done { message, phase: self.state.phase.name() })
    }

    /// Metadata to install by: fresh where a mirror answers; without network what was verified when the package was
    /// downloaded, by the clock of that time. Metadata that was refused is no missing network: a mirror that serves an
    /// old state must not get a build installed that was withdrawn since.
    fn trusted_for_install(&mut self, reality: &Reality) -> Result<Trusted, UpdateError> {
        let (http, mirrors) = (Http::new(&self.config.network, &self.environment.stop), self.mirrors());
        let trusted = match self.refresh(&http, &mirrors, reality) {
            Err(UpdateError::Refresh(error @ RefreshError::NoMirror { .. })) => {
                let Some(then) = self.state.verified_at else { return Err(error.into()) };
                tracing::warn!(%error, "installing by the metadata of the last poll");
                self.with_store(|store| store.offline(then))?
            }
            answer => answer?,
        };
        // Without network, what was found in the log at the last poll counts.
        self.look_at_log(&http, &mirrors, &trusted, reality)?;
        Ok(trusted)
    }

    /// Marks the running build as good.
    ///
    /// # Errors
    /// [`UpdateError::NotNow`] while the next boot would leave it; [`UpdateError::Install`].
    pub fn confirm(&mut self) -> Result<Done, UpdateError> {
        let reality = self.settle()?;
        let build = reality.running.build.clone();
        match &self.state.phase {
            Phase::Trial { .. } => {}
            phase @ (Phase::PendingReboot { .. } | Phase::Reverting { .. }) => {
                let because = describe(phase, &reality);
                return Err(UpdateError::NotNow { action: "confirm", because });
            }
            phase => {
                let message = format!("build {build} in slot {} was confirmed already", reality.booted.slot);
                return Ok(Done { message, phase: phase.name() });
            }
        }
        self.installer.confirm()?;
        self.enter(Phase::Committed { build: build.clone() })?;
        let message = format!("build {build} in slot {} is confirmed; it is booted from now on", reality.booted.slot);
        Ok(Done { message, phase: self.state.phase.name() })
    }

    /// Goes back to the build before, where that is still possible.
    ///
    /// # Errors
    /// [`UpdateError::Install`] with [`InstallError::NothingToGoBackTo`] where it is not.
    pub fn revert(&mut self) -> Result<Done, UpdateError> {
        let reality = self.settle()?;
        let running = reality.booted.slot;
        match self.state.phase.clone() {
            Phase::PendingReboot { build, timestamp, .. } => {
                let reason = "reverted by hand before it was booted".to_owned();
                self.state.remember_failed(Failed { build: build.clone(), timestamp, reason: reason.clone() });
                // The journal follows the machine: if the power goes before boot control is written, the reboot is
                // still pending, and the build is known as failed.
                self.save()?;
                self.installer.deactivate()?;
                self.enter(Phase::RolledBack { build: build.clone(), reason })?;
                let message = format!(
                    "build {build} will not be booted; build {} in slot {running} stays",
                    reality.running.build
                );
                Ok(Done { message, phase: self.state.phase.name() })
            }
            Phase::Reverting { .. } => {
                Ok(Done { message: describe(&self.state.phase, &reality), phase: self.state.phase.name() })
            }
            Phase::Downloading { .. } | Phase::Staged { .. } | Phase::Applying { .. } | Phase::Applied { .. } => {
                self.enter(Phase::Idle)?;
                let message =
                    format!("the update is given up; build {} in slot {running} stays", reality.running.build);
                Ok(Done { message, phase: self.state.phase.name() })
            }
            _ => {
                let other = reality.control.slot(running.other());
                if !other.bootable || !other.successful {
                    // Says why; changes nothing.
                    self.installer.revert()?;
                }
                let (build, timestamp) = (reality.running.build.clone(), reality.running.timestamp);
                let before = std::mem::take(&mut self.state.phase);
                let boot_id = reality.booted.boot_id.clone();
                self.enter(Phase::Reverting { build, timestamp, from: running, to: running.other(), boot_id })?;
                if let Err(error) = self.installer.revert() {
                    self.enter(before)?;
                    return Err(error.into());
                }
                Ok(Done { message: describe(&self.state.phase, &reality), phase: self.state.phase.name() })
            }
        }
    }

    /// Polls until stopped, and downloads and installs as the config says.
    ///
    /// # Errors
    /// [`UpdateError::Storage`] and [`UpdateError::Install`] only if not even the state can be read; everything else is
    /// logged, remembered for `status`, and tried again later.
    pub fn daemon(&mut self) -> Result<(), UpdateError> {
        let daemon = &self.config.daemon;
        let mut polls = 0u64;
        let mut failures = 0u32;
        while !self.environment.stop.is_set() {
            let result = self.poll(daemon.download, daemon.install);
            polls += 1;
            let jitter_ms = u64::try_from(daemon.jitter.as_millis()).unwrap_or(u64::MAX);
            let dice = mix(self.state.seed ^ mix(polls)) % jitter_ms.saturating_add(1);
            let regular = daemon.interval + Duration::from_millis(dice);
            let wait = match result {
                Ok(()) => {
                    failures = 0;
                    regular
                }
                Err(_) if self.environment.stop.is_set() => break,
                Err(error) => {
                    failures += 1;
                    let reason = chain(&error);
                    tracing::error!(reason, failures, "update failed; trying again later");
                    self.state.last_error = Some(reason);
                    self.save()?;
                    regular.min(backoff(Duration::from_secs(60), failures) + Duration::from_millis(dice % 30_000))
                }
            };
            tracing::debug!(seconds = wait.as_secs(), "next poll");
            self.environment.stop.wait(wait);
        }
        Ok(())
    }

    /// One round of [`Self::daemon`]: polls, downloads and installs, without anybody having asked for this build.
    ///
    /// # Errors
    /// As [`Updater::download`] and [`Updater::install`].
    pub fn poll(&mut self, download: bool, install: bool) -> Result<(), UpdateError> {
        // What somebody installs by hand later may be younger than what is installed without a question.
        self.unattended = install;
        self.settle()?;
        if matches!(self.state.phase, Phase::Applying { .. } | Phase::Applied { .. }) && install {
            let done = self.install()?;
            tracing::info!(message = done.message, "install");
            return Ok(());
        }
        let outcome = if download { self.download()? } else { self.check()? };
        tracing::info!(answer = outcome.found.words(), "poll");
        let waits = matches!(outcome.found, Found::Waiting { .. });
        if install && !waits && matches!(self.state.phase, Phase::Staged { .. }) {
            let done = self.install()?;
            tracing::info!(message = done.message, "install");
        }
        Ok(())
    }

    /// What is remembered now.
    pub fn state(&self) -> &State {
        &self.state
    }
}

impl Outcome {
    fn new(found: Found, mirrors: &Mirrors) -> Self {
        Self { found, aside: mirrors.aside(), received_bytes: 0, kept_bytes: 0, requests: 0, file: None, held: None }
    }
}

impl Found {
    /// The answer in words.
    pub fn words(&self) -> String {
        match self {
            Self::UpToDate { build } => format!("build {build} is the newest of its channel"),
            Self::Update { offer } => {
                let kind = offer.from.as_ref().map_or("full package".to_owned(), |from| format!("delta from {from}"));
                let length = offer.length.human();
                let steps = match offer.steps_after {
                    0 => String::new(),
                    1 => "; 1 more update with a reboot of its own comes after it".to_owned(),
                    more => format!("; {more} more updates, each with a reboot, come after it"),
                };
                format!("build {} ({}) can be installed: {kind}, {length}{steps}", offer.to, offer.version)
            }
            Self::Unmaintained { since } => format!(
                "this device is unmaintained since {since}: nobody signs for it any more; what runs goes on running, \
                 without updates"
            ),
            Self::Waiting { offer, reason } => {
                format!("build {} ({}) is there, and is not installed unattended: {reason}", offer.to, offer.version)
            }
            Self::Nothing { reason } => reason.clone(),
            Self::UnderWay { next } => next.clone(),
        }
    }
}

fn describe(phase: &Phase, reality: &Reality) -> String {
    let running = format!("build {} runs in slot {}", reality.running.build, reality.booted.slot);
    match phase {
        Phase::Idle => format!("{running}; nothing is under way"),
        Phase::Downloading { offer } => {
            format!("{running}; build {} is being downloaded; next: relevo-updater download", offer.to)
        }
        Phase::Staged { offer } => {
            let steps = match offer.steps_after {
                0 => String::new(),
                more => format!(", the first of {} steps with a reboot each", more + 1),
            };
            format!("{running}; build {} is downloaded{steps}; next: relevo-updater install", offer.to)
        }
        Phase::Applying { offer, to, .. } => {
            format!("{running}; build {} is being written to slot {to}; next: relevo-updater install goes on", offer.to)
        }
        Phase::Applied { offer, to, .. } | Phase::Activating { offer, to, .. } => {
            format!("{running}; build {} is in slot {to}; next: relevo-updater install activates it", offer.to)
        }
        Phase::PendingReboot { build, to, .. } => format!("{running}; the next boot tries build {build} in slot {to}"),
        Phase::Trial { build, from, .. } => format!(
            "{running} on trial; next: relevo-updater confirm if all is well, else the bootloader goes back to slot \
             {from} after {} more boots of build {build}",
            reality.control.slot(reality.booted.slot).tries_left
        ),
        Phase::Committed { build } if *build == reality.running.build => format!("{running} and is confirmed"),
        Phase::Committed { .. } => running,
        Phase::Reverting { build, to, .. } => {
            format!("{running}; the next boot leaves build {build} and goes back to slot {to}")
        }
        Phase::RolledBack { build, reason } => format!("{running}; build {build} was given up: {reason}"),
    }
}

fn wanted(offer: &Offer) -> Wanted {
    Wanted {
        what: offer.path.file().to_owned(),
        path: format!("targets/{}", offer.path.consistent(&offer.sha256)),
        length: offer.length,
        sha256: offer.sha256,
    }
}

fn chunks_of(bytes: &[u8], offer: &Offer) -> Result<Chunks, UpdateError> {
    let list = ChunkList::parse(bytes, offer.length).map_err(|source| UpdateError::ChunkList {
        build: offer.to.clone(),
        what: offer.chunks.file().to_owned(),
        source: Box::new(source),
    })?;
    Ok(Chunks::from(&list))
}

/// An expired role of this device is no failure of anybody's and no reason to ask again soon, but an answer.
fn maintained(trusted: Result<Trusted, UpdateError>) -> Result<Result<Trusted, Found>, UpdateError> {
    match trusted {
        Ok(trusted) => Ok(Ok(trusted)),
        Err(UpdateError::Refresh(RefreshError::Refused(error))) => match *error {
            TrustError::Unmaintained { expires, .. } => Ok(Err(Found::Unmaintained { since: expires })),
            other => Err(RefreshError::from(other).into()),
        },
        Err(other) => Err(other),
    }
}

/// The device with only some of its packages.
fn narrowed(device: &TrustedDevice, keep: impl Fn(&Package) -> bool) -> TrustedDevice {
    TrustedDevice {
        vendor: device.vendor.clone(),
        codename: device.codename.clone(),
        keys: device.keys.clone(),
        threshold: device.threshold,
        role_version: device.role_version,
        roles: device.roles.clone(),
        expires: device.expires,
        fresh_until: device.fresh_until,
        packages: device.packages.iter().filter(|package| keep(package)).cloned().collect(),
        targets: Default::default(),
        delegated: device.delegated.clone(),
        refused: Vec::new(),
    }
}

fn backoff(first: Duration, round: u32) -> Duration {
    first.saturating_mul(1 << round.saturating_sub(1).min(6)).min(Duration::from_secs(3600))
}

/// SplitMix64: spreads the phone's seed and a counter over all numbers.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
