//! The little of DER that keys and signatures need.
//!
//! # Source
//! ITU-T X.690, sections 8 and 10: tags of one byte, definite lengths in their shortest form.

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BITS: u8 = 0x03;
pub(crate) const OCTETS: u8 = 0x04;
pub(crate) const NULL: u8 = 0x05;
pub(crate) const OBJECT: u8 = 0x06;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
pub(crate) const CONTEXT_0: u8 = 0xa0;
pub(crate) const CONTEXT_1: u8 = 0xa1;

/// Values one after the other.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The content of the next value; none, and nothing taken, if it has another tag or is damaged.
    pub(crate) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (header, len) = self.header(tag)?;
        let content = self.0.get(header..header.checked_add(len)?)?;
        self.0 = &self.0[header + len..];
        Some(content)
    }

    /// The next value with its tag and length.
    pub(crate) fn whole(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (header, len) = self.header(tag)?;
        let (value, rest) = self.0.split_at_checked(header.checked_add(len)?)?;
        self.0 = rest;
        Some(value)
    }

    /// Bytes of tag and length, and of the content.
    fn header(&self, tag: u8) -> Option<(usize, usize)> {
        if *self.0.first()? != tag {
            return None;
        }
        match *self.0.get(1)? {
            len @ 0..=0x7f => Some((2, usize::from(len))),
            0x81 => self.0.get(2).filter(|&&len| len >= 0x80).map(|&len| (3, usize::from(len))),
            0x82 => {
                let len = u16::from_be_bytes([*self.0.get(2)?, *self.0.get(3)?]);
                (len > 0xff).then_some((4, usize::from(len)))
            }
            // Nothing here is over 64 KiB.
            _ => None,
        }
    }
}

/// A value: tag, length, and its parts one after the other.
///
/// # Panics
/// If the parts have over 64 KiB: nothing that is made here does.
pub(crate) fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut bytes = vec![tag];
    match u16::try_from(len).expect("keys and signatures are under 64 KiB").to_be_bytes() {
        [0, low @ 0..=0x7f] => bytes.push(low),
        [0, low] => bytes.extend([0x81, low]),
        [high, low] => bytes.extend([0x82, high, low]),
    }
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

/// A number that is not negative, out of its bytes, the highest first.
pub(crate) fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let first = bytes.iter().position(|&byte| byte != 0).unwrap_or(bytes.len());
    let bytes = &bytes[first..];
    match bytes.first() {
        Some(0..=0x7f) => value(INTEGER, &[bytes]),
        // Without the zero it would be negative, and zero has a byte too.
        _ => value(INTEGER, &[&[0], bytes]),
    }
}
