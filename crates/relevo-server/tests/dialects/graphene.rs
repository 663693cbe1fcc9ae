//! GrapheneOS's updater, and CalyxOS's, which comes from it.
//!
//! # Source
//! `GrapheneOS/platform_packages_apps_Updater` (24cdeac), `Service.java`; `CalyxOS` (b6484c5).

use relevo_meta::testing::TestRepo;

use crate::{
    fixture::{self, HOST, add, made, server, zip},
    net::Network,
    support::TestServer,
};

struct Phone {
    network: Network,
    device: &'static str,
    channel: &'static str,
    build: u32,
}

/// What the app downloaded.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// Which file, and its bytes.
    Zip(String, Vec<u8>),
}

/// Where the app starts.
const BASE: &str = "https://ota.example/graphene/";

impl Phone {
    fn of(server: &TestServer, build: u32) -> Self {
        Self { network: Network::of(HOST, server.address), device: "ginkgo", channel: "stable", build }
    }

    /// Looks for an update and downloads it after the bytes that are there already; the status if there is no such line.
    fn update(&self, have: &[u8]) -> Result<Found, u16> {
        let line = self.network.follow(&format!("{BASE}{}-{}", self.device, self.channel), &[]).unwrap();
        if line.status != 200 {
            return Err(line.status);
        }
        let line = line.text().lines().next().unwrap().to_owned();
        let words: Vec<&str> = line.split(' ').collect();
        let [target, date, device, channel] = words.try_into().expect("four words");
        let date: i64 = date.parse().unwrap();
        if date <= made(self.build) {
            return Ok(Found::Nothing);
        }
        assert_eq!((device, channel), (self.device, self.channel), "the app throws");
        let delta = format!("{}-incremental-eng.{}-{target}.zip", self.device, self.build);
        let full = format!("{}-ota_update-{target}.zip", self.device);
        for name in [delta, full] {
            if let Some(bytes) = self.download(&name, have) {
                return Ok(Found::Zip(name, bytes));
            }
        }
        panic!("neither is there");
    }

    /// `None` is what makes Java throw. No 206 is asked for: a 200 to a range would be appended all the same.
    fn download(&self, name: &str, have: &[u8]) -> Option<Vec<u8>> {
        let range = format!("bytes={}-", have.len());
        let headers: Vec<(&str, &str)> = if have.is_empty() { Vec::new() } else { vec![("Range", &range)] };
        let response = self.network.follow(&format!("{BASE}{name}"), &headers).ok()?;
        match response.status {
            416 => Some(have.to_vec()),
            status if status >= 400 => None,
            _ => Some([have, &response.body].concat()),
        }
    }
}

#[test]
fn a_phone_gets_the_incremental_of_its_build() {
    let server = server(&fixture::repo());

    let found = Phone::of(&server, 102).update(&[]).unwrap();

    let name = "ginkgo-incremental-eng.102-eng.103.zip".to_owned();
    assert_eq!(found, Found::Zip(name, zip(Some(102), 103)));
}

#[test]
fn a_phone_with_a_build_that_nobody_knows_gets_the_full_package() {
    let server = server(&fixture::repo());

    let found = Phone::of(&server, 99).update(&[]).unwrap();

    assert_eq!(found, Found::Zip("ginkgo-ota_update-eng.103.zip".to_owned(), zip(None, 103)));
}

#[test]
fn a_download_goes_on_where_it_was_also_at_its_end() {
    let server = server(&fixture::repo());
    let (phone, bytes) = (Phone::of(&server, 102), zip(Some(102), 103));

    for have in [1, 1_500, bytes.len()] {
        let name = "ginkgo-incremental-eng.102-eng.103.zip".to_owned();
        assert_eq!(phone.update(&bytes[..have]).unwrap(), Found::Zip(name, bytes.clone()), "{have}");
    }
}

