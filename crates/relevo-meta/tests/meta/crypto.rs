//! Key types that other repositories use, and signatures that only a lax verifier takes.

use std::{fs, process::Command};

use ed25519_dalek::{Signature, Verifier as _, VerifyingKey};
use relevo_meta::{TrustError, testing::TestRepo};
use ring::{
    rand::SystemRandom,
    signature::{self as ring_signature, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _},
};
use serde_json::{Value, json};

/// A repository whose timestamp is signed by another kind of key. `sign` is handed the canonical bytes.
fn repo_with(scheme: &str, keytype: &str, public: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> TestRepo {
    let mut repo = TestRepo::new();
    repo.add_device("xiaomi", "ginkgo");
    let root = repo.root.signed_mut();
    root["keys"]["other"] = json!({"keytype": keytype, "scheme": scheme, "keyval": {"public": public}});
    root["roles"]["timestamp"]["keyids"] = json!(["other"]);
    repo.root.set_version(0);
    repo.publish_root();
    repo.publish();
    let mut file: Value = serde_json::from_slice(&repo.metadata["timestamp.json"]).unwrap();
    // What we write is canonical already; the tests of authoring hold it to that.
    let canonical = serde_json::to_vec(&file["signed"]).unwrap();
    file["signatures"] = json!([{"keyid": "other", "sig": hex(&sign(&canonical))}]);
    repo.metadata.insert("timestamp.json".to_owned(), serde_json::to_vec(&file).unwrap());
    repo
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pem(prefix: &[u8], key: &[u8]) -> String {
    let der = [prefix, key].concat();
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in der.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for index in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * index) & 63) as usize] as char;
            text.push(if index <= group.len() { digit } else { '=' });
        }
    }
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..(at + 64).min(text.len())]).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

fn takes_and_refuses(scheme: &str, keytype: &str, public: &str, sign: impl Fn(&[u8]) -> Vec<u8>) {
    let repo = repo_with(scheme, keytype, public, &sign);
    repo.refresh(&repo.stored_root(), TestRepo::device_scope("xiaomi", "ginkgo")).result.unwrap();

    let forged = repo_with(scheme, keytype, public, |message| {
        let other = [message, b" "].concat();
        sign(&other)
    });
    let error = forged.refresh(&forged.stored_root(), TestRepo::device_scope("xiaomi", "ginkgo")).result.unwrap_err();
    assert!(matches!(error, TrustError::Threshold { found: 0, .. }), "{error:?}");
}

fn ecdsa(scheme: &str, algorithm: &'static EcdsaSigningAlgorithm, spki_prefix: &[u8]) {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
    let public = pem(spki_prefix, key.public_key().as_ref());

    takes_and_refuses(scheme, "ecdsa", &public, |message| key.sign(&random, message).unwrap().as_ref().to_vec());
}

#[test]
fn takes_ecdsa_on_p256() {
    let prefix =
        b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";

    ecdsa("ecdsa-sha2-nistp256", &ring_signature::ECDSA_P256_SHA256_ASN1_SIGNING, prefix);
}

#[test]
fn takes_ecdsa_on_p384() {
    let prefix = b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00";

    ecdsa("ecdsa-sha2-nistp384", &ring_signature::ECDSA_P384_SHA384_ASN1_SIGNING, prefix);
}

#[test]
fn takes_rsa_pss_as_openssl_signs_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let openssl = |arguments: &[&str]| {
        Command::new("openssl")
            .args(arguments)
            .current_dir(directory.path())
            .output()
            .map(|output| output.status.success())
    };
    let Ok(made) = openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "key"]) else {
        return; // no openssl on this machine
    };
    assert!(made);
    assert!(openssl(&["pkey", "-in", "key", "-pubout", "-out", "public"]).unwrap());
    let public = fs::read_to_string(file("public")).unwrap();

    takes_and_refuses("rsassa-pss-sha256", "rsa", &public, |message| {
        fs::write(file("message"), message).unwrap();
        let padding = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"];
        let arguments =
            [&["dgst", "-sha256", "-sign", "key", "-out", "signature"], &padding[..], &["message"]].concat();
        assert!(openssl(&arguments).unwrap());
        fs::read(file("signature")).unwrap()
    });
}

#[test]
fn refuses_the_ed25519_key_that_signs_everything() {
    // The neutral point as key, with the neutral point and zero as signature: the plain equation holds for any message.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let lax = VerifyingKey::from_bytes(&neutral).unwrap();
    let signature = Signature::from_slice(&[neutral, [0; 32]].concat()).unwrap();
    assert!(lax.verify(b"anything", &signature).is_ok(), "without strictness it would pass");
    let repo = repo_with("ed25519", "ed25519", &hex(&neutral), |_| [neutral, [0; 32]].concat());

    let error = repo.refresh(&repo.stored_root(), TestRepo::device_scope("xiaomi", "ginkgo")).result.unwrap_err();

    assert!(matches!(error, TrustError::Threshold { found: 0, .. }), "{error:?}");
}

#[test]
fn refuses_schemes_that_nobody_here_can_verify() {
    let repo = repo_with("ml-dsa-44/1", "ml-dsa", "00", |_| vec![0; 8]);

    let error = repo.refresh(&repo.stored_root(), TestRepo::device_scope("xiaomi", "ginkgo")).result.unwrap_err();

    assert!(matches!(error, TrustError::Threshold { found: 0, .. }), "{error:?}");
}
