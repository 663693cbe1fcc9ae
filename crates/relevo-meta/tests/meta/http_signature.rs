//! Signed requests: the RFC's own vectors, round trips, damage.

use base64ct::{Base64, Encoding as _};
use proptest::prelude::*;
use relevo_meta::{
    http_signature::{
        Message, Parameters, SignatureError, Signed, content_digest, content_digest_of, read_content_digest,
    },
    keys::PrivateKey,
    testing::key,
};
use relevo_types::Sha256;

/// RFC 9421, appendix B.1.4: the private key as RFC 7517 writes it, unpadded base64url.
const SEED: &str = "n4Ni+HpISpVObnQMW0wOhCKROaIKqKtW/2ZYb2p9KcU=";
/// RFC 9421, appendix B.2.6.
const INPUT: &str = "sig-b26=(\"date\" \"@method\" \"@path\" \"@authority\" \"content-type\" \"content-length\")\
                     ;created=1618884473;keyid=\"test-key-ed25519\"";
const SIGNATURE: &str =
    "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:";

fn rfc_key() -> PrivateKey {
    PrivateKey::from_random(Base64::decode_vec(SEED).unwrap().try_into().unwrap())
}

fn rfc_field(name: &str) -> Option<String> {
    let value = match name {
        "date" => "Tue, 20 Apr 2021 02:07:55 GMT",
        "content-type" => "application/json",
        "content-length" => "18",
        _ => return None,
    };
    Some(value.to_owned())
}

fn rfc_message() -> Message<'static> {
    Message { method: "POST", authority: "example.com", path: "/foo", field: &rfc_field }
}

#[test]
fn verifies_the_vector_of_the_rfc_and_signs_as_it_does() {
    let signed = Signed::parse(INPUT, SIGNATURE).unwrap();

    signed.verify(&rfc_message(), rfc_key().public().verifying_key()).unwrap();
    assert_eq!(signed.input_field(), INPUT);
    assert_eq!(signed.signature_field(), SIGNATURE);
    let again = signed.parameters().clone().sign("sig-b26", &rfc_message(), &rfc_key()).unwrap();
    assert_eq!(again, signed);
}

#[test]
fn refuses_another_request_another_key_and_a_missing_field() {
    let signed = Signed::parse(INPUT, SIGNATURE).unwrap();
    let rfc = rfc_key();
    let key = rfc.public().verifying_key();

    for message in [
        Message { method: "PUT", ..rfc_message() },
        Message { path: "/foo/", ..rfc_message() },
        Message { authority: "example.org", ..rfc_message() },
        Message { field: &|name| rfc_field(name).map(|value| value.replace("18", "19")), ..rfc_message() },
    ] {
        assert!(matches!(signed.verify(&message, key), Err(SignatureError::Wrong)));
    }
    let other = key_of_somebody_else();
    assert!(matches!(signed.verify(&rfc_message(), other.public().verifying_key()), Err(SignatureError::Wrong)));
    let bare = Message { field: &|_| None, ..rfc_message() };
    assert!(matches!(signed.verify(&bare, key), Err(SignatureError::NoField(field)) if field == "date"));
    // A field with a line break could pass for two components.
    let split = Message { field: &|_| Some("a\n\"@method\": GET".to_owned()), ..rfc_message() };
    assert!(matches!(signed.verify(&split, key), Err(SignatureError::Value(_))));
}

fn key_of_somebody_else() -> PrivateKey {
    key("somebody else")
}

