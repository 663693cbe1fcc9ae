//! The one byte range that we answer with 206.

/// What a `Range` field asks of a representation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it: there is no field, or one that a server may ignore.
    Whole,
    /// The bytes `start..=last`, which exist.
    Part {
        /// First byte.
        start: u64,
        /// Last byte, below the length.
        last: u64,
    },
    /// One range that begins behind the end.
    Unsatisfiable,
}

impl Wanted {
    /// Reads a `Range` field for a representation of `len` bytes.
    ///
    /// Malformed fields, other units and more than one range are answered with the whole, as the RFC allows; a
    /// second range would let a small request ask for the same bytes many times over.
    ///
    /// # Source
    /// RFC 9110, sections 14.1.2 and 14.2.
    pub(crate) fn parse(field: &str, len: u64) -> Self {
        let Some((unit, range)) = field.split_once('=') else { return Self::Whole };
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return Self::Whole;
        }
        let Some((first, last)) = range.trim_matches([' ', '\t']).split_once('-') else { return Self::Whole };
        match (number(first), number(last)) {
            (Position::Empty, Position::At(0)) => Self::Unsatisfiable,
            // The suffix of an empty file is the empty file, which has no bytes to put into a 206.
            (Position::Empty, Position::At(_)) if len == 0 => Self::Whole,
            (Position::Empty, Position::At(suffix)) => Self::Part { start: len.saturating_sub(suffix), last: len - 1 },
            (Position::At(start), Position::At(last)) if start > last => Self::Whole,
            (Position::At(start), Position::At(_) | Position::Empty) if start >= len => Self::Unsatisfiable,
            (Position::At(start), Position::At(last)) => Self::Part { start, last: last.min(len - 1) },
            (Position::At(start), Position::Empty) => Self::Part { start, last: len - 1 },
            _ => Self::Whole,
        }
    }
}

enum Position {
    Empty,
    At(u64),
    Malformed,
}

/// Digits only (`u64::from_str` would take a `+`); what does not fit is as good as the largest number.
fn number(text: &str) -> Position {
    if text.is_empty() {
        return Position::Empty;
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Position::Malformed;
    }
    Position::At(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_one_range_and_ignores_the_rest() {
        let part = |start, last| Wanted::Part { start, last };
        for (field, len, wanted) in [
            ("bytes=0-0", 10, part(0, 0)),
            ("bytes=0-9", 10, part(0, 9)),
            ("bytes=2-5", 10, part(2, 5)),
            ("bytes=2-", 10, part(2, 9)),
            ("bytes=9-", 10, part(9, 9)),
            ("bytes=2-500", 10, part(2, 9)),
            ("bytes=2-99999999999999999999999", 10, part(2, 9)),
            ("bytes=-3", 10, part(7, 9)),
            ("bytes=-500", 10, part(0, 9)),
            ("bytes=-99999999999999999999999", 10, part(0, 9)),
            ("BYTES=1-2", 10, part(1, 2)),
            ("bytes= 1-2 ", 10, part(1, 2)),
            ("bytes=10-", 10, Wanted::Unsatisfiable),
            ("bytes=10-20", 10, Wanted::Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Wanted::Unsatisfiable),
            ("bytes=-0", 10, Wanted::Unsatisfiable),
            ("bytes=0-", 0, Wanted::Unsatisfiable),
            ("bytes=-5", 0, Wanted::Whole),
            ("bytes=5-2", 10, Wanted::Whole),
            ("bytes=0-1,3-4", 10, Wanted::Whole),
            ("bytes=0-1,", 10, Wanted::Whole),
            ("bytes=-", 10, Wanted::Whole),
            ("bytes=", 10, Wanted::Whole),
            ("bytes", 10, Wanted::Whole),
            ("", 10, Wanted::Whole),
            ("items=0-1", 10, Wanted::Whole),
            ("bytes=+1-2", 10, Wanted::Whole),
            ("bytes=1--2", 10, Wanted::Whole),
            ("bytes=--2", 10, Wanted::Whole),
            ("bytes=a-b", 10, Wanted::Whole),
            ("bytes=0x1-2", 10, Wanted::Whole),
            ("bytes=1 - 2", 10, Wanted::Whole),
        ] {
            assert_eq!(Wanted::parse(field, len), wanted, "{field} of {len}");
        }
    }

    proptest! {
        #[test]
        fn a_part_always_lies_inside(field in "bytes=[0-9]{0,22}-[0-9]{0,22}", len in 0u64..1 << 40) {
            if let Wanted::Part { start, last } = Wanted::parse(&field, len) {
                prop_assert!(start <= last && last < len);
            }
        }

        #[test]
        fn any_text_is_read(field in ".{0,60}", len: u64) {
            if let Wanted::Part { start, last } = Wanted::parse(&field, len) {
                prop_assert!(start <= last && last < len);
            }
        }
    }
}
