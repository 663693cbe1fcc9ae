//! LineageOS's updater until 22.2.
//!
//! # Source
//! `LineageOS/android_packages_apps_Updater` of October 2024: `misc/Utils.java` (`parseJsonUpdate`, `isCompatible`,
//! `canInstall`), `UpdatesActivity.java` (order), `download/HttpURLConnectionClient.java` (everything about downloads).

use serde_json::Value;

use crate::{
    fixture::{self, HOST, add, file, made, server, server_with, zip},
    net::Network,
    support::{Response, TestServer},
};

/// A phone with the app.
struct Phone {
    network: Network,
    /// `lineage.updater.uri`.
    uri: String,
    device: &'static str,
    /// `ro.lineage.releasetype`.
    release_type: &'static str,
    /// `ro.lineage.build.version`.
    version: &'static str,
    /// Number of the build that it runs.
    build: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Update {
    datetime: i64,
    filename: String,
    id: String,
    romtype: String,
    size: u64,
    url: String,
    version: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// `IOException`.
    Io,
    /// A status that the app takes for an error.
    Status(u16),
    /// The answer to a range was no part.
    NoResume,
}

impl Phone {
    fn of(server: &TestServer, build: u32) -> Self {
        Self {
            network: Network::of(HOST, server.address),
            uri: format!("https://{HOST}/api/v1/{{device}}/{{type}}/{{incr}}"),
            device: "ginkgo",
            release_type: "UNOFFICIAL",
            version: "22.2",
            build,
        }
    }

    fn url(&self) -> String {
        let incremental = format!("eng.{}", self.build);
        let url = self.uri.replace("{device}", self.device).replace("{incr}", &incremental);
        let url = url.replace("{type}", &self.release_type.to_lowercase());
        assert!(url.starts_with("https://"), "the app's manifest forbids cleartext: {url}");
        url
    }

    /// The updates that the app shows.
    fn check(&self) -> Result<Vec<Update>, Failure> {
        let response = self.network.follow(&self.url(), &[]).map_err(|_| Failure::Io)?;
        if !(200..300).contains(&response.status) {
            return Err(Failure::Status(response.status));
        }
        let list = response.json()["response"].as_array().expect("getJSONArray(\"response\")").clone();
        let mut updates: Vec<Update> =
            list.iter().filter_map(parse).filter(|update| self.is_compatible(update)).collect();
        updates.sort_by_key(|update| std::cmp::Reverse(update.datetime));
        Ok(updates)
    }

    fn is_compatible(&self, update: &Update) -> bool {
        // String.compareTo.
        update.version.as_str() >= self.version
            && update.datetime > made(self.build)
            && update.romtype.eq_ignore_ascii_case(self.release_type)
    }

    fn can_install(&self, update: &Update) -> bool {
        update.version == self.version
    }

