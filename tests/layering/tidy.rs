//! Files that must be there, words that must not.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::workspace::{packages, root};

/// Files below `directory` with one of these extensions (or any, if none is given), without what builds leave.
pub(crate) fn files(directory: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), "target" | ".git" | "node_modules" | "corpus-cache" | "__pycache__") {
                    open.push(path);
                }
            } else if name != ".git"
                && (extensions.is_empty() || extensions.iter().any(|end| name.ends_with(&format!(".{end}"))))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Targets of the links `[text](target)` in a Markdown text that are files of this repository.
fn links(text: &str) -> Vec<&str> {
    text.match_indices("](")
        .filter_map(|(at, _)| text[at + 2..].split(')').next())
        .map(|target| target.split('#').next().unwrap_or(""))
        .filter(|target| !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:"))
        .collect()
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not find itself.
    let words =
        [["to", "do!"].concat(), ["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["unimpl", "emented!"].concat()];

    for path in files(&root(), &["rs", "toml", "sh", "py", "md", "html", "sql", "service", "conf"]) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            let found = words.iter().find(|word| line.contains(word.as_str()));
            let rule = line.contains("= \"warn\"") || path.ends_with("STYLE.md");
            assert!(found.is_none() || rule, "{}:{}: {line}", path.display(), number + 1);
        }
    }
}

#[test]
fn no_file_names_a_place_on_one_machine() {
    let words = [["/wo", "rk/"].concat(), ["/tmp", "/w/"].concat(), ["/root", "/"].concat()];
    // In `dir/root/` it is no place, only a name.
    let absolute = |line: &str, at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "]})._-".contains(c));

    for path in files(&root(), &[]) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            let found = words.iter().any(|word| line.match_indices(word.as_str()).any(|(at, _)| absolute(line, at)));
            assert!(!found, "{}:{}: {line}", path.display(), number + 1);
        }
    }
}

#[test]
fn no_private_key_is_in_the_tree() {
    let marks = [["-----BEGIN ", "PRIVATE KEY"].concat(), ["-----BEGIN ", "ENCRYPTED PRIVATE KEY"].concat()];

    for path in files(&root(), &["pem", "key", "pub", "toml", "json", "md", "sh", "txt"]) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for mark in &marks {
            assert!(!text.lines().any(|line| line.starts_with(mark.as_str())), "{} is a private key", path.display());
        }
    }
}

#[test]
fn there_is_one_licence() {
    let licence = read("LICENSE");
    assert!(licence.contains("Apache License") && licence.contains("Version 2.0"), "LICENSE is not Apache 2.0");

    for package in packages() {
        assert_eq!(package["license"], "Apache-2.0", "{}", package["name"]);
    }
    let mark = ["SPDX-", "License-Identifier:"].concat();
    for path in files(&root(), &["rs", "sh", "py", "toml", "html", "css"]) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for line in text.lines().filter(|line| line.contains(&mark)) {
            assert!(line.trim_end().ends_with("Apache-2.0"), "{}: {line}", path.display());
        }
    }
}

#[test]
fn every_document_can_be_found() {
    let (readme, architecture) = (read("README.md"), read("ARCHITECTURE.md"));
    let linked: Vec<&str> = links(&readme).into_iter().chain(links(&architecture)).collect();

    for path in files(&root().join("docs"), &["md"]) {
        let name = format!("docs/{}", path.file_name().unwrap().to_str().unwrap());
        assert!(linked.contains(&name.as_str()), "neither README.md nor ARCHITECTURE.md links {name}");
    }
    for name in ["ARCHITECTURE.md", "STYLE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "BENCHMARKS.md"] {
        assert!(links(&readme).contains(&name), "README.md does not link {name}");
    }
}

#[test]
fn every_link_leads_somewhere() {
    for path in files(&root(), &["md"]) {
        let text = fs::read_to_string(&path).unwrap();
        for target in links(&text) {
            let file = path.parent().unwrap().join(target);
            assert!(file.exists(), "{} links {target}, which is not there", path.display());
        }
    }
}

#[test]
fn the_architecture_names_every_crate_and_module() {
    let architecture = read("ARCHITECTURE.md");

    for package in packages() {
        let name = package["name"].as_str().unwrap();
        assert!(architecture.contains(&format!("`{name}`")), "ARCHITECTURE.md does not name {name}");
    }
    for path in files(&root().join("crates"), &["rs"]) {
        let relative = path.strip_prefix(root().join("crates")).unwrap();
        let mut parts = relative.iter().map(|part| part.to_str().unwrap());
        let (Some(package), Some("src"), Some(module)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let module = module.strip_suffix(".rs").unwrap_or(module);
        if matches!(module, "lib" | "main") {
            continue;
        }
        let section = architecture.split(&format!("### `{package}`")).nth(1);
        let section = section.unwrap_or_else(|| panic!("ARCHITECTURE.md has no section on {package}"));
        let section = section.split("\n### ").next().unwrap().split("\n## ").next().unwrap();
        assert!(section.contains(&format!("`{module}`")), "ARCHITECTURE.md says nothing of {package}'s {module}");
    }
}

#[test]
fn the_changelog_has_a_place_for_what_comes_next() {
    assert!(read("CHANGELOG.md").lines().any(|line| line.trim() == "## Unreleased"));
}

#[test]
fn every_crate_says_what_it_is_for() {
    for package in packages() {
        for target in package["targets"].as_array().unwrap() {
            let path = target["src_path"].as_str().unwrap();
            let text = fs::read_to_string(path).unwrap();
            assert!(text.starts_with("//!"), "{path} does not begin with what it is for");
        }
    }
}
