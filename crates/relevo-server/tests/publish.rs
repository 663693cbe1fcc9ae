//! `/publish/v1`: who is believed, what is refused before it costs anything, and a whole publication.

#![expect(clippy::unwrap_used, reason = "clippy knows tests only by their attribute, and helpers have none")]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use jiff::Timestamp;
use relevo_meta::{
    Target,
    author::{DeviceFile, TopRole},
    chunks::ChunkList,
    http_signature::{Message, Parameters, content_digest},
    keys::{FileRandom, PrivateKey, ScryptCost},
    log::LogKey,
    testing::key,
};
use relevo_repo::{
    NewRepository, Repository, RoleKeys, Signers,
    push::{Account, AccountName, Accounts, Manifest, ManifestRole, ManifestTarget, PROTOCOL},
};
use relevo_types::{ByteLen, Codename, TargetPath, Vendor};
use serde_json::{Value, json};
use support::{PATIENCE, Response, START, TestServer};
use tempfile::TempDir;

const PASSPHRASE: &str = "correct horse battery staple";
const ACCOUNT: &str = "/publish/v1/account";

/// An origin with one device and one account.
struct Origin {
    server: TestServer,
}

fn publish_dir(dir: &TempDir) -> PathBuf {
    dir.path().join("publish")
}

fn signers() -> Signers {
    let mut signers = Signers::new();
    for role in ["root", "targets", "snapshot", "timestamp", "v-acme", "d-coyote", "log"] {
        signers.add(role, key(role));
    }
    signers
}

fn made() -> TempDir {
    made_at(Timestamp::from_second(START).unwrap())
}

fn made_at(now: Timestamp) -> TempDir {
    made_with(now, None)
}

fn made_with(now: Timestamp, log: Option<LogKey>) -> TempDir {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let home = dir.path().join("relevo");
    let keys = TopRole::ALL.map(|role| (role, RoleKeys::one(key(role.name()).public())));
    let new = NewRepository { log, ..NewRepository::new(keys) };
    let repository = Repository::create(&home.join("repo"), &new, &signers(), now).unwrap();
    let mut publication = repository.publication().unwrap();
    let (vendor, codename) = (Vendor::parse("acme").unwrap(), Codename::parse("coyote").unwrap());
    publication.add_vendor(&vendor, &RoleKeys::one(key("v-acme").public())).unwrap();
    publication.add_device(&vendor, &codename, &RoleKeys::one(key("d-coyote").public())).unwrap();
    publication.commit(&signers(), now).unwrap();
    fs::create_dir(home.join("keys")).unwrap();
    for role in ["snapshot", "timestamp"] {
        let random = FileRandom { salt: [1; 16], iv: [2; 16] };
        let pem = key(role).to_encrypted_pem(PASSPHRASE.as_bytes(), random, ScryptCost::QUICK).unwrap();
        fs::write(home.join(format!("keys/{role}.key")), pem.as_bytes()).unwrap();
    }
    fs::write(dir.path().join("passphrase"), format!("{PASSPHRASE}\n")).unwrap();
    let account = Account {
        name: AccountName::parse("ana").unwrap(),
        keys: vec![key("ana").public().clone()],
        devices: vec![codename],
        quota: ByteLen::mib(64),
    };
    Accounts::new(&publish_dir(&dir)).add(&account).unwrap();
    dir
}

/// A request before it is signed; every part can be made wrong.
struct Call {
    method: &'static str,
    path: String,
    body: Vec<u8>,
    key: PrivateKey,
    created: i64,
    expires: i64,
    nonce: String,
    components: Vec<&'static str>,
    authority: String,
}

impl Call {
    fn new(method: &'static str, path: &str, body: &[u8]) -> Self {
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Self {
            method,
            path: path.to_owned(),
            body: body.to_vec(),
            key: key("ana"),
            created: START,
            expires: START + 120,
            nonce: format!("n{number}"),
            components: vec!["@method", "@authority", "@path", "content-digest"],
            authority: "test".to_owned(),
        }
    }

