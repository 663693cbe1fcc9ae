//! Downloads in verified chunks, from any mirrors, resumed after anything.
//!
//! A package arrives in `<sha256>.part`, each chunk checked against the chunk list before it counts. `<sha256>.progress`
//! says which chunks were right and flushed; at a start every chunk that may be there is hashed again, so that neither a
//! torn write nor a lost journal matters. Only when the whole file has the signed hash does it get its final name.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::{self, Read},
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use relevo_meta::chunks::{ChunkList, chunk_size_for};
use relevo_types::{ByteLen, Sha256};
use sha2::Digest;

use crate::{
    config::NetworkConfig,
    http::{Answer, FetchError, Http},
    mirror::{Aside, Lease, Mirrors, chain},
    stop::Stop,
    storage::{self, Handle, Storage, StorageError},
};

/// Size of the buffers for reading and hashing, in bytes.
const BUFFER: usize = 64 * 1024;
/// After this many new bytes the journal is brought up to date; a cut costs at most as much again.
const FLUSH_BYTES: u64 = 4 << 20;
/// On a slow link the journal is brought up to date after this time already.
const FLUSH_TIME: Duration = Duration::from_secs(5);
/// An answer that broke off after fewer bytes counts as a failure of the mirror.
const PROGRESS: u64 = 16 * 1024;
/// The longest wait between two tries.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Why a download did not end well. Everything that was verified is kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// Every mirror failed or was put aside.
    #[error("no mirror could give {what}: {}", list(.aside))]
    NoMirror {
        /// What was wanted.
        what: String,
        /// The mirrors, each with what it did.
        aside: Vec<Aside>,
    },
    /// The file system is full.
    #[error("{} has {free} free, but the download needs {needed}; free some space and run again, nothing is lost", .path.display())]
    DiskFull {
        /// The directory.
        path: PathBuf,
        /// What the download still needs, with the reserve.
        needed: ByteLen,
        /// What there is.
        free: ByteLen,
    },
    /// The disk refused something.
    #[error("the download could not be stored")]
    Storage(#[from] StorageError),
    /// The chunk list is not about this package.
    #[error("the chunk list of {what} is not usable: {reason}")]
    ChunkList {
        /// The package.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// All chunks were right but the whole is not.
    #[error(
        "{what} has SHA-256 {actual}, expected {expected}, although each of its chunks is right; the chunk list was made for another file"
    )]
    WholeDiffers {
        /// The package.
        what: String,
        /// What metadata says.
        expected: Sha256,
        /// What came out.
        actual: Sha256,
    },
    /// We were asked to end.
    #[error("stopped; what came so far is kept")]
    Stopped,
}

fn list(aside: &[Aside]) -> String {
    if aside.is_empty() {
        return "none is configured".to_owned();
    }
    let each = aside.iter().map(|aside| format!("{}: {}", aside.mirror, aside.reason));
    each.collect::<Vec<_>>().join("; ")
}

/// The hashes of a package's chunks.
#[derive(Debug, Clone)]
pub struct Chunks {
    /// Length of each but the last, in bytes; not 0.
    pub size: u64,
    /// Length of the whole, in bytes.
    pub length: u64,
    /// One for each chunk.
    pub hashes: Vec<Sha256>,
}

impl From<&ChunkList> for Chunks {
    fn from(list: &ChunkList) -> Self {
        let encoded = list.encode();
        // The list checks chunks that are whole in memory; ours are hashed as they arrive, and may have 16 MiB.
        let hashes = encoded[16..].as_chunks::<32>().0.iter().copied().map(Sha256::new).collect();
        Self { size: list.chunk_size().get(), length: list.file_length().get(), hashes }
    }
}

impl Chunks {
    fn range(&self, chunk: usize) -> Range<u64> {
        let start = self.size.saturating_mul(chunk as u64).min(self.length);
        start..start.saturating_add(self.size).min(self.length)
    }
}

