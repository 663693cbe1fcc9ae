//! Putting the server together.

use std::{
    any::Any,
    fmt,
    future::Future,
    io::{self, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use actix_web::{
    App, HttpServer,
    dev::{Extensions, Server},
    middleware::{Condition, from_fn},
    rt::net::TcpStream,
    web,
};
use jiff::Timestamp;
use relevo_dialect::{MAX_TABLE, Table, TableError};
use socket2::SockRef;

use crate::{
    catalog::{Catalog, Catalogs, Retry},
    database::{Database, DatabaseError, Downloads, chain},
    dialects::Answers,
    encoding::Compressed,
    layout::Root,
    origin::{Origin, OriginError, OriginSettings},
    recent::Recent,
    routes,
    settings::{self, Passphrase, Settings, SettingsError},
    telemetry,
};

/// How often the repository and the database are looked at when nobody asks, and counters are written.
const ROUND: Duration = Duration::from_secs(2);

/// Threads that read files, over all workers; enough to keep a disk busy, few enough for a service's task limit.
const READERS: usize = 64;

/// Bytes that the kernel takes for a connection before they can go out; the next chunk waits behind them.
const MAX_UNSENT: u32 = 128 << 10;

/// Seconds in a day of UTC, which has no leap seconds here.
const DAY_SECONDS: i64 = 86_400;

/// Tells the time. Only `main.rs` reads the real clock.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What all requests share.
pub(crate) struct State {
    pub(crate) root: Root,
    pub(crate) clock: Clock,
    pub(crate) compressed: Compressed,
    pub(crate) recent: Recent,
    pub(crate) catalogs: Arc<Catalogs>,
    pub(crate) database: Database,
    pub(crate) downloads: Downloads,
    pub(crate) answers: Answers,
    /// None on mirrors.
    pub(crate) origin: Option<Arc<Origin>>,
    /// How long a client may send nothing of what it owes.
    pub(crate) stall: Duration,
}

impl State {
    /// Checks that the database can be written and says what the catalog says.
    pub(crate) async fn write_database(&self, catalog: Option<&Catalog>) -> Result<(), DatabaseError> {
        self.database.check().await?;
        match catalog {
            Some(catalog) => self.database.index(catalog).await,
            None => Ok(()),
        }
    }

    /// Looks after the repository and the database.
    async fn round(&self) {
        let view = self.catalogs.current(Retry::Yes).await;
        self.catalogs.warn((self.clock)());
        let day = (self.clock)().as_second().div_euclid(DAY_SECONDS);
        let written = match self.write_database(view.catalog.as_deref()).await {
            Ok(()) => self.downloads.write(&self.database, day).await,
            Err(error) => Err(error),
        };
        if let Some(origin) = self.origin.clone() {
            let now = (self.clock)();
            // A thread that ended in panic has said so itself.
            let _ended = tokio::task::spawn_blocking(move || origin.sweep(now)).await;
        }
        if let Err(error) = written {
            tracing::warn!(error = %chain(&error), "the database cannot be used; the repository is served all the same");
        }
    }
}

/// A server that is bound to its address.
pub struct Application {
    address: SocketAddr,
    server: Server,
    /// The listener of `/metrics`.
    metrics: Option<Server>,
    state: web::Data<State>,
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The address is taken, or not ours.
    #[error("could not listen on {listen}")]
    Bind {
        /// The address.
        listen: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Maintainers shall publish here, and cannot.
    #[error("maintainers cannot publish here")]
    Origin(#[from] OriginError),
    /// An address in the settings is none.
    #[error("the settings cannot be used")]
    Settings(#[from] SettingsError),
    /// The table of dialects cannot be read.
    #[error("could not read the dialects in {path}")]
    ReadDialects {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The table of dialects is not right.
    #[error("the dialects in {path} are not right")]
    Dialects {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<TableError>,
    },
}

impl Application {
    /// Binds the listener. Requests are answered from [`Application::run_until`] on.
    ///
    /// # Errors
    /// [`BuildError::Bind`] if the address cannot be bound. A missing repository or a broken database is no reason not
    /// to start: pages and `/readyz` say what is wrong. The others of [`BuildError`] are about the table of dialects.
    pub async fn build(settings: Settings, clock: Clock) -> Result<Self, BuildError> {
        Self::build_with(settings, clock, None).await
    }

    /// As [`Self::build`], with the passphrase of an origin's keys, unless the settings name a file that has it.
    ///
    /// # Errors
    /// As [`Self::build`], and [`BuildError::Origin`] if maintainers shall publish and the keys cannot be opened.
    pub async fn build_with(
        settings: Settings,
        clock: Clock,
        passphrase: Option<Passphrase>,
    ) -> Result<Self, BuildError> {
        let root = Root::new(&settings.repository);
        let table = settings.dialects.as_deref().map_or_else(|| Ok(Table::built_in()), read_dialects)?;
        let site = settings.site()?;
        if site.public.as_ref().is_none_or(|public| !public.is_https()) {
            tracing::info!(
                "public_url is not set to an https address: LineageOS's updater and its relatives are not answered"
            );
        }
        let origin = origin(&settings, &root, passphrase.as_ref(), clock())?;
        let state = web::Data::new(State {
            catalogs: Arc::new(Catalogs::new(root.clone())),
            root,
            clock,
            compressed: Compressed::default(),
            recent: Recent::default(),
            database: Database::new(&settings.database),
            downloads: Downloads::default(),
            answers: Answers::new(table, site),
            origin,
            stall: Duration::from_secs(settings.stall_timeout_seconds),
        });
        let shared = state.clone();
        let bind = |source| BuildError::Bind { listen: settings.listen, source };
        let stall = Duration::from_secs(settings.stall_timeout_seconds);
        let server = HttpServer::new(move || {
            App::new()
                .app_data(shared.clone())
                .wrap(Condition::new(tracing::enabled!(tracing::Level::DEBUG), from_fn(telemetry::log_request)))
                .configure(routes::configure)
        })
        .workers(settings.workers)
        .worker_max_blocking_threads((READERS / settings.workers).max(2))
        .max_connections(settings.max_connections.div_ceil(settings.workers))
        .keep_alive(Duration::from_secs(settings.keep_alive_seconds))
        .client_request_timeout(Duration::from_secs(settings.request_timeout_seconds))
        .shutdown_timeout(settings.shutdown_grace_seconds)
        .on_connect(move |connection, extensions| limit_connection(connection, extensions, stall))
        .disable_signals()
        .bind(settings.listen)
        .map_err(bind)?;
        let address = server.addrs().first().copied().unwrap_or(settings.listen);
        let server = server.run();
        let metrics = settings.metrics_listen.map(|listen| metrics(listen, state.clone())).transpose()?;
        // Once before the first request, so that the log says at the start what there is to serve.
        state.round().await;
        Ok(Self { address, server, metrics, state })
    }

    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port that was bound; useful after asking for port 0.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Answers requests until `stop` is ready, then lets running requests finish within the grace time.
    ///
    /// # Errors
    /// The error of the operating system that ended the accept loop.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> io::Result<()> {
        let state = self.state;
        let handle = self.server.handle();
        let serving = self.server;
        tokio::pin!(serving);
        let metrics_handle = self.metrics.as_ref().map(Server::handle);
        // Its end is no end of the server.
        let monitoring = async move {
            if let Some(metrics) = self.metrics
                && let Err(error) = metrics.await
            {
                tracing::warn!(%error, "metrics are no longer answered");
            }
            std::future::pending::<()>().await;
        };
        tokio::pin!(monitoring);
        let rounds = async {
            let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + ROUND, ROUND);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                state.round().await;
            }
        };
        let ended = tokio::select! {
            ended = &mut serving => ended,
            () = rounds => Ok(()),
            () = &mut monitoring => Ok(()),
            () = stop => {
                tracing::info!("stopping: running requests may finish");
                let metrics_end = async {
                    if let Some(handle) = metrics_handle {
                        handle.stop(false).await;
                    }
                };
                let ending = async { tokio::join!(handle.stop(true), serving, metrics_end).1 };
                tokio::select! {
                    ended = ending => ended,
                    () = monitoring => Ok(()),
                }
            }
        };
        state.round().await;
        state.database.close().await;
        ended
    }
}

/// Binds the listener of `/metrics`, which operators ask and nobody else.
fn metrics(listen: SocketAddr, state: web::Data<State>) -> Result<Server, BuildError> {
    let server = HttpServer::new(move || App::new().app_data(state.clone()).configure(routes::metrics::configure))
        .workers(1)
        .max_connections(16)
        .client_request_timeout(Duration::from_secs(5))
        .shutdown_timeout(0)
        .disable_signals()
        .bind(listen)
        .map_err(|source| BuildError::Bind { listen, source })?;
    tracing::info!(address = %server.addrs().first().copied().unwrap_or(listen), "metrics");
    Ok(server.run())
}

/// What maintainers publish with, if they shall.
fn origin(
    settings: &Settings,
    root: &Root,
    passphrase: Option<&Passphrase>,
    now: Timestamp,
) -> Result<Option<Arc<Origin>>, BuildError> {
    let Some(directory) = &settings.publish else { return Ok(None) };
    let read = settings.publish_passphrase_file.as_deref().map(settings::read_passphrase).transpose()?;
    let keys = settings.publish_keys.clone().unwrap_or_else(|| settings.repository.join("keys"));
    let hosts = settings.publish_hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
    let settings = OriginSettings { directory: directory.clone(), keys, hosts };
    Ok(Some(Arc::new(Origin::open(settings, root.clone(), read.as_ref().or(passphrase), now)?)))
}

/// What [`migrate`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Migrated {
    /// The tables are up to date and the index is new.
    Indexed {
        /// Devices in the index.
        devices: usize,
    },
    /// The tables are up to date; there is no repository that verifies, so the index was left as it was.
    TablesOnly {
        /// Why there is nothing to index.
        reason: String,
    },
}

impl fmt::Display for Migrated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Indexed { devices } => write!(f, "the database is up to date; devices in its index: {devices}"),
            Self::TablesOnly { reason } => {
                write!(f, "the database is up to date; its index is not made anew: {reason}")
            }
        }
    }
}

