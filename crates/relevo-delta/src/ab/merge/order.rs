//! An order of merging in which nothing is overwritten that a later step still reads.
//!
//! A step that reads block `b` has to come before the step that writes `b`. Whole steps are put out for as long as there
//! are any that nothing waits for. Where steps wait for one another, there are three ways on, and what seems cheapest is
//! taken. A line of the manifest counts as [`LINE`] bytes of the snapshot:
//!
//! - Parts of steps that nothing waits for are put out. Each part is a line; if they are short, there will be many.
//! - In a circle of steps, the blocks that one reads of the next are left out.
//! - In a circle of single blocks, one is left out, with its neighbours in circles of the same shape.
//!
//! A block that is left out is written to the snapshot as a whole and merged after all that have an order, so nothing
//! waits for it.

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

    /// The block behind its last one.
    fn end(&self) -> u32 {
        self.target + self.blocks
    }

    /// Whether it writes blocks that it reads as others.
    fn overlaps(&self) -> bool {
        if self.source == self.target && self.offset == 0 {
            return false;
        }
        self.source < self.end() && self.target < self.source + self.reads()
    }

    /// Its part that writes blocks `start..end`.
    fn part(&self, start: u32, end: u32) -> Self {
        Self { target: start, source: self.source + (start - self.target), blocks: end - start, ..*self }
    }

    /// What is read for one of its blocks, other than that block itself.
    fn read_for(&self, block: u32) -> impl Iterator<Item = u32> + use<> {
        let first = self.source + (block - self.target);
        (first..=first + u32::from(self.offset > 0)).filter(move |&read| read != block)
    }
}

/// No segment, no reader.
const NONE: u32 = u32::MAX;
/// Steps that read what they write are taken in parts of this many blocks: to split one, all of it is looked at.
const LONGEST_OVERLAP: u32 = 1024;
/// How often each block may be looked at in search of the longest part, on average. Beyond that, any part will do.
const PATIENCE: usize = 64;
/// Bytes of the snapshot that a line of the manifest is worth: about 20 bytes that everybody downloads, at 100 for one.
const LINE: u64 = 2000;
/// The same for a part of a step, of which more will come: what reads its neighbours gets into pieces as well. On AOSP's
/// sample a factor of 4 gave 337 copies of 3,345 blocks, 8 gave 214 of 3,305, 16 gave 117 of 3,238; AOSP has 100 of 3,256.
const PART: u64 = 8 * LINE;

/// Puts `steps`, whose targets do not overlap, in order. Blocks of them that are in none of the result are left out.
pub(super) fn order(steps: &[Step], new_blocks: u32) -> Vec<Step> {
    Graph::new(cut(steps), new_blocks).order()
}

/// Cuts what overlaps itself.
fn cut(steps: &[Step]) -> Vec<Step> {
    let mut parts = Vec::with_capacity(steps.len());
    for step in steps {
        let longest = match step.source.abs_diff(step.target) {
            _ if !step.overlaps() => step.blocks,
            _ if step.xor => LONGEST_OVERLAP,
            // Phones go through copies in either direction; neither may meet what the same step has overwritten.
            distance => distance,
        };
        let mut start = step.target;
        while start < step.end() {
            let end = step.end().min(start.saturating_add(longest));
            parts.push(step.part(start, end));
            start = end;
        }
    }
    parts
}

/// Which blocks wait for which.
struct Waits {
    /// The step that writes a block and is not done with it.
    step_of: Vec<u32>,
    /// Where the readers of a block start in `readers`.
    first_reader: Vec<u32>,
    /// Blocks whose making reads a block; itself is not among them.
    readers: Vec<u32>,
    /// How many of the readers of a block are left.
    count: Vec<u32>,
}

impl Waits {
    fn new(steps: &[Step], new_blocks: u32) -> Self {
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
        Self { step_of, first_reader, readers, count }
    }

    fn step_of(&self, block: u32) -> Option<u32> {
        self.step_of.get(block as usize).copied().filter(|&id| id != NONE)
    }

    fn is_left(&self, block: u32) -> bool {
        self.step_of(block).is_some()
    }

    /// Readers of a block that are left.
    fn readers(&self, block: u32) -> impl Iterator<Item = u32> {
        let (start, end) = (self.first_reader[block as usize], self.first_reader[block as usize + 1]);
        let readers = self.readers[start as usize..end as usize].iter().copied();
        readers.filter(|&reader| self.is_left(reader))
    }

