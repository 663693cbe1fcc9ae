//! Everybody who asks for a URL gets the same bytes, from wherever they ask, and no log line says who it was.

#![expect(clippy::unwrap_used, reason = "clippy knows tests only by their attribute, and the helpers are tests too")]

mod support;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    sync::mpsc,
};

use relevo_meta::testing::TestRepo;
use serde_json::json;
use socket2::{Domain, Socket, Type};
use support::{PATIENCE, Response, START, TestServer, eventually, pattern};

/// What proxies, content networks and browsers say of a client, for clients of many places.
const TOLD: [&[(&str, &str)]; 9] = [
    &[],
    &[("X-Forwarded-For", "152.206.0.1"), ("CF-IPCountry", "CU"), ("Accept-Language", "es-CU")],
    &[("X-Forwarded-For", "5.160.0.1, 10.0.0.1"), ("CF-IPCountry", "IR"), ("Accept-Language", "fa")],
    &[("X-Real-IP", "175.45.176.1"), ("CF-IPCountry", "KP"), ("CF-Connecting-IP", "175.45.176.1")],
    &[("Forwarded", "for=\"[2001:db8::1]\";proto=https"), ("CF-IPCountry", "T1"), ("True-Client-IP", "2001:db8::1")],
    &[("X-Forwarded-For", "not an address"), ("X-Country-Code", "SY"), ("X-AppEngine-Country", "SD")],
    &[("X-Forwarded-For", "203.0.113.9"), ("Fastly-Client-IP", "203.0.113.9"), ("X-GeoIP-Country", "RU")],
    &[
        ("User-Agent", "Dalvik/2.1.0 (Linux; U; Android 15; ginkgo)"),
        ("Cookie", "id=1"),
        ("Referer", "https://a.example/"),
    ],
    &[
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "http"),
        ("X-Original-URL", "/repo/metadata/1.root.json"),
    ],
];

/// Addresses of clients, in this machine's own network.
const SOURCES: [&str; 3] = ["127.0.0.2", "127.9.9.9", "127.255.255.254"];

/// What CyanogenMod's updater posts.
const QUESTION: &str = r#"{"params":{"device":"ginkgo"}}"#;

/// A repository in which every route finds something.
fn repo() -> TestRepo {
    let mut repo = TestRepo::new();
    repo.add_device("xiaomi", "ginkgo");
    for (from, to, len) in [("", "1", 5_000), ("", "2", 5_000), ("1", "2", 500)] {
        let mut custom = json!({
            "kind": "ab", "to": to, "version": "22.2", "timestamp": START - 86_400 + to.parse::<i64>().unwrap(),
            "sdk": 35, "spl": "2026-01-05",
            "ab": {
                "payload": {"offset": 1, "size": 1, "sha256": "11".repeat(32)},
                "metadata": {"offset": 1, "size": 1, "sha256": "22".repeat(32)},
                "from_vbmeta_digest": "33".repeat(32),
            },
        });
        if !from.is_empty() {
            custom["from"] = from.into();
        }
        let path = format!("xiaomi/ginkgo/stable/{from}to{to}.zip");
        repo.add_target(&path, &pattern(len), &custom);
        repo.add_target(&format!("{path}.csig"), b"signed", &json!({"kind": "csig"}));
    }
    repo.publish();
    repo
}

/// A path of every route there is, and of what there is not.
fn paths(repo: &TestRepo) -> Vec<String> {
    let fixed = [
        "/",
        "/?page=2",
        "/healthz",
        "/readyz",
        "/nosuch",
        "/repo/metadata/timestamp.json",
        "/repo/metadata/1.root.json",
        "/api/v1/ginkgo/stable/1",
        "/api/v1/ginkgo/stable",
        "/api/v1/ginkgo",
        "/api/v1/nosuch/stable/1",
        "/api/v1/types/ginkgo",
        "/api/v1/devices",
        "/api/v2/oems",
        "/api/v2/devices/ginkgo",
        "/api/v2/devices/ginkgo/builds",
        "/api/v2/devices/ginkgo/builds/1",
        "/api/v2/devices/ginkgo/stable/builds/1",
        "/graphene/ginkgo-stable",
        "/graphene/overview.json",
        "/graphene/ginkgo-ota_update-2.zip",
        "/graphene/ginkgo-incremental-1-2.zip",
        "/custota/ginkgo.json",
        "/custota/stable/ginkgo.json",
        "/crdroid/ginkgo.json",
        "/evolution/builds/ginkgo.json",
        "/leafos/ota/ginkgo/VANILLA/1",
        "/arrowos/api/v1/ginkgo/stable/arrow-13/vanilla",
        "/pixelexperience/ota/ginkgo/thirteen",
        "/api",
    ];
    let mut paths: Vec<String> = fixed.map(str::to_owned).to_vec();
    for file in repo.files.keys() {
        paths.push(format!("/repo/targets/{file}"));
        paths.push(format!("/get/{file}"));
    }
    paths
}

