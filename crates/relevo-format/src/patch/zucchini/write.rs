//! Writing: from runs that a matcher found to the bytes of an ensemble patch.

use super::{
    Equivalence, Program, crc32, elf,
    ensemble::{ELEMENT_VERSION, MAGIC, NO_PROGRAM, VERSION, put_signed, put_unsigned},
    order::Order,
    program::{self, Encoding, Group, Room, Space},
    project::{Projection, Targets},
};

/// Shorter runs cost more than the bytes that they copy.
const SHORTEST: u32 = 8;

/// Where the old file has a reference, and how.
#[derive(Clone, Copy)]
struct Known {
    location: u32,
    width: u32,
    encoding: Encoding,
}

impl Known {
    fn end(&self) -> u32 {
        self.location + self.width
    }
}

/// The bytes of an ensemble patch; none if `old` and `new` do not start with programs of one kind.
pub(super) fn ensemble(old: &[u8], new: &[u8], runs: &[Equivalence]) -> Option<Vec<u8>> {
    let (program, old_len) = program::detect(old)?;
    let (_, new_len) = program::detect(new).filter(|&(other, _)| other == program)?;
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).ok().filter(|&len| program::is_target(len));
    let (old_file_len, new_file_len) = (length(old)?, length(new)?);

    let mut out = Vec::from(MAGIC);
    out.extend([VERSION.0, VERSION.1].into_iter().flat_map(u16::to_le_bytes));
    let tail = (new_len, new_file_len - new_len);
    let elements = 1 + u32::from(tail.1 > 0);
    let header = [old_file_len, crc32(old), new_file_len, crc32(new), elements];
    out.extend(header.into_iter().flat_map(u32::to_le_bytes));

    let mut part = Part {
        old: (0, old_len),
        new: (0, new_len),
        old_bytes: &old[..old_len as usize],
        new_bytes: &new[..new_len as usize],
    };
    part.program(program, runs, &mut out)?;
    if tail.1 > 0 {
        // What follows a program is padding, but it may be anything of the whole old file.
        part = Part { old: (0, old_file_len), new: tail, old_bytes: old, new_bytes: &new[new_len as usize..] };
        part.plain(runs, &mut out);
    }
    Some(out)
}

/// The bytes of an ensemble patch without programs; none if a side is empty or too long.
pub(super) fn bytes(old: &[u8], new: &[u8], runs: &[Equivalence]) -> Option<Vec<u8>> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).ok().filter(|&len| len > 0 && program::is_target(len));
    let (old_len, new_len) = (length(old)?, length(new)?);
    let mut out = Vec::from(MAGIC);
    out.extend([VERSION.0, VERSION.1].into_iter().flat_map(u16::to_le_bytes));
    let header = [old_len, crc32(old), new_len, crc32(new), 1];
    out.extend(header.into_iter().flat_map(u32::to_le_bytes));
    Part { old: (0, old_len), new: (0, new_len), old_bytes: old, new_bytes: new }.plain(runs, &mut out);
    Some(out)
}

/// A part of the new file that becomes an element, and the part of the old file that it is made of.
struct Part<'a> {
    old: (u32, u32),
    new: (u32, u32),
    old_bytes: &'a [u8],
    new_bytes: &'a [u8],
}

fn put_stream(out: &mut Vec<u8>, stream: &[u8]) {
    let len = u32::try_from(stream.len()).expect("files are below 2 GiB, and so are their differences");
    out.extend(len.to_le_bytes());
    out.extend_from_slice(stream);
}

/// Differences of copied bytes.
#[derive(Default)]
struct Differences {
    skip: Vec<u8>,
    differences: Vec<u8>,
    reached: u32,
}

impl Differences {
    fn push(&mut self, at: u32, old: u8, new: u8) {
        if old != new {
            put_unsigned(&mut self.skip, at - self.reached);
            self.differences.push(new.wrapping_sub(old));
            self.reached = at + 1;
        }
    }
}

