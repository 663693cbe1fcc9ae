//! Private keys as other tools write them, and what they sign. Keys are made by openssl, each time anew; where it is not
//! installed, one on P-256 is left.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::OnceLock,
};

use base64::Engine as _;
use relevo_format::payload::{KeyError, KeyKind, PrivateKey, PrivateKeyError, PublicKey};
use relevo_types::Sha256;

use crate::fixture::{other_key, signing_key};

/// Runs openssl in a directory; none where it is not installed.
pub(crate) fn openssl(dir: &Path, arguments: &str) -> Option<bool> {
    let mut command = Command::new("openssl");
    command.current_dir(dir).args(arguments.split_whitespace()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().ok().map(|status| status.success())
}

/// RSA keys of 2048 and 4096 bits in PEM (PKCS#8); made once.
pub(crate) fn rsa_pems() -> Option<&'static [String; 2]> {
    static PEMS: OnceLock<Option<[String; 2]>> = OnceLock::new();
    PEMS.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let make = |bits: u32| {
            let arguments = format!("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:{bits} -out key");
            assert!(openssl(dir.path(), &arguments)?);
            Some(fs::read_to_string(dir.path().join("key")).unwrap())
        };
        Some([make(2048)?, make(4096)?])
    })
    .as_ref()
}

/// The key on P-256, in DER (PKCS#8) without its public half.
fn p256_der() -> Vec<u8> {
    let mut der = vec![0x30, 0x41, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    der.extend([0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]);
    der.extend([0x04, 0x27, 0x30, 0x25, 0x02, 0x01, 0x01, 0x04, 0x20]);
    der.extend(signing_key().to_bytes());
    der
}

/// The key on P-256 in PEM.
pub(crate) fn p256_pem() -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(p256_der());
    let (first, second) = body.split_at(64);
    format!("-----BEGIN PRIVATE KEY-----\n{first}\n{second}\n-----END PRIVATE KEY-----\n")
}

/// One key of each kind, as there are.
pub(crate) fn all() -> Vec<PrivateKey> {
    let rsa = rsa_pems().into_iter().flatten().map(String::as_str);
    let pem = p256_pem();
    rsa.chain([&*pem]).map(|pem| PrivateKey::parse(pem.as_bytes(), None).unwrap()).collect()
}

#[test]
fn openssl_knows_our_signatures() {
    let dir = tempfile::tempdir().unwrap();
    let digest = Sha256::new([0xa7; 32]);
    fs::write(dir.path().join("digest"), digest.as_bytes()).unwrap();
    let p256 = p256_pem();
    for pem in rsa_pems().into_iter().flatten().chain([&p256]) {
        let key = PrivateKey::parse(pem.as_bytes(), None).unwrap();
        let signature = key.sign(&digest).unwrap();
        assert!(key.public().verify(&digest, &signature));
        assert_eq!(signature, key.sign(&digest).unwrap(), "the same each time");
        assert!(signature.len() <= key.public().kind().signature_len());

        fs::write(dir.path().join("key"), pem).unwrap();
        fs::write(dir.path().join("signature"), &signature).unwrap();
        let verify = "pkeyutl -verify -inkey key -in digest -sigfile signature -pkeyopt digest:sha256";
        let Some(verified) = openssl(dir.path(), verify) else { return };
        assert!(verified);
        // And the other way round, which is how keys that lie elsewhere sign.
        assert!(
            openssl(dir.path(), "pkeyutl -sign -inkey key -in digest -out signature -pkeyopt digest:sha256").unwrap()
        );
        assert!(key.public().verify(&digest, &fs::read(dir.path().join("signature")).unwrap()));
        assert!(openssl(dir.path(), "pkey -in key -pubout -out public").unwrap());
        assert_eq!(PublicKey::parse(&fs::read(dir.path().join("public")).unwrap()).unwrap(), *key.public());
    }
}

