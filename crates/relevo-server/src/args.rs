//! The command line of `relevo-server`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

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
