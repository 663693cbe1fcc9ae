//! The origin's side: takes in what maintainers send, and publishes it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use jiff::{SignedDuration, Timestamp};
use relevo_format::FileAt;
use relevo_meta::{Target, author::DeviceFile};
use relevo_types::{ByteLen, Sha256, TargetPath};
use sha2::Digest as _;

use super::{
    Account, AccountName, Accounts, AuditLine, AuditRole, AuditTarget, CutList, IntakeError, MAX_CHUNK, MAX_LIST,
    Manifest, PROTOCOL, Receipt, ReceiptRole, State, Status, TargetStatus,
    audit::Audit,
    part::{Part, Source, bytes_of},
};
use crate::{error::RepoError, publication, repository::Repository, signers::Signers, storage::Storage};

/// The most that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a manifest.
    pub manifest: ByteLen,
    /// Roles in a manifest.
    pub roles: usize,
    /// Targets in a manifest.
    pub targets: usize,
    /// Publications under way of one account.
    pub sessions: usize,
    /// Bytes of one request with chunks.
    pub run: ByteLen,
    /// How long a publication may stand still before it has to be announced again.
    pub idle: SignedDuration,
    /// How long unfinished files are kept.
    pub kept: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A device's role has at most 128 KiB, and there are few in one manifest.
            manifest: ByteLen::mib(2),
            roles: 16,
            targets: 512,
            sessions: 8,
            run: ByteLen::mib(8),
            idle: SignedDuration::from_hours(24),
            kept: Duration::from_secs(14 * 86_400),
        }
    }
}

/// Takes in what maintainers send. All of it blocks; requests may call it from many threads.
#[derive(Debug)]
pub struct Intake {
    directory: PathBuf,
    repository: Repository,
    limits: Limits,
    accounts: Accounts,
    audit: Audit,
    sessions: Mutex<BTreeMap<(AccountName, Sha256), Session>>,
    /// One at a time opens and fills files, since that is disk work that two would do twice.
    filling: Mutex<()>,
}

/// A publication under way.
#[derive(Debug, Clone)]
struct Session {
    manifest: Arc<Manifest>,
    /// One for each target of the manifest; none while its list of chunks is missing.
    parts: Vec<Option<Arc<Part>>>,
    touched: Timestamp,
}

/// Consecutive chunks of a file, for a request that brings them.
#[derive(Debug, Clone)]
pub struct Run {
    part: Arc<Part>,
    first: usize,
    /// Lengths of the chunks in bytes, in order.
    pub lengths: Vec<u32>,
}

impl Run {
    /// Bytes of all its chunks.
    pub fn length(&self) -> ByteLen {
        ByteLen::new(self.lengths.iter().map(|length| u64::from(*length)).sum())
    }

    /// Keeps the chunk that is the `nth` of this run, if it is that chunk.
    ///
    /// # Errors
    /// [`IntakeError::Digest`], [`IntakeError::Write`].
    pub fn put(&self, nth: usize, bytes: &[u8]) -> Result<(), IntakeError> {
        self.part.put(self.first + nth, bytes)
    }
}

/// Files of this length and less are not looked into for chunks, in bytes.
const WORTHWHILE: u64 = 256 << 10;

/// Most chunks of all files that an account has under way; each takes 48 bytes of memory.
const MAX_OPEN_CHUNKS: usize = 1 << 20;

/// Most published files that are looked into for chunks of a new one.
const MAX_SOURCES: usize = 6;

impl Intake {
    /// Takes in for a repository, with its own files in `directory`, which must lie outside of the repository and is
    /// best on the same file system.
    ///
    /// # Errors
    /// [`IntakeError::Repository`] if the directory cannot be made.
    pub fn open(directory: &Path, repository: Repository, limits: Limits) -> Result<Self, IntakeError> {
        let storage = Storage::default();
        for name in ["accounts", "staging", "cuts", "audit"] {
            storage.create_dirs(&directory.join(name))?;
        }
        let intake = Self {
            accounts: Accounts::new(directory),
            audit: Audit::new(directory),
            directory: directory.to_owned(),
            repository,
            limits,
            sessions: Mutex::default(),
            filling: Mutex::default(),
        };
        Ok(intake)
    }

