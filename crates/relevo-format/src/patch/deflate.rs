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
/// Most literals in a row.
const MAX_LITERALS: usize = (1 << 16) + 127;
/// First of the bytes that stand for the repeats 16, 17 and 18 in a head, and how many bits of count they have.
const REPEATS: [(u8, u8); 3] = [(16, 2), (20, 3), (28, 7)];
/// The length that ends a block, less 3.
const END_LENGTH: usize = 256;

/// Bits of `bytes` from `at` on, lowest first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: u64,
    end: u64,
}

impl Bits<'_> {
    /// The next `count` bits, with zeros after the end; at most 32.
    fn peek(&self, count: u32) -> u32 {
        let start = usize::try_from(self.at / 8).unwrap_or(usize::MAX);
        let rest = self.bytes.get(start..).unwrap_or_default();
        let mut word = [0; 8];
        let len = rest.len().min(8);
        word[..len].copy_from_slice(&rest[..len]);
        let bits = u64::from_le_bytes(word) >> (self.at % 8);
        u32::try_from(bits & ((1 << count) - 1)).expect("at most 32 bits")
    }

    fn skip(&mut self, count: u32) -> Result<()> {
        self.at += u64::from(count);
        if self.at > self.end { Err(DeflateError::Truncated) } else { Ok(()) }
    }

    fn take(&mut self, count: u32) -> Result<u32> {
        let bits = self.peek(count);
        self.skip(count)?;
        Ok(bits)
    }

    /// A byte's worth or less.
    fn take_u8(&mut self, count: u8) -> Result<u8> {
        Ok(u8::try_from(self.take(u32::from(count))?).expect("at most 8 bits"))
    }

    /// The next symbol of a code.
    fn symbol(&mut self, code: &Decoding) -> Result<usize> {
        let entry = code.table[self.peek(code.bits) as usize];
        if entry == 0 {
            return Err(DeflateError::Symbol);
        }
        self.skip(u32::from(entry & 15))?;
        Ok(usize::from(entry >> 4))
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

/// A code to decode with: by the next bits, the symbol shifted by 4 and the number of bits that it takes.
struct Decoding {
    table: Vec<u16>,
    bits: u32,
}

impl Decoding {
    fn new(lengths: &[u8]) -> Result<Self> {
        let bits = lengths.iter().copied().max().unwrap_or(0);
        let mut table = vec![0; 1 << bits];
        for (symbol, (code, length)) in (0_u16..).zip(codes(lengths)?) {
            if length > 0 {
                let entries = table.iter_mut().skip(usize::from(code)).step_by(1 << length);
                entries.for_each(|entry| *entry = symbol << 4 | u16::from(length));
            }
        }
        Ok(Self { table, bits: u32::from(bits) })
    }
}

/// Lengths of the fixed codes for literals and for distances.
fn fixed() -> (Vec<u8>, Vec<u8>) {
    let literals = [(8, 144), (9, 112), (7, 24), (8, 8)].into_iter().flat_map(|(len, count)| vec![len; count]);
    (literals.collect(), vec![5; MAX_DISTANCE_CODES])
}

/// Appends to a puff.
struct Puff {
    out: Vec<u8>,
    literals: Vec<u8>,
}

impl Puff {
    fn literal(&mut self, byte: u8) {
        self.literals.push(byte);
        if self.literals.len() == MAX_LITERALS {
            self.flush();
        }
    }

    fn flush(&mut self) {
        match self.literals.len() {
            0 => return,
            len @ 1..128 => self.out.push(u8::try_from(len - 1).expect("below 127")),
            len => {
                self.out.push(127);
                self.put_u16(len - 128);
            }
        }
        self.out.append(&mut self.literals);
    }

    fn head(&mut self, head: &[u8]) {
        self.flush();
        self.put_u16(head.len() - 1);
        self.out.extend_from_slice(head);
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

/// Makes a puff of `puff_len` bytes of the deflate blocks in `len` bits of `bytes` from bit `at` on.
///
/// `bytes` starts where a byte of the file does, as stored blocks are aligned to bytes.
pub(super) fn puff(bytes: &[u8], at: u64, len: u64, puff_len: u64) -> Result<Vec<u8>> {
    let end = at.checked_add(len).filter(|&end| end <= 8 * bytes.len() as u64).ok_or(DeflateError::Truncated)?;
    let mut bits = Bits { bytes, at, end };
    let mut puff = Puff { out: Vec::new(), literals: Vec::new() };
    let too_long = |puff: &Puff| (puff.out.len() + puff.literals.len()) as u64 > puff_len;
    while bits.at < end {
        let last = bits.take_u8(1)?;
        let kind = bits.take_u8(2)?;
        let head = last << 7 | kind << 5;
        let (literals, distances) = match kind {
            0 => {
                let padding = u8::try_from((8 - bits.at % 8) % 8).expect("below 8");
                // More than five bits of padding run into the type; as AOSP's puffer has it.
                puff.head(&[head | bits.take_u8(padding)?]);
                let (len, complement) = (bits.take(16)?, bits.take(16)?);
                if len ^ complement != 0xffff {
                    return Err(DeflateError::Stored);
                }
                for _ in 0..len {
                    let byte = bits.take_u8(8)?;
                    puff.literal(byte);
                }
                puff.length(END_LENGTH);
                if too_long(&puff) {
                    break;
                }
                continue;
            }
            1 => {
                puff.head(&[head]);
                fixed()
            }
            2 => {
                let mut bytes = vec![head];
                let lengths = read_lengths(&mut bits, &mut bytes)?;
                puff.head(&bytes);
                lengths
            }
            _ => return Err(DeflateError::BlockType),
        };
        let (literals, distances) = (Decoding::new(&literals)?, Decoding::new(&distances)?);
        loop {
            let symbol = bits.symbol(&literals)?;
            if let Ok(byte) = u8::try_from(symbol) {
                puff.literal(byte);
            } else if symbol == END_OF_BLOCK {
                puff.length(END_LENGTH);
                break;
            } else {
                let index = symbol - FIRST_LENGTH;
                let base = *LENGTH_BASES.get(index).ok_or(DeflateError::Symbol)?;
                let length = u32::from(base) + bits.take(u32::from(LENGTH_BITS[index]))?;
                let index = bits.symbol(&distances)?;
                let base = *DISTANCE_BASES.get(index).ok_or(DeflateError::Symbol)?;
                let distance = u32::from(base) + bits.take(u32::from(DISTANCE_BITS[index]))?;
                puff.length(length as usize - 3);
                puff.put_u16(distance as usize - 1);
            }
            if too_long(&puff) {
                break;
            }
        }
        if too_long(&puff) {
            break;
        }
    }
    puff.flush();
    if puff.out.len() as u64 != puff_len {
        return Err(DeflateError::Length { expected: puff_len, actual: puff.out.len() as u64, unit: "bytes" });
    }
    Ok(puff.out)
}

/// Reads the code lengths of a dynamic block for literals and for distances, and appends them to its head in a puff.
fn read_lengths(bits: &mut Bits<'_>, head: &mut Vec<u8>) -> Result<(Vec<u8>, Vec<u8>)> {
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
    let code = Decoding::new(&code_lengths)?;
    let mut lengths = Vec::with_capacity(literals + distances);
    while lengths.len() < literals + distances {
        let symbol = bits.symbol(&code)?;
        let byte = match symbol.checked_sub(16) {
            None => u8::try_from(symbol).expect("below 16"),
            Some(repeat) => REPEATS[repeat].0 + bits.take_u8(REPEATS[repeat].1)?,
        };
        head.push(byte);
        repeat(byte, &mut lengths)?;
    }
    split(lengths, literals, distances)
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
