//! Partition images made by code: the same from the same seed, and changed the way updates change them.

use std::{collections::BTreeMap, fs, path::Path};

use crate::random::Random;

/// A block of a file system, in bytes.
pub const BLOCK: usize = 4096;

/// The partitions of one build, by name.
pub type Images = BTreeMap<String, Vec<u8>>;

/// An image of `blocks` blocks that looks like a file system: text that repeats, code that nearly does, noise as of
/// compressed files, and gaps of zeros.
pub fn image(seed: u64, blocks: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let words: Vec<Vec<u8>> = (0..64)
        .map(|_| {
            let len = 3 + random.index(12);
            random.bytes(len)
        })
        .collect();
    let mut image = Vec::with_capacity(blocks * BLOCK);
    while image.len() < blocks * BLOCK {
        let run = (1 + random.index(8)) * BLOCK;
        match random.below(8) {
            0 => image.resize(image.len() + run, 0),
            1 | 2 => {
                let noise = random.bytes(run);
                image.extend_from_slice(&noise);
            }
            _ => {
                let end = image.len() + run;
                while image.len() < end {
                    image.extend_from_slice(&words[random.index(words.len())]);
                }
                image.truncate(end);
            }
        }
    }
    image.truncate(blocks * BLOCK);
    image
}

/// The image after an update: some blocks altered, a run moved, a run inserted, addresses shifted by a constant.
///
/// The length stays the same if `grow` is 0; else that many blocks are added (or taken away).
pub fn update(old: &[u8], seed: u64, grow: isize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut new = old.to_vec();
    let blocks = new.len() / BLOCK;
    if blocks > 16 {
        // A file that moved.
        let len = 1 + random.index(blocks / 8);
        let from = random.index(blocks - len) * BLOCK;
        let moved: Vec<u8> = new.drain(from..from + len * BLOCK).collect();
        let to = random.index(new.len() / BLOCK + 1) * BLOCK;
        new.splice(to..to, moved);
        // A program built again: the same instructions, other addresses.
        let len = 4 * BLOCK;
        let at = random.index(blocks - 4) * BLOCK;
        for word in new[at..at + len].chunks_exact_mut(64) {
            word[3] = word[3].wrapping_add(17);
        }
        // A text that got a line more.
        let at = random.index(blocks - 8) * BLOCK;
        let line = random.bytes(40);
        new.splice(at + 100..at + 100, line);
        new.drain(at + 4 * BLOCK..at + 4 * BLOCK + 40);
    }
    // Small changes everywhere: times, counters, checksums.
    for _ in 0..blocks / 32 + 1 {
        if new.is_empty() {
            break;
        }
        let at = random.index(new.len());
        new[at] ^= 0x5a;
    }
    let blocks = (blocks as isize + grow).max(0).unsigned_abs();
    while new.len() < blocks * BLOCK {
        let fresh = random.bytes(BLOCK);
        new.extend_from_slice(&fresh);
    }
    new.truncate(blocks * BLOCK);
    new
}

/// Three small builds of a device, a few MB each: what tests use that do not need real file systems.
pub fn builds() -> [Images; 3] {
    let mut first = Images::new();
    for (number, (name, blocks)) in
        [("boot", 128), ("product", 200), ("system", 600), ("vendor", 160)].into_iter().enumerate()
    {
        first.insert(name.to_owned(), image(100 + number as u64, blocks));
    }
    let next = |images: &Images, seed: u64| {
        let update = |(number, (name, image)): (usize, (&String, &Vec<u8>))| {
            // boot keeps its size, as partitions that are not dynamic do.
            let grow = if name == "boot" { 0 } else { [3, -2, 0][number % 3] };
            (name.clone(), update(image, seed + number as u64, grow))
        };
        images.iter().enumerate().map(update).collect::<Images>()
    };
    let second = next(&first, 200);
    let third = next(&second, 300);
    [first, second, third]
}

/// Writes `NAME.img` for each image.
pub fn write(directory: &Path, images: &Images) {
    fs::create_dir_all(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for (name, bytes) in images {
        let path = directory.join(format!("{name}.img"));
        fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// Reads every `NAME.img` of a directory.
pub fn read(directory: &Path) -> Images {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries
        .map(|entry| entry.expect("a directory can be listed to its end").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "img"))
        .map(|path| {
            let name = path.file_stem().and_then(|name| name.to_str()).expect("partition names are ASCII").to_owned();
            (name, fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        })
        .collect()
}

/// Which images differ, in words; `None` if none does. (A plain `assert_eq!` would print megabytes.)
pub fn difference(actual: &Images, expected: &Images) -> Option<String> {
    let names: Vec<&String> = actual.keys().chain(expected.keys()).collect();
    names.into_iter().find_map(|name| match (actual.get(name), expected.get(name)) {
        (Some(a), Some(b)) if a == b => None,
        (Some(a), Some(b)) => {
            let at = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
            Some(format!("{name} differs at byte {at} (lengths {} and {})", a.len(), b.len()))
        }
        (Some(_), None) => Some(format!("{name} should not be there")),
        _ => Some(format!("{name} is missing")),
    })
}

/// Asserts that two sets of images are the same.
///
/// # Panics
/// With the first difference, if they are not.
#[track_caller]
pub fn assert_same(actual: &Images, expected: &Images) {
    if let Some(difference) = difference(actual, expected) {
        panic!("{difference}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_builds_and_updates_change_every_partition() {
        let [first, second, third] = builds();

        assert_same(&first, &builds()[0]);
        for name in first.keys() {
            assert!(first[name] != second[name] && second[name] != third[name], "{name}");
            assert_eq!(first[name].len() % BLOCK, 0);
        }
    }

    #[test]
    fn an_update_grows_and_shrinks_by_the_blocks_asked_for() {
        let old = image(1, 40);

        assert_eq!(update(&old, 2, 5).len(), 45 * BLOCK);
        assert_eq!(update(&old, 2, -7).len(), 33 * BLOCK);
        assert_eq!(update(&[], 2, 0).len(), 0);
    }
}
