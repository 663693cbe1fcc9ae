//! The `relevo` command for ROM maintainers.
//!
//! `main` takes arguments, clock, randomness and terminal from the process and calls [`run`]; everything below can be
//! called from a test with a [`Context`] of its own.
//!
//! # Examples
//! ```
//! use std::{io, sync::atomic::AtomicBool};
//!
//! let (mut out, mut err, stop) = (Vec::new(), Vec::new(), AtomicBool::new(false));
//! let mut context = relevo_cli::Context {
//!     now: "2026-01-01T00:00:00Z".parse()?,
//!     dir: None,
//!     passphrase: None,
//!     ask: &|_| Err(io::ErrorKind::Unsupported.into()),
//!     random: &|bytes| Ok(bytes.fill(7)),
//!     out: &mut out,
//!     err: &mut err,
//!     terminal: false,
//!     stop: &stop,
//! };
//!
//! let status = relevo_cli::run(["relevo", "completions", "bash"], &mut context);
//!
//! assert_eq!(status, 0);
//! assert!(String::from_utf8(out)?.contains("_relevo()"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod ab_keys;
mod ab_package;
pub mod args;
mod build_source;
mod builds;
mod changes;
mod command;
mod csig;
mod durable;
mod error;
mod external;
mod facts;
mod home;
mod keyring;
mod keys;
mod lint;
mod log_source;
mod packages;
mod progress;
mod push;
mod repository;
mod session;

use std::{ffi::OsString, io};

use clap::{Parser, error::ErrorKind};
use serde_json::json;

use crate::{
    args::{Arguments, Ceremony, Command, Device, Key, Log, Ota, Repo, Role},
    session::{Answer, Session},
};
pub use crate::{
    error::CliError,
    session::{Context, Passphrase},
};

/// Status of a command that did what it was asked.
pub const DONE: u8 = 0;
/// Status of a command that failed.
pub const FAILED: u8 = 1;
/// Status of a command line that could not be understood.
pub const USAGE: u8 = 2;

/// Runs one command line, the program's name first, and gives its exit status.
pub fn run<A>(args: impl IntoIterator<Item = A>, context: &mut Context<'_>) -> u8
where
    A: Into<OsString> + Clone,
{
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let printed = match Arguments::try_parse_from(&args) {
        Ok(arguments) => {
            let session = Session::new(context, &arguments.global);
            let result = dispatch(&session, &arguments.command);
            session::print(context, &arguments.global, &session, result)
        }
        Err(error) => print_usage(context, &args, &error),
    };
    match printed {
        Ok(status) => status,
        // Who closed the pipe (`relevo … | head`) wants no more, and nobody is left to be told of any other error.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => DONE,
        Err(_) => FAILED,
    }
}

fn dispatch(session: &Session<'_>, command: &Command) -> anyhow::Result<Answer> {
    match command {
        Command::Init(args) => command::init::run(session, args),
        Command::Device(Device::Add(args)) => command::device::add(session, args),
        Command::Device(Device::List) => command::device::list(session),
        Command::Device(Device::Show { codename }) => command::device::show(session, codename),
        Command::Device(Device::Guide { device }) => command::device_guide::guide(session, device),
        Command::Device(Device::Check { manifests }) => command::device_check::check(session, manifests),
        Command::Import(args) => command::import::run(session, args),
        Command::Delta(args) => command::delta::run(session, args),
        Command::Publish(args) => command::publish::run(session, args),
        Command::Withdraw(args) => command::offer::withdraw(session, args),
        Command::Repo(Repo::Retire(args)) => command::offer::retire(session, args),
        Command::Refresh(args) => command::refresh::run(session, args),
        Command::Key(Key::New(args)) => command::key::new(session, args),
        Command::Key(Key::List) => command::key::list(session),
        Command::Key(Key::Show { key }) => command::key::show(session, key),
        Command::Key(Key::Passwd(args)) => command::key::passwd(session, args),
        Command::Role(Role::List) => command::role::list(session),
        Command::Role(Role::Show { role }) => command::role::show(session, role),
        Command::Role(Role::Add(args)) => command::role::add(session, args),
        Command::Role(Role::Remove(args)) => command::role::remove(session, args),
        Command::Role(Role::Threshold { role, threshold, passphrase }) => {
            command::role::threshold(session, role, *threshold, passphrase)
        }
        Command::Role(Role::Expire(args)) => command::role::expire(session, args),
        Command::Ceremony(Ceremony::Start(args)) => command::ceremony::start(session, args),
        Command::Ceremony(Ceremony::Show(args)) => command::ceremony::show(session, args),
        Command::Ceremony(Ceremony::Sign(args)) => command::ceremony::sign(session, args),
        Command::Ceremony(Ceremony::Status(args)) => command::ceremony::status(session, args),
        Command::Ceremony(Ceremony::Finish(args)) => command::ceremony::finish(session, args),
        Command::Repo(Repo::Check) => command::repo::check(session),
        Command::Repo(Repo::Gc { keep }) => command::repo::gc(session, *keep),
        Command::Log(Log::Init(args)) => command::log::init(session, args),
        Command::Log(Log::Show(args)) => command::log::show(session, args),
        Command::Log(Log::Verify(args)) => command::log::verify(session, args),
        Command::Log(Log::Watch(args)) => command::log::watch(session, args),
        Command::Ota(Ota::Inspect { package }) => command::ota::inspect(session, package),
        Command::Ota(Ota::Diff(args)) => command::ota::diff(session, args),
        Command::Ota(Ota::Apply(args)) => command::ota::apply(session, args),
        Command::Ota(Ota::Extract(args)) => command::ota::extract(session, args),
        Command::Ota(Ota::Verify(args)) => command::ota::verify(session, args),
        Command::Ota(Ota::Sign(args)) => command::ota::sign(session, args),
        Command::Completions(args) => command::generate::completions(args),
        Command::Man(args) => command::generate::man(args),
    }
}

/// Prints help, the version, or what is wrong with the command line.
fn print_usage(context: &mut Context<'_>, args: &[OsString], error: &clap::Error) -> io::Result<u8> {
    let text = error.render();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        write!(context.out, "{text}")?;
        context.out.flush()?;
        return Ok(DONE);
    }
    if args.iter().any(|argument| argument == "--json") {
        let text = text.to_string();
        let message = text.strip_prefix("error: ").unwrap_or(&text).lines().next().unwrap_or_default();
        let hints = ["`relevo help` lists the commands, `relevo COMMAND --help` their options"];
        session::print_json(context.out, &json!({ "error": { "message": message, "causes": [], "hints": hints } }))?;
    } else {
        write!(context.err, "{text}")?;
        context.err.flush()?;
    }
    Ok(USAGE)
}
