//! Deflate streams as puffs and back: the same symbols, each in whole bytes, so that they can be compared.
//!
//! # Layout
//! A puff is a row of blocks. A block starts with the length of its head less 1 (2 bytes, big-endian) and the head:
//!
//! - one byte: final bit, type (two bits), and for a stored block the padding before its length;
//! - for dynamic codes: HLIT, HDIST and HCLEN in a byte each, the code length code lengths as nibbles, and a byte for each
//!   code length symbol, with the repeat count added (16 + n, 20 + n, 28 + n).
//!
//! Then, until the end of the block:
//!
//! - literals: their number less 1 below 127, or 127 and the number less 128 in two bytes; then the literals;
//! - a match: 128 + length less 3, or 255 and the length less 130; then the distance less 1 in two bytes;
//! - the end of the block: a match of length 259 without distance.
//!
//! # Source
//! RFC 1951; AOSP `external/puffin`, `puff_writer.cc`, `puffer.cc`, `huffer.cc` and `huffman_table.cc`.

use std::sync::LazyLock;

use super::locate::Limits;

/// Why deflate bits cannot be made a puff, or the other way round.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeflateError {
    /// It ends inside of a block.
    #[error("it ends inside of a block")]
    Truncated,
    /// The last block ends after or before where it should.
    #[error("its blocks have {actual}, not {expected}, {unit}")]
    Length {
        /// What was announced.
        expected: u64,
        /// What there is, or as far as it was followed.
        actual: u64,
        /// Bits or bytes.
        unit: &'static str,
    },
    /// A block of type 3.
    #[error("a block of an unknown type")]
    BlockType,
    /// A stored block whose length is not what its complement says.
    #[error("the length of a stored block is damaged")]
    Stored,
    /// Code lengths that are no code, or too many of them.
    #[error("a block without a good code")]
    Code,
    /// A symbol that the code does not have.
    #[error("a symbol that the block has no code for")]
    Symbol,
    /// Something in a puff that no puff has.
    #[error("a puff that no deflate stream makes")]
    Puff,
}

type Result<T> = std::result::Result<T, DeflateError>;

const LENGTH_BASES: [u16; 29] =
    [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
const LENGTH_BITS: [u8; 29] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCE_BASES: [u16; 30] = [
    1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145,
    8193, 12289, 16385, 24577,
];
const DISTANCE_BITS: [u8; 30] =
    [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13];
/// The order in which the lengths of the code length code come.
const CODE_ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
const END_OF_BLOCK: usize = 256;
const FIRST_LENGTH: usize = 257;
const MAX_LITERAL_CODES: usize = 286;
const MAX_DISTANCE_CODES: usize = 30;
/// Longest code in bits.
const MAX_BITS: usize = 15;
/// Longest head of a block in bytes.
const MAX_HEAD: usize = 1 + 3 + CODE_ORDER.len() + MAX_LITERAL_CODES + MAX_DISTANCE_CODES;
/// Longest match.
const MAX_LENGTH: usize = 258;
/// Most literals in a row.
const MAX_LITERALS: usize = (1 << 16) + 127;
/// First of the bytes that stand for the repeats 16, 17 and 18 in a head, and how many bits of count they have.
const REPEATS: [(u8, u8); 3] = [(16, 2), (20, 3), (28, 7)];
/// The length that ends a block, less 3.
const END_LENGTH: usize = 256;

/// Bits of `bytes` from `at` on, lowest first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl Bits<'_> {
    /// The next bits, at least 57 of them, with zeros after the last byte.
    fn word(&self) -> u64 {
        let rest = self.bytes.get(self.at / 8..).unwrap_or_default();
        let word = rest.first_chunk().copied().unwrap_or_else(|| {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            word
        });
        u64::from_le_bytes(word) >> (self.at % 8)
    }

    fn skip(&mut self, count: usize) -> Result<()> {
        self.at += count;
        if self.at > self.end { Err(DeflateError::Truncated) } else { Ok(()) }
    }

    /// The next `count` bits; at most 16.
    fn take(&mut self, count: u8) -> Result<u16> {
        let bits = self.word() & ((1 << count) - 1);
        self.skip(usize::from(count))?;
        Ok(u16::try_from(bits).expect("at most 16 bits"))
    }

    /// A byte's worth or less.
    fn take_u8(&mut self, count: u8) -> Result<u8> {
        Ok(u8::try_from(self.take(count)?).expect("at most 8 bits"))
    }
}