    fn head(&self) -> String {
        let digest = content_digest(&self.body);
        let field = |name: &str| (name == "content-digest").then(|| digest.clone());
        let message = Message { method: self.method, authority: &self.authority, path: &self.path, field: &field };
        let parameters = Parameters {
            components: self.components.iter().map(|name| (*name).to_owned()).collect(),
            created: self.created,
            expires: Some(self.expires),
            nonce: Some(self.nonce.clone()),
            key_id: Some(self.key.public().key_id()),
            algorithm: true,
        };
        let signed = parameters.sign("relevo", &message, &self.key).unwrap();
        format!(
            "{} {} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {}\r\nContent-Digest: {digest}\r\n\
             Signature-Input: {}\r\nSignature: {}\r\n\r\n",
            self.method,
            self.path,
            self.body.len(),
            signed.input_field(),
            signed.signature_field()
        )
    }

    fn bytes(&self) -> Vec<u8> {
        [self.head().as_bytes(), &self.body].concat()
    }
}

impl Origin {
    fn start() -> Self {
        Self::start_in(made(), |_| {})
    }

    fn start_in(dir: TempDir, change: impl FnOnce(&mut relevo_server::settings::Layer)) -> Self {
        let (publish, passphrase) = (publish_dir(&dir), dir.path().join("passphrase"));
        let server = TestServer::start_in(dir, |layer| {
            layer.publish = Some(publish);
            layer.publish_passphrase_file = Some(passphrase);
            change(layer);
        });
        Self { server }
    }

    fn call(&self, call: &Call) -> Response {
        self.server.raw(&call.bytes())
    }

    fn refused(&self, call: &Call, status: u16, code: &str) {
        let answer = self.call(call);
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (status, Some(code)), "{}", answer.text());
        assert_eq!(answer.header("cache-control"), "no-store");
    }

    /// A signed role that adds a full package of a build, with its manifest and both files.
    fn push(&self, build: &str, content: &[u8]) -> (Vec<u8>, [Vec<u8>; 2]) {
        let repository = Repository::open(&self.server.repo()).unwrap();
        let version = repository.current().unwrap().roles()["d-coyote"].version;
        let file = fs::read(self.server.repo().join(format!("metadata/{version}.d-coyote.json"))).unwrap();
        let mut role = DeviceFile::edit(&file).unwrap();
        let list = ChunkList::for_reader(content, ByteLen::new(content.len() as u64)).unwrap().encode();
        let name = format!("acme/coyote/stable/coyote-{build}-full.rvp");
        let (package, beside): (TargetPath, TargetPath) =
            (name.parse().unwrap(), format!("{name}.chunks").parse().unwrap());
        let custom = json!({
            "kind": "native", "to": build, "version": build, "timestamp": START - 1000 + build.parse::<i64>().unwrap(),
            "size": {"install": 4096}, "rollout": 100, "chunks": beside.file(),
        });
        role.put_target(&package, Target::of(content), &custom).unwrap();
        role.put_target(&beside, Target::of(&list), &json!({"kind": "chunks"})).unwrap();
        role.bump().unwrap();
        role.set_expires(Timestamp::from_second(START + 90 * 86_400).unwrap());
        let signed = role.sign(&[&key("d-coyote")]).unwrap();
        let target = |path: TargetPath, bytes: &[u8]| {
            let Target { length, sha256 } = Target::of(bytes);
            ManifestTarget { path, length, sha256, cut: None }
        };
        let manifest = Manifest {
            protocol: PROTOCOL,
            roles: vec![ManifestRole {
                codename: Codename::parse("coyote").unwrap(),
                nightly: false,
                file: String::from_utf8(signed).unwrap(),
            }],
            targets: vec![target(package, content), target(beside, &list)],
        };
        (serde_json::to_vec(&manifest).unwrap(), [content.to_vec(), list])
    }
}

