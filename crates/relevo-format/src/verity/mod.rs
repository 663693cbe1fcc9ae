//! Blocks that a phone computes itself: the hash tree of dm-verity, and the error correction beside it.
//!
//! [`compute`] makes them after an update's operations have written everything else. [`left_to_device`] says of an
//! image whether a phone would compute exactly the bytes that stand there, so that a payload need not carry them; it
//! runs the same code and compares.
//!
//! # Source
//! Linux, `Documentation/admin-guide/device-mapper/verity.rst`; AOSP `update_engine` of android-15.0.0_r23,
//! `payload_consumer/verity_writer_android.cc` and `payload_generator/payload_generation_config_android.cc`; AOSP
//! `system/extras`, `verity/hash_tree_builder.cpp` and `libfec/include/fec/ecc.h`.

mod fec;
mod tree;

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use relevo_types::{BLOCK, ByteLen};

use crate::{
    ReadAt,
    avb::{self, AvbError, Hashtree},
    payload::{Extent, Fec, HashTree, Sink, Verity},
};

pub use self::tree::Algorithm;

/// Bytes of a block, as the length of an array.
const BLOCK_LEN: usize = 4096;
/// The longest salt that is taken, in bytes; dm-verity's own tools take no longer one, and it is hashed for each block.
const MAX_SALT: usize = 256;
/// The most parity bytes in a codeword of 255 that dm-verity takes.
const MAX_ROOTS: u32 = 24;

/// Why blocks could not be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerityError {
    /// A digest that phones do not know either.
    #[error("the hash tree is made with {0:?}; known are sha1, sha256, sha384 and sha512")]
    Algorithm(String),
    /// A salt that would be hashed for ever.
    #[error("the salt of the hash tree has {0} bytes; the limit is {MAX_SALT}")]
    Salt(usize),
    /// Parity that dm-verity does not take.
    #[error("the error correction has {0} parity bytes in a codeword; dm-verity takes 2 to {MAX_ROOTS}")]
    Roots(u32),
    /// An extent beyond the image.
    #[error("{what} ends at block {end}; the image has {blocks} blocks")]
    Beyond {
        /// Which extent.
        what: &'static str,
        /// The block behind its last one.
        end: u64,
        /// Blocks of the image.
        blocks: u64,
    },
    /// A tree that does not fit its data, or parity that does not.
    #[error("{what} has {actual} blocks; what it covers needs {expected}")]
    Size {
        /// Tree or error correction.
        what: &'static str,
        /// Blocks that it needs.
        expected: u64,
        /// Blocks that it has.
        actual: u64,
    },
    /// Something is computed out of what comes later.
    #[error("{what} starts at block {start}; what it is computed from ends at {end}")]
    Order {
        /// Tree or error correction.
        what: &'static str,
        /// Its first block.
        start: u64,
        /// The block behind the last one that it is computed from.
        end: u64,
    },
    /// The image could not be read.
    #[error("could not read what {what} is computed from")]
    Read {
        /// Tree or error correction.
        what: &'static str,
        /// What reading answered.
        source: io::Error,
    },
    /// What was computed could not be written.
    #[error("could not write {what}")]
    Write {
        /// Tree or error correction.
        what: &'static str,
        /// What writing answered.
        source: io::Error,
    },
}

const TREE: &str = "the hash tree";
const FEC: &str = "the error correction";

/// Checks that what is to be computed fits together, and fits an image of `size`.
///
/// # Errors
/// [`VerityError`], naming the first rule that is broken.
pub fn check(verity: &Verity, size: ByteLen) -> Result<(), VerityError> {
    digest_of(verity, size).map(|_| ())
}

/// Computes hash tree and error correction of an image whose other blocks are written.
///
/// `image` reads what was written to `sink`: upper levels of the tree are computed from lower ones, and the error
/// correction covers the tree, so that memory stays bounded whatever the size. Work is shared among the threads of the
/// pool that this is called from.
///
/// # Errors
/// [`VerityError`]; what does not fit together is refused before the first byte is written.
pub fn compute(verity: &Verity, image: &dyn ReadAt, sink: &dyn Sink) -> Result<(), VerityError> {
    let algorithm = digest_of(verity, image.len())?;
    if let (Some(algorithm), Some(tree)) = (algorithm, &verity.hash_tree) {
        tree::compute(algorithm, tree, image, sink)?;
    }
    match &verity.fec {
        Some(fec) => fec::compute(fec, image, sink),
        None => Ok(()),
    }
}

/// Checks all of it; gives the tree's digest.
fn digest_of(verity: &Verity, size: ByteLen) -> Result<Option<Algorithm>, VerityError> {
    let blocks = size.get() / BLOCK.get();
    let tree = verity.hash_tree.as_ref();
    let algorithm = tree.map(|tree| check_tree(tree, blocks)).transpose()?;
    if let Some(fec) = &verity.fec {
        check_fec(fec, tree, blocks)?;
    }
    Ok(algorithm)
}

