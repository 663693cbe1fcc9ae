//! Protobuf messages, as few kinds of fields as the headers of patches have.

/// An integer.
pub(crate) fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value > 127 {
        out.push(u8::try_from(value & 127).unwrap() | 128);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
    out
}

/// Field `tag` with bytes or a message in it.
pub(crate) fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    [&[tag << 3 | 2], &varint(bytes.len() as u64)[..], bytes].concat()
}
