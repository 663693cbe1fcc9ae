//! Android sparse images, as build systems hand them out.

/// A block, in bytes.
const BLOCK: usize = 4096;

/// Writes an image as an Android sparse image: runs of one repeated word as "fill", the rest as "raw".
///
/// # Source
/// AOSP `libsparse/sparse_format.h`: header of 28 bytes, chunk headers of 12.
pub fn encode(image: &[u8]) -> Vec<u8> {
    assert_eq!(image.len() % BLOCK, 0, "sparse images are whole blocks");
    let mut chunks: Vec<(bool, Vec<&[u8]>)> = Vec::new();
    for block in image.chunks(BLOCK) {
        let filled = block.chunks(4).all(|word| word == &block[..4]);
        match chunks.last_mut() {
            Some((false, blocks)) if !filled => blocks.push(block),
            Some((true, blocks)) if filled && blocks[0][..4] == block[..4] => blocks.push(block),
            _ => chunks.push((filled, vec![block])),
        }
    }
    let number = |value: usize| u32::try_from(value).expect("test images are small").to_le_bytes();
    let mut sparse = Vec::new();
    sparse.extend_from_slice(&0xed26_ff3a_u32.to_le_bytes());
    for half in [1_u16, 0, 28, 12] {
        sparse.extend_from_slice(&half.to_le_bytes());
    }
    for word in [BLOCK, image.len() / BLOCK, chunks.len(), 0] {
        sparse.extend_from_slice(&number(word));
    }
    for (filled, blocks) in chunks {
        let (kind, data) = if filled { (0xcac2_u16, blocks[0][..4].to_vec()) } else { (0xcac1, blocks.concat()) };
        sparse.extend_from_slice(&kind.to_le_bytes());
        sparse.extend_from_slice(&[0, 0]);
        sparse.extend_from_slice(&number(blocks.len()));
        sparse.extend_from_slice(&number(12 + data.len()));
        sparse.extend_from_slice(&data);
    }
    sparse
}
