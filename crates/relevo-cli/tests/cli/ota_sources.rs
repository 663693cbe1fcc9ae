//! `relevo ota` from whatever builds come in, and what is left where it was killed.

use std::{
    fs::{self, File},
    process::Stdio,
    time::{Duration, Instant},
};

use crate::{
    ab::{full_with, zip as zip_of_payload},
    import::zip,
    support::{Machine, command, edited, program, sparse},
};

type Images = Vec<(&'static str, Vec<u8>)>;

/// Two builds of a device.
fn builds() -> [Images; 2] {
    let (system, boot) = (program(1, 300), program(2, 8));
    let new = edited(&system, 2);
    [vec![("system", system), ("boot", boot.clone())], vec![("system", new), ("boot", boot)]]
}

/// The build in each form that builds come in; `system` is sparse in the target files.
fn forms(machine: &Machine, name: &str, images: &Images, number: u64) -> [String; 4] {
    let payload = full_with(images, |manifest| manifest.max_timestamp = Some(1_700_000_000 + number as i64));
    let (zipped, bare, target_files) =
        (format!("{name}.zip"), format!("{name}.bin"), format!("{name}-target_files.zip"));
    fs::write(machine.path(&zipped), zip_of_payload(&payload)).unwrap();
    fs::write(machine.path(&bare), payload).unwrap();
    let prop = format!(
        "ro.build.version.incremental={number}\nro.build.date.utc={}\nro.product.system.device=alioth\n",
        1_700_000_000 + number
    );
    let entries = [
        ("META/ab_partitions.txt", b"boot\nsystem\n".to_vec(), false),
        ("META/misc_info.txt", b"ab_update=true\n".to_vec(), false),
        ("META/update_engine_config.txt", b"PAYLOAD_MAJOR_VERSION=2\nPAYLOAD_MINOR_VERSION=7\n".to_vec(), false),
        ("SYSTEM/build.prop", prop.into_bytes(), true),
        ("IMAGES/system.img", sparse(&images[0].1), true),
        ("IMAGES/boot.img", images[1].1.clone(), true),
    ];
    fs::write(machine.path(&target_files), zip(&entries)).unwrap();
    [zipped, bare, target_files]
        .map(|name| machine.text(&name))
        .into_iter()
        .chain([machine.images(name, images)])
        .collect::<Vec<_>>()
        .try_into()
        .unwrap()
}

#[test]
fn packages_are_made_from_builds_in_every_form() {
    let machine = Machine::new();
    let [old_images, new_images] = builds();
    let (old, new) = (forms(&machine, "old", &old_images, 7), forms(&machine, "new", &new_images, 8));
    let dir = &old[3];

    for (kind, out) in [("native", "x.rvp"), ("ab", "x.bin")] {
        let out = machine.text(out);
        // Each form on either side, so that what one of them has written for itself is in nobody's way.
        for index in 0..4 {
            for (from, to) in [(&old[index], &new[3 - index]), (&old[index], &new[index])] {
                let mut args = vec!["ota", "diff", from, to, "--out", &out];
                if kind == "ab" {
                    args.extend(["--unsigned", "--minor", "7"]);
                }
                machine.run(args).expect(0);
                let made = machine.text("made");
                machine.run(["ota", "apply", &out, "--source", dir, "--out", &made]).expect(0);

                assert!(machine.tree("made") == machine.tree("new"), "{kind} from {from} to {to}");
            }
        }
    }
    let left: Vec<_> = machine.tree("").into_keys().filter(|name| name.contains("unfinished")).collect();
    assert_eq!(left, [""; 0]);
}

#[test]
fn a_native_package_says_what_builds_say_of_themselves() {
    let machine = Machine::new();
    let [old_images, new_images] = builds();
    let (old, new) = (forms(&machine, "old", &old_images, 7), forms(&machine, "new", &new_images, 8));
    let out = machine.text("x.rvp");
    let said = |options: &[&str]| {
        machine
            .run(["ota", "diff", &old[2], &new[2], "--out", &out].into_iter().chain(options.iter().copied()))
            .expect(0);
        let json = machine.run(["ota", "inspect", &out, "--json"]).expect(0).json();
        ["device", "from", "to", "timestamp"].map(|key| json[key].to_string())
    };

    assert_eq!(said(&[]), ["\"alioth\"", "\"7\"", "\"8\"", "1700000008"]);
    assert_eq!(said(&["--from", "6", "--timestamp", "9"]), ["\"alioth\"", "\"6\"", "\"8\"", "9"]);
}

#[test]
fn what_is_no_build_is_refused_by_name() {
    let machine = Machine::new();
    let new = machine.images("new", &builds()[1]);
    let (text, out) = (machine.text("text"), machine.text("x.rvp"));
    fs::write(&text, "no build").unwrap();

    let run = machine.run(["ota", "diff", &text, &new, "--out", &out]).expect(1);

    assert!(run.err.contains(&text), "{}", run.err);
    assert!(!machine.path("x.rvp").exists());
}

#[test]
fn a_file_cannot_replace_a_directory() {
    let machine = Machine::new();
    let [old, new] = builds();
    let (old, new) = (machine.images("old", &old), machine.images("new", &new));
    for (out, options) in [("x.rvp", &[][..]), ("x.bin", &["--unsigned", "--minor", "9"])] {
        fs::create_dir(machine.path(out)).unwrap();
        let path = machine.text(out);

        let args = ["ota", "diff", &old, &new, "--out", &path].into_iter().chain(options.iter().copied());
        let run = machine.run(args).expect(1);

        assert!(run.err.contains(out) && run.err.contains("is a directory"), "{}", run.err);
        assert!(!machine.path("x.properties.txt").exists());
    }
}

/// Names in a directory that begin as those of unfinished things do, and what lies in them.
fn unfinished(machine: &Machine, dir: &str) -> (usize, usize) {
    let entries = fs::read_dir(machine.path(dir)).into_iter().flatten().flatten();
    let dirs: Vec<_> = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(".relevo-")).collect();
    let within = dirs.iter().flat_map(|entry| fs::read_dir(entry.path()).into_iter().flatten()).count();
    (dirs.len(), within)
}

