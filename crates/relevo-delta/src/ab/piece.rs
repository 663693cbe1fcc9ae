//! Pieces of work: each becomes one operation or a few.

use std::collections::BTreeMap;

use rayon::prelude::*;
use relevo_format::payload::{self, Data, Extent, Operation, OperationKind};
use relevo_types::{BLOCK, Sha256};
use sha2::Digest as _;

use super::{
    Blobs, Generated, Operations, PartitionReport, Report, Tally,
    bases::union,
    blobs::{Spill, Spilled},
    check,
    encode::{self, Encoded},
    plan::{Copy, Plan},
    side::Pair,
    work::Limits,
};
use crate::DeltaError;

/// Gaps of so many blocks between old extents are read along: that is cheaper than another extent.
const GAP: u64 = 8;
/// Most blocks that one operation copies; each costs a digest of 32 bytes, and a phone that was cut off repeats one.
const COPY_BLOCKS: u64 = 4096;
/// Most extents of an operation that copies.
const COPY_EXTENTS: usize = 1024;

/// Blocks of one file, or of none, that are made together.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    /// The new file's path.
    pub path: Option<Vec<u8>>,
    /// In the order of the file.
    pub extents: Vec<Extent>,
}

impl Unit {
    /// Bytes.
    pub(super) fn len(&self) -> u64 {
        self.extents.iter().map(Extent::len).sum()
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
        Self { path: self.path.clone(), extents: head }
    }
}

/// What is made in one go.
#[derive(Debug)]
pub(super) struct Piece {
    pub units: Vec<Unit>,
    /// Whether there is nothing that it could be made from.
    full: bool,
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
        Self { units: vec![Unit { path: None, extents: vec![extent] }], full: true }
    }

    /// Made of what it is like.
    pub(super) fn patch(units: Vec<Unit>) -> Self {
        Self { units, full: false }
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
        if self.full {
            return new * 12 + (16 << 20);
        }
        let old = (new * 4).clamp(1 << 20, limits.old);
        // The new bytes, their streams, the compressed ones; old bytes with their index; brotli's own.
        new * 4 + old * 5 + old.next_power_of_two() * 4 + new.clamp(1 << 20, 16 << 20) * 12
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
        let mut best: Option<Encoded> = None;
        if !self.full && pair.old.is_some() {
            best = self.patched(pair, &new, allowed, limits)?;
        }
        let cost = best.as_ref().map(Encoded::cost);
        let worth = best.as_ref().is_none_or(|best| best.mostly_new);
        if worth && let Some(replaced) = encode::replace(&new, allowed, cost) {
            best = Some(replaced);
        }
        let best = best.expect("what nothing makes smaller is taken as it is");
        self.keep(pair, best, target, &new, allowed, spill)
    }

    /// The best patch.
    fn patched(
        &self,
        pair: &Pair<'_>,
        new: &[u8],
        allowed: &Operations,
        limits: &Limits,
    ) -> Result<Option<Encoded>, DeltaError> {
        if !allowed.bsdiff && !allowed.brotli {
            return Ok(None);
        }
        let parts = self.parts(new);
        let budget = (new.len() as u64 * 4).clamp(1 << 20, limits.old);
        let mut source: Vec<Extent> = Vec::new();
        let mut left = budget;
        for unit in &self.units {
            let Some(extents) = unit.path.as_deref().and_then(|path| pair.bases.file(path)) else { continue };
            let len = extents.iter().map(Extent::len).sum::<u64>();
            if len <= left {
                source.extend(extents);
                left -= len;
            }
        }
        source.extend(pair.bases.alike(parts.iter().copied(), left));
        if source.is_empty() {
            return Ok(None);
        }
        let source = union(source, 0);
        let old = pair.old.as_ref().expect("a piece with bases has an old image");
        let old = old.read(&source).map_err(|source| pair.old_error(source))?;
        Ok(encode::bsdiff(&old, &source, &parts, new, allowed))
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
            let replaced = encode::replace(new, allowed, None).expect("what nothing makes smaller is taken as it is");
            operation = replaced.operation(target);
            blob = replaced.blob;
            check::patch(pair, &operation, &blob, new).map_err(|error| check::failed(pair, error))?;
        }
        let spilled = spill.append(&blob)?;
        made.operations.push((operation, spilled));
        Ok(made)
    }
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
