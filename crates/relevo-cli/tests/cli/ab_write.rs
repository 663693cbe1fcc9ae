//! `relevo ota diff` and `ota sign` for A/B updates.

use std::{cell::Cell, fs, io, path::Path, process::Command, sync::OnceLock};

use relevo_format::{
    FileAt,
    ota_zip::{self, OtaZip, PAYLOAD},
    payload::{Payload, wire},
};

use crate::{
    ab::{full_with, zip},
    support::{Machine, edited, program},
};

/// Runs openssl in a directory; none where it is not installed.
fn openssl(dir: &Path, arguments: &str) -> Option<()> {
    let output = Command::new("openssl").current_dir(dir).args(arguments.split_whitespace()).output().ok()?;
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

/// Keys and certificates by name; made once. None where openssl is not installed.
fn keys() -> Option<&'static Path> {
    static DIR: OnceLock<Option<tempfile::TempDir>> = OnceLock::new();
    let made = DIR.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        for (name, algorithm) in [
            ("rsa", "RSA -pkeyopt rsa_keygen_bits:2048"),
            ("big", "RSA -pkeyopt rsa_keygen_bits:4096"),
            ("ec", "EC -pkeyopt ec_paramgen_curve:P-256"),
        ] {
            openssl(path, &format!("genpkey -algorithm {algorithm} -out {name}.pem"))?;
            openssl(path, &format!("req -x509 -new -key {name}.pem -sha256 -days 9000 -subj /CN=t -out {name}.crt"))?;
        }
        openssl(path, "pkcs8 -topk8 -in ec.pem -out locked.pem -passout pass:secret")?;
        openssl(path, "pkcs8 -topk8 -nocrypt -in rsa.pem -outform DER -out rsa.pk8")?;
        Some(dir)
    });
    made.as_ref().map(tempfile::TempDir::path)
}

fn key(name: &str) -> String {
    keys().unwrap().join(name).to_str().unwrap().to_owned()
}

const SYSTEM: &str = "ro.build.version.release=15\nro.build.id=AP4A\nro.build.type=user\nro.build.tags=release-keys\n\
    ro.product.brand=acme\nro.product.name=x\nro.product.device=x\nro.build.version.sdk=35\n";

/// Two builds of a device, as directories of images.
fn builds(machine: &Machine) -> [String; 2] {
    let (system, boot) = (program(1, 300), program(2, 8));
    let new = [edited(&system, 2), vec![0; 1 << 20]].concat();
    let old = machine.images("old", &[("system", system), ("boot", boot.clone())]);
    let new = machine.images("new", &[("system", new), ("boot", boot)]);
    for (dir, build, date) in [(&old, "100", 1_700_000_000), (&new, "101", 1_700_100_000)] {
        let text = format!(
            "{SYSTEM}ro.build.version.incremental={build}\nro.build.date.utc={date}\n\
             ro.build.version.security_patch=2025-01-05\n"
        );
        fs::write(Path::new(dir).join("build.prop"), text).unwrap();
    }
    [old, new]
}

fn open(path: &Path) -> (OtaZip<FileAt>, Payload) {
    let zip = OtaZip::read(FileAt::open(path).unwrap(), &ota_zip::Limits::default()).unwrap();
    let payload = Payload::read(&zip.stored(PAYLOAD).unwrap(), &Default::default()).unwrap();
    (zip, payload)
}

