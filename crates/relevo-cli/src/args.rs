//! The command line: one set of definitions for parsing, `--help`, shell completions and man pages.

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use relevo_delta::ab::cow::{Compression, CowError};
use relevo_types::{BuildId, ByteLen, Channel, Codename, InstallKind, PackageKind, PartitionName, Vendor};

mod trust;

pub use trust::{
    Ceremony, CeremonyFinish, CeremonyLook, CeremonySign, CeremonyStart, GroundFrom, Key, KeyNew, KeyPasswd, Role,
    RoleAdd, RoleExpire, RoleRemove,
};

/// Build, sign and publish updates for community ROMs.
///
/// A maintainer's directory holds keys, device manifests, imported builds, packages and the public repository; `relevo
/// init` makes one. Exit status: 0 done, 1 failed, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "relevo", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Arguments {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// The maintainer's directory [env: RELEVO_DIR] [default: .]
    #[arg(long, value_name = "DIR", global = true)]
    pub dir: Option<PathBuf>,
    /// Print one JSON document on standard output, errors included
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing but what was asked for, warnings and errors; no progress bars
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a maintainer's directory: an empty repository and the keys of its roles
    Init(Init),
    /// Devices that packages are made for
    #[command(subcommand)]
    Device(Device),
    /// Take in a build: a full OTA zip, payload.bin, zip of target files, or a directory of NAME.img
    Import(Import),
    /// Make the deltas that are missing
    Delta(Delta),
    /// Sign the packages that were made and put them into the repository, all at once
    Publish(Publish),
    /// Take a published build back: phones that do not have it yet leave it alone
    Withdraw(Withdraw),
    /// Sign timestamp and snapshot anew, and warn of what expires soon
    Refresh(Refresh),
    /// Keys: files, and programs that sign elsewhere
    #[command(subcommand)]
    Key(Key),
    /// Roles: who signs for what, how many have to, and until when
    #[command(subcommand)]
    Role(Role),
    /// Changes that people far from each other sign, as a file
    #[command(subcommand)]
    Ceremony(Ceremony),
    /// The repository's files
    #[command(subcommand)]
    Repo(Repo),
    /// The transparency log: every signed file that was ever published
    #[command(subcommand)]
    Log(Log),
    /// Package files; no repository needed
    #[command(subcommand)]
    Ota(Ota),
    /// Print a completion script for a shell
    Completions(Completions),
    /// Print the man page, or write one for each command
    Man(Man),
}

/// Where the passphrase of the keys comes from.
#[derive(Debug, Args)]
pub struct PassphraseFrom {
    /// Read the keys' passphrase from the first line of FILE [env: RELEVO_PASSPHRASE, the passphrase itself]
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

/// How much a package may cost to make.
#[derive(Debug, Clone, Args)]
pub struct Effort {
    /// Threads to use; 0 for one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Memory to stay within: bytes, or with a unit
    #[arg(long, value_name = "BYTES", default_value = "1GiB", value_parser = size)]
    pub memory: ByteLen,
    /// Compression level of zstd
    #[arg(long, value_name = "LEVEL", default_value_t = 19, value_parser = clap::value_parser!(i32).range(1..=22))]
    pub level: i32,
}

fn parallel(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=32) => Ok(number),
        _ => Err("expected a number from 1 to 32".to_owned()),
    }
}

fn size(text: &str) -> Result<ByteLen, relevo_types::LengthError> {
    ByteLen::parse(text)
}

/// `relevo init`.
#[derive(Debug, Args)]
pub struct Init {
    /// Directory to make; empty, or left over from an `init` that was cut off
    #[arg(value_name = "DIR")]
    pub path: PathBuf,
    /// How hard guessing the passphrase is made
    #[arg(long, value_enum, default_value_t = KeyCost::Standard)]
    pub key_cost: KeyCost,
    /// Where the passphrase comes from.
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
}

