//! Reads a build once: SHA-256 of each image, a digest of each block, and anchors.

use rayon::prelude::*;
use relevo_format::ReadAt;
use relevo_types::{BLOCK, PartitionName, Sha256};
use sha2::Digest;

use crate::{
    DeltaError, Images, Progress,
    anchor::{Anchors, Sampler},
    piece::Budget,
    progress::advance,
};

/// Bytes of a block.
pub(crate) const BLOCK_LEN: u64 = BLOCK.get();
const BLOCK_USIZE: usize = 4096;
const _: () = assert!(BLOCK_LEN == BLOCK_USIZE as u64);
/// Bytes that one job reads; a multiple of the block.
const SLICE: u64 = 4 << 20;

/// First 16 bytes of a block's SHA-256; enough to tell 2^40 blocks apart. A last block that is not whole has none.
pub(crate) type BlockHash = u128;

/// A build after one reading.
pub(crate) struct Scan {
    pub images: Vec<ImageScan>,
    /// By image: the digest of each whole block.
    pub blocks: Vec<Vec<BlockHash>>,
    /// Empty unless asked for.
    pub anchors: Anchors,
}

/// What is known of an image.
#[derive(Debug, Clone)]
pub(crate) struct ImageScan {
    pub name: PartitionName,
    pub len: u64,
    pub sha256: Sha256,
}

/// The digest of a block of zeros.
pub(crate) fn zero_block() -> BlockHash {
    block_hash(&[0; BLOCK_USIZE])
}

fn block_hash(block: &[u8]) -> BlockHash {
    let digest = sha2::Sha256::digest(block);
    let mut first = [0; 16];
    first.copy_from_slice(&digest[..16]);
    u128::from_le_bytes(first)
}

/// Reads all images of a build.
///
/// # Errors
/// [`DeltaError::Read`], [`DeltaError::Stopped`].
pub(crate) fn scan(
    images: &Images<'_>,
    build: &'static str,
    budget: &Budget,
    with_anchors: bool,
    progress: &dyn Progress,
) -> Result<Scan, DeltaError> {
    let total: u64 = images.values().map(|image| image.len().get()).sum();
    let sampler = Sampler::for_len(total, budget.anchors);
    let mut scan = Scan { images: Vec::new(), blocks: Vec::new(), anchors: Anchors::default() };
    let mut anchors = Vec::new();
    for (index, (name, image)) in images.iter().enumerate() {
        let sample = |bytes: &[u8], start| if with_anchors { sampler.sample(bytes, start) } else { Vec::new() };
        let (sha256, blocks, found) = read_image(name, &**image, build, sample, progress)?;
        anchors.extend(found.into_iter().map(|(key, at)| (key, index, at)));
        scan.images.push(ImageScan { name: name.clone(), len: image.len().get(), sha256 });
        scan.blocks.push(blocks);
    }
    scan.anchors = Anchors::new(sampler, anchors, &scan.images);
    Ok(scan)
}

/// Reads an image: its SHA-256, the digest of each block, and what `sample` finds in slices, in order.
///
/// # Errors
/// [`DeltaError::Read`], [`DeltaError::Stopped`].
pub(crate) fn read_image<T: Send>(
    name: &PartitionName,
    image: &dyn ReadAt,
    build: &'static str,
    sample: impl Fn(&[u8], u64) -> Vec<T> + Sync,
    progress: &dyn Progress,
) -> Result<(Sha256, Vec<BlockHash>, Vec<T>), DeltaError> {
    let failed = |source| DeltaError::Read { partition: name.clone(), build, source };
    let len = image.len().get();
    // The whole image's hash is one chain, so it runs beside the jobs that hash blocks.
    let slices = len.div_ceil(SLICE);
    let (sha256, parts) = rayon::join(
        || whole_hash(image, progress).map_err(|error| error.map_or(DeltaError::Stopped, failed)),
        || {
            (0..slices)
                .into_par_iter()
                .map(|slice| {
                    let start = slice * SLICE;
                    let bytes = read(image, start, SLICE.min(len - start)).map_err(failed)?;
                    let blocks: Vec<_> = bytes.chunks_exact(BLOCK_USIZE).map(block_hash).collect();
                    Ok((blocks, sample(&bytes, start)))
                })
                .collect::<Result<Vec<_>, DeltaError>>()
        },
    );
    let mut blocks = Vec::with_capacity(usize::try_from(len / BLOCK_LEN).unwrap_or(0));
    let mut sampled = Vec::new();
    for (part, found) in parts? {
        blocks.extend(part);
        sampled.extend(found);
    }
    Ok((sha256?, blocks, sampled))
}

/// Reads `len` bytes from `start` on.
pub(crate) fn read(image: &dyn ReadAt, start: u64, len: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| std::io::ErrorKind::OutOfMemory)?];
    image.read_exact_at(&mut bytes, start)?;
    Ok(bytes)
}

/// The SHA-256 of a whole image.
///
/// # Errors
/// What reading answered; `None` if stopped.
pub(crate) fn whole_hash(image: &dyn ReadAt, progress: &dyn Progress) -> Result<Sha256, Option<std::io::Error>> {
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let len = image.len().get();
    let mut at = 0;
    while at < len {
        let step = usize::try_from(len - at).unwrap_or(usize::MAX).min(buffer.len());
        image.read_exact_at(&mut buffer[..step], at).map_err(Some)?;
        hasher.update(&buffer[..step]);
        at += step as u64;
        advance(progress, step as u64).map_err(|_| None)?;
    }
    Ok(Sha256::new(hasher.finalize().into()))
}
