//! `tuf-client`: the command line that the TUF conformance suite drives, over the verification and the sockets of a
//! phone.
//!
//! ```text
//! tuf-client --metadata-dir DIR init ROOT
//! tuf-client --metadata-dir DIR --metadata-url URL refresh
//! tuf-client --metadata-dir DIR --metadata-url URL --target-name PATH.. --target-base-url URL --target-dir DIR download
//! ```
//! It ends with 0, or with 1 after any failure. It is linked dynamically, as every program here but the phone's: the
//! suite changes its clock with `faketime`, which works through the dynamic linker.

use std::{collections::BTreeMap, fs, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, bail, ensure};
use jiff::Timestamp;
use relevo_meta::{Answer, Found, Limits, Refresh, Request, Scope, Step, Stored};
use relevo_types::ByteLen;
use relevo_updater::{
    config::NetworkConfig,
    http::{FetchError, Http},
    stop::Stop,
    storage::{self, Disk},
};

/// Roles that one search may visit: the suite's longest searches pass through more than a phone's three.
const MAX_ROLES: usize = 32;
/// The longest target that the suite has, with room.
const MAX_TARGET: ByteLen = ByteLen::mib(1);

fn main() -> ExitCode {
    #[expect(clippy::disallowed_methods, reason = "this program's main is where the clock is read")]
    let now = Timestamp::now();
    match Arguments::read(std::env::args().skip(1)).and_then(|arguments| run(&arguments, now)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tuf-client: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The command line. Flags come before the command.
#[derive(Debug, Default)]
struct Arguments {
    flags: BTreeMap<String, String>,
    target_names: Vec<String>,
    command: Vec<String>,
}

impl Arguments {
    fn read(mut words: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut arguments = Self::default();
        while let Some(word) = words.next() {
            match word.strip_prefix("--") {
                Some(flag) => {
                    let value = words.next().with_context(|| format!("{word} has no value"))?;
                    if flag == "target-name" {
                        arguments.target_names.push(value);
                    } else {
                        arguments.flags.insert(flag.to_owned(), value);
                    }
                }
                None => arguments.command.push(word),
            }
        }
        Ok(arguments)
    }

    fn flag(&self, name: &str) -> anyhow::Result<&str> {
        self.flags.get(name).map(String::as_str).with_context(|| format!("--{name} is missing"))
    }
}

fn run(arguments: &Arguments, now: Timestamp) -> anyhow::Result<()> {
    let directory = Path::new(arguments.flag("metadata-dir")?);
    let command: Vec<&str> = arguments.command.iter().map(String::as_str).collect();
    match command.as_slice() {
        ["init", root] => {
            let bytes = fs::read(root).with_context(|| format!("could not read {root}"))?;
            keep(directory, "root.json", &bytes)
        }
        ["refresh"] => {
            let mut client = Client::start(arguments, directory, now)?;
            client.follow()?;
            client.refresh.finish()?;
            Ok(())
        }
        ["download"] => {
            let mut client = Client::start(arguments, directory, now)?;
            client.follow()?;
            let (base, into) = (arguments.flag("target-base-url")?, Path::new(arguments.flag("target-dir")?));
            arguments.target_names.iter().try_for_each(|name| client.download(name, base, into))
        }
        _ => bail!("usage: tuf-client --metadata-dir DIR .. init ROOT | refresh | download"),
    }
}

struct Client<'a> {
    directory: &'a Path,
    url: &'a str,
    http: Http,
    refresh: Refresh,
}

impl<'a> Client<'a> {
    fn start(arguments: &'a Arguments, directory: &'a Path, now: Timestamp) -> anyhow::Result<Self> {
        let limits = Limits { max_roles: MAX_ROLES, ..Limits::default() };
        let refresh = Refresh::start(stored(directory)?, Scope::TopLevel, now, limits)?;
        Ok(Self { directory, url: arguments.flag("metadata-url")?, http: http(), refresh })
    }

    /// Does what the machine asks for, until it is done.
    fn follow(&mut self) -> anyhow::Result<()> {
        loop {
            match self.refresh.next() {
                Step::Get(request) => {
                    let answer = self.ask(&request)?;
                    self.refresh.supply(answer)?;
                }
                Step::Keep { name, bytes } => keep(self.directory, &name, &bytes)?,
                Step::Done => return Ok(()),
            }
        }
    }

    fn ask(&self, request: &Request) -> anyhow::Result<Answer> {
        match self.http.get_whole(&format!("{}/{}", self.url.trim_end_matches('/'), request.name), request.limit.get())
        {
            Ok((bytes, _)) => Ok(Answer::Found(bytes)),
            Err(FetchError::Status { status: 404 | 410, .. }) => Ok(Answer::Absent),
            Err(error) => Err(error.into()),
        }
    }

    fn download(&mut self, name: &str, base: &str, into: &Path) -> anyhow::Result<()> {
        self.refresh.search(name)?;
        self.follow()?;
        let found = self.refresh.found()?.with_context(|| format!("no role lists {name}"))?;
        ensure!(found.length <= MAX_TARGET, "{name} has {}", found.length);
        let path = into.join(file_name(name));
        if is_there(&path, &found)? {
            return Ok(());
        }
        let url = format!("{}/{}", base.trim_end_matches('/'), found.file()?);
        let (bytes, _) = self.http.get_whole(&url, found.length.get())?;
        found.check(&bytes)?;
        storage::replace(&Disk, &path, &bytes)?;
        Ok(())
    }
}

fn stored(directory: &Path) -> anyhow::Result<Stored> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).with_context(|| format!("could not list {}", directory.display()))? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string() {
            files.insert(name, fs::read(entry.path())?);
        }
    }
    Ok(Stored(files))
}

fn keep(directory: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    Ok(storage::replace(&Disk, &directory.join(name), bytes)?)
}

fn is_there(path: &Path, found: &Found) -> anyhow::Result<bool> {
    let there = storage::read(path, MAX_TARGET.get())?;
    Ok(there.is_some_and(|bytes| found.check(&bytes).is_ok()))
}

/// A path as one file name, whatever is in it.
fn file_name(path: &str) -> String {
    path.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn http() -> Http {
    let time = Duration::from_secs(30);
    let config = NetworkConfig {
        connect_timeout: time,
        answer_timeout: time,
        stall_timeout: time,
        parallel: 1,
        request_size: ByteLen::mib(1),
        rate_limit: None,
        redirect_hosts: Vec::new(),
        retries: 0,
        retry_wait: Duration::ZERO,
    };
    Http::new(&config, &Stop::new())
}
