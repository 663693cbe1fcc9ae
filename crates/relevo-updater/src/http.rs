//! One GET at a time, with every length checked.
//!
//! What goes out is the same from every phone: method, path, `Host`, `User-Agent: relevo-updater`, `Accept: */*`, for
//! metadata `Accept-Encoding: gzip`, and a `Range`. No version, language, cookie, proxy or environment variable adds to it.

use std::{
    io::{self, Read},
    ops::Range,
    time::{Duration, Instant},
};

use ureq::{
    Agent, Body, BodyReader,
    http::{HeaderMap, Response, Uri, header},
};

use crate::{
    config::NetworkConfig,
    stop::{Hooked, Stop},
};

/// The same for all builds, so that it tells a server nothing.
pub const USER_AGENT: &str = "relevo-updater";

/// How many redirects we follow; a mirror that moved needs one, and http to https another.
const MAX_REDIRECTS: u32 = 3;
/// Buffers for answers and requests, in bytes; with two requests at a time they are most of our memory.
const INPUT_BUFFER: usize = 32 * 1024;
const OUTPUT_BUFFER: usize = 4 * 1024;
/// Bytes that gzip adds at most to what it cannot compress, for the sizes of metadata.
const GZIP_FRAME: u64 = 1024;
/// Slower than this, in bytes a second, an answer is given up: it would hold a request for days.
const MIN_RATE: u64 = 512;

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The connection, the name, TLS or HTTP itself failed.
    #[error("could not fetch {url}")]
    Transport {
        /// What was asked for.
        url: String,
        /// What went wrong.
        source: Box<ureq::Error>,
    },
    /// The body broke off or stood still.
    #[error("the answer to {url} broke off after {received} bytes")]
    Body {
        /// What was asked for.
        url: String,
        /// Bytes that came.
        received: u64,
        /// What went wrong.
        source: io::Error,
    },
    /// An answer of another status.
    #[error("{url} answered {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// More bytes than there may be.
    #[error("{url} is longer than {limit} bytes")]
    TooLong {
        /// What was asked for.
        url: String,
        /// The limit, in bytes.
        limit: u64,
    },
    /// Another number of bytes than there must be.
    #[error("{url} has {actual} bytes, expected {expected}")]
    Length {
        /// What was asked for.
        url: String,
        /// What metadata says, in bytes.
        expected: u64,
        /// What the server says or sent, in bytes.
        actual: u64,
    },
    /// A partial answer of another range.
    #[error("{url} answered with range {found:?}, expected {expected:?}")]
    Range {
        /// What was asked for.
        url: String,
        /// The `Content-Range` that belongs there.
        expected: String,
        /// What the server sent.
        found: String,
    },
    /// A redirect to a place that is not allowed.
    #[error("{url} redirects to {to:?}, which is not allowed")]
    Redirect {
        /// What was asked for.
        url: String,
        /// Where it would lead.
        to: String,
    },
    /// A compressed body that cannot be read.
    #[error("the answer to {url} is no gzip, although it says so")]
    Gzip {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A body that is compressed although nobody asked for that.
    #[error("{url} answered in content encoding {encoding:?}")]
    Encoded {
        /// What was asked for.
        url: String,
        /// The encoding.
        encoding: String,
    },
}

impl FetchError {
    /// Whether the same request to the same mirror can succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Transport { source, .. } => !matches!(**source, ureq::Error::BadUri(_) | ureq::Error::Http(_)),
            Self::Body { .. } => true,
            Self::Status { status, .. } => *status >= 500 || matches!(status, 408 | 425 | 429),
            _ => false,
        }
    }
}

/// Asks servers.
#[derive(Debug)]
pub struct Http {
    agent: Agent,
    redirect_hosts: Vec<String>,
    stall_timeout: Duration,
    min_rate: u64,
    _interrupt: Hooked,
}

/// An answer whose body has not been read.
pub struct Answer {
    url: String,
    /// 200 or 206.
    pub status: u16,
    /// The length that the server claims, in bytes.
    pub content_length: Option<u64>,
    /// The `Content-Range` of a 206.
    pub content_range: Option<String>,
    /// Time until the answer began.
    pub latency: Duration,
    /// Whether the body is compressed by gzip, which was asked for.
    gzip: bool,
    body: BodyReader<'static>,
    received: u64,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("url", &self.url).field("status", &self.status).finish_non_exhaustive()
    }
}

