//! `/publish/v1/**`: maintainers push what they signed at home.

use std::{pin::Pin, sync::Arc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, StatusCode, header},
    web,
};
use bytes::BytesMut;
use futures_core::Stream as _;
use relevo_repo::{
    RepoError,
    push::{Intake, IntakeError, PROTOCOL},
};
use relevo_types::Sha256;
use serde_json::{Value, json};
use sha2::Digest as _;
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, timeout, timeout_at},
};

use super::{NEVER, not_found};
use crate::{
    database::chain,
    origin::{Caller, Head, Origin, Refusal},
    startup::State,
};

/// Where all of this lies.
pub(crate) const PREFIX: &str = "/publish/v1";

/// Slower than this, in bytes a second, a request is given up: it would hold its place for days.
const MIN_RATE: u64 = 256;

/// An answer that is no success.
#[derive(Debug)]
struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
    more: Value,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), more: Value::Null }
    }

    fn answer(self) -> HttpResponse {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let (Some(error), Value::Object(more)) = (error.as_object_mut(), self.more) {
            error.extend(more);
        }
        let mut response = json(self.status, &json!({ "error": error }));
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("5"));
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (status, code) = match &refusal {
            Refusal::Unsigned(_) | Refusal::Coverage => (StatusCode::UNAUTHORIZED, "unsigned"),
            Refusal::Signature(_) => (StatusCode::UNAUTHORIZED, "bad-signature"),
            Refusal::Host(_) => (StatusCode::MISDIRECTED_REQUEST, "wrong-host"),
            Refusal::UnknownKey(_) => (StatusCode::FORBIDDEN, "unknown-key"),
            Refusal::Clock { .. } => (StatusCode::UNAUTHORIZED, "clock"),
            Refusal::Restarted => (StatusCode::UNAUTHORIZED, "restarted"),
            Refusal::Replayed => (StatusCode::CONFLICT, "replayed"),
            Refusal::Busy => (StatusCode::TOO_MANY_REQUESTS, "busy"),
            Refusal::Accounts(error) => {
                tracing::error!(error = %chain(error), "the accounts cannot be read");
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
            }
        };
        let mut problem = Self::new(status, code, refusal.to_string());
        if let Refusal::Clock { now, .. } = refusal {
            problem.more = json!({ "time": now });
        }
        problem
    }
}

impl From<IntakeError> for Problem {
    fn from(error: IntakeError) -> Self {
        if error.is_disk() {
            // The log names the path; whoever asks over the network need not know it.
            tracing::error!(error = %chain(&error), "a publication failed at the disk");
            let message = "the origin could not write; its disk may be full";
            return Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk", message);
        }
        let (status, code) = match &error {
            IntakeError::Manifest(_) | IntakeError::Protocol { .. } | IntakeError::Contents(_) => {
                (StatusCode::BAD_REQUEST, "manifest")
            }
            IntakeError::NotYours { .. } => (StatusCode::FORBIDDEN, "not-yours"),
            IntakeError::Quota { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "quota"),
            IntakeError::TooMany { .. } => (StatusCode::TOO_MANY_REQUESTS, "too-many"),
            IntakeError::NoSession(_) => (StatusCode::NOT_FOUND, "no-session"),
            IntakeError::NoSuchPart { .. } => (StatusCode::NOT_FOUND, "no-such-part"),
            IntakeError::Digest { .. } | IntakeError::Cut { .. } | IntakeError::ChunkList { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, "digest")
            }
            IntakeError::Incomplete { .. } => (StatusCode::CONFLICT, "incomplete"),
            IntakeError::Gap { .. } => (StatusCode::CONFLICT, "gap"),
            IntakeError::Repository(RepoError::RoleVersion { .. }) => (StatusCode::CONFLICT, "version"),
            IntakeError::Repository(
                RepoError::WouldBeRefused(_)
                | RepoError::NotForPhones(_)
                | RepoError::OtherContent { .. }
                | RepoError::Author { .. }
                | RepoError::NotPlaced { .. }
                | RepoError::NoSuchRole { .. }
                | RepoError::NoSuchDevice(_),
            ) => (StatusCode::UNPROCESSABLE_ENTITY, "refused"),
            _ => {
                tracing::error!(error = %chain(&error), "a publication failed");
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
            }
        };
        let message = match status {
            // What is wrong with the server's own files is for its log.
            StatusCode::SERVICE_UNAVAILABLE => "the origin cannot publish at the moment".to_owned(),
            _ => chain(&error),
        };
        let mut problem = Self::new(status, code, message);
        if let IntakeError::Repository(RepoError::RoleVersion { role, next, .. }) = &error {
            problem.more = json!({ "role": role, "next_version": next });
        }
        problem
    }
}

