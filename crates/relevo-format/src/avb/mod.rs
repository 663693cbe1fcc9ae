//! Android Verified Boot: the footer of an image, and what a vbmeta image says of partitions.
//!
//! [`read`] finds the vbmeta image that an image ends in, or is, and takes it apart. Nothing here is trusted by having
//! been read: [`Vbmeta::verify`] says whether the key inside made the signature, and whose key that is, the caller
//! decides.
//!
//! # Source
//! AOSP `external/avb` 1.3, `libavb/avb_footer.h`, `avb_vbmeta_image.h` and the headers of the descriptors. Integers
//! are big-endian.

mod descriptor;
mod digest;
mod signature;

use std::io;

use relevo_types::ByteLen;

pub use self::{
    descriptor::{Chain, Descriptor, DescriptorError, Hash, Hashtree, KernelCmdline, Property},
    digest::build_digest,
    signature::{Algorithm, TestKey, VerifyError},
};
use crate::ReadAt;

/// Bytes of a footer, the last ones of an image.
pub const FOOTER_LEN: u64 = 64;
/// First four bytes of a footer.
const FOOTER_MAGIC: [u8; 4] = *b"AVBf";
/// First four bytes of a vbmeta image.
const MAGIC: [u8; 4] = *b"AVB0";
/// Bytes of a vbmeta image's header.
const HEADER: usize = 256;
/// Largest vbmeta image, in bytes; bootloaders take no larger one.
const MAX_VBMETA: u64 = 64 << 10;
/// The version of the format that is known; minor versions above it ask for what we have never heard of.
const VERSION: (u32, u32) = (1, 3);

/// Why a footer or a vbmeta image could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AvbError {
    /// The operating system refused.
    #[error("could not read the image")]
    Read {
        /// What it answered.
        source: io::Error,
    },
    /// A footer of another format.
    #[error("the AVB footer has version {0}; expected 1")]
    FooterVersion(u32),
    /// The footer points somewhere else.
    #[error("the AVB footer says that vbmeta is {len} bytes at {offset}; the image has {image} bytes")]
    FooterBeyond {
        /// First byte of the vbmeta image.
        offset: u64,
        /// Its bytes.
        len: u64,
        /// Bytes of the image.
        image: u64,
    },
    /// More than a bootloader takes.
    #[error("vbmeta has {0} bytes; the limit is {MAX_VBMETA}")]
    TooLong(u64),
    /// It starts with something else.
    #[error("vbmeta starts with {found:02x?}; expected \"AVB0\"")]
    Magic {
        /// What it starts with.
        found: [u8; 4],
    },
    /// A version that asks for more than we know.
    #[error("vbmeta needs version {major}.{minor} of libavb; known is {}.{}", VERSION.0, VERSION.1)]
    Version {
        /// Major version.
        major: u32,
        /// Minor version.
        minor: u32,
    },
    /// It ends too early.
    #[error("vbmeta has {len} bytes; its {what} ends at byte {end}")]
    Truncated {
        /// Which part.
        what: &'static str,
        /// Where it ends.
        end: u64,
        /// Bytes of all of it.
        len: u64,
    },
    /// A block that is not aligned.
    #[error("vbmeta's {what} has {len} bytes; expected a multiple of 64")]
    Unaligned {
        /// Which block.
        what: &'static str,
        /// Its bytes.
        len: u64,
    },
    /// An algorithm that does not exist.
    #[error("vbmeta is signed with algorithm {0}, which is not known")]
    Algorithm(u32),
    /// A name that is no text.
    #[error("vbmeta's release string is no text that ends in it")]
    Release,
    /// One descriptor is wrong.
    #[error("descriptor {index} of vbmeta is wrong")]
    Descriptor {
        /// Which one.
        index: usize,
        /// What is wrong.
        source: DescriptorError,
    },
}

/// The end of an image that says where its vbmeta image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// Bytes of the image before hash tree, error correction and vbmeta were added.
    pub original_size: ByteLen,
    /// First byte of the vbmeta image.
    pub vbmeta_offset: u64,
    /// Bytes of the vbmeta image.
    pub vbmeta_len: u64,
}

