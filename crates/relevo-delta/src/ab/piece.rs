//! Pieces of work: each becomes one operation or a few.

use std::{collections::BTreeMap, ops::Range};

use rayon::prelude::*;
use relevo_format::{
    fs::Cluster,
    payload::{self, Data, Extent, Operation, OperationKind},
};
use relevo_types::{BLOCK, Sha256};
use sha2::Digest as _;

use super::{
    Blobs, Generated, Operations, PartitionReport, Report, Tally,
    bases::{OldFile, cluster_blocks, union},
    blobs::{Spill, Spilled},
    check,
    encode::{self, Draft, Encoded},
    plan::{Copy, Plan},
    side::{Pair, Side},
    work::Limits,
};
use crate::DeltaError;

/// Gaps of so many blocks between old extents are read along: that is cheaper than another extent.
const GAP: u64 = 8;
/// Most blocks that one operation copies; each costs a digest of 32 bytes, and a phone that was cut off repeats one.
const COPY_BLOCKS: u64 = 4096;
/// Bytes of a payload that a copied block is worth, for it takes no room in a phone's snapshot.
const COPIED_COST: u64 = 16;
/// Most extents of an operation that copies.
const COPY_EXTENTS: usize = 1024;

/// Blocks of one file, or of none, that are made together.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    /// The new file's path.
    pub path: Option<Vec<u8>>,
    /// All blocks of the file, in its order; empty if they do not matter.
    pub whole: Vec<Extent>,
    /// All clusters of the file, if it is taken apart into them.
    pub clusters: Vec<Cluster>,
    /// Those that are to be made, in the order of the file.
    pub extents: Vec<Extent>,
}

impl Unit {
    /// Bytes.
    pub(super) fn len(&self) -> u64 {
        self.extents.iter().map(Extent::len).sum()
    }

    /// Bytes of the blocks of the file.
    pub(super) fn whole_len(&self) -> u64 {
        self.whole.iter().map(Extent::len).sum()
    }

    /// Takes the first `len` bytes, a number of blocks that it has more of, off.
    pub(super) fn split_off(&mut self, len: u64) -> Self {
        let mut left = len / BLOCK.get();
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        for extent in &self.extents {
            let now = left.min(extent.blocks);
            if now > 0 {
                head.push(Extent { start: extent.start, blocks: now });
            }
            if now < extent.blocks {
                tail.push(Extent { start: extent.start + now, blocks: extent.blocks - now });
            }
            left -= now;
        }
        self.extents = tail;
        self.whole = Vec::new();
        Self { path: self.path.clone(), whole: Vec::new(), clusters: Vec::new(), extents: head }
    }
}

/// What is made in one go.
#[derive(Debug)]
pub(super) struct Piece {
    pub units: Vec<Unit>,
    kind: Kind,
}

/// What a piece may be made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// What needs no old image.
    Full,
    /// Patches of bytes.
    Bytes,
    /// Also patches between inflated streams: one file, or one image.
    Deflated,
    /// Also patches between programs: one file.
    Program,
    /// Also patches between decompressed clusters: one file.
    Clusters,
}

/// What a piece became.
#[derive(Debug, Default)]
pub(super) struct Made {
    operations: Vec<(Operation, Spilled)>,
    /// Blocks that are made although they could be copied.
    claimed: Vec<Extent>,
    warnings: Vec<String>,
}

impl Piece {
    /// Made of the payload alone.
    pub(super) fn full(extent: Extent) -> Self {
        Self {
            units: vec![Unit { path: None, whole: Vec::new(), clusters: Vec::new(), extents: vec![extent] }],
            kind: Kind::Full,
        }
    }

    /// Made of what it is like.
    pub(super) fn bytes(units: Vec<Unit>) -> Self {
        Self { units, kind: Kind::Bytes }
    }

    /// One file, or image, that has deflate streams.
    pub(super) fn deflated(unit: Unit) -> Self {
        Self { units: vec![unit], kind: Kind::Deflated }
    }

