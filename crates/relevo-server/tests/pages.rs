//! The first page and what operators ask.

mod support;

use relevo_meta::testing::TestRepo;
use serde_json::json;
use support::{START, TestServer, pattern, test_repo};

const DAY: i64 = 86_400;

#[test]
fn an_empty_directory_says_what_to_do_until_a_repository_appears() {
    let server = TestServer::start();

    let (page, ready, file) = (server.get("/"), server.get("/readyz"), server.get("/repo/metadata/timestamp.json"));

    assert_eq!((page.status, file.status), (200, 404));
    for command in ["relevo init DIR", "relevo device add", "relevo import", "relevo publish"] {
        assert!(page.text().contains(command), "{command}");
    }
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["problems"][0]["problem"], "empty");
    assert_eq!(server.get("/healthz").status, 200);

    server.publish(&test_repo());

    assert_eq!(server.get("/repo/metadata/timestamp.json").status, 200);
    let page = server.get("/").text();
    assert!(page.contains("acme roadrunner") && !page.contains("relevo init"), "{page}");
    let ready = server.get("/readyz");
    assert_eq!(
        (ready.status, ready.json()),
        (
            200,
            json!({
                "ready": true,
                "problems": [],
                "repository": { "timestamp_version": 1, "expires": "2026-01-08T00:00:00Z", "devices": 2 },
            })
        )
    );
}

#[test]
fn a_public_repository_alone_is_served_too() {
    let dir = tempfile::tempdir().unwrap();
    let public = dir.path().join("relevo/repo");

    let server = TestServer::start_in(dir, |layer| layer.repository = Some(public));
    server.publish(&test_repo());

    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(server.get("/repo/metadata/1.root.json").status, 200);
    assert!(server.dir.path().join("relevo/repo.db").exists());
}

#[test]
fn the_page_lists_builds_with_their_packages() {
    let server = TestServer::start();
    let repo = test_repo();
    server.publish(&repo);

    let response = server.get("/");

    assert_eq!(response.header("content-type"), "text/html; charset=utf-8");
    assert!(response.header("content-security-policy").contains("default-src 'none'"));
    let page = response.text();
    for part in [
        "acme roadrunner",
        "acme coyote",
        "No builds yet.",
        "build 101",
        "<dd>stable</dd>",
        "<dd>101</dd>",
        "2025-12-31",
        "10.0 KB",
        "Update from 100",
        "1.2 KB",
        "good until <time datetime=\"2026-01-08T00:00:00Z\">2026-01-08 00:00 UTC</time>",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(!page.contains("<script"));
    let links: Vec<&str> = page.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(links.len(), 3);
    for link in links {
        assert_eq!(server.get(link).status, 200, "{link}");
    }
}

#[test]
fn the_page_can_be_asked_for_again_for_nothing() {
    let server = TestServer::start();
    server.publish(&test_repo());
    let page = server.get("/");
    let gzip = server.send("GET", "/", &[("Accept-Encoding", "gzip")]);

    let again = server.send("GET", "/", &[("If-None-Match", page.header("etag"))]);
    let head = server.send("HEAD", "/", &[]);

    assert_eq!((again.status, again.body.len()), (304, 0));
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), page.body.len().to_string());
    assert_eq!(gzip.header("content-encoding"), "gzip");
    assert_ne!(gzip.header("etag"), page.header("etag"));
    assert_eq!(server.send("POST", "/", &[]).status, 405);
}

#[test]
fn text_from_metadata_is_text_on_the_page() {
    let server = TestServer::start();
    let mut repo = TestRepo::new();
    repo.add_device("acme", "roadrunner");
    let custom = json!({
        "kind": "native", "to": "1", "version": "<script>alert(1)</script>\"'&", "timestamp": START, "rollout": 5,
    });
    repo.add_target("acme/roadrunner/stable/x.rvp", b"package", &custom);
    repo.publish();

    server.publish(&repo);
    let page = server.get("/").text();

    assert!(!page.contains("<script"), "{page}");
    assert!(page.contains("&#60;script&#62;"), "{page}");
    assert!(page.contains("offered to 5 % of phones"), "{page}");
}

#[test]
fn a_new_publication_shows_at_once() {
    let server = TestServer::start();
    let mut repo = test_repo();
    server.publish(&repo);
    assert!(!server.get("/").text().contains("build 102"));

    repo.add_package("acme/roadrunner", "beta", "", "102", START, &pattern(500));
    repo.publish();
    server.publish(&repo);

    let page = server.get("/").text();
    assert!(page.contains("build 102") && page.contains("build 101"), "{page}");
    assert_eq!(server.get("/readyz").json()["repository"]["timestamp_version"], 2);
}

#[test]
fn expired_metadata_is_served_and_said_to_be_expired() {
    let server = TestServer::start();
    server.publish(&test_repo());
    assert_eq!(server.get("/readyz").status, 200);

    server.set_clock(START + 7 * DAY);

    let ready = server.get("/readyz");
    assert_eq!(ready.status, 503);
    assert_eq!(
        ready.json()["problems"],
        json!([{
            "part": "repository",
            "problem": "expired",
            "reason": "the role timestamp expired at 2026-01-08T00:00:00Z",
            "next": ["relevo refresh"],
        }])
    );
    let page = server.get("/").text();
    assert!(page.contains("expired on") && page.contains("build 101"), "{page}");
    assert_eq!(server.get("/repo/metadata/timestamp.json").status, 200);
}