/// Cost of opening a key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyCost {
    /// scrypt, 16 MiB of memory for each guess; as much as openssl opens without being asked to
    #[default]
    Standard,
    /// As good as none: for trials and tests only
    Low,
}

/// `relevo device`.
#[derive(Debug, Subcommand)]
pub enum Device {
    /// Add a device: its manifest, keys for its vendor and itself, and their place in the repository
    Add(Box<DeviceAdd>),
    /// List the devices
    List,
    /// Show a device: manifest, keys, builds
    Show {
        /// Which device
        codename: Codename,
    },
    /// Print how a device is unlocked and gets its first build, in English
    Guide {
        /// A codename, or a file ending in .toml
        #[arg(value_name = "CODENAME|FILE")]
        device: String,
    },
    /// Check manifests, of this directory or any files: mistakes, contradictions, and what two of them claim
    Check {
        /// Codenames, files ending in .toml, or directories of such; files of a directory `guides` are guides [default:
        /// all devices of the directory]
        #[arg(value_name = "CODENAME|FILE|DIR")]
        manifests: Vec<String>,
    },
}

/// `relevo device add`.
#[derive(Debug, Args)]
pub struct DeviceAdd {
    /// The device's codename
    pub codename: Codename,
    /// Take the device's manifest from FILE
    #[arg(long, value_name = "FILE", conflicts_with_all = ["vendor", "kind", "name", "model", "channel", "partition"])]
    pub manifest: Option<PathBuf>,
    /// Who made the device
    #[arg(long, required_unless_present = "manifest")]
    pub vendor: Option<Vendor>,
    /// How it installs updates: ab, block or native
    #[arg(long, required_unless_present = "manifest")]
    pub kind: Option<InstallKind>,
    /// A name that it was sold under; may be repeated
    #[arg(long)]
    pub name: Vec<String>,
    /// A model number; may be repeated
    #[arg(long)]
    pub model: Vec<String>,
    /// A channel; may be repeated [default: stable]
    #[arg(long)]
    pub channel: Vec<Channel>,
    /// A partition that builds bring; may be repeated
    #[arg(long)]
    pub partition: Vec<PartitionName>,
    /// Keep a copy of this private key (PKCS#8), RSA or P-256, for signing A/B OTA zips
    #[arg(long, value_name = "PEM", requires = "ota_cert")]
    pub ota_key: Option<PathBuf>,
    /// The certificate of that key, as phones have it in otacerts.zip (X.509)
    #[arg(long, value_name = "PEM", requires = "ota_key")]
    pub ota_cert: Option<PathBuf>,
    /// Where the passphrase comes from.
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
}

/// `relevo import`.
#[derive(Debug, Args)]
pub struct Import {
    /// Full A/B OTA zip, payload.bin, zip of target files, or directory of NAME.img, raw or Android sparse
    #[arg(value_name = "FILE|DIR")]
    pub from: PathBuf,
    /// Which device it is for
    #[arg(long, value_name = "CODENAME")]
    pub device: Codename,
    /// Which channel it goes to [default: the first of the device's manifest]
    #[arg(long)]
    pub channel: Option<Channel>,
    /// The build's id [default: what the OTA's metadata, build.json or build.prop say]
    #[arg(long)]
    pub build: Option<BuildId>,
    /// The build's date in seconds since 1970 [default: the same]
    #[arg(long, value_name = "SECONDS")]
    pub timestamp: Option<u64>,
    /// The version as people know it [default: the same, else the build's id]
    #[arg(long, value_name = "TEXT")]
    pub version: Option<String>,
    /// SDK level [default: the same]
    #[arg(long, value_name = "N")]
    pub sdk: Option<u32>,
    /// Security patch level, YYYY-MM-DD [default: the same]
    #[arg(long, value_name = "DATE")]
    pub spl: Option<String>,
    /// Make or keep no full package
    #[arg(long)]
    pub no_full: bool,
    /// Take the build in spite of this error, as `findings` name it; may be repeated
    #[arg(long, value_name = "CODE")]
    pub accept: Vec<String>,
    /// How much the full package may cost.
    #[command(flatten)]
    pub effort: Effort,
    /// Where the passphrase of a key for OTA zips comes from.
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
}

