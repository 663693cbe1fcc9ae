//! Proposals of ceremonies.

use std::{collections::BTreeMap, sync::LazyLock};

use jiff::Timestamp;
use relevo_meta::{
    Target,
    ceremony::{Base, Document, Ground, Proposal},
};

/// The root that the seeds start from.
static ROOT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let seed = include_str!("../corpus/ceremony/seed-root");
    let value: serde_json::Value = serde_json::from_str(seed).expect("a seed of ours");
    let mut signed = value["documents"][0]["signed"].clone();
    signed["version"] = 1.into();
    serde_json::to_vec(&serde_json::json!({"signatures": [], "signed": signed})).expect("plain values")
});

/// A proposal: what is read is written back as it was, and looking at it ends, whatever it proposes.
pub fn ceremony(data: &[u8]) {
    let Ok(proposal) = Proposal::parse(data) else { return };
    let text = proposal.to_text();
    let again = Proposal::parse(text.as_bytes()).expect("what was written is read");
    assert_eq!(again, proposal);
    assert_eq!(again.id(), proposal.id());
    let mut merged = proposal.clone();
    merged.merge(&again).expect("the same signatures twice are one");
    assert_eq!(merged, proposal);

    // As if it fitted to a repository that has this root and nothing else, so that the rest of it is looked at too.
    let base = Base { version: 1, sha256: Target::of(&ROOT).sha256 };
    let fit = |document: &Document| Document {
        role: document.role.clone(),
        base: (document.role == "root").then_some(base),
        signed: document.signed.clone(),
    };
    let documents = proposal.documents().iter().map(fit).collect();
    let fitted = Proposal::new(proposal.repository(), documents).expect("the same documents");
    let files = BTreeMap::from([("root".to_owned(), ROOT.clone())]);
    let ground = Ground::new(proposal.repository(), files);
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a date");
    if let Ok(review) = fitted.review(&ground, &BTreeMap::new(), now) {
        assert!(!review.is_complete(), "nobody has signed");
        let words = review.documents.iter().flat_map(|document| document.changes.iter().chain(&document.warnings));
        assert!(!words.flat_map(|line| line.chars()).any(char::is_control), "a terminal would obey");
    }
    let proposed = fitted.documents().iter().find_map(|document| fitted.file(&document.role).err());
    assert!(proposed.is_none(), "every document has its file");
}
