//! `relevo-updater`: reads arguments, configuration, clock, environment and randomness, and calls the library.

use std::{
    ffi::OsString,
    fmt::Write as _,
    io::{IsTerminal, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::Context;
use jiff::Timestamp;
use relevo_types::{BuildId, PartitionName};
use relevo_updater::{
    Config, Environment, Updater,
    boot::{BootFile, Slot, bootloader_boot},
    config, factory,
    stop::Stop,
    storage::{self, Disk},
    updater::{Activity, Done, UpdateError},
};
use serde::Serialize;
use tracing::{Event, Level, Metadata, Subscriber, field::Field, span};

const HELP: &str = "\
relevo-updater [--config FILE] [--json] [--accept-stale] COMMAND

Updates this device from a Relevo repository (docs/phone-guide.md).

Commands:
  check      ask the mirrors what there is; downloads nothing
  download   check, and download what there is; resumes what was begun
  install    install what was downloaded (downloads it first if nothing was); the next boot tries it
  status     say what is under way, in words; changes nothing
  confirm    mark the running build as good; whatever watches the boot calls this when all is well
  revert     go back to the build before, where that is still possible
  daemon     poll until SIGTERM, and download and install as the configuration says

  factory --build ID --timestamp SECONDS [--slot a|b] [PARTITION...]
             prepare a device before its first update: records the build in the slot and makes boot control
  pretend-boot
             do what a bootloader does at a boot, for pretend devices and tests: choose the slot, count down a try,
             report the boot; prints the slot

Options:
  --config FILE   configuration [/etc/relevo/updater.toml]
  --json          print one JSON object
  --accept-stale  with check, download, install: the mirror is an offline carrier that I chose; take its metadata past
                  their date, for as long as the repository's root allows
  --help, --version

Environment: RELEVO_LOG = error, warn (default), info, debug.
Exit status: 0 done, 1 failed, 2 wrong usage.
";

const DEFAULT_CONFIG: &str = "/etc/relevo/updater.toml";

/// What `--json` prints instead of an answer.
#[derive(Serialize)]
struct Failure {
    error: String,
    causes: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args_os().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("relevo-updater: {error}; see relevo-updater --help");
            return ExitCode::from(2);
        }
    };
    match arguments.command {
        Command::Help => return print(HELP.trim_end()),
        Command::Version => return print(concat!("relevo-updater ", env!("CARGO_PKG_VERSION"))),
        _ => {}
    }
    start_log();
    match run(&arguments) {
        Ok(text) => print(&text),
        Err(error) => {
            if arguments.json {
                let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
                let failure = Failure { error: error.to_string(), causes };
                print(&serde_json::to_string(&failure).expect("texts are JSON"));
            } else {
                eprintln!("relevo-updater: {}", one_line(&error));
            }
            ExitCode::FAILURE
        }
    }
}

/// The error with its causes; a cause whose text its effect already ends in is not said twice.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            let _ = write!(text, ": {cause}");
        }
    }
    text
}

