//! Damage and deceit: each is refused, by an error that names what and where, and nothing is written to the slot.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::{Timestamp, ToSpan};
use relevo_meta::{
    Target,
    author::{DeviceFile, SnapshotFile, TimestampFile},
};
use relevo_tests::{
    http::FileServer,
    images,
    maintainer::{CODENAME, Maintainer, VENDOR, files},
    phone::{Phone, copy},
    program::{Said, command, run},
    random::Random,
};
use relevo_types::TargetPath;
use relevo_updater::boot::Slot;

use crate::world::{World, assert_boots_build_2, assert_never_a_mix, tiny};

/// Check, download, install, until one fails; what that one said.
fn update(phone: &Phone) -> Result<(), Said> {
    for step in ["check", "download", "install"] {
        let said = phone.run(&[step]);
        if !said.status.success() {
            assert_eq!(said.status.code(), Some(1), "{step} crashed: {}", said.stderr);
            return Err(said);
        }
    }
    Ok(())
}

/// Asserts that nothing was written to the slot that does not run, and that the phone boots what it booted before.
#[track_caller]
fn assert_untouched(phone: &Phone, world: &World, when: &str) {
    assert_never_a_mix(phone, &world.builds, when);
    let left = files(&phone.slot(Slot::B));
    assert!(left.is_empty(), "{when}: {left:?} in the other slot");
    assert_eq!(phone.boot_control().unwrap().active, Slot::A, "{when}");
}

/// What the update must do with this damage, and asserts that it does: refused with the file's name in the error, or,
/// where the file was not needed, done as if nothing had happened.
fn try_damaged(world: &World, server: &FileServer, phone: &Phone, file: &Path, when: &str) -> bool {
    let name = file.file_name().unwrap().to_str().unwrap();
    let asked_before = server.requests().len();
    let outcome = update(phone);
    let asked = server.requests()[asked_before..].iter().any(|request| request.path.ends_with(name));
    match outcome {
        Ok(()) => {
            // Not needed, or there was another way (the full package in place of the delta).
            assert!(!asked || name.ends_with(".rvp") || name.ends_with(".chunks"), "{when}: {name} was believed");
            assert_boots_build_2(phone, &world.builds);
            false
        }
        Err(said) => {
            assert!(asked, "{when}: refused without having asked for {name}: {}", said.stderr);
            // `3.d-sample.json` may be called by its role alone; a package by its name without the hash.
            let role = name.trim_end_matches(".json").split_once('.').map_or(name, |(_, role)| role);
            let role = if name == "timestamp.json" { "timestamp" } else { role };
            assert!(said.stderr.contains(role), "{when}: {role} is not named in: {}", said.stderr);
            assert_untouched(phone, world, when);
            true
        }
    }
}

fn flip(bytes: &[u8], random: &mut Random) -> (usize, Vec<u8>) {
    let at = random.index(bytes.len());
    let mut flipped = bytes.to_vec();
    flipped[at] ^= 1 << random.below(8);
    (at, flipped)
}

#[test]
fn a_flipped_byte_at_any_of_200_places_of_a_repository_is_refused() {
    let world = World::published(tiny());
    let server = FileServer::start(&world.maintainer.repository());
    let fresh = world.phone("fresh", &[server.repository()]);
    let all = world.maintainer.files();
    let asked: Vec<PathBuf> = {
        update(&fresh.copy(&world.path("whole")).unwrap()).unwrap();
        let asked = server.requests();
        let is_asked =
            |file: &&PathBuf| asked.iter().any(|r| r.path.ends_with(file.file_name().unwrap().to_str().unwrap()));
        all.iter().filter(is_asked).cloned().collect()
    };
    let mut random = Random::new(400);

    let mut refused = 0;
    for number in 0..200 {
        // Every other one in what this phone needs; the others anywhere.
        let files = if number % 2 == 0 { &asked } else { &all };
        let file = &files[random.index(files.len())];
        let good = fs::read(file).unwrap();
        if good.is_empty() {
            continue;
        }
        let (at, bad) = flip(&good, &mut random);
        let when = format!("flip {number}: {} at {at}", file.display());
        fs::write(file, bad).unwrap();

        let phone = fresh.copy(&world.path("phone")).unwrap();
        let stopped = try_damaged(&world, &server, &phone, file, &when);
        refused += u32::from(stopped);
        // Whether or not a phone came by this file, the maintainer's own check finds it.
        let checked = world.maintainer.run(&["repo", "check"]);
        assert!(!checked.status.success(), "{when}: `repo check` found nothing");
        fs::write(file, good).unwrap();
        fs::remove_dir_all(phone.directory()).unwrap();
    }
    assert!(refused >= 50, "only {refused} of 200 met a phone");
    world.maintainer.run(&["repo", "check"]).ok();
}

