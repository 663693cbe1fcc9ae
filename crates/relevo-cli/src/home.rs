//! A maintainer's directory: where everything lies.
//!
//! ```text
//! relevo.toml                       settings
//! keys/<codename>.ota.key, .ota.crt what signs A/B OTA zips for a device's phones
//! keys/<name>.key, <name>.pub       root, targets, snapshot, timestamp, v-<vendor>, d-<codename>; and log
//! manifests/<codename>.toml         device manifests
//! builds/<codename>/<build>/        imported images, raw, with build.json; private
//! packages/<codename>/<channel>/    packages that were made and not yet published
//! repo/                             the repository; this, and only this, is served
//! ```

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use relevo_repo::Expiries;
use relevo_types::{ByteLen, Channel, Codename, DeviceManifest, MAX_MANIFEST};
use serde::{Deserialize, Serialize};

use crate::{
    args::KeyCost,
    durable::{self, make_dir, read_text},
    error::CliError,
    external::SignerSettings,
};

/// Longest settings file that we read, in bytes.
const MAX_SETTINGS: u64 = 64 << 10;

/// `relevo.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Version of this file and of the directory's layout; 1.
    pub(crate) schema: u32,
    /// How hard guessing the keys' passphrase is made, for keys still to be made.
    #[serde(default)]
    pub(crate) key_cost: KeyCost,
    /// What signs the A/B OTA zips of devices that have no key of their own for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ota: Option<OtaKey>,
    /// For how many days a signature counts, by kind of role.
    #[serde(default)]
    pub(crate) expiry_days: Expiries,
    /// Keys that programs sign with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) signer: Vec<SignerSettings>,
}

/// A key that phones look for in OTA zips, and the certificate that they know it by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OtaKey {
    /// The private key; relative to the maintainer's directory.
    pub(crate) key: PathBuf,
    /// The certificate, the same.
    pub(crate) cert: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            schema: 1,
            key_cost: KeyCost::default(),
            ota: None,
            expiry_days: Expiries::default(),
            signer: Vec::new(),
        }
    }
}

impl Settings {
    pub(crate) fn to_toml(&self) -> String {
        let settings = toml::to_string(self).expect("settings hold only what TOML can say");
        format!("# Settings of this maintainer's directory; docs/maintainer-guide.md explains them.\n{settings}")
    }

    fn check(&self) -> Result<(), String> {
        if self.schema != 1 {
            return Err(format!("schema is {}; this version knows 1, so update relevo first", self.schema));
        }
        let Expiries { root, targets, vendor, device, nightly, snapshot, timestamp } = self.expiry_days;
        match [root, targets, vendor, device, nightly, snapshot, timestamp]
            .into_iter()
            .find(|days| !(1..=3650).contains(days))
        {
            Some(days) => Err(format!("expiry_days has {days}; expected 1 to 3650")),
            None => self.signer.iter().try_for_each(SignerSettings::check),
        }
    }
}

/// A maintainer's directory.
#[derive(Debug)]
pub(crate) struct Home {
    dir: PathBuf,
    pub(crate) settings: Settings,
}

impl Home {
    /// Opens a directory that `relevo init` made.
    pub(crate) fn open(dir: &Path) -> Result<Self, CliError> {
        let path = dir.join("relevo.toml");
        let Some(text) = read_text(&path, MAX_SETTINGS)? else { return Err(CliError::NoHome { dir: dir.into() }) };
        let damaged = |reason| CliError::Damaged { path: path.clone(), reason };
        let settings: Settings = toml::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        settings.check().map_err(damaged)?;
        Ok(Self { dir: dir.into(), settings })
    }

