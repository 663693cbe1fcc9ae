//! The configuration: one TOML file (docs/phone-guide.md has the reference).

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use relevo_types::{ByteLen, Channel, Codename, NameError, PartitionName, Vendor};
use serde::Deserialize;

use crate::boot::Slot;

/// The longest configuration file that we read, in bytes.
pub const MAX_CONFIG: u64 = 64 * 1024;

/// Every section with its keys; what is not listed is an error.
const KNOWN: [(&str, &[&str]); 5] = [
    ("", &["mirrors", "root", "vendor", "codename", "channel", "state_dir", "install", "block", "network", "daemon"]),
    ("install", &["backend", "tries", "reserve"]),
    ("block", &["slot_a", "slot_b", "build_file", "boot_control", "booted", "boot_id"]),
    (
        "network",
        &[
            "connect_timeout_s",
            "answer_timeout_s",
            "stall_timeout_s",
            "parallel",
            "request_size",
            "rate_limit",
            "redirect_hosts",
            "retries",
            "retry_wait_ms",
        ],
    ),
    ("daemon", &["interval_minutes", "jitter_minutes", "download", "install"]),
];

/// Why a configuration is not usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No TOML, or a value of the wrong type.
    #[error("the configuration is not valid")]
    Toml(#[from] toml::de::Error),
    /// A key that means nothing.
    #[error("unknown key {key:?}{}; did you mean {nearest:?}?", in_section(.section))]
    UnknownKey {
        /// The section; empty for the top.
        section: String,
        /// The key.
        key: String,
        /// The known key that is nearest to it.
        nearest: &'static str,
    },
    /// A name that is none.
    #[error("{key} is not usable")]
    Name {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        source: NameError,
    },
    /// A value that makes no sense.
    #[error("{key} is {found}; it must be {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it is.
        found: String,
        /// What it has to be.
        expected: &'static str,
    },
}

fn in_section(section: &str) -> String {
    if section.is_empty() { String::new() } else { format!(" in [{section}]") }
}

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where repositories can be read, each ending in `/`.
    pub mirrors: Vec<String>,
    /// The root metadata that trust starts from.
    pub root: PathBuf,
    /// The device's vendor.
    pub vendor: Vendor,
    /// The device.
    pub codename: Codename,
    /// The channel that is followed.
    pub channel: Channel,
    /// Where the updater keeps what it has to remember.
    pub state_dir: PathBuf,
    /// How often a new build is tried before it is given up.
    pub tries: u8,
    /// Bytes that a download leaves free on its file system.
    pub reserve: ByteLen,
    /// Slots and boot control.
    pub block: BlockConfig,
    /// Sockets.
    pub network: NetworkConfig,
    /// The poll loop.
    pub daemon: DaemonConfig,
}

/// The `block` backend: two slots of files or block devices.
#[derive(Debug, Clone)]
pub struct BlockConfig {
    /// Where the partitions of slot a are.
    pub slot_a: SlotPattern,
    /// Where the partitions of slot b are.
    pub slot_b: SlotPattern,
    /// Which build a slot holds; the text `{slot}` stands for its letter.
    pub build_file: String,
    /// Boot control, a file or a block device.
    pub boot_control: PathBuf,
    /// What the bootloader reported: the slot that runs, and the boot id unless `boot_id` has it.
    pub booted: PathBuf,
    /// A file that differs from boot to boot.
    pub boot_id: Option<PathBuf>,
}

/// A path with `{partition}` in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotPattern(String);

impl SlotPattern {
    /// A pattern, or a directory of `NAME.img`.
    pub fn new(text: &str) -> Self {
        if text.contains("{partition}") {
            Self(text.to_owned())
        } else {
            Self(format!("{}/{{partition}}.img", text.trim_end_matches('/')))
        }
    }

    /// Where a partition is.
    pub fn path(&self, partition: &PartitionName) -> PathBuf {
        PathBuf::from(self.0.replace("{partition}", partition.as_str()))
    }
}

impl BlockConfig {
    /// Where a partition of a slot is.
    pub fn partition(&self, slot: Slot, partition: &PartitionName) -> PathBuf {
        match slot {
            Slot::A => self.slot_a.path(partition),
            Slot::B => self.slot_b.path(partition),
        }
    }

