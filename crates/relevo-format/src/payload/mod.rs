//! Payloads of A/B updates (`payload.bin`), version 2: parse, check, make one operation's blocks.
//!
//! [`Payload::read`] takes in header, manifest and signatures and checks that they fit together; it trusts nobody.
//! [`Payload::verify`] says whose they are. [`apply_operation`] writes what one operation makes, after its data and
//! its source were checked against their digests; operations need no order among each other, so a caller may run
//! them in as many threads as it likes.
//!
//! # Source
//! AOSP `update_engine` of android-15.0.0_r23: `update_metadata.proto`, `payload_metadata.cc`, `delta_performer.cc`.

mod apply;
mod cms;
pub(crate) mod der;
pub(crate) mod key;
mod limit;
mod manifest;
mod sign;
pub mod wire;
mod write;

use std::io::{self, Read};

use prost::Message as _;
use relevo_types::{ByteLen, Sha256};
use sha2::Digest as _;

pub use self::{
    apply::{ApplyError, Sink, apply_operation, apply_unpacked, check_data, is_applied},
    cms::{MAX_CONTENT, Message},
    key::{Certificate, KeyError, KeyKind, PublicKey},
    manifest::{
        Data, Extent, Fec, HashTree, ImageInfo, Manifest, MergeKind, MergeOperation, Operation, OperationError,
        OperationKind, Partition, PartitionError, Postinstall, Verity,
    },
    sign::{PrivateKey, PrivateKeyError, SignError},
    write::{Properties, Unsigned, WriteError, write},
};
use crate::{ReadAt, Section};

/// First four bytes.
pub const MAGIC: [u8; 4] = *b"CrAU";
/// Bytes of the header: magic, version `u64`, manifest's length `u64`, its signatures' length `u32`, big-endian.
const HEADER: u64 = 24;
/// The one version that phones with A/B slots read.
const VERSION: u64 = 2;

/// The most that is taken in.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a manifest. Full payloads have under 1 MiB; a delta of 16 GiB in pieces of 64 KiB with merge
    /// operations has some 40 MiB, and nothing larger is known.
    pub manifest: ByteLen,
    /// Bytes that a decoded manifest takes: two bytes of a manifest can be an operation of 200 bytes in memory.
    pub memory: ByteLen,
    /// Bytes of the signatures of either kind; one of RSA-4096 has 523.
    pub signatures: ByteLen,
    /// Bytes of a partition.
    pub partition: ByteLen,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest: ByteLen::mib(64),
            memory: ByteLen::mib(512),
            signatures: ByteLen::kib(64),
            partition: ByteLen::new(1 << 40),
        }
    }
}

/// Why something is no payload that we take.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// The operating system refused.
    #[error("could not read the payload")]
    Read {
        /// What it answered.
        source: io::Error,
    },
    /// It starts with something else.
    #[error("it starts with {found:02x?}; a payload starts with \"CrAU\"")]
    Magic {
        /// What it starts with.
        found: [u8; 4],
    },
    /// Another version of the format.
    #[error("its format has version {0}; expected {VERSION}")]
    Version(u64),
    /// More than we take.
    #[error("its {what} has {len} bytes; the limit is {limit}")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// Bytes.
        len: u64,
        /// The most that we take.
        limit: u64,
    },
    /// It ends too early.
    #[error("its {what} ends at byte {end}; the payload has {len} bytes")]
    Truncated {
        /// Which part.
        what: &'static str,
        /// Where the part ends.
        end: u64,
        /// Bytes of the payload.
        len: u64,
    },
    /// Bytes that belong to nothing.
    #[error("it ends at byte {end}; the file goes on to {len}")]
    Trailing {
        /// Where it ends.
        end: u64,
        /// Bytes of the file.
        len: u64,
    },
    /// No message where one has to be.
    #[error("its {what} is no message")]
    Wire {
        /// Which part.
        what: &'static str,
    },
    /// A message with fields of other types.
    #[error("its {what} could not be decoded")]
    Decode {
        /// Which part.
        what: &'static str,
        /// What is wrong.
        source: prost::DecodeError,
    },
    /// It would take more memory than we give.
    #[error("its {what} takes over {limit} bytes of memory")]
    Memory {
        /// Which part.
        what: &'static str,
        /// The most that we give.
        limit: u64,
    },
    /// Blocks of another size.
    #[error("its blocks have {0} bytes; expected 4096")]
    BlockSize(u32),
    /// It makes nothing.
    #[error("it names no partition")]
    NoPartitions,
    /// One partition is wrong.
    #[error("partition {name:?} is wrong")]
    Partition {
        /// Its name, as it stands there.
        name: String,
        /// What is wrong.
        source: PartitionError,
    },
    /// The signatures are not where the blobs end.
    #[error("its signatures start at byte {actual} of the blobs; they end at {expected}")]
    SignaturesOffset {
        /// Where the blobs end.
        expected: u64,
        /// Where the signatures are said to be.
        actual: u64,
    },
}