impl Part<'_> {
    /// The runs inside of both parts, counted from their starts, in the order of the new file and without overlaps.
    fn runs(&self, runs: &[Equivalence]) -> Vec<Equivalence> {
        let mut clipped: Vec<_> = runs.iter().filter_map(|run| self.clip(*run)).collect();
        clipped.sort_unstable_by_key(|run| run.new);
        let mut reached = 0;
        clipped.retain_mut(|run| {
            let cut = u32::saturating_sub(reached, run.new).min(run.len);
            *run = Equivalence { old: run.old + cut, new: run.new + cut, len: run.len - cut };
            reached = reached.max(run.new + run.len);
            run.len > 0
        });
        clipped
    }

    fn clip(&self, run: Equivalence) -> Option<Equivalence> {
        let cut = self.old.0.saturating_sub(run.old).max(self.new.0.saturating_sub(run.new));
        let (old, new) = (run.old.checked_add(cut)? - self.old.0, run.new.checked_add(cut)? - self.new.0);
        let room = self.old.1.checked_sub(old)?.min(self.new.1.checked_sub(new)?);
        let len = run.len.checked_sub(cut)?.min(room);
        (len > 0).then_some(Equivalence { old, new, len })
    }

    fn head(&self, kind: [u8; 4], out: &mut Vec<u8>) {
        out.extend([self.old.0, self.old.1, self.new.0, self.new.1].into_iter().flat_map(u32::to_le_bytes));
        out.extend(kind);
        out.extend(ELEMENT_VERSION.to_le_bytes());
    }

    /// Equivalences and what is between them.
    fn copies(&self, runs: &[Equivalence], out: &mut Vec<u8>) {
        let (mut old_skip, mut new_skip, mut len, mut extra) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut old, mut new) = (0_u32, 0);
        for run in runs {
            put_signed(&mut old_skip, run.old.wrapping_sub(old).cast_signed());
            put_unsigned(&mut new_skip, run.new - new);
            put_unsigned(&mut len, run.len);
            extra.extend_from_slice(&self.new_bytes[new as usize..run.new as usize]);
            (old, new) = (run.old_end(), run.new + run.len);
        }
        extra.extend_from_slice(&self.new_bytes[new as usize..]);
        for stream in [old_skip, new_skip, len, extra] {
            put_stream(out, &stream);
        }
    }

    /// Writes an element without references.
    fn plain(&self, runs: &[Equivalence], out: &mut Vec<u8>) {
        let mut runs = self.runs(runs);
        runs.retain(|run| run.len >= SHORTEST);
        self.head(NO_PROGRAM, out);
        self.copies(&runs, out);
        let mut differences = Differences::default();
        let mut before = 0;
        for run in &runs {
            let (old, new) = (&self.old_bytes[run.old as usize..], &self.new_bytes[run.new as usize..]);
            for (at, (&old, &new)) in (before..before + run.len).zip(old.iter().zip(new)) {
                differences.push(at, old, new);
            }
            before += run.len;
        }
        for stream in [differences.skip, differences.differences, Vec::new()] {
            put_stream(out, &stream);
        }
        out.extend([0; 4]);
    }

    /// Writes an element with the references of a program.
    fn program(&self, program: Program, runs: &[Equivalence], out: &mut Vec<u8>) -> Option<()> {
        let (old_len, new_len) = (self.old.1, self.new.1);
        let mut room = Room(u64::MAX);
        let parsed = program::disassemble(program, self.old_bytes, &mut room).ok()??;
        let (_, space) = program::parse(program, self.new_bytes)?;
        let known = known(&parsed.groups)?;
        let runs = self.fit(&known, &space, self.runs(runs));
        if runs.is_empty() {
            return None;
        }
        self.head(program.code(), out);
        self.copies(&runs, out);

        let differences = self.differences(&known, &runs);
        put_stream(out, &differences.skip);
        put_stream(out, &differences.differences);

        let projection = Projection::new(runs.clone(), Order::Stable, old_len, new_len);
        let (mut delta, mut pools) = (Vec::new(), Vec::new());
        let mut count = 0_u32;
        for groups in parsed.groups.chunk_by(|a, b| a.pool == b.pool) {
            let old_targets = groups.iter().flat_map(|group| group.all()).map(|reference| reference.target);
            let mut targets = Targets::project(old_targets.collect(), &projection);
            // What each reference goes to now, and where it would go if it had moved with the bytes that it went to.
            let mut pairs = Vec::new();
            for group in groups {
                for run in &runs {
                    for reference in group.within(run.old, run.old_end()) {
                        let target =
                            space.target(group.encoding, self.new_bytes, run.new + (reference.location - run.old))?;
                        pairs.push((projection.nearest(reference.target)?, target));
                    }
                }
            }
            let mut extra: Vec<u32> = pairs.iter().map(|&(_, target)| target).collect();
            extra.sort_unstable();
            extra.dedup();
            extra.retain(|&target| targets.find(target).is_none());
            let (mut stream, mut next) = (Vec::new(), 0);
            for &target in &extra {
                put_unsigned(&mut stream, target - next);
                next = target + 1;
            }
            if !stream.is_empty() {
                pools.push(groups[0].pool);
                put_stream(&mut pools, &stream);
                count += 1;
            }
            targets.add(extra);
            for (expected, target) in pairs {
                let step = targets.find(target)?.wrapping_sub(targets.nearest(expected));
                put_signed(&mut delta, step.cast_signed());
            }
        }
        put_stream(out, &delta);
        out.extend(count.to_le_bytes());
        out.extend(pools);
        Some(())
    }

    /// Cuts runs so that each reference of the old file is in one as a whole or not at all, and that each in one is a
    /// reference of the same kind in the new file.
    fn fit(&self, known: &[Known], space: &Space, runs: Vec<Equivalence>) -> Vec<Equivalence> {
        let mut fitting = Vec::with_capacity(runs.len());
        // Where two runs start at one old byte, readers may take either one as the first: their sorting is not stable.
        let mut starts = std::collections::HashSet::with_capacity(runs.len());
        for run in runs {
            let shift = |old: u32| run.new + (old - run.old);
            let mut index = known.partition_point(|reference| reference.end() <= run.old);
            let mut start = run.old;
            let mut push = |mut start: u32, end: u32| {
                let mut index = known.partition_point(|reference| reference.location < start);
                while start < end && !starts.insert(start) {
                    let reference = known.get(index).filter(|reference| reference.location == start);
                    start += reference.map_or(1, |reference| reference.width);
                    index += usize::from(reference.is_some());
                }
                if end.saturating_sub(start) >= SHORTEST {
                    fitting.push(Equivalence { old: start, new: shift(start), len: end - start });
                }
            };
            while let Some(reference) = known.get(index).filter(|reference| reference.location < run.old_end()) {
                index += 1;
                let whole = reference.location >= run.old && reference.end() <= run.old_end();
                let target = || space.target(reference.encoding, self.new_bytes, shift(reference.location));
                if whole && target().is_some_and(program::is_target) {
                    continue;
                }
                push(start, reference.location.max(run.old));
                start = reference.end().min(run.old_end());
            }
            push(start, run.old_end());
        }
        fitting
    }

    /// The differences of copied bytes that are not made by references.
    fn differences(&self, known: &[Known], runs: &[Equivalence]) -> Differences {
        let mut differences = Differences::default();
        let mut before = 0;
        for run in runs {
            let shift = |old: u32| run.new + (old - run.old);
            let push = |differences: &mut Differences, start: u32, end: u32| {
                let (old, new) =
                    (&self.old_bytes[start as usize..end as usize], &self.new_bytes[shift(start) as usize..]);
                for (at, (&old, &new)) in (before + (start - run.old)..).zip(old.iter().zip(new)) {
                    differences.push(at, old, new);
                }
            };
            let mut start = run.old;
            let mut index = known.partition_point(|reference| reference.location < run.old);
            while let Some(reference) = known.get(index).filter(|reference| reference.location < run.old_end()) {
                index += 1;
                push(&mut differences, start, reference.location);
                start = reference.end();
                // Other references are all target.
                if let Encoding::Branch(branch) = reference.encoding {
                    let len = reference.width as usize;
                    let old = &self.old_bytes[reference.location as usize..][..len];
                    let code = branch.load(&self.new_bytes[shift(reference.location) as usize..][..len]);
                    let mut mixed = [0; 4];
                    branch.store(&mut mixed, branch.with_distance_of(code, branch.load(old)).unwrap_or(code));
                    for (at, (&old, &new)) in (before + (reference.location - run.old)..).zip(old.iter().zip(&mixed)) {
                        differences.push(at, old, new);
                    }
                }
            }
            push(&mut differences, start, run.old_end());
            before += run.len;
        }
        differences
    }
}

