//! Private keys that sign payloads and OTA zips, and the files that they come in.
//!
//! Keys are used on the maintainer's own machine, and no one else can ask for signatures or measure how long they take.
//! Even so, RSA is done by powers that take the same time for every key (`crypto-bigint`), and each signature is checked
//! with the public key before it is handed out: a computer's fault never gives a wrong one away. The crate `rsa` was
//! turned down: its stable version takes time that depends on the key (RUSTSEC-2023-0071). `ring` wants the whole message
//! in memory, which is an OTA zip here.

use std::fmt;

use base64::Engine as _;
use crypto_bigint::{
    BoxedUint, Odd,
    modular::{BoxedMontyForm, BoxedMontyParams},
};
use p256::ecdsa::{self, signature::hazmat::PrehashSigner as _};
use pkcs8::{
    EncryptedPrivateKeyInfoRef,
    pkcs5::{EncryptionScheme, pbes2::Kdf},
};
use relevo_types::Sha256;
use zeroize::Zeroizing;

use super::{
    KeyError, KeyKind, PublicKey,
    der::{self, Reader},
    key::{EC, MAX_FILE, P256, RSA, rsa_message},
};

/// Most memory that opening a key may take, in bytes; openssl takes 16 MiB unless it is told otherwise.
const MAX_SCRYPT_MEMORY: u128 = 1 << 30;
/// Most passes over that memory.
const MAX_SCRYPT_PASSES: u16 = 16;
/// Most rounds of PBKDF2, some seconds; openssl takes 2048 unless it is told otherwise.
const MAX_ROUNDS: u32 = 10_000_000;

/// A key that makes signatures.
pub struct PrivateKey {
    secret: Secret,
    public: PublicKey,
}

enum Secret {
    Rsa { modulus: Box<BoxedMontyParams>, exponent: Zeroizing<BoxedUint> },
    P256(Box<ecdsa::SigningKey>),
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("public", &self.public.id()).finish_non_exhaustive()
    }
}

/// Why a file is no private key that we use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivateKeyError {
    /// Something else.
    #[error("it is no private key: neither PKCS#8, PKCS#1 nor SEC1, in PEM or DER")]
    Format,
    /// Larger than any key.
    #[error("it has {0} bytes, too many for a key")]
    TooLong(usize),
    /// It is encrypted, and no passphrase was given.
    #[error("it is encrypted, and no passphrase was given")]
    NoPassphrase,
    /// The passphrase is wrong, or the file is damaged; they cannot be told apart.
    #[error("the passphrase is wrong, or the file is damaged")]
    Passphrase,
    /// Encrypted in a way from before PBES2, which is quickly guessed.
    #[error("it is encrypted in an old way, which is no protection; expected PKCS#8 with PBES2")]
    OldEncryption,
    /// Encrypted with what we have no code for.
    #[error("it is encrypted in a way that is not known; expected PBES2 with AES and PBKDF2 over SHA-256, or scrypt")]
    Encryption,
    /// The file asks for more work than anybody should do for it.
    #[error("opening it takes more work than is allowed: {0}")]
    Cost(String),
    /// A kind of key that phones do not know.
    #[error("the public half of it is refused")]
    Public(#[from] KeyError),
    /// Its numbers are not those of a key.
    #[error("its numbers are no key's: {0}")]
    Numbers(&'static str),
}

/// Why there is no signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// What the key made is no signature of its own public half: key file or computer are damaged.
    #[error("the {kind} key made a signature that its own public half does not know; its file is damaged")]
    Fault {
        /// What kind of key.
        kind: KeyKind,
    },
}

