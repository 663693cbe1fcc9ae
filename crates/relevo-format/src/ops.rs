//! The operations of a piece, as bytes (engine `engine/bsdiff`, stream `stream/ops`; docs/format.md, "Operations").
//!
//! An operation appends to the target: bytes of a base, bytes of a base with the diff stream added, bytes of the extra
//! stream, or zeros. Source positions are written relative to where the last copy from that base ended, so that a run
//! of near neighbours costs a byte or two each.

use std::io::{self, BufRead};

use crate::varint;

/// One operation; lengths and offsets in bytes, no length is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Bytes of a base as they are.
    Copy {
        /// Index into the piece's bases.
        base: u32,
        /// First byte in the base.
        start: u64,
        /// Number of bytes.
        len: u64,
    },
    /// Bytes of a base, each plus (modulo 256) the next byte of the diff stream.
    Add {
        /// Index into the piece's bases.
        base: u32,
        /// First byte in the base.
        start: u64,
        /// Number of bytes.
        len: u64,
    },
    /// The next bytes of the extra stream.
    Insert {
        /// Number of bytes.
        len: u64,
    },
    /// Zeros.
    Zero {
        /// Number of bytes.
        len: u64,
    },
}

impl Op {
    /// How many target bytes the operation makes.
    pub fn len(&self) -> u64 {
        let (Self::Copy { len, .. } | Self::Add { len, .. } | Self::Insert { len } | Self::Zero { len }) = self;
        *len
    }

    /// Whether it makes none; such an operation is never written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What is wrong with a stream of operations.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpsError {
    /// The stream could not be read, or ends inside an operation.
    #[error("could not read the operations")]
    Read(#[from] io::Error),
    /// A kind of operation that does not exist.
    #[error("unknown operation kind {0}")]
    Kind(u64),
    /// An operation that makes nothing.
    #[error("an operation of length 0")]
    Empty,
    /// A base that the piece does not name.
    #[error("base {index} of {bases}")]
    Base {
        /// The index that was asked for.
        index: u64,
        /// How many bases the piece has.
        bases: usize,
    },
    /// A change of base that changes nothing, or that no copy follows.
    #[error("a change to base {0} without a copy from it")]
    BaseUnused(usize),
    /// A position before the start or after 2^64.
    #[error("a source position outside of 64 bits")]
    Position,
}

const COPY: u64 = 0;
const ADD: u64 = 1;
const INSERT: u64 = 2;
const ZERO: u64 = 3;
const BASE: u64 = 4;
/// Bits of the first integer that hold the kind.
const KIND_BITS: u32 = 3;
/// Most bytes of stream for one operation: a change of base, kind and length, and a position, of ten bytes each.
pub(crate) const MAX_ENCODED: u64 = 3 * varint::MAX_LEN as u64;
/// Longest operation in bytes, so that length and kind fit into 64 bits.
const MAX_OP: u64 = u64::MAX >> KIND_BITS;

/// Writes operations.
#[derive(Debug)]
pub struct Encoder {
    out: Vec<u8>,
    base: usize,
    ends: Vec<u64>,
}

impl Encoder {
    /// An empty stream over `bases` bases.
    pub fn new(bases: usize) -> Self {
        Self { out: Vec::new(), base: 0, ends: vec![0; bases] }
    }

    /// Appends an operation; one of length 0 is dropped.
    ///
    /// # Panics
    /// If it names a base that does not exist or is over 2^61 bytes long: the writer's mistake, never the input's.
    pub fn push(&mut self, op: Op) {
        if op.is_empty() {
            return;
        }
        assert!(op.len() <= MAX_OP, "an operation over 2^61 bytes");
        match op {
            Op::Copy { base, start, len } => self.copy(COPY, base, start, len),
            Op::Add { base, start, len } => self.copy(ADD, base, start, len),
            Op::Insert { len } => varint::put(&mut self.out, len << KIND_BITS | INSERT),
            Op::Zero { len } => varint::put(&mut self.out, len << KIND_BITS | ZERO),
        }
    }

    fn copy(&mut self, kind: u64, base: u32, start: u64, len: u64) {
        let base = base as usize;
        assert!(base < self.ends.len(), "base {base} of {}", self.ends.len());
        if base != self.base {
            varint::put(&mut self.out, (base as u64) << KIND_BITS | BASE);
            self.base = base;
        }
        varint::put(&mut self.out, len << KIND_BITS | kind);
        let step = start.wrapping_sub(self.ends[base]).cast_signed();
        varint::put(&mut self.out, varint::zigzag(step));
        self.ends[base] = start + len;
    }

