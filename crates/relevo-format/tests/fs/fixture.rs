//! A tree of every kind of file, tools that make images of it, and what an image has to hold then.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileExt, FileTypeExt, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
};

use relevo_format::{
    FileAt, ReadAt,
    fs::{self as images, Content, FileKind, FileSystem, Limits, Stored},
};

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Regular(Vec<u8>),
    Symlink(Vec<u8>),
    Directory,
    Special,
}

pub(crate) type Entries = BTreeMap<Vec<u8>, Entry>;

/// A tool of Debian's, also where only root looks.
///
/// Without it the caller's test says so and checks nothing, except in CI, where `tests/run.sh` has installed it.
#[expect(
    clippy::disallowed_methods,
    reason = "where tools are, and whether CI promised them, only the environment knows"
)]
pub(crate) fn tool(name: &str) -> Option<Command> {
    let path = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    if path.is_none() {
        let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
        assert!(!in_ci, "{name} is not installed");
        eprintln!("\n*** {name} is not installed: NOTHING IS CHECKED HERE ***\n");
    }
    path.map(Command::new)
}

/// Runs it to its end; what it wrote to standard output.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Bytes that do not compress.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

/// Bytes that compress about as well as code does.
pub(crate) fn text(len: usize, seed: u64) -> Vec<u8> {
    let words: Vec<Vec<u8>> =
        (0..200_u64).map(|word| noise(3 + usize::try_from(word % 9).unwrap(), word + 1)).collect();
    let mut bytes = Vec::with_capacity(len + 16);
    for pick in noise(len, seed) {
        bytes.extend(&words[usize::from(pick) % words.len()]);
        bytes.push(b' ');
        if bytes.len() >= len {
            break;
        }
    }
    bytes.truncate(len);
    bytes
}

/// Makes the tree, in about `scale` times 250 KB.
pub(crate) fn make_tree(dir: &Path, scale: usize) {
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    for len in [0, 1, 59, 60, 61, 100, 150, 1023, 4095, 4096, 4097, 8192, 12_289] {
        write(&format!("sizes/{len}"), &text(len, len as u64 + 1));
    }
    write("lib/libnoise.so", &noise(20_000 * scale, 1));
    write("lib/libtext.so", &text(40_000 * scale, 2));
    write("lib/libmixed.so", &[text(30_000 * scale, 3), noise(9000 * scale, 4), text(15_000 * scale, 5)].concat());
    write("lib/libtwin.so", &text(40_000 * scale, 2));
    write("lib/libzero.so", &vec![0; 50_000 * scale]);
    for number in 0..20 * scale {
        write(
            &format!("etc/many/a name that is not very short, number {number}.conf"),
            format!("{number}\n").as_bytes(),
        );
    }
    write("a/b/c/d/e/f/g/deep", b"down here");
    // One more would be allowed; mkfs.erofs 1.5 cuts it.
    write(&format!("etc/{}", "n".repeat(254)), b"longest name");
    fs::create_dir_all(dir.join("empty")).unwrap();
    fs::write(dir.join("etc").join(OsStr::from_bytes(b"not \xff utf-8")), b"bytes").unwrap();
    fs::hard_link(dir.join("lib/libtext.so"), dir.join("lib/libagain.so")).unwrap();
    for len in [1, 59, 60, 200, 1000] {
        symlink("t".repeat(len), dir.join(format!("etc/link{len}"))).unwrap();
    }
    run(Command::new("mkfifo").arg(dir.join("etc/pipe")));
    let holes = fs::File::create(dir.join("etc/holes")).unwrap();
    for at in 0..30 * scale as u64 {
        holes.write_all_at(&[b'x'; 4096], at * 3 * 4096).unwrap();
    }
    holes.set_len(200 * scale as u64 * 4096 + 77).unwrap();
}

/// What is in a directory of this machine.
pub(crate) fn entries_of_tree(root: &Path) -> Entries {
    let mut entries = Entries::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for item in fs::read_dir(dir).unwrap() {
            let path = item.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let entry = if kind.is_dir() {
                open.push(path.clone());
                Entry::Directory
            } else if kind.is_symlink() {
                Entry::Symlink(fs::read_link(&path).unwrap().into_os_string().into_vec())
            } else if kind.is_fifo() {
                Entry::Special
            } else {
                Entry::Regular(fs::read(&path).unwrap())
            };
            entries.insert(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec(), entry);
        }
    }
    entries
}

