//! `/repo/**`: the public repository as files.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    time::{Duration, SystemTime},
};

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    body::{BoxBody, MessageBody},
    http::{
        Method, StatusCode,
        header::{self, AcceptEncoding, Header, HttpDate},
    },
    web,
};
use bytes::Bytes;
use relevo_types::Sha256;
use sha2::Digest;

use super::{IMMUTABLE, SHORT, not_found, plain, refuse};
use crate::{
    body::{self, FileBody, HeadBody},
    encoding::Coding,
    layout::{self, RepoFile},
    precondition::{Tag, Validators, Verdict},
    range::Wanted,
    recent::Document,
    startup::State,
};

/// Metadata up to this many bytes goes through memory, to be hashed and compressed; a longer file is only streamed.
/// Four times the limit that clients have for a snapshot.
const MAX_IN_MEMORY: u64 = 1 << 20;

/// A file that was opened, with what the answer's head needs.
struct Opened {
    content: Content,
    len: u64,
    coding: Coding,
    validators: Validators,
}

enum Content {
    File(File),
    Bytes(Bytes),
}

/// Answers a request for a file of the repository.
///
/// The answer depends on the path and on the fields of RFC 9110 for ranges, conditions and content coding; nothing
/// else of the request is read.
pub(crate) async fn serve(request: HttpRequest, state: web::Data<State>) -> HttpResponse {
    if let Some(refused) = refuse(&request) {
        return refused;
    }
    // The raw path: the framework's own decoding would let an encoded slash make another path.
    let Some(file) = request.uri().path().strip_prefix("/repo/").and_then(RepoFile::parse) else {
        return not_found();
    };
    send_file(&request, &state, file, Name::Own).await
}

/// Which name a file was asked for by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    /// Its own in the repository.
    Own,
    /// One that may stand for another file some day.
    Other,
}

/// Answers with a file of the repository. The request is a GET or a HEAD.
pub(crate) async fn send_file(
    request: &HttpRequest,
    state: &web::Data<State>,
    file: RepoFile,
    name: Name,
) -> HttpResponse {
    let ranged = request.headers().contains_key(header::RANGE);
    let coding = match file {
        RepoFile::Target { .. } => Coding::Identity,
        // A range counts bytes of the file, so it is answered from the file.
        _ if ranged => Coding::Identity,
        _ => Coding::negotiate(AcceptEncoding::parse(request).ok().as_ref()),
    };
    let now_seconds = (state.clock)().as_second();
    // Without a thread, if the bytes are at hand and there is nothing to compress.
    let at_hand = state.recent.get(&state.root, &file).and_then(|document| {
        let compressed = state.compressed.known(&document.bytes, document.sha256, coding)?;
        Some(represent(&file, &document, compressed, coding, now_seconds))
    });
    if let Some(opened) = at_hand {
        return answer(request, state, &file, opened);
    }
    let opening = {
        let (state, file) = (state.clone(), file.clone());
        tokio::task::spawn_blocking(move || open(&state, &file, coding, now_seconds))
    };
    match opening.await.map_err(io::Error::other).and_then(|opened| opened) {
        Ok(mut opened) => {
            opened.validators.immutable &= name == Name::Own;
            answer(request, state, &file, opened)
        }
        Err(error) if layout::is_absent(&error) => not_found(),
        Err(error) => {
            tracing::warn!(%error, file = %file.path().display(), "could not read a file of the repository");
            let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, "the repository cannot be read at the moment\n");
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("30"));
            response
        }
    }
}

/// Opens a file and finds its validators. Blocking.
fn open(state: &State, name: &RepoFile, coding: Coding, now_seconds: i64) -> io::Result<Opened> {
    let file = state.root.open(name)?;
    let attributes = file.metadata()?;
    let len = attributes.len();
    let in_memory = match name {
        RepoFile::Target { .. } => None,
        // Longer metadata is taken by no client; its bytes are still nobody's secret.
        RepoFile::Metadata { .. } | RepoFile::Timestamp | RepoFile::Log { .. } => {
            usize::try_from(len).ok().filter(|_| len <= MAX_IN_MEMORY)
        }
    };
    let Some(in_memory) = in_memory else {
        let tag = match name {
            RepoFile::Target { sha256, .. } => sha256.to_string(),
            RepoFile::Metadata { stem } => format!("{stem}-{len}"),
            RepoFile::Timestamp => format!("timestamp-{len}-{}-{}", attributes.mtime(), attributes.mtime_nsec()),
            RepoFile::Log { path } => {
                let name = path.replace('/', "-");
                format!("{name}-{len}-{}-{}", attributes.mtime(), attributes.mtime_nsec())
            }
        };
        let validators = validators(name, &tag, &attributes, now_seconds);
        return Ok(Opened { content: Content::File(file), len, coding: Coding::Identity, validators });
    };
    let bytes = body::read(&file, 0, in_memory)?;
    let sha256 = Sha256::new(sha2::Sha256::digest(&bytes).into());
    let document = Document { bytes, sha256, attributes };
    state.recent.keep(&state.root, name, &document, now_seconds);
    let compressed = state.compressed.get(&document.bytes, sha256, coding);
    Ok(represent(name, &document, compressed, coding, now_seconds))
}

