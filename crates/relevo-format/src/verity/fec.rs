//! Error correction beside dm-verity: a Reed-Solomon code over the bytes of far-apart blocks.
//!
//! A codeword of 255 bytes has as many parity bytes as there are roots. With `n` data bytes in each, the blocks are dealt
//! out in `n` stretches of `rounds` blocks, and codeword `p` of round `r` is made of byte `p` of block `r` of each
//! stretch; what is beyond the data counts as zeros. The parity bytes of one codeword stand side by side.
//!
//! The code is over GF(256) with `x^8 + x^4 + x^3 + x^2 + 1`, its generator has the roots 2^0, 2^1 and so on. Codewords
//! of a few rounds are made side by side, a block of each stretch at a time, so that the division by the generator
//! runs over long arrays.

use rayon::prelude::*;
use relevo_types::BLOCK;

use super::{FEC, VerityError, bytes};
use crate::{
    ReadAt,
    payload::{Fec, Sink},
};

/// Bytes of a codeword.
const CODEWORD: u64 = 255;
/// The polynomial of the field, without its highest power.
const POLYNOMIAL: u8 = 0x1d;
/// Rounds that one thread makes at a time; with two roots they take 384 KiB, which fit into a core's own cache.
const GROUP: u64 = 32;

/// Rounds over the data.
pub(super) fn rounds(fec: &Fec) -> u64 {
    fec.data.blocks.div_ceil(CODEWORD - u64::from(fec.roots))
}

/// Makes the parity, a few rounds at a time.
pub(super) fn compute(fec: &Fec, image: &dyn ReadAt, sink: &dyn Sink) -> Result<(), VerityError> {
    let roots = usize::try_from(fec.roots).expect("at most 24");
    let generator = generator(roots);
    let rounds = rounds(fec);
    let stretches = CODEWORD - u64::from(fec.roots);
    (0..rounds.div_ceil(GROUP)).into_par_iter().try_for_each(|group| {
        let first = group * GROUP;
        let count = GROUP.min(rounds - first);
        let len = bytes(count);
        let mut block = vec![0; len];
        let mut parity = vec![vec![0; len]; roots];
        for stretch in 0..stretches {
            let start = stretch * rounds + first;
            let filled = bytes(fec.data.blocks.saturating_sub(start).min(count));
            image
                .read_exact_at(&mut block[..filled], (fec.data.start + start.min(fec.data.blocks)) * BLOCK.get())
                .map_err(|source| VerityError::Read { what: FEC, source })?;
            block[filled..].fill(0);
            divide(&block, &mut parity, &generator);
        }
        let mut made = vec![0; len * roots];
        for (root, parity) in parity.iter().enumerate() {
            made.iter_mut().skip(root).step_by(roots).zip(parity).for_each(|(made, byte)| *made = *byte);
        }
        let offset = (fec.fec.start + first * u64::from(fec.roots)) * BLOCK.get();
        sink.write_at(&made, offset).map_err(|source| VerityError::Write { what: FEC, source })
    })
}

/// Coefficients of the generator from the second highest power down; the highest is 1.
fn generator(roots: usize) -> Vec<u8> {
    let mut polynomial = vec![1];
    let mut root = 1;
    for _ in 0..roots {
        // Times x, plus the root times what there was.
        let mut next = polynomial.clone();
        next.push(0);
        for (coefficient, &lower) in next[1..].iter_mut().zip(&polynomial) {
            *coefficient ^= multiply(lower, root);
        }
        polynomial = next;
        root = double(root);
    }
    polynomial.split_off(1)
}

fn double(value: u8) -> u8 {
    // All ones if the highest bit is set: no branch, and nothing that a vector unit cannot do.
    (value << 1) ^ (POLYNOMIAL & (value.cast_signed() >> 7).cast_unsigned())
}

fn multiply(mut a: u8, b: u8) -> u8 {
    let mut product = 0;
    for bit in 0..8 {
        if b >> bit & 1 != 0 {
            product ^= a;
        }
        a = double(a);
    }
    product
}

/// Takes the next byte of each codeword into its parity: one step of the division by the generator.
fn divide(block: &[u8], parity: &mut [Vec<u8>], generator: &[u8]) {
    if let [high, low] = parity {
        // The generator is x^2 + 3x + 2.
        for ((&byte, high), low) in block.iter().zip(high).zip(low) {
            let feedback = byte ^ *high;
            let twice = double(feedback);
            *high = *low ^ feedback ^ twice;
            *low = twice;
        }
        return;
    }
    /// Bytes that are kept in registers.
    const LANES: usize = 64;
    for start in (0..block.len()).step_by(LANES) {
        // The feedback times each power of two, of which any multiple of it is a sum.
        let mut powers = [[0; LANES]; 8];
        for (lane, power) in powers[0].iter_mut().enumerate() {
            *power = block[start + lane] ^ parity[0][start + lane];
        }
        for bit in 1..8 {
            powers[bit] = powers[bit - 1].map(double);
        }
        for (root, coefficient) in generator.iter().enumerate() {
            let mut sum = [0; LANES];
            if let Some(lower) = parity.get(root + 1) {
                sum.copy_from_slice(&lower[start..start + LANES]);
            }
            for (bit, power) in powers.iter().enumerate() {
                if coefficient >> bit & 1 != 0 {
                    sum.iter_mut().zip(power).for_each(|(sum, power)| *sum ^= power);
                }
            }
            parity[root][start..start + LANES].copy_from_slice(&sum);
        }
    }
}