/// Kills a command as soon as it has something unfinished in `dir`; how much of it is left.
fn killed(machine: &Machine, args: &[&str], dir: &str) -> (usize, usize) {
    let mut child =
        command(&machine.path(""), args.iter().copied()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    // The lock, and something else.
    while child.try_wait().unwrap().is_none() && unfinished(machine, dir).1 < 2 {
        assert!(Instant::now() < deadline, "{args:?} neither ended nor began");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    unfinished(machine, dir)
}

#[test]
fn what_a_killed_command_left_goes_away_with_the_next_one_to_the_same_place() {
    let machine = Machine::new();
    let images = |version| vec![("system", edited(&program(1, 4_000), version)), ("vendor", program(2, 1_000))];
    let (old, new) = (machine.images("old", &images(1)), machine.images("new", &images(3)));
    let full = machine.text("old.zip");
    fs::write(&full, zip_of_payload(&full_with(&images(1), |_| {}))).unwrap();
    let mut hits = 0;

    for (dir, args) in [
        ("native", vec!["ota", "diff", &full, &new, "--out", "native/x.rvp"]),
        ("ab", vec!["ota", "diff", &full, &new, "--out", "ab/x.bin", "--unsigned", "--minor", "9"]),
        ("images", vec!["ota", "extract", &full, "--out", "images"]),
        ("applied", vec!["ota", "apply", "ab/x.bin", "--source", &old, "--out", "applied"]),
    ] {
        fs::create_dir(machine.path(dir)).unwrap();
        for _ in 0..3 {
            let (dirs, within) = killed(&machine, &args, dir);
            hits += usize::from(within > 0);
            assert!(dirs <= 1, "{args:?} left {dirs}");
        }
        machine.binary(args.iter().copied()).expect(0);
        assert_eq!(unfinished(&machine, dir), (0, 0), "{args:?}");
    }
    assert!(hits > 0, "no kill met a command at work");
    assert!(machine.tree("applied") == machine.tree("new"));
}

#[test]
fn two_commands_do_not_make_the_same_file() {
    let machine = Machine::new();
    let [old, new] = builds();
    let (old, new) = (machine.images("old", &old), machine.images("new", &new));
    let (first, second) = (machine.text("x.rvp"), machine.text("y.rvp"));
    let other = machine.text("images");
    machine.run(["ota", "diff", &old, &new, "--out", &first]).expect(0);
    fs::create_dir_all(machine.path("images/.relevo-unfinished-images")).unwrap();
    let lock = File::create(machine.path("images/.relevo-unfinished-images/.lock")).unwrap();
    lock.lock().unwrap();

    let apply = ["ota", "apply", &first, "--source", &old, "--out", &other];
    let run = machine.run(apply).expect(1);
    assert!(run.err.contains(&format!("another relevo is making {other}")), "{}", run.err);
    assert!(run.err.contains("hint: wait until it is done"), "{}", run.err);
    // One beside it is not disturbed.
    machine.run(["ota", "diff", &old, &new, "--out", &second]).expect(0);

    drop(lock);
    machine.run(apply).expect(0);
}
