//! The walkthroughs of signing/ceremonies.md, with the real program, several people, and phones that follow.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use relevo_meta::{
    Answer, Limits, Refresh, Scope, Step, Stored, TrustError, Trusted, author::TimestampFile, keys::Signer,
};
use relevo_tests::{
    images,
    maintainer::{CODENAME, Maintainer, VENDOR},
    phone::Phone,
    program::{Said, Server, command, run},
};
use relevo_types::{Codename, Vendor};
use relevo_updater::boot::Slot;

use crate::world::{World, tiny};

/// A phone that follows the metadata and installs nothing.
#[derive(Clone)]
struct Follower(Stored);

impl Follower {
    /// A phone that knows the first root and has seen the state as it is.
    fn of(maintainer: &Maintainer) -> Self {
        let mut follower = Self(Stored::with_root(fs::read(maintainer.root()).unwrap()));
        follower.follow(&maintainer.repository()).unwrap();
        follower
    }

    fn follow(&mut self, repository: &Path) -> Result<Trusted, TrustError> {
        let read = |name: &str| fs::read(repository.join("metadata").join(name)).ok();
        // A day after now, as the timestamp tells: tests have no clock.
        let expires = TimestampFile::edit(&read("timestamp.json").unwrap()).unwrap().expires().unwrap();
        let now: Timestamp = expires - SignedDuration::from_hours(24 * 6);
        let scope =
            Scope::Device { vendor: Vendor::parse(VENDOR).unwrap(), codename: Codename::parse(CODENAME).unwrap() };
        let mut refresh = Refresh::start(self.0.clone(), scope, now, Limits::default())?;
        loop {
            match refresh.next() {
                Step::Get(request) => refresh.supply(read(&request.name).map_or(Answer::Absent, Answer::Found))?,
                Step::Keep { name, bytes } => drop(self.0.0.insert(name, bytes)),
                Step::Done => return refresh.finish(),
            }
        }
    }
}

/// Somebody with one key and a copy of the repository, far from the maintainer's machine.
struct Person {
    name: &'static str,
    directory: PathBuf,
    passphrase: PathBuf,
}

impl Person {
    fn new(world: &World, name: &'static str) -> Self {
        let directory = world.path(name);
        let person = Self { name, passphrase: world.path("passphrase"), directory };
        let out = person.directory.to_str().unwrap().to_owned();
        person.relevo(&["key", "new", name, "--out", &out, "--key-cost", "low"]).ok();
        person
    }

    fn relevo(&self, words: &[&str]) -> Said {
        let mut command = command("relevo");
        command
            .args(words)
            .arg("--passphrase-file")
            .arg(&self.passphrase)
            .arg("--dir")
            .arg(self.directory.join("none"));
        run(command)
    }

    fn key(&self) -> String {
        self.directory.join(format!("{}.key", self.name)).to_str().unwrap().to_owned()
    }

    /// What they give to others.
    fn public(&self) -> String {
        self.directory.join(format!("{}.pub", self.name)).to_str().unwrap().to_owned()
    }

    /// Brings their copy up to date, looks, and signs.
    fn sign(&self, world: &World, file: &str) -> Said {
        let copy = self.directory.join("repo");
        drop(fs::remove_dir_all(&copy));
        relevo_tests::phone::copy(&world.maintainer.repository(), &copy).unwrap();
        let root = self.directory.join("1.root.json");
        if !root.exists() {
            fs::copy(copy.join("metadata/1.root.json"), &root).unwrap();
        }
        let (copy, root, key) = (copy.to_str().unwrap(), root.to_str().unwrap(), self.key());
        self.relevo(&["ceremony", "sign", file, "--key", &key, "--repository", copy, "--root", root, "--yes"])
    }
}

fn world() -> World {
    World::first_published(tiny())
}

fn relevo(world: &World, words: &[&str]) -> Said {
    world.maintainer.signing(words)
}

fn start(world: &World, file: &str, changes: &[&str]) {
    let words: Vec<&str> = ["ceremony", "start", file].into_iter().chain(changes.iter().copied()).collect();
    world.maintainer.run(&words).ok();
}

fn new_key(world: &World, name: &str) {
    relevo(world, &["key", "new", name]).ok();
}

