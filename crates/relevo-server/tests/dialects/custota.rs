//! Custota.
//!
//! # Source
//! `chenxiaolong/Custota`, `UpdaterThread.kt`: `fetchUpdateInfo`, `downloadAndCheckCsig`, `fetchPropertyFile`,
//! `startInstallation`. That the signature is one, `relevo`'s own tests have OpenSSL say.

use relevo_meta::{Target, testing::TestRepo};
use serde_json::{Value, json};

use crate::{
    fixture::{self, HOST, add, file, server, zip},
    net::{Network, update_engine},
    support::TestServer,
};

struct Phone {
    network: Network,
    /// What the user typed.
    source: &'static str,
    /// `ro.boot.vbmeta.digest`.
    vbmeta: String,
}

/// What the app hands to update_engine.
#[derive(Debug, PartialEq, Eq)]
struct Update {
    url: String,
    is_incremental: bool,
    csig: Value,
}

/// The digest of the vbmeta images of a build of the fixtures.
fn vbmeta(build: u32) -> String {
    format!("{build:064x}")
}

/// What the message beside a zip says; here it goes without its signature.
fn csig(from: Option<u32>, to: u32) -> Vec<u8> {
    let bytes = zip(from, to);
    let entry = |name: &str, offset: usize, size: usize| {
        let digest = Target::of(&bytes[offset..offset + size]).sha256;
        json!({"name": name, "offset": offset, "size": size, "digest": digest})
    };
    let files = [
        entry("payload_metadata.bin", 1_000, 200),
        entry("payload.bin", 1_000, 1_500),
        entry("payload_properties.txt", 2_600, 150),
    ];
    let mut message = json!({"version": 2, "files": files});
    if from.is_none() {
        message["vbmeta_digest"] = vbmeta(to).into();
    }
    serde_json::to_vec(&message).unwrap()
}

/// A package with what Custota needs.
fn add_with_csig(repo: &mut TestRepo, channel: &str, from: Option<u32>, to: u32, change: impl FnOnce(&mut Value)) {
    add(repo, channel, from, to, |custom| {
        custom["ab"]["vbmeta_digest"] = vbmeta(to).into();
        if let Some(from) = from {
            custom["ab"]["from_vbmeta_digest"] = vbmeta(from).into();
        }
        change(custom);
    });
    let path = format!("xiaomi/ginkgo/{channel}/{}.csig", file(from, to));
    repo.add_target(&path, &csig(from, to), &json!({"kind": "csig"}));
}

fn repo() -> TestRepo {
    let mut repo = TestRepo::new();
    repo.add_device("xiaomi", "ginkgo");
    for (from, to) in [(None, 101), (None, 102), (None, 103), (Some(101), 102), (Some(101), 103), (Some(102), 103)] {
        add_with_csig(&mut repo, "stable", from, to, |_| {});
    }
    repo.publish();
    repo
}

impl Phone {
    fn of(server: &TestServer, build: u32) -> Self {
        let network = Network::of(HOST, server.address);
        Self { network, source: "https://ota.example/custota", vbmeta: vbmeta(build) }
    }

    fn check(&self) -> Result<Update, u16> {
        let base = format!("{}/", self.source.trim_end_matches('/'));
        let response = self.network.follow(&format!("{base}ginkgo.json"), &[]).unwrap();
        if response.status != 200 {
            return Err(response.status);
        }
        let info = response.json();
        assert_eq!(info["version"], 2);
        let full = location(&info["full"]);
        let delta = info.get("incremental").and_then(|map| map.get(&self.vbmeta)).map(location);
        let is_incremental = delta.is_some();
        let (ota, csig) = delta.unwrap_or(full);
        let csig = self.network.follow(&resolve(&base, &csig), &[]).unwrap();
        assert_eq!(csig.status, 200);
        Ok(Update { url: resolve(&base, &ota), is_incremental, csig: csig.json() })
    }

    /// The range of an entry, as strictly as the app takes it.
    fn fetch(&self, update: &Update, name: &str) -> Vec<u8> {
        let entry = update.entry(name);
        let (offset, size) = (entry["offset"].as_u64().unwrap(), entry["size"].as_u64().unwrap());
        let range = format!("{offset}-{}", offset + size - 1);
        // Java asks for gzip by itself unless a range is asked for, which it is.
        let response = self.network.follow(&update.url, &[("Range", &format!("bytes={range}"))]).unwrap();
        assert_eq!(response.status / 100, 2);
        assert_eq!(response.header("content-range").split('/').next(), Some(format!("bytes {range}").as_str()));
        assert_eq!(response.header("content-length"), size.to_string());
        assert_eq!(Target::of(&response.body).sha256.to_string(), entry["digest"].as_str().unwrap());
        response.body
    }