#[test]
fn an_update_is_made_signed_and_applied() {
    let Some(_) = keys() else { return };
    let machine = Machine::new();
    let [old, new] = builds(&machine);
    let out = machine.text("ota.zip");
    let diff = ["ota", "diff", &old, &new, "--out", &out, "--key", &key("rsa.pk8"), "--key", &key("ec.pem")];
    let diff = diff.into_iter().map(str::to_owned).chain(["--cert".to_owned(), key("rsa.crt")]).collect::<Vec<_>>();

    let run = machine.run(diff.iter().map(String::as_str).chain(["--json"])).expect(0).json();

    assert_eq!((&run["kind"], &run["minor_version"]), (&"ab".into(), &9.into()));
    assert_eq!(run["signed_by"], serde_json::json!(["RSA-2048", "ECDSA P-256"]));
    for cert in ["rsa.crt", "rsa.pem"].iter().take(1) {
        let run = machine.run(["ota", "verify", &out, "--cert", &key(cert)]).expect(0);
        assert!(run.out.contains("metadata, payload and whole file are signed"), "{}", run.out);
    }
    machine.run(["ota", "apply", &out, "--source", &old, "--out", &machine.text("made")]).expect(0);
    let images = |dir: &str| {
        let mut tree = machine.tree(dir);
        tree.remove("build.prop");
        tree
    };
    assert!(images("made") == images("new"));
    let (zip, payload) = open(&machine.path("ota.zip"));
    let text = zip.metadata_text().unwrap();
    let of = |key: &str| text[key].as_str();
    assert_eq!((of("pre-build-incremental"), of("post-build-incremental")), ("100", "101"));
    assert_eq!((of("pre-device"), of("post-timestamp"), of("post-sdk-level")), ("x", "1700100000", "35"));
    let manifest = payload.manifest();
    assert_eq!((manifest.max_timestamp, manifest.minor_version), (Some(1_700_100_000), 9));
    assert_eq!(manifest.security_patch_level.as_deref(), Some("2025-01-05"));
    // The same again: the same bytes.
    let first = fs::read(&out).unwrap();
    machine.run(diff.iter().map(String::as_str)).expect(0);
    assert!(fs::read(&out).unwrap() == first);
}

#[test]
fn a_bare_payload_has_its_properties_beside_it() {
    let Some(_) = keys() else { return };
    let machine = Machine::new();
    let [old, new] = builds(&machine);
    let out = machine.text("update.bin");
    let locked = key("locked.pem");

    let wrong = machine.run(["ota", "diff", &old, &new, "--out", &out, "--key", &locked]).expect(1);
    assert!(wrong.err.contains("the passphrase is wrong"), "{}", wrong.err);
    let asked = Cell::new(0);
    let ask = |_: &str| -> io::Result<String> {
        asked.set(asked.get() + 1);
        Ok("secret".to_owned())
    };
    let args = ["ota", "diff", &old, &new, "--out", &out, "--key", &locked, "--key", &locked, "--minor", "5", "--wipe"];
    machine.run_asking(None, &ask, args).expect(0);

    assert_eq!(asked.get(), 1);
    let properties = fs::read_to_string(machine.path("update.properties.txt")).unwrap();
    let payload = Payload::read(&FileAt::open(&machine.path("update.bin")).unwrap(), &Default::default()).unwrap();
    assert!(properties.contains(&format!("FILE_SIZE={}\n", payload.len().get())), "{properties}");
    assert!(properties.ends_with("POWERWASH=1\n"), "{properties}");
    assert_eq!((payload.manifest().minor_version, payload.signatures().len()), (5, 2));
    machine.run(["ota", "verify", &out, "--cert", &key("ec.crt")]).expect(0);
}

