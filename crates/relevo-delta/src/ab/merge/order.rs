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

mod parts;
mod waits;

use std::{cmp::Reverse, collections::BinaryHeap};

use self::{
    parts::Parts,
    waits::{NONE, Path, Waits},
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

/// Steps that read what they write are taken in parts of this many blocks: to split one, all of it is looked at.
const LONGEST_OVERLAP: u32 = 1024;
/// Bytes of the snapshot that a line of the manifest is worth: about 20 bytes that everybody downloads, at 100 for one.
const LINE: u64 = 2000;
/// The same for a part of a step, of which more will come: what reads its neighbours gets into pieces as well. On AOSP's
/// sample a factor of 4 gave 267 copies of 3,343 blocks, 8 gave 225 of 3,325, 16 gave 112 of 3,232; AOSP has 100 of 3,256.
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

/// What is left of a step.
struct Segment {
    step: Step,
    /// How often other segments read its blocks.
    waits: u32,
    /// No block before this one is read by other segments.
    cursor: u32,
    /// Its blocks when the cost of its parts was last looked at.
    weighed: u32,
    /// Whether it is in the circle that [`Graph::thinnest`] found.
    in_circle: bool,
}

impl Segment {
    fn new(step: Step) -> Self {
        Self { step, waits: 0, cursor: step.target, weighed: step.blocks, in_circle: false }
    }
}

/// Blocks of one step.
#[derive(Debug, Clone, Copy)]
struct Run {
    start: u32,
    end: u32,
    /// What taking this way is about to cost.
    cost: u64,
}

/// Steps that are left.
struct Graph {
    segments: Vec<Segment>,
    waits: Waits,
    /// Segments that nothing waited for when they were put here, by target.
    free_segments: BinaryHeap<Reverse<(u32, u32)>>,
    /// Blocks that nothing waits for any more, not yet among the parts.
    fresh: Vec<u32>,
    /// Parts of segments that nothing waits for.
    parts: Parts,
    /// Segments, each read by the next.
    path: Path,
    /// Blocks, each read by the next.
    block_path: Path,
    /// What [`Graph::thinnest`] found, for as long as no segment of that circle changes.
    thinnest: Option<Run>,
    /// The segments of that circle.
    members: Vec<u32>,
    /// No block before this one is left.
    cursor: u32,
    out: Vec<Step>,
}

impl Graph {
    fn new(steps: Vec<Step>, new_blocks: u32) -> Self {
        let waits = Waits::new(&steps, new_blocks);
        let mut graph = Self {
            path: Path::new(steps.len()),
            block_path: Path::new(0),
            segments: steps.into_iter().map(Segment::new).collect(),
            fresh: waits.free(),
            parts: Parts::default(),
            thinnest: None,
            members: Vec::new(),
            waits,
            free_segments: BinaryHeap::new(),
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
            self.gather();
            match self.cheapest_part() {
                Some(first) if first.cost <= thinnest.cost => {
                    self.put(first.start, first.end);
                    let enough = (first.end - first.start).div_ceil(2);
                    while let Some(part) = self.cheapest_part()
                        && part.cost <= thinnest.cost
                        && part.end - part.start >= enough
                    {
                        self.put(part.start, part.end);
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

    /// Puts blocks that have become free among the parts.
    fn gather(&mut self) {
        for block in std::mem::take(&mut self.fresh) {
            let id = self.waits.step_of[block as usize];
            if id == NONE {
                continue;
            }
            let step = self.segments[id as usize].step;
            if step.overlaps() {
                self.weigh(block, block + 1);
            } else {
                let (start, end) = self.parts.join(block, &step);
                self.weigh(start, end);
            }
        }
    }

    /// Finds out what putting out a part costs, from now on.
    fn weigh(&mut self, start: u32, end: u32) {
        let whole = self.segments[self.waits.step_of[start as usize] as usize].step;
        // The run in a step that overlaps itself is looked for when its turn comes: it depends on what was put out.
        let (low, high) = if whole.overlaps() { self.free_run(start) } else { (start, end) };
        // As if the rest of the step went in parts of the same length.
        self.parts.offer(Run { start, end, cost: PART * u64::from(whole.blocks.div_ceil(high - low)) });
    }

    /// The part that costs least of all that nothing waits for.
    fn cheapest_part(&mut self) -> Option<Run> {
        self.gather();
        while let Some(part) = self.parts.cheapest() {
            let id = self.waits.step_of[part.start as usize];
            if id == NONE {
                self.parts.pass_over();
                continue;
            }
            let whole = self.segments[id as usize].step;
            if !whole.overlaps() {
                if self.parts.is_run(part.start, part.end) {
                    let cost = PART * u64::from(whole.blocks.div_ceil(part.end - part.start));
                    return Some(Run { cost, ..part });
                }
                self.parts.pass_over();
                continue;
            }
            let (start, end) = self.free_run(part.start);
            let cost = PART * u64::from(whole.blocks.div_ceil(end - start));
            if cost <= part.cost {
                return Some(Run { start, end, cost });
            }
            self.parts.pass_over();
            self.parts.offer(Run { cost, ..part });
        }
        None
    }

    /// Of a circle of segments: the blocks of one that read the next, where that costs least. None if nothing is left.
    fn thinnest(&mut self) -> Option<Run> {
        while *self.waits.step_of.get(self.cursor as usize)? == NONE {
            self.cursor += 1;
        }
        if self.thinnest.is_some() {
            return self.thinnest;
        }
        let start = loop {
            // What was put out or left out since may have cut the way off.
            while self.path.way.last().is_some_and(|&id| self.segments[id as usize].step.blocks == 0) {
                self.path.way.pop();
            }
            let next = match self.path.way.last() {
                Some(&last) => self.foreign_reader(last),
                None => self.waits.step_of[self.cursor as usize],
            };
            let Some(start) = self.path.go(next) else { continue };
            match self.path.way[start..].windows(2).position(|pair| !self.reads(pair[1], pair[0])) {
                Some(cut) => self.path.way.truncate(start + cut + 1),
                None => break start,
            }
        };
        for id in std::mem::take(&mut self.members) {
            self.segments[id as usize].in_circle = false;
        }
        self.members.extend(&self.path.way[start..]);
        self.members.iter().for_each(|&id| self.segments[id as usize].in_circle = true);
        let circle = &self.members;
        let readers = circle.iter().skip(1).chain(circle.first());
        let edges = circle.iter().zip(readers).map(|(&read, &reader)| {
            let (read, reader) = (&self.segments[read as usize].step, &self.segments[reader as usize].step);
            // What starts within a block reads the next one too.
            let before = u32::from(reader.offset > 0);
            let start = reader.target + read.target.saturating_sub(reader.source + before);
            let end = reader.end().min(reader.target + read.end().saturating_sub(reader.source));
            let lines = u64::from(start > reader.target) + u64::from(end < reader.end());
            let cost = u64::from(end - start) * u64::from(reader.cost) + lines * LINE;
            Run { start, end, cost }
        });
        self.thinnest = edges.min_by_key(|edge| (edge.cost, edge.start));
        self.thinnest
    }

    /// Whether a segment reads blocks of another one.
    fn reads(&self, reader: u32, read: u32) -> bool {
        let (reader, read) = (&self.segments[reader as usize].step, &self.segments[read as usize].step);
        reader.blocks > 0 && reader.source < read.end() && read.target < reader.source + reader.reads()
    }

    /// A segment that reads another one.
    fn foreign_reader(&mut self, id: u32) -> u32 {
        let end = self.segments[id as usize].step.end();
        let mut at = self.segments[id as usize].cursor.max(self.segments[id as usize].step.target);
        while at < end {
            self.waits.skip_gone(at);
            let foreign = |reader: u32| self.waits.step_of(reader).filter(|&reader| reader != id);
            if let Some(reader) = self.waits.readers(at).find_map(foreign) {
                self.segments[id as usize].cursor = at;
                return reader;
            }
            at += 1;
        }
        unreachable!("every segment that is left waits for another")
    }

    /// Of a circle of blocks: what to leave out. To be called only if every block that is left waits for one.
    fn circle(&mut self) -> Run {
        let mut path = std::mem::replace(&mut self.block_path, Path::new(0));
        let start = loop {
            while path.way.last().is_some_and(|&block| !self.waits.is_left(block)) {
                path.way.pop();
            }
            let next = match path.way.last() {
                Some(&last) => {
                    self.waits.skip_gone(last);
                    self.waits.readers(last).next().expect("every block that is left waits for one")
                }
                None => self.cursor,
            };
            let Some(start) = path.go(next) else { continue };
            match path.way[start..].iter().position(|&block| !self.waits.is_left(block)) {
                Some(gone) => path.way.truncate(start + gone),
                None => break start,
            }
        };
        let circle = &path.way[start..];
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
        let cost = u64::from(end - start) * u64::from(step(chosen).cost) + lines;
        self.block_path = path;
        Run { start, end, cost }
    }

    /// The run of a step that overlaps itself which can be put out from `block` on, which nothing waits for.
    fn free_run(&self, block: u32) -> (u32, u32) {
        let step = self.segments[self.waits.step_of[block as usize] as usize].step;
        let (mut low, mut high) = (block, block + 1);
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
                    self.fresh.push(read);
                }
                if owner != id {
                    self.segments[owner as usize].waits -= 1;
                    self.wake(owner);
                }
            }
        }
        self.waits.step_of[start as usize..end as usize].fill(NONE);
        if self.segments[id as usize].in_circle {
            self.thinnest = None;
        }
        let rest = self.parts.cut(start, end);

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
            self.segments.push(Segment { waits: moved_waits, ..Segment::new(moved) });
            self.wake(moved_id);
        }
        if step.overlaps() {
            // Its parts read one another now, which nothing had to wait for before.
            self.segments[id as usize].waits = self.waits_of(&kept, id);
            self.segments[id as usize].cursor = kept.target;
            // A part that no longer overlaps itself has its runs among the others.
            for part in [kept, moved].into_iter().filter(|part| !part.overlaps()) {
                let blocks = part.target..part.end();
                self.fresh.extend(blocks.filter(|&block| self.waits.count[block as usize] == 0));
            }
        } else {
            self.segments[id as usize].waits -= waited + moved_waits;
            rest.into_iter().flatten().for_each(|(start, end)| self.weigh(start, end));
            // In a smaller step parts are cheaper. That the step was twice as large since the last time keeps this short.
            let segment = &mut self.segments[id as usize];
            if kept.blocks <= segment.weighed / 2 {
                segment.weighed = kept.blocks;
                self.weigh_all(&kept);
            }
            self.weigh_all(&moved);
        }
        self.wake(id);
    }

    /// Finds out again what the parts of a step cost.
    fn weigh_all(&mut self, step: &Step) {
        for (start, end) in self.parts.within(step.target, step.end()) {
            self.weigh(start, end);
        }
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
