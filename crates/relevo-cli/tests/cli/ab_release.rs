//! From full OTA zips to incremental ones that are published.

use std::{fs, path::PathBuf};

use base64::Engine as _;
use serde_json::{Value, json};

use crate::support::{Machine, edited, program};

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match content.len() {
        len @ 0..128 => out.push(len as u8),
        len @ 128..256 => out.extend([0x81, len as u8]),
        len => out.extend([0x82, (len >> 8) as u8, len as u8]),
    }
    out.extend(content);
    out
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A key on P-256 and a certificate of it, in PEM; its names are nobody's, and its own signature is none.
pub(crate) fn ota_key(seed: u8) -> (String, String) {
    let secret = p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap();
    let point = secret.verifying_key().to_sec1_point(false);
    let ec = der(0x06, &[&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01]]);
    let curve = der(0x06, &[&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]]);
    let algorithm = der(0x30, &[&ec, &curve]);
    let private = der(0x30, &[&[2, 1, 1], &der(0x04, &[&secret.to_bytes()])]);
    let key = der(0x30, &[&[2, 1, 0], &algorithm, &der(0x04, &[&private])]);

    let spki = der(0x30, &[&algorithm, &der(0x03, &[&[0], point.as_bytes()])]);
    let signed_with = der(0x30, &[&der(0x06, &[&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]])]);
    let common_name = der(0x30, &[&der(0x06, &[&[0x55, 0x04, 0x03]]), &der(0x0c, &[b"releases"])]);
    let name = der(0x30, &[&der(0x31, &[&common_name])]);
    let dates = der(0x30, &[&der(0x17, &[b"200101000000Z"]), &der(0x17, &[b"491231235959Z"])]);
    let version = der(0xa0, &[&[2, 1, 2]]);
    let body = der(0x30, &[&version, &[2, 1, seed], &signed_with, &name, &dates, &name, &spki]);
    let certificate = der(0x30, &[&body, &signed_with, &der(0x03, &[&[0; 9]])]);
    (pem("PRIVATE KEY", &key), pem("CERTIFICATE", &certificate))
}

fn write_key(machine: &Machine, seed: u8) -> [String; 2] {
    let (key, certificate) = ota_key(seed);
    let [key_path, certificate_path] = [format!("{seed}.pem"), format!("{seed}.x509.pem")];
    fs::write(machine.path(&key_path), key).unwrap();
    fs::write(machine.path(&certificate_path), certificate).unwrap();
    [machine.text(&key_path), machine.text(&certificate_path)]
}

const ADD: [&str; 6] = ["device", "add", "alioth", "--vendor", "xiaomi", "--kind"];

/// A desk with the A/B device `alioth`, whose OTAs are signed by the key of this seed.
fn desk(seed: u8) -> Machine {
    let machine = Machine::new();
    machine.run(["init", machine.text("desk").as_str(), "--key-cost", "low"]).expect(0);
    let [key, certificate] = write_key(&machine, seed);
    machine.at_desk(ADD.into_iter().chain(["ab", "--ota-key", &key, "--ota-cert", &certificate])).expect(0);
    machine
}

/// Images of a build of `alioth`, and what is said of them.
fn build(machine: &Machine, number: u64) -> String {
    let dir = format!("build-{number}");
    let images = [("boot", program(1, 16)), ("system", edited(&program(2, 300), number))];
    let text = machine.images(&dir, &images);
    let facts = json!({
        "build": number.to_string(), "timestamp": 1_746_403_200 + number * 604_800, "version": format!("22.{number}"),
        "sdk": 34, "spl": "2025-05-05", "device": "alioth",
    });
    fs::write(machine.path(&dir).join("build.json"), facts.to_string()).unwrap();
    let properties = format!(
        "ro.build.fingerprint=Xiaomi/alioth/alioth:14/UP1A/{number}:user/release-keys\nro.lineage.build.version=21.0\n\
         ro.lineage.releasetype=UNOFFICIAL\nro.system.build.date.utc={number}\n"
    );
    fs::write(machine.path(&dir).join("build.prop"), properties).unwrap();
    let dynamic = "virtual_ab=true\nsuper_partition_groups=main\nsuper_main_group_size=1073741824\n\
        super_main_partition_list=system\n";
    fs::write(machine.path(&dir).join("dynamic_partitions_info.txt"), dynamic).unwrap();
    text
}

