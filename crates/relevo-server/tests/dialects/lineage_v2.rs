//! LineageOS's updater of 23.2 and later.
//!
//! # Source
//! `LineageOS/android_packages_apps_Updater` of June 2026: `NetworkUpdate.kt`, `UpdatesNetworkDataSource.kt`,
//! `UpdatesRepository.kt`, `SingleRangeHttpFetcher.kt`.

use relevo_meta::{Target, testing::TestRepo};
use serde_json::{Value, json};

use crate::{
    fixture::{self, HOST, add, custom, file, made, server, zip},
    net::{Network, update_engine},
    support::{START, TestServer},
};

struct Phone {
    network: Network,
    /// `lineage.updater.uri`, or what the app has inside.
    uri: &'static str,
    release_type: &'static str,
    version: (u32, u32),
    sdk: u32,
    build: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Update {
    datetime: i64,
    filename: String,
    sha256: String,
    size: u64,
    url: String,
    kind: String,
    version: String,
    sdk: Option<u32>,
    property_files: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Failure {
    Io,
    Status(u16),
    ContentType(String),
    TooLong(usize),
    /// kotlinx.serialization gives up on the whole list.
    Decode,
    Range,
}

/// Longest body that the app takes, in bytes.
const MAX_BODY: usize = 32 * 1024;

const STOCK: &str = "https://ota.example/api/v2/devices/{device}/builds";
const WITH_BUILD: &str = "https://ota.example/api/v2/devices/{device}/builds/{incr}";

impl Phone {
    fn of(server: &TestServer, uri: &'static str, build: u32) -> Self {
        let network = Network::of(HOST, server.address);
        Self { network, uri, release_type: "unofficial", version: (22, 2), sdk: 35, build }
    }

    fn list(&self) -> Result<Vec<Update>, Failure> {
        let url = self.uri.replace("{device}", "ginkgo").replace("{incr}", &format!("eng.{}", self.build));
        assert!(url.starts_with("https://"), "the app throws: {url}");
        // No redirect is followed.
        let response = self.network.get(&url, &[]).map_err(|_| Failure::Io)?;
        if !(200..300).contains(&response.status) {
            return Err(Failure::Status(response.status));
        }
        let content_type = response.header("content-type");
        if content_type.split(';').next().map(str::trim) != Some("application/json") {
            return Err(Failure::ContentType(content_type.to_owned()));
        }
        if response.body.len() > MAX_BODY {
            return Err(Failure::TooLong(response.body.len()));
        }
        let list: Value = serde_json::from_slice(&response.body).map_err(|_| Failure::Decode)?;
        let list = list.as_array().ok_or(Failure::Decode)?;
        list.iter().map(|build| decode(build).ok_or(Failure::Decode)).collect()
    }

    /// What the app shows: of its type, newer, of no older version, and of an API level that it may have.
    fn check(&self) -> Result<Vec<Update>, Failure> {
        let mut updates = self.list()?;
        updates.retain(|update| {
            let mut numbers = update.version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
            let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
            update.datetime > made(self.build)
                && update.kind.eq_ignore_ascii_case(self.release_type)
                && version >= self.version
                && update.sdk.unwrap_or(0) >= self.sdk
        });
        updates.sort_by_key(|update| std::cmp::Reverse(update.datetime));
        Ok(updates)
    }

    fn download(&self, update: &Update) -> Vec<u8> {
        let response = self.network.get(&update.url, &[]).unwrap();
        assert_eq!(response.status, 200, "redirects of packages are not known to be followed");
        assert_eq!(response.body.len() as u64, update.size);
        assert_eq!(Target::of(&response.body).sha256.to_string(), update.sha256);
        response.body
    }

    /// Streaming: the properties by their range, then the payload by update_engine.
    fn stream(&self, update: &Update) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        let files = update.property_files.as_deref().expect("it can be streamed");
        let part = |name: &str| {
            let part = files.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix(':')).unwrap();
            let (offset, size) = part.split_once(':').unwrap();
            (offset.parse::<u64>().unwrap(), size.parse::<u64>().unwrap())
        };
        let (offset, size) = part("payload_properties.txt");
        let (first, last) = (offset, offset + size - 1);
        let range = format!("bytes={first}-{last}");
        let response = self.network.follow(&update.url, &[("Range", &range)]).map_err(|_| Failure::Io)?;
        let answered = response.header("content-range");
        if response.status != 206 || !answered.starts_with(&format!("bytes {first}-{last}/")) {
            return Err(Failure::Range);
        }
        let (offset, size) = part("payload.bin");
        Ok((response.body, update_engine(&self.network, &update.url, offset, size)))
    }
}

