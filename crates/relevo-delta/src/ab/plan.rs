//! What each block of a new image comes from, and how what is left is cut into pieces.

use std::collections::HashMap;

use rayon::prelude::*;
use relevo_format::{
    fs::{self, Coding},
    payload::{self, Extent},
};

use super::{
    Operations,
    bases::{blocks, cluster_blocks, regular_files, whole_clusters},
    piece::{Piece, Unit, join},
    side::{Pair, Side},
    work::Limits,
};
use crate::{
    DeltaError,
    scan::{BlockHash, zero_block},
};

/// Most blocks of an image; those above are marks.
pub(super) const MAX_BLOCKS: u64 = 0xffff_fff0;
/// To be made by a piece.
const NEW: u32 = 0xffff_ffff;
/// Zeros.
const ZERO: u32 = 0xffff_fffe;
/// Made by the phone.
const COMPUTED: u32 = 0xffff_fffd;
/// Runs of at most this many copied blocks within a file are left to its patch: a copy of its own takes two extents,
/// and cuts one of the patch in two.
const ABSORBED: usize = 4;
/// Blocks of an operation that needs no old image: AOSP's 2 MiB, so that a phone that was cut off repeats little.
const FULL_BLOCKS: u64 = 512;
/// Most bytes of a file that is taken as a whole: update_engine has it and its base in memory, inflated.
const WHOLE: u64 = 96 << 20;
/// Least bytes of a program that is made as one.
const PROGRAM: u64 = 16 << 10;
/// Most bytes of one: of programs of 60 MB patches between programs took 1.6 times what patches of bytes take, and phones
/// hold all of both in memory.
const LARGEST_PROGRAM: u64 = 16 << 20;
/// Bytes of a piece that belongs to no file, or of small files together.
const GROUP: u64 = 8 << 20;

/// How one partition is made.
pub(super) struct Plan {
    /// By block of the new image: the old block that it is a copy of, or a mark.
    from: Vec<u32>,
    pub verity: Option<payload::Verity>,
    pub pieces: Vec<Piece>,
}

/// A run of blocks that are copied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copy {
    pub source: u64,
    pub target: Extent,
}

impl Plan {
    /// Takes blocks out of the copies: a piece has made them.
    pub(super) fn claim(&mut self, extents: &[Extent]) {
        for extent in extents {
            let start = usize::try_from(extent.start).expect("blocks are counted in memory");
            let end = usize::try_from(extent.end()).expect("blocks are counted in memory");
            self.from[start..end].fill(NEW);
        }
    }

    /// Runs of copied blocks.
    pub(super) fn copies(&self) -> Vec<Copy> {
        let mut copies: Vec<Copy> = Vec::new();
        for (target, &from) in (0_u64..).zip(&self.from) {
            if from >= COMPUTED {
                continue;
            }
            let source = u64::from(from);
            match copies.last_mut() {
                Some(last) if last.target.end() == target && last.source + last.target.blocks == source => {
                    last.target.blocks += 1;
                }
                _ => copies.push(Copy { source, target: Extent { start: target, blocks: 1 } }),
            }
        }
        copies
    }

    /// Runs of zeros.
    pub(super) fn zeros(&self) -> Vec<Extent> {
        runs(&self.from, |&from| from == ZERO)
    }
}

/// Runs of entries that are `wanted`, as extents.
fn runs<T>(entries: &[T], wanted: impl Fn(&T) -> bool) -> Vec<Extent> {
    let mut runs: Vec<Extent> = Vec::new();
    for (start, _) in (0_u64..).zip(entries).filter(|(_, entry)| wanted(entry)) {
        push(&mut runs, start);
    }
    runs
}

/// Appends a block, or lengthens the last extent if it goes on there.
fn push(extents: &mut Vec<Extent>, block: u64) {
    match extents.last_mut() {
        Some(last) if last.end() == block => last.blocks += 1,
        _ => extents.push(Extent { start: block, blocks: 1 }),
    }
}

