//! Which crate may use which, and what must never reach the phone.

use std::{collections::BTreeSet, fs};

use crate::workspace::{cargo, packages, root};

/// Each crate's level and what it may use of the workspace. Data goes down: a crate uses only crates of lower levels.
///
/// # Source
/// ARCHITECTURE.md, "Code map".
const LEVELS: &[(&str, u8, &[&str])] = &[
    ("relevo-types", 0, &[]),
    ("relevo-format", 1, &["relevo-types"]),
    ("relevo-meta", 1, &["relevo-types"]),
    ("relevo-delta", 2, &["relevo-types", "relevo-format"]),
    ("relevo-dialect", 2, &["relevo-types", "relevo-meta"]),
    ("relevo-repo", 2, &["relevo-types", "relevo-format", "relevo-meta"]),
    (
        "relevo-server",
        3,
        &["relevo-types", "relevo-format", "relevo-meta", "relevo-dialect", "relevo-repo", "relevo-delta"],
    ),
    ("relevo-updater", 3, &["relevo-types", "relevo-format", "relevo-meta"]),
    (
        "relevo-cli",
        3,
        &["relevo-types", "relevo-format", "relevo-meta", "relevo-delta", "relevo-dialect", "relevo-repo"],
    ),
];

/// The package of these tests: above everything.
const TOP: &str = "relevo-tests";

/// What must not be in the phone's binary: each is either large, or a second way of doing what is there already.
const NEVER_ON_THE_PHONE: &[&str] = &[
    "tokio",
    "actix",
    "sqlx",
    "openssl",
    "aws-lc",
    "native-tls",
    "reqwest",
    "hyper",
    "clap",
    "pkcs8",
    "rayon",
    "prost",
    "liblzma",
    "num-bigint",
    "p256",
];

/// What of that is there all the same, and why.
const EXCEPTIONS: &[&str] = &[
    // ed25519-dalek reads SubjectPublicKeyInfo with it; it holds no code for private keys without its feature
    // `encryption`, which `authoring_never_reaches_the_phone` keeps out.
    "pkcs8",
];

#[test]
fn a_crate_uses_only_crates_below_it() {
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        if name == TOP {
            continue;
        }
        let (_, level, allowed) =
            LEVELS.iter().find(|row| row.0 == name).unwrap_or_else(|| panic!("{name} has no level yet: add it"));

        for dependency in package["dependencies"].as_array().unwrap() {
            let used = dependency["name"].as_str().unwrap();
            // A crate may use itself in its own tests, to turn a feature on there.
            let itself = used == name && dependency["kind"] == "dev";
            if !used.starts_with("relevo-") || itself {
                continue;
            }
            let below = LEVELS.iter().find(|row| row.0 == used).is_some_and(|row| row.1 < *level);
            assert!(below, "{name} (level {level}) uses {used}, which is not below it");
            assert!(allowed.contains(&used), "{name} uses {used}; the table allows {allowed:?}");
        }
    }
}

#[test]
fn every_crate_of_the_table_exists() {
    let found: BTreeSet<String> = packages().iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect();

    let wanted: BTreeSet<String> = LEVELS.iter().map(|row| row.0).chain([TOP]).map(str::to_owned).collect();

    assert_eq!(found, wanted);
}

#[test]
fn every_package_takes_its_lints_from_the_workspace() {
    for package in packages() {
        let path = package["manifest_path"].as_str().unwrap();
        let manifest: toml::Table = fs::read_to_string(path).unwrap().parse().unwrap();

        let inherits = manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
        assert_eq!(inherits, Some(true), "{path} lacks `[lints] workspace = true`");
    }
}

#[test]
fn every_version_stands_in_the_root_manifest() {
    for package in packages() {
        let path = package["manifest_path"].as_str().unwrap();
        let manifest: toml::Table = fs::read_to_string(path).unwrap().parse().unwrap();

        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, value) in manifest.get(section).and_then(toml::Value::as_table).into_iter().flatten() {
                let inherits = value.get("workspace").and_then(toml::Value::as_bool);
                let itself = package["name"] == name.as_str() && section == "dev-dependencies";
                assert!(itself || inherits == Some(true), "{path}: {name} is not taken from [workspace.dependencies]");
            }
        }
    }
}

#[test]
fn what_the_phone_runs_stays_small() {
    // Only what is compiled for a phone counts; feature resolution is the one of this package alone.
    let tree = cargo(&[
        "tree",
        "--locked",
        "--package",
        "relevo-updater",
        "--edges",
        "normal",
        "--target",
        "aarch64-linux-android",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();

    assert!(names.contains("relevo-meta"), "the tree is not the updater's: {names:?}");
    for name in &names {
        let banned = NEVER_ON_THE_PHONE.iter().any(|start| name.starts_with(start)) && !EXCEPTIONS.contains(name);
        assert!(!banned, "{name} reaches relevo-updater; `cargo tree --package relevo-updater --invert {name}`");
    }
}

#[test]
fn authoring_never_reaches_the_phone() {
    let tree = cargo(&[
        "tree",
        "--locked",
        "--package",
        "relevo-updater",
        "--edges",
        "normal,features",
        "--target",
        "aarch64-linux-android",
        "--prefix",
        "none",
    ]);

    for line in tree.lines() {
        assert!(!line.starts_with("relevo-meta feature \"authoring\""), "{line}");
        assert!(!line.starts_with("pkcs8 feature \"encryption\""), "{line}");
    }
}

#[test]
fn types_and_metadata_do_no_io() {
    const IO: &[&str] = &["std::fs", "std::net", "std::process", "std::env", "getrandom", "SystemTime", "Instant::now"];

    for directory in ["crates/relevo-types/src", "crates/relevo-meta/src", "crates/relevo-dialect/src"] {
        for path in crate::tidy::files(&root().join(directory), &["rs"]) {
            let text = fs::read_to_string(&path).unwrap();
            // What follows the test module is test code, which may read its fixtures.
            let code = text.split("#[cfg(test)]").next().unwrap();
            for (number, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
                let found = IO.iter().find(|word| line.contains(**word));
                assert!(found.is_none(), "{}:{}: {found:?} in a crate that does no IO", path.display(), number + 1);
            }
        }
    }
}