    fn install(&self, update: &Update) -> Vec<u8> {
        self.fetch(update, "payload_metadata.bin");
        self.fetch(update, "payload_properties.txt");
        let payload = update.entry("payload.bin");
        update_engine(
            &self.network,
            &update.url,
            payload["offset"].as_u64().unwrap(),
            payload["size"].as_u64().unwrap(),
        )
    }
}

impl Update {
    fn entry(&self, name: &str) -> &Value {
        self.csig["files"].as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap()
    }
}

fn location(value: &Value) -> (String, String) {
    let text = |key: &str| value[key].as_str().expect("the app throws").to_owned();
    (text("location_ota"), text("location_csig"))
}

/// `java.net.URI.resolve` for what can come here.
fn resolve(base: &str, location: &str) -> String {
    assert!(!location.contains(':') && !location.starts_with('/'), "{location}");
    let (mut base, mut rest) = (base.trim_end_matches('/').to_owned(), location);
    while let Some(after) = rest.strip_prefix("../") {
        base.truncate(base.rfind('/').unwrap());
        rest = after;
    }
    format!("{base}/{rest}")
}

#[test]
fn a_phone_streams_the_delta_from_what_it_booted() {
    let server = server(&repo());
    let phone = Phone::of(&server, 102);

    let update = phone.check().unwrap();

    assert!(update.is_incremental);
    assert_eq!(update.csig.get("vbmeta_digest"), None);
    assert_eq!(phone.install(&update), zip(Some(102), 103)[1_000..2_500]);
}

#[test]
fn a_phone_that_booted_something_else_streams_the_full_package() {
    let server = server(&repo());
    let phone = Phone::of(&server, 99);

    let update = phone.check().unwrap();

    assert!(!update.is_incremental);
    assert_eq!(update.csig["vbmeta_digest"], vbmeta(103));
    assert_eq!(phone.install(&update), zip(None, 103)[1_000..2_500]);
}

#[test]
fn a_phone_with_the_newest_build_is_told_of_that_very_build() {
    let server = server(&repo());

    let update = Phone::of(&server, 103).check().unwrap();

    // The app compares fingerprints and this.
    assert!(!update.is_incremental);
    assert_eq!(update.csig["vbmeta_digest"], vbmeta(103));
}

#[test]
fn nothing_is_named_that_has_no_signed_message() {
    let mut repo = repo();
    // A build whose packages have none, and one that only some may have.
    add(&mut repo, "stable", None, 104, |_| {});
    add(&mut repo, "stable", Some(103), 104, |custom| custom["ab"]["from_vbmeta_digest"] = vbmeta(103).into());
    add_with_csig(&mut repo, "stable", None, 105, |custom| custom["rollout"] = 50.into());
    repo.publish();
    let (server, without) = (server(&repo), fixture::server(&fixture::repo()));

    let info = server.get("/custota/ginkgo.json").json();

    let full = info["full"]["location_ota"].as_str().unwrap();
    assert!(full.starts_with("../repo/targets/xiaomi/ginkgo/stable/") && full.ends_with(&file(None, 103)), "{full}");
    let sources: Vec<&String> = info["incremental"].as_object().unwrap().keys().collect();
    assert_eq!(sources, [&vbmeta(101), &vbmeta(102)]);
    assert_eq!(without.get("/custota/ginkgo.json").status, 404);
}

#[test]
fn another_channel_is_another_source() {
    let mut repo = repo();
    add_with_csig(&mut repo, "beta", None, 110, |_| {});
    repo.publish();
    let server = server(&repo);
    let mut phone = Phone::of(&server, 102);
    phone.source = "https://ota.example/custota/beta/";

    let update = phone.check().unwrap();

    assert_eq!(phone.install(&update), zip(None, 110)[1_000..2_500]);
}

#[test]
fn a_delta_whose_floor_the_source_has_not_reached_is_not_named() {
    let mut repo = repo();
    for (from, to) in [(None, 104), (Some(101), 104), (Some(103), 104)] {
        add_with_csig(&mut repo, "stable", from, to, |custom| custom["floor"] = "eng.103".into());
    }
    repo.publish();
    let server = server(&repo);

    let named = |build| Phone::of(&server, build).check().unwrap().url;

    assert!(named(101).ends_with(&file(Some(101), 103)));
    assert!(named(103).ends_with(&file(Some(103), 104)));
    assert!(named(99).ends_with(&file(None, 103)));
}
