//! What an origin has and a mirror has not: accounts, the two online keys, and what maintainers push.
//!
//! A request is believed when the key of an account signed it (RFC 9421), shortly before it came, and it did not come
//! before. All of that is decided before the first byte of its body is read.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Read as _},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use jiff::{SignedDuration, Timestamp};
use relevo_meta::{
    http_signature::{Message, SignatureError, Signed, read_content_digest},
    keys::{KeyError, PrivateKey},
};
use relevo_repo::{
    RepoError, Repository, Signers,
    push::{Account, AccountError, Accounts, Intake, IntakeError, Limits},
};
use relevo_types::Sha256;
use tokio::sync::Semaphore;

use crate::{layout::Root, settings::Passphrase};

/// Longest time from a signature's making to its end, in seconds.
const MAX_LIFETIME: i64 = 300;

/// How far a client's clock may be ahead, in seconds.
const MAX_AHEAD: i64 = 60;

/// Most words that are remembered until the signatures with them have ended; ten for each second and account are more
/// than any uplink has requests.
const MAX_NONCES: usize = 200_000;

/// Longest nonce, in bytes.
const MAX_NONCE: usize = 64;

/// How long the accounts' files are believed without a look, apart from their directory's date.
const ACCOUNTS_AGE: Duration = Duration::from_secs(2);

/// How often old unfinished files are looked for.
const SWEEP: SignedDuration = SignedDuration::from_mins(10);

/// Requests that bring bytes at once; each holds one chunk of up to 1 MiB.
const MAX_UPLOADS: usize = 64;

/// Publications that are checked or committed at once; all but one wait for the lock.
const MAX_COMMITS: usize = 4;

/// Longest key file that is read, in bytes.
const MAX_KEY: u64 = 16 << 10;

/// The two roles that an origin signs for.
const ONLINE: [&str; 2] = ["snapshot", "timestamp"];

/// The key of the transparency log, which is there if the root names one.
const LOG: &str = "log";

/// Where an origin has what it needs.
#[derive(Debug, Clone)]
pub(crate) struct OriginSettings {
    /// Accounts, unfinished uploads and the audit log.
    pub directory: PathBuf,
    /// `snapshot.key` and `timestamp.key`.
    pub keys: PathBuf,
    /// Names under which requests may have been signed; any if there is none.
    pub hosts: Vec<String>,
}

/// An origin.
pub(crate) struct Origin {
    settings: OriginSettings,
    root: Root,
    keys: Vec<(&'static str, PrivateKey)>,
    intake: OnceLock<Arc<Intake>>,
    accounts: Mutex<Option<Known>>,
    nonces: Mutex<Nonces>,
    /// Whoever signed before this may have been heard by a process that is no more.
    started: Timestamp,
    swept: Mutex<Option<Timestamp>>,
    pub(crate) uploads: Semaphore,
    pub(crate) commits: Semaphore,
}

/// The accounts as they were read last.
struct Known {
    read: Instant,
    modified: Option<SystemTime>,
    accounts: Arc<Vec<Account>>,
}

/// Words that came, by when they are forgotten.
#[derive(Default)]
struct Nonces {
    by_word: BTreeMap<(String, String), i64>,
}

/// Why a server cannot be an origin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OriginError {
    /// A key file cannot be read.
    #[error("could not read the key {path}")]
    ReadKey {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key file cannot be opened.
    #[error("could not open the key {path}")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KeyError,
    },
    /// Nobody said the passphrase.
    #[error("no passphrase for the keys in {keys}: set publish_passphrase_file, or the variable RELEVO_PASSPHRASE")]
    NoPassphrase {
        /// The directory.
        keys: PathBuf,
    },
    /// Its directory cannot be made or an unfinished publication not be ended.
    #[error("could not prepare {directory} for publications")]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: Box<IntakeError>,
    },
    /// The repository has a transparency log and this server no key to go on with it.
    #[error(
        "the repository's root names the transparency log {log}, whose key is not in {keys}: copy log.key there from the maintainer's \
         directory that made it"
    )]
    NoLogKey {
        /// The log's name and public key.
        log: String,
        /// The directory.
        keys: PathBuf,
    },
}

/// Who sends a request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) account: Account,
    /// Id of the key that signed.
    pub(crate) key_id: String,
    /// What the body must have.
    pub(crate) digest: Sha256,
}