/// A vbmeta image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vbmeta {
    /// What it is signed with.
    pub algorithm: Algorithm,
    /// Phones refuse one with a lower index than they have seen.
    pub rollback_index: u64,
    /// Which of the phone's counters the index is held against.
    pub rollback_index_location: u32,
    /// Bit 0: hash trees are not looked at. Bit 1: nothing is verified.
    pub flags: u32,
    /// Who made it, in words of its maker.
    pub release: String,
    /// The key that signed it, as AVB encodes keys; empty if it is not signed.
    pub public_key: Vec<u8>,
    /// What it says of partitions.
    pub descriptors: Vec<Descriptor>,
    signed: signature::Signed,
    /// Bytes of header and blocks.
    len: usize,
}

/// What an image says of itself or others, and where it says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The footer that led there; none of an image that is a vbmeta image.
    pub footer: Option<Footer>,
    /// What it says.
    pub vbmeta: Vbmeta,
}

/// What builds write about a partition into its vbmeta.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BuildProperties<'a> {
    /// `ro.<partition>.build.fingerprint`.
    pub fingerprint: Option<&'a str>,
    /// Version of Android: `14`.
    pub os_version: Option<&'a str>,
    /// Patch level: `2024-05-01`.
    pub security_patch: Option<&'a str>,
}

/// The footer of an image; none if it does not end in one.
///
/// # Errors
/// [`AvbError::Read`], [`AvbError::FooterVersion`], [`AvbError::FooterBeyond`].
pub fn footer(image: &dyn ReadAt) -> Result<Option<Footer>, AvbError> {
    let len = image.len().get();
    let Some(start) = len.checked_sub(FOOTER_LEN) else { return Ok(None) };
    let mut bytes = [0; 64];
    image.read_exact_at(&mut bytes, start).map_err(|source| AvbError::Read { source })?;
    if bytes[..4] != FOOTER_MAGIC {
        return Ok(None);
    }
    let mut fields = Fields(&bytes[4..]);
    let (major, _minor) = (fields.u32(), fields.u32());
    let (original_size, vbmeta_offset, vbmeta_len) = (fields.u64(), fields.u64(), fields.u64());
    if major > 1 {
        return Err(AvbError::FooterVersion(major));
    }
    match vbmeta_offset.checked_add(vbmeta_len) {
        Some(end) if end <= start => {
            Ok(Some(Footer { original_size: ByteLen::new(original_size), vbmeta_offset, vbmeta_len }))
        }
        _ => Err(AvbError::FooterBeyond { offset: vbmeta_offset, len: vbmeta_len, image: len }),
    }
}

/// The vbmeta image at an image's end, by its footer, or the one that the image is; none if it is neither.
///
/// # Errors
/// [`AvbError`], naming the first rule that is broken.
pub fn read(image: &dyn ReadAt) -> Result<Option<Located>, AvbError> {
    let read = |offset, len: u64| {
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| AvbError::TooLong(len))?];
        image.read_exact_at(&mut bytes, offset).map_err(|source| AvbError::Read { source })?;
        Ok(bytes)
    };
    if let Some(footer) = footer(image)? {
        if footer.vbmeta_len > MAX_VBMETA {
            return Err(AvbError::TooLong(footer.vbmeta_len));
        }
        let vbmeta = Vbmeta::parse(&read(footer.vbmeta_offset, footer.vbmeta_len)?)?;
        return Ok(Some(Located { footer: Some(footer), vbmeta }));
    }
    let len = image.len().get();
    if len < HEADER as u64 || read(0, 4)? != MAGIC {
        return Ok(None);
    }
    // The partition may be longer than what it is filled with.
    let vbmeta = Vbmeta::parse(&read(0, len.min(MAX_VBMETA))?)?;
    Ok(Some(Located { footer: None, vbmeta }))
}

