//! What goes wrong is named, and leaves nothing behind.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{Machine, command, program, sparse};

#[test]
fn a_wrong_passphrase_names_the_key_and_changes_nothing() {
    let machine = Machine::with_device();
    machine.at_desk(["import", &machine.build(1), "--device", "ginkgo"]).expect(0);
    let desk = machine.text("desk");
    let before = machine.tree("desk");

    for command in
        [&["publish"][..], &["refresh"], &["device", "add", "willow", "--vendor", "oneplus", "--kind", "native"]]
    {
        let args = command.iter().copied().chain(["--dir", desk.as_str()]);
        let run = machine.run_with(Some("a wrong passphrase"), args).expect(1);
        assert!(run.err.contains(".key\n"), "{}", run.err);
        assert!(run.err.contains("hint: is it the passphrase that was given to `relevo init`?"), "{}", run.err);
    }

    assert_eq!(machine.tree("desk"), before);
}

#[test]
fn a_manifest_with_mistakes_is_explained_key_by_key() {
    let machine = Machine::with_device();
    let text = "codename = \"willow\"\nvendr = \"xiaomi\"\nkind = \"recovery\"\nchanels = [\"stable\"]\n\
                [partitions]\nboot = { size = \"64 MB\" }\n";
    fs::write(machine.path("willow.toml"), text).unwrap();
    let file = machine.text("willow.toml");

    let add = machine.at_desk(["device", "add", "willow", "--manifest", &file]).expect(1);
    let check = machine.at_desk(["device", "check", &file, "ginkgo"]).expect(1);
    let json = machine.run(["device", "check", &file, "--json"]).expect(1);

    insta::assert_snapshot!(machine.masked_paths(&format!("{}\n{}{}\n{}", add.err, check.out, check.err, json.out)));
}

#[test]
fn manifests_of_the_project_can_be_added() {
    let machine = Machine::new();
    machine.run(["init", &machine.text("desk"), "--key-cost", "low"]).expect(0);
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests");

    for codename in ["alioth", "ginkgo", "rpi4"] {
        let file = format!("{dir}/{codename}.toml");
        machine.run(["device", "check", &file]).expect(0);
        machine.at_desk(["device", "add", codename, "--manifest", &file]).expect(0);
    }

    let list = machine.at_desk(["device", "list", "--json"]).expect(0).json();
    assert_eq!(list["devices"].as_array().unwrap().len(), 3);
    assert_eq!(machine.at_desk(["device", "check"]).expect(0).out.matches("fine").count(), 3);
    let keys: Vec<_> = machine.tree("desk/keys").into_keys().filter(|name| name.starts_with("v-")).collect();
    assert_eq!(keys.len(), 4, "one vendor key for both of xiaomi's devices: {keys:?}");
}

#[test]
fn a_directory_of_manifests_is_checked_as_a_whole() {
    let machine = Machine::with_device();
    let dir = machine.path("manifests");
    fs::create_dir(&dir).unwrap();
    let alioth = "codename = \"alioth\"\nvendor = \"xiaomi\"\nkind = \"ab\"\nmodels = [\"M2012K11AG\"]\n\
                  [dynamic]\nsize = \"2 GiB\"\ngroups = { main = \"1 GiB\" }\n[partitions]\nsystem = {}\n";
    fs::write(dir.join("alioth.toml"), alioth).unwrap();
    let munch = "codename = \"munch\"\nvendor = \"xiaomi\"\nkind = \"ab\"\naliases = [\"alioth\"]\n\
                 [[variants]]\nname = \"POCO F4\"\nmodels = [\"M2012K11AG\"]\n";
    fs::write(dir.join("poco.toml"), munch).unwrap();
    fs::write(dir.join("README"), "no manifest").unwrap();
    fs::create_dir(dir.join("guides")).unwrap();
    fs::write(dir.join("guides/odin.toml"), "id = \"heimdall\"\ntitle = \"x\"\nsteps = [{ id = \"a\", text = \"b\" }]")
        .unwrap();
    fs::write(dir.join("guides/fastboot.toml"), "id = \"fastboot\"\nsteps = []\n").unwrap();
    fs::create_dir(dir.join("more.toml")).unwrap();
    let dir = machine.text("manifests");

    let run = machine.run(["device", "check", &dir]).expect(1);
    // By the codename of the maintainer's own, and one that lies in the directory too.
    let json =
        machine.at_desk(["device", "check", "ginkgo", &dir, &format!("{dir}/alioth.toml"), "--json"]).expect(1).json();

    insta::assert_snapshot!(machine.masked_paths(&format!("{}\n{}", run.out, run.err)));
    assert_eq!(json["manifests"].as_array().unwrap().len(), 5);
    let empty = machine.path("empty");
    fs::create_dir(&empty).unwrap();
    assert_eq!(machine.run(["device", "check", &machine.text("empty")]).expect(0).out, "no devices\n");
}