    /// The file that says which build a slot holds.
    pub fn build_file(&self, slot: Slot) -> PathBuf {
        PathBuf::from(self.build_file.replace("{slot}", slot.letter()))
    }
}

/// Sockets.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// How long connecting may take, TLS and names among it.
    pub connect_timeout: Duration,
    /// How long an answer may take to begin.
    pub answer_timeout: Duration,
    /// How long an answer may stand still.
    pub stall_timeout: Duration,
    /// How many requests run at a time.
    pub parallel: usize,
    /// How much a request asks for at most, so that a long round trip is not paid for each chunk.
    pub request_size: ByteLen,
    /// Bytes a second, over all requests.
    pub rate_limit: Option<ByteLen>,
    /// Hosts that a mirror may send us to; its own host always.
    pub redirect_hosts: Vec<String>,
    /// How often in a row a mirror may fail without a byte of progress before it is put aside for the run.
    pub retries: u32,
    /// The wait before the first retry; it doubles from there.
    pub retry_wait: Duration,
}

/// The poll loop.
#[derive(Debug, Clone)]
pub struct DaemonConfig {
    /// Time between two polls.
    pub interval: Duration,
    /// Up to this much more, by the phone's own dice.
    pub jitter: Duration,
    /// Whether packages are downloaded without being asked.
    pub download: bool,
    /// Whether they are installed too; the reboot is always somebody else's decision.
    pub install: bool,
}

impl Config {
    /// Parses a configuration; relative paths start at `directory`.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key that is wrong.
    pub fn parse(text: &str, directory: &Path) -> Result<Self, ConfigError> {
        let table: toml::Table = toml::from_str(text)?;
        check_keys("", &table)?;
        let raw: Raw = toml::from_str(text)?;
        raw.check(directory)
    }
}

#[derive(Deserialize)]
struct Raw {
    mirrors: Vec<String>,
    root: String,
    vendor: String,
    codename: String,
    channel: Option<String>,
    state_dir: String,
    #[serde(default)]
    install: RawInstall,
    block: RawBlock,
    #[serde(default)]
    network: RawNetwork,
    #[serde(default)]
    daemon: RawDaemon,
}

#[derive(Deserialize, Default)]
struct RawInstall {
    backend: Option<String>,
    tries: Option<u8>,
    reserve: Option<String>,
}

#[derive(Deserialize)]
struct RawBlock {
    slot_a: String,
    slot_b: String,
    build_file: String,
    boot_control: String,
    booted: Option<String>,
    boot_id: Option<String>,
}

#[derive(Deserialize, Default)]
struct RawNetwork {
    connect_timeout_s: Option<u32>,
    answer_timeout_s: Option<u32>,
    stall_timeout_s: Option<u32>,
    parallel: Option<u8>,
    request_size: Option<String>,
    rate_limit: Option<String>,
    redirect_hosts: Option<Vec<String>>,
    retries: Option<u32>,
    retry_wait_ms: Option<u32>,
}

#[derive(Deserialize, Default)]
struct RawDaemon {
    interval_minutes: Option<u32>,
    jitter_minutes: Option<u32>,
    download: Option<bool>,
    install: Option<bool>,
}

