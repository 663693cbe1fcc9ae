//! Arguments of `key`, `role` and `ceremony`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use relevo_types::Vendor;

use super::{KeyCost, PassphraseFrom};

/// `relevo key`.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make a key: NAME.key, encrypted, and NAME.pub, which may be given to anybody
    New(KeyNew),
    /// List the keys at hand and the roles that each signs for
    List,
    /// Show a public key: its id, in PEM, and what it signs for here
    Show {
        /// A file, or a name in keys/ or relevo.toml
        #[arg(value_name = "FILE|NAME")]
        key: String,
    },
    /// Change the passphrase of key files; the keys stay the same
    Passwd(KeyPasswd),
}

/// `relevo key new`.
#[derive(Debug, Args)]
pub struct KeyNew {
    /// What the key is called: a person or a purpose
    pub name: String,
    /// Write the two files into DIR; no maintainer's directory is needed then [default: keys/]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// How hard guessing the passphrase is made [default: as relevo.toml says]
    #[arg(long, value_enum)]
    pub key_cost: Option<KeyCost>,
    /// Where the passphrase comes from.
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
}

/// `relevo key passwd`.
#[derive(Debug, Args)]
pub struct KeyPasswd {
    /// Key files [default: all of keys/]
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Read the new passphrase from the first line of FILE [default: asked for]
    #[arg(long, value_name = "FILE")]
    pub new_passphrase_file: Option<PathBuf>,
    /// Where the passphrase so far comes from.
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
}

/// `relevo role`.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// List the roles: keys, thresholds, dates, and whether enough keys are at hand
    List,
    /// Show a role and each of its keys
    Show {
        /// Which role: root, targets, snapshot, timestamp, v-VENDOR, d-CODENAME or d-CODENAME-nightly
        role: String,
    },
    /// Let more keys sign for a role; makes the role if it is not there
    Add(RoleAdd),
    /// Let keys no longer sign for a role, or end the role
    Remove(RoleRemove),
    /// Change how many of a role's keys have to sign
    Threshold {
        /// Which role
        role: String,
        /// How many keys
        #[arg(value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
        threshold: u16,
        /// Where the passphrase comes from.
        #[command(flatten)]
        passphrase: PassphraseFrom,
    },
    /// Sign a role anew, with another date
    Expire(RoleExpire),
}

/// `relevo role add`.
#[derive(Debug, Args)]
pub struct RoleAdd {
    /// Which role
    pub role: String,
    /// Public keys: files, or names in keys/
    #[arg(value_name = "KEY", required = true)]
    pub keys: Vec<String>,
    /// How many of all its keys have to sign from now on [default: as so far; 1 for a new role]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threshold: Option<u16>,
    /// Whose device it is, for a new device's role [default: as its manifest says]
    #[arg(long)]
    pub vendor: Option<Vendor>,
    /// Where the passphrase comes from.
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
}

/// `relevo role remove`.
#[derive(Debug, Args)]
pub struct RoleRemove {
    /// Which role
    pub role: String,
    /// Keys: files, names in keys/, or the beginning of their ids
    #[arg(value_name = "KEY", required_unless_present = "retire")]
    pub keys: Vec<String>,
    /// End the whole role: nothing that it signs counts any more
    #[arg(long, conflicts_with = "keys")]
    pub retire: bool,
    /// How many of the keys that stay have to sign [default: as so far]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threshold: Option<u16>,
    /// Where the passphrase comes from.
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
}

/// `relevo role expire`.
#[derive(Debug, Args)]
pub struct RoleExpire {
    /// Which role
    pub role: String,
    /// So many days from now [default: as relevo.toml says for such a role]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3650), conflicts_with = "on")]
    pub days: Option<u32>,
    /// On this date, as 2027-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    pub on: Option<Timestamp>,
    /// Where the passphrase comes from.
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
}

/// `relevo ceremony`.
#[derive(Debug, Subcommand)]
pub enum Ceremony {
    /// Propose changes: write a file for others to sign
    Start(Box<CeremonyStart>),
    /// Say what a proposal changes, against your own copy of the repository
    Show(CeremonyLook),
    /// Sign a proposal with your own key, after looking at it
    Sign(CeremonySign),
    /// Say who has signed and who is missing, over one or more copies of a proposal
    Status(CeremonyLook),
    /// Publish a proposal that enough have signed
    Finish(CeremonyFinish),
}

/// `relevo ceremony start`.
#[derive(Debug, Args)]
pub struct CeremonyStart {
    /// The file to write
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Let a key sign for a role; makes the role if it is not there; may be repeated
    #[arg(long, value_name = "ROLE=KEY", value_parser = pair)]
    pub add: Vec<(String, String)>,
    /// Let a key no longer sign for a role; may be repeated
    #[arg(long, value_name = "ROLE=KEY", value_parser = pair)]
    pub remove: Vec<(String, String)>,
    /// Change how many of a role's keys have to sign; may be repeated
    #[arg(long, value_name = "ROLE=N", value_parser = pair)]
    pub threshold: Vec<(String, String)>,
    /// Sign a role anew with this date, as 2027-01-31T00:00:00Z; may be repeated
    #[arg(long, value_name = "ROLE=TIME", value_parser = pair)]
    pub expire: Vec<(String, String)>,
    /// Sign a role anew as it is; may be repeated
    #[arg(long, value_name = "ROLE")]
    pub renew: Vec<String>,
    /// End a role; may be repeated
    #[arg(long, value_name = "ROLE")]
    pub retire: Vec<String>,
    /// Whose device it is, for new roles of devices [default: as their manifests say]
    #[arg(long)]
    pub vendor: Option<Vendor>,
}

/// `relevo ceremony show` and `status`.
#[derive(Debug, Args)]
pub struct CeremonyLook {
    /// The proposal; more than one if several people signed copies of it
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// What it is compared with.
    #[command(flatten)]
    pub ground: GroundFrom,
}

/// `relevo ceremony sign`.
#[derive(Debug, Args)]
pub struct CeremonySign {
    /// The proposal; the signature is added to it
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Your key: its file, or its name in keys/ or relevo.toml; may be repeated [default: every key at hand that is asked]
    #[arg(long, value_name = "FILE|NAME")]
    pub key: Vec<String>,
    /// Write the signed copy here instead
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Sign without asking
    #[arg(long)]
    pub yes: bool,
    /// What it is compared with.
    #[command(flatten)]
    pub ground: GroundFrom,
    /// Where the passphrase comes from.
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
}

/// `relevo ceremony finish`.
#[derive(Debug, Args)]
pub struct CeremonyFinish {
    /// The proposal; more than one if several people signed copies of it
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Where the passphrase comes from.
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
}

/// The reader's own copy of the repository.
#[derive(Debug, Args)]
pub struct GroundFrom {
    /// Your own copy of the repository, with metadata/ in it [default: repo/ of the maintainer's directory]
    #[arg(long, value_name = "DIR")]
    pub repository: Option<PathBuf>,
    /// The first root as you have it; the copy has to begin with it
    #[arg(long, value_name = "FILE", requires = "repository")]
    pub root: Option<PathBuf>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((role, value)) if !role.is_empty() && !value.is_empty() => Ok((role.to_owned(), value.to_owned())),
        _ => Err("expected ROLE=VALUE".to_owned()),
    }
}