#[test]
fn a_flipped_byte_at_any_of_200_places_of_a_package_is_refused() {
    let world = World::published(tiny());
    let package = delta_of(&world.maintainer);
    let key = world.maintainer.directory().join(format!("keys/d-{CODENAME}.pub"));
    let old = world.path("old");
    images::write(&old, &world.builds[0]);
    let good = fs::read(package).unwrap();
    let bad_package = world.path("bad.rvp");
    let mut random = Random::new(500);

    for number in 0..200 {
        let (at, bad) = flip(&good, &mut random);
        fs::write(&bad_package, bad).unwrap();
        let out = world.path(&format!("out-{number}"));

        let verified = ota(&["verify", text(&bad_package), "--key", text(&key)]);
        let applied = ota(&["apply", text(&bad_package), "--source", text(&old), "--out", text(&out)]);

        assert_eq!(verified.status.code(), Some(1), "byte {at}: {}{}", verified.stdout, verified.stderr);
        assert!(verified.stderr.contains("bad.rvp"), "byte {at}: {}", verified.stderr);
        // A signature may be the one thing that is wrong, which `apply` does not look at.
        if applied.status.success() {
            images::assert_same(&images::read(&out), &world.builds[1]);
        } else {
            assert_eq!(applied.status.code(), Some(1), "byte {at}: {}", applied.stderr);
            let left: Vec<PathBuf> = if out.exists() { files(&out) } else { Vec::new() };
            let whole = images_of(&left);
            assert!(whole.iter().all(|(name, bytes)| world.builds[1][name] == *bytes), "byte {at}: {left:?}");
        }
        drop(fs::remove_dir_all(&out));
    }
}

#[test]
fn a_signature_in_other_letters_is_refused() {
    // The same bytes in upper case would verify; but then a file could be changed and still be believed.
    let world = World::published(tiny());
    let path = world.maintainer.repository().join("metadata/timestamp.json");
    let text = fs::read_to_string(&path).unwrap();
    let at = text.find("\"sig\":\"").unwrap() + 7;
    let letter = at + text[at..].find(|c: char| ('a'..='f').contains(&c)).unwrap();
    let mut bytes = text.into_bytes();
    bytes[letter] = bytes[letter].to_ascii_uppercase();
    fs::write(&path, bytes).unwrap();
    let server = FileServer::start(&world.maintainer.repository());
    let phone = world.phone("phone", &[server.repository()]);

    phone.run(&["check"]).failed(&["timestamp"]);
}

#[test]
fn a_truncated_or_longer_file_is_refused() {
    let world = World::published(tiny());
    let server = FileServer::start(&world.maintainer.repository());
    let fresh = world.phone("fresh", &[server.repository()]);
    let mut random = Random::new(600);

    for file in world.maintainer.files() {
        let good = fs::read(&file).unwrap();
        let cut = good[..random.index(good.len().max(1)).min(good.len())].to_vec();
        let longer = [good.as_slice(), b"}"].concat();
        for (what, bad) in [("empty", Vec::new()), ("cut", cut), ("longer", longer)] {
            if good.is_empty() {
                continue;
            }
            fs::write(&file, bad).unwrap();
            let when = format!("{} {what}", file.display());

            let phone = fresh.copy(&world.path("phone")).unwrap();
            try_damaged(&world, &server, &phone, &file, &when);
            let checked = world.maintainer.run(&["repo", "check"]);
            assert!(!checked.status.success(), "{when}: `repo check` found nothing");

            fs::remove_dir_all(phone.directory()).unwrap();
        }
        fs::write(&file, good).unwrap();
    }
}

#[test]
fn an_older_repository_is_refused_by_a_phone_that_saw_a_newer_one() {
    let world = World::first_published(tiny());
    let old = world.path("old-repository");
    copy(&world.maintainer.repository(), &old).unwrap();
    let (new_server, old_server) = (FileServer::start(&world.maintainer.repository()), FileServer::start(&old));
    world.import(1);
    world.maintainer.publish();
    let phone = world.phone("phone", &[new_server.repository()]);
    phone.run(&["check"]).ok();

    let config = fs::read_to_string(phone.config()).unwrap();
    let elsewhere = config.replace(&new_server.repository(), &old_server.repository());
    fs::write(phone.config(), elsewhere).unwrap();
    let said = phone.run(&["check"]);

    said.failed(&["timestamp"]);
    assert_untouched(&phone, &world, "rolled back");
    // The floor holds for the next repository too, and harms nothing.
    fs::write(phone.config(), config).unwrap();
    update(&phone).unwrap();
    assert_boots_build_2(&phone, &world.builds);
}