/// The file of a published package.
fn published(machine: &Machine, run: &Value, name: &str) -> PathBuf {
    let package =
        run["packages"].as_array().unwrap().iter().find(|package| package["path"].as_str().unwrap().ends_with(name));
    let digest = package.unwrap()["sha256"].as_str().unwrap();
    machine.path(&format!("desk/repo/targets/xiaomi/alioth/stable/{digest}.{name}"))
}

#[test]
fn two_full_otas_become_a_published_incremental_that_makes_the_new_images() {
    // Somebody else's build machine makes full OTAs out of images.
    let maker = desk(7);
    for number in [1, 2] {
        maker.at_desk(["import", &build(&maker, number), "--device", "alioth"]).expect(0);
    }
    let machine = desk(7);
    let full = |number: u64| maker.path(&format!("desk/packages/alioth/stable/alioth-{number}-full.zip"));
    for number in [1, 2] {
        fs::copy(full(number), machine.path(&format!("ota-{number}.zip"))).unwrap();
        let args = ["import", &machine.text(&format!("ota-{number}.zip")), "--device", "alioth", "--json"];
        let run = machine.at_desk(args).expect(0).json();
        assert_eq!(run["timestamp"], 1_746_403_200 + number * 604_800);
        assert_eq!(run["findings"], json!([]), "what we make has nothing wrong with it");
        assert_eq!((&run["build"], &run["full"]["state"]), (&json!(number.to_string()), &json!("made")));
    }

    let delta = machine.at_desk(["delta", "alioth", "--json"]).expect(0).json();
    let again = machine.at_desk(["delta", "alioth", "--json"]).expect(0).json();
    let publish = machine.at_desk(["publish", "--json"]).expect(0).json();
    machine.at_desk(["repo", "check"]).expect(0);

    assert_eq!(delta["packages"][0]["file"], "alioth-1-to-2.zip");
    assert_eq!(again["packages"][0]["state"], "already made");
    let kept = published(&machine, &publish, "alioth-2-full.zip");
    assert!(
        fs::read(kept).unwrap() == fs::read(full(2)).unwrap(),
        "a full OTA is published as its maintainer signed it"
    );
    let zip = published(&machine, &publish, "alioth-1-to-2.zip");
    let bytes = fs::read(&zip).unwrap();
    assert!(bytes.len() < fs::metadata(full(2)).unwrap().len() as usize / 4, "{}", bytes.len());
    let zip = zip.to_str().unwrap();
    machine.run(["ota", "verify", zip, "--cert", &machine.text("7.x509.pem")]).expect(0);
    let out = machine.text("out");
    machine.run(["ota", "apply", zip, "--source", &machine.text("ota-1.zip"), "--out", &out]).expect(0);
    for name in ["boot.img", "system.img"] {
        let made = fs::read(machine.path("out").join(name)).unwrap();
        assert!(made == fs::read(maker.path("build-2").join(name)).unwrap(), "{name}");
    }

    let shown = machine.at_desk(["device", "show", "alioth", "--json"]).expect(0).json();
    let all = shown["published"].as_array().unwrap();
    let custom = &all.iter().find(|package| package["custom"]["from"] == "1").unwrap()["custom"];
    let ab = &custom["ab"];
    assert_eq!((&custom["kind"], &custom["sdk"], &custom["spl"]), (&json!("ab"), &json!(34), &json!("2025-05-05")));
    assert_eq!((&ab["minor"], &ab["devices"]), (&json!(8), &json!(["alioth"])));
    assert_eq!((&ab["from_incremental"], &ab["incremental"]), (&json!("1"), &json!("2")));
    let fingerprint = |number: u64| format!("Xiaomi/alioth/alioth:14/UP1A/{number}:user/release-keys");
    assert_eq!((&ab["from_fingerprint"], &ab["fingerprint"]), (&json!(fingerprint(1)), &json!(fingerprint(2))));
    let number = |file: &str, key: &str| usize::try_from(ab[file][key].as_u64().unwrap()).unwrap();
    let payload = &bytes[number("payload", "offset")..][..number("payload", "size")];
    assert!(payload.starts_with(b"CrAU"));
    assert_eq!(ab["properties"]["FILE_SIZE"], payload.len().to_string());
    let place = format!("payload.bin:{}:{}", number("payload", "offset"), payload.len());
    assert!(ab["property_files"].as_str().unwrap().contains(&place), "{ab}");
    assert!(ab["streaming_property_files"].as_str().unwrap().contains(&place), "{ab}");
    assert_eq!(custom["chunks"], "alioth-1-to-2.zip.chunks");
}

