//! What polls cost in a large repository: 300 devices of 25 vendors with 18 packages each, in three channels.
//!
//! `cargo test -p relevo-meta --test meta -- sizes --nocapture` prints the table that stands in BENCHMARKS.md.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use relevo_meta::{
    Scope, Stored,
    author::TopRole,
    testing::{TestRepo, key},
};
use serde_json::json;

const DAY: i64 = 86_400;

fn fleet() -> TestRepo {
    let mut repo = TestRepo::new();
    // As advised for a project of that size: root 3 of 5, targets and vendors 2 of 3, two keys for a device.
    let several = |role: &str, count: usize| (0..count).map(|n| format!("{role} {n}")).collect::<Vec<_>>();
    let public = |names: &[String]| names.iter().map(|name| key(name).public().clone()).collect::<Vec<_>>();
    let (roots, registrars) = (several("root", 5), several("targets", 3));
    repo.root.set_role(TopRole::Root, &public(&roots), 3).unwrap();
    repo.root.set_role(TopRole::Targets, &public(&registrars), 2).unwrap();
    repo.signers.insert("root".to_owned(), roots[..3].to_vec());
    repo.signers.insert("targets".to_owned(), registrars[..2].to_vec());
    let root = repo.root.clone();
    repo.put("root", 1, &root);
    for device in 0..300_u64 {
        let (vendor, codename) = (format!("vendor{}", device / 12), format!("codename{device:03}"));
        repo.add_device(&vendor, &codename);
        let keys = public(&several(&format!("d-{codename}"), 2));
        let vendor = relevo_types::Vendor::parse(&vendor).unwrap();
        let parsed = relevo_types::Codename::parse(&codename).unwrap();
        repo.vendors.get_mut(&vendor).unwrap().put_device(&vendor, &parsed, &keys, 1).unwrap();
        repo.signers.insert(format!("d-{codename}"), vec![format!("d-{codename} 0")]);
        // Versions as different as they are in life: a snapshot of equal ones would compress to nothing.
        repo.devices.get_mut(&parsed).unwrap().set_version(1 + device * 7_919 % 997);
        for (channel, every) in [("stable", 30), ("beta", 7), ("nightly", 1)] {
            build(&mut repo, &format!("{vendor}/{codename}"), channel, every, 100);
        }
    }
    repo.publish();
    repo
}

/// A full package and five deltas to a build, in place of those to the build before.
fn build(repo: &mut TestRepo, device: &str, channel: &str, every: i64, build: i64) {
    let codename = device.rsplit('/').next().unwrap();
    let role = repo.devices.get_mut(&relevo_types::Codename::parse(codename).unwrap()).unwrap();
    for path in role.paths().iter().filter(|path| path.starts_with(&format!("{device}/{channel}/"))) {
        role.remove_target(&relevo_types::TargetPath::parse(path).unwrap()).unwrap();
    }
    let made = repo.now.as_second() - 100 * DAY + build * DAY / 2;
    for back in 0..6 {
        let id = |build: i64| format!("22.2-{}", 20_250_000 + build);
        let file = match back {
            0 => format!("{codename}-{}-full.rvp", id(build)),
            back => format!("{codename}-{}-to-{}.rvp", id(build - back * every), id(build)),
        };
        let mut custom = json!({
            "kind": "native", "to": id(build), "version": "LineageOS 22.2", "timestamp": made, "sdk": 35,
            "spl": "2025-12-05", "size": {"install": 3_221_225_472_u64}, "rollout": 100, "withdrawn": false,
            "chunks": format!("{file}.chunks"),
        });
        if back > 0 {
            custom["from"] = id(build - back * every).into();
        }
        let path = format!("{device}/{channel}/{file}");
        repo.add_target(&path, path.as_bytes(), &custom);
        repo.add_target(&format!("{path}.chunks"), format!("chunks of {path}").as_bytes(), &json!({"kind": "chunks"}));
    }
}

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
