//! What each block of the target comes from, and how the target is cut into pieces.

use std::collections::HashMap;

use crate::{
    piece::Budget,
    scan::{BLOCK_LEN, BlockHash, Scan, zero_block},
};

/// Where a run of target bytes comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// The same bytes stand in a base.
    Source {
        /// Index of the source image.
        base: u32,
        /// First byte in it.
        start: u64,
    },
    /// Zeros.
    Zero,
    /// Nothing identical; to be matched.
    New,
}

/// A run of target bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub from: From,
    /// First byte in the target image.
    pub start: u64,
    pub len: u64,
}

/// A piece that is to be made.
#[derive(Debug)]
pub(crate) struct PiecePlan {
    /// Index of the target image.
    pub image: usize,
    pub start: u64,
    pub len: u64,
    /// Bytes of [`From::New`].
    pub new_len: u64,
    pub runs: Vec<Run>,
}

/// Finds copies and zeros, and cuts pieces.
pub(crate) fn plan(source: &Scan, target: &Scan, budget: &Budget) -> Vec<PiecePlan> {
    let index = BlockIndex::new(source);
    let mut pieces = Vec::new();
    for (image, (scan, blocks)) in target.images.iter().zip(&target.blocks).enumerate() {
        // A partition is first looked for in itself: that is where the phone's reads are shortest.
        let home = source.images.iter().position(|other| other.name == scan.name);
        let runs = runs(blocks, scan.len, home, &index);
        cut(image, &runs, budget, &mut pieces);
    }
    pieces
}

/// Where each block of the source stands.
struct BlockIndex<'a> {
    source: &'a Scan,
    first: HashMap<BlockHash, (u32, u32)>,
    zero: BlockHash,
}

impl<'a> BlockIndex<'a> {
    fn new(source: &'a Scan) -> Self {
        let count = source.blocks.iter().map(Vec::len).sum();
        let mut first = HashMap::with_capacity(count);
        for (base, blocks) in (0_u32..).zip(&source.blocks) {
            for (number, &hash) in (0_u32..).zip(blocks) {
                first.entry(hash).or_insert((base, number));
            }
        }
        Self { source, first, zero: zero_block() }
    }

    fn at(&self, base: u32, number: u64) -> Option<BlockHash> {
        let number = usize::try_from(number).ok()?;
        self.source.blocks[base as usize].get(number).copied()
    }

    /// Best place of block `number` of a target: what goes on from the block before, then the same place in the
    /// partition itself, then anywhere.
    fn find(&self, hash: BlockHash, number: u64, home: Option<u32>, before: Option<From>) -> From {
        if hash == self.zero {
            return From::Zero;
        }
        if let Some(From::Source { base, start }) = before {
            let next = start / BLOCK_LEN + 1;
            if self.at(base, next) == Some(hash) {
                return From::Source { base, start: next * BLOCK_LEN };
            }
        }
        if let Some(base) = home
            && self.at(base, number) == Some(hash)
        {
            return From::Source { base, start: number * BLOCK_LEN };
        }
        match self.first.get(&hash) {
            Some(&(base, number)) => From::Source { base, start: u64::from(number) * BLOCK_LEN },
            None => From::New,
        }
    }
}

fn runs(blocks: &[BlockHash], len: u64, home: Option<usize>, index: &BlockIndex<'_>) -> Vec<Run> {
    let home = home.and_then(|home| u32::try_from(home).ok());
    let mut runs: Vec<Run> = Vec::new();
    let mut before = None;
    for (number, &hash) in (0_u64..).zip(blocks) {
        let from = index.find(hash, number, home, before);
        before = Some(from);
        push(&mut runs, Run { from, start: number * BLOCK_LEN, len: BLOCK_LEN });
    }
    let whole = blocks.len() as u64 * BLOCK_LEN;
    if whole < len {
        push(&mut runs, Run { from: From::New, start: whole, len: len - whole });
    }
    runs
}

/// Appends a run, or lengthens the last one if it goes on there.
fn push(runs: &mut Vec<Run>, run: Run) {
    if let Some(last) = runs.last_mut() {
        let goes_on = match (last.from, run.from) {
            (From::Source { base, start }, From::Source { base: next_base, start: next }) => {
                base == next_base && start + last.len == next
            }
            (From::Zero, From::Zero) | (From::New, From::New) => true,
            _ => false,
        };
        if goes_on {
            last.len += run.len;
            return;
        }
    }
    runs.push(run);
}

/// Cuts an image into pieces of at most `budget.piece_new` bytes to be matched and `budget.piece_len` bytes in all.
fn cut(image: usize, runs: &[Run], budget: &Budget, pieces: &mut Vec<PiecePlan>) {
    let mut piece: Option<PiecePlan> = None;
    for &run in runs {
        let mut rest = run;
        while rest.len > 0 {
            let open =
                piece.get_or_insert(PiecePlan { image, start: rest.start, len: 0, new_len: 0, runs: Vec::new() });
            let room = budget.piece_len - open.len;
            let room = if rest.from == From::New { room.min(budget.piece_new - open.new_len) } else { room };
            let len = rest.len.min(room);
            if len > 0 {
                open.runs.push(Run { len, ..rest });
                open.len += len;
                open.new_len += if rest.from == From::New { len } else { 0 };
                if let From::Source { start, .. } = &mut rest.from {
                    *start += len;
                }
                rest.start += len;
                rest.len -= len;
            }
            if open.len == budget.piece_len || open.new_len == budget.piece_new {
                pieces.extend(piece.take());
            }
        }
    }
    pieces.extend(piece);
}