/// What is downloaded.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// How messages name it.
    pub what: String,
    /// Its path below a repository's base address.
    pub path: String,
    /// Its signed length.
    pub length: ByteLen,
    /// Its signed hash.
    pub sha256: Sha256,
}

impl Wanted {
    /// Its final name in `directory`.
    pub fn final_path(&self, directory: &Path) -> PathBuf {
        directory.join(format!("{}.rvp", self.sha256))
    }

    /// How many bytes of a download in `directory` its journal vouches for, roughly: chunks are of the usual size.
    pub fn verified_bytes(&self, directory: &Path) -> u64 {
        Journal::bytes(&self.progress_path(directory), self.length.get())
    }

    fn part_path(&self, directory: &Path) -> PathBuf {
        directory.join(format!("{}.part", self.sha256))
    }

    fn progress_path(&self, directory: &Path) -> PathBuf {
        directory.join(format!("{}.progress", self.sha256))
    }
}

/// What a download cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Received {
    /// Bytes of bodies that came over the network.
    pub bytes: u64,
    /// Bytes that were on disk already and right.
    pub kept: u64,
    /// Number of requests.
    pub requests: u64,
}

/// Downloads into one directory.
#[derive(Debug)]
pub struct Downloader<'a> {
    /// Asks servers.
    pub http: &'a Http,
    /// Whom to ask.
    pub mirrors: &'a Mirrors,
    /// What is changed on disk.
    pub storage: &'a dyn Storage,
    /// Ends the work.
    pub stop: &'a Stop,
    /// Limits.
    pub network: &'a NetworkConfig,
    /// Where the files go.
    pub directory: &'a Path,
    /// Bytes to leave free.
    pub reserve: ByteLen,
}