/// Writes bits, lowest first.
#[derive(Default)]
pub(super) struct BitWriter {
    /// Whole bytes that were not taken yet.
    pub(super) bytes: Vec<u8>,
    pending: u64,
    count: u32,
    /// Bits written since the start.
    pub(super) written: u64,
}

impl BitWriter {
    /// Appends the lowest `count` bits of `bits`, which has no others; at most 32.
    pub(super) fn put(&mut self, bits: u32, count: u32) {
        debug_assert!(u64::from(bits) < 1 << count);
        self.pending |= u64::from(bits) << self.count;
        self.count += count;
        self.written += u64::from(count);
        while self.count >= 8 {
            self.bytes.push(self.pending.to_le_bytes()[0]);
            self.pending >>= 8;
            self.count -= 8;
        }
    }

    /// Appends whole bytes.
    pub(super) fn put_bytes(&mut self, bytes: &[u8]) {
        if self.count == 0 {
            self.bytes.extend_from_slice(bytes);
            self.written += 8 * bytes.len() as u64;
        } else {
            bytes.iter().for_each(|&byte| self.put(u32::from(byte), 8));
        }
    }

    /// Whether all bits went into whole bytes.
    pub(super) fn is_aligned(&self) -> bool {
        self.count == 0
    }
}

/// The codes for given lengths with their bits in the order in which they are written; 0 bits for a symbol without one.
fn codes(lengths: &[u8]) -> Result<Vec<(u16, u8)>> {
    let mut counts = [0_u16; MAX_BITS + 1];
    for &length in lengths {
        counts[usize::from(length)] += 1;
    }
    counts[0] = 0;
    let (mut next, mut code) = ([0_u16; MAX_BITS + 1], 0_u32);
    for bits in 1..=MAX_BITS {
        code = (code + u32::from(counts[bits - 1])) << 1;
        // A code with unused ends is good, as one with a single distance is; one that needs more than there are is not.
        if code + u32::from(counts[bits]) > 1 << bits {
            return Err(DeflateError::Code);
        }
        next[bits] = u16::try_from(code).map_err(|_| DeflateError::Code)?;
    }
    let code = |&length: &u8| {
        if length == 0 {
            return (0, 0);
        }
        let code = next[usize::from(length)];
        next[usize::from(length)] = code + 1;
        (code.reverse_bits() >> (16 - length), length)
    };
    Ok(lengths.iter().map(code).collect())
}

/// What a code word stands for; 0 is none. Bits from the lowest: 4 for the length of the word, 2 for the [`Kind`], 4 for
/// the number of bits that follow the word, 16 (from bit 16 on) for a value.
#[derive(Debug, Clone, Copy)]
struct Entry(u32);

const PLAIN: u32 = 0;
const LENGTH: u32 = 1;
const END: u32 = 2;
/// Longer words follow: the value is where in the table, the number of bits by how many of the next ones.
const MORE: u32 = 3;

impl Entry {
    fn new(kind: u32, extra: u8, value: u16) -> Self {
        Self(u32::from(value) << 16 | u32::from(extra) << 6 | kind << 4)
    }

    fn kind(self) -> u32 {
        self.0 >> 4 & 3
    }

    fn extra(self) -> usize {
        (self.0 >> 6 & 15) as usize
    }

    fn value(self) -> usize {
        (self.0 >> 16) as usize
    }

    fn len(self) -> usize {
        (self.0 & 15) as usize
    }
}

