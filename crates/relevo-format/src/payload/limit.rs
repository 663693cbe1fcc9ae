//! What a message takes in memory, before it is decoded.

use super::wire;

/// Where in the manifest a message stands; what is not listed holds no messages that we decode.
#[derive(Clone, Copy)]
enum Shape {
    Manifest,
    Partition,
    Operation,
    Merge,
    Dynamic,
    Signatures,
    Leaf,
}

impl Shape {
    /// The message in a field, and its bytes in memory.
    fn field(self, number: u64) -> Option<(Self, usize)> {
        let leaf = |len| Some((Self::Leaf, len));
        match (self, number) {
            (Self::Manifest, 13) => Some((Self::Partition, size_of::<wire::PartitionUpdate>())),
            (Self::Manifest, 15) => Some((Self::Dynamic, 0)),
            (Self::Manifest, 17) => leaf(size_of::<wire::ApexInfo>()),
            (Self::Partition, 8) => Some((Self::Operation, size_of::<wire::InstallOperation>())),
            (Self::Partition, 18) => Some((Self::Merge, size_of::<wire::CowMergeOperation>())),
            (Self::Partition, 6 | 7) => leaf(size_of::<wire::PartitionInfo>()),
            (Self::Operation, 4 | 6) => leaf(size_of::<wire::Extent>()),
            (Self::Dynamic, 1) => leaf(size_of::<wire::DynamicPartitionGroup>()),
            (Self::Signatures, 1) => leaf(size_of::<wire::Signature>()),
            _ => None,
        }
    }
}

/// Whether a manifest takes at most `limit` bytes in memory; none if it is no message.
pub(super) fn manifest_fits(bytes: &[u8], limit: u64) -> Option<bool> {
    let mut left = i128::from(limit);
    count(bytes, Shape::Manifest, &mut left)?;
    Some(left >= 0)
}

/// The same for signatures.
pub(super) fn signatures_fit(bytes: &[u8], limit: u64) -> Option<bool> {
    let mut left = i128::from(limit);
    count(bytes, Shape::Signatures, &mut left)?;
    Some(left >= 0)
}

fn count(mut bytes: &[u8], shape: Shape, left: &mut i128) -> Option<()> {
    while !bytes.is_empty() && *left >= 0 {
        let tag = varint(&mut bytes)?;
        match tag & 7 {
            0 => {
                varint(&mut bytes)?;
            }
            1 => bytes = bytes.get(8..)?,
            5 => bytes = bytes.get(4..)?,
            2 => {
                let len = usize::try_from(varint(&mut bytes)?).ok()?;
                let (inner, rest) = bytes.split_at_checked(len)?;
                bytes = rest;
                match shape.field(tag >> 3) {
                    // Twice: a vector has up to twice the room that it needs.
                    Some((inner_shape, size)) => {
                        *left -= 2 * size as i128;
                        count(inner, inner_shape, left)?;
                    }
                    // Text, bytes, or a list of text in a group.
                    None => *left -= 2 * (size_of::<String>() + len) as i128,
                }
            }
            // Groups are not used, and would nest.
            _ => return None,
        }
    }
    Some(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