#[test]
fn a_guide_is_filled_with_the_facts_of_its_device() {
    let machine = Machine::new();
    machine.run(["init", &machine.text("desk"), "--key-cost", "low"]).expect(0);
    let text = "codename = \"a52q\"\nvendor = \"samsung\"\nkind = \"block\"\n\
                buttons = { bootloader = [\"volume-up\", \"volume-down\", \"cable\"], recovery = [\"power\"] }\n\
                recovery = { partition = \"recovery\", flash_first = [\"vbmeta\"] }\n\
                [install]\nguides = [\"recovery-samsung\"]\nlink = \"https://example.org/\"\n\
                steps = { en = [\"Be patient.\"], es = [\"Paciencia.\"] }\n";
    let file = machine.text("a52q.toml");
    fs::write(&file, text).unwrap();
    machine.at_desk(["device", "add", "a52q", "--manifest", &file]).expect(0);

    let shown = machine.at_desk(["device", "guide", "a52q"]).expect(0).out;
    let json = machine.run(["device", "guide", &file, "--json"]).expect(0).json();

    insta::assert_snapshot!(shown);
    let steps = &json["install"]["parts"][0]["steps"];
    assert_eq!(steps[0]["message"], "guide-recovery-samsung-files");
    assert_eq!(json["values"]["bootloader-buttons"], json!(["volume-up", "volume-down"]));
    assert!(json["unlock"]["parts"].as_array().unwrap().is_empty());

    fs::write(&file, text.replace("recovery-samsung", "recovery-odin")).unwrap();
    let unknown = machine.run(["device", "guide", &file]).expect(1);
    assert!(
        unknown.err.contains("names the guide recovery-odin, and there is none; there are first-install, "),
        "{}",
        unknown.err
    );
    let bare = machine.text("bare.toml");
    fs::write(&bare, "codename = \"bare\"\nvendor = \"b\"\nkind = \"ab\"\n").unwrap();
    let bare = machine.run(["device", "guide", &bare]).expect(0).out;
    assert_eq!(bare, "the manifest of bare names no guides, no steps and no pages\n");
}

#[test]
fn the_members_of_a_family_are_shown() {
    let machine = Machine::new();
    machine.run(["init", &machine.text("desk"), "--key-cost", "low"]).expect(0);
    let text = "codename = \"miatoll\"\nvendor = \"xiaomi\"\nkind = \"block\"\n\
                hardware = { soc = \"Qualcomm SM7125 Snapdragon 720G\" }\n\
                buttons = { bootloader = [\"volume-down\", \"power\"] }\n\
                [[variants]]\nname = \"Redmi Note 9S\"\ncodename = \"curtana\"\n\
                models = [\"M2003J6A1G\", \"M2003J6A1R\"]\n\
                [[variants]]\nname = \"Redmi Note 9 Pro\"\ncodename = \"joyeuse\"\nmarkets = [\"Global\"]\n";
    fs::write(machine.path("miatoll.toml"), text).unwrap();
    machine.at_desk(["device", "add", "miatoll", "--manifest", &machine.text("miatoll.toml")]).expect(0);

    let text = machine.at_desk(["device", "show", "miatoll"]).expect(0).out;
    let json = machine.at_desk(["device", "show", "miatoll", "--json"]).expect(0).json();

    assert!(text.contains("variant     Redmi Note 9S, curtana, M2003J6A1G, M2003J6A1R\n"), "{text}");
    assert!(text.contains("soc         Qualcomm SM7125 Snapdragon 720G\n"), "{text}");
    assert_eq!(json["manifest"]["variants"][0]["codename"], "curtana");
    assert_eq!(json["manifest"]["buttons"]["bootloader"], json!(["volume-down", "power"]));
    assert!(json["manifest"]["aliases"].as_array().unwrap().contains(&json!("joyeuse")));
}