/// `relevo delta`.
#[derive(Debug, Args)]
pub struct Delta {
    /// Which device
    pub codename: Codename,
    /// The build to go to [default: the newest]
    #[arg(long, value_name = "BUILD")]
    pub to: Option<BuildId>,
    /// The builds to start from [default: what the manifest's delta policy says]
    #[arg(long, value_name = "BUILD", num_args = 1..)]
    pub from: Vec<BuildId>,
    /// Look at this channel alone [default: all]
    #[arg(long)]
    pub channel: Option<Channel>,
    /// How much a delta may cost.
    #[command(flatten)]
    pub effort: Effort,
    /// Where the passphrase of a key for OTA zips comes from.
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
}

/// `relevo publish`.
#[derive(Debug, Args)]
pub struct Publish {
    /// Publish the packages of these devices alone [default: all]
    pub codenames: Vec<Codename>,
    /// Publish nothing yet: write a proposal to FILE, for the device's other maintainers to sign
    #[arg(long, value_name = "FILE")]
    pub ceremony: Option<PathBuf>,
    /// Publish no new packages: sign those of kind native that are published again, after the device's keys have changed
    #[arg(long, conflicts_with = "ceremony")]
    pub resign: bool,
    /// Publish on the origin at URL, where somebody gave you an account, rather than into this directory
    #[arg(long, value_name = "URL", conflicts_with_all = ["ceremony", "resign"])]
    pub to: Option<String>,
    /// With --to: the private key of that account: Ed25519 (PKCS#8 PEM) [default: keys/origin.key]
    #[arg(long, value_name = "FILE", requires = "to")]
    pub key: Option<PathBuf>,
    /// With --to: requests at once
    #[arg(long, value_name = "N", default_value_t = 4, requires = "to", value_parser = parallel)]
    pub parallel: usize,
    /// With --to: send no more than this in a second: bytes, or with a unit, such as 64KiB
    #[arg(long, value_name = "BYTES", requires = "to", value_parser = size)]
    pub limit: Option<ByteLen>,
    /// With --to: tries of a request that the network broke, with longer and longer pauses of up to a minute
    #[arg(long, value_name = "N", default_value_t = 30, requires = "to")]
    pub retries: usize,
    /// Where the passphrase comes from.
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
}

/// `relevo refresh`.
#[derive(Debug, Args)]
pub struct Refresh {
    /// Sign this role anew too, for a new expiry: root, targets, v-VENDOR or d-CODENAME; may be repeated
    #[arg(long)]
    pub role: Vec<String>,
    /// Where the passphrase comes from.
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
}

/// `relevo withdraw`.
#[derive(Debug, Args)]
pub struct Withdraw {
    /// The device
    pub codename: Codename,
    /// The build
    pub build: BuildId,
    /// Offer it again
    #[arg(long)]
    pub undo: bool,
    /// How it is signed.
    #[command(flatten)]
    pub how: TakenBack,
}

/// How a change of what is offered is signed.
#[derive(Debug, Args)]
pub struct TakenBack {
    /// Publish nothing yet: write a proposal to FILE, for the device's other maintainers to sign
    #[arg(long, value_name = "FILE")]
    pub ceremony: Option<PathBuf>,
    /// Where the passphrase comes from.
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
}

/// `relevo repo retire`.
#[derive(Debug, Args)]
pub struct Retire {
    /// The device
    pub codename: Codename,
    /// Keep the packages that lead to so many of the newest builds of each channel, and to builds that those need first
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub keep: u16,
    /// Look at this channel alone [default: all]
    #[arg(long)]
    pub channel: Option<Channel>,
    /// How it is signed.
    #[command(flatten)]
    pub how: TakenBack,
}

