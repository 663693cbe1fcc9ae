//! SIGKILL at random moments: the next run ends in the right state.
//!
//! The moments come from seeds that are printed, so that a failure can be tried again; what the system schedules in
//! between is chance all the same.

use std::{
    fs,
    net::TcpStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use relevo_tests::{
    http::FileServer,
    images::{self, Images},
    maintainer::{CODENAME, Maintainer, files},
    phone::Phone,
    program::{Server, kill_after, kill_when, run},
    proxy::Recorder,
    random::Random,
};
use relevo_types::Sha256;
use sha2::Digest;

use crate::world::{World, assert_boots_build_2, assert_never_a_mix};

/// Every file of the phone that has a package's final name is a whole package of the repository.
#[track_caller]
fn assert_no_unverified_package(phone: &Phone, repository: &Path, when: &str) {
    let known: Vec<Vec<u8>> =
        files(repository).into_iter().filter(|path| is_package(path)).map(|path| fs::read(path).unwrap()).collect();
    for path in files(&phone.directory().join("state")).into_iter().filter(|path| is_package(path)) {
        let bytes = fs::read(&path).unwrap();
        assert!(known.contains(&bytes), "{when}: {} has its final name and is no package", path.display());
    }
}

fn is_package(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rvp")
}

/// Kills after random times, until enough of the kills have met a running program: how long a program runs depends on
/// the machine and on what else it does.
struct Killer {
    /// The longest time tried; follows what the program takes.
    longest: Duration,
    hits: usize,
    tries: usize,
}

impl Killer {
    /// Starts from how long the program takes when nobody kills it.
    fn new(longest: Duration) -> Self {
        Self { longest, hits: 0, tries: 0 }
    }

    /// Runs a command and kills it at a random moment, unless it ends before.
    fn kill(&mut self, command: Command, random: &mut Random) {
        let longest = u64::try_from(self.longest.as_micros()).unwrap().max(500);
        let moment = Duration::from_micros(random.below(longest));
        let hit = kill_after(command, moment);
        println!("a kill after {moment:?}: {}", if hit { "hit" } else { "it had ended" });
        self.longest = if hit { self.longest * 21 / 20 } else { self.longest * 3 / 4 };
        self.hits += usize::from(hit);
        self.tries += 1;
        assert!(self.tries < 500, "only {} of {} kills hit", self.hits, self.tries);
    }
}

#[test]
fn the_updater_killed_at_25_moments_of_a_download_goes_on() {
    let world = World::published(images::builds());
    let server = FileServer::start(&world.maintainer.repository());
    let fresh = world.phone("fresh", &[server.repository()]);
    fresh.run(&["check"]).ok();
    let whole = {
        let phone = fresh.copy(&world.path("whole")).unwrap();
        let before = server.body_bytes();
        phone.run(&["download"]).ok();
        server.body_bytes() - before
    };

    let mut killed = 0;
    for seed in 0.. {
        if killed >= 25 {
            break;
        }
        assert!(seed < 200, "only {killed} of {} kills hit", 2 * seed);
        let mut random = Random::new(seed);
        let moment = random.below(whole);
        println!("seed {seed}: kills after {moment} of {whole} bytes");
        let phone = fresh.copy(&world.path(&format!("phone-{seed}"))).unwrap();
        // Twice in a row, since going on is code of its own.
        for _ in 0..2 {
            let before = server.body_bytes();
            killed += u32::from(kill_when(phone.command(&["download"]), || server.body_bytes() - before >= moment));
            assert_no_unverified_package(&phone, &world.maintainer.repository(), &format!("seed {seed}"));
            assert_never_a_mix(&phone, &world.builds, &format!("seed {seed}"));
        }

        phone.run(&["download"]).ok();
        assert_no_unverified_package(&phone, &world.maintainer.repository(), &format!("seed {seed}, whole"));
        phone.run(&["install"]).ok();
        assert_boots_build_2(&phone, &world.builds);
        fs::remove_dir_all(phone.directory()).unwrap();
    }
}

#[test]
fn the_updater_killed_at_25_moments_of_an_install_goes_on() {
    let world = World::published(images::builds());
    let server = FileServer::start(&world.maintainer.repository());
    let staged = world.phone("staged", &[server.repository()]);
    staged.run(&["check"]).ok();
    staged.run(&["download"]).ok();
    let mut killer = Killer::new({
        let phone = staged.copy(&world.path("whole")).unwrap();
        let began = Instant::now();
        phone.run(&["install"]).ok();
        began.elapsed()
    });

    for seed in 100.. {
        if killer.hits >= 25 {
            break;
        }
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let phone = staged.copy(&world.path(&format!("phone-{seed}"))).unwrap();
        for _ in 0..2 {
            killer.kill(phone.command(&["install"]), &mut random);
            assert_never_a_mix(&phone, &world.builds, &format!("seed {seed}"));
        }
        // Power comes back: whatever the bootloader chooses now holds a whole build.
        match phone.boot().unwrap() {
            relevo_updater::boot::Slot::A => {
                phone.run(&["install"]).ok();
                assert_never_a_mix(&phone, &world.builds, &format!("seed {seed}, whole"));
                assert_boots_build_2(&phone, &world.builds);
            }
            relevo_updater::boot::Slot::B => {
                images::assert_same(&phone.images(relevo_updater::boot::Slot::B), &world.builds[1]);
                phone.run(&["confirm"]).ok();
            }
        }
        fs::remove_dir_all(phone.directory()).unwrap();
    }
}

#[test]
fn the_server_killed_at_20_moments_comes_back_and_downloads_go_on() {
    let world = World::published(images::builds());
    let database = world.path("server.db");
    let repository = world.maintainer.repository();
    let mut server = Server::start(&repository, &database);
    let wire = Recorder::start(server.address());
    let fresh = world.phone("fresh", &[format!("http://{}/repo/", wire.address())]);
    let whole = {
        let phone = fresh.copy(&world.path("whole")).unwrap();
        phone.run(&["check"]).ok();
        phone.run(&["download"]).ok();
        wire.counts().1
    };

    for seed in 200..220 {
        let mut random = Random::new(seed);
        let moment = random.below(whole);
        println!("seed {seed}: a kill after {moment} of {whole} bytes");
        let phone = fresh.copy(&world.path(&format!("phone-{seed}"))).unwrap();
        let before = wire.counts().1;
        let listen = server.address().to_string();
        let mut running = Some(server);
        let check_and_download = {
            let mut command = phone.command(&["check"]);
            command.status().unwrap();
            phone.command(&["download"])
        };
        // The phone's own run ends or fails; the server is killed in the midst of it, or just after.
        kill_when(check_and_download, || {
            if wire.counts().1 - before >= moment
                && let Some(server) = running.take()
            {
                server.kill();
            }
            false
        });
        if let Some(server) = running.take() {
            server.kill();
        }
        assert_no_unverified_package(&phone, &repository, &format!("seed {seed}"));

        server = Server::start_on(&listen, &repository, &database);
        phone.run(&["check"]).ok();
        phone.run(&["download"]).ok();
        assert_no_unverified_package(&phone, &repository, &format!("seed {seed}, whole"));
        fs::remove_dir_all(phone.directory()).unwrap();
    }
    let last = fresh.copy(&world.path("last")).unwrap();
    for step in ["check", "download", "install"] {
        last.run(&[step]).ok();
    }
    assert_boots_build_2(&last, &world.builds);
    assert!(TcpStream::connect(server.address()).is_ok());
}

#[test]
fn publish_killed_at_20_moments_leaves_the_old_or_the_new_repository() {
    let world = World::first_published(images::builds());
    world.import(1);
    world.maintainer.run(&["delta", CODENAME, "--level", "3"]).ok();
    let mut killer = Killer::new({
        let maintainer = world.maintainer.copy(&world.path("whole"));
        let began = Instant::now();
        maintainer.signing(&["publish"]).ok();
        began.elapsed()
    });

    let (mut old, mut new) = (0, 0);
    for seed in 300.. {
        if killer.hits >= 20 {
            break;
        }
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let maintainer = world.maintainer.copy(&world.path(&format!("maintainer-{seed}")));
        killer.kill(maintainer.signing_command(&["publish"]), &mut random);

        // What a phone sees is whole, whichever of the two it is.
        maintainer.run(&["repo", "check"]).ok();
        assert_named_by_their_hash(&maintainer);
        match offered(&world, &maintainer, &format!("{seed}-cut")) {
            Some(images) => {
                images::assert_same(&images, &world.builds[1]);
                new += 1;
            }
            None => old += 1,
        }

        // The next run finishes the work.
        maintainer.signing(&["publish"]).ok();
        maintainer.run(&["repo", "check"]).ok();
        assert_named_by_their_hash(&maintainer);
        let images = offered(&world, &maintainer, &format!("{seed}-whole")).expect("build 2 was published");
        images::assert_same(&images, &world.builds[1]);
        let leftovers: Vec<_> = files(&maintainer.repository())
            .into_iter()
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with('.'))
            // The last checkpoint that was signed stays, whether or not it was shown.
            .filter(|path| !path.ends_with(".lock") && !path.ends_with("log/.signed"))
            .collect();
        assert!(leftovers.is_empty(), "seed {seed}: {leftovers:?}");
        fs::remove_dir_all(maintainer.directory()).unwrap();
    }
    println!("{old} left the old repository, {new} the new one");
}

