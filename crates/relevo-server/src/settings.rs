//! Settings: what they are, and where each comes from (flag, then variable, then file, then default).

use std::{
    fmt, fs,
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddr},
    path::{Component, Path, PathBuf},
    thread,
};

use relevo_dialect::{BaseUrl, BaseUrlError, Site};
use relevo_types::nearest;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Longest configuration file that we read, in bytes.
const MAX_FILE: u64 = 256 << 10;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object on each line.
    Json,
}

/// The settings in force. Written as TOML, this is a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// Address and port to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// A maintainer's directory (`relevo init`), or the public repository alone.
    pub repository: PathBuf,
    /// SQLite file with the index of builds and the download counters.
    pub database: PathBuf,
    /// This server as phones see it: `https://ota.example`. Updater apps of ROMs are answered with URLs below it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_url: Option<String>,
    /// Other servers' `/repo/`, the preferred one first.
    pub mirrors: Vec<String>,
    /// A table of dialects that are answered besides the built-in ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialects: Option<PathBuf>,
    /// Address and port of `/metrics`; there is none without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_listen: Option<SocketAddr>,
    /// Directory of an origin: accounts, unfinished uploads and the audit log. None: nobody publishes over HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<PathBuf>,
    /// Directory with the keys of an origin, `snapshot.key` and `timestamp.key`; `keys` of a maintainer's directory if
    /// it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish_keys: Option<PathBuf>,
    /// File whose first line is the passphrase of those keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish_passphrase_file: Option<PathBuf>,
    /// Names of this origin in maintainers' requests, with the port if it is not the usual one; any if there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish_hosts: Vec<String>,
    /// Which log lines are written: a level, or directives such as `info,relevo_server=debug`.
    pub log: String,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Threads that answer requests.
    pub workers: usize,
    /// Open connections at once, over all workers.
    pub max_connections: usize,
    /// How long an idle connection stays open for the next request.
    pub keep_alive_seconds: u64,
    /// How long a client may take to send the head of a request.
    pub request_timeout_seconds: u64,
    /// How long a client may take none of the bytes sent to it before the connection is dropped.
    pub stall_timeout_seconds: u64,
    /// How long running downloads may go on after the signal to stop.
    pub shutdown_grace_seconds: u64,
}

/// The passphrase of an origin's keys; never shown.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Takes a passphrase over.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(hidden)")
    }
}