#[test]
fn a_signed_push_is_published() {
    let origin = Origin::start();
    let (manifest, files) = origin.push("101", &[7; 50_000]);

    let status = origin.call(&Call::new("POST", "/publish/v1/sessions", &manifest)).json();
    let session = status["session"].as_str().unwrap().to_owned();
    assert_eq!(status["targets"][0]["missing"], json!([[0, 1]]));
    for (number, file) in files.iter().enumerate() {
        let path = format!("/publish/v1/sessions/{session}/targets/{number}/chunks/0-0");
        // Twice, as after an answer that was not heard.
        for _ in 0..2 {
            assert_eq!(origin.call(&Call::new("PUT", &path, file)).status, 204);
        }
    }
    let commit = Call::new("POST", &format!("/publish/v1/sessions/{session}/commit"), b"");
    let receipt = origin.call(&commit);

    assert_eq!(receipt.status, 200, "{}", receipt.text());
    assert_eq!(receipt.json()["roles"], json!([{"role": "d-coyote", "version": 2}]));
    let again = origin.call(&Call::new("POST", "/publish/v1/sessions", &manifest)).json();
    assert_eq!(again["state"], "published");
    let timestamp = origin.server.get("/repo/metadata/timestamp.json").json();
    assert_eq!(timestamp["signed"]["version"], receipt.json()["timestamp_version"]);
    let audit = fs::read_to_string(publish_dir(&origin.server.dir).join("audit/log.jsonl")).unwrap();
    let line: Value = serde_json::from_str(audit.trim_end()).unwrap();
    assert_eq!((line["account"].as_str(), line["roles"][0]["role"].as_str()), (Some("ana"), Some("d-coyote")));
}

#[test]
fn only_the_holder_of_a_key_is_believed_and_only_once() {
    let origin = Origin::start();
    let good = || Call::new("GET", ACCOUNT, b"");
    let account = origin.call(&good()).json();
    assert_eq!((account["account"].as_str(), account["time"].as_i64()), (Some("ana"), Some(START)));

    let unsigned = origin.server.send("GET", ACCOUNT, &[]);
    assert_eq!((unsigned.status, unsigned.json()["error"]["code"].as_str()), (401, Some("unsigned")));
    origin.refused(&Call { key: key("eve"), ..good() }, 403, "unknown-key");
    for components in [vec!["@method", "@authority", "@path"], vec!["@method", "@path", "content-digest"]] {
        origin.refused(&Call { components, ..good() }, 401, "unsigned");
    }
    origin.refused(&Call { authority: "another.example".to_owned(), ..good() }, 401, "bad-signature");
    // The signature of one path on another one, and of another method.
    let moved = String::from_utf8(good().bytes()).unwrap().replace(ACCOUNT, "/publish/v1/sessions");
    assert_eq!(origin.server.raw(moved.replace("GET", "POST").as_bytes()).json()["error"]["code"], "bad-signature");
    let call = good();
    assert_eq!(origin.call(&call).status, 200);
    origin.refused(&call, 409, "replayed");
    // Two fields of a name are one too many, whichever of them is the right one.
    let twice = String::from_utf8(good().bytes()).unwrap().replace("\r\n\r\n", "\r\nSignature: relevo=:AA==:\r\n\r\n");
    assert_eq!(origin.server.raw(twice.as_bytes()).json()["error"]["code"], "unsigned");
}

#[test]
fn a_wrong_clock_is_told_the_time() {
    let origin = Origin::start();
    let at = |created: i64, expires: i64| Call { created, expires, ..Call::new("GET", ACCOUNT, b"") };

    for (created, expires) in [(START + 61, START + 120), (START - 200, START), (START, START + 301), (START, START)] {
        let answer = origin.call(&at(created, expires));
        let error = &answer.json()["error"];
        assert_eq!((answer.status, error["code"].as_str()), (401, Some("clock")), "{created} {expires}");
        assert_eq!(error["time"], START);
    }
    assert_eq!(origin.call(&at(START + 60, START + 120)).status, 200);
}

