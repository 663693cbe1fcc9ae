//! The cryptography under the verification core.
//!
//! Ed25519 goes through ed25519-dalek's `verify_strict`, which refuses keys and signatures that other verifiers might
//! read differently. ECDSA and RSA go through ring, which is on the phone anyway, inside rustls.

use std::sync::Once;

use ed25519_dalek::{Signature, VerifyingKey};
use ring::signature::{self as ring_signature, UnparsedPublicKey, VerificationAlgorithm};
use sha2::{Digest, Sha256, Sha384, Sha512};
use sigstore_crypto::{CryptoProvider, Error, HashContext, SigningScheme};
use sigstore_types::HashAlgorithm;

/// Makes our cryptography the verification core's; does so once per process, however often it is called.
///
/// [`Refresh::start`](crate::Refresh::start) calls it by itself.
pub fn install_crypto() {
    static INSTALL: Once = Once::new();

    INSTALL.call_once(|| {
        if sigstore_crypto::install_default_provider(&PROVIDER).is_err() {
            // Somebody else in this process chose a provider before us; theirs stays, as the core keeps the first.
        }
    });
}

/// SHA-256 of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> relevo_types::Sha256 {
    relevo_types::Sha256::new(Sha256::digest(bytes).into())
}

/// SHA-512 of `bytes` in hexadecimal; only targets of other people's repositories have it.
pub(crate) fn sha512(bytes: &[u8]) -> String {
    Sha512::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

static PROVIDER: Provider = Provider;

#[derive(Debug)]
struct Provider;

struct Hash<D>(D);

impl<D: Digest + Send> HashContext for Hash<D> {
    fn update(&mut self, data: &[u8]) {
        Digest::update(&mut self.0, data);
    }

    fn finalize(self: Box<Self>) -> Vec<u8> {
        self.0.finalize().to_vec()
    }
}

impl CryptoProvider for Provider {
    fn hash(&self, algorithm: HashAlgorithm) -> sigstore_crypto::Result<Box<dyn HashContext>> {
        match algorithm {
            HashAlgorithm::Sha2256 => Ok(Box::new(Hash(Sha256::new()))),
            HashAlgorithm::Sha2384 => Ok(Box::new(Hash(Sha384::new()))),
            HashAlgorithm::Sha2512 => Ok(Box::new(Hash(Sha512::new()))),
            other => Err(Error::UnsupportedAlgorithm(format!("hash {}", other.as_rekor_str()))),
        }
    }

    fn verify_raw(
        &self,
        scheme: SigningScheme,
        public_key: &[u8],
        data: &[u8],
        signature: &[u8],
    ) -> sigstore_crypto::Result<()> {
        let refused = || Error::Verification(format!("{} signature is wrong", scheme.name()));
        if scheme == SigningScheme::Ed25519 {
            let key = VerifyingKey::try_from(public_key)
                .map_err(|_| Error::InvalidKey("32 bytes that are no Ed25519 key".to_owned()))?;
            let signature = Signature::from_slice(signature).map_err(|_| refused())?;
            return key.verify_strict(data, &signature).map_err(|_| refused());
        }
        let algorithm: &'static dyn VerificationAlgorithm = match scheme {
            SigningScheme::EcdsaP256Sha256 => &ring_signature::ECDSA_P256_SHA256_ASN1,
            SigningScheme::EcdsaP256Sha384 => &ring_signature::ECDSA_P256_SHA384_ASN1,
            SigningScheme::EcdsaP384Sha256 => &ring_signature::ECDSA_P384_SHA256_ASN1,
            SigningScheme::EcdsaP384Sha384 => &ring_signature::ECDSA_P384_SHA384_ASN1,
            SigningScheme::RsaPssSha256 => &ring_signature::RSA_PSS_2048_8192_SHA256,
            SigningScheme::RsaPssSha384 => &ring_signature::RSA_PSS_2048_8192_SHA384,
            SigningScheme::RsaPssSha512 => &ring_signature::RSA_PSS_2048_8192_SHA512,
            other => return Err(Error::UnsupportedAlgorithm(other.name().to_owned())),
        };
        UnparsedPublicKey::new(algorithm, public_key).verify(data, signature).map_err(|_| refused())
    }

    fn verify_prehashed(
        &self,
        scheme: SigningScheme,
        _public_key: &[u8],
        _digest: &[u8],
        _signature: &[u8],
    ) -> sigstore_crypto::Result<()> {
        // TUF signs whole messages; nothing in our tree hands over a digest.
        Err(Error::UnsupportedAlgorithm(format!("{} over a digest", scheme.name())))
    }
}