/// A literal, a length or the end of a block.
fn literal_entry(symbol: usize) -> Option<Entry> {
    match symbol {
        ..END_OF_BLOCK => Some(Entry::new(PLAIN, 0, u16::try_from(symbol).expect("a byte"))),
        END_OF_BLOCK => Some(Entry::new(END, 0, 0)),
        _ => {
            let index = symbol - FIRST_LENGTH;
            Some(Entry::new(LENGTH, *LENGTH_BITS.get(index)?, LENGTH_BASES[index]))
        }
    }
}

fn distance_entry(symbol: usize) -> Option<Entry> {
    Some(Entry::new(PLAIN, *DISTANCE_BITS.get(symbol)?, DISTANCE_BASES[symbol]))
}

/// The symbols of the code for code lengths.
fn length_entry(symbol: usize) -> Option<Entry> {
    Some(Entry::new(PLAIN, 0, u16::try_from(symbol).ok()?))
}

/// By how many bits words are looked up at once; what is longer takes a second step.
const FIRST_STEP: u8 = 10;

/// A code to decode with.
#[derive(Default)]
struct Decoding {
    table: Vec<Entry>,
    /// Bits of the first step.
    first: u8,
    /// Length of the longest word.
    max: u8,
}

impl Decoding {
    fn new(lengths: &[u8], entry: impl Fn(usize) -> Option<Entry>) -> Result<Self> {
        let mut decoding = Self::default();
        decoding.fill(lengths, entry)?;
        Ok(decoding)
    }

    /// Takes on another code. Symbols without an entry are as if they had no word.
    fn fill(&mut self, lengths: &[u8], entry: impl Fn(usize) -> Option<Entry>) -> Result<()> {
        self.max = lengths.iter().copied().max().unwrap_or(0);
        self.first = self.max.min(FIRST_STEP);
        let (first, second) = (1_usize << self.first, 1_usize << (self.max - self.first));
        self.table.clear();
        self.table.resize(first, Entry(0));
        for (symbol, (code, length)) in codes(lengths)?.into_iter().enumerate() {
            let Some(entry) = entry(symbol).filter(|_| length > 0) else { continue };
            let (code, entry) = (usize::from(code), Entry(entry.0 | u32::from(length)));
            if length <= self.first {
                self.table[code..first].iter_mut().step_by(1 << length).for_each(|place| *place = entry);
                continue;
            }
            let (low, high) = (code % first, code / first);
            if self.table[low].0 == 0 {
                let at = u16::try_from(self.table.len()).expect("at most 2^15 words of second steps");
                self.table[low] = Entry(Entry::new(MORE, self.max - self.first, at).0 | u32::from(self.first));
                self.table.resize(self.table.len() + second, Entry(0));
            }
            let at = self.table[low].value();
            let places = self.table[at + high..at + second].iter_mut();
            places.step_by(1 << (length - self.first)).for_each(|place| *place = entry);
        }
        Ok(())
    }

    /// What the first word in `bits` stands for.
    fn find(&self, bits: u64) -> Result<Entry> {
        let mut entry = self.table[low(bits, usize::from(self.first))];
        if entry.kind() == MORE {
            entry = self.table[entry.value() + low(bits >> entry.len(), entry.extra())];
        }
        if entry.0 == 0 { Err(DeflateError::Symbol) } else { Ok(entry) }
    }
}

/// The lowest `count` of `bits`; at most 16.
fn low(bits: u64, count: usize) -> usize {
    usize::try_from(bits & ((1 << count) - 1)).expect("at most 16 bits")
}

/// The fixed codes for literals and for distances.
static FIXED: LazyLock<(Decoding, Decoding)> = LazyLock::new(|| {
    let (literals, distances) = fixed();
    let good = "the fixed codes are good";
    (Decoding::new(&literals, literal_entry).expect(good), Decoding::new(&distances, distance_entry).expect(good))
});