#[test]
fn an_expired_timestamp_is_refused_and_never_called_up_to_date() {
    let world = World::published(tiny());
    let path = world.maintainer.repository().join("metadata/timestamp.json");
    let mut timestamp = TimestampFile::edit(&fs::read(&path).unwrap()).unwrap();
    timestamp.set_expires(Timestamp::UNIX_EPOCH.checked_add((24 * 365 * 40).hours()).unwrap());
    fs::write(&path, timestamp.sign(&[&world.maintainer.key("timestamp")]).unwrap()).unwrap();
    let server = FileServer::start(&world.maintainer.repository());
    let phone = world.phone("phone", &[server.repository()]);

    let said = phone.run(&["check"]).failed(&["timestamp", "expired"]);

    assert!(!said.stdout.contains("up to date"), "{}", said.stdout);
    assert!(update(&phone).is_err());
    assert_untouched(&phone, &world, "expired");
}

#[test]
fn metadata_signed_by_another_key_is_refused() {
    let world = World::published(tiny());
    let path = world.maintainer.repository().join("metadata/timestamp.json");
    let mut timestamp = TimestampFile::edit(&fs::read(&path).unwrap()).unwrap();
    timestamp.bump().unwrap();
    fs::write(&path, timestamp.sign(&[&world.maintainer.key("snapshot")]).unwrap()).unwrap();
    let server = FileServer::start(&world.maintainer.repository());
    let phone = world.phone("phone", &[server.repository()]);

    phone.run(&["check"]).failed(&["timestamp"]);
    assert_untouched(&phone, &world, "wrong key");
}

/// Puts a package in the place of the device's delta and signs everything anew, as somebody with all of the keys could.
fn replace_delta(maintainer: &Maintainer, package: &[u8]) {
    let metadata = maintainer.repository().join("metadata");
    let role = format!("d-{CODENAME}");
    let (_, newest) = maintainer.newest(&role);
    let mut device = DeviceFile::edit(&fs::read(newest).unwrap()).unwrap();
    let paths: Vec<String> = device.paths();
    for path in paths.iter().filter(|path| path.ends_with("-full.rvp")) {
        device.remove_target(&TargetPath::parse(path).unwrap()).unwrap();
    }
    let delta = paths.iter().find(|path| path.ends_with("-1-to-2.rvp")).unwrap();
    let delta = TargetPath::parse(delta).unwrap();
    let mut custom = device.target(&delta).unwrap().1;
    let chunks_name = format!("{}.chunks", delta.file());
    custom["chunks"] = chunks_name.clone().into();
    let chunks_path = TargetPath::parse(&format!("{VENDOR}/{CODENAME}/stable/{chunks_name}")).unwrap();
    let chunks = relevo_meta::chunks::ChunkList::for_reader(package, relevo_types::ByteLen::new(package.len() as u64));
    let chunks = chunks.unwrap().encode();
    for (path, bytes, custom) in
        [(&delta, package, &custom), (&chunks_path, chunks.as_slice(), &serde_json::json!({"kind": "chunks"}))]
    {
        let target = Target::of(bytes);
        fs::write(maintainer.repository().join("targets").join(path.consistent(&target.sha256)), bytes).unwrap();
        device.put_target(path, target, custom).unwrap();
    }
    let version = device.bump().unwrap();
    fs::write(metadata.join(format!("{version}.{role}.json")), device.sign(&[&maintainer.key(&role)]).unwrap())
        .unwrap();

    let mut snapshot = SnapshotFile::edit(&fs::read(maintainer.newest("snapshot").1).unwrap()).unwrap();
    snapshot.put_role(&role, version).unwrap();
    let version = snapshot.bump().unwrap();
    let snapshot = snapshot.sign(&[&maintainer.key("snapshot")]).unwrap();
    fs::write(metadata.join(format!("{version}.snapshot.json")), &snapshot).unwrap();

    let path = metadata.join("timestamp.json");
    let mut timestamp = TimestampFile::edit(&fs::read(&path).unwrap()).unwrap();
    timestamp.set_snapshot(version, &snapshot).unwrap();
    timestamp.bump().unwrap();
    fs::write(&path, timestamp.sign(&[&maintainer.key("timestamp")]).unwrap()).unwrap();
}

