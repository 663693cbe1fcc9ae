//! What operators and load balancers ask.

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, http::header, web};
use jiff::Timestamp;
use relevo_meta::expiry::Expiry;
use serde::Serialize;

use super::{NEVER, STEPS, plain, refuse};
use crate::{
    catalog::{MAX_TROUBLES, Problem, Retry, View},
    database::chain,
    startup::State,
};

/// Whether the process answers; says nothing about the repository.
pub(crate) async fn alive(request: HttpRequest) -> HttpResponse {
    refuse(&request).unwrap_or_else(|| plain(StatusCode::OK, "alive\n"))
}

/// The answer of `/readyz`.
#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    problems: Vec<Trouble>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<RepositoryState>,
}

/// One thing that is wrong.
#[derive(Debug, Serialize)]
struct Trouble {
    /// `repository` or `database`.
    part: &'static str,
    /// A word for programs.
    problem: &'static str,
    /// A sentence for people.
    reason: String,
    /// Commands that help.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    next: Vec<&'static str>,
}

/// What is being served.
#[derive(Debug, Serialize)]
struct RepositoryState {
    timestamp_version: u64,
    expires: Timestamp,
    devices: usize,
    /// Roles that do not verify; each harms its own devices only, so the server is ready all the same.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    troubles: Vec<String>,
    /// Roles that will expire within 60 days, or have, the next one first.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    expiring: Vec<Expiry>,
}

/// Whether the repository verifies and is fresh, and the database can be written.
pub(crate) async fn ready(request: HttpRequest, state: web::Data<State>) -> HttpResponse {
    if let Some(refused) = refuse(&request) {
        return refused;
    }
    let view = state.catalogs.current(Retry::No).await;
    let now = (state.clock)();
    let mut problems: Vec<Trouble> = repository(&view, now).into_iter().collect();
    if let Err(error) = state.write_database(view.catalog.as_deref()).await {
        tracing::warn!(error = %chain(&error), "the database cannot be used");
        // The log names the path; whoever asks over the network need not know it.
        let reason = "the database cannot be written; the log says why".to_owned();
        problems.push(Trouble { part: "database", problem: "unwritable", reason, next: Vec::new() });
    }
    let repository = view.catalog.as_deref().map(|catalog| RepositoryState {
        timestamp_version: catalog.timestamp_version,
        expires: catalog.expires,
        devices: catalog.devices.len(),
        troubles: catalog.troubles.clone(),
        expiring: catalog.expiring(now).into_iter().take(MAX_TROUBLES).collect(),
    });
    let ready = problems.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    HttpResponse::build(status)
        .insert_header((header::CACHE_CONTROL, NEVER))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .json(Readiness { ready, problems, repository })
}

fn repository(view: &View, now: Timestamp) -> Option<Trouble> {
    let (problem, reason, next) = match &view.problem {
        Some(problem @ Problem::Empty) => {
            ("empty", problem.to_string(), STEPS.iter().map(|(command, _)| *command).collect())
        }
        Some(problem @ Problem::Unreadable(_)) => ("unreadable", problem.to_string(), Vec::new()),
        Some(problem @ Problem::Untrusted(_)) => ("untrusted", problem.to_string(), Vec::new()),
        None => {
            let catalog = view.catalog.as_deref().filter(|catalog| catalog.expires <= now)?;
            let reason = format!("the role {} expired at {}", catalog.expires_first, catalog.expires);
            ("expired", reason, vec!["relevo refresh"])
        }
    };
    Some(Trouble { part: "repository", problem, reason, next })
}
