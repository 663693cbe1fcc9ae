//! Keys, key files, and metadata as it is written.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use jiff::Timestamp;
use relevo_meta::{
    Target,
    author::{
        AuthorError, DeviceFile, RegistryFile, RoleKeys, RootFile, SnapshotFile, TimestampFile, TopRole, add_signatures,
    },
    keys::{FileRandom, KeyError, PrivateKey, PublicKey, ScryptCost, Signer as _},
    testing::{TestRepo, key},
};
use relevo_types::TargetPath;
use serde_json::{Value, json};

const RANDOM: FileRandom = FileRandom { salt: [7; 16], iv: [9; 16] };

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn value(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// Runs openssl with `input`; `None` where it is not installed.
fn openssl(arguments: &[&str], input: &str) -> Option<(bool, String)> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Some((output.status.success(), String::from_utf8(output.stdout).unwrap()))
}

#[test]
fn a_key_survives_its_file() {
    let key = key("device");

    let pem = key.to_encrypted_pem(b"correct horse", RANDOM, ScryptCost::QUICK).unwrap();

    assert!(pem.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
    let read = PrivateKey::from_encrypted_pem(&pem, b"correct horse").unwrap();
    assert_eq!(read.public(), key.public());
    assert_eq!(read.sign(b"x").unwrap(), key.sign(b"x").unwrap());
}

#[test]
fn refuses_the_wrong_password_and_damaged_files() {
    let pem = key("device").to_encrypted_pem(b"right", RANDOM, ScryptCost::QUICK).unwrap();

    assert!(matches!(PrivateKey::from_encrypted_pem(&pem, b"wrong"), Err(KeyError::Password)));
    for cut in 0..pem.trim_end().len() {
        assert!(PrivateKey::from_encrypted_pem(&pem[..cut], b"right").is_err(), "cut at {cut}");
    }
    for text in ["", "hello", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        assert!(matches!(PrivateKey::from_encrypted_pem(text, b""), Err(KeyError::PrivateFormat(_))), "{text:?}");
    }
}

#[test]
fn refuses_a_key_file_that_asks_for_endless_work() {
    let cost = ScryptCost { log_n: 2, r: 33, p: 1 };
    let pem = key("device").to_encrypted_pem(b"x", RANDOM, cost).unwrap();

    let error = PrivateKey::from_encrypted_pem(&pem, b"x").unwrap_err();

    assert!(matches!(error, KeyError::Cost { n: 4, r: 33, p: 1 }), "{error:?}");
    let impossible = ScryptCost { log_n: 64, r: 8, p: 1 };
    assert!(key("device").to_encrypted_pem(b"x", RANDOM, impossible).is_err());
}

#[test]
fn openssl_reads_our_keys_and_we_read_those_of_openssl() {
    let key = key("device");
    let pem = key.to_encrypted_pem(b"secret", RANDOM, ScryptCost::DEFAULT).unwrap();
    let Some((read, public)) = openssl(&["pkey", "-passin", "pass:secret", "-pubout"], &pem) else { return };
    assert!(read);
    assert_eq!(public, key.public().to_pem());

    let (_, plain) = openssl(&["pkey", "-passin", "pass:secret"], &pem).unwrap();
    let arguments = ["pkcs8", "-topk8", "-scrypt", "-v2", "aes-256-cbc", "-passout", "pass:other"];
    let (made, theirs) = openssl(&arguments, &plain).unwrap();
    assert!(made);
    assert_eq!(PrivateKey::from_encrypted_pem(&theirs, b"other").unwrap().public(), key.public());
}

#[test]
fn a_public_key_survives_its_file() {
    let key = key("device");

    assert_eq!(&PublicKey::from_pem(&key.public().to_pem()).unwrap(), key.public());
    assert!(PublicKey::from_pem("nonsense").is_err());
    assert_eq!(PublicKey::from_value(&key.public().to_value()).as_ref(), Some(key.public()));
}

#[test]
fn a_public_key_with_words_in_front_is_read_by_us_and_by_openssl() {
    let key = key("device");

    let text = key.public().to_text("d-ginkgo");

    assert!(text.contains("\"d-ginkgo\"") && text.contains(&key.key_id()), "{text}");
    assert_eq!(&PublicKey::from_pem(&text).unwrap(), key.public());
    let Some((read, pem)) = openssl(&["pkey", "-pubin"], &text) else { return };
    assert!(read);
    assert_eq!(pem, key.public().to_pem());
}

#[test]
fn a_file_says_who_signs_for_the_roles_that_it_names() {
    let (one, two) = (key("one").public().clone(), key("two").public().clone());
    let (vendor, codename) = ("xiaomi".parse().unwrap(), "ginkgo".parse().unwrap());
    let keys = |keys: &[&PublicKey], threshold| RoleKeys { keys: keys.iter().copied().cloned().collect(), threshold };
    let mut root = RootFile::new(time("2027-01-01T00:00:00Z"));
    root.set_role(TopRole::Root, &[one.clone(), two.clone()], 2).unwrap();
    let mut registry = RegistryFile::new(time("2027-01-01T00:00:00Z"));
    registry.put_vendor(&vendor, std::slice::from_ref(&one), 1).unwrap();
    let mut device = DeviceFile::new(time("2027-01-01T00:00:00Z"));
    device.put_nightly(&vendor, &codename, std::slice::from_ref(&two), 1).unwrap();

    let found = root.role(TopRole::Root).unwrap();
    assert!(found.threshold == 2 && found.has(&one.key_id()) && found.has(&two.key_id()));
    assert!(matches!(root.role(TopRole::Targets), Err(AuthorError::Field("roles"))));
    assert_eq!(registry.role("v-xiaomi").unwrap(), Some(keys(&[&one], 1)));
    assert_eq!(registry.role("v-samsung").unwrap(), None);
    assert_eq!(device.role("d-ginkgo-nightly").unwrap(), Some(keys(&[&two], 1)));
    let delegation = &device.signed()["delegations"]["roles"][0];
    assert_eq!(delegation["paths"], json!(["xiaomi/ginkgo/nightly/*"]));
    assert_eq!(delegation["terminating"], json!(true));

    assert!(device.remove_role("d-ginkgo-nightly").unwrap());
    assert!(!device.remove_role("d-ginkgo-nightly").unwrap());
    assert!(device.signed().get("delegations").is_none());
    assert!(registry.remove_role("v-xiaomi").unwrap());
    assert_eq!(registry.signed()["delegations"], json!({"keys": {}, "roles": []}));
}

#[test]
fn a_role_with_a_key_that_is_none_of_ours_is_not_edited() {
    let mut root = RootFile::new(time("2027-01-01T00:00:00Z"));
    root.signed_mut()["keys"] = json!({"k": key("one").public().to_value()});
    root.signed_mut()["roles"] = json!({"root": {"keyids": ["k"], "threshold": 1}});

    assert!(matches!(root.role(TopRole::Root), Err(AuthorError::ForeignKey(id)) if id == "k"));
}

#[test]
fn debug_shows_no_private_key() {
    let key = PrivateKey::from_random([0xa7; 32]);

    let shown = format!("{key:?}");

    assert!(!shown.contains("a7a7") && !shown.contains("167, 167"), "{shown}");
}

#[test]
fn a_key_id_is_the_hash_of_the_plain_key_object() {
    // From securesystemslib: sha256 of {"keytype":"ed25519","keyval":{"public":"<64 hex>"},"scheme":"ed25519"}.
    let key = PrivateKey::from_random([1; 32]);
    let public = key.public().to_value()["keyval"]["public"].as_str().unwrap().to_owned();
    let object = format!(r#"{{"keytype":"ed25519","keyval":{{"public":"{public}"}},"scheme":"ed25519"}}"#);

    assert_eq!(key.key_id(), Target::of(object.as_bytes()).sha256.to_string());
    assert_eq!(public, "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c");
}

#[test]
fn what_is_signed_is_the_canonical_form_of_what_is_written() {
    let mut root = RootFile::new(time("2027-01-01T00:00:00.75Z"));
    for role in TopRole::ALL {
        root.set_role(role, &[key(role.name()).public().clone()], 1).unwrap();
    }

    let bytes = root.sign(&[&key("root")]).unwrap();

    let file = value(&bytes);
    assert_eq!(file["signed"]["expires"], "2027-01-01T00:00:00Z");
    assert_eq!(file["signed"]["consistent_snapshot"], true);
    assert_eq!(file["signed"]["keys"].as_object().unwrap().len(), 4);
    assert!(!bytes.contains(&b' ') && !bytes.contains(&b'\n'), "compact");
    // Keys are sorted and nothing needs escaping, so what is written is the canonical form already.
    let written = serde_json::to_string(&file["signed"]).unwrap();
    let signature = file["signatures"][0]["sig"].as_str().unwrap();
    let expected: String = key("root").sign(written.as_bytes()).unwrap().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(signature, expected);
}

#[test]
fn editing_keeps_what_it_does_not_know() {
    let mut device = DeviceFile::new(time("2027-01-01T00:00:00Z"));
    let path = TargetPath::parse("xiaomi/ginkgo/stable/a.rvp").unwrap();
    device.put_target(&path, Target::of(b"a"), &json!({"kind": "native", "x-note": [1, {"y": null}]})).unwrap();
    device.signed_mut().insert("x-future".to_owned(), json!({"deep": ["kept"]}));
    let bytes = device.sign(&[&key("d-ginkgo")]).unwrap();

    let mut edited = DeviceFile::edit(&bytes).unwrap();
    assert_eq!(edited.bump().unwrap(), 2);
    edited.edit_custom(&path, |custom| drop(custom.insert("rollout".to_owned(), 10.into()))).unwrap();

    let signed = value(&edited.sign(&[&key("d-ginkgo")]).unwrap())["signed"].clone();
    assert_eq!(signed["x-future"], json!({"deep": ["kept"]}));
    let custom = &signed["targets"]["xiaomi/ginkgo/stable/a.rvp"]["custom"];
    assert_eq!(*custom, json!({"kind": "native", "x-note": [1, {"y": null}], "rollout": 10}));
    assert_eq!(signed["version"], 2);
}

#[test]
fn new_keys_push_out_those_that_no_role_uses() {
    let mut registry = RegistryFile::new(time("2027-01-01T00:00:00Z"));
    let vendor = relevo_types::Vendor::parse("xiaomi").unwrap();
    registry.put_vendor(&vendor, &[key("old").public().clone()], 1).unwrap();
    registry.put_vendor(&vendor, &[key("new").public().clone(), key("newer").public().clone()], 2).unwrap();

    let delegations = registry.signed()["delegations"].clone();

    assert_eq!(delegations["roles"].as_array().unwrap().len(), 1);
    assert_eq!(delegations["roles"][0]["threshold"], 2);
    assert_eq!(delegations["roles"][0]["paths"], json!(["xiaomi/*/*/*"]));
    assert_eq!(delegations["keys"].as_object().unwrap().len(), 2);
    assert!(delegations["keys"].get(key("old").key_id()).is_none());
    assert_eq!(registry.delegated(), ["v-xiaomi"]);
}

#[test]
fn refuses_thresholds_that_cannot_be_met() {
    let mut root = RootFile::new(time("2027-01-01T00:00:00Z"));
    let twice = [key("a").public().clone(), key("a").public().clone()];

    for (keys, threshold) in [(&twice[..1], 0), (&twice[..1], 2), (&twice[..], 2), (&[], 1)] {
        let error = root.set_role(TopRole::Root, keys, threshold).unwrap_err();
        assert!(matches!(error, AuthorError::Threshold { .. }), "{error:?}");
    }
}

#[test]
fn nobody_signs_twice_or_not_at_all() {
    let snapshot = SnapshotFile::new(time("2027-01-01T00:00:00Z"));

    assert!(matches!(snapshot.sign(&[]), Err(AuthorError::NoSigner)));
    let twice = snapshot.sign(&[&key("a"), &key("a")]);
    assert!(matches!(twice, Err(AuthorError::TwiceTheSameKey(_))));
    let bytes = snapshot.sign(&[&key("a")]).unwrap();
    assert_eq!(add_signatures(&bytes, &[&key("a")]).unwrap(), bytes, "signing again replaces");
}

#[test]
fn only_a_file_of_the_right_kind_can_be_edited() {
    let timestamp = TimestampFile::new(time("2027-01-01T00:00:00Z")).sign(&[&key("timestamp")]).unwrap();

    assert!(matches!(SnapshotFile::edit(&timestamp), Err(AuthorError::Type { expected: "snapshot", .. })));
    assert!(matches!(SnapshotFile::edit(b"{}"), Err(AuthorError::Field("signed"))));
    assert!(matches!(SnapshotFile::edit(b"{"), Err(AuthorError::Malformed(_))));
    let mut last = TimestampFile::edit(&timestamp).unwrap();
    last.set_version(u64::MAX);
    assert!(matches!(last.bump(), Err(AuthorError::LastVersion(u64::MAX))));
}

#[test]
fn fractions_cannot_be_signed() {
    let mut device = DeviceFile::new(time("2027-01-01T00:00:00Z"));
    device.signed_mut().insert("x".to_owned(), json!(1.5));

    assert!(matches!(device.sign(&[&key("a")]), Err(AuthorError::Malformed(_))));
}

#[test]
fn sizes_stay_within_what_a_poll_may_cost() {
    let mut repo = TestRepo::new();
    for codename in 0..20 {
        repo.add_device("xiaomi", &format!("device{codename}"));
    }
    repo.publish();

    // Measured with python-tuf: a timestamp of 464 bytes, about 32 bytes of snapshot for a device.
    assert!(repo.metadata["timestamp.json"].len() < 480);
    assert!(repo.metadata["1.snapshot.json"].len() < 400 + 40 * 22);
}
