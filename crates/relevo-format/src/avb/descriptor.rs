//! What a vbmeta image says of partitions, one statement after the other.

use super::{AvbError, Fields};

/// Bytes of tag and length in front of each descriptor.
const HEADER: usize = 16;

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Descriptor {
    /// A name and a value.
    Property(Property),
    /// The hash tree of a partition.
    Hashtree(Hashtree),
    /// The digest of a partition.
    Hash(Hash),
    /// What is added to the kernel's command line.
    KernelCmdline(KernelCmdline),
    /// A partition that has a vbmeta image of its own, and whose key that is signed with.
    Chain(Chain),
    /// What later versions may say.
    Unknown {
        /// Its number.
        tag: u64,
    },
}

/// A name and a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// The name.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
}

/// The dm-verity hash tree of a partition, and its error correction; all in bytes of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashtree {
    /// Which partition.
    pub partition: String,
    /// Version of dm-verity's format; 1 is the only one in use.
    pub version: u32,
    /// What is hashed: the first bytes of the image.
    pub image_size: u64,
    /// First byte of the tree.
    pub tree_offset: u64,
    /// Bytes of the tree.
    pub tree_size: u64,
    /// Bytes of a block that is hashed.
    pub data_block_size: u32,
    /// Bytes of a block of the tree.
    pub hash_block_size: u32,
    /// Bytes of parity in each codeword of 255; 0 without error correction.
    pub fec_roots: u32,
    /// First byte of the error correction.
    pub fec_offset: u64,
    /// Bytes of the error correction.
    pub fec_size: u64,
    /// `sha256`, `sha1` or another.
    pub algorithm: String,
    /// What each block is hashed behind.
    pub salt: Vec<u8>,
    /// Digest of the tree's first block; empty where the phone keeps it.
    pub root_digest: Vec<u8>,
    /// Bit 0: the partition has no slots. Bit 1: blocks are verified at most once.
    pub flags: u32,
}

/// The digest of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hash {
    /// Which partition.
    pub partition: String,
    /// What is hashed: the first bytes of the image.
    pub image_size: u64,
    /// `sha256` or `sha512`.
    pub algorithm: String,
    /// What is hashed before the image.
    pub salt: Vec<u8>,
    /// The digest; empty where the phone keeps it.
    pub digest: Vec<u8>,
    /// Bit 0: the partition has no slots.
    pub flags: u32,
}

/// What is added to the kernel's command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelCmdline {
    /// Bit 0: if hash trees are used. Bit 1: if they are not.
    pub flags: u32,
    /// The text.
    pub text: String,
}

/// A partition with a vbmeta image of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Which partition.
    pub partition: String,
    /// Which of the phone's counters its rollback index is held against.
    pub rollback_index_location: u32,
    /// The key that it has to be signed with, as AVB encodes keys.
    pub public_key: Vec<u8>,
    /// Bit 0: the partition has no slots.
    pub flags: u32,
}

/// What is wrong with one descriptor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptorError {
    /// It is longer than what is left.
    #[error("it needs {needed} bytes; {left} are left")]
    Truncated {
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that there are.
        left: u64,
    },
    /// A length that is not aligned.
    #[error("it has {0} bytes; expected a multiple of 8")]
    Unaligned(u64),
    /// A name that is no text.
    #[error("its {0} is no text")]
    Text(&'static str),
}

impl Descriptor {
    /// The partition that it speaks of.
    pub fn partition(&self) -> Option<&str> {
        match self {
            Self::Hashtree(Hashtree { partition, .. })
            | Self::Hash(Hash { partition, .. })
            | Self::Chain(Chain { partition, .. }) => Some(partition),
            Self::Property(_) | Self::KernelCmdline(_) | Self::Unknown { .. } => None,
        }
    }
}

/// Takes all descriptors apart.
pub(super) fn parse_all(mut bytes: &[u8]) -> Result<Vec<Descriptor>, AvbError> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let parsed = parse(&mut bytes).map_err(|source| AvbError::Descriptor { index: all.len(), source })?;
        all.push(parsed);
    }
    Ok(all)
}

