//! The command line of `relevo-server`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use relevo_repo::push::AccountName;
use relevo_types::{ByteLen, Codename};

use crate::settings::{Layer, Settings, SettingsError};

/// Serves signed update packages and their metadata over HTTP.
#[derive(Debug, Parser)]
#[command(name = "relevo-server", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a repository until SIGTERM or Ctrl-C
    Serve(SettingsArgs),
    /// Bring the database up to date and make its index from the repository
    Migrate(SettingsArgs),
    /// Who may publish over HTTP
    #[command(subcommand)]
    Account(AccountCommand),
}

/// `relevo-server account`.
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Add an account; it counts at once, also while the server runs
    Add {
        /// Its name: a-z, 0-9 and -
        name: AccountName,
        /// A public Ed25519 key (PEM) whose holder speaks for it; may be repeated
        #[arg(long, value_name = "PEM", required = true)]
        key: Vec<PathBuf>,
        /// A device that it may publish; may be repeated
        #[arg(long, value_name = "CODENAME", required = true)]
        device: Vec<Codename>,
        /// How much its devices' files and its unfinished uploads may have together: bytes, or with a unit
        #[arg(long, value_name = "BYTES", default_value = "64GiB", value_parser = size)]
        quota: ByteLen,
        /// Where the accounts are.
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// List the accounts
    List {
        /// Where the accounts are.
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Remove an account; what it published stays
    Remove {
        /// Its name
        name: AccountName,
        /// Where the accounts are.
        #[command(flatten)]
        settings: SettingsArgs,
    },
}

impl AccountCommand {
    /// Where the settings come from.
    pub fn settings(&self) -> &SettingsArgs {
        let (Self::Add { settings, .. } | Self::List { settings } | Self::Remove { settings, .. }) = self;
        settings
    }
}

fn size(text: &str) -> Result<ByteLen, relevo_types::LengthError> {
    ByteLen::parse(text)
}

/// Where the settings come from: a flag wins over a RELEVO_* variable, that over the file, that over the default.
#[derive(Debug, Clone, Args)]
pub struct SettingsArgs {
    /// Configuration file (TOML)
    #[arg(long, env = "RELEVO_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the settings in force as TOML, and do nothing else
    #[arg(long)]
    pub print_config: bool,
    /// Settings by flag or variable.
    #[command(flatten)]
    pub layer: Layer,
}

impl SettingsArgs {
    /// Reads the file, if there is one, and puts the settings together.
    ///
    /// # Errors
    /// [`SettingsError`] naming the file, key or value that is wrong.
    pub fn settings(&self) -> Result<Settings, SettingsError> {
        let file = self.config.as_deref().map(Layer::from_file).transpose()?.unwrap_or_default();
        self.layer.clone().or(file).settings()
    }
}
