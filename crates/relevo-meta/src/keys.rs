//! Signing keys: Ed25519, in files that openssl reads too.

use std::fmt;

use ed25519_dalek::{
    Signer as _, SigningKey, VerifyingKey,
    pkcs8::{EncodePrivateKey as _, KeypairBytes, spki::DecodePublicKey as _, spki::EncodePublicKey as _},
};
use pkcs8::{
    DecodePrivateKey as _, EncryptedPrivateKeyInfoRef, LineEnding, PrivateKeyInfoRef, SecretDocument,
    der::{Decode as _, pem::PemLabel as _},
    pkcs5::{EncryptionScheme, pbes2, scrypt},
};
use serde_json::json;
use zeroize::{Zeroize as _, Zeroizing};

/// An Ed25519 private key. It is wiped from memory when dropped, and its `Debug` shows the public half only.
pub struct PrivateKey {
    key: SigningKey,
    public: PublicKey,
}

/// An Ed25519 public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// Somebody who signs: a key in memory, a token, a person who is handed a file.
pub trait Signer {
    /// The public half.
    fn public(&self) -> &PublicKey;

    /// Signs `message`.
    ///
    /// # Errors
    /// [`SignError`] if the signer cannot or does not want to.
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError>;

    /// Id of the key in metadata.
    fn key_id(&self) -> String {
        self.public().key_id()
    }
}

/// A signer did not sign.
#[derive(Debug, thiserror::Error)]
#[error("the key {key_id} did not sign")]
pub struct SignError {
    /// Id of the key.
    pub key_id: String,
    /// Why.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Cost of deriving the file's key from a password: `N` = 2^`log_n`, `r`, `p` of RFC 7914.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScryptCost {
    /// Logarithm of `N`.
    pub log_n: u8,
    /// Block size.
    pub r: u32,
    /// Parallelism.
    pub p: u32,
}

/// Randomness for one encryption: 32 bytes from a cryptographic generator, never used twice.
#[derive(Debug, Clone, Copy)]
pub struct FileRandom {
    /// For the key derivation.
    pub salt: [u8; 16],
    /// For the cipher.
    pub iv: [u8; 16],
}

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// No such PEM, or of another kind of key.
    #[error("no encrypted Ed25519 private key in PEM form (PKCS#8, PBES2)")]
    PrivateFormat(#[source] pkcs8::Error),
    /// No such PEM, or of another kind of key.
    #[error("no Ed25519 public key in PEM form")]
    PublicFormat(#[source] pkcs8::spki::Error),
    /// The file asks for more work than anybody should do for it.
    #[error(
        "the key file asks for a scrypt cost of N = {n}, r = {r}, p = {p}; the most is N = 1048576, r = 32, p = 16"
    )]
    Cost {
        /// `N`.
        n: u64,
        /// `r`.
        r: u64,
        /// `p`.
        p: u64,
    },
    /// The password is wrong, or the file is damaged; they cannot be told apart.
    #[error("the password is wrong or the key file is damaged")]
    Password,
    /// The file could not be encrypted.
    #[error("could not encrypt the key")]
    Encrypt(#[source] pkcs8::Error),
}

impl ScryptCost {
    /// What new key files use: N = 2^14, r = 8, p = 1, the most that openssl 3 reads without being told to allow more.
    pub const DEFAULT: Self = Self { log_n: 14, r: 8, p: 1 };

    /// For tests: as good as no protection.
    pub const QUICK: Self = Self { log_n: 1, r: 8, p: 1 };

    const MAX_N: u64 = 1 << 20;
    const MAX_R: u64 = 32;
    const MAX_P: u64 = 16;
}