impl Vbmeta {
    /// Takes a vbmeta image apart; bytes behind its end are not looked at.
    ///
    /// # Layout
    /// A header of 256 bytes, a block with digest and signature, a block with key and descriptors.
    ///
    /// # Errors
    /// [`AvbError`], naming the first rule that is broken.
    pub fn parse(bytes: &[u8]) -> Result<Self, AvbError> {
        let len = bytes.len() as u64;
        let magic = bytes.first_chunk::<4>().filter(|_| bytes.len() >= HEADER);
        let magic = magic.ok_or(AvbError::Truncated { what: "header", end: HEADER as u64, len })?;
        if *magic != MAGIC {
            return Err(AvbError::Magic { found: *magic });
        }
        let (header, rest) = bytes.split_at(HEADER);
        let mut fields = Fields(&header[4..]);
        let (major, minor) = (fields.u32(), fields.u32());
        if major != VERSION.0 || minor > VERSION.1 {
            return Err(AvbError::Version { major, minor });
        }
        let blocks = [("signature block", fields.u64()), ("data block", fields.u64())];
        let algorithm = fields.u32();
        let [hash, signature, key, key_metadata, descriptors] = [
            ("digest", fields.u64(), fields.u64()),
            ("signature", fields.u64(), fields.u64()),
            ("key", fields.u64(), fields.u64()),
            ("data on the key", fields.u64(), fields.u64()),
            ("descriptors", fields.u64(), fields.u64()),
        ];
        let (rollback_index, flags, rollback_index_location) = (fields.u64(), fields.u32(), fields.u32());
        let algorithm = Algorithm::from_number(algorithm).ok_or(AvbError::Algorithm(algorithm))?;
        let release = fields.take(48);
        let end = release.iter().position(|&byte| byte == 0).ok_or(AvbError::Release)?;
        let release = str::from_utf8(&release[..end]).map_err(|_| AvbError::Release)?.to_owned();

        let mut rest = rest;
        let mut end = HEADER as u64;
        let [authentication, data] = blocks;
        let mut block = |(what, size): (&'static str, u64)| {
            if !size.is_multiple_of(64) {
                return Err(AvbError::Unaligned { what, len: size });
            }
            end = end.saturating_add(size);
            let parts = usize::try_from(size).ok().and_then(|size| rest.split_at_checked(size));
            let (block, after) = parts.ok_or(AvbError::Truncated { what, end, len })?;
            rest = after;
            Ok(block)
        };
        let (authentication, data) = (block(authentication)?, block(data)?);
        let part = |bytes: &[u8], (what, start, size): (&'static str, u64, u64)| {
            let end = start.saturating_add(size);
            let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
            let part = range.and_then(|(start, end)| bytes.get(start..end)).map(<[u8]>::to_vec);
            part.ok_or(AvbError::Truncated { what, end, len: bytes.len() as u64 })
        };
        let _key_metadata = part(data, key_metadata)?;
        let signed = signature::Signed {
            computed: algorithm.digest(&[header, data]),
            stated: part(authentication, hash)?,
            signature: part(authentication, signature)?,
        };
        Ok(Self {
            len: HEADER + authentication.len() + data.len(),
            algorithm,
            rollback_index,
            rollback_index_location,
            flags,
            release,
            public_key: part(data, key)?,
            descriptors: descriptor::parse_all(&part(data, descriptors)?)?,
            signed,
        })
    }

    /// Whether phones are told not to look at hash trees.
    pub fn hashtree_disabled(&self) -> bool {
        self.flags & 1 != 0
    }

    /// Whether phones are told to verify nothing.
    pub fn verification_disabled(&self) -> bool {
        self.flags & 2 != 0
    }

    /// The value of the first property of this name, if it is text.
    pub fn property(&self, key: &str) -> Option<&str> {
        self.descriptors.iter().find_map(|descriptor| match descriptor {
            Descriptor::Property(property) if property.key == key => str::from_utf8(&property.value).ok(),
            _ => None,
        })
    }

    /// What the build says of `partition` in properties.
    pub fn build_properties(&self, partition: &str) -> BuildProperties<'_> {
        let property = |name| self.property(&format!("com.android.build.{partition}.{name}"));
        BuildProperties {
            fingerprint: property("fingerprint"),
            os_version: property("os_version"),
            security_patch: property("security_patch"),
        }
    }

    /// What is said of dm-verity hash trees.
    pub fn hashtrees(&self) -> impl Iterator<Item = &Hashtree> {
        self.descriptors.iter().filter_map(|descriptor| match descriptor {
            Descriptor::Hashtree(hashtree) => Some(hashtree),
            _ => None,
        })
    }

    /// Partitions that it describes, or hands on to their own vbmeta images; no name twice.
    pub fn partitions(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.descriptors.iter().filter_map(Descriptor::partition).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// Integers and runs of bytes, one after the other, in a header whose length was checked.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().expect("as many bytes as were taken"))
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take(8).try_into().expect("as many bytes as were taken"))
    }
}
