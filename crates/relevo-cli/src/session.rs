//! What a command is given, what it answers, and how both get in and out.

use std::{
    cell::RefCell,
    io::{self, Write},
    path::PathBuf,
    sync::atomic::AtomicBool,
};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    args::Global,
    error::{CliError, ceremony_hint, io_hint, push_hint, repository_hint},
    progress::Bars,
    push::PushError,
};

/// A passphrase; never shown.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Takes a passphrase over.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for deriving keys alone.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(hidden)")
    }
}

/// The world outside of a command: `main` takes it from the process, a test makes it up.
pub struct Context<'a> {
    /// The time.
    pub now: Timestamp,
    /// `RELEVO_DIR`.
    pub dir: Option<PathBuf>,
    /// `RELEVO_PASSPHRASE`.
    pub passphrase: Option<Passphrase>,
    /// Asks for a passphrase; [`io::ErrorKind::Unsupported`] where nobody can be asked.
    pub ask: &'a dyn Fn(&str) -> io::Result<String>,
    /// Fills a buffer with random bytes.
    pub random: &'a dyn Fn(&mut [u8]) -> io::Result<()>,
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Standard error.
    pub err: &'a mut dyn Write,
    /// Whether standard error is a terminal, so that progress bars make sense.
    pub terminal: bool,
    /// Set by Ctrl-C; long work looks at it.
    pub stop: &'a AtomicBool,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("now", &self.now).field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// A command's answer.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// What was asked for, for people.
    pub(crate) text: String,
    /// What is worth knowing beside it; `--quiet` leaves it out.
    pub(crate) notes: String,
    /// All of it, for programs: an object.
    pub(crate) json: Value,
}

impl Answer {
    pub(crate) fn new(json: &impl Serialize) -> Self {
        let json = serde_json::to_value(json).expect("answers have text keys only");
        Self { text: String::new(), notes: String::new(), json }
    }

    pub(crate) fn text(mut self, text: impl Into<String>) -> Self {
        self.text = text.into();
        self
    }

    pub(crate) fn notes(mut self, notes: impl Into<String>) -> Self {
        self.notes = notes.into();
        self
    }
}

/// One run of a command.
pub(crate) struct Session<'a> {
    pub(crate) now: Timestamp,
    pub(crate) dir: PathBuf,
    pub(crate) passphrase: Option<Passphrase>,
    pub(crate) ask: &'a dyn Fn(&str) -> io::Result<String>,
    pub(crate) random: &'a dyn Fn(&mut [u8]) -> io::Result<()>,
    pub(crate) stop: &'a AtomicBool,
    bars: bool,
    warnings: RefCell<Vec<String>>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(context: &Context<'a>, global: &Global) -> Self {
        let dir = global.dir.clone().or_else(|| context.dir.clone()).unwrap_or_else(|| PathBuf::from("."));
        Self {
            now: context.now,
            dir,
            passphrase: context.passphrase.clone(),
            ask: context.ask,
            random: context.random,
            stop: context.stop,
            bars: context.terminal && !global.quiet,
            warnings: RefCell::new(Vec::new()),
        }
    }

    /// Says something that does not stop the command but needs somebody's eye.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        let (text, mut warnings) = (text.into(), self.warnings.borrow_mut());
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    pub(crate) fn bars(&self, subject: impl Into<String>) -> Bars<'a> {
        Bars::new(self.bars, self.stop, subject)
    }

    /// `N` random bytes.
    pub(crate) fn random<const N: usize>(&self) -> anyhow::Result<Zeroizing<[u8; N]>> {
        let mut bytes = Zeroizing::new([0; N]);
        (self.random)(&mut *bytes).map_err(|error| anyhow::Error::new(error).context("could not get random bytes"))?;
        Ok(bytes)
    }
}

/// Prints how a command ended.
pub(crate) fn print(
    context: &mut Context<'_>,
    global: &Global,
    session: &Session<'_>,
    result: anyhow::Result<Answer>,
) -> io::Result<u8> {
    let warnings = session.warnings.take();
    let answer = match result {
        Ok(answer) => answer,
        Err(error) => {
            let mut json = error_json(&error);
            json["warnings"] = json!(warnings);
            if global.json {
                print_json(context.out, &json)?;
            } else {
                print_warnings(context.err, &warnings)?;
                if let Some(found) = error.downcast_ref::<Failed>() {
                    context.out.write_all(found.answer.text.as_bytes())?;
                }
                print_error(context.err, &error)?;
            }
            return Ok(1);
        }
    };
    if global.json {
        let mut json = answer.json;
        if let Value::Object(map) = &mut json {
            map.insert("warnings".to_owned(), json!(warnings));
        }
        print_json(context.out, &json)?;
    } else {
        print_warnings(context.err, &warnings)?;
        context.out.write_all(answer.text.as_bytes())?;
        if !global.quiet {
            context.out.write_all(answer.notes.as_bytes())?;
        }
    }
    context.out.flush()?;
    Ok(0)
}

/// An answer that is at the same time a failure: a check that found something.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub(crate) struct Failed {
    answer: Answer,
    problem: CliError,
}

impl Answer {
    /// The answer of a check that found `problems` things wrong.
    pub(crate) fn failed(self, problems: usize) -> anyhow::Error {
        anyhow::Error::new(Failed { answer: self, problem: CliError::Problems { problems } })
    }
}

pub(crate) fn print_json(out: &mut dyn Write, json: &Value) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, json)?;
    out.write_all(b"\n")?;
    out.flush()
}

fn print_warnings(err: &mut dyn Write, warnings: &[String]) -> io::Result<()> {
    warnings.iter().try_for_each(|warning| writeln!(err, "warning: {warning}"))
}

fn print_error(err: &mut dyn Write, error: &anyhow::Error) -> io::Result<()> {
    for (index, cause) in error.chain().enumerate() {
        let label = if index == 0 { "error" } else { "  because" };
        let text = cause.to_string();
        let mut lines = text.lines();
        writeln!(err, "{label}: {}", lines.next().unwrap_or_default())?;
        lines.try_for_each(|line| writeln!(err, "           {line}"))?;
    }
    hints(error).iter().try_for_each(|hint| writeln!(err, "hint: {hint}"))?;
    err.flush()
}

fn error_json(error: &anyhow::Error) -> Value {
    let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
    let mut json = json!({ "error": { "message": error.to_string(), "causes": causes, "hints": hints(error) } });
    if let Some(failed) = error.downcast_ref::<Failed>()
        && let Value::Object(answer) = &failed.answer.json
    {
        answer.iter().for_each(|(key, value)| json[key] = value.clone());
    }
    json
}

/// What to do about an error: the hints of all its causes, each once.
fn hints(error: &anyhow::Error) -> Vec<String> {
    let mut hints = Vec::new();
    for cause in error.chain() {
        let own = cause.downcast_ref::<CliError>().and_then(CliError::hint);
        let system = cause.downcast_ref::<io::Error>().and_then(io_hint);
        let repository = cause.downcast_ref::<relevo_repo::RepoError>().and_then(repository_hint);
        let ceremony = cause.downcast_ref::<relevo_meta::ceremony::CeremonyError>().and_then(ceremony_hint);
        let push = cause.downcast_ref::<PushError>().and_then(push_hint);
        for hint in own.into_iter().chain(system).chain(repository).chain(ceremony).chain(push) {
            if !hints.contains(&hint) {
                hints.push(hint);
            }
        }
    }
    hints
}