impl Raw {
    fn check(self, directory: &Path) -> Result<Config, ConfigError> {
        let path = |text: &str| directory.join(text);
        let text_path = |text: &str| directory.join(text).to_string_lossy().into_owned();
        if let Some(backend) = self.install.backend.filter(|backend| backend != "block") {
            let key = "install.backend";
            return Err(ConfigError::Value { key, found: format!("{backend:?}"), expected: "\"block\"" });
        }
        let tries = self.install.tries.unwrap_or(3);
        if !(1..=7).contains(&tries) {
            let (key, found) = ("install.tries", tries.to_string());
            return Err(ConfigError::Value { key, found, expected: "1 to 7" });
        }
        if !self.block.build_file.contains("{slot}") {
            let (key, found) = ("block.build_file", format!("{:?}", self.block.build_file));
            return Err(ConfigError::Value { key, found, expected: "a path with {slot} in it" });
        }
        let slots = [&self.block.slot_a, &self.block.slot_b].map(|text| SlotPattern::new(&text_path(text)));
        if slots[0] == slots[1] {
            let (key, found) = ("block.slot_b", format!("{:?}", self.block.slot_b));
            return Err(ConfigError::Value { key, found, expected: "another place than block.slot_a" });
        }
        let [slot_a, slot_b] = slots;
        let boot_control = path(&self.block.boot_control);
        let booted = match &self.block.booted {
            Some(booted) => path(booted),
            None => boot_control.with_file_name("booted"),
        };
        let parallel = self.network.parallel.unwrap_or(2);
        if !(1..=8).contains(&parallel) {
            let (key, found) = ("network.parallel", parallel.to_string());
            return Err(ConfigError::Value { key, found, expected: "1 to 8" });
        }
        let rate_limit = match &self.network.rate_limit {
            Some(text) => Some(size("network.rate_limit", text)?),
            None => None,
        };
        if rate_limit == Some(ByteLen::ZERO) {
            let (key, found) = ("network.rate_limit", "0".to_owned());
            return Err(ConfigError::Value { key, found, expected: "at least 1 byte a second" });
        }
        let seconds = |given: Option<u32>, default| Duration::from_secs(u64::from(given.unwrap_or(default).max(1)));
        let minutes = |given: Option<u32>, default| Duration::from_secs(60 * u64::from(given.unwrap_or(default)));
        Ok(Config {
            mirrors: mirrors(self.mirrors)?,
            root: path(&self.root),
            vendor: name("vendor", Vendor::parse(&self.vendor))?,
            codename: name("codename", Codename::parse(&self.codename))?,
            channel: name("channel", Channel::parse(self.channel.as_deref().unwrap_or("stable")))?,
            state_dir: path(&self.state_dir),
            tries,
            reserve: size("install.reserve", self.install.reserve.as_deref().unwrap_or("16MiB"))?,
            block: BlockConfig {
                slot_a,
                slot_b,
                build_file: text_path(&self.block.build_file),
                boot_control,
                booted,
                boot_id: self.block.boot_id.as_deref().map(path),
            },
            network: NetworkConfig {
                connect_timeout: seconds(self.network.connect_timeout_s, 30),
                answer_timeout: seconds(self.network.answer_timeout_s, 30),
                stall_timeout: seconds(self.network.stall_timeout_s, 30),
                parallel: usize::from(parallel),
                request_size: size("network.request_size", self.network.request_size.as_deref().unwrap_or("4MiB"))?,
                rate_limit,
                redirect_hosts: self.network.redirect_hosts.unwrap_or_default(),
                retries: self.network.retries.unwrap_or(4),
                retry_wait: Duration::from_millis(u64::from(self.network.retry_wait_ms.unwrap_or(1000))),
            },
            daemon: DaemonConfig {
                interval: minutes(Some(self.daemon.interval_minutes.unwrap_or(6 * 60).max(1)), 1),
                jitter: minutes(self.daemon.jitter_minutes, 60),
                download: self.daemon.download.unwrap_or(true),
                install: self.daemon.install.unwrap_or(false),
            },
        })
    }
}

fn name<T>(key: &'static str, parsed: Result<T, NameError>) -> Result<T, ConfigError> {
    parsed.map_err(|source| ConfigError::Name { key, source })
}

fn size(key: &'static str, text: &str) -> Result<ByteLen, ConfigError> {
    let expected = "a size such as 1048576, 1MiB or 8 MB";
    ByteLen::parse(text).map_err(|_| ConfigError::Value { key, found: format!("{text:?}"), expected })
}

fn mirrors(given: Vec<String>) -> Result<Vec<String>, ConfigError> {
    let key = "mirrors";
    let expected = "a list of http:// or https:// addresses without user, question mark or hash";
    if given.is_empty() {
        return Err(ConfigError::Value { key, found: "empty".to_owned(), expected });
    }
    let mut mirrors: Vec<String> = Vec::new();
    for mut mirror in given {
        let rest = mirror.strip_prefix("https://").or_else(|| mirror.strip_prefix("http://")).unwrap_or("");
        // A user name or a query would be an identifier that goes out with each request.
        let bad = |c: char| matches!(c, '@' | '?' | '#') || c.is_whitespace() || c.is_control();
        if rest.is_empty() || rest.starts_with('/') || rest.contains(bad) {
            return Err(ConfigError::Value { key, found: format!("{mirror:?}"), expected });
        }
        if !mirror.ends_with('/') {
            mirror.push('/');
        }
        if !mirrors.contains(&mirror) {
            mirrors.push(mirror);
        }
    }
    Ok(mirrors)
}

