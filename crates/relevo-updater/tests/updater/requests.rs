//! What goes out is the same from every phone.

use std::process::Command;

use crate::support::{Phone, Recipe, Repo, Server, config_text};

/// All requests of a poll, a download and an install, each as it was sent.
fn recorded(locale: &str, zone: &str, names: &str, seed_run: usize) -> Vec<String> {
    let mut repo = Repo::lasting().with(&Recipe::delta("100", "101")).with(&Recipe::full("101"));
    let server = Server::start(repo.publish());
    let phone = Phone::new(&repo, &[server.url()]);
    // The binary, as it runs on a phone: with an environment, a clock and dice of its own.
    let config = phone.path("updater.toml");
    std::fs::write(&config, config_text(&[server.url()], "")).unwrap();
    for command in ["check", "download", "install"] {
        let output = Command::new(env!("CARGO_BIN_EXE_relevo-updater"))
            .args(["--config", config.to_str().unwrap(), command])
            .env_clear()
            .env("LANG", locale)
            .env("LC_ALL", locale)
            .env("TZ", zone)
            .env("HOSTNAME", names)
            .env("USER", names)
            .env("HOME", format!("/home/{names}"))
            // Nothing listens there: a client that obeyed would fail.
            .env("http_proxy", "http://127.0.0.1:1")
            .env("ALL_PROXY", "http://127.0.0.1:1")
            .env("RELEVO_LOG", if seed_run == 0 { "debug" } else { "error" })
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let host = server.address();
    server.requests().iter().map(|raw| String::from_utf8(raw.clone()).unwrap().replace(&host, "HOST")).collect()
}

#[test]
fn two_phones_in_two_places_send_the_same_bytes() {
    let here = recorded("es_CU.UTF-8", "America/Havana", "yoani", 0);
    let there = recorded("fa_IR.UTF-8", "Asia/Tehran", "arash", 1);

    assert!(!here.is_empty());
    assert_eq!(here, there);
}

#[test]
fn a_whole_update_sends_nothing_but_paths_and_ranges() {
    let run = |seed: u64| {
        let mut repo = Repo::new().with(&Recipe::delta("100", "101"));
        let server = Server::start(repo.publish());
        let mut phone = Phone::new(&repo, &[server.url()]);
        phone.seed = seed;
        phone.go(|updater| updater.install()).unwrap();
        phone.reboot();
        phone.go(|updater| updater.confirm()).unwrap();
        phone.go(|updater| updater.check()).unwrap();
        let host = server.address();
        let requests = server.requests();
        requests.iter().map(|raw| String::from_utf8(raw.clone()).unwrap().replace(&host, "HOST")).collect::<Vec<_>>()
    };

    let first = run(1);

    assert_eq!(first, run(987_654_321));
    for request in &first {
        let mut lines = request.lines();
        let line = lines.next().unwrap();
        assert!(line.starts_with("GET /repo/metadata/") || line.starts_with("GET /repo/targets/xiaomi/ginkgo/stable/"));
        assert!(!line.contains('?'), "{line}");
        for header in lines.filter(|line| !line.is_empty()) {
            // Metadata may come compressed; packages come as they are signed.
            let gzip = if line.contains("/metadata/") { "accept-encoding: gzip" } else { "accept: */*" };
            let known = ["host: HOST", "user-agent: relevo-updater", "accept: */*", gzip];
            let header = header.to_lowercase().replace("host: host", "host: HOST");
            assert!(known.contains(&header.as_str()) || header.starts_with("range: bytes="), "{header}");
        }
    }
}
