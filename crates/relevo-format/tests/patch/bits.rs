//! Deflate blocks written by hand.

/// Bits, lowest first.
#[derive(Default)]
pub(crate) struct Bits(Vec<bool>);

impl Bits {
    pub(crate) fn put(&mut self, value: u32, count: u32) -> &mut Self {
        self.0.extend((0..count).map(|bit| value >> bit & 1 == 1));
        self
    }

    /// A code, which is written from its highest bit on.
    pub(crate) fn code(&mut self, code: u32, count: u32) -> &mut Self {
        self.0.extend((0..count).rev().map(|bit| code >> bit & 1 == 1));
        self
    }

    /// A block of fixed codes: `a`, three bytes from one byte back, the end.
    pub(crate) fn fixed(&mut self) -> &mut Self {
        self.put(1, 1).put(1, 2).code(0x30 + u32::from(b'a'), 8).code(1, 7).code(0, 5).code(0, 7)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        assert_eq!(self.0.len() % 8, 0);
        self.0.chunks(8).map(|bits| bits.iter().rev().fold(0, |byte, &bit| byte << 1 | u8::from(bit))).collect()
    }

    /// The bytes, with zeros up to a whole one.
    pub(crate) fn padded(mut self) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(8), false);
        self.bytes()
    }
}
