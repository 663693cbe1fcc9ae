//! `relevo log`, from a directory and from an address.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
};

use relevo_meta::{author::TopRole, keys::PrivateKey};
use relevo_repo::{NewRepository, Repository, RoleKeys, Signers};

use crate::support::{Machine, PASSPHRASE};

fn publish(machine: &Machine, number: u64) {
    let build = machine.build(number);
    machine.at_desk(["import", &build, "--device", "ginkgo"]).expect(0);
    machine.at_desk(["publish"]).expect(0);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, to).unwrap();
        }
    }
}

/// Serves the files of a directory until the test's process ends; gives the address.
fn serve(directory: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let request = lines.next().unwrap().unwrap();
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            let path = request.split(' ').nth(1).unwrap().trim_start_matches('/');
            let (status, body) = match fs::read(directory.join(path)) {
                Ok(body) => ("200 OK", body),
                Err(_) => ("404 Not Found", Vec::new()),
            };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            // Whoever asked may be gone by now.
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    address
}

#[test]
fn every_publication_is_in_the_log_and_the_log_is_one() {
    let machine = Machine::with_device();
    let before = machine.path("before");
    fs::copy(machine.path("desk/repo/log/checkpoint"), &before).unwrap();
    publish(&machine, 1);

    let shown = machine.at_desk(["log", "show", "--json"]).expect(0).json();
    let since = before.to_str().unwrap();
    let file = machine.text("desk/repo/metadata/2.d-ginkgo.json");
    let verified = machine.at_desk(["log", "verify", "--since", since, "--file", &file, "--json"]).expect(0).json();
    let url = serve(machine.path("desk/repo"));
    let remote = machine.at_desk(["log", "verify", &url, "--since", &machine.text("desk"), "--file", &file]).expect(0);

    let roles: Vec<String> =
        shown["entries"].as_array().unwrap().iter().map(|entry| entry["role"].to_string()).collect();
    assert_eq!(shown["size"], 6);
    assert!(roles.iter().any(|role| role == "\"d-ginkgo\""), "{roles:?}");
    assert_eq!((&verified["since"]["relation"], &verified["since"]["size"]), (&"ahead".into(), &5.into()));
    assert_eq!(verified["files"][0]["included"], true);
    assert!(remote.out.contains("it is the same as"), "{}", remote.out);
    let checked = machine.at_desk(["repo", "check"]).expect(0);
    assert!(checked.out.contains("files checked"), "{}", checked.out);

    // A file that was not logged under its name.
    let other = machine.text("3.d-ginkgo.json");
    fs::copy(&file, &other).unwrap();
    let refused = machine.at_desk(["log", "verify", "--file", &other, "--json"]).expect(1).json();
    assert_eq!(refused["files"][0]["included"], false);
}

#[test]
fn a_fork_raises_the_alarm_and_shows_both_checkpoints() {
    let machine = Machine::with_device();
    publish(&machine, 1);
    copy(&machine.path("desk"), &machine.path("other"));
    publish(&machine, 2);
    let build = machine.build(3);
    let other = machine.text("other");
    machine.run(["import", &build, "--device", "ginkgo", "--dir", &other]).expect(0);
    machine.run(["publish", "--dir", &other]).expect(0);
    let (desk, state) = (machine.text("desk"), machine.text("seen"));

    let first = machine.run(["log", "watch", &desk, "--state", &state, "--json"]).expect(0).json();
    let watched = machine.run(["log", "watch", &desk, &other, "--state", &state, "--json"]).expect(1).json();
    let verified = machine.run(["log", "verify", &other, "--since", &desk, "--json"]).expect(1).json();

    assert_eq!(first["sources"][0]["state"], "first");
    assert_eq!(watched["sources"][0]["state"], "same");
    assert_eq!(watched["sources"][1]["state"], "fork");
    let evidence = PathBuf::from(watched["sources"][1]["evidence"].as_str().unwrap());
    let notes = ["kept", "offered"].map(|name| fs::read_to_string(evidence.join(name)).unwrap());
    assert_eq!(notes[0], fs::read_to_string(machine.path("desk/repo/log/checkpoint")).unwrap());
    assert_eq!(notes[1], fs::read_to_string(machine.path("other/repo/log/checkpoint")).unwrap());
    assert_eq!(verified["fork"]["since"].as_str(), Some(notes[0].as_str()));
    assert_eq!(verified["fork"]["source"].as_str(), Some(notes[1].as_str()));
}

