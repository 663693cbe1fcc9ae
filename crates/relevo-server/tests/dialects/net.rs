//! A phone's network: names of hosts lead to servers on loopback, behind what would be their TLS.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use crate::support::{PATIENCE, Response};

/// Hosts that can be reached.
#[derive(Debug, Clone, Default)]
pub(crate) struct Network {
    hosts: BTreeMap<String, SocketAddr>,
}

/// Nobody answers: what Java calls an `IOException`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreachable;

impl Network {
    /// One host.
    pub(crate) fn of(host: &str, address: SocketAddr) -> Self {
        Self { hosts: BTreeMap::from([(host.to_owned(), address)]) }
    }

    /// One more.
    pub(crate) fn and(mut self, host: &str, address: SocketAddr) -> Self {
        self.hosts.insert(host.to_owned(), address);
        self
    }

    /// GET without following redirects.
    pub(crate) fn get(&self, url: &str, headers: &[(&str, &str)]) -> Result<Response, Unreachable> {
        self.get_at_most(url, headers, u64::MAX)
    }

    /// GET on a connection that breaks after so many bytes.
    pub(crate) fn get_at_most(&self, url: &str, headers: &[(&str, &str)], most: u64) -> Result<Response, Unreachable> {
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).expect("a URL");
        let (host, path) = rest.split_once('/').expect("a path");
        let address = self.hosts.get(host).ok_or(Unreachable)?;
        let mut request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        let mut stream = TcpStream::connect(address).map_err(|_| Unreachable)?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        stream.write_all(request.as_bytes()).map_err(|_| Unreachable)?;
        let mut bytes = Vec::new();
        stream.take(most).read_to_end(&mut bytes).map_err(|_| Unreachable)?;
        Ok(Response::parse(&bytes))
    }

    /// GET that follows redirects within the same scheme, as `HttpURLConnection` does unless it is told otherwise.
    pub(crate) fn follow(&self, url: &str, headers: &[(&str, &str)]) -> Result<Response, Unreachable> {
        let mut url = url.to_owned();
        for _ in 0..20 {
            let response = self.get(&url, headers)?;
            let location = response.header("location").to_owned();
            if !(300..400).contains(&response.status) || location.split(':').next() != url.split(':').next() {
                return Ok(response);
            }
            url = location;
        }
        Err(Unreachable)
    }
}

/// Retries that update_engine has for one attempt.
const MAX_RETRIES: u32 = 20;

/// update_engine as an HTTP client: a payload at an offset of a file, over connections that break after each kilobyte.
///
/// # Source
/// `LineageOS/android_system_update_engine`, `libcurl_http_fetcher.cc`: redirects within the scheme, ten at most; a range
/// has to be answered with 206; a first answer that is an error ends it; what is missing is asked for by range again.
pub(crate) fn update_engine(network: &Network, url: &str, offset: u64, size: u64) -> Vec<u8> {
    let mut payload = Vec::new();
    for retry in 0..=MAX_RETRIES {
        let (first, last) = (offset + payload.len() as u64, offset + size - 1);
        let range = format!("bytes={first}-{last}");
        let response = network.get_at_most(url, &[("Range", &range)], 1_024).expect("the server answers");
        assert_eq!(response.status, 206, "retry {retry} of {url}");
        payload.extend_from_slice(&response.body);
        if payload.len() as u64 == size {
            return payload;
        }
    }
    panic!("update_engine gives up after {MAX_RETRIES} retries");
}