/// What is in an image, every byte of it; checks on the way what every listing holds to.
pub(crate) fn entries_of_image(image: &dyn ReadAt) -> (FileSystem, Entries) {
    let listing = images::read(image, &Limits::default()).unwrap();
    check(image, &listing);
    let mut entries = Entries::new();
    for file in &listing.files {
        let mut bytes = vec![0; usize::try_from(file.size).unwrap()];
        images::open(image, file).read_exact_at(&mut bytes, 0).unwrap();
        let entry = match file.kind {
            FileKind::Regular => Entry::Regular(bytes),
            FileKind::Symlink => Entry::Symlink(bytes),
            FileKind::Directory => Entry::Directory,
            FileKind::Special => Entry::Special,
        };
        entries.insert(file.path.clone(), entry);
    }
    (listing, entries)
}

/// Parts follow each other, lie in the image, and metadata is what they leave.
pub(crate) fn check(image: &dyn ReadAt, listing: &FileSystem) {
    let len = image.len().get();
    let block_size = u64::from(listing.block_size);
    let mut claimed = Vec::new();
    for file in &listing.files {
        let parts: Vec<(u64, u64)> = match &file.content {
            Content::Plain(extents) => extents
                .iter()
                .map(|extent| {
                    match extent.stored {
                        Stored::Blocks(start) => {
                            assert_eq!(start % block_size, 0);
                            assert!(start + extent.len <= len);
                            claimed.push(start..(start + extent.len).next_multiple_of(block_size).min(len));
                        }
                        Stored::Inline(start) => assert!(start + extent.len <= len),
                        Stored::Hole => (),
                    }
                    (extent.file_offset, extent.len)
                })
                .collect(),
            Content::Compressed(clusters) => clusters
                .iter()
                .map(|cluster| {
                    let end = cluster.image_offset + cluster.stored_len;
                    assert!(end <= len);
                    if !cluster.inline {
                        assert_eq!(cluster.image_offset % block_size, 0);
                        claimed.push(cluster.image_offset..end.next_multiple_of(block_size).min(len));
                    }
                    (cluster.file_offset, cluster.len)
                })
                .collect(),
        };
        let mut reached = 0;
        for (offset, len) in parts {
            assert!(offset == reached && len > 0, "{file:?}");
            reached += len;
        }
        assert_eq!(reached, file.size, "{file:?}");
    }
    assert!(listing.files.is_sorted_by(|a, b| a.path < b.path));

    let mut ranges: Vec<_> = claimed.iter().chain(&listing.metadata).cloned().collect();
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    let mut reached = 0;
    for range in ranges {
        assert!(range.start <= reached, "nothing has bytes {reached} to {}", range.start);
        reached = reached.max(range.end);
    }
    assert_eq!(reached, len);
    for metadata in &listing.metadata {
        assert!(metadata.start < metadata.end);
        assert!(!claimed.iter().any(|range| range.start < metadata.end && metadata.start < range.end));
    }
}

/// The image has what the tree has, and nothing else.
pub(crate) fn assert_same(image: &Path, tree: &Entries) -> FileSystem {
    let image = FileAt::open(image).unwrap();
    let (listing, mut found) = entries_of_image(&image);
    found.remove(&b"lost+found"[..]);
    for (path, entry) in tree {
        let name = String::from_utf8_lossy(path);
        match (found.remove(path), entry) {
            (Some(Entry::Regular(found)), Entry::Regular(wanted)) => {
                assert_eq!(found.len(), wanted.len(), "size of {name}");
                let differs = found.iter().zip(wanted).position(|(a, b)| a != b);
                assert_eq!(differs, None, "first byte of {name} that differs");
            }
            (found, wanted) => assert_eq!(found.as_ref(), Some(wanted), "{name}"),
        }
    }
    assert!(found.is_empty(), "more than the tree has: {:?}", found.keys());
    listing
}