impl Downloader<'_> {
    /// Fetches a small target whole; a mirror whose bytes are not the signed ones is put aside.
    ///
    /// # Errors
    /// [`DownloadError::NoMirror`] once every mirror failed.
    pub fn small(&self, wanted: &Wanted) -> Result<Vec<u8>, DownloadError> {
        let kept = self.directory.join(format!("{}.chunks", wanted.sha256));
        match storage::read(&kept, wanted.length.get()) {
            Ok(Some(bytes)) if is(&bytes, wanted) => return Ok(bytes),
            _ => {}
        }
        loop {
            if self.stop.is_set() {
                return Err(DownloadError::Stopped);
            }
            let Some(lease) = self.mirrors.best(false) else {
                return Err(DownloadError::NoMirror { what: wanted.what.clone(), aside: self.mirrors.aside() });
            };
            let url = format!("{}{}", lease.url, wanted.path);
            match self.http.get_whole(&url, wanted.length.get()) {
                Ok((bytes, latency)) if is(&bytes, wanted) => {
                    lease.answered(latency);
                    lease.succeeded();
                    storage::replace(self.storage, &kept, &bytes)?;
                    return Ok(bytes);
                }
                Ok((bytes, _)) => {
                    let actual = hash_of(&bytes);
                    let (len, expected) = (bytes.len(), wanted.sha256);
                    lease.put_aside(&format!(
                        "{url} has {len} bytes and SHA-256 {actual}, expected {} and {expected}",
                        wanted.length
                    ));
                }
                Err(error) => self.failed(&lease, &error)?,
            }
        }
    }

    /// Counts a failure, puts a mirror aside that cannot do better, and waits where there is nobody else to ask.
    fn failed(&self, lease: &Lease<'_>, error: &FetchError) -> Result<(), DownloadError> {
        if self.stop.is_set() {
            return Err(DownloadError::Stopped);
        }
        let reason = chain(error);
        tracing::debug!(mirror = lease.url, reason, "request failed");
        if !error.is_retryable() {
            lease.put_aside(&reason);
            return Ok(());
        }
        let failures = lease.failed(&reason);
        if self.mirrors.best_but(false, std::slice::from_ref(&lease.url)).is_none() {
            let wait = self.network.retry_wait.saturating_mul(1 << (failures.saturating_sub(1)).min(10)).min(MAX_WAIT);
            if self.stop.wait(wait) {
                return Err(DownloadError::Stopped);
            }
        }
        Ok(())
    }

    /// Downloads what is missing of `wanted`, checks the whole, and gives it its final name; says where it is.
    ///
    /// `progress` is told the number of verified bytes.
    ///
    /// # Errors
    /// [`DownloadError`]; what was verified stays and is used by the next run.
    pub fn download(
        &self,
        wanted: &Wanted,
        chunks: &Chunks,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(PathBuf, Received), DownloadError> {
        self.fetch(wanted, chunks, progress).map_err(|error| match error {
            DownloadError::Storage(error) => self.stored(error, wanted.length.get()),
            error => error,
        })
    }

    fn fetch(
        &self,
        wanted: &Wanted,
        chunks: &Chunks,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(PathBuf, Received), DownloadError> {
        let final_path = wanted.final_path(self.directory);
        let count = wanted.length.get().div_ceil(chunks.size.max(1));
        if chunks.size == 0 || chunks.length != wanted.length.get() || chunks.hashes.len() as u64 != count {
            let reason = format!("it is about {} bytes, expected {}", chunks.length, wanted.length);
            return Err(DownloadError::ChunkList { what: wanted.what.clone(), reason });
        }
        if final_path.exists() {
            if hash_file(&final_path, self.stop)? == Some(wanted.sha256) {
                let kept = wanted.length.get();
                return Ok((final_path, Received { kept, ..Received::default() }));
            }
            tracing::warn!(file = %final_path.display(), "a finished download is damaged; fetching it again");
            storage::remove(self.storage, &final_path)?;
        }
        let run = Run::start(self, wanted, chunks, progress)?;
        let outcome = run.fetch_missing();
        let received = run.finish_journal(outcome)?;
        let part = wanted.part_path(self.directory);
        match hash_file(&part, self.stop)? {
            Some(actual) if actual == wanted.sha256 => {}
            Some(actual) => {
                storage::remove(self.storage, &part)?;
                let (what, expected) = (wanted.what.clone(), wanted.sha256);
                return Err(DownloadError::WholeDiffers { what, expected, actual });
            }
            None => return Err(DownloadError::Stopped),
        }
        self.storage.rename(&part, &final_path)?;
        self.storage.sync_directory(self.directory)?;
        storage::remove(self.storage, &wanted.progress_path(self.directory))?;
        Ok((final_path, received))
    }

    /// Removes downloads of other packages, which nobody will ask for again.
    ///
    /// # Errors
    /// [`DownloadError::Storage`].
    pub fn remove_others(&self, keep: &[Sha256]) -> Result<(), DownloadError> {
        let error = |source| StorageError::new("list", self.directory, source);
        let keep: Vec<String> = keep.iter().map(Sha256::to_string).collect();
        for entry in std::fs::read_dir(self.directory).map_err(error)? {
            let name = entry.map_err(error)?.file_name();
            let name = name.to_string_lossy();
            if !keep.iter().any(|sha256| name.starts_with(sha256.as_str())) {
                self.storage.remove(&self.directory.join(&*name))?;
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Missing,
    Claimed,
    Done,
}

/// The beginning of a chunk that came before an answer broke off: on a link that breaks every 200 KB a chunk would never
/// come whole otherwise.
struct Partial {
    received: u64,
    hasher: sha2::Sha256,
    mirror: String,
    /// Several mirrors gave it, so none of them can be blamed alone.
    mixed: bool,
}

struct Work {
    chunks: Vec<Chunk>,
    partial: BTreeMap<usize, Partial>,
    done: u64,
    unflushed: u64,
    flushed_at: Instant,
    received: Received,
    fatal: Option<DownloadError>,
}

struct Run<'a> {
    downloader: &'a Downloader<'a>,
    wanted: &'a Wanted,
    list: &'a Chunks,
    progress: &'a (dyn Fn(u64) + Sync),
    part: Box<dyn Handle>,
    work: Mutex<Work>,
    changed: Condvar,
    journal: Mutex<Journal>,
    limiter: Mutex<Instant>,
}

impl<'a> Run<'a> {
    fn start(
        downloader: &'a Downloader<'a>,
        wanted: &'a Wanted,
        list: &'a Chunks,
        progress: &'a (dyn Fn(u64) + Sync),
    ) -> Result<Self, DownloadError> {
        let storage = downloader.storage;
        let part_path = wanted.part_path(downloader.directory);
        let length = wanted.length.get();
        let present = std::fs::metadata(&part_path).ok().filter(|metadata| metadata.len() == length);
        let allocated = present.as_ref().map_or(0, |metadata| metadata.blocks().saturating_mul(512));
        let needed = length.saturating_sub(allocated);
        let free = storage.free_bytes(downloader.directory)?;
        let with_reserve = needed.saturating_add(downloader.reserve.get());
        if needed > 0 && free < with_reserve {
            return Err(downloader.disk_full(with_reserve, free));
        }
        let resumed = present.is_some();
        let part = if resumed { storage.open(&part_path)? } else { storage.create(&part_path)? };
        part.allocate(length)?;
        if !resumed {
            part.sync()?;
            storage.sync_directory(downloader.directory)?;
        }
        let journal = Journal::open(&wanted.progress_path(downloader.directory), list.hashes.len());
        let mut chunks = vec![Chunk::Missing; list.hashes.len()];
        let mut done = 0;
        if resumed {
            let error = |source| StorageError::new("read", &part_path, source);
            let file = File::open(&part_path).map_err(error)?;
            for (index, chunk) in chunks.iter_mut().enumerate() {
                if downloader.stop.is_set() {
                    return Err(DownloadError::Stopped);
                }
                let range = list.range(index);
                if chunk_on_disk(&file, &range, journal.has(index), &list.hashes[index]).map_err(error)? {
                    *chunk = Chunk::Done;
                    done += range.end - range.start;
                } else if journal.has(index) {
                    tracing::warn!(chunk = index, "a chunk that was complete is damaged on disk; fetching it again");
                }
            }
        }
        let work = Work {
            chunks,
            partial: BTreeMap::new(),
            done,
            unflushed: 0,
            flushed_at: Instant::now(),
            received: Received { kept: done, ..Received::default() },
            fatal: None,
        };
        progress(done);
        Ok(Self {
            downloader,
            wanted,
            list,
            progress,
            part,
            work: Mutex::new(work),
            changed: Condvar::new(),
            journal: Mutex::new(journal),
            limiter: Mutex::new(Instant::now()),
        })
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fetch_missing(&self) -> Result<(), DownloadError> {
        std::thread::scope(|scope| {
            for _ in 1..self.downloader.network.parallel.min(self.list.hashes.len().max(1)) {
                scope.spawn(|| self.worker());
            }
            self.worker();
        });
        match self.work().fatal.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Brings the journal up to date, whatever the outcome was.
    fn finish_journal(&self, outcome: Result<(), DownloadError>) -> Result<Received, DownloadError> {
        let flushed = self.flush();
        outcome?;
        flushed?;
        Ok(self.work().received)
    }

    fn worker(&self) {
        if let Err(error) = self.work_on() {
            self.work().fatal.get_or_insert(error);
        }
        self.changed.notify_all();
    }

    fn work_on(&self) -> Result<(), DownloadError> {
        let mut buffer = vec![0; BUFFER];
        loop {
            if self.downloader.stop.is_set() {
                return Err(DownloadError::Stopped);
            }
            let Some(claim) = self.claim() else { return Ok(()) };
            let mut span = Span { run: self, queue: claim.into() };
            let Some(lease) = self.downloader.mirrors.best(true) else {
                let aside = self.downloader.mirrors.aside();
                return Err(DownloadError::NoMirror { what: self.wanted.what.clone(), aside });
            };
            match span.fetch(&lease, &mut buffer) {
                Ok(()) => lease.succeeded(),
                Err(SpanError::Fatal(error)) => return Err(error),
                Err(SpanError::Fetch(error)) => {
                    // Others can take the rest while this one waits.
                    drop(span);
                    self.downloader.failed(&lease, &error)?;
                }
                Err(SpanError::Wrong(reason)) => lease.put_aside(&reason),
                Err(SpanError::Mixed) => {}
            }
        }
    }

    /// A run of missing chunks for one request; waits while others work on the last ones; `None` when there is nothing
    /// left to do.
    fn claim(&self) -> Option<Vec<usize>> {
        let limit = self.downloader.network.request_size.get();
        let mut work = self.work();
        loop {
            if work.fatal.is_some() || self.downloader.stop.is_set() {
                return None;
            }
            if let Some(first) = work.chunks.iter().position(|&chunk| chunk == Chunk::Missing) {
                let mut claimed = Vec::new();
                let mut bytes = 0u64;
                for index in first..work.chunks.len() {
                    let range = self.list.range(index);
                    bytes += range.end - range.start;
                    let fits = claimed.is_empty() || (bytes <= limit && !work.partial.contains_key(&index));
                    if work.chunks[index] != Chunk::Missing || !fits {
                        break;
                    }
                    work.chunks[index] = Chunk::Claimed;
                    claimed.push(index);
                }
                return Some(claimed);
            }
            if work.chunks.iter().all(|&chunk| chunk == Chunk::Done) {
                return None;
            }
            work = self.changed.wait_timeout(work, Duration::from_secs(1)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Holds back until `len` more bytes keep to the limit.
    fn limit(&self, len: usize) -> Result<(), DownloadError> {
        let Some(rate) = self.downloader.network.rate_limit else { return Ok(()) };
        let cost = Duration::from_secs_f64(len as f64 / rate.get() as f64);
        let wait = {
            let mut next = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            *next = (*next).max(now) + cost;
            *next - now
        };
        if self.downloader.stop.wait(wait) { Err(DownloadError::Stopped) } else { Ok(()) }
    }

    fn complete(&self, chunk: usize) -> Result<(), DownloadError> {
        let range = self.list.range(chunk);
        let due = {
            let mut work = self.work();
            work.chunks[chunk] = Chunk::Done;
            work.done += range.end - range.start;
            work.unflushed += range.end - range.start;
            (self.progress)(work.done);
            work.unflushed >= FLUSH_BYTES || work.flushed_at.elapsed() >= FLUSH_TIME
        };
        if due { self.flush() } else { Ok(()) }
    }

    /// Makes the finished chunks durable, and then says so in the journal.
    fn flush(&self) -> Result<(), DownloadError> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let done: Vec<bool> = {
            let mut work = self.work();
            if work.unflushed == 0 {
                return Ok(());
            }
            work.unflushed = 0;
            work.flushed_at = Instant::now();
            work.chunks.iter().map(|&chunk| chunk == Chunk::Done).collect()
        };
        self.part.sync()?;
        journal.write(self.downloader.storage, &done)?;
        Ok(())
    }
}

impl Downloader<'_> {
    fn disk_full(&self, needed: u64, free: u64) -> DownloadError {
        let path = self.directory.to_owned();
        DownloadError::DiskFull { path, needed: ByteLen::new(needed), free: ByteLen::new(free) }
    }

    fn stored(&self, error: StorageError, needed: u64) -> DownloadError {
        if !error.is_full() {
            return error.into();
        }
        let free = self.storage.free_bytes(self.directory).unwrap_or(0);
        self.disk_full(needed, free)
    }
}

enum SpanError {
    /// The request failed.
    Fetch(FetchError),
    /// The mirror sent what a sound one never does.
    Wrong(String),
    /// A chunk that several mirrors gave is wrong; it is fetched again from one.
    Mixed,
    /// Nothing can go on.
    Fatal(DownloadError),
}

impl<E: Into<DownloadError>> From<E> for SpanError {
    fn from(error: E) -> Self {
        Self::Fatal(error.into())
    }
}

/// The chunks that one request is about, in order; those that are left when it ends are missing again.
struct Span<'a> {
    run: &'a Run<'a>,
    queue: VecDeque<usize>,
}

impl Drop for Span<'_> {
    fn drop(&mut self) {
        let mut work = self.run.work();
        for &index in &self.queue {
            work.chunks[index] = Chunk::Missing;
        }
        drop(work);
        self.run.changed.notify_all();
    }
}

impl Span<'_> {
    fn fetch(&mut self, lease: &Lease<'_>, buffer: &mut [u8]) -> Result<(), SpanError> {
        let run = self.run;
        let (Some(&first), Some(&last)) = (self.queue.front(), self.queue.back()) else { return Ok(()) };
        let mut partial = run.work().partial.remove(&first);
        let skip = partial.as_ref().map_or(0, |partial| partial.received);
        let range = run.list.range(first).start + skip..run.list.range(last).end;
        let url = format!("{}{}", lease.url, run.wanted.path);
        run.work().received.requests += 1;
        let expected = range.end - range.start;
        let answer = run.downloader.http.get(&url, Some(range.clone()), expected).and_then(|answer| {
            let start = answer.check_range(&range, run.list.length)?;
            Ok((answer, start))
        });
        let (mut answer, start) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.keep(partial);
                return Err(SpanError::Fetch(error));
            }
        };
        lease.answered(answer.latency);
        let mut end = range.end;
        if start != range.start {
            // The server sends whole files: take everything from it that nobody else is fetching.
            tracing::info!(mirror = lease.url, "the mirror sends whole files instead of ranges");
            lease.has_no_ranges();
            partial = None;
            end = run.list.length;
            self.claim_all();
        } else if answer.status == 200 {
            lease.has_no_ranges();
            end = run.list.length;
            self.claim_all();
        }
        let mut chunk = partial.unwrap_or_else(|| Partial::new(&lease.url));
        chunk.given_by(&lease.url);
        match self.receive(&mut answer, start, end, &mut chunk, lease, buffer) {
            Err(SpanError::Fetch(error)) => {
                self.keep(Some(chunk));
                Err(SpanError::Fetch(error))
            }
            other => other,
        }
    }

    /// Keeps the beginning of the first chunk for the next request.
    fn keep(&self, partial: Option<Partial>) {
        if let (Some(partial), Some(&first)) = (partial.filter(|partial| partial.received > 0), self.queue.front()) {
            self.run.work().partial.insert(first, partial);
        }
    }

    fn claim_all(&mut self) {
        let mut work = self.run.work();
        for (index, chunk) in work.chunks.iter_mut().enumerate() {
            if *chunk == Chunk::Missing {
                *chunk = Chunk::Claimed;
                self.queue.push_back(index);
            }
        }
        work.partial.retain(|index, _| !self.queue.contains(index));
        self.queue.make_contiguous().sort_unstable();
    }

    fn receive(
        &mut self,
        answer: &mut Answer,
        start: u64,
        end: u64,
        chunk: &mut Partial,
        lease: &Lease<'_>,
        buffer: &mut [u8],
    ) -> Result<(), SpanError> {
        let run = self.run;
        let mut at = start;
        let mut received = 0;
        while at < end {
            if run.downloader.stop.is_set() {
                return Err(DownloadError::Stopped.into());
            }
            // Nothing left to take from a whole file: the rest would only cost.
            let Some(&index) = self.queue.front() else { return Ok(()) };
            let range = run.list.range(index);
            let next = range.start + chunk.received;
            let until = if at < next { next } else { range.end };
            let len = usize::try_from(until - at).unwrap_or(usize::MAX).min(buffer.len());
            let len = answer.read(&mut buffer[..len]).map_err(SpanError::Fetch)?;
            if len == 0 {
                let (url, expected, actual) = (answer.url().to_owned(), end - start, at - start);
                let source = FetchError::Length { url: url.clone(), expected, actual };
                let source = io::Error::new(io::ErrorKind::UnexpectedEof, source);
                return Err(SpanError::Fetch(FetchError::Body { url, received: actual, source }));
            }
            run.limit(len)?;
            run.work().received.bytes += len as u64;
            received += len as u64;
            if received >= PROGRESS {
                lease.progressed();
            }
            if at == next {
                let bytes = &buffer[..len];
                run.part.write_at(bytes, at)?;
                chunk.hasher.update(bytes);
                chunk.received += len as u64;
            }
            at += len as u64;
            if at == range.end {
                self.check(index, chunk, &lease.url)?;
                lease.progressed();
            }
        }
        if answer.read(&mut buffer[..1]).map_err(SpanError::Fetch)? > 0 {
            return Err(SpanError::Wrong(format!("{} goes on after its {} bytes", answer.url(), end - start)));
        }
        Ok(())
    }

    /// A chunk is whole: it counts, or it is refused.
    fn check(&mut self, index: usize, chunk: &mut Partial, mirror: &str) -> Result<(), SpanError> {
        let run = self.run;
        let whole = std::mem::replace(chunk, Partial::new(mirror));
        let actual = Sha256::new(whole.hasher.finalize().into());
        let expected = run.list.hashes[index];
        if actual == expected {
            self.queue.pop_front();
            return Ok(run.complete(index)?);
        }
        if whole.mixed {
            return Err(SpanError::Mixed);
        }
        let range = run.list.range(index);
        Err(SpanError::Wrong(format!(
            "sent wrong bytes {}-{} of {}: SHA-256 {actual}, expected {expected}",
            range.start,
            range.end - 1,
            run.wanted.what
        )))
    }
}

impl Partial {
    fn new(mirror: &str) -> Self {
        Self { received: 0, hasher: sha2::Sha256::new(), mirror: mirror.to_owned(), mixed: false }
    }

    fn given_by(&mut self, mirror: &str) {
        self.mixed |= self.received > 0 && self.mirror != mirror;
    }
}

fn is(bytes: &[u8], wanted: &Wanted) -> bool {
    bytes.len() as u64 == wanted.length.get() && hash_of(bytes) == wanted.sha256
}

fn hash_of(bytes: &[u8]) -> Sha256 {
    Sha256::new(sha2::Sha256::digest(bytes).into())
}

/// Hashes a file; `None` if stopped.
pub(crate) fn hash_file(path: &Path, stop: &Stop) -> Result<Option<Sha256>, StorageError> {
    let error = |source| StorageError::new("read", path, source);
    let mut file = File::open(path).map_err(error)?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Some(Sha256::new(hasher.finalize().into()))),
            Ok(len) => hasher.update(&buffer[..len]),
            Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(error(source)),
        }
        if stop.is_set() {
            return Ok(None);
        }
    }
}

