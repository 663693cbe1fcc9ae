//! Who signed a vbmeta image.

use num_bigint::BigUint;
use relevo_types::Sha256;
use sha2::Digest as _;

use super::Vbmeta;

/// What stands before a digest in a signature of PKCS#1 v1.5.
///
/// # Source
/// RFC 8017, section 9.2, note 1.
const SHA256_INFO: [u8; 19] =
    [0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20];
const SHA512_INFO: [u8; 19] =
    [0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05, 0x00, 0x04, 0x40];
/// The one exponent that bootloaders know.
const EXPONENT: u32 = 65537;

/// SHA-256 of the public keys, as AVB encodes keys, whose private halves are in AOSP's own tests.
///
/// # Source
/// AOSP `external/avb`, `test/data/testkey_rsa2048.pem`, `testkey_rsa4096.pem` and `testkey_rsa8192.pem`.
const TEST_KEYS: [(TestKey, &str); 3] = [
    (TestKey::Rsa2048, "22de3994532196f61c039e90260d78a93a4c57362c7e789be928036e80b77c8c"),
    (TestKey::Rsa4096, "7728e30f50bfa5cea165f473175a08803f6a8346642b5aa10913e9d9e6defef6"),
    (TestKey::Rsa8192, "e15e2365469ce672a91d02cc8d9c2f29b787481e574d3b56ac774153d7ced614"),
];

/// What a vbmeta image is signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say all")]
pub enum Algorithm {
    /// It is not signed.
    None,
    Sha256Rsa2048,
    Sha256Rsa4096,
    Sha256Rsa8192,
    Sha512Rsa2048,
    Sha512Rsa4096,
    Sha512Rsa8192,
}

impl Algorithm {
    pub(super) fn from_number(number: u32) -> Option<Self> {
        let all = [
            Self::None,
            Self::Sha256Rsa2048,
            Self::Sha256Rsa4096,
            Self::Sha256Rsa8192,
            Self::Sha512Rsa2048,
            Self::Sha512Rsa4096,
            Self::Sha512Rsa8192,
        ];
        all.get(usize::try_from(number).ok()?).copied()
    }

    /// As AVB's tools call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Sha256Rsa2048 => "SHA256_RSA2048",
            Self::Sha256Rsa4096 => "SHA256_RSA4096",
            Self::Sha256Rsa8192 => "SHA256_RSA8192",
            Self::Sha512Rsa2048 => "SHA512_RSA2048",
            Self::Sha512Rsa4096 => "SHA512_RSA4096",
            Self::Sha512Rsa8192 => "SHA512_RSA8192",
        }
    }

    /// Bytes of the key's modulus.
    fn modulus_len(self) -> usize {
        match self {
            Self::None => 0,
            Self::Sha256Rsa2048 | Self::Sha512Rsa2048 => 256,
            Self::Sha256Rsa4096 | Self::Sha512Rsa4096 => 512,
            Self::Sha256Rsa8192 | Self::Sha512Rsa8192 => 1024,
        }
    }

    fn digest_info(self) -> &'static [u8] {
        match self {
            Self::None => &[],
            Self::Sha256Rsa2048 | Self::Sha256Rsa4096 | Self::Sha256Rsa8192 => &SHA256_INFO,
            Self::Sha512Rsa2048 | Self::Sha512Rsa4096 | Self::Sha512Rsa8192 => &SHA512_INFO,
        }
    }

    /// The digest of `parts`, one after the other.
    pub(super) fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Sha256Rsa2048 | Self::Sha256Rsa4096 | Self::Sha256Rsa8192 => {
                sha2::Sha256::digest(parts.concat()).to_vec()
            }
            Self::Sha512Rsa2048 | Self::Sha512Rsa4096 | Self::Sha512Rsa8192 => {
                sha2::Sha512::digest(parts.concat()).to_vec()
            }
        }
    }
}

/// A key whose private half everybody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say all")]
pub enum TestKey {
    Rsa2048,
    Rsa4096,
    Rsa8192,
}

impl TestKey {
    /// The file that it is in, in AOSP's sources.
    pub fn file(self) -> &'static str {
        match self {
            Self::Rsa2048 => "testkey_rsa2048.pem",
            Self::Rsa4096 => "testkey_rsa4096.pem",
            Self::Rsa8192 => "testkey_rsa8192.pem",
        }
    }
}

/// Why a signature is not the one of the key beside it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// There is none.
    #[error("vbmeta is not signed")]
    Unsigned,
    /// The digest is of something else.
    #[error("vbmeta's digest is not that of its contents")]
    Digest,
    /// The key is of another length, or no key.
    #[error("vbmeta's key has {len} bytes, or is damaged; {algorithm} has {expected}")]
    Key {
        /// Bytes of the key.
        len: usize,
        /// Bytes that it has to have.
        expected: usize,
        /// What it is for.
        algorithm: &'static str,
    },
    /// The signature is by another key, or of something else.
    #[error("vbmeta's signature was not made by the key in it")]
    Signature,
}

/// What was signed, what is said of it, and the signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signed {
    pub(super) computed: Vec<u8>,
    pub(super) stated: Vec<u8>,
    pub(super) signature: Vec<u8>,
}

impl Vbmeta {
    /// Whether the key inside made the signature; whose key it is, [`Vbmeta::public_key`] says.
    ///
    /// # Layout
    /// A key is the number of bits as `u32`, a number for Montgomery's multiplication as `u32`, the modulus, and another
    /// number for that multiplication, as long as the modulus.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub fn verify(&self) -> Result<(), VerifyError> {
        let (algorithm, len) = (self.algorithm, self.algorithm.modulus_len());
        if algorithm == Algorithm::None {
            return Err(VerifyError::Unsigned);
        }
        if self.signed.computed != self.signed.stated {
            return Err(VerifyError::Digest);
        }
        let key = || {
            let (bits, rest) = self.public_key.split_first_chunk::<4>()?;
            let modulus = BigUint::from_bytes_be(rest.get(4..4 + len)?);
            let fits = self.public_key.len() == 8 + 2 * len
                && usize::try_from(u32::from_be_bytes(*bits)) == Ok(8 * len)
                && modulus.bits() == 8 * len as u64;
            fits.then_some(modulus)
        };
        let modulus = key().ok_or(VerifyError::Key {
            len: self.public_key.len(),
            expected: 8 + 2 * len,
            algorithm: algorithm.name(),
        })?;
        let value = BigUint::from_bytes_be(&self.signed.signature);
        if self.signed.signature.len() != len || value >= modulus {
            return Err(VerifyError::Signature);
        }
        // The message is made anew and compared whole: nothing of the signature is parsed.
        let tail = [&[0], algorithm.digest_info(), &self.signed.computed].concat();
        let mut expected = vec![0xff; len];
        expected[..2].copy_from_slice(&[0, 1]);
        expected[len - tail.len()..].copy_from_slice(&tail);
        if value.modpow(&BigUint::from(EXPONENT), &modulus) == BigUint::from_bytes_be(&expected) {
            Ok(())
        } else {
            Err(VerifyError::Signature)
        }
    }

    /// The test key of AOSP that signed it, if it was one.
    pub fn test_key(&self) -> Option<TestKey> {
        let id = self.public_key_id()?.to_string();
        TEST_KEYS.iter().find(|(_, digest)| *digest == id).map(|(key, _)| *key)
    }

    /// SHA-256 of the key that signed it, as AVB encodes keys.
    pub fn public_key_id(&self) -> Option<Sha256> {
        let key = Some(&self.public_key).filter(|key| !key.is_empty())?;
        Some(Sha256::new(sha2::Sha256::digest(key).into()))
    }
}
