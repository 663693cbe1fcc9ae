//! Lengths: bytes, and blocks of 4 KiB.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Size of a block in bytes; what AOSP's payloads, transfer lists and file systems count in.
pub const BLOCK: ByteLen = ByteLen::new(4096);

/// A length or an offset in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteLen(u64);

/// A number of blocks of [`BLOCK`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Blocks(u64);

/// A length that does not fit where it has to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LengthError {
    /// More than this machine can address.
    #[error("{0} does not fit into this machine's memory")]
    Memory(ByteLen),
    /// Over 2^64 bytes.
    #[error("{0} blocks are over 2^64 bytes")]
    Overflow(u64),
    /// No size as written by people.
    #[error("{0:?} is no size; write bytes, or a number with KiB, MiB, GiB, KB, MB or GB")]
    Text(String),
}

impl ByteLen {
    /// No bytes.
    pub const ZERO: Self = Self(0);

    /// A length of `bytes` bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// `n` kibibytes (1,024 bytes each).
    pub const fn kib(n: u32) -> Self {
        Self((n as u64) << 10)
    }

    /// `n` mebibytes (1,048,576 bytes each).
    pub const fn mib(n: u32) -> Self {
        Self((n as u64) << 20)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The length as an index into memory.
    ///
    /// # Errors
    /// [`LengthError::Memory`] where it is over `usize::MAX` (32-bit phones).
    pub fn to_usize(self) -> Result<usize, LengthError> {
        usize::try_from(self.0).map_err(|_| LengthError::Memory(self))
    }

    /// The sum, if it fits into 64 bits.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference, if it is not below 0.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// Parses a size as people write it: `1048576`, `1MiB`, `8 GB`.
    ///
    /// # Errors
    /// [`LengthError::Text`] for anything else.
    pub fn parse(text: &str) -> Result<Self, LengthError> {
        let error = || LengthError::Text(text.chars().take(80).collect());
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(split);
        let number: u64 = digits.parse().map_err(|_| error())?;
        let unit = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kib" | "k" => 1 << 10,
            "mib" | "m" => 1 << 20,
            "gib" | "g" => 1 << 30,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            _ => return Err(error()),
        };
        number.checked_mul(unit).map(Self).ok_or_else(error)
    }

    /// The length in words for people: `512 B`, `24.6 MB` (decimal units, as download sizes are sold).
    pub fn human(self) -> String {
        const UNITS: [&str; 4] = ["KB", "MB", "GB", "TB"];
        if self.0 < 1_000 {
            return format!("{} B", self.0);
        }
        let mut tenths = self.0 / 100;
        let mut unit = 0;
        while tenths >= 10_000 && unit + 1 < UNITS.len() {
            tenths /= 1_000;
            unit += 1;
        }
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

impl Blocks {
    /// A number of blocks.
    pub const fn new(blocks: u64) -> Self {
        Self(blocks)
    }

    /// The number of blocks.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The length in bytes.
    ///
    /// # Errors
    /// [`LengthError::Overflow`] if it is over 2^64.
    pub fn to_bytes(self) -> Result<ByteLen, LengthError> {
        self.0.checked_mul(BLOCK.0).map(ByteLen).ok_or(LengthError::Overflow(self.0))
    }
}

impl fmt::Display for ByteLen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} blocks", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes_as_people_write_them() {
        assert_eq!(ByteLen::parse("8 GB"), Ok(ByteLen::new(8_000_000_000)));
        assert_eq!(ByteLen::parse("16MiB"), Ok(ByteLen::mib(16)));
        assert!(ByteLen::parse("many").is_err());
        assert!(ByteLen::parse("99999999999 GiB").is_err());
    }

    #[test]
    fn writes_sizes_for_people() {
        assert_eq!(ByteLen::new(999).human(), "999 B");
        assert_eq!(ByteLen::new(24_578_331).human(), "24.5 MB");
        assert_eq!(ByteLen::new(1_000).human(), "1.0 KB");
    }
}
