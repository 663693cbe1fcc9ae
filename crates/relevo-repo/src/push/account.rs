//! Who may publish what: a TOML file for each account, which is the only place that says so.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use relevo_meta::keys::PublicKey;
use relevo_types::{ByteLen, Codename};
use serde::{Deserialize, Serialize};

use crate::storage::Storage;

/// The name of an account: up to 48 lower-case letters, digits and `-`, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountName(String);

/// Somebody who publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The name, for people and logs.
    pub name: AccountName,
    /// The keys whose holders may speak for it.
    pub keys: Vec<PublicKey>,
    /// The devices that it may publish.
    pub devices: Vec<Codename>,
    /// The bytes that its devices' files and its unfinished publications may have together.
    pub quota: ByteLen,
}

/// The accounts of an origin.
#[derive(Debug, Clone)]
pub struct Accounts {
    directory: PathBuf,
}

/// Why there is no such account.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// A name that cannot be.
    #[error("{0:?} is no name of an account: 1 to 48 of a-z, 0-9 and -, beginning with a letter or digit")]
    Name(String),
    /// An account that is there already.
    #[error("there is an account {0} already; remove it first")]
    Exists(AccountName),
    /// An account that is not there.
    #[error("there is no account {0}")]
    Absent(AccountName),
    /// A key that belongs to another account, so that one could not tell them apart.
    #[error("the key {key_id} belongs to the account {account}")]
    KeyTaken {
        /// Id of the key.
        key_id: String,
        /// Whose it is.
        account: AccountName,
    },
    /// A file that is none.
    #[error("{path} is no account")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file cannot be read.
    #[error("could not read {path}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Write(Box<crate::RepoError>),
}

/// The file's form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    devices: Vec<Codename>,
    quota_bytes: ByteLen,
    /// SubjectPublicKeyInfo, PEM.
    keys: Vec<String>,
}

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 64 << 10;

impl AccountName {
    /// Parses a name.
    ///
    /// # Errors
    /// [`AccountError::Name`].
    pub fn parse(text: &str) -> Result<Self, AccountError> {
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if text.is_empty() || text.len() > 48 || text.starts_with('-') || !text.bytes().all(known) {
            return Err(AccountError::Name(text.chars().take(80).collect()));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for AccountName {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        Self::parse(text)
    }
}

impl Accounts {
    /// Quota of an account that was added without one.
    pub const QUOTA: ByteLen = ByteLen::new(64 << 30);

    /// The accounts of an origin's directory.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.join("accounts") }
    }

    /// Where their files lie.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// All accounts by name. A directory that is not there has none.
    ///
    /// # Errors
    /// [`AccountError::Read`], [`AccountError::Damaged`].
    pub fn list(&self) -> Result<Vec<Account>, AccountError> {
        let read = |source| AccountError::Read { path: self.directory.clone(), source };
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(read(error)),
        };
        let mut accounts = BTreeMap::new();
        for entry in entries {
            let entry = entry.map_err(read)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(Ok(name)) = name.strip_suffix(".toml").map(AccountName::parse) else { continue };
            accounts.insert(name.clone(), load(&entry.path(), name)?);
        }
        Ok(accounts.into_values().collect())
    }

    /// Adds an account, durably.
    ///
    /// # Errors
    /// [`AccountError::Exists`], [`AccountError::KeyTaken`], [`AccountError::Write`].
    pub fn add(&self, account: &Account) -> Result<(), AccountError> {
        for other in self.list()? {
            if other.name == account.name {
                return Err(AccountError::Exists(other.name));
            }
            if let Some(key) = account.keys.iter().find(|key| other.keys.contains(key)) {
                return Err(AccountError::KeyTaken { key_id: key.key_id(), account: other.name });
            }
        }
        let file = File {
            devices: account.devices.clone(),
            quota_bytes: account.quota,
            keys: account.keys.iter().map(PublicKey::to_pem).collect(),
        };
        let text = toml::to_string(&file).expect("an account holds only what TOML can say");
        let write = |error| AccountError::Write(Box::new(error));
        let storage = Storage::default();
        storage.create_dirs(&self.directory).map_err(write)?;
        storage.put(&self.file(&account.name), text.as_bytes()).map_err(write)?;
        storage.sync_dir(&self.directory).map_err(write)
    }

    /// Removes an account, durably. What it published stays.
    ///
    /// # Errors
    /// [`AccountError::Absent`], [`AccountError::Write`].
    pub fn remove(&self, name: &AccountName) -> Result<(), AccountError> {
        if !self.file(name).exists() {
            return Err(AccountError::Absent(name.clone()));
        }
        let write = |error| AccountError::Write(Box::new(error));
        let storage = Storage::default();
        storage.remove(&self.file(name)).map_err(write)?;
        storage.sync_dir(&self.directory).map_err(write)
    }

    fn file(&self, name: &AccountName) -> PathBuf {
        self.directory.join(format!("{name}.toml"))
    }
}

fn load(path: &Path, name: AccountName) -> Result<Account, AccountError> {
    let read = |source| AccountError::Read { path: path.to_owned(), source };
    let damaged =
        |source: Box<dyn std::error::Error + Send + Sync>| AccountError::Damaged { path: path.to_owned(), source };
    let mut text = String::new();
    fs::File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text)).map_err(read)?;
    if text.len() as u64 > MAX_FILE {
        return Err(damaged(format!("it is over {MAX_FILE} bytes long").into()));
    }
    let file: File = toml::from_str(&text).map_err(|error| damaged(Box::new(error)))?;
    let keys = file.keys.iter().map(|pem| PublicKey::from_pem(pem)).collect::<Result<Vec<_>, _>>();
    let keys = keys.map_err(|error| damaged(Box::new(error)))?;
    Ok(Account { name, keys, devices: file.devices, quota: file.quota_bytes })
}