/// Lengths of the fixed codes for literals and for distances.
fn fixed() -> (Vec<u8>, Vec<u8>) {
    let literals = [(8, 144), (9, 112), (7, 24), (8, 8)].into_iter().flat_map(|(len, count)| vec![len; count]);
    (literals.collect(), vec![5; MAX_DISTANCE_CODES])
}

/// What is done with what blocks hold.
trait Sink {
    /// A block starts with this head.
    fn head(&mut self, head: &[u8]);
    fn literal(&mut self, byte: u8);
    fn copy(&mut self, length: usize, distance: usize);
    /// The block ends.
    fn end(&mut self);
    /// Whether there is more than there should be.
    fn is_full(&self) -> bool;
}

/// Appends to a puff.
struct Puff {
    out: Vec<u8>,
    /// Where the literals start that were not ended yet; a byte before them is kept free for their number.
    literals: Option<usize>,
    limit: usize,
}

impl Puff {
    fn flush(&mut self) {
        let Some(start) = self.literals.take() else { return };
        let len = self.out.len() - start;
        if len < 128 {
            self.out[start - 1] = u8::try_from(len - 1).expect("below 127");
        } else {
            let [high, low] = u16::try_from(len - 128).expect("no more are gathered").to_be_bytes();
            self.out[start - 1] = 127;
            self.out.splice(start..start, [high, low]);
        }
    }

    /// A length less 3.
    fn length(&mut self, length: usize) {
        self.flush();
        let (first, second) = if length < 127 { (length, None) } else { (127, Some(length - 127)) };
        self.out.push(128 | u8::try_from(first).expect("at most 127"));
        self.out.extend(second.map(|second| u8::try_from(second).expect("at most 129")));
    }

    fn put_u16(&mut self, value: usize) {
        self.out.extend(u16::try_from(value).expect("below 65,536").to_be_bytes());
    }
}

impl Sink for Puff {
    fn head(&mut self, head: &[u8]) {
        self.put_u16(head.len() - 1);
        self.out.extend_from_slice(head);
    }

    fn literal(&mut self, byte: u8) {
        let start = *self.literals.get_or_insert_with(|| {
            self.out.push(0);
            self.out.len()
        });
        self.out.push(byte);
        if self.out.len() - start == MAX_LITERALS {
            self.flush();
        }
    }

    fn copy(&mut self, length: usize, distance: usize) {
        self.length(length - 3);
        self.put_u16(distance - 1);
    }

    fn end(&mut self) {
        self.length(END_LENGTH);
    }

    fn is_full(&self) -> bool {
        self.out.len() > self.limit
    }
}

/// Measures a puff without making it.
#[derive(Default)]
struct Measure {
    puff_len: u64,
    /// Bytes that the blocks inflate to.
    raw_len: u64,
    literals: u64,
}

impl Measure {
    fn flush(&mut self) {
        self.puff_len += match self.literals {
            0 => 0,
            1..128 => 1,
            _ => 3,
        };
        self.literals = 0;
    }
}

impl Sink for Measure {
    fn head(&mut self, head: &[u8]) {
        self.puff_len += 2 + head.len() as u64;
    }

    fn literal(&mut self, _: u8) {
        self.raw_len += 1;
        self.puff_len += 1;
        self.literals += 1;
        if self.literals == MAX_LITERALS as u64 {
            self.flush();
        }
    }

    fn copy(&mut self, length: usize, _: usize) {
        self.flush();
        self.raw_len += length as u64;
        self.puff_len += if length < 130 { 3 } else { 4 };
    }

    fn end(&mut self) {
        self.flush();
        self.puff_len += 2;
    }

    fn is_full(&self) -> bool {
        false
    }
}

/// Codes of a dynamic block, kept for their memory.
#[derive(Default)]
struct Codes {
    literals: Decoding,
    distances: Decoding,
    lengths: Decoding,
}

/// What a block was.
struct Read {
    is_last: bool,
    is_stored: bool,
    /// The bit up to which AOSP's puffers need the file to go on, counted from the start of the bytes: they take as many
    /// bits as the longest word has before they look which word it is.
    reach: usize,
    /// Whether a length of 258 is written as 227 + 31, which the way back writes as 258 + 0.
    is_odd: bool,
}

