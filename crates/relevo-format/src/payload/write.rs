//! Writes payloads: header, manifest, signatures, blobs; front to back, each byte once.

use std::{
    fmt::Write as _,
    io::{self, Write},
    ops::ControlFlow,
};

use base64::Engine as _;
use prost::Message as _;
use relevo_types::{ByteLen, Sha256};
use sha2::Digest as _;

use super::{
    KeyKind, Limits, MAGIC, Manifest, PayloadError, PrivateKey, SignError, VERSION, limit,
    manifest::{self, check},
    wire,
};
use crate::ReadAt;

/// Bytes that are copied at a time.
const BUFFER: usize = 1 << 20;

/// Lengths and digests of a payload: what phones are told beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Properties {
    /// SHA-256 of the payload: `FILE_HASH`.
    pub file_sha256: Sha256,
    /// Bytes of the payload: `FILE_SIZE`.
    pub file_size: ByteLen,
    /// SHA-256 of its header and manifest: `METADATA_HASH`.
    pub metadata_sha256: Sha256,
    /// Bytes of its header and manifest: `METADATA_SIZE`.
    pub metadata_size: ByteLen,
}

impl Properties {
    /// The lines of `payload_properties.txt`, in the order of stock ones.
    pub fn to_text(&self) -> String {
        let base64 = |digest: &Sha256| base64::engine::general_purpose::STANDARD.encode(digest.as_bytes());
        let mut text = String::new();
        let _ = writeln!(text, "FILE_HASH={}", base64(&self.file_sha256));
        let _ = writeln!(text, "FILE_SIZE={}", self.file_size.get());
        let _ = writeln!(text, "METADATA_HASH={}", base64(&self.metadata_sha256));
        let _ = writeln!(text, "METADATA_SIZE={}", self.metadata_size.get());
        text
    }
}

/// Why a payload could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Phones would refuse it.
    #[error("the payload would be refused")]
    Manifest(#[from] PayloadError),
    /// An operation has data that are not there.
    #[error("an operation's data end at byte {end} of the blobs, which have {len} bytes")]
    Blobs {
        /// Where they end.
        end: u64,
        /// Bytes of the blobs.
        len: u64,
    },
    /// The blobs could not be read.
    #[error("could not read the payload's blobs")]
    Read {
        /// What reading answered.
        source: io::Error,
    },
    /// The payload could not be written.
    #[error("could not write the payload")]
    Write {
        /// What writing answered.
        source: io::Error,
    },
    /// A key made no signature.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// Another number of signatures than there is room for.
    #[error("{actual} signatures for {expected} keys")]
    Count {
        /// As many as there is room for.
        expected: usize,
        /// As many as there are.
        actual: usize,
    },
    /// A signature that its key does not make.
    #[error("a signature of {actual} bytes for a key of kind {kind}, which has {expected}")]
    SignatureLen {
        /// Which kind of key.
        kind: KeyKind,
        /// What its signatures have, or have at most.
        expected: usize,
        /// What it has.
        actual: usize,
    },
    /// The caller asked to stop.
    #[error("stopped")]
    Stopped,
}

/// A payload all of whose bytes are decided, but for the signatures.
///
/// What is to be signed depends on how long the signatures will be, so kinds of keys come before the keys.
#[derive(Debug, Clone)]
pub struct Unsigned {
    front: Vec<u8>,
    keys: Vec<KeyKind>,
    signatures_len: u32,
    /// Where the blobs are that are copied, by offset and length.
    blobs: Vec<(u64, u64)>,
    blobs_len: u64,
}