/// A closed pipe is no reason to panic.
fn print(text: &str) -> ExitCode {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<String> {
    let config = read_config(&arguments.config)?;
    let stop = Stop::new();
    stop_on_signals(&stop).context("could not watch for signals")?;
    let shown = Progress::new(!arguments.json);
    let environment = Environment {
        now: &clock,
        seed: random()?,
        storage: &Disk,
        stop,
        progress: &|activity, done, all| shown.show(activity, done, all),
    };
    let json = arguments.json;
    let answer = |words: String, value: &dyn Fn() -> serde_json::Result<String>| -> anyhow::Result<String> {
        if json { Ok(value()?) } else { Ok(words) }
    };
    let open = || -> Result<Updater<'_>, UpdateError> {
        let mut updater = Updater::open(&config, &environment)?;
        if arguments.stale {
            updater.accept_stale();
        }
        Ok(updater)
    };
    match &arguments.command {
        Command::Check => {
            let outcome = open()?.check()?;
            answer(outcome.found.words(), &|| serde_json::to_string(&outcome))
        }
        Command::Download => {
            let outcome = open()?.download()?;
            let words = match &outcome.file {
                Some(_) => format!(
                    "{}; downloaded: {} bytes in {} requests, {} bytes were there",
                    outcome.found.words(),
                    outcome.received_bytes,
                    outcome.requests,
                    outcome.kept_bytes
                ),
                None => outcome.found.words(),
            };
            answer(words, &|| serde_json::to_string(&outcome))
        }
        Command::Install => done(json, &open()?.install()?),
        Command::Confirm => done(json, &open()?.confirm()?),
        Command::Revert => done(json, &open()?.revert()?),
        Command::Status => {
            let status = Updater::status(&config, &environment)?;
            answer(status_words(&status), &|| serde_json::to_string(&status))
        }
        Command::Daemon => {
            open()?.daemon()?;
            answer("stopped".to_owned(), &|| Ok(r#"{"message":"stopped"}"#.to_owned()))
        }
        Command::Factory { slot, build, timestamp, partitions } => {
            let record = factory::prepare(
                &config.block,
                &Disk,
                *slot,
                build.clone(),
                *timestamp,
                partitions,
                &format!("{:016x}", random()?),
            )?;
            let words = format!("slot {slot} holds build {} with {} partitions", record.build, record.partitions.len());
            answer(words, &|| serde_json::to_string(&record))
        }
        Command::PretendBoot => {
            let boot = BootFile::new(&config.block.boot_control);
            let booted = bootloader_boot(&Disk, &boot, &config.block.booted, &format!("{:016x}", random()?))?;
            answer(booted.slot.to_string(), &|| serde_json::to_string(&booted))
        }
        Command::Help | Command::Version => Ok(String::new()),
    }
}

fn done(json: bool, done: &Done) -> anyhow::Result<String> {
    if json { Ok(serde_json::to_string(done)?) } else { Ok(done.message.clone()) }
}

fn status_words(status: &relevo_updater::updater::Status) -> String {
    let mut text = status.message.clone();
    if let (Some(done), Some(offer)) = (status.downloaded_bytes, &status.offer) {
        let _ = write!(text, "\ndownloaded: {done} of {} bytes", offer.length.get());
    }
    if let Some(other) = &status.other_build {
        let _ = write!(text, "\nother slot: build {other}");
    }
    if let Some(check) = &status.last_check {
        let _ = write!(text, "\nlast check: {}: {}", check.at, check.answer);
        for aside in &check.aside {
            let _ = write!(text, "\nmirror put aside: {}: {}", aside.mirror, aside.reason);
        }
    }
    for failed in &status.failed {
        let _ = write!(text, "\nnot tried again: build {}: {}", failed.build, failed.reason);
    }
    if let Some(error) = &status.last_error {
        let _ = write!(text, "\nlast error: {error}");
    }
    if let Some(log) = &status.transparency {
        for role in &log.logged {
            let _ =
                write!(text, "\ntransparency log: version {} of {} is entry {}", role.version, role.role, role.index);
        }
        if let Some(problem) = &log.problem {
            let alarm = if log.forked { "ALARM: " } else { "" };
            let _ = write!(text, "\ntransparency log: {alarm}{problem}");
        }
    }
    text
}

#[expect(clippy::disallowed_methods, reason = "main.rs is the place that reads the clock")]
fn clock() -> Timestamp {
    Timestamp::now()
}

fn random() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("the system has no random numbers: {error}"))?;
    Ok(u64::from_le_bytes(bytes))
}

fn read_config(path: &Path) -> anyhow::Result<Config> {
    let bytes = storage::read(path, config::MAX_CONFIG)?.with_context(|| format!("there is no {}", path.display()))?;
    let text = String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8", path.display()))?;
    let directory = std::path::absolute(storage::directory_of(path)).context("there is no current directory")?;
    Config::parse(&text, &directory).with_context(|| format!("could not use {}", path.display()))
}

fn stop_on_signals(stop: &Stop) -> std::io::Result<()> {
    let (mut read, write) = UnixStream::pair()?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
    }
    let stop = stop.clone();
    std::thread::Builder::new().stack_size(64 * 1024).spawn(move || {
        // Holds the writing end open, so that reading ends with a signal alone.
        let _write = write;
        if read.read_exact(&mut [0]).is_ok() {
            stop.set();
        }
    })?;
    Ok(())
}

/// Whole percents on a terminal.
struct Progress {
    shown: bool,
    last: AtomicU64,
}

impl Progress {
    fn new(wanted: bool) -> Self {
        Self { shown: wanted && std::io::stderr().is_terminal(), last: AtomicU64::new(u64::MAX) }
    }

