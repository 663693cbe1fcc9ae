//! Zucchini: the new file as runs that are like old ones, where what refers to something else keeps doing so.
//!
//! Programs are full of addresses, and one function more moves all that follow it. Zucchini takes programs apart; of a
//! reference it says which of all targets it means, and where targets went it knows from the runs.
//!
//! # Layout
//! An operation's blob is a brotli stream with an ensemble patch in it: `"Zucc"`; version (2 bytes each: 1 and 0); length
//! and CRC-32 of the old file, then of the new one; number of elements. Integers are little-endian, of 4 bytes if nothing
//! else is said; *numbers* have 7 bits in a byte, the lowest first, and those with a sign have it in the lowest bit.
//!
//! An element makes the next part of the new file of one part of the old: offset and length of the old part, of the new
//! part, kind of both (4 letters), version of the kind (2 bytes). Then streams, each with its length before it:
//! - *equivalences*, three streams of numbers: how far to go on in the old part (with a sign), in the new part, and how
//!   many bytes to copy;
//! - *extra data*, what is between the copies;
//! - *raw delta*, two streams: numbers of copied bytes to leave as they are, and for the byte after each a difference to
//!   add;
//! - *reference delta*, numbers with a sign: for each reference in each equivalence, how many targets it is away from the
//!   one that is expected;
//! - the number of pools, then for each of them one byte with its number and a stream of *extra targets*: numbers of
//!   offsets to skip.
//!
//! References are found in the old part only; what is copied from there is rewritten pool by pool, in a pool kind by kind
//! and for each kind in the order of the equivalences. The targets of a pool are those of all old references, mapped
//! through the equivalences, with the extra ones; they are counted in the order of the file.
//!
//! # Source
//! AOSP `external/zucchini` (the same in Android 13 and 14; in 15 only the names of a type differ) and
//! `update_engine/payload_consumer/install_operation_executor.cc`.

mod address;
mod branch;
mod dex;
mod elf;
mod ensemble;
mod order;
mod program;
mod project;
mod write;

use std::io::Write;

use relevo_types::ByteLen;

use self::{
    ensemble::{Element, Ensemble, signed},
    order::Order,
    program::{Reference, Room, TooMany},
    project::{Projection, Targets},
};
use super::{
    Codec, Limits, PatchError,
    bsdiff::{Effort, Match},
    stream::{self, Decoder},
};
use crate::ReadAt;

/// What offsets and addresses have to be below.
const MAX_OFFSET: u32 = u32::MAX / 2;
/// How many times as long as both files the old parts of all programs may be together.
const MAX_WORK: u64 = 16;

/// The kinds of programs that AOSP's reader takes apart, as Android builds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Program {
    /// ELF for x86.
    ElfX86,
    /// ELF for x86-64.
    ElfX64,
    /// ELF for 32-bit ARM.
    ElfArm,
    /// ELF for 64-bit ARM.
    ElfArm64,
    /// Dalvik code.
    Dex,
}

impl Program {
    const ALL: [Self; 5] = [Self::ElfX86, Self::ElfX64, Self::ElfArm, Self::ElfArm64, Self::Dex];

    /// How elements name it.
    fn code(self) -> [u8; 4] {
        match self {
            Self::ElfX86 => *b"Ex86",
            Self::ElfX64 => *b"Ex64",
            Self::ElfArm => *b"EA32",
            Self::ElfArm64 => *b"EA64",
            Self::Dex => *b"DEX ",
        }
    }

    fn from_code(code: [u8; 4]) -> Option<Self> {
        Self::ALL.into_iter().find(|program| program.code() == code)
    }
}

/// Bytes that are alike, or that are alike but for what they refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Equivalence {
    /// First old byte.
    pub old: u32,
    /// First new byte.
    pub new: u32,
    /// How many.
    pub len: u32,
}

impl Equivalence {
    /// First old byte after it.
    fn old_end(&self) -> u32 {
        self.old + self.len
    }
}

/// The program that `bytes` start with, if there is one that AOSP's reader takes apart; padding may follow it.
///
/// Zucchini pays for these, and only for these: for anything else its patch says the same as a bsdiff patch, in streams
/// that compress no better. AOSP's generator asks for a file's name instead (`.so`, `.ko`, `.art`, `.odex`, `.vdex`, kernels),
/// but phones apply it to any bytes. Files that newer linkers make are often none: sections without bytes whose offsets
/// overlap those of others make AOSP's reader refuse the whole file.
pub fn is_program(bytes: &[u8]) -> Option<Program> {
    program::detect(bytes).map(|(program, _)| program)
}

