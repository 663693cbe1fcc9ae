//! The updaters of forks that ask with a device alone, and tables of an operator's own.
//!
//! # Source
//! `crdroidandroid/android_packages_apps_Updater` (86c1d23) and `Evolution-X/packages_apps_Updater` (b9c8733),
//! `misc/Utils.java`; `PixelExperience/packages_apps_Updates` (50c6109).

use std::fs;

use relevo_server::Application;
use serde_json::Value;

use crate::{
    fixture::{self, HOST, add, file, made, server, zip},
    net::{Network, update_engine},
    support::TestServer,
};

/// What both apps read; `getString` throws if it is missing.
const COMMON: [&str; 9] =
    ["filename", "md5", "download", "version", "maintainer", "forum", "firmware", "paypal", "telegram"];
/// What crDroid's reads besides.
const CRDROID: [&str; 6] = ["buildtype", "gapps", "modem", "bootloader", "recovery", "oem"];

struct Update {
    filename: String,
    url: String,
    size: u64,
    entry: Value,
}

/// What the app shows to a phone with that build.
fn check(network: &Network, url: &str, keys: &[&[&str]], build: u32) -> Result<Vec<Update>, u16> {
    let response = network.follow(url, &[]).unwrap();
    if response.status != 200 {
        return Err(response.status);
    }
    let list = response.json()["response"].as_array().unwrap().clone();
    let updates = list.into_iter().filter(|entry| entry["timestamp"].as_i64().unwrap() > made(build));
    Ok(updates
        .map(|entry| {
            for key in keys.iter().copied().flatten() {
                assert!(entry[key].is_string(), "the app throws: {key} in {entry}");
            }
            let text = |key: &str| entry[key].as_str().unwrap().to_owned();
            Update { filename: text("filename"), url: text("download"), size: entry["size"].as_u64().unwrap(), entry }
        })
        .collect())
}

#[test]
fn crdroid_and_evolution_x_find_the_newest_build() {
    let server = server(&fixture::repo());
    let network = Network::of(HOST, server.address);
    let crdroid: &[&[&str]] = &[&COMMON, &CRDROID];
    let evolution: &[&[&str]] = &[&COMMON];
    for (path, keys) in [("crdroid/ginkgo.json", crdroid), ("evolution/builds/ginkgo.json", evolution)] {
        let url = format!("https://{HOST}/{path}");

        let updates = check(&network, &url, keys, 102).unwrap();

        assert_eq!((updates.len(), updates[0].filename.as_str()), (1, file(None, 103).as_str()));
        let response = network.get(&updates[0].url, &[]).unwrap();
        assert_eq!((response.status, &response.body), (200, &zip(None, 103)));
        assert_eq!(updates[0].size, response.body.len() as u64);
        assert_eq!(update_engine(&network, &updates[0].url, 1_000, 1_500), zip(None, 103)[1_000..2_500]);
        assert_eq!(updates[0].entry["os_sdk_level"], 35);
        assert!(check(&network, &url, keys, 103).unwrap().is_empty());
        assert_eq!(check(&network, &url.replace("ginkgo", "nosuch"), keys, 102).err(), Some(404));
    }
}

#[test]
fn another_channel_is_another_path() {
    let mut repo = fixture::repo();
    add(&mut repo, "beta", None, 110, |_| {});
    repo.publish();
    let server = server(&repo);

    let beta = server.get("/crdroid/beta/ginkgo.json").json();

    assert_eq!(beta["response"][0]["filename"], file(None, 110));
    assert_eq!(server.get("/crdroid/nosuch/ginkgo.json").json()["response"], serde_json::json!([]));
}

#[test]
fn pixelexperience_gets_one_build_and_no_list() {
    let server = server(&fixture::repo());

    let build = server.get("/pixelexperience/ota/ginkgo/thirteen").json();

    for key in ["filename", "id", "url", "version", "filehash", "donate_url", "forum_url", "website_url", "news_url"] {
        assert!(build[key].is_string(), "{key} in {build}");
    }
    assert_eq!((build["datetime"].as_i64(), build["size"].as_u64()), (Some(made(103)), Some(20_000)));
    assert!(build["maintainers"].is_array());
}

#[test]
fn arrowos_and_leafos_are_lineageos_under_other_paths() {
    let server = server(&fixture::repo());
    let names = |path: &str| {
        let list = server.get(path).json()["response"].as_array().unwrap().clone();
        list.iter().map(|item| item["filename"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };

    let full = [103, 102, 101].map(|build| file(None, build));
    assert_eq!(names("/arrowos/api/v1/ginkgo/unofficial/arrow-13/vanilla"), full);
    assert_eq!(names("/leafos/ota/ginkgo/VANILLA/eng.102")[..2], [file(Some(102), 103), file(None, 103)]);
}

#[test]
fn an_operators_own_table_is_answered_before_ours() {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("dialects.toml");
    fs::write(&table, include_str!("../../../../deploy/dialects.toml")).unwrap();
    let server = TestServer::start_in(dir, |layer| {
        layer.public_url = Some(format!("https://{HOST}/behind/a/proxy"));
        layer.dialects = Some(table);
    });
    fixture::publish(&server, &fixture::repo());

    let updates = server.get("/updates/ginkgo/eng.102.json").json();
    let crdroid = server.get("/crdroid/ginkgo.json").json();

    assert_eq!(updates["response"][0]["filename"], file(Some(102), 103));
    let url = updates["response"][0]["url"].as_str().unwrap();
    assert!(url.starts_with("https://ota.example/behind/a/proxy/repo/targets/xiaomi/ginkgo/stable/"), "{url}");
    assert_eq!(crdroid["response"][0]["maintainer"], "Somebody");
    assert_eq!(crdroid["response"][0]["forum"], "https://forum.example/ginkgo");
}

#[test]
fn a_table_that_is_none_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("dialects.toml");
    fs::write(&table, "[[dialect]]\nname = \"mine\"\npaths = [\"/{devise}\"]\nbody = \"{items}\"\nitem = {}\n")
        .unwrap();
    let layer = relevo_server::settings::Layer {
        listen: Some(std::net::SocketAddr::from(([127, 0, 0, 1], 0))),
        repository: Some(dir.path().join("relevo")),
        dialects: Some(table),
        ..Default::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();

    let clock = std::sync::Arc::new(|| jiff::Timestamp::UNIX_EPOCH);
    let built = runtime.block_on(Application::build(layer.settings().unwrap(), clock));

    let error = built.err().expect("the table is wrong");
    assert!(matches!(error, relevo_server::BuildError::Dialects { .. }), "{error:?}");
    let chain: Vec<String> = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
        .map(ToString::to_string)
        .collect();
    assert!(chain.join(": ").contains("the nearest known name is \"device\""), "{chain:?}");
}