/// Checks that a tree fits its data and the image.
fn check_tree(tree: &HashTree, blocks: u64) -> Result<Algorithm, VerityError> {
    let algorithm = Algorithm::parse(&tree.algorithm).ok_or_else(|| VerityError::Algorithm(tree.algorithm.clone()))?;
    if tree.salt.len() > MAX_SALT {
        return Err(VerityError::Salt(tree.salt.len()));
    }
    let data_end = end("what the hash tree covers", &tree.data, blocks)?;
    end(TREE, &tree.tree, blocks)?;
    if tree.tree.start < data_end {
        return Err(VerityError::Order { what: TREE, start: tree.tree.start, end: data_end });
    }
    let expected = tree::blocks(algorithm, tree.data.blocks);
    if tree.tree.blocks != expected {
        return Err(VerityError::Size { what: TREE, expected, actual: tree.tree.blocks });
    }
    Ok(algorithm)
}

/// Checks that error correction fits its data and the image.
fn check_fec(fec: &Fec, tree: Option<&HashTree>, blocks: u64) -> Result<(), VerityError> {
    if !(2..=MAX_ROOTS).contains(&fec.roots) {
        return Err(VerityError::Roots(fec.roots));
    }
    let data_end = end("what the error correction covers", &fec.data, blocks)?;
    end(FEC, &fec.fec, blocks)?;
    // Phones write the tree when they have read what it covers, and this when they have read what is in front of it.
    let end = tree.map_or(0, |tree| tree.tree.start + tree.tree.blocks).max(data_end);
    if fec.fec.start < end {
        return Err(VerityError::Order { what: FEC, start: fec.fec.start, end });
    }
    let expected = fec::rounds(fec) * u64::from(fec.roots);
    if fec.fec.blocks != expected {
        return Err(VerityError::Size { what: FEC, expected, actual: fec.fec.blocks });
    }
    Ok(())
}

fn end(what: &'static str, extent: &Extent, blocks: u64) -> Result<u64, VerityError> {
    let end = extent.start.saturating_add(extent.blocks);
    if end > blocks { Err(VerityError::Beyond { what, end, blocks }) } else { Ok(end) }
}

/// Bytes of a few blocks.
fn bytes(blocks: u64) -> usize {
    usize::try_from(blocks * BLOCK.get()).expect("fewer than a piece of work has")
}

