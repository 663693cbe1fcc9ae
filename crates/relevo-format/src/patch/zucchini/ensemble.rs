//! The bytes of an ensemble patch.

use relevo_types::ByteLen;

use super::{Equivalence, Program};
use crate::patch::PatchError;

pub(super) const MAGIC: &[u8; 4] = b"Zucc";
const HEADER_LEN: u64 = 28;
/// Of the whole format; the second half is of no consequence to AOSP's reader.
pub(super) const VERSION: (u16, u16) = (1, 0);
/// Of each kind of element, in Android 13 to 15.
pub(super) const ELEMENT_VERSION: u16 = 1;
/// An element without references.
pub(super) const NO_PROGRAM: [u8; 4] = *b"NoOp";

#[derive(Clone)]
pub(super) struct Ensemble<'a> {
    pub(super) old_len: u32,
    pub(super) old_crc: u32,
    pub(super) new_len: u32,
    pub(super) new_crc: u32,
    rest: Input<'a>,
    elements: u32,
    /// Where the next element starts in the new file.
    reached: u32,
}

/// A part of the new file and the part of the old one that it is made of.
pub(super) struct Element<'a> {
    pub(super) program: Option<Program>,
    pub(super) old: (u32, u32),
    pub(super) new: (u32, u32),
    pub(super) equivalences: Equivalences<'a>,
    pub(super) extra: &'a [u8],
    pub(super) differences: Differences<'a>,
    pub(super) reference_delta: &'a [u8],
    pools: Vec<(u8, &'a [u8])>,
}

fn wrong(reason: &'static str) -> PatchError {
    PatchError::Ensemble { reason }
}

/// Reads the patch, one thing after the other.
#[derive(Clone, Copy)]
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], PatchError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(wrong("it ends too early"))?;
        self.0 = rest;
        Ok(*array)
    }

    fn half(&mut self) -> Result<u16, PatchError> {
        self.array().map(u16::from_le_bytes)
    }

    fn word(&mut self) -> Result<u32, PatchError> {
        self.array().map(u32::from_le_bytes)
    }

    fn stream(&mut self) -> Result<&'a [u8], PatchError> {
        let len = self.word()? as usize;
        let (stream, rest) = self.0.split_at_checked(len).ok_or(wrong("a stream is longer than the patch"))?;
        self.0 = rest;
        Ok(stream)
    }
}

/// A number of 7 bits a byte, the lowest first; bits over 32 are lost, as in AOSP's reader.
pub(super) fn unsigned(stream: &mut &[u8]) -> Option<u32> {
    let mut value = 0;
    for (index, &byte) in (0..5).zip(*stream) {
        value |= u32::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            *stream = &stream[index + 1..];
            return Some(value);
        }
    }
    None
}

/// The same with the sign in the lowest bit.
pub(super) fn signed(stream: &mut &[u8]) -> Option<i32> {
    let value = unsigned(stream)?;
    let size = (value >> 1).cast_signed();
    Some(if value & 1 == 1 { !size } else { size })
}

pub(super) fn put_unsigned(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

pub(super) fn put_signed(out: &mut Vec<u8>, value: i32) {
    let size = if value < 0 { !value } else { value };
    put_unsigned(out, size.cast_unsigned() << 1 | u32::from(value < 0));
}

impl<'a> Ensemble<'a> {
    pub(super) fn parse(patch: &'a [u8]) -> Result<Self, PatchError> {
        if !patch.starts_with(MAGIC) {
            return Err(PatchError::Magic { format: "zucchini" });
        }
        let actual = patch.len() as u64;
        if actual < HEADER_LEN {
            return Err(PatchError::Truncated { expected: HEADER_LEN, actual });
        }
        let mut input = Input(&patch[MAGIC.len()..]);
        let (version, _) = (input.half()?, input.half()?);
        if version != VERSION.0 {
            return Err(PatchError::Version(version.into()));
        }
        let [old_len, old_crc, new_len, new_crc] = [input.word()?, input.word()?, input.word()?, input.word()?];
        let elements = input.word()?;
        Ok(Self { old_len, old_crc, new_len, new_crc, rest: input, elements, reached: 0 })
    }

    /// The next element; none behind the last one, which ends with the new file and the patch.
    pub(super) fn next_element(&mut self) -> Result<Option<Element<'a>>, PatchError> {
        if self.elements == 0 {
            if self.reached != self.new_len || !self.rest.0.is_empty() {
                return Err(wrong("its elements are not all of it"));
            }
            return Ok(None);
        }
        self.elements -= 1;
        let element = Element::parse(&mut self.rest)?;
        let inside = |(start, len): (u32, u32), end| start.checked_add(len).is_some_and(|reached| reached <= end);
        if element.new.0 != self.reached || !inside(element.new, self.new_len) || !inside(element.old, self.old_len) {
            return Err(wrong("an element is out of place"));
        }
        self.reached += element.new.1;
        Ok(Some(element))
    }
}