/// Reads one block.
fn read_block(bits: &mut Bits<'_>, codes: &mut Codes, sink: &mut impl Sink) -> Result<Read> {
    let is_last = bits.take_u8(1)?;
    let kind = bits.take_u8(2)?;
    let head = is_last << 7 | kind << 5;
    let is_last = is_last == 1;
    let mut reach = 0;
    let (literals, distances) = match kind {
        0 => {
            let padding = u8::try_from((8 - bits.at % 8) % 8).expect("below 8");
            // More than five bits of padding run into the type; as AOSP's puffer has it.
            sink.head(&[head | bits.take_u8(padding)?]);
            let (len, complement) = (bits.take(16)?, bits.take(16)?);
            if len ^ complement != 0xffff {
                return Err(DeflateError::Stored);
            }
            let start = bits.at / 8;
            bits.skip(8 * usize::from(len))?;
            bits.bytes[start..bits.at / 8].iter().for_each(|&byte| sink.literal(byte));
            sink.end();
            return Ok(Read { is_last, is_stored: true, reach, is_odd: false });
        }
        1 => {
            sink.head(&[head]);
            let (literals, distances) = &*FIXED;
            (literals, distances)
        }
        2 => {
            let mut head = vec![head];
            let (literals, distances);
            (literals, distances, reach) = read_lengths(bits, &mut codes.lengths, &mut head)?;
            codes.literals.fill(&literals, literal_entry)?;
            codes.distances.fill(&distances, distance_entry)?;
            sink.head(&head);
            (&codes.literals, &codes.distances)
        }
        _ => return Err(DeflateError::BlockType),
    };
    // AOSP's puffers get by with as many bits as the end of the block has if there are no more, but with no fewer.
    let (mut end_len, mut is_odd) = (0, false);
    let (mut last_literal, mut last_distance) = ([0; MAX_BITS + 1], None);
    loop {
        let word = bits.word();
        let entry = literals.find(word)?;
        let len = entry.len();
        last_literal[len] = bits.at + 1;
        match entry.kind() {
            PLAIN => {
                bits.skip(len)?;
                sink.literal(u8::try_from(entry.value()).expect("a byte"));
            }
            END => {
                bits.skip(len)?;
                end_len = len;
                sink.end();
                break;
            }
            _ => {
                let length = entry.value() + low(word >> len, entry.extra());
                is_odd |= length == MAX_LENGTH && entry.extra() > 0;
                let used = len + entry.extra();
                let entry = distances.find(word >> used)?;
                last_distance = Some(bits.at + used);
                let used = used + entry.len();
                let distance = entry.value() + low(word >> used, entry.extra());
                bits.skip(used + entry.extra())?;
                sink.copy(length, distance);
                if sink.is_full() {
                    break;
                }
            }
        }
    }
    let long = last_literal[end_len + 1..].iter().copied().max().unwrap_or(0);
    if let Some(at) = long.checked_sub(1) {
        reach = reach.max(at + usize::from(literals.max));
    }
    if let Some(at) = last_distance {
        reach = reach.max(at + usize::from(distances.max));
    }
    Ok(Read { is_last, is_stored: false, reach, is_odd })
}

/// Makes a puff of `puff_len` bytes of the deflate blocks in `len` bits of `bytes` from bit `at` on, and appends it to
/// `out`.
///
/// `bytes` starts where a byte of the file does, as stored blocks are aligned to bytes.
pub(super) fn puff_into(bytes: &[u8], at: u64, len: u64, puff_len: u64, out: &mut Vec<u8>) -> Result<()> {
    let end = at.checked_add(len).filter(|&end| end <= 8 * bytes.len() as u64).ok_or(DeflateError::Truncated)?;
    let position = |bit: u64| usize::try_from(bit).map_err(|_| DeflateError::Truncated);
    let mut bits = Bits { bytes, at: position(at)?, end: position(end)? };
    let start = out.len();
    let limit = position(puff_len)?.saturating_add(start);
    let mut puff = Puff { out: std::mem::take(out), literals: None, limit };
    let mut codes = Codes::default();
    while bits.at < bits.end && !puff.is_full() {
        read_block(&mut bits, &mut codes, &mut puff)?;
    }
    puff.flush();
    *out = puff.out;
    let actual = (out.len() - start) as u64;
    if actual != puff_len {
        return Err(DeflateError::Length { expected: puff_len, actual, unit: "bytes" });
    }
    Ok(())
}

