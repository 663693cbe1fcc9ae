//! Header, manifest and signatures: all of a package before its body.

use std::{
    fmt,
    io::{self, Read},
    path::PathBuf,
};

use ed25519_dalek::VerifyingKey;
use relevo_types::ByteLen;

use super::{
    manifest::Manifest,
    sign::{self, SIGNATURE_LEN, Signature},
};

/// The first eight bytes: a name, and line ends that a text-mode copy would break.
pub const MAGIC: [u8; 8] = *b"RVP\r\n\x1a\n\0";
/// The only version so far.
pub const VERSION: u16 = 1;
/// Length of the header in bytes.
pub(super) const HEADER_LEN: usize = 20;
/// Compression level of the manifest; it is a few KB, so the best there is.
const MANIFEST_LEVEL: i32 = 19;

/// What a reader takes, before it takes memory for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the manifest, compressed or not.
    pub manifest: ByteLen,
    /// Number of signatures.
    pub signatures: usize,
    /// Number of partitions, and of bases.
    pub partitions: usize,
    /// Number of pieces in a partition.
    pub pieces: usize,
    /// Bytes of a partition.
    pub partition_size: ByteLen,
    /// Memory for applying one piece, in bytes.
    pub memory: ByteLen,
}

impl Default for Limits {
    /// 2 MiB of manifest, 32 signatures, 128 partitions (phones have up to 60), 65,536 pieces each, 1 TiB a partition,
    /// 16 MiB of memory.
    ///
    /// A 3 GiB partition in pieces of 16 MiB takes 30 KB of manifest. A hostile one of 2 MiB takes up to 15 MiB of
    /// memory, so that a phone stays below 24 MiB whatever it is sent (`tests/memory.rs`).
    fn default() -> Self {
        Self {
            manifest: ByteLen::mib(2),
            signatures: 32,
            partitions: 128,
            pieces: 1 << 16,
            partition_size: ByteLen::new(1 << 40),
            memory: ByteLen::mib(16),
        }
    }
}

