//! `relevo-server account`: who may publish over HTTP.

use std::{fmt::Write as _, fs, io::Read as _, path::Path};

use anyhow::Context as _;
use relevo_meta::keys::PublicKey;
use relevo_repo::push::{Account, Accounts};

use crate::{args::AccountCommand, settings::Settings};

/// Longest key file that is read, in bytes.
const MAX_KEY: u64 = 16 << 10;

/// Does what the command says, and gives what is to be printed.
///
/// # Errors
/// Without `publish` in the settings, for a key file that is none, and the errors of the accounts' files.
pub fn run(command: &AccountCommand, settings: &Settings) -> anyhow::Result<String> {
    let directory = settings.publish.as_deref();
    let directory = directory.context("nobody publishes here: `publish` is not set (--publish DIR, or in --config)")?;
    let accounts = Accounts::new(directory);
    match command {
        AccountCommand::Add { name, key, device, quota, .. } => {
            let keys = key.iter().map(|path| read_key(path)).collect::<anyhow::Result<Vec<_>>>()?;
            let account = Account { name: name.clone(), keys, devices: device.clone(), quota: *quota };
            accounts.add(&account)?;
            Ok(format!("added {}\n", line(&account)))
        }
        AccountCommand::List { .. } => Ok(accounts.list()?.iter().map(|account| line(account) + "\n").collect()),
        AccountCommand::Remove { name, .. } => {
            accounts.remove(name)?;
            Ok(format!("removed {name}; what it published stays\n"))
        }
    }
}

fn read_key(path: &Path) -> anyhow::Result<PublicKey> {
    let mut pem = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(MAX_KEY).read_to_string(&mut pem));
    read.with_context(|| format!("could not read {}", path.display()))?;
    PublicKey::from_pem(&pem).with_context(|| format!("{} is no public key", path.display()))
}

fn line(account: &Account) -> String {
    let devices: Vec<String> = account.devices.iter().map(ToString::to_string).collect();
    let mut line = format!("{}: {}, at most {}", account.name, devices.join(" "), account.quota.human());
    for key in &account.keys {
        let _ = write!(line, ", key {}", key.key_id());
    }
    line
}
