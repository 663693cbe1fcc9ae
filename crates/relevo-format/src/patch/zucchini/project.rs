//! Where old offsets are in the new file, and the list of targets that references are counted in.

use super::{Equivalence, MAX_OFFSET, order::Order};

/// Maps offsets of the old file to those of the new one, by what they have in common.
pub(super) struct Projection {
    /// Sorted by old offset; no two have an old byte in common.
    runs: Vec<Equivalence>,
    /// Whether another [`Order`] can make something else of them.
    pub(super) is_ambiguous: bool,
    old_len: u32,
    new_len: u32,
}

impl Projection {
    /// `runs` in the order of the patch.
    pub(super) fn new(mut runs: Vec<Equivalence>, order: Order, old_len: u32, new_len: u32) -> Self {
        order.sort(&mut runs);
        let is_ambiguous = runs.windows(2).any(|pair| pair[0].old == pair[1].old);
        prune(&mut runs);
        Self { runs, is_ambiguous, old_len, new_len }
    }

    /// Where an offset would be: moved as the bytes nearest to it were. None if the files have nothing in common.
    pub(super) fn nearest(&self, offset: u32) -> Option<u32> {
        if offset >= self.old_len {
            // Behind the end, where memory without bytes is.
            let behind = offset - self.old_len;
            let fits = behind < MAX_OFFSET.saturating_sub(self.new_len);
            return Some(if fits { self.new_len + behind } else { MAX_OFFSET - 1 });
        }
        let index = self.runs.partition_point(|run| run.old <= offset);
        let after = self.runs.get(index);
        let before = index.checked_sub(1).map(|index| &self.runs[index]);
        let run = match (before, after) {
            (Some(before), Some(after)) => {
                // The distance to the last byte before is one more than this, so the same means nearer to the one after.
                let is_before = offset < before.old_end() || offset - before.old_end() < after.old - offset;
                if is_before { before } else { after }
            }
            (before, after) => before.or(after)?,
        };
        let moved = i64::from(offset) - i64::from(run.old) + i64::from(run.new);
        let last = self.new_len - 1;
        Some(u32::try_from(moved.max(0)).map_or(last, |moved| moved.min(last)))
    }

    /// Maps sorted offsets; drops those that have nothing in the new file.
    fn all(&self, offsets: &mut Vec<u32>) {
        let mut runs = self.runs.iter().peekable();
        offsets.retain_mut(|offset| {
            while runs.next_if(|run| run.old_end() <= *offset).is_some() {}
            match runs.peek() {
                Some(run) if run.old <= *offset => {
                    *offset = *offset - run.old + run.new;
                    true
                }
                _ => false,
            }
        });
    }
}

/// Cuts runs, sorted by old offset, until no two have an old byte in common: the longer one keeps it, or the first of
/// two that are as long.
fn prune(runs: &mut Vec<Equivalence>) {
    let mut at = 0;
    while at < runs.len() {
        let current = runs[at];
        // The first one that is longer cuts this one; all between them lie where both are.
        let mut next = at + 1;
        let mut longer = None;
        while let Some(run) = runs.get(next).filter(|run| run.old < current.old_end()) {
            if current.len < run.len {
                longer = Some(run.old);
                break;
            }
            next += 1;
        }
        if let Some(start) = longer {
            runs[at].len -= current.old_end() - start;
            runs[at + 1..next].iter_mut().for_each(|run| run.len = 0);
            at = next;
        } else {
            for run in &mut runs[at + 1..next] {
                let cut = current.old_end() - run.old;
                run.len -= run.len.min(cut);
                run.old += cut;
                run.new = run.new.wrapping_add(cut);
            }
            at += 1;
        }
    }
    runs.retain(|run| run.len > 0);
}

/// What references of one kind go to, sorted; a reference is the number of its target.
pub(super) struct Targets(Vec<u32>);

impl Targets {
    /// Those of old references, as they are in the new file.
    pub(super) fn project(mut old: Vec<u32>, projection: &Projection) -> Self {
        old.sort_unstable();
        old.dedup();
        projection.all(&mut old);
        old.sort_unstable();
        Self(old)
    }

    /// Adds targets that are nowhere in the old file.
    pub(super) fn add(&mut self, targets: impl IntoIterator<Item = u32>) {
        self.0.extend(targets);
        self.0.sort_unstable();
        self.0.dedup();
    }

    /// The target of a number.
    pub(super) fn get(&self, index: u32) -> Option<u32> {
        self.0.get(index as usize).copied()
    }

    /// The number of a target; none if it is not among them.
    pub(super) fn find(&self, target: u32) -> Option<u32> {
        self.0.binary_search(&target).ok().map(number)
    }

    /// The number of the target nearest to an offset, the lower one of two that are as near.
    pub(super) fn nearest(&self, offset: u32) -> u32 {
        let index = self.0.partition_point(|&target| target < offset);
        let before = index.checked_sub(1).map(|before| self.0[before]);
        let is_before =
            before.is_some_and(|before| self.0.get(index).is_none_or(|&after| after - offset >= offset - before));
        number(if is_before { index - 1 } else { index })
    }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).expect("there are fewer targets than offsets")
}
