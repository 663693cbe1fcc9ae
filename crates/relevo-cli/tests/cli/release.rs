//! From nothing to a published delta.

use std::{cell::RefCell, fs, os::unix::fs::PermissionsExt};

use serde_json::json;

use crate::support::{Machine, PASSPHRASE, binary, command, mask_counts, program, sparse};

#[test]
fn two_builds_become_a_published_delta() {
    let machine = Machine::new();
    let desk = machine.text("desk");
    let mut log = String::new();
    let mut say = |args: &[&str]| {
        let run = machine.at_desk(args.iter().copied()).expect(0);
        log += &format!("$ relevo {}\n{}{}\n", args[0], run.err, machine.masked(&run.out));
    };

    let init = machine.run(["init", &desk, "--key-cost", "low"]).expect(0);
    say(&["device", "add", "ginkgo", "--vendor", "xiaomi", "--kind", "native", "--name", "Redmi Note 8"]);
    say(&["import", &machine.build(1), "--device", "ginkgo"]);
    say(&["import", &machine.build(2), "--device", "ginkgo"]);
    say(&["delta", "ginkgo"]);
    say(&["device", "list"]);
    say(&["publish"]);
    say(&["device", "show", "ginkgo"]);
    say(&["device", "list"]);
    say(&["delta", "ginkgo"]);
    say(&["publish"]);
    say(&["repo", "check"]);
    say(&["refresh"]);
    say(&["repo", "gc"]);

    insta::assert_snapshot!("init", machine.masked(&init.out));
    insta::assert_snapshot!("release", machine.masked(&log));
    let files: Vec<String> = machine.tree("desk/repo/targets/xiaomi/ginkgo/stable").into_keys().collect();
    let names: Vec<&str> = files.iter().map(|file| file.split_once('.').unwrap().1).collect();
    for name in ["ginkgo-1-full.rvp", "ginkgo-2-full.rvp", "ginkgo-1-to-2.rvp", "ginkgo-1-to-2.rvp.chunks"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert!(machine.tree("desk/packages").is_empty(), "{:?}", machine.tree("desk/packages").keys());
}

#[test]
fn what_is_published_is_signed_and_makes_the_build() {
    let machine = Machine::with_device();
    for number in [1, 2] {
        machine.at_desk(["import", &machine.build(number), "--device", "ginkgo", "--no-full"]).expect(0);
    }
    machine.at_desk(["delta", "ginkgo"]).expect(0);

    let published = machine.at_desk(["publish", "--json"]).expect(0).json();

    let package = &published["packages"][0];
    let name = package["path"].as_str().unwrap().rsplit_once('/').unwrap().1;
    let file = format!("desk/repo/targets/xiaomi/ginkgo/stable/{}.{name}", package["sha256"].as_str().unwrap());
    let (file, key) = (machine.text(&file), machine.text("desk/keys/d-ginkgo.pub"));
    machine.run(["ota", "verify", &file, "--key", &key]).expect(0);
    machine.run(["ota", "apply", &file, "--source", &machine.text("build-1"), "--out", &machine.text("out")]).expect(0);
    for name in ["boot.img", "system.img"] {
        let image = |dir: &str| fs::read(machine.path(dir).join(name)).unwrap();
        assert!(image("out") == image("build-2"), "{name}");
    }
    let shown = machine.at_desk(["device", "show", "ginkgo", "--json"]).expect(0).json();
    assert_eq!(
        shown["published"][0]["custom"],
        json!({
            "kind": "native", "from": "1", "to": "2", "version": "1.2", "timestamp": 1_747_612_800, "sdk": 35,
            "spl": "2025-05-05", "size": {"install": 442_368}, "rollout": 100, "withdrawn": false,
            "chunks": "ginkgo-1-to-2.rvp.chunks",
        })
    );
}

#[test]
fn everything_can_be_done_twice() {
    let machine = Machine::with_device();
    let build = machine.build(1);
    machine.at_desk(["device", "add", "ginkgo", "--vendor", "xiaomi", "--kind", "native"]).expect(1);
    let add = ["device", "add", "ginkgo", "--vendor", "xiaomi", "--kind", "native", "--channel", "stable"];
    let again = machine.at_desk(add.into_iter().chain(["--channel", "beta", "--json"])).expect(0).json();
    machine.at_desk(["import", &build, "--device", "ginkgo"]).expect(0);

    let before = machine.tree("desk");
    let import = machine.at_desk(["import", &build, "--device", "ginkgo", "--json"]).expect(0).json();
    let delta = machine.at_desk(["delta", "ginkgo", "--json"]).expect(0).json();
    assert_eq!(machine.tree("desk"), before);
    machine.at_desk(["publish"]).expect(0);
    let before = machine.tree("desk");
    let publish = machine.at_desk(["publish", "--json"]).expect(0).json();

    assert_eq!(again["state"], "already there");
    assert_eq!(import["state"], "already imported");
    assert_eq!(import["full"]["state"], "already made");
    assert_eq!(delta["packages"], json!([]));
    assert_eq!(publish["packages"], json!([]));
    assert_eq!(machine.tree("desk"), before);
    let full = machine.at_desk(["import", &build, "--device", "ginkgo", "--json"]).expect(0).json();
    assert_eq!(full["full"]["state"], "already published");
}

#[test]
fn a_publication_that_was_cut_after_its_commit_is_tidied_up_by_the_next() {
    let machine = Machine::with_device();
    machine.at_desk(["import", &machine.build(1), "--device", "ginkgo"]).expect(0);
    let dir = "desk/packages/ginkgo/stable";
    let made = machine.tree(dir);
    machine.at_desk(["publish"]).expect(0);
    for (name, bytes) in &made {
        fs::write(machine.path(dir).join(name), bytes).unwrap();
    }

    let publish = machine.at_desk(["publish", "--json"]).expect(0).json();
    assert_eq!(publish["packages"][0]["changed"], false);
    assert_eq!(publish["roles"], json!([]));
    fs::write(machine.path(dir).join("ginkgo-1-full.rvp.json"), &made["ginkgo-1-full.rvp.json"]).unwrap();
    machine.at_desk(["publish"]).expect(0);

    assert!(machine.tree(dir).is_empty());
}

#[test]
fn the_delta_policy_says_how_far_back_and_options_say_otherwise() {
    let machine = Machine::with_device();
    for number in 1..=5 {
        machine.at_desk(["import", &machine.build(number), "--device", "ginkgo", "--no-full"]).expect(0);
    }
    let from = |json: &serde_json::Value| {
        let packages = json["packages"].as_array().unwrap().iter();
        packages.map(|package| package["from"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };

    let policy = machine.at_desk(["delta", "ginkgo", "--json"]).expect(0).json();
    let asked = machine.at_desk(["delta", "ginkgo", "--to", "4", "--from", "1", "3", "--json"]).expect(0).json();
    let back = machine.at_desk(["delta", "ginkgo", "--to", "2", "--from", "3"]).expect(1);
    let none = machine.at_desk(["delta", "ginkgo", "--to", "9"]).expect(1);

    assert_eq!((from(&policy), &policy["to"]), (vec!["4".into(), "3".into(), "2".into()], &json!(["5"])));
    assert_eq!(from(&asked), ["1", "3"]);
    assert!(back.err.contains("build 3 is not older than 2"), "{}", back.err);
    assert!(none.err.contains("device ginkgo has no build 9; it has 1, 2, 3, 4, 5"), "{}", none.err);
}

#[test]
fn channels_are_kept_apart() {
    let machine = Machine::with_device();
    for (number, channel) in [(1, "stable"), (2, "beta"), (3, "stable")] {
        let args = ["import", &machine.build(number), "--device", "ginkgo", "--no-full", "--channel", channel];
        machine.at_desk(args).expect(0);
    }

    let all = machine.at_desk(["delta", "ginkgo", "--json"]).expect(0).json();
    let across = machine.at_desk(["delta", "ginkgo", "--from", "1", "--to", "2"]).expect(1);
    let moved = machine.at_desk(["import", &machine.build(1), "--device", "ginkgo", "--channel", "beta"]).expect(1);
    let unknown = machine.at_desk(["import", &machine.build(4), "--device", "ginkgo", "--channel", "x"]).expect(1);

    assert_eq!(all["packages"].as_array().unwrap().len(), 1);
    assert_eq!(all["packages"][0]["file"], "ginkgo-1-to-3.rvp");
    assert!(across.err.contains("build 1 is of channel stable, build 2 of beta"), "{}", across.err);
    assert!(moved.err.contains("with another channel: stable there, beta here"), "{}", moved.err);
    assert!(unknown.err.contains("hint: add it to `channels` in manifests/ginkgo.toml"), "{}", unknown.err);
}

#[test]
fn sparse_and_raw_images_are_the_same_build() {
    let machine = Machine::with_device();
    let mut image = program(1, 8);
    image.extend_from_slice(&[0; 40_960]);
    let raw = machine.images("raw", &[("boot", image.clone())]);
    let thin = machine.images("sparse", &[("boot", sparse(&image))]);
    let facts = ["--device", "ginkgo", "--build", "7", "--timestamp", "1746403200", "--no-full"];

    machine.at_desk(["import", &thin].into_iter().chain(facts)).expect(0);
    let again = machine.at_desk(["import", &raw, "--json"].into_iter().chain(facts)).expect(0).json();

    assert_eq!(again["state"], "already imported");
    assert_eq!(fs::read(machine.path("desk/builds/ginkgo/7/boot.img")).unwrap(), image);
}

#[test]
fn a_build_prop_says_which_build_it_is() {
    let machine = Machine::with_device();
    let dir = machine.images("x", &[("boot", program(1, 4))]);
    let properties = "ro.build.version.incremental=eng.42\nro.build.date.utc=1746403200\nro.build.version.sdk=34\n\
                      ro.product.device=willow\nro.modversion=21.0\n";
    fs::write(machine.path("x/build.prop"), properties).unwrap();

    let run = machine.at_desk(["import", &dir, "--device", "ginkgo", "--no-full", "--json"]).expect(0).json();

    assert_eq!(
        (&run["build"], &run["version"], &run["timestamp"]),
        (&json!("eng.42"), &json!("21.0"), &json!(1_746_403_200))
    );
    assert_eq!(run["warnings"], json!(["the build says it is for willow, not for ginkgo"]));
}

#[test]
fn init_goes_on_where_it_was_cut_off_and_touches_nothing_else() {
    let machine = Machine::new();
    let desk = machine.text("desk");
    machine.run(["init", &desk, "--key-cost", "low"]).expect(0);
    let whole = machine.tree("desk");

    let again = machine.run(["init", &desk]).expect(1);
    // As if the power had gone after the second key.
    for name in ["relevo.toml", "repo/metadata/timestamp.json", "keys/snapshot.key", "keys/timestamp.key"] {
        fs::remove_file(machine.path("desk").join(name)).unwrap();
    }
    fs::write(machine.path("desk/.relevo-init"), "").unwrap();
    let wrong = machine.run_with(Some("another passphrase"), ["init", &desk, "--key-cost", "low"]).expect(1);
    machine.run(["init", &desk, "--key-cost", "low"]).expect(0);

    assert!(again.err.contains("is not empty"), "{}", again.err);
    assert!(wrong.err.contains("could not open the key"), "{}", wrong.err);
    for (name, bytes) in
        machine.tree("desk").iter().filter(|(name, _)| name.contains("root.key") || name.contains(".toml"))
    {
        assert_eq!(Some(bytes), whole.get(name), "{name}");
    }
    machine.at_desk(["repo", "check"]).expect(0);
    machine.at_desk(["refresh"]).expect(0);
}

#[test]
fn private_keys_are_encrypted_and_readable_by_nobody_else() {
    let machine = Machine::with_device();

    for (name, bytes) in machine.tree("desk").iter().filter(|(name, _)| name.ends_with(".key")) {
        let mode = fs::metadata(machine.path("desk").join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
        assert!(bytes.starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{name}");
    }
    let dir = fs::metadata(machine.path("desk/keys")).unwrap().permissions().mode();
    assert_eq!(dir & 0o777, 0o700);
    let keys: Vec<_> = machine.tree("desk/keys").into_keys().filter(|name| name.ends_with(".key")).collect();
    assert_eq!(
        keys,
        ["d-ginkgo.key", "log.key", "root.key", "snapshot.key", "targets.key", "timestamp.key", "v-xiaomi.key"]
    );
}

#[test]
fn a_person_is_asked_twice_for_a_new_passphrase_and_once_for_a_known_one() {
    let machine = Machine::new();
    let desk = machine.text("desk");
    let asked = RefCell::new(Vec::new());
    let answer = |prompt: &str| {
        asked.borrow_mut().push(prompt.to_owned());
        Ok(PASSPHRASE.to_owned())
    };
    let first = Unsure::default();
    let unsure = |_: &str| Ok(first.next());

    let differ = machine.run_asking(None, &unsure, ["init", &desk]).expect(1);
    machine.run_asking(None, &answer, ["init", &desk, "--key-cost", "low"]).expect(0);
    machine.run_asking(None, &answer, ["refresh", "--dir", &desk]).expect(0);

    assert!(differ.err.contains("the two passphrases differ"), "{}", differ.err);
    assert_eq!(asked.borrow().len(), 3);
}

/// A person who mistypes.
#[derive(Default)]
struct Unsure(RefCell<u32>);

impl Unsure {
    fn next(&self) -> String {
        *self.0.borrow_mut() += 1;
        format!("a passphrase, take {}", self.0.borrow())
    }
}

#[test]
fn a_passphrase_comes_from_a_file_too() {
    let machine = Machine::new();
    let (desk, file) = (machine.text("desk"), machine.text("passphrase"));
    fs::write(&file, format!("{PASSPHRASE}\nsecond line\n")).unwrap();

    let short = machine.run_with(Some("short"), ["init", &desk]).expect(1);
    machine.run_with(None, ["init", &desk, "--key-cost", "low", "--passphrase-file", &file]).expect(0);
    machine.at_desk(["refresh"]).expect(0);
    let none = machine.run_with(None, ["refresh", "--dir", &desk]).expect(1);

    assert!(short.err.contains("the passphrase is 5 characters long; at least 12 are needed"), "{}", short.err);
    assert!(none.err.contains("hint: give --passphrase-file FILE"), "{}", none.err);
}

#[test]
fn refresh_says_what_expires_and_renews_what_it_is_told() {
    let machine = Machine::with_device();
    let quiet = machine.at_desk(["refresh"]).expect(0);
    let mut said = String::new();
    for days in [120, 46, 11, 3] {
        machine.wait_days(days);
        let run = machine.at_desk(["refresh"]).expect(0);
        said += &run.err;
    }
    let renewed = machine.at_desk(["refresh", "--role", "d-ginkgo", "--json"]).expect(0).json();
    machine.wait_days(181);
    let expired = machine.at_desk(["refresh", "--json"]).expect(0).json();
    let root = machine.at_desk(["refresh", "--role", "root"]).expect(0);

    assert_eq!(quiet.err, "");
    insta::assert_snapshot!(said);
    assert_eq!(renewed["warnings"], json!([]));
    assert_eq!(renewed["signed"], json!(["d-ginkgo", "snapshot", "timestamp"]));
    let roles = expired["roles"].as_array().unwrap();
    let level = |role: &str| roles.iter().find(|entry| entry["role"] == role).unwrap()["level"].clone();
    assert_eq!((level("d-ginkgo"), level("root")), (json!("expired"), json!("soon")));
    assert_eq!(level("timestamp"), json!("fine"), "it was just signed");
    assert!(root.out.contains("signed root, timestamp"), "{}", root.out);
}

#[test]
fn the_binary_walks_the_same_way() {
    let machine = Machine::new();
    machine.build(1);
    machine.build(2);
    let at =
        |args: &[&str]| binary(&machine.path(""), args.iter().copied().chain(["--dir", "desk", "--quiet"])).expect(0);

    let init = at(&["init", "desk", "--key-cost", "low"]);
    at(&["device", "add", "ginkgo", "--vendor", "xiaomi", "--kind", "native"]);
    at(&["import", "build-1", "--device", "ginkgo", "--no-full"]);
    at(&["import", "build-2", "--device", "ginkgo", "--no-full"]);
    at(&["delta", "ginkgo", "--threads", "1"]);
    let publish = at(&["publish"]);
    at(&["refresh"]);
    at(&["repo", "check"]);

    assert!(!init.out.contains("next:"), "{}", init.out);
    assert!(publish.out.starts_with("published xiaomi/ginkgo/stable/ginkgo-1-to-2.rvp, "), "{}", publish.out);
    assert_eq!(publish.err, "");
}

#[test]
fn every_answer_is_one_json_document() {
    let machine = Machine::new();
    let desk = machine.text("desk");
    let (one, two, package) = (machine.build(1), machine.build(2), machine.text("x.rvp"));
    let (key, signed, out) = (machine.text("desk/keys/d-ginkgo.key"), machine.text("signed.rvp"), machine.text("out"));
    let mut answers = serde_json::Map::new();
    let mut say = |args: &[&str]| {
        let run = machine.run(args.iter().copied().chain(["--json", "--dir", desk.as_str()])).expect(0);
        assert_eq!(run.err, "");
        let mut json = serde_json::from_str(&machine.masked(&run.out)).unwrap();
        mask_counts(&mut json);
        let words: Vec<_> = args.iter().copied().take_while(|word| !word.contains('/')).collect();
        answers.insert(format!("{:02} {}", answers.len(), words.join(" ")), json);
    };

    say(&["init", &desk, "--key-cost", "low"]);
    say(&["device", "add", "ginkgo", "--vendor", "xiaomi", "--kind", "native"]);
    say(&["device", "check"]);
    say(&["import", &one, "--device", "ginkgo"]);
    say(&["import", &two, "--device", "ginkgo", "--no-full"]);
    say(&["delta", "ginkgo"]);
    say(&["publish"]);
    say(&["device", "list"]);
    say(&["device", "show", "ginkgo"]);
    say(&["refresh"]);
    say(&["repo", "check"]);
    say(&["repo", "gc"]);
    say(&["ota", "diff", &one, &two, "--out", &package]);
    say(&["ota", "sign", &package, "--key", &key, "--out", &signed]);
    say(&["ota", "verify", &signed]);
    say(&["ota", "apply", &package, "--source", &one, "--out", &out]);

    insta::assert_json_snapshot!(answers);
}

#[test]
fn the_directory_can_come_from_the_environment() {
    let machine = Machine::with_device();

    let run = command(&machine.path(""), ["device", "list", "--json"]).env("RELEVO_DIR", "desk").output().unwrap();

    let json: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(json["devices"][0]["device"], "ginkgo");
}

#[test]
fn a_build_keeps_what_was_said_of_it_first() {
    let machine = Machine::with_device();
    let build = machine.build(1);
    machine.at_desk(["import", &build, "--device", "ginkgo", "--no-full"]).expect(0);

    let args = ["import", &build, "--device", "ginkgo", "--no-full", "--version", "other", "--json"];
    let again = machine.at_desk(args).expect(0).json();

    assert_eq!(again["version"], "1.1");
    let warning = "build 1 keeps what was said of it first: version 1.1, SDK 35, patch level 2025-05-05";
    assert_eq!(again["warnings"], json!([warning]));
}