/// Why a request is not believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the request has no {0}, or several")]
    Unsigned(&'static str),
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error(
        "the signature must cover @method, @authority, @path and content-digest, and have expires, nonce, keyid and alg"
    )]
    Coverage,
    #[error("the request is signed for {0:?}, which is not the name of this origin")]
    Host(String),
    #[error("no account has the key {0}")]
    UnknownKey(String),
    #[error("the signature is of {created} and ends {expires}; the origin's clock says {now}")]
    Clock { created: i64, expires: i64, now: i64 },
    #[error("the origin was started after the request was signed; sign it again")]
    Restarted,
    #[error("the request came before")]
    Replayed,
    #[error("too many requests; try again in a minute")]
    Busy,
    #[error("the accounts cannot be read")]
    Accounts(#[source] AccountError),
}

/// A request's head, as far as it is looked at.
pub(crate) struct Head<'a> {
    pub(crate) method: &'a str,
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    /// The one value of a field; none if there is none, or several.
    pub(crate) field: &'a dyn Fn(&str) -> Option<String>,
}

impl Origin {
    /// Opens the keys. The repository may still be missing.
    pub(crate) fn open(
        settings: OriginSettings,
        root: Root,
        passphrase: Option<&Passphrase>,
        now: Timestamp,
    ) -> Result<Self, OriginError> {
        let passphrase = passphrase.ok_or_else(|| OriginError::NoPassphrase { keys: settings.keys.clone() })?;
        let mut keys = Vec::new();
        for role in ONLINE.into_iter().chain([LOG]) {
            let path = settings.keys.join(format!("{role}.key"));
            if role == LOG && !path.exists() {
                continue;
            }
            let mut pem = String::new();
            fs::File::open(&path)
                .and_then(|file| file.take(MAX_KEY).read_to_string(&mut pem))
                .map_err(|source| OriginError::ReadKey { path: path.clone(), source })?;
            let key = PrivateKey::from_encrypted_pem(&pem, passphrase.text().as_bytes());
            keys.push((role, key.map_err(|source| OriginError::Key { path, source })?));
        }
        let origin = Self {
            settings,
            root,
            keys,
            intake: OnceLock::new(),
            accounts: Mutex::default(),
            nonces: Mutex::default(),
            started: now,
            swept: Mutex::default(),
            uploads: Semaphore::new(MAX_UPLOADS),
            commits: Semaphore::new(MAX_COMMITS),
        };
        let directory = |source: IntakeError| OriginError::Directory {
            directory: origin.settings.directory.clone(),
            source: Box::new(source),
        };
        match origin.intake() {
            Ok(intake) => {
                intake.recover().map_err(directory)?;
                origin.check_log_key()?;
            }
            // Like the pages, publications wait for a repository.
            Err(IntakeError::Repository(RepoError::NotARepository { .. })) => {}
            Err(error) => return Err(directory(error)),
        }
        Ok(origin)
    }

    /// Without the key, every publication would fail only after it was taken in.
    fn check_log_key(&self) -> Result<(), OriginError> {
        // A repository that does not verify says so to whoever publishes.
        let Ok(state) = Repository::open(&self.root.public()).and_then(|repository| repository.current()) else {
            return Ok(());
        };
        let Some(log) = state.log_key() else { return Ok(()) };
        let has =
            |(role, key): &(&str, PrivateKey)| *role == LOG && key.public().verifying_key() == log.verifying_key();
        if self.keys.iter().any(has) {
            return Ok(());
        }
        Err(OriginError::NoLogKey { log: log.to_string(), keys: self.settings.keys.clone() })
    }

    /// What takes publications in. Blocking.
    pub(crate) fn intake(&self) -> Result<Arc<Intake>, IntakeError> {
        if let Some(intake) = self.intake.get() {
            return Ok(Arc::clone(intake));
        }
        let repository = Repository::open(&self.root.public())?;
        let intake = Arc::new(Intake::open(&self.settings.directory, repository, Limits::default())?);
        Ok(Arc::clone(self.intake.get_or_init(|| intake)))
    }

    /// Those who sign snapshot and timestamp.
    pub(crate) fn signers(&self) -> Signers {
        let mut signers = Signers::new();
        for (role, key) in &self.keys {
            signers.add(role, PrivateKey::from_random(key.signing_key().to_bytes()));
        }
        signers
    }