#[test]
fn refuses_what_it_would_write_in_another_way() {
    for input in [
        "",
        "a=",
        "a=()",
        "a=();created=1",
        "a=(\"@method\")",
        "a=(\"@method\");created=01",
        "a=(\"@method\");created=1.0",
        "a=(\"@method\");created=-1",
        "a=(\"@method\");created=9999999999999999",
        "a=(\"@method\" );created=1",
        "a=(\"@method\"  \"@path\");created=1",
        "a=(\"@method\";req);created=1",
        "a=(\"Date\");created=1",
        "a=(\"@method\");created=1;alg=\"hmac-sha256\"",
        "a=(\"@method\");created=1;keyid=\"a\\\"b\"",
        "a=(\"@method\");created=1;keyid=\"x\";nonce=\"y\"",
        "a=(\"@method\");created=1;tag=\"x\"",
        "a=(\"@method\");created=1, b=(\"@method\");created=1",
        " a=(\"@method\");created=1",
        "ä=(\"@method\");created=1",
    ] {
        assert!(matches!(Signed::parse(input, SIGNATURE), Err(SignatureError::Input { .. })), "{input}");
    }
    let many = vec!["\"x\""; 17].join(" ");
    assert!(Signed::parse(&format!("a=({many});created=1"), "a=::").is_err());
    assert!(matches!(Signed::parse(&"a".repeat(2000), ""), Err(SignatureError::TooLong { .. })));
    for signature in ["", "sig-b26=::", "other=:AA==:", "sig-b26=:AA==:", &SIGNATURE.replace("==", "=")] {
        assert!(matches!(Signed::parse(INPUT, signature), Err(SignatureError::Form { .. })), "{signature}");
    }
}

#[test]
fn damage_is_refused_at_each_byte() {
    let rfc = rfc_key();
    let verifies = |input: &str, signature: &str| {
        Signed::parse(input, signature)
            .and_then(|signed| signed.verify(&rfc_message(), rfc.public().verifying_key()))
            .is_ok()
    };
    for cut in 0..INPUT.len() {
        assert!(!verifies(&INPUT[..cut], SIGNATURE), "{cut}");
    }
    for cut in 0..SIGNATURE.len() {
        assert!(!verifies(INPUT, &SIGNATURE[..cut]), "{cut}");
    }
    // The label is a name in two places and no part of what is signed; here the two no longer agree.
    for (at, bit) in (0..INPUT.len()).flat_map(|at| (0..7).map(move |bit| (at, bit))) {
        let mut bytes = INPUT.as_bytes().to_vec();
        bytes[at] ^= 1 << bit;
        assert!(!verifies(std::str::from_utf8(&bytes).unwrap(), SIGNATURE), "{at}");
    }
    for (at, bit) in (0..SIGNATURE.len()).flat_map(|at| (0..7).map(move |bit| (at, bit))) {
        let mut bytes = SIGNATURE.as_bytes().to_vec();
        bytes[at] ^= 1 << bit;
        assert!(!verifies(INPUT, std::str::from_utf8(&bytes).unwrap()), "{at}");
    }
}

#[test]
fn content_digests_are_those_of_rfc_9530() {
    // RFC 9530, appendices B.1 and B.2.
    assert_eq!(content_digest(b"{\"hello\": \"world\"}\n"), "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:");
    assert_eq!(content_digest(b""), "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:");
    for field in ["", "sha-256=::", "md5=:AAAA:", "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV=:"] {
        assert_eq!(read_content_digest(field), None, "{field}");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_verifies(
        path in "/[a-z0-9/._-]{0,40}",
        created in 0_i64..=999_999_999_999_999,
        expires in proptest::option::of(0_i64..=999_999_999_999_999),
        nonce in proptest::option::of("[!#-\\[\\]-~]{1,40}"),
        key_id in proptest::option::of("[a-f0-9]{64}"),
        algorithm: bool,
        digest: [u8; 32],
    ) {
        let digest = Sha256::new(digest);
        let text = content_digest_of(&digest);
        let field = |name: &str| (name == "content-digest").then(|| text.clone());
        let message = Message { method: "PUT", authority: "Updates.example:8443", path: &path, field: &field };
        let components = ["@method", "@authority", "@path", "content-digest"].map(str::to_owned).to_vec();
        let parameters = Parameters { components, created, expires, nonce, key_id, algorithm };

        let signed = parameters.sign("relevo", &message, &rfc_key()).unwrap();
        let read = Signed::parse(&signed.input_field(), &signed.signature_field()).unwrap();

        prop_assert_eq!(&read, &signed);
        read.verify(&message, rfc_key().public().verifying_key()).unwrap();
        prop_assert_eq!(read_content_digest(&text), Some(digest));
    }

    #[test]
    fn any_text_is_read_or_refused(input in "\\PC{0,80}", signature in "\\PC{0,120}") {
        if let Ok(signed) = Signed::parse(&input, &signature) {
            prop_assert_eq!(signed.input_field(), input);
            prop_assert_eq!(signed.signature_field(), signature);
        }
    }
}
