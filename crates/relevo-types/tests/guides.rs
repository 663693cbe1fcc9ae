//! Reads every guide of the project's `manifests/guides/`.
#![cfg(feature = "manifest")]

use std::{collections::BTreeSet, fs, path::Path};

use relevo_types::{
    Button, DeviceManifest,
    guide::{self, SharedGuide, StepKind, Value},
};

fn dir() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests")
}

/// The manifests of the project.
fn manifests() -> Vec<DeviceManifest> {
    let files =
        fs::read_dir(dir()).expect("the project has manifests").map(|entry| entry.expect("it is listed").path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    let text = files.map(|path| fs::read_to_string(path).expect("it can be read"));
    text.map(|text| DeviceManifest::parse(&text).expect("it is one")).collect()
}

#[test]
fn every_file_is_a_guide_and_is_built_in() {
    let mut files = BTreeSet::new();

    for entry in fs::read_dir(dir().join("guides")).expect("the project has guides") {
        let path = entry.expect("it is listed").path();
        let text = fs::read_to_string(&path).expect("it can be read");
        let guide = SharedGuide::parse(&text).unwrap_or_else(|error| panic!("{}:\n{error}", path.display()));

        assert_eq!(path.file_name().expect("a file has a name").to_string_lossy(), format!("{}.toml", guide.id));
        assert_eq!(guide::builtin(&guide.id), Some(&guide));
        files.insert(guide.id);
    }

    let built_in: Vec<_> = guide::all().iter().map(|guide| guide.id.clone()).collect();
    assert_eq!(built_in, files.into_iter().collect::<Vec<_>>(), "in the order of their ids");
}

#[test]
fn messages_have_ids_of_their_own() {
    let mut ids = BTreeSet::new();
    for guide in guide::all() {
        assert!(ids.insert(guide.message(None)), "{}", guide.id);
        for step in &guide.steps {
            assert!(ids.insert(guide.message(Some(step))), "{} {}", guide.id, step.id);
        }
    }
}

#[test]
fn every_guide_is_of_use_and_warns_of_the_loss_of_data() {
    let manifests = manifests();
    for guide in guide::all() {
        let named = |manifest: &DeviceManifest| {
            manifest.unlock.guides.contains(&guide.id) || manifest.install.guides.contains(&guide.id)
        };
        assert!(manifests.iter().any(named), "no device needs {}", guide.id);
        for step in &guide.steps {
            let there =
                |manifest: &&DeviceManifest| named(manifest) && guide.steps_for(manifest).any(|own| own == step);
            assert!(manifests.iter().any(|manifest| there(&manifest)), "no device needs {} of {}", step.id, guide.id);
        }
    }

    for manifest in manifests.iter().filter(|manifest| !manifest.unlock.guides.is_empty()) {
        assert_eq!(manifest.unlock.guides[0], "prepare", "{}", manifest.codename);
        for id in ["prepare", &manifest.unlock.guides[1]] {
            let guide = guide::builtin(id).expect("device check says so");
            let first = &guide.steps[0];
            assert_eq!(first.kind, StepKind::Warning, "{id}");
            assert!(first.text.to_lowercase().contains("eras"), "{id}");
        }
        assert_eq!(
            manifest.vendor.as_str() == "xiaomi",
            manifest.install.guides.contains(&"xiaomi-anti-rollback".to_owned()),
            "{}",
            manifest.codename
        );
    }
}

#[test]
fn no_device_is_told_a_name_instead_of_a_fact() {
    for manifest in manifests() {
        let values = guide::values(&manifest);
        for id in manifest.unlock.guides.iter().chain(&manifest.install.guides) {
            for step in guide::builtin(id).expect("device check says so").steps_for(&manifest) {
                let mut texts = step.commands(&values);
                texts.push(step.english(&values));
                assert!(texts.iter().all(|text| !text.contains(['{', '}', '$'])), "{}: {texts:?}", manifest.codename);
            }
        }
    }
}

#[test]
fn a_recovery_is_started_in_one_way() {
    for manifest in
        manifests().iter().filter(|manifest| manifest.install.guides.contains(&"recovery-fastboot".to_owned()))
    {
        let guide = guide::builtin("recovery-fastboot").expect("it is one of ours");
        let starts: Vec<_> = guide.steps_for(manifest).filter(|step| step.id.starts_with("start-")).collect();
        assert_eq!(starts.len(), 1, "{}", manifest.codename);
    }
}

#[test]
fn the_cable_is_no_button() {
    let manifest = manifests().into_iter().find(|manifest| manifest.codename.as_str() == "a52q").expect("there is one");

    let held = &guide::values(&manifest)["bootloader-buttons"];

    assert_eq!(*held, Value::Buttons(vec![Button::VolumeUp, Button::VolumeDown]));
    assert_eq!(held.english(), "volume up + volume down");
    assert_eq!(guide::values(&manifest)["android"].english(), "13, 14");
}

#[test]
fn a_command_has_a_line_for_each_entry_of_a_list_that_it_names_itself() {
    let manifests = manifests();
    let alioth = manifests.iter().find(|manifest| manifest.codename.as_str() == "alioth").expect("there is one");
    let values = guide::values(alioth);
    let commands = |guide: &str, step: &str| {
        let guide = guide::builtin(guide).expect("it is one of ours");
        guide.steps_for(alioth).find(|own| own.id == step).expect("it holds for alioth").commands(&values)
    };

    assert_eq!(
        commands("recovery-fastboot", "first"),
        ["fastboot flash boot boot.img", "fastboot flash dtbo dtbo.img"]
    );
    // Its text names two codenames, which are no business of the command's.
    assert_eq!(commands("prepare", "codename"), ["adb shell getprop ro.product.device"]);
    assert_eq!(commands("prepare", "read"), [""; 0]);
}