/// Plans all partitions; `verity` is what phones compute of each.
pub(super) fn plan(
    pairs: &[Pair<'_>],
    verity: Vec<Option<payload::Verity>>,
    allowed: &Operations,
    limits: &Limits,
) -> Result<Vec<Plan>, DeltaError> {
    pairs.par_iter().zip(verity).map(|(pair, verity)| plan_one(pair, verity, allowed, limits)).collect()
}

fn plan_one(
    pair: &Pair<'_>,
    verity: Option<payload::Verity>,
    allowed: &Operations,
    limits: &Limits,
) -> Result<Plan, DeltaError> {
    let mut from = match &pair.old {
        Some(old) => find(&old.blocks, &pair.new.blocks, allowed.zero),
        None => {
            let zero = zero_block();
            let mark = |hash: &BlockHash| if allowed.zero && *hash == zero { ZERO } else { NEW };
            pair.new.blocks.iter().map(mark).collect()
        }
    };
    for extent in verity.iter().flat_map(payload::Verity::extents) {
        from[at(extent.start)..at(extent.end())].fill(COMPUTED);
    }
    if pair.old.is_none() {
        let chunks = runs(&from, |&from| from == NEW).into_iter().flat_map(|run| chunks(run, FULL_BLOCKS));
        let pieces = chunks.map(Piece::full).collect();
        return Ok(Plan { from, verity, pieces });
    }
    let mut cut = Cut { limits, pieces: Vec::new(), open: Vec::new(), open_len: 0 };
    files(pair, allowed, &mut from, &mut cut)?;
    Ok(Plan { from, verity, pieces: cut.finish() })
}

fn at(block: u64) -> usize {
    usize::try_from(block).expect("blocks are counted in memory")
}

/// A run in parts of at most `most` blocks.
fn chunks(run: Extent, most: u64) -> impl Iterator<Item = Extent> {
    let starts = (run.start..run.end()).step_by(usize::try_from(most).unwrap_or(usize::MAX));
    starts.map(move |start| Extent { start, blocks: most.min(run.end() - start) })
}

/// For each new block the place of an old one with the same digest: what goes on from the block before, then the same
/// place, then the first.
fn find(old: &[BlockHash], new: &[BlockHash], zeros: bool) -> Vec<u32> {
    let mut first = HashMap::with_capacity(old.len());
    for (number, &hash) in (0_u32..).zip(old) {
        first.entry(hash).or_insert(number);
    }
    let is = |number: usize, hash: BlockHash| old.get(number) == Some(&hash);
    let zero = zero_block();
    let mut before = NEW;
    let place = |(number, &hash): (usize, &BlockHash)| {
        let next = before.wrapping_add(1);
        before = if zeros && hash == zero {
            ZERO
        } else if before < COMPUTED && is(next as usize, hash) {
            next
        } else if is(number, hash) {
            u32::try_from(number).expect("images have at most MAX_BLOCKS blocks")
        } else {
            first.get(&hash).copied().unwrap_or(NEW)
        };
        before
    };
    new.iter().enumerate().map(place).collect()
}

/// Cuts what is new along files, then the rest.
fn files(pair: &Pair<'_>, allowed: &Operations, from: &mut [u32], cut: &mut Cut<'_>) -> Result<(), DeltaError> {
    let mut taken = vec![false; from.len()];
    let is_erofs = |side: &Side<'_>| side.files.as_ref().is_some_and(|files| files.kind == fs::Kind::Erofs);
    let decoded = allowed.lz4diff && is_erofs(&pair.new) && pair.old.as_ref().is_some_and(is_erofs);
    let mut units = Vec::new();
    for file in pair.new.files.iter().flat_map(regular_files) {
        if decoded && let Some(unit) = clusters(file, from, &mut taken, cut.limits) {
            if !unit.extents.is_empty() {
                cut.pieces.push(Piece::clusters(unit));
            }
            continue;
        }
        let mut own = Vec::new();
        let all = blocks(file);
        for block in all.iter().flat_map(|extent| extent.start..extent.end()) {
            if !std::mem::replace(&mut taken[at(block)], true) && from[at(block)] != COMPUTED {
                own.push(block);
            }
        }
        absorb(&own, from);
        let mut extents = Vec::new();
        own.iter().filter(|&&block| from[at(block)] == NEW).for_each(|&block| push(&mut extents, block));
        if !extents.is_empty() {
            let is_own = all.iter().map(|extent| extent.blocks).sum::<u64>() == own.len() as u64;
            units.push((Unit { path: Some(file.path.clone()), whole: all, clusters: Vec::new(), extents }, is_own));
        }
    }
    for (unit, is_own) in units {
        match magic(pair, &unit)? {
            [b'P', b'K', 3, 4] | [0x1f, 0x8b, 8, _]
                if allowed.puffdiff
                    && unit.whole_len() <= WHOLE
                    && cut.limits.fits_inflated(unit.whole_len(), unit.len()) =>
            {
                cut.pieces.push(Piece::deflated(unit));
            }
            [0x7f, b'E', b'L', b'F'] | [b'd', b'e', b'x', b'\n']
                if allowed.zucchini && is_own && is_worth_a_program(&unit, cut.limits) =>
            {
                cut.pieces.push(Piece::program(unit));
            }
            _ => cut.push(unit),
        }
    }
    cut.close();
    let rest = from.iter().zip(&taken).map(|(&from, &taken)| from == NEW && !taken).collect::<Vec<_>>();
    let rest = runs(&rest, |&rest| rest);
    let len = pair.new.info.size.get();
    let new = rest.iter().map(Extent::len).sum();
    if pair.new.files.is_none() && !rest.is_empty() && len <= WHOLE && cut.limits.fits_inflated(len, new) {
        // An image without files, of a kernel perhaps.
        let whole = vec![Extent { start: 0, blocks: from.len() as u64 }];
        cut.pieces.push(Piece::deflated(Unit { path: None, whole, clusters: Vec::new(), extents: rest }));
        return Ok(());
    }
    for run in rest {
        cut.push(Unit { path: None, whole: Vec::new(), clusters: Vec::new(), extents: vec![run] });
    }
    cut.close();
    Ok(())
}

/// Bytes that a file begins with, where they stand as they are.
fn magic(pair: &Pair<'_>, unit: &Unit) -> Result<[u8; 4], DeltaError> {
    let mut start = [0; 4];
    if let Some(first) = unit.whole.first() {
        pair.new.image.read_exact_at(&mut start, first.offset()).map_err(|source| pair.new_error(source))?;
    }
    Ok(start)
}

/// Whether enough of a program is new that it may pay to make all of it, and it fits into memory.
fn is_worth_a_program(unit: &Unit, limits: &Limits) -> bool {
    let len = unit.whole_len();
    unit.len() * 4 >= len && len >= PROGRAM && len <= LARGEST_PROGRAM.min(limits.whole)
}

/// A file whose clusters can be taken apart; its new ones are made as a whole.
fn clusters(file: &fs::File, from: &mut [u32], taken: &mut [bool], limits: &Limits) -> Option<Unit> {
    let all = whole_clusters(file)?;
    let stored = all.iter().map(|cluster| cluster.stored_len).sum::<u64>();
    if stored > WHOLE || file.size > WHOLE * 2 || !limits.fits_decompressed(stored, file.size) {
        return None;
    }
    let blocks: Vec<Extent> = all.iter().filter_map(cluster_blocks).collect();
    let mut sorted = blocks.clone();
    sorted.sort_unstable();
    // What two clusters or two files have in common is written once.
    let is_shared = sorted.windows(2).any(|pair| pair[0].end() > pair[1].start)
        || blocks.iter().any(|extent| taken[at(extent.start)..at(extent.end())].contains(&true));
    if is_shared || !all.iter().any(|cluster| matches!(cluster.coding, Coding::Lz4 | Coding::Lz4Unpadded)) {
        return None;
    }
    let mut extents: Vec<Extent> = Vec::new();
    for extent in &blocks {
        let range = at(extent.start)..at(extent.end());
        taken[range.clone()].fill(true);
        if from[range.clone()].contains(&NEW) {
            from[range].fill(NEW);
            extents.push(*extent);
        }
    }
    let (path, clusters) = (Some(file.path.clone()), all.to_vec());
    Some(Unit { path, whole: join(blocks.into_iter()), clusters, extents: join(extents.into_iter()) })
}

/// Leaves short runs of copies between new blocks of a file to its patch.
fn absorb(own: &[u64], from: &mut [u32]) {
    let mut last_new = None;
    for (index, &block) in own.iter().enumerate() {
        if from[at(block)] != NEW {
            continue;
        }
        if let Some(last) = last_new.replace(index)
            && (2..=ABSORBED + 1).contains(&(index - last))
        {
            own[last + 1..index].iter().for_each(|&block| from[at(block)] = NEW);
        }
    }
}

/// Collects units into pieces.
struct Cut<'a> {
    limits: &'a Limits,
    pieces: Vec<Piece>,
    open: Vec<Unit>,
    open_len: u64,
}

impl Cut<'_> {
    fn push(&mut self, unit: Unit) {
        let most = self.limits.piece.min(GROUP);
        let mut unit = unit;
        while unit.len() > self.limits.piece {
            let head = unit.split_off(self.limits.piece);
            self.pieces.push(Piece::bytes(vec![head]));
        }
        if self.open_len + unit.len() > most {
            self.close();
        }
        self.open_len += unit.len();
        self.open.push(unit);
    }

    fn close(&mut self) {
        let units = std::mem::take(&mut self.open);
        self.open_len = 0;
        if !units.is_empty() {
            self.pieces.push(Piece::bytes(units));
        }
    }

    fn finish(self) -> Vec<Piece> {
        self.pieces
    }
}
