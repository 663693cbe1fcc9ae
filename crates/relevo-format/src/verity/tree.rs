//! Hash trees of dm-verity, version 1.
//!
//! A block of a level holds the digests of as many blocks of the level below as fit; each is hashed behind the salt.
//! The level of one block stands first, the level over the data last. What a level does not fill is zero.

use rayon::prelude::*;
use relevo_types::BLOCK;
use sha2::{Digest, digest::Output};

use super::{BLOCK_LEN, TREE, VerityError, bytes};
use crate::{
    ReadAt,
    payload::{Extent, HashTree, Sink},
};

/// Bytes that are read at a time: a part of what a block of the tree covers.
const READ: usize = 64 * BLOCK_LEN;

/// A digest that update_engine knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say all")]
pub enum Algorithm {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    /// By its name, in either case.
    pub fn parse(name: &str) -> Option<Self> {
        let all = [("sha1", Self::Sha1), ("sha256", Self::Sha256), ("sha384", Self::Sha384), ("sha512", Self::Sha512)];
        all.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, algorithm)| algorithm)
    }

    /// Bytes that a digest takes in the tree: a power of two.
    fn slot(self) -> usize {
        match self {
            Self::Sha1 | Self::Sha256 => 32,
            Self::Sha384 | Self::Sha512 => 64,
        }
    }

    /// Digests in a block.
    fn fan_out(self) -> u64 {
        (BLOCK_LEN / self.slot()) as u64
    }
}

/// Blocks of each level over this many blocks of data, from the level over the data up to the level of one block.
fn levels(algorithm: Algorithm, data: u64) -> Vec<u64> {
    let mut levels = Vec::new();
    let mut below = data;
    loop {
        below = below.div_ceil(algorithm.fan_out());
        levels.push(below);
        if below <= 1 {
            return levels;
        }
    }
}

/// Blocks of the tree over this many blocks of data.
pub(super) fn blocks(algorithm: Algorithm, data: u64) -> u64 {
    levels(algorithm, data).iter().sum()
}

/// Makes the tree, level by level, each from what was written of the one below.
pub(super) fn compute(
    algorithm: Algorithm,
    tree: &HashTree,
    image: &dyn ReadAt,
    sink: &dyn Sink,
) -> Result<(), VerityError> {
    let level = match algorithm {
        Algorithm::Sha1 => level::<sha1::Sha1>,
        Algorithm::Sha256 => level::<sha2::Sha256>,
        Algorithm::Sha384 => level::<sha2::Sha384>,
        Algorithm::Sha512 => level::<sha2::Sha512>,
    };
    let mut below = tree.data;
    let mut end = tree.tree.start + tree.tree.blocks;
    for blocks in levels(algorithm, tree.data.blocks) {
        end -= blocks;
        let this = Extent { start: end, blocks };
        level(algorithm, &tree.salt, below, this, image, sink)?;
        below = this;
    }
    Ok(())
}

fn level<D: Digest + Clone + Send + Sync>(
    algorithm: Algorithm,
    salt: &[u8],
    below: Extent,
    this: Extent,
    image: &dyn ReadAt,
    sink: &dyn Sink,
) -> Result<(), VerityError> {
    let salted = D::new_with_prefix(salt);
    let (slot, fan_out) = (algorithm.slot(), algorithm.fan_out());
    // One block at a time, which is 512 KiB of the level below with SHA-256.
    (0..this.blocks).into_par_iter().try_for_each_init(
        || (vec![0; READ], Output::<D>::default()),
        |(buffer, digest), number| {
            let mut made = [0; BLOCK_LEN];
            let mut slots = made.chunks_exact_mut(slot);
            let (mut at, last) = (number * fan_out, ((number + 1) * fan_out).min(below.blocks));
            while at < last {
                let read = &mut buffer[..bytes(last - at).min(READ)];
                let offset = (below.start + at) * BLOCK.get();
                image.read_exact_at(read, offset).map_err(|source| VerityError::Read { what: TREE, source })?;
                for (block, slot) in read.chunks_exact(BLOCK_LEN).zip(&mut slots) {
                    let mut hasher = salted.clone();
                    hasher.update(block);
                    hasher.finalize_into(digest);
                    slot[..digest.len()].copy_from_slice(digest);
                }
                at += (read.len() / BLOCK_LEN) as u64;
            }
            let offset = (this.start + number) * BLOCK.get();
            sink.write_at(&made, offset).map_err(|source| VerityError::Write { what: TREE, source })
        },
    )
}