/// One build; `None` fails the list.
fn decode(build: &Value) -> Option<Update> {
    let file = build["files"].as_array()?.first()?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    let optional = |value: &Value| if value.is_null() || value.is_string() { Some(text(value)) } else { None };
    Some(Update {
        datetime: build["datetime"].as_i64()?,
        filename: text(&file["filename"])?,
        sha256: text(&file["sha256"])?,
        size: file["size"].as_u64()?,
        url: text(&file["url"])?,
        kind: text(&build["type"])?,
        version: text(&build["version"])?,
        // The build's own counts before that of its first file.
        sdk: number(&build["os_sdk_level"]).or_else(|| number(&file["os_sdk_level"])),
        property_files: optional(&file["ota_property_files"])?,
    })
}

fn names(updates: &[Update]) -> Vec<&str> {
    updates.iter().map(|update| update.filename.as_str()).collect()
}

#[test]
fn the_app_as_it_is_gets_the_full_packages() {
    let server = server(&fixture::repo());
    let phone = Phone::of(&server, STOCK, 101);

    let updates = phone.check().unwrap();

    assert_eq!(names(&updates), [file(None, 103), file(None, 102)]);
    assert_eq!(phone.download(&updates[0]), zip(None, 103));
}

#[test]
fn a_rom_that_sets_the_property_gets_the_delta_first() {
    let server = server(&fixture::repo());
    let phone = Phone::of(&server, WITH_BUILD, 102);

    let updates = phone.check().unwrap();

    assert_eq!(names(&updates), [file(Some(102), 103), file(None, 103)]);
    assert_eq!((updates[0].datetime, updates[1].datetime), (made(103), made(103) - 1));
    assert_eq!(phone.download(&updates[0]), zip(Some(102), 103));
}

#[test]
fn a_package_can_be_streamed_from_where_it_lies() {
    let server = server(&fixture::repo());
    let phone = Phone::of(&server, WITH_BUILD, 102);
    let updates = phone.check().unwrap();

    for (update, bytes) in updates.iter().zip([zip(Some(102), 103), zip(None, 103)]) {
        let (properties, payload) = phone.stream(update).unwrap();

        assert_eq!(properties, bytes[2_600..2_750]);
        assert_eq!(payload, bytes[1_000..2_500]);
    }
}

#[test]
fn mirrors_make_no_redirect_where_the_app_is_not_known_to_follow_one() {
    let server = fixture::server_with(&fixture::repo(), &["https://near.example/repo/"]);

    let updates = Phone::of(&server, STOCK, 102).check().unwrap();

    assert_eq!(Phone::of(&server, STOCK, 102).download(&updates[0]), zip(None, 103));
}

#[test]
fn one_channel_of_each_release_type_is_listed() {
    let mut repo = fixture::repo();
    add(&mut repo, "beta", None, 110, |_| {});
    add(&mut repo, "nightly", None, 120, |custom| custom["ab"]["release_type"] = "NIGHTLY".into());
    repo.publish();
    let server = server(&repo);
    let mut phone = Phone::of(&server, STOCK, 102);

    assert_eq!(names(&phone.check().unwrap()), [file(None, 103)]);
    phone.release_type = "nightly";
    assert_eq!(names(&phone.check().unwrap()), [file(None, 120)]);
    phone.release_type = "UNOFFICIAL";
    phone.uri = "https://ota.example/api/v2/devices/{device}/beta/builds/{incr}";
    assert_eq!(names(&phone.check().unwrap()), [file(None, 110)]);
}