#[test]
fn a_vendor_whose_key_is_elsewhere_is_not_taken_over() {
    let machine = Machine::with_device();
    for name in ["v-xiaomi.key", "v-xiaomi.pub"] {
        fs::remove_file(machine.path("desk/keys").join(name)).unwrap();
    }

    let run = machine.at_desk(["device", "add", "alioth", "--vendor", "xiaomi", "--kind", "ab"]).expect(1);

    assert!(run.err.contains("the role v-xiaomi needs 1 of its 1 keys, and none is here"), "{}", run.err);
}

#[test]
fn a_codename_that_belongs_to_another_vendor_is_refused() {
    let machine = Machine::with_device();
    fs::remove_file(machine.path("desk/manifests/ginkgo.toml")).unwrap();

    let run = machine.at_desk(["device", "add", "ginkgo", "--vendor", "oneplus", "--kind", "ab"]).expect(1);

    assert!(run.err.contains("the codename ginkgo is taken: it belongs to xiaomi"), "{}", run.err);
    assert!(!machine.path("desk/manifests/ginkgo.toml").exists());
}

#[test]
fn a_device_add_that_was_cut_off_can_be_repeated() {
    let machine = Machine::new();
    machine.run(["init", &machine.text("desk"), "--key-cost", "low"]).expect(0);
    let add = ["device", "add", "ginkgo", "--vendor", "xiaomi", "--kind", "native", "--json"];
    let repo = machine.tree("desk/repo");
    machine.at_desk(add).expect(0);
    // As if the power had gone before the commit: manifest and keys are there, the repository is as it was.
    fs::remove_dir_all(machine.path("desk/repo")).unwrap();
    for (name, bytes) in &repo {
        let path = machine.path("desk/repo").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let keys = machine.tree("desk/keys");

    let again = machine.at_desk(add).expect(0).json();

    assert_eq!(again["state"], "added");
    assert_eq!(machine.tree("desk/keys"), keys);
    machine.at_desk(["import", &machine.build(1), "--device", "ginkgo"]).expect(0);
    machine.at_desk(["publish"]).expect(0);
}

#[test]
fn a_device_of_another_kind_gets_native_packages_and_a_warning() {
    let machine = Machine::new();
    machine.run(["init", &machine.text("desk"), "--key-cost", "low"]).expect(0);
    machine.at_desk(["device", "add", "alioth", "--vendor", "xiaomi", "--kind", "ab"]).expect(0);

    let run = machine.at_desk(["import", &machine.build(1), "--device", "alioth"]).expect(0);

    let warning = "warning: alioth installs by ab, and has no key for OTA zips: its packages are native, and only \
                   relevo-updater installs those; give a key with `relevo device add alioth --ota-key PEM \
                   --ota-cert PEM`\n";
    assert_eq!(run.err, warning);
}

#[test]
fn a_damaged_sparse_image_is_named_and_no_build_is_left() {
    let machine = Machine::with_device();
    let mut bytes = sparse(&program(1, 8));
    bytes.truncate(bytes.len() - 100);
    let dir = machine.images("x", &[("boot", program(2, 4)), ("system", bytes)]);
    let facts = ["--device", "ginkgo", "--build", "1", "--timestamp", "1"];

    let run = machine.at_desk(["import", &dir].into_iter().chain(facts)).expect(1);

    assert!(run.err.contains("the sparse image") && run.err.contains("system.img"), "{}", run.err);
    assert!(
        machine.tree("desk/builds").keys().all(|name| name.ends_with(".lock")),
        "{:?}",
        machine.tree("desk/builds")
    );
    let empty = machine.images("empty", &[]);
    let run = machine.at_desk(["import", &empty].into_iter().chain(facts)).expect(1);
    assert!(run.err.contains("holds no NAME.img"), "{}", run.err);
}

#[test]
fn the_same_id_with_other_content_is_refused() {
    let machine = Machine::with_device();
    machine.at_desk(["import", &machine.build(1), "--device", "ginkgo", "--no-full"]).expect(0);
    let before = machine.tree("desk");
    fs::write(machine.path("build-1/boot.img"), program(9, 12)).unwrap();

    let run = machine.at_desk(["import", &machine.text("build-1"), "--device", "ginkgo"]).expect(1);

    assert!(
        run.err.starts_with("error: build 1 of ginkgo is imported already, with another partition boot"),
        "{}",
        run.err
    );
    assert!(run.err.contains("hint: give the new build an id of its own, with --build ID"), "{}", run.err);
    assert_eq!(machine.tree("desk"), before);
}

#[test]
fn an_import_that_is_stopped_or_cut_leaves_no_build() {
    let machine = Machine::with_device();
    let build = machine.build(1);
    machine.stop(true);
    machine.at_desk(["import", &build, "--device", "ginkgo"]).expect(1);
    assert!(machine.tree("desk/builds").keys().all(|name| name.ends_with(".lock")));
    // What a cut leaves is swept away by the next import.
    let left = machine.path("desk/builds/ginkgo/.relevo-unfinished-x");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("boot.img"), "half").unwrap();
    machine.stop(false);

    machine.at_desk(["import", &build, "--device", "ginkgo"]).expect(0);

    assert!(!left.exists());
    let run = machine.at_desk(["device", "show", "ginkgo", "--json"]).expect(0).json();
    assert_eq!(run["builds"].as_array().unwrap().len(), 1);
}