    /// One file that is a program.
    pub(super) fn program(unit: Unit) -> Self {
        Self { units: vec![unit], kind: Kind::Program }
    }

    /// One file that is compressed in clusters.
    pub(super) fn clusters(unit: Unit) -> Self {
        Self { units: vec![unit], kind: Kind::Clusters }
    }

    /// Bytes that it makes.
    pub(super) fn len(&self) -> u64 {
        self.units.iter().map(Unit::len).sum()
    }

    /// How long it takes, compared to others.
    pub(super) fn weight(&self) -> u64 {
        self.len()
    }

    /// Bytes of memory that making it takes, about.
    pub(super) fn memory(&self, limits: &Limits) -> u64 {
        let new = self.len();
        let whole: u64 = self.units.iter().map(Unit::whole_len).sum();
        let raw: u64 = self.units.iter().flat_map(|unit| &unit.clusters).map(|cluster| cluster.len).sum();
        match self.kind {
            Kind::Full => new * 12 + (16 << 20),
            Kind::Bytes => limits.of_bytes(new),
            Kind::Deflated => limits.of_bytes(new).max(limits.of_inflated(whole, new)),
            Kind::Program => limits.of_bytes(new).max(limits.of_program(whole)),
            Kind::Clusters => limits.of_bytes(new).max(limits.of_decompressed(whole, raw)),
        }
    }

    /// Makes it.
    pub(super) fn make(
        &self,
        pair: &Pair<'_>,
        allowed: &Operations,
        limits: &Limits,
        spill: &Spill,
    ) -> Result<Made, DeltaError> {
        let target: Vec<Extent> = join(self.units.iter().flat_map(|unit| unit.extents.iter().copied()));
        let new = pair.new.read(&target).map_err(|source| pair.new_error(source))?;
        let Some(old) = pair.old.as_ref().filter(|_| self.kind != Kind::Full) else {
            return self.keep(pair, encode::replace(&new, allowed), target, &new, allowed, spill);
        };
        let parts = self.parts(&new);
        let work = Work { piece: self, pair, old, target: &target, new: &new, parts, allowed, limits };
        let special = match self.kind {
            Kind::Deflated => work.inflated()?,
            Kind::Clusters => work.decompressed()?,
            _ => None,
        };
        let draft = match special {
            Some(draft) => Some(draft),
            None => work.bytes()?,
        };
        if self.kind == Kind::Program
            && let [unit] = &self.units[..]
        {
            let bound = draft.as_ref().map_or(unit.len(), Draft::estimate);
            // Blocks that could be copied cost a phone room in its snapshot.
            let copied = (unit.whole_len() - unit.len()) / BLOCK.get();
            if let Some((encoded, whole)) = work.program(unit, bound.saturating_sub(copied * COPIED_COST))? {
                let mut made = self.keep(pair, encoded, join(unit.whole.iter().copied()), &whole, allowed, spill)?;
                made.claimed.extend(&unit.whole);
                return Ok(made);
            }
        }
        let best = match draft {
            Some(draft) => {
                let is_mostly_new = draft.is_mostly_new();
                let patch = draft.finish();
                let other = is_mostly_new.then(|| encode::replace(&new, allowed));
                other.filter(|other| other.cost() < patch.cost()).unwrap_or(patch)
            }
            None => encode::replace(&new, allowed),
        };
        self.keep(pair, best, target, &new, allowed, spill)
    }

