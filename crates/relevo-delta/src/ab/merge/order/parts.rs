//! Parts of steps that nothing waits for, the cheapest first.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use super::{Run, Step};

/// Runs of blocks that nothing waits for, none longer than its step, and offers to put them out.
///
/// An offer stays when its run has grown, shrunk or gone: it is passed over when its turn comes.
#[derive(Default)]
pub(super) struct Parts {
    /// By first block: the block behind the last.
    runs: BTreeMap<u32, u32>,
    /// Cost, first block, block behind the last.
    offers: BinaryHeap<Reverse<(u64, u32, u32)>>,
}

impl Parts {
    /// Adds a block of `step`; the run that it is in now.
    pub(super) fn join(&mut self, block: u32, step: &Step) -> (u32, u32) {
        let (mut start, mut end) = (block, block + 1);
        if let Some((&low, &high)) = self.runs.range(..=block).next_back() {
            if high > block {
                return (low, high);
            }
            if high == block && low >= step.target {
                start = low;
            }
        }
        if end < step.end()
            && let Some(high) = self.runs.remove(&end)
        {
            end = high;
        }
        self.runs.insert(start, end);
        (start, end)
    }

    /// Takes blocks out; what is left of the runs that they were in, if that is anything.
    pub(super) fn cut(&mut self, start: u32, end: u32) -> [Option<(u32, u32)>; 2] {
        let mut left = [None, None];
        if let Some((&low, &high)) = self.runs.range(..start).next_back()
            && high > start
        {
            self.runs.insert(low, start);
            left[0] = Some((low, start));
            if high > end {
                self.runs.insert(end, high);
                left[1] = Some((end, high));
            }
        }
        while let Some((&low, &high)) = self.runs.range(start..end).next() {
            self.runs.remove(&low);
            if high > end {
                self.runs.insert(end, high);
                left[1] = Some((end, high));
            }
        }
        left
    }

    /// The runs that start in `start..end`.
    pub(super) fn within(&self, start: u32, end: u32) -> Vec<(u32, u32)> {
        self.runs.range(start..end).map(|(&low, &high)| (low, high)).collect()
    }

    /// Whether this is a run, all of it.
    pub(super) fn is_run(&self, start: u32, end: u32) -> bool {
        self.runs.get(&start) == Some(&end)
    }

    pub(super) fn offer(&mut self, run: Run) {
        self.offers.push(Reverse((run.cost, run.start, run.end)));
    }

    /// The cheapest offer; of several the first by block.
    pub(super) fn cheapest(&self) -> Option<Run> {
        self.offers.peek().map(|&Reverse((cost, start, end))| Run { start, end, cost })
    }

    /// Drops the cheapest offer.
    pub(super) fn pass_over(&mut self) {
        self.offers.pop();
    }
}
