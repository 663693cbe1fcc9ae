//! The keys of a maintainer's directory, and key files given by name.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use anyhow::Context;
use relevo_meta::keys::{FileRandom, KeyError, PrivateKey, PublicKey, ScryptCost};
use zeroize::Zeroizing;

use crate::{
    args::{KeyCost, PassphraseFrom},
    durable::{self, PRIVATE, PUBLIC, read_text},
    error::CliError,
    home::Home,
    session::{Passphrase, Session},
};

/// Longest key file that we read, in bytes.
pub(crate) const MAX_KEY: u64 = 16 << 10;
/// Least length of a new passphrase, in characters. Guessing is slowed down by scrypt, but a copied key file can be
/// guessed at for years.
const MIN_PASSPHRASE: usize = 12;

impl KeyCost {
    /// The cost of opening a key file.
    pub(crate) fn scrypt(self) -> ScryptCost {
        match self {
            Self::Standard => ScryptCost::DEFAULT,
            Self::Low => ScryptCost::QUICK,
        }
    }
}

/// The passphrase of the keys: from the file, the environment or the person, in this order.
pub(crate) fn passphrase(session: &Session<'_>, from: &PassphraseFrom) -> anyhow::Result<Passphrase> {
    given_passphrase(session, from)?.map_or_else(|| Ok(ask(session, "Passphrase of the keys: ")?), Ok)
}

/// The passphrase of keys that will be made: asked for twice, and not too short.
pub(crate) fn new_passphrase(session: &Session<'_>, from: &PassphraseFrom) -> anyhow::Result<Passphrase> {
    checked_new(session, given_passphrase(session, from)?)
}

/// As [`new_passphrase`], from this file alone: the environment holds the old one.
pub(crate) fn replacing_passphrase(session: &Session<'_>, file: Option<&Path>) -> anyhow::Result<Passphrase> {
    let from = PassphraseFrom { passphrase_file: file.map(Path::to_path_buf) };
    let given = if file.is_some() { given_passphrase(session, &from)? } else { None };
    checked_new(session, given)
}

fn checked_new(session: &Session<'_>, given: Option<Passphrase>) -> anyhow::Result<Passphrase> {
    let passphrase = match given {
        Some(passphrase) => passphrase,
        None => {
            let first = ask(session, "New passphrase for the keys: ")?;
            let second = ask(session, "The same again: ")?;
            if first.text() != second.text() {
                return Err(CliError::PassphrasesDiffer.into());
            }
            first
        }
    };
    match passphrase.text().chars().count() {
        len if len < MIN_PASSPHRASE => Err(CliError::ShortPassphrase { len, min: MIN_PASSPHRASE }.into()),
        _ => Ok(passphrase),
    }
}

fn given_passphrase(session: &Session<'_>, from: &PassphraseFrom) -> Result<Option<Passphrase>, CliError> {
    let Some(path) = &from.passphrase_file else { return Ok(session.passphrase.clone()) };
    let read = || -> io::Result<String> {
        let mut line = String::new();
        BufReader::new(File::open(path)?.take(4096)).read_line(&mut line)?;
        Ok(line)
    };
    let line = Zeroizing::new(read().map_err(|source| CliError::Read { path: path.clone(), source })?);
    Ok(Some(Passphrase::new(line.trim_end_matches(['\r', '\n']).to_owned())))
}

fn ask(session: &Session<'_>, prompt: &str) -> Result<Passphrase, CliError> {
    match (session.ask)(prompt) {
        Ok(text) if text.is_empty() => Err(CliError::NoPassphrase),
        Ok(text) => Ok(Passphrase::new(text)),
        Err(_) => Err(CliError::NoPassphrase),
    }
}

/// The key files of a directory.
impl Home {
    pub(crate) fn key_path(&self, role: &str) -> PathBuf {
        self.keys().join(format!("{role}.key"))
    }

    pub(crate) fn public_path(&self, role: &str) -> PathBuf {
        self.keys().join(format!("{role}.pub"))
    }

    /// Opens the key of a role.
    pub(crate) fn key(&self, role: &str, passphrase: &Passphrase) -> Result<PrivateKey, CliError> {
        let path = self.key_path(role);
        open_key(&path, passphrase)
    }

    /// The public half of a role's key; none if there is no such key here.
    pub(crate) fn public_key(&self, role: &str) -> Result<Option<PublicKey>, CliError> {
        let path = self.public_path(role);
        let Some(pem) = read_text(&path, MAX_KEY)? else { return Ok(None) };
        PublicKey::from_pem(&pem).map(Some).map_err(|source| CliError::Key { path, source: Box::new(source) })
    }