/// Why a signature is not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// No signature at all.
    #[error("the {what} is not signed")]
    Unsigned {
        /// What.
        what: &'static str,
    },
    /// None of the keys made any of the signatures.
    #[error("none of the {signatures} signatures of the {what} is by one of the {keys} keys given")]
    Unknown {
        /// What is signed.
        what: &'static str,
        /// How many signatures.
        signatures: usize,
        /// How many keys.
        keys: usize,
    },
    /// The operating system refused.
    #[error("could not read what is signed")]
    Read {
        /// What it answered.
        source: io::Error,
    },
    /// The caller asked to stop.
    #[error("stopped")]
    Stopped,
}

/// Header, manifest and signatures of a payload, which fit together; not yet trusted.
#[derive(Debug, Clone)]
pub struct Payload {
    manifest: Manifest,
    metadata_len: u64,
    metadata_sha256: Sha256,
    metadata_signatures: Vec<Vec<u8>>,
    signatures: Vec<Vec<u8>>,
    /// Where the manifest says that they are, and how long.
    signatures_at: (Option<u64>, Option<u64>),
    blobs_offset: u64,
    blobs_len: u64,
    len: u64,
}

impl Payload {
    /// Reads all but the blobs.
    ///
    /// # Errors
    /// [`PayloadError`], naming the first rule that is broken.
    pub fn read(file: &dyn ReadAt, limits: &Limits) -> Result<Self, PayloadError> {
        let len = file.len().get();
        let header: [u8; 24] = match part(file, "header", 0, HEADER, ByteLen::new(HEADER)) {
            Ok(bytes) => bytes.try_into().expect("as many bytes as were asked for"),
            // Too short for a header, but perhaps long enough to say that it is something else.
            Err(error) => {
                let mut found = [0; 4];
                return Err(match file.read_exact_at(&mut found, 0) {
                    Ok(()) if found != MAGIC => PayloadError::Magic { found },
                    _ => error,
                });
            }
        };
        let (magic, rest) = header.split_first_chunk().expect("24 bytes have 4");
        let (version, rest) = rest.split_first_chunk().expect("20 bytes have 8");
        let (manifest_len, rest) = rest.split_first_chunk().expect("12 bytes have 8");
        let signatures_len = u32::from_be_bytes(rest.try_into().expect("4 bytes are left"));
        if *magic != MAGIC {
            return Err(PayloadError::Magic { found: *magic });
        }
        let (version, manifest_len) = (u64::from_be_bytes(*version), u64::from_be_bytes(*manifest_len));
        if version != VERSION {
            return Err(PayloadError::Version(version));
        }
        let manifest_bytes = part(file, MANIFEST, HEADER, manifest_len, limits.manifest)?;
        let metadata_len = HEADER + manifest_len;
        let metadata_signatures =
            part(file, METADATA_SIGNATURES, metadata_len, signatures_len.into(), limits.signatures)?;
        let blobs_offset = metadata_len + u64::from(signatures_len);

        let memory = limits.memory.get();
        match limit::manifest_fits(&manifest_bytes, memory) {
            Some(true) => {}
            Some(false) => return Err(PayloadError::Memory { what: MANIFEST, limit: memory }),
            None => return Err(PayloadError::Wire { what: MANIFEST }),
        }
        let raw = wire::DeltaArchiveManifest::decode(&manifest_bytes[..])
            .map_err(|source| PayloadError::Decode { what: MANIFEST, source })?;
        let metadata_sha256 = sha2::Sha256::new().chain_update(header).chain_update(&manifest_bytes).finalize();
        drop(manifest_bytes);
        let signatures_at = (raw.signatures_offset, raw.signatures_size);
        let (offset, size) = (raw.signatures_offset, raw.signatures_size.unwrap_or(0));
        let (manifest, blobs_len) = manifest::check(raw, limits.partition)?;
        match offset {
            Some(actual) if size > 0 && actual != blobs_len => {
                return Err(PayloadError::SignaturesOffset { expected: blobs_len, actual });
            }
            _ => {}
        }
        let end = |start: u64, more: u64, what| {
            let end = start.saturating_add(more);
            if end > len { Err(PayloadError::Truncated { what, end, len }) } else { Ok(end) }
        };
        let blobs_end = end(blobs_offset, blobs_len, "blobs")?;
        let signatures = part(file, SIGNATURES, blobs_end, size, limits.signatures)?;
        let all = blobs_end + size;
        if all != len {
            return Err(PayloadError::Trailing { end: all, len });
        }
        Ok(Self {
            manifest,
            metadata_len,
            metadata_sha256: Sha256::new(metadata_sha256.into()),
            metadata_signatures: decode_signatures(&metadata_signatures, METADATA_SIGNATURES)?,
            signatures: decode_signatures(&signatures, SIGNATURES)?,
            signatures_at,
            blobs_offset,
            blobs_len,
            len,
        })
    }