    /// The bytes of each unit.
    fn parts<'a>(&self, new: &'a [u8]) -> Vec<&'a [u8]> {
        let mut rest = new;
        let mut cut = |unit: &Unit| {
            let (part, after) = rest.split_at(usize::try_from(unit.len()).expect("a part of what is in memory"));
            rest = after;
            part
        };
        self.units.iter().map(&mut cut).collect()
    }

    /// Checks what was made and keeps it.
    fn keep(
        &self,
        pair: &Pair<'_>,
        best: Encoded,
        target: Vec<Extent>,
        new: &[u8],
        allowed: &Operations,
        spill: &Spill,
    ) -> Result<Made, DeltaError> {
        let mut made = Made::default();
        let mut operation = best.operation(target.clone());
        let mut blob = best.blob;
        if let Err(error) = check::patch(pair, &operation, &blob, new) {
            // Whatever a patch does wrong, the new bytes themselves are right.
            let name = pair.name;
            made.warnings.push(format!("{} of {name} is left out: {error}", operation.kind));
            let replaced = encode::replace(new, allowed);
            operation = replaced.operation(target);
            blob = replaced.blob;
            check::patch(pair, &operation, &blob, new).map_err(|error| check::failed(pair, error))?;
        }
        let spilled = spill.append(&blob)?;
        made.operations.push((operation, spilled));
        Ok(made)
    }
}

/// A piece at work.
struct Work<'a> {
    piece: &'a Piece,
    pair: &'a Pair<'a>,
    old: &'a Side<'a>,
    target: &'a [Extent],
    new: &'a [u8],
    parts: Vec<&'a [u8]>,
    allowed: &'a Operations,
    limits: &'a Limits,
}

impl Work<'_> {
    fn read_old(&self, extents: &[Extent]) -> Result<Vec<u8>, DeltaError> {
        self.old.read(extents).map_err(|source| self.pair.old_error(source))
    }

    fn read_new(&self, extents: &[Extent]) -> Result<Vec<u8>, DeltaError> {
        self.pair.new.read(extents).map_err(|source| self.pair.new_error(source))
    }

    /// A patch of bytes against the old files of these paths and what else is like them.
    fn bytes(&self) -> Result<Option<Draft>, DeltaError> {
        if !self.allowed.bsdiff && !self.allowed.brotli {
            return Ok(None);
        }
        let bases = &self.pair.bases;
        let mut left = (self.new.len() as u64 * 4).clamp(1 << 20, self.limits.old);
        let mut source: Vec<Extent> = Vec::new();
        let mut all = Vec::new();
        for (unit, part) in self.piece.units.iter().zip(&self.parts) {
            let votes = bases.votes(std::iter::once(*part));
            if let Some(file) = unit.path.as_deref().and_then(|path| bases.file(path, &votes))
                && file.stored_len() <= left
            {
                source.extend(&file.extents);
                left -= file.stored_len();
            }
            all.extend(votes);
        }
        all.sort_unstable_by_key(|&(window, votes)| (std::cmp::Reverse(votes), window));
        source.extend(bases.windows(&all, left));
        let source = union(source, 0);
        if source.is_empty() {
            return Ok(None);
        }
        Ok(encode::bsdiff(&self.read_old(&source)?, &source, &self.parts, self.new, self.allowed))
    }

    /// The old file that a unit is made from.
    fn base(&self, unit: &Unit) -> Option<&OldFile> {
        let bases = &self.pair.bases;
        let path = unit.path.as_deref()?;
        bases.file(path, &bases.votes(self.parts.iter().copied()))
    }

    /// A patch between inflated streams, if there are any that differ.
    fn inflated(&self) -> Result<Option<Draft>, DeltaError> {
        let [unit] = &self.piece.units[..] else { return Ok(None) };
        let source = match &unit.path {
            Some(_) => self.base(unit).map(|file| file.extents.clone()),
            // An image without files stands for itself.
            None => Some(vec![Extent { start: 0, blocks: self.old.blocks.len() as u64 }]),
        };
        let len = |source: &Vec<Extent>| source.iter().map(Extent::len).sum::<u64>();
        let source = source.filter(|source| len(source) <= 2 * unit.whole_len() + (1 << 20));
        let (Some(source), true) = (source, self.allowed.puffdiff) else { return Ok(None) };
        let source = join(source.into_iter());
        let (old, whole) = (self.read_old(&source)?, self.read_new(&unit.whole)?);
        Ok(encode::puffdiff(&old, &source, &whole, &within(&unit.whole, self.target), self.allowed))
    }

    /// The whole file as a patch between programs, if that is smaller than `bound`.
    fn program(&self, unit: &Unit, bound: u64) -> Result<Option<(Encoded, Vec<u8>)>, DeltaError> {
        let Some(base) = self.base(unit).filter(|file| file.stored_len() <= self.limits.whole) else { return Ok(None) };
        let (source, old) = (join(base.extents.iter().copied()), self.read_old(&base.extents)?);
        let new = self.read_new(&unit.whole)?;
        Ok(encode::zucchini(&old, source, &new, bound).map(|encoded| (encoded, new)))
    }

    /// A patch between decompressed clusters.
    fn decompressed(&self) -> Result<Option<Draft>, DeltaError> {
        let [unit] = &self.piece.units[..] else { return Ok(None) };
        let stored = self.read_new(&unit.whole)?;
        let fresh = within(&unit.whole, self.target);
        let Some(new) = encode::Decompressed::new(&stored, &unit.clusters, &fresh, self.new) else { return Ok(None) };
        let bases = &self.pair.bases;
        let votes = bases.votes(std::iter::once(new.raw()));
        let mut left = (new.raw().len() as u64 * 2).clamp(1 << 20, self.limits.old);
        let mut source = Vec::new();
        if let Some(file) = unit.path.as_deref().and_then(|path| bases.file(path, &votes)) {
            source.extend(&file.extents);
            left = left.saturating_sub(file.stored_len());
        }
        source.extend(bases.windows(&votes, left / 4));
        let clusters = bases.clusters_in(&union(source, 0));
        let source: Vec<Extent> = clusters.iter().filter_map(cluster_blocks).collect();
        if source.is_empty() {
            return Ok(None);
        }
        Ok(new.against(&self.read_old(&source)?, clusters, self.allowed))
    }
}

