//! Which blocks wait for which, and ways from one to the next.

use super::Step;

/// No segment, no reader.
pub(super) const NONE: u32 = u32::MAX;

/// Which blocks wait for which.
pub(super) struct Waits {
    /// The step that writes a block and is not done with it.
    pub(super) step_of: Vec<u32>,
    /// Where the readers of a block start in `readers`.
    first_reader: Vec<u32>,
    /// Blocks whose making reads a block; itself is not among them.
    readers: Vec<u32>,
    /// How many of the readers of a block are left.
    pub(super) count: Vec<u32>,
    /// How many of the first readers of a block are known to have gone.
    gone: Vec<u32>,
}

impl Waits {
    pub(super) fn new(steps: &[Step], new_blocks: u32) -> Self {
        let mut step_of = vec![NONE; new_blocks as usize];
        for (id, step) in (0..).zip(steps) {
            step_of[step.target as usize..step.end() as usize].fill(id);
        }
        let mut count = vec![0; new_blocks as usize];
        let each = |found: &mut dyn FnMut(u32, usize)| {
            for step in steps {
                for block in step.target..step.end() {
                    let written = |&read: &u32| step_of.get(read as usize).is_some_and(|&id| id != NONE);
                    step.read_for(block).filter(written).for_each(|read| found(block, read as usize));
                }
            }
        };
        each(&mut |_, read| count[read] += 1);
        let mut first_reader = Vec::with_capacity(new_blocks as usize + 1);
        let mut sum = 0;
        for count in &count {
            first_reader.push(sum);
            sum += count;
        }
        first_reader.push(sum);
        let mut readers = vec![NONE; sum as usize];
        let mut next = first_reader.clone();
        each(&mut |block, read| {
            readers[next[read] as usize] = block;
            next[read] += 1;
        });
        Self { step_of, first_reader, readers, count, gone: vec![0; new_blocks as usize] }
    }

    pub(super) fn step_of(&self, block: u32) -> Option<u32> {
        self.step_of.get(block as usize).copied().filter(|&id| id != NONE)
    }

    pub(super) fn is_left(&self, block: u32) -> bool {
        self.step_of(block).is_some()
    }

    /// Readers of a block that are left.
    pub(super) fn readers(&self, block: u32) -> impl Iterator<Item = u32> {
        let gone = self.gone[block as usize];
        let (start, end) = (self.first_reader[block as usize] + gone, self.first_reader[block as usize + 1]);
        let readers = self.readers[start as usize..end as usize].iter().copied();
        readers.filter(|&reader| self.is_left(reader))
    }

    /// Has the first readers that have gone not looked at again: a block may have very many.
    pub(super) fn skip_gone(&mut self, block: u32) {
        let end = self.first_reader[block as usize + 1];
        let gone = self.gone[block as usize];
        let readers = &self.readers[(self.first_reader[block as usize] + gone) as usize..end as usize];
        let more = readers.iter().take_while(|&&reader| !self.is_left(reader)).count();
        self.gone[block as usize] += u32::try_from(more).expect("there are at most two readings for each block");
    }

    /// Blocks that are left and wait for nothing.
    pub(super) fn free(&self) -> Vec<u32> {
        let blocks = (0..).zip(&self.count);
        blocks.filter(|&(block, &count)| count == 0 && self.is_left(block)).map(|(block, _)| block).collect()
    }
}

/// A way through what waits for one another, up to where it meets itself.
pub(super) struct Path {
    pub(super) way: Vec<u32>,
    /// Where on the way each one is, if it is there.
    place: Vec<u32>,
}

impl Path {
    pub(super) fn new(count: usize) -> Self {
        Self { way: Vec::new(), place: vec![0; count] }
    }

    /// Goes on to `at`; where on the way that is, if it was there before.
    pub(super) fn go(&mut self, at: u32) -> Option<usize> {
        if self.place.len() <= at as usize {
            self.place.resize(at as usize + 1, 0);
        }
        let place = &mut self.place[at as usize];
        if self.way.get(*place as usize) == Some(&at) {
            return Some(*place as usize);
        }
        *place = u32::try_from(self.way.len()).expect("nothing is on the way twice");
        self.way.push(at);
        None
    }
}
