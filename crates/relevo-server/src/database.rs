//! The SQLite file: an index of the repository and counters of downloads.
//!
//! Nothing that a phone needs lives here. A file that is lost, damaged or deleted while the server runs is made anew,
//! and no request for the repository ever waits for it.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use relevo_types::Sha256;
use sqlx::{
    Row, SqlSafeStr, SqlitePool,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::catalog::Catalog;

/// Why the database did not do what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// Its directory cannot be made, or its file not be looked at.
    #[error("could not reach the database {path}")]
    Reach {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A statement failed.
    #[error("the database {path} refused to {action}")]
    Statement {
        /// The file.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// Why.
        source: sqlx::Error,
    },
    /// The tables are those of another version.
    #[error("could not bring the tables of the database {path} up to date")]
    Migrate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<MigrateError>,
    },
    /// The file holds no database any more.
    #[error("the database {path} is damaged: {finding}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite's own check says.
        finding: String,
    },
}

/// The database, opened when it is first needed and again whenever its file has gone.
pub(crate) struct Database {
    path: PathBuf,
    open: tokio::sync::Mutex<Option<Open>>,
}

struct Open {
    pool: SqlitePool,
    /// Device and inode: a file of the same name may be another one.
    file: (u64, u64),
    /// What the index was made from.
    indexed: Option<Sha256>,
}