    /// The accounts.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Who published what, oldest first.
    ///
    /// # Errors
    /// [`IntakeError::Read`].
    pub fn audit(&self) -> Result<Vec<AuditLine>, IntakeError> {
        self.audit.lines()
    }

    /// Begins a publication or goes on with it: checks all that can be checked before any file has come, and says what
    /// is missing. The same manifest again is the same publication.
    ///
    /// # Errors
    /// [`IntakeError`]; nothing is kept then.
    pub fn begin(
        &self,
        account: &Account,
        manifest: &[u8],
        signers: &Signers,
        now: Timestamp,
    ) -> Result<Status, IntakeError> {
        let id = Sha256::new(sha2::Sha256::digest(manifest).into());
        let manifest: Manifest = serde_json::from_slice(manifest).map_err(IntakeError::Manifest)?;
        self.check(account, &manifest)?;
        let mut publication = self.repository.wait_for_publication()?;
        let mut changed = false;
        let mut sources = Vec::new();
        for role in &manifest.roles {
            sources.extend(publication.published_targets(&role.codename));
            changed |= publication.adopt_role(&role.name(), role.file.as_bytes())?;
        }
        publication.rehearse(signers, now)?;
        if !changed {
            let targets = vec![TargetStatus::default(); manifest.targets.len()];
            return Ok(Status { session: id, state: State::Published, targets });
        }
        self.check_quota(account, id, &manifest)?;
        self.open_session(account, id, manifest, now)?;
        self.status(account, id, &sources)
    }

    /// Takes a piece of the list of chunks of a file of a publication, the one that follows what is there. Once the list
    /// is whole, send the manifest again to learn which chunks are missing.
    ///
    /// # Errors
    /// [`IntakeError::NoSession`], [`IntakeError::NoSuchPart`], [`IntakeError::Gap`], [`IntakeError::Digest`],
    /// [`IntakeError::Cut`]; after the last two, it begins anew.
    pub fn put_cut(
        &self,
        account: &AccountName,
        session: Sha256,
        sha256: Sha256,
        (at, piece): (u64, &[u8]),
        now: Timestamp,
    ) -> Result<(), IntakeError> {
        let session = self.session(account, session, now)?;
        let what = || format!("list of chunks {sha256}");
        let target = session.manifest.targets.iter().find(|target| target.cut == Some(sha256));
        let target = target.ok_or_else(|| IntakeError::NoSuchPart { what: what() })?;
        // Two requests may bring the same piece at once.
        let _one = lock(&self.filling);
        if self.read_cut(account, sha256).is_some() {
            return Ok(());
        }
        let (storage, staging) = (Storage::default(), self.staging(account));
        storage.create_dirs(&staging)?;
        let path = staging.join(format!("{sha256}.cut"));
        let mut bytes = read_or_empty(&path)?;
        if at != bytes.len() as u64 {
            return Err(IntakeError::Gap { at, have: bytes.len() as u64 });
        }
        bytes.extend_from_slice(piece);
        let expected = CutList::encoded_len(&bytes);
        let wrong = |error| {
            remove(&path)?;
            Err(error)
        };
        match expected {
            Some(expected) if bytes.len() as u64 >= expected => {
                let actual = Sha256::new(sha2::Sha256::digest(&bytes).into());
                if actual != sha256 {
                    return wrong(IntakeError::Digest { what: what(), expected: sha256, actual });
                }
                let cut = |source| IntakeError::Cut { path: Box::new(target.path.clone()), source };
                match CutList::parse(&bytes) {
                    Ok(list) if list.length() == target.length => {}
                    Ok(list) => {
                        let (chunks, file) = (list.length(), target.length);
                        return wrong(cut(super::CutError::FileLength { chunks, file }));
                    }
                    Err(error) => return wrong(cut(error)),
                }
            }
            None if bytes.len() >= 8 => {
                return wrong(IntakeError::Cut { path: Box::new(target.path.clone()), source: super::CutError::Magic });
            }
            _ => {}
        }
        Ok(storage.put(&path, &bytes)?)
    }

