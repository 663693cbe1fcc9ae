//! Reads every manifest of the project's `manifests/`.
#![cfg(feature = "manifest")]

use std::{collections::BTreeSet, fs, path::Path};

use relevo_types::{DeviceManifest, InstallKind};

#[test]
fn every_manifest_of_the_project_is_valid_and_named_for_its_device() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests");
    let mut kinds = BTreeSet::new();

    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let manifest = DeviceManifest::parse(&text).unwrap_or_else(|error| panic!("{}:\n{error}", path.display()));

        assert_eq!(path.file_stem().unwrap().to_str(), Some(manifest.codename.as_str()));
        assert_eq!(DeviceManifest::parse(&manifest.to_toml()), Ok(manifest.clone()));
        assert!(!manifest.names.is_empty() && !manifest.partitions.is_empty(), "{}", path.display());
        kinds.insert(manifest.kind);
    }

    assert_eq!(kinds, BTreeSet::from([InstallKind::Ab, InstallKind::Block, InstallKind::Native]));
}
