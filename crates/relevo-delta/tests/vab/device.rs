//! A phone's side: `snapuserd` merging in place.

use std::collections::BTreeSet;

use relevo_format::payload::{Extent, MergeKind, MergeOperation};

use crate::build::{BLOCK, Build};

/// In what order a phone goes through a step that does not overlap itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Up,
    Down,
}

/// Blocks of a step in the phone's order.
pub(crate) fn blocks(step: &MergeOperation, direction: Direction) -> Vec<u64> {
    let source = step.source.unwrap();
    let overlaps = source.start < step.target.end() && step.target.start < source.end();
    let up = if overlaps { step.target.start <= source.start } else { direction == Direction::Up };
    let range = step.target.start..step.target.end();
    if up { range.collect() } else { range.rev().collect() }
}

/// Whether a step moves anything.
pub(crate) fn moves(step: &MergeOperation) -> bool {
    step.kind != MergeKind::Copy || step.source != Some(step.target)
}

/// Merges in place as the manifest says: listed steps in their order, then what is stored.
///
/// Panics at what `VerifyMergeOps` refuses: a step that reads what was written before.
pub(crate) fn merge(build: &Build, merge: &[MergeOperation], xor: bool, direction: Direction) -> Vec<u8> {
    let mut content = build.old.clone();
    let longest = build.old.len().max(build.new.len());
    content.resize(longest, 0);
    let mut written = BTreeSet::new();
    let mut stays = BTreeSet::new();
    for step in merge {
        let source = step.source.unwrap();
        let is_xor = step.kind == MergeKind::Xor;
        assert_eq!(source.blocks, step.target.blocks + u64::from(step.source_offset > 0), "{step:?}");
        assert!(source.end() <= (build.old.len() / BLOCK) as u64, "{step:?} reads beyond the old image");
        assert!(inside_an_operation(build, step), "{step:?} is in no operation");
        if !moves(step) {
            stays.extend(step.target.start..step.target.end());
            continue;
        }
        if is_xor && !xor {
            continue;
        }
        for block in blocks(step, direction) {
            let from = (source.start + block - step.target.start) as usize * BLOCK + step.source_offset as usize;
            let to = block as usize * BLOCK;
            for read in from / BLOCK..(from + BLOCK).div_ceil(BLOCK) {
                assert!(!written.contains(&(read as u64)), "block {block} of {step:?} reads {read}, which was written");
            }
            let mut bytes = content[from..from + BLOCK].to_vec();
            if is_xor {
                // What the phone stored while it installed.
                let stored = build.old[from..from + BLOCK].iter().zip(&build.new[to..]).map(|(old, new)| old ^ new);
                bytes.iter_mut().zip(stored).for_each(|(byte, stored)| *byte ^= stored);
            }
            content[to..to + BLOCK].copy_from_slice(&bytes);
            assert!(written.insert(block), "block {block} is written twice");
        }
    }
    content.truncate(build.new.len());
    for block in 0..(build.new.len() / BLOCK) as u64 {
        if !written.contains(&block) && !stays.contains(&block) {
            let at = block as usize * BLOCK;
            content[at..at + BLOCK].copy_from_slice(&build.new[at..at + BLOCK]);
        }
    }
    content
}

fn inside_an_operation(build: &Build, step: &MergeOperation) -> bool {
    let inside = |extent: &Extent| extent.start <= step.target.start && step.target.end() <= extent.end();
    build.partition.operations.iter().any(|operation| {
        let copies = operation.kind == relevo_format::payload::OperationKind::SourceCopy;
        copies == (step.kind == MergeKind::Copy) && operation.target.iter().any(inside)
    })
}
