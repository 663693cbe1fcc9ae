//! A sampled index over the whole source, small enough to hold, that says which parts of it a piece is like.
//!
//! A position is an anchor if a hash of the 32 bytes before it says so, so the same content has the same anchors
//! wherever it stands. The index keeps only which 64 KiB window an anchor lies in; a piece looks its own anchors up and
//! takes the windows that were hit most.

use std::{collections::HashMap, ops::Range};

use crate::scan::ImageScan;

/// Bytes of a window: small enough that a hit drags in little else, large enough that an index entry is 4 bytes.
pub(crate) const WINDOW: u64 = 64 << 10;
/// An anchor found in more windows than this is common content (padding, headers) and says nothing.
const MAX_PLACES: usize = 8;
/// What one anchor found in one window alone counts; found in `n`, it counts `n` times less in each.
const VOTE: u32 = 8;
/// The least a sampler skips: one anchor in 32 positions finds changed code, and more cost time without finding more.
const MIN_BITS: u32 = 5;

/// Says which positions are anchors.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sampler {
    bits: u32,
}

impl Sampler {
    /// A sampler that finds about `wanted` anchors in `len` bytes, at most.
    pub(crate) fn for_len(len: u64, wanted: u64) -> Self {
        let mut bits = MIN_BITS;
        while len >> bits > wanted {
            bits += 1;
        }
        Self { bits }
    }

    /// The anchors of `bytes`: their keys, and their positions counted from `start` on.
    pub(crate) fn sample(self, bytes: &[u8], start: u64) -> Vec<(u32, u64)> {
        let mut found = Vec::with_capacity((bytes.len() >> self.bits) + (bytes.len() >> (self.bits + 2)));
        let mut hash = 0_u64;
        for (at, &byte) in (start..).zip(bytes) {
            // Two bits a byte: the hash forgets a byte after 32.
            hash = (hash << 2).wrapping_add(GEAR[byte as usize]);
            if hash >> (64 - self.bits) == 0 && at - start >= 31 {
                // The sampled bits are all 0, so the key is made of the others.
                let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
                let key = u32::from_be_bytes([mixed[0], mixed[1], mixed[2], mixed[3]]);
                found.push((key, at - 31));
            }
        }
        found
    }
}

/// Random numbers, one a byte (splitmix64 from a fixed start, so every build has the same).
static GEAR: [u64; 256] = gear();

const fn gear() -> [u64; 256] {
    let mut table = [0; 256];
    let mut state = 0x5265_6c65_766f_0001_u64;
    let mut index = 0;
    while index < 256 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[index] = mixed ^ (mixed >> 31);
        index += 1;
    }
    table
}

/// A run of bytes of a source image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub base: u32,
    pub start: u64,
    pub len: u64,
}

/// The anchors of all source images, by key.
#[derive(Debug, Default)]
pub(crate) struct Anchors {
    sampler: Sampler,
    /// Key and window, sorted, without repetitions.
    entries: Vec<(u32, u32)>,
    /// By image: the number of its first window, and its length.
    images: Vec<(u32, u64)>,
}

impl Anchors {
    /// Sorts what was sampled (key, image, position).
    pub(crate) fn new(sampler: Sampler, found: Vec<(u32, usize, u64)>, images: &[ImageScan]) -> Self {
        let mut first = 0_u32;
        let images: Vec<_> = images
            .iter()
            .map(|image| {
                let entry = (first, image.len);
                first += window_count(image.len);
                entry
            })
            .collect();
        let window = |image: usize, at: u64| images[image].0 + u32::try_from(at / WINDOW).unwrap_or(0);
        let mut entries: Vec<_> = found.into_iter().map(|(key, image, at)| (key, window(image, at))).collect();
        entries.sort_unstable();
        entries.dedup();
        entries.shrink_to_fit();
        Self { sampler, entries, images }
    }

