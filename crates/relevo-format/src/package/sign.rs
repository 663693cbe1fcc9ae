//! Signatures of a package: ed25519 over header and manifest.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    path::Path,
};

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use relevo_types::Sha256;
use sha2::Digest;

use super::front::{Front, Limits, PackageError, fill};
use crate::{FileAt, ReadAt, Section};

/// Length of a signature with its key id, in bytes.
pub const SIGNATURE_LEN: usize = 32 + 64;
/// Goes before the signed bytes, so that a signature on a package is none on anything else.
const DOMAIN: &[u8] = b"relevo package v1\n";

/// Names a key: SHA-256 of its 32 bytes.
pub type KeyId = Sha256;

/// A signature over a package's header and manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Which key made it.
    pub key_id: KeyId,
    /// The 64 bytes of RFC 8032.
    pub bytes: [u8; 64],
}

/// The id of a public key.
pub fn key_id(key: &VerifyingKey) -> KeyId {
    Sha256::new(sha2::Sha256::digest(key.as_bytes()).into())
}

impl Signature {
    /// Signs the front of a package.
    pub fn new(front: &Front, key: &SigningKey) -> Self {
        Self { key_id: key_id(&key.verifying_key()), bytes: key.sign(&front.message()).to_bytes() }
    }
}

/// Copies the package at `from` to `to` with signatures by `keys` added, and makes the copy durable.
///
/// `to` is there whole or not at all, and may be `from`: the copy is written beside it and renamed.
///
/// # Errors
/// [`PackageError`] if `from` is no package or its length is wrong, [`PackageError::Limit`] for more signatures than
/// `limits` takes, [`PackageError::Write`] if writing fails.
pub fn sign_file(from: &Path, to: &Path, keys: &[SigningKey], limits: &Limits) -> Result<Front, PackageError> {
    sign_file_with(from, to, limits, |message| {
        let sign =
            |key: &SigningKey| Signature { key_id: key_id(&key.verifying_key()), bytes: key.sign(message).to_bytes() };
        Ok(keys.iter().map(sign).collect())
    })
}

/// As [`sign_file`], with signatures that `sign` makes over the message that it is given: by keys that are not here.
///
/// # Errors
/// As [`sign_file`], and whatever `sign` says.
pub fn sign_file_with<E: From<PackageError>>(
    from: &Path,
    to: &Path,
    limits: &Limits,
    sign: impl FnOnce(&[u8]) -> Result<Vec<Signature>, E>,
) -> Result<Front, E> {
    let package = FileAt::open(from).map_err(PackageError::Io)?;
    let mut front = Front::read(&mut Section::whole(&package), limits)?;
    front.check_len(package.len())?;
    let body = front.body_offset().get();
    let body = Section::new(&package, body, package.len().get() - body).map_err(PackageError::Io)?;
    for signature in sign(&front.message())? {
        front.add_signature(signature);
    }
    check_count(front.signatures().len(), limits)?;
    replace(to, &front.encode(), body).map_err(|source| PackageError::Write { path: to.into(), source })?;
    Ok(front)
}

/// Puts a file of `front` and `body` at `path`, durably and in one step.
fn replace(path: &Path, front: &[u8], mut body: impl Read) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let mut part = OsString::from(".");
    part.push(name);
    // One process does not sign one file twice at a time; two processes do not share this name.
    part.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(part);
    let mut write = || -> io::Result<()> {
        let mut out = BufWriter::new(File::create(&part)?);
        out.write_all(front)?;
        io::copy(&mut body, &mut out)?;
        out.into_inner()?.sync_all()?;
        fs::rename(&part, path)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()
    };
    write().inspect_err(|_| {
        // Nothing of a failed attempt stays; that this fails as well would hide what went wrong.
        let _ = fs::remove_file(&part);
    })
}

fn check_count(count: usize, limits: &Limits) -> Result<(), PackageError> {
    let limit = limits.signatures;
    if count > limit {
        return Err(PackageError::Limit { what: "signatures", found: count as u64, limit: limit as u64 });
    }
    Ok(())
}

pub(super) fn message(signed: &[u8]) -> Vec<u8> {
    [DOMAIN, signed].concat()
}

/// How many of `keys` signed; each counts once.
pub(super) fn count_valid(signatures: &[Signature], keys: &[VerifyingKey], signed: &[u8]) -> usize {
    let message = message(signed);
    let mut counted: Vec<KeyId> = Vec::new();
    for key in keys {
        let id = key_id(key);
        let valid = |signature: &Signature| {
            let bytes = ed25519_dalek::Signature::from_bytes(&signature.bytes);
            signature.key_id == id && key.verify_strict(&message, &bytes).is_ok()
        };
        if !counted.contains(&id) && signatures.iter().any(valid) {
            counted.push(id);
        }
    }
    counted.len()
}

pub(super) fn read(reader: &mut impl Read, limits: &Limits) -> Result<Vec<Signature>, PackageError> {
    let mut count = [0; 2];
    fill(reader, &mut count)?;
    let count = usize::from(u16::from_le_bytes(count));
    check_count(count, limits)?;
    let mut signatures: Vec<Signature> = Vec::with_capacity(count);
    for _ in 0..count {
        let mut id = [0; 32];
        fill(reader, &mut id)?;
        let mut bytes = [0; 64];
        fill(reader, &mut bytes)?;
        let key_id = Sha256::new(id);
        if signatures.last().is_some_and(|last| last.key_id >= key_id) {
            return Err(PackageError::Manifest(
                "the signatures are not in the order of their keys, or one comes twice",
            ));
        }
        signatures.push(Signature { key_id, bytes });
    }
    Ok(signatures)
}

pub(super) fn write(signatures: &[Signature], out: &mut Vec<u8>) {
    let count = u16::try_from(signatures.len()).expect("a handful of signatures");
    out.extend_from_slice(&count.to_le_bytes());
    for signature in signatures {
        out.extend_from_slice(signature.key_id.as_bytes());
        out.extend_from_slice(&signature.bytes);
    }
}