/// Phones that saw the state before, and new ones, follow; and the repository is whole.
fn everybody_follows(world: &World, old: &Follower) {
    for mut follower in [old.clone(), Follower::of(&world.maintainer)] {
        follower.follow(&world.maintainer.repository()).unwrap();
    }
    world.maintainer.run(&["repo", "check"]).ok();
}

/// Takes a key off the maintainer's machine.
fn forget(world: &World, name: &str) {
    for ending in ["key", "pub"] {
        fs::remove_file(world.maintainer.directory().join(format!("keys/{name}.{ending}"))).unwrap();
    }
}

#[test]
fn the_root_becomes_two_of_three_and_then_one_of_them_is_replaced() {
    let world = world();
    let old = Follower::of(&world.maintainer);
    let (bob, carol, dave) = (Person::new(&world, "bob"), Person::new(&world, "carol"), Person::new(&world, "dave"));
    let file = world.path("root.json").to_str().unwrap().to_owned();

    let (add_bob, add_carol) = (format!("root={}", bob.public()), format!("root={}", carol.public()));
    start(&world, &file, &["--add", &add_bob, "--add", &add_carol, "--threshold", "root=2"]);
    relevo(&world, &["ceremony", "sign", &file, "--yes"]).ok();
    let said = bob.sign(&world, &file).ok();
    relevo(&world, &["ceremony", "finish", &file]).ok();
    everybody_follows(&world, &old);

    // A year later, or when Carol leaves: two of the three sign.
    let middle = Follower::of(&world.maintainer);
    let (add_dave, drop_carol) = (format!("root={}", dave.public()), format!("root={}", carol.public()));
    let second = world.path("dave.json").to_str().unwrap().to_owned();
    start(&world, &second, &["--add", &add_dave, "--remove", &drop_carol]);
    bob.sign(&world, &second).ok();
    dave.sign(&world, &second).ok();
    relevo(&world, &["ceremony", "finish", &second]).failed(&["missing are 1 of root 2"]);
    relevo(&world, &["ceremony", "sign", &second, "--yes"]).ok();
    bob.sign(&world, &second).failed(&["all of them have signed"]);
    relevo(&world, &["ceremony", "finish", &second]).ok();

    assert!(said.stdout.contains("root: 2 of 3 keys sign, so far 1 of 1"), "{}", said.stdout);
    assert_eq!(world.maintainer.newest("root").0, 3);
    for follower in [&old, &middle] {
        everybody_follows(&world, follower);
    }
}

#[test]
fn the_key_of_targets_changes() {
    let world = world();
    let old = Follower::of(&world.maintainer);
    new_key(&world, "targets-2");

    relevo(&world, &["role", "add", "targets", "targets-2"]).ok();
    relevo(&world, &["role", "remove", "targets", "targets"]).ok();
    forget(&world, "targets");

    everybody_follows(&world, &old);
    relevo(&world, &["refresh", "--role", "targets"]).ok();
    everybody_follows(&world, &old);
}

#[test]
fn the_online_keys_change() {
    let world = world();
    let old = Follower::of(&world.maintainer);
    for name in ["snapshot-2", "timestamp-2"] {
        new_key(&world, name);
    }
    let file = world.path("online.json").to_str().unwrap().to_owned();

    start(
        &world,
        &file,
        &[
            "--add",
            "snapshot=snapshot-2",
            "--remove",
            "snapshot=snapshot",
            "--add",
            "timestamp=timestamp-2",
            "--remove",
            "timestamp=timestamp",
        ],
    );
    relevo(&world, &["ceremony", "sign", &file, "--yes"]).ok();
    relevo(&world, &["ceremony", "finish", &file]).ok();
    everybody_follows(&world, &old);

    forget(&world, "snapshot");
    forget(&world, "timestamp");
    relevo(&world, &["refresh"]).ok();
    everybody_follows(&world, &old);
}

#[test]
fn the_key_of_a_vendor_changes() {
    let world = world();
    let old = Follower::of(&world.maintainer);
    new_key(&world, "vendor-2");
    let role = format!("v-{VENDOR}");

    relevo(&world, &["role", "add", &role, "vendor-2"]).ok();
    relevo(&world, &["role", "remove", &role, &role]).ok();
    forget(&world, &role);

    everybody_follows(&world, &old);
    relevo(&world, &["device", "add", "another", "--vendor", VENDOR, "--kind", "native"]).ok();
    everybody_follows(&world, &old);
}

