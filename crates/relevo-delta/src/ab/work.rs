//! Makes pieces on all cores, within the memory that is allowed.

use std::sync::{
    Condvar, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use relevo_types::ByteLen;

use super::{
    Operations,
    blobs::Spill,
    piece::{Made, Piece},
    plan::Plan,
    side::Pair,
};
use crate::{DeltaError, Progress, progress::advance};

/// How much a piece may hold, and how much all of them together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub threads: usize,
    /// Most bytes of a piece, unless it is one file that has to be taken as a whole.
    pub piece: u64,
    /// Most old bytes that a piece is matched against.
    pub old: u64,
    /// Most bytes of a program that is made as one.
    pub whole: u64,
    /// Bytes for all pieces that are being made.
    memory: u64,
    /// Most bytes that one piece alone may be thought to take, if that matters: it takes less than the sum of all that is
    /// thought of, for not all of it is there at once.
    alone: Option<u64>,
}

/// Bytes that an index of old bytes takes with them: four for each, and a table.
const fn matched(old: u64) -> u64 {
    let table = if old > 1 << 24 { 1 << 24 } else { old.next_power_of_two() };
    old * 5 + table * 4
}

/// Bytes of the streams of a patch, and what brotli takes for them.
fn packed(new: u64) -> u64 {
    new * 3 + new.clamp(1 << 20, 8 << 20) * 12
}

impl Limits {
    /// Plans for `memory` and `threads` threads.
    pub(super) fn new(memory: ByteLen, threads: usize) -> Self {
        const MIB: u64 = 1 << 20;
        let (piece, old, whole) = match memory.get() / MIB {
            1024.. => (16 * MIB, 48 * MIB, 64 * MIB),
            512.. => (8 * MIB, 24 * MIB, 24 * MIB),
            _ => (4 * MIB, 8 * MIB, 8 * MIB),
        };
        // With much memory the large ones are worth what they take.
        let alone = Some(memory.get() / 4 * 5).filter(|_| memory.get() / MIB < 1024);
        // Digests and anchors are there beside the pieces.
        let memory = memory.get() - memory.get() / 4;
        Self { threads, piece, old, whole, memory, alone }
    }

    /// Bytes of memory, about, that a patch of `new` bytes takes.
    pub(super) fn of_bytes(&self, new: u64) -> u64 {
        matched((new * 4).clamp(1 << 20, self.old)) + packed(new)
    }

    /// The same between inflated streams, for a file of `whole` bytes, `new` of which are to be made: puffs are some larger
    /// than what they come from.
    pub(super) fn of_inflated(&self, whole: u64, new: u64) -> u64 {
        whole * 2 + matched(whole * 2) + packed(new * 2)
    }

    /// The same between programs.
    pub(super) fn of_program(&self, whole: u64) -> u64 {
        whole * 4 + matched(whole) + packed(whole / 4)
    }

    /// The same between decompressed clusters, for a file of `raw` bytes in `whole` bytes of blocks.
    pub(super) fn of_decompressed(&self, whole: u64, raw: u64) -> u64 {
        whole * 2 + raw * 3 + matched(raw * 2) + packed(raw)
    }

    /// Whether a file of so many bytes may be taken as a whole, inflated.
    pub(super) fn fits_inflated(&self, whole: u64, new: u64) -> bool {
        self.alone.is_none_or(|most| self.of_inflated(whole, new) <= most)
    }

    /// Whether a file may be taken as a whole, decompressed.
    pub(super) fn fits_decompressed(&self, whole: u64, raw: u64) -> bool {
        self.alone.is_none_or(|most| self.of_decompressed(whole, raw) <= most)
    }
}

/// Lets jobs begin while they fit into the memory; one alone may always begin.
struct Gate {
    used: Mutex<u64>,
    freed: Condvar,
    limit: u64,
}

impl Gate {
    fn enter(&self, bytes: u64) -> Inside<'_> {
        let used = self.used.lock().expect("nothing panics while it holds this lock");
        let full = |used: &mut u64| *used > 0 && *used + bytes > self.limit;
        *self.freed.wait_while(used, full).expect("nothing panics while it holds this lock") += bytes;
        Inside { gate: self, bytes }
    }
}

/// Memory in use; given back when it is dropped, so that a job that panics leaves no other waiting.
struct Inside<'a> {
    gate: &'a Gate,
    bytes: u64,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        *self.gate.used.lock().expect("nothing panics while it holds this lock") -= self.bytes;
        self.gate.freed.notify_all();
    }
}

/// Makes the pieces of all plans; the answer has those of each plan in their order.
pub(super) fn make_all(
    pairs: &[Pair<'_>],
    plans: &[Plan],
    allowed: &Operations,
    limits: &Limits,
    spill: &Spill,
    progress: &dyn Progress,
) -> Result<Vec<Vec<Made>>, DeltaError> {
    let mut jobs: Vec<(usize, usize, &Piece)> = Vec::new();
    for (partition, plan) in plans.iter().enumerate() {
        jobs.extend(plan.pieces.iter().enumerate().map(|(index, piece)| (partition, index, piece)));
    }
    // The largest first: what is begun last decides how long all take.
    jobs.sort_by_key(|(_, _, piece)| std::cmp::Reverse(piece.weight()));
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let gate = Gate { used: Mutex::new(0), freed: Condvar::new(), limit: limits.memory };
    let work = || {
        let mut made = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let Some(&(partition, index, piece)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let inside = gate.enter(piece.memory(limits));
            let one = piece.make(&pairs[partition], allowed, limits, spill);
            drop(inside);
            let one = one.and_then(|one| advance(progress, piece.len()).map(|()| one));
            if one.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            made.push((partition, index, one));
        }
        made
    };
    let mut all: Vec<(usize, usize, Result<Made, DeltaError>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..limits.threads).map(|_| scope.spawn(work)).collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, Vec<_>>| match worker.join() {
            Ok(made) => made,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        workers.into_iter().flat_map(join).collect()
    });
    all.sort_by_key(|&(partition, index, _)| (partition, index));
    let mut results: Vec<Vec<Made>> = plans.iter().map(|plan| Vec::with_capacity(plan.pieces.len())).collect();
    for (partition, _, made) in all {
        results[partition].push(made?);
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_files_are_taken_as_a_whole_only_where_there_is_memory_for_them() {
        const MIB: u64 = 1 << 20;
        let fits = |memory: u32, len: u64| {
            let limits = Limits::new(ByteLen::mib(memory), 2);
            [limits.fits_inflated(len * MIB, len * MIB), limits.fits_decompressed(len * MIB, len * 2 * MIB)]
        };

        assert_eq!(fits(256, 2), [true, true]);
        assert_eq!(fits(256, 14), [false, false]);
        assert_eq!(fits(512, 14), [true, true]);
        assert_eq!(fits(512, 60), [false, false]);
        assert_eq!(fits(1024, 96), [true, true]);
    }
}