/// All references, sorted by place; none if two have a byte in common, which AOSP's writer does not know either.
fn known(groups: &[Group]) -> Option<Vec<Known>> {
    let mut known = Vec::with_capacity(groups.iter().map(|group| group.references.len()).sum());
    for group in groups {
        // Readers of parts of the file would see others than readers of all of it.
        if !group.stops.is_empty() {
            return None;
        }
        let (encoding, width) = (group.encoding, group.encoding.width());
        known.extend(group.references.iter().map(|reference| Known { location: reference.location, width, encoding }));
    }
    known.sort_unstable_by_key(|reference| reference.location);
    known.windows(2).all(|pair| pair[0].end() <= pair[1].location).then_some(known)
}

/// A file as long as `bytes` where references say what they go to instead of where.
pub(super) fn normal_form(bytes: &[u8]) -> Option<Vec<u8>> {
    let (program, len) = program::detect(bytes)?;
    let parsed = program::disassemble(program, &bytes[..len as usize], &mut Room(u64::MAX)).ok()??;
    let mut out = bytes.to_vec();
    for group in &parsed.groups {
        let width = group.encoding.width() as usize;
        for reference in &group.references {
            let place = &mut out[reference.location as usize..][..width];
            match group.encoding {
                Encoding::Branch(branch) => branch.store(place, branch.with_no_distance(branch.load(place))),
                _ => place.fill(0),
            }
        }
    }
    if program != Program::Dex {
        elf::forget(program, &mut out);
    }
    Some(out)
}