#[test]
fn a_second_command_at_the_same_device_is_told_to_wait() {
    let machine = Machine::with_device();
    machine.at_desk(["import", &machine.build(1), "--device", "ginkgo", "--no-full"]).expect(0);
    let lock = fs::File::open(machine.path("desk/builds/ginkgo/.lock")).unwrap();
    lock.lock().unwrap();

    let run = machine.at_desk(["delta", "ginkgo"]).expect(1);

    assert!(run.err.contains("another relevo is at work in"), "{}", run.err);
}

#[test]
fn lints_warn_and_do_not_stop() {
    let machine = Machine::new();
    machine.run(["init", &machine.text("desk"), "--key-cost", "low"]).expect(0);
    let manifest = "codename = \"board\"\nvendor = \"acme\"\nkind = \"native\"\n\
                    [partitions]\nboot = { size = 8192 }\nroot = {}\n";
    fs::write(machine.path("board.toml"), manifest).unwrap();
    machine.at_desk(["device", "add", "board", "--manifest", &machine.text("board.toml")]).expect(0);
    let mut odd = program(1, 3);
    odd.truncate(10_000);
    let dir = machine.images("x", &[("boot", odd), ("extra", Vec::new())]);
    let facts = ["--device", "board", "--no-full", "--json"];

    let first = ["import", &dir, "--build", "2", "--timestamp", "200"];
    let first = machine.at_desk(first.into_iter().chain(facts)).expect(0).json();
    let second = ["import", &dir, "--build", "1", "--timestamp", "100"];
    let second = machine.at_desk(second.into_iter().chain(facts)).expect(0).json();

    let warnings = json!([
        "boot is 10000 bytes long, no multiple of 4096",
        "boot is 10000 bytes long; the device has room for 8192",
        "extra is empty",
        "extra is not among the partitions of the device's manifest",
        "the build has no root, which the device's manifest lists",
    ]);
    assert_eq!(first["warnings"], warnings);
    assert_eq!(
        second["warnings"].as_array().unwrap().last().unwrap(),
        "build 1 is not newer than 2, which is there already: 100 against 200; phones will not go to it"
    );
}

#[test]
fn facts_that_nothing_says_are_asked_for() {
    let machine = Machine::with_device();
    let dir = machine.images("x", &[("boot", program(1, 1))]);

    let id = machine.at_desk(["import", &dir, "--device", "ginkgo"]).expect(1);
    let date = machine.at_desk(["import", &dir, "--device", "ginkgo", "--build", "1"]).expect(1);
    let far = ["import", &dir, "--device", "ginkgo", "--build", "1", "--timestamp", "1746403200000"];
    let far = machine.at_desk(far).expect(1);
    let spl = ["import", &dir, "--device", "ginkgo", "--build", "1", "--timestamp", "1", "--spl", "May"];
    let spl = machine.at_desk(spl).expect(1);

    assert!(id.err.contains("hint: give --build ID"), "{}", id.err);
    assert!(date.err.contains("hint: give --timestamp SECONDS"), "{}", date.err);
    assert!(far.err.contains("is it in milliseconds?"), "{}", far.err);
    assert!(spl.err.contains("expected YYYY-MM-DD"), "{}", spl.err);
}