/// The ensemble patch, not yet compressed, that makes `new` of `old`; none if they do not start with programs of one kind,
/// or if references in them overlap.
///
/// `matches` are runs that are alike but for scattered bytes, as for [`bsdiff::write`](super::bsdiff::write); they may leave
/// gaps and need no order. Those found between [`normal_form`]s are the best here.
pub fn build(old: &[u8], new: &[u8], matches: &[Match]) -> Option<Vec<u8>> {
    checked(old, new, write::ensemble(old, new, &equivalences(old, new, matches)?)?)
}

/// As [`build`], of any bytes: the same as a patch of bsdiff would say, but only of what differs. It compresses about as
/// well and in a fraction of the time, since what is alike are no zeros there. None if a side is empty or over 2 GiB.
pub fn build_bytes(old: &[u8], new: &[u8], matches: &[Match]) -> Option<Vec<u8>> {
    checked(old, new, write::bytes(old, new, &equivalences(old, new, matches)?)?)
}

fn equivalences(old: &[u8], new: &[u8], matches: &[Match]) -> Option<Vec<Equivalence>> {
    let word = |value: usize| u32::try_from(value).ok();
    let inside = |found: &&Match| found.old + found.len <= old.len() && found.new + found.len <= new.len();
    let equivalence =
        |found: &Match| Some(Equivalence { old: word(found.old)?, new: word(found.new)?, len: word(found.len)? });
    matches.iter().filter(inside).map(equivalence).collect()
}

/// A patch that we cannot apply ourselves is none.
fn checked(old: &[u8], new: &[u8], ensemble: Vec<u8>) -> Option<Vec<u8>> {
    let mut budget = Budget { used: 0, limit: ByteLen::new(u64::MAX) };
    let made = apply_ensemble(old, &ensemble, ByteLen::new(new.len() as u64), &mut budget).ok()?;
    (made == new).then_some(ensemble)
}

/// An operation's blob: an ensemble patch, compressed as far as brotli can.
pub fn compress(ensemble: &[u8]) -> Vec<u8> {
    super::stream::compress(Codec::Brotli, ensemble)
}

/// An ensemble patch, with what quick compression makes of it.
#[derive(Debug, Clone)]
pub struct Trial {
    ensemble: Vec<u8>,
    tried: stream::Trial,
}

impl Trial {
    /// Tries it out.
    pub fn new(ensemble: Vec<u8>) -> Self {
        let tried = stream::Trial::new(&ensemble, stream::Contents::Ensemble);
        Self { ensemble, tried }
    }

    /// About how long [`Trial::write`] makes it, within a few hundredths.
    pub fn estimate(&self, effort: Effort) -> usize {
        self.tried.estimate(effort)
    }

    /// An operation's blob.
    pub fn write(self, effort: Effort) -> Vec<u8> {
        self.tried.finish(&self.ensemble, effort).1
    }
}

/// A file as long as `bytes` where a program does not depend on addresses, for a matcher to compare: code that moved is the
/// same there. What matches in it can be used for [`build`] as it is. None if there is no program.
///
/// Whatever says where something is has all bits 0, references as well as what AOSP's reader does not know as such.
pub fn normal_form(bytes: &[u8]) -> Option<Vec<u8>> {
    write::normal_form(bytes)
}

/// Bytes in memory, against [`Limits::memory`].
struct Budget {
    used: u64,
    limit: ByteLen,
}

impl Budget {
    fn take(&mut self, bytes: u64) -> Result<(), PatchError> {
        self.used = self.used.saturating_add(bytes);
        if self.used > self.limit.get() { Err(self.exceeded()) } else { Ok(()) }
    }

    fn exceeded(&self) -> PatchError {
        let needed = ByteLen::new(self.used.max(self.limit.get().saturating_add(1)));
        PatchError::Memory { needed, limit: self.limit }
    }

    fn left(&self) -> u64 {
        self.limit.get() - self.used
    }
}