/// What is wrong with a package.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// No package at all.
    #[error("this is no Relevo package: it starts with {}, not with RVP", .found.escape_ascii())]
    Magic {
        /// The first bytes.
        found: [u8; 8],
    },
    /// Written by a later version.
    #[error("package format version {found}; this program knows version {VERSION}, so update it first")]
    Version {
        /// The version that the header says.
        found: u16,
    },
    /// The package ends too early.
    #[error("the package ends inside its header, manifest or signatures")]
    Truncated,
    /// More of something than the reader takes.
    #[error("{found} {what}; at most {limit} are taken")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        found: u64,
        /// How many are taken.
        limit: u64,
    },
    /// Applying it would take more memory than the reader gives.
    #[error("applying the package takes {needed} of memory; the limit is {limit}")]
    Memory {
        /// What the manifest declares.
        needed: ByteLen,
        /// What the reader gives.
        limit: ByteLen,
    },
    /// It needs features that this version does not have.
    #[error("the package needs {}, which this version does not know; update it first", Names(.names))]
    UnknownFeatures {
        /// Their names.
        names: Vec<String>,
    },
    /// A section that this version does not know and must not pass over.
    #[error("the manifest has a section {tag:?}, which this version does not know; update it first")]
    UnknownSection {
        /// Its tag.
        tag: String,
    },
    /// An info entry that this version does not know and must not pass over.
    #[error("the manifest has an info entry {key:?}, which this version does not know; update it first")]
    UnknownInfo {
        /// Its key.
        key: String,
    },
    /// A name in the manifest is none.
    #[error("a name in the manifest is refused")]
    Name(#[source] relevo_types::NameError),
    /// What no writer makes.
    #[error("the manifest is damaged: {0}")]
    Manifest(&'static str),
    /// The manifest does not decompress to its stated length.
    #[error("the manifest does not decompress")]
    Compressed(#[source] io::Error),
    /// Fewer valid signatures by the given keys than asked for.
    #[error("{valid} valid signatures by keys of this device, {threshold} needed (the package has {present} in all)")]
    Threshold {
        /// Valid signatures by distinct given keys.
        valid: usize,
        /// How many were asked for.
        threshold: usize,
        /// How many the package has.
        present: usize,
    },
    /// Bytes after the end, or missing at the end.
    #[error("the package is {actual} long; its manifest says {expected}")]
    Length {
        /// What the manifest says.
        expected: ByteLen,
        /// What there is.
        actual: ByteLen,
    },
    /// Reading failed.
    #[error("could not read the package")]
    Io(#[source] io::Error),
    /// Writing failed.
    #[error("could not write {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
}

struct Names<'a>(&'a [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// All of a package before its body; parsed, but only as trustworthy as [`Front::verify`] found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Front {
    manifest: Manifest,
    signatures: Vec<Signature>,
    /// Header and stored manifest: what the signatures cover.
    signed: Vec<u8>,
}

impl Front {
    /// Makes an unsigned front for `manifest`.
    ///
    /// # Errors
    /// What [`Front::read`] with these limits would answer: nothing is made that it refuses.
    pub fn new(manifest: Manifest, limits: &Limits) -> Result<Self, PackageError> {
        let raw = manifest.encode();
        let limit = limits.manifest.get();
        let check = |len: usize| match len as u64 {
            found if found > limit => Err(PackageError::Limit { what: "bytes of manifest", found, limit }),
            _ => Ok(()),
        };
        check(raw.len())?;
        if Manifest::decode(&raw, limits)? != manifest {
            return Err(PackageError::Manifest("it does not read back as it was given: wrong offsets or starts"));
        }
        let stored = zstd::bulk::compress(&raw, MANIFEST_LEVEL).map_err(PackageError::Compressed)?;
        check(stored.len())?;
        let len = |len: usize| u32::try_from(len).expect("a manifest is far below 4 GiB").to_le_bytes();
        let mut signed = Vec::with_capacity(HEADER_LEN + stored.len());
        signed.extend_from_slice(&MAGIC);
        signed.extend_from_slice(&VERSION.to_le_bytes());
        signed.extend_from_slice(&[0; 2]);
        signed.extend_from_slice(&len(stored.len()));
        signed.extend_from_slice(&len(raw.len()));
        signed.extend_from_slice(&stored);
        Ok(Self { manifest, signatures: Vec::new(), signed })
    }

    /// Reads the front of a package and leaves `reader` at the body.
    ///
    /// # Errors
    /// [`PackageError`]; memory stays below `limits` whatever the lengths say.
    pub fn read(reader: &mut impl Read, limits: &Limits) -> Result<Self, PackageError> {
        let mut signed = vec![0; HEADER_LEN];
        fill(reader, &mut signed)?;
        let mut header = &signed[..];
        let found: [u8; 8] = field(&mut header);
        if found != MAGIC {
            return Err(PackageError::Magic { found });
        }
        let version = u16::from_le_bytes(field(&mut header));
        if version != VERSION {
            return Err(PackageError::Version { found: version });
        }
        if field(&mut header) != [0; 2] {
            return Err(PackageError::Manifest("reserved bytes of the header are not 0"));
        }
        let mut len = || -> Result<usize, PackageError> {
            let len = u32::from_le_bytes(field(&mut header));
            if u64::from(len) > limits.manifest.get() {
                let limit = limits.manifest.get();
                return Err(PackageError::Limit { what: "bytes of manifest", found: len.into(), limit });
            }
            usize::try_from(len).map_err(|_| PackageError::Truncated)
        };
        let (stored_len, raw_len) = (len()?, len()?);
        signed.resize(HEADER_LEN + stored_len, 0);
        fill(reader, &mut signed[HEADER_LEN..])?;
        let raw = decompress(&signed[HEADER_LEN..], raw_len)?;
        let manifest = Manifest::decode(&raw, limits)?;
        let signatures = sign::read(reader, limits)?;
        Ok(Self { manifest, signatures, signed })
    }

    /// What the package needs and makes.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its signatures, verified or not.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Where the body starts.
    pub fn body_offset(&self) -> ByteLen {
        ByteLen::new((self.signed.len() + 2 + self.signatures.len() * SIGNATURE_LEN) as u64)
    }

    /// The length of the whole package.
    pub fn package_len(&self) -> ByteLen {
        ByteLen::new(self.body_offset().get().saturating_add(self.manifest.body_len()))
    }

    /// Refuses a package that is shorter or longer than its manifest says.
    ///
    /// # Errors
    /// [`PackageError::Length`].
    pub fn check_len(&self, actual: ByteLen) -> Result<(), PackageError> {
        let expected = self.package_len();
        if expected == actual { Ok(()) } else { Err(PackageError::Length { expected, actual }) }
    }

    /// Checks that at least `threshold` distinct `keys` signed header and manifest.
    ///
    /// # Errors
    /// [`PackageError::Threshold`]; a threshold of 0 is never met.
    pub fn verify(&self, keys: &[VerifyingKey], threshold: usize) -> Result<(), PackageError> {
        let valid = sign::count_valid(&self.signatures, keys, &self.signed);
        if threshold > 0 && valid >= threshold {
            return Ok(());
        }
        Err(PackageError::Threshold { valid, threshold, present: self.signatures.len() })
    }

    /// The bytes that a signature is over.
    pub fn message(&self) -> Vec<u8> {
        sign::message(&self.signed)
    }

    /// Takes a signature in; one by the same key is replaced.
    pub fn add_signature(&mut self, signature: Signature) {
        self.signatures.retain(|other| other.key_id != signature.key_id);
        self.signatures.push(signature);
        self.signatures.sort_by_key(|signature| signature.key_id);
    }

    /// Header, manifest and signatures as bytes; the body follows them in the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.signed.clone();
        sign::write(&self.signatures, &mut out);
        out
    }
}

/// Fills `buf`, growing nothing: the caller took the memory within its limits.
pub(super) fn fill(reader: &mut impl Read, buf: &mut [u8]) -> Result<(), PackageError> {
    reader.read_exact(buf).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => PackageError::Truncated,
        _ => PackageError::Io(error),
    })
}

fn field<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (field, rest) = bytes.split_first_chunk().expect("the header holds its fields");
    *bytes = rest;
    *field
}

/// Decompresses straight into a buffer of the stated length: a streaming decoder would hold a window beside it.
fn decompress(stored: &[u8], raw_len: usize) -> Result<Vec<u8>, PackageError> {
    let frame = zstd::zstd_safe::find_frame_compressed_size(stored);
    if frame.ok() != Some(stored.len()) {
        return Err(PackageError::Manifest("it is not one whole zstd frame"));
    }
    let mut raw = Vec::with_capacity(raw_len);
    let mut decompressor = zstd::bulk::Decompressor::new().map_err(PackageError::Compressed)?;
    decompressor.decompress_to_buffer(stored, &mut raw).map_err(PackageError::Compressed)?;
    if raw.len() != raw_len {
        return Err(PackageError::Manifest("its length after decompression is not the stated one"));
    }
    Ok(raw)
}
