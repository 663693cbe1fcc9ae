//! The builds of real arm64 software that `tests/data/make_corpus.py` makes.

use std::path::PathBuf;

/// The directory with the images of build `number` (1 to 3).
///
/// # Panics
/// If the corpus was not made; the message says how.
pub fn build(number: u8) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/corpus");
    let directory = root.join(format!("v{number}"));
    assert!(
        directory.join("vbmeta.img").exists(),
        "{} is not there; make it with `python3 tests/data/make_corpus.py target/corpus`",
        directory.display()
    );
    directory
}