impl Unsigned {
    /// Lays out a payload for `keys`, one signature each; for none, a payload that no phone takes.
    ///
    /// [`Data::offset`](super::Data::offset) says where an operation's data are in the blobs that the writer will be
    /// given; in the payload they stand in the manifest's order, without gaps.
    ///
    /// # Errors
    /// [`WriteError::Manifest`] if [`Payload::read`](super::Payload::read) would refuse it.
    pub fn new(manifest: &Manifest, keys: &[KeyKind]) -> Result<Self, WriteError> {
        let limits = Limits::default();
        let (mut raw, blobs) = manifest::to_wire(manifest);
        let (_, blobs_len) = check(raw.clone(), limits.partition)?;
        let signatures_len = signatures(keys, &vec![Vec::new(); keys.len()]).encoded_len();
        let signatures_len = u32::try_from(signatures_len).expect("a signature has under 1 KiB");
        if u64::from(signatures_len) > limits.signatures.get() {
            let (len, limit) = (signatures_len.into(), limits.signatures.get());
            return Err(PayloadError::TooLong { what: super::SIGNATURES, len, limit }.into());
        }
        if signatures_len > 0 {
            raw.signatures_offset = Some(blobs_len);
            raw.signatures_size = Some(signatures_len.into());
        }
        let manifest_len = raw.encoded_len();
        let (what, limit) = (super::MANIFEST, limits.manifest.get());
        if manifest_len as u64 > limit {
            return Err(PayloadError::TooLong { what, len: manifest_len as u64, limit }.into());
        }
        let mut front = Vec::with_capacity(24 + manifest_len);
        front.extend(MAGIC);
        front.extend(VERSION.to_be_bytes());
        front.extend((manifest_len as u64).to_be_bytes());
        front.extend(signatures_len.to_be_bytes());
        raw.encode(&mut front).expect("a vector grows");
        if limit::manifest_fits(&front[24..], limits.memory.get()) != Some(true) {
            return Err(PayloadError::Memory { what, limit: limits.memory.get() }.into());
        }
        // Runs that follow each other are copied at once.
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (offset, len) in blobs {
            match runs.last_mut() {
                Some((start, before)) if start.checked_add(*before) == Some(offset) => *before += len,
                _ => runs.push((offset, len)),
            }
        }
        Ok(Self { front, keys: keys.to_vec(), signatures_len, blobs: runs, blobs_len })
    }

    /// Bytes of the payload: `FILE_SIZE`.
    pub fn len(&self) -> ByteLen {
        ByteLen::new(self.front.len() as u64 + 2 * u64::from(self.signatures_len) + self.blobs_len)
    }

    /// Never: a payload has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Bytes of header and manifest: `METADATA_SIZE`.
    pub fn metadata_len(&self) -> ByteLen {
        ByteLen::new(self.front.len() as u64)
    }

    /// Bytes before the first blob: header, manifest and their signatures.
    pub fn blobs_offset(&self) -> ByteLen {
        ByteLen::new(self.front.len() as u64 + u64::from(self.signatures_len))
    }

    /// Kinds of the keys that sign, in the order of their signatures.
    pub fn keys(&self) -> &[KeyKind] {
        &self.keys
    }

    /// What the signatures of header and manifest are over: `METADATA_HASH`.
    pub fn metadata_sha256(&self) -> Sha256 {
        Sha256::new(sha2::Sha256::digest(&self.front).into())
    }