/// A block with codes of a deflate stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    /// Where it starts, counted in bits from the start of the bytes.
    pub(super) bit: u64,
    pub(super) bits: u64,
    pub(super) puff_len: u64,
    /// How many bits after its end AOSP's puffers want to see.
    pub(super) beyond: u8,
}

/// A whole deflate stream.
pub(super) struct Stream {
    /// Where it ends, in whole bytes.
    pub(super) end: usize,
    /// Bytes that it inflates to.
    pub(super) raw_len: u64,
}

/// Follows a deflate stream from byte `start` on and appends its blocks that become the same bits again after they were
/// puffs. `Err` comes with the byte where it went wrong.
pub(super) fn follow(
    bytes: &[u8],
    start: usize,
    limits: &Limits,
    blocks: &mut Vec<Block>,
) -> std::result::Result<Stream, (usize, DeflateError)> {
    let end = bytes.len().checked_mul(8).ok_or((start, DeflateError::Truncated))?;
    let mut bits = Bits { bytes, at: 8 * start, end };
    let (mut codes, mut raw_len) = (Codes::default(), 0);
    loop {
        let from = bits.at;
        let mut measure = Measure::default();
        let read = read_block(&mut bits, &mut codes, &mut measure).map_err(|error| (bits.at.div_ceil(8), error))?;
        raw_len += measure.raw_len;
        if !read.is_stored && !read.is_odd && measure.puff_len <= limits.puff_len {
            if blocks.len() == limits.deflates {
                return Err((bits.at.div_ceil(8), DeflateError::Truncated));
            }
            blocks.push(Block {
                bit: from as u64,
                bits: (bits.at - from) as u64,
                puff_len: measure.puff_len,
                beyond: u8::try_from(read.reach.saturating_sub(bits.at)).expect("no word is longer than 15 bits"),
            });
        }
        if read.is_last {
            return Ok(Stream { end: bits.at.div_ceil(8), raw_len });
        }
    }
}

/// Reads the code lengths of a dynamic block for literals and for distances, and appends them to its head in a puff; and
/// the bit up to which AOSP's puffers need the file to go on.
fn read_lengths(bits: &mut Bits<'_>, code: &mut Decoding, head: &mut Vec<u8>) -> Result<(Vec<u8>, Vec<u8>, usize)> {
    let counts = [bits.take_u8(5)?, bits.take_u8(5)?, bits.take_u8(4)?];
    head.extend(counts);
    let (literals, distances, codes) = numbers(counts)?;
    let mut code_lengths = [0; CODE_ORDER.len()];
    for (index, &symbol) in CODE_ORDER[..codes].iter().enumerate() {
        let length = bits.take_u8(3)?;
        code_lengths[symbol] = length;
        match head.last_mut() {
            Some(byte) if index % 2 == 1 => *byte |= length,
            _ => head.push(length << 4),
        }
    }
    code.fill(&code_lengths, length_entry)?;
    let mut lengths = Vec::with_capacity(literals + distances);
    let mut reach = 0;
    while lengths.len() < literals + distances {
        reach = bits.at + usize::from(code.max);
        let entry = code.find(bits.word())?;
        bits.skip(entry.len())?;
        let byte = match entry.value().checked_sub(16) {
            None => u8::try_from(entry.value()).expect("below 16"),
            Some(repeat) => REPEATS[repeat].0 + bits.take_u8(REPEATS[repeat].1)?,
        };
        head.push(byte);
        repeat(byte, &mut lengths)?;
    }
    let (literals, distances) = split(lengths, literals, distances)?;
    Ok((literals, distances, reach))
}

