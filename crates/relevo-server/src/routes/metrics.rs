//! `/metrics`, on a listener of its own: figures about the repository and the process, and none about who asks.

use std::fmt::Write;

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use jiff::Timestamp;

use super::{NEVER, not_found, refuse};
use crate::{
    catalog::{Catalog, Retry, View},
    startup::State,
};

/// Text format 0.0.4 of Prometheus.
const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The routes of that listener: one.
pub(crate) fn configure(config: &mut web::ServiceConfig) {
    config.service(web::resource("/metrics").route(web::route().to(answer)));
    config.default_service(web::route().to(async || not_found()));
}

async fn answer(request: HttpRequest, state: web::Data<State>) -> HttpResponse {
    if let Some(refused) = refuse(&request) {
        return refused;
    }
    let view = state.catalogs.current(Retry::No).await;
    let text = render(&view, state.downloads.total(), (state.clock)());
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, TYPE))
        .insert_header((header::CACHE_CONTROL, NEVER))
        .body(text)
}

/// The figures as text. There is a series for each top-level role and none for each device, so that their number does not
/// grow with the repository.
fn render(view: &View, downloads: u64, now: Timestamp) -> String {
    let catalog = view.catalog.as_deref();
    let ready = view.problem.is_none() && catalog.is_some_and(|catalog| catalog.expires > now);
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, samples: &[(String, i64)]| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let one = |value: i64| vec![(String::new(), value)];
    metric(
        "relevo_repository_ready",
        "gauge",
        "Whether the repository verifies and none of its four top-level roles has expired.",
        &one(i64::from(ready)),
    );
    metric(
        "relevo_downloads_begun_total",
        "counter",
        "Downloads of packages that were begun since the process started.",
        &one(i64::try_from(downloads).unwrap_or(i64::MAX)),
    );
    let Some(catalog) = catalog else { return text };
    let seconds = |expires: Timestamp| expires.as_second().saturating_sub(now.as_second());
    let roles = ["root", "targets", "snapshot", "timestamp"];
    let expiries = roles.iter().filter_map(|role| {
        let file = catalog.roles.get(*role)?;
        Some((format!("{{role=\"{role}\"}}"), seconds(file.expires)))
    });
    metric(
        "relevo_role_expires_in_seconds",
        "gauge",
        "Seconds until the role expires; negative once it has.",
        &expiries.collect::<Vec<_>>(),
    );
    metric("relevo_timestamp_version", "gauge", "Version of timestamp.json.", &one(number(catalog.timestamp_version)));
    metric("relevo_devices", "gauge", "Devices in the repository.", &one(count(catalog.devices.len())));
    metric(
        "relevo_devices_unmaintained",
        "gauge",
        "Devices whose role, or whose vendor's, has expired.",
        &one(count(unmaintained(catalog, now))),
    );
    metric(
        "relevo_roles_expiring",
        "gauge",
        "Roles that it is time to sign anew.",
        &one(count(catalog.expiring(now).len())),
    );
    metric(
        "relevo_troubles",
        "gauge",
        "Roles and targets that do not verify; each harms its own devices only.",
        &one(count(catalog.troubles.len())),
    );
    text
}

fn unmaintained(catalog: &Catalog, now: Timestamp) -> usize {
    catalog.devices.iter().filter(|device| device.expires <= now).count()
}

fn count(items: usize) -> i64 {
    i64::try_from(items).unwrap_or(i64::MAX)
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