#[test]
fn what_phones_would_refuse_is_not_made() {
    let Some(_) = keys() else { return };
    let machine = Machine::new();
    let [old, new] = builds(&machine);
    let (rsa, crt, other) = (key("rsa.pem"), key("rsa.crt"), key("ec.crt"));
    let refused = |args: &[&str], message: &str| {
        let run = machine.run(["ota", "diff"].iter().chain(args).copied()).expect(1);
        assert!(run.err.contains(message), "{}", run.err);
    };
    let out = machine.text("ota.zip");
    let bare = machine.text("ota.bin");
    refused(&[&old, &new, "--out", &out], "no --key was given; phones refuse an A/B update that is not signed");
    refused(&[&old, &new, "--out", &out, "--key", &rsa], "none of the 0 certificates");
    refused(&[&old, &new, "--out", &out, "--key", &rsa, "--cert", &other], "none of the 1 certificates");
    refused(&[&new, &old, "--out", &out, "--key", &rsa, "--cert", &crt], "the date goes back");
    refused(&[&old, &new, "--out", &bare, "--unsigned", "--partial"], "phones take partial updates from");
    refused(&[&old, &new, "--out", &bare, "--key", &crt], "is no key that signs A/B updates");
    refused(&[&old, &new, "--out", &machine.text("ota.rvp"), "--kind", "ab"], "is not named as the package of kind ab");
    refused(&[&old, &new, "--out", &machine.text("ota.rvp"), "--minor", "5"], "--minor is for ab packages");
    refused(&[&old, &new, "--out", &out, "--kind", "native"], "is not named as the package of kind native");
    // A directory that says nothing of itself.
    let bare_images = machine.images("mute", &[("boot", program(2, 8))]);
    refused(&[&bare_images, &new, "--out", &bare, "--unsigned"], "nothing says which payloads the update_engine");
    refused(
        &[&bare_images, &bare_images, "--out", &out, "--unsigned", "--minor", "9"],
        "nothing says what --timestamp",
    );
    // Nothing is left of any of them.
    let names = fs::read_dir(machine.path("")).unwrap().count();
    assert_eq!(names, 3);
    // A bare payload has no place for a device, and is made without a date, with a warning.
    let run = machine.run(["ota", "diff", &bare_images, &bare_images, "--out", &bare, "--unsigned", "--minor", "9"]);
    assert!(run.expect(0).err.contains("give --timestamp"));
    // The way back, if it is meant.
    machine.run(["ota", "diff", &new, &old, "--out", &out, "--unsigned", "--downgrade"]).expect(0);
    let (zip, payload) = open(&machine.path("ota.zip"));
    let text = zip.metadata_text().unwrap();
    assert_eq!((&*text["ota-downgrade"], &*text["ota-wipe"]), ("yes", "yes"));
    assert_eq!(zip.properties().unwrap().others["POWERWASH"], "1");
    assert_eq!(payload.manifest().max_timestamp, Some(1_700_100_000));
}

#[test]
fn stopping_leaves_nothing_behind() {
    let machine = Machine::new();
    let [old, new] = builds(&machine);
    machine.stop(true);

    let run = machine.run(["ota", "diff", &old, &new, "--out", &machine.text("ota.zip"), "--unsigned"]).expect(1);

    assert!(run.err.contains("stopped"), "{}", run.err);
    assert_eq!(fs::read_dir(machine.path("")).unwrap().count(), 2);
}

/// A full OTA zip, without metadata, of a build with Virtual A/B.
fn ota(images: &[(&str, Vec<u8>)], dynamic: wire::DynamicPartitionMetadata) -> Vec<u8> {
    zip(&full_with(images, |manifest| manifest.dynamic_partition_metadata = Some(dynamic.clone())))
}

/// What Virtual A/B with compression is told by a build.
fn dynamic() -> wire::DynamicPartitionMetadata {
    let group = wire::DynamicPartitionGroup {
        name: Some("main".to_owned()),
        size: Some(1 << 30),
        partition_names: vec!["system".to_owned()],
    };
    wire::DynamicPartitionMetadata {
        groups: vec![group],
        snapshot_enabled: Some(true),
        vabc_enabled: Some(true),
        vabc_compression_param: Some("lz4".to_owned()),
        cow_version: Some(3),
        vabc_feature_set: None,
        compression_factor: Some(65536),
    }
}

