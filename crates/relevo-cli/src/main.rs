//! `relevo`: takes arguments, environment, clock, randomness and terminal from the process.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

use relevo_cli::{Context, Passphrase};

#[expect(clippy::disallowed_methods, reason = "this is where environment and clock are read")]
fn main() -> ExitCode {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The first signal asks long work to stop and clean up; a second one ends the process at once. Where neither
        // can be arranged the signal ends it as ever, and nothing half-written has a final name either way.
        let _ = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop));
        let _ = signal_hook::flag::register(signal, Arc::clone(&stop));
    }
    let mut context = Context {
        now: jiff::Timestamp::now(),
        dir: std::env::var_os("RELEVO_DIR").map(Into::into),
        passphrase: std::env::var("RELEVO_PASSPHRASE").ok().map(Passphrase::new),
        ask: &|prompt| {
            if io::stdin().is_terminal() {
                rpassword::prompt_password(prompt)
            } else {
                Err(io::ErrorKind::Unsupported.into())
            }
        },
        random: &|bytes| getrandom::fill(bytes).map_err(io::Error::other),
        out: &mut io::stdout().lock(),
        err: &mut io::stderr(),
        terminal: io::stderr().is_terminal(),
        stop: &stop,
    };
    ExitCode::from(relevo_cli::run(std::env::args_os(), &mut context))
}