/// A request from an address of one's own.
fn send(server: SocketAddr, from: IpAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    let domain = if from.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    let to = if from.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { server.ip() };
    socket.connect(&SocketAddr::new(to, server.port()).into()).unwrap();
    let mut stream = std::net::TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: ota.example\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    // In one piece, or else the second one waits for an acknowledgement of the first.
    stream.write_all(format!("{request}\r\n{body}").as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let mut response = Response::parse(&bytes);
    // The one field that says when.
    response.headers.remove("date");
    response
}

fn from(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn everybody_gets_the_same_bytes_from_every_route() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start_in(dir, |layer| {
        layer.public_url = Some("https://ota.example".to_owned());
        layer.mirrors = Some(vec!["https://near.example/repo/".to_owned()]);
    });
    let repo = repo();
    server.publish(&repo);
    eventually("the server sees what was published", || {
        server.get("/").status == 200 && server.get("/api/v1/ginkgo").status == 200
    });
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();

    for path in paths(&repo) {
        // What is told has no way into the other methods that it has not into GET: a few of it will do there.
        for (method, body, tries) in [("GET", "", TOLD.len()), ("HEAD", "", 2), ("POST", QUESTION, 2)] {
            let ask =
                |source: &str, told: &[(&str, &str)]| send(server.address, from(source), method, &path, told, body);
            let expected = ask("127.0.0.1", &[]);
            *statuses.entry(expected.status).or_default() += 1;
            for (told, source) in TOLD.into_iter().rev().zip(SOURCES.into_iter().cycle()).take(tries) {
                assert_eq!(ask(source, told), expected, "{method} {path} from {source}, told {told:?}");
            }
        }
    }

    // Routes that answered with what they have, not all with an error.
    assert!(statuses[&200] > 60 && statuses[&302] == 6, "{statuses:?}");
}

#[test]
fn no_line_of_the_log_names_anybody() {
    for format in ["text", "json"] {
        let dir = tempfile::tempdir().unwrap();
        let repo = repo();
        let files = repo.files.iter().map(|(name, bytes)| (format!("targets/{name}"), bytes));
        for (name, bytes) in files.chain(repo.metadata.iter().map(|(name, bytes)| (format!("metadata/{name}"), bytes)))
        {
            let path = dir.path().join("relevo/repo").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_relevo-server"))
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", format, "--public-url", "https://ota.example"])
            .args(["--mirrors", "https://near.example/repo/"])
            .current_dir(dir.path())
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let errors = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || errors.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut log = String::new();
        let address = loop {
            let line = lines.recv_timeout(PATIENCE).expect("a line of the log");
            log += &format!("{line}\n");
            if let Some(at) = line.find("127.0.0.1:").filter(|_| line.contains("serving")) {
                let digits = line[at..].chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c));
                break digits.collect::<String>().parse::<SocketAddr>().unwrap();
            }
        };

        for (path, told) in paths(&repo).iter().zip(TOLD.into_iter().cycle()) {
            for method in ["GET", "POST", "BREW"] {
                send(address, from("127.3.2.1"), method, path, told, "");
            }
        }
        for nonsense in [
            "nonsense\r\n\r\n",
            "GET /\u{0} HTTP/1.1\r\n\r\n",
            "GET / HTTP/9.9\r\nX-Forwarded-For: 152.206.0.1\r\n\r\n",
        ] {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(nonsense.as_bytes()).unwrap();
            let _reset = stream.read_to_end(&mut Vec::new());
        }
        let stopped = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(stopped.success() && child.wait().unwrap().success(), "{log}");
        log.extend(lines.iter().map(|line| line + "\n"));

        assert!(log.contains("the repository verifies"), "{log}");
        for word in log.replace(&address.to_string(), "").split(|c: char| !(c.is_ascii_digit() || c == '.')) {
            assert!(word.trim_matches('.').parse::<Ipv4Addr>().is_err(), "{word} in {log}");
        }
        let told = TOLD.iter().copied().flatten().map(|(_, value)| *value);
        for value in told.filter(|value| value.len() > 5) {
            assert!(!log.contains(value), "{value} in {log}");
        }
        assert!(!log.contains("2001:db8"), "{log}");
    }
}
