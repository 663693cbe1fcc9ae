//! `/repo/**` over the wire.

mod support;

use std::{
    fs,
    io::{Read, Write},
};

use support::{HASH, Response, TestServer, pattern, root_json, target};

fn target_url() -> String {
    format!("/repo/{}", target())
}

#[test]
fn sends_a_target_with_all_that_a_cache_needs() {
    let server = TestServer::with_files();

    let response = server.get(&target_url());

    assert_eq!(response.status, 200);
    assert_eq!(response.body, pattern(1000));
    assert_eq!(response.header("content-length"), "1000");
    assert_eq!(response.header("content-type"), "application/octet-stream");
    assert_eq!(response.header("etag"), format!("\"{HASH}\""));
    assert_eq!(response.header("accept-ranges"), "bytes");
    assert_eq!(response.header("cache-control"), "public, max-age=31536000, immutable");
    assert_eq!(response.header("x-content-type-options"), "nosniff");
    assert!(response.header("last-modified").ends_with(" GMT"));
    assert_eq!(response.header("vary"), "");
}

#[test]
fn metadata_is_immutable_but_for_the_timestamp() {
    let server = TestServer::with_files();

    let root = server.get("/repo/metadata/1.root.json");
    let timestamp = server.get("/repo/metadata/timestamp.json");

    assert_eq!(root.header("cache-control"), "public, max-age=31536000, immutable");
    assert_eq!(root.header("etag"), format!("\"1.root-{}\"", root_json().len()));
    assert_eq!(timestamp.header("cache-control"), "public, max-age=60, must-revalidate");
    assert_eq!(timestamp.header("etag").len(), 66);
    for response in [root, timestamp] {
        assert_eq!(response.header("content-type"), "application/json");
        assert_eq!(response.header("vary"), "Accept-Encoding");
    }
}

