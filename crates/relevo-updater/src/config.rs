//! The configuration: one TOML file (docs/phone-guide.md has the reference).

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use relevo_types::{ByteLen, Channel, Codename, NameError, PartitionName, Vendor};

use crate::boot::Slot;

/// The longest configuration file that we read, in bytes.
pub const MAX_CONFIG: u64 = 64 * 1024;

/// Every section with its keys; what is not listed is an error.
const KNOWN: [(&str, &[&str]); 6] = [
    (
        "",
        &[
            "mirrors",
            "root",
            "vendor",
            "codename",
            "channel",
            "state_dir",
            "install",
            "block",
            "network",
            "daemon",
            "transparency",
        ],
    ),
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
    ("transparency", &["require", "soak_hours"]),
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
        key: String,
        /// What it is.
        found: String,
        /// What it has to be.
        expected: &'static str,
    },
    /// A number out of range.
    #[error("{key} is {found}; it must be {least} to {most}")]
    Range {
        /// The key.
        key: String,
        /// What it is.
        found: i64,
        /// The least allowed.
        least: u64,
        /// The most allowed.
        most: u64,
    },
    /// A key without which nothing works.
    #[error("{key} is missing")]
    Missing {
        /// The key.
        key: String,
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
    /// What an unattended install asks of the transparency log.
    pub transparency: TransparencyConfig,
}

/// What an unattended install asks of the transparency log. An install by hand goes ahead, and says what is missing.
#[derive(Debug, Clone, Default)]
pub struct TransparencyConfig {
    /// Whether the device's roles must be in the log, and the log the one that this phone knows.
    pub require: bool,
    /// How long a package must have been seen by this phone before.
    pub soak: Duration,
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

impl TransparencyConfig {
    /// Whether there is any policy.
    pub fn is_active(&self) -> bool {
        self.require || !self.soak.is_zero()
    }
}

impl Config {
    /// Parses a configuration; relative paths start at `directory`.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key that is wrong.
    pub fn parse(text: &str, directory: &Path) -> Result<Self, ConfigError> {
        // Read from the table by hand: derived deserializers of a TOML file would be 50 KB of the phone's binary.
        let table: toml::Table = toml::from_str(text)?;
        check_keys("", &table)?;
        let section = |name| Section::of(&table, name);
        let top = Section { name: "", table: Some(&table) };
        let (install, block, network, daemon) =
            (section("install")?, section("block")?, section("network")?, section("daemon")?);
        let transparency = section("transparency")?;
        let path = |text: &str| directory.join(text);
        let text_path = |text: &str| directory.join(text).to_string_lossy().into_owned();

        if let Some(backend) = install.text("backend")?.filter(|backend| *backend != "block") {
            return Err(install.wrong("backend", format!("{backend:?}"), "\"block\""));
        }
        let build_file = block.needed("build_file")?;
        if !build_file.contains("{slot}") {
            return Err(block.wrong("build_file", format!("{build_file:?}"), "a path with {slot} in it"));
        }
        let slot_a = SlotPattern::new(&text_path(block.needed("slot_a")?));
        let slot_b = SlotPattern::new(&text_path(block.needed("slot_b")?));
        if slot_a == slot_b {
            let found = format!("{:?}", block.needed("slot_b")?);
            return Err(block.wrong("slot_b", found, "another place than block.slot_a"));
        }
        let boot_control = path(block.needed("boot_control")?);
        let booted = block.text("booted")?.map_or_else(|| boot_control.with_file_name("booted"), path);
        let seconds = |key, default| network.number(key, default, 1, 86_400).map(Duration::from_secs);
        let minutes = |key, default, least| {
            daemon.number(key, default, least, 1_000_000).map(|minutes| Duration::from_secs(60 * minutes))
        };
        let small = |number: u64| u8::try_from(number).unwrap_or(u8::MAX);
        Ok(Config {
            mirrors: mirrors(top.list("mirrors")?)?,
            root: path(top.needed("root")?),
            vendor: name("vendor", Vendor::parse(top.needed("vendor")?))?,
            codename: name("codename", Codename::parse(top.needed("codename")?))?,
            channel: name("channel", Channel::parse(top.text("channel")?.unwrap_or("stable")))?,
            state_dir: path(top.needed("state_dir")?),
            tries: small(install.number("tries", 3, 1, 7)?),
            reserve: install.size("reserve")?.unwrap_or(ByteLen::mib(16)),
            block: BlockConfig {
                slot_a,
                slot_b,
                build_file: text_path(build_file),
                boot_control,
                booted,
                boot_id: block.text("boot_id")?.map(path),
            },
            network: NetworkConfig {
                connect_timeout: seconds("connect_timeout_s", 30)?,
                answer_timeout: seconds("answer_timeout_s", 30)?,
                stall_timeout: seconds("stall_timeout_s", 30)?,
                parallel: usize::from(small(network.number("parallel", 2, 1, 8)?)),
                request_size: network.size("request_size")?.unwrap_or(ByteLen::mib(4)),
                rate_limit: match network.size("rate_limit")? {
                    Some(ByteLen::ZERO) => {
                        return Err(network.wrong("rate_limit", "0".to_owned(), "at least 1 byte a second"));
                    }
                    limit => limit,
                },
                redirect_hosts: network.list("redirect_hosts")?,
                retries: u32::from(small(network.number("retries", 4, 0, 100)?)),
                retry_wait: Duration::from_millis(network.number("retry_wait_ms", 1000, 0, 3_600_000)?),
            },
            daemon: DaemonConfig {
                interval: minutes("interval_minutes", 6 * 60, 1)?,
                jitter: minutes("jitter_minutes", 60, 0)?,
                download: daemon.flag("download", true)?,
                install: daemon.flag("install", false)?,
            },
            transparency: TransparencyConfig {
                require: transparency.flag("require", false)?,
                soak: Duration::from_secs(3600 * transparency.number("soak_hours", 0, 0, 8_760)?),
            },
        })
    }
}

/// A section of the file, with its name for messages.
#[derive(Clone, Copy)]
struct Section<'a> {
    name: &'static str,
    table: Option<&'a toml::Table>,
}

