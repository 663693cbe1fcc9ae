//! Orders that readers sort equivalences in.
//!
//! AOSP's reader sorts equivalences by old offset with `std::sort`, which is not stable, and then cuts those that overlap:
//! of two that start at one place and are as long, the first one stays. So its patches only apply with the sorting of the
//! C++ library that they were written with. Patches that AOSP's generator makes of programs have many such pairs, ours
//! have none. This sorts as libc++ does, up to LLVM 16 and from LLVM 17 on: both are quicksorts that leave short ranges to
//! insertion sort, which is stable.

use super::Equivalence;

/// A way to sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// libc++ of LLVM 16 and before, from Android 13 on.
    Classic,
    /// libc++ of LLVM 17 and later.
    Newer,
    /// What starts at one place stays in the order of the patch.
    Stable,
}

impl Order {
    pub(super) const ALL: [Self; 3] = [Self::Classic, Self::Newer, Self::Stable];

    /// Sorts by old offset.
    pub(super) fn sort(self, runs: &mut [Equivalence]) {
        let len = runs.len();
        let depth = 2 * len.checked_ilog2().unwrap_or(0);
        match self {
            Self::Classic => classic(runs, 0, len, depth),
            Self::Newer => newer(runs, 0, len, depth, true),
            Self::Stable => runs.sort_by_key(|run| run.old),
        }
    }
}

fn less(runs: &[Equivalence], a: usize, b: usize) -> bool {
    runs[a].old < runs[b].old
}

/// Sorts what is at some places among these; says whether they had another order.
fn among<const N: usize>(runs: &mut [Equivalence], places: [usize; N]) -> bool {
    let before = places.map(|place| runs[place]);
    let mut after = before;
    after.sort_by_key(|run| run.old);
    places.into_iter().zip(after).for_each(|(place, run)| runs[place] = run);
    before != after
}

/// Insertion sort that gives up at its eighth insertion; says whether all is sorted.
fn insert_few(runs: &mut [Equivalence]) -> bool {
    let start = runs.len().min(if runs.len() <= 5 { 5 } else { 3 });
    runs[..start].sort_by_key(|run| run.old);
    let mut inserted = 0;
    for at in start..runs.len() {
        if less(runs, at, at - 1) {
            let place = runs[..at].partition_point(|run| run.old <= runs[at].old);
            runs[place..=at].rotate_right(1);
            inserted += 1;
            if inserted == 8 {
                return at + 1 == runs.len();
            }
        }
    }
    true
}

/// Whether a range is one that both leave to a stable sort. What is split too often is left to it here as well; libc++ has
/// heapsort for that, but no generator makes such.
fn is_left(runs: &mut [Equivalence], shortest: usize, depth: &mut u32) -> bool {
    let left = runs.len() < shortest || *depth == 0;
    if left {
        runs.sort_by_key(|run| run.old);
    } else {
        *depth -= 1;
    }
    left
}

fn classic(runs: &mut [Equivalence], mut first: usize, mut last: usize, mut depth: u32) {
    while !is_left(&mut runs[first..last], 31, &mut depth) {
        let half = (last - first) / 2;
        let mut pivot = first + half;
        let mut swapped = if last - first >= 1000 {
            among(runs, [first, first + half / 2, pivot, pivot + half / 2, last - 1])
        } else {
            among(runs, [first, pivot, last - 1])
        };
        let (mut low, mut high) = (first, last - 1);
        if !less(runs, low, pivot) {
            // The first is no less than the pivot, so something that is has to be found for its place.
            high = (first + 1..high).rev().find(|&at| less(runs, at, pivot)).unwrap_or(first);
            if high == first {
                match equal_first(runs, first, last) {
                    Some(rest) => first = rest,
                    None => return,
                }
                continue;
            }
            runs.swap(low, high);
            swapped = true;
        }
        low += 1;
        if low < high {
            loop {
                while less(runs, low, pivot) {
                    low += 1;
                }
                high -= 1;
                while !less(runs, high, pivot) {
                    high -= 1;
                }
                if low > high {
                    break;
                }
                runs.swap(low, high);
                swapped = true;
                if pivot == low {
                    pivot = high;
                }
                low += 1;
            }
        }
        if low != pivot && less(runs, pivot, low) {
            runs.swap(low, pivot);
            swapped = true;
        }
        if !swapped {
            let sorted = (insert_few(&mut runs[first..low]), insert_few(&mut runs[low + 1..last]));
            match sorted {
                (true, true) => return,
                (false, true) => {
                    last = low;
                    continue;
                }
                (true, false) => {
                    first = low + 1;
                    continue;
                }
                (false, false) => {}
            }
        }
        if low - first < last - low {
            classic(runs, first, low, depth);
            first = low + 1;
        } else {
            classic(runs, low + 1, last, depth);
            last = low;
        }
    }
}