impl Http {
    /// Sets up the sockets; `stop` interrupts them.
    pub fn new(config: &NetworkConfig, stop: &Stop) -> Self {
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // ureq would take a proxy from the environment otherwise.
            .proxy(None)
            .user_agent(USER_AGENT)
            .accept("*/*")
            .accept_encoding("")
            .timeout_resolve(Some(config.connect_timeout))
            .timeout_connect(Some(config.connect_timeout))
            .timeout_send_request(Some(config.answer_timeout))
            .timeout_recv_response(Some(config.answer_timeout))
            .timeout_per_read(Some(config.stall_timeout))
            .timeout_per_write(Some(config.stall_timeout))
            .max_response_header_size(16 * 1024)
            .input_buffer_size(INPUT_BUFFER)
            .output_buffer_size(OUTPUT_BUFFER)
            .max_idle_connections(config.parallel + 1)
            .max_idle_connections_per_host(config.parallel)
            .build()
            .into();
        let interrupted = agent.clone();
        let interrupt = stop.on_stop(move || interrupted.clone().shutdown());
        // Our own limit must not look like a slow mirror.
        let own = config.rate_limit.map_or(u64::MAX, |limit| limit.get() / 8 / config.parallel as u64);
        Self {
            agent,
            redirect_hosts: config.redirect_hosts.clone(),
            stall_timeout: config.stall_timeout,
            min_rate: MIN_RATE.min(own).max(1),
            _interrupt: interrupt,
        }
    }

    /// Asks for a file or a range of it; an answer has status 200 or, to a range, 206. `expected` is the largest number
    /// of bytes that the body may have; it bounds the time that it may take.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn get(&self, url: &str, range: Option<Range<u64>>, expected: u64) -> Result<Answer, FetchError> {
        self.ask(url, range, expected, false)
    }

    fn ask(&self, url: &str, range: Option<Range<u64>>, expected: u64, gzip: bool) -> Result<Answer, FetchError> {
        let transport = |source| FetchError::Transport { url: url.to_owned(), source: Box::new(source) };
        let start = Instant::now();
        let mut at = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let time = self.stall_timeout + Duration::from_secs(expected / self.min_rate);
            let mut request = self.agent.get(&at).config().timeout_recv_body(Some(time)).build();
            if let Some(range) = &range {
                request =
                    request.header(header::RANGE, format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
            }
            if gzip {
                request = request.header(header::ACCEPT_ENCODING, "gzip");
            }
            let response = request.call().map_err(transport)?;
            match response.status().as_u16() {
                200 => return Answer::new(url, response, start, gzip),
                206 if range.is_some() => return Answer::new(url, response, start, gzip),
                301 | 302 | 303 | 307 | 308 => at = self.redirect(url, &at, response.headers())?,
                status => return Err(FetchError::Status { url: url.to_owned(), status }),
            }
        }
        Err(FetchError::Redirect { url: url.to_owned(), to: at })
    }

    /// Fetches a whole file of at most `limit` bytes.
    ///
    /// # Errors
    /// [`FetchError`]; [`FetchError::TooLong`] before more than `limit` bytes are in memory.
    pub fn get_whole(&self, url: &str, limit: u64) -> Result<(Vec<u8>, Duration), FetchError> {
        let answer = self.get(url, None, limit)?;
        let latency = answer.latency;
        Ok((read_whole(answer, url, limit)?, latency))
    }

    /// Fetches a whole file of at most `limit` bytes, compressed on the way if the server can.
    ///
    /// # Errors
    /// [`FetchError`]; [`FetchError::TooLong`] before more than `limit` bytes are in memory, and [`FetchError::Gzip`].
    pub fn get_compressible(&self, url: &str, limit: u64) -> Result<(Vec<u8>, Duration), FetchError> {
        let answer = self.ask(url, None, limit, true)?;
        let (latency, gzip) = (answer.latency, answer.gzip);
        // What cannot be compressed grows by its head and end.
        let body = read_whole(answer, url, if gzip { limit.saturating_add(GZIP_FRAME) } else { limit })?;
        Ok((if gzip { inflate(&body, url, limit)? } else { body }, latency))
    }
    fn redirect(&self, url: &str, from: &str, headers: &HeaderMap) -> Result<String, FetchError> {
        let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok()).unwrap_or("");
        let refused = || FetchError::Redirect { url: url.to_owned(), to: location.chars().take(200).collect() };
        let from: Uri = from.parse().map_err(|_| refused())?;
        let authority = from.authority().ok_or_else(refused)?;
        let scheme = from.scheme_str().ok_or_else(refused)?;
        if location.starts_with('/') && !location.starts_with("//") {
            return Ok(format!("{scheme}://{authority}{location}"));
        }
        let to: Uri = location.parse().map_err(|_| refused())?;
        let to_authority = to.authority().filter(|to| !to.as_str().contains('@')).ok_or_else(refused)?;
        let same_host = to_authority.as_str().eq_ignore_ascii_case(authority.as_str());
        let upgrade = to_authority.host().eq_ignore_ascii_case(authority.host()) && to.scheme_str() == Some("https");
        let allowed = self.redirect_hosts.iter().any(|host| host.eq_ignore_ascii_case(to_authority.host()));
        let secure = match to.scheme_str() {
            Some("https") => true,
            Some("http") => scheme == "http",
            _ => false,
        };
        if secure && (same_host || upgrade || allowed) { Ok(location.to_owned()) } else { Err(refused()) }
    }
}