    /// Blocks that are left and wait for nothing.
    fn free(&self) -> Vec<u32> {
        let blocks = (0..).zip(&self.count);
        blocks.filter(|&(block, &count)| count == 0 && self.is_left(block)).map(|(block, _)| block).collect()
    }
}

/// What is left of a step.
struct Segment {
    step: Step,
    /// How often other segments read its blocks.
    waits: u32,
    /// No block before this one is read by other segments.
    cursor: u32,
}

/// Blocks of one step.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// One of them, which nothing waits for if the run is to be put out.
    block: u32,
    start: u32,
    end: u32,
    /// What taking this way is about to cost.
    cost: u64,
}

impl Run {
    fn len(&self) -> u32 {
        self.end - self.start
    }
}

/// Steps that are left.
struct Graph {
    segments: Vec<Segment>,
    waits: Waits,
    /// Segments that nothing waited for when they were put here, by target.
    free_segments: BinaryHeap<Reverse<(u32, u32)>>,
    /// Blocks that nothing waits for; some have been put out.
    free: Vec<u32>,
    /// Blocks that may still be looked at in search of the longest part.
    patience: usize,
    /// How many of the first readers of a block are known to have gone.
    skipped: Vec<u32>,
    /// No block before this one is left.
    cursor: u32,
    out: Vec<Step>,
}

impl Graph {
    fn new(steps: Vec<Step>, new_blocks: u32) -> Self {
        let waits = Waits::new(&steps, new_blocks);
        let mut graph = Self {
            segments: steps.into_iter().map(|step| Segment { step, waits: 0, cursor: step.target }).collect(),
            free: waits.free(),
            patience: PATIENCE * new_blocks as usize,
            waits,
            free_segments: BinaryHeap::new(),
            skipped: vec![0; new_blocks as usize],
            cursor: 0,
            out: Vec::new(),
        };
        for id in 0..u32::try_from(graph.segments.len()).expect("there are fewer steps than blocks") {
            graph.segments[id as usize].waits = graph.waits_of(&graph.segments[id as usize].step, id);
            graph.wake(id);
        }
        graph
    }

    fn order(mut self) -> Vec<Step> {
        loop {
            while let Some(step) = self.free_segment() {
                self.put(step.target, step.end());
            }
            let Some(thinnest) = self.thinnest() else { return self.out };
            let parts = self.free_parts();
            match parts.iter().map(|part| part.cost).min() {
                Some(cost) if cost <= thinnest.cost => {
                    for part in parts {
                        // What was put out before may have made it longer, or part of a longer one.
                        if self.waits.is_left(part.block) {
                            let (start, end) = self.free_run(part.block);
                            self.put(start, end);
                        }
                    }
                }
                Some(_) => self.take(thinnest.start, thinnest.end),
                None => {
                    let circle = self.circle();
                    let cheaper = if circle.cost <= thinnest.cost { circle } else { thinnest };
                    self.take(cheaper.start, cheaper.end);
                }
            }
        }
    }

    /// The first segment that nothing waits for.
    fn free_segment(&mut self) -> Option<Step> {
        while let Some(Reverse((target, id))) = self.free_segments.pop() {
            let segment = &self.segments[id as usize];
            if segment.step.target == target && segment.step.blocks > 0 && segment.waits == 0 {
                return Some(segment.step);
            }
        }
        None
    }

    /// The longest parts that nothing waits for.
    fn free_parts(&mut self) -> Vec<Run> {
        self.free.retain(|&block| self.waits.step_of[block as usize] != NONE);
        self.free.sort_unstable();
        let mut runs: Vec<Run> = Vec::new();
        for &block in &self.free {
            if runs.last().is_none_or(|run| run.end <= block) {
                let (start, end) = self.free_run(block);
                // As if the rest of the step went in parts of the same length.
                let whole = self.segments[self.waits.step_of[block as usize] as usize].step.blocks;
                runs.push(Run { block, start, end, cost: PART * u64::from(whole.div_ceil(end - start)) });
            }
        }
        let longest = runs.iter().map(Run::len).max().unwrap_or(0);
        let seen = self.free.len() + runs.len();
        let enough = if seen > self.patience { 1 } else { longest.div_ceil(2) };
        self.patience = self.patience.saturating_sub(seen);
        runs.retain(|run| run.len() >= enough);
        runs
    }