/// Why blocks are carried as they are rather than left to the device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Plain {
    /// There is no footer.
    #[error("the image has no AVB footer")]
    NoFooter,
    /// Footer or vbmeta image are damaged, or none.
    #[error("the image's AVB footer cannot be used")]
    Avb(#[from] AvbError),
    /// Nothing is said of a hash tree.
    #[error("the image's vbmeta says nothing of a hash tree")]
    NoHashtree,
    /// Another version of the tree's format.
    #[error("its hash tree has version {0}; expected 1")]
    Version(u32),
    /// Another size of blocks.
    #[error("its hash tree is of blocks of {0} bytes; expected 4096")]
    BlockSize(u32),
    /// Something starts or ends within a block.
    #[error("{what} is {len} bytes at {start}, which are no blocks")]
    Unaligned {
        /// What.
        what: &'static str,
        /// First byte.
        start: u64,
        /// Bytes.
        len: u64,
    },
    /// What the descriptor says does not fit together or is not known.
    #[error("its hash tree cannot be computed")]
    Layout(#[source] VerityError),
    /// A phone would compute something else.
    #[error("{what} is not what a phone would compute; byte {at} is the first that was seen to differ")]
    Differs {
        /// Tree or error correction.
        what: &'static str,
        /// Where, in the image.
        at: u64,
    },
}

/// What a phone can compute of an image.
#[derive(Debug)]
pub struct Computable {
    /// The tree, or why it is carried.
    pub hash_tree: Result<HashTree, Plain>,
    /// The error correction, or why it is carried; none if there is none.
    pub fec: Option<Result<Fec, Plain>>,
}

/// What a payload may leave to the phone of this image: hash tree and error correction, as its AVB footer describes
/// them, if a phone would compute exactly what stands there. None otherwise; [`described`] and [`computable`] say why.
///
/// # Errors
/// What reading the image answers.
pub fn left_to_device(image: &dyn ReadAt) -> io::Result<Option<Verity>> {
    let Ok(hashtree) = described(image)? else { return Ok(None) };
    let Computable { hash_tree, fec } = computable(image, &hashtree)?;
    Ok(hash_tree.ok().map(|tree| Verity { hash_tree: Some(tree), fec: fec.and_then(Result::ok) }))
}

/// What an image's AVB footer says of its hash tree.
///
/// # Errors
/// What reading the image answers.
pub fn described(image: &dyn ReadAt) -> io::Result<Result<Hashtree, Plain>> {
    let located = match avb::read(image) {
        Ok(located) => located,
        Err(AvbError::Read { source }) => return Err(source),
        Err(error) => return Ok(Err(error.into())),
    };
    // A vbmeta image without a footer in front speaks of other partitions.
    let Some(located) = located.filter(|located| located.footer.is_some()) else { return Ok(Err(Plain::NoFooter)) };
    // Of several, AOSP's generator takes the last one.
    Ok(located.vbmeta.hashtrees().last().cloned().ok_or(Plain::NoHashtree))
}

/// What a phone can compute of an image, by what is said of its hash tree: all of it is computed and compared.
///
/// # Errors
/// What reading the image answers.
pub fn computable(image: &dyn ReadAt, hashtree: &Hashtree) -> io::Result<Computable> {
    let blocks = image.len().get() / BLOCK.get();
    let hash_tree = match tree_of(hashtree, blocks) {
        Ok((algorithm, tree)) => {
            differs(TREE, image, |sink| tree::compute(algorithm, &tree, image, sink))?.map(|()| tree)
        }
        Err(plain) => Err(plain),
    };
    let fec = match fec_of(hashtree, hash_tree.as_ref().ok(), blocks) {
        Ok(None) => None,
        Ok(Some(fec)) => Some(differs(FEC, image, |sink| fec::compute(&fec, image, sink))?.map(|()| fec)),
        Err(plain) => Some(Err(plain)),
    };
    Ok(Computable { hash_tree, fec })
}

fn tree_of(hashtree: &Hashtree, blocks: u64) -> Result<(Algorithm, HashTree), Plain> {
    if hashtree.version != 1 {
        return Err(Plain::Version(hashtree.version));
    }
    if let Some(size) =
        [hashtree.data_block_size, hashtree.hash_block_size].into_iter().find(|&size| u64::from(size) != BLOCK.get())
    {
        return Err(Plain::BlockSize(size));
    }
    let tree = HashTree {
        data: extent("what the hash tree covers", 0, hashtree.image_size)?,
        tree: extent(TREE, hashtree.tree_offset, hashtree.tree_size)?,
        algorithm: hashtree.algorithm.clone(),
        salt: hashtree.salt.clone(),
    };
    let algorithm = check_tree(&tree, blocks).map_err(Plain::Layout)?;
    Ok((algorithm, tree))
}

fn fec_of(hashtree: &Hashtree, tree: Option<&HashTree>, blocks: u64) -> Result<Option<Fec>, Plain> {
    if hashtree.fec_size == 0 {
        return Ok(None);
    }
    let fec = Fec {
        data: extent("what the error correction covers", 0, hashtree.fec_offset)?,
        fec: extent(FEC, hashtree.fec_offset, hashtree.fec_size)?,
        roots: hashtree.fec_roots,
    };
    check_fec(&fec, tree, blocks).map_err(Plain::Layout)?;
    Ok(Some(fec))
}

fn extent(what: &'static str, start: u64, len: u64) -> Result<Extent, Plain> {
    let block = BLOCK.get();
    if len == 0 || !start.is_multiple_of(block) || !len.is_multiple_of(block) {
        return Err(Plain::Unaligned { what, start, len });
    }
    Ok(Extent { start: start / block, blocks: len / block })
}

/// Whether what `compute` writes stands in the image already.
fn differs(
    what: &'static str,
    image: &dyn ReadAt,
    compute: impl FnOnce(&dyn Sink) -> Result<(), VerityError>,
) -> io::Result<Result<(), Plain>> {
    let compare = Compare { image, at: AtomicU64::new(u64::MAX) };
    let computed = compute(&compare);
    match (compare.at.into_inner(), computed) {
        (u64::MAX, Ok(())) => Ok(Ok(())),
        (u64::MAX, Err(VerityError::Read { source, .. } | VerityError::Write { source, .. })) => Err(source),
        (u64::MAX, Err(error)) => Ok(Err(Plain::Layout(error))),
        (at, _) => Ok(Err(Plain::Differs { what, at })),
    }
}

/// Compares what is written with what is there, and ends at the first difference.
struct Compare<'a> {
    image: &'a dyn ReadAt,
    /// The first byte that was seen to differ; `u64::MAX` if none was.
    at: AtomicU64,
}

impl Sink for Compare<'_> {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut there = vec![0; bytes.len()];
        self.image.read_exact_at(&mut there, offset)?;
        match bytes.iter().zip(&there).position(|(computed, there)| computed != there) {
            None => Ok(()),
            Some(index) => {
                self.at.fetch_min(offset + index as u64, Ordering::Relaxed);
                Err(io::Error::other("what was computed differs"))
            }
        }
    }
}
