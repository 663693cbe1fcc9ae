//! Roles, and ceremonies between people who each have one key and a copy of the repository.

use std::{fs, io};

use serde_json::{Value, json};

use crate::support::{Machine, PASSPHRASE};

/// A maintainer's machine, and Bob and Carol with a key each on a USB stick of theirs.
fn with_friends() -> Machine {
    let machine = Machine::with_device();
    for name in ["bob", "carol", "mallory"] {
        machine.run(["key", "new", name, "--out", &machine.text(name), "--key-cost", "low"]).expect(0);
    }
    for name in ["bob", "carol"] {
        let public = format!("{name}/{name}.pub");
        fs::copy(machine.path(&public), machine.path("desk/keys").join(format!("{name}.pub"))).unwrap();
    }
    machine
}

/// A friend's own copy of the repository, as rsync or a mirror makes it.
fn copy_repository(machine: &Machine, to: &str) -> String {
    let to = machine.text(&format!("{to}/repo"));
    drop(fs::remove_dir_all(&to));
    for (name, bytes) in machine.tree("desk/repo") {
        let path = std::path::Path::new(&to).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    to
}

fn sign(machine: &Machine, name: &str, file: &str) -> crate::support::Run {
    let copy = copy_repository(machine, name);
    let key = machine.text(&format!("{name}/{name}.key"));
    let nowhere = machine.text("nowhere");
    machine.run(["ceremony", "sign", file, "--key", &key, "--repository", &copy, "--yes", "--dir", &nowhere])
}

/// Starts the ceremony after which two of three keys sign the root.
fn start(machine: &Machine, file: &str) {
    let (bob, carol) = (machine.text("bob/bob.pub"), machine.text("carol/carol.pub"));
    machine
        .at_desk([
            "ceremony",
            "start",
            file,
            "--add",
            &format!("root={bob}"),
            "--add",
            &format!("root={carol}"),
            "--threshold",
            "root=2",
        ])
        .expect(0);
}

#[test]
fn two_of_three_keys_come_to_sign_the_root() {
    let machine = with_friends();
    let file = machine.text("root.json");
    start(&machine, &file);
    let before = machine.tree("desk/repo");

    let shown = machine.at_desk(["ceremony", "show", &file]).expect(0).out;
    let early = machine.at_desk(["ceremony", "finish", &file]).expect(1);
    machine.at_desk(["ceremony", "sign", &file, "--yes"]).expect(0);
    let bobs = sign(&machine, "bob", &file).expect(0);
    let status = machine.at_desk(["ceremony", "status", &file, "--json"]).expect(0).json();
    assert_eq!(machine.tree("desk/repo"), before, "nothing is published before the end");
    let finished = machine.at_desk(["ceremony", "finish", &file]).expect(0);

    for words in ["root: 2 of 3 keys sign, so far 1 of 1", "(bob) may sign", "valid until 2027-01-01T00:00:00Z"] {
        assert!(shown.contains(words), "{words} is not in: {shown}");
    }
    assert!(early.err.contains("missing are 1 of root 1, 2 of root 2"), "{}", early.err);
    assert!(bobs.out.contains("enough have signed"), "{}", bobs.out);
    let signed = |group: usize| status["documents"][0]["groups"][group]["signed"].as_array().unwrap().len();
    assert_eq!((signed(0), signed(1)), (1, 2));
    assert!(finished.out.contains("published root, timestamp"), "{}", finished.out);
    let list = machine.at_desk(["role", "list"]).expect(0).out;
    assert!(list.lines().any(|line| line.starts_with("root ") && line.contains("2 of 3")), "{list}");
    machine.at_desk(["repo", "check"]).expect(0);
    // One person is no longer enough, and is told what to do.
    let alone = machine.at_desk(["role", "expire", "root", "--days", "100"]).expect(1);
    assert!(alone.err.contains("the role root needs 2 of its 3 keys, and 1 of them is here"), "{}", alone.err);
    let hint = "hint: let the others sign it: relevo ceremony start FILE --expire root=2026-04-11T00:00:00Z\n";
    assert!(alone.err.contains(hint), "{}", alone.err);
}

#[test]
fn copies_are_signed_in_parallel_and_put_together() {
    let machine = with_friends();
    let (file, bobs, carols) = (machine.text("root.json"), machine.text("bobs.json"), machine.text("carols.json"));
    start(&machine, &file);
    machine.at_desk(["ceremony", "sign", &file, "--yes"]).expect(0);
    machine.at_desk(["ceremony", "finish", &file]).expect(1);

    for (name, copy) in [("bob", &bobs), ("carol", &carols)] {
        fs::copy(&file, copy).unwrap();
        sign(&machine, name, copy).expect(0);
    }
    let all = [&file[..], &bobs, &carols];
    let status = machine.at_desk(["ceremony", "status"].into_iter().chain(all)).expect(0);
    machine.at_desk(["ceremony", "finish"].into_iter().chain(all)).expect(0);

    assert_eq!(status.out.matches("has signed").count(), 4, "{}", status.out);
}

#[test]
fn what_is_wrong_with_a_proposal_is_named() {
    let machine = with_friends();
    let file = machine.text("root.json");
    start(&machine, &file);
    let fails = |run: crate::support::Run, words: &str| {
        let run = run.expect(1);
        assert!(run.err.contains(words), "{words:?} is not in: {}", run.err);
    };

    fails(sign(&machine, "mallory", &file), "none of the keys given has a say");
    sign(&machine, "bob", &file).expect(0);
    fails(
        sign(&machine, "bob", &file),
        "none of the keys given has a say in this proposal, or all of them have signed",
    );
    // Somebody makes it one signature, after Bob looked.
    let mut json: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    json["documents"][0]["signed"]["roles"]["root"]["threshold"] = 1.into();
    let tampered = machine.text("tampered.json");
    fs::write(&tampered, json.to_string()).unwrap();
    fails(sign(&machine, "carol", &tampered), "is not over what the file says; it was changed on the way");
    fails(machine.at_desk(["ceremony", "status", &file, &tampered]), "copies of two proposals");
    // Another repository, and a copy that begins with another root than Carol noted.
    // (The keys of these machines are the same; a day makes it another root.)
    let other = Machine::new();
    other.wait_days(1);
    other.run(["init", other.text("desk").as_str(), "--key-cost", "low"]).expect(0);
    fails(
        machine.run(["ceremony", "show", &file, "--repository", &other.text("desk/repo")]),
        "the proposal is for the repository whose first root has SHA-256",
    );
    let copy = copy_repository(&machine, "carol");
    let root = other.text("desk/repo/metadata/1.root.json");
    fails(machine.run(["ceremony", "show", &file, "--repository", &copy, "--root", &root]), "begins with another root");
    // Too late.
    machine.wait_days(366);
    fails(machine.at_desk(["ceremony", "show", &file]), "expired on");
    machine.wait_days(-366);
    // The repository moved on.
    machine.at_desk(["role", "expire", "root"]).expect(0);
    fails(machine.at_desk(["ceremony", "show", &file]), "the proposal is stale");
    // And a signer's copy that did not.
    let later = machine.text("later.json");
    machine.at_desk(["ceremony", "start", &later, "--renew", "root"]).expect(0);
    fails(
        machine.run(["ceremony", "show", &later, "--repository", &copy, "--dir", &machine.text("nowhere")]),
        "this copy of the repository is old",
    );
    fails(machine.at_desk(["ceremony", "show", &machine.text("bob/bob.pub")]), "could not use");
    fails(machine.at_desk(["ceremony", "start", &later]), "nothing is to be changed");
}

#[test]
fn nobody_signs_without_saying_yes() {
    let machine = with_friends();
    let file = machine.text("root.json");
    start(&machine, &file);
    let before = fs::read(&file).unwrap();
    let args = ["ceremony", "sign", &file, "--dir", &machine.text("desk")].map(str::to_owned);
    let args = || args.iter().map(String::as_str);

    let nobody = machine.run_with(Some(PASSPHRASE), args()).expect(1);
    let no = machine.run_asking(Some(PASSPHRASE), &|_: &str| Ok("no".to_owned()), args()).expect(1);
    let asked = std::cell::RefCell::new(String::new());
    let yes = |prompt: &str| -> io::Result<String> {
        asked.borrow_mut().push_str(prompt);
        Ok("yes".to_owned())
    };

    assert!(nobody.err.contains("not signed") && no.err.contains("not signed"), "{}{}", nobody.err, no.err);
    assert_eq!(fs::read(&file).unwrap(), before);
    machine.run_asking(Some(PASSPHRASE), &yes, args()).expect(0);
    assert!(asked.borrow().contains("root: 2 of 3 keys sign"), "{}", asked.borrow());
}

#[test]
fn a_second_maintainer_signs_the_packages_too() {
    let machine = with_friends();
    let bob = machine.text("bob/bob.pub");
    machine.at_desk(["role", "add", "d-ginkgo", &bob, "--threshold", "2"]).expect(1);
    let file = machine.text("two.json");
    let add = format!("d-ginkgo={bob}");
    machine.at_desk(["ceremony", "start", &file, "--add", &add, "--threshold", "d-ginkgo=2"]).expect(0);
    machine.at_desk(["ceremony", "sign", &file, "--yes"]).expect(0);
    sign(&machine, "bob", &file).expect(0);
    machine.at_desk(["ceremony", "finish", &file]).expect(0);

    machine.at_desk(["import", &machine.build(1), "--device", "ginkgo"]).expect(0);
    let alone = machine.at_desk(["publish"]).expect(1);
    let release = machine.text("release.json");
    let inside = machine.at_desk(["publish", "--ceremony", &release]).expect(1);
    let package = machine.text("desk/packages/ginkgo/stable/ginkgo-1-full.rvp");
    let key = machine.text("bob/bob.key");
    machine.run(["ota", "sign", &package, "--key", &key, "--out", &package]).expect(0);
    machine.at_desk(["publish", "--ceremony", &release]).expect(0);
    machine.at_desk(["ceremony", "sign", &release, "--yes"]).expect(0);
    let bobs = sign(&machine, "bob", &release).expect(0);
    machine.at_desk(["ceremony", "finish", &release]).expect(0);

    assert!(alone.err.contains("needs 2 of its 2 keys, and 1 of them is here"), "{}", alone.err);
    assert!(alone.err.contains("relevo publish --ceremony FILE"), "{}", alone.err);
    assert!(inside.err.contains("is not signed by 2 of the keys that sign for d-ginkgo"), "{}", inside.err);
    assert!(
        bobs.out.contains("ginkgo-1-full.rvp is offered: native package from any build to build 1"),
        "{}",
        bobs.out
    );
    let device = machine.at_desk(["device", "show", "ginkgo", "--json"]).expect(0).json();
    assert_eq!(device["published"].as_array().unwrap().len(), 1);
    assert!(machine.tree("desk/packages").is_empty(), "{:?}", machine.tree("desk/packages").keys());
    machine.at_desk(["repo", "check"]).expect(0);
}

#[test]
fn packages_are_signed_again_after_a_device_got_another_key() {
    let machine = with_friends();
    machine.at_desk(["import", &machine.build(1), "--device", "ginkgo"]).expect(0);
    machine.at_desk(["publish"]).expect(0);
    machine.at_desk(["key", "new", "ginkgo-2"]).expect(0);

    machine.at_desk(["role", "add", "d-ginkgo", "ginkgo-2"]).expect(0);
    let removed = machine.at_desk(["role", "remove", "d-ginkgo", "d-ginkgo"]).expect(0);
    let resigned = machine.at_desk(["publish", "--resign"]).expect(0);
    let again = machine.at_desk(["publish", "--resign"]).expect(0);

    assert!(removed.err.contains("1 packages of ginkgo are signed inside by too few of its keys"), "{}", removed.err);
    assert!(resigned.out.contains("1 packages signed again"), "{}", resigned.out);
    assert!(again.out.contains("0 packages signed again"), "{}", again.out);
    let device = machine.at_desk(["device", "show", "ginkgo", "--json"]).expect(0).json();
    assert_eq!(device["published"][0]["path"], "xiaomi/ginkgo/stable/ginkgo-1-full.rvp");
    let files: Vec<String> = machine.tree("desk/repo/targets/xiaomi/ginkgo/stable").into_keys().collect();
    let key = machine.text("desk/keys/ginkgo-2.pub");
    let signed = files.iter().filter(|file| file.ends_with("full.rvp")).filter(|file| {
        let file = machine.text(&format!("desk/repo/targets/xiaomi/ginkgo/stable/{file}"));
        machine.run(["ota", "verify", &file, "--key", &key]).status == 0
    });
    assert_eq!(signed.count(), 1);
}

#[test]
fn a_build_box_publishes_nightlies_with_its_own_key() {
    let machine = with_friends();
    machine
        .at_desk(["device", "add", "willow", "--vendor", "xiaomi", "--kind", "native", "--channel", "nightly"])
        .expect(0);
    machine.at_desk(["key", "new", "box"]).expect(0);
    machine.at_desk(["role", "add", "d-willow-nightly", "box"]).expect(0);
    // Only what the box has: its own key and the online ones.
    for name in ["root", "targets", "v-xiaomi", "d-willow", "d-ginkgo"] {
        fs::remove_file(machine.path("desk/keys").join(format!("{name}.key"))).unwrap();
    }

    machine.at_desk(["import", &machine.build(1), "--device", "willow"]).expect(0);
    let published = machine.at_desk(["publish", "--json"]).expect(0).json();
    machine.at_desk(["import", &machine.build(2), "--device", "ginkgo"]).expect(0);
    let other = machine.at_desk(["publish", "ginkgo"]).expect(1);

    assert_eq!(published["roles"], json!(["d-willow-nightly", "snapshot", "timestamp"]));
    assert!(other.err.contains("the role d-ginkgo needs 1 of its 1 keys, and none is here"), "{}", other.err);
    let show = machine.at_desk(["role", "show", "d-willow-nightly"]).expect(0).out;
    assert!(show.contains("speaks for xiaomi/willow/nightly/*\n"), "{show}");
    machine.at_desk(["repo", "check"]).expect(0);
}

#[test]
fn roles_are_listed_shown_and_ended() {
    let machine = with_friends();

    let list = machine.at_desk(["role", "list", "--json"]).expect(0).json();
    let unknown = machine.at_desk(["role", "show", "d-nobody"]).expect(1);
    let too_high = machine.at_desk(["role", "threshold", "d-ginkgo", "2"]).expect(1);
    let last = machine.at_desk(["role", "remove", "d-ginkgo", "d-ginkgo"]).expect(1);
    let stranger = machine.at_desk(["role", "remove", "d-ginkgo", "bob"]).expect(1);
    let nothing = machine.at_desk(["role", "threshold", "d-ginkgo", "1"]).expect(0);
    let ended = machine.at_desk(["role", "remove", "d-ginkgo", "--retire"]).expect(0);

    let names: Vec<&str> =
        list["roles"].as_array().unwrap().iter().map(|role| role["role"].as_str().unwrap()).collect();
    assert_eq!(names, ["root", "targets", "snapshot", "timestamp", "v-xiaomi", "d-ginkgo"]);
    assert!(unknown.err.contains("relevo role list"), "{}", unknown.err);
    assert!(too_high.err.contains("would need 2 signatures and have 1 keys"), "{}", too_high.err);
    assert!(last.err.contains("would need 1 signatures and have 0 keys"), "{}", last.err);
    assert!(stranger.err.contains("has no key bob"), "{}", stranger.err);
    assert!(nothing.out.contains("is so already"), "{}", nothing.out);
    assert!(ended.out.contains("stays listed in the snapshot"), "{}", ended.out);
    let list = machine.at_desk(["role", "list"]).expect(0).out;
    assert!(!list.contains("d-ginkgo"), "{list}");
    // It can be made again, and its number goes on.
    let key = machine.text("desk/keys/d-ginkgo.pub");
    machine.at_desk(["role", "add", "d-ginkgo", &key]).expect(0);
    let show = machine.at_desk(["role", "show", "d-ginkgo"]).expect(0).out;
    assert!(show.contains("d-ginkgo, version 2"), "{show}");
}

#[test]
fn the_log_gets_another_key_when_several_keep_the_root() {
    let machine = with_friends();
    let (first, second) = (machine.text("root.json"), machine.text("log.json"));
    start(&machine, &first);
    machine.at_desk(["ceremony", "sign", &first, "--yes"]).expect(0);
    sign(&machine, "bob", &first).expect(0);
    machine.at_desk(["ceremony", "finish", &first]).expect(0);
    for name in ["log.key", "log.pub"] {
        fs::remove_file(machine.path("desk/keys").join(name)).unwrap();
    }

    let alone = machine.at_desk(["log", "init"]).expect(1);
    let started = machine.at_desk(["log", "init", "--ceremony", &second]).expect(0);
    machine.at_desk(["ceremony", "sign", &second, "--yes"]).expect(0);
    sign(&machine, "carol", &second).expect(0);
    machine.at_desk(["ceremony", "finish", &second]).expect(0);

    assert!(alone.err.contains("the role root needs 2 of its 3 keys"), "{}", alone.err);
    assert!(started.out.contains("key of the transparency log: "), "{}", started.out);
    let log = machine.at_desk(["log", "show", "--json"]).expect(0).json();
    assert!(log["entries"].as_array().unwrap().iter().any(|entry| entry["role"] == "root"), "{log}");
    machine.at_desk(["repo", "check"]).expect(0);
}