#[test]
fn keys_are_read_in_every_form_that_tools_write() {
    let dir = tempfile::tempdir().unwrap();
    let Some(pems) = rsa_pems() else { return };
    for (pem, kind) in [(&pems[0], KeyKind::Rsa2048), (&pems[1], KeyKind::Rsa4096), (&p256_pem(), KeyKind::P256)] {
        fs::write(dir.path().join("key"), pem).unwrap();
        let expected = PrivateKey::parse(pem.as_bytes(), None).unwrap();
        assert_eq!(expected.public().kind(), kind);
        let plain = [
            "pkcs8 -topk8 -nocrypt -in key -outform DER -out form",
            "pkey -in key -traditional -out form",
            "pkey -in key -traditional -outform DER -out form",
        ];
        let encrypted = [
            "pkcs8 -topk8 -in key -out form -passout pass:secret",
            "pkcs8 -topk8 -in key -out form -passout pass:secret -scrypt",
            "pkcs8 -topk8 -in key -out form -passout pass:secret -v2 aes-256-cbc -v2prf hmacWithSHA512",
            "pkcs8 -topk8 -in key -out form -passout pass:secret -v2 aes-128-cbc -iter 20000",
            "pkcs8 -topk8 -in key -outform DER -out form -passout pass:secret",
        ];
        for arguments in plain {
            assert!(openssl(dir.path(), arguments).unwrap(), "{arguments}");
            let form = fs::read(dir.path().join("form")).unwrap();
            let read = PrivateKey::parse(&form, None).unwrap_or_else(|error| panic!("{arguments}: {error}"));
            assert_eq!(read.public(), expected.public(), "{arguments}");
        }
        for arguments in encrypted {
            assert!(openssl(dir.path(), arguments).unwrap(), "{arguments}");
            let form = fs::read(dir.path().join("form")).unwrap();
            let read = PrivateKey::parse(&form, Some(b"secret"));
            assert_eq!(read.unwrap_or_else(|error| panic!("{arguments}: {error}")).public(), expected.public());
            assert!(matches!(PrivateKey::parse(&form, None), Err(PrivateKeyError::NoPassphrase)), "{arguments}");
            assert!(matches!(PrivateKey::parse(&form, Some(b"Secret")), Err(PrivateKeyError::Passphrase)));
        }
    }
}

#[test]
fn what_protects_nothing_or_is_not_known_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let Some(pems) = rsa_pems() else { return };
    fs::write(dir.path().join("key"), &pems[0]).unwrap();
    let form = |arguments: &str| {
        assert!(openssl(dir.path(), arguments).unwrap(), "{arguments}");
        PrivateKey::parse(&fs::read(dir.path().join("form")).unwrap(), Some(b"secret"))
    };

    let old = form("pkey -in key -traditional -out form -aes128 -passout pass:secret");
    assert!(matches!(old, Err(PrivateKeyError::OldEncryption)));
    let des = form("pkcs8 -topk8 -in key -out form -passout pass:secret -v1 PBE-SHA1-3DES");
    assert!(matches!(des, Err(PrivateKeyError::OldEncryption | PrivateKeyError::Encryption)), "{des:?}");
    let des = form("pkcs8 -topk8 -in key -out form -passout pass:secret -v2 des3");
    assert!(matches!(des, Err(PrivateKeyError::Encryption)), "{des:?}");
    let sha1 = form("pkcs8 -topk8 -in key -out form -passout pass:secret -v2 aes-256-cbc -v2prf hmacWithSHA1");
    assert!(matches!(sha1, Err(PrivateKeyError::Encryption)), "{sha1:?}");
    let rounds = form("pkcs8 -topk8 -in key -out form -passout pass:secret -iter 10000001");
    assert!(matches!(rounds, Err(PrivateKeyError::Cost(_))), "{rounds:?}");
    let other = form("genpkey -algorithm ed25519 -out form");
    assert!(matches!(other, Err(PrivateKeyError::Public(KeyError::Kind))), "{other:?}");
    let other = form("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out form");
    assert!(matches!(other, Err(PrivateKeyError::Public(KeyError::Kind))), "{other:?}");
    let other = form("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out form");
    assert!(matches!(other, Err(PrivateKeyError::Public(KeyError::Bits(1024)))), "{other:?}");
    let public = form("pkey -in key -pubout -out form");
    assert!(matches!(public, Err(PrivateKeyError::Format)), "{public:?}");
}

#[test]
fn a_damaged_key_is_an_error_or_makes_no_wrong_signature() {
    let digest = Sha256::new([1; 32]);
    let mut forms = vec![p256_der()];
    if let Some(pems) = rsa_pems() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("key"), &pems[0]).unwrap();
        assert!(openssl(dir.path(), "pkcs8 -topk8 -nocrypt -in key -outform DER -out form").unwrap());
        forms.push(fs::read(dir.path().join("form")).unwrap());
    }
    for form in forms {
        for len in 0..form.len() {
            assert!(PrivateKey::parse(&form[..len], None).is_err(), "{len}");
        }
        let public = PrivateKey::parse(&form, None).unwrap().public().clone();
        // Behind the private exponent come numbers that are not used.
        let used = form.len().min(840);
        for at in (0..used).step_by(if used < 300 { 1 } else { 7 }) {
            let mut damaged = form.clone();
            damaged[at] ^= 1 << (at % 8);
            if let Ok(key) = PrivateKey::parse(&damaged, None)
                && let Ok(signature) = key.sign(&digest)
            {
                assert!(key.public().verify(&digest, &signature));
                assert!(key.public() == &public || !public.verify(&digest, &signature), "byte {at}");
            }
        }
    }
    assert!(matches!(PrivateKey::parse(&vec![0x30; 65 << 10], None), Err(PrivateKeyError::TooLong(_))));
    assert_eq!(PrivateKey::parse(p256_pem().as_bytes(), None).unwrap().public(), &other_key());
}