/// Where blocks of a file are among its bytes: `part` are some of the blocks of `whole`, in the same order.
fn within(whole: &[Extent], part: &[Extent]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut wanted = part.iter().flat_map(|extent| extent.start..extent.end()).peekable();
    let mut at = 0;
    for block in whole.iter().flat_map(|extent| extent.start..extent.end()) {
        if wanted.next_if_eq(&block).is_some() {
            match ranges.last_mut() {
                Some(last) if last.end == at => last.end += BLOCK.get(),
                _ => ranges.push(at..at + BLOCK.get()),
            }
        }
        at += BLOCK.get();
    }
    ranges
}

/// Appends extents, joining those that follow each other.
pub(super) fn join(extents: impl Iterator<Item = Extent>) -> Vec<Extent> {
    let mut joined: Vec<Extent> = Vec::new();
    for extent in extents {
        match joined.last_mut() {
            Some(last) if last.end() == extent.start => last.blocks += extent.blocks,
            _ => joined.push(extent),
        }
    }
    joined
}

/// The parts of `source` that are `used` (ranges of its bytes, sorted), with short gaps left in.
pub(super) fn trim(source: &[Extent], used: &[std::ops::Range<usize>]) -> Vec<Extent> {
    let mut kept: Vec<Extent> = Vec::new();
    let mut ranges = used.iter().peekable();
    let mut first = 0_u64;
    for extent in source {
        let end = first + extent.len();
        while let Some(range) = ranges.peek() {
            let (from, to) = ((range.start as u64).max(first), (range.end as u64).min(end));
            if from < to {
                let start = extent.start + (from - first) / BLOCK.get();
                let stop = extent.start + (to - first).div_ceil(BLOCK.get());
                kept.push(Extent { start, blocks: stop - start });
            }
            if range.end as u64 > end {
                break;
            }
            ranges.next();
        }
        first = end;
    }
    // Gaps are closed only within what was read.
    let mut closed: Vec<Extent> = Vec::new();
    for extent in union(kept, GAP) {
        let parts = source.iter().filter_map(|whole| {
            let (start, end) = (whole.start.max(extent.start), whole.end().min(extent.end()));
            (start < end).then(|| Extent { start, blocks: end - start })
        });
        closed.extend(parts);
    }
    union(closed, 0)
}

