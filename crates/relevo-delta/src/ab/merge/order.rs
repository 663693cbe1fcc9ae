//! An order of merging in which nothing is overwritten that a later step still reads.
//!
//! A step that reads block `b` has to come before the step that writes `b`. Whole steps are put out for as long as there
//! are any that nothing waits for. Where steps wait for one another in a circle, a look at single blocks decides: often
//! a part of a step is free, and splitting it there costs some bytes of the manifest; where blocks themselves stand in
//! a circle, the cheapest of them is left out, with all its neighbours in circles of the same shape. A block that is
//! left out is written to the snapshot as a whole and merged after all that have an order, so nothing waits for it.
//!
//! For copies alone a block reads one other, so circles of blocks have no block in common, and leaving out one of each is
//! the least that can be done. With differences, where a block reads two, it is a good guess.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

/// A run of blocks that are made of old blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// Where it comes from; parts of one step are put together again, steps never.
    pub(super) origin: u32,
    /// First block that it writes.
    pub(super) target: u32,
    /// First block that it reads.
    pub(super) source: u32,
    /// Blocks that it writes.
    pub(super) blocks: u32,
    /// Whether it adds a difference to what it reads.
    pub(super) xor: bool,
    /// Bytes of the first block that it leaves out; then it reads one block more than it writes.
    pub(super) offset: u16,
    /// Bytes of the snapshot that leaving out one block costs.
    pub(super) cost: u32,
}

impl Step {
    /// Blocks that it reads.
    pub(super) fn reads(&self) -> u32 {
        self.blocks + u32::from(self.offset > 0)
    }

    /// Whether it writes blocks that it reads as others.
    fn overlaps(&self) -> bool {
        if self.source == self.target && self.offset == 0 {
            return false;
        }
        self.source < self.target + self.blocks && self.target < self.source + self.reads()
    }

    /// Blocks `from..to` of it, counted from its own first one.
    fn part(&self, from: u32, to: u32) -> Self {
        Self { target: self.target + from, source: self.source + from, blocks: to - from, ..*self }
    }
}

/// No segment, no reader.
const NONE: u32 = u32::MAX;
/// Steps that read what they write are taken in parts of this many blocks: to split one, all of it is looked at.
const LONGEST_OVERLAP: u32 = 1024;

/// Puts `steps`, whose targets do not overlap, in order. Blocks of them that are in none of the result are left out.
pub(super) fn order(steps: &[Step], new_blocks: u32) -> Vec<Step> {
    let mut graph = Graph::new(steps, new_blocks);
    let mut out: Vec<Step> = Vec::new();
    loop {
        if let Some(segment) = graph.free_segment() {
            let step = graph.segments[segment as usize].step;
            graph.finish(segment, step.target, step.target + step.blocks);
            emit(&mut out, step);
        } else if let Some(block) = graph.free_block() {
            let (segment, start, end) = graph.free_run(block);
            let step = graph.segments[segment as usize].step;
            graph.finish(segment, start, end);
            emit(&mut out, step.part(start - step.target, end - step.target));
        } else if let Some((segment, start, end)) = graph.circle() {
            graph.finish(segment, start, end);
        } else {
            return out;
        }
    }
}

/// Adds a step, to the last one if they are parts of the same.
fn emit(out: &mut Vec<Step>, step: Step) {
    if let Some(last) = out.last_mut().filter(|last| last.origin == step.origin) {
        let whole = Step { blocks: last.blocks + step.blocks, ..*last };
        let follows = last.target + last.blocks == step.target && last.source + last.blocks == step.source;
        if follows && !whole.overlaps() {
            *last = whole;
            return;
        }
    }
    out.push(step);
}

/// What is left of a step.
struct Segment {
    step: Step,
    /// How often other segments read its blocks.
    waits: u32,
}

struct Graph {
    segments: Vec<Segment>,
    /// The segment that writes a block and has not done so.
    segment_of: Vec<u32>,
    /// Where the readers of a block start in `readers`.
    first_reader: Vec<u32>,
    /// Blocks whose making reads a block; itself is not among them.
    readers: Vec<u32>,
    /// How many of the first readers of a block are known to have gone.
    skipped: Vec<u32>,
    /// How many of the readers of a block are left.
    waiting: Vec<u32>,
    /// Segments that nothing waited for when they were put here, by target.
    free_segments: BinaryHeap<Reverse<(u32, u32)>>,
    /// Blocks that have no readers left.
    free_blocks: BinaryHeap<Reverse<u32>>,
    /// A way from reader to reader, each of them left.
    path: Vec<u32>,
    /// Where a block stands on that way.
    on_path: HashMap<u32, usize>,
    /// No block before this one is left.
    cursor: usize,
}

