//! Keys that are elsewhere: a program that is asked for each signature, such as one that talks to a hardware token or to
//! another machine.
//!
//! The program gets one JSON object on standard input and answers with one on standard output; signing/README.md has the
//! form. Its standard error is the terminal's, so that it can ask for a touch. What it answers is verified before it is
//! used, so that a wrong answer is an error here and not a refusal on a phone.

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Condvar, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use relevo_meta::keys::{PublicKey, SignError, Signer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest answer that is read, in bytes; a signature with its JSON has 110.
const MAX_ANSWER: u64 = 16 << 10;
/// How often a program that said all it had to say is asked whether it has ended.
const PROBE: Duration = Duration::from_millis(10);

/// `[[signer]]` of `relevo.toml`: a key that a program signs with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignerSettings {
    /// What the key is called here.
    pub(crate) name: String,
    /// File with its public half; relative to the maintainer's directory.
    pub(crate) public_key: PathBuf,
    /// The program and its arguments; a path with a `/` is relative to the maintainer's directory.
    pub(crate) command: Vec<String>,
    /// How long it may take.
    #[serde(default = "two_minutes")]
    pub(crate) timeout_seconds: u64,
    /// Ask it for these roles alone; for all that list its key if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) roles: Vec<String>,
}

fn two_minutes() -> u64 {
    120
}

impl SignerSettings {
    pub(crate) fn check(&self) -> Result<(), String> {
        let name = &self.name;
        if self.command.first().is_none_or(String::is_empty) {
            return Err(format!("signer {name:?} has no command"));
        }
        if !(1..=3600).contains(&self.timeout_seconds) {
            return Err(format!("signer {name:?} has timeout_seconds = {}; expected 1 to 3600", self.timeout_seconds));
        }
        Ok(())
    }

    /// Whether it is meant for the role.
    pub(crate) fn is_for(&self, role: &str) -> bool {
        self.roles.is_empty() || self.roles.iter().any(|known| known == role)
    }
}

/// Why a program did not sign.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("could not start {program}")]
    Start { program: String, source: io::Error },
    #[error("{program} did not answer within {seconds} s and was stopped")]
    Timeout { program: String, seconds: u64 },
    #[error("{program} ended with {status}")]
    Status { program: String, status: ExitStatus },
    #[error("{program} answered more than {MAX_ANSWER} bytes")]
    TooLong { program: String },
    #[error("{program} answered something else than {{\"signature\": BASE64}}")]
    Answer { program: String, source: serde_json::Error },
    #[error("{program} refused: {reason}")]
    Refused { program: String, reason: String },
    #[error("{program} answered a signature that is not this key's over this message")]
    WrongSignature { program: String },
    #[error("could not talk to {program}")]
    Talk { program: String, source: io::Error },
}

/// A key that a program signs with.
#[derive(Debug, Clone)]
pub(crate) struct CommandSigner {
    settings: SignerSettings,
    /// What relative paths start from.
    dir: PathBuf,
    public: PublicKey,
    /// What it signs for.
    subject: String,
}

#[derive(Serialize)]
struct Request<'a> {
    relevo_signer: u32,
    key_id: String,
    public_key: String,
    /// The role, or what a package is.
    subject: &'a str,
    /// What will be signed, in words.
    what: String,
    /// The bytes to be signed, as they are: Ed25519 hashes them itself.
    message: String,
}

#[derive(Deserialize)]
struct Answer {
    signature: Option<String>,
    error: Option<String>,
}

impl CommandSigner {
    pub(crate) fn new(settings: &SignerSettings, dir: &Path, public: PublicKey, subject: &str) -> Self {
        Self { settings: settings.clone(), dir: dir.to_owned(), public, subject: subject.to_owned() }
    }

    fn program(&self) -> String {
        self.settings.command[0].clone()
    }

