//! `relevo ota`: package files alone.

use std::fs;

use ed25519_dalek::{
    SigningKey,
    pkcs8::{EncodePrivateKey, EncodePublicKey, spki::der::pem::LineEnding},
};

use crate::support::{Machine, edited, mask_counts, program, sparse};

/// Two builds: `boot` goes away, `odm` comes, `vendor` is empty, `system` changes size.
fn two_builds(machine: &Machine) -> [String; 2] {
    let (system, boot) = (program(1, 64), program(2, 8));
    let mut longer = edited(&system, 5);
    longer.extend_from_slice(&program(3, 4));
    let old = machine.images("old", &[("system", system), ("boot", boot), ("vendor", Vec::new())]);
    let new = machine.images("new", &[("system", longer), ("odm", program(4, 3)), ("vendor", Vec::new())]);
    [old, new]
}

fn delta(machine: &Machine) -> String {
    let [old, new] = two_builds(machine);
    let package = machine.text("x.rvp");
    let facts = ["--device", "ginkgo", "--from", "100", "--to", "101", "--timestamp", "1746403200"];
    let args = ["ota", "diff", &old, &new, "--out", &package, "--threads", "2"];
    machine.run(args.into_iter().chain(facts)).expect(0);
    package
}

fn key(machine: &Machine, name: &str, seed: u8) -> [String; 2] {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let (private, public) = (machine.path(&format!("{name}.key")), machine.path(&format!("{name}.pub")));
    fs::write(&private, key.to_pkcs8_pem(LineEnding::LF).unwrap().as_str()).unwrap();
    fs::write(&public, key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap()).unwrap();
    [private, public].map(|path| path.to_str().unwrap().to_owned())
}

#[test]
fn diff_then_apply_gives_the_same_images() {
    let machine = Machine::new();
    let package = delta(&machine);
    let (old, out) = (machine.text("old"), machine.text("out"));

    let run = machine.run(["ota", "apply", &package, "--source", &old, "--out", &out]).expect(0);

    assert_eq!(machine.tree("out"), machine.tree("new"));
    insta::assert_snapshot!(machine.masked(&run.out));
}

#[test]
fn a_full_package_needs_no_source() {
    let machine = Machine::new();
    let [_, new] = two_builds(&machine);
    fs::create_dir(machine.path("empty")).unwrap();
    let (package, out) = (machine.text("full.rvp"), machine.text("out"));

    // An empty directory is a mistake more often than a wish, so a full package is made by `relevo import` alone.
    machine.run(["ota", "diff", &machine.text("empty"), &new, "--out", &package]).expect(1);
    let desk = Machine::with_device();
    desk.at_desk(["import", &desk.build(1), "--device", "ginkgo"]).expect(0);
    let made = desk.text("desk/packages/ginkgo/stable/ginkgo-1-full.rvp");
    desk.run(["ota", "apply", &made, "--out", &out]).expect(0);

    let images = |dir: &str, machine: &Machine| {
        machine.tree(dir).into_iter().filter(|(name, _)| name.ends_with(".img")).collect::<Vec<_>>()
    };
    assert_eq!(images("out", &machine), images("build-1", &desk));
}

#[test]
fn sparse_images_are_read_as_what_they_stand_for() {
    let machine = Machine::new();
    let (old, new) = (program(1, 16), edited(&program(1, 16), 2));
    let (a, b) = (machine.images("a", &[("x", sparse(&old))]), machine.images("b", &[("x", sparse(&new))]));
    let (package, out) = (machine.text("x.rvp"), machine.text("out"));
    let raw = machine.images("raw", &[("x", old)]);

    machine.run(["ota", "diff", &a, &b, "--out", &package]).expect(0);
    machine.run(["ota", "apply", &package, "--source", &raw, "--out", &out]).expect(0);

    assert_eq!(fs::read(machine.path("out/x.img")).unwrap(), new);
}

#[test]
fn inspect_shows_what_a_package_holds() {
    let machine = Machine::new();
    let package = delta(&machine);

    let table = machine.run(["ota", "inspect", &package]).expect(0).out;
    let json = machine.run(["ota", "inspect", &package, "--json"]).expect(0);

    insta::assert_snapshot!("inspect_table", machine.masked(&table));
    let json = json.json();
    let mut masked = json.clone();
    mask_counts(&mut masked);
    insta::assert_json_snapshot!("inspect_json", masked);
    let kinds = json["operations"].as_object().unwrap();
    let bytes: u64 = kinds.values().map(|count| count["bytes"].as_u64().unwrap()).sum();
    let sizes: u64 = json["partitions"].as_array().unwrap().iter().map(|p| p["bytes"].as_u64().unwrap()).sum();
    assert_eq!(bytes, sizes);
}

#[test]
fn a_wrong_source_is_refused_before_anything_is_written() {
    let machine = Machine::new();
    let package = delta(&machine);
    let mut system = program(1, 64);
    system[200_000] ^= 1;
    let other = machine.images("other", &[("system", system), ("boot", program(2, 8)), ("vendor", Vec::new())]);
    let (out, old) = (machine.text("out"), machine.text("old"));

    let run = machine.run(["ota", "apply", &package, "--source", &other, "--out", &out]).expect(1);
    machine.run(["ota", "apply", &package, "--out", &out]).expect(1);
    let same = machine.run(["ota", "apply", &package, "--source", &old, "--out", &old]).expect(1);

    assert!(!machine.path("out").exists());
    insta::assert_snapshot!(machine.masked(&run.err));
    assert!(same.err.contains("--out and --source are the same directory"), "{}", same.err);
}

