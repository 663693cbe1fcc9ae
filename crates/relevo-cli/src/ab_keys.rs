//! Who signs an A/B update: keys in files, or keys elsewhere that are asked by exchange of files.

use std::path::{Path, PathBuf};

use anyhow::Context;
use relevo_format::payload::{Certificate, KeyKind, PrivateKey, PrivateKeyError, WriteError};
use relevo_types::Sha256;
use zeroize::Zeroizing;

use crate::{
    args::PassphraseFrom,
    durable::{PUBLIC, make_dir, read_bytes, write_file},
    error::CliError,
    keys::passphrase,
    session::{Passphrase, Session},
};

/// Longest key or certificate file that we read, in bytes.
const MAX_KEY: u64 = 64 << 10;
/// Longest signature, in bytes; one of RSA-4096 has 512.
const MAX_SIGNATURE: u64 = 1 << 10;

/// Who signs.
pub(crate) enum Signers {
    /// Nobody: no phone takes it.
    Nobody,
    /// Keys at hand; the certificate is the first one's.
    Keys(Vec<PrivateKey>, Option<Certificate>),
    /// Keys elsewhere, by their certificates.
    Exchange(Vec<Certificate>, Exchange),
}

/// What of an update is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Header and manifest of the payload.
    Metadata,
    /// The payload.
    Payload,
    /// The whole zip.
    Zip,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Payload => "payload",
            Self::Zip => "zip",
        }
    }
}

/// A directory that digests are written to, and signatures are read from.
pub(crate) struct Exchange {
    dir: PathBuf,
}

impl Exchange {
    fn digest_path(&self, part: Part) -> PathBuf {
        self.dir.join(format!("{}.sha256", part.name()))
    }

    /// Where the signature of the `index`th key is expected.
    fn signature_path(&self, part: Part, index: usize) -> PathBuf {
        let name = part.name();
        self.dir.join(if index == 0 { format!("{name}.sig") } else { format!("{name}.{}.sig", index + 1) })
    }
}

/// Signatures, or the files that they are to be put into first.
pub(crate) enum Signed {
    Signatures(Vec<Vec<u8>>),
    Waiting(Vec<PathBuf>),
}

impl Signers {
    /// Opens keys and certificates. A zip's signature names its key by a certificate, so a zip needs one.
    pub(crate) fn open(
        session: &Session<'_>,
        keys: &[PathBuf],
        certificates: &[PathBuf],
        exchange: Option<&Path>,
        zip: bool,
        from: &PassphraseFrom,
    ) -> anyhow::Result<Self> {
        let certificates: Vec<_> = certificates.iter().map(|path| open_certificate(path)).collect::<Result<_, _>>()?;
        if let Some(dir) = exchange {
            if certificates.is_empty() {
                return Err(CliError::ExchangeCertificate.into());
            }
            make_dir(dir)?;
            return Ok(Self::Exchange(certificates, Exchange { dir: dir.into() }));
        }
        let mut known: Option<Passphrase> = None;
        let keys: Vec<_> =
            keys.iter().map(|path| open_key(session, path, from, &mut known)).collect::<anyhow::Result<_>>()?;
        let Some(first) = keys.first() else { return Ok(Self::Nobody) };
        let certificate = certificates.iter().find(|certificate| certificate.key() == first.public()).cloned();
        if zip && certificate.is_none() {
            return Err(CliError::NoCertificate { given: certificates.len() }.into());
        }
        Ok(Self::Keys(keys, certificate))
    }

    /// Kinds of the keys, in their order.
    pub(crate) fn kinds(&self) -> Vec<KeyKind> {
        match self {
            Self::Nobody => Vec::new(),
            Self::Keys(keys, _) => keys.iter().map(|key| key.public().kind()).collect(),
            Self::Exchange(certificates, _) => {
                certificates.iter().map(|certificate| certificate.key().kind()).collect()
            }
        }
    }

    /// The certificate of who signs the whole file.
    pub(crate) fn certificate(&self) -> Option<&Certificate> {
        match self {
            Self::Nobody => None,
            Self::Keys(_, certificate) => certificate.as_ref(),
            Self::Exchange(certificates, _) => certificates.first(),
        }
    }

    /// Has `digest` signed: a payload by all keys, a zip by the first one.
    pub(crate) fn sign(&self, part: Part, digest: &Sha256) -> anyhow::Result<Signed> {
        let count = if part == Part::Zip { 1 } else { usize::MAX };
        match self {
            Self::Nobody => Ok(Signed::Signatures(Vec::new())),
            Self::Keys(keys, _) => {
                let sign = |key: &PrivateKey| Ok(key.sign(digest).map_err(WriteError::from)?);
                Ok(Signed::Signatures(keys.iter().take(count).map(sign).collect::<anyhow::Result<_>>()?))
            }
            Self::Exchange(certificates, exchange) => {
                exchange.sign(part, digest, &certificates[..count.min(certificates.len())])
            }
        }
    }
}

impl Exchange {
    fn sign(&self, part: Part, digest: &Sha256, certificates: &[Certificate]) -> anyhow::Result<Signed> {
        write_file(&self.digest_path(part), digest.as_bytes(), PUBLIC)?;
        let (mut signatures, mut waiting) = (Vec::new(), Vec::new());
        for (index, certificate) in certificates.iter().enumerate() {
            let path = self.signature_path(part, index);
            match read_bytes(&path, MAX_SIGNATURE)? {
                Some(signature) if certificate.key().verify(digest, &signature) => signatures.push(signature),
                Some(_) => {
                    let digest = self.digest_path(part);
                    return Err(CliError::OtherSignature { path, digest, key: index + 1 }.into());
                }
                None => waiting.push(path),
            }
        }
        Ok(if waiting.is_empty() { Signed::Signatures(signatures) } else { Signed::Waiting(waiting) })
    }
}

fn open_certificate(path: &Path) -> Result<Certificate, CliError> {
    let Some(bytes) = read_bytes(path, MAX_KEY)? else { return Err(CliError::NoKey { path: path.into() }) };
    Certificate::parse(&bytes).map_err(|source| CliError::AbKey { path: path.into(), source })
}

fn open_key(
    session: &Session<'_>,
    path: &Path,
    from: &PassphraseFrom,
    known: &mut Option<Passphrase>,
) -> anyhow::Result<PrivateKey> {
    let Some(bytes) = read_bytes(path, MAX_KEY)? else { return Err(CliError::NoKey { path: path.into() }.into()) };
    let bytes = Zeroizing::new(bytes);
    let refused = |source| CliError::AbPrivateKey { path: path.into(), source };
    match PrivateKey::parse(&bytes, None) {
        Err(PrivateKeyError::NoPassphrase) => {}
        result => return Ok(result.map_err(refused)?),
    }
    let passphrase = match known {
        Some(passphrase) => passphrase.clone(),
        None => {
            let found = passphrase(session, from).with_context(|| format!("{} is encrypted", path.display()))?;
            known.insert(found).clone()
        }
    };
    Ok(PrivateKey::parse(&bytes, Some(passphrase.text().as_bytes())).map_err(refused)?)
}