    /// Whether the manifest says nothing but what [`Self::manifest`] holds, in the order in which it is written.
    pub fn is_known_whole(&self) -> bool {
        let (mut raw, _) = manifest::to_wire(&self.manifest);
        (raw.signatures_offset, raw.signatures_size) = self.signatures_at;
        let mut hasher = sha2::Sha256::new_with_prefix(MAGIC);
        hasher.update(VERSION.to_be_bytes());
        hasher.update((self.metadata_len - HEADER).to_be_bytes());
        let signatures_len = u32::try_from(self.blobs_offset - self.metadata_len).expect("it was read as one");
        hasher.update(signatures_len.to_be_bytes());
        hasher.update(raw.encode_to_vec());
        Sha256::new(hasher.finalize().into()) == self.metadata_sha256
    }

    /// What it makes and of what.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Bytes of header and manifest, without the signatures behind them: `METADATA_SIZE`.
    pub fn metadata_len(&self) -> ByteLen {
        ByteLen::new(self.metadata_len)
    }

    /// SHA-256 of header and manifest: `METADATA_HASH`.
    pub fn metadata_sha256(&self) -> Sha256 {
        self.metadata_sha256
    }

    /// Where the first blob starts.
    pub fn blobs_offset(&self) -> ByteLen {
        ByteLen::new(self.blobs_offset)
    }

    /// Bytes of all blobs.
    pub fn blobs_len(&self) -> ByteLen {
        ByteLen::new(self.blobs_len)
    }

    /// Bytes of all of it: `FILE_SIZE`.
    pub fn len(&self) -> ByteLen {
        ByteLen::new(self.len)
    }

    /// Never: a payload has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Signatures of header and manifest, without padding.
    pub fn metadata_signatures(&self) -> &[Vec<u8>] {
        &self.metadata_signatures
    }

    /// Signatures of the payload, without padding.
    pub fn signatures(&self) -> &[Vec<u8>] {
        &self.signatures
    }