    /// Of a circle of segments: the blocks of one that read the next, where that costs least. None if nothing is left.
    fn thinnest(&mut self) -> Option<Run> {
        while *self.waits.step_of.get(self.cursor as usize)? == NONE {
            self.cursor += 1;
        }
        let mut at = self.waits.step_of[self.cursor as usize];
        let mut path: Vec<u32> = Vec::new();
        let mut on_path: HashMap<u32, usize> = HashMap::new();
        let start = loop {
            if let Some(&start) = on_path.get(&at) {
                break start;
            }
            on_path.insert(at, path.len());
            path.push(at);
            at = self.foreign_reader(at);
        };
        let circle = &path[start..];
        let readers = circle.iter().skip(1).chain(circle.first());
        let edges = circle.iter().zip(readers).map(|(&read, &reader)| {
            let (read, reader) = (&self.segments[read as usize].step, &self.segments[reader as usize].step);
            // What starts within a block reads the next one too.
            let before = u32::from(reader.offset > 0);
            let start = reader.target + read.target.saturating_sub(reader.source + before);
            let end = reader.end().min(reader.target + read.end().saturating_sub(reader.source));
            let lines = u64::from(start > reader.target) + u64::from(end < reader.end());
            let cost = u64::from(end - start) * u64::from(reader.cost) + lines * LINE;
            Run { block: start, start, end, cost }
        });
        edges.min_by_key(|edge| (edge.cost, edge.start))
    }

    /// A segment that reads another one.
    fn foreign_reader(&mut self, id: u32) -> u32 {
        let end = self.segments[id as usize].step.end();
        let mut at = self.segments[id as usize].cursor.max(self.segments[id as usize].step.target);
        while at < end {
            let foreign = self.waits.readers(at).map(|reader| self.waits.step_of[reader as usize]);
            if let Some(reader) = foreign.filter(|&reader| reader != id).min() {
                self.segments[id as usize].cursor = at;
                return reader;
            }
            at += 1;
        }
        unreachable!("every segment that is left waits for another")
    }

    /// One reader of a block that is left; does not look again at those that are not.
    fn reader(&mut self, block: u32) -> Option<u32> {
        let end = self.waits.first_reader[block as usize + 1];
        let skipped = &mut self.skipped[block as usize];
        loop {
            let place = self.waits.first_reader[block as usize] + *skipped;
            let reader = *self.waits.readers[..end as usize].get(place as usize)?;
            if self.waits.is_left(reader) {
                return Some(reader);
            }
            *skipped += 1;
        }
    }

    /// Of a circle of blocks: what to leave out. To be called only if every block that is left waits for one.
    fn circle(&mut self) -> Run {
        let mut at = self.cursor;
        let mut path: Vec<u32> = Vec::new();
        let mut on_path: HashMap<u32, usize> = HashMap::new();
        let start = loop {
            if let Some(&start) = on_path.get(&at) {
                break start;
            }
            on_path.insert(at, path.len());
            path.push(at);
            at = self.reader(at).expect("every block that is left waits for one");
        };
        let circle = &path[start..];
        let id = |block: u32| self.waits.step_of[block as usize];
        let step = |block: u32| &self.segments[id(block) as usize].step;
        let cheapest = |&block: &u32| (step(block).cost, step(block).blocks, step(block).target, block);
        let chosen = circle.iter().copied().min_by_key(cheapest).expect("a circle has blocks");
        // Neighbours that stand in a circle of the same shape go with it: else any of theirs might be chosen, and all
        // steps would be in pieces.
        let mut ids: Vec<u32> = circle.iter().map(|&block| id(block)).collect();
        ids.sort_unstable();
        let simple = ids.windows(2).all(|pair| pair[0] != pair[1]);
        let room = |of: fn(u32, &Step) -> u32| circle.iter().map(|&block| of(block, step(block))).min();
        let below = room(|block, step| block - step.target).filter(|_| simple).unwrap_or(0);
        let above = room(|block, step| step.end() - block).filter(|_| simple).unwrap_or(1);
        let (start, end) = (chosen - below, chosen + above);
        // As if the rest of the largest of them went in parts of the same length.
        let largest = circle.iter().map(|&block| step(block).blocks).max().unwrap_or(1);
        let lines = PART * u64::from(largest.div_ceil(end - start) - 1);
        Run { block: chosen, start, end, cost: u64::from(end - start) * u64::from(step(chosen).cost) + lines }
    }