    /// Opens the key of a role, or makes it.
    pub(crate) fn key_or_new(
        &self,
        session: &Session<'_>,
        role: &str,
        passphrase: &Passphrase,
    ) -> anyhow::Result<PrivateKey> {
        let key = match self.key(role, passphrase) {
            Err(CliError::NoKey { path }) => {
                let key = PrivateKey::from_random(*session.random::<32>()?);
                durable::make_dir(&self.keys())?;
                write_key(session, &path, &key, passphrase, self.settings.key_cost)?;
                key
            }
            key => key?,
        };
        // Written anew each time it is missing: a cut between the two files leaves the private one alone.
        if self.public_key(role)?.as_ref() != Some(key.public()) {
            durable::write_file(&self.public_path(role), key.public().to_text(role).as_bytes(), PUBLIC)?;
        }
        Ok(key)
    }
}

/// Opens a private key's file.
pub(crate) fn open_key(path: &Path, passphrase: &Passphrase) -> Result<PrivateKey, CliError> {
    let Some(pem) = read_text(path, MAX_KEY)? else { return Err(CliError::NoKey { path: path.into() }) };
    let pem = Zeroizing::new(pem);
    PrivateKey::from_encrypted_pem(&pem, passphrase.text().as_bytes())
        .map_err(|source| CliError::Key { path: path.into(), source: Box::new(source) })
}

/// Writes a private key's file, encrypted.
pub(crate) fn write_key(
    session: &Session<'_>,
    path: &Path,
    key: &PrivateKey,
    passphrase: &Passphrase,
    cost: KeyCost,
) -> anyhow::Result<()> {
    let random = FileRandom { salt: *session.random::<16>()?, iv: *session.random::<16>()? };
    let pem = key
        .to_encrypted_pem(passphrase.text().as_bytes(), random, cost.scrypt())
        .with_context(|| format!("could not make the key {}", path.display()))?;
    durable::write_file(path, pem.as_bytes(), PRIVATE)?;
    Ok(())
}

/// Reads a public key's file.
pub(crate) fn read_public(path: &Path) -> Result<PublicKey, CliError> {
    let Some(pem) = read_text(path, MAX_KEY)? else { return Err(CliError::NoKey { path: path.into() }) };
    PublicKey::from_pem(&pem).map_err(|source| CliError::Key { path: path.into(), source: Box::new(source) })
}

/// Opens private keys given as files: encrypted, or plain PKCS#8 as other tools write it.
pub(crate) fn open_files(
    session: &Session<'_>,
    paths: &[PathBuf],
    from: &PassphraseFrom,
) -> anyhow::Result<Vec<ed25519_dalek::SigningKey>> {
    let mut known: Option<Passphrase> = None;
    paths.iter().map(|path| open_file(session, path, from, &mut known)).collect()
}

fn open_file(
    session: &Session<'_>,
    path: &Path,
    from: &PassphraseFrom,
    known: &mut Option<Passphrase>,
) -> anyhow::Result<ed25519_dalek::SigningKey> {
    use ed25519_dalek::pkcs8::DecodePrivateKey;

    let Some(pem) = read_text(path, MAX_KEY)? else { return Err(CliError::NoKey { path: path.into() }.into()) };
    let pem = Zeroizing::new(pem);
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| CliError::Key { path: path.into(), source };
    if pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        let passphrase = match known {
            Some(passphrase) => passphrase.clone(),
            None => known.insert(passphrase(session, from)?).clone(),
        };
        let key = PrivateKey::from_encrypted_pem(&pem, passphrase.text().as_bytes());
        return Ok(key.map_err(|error: KeyError| failed(Box::new(error)))?.signing_key().clone());
    }
    Ok(ed25519_dalek::SigningKey::from_pkcs8_pem(&pem).map_err(|error| failed(Box::new(error)))?)
}

/// Opens the key of an account with an origin: encrypted by the passphrase, or plain.
pub(crate) fn open_account(session: &Session<'_>, path: &Path, passphrase: &Passphrase) -> anyhow::Result<PrivateKey> {
    let mut known = Some(passphrase.clone());
    let key = open_file(session, path, &PassphraseFrom { passphrase_file: None }, &mut known)?;
    Ok(PrivateKey::from_random(key.to_bytes()))
}

/// Opens public keys given as files.
pub(crate) fn open_public(paths: &[PathBuf]) -> Result<Vec<ed25519_dalek::VerifyingKey>, CliError> {
    paths.iter().map(|path| Ok(*read_public(path)?.verifying_key())).collect()
}