#[test]
fn snapshots_are_planned_for_virtual_ab() {
    let machine = Machine::new();
    let system = program(1, 300);
    let new = [&program(5, 16)[..], &system].concat();
    let older = wire::DynamicPartitionMetadata {
        cow_version: Some(2),
        vabc_compression_param: Some("gz".to_owned()),
        ..dynamic()
    };
    for (name, dynamic, image) in [("old.zip", older, &system), ("new.zip", dynamic(), &new)] {
        let images = [("system", image.clone()), ("boot", program(2, 8))];
        fs::write(machine.path(name), ota(&images, dynamic)).unwrap();
    }
    let (old, new, out) = (machine.text("old.zip"), machine.text("new.zip"), machine.text("ota.zip"));
    let facts = ["--minor", "8", "--device", "x", "--timestamp", "1700000000", "--unsigned"];

    machine.run(["ota", "diff", &old, &new, "--out", &out].into_iter().chain(facts)).expect(0);

    let (_, payload) = open(&machine.path("ota.zip"));
    let manifest = payload.manifest();
    // As the old build writes them: it is the one that runs.
    let expected = wire::DynamicPartitionMetadata {
        cow_version: Some(2),
        vabc_compression_param: Some("gz".to_owned()),
        ..dynamic()
    };
    assert_eq!(manifest.dynamic, Some(expected));
    let [boot, system] = &manifest.partitions[..] else { panic!("two partitions") };
    assert_eq!((boot.estimate_cow_size, boot.merge_operations.len()), (None, 0));
    assert!(system.estimate_cow_size.is_some_and(|size| size > 0));
    assert!(!system.merge_operations.is_empty());
    machine.run(["ota", "apply", &out, "--source", &old, "--out", &machine.text("made")]).expect(0);
    machine.run(["ota", "extract", &new, "--out", &machine.text("whole")]).expect(0);
    assert!(machine.tree("made") == machine.tree("whole"));

    // As it is asked for.
    let made = |more: &[&str], status| {
        let diff = ["ota", "diff", &old, &new, "--out", &out];
        let run = machine.run(diff.iter().chain(&facts).chain(more).copied()).expect(status);
        (run.err, open(&machine.path("ota.zip")).1.manifest().dynamic.clone().unwrap())
    };
    let (_, asked) = made(&["--vabc-compression-param", "zstd,5", "--compression-factor", "16k"], 0);
    assert_eq!((asked.vabc_compression_param.as_deref(), asked.compression_factor), (Some("zstd,5"), Some(16384)));
    let (err, _) = made(&["--vabc-cow-version", "3"], 1);
    assert!(err.contains("version 3 of snapshots was asked for; the builds know 2 both"), "{err}");
    let (_, asked) = made(&["--disable-vabc"], 0);
    assert_eq!((asked.snapshot_enabled, asked.vabc_enabled, asked.cow_version), (Some(true), Some(false), None));
    machine.run(["ota", "diff", &old, &new, "--out", &out, "--compression-factor", "5k"]).expect(2);

    // In part: what did not change stays as it is.
    machine.run(["ota", "diff", &old, &new, "--out", &out, "--partial"].into_iter().chain(facts)).expect(0);
    let (_, payload) = open(&machine.path("ota.zip"));
    let names: Vec<_> = payload.manifest().partitions.iter().map(|partition| partition.name.as_str()).collect();
    assert!(payload.manifest().partial);
    assert_eq!(names, ["system"]);
}

#[test]
fn a_dynamic_partition_that_is_missing_is_not_deleted_by_accident() {
    let machine = Machine::new();
    let mut both = dynamic();
    both.groups[0].partition_names.push("product".to_owned());
    for (name, seed) in [("old.zip", 1), ("new.zip", 3)] {
        let images = [("system", program(seed, 16))];
        fs::write(machine.path(name), ota(&images, both.clone())).unwrap();
    }
    let (old, new, out) = (machine.text("old.zip"), machine.text("new.zip"), machine.text("ota.zip"));
    let facts = ["--minor", "9", "--device", "x", "--timestamp", "1700000000", "--unsigned"];

    let run = machine.run(["ota", "diff", &old, &new, "--out", &out].into_iter().chain(facts)).expect(1);

    assert!(run.err.contains("the new build has no image of product"), "{}", run.err);
}