/// Makes the target of `patch` out of `old` and writes it to `out`.
///
/// This does not stream: both files, the decompressed patch and the references of a program are in memory, together up
/// to [`Limits::memory`].
///
/// # Errors
/// [`PatchError`]; nothing was written to `out` then, unless that failed.
pub fn apply(old: &dyn ReadAt, patch: &[u8], out: &mut dyn Write, limits: &Limits) -> Result<(), PatchError> {
    let mut budget = Budget { used: 0, limit: limits.memory };
    budget.take(old.len().get())?;
    let patch = decompress(patch, &mut budget)?;
    let mut old_bytes = vec![0; usize::try_from(old.len().get()).expect("it is within the limit")];
    old.read_exact_at(&mut old_bytes, 0).map_err(PatchError::Read)?;
    let new = apply_ensemble(&old_bytes, &patch, limits.output, &mut budget)?;
    out.write_all(&new).map_err(PatchError::Write)
}

/// Calls `found` with each run of the target that is made of old bytes: where it is, where they are, how long it is.
///
/// Nothing is compared with either file, so this is no proof that the patch applies.
///
/// # Errors
/// [`PatchError`]; `found` was then called for what came before.
pub fn walk(patch: &[u8], limits: &Limits, mut found: impl FnMut(u64, u64, u64)) -> Result<(), PatchError> {
    let patch = decompress(patch, &mut Budget { used: 0, limit: limits.memory })?;
    let mut ensemble = Ensemble::parse(&patch)?;
    while let Some(element) = ensemble.next_element()? {
        let (old, new) = (u64::from(element.old.0), u64::from(element.new.0));
        for run in element.equivalences.clone() {
            found(new + u64::from(run.new), old + u64::from(run.old), run.len.into());
        }
    }
    Ok(())
}

fn decompress(patch: &[u8], budget: &mut Budget) -> Result<Vec<u8>, PatchError> {
    let damaged = |source| PatchError::Stream { name: "ensemble", source };
    let mut decoder = Decoder::new(Codec::Brotli, patch);
    let mut raw = Vec::new();
    loop {
        let mut buffer = [0; 1 << 15];
        let made = decoder.decode(&mut buffer).map_err(damaged)?;
        if made == 0 {
            decoder.finish().map_err(damaged)?;
            return Ok(raw);
        }
        // A vector that grows has up to twice the room.
        budget.take(2 * made as u64)?;
        raw.extend_from_slice(&buffer[..made]);
    }
}

fn apply_ensemble(old: &[u8], patch: &[u8], output: ByteLen, budget: &mut Budget) -> Result<Vec<u8>, PatchError> {
    let ensemble = Ensemble::parse(patch)?;
    let len = ByteLen::new(ensemble.new_len.into());
    if len > output {
        return Err(PatchError::Output { len, limit: output });
    }
    let compare = |what, expected, actual| {
        if expected == actual { Ok(()) } else { Err(PatchError::Checksum { what, expected, actual }) }
    };
    if u64::from(ensemble.old_len) != old.len() as u64 {
        return Err(PatchError::Ensemble { reason: "the old file has another length" });
    }
    compare("old", ensemble.old_crc, crc32(old))?;
    budget.take(len.get())?;
    let mut result = Err(PatchError::Ensemble { reason: "there is no order to apply it in" });
    let before = budget.used;
    for order in Order::ALL {
        budget.used = before;
        let mut new = vec![0; ensemble.new_len as usize];
        let mut is_ambiguous = false;
        let made = apply_elements(ensemble.clone(), old, &mut new, order, &mut is_ambiguous, budget);
        result = made.and_then(|()| compare("new", ensemble.new_crc, crc32(&new))).map(|()| new);
        if result.is_ok() || !is_ambiguous {
            break;
        }
    }
    result
}