#[test]
fn a_new_timestamp_is_served_at_once_under_another_tag() {
    let server = TestServer::with_files();
    let old = server.get("/repo/metadata/timestamp.json");

    server.write("metadata/timestamp.json", br#"{"signed":{"version":2}}"#);
    let new = server.send("GET", "/repo/metadata/timestamp.json", &[("If-None-Match", old.header("etag"))]);

    assert_eq!(new.status, 200);
    assert_eq!(new.text(), r#"{"signed":{"version":2}}"#);
    assert_ne!(new.header("etag"), old.header("etag"));
}

/// Far enough ahead of every file's time for the server to keep files in memory.
const LATER: i64 = 4_000_000_000;

#[test]
fn what_is_kept_in_memory_is_never_older_than_the_file() {
    let server = TestServer::with_files();
    server.set_clock(LATER);
    let path = "/repo/metadata/timestamp.json";
    let zstd = [("Accept-Encoding", "zstd")];
    for version in 0..50 {
        // Same length each time, so that only identity and times tell the files apart.
        let content = format!(r#"{{"signed":{{"version":{}}}}}"#, 100 + version);
        server.write("metadata/timestamp.json", content.as_bytes());

        for _ in 0..3 {
            assert_eq!(server.get(path).text(), content);
            assert_eq!(server.send("GET", path, &zstd).text(), content);
        }
    }

    fs::remove_file(server.repo().join("metadata/timestamp.json")).unwrap();
    assert_eq!(server.get(path).status, 404);
}

#[test]
fn a_file_in_memory_is_answered_like_one_on_disk() {
    let server = TestServer::with_files();
    let path = "/repo/metadata/1.root.json";
    let cases: &[&[(&str, &str)]] = &[
        &[],
        &[("Accept-Encoding", "zstd")],
        &[("Range", "bytes=5-9")],
        &[("If-None-Match", "*")],
        &[("If-Match", "\"x\"")],
    ];
    let ask = || {
        cases.iter().map(|headers| server.send("GET", path, headers)).map(|mut response| {
            response.headers.remove("date");
            // The test's clock is behind the file's time at first, and no such time is sent.
            response.headers.remove("last-modified");
            response
        })
    };
    let from_disk: Vec<Response> = ask().collect();

    server.set_clock(LATER);
    let first: Vec<Response> = ask().collect();
    let second: Vec<Response> = ask().collect();

    assert_eq!((&first, &second), (&from_disk, &from_disk));
}

#[test]
fn a_link_that_is_turned_outside_is_not_followed_from_memory() {
    let server = TestServer::with_files();
    server.set_clock(LATER);
    let (inside, outside) = (server.repo().join("metadata/1.root.json"), server.dir.path().join("outside"));
    let link = server.repo().join("metadata/2.root.json");
    std::os::unix::fs::symlink("1.root.json", &link).unwrap();
    assert_eq!(server.get("/repo/metadata/2.root.json").status, 200);
    assert_eq!(server.get("/repo/metadata/2.root.json").status, 200);

    fs::copy(&inside, &outside).unwrap();
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&outside, &link).unwrap();

    assert_eq!(server.get("/repo/metadata/2.root.json").status, 404);
}

#[test]
fn answers_ranges() {
    let server = TestServer::with_files();
    let all = pattern(1000);
    for (range, status, content_range, body) in [
        ("bytes=0-0", 206, "bytes 0-0/1000", &all[..1]),
        ("bytes=10-19", 206, "bytes 10-19/1000", &all[10..20]),
        ("bytes=990-", 206, "bytes 990-999/1000", &all[990..]),
        ("bytes=-10", 206, "bytes 990-999/1000", &all[990..]),
        ("bytes=-5000", 206, "bytes 0-999/1000", &all[..]),
        ("bytes=0-18446744073709551616", 206, "bytes 0-999/1000", &all[..]),
        ("bytes=1000-", 416, "bytes */1000", b"the file has no such bytes\n"),
        ("bytes=-0", 416, "bytes */1000", b"the file has no such bytes\n"),
        ("bytes=99999999999999999999-", 416, "bytes */1000", b"the file has no such bytes\n"),
        ("bytes=9-5", 200, "", &all[..]),
        ("bytes=0-1,5-6", 200, "", &all[..]),
        ("bytes=x-y", 200, "", &all[..]),
        ("pages=1-2", 200, "", &all[..]),
    ] {
        let response = server.send("GET", &target_url(), &[("Range", range)]);

        assert_eq!(response.status, status, "{range}");
        assert_eq!(response.header("content-range"), content_range, "{range}");
        assert_eq!(response.header("content-length"), body.len().to_string(), "{range}");
        assert_eq!(response.body, body, "{range}");
    }
}

#[test]
fn two_range_fields_are_no_range() {
    let server = TestServer::with_files();

    let response = server.send("GET", &target_url(), &[("Range", "bytes=0-1"), ("Range", "bytes=5-6")]);

    assert_eq!((response.status, response.body.len()), (200, 1000));
}

#[test]
fn if_range_takes_the_exact_tag_or_date_only() {
    let server = TestServer::with_files();
    let modified = server.get(&target_url()).header("last-modified").to_owned();
    let tag = format!("\"{HASH}\"");
    for (if_range, status) in [
        (tag.as_str(), 206),
        (modified.as_str(), 206),
        (&format!("W/{tag}"), 200),
        ("\"other\"", 200),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 200),
        ("rubbish", 200),
    ] {
        let response = server.send("GET", &target_url(), &[("Range", "bytes=0-9"), ("If-Range", if_range)]);

        assert_eq!(response.status, status, "{if_range}");
    }

    let timestamp = server.get("/repo/metadata/timestamp.json");
    let by_date = [("Range", "bytes=0-9"), ("If-Range", timestamp.header("last-modified"))];
    assert_eq!(server.send("GET", "/repo/metadata/timestamp.json", &by_date).status, 200);
}

#[test]
fn answers_conditions() {
    let server = TestServer::with_files();
    let tag = format!("\"{HASH}\"");
    let (weak, among) = (format!("W/{tag}"), format!("\"a\", {tag} , \"b\""));
    let modified = server.get(&target_url()).header("last-modified").to_owned();
    let (past, future) = ("Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT");
    let cases: &[(&[(&str, &str)], u16)] = &[
        (&[("If-None-Match", &tag)], 304),
        (&[("If-None-Match", &weak)], 304),
        (&[("If-None-Match", &among)], 304),
        (&[("If-None-Match", "\"a\""), ("If-None-Match", &tag)], 304),
        (&[("If-None-Match", "*")], 304),
        (&[("If-None-Match", "\"a\"")], 200),
        (&[("If-None-Match", "")], 200),
        (&[("If-Modified-Since", &modified)], 304),
        (&[("If-Modified-Since", future)], 304),
        (&[("If-Modified-Since", past)], 200),
        (&[("If-Modified-Since", "yesterday")], 200),
        // The tag decides where there are both.
        (&[("If-None-Match", "\"a\""), ("If-Modified-Since", future)], 200),
        (&[("If-None-Match", &tag), ("If-Modified-Since", past)], 304),
        (&[("If-Match", &tag)], 200),
        (&[("If-Match", "*")], 200),
        (&[("If-Match", &weak)], 412),
        (&[("If-Match", "\"a\"")], 412),
        (&[("If-Unmodified-Since", &modified)], 200),
        (&[("If-Unmodified-Since", past)], 412),
        // A condition comes before the range.
        (&[("If-None-Match", &tag), ("Range", "bytes=0-1")], 304),
        (&[("If-Match", "\"a\""), ("Range", "bytes=0-1")], 412),
    ];
    for method in ["GET", "HEAD"] {
        for (headers, status) in cases {
            let response = server.send(method, &target_url(), headers);

            assert_eq!(response.status, *status, "{method} {headers:?}");
            if *status == 304 {
                assert_eq!(response.body, b"", "{method} {headers:?}");
                assert_eq!(response.header("etag"), tag);
                assert_eq!(response.header("cache-control"), "public, max-age=31536000, immutable");
            }
        }
    }
}

#[test]
fn head_is_get_without_the_body() {
    let server = TestServer::with_files();
    for path in [target_url(), "/repo/metadata/1.root.json".into(), "/repo/metadata/timestamp.json".into()] {
        let mut get = server.get(&path);
        let mut head = server.send("HEAD", &path, &[]);

        assert_eq!(head.body, b"");
        assert_eq!(head.header("content-length"), get.body.len().to_string());
        for response in [&mut get, &mut head] {
            response.body.clear();
            response.headers.remove("date");
        }
        assert_eq!(head, get, "{path}");
    }
}

#[test]
fn head_ignores_a_range() {
    let server = TestServer::with_files();

    let response = server.send("HEAD", &target_url(), &[("Range", "bytes=0-1")]);

    assert_eq!((response.status, response.header("content-length")), (200, "1000"));
}

#[test]
fn other_methods_are_told_which_there_are() {
    let server = TestServer::with_files();
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"] {
        let response = server.send(method, &target_url(), &[]);

        assert_eq!(response.status, 405, "{method}");
        assert_eq!(response.header("allow"), "GET, HEAD", "{method}");
    }
}

