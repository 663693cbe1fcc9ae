//! A repository, a phone, a server that can misbehave, and a disk whose power can be cut.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use jiff::Timestamp;
use relevo_format::{
    ops::{Encoder, Op},
    package::{
        Base, BaseKind, Codec, Engine, Front, Info, Limits, Manifest, Partition, Piece, Role, Signature, Stream,
    },
};
use relevo_meta::testing::{TestRepo, key};
use relevo_types::{BuildId, ByteLen, Codename, PartitionName, Sha256};
use relevo_updater::{
    Config, Environment, Updater,
    boot::{BootFile, Booted, Slot, bootloader_boot},
    factory,
    stop::Stop,
    storage::{Disk, Handle, Storage, StorageError},
    updater::{Activity, Status, UpdateError},
};
use sha2::Digest;

/// Partitions of a build.
pub(crate) type Images = BTreeMap<&'static str, Vec<u8>>;

/// When build 100 was made; each later build is a day younger. The repository's clock stands at 2026-01-01.
pub(crate) const EPOCH: i64 = 1_760_000_000;

/// When a build was made.
pub(crate) fn made(build: &str) -> i64 {
    EPOCH + 86_400 * (build.parse::<i64>().unwrap() - 100)
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub(crate) fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256::new(sha2::Sha256::digest(bytes).into())
}

/// The images of a build: `system` keeps most of its bytes from build to build, `boot` changes wholly, `empty` is empty,
/// and `old` vanishes after build 100.
pub(crate) fn images(build: &str) -> Images {
    let number: u64 = build.parse().unwrap();
    let mut system = noise(7, 300_000);
    let at = 40_000 * (usize::try_from(number).unwrap() % 5);
    system[at..at + 5_000].copy_from_slice(&noise(number, 5_000));
    let mut images =
        BTreeMap::from([("system", system), ("boot", noise(number + 1000, 70_000)), ("empty", Vec::new())]);
    if number <= 100 {
        images.insert("old", noise(number + 2000, 5_000));
    }
    images
}