/// Whether a chunk on disk is right. One that the journal does not name may still have come: a look at its last bytes
/// saves hashing what was never written.
fn chunk_on_disk(file: &File, range: &Range<u64>, journalled: bool, expected: &Sha256) -> io::Result<bool> {
    let mut buffer = vec![0; BUFFER];
    if !journalled {
        let tail = usize::try_from((range.end - range.start).min(32)).unwrap_or(0);
        file.read_exact_at(&mut buffer[..tail], range.end - tail as u64)?;
        if buffer[..tail].iter().all(|&byte| byte == 0) {
            return Ok(false);
        }
    }
    let mut hasher = sha2::Sha256::new();
    let mut at = range.start;
    while at < range.end {
        let len = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(buffer.len());
        file.read_exact_at(&mut buffer[..len], at)?;
        hasher.update(&buffer[..len]);
        at += len as u64;
    }
    Ok(Sha256::new(hasher.finalize().into()) == *expected)
}

/// Which chunks are on disk: two copies written in turn, each
/// `RVDP`, sequence `u32`, number of chunks `u32`, one bit a chunk, CRC-32 of all that; little-endian.
struct Journal {
    path: PathBuf,
    file: Option<Box<dyn Handle>>,
    sequence: u32,
    bits: Vec<u8>,
}

