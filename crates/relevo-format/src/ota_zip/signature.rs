//! The signature over the whole file, which recoveries check.

use relevo_types::{ByteLen, Sha256};

use super::OtaZip;
use crate::{
    ReadAt,
    payload::{
        PublicKey, SignatureError,
        der::{self, Reader},
        hash_ranges, signer,
    },
};

/// `1.2.840.113549.1.7.2`, signed data.
pub(crate) const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
/// `2.16.840.1.101.3.4.2.1`, SHA-256.
pub(crate) const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
/// Bytes of the footer: where the signature starts, `ff ff`, how long the comment is; both counted from the file's end.
pub(super) const FOOTER: usize = 6;
const WHAT: &str = "whole file";

/// A signature over the whole file; not yet trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeFile {
    signatures: Vec<Vec<u8>>,
    signed: u64,
}

/// Why a comment holds no signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WholeFileError {
    /// No footer, so nobody signed.
    #[error("the whole file is not signed")]
    Unsigned,
    /// The footer does not fit the comment.
    #[error("the signature's footer says {start} bytes of {comment}; the comment has {actual}")]
    Footer {
        /// Where it says that the signature starts.
        start: u16,
        /// How long it says that the comment is.
        comment: u16,
        /// How long it is.
        actual: u16,
    },
    /// A second end record in the comment, for readers that search from the front.
    #[error("the comment holds another end record")]
    EndInComment,
    /// The signature is no PKCS#7 signed data.
    #[error("the signature of the whole file is no PKCS#7 signed data")]
    Format,
    /// Another digest.
    #[error("the signature of the whole file is not over SHA-256")]
    Digest,
    /// Attributes are signed instead of the file; recoveries do not read those.
    #[error("the signature of the whole file has signed attributes, which recoveries refuse")]
    Attributes,
}

impl<R: ReadAt> OtaZip<R> {
    /// The signature in the zip's comment.
    ///
    /// # Errors
    /// [`WholeFileError`] if there is none, or if a recovery would not find it. A comment that cannot be read counts as
    /// none.
    ///
    /// # Source
    /// AOSP `bootable/recovery/install/verifier.cpp`, `verify_file`.
    pub fn signature(&self) -> Result<WholeFile, WholeFileError> {
        let record_len = usize::try_from(super::END_LEN).expect("22");
        let mut record = vec![0; record_len + usize::from(self.comment)];
        self.file.read_exact_at(&mut record, self.end).map_err(|_| WholeFileError::Unsigned)?;
        let comment = &record[record_len..];
        let Some((content, footer)) = comment.split_last_chunk::<FOOTER>() else {
            return Err(WholeFileError::Unsigned);
        };
        let [start_low, start_high, 0xff, 0xff, length_low, length_high] = *footer else {
            return Err(WholeFileError::Unsigned);
        };
        let (start, len) = (u16::from_le_bytes([start_low, start_high]), u16::from_le_bytes([length_low, length_high]));
        let bytes = usize::from(start).checked_sub(FOOTER).filter(|&bytes| bytes > 0 && bytes <= content.len());
        let Some(bytes) = bytes.filter(|_| len == self.comment) else {
            return Err(WholeFileError::Footer { start, comment: len, actual: self.comment });
        };
        if record[1..].windows(4).any(|window| window == super::END) {
            return Err(WholeFileError::EndInComment);
        }
        let signatures = signed_data(&content[content.len() - bytes..])?;
        // All but the comment and its length.
        Ok(WholeFile { signatures, signed: self.end + super::END_LEN - 2 })
    }
}

impl WholeFile {
    /// Bytes from the start of the file that are signed.
    pub fn signed(&self) -> ByteLen {
        ByteLen::new(self.signed)
    }

    /// Which of `keys` signed; reads all of `file`. `advance` is told of bytes that were read.
    ///
    /// # Errors
    /// [`SignatureError`] if none did.
    pub fn verify<'k>(
        &self,
        file: &dyn ReadAt,
        keys: &'k [PublicKey],
        advance: impl FnMut(u64) -> std::ops::ControlFlow<()>,
    ) -> Result<&'k PublicKey, SignatureError> {
        let digest: Sha256 = hash_ranges(file, &[(0, self.signed)], advance)?;
        signer(WHAT, &self.signatures, &digest, keys)
    }
}

/// The signatures of a PKCS#7 `SignedData`.
///
/// # Source
/// RFC 2315, sections 7 and 9.
fn signed_data(bytes: &[u8]) -> Result<Vec<Vec<u8>>, WholeFileError> {
    let infos = signer_infos(bytes).ok_or(WholeFileError::Format)?;
    let mut infos = Reader::new(infos);
    let mut signatures = Vec::new();
    while !infos.is_empty() {
        let mut info = Reader::new(infos.take(der::SEQUENCE).ok_or(WholeFileError::Format)?);
        let mut fields = || {
            info.take(der::INTEGER)?; // version
            info.take(der::SEQUENCE)?; // whose certificate
            Reader::new(info.take(der::SEQUENCE)?).take(der::OBJECT)
        };
        if fields().ok_or(WholeFileError::Format)? != SHA256 {
            return Err(WholeFileError::Digest);
        }
        if info.take(der::CONTEXT_0).is_some() {
            return Err(WholeFileError::Attributes);
        }
        info.take(der::SEQUENCE).ok_or(WholeFileError::Format)?; // algorithm
        signatures.push(info.take(der::OCTETS).ok_or(WholeFileError::Format)?.to_vec());
    }
    if signatures.is_empty() { Err(WholeFileError::Format) } else { Ok(signatures) }
}

fn signer_infos(bytes: &[u8]) -> Option<&[u8]> {
    let mut outer = Reader::new(bytes);
    let mut content = Reader::new(outer.take(der::SEQUENCE)?);
    if !outer.is_empty() || content.take(der::OBJECT)? != SIGNED_DATA {
        return None;
    }
    let mut wrapped = Reader::new(content.take(der::CONTEXT_0)?);
    let mut data = Reader::new(wrapped.take(der::SEQUENCE)?);
    data.take(der::INTEGER)?; // version
    data.take(der::SET)?; // digests
    data.take(der::SEQUENCE)?; // what is signed: the file, which is not in here
    let _certificates = data.take(der::CONTEXT_0);
    let _revoked = data.take(der::CONTEXT_1);
    data.take(der::SET)
}
