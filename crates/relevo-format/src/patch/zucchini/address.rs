//! Where sections are in a file, and where in memory.

use super::MAX_OFFSET;

/// A run of bytes that is as long in memory as in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) offset: u32,
    pub(super) address: u32,
    pub(super) len: u32,
}

impl Run {
    // Sums fit: `Addresses::new` refuses longer ones.
    fn offset_end(self) -> u32 {
        self.offset + self.len
    }

    fn address_end(self) -> u32 {
        self.address + self.len
    }

    fn shift(self) -> u32 {
        self.offset.wrapping_sub(self.address)
    }
}

/// Offsets to addresses and back.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    by_offset: Vec<Run>,
    by_address: Vec<Run>,
}

impl Addresses {
    /// None if two runs want the same bytes or the same memory differently, as AOSP's reader has it.
    pub(super) fn new(mut runs: Vec<Run>) -> Option<Self> {
        let fits = |start: u32, len: u32| start < MAX_OFFSET && len <= MAX_OFFSET - start;
        if !runs.iter().all(|run| fits(run.offset, run.len) && fits(run.address, run.len)) {
            return None;
        }
        runs.retain(|run| run.len > 0);
        runs.sort_unstable_by_key(|run| (run.address, run.len));
        let mut merged: Vec<Run> = Vec::with_capacity(runs.len());
        for run in runs {
            let Some(last) = merged.last_mut() else {
                merged.push(run);
                continue;
            };
            if last.address_end() < run.address {
                merged.push(run);
            } else if run.offset >= last.offset && run.shift() == last.shift() {
                last.len = last.len.max(run.address_end() - last.address);
            } else if last.address_end() == run.address {
                merged.push(run);
            } else {
                return None;
            }
        }
        let by_address = merged.clone();
        merged.sort_unstable_by_key(|run| run.offset);
        if merged.windows(2).any(|pair| pair[0].offset_end() > pair[1].offset) {
            return None;
        }
        // Both ends have to fit at once: AOSP's reader puts addresses without bytes behind the end.
        let offsets_end = merged.last().map_or(0, |run| run.offset_end());
        let addresses_end = by_address.last().map_or(0, |run| run.address_end());
        fits(offsets_end, addresses_end).then_some(Self { by_offset: merged, by_address })
    }

    /// The address of an offset.
    pub(super) fn address(&self, offset: u32) -> Option<u32> {
        let index = self.by_offset.partition_point(|run| run.offset <= offset);
        let run = self.by_offset.get(index.checked_sub(1)?)?;
        (offset < run.offset_end()).then(|| run.address + (offset - run.offset))
    }

    /// The offset of an address.
    pub(super) fn offset(&self, address: u32) -> Option<u32> {
        let index = self.by_address.partition_point(|run| run.address <= address);
        let run = self.by_address.get(index.checked_sub(1)?)?;
        (address < run.address_end()).then(|| run.offset + (address - run.address))
    }
}
