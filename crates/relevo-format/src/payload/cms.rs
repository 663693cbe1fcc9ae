//! Signed messages that carry their content (CMS `SignedData`), as Custota reads them.

use relevo_types::Sha256;
use sha2::Digest as _;

use super::{
    Certificate, KeyKind,
    der::{self, value},
    key::{ECDSA_SHA256, RSA_SHA256},
};
use crate::ota_zip::{DATA, SHA256, SIGNED_DATA};

/// `1.2.840.113549.1.9.3`, the kind of what is signed.
const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x03];
/// `1.2.840.113549.1.9.4`, its digest.
const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x04];
/// Longest content with the certificate, in bytes: lengths in DER are of two bytes here, and a little comes around it.
pub const MAX_CONTENT: usize = 48 << 10;

/// A message that is to be signed by the key of a certificate.
#[derive(Debug, Clone, PartialEq)]
pub struct Message<'a> {
    content: &'a [u8],
    certificate: &'a Certificate,
}

impl<'a> Message<'a> {
    /// Takes a content; `None` if content and certificate together are longer than [`MAX_CONTENT`].
    pub fn new(content: &'a [u8], certificate: &'a Certificate) -> Option<Self> {
        (content.len() + certificate.der().len() <= MAX_CONTENT).then_some(Self { content, certificate })
    }

    /// The digest that the signature is over: of the attributes, which hold the content's.
    ///
    /// # Source
    /// RFC 5652, section 5.4: the attributes are hashed as a SET, and written under another tag.
    pub fn digest(&self) -> Sha256 {
        Sha256::new(sha2::Sha256::digest(value(der::SET, &[&self.attributes()])).into())
    }

    /// The whole message in DER, with a signature over [`Self::digest`].
    ///
    /// # Source
    /// RFC 5652, section 5. There is no signing time: a phone's clock may be anywhere.
    pub fn with_signature(&self, signature: &[u8]) -> Vec<u8> {
        let sequence = |parts: &[&[u8]]| value(der::SEQUENCE, parts);
        let object = |name: &[u8]| value(der::OBJECT, &[name]);
        let version = value(der::INTEGER, &[&[1]]);
        let digest = sequence(&[&object(SHA256)]);
        let algorithm = match self.certificate.key().kind() {
            KeyKind::P256 => sequence(&[&object(ECDSA_SHA256)]),
            _ => sequence(&[&object(RSA_SHA256), &value(der::NULL, &[])]),
        };
        let signer = sequence(&[
            &version,
            &sequence(&self.certificate.issuer_and_serial()),
            &digest,
            &value(der::CONTEXT_0, &[&self.attributes()]),
            &algorithm,
            &value(der::OCTETS, &[signature]),
        ]);
        let content = value(der::CONTEXT_0, &[&value(der::OCTETS, &[self.content])]);
        let data = sequence(&[
            &version,
            &value(der::SET, &[&digest]),
            &sequence(&[&object(DATA), &content]),
            &value(der::CONTEXT_0, &[self.certificate.der()]),
            &value(der::SET, &[&signer]),
        ]);
        sequence(&[&object(SIGNED_DATA), &value(der::CONTEXT_0, &[&data])])
    }

    /// Whether `bytes` are this message with a signature by the certificate's key.
    pub fn is_signed_as(&self, bytes: &[u8]) -> bool {
        let key = self.certificate.key();
        let most = key.kind().signature_len();
        // The signature is what the message ends in, and as the rest has one form only, nothing needs to be parsed.
        let least = if key.kind() == KeyKind::P256 { 8 } else { most };
        (least..=most).any(|len| {
            let Some((_, signature)) = bytes.split_at_checked(bytes.len().saturating_sub(len)) else { return false };
            self.with_signature(signature) == bytes && key.verify(&self.digest(), signature)
        })
    }

    /// The attributes that are signed, one after the other, in the order that DER gives a SET.
    fn attributes(&self) -> Vec<u8> {
        let attribute = |name: &[u8], content: Vec<u8>| {
            value(der::SEQUENCE, &[&value(der::OBJECT, &[name]), &value(der::SET, &[&content])])
        };
        let digest = sha2::Sha256::digest(self.content);
        let mut attributes = [
            attribute(CONTENT_TYPE, value(der::OBJECT, &[DATA])),
            attribute(MESSAGE_DIGEST, value(der::OCTETS, &[digest.as_slice()])),
        ];
        attributes.sort_unstable();
        attributes.concat()
    }
}