/// How many codes there are for literals and lengths, for distances, and for code lengths.
fn numbers([literals, distances, codes]: [u8; 3]) -> Result<(usize, usize, usize)> {
    let (literals, distances, codes) =
        (usize::from(literals) + 257, usize::from(distances) + 1, usize::from(codes) + 4);
    if literals > MAX_LITERAL_CODES || distances > MAX_DISTANCE_CODES || codes > CODE_ORDER.len() {
        return Err(DeflateError::Code);
    }
    Ok((literals, distances, codes))
}

/// Appends the code lengths that a byte of a head stands for.
fn repeat(byte: u8, lengths: &mut Vec<u8>) -> Result<()> {
    let (length, count) = match byte {
        0..16 => (byte, 1),
        16..20 => (*lengths.last().ok_or(DeflateError::Code)?, byte - 16 + 3),
        20..28 => (0, byte - 20 + 3),
        28..156 => (0, byte - 28 + 11),
        156.. => return Err(DeflateError::Puff),
    };
    lengths.resize(lengths.len() + usize::from(count), length);
    Ok(())
}

fn split(mut lengths: Vec<u8>, literals: usize, distances: usize) -> Result<(Vec<u8>, Vec<u8>)> {
    if lengths.len() != literals + distances {
        return Err(DeflateError::Code);
    }
    let distances = lengths.split_off(literals);
    Ok((lengths, distances))
}

/// Reads a puff.
struct Reader<'a> {
    rest: &'a [u8],
}

/// What a puff holds after a block's head.
enum Item<'a> {
    Literals(&'a [u8]),
    Match { length: usize, distance: usize },
    End,
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(DeflateError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<usize> {
        Ok(usize::from(self.bytes(1)?[0]))
    }

    fn u16(&mut self) -> Result<usize> {
        Ok(self.byte()? << 8 | self.byte()?)
    }

    fn head(&mut self) -> Result<(u8, &'a [u8])> {
        let len = self.u16()? + 1;
        if len > MAX_HEAD {
            return Err(DeflateError::Puff);
        }
        let (first, rest) = self.bytes(len)?.split_first().ok_or(DeflateError::Puff)?;
        Ok((*first, rest))
    }

    fn item(&mut self) -> Result<Item<'a>> {
        let first = self.byte()?;
        let value = first & 127;
        if first < 128 {
            let len = if value < 127 { value } else { 127 + self.u16()? } + 1;
            return Ok(Item::Literals(self.bytes(len)?));
        }
        let length = if value < 127 { value } else { 127 + self.byte()? };
        if length == END_LENGTH {
            return Ok(Item::End);
        }
        let distance = self.u16()? + 1;
        if length > END_LENGTH || distance > 1 << 15 {
            return Err(DeflateError::Puff);
        }
        Ok(Item::Match { length: length + 3, distance })
    }
}