    /// Longest piece of a list of chunks in bytes.
    pub const MAX_PIECE: u64 = 1 << 20;

    /// The chunks `first` to `last` of the target with this number, for a request that brings them.
    ///
    /// # Errors
    /// [`IntakeError::NoSession`], [`IntakeError::NoSuchPart`].
    pub fn run(
        &self,
        account: &AccountName,
        session: Sha256,
        target: usize,
        (first, last): (usize, usize),
        now: Timestamp,
    ) -> Result<Run, IntakeError> {
        let session = self.session(account, session, now)?;
        let none = || IntakeError::NoSuchPart { what: format!("chunks {first}-{last} of target {target}") };
        let part = session.parts.get(target).cloned().flatten().ok_or_else(none)?;
        let chunks = last.checked_add(1).and_then(|end| part.cut.chunks().get(first..end)).ok_or_else(none)?;
        let run = Run { first, lengths: chunks.iter().map(|chunk| chunk.length).collect(), part };
        if run.lengths.is_empty() || run.length() > self.limits.run {
            return Err(IntakeError::NoSuchPart { what: format!("run of {} in one request", run.length()) });
        }
        Ok(run)
    }

    /// Publishes: checks every file and every role, signs snapshot and timestamp, and commits. A publication that is
    /// already what the repository says is no error.
    ///
    /// # Errors
    /// [`IntakeError`]; the old state stands then, and what came is kept.
    pub fn commit(
        &self,
        account: &Account,
        key: &str,
        session: Sha256,
        signers: &Signers,
        now: Timestamp,
    ) -> Result<Receipt, IntakeError> {
        let open = self.session(&account.name, session, now)?;
        let manifest = &open.manifest;
        self.check(account, manifest)?;
        let mut files: Vec<(TargetPath, Target, Option<Arc<Part>>)> = Vec::new();
        let mut sealed: BTreeMap<Sha256, Vec<u8>> = BTreeMap::new();
        for (target, part) in manifest.targets.iter().zip(&open.parts) {
            let expected = Target { length: target.length, sha256: target.sha256 };
            let there = self.repository.has_target(&target.path, expected);
            if there {
                files.push((target.path.clone(), expected, None));
                continue;
            }
            let path = || Box::new(target.path.clone());
            let part = part.as_ref().ok_or_else(|| IntakeError::Incomplete { path: path(), chunks: 1 })?;
            let missing = part.missing().len();
            if missing > 0 {
                return Err(IntakeError::Incomplete { path: path(), chunks: missing });
            }
            if let Entry::Vacant(slot) = sealed.entry(target.sha256) {
                let (actual, list) = part.seal()?;
                if actual != expected {
                    part.forget()?;
                    lock(&self.sessions).remove(&(account.name.clone(), session));
                    let what = target.path.to_string();
                    return Err(IntakeError::Digest { what, expected: expected.sha256, actual: actual.sha256 });
                }
                slot.insert(list);
            }
            files.push((target.path.clone(), expected, Some(Arc::clone(part))));
        }
        check_chunk_lists(manifest, &sealed)?;
        let receipt = self.publish(account, key, session, manifest, &files, signers, now)?;
        for (_, target, part) in &files {
            if let Some(part) = part
                && target.length.get() > WORTHWHILE
            {
                self.keep_cut(target.sha256, &part.cut);
            }
        }
        lock(&self.sessions).remove(&(account.name.clone(), session));
        self.tidy(&account.name);
        Ok(receipt)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one commit, used in one place")]
    fn publish(
        &self,
        account: &Account,
        key: &str,
        session: Sha256,
        manifest: &Manifest,
        files: &[(TargetPath, Target, Option<Arc<Part>>)],
        signers: &Signers,
        now: Timestamp,
    ) -> Result<Receipt, IntakeError> {
        let mut publication = self.repository.wait_for_publication()?;
        self.settle()?;
        let mut line = AuditLine {
            time: now,
            account: account.name.to_string(),
            key: key.to_owned(),
            session,
            roles: Vec::new(),
            timestamp_before: publication.timestamp_version(),
        };
        let mut roles = Vec::new();
        for role in &manifest.roles {
            let bytes = role.file.as_bytes();
            let file = DeviceFile::edit(bytes).map_err(RepoError::author(&role.name()))?;
            roles.push(ReceiptRole { role: role.name(), version: file.version() });
            if publication.adopt_role(&role.name(), bytes)? {
                let own = files
                    .iter()
                    .filter(|(path, target, _)| file.target(path).is_some_and(|(listed, _)| listed == *target));
                let targets = own.map(|(path, target, _)| AuditTarget {
                    path: path.clone(),
                    length: target.length,
                    sha256: target.sha256,
                });
                line.roles.push(AuditRole {
                    role: role.name(),
                    version: file.version(),
                    sha256: Target::of(bytes).sha256,
                    targets: targets.collect(),
                });
            }
        }
        let changed = !line.roles.is_empty();
        if changed {
            for (path, target, part) in files {
                if let Some(part) = part {
                    publication.adopt_target(path, *target, &part.path)?;
                }
            }
            self.audit.begin(&line)?;
        }
        let published = publication.commit(signers, now)?;
        if changed {
            // The publication has let go of the lock; whoever has it now settles what is pending first.
            let _lock = self.repository.wait_for_publication()?;
            self.settle()?;
        }
        Ok(Receipt {
            roles,
            snapshot_version: published.snapshot_version,
            timestamp_version: published.timestamp_version,
            changed,
        })
    }

    /// Writes the line of a publication whose process died between the commit and its line. The caller holds the
    /// repository's lock.
    fn settle(&self) -> Result<(), IntakeError> {
        let metadata = self.repository.directory().join("metadata");
        self.audit.settle(|line| {
            line.roles.iter().all(|role| {
                let path = metadata.join(format!("{}.{}.json", role.version, role.role));
                // What a cut publication wrote was swept away when the lock was taken, so a role that is there counts.
                fs::read(path).is_ok_and(|bytes| Target::of(&bytes).sha256 == role.sha256)
            })
        })
    }

    /// Writes what a process that died left undone. At the start, and whenever nobody publishes.
    ///
    /// # Errors
    /// [`IntakeError`].
    pub fn recover(&self) -> Result<(), IntakeError> {
        let _lock = self.repository.wait_for_publication()?;
        self.settle()
    }

    /// Removes files of publications that nobody went on with.
    ///
    /// # Errors
    /// [`IntakeError::Read`], [`IntakeError::Write`].
    pub fn sweep(&self, now: Timestamp) -> Result<(), IntakeError> {
        lock(&self.sessions).retain(|_, session| now.duration_since(session.touched) < self.limits.idle);
        let oldest = SystemTime::from(now).checked_sub(self.limits.kept);
        for account in entries(&self.directory.join("staging"))? {
            let in_use = self.in_use(&account);
            for path in entries(&account)? {
                let modified = fs::metadata(&path).and_then(|found| found.modified());
                let old = modified.is_ok_and(|modified| oldest.is_some_and(|oldest| modified < oldest));
                if old && !in_use.contains(&path) {
                    remove(&path)?;
                }
            }
        }
        Ok(())
    }

    /// What can be said without looking at the repository.
    fn check(&self, account: &Account, manifest: &Manifest) -> Result<(), IntakeError> {
        if manifest.protocol != PROTOCOL {
            return Err(IntakeError::Protocol { found: manifest.protocol, known: PROTOCOL });
        }
        let refuse = |reason: String| Err(IntakeError::Contents(reason));
        let mut names = BTreeSet::new();
        for role in &manifest.roles {
            if !account.devices.contains(&role.codename) {
                let (account, codename) = (account.name.to_string(), role.codename.clone());
                return Err(IntakeError::NotYours { account, codename });
            }
            if !names.insert(role.name()) {
                return refuse(format!("the role {} is there twice", role.name()));
            }
        }
        if manifest.roles.is_empty() || manifest.roles.len() > self.limits.roles {
            return refuse(format!("{} roles; 1 to {} are taken at once", manifest.roles.len(), self.limits.roles));
        }
        if manifest.targets.len() > self.limits.targets {
            return refuse(format!("{} targets; at most {}", manifest.targets.len(), self.limits.targets));
        }
        let listed = self.listed(manifest);
        let mut paths = BTreeSet::new();
        for target in &manifest.targets {
            let path = &target.path;
            let signed = listed.get(path);
            if signed != Some(&Target { length: target.length, sha256: target.sha256 }) {
                return refuse(format!("no role of it lists {path} with {} and that hash", target.length));
            }
            if !paths.insert(path) {
                return refuse(format!("{path} is there twice"));
            }
            let one_chunk = (1..=u64::from(MAX_CHUNK)).contains(&target.length.get());
            if target.length == ByteLen::ZERO || (target.cut.is_none() && !one_chunk) {
                return refuse(format!("{path} has {} and no list of chunks", target.length));
            }
        }
        let mut lacking = listed.iter().filter(|(path, target)| !self.repository.has_target(path, **target));
        match lacking.find(|(path, _)| !paths.contains(path)) {
            Some((path, _)) => refuse(format!("a role lists {path}, which is neither here nor in the manifest")),
            None => Ok(()),
        }
    }

    /// All that the manifest's roles list.
    fn listed(&self, manifest: &Manifest) -> BTreeMap<TargetPath, Target> {
        let files = manifest.roles.iter().filter_map(|role| DeviceFile::edit(role.file.as_bytes()).ok());
        files.flat_map(|file| publication::targets(&file)).collect()
    }

    /// Counts what the account's roles of this manifest list, and what its other publications still bring.
    fn check_quota(&self, account: &Account, id: Sha256, manifest: &Manifest) -> Result<(), IntakeError> {
        let mut files: BTreeMap<Sha256, u64> = BTreeMap::new();
        let listed = self.listed(manifest);
        files.extend(listed.values().map(|target| (target.sha256, target.length.get())));
        for ((owner, other), session) in &*lock(&self.sessions) {
            if *owner == account.name && *other != id {
                files.extend(session.manifest.targets.iter().map(|target| (target.sha256, target.length.get())));
            }
        }
        let needed = files.values().fold(0_u64, |sum, length| sum.saturating_add(*length));
        let needed = ByteLen::new(needed);
        if needed > account.quota {
            return Err(IntakeError::Quota { account: account.name.to_string(), quota: account.quota, needed });
        }
        Ok(())
    }

    fn open_session(
        &self,
        account: &Account,
        id: Sha256,
        manifest: Manifest,
        now: Timestamp,
    ) -> Result<(), IntakeError> {
        let mut sessions = lock(&self.sessions);
        sessions.retain(|_, session| now.duration_since(session.touched) < self.limits.idle);
        let key = (account.name.clone(), id);
        if let Some(session) = sessions.get_mut(&key) {
            session.touched = now;
            return Ok(());
        }
        // A publication of the same devices that was made anew takes the place of the old one, as after a conflict.
        let same = |session: &Session| {
            let names =
                |manifest: &Manifest| manifest.roles.iter().map(super::ManifestRole::name).collect::<BTreeSet<_>>();
            names(&session.manifest) == names(&manifest)
        };
        sessions.retain(|(owner, _), session| *owner != account.name || !same(session));
        let open = sessions.keys().filter(|(owner, _)| *owner == account.name).count();
        if open >= self.limits.sessions {
            return Err(IntakeError::TooMany { open });
        }
        let parts = vec![None; manifest.targets.len()];
        sessions.insert(key, Session { manifest: Arc::new(manifest), parts, touched: now });
        Ok(())
    }

    fn session(&self, account: &AccountName, id: Sha256, now: Timestamp) -> Result<Session, IntakeError> {
        let mut sessions = lock(&self.sessions);
        let session = sessions.get_mut(&(account.clone(), id)).ok_or(IntakeError::NoSession(id))?;
        session.touched = now;
        Ok(session.clone())
    }

    /// Opens the files whose chunks are known, fills them with what is here, and says what is missing.
    fn status(&self, account: &Account, id: Sha256, old: &[(TargetPath, Target)]) -> Result<Status, IntakeError> {
        let _one = lock(&self.filling);
        let session = lock(&self.sessions).get(&(account.name.clone(), id)).cloned();
        let session = session.ok_or(IntakeError::NoSession(id))?;
        let mut open: HashMap<Sha256, Arc<Part>> = self.open_parts(&account.name);
        let mut targets = Vec::new();
        for (number, target) in session.manifest.targets.iter().enumerate() {
            let expected = Target { length: target.length, sha256: target.sha256 };
            if self.repository.has_target(&target.path, expected) {
                targets.push(TargetStatus::default());
                continue;
            }
            let part = match open.get(&target.sha256) {
                Some(part) => Arc::clone(part),
                None => {
                    let cut = match target.cut {
                        None => CutList::whole(target.length, target.sha256).ok(),
                        Some(sha256) => self.read_cut(&account.name, sha256),
                    };
                    let Some(cut) = cut.filter(|cut| cut.length() == target.length) else {
                        let have = target.cut.map(|cut| self.staging(&account.name).join(format!("{cut}.cut")));
                        let have = have.and_then(|path| fs::metadata(path).ok()).map_or(0, |found| found.len());
                        targets.push(TargetStatus { cut_have: Some(have), ..TargetStatus::default() });
                        continue;
                    };
                    let staging = self.staging(&account.name);
                    Storage::default().create_dirs(&staging)?;
                    let chunks = open.values().map(|part| part.cut.chunks().len()).sum::<usize>() + cut.chunks().len();
                    if chunks > MAX_OPEN_CHUNKS {
                        return Err(IntakeError::Contents(format!(
                            "{chunks} chunks; at most {MAX_OPEN_CHUNKS} at once"
                        )));
                    }
                    let part = Part::open(&staging.join(format!("{}.part", target.sha256)), cut)?;
                    if target.length.get() > WORTHWHILE {
                        part.fill(&self.sources(&target.path, old))?;
                    }
                    let part = Arc::new(part);
                    open.insert(target.sha256, Arc::clone(&part));
                    part
                }
            };
            targets.push(status_of(&part));
            if let Some(session) = lock(&self.sessions).get_mut(&(account.name.clone(), id)) {
                session.parts[number] = Some(part);
            }
        }
        Ok(Status { session: id, state: State::Open, targets })
    }

    /// Files that are open in any publication of the account: one handle for each, so that all see the same chunks.
    fn open_parts(&self, account: &AccountName) -> HashMap<Sha256, Arc<Part>> {
        let sessions = lock(&self.sessions);
        let own = sessions.iter().filter(|((owner, _), _)| owner == account);
        own.flat_map(|(_, session)| session.manifest.targets.iter().zip(&session.parts))
            .filter_map(|(target, part)| Some((target.sha256, Arc::clone(part.as_ref()?))))
            .collect()
    }

    /// Published files of the device that may hold some of a new file's chunks: the longest of the same kind.
    fn sources(&self, path: &TargetPath, old: &[(TargetPath, Target)]) -> Vec<Source> {
        let extension = |path: &TargetPath| path.file().rsplit_once('.').map(|(_, extension)| extension.to_owned());
        let mut alike: Vec<_> = old
            .iter()
            .filter(|(other, target)| {
                other.codename() == path.codename()
                    && extension(other) == extension(path)
                    && target.length.get() > WORTHWHILE
            })
            .collect();
        alike.sort_by_key(|(_, target)| std::cmp::Reverse(target.length));
        alike.truncate(MAX_SOURCES);
        let open = |(path, target): &&(TargetPath, Target)| -> io::Result<Source> {
            let file = File::open(self.repository.target_file(path, *target))?;
            let kept = fs::read(self.kept_cut(target.sha256)).ok();
            let kept = kept.and_then(|bytes| CutList::parse(&bytes).ok()).filter(|cut| cut.length() == target.length);
            let cut = match kept {
                Some(cut) => cut,
                None => {
                    let cut = CutList::of(&FileAt::new(file.try_clone()?)?, &mut |_| {})?;
                    self.keep_cut(target.sha256, &cut);
                    cut
                }
            };
            Ok(Source { file, cut })
        };
        // One that cannot be read holds nothing that could be used.
        alike.iter().filter_map(|target| open(target).ok()).collect()
    }

    /// Remembers how a published file is cut, which saves reading it; nothing is lost if that fails.
    fn keep_cut(&self, sha256: Sha256, cut: &CutList) {
        let kept = Storage::default().put(&self.kept_cut(sha256), &cut.encode());
        if let Err(error) = kept {
            tracing::debug!(%error, "could not keep how a file is cut");
        }
    }

    fn kept_cut(&self, sha256: Sha256) -> PathBuf {
        self.directory.join("cuts").join(format!("{sha256}.cut"))
    }

    fn read_cut(&self, account: &AccountName, sha256: Sha256) -> Option<CutList> {
        let bytes = fs::read(self.staging(account).join(format!("{sha256}.cut"))).ok()?;
        let actual = Sha256::new(sha2::Sha256::digest(&bytes).into());
        CutList::parse(&bytes).ok().filter(|_| actual == sha256)
    }

    fn staging(&self, account: &AccountName) -> PathBuf {
        self.directory.join("staging").join(account.as_str())
    }

    /// Removes what no publication of the account needs any more: after a commit, its own files.
    fn tidy(&self, account: &AccountName) {
        let staging = self.staging(account);
        let in_use = self.in_use(&staging);
        for path in entries(&staging).unwrap_or_default() {
            // What another request is writing at this moment has no final name yet.
            let unfinished = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if !in_use.contains(&path)
                && !unfinished
                && let Err(error) = remove(&path)
            {
                tracing::warn!(%error, "could not remove an unfinished file");
            }
        }
    }

    /// Files below an account's directory that publications under way need.
    fn in_use(&self, staging: &Path) -> BTreeSet<PathBuf> {
        let sessions = lock(&self.sessions);
        let own = sessions.iter().filter(|((owner, _), _)| self.staging(owner) == staging);
        own.flat_map(|(_, session)| &session.manifest.targets)
            .flat_map(|target| {
                let part = staging.join(format!("{}.part", target.sha256));
                std::iter::once(part).chain(target.cut.map(|cut| staging.join(format!("{cut}.cut"))))
            })
            .collect()
    }
}

/// What a part lacks, as runs.
fn status_of(part: &Part) -> TargetStatus {
    let missing = part.missing();
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for index in &missing {
        let index = u32::try_from(*index).expect("a list has at most 2^18 chunks");
        match runs.last_mut() {
            Some((first, count)) if *first + *count == index => *count += 1,
            _ => runs.push((index, 1)),
        }
    }
    TargetStatus { cut_have: None, missing: runs, missing_bytes: bytes_of(&part.cut, &missing).get() }
}

/// Each package that came has the chunk list that came with it.
fn check_chunk_lists(manifest: &Manifest, sealed: &BTreeMap<Sha256, Vec<u8>>) -> Result<(), IntakeError> {
    for role in &manifest.roles {
        let Ok(file) = DeviceFile::edit(role.file.as_bytes()) else { continue };
        for (path, target) in publication::targets(&file) {
            let Some(list) = sealed.get(&target.sha256) else { continue };
            let custom = file.target(&path).map(|(_, custom)| custom).unwrap_or_default();
            let Some(name) = custom.get("chunks").and_then(serde_json::Value::as_str) else { continue };
            let beside = TargetPath::new(path.vendor(), path.codename(), path.channel(), name).ok();
            let listed = beside.as_ref().and_then(|beside| file.target(beside)).map(|(target, _)| target);
            if listed != Some(Target::of(list)) {
                return Err(IntakeError::ChunkList { path: Box::new(beside.unwrap_or(path)) });
            }
        }
    }
    Ok(())
}

/// A list of chunks, as far as it is there.
fn read_or_empty(path: &Path) -> Result<Vec<u8>, IntakeError> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_LIST).read_to_end(&mut bytes)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(IntakeError::read(path)(error)),
        _ => Ok(bytes),
    }
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, IntakeError> {
    let read = || IntakeError::read(directory);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(read()(error)),
    };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(read())).collect()
}

fn remove(path: &Path) -> Result<(), IntakeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(IntakeError::write(path)(error)),
        _ => Ok(()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
