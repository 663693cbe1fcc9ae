//! Publishing from afar: a maintainer's machine, an origin, and a line between them that breaks.

use std::{fs, path::PathBuf, process::Command};

use relevo_meta::keys::PrivateKey;
use relevo_tests::{
    images::{self, Images},
    maintainer::{CODENAME, Maintainer},
    program::{Said, Server, command, kill_when, run},
    proxy::{Cutter, Recorder},
};
use relevo_types::ByteLen;
use serde_json::Value;

use crate::world::{World, assert_boots_build_2, tiny};

/// An origin that was made from a maintainer's directory, with the online keys and no others.
struct Origin {
    directory: PathBuf,
    server: Option<Server>,
    listen: String,
}

impl Origin {
    /// From what the world has published, and with an account for each of these names and devices.
    fn start(world: &World, accounts: &[(&str, &str)]) -> Self {
        let directory = world.path("origin");
        let home = world.maintainer.copy(&directory.join("relevo"));
        for entry in fs::read_dir(home.directory().join("keys")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if !["snapshot.key", "timestamp.key", "log.key"].contains(&name) {
                fs::remove_file(path).unwrap();
            }
        }
        let mut origin = Self { directory, server: None, listen: "127.0.0.1:0".to_owned() };
        for (name, codename) in accounts {
            let key = world.path(&format!("{name}.pub"));
            let mut command = command("relevo-server");
            command.args(["account", "add", name, "--device", codename, "--key"]).arg(key);
            run({
                command.arg("--publish").arg(origin.directory.join("publish"));
                command
            })
            .ok();
        }
        origin.restart(world);
        origin
    }

    fn restart(&mut self, world: &World) {
        if let Some(server) = self.server.take() {
            server.kill();
        }
        let publish = self.directory.join("publish");
        let extra: [(&str, &std::path::Path); 2] =
            [("--publish", &publish), ("--publish-passphrase-file", &world.path("passphrase"))];
        let (repository, database) = (self.directory.join("relevo"), self.directory.join("server.db"));
        let server = Server::start_with(&self.listen, &repository, &database, &extra);
        self.listen = server.address().to_string();
        self.server = Some(server);
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs")
    }

    fn repository(&self) -> PathBuf {
        self.directory.join("relevo/repo")
    }