#[test]
fn an_image_that_changed_since_its_import_makes_no_package() {
    let machine = Machine::with_device();
    machine.at_desk(["import", &machine.build(1), "--device", "ginkgo", "--no-full"]).expect(0);
    let image = machine.path("desk/builds/ginkgo/1/system.img");
    let mut bytes = fs::read(&image).unwrap();
    bytes[100_000] ^= 1;
    fs::write(&image, bytes).unwrap();

    let run = machine.at_desk(["import", &machine.build(1), "--device", "ginkgo"]).expect(1);

    assert!(run.err.contains("system.img has SHA-256") && run.err.contains("it was imported with"), "{}", run.err);
    assert!(machine.tree("desk/packages").is_empty());
}

#[test]
fn a_package_that_the_disk_damaged_is_not_signed() {
    let machine = Machine::with_device();
    machine.at_desk(["import", &machine.build(1), "--device", "ginkgo"]).expect(0);
    let package = machine.path("desk/packages/ginkgo/stable/ginkgo-1-full.rvp");
    let mut bytes = fs::read(&package).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&package, bytes).unwrap();

    let run = machine.at_desk(["publish"]).expect(1);

    assert!(run.err.contains("ginkgo-1-full.rvp is refused") && run.err.contains("SHA-256"), "{}", run.err);
    assert!(machine.tree("desk/repo/targets").is_empty());
}

#[test]
fn unknown_devices_and_directories_are_named() {
    let machine = Machine::with_device();

    let device = machine.at_desk(["device", "show", "willow"]).expect(1);
    let publish = machine.at_desk(["publish", "willow"]).expect(1);
    let desk = machine.run(["device", "list", "--dir", &machine.text("nowhere")]).expect(1);
    let check = machine.at_desk(["device", "check", "willow"]).expect(1);
    let delta = machine.at_desk(["delta", "ginkgo"]).expect(1);

    for run in [&device, &publish] {
        assert!(
            run.err.starts_with("error: there is no device willow; known are ginkgo\nhint: add it with"),
            "{}",
            run.err
        );
    }
    assert!(desk.err.contains("nowhere is no maintainer's directory: it has no relevo.toml"), "{}", desk.err);
    assert!(check.err.contains("\"willow\" is neither a device of this directory nor a file"), "{}", check.err);
    assert!(delta.err.contains("hint: import one with"), "{}", delta.err);
}

#[test]
fn settings_with_mistakes_are_explained() {
    let machine = Machine::with_device();
    let path = machine.path("desk/relevo.toml");
    for (text, word) in [
        ("schema = 2\n", "schema is 2; this version knows 1"),
        ("schema = 1\nexpiry = 3\n", "unknown field `expiry`"),
        ("schema = 1\n[expiry_days]\nroot = 0\n", "expiry_days has 0; expected 1 to 3650"),
    ] {
        fs::write(&path, text).unwrap();

        let run = machine.at_desk(["device", "list"]).expect(1);

        assert!(run.err.contains("relevo.toml is damaged") && run.err.contains(word), "{}", run.err);
    }
}

#[test]
fn errors_of_the_disk_name_the_path() {
    let machine = Machine::new();
    let images = machine.images("x", &[("boot", program(1, 4))]);
    fs::create_dir(machine.path("full")).unwrap();
    // A file where a directory is needed is refused to every user, root included.
    fs::write(machine.path("file"), "").unwrap();

    let init = machine.run(["init", &machine.text("file/desk")]).expect(1);
    let diff = machine.run(["ota", "diff", &images, &images, "--out", &machine.text("file/x.rvp")]).expect(1);
    let missing = machine.run(["ota", "inspect", &machine.text("none.rvp")]).expect(1);

    assert!(init.err.contains("file/desk"), "{}", init.err);
    assert!(diff.err.contains("file/x.rvp"), "{}", diff.err);
    assert!(missing.err.contains("could not read") && missing.err.contains("none.rvp"), "{}", missing.err);
}

