//! Downloads from mirrors that break, lie, stall and go on for ever.

use std::fs;

use relevo_updater::{
    download::DownloadError,
    stop::Stop,
    storage::{Disk, Storage},
    updater::{Activity, Outcome, UpdateError},
};

use crate::support::{Cut, CutDisk, Fault, Images, NoSync, Phone, Recipe, Repo, Server, noise};

const CHUNK: u64 = 256 * 1024;

/// A package of several chunks.
fn large() -> Recipe {
    Recipe { to: ("101", Images::from([("system", noise(3, 1_500_000))])), piece: 500_000, ..Recipe::full("101") }
}

fn repo() -> (Repo, u64) {
    let recipe = large();
    let length = recipe.make().len() as u64;
    (Repo::new().with(&recipe), length)
}

fn one_mirror() -> (Server, Phone, u64) {
    let (mut repo, length) = repo();
    let server = Server::start(repo.publish());
    let phone = Phone::new(&repo, &[server.url()]);
    (server, phone, length)
}

fn two_mirrors() -> (Server, Server, Phone) {
    let (mut repo, _) = repo();
    let files = repo.publish();
    let (bad, good) = (Server::start(files.clone()), Server::start(files));
    let phone = Phone::new(&repo, &[bad.url(), good.url()]);
    (bad, good, phone)
}

/// The download is whole and right, under its final name.
fn is_whole(outcome: &Outcome) {
    let file = outcome.file.as_ref().unwrap();
    assert_eq!(fs::read(file).unwrap(), large().make());
    assert!(!file.with_extension("part").exists());
}

fn error_of(error: UpdateError) -> DownloadError {
    match error {
        UpdateError::Download { source, .. } => source,
        error => panic!("{error:?}"),
    }
}

#[test]
fn asks_for_several_chunks_at_once() {
    let (server, phone, length) = one_mirror();

    let outcome = phone.go(|updater| updater.download()).unwrap();

    is_whole(&outcome);
    assert_eq!((outcome.requests, outcome.received_bytes), (1, length));
    assert_eq!(server.asked("full.rvp").last().unwrap().1, Some(0..length));
}

#[test]
fn a_request_is_never_larger_than_configured() {
    let (mut repo, length) = repo();
    let server = Server::start(repo.publish());
    let more = "[network]\nrequest_size = \"600 KB\"\nparallel = 3\n";
    let phone = Phone::with(&repo, &[server.url()], "100", more);

    let outcome = phone.go(|updater| updater.download()).unwrap();

    is_whole(&outcome);
    assert_eq!(outcome.received_bytes, length);
    let mut ranges: Vec<_> = server.asked("full.rvp").into_iter().map(|(_, range)| range.unwrap()).collect();
    ranges.sort_by_key(|range| range.start);
    assert_eq!(ranges[0], 0..2 * CHUNK);
    assert_eq!(ranges.last().unwrap().end, length);
}

#[test]
fn goes_on_inside_a_chunk_where_an_answer_broke_off() {
    let (server, phone, length) = one_mirror();
    // Every answer breaks off long before its first chunk is whole.
    server.fault("-full.rvp", Fault::DropAt(100_000), 1000);

    let outcome = phone.go(|updater| updater.download()).unwrap();

    is_whole(&outcome);
    assert_eq!(outcome.received_bytes, length, "no byte was paid for twice");
}

#[test]
fn a_mirror_that_sends_a_wrong_chunk_is_put_aside_and_only_that_chunk_is_fetched_again() {
    let (bad, good, phone) = two_mirrors();
    bad.fault("-full.rvp", Fault::Flip(3 * CHUNK + 1000), usize::MAX);

    let outcome = phone.go(|updater| updater.download()).unwrap();

    is_whole(&outcome);
    assert_eq!(outcome.aside.len(), 1);
    assert_eq!(outcome.aside[0].mirror, bad.url());
    let reason = &outcome.aside[0].reason;
    assert!(reason.contains(&format!("wrong bytes {}-{}", 3 * CHUNK, 4 * CHUNK - 1)), "{reason}");
    let asked = good.asked("-full.rvp");
    assert_eq!(asked[0].1.as_ref().unwrap().start, 3 * CHUNK, "chunks that were right are kept");
    let status = phone.status();
    assert_eq!(status.last_check.unwrap().aside, outcome.aside, "status names the mirror");
}