#[test]
fn what_was_signed_before_a_restart_is_not_heard_again() {
    let origin = Origin::start();
    let call = Call { expires: START + 300, ..Call::new("GET", ACCOUNT, b"") };
    assert_eq!(origin.call(&call).status, 200);
    let dir = origin.server.stop();

    // The words that came are forgotten, and the clock has moved on by a second.
    let server = TestServer::start_at(dir, START + 1, |dir, layer| {
        layer.publish = Some(publish_dir(dir));
        layer.publish_passphrase_file = Some(dir.path().join("passphrase"));
    });
    let origin = Origin { server };

    origin.refused(&call, 401, "restarted");
    let later = Call { created: START + 1, ..Call::new("GET", ACCOUNT, b"") };
    assert_eq!(origin.call(&later).status, 200);
}

#[test]
fn an_account_that_is_removed_is_unknown_at_once() {
    let origin = Origin::start();
    assert_eq!(origin.call(&Call::new("GET", ACCOUNT, b"")).status, 200);

    let accounts = Accounts::new(&publish_dir(&origin.server.dir));
    accounts.remove(&AccountName::parse("ana").unwrap()).unwrap();

    support::eventually("the account is unknown", || origin.call(&Call::new("GET", ACCOUNT, b"")).status == 403);
}

#[test]
fn refusals_come_before_the_body_and_bombs_end_early() {
    let origin = Origin::start();
    let (manifest, _) = origin.push("101", &[7; 50_000]);
    // Heads that promise a body which never comes: the answer is there all the same.
    let asks = |head: &str| {
        let mut stream = origin.server.connect();
        stream.write_all(head.as_bytes()).unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        String::from_utf8(first.to_vec()).unwrap()
    };
    let call = Call { key: key("eve"), ..Call::new("POST", "/publish/v1/sessions", &manifest) };
    assert_eq!(asks(&call.head()), "HTTP/1.1 403");
    let promise = |length: &str| {
        let head = Call::new("POST", "/publish/v1/sessions", b"").head();
        head.replace("Content-Length: 0", &format!("Content-Length: {length}"))
    };
    assert_eq!(asks(&promise("1000000000000")), "HTTP/1.1 413");
    let chunked = Call::new("POST", "/publish/v1/sessions", b"").head();
    assert_eq!(asks(&chunked.replace("Content-Length: 0", "Transfer-Encoding: chunked")), "HTTP/1.1 411");
    // A run of chunks has one length, and the origin knows it.
    let status = origin.call(&Call::new("POST", "/publish/v1/sessions", &manifest)).json();
    let path = format!("/publish/v1/sessions/{}/targets/0/chunks/0-0", status["session"].as_str().unwrap());
    origin.refused(&Call::new("PUT", &path, &[7; 50_001]), 400, "length");
    origin.refused(&Call::new("PUT", &path, &[8; 50_000]), 422, "digest");
    // Other bytes than those that were signed.
    let mut forged = Call::new("POST", "/publish/v1/sessions", &manifest).bytes();
    let last = forged.len() - 1;
    forged[last] = b' ';
    assert_eq!(origin.server.raw(&forged).json()["error"]["code"], "digest");
    for path in [
        "/publish/v1/sessions/../account",
        "/publish/v1/sessions/%2e%2e/commit",
        "/publish/v1/nothing",
        "/publish/v2/account",
        "/publish/v1/account/",
    ] {
        assert_eq!(origin.call(&Call::new("POST", path, b"")).status, 404, "{path}");
    }
    assert_eq!(origin.call(&Call::new("GET", "/publish/v1/account?x=1", b"")).status, 400);
}