#[test]
fn a_phone_with_the_newest_build_finds_nothing() {
    let server = server(&fixture::repo());

    assert_eq!(Phone::of(&server, 103).update(&[]), Ok(Found::Nothing));
}

#[test]
fn the_line_is_of_the_channel_and_of_the_name_that_was_asked_for() {
    let mut repo = fixture::repo();
    add(&mut repo, "beta", None, 110, |_| {});
    repo.publish();
    let server = server(&repo);
    let line = |path: &str| {
        let response = server.get(path);
        (response.status, response.text())
    };

    assert_eq!(line("/graphene/ginkgo-stable"), (200, format!("eng.103 {} ginkgo stable\n", made(103))));
    assert_eq!(line("/graphene/ginkgo-beta"), (200, format!("eng.110 {} ginkgo beta\n", made(110))));
    assert_eq!(line("/graphene/willow-beta"), (200, format!("eng.110 {} willow beta\n", made(110))));
    for path in ["/graphene/ginkgo-alpha", "/graphene/nosuch-stable", "/graphene/ginkgo", "/graphene/ginkgo-x.zip"] {
        assert_eq!(line(path).0, 404, "{path}");
    }
    assert_eq!(server.get("/graphene/ginkgo-stable").header("content-type"), "text/plain; charset=utf-8");
    let overview = serde_json::json!({"ginkgo": {"stable": "eng.103", "beta": "eng.110"}});
    assert_eq!(server.get("/graphene/overview.json").json(), overview);
}

#[test]
fn what_not_every_phone_may_install_has_no_name_here() {
    let mut repo = fixture::repo();
    add(&mut repo, "stable", None, 104, |custom| custom["floor"] = "eng.102".into());
    add(&mut repo, "stable", None, 103, |custom| custom["withdrawn"] = true.into());
    add(&mut repo, "stable", Some(102), 103, |custom| custom["rollout"] = 50.into());
    repo.publish();
    let server = server(&repo);

    assert!(server.get("/graphene/ginkgo-stable").text().starts_with("eng.102 "));
    for file in ["ota_update-eng.104", "ota_update-eng.103", "incremental-eng.102-eng.103"] {
        assert_eq!(server.get(&format!("/graphene/ginkgo-{file}.zip")).status, 404, "{file}");
    }
}

#[test]
fn a_zip_has_what_caches_need_and_no_address_is_needed_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start_in(dir, |_| {});
    server.publish(&fixture::repo());
    assert_eq!(server.get("/").status, 200);
    let path = "/graphene/ginkgo-ota_update-eng.103.zip";

    let (response, head) = (server.get(path), server.send("HEAD", path, &[]));

    assert_eq!((response.status, response.body.len()), (200, 20_000));
    assert_eq!(response.header("content-type"), "application/zip");
    assert_eq!(response.header("accept-ranges"), "bytes");
    // The name says the build, not its bytes.
    assert_eq!(response.header("cache-control"), "public, max-age=60, must-revalidate");
    assert_eq!(head.header("content-length"), "20000");
    let again = server.send("GET", path, &[("If-None-Match", response.header("etag"))]);
    assert_eq!(again.status, 304);
    assert_eq!(server.send("POST", path, &[]).status, 405);
}

#[test]
fn a_device_with_a_dash_in_its_name_is_found() {
    let mut repo = TestRepo::new();
    repo.add_device("samsung", "SM-A520F");
    let mut custom = fixture::custom(None, 101);
    custom["ab"]["devices"] = serde_json::json!(["SM-A520F"]);
    repo.add_target("samsung/SM-A520F/stable/x.zip", &zip(None, 101), &custom);
    repo.publish();
    let server = server(&repo);

    let line = server.get("/graphene/SM-A520F-stable").text();
    assert!(line.ends_with(" SM-A520F stable\n"), "{line}");
    assert_eq!(server.get("/graphene/SM-A520F-ota_update-eng.101.zip").status, 200);
}