#[test]
fn a_missing_image_of_the_source_is_named() {
    let machine = Machine::new();
    let package = delta(&machine);
    fs::remove_file(machine.path("old/system.img")).unwrap();

    let run = machine.run(["ota", "apply", &package, "--source", &machine.text("old"), "--out", &machine.text("out")]);

    let err = run.expect(1).err;
    assert!(err.contains("could not read partition system of the source"), "{err}");
}

#[test]
fn a_damaged_package_is_refused_and_leaves_no_image() {
    let machine = Machine::new();
    let package = delta(&machine);
    let whole = fs::read(&package).unwrap();
    let (old, out) = (machine.text("old"), machine.text("out"));
    let step = (whole.len() / 60).max(1);

    for position in (0..whole.len()).step_by(step) {
        let mut bytes = whole.clone();
        bytes[position] ^= 0x10;
        fs::write(&package, &bytes).unwrap();

        machine.run(["ota", "verify", &package]).expect(1);
        machine.run(["ota", "apply", &package, "--source", &old, "--out", &out]).expect(1);

        assert_eq!(machine.tree("out").len(), 0, "byte {position}");
    }
    fs::write(&package, &whole[..whole.len() - 1]).unwrap();
    let err = machine.run(["ota", "verify", &package]).expect(1).err;
    assert!(err.contains("its manifest says"), "{err}");
}

#[test]
fn signatures_count_by_threshold() {
    let machine = Machine::new();
    let package = delta(&machine);
    let ([a, a_pub], [b, b_pub], [_, c_pub]) = (key(&machine, "a", 1), key(&machine, "b", 2), key(&machine, "c", 3));
    let signed = machine.text("signed.rvp");

    let unsigned = machine.run(["ota", "verify", &package, "--key", &a_pub]).expect(1);
    machine.run(["ota", "sign", &package, "--key", &a, "--out", &signed]).expect(0);
    machine.run(["ota", "verify", &signed, "--key", &a_pub]).expect(0);
    let one = machine.run(["ota", "verify", &signed, "--key", &a_pub, "--key", &b_pub, "--threshold", "2"]).expect(1);
    machine.run(["ota", "sign", &signed, "--key", &b, "--out", &signed]).expect(0);
    let both = ["ota", "verify", &signed, "--key", &a_pub, "--key", &b_pub, "--threshold", "2", "--json"];
    let both = machine.run(both).expect(0).json();
    machine.run(["ota", "verify", &signed, "--key", &c_pub]).expect(1);
    machine.run(["ota", "verify", &signed, "--threshold", "2"]).expect(2);

    assert!(unsigned.err.contains("0 valid signatures"), "{}", unsigned.err);
    assert!(one.err.contains("1 valid signatures by keys of this device, 2 needed"), "{}", one.err);
    assert_eq!(both["valid"].as_array().unwrap().len(), 2);
    machine.run(["ota", "inspect", &signed]).expect(0);
}

#[test]
fn a_signed_package_can_be_made_in_one_go_with_a_key_of_init() {
    let machine = Machine::with_device();
    let [old, new] = two_builds(&machine);
    let (package, key) = (machine.text("x.rvp"), machine.text("desk/keys/d-ginkgo"));
    let (private, public) = (format!("{key}.key"), format!("{key}.pub"));

    machine.run(["ota", "diff", &old, &new, "--out", &package, "--key", &private]).expect(0);
    machine.run(["ota", "verify", &package, "--key", &public]).expect(0);
    let wrong = ["ota", "sign", &package, "--key", &private, "--out", &package];
    let wrong = machine.run_with(Some("not the passphrase"), wrong).expect(1);

    assert!(wrong.err.contains("d-ginkgo.key"), "{}", wrong.err);
    assert_eq!(machine.tree("").keys().filter(|name| name.contains("unfinished")).count(), 0);
}

#[test]
fn a_kind_of_later_versions_is_named() {
    let machine = Machine::new();
    let [old, new] = two_builds(&machine);

    let run = machine.run(["ota", "diff", &old, &new, "--out", "x.zip", "--kind", "block"]).expect(1);

    assert!(run.err.starts_with("error: kind block: not in this version"), "{}", run.err);
}

#[test]
fn the_binary_does_the_same() {
    let machine = Machine::new();
    two_builds(&machine);

    machine.binary(["ota", "diff", "old", "new", "--out", "x.rvp", "--memory", "256MiB"]).expect(0);
    let run = machine.binary(["ota", "apply", "x.rvp", "--source", "old", "--out", "out", "--json"]).expect(0);
    let verify = machine.binary(["ota", "verify", "x.rvp"]).expect(0);

    assert_eq!(machine.tree("out"), machine.tree("new"));
    assert_eq!(run.err, "");
    assert_eq!(run.json()["removed"], serde_json::json!(["boot"]));
    assert!(verify.out.contains("it is not signed"), "{}", verify.out);
}

#[test]
fn stopping_leaves_no_file() {
    let machine = Machine::new();
    let [old, new] = two_builds(&machine);
    machine.stop(true);

    let run = machine.run(["ota", "diff", &old, &new, "--out", &machine.text("x.rvp"), "--json"]).expect(1);

    assert_eq!(run.json()["error"]["causes"], serde_json::json!(["stopped"]));
    assert!(machine.tree("").keys().all(|name| name.ends_with(".img")), "{:?}", machine.tree("").keys());
}