const JOURNAL_MAGIC: &[u8; 4] = b"RVDP";
/// Copies start at multiples of this, so that one sector never holds parts of both.
const JOURNAL_ALIGN: usize = 4096;

impl Journal {
    fn open(path: &Path, chunks: usize) -> Self {
        let empty = vec![0; chunks.div_ceil(8)];
        let mut journal = Self { path: path.to_owned(), file: None, sequence: 0, bits: empty };
        let Ok(Some(bytes)) = storage::read(path, 2 * journal.stride()) else { return journal };
        let stride = usize::try_from(journal.stride()).unwrap_or(usize::MAX);
        for copy in bytes.chunks(stride) {
            let Some((sequence, bits)) = Self::decode(copy, chunks) else { continue };
            if sequence >= journal.sequence {
                (journal.sequence, journal.bits) = (sequence, bits);
            }
        }
        journal
    }

    /// Bytes of the chunks that a journal names, for a file of `length` bytes.
    fn bytes(path: &Path, length: u64) -> u64 {
        let count = chunk_size_for(ByteLen::new(length)).map(|size| length.div_ceil(size.get())).unwrap_or(0);
        let chunks = usize::try_from(count).unwrap_or(0);
        let journal = Self::open(path, chunks);
        let done = (0..chunks).filter(|&chunk| journal.has(chunk)).count() as u64;
        length.saturating_mul(done).checked_div(count).unwrap_or(0)
    }