#[test]
fn the_zip_of_releasetools_is_signed_anew() {
    let Some(_) = keys() else { return };
    let machine = Machine::new();
    let sample = crate::ab::sample("incremental_ota.zip");
    for (pem, crt) in [("rsa.pem", "rsa.crt"), ("big.pem", "big.crt"), ("ec.pem", "ec.crt")] {
        let out = machine.text("signed.zip");
        machine.run(["ota", "sign", &sample, "--key", &key(pem), "--cert", &key(crt), "--out", &out]).expect(0);
        machine.run(["ota", "verify", &out, "--cert", &key(crt)]).expect(0);
        let (zip, payload) = open(&machine.path("signed.zip"));
        let (before, payload_before) = open(Path::new(&sample));
        assert_eq!(payload.manifest(), payload_before.manifest());
        let strip = |zip: &OtaZip<FileAt>| {
            let mut text = zip.metadata_text().unwrap();
            text.retain(|key, _| !key.ends_with("property-files"));
            text
        };
        assert_eq!(strip(&zip), strip(&before));
        // Over itself, and a payload alone.
        machine.run(["ota", "sign", &out, "--key", &key("ec.pem"), "--cert", &key("ec.crt"), "--out", &out]).expect(0);
        machine.run(["ota", "verify", &out, "--cert", &key("ec.crt")]).expect(0);
        machine.run(["ota", "verify", &out, "--cert", &key("big.crt")]).expect(1);
        let (bare, delta) = (machine.text("signed.bin"), crate::ab::sample("vabc.bin"));
        machine.run(["ota", "sign", &delta, "--key", &key(pem), "--out", &bare]).expect(0);
        machine.run(["ota", "verify", &bare, "--cert", &key(crt)]).expect(0);
    }
}

#[test]
fn keys_that_lie_elsewhere_sign_by_exchange_of_files() {
    let Some(dir) = keys() else { return };
    let machine = Machine::new();
    let sample = crate::ab::sample("incremental_ota.zip");
    let (out, exchange) = (machine.text("signed.zip"), machine.text("exchange"));
    let (rsa, ec) = (key("rsa.crt"), key("ec.crt"));
    let sign = || {
        let args = ["ota", "sign", &sample, "--exchange", &exchange, "--cert", &rsa, "--cert", &ec, "--out", &out];
        machine.run(args.into_iter().chain(["--json"]))
    };
    let elsewhere = |key: &str, part: &str, signature: &str| {
        let (from, to) = (machine.path("exchange").join(part), machine.path("exchange").join(signature));
        let (from, to) = (from.display(), to.display());
        openssl(dir, &format!("pkeyutl -sign -inkey {key} -pkeyopt digest:sha256 -in {from} -out {to}")).unwrap();
    };
    let waiting = |run: &serde_json::Value| -> Vec<String> {
        let files = run["waiting"].as_array().unwrap().iter().map(|path| Path::new(path.as_str().unwrap()));
        files.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    };

    let run = sign().expect(0).json();
    assert_eq!(waiting(&run), ["metadata.sig", "metadata.2.sig", "payload.sig", "payload.2.sig"]);
    assert_eq!(fs::read(machine.path("exchange").join("payload.sha256")).unwrap().len(), 32);
    for part in ["metadata", "payload"] {
        elsewhere("rsa.pem", &format!("{part}.sha256"), &format!("{part}.sig"));
        elsewhere("ec.pem", &format!("{part}.sha256"), &format!("{part}.2.sig"));
    }
    let run = sign().expect(0).json();
    assert_eq!(waiting(&run), ["zip.sig"]);
    assert!(!machine.path("signed.zip").exists());
    elsewhere("rsa.pem", "zip.sha256", "zip.sig");
    let run = sign().expect(0).json();

    assert!(waiting(&run).is_empty() && run["package"].is_string());
    let verified = machine.run(["ota", "verify", &out, "--cert", &rsa]).expect(0);
    assert!(verified.out.contains("whole file are signed"), "{}", verified.out);
    // A signature by another key, or of something else.
    elsewhere("ec.pem", "metadata.sha256", "metadata.sig");
    let run = sign().expect(1).json();
    assert!(run.to_string().contains("is no signature over"), "{run}");
}
