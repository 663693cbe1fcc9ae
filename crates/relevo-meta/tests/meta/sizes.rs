//! What polls cost in a large repository: 300 devices of 25 vendors with 18 packages each, in three channels.
//!
//! `cargo test -p relevo-meta --test meta -- sizes --nocapture` prints the table that stands in BENCHMARKS.md.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use relevo_meta::{
    Scope, Stored,
    testing::{
        TestRepo,
        fleet::{build, fleet},
    },
};

fn phone() -> Scope {
    TestRepo::device_scope("vendor7", "codename084")
}

/// One poll: what is stored after it, its requests, and their bodies' bytes, plain and by gzip.
fn poll(repo: &TestRepo, stored: &Stored, what: &str) -> (Stored, usize, usize) {
    let run = repo.refresh(stored, phone());
    run.result.unwrap();
    let (mut raw, mut packed, mut names) = (0, 0, Vec::new());
    for name in &run.requests {
        let Some(bytes) = repo.metadata.get(name) else { continue };
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        raw += bytes.len();
        packed += encoder.finish().unwrap().len();
        names.push(name.as_str());
    }
    println!("{what}: {} requests, {raw} bytes, {packed} by gzip: {}", run.requests.len(), names.join(" "));
    (run.stored, raw, packed)
}

#[test]
fn polls_of_a_large_repository_stay_small() {
    let mut repo = fleet();
    let (stored, _, cold) = poll(&repo, &repo.stored_root(), "cold start");
    let (stored, nothing, _) = poll(&repo, &stored, "nothing new");
    build(&mut repo, "vendor7/codename085", "nightly", 1, 101);
    repo.publish();
    let (stored, _, other) = poll(&repo, &stored, "another device has a new build");
    let before = repo.metadata.clone();
    build(&mut repo, "vendor7/codename084", "nightly", 1, 101);
    repo.publish();
    let (_, _, own) = poll(&repo, &stored, "this device has a new build");

    assert!(nothing <= 500, "nothing new costs {nothing} bytes");
    assert!(other <= 3_000, "news of others cost {other} bytes");
    assert!(cold <= 20_000, "a cold start costs {cold} bytes");
    assert!(own <= 5_000, "own news cost {own} bytes");
    // And whoever published it wrote these three files alone.
    let written: Vec<&String> =
        repo.metadata.iter().filter(|(name, bytes)| before.get(*name) != Some(bytes)).map(|(name, _)| name).collect();
    let version = repo.devices[&relevo_types::Codename::parse("codename084").unwrap()].version();
    assert_eq!(written, [&format!("{version}.d-codename084.json"), "3.snapshot.json", "timestamp.json"]);
}