/// Writes the deflate blocks that `puff` stands for; `bits` is where they start in the file.
pub(super) fn huff(puff: &[u8], bits: &mut BitWriter) -> Result<()> {
    let mut reader = Reader { rest: puff };
    while !reader.rest.is_empty() {
        let (first, head) = reader.head()?;
        let kind = first >> 5 & 3;
        // Only a stored block has padding.
        if kind != 0 && first & 31 != 0 {
            return Err(DeflateError::Puff);
        }
        bits.put(u32::from(first >> 7), 1);
        bits.put(u32::from(kind), 2);
        let (literals, distances) = match kind {
            0 => {
                let padding = u32::try_from((8 - bits.written % 8) % 8).expect("below 8");
                let value = u32::from(first & 31);
                if !head.is_empty() || value >> padding != 0 {
                    return Err(DeflateError::Puff);
                }
                bits.put(value, padding);
                let literals = match reader.item()? {
                    Item::Literals(literals) => literals,
                    Item::End => &[],
                    Item::Match { .. } => return Err(DeflateError::Puff),
                };
                let len = u16::try_from(literals.len()).map_err(|_| DeflateError::Puff)?;
                bits.put(u32::from(len), 16);
                bits.put(u32::from(!len), 16);
                bits.put_bytes(literals);
                if len > 0 && !matches!(reader.item()?, Item::End) {
                    return Err(DeflateError::Puff);
                }
                continue;
            }
            1 if head.is_empty() => fixed(),
            2 => write_lengths(head, bits)?,
            1 => return Err(DeflateError::Puff),
            _ => return Err(DeflateError::BlockType),
        };
        let (literals, distances) = (codes(&literals)?, codes(&distances)?);
        let symbol = |codes: &[(u16, u8)], symbol: usize, bits: &mut BitWriter| match codes.get(symbol) {
            Some(&(code, length @ 1..)) => {
                bits.put(u32::from(code), u32::from(length));
                Ok(())
            }
            _ => Err(DeflateError::Symbol),
        };
        loop {
            match reader.item()? {
                Item::Literals(bytes) => {
                    for &byte in bytes {
                        symbol(&literals, usize::from(byte), bits)?;
                    }
                }
                Item::Match { length, distance } => {
                    let (index, extra) = find(&LENGTH_BASES, length);
                    symbol(&literals, FIRST_LENGTH + index, bits)?;
                    bits.put(extra, u32::from(LENGTH_BITS[index]));
                    let (index, extra) = find(&DISTANCE_BASES, distance);
                    symbol(&distances, index, bits)?;
                    bits.put(extra, u32::from(DISTANCE_BITS[index]));
                }
                Item::End => {
                    symbol(&literals, END_OF_BLOCK, bits)?;
                    break;
                }
            }
        }
    }
    Ok(())
}

/// The last base that is not over `value`, and what is left of it.
fn find(bases: &[u16], value: usize) -> (usize, u32) {
    let index = bases.partition_point(|&base| usize::from(base) <= value) - 1;
    (index, u32::try_from(value - usize::from(bases[index])).expect("at most 32,768"))
}

/// Writes the code lengths of a dynamic block out of the rest of its head.
fn write_lengths(head: &[u8], bits: &mut BitWriter) -> Result<(Vec<u8>, Vec<u8>)> {
    let (&counts, rest) = head.split_first_chunk::<3>().ok_or(DeflateError::Puff)?;
    let (literals, distances, count) = numbers(counts)?;
    for (value, width) in counts.into_iter().zip([5, 5, 4]) {
        bits.put(u32::from(value), width);
    }
    let (nibbles, rest) = rest.split_at_checked(count.div_ceil(2)).ok_or(DeflateError::Puff)?;
    let mut code_lengths = [0; CODE_ORDER.len()];
    for (index, &symbol) in CODE_ORDER[..count].iter().enumerate() {
        let byte = nibbles[index / 2];
        let length = if index % 2 == 0 { byte >> 4 } else { byte & 15 };
        if length > 7 {
            return Err(DeflateError::Puff);
        }
        code_lengths[symbol] = length;
        bits.put(u32::from(length), 3);
    }
    let code = codes(&code_lengths)?;
    let mut lengths = Vec::with_capacity(literals + distances);
    for &byte in rest {
        let (symbol, extra) = match byte {
            0..16 => (usize::from(byte), None),
            16..20 => (16, Some(0)),
            20..28 => (17, Some(1)),
            28.. => (18, Some(2)),
        };
        repeat(byte, &mut lengths)?;
        let (code, length) = code[symbol];
        if length == 0 {
            return Err(DeflateError::Symbol);
        }
        bits.put(u32::from(code), u32::from(length));
        if let Some((first, width)) = extra.map(|extra: usize| REPEATS[extra]) {
            bits.put(u32::from(byte - first), u32::from(width));
        }
    }
    split(lengths, literals, distances)
}