#[test]
fn compresses_metadata_under_a_tag_of_its_own_and_targets_never() {
    let server = TestServer::with_files();
    let path = "/repo/metadata/1.root.json";
    let plain = server.get(path);

    let zstd = server.send("GET", path, &[("Accept-Encoding", "zstd")]);
    let gzip = server.send("GET", path, &[("Accept-Encoding", "gzip, deflate, br")]);
    let refused = server.send("GET", path, &[("Accept-Encoding", "gzip;q=0, identity")]);
    let again = server.send("GET", path, &[("Accept-Encoding", "zstd"), ("If-None-Match", zstd.header("etag"))]);
    let crossed = server.send("GET", path, &[("Accept-Encoding", "zstd"), ("If-None-Match", plain.header("etag"))]);
    let ranged = server.send("GET", path, &[("Accept-Encoding", "zstd"), ("Range", "bytes=0-9")]);
    let target = server.send("GET", &target_url(), &[("Accept-Encoding", "zstd, gzip")]);

    assert_eq!(zstd.header("content-encoding"), "zstd");
    assert_eq!(zstd::bulk::decompress(&zstd.body, 1 << 20).unwrap(), root_json());
    assert_eq!(gzip.header("content-encoding"), "gzip");
    let mut unzipped = Vec::new();
    flate2::read::GzDecoder::new(&gzip.body[..]).read_to_end(&mut unzipped).unwrap();
    assert_eq!(unzipped, root_json());
    let tags = [&plain, &zstd, &gzip].map(|response| response.header("etag").to_owned());
    assert!(tags[0] != tags[1] && tags[0] != tags[2] && tags[1] != tags[2], "{tags:?}");
    assert_eq!((refused.header("content-encoding"), &refused.body), ("", &root_json()));
    assert_eq!(again.status, 304);
    assert_eq!(crossed.status, 200);
    assert_eq!((ranged.status, ranged.header("content-encoding")), (206, ""));
    assert_eq!((target.header("content-encoding"), target.body.len()), ("", 1000));
}

