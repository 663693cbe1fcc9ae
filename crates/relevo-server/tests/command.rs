//! The binary: settings from every source, what it prints, what it logs.

#![expect(clippy::unwrap_used, reason = "clippy knows tests only by their attribute, and helpers have none")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

/// The binary, without any variable of the machine that runs the test.
fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relevo-server"));
    command.env_clear().current_dir(dir);
    command
}

/// Exit code, standard output, standard error.
fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn prints_the_settings_in_force() {
    let dir = tempfile::tempdir().unwrap();

    let (code, printed, errors) = run(command(dir.path()).args(["serve", "--print-config", "--workers", "2"]));

    assert_eq!((code, errors.as_str()), (0, ""));
    insta::assert_snapshot!(printed, @r#"
    listen = "127.0.0.1:8787"
    repository = "relevo"
    database = "relevo.db"
    mirrors = []
    log = "info"
    log_format = "text"
    workers = 2
    max_connections = 10000
    keep_alive_seconds = 15
    request_timeout_seconds = 15
    stall_timeout_seconds = 120
    shutdown_grace_seconds = 30
    "#);
}

#[test]
fn a_flag_wins_over_a_variable_and_that_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = "listen = \"127.0.0.1:1\"\nworkers = 1\nkeep_alive_seconds = 1\nlog_format = \"json\"\n";
    fs::write(dir.path().join("server.toml"), file).unwrap();

    let (code, printed, _) = run(command(dir.path())
        .args(["serve", "--print-config", "--config", "server.toml", "--listen", "127.0.0.1:3"])
        .env("RELEVO_LISTEN", "127.0.0.1:2")
        .env("RELEVO_WORKERS", "2"));

    assert_eq!(code, 0);
    for line in ["listen = \"127.0.0.1:3\"", "workers = 2", "keep_alive_seconds = 1", "log_format = \"json\""] {
        assert!(printed.lines().any(|printed| printed == line), "{line} is not in {printed}");
    }
}

#[test]
fn what_is_printed_is_a_configuration_file() {
    let dir = tempfile::tempdir().unwrap();
    let (_, printed, _) = run(command(dir.path()).args(["serve", "--print-config", "--max-connections", "7"]));
    fs::write(dir.path().join("server.toml"), &printed).unwrap();

    let (code, again, _) =
        run(command(dir.path()).args(["serve", "--print-config"]).env("RELEVO_CONFIG", "server.toml"));

    assert_eq!((code, again), (0, printed));
}

#[test]
fn mistakes_in_settings_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = |text: &str| {
        fs::write(dir.path().join("server.toml"), text).unwrap();
        let (code, _, errors) = run(command(dir.path()).args(["serve", "--print-config", "--config", "server.toml"]));
        assert_eq!(code, 1, "{text}: {errors}");
        errors
    };

    insta::assert_snapshot!(
        file("lisen = \"127.0.0.1:1\"\n"),
        @r#"error: unknown key "lisen" in server.toml; the nearest known key is "listen""#
    );
    insta::assert_snapshot!(
        file("[server]\nport = 1\n"),
        @r#"error: unknown key "server" in server.toml; the nearest known key is "workers""#
    );
    insta::assert_snapshot!(file("workers = 0\n"), @"error: workers is 0; it must be from 1 to 512");
    insta::assert_snapshot!(file("workers = \"many\"\n"), @r#"
    error: configuration file server.toml is not right: TOML parse error at line 1, column 11
      |
    1 | workers = "many"
      |           ^^^^^^
    invalid type: string "many", expected usize
    "#);
    insta::assert_snapshot!(
        file("repository = \"a\"\ndatabase = \"a/x.db\"\n"),
        @"error: database a/x.db lies inside the repository a; it must lie outside"
    );
    let (code, _, errors) = run(command(dir.path()).args(["serve", "--config", "absent.toml"]));
    assert_eq!(code, 1);
    insta::assert_snapshot!(
        errors,
        @"error: could not read the configuration file absent.toml: No such file or directory (os error 2)"
    );
    let (code, _, errors) = run(command(dir.path()).args(["serve", "--log", "relevo=loud"]));
    assert_eq!(code, 1);
    insta::assert_snapshot!(errors, @r#"error: log is "relevo=loud"; it must be off, error, warn, info, debug, trace, or directives such as info,relevo_server=debug"#);
    let (code, ..) = run(command(dir.path()).args(["serve", "--lisen", "x"]));
    assert_eq!(code, 2);
}

#[test]
fn a_port_that_is_taken_is_an_error_with_its_address() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();

    let (code, _, errors) = run(command(dir.path()).args(["serve", "--listen", &address]));

    assert_eq!(code, 1);
    assert!(errors.contains(&format!("could not listen on {address}")), "{errors}");
}