/// Puts the operations of all partitions together.
pub(super) fn finish(
    pairs: &[Pair<'_>],
    plans: Vec<Plan>,
    made: Vec<Vec<Made>>,
    spill: Spill,
    mut report: Report,
) -> Result<Generated, DeltaError> {
    let mut order = Vec::new();
    let mut offset = 0;
    let mut partitions = Vec::new();
    for ((pair, mut plan), made) in pairs.iter().zip(plans).zip(made) {
        let mut operations = Vec::new();
        for piece in &made {
            plan.claim(&piece.claimed);
        }
        let zeros = plan.zeros();
        if !zeros.is_empty() {
            operations.push(Operation {
                kind: OperationKind::Zero,
                data: None,
                source: Vec::new(),
                source_sha256: None,
                target: zeros,
            });
        }
        operations.extend(copies(pair, plan.copies())?);
        for piece in made {
            report.warnings.extend(piece.warnings);
            for (mut operation, spilled) in piece.operations {
                let data = operation.data.as_mut().expect("what a piece makes has data");
                data.offset = offset;
                offset += spilled.len;
                order.push(spilled);
                operations.push(operation);
            }
        }
        report.partitions.push(tally(pair, &operations));
        partitions.push(payload::Partition {
            name: pair.name.clone(),
            old: pair.old.as_ref().map(|old| old.info),
            new: pair.new.info,
            operations,
            verity: plan.verity,
            version: None,
            postinstall: None,
            merge_operations: Vec::new(),
            estimate_cow_size: None,
            estimate_op_count_max: None,
        });
    }
    let blobs: Blobs = spill.in_order(order.into_iter())?;
    Ok(Generated { partitions, blobs, report })
}

fn tally(pair: &Pair<'_>, operations: &[Operation]) -> PartitionReport {
    let mut tallies: BTreeMap<OperationKind, Tally> = BTreeMap::new();
    for operation in operations {
        let tally = tallies.entry(operation.kind).or_default();
        tally.count += 1;
        tally.target_len += operation.target_len();
        tally.data_len += operation.data.map_or(0, |data| data.len);
    }
    PartitionReport { name: pair.name.clone(), target_len: pair.new.info.size.get(), operations: tallies }
}

/// Operations that copy, each of bounded size, checked.
fn copies(pair: &Pair<'_>, copies: Vec<Copy>) -> Result<Vec<Operation>, DeltaError> {
    let mut groups: Vec<Vec<Copy>> = Vec::new();
    let mut room = 0;
    for mut copy in copies {
        while copy.target.blocks > 0 {
            if room == 0 || groups.last().is_none_or(|group| group.len() >= COPY_EXTENTS) {
                groups.push(Vec::new());
                room = COPY_BLOCKS;
            }
            let blocks = copy.target.blocks.min(room);
            let target = Extent { start: copy.target.start, blocks };
            groups.last_mut().expect("one was pushed").push(Copy { source: copy.source, target });
            room -= blocks;
            copy.source += blocks;
            copy.target = Extent { start: copy.target.start + blocks, blocks: copy.target.blocks - blocks };
        }
    }
    let operation = |group: Vec<Copy>| {
        let source = join(group.iter().map(|copy| Extent { start: copy.source, blocks: copy.target.blocks }));
        let target = join(group.iter().map(|copy| copy.target));
        let source_sha256 = check::copy(pair, &source, &target)?;
        let source_sha256 = Some(source_sha256);
        Ok(Operation { kind: OperationKind::SourceCopy, data: None, source, source_sha256, target })
    };
    groups.into_par_iter().map(operation).collect()
}

/// A digest of bytes in memory.
pub(super) fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256::new(sha2::Sha256::digest(bytes).into())
}

/// Data of an operation; the offset is known only when all are there.
pub(super) fn data(blob: &[u8]) -> Data {
    Data { offset: 0, len: blob.len() as u64, sha256: Some(sha256(blob)) }
}