    fn ask(&self, message: &[u8]) -> Result<[u8; 64], CommandError> {
        let program = || self.program();
        let request = Request {
            relevo_signer: 1,
            key_id: self.public.key_id(),
            public_key: STANDARD.encode(self.public.verifying_key().as_bytes()),
            subject: &self.subject,
            what: in_words(&self.subject, message),
            message: STANDARD.encode(message),
        };
        let mut request = serde_json::to_vec(&request).expect("texts and a number can be written");
        request.push(b'\n');
        let answer = self.run(request)?;
        let answer: Answer =
            serde_json::from_slice(&answer).map_err(|source| CommandError::Answer { program: program(), source })?;
        if let Some(reason) = answer.error {
            let reason = reason.chars().filter(|c| !c.is_control()).take(300).collect();
            return Err(CommandError::Refused { program: program(), reason });
        }
        let signature = answer.signature.and_then(|text| STANDARD.decode(text.trim()).ok()).unwrap_or_default();
        let signature =
            <[u8; 64]>::try_from(signature).ok().filter(|signature| self.public.verifies(message, signature));
        signature.ok_or_else(|| CommandError::WrongSignature { program: program() })
    }

    /// Runs the program to its end and gives what it wrote.
    fn run(&self, request: Vec<u8>) -> Result<Vec<u8>, CommandError> {
        let [first, arguments @ ..] = self.settings.command.as_slice() else { unreachable!("settings were checked") };
        let path = if first.contains('/') { self.dir.join(first) } else { PathBuf::from(first) };
        let started = Command::new(path)
            .args(arguments)
            .current_dir(if self.dir.as_os_str().is_empty() { Path::new(".") } else { &self.dir })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = started.map_err(|source| CommandError::Start { program: self.program(), source })?;
        let timeout = Duration::from_secs(self.settings.timeout_seconds);
        let result = self.talk(&mut child, request, timeout);
        if result.is_err() {
            // It may have ended already, or be about to; what matters is that nobody waits for it.
            drop(child.kill());
            drop(child.wait());
        }
        result
    }

    fn talk(&self, child: &mut Child, request: Vec<u8>, timeout: Duration) -> Result<Vec<u8>, CommandError> {
        let program = || self.program();
        let late = || CommandError::Timeout { program: program(), seconds: timeout.as_secs() };
        let begun = Instant::now();
        let mut input = child.stdin.take().expect("it is piped");
        let output = child.stdout.take().expect("it is piped");
        // A program that does not read what it is asked can still answer, or be stopped: nobody waits for either thread.
        thread::spawn(move || drop(input.write_all(&request)));
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = output.take(MAX_ANSWER + 1).read_to_end(&mut bytes).map(|_| bytes);
            drop(sender.send(read));
        });
        let read = receiver.recv_timeout(timeout).map_err(|_| late())?;
        let bytes = read.map_err(|source| CommandError::Talk { program: program(), source })?;
        if bytes.len() as u64 > MAX_ANSWER {
            return Err(CommandError::TooLong { program: program() });
        }
        let (lock, ended) = (Mutex::new(()), Condvar::new());
        let status = loop {
            if let Some(status) =
                child.try_wait().map_err(|source| CommandError::Talk { program: program(), source })?
            {
                break status;
            }
            if begun.elapsed() > timeout {
                return Err(late());
            }
            let guard = lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            drop(ended.wait_timeout(guard, PROBE));
        };
        if status.success() { Ok(bytes) } else { Err(CommandError::Status { program: program(), status }) }
    }
}

impl Signer for CommandSigner {
    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        self.ask(message).map_err(|error| SignError { key_id: self.key_id(), source: Box::new(error) })
    }
}

/// What a message is, for whoever stands in front of the token.
fn in_words(subject: &str, message: &[u8]) -> String {
    let signed: Value = serde_json::from_slice(message).unwrap_or(Value::Null);
    match (signed.get("version").and_then(Value::as_u64), signed.get("expires").and_then(Value::as_str)) {
        (Some(version), Some(expires)) => format!("version {version} of the role {subject}, valid until {expires}"),
        _ => subject.to_owned(),
    }
}
