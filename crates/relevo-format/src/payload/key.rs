//! Keys that sign payloads and OTA zips: RSA of 2048 or 4096 bits, and ECDSA over P-256; both over SHA-256.

use std::fmt;

use base64::Engine as _;
use num_bigint::BigUint;
use p256::ecdsa::{self, signature::hazmat::PrehashVerifier as _};
use relevo_types::Sha256;

use super::der::{self, Reader};

/// `1.2.840.113549.1.1.1`, RSA.
pub(super) const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// `1.2.840.10045.2.1`, keys on elliptic curves.
pub(super) const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// `1.2.840.10045.3.1.7`, the curve P-256.
pub(super) const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// `1.2.840.113549.1.1.11`, RSA over SHA-256.
pub(crate) const RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
/// `1.2.840.10045.4.3.2`, ECDSA over SHA-256.
pub(crate) const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// What stands before a SHA-256 digest in a signature of PKCS#1 v1.5.
///
/// # Source
/// RFC 8017, section 9.2, note 1.
const DIGEST_INFO: [u8; 19] =
    [0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20];
/// Largest key file, in bytes; certificates with a long chain of names have 4 KB.
pub(super) const MAX_FILE: usize = 64 << 10;

/// Which signatures a key makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyKind {
    /// RSA of 2048 bits, PKCS#1 v1.5.
    Rsa2048,
    /// RSA of 4096 bits, PKCS#1 v1.5.
    Rsa4096,
    /// ECDSA on the curve P-256.
    P256,
}