    /// Downloads what comes after `have`.
    fn download(&self, update: &Update, have: &[u8]) -> Result<Vec<u8>, Failure> {
        let range = format!("bytes={}-", have.len());
        let headers: Vec<(&str, &str)> = if have.is_empty() { Vec::new() } else { vec![("Range", &range)] };
        assert!(update.url.starts_with("https://"), "the app's manifest forbids cleartext: {}", update.url);
        let first = self.network.get(&update.url, &headers).map_err(|_| Failure::Io)?;
        let mut response = Ok(first.clone());
        if (300..400).contains(&first.status) {
            let mut urls = vec![(0, first.header("location").to_owned())];
            urls.extend(duplicates(&first));
            urls.sort_by_key(|(priority, _)| *priority);
            response = Err(Failure::Io);
            for (_, url) in urls {
                if url.split(':').next() != update.url.split(':').next() {
                    continue;
                }
                response = match self.network.get(&url, &headers) {
                    Err(_) => Err(Failure::Io),
                    Ok(answer) if !(200..300).contains(&answer.status) => Err(Failure::Status(answer.status)),
                    Ok(answer) => Ok(answer),
                };
                if response.is_ok() {
                    break;
                }
            }
        }
        let response = response?;
        match response.status {
            206 if !have.is_empty() => Ok([have, &response.body].concat()),
            200 if have.is_empty() => Ok(response.body),
            200 => Err(Failure::NoResume),
            status => Err(Failure::Status(status)),
        }
    }
}

/// One item; an item without a field that the app reads is skipped, and the others stay.
fn parse(item: &Value) -> Option<Update> {
    let text = |key: &str| item[key].as_str().map(str::to_owned);
    Some(Update {
        datetime: item["datetime"].as_i64()?,
        filename: text("filename")?,
        id: text("id")?,
        romtype: text("romtype")?,
        size: item["size"].as_u64()?,
        url: text("url")?,
        version: text("version")?,
    })
}

/// The mirrors in the `Link` fields: `(?i)<(.+)>\s*;\s*rel=duplicate(?:.*pri=([0-9]+).*|.*)?`, over the whole value.
fn duplicates(response: &Response) -> Vec<(u32, String)> {
    let link = |value: &str| {
        let inner = value.strip_prefix('<')?;
        // Greedy: the last place where the rest fits.
        let (url, rest) = inner.rmatch_indices('>').find_map(|(at, _)| {
            let rest = inner[at + 1..].trim_start().strip_prefix(';')?.trim_start();
            let rest = rest
                .get(.."rel=duplicate".len())
                .filter(|word| word.eq_ignore_ascii_case("rel=duplicate"))
                .and(Some(rest))?;
            (at > 0).then_some((&inner[..at], rest))
        })?;
        let number = |at: usize| {
            let digits: String = rest[at + 4..].chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        };
        let priority = rest.rmatch_indices("pri=").find_map(|(at, _)| number(at));
        Some((priority.unwrap_or(999_999), url.to_owned()))
    };
    response.header("link").lines().filter_map(link).collect()
}

#[test]
fn a_phone_gets_the_delta_from_its_own_build_first_and_the_full_package_second() {
    let server = server(&fixture::repo());
    let phone = Phone::of(&server, 102);

    let updates = phone.check().unwrap();

    let names: Vec<&str> = updates.iter().map(|update| update.filename.as_str()).collect();
    assert_eq!(names, [file(Some(102), 103), file(None, 103)]);
    assert!(updates.iter().all(|update| phone.can_install(update)));
    assert_eq!((updates[0].datetime, updates[1].datetime), (made(103), made(103) - 1));
    assert_ne!(updates[0].id, updates[1].id);
    for (update, bytes) in updates.iter().zip([zip(Some(102), 103), zip(None, 103)]) {
        assert_eq!(update.size, bytes.len() as u64);
        assert_eq!(phone.download(update, &[]).unwrap(), bytes);
        assert_eq!(phone.download(update, &bytes[..1_000]).unwrap(), bytes, "resumed");
    }
}

#[test]
fn a_phone_two_builds_back_sees_each_way_on() {
    let server = server(&fixture::repo());

    let updates = Phone::of(&server, 101).check().unwrap();

    let names: Vec<&str> = updates.iter().map(|update| update.filename.as_str()).collect();
    assert_eq!(names, [file(Some(101), 103), file(None, 103), file(Some(101), 102), file(None, 102)].map(String::leak));
}

#[test]
fn a_phone_with_the_newest_build_sees_nothing_and_one_with_an_unknown_build_the_full_packages() {
    let server = server(&fixture::repo());

    assert_eq!(Phone::of(&server, 103).check().unwrap(), []);
    let unknown = Phone::of(&server, 99).check().unwrap();

    assert!(unknown.iter().all(|update| update.filename.ends_with("-full.zip")), "{unknown:?}");
    assert_eq!(unknown[0].datetime, made(103));
}

#[test]
fn ids_stay_the_same_from_poll_to_poll() {
    let server = server(&fixture::repo());
    let phone = Phone::of(&server, 101);
    let ids = || phone.check().unwrap().into_iter().map(|update| update.id).collect::<Vec<_>>();

    assert_eq!(ids(), ids());
}

#[test]
fn a_device_that_nobody_knows_gets_an_empty_list() {
    let server = server(&fixture::repo());

    let response = server.get("/api/v1/nosuch/unofficial/eng.1");

    assert_eq!((response.status, response.text()), (200, r#"{"response":[]}"#.to_owned()));
}

#[test]
fn what_is_withdrawn_or_not_for_all_is_not_listed() {
    let mut repo = fixture::repo();
    add(&mut repo, "stable", None, 104, |custom| custom["rollout"] = 99.into());
    add(&mut repo, "stable", Some(102), 104, |custom| custom["rollout"] = 99.into());
    add(&mut repo, "stable", None, 103, |custom| custom["withdrawn"] = true.into());
    add(&mut repo, "stable", None, 105, |custom| {
        custom["kind"] = "native".into();
        custom["ab"].take();
    });
    repo.publish();
    let server = server(&repo);

    let names: Vec<String> =
        Phone::of(&server, 102).check().unwrap().into_iter().map(|update| update.filename).collect();

    assert_eq!(names, [file(Some(102), 103)]);
}

#[test]
fn a_build_with_a_floor_is_for_phones_that_say_they_are_above_it() {
    let mut repo = fixture::repo();
    add(&mut repo, "stable", None, 104, |custom| custom["floor"] = "eng.102".into());
    repo.publish();
    let server = server(&repo);
    let newest = |build| Phone::of(&server, build).check().unwrap().remove(0).filename;

    assert_eq!(newest(101), file(Some(101), 103));
    assert_eq!(newest(102), file(None, 104));
    assert_eq!(newest(103), file(None, 104));
    // Of a build that the repository does not know, nobody can say what is behind it.
    assert_eq!(newest(99), file(None, 103));
}

#[test]
fn the_release_type_chooses_the_channel() {
    let mut repo = fixture::repo();
    add(&mut repo, "beta", None, 110, |_| {});
    add(&mut repo, "nightly", None, 120, |custom| custom["ab"]["release_type"] = "NIGHTLY".into());
    repo.publish();
    let server = server(&repo);
    let mut phone = Phone::of(&server, 103);

    assert_eq!(phone.check().unwrap(), [], "beta builds are of the same type, and not for phones on stable");
    phone.release_type = "NIGHTLY";
    assert_eq!(phone.check().unwrap()[0].filename, file(None, 120));
    phone.release_type = "UNOFFICIAL";
    phone.uri = format!("https://{HOST}/api/v1/{{device}}/beta/{{incr}}");
    assert_eq!(phone.check().unwrap()[0].filename, file(None, 110));
}

#[test]
fn another_name_of_the_device_is_the_same_device() {
    let server = server(&fixture::repo());
    let mut phone = Phone::of(&server, 102);
    phone.device = "willow";

    assert_eq!(phone.check().unwrap().len(), 2);
}

#[test]
fn a_device_whose_role_expired_has_nothing() {
    let server = server(&fixture::repo());

    server.set_clock(made(200) + 181 * fixture::DAY);

    assert_eq!(Phone::of(&server, 101).check().unwrap(), []);
}

#[test]
fn a_new_build_is_seen_without_a_restart() {
    let mut repo = fixture::repo();
    let server = server(&repo);
    let phone = Phone::of(&server, 103);
    assert_eq!(phone.check().unwrap(), []);

    add(&mut repo, "stable", Some(103), 104, |_| {});
    repo.publish();
    fixture::publish(&server, &repo);

    crate::support::eventually("the build is listed", || phone.check().unwrap().len() == 1);
}

#[test]
fn without_an_https_address_there_is_no_answer_that_the_app_could_not_use() {
    for public_url in [None, Some("http://ota.example".to_owned())] {
        let dir = tempfile::tempdir().unwrap();
        let server = TestServer::start_in(dir, |layer| layer.public_url = public_url);
        server.publish(&fixture::repo());
        assert_eq!(server.get("/").status, 200);

        let response = server.get("/api/v1/ginkgo/unofficial/eng.101");

        assert_eq!(response.status, 503);
        assert!(response.text().contains("public_url"), "{}", response.text());
    }
}

#[test]
fn a_poll_that_finds_nothing_new_costs_a_304() {
    let server = server(&fixture::repo());
    let path = "/api/v1/ginkgo/unofficial/eng.101";
    let first = server.get(path);
    let gzip = server.send("GET", path, &[("Accept-Encoding", "gzip")]);

    let again = server.send("GET", path, &[("If-None-Match", first.header("etag"))]);
    let head = server.send("HEAD", path, &[]);

    assert_eq!(first.header("content-type"), "application/json");
    assert_eq!(first.header("cache-control"), "public, max-age=60, must-revalidate");
    assert_eq!((again.status, again.body.len()), (304, 0));
    assert_eq!((head.status, head.header("content-length")), (200, first.body.len().to_string().as_str()));
    assert_eq!(gzip.header("content-encoding"), "gzip");
    assert_ne!(gzip.header("etag"), first.header("etag"));
    assert_eq!(server.send("POST", path, &[]).status, 405);
}

const MIRRORS: [&str; 3] = ["https://near.example/repo/", "http://cleartext.example/repo/", "https://far.example/repo"];

#[test]
fn mirrors_are_tried_in_the_operators_order_and_the_origin_last() {
    let repo = fixture::repo();
    let (server, far) = (server_with(&repo, &MIRRORS), fixture::server(&repo));
    let mut phone = Phone::of(&server, 102);
    let update = phone.check().unwrap().remove(0);
    let (bytes, response) = (zip(Some(102), 103), phone.network.get(&update.url, &[]).unwrap());

    assert_eq!(response.status, 302);
    let path = update.url.split("/get/").nth(1).unwrap();
    let expected = ["near.example", "far.example", HOST].map(|host| format!("https://{host}/repo/targets/{path}"));
    assert_eq!(response.header("location"), expected[0]);
    let links: Vec<(u32, String)> = duplicates(&response);
    assert_eq!(links, (1..).zip(expected).collect::<Vec<_>>());
    // No mirror answers: the origin does. Then one does.
    assert_eq!(phone.download(&update, &[]).unwrap(), bytes);
    assert_eq!(phone.download(&update, &bytes[..2_999]).unwrap(), bytes);
    phone.network = phone.network.and("far.example", far.address);
    assert_eq!(phone.download(&update, &bytes[..1]).unwrap(), bytes);
    phone.network = Network::of("far.example", far.address);
    assert_eq!(phone.download(&update, &bytes[..1]), Err(Failure::Io), "the first request goes to the origin");
}

#[test]
fn what_the_repository_does_not_list_is_not_sent_to_mirrors() {
    let mut repo = fixture::repo();
    add(&mut repo, "stable", None, 103, |custom| custom["withdrawn"] = true.into());
    repo.publish();
    let server = server_with(&repo, &MIRRORS);
    let digest = |bytes: &[u8]| relevo_meta::Target::of(bytes).sha256;
    let get = |from, to| {
        let sha256 = digest(&zip(from, to));
        server.get(&format!("/get/xiaomi/ginkgo/stable/{sha256}.{}", file(from, to))).status
    };

    assert_eq!(get(None, 102), 302);
    assert_eq!(get(None, 103), 404, "it was withdrawn");
    assert_eq!(get(None, 104), 404);
    for path in ["/get/", "/get", "/get/../repo/metadata/1.root.json", "/get/a/b/c/d", "/get//evil.example/x"] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
}

#[test]
fn a_package_names_its_mirrors_where_it_is() {
    let server = server_with(&fixture::repo(), &MIRRORS);
    let update = Phone::of(&server, 102).check().unwrap().remove(0);
    let path = update.url.split("/get/").nth(1).unwrap();

    let whole = server.get(&format!("/repo/targets/{path}"));
    let part = server.send("GET", &format!("/repo/targets/{path}"), &[("Range", "bytes=5-")]);

    assert_eq!((whole.status, part.status), (200, 206));
    assert_eq!(duplicates(&whole), duplicates(&part));
    assert_eq!(duplicates(&whole).len(), 3);
    assert_eq!(server.get("/repo/metadata/timestamp.json").header("link"), "");
}

#[test]
fn the_lines_of_mirrors_are_what_the_app_looks_for() {
    let line = "<https://ftp.acc.umu.se/mirror/lineageos/full/mido/20170914/x.zip>; rel=duplicate; pri=1; geo=se";
    let of = |value: &str| {
        let mut response = Response { status: 302, headers: std::collections::BTreeMap::new(), body: Vec::new() };
        response.headers.insert("link".to_owned(), value.to_owned());
        duplicates(&response)
    };

    assert_eq!(of(line), [(1, "https://ftp.acc.umu.se/mirror/lineageos/full/mido/20170914/x.zip".to_owned())]);
    assert_eq!(of("<https://a/x>; rel=\"duplicate\"; pri=1"), []);
    assert_eq!(of("<https://a/x>; pri=1; rel=duplicate"), []);
    assert_eq!(of("<https://a/x>; rel=duplicate")[0].0, 999_999);
}
