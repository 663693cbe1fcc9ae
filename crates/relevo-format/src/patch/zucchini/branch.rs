//! Branches of ARM: where they go, and the same ones going elsewhere.

/// A branch, by how it holds the distance that it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Branch {
    /// ARM: `B`, `BL` and `BLX` with 24 bits.
    A24,
    /// Thumb: `B<c>` with 8 bits.
    T8,
    /// Thumb: `B` with 11 bits.
    T11,
    /// Thumb-2: `B<c>` with 20 bits.
    T20,
    /// Thumb-2: `B`, `BL` and `BLX` with 24 bits.
    T24,
    /// ARM64: `TBZ`, `TBNZ`.
    Imm14,
    /// ARM64: `B.<c>`, `CBZ`, `CBNZ`.
    Imm19,
    /// ARM64: `B`, `BL`.
    Imm26,
}

/// The lowest `bits` of `value`, with the highest of them as the sign.
fn sign(value: u32, bits: u32) -> u32 {
    ((value << (32 - bits)).cast_signed() >> (32 - bits)).cast_unsigned()
}

/// Whether a distance fits into so many bits with its sign.
fn fits(distance: u32, bits: u32) -> bool {
    sign(distance, bits) == distance
}

/// Bits of `value`, from the first one on.
fn field(value: u32, first: u32, bits: u32) -> u32 {
    value >> first & ((1 << bits) - 1)
}

impl Branch {
    /// Bytes of the instruction.
    pub(super) fn len(self) -> u32 {
        match self {
            Self::T8 | Self::T11 => 2,
            _ => 4,
        }
    }

    /// What an instruction's address is a multiple of.
    fn alignment(self) -> u32 {
        match self {
            Self::T8 | Self::T11 | Self::T20 | Self::T24 => 2,
            _ => 4,
        }
    }

    /// How far the program counter is ahead of the instruction.
    fn ahead(self) -> u32 {
        match self {
            Self::A24 => 8,
            Self::T8 | Self::T11 | Self::T20 | Self::T24 => 4,
            Self::Imm14 | Self::Imm19 | Self::Imm26 => 0,
        }
    }