/// Settings from one source; what is `None` comes from the next one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct Layer {
    /// Address and port to listen on; port 0 takes a free one [default: 127.0.0.1:8787]
    #[arg(long, env = "RELEVO_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// A maintainer's directory (`relevo init`) or a public repository [default: relevo]
    #[arg(long, env = "RELEVO_REPOSITORY", value_name = "DIR")]
    pub repository: Option<PathBuf>,
    /// SQLite file for the index and the counters [default: the repository's path with .db added]
    #[arg(long, env = "RELEVO_DATABASE", value_name = "FILE")]
    pub database: Option<PathBuf>,
    /// This server as phones see it, such as `https://ota.example` [default: none; apps that need URLs get no answer]
    #[arg(long, env = "RELEVO_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    /// Other servers' /repo/, the preferred one first [default: none]
    #[arg(long, env = "RELEVO_MIRRORS", value_name = "URLS", value_delimiter = ',')]
    pub mirrors: Option<Vec<String>>,
    /// A table of dialects that are answered besides the built-in ones [default: none]
    #[arg(long, env = "RELEVO_DIALECTS", value_name = "FILE")]
    pub dialects: Option<PathBuf>,
    /// Address and port of `/metrics`, for Prometheus alone; not for the public [default: none]
    #[arg(long, env = "RELEVO_METRICS_LISTEN", value_name = "ADDRESS")]
    pub metrics_listen: Option<SocketAddr>,
    /// Let maintainers publish over HTTP; accounts, unfinished uploads and the audit log go into DIR [default: no]
    #[arg(long, env = "RELEVO_PUBLISH", value_name = "DIR")]
    pub publish: Option<PathBuf>,
    /// Where snapshot.key and timestamp.key are, for --publish [default: keys in the maintainer's directory]
    #[arg(long, env = "RELEVO_PUBLISH_KEYS", value_name = "DIR")]
    pub publish_keys: Option<PathBuf>,
    /// Their passphrase is the first line of FILE [env of the passphrase itself: RELEVO_PASSPHRASE]
    #[arg(long, env = "RELEVO_PUBLISH_PASSPHRASE_FILE", value_name = "FILE")]
    pub publish_passphrase_file: Option<PathBuf>,
    /// Names of this origin that maintainers may have signed requests for [default: any]
    #[arg(long, env = "RELEVO_PUBLISH_HOSTS", value_name = "HOSTS", value_delimiter = ',')]
    pub publish_hosts: Option<Vec<String>>,
    /// What to log: off, error, warn, info, debug, trace, or directives by module [default: info]
    #[arg(long, env = "RELEVO_LOG", value_name = "LEVEL")]
    pub log: Option<String>,
    /// How to write log lines [default: text]
    #[arg(long, env = "RELEVO_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Threads that answer requests [default: one for each processor]
    #[arg(long, env = "RELEVO_WORKERS", value_name = "NUMBER")]
    pub workers: Option<usize>,
    /// Open connections at once [default: 10000]
    #[arg(long, env = "RELEVO_MAX_CONNECTIONS", value_name = "NUMBER")]
    pub max_connections: Option<usize>,
    /// How long an idle connection stays open [default: 15]
    #[arg(long, env = "RELEVO_KEEP_ALIVE_SECONDS", value_name = "SECONDS")]
    pub keep_alive_seconds: Option<u64>,
    /// How long a client may take to send the head of a request [default: 15]
    #[arg(long, env = "RELEVO_REQUEST_TIMEOUT_SECONDS", value_name = "SECONDS")]
    pub request_timeout_seconds: Option<u64>,
    /// How long a client may take none of the bytes sent to it [default: 120]
    #[arg(long, env = "RELEVO_STALL_TIMEOUT_SECONDS", value_name = "SECONDS")]
    pub stall_timeout_seconds: Option<u64>,
    /// How long running downloads may go on after the signal to stop [default: 30]
    #[arg(long, env = "RELEVO_SHUTDOWN_GRACE_SECONDS", value_name = "SECONDS")]
    pub shutdown_grace_seconds: Option<u64>,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("could not read the configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The passphrase cannot be read.
    #[error("could not read the passphrase in {path}")]
    Passphrase {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is longer than any configuration.
    #[error("configuration file {path} is {len} bytes long; at most {max} are read")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The file is no TOML, or a value has the wrong type.
    #[error("configuration file {path} is not right")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A key that does not exist.
    #[error("unknown key {key:?} in {path}; the nearest known key is {nearest:?}")]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What was probably meant.
        nearest: &'static str,
    },
    /// A number outside of what works.
    #[error("{key} is {actual}; it must be from {least} to {most}")]
    Number {
        /// The key.
        key: &'static str,
        /// The number given.
        actual: u64,
        /// Smallest allowed.
        least: u64,
        /// Largest allowed.
        most: u64,
    },
    /// An address that phones cannot be given.
    #[error("{key} cannot be used")]
    Address {
        /// The key.
        key: &'static str,
        /// Why.
        source: BaseUrlError,
    },
    /// The database would be published with the repository by whoever copies that directory.
    #[error("database {database} lies inside the repository {repository}; it must lie outside")]
    DatabaseInside {
        /// The database file.
        database: PathBuf,
        /// The repository directory.
        repository: PathBuf,
    },
    /// Accounts and unfinished files would be published with the repository.
    #[error("publish {publish} lies inside the repository {repository}; it must lie outside")]
    PublishInside {
        /// The origin's directory.
        publish: PathBuf,
        /// The repository directory.
        repository: PathBuf,
    },
    /// A directory such as `/` or `..`, beside which no database can be named.
    #[error("no default for the database beside {repository}; set `database`")]
    NoDefaultDatabase {
        /// The repository directory.
        repository: PathBuf,
    },
}

/// Every key of the configuration file, in the order of [`Settings`].
pub const KEYS: [&str; 19] = [
    "listen",
    "repository",
    "database",
    "public_url",
    "mirrors",
    "dialects",
    "metrics_listen",
    "publish",
    "publish_keys",
    "publish_passphrase_file",
    "publish_hosts",
    "log",
    "log_format",
    "workers",
    "max_connections",
    "keep_alive_seconds",
    "request_timeout_seconds",
    "stall_timeout_seconds",
    "shutdown_grace_seconds",
];