/// The images of the update that a fresh phone gets from a repository; `None` if it is up to date.
fn offered(world: &World, maintainer: &Maintainer, name: &str) -> Option<Images> {
    let server = FileServer::start(&maintainer.repository());
    let phone = world.phone_of(name, &[server.repository()], CODENAME, &maintainer.root());
    phone.run(&["check"]).ok();
    let downloaded = run(phone.command(&["download"])).status.success();
    let got = phone.run(&["install"]).status.success() && downloaded;
    let images = (got && phone.boot().unwrap() == relevo_updater::boot::Slot::B)
        .then(|| phone.images(relevo_updater::boot::Slot::B));
    if images.is_none() {
        assert!(
            server.requests().iter().all(|request| !is_package(Path::new(&request.path))),
            "{name}: half an update"
        );
    }
    fs::remove_dir_all(phone.directory()).unwrap();
    images
}

/// Every target in a repository has the hash that its name says.
#[track_caller]
fn assert_named_by_their_hash(maintainer: &Maintainer) {
    for path in files(&maintainer.repository().join("targets")) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some((hash, _)) = name.split_once('.').filter(|(hash, _)| !hash.is_empty()) else { continue };
        let actual = Sha256::new(sha2::Sha256::digest(fs::read(&path).unwrap()).into()).to_string();
        assert_eq!(hash, actual, "{}", path.display());
    }
}
