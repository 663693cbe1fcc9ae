//! What operators and load balancers ask.

use actix_web::{HttpRequest, HttpResponse, http::StatusCode};

use super::{plain, refuse};

/// Whether the process answers; says nothing about the repository.
pub(crate) async fn alive(request: HttpRequest) -> HttpResponse {
    refuse(&request).unwrap_or_else(|| plain(StatusCode::OK, "alive\n"))
}