fn apply_elements(
    mut ensemble: Ensemble<'_>,
    old: &[u8],
    new: &mut [u8],
    order: Order,
    is_ambiguous: &mut bool,
    budget: &mut Budget,
) -> Result<(), PatchError> {
    // Elements may share old parts, but not so many that taking these apart again and again takes long.
    let mut work = MAX_WORK * (old.len() as u64 + new.len() as u64);
    while let Some(element) = ensemble.next_element()? {
        let part = |(start, len): (u32, u32)| start as usize..start as usize + len as usize;
        let (old, new) = (&old[part(element.old)], &mut new[part(element.new)]);
        copy(&element, old, new)?;
        if let Some(program) = element.program {
            let left = work.checked_sub(old.len() as u64);
            work = left.ok_or(PatchError::Ensemble { reason: "too many elements are of the same old part" })?;
            apply_references(&element, program, old, new, order, is_ambiguous, budget)?;
        } else if !element.reference_delta.is_empty() || element.targets_len() > ByteLen::ZERO {
            return Err(PatchError::Ensemble { reason: "there are references in what is no program" });
        }
    }
    Ok(())
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Copies equivalences, with their differences, and fills in the extra data.
fn copy(element: &Element<'_>, old: &[u8], new: &mut [u8]) -> Result<(), PatchError> {
    let wrong = |reason| PatchError::Ensemble { reason };
    let mut extra = element.extra;
    let mut insert = |place: &mut [u8]| {
        // All of them were counted before.
        let (bytes, rest) = extra.split_at(place.len());
        place.copy_from_slice(bytes);
        extra = rest;
    };
    let mut reached = 0;
    for run in element.equivalences.clone() {
        let (from, start, len) = (run.old as usize, run.new as usize, run.len as usize);
        insert(&mut new[reached..start]);
        reached = start + len;
        new[start..reached].copy_from_slice(&old[from..from + len]);
    }
    insert(&mut new[reached..]);

    let mut equivalences = element.equivalences.clone();
    let mut current = equivalences.next();
    let mut differences = element.differences.clone();
    // Bytes of equivalences before the current one.
    let mut before = 0;
    for (at, difference) in differences.by_ref() {
        let run = loop {
            let run = current.ok_or(wrong("a difference is behind all equivalences"))?;
            if at - before < run.len {
                break run;
            }
            before += run.len;
            current = equivalences.next();
        };
        let byte = &mut new[(run.new + (at - before)) as usize];
        *byte = byte.wrapping_add(difference);
    }
    if !differences.is_done() {
        return Err(wrong("the raw delta is damaged"));
    }
    Ok(())
}

/// Corrects what refers to something.
fn apply_references(
    element: &Element<'_>,
    program: Program,
    old: &[u8],
    new: &mut [u8],
    order: Order,
    is_ambiguous: &mut bool,
    budget: &mut Budget,
) -> Result<(), PatchError> {
    let wrong = |reason| PatchError::Ensemble { reason };
    let no_program = |what| PatchError::NoProgram { what, program };
    let before = budget.used;
    if program == Program::Dex {
        // Where lists and code are, of one file after the other.
        budget.take(8 * old.len().max(new.len()) as u64)?;
    }
    // The equivalences, and extra targets.
    let count = element.equivalences.clone().count() as u64;
    budget.take(count * size_of::<Equivalence>() as u64 + 8 * element.targets_len().get())?;
    let mut room = Room(budget.left());
    let parsed = program::disassemble(program, old, &mut room).map_err(|TooMany| budget.exceeded())?;
    let parsed = parsed.filter(|parsed| parsed.len as usize == old.len()).ok_or(no_program("old"))?;
    let (_, space) =
        program::parse(program, new).filter(|&(len, _)| len as usize == new.len()).ok_or(no_program("new"))?;

    let mut delta = element.reference_delta;
    let runs = element.equivalences.clone().collect();
    let projection = Projection::new(runs, order, element.old.1, element.new.1);
    *is_ambiguous |= projection.is_ambiguous;
    for groups in parsed.groups.chunk_by(|a, b| a.pool == b.pool) {
        let old_targets = groups.iter().flat_map(|group| group.all()).map(|reference| reference.target);
        let mut targets = Targets::project(old_targets.collect(), &projection);
        targets.add(element.targets(groups[0].pool)?);
        for group in groups {
            let width = group.encoding.width();
            for run in element.equivalences.clone() {
                for reference in group.within(run.old, run.old_end()) {
                    // What is cut here was never found by AOSP's writer, and would be written over what follows.
                    if reference.location + width > run.old_end() {
                        return Err(wrong("an equivalence ends inside of a reference"));
                    }
                    let expected = projection.nearest(reference.target).ok_or(wrong("there are no equivalences"))?;
                    let step = signed(&mut delta).ok_or(wrong("the reference delta ends too early"))?;
                    let target = targets.get(targets.nearest(expected).wrapping_add_signed(step));
                    let target = target.ok_or(wrong("a reference has a target that there is not"))?;
                    let location = run.new + (reference.location - run.old);
                    let put = space.put(group.encoding, new, Reference { location, target });
                    put.ok_or(wrong("a reference cannot be written"))?;
                }
            }
        }
    }
    if !delta.is_empty() {
        return Err(wrong("the reference delta goes on after the last reference"));
    }
    budget.used = before;
    Ok(())
}