impl Graph {
    fn new(steps: &[Step], new_blocks: u32) -> Self {
        let mut segments = Vec::with_capacity(steps.len());
        for step in steps {
            // A device that merges in its own direction must not find what it reads overwritten by the same step.
            let longest = match step.source.abs_diff(step.target) {
                _ if !step.overlaps() => step.blocks,
                _ if step.xor => LONGEST_OVERLAP,
                distance => distance,
            };
            let mut at = 0;
            while at < step.blocks {
                let end = step.blocks.min(at.saturating_add(longest));
                segments.push(Segment { step: step.part(at, end), waits: 0 });
                at = end;
            }
        }
        let mut segment_of = vec![NONE; new_blocks as usize];
        for (id, segment) in (0..).zip(&segments) {
            let (start, end) = (segment.step.target as usize, (segment.step.target + segment.step.blocks) as usize);
            segment_of[start..end].fill(id);
        }
        let mut graph = Self {
            segments,
            segment_of,
            first_reader: vec![0; new_blocks as usize + 1],
            readers: Vec::new(),
            skipped: vec![0; new_blocks as usize],
            waiting: vec![0; new_blocks as usize],
            free_segments: BinaryHeap::new(),
            free_blocks: BinaryHeap::new(),
            path: Vec::new(),
            on_path: HashMap::new(),
            cursor: 0,
        };
        for id in 0..graph.segments.len() {
            graph.each_read(id, |graph, _, read| graph.waiting[read as usize] += 1);
        }
        let mut sum = 0;
        for (first, waiting) in graph.first_reader.iter_mut().zip(&graph.waiting) {
            *first = sum;
            sum += waiting;
        }
        graph.first_reader[new_blocks as usize] = sum;
        graph.readers = vec![NONE; sum as usize];
        let mut next = graph.first_reader.clone();
        for id in 0..graph.segments.len() {
            graph.each_read(id, |graph, block, read| {
                let place = &mut next[read as usize];
                graph.readers[*place as usize] = block;
                *place += 1;
                let owner = graph.segment_of[read as usize];
                if owner as usize != id {
                    graph.segments[owner as usize].waits += 1;
                }
            });
        }
        for (id, segment) in (0..).zip(&graph.segments) {
            if segment.waits == 0 {
                graph.free_segments.push(Reverse((segment.step.target, id)));
            }
        }
        let free = |&block: &u32| graph.segment_of[block as usize] != NONE && graph.waiting[block as usize] == 0;
        graph.free_blocks = (0..new_blocks).filter(free).map(Reverse).collect();
        graph
    }

    /// Calls `found` with each block of a segment and what it reads of others' blocks that are left.
    fn each_read(&mut self, id: usize, mut found: impl FnMut(&mut Self, u32, u32)) {
        let step = self.segments[id].step;
        for at in 0..step.blocks {
            for read in reads(&step, at) {
                if read != step.target + at && self.owner(read) != NONE {
                    found(self, step.target + at, read);
                }
            }
        }
    }

    fn owner(&self, block: u32) -> u32 {
        self.segment_of.get(block as usize).copied().unwrap_or(NONE)
    }

    /// Readers of a block that are left.
    fn live_readers(&self, block: u32) -> impl Iterator<Item = u32> {
        let (start, end) = (self.first_reader[block as usize], self.first_reader[block as usize + 1]);
        let readers = &self.readers[start as usize..end as usize];
        readers.iter().copied().filter(|&reader| self.segment_of[reader as usize] != NONE)
    }

    /// One reader of a block that is left; does not look again at those that are not.
    fn first_live_reader(&mut self, block: u32) -> Option<u32> {
        let end = self.first_reader[block as usize + 1];
        let skipped = &mut self.skipped[block as usize];
        loop {
            let place = self.first_reader[block as usize] + *skipped;
            let reader = *self.readers[..end as usize].get(place as usize)?;
            if self.segment_of[reader as usize] != NONE {
                return Some(reader);
            }
            *skipped += 1;
        }
    }

    /// The first segment that nothing waits for.
    fn free_segment(&mut self) -> Option<u32> {
        while let Some(Reverse((target, id))) = self.free_segments.pop() {
            let segment = &self.segments[id as usize];
            if segment.step.target == target && segment.step.blocks > 0 && segment.waits == 0 {
                return Some(id);
            }
        }
        None
    }

    /// The first block that nothing waits for.
    fn free_block(&mut self) -> Option<u32> {
        while let Some(Reverse(block)) = self.free_blocks.pop() {
            if self.owner(block) != NONE {
                return Some(block);
            }
        }
        None
    }

    /// The run around `block`, which nothing waits for, that can be put out as one step.
    fn free_run(&self, block: u32) -> (u32, u32, u32) {
        let id = self.segment_of[block as usize];
        let step = self.segments[id as usize].step;
        let (first, end) = (step.target, step.target + step.blocks);
        let (mut low, mut high) = (block, block + 1);
        if step.overlaps() {
            // Devices go up if the target is before the source, else down; what they have done before no longer waits.
            let within = |next, low, high| self.live_readers(next).all(|reader| (low..high).contains(&reader));
            if step.target <= step.source {
                while high < end && within(high, low, high) {
                    high += 1;
                }
            } else {
                while low > first && within(low - 1, low, high) {
                    low -= 1;
                }
            }
        } else {
            while low > first && self.waiting[low as usize - 1] == 0 {
                low -= 1;
            }
            while high < end && self.waiting[high as usize] == 0 {
                high += 1;
            }
        }
        (id, low, high)
    }

