//! What a publication costs in a large repository: 300 devices of 25 vendors with 18 packages each.
//!
//! `cargo test --release -p relevo-repo --test repository -- fleet --nocapture` prints what stands in BENCHMARKS.md.

use std::{collections::BTreeMap, path::PathBuf, time::Instant};

use jiff::Timestamp;
use relevo_meta::{Custom, testing::key};
use relevo_repo::{Repository, Signers};
use relevo_types::{BuildId, Codename, TargetPath, Vendor};

use crate::support::{Fixture, custom, keys};

fn names(device: u64) -> (Vendor, Codename) {
    let (vendor, codename) = (format!("vendor{}", device / 12), format!("codename{device:03}"));
    (Vendor::parse(&vendor).unwrap(), Codename::parse(&codename).unwrap())
}

fn fleet_signers() -> Signers {
    let mut signers = Signers::new();
    for role in ["root", "targets", "snapshot", "timestamp", "log"] {
        signers.add(role, key(role));
    }
    for device in 0..300 {
        let (vendor, codename) = names(device);
        if device % 12 == 0 {
            signers.add(&format!("v-{vendor}"), key(&format!("v-{vendor}")));
        }
        signers.add(&format!("d-{codename}"), key(&format!("d-{codename}")));
    }
    signers
}

/// A full package and five deltas to a build.
fn build(fixture: &Fixture, publication: &mut relevo_repo::Publication<'_>, device: u64, channel: &str, number: i64) {
    let (vendor, codename) = names(device);
    for back in 0..6 {
        let from = (back > 0).then(|| BuildId::parse(&(number - back).to_string()).unwrap());
        let name = match &from {
            None => format!("{codename}-{number}-full.rvp"),
            Some(from) => format!("{codename}-{from}-to-{number}.rvp"),
        };
        let path = TargetPath::parse(&format!("{vendor}/{codename}/{channel}/{name}")).unwrap();
        let file = fixture.file("package", path.to_string().as_bytes());
        let custom = Custom { from, ..custom(&number.to_string()) };
        publication.add_package(&path, &file, &custom).unwrap();
    }
}

fn publish<T>(repository: &Repository, now: Timestamp, work: impl FnOnce(&mut relevo_repo::Publication<'_>) -> T) {
    let mut publication = repository.publication().unwrap();
    work(&mut publication);
    publication.commit(&fleet_signers(), now).unwrap();
}

fn sizes(fixture: &Fixture) -> BTreeMap<PathBuf, (u64, std::time::SystemTime)> {
    let files = fixture.files().into_keys();
    files
        .map(|path| {
            let found = std::fs::metadata(fixture.root.join(&path)).unwrap();
            (path, (found.len(), found.modified().unwrap()))
        })
        .collect()
}

#[test]
fn a_nightly_of_one_device_among_300_writes_what_changed() {
    let fixture = Fixture::logged();
    let repository = fixture.open();
    publish(&repository, fixture.now, |publication| {
        for device in 0..300 {
            let (vendor, codename) = names(device);
            publication.add_vendor(&vendor, &keys(&format!("v-{vendor}"))).unwrap();
            publication.add_device(&vendor, &codename, &keys(&format!("d-{codename}"))).unwrap();
            for channel in ["stable", "beta", "nightly"] {
                build(&fixture, publication, device, channel, 100);
            }
        }
    });
    let before = sizes(&fixture);
    let repository = fixture.open();
    let began = Instant::now();

    publish(&repository, fixture.now, |publication| build(&fixture, publication, 84, "nightly", 101));

    let took = began.elapsed();
    let written: Vec<(PathBuf, u64)> = sizes(&fixture)
        .into_iter()
        .filter(|(path, found)| before.get(path) != Some(found) && path.as_path() != std::path::Path::new(".lock"))
        .map(|(path, (length, _))| (path, length))
        .collect();
    let bytes = |directory: &str| -> u64 {
        written.iter().filter(|(path, _)| path.starts_with(directory)).map(|(_, length)| length).sum()
    };
    let of = |directory: &str| written.iter().filter(|(path, _)| path.starts_with(directory)).count();
    println!(
        "{} of {} files written in {took:?}: metadata {} ({} bytes), log {} ({} bytes), targets {} ({} bytes)",
        written.len(),
        before.len(),
        of("metadata"),
        bytes("metadata"),
        of("log"),
        bytes("log"),
        of("targets"),
        bytes("targets"),
    );
    // The device's role, the snapshot and the timestamp; in the log two checkpoints, a tile, a bundle and a proof; six
    // packages with their chunk lists.
    assert_eq!((of("metadata"), of("log"), of("targets")), (3, 5, 12), "{written:?}");
    assert_eq!(written.len(), 20);
    assert!(bytes("metadata") < 40_000 && bytes("log") < 40_000, "{written:?}");
}