/// `relevo repo`.
#[derive(Debug, Subcommand)]
pub enum Repo {
    /// Check every file of the repository against its metadata
    Check,
    /// Stop offering packages that lead to old builds; the files go with `gc`
    Retire(Box<Retire>),
    /// Remove files that no metadata names any more
    Gc {
        /// Keep so many old versions of each metadata file
        #[arg(long, value_name = "N", default_value_t = 2)]
        keep: u64,
    },
}

/// `relevo log`.
#[derive(Debug, Subcommand)]
pub enum Log {
    /// Begin a log in a repository that has none, or go on with a new key: names it in the root, logs what is there
    Init(LogInit),
    /// Show the newest entries
    Show(LogShow),
    /// Check that a log continues an earlier state, and that files are in it
    Verify(LogVerify),
    /// Hold what several sources show against what was seen before, and raise the alarm on a fork; for cron
    Watch(LogWatch),
}

/// `relevo log init`.
#[derive(Debug, Args)]
pub struct LogInit {
    /// Give up the log that is there and begin another; phones and watchers forget what they knew of the old one
    #[arg(long)]
    pub new: bool,
    /// Publish nothing yet: write a proposal to FILE, for the other keepers of the root to sign
    #[arg(long, value_name = "FILE")]
    pub ceremony: Option<PathBuf>,
    /// Where the passphrase comes from.
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
}

/// `relevo log show`.
#[derive(Debug, Args)]
pub struct LogShow {
    /// A repository's directory or address [default: the one of the maintainer's directory]
    #[arg(value_name = "DIR|URL")]
    pub source: Option<String>,
    /// Show so many entries at most
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub last: u64,
    /// Show those of this role alone, such as d-CODENAME; reads the whole log
    #[arg(long)]
    pub role: Option<String>,
    /// The first root, from which trust starts [default: the source's own, if it is a directory, or that of --dir]
    #[arg(long, value_name = "FILE")]
    pub root: Option<PathBuf>,
}

/// `relevo log verify`.
#[derive(Debug, Args)]
pub struct LogVerify {
    /// A repository's directory or address [default: the one of the maintainer's directory]
    #[arg(value_name = "DIR|URL")]
    pub source: Option<String>,
    /// An earlier or another state that it must be one history with: a file with a checkpoint, a directory or an address
    #[arg(long, value_name = "FILE|DIR|URL")]
    pub since: Option<String>,
    /// A role's file, named VERSION.ROLE.json, that must be in the log; may be repeated
    #[arg(long, value_name = "FILE")]
    pub file: Vec<PathBuf>,
    /// The first root, from which trust starts [default: the source's own, if it is a directory, or that of --dir]
    #[arg(long, value_name = "FILE")]
    pub root: Option<PathBuf>,
}

/// `relevo log watch`.
#[derive(Debug, Args)]
pub struct LogWatch {
    /// Repositories' directories or addresses
    #[arg(value_name = "DIR|URL", required = true)]
    pub sources: Vec<String>,
    /// Directory for what was seen, and for the evidence of a fork
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
    /// The first root, from which trust starts [default: the source's own, if it is a directory, or that of --dir]
    #[arg(long, value_name = "FILE")]
    pub root: Option<PathBuf>,
}

/// `relevo ota`.
#[derive(Debug, Subcommand)]
pub enum Ota {
    /// Show what a package needs, makes and holds
    Inspect {
        /// The package
        package: PathBuf,
    },
    /// Make a package that turns one build into another
    Diff(OtaDiff),
    /// Make the images that a package promises
    Apply(OtaApply),
    /// Take the images out of a full OTA zip, payload or package
    Extract(OtaExtract),
    /// Check a package: structure, every stored stream, signatures
    Verify(OtaVerify),
    /// Sign a package
    Sign(OtaSign),
}