#[test]
fn an_older_api_level_is_not_shown_and_a_missing_one_hides_the_build() {
    let mut repo = fixture::repo();
    add(&mut repo, "stable", None, 104, |custom| custom["sdk"] = 34.into());
    add(&mut repo, "stable", None, 105, |custom| {
        custom.as_object_mut().unwrap().remove("sdk");
    });
    repo.publish();

    let updates = Phone::of(&server(&repo), STOCK, 102).check().unwrap();

    assert_eq!(names(&updates), [file(None, 103)]);
}

#[test]
fn whatever_the_metadata_hold_the_answer_is_one_that_the_app_takes() {
    let mut repo = TestRepo::new();
    repo.add_device("xiaomi", "ginkgo");
    for to in 101..107 {
        add(&mut repo, "stable", None, to, |custom| {
            // No number in it, so that there is no version to compare.
            custom["version"] = if to == 105 { "Lineage" } else { "LineageOS 22.2" }.into();
            custom["ab"].as_object_mut().unwrap().remove("lineage_version");
            custom["ab"]["property_files"] = format!("payload.bin:1000:1500,{}", "x".repeat(12_000)).into();
        });
    }
    repo.publish();
    let server = server(&repo);

    let updates = Phone::of(&server, STOCK, 101).list().unwrap();

    // Two of 12 KB fit; a third would be too much.
    assert_eq!(names(&updates), [file(None, 106), file(None, 104)]);
}

#[test]
fn a_build_without_facts_beyond_the_least_is_listed_all_the_same() {
    let mut repo = TestRepo::new();
    repo.add_device("xiaomi", "ginkgo");
    let mut least = custom(None, 101);
    for key in ["ab", "sdk", "spl", "size"] {
        least.as_object_mut().unwrap().remove(key);
    }
    repo.add_target(&format!("xiaomi/ginkgo/stable/{}", file(None, 101)), &zip(None, 101), &least);
    repo.publish();

    let updates = Phone::of(&server(&repo), STOCK, 100).list().unwrap();

    assert_eq!((updates[0].version.as_str(), updates[0].kind.as_str()), ("22.2", "stable"));
    assert_eq!((updates[0].sdk, updates[0].property_files.clone()), (None, None));
}

#[test]
fn an_unknown_device_gets_an_empty_list() {
    let server = server(&fixture::repo());

    let response = server.get("/api/v2/devices/nosuch/builds");

    assert_eq!((response.status, response.text()), (200, "[]".to_owned()));
}

#[test]
fn the_small_routes_of_lineageos_own_server_are_there() {
    let mut repo = fixture::repo();
    repo.add_device("google", "oriole");
    add(&mut repo, "nightly", None, 120, |custom| custom["ab"]["release_type"] = "NIGHTLY".into());
    repo.publish();
    let server = server(&repo);
    let json = |path: &str| {
        let response = server.get(path);
        assert_eq!((response.status, response.header("content-type")), (200, "application/json"), "{path}");
        response.json()
    };

    assert_eq!(json("/api/v1/types/ginkgo/"), json!({"response": ["unofficial", "nightly"]}));
    assert_eq!(json("/api/v1/types/nosuch"), json!({"response": []}));
    assert_eq!(json("/api/v1/devices"), json!({"22.2": ["ginkgo"]}));
    let oems = json!([
        {"name": "google", "devices": [{"model": "oriole", "name": "oriole"}]},
        {"name": "xiaomi", "devices": [{"model": "ginkgo", "name": "ginkgo"}]},
    ]);
    assert_eq!(json("/api/v2/oems"), oems);
    assert_eq!(
        json("/api/v2/devices/ginkgo"),
        json!({
            "model": "ginkgo", "name": "ginkgo", "oem": "xiaomi", "info_url": "", "versions": ["22.2"],
            "dependencies": [],
        })
    );
    assert_eq!(server.get("/api/v2/devices/nosuch").status, 404);
    server.set_clock(START + 181 * fixture::DAY);
    assert_eq!(json("/api/v1/types/ginkgo"), json!({"response": []}));
}