#[test]
fn paths_that_leave_the_layout_do_not_exist() {
    let server = TestServer::with_files();
    let secret = server.dir.path().join("relevo/keys");
    fs::create_dir_all(&secret).unwrap();
    fs::write(secret.join("root.key"), "secret").unwrap();
    fs::write(server.repo().join("metadata/.tmpAbc"), "secret").unwrap();
    fs::write(server.repo().join("metadata/notes.json"), "secret").unwrap();
    fs::write(server.repo().join("secret.json"), "secret").unwrap();
    fs::create_dir_all(server.repo().join("metadata/2.root.json")).unwrap();
    fs::write(server.dir.path().join("relevo/1.root.json"), "secret").unwrap();
    let long = format!("/repo/metadata/{}", "a/".repeat(3000));
    for path in [
        "/repo",
        "/repo/",
        "/repo/metadata",
        "/repo/metadata/",
        "/repo/targets/",
        "/repo/secret.json",
        "/repo/metadata/.tmpAbc",
        "/repo/metadata/notes.json",
        "/repo/metadata/2.root.json",
        "/repo/metadata/3.root.json",
        "/repo/../keys/root.key",
        "/repo/metadata/../../keys/root.key",
        "/repo/metadata/../../1.root.json",
        "/repo/metadata/%2e%2e/%2e%2e/keys/root.key",
        "/repo/metadata/..%2f..%2fkeys%2froot.key",
        "/repo/metadata/%252e%252e%252fkeys",
        "/repo/metadata/..%5c..%5ckeys",
        "/repo/%2e%2e/keys/root.key",
        "/repo//metadata/1.root.json",
        "/repo/./metadata/1.root.json",
        "/repo/metadata//1.root.json",
        "//repo/metadata/1.root.json",
        "/%2e%2e/repo/metadata/1.root.json",
        "/repo/metadata/1.root.json%00",
        "/repo/metadata/1.root.json%00.json",
        "/repo/metadata/%00",
        "/repo/metadata/%",
        "/repo/metadata/%c0%ae%c0%ae/x",
        "/repo/metadata/1.root.json/",
        "/repo/targets/../metadata/1.root.json",
        "/Repo/metadata/1.root.json",
        &long,
    ] {
        let response = server.get(path);

        assert_eq!(response.status, 404, "{path}");
        assert!(!response.text().contains("secret"), "{path}");
    }
}

#[test]
fn symlinks_that_lead_out_do_not_exist() {
    let server = TestServer::with_files();
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, server.repo().join(name)).unwrap();
    fs::write(server.dir.path().join("relevo/root.key"), "secret").unwrap();
    link("../../root.key", "metadata/2.root.json");
    link("/etc/passwd", "metadata/3.root.json");
    link("/etc", "targets/etc");
    link("4.root.json", "metadata/4.root.json");
    link("1.root.json", "metadata/5.root.json");

    for version in [2, 3, 4] {
        assert_eq!(server.get(&format!("/repo/metadata/{version}.root.json")).status, 404, "{version}");
    }
    assert_eq!(server.get(&format!("/repo/targets/etc/a/b/{HASH}.x")).status, 404);
    // Inside of the repository a link is a file like any other: some publish by linking.
    assert_eq!(server.get("/repo/metadata/5.root.json").body, root_json());
}