impl Answer {
    fn new(url: &str, response: Response<Body>, start: Instant, asked_gzip: bool) -> Result<Self, FetchError> {
        let headers = response.headers();
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let encoding = text(header::CONTENT_ENCODING).filter(|encoding| encoding != "identity");
        let gzip = asked_gzip && encoding.as_deref() == Some("gzip");
        if let Some(encoding) = encoding.filter(|_| !gzip) {
            return Err(FetchError::Encoded { url: url.to_owned(), encoding });
        }
        let content_range = text(header::CONTENT_RANGE);
        Ok(Self {
            url: url.to_owned(),
            status: response.status().as_u16(),
            content_length: response.body().content_length(),
            content_range,
            latency: start.elapsed(),
            gzip,
            body: response.into_body().into_reader(),
            received: 0,
        })
    }

    /// Checks what the answer claims about itself against the range and length that it must have; says at which offset
    /// of the file it starts.
    ///
    /// # Errors
    /// - [`FetchError::Range`] if a 206 is about another range or a file of another length.
    /// - [`FetchError::Length`] if the server promises another number of bytes.
    pub fn check_range(&self, range: &Range<u64>, length: u64) -> Result<u64, FetchError> {
        let (start, expected) = match self.status {
            206 => (range.start, range.end - range.start),
            _ => (0, length),
        };
        if self.status == 206 {
            let wanted = format!("bytes {}-{}/{length}", range.start, range.end - 1);
            let found = self.content_range.as_deref().unwrap_or("");
            if found != wanted {
                let found = found.chars().take(80).collect();
                return Err(FetchError::Range { url: self.url.clone(), expected: wanted, found });
            }
        }
        match self.content_length {
            Some(actual) if actual != expected => Err(FetchError::Length { url: self.url.clone(), expected, actual }),
            _ => Ok(start),
        }
    }

    /// Reads some bytes; 0 at the end.
    ///
    /// # Errors
    /// [`FetchError::Body`].
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, FetchError> {
        loop {
            match self.body.read(buffer) {
                Ok(len) => {
                    self.received += len as u64;
                    return Ok(len);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(FetchError::Body { url: self.url.clone(), received: self.received, source }),
            }
        }
    }

    /// What was asked for.
    pub fn url(&self) -> &str {
        &self.url
    }
}

fn read_whole(mut answer: Answer, url: &str, limit: u64) -> Result<Vec<u8>, FetchError> {
    let too_long = || FetchError::TooLong { url: url.to_owned(), limit };
    if answer.content_length.unwrap_or(0) > limit {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let len = answer.read(&mut buffer)?;
        if len == 0 {
            return Ok(bytes);
        }
        if bytes.len() as u64 + len as u64 > limit {
            return Err(too_long());
        }
        bytes.extend_from_slice(&buffer[..len]);
    }
}

/// Decompresses, and not one byte more than the limit.
fn inflate(body: &[u8], url: &str, limit: u64) -> Result<Vec<u8>, FetchError> {
    let mut bytes = Vec::new();
    let failed = |source| FetchError::Gzip { url: url.to_owned(), source };
    flate2::read::GzDecoder::new(body).take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(FetchError::TooLong { url: url.to_owned(), limit });
    }
    Ok(bytes)
}