/// What a package is made of.
pub(crate) struct Recipe {
    pub(crate) device: Option<&'static str>,
    pub(crate) from: Option<(&'static str, Images)>,
    pub(crate) to: (&'static str, Images),
    pub(crate) timestamp: i64,
    pub(crate) keys: Vec<&'static str>,
    pub(crate) piece: usize,
}

impl Recipe {
    pub(crate) fn full(to: &'static str) -> Self {
        Self {
            device: Some("ginkgo"),
            from: None,
            to: (to, images(to)),
            timestamp: made(to),
            keys: vec!["d-ginkgo"],
            piece: 50_000,
        }
    }

    pub(crate) fn delta(from: &'static str, to: &'static str) -> Self {
        Self { from: Some((from, images(from))), ..Self::full(to) }
    }

    /// The package, signed: pieces of equal bytes are copied from the source, all others are stored.
    pub(crate) fn make(&self) -> Vec<u8> {
        let name = |name: &str| PartitionName::parse(name).unwrap();
        let build = |build: &str| BuildId::parse(build).unwrap();
        let empty = Images::new();
        let old = self.from.as_ref().map_or(&empty, |(_, images)| images);
        let bases = old.iter().map(|(partition, bytes)| Base {
            kind: BaseKind::Source,
            partition: name(partition),
            size: ByteLen::new(bytes.len() as u64),
            sha256: sha256(bytes),
        });
        let mut body = Vec::new();
        let mut partitions = Vec::new();
        for (partition, bytes) in &self.to.1 {
            let mut pieces = Vec::new();
            let base = old.keys().position(|known| known == partition);
            for (index, chunk) in bytes.chunks(self.piece).enumerate() {
                let start = (index * self.piece) as u64;
                let len = chunk.len() as u64;
                let range = index * self.piece..index * self.piece + chunk.len();
                let same = base.filter(|_| old[partition].get(range) == Some(chunk));
                let mut encoder = Encoder::new(usize::from(same.is_some()));
                encoder.push(match same {
                    Some(_) => Op::Copy { base: 0, start, len },
                    None => Op::Insert { len },
                });
                let mut streams = vec![stream(Role::Ops, &encoder.finish(), &mut body)];
                if same.is_none() {
                    streams.push(stream(Role::Extra, chunk, &mut body));
                }
                let bases = same.iter().map(|&base| u32::try_from(base).unwrap()).collect();
                pieces.push(Piece { start, len, sha256: sha256(chunk), engine: Engine::Bsdiff, bases, streams });
            }
            let size = ByteLen::new(bytes.len() as u64);
            partitions.push(Partition { name: name(partition), size, sha256: sha256(bytes), pieces });
        }
        let removed = old.keys().filter(|partition| !self.to.1.contains_key(*partition));
        let mut manifest = Manifest {
            info: Info {
                device: self.device.map(|device| Codename::parse(device).unwrap()),
                from: self.from.as_ref().map(|(from, _)| build(from)),
                to: Some(build(self.to.0)),
                timestamp: Some(u64::try_from(self.timestamp).unwrap()),
                memory: ByteLen::ZERO,
            },
            bases: bases.collect(),
            partitions,
            removed: removed.map(|partition| name(partition)).collect(),
        };
        manifest.info.memory = manifest.memory();
        let mut front = Front::new(manifest, &Limits::default()).unwrap();
        for signer in &self.keys {
            let signature = Signature::new(&front, key(signer).signing_key());
            front.add_signature(signature);
        }
        let mut package = front.encode();
        package.extend_from_slice(&body);
        package
    }
}

fn stream(role: Role, bytes: &[u8], body: &mut Vec<u8>) -> Stream {
    let offset = body.len() as u64;
    body.extend_from_slice(bytes);
    let len = bytes.len() as u64;
    Stream { role, codec: Codec::Store, offset, stored_len: len, raw_len: len, window_log: 0, sha256: sha256(bytes) }
}

fn century() -> Timestamp {
    "2126-01-01T00:00:00Z".parse().unwrap()
}

/// A repository of one device with builds.
pub(crate) struct Repo(pub(crate) TestRepo);

impl Repo {
    pub(crate) fn new() -> Self {
        let mut repo = TestRepo::new();
        repo.add_device("xiaomi", "ginkgo");
        Self(repo)
    }

    /// A repository that is fresh for a century, for the binary with its real clock.
    pub(crate) fn lasting() -> Self {
        let mut repo = TestRepo::new();
        repo.root.set_expires(century());
        repo.publish_root();
        repo.add_device("xiaomi", "ginkgo");
        repo.targets.set_expires(century());
        repo.vendors.values_mut().for_each(|registry| registry.set_expires(century()));
        repo.devices.values_mut().for_each(|device| device.set_expires(century()));
        repo.snapshot.set_expires(century());
        repo.timestamp.set_expires(century());
        Self(repo)
    }

    /// Adds a package of `recipe`, under the names that its from and to give it.
    pub(crate) fn with(mut self, recipe: &Recipe) -> Self {
        self.add(recipe.from.as_ref().map_or("", |(from, _)| *from), recipe.to.0, &recipe.make());
        self
    }

    /// Adds any bytes as a package.
    pub(crate) fn add(&mut self, from: &str, to: &str, package: &[u8]) {
        self.0.add_package("xiaomi/ginkgo", "stable", from, to, made(to), package);
    }

    /// Signs everything, and gives the files by path.
    pub(crate) fn publish(&mut self) -> BTreeMap<String, Vec<u8>> {
        self.0.publish();
        let metadata = self.0.metadata.iter().map(|(name, bytes)| (format!("/repo/metadata/{name}"), bytes.clone()));
        let targets = self.0.files.iter().map(|(name, bytes)| (format!("/repo/targets/{name}"), bytes.clone()));
        metadata.chain(targets).collect()
    }
}

/// How a server misbehaves.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Closes the connection after so many bytes of the body.
    DropAt(u64),
    /// Changes the byte at this offset of the file.
    Flip(u64),
    /// Sends a body without a length that ends after so many bytes.
    Short(u64),
    /// Sends a body without a length that goes on after its end.
    Long,
    /// Sends a body without an end.
    Endless,
    /// Answers 200 with the whole file.
    IgnoreRange,
    /// Answers 206 with another range.
    WrongRange,
    /// Promises so many bytes more than it sends.
    WrongLength(u64),
    /// Answers with this status.
    Status(u16),
    /// Redirects to this place.
    Redirect(String),
    /// Sends so many bytes and then nothing.
    Stall(u64),
    /// Says that the body is compressed.
    Encoded,
    /// Sends the body compressed by gzip to whoever asks for that.
    Gzip,
    /// Sends so many zeros, compressed by gzip.
    Bomb(usize),
}

struct Rule {
    path: String,
    fault: Fault,
    times: usize,
}

struct Shared {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    rules: Mutex<Vec<Rule>>,
    requests: Mutex<Vec<Vec<u8>>>,
    sent: AtomicUsize,
    /// Bytes of heads and bodies, both ways.
    wire: AtomicUsize,
    stopped: AtomicBool,
    hold: (Mutex<bool>, Condvar),
    hook: Mutex<Option<Hook>>,
}

type Hook = Box<dyn FnMut(usize) + Send>;

/// A server on the loopback.
pub(crate) struct Server {
    shared: Arc<Shared>,
    address: std::net::SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            files: Mutex::new(files),
            rules: Mutex::default(),
            requests: Mutex::default(),
            sent: AtomicUsize::new(0),
            wire: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            hold: Default::default(),
            hook: Mutex::default(),
        });
        let served = shared.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if served.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let shared = served.clone();
                std::thread::spawn(move || {
                    // The client may go away at any moment.
                    let _ = serve(stream.unwrap(), &shared);
                });
            }
        });
        Self { shared, address, thread: Some(thread) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/repo/", self.address)
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn set_files(&self, files: BTreeMap<String, Vec<u8>>) {
        *self.shared.files.lock().unwrap() = files;
    }

    /// What is served under a path.
    pub(crate) fn file(&self, path: &str) -> Option<Vec<u8>> {
        self.shared.files.lock().unwrap().get(path).cloned()
    }

    /// Misbehaves `times` times on paths that end in `path`.
    pub(crate) fn fault(&self, path: &str, fault: Fault, times: usize) {
        self.shared.rules.lock().unwrap().push(Rule { path: path.to_owned(), fault, times });
    }

    /// Raw requests so far.
    pub(crate) fn requests(&self) -> Vec<Vec<u8>> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The paths of the requests so far that end in `end`, each with its range.
    pub(crate) fn asked(&self, end: &str) -> Vec<(String, Option<Range<u64>>)> {
        let parse = |raw: &Vec<u8>| {
            let text = String::from_utf8_lossy(raw).into_owned();
            let path = text.split(' ').nth(1).unwrap().to_owned();
            let range = range_of(&text);
            (path, range)
        };
        self.requests().iter().map(parse).filter(|(path, _)| path.ends_with(end)).collect()
    }

    /// Bytes of bodies sent so far.
    pub(crate) fn sent(&self) -> usize {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Bytes that passed so far, heads and bodies, both ways; a real server's heads are longer.
    pub(crate) fn wire(&self) -> usize {
        self.shared.wire.load(Ordering::SeqCst) + self.sent()
    }

    /// Is called with the bytes of bodies sent so far, before each part that is sent.
    pub(crate) fn hook(&self, hook: impl FnMut(usize) + Send + 'static) {
        *self.shared.hook.lock().unwrap() = Some(Box::new(hook));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        *self.shared.hold.0.lock().unwrap() = true;
        self.shared.hold.1.notify_all();
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn range_of(request: &str) -> Option<Range<u64>> {
    let line = request.lines().find(|line| line.to_ascii_lowercase().starts_with("range:"))?;
    let (start, end) = line.split_once("bytes=")?.1.trim().split_once('-')?;
    Some(start.parse().ok()?..end.parse::<u64>().ok()? + 1)
}

fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut bytes = [0; 4096];
            let len = stream.read(&mut bytes)?;
            if len == 0 {
                return Ok(());
            }
            request.extend_from_slice(&bytes[..len]);
        }
        shared.wire.fetch_add(request.len(), Ordering::SeqCst);
        shared.requests.lock().unwrap().push(request.clone());
        let text = String::from_utf8_lossy(&request).into_owned();
        let path = text.split(' ').nth(1).unwrap_or("").to_owned();
        let fault = {
            let mut rules = shared.rules.lock().unwrap();
            let rule = rules.iter_mut().find(|rule| rule.times > 0 && path.ends_with(&rule.path));
            rule.map(|rule| {
                rule.times -= 1;
                rule.fault.clone()
            })
        };
        let Some(mut file) = shared.files.lock().unwrap().get(&path).cloned() else {
            let head = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
            shared.wire.fetch_add(head.len(), Ordering::SeqCst);
            stream.write_all(head)?;
            continue;
        };
        let total = file.len() as u64;
        let mut range = range_of(&text);
        let mut extra = String::new();
        match &fault {
            Some(Fault::Status(status)) => {
                stream.write_all(format!("HTTP/1.1 {status} Told So\r\nContent-Length: 0\r\n\r\n").as_bytes())?;
                continue;
            }
            Some(Fault::Redirect(to)) => {
                let head = format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(head.as_bytes())?;
                continue;
            }
            Some(Fault::Flip(at)) => file[usize::try_from(*at).unwrap()] ^= 0x40,
            Some(Fault::IgnoreRange) => range = None,
            Some(Fault::Encoded) => extra = "Content-Encoding: gzip\r\n".to_owned(),
            Some(Fault::Gzip) if !text.to_lowercase().contains("accept-encoding: gzip") => {}
            Some(Fault::Gzip | Fault::Bomb(_)) => {
                if let Some(Fault::Bomb(len)) = &fault {
                    file = vec![0; *len];
                }
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
                encoder.write_all(&file)?;
                file = encoder.finish()?;
                extra = "Content-Encoding: gzip\r\n".to_owned();
            }
            _ => {}
        }
        let (status, body) = match &range {
            Some(range) => {
                let mut stated = range.clone();
                if matches!(fault, Some(Fault::WrongRange)) {
                    stated = stated.start + 1..stated.end + 1;
                }
                extra += &format!("Content-Range: bytes {}-{}/{total}\r\n", stated.start, stated.end - 1);
                let bytes = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
                ("206 Partial Content", file[bytes].to_vec())
            }
            None => ("200 OK", file),
        };
        let unsized_body = matches!(fault, Some(Fault::Short(_) | Fault::Long | Fault::Endless));
        let stated = match fault {
            Some(Fault::WrongLength(more)) => body.len() as u64 + more,
            _ => body.len() as u64,
        };
        let framing =
            if unsized_body { "Connection: close\r\n".to_owned() } else { format!("Content-Length: {stated}\r\n") };
        let head = format!("HTTP/1.1 {status}\r\n{framing}{extra}\r\n");
        shared.wire.fetch_add(head.len(), Ordering::SeqCst);
        stream.write_all(head.as_bytes())?;
        let end = match fault {
            Some(Fault::DropAt(at) | Fault::Short(at) | Fault::Stall(at)) => {
                usize::try_from(at).unwrap().min(body.len())
            }
            _ => body.len(),
        };
        for part in body[..end].chunks(16 * 1024) {
            if let Some(hook) = shared.hook.lock().unwrap().as_mut() {
                hook(shared.sent.load(Ordering::SeqCst));
            }
            stream.write_all(part)?;
            shared.sent.fetch_add(part.len(), Ordering::SeqCst);
        }
        match fault {
            Some(Fault::Long) => {
                stream.write_all(&[0; 100])?;
                return Ok(());
            }
            Some(Fault::Endless) => loop {
                stream.write_all(&[0; 4096])?;
                shared.sent.fetch_add(4096, Ordering::SeqCst);
            },
            Some(Fault::Stall(_)) => {
                let mut held = shared.hold.0.lock().unwrap();
                while !*held {
                    held = shared.hold.1.wait_timeout(held, Duration::from_secs(1)).unwrap().0;
                }
                return Ok(());
            }
            Some(Fault::DropAt(_) | Fault::Short(_) | Fault::WrongLength(_)) => return Ok(()),
            _ => {}
        }
    }
}

