//! Operations that no encoder writes.

use std::io::{self, BufRead, Read};

use proptest::prelude::*;
use relevo_format::ops::{Decoder, Encoder, Op, OpsError};

use crate::fixture::varint;

const COPY: u64 = 0;
const INSERT: u64 = 2;
const BASE: u64 = 4;

fn bytes(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|&number| varint(number)).collect()
}

fn decode(bytes: &[u8], bases: usize) -> Result<Vec<Op>, OpsError> {
    let mut decoder = Decoder::new(bytes, bases);
    std::iter::from_fn(|| decoder.next_op().transpose()).collect()
}

proptest! {
    #[test]
    fn every_list_of_operations_has_one_encoding(bytes in prop::collection::vec(0..40_u8, 0..60)) {
        if let Ok(ops) = decode(&bytes, 3) {
            let mut encoder = Encoder::new(3);
            ops.iter().for_each(|&op| encoder.push(op));
            prop_assert_eq!(encoder.finish(), bytes);
        }
    }
}

#[test]
fn refuses_an_operation_of_length_0() {
    for kind in [0, 1, 2, 3] {
        assert!(matches!(decode(&bytes(&[kind, 0]), 1), Err(OpsError::Empty)));
    }
}

#[test]
fn refuses_kinds_that_do_not_exist() {
    for kind in [5, 6, 7] {
        assert!(matches!(decode(&bytes(&[8 | kind, 0]), 1), Err(OpsError::Kind(found)) if found == kind));
    }
}

#[test]
fn refuses_a_change_of_base_without_a_copy_from_it() {
    // Changes of base alone went on for as long as a stream of them, and a zstd frame of a few KB makes terabytes.
    let change = |base: u64| base << 3 | BASE;
    for numbers in [
        &[change(1)][..],
        &[change(1), change(0), 8 | COPY, 0],
        &[change(1), 8 | INSERT],
        &[change(0), 8 | COPY, 0],
        &[change(1), 8 | COPY, 0, change(1), 8 | COPY, 0],
    ] {
        assert!(matches!(decode(&bytes(numbers), 2), Err(OpsError::BaseUnused(_))), "{numbers:?}");
    }
    assert!(decode(&bytes(&[change(1), 8 | COPY, 0, change(0), 8 | COPY, 0]), 2).is_ok());
}

#[test]
fn refuses_bases_beyond_those_of_the_piece() {
    assert!(matches!(decode(&bytes(&[8 | COPY, 0]), 0), Err(OpsError::Base { index: 0, bases: 0 })));
    let far = u64::MAX << 3 | BASE;
    assert!(matches!(decode(&bytes(&[far]), 2), Err(OpsError::Base { bases: 2, .. })));
}

#[test]
fn refuses_positions_below_0_and_over_64_bits() {
    let most = !7_u64;
    // One byte at the start, then 2 back.
    assert!(matches!(decode(&bytes(&[8 | COPY, 0, 8 | COPY, 3]), 1), Err(OpsError::Position)));
    // As far as a step goes, twice, and the longest copy behind it.
    let step = u64::MAX - 1;
    assert!(matches!(decode(&bytes(&[8 | COPY, step, 8 | COPY, step]), 1), Err(OpsError::Position)));
    let longest = [most | COPY, 0];
    let many: Vec<u64> = longest.iter().copied().cycle().take(18).collect();
    assert!(matches!(decode(&bytes(&many), 1), Err(OpsError::Position)));
}

#[test]
fn refuses_a_stream_that_ends_inside_an_operation() {
    let mut encoder = Encoder::new(2);
    encoder.push(Op::Add { base: 1, start: 1 << 40, len: 1 << 20 });
    let whole = encoder.finish();
    assert_eq!(decode(&whole, 2).unwrap().len(), 1);

    for len in 1..whole.len() {
        assert!(decode(&whole[..len], 2).is_err(), "cut at {len}");
    }
}

/// Interrupted before every byte.
struct Stutter<'a>(&'a [u8], bool);

impl Read for Stutter<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 { Err(io::ErrorKind::Interrupted.into()) } else { self.0.read(buf) }
    }
}

impl BufRead for Stutter<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(self.0)
    }

    fn consume(&mut self, amount: usize) {
        self.0 = &self.0[amount..];
    }
}

#[test]
fn an_interrupted_read_is_tried_again() {
    let mut encoder = Encoder::new(1);
    encoder.push(Op::Copy { base: 0, start: 1000, len: 1000 });
    let bytes = encoder.finish();

    let op = Decoder::new(Stutter(&bytes, false), 1).next_op().unwrap();

    assert_eq!(op, Some(Op::Copy { base: 0, start: 1000, len: 1000 }));
}
