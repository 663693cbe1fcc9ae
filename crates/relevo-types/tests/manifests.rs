//! Reads every manifest of the project's `manifests/`.
#![cfg(feature = "manifest")]

use std::{collections::BTreeSet, fs, path::Path};

use relevo_types::{DeviceManifest, Examined, InstallKind, clashes};

/// The manifests, with their files' names.
fn manifests() -> Vec<(String, Examined)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests");
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("the project has manifests") {
        let path = entry.expect("they can be listed").path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("they can be read");
        let examined = DeviceManifest::examine(&text).unwrap_or_else(|error| panic!("{}:\n{error}", path.display()));
        assert!(text.starts_with("# "), "{} says first what it is and where its facts are from", path.display());
        found.push((path.file_name().expect("a file has a name").to_string_lossy().into_owned(), examined));
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found
}

#[test]
fn every_manifest_of_the_project_is_valid_and_named_for_its_device() {
    let manifests = manifests();

    for (file, Examined { manifest, contradictions, .. }) in &manifests {
        assert_eq!(*file, format!("{}.toml", manifest.codename));
        assert_eq!(contradictions, &[], "{file}");
        assert_eq!(DeviceManifest::parse(&manifest.to_toml()).as_ref(), Ok(manifest));
        assert!(!manifest.names.is_empty() && !manifest.partitions.is_empty(), "{file}");
        // What a page needs at least, of phones that people come to.
        if manifest.kind != InstallKind::Native {
            assert!(manifest.hardware.soc.is_some() && manifest.links.source.is_some(), "{file}");
            assert!(!manifest.buttons.bootloader.is_empty() && manifest.recovery.is_some(), "{file}");
        }
        // A delta is made for what the builds in use understand.
        assert_eq!(manifest.payload.is_some(), manifest.kind == InstallKind::Ab, "{file}");
    }

    let kinds: BTreeSet<_> = manifests.iter().map(|(_, examined)| examined.manifest.kind).collect();
    assert_eq!(kinds, BTreeSet::from([InstallKind::Ab, InstallKind::Block, InstallKind::Native]));
}

#[test]
fn no_two_manifests_claim_the_same_phone() {
    let manifests = manifests();
    let together: Vec<_> = manifests.iter().map(|(file, examined)| (file.as_str(), examined)).collect();

    assert_eq!(clashes(&together), []);
}

#[test]
fn the_families_that_the_project_is_for_are_there() {
    let there: BTreeSet<_> =
        manifests().into_iter().map(|(_, examined)| examined.manifest.codename.to_string()).collect();

    for codename in [
        "alioth",
        "bluejay",
        "ginkgo",
        "jasmine_sprout",
        "laurel_sprout",
        "lavender",
        "lisa",
        "merlinx",
        "miatoll",
        "mido",
        "onclite",
        "rosemary",
        "spes",
        "surya",
        "sweet",
        "tissot",
        "vayu",
        "violet",
        "whyred",
    ] {
        assert!(there.contains(codename), "{codename}");
    }
}