#[test]
fn a_head_of_100_megabytes_is_refused_after_a_fraction_of_it() {
    let origin = Origin::start();
    let mut stream = origin.server.connect();
    stream.write_all(b"POST /publish/v1/sessions HTTP/1.1\r\nHost: test\r\nSignature: ").unwrap();
    let piece = vec![b'a'; 64 << 10];
    let mut sent = 0_usize;

    while sent < 100 << 20 {
        match stream.write(&piece) {
            Ok(len) => sent += len,
            Err(_) => break,
        }
    }

    assert!(sent < 20 << 20, "{sent} bytes were taken");
    assert_eq!(origin.call(&Call::new("GET", ACCOUNT, b"")).status, 200);
}

#[test]
fn a_body_that_stands_still_is_given_up_and_what_came_whole_is_kept() {
    let origin = Origin::start_in(made(), |layer| layer.stall_timeout_seconds = Some(1));
    let (manifest, files) = origin.push("101", &[7; 50_000]);
    let status = origin.call(&Call::new("POST", "/publish/v1/sessions", &manifest)).json();
    let path = format!("/publish/v1/sessions/{}/targets/0/chunks/0-0", status["session"].as_str().unwrap());
    let call = Call::new("PUT", &path, &files[0]);

    let mut stream = origin.server.connect();
    stream.write_all(call.head().as_bytes()).unwrap();
    stream.write_all(&files[0][..20_000]).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);

    assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(origin.call(&Call::new("PUT", &path, &files[0])).status, 204);
}

#[test]
fn without_the_setting_there_is_nothing_to_publish_to() {
    let server = TestServer::start_in(made(), |_| {});

    assert_eq!(server.send("GET", "/publish/v1", &[]).status, 404);
    assert_eq!(server.raw(&Call::new("GET", ACCOUNT, b"").bytes()).status, 404);
}

#[test]
fn accounts_are_added_listed_and_removed_on_the_command_line() {
    let dir = made();
    fs::write(dir.path().join("bob.pub"), key("bob").public().to_pem()).unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relevo-server"));
        command.env_clear().current_dir(dir.path()).arg("account").args(args).args(["--publish", "publish"]);
        let output = command.output().unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap(),
        )
    };

    let (added, said) = run(&["add", "bob", "--key", "bob.pub", "--device", "coyote", "--quota", "2GB"]);
    assert!(added && said.starts_with("added bob: coyote, at most 2.0 GB, key "), "{said}");
    let (_, listed) = run(&["list"]);
    assert_eq!(listed.lines().map(|line| line.split(':').next().unwrap()).collect::<Vec<_>>(), ["ana", "bob"]);
    let (twice, said) = run(&["add", "bob2", "--key", "bob.pub", "--device", "coyote"]);
    assert!(!twice && said.contains("belongs to the account bob"), "{said}");
    assert!(run(&["remove", "bob"]).0);
    assert!(!run(&["remove", "bob"]).0);
}

#[test]
fn a_server_that_cannot_open_the_keys_does_not_start() {
    let dir = made();
    fs::write(dir.path().join("passphrase"), "another one\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_relevo-server"));
    command.env_clear().current_dir(dir.path()).args(["serve", "--listen", "127.0.0.1:0", "--publish", "publish"]);

    let none = command.output().unwrap();
    let wrong = command.args(["--publish-passphrase-file", "passphrase"]).output().unwrap();

    let said = String::from_utf8(none.stderr).unwrap();
    assert!(!none.status.success() && said.contains("RELEVO_PASSPHRASE"), "{said}");
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(!wrong.status.success() && said.contains("timestamp.key") | said.contains("snapshot.key"), "{said}");
}

