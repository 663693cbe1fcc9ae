//! Talking to an origin: signed requests, tried again as long as that can help.

use std::{
    io::{self, Read},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use relevo_meta::keys::PrivateKey;
use relevo_types::ByteLen;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::Digest as _;
use ureq::{
    Agent, SendBody,
    http::{Uri, header},
};

use super::signature;
use crate::session::Session;

/// Says who asks, and nothing else about the machine.
const USER_AGENT: &str = "relevo";

/// Longest answer that is read, in bytes: runs of missing chunks of the largest publication.
const MAX_ANSWER: u64 = 16 << 20;

/// Slower than this, in bytes a second, a request is given up and tried again.
const MIN_RATE: u64 = 256;

/// The first pause before another try, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// An origin, and who speaks to it.
pub(crate) struct Origin<'a> {
    stop: &'a AtomicBool,
    now: Timestamp,
    agent: Agent,
    base: String,
    authority: String,
    key: &'a PrivateKey,
    began: Instant,
    /// Seconds that the origin's clock is ahead of ours.
    ahead: AtomicI64,
    corrected: AtomicBool,
    /// Counts what is used once; together with the word it was never there before.
    count: AtomicU64,
    word: [u8; 16],
    limit: Limiter,
    /// Bytes of bodies that were handed to the network.
    sent: AtomicU64,
    /// Tries of a request that the network broke.
    retries: usize,
}

/// Why a push came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    /// The address of the origin is none.
    #[error("{url} is no address of an origin; expected https://HOST/")]
    Url {
        /// What was given.
        url: String,
    },
    /// The network, again and again.
    #[error("could not reach {url}, after {tries} tries")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// How often.
        tries: usize,
        /// What went wrong the last time.
        source: Box<ureq::Error>,
    },
    /// The origin says no.
    #[error("the origin refused: {message}")]
    Refused {
        /// A word for programs.
        code: String,
        /// The origin's own words.
        message: String,
    },
    /// Another publication came in between.
    #[error("the role {role} was published by somebody else in between; its next version is {next}")]
    Version {
        /// The role.
        role: String,
        /// The version that it takes next.
        next: u64,
    },
    /// An answer that no origin gives.
    #[error("{url} answered {status}, which no origin does")]
    Answer {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
    },
    /// What was sent did not arrive, although the origin said so.
    #[error("the origin lost what was sent: {bytes} bytes are missing again")]
    Lost {
        /// How many.
        bytes: u64,
    },
    /// A file could not be read.
    #[error("could not read {}", path.display())]
    Read {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A request could not be signed.
    #[error("could not sign the request")]
    Sign(#[source] relevo_meta::http_signature::SignatureError),
    /// The user asked to stop.
    #[error("stopped; run it again and it goes on where it was")]
    Stopped,
}

impl PushError {
    /// Whether it was the line, or an origin that could not just now.
    pub(crate) fn is_break(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { code, .. } => matches!(code.as_str(), "slow" | "busy" | "unavailable" | "disk" | "length"),
            Self::Answer { status, .. } => *status >= 500,
            _ => false,
        }
    }
}