/// A metadata file in the form that goes out.
fn represent(
    name: &RepoFile,
    document: &Document,
    compressed: Option<Bytes>,
    coding: Coding,
    now_seconds: i64,
) -> Opened {
    let tag = match name {
        RepoFile::Metadata { stem } => format!("{stem}-{}", document.bytes.len()),
        RepoFile::Timestamp | RepoFile::Log { .. } | RepoFile::Target { .. } => document.sha256.to_string(),
    };
    let mut validators = validators(name, &tag, &document.attributes, now_seconds);
    let (bytes, coding) = match (compressed, coding.name()) {
        (Some(compressed), Some(name)) => {
            validators.tag = validators.tag.coded(name);
            (compressed, coding)
        }
        _ => (document.bytes.clone(), Coding::Identity),
    };
    Opened { len: bytes.len() as u64, content: Content::Bytes(bytes), coding, validators }
}

fn validators(name: &RepoFile, tag: &str, attributes: &Metadata, now_seconds: i64) -> Validators {
    // A time in the future (a wrong clock somewhere) must not be sent: RFC 9110, section 8.8.2.1.
    let modified = u64::try_from(attributes.mtime().min(now_seconds)).unwrap_or(0);
    Validators {
        tag: Tag::new(tag),
        modified: SystemTime::UNIX_EPOCH + Duration::from_secs(modified),
        immutable: name.is_immutable(),
    }
}

fn answer(request: &HttpRequest, state: &State, file: &RepoFile, opened: Opened) -> HttpResponse {
    let headers = request.headers();
    let verdict = opened.validators.decide(headers);
    if verdict == Verdict::Failed {
        return plain(StatusCode::PRECONDITION_FAILED, "the file is not the one that was asked for\n");
    }
    let mut response = HttpResponse::Ok();
    describe(&mut response, file, &opened);
    if let RepoFile::Target { path, sha256 } = file {
        for link in state.answers.links(&path.consistent(sha256)) {
            response.append_header((header::LINK, link));
        }
    }
    if verdict == Verdict::NotModified {
        return response.status(StatusCode::NOT_MODIFIED).body(());
    }
    response.insert_header((header::CONTENT_TYPE, content_type(file)));
    if let Some(coding) = opened.coding.name() {
        response.insert_header((header::CONTENT_ENCODING, coding));
    }
    if *request.method() == Method::HEAD {
        // Range is defined for GET alone: RFC 9110, section 14.2.
        return response.body(BoxBody::new(HeadBody(opened.len)));
    }
    let mut ranges = headers.get_all(header::RANGE);
    let wanted = match (ranges.next(), ranges.next()) {
        (Some(range), None) if opened.validators.range_applies(headers) => {
            range.to_str().map_or(Wanted::Whole, |range| Wanted::parse(range, opened.len))
        }
        _ => Wanted::Whole,
    };
    if let (RepoFile::Target { sha256, .. }, Wanted::Whole | Wanted::Part { start: 0, .. }) = (file, wanted) {
        state.downloads.begin(*sha256);
    }
    match wanted {
        Wanted::Whole => send(response, opened.content, 0, opened.len),
        Wanted::Part { start, last } => {
            response.status(StatusCode::PARTIAL_CONTENT);
            response.insert_header((header::CONTENT_RANGE, format!("bytes {start}-{last}/{}", opened.len)));
            send(response, opened.content, start, last - start + 1)
        }
        Wanted::Unsatisfiable => {
            let mut response = plain(StatusCode::RANGE_NOT_SATISFIABLE, "the file has no such bytes\n");
            if let Ok(range) = header::HeaderValue::from_str(&format!("bytes */{}", opened.len)) {
                response.headers_mut().insert(header::CONTENT_RANGE, range);
            }
            response
        }
    }
}

/// The fields that 200, 206 and 304 share.
fn describe(response: &mut HttpResponseBuilder, file: &RepoFile, opened: &Opened) {
    let caching = if opened.validators.immutable { IMMUTABLE } else { SHORT };
    response
        .insert_header((header::ETAG, opened.validators.tag.as_str()))
        .insert_header((header::LAST_MODIFIED, HttpDate::from(opened.validators.modified)))
        .insert_header((header::CACHE_CONTROL, caching))
        .insert_header((header::ACCEPT_RANGES, "bytes"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"));
    if !matches!(file, RepoFile::Target { .. }) {
        response.insert_header((header::VARY, "Accept-Encoding"));
    }
}

fn send(mut response: HttpResponseBuilder, content: Content, start: u64, len: u64) -> HttpResponse {
    match content {
        Content::File(file) => response.body(BoxBody::new(FileBody::new(file, start, len))),
        Content::Bytes(bytes) => {
            // Both ends lie inside: `Wanted::parse` was given the length of these very bytes.
            let part = usize::try_from(start).ok().zip(usize::try_from(start + len).ok());
            response.body(part.map_or_else(Bytes::new, |(start, end)| bytes.slice(start..end)).boxed())
        }
    }
}

fn content_type(file: &RepoFile) -> &'static str {
    match file {
        RepoFile::Timestamp | RepoFile::Metadata { .. } => "application/json",
        RepoFile::Log { path } if path.starts_with("tile/") => "application/octet-stream",
        RepoFile::Log { .. } => "text/plain; charset=utf-8",
        RepoFile::Target { path, .. } => match path.file().rsplit_once('.') {
            Some((_, "zip")) => "application/zip",
            Some((_, "json")) => "application/json",
            Some((_, "txt")) => "text/plain; charset=utf-8",
            _ => "application/octet-stream",
        },
    }
}