/// Makes a package of builds 1 and 2 that says it is for `device`, signed with the key in `key` if there is one.
fn package_for(world: &World, device: &str, key: Option<&str>) -> Vec<u8> {
    let (old, new, out) = (world.path("for-old"), world.path("for-new"), world.path("for.rvp"));
    images::write(&old, &world.builds[0]);
    images::write(&new, &world.builds[1]);
    let mut diff = vec!["ota", "diff", text(&old), text(&new), "--level", "3", "--device", device];
    diff.extend(["--from", "1", "--to", "2", "--out", text(&out)]);
    let key = key.map(|key| world.maintainer.directory().join(format!("keys/{key}.key")));
    if let Some(key) = &key {
        diff.extend(["--key", text(key)]);
        world.maintainer.signing(&diff).ok();
    } else {
        world.maintainer.run(&diff).ok();
    }
    fs::read(out).unwrap()
}

#[test]
fn a_package_for_another_device_is_refused() {
    let world = World::published(tiny());
    let package = package_for(&world, "other", Some(&format!("d-{CODENAME}")));
    replace_delta(&world.maintainer, &package);
    let server = FileServer::start(&world.maintainer.repository());
    let phone = world.phone("phone", &[server.repository()]);

    let said = update(&phone).unwrap_err();

    said.failed(&["other", CODENAME]);
    assert_untouched(&phone, &world, "for another device");
}

#[test]
fn a_package_without_the_devices_signature_is_refused() {
    let world = World::published(tiny());
    let server = FileServer::start(&world.maintainer.repository());
    for key in [None, Some("targets")] {
        let package = package_for(&world, CODENAME, key);
        replace_delta(&world.maintainer, &package);
        let phone = world.phone(&format!("phone-{key:?}"), &[server.repository()]);

        let said = update(&phone).unwrap_err();

        said.failed(&["sign"]);
        assert_untouched(&phone, &world, "not signed by the device's key");
    }
}

#[test]
fn a_package_signed_by_the_device_is_installed() {
    // The two tests above would pass with any package that fails; this one shows that theirs fail for their reason.
    let world = World::published(tiny());
    let package = package_for(&world, CODENAME, Some(&format!("d-{CODENAME}")));
    replace_delta(&world.maintainer, &package);
    let server = FileServer::start(&world.maintainer.repository());
    let phone = world.phone("phone", &[server.repository()]);

    update(&phone).unwrap();

    assert_boots_build_2(&phone, &world.builds);
}

#[test]
fn a_phone_of_another_device_is_offered_nothing() {
    let world = World::published(tiny());
    world.maintainer.device("other");
    let server = FileServer::start(&world.maintainer.repository());
    let phone = world.phone_of("phone", &[server.repository()], "other", &world.maintainer.root());

    drop(update(&phone));

    assert_untouched(&phone, &world, "of another device");
    assert!(server.requests().iter().all(|request| !request.path.contains(CODENAME)), "it asked for another device");
}

#[test]
fn a_source_that_differs_is_refused_before_anything_is_written() {
    let world = World::published(tiny());
    let server = FileServer::start(&world.maintainer.repository());
    let fresh = world.phone("fresh", &[server.repository()]);
    for partition in world.builds[0].keys() {
        let phone = fresh.copy(&world.path(&format!("phone-{partition}"))).unwrap();
        phone.run(&["check"]).ok();
        phone.run(&["download"]).ok();
        let image = phone.slot(Slot::A).join(format!("{partition}.img"));
        let mut bytes = fs::read(&image).unwrap();
        bytes[5000] ^= 4;
        fs::write(&image, &bytes).unwrap();

        let said = phone.run(&["install"]);

        said.failed(&[partition]);
        assert!(files(&phone.slot(Slot::B)).is_empty(), "{partition}: the other slot was written");
        assert_eq!(phone.boot_control().unwrap().active, Slot::A);
        assert!(fs::read(&image).unwrap() == bytes, "{partition}: the slot that runs was written");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn ota(words: &[&str]) -> Said {
    let mut command = command("relevo");
    command.arg("--quiet").arg("ota").args(words);
    run(command)
}

fn images_of(paths: &[PathBuf]) -> Vec<(String, Vec<u8>)> {
    let images = paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "img"));
    images.map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())).collect()
}

fn delta_of(maintainer: &Maintainer) -> PathBuf {
    let is_delta = |path: &PathBuf| text(path).ends_with(&format!("{CODENAME}-1-to-2.rvp"));
    maintainer.files().into_iter().find(is_delta).expect("the delta was published")
}
