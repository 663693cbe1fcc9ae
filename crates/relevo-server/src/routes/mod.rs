//! What is answered under which path.

pub(crate) mod dialects;
pub(crate) mod health;
pub(crate) mod index;
pub(crate) mod metrics;
pub(crate) mod publish;
pub(crate) mod repo;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, StatusCode, header},
    web,
};

/// All routes.
pub(crate) fn configure(config: &mut web::ServiceConfig) {
    config
        .route("/", web::route().to(index::serve))
        .route("/healthz", web::route().to(health::alive))
        .route("/readyz", web::route().to(health::ready))
        // A scope, since a pattern such as `/repo/{file:.*}` runs a regular expression for each poll: 9 % of its time.
        .service(web::scope("/repo").default_service(web::route().to(repo::serve)))
        .service(web::scope("/get").default_service(web::route().to(dialects::redirect)))
        .service(web::scope("/graphene").default_service(web::route().to(dialects::graphene)))
        .service(web::scope(publish::PREFIX).default_service(web::route().to(publish::serve)))
        // Paths of other updaters are a table, so they are found in it rather than by the framework.
        .default_service(web::route().to(dialects::serve));
}

/// `Cache-Control` of names that never stand for other bytes.
pub(crate) const IMMUTABLE: &str = "public, max-age=31536000, immutable";
/// `Cache-Control` of `timestamp.json`: shared caches may answer a burst of polls, no longer.
pub(crate) const SHORT: &str = "public, max-age=60, must-revalidate";
/// `Cache-Control` of answers that say something about this moment.
pub(crate) const NEVER: &str = "no-store";

/// What makes a repository out of nothing: commands, and what each does.
pub(crate) const STEPS: [(&str, &str); 4] = [
    (
        "relevo init DIR",
        "makes the repository and its keys; DIR is this server's directory, and the rest is run inside of it",
    ),
    ("relevo device add CODENAME --vendor VENDOR --kind native", "adds a device"),
    ("relevo import BUILD --device CODENAME", "takes in a build: a directory of images"),
    ("relevo publish", "signs what there is and makes it visible"),
];

/// Refuses what no route answers; `None` if the request may go on.
pub(crate) fn refuse(request: &HttpRequest) -> Option<HttpResponse> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here\n");
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return Some(response);
    }
    None
}

/// A short answer in words.
pub(crate) fn plain(status: StatusCode, words: &'static str) -> HttpResponse {
    HttpResponse::build(status)
        .insert_header((header::CONTENT_TYPE, "text/plain; charset=utf-8"))
        .insert_header((header::CACHE_CONTROL, NEVER))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .body(words)
}

/// 404.
pub(crate) fn not_found() -> HttpResponse {
    plain(StatusCode::NOT_FOUND, "there is no such file\n")
}