impl<'a> Element<'a> {
    fn parse(input: &mut Input<'a>) -> Result<Self, PatchError> {
        let [old, new] = [(); 2].map(|()| Ok::<_, PatchError>((input.word()?, input.word()?)));
        let (old, new) = (old?, new?);
        let program = match input.array()? {
            NO_PROGRAM => None,
            code => Some(Program::from_code(code).ok_or(PatchError::Program(code))?),
        };
        if input.half()? != ELEMENT_VERSION {
            return Err(wrong("an element has another version"));
        }
        if old.1 == 0 || new.1 == 0 {
            return Err(wrong("an element is empty"));
        }
        let equivalences = Equivalences {
            old_skip: input.stream()?,
            new_skip: input.stream()?,
            len: input.stream()?,
            ..Equivalences::default()
        };
        let extra = input.stream()?;
        let differences = Differences { skip: input.stream()?, differences: input.stream()?, reached: 0 };
        let reference_delta = input.stream()?;
        let mut pools = Vec::<(u8, _)>::new();
        for _ in 0..input.word()? {
            let [pool] = input.array()?;
            // So there are few, whatever the number says.
            if pool == u8::MAX || pools.iter().any(|&(other, _)| other == pool) {
                return Err(wrong("a pool of targets comes twice"));
            }
            pools.push((pool, input.stream()?));
        }
        let element = Self { program, old, new, equivalences, extra, differences, reference_delta, pools };
        element.check()?;
        Ok(element)
    }

    /// Checks all equivalences, so that who goes through them later does not have to.
    fn check(&self) -> Result<(), PatchError> {
        let mut equivalences = self.equivalences.clone();
        let mut total = 0;
        let inside = |start, len, end| start < end && len <= end - start;
        for run in equivalences.by_ref() {
            if !inside(run.old, run.len, self.old.1) || !inside(run.new, run.len, self.new.1) {
                return Err(wrong("an equivalence is outside of its element"));
            }
            // They follow each other in the new file, so the sum fits.
            total += run.len;
        }
        if !equivalences.is_done() {
            return Err(wrong("an equivalence is damaged"));
        }
        if self.extra.len() as u64 != u64::from(self.new.1 - total) {
            return Err(wrong("there are more or less extra bytes than it needs"));
        }
        Ok(())
    }

    /// The targets that come in addition to those of old references.
    pub(super) fn targets(&self, pool: u8) -> Result<Vec<u32>, PatchError> {
        let mut stream = self.pools.iter().find(|&&(other, _)| other == pool).map_or(&[][..], |&(_, stream)| stream);
        let mut targets = Vec::with_capacity(stream.len());
        let mut reached = 0_u32;
        while !stream.is_empty() {
            let target = unsigned(&mut stream).and_then(|skip| reached.checked_add(skip));
            let next = target.and_then(|target| target.checked_add(1));
            targets.extend(target);
            reached = next.ok_or(wrong("a target is damaged"))?;
        }
        Ok(targets)
    }

    /// Bytes of streams of targets.
    pub(super) fn targets_len(&self) -> ByteLen {
        ByteLen::new(self.pools.iter().map(|(_, stream)| stream.len() as u64).sum())
    }
}

/// What old and new file have in common, in the order of the new one.
#[derive(Clone, Default)]
pub(super) struct Equivalences<'a> {
    old_skip: &'a [u8],
    new_skip: &'a [u8],
    len: &'a [u8],
    /// Ends of the one before.
    old: u32,
    new: u32,
}

impl Equivalences<'_> {
    fn is_done(&self) -> bool {
        self.old_skip.is_empty() && self.new_skip.is_empty() && self.len.is_empty()
    }
}

impl Iterator for Equivalences<'_> {
    type Item = Equivalence;

    fn next(&mut self) -> Option<Equivalence> {
        let mut after = self.clone();
        let len = unsigned(&mut after.len)?;
        let old = self.old.checked_add_signed(signed(&mut after.old_skip)?)?;
        let new = self.new.checked_add(unsigned(&mut after.new_skip)?)?;
        after.old = old.checked_add(len)?;
        after.new = new.checked_add(len)?;
        *self = after;
        Some(Equivalence { old, new, len })
    }
}

/// Differences of bytes of equivalences, counted as if these followed each other.
#[derive(Clone)]
pub(super) struct Differences<'a> {
    skip: &'a [u8],
    differences: &'a [u8],
    reached: u32,
}

impl Differences<'_> {
    pub(super) fn is_done(&self) -> bool {
        self.skip.is_empty() && self.differences.is_empty()
    }
}

impl Iterator for Differences<'_> {
    type Item = (u32, u8);

    fn next(&mut self) -> Option<(u32, u8)> {
        let mut skip = self.skip;
        let at = self.reached.checked_add(unsigned(&mut skip)?)?;
        let (&difference, rest) = self.differences.split_first().filter(|&(&difference, _)| difference != 0)?;
        let reached = at.checked_add(1)?;
        *self = Self { skip, differences: rest, reached };
        Some((at, difference))
    }
}