    /// The run around `block`, which nothing waits for, that can be put out as one step.
    fn free_run(&self, block: u32) -> (u32, u32) {
        let step = self.segments[self.waits.step_of[block as usize] as usize].step;
        let (mut low, mut high) = (block, block + 1);
        if step.overlaps() {
            // Phones go up if the target is before the source, else down; what they have done before no longer waits.
            let within = |next, low, high| self.waits.readers(next).all(|reader| (low..high).contains(&reader));
            if step.target <= step.source {
                while high < step.end() && within(high, low, high) {
                    high += 1;
                }
            } else {
                while low > step.target && within(low - 1, low, high) {
                    low -= 1;
                }
            }
        } else {
            while low > step.target && self.waits.count[low as usize - 1] == 0 {
                low -= 1;
            }
            while high < step.end() && self.waits.count[high as usize] == 0 {
                high += 1;
            }
        }
        (low, high)
    }

    /// Puts out blocks `start..end` of a segment.
    fn put(&mut self, start: u32, end: u32) {
        let step = self.segments[self.waits.step_of[start as usize] as usize].step;
        emit(&mut self.out, step.part(start, end));
        self.take(start, end);
    }

    /// Takes blocks `start..end` out of a segment: they read nothing any more.
    fn take(&mut self, start: u32, end: u32) {
        let id = self.waits.step_of[start as usize];
        let step = self.segments[id as usize].step;
        let waited: u32 = self.waits.count[start as usize..end as usize].iter().sum();
        for block in start..end {
            for read in step.read_for(block) {
                let Some(owner) = self.waits.step_of(read) else { continue };
                self.waits.count[read as usize] -= 1;
                if self.waits.count[read as usize] == 0 {
                    self.free.push(read);
                }
                if owner != id {
                    self.segments[owner as usize].waits -= 1;
                    self.wake(owner);
                }
            }
        }
        self.waits.step_of[start as usize..end as usize].fill(NONE);

        let parts = [step.part(step.target, start), step.part(end, step.end())];
        let [low, high] = parts;
        // The larger part keeps the number, so that a block changes its number few times.
        let (kept, moved) = if low.blocks >= high.blocks { (low, high) } else { (high, low) };
        self.segments[id as usize].step = kept;
        let mut moved_waits = 0;
        if moved.blocks > 0 {
            let moved_id = u32::try_from(self.segments.len()).expect("there are fewer segments than blocks");
            self.waits.step_of[moved.target as usize..moved.end() as usize].fill(moved_id);
            moved_waits = self.waits_of(&moved, moved_id);
            self.segments.push(Segment { step: moved, waits: moved_waits, cursor: moved.target });
            self.wake(moved_id);
        }
        if step.overlaps() {
            // Its parts read one another now, which nothing had to wait for before.
            self.segments[id as usize].waits = self.waits_of(&kept, id);
            self.segments[id as usize].cursor = kept.target;
        } else {
            self.segments[id as usize].waits -= waited + moved_waits;
        }
        self.wake(id);
    }

    /// How often others read the blocks of a step.
    fn waits_of(&self, step: &Step, id: u32) -> u32 {
        let foreign = |block| self.waits.readers(block).filter(|&reader| self.waits.step_of[reader as usize] != id);
        let count: usize = (step.target..step.end()).map(|block| foreign(block).count()).sum();
        u32::try_from(count).expect("there are at most two readings for each block")
    }

    fn wake(&mut self, id: u32) {
        let segment = &self.segments[id as usize];
        if segment.waits == 0 && segment.step.blocks > 0 {
            self.free_segments.push(Reverse((segment.step.target, id)));
        }
    }
}

/// Adds a step, to the last one if they are parts of the same.
fn emit(out: &mut Vec<Step>, step: Step) {
    if let Some(last) = out.last_mut().filter(|last| last.origin == step.origin) {
        let whole = Step { blocks: last.blocks + step.blocks, ..*last };
        if last.end() == step.target && last.source + last.blocks == step.source && !whole.overlaps() {
            *last = whole;
            return;
        }
    }
    out.push(step);
}