#[test]
fn a_mirror_with_a_wrong_chunk_list_is_put_aside() {
    let (bad, _good, phone) = two_mirrors();
    bad.fault(".chunks", Fault::Flip(20), usize::MAX);

    let outcome = phone.go(|updater| updater.download()).unwrap();

    is_whole(&outcome);
    assert_eq!(outcome.aside[0].mirror, bad.url());
}

#[test]
fn lies_about_lengths_and_ranges_put_a_mirror_aside() {
    let faults = [
        Fault::WrongRange,
        Fault::WrongLength(1),
        Fault::Long,
        Fault::Endless,
        Fault::Encoded,
        Fault::Status(404),
        Fault::Status(403),
        Fault::Redirect("http://127.0.0.2:1/elsewhere".to_owned()),
        Fault::Redirect("ftp://127.0.0.1/x".to_owned()),
    ];
    for fault in faults {
        let (bad, _good, phone) = two_mirrors();
        bad.fault("full.rvp", fault.clone(), usize::MAX);

        let outcome = phone.go(|updater| updater.download()).unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));

        is_whole(&outcome);
        assert_eq!(outcome.aside.len(), 1, "{fault:?}");
        assert_eq!(outcome.aside[0].mirror, bad.url(), "{fault:?}");
    }
}

#[test]
fn failures_that_may_pass_are_tried_again() {
    for fault in [Fault::Status(503), Fault::Status(429), Fault::DropAt(0), Fault::Short(10)] {
        let (server, phone, _) = one_mirror();
        server.fault("full.rvp", fault.clone(), 2);

        let outcome = phone.go(|updater| updater.download()).unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));

        is_whole(&outcome);
        assert!(outcome.aside.is_empty(), "{fault:?}");
    }
}

#[test]
fn a_mirror_that_only_fails_is_given_up() {
    let (server, phone, _) = one_mirror();
    server.fault("full.rvp", Fault::Status(500), usize::MAX);

    let error = error_of(phone.go(|updater| updater.download()).unwrap_err());

    let DownloadError::NoMirror { aside, .. } = &error else { panic!("{error:?}") };
    assert_eq!(aside.len(), 1);
    assert!(error.to_string().contains("answered 500"), "{error}");
    assert_eq!(phone.status().phase, "downloading");
}

#[test]
fn an_answer_that_stands_still_is_given_up() {
    let (mut repo, _) = repo();
    let files = repo.publish();
    let (bad, good) = (Server::start(files.clone()), Server::start(files));
    let more = "[network]\nstall_timeout_s = 1\nanswer_timeout_s = 1\nretries = 0\nparallel = 1\n";
    let phone = Phone::with(&repo, &[bad.url(), good.url()], "100", more);
    bad.fault("-full.rvp", Fault::Stall(400_000), usize::MAX);

    let outcome = phone.go(|updater| updater.download()).unwrap();

    is_whole(&outcome);
}

#[test]
fn takes_what_is_missing_from_a_server_without_ranges() {
    let (server, phone, length) = one_mirror();
    server.fault("-full.rvp", Fault::DropAt(700_000), 1);
    server.fault("-full.rvp", Fault::IgnoreRange, usize::MAX);

    let outcome = phone.go(|updater| updater.download()).unwrap();

    is_whole(&outcome);
    assert!(outcome.received_bytes >= length);
}

#[test]
fn follows_redirects_on_its_own_host_and_to_allowed_ones() {
    let (mut repo, _) = repo();
    let mut all = repo.publish();
    let list = all.iter().find(|(path, _)| path.ends_with(".chunks")).map(|(_, bytes)| bytes.clone()).unwrap();
    let other = Server::start([("/list".to_owned(), list.clone())].into());
    all.insert("/list".to_owned(), list);
    let server = Server::start(all);
    server.fault(".chunks", Fault::Redirect(format!("http://{}/list", other.address())), usize::MAX);
    let refused = Phone::new(&repo, &[server.url()]);
    assert!(refused.go(|updater| updater.download()).is_err(), "another port is another host");
    let more = "[network]\nredirect_hosts = [\"127.0.0.1\"]\n";
    let allowed = Phone::with(&repo, &[server.url()], "100", more);
    is_whole(&allowed.go(|updater| updater.download()).unwrap());
    assert_eq!(other.asked("/list").len(), 1);
    server.fault("-full.rvp", Fault::Redirect("/nowhere".to_owned()), 1);
    let own = allowed.go(|updater| updater.download());
    assert!(own.is_ok(), "what is finished is not fetched again");
}