/// Lets a phone with build 1 update to build 2.
fn updates(world: &World) -> Phone {
    let server = Server::start(&world.maintainer.repository(), &world.path("server.db"));
    let phone = world.phone("phone", &[server.repository()]);
    for step in ["check", "download", "install"] {
        phone.run(&[step]).ok();
    }
    assert_eq!(phone.boot().unwrap(), Slot::B);
    images::assert_same(&phone.images(Slot::B), &world.builds[1]);
    phone.run(&["confirm"]).ok();
    phone
}

#[test]
fn the_key_of_a_device_changes_and_phones_go_on() {
    let world = World::published(tiny());
    let old = Follower::of(&world.maintainer);
    new_key(&world, "sample-2");
    let role = format!("d-{CODENAME}");

    relevo(&world, &["role", "add", &role, "sample-2"]).ok();
    let removed = relevo(&world, &["role", "remove", &role, &role]).ok();
    forget(&world, &role);
    relevo(&world, &["publish", "--resign"]).ok();

    assert!(removed.stderr.contains("are signed inside by too few of its keys now"), "{}", removed.stderr);
    everybody_follows(&world, &old);
    updates(&world);
}

#[test]
fn the_key_of_a_build_box_changes() {
    let world = world();
    let old = Follower::of(&world.maintainer);
    for name in ["box", "box-2"] {
        new_key(&world, name);
    }
    let role = format!("d-{CODENAME}-nightly");

    relevo(&world, &["role", "add", &role, "box"]).ok();
    everybody_follows(&world, &old);
    relevo(&world, &["role", "add", &role, "box-2"]).ok();
    relevo(&world, &["role", "remove", &role, "box"]).ok();

    everybody_follows(&world, &old);
    relevo(&world, &["role", "remove", &role, "--retire"]).ok();
    everybody_follows(&world, &old);
}

#[test]
fn a_maintainer_loses_the_only_key_of_a_device() {
    let world = World::published(tiny());
    let old = Follower::of(&world.maintainer);
    let role = format!("d-{CODENAME}");
    let lost = fs::read(world.maintainer.directory().join(format!("keys/{role}.pub"))).unwrap();
    forget(&world, &role);
    let gone = world.path("gone.pub");
    fs::write(&gone, lost).unwrap();
    relevo(&world, &["refresh", "--role", &role]).failed(&["needs 1 of its 1 keys, and none is here"]);

    // The vendor's key gives the device a new one, which signs what the lost one had signed.
    new_key(&world, "sample-2");
    let file = world.path("lost.json").to_str().unwrap().to_owned();
    let (add, remove) = (format!("{role}=sample-2"), format!("{role}={}", gone.to_str().unwrap()));
    start(&world, &file, &["--add", &add, "--remove", &remove]);
    relevo(&world, &["ceremony", "sign", &file, "--yes"]).ok();
    relevo(&world, &["ceremony", "finish", &file]).ok();
    relevo(&world, &["publish", "--resign"]).ok();

    everybody_follows(&world, &old);
    updates(&world);
}

#[test]
fn thieves_of_the_online_keys_are_outrun() {
    let world = world();
    let honest = Follower::of(&world.maintainer);
    // With the stolen keys they give some phones a timestamp of a version that nobody reaches.
    let mirror = world.path("mirror");
    relevo_tests::phone::copy(&world.maintainer.repository(), &mirror).unwrap();
    let path = mirror.join("metadata/timestamp.json");
    let mut forged = TimestampFile::edit(&fs::read(&path).unwrap()).unwrap();
    forged.set_version(1_000_000_000);
    let stolen = world.maintainer.key("timestamp");
    fs::write(&path, forged.sign(&[&stolen as &dyn Signer]).unwrap()).unwrap();
    let mut robbed = honest.clone();
    robbed.follow(&mirror).unwrap();

    relevo(&world, &["refresh"]).ok();
    let stuck = robbed.clone().follow(&world.maintainer.repository()).unwrap_err();
    for name in ["snapshot-2", "timestamp-2"] {
        new_key(&world, name);
    }
    let file = world.path("stolen.json").to_str().unwrap().to_owned();
    let changes = ["--add", "snapshot=snapshot-2", "--remove", "snapshot=snapshot"];
    let and = ["--add", "timestamp=timestamp-2", "--remove", "timestamp=timestamp"];
    start(&world, &file, &[changes, and].concat());
    relevo(&world, &["ceremony", "sign", &file, "--yes"]).ok();
    relevo(&world, &["ceremony", "finish", &file]).ok();

    assert!(matches!(stuck, TrustError::Rollback { .. }), "{stuck:?}");
    everybody_follows(&world, &robbed);
    everybody_follows(&world, &honest);
    // And what the thieves sign from now on is nothing to phones that heard of it.
    robbed.follow(&world.maintainer.repository()).unwrap();
    fs::copy(world.maintainer.newest("root").1, mirror.join("metadata/2.root.json")).unwrap();
    let refused = robbed.follow(&mirror).unwrap_err();
    assert!(matches!(refused, TrustError::Threshold { .. }), "{refused:?}");
}