fn parse(bytes: &mut &[u8]) -> Result<Descriptor, DescriptorError> {
    let mut body = Body(bytes);
    let mut header = body.fixed(HEADER)?;
    let (tag, len) = (header.u64(), header.u64());
    if !len.is_multiple_of(8) {
        return Err(DescriptorError::Unaligned(len));
    }
    let all = body;
    let mut body = Body(body.bytes(len)?);
    *bytes = &all.0[body.0.len()..];
    Ok(match tag {
        0 => {
            let mut fields = body.fixed(16)?;
            let (key, value) = (fields.u64(), fields.u64());
            let key = body.text("name", key)?;
            // Both end in a zero that their lengths do not count.
            body.bytes(1)?;
            let value = body.bytes(value)?.to_vec();
            body.bytes(1)?;
            Descriptor::Property(Property { key, value })
        }
        1 => {
            let mut fields = body.fixed(164)?;
            let version = fields.u32();
            let (image_size, tree_offset, tree_size) = (fields.u64(), fields.u64(), fields.u64());
            let (data_block_size, hash_block_size, fec_roots) = (fields.u32(), fields.u32(), fields.u32());
            let (fec_offset, fec_size) = (fields.u64(), fields.u64());
            let algorithm = algorithm(&mut fields)?;
            let (partition, salt, digest, flags) = (fields.u32(), fields.u32(), fields.u32(), fields.u32());
            Descriptor::Hashtree(Hashtree {
                partition: body.text("partition", partition.into())?,
                version,
                image_size,
                tree_offset,
                tree_size,
                data_block_size,
                hash_block_size,
                fec_roots,
                fec_offset,
                fec_size,
                algorithm,
                salt: body.bytes(salt.into())?.to_vec(),
                root_digest: body.bytes(digest.into())?.to_vec(),
                flags,
            })
        }
        2 => {
            let mut fields = body.fixed(116)?;
            let image_size = fields.u64();
            let algorithm = algorithm(&mut fields)?;
            let (partition, salt, digest, flags) = (fields.u32(), fields.u32(), fields.u32(), fields.u32());
            Descriptor::Hash(Hash {
                partition: body.text("partition", partition.into())?,
                image_size,
                algorithm,
                salt: body.bytes(salt.into())?.to_vec(),
                digest: body.bytes(digest.into())?.to_vec(),
                flags,
            })
        }
        3 => {
            let mut fields = body.fixed(8)?;
            let (flags, text) = (fields.u32(), fields.u32());
            Descriptor::KernelCmdline(KernelCmdline { flags, text: body.text("command line", text.into())? })
        }
        4 => {
            let mut fields = body.fixed(76)?;
            let rollback_index_location = fields.u32();
            let (partition, key, flags) = (fields.u32(), fields.u32(), fields.u32());
            Descriptor::Chain(Chain {
                partition: body.text("partition", partition.into())?,
                rollback_index_location,
                public_key: body.bytes(key.into())?.to_vec(),
                flags,
            })
        }
        tag => Descriptor::Unknown { tag },
    })
}

/// 32 bytes with a name that ends at the first zero.
fn algorithm(fields: &mut Fields<'_>) -> Result<String, DescriptorError> {
    let name = fields.take(32).split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(str::from_utf8(name).map_err(|_| DescriptorError::Text("algorithm"))?.to_owned())
}

/// What is left of a descriptor.
#[derive(Clone, Copy)]
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn bytes(&mut self, len: u64) -> Result<&'a [u8], DescriptorError> {
        let truncated = DescriptorError::Truncated { needed: len, left: self.0.len() as u64 };
        let parts = usize::try_from(len).ok().and_then(|len| self.0.split_at_checked(len));
        let (bytes, rest) = parts.ok_or(truncated)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn fixed(&mut self, len: usize) -> Result<Fields<'a>, DescriptorError> {
        Ok(Fields(self.bytes(len as u64)?))
    }

    fn text(&mut self, what: &'static str, len: u64) -> Result<String, DescriptorError> {
        let text = str::from_utf8(self.bytes(len)?).map_err(|_| DescriptorError::Text(what))?;
        Ok(text.to_owned())
    }
}