#[test]
fn a_full_disk_is_named_and_the_download_goes_on_later() {
    let (_server, phone, _) = one_mirror();
    let disk = CutDisk::new(usize::MAX, Cut::Kill);
    phone.run(&disk, |updater| updater.download()).unwrap();
    let mut named = 0;
    for at in (0..disk.steps()).step_by(3) {
        let (_server, phone, _) = one_mirror();

        let result = phone.run(&CutDisk::full(at), |updater| updater.download());

        named +=
            usize::from(matches!(result, Err(UpdateError::Download { source: DownloadError::DiskFull { .. }, .. })));
        is_whole(&phone.go(|updater| updater.download()).unwrap());
    }
    assert!(named > 3, "a full disk is its own error: {named}");
}

#[test]
fn checks_the_free_space_before_it_starts() {
    let (mut repo, _) = repo();
    let server = Server::start(repo.publish());
    let phone = Phone::with(&repo, &[server.url()], "100", "[install]\nreserve = \"900000 GiB\"\n");

    let error = error_of(phone.go(|updater| updater.download()).unwrap_err());

    assert!(matches!(error, DownloadError::DiskFull { .. }), "{error:?}");
    assert!(server.asked("-full.rvp").is_empty(), "nothing was fetched");
}

#[test]
fn damage_on_disk_is_found_at_the_next_start_and_only_that_chunk_fetched_again() {
    let (server, phone, length) = one_mirror();
    let stop = Stop::new();
    let watch = |_: Activity, done: u64, _: u64| {
        if done >= 4 * CHUNK {
            stop.set();
        }
    };
    let stopped = phone.run_watched(&NoSync, stop.clone(), &watch, |updater| updater.download());
    assert!(matches!(error_of(stopped.unwrap_err()), DownloadError::Stopped));
    assert_eq!(phone.status().downloaded_bytes, Some(length * 4 / 6));
    let part = fs::read_dir(phone.path("state/downloads")).unwrap().map(|entry| entry.unwrap().path());
    let part = part.into_iter().find(|path| path.extension().is_some_and(|e| e == "part")).unwrap();
    let handle = Disk.open(&part).unwrap();
    handle.write_at(&[0; 100], CHUNK + 7).unwrap();
    let before = server.sent();

    let outcome = phone.go(|updater| updater.download()).unwrap();

    is_whole(&outcome);
    assert!(outcome.kept_bytes >= 3 * CHUNK, "{outcome:?}");
    assert_eq!(outcome.kept_bytes + outcome.received_bytes, length);
    assert!(server.sent() - before < usize::try_from(length).unwrap());
}

#[test]
fn several_mirrors_share_a_download_and_none_is_blamed_for_another() {
    // The first mirror breaks off inside a chunk whose beginning it falsified; the second goes on with right bytes.
    let (mut repo, _) = repo();
    let files = repo.publish();
    let mut lies = files.clone();
    for (path, bytes) in &mut lies {
        if path.ends_with("-full.rvp") {
            bytes[1000] ^= 1;
        }
    }
    let (bad, good) = (Server::start(lies), Server::start(files));
    let more = "[network]\nretries = 0\nparallel = 1\nretry_wait_ms = 1\n";
    let phone = Phone::with(&repo, &[bad.url(), good.url()], "100", more);
    bad.fault("-full.rvp", Fault::DropAt(100_000), usize::MAX);

    let outcome = phone.go(|updater| updater.download()).unwrap();

    is_whole(&outcome);
    assert!(outcome.aside.iter().all(|aside| aside.mirror == bad.url()), "{:?}", outcome.aside);
}
