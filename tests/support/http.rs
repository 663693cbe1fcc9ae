//! A small HTTP/1.1 server of static files that misbehaves as a test tells it to.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// One request as it came in.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET` or `HEAD`.
    pub method: String,
    /// The path, as sent.
    pub path: String,
    /// The header lines, as sent.
    pub headers: Vec<String>,
    /// First byte asked for, and the last one, if the request has a range.
    pub range: Option<(u64, Option<u64>)>,
}

/// What goes wrong with one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// This status, with no body.
    Status(u16),
    /// The connection ends after this many bytes of the body.
    CutAfter(u64),
    /// The byte at this position of the file is another one.
    FlipAt(u64),
    /// Right head, but the bytes of another place of the file.
    OtherRange,
    /// The body is this many bytes longer than the file, and the head says so.
    Longer(u64),
    /// The body ends this many bytes early, and the head says so.
    Shorter(u64),
    /// No length, and a body that goes on until the client hangs up.
    Endless,
    /// The whole file with status 200, although a range was asked for.
    IgnoreRange,
    /// A redirect to this address.
    Redirect(String),
}

type Plan = dyn Fn(&Request) -> Fault + Send + Sync;

/// A server of the files below one directory.
#[derive(Clone)]
pub struct FileServer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    body_bytes: Arc<AtomicU64>,
}

impl FileServer {
    /// Serves `/repo/…` from `directory`, with no fault.
    pub fn start(directory: &Path) -> Self {
        Self::with_faults(directory, |_| Fault::None)
    }

    /// Serves `/repo/…` from `directory`; `plan` decides for each request what goes wrong.
    ///
    /// # Panics
    /// If loopback cannot be listened on.
    pub fn with_faults(directory: &Path, plan: impl Fn(&Request) -> Fault + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let server = Self { address, requests: Arc::default(), body_bytes: Arc::default() };
        let (shared, directory, plan) = (server.clone(), directory.to_owned(), Arc::new(plan));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, directory, plan) = (shared.clone(), directory.clone(), Arc::clone(&plan));
                thread::spawn(move || drop(shared.serve(&stream, &directory, &*plan)));
            }
        });
        server
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the repository, as a phone's configuration has it.
    pub fn repository(&self) -> String {
        format!("http://{}/repo/", self.address)
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes of bodies sent so far.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes.load(Ordering::SeqCst)
    }

    fn serve(&self, stream: &TcpStream, directory: &Path, plan: &Plan) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        while let Some(request) = read_request(&mut reader)? {
            self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
            if !self.answer(stream, &request, directory, &plan(&request))? {
                break;
            }
        }
        drop(stream.shutdown(Shutdown::Both));
        Ok(())
    }

    /// Answers one request; false ends the connection.
    fn answer(
        &self,
        mut stream: &TcpStream,
        request: &Request,
        directory: &Path,
        fault: &Fault,
    ) -> std::io::Result<bool> {
        if let Fault::Status(status) = fault {
            write!(stream, "HTTP/1.1 {status} Fault\r\nContent-Length: 0\r\n\r\n")?;
            return Ok(true);
        }
        if let Fault::Redirect(to) = fault {
            write!(stream, "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")?;
            return Ok(true);
        }
        let Some(mut file) = open(directory, &request.path) else {
            write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            return Ok(true);
        };
        let len = file.metadata()?.len();
        if *fault == Fault::Endless {
            write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            let junk = [b' '; 16 * 1024];
            loop {
                stream.write_all(&junk)?;
                self.body_bytes.fetch_add(junk.len() as u64, Ordering::SeqCst);
            }
        }
        let range = request.range.filter(|_| *fault != Fault::IgnoreRange);
        let (start, end) = match range {
            Some((start, _)) if start >= len => {
                write!(stream, "HTTP/1.1 416 Range\r\nContent-Range: bytes */{len}\r\nContent-Length: 0\r\n\r\n")?;
                return Ok(true);
            }
            Some((start, last)) => (start, last.map_or(len, |last| len.min(last.saturating_add(1)))),
            None => (0, len),
        };
        let from = if *fault == Fault::OtherRange && start > 0 { 0 } else { start };
        file.seek(SeekFrom::Start(from))?;
        let mut body = Vec::new();
        file.take(end - start).read_to_end(&mut body)?;
        match *fault {
            Fault::FlipAt(at) if (start..end).contains(&at) => {
                let at = usize::try_from(at - start).expect("inside of the body");
                body[at] ^= 1;
            }
            Fault::Longer(more) => body.resize(body.len() + usize::try_from(more).expect("small"), b'x'),
            Fault::Shorter(less) => body.truncate(body.len().saturating_sub(usize::try_from(less).expect("small"))),
            Fault::OtherRange if from == start => body.iter_mut().for_each(|byte| *byte = !*byte),
            _ => {}
        }
        let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nAccept-Ranges: bytes\r\n", body.len())?;
        if range.is_some() {
            let last = (start + body.len() as u64).saturating_sub(1);
            write!(stream, "Content-Range: bytes {start}-{last}/{len}\r\n")?;
        }
        write!(stream, "\r\n")?;
        if request.method == "HEAD" {
            return Ok(true);
        }
        let cut = match *fault {
            Fault::CutAfter(cut) => body.len().min(usize::try_from(cut).unwrap_or(usize::MAX)),
            _ => body.len(),
        };
        // In small pieces, so that what was sent is known while it is being sent.
        for piece in body[..cut].chunks(16 * 1024) {
            stream.write_all(piece)?;
            self.body_bytes.fetch_add(piece.len() as u64, Ordering::SeqCst);
        }
        Ok(cut == body.len())
    }
}

fn open(directory: &Path, path: &str) -> Option<fs::File> {
    let inside = path.strip_prefix("/repo/")?;
    if inside.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return None;
    }
    let file: PathBuf = directory.join(inside);
    file.is_file().then(|| fs::File::open(file).ok()).flatten()
}

fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let mut words = lines.first().map(String::as_str).unwrap_or_default().split(' ');
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let headers = lines.split_off(1.min(lines.len()));
    let range = headers.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let (first, last) = value.trim().strip_prefix("bytes=")?.split_once('-')?;
        let first = name.eq_ignore_ascii_case("range").then(|| first.parse().ok())??;
        Some((first, last.parse().ok()))
    });
    Ok(Some(Request { method, path, headers, range }))
}
