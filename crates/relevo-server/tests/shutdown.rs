//! Stopping: running downloads finish, idle and stuck connections hold nothing up for long.

#![expect(clippy::unwrap_used, reason = "clippy knows tests only by their attribute, and helpers have none")]

mod support;

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use support::{TestServer, eventually, pattern, target};

/// Larger than all socket buffers together, so that the server is certainly still sending.
const LARGE: usize = 64 << 20;

/// A download that has begun and is not being read.
fn begin(server: &TestServer) -> (TcpStream, Vec<u8>) {
    let mut stream = server.connect();
    write!(stream, "GET /repo/{} HTTP/1.1\r\nHost: t\r\n\r\n", target()).unwrap();
    let mut received = vec![0; 1000];
    stream.read_exact(&mut received).unwrap();
    (stream, received)
}

fn refuses_connections(server: &TestServer) -> bool {
    TcpStream::connect(server.address).is_err()
}

#[test]
fn a_running_download_finishes() {
    let mut server = TestServer::with_files();
    let content = pattern(LARGE);
    server.write(&target(), &content);
    let (mut stream, mut received) = begin(&server);

    server.ask_to_stop();
    eventually("no new connections", || refuses_connections(&server));
    stream.read_to_end(&mut received).unwrap();
    server.join();

    let start = received.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(received[start..] == content[..], "{} of {LARGE} bytes came", received.len() - start);
}

#[test]
fn an_idle_connection_does_not_hold_up_the_stop() {
    let mut server = TestServer::start_in(tempfile::tempdir().unwrap(), |layer| {
        // Both longer than any test may take.
        layer.keep_alive_seconds = Some(3600);
        layer.shutdown_grace_seconds = Some(3600);
    });
    let mut stream = server.connect();
    write!(stream, "GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    let mut received = vec![0; 12];
    stream.read_exact(&mut received).unwrap();

    server.join();

    assert_eq!(received, b"HTTP/1.1 200");
}

#[test]
fn a_download_that_nobody_reads_is_cut_when_the_grace_time_ends() {
    let mut server = TestServer::start_in(tempfile::tempdir().unwrap(), |layer| {
        layer.shutdown_grace_seconds = Some(1);
    });
    server.write(&target(), &pattern(LARGE));
    let (mut stream, mut received) = begin(&server);

    server.join();

    let _reset = stream.read_to_end(&mut received);
    assert!(received.len() < LARGE);
}

#[test]
fn a_client_that_takes_nothing_is_dropped() {
    let mut server = TestServer::start_in(tempfile::tempdir().unwrap(), |layer| {
        layer.stall_timeout_seconds = Some(1);
        // Longer than any test may take: only the drop lets the server stop.
        layer.shutdown_grace_seconds = Some(3600);
    });
    server.write(&target(), &pattern(LARGE));
    let (mut stream, mut received) = begin(&server);

    server.join();

    let _reset = stream.read_to_end(&mut received);
    assert!(received.len() < LARGE);
}
