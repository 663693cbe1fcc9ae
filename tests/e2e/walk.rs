//! The whole way, once, on real images.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use relevo_tests::{
    corpus, images,
    maintainer::{CODENAME, Maintainer},
    phone::{Factory, Phone},
    program::Server,
    proxy::Recorder,
};
use relevo_types::{BuildId, Channel, Codename, Vendor};
use relevo_updater::boot::Slot;

use crate::world::{World, assert_boots_build_2};

#[test]
fn two_real_builds_become_a_delta_and_update_a_phone() {
    let base = tempfile::tempdir().unwrap();
    let maintainer = Maintainer::new(base.path());
    maintainer.import(CODENAME, &corpus::build(1), "20250405", 1_743_811_200);
    maintainer.import(CODENAME, &corpus::build(2), "20250505", 1_746_403_200);
    maintainer.publish();
    maintainer.run(&["repo", "check"]).ok();

    let server = Server::start(&maintainer.repository(), &base.path().join("server.db"));
    let wire = Recorder::start(server.address());
    let phone = Phone::make(
        &base.path().join("phone"),
        &Factory {
            vendor: Vendor::parse("pretend").unwrap(),
            codename: Codename::parse(CODENAME).unwrap(),
            channel: Channel::parse("stable").unwrap(),
            mirrors: vec![format!("http://{}/repo/", wire.address())],
            root: &maintainer.root(),
            images: &corpus::build(1),
            build: BuildId::parse("20250405").unwrap(),
            timestamp: 1_743_811_200,
            network: "",
        },
    )
    .unwrap();
    phone.run(&["check"]).ok();
    phone.run(&["download"]).ok();
    phone.run(&["install"]).ok();

    assert_eq!(phone.boot().unwrap(), Slot::B);
    images::assert_same(&phone.images(Slot::B), &images::read(&corpus::build(2)));
    images::assert_same(&phone.images(Slot::A), &images::read(&corpus::build(1)));
    phone.run(&["confirm"]).ok();
    assert!(phone.boot_control().unwrap().slot(Slot::B).successful);

    // What came over the wire is the delta, not the full package.
    let (_, down) = wire.counts();
    let whole: usize = images::read(&corpus::build(2)).values().map(Vec::len).sum();
    assert!(down < whole as u64 / 4, "{down} bytes came for an update of {whole}");

    // A poll that finds nothing: the timestamp, and nothing else. The budget is for the body; this is with all heads.
    let before = wire.counts();
    phone.run(&["check"]).ok();
    let after = wire.counts();
    let bytes = after.0 + after.1 - before.0 - before.1;
    assert!(bytes < 3000, "a poll that finds nothing took {bytes} bytes");
    assert_eq!(phone.boot_control().unwrap().active, Slot::B);
}

#[test]
fn the_third_build_is_reached_from_the_second_slot() {
    let world = World::published(images::builds());
    world.import(2);
    world.maintainer.publish();
    let server = Server::start(&world.maintainer.repository(), &world.path("server.db"));
    let phone = world.phone("phone", &[server.repository()]);

    // As often as it takes: one way goes over build 2.
    for _ in 0..2 {
        phone.run(&["check"]).ok();
        phone.run(&["download"]).ok();
        phone.run(&["install"]).ok();
        phone.boot().unwrap();
        phone.run(&["confirm"]).ok();
        let slot = phone.boot_control().unwrap().active;
        if phone.build(slot).unwrap().build.as_str() == "3" {
            images::assert_same(&phone.images(slot), &world.builds[2]);
            return;
        }
    }
    panic!("the phone is not on build 3: {}", phone.run(&["status"]).stdout);
}

#[test]
fn a_build_that_is_not_confirmed_is_given_up_and_not_tried_again() {
    let world = World::published(images::builds());
    let server = Server::start(&world.maintainer.repository(), &world.path("server.db"));
    let phone = world.phone("phone", &[server.repository()]);
    phone.run(&["check"]).ok();
    phone.run(&["download"]).ok();
    phone.run(&["install"]).ok();

    // It starts, and never says that it is well.
    let mut boots = 0;
    while phone.boot().unwrap() == Slot::B {
        boots += 1;
        assert!(boots < 10, "the bootloader never gives up");
    }

    images::assert_same(&phone.images(Slot::A), &world.builds[0]);
    phone.run(&["status"]).ok();
    phone.run(&["check"]).ok();
    phone.run(&["download"]);
    phone.run(&["install"]);
    assert_eq!(phone.boot().unwrap(), Slot::A, "a build that failed was installed again");
}

#[test]
fn a_confirmed_build_can_be_reverted() {
    let world = World::published(images::builds());
    let server = Server::start(&world.maintainer.repository(), &world.path("server.db"));
    let phone = world.phone("phone", &[server.repository()]);
    phone.run(&["check"]).ok();
    phone.run(&["download"]).ok();
    phone.run(&["install"]).ok();
    assert_boots_build_2(&phone, &world.builds);

    phone.run(&["revert"]).ok();

    assert_eq!(phone.boot().unwrap(), Slot::A);
    images::assert_same(&phone.images(Slot::A), &world.builds[0]);
}

#[test]
fn the_server_lists_devices_and_builds_for_people() {
    let world = World::published(images::builds());
    let server = Server::start(&world.maintainer.repository(), &world.path("server.db"));
    let get = |path: &str| {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };

    let (page, health, ready) = (get("/"), get("/healthz"), get("/readyz"));

    assert!(page.starts_with("HTTP/1.1 200") && page.contains(CODENAME), "{page}");
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
}