impl PrivateKey {
    /// Reads a private key: PKCS#8, plain or encrypted, PKCS#1 or SEC1, in PEM or DER.
    ///
    /// # Errors
    /// [`PrivateKeyError::NoPassphrase`] if it is encrypted and `passphrase` is none; what is wrong with it otherwise.
    pub fn parse(bytes: &[u8], passphrase: Option<&[u8]>) -> Result<Self, PrivateKeyError> {
        if bytes.len() > MAX_FILE {
            return Err(PrivateKeyError::TooLong(bytes.len()));
        }
        let der = unwrap_pem(bytes)?;
        // What is in it shows in its first values; labels of PEM say the same again.
        let mut fields = Reader::new(&der);
        let mut fields = Reader::new(fields.take(der::SEQUENCE).ok_or(PrivateKeyError::Format)?);
        if fields.take(der::SEQUENCE).is_some() {
            let plain = decrypt(&der, passphrase)?;
            return Self::from_pkcs8(&plain);
        }
        fields.take(der::INTEGER).ok_or(PrivateKeyError::Format)?;
        if fields.take(der::SEQUENCE).is_some() {
            Self::from_pkcs8(&der)
        } else if fields.take(der::INTEGER).is_some() {
            Self::from_rsa(&der)
        } else {
            Self::from_sec1(&der, true)
        }
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs what has `digest`; gives PKCS#1 v1.5 for RSA, DER for ECDSA.
    ///
    /// The same key and digest give the same signature.
    ///
    /// # Errors
    /// [`SignError`] if the signature is not one of the public half.
    ///
    /// # Source
    /// RFC 8017, section 8.2.1; RFC 6979 for ECDSA.
    pub fn sign(&self, digest: &Sha256) -> Result<Vec<u8>, SignError> {
        let kind = self.public.kind();
        let signature = match &self.secret {
            Secret::Rsa { modulus, exponent } => {
                let len = kind.signature_len();
                // The message starts with zero, so it is below the modulus.
                let message = BoxedUint::from_be_slice_truncated(&rsa_message(digest, len), bits(len));
                BoxedMontyForm::new(message, modulus).pow(exponent).retrieve().to_be_bytes().into_vec()
            }
            Secret::P256(key) => {
                let signature: ecdsa::Signature =
                    key.sign_prehash(digest.as_bytes()).map_err(|_| SignError::Fault { kind })?;
                signature.to_der().as_bytes().to_vec()
            }
        };
        if self.public.verify(digest, &signature) { Ok(signature) } else { Err(SignError::Fault { kind }) }
    }

    /// # Source
    /// RFC 5208, section 5.
    fn from_pkcs8(der: &[u8]) -> Result<Self, PrivateKeyError> {
        let parts = || {
            let mut outer = Reader::new(der);
            let mut fields = Reader::new(outer.take(der::SEQUENCE)?);
            fields.take(der::INTEGER)?; // version
            let mut names = Reader::new(fields.take(der::SEQUENCE)?);
            let (algorithm, parameters) = (names.take(der::OBJECT)?, names.take(der::OBJECT));
            let key = fields.take(der::OCTETS)?;
            outer.is_empty().then_some((algorithm, parameters, key))
        };
        let (algorithm, parameters, key) = parts().ok_or(PrivateKeyError::Format)?;
        if algorithm == RSA {
            Self::from_rsa(key)
        } else if algorithm == EC && parameters == Some(P256) {
            Self::from_sec1(key, false)
        } else {
            Err(KeyError::Kind.into())
        }
    }

    /// # Source
    /// RFC 8017, appendix A.1.2.
    fn from_rsa(der: &[u8]) -> Result<Self, PrivateKeyError> {
        let parts = || {
            let mut outer = Reader::new(der);
            let mut fields = Reader::new(outer.take(der::SEQUENCE)?);
            let version = fields.take(der::INTEGER)?;
            let numbers = (fields.take(der::INTEGER)?, fields.take(der::INTEGER)?, fields.take(der::INTEGER)?);
            // Version 1 has more than two primes.
            (version == [0] && outer.is_empty()).then_some(numbers)
        };
        let (modulus, public, private) = parts().ok_or(PrivateKeyError::Format)?;
        if [modulus, public, private].iter().any(|number| number.first().is_none_or(|&first| first >= 0x80)) {
            return Err(PrivateKeyError::Numbers("one of them is negative"));
        }
        let key = PublicKey::from_rsa(modulus, public)?;
        let len = key.kind().signature_len();
        let number = |bytes: &[u8]| {
            let first = bytes.iter().position(|&byte| byte != 0).unwrap_or(bytes.len());
            BoxedUint::from_be_slice(&bytes[first..], bits(len)).ok()
        };
        let modulus = number(modulus).and_then(|modulus| Odd::new(modulus).into_option());
        let modulus = modulus.ok_or(PrivateKeyError::Numbers("the modulus is even"))?;
        let exponent = number(private).filter(|exponent| exponent < modulus.as_ref());
        let exponent = exponent.ok_or(PrivateKeyError::Numbers("the exponent is not below the modulus"))?;
        let modulus = Box::new(BoxedMontyParams::new(modulus));
        Ok(Self { secret: Secret::Rsa { modulus, exponent: Zeroizing::new(exponent) }, public: key })
    }

    /// # Source
    /// RFC 5915, section 3.
    fn from_sec1(der: &[u8], named: bool) -> Result<Self, PrivateKeyError> {
        let parts = || {
            let mut outer = Reader::new(der);
            let mut fields = Reader::new(outer.take(der::SEQUENCE)?);
            let version = fields.take(der::INTEGER)?;
            let key = fields.take(der::OCTETS)?;
            let curve = fields.take(der::CONTEXT_0).and_then(|curve| Reader::new(curve).take(der::OBJECT));
            (version == [1] && outer.is_empty()).then_some((key, curve))
        };
        let (key, curve) = parts().ok_or(PrivateKeyError::Format)?;
        if curve.map_or(named, |curve| curve != P256) {
            return Err(KeyError::Kind.into());
        }
        let key = ecdsa::SigningKey::from_slice(key).map_err(|_| PrivateKeyError::Numbers("it is not of P-256"))?;
        let public = PublicKey::from_p256(key.verifying_key());
        Ok(Self { secret: Secret::P256(Box::new(key)), public })
    }
}

fn bits(bytes: usize) -> u32 {
    u32::try_from(bytes * 8).expect("a key has at most 4096 bits")
}

/// The bytes of a file in DER, whatever its PEM says that they are.
fn unwrap_pem(bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, PrivateKeyError> {
    if bytes.first() == Some(&0x30) {
        return Ok(Zeroizing::new(bytes.to_vec()));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| PrivateKeyError::Format)?;
    // openssl writes the curve as a block of its own before the key.
    let labels = ["PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"];
    let body = labels.iter().find_map(|label| {
        let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
        Some(rest.split_once(&format!("-----END {label}-----"))?.0)
    });
    let body = body.ok_or(PrivateKeyError::Format)?;
    if body.contains("Proc-Type:") {
        return Err(PrivateKeyError::OldEncryption);
    }
    let mut packed = Zeroizing::new(Vec::with_capacity(body.len()));
    packed.extend(body.bytes().filter(|byte| !byte.is_ascii_whitespace()));
    let mut der = Zeroizing::new(Vec::new());
    let decoded = base64::engine::general_purpose::STANDARD.decode_vec(&packed, &mut der);
    decoded.map_err(|_| PrivateKeyError::Format)?;
    Ok(der)
}

/// Opens an `EncryptedPrivateKeyInfo`.
///
/// # Source
/// RFC 5958, section 3; RFC 8018, section 6.2 (PBES2).
fn decrypt(der: &[u8], passphrase: Option<&[u8]>) -> Result<Zeroizing<Vec<u8>>, PrivateKeyError> {
    use pkcs8::der::Decode as _;

    let info = EncryptedPrivateKeyInfoRef::from_der(der).map_err(|_| {
        // Whatever names a scheme, and is not one of those that can be read, is not known.
        PrivateKeyError::Encryption
    })?;
    let EncryptionScheme::Pbes2(parameters) = &info.encryption_algorithm else {
        return Err(PrivateKeyError::OldEncryption);
    };
    match &parameters.kdf {
        Kdf::Scrypt(cost) => {
            let memory = 128 * u128::from(cost.cost_parameter) * u128::from(cost.block_size);
            if memory > MAX_SCRYPT_MEMORY || cost.parallelization > MAX_SCRYPT_PASSES {
                let passes = cost.parallelization;
                let text = format!("{memory} bytes of memory, {passes} times; the most is {MAX_SCRYPT_MEMORY}, ");
                return Err(PrivateKeyError::Cost(text + &format!("{MAX_SCRYPT_PASSES} times")));
            }
        }
        Kdf::Pbkdf2(cost) if cost.iteration_count > MAX_ROUNDS => {
            let text = format!("{} rounds; the most is {MAX_ROUNDS}", cost.iteration_count);
            return Err(PrivateKeyError::Cost(text));
        }
        Kdf::Pbkdf2(_) => {}
        _ => return Err(PrivateKeyError::Encryption),
    }
    let passphrase = passphrase.ok_or(PrivateKeyError::NoPassphrase)?;
    let opened = info.decrypt(passphrase).map_err(|error| match error {
        pkcs8::Error::EncryptedPrivateKey(pkcs8::pkcs5::Error::UnsupportedAlgorithm { .. }) => {
            PrivateKeyError::Encryption
        }
        _ => PrivateKeyError::Passphrase,
    })?;
    Ok(Zeroizing::new(opened.as_bytes().to_vec()))
}