/// Answers everything below [`PREFIX`].
pub(crate) async fn serve(request: HttpRequest, payload: web::Payload, state: web::Data<State>) -> HttpResponse {
    let Some(origin) = &state.origin else { return not_found() };
    match route(&request, payload, &state, origin).await {
        Ok(answer) => answer,
        Err(problem) => {
            tracing::debug!(status = problem.status.as_u16(), code = problem.code, "a request to publish was refused");
            problem.answer()
        }
    }
}

async fn route(
    request: &HttpRequest,
    payload: web::Payload,
    state: &web::Data<State>,
    origin: &Arc<Origin>,
) -> Result<HttpResponse, Problem> {
    let uri = request.uri();
    // The raw path, as it was signed. Nothing here has a query or an escape.
    let rest = uri.path().strip_prefix(PREFIX).unwrap_or_default();
    let parts: Vec<&str> = rest.split('/').skip(1).collect();
    if parts.is_empty() && *request.method() == Method::GET {
        let time = (state.clock)().as_second();
        return Ok(json(StatusCode::OK, &json!({ "protocol": PROTOCOL, "time": time })));
    }
    if uri.query().is_some() {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "query", "there are no queries here"));
    }
    let known = match parts.as_slice() {
        ["account"] => Method::GET,
        ["sessions"] | ["sessions", _, "commit"] => Method::POST,
        ["sessions", _, "cuts", _, _] | ["sessions", _, "targets", _, "chunks", _] => Method::PUT,
        _ => return Ok(not_found()),
    };
    if *request.method() != known {
        let message = format!("only {known} is answered here");
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", message));
    }
    let caller = authenticate(request, origin, state)?;
    let intake = blocking(origin, |origin| origin.intake()).await?;
    let body = Body { request, payload, stall: state.stall, caller: &caller };
    match parts.as_slice() {
        ["account"] => account(&caller, &intake, state),
        ["sessions"] => begin(body, &caller, intake, state, origin).await,
        ["sessions", id, "commit"] => commit(id, body, &caller, intake, state, origin).await,
        ["sessions", id, "cuts", cut, at] => put_cut((id, cut, at), body, &caller, intake, state, origin).await,
        ["sessions", id, "targets", target, "chunks", run] => {
            put_chunks((id, target, run), body, &caller, intake, state, origin).await
        }
        _ => Ok(not_found()),
    }
}

fn authenticate(request: &HttpRequest, origin: &Origin, state: &State) -> Result<Caller, Problem> {
    let one = |name: &str| {
        let mut values = request.headers().get_all(name);
        match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok().map(str::to_owned),
            _ => None,
        }
    };
    // Not what a proxy says that it was called: what it passes on is what was signed.
    let authority = request.uri().authority().map(ToString::to_string).or_else(|| one("host")).unwrap_or_default();
    let authority = authority.to_ascii_lowercase();
    let head =
        Head { method: request.method().as_str(), authority: &authority, path: request.uri().path(), field: &one };
    Ok(origin.authenticate(&head, (state.clock)())?)
}

fn account(caller: &Caller, intake: &Intake, state: &State) -> Result<HttpResponse, Problem> {
    let answer = json!({
        "protocol": PROTOCOL,
        "time": (state.clock)().as_second(),
        "account": caller.account.name.as_str(),
        "devices": caller.account.devices,
        "quota_bytes": caller.account.quota,
        "max_request_bytes": intake.limits().run,
    });
    Ok(json(StatusCode::OK, &answer))
}

async fn begin(
    body: Body<'_>,
    caller: &Caller,
    intake: Arc<Intake>,
    state: &web::Data<State>,
    origin: &Arc<Origin>,
) -> Result<HttpResponse, Problem> {
    let _place = place(&origin.uploads)?;
    let limit = intake.limits().manifest.get();
    let manifest = body.whole(limit).await?;
    let _turn = origin.commits.acquire().await.map_err(closed)?;
    let (account, now) = (caller.account.clone(), (state.clock)());
    let status = blocking(origin, move |origin| intake.begin(&account, &manifest, &origin.signers(), now)).await?;
    Ok(json(StatusCode::OK, &serde_json::to_value(status).map_err(internal)?))
}