fn check_keys(section: &str, table: &toml::Table) -> Result<(), ConfigError> {
    let Some((_, known)) = KNOWN.iter().find(|(name, _)| *name == section) else { return Ok(()) };
    for (key, value) in table {
        if !known.contains(&key.as_str()) {
            let nearest = known.iter().min_by_key(|known| distance(key, known)).expect("every section has keys");
            return Err(ConfigError::UnknownKey { section: section.to_owned(), key: key.clone(), nearest });
        }
        if let (true, toml::Value::Table(table)) = (section.is_empty(), value) {
            check_keys(key, table)?;
        }
    }
    Ok(())
}

/// Levenshtein distance.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, from) in from.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, &to) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"
mirrors = ["http://127.0.0.1:8787/repo", "https://mirror.example/relevo/"]
root = "root.json"
vendor = "xiaomi"
codename = "ginkgo"
state_dir = "state"

[block]
slot_a = "slots/a"
slot_b = "/dev/disk/by-partlabel/{partition}_b"
build_file = "slots/{slot}/build.json"
boot_control = "boot/control"
"#;

    #[test]
    fn reads_the_example_with_its_defaults() {
        let config = Config::parse(EXAMPLE, Path::new("/etc/relevo")).unwrap();

        assert_eq!(config.mirrors[0], "http://127.0.0.1:8787/repo/");
        assert_eq!(config.block.booted, Path::new("/etc/relevo/boot/booted"));
        let system = PartitionName::parse("system").unwrap();
        assert_eq!(config.block.partition(Slot::A, &system), Path::new("/etc/relevo/slots/a/system.img"));
        assert_eq!(config.block.partition(Slot::B, &system), Path::new("/dev/disk/by-partlabel/system_b"));
        assert_eq!(config.block.build_file(Slot::B), Path::new("/etc/relevo/slots/b/build.json"));
        assert_eq!((config.tries, config.channel.as_str()), (3, "stable"));
    }

    #[test]
    fn names_the_nearest_key() {
        let top = Config::parse(&EXAMPLE.replace("state_dir", "statedir"), Path::new("/")).unwrap_err();
        let nested = Config::parse(&EXAMPLE.replace("slot_b", "slots_b"), Path::new("/")).unwrap_err();

        assert_eq!(top.to_string(), "unknown key \"statedir\"; did you mean \"state_dir\"?");
        assert_eq!(nested.to_string(), "unknown key \"slots_b\" in [block]; did you mean \"slot_b\"?");
    }

    #[test]
    fn refuses_mirrors_that_would_carry_an_identifier() {
        for mirror in ["http://me:secret@host/", "http://host/?id=7", "ftp://host/", "http://", "http:///x", "host"] {
            let text = EXAMPLE.replace("http://127.0.0.1:8787/repo", mirror);

            let error = Config::parse(&text, Path::new("/")).unwrap_err();

            assert!(matches!(error, ConfigError::Value { key: "mirrors", .. }), "{mirror}: {error}");
        }
    }

    #[test]
    fn refuses_values_out_of_range() {
        let cases = [
            ("install.tries", "[install]\ntries = 0"),
            ("install.backend", "[install]\nbackend = \"recovery\""),
            ("network.parallel", "[network]\nparallel = 9"),
            ("network.rate_limit", "[network]\nrate_limit = \"0\""),
            ("network.request_size", "[network]\nrequest_size = \"much\""),
        ];
        for (expected, lines) in cases {
            let error = Config::parse(&format!("{EXAMPLE}{lines}\n"), Path::new("/")).unwrap_err();

            assert!(matches!(error, ConfigError::Value { key, .. } if key == expected), "{expected}: {error}");
        }
    }
}
