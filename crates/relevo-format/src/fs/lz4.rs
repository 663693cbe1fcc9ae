//! LZ4 blocks, as far as wanted.
//!
//! EROFS lets a file use the first part of a cluster that another file has whole, and old images have garbage after the
//! end of a block. Both need a decoder that stops at a length, which crates for LZ4 do not offer.
//!
//! # Source
//! LZ4 `doc/lz4_Block_format.md`, 1.10.0.

/// A block that is none, or that ends before what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damaged;

/// Shortest match; lengths in tokens count from it.
const MIN_MATCH: usize = 4;

/// Decodes `block` until `len` bytes are in `out`, which is emptied first. The caller has bounded `len`.
pub(super) fn decode(block: &[u8], len: usize, out: &mut Vec<u8>) -> Result<(), Damaged> {
    out.clear();
    out.reserve_exact(len);
    let mut input = block;
    while out.len() < len {
        let token = byte(&mut input)?;

        let literals = length(&mut input, token >> 4)?.min(len - out.len());
        let (bytes, rest) = input.split_at_checked(literals).ok_or(Damaged)?;
        out.extend_from_slice(bytes);
        input = rest;
        if out.len() == len {
            break;
        }

        let (low, high) = (byte(&mut input)?, byte(&mut input)?);
        let distance = usize::from(u16::from_le_bytes([low, high]));
        let copied = length(&mut input, token & 15)?.saturating_add(MIN_MATCH).min(len - out.len());
        let start = out.len().checked_sub(distance).filter(|_| distance > 0).ok_or(Damaged)?;
        if distance >= copied {
            out.extend_from_within(start..start + copied);
        } else {
            // The match reaches into itself: what there is of it doubles with each turn.
            let mut left = copied;
            while left > 0 {
                let step = left.min(out.len() - start);
                out.extend_from_within(start..start + step);
                left -= step;
            }
        }
    }
    Ok(())
}

fn byte(input: &mut &[u8]) -> Result<u8, Damaged> {
    let (&first, rest) = input.split_first().ok_or(Damaged)?;
    *input = rest;
    Ok(first)
}

fn length(input: &mut &[u8], nibble: u8) -> Result<usize, Damaged> {
    let mut len = usize::from(nibble);
    if nibble == 15 {
        loop {
            let more = byte(input)?;
            len += usize::from(more);
            if more != 255 {
                break;
            }
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(block: &[u8], len: usize) -> Result<Vec<u8>, Damaged> {
        let mut out = vec![9; 3];
        decode(block, len, &mut out).map(|()| out)
    }

    /// "abcabcabcabcX": three literals, a match of nine that reaches into itself, one literal.
    const BLOCK: [u8; 8] = [0x35, b'a', b'b', b'c', 3, 0, 0x10, b'X'];

    #[test]
    fn decodes_to_every_length_that_a_block_has() {
        let all = b"abcabcabcabcX";

        for len in 0..=all.len() {
            assert_eq!(decoded(&BLOCK, len).unwrap(), all[..len]);
        }
        assert_eq!(decoded(&BLOCK, all.len() + 1), Err(Damaged));
    }

    #[test]
    fn takes_lengths_of_many_bytes() {
        let literals = [&[0xf0, 255, 0][..], &[7; 270]].concat();
        assert_eq!(decoded(&literals, 270).unwrap(), [7; 270]);

        let matches = [0x1f, b'z', 1, 0, 255, 255, 1];
        assert_eq!(decoded(&matches, 1 + 15 + 511 + 4).unwrap(), [b'z'; 531]);
        assert_eq!(decoded(&matches, 532), Err(Damaged));
    }

    #[test]
    fn refuses_a_match_from_before_the_start() {
        for distance in [0, 2] {
            assert_eq!(decoded(&[0x10, b'a', distance, 0], 5), Err(Damaged));
        }
    }

    #[test]
    fn refuses_a_block_cut_anywhere() {
        for len in 0..BLOCK.len() {
            assert_eq!(decoded(&BLOCK[..len], 13), Err(Damaged));
        }
    }
}
