//! What Custota is told of a zip, signed by the key that signed it: `<zip>.csig` beside the package.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use relevo_format::{
    FileAt, ReadAt, avb,
    payload::{Certificate, Message},
};
use relevo_meta::{Ab, AbFile};
use relevo_types::{Sha256, TargetPath};
use serde::Serialize;
use sha2::Digest as _;

use crate::{
    ab_keys::{Part, Signed, Signers},
    builds::Build,
    durable::{self, PUBLIC, read_bytes},
    error::CliError,
    home::{Home, OtaKey},
    packages::Made,
    session::Session,
};

/// Longest signed message that we read back, in bytes.
const MAX_CSIG: u64 = 64 << 10;
/// Longest entry that is hashed here; the others' digests are known.
const MAX_ENTRY: u64 = 16 << 20;
/// What Custota looks for by name.
const NEEDED: [&str; 4] = ["payload_metadata.bin", "payload.bin", "payload_properties.txt", "metadata.pb"];

/// The message, version 2.
///
/// # Source
/// `chenxiaolong/Custota`, README, "csig"; `UpdaterThread.kt`, `CsigInfo`.
#[derive(Debug, Serialize)]
struct Message2<'a> {
    version: u32,
    /// In the order of `ota-property-files`: the app compares them one by one.
    files: Vec<Entry<'a>>,
    /// Of full packages alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    vbmeta_digest: Option<Sha256>,
}

#[derive(Debug, Serialize)]
struct Entry<'a> {
    name: &'a str,
    offset: u64,
    size: u64,
    digest: Sha256,
}

/// Where the message of a package lies.
pub(crate) fn path(package: &Path) -> PathBuf {
    let mut name = package.as_os_str().to_owned();
    name.push(".csig");
    name.into()
}

/// Where it will lie in the repository.
pub(crate) fn target(package: &TargetPath) -> anyhow::Result<TargetPath> {
    let file = format!("{}.csig", package.file());
    TargetPath::new(package.vendor(), package.codename(), package.channel(), &file)
        .with_context(|| format!("no file can be named {file}"))
}

/// `ro.boot.vbmeta.digest` of a phone that runs a build; none if the build does not have all that it is of.
pub(crate) fn vbmeta_digest(home: &Home, build: &Build) -> anyhow::Result<Option<Sha256>> {
    let images = build.open(home)?;
    let image = |name: &str| images.iter().find(|(known, _)| known.as_str() == name).map(|(_, image)| &**image);
    // A build without verified boot, or with a vbmeta that we do not understand, is no reason to stop.
    Ok(avb::build_digest(image).unwrap_or_default())
}

/// Signs what Custota is to be told of a zip, and writes it beside the package.
pub(crate) fn write(session: &Session<'_>, zip: &Path, ab: &Ab, full: bool, signers: &Signers) -> anyhow::Result<()> {
    let Some(certificate) = signers.certificate() else { return Ok(()) };
    let content = match content(zip, ab, full)? {
        Ok(content) => content,
        Err(missing) => {
            session.warn(format!(
                "{}: the zip's metadata do not say where {missing} is, so there is nothing for Custota",
                zip.display()
            ));
            return Ok(());
        }
    };
    let message = Message::new(&content, certificate);
    let message = message.with_context(|| format!("{} has too many entries", zip.display()))?;
    // Signed as the zip is: by its first key.
    let Signed::Signatures(signatures) = signers.sign(Part::Zip, &message.digest())? else { return Ok(()) };
    let signature = signatures.first().context("no key signed what Custota is told")?;
    durable::write_file(&path(zip), &message.with_signature(signature), PUBLIC)?;
    Ok(())
}

/// The message that waits beside a package, checked against package and certificate; none if there is none.
pub(crate) fn check(home: &Home, made: &Made) -> anyhow::Result<Option<PathBuf>> {
    let path = path(&made.path);
    let Some(bytes) = read_bytes(&path, MAX_CSIG)? else { return Ok(None) };
    let damaged = || CliError::Damaged {
        path: path.clone(),
        reason:
            "it is not what the device's key for OTA zips signs for this zip; delete it, and the package goes without \
                 Custota"
                .to_owned(),
    };
    let ab = made.custom.ab.as_ref().ok_or_else(damaged)?;
    let content = content(&made.path, ab, made.custom.from.is_none())?.map_err(|_| damaged())?;
    let OtaKey { cert, .. } = home.ota_key(made.target.codename()).ok_or_else(damaged)?;
    let pem = fs::read(&cert).map_err(|source| CliError::Read { path: cert.clone(), source })?;
    let certificate = Certificate::parse(&pem).map_err(|source| CliError::AbKey { path: cert, source })?;
    let message = Message::new(&content, &certificate).ok_or_else(damaged)?;
    if message.is_signed_as(&bytes) { Ok(Some(path)) } else { Err(damaged().into()) }
}

/// The message's JSON, or what the zip does not say.
fn content(zip: &Path, ab: &Ab, full: bool) -> anyhow::Result<Result<Vec<u8>, String>> {
    let failed = |source| CliError::Read { path: zip.into(), source };
    let file = FileAt::open(zip).map_err(failed)?;
    let mut files = Vec::new();
    for part in ab.property_files.split(',') {
        let mut fields = part.trim_end().split(':');
        let name = fields.next().unwrap_or_default();
        let mut number = || fields.next().and_then(|text| text.parse::<u64>().ok());
        let (Some(offset), Some(size)) = (number(), number()) else { return Ok(Err(format!("{name:?}"))) };
        let end = offset.checked_add(size).filter(|end| *end <= file.len().get());
        if end.is_none() || fields.next().is_some() {
            return Ok(Err(format!("{name:?}")));
        }
        let known = [&ab.payload, &ab.metadata].into_iter().chain(ab.files.values());
        let known = known.into_iter().find(|known| (known.offset.get(), known.size.get()) == (offset, size));
        let digest = match known {
            Some(AbFile { sha256, .. }) => *sha256,
            None if size > MAX_ENTRY => return Ok(Err(format!("{name:?}"))),
            None => {
                let mut bytes = vec![0; usize::try_from(size).context("an entry of at most 16 MiB")?];
                file.read_exact_at(&mut bytes, offset).map_err(failed)?;
                Sha256::new(sha2::Sha256::digest(&bytes).into())
            }
        };
        files.push(Entry { name, offset, size, digest });
    }
    if let Some(missing) = NEEDED.iter().find(|needed| !files.iter().any(|file| file.name == **needed)) {
        return Ok(Err((*missing).to_owned()));
    }
    let vbmeta_digest = ab.vbmeta_digest.filter(|_| full);
    let message = Message2 { version: 2, files, vbmeta_digest };
    Ok(Ok(serde_json::to_vec(&message).context("a message has text keys only")?))
}
