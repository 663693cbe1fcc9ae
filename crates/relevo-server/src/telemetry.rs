//! Log lines. None of ours names a client: not the address, not the user agent, at any level.

use std::time::Instant;

use actix_web::{
    Error,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    middleware::Next,
};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::settings::{LogFormat, Settings};

/// Longest part of a request target that is logged, in bytes.
const MAX_LOGGED: usize = 200;

/// The `log` setting cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "log is {log:?}; it must be off, error, warn, info, debug, trace, or directives such as info,relevo_server=debug"
)]
pub struct LogSettingError {
    log: String,
}

/// Sends log lines to `writer` from now on. A second call changes nothing.
///
/// # Errors
/// [`LogSettingError`] if the `log` setting is no level and no list of directives.
pub fn init<W>(settings: &Settings, writer: W) -> Result<(), LogSettingError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // The framework's own lines at the start say the same as ours; a directive in the setting wins over this one.
    let filter = EnvFilter::builder().parse(format!("actix_server=warn,{}", settings.log));
    // The parser prints its cause twice, and would not name the setting.
    let filter = filter.map_err(|_| LogSettingError { log: settings.log.clone() })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(false);
    // Only tests that start several servers in one process call this twice.
    let _already = match settings.log_format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// Logs each request at level debug.
pub(crate) async fn log_request(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let started = Instant::now();
    let method = request.method().clone();
    // A request target is ASCII, so any cut is at a character.
    let path: String = request.uri().path().chars().take(MAX_LOGGED).collect();
    let response = next.call(request).await?;
    tracing::debug!(
        %method,
        path,
        status = response.status().as_u16(),
        elapsed_us = started.elapsed().as_micros(),
        "request"
    );
    Ok(response)
}