#[test]
fn a_watch_tells_what_is_new_and_who_is_behind() {
    let machine = Machine::with_device();
    copy(&machine.path("desk/repo"), &machine.path("mirror"));
    let (desk, mirror) = (serve(machine.path("desk/repo")), machine.text("mirror"));
    let root = machine.text("mirror/metadata/1.root.json");
    let watch = ["log", "watch", &desk, &mirror, "--state", &machine.text("seen"), "--root", &root, "--json"];
    machine.run(watch).expect(0);
    publish(&machine, 1);

    let seen = machine.run(watch).expect(0).json();

    let sources = seen["sources"].as_array().unwrap();
    assert_eq!((&sources[0]["state"], &sources[1]["state"]), (&"ahead".into(), &"behind".into()));
    assert_eq!(sources[0]["new"].as_array().unwrap().len(), 1);
    assert_eq!((&sources[0]["new"][0]["role"], &sources[0]["new"][0]["version"]), (&"d-ginkgo".into(), &2.into()));
    let without = machine.run(["log", "watch", &desk, "--state", &machine.text("seen"), "--json"]).expect(1).json();
    assert!(without["sources"][0]["message"].as_str().unwrap().contains("which root"), "{without}");
}

#[test]
fn a_repository_from_before_gets_a_log() {
    let machine = Machine::new();
    machine.run(["init", machine.text("desk").as_str(), "--key-cost", "low"]).expect(0);
    // As `init` made it before there were logs.
    let keys = machine.path("desk/keys");
    for name in ["log.key", "log.pub"] {
        fs::remove_file(keys.join(name)).unwrap();
    }
    fs::remove_dir_all(machine.path("desk/repo")).unwrap();
    let mut signers = Signers::new();
    let roles = TopRole::ALL.map(|role| {
        let pem = fs::read_to_string(keys.join(format!("{}.key", role.name()))).unwrap();
        let key = PrivateKey::from_encrypted_pem(&pem, PASSPHRASE.as_bytes()).unwrap();
        let keys = RoleKeys::one(key.public());
        signers.add(role.name(), key);
        (role, keys)
    });
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    Repository::create(&machine.path("desk/repo"), &NewRepository::new(roles), &signers, now).unwrap();
    machine.at_desk(["device", "add", "ginkgo", "--vendor", "xiaomi", "--kind", "native"]).expect(0);
    machine.at_desk(["log", "show"]).expect(1);

    let made = machine.at_desk(["log", "init", "--json"]).expect(0).json();

    // Two roots, and the three roles that there are.
    assert_eq!(made["size"], 5);
    machine.at_desk(["repo", "check"]).expect(0);
    publish(&machine, 1);
    assert_eq!(machine.at_desk(["log", "show", "--json"]).expect(0).json()["size"], 6);
    assert_eq!(machine.at_desk(["log", "init", "--json"]).expect(0).json()["size"], 6);

    // Another key goes on with it: the new root is an entry. Another log begins anew.
    let aside = || ["log.key", "log.pub"].map(|name| fs::remove_file(keys.join(name)).unwrap());
    machine.at_desk(["log", "init", "--new"]).expect(1);
    aside();
    let rotated = machine.at_desk(["log", "init", "--json"]).expect(0).json();
    assert_eq!(rotated["size"], 7);
    machine.at_desk(["repo", "check"]).expect(0);
    aside();
    let fresh = machine.at_desk(["log", "init", "--new", "--json"]).expect(0).json();
    // Four roots and three roles.
    assert_eq!(fresh["size"], 7);
    assert_ne!(fresh["log"].as_str().unwrap().split('+').next(), made["log"].as_str().unwrap().split('+').next());
    machine.at_desk(["repo", "check"]).expect(0);
}