/// `relevo ota diff`.
#[derive(Debug, Args)]
pub struct OtaDiff {
    /// The build to start from: a full OTA zip, its payload.bin, a zip of target files, or a directory of NAME.img
    pub old: PathBuf,
    /// The build to arrive at, in one of the same forms
    pub new: PathBuf,
    /// The package to write: FILE.zip or FILE.bin of kind ab, FILE.rvp of kind native
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Kind of package: ab or native [default: as FILE is named]
    #[arg(long)]
    pub kind: Option<PackageKind>,
    /// Sign with this private key, may be repeated: RSA of 2048 or 4096 bits or P-256 (PEM or .pk8) for ab, ed25519 (PKCS#8
    /// PEM) for native
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,
    /// ab: certificate (X.509) of the first key, which a zip's signature names; may be repeated
    #[arg(long, value_name = "FILE")]
    pub cert: Vec<PathBuf>,
    /// ab: sign nothing; no phone takes it before `relevo ota sign`
    #[arg(long, conflicts_with = "key")]
    pub unsigned: bool,
    /// What an A/B update is to be like.
    #[command(flatten)]
    pub ab: AbOptions,
    /// Say which device it is for
    #[arg(long, value_name = "CODENAME")]
    pub device: Option<Codename>,
    /// Say which build it starts from
    #[arg(long, value_name = "BUILD")]
    pub from: Option<BuildId>,
    /// Say which build it makes
    #[arg(long, value_name = "BUILD")]
    pub to: Option<BuildId>,
    /// Say when that build was made, in seconds since 1970
    #[arg(long, value_name = "SECONDS")]
    pub timestamp: Option<u64>,
    /// How much it may cost.
    #[command(flatten)]
    pub effort: Effort,
    /// Where the passphrase comes from.
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
}

/// What an A/B update is to be like.
#[derive(Debug, Default, Args)]
pub struct AbOptions {
    /// ab: minor version that the old build's update_engine understands [default: as it says, or by its SDK level]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=9))]
    pub minor: Option<u32>,
    /// ab: make none of these operations
    #[arg(long, value_name = "OP", value_enum, value_delimiter = ',')]
    pub without: Vec<Without>,
    /// ab: make hash trees and error correction part of the package, rather than leave them to the phone
    #[arg(long)]
    pub no_verity: bool,
    /// ab: the phone writes differences into its snapshots (ro.virtual_ab.compression.xor.enabled is true on it)
    /// [default: as both builds' vendor partitions say]
    #[arg(long)]
    pub xor: bool,
    /// ab: how the phone compresses its snapshots: none, lz4, or gz, brotli or zstd, each perhaps with a level (zstd,3)
    /// [default: as the old build says]
    #[arg(long, value_name = "NAME", value_parser = snapshot_compression)]
    pub vabc_compression_param: Option<Compression>,
    /// ab: format of the phone's snapshots, at most what both builds know [default: that]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=3))]
    pub vabc_cow_version: Option<u32>,
    /// ab: bytes that snapshots of format 3 compress at a time: 4k, 8k, and so on up to 256k [default: as the builds say]
    #[arg(long, value_name = "BYTES", value_parser = compression_factor)]
    pub compression_factor: Option<u64>,
    /// ab: have the phone make its snapshots without compression
    #[arg(long, conflicts_with_all = ["vabc_compression_param", "vabc_cow_version", "compression_factor"])]
    pub disable_vabc: bool,
    /// ab: leave out partitions that did not change; the phone keeps them
    #[arg(long)]
    pub partial: bool,
    /// ab: erase the phone's data
    #[arg(long)]
    pub wipe: bool,
    /// ab: let the new build be older than the old one; erases the phone's data
    #[arg(long)]
    pub downgrade: bool,
}

fn snapshot_compression(text: &str) -> Result<Compression, CowError> {
    text.parse()
}

