//! `/metrics`: on a listener of its own, and nothing in it about who asks.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod support;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use support::{START, TestServer, test_repo};

/// A port that is free now.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn ask(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nUser-Agent: secret-phone\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn value(text: &str, name: &str) -> i64 {
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    line.unwrap_or_else(|| panic!("{name} is not in {text}")).split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn tells_how_long_the_top_roles_live_and_what_was_begun() {
    let address = free();
    let mut server = TestServer::start_in(tempfile::tempdir().unwrap(), |layer| layer.metrics_listen = Some(address));
    assert_eq!(value(&ask(address, "/metrics"), "relevo_repository_ready"), 0);
    server.publish(&test_repo());
    let package = server.repo().join("targets");
    let target =
        support::files(&package).into_iter().find(|path| path.extension().is_some_and(|e| e == "rvp")).unwrap();
    let path = target.strip_prefix(server.repo()).unwrap().display().to_string();
    server.get(&format!("/repo/{path}"));

    let text = ask(address, "/metrics");

    assert!(text.starts_with("HTTP/1.1 200") && text.contains("text/plain; version=0.0.4"), "{text}");
    assert_eq!(value(&text, "relevo_repository_ready"), 1);
    assert_eq!(value(&text, "relevo_role_expires_in_seconds{role=\"timestamp\"}"), 7 * 86_400);
    assert_eq!(value(&text, "relevo_role_expires_in_seconds{role=\"root\"}"), 365 * 86_400);
    assert_eq!(value(&text, "relevo_downloads_begun_total"), 1);
    assert!(value(&text, "relevo_devices") >= 1);
    for secret in ["127.0.0.1", "secret-phone", "ginkgo"] {
        assert!(!text.contains(secret), "{secret}");
    }

    // The database is written every two seconds; the counter goes on all the same, and roles expire.
    server.set_clock(START + 8 * 86_400);
    let text = ask(address, "/metrics");
    assert_eq!(value(&text, "relevo_repository_ready"), 0);
    assert_eq!(value(&text, "relevo_role_expires_in_seconds{role=\"timestamp\"}"), -86_400);
    assert_eq!(value(&text, "relevo_downloads_begun_total"), 1);

    assert!(ask(address, "/repo/metadata/timestamp.json").starts_with("HTTP/1.1 404"));
    assert_eq!(server.get("/metrics").status, 404);
    server.ask_to_stop();
    server.join();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn is_off_unless_it_is_asked_for() {
    let server = TestServer::with_files();

    assert_eq!(server.get("/metrics").status, 404);
}