    /// Which of `keys` signed header and manifest.
    ///
    /// # Errors
    /// [`SignatureError`] if none did.
    pub fn verify_metadata<'k>(&self, keys: &'k [PublicKey]) -> Result<&'k PublicKey, SignatureError> {
        signer("metadata", &self.metadata_signatures, &self.metadata_sha256, keys)
    }

    /// Which of `keys` signed the payload; reads all of it. `advance` is told of bytes that were read.
    ///
    /// # Errors
    /// [`SignatureError`] if none did.
    pub fn verify<'k>(
        &self,
        file: &dyn ReadAt,
        keys: &'k [PublicKey],
        advance: impl FnMut(u64) -> std::ops::ControlFlow<()>,
    ) -> Result<&'k PublicKey, SignatureError> {
        // What is signed leaves both kinds of signatures out.
        let ranges = [(0, self.metadata_len), (self.blobs_offset, self.blobs_len)];
        let digest = hash_ranges(file, &ranges, advance)?;
        signer("payload", &self.signatures, &digest, keys)
    }
}

const MANIFEST: &str = "manifest";
const METADATA_SIGNATURES: &str = "metadata signature";
const SIGNATURES: &str = "payload signature";

/// Reads `len` bytes, if that is within `limit` and within the file.
fn part(file: &dyn ReadAt, what: &'static str, start: u64, len: u64, limit: ByteLen) -> Result<Vec<u8>, PayloadError> {
    if len > limit.get() {
        return Err(PayloadError::TooLong { what, len, limit: limit.get() });
    }
    let end = start.saturating_add(len);
    if end > file.len().get() {
        return Err(PayloadError::Truncated { what, end, len: file.len().get() });
    }
    let too_long = |_| PayloadError::TooLong { what, len, limit: usize::MAX as u64 };
    let mut bytes = vec![0; usize::try_from(len).map_err(too_long)?];
    file.read_exact_at(&mut bytes, start).map_err(|source| PayloadError::Read { source })?;
    Ok(bytes)
}

fn decode_signatures(bytes: &[u8], what: &'static str) -> Result<Vec<Vec<u8>>, PayloadError> {
    let limit = ByteLen::mib(1).get();
    match limit::signatures_fit(bytes, limit) {
        Some(true) => {}
        Some(false) => return Err(PayloadError::Memory { what, limit }),
        None => return Err(PayloadError::Wire { what }),
    }
    let raw = wire::Signatures::decode(bytes).map_err(|source| PayloadError::Decode { what, source })?;
    let cut = |signature: wire::Signature| {
        let mut data = signature.data.unwrap_or_default();
        if let Some(len) = signature.unpadded_signature_size {
            data.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        }
        data
    };
    Ok(raw.signatures.into_iter().map(cut).collect())
}

/// The key that made one of the signatures.
pub(crate) fn signer<'k>(
    what: &'static str,
    signatures: &[Vec<u8>],
    digest: &Sha256,
    keys: &'k [PublicKey],
) -> Result<&'k PublicKey, SignatureError> {
    if signatures.is_empty() {
        return Err(SignatureError::Unsigned { what });
    }
    let made = |key: &&PublicKey| signatures.iter().any(|signature| key.verify(digest, signature));
    let unknown = SignatureError::Unknown { what, signatures: signatures.len(), keys: keys.len() };
    keys.iter().find(made).ok_or(unknown)
}

/// SHA-256 of ranges (offset, length), one after the other.
pub(crate) fn hash_ranges(
    file: &dyn ReadAt,
    ranges: &[(u64, u64)],
    mut advance: impl FnMut(u64) -> std::ops::ControlFlow<()>,
) -> Result<Sha256, SignatureError> {
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    for &(offset, len) in ranges {
        let mut section = Section::new(file, offset, len).map_err(|source| SignatureError::Read { source })?;
        loop {
            let read = section.read(&mut buffer).map_err(|source| SignatureError::Read { source })?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            if advance(read as u64).is_break() {
                return Err(SignatureError::Stopped);
            }
        }
    }
    Ok(Sha256::new(hasher.finalize().into()))
}