impl<'a> Section<'a> {
    fn of(table: &'a toml::Table, name: &'static str) -> Result<Self, ConfigError> {
        match table.get(name) {
            None => Ok(Self { name, table: None }),
            Some(toml::Value::Table(table)) => Ok(Self { name, table: Some(table) }),
            Some(other) => Err(ConfigError::Value { key: name.to_owned(), found: shown(other), expected: "a section" }),
        }
    }

    fn get(&self, key: &str) -> Option<&'a toml::Value> {
        self.table?.get(key)
    }

    fn key(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn wrong(&self, key: &str, found: String, expected: &'static str) -> ConfigError {
        ConfigError::Value { key: self.key(key), found, expected }
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(toml::Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, shown(other), "a text in quotes")),
        }
    }

    fn needed(&self, key: &str) -> Result<&'a str, ConfigError> {
        self.text(key)?.ok_or_else(|| ConfigError::Missing { key: self.key(key) })
    }

    fn number(&self, key: &str, default: u64, least: u64, most: u64) -> Result<u64, ConfigError> {
        let expected = "a whole number in the range that docs/phone-guide.md names";
        match self.get(key) {
            None => Ok(default),
            Some(toml::Value::Integer(number)) => match u64::try_from(*number) {
                Ok(number) if (least..=most).contains(&number) => Ok(number),
                _ => Err(ConfigError::Range { key: self.key(key), found: *number, least, most }),
            },
            Some(other) => Err(self.wrong(key, shown(other), expected)),
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        match self.get(key) {
            None => Ok(default),
            Some(toml::Value::Boolean(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(key, shown(other), "true or false")),
        }
    }

    fn list(&self, key: &str) -> Result<Vec<String>, ConfigError> {
        let expected = "a list of texts in quotes";
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(toml::Value::Array(values)) => values
                .iter()
                .map(|value| match value {
                    toml::Value::String(text) => Ok(text.clone()),
                    other => Err(self.wrong(key, shown(other), expected)),
                })
                .collect(),
            Some(other) => Err(self.wrong(key, shown(other), expected)),
        }
    }

    fn size(&self, key: &str) -> Result<Option<ByteLen>, ConfigError> {
        let expected = "a size in quotes, such as \"1048576\", \"1MiB\" or \"8 MB\"";
        let Some(text) = self.text(key)? else { return Ok(None) };
        ByteLen::parse(text).map(Some).map_err(|_| self.wrong(key, format!("{text:?}"), expected))
    }
}

/// A value as messages name it.
fn shown(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => format!("{text:?}"),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Boolean(flag) => flag.to_string(),
        other => format!("of type {}", other.type_str()),
    }
}

fn name<T>(key: &'static str, parsed: Result<T, NameError>) -> Result<T, ConfigError> {
    parsed.map_err(|source| ConfigError::Name { key, source })
}

fn mirrors(given: Vec<String>) -> Result<Vec<String>, ConfigError> {
    let key = || "mirrors".to_owned();
    let expected = "a list of http:// or https:// addresses without user, question mark or hash";
    if given.is_empty() {
        return Err(ConfigError::Value { key: key(), found: "empty".to_owned(), expected });
    }
    let mut mirrors: Vec<String> = Vec::new();
    for mut mirror in given {
        let rest = mirror.strip_prefix("https://").or_else(|| mirror.strip_prefix("http://")).unwrap_or("");
        // A user name or a query would be an identifier that goes out with each request.
        let bad = |c: char| matches!(c, '@' | '?' | '#') || c.is_whitespace() || c.is_control();
        if rest.is_empty() || rest.starts_with('/') || rest.contains(bad) {
            return Err(ConfigError::Value { key: key(), found: format!("{mirror:?}"), expected });
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

            assert!(error.to_string().starts_with("mirrors is "), "{mirror}: {error}");
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
            ("network.request_size", "[network]\nrequest_size = 7"),
            ("daemon.install", "[daemon]\ninstall = 1"),
            ("daemon.interval_minutes", "[daemon]\ninterval_minutes = -1"),
        ];
        for (expected, lines) in cases {
            let error = Config::parse(&format!("{EXAMPLE}{lines}\n"), Path::new("/")).unwrap_err();

            assert!(error.to_string().starts_with(&format!("{expected} is ")), "{expected}: {error}");
        }
    }
}
