//! The updater apps of ROMs, each in its own words.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse,
    body::BoxBody,
    http::{
        Method, StatusCode,
        header::{self, AcceptEncoding, Header},
    },
    web,
};
use relevo_dialect::{MAX_QUESTION, NoAnswer, Parts, Posted};

use super::{NEVER, SHORT, not_found, plain, refuse, repo};
use crate::{body::HeadBody, dialects::Answer, encoding::Coding, layout::RepoFile, precondition::Tag, startup::State};

/// Longest time that a question in a body may take to come.
const MAX_READING: Duration = Duration::from_secs(15);

/// `/graphene/**`: the zips by the names that GrapheneOS's updater makes for them, and the line that names the newest.
pub(crate) async fn graphene(request: HttpRequest, state: web::Data<State>) -> HttpResponse {
    let Some(file) = request.uri().path().strip_prefix("/graphene/").filter(|file| file.ends_with(".zip")) else {
        return ask(&request, &state);
    };
    if let Some(refused) = refuse(&request) {
        return refused;
    }
    let Some(catalog) = state.catalogs.last() else { return unverified() };
    let Some((path, sha256)) = catalog.offers.graphene(file, (state.clock)()) else { return not_found() };
    let file = RepoFile::Target { path: path.clone(), sha256: *sha256 };
    repo::send_file(&request, &state, file, repo::Name::Other).await
}

/// Answers what no other route does: a path of the table of dialects, a question in a body, or nothing.
pub(crate) async fn serve(request: HttpRequest, payload: web::Payload, state: web::Data<State>) -> HttpResponse {
    if let Some(posted) = Posted::at(request.uri().path()) {
        if *request.method() == Method::POST {
            return answer_posted(posted, payload, &state).await;
        }
        if posted == Posted::Builds {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only POST is answered here\n");
            response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("POST"));
            return response;
        }
    }
    ask(&request, &state)
}

/// Answers a question in a body.
async fn answer_posted(posted: Posted, payload: web::Payload, state: &State) -> HttpResponse {
    let reading = tokio::time::timeout(MAX_READING, payload.to_bytes_limited(MAX_QUESTION));
    let question = match reading.await {
        Ok(Ok(Ok(question))) => question,
        Ok(Ok(Err(_))) => return plain(StatusCode::BAD_REQUEST, "the question broke off\n"),
        Ok(Err(_)) => return plain(StatusCode::PAYLOAD_TOO_LARGE, "a question has at most 4096 bytes\n"),
        Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the question took too long\n"),
    };
    let Some(catalog) = state.catalogs.last() else { return unverified() };
    match posted.answer(&question, &catalog.offers, &state.answers.site, (state.clock)()) {
        Ok(Ok(answer)) => HttpResponse::Ok()
            .insert_header((header::CACHE_CONTROL, NEVER))
            .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
            .insert_header((header::CONTENT_TYPE, "application/json"))
            .body(answer),
        Ok(Err(error)) => refused(error),
        Err(_) => plain(StatusCode::BAD_REQUEST, "the question is no JSON of the kind that is asked here\n"),
    }
}

/// Answers a path of the table of dialects.
fn ask(request: &HttpRequest, state: &State) -> HttpResponse {
    // The raw path, which no encoded slash makes into another one.
    let Some(parts) = Parts::new(request.uri().path()) else { return not_found() };
    let Some(question) = state.answers.table.find(&parts) else { return not_found() };
    if let Some(refused) = refuse(request) {
        return refused;
    }
    let Some(catalog) = state.catalogs.last() else { return unverified() };
    let key = question.key(&catalog.offers, (state.clock)());
    match state.answers.get(&question, key, &catalog) {
        Ok(answer) => send(request, state, &answer, question.content_type()),
        Err(error) => refused(error),
    }
}

/// `/get/**`: sends apps that follow redirects to the preferred mirror, and tells them of the others.
pub(crate) async fn redirect(request: HttpRequest, state: web::Data<State>) -> HttpResponse {
    if let Some(refused) = refuse(&request) {
        return refused;
    }
    let rest = request.uri().path().strip_prefix("/get/").unwrap_or_default();
    let Some(RepoFile::Target { path, sha256 }) = RepoFile::parse(&format!("targets/{rest}")) else {
        return not_found();
    };
    let Some(catalog) = state.catalogs.last() else { return unverified() };
    if !catalog.offers.has_package(&path, &sha256) {
        return not_found();
    }
    let path = path.consistent(&sha256);
    let Some(location) = state.answers.first(&path) else { return refused(NoAnswer::NoAddress) };
    let mut response = HttpResponse::Found();
    response
        .insert_header((header::LOCATION, location))
        .insert_header((header::CACHE_CONTROL, SHORT))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"));
    for link in state.answers.links(&path) {
        response.append_header((header::LINK, link));
    }
    response.finish()
}

/// Nobody knows what there is.
fn unverified() -> HttpResponse {
    unavailable("there is no repository that verifies yet\n")
}

fn refused(error: NoAnswer) -> HttpResponse {
    match error {
        NoAnswer::NoAddress => unavailable("the server's public_url is not set to an https address\n"),
        _ => not_found(),
    }
}

fn unavailable(words: &'static str) -> HttpResponse {
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, words);
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("300"));
    response
}

/// Sends a body that was made before, or says that the client has it already.
fn send(request: &HttpRequest, state: &State, answer: &Answer, content_type: &'static str) -> HttpResponse {
    let coding = Coding::negotiate(AcceptEncoding::parse(request).ok().as_ref());
    let coded = coding.name().zip(state.compressed.get(&answer.body, answer.sha256, coding));
    let tag = Tag::new(&answer.sha256.to_string());
    let tag = coded.as_ref().map_or(tag.clone(), |(name, _)| tag.coded(name));
    let mut response = HttpResponse::Ok();
    response
        .insert_header((header::ETAG, tag.as_str()))
        .insert_header((header::CACHE_CONTROL, SHORT))
        .insert_header((header::VARY, "Accept-Encoding"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"));
    if tag.is_known(request.headers()) {
        return response.status(StatusCode::NOT_MODIFIED).body(());
    }
    response.insert_header((header::CONTENT_TYPE, content_type));
    let body = match coded {
        Some((name, compressed)) => {
            response.insert_header((header::CONTENT_ENCODING, name));
            compressed
        }
        None => answer.body.clone(),
    };
    if *request.method() == Method::HEAD {
        return response.body(BoxBody::new(HeadBody(body.len() as u64)));
    }
    response.body(body)
}
