//! `count-wire FILE SERVER`: a proxy in front of a server that counts what passes.
//!
//! FILE holds one line, the proxy's address and the bytes sent and received so far, heads and bodies. It runs until it
//! is killed; deploy/quickstart.sh puts it between the phone and the server.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context;
use relevo_tests::proxy::Recorder;

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let (Some(file), Some(server), None) = (words.next(), words.next(), words.next()) else {
        anyhow::bail!("usage: count-wire FILE SERVER");
    };
    let (file, server): (_, SocketAddr) = (PathBuf::from(file), server.parse().context("the server is no address")?);
    let recorder = Recorder::start(server);
    let mut written = None;
    loop {
        let counts = recorder.counts();
        if written != Some(counts) {
            let fresh = file.with_extension("new");
            std::fs::write(&fresh, format!("{} {} {}\n", recorder.address(), counts.0, counts.1))
                .with_context(|| format!("could not write {}", fresh.display()))?;
            std::fs::rename(&fresh, &file).with_context(|| format!("could not write {}", file.display()))?;
            written = Some(counts);
        }
        drop(recorder.take());
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
