//! Images that are kept, so that parsing is tested without any tool. `golden/README.md` says how they were made.

use std::{fs, path::Path};

use relevo_format::fs::FileKind;
use sha2::{Digest, Sha256};

use crate::fixture::{Entry, entries_of_image};

/// Their names, without `.img.zst` and `.list`.
pub(crate) const NAMES: [&str; 10] = [
    "ext4-android",
    "ext4-small-blocks",
    "ext4-inline",
    "ext2-map",
    "erofs-plain",
    "erofs-compact",
    "erofs-legacy",
    "erofs-tailpacking",
    "erofs-fragments",
    "erofs-dedupe",
];

fn path(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fs/golden").join(name)
}

/// The bytes of one of them.
pub(crate) fn image(name: &str) -> Vec<u8> {
    let file = fs::File::open(path(&format!("{name}.img.zst"))).unwrap();
    zstd::decode_all(file).unwrap()
}

/// As `examples/files.rs` prints it.
fn list(image: &[u8]) -> String {
    let (listing, mut entries) = entries_of_image(&image);
    let mut lines = String::new();
    for file in &listing.files {
        let (kind, bytes) = match (file.kind, entries.remove(&file.path).unwrap()) {
            (FileKind::Regular, Entry::Regular(bytes)) => ('f', bytes),
            (FileKind::Symlink, Entry::Symlink(bytes)) => ('l', bytes),
            (FileKind::Directory, _) => ('d', Vec::new()),
            (FileKind::Special, _) => ('s', Vec::new()),
            (kind, entry) => panic!("{kind:?} is {entry:?}"),
        };
        let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        lines += &format!("{kind} {:>9} {digest} {}\n", bytes.len(), file.path.escape_ascii());
    }
    lines
}

#[test]
fn each_image_has_the_files_of_its_list() {
    for name in NAMES {
        let wanted = fs::read_to_string(path(&format!("{name}.list"))).unwrap();

        let found = list(&image(name));

        for (found, wanted) in found.lines().zip(wanted.lines()) {
            assert_eq!(found, wanted, "{name}");
        }
        assert_eq!(found.lines().count(), wanted.lines().count(), "{name}");
    }
}

#[test]
fn every_image_is_named_here() {
    for entry in fs::read_dir(path("")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let name = file.strip_suffix(".img.zst").or_else(|| file.strip_suffix(".list"));
        assert!(file == "README.md" || file == "make.py" || name.is_some_and(|name| NAMES.contains(&name)), "{file}");
    }
}