    fn show(&self, activity: Activity, done: u64, all: u64) {
        if !self.shown || all == 0 {
            return;
        }
        let percent = u64::try_from(u128::from(done) * 100 / u128::from(all)).unwrap_or(100);
        if self.last.swap(percent, Ordering::Relaxed) != percent {
            let what = match activity {
                Activity::Downloading => "downloading",
                Activity::Installing => "installing",
            };
            let end = if percent == 100 { "\n" } else { "" };
            let _ = write!(std::io::stderr(), "\r{what}: {percent:3} %{end}");
        }
    }
}

#[derive(Debug)]
struct Arguments {
    config: PathBuf,
    json: bool,
    stale: bool,
    command: Command,
}

#[derive(Debug)]
enum Command {
    Check,
    Download,
    Install,
    Status,
    Confirm,
    Revert,
    Daemon,
    Factory { slot: Slot, build: BuildId, timestamp: i64, partitions: Vec<PartitionName> },
    PretendBoot,
    Help,
    Version,
}

impl Arguments {
    fn parse(arguments: impl Iterator<Item = OsString>) -> anyhow::Result<Self> {
        use lexopt::prelude::*;
        let mut parser = lexopt::Parser::from_args(arguments);
        let mut config = None;
        let (mut json, mut stale) = (false, false);
        let mut words: Vec<String> = Vec::new();
        let (mut slot, mut build, mut timestamp) = (None, None, None);
        let mut special = None;
        while let Some(argument) = parser.next()? {
            match argument {
                Long("config") => config = Some(PathBuf::from(parser.value()?)),
                Long("json") => json = true,
                Long("accept-stale") => stale = true,
                Short('h') | Long("help") => special = Some(Command::Help),
                Short('V') | Long("version") => special = Some(Command::Version),
                Long("slot") => {
                    let text = parser.value()?.string()?;
                    slot = Some(Slot::parse(&text).with_context(|| format!("--slot is {text:?}; it must be a or b"))?);
                }
                Long("build") => build = Some(BuildId::parse(&parser.value()?.string()?)?),
                Long("timestamp") => timestamp = Some(parser.value()?.parse()?),
                Value(word) => words.push(word.string()?),
                other => return Err(other.unexpected().into()),
            }
        }
        let config = config.unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG));
        if let Some(command) = special {
            return Ok(Self { config, json, stale, command });
        }
        let (name, rest) = words.split_first().context("a command is missing")?;
        let command = match name.as_str() {
            "factory" => Command::Factory {
                slot: slot.take().unwrap_or(Slot::A),
                build: build.take().context("factory needs --build")?,
                timestamp: timestamp.take().context("factory needs --timestamp")?,
                partitions: rest.iter().map(|name| PartitionName::parse(name)).collect::<Result<_, _>>()?,
            },
            _ if !rest.is_empty() => anyhow::bail!("{:?} is one word too many", rest[0]),
            "check" => Command::Check,
            "download" => Command::Download,
            "install" => Command::Install,
            "status" => Command::Status,
            "confirm" => Command::Confirm,
            "revert" => Command::Revert,
            "daemon" => Command::Daemon,
            "pretend-boot" => Command::PretendBoot,
            _ => anyhow::bail!("unknown command {name:?}"),
        };
        if slot.is_some() || build.is_some() || timestamp.is_some() {
            anyhow::bail!("--slot, --build and --timestamp belong to factory");
        }
        if stale && !matches!(command, Command::Check | Command::Download | Command::Install) {
            anyhow::bail!("--accept-stale belongs to check, download and install");
        }
        Ok(Self { config, json, stale, command })
    }
}

/// Log lines on standard error, as `level message key=value`; what runs us adds the time. tracing-subscriber would be a
/// tenth of the binary.
struct Log {
    level: Level,
}

#[expect(clippy::disallowed_methods, reason = "main.rs is the place that reads the environment")]
fn start_log() {
    let level = std::env::var("RELEVO_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(Level::WARN);
    // Fails only if a subscriber is set already, which nobody does before main.
    let _ = tracing::subscriber::set_global_default(Log { level });
}

struct Line(String);

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, " {value:?}");
        } else {
            let _ = write!(self.0, " {}={value:?}", field.name());
        }
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level && metadata.target().starts_with("relevo")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().as_str().to_ascii_lowercase());
        event.record(&mut line);
        let _ = writeln!(std::io::stderr(), "{}", line.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