#[test]
fn hostile_requests_get_cheap_clean_answers() {
    let server = TestServer::with_files();
    let get = |rest: &str| format!("GET {rest}\r\nHost: test\r\nConnection: close\r\n\r\n").into_bytes();
    let with = |header: String| {
        format!("GET {} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{header}\r\n\r\n", target_url()).into_bytes()
    };
    let requests: Vec<Vec<u8>> = vec![
        b"\0\0\0\0\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        get("/repo/metadata/\0 HTTP/1.1"),
        get("/repo/\u{202e}/x HTTP/1.1"),
        get(&format!("/{} HTTP/1.1", "a".repeat(200_000))),
        get(&format!("/repo/metadata/{} HTTP/1.1", "%2e".repeat(20_000))),
        get(&format!("/repo/{} HTTP/1.1", "../".repeat(15_000))),
        get("http://example.org/repo/metadata/%00 HTTP/1.1"),
        get("* HTTP/1.1"),
        get("/repo/metadata/x HTTP/9.9"),
        with(format!("Range: bytes={}-{}", "9".repeat(5000), "9".repeat(5000))),
        with(format!("Range: bytes={}", "0-0,".repeat(5000))),
        with(format!("If-None-Match: {}", "\"a\",".repeat(5000))),
        with(format!("Accept-Encoding: {}", "gzip;q=0.1,".repeat(2000))),
        with("Range: \u{7f}\u{80}".to_owned()),
        with("If-Modified-Since: Thu, 99 Foo 99999999999 99:99:99 GMT".to_owned()),
        with(format!("X: {}", "y".repeat(300_000))),
        with("X: y\r\n".repeat(500)),
        with("Content-Length: 99999999999999999999".to_owned()),
        with("Content-Length: 1\r\nTransfer-Encoding: chunked".to_owned()),
    ];
    for request in requests {
        let response = server.raw(&request);

        let shown = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        assert!(response.status < 500, "{} for {shown}", response.status);
    }
    assert_eq!(server.get(&target_url()).status, 200);
}

#[test]
fn everybody_gets_the_same_bytes() {
    let server = TestServer::with_files();
    let plain = |mut response: Response| {
        response.headers.remove("date");
        response
    };
    for path in [target_url(), "/repo/metadata/1.root.json".into(), "/repo/metadata/timestamp.json".into(), "/".into()]
    {
        let expected = plain(server.get(&path));
        for (name, value) in [
            ("X-Forwarded-For", "200.55.128.1"),
            ("X-Real-IP", "5.160.0.1"),
            ("Forwarded", "for=82.137.192.1"),
            ("CF-IPCountry", "CU"),
            ("User-Agent", "Dalvik/2.1.0 (Linux; U; Android 15; Redmi Note 8)"),
            ("Accept-Language", "fa"),
            ("Cookie", "id=1"),
            ("Referer", "http://example.org/"),
            ("X-Device-Id", "1"),
        ] {
            assert_eq!(plain(server.send("GET", &path, &[(name, value)])), expected, "{path} with {name}");
        }
        assert_eq!(plain(server.get(&format!("{path}?id=1"))), expected, "{path} with a query");
    }
}

#[test]
fn a_file_that_is_replaced_while_it_is_sent_stays_the_one_that_was_opened() {
    let server = TestServer::with_files();
    let old = pattern(64 << 20);
    server.write(&target(), &old);
    let mut stream = server.connect();
    write!(stream, "GET {} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n", target_url()).unwrap();
    let mut received = vec![0; 1000];
    stream.read_exact(&mut received).unwrap();

    server.write(&target(), b"new");
    stream.read_to_end(&mut received).unwrap();

    let start = received.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(received[start..] == old[..], "{} bytes came", received.len() - start);
    assert_eq!(server.get(&target_url()).body, b"new");
}