#[test]
fn roles_that_will_expire_are_told_of_before() {
    let server = TestServer::start();
    let mut repo = test_repo();
    let expiring = || {
        let roles = server.get("/readyz").json()["repository"]["expiring"].clone();
        let role = |role: &serde_json::Value| format!("{} {} {}", role["role"], role["level"], role["days_left"]);
        roles.as_array().map(|roles| roles.iter().map(role).collect::<Vec<_>>().join(", ").replace('"', ""))
    };
    server.publish(&repo);
    assert_eq!(expiring(), None, "timestamp and snapshot are short-lived by nature");

    server.set_clock(START + 4 * DAY);
    assert_eq!(expiring().unwrap(), "timestamp urgent 3");
    let at = |days: i64| jiff::Timestamp::from_second(START + days * DAY).unwrap();
    repo.timestamp.set_expires(at(173));
    repo.snapshot.set_expires(at(210));
    repo.publish_snapshot();
    repo.publish_timestamp();
    server.publish(&repo);
    server.set_clock(START + 166 * DAY);
    assert_eq!(expiring().unwrap(), "d-coyote soon 14, d-roadrunner soon 14");
    assert_eq!(server.get("/readyz").status, 200);
}

#[test]
fn a_device_whose_role_expired_is_unmaintained_and_harms_nobody() {
    let server = TestServer::start();
    let mut repo = test_repo();
    let later = START + 200 * DAY;
    server.set_clock(later);
    let expires = |days: i64| jiff::Timestamp::from_second(later + days * DAY).unwrap();
    repo.timestamp.set_expires(expires(7));
    repo.snapshot.set_expires(expires(60));
    repo.publish_snapshot();
    repo.publish_timestamp();

    server.publish(&repo);

    let ready = server.get("/readyz");
    assert_eq!((ready.status, &ready.json()["ready"]), (200, &json!(true)), "{}", ready.text());
    assert!(server.get("/").text().contains("it is unmaintained"));
}

#[test]
fn a_repository_that_does_not_verify_is_named_and_still_served() {
    let server = TestServer::start();
    let mut repo = test_repo();
    server.publish(&repo);
    assert_eq!(server.get("/readyz").status, 200);

    let timestamp = repo.metadata.get_mut("timestamp.json").unwrap();
    let at = timestamp.windows(5).position(|window| window == b"\"sig\"").unwrap() + 10;
    timestamp[at] = if timestamp[at] == b'0' { b'1' } else { b'0' };
    server.publish(&repo);

    let ready = server.get("/readyz");
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["problems"][0]["problem"], "untrusted");
    assert!(ready.text().contains("timestamp.json"), "{}", ready.text());
    let page = server.get("/").text();
    assert!(page.contains("does not verify") && page.contains("build 101"), "{page}");
    assert_eq!(server.get("/repo/metadata/timestamp.json").body, repo.metadata["timestamp.json"]);
}

#[test]
fn a_broken_device_role_is_left_out_and_told_of() {
    let server = TestServer::start();
    let mut repo = test_repo();
    repo.metadata.insert("1.d-coyote.json".to_owned(), b"{}".to_vec());

    server.publish(&repo);

    let ready = server.get("/readyz");
    assert_eq!(ready.status, 200, "{}", ready.text());
    assert!(ready.json()["repository"]["troubles"][0].as_str().unwrap().contains("d-coyote"), "{}", ready.text());
    let page = server.get("/").text();
    assert!(page.contains("not verify") && page.contains("build 101") && !page.contains("acme coyote"), "{page}");
}

#[test]
fn the_page_stays_under_50_kb_whatever_the_repository_holds() {
    let server = TestServer::start();
    let mut repo = TestRepo::new();
    let long = |stem: &str, len: usize| format!("{stem}{}", "x".repeat(len - stem.len()));
    let vendor = long("v", 32);
    for number in 0..9 {
        let codename = long(&format!("c{number}"), 48);
        repo.add_device(&vendor, &codename);
        for build in 0..9 {
            for from in 0..9 {
                let from = (from > 0).then(|| long(&format!("f{from}"), 96));
                let custom = json!({
                    "kind": "native", "to": long(&format!("b{build}"), 96), "version": "<".repeat(200),
                    "timestamp": START + build, "from": from, "rollout": 1, "withdrawn": true,
                });
                let file = long(&format!("{build}-{}", from.as_deref().map_or("full", |from| &from[..2])), 180);
                let path = format!("{vendor}/{codename}/{}/{file}", long(&format!("n{}", build % 3), 24));
                repo.add_target(&path, b"package", &custom);
            }
        }
    }
    repo.publish();
    server.publish(&repo);

    let mut shown = 0;
    let mut next = Some("/".to_owned());
    while let Some(path) = next {
        let response = server.get(&path);
        assert_eq!(response.status, 200, "{path}");
        assert!(response.body.len() < 50_000, "{path} has {} bytes", response.body.len());
        let page = response.text();
        shown += page.matches("<h2").count();
        next = page.split("rel=\"next\" href=\"").nth(1).map(|rest| rest.split('"').next().unwrap().to_owned());
    }

    assert_eq!(shown, 9);
    assert_eq!(server.get("/?page=99").status, 404);
    for query in ["page=0", "page=-1", "page=x", "page=99999999999999999999", "page"] {
        assert_eq!(server.get(&format!("/?{query}")).status, 200, "{query}");
    }
}
