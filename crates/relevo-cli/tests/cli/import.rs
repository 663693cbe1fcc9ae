//! `relevo import` of what builds come in, and what it finds wrong with them.

use std::{fs, io::Write as _};

use relevo_format::payload::wire;
use serde_json::{Value, json};

use crate::{
    ab::{full_with, sample, small},
    support::{Machine, program, sparse},
};

/// Entries of a zip: name, bytes, whether deflated.
type Entry<'a> = (&'a str, Vec<u8>, bool);

/// A zip as common tools make it.
pub(crate) fn zip(entries: &[Entry<'_>]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes, deflated) in entries {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        let stored = if *deflated {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        } else {
            bytes.clone()
        };
        let mut header = vec![0, 0, if *deflated { 8 } else { 0 }, 0, 0, 0, 0, 0];
        header.extend(crc.sum().to_le_bytes());
        header.extend((stored.len() as u32).to_le_bytes());
        header.extend((bytes.len() as u32).to_le_bytes());
        header.extend((name.len() as u16).to_le_bytes());
        header.extend([0, 0]);
        directory.extend([b"PK\x01\x02\x14\0\x14\0", &header[..], &[0; 10]].concat());
        directory.extend((out.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        out.extend([b"PK\x03\x04\x14\0", &header[..], name.as_bytes(), &stored].concat());
    }
    let (at, len, count) = (out.len() as u32, directory.len() as u32, entries.len() as u16);
    out.extend(directory);
    out.extend([b"PK\x05\x06\0\0\0\0", &count.to_le_bytes()[..], &count.to_le_bytes()].concat());
    out.extend([&len.to_le_bytes()[..], &at.to_le_bytes(), &[0, 0]].concat());
    out
}

const METADATA: &str = "META-INF/com/android/metadata";

fn text(name: &'static str, text: &str) -> Entry<'static> {
    (name, text.as_bytes().to_vec(), false)
}

/// With a desk and the A/B device `alioth`, of whose builds two partitions are known.
fn desk() -> Machine {
    let machine = Machine::new();
    machine.run(["init", machine.text("desk").as_str(), "--key-cost", "low"]).expect(0);
    let add = ["device", "add", "alioth", "--vendor", "xiaomi", "--kind", "ab", "--partition", "system"];
    machine.at_desk(add.into_iter().chain(["--partition", "boot"])).expect(0);
    machine
}

fn codes(run: &Value) -> Vec<&str> {
    run["findings"].as_array().unwrap().iter().map(|finding| finding["code"].as_str().unwrap()).collect()
}

fn facts(manifest: &mut wire::DeltaArchiveManifest) {
    manifest.max_timestamp = Some(1_746_403_200);
    manifest.security_patch_level = Some("2025-05-05".into());
    manifest.partitions[0].version = Some("1746403200".into());
    manifest.partitions[0].run_postinstall = Some(true);
    manifest.partitions[0].postinstall_path = Some("system/bin/after".into());
    manifest.apex_info = vec![wire::ApexInfo { package_name: Some("com.android.art".into()), ..Default::default() }];
    manifest.dynamic_partition_metadata = Some(wire::DynamicPartitionMetadata {
        groups: vec![wire::DynamicPartitionGroup {
            name: Some("main".into()),
            size: Some(1 << 30),
            partition_names: vec!["system".into()],
        }],
        snapshot_enabled: Some(true),
        vabc_enabled: Some(true),
        vabc_compression_param: Some("lz4".into()),
        cow_version: Some(3),
        ..Default::default()
    });
}

#[test]
fn a_bare_payload_is_a_build_and_its_facts_are_kept() {
    let machine = desk();
    let new = machine.images("new", &small());
    fs::write(machine.path("payload.bin"), full_with(&small(), facts)).unwrap();

    let args = ["import", &machine.text("payload.bin"), "--device", "alioth", "--build", "7", "--no-full"];
    let run = machine.at_desk(args.into_iter().chain(["--json"])).expect(0).json();
    let again = machine.at_desk(args.into_iter().chain(["--json"])).expect(0).json();

    assert_eq!((&run["state"], &again["state"]), (&json!("imported"), &json!("already imported")));
    assert_eq!(run["timestamp"], 1_746_403_200);
    for name in ["system.img", "boot.img"] {
        let image = |dir: &str| fs::read(machine.path(dir).join(name)).unwrap();
        assert!(image("desk/builds/alioth/7") == image("new"), "{name} of {new}");
    }
    let kept: Value =
        serde_json::from_slice(&fs::read(machine.path("desk/builds/alioth/7/build.json")).unwrap()).unwrap();
    insta::assert_json_snapshot!("import_ab_facts", kept["ab"]);
    assert!(machine.path("desk/builds/alioth/7/apex_info.pb").exists());
    let names: Vec<_> =
        fs::read_dir(machine.path("desk/builds/alioth")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "what was unpacked is moved or gone: {names:?}");
}

#[test]
fn what_a_directory_did_not_say_a_payload_of_the_same_images_adds() {
    let machine = desk();
    let dir = machine.images("new", &small());
    fs::write(machine.path("payload.bin"), full_with(&small(), facts)).unwrap();
    let import = |from: &str| {
        let args = ["import", from, "--device", "alioth", "--build", "7", "--no-full", "--json"];
        machine.at_desk(args.into_iter().chain(["--timestamp", "1746403200"])).expect(0).json()["state"].clone()
    };
    let kept = || -> Value {
        serde_json::from_slice(&fs::read(machine.path("desk/builds/alioth/7/build.json")).unwrap()).unwrap()
    };

    let first = (import(&dir), kept());
    let second = (import(&machine.text("payload.bin")), kept());
    let third = (import(&dir), kept());

    assert_eq!(
        [&first.0, &second.0, &third.0],
        [&json!("imported"), &json!("already imported"), &json!("already imported")]
    );
    assert_eq!((&first.1["ab"]["dynamic"], &second.1["ab"]["dynamic"]["cow_version"]), (&Value::Null, &json!(3)));
    assert_eq!(second.1, third.1);
}

#[test]
fn target_files_are_a_build() {
    let machine = desk();
    let images = small();
    let prop = "ro.build.version.incremental=8\nro.build.date.utc=1746403200\nro.build.version.sdk=35\n\
        ro.build.version.security_patch=2025-05-05\nro.product.system.device=alioth\nro.build.tags=release-keys\n\
        ro.lineage.build.version=22.2\nro.lineage.releasetype=UNOFFICIAL\nro.modversion=22.2-alioth\n";
    let dynamic = "virtual_ab=true\nsuper_partition_groups=main\nsuper_main_group_size=1073741824\n\
        super_main_partition_list=system\n";
    let entries = [
        text("META/ab_partitions.txt", "boot\nsystem\n"),
        text("META/misc_info.txt", "ab_update=true\n"),
        text("META/dynamic_partitions_info.txt", dynamic),
        text("META/update_engine_config.txt", "PAYLOAD_MAJOR_VERSION=2\nPAYLOAD_MINOR_VERSION=9\n"),
        ("META/care_map.pb", vec![1, 2, 3], true),
        ("SYSTEM/build.prop", prop.as_bytes().to_vec(), true),
        ("IMAGES/system.img", sparse(&images[0].1), true),
        ("RADIO/boot.img", images[1].1.clone(), true),
        ("IMAGES/userdata.img", program(3, 2), true),
    ];
    fs::write(machine.path("target_files.zip"), zip(&entries)).unwrap();
    machine.images("new", &images);

    let args = ["import", &machine.text("target_files.zip"), "--device", "alioth", "--no-full", "--json"];
    let run = machine.at_desk(args).expect(0).json();

    assert_eq!((&run["build"], &run["version"]), (&json!("8"), &json!("22.2-alioth")));
    assert_eq!(codes(&run), [""; 0]);
    for name in ["system.img", "boot.img"] {
        let image = |dir: &str| fs::read(machine.path(dir).join(name)).unwrap();
        assert!(image("desk/builds/alioth/8") == image("new"), "{name}");
    }
    let kept: Value =
        serde_json::from_slice(&fs::read(machine.path("desk/builds/alioth/8/build.json")).unwrap()).unwrap();
    assert_eq!((&kept["ab"]["minor"], &kept["ab"]["lineage_version"]), (&json!(9), &json!("22.2")));
    assert_eq!(fs::read(machine.path("desk/builds/alioth/8/care_map.pb")).unwrap(), [1, 2, 3]);
    assert!(!machine.path("desk/builds/alioth/8/userdata.img").exists());
}

#[test]
fn an_entry_that_claims_more_than_it_holds_is_refused() {
    let machine = desk();
    let entries = [text("META/ab_partitions.txt", "boot\n"), ("IMAGES/boot.img", program(1, 8), true)];
    let mut bytes = zip(&entries);
    // The lengths of the image, before its data and in the directory, become 64 MiB.
    let len = 8_u32 * 4096;
    for at in 0..bytes.len() - 4 {
        if bytes[at..at + 4] == len.to_le_bytes() {
            bytes[at..at + 4].copy_from_slice(&(64_u32 << 20).to_le_bytes());
        }
    }
    fs::write(machine.path("bomb.zip"), bytes).unwrap();

    let run = machine.at_desk(["import", &machine.text("bomb.zip"), "--device", "alioth", "--build", "1"]).expect(1);

    assert!(run.err.contains("the data of IMAGES/boot.img are damaged: it cannot unpack to its length"), "{}", run.err);
    assert_eq!(fs::read_dir(machine.path("desk/builds/alioth")).unwrap().count(), 1, "the lock alone");
}

/// A zip that nobody signed, and whose parts do not fit each other.
fn messy() -> Vec<u8> {
    let payload = full_with(&small(), |manifest| {
        facts(manifest);
        manifest.dynamic_partition_metadata.as_mut().unwrap().groups[0].partition_names.push("product".into());
    });
    let metadata = "ota-type=AB\npre-device=venus\npost-build=Xiaomi/venus/venus:15/A/9:user/test-keys\n\
        post-build-incremental=9\npost-timestamp=1746403200\npost-sdk-level=35\npost-security-patch-level=2025-05-05\n\
        ota-property-files=payload.bin:1:2\n";
    let zeros = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let properties = format!("FILE_HASH={zeros}\nFILE_SIZE=1\nMETADATA_HASH={zeros}\nMETADATA_SIZE=1\n");
    zip(&[text(METADATA, metadata), ("payload.bin", payload, false), text("payload_properties.txt", &properties)])
}

#[test]
fn what_phones_would_refuse_stops_an_import() {
    let machine = desk();
    fs::write(machine.path("ota.zip"), messy()).unwrap();
    let import = ["import", &machine.text("ota.zip"), "--device", "alioth"];

    let run = machine.at_desk(import).expect(1);
    let json = machine.at_desk(import.into_iter().chain(["--json"])).expect(1).json();

    let mut masked = String::new();
    for line in run.out.lines() {
        // Digests and lengths of the payload are another subject.
        let cut = line.find(" the payload has ").or_else(|| line.find(" it is at ")).unwrap_or(line.len());
        masked += &format!("{}\n", &line[..cut]);
    }
    insta::assert_snapshot!("import_findings", masked + &run.err);
    assert_eq!(json["findings"].as_array().unwrap().len(), codes(&json).len());
    assert_eq!(fs::read_dir(machine.path("desk/builds/alioth")).unwrap().count(), 1, "the lock alone");
    assert!(!machine.path("desk/packages/alioth").exists());
}

#[test]
fn accepted_errors_stop_nothing_and_the_zip_becomes_the_full_package() {
    let machine = desk();
    fs::write(machine.path("ota.zip"), messy()).unwrap();
    let mut import = vec!["import".to_owned(), machine.text("ota.zip"), "--device".into(), "alioth".into()];
    let stopped = machine.at_desk(import.iter().map(String::as_str).chain(["--json"])).expect(1).json();
    for finding in stopped["findings"].as_array().unwrap().iter().filter(|finding| finding["level"] == "error") {
        import.extend(["--accept".into(), finding["code"].as_str().unwrap().to_owned()]);
    }

    let run = machine.at_desk(import.iter().map(String::as_str).chain(["--json"])).expect(0).json();
    let again = machine.at_desk(import.iter().map(String::as_str).chain(["--json"])).expect(0).json();
    machine.at_desk(["publish"]).expect(0);
    machine.at_desk(["repo", "check"]).expect(0);
    let shown = machine.at_desk(["device", "show", "alioth", "--json"]).expect(0).json();

    assert_eq!((&run["build"], &run["full"]["file"]), (&json!("9"), &json!("alioth-9-full.zip")));
    assert_eq!(again["full"]["state"], "already made");
    let custom = &shown["published"][0]["custom"];
    assert_eq!((&custom["kind"], &custom["ab"]["minor"]), (&json!("ab"), &json!(0)));
    let (offset, size) = (&custom["ab"]["payload"]["offset"], &custom["ab"]["payload"]["size"]);
    let (offset, size) = (offset.as_u64().unwrap() as usize, size.as_u64().unwrap() as usize);
    assert_eq!(fs::read(machine.path("ota.zip")).unwrap()[offset..offset + size], full(&messy()));
    assert!(machine.tree("desk/packages").is_empty());
}

/// The payload in a zip.
fn full(zip: &[u8]) -> Vec<u8> {
    let zip = relevo_format::ota_zip::OtaZip::read(zip.to_vec(), &Default::default()).unwrap();
    let entry = zip.entry("payload.bin").unwrap();
    zip.file()[entry.offset as usize..][..entry.len as usize].to_vec()
}

#[test]
fn a_zip_that_changed_since_its_import_is_not_published() {
    let machine = desk();
    fs::write(machine.path("ota.zip"), messy()).unwrap();
    let zip = machine.text("ota.zip");
    let codes = [
        "wrong-device",
        "zip-unsigned",
        "payload-unsigned",
        "properties-mismatch",
        "property-files",
        "dynamic-missing",
    ];
    let accept = codes.iter().flat_map(|code| ["--accept", code]);
    let args: Vec<&str> = ["import", &zip, "--device", "alioth"].into_iter().chain(accept).collect();
    machine.at_desk(args).expect(0);
    let path = machine.path("desk/packages/alioth/stable/alioth-9-full.zip");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();

    let run = machine.at_desk(["publish"]).expect(1);

    assert!(run.err.contains("it is not what it was when it was made or imported"), "{}", run.err);
}

#[test]
fn what_is_no_full_build_is_named() {
    let machine = desk();
    let import = |name: &str, bytes: Vec<u8>| {
        fs::write(machine.path(name), bytes).unwrap();
        machine.at_desk(["import", &machine.text(name), "--device", "alioth", "--build", "1"]).expect(1)
    };

    let block = import("block.zip", zip(&[text("system.transfer.list", "4\n"), text("system.new.dat.br", "x")]));
    let none = import("none.zip", zip(&[text("boot.img", "x")]));
    let packed = import("packed.zip", zip(&[("payload.bin", full_with(&small(), facts), true)]));
    let delta = import("delta.bin", fs::read(sample("delta4.bin")).unwrap());
    let text = import("x.txt", b"hello, this is no build".to_vec());
    let list = import("list.zip", zip(&[text_of("META/misc_info.txt", "ab_update=false\n")]));

    let said = [block, none, packed, delta, text, list].map(|run| machine.masked_paths(&(run.out + &run.err)));
    insta::assert_snapshot!("import_refused", said.join("\n"));
}

fn text_of(name: &'static str, content: &str) -> Entry<'static> {
    text(name, content)
}

#[test]
fn what_goes_back_is_warned_of() {
    let machine = desk();
    let import = |build: &str, timestamp: &str, sdk: &str, spl: &str| {
        let dir = machine.images(&format!("b{build}"), &[("boot", program(1, 4)), ("system", program(2, 4))]);
        let args = ["import", &dir, "--device", "alioth", "--no-full", "--json", "--build", build];
        let facts = ["--timestamp", timestamp, "--sdk", sdk, "--spl", spl];
        machine.at_desk(args.into_iter().chain(facts)).expect(0).json()
    };

    let first = import("1", "1000000000", "35", "2025-05-05");
    let back = import("2", "1000000001", "34", "2025-04-05");
    let older = import("3", "999999999", "35", "2025-05-05");

    assert_eq!(codes(&first), [""; 0]);
    assert_eq!(codes(&back), ["patch-level-back", "sdk-back"]);
    assert_eq!(codes(&older), ["older-build"]);
    insta::assert_json_snapshot!("import_back", [&back["findings"], &older["findings"]]);
}

#[test]
fn an_image_of_no_whole_blocks_is_no_build_for_update_engine() {
    let machine = desk();
    let dir = machine.images("odd", &[("boot", vec![1; 5000]), ("system", program(2, 4))]);

    let args = ["import", &dir, "--device", "alioth", "--no-full", "--json", "--build", "1", "--timestamp", "1"];
    let run = machine.at_desk(args).expect(1).json();

    assert_eq!(codes(&run), ["block-size"]);
    assert_eq!(run["findings"][0]["level"], "error");
}

/// Images with footers of verified boot, and a vbmeta image that vouches for them; made by avbtool.
fn verified_boot(name: &str) -> Vec<u8> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../relevo-format/tests/avb/golden");
    zstd::decode_all(&fs::read(dir.join(format!("{name}.img.zst"))).unwrap()[..]).unwrap()
}

#[test]
fn images_that_verified_boot_would_refuse_stop_an_import() {
    let machine = desk();
    let names = ["boot", "system", "vendor", "recovery", "vbmeta"];
    // Each build with one byte of one image changed.
    let import = |build: &str, (image, at, mask): (usize, usize, u8)| {
        let mut images = names.map(|name| (name, verified_boot(name)));
        images[image].1[at] ^= mask;
        let dir = machine.images(&format!("v{build}"), &images);
        let args = ["import", &dir, "--device", "alioth", "--no-full", "--json", "--build", build, "--timestamp", "9"];
        machine.at_desk(args)
    };
    let avb = |run: &Value| -> Vec<Value> {
        let all = run["findings"].as_array().unwrap().iter();
        all.filter(|finding| finding["code"].as_str().unwrap().starts_with("avb")).cloned().collect()
    };

    let whole = import("1", (0, 0, 0)).expect(0).json();
    let boot = import("2", (0, 100, 1)).expect(1).json();
    let system = import("3", (1, 5000, 1)).expect(1).json();
    // A byte of the key that vbmeta names for recovery: the digest is another, and so is the signature.
    let signed = import("4", (4, 1200, 1)).expect(1).json();
    // The first byte of where the footer says that vbmeta is.
    let footer = import("5", (1, verified_boot("system").len() - 44, 0xff)).expect(1).json();

    // Without a vbmeta image there is no verified boot that would refuse anything.
    let mut changed = verified_boot("system");
    changed[5000] ^= 1;
    let dir = machine.images("v6", &[("system", changed)]);
    let args = ["import", &dir, "--device", "alioth", "--no-full", "--json", "--build", "6", "--timestamp", "9"];
    let alone = machine.at_desk(args).expect(0).json();

    // A chain that ends in nothing, and one that ends in an image that is not signed.
    let dir = machine.images("v7", &[("vbmeta", verified_boot("vbmeta"))]);
    let args = ["import", &dir, "--device", "alioth", "--no-full", "--json", "--build", "7", "--timestamp", "9"];
    let missing = machine.at_desk(args).expect(0).json();
    let dir = machine.images("v8", &[("vbmeta", verified_boot("vbmeta")), ("recovery", verified_boot("system"))]);
    let args = ["import", &dir, "--device", "alioth", "--no-full", "--json", "--build", "8", "--timestamp", "9"];
    let key = machine.at_desk(args).expect(1).json();

    assert_eq!(whole["partitions"].as_object().unwrap().len(), 5);
    assert_eq!(
        (&avb(&missing)[1]["code"], &avb(&missing)[1]["level"]),
        (&json!("avb-chain-missing"), &json!("warning"))
    );
    assert_eq!((&avb(&key)[1]["code"], &avb(&key)[1]["level"]), (&json!("avb-chain-key"), &json!("error")));
    assert_eq!((&avb(&alone)[0]["code"], &avb(&alone)[0]["level"]), (&json!("avb-mismatch"), &json!("warning")));
    insta::assert_json_snapshot!("import_avb", [&whole, &boot, &system, &signed, &footer].map(avb));
}