/// As AOSP's `ota_from_target_files` has it: kibibytes with a k behind them; also plain bytes, as manifests have it.
fn compression_factor(text: &str) -> Result<u64, String> {
    let (number, unit) = text.strip_suffix(['k', 'K']).map_or((text, 1), |number| (number, 1024));
    let factor = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    let factor = factor.filter(|factor| factor.is_power_of_two() && (4096..=256 << 10).contains(factor));
    factor.ok_or_else(|| "expected 4k, 8k, 16k, 32k, 64k, 128k or 256k".to_owned())
}

/// Operations that may be left out of an A/B update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Without {
    /// SOURCE_BSDIFF
    Bsdiff,
    /// BROTLI_BSDIFF
    Brotli,
    /// PUFFDIFF
    Puffdiff,
    /// ZUCCHINI
    Zucchini,
    /// LZ4DIFF_BSDIFF and LZ4DIFF_PUFFDIFF
    Lz4diff,
    /// REPLACE_XZ
    Xz,
    /// REPLACE_BZ
    Bz,
    /// ZERO
    Zero,
}

/// `relevo ota apply`.
#[derive(Debug, Args)]
pub struct OtaApply {
    /// The package
    pub package: PathBuf,
    /// Directory of NAME.img that the package starts from, or the full OTA zip that they came in; none for a full package
    #[arg(long, value_name = "DIR|ZIP")]
    pub source: Option<PathBuf>,
    /// Directory that the images go to; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// `relevo ota extract`.
#[derive(Debug, Args)]
pub struct OtaExtract {
    /// A full OTA zip, payload.bin or package
    pub package: PathBuf,
    /// Directory that the images go to; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Take these partitions alone; of zips and payloads [default: all]
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub partition: Vec<PartitionName>,
}

/// `relevo ota verify`.
#[derive(Debug, Args)]
pub struct OtaVerify {
    /// The package
    pub package: PathBuf,
    /// A public key (SubjectPublicKeyInfo PEM) that may sign: ed25519, for zips and payloads RSA or P-256; may be repeated
    #[arg(long, value_name = "PEM")]
    pub key: Vec<PathBuf>,
    /// A certificate (X.509 PEM) whose key may sign zips and payloads; may be repeated
    #[arg(long, value_name = "PEM")]
    pub cert: Vec<PathBuf>,
    /// How many of the keys must have signed
    #[arg(long, value_name = "N", default_value_t = 1, requires = "key", value_parser = threshold)]
    pub threshold: usize,
}

fn threshold(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a number of at least 1".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// `relevo ota sign`.
#[derive(Debug, Args)]
pub struct OtaSign {
    /// The package. Signatures are added to one of kind native; those of an A/B zip or payload are replaced
    pub package: PathBuf,
    /// Sign with this private key, may be repeated: RSA of 2048 or 4096 bits or P-256 (PEM or .pk8) for A/B, ed25519 (PKCS#8
    /// PEM) for native
    #[arg(long, value_name = "FILE", required_unless_present = "exchange")]
    pub key: Vec<PathBuf>,
    /// A/B: certificate (X.509) of the first key, which a zip's signature names; with --exchange, of every key
    #[arg(long, value_name = "FILE")]
    pub cert: Vec<PathBuf>,
    /// A/B: the keys are elsewhere. Write what they have to sign into DIR as metadata.sha256 and so on, take what they
    /// signed from metadata.sig and so on; run it again until all is there
    #[arg(long, value_name = "DIR", conflicts_with = "key", requires = "cert")]
    pub exchange: Option<PathBuf>,
    /// The signed package to write; may be the package itself
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Where the passphrase comes from.
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
}

/// `relevo completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// Which shell
    pub shell: Shell,
}

/// `relevo man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Write relevo.1, relevo-init.1 and so on into DIR
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// The definitions as clap's own command.
pub fn command() -> clap::Command {
    Arguments::command()
}
