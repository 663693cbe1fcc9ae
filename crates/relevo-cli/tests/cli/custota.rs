//! What Custota is told of a package: a signed message beside it, and which vbmeta images its phones have booted.

use std::{fs, process::Command};

use serde_json::{Value, json};
use sha2::Digest as _;

use crate::{
    ab_release::ota_key,
    support::{Machine, edited, program},
};

/// A vbmeta image that nobody signed, and that says nothing but its number.
fn vbmeta(number: u8) -> Vec<u8> {
    let mut image = vec![0; 4096];
    image[..4].copy_from_slice(b"AVB0");
    image[7] = 1;
    image[128] = b'0' + number;
    image
}

/// What phones that boot that image say, as hexadecimal.
fn digest(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn build(machine: &Machine, number: u8) -> String {
    let images =
        [("boot", program(1, 16)), ("system", edited(&program(2, 100), number.into())), ("vbmeta", vbmeta(number))];
    let text = machine.images(&format!("build-{number}"), &images);
    let facts = json!({
        "build": number.to_string(), "timestamp": 1_746_403_200 + u64::from(number) * 604_800, "sdk": 34,
        "version": format!("22.{number}"), "spl": "2025-05-05", "device": "alioth",
    });
    fs::write(machine.path(&format!("build-{number}")).join("build.json"), facts.to_string()).unwrap();
    text
}

/// A desk with the A/B device `alioth` and a key for its OTAs.
fn empty_desk() -> Machine {
    let machine = Machine::new();
    machine.run(["init", machine.text("desk").as_str(), "--key-cost", "low"]).expect(0);
    let (key, certificate) = ota_key(7);
    fs::write(machine.path("7.pem"), key).unwrap();
    fs::write(machine.path("7.x509.pem"), certificate).unwrap();
    let (key, certificate) = (machine.text("7.pem"), machine.text("7.x509.pem"));
    let add = ["device", "add", "alioth", "--vendor", "xiaomi", "--kind", "ab"];
    machine.at_desk(add.into_iter().chain(["--ota-key", &key, "--ota-cert", &certificate])).expect(0);
    machine
}

/// The same with two builds, and a delta between them.
fn desk() -> Machine {
    let machine = empty_desk();
    for number in [1, 2] {
        machine.at_desk(["import", &build(&machine, number), "--device", "alioth"]).expect(0);
    }
    machine.at_desk(["delta", "alioth"]).expect(0);
    machine
}

fn publish(machine: &Machine) -> Value {
    machine.at_desk(["publish"]).expect(0);
    machine.at_desk(["repo", "check"]).expect(0);
    machine.at_desk(["device", "show", "alioth", "--json"]).expect(0).json()
}

/// Files of the repository whose names end so, by their names without digests.
fn targets(machine: &Machine, end: &str) -> Vec<(String, Vec<u8>)> {
    let files = machine.tree("desk/repo/targets");
    let name = |path: &String| path.rsplit('/').next().unwrap().split_once('.').unwrap().1.to_owned();
    files.iter().filter(|(path, _)| path.ends_with(end)).map(|(path, bytes)| (name(path), bytes.clone())).collect()
}

/// The content of a message, whose signature OpenSSL checks where it is installed.
fn open(machine: &Machine, message: &[u8], certificate: &str) -> Option<Value> {
    fs::write(machine.path("message"), message).unwrap();
    let words = [
        "cms",
        "-verify",
        "-inform",
        "DER",
        "-binary",
        "-noverify",
        "-nointern",
        "-in",
        "message",
        "-certfile",
        certificate,
    ];
    let said = Command::new("openssl").args(words).current_dir(machine.path("")).output().ok()?;
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    Some(serde_json::from_slice(&said.stdout).unwrap())
}

#[test]
fn every_zip_has_a_message_that_openssl_and_the_zip_confirm() {
    let machine = desk();

    let shown = publish(&machine);

    let messages = targets(&machine, ".csig");
    let names: Vec<&str> = messages.iter().map(|(name, _)| name.as_str()).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["alioth-1-full.zip.csig", "alioth-1-to-2.zip.csig", "alioth-2-full.zip.csig"]);
    for (name, message) in &messages {
        let zip = &targets(&machine, name.trim_end_matches(".csig"))[0].1;
        let Some(content) = open(&machine, message, "7.x509.pem") else { return };
        assert_eq!(content["version"], 2);
        let mut line = String::new();
        for file in content["files"].as_array().unwrap() {
            let (name, place) = (file["name"].as_str().unwrap(), |key: &str| file[key].as_u64().unwrap() as usize);
            let (offset, size) = (place("offset"), place("size"));
            assert_eq!(file["digest"], digest(&zip[offset..offset + size]), "{name}");
            line += &format!("{name}:{offset}:{size},");
        }
        // In the order of the zip's own list, which the app compares it with.
        let packages = shown["published"].as_array().unwrap();
        let package =
            packages.iter().find(|package| package["path"].as_str().unwrap().ends_with(name.trim_end_matches(".csig")));
        let ab = &package.unwrap()["custom"]["ab"];
        assert_eq!(ab["property_files"].as_str().unwrap().trim_end(), line.trim_end_matches(','));
        let to = if name.contains("1-full") { 1 } else { 2 };
        assert_eq!(ab["vbmeta_digest"], digest(&vbmeta(to)[..256]));
        if name.contains("full") {
            assert_eq!(content["vbmeta_digest"], ab["vbmeta_digest"]);
            assert_eq!(ab.get("from_vbmeta_digest"), None);
        } else {
            assert_eq!(content.get("vbmeta_digest"), None);
            assert_eq!(ab["from_vbmeta_digest"], digest(&vbmeta(1)[..256]));
        }
    }
    assert!(fs::read_dir(machine.path("desk/packages/alioth/stable")).unwrap().next().is_none(), "nothing is left");
}

#[test]
fn a_message_that_was_changed_is_not_published() {
    let machine = desk();
    let path = machine.path("desk/packages/alioth/stable/alioth-1-to-2.zip.csig");
    let mut bytes = fs::read(&path).unwrap();
    for at in [30, bytes.len() / 2, bytes.len() - 1] {
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();

        let run = machine.at_desk(["publish"]).expect(1);

        assert!(run.err.contains("alioth-1-to-2.zip.csig"), "{}", run.err);
        bytes[at] ^= 1;
    }
    fs::remove_file(&path).unwrap();
    publish(&machine);
    assert_eq!(targets(&machine, ".csig").len(), 2);
}

#[test]
fn a_zip_of_somebody_elses_build_machine_gets_a_message_too() {
    let maker = desk();
    let machine = empty_desk();
    let full = maker.path("desk/packages/alioth/stable/alioth-2-full.zip");
    fs::copy(full, machine.path("ota.zip")).unwrap();

    machine.at_desk(["import", &machine.text("ota.zip"), "--device", "alioth"]).expect(0);
    publish(&machine);

    assert_eq!(targets(&machine, ".csig").len(), 1);
}
