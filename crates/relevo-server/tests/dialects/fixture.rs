//! Repositories of zips as a maintainer of a LineageOS device has them.

use relevo_meta::testing::TestRepo;
use serde_json::{Value, json};

use crate::support::{START, TestServer, eventually};

/// The host that phones know the server by.
pub(crate) const HOST: &str = "ota.example";
/// Seconds in a day.
pub(crate) const DAY: i64 = 86_400;

/// When a build of that number was made: 100 at the start of the tests' time, each later one a day later.
pub(crate) fn made(build: u32) -> i64 {
    START + (i64::from(build) - 200) * DAY
}

/// Bytes that stand for a zip.
pub(crate) fn zip(from: Option<u32>, to: u32) -> Vec<u8> {
    let len = if from.is_some() { 3_000 } else { 20_000 };
    let start = to as usize * 7 + from.unwrap_or(0) as usize;
    (start..start + len)
        .map(|at| u8::try_from(at.wrapping_mul(31).wrapping_add(at >> 7) % 251).expect("under 251"))
        .collect()
}

/// What the metadata say of a package of the device `ginkgo`.
pub(crate) fn custom(from: Option<u32>, to: u32) -> Value {
    let mut custom = json!({
        "kind": "ab", "to": format!("eng.{to}"), "version": format!("LineageOS 22.2-{to}"), "timestamp": made(to),
        "sdk": 35, "spl": "2026-01-05", "size": {"install": 4096}, "rollout": 100, "withdrawn": false,
        "ab": {
            "payload": {"offset": 1000, "size": 1500, "sha256": "11".repeat(32)},
            "metadata": {"offset": 1000, "size": 200, "sha256": "22".repeat(32)},
            "files": {
                "payload_properties.txt": {"offset": 2600, "size": 150, "sha256": "33".repeat(32)},
            },
            "properties": {"FILE_SIZE": "1500"},
            "property_files":
                "payload_metadata.bin:1000:200,payload.bin:1000:1500,payload_properties.txt:2600:150   ",
            "streaming_property_files": "payload.bin:1000:1500,payload_properties.txt:2600:150   ",
            "devices": ["ginkgo", "willow"],
            "fingerprint": format!("xiaomi/ginkgo/ginkgo:15/A/eng.{to}:user/release-keys"),
            "incremental": format!("eng.{to}"), "minor": if from.is_some() { 8 } else { 0 },
            "lineage_version": "22.2", "release_type": "UNOFFICIAL",
        },
    });
    if let Some(from) = from {
        custom["from"] = format!("eng.{from}").into();
        custom["ab"]["from_incremental"] = format!("eng.{from}").into();
    }
    custom
}

/// The name of a package.
pub(crate) fn file(from: Option<u32>, to: u32) -> String {
    match from {
        Some(from) => format!("ginkgo-eng.{from}-to-eng.{to}.zip"),
        None => format!("ginkgo-eng.{to}-full.zip"),
    }
}

/// Lists a package after `change` was at it.
pub(crate) fn add(repo: &mut TestRepo, channel: &str, from: Option<u32>, to: u32, change: impl FnOnce(&mut Value)) {
    let mut custom = custom(from, to);
    change(&mut custom);
    let path = format!("xiaomi/ginkgo/{channel}/{}", file(from, to));
    repo.add_target(&path, &zip(from, to), &custom);
}

/// Three builds on the channel `stable`, with deltas from each to each later one.
pub(crate) fn repo() -> TestRepo {
    let mut repo = TestRepo::new();
    repo.add_device("xiaomi", "ginkgo");
    for to in [101, 102, 103] {
        add(&mut repo, "stable", None, to, |_| {});
        for from in 101..to {
            add(&mut repo, "stable", Some(from), to, |_| {});
        }
    }
    repo.publish();
    repo
}

/// A server of a repository that phones reach as [`HOST`].
pub(crate) fn server(repo: &TestRepo) -> TestServer {
    server_with(repo, &[])
}

/// The same with mirrors.
pub(crate) fn server_with(repo: &TestRepo, mirrors: &[&str]) -> TestServer {
    let dir = tempfile::tempdir().expect("a directory");
    let server = TestServer::start_in(dir, |layer| {
        layer.public_url = Some(format!("https://{HOST}"));
        layer.mirrors = Some(mirrors.iter().map(|mirror| (*mirror).to_owned()).collect());
    });
    publish(&server, repo);
    server
}

/// Puts a repository in place, and waits until the server has looked at it: it does so every other second.
pub(crate) fn publish(server: &TestServer, repo: &TestRepo) {
    server.publish(repo);
    // Asking for the page makes it look at once.
    eventually("the server sees what was published", || {
        server.get("/").status == 200 && server.get("/api/v1/ginkgo").status != 503
    });
}