async fn put_cut(
    (id, cut, at): (&str, &str, &str),
    body: Body<'_>,
    caller: &Caller,
    intake: Arc<Intake>,
    state: &web::Data<State>,
    origin: &Arc<Origin>,
) -> Result<HttpResponse, Problem> {
    let (session, cut) = (digest(id)?, digest(cut)?);
    let at = number(at).ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "no-such-part", "no such piece"))? as u64;
    let _place = place(&origin.uploads)?;
    let bytes = body.whole(Intake::MAX_PIECE).await?;
    let (name, now) = (caller.account.name.clone(), (state.clock)());
    blocking(origin, move |_| intake.put_cut(&name, session, cut, (at, &bytes), now)).await?;
    Ok(done())
}

async fn put_chunks(
    (id, target, run): (&str, &str, &str),
    body: Body<'_>,
    caller: &Caller,
    intake: Arc<Intake>,
    state: &web::Data<State>,
    origin: &Arc<Origin>,
) -> Result<HttpResponse, Problem> {
    let session = digest(id)?;
    let run = run.split_once('-').and_then(|(first, last)| Some((number(first)?, number(last)?)));
    let unknown = || Problem::new(StatusCode::NOT_FOUND, "no-such-part", "no such target or run of chunks");
    let (Some(target), Some(run)) = (number(target), run) else { return Err(unknown()) };
    let _place = place(&origin.uploads)?;
    let (name, now) = (caller.account.name.clone(), (state.clock)());
    let run = intake.run(&name, session, target, run, now)?;
    let length = run.length().get();
    body.expect(length)?;
    let lengths = run.lengths.clone();
    let run = Arc::new(run);
    // What came whole is kept even if the rest does not come.
    let mut stream = body.stream(length);
    for (nth, length) in lengths.into_iter().enumerate() {
        let chunk = stream.take(length as usize).await?;
        let run = Arc::clone(&run);
        blocking(origin, move |_| run.put(nth, &chunk)).await?;
    }
    stream.end().await?;
    Ok(done())
}

async fn commit(
    id: &str,
    body: Body<'_>,
    caller: &Caller,
    intake: Arc<Intake>,
    state: &web::Data<State>,
    origin: &Arc<Origin>,
) -> Result<HttpResponse, Problem> {
    let session = digest(id)?;
    body.whole(0).await?;
    let _turn = origin.commits.acquire().await.map_err(closed)?;
    let (caller, now) = (caller.clone(), (state.clock)());
    let name = caller.account.name.clone();
    let receipt =
        blocking(origin, move |origin| intake.commit(&caller.account, &caller.key_id, session, &origin.signers(), now))
            .await?;
    if receipt.changed {
        let roles: Vec<String> = receipt.roles.iter().map(|role| format!("{} {}", role.role, role.version)).collect();
        tracing::info!(account = %name, roles = roles.join(", "), timestamp = receipt.timestamp_version, "published");
    }
    Ok(json(StatusCode::OK, &serde_json::to_value(receipt).map_err(internal)?))
}

/// Runs what blocks away from the threads that answer.
async fn blocking<T: Send + 'static>(
    origin: &Arc<Origin>,
    work: impl FnOnce(&Origin) -> Result<T, IntakeError> + Send + 'static,
) -> Result<T, Problem> {
    let origin = Arc::clone(origin);
    let done = tokio::task::spawn_blocking(move || work(&origin)).await;
    Ok(done.map_err(internal)??)
}

/// A number in its one spelling.
fn number(text: &str) -> Option<usize> {
    text.parse::<usize>().ok().filter(|number| number.to_string() == text)
}

/// A place among the requests that bring bytes, or the advice to come back.
fn place(places: &tokio::sync::Semaphore) -> Result<SemaphorePermit<'_>, Problem> {
    places.try_acquire().map_err(|_| Refusal::Busy.into())
}

fn digest(text: &str) -> Result<Sha256, Problem> {
    let digest = Sha256::parse(text).ok().filter(|digest| digest.to_string() == text);
    digest
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "no-such-part", "no such digest in lower-case hexadecimal"))
}

