//! What AOSP's generator made; `golden/README.md` says how.

use std::{fs, path::Path};

/// The bytes of `golden/<name>`.
pub(crate) fn read(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/patch/golden").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