impl KeyKind {
    /// What kind of key it is, in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rsa2048 => "RSA-2048",
            Self::Rsa4096 => "RSA-4096",
            Self::P256 => "ECDSA P-256",
        }
    }

    /// The most bytes that a signature has; those of RSA always have as many.
    pub fn signature_len(self) -> usize {
        match self {
            Self::Rsa2048 => 256,
            Self::Rsa4096 => 512,
            // Two numbers of 33 bytes in DER.
            Self::P256 => 72,
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A key that a signature is checked with.
#[derive(Debug, Clone, PartialEq)]
pub struct PublicKey {
    kind: Kind,
    id: Sha256,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Rsa { modulus: BigUint, exponent: BigUint, bytes: usize },
    P256(Box<ecdsa::VerifyingKey>),
}

/// Why something is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Neither of the two PEM labels, nor DER.
    #[error("it is neither a public key nor a certificate, in PEM or DER")]
    Format,
    /// No certificate.
    #[error("it is no X.509 certificate, in PEM or DER")]
    NoCertificate,
    /// Larger than any key.
    #[error("it has {0} bytes, too many for a key")]
    TooLong(usize),
    /// A kind of key that stock phones do not take either.
    #[error("its kind is not known; expected RSA or ECDSA on P-256")]
    Kind,
    /// A modulus of another length.
    #[error("its RSA modulus has {0} bits; expected 2048 or 4096")]
    Bits(u64),
    /// An exponent that no generator uses.
    #[error("its RSA exponent is not 3 or 65537")]
    Exponent,
    /// A point that is not on the curve.
    #[error("its point is not on the curve P-256")]
    Point,
}

impl PublicKey {
    /// Reads a public key (`SubjectPublicKeyInfo`) or the key of an X.509 certificate, in PEM or DER.
    ///
    /// A certificate is a wrapper for its key here: phones do not look at its dates, names or signature either.
    ///
    /// # Errors
    /// [`KeyError`] for anything else.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() > MAX_FILE {
            return Err(KeyError::TooLong(bytes.len()));
        }
        if bytes.first() == Some(&0x30) {
            return Self::from_spki(bytes).or_else(|_| Self::from_certificate(bytes));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| KeyError::Format)?;
        if let Some(der) = pem(text, "PUBLIC KEY") {
            Self::from_spki(&der)
        } else if let Some(der) = pem(text, "CERTIFICATE") {
            Self::from_certificate(&der)
        } else {
            Err(KeyError::Format)
        }
    }

    /// SHA-256 of the key as `SubjectPublicKeyInfo`.
    pub fn id(&self) -> Sha256 {
        self.id
    }

    /// What kind of key it is, in words.
    pub fn describe(&self) -> &'static str {
        self.kind().name()
    }

    /// Which signatures it checks.
    pub fn kind(&self) -> KeyKind {
        match &self.kind {
            Kind::Rsa { bytes: 256, .. } => KeyKind::Rsa2048,
            Kind::Rsa { .. } => KeyKind::Rsa4096,
            Kind::P256(_) => KeyKind::P256,
        }
    }

    /// The RSA key of this modulus and exponent, both as bytes.
    pub(super) fn from_rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        let key = der::value(der::SEQUENCE, &[&der::unsigned(modulus), &der::unsigned(exponent)]);
        let names = [der::value(der::OBJECT, &[RSA]), der::value(der::NULL, &[])].concat();
        Self::from_parts(&names, &key)
    }

    /// The key on P-256 at this point.
    pub(super) fn from_p256(key: &ecdsa::VerifyingKey) -> Self {
        let names = [der::value(der::OBJECT, &[EC]), der::value(der::OBJECT, &[P256])].concat();
        let point = key.to_sec1_point(false);
        Self::from_parts(&names, point.as_bytes()).expect("a point of the curve is a key")
    }

    fn from_parts(names: &[u8], key: &[u8]) -> Result<Self, KeyError> {
        let names = der::value(der::SEQUENCE, &[names]);
        Self::from_spki(&der::value(der::SEQUENCE, &[&names, &der::value(der::BITS, &[&[0], key])]))
    }

    /// Whether `signature` is this key's over what has `digest`.
    ///
    /// # Source
    /// RFC 8017, section 8.2.2 (RSASSA-PKCS1-v1_5); FIPS 186-5, section 6.4.2 (ECDSA), signatures in DER.
    pub fn verify(&self, digest: &Sha256, signature: &[u8]) -> bool {
        match &self.kind {
            Kind::Rsa { modulus, exponent, bytes } => {
                let value = BigUint::from_bytes_be(signature);
                if signature.len() != *bytes || value >= *modulus {
                    return false;
                }
                // The message is made anew and compared whole: nothing of the signature is parsed.
                value.modpow(exponent, modulus) == BigUint::from_bytes_be(&rsa_message(digest, *bytes))
            }
            Kind::P256(key) => {
                let signature = ecdsa::Signature::from_der(signature);
                signature.is_ok_and(|signature| key.verify_prehash(digest.as_bytes(), &signature).is_ok())
            }
        }
    }

    fn from_certificate(bytes: &[u8]) -> Result<Self, KeyError> {
        Self::from_spki(certificate(bytes).ok_or(KeyError::Format)?.key)
    }

    fn from_spki(bytes: &[u8]) -> Result<Self, KeyError> {
        use sha2::Digest as _;

        let Spki { algorithm, parameters, key } = spki(bytes).ok_or(KeyError::Format)?;
        let kind = if algorithm == RSA {
            let (modulus, exponent) = rsa(key).ok_or(KeyError::Format)?;
            let bits = modulus.bits();
            if !matches!(bits, 2048 | 4096) {
                return Err(KeyError::Bits(bits));
            }
            if exponent != BigUint::from(3_u32) && exponent != BigUint::from(65537_u32) {
                return Err(KeyError::Exponent);
            }
            Kind::Rsa { modulus, exponent, bytes: if bits == 2048 { 256 } else { 512 } }
        } else if algorithm == EC && parameters == Some(P256) {
            Kind::P256(Box::new(ecdsa::VerifyingKey::from_sec1_bytes(key).map_err(|_| KeyError::Point)?))
        } else {
            return Err(KeyError::Kind);
        };
        Ok(Self { kind, id: Sha256::new(sha2::Sha256::digest(bytes).into()) })
    }
}

/// The bytes of the first block with this label.
fn pem(text: &str, label: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    base64::engine::general_purpose::STANDARD.decode(body).ok()
}

/// A `SubjectPublicKeyInfo`.
struct Spki<'a> {
    algorithm: &'a [u8],
    /// The algorithm's parameters, if they are a name.
    parameters: Option<&'a [u8]>,
    key: &'a [u8],
}

fn spki(bytes: &[u8]) -> Option<Spki<'_>> {
    let mut outer = Reader::new(bytes);
    let mut inner = Reader::new(outer.take(der::SEQUENCE)?);
    let mut names = Reader::new(inner.take(der::SEQUENCE)?);
    let algorithm = names.take(der::OBJECT)?;
    let parameters = names.take(der::OBJECT);
    let (unused, key) = inner.take(der::BITS)?.split_first()?;
    (*unused == 0 && inner.is_empty() && outer.is_empty()).then_some(Spki { algorithm, parameters, key })
}

