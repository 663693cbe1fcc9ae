//! Every input that is kept, through its target.

use std::{fs, path::Path};

#[test]
fn every_input_of_every_corpus_holds_to_its_rules() {
    for (name, target) in relevo_fuzz::TARGETS {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut inputs: Vec<_> = fs::read_dir(&dir)
            .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{} is empty", dir.display());
        for input in inputs {
            let bytes = fs::read(&input).unwrap();
            // Caught only to say which input it was.
            let outcome = std::panic::catch_unwind(|| target(&bytes));
            assert!(outcome.is_ok(), "{} breaks a rule", input.display());
        }
    }
}

#[test]
fn every_corpus_has_a_target() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for entry in fs::read_dir(corpora).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(relevo_fuzz::TARGETS.iter().any(|(target, _)| *target == name), "{}", name.display());
    }
}