/// Brings the tables of the database up to date and makes its index from the repository, whatever it said before.
///
/// # Errors
/// [`DatabaseError`] if the database can be neither used nor made anew.
pub async fn migrate(settings: &Settings) -> Result<Migrated, DatabaseError> {
    let catalogs = Arc::new(Catalogs::new(Root::new(&settings.repository)));
    let database = Database::new(&settings.database);
    database.check().await?;
    let view = catalogs.current(Retry::Yes).await;
    let migrated = match (view.catalog, view.problem) {
        (Some(catalog), _) => {
            database.reindex(&catalog).await?;
            Migrated::Indexed { devices: catalog.devices.len() }
        }
        (None, Some(problem)) => Migrated::TablesOnly { reason: problem.to_string() },
        (None, None) => Migrated::TablesOnly { reason: "nothing was read".to_owned() },
    };
    database.close().await;
    Ok(migrated)
}

fn read_dialects(path: &Path) -> Result<Table, BuildError> {
    let read = |source| BuildError::ReadDialects { path: path.to_owned(), source };
    let mut text = String::new();
    // One byte more than a table may have, so that a longer one is noticed.
    let file = std::fs::File::open(path).map_err(read)?;
    file.take(MAX_TABLE as u64 + 1).read_to_string(&mut text).map_err(read)?;
    Table::with(&text).map_err(|error| BuildError::Dialects { path: path.to_owned(), source: Box::new(error) })
}

/// Sets the limits that only the kernel can keep.
///
/// A client that takes none of its bytes would otherwise hold its connection for ever, since nothing above the socket
/// wakes up while the socket's buffer is full; and that buffer would grow to megabytes for each such client.
fn limit_connection(connection: &dyn Any, _: &mut Extensions, stall: Duration) {
    let Some(stream) = connection.downcast_ref::<TcpStream>() else { return };
    let socket = SockRef::from(stream);
    let limited = socket.set_tcp_user_timeout(Some(stall)).and_then(|()| socket.set_tcp_notsent_lowat(MAX_UNSENT));
    if let Err(error) = limited {
        tracing::debug!(%error, "could not limit a connection");
    }
}