    fn stride(&self) -> u64 {
        (self.bits.len() + 16).next_multiple_of(JOURNAL_ALIGN) as u64
    }

    fn decode(copy: &[u8], chunks: usize) -> Option<(u32, Vec<u8>)> {
        let len = chunks.div_ceil(8);
        let word = |at: usize| Some(u32::from_le_bytes(copy.get(at..at + 4)?.try_into().ok()?));
        let right = copy.starts_with(JOURNAL_MAGIC)
            && word(8)? as usize == chunks
            && word(12 + len)? == storage::crc32(copy.get(..12 + len)?);
        if right { Some((word(4)?, copy.get(12..12 + len)?.to_vec())) } else { None }
    }

    fn has(&self, chunk: usize) -> bool {
        self.bits.get(chunk / 8).is_some_and(|byte| byte & (1 << (chunk % 8)) != 0)
    }

    fn write(&mut self, storage: &dyn Storage, done: &[bool]) -> Result<(), StorageError> {
        self.bits.fill(0);
        for (index, _) in done.iter().enumerate().filter(|(_, done)| **done) {
            self.bits[index / 8] |= 1 << (index % 8);
        }
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = JOURNAL_MAGIC.to_vec();
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(done.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(&self.bits);
        bytes.extend_from_slice(&storage::crc32(&bytes).to_le_bytes());
        let offset = self.stride() * u64::from(self.sequence % 2);
        let file = match &self.file {
            Some(file) => file,
            None if self.path.exists() => self.file.insert(storage.open(&self.path)?),
            None => {
                let file = storage.create(&self.path)?;
                storage.sync_directory(storage::directory_of(&self.path))?;
                self.file.insert(file)
            }
        };
        file.write_at(&bytes, offset)?;
        file.sync()
    }
}