/// Moves what is equal to the first, which is the least, to the front; gives where the rest starts.
fn equal_first(runs: &mut [Equivalence], first: usize, last: usize) -> Option<usize> {
    let (mut low, mut high) = (first + 1, last - 1);
    if !less(runs, first, high) {
        low = (low..high).find(|&at| less(runs, first, at))?;
        runs.swap(low, high);
        low += 1;
    }
    if low == high {
        return None;
    }
    loop {
        while !less(runs, first, low) {
            low += 1;
        }
        high -= 1;
        while less(runs, first, high) {
            high -= 1;
        }
        if low >= high {
            return Some(low);
        }
        runs.swap(low, high);
        low += 1;
    }
}

fn newer(runs: &mut [Equivalence], mut first: usize, mut last: usize, mut depth: u32, mut leftmost: bool) {
    while !is_left(&mut runs[first..last], 24, &mut depth) {
        let middle = first + (last - first) / 2;
        if last - first > 128 {
            among(runs, [first, middle, last - 1]);
            among(runs, [first + 1, middle - 1, last - 2]);
            among(runs, [first + 2, middle + 1, last - 3]);
            among(runs, [middle - 1, middle, middle + 1]);
            runs.swap(first, middle);
        } else {
            among(runs, [middle, first, last - 1]);
        }
        if !leftmost && !less(runs, first - 1, first) {
            first = split(runs, first, last, |run, pivot| run.old <= pivot.old).0 + 1;
            continue;
        }
        let (pivot, in_place) = split(runs, first, last, |run, pivot| run.old < pivot.old);
        if in_place {
            let sorted = (insert_few(&mut runs[first..pivot]), insert_few(&mut runs[pivot + 1..last]));
            match sorted {
                (true, true) => return,
                (false, true) => {
                    last = pivot;
                    continue;
                }
                (true, false) => {
                    first = pivot + 1;
                    continue;
                }
                (false, false) => {}
            }
        }
        newer(runs, first, pivot, depth, leftmost);
        leftmost = false;
        first = pivot + 1;
    }
}

/// Puts what goes before the first to before it; gives where that one is now, and whether nothing else had to move.
fn split(
    runs: &mut [Equivalence],
    first: usize,
    last: usize,
    is_before: impl Fn(&Equivalence, &Equivalence) -> bool,
) -> (usize, bool) {
    let pivot = runs[first];
    let up =
        |runs: &[Equivalence], low: usize| (low + 1..last).find(|&at| !is_before(&runs[at], &pivot)).unwrap_or(last);
    let down = |runs: &[Equivalence], high: usize| {
        (first + 1..high).rev().find(|&at| is_before(&runs[at], &pivot)).unwrap_or(first)
    };
    let (mut low, mut high) = (up(runs, first), down(runs, last));
    let in_place = low >= high;
    while low < high {
        runs.swap(low, high);
        (low, high) = (up(runs, low), down(runs, high));
    }
    runs[first] = runs[low - 1];
    runs[low - 1] = pivot;
    (low - 1, in_place)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash of where the runs with these old offsets end up.
    fn hash(order: Order, offsets: impl Iterator<Item = u32>) -> u32 {
        let mut runs: Vec<_> = offsets.zip(0..).map(|(old, new)| Equivalence { old, new, len: 0 }).collect();
        order.sort(&mut runs);
        assert!(runs.is_sorted_by_key(|run| run.old));
        runs.iter().fold(0, |hash: u32, run| hash.wrapping_mul(31).wrapping_add(run.new))
    }

    fn all(order: Order) -> Vec<u32> {
        let mut hashes = Vec::new();
        for count in [31_u32, 100, 500, 999, 1000, 5000] {
            for different in [3, 50, 1_000_000_u32] {
                let mut state = count + different;
                hashes.push(hash(
                    order,
                    (0..count).map(|_| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        (state >> 8) % different
                    }),
                ));
            }
        }
        for count in [100, 3000] {
            hashes.push(hash(order, (0..count).map(|at| if at % 50 == 0 { count - at } else { at / 3 })));
        }
        hashes
    }

    // What programs print that sort the same with `std::sort` of these libraries.
    #[test]
    fn sorts_as_libcxx_14_and_16_do() {
        let expected = [
            841500245, 1467821215, 2954625339, 176494188, 2886074044, 2841271998, 3569148978, 524998002, 3777973676,
            3206541743, 3561968465, 991002881, 3125508968, 1888267200, 835936662, 1363504262, 1983772996, 1063393708,
            4005466852, 3523884346,
        ];
        assert_eq!(all(Order::Classic), expected);
    }

    #[test]
    fn sorts_as_libcxx_19_does() {
        let expected = [
            837010807, 3105687093, 2954625339, 2246169264, 2179073984, 2841271998, 3115849976, 681393270, 3777973676,
            1957562719, 1207113347, 991002881, 3298234942, 4118600294, 835936662, 383827800, 311645516, 1660222420,
            3800061310, 828289268,
        ];
        assert_eq!(all(Order::Newer), expected);
    }
}