    /// What the signatures of the payload are over; reads all blobs. `advance` is told of bytes that were read.
    ///
    /// # Errors
    /// [`WriteError::Read`], [`WriteError::Blobs`], [`WriteError::Stopped`].
    pub fn sha256(
        &self,
        blobs: &dyn ReadAt,
        mut advance: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Sha256, WriteError> {
        let mut hasher = sha2::Sha256::new_with_prefix(&self.front);
        self.each(blobs, &mut |bytes| {
            hasher.update(bytes);
            flow(advance(bytes.len() as u64))
        })?;
        Ok(Sha256::new(hasher.finalize().into()))
    }

    /// Writes the payload; reads `blobs` and writes `out` once, front to back.
    ///
    /// `metadata` are the signatures of header and manifest. `sign` makes those of the payload, when all before them was
    /// written, out of what they are over. `advance` is told of bytes that were copied.
    ///
    /// # Errors
    /// [`WriteError`]; what was written by then is of no use.
    pub fn write(
        &self,
        blobs: &dyn ReadAt,
        metadata: &[Vec<u8>],
        sign: impl FnOnce(&Sha256) -> Result<Vec<Vec<u8>>, WriteError>,
        out: &mut dyn Write,
        mut advance: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Properties, WriteError> {
        let mut file = Hashed { inner: out, hasher: sha2::Sha256::new() };
        let mut signed = sha2::Sha256::new_with_prefix(&self.front);
        file.write(&self.front)?;
        file.write(&self.signatures(metadata)?)?;
        self.each(blobs, &mut |bytes| {
            signed.update(bytes);
            file.write(bytes)?;
            flow(advance(bytes.len() as u64))
        })?;
        let signatures = sign(&Sha256::new(signed.finalize().into()))?;
        file.write(&self.signatures(&signatures)?)?;
        Ok(Properties {
            file_sha256: Sha256::new(file.hasher.finalize().into()),
            file_size: self.len(),
            metadata_sha256: self.metadata_sha256(),
            metadata_size: self.metadata_len(),
        })
    }

    fn signatures(&self, data: &[Vec<u8>]) -> Result<Vec<u8>, WriteError> {
        if data.len() != self.keys.len() {
            return Err(WriteError::Count { expected: self.keys.len(), actual: data.len() });
        }
        for (&kind, data) in self.keys.iter().zip(data) {
            let (expected, actual) = (kind.signature_len(), data.len());
            if actual > expected || actual == 0 || kind != KeyKind::P256 && actual != expected {
                return Err(WriteError::SignatureLen { kind, expected, actual });
            }
        }
        Ok(signatures(&self.keys, data).encode_to_vec())
    }

    /// Gives the blobs in their order, in pieces.
    fn each(
        &self,
        blobs: &dyn ReadAt,
        take: &mut dyn FnMut(&[u8]) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        let mut buffer = vec![0; BUFFER];
        for &(offset, len) in &self.blobs {
            let end = offset.saturating_add(len);
            if end > blobs.len().get() {
                return Err(WriteError::Blobs { end, len: blobs.len().get() });
            }
            let mut done = 0;
            while done < len {
                let now = usize::try_from(len - done).unwrap_or(BUFFER).min(BUFFER);
                blobs.read_exact_at(&mut buffer[..now], offset + done).map_err(|source| WriteError::Read { source })?;
                take(&buffer[..now])?;
                done += now as u64;
            }
        }
        Ok(())
    }
}

/// Writes a payload, signed by each of `signers`; see [`Unsigned`].
///
/// # Errors
/// [`WriteError`]; what was written by then is of no use.
pub fn write(
    manifest: &Manifest,
    blobs: &dyn ReadAt,
    signers: &[PrivateKey],
    out: &mut dyn Write,
    advance: impl FnMut(u64) -> ControlFlow<()>,
) -> Result<Properties, WriteError> {
    let kinds: Vec<_> = signers.iter().map(|key| key.public().kind()).collect();
    let unsigned = Unsigned::new(manifest, &kinds)?;
    let sign =
        |digest: &Sha256| signers.iter().map(|key| Ok(key.sign(digest)?)).collect::<Result<Vec<_>, WriteError>>();
    unsigned.write(blobs, &sign(&unsigned.metadata_sha256())?, sign, out, advance)
}

/// Signatures, each padded to the most that its key's take.
fn signatures(keys: &[KeyKind], data: &[Vec<u8>]) -> wire::Signatures {
    let signature = |(kind, data): (&KeyKind, &Vec<u8>)| {
        let mut padded = data.clone();
        padded.resize(kind.signature_len(), 0);
        let len = u32::try_from(data.len()).expect("it is not longer than its key");
        wire::Signature { data: Some(padded), unpadded_signature_size: Some(len) }
    };
    wire::Signatures { signatures: keys.iter().zip(data).map(signature).collect() }
}

fn flow(flow: ControlFlow<()>) -> Result<(), WriteError> {
    if flow.is_break() { Err(WriteError::Stopped) } else { Ok(()) }
}

struct Hashed<'a> {
    inner: &'a mut dyn Write,
    hasher: sha2::Sha256,
}

impl Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.hasher.update(bytes);
        self.inner.write_all(bytes).map_err(|source| WriteError::Write { source })
    }
}
