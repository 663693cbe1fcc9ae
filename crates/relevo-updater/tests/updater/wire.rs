//! What polls cost on the wire in a repository of 300 devices, heads and bodies, from a server that compresses.
//!
//! `cargo nextest run -p relevo-updater -E 'test(wire)' --no-capture` prints the table that stands in BENCHMARKS.md.

use std::collections::BTreeMap;

use relevo_meta::testing::fleet::{build, fleet};
use relevo_types::{Codename, Vendor};

use crate::support::{Fault, Phone, Repo, Server};

fn files(repo: &mut Repo) -> BTreeMap<String, Vec<u8>> {
    repo.publish()
}

#[test]
fn polls_of_a_large_repository_stay_small_on_the_wire() {
    let mut repo = Repo(fleet());
    let server = Server::start(files(&mut repo));
    server.fault(".json", Fault::Gzip, usize::MAX);
    let mut phone = Phone::new(&repo, &[server.url()]);
    phone.config.vendor = Vendor::parse("vendor7").unwrap();
    phone.config.codename = Codename::parse("codename084").unwrap();
    let poll = |what: &str| {
        let (requests, bodies, wire) = (server.requests().len(), server.sent(), server.wire());
        phone.go(|updater| updater.check()).unwrap();
        let (requests, bodies, wire) =
            (server.requests().len() - requests, server.sent() - bodies, server.wire() - wire);
        println!("{what}: {requests} requests, {bodies} bytes of bodies, {wire} bytes with heads");
        bodies
    };

    let cold = poll("cold start");
    let nothing = poll("nothing new");
    build(&mut repo.0, "vendor7/codename085", "nightly", 1, 101);
    server.set_files(files(&mut repo));
    let other = poll("another device has a new build");
    build(&mut repo.0, "vendor7/codename084", "nightly", 1, 101);
    server.set_files(files(&mut repo));
    let own = poll("this device has a new build");

    assert!(nothing <= 500 && other <= 3_000 && own <= 5_000 && cold <= 20_000, "{nothing} {other} {own} {cold}");
}