    /// Takes blocks `start..end` out of a segment: they read nothing any more.
    fn finish(&mut self, id: u32, start: u32, end: u32) {
        let step = self.segments[id as usize].step;
        let waits: u32 = self.waiting[start as usize..end as usize].iter().sum();
        for block in start..end {
            for read in reads(&step, block - step.target) {
                let owner = self.owner(read);
                if read == block || owner == NONE {
                    continue;
                }
                self.waiting[read as usize] -= 1;
                if self.waiting[read as usize] == 0 {
                    self.free_blocks.push(Reverse(read));
                }
                if owner != id {
                    self.segments[owner as usize].waits -= 1;
                    self.wake(owner);
                }
            }
        }
        self.segment_of[start as usize..end as usize].fill(NONE);

        let parts = [step.part(0, start - step.target), step.part(end - step.target, step.blocks)];
        let [low, high] = parts;
        // The larger part keeps the number, so that a block changes its number few times.
        let (kept, moved) = if low.blocks >= high.blocks { (low, high) } else { (high, low) };
        let mut left = self.segments[id as usize].waits;
        self.segments[id as usize].step = kept;
        let moved_id = u32::try_from(self.segments.len()).expect("there are fewer segments than blocks");
        let mut moved_waits = 0;
        if moved.blocks > 0 {
            self.segment_of[moved.target as usize..(moved.target + moved.blocks) as usize].fill(moved_id);
            moved_waits = self.waits(&moved, moved_id);
            self.segments.push(Segment { step: moved, waits: moved_waits });
            self.wake(moved_id);
        }
        if step.overlaps() {
            // Its parts read one another now, which nothing had to wait for before.
            left = self.waits(&kept, id);
        } else {
            left -= waits + moved_waits;
        }
        self.segments[id as usize].waits = left;
        self.wake(id);
    }

    /// How often others read the blocks of a step.
    fn waits(&self, step: &Step, id: u32) -> u32 {
        let blocks = step.target..step.target + step.blocks;
        let foreign = |block| self.live_readers(block).filter(|&reader| self.segment_of[reader as usize] != id);
        let count: usize = blocks.map(|block| foreign(block).count()).sum();
        u32::try_from(count).expect("there are at most two readings for each block")
    }

    fn wake(&mut self, id: u32) {
        let segment = &self.segments[id as usize];
        if segment.waits == 0 && segment.step.blocks > 0 {
            self.free_segments.push(Reverse((segment.step.target, id)));
        }
    }

    /// The blocks to leave out of a circle; none if no block is left. To be called only if every block waits.
    fn circle(&mut self) -> Option<(u32, u32, u32)> {
        while let Some(block) = self.path.pop_if(|block| self.segment_of[*block as usize] == NONE) {
            self.on_path.remove(&block);
        }
        let mut at = match self.path.last() {
            Some(&block) => block,
            None => {
                while *self.segment_of.get(self.cursor)? == NONE {
                    self.cursor += 1;
                }
                let block = u32::try_from(self.cursor).expect("blocks have 32 bits");
                self.push(block);
                block
            }
        };
        let start = loop {
            at = self.first_live_reader(at).expect("every block that is left waits for one");
            if let Some(&start) = self.on_path.get(&at) {
                break start;
            }
            self.push(at);
        };

        let circle = &self.path[start..];
        let segment = |block: u32| &self.segments[self.segment_of[block as usize] as usize].step;
        let cheapest = |&block: &u32| {
            let step = segment(block);
            (step.cost, step.blocks, step.target, block)
        };
        let chosen = circle.iter().copied().min_by_key(cheapest).expect("a circle has blocks");
        // Neighbours that stand in a circle of the same shape go with it: else they would come one by one, and leave
        // the others in pieces.
        let mut owners: Vec<u32> = circle.iter().map(|&block| self.segment_of[block as usize]).collect();
        owners.sort_unstable();
        let simple = owners.windows(2).all(|pair| pair[0] != pair[1]);
        let room = |of: fn(u32, &Step) -> u32| circle.iter().map(|&block| of(block, segment(block))).min();
        let below = room(|block, step| block - step.target).filter(|_| simple).unwrap_or(0);
        let above = room(|block, step| step.target + step.blocks - block).filter(|_| simple).unwrap_or(1);
        let (low, high) = (chosen - below, chosen + above);
        let id = self.segment_of[chosen as usize];

        // What comes after a block on the way is there for its sake.
        let cut = (low..high).filter_map(|block| self.on_path.get(&block)).min().copied();
        for block in self.path.drain(cut.unwrap_or(start)..) {
            self.on_path.remove(&block);
        }
        Some((id, low, high))
    }

    fn push(&mut self, block: u32) {
        self.on_path.insert(block, self.path.len());
        self.path.push(block);
    }
}

/// What block `at` of a step reads.
fn reads(step: &Step, at: u32) -> impl Iterator<Item = u32> + use<> {
    let first = step.source + at;
    first..=first + u32::from(step.offset > 0)
}
