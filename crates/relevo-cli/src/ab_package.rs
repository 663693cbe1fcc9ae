//! Writes A/B updates: a zip, or a bare payload with its properties beside it.

use std::{
    io::{BufWriter, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use relevo_format::{
    FileAt, ReadAt, Section,
    ota_zip::{self, Contents, Layout, Metadata, OtaZip, PAYLOAD},
    payload::{self, Limits, Manifest, Payload, Properties, Unsigned, WriteError},
};
use relevo_types::{ByteLen, Sha256};
use sha2::Digest as _;

use crate::{
    ab_keys::{Part, Signed, Signers},
    durable::{Draft, PUBLIC},
    error::CliError,
    progress::Bars,
};

/// Bytes that are hashed or written at a time.
const BUFFER: usize = 1 << 20;

/// An update that is to be written.
pub(crate) struct AbPackage<'a> {
    pub(crate) manifest: &'a Manifest,
    /// What the operations' data offsets count in.
    pub(crate) blobs: &'a dyn ReadAt,
    /// What a zip holds besides; none for a bare payload.
    pub(crate) zip: Option<AbZip>,
    /// What phones are told beside the payload: `POWERWASH` and such.
    pub(crate) properties: Vec<(String, String)>,
}

/// What a zip holds besides the payload.
pub(crate) struct AbZip {
    pub(crate) metadata: Metadata,
    pub(crate) entries: Vec<(String, Vec<u8>)>,
}

/// What was written.
#[derive(Debug)]
pub(crate) enum Written {
    /// All of it.
    Done {
        bytes: ByteLen,
        properties: Properties,
        /// Where the payload is in it.
        offset: ByteLen,
    },
    /// Nothing: signatures are wanted in these files first.
    Waiting(Vec<PathBuf>),
}

/// Signatures that are not there yet, out of the middle of writing.
#[derive(Debug, thiserror::Error)]
#[error("signatures are missing")]
struct Missing(Vec<PathBuf>);

/// Where the properties of a bare payload go: `update.properties.txt` beside `update.bin`.
pub(crate) fn properties_path(out: &Path) -> PathBuf {
    out.with_extension("properties.txt")
}

/// Writes an update to `out`, which is there as a whole afterwards or not at all; until then it lies in `scratch`, a
/// directory of the same file system.
pub(crate) fn write(
    package: &AbPackage<'_>,
    signers: &Signers,
    (out, scratch): (&Path, &Path),
    bars: &Bars<'_>,
) -> anyhow::Result<Written> {
    let unsigned = Unsigned::new(package.manifest, &signers.kinds())?;
    let metadata = match signers.sign(Part::Metadata, &unsigned.metadata_sha256())? {
        Signed::Signatures(signatures) => signatures,
        Signed::Waiting(mut files) => {
            // Who is asked for one signature is asked for the other too.
            bars.step("hashing the payload", package.blobs.len().get());
            let digest = unsigned.sha256(package.blobs, |bytes| bars.add(bytes)).map_err(stopped)?;
            if let Signed::Waiting(more) = signers.sign(Part::Payload, &digest)? {
                files.extend(more);
            }
            return Ok(Written::Waiting(files));
        }
    };
    let written = match &package.zip {
        Some(zip) => write_zip(package, zip, &unsigned, &metadata, signers, (out, scratch), bars),
        None => write_bare(package, &unsigned, &metadata, signers, (out, scratch), bars),
    };
    written.or_else(|error| match error.downcast::<Missing>() {
        Ok(Missing(files)) => Ok(Written::Waiting(files)),
        Err(error) => Err(error),
    })
}

fn write_payload(
    package: &AbPackage<'_>,
    unsigned: &Unsigned,
    metadata: &[Vec<u8>],
    signers: &Signers,
    out: &mut dyn Write,
    bars: &Bars<'_>,
) -> anyhow::Result<Properties> {
    bars.step("writing the payload", unsigned.len().get());
    let mut failed = None;
    let sign = |digest: &Sha256| match signers.sign(Part::Payload, digest) {
        Ok(Signed::Signatures(signatures)) => Ok(signatures),
        Ok(Signed::Waiting(files)) => {
            failed = Some(Missing(files).into());
            Err(WriteError::Stopped)
        }
        Err(error) => {
            failed = Some(error);
            Err(WriteError::Stopped)
        }
    };
    let written = unsigned.write(package.blobs, metadata, sign, out, |bytes| bars.add(bytes));
    written.map_err(|error| failed.unwrap_or_else(|| stopped(error)))
}

fn write_bare(
    package: &AbPackage<'_>,
    unsigned: &Unsigned,
    metadata: &[Vec<u8>],
    signers: &Signers,
    (out, scratch): (&Path, &Path),
    bars: &Bars<'_>,
) -> anyhow::Result<Written> {
    let mut draft = Draft::new_in(scratch, out, PUBLIC)?;
    let properties = write_payload(package, unsigned, metadata, signers, &mut draft, bars)?;
    let beside = properties_path(out);
    let mut text = properties.to_text();
    package.properties.iter().for_each(|(key, value)| text.extend([key, "=", value, "\n"]));
    let mut lines = Draft::new_in(scratch, &beside, PUBLIC)?;
    lines.write_all(text.as_bytes()).map_err(|source| CliError::Write { path: beside.clone(), source })?;
    draft.flush().map_err(|source| CliError::Write { path: out.into(), source })?;
    read_back(&draft, out, |file| Ok(Payload::read(&file, &Limits::default())?))?;
    lines.finish()?;
    draft.finish()?;
    Ok(Written::Done { bytes: unsigned.len(), properties, offset: ByteLen::ZERO })
}

fn write_zip(
    package: &AbPackage<'_>,
    zip: &AbZip,
    unsigned: &Unsigned,
    metadata: &[Vec<u8>],
    signers: &Signers,
    (out, scratch): (&Path, &Path),
    bars: &Bars<'_>,
) -> anyhow::Result<Written> {
    let layout = Layout::new(&Contents {
        metadata: zip.metadata.clone(),
        payload: unsigned,
        properties: &package.properties,
        entries: &zip.entries,
        certificate: signers.certificate(),
    })?;
    let failed = |source| CliError::Write { path: out.into(), source };
    let draft = Draft::new_in(scratch, out, PUBLIC)?;
    let mut properties = None;
    let mut file = BufWriter::with_capacity(BUFFER, draft.file());
    let len = layout.write(&mut file, |out| -> anyhow::Result<Properties> {
        let written = write_payload(package, unsigned, metadata, signers, out, bars)?;
        properties = Some(written);
        Ok(written)
    })?;
    drop(file);
    let properties = properties.context("the zip came out without a payload")?;
    let mut bytes = len;
    if let Some(certificate) = signers.certificate() {
        let signed = ota_zip::signed_len(len);
        bars.step("signing the zip", signed.get());
        let digest = hash(&FileAt::open(draft.unfinished()).map_err(failed)?, signed, out, bars)?;
        let signature = match signers.sign(Part::Zip, &digest)? {
            Signed::Signatures(signatures) => signatures.into_iter().next().context("no key signed the zip")?,
            Signed::Waiting(files) => return Ok(Written::Waiting(files)),
        };
        let comment = ota_zip::comment(certificate, &signature)?;
        draft.file().write_all_at(&comment, signed.get()).map_err(failed)?;
        bytes = ByteLen::new(signed.get() + comment.len() as u64);
    }
    read_back(&draft, out, |file| {
        let zip = OtaZip::read(file, &ota_zip::Limits::default())?;
        Ok(Payload::read(&zip.stored(PAYLOAD)?, &Limits::default())?)
    })?;
    draft.finish()?;
    Ok(Written::Done { bytes, properties, offset: layout.payload_offset() })
}

/// Reads what was written as a phone's tools do: what we would refuse gets no name.
fn read_back(draft: &Draft, out: &Path, read: impl FnOnce(FileAt) -> anyhow::Result<Payload>) -> anyhow::Result<()> {
    let file = FileAt::open(draft.unfinished()).map_err(|source| CliError::Read { path: out.into(), source })?;
    read(file).with_context(|| format!("could not read back {}", out.display()))?;
    Ok(())
}

fn hash(file: &FileAt, len: ByteLen, path: &Path, bars: &Bars<'_>) -> anyhow::Result<Sha256> {
    use std::io::Read as _;

    let failed = |source| CliError::Read { path: path.into(), source };
    let mut section = Section::new(file, 0, len.get()).map_err(failed)?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = section.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            return Ok(Sha256::new(hasher.finalize().into()));
        }
        hasher.update(&buffer[..read]);
        if bars.add(read as u64).is_break() {
            return Err(CliError::Stopped.into());
        }
    }
}

fn stopped(error: payload::WriteError) -> anyhow::Error {
    match error {
        payload::WriteError::Stopped => CliError::Stopped.into(),
        error => error.into(),
    }
}
