//! A repository that is made and published to while it is served: phones meet the old state or the new one.

#![expect(clippy::unwrap_used, reason = "clippy knows tests only by their attribute, and helpers have none")]

mod support;

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
};

use jiff::Timestamp;
use relevo_meta::{Answer, Limits, Refresh, Scope, Step, Stored, Trusted, author::TopRole, testing::key};
use relevo_repo::{Hook, NewRepository, Operation, Repository, RoleKeys, Signers};
use relevo_types::{Codename, TargetPath, Vendor};
use serde_json::json;
use support::{START, TestServer, pattern};

fn now() -> Timestamp {
    Timestamp::from_second(START).unwrap()
}

fn keys(role: &str) -> RoleKeys {
    RoleKeys::one(key(role).public())
}

fn signers() -> Signers {
    let mut signers = Signers::new();
    for role in ["root", "targets", "snapshot", "timestamp", "v-acme", "d-roadrunner"] {
        signers.add(role, key(role));
    }
    signers
}

/// Body of a GET, or none for a 404.
fn get(address: SocketAddr, path: &str) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    match &answer[9..12] {
        b"200" => Some(answer.split_off(body)),
        b"404" => None,
        status => panic!("{path}: {}", String::from_utf8_lossy(status)),
    }
}

/// What a new phone sees, and whether every file of it is there.
fn poll(address: SocketAddr) -> Trusted {
    let root = get(address, "/repo/metadata/1.root.json").unwrap();
    let scope = Scope::Everything;
    let mut refresh = Refresh::start(Stored::with_root(root), scope, now(), Limits::default()).unwrap();
    let trusted = loop {
        match refresh.next() {
            Step::Get(request) => {
                let found = get(address, &format!("/repo/metadata/{}", request.name));
                refresh.supply(found.map_or(Answer::Absent, Answer::Found)).unwrap();
            }
            Step::Keep { .. } => {}
            Step::Done => break refresh.finish().unwrap(),
        }
    };
    for (path, target) in trusted.devices().values().flat_map(|device| &device.targets) {
        let bytes = get(address, &format!("/repo/targets/{}", path.consistent(&target.sha256))).unwrap();
        target.check(path.file(), &bytes).unwrap();
    }
    trusted
}

/// Polls before every write of a publication, and keeps the versions that were seen.
struct PollAtEachWrite {
    address: SocketAddr,
    versions: Mutex<Vec<u64>>,
}

impl Hook for PollAtEachWrite {
    fn before(&self, _: Operation<'_>) -> io::Result<()> {
        self.versions.lock().unwrap().push(poll(self.address).timestamp_version());
        Ok(())
    }
}

#[test]
fn every_moment_of_a_publication_is_the_old_state_or_the_new_one() {
    let server = TestServer::start();
    let new = NewRepository::new(TopRole::ALL.map(|role| (role, keys(role.name()))));
    let repository = Repository::create(&server.repo(), &new, &signers(), now()).unwrap();
    assert!(server.get("/").text().contains("relevo device add"));
    let mut publication = repository.publication().unwrap();
    let (vendor, codename) = (Vendor::parse("acme").unwrap(), Codename::parse("roadrunner").unwrap());
    publication.add_vendor(&vendor, &keys("v-acme")).unwrap();
    publication.add_device(&vendor, &codename, &keys("d-roadrunner")).unwrap();
    publication.commit(&signers(), now()).unwrap();
    assert!(server.get("/").text().contains("relevo import"));
    let file = server.dir.path().join("package");
    fs::write(&file, pattern(300_000)).unwrap();
    let seen = Arc::new(PollAtEachWrite { address: server.address, versions: Mutex::default() });

    let repository = repository.with_hook(Arc::clone(&seen) as Arc<dyn Hook>);
    for build in ["1", "2"] {
        let path = TargetPath::parse(&format!("acme/roadrunner/stable/roadrunner-{build}-full.rvp")).unwrap();
        let custom = json!({ "kind": "native", "to": build, "version": format!("build {build}"), "timestamp": START });
        let mut publication = repository.publication().unwrap();
        publication.add_package(&path, &file, &serde_json::from_value(custom).unwrap()).unwrap();
        publication.commit(&signers(), now()).unwrap();
    }

    let versions = seen.versions.lock().unwrap().clone();
    assert!(versions.is_sorted() && versions.len() > 20, "{versions:?}");
    assert_eq!((versions[0], poll(server.address).timestamp_version()), (2, 4));
    let page = server.get("/").text();
    assert!(page.contains("build 1") && page.contains("build 2"), "{page}");
    assert_eq!(server.get("/readyz").json()["repository"]["timestamp_version"], 4);
    for private in ["/repo/.lock", "/repo/.publishing", "/repo/metadata/.tmp-timestamp.json"] {
        assert_eq!(server.get(private).status, 404, "{private}");
    }
}