#[test]
fn a_server_without_the_key_of_the_log_does_not_start() {
    let log = LogKey::self_named(*key("log").public().verifying_key());
    let dir = made_with(Timestamp::from_second(START).unwrap(), Some(log.clone()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_relevo-server"));
    command.env_clear().current_dir(dir.path()).args(["serve", "--listen", "127.0.0.1:0", "--publish", "publish"]);
    command.args(["--publish-passphrase-file", "passphrase"]);

    let said = command.output().unwrap();

    let text = String::from_utf8(said.stderr).unwrap();
    assert!(!said.status.success() && text.contains(&log.to_string()) && text.contains("log.key"), "{text}");
}

/// How often the test below publishes; 20 seconds.
const PUBLISHES: usize = 1000;

/// How often the server is killed meanwhile.
const KILLS: usize = 20;

/// The program, as it is started.
struct Program {
    child: Child,
    address: SocketAddr,
}

impl Program {
    fn start(dir: &TempDir, listen: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relevo-server"));
        command.env_clear().current_dir(dir.path()).stderr(Stdio::piped());
        command.args(["serve", "--listen", listen, "--log-format", "json", "--publish", "publish"]);
        let mut child = command.args(["--publish-passphrase-file", "passphrase"]).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let line: Value = serde_json::from_str(&line).ok()?;
            line.get("address")?.as_str()?.parse().ok()
        });
        // Read to the end, so that the server never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address: address.expect("the server says where it listens") }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// An answer, or none if the server is gone.
fn ask(address: SocketAddr, call: &Call) -> Option<(u16, Value)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(&call.bytes()).ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).unwrap_or(Value::Null)))
}

/// Publishes a manifest; `Err` with the version that is free if the role's is taken, `None` if the server is gone.
fn publish(address: SocketAddr, now: i64, manifest: &[u8], files: &[Vec<u8>; 2]) -> Option<Result<(), u64>> {
    let call = |method, path: &str, body: &[u8]| {
        ask(address, &Call { created: now, expires: now + 300, ..Call::new(method, path, body) })
    };
    let (status, answer) = call("POST", "/publish/v1/sessions", manifest)?;
    if status == 409 {
        return Some(Err(answer["error"]["next_version"].as_u64().unwrap_or_else(|| panic!("{answer}"))));
    }
    assert_eq!(status, 200, "{answer}");
    if answer["state"] == "published" {
        return Some(Ok(()));
    }
    let session = answer["session"].as_str().unwrap().to_owned();
    for (number, file) in files.iter().enumerate() {
        if answer["targets"][number]["missing_bytes"] != 0 {
            let path = format!("/publish/v1/sessions/{session}/targets/{number}/chunks/0-0");
            assert_eq!(call("PUT", &path, file)?.0, 204);
        }
    }
    let (status, answer) = call("POST", &format!("/publish/v1/sessions/{session}/commit"), b"")?;
    assert_eq!(status, 200, "{answer}");
    Some(Ok(()))
}

