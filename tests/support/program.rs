//! Running the real programs.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::wait::{GUARD, wait_at_most, wait_for};

/// A program of the workspace, beside the test's own in the target directory.
///
/// # Panics
/// If it was not built; the message says how.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    // target/<profile>/deps/<test>
    let directory = test.ancestors().nth(2).expect("tests are in target/<profile>/deps");
    let path = directory.join(name);
    assert!(path.exists(), "{} is not there; build it with `cargo build --workspace --bins`", path.display());
    path
}

/// A command for a program, with nothing of the caller's environment.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(program(name));
    command.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    command
}

/// What a finished program said.
#[derive(Debug)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// Its output.
    pub stdout: String,
    /// Its messages.
    pub stderr: String,
}

impl Said {
    /// Asserts that it ended well.
    ///
    /// # Panics
    /// With all that it said, if it did not.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "ended with {}\n{}\n{}", self.status, self.stdout, self.stderr);
        self
    }

    /// Asserts that it failed with exit code 1, and that its message holds each of `words`.
    ///
    /// # Panics
    /// With all that it said, if it did not.
    #[track_caller]
    pub fn failed(self, words: &[&str]) -> Self {
        assert_eq!(self.status.code(), Some(1), "{}\n{}", self.stdout, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in: {}\n{}", self.stderr, self.stdout);
        }
        self
    }

    /// Asserts that it failed with exit code 1, and that its answer as JSON holds `words`.
    ///
    /// # Panics
    /// With all that it said, if it did not.
    #[track_caller]
    pub fn failed_json(self, words: &str) -> Self {
        assert_eq!(self.status.code(), Some(1), "{}\n{}", self.stdout, self.stderr);
        assert!(self.json()["error"].to_string().contains(words), "{words:?} is not in: {}", self.stdout);
        self
    }

    /// Its output as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout, self.stderr))
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// Runs a command to its end.
///
/// # Panics
/// If it cannot be started.
pub fn run(mut command: Command) -> Said {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}")).into()
}

/// Starts a command and kills it (SIGKILL) when `moment` has passed, unless it ended before; says whether it was killed.
///
/// # Panics
/// If it cannot be started.
pub fn kill_after(mut command: Command, moment: Duration) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let ended = wait_at_most(moment, || child.try_wait().expect("a child can be waited for"));
    if ended.is_none() {
        child.kill().expect("a child that was not waited for can be killed");
        child.wait().expect("a child can be waited for");
    }
    ended.is_none()
}

/// Starts a command and kills it (SIGKILL) when `probe` has an answer, unless it ended before; says whether it was killed.
///
/// # Panics
/// If it cannot be started, or neither happens.
pub fn kill_when(mut command: Command, mut probe: impl FnMut() -> bool) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let killed = wait_for("the moment of the kill", || {
        if child.try_wait().expect("a child can be waited for").is_some() {
            return Some(false);
        }
        probe().then_some(true)
    });
    if killed {
        child.kill().expect("a child that was not waited for can be killed");
    }
    child.wait().expect("a child can be waited for");
    killed
}

/// A running `relevo-server`; killed when it goes out of scope.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts a server of a repository on a free port, and waits until it listens.
    ///
    /// # Panics
    /// With its messages, if it does not.
    pub fn start(repository: &Path, database: &Path) -> Self {
        Self::start_on("127.0.0.1:0", repository, database)
    }

    /// As [`Server::start`], on this address.
    ///
    /// # Panics
    /// With its messages, if it does not listen.
    pub fn start_on(listen: &str, repository: &Path, database: &Path) -> Self {
        Self::start_with(listen, repository, database, &[])
    }

    /// As [`Server::start_on`], with more options.
    ///
    /// # Panics
    /// With its messages, if it does not listen.
    pub fn start_with(listen: &str, repository: &Path, database: &Path, options: &[(&str, &Path)]) -> Self {
        Self::start_command(command("relevo-server"), listen, repository, database, options)
    }

    /// As [`Server::start_with`], in a process that may write no file of more than `limit` blocks of 1024 bytes: a disk that
    /// has no room, as far as anybody without one of its own can have it.
    ///
    /// # Panics
    /// With its messages, if it does not listen.
    pub fn start_limited(
        listen: &str,
        repository: &Path,
        database: &Path,
        options: &[(&str, &Path)],
        limit: u32,
    ) -> Self {
        let mut shell = Command::new("/bin/bash");
        shell.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
        // Without the signal, a write beyond the limit is an error like any other.
        shell
            .arg("-c")
            .arg(format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" \"$@\""))
            .arg(program("relevo-server"));
        Self::start_command(shell, listen, repository, database, options)
    }

    fn start_command(
        mut command: Command,
        listen: &str,
        repository: &Path,
        database: &Path,
        options: &[(&str, &Path)],
    ) -> Self {
        command.args(["serve", "--listen", listen, "--log", "info", "--log-format", "json", "--repository"]);
        command.arg(repository).arg("--database").arg(database).stdout(Stdio::null()).stderr(Stdio::piped());
        for (option, value) in options {
            command.arg(option).arg(value);
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let messages = BufReader::new(child.stderr.take().expect("it is piped"));
        let (sender, receiver) = mpsc::channel();
        // The messages are read to their end, so that the server never waits for us.
        thread::spawn(move || {
            let mut seen = String::new();
            let mut found = None;
            for line in messages.lines().map_while(Result::ok) {
                if found.is_none() {
                    found = address(&line);
                    if let Some(address) = found {
                        drop(sender.send(Ok(address)));
                    } else {
                        seen.push_str(&line);
                        seen.push('\n');
                    }
                }
            }
            if found.is_none() {
                drop(sender.send(Err(seen)));
            }
        });
        let address = match receiver.recv_timeout(GUARD) {
            Ok(Ok(address)) => address,
            Ok(Err(seen)) => panic!("the server ended: {seen}"),
            Err(_) => panic!("the server did not say where it listens"),
        };
        Self { child, address }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the repository, as a phone's configuration has it.
    pub fn repository(&self) -> String {
        format!("http://{}/repo/", self.address)
    }

    /// Kills it without a word (SIGKILL).
    ///
    /// # Panics
    /// If it ended by itself before, which it must not.
    pub fn kill(mut self) {
        let ended = self.child.try_wait().expect("a child can be waited for");
        assert!(ended.is_none(), "the server ended by itself: {ended:?}");
        self.child.kill().expect("a child that was not waited for can be killed");
        self.child.wait().expect("a child can be waited for");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The address in a line of the log that says `serving`.
fn address(line: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    line.get("fields").unwrap_or(&line).get("address")?.as_str()?.parse().ok()
}
