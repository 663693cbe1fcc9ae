//! Images that end as a build makes them end: hash tree, error correction, vbmeta, and a footer in a block of its own.

use relevo_format::{
    payload::{Extent, Fec, HashTree, Verity},
    verity,
};

use crate::support::Out;

const BLOCK: u64 = 4096;
/// Digests of SHA-256 in a block of the tree.
const DIGESTS: u64 = 128;
/// Blocks of data in a round of error correction with two roots.
const ROUND: u64 = 253;

/// What a phone computes for `data` blocks.
pub(crate) fn left(data: u64) -> Verity {
    let extent = |start, blocks| Extent { start, blocks };
    let levels =
        std::iter::successors(Some(data.div_ceil(DIGESTS)), |&below| (below > 1).then(|| below.div_ceil(DIGESTS)));
    let tree: u64 = levels.sum();
    let fec = (data + tree).div_ceil(ROUND) * 2;
    Verity {
        hash_tree: Some(HashTree {
            data: extent(0, data),
            tree: extent(data, tree),
            algorithm: "sha256".to_owned(),
            salt: vec![7; 32],
        }),
        fec: Some(Fec { data: extent(0, data + tree), fec: extent(data + tree, fec), roots: 2 }),
    }
}

/// Where the tree and the error correction of `data` blocks begin, and where they end.
pub(crate) fn bounds(data: u64) -> [u64; 3] {
    let left = left(data);
    [left.hash_tree.unwrap().tree.start, left.fec.as_ref().unwrap().fec.start, left.fec.unwrap().fec.end()]
}

/// An image of `data`, whole blocks, and all that belongs behind it.
pub(crate) fn image(data: Vec<u8>) -> Vec<u8> {
    let blocks = data.len() as u64 / BLOCK;
    let [_, fec, end] = bounds(blocks);
    let (tree_len, fec_len) = (fec - blocks, end - fec);
    let bytes = |blocks: u64| usize::try_from(blocks * BLOCK).unwrap();
    let mut image = data;
    image.resize(bytes(end + 2), 0);
    let mut descriptor = Vec::new();
    let mut put = |bytes: &[u8]| descriptor.extend_from_slice(bytes);
    put(&1_u64.to_be_bytes());
    // Fixed fields, name and salt, in a multiple of 8 bytes; no digest of the root, as where the phone keeps it.
    put(&208_u64.to_be_bytes());
    put(&1_u32.to_be_bytes());
    [blocks, blocks, tree_len].iter().for_each(|blocks| put(&(blocks * BLOCK).to_be_bytes()));
    [4096_u32, 4096, 2].iter().for_each(|number| put(&number.to_be_bytes()));
    [fec, fec_len].iter().for_each(|blocks| put(&(blocks * BLOCK).to_be_bytes()));
    put(b"sha256");
    put(&[0; 26]);
    [6_u32, 32, 0, 0].iter().for_each(|number| put(&number.to_be_bytes()));
    put(&[0; 60]);
    put(b"system");
    put(&[7; 32]);
    descriptor.resize(224, 0);
    let mut vbmeta = b"AVB0\0\0\0\x01\0\0\0\0".to_vec();
    vbmeta.resize(256, 0);
    vbmeta[20..28].copy_from_slice(&256_u64.to_be_bytes());
    vbmeta[104..112].copy_from_slice(&224_u64.to_be_bytes());
    vbmeta.extend(descriptor);
    vbmeta.resize(512, 0);
    let start = bytes(end);
    image[start..start + vbmeta.len()].copy_from_slice(&vbmeta);
    let footer = image.len() - 64;
    image[footer..footer + 12].copy_from_slice(b"AVBf\0\0\0\x01\0\0\0\0");
    let fields = [blocks * BLOCK, end * BLOCK, 512].map(u64::to_be_bytes).concat();
    image[footer + 12..footer + 36].copy_from_slice(&fields);
    let out = Out::new(image);
    verity::compute(&left(blocks), &out, &out).unwrap();
    out.bytes()
}
