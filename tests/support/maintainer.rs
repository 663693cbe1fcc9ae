//! A maintainer's directory, worked on by the real `relevo`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use relevo_meta::keys::PrivateKey;

use crate::{
    images::{self, Images},
    program::{Said, command, run},
};

/// The pretend device of the tests.
pub const CODENAME: &str = "sample";
/// Who made it.
pub const VENDOR: &str = "pretend";

/// A maintainer's directory.
#[derive(Debug, Clone)]
pub struct Maintainer {
    directory: PathBuf,
    passphrase: PathBuf,
}

impl Maintainer {
    /// Makes a repository with the pretend device in it, in `base/maintainer`.
    ///
    /// # Panics
    /// If a step fails.
    pub fn new(base: &Path) -> Self {
        let passphrase = base.join("passphrase");
        fs::write(&passphrase, "correct horse battery staple\n").expect("a test can write into its directory");
        let maintainer = Self { directory: base.join("maintainer"), passphrase };
        let directory = maintainer.directory.to_str().expect("test directories are UTF-8").to_owned();
        maintainer.signing(&["init", &directory, "--key-cost", "low"]).ok();
        maintainer.device(CODENAME);
        maintainer
    }

    /// The same work in a copy of the directory.
    ///
    /// # Panics
    /// If a file cannot be copied.
    pub fn copy(&self, directory: &Path) -> Self {
        crate::phone::copy(&self.directory, directory).expect("a test can copy its files");
        Self { directory: directory.to_owned(), passphrase: self.passphrase.clone() }
    }

    /// Adds a device.
    ///
    /// # Panics
    /// If that fails.
    pub fn device(&self, codename: &str) {
        self.signing(&["device", "add", codename, "--vendor", VENDOR, "--kind", "native"]).ok();
    }

    /// The maintainer's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The public repository.
    pub fn repository(&self) -> PathBuf {
        self.directory.join("repo")
    }

    /// The root that phones ship with.
    pub fn root(&self) -> PathBuf {
        self.repository().join("metadata/1.root.json")
    }

    /// A command of `relevo` in this directory.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = command("relevo");
        command.arg("--quiet").arg("--dir").arg(&self.directory).args(words);
        command
    }

    /// A command that needs the passphrase.
    pub fn signing_command(&self, words: &[&str]) -> Command {
        let mut command = self.command(words);
        command.arg("--passphrase-file").arg(&self.passphrase);
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, words: &[&str]) -> Said {
        run(self.command(words))
    }

    /// Runs a command that needs the passphrase to its end.
    pub fn signing(&self, words: &[&str]) -> Said {
        run(self.signing_command(words))
    }

    /// Imports a build from a directory of images, quickly packed.
    ///
    /// # Panics
    /// If that fails.
    pub fn import(&self, codename: &str, images: &Path, build: &str, timestamp: i64) {
        let images = images.to_str().expect("test directories are UTF-8");
        let timestamp = timestamp.to_string();
        let words =
            ["import", images, "--device", codename, "--build", build, "--timestamp", &timestamp, "--level", "3"];
        self.run(&words).ok();
    }

    /// Imports a build from images in memory.
    ///
    /// # Panics
    /// If that fails.
    pub fn import_images(&self, base: &Path, codename: &str, images: &Images, build: &str, timestamp: i64) {
        let directory = base.join(format!("images-{codename}-{build}"));
        images::write(&directory, images);
        self.import(codename, &directory, build, timestamp);
    }

    /// Makes the missing deltas and publishes everything.
    ///
    /// # Panics
    /// If that fails.
    pub fn publish(&self) {
        self.run(&["delta", CODENAME, "--level", "9"]).ok();
        self.signing(&["publish"]).ok();
    }

    /// The private key of a role.
    ///
    /// # Panics
    /// If it cannot be opened.
    pub fn key(&self, role: &str) -> PrivateKey {
        let path = self.directory.join(format!("keys/{role}.key"));
        let pem = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let passphrase = fs::read_to_string(&self.passphrase).expect("the passphrase is there");
        PrivateKey::from_encrypted_pem(&pem, passphrase.trim_end().as_bytes())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The newest file of a role in the repository: its version and its path.
    ///
    /// # Panics
    /// If there is none.
    pub fn newest(&self, role: &str) -> (u64, PathBuf) {
        let metadata = self.repository().join("metadata");
        let version = |path: &PathBuf| {
            let (version, rest) = path.file_name()?.to_str()?.split_once('.')?;
            (rest == format!("{role}.json")).then(|| version.parse().ok())?
        };
        let newest = files(&metadata).into_iter().filter_map(|path| Some((version(&path)?, path))).max();
        newest.unwrap_or_else(|| panic!("the repository has no {role}"))
    }

    /// Every file of the repository, sorted.
    ///
    /// # Panics
    /// If it cannot be listed.
    pub fn files(&self) -> Vec<PathBuf> {
        files(&self.repository())
    }
}

/// Every file below a directory, sorted.
///
/// # Panics
/// If it cannot be listed.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
            let path = entry.expect("a directory can be listed to its end").path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}