impl Layer {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`SettingsError`] naming the file and what is wrong in it.
    pub fn from_file(path: &Path) -> Result<Self, SettingsError> {
        let read = |source| SettingsError::Read { path: path.to_owned(), source };
        let len = fs::metadata(path).map_err(read)?.len();
        if len > MAX_FILE {
            return Err(SettingsError::TooLong { path: path.to_owned(), len, max: MAX_FILE });
        }
        let text = fs::read_to_string(path).map_err(read)?;
        let syntax = |source| SettingsError::Syntax { path: path.to_owned(), source: Box::new(source) };
        let table: toml::Table = toml::from_str(&text).map_err(syntax)?;
        if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            let nearest = nearest(key, KEYS);
            return Err(SettingsError::UnknownKey {
                path: path.to_owned(),
                key: key.chars().take(80).collect(),
                nearest,
            });
        }
        toml::from_str(&text).map_err(syntax)
    }

    /// Fills what is missing here from `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            listen: self.listen.or(other.listen),
            repository: self.repository.or(other.repository),
            database: self.database.or(other.database),
            public_url: self.public_url.or(other.public_url),
            mirrors: self.mirrors.or(other.mirrors),
            dialects: self.dialects.or(other.dialects),
            metrics_listen: self.metrics_listen.or(other.metrics_listen),
            publish: self.publish.or(other.publish),
            publish_keys: self.publish_keys.or(other.publish_keys),
            publish_passphrase_file: self.publish_passphrase_file.or(other.publish_passphrase_file),
            publish_hosts: self.publish_hosts.or(other.publish_hosts),
            log: self.log.or(other.log),
            log_format: self.log_format.or(other.log_format),
            workers: self.workers.or(other.workers),
            max_connections: self.max_connections.or(other.max_connections),
            keep_alive_seconds: self.keep_alive_seconds.or(other.keep_alive_seconds),
            request_timeout_seconds: self.request_timeout_seconds.or(other.request_timeout_seconds),
            stall_timeout_seconds: self.stall_timeout_seconds.or(other.stall_timeout_seconds),
            shutdown_grace_seconds: self.shutdown_grace_seconds.or(other.shutdown_grace_seconds),
        }
    }

    /// Fills the rest with defaults and checks the whole.
    ///
    /// # Errors
    /// [`SettingsError`] naming the setting that cannot be.
    pub fn settings(self) -> Result<Settings, SettingsError> {
        let repository = self.repository.unwrap_or_else(|| PathBuf::from("relevo"));
        let database = self.database.map_or_else(|| beside(&repository), Ok)?;
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let settings = Settings {
            listen: self.listen.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 8787))),
            repository,
            database,
            public_url: self.public_url,
            mirrors: self.mirrors.unwrap_or_default(),
            dialects: self.dialects,
            metrics_listen: self.metrics_listen,
            publish: self.publish,
            publish_keys: self.publish_keys,
            publish_passphrase_file: self.publish_passphrase_file,
            publish_hosts: self.publish_hosts.unwrap_or_default(),
            log: self.log.unwrap_or_else(|| "info".to_owned()),
            log_format: self.log_format.unwrap_or_default(),
            workers: self.workers.unwrap_or_else(|| processors.min(MAX_WORKERS)),
            max_connections: self.max_connections.unwrap_or(10_000),
            keep_alive_seconds: self.keep_alive_seconds.unwrap_or(15),
            request_timeout_seconds: self.request_timeout_seconds.unwrap_or(15),
            stall_timeout_seconds: self.stall_timeout_seconds.unwrap_or(120),
            shutdown_grace_seconds: self.shutdown_grace_seconds.unwrap_or(30),
        };
        settings.check()?;
        Ok(settings)
    }
}

/// Most workers; the server library refuses more.
const MAX_WORKERS: usize = 512;

/// Most mirrors; each is a line of 100 bytes and more in answers.
const MAX_MIRRORS: u64 = 50;

/// Longest time that can be set, in seconds: a day.
const MAX_SECONDS: u64 = 86_400;

impl Settings {
    fn check(&self) -> Result<(), SettingsError> {
        let within = |key, actual: u64, least, most| {
            if (least..=most).contains(&actual) {
                Ok(())
            } else {
                Err(SettingsError::Number { key, actual, least, most })
            }
        };
        within("workers", self.workers as u64, 1, MAX_WORKERS as u64)?;
        within("max_connections", self.max_connections as u64, 1, 1_000_000)?;
        within("keep_alive_seconds", self.keep_alive_seconds, 1, MAX_SECONDS)?;
        within("request_timeout_seconds", self.request_timeout_seconds, 1, MAX_SECONDS)?;
        within("stall_timeout_seconds", self.stall_timeout_seconds, 1, MAX_SECONDS)?;
        within("shutdown_grace_seconds", self.shutdown_grace_seconds, 0, MAX_SECONDS)?;
        within("the number of mirrors", self.mirrors.len() as u64, 0, MAX_MIRRORS)?;
        self.site()?;
        if resolve(&self.database).starts_with(resolve(&self.repository)) {
            return Err(SettingsError::DatabaseInside {
                database: self.database.clone(),
                repository: self.repository.clone(),
            });
        }
        if let Some(publish) =
            self.publish.as_ref().filter(|publish| resolve(publish).starts_with(resolve(&self.repository)))
        {
            return Err(SettingsError::PublishInside { publish: publish.clone(), repository: self.repository.clone() });
        }
        Ok(())
    }