    fn audit(&self) -> Vec<Value> {
        let log = fs::read_to_string(self.directory.join("publish/audit/log.jsonl")).unwrap_or_default();
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Makes the key of an account, as openssl would, and gives the option that names it.
fn account(world: &World, name: &str, seed: u8) -> PathBuf {
    let key = PrivateKey::from_random([seed; 32]);
    fs::write(world.path(&format!("{name}.pub")), key.public().to_pem()).unwrap();
    let random = relevo_meta::keys::FileRandom { salt: [seed; 16], iv: [seed; 16] };
    let passphrase = fs::read_to_string(world.path("passphrase")).unwrap();
    let cost = relevo_meta::keys::ScryptCost::QUICK;
    let pem = key.to_encrypted_pem(passphrase.trim_end().as_bytes(), random, cost).unwrap();
    let path = world.path(&format!("{name}.key"));
    fs::write(&path, pem.as_bytes()).unwrap();
    path
}

fn push_command(maintainer: &Maintainer, key: &std::path::Path, url: &str, more: &[&str]) -> Command {
    let mut command = maintainer.signing_command(&["publish", "--json", "--to", url]);
    command.arg("--key").arg(key).args(more);
    command
}

fn push(maintainer: &Maintainer, key: &std::path::Path, url: &str, more: &[&str]) -> Said {
    run(push_command(maintainer, key, url, more))
}

#[test]
fn a_push_over_a_line_that_breaks_reaches_phones_and_sends_little_twice() {
    let world = World::first_published(images::builds());
    let key = account(&world, "ana", 1);
    let origin = Origin::start(&world, &[("ana", CODENAME)]);
    world.import(1);
    world.maintainer.run(&["delta", CODENAME, "--level", "3"]).ok();
    // Every connection breaks after so many bytes from the maintainer.
    let cutter = Cutter::start(origin.server().address(), 300_000);
    let wire = Recorder::start(cutter.address());

    let url = format!("http://{}/", wire.address());
    let said = push(&world.maintainer, &key, &url, &["--parallel", "2", "--retries", "50"]).ok().json();

    let (sent, total) = (said["sent_bytes"].as_u64().unwrap(), said["total_bytes"].as_u64().unwrap());
    let on_the_wire = wire.counts().0;
    println!("{sent} of {total} bytes sent, {on_the_wire} on the wire, {} breaks", cutter.cuts());
    assert!(cutter.cuts() > 3, "the line broke {} times", cutter.cuts());
    // What a break costs is at most the run of chunks that it met.
    let most = total + (cutter.cuts() as u64 + 4) * (ByteLen::mib(1).get() + 8_000);
    assert!(on_the_wire < most, "{on_the_wire} bytes for {total}");
    let phone = world.phone("phone", &[origin.server().repository()]);
    for step in ["check", "download", "install"] {
        phone.run(&[step]).ok();
    }
    assert_boots_build_2(&phone, &world.builds);
    assert_eq!(origin.audit().len(), 1);
    assert_eq!(origin.audit()[0]["account"], "ana");
    // There is nothing more to push, and nothing waits.
    let again = push(&world.maintainer, &key, &url, &[]).ok();
    assert!(again.json()["packages"].as_array().is_none_or(Vec::is_empty), "{}", again.stdout);
}

#[test]
fn the_server_killed_in_the_midst_of_pushes_and_the_client_too_go_on() {
    let world = World::first_published(tiny());
    let key = account(&world, "ana", 1);
    let mut origin = Origin::start(&world, &[("ana", CODENAME)]);
    world.import(1);
    let wire = Recorder::start(origin.server().address());
    let whole = {
        let maintainer = world.maintainer.copy(&world.path("whole"));
        let before = wire.counts().0;
        // Counted on an origin that is thrown away afterwards.
        let saved = world.path("saved");
        relevo_tests::phone::copy(&origin.directory, &saved).unwrap();
        push(&maintainer, &key, &format!("http://{}", wire.address()), &[]).ok();
        let whole = wire.counts().0 - before;
        drop(origin.server.take());
        fs::remove_dir_all(&origin.directory).unwrap();
        fs::rename(saved, &origin.directory).unwrap();
        origin.restart(&world);
        whole
    };

    for (number, part) in [1, 3, 5, 7, 9].into_iter().enumerate() {
        let moment = whole * part / 10;
        let wire = Recorder::start(origin.server().address());
        let url = format!("http://{}", wire.address());
        let mut server_too = number % 2 == 0;
        let command = push_command(&world.maintainer, &key, &url, &["--retries", "1", "--limit", "256KiB"]);
        let killed = kill_when(command, || {
            let there = wire.counts().0 >= moment;
            if there && std::mem::take(&mut server_too) {
                origin.restart(&world);
            }
            there
        });
        println!("killed after {moment} of {whole} bytes: {killed}");
        let mut check = command_in(&origin, &["repo", "check"]);
        let said: Said = check.output().unwrap().into();
        said.ok();
    }

    let url = format!("http://{}", origin.server().address());
    push(&world.maintainer, &key, &url, &[]).ok();
    let phone = world.phone("phone", &[origin.server().repository()]);
    for step in ["check", "download", "install"] {
        phone.run(&[step]).ok();
    }
    assert_boots_build_2(&phone, &world.builds);
    assert_eq!(origin.audit().len(), 1);
}

fn command_in(origin: &Origin, words: &[&str]) -> Command {
    let mut command = command("relevo");
    command.arg("--quiet").arg("--dir").arg(origin.directory.join("relevo")).args(words);
    command
}

#[test]
fn two_maintainers_at_once_both_publish() {
    let world = World::first_published(tiny());
    world.maintainer.device("other");
    let other: Images = world.builds[1].clone();
    let keys = [account(&world, "ana", 1), account(&world, "bob", 2)];
    let origin = Origin::start(&world, &[("ana", CODENAME), ("bob", "other")]);
    let [ana, bob] = ["ana", "bob"].map(|name| world.maintainer.copy(&world.path(name)));
    ana.import_images(&world.path("ana-images"), CODENAME, &world.builds[1], "2", crate::world::DATES[1]);
    bob.import_images(&world.path("bob-images"), "other", &other, "2", crate::world::DATES[1]);
    let url = format!("http://{}", origin.server().address());

    let running: Vec<_> = [(&ana, &keys[0]), (&bob, &keys[1])]
        .into_iter()
        .map(|(maintainer, key)| {
            let mut command = push_command(maintainer, key, &url, &[]);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    for child in running {
        let said: Said = child.wait_with_output().unwrap().into();
        said.ok();
    }

    assert_eq!(origin.audit().len(), 2);
    let said: Said = command_in(&origin, &["repo", "check"]).output().unwrap().into();
    said.ok();
    // Neither may publish the other's device.
    ana.import_images(&world.path("ana-other"), "other", &world.builds[2], "3", crate::world::DATES[2]);
    push(&ana, &keys[0], &url, &["other"]).failed_json("may not publish other");
    // And a key that nobody knows is told what to do about it.
    let eve = account(&world, "eve", 3);
    push(&ana, &eve, &url, &["other"]).failed_json("relevo-server account add");
}

#[test]
fn an_origin_with_a_full_disk_says_so_and_goes_on_when_there_is_room() {
    let world = World::first_published(tiny());
    let key = account(&world, "ana", 1);
    let mut origin = Origin::start(&world, &[("ana", CODENAME)]);
    world.import(1);
    let before = files_of(&origin);
    // Files of at most 64 KiB: where the system says no, a full disk would.
    origin.server.take();
    let full = Server::start_limited(
        "127.0.0.1:0",
        &origin.directory.join("relevo"),
        &origin.directory.join("server.db"),
        &[("--publish", &origin.directory.join("publish")), ("--publish-passphrase-file", &world.path("passphrase"))],
        64,
    );

    let url = format!("http://{}", full.address());
    push(&world.maintainer, &key, &url, &["--retries", "0"]).failed_json("disk may be full");
    assert_eq!(files_of(&origin), before);
    drop(full);

    origin.restart(&world);
    let url = format!("http://{}", origin.server().address());
    push(&world.maintainer, &key, &url, &[]).ok();
    assert_eq!(origin.audit().len(), 1);
}

fn files_of(origin: &Origin) -> Vec<PathBuf> {
    relevo_tests::maintainer::files(&origin.repository())
}
