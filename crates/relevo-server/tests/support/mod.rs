//! A server of one's own: directory, port, database and clock.

#![allow(dead_code, reason = "each test file uses its own part")]
#![expect(clippy::unwrap_used, reason = "clippy knows tests only by their attribute, and these are helpers of tests")]

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use relevo_meta::testing::TestRepo;
use relevo_server::{Application, settings::Layer};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// 2026-01-01T00:00:00Z, the time on every test's clock to begin with.
pub(crate) const START: i64 = 1_767_225_600;

/// Longest time that a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// SHA-256 digest in the name of the target that [`TestServer::with_files`] makes.
pub(crate) const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A running server; it stops when dropped.
pub(crate) struct TestServer {
    pub(crate) dir: TempDir,
    pub(crate) address: SocketAddr,
    clock: Arc<AtomicI64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl TestServer {
    /// On a directory that does not exist yet.
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), |_| {})
    }

    /// With settings of one's own.
    pub(crate) fn start_in(dir: TempDir, change: impl FnOnce(&mut Layer)) -> Self {
        Self::start_at(dir, START, |_, layer| change(layer))
    }

    /// With settings of one's own, at a time of one's own.
    pub(crate) fn start_at(dir: TempDir, seconds: i64, change: impl FnOnce(&TempDir, &mut Layer)) -> Self {
        let clock = Arc::new(AtomicI64::new(seconds));
        let mut layer = Layer {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            repository: Some(dir.path().join("relevo")),
            workers: Some(2),
            ..Layer::default()
        };
        change(&dir, &mut layer);
        let settings = layer.settings().unwrap();
        let (told, heard) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let seconds = Arc::clone(&clock);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let now = move || Timestamp::from_second(seconds.load(Ordering::SeqCst)).unwrap();
                let application = Application::build(settings, Arc::new(now)).await.unwrap();
                told.send(application.address()).unwrap();
                application
                    .run_until(async {
                        let _dropped = stopped.await;
                    })
                    .await
            })
        });
        let address = heard.recv_timeout(PATIENCE).expect("the server starts");
        Self { dir, address, clock, stop: Some(stop), thread: Some(thread) }
    }

    /// On a repository of plain files, which need not be signed to be served.
    pub(crate) fn with_files() -> Self {
        let server = Self::start();
        server.write("metadata/timestamp.json", br#"{"signed":{"version":1}}"#);
        server.write("metadata/1.root.json", &root_json());
        server.write(&target(), &pattern(1000));
        server
    }

    /// The public repository's directory.
    pub(crate) fn repo(&self) -> PathBuf {
        self.dir.path().join("relevo/repo")
    }

    /// The database file.
    pub(crate) fn database(&self) -> PathBuf {
        self.dir.path().join("relevo.db")
    }

    /// Writes a file of the repository the way a publisher does: under another name first.
    pub(crate) fn write(&self, path: &str, content: &[u8]) {
        let path = self.repo().join(path);
        let parent = path.parent().unwrap();
        fs::create_dir_all(parent).unwrap();
        let temporary = parent.join(".tmp-test");
        fs::write(&temporary, content).unwrap();
        fs::rename(temporary, path).unwrap();
    }

    /// Puts a published repository in place, the timestamp last.
    pub(crate) fn publish(&self, repo: &TestRepo) {
        for (name, bytes) in &repo.files {
            self.write(&format!("targets/{name}"), bytes);
        }
        for (name, bytes) in repo.metadata.iter().filter(|(name, _)| *name != "timestamp.json") {
            self.write(&format!("metadata/{name}"), bytes);
        }
        self.write("metadata/timestamp.json", &repo.metadata["timestamp.json"]);
    }

    /// Moves the clock.
    pub(crate) fn set_clock(&self, seconds: i64) {
        self.clock.store(seconds, Ordering::SeqCst);
    }

    /// GET without more.
    pub(crate) fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[])
    }

    /// A request on a connection of its own.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        self.raw(request.as_bytes())
    }

    /// Any bytes as a request, and what comes back until the server closes.
    pub(crate) fn raw(&self, request: &[u8]) -> Response {
        let mut stream = self.connect();
        // A server that refuses early may close before it has read everything.
        let _early = stream.write_all(request);
        let mut bytes = Vec::new();
        let _reset = stream.read_to_end(&mut bytes);
        Response::parse(&bytes)
    }

    /// An open connection.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Asks the server to stop, without waiting for it.
    pub(crate) fn ask_to_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _gone = stop.send(());
        }
    }

    /// Stops the server and gives back its directory.
    pub(crate) fn stop(mut self) -> TempDir {
        self.join();
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }

    /// Waits until the server has stopped.
    pub(crate) fn join(&mut self) {
        self.ask_to_stop();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server does not panic").expect("the server stops cleanly");
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.ask_to_stop();
        if let Some(thread) = self.thread.take() {
            let _panicked_already = thread.join();
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    /// 0 if there was no answer.
    pub(crate) status: u16,
    /// Names in lower case; several fields of one name are lines of one value.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Self { status: 0, headers: BTreeMap::new(), body: bytes.to_vec() };
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = BTreeMap::<String, String>::new();
        for (name, value) in lines.map(|line| line.split_once(':').unwrap()) {
            let value = value.trim();
            headers
                .entry(name.to_ascii_lowercase())
                .and_modify(|known| *known = format!("{known}\n{value}"))
                .or_insert_with(|| value.to_owned());
        }
        Self { status, headers, body: bytes[end + 4..].to_vec() }
    }

    /// A field, or the empty text.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Path of the one target of [`TestServer::with_files`], below the repository.
pub(crate) fn target() -> String {
    format!("targets/acme/roadrunner/stable/{HASH}.roadrunner-101-full.rvp")
}

/// A metadata file that is worth compressing.
pub(crate) fn root_json() -> Vec<u8> {
    format!(r#"{{"signed":{{"keys":[{}]}}}}"#, vec![r#""key""#; 300].join(",")).into_bytes()
}

/// Bytes in which every position can be told from its neighbours.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at.wrapping_mul(31).wrapping_add(at >> 8) % 251).unwrap()).collect()
}

/// All files below a directory, for comparing.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// A published repository with two devices, one of them with two builds and a delta between them.
pub(crate) fn test_repo() -> TestRepo {
    let mut repo = TestRepo::new();
    repo.add_device("acme", "coyote");
    repo.add_device("acme", "roadrunner");
    repo.add_package("acme/roadrunner", "stable", "", "100", START - 40 * 86_400, &pattern(9_000));
    repo.add_package("acme/roadrunner", "stable", "", "101", START - 86_400, &pattern(10_000));
    repo.add_package("acme/roadrunner", "stable", "100", "101", START - 86_400, &pattern(1_200));
    repo.publish();
    repo
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let (_sender, never) = std::sync::mpsc::channel::<()>();
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never came: {what}");
        // Between two looks; nobody ever sends.
        let _timeout = never.recv_timeout(Duration::from_millis(50));
    }
}