    /// Where phones reach this server and its mirrors.
    ///
    /// # Errors
    /// [`SettingsError::Address`] for what is no URL; checked already in settings that [`Layer::settings`] made.
    pub fn site(&self) -> Result<Site, SettingsError> {
        let parse =
            |key| move |text: &String| BaseUrl::parse(text).map_err(|source| SettingsError::Address { key, source });
        let public = self.public_url.as_ref().map(parse("public_url")).transpose()?;
        Ok(Site { public, mirrors: self.mirrors.iter().map(parse("mirrors")).collect::<Result<_, _>>()? })
    }

    /// The settings as a configuration file.
    pub fn to_toml(&self) -> String {
        // Plain keys with numbers and strings; paths that are no UTF-8 are the one thing that TOML cannot hold.
        toml::to_string(self).unwrap_or_else(|error| format!("# cannot be written as TOML: {error}\n"))
    }
}

/// Reads a passphrase: the first line of a file.
///
/// # Errors
/// [`SettingsError::Passphrase`].
pub(crate) fn read_passphrase(path: &Path) -> Result<Passphrase, SettingsError> {
    let mut text = Zeroizing::new(String::new());
    fs::File::open(path)
        .and_then(|file| file.take(4096).read_to_string(&mut text))
        .map_err(|source| SettingsError::Passphrase { path: path.to_owned(), source })?;
    Ok(Passphrase::new(text.lines().next().unwrap_or_default().to_owned()))
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// `/srv/relevo` keeps its database in `/srv/relevo.db`.
fn beside(repository: &Path) -> Result<PathBuf, SettingsError> {
    let named = |path: &Path| {
        let mut name = path.file_name()?.to_owned();
        name.push(".db");
        Some(path.with_file_name(name))
    };
    named(repository)
        .or_else(|| named(&repository.canonicalize().ok()?))
        .ok_or_else(|| SettingsError::NoDefaultDatabase { repository: repository.to_owned() })
}

/// The path with symlinks resolved as far as it exists, so that two spellings of one place compare equal.
fn resolve(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut resolved = PathBuf::new();
    for part in absolute.components() {
        match part {
            Component::ParentDir => {
                resolved.pop();
            }
            part => {
                resolved.push(part);
                if let Ok(real) = resolved.canonicalize() {
                    resolved = real;
                }
            }
        }
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_fields_of_the_settings_and_of_a_layer() {
        let layer = Layer {
            workers: Some(2),
            public_url: Some("https://ota.example".to_owned()),
            mirrors: Some(vec!["https://mirror.example/repo".to_owned()]),
            dialects: Some("dialects.toml".into()),
            metrics_listen: Some(SocketAddr::from(([127, 0, 0, 1], 9100))),
            publish: Some("publish".into()),
            publish_keys: Some("keys".into()),
            publish_passphrase_file: Some("passphrase".into()),
            publish_hosts: Some(vec!["ota.example".to_owned()]),
            ..Layer::default()
        };
        let settings = layer.settings().unwrap();
        let text = settings.to_toml();

        let written: Vec<String> = text.lines().map(|line| line.split(" = ").next().unwrap().to_owned()).collect();
        let read: Layer = toml::from_str(&text).unwrap();

        assert_eq!(written, KEYS);
        assert_eq!(read.settings().unwrap(), settings);
    }

    #[test]
    fn an_address_that_is_none_is_refused() {
        let layer = Layer { public_url: Some("ota.example".to_owned()), ..Layer::default() };
        assert!(matches!(layer.settings(), Err(SettingsError::Address { key: "public_url", .. })));

        let layer = Layer { mirrors: Some(vec!["https://m> x".to_owned()]), ..Layer::default() };
        assert!(matches!(layer.settings(), Err(SettingsError::Address { key: "mirrors", .. })));
    }

    #[test]
    fn a_database_inside_of_the_repository_is_refused_in_any_spelling() {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("relevo");
        fs::create_dir_all(repository.join("repo")).unwrap();
        std::os::unix::fs::symlink(&repository, dir.path().join("link")).unwrap();

        for database in ["relevo/x.db", "relevo/repo/targets/x.db", "link/x.db", "other/../relevo/x.db"] {
            let layer = Layer {
                repository: Some(repository.clone()),
                database: Some(dir.path().join(database)),
                ..Layer::default()
            };

            assert!(matches!(layer.settings(), Err(SettingsError::DatabaseInside { .. })), "{database}");
        }
    }

    #[test]
    fn the_default_database_lies_beside_the_repository() {
        for (repository, database) in [("/srv/relevo", "/srv/relevo.db"), ("/srv/relevo/repo/", "/srv/relevo/repo.db")]
        {
            assert_eq!(beside(Path::new(repository)).unwrap(), Path::new(database));
        }
        assert!(matches!(beside(Path::new("/")), Err(SettingsError::NoDefaultDatabase { .. })));
    }
}
