//! A proxy that keeps what clients send, byte for byte, and one that breaks.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// Listens on loopback, passes everything on to one server, and keeps each connection's bytes from the client.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    up: AtomicU64,
    down: AtomicU64,
}

impl Recorder {
    /// Starts a recorder in front of `upstream`.
    ///
    /// # Panics
    /// If loopback cannot be listened on.
    pub fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let sent: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let counts: Arc<Counts> = Arc::default();
        let (kept, counted) = (Arc::clone(&sent), Arc::clone(&counts));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(upstream) else { continue };
                let number = {
                    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    kept.push(Vec::new());
                    kept.len() - 1
                };
                let (Ok(back_from), Ok(back_to)) = (server.try_clone(), client.try_clone()) else { continue };
                let counts = Arc::clone(&counted);
                thread::spawn(move || {
                    pump(back_from, back_to, |bytes| {
                        counts.down.fetch_add(bytes.len() as u64, Ordering::SeqCst);
                    });
                });
                let (kept, counts) = (Arc::clone(&kept), Arc::clone(&counted));
                thread::spawn(move || {
                    pump(client, server, |bytes| {
                        counts.up.fetch_add(bytes.len() as u64, Ordering::SeqCst);
                        kept.lock().unwrap_or_else(PoisonError::into_inner)[number].extend_from_slice(bytes);
                    });
                });
            }
        });
        Self { address, sent, counts }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that clients sent and received so far, heads and bodies.
    pub fn counts(&self) -> (u64, u64) {
        (self.counts.up.load(Ordering::SeqCst), self.counts.down.load(Ordering::SeqCst))
    }

    /// What clients sent since the last call, one entry for each connection that sent anything.
    pub fn take(&self) -> Vec<Vec<u8>> {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        // Connections that are still open go on at their place, so the entries stay and only their bytes are taken.
        sent.iter_mut().map(std::mem::take).filter(|bytes| !bytes.is_empty()).collect()
    }
}

/// Listens on loopback, passes everything on to one server, and breaks each connection after so many bytes from the client.
#[derive(Debug)]
pub struct Cutter {
    address: SocketAddr,
    cuts: Arc<AtomicU64>,
}

impl Cutter {
    /// Starts one in front of `upstream`.
    ///
    /// # Panics
    /// If loopback cannot be listened on.
    pub fn start(upstream: SocketAddr, after: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let cuts: Arc<AtomicU64> = Arc::default();
        let counted = Arc::clone(&cuts);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(upstream) else { continue };
                let (Ok(back_from), Ok(back_to)) = (server.try_clone(), client.try_clone()) else { continue };
                thread::spawn(move || pump(back_from, back_to, |_| {}));
                let cuts = Arc::clone(&counted);
                thread::spawn(move || {
                    let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else { return };
                    let mut left = after;
                    pump(client, server, move |bytes| {
                        left = left.saturating_sub(bytes.len() as u64);
                        if left == 0 {
                            cuts.fetch_add(1, Ordering::SeqCst);
                            drop(from.shutdown(Shutdown::Both));
                            drop(to.shutdown(Shutdown::Both));
                        }
                    });
                });
            }
        });
        Self { address, cuts }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often a connection was broken.
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::SeqCst)
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, mut keep: impl FnMut(&[u8])) {
    let mut buffer = [0; 16 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(len) => {
                keep(&buffer[..len]);
                if to.write_all(&buffer[..len]).is_err() {
                    break;
                }
            }
        }
    }
    // Half closed, so that an answer that is still on its way arrives.
    drop(to.shutdown(Shutdown::Write));
    drop(from.shutdown(Shutdown::Read));
}