#[test]
fn a_directory_without_permission_is_named_with_a_hint() {
    let machine = Machine::with_device();
    let dir = machine.path("desk/builds/ginkgo");
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o500)).unwrap();
    // Permissions do not hold for root, and then there is nothing to see.
    let root = fs::write(dir.join("probe"), "").is_ok();

    let run = machine.at_desk(["import", &machine.build(1), "--device", "ginkgo"]);

    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    if !root {
        assert_eq!(run.status, 1);
        assert!(run.err.contains("builds/ginkgo") && run.err.contains("hint: run it as the user"), "{}", run.err);
    }
}

#[test]
fn repo_check_finds_what_changed() {
    let machine = Machine::with_device();
    machine.at_desk(["import", &machine.build(1), "--device", "ginkgo"]).expect(0);
    machine.at_desk(["publish"]).expect(0);
    let targets = machine.tree("desk/repo/targets/xiaomi/ginkgo/stable");
    let (name, bytes) = targets.iter().find(|(name, _)| name.ends_with(".rvp")).unwrap();
    let mut bytes = bytes.clone();
    bytes[1000] ^= 1;
    fs::write(machine.path("desk/repo/targets/xiaomi/ginkgo/stable").join(name), bytes).unwrap();

    let run = machine.at_desk(["repo", "check"]).expect(1);
    let json = machine.at_desk(["repo", "check", "--json"]).expect(1).json();

    assert!(run.out.contains(name.as_str()) && run.err.contains("1 problems found"), "{}{}", run.out, run.err);
    assert_eq!(json["problems"].as_array().unwrap().len(), 1);
    assert_eq!(json["error"]["message"], "1 problems found");
}

#[test]
fn a_killed_import_leaves_the_build_whole_or_not_at_all() {
    let machine = Machine::with_device();
    let images = [("system", program(1, 4_000)), ("vendor", program(2, 4_000))];
    let dir = machine.images("big", &images);
    let args = ["import", &dir, "--device", "ginkgo", "--build", "1", "--timestamp", "1", "--no-full", "--dir", "desk"];
    let builds = machine.path("desk/builds/ginkgo");
    let unfinished = |wanted: usize| {
        let names = fs::read_dir(&builds).into_iter().flatten().map(|entry| entry.unwrap());
        let started = names.filter(|entry| entry.file_name().to_str().unwrap().starts_with(".relevo-"));
        started.flat_map(|entry| fs::read_dir(entry.path()).into_iter().flatten()).count() >= wanted
    };

    for files in [0, 1, 2] {
        let mut child = command(&machine.path(""), args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while child.try_wait().unwrap().is_none() && !unfinished(files) {
            assert!(Instant::now() < deadline, "import neither ended nor started file {files}");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();

        if builds.join("1").exists() {
            assert_eq!(fs::read(builds.join("1/vendor.img")).unwrap(), images[1].1);
            assert!(builds.join("1/build.json").exists());
        }
    }

    machine.at_desk(args[..9].iter().copied()).expect(0);
    assert_eq!(fs::read(builds.join("1/system.img")).unwrap(), images[0].1);
    let mut names: Vec<_> = fs::read_dir(&builds).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".lock", "1"]);
}

#[test]
fn what_a_killed_delta_left_is_swept_away() {
    let machine = Machine::with_device();
    for number in [1, 2] {
        machine.at_desk(["import", &machine.build(number), "--device", "ginkgo", "--no-full"]).expect(0);
    }
    let dir = machine.path("desk/packages/ginkgo/stable");
    fs::create_dir_all(&dir).unwrap();
    for name in [".relevo-x1y2z3", "ginkgo-1-to-2.rvp"] {
        fs::write(dir.join(name), "half").unwrap();
    }

    machine.at_desk(["publish"]).expect(0);
    let delta = machine.at_desk(["delta", "ginkgo", "--json"]).expect(0).json();

    assert_eq!(delta["packages"][0]["state"], "made");
    assert!(!dir.join(".relevo-x1y2z3").exists());
    machine.run(["ota", "verify", dir.join("ginkgo-1-to-2.rvp").to_str().unwrap()]).expect(0);
}