/// Publishes what is pending with signatures of these people alone; each signs the native packages inside, too.
fn publish_by(world: &World, people: &[&Person]) {
    let file = world.path("release.json").to_str().unwrap().to_owned();
    for package in relevo_tests::maintainer::files(&world.maintainer.directory().join("packages")) {
        if package.extension().is_some_and(|extension| extension == "rvp") {
            let package = package.to_str().unwrap();
            for person in people {
                person.relevo(&["ota", "sign", package, "--key", &person.key(), "--out", package]).ok();
            }
        }
    }
    relevo(world, &["publish", "--ceremony", &file]).ok();
    for person in people {
        person.sign(world, &file).ok();
    }
    relevo(world, &["ceremony", "finish", &file]).ok();
}

#[test]
fn a_new_maintainer_takes_a_device_over() {
    let world = world();
    let old = Follower::of(&world.maintainer);
    let carol = Person::new(&world, "carol");
    let role = format!("d-{CODENAME}");

    relevo(&world, &["role", "add", &role, &carol.public()]).ok();
    world.import(1);
    world.maintainer.run(&["delta", CODENAME, "--level", "3"]).ok();
    let file = world.path("carol.json").to_str().unwrap().to_owned();
    start(&world, &file, &["--remove", &format!("{role}={role}")]);
    relevo(&world, &["ceremony", "sign", &file, "--yes"]).ok();
    let said = carol.sign(&world, &file).ok();
    relevo(&world, &["ceremony", "finish", &file]).ok();
    forget(&world, &role);
    relevo(&world, &["publish"]).failed(&["needs 1 of its 1 keys, and none is here", "publish --ceremony FILE"]);
    publish_by(&world, &[&carol]);

    assert!(said.stdout.contains("may no longer sign"), "{}", said.stdout);
    everybody_follows(&world, &old);
    updates(&world);
}

#[test]
fn two_maintainers_sign_every_release() {
    let world = world();
    let old = Follower::of(&world.maintainer);
    let (bob, carol) = (Person::new(&world, "bob"), Person::new(&world, "carol"));
    let role = format!("d-{CODENAME}");
    let file = world.path("two.json").to_str().unwrap().to_owned();

    let (add_bob, add_carol) = (format!("{role}={}", bob.public()), format!("{role}={}", carol.public()));
    let threshold = format!("{role}=2");
    start(&world, &file, &["--add", &add_bob, "--add", &add_carol, "--threshold", &threshold]);
    // In parallel, on copies; who finishes puts them together.
    let copies: Vec<String> = ["bob", "carol"]
        .iter()
        .map(|name| {
            let copy = world.path(&format!("two-{name}.json")).to_str().unwrap().to_owned();
            fs::copy(&file, &copy).unwrap();
            copy
        })
        .collect();
    bob.sign(&world, &copies[0]).ok();
    carol.sign(&world, &copies[1]).ok();
    relevo(&world, &["ceremony", "sign", &file, "--yes"]).ok();
    relevo(&world, &["ceremony", "finish", &file, &copies[0], &copies[1]]).ok();
    everybody_follows(&world, &old);

    world.import(1);
    world.maintainer.run(&["delta", CODENAME, "--level", "3"]).ok();
    relevo(&world, &["publish"]).failed(&["needs 2 of its 3 keys, and 1 of them is here"]);
    publish_by(&world, &[&bob, &carol]);
    everybody_follows(&world, &old);
    updates(&world);
}