    /// The instruction at the start of `bytes`; 0, which is no branch, if they are too few.
    pub(super) fn load(self, bytes: &[u8]) -> u32 {
        let half =
            |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |&half| u16::from_le_bytes(half));
        match self {
            Self::T8 | Self::T11 => u32::from(half(0)),
            // Two halves, the higher one first.
            Self::T20 | Self::T24 => u32::from(half(0)) << 16 | u32::from(half(2)),
            _ => u32::from(half(2)) << 16 | u32::from(half(0)),
        }
    }

    /// Puts an instruction to the start of `bytes`, which are enough.
    pub(super) fn store(self, bytes: &mut [u8], code: u32) {
        let code = if matches!(self, Self::T20 | Self::T24) { code.rotate_left(16) } else { code };
        let len = self.len() as usize;
        bytes[..len].copy_from_slice(&code.to_le_bytes()[..len]);
    }

    /// The distance that an instruction holds, and what its target is a multiple of; none if it is no such branch.
    fn distance(self, code: u32) -> Option<(u32, u32)> {
        let found = |is: bool, distance: u32, alignment| is.then_some((distance, alignment));
        match self {
            Self::A24 => {
                let distance = sign(code, 24) << 2;
                // BLX has no condition, but one bit more of the distance.
                let exchange = code >> 28 == 15;
                let (distance, alignment) =
                    if exchange { (distance | field(code, 24, 1) << 1, 2) } else { (distance, 4) };
                found(matches!(field(code, 24, 4), 10 | 11), distance, alignment)
            }
            Self::T8 => found(code & 0xf000 == 0xd000 && code & 0xf00 != 0xf00, sign(code, 8) << 1, 2),
            Self::T11 => found(code & 0xf800 == 0xe000, sign(code, 11) << 1, 2),
            Self::T20 => {
                let distance = field(code, 26, 1) << 20
                    | field(code, 11, 1) << 19
                    | field(code, 13, 1) << 18
                    | field(code, 16, 6) << 12
                    | field(code, 0, 11) << 1;
                let is = code & 0xf800_d000 == 0xf000_8000 && code & 0x03c0_0000 != 0x03c0_0000;
                found(is, sign(distance, 21), 2)
            }
            Self::T24 => {
                let sign_bit = field(code, 26, 1);
                let distance = sign_bit << 24
                    | (field(code, 13, 1) ^ sign_bit ^ 1) << 23
                    | (field(code, 11, 1) ^ sign_bit ^ 1) << 22
                    | field(code, 16, 10) << 12
                    | field(code, 0, 11) << 1;
                match code & 0xf800_d000 {
                    0xf000_9000 | 0xf000_d000 => Some((sign(distance, 25), 2)),
                    // BLX goes to ARM code; its lowest bit is 0.
                    0xf000_c000 => found(code & 1 == 0, sign(distance, 25), 4),
                    _ => None,
                }
            }
            Self::Imm14 => found(code & 0x7e00_0000 == 0x3600_0000, sign(code >> 5, 14) << 2, 4),
            Self::Imm19 => {
                let is = code & 0xff00_0010 == 0x5400_0000 || code & 0x7e00_0000 == 0x3400_0000;
                found(is, sign(code >> 5, 19) << 2, 4)
            }
            Self::Imm26 => found(code & 0x7c00_0000 == 0x1400_0000, sign(code, 26) << 2, 4),
        }
    }

    /// The same instruction with another distance; none if it is no such branch or cannot go there.
    fn with_distance(self, code: u32, distance: u32) -> Option<u32> {
        self.distance(code)?;
        let (bits, lost) = match self {
            Self::A24 => (26, if code >> 28 == 15 { 1 } else { 3 }),
            Self::T8 => (9, 1),
            Self::T11 => (12, 1),
            Self::T20 => (21, 1),
            Self::T24 => (25, if code & 0xf800_d000 == 0xf000_c000 { 3 } else { 1 }),
            Self::Imm14 => (16, 3),
            Self::Imm19 => (21, 3),
            Self::Imm26 => (28, 3),
        };
        if !fits(distance, bits) || distance & lost != 0 {
            return None;
        }
        Some(match self {
            Self::A24 => {
                let code = if code >> 28 == 15 { code & !(1 << 24) | field(distance, 1, 1) << 24 } else { code };
                code & 0xff00_0000 | field(distance, 2, 24)
            }
            Self::T8 => code & 0xff00 | field(distance, 1, 8),
            Self::T11 => code & 0xf800 | field(distance, 1, 11),
            Self::T20 => {
                code & 0xfbc0_d000
                    | field(distance, 20, 1) << 26
                    | field(distance, 12, 6) << 16
                    | field(distance, 18, 1) << 13
                    | field(distance, 19, 1) << 11
                    | field(distance, 1, 11)
            }
            Self::T24 => {
                let sign_bit = field(distance, 24, 1);
                code & 0xf800_d000
                    | sign_bit << 26
                    | field(distance, 12, 10) << 16
                    | (field(distance, 23, 1) ^ sign_bit ^ 1) << 13
                    | (field(distance, 22, 1) ^ sign_bit ^ 1) << 11
                    | field(distance, 1, 11)
            }
            Self::Imm14 => code & 0xfff8_001f | field(distance, 2, 14) << 5,
            Self::Imm19 => code & 0xff00_001f | field(distance, 2, 19) << 5,
            Self::Imm26 => code & 0xfc00_0000 | field(distance, 2, 26),
        })
    }

    /// The address that the instruction at an address goes to.
    pub(super) fn target(self, address: u32, code: u32) -> Option<u32> {
        let (distance, alignment) = self.distance(code)?;
        let target = address.wrapping_add(self.ahead()).wrapping_add(distance);
        address.is_multiple_of(self.alignment()).then_some(target & !(alignment - 1))
    }

    /// The instruction at an address going to another one; none if it is no such branch or cannot.
    pub(super) fn with_target(self, address: u32, target: u32, code: u32) -> Option<u32> {
        let (_, alignment) = self.distance(code)?;
        if !address.is_multiple_of(self.alignment()) || !target.is_multiple_of(alignment) {
            return None;
        }
        let distance = target.wrapping_sub(address.wrapping_add(self.ahead()));
        // Where both have different alignments, the processor rounds down.
        let distance = distance.wrapping_add(distance.wrapping_neg() & (alignment - 1));
        self.with_distance(code, distance)
    }

    /// An instruction with a distance of 0.
    pub(super) fn with_no_distance(self, code: u32) -> u32 {
        self.with_distance(code, 0).unwrap_or(code)
    }

    /// An instruction with the distance of another one, each in its own place; none if it cannot hold it.
    pub(super) fn with_distance_of(self, code: u32, other: u32) -> Option<u32> {
        self.with_distance(code, self.distance(other)?.0)
    }
}

/// Whether a Thumb instruction that starts with this half has a second one.
pub(super) fn is_wide(half: u16) -> bool {
    half & 0xf000 == 0xf000 || half & 0xf800 == 0xe800
}
