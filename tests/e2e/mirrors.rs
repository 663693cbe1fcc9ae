//! Mirrors that do their worst.

use relevo_tests::{
    http::{Fault, FileServer, Request},
    images,
};

use crate::world::{World, assert_boots_build_2, assert_never_a_mix};

fn is_package(request: &Request) -> bool {
    request.path.ends_with(".rvp")
}

/// A phone with a bad mirror first and a good one second ends on build 2 all the same.
fn survives(fault: fn(&Request) -> Fault) {
    let world = World::published(images::builds());
    let bad = FileServer::with_faults(&world.maintainer.repository(), fault);
    let good = FileServer::start(&world.maintainer.repository());
    let phone = world.phone("phone", &[bad.repository(), good.repository()]);

    phone.run(&["check"]).ok();
    phone.run(&["download"]).ok();
    phone.run(&["install"]).ok();

    assert_never_a_mix(&phone, &world.builds, "after the bad mirror");
    assert_boots_build_2(&phone, &world.builds);
}

#[test]
fn a_mirror_with_wrong_bytes_costs_nothing_but_time() {
    survives(|request| if is_package(request) { Fault::FlipAt(70_000) } else { Fault::None });
}

#[test]
fn a_mirror_that_cuts_connections_costs_nothing_but_time() {
    survives(|request| if is_package(request) { Fault::CutAfter(50_000) } else { Fault::None });
}

#[test]
fn a_mirror_that_sends_another_range_costs_nothing_but_time() {
    survives(|request| if is_package(request) { Fault::OtherRange } else { Fault::None });
}

#[test]
fn a_mirror_that_ignores_ranges_costs_nothing_but_time() {
    survives(|request| if is_package(request) { Fault::IgnoreRange } else { Fault::None });
}

#[test]
fn a_mirror_with_shorter_and_longer_bodies_costs_nothing_but_time() {
    survives(|request| if is_package(request) { Fault::Shorter(10) } else { Fault::None });
    survives(|request| if is_package(request) { Fault::Longer(10) } else { Fault::None });
}

#[test]
fn a_mirror_without_packages_costs_nothing_but_time() {
    survives(|request| if is_package(request) { Fault::Status(404) } else { Fault::None });
}

#[test]
fn a_mirror_that_is_ill_costs_nothing_but_time() {
    survives(|_| Fault::Status(503));
}

#[test]
fn a_mirror_that_never_stops_sending_is_left() {
    survives(|_| Fault::Endless);
}

#[test]
fn a_mirror_that_sends_phones_elsewhere_costs_nothing_but_time() {
    survives(|_| Fault::Redirect("http://127.0.0.1:9/repo/metadata/timestamp.json".to_owned()));
}