impl PrivateKey {
    /// Makes a key from 32 bytes of a cryptographic random generator.
    pub fn from_random(mut bytes: [u8; 32]) -> Self {
        let key = SigningKey::from_bytes(&bytes);
        bytes.zeroize();
        let public = PublicKey(key.verifying_key());
        Self { key, public }
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The key itself, for other signatures than those of metadata.
    pub fn signing_key(&self) -> &SigningKey {
        &self.key
    }

    /// The key as PEM, encrypted: PKCS#8 with PBES2, scrypt and AES-256-CBC.
    ///
    /// # Errors
    /// [`KeyError::Cost`] and [`KeyError::Encrypt`] for an impossible `cost`.
    pub fn to_encrypted_pem(
        &self,
        password: &[u8],
        random: FileRandom,
        cost: ScryptCost,
    ) -> Result<Zeroizing<String>, KeyError> {
        let error = || KeyError::Cost { n: 1 << cost.log_n.min(63), r: cost.r.into(), p: cost.p.into() };
        let params = scrypt::Params::new(cost.log_n, cost.r, cost.p).map_err(|_| error())?;
        let scheme = pbes2::Parameters::generate_scrypt_aes256cbc(params, &random.salt, random.iv)
            .map_err(|source| KeyError::Encrypt(source.into()))?;
        // PKCS#8 version 1, without the public half: openssl refuses version 2.
        let plain = KeypairBytes { secret_key: self.key.to_bytes(), public_key: None }
            .to_pkcs8_der()
            .map_err(KeyError::Encrypt)?;
        let info = PrivateKeyInfoRef::from_der(plain.as_bytes()).map_err(|source| KeyError::Encrypt(source.into()))?;
        let encrypted = info.encrypt_with_params(scheme, password).map_err(KeyError::Encrypt)?;
        encrypted
            .to_pem(EncryptedPrivateKeyInfoRef::PEM_LABEL, LineEnding::LF)
            .map_err(|source| KeyError::Encrypt(source.into()))
    }

    /// Reads what [`Self::to_encrypted_pem`] or `openssl pkcs8 -topk8 -scrypt` wrote.
    ///
    /// # Errors
    /// [`KeyError`]; the cost is checked before any work is done for it.
    pub fn from_encrypted_pem(pem: &str, password: &[u8]) -> Result<Self, KeyError> {
        let format = |source: pkcs8::der::Error| KeyError::PrivateFormat(source.into());
        let (label, document) = SecretDocument::from_pem(pem.trim()).map_err(format)?;
        EncryptedPrivateKeyInfoRef::validate_pem_label(label).map_err(|source| format(source.into()))?;
        let info = EncryptedPrivateKeyInfoRef::from_der(document.as_bytes()).map_err(format)?;
        let scrypt = match &info.encryption_algorithm {
            EncryptionScheme::Pbes2(parameters) => parameters.kdf.scrypt(),
            _ => None,
        };
        let Some(cost) = scrypt else {
            return Err(KeyError::PrivateFormat(pkcs8::Error::ParametersMalformed));
        };
        let (n, r, p) = (cost.cost_parameter, u64::from(cost.block_size), u64::from(cost.parallelization));
        if n > ScryptCost::MAX_N || r > ScryptCost::MAX_R || p > ScryptCost::MAX_P {
            return Err(KeyError::Cost { n, r, p });
        }
        let plain = info.decrypt(password).map_err(|_| KeyError::Password)?;
        let pair = KeypairBytes::from_pkcs8_der(plain.as_bytes()).map_err(KeyError::PrivateFormat)?;
        Ok(Self::from_random(pair.secret_key))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("public", &self.public).finish_non_exhaustive()
    }
}

impl Signer for PrivateKey {
    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        Ok(self.key.sign(message).to_bytes())
    }
}

impl PublicKey {
    /// The key as PEM (SubjectPublicKeyInfo).
    pub fn to_pem(&self) -> String {
        self.0.to_public_key_pem(LineEnding::LF).expect("a key of 32 bytes has a PEM form")
    }

    /// Reads [`Self::to_pem`] and [`Self::to_text`].
    ///
    /// # Errors
    /// [`KeyError::PublicFormat`].
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        VerifyingKey::from_public_key_pem(pem.trim()).map(Self).map_err(KeyError::PublicFormat)
    }

    /// The key as PEM with words for people in front, which everybody who reads PEM passes over: what it is, whose, and
    /// its id.
    pub fn to_text(&self, name: &str) -> String {
        let id = self.key_id();
        format!(
            "Relevo public key \"{name}\"\nId: {id}\nMay be given to anybody; compare the id over another way than it came.\n\n{}",
            self.to_pem()
        )
    }

    /// Reads [`Self::to_value`]; none for another kind of key.
    pub fn from_value(value: &serde_json::Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(serde_json::Value::as_str);
        if text("keytype") != Some("ed25519") || text("scheme") != Some("ed25519") {
            return None;
        }
        let public = value.get("keyval")?.get("public")?.as_str()?;
        // Thirty-two bytes in hexadecimal, as a digest is.
        let bytes = relevo_types::Sha256::parse(public).ok()?;
        VerifyingKey::from_bytes(bytes.as_bytes()).ok().map(Self)
    }

    /// Whether `signature` is this key's over `message`, by RFC 8032 in its strict reading.
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
    }

    /// The key that verifies.
    pub fn verifying_key(&self) -> &VerifyingKey {
        &self.0
    }

    /// The key as it stands in metadata.
    pub fn to_value(&self) -> serde_json::Value {
        json!({"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": self.hex()}})
    }

    /// Id of the key: SHA-256 of the canonical JSON of [`Self::to_value`], TUF 4.2.
    pub fn key_id(&self) -> String {
        let canonical = sigstore_tuf::canonical_json::to_canonical_bytes(&self.to_value());
        crate::crypto::sha256(&canonical.expect("a key holds no floats")).to_string()
    }

    fn hex(&self) -> String {
        relevo_types::Sha256::new(self.0.to_bytes()).to_string()
    }
}

impl From<VerifyingKey> for PublicKey {
    fn from(key: VerifyingKey) -> Self {
        Self(key)
    }
}