#[test]
fn the_key_of_otas_stays_at_home() {
    let machine = desk(7);
    let [key, certificate] = write_key(&machine, 7);
    let [other, other_certificate] = write_key(&machine, 8);
    let add = |key: &str, certificate: &str| {
        machine.at_desk(ADD.into_iter().chain(["ab", "--ota-key", key, "--ota-cert", certificate]))
    };

    add(&key, &certificate).expect(0);
    let mixed = add(&key, &other_certificate).expect(1);
    let changed = add(&other, &other_certificate).expect(1);
    machine.at_desk(["import", &build(&machine, 1), "--device", "alioth"]).expect(0);
    machine.at_desk(["publish"]).expect(0);

    assert!(mixed.err.contains("certificate"), "{}", mixed.err);
    assert!(changed.err.contains("alioth.ota.crt is there already, with other content"), "{}", changed.err);
    assert!(fs::read_to_string(machine.path("desk/keys/alioth.ota.key")).unwrap() == ota_key(7).0);
    let secret = [7; 32];
    let is_secret = |bytes: &[u8]| {
        bytes.windows(32).any(|window| window == secret) || bytes.windows(11).any(|window| window == b"PRIVATE KEY")
    };
    assert!(machine.tree("desk/repo").values().all(|bytes| !is_secret(bytes)));
}

#[test]
fn one_key_can_sign_the_otas_of_all_devices() {
    let machine = Machine::new();
    machine.run(["init", machine.text("desk").as_str(), "--key-cost", "low"]).expect(0);
    machine.at_desk(ADD.into_iter().chain(["ab"])).expect(0);
    write_key(&machine, 9);
    let settings = fs::read_to_string(machine.path("desk/relevo.toml")).unwrap();
    let ota = "\n[ota]\nkey = \"../9.pem\"\ncert = \"../9.x509.pem\"\n";
    fs::write(machine.path("desk/relevo.toml"), settings + ota).unwrap();

    let run = machine.at_desk(["import", &build(&machine, 1), "--device", "alioth", "--json"]).expect(0).json();

    assert_eq!(run["full"]["file"], "alioth-1-full.zip");
    let zip = machine.text("desk/packages/alioth/stable/alioth-1-full.zip");
    machine.run(["ota", "verify", &zip, "--cert", &machine.text("9.x509.pem")]).expect(0);
}

#[test]
fn a_build_that_says_nothing_of_its_update_engine_is_asked_about() {
    let machine = desk(7);
    for number in [1, 2] {
        let dir = machine.images(&format!("b{number}"), &[("boot", program(number, 16))]);
        let timestamp = (1_746_403_200 + number).to_string();
        let args = ["import", &dir, "--device", "alioth", "--no-full", "--timestamp", &timestamp];
        machine.at_desk(args.into_iter().chain(["--build", &number.to_string()])).expect(0);
    }

    let run = machine.at_desk(["delta", "alioth"]).expect(1);
    let manifest = machine.path("desk/manifests/alioth.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text + "\n[payload]\nminor_versions = [6, 7]\n").unwrap();
    machine.at_desk(["delta", "alioth"]).expect(0);

    assert!(
        run.err.contains("nothing says which payloads update_engine of build 1 of alioth understands"),
        "{}",
        run.err
    );
    let shown =
        machine.run(["ota", "inspect", &machine.text("desk/packages/alioth/stable/alioth-1-to-2.zip"), "--json"]);
    assert_eq!(shown.expect(0).json()["minor_version"], 6);
}

#[test]
fn publish_says_what_updater_apps_would_not_take() {
    let machine = desk(7);
    let [first, second] = [1, 2].map(|number| build(&machine, number));
    let path = machine.path("build-2").join("build.json");
    let mut facts: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    facts.as_object_mut().unwrap().remove("sdk");
    fs::write(&path, facts.to_string()).unwrap();
    machine.at_desk(["import", &first, "--device", "alioth"]).expect(0);
    let fine = machine.at_desk(["publish", "--json"]).expect(0).json();
    machine.at_desk(["import", &second, "--device", "alioth"]).expect(0);

    let run = machine.at_desk(["publish", "--json"]).expect(0);

    assert_eq!(fine.get("app_warnings"), None);
    let answer = run.json();
    let warnings = answer["app_warnings"]["alioth"].as_array().unwrap();
    assert_eq!(
        (warnings.len(), &warnings[0]["code"], &warnings[0]["channel"]),
        (1, &json!("no-sdk"), &json!("stable"))
    );
    // The same as a sentence for people, as every warning is.
    assert!(answer["warnings"].to_string().contains("build 2 does not say its API level"), "{answer}");
}
