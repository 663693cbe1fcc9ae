//! `relevo-server`: reads arguments, environment and clock, then calls the library.

use std::{io, process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::Parser;
use relevo_server::{
    Application, Clock,
    args::{Cli, Command},
    settings::{Passphrase, Settings},
    telemetry,
};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let args = match &cli.command {
        Command::Serve(args) | Command::Migrate(args) => args,
        Command::Account(command) => command.settings(),
    };
    let settings = args.settings()?;
    if args.print_config {
        print!("{}", settings.to_toml());
        return Ok(());
    }
    if let Command::Account(command) = &cli.command {
        print!("{}", relevo_server::account::run(command, &settings)?);
        return Ok(());
    }
    telemetry::init(&settings, io::stderr)?;
    #[expect(clippy::disallowed_methods, reason = "main.rs is where the clock is read")]
    let clock: Clock = Arc::new(jiff::Timestamp::now);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("could not start")?;
    runtime.block_on(async {
        match cli.command {
            Command::Serve(_) => serve(settings, clock).await,
            Command::Migrate(_) | Command::Account(_) => {
                println!("{}", relevo_server::migrate(&settings).await?);
                Ok(())
            }
        }
    })
}

async fn serve(settings: Settings, clock: Clock) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("could not listen for SIGINT")?;
    let repository = settings.repository.clone();
    #[expect(clippy::disallowed_methods, reason = "main.rs is where the environment is read")]
    let passphrase = std::env::var("RELEVO_PASSPHRASE").ok().map(Passphrase::new);
    let application = Application::build_with(settings, clock, passphrase).await?;
    tracing::info!(address = %application.address(), repository = %repository.display(), "serving");
    application
        .run_until(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await
        .context("the server stopped")
}
