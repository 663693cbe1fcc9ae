//! `relevo ota sign` for A/B updates: a zip or payload with other signatures, by keys at hand or elsewhere.

use std::{io, path::PathBuf};

use anyhow::Context;
use relevo_format::{
    FileAt, ReadAt,
    ota_zip::{METADATA, METADATA_PB, Metadata, MetadataError, OTACERT, OtaZip, PAYLOAD, PROPERTIES},
};
use relevo_types::{ByteLen, PackageKind};
use serde::Serialize;

use super::ab::Update;
use crate::{
    ab_keys::Signers,
    ab_package::{self, AbPackage, AbZip, Written},
    args::OtaSign,
    durable::Aside,
    error::CliError,
    session::{Answer, Session},
};

/// Largest entry that is carried over besides the payload.
const MAX_ENTRY: ByteLen = ByteLen::mib(64);

/// What `ota sign --json` says of an A/B update.
#[derive(Debug, Serialize)]
struct Resigned {
    kind: PackageKind,
    /// None as long as signatures are missing.
    package: Option<String>,
    bytes: Option<ByteLen>,
    /// Kinds of the keys that sign.
    signed_by: Vec<&'static str>,
    /// Files that signatures are awaited in.
    waiting: Vec<PathBuf>,
}

/// The blobs of a payload that lies somewhere.
struct Blobs<'a> {
    content: &'a dyn ReadAt,
    offset: u64,
    len: ByteLen,
}

impl ReadAt for Blobs<'_> {
    fn len(&self) -> ByteLen {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match offset.checked_add(buf.len() as u64) {
            Some(end) if end <= self.len.get() => self.content.read_exact_at(buf, self.offset + offset),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

pub(crate) fn sign(session: &Session<'_>, args: &OtaSign) -> anyhow::Result<Answer> {
    let update = Update::open(&args.package)?;
    let is_zip = update.zip().is_some();
    let signers = Signers::open(session, &args.key, &args.cert, args.exchange.as_deref(), is_zip, &args.passphrase)?;
    let refused = || format!("could not sign {}", args.package.display());
    if !update.payload.is_known_whole() {
        session.warn(format!(
            "{} says things in its manifest that this version does not know; they are left out",
            args.package.display()
        ));
    }
    let (content, payload) = (update.content(), &update.payload);
    let blobs = Blobs { content: &content, offset: payload.blobs_offset().get(), len: payload.blobs_len() };
    let others = update.properties().with_context(refused)?.map(|properties| properties.others).unwrap_or_default();
    let package = AbPackage {
        manifest: payload.manifest(),
        blobs: &blobs,
        zip: update.zip().map(|zip| carried(zip, args)).transpose().with_context(refused)?,
        properties: others.into_iter().collect(),
    };
    let bars = update.bars(session);
    let aside = Aside::beside(&args.out)?;
    let written = ab_package::write(&package, &signers, (&args.out, aside.path()), &bars).with_context(refused)?;
    let signed_by = signers.kinds().into_iter().map(relevo_format::payload::KeyKind::name).collect();
    let kind = PackageKind::Ab;
    Ok(match written {
        Written::Done { bytes, .. } => {
            let package = Some(args.out.display().to_string());
            let answer = Resigned { kind, package, bytes: Some(bytes), signed_by, waiting: Vec::new() };
            Answer::new(&answer).text(format!("signed {} with {}\n", args.out.display(), answer.signed_by.join(", ")))
        }
        Written::Waiting(waiting) => {
            let mut text = String::from("to be signed, then run this again:\n");
            for path in &waiting {
                let from = digest_of(path);
                text.push_str(&format!("  {} into {}\n", from.display(), path.display()));
            }
            let notes =
                "for one: openssl pkeyutl -sign -inkey KEY -pkeyopt digest:sha256 -in FILE.sha256 -out FILE.sig\n";
            let answer = Resigned { kind, package: None, bytes: None, signed_by, waiting };
            Answer::new(&answer).text(text).notes(notes)
        }
    })
}

/// The digest that a signature is over, by its file's name: `payload.sha256` for `payload.2.sig`.
fn digest_of(signature: &std::path::Path) -> PathBuf {
    let name = signature.file_name().unwrap_or_default().to_string_lossy();
    let part = name.split('.').next().unwrap_or_default();
    signature.with_file_name(format!("{part}.sha256"))
}

/// What a zip holds besides the payload and what is made anew.
fn carried(zip: &OtaZip<FileAt>, args: &OtaSign) -> anyhow::Result<AbZip> {
    let metadata = match zip.metadata()? {
        Some(metadata) => Metadata { property_files: Default::default(), ..metadata },
        None => match Metadata::from_lines(&zip.metadata_text()?) {
            Some(metadata) => metadata,
            None => return Err(MetadataError::Text { name: METADATA }.into()),
        },
    };
    let made = [METADATA, METADATA_PB, PAYLOAD, PROPERTIES, OTACERT];
    let mut entries = Vec::new();
    for entry in zip.entries() {
        if made.contains(&&*entry.name) || is_signature(&entry.name) || entry.name.ends_with('/') {
            continue;
        }
        if entry.len > MAX_ENTRY.get() {
            let (path, entry) = (args.package.clone(), entry.name.clone());
            return Err(CliError::NotCarried { path, entry }.into());
        }
        entries.push((entry.name.clone(), zip.small(&entry.name, MAX_ENTRY)?));
    }
    Ok(AbZip { metadata, entries })
}

/// Whether an entry is a signature in the way of JARs, which old zips have besides.
fn is_signature(name: &str) -> bool {
    let Some(name) = name.strip_prefix("META-INF/") else { return false };
    name == "MANIFEST.MF" || [".SF", ".RSA", ".EC", ".DSA"].iter().any(|end| name.ends_with(end))
}