    /// As [`Anchors::new`], of anchors whose windows are known; only [`Choice::ranked`] makes sense of them.
    pub(crate) fn of_windows(sampler: Sampler, mut entries: Vec<(u32, u32)>) -> Self {
        entries.sort_unstable();
        entries.dedup();
        entries.shrink_to_fit();
        Self { sampler, entries, images: Vec::new() }
    }

    /// The windows that hold an anchor with this key.
    fn places(&self, key: u32) -> &[(u32, u32)] {
        let start = self.entries.partition_point(|entry| entry.0 < key);
        let len = self.entries[start..].iter().take(MAX_PLACES + 1).take_while(|entry| entry.0 == key).count();
        &self.entries[start..start + len]
    }

    /// Starts choosing source windows for a piece.
    pub(crate) fn choose(&self) -> Choice<'_> {
        Choice { anchors: self, votes: HashMap::new() }
    }
}

/// Votes for source windows.
pub(crate) struct Choice<'a> {
    anchors: &'a Anchors,
    votes: HashMap<u32, u32>,
}

impl Choice<'_> {
    /// Votes for the windows that share anchors with `bytes`.
    pub(crate) fn like(&mut self, bytes: &[u8]) {
        for (key, _) in self.anchors.sampler.sample(bytes, 0) {
            let places = self.anchors.places(key);
            if places.is_empty() || places.len() > MAX_PLACES {
                continue;
            }
            let vote = VOTE / u32::try_from(places.len()).unwrap_or(VOTE);
            for &(_, window) in places {
                *self.votes.entry(window).or_default() += vote;
            }
        }
    }

    /// Votes for the windows around a position: a neighbour of what is to be matched was found there.
    pub(crate) fn near(&mut self, base: u32, at: u64) {
        let Some(&(first, len)) = self.anchors.images.get(base as usize) else { return };
        for at in [at.saturating_sub(WINDOW / 4), at + WINDOW / 4] {
            if at < len {
                let window = first + u32::try_from(at / WINDOW).unwrap_or(0);
                *self.votes.entry(window).or_default() += VOTE * 2;
            }
        }
    }

    /// The windows that have votes enough, those with most votes first.
    pub(crate) fn ranked(self) -> Vec<(u32, u32)> {
        let mut votes: Vec<_> = self.votes.into_iter().filter(|&(_, votes)| votes >= VOTE / 2).collect();
        votes.sort_unstable_by_key(|&(window, votes)| (std::cmp::Reverse(votes), window));
        votes
    }

    /// The windows with most votes, at most `budget` bytes, as extents in the order of the source.
    pub(crate) fn finish(self, budget: u64) -> Vec<Extent> {
        let anchors = self.anchors;
        let mut votes = self.ranked();
        votes.truncate(usize::try_from(budget / WINDOW).unwrap_or(usize::MAX));
        let mut windows: Vec<_> = votes.into_iter().map(|(window, _)| window).collect();
        windows.sort_unstable();

        let mut extents: Vec<Extent> = Vec::new();
        for window in windows {
            let base = anchors.images.partition_point(|image| image.0 <= window) - 1;
            let (first, image_len) = anchors.images[base];
            let range = window_range(window - first, image_len);
            let base = u32::try_from(base).unwrap_or(u32::MAX);
            match extents.last_mut() {
                Some(last) if last.base == base && last.start + last.len == range.start => {
                    last.len = range.end - last.start;
                }
                _ => extents.push(Extent { base, start: range.start, len: range.end - range.start }),
            }
        }
        extents
    }
}

/// Windows of a space of `len` bytes.
pub(crate) fn window_count(len: u64) -> u32 {
    u32::try_from(len.div_ceil(WINDOW)).unwrap_or(u32::MAX / 256)
}

fn window_range(number: u32, image_len: u64) -> Range<u64> {
    let start = u64::from(number) * WINDOW;
    start.min(image_len)..(start + WINDOW).min(image_len)
}
