//! Putting the server together.

use std::{any::Any, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use actix_web::{
    App, HttpServer,
    dev::{Extensions, Server},
    middleware::{Condition, from_fn},
    rt::net::TcpStream,
    web,
};
use jiff::Timestamp;

use crate::{encoding::Compressed, layout::Root, routes, settings::Settings, telemetry};

/// Tells the time. Only `main.rs` reads the real clock.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What all requests share.
pub(crate) struct State {
    pub(crate) root: Root,
    pub(crate) clock: Clock,
    pub(crate) compressed: Compressed,
}

/// A server that is bound to its address.
pub struct Application {
    address: SocketAddr,
    server: Server,
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
}

impl Application {
    /// Binds the listener. Requests are answered from [`Application::run_until`] on.
    ///
    /// # Errors
    /// [`BuildError::Bind`] if the address cannot be bound. A missing repository or a broken database is no reason not
    /// to start: pages and `/readyz` say what is wrong.
    pub async fn build(settings: Settings, clock: Clock) -> Result<Self, BuildError> {
        let state =
            web::Data::new(State { root: Root::new(&settings.repository), clock, compressed: Compressed::default() });
        let bind = |source| BuildError::Bind { listen: settings.listen, source };
        let stall = settings.stall_timeout_seconds.saturating_mul(1000);
        let server = HttpServer::new(move || {
            App::new()
                .app_data(state.clone())
                .wrap(Condition::new(tracing::enabled!(tracing::Level::DEBUG), from_fn(telemetry::log_request)))
                .configure(routes::configure)
        })
        .workers(settings.workers)
        .max_connections(settings.max_connections.div_ceil(settings.workers))
        .keep_alive(Duration::from_secs(settings.keep_alive_seconds))
        .client_request_timeout(Duration::from_secs(settings.request_timeout_seconds))
        .shutdown_timeout(settings.shutdown_grace_seconds)
        .on_connect(move |connection, extensions| drop_when_stalled(connection, extensions, stall))
        .disable_signals()
        .bind(settings.listen)
        .map_err(bind)?;
        let address = server.addrs().first().copied().unwrap_or(settings.listen);
        Ok(Self { address, server: server.run() })
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
        let handle = self.server.handle();
        let serving = self.server;
        tokio::pin!(serving);
        tokio::select! {
            ended = &mut serving => return ended,
            () = stop => tracing::info!("stopping: running requests may finish"),
        }
        let stopping = handle.stop(true);
        tokio::join!(stopping, serving).1
    }
}

/// Lets the kernel drop a client that takes none of the bytes sent to it: such a client would otherwise hold a
/// connection for ever, since nothing above the socket wakes up while its buffer is full.
fn drop_when_stalled(connection: &dyn Any, _: &mut Extensions, timeout_ms: u32) {
    if let Some(stream) = connection.downcast_ref::<TcpStream>()
        && let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, timeout_ms)
    {
        tracing::debug!(%error, "could not set a time limit for stalled clients");
    }
}