impl<'a> Origin<'a> {
    /// An origin by its address.
    pub(crate) fn new(
        session: &Session<'a>,
        url: &str,
        key: &'a PrivateKey,
        limit: Option<ByteLen>,
        parallel: usize,
        retries: usize,
    ) -> anyhow::Result<Self> {
        let wrong = || PushError::Url { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let known = matches!(uri.scheme_str(), Some("https" | "http")) && uri.query().is_none();
        let authority =
            uri.authority().filter(|authority| known && !authority.as_str().contains('@')).ok_or_else(wrong)?;
        if !matches!(uri.path(), "" | "/") {
            return Err(wrong().into());
        }
        // As ureq writes it into `Host`: without the port that the scheme has anyway.
        let usual =
            matches!((uri.scheme_str(), authority.port_u16()), (Some("https"), Some(443)) | (Some("http"), Some(80)));
        let host = if usual { authority.host() } else { authority.as_str() };
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(USER_AGENT)
            .accept("*/*")
            .timeout_resolve(Some(Duration::from_secs(30)))
            .timeout_connect(Some(Duration::from_secs(30)))
            // An origin hashes gigabytes before it answers a commit.
            .timeout_recv_response(Some(Duration::from_secs(600)))
            .timeout_per_write(Some(Duration::from_secs(120)))
            .max_idle_connections(parallel + 1)
            .max_idle_connections_per_host(parallel + 1)
            .build()
            .into();
        Ok(Self {
            stop: session.stop,
            now: session.now,
            agent,
            base: format!("{}://{authority}", uri.scheme_str().unwrap_or_default()),
            authority: host.to_ascii_lowercase(),
            key,
            began: Instant::now(),
            ahead: AtomicI64::new(0),
            corrected: AtomicBool::new(false),
            count: AtomicU64::new(0),
            word: *session.random()?,
            limit: Limiter::new(limit),
            sent: AtomicU64::new(0),
            retries,
        })
    }

    /// A name for a directory about this origin.
    pub(crate) fn dir_name(&self) -> String {
        self.authority.replace([':', '[', ']'], "_")
    }

    /// Asks who we are, which costs little and says early if nothing else will do.
    pub(crate) fn greet(&self) -> Result<(), PushError> {
        self.call("GET", "account", &[]).map(drop)
    }

    /// Sends a body, and reads the answer.
    pub(crate) fn post<T: DeserializeOwned>(&self, path: &str, body: &[u8]) -> Result<T, PushError> {
        let answer = self.call("POST", path, body)?;
        let none = |_| PushError::Answer { url: self.url(path), status: 200 };
        serde_json::from_slice(&answer).map_err(none)
    }

    /// Sends a body that has no answer, and does not try again if the line breaks.
    pub(crate) fn put_once(&self, path: &str, body: &[u8]) -> Result<(), PushError> {
        self.call_times("PUT", path, body, 0).map(drop)
    }

    /// Waits before the next try after so many in vain; ends with `broke` if there were too many.
    pub(crate) fn wait(&self, in_vain: usize, broke: PushError) -> Result<(), PushError> {
        if in_vain > self.retries {
            return Err(broke);
        }
        let doublings = u32::try_from(in_vain.min(10)).unwrap_or(10);
        self.pause(self.jitter((PAUSES.0 * 2_u32.pow(doublings)).min(PAUSES.1)))
    }

    /// Reads a file of metadata; none if there is none.
    pub(crate) fn metadata(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, PushError> {
        let url = format!("{}/repo/metadata/{name}", self.base);
        let (status, bytes) =
            self.tried(&url, self.retries, || Ok(self.read(self.agent.get(&url).call()?, limit.saturating_add(1))?))?;
        match status {
            200 => Ok(Some(bytes)),
            404 => Ok(None),
            status => Err(PushError::Answer { url, status }),
        }
    }

    /// Bytes of bodies that went, those of requests that broke as well.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Whether this computer's clock was so wrong that the origin's was used.
    pub(crate) fn corrected_clock(&self) -> bool {
        self.corrected.load(Ordering::SeqCst)
    }

    /// A signed request, tried again while that can help.
    fn call(&self, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>, PushError> {
        self.call_times(method, path, body, self.retries)
    }

    fn call_times(&self, method: &str, path: &str, body: &[u8], retries: usize) -> Result<Vec<u8>, PushError> {
        let url = self.url(path);
        let mut again = 0;
        loop {
            let mut broke = false;
            let (status, answer) = self.tried(&url, retries, || {
                if broke && !body.is_empty() {
                    // An origin that refuses while a body is on its way can only break the connection, so ask first.
                    let (status, answer) = self.once("GET", "account", &[])?;
                    if (400..500).contains(&status) {
                        return Ok((status, answer));
                    }
                }
                broke = true;
                self.once(method, path, body)
            })?;
            if (200..300).contains(&status) {
                return Ok(answer);
            }
            let value: Value = serde_json::from_slice(&answer).unwrap_or_default();
            let Some(error) = value.get("error") else { return Err(PushError::Answer { url, status }) };
            let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let number = |name: &str| error.get(name).and_then(Value::as_u64);
            let code = text("code");
            match (code.as_str(), number("time"), number("next_version")) {
                // A machine may have forgotten the date; the origin says what time it is.
                ("clock", Some(time), _) if again < 2 => {
                    let time = i64::try_from(time).unwrap_or(i64::MAX);
                    self.ahead.store(time.saturating_sub(self.own_time()), Ordering::SeqCst);
                    self.corrected.store(true, Ordering::SeqCst);
                }
                ("restarted" | "replayed", ..) if again < 2 => self.pause(Duration::from_secs(1))?,
                ("version", _, Some(next)) => return Err(PushError::Version { role: text("role"), next }),
                _ => return Err(PushError::Refused { code, message: text("message") }),
            }
            again += 1;
        }
    }

    /// One try. Each has a signature of its own: a nonce counts once, and it has a time.
    fn once(&self, method: &str, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>), Failure> {
        let mut request = ureq::http::Request::builder().method(method).uri(self.url(path));
        for (name, value) in self.sign(method, path, body).map_err(|error| Failure::Final(PushError::Sign(error)))? {
            request = request.header(name, value);
        }
        if body.is_empty() && method == "GET" {
            return Ok(self.read(self.agent.run(request.body(()).map_err(ureq::Error::Http)?)?, MAX_ANSWER)?);
        }
        let time = Duration::from_secs(60 + body.len() as u64 / self.limit.slowest().min(MIN_RATE));
        let mut reader = Limited { bytes: body, limit: &self.limit, stop: self.stop, sent: &self.sent };
        let request = request.header(header::CONTENT_LENGTH, body.len());
        let request = request.body(SendBody::from_reader(&mut reader)).map_err(ureq::Error::Http)?;
        let request = self.agent.configure_request(request).timeout_send_body(Some(time)).build();
        Ok(self.read(self.agent.run(request)?, MAX_ANSWER)?)
    }

    /// Asks until there is an answer that another try would not change.
    fn tried(
        &self,
        url: &str,
        retries: usize,
        mut ask: impl FnMut() -> Result<(u16, Vec<u8>), Failure>,
    ) -> Result<(u16, Vec<u8>), PushError> {
        let mut pause = PAUSES.0;
        let mut tries = 0;
        loop {
            self.check_stop()?;
            tries += 1;
            let last = tries > retries;
            match ask() {
                Ok((status, _)) if (status >= 500 || matches!(status, 408 | 429)) && !last => {}
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Network(source)) => {
                    self.check_stop()?;
                    let broken = !matches!(*source, ureq::Error::BadUri(_) | ureq::Error::Http(_));
                    if last || !broken {
                        return Err(PushError::Unreachable { url: url.to_owned(), tries, source });
                    }
                }
            }
            self.pause(self.jitter(pause))?;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    fn read(&self, answer: ureq::http::Response<ureq::Body>, limit: u64) -> Result<(u16, Vec<u8>), ureq::Error> {
        let status = answer.status().as_u16();
        let mut bytes = Vec::new();
        let mut body = answer.into_body();
        body.as_reader().take(limit).read_to_end(&mut bytes)?;
        Ok((status, bytes))
    }

    fn sign(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Result<[(&'static str, String); 3], relevo_meta::http_signature::SignatureError> {
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        let path = format!("{PREFIX}/{path}");
        let created = self.own_time() + self.ahead.load(Ordering::SeqCst);
        let request = signature::Request { method, authority: &self.authority, path: &path, body };
        signature::sign(&request, self.key, created, &self.word, number)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{PREFIX}/{path}", self.base)
    }

    /// Seconds since 1970 on our clock.
    fn own_time(&self) -> i64 {
        let passed = i64::try_from(self.began.elapsed().as_secs()).unwrap_or(i64::MAX);
        self.now.as_second().saturating_add(passed)
    }

    /// Between half of a pause and all of it, so that many who were cut off together do not come back together.
    fn jitter(&self, pause: Duration) -> Duration {
        let count = self.count.fetch_add(1, Ordering::SeqCst);
        let digest = sha2::Sha256::new().chain_update(self.word).chain_update(count.to_le_bytes()).finalize();
        pause / 2 + pause / 512 * u32::from(digest[0])
    }

    fn pause(&self, time: Duration) -> Result<(), PushError> {
        pause(self.stop, time)
    }

    pub(crate) fn check_stop(&self) -> Result<(), PushError> {
        if self.stop.load(Ordering::Relaxed) { Err(PushError::Stopped) } else { Ok(()) }
    }
}

/// Why a try failed.
enum Failure {
    /// Another try may do better.
    Network(Box<ureq::Error>),
    /// It would end the same way.
    Final(PushError),
}

impl From<ureq::Error> for Failure {
    fn from(error: ureq::Error) -> Self {
        Self::Network(Box::new(error))
    }
}

/// Where origins take publications.
const PREFIX: &str = "/publish/v1";

/// Waits, unless the user asks to stop.
fn pause(stop: &AtomicBool, time: Duration) -> Result<(), PushError> {
    let until = Instant::now() + time;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(PushError::Stopped);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        // Nobody wakes us but the time, and now and then a look at whether to stop.
        std::thread::park_timeout(left.min(Duration::from_millis(100)));
    }
}

/// Lets so many bytes a second through, over all requests.
#[derive(Debug)]
struct Limiter {
    bytes_per_second: Option<u64>,
    /// When the bytes that were let through so far will have gone.
    free: Mutex<Instant>,
}

impl Limiter {
    fn new(limit: Option<ByteLen>) -> Self {
        Self { bytes_per_second: limit.map(|limit| limit.get().max(1)), free: Mutex::new(Instant::now()) }
    }

    /// Bytes that go at once, so that a slow limit still goes evenly.
    fn piece(&self) -> usize {
        self.bytes_per_second
            .map_or(64 << 10, |rate| usize::try_from(rate / 8).unwrap_or(usize::MAX).clamp(512, 64 << 10))
    }

    fn slowest(&self) -> u64 {
        // Several requests share it.
        self.bytes_per_second.map_or(u64::MAX, |rate| (rate / 32).max(1))
    }

    /// How long to wait before so many bytes may go.
    fn take(&self, bytes: usize) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let start = (*free).max(now);
        *free = start + Duration::from_secs_f64(bytes as f64 / rate as f64);
        start.saturating_duration_since(now)
    }
}

/// A body that goes no faster than it may, and ends when the user asks to stop.
struct Limited<'a> {
    bytes: &'a [u8],
    limit: &'a Limiter,
    stop: &'a AtomicBool,
    sent: &'a AtomicU64,
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.bytes.len().min(buffer.len()).min(self.limit.piece());
        let wait = self.limit.take(len);
        if pause(self.stop, wait).is_err() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let (now, later) = self.bytes.split_at(len);
        buffer[..len].copy_from_slice(now);
        self.bytes = later;
        self.sent.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }
}