    /// A directory that is being made.
    pub(crate) fn new(dir: &Path, settings: Settings) -> Self {
        Self { dir: dir.into(), settings }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn repo(&self) -> PathBuf {
        self.dir.join("repo")
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.dir.join("keys")
    }

    /// Where a device's own key for OTA zips is, or would be.
    pub(crate) fn own_ota_key(&self, codename: &Codename) -> OtaKey {
        let path = |extension| self.keys().join(format!("{codename}.ota.{extension}"));
        OtaKey { key: path("key"), cert: path("crt") }
    }

    /// What signs a device's OTA zips: its own key, else the one of all devices; none if there is neither.
    pub(crate) fn ota_key(&self, codename: &Codename) -> Option<OtaKey> {
        let own = self.own_ota_key(codename);
        if own.key.exists() {
            return Some(own);
        }
        let OtaKey { key, cert } = self.settings.ota.as_ref()?;
        Some(OtaKey { key: self.dir.join(key), cert: self.dir.join(cert) })
    }

    pub(crate) fn manifest_path(&self, codename: &Codename) -> PathBuf {
        self.dir.join("manifests").join(format!("{codename}.toml"))
    }

    pub(crate) fn builds(&self, codename: &Codename) -> PathBuf {
        self.dir.join("builds").join(codename.as_str())
    }

    pub(crate) fn packages(&self, codename: &Codename, channel: &Channel) -> PathBuf {
        self.dir.join("packages").join(codename.as_str()).join(channel.as_str())
    }

    /// All devices: those with a manifest.
    pub(crate) fn devices(&self) -> Result<Vec<Codename>, CliError> {
        let dir = self.dir.join("manifests");
        let mut devices = Vec::new();
        for name in names(&dir)? {
            if let Some(Ok(codename)) = name.strip_suffix(".toml").map(Codename::parse) {
                devices.push(codename);
            }
        }
        devices.sort();
        Ok(devices)
    }

    /// Reads and checks a device's manifest.
    pub(crate) fn manifest(&self, codename: &Codename) -> Result<DeviceManifest, CliError> {
        let path = self.manifest_path(codename);
        let Some(text) = read_text(&path, MAX_MANIFEST.get())? else {
            let known: Vec<_> = self.devices()?.iter().map(ToString::to_string).collect();
            return Err(CliError::NoDevice { codename: codename.clone(), known: or_none(&known) });
        };
        parse_manifest(&path, &text, Some(codename))
    }

    /// Takes the lock on a device's builds and packages, and removes what was left unfinished there.
    pub(crate) fn lock_device(&self, codename: &Codename) -> Result<Lock, CliError> {
        let dir = self.builds(codename);
        make_dir(&dir)?;
        let lock = Lock::take(&dir)?;
        durable::sweep(&dir)?;
        for channel in names(&self.dir.join("packages").join(codename.as_str()))? {
            durable::sweep(&self.dir.join("packages").join(codename.as_str()).join(channel))?;
        }
        Ok(lock)
    }

    /// The channel asked for, or the device's first.
    pub(crate) fn channel(manifest: &DeviceManifest, wanted: Option<&Channel>) -> Result<Channel, CliError> {
        match wanted {
            None => Ok(manifest.channels.first().expect("a manifest has a channel").clone()),
            Some(channel) if manifest.channels.contains(channel) => Ok(channel.clone()),
            Some(channel) => {
                let known: Vec<_> = manifest.channels.iter().map(ToString::to_string).collect();
                let codename = manifest.codename.clone();
                Err(CliError::NoChannel { codename, channel: channel.clone(), known: or_none(&known) })
            }
        }
    }
}

/// Reads a manifest's text; with `wanted`, it must be that device's.
pub(crate) fn parse_manifest(path: &Path, text: &str, wanted: Option<&Codename>) -> Result<DeviceManifest, CliError> {
    let manifest = DeviceManifest::parse(text).map_err(|source| CliError::Manifest { path: path.into(), source })?;
    match wanted {
        Some(wanted) if *wanted != manifest.codename => {
            let (found, wanted) = (manifest.codename, wanted.clone());
            Err(CliError::OtherDevice { path: path.into(), found, wanted })
        }
        _ => Ok(manifest),
    }
}

/// Holds a directory for one process at a time.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "the lock ends when the file is closed")] File);

impl Lock {
    pub(crate) fn take(dir: &Path) -> Result<Self, CliError> {
        let path = dir.join(".lock");
        let failed = |source: io::Error| CliError::Write { path: path.clone(), source };
        let file = File::options().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(CliError::Busy { dir: dir.into() }),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

/// Names in a directory, sorted; none if it is not there. Names that are no UTF-8 are nobody's of ours.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, CliError> {
    let failed = |source| CliError::Read { path: dir.into(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// A list for a sentence.
pub(crate) fn or_none(items: &[String]) -> String {
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

/// A size for people and for checking.
pub(crate) fn human(bytes: u64) -> String {
    ByteLen::new(bytes).human()
}