fn rsa(bytes: &[u8]) -> Option<(BigUint, BigUint)> {
    let mut outer = Reader::new(bytes);
    let mut inner = Reader::new(outer.take(der::SEQUENCE)?);
    let number = |inner: &mut Reader<'_>| {
        let bytes = inner.take(der::INTEGER)?;
        bytes.first().is_some_and(|&first| first < 0x80).then(|| BigUint::from_bytes_be(bytes))
    };
    let (modulus, exponent) = (number(&mut inner)?, number(&mut inner)?);
    (inner.is_empty() && outer.is_empty()).then_some((modulus, exponent))
}

/// The names and the key of a certificate, as they stand there.
struct Names<'a> {
    /// Its number, with tag and length.
    serial: &'a [u8],
    /// Who made it, with tag and length.
    issuer: &'a [u8],
    key: &'a [u8],
}

/// Takes a certificate apart.
///
/// # Source
/// RFC 5280, section 4.1.
fn certificate(bytes: &[u8]) -> Option<Names<'_>> {
    let mut outer = Reader::new(bytes);
    let mut certificate = Reader::new(outer.take(der::SEQUENCE)?);
    let mut fields = Reader::new(certificate.take(der::SEQUENCE)?);
    let _version = fields.take(der::CONTEXT_0);
    let serial = fields.whole(der::INTEGER)?;
    fields.take(der::SEQUENCE)?; // algorithm
    let issuer = fields.whole(der::SEQUENCE)?;
    fields.take(der::SEQUENCE)?; // validity
    fields.take(der::SEQUENCE)?; // subject
    let key = fields.whole(der::SEQUENCE)?;
    outer.is_empty().then_some(Names { serial, issuer, key })
}

/// A certificate: what phones keep as the name of a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate {
    der: Vec<u8>,
    serial: Vec<u8>,
    issuer: Vec<u8>,
    key: PublicKey,
}

impl Certificate {
    /// Reads an X.509 certificate, in PEM or DER.
    ///
    /// # Errors
    /// [`KeyError`] for anything else, and for keys that phones do not know.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() > MAX_FILE {
            return Err(KeyError::TooLong(bytes.len()));
        }
        let der = if bytes.first() == Some(&0x30) {
            bytes.to_vec()
        } else {
            let text = std::str::from_utf8(bytes).map_err(|_| KeyError::NoCertificate)?;
            pem(text, "CERTIFICATE").ok_or(KeyError::NoCertificate)?
        };
        let Names { serial, issuer, key } = certificate(&der).ok_or(KeyError::NoCertificate)?;
        let (serial, issuer, key) = (serial.to_vec(), issuer.to_vec(), PublicKey::from_spki(key)?);
        Ok(Self { der, serial, issuer, key })
    }

    /// All of it, in DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// All of it as PEM, lines of 64 characters.
    pub fn to_pem(&self) -> String {
        let body = base64::engine::general_purpose::STANDARD.encode(&self.der);
        let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
        for line in body.as_bytes().chunks(64) {
            pem.extend(line.iter().map(|&byte| char::from(byte)));
            pem.push('\n');
        }
        pem + "-----END CERTIFICATE-----\n"
    }

    /// The key that it names.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Issuer and number, each with tag and length: what a signature says of whose it is.
    pub(crate) fn issuer_and_serial(&self) -> [&[u8]; 2] {
        [&self.issuer, &self.serial]
    }
}

/// What an RSA signature of `bytes` bytes is a power of.
///
/// # Source
/// RFC 8017, section 9.2 (EMSA-PKCS1-v1_5).
pub(super) fn rsa_message(digest: &Sha256, bytes: usize) -> Vec<u8> {
    let mut message = vec![0xff; bytes];
    let tail = DIGEST_INFO.len() + digest.as_bytes().len();
    message[..2].copy_from_slice(&[0, 1]);
    message[bytes - tail - 1] = 0;
    message[bytes - tail..bytes - 32].copy_from_slice(&DIGEST_INFO);
    message[bytes - 32..].copy_from_slice(digest.as_bytes());
    message
}