#[test]
fn a_thousand_publishes_and_20_kills_lose_nothing_and_show_nothing_by_halves() {
    let publishes = PUBLISHES;
    #[expect(clippy::disallowed_methods, reason = "the program under test has the real clock")]
    let now = Timestamp::now();
    let dir = made_at(now);
    let mut program = Program::start(&dir, "127.0.0.1:0");
    let listen = program.address.to_string();
    let repository = Repository::open(&dir.path().join("relevo/repo")).unwrap();
    let newest = || {
        let state = repository.current().unwrap();
        let device = state.device(&Codename::parse("coyote").unwrap()).unwrap();
        device.packages.iter().map(|package| package.custom.to.as_str().parse::<usize>().unwrap()).max().unwrap_or(0)
    };
    let mut role = DeviceFile::new(now);
    let version = repository.current().unwrap().roles()["d-coyote"].version;
    role.set_version(version);
    let (mut kills, mut old, mut new) = (0, 0, 0);
    // The moments come from a seed; what the system does in between is chance all the same.
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };

    for build in 1..=publishes {
        let content = format!("build {build} ").repeat(500).into_bytes();
        let list = ChunkList::for_reader(&content[..], ByteLen::new(content.len() as u64)).unwrap().encode();
        let path = |build: usize| format!("acme/coyote/stable/coyote-{build}-full.rvp").parse::<TargetPath>().unwrap();
        let beside = |build: usize| format!("{}.chunks", path(build)).parse::<TargetPath>().unwrap();
        let custom = json!({
            "kind": "native", "to": build.to_string(), "version": "x", "timestamp": 1_700_000_000 + build,
            "size": {"install": 4096}, "rollout": 100, "chunks": beside(build).file(),
        });
        role.put_target(&path(build), Target::of(&content), &custom).unwrap();
        role.put_target(&beside(build), Target::of(&list), &json!({"kind": "chunks"})).unwrap();
        if build > 4 {
            role.remove_target(&path(build - 4)).unwrap();
            role.remove_target(&beside(build - 4)).unwrap();
        }
        role.bump().unwrap();
        role.set_expires(now + jiff::SignedDuration::from_hours(24 * 90));
        let files = [content, list];
        let kill_here = kills < KILLS && build > kills * publishes / KILLS;
        let mut killer = None;
        loop {
            let target = |path: TargetPath, bytes: &[u8]| {
                let Target { length, sha256 } = Target::of(bytes);
                ManifestTarget { path, length, sha256, cut: None }
            };
            let file = String::from_utf8(role.sign(&[&key("d-coyote")]).unwrap()).unwrap();
            let codename = Codename::parse("coyote").unwrap();
            let manifest = Manifest {
                protocol: PROTOCOL,
                roles: vec![ManifestRole { codename, nightly: false, file }],
                targets: vec![target(path(build), &files[0]), target(beside(build), &files[1])],
            };
            let manifest = serde_json::to_vec(&manifest).unwrap();
            let address = program.address;
            // A request that was signed before a restart counts no more.
            #[expect(clippy::disallowed_methods, reason = "the program under test has the real clock")]
            let time = Timestamp::now().as_second() + 1;
            if kill_here && killer.is_none() {
                let moment = Duration::from_micros(random(60_000));
                let dying = program;
                killer = Some(std::thread::spawn(move || {
                    std::thread::park_timeout(moment);
                    dying.kill();
                }));
                let published = publish(address, time, &manifest, &files);
                killer.take().unwrap().join().unwrap();
                killer = Some(std::thread::spawn(|| {}));
                kills += 1;
                // What phones see now is the build before or this one, and whole; and the log will say which.
                let seen = newest();
                assert!(seen == build || (seen == build - 1 && published.is_none()), "build {build}: {seen} is seen");
                old += usize::from(seen < build);
                new += usize::from(seen == build);
                let report = repository.check(now).unwrap();
                assert!(report.is_clean(), "build {build}: {:?}", report.problems);
                program = Program::start(&dir, &listen);
                continue;
            }
            match publish(address, time, &manifest, &files) {
                Some(Ok(())) => break,
                Some(Err(next)) => role.set_version(next),
                None => panic!("build {build}: the server is gone, and nobody killed it"),
            }
        }
        assert_eq!(newest(), build);
    }

    assert_eq!(kills, KILLS);
    println!("{old} kills left the old state, {new} the new one");
    assert!(repository.check(now).unwrap().is_clean());
    let log = fs::read_to_string(publish_dir(&dir).join("audit/log.jsonl")).unwrap();
    let logged: Vec<u64> = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["roles"][0]["version"].as_u64().unwrap())
        .collect();
    assert_eq!(logged.len(), publishes, "one line for each publication");
    assert!(logged.is_sorted_by(|a, b| a < b));

    // The database is lost, and made anew from the repository.
    program.kill();
    for suffix in ["", "-wal", "-shm"] {
        let _gone = fs::remove_file(dir.path().join(format!("relevo.db{suffix}")));
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_relevo-server"));
    let said = command.env_clear().current_dir(dir.path()).arg("migrate").output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("devices in its index: 1"), "{said}");
}