    /// Finds out who sends a request, or why nobody is believed to.
    pub(crate) fn authenticate(&self, head: &Head<'_>, now: Timestamp) -> Result<Caller, Refusal> {
        let field = |name: &'static str| (head.field)(name).ok_or(Refusal::Unsigned(name));
        let signed = Signed::parse(&field("signature-input")?, &field("signature")?)?;
        let digest = read_content_digest(&field("content-digest")?).ok_or(Refusal::Unsigned("content-digest"))?;
        let parameters = signed.parameters();
        let covered = ["@method", "@authority", "@path", "content-digest"];
        let (Some(expires), Some(nonce), Some(key_id)) = (parameters.expires, &parameters.nonce, &parameters.key_id)
        else {
            return Err(Refusal::Coverage);
        };
        let covers = |name: &&str| parameters.components.iter().any(|component| component == name);
        if !covered.iter().all(covers) || !parameters.algorithm || nonce.len() > MAX_NONCE {
            return Err(Refusal::Coverage);
        }
        if !self.settings.hosts.is_empty() && !self.settings.hosts.iter().any(|host| host == head.authority) {
            return Err(Refusal::Host(head.authority.chars().take(100).collect()));
        }
        let accounts = self.accounts().map_err(Refusal::Accounts)?;
        let found = accounts
            .iter()
            .find_map(|account| account.keys.iter().find(|key| key.key_id() == *key_id).map(|key| (account, key)));
        let Some((account, key)) = found else {
            return Err(Refusal::UnknownKey(key_id.chars().take(100).collect()));
        };
        let message = Message { method: head.method, authority: head.authority, path: head.path, field: head.field };
        signed.verify(&message, key.verifying_key())?;
        let (created, now) = (parameters.created, now.as_second());
        let lifetime = expires.saturating_sub(created);
        if created > now + MAX_AHEAD || expires <= now || !(1..=MAX_LIFETIME).contains(&lifetime) {
            return Err(Refusal::Clock { created, expires, now });
        }
        if created < self.started.as_second() {
            return Err(Refusal::Restarted);
        }
        lock(&self.nonces).take(key_id, nonce, expires, now)?;
        Ok(Caller { account: account.clone(), key_id: key_id.clone(), digest })
    }

    /// The accounts, read again when they may have changed.
    fn accounts(&self) -> Result<Arc<Vec<Account>>, AccountError> {
        let accounts = Accounts::new(&self.settings.directory);
        let modified = || fs::metadata(accounts.directory()).and_then(|found| found.modified()).ok();
        let mut known = lock(&self.accounts);
        // Every change is a rename, so the directory's date changes with it; a coarse clock may hide one for a moment.
        if let Some(known) = &*known
            && known.read.elapsed() < ACCOUNTS_AGE
            && known.modified == modified()
        {
            return Ok(Arc::clone(&known.accounts));
        }
        let modified = modified();
        let list = Arc::new(accounts.list()?);
        *known = Some(Known { read: Instant::now(), modified, accounts: Arc::clone(&list) });
        Ok(list)
    }

    /// Removes what nobody went on with, now and then. Blocking.
    pub(crate) fn sweep(&self, now: Timestamp) {
        let last = lock(&self.swept).replace(now);
        if last.is_some_and(|last| now.duration_since(last) < SWEEP) {
            *lock(&self.swept) = last;
            return;
        }
        if let Some(intake) = self.intake.get()
            && let Err(error) = intake.sweep(now)
        {
            tracing::warn!(error = %crate::database::chain(&error), "could not remove old unfinished publications");
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("directory", &self.settings.directory).finish_non_exhaustive()
    }
}

impl Nonces {
    fn take(&mut self, key_id: &str, nonce: &str, expires: i64, now: i64) -> Result<(), Refusal> {
        let word = (key_id.to_owned(), nonce.to_owned());
        if self.by_word.get(&word).is_some_and(|until| *until > now) {
            return Err(Refusal::Replayed);
        }
        if self.by_word.len() >= MAX_NONCES {
            self.by_word.retain(|_, until| *until > now);
            if self.by_word.len() >= MAX_NONCES {
                return Err(Refusal::Busy);
            }
        }
        self.by_word.insert(word, expires);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