    /// The stream's bytes.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

/// Reads operations.
#[derive(Debug)]
pub struct Decoder<R> {
    input: R,
    base: usize,
    ends: Vec<u64>,
}

impl<R: BufRead> Decoder<R> {
    /// A reader over the operations of a piece with `bases` bases.
    pub fn new(input: R, bases: usize) -> Self {
        Self { input, base: 0, ends: vec![0; bases] }
    }

    /// The next operation, or `None` at the end.
    ///
    /// # Errors
    /// [`OpsError`] for anything that no [`Encoder`] writes.
    pub fn next_op(&mut self) -> Result<Option<Op>, OpsError> {
        let split = |head: u64| (head & ((1 << KIND_BITS) - 1), head >> KIND_BITS);
        let Some(head) = varint::read(&mut self.input)? else { return Ok(None) };
        let (mut kind, mut len) = split(head);
        if kind == BASE {
            let bases = self.ends.len();
            let base = usize::try_from(len).ok().filter(|&base| base < bases);
            let base = base.ok_or(OpsError::Base { index: len, bases })?;
            // Every operation makes at least one byte, so a stream that goes on and on makes too much and is refused.
            // A change of base alone would be work without an end.
            let next = varint::read(&mut self.input)?.map(split);
            let Some((next @ (COPY | ADD), next_len)) = next.filter(|_| base != self.base) else {
                return Err(OpsError::BaseUnused(base));
            };
            self.base = base;
            (kind, len) = (next, next_len);
        }
        if len == 0 {
            return Err(OpsError::Empty);
        }
        Ok(Some(match kind {
            COPY | ADD => self.copy(kind, len)?,
            INSERT => Op::Insert { len },
            ZERO => Op::Zero { len },
            _ => return Err(OpsError::Kind(kind)),
        }))
    }

    /// What the operations were read from.
    pub(crate) fn into_input(self) -> R {
        self.input
    }

    fn copy(&mut self, kind: u64, len: u64) -> Result<Op, OpsError> {
        let step = varint::read(&mut self.input)?.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let bases = self.ends.len();
        let end = self.ends.get_mut(self.base).ok_or(OpsError::Base { index: self.base as u64, bases })?;
        let start = end.checked_add_signed(varint::unzigzag(step)).ok_or(OpsError::Position)?;
        *end = start.checked_add(len).ok_or(OpsError::Position)?;
        let base = u32::try_from(self.base).map_err(|_| OpsError::Position)?;
        Ok(if kind == COPY { Op::Copy { base, start, len } } else { Op::Add { base, start, len } })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn op() -> impl Strategy<Value = Op> {
        let len = 1..1_u64 << 40;
        prop_oneof![
            (0..3_u32, 0..1_u64 << 40, len.clone()).prop_map(|(base, start, len)| Op::Copy { base, start, len }),
            (0..3_u32, 0..1_u64 << 40, len.clone()).prop_map(|(base, start, len)| Op::Add { base, start, len }),
            len.clone().prop_map(|len| Op::Insert { len }),
            len.prop_map(|len| Op::Zero { len }),
        ]
    }

    fn decode(bytes: &[u8]) -> Result<Vec<Op>, OpsError> {
        let mut decoder = Decoder::new(bytes, 3);
        std::iter::from_fn(|| decoder.next_op().transpose()).collect()
    }

    proptest! {
        #[test]
        fn round_trips(ops in prop::collection::vec(op(), 0..50)) {
            let mut encoder = Encoder::new(3);
            ops.iter().for_each(|&op| encoder.push(op));
            prop_assert_eq!(decode(&encoder.finish()).unwrap(), ops);
        }

        #[test]
        fn damage_is_an_error_or_other_operations_but_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn refuses_a_base_that_the_piece_does_not_name() {
        assert!(matches!(decode(&[3 << 3 | 4]), Err(OpsError::Base { index: 3, bases: 3 })));
    }

    #[test]
    fn refuses_a_position_before_the_start() {
        assert!(matches!(decode(&[1 << 3, 1]), Err(OpsError::Position)));
    }
}