/// A phone in a directory of its own.
pub(crate) struct Phone {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) config: Config,
    pub(crate) now: Timestamp,
    pub(crate) seed: u64,
    boots: usize,
}

impl Phone {
    /// A phone that runs build 100 in slot a.
    pub(crate) fn new(repo: &Repo, mirrors: &[String]) -> Self {
        Self::with(repo, mirrors, "100", "")
    }

    pub(crate) fn with(repo: &Repo, mirrors: &[String], build: &str, more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let slot = path.join("slots/a");
        fs::create_dir_all(&slot).unwrap();
        for (name, bytes) in images(build) {
            fs::write(slot.join(format!("{name}.img")), bytes).unwrap();
        }
        fs::write(path.join("root.json"), &repo.0.metadata["1.root.json"]).unwrap();
        let config = Config::parse(&config_text(mirrors, more), path).unwrap();
        let build = BuildId::parse(build).unwrap();
        let time = made(build.as_str());
        factory::prepare(&config.block, &NoSync, Slot::A, build, time, &[], "boot-0").unwrap();
        Self { directory, config, now: repo.0.now, seed: 1, boots: 0 }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// Runs the updater once, as a process would.
    pub(crate) fn run<T>(
        &self,
        storage: &dyn Storage,
        work: impl FnOnce(&mut Updater<'_>) -> Result<T, UpdateError>,
    ) -> Result<T, UpdateError> {
        self.run_until(storage, Stop::new(), work)
    }

    pub(crate) fn run_until<T>(
        &self,
        storage: &dyn Storage,
        stop: Stop,
        work: impl FnOnce(&mut Updater<'_>) -> Result<T, UpdateError>,
    ) -> Result<T, UpdateError> {
        self.run_watched(storage, stop, &|_, _, _| {}, work)
    }

    pub(crate) fn run_watched<T>(
        &self,
        storage: &dyn Storage,
        stop: Stop,
        progress: &(dyn Fn(Activity, u64, u64) + Sync),
        work: impl FnOnce(&mut Updater<'_>) -> Result<T, UpdateError>,
    ) -> Result<T, UpdateError> {
        let now = || self.now;
        let environment = Environment { now: &now, seed: self.seed, storage, stop, progress };
        let mut updater = Updater::open(&self.config, &environment)?;
        work(&mut updater)
    }

    /// As [`Phone::run`] on a disk that works.
    pub(crate) fn go<T>(
        &self,
        work: impl FnOnce(&mut Updater<'_>) -> Result<T, UpdateError>,
    ) -> Result<T, UpdateError> {
        self.run(&NoSync, work)
    }

    pub(crate) fn status(&self) -> Status {
        let now = || self.now;
        let environment =
            Environment { now: &now, seed: 0, storage: &NoSync, stop: Stop::new(), progress: &|_, _, _| {} };
        Updater::status(&self.config, &environment).unwrap()
    }

    /// Restarts the phone.
    pub(crate) fn reboot(&mut self) -> Slot {
        self.reboot_on(&NoSync).unwrap()
    }

    pub(crate) fn reboot_on(&mut self, storage: &dyn Storage) -> Option<Slot> {
        self.boots += 1;
        let file = BootFile::new(&self.config.block.boot_control);
        let boot_id = format!("boot-{}", self.boots);
        let booted: Booted = bootloader_boot(storage, &file, &self.config.block.booted, &boot_id).ok()?;
        Some(booted.slot)
    }

    /// The images of a slot.
    pub(crate) fn images_of(&self, slot: Slot) -> BTreeMap<String, Vec<u8>> {
        let directory = self.path(&format!("slots/{slot}"));
        let mut images = BTreeMap::new();
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "img") {
                let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
                images.insert(name, fs::read(&path).unwrap());
            }
        }
        images
    }

    /// Whether a slot holds exactly the images of a build.
    pub(crate) fn holds(&self, slot: Slot, build: &str) -> bool {
        let expected: BTreeMap<String, Vec<u8>> =
            images(build).into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        self.images_of(slot) == expected
    }
}

pub(crate) fn config_text(mirrors: &[String], more: &str) -> String {
    let network =
        if more.contains("[network]") { "" } else { "[network]\nretries = 2\nretry_wait_ms = 1\nparallel = 1\n" };
    format!(
        r#"
mirrors = {mirrors:?}
root = "root.json"
vendor = "xiaomi"
codename = "ginkgo"
channel = "stable"
state_dir = "state"
{more}
{network}
[block]
slot_a = "slots/a"
slot_b = "slots/b"
build_file = "slots/{{slot}}/build.json"
boot_control = "boot/control"
"#
    )
}

/// The machine's disk without waiting for it: tests ask what was flushed, not whether the medium did it.
#[derive(Debug)]
pub(crate) struct NoSync;

#[derive(Debug)]
struct NoSyncHandle(Box<dyn Handle>);

impl Storage for NoSync {
    fn create(&self, path: &Path) -> Result<Box<dyn Handle>, StorageError> {
        Ok(Box::new(NoSyncHandle(Disk.create(path)?)))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Handle>, StorageError> {
        Ok(Box::new(NoSyncHandle(Disk.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        Disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), StorageError> {
        Disk.remove(path)
    }

    fn sync_directory(&self, _: &Path) -> Result<(), StorageError> {
        Ok(())
    }

    fn create_directory(&self, path: &Path) -> Result<(), StorageError> {
        Disk.create_directory(path)
    }

    fn free_bytes(&self, directory: &Path) -> Result<u64, StorageError> {
        Disk.free_bytes(directory)
    }
}

impl Handle for NoSyncHandle {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        self.0.write_at(bytes, offset)
    }

    fn allocate(&self, len: u64) -> Result<(), StorageError> {
        self.0.allocate(len)
    }

    fn sync(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StorageError> {
        self.0.read_at(buffer, offset)
    }
}

/// What is left of the last moments before a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Everything that was written: the process was killed.
    Kill,
    /// Only what was flushed: the power went.
    Power,
    /// Everything, and half of the write under way.
    Torn,
}

/// A disk whose power goes at a certain step.
#[derive(Debug)]
pub(crate) struct CutDisk(Arc<Mutex<Log>>);

#[derive(Debug)]
struct Log {
    steps: usize,
    cut_at: usize,
    cut: Cut,
    dead: bool,
    /// Whether the disk is full rather than dead.
    full: bool,
    pending: Vec<Undo>,
}

#[derive(Debug)]
enum Undo {
    /// Bytes that a write replaced.
    Write { path: PathBuf, offset: u64, old: Vec<u8>, old_len: u64 },
    /// A name's contents before a directory changed; `None` if there was no such name.
    Name { path: PathBuf, old: Option<Vec<u8>> },
}

impl CutDisk {
    /// The power goes at step `cut_at`, counted from 0.
    pub(crate) fn new(cut_at: usize, cut: Cut) -> Self {
        let log = Log { steps: 0, cut_at, cut, dead: false, full: false, pending: Vec::new() };
        Self(Arc::new(Mutex::new(log)))
    }

    /// The disk is full from step `cut_at` on, for every write that would make something longer.
    pub(crate) fn full(cut_at: usize) -> Self {
        let disk = Self::new(cut_at, Cut::Kill);
        disk.0.lock().unwrap().full = true;
        disk
    }

    pub(crate) fn was_cut(&self) -> bool {
        self.0.lock().unwrap().dead
    }

    pub(crate) fn steps(&self) -> usize {
        self.0.lock().unwrap().steps
    }
}

impl Log {
    /// Counts a step; an error if the power is gone. `torn` does half of the step.
    fn step(&mut self, path: &Path, torn: impl FnOnce()) -> Result<(), StorageError> {
        if !self.dead && self.steps == self.cut_at {
            self.dead = true;
            match self.cut {
                Cut::Torn => torn(),
                Cut::Power => self.lose(),
                Cut::Kill => {}
            }
        }
        self.steps += 1;
        let kind = if self.full { std::io::ErrorKind::StorageFull } else { std::io::ErrorKind::Other };
        if self.dead { Err(StorageError::new("write", path, std::io::Error::new(kind, "cut"))) } else { Ok(()) }
    }

    fn lose(&mut self) {
        for undo in self.pending.drain(..).rev() {
            match undo {
                Undo::Write { path, offset, old, old_len } => {
                    use std::os::unix::fs::FileExt;
                    if let Ok(file) = fs::File::options().write(true).open(&path) {
                        file.write_all_at(&old, offset).unwrap();
                        file.set_len(old_len).unwrap();
                    }
                }
                Undo::Name { path, old: Some(old) } => fs::write(&path, old).unwrap(),
                Undo::Name { path, old: None } => {
                    let _ = fs::remove_file(&path);
                }
            }
        }
    }

    fn name(&mut self, path: &Path) {
        self.pending.push(Undo::Name { path: path.to_owned(), old: fs::read(path).ok() });
    }
}

#[derive(Debug)]
struct CutHandle {
    inner: Box<dyn Handle>,
    path: PathBuf,
    log: Arc<Mutex<Log>>,
}

impl Storage for CutDisk {
    fn create(&self, path: &Path) -> Result<Box<dyn Handle>, StorageError> {
        let mut log = self.0.lock().unwrap();
        log.step(path, || {})?;
        log.name(path);
        Ok(Box::new(CutHandle { inner: Disk.create(path)?, path: path.to_owned(), log: self.0.clone() }))
    }

    fn open(&self, path: &Path) -> Result<Box<dyn Handle>, StorageError> {
        Ok(Box::new(CutHandle { inner: Disk.open(path)?, path: path.to_owned(), log: self.0.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        let mut log = self.0.lock().unwrap();
        log.step(to, || {})?;
        log.name(to);
        log.name(from);
        for undo in &mut log.pending {
            if let Undo::Write { path, .. } = undo
                && path == from
            {
                to.clone_into(path);
            }
        }
        Disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), StorageError> {
        let mut log = self.0.lock().unwrap();
        log.step(path, || {})?;
        log.name(path);
        Disk.remove(path)
    }

    fn sync_directory(&self, path: &Path) -> Result<(), StorageError> {
        let mut log = self.0.lock().unwrap();
        log.step(path, || {})?;
        log.pending.retain(|undo| !matches!(undo, Undo::Name { path: name, .. } if name.parent() == Some(path)));
        Ok(())
    }

    fn create_directory(&self, path: &Path) -> Result<(), StorageError> {
        Disk.create_directory(path)
    }

    fn free_bytes(&self, directory: &Path) -> Result<u64, StorageError> {
        Disk.free_bytes(directory)
    }
}

impl Handle for CutHandle {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        let mut log = self.log.lock().unwrap();
        log.step(&self.path, || self.inner.write_at(&bytes[..bytes.len() / 2], offset).unwrap())?;
        let mut old = fs::read(&self.path).unwrap();
        let old_len = old.len() as u64;
        let start = usize::try_from(offset).unwrap().min(old.len());
        let end = (start + bytes.len()).min(old.len());
        let old = old.drain(start..end).collect();
        log.pending.push(Undo::Write { path: self.path.clone(), offset, old, old_len });
        self.inner.write_at(bytes, offset)
    }

    fn allocate(&self, len: u64) -> Result<(), StorageError> {
        self.log.lock().unwrap().step(&self.path, || {})?;
        self.inner.allocate(len)
    }

    fn sync(&self) -> Result<(), StorageError> {
        let mut log = self.log.lock().unwrap();
        log.step(&self.path, || {})?;
        log.pending.retain(|undo| !matches!(undo, Undo::Write { path, .. } if *path == self.path));
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StorageError> {
        self.inner.read_at(buffer, offset)
    }
}