impl Database {
    /// Names the file; nothing is opened yet.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), open: tokio::sync::Mutex::new(None) }
    }

    /// Checks that the database can be written, and makes it anew if it was lost or damaged.
    ///
    /// # Errors
    /// [`DatabaseError`] if it can be neither used nor made anew.
    pub(crate) async fn check(&self) -> Result<(), DatabaseError> {
        self.with(Action::Check).await
    }

    /// Makes the index say what `catalog` says, unless it does already.
    ///
    /// # Errors
    /// [`DatabaseError`]; the index then says what it said before.
    pub(crate) async fn index(&self, catalog: &Catalog) -> Result<(), DatabaseError> {
        self.with(Action::Index(catalog)).await
    }

    /// Makes the index anew, even if it is about this very state.
    ///
    /// # Errors
    /// As [`Database::index`].
    pub(crate) async fn reindex(&self, catalog: &Catalog) -> Result<(), DatabaseError> {
        if let Some(open) = self.open.lock().await.as_mut() {
            open.indexed = None;
        }
        self.index(catalog).await
    }

    /// Adds to the counters of a day.
    ///
    /// # Errors
    /// [`DatabaseError`]; then nothing was added.
    pub(crate) async fn count(&self, begun: &HashMap<Sha256, u32>, day: i64) -> Result<(), DatabaseError> {
        if begun.is_empty() {
            return Ok(());
        }
        self.with(Action::Count(begun, day)).await
    }

    /// Writes everything back into the one file and lets go of it.
    pub(crate) async fn close(&self) {
        if let Some(open) = self.open.lock().await.take() {
            open.pool.close().await;
        }
    }

    /// Does something, on a new file if the one there is damaged.
    async fn with(&self, action: Action<'_>) -> Result<(), DatabaseError> {
        let mut slot = self.open.lock().await;
        match self.attempt(&mut slot, &action).await {
            Err(error) if error.is_damage() => {
                tracing::warn!(error = %chain(&error), "the database is damaged and is made anew");
                if let Some(open) = slot.take() {
                    open.pool.close().await;
                }
                self.set_aside()?;
                self.attempt(&mut slot, &action).await
            }
            other => other,
        }
    }

    async fn attempt(&self, slot: &mut Option<Open>, action: &Action<'_>) -> Result<(), DatabaseError> {
        if let Some(open) = slot.take() {
            if identity(&self.path).ok() == Some(open.file) {
                *slot = Some(open);
            } else {
                tracing::warn!(database = %self.path.display(), "the database file has gone and is made anew");
                // To the end before a new one begins: closing removes the journal by its name.
                open.pool.close().await;
            }
        }
        if slot.is_none() {
            *slot = Some(self.connect().await?);
        }
        let open = slot.as_mut().expect("it was opened just above");
        let failed = |action| move |source| DatabaseError::Statement { path: self.path.clone(), action, source };
        match action {
            Action::Check => write_nothing(&open.pool).await.map_err(failed("be written")),
            Action::Index(catalog) if open.indexed == Some(catalog.id) => Ok(()),
            Action::Index(catalog) => {
                write_index(&open.pool, catalog).await.map_err(failed("take the index"))?;
                open.indexed = Some(catalog.id);
                Ok(())
            }
            Action::Count(begun, day) => {
                write_counts(&open.pool, begun, *day).await.map_err(failed("take the counters"))
            }
        }
    }

    async fn connect(&self) -> Result<Open, DatabaseError> {
        let reach = |source| DatabaseError::Reach { path: self.path.clone(), source };
        if let Some(parent) = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(reach)?;
        }
        if !self.path.exists() {
            // A journal without its database would be replayed into the new one.
            self.remove_journals().map_err(reach)?;
        }
        let statement = |action| move |source| DatabaseError::Statement { path: self.path.clone(), action, source };
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // With WAL a cut of power can lose the last seconds of counting, never the file.
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5));
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(10))
            .connect_with(options)
            .await
            .map_err(statement("be opened"))?;
        match self.prepare(&pool).await {
            Ok(indexed) => {
                let file = identity(&self.path).map_err(reach)?;
                Ok(Open { pool, file, indexed })
            }
            Err(error) => {
                pool.close().await;
                Err(error)
            }
        }
    }

    async fn prepare(&self, pool: &SqlitePool) -> Result<Option<Sha256>, DatabaseError> {
        let statement = |action| move |source| DatabaseError::Statement { path: self.path.clone(), action, source };
        let finding: String = sqlx::query("PRAGMA quick_check(1)")
            .fetch_one(pool)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(statement("be checked"))?;
        if finding != "ok" {
            return Err(DatabaseError::Damaged { path: self.path.clone(), finding });
        }
        migrations()
            .run(pool)
            .await
            .map_err(|source| DatabaseError::Migrate { path: self.path.clone(), source: Box::new(source) })?;
        let row = sqlx::query("SELECT timestamp_sha256 FROM repository")
            .fetch_optional(pool)
            .await
            .map_err(statement("be read"))?;
        Ok(row.and_then(|row| row.try_get::<String, _>(0).ok()).and_then(|text| Sha256::parse(&text).ok()))
    }

    /// Keeps one damaged file for whoever wants to look at it.
    fn set_aside(&self) -> Result<(), DatabaseError> {
        let reach = |source| DatabaseError::Reach { path: self.path.clone(), source };
        match fs::rename(&self.path, suffixed(&self.path, ".damaged")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(reach(error)),
            _ => {}
        }
        self.remove_journals().map_err(reach)
    }

    fn remove_journals(&self) -> io::Result<()> {
        for suffix in ["-wal", "-shm", "-journal"] {
            match fs::remove_file(suffixed(&self.path, suffix)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

enum Action<'a> {
    Check,
    Index(&'a Catalog),
    Count(&'a HashMap<Sha256, u32>, i64),
}

impl DatabaseError {
    /// Whether the file is no sound database, so that only a new one helps.
    fn is_damage(&self) -> bool {
        let source = match self {
            Self::Damaged { .. } => return true,
            Self::Statement { source, .. } => source,
            Self::Migrate { source, .. } => match source.as_ref() {
                MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => source,
                _ => return false,
            },
            Self::Reach { .. } => return false,
        };
        // SQLITE_CORRUPT and SQLITE_NOTADB; extended codes carry the plain one in their low byte.
        let code = source.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
        matches!(code.map(|code| code & 0xff), Some(11 | 26))
    }
}

/// The embedded migrations, in order. They only ever grow.
fn migrations() -> Migrator {
    let first = include_str!("../migrations/0001_index_and_downloads.sql");
    Migrator::with_migrations(vec![Migration::new(
        1,
        "index and downloads".into(),
        MigrationType::Simple,
        first.into_sql_str(),
        false,
    )])
}

/// Takes the lock for writing and writes a row, then takes both back.
async fn write_nothing(pool: &SqlitePool) -> sqlx::Result<()> {
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query("INSERT INTO downloads (sha256, day, begun) VALUES ('', 0, 0)").execute(&mut *transaction).await?;
    transaction.rollback().await
}

async fn write_index(pool: &SqlitePool, catalog: &Catalog) -> sqlx::Result<()> {
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    for table in ["DELETE FROM packages", "DELETE FROM builds", "DELETE FROM devices", "DELETE FROM repository"] {
        sqlx::query(table).execute(&mut *transaction).await?;
    }
    sqlx::query("INSERT INTO repository (id, timestamp_sha256, timestamp_version, expires) VALUES (1, ?, ?, ?)")
        .bind(catalog.id.to_string())
        .bind(integer(catalog.timestamp_version))
        .bind(catalog.expires.as_second())
        .execute(&mut *transaction)
        .await?;
    for device in &catalog.devices {
        sqlx::query("INSERT INTO devices (codename, vendor, expires) VALUES (?, ?, ?)")
            .bind(device.codename.as_str())
            .bind(device.vendor.as_str())
            .bind(device.expires.as_second())
            .execute(&mut *transaction)
            .await?;
        for build in &device.builds {
            sqlx::query("INSERT INTO builds (codename, channel, build, version, made) VALUES (?, ?, ?, ?, ?)")
                .bind(device.codename.as_str())
                .bind(build.channel.as_str())
                .bind(build.id.as_str())
                .bind(&build.version)
                .bind(build.made.as_second())
                .execute(&mut *transaction)
                .await?;
            for package in build.full.iter().chain(&build.deltas) {
                sqlx::query(
                    "INSERT INTO packages (path, codename, channel, build, from_build, kind, bytes, sha256, rollout, \
                     withdrawn) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                )
                .bind(package.path.to_string())
                .bind(device.codename.as_str())
                .bind(build.channel.as_str())
                .bind(build.id.as_str())
                .bind(package.from.as_ref().map(|from| from.as_str()))
                .bind(package.kind.to_string())
                .bind(integer(package.length.get()))
                .bind(package.sha256.to_string())
                .bind(i64::from(package.rollout))
                .bind(i64::from(package.withdrawn))
                .execute(&mut *transaction)
                .await?;
            }
        }
    }
    transaction.commit().await
}

async fn write_counts(pool: &SqlitePool, begun: &HashMap<Sha256, u32>, day: i64) -> sqlx::Result<()> {
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    for (sha256, begun) in begun {
        sqlx::query(
            "INSERT INTO downloads (sha256, day, begun) VALUES (?, ?, ?) \
             ON CONFLICT (sha256, day) DO UPDATE SET begun = begun + excluded.begun",
        )
        .bind(sha256.to_string())
        .bind(day)
        .bind(i64::from(*begun))
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await
}

/// SQLite's integers end at 2^63.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// An error with all its causes on one line, for logs and for `/readyz`.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Downloads that were begun since the counters were last written.
///
/// Keyed by files that exist, so it cannot grow beyond the repository.
#[derive(Debug, Default)]
pub(crate) struct Downloads {
    begun: Mutex<HashMap<Sha256, u32>>,
    total: AtomicU64,
}

impl Downloads {
    /// Counts one.
    pub(crate) fn begin(&self, sha256: Sha256) {
        self.total.fetch_add(1, Ordering::Relaxed);
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let count = begun.entry(sha256).or_default();
        *count = count.saturating_add(1);
    }

    /// All since the process started.
    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Writes all to the database; what cannot be written is kept for the next time.
    ///
    /// # Errors
    /// Those of [`Database::count`].
    pub(crate) async fn write(&self, database: &Database, day: i64) -> Result<(), DatabaseError> {
        let taken = std::mem::take(&mut *self.begun.lock().unwrap_or_else(PoisonError::into_inner));
        let written = database.count(&taken, day).await;
        if written.is_err() {
            let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            for (sha256, count) in taken {
                let sum = begun.entry(sha256).or_default();
                *sum = sum.saturating_add(count);
            }
        }
        written
    }
}
