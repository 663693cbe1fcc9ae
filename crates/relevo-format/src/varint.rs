//! Variable-length integers: LEB128, 7 bits a byte, low bits first; signed ones as zigzag.

use std::io::{self, Read};

/// Longest encoding of a `u64` in bytes.
pub(crate) const MAX_LEN: usize = 10;

/// Appends `value`.
pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Maps small negative and positive numbers to small unsigned ones.
pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// The inverse of [`zigzag`].
pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// Reads one integer; `None` at the end of the input before its first byte.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] for one over 64 bits or with a needless last byte (every value has one encoding);
/// [`io::ErrorKind::UnexpectedEof`] inside one.
pub(crate) fn read(input: &mut impl Read) -> io::Result<Option<u64>> {
    let mut value = 0_u64;
    for index in 0..MAX_LEN {
        let mut byte = [0];
        let len = loop {
            match input.read(&mut byte) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        if len == 0 {
            return if index == 0 { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        let low = u64::from(byte[0] & 0x7f);
        if index == MAX_LEN - 1 && low > 1 || index > 0 && byte[0] == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        value |= low << (7 * index);
        if byte[0] & 0x80 == 0 {
            return Ok(Some(value));
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trips(value: u64, signed: i64) {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            prop_assert_eq!(read(&mut &bytes[..]).unwrap(), Some(value));
            prop_assert_eq!(unzigzag(zigzag(signed)), signed);
        }
    }

    #[test]
    fn refuses_more_than_64_bits_and_needless_bytes() {
        assert!(read(&mut &[0xff; 10][..]).is_err());
        assert!(read(&mut &[0x81, 0x00][..]).is_err());
        assert!(read(&mut &[0x80][..]).is_err());
    }
}