fn internal(error: impl std::error::Error) -> Problem {
    tracing::error!(error = %chain(&error), "a publication failed");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the origin cannot publish at the moment")
}

fn closed(error: tokio::sync::AcquireError) -> Problem {
    internal(error)
}

fn json(status: StatusCode, value: &Value) -> HttpResponse {
    HttpResponse::build(status)
        .insert_header((header::CACHE_CONTROL, NEVER))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .json(value)
}

fn done() -> HttpResponse {
    HttpResponse::NoContent().insert_header((header::CACHE_CONTROL, NEVER)).finish()
}

/// The body of a request that is believed.
struct Body<'a> {
    request: &'a HttpRequest,
    payload: web::Payload,
    stall: Duration,
    caller: &'a Caller,
}

impl Body<'_> {
    /// Refuses a body that does not say this length.
    fn expect(&self, length: u64) -> Result<(), Problem> {
        let stated = self.stated()?;
        if stated == length {
            return Ok(());
        }
        let message = format!("the body has {stated} bytes; expected {length}");
        Err(Problem::new(StatusCode::BAD_REQUEST, "length", message))
    }

    /// What the head says; a body without a length is not taken.
    fn stated(&self) -> Result<u64, Problem> {
        let stated = self.request.headers().get(header::CONTENT_LENGTH);
        match (stated, self.request.headers().contains_key(header::TRANSFER_ENCODING)) {
            (None, false) => Ok(0),
            (Some(length), false) => length
                .to_str()
                .ok()
                .and_then(|length| length.parse().ok())
                .ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "length", "Content-Length is no number")),
            _ => Err(Problem::new(StatusCode::LENGTH_REQUIRED, "length", "the body needs a Content-Length")),
        }
    }

    /// Reads all of a body of at most `limit` bytes, and checks it against its signed digest.
    async fn whole(self, limit: u64) -> Result<Vec<u8>, Problem> {
        let length = self.stated()?;
        if length > limit {
            let message = format!("the body has {length} bytes; at most {limit} are taken");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message));
        }
        let mut stream = self.stream(length);
        let bytes = stream.take(usize::try_from(length).map_err(internal)?).await?;
        stream.end().await?;
        Ok(bytes)
    }

    fn stream(self, length: u64) -> Incoming {
        let patience = self.stall.saturating_add(Duration::from_secs(length / MIN_RATE));
        Incoming {
            payload: self.payload,
            stall: self.stall,
            deadline: Instant::now() + patience,
            buffer: BytesMut::new(),
            hasher: sha2::Sha256::new(),
            expected: self.caller.digest,
        }
    }
}

/// A body as it comes, hashed on the way.
struct Incoming {
    payload: web::Payload,
    stall: Duration,
    deadline: Instant,
    buffer: BytesMut,
    hasher: sha2::Sha256,
    expected: Sha256,
}

impl Incoming {
    /// The next `length` bytes.
    async fn take(&mut self, length: usize) -> Result<Vec<u8>, Problem> {
        while self.buffer.len() < length {
            let Some(bytes) = self.next().await? else {
                return Err(Problem::new(StatusCode::BAD_REQUEST, "length", "the body ended too early"));
            };
            self.buffer.extend_from_slice(&bytes);
        }
        Ok(self.buffer.split_to(length).to_vec())
    }

    /// Checks that nothing is left, and that the body was the one that was signed.
    async fn end(mut self) -> Result<(), Problem> {
        if !self.buffer.is_empty() || self.next().await?.is_some() {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "length", "the body is longer than it said"));
        }
        if Sha256::new(self.hasher.finalize().into()) != self.expected {
            let message = "the body is not the one that Content-Digest names";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "digest", message));
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<bytes::Bytes>, Problem> {
        let slow = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "slow", "the body came too slowly");
        let next = std::future::poll_fn(|cx| Pin::new(&mut self.payload).poll_next(cx));
        let next = timeout_at(self.deadline, timeout(self.stall, next)).await.map_err(slow)?.map_err(slow)?;
        let Some(bytes) = next
            .transpose()
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "length", format!("the body broke off: {error}")))?
        else {
            return Ok(None);
        };
        self.hasher.update(&bytes);
        Ok(Some(bytes))
    }
}