#[test]
fn migrate_says_what_it_did() {
    let dir = tempfile::tempdir().unwrap();

    let (code, printed, _) = run(command(dir.path()).args(["migrate", "--log", "off"]));

    assert_eq!(code, 0);
    insta::assert_snapshot!(
        printed,
        @"the database is up to date; its index is not made anew: there is no repository in the server's directory"
    );
    assert!(dir.path().join("relevo.db").exists());
}

/// The binary while it serves.
struct Serving {
    child: Child,
    lines: Receiver<String>,
    address: String,
    log: String,
}

impl Serving {
    fn start(dir: &Path, arguments: &[&str]) -> Self {
        let mut child = command(dir)
            .args(["serve", "--listen", "127.0.0.1:0", "--workers", "1"])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let errors = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in errors.lines() {
                let Ok(()) = sender.send(line.unwrap()) else { return };
            }
        });
        let mut serving = Self { child, lines, address: String::new(), log: String::new() };
        let line = serving.line_with("serving");
        let at = line.find("127.0.0.1:").unwrap();
        let end = line[at..].find([' ', '"', ',']).map_or(line.len(), |end| at + end);
        serving.address = line[at..end].to_owned();
        serving
    }

    fn line_with(&mut self, word: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(30)).expect("a line of the log");
            self.log.push_str(&line);
            self.log.push('\n');
            if line.contains(word) {
                return line;
            }
        }
    }

    fn get(&self, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let client = stream.local_addr().unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (answer, client.port().to_string())
    }

    fn signal(&mut self, name: &str) -> i32 {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
        let status = self.child.wait().unwrap();
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(30)) {
            self.log.push_str(&line);
            self.log.push('\n');
        }
        std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or_else(|| status.code().unwrap())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Already gone after a signal.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

const REQUESTS: [&str; 4] = [
    "GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\nX-Forwarded-For: 203.0.113.7\r\nUser-Agent: Secret/1\r\n\r\n",
    "GET /repo/metadata/timestamp.json HTTP/1.1\r\nHost: t\r\nConnection: close\r\nForwarded: for=203.0.113.7\r\n\r\n",
    "GET /readyz HTTP/1.1\r\nHost: t\r\nConnection: close\r\nX-Real-IP: 203.0.113.7\r\n\r\n",
    "nonsense\r\n\r\n",
];

#[test]
fn says_where_it_serves_what_and_names_no_client() {
    for (level, arguments) in
        [("info", &[][..]), ("info", &["--log-format", "json"]), ("debug", &["--log", "info,relevo_server=debug"])]
    {
        let dir = tempfile::tempdir().unwrap();
        let mut serving = Serving::start(dir.path(), arguments);

        let ports: Vec<String> = REQUESTS.iter().map(|request| serving.get(request).1).collect();
        let code = serving.signal("-TERM");

        assert_eq!(code, 0, "{}", serving.log);
        let log = &serving.log;
        assert!(log.contains("serving") && log.contains(&serving.address) && log.contains("relevo"), "{log}");
        assert!(log.contains("relevo init DIR"), "{log}");
        assert!(!log.contains("203.0.113.7") && !log.contains("Secret"), "{log}");
        for port in ports {
            assert!(!log.contains(&format!("127.0.0.1:{port}")), "{log}");
        }
        assert_eq!(log.contains("/repo/metadata/timestamp.json"), level == "debug", "{log}");
        if arguments.contains(&"json") {
            for line in log.lines() {
                assert!(serde_json::from_str::<serde_json::Value>(line).unwrap().is_object(), "{line}");
            }
        }
    }
}

#[test]
fn ctrl_c_ends_it_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let mut serving = Serving::start(dir.path(), &[]);

    assert_eq!(serving.signal("-INT"), 0);
}

#[test]
fn a_kill_at_any_moment_needs_no_hands() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let mut serving = Serving::start(dir.path(), &[]);
        if round % 2 == 0 {
            serving.get(REQUESTS[2]);
        }
        assert_eq!(serving.signal("-KILL"), 9);
    }

    let serving = Serving::start(dir.path(), &[]);

    assert!(serving.get(REQUESTS[0]).0.starts_with("HTTP/1.1 200"));
    let (ready, _) = serving.get(REQUESTS[2]);
    // Nothing but the missing repository is wrong.
    assert!(ready.contains(r#""problem":"empty""#) && !ready.contains("database"), "{ready}");
}
