//! Checkpoints: the size and root hash of the log, as a signed note.

use std::fmt;

use base64ct::{Base64, Encoding as _};
use ed25519_dalek::{Signature, VerifyingKey};
use relevo_types::{ByteLen, Sha256};
use sha2::Digest as _;

use super::LogError;
#[cfg(feature = "authoring")]
use crate::keys::{SignError, Signer};

/// Longest checkpoint that we read: room for sixteen signatures of the largest kind there is, ML-DSA-44.
pub const MAX_CHECKPOINT: ByteLen = ByteLen::kib(64);

/// Most entries of a log that we read about; far from where sums of indices could overflow.
const MAX_SIZE: u64 = 1 << 62;

/// Signature type of Ed25519 in notes.
const ED25519: u8 = 1;

/// What signature lines begin with: an em dash and a space.
const DASH: &str = "\u{2014} ";

/// A log's name and the key that it signs with.
///
/// `Display` and [`Self::parse`] use the form that other tools know as *vkey*: `name+0123abcd+base64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogKey {
    name: String,
    key: VerifyingKey,
}

/// The size of a log and the root hash of its tree at that size, signed by the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// Number of entries.
    pub size: u64,
    /// Root hash of the Merkle tree over these entries, RFC 6962 section 2.1.
    pub root: Sha256,
    note: Vec<u8>,
}

impl LogKey {
    /// A key under a name.
    ///
    /// # Errors
    /// [`LogError::Malformed`] for a name that is empty, over 100 bytes long, or has a plus, space or control character.
    pub fn new(name: &str, key: VerifyingKey) -> Result<Self, LogError> {
        if name.len() > 100 || !is_key_name(name) {
            return Err(LogError::malformed("a log key", "the name is not usable"));
        }
        Ok(Self { name: name.to_owned(), key })
    }

    /// A key under a name that is made from it, for a log that has no other name: `relevo-log/0123456789abcdef`.
    pub fn self_named(key: VerifyingKey) -> Self {
        let digest = crate::crypto::sha256(key.as_bytes()).to_string();
        Self { name: format!("relevo-log/{}", &digest[..16]), key }
    }

    /// Reads the form `name+key id+key`.
    ///
    /// # Errors
    /// [`LogError::Malformed`], also for keys of other kinds than Ed25519 and for an id that is not the key's.
    ///
    /// # Source
    /// C2SP signed-note, "Verifier keys".
    pub fn parse(text: &str) -> Result<Self, LogError> {
        let error = |reason| LogError::malformed("a log key", reason);
        let (name, rest) = text.split_once('+').ok_or_else(|| error("it has no plus"))?;
        let (id, key) = rest.split_once('+').ok_or_else(|| error("it has one plus only"))?;
        let mut bytes = [0; 33];
        let decoded = Base64::decode(key, &mut bytes).map_err(|_| error("the key is no base64 of 33 bytes"))?;
        let [ED25519, key @ ..] = decoded else { return Err(error("the key is of another kind than Ed25519")) };
        let key: [u8; 32] = key.try_into().map_err(|_| error("the key has not 32 bytes"))?;
        let key = VerifyingKey::from_bytes(&key).map_err(|_| error("the key is no point of the curve"))?;
        let parsed = Self::new(name, key)?;
        if format!("{:08x}", parsed.id()) == id { Ok(parsed) } else { Err(error("the id is another key's")) }
    }

    /// The log's name, with which its checkpoints begin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key itself.
    pub fn verifying_key(&self) -> &VerifyingKey {
        &self.key
    }

    /// The first four bytes of a digest over name, kind and key: says which key a signature line is by.
    pub fn id(&self) -> u32 {
        let mut hasher = sha2::Sha256::new();
        hasher.update(self.name.as_bytes());
        hasher.update([b'\n', ED25519]);
        hasher.update(self.key.as_bytes());
        let digest = hasher.finalize();
        u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
    }
}

impl fmt::Display for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[ED25519][..], self.key.as_bytes()].concat();
        write!(f, "{}+{:08x}+{}", self.name, self.id(), Base64::encode_string(&key))
    }
}

impl Checkpoint {
    /// Reads a checkpoint and checks that `key` signed it. Signatures by others are passed over, extension lines too.
    ///
    /// # Errors
    /// - [`LogError::Malformed`] for what is no checkpoint.
    /// - [`LogError::OtherLog`] for a checkpoint of another name than the key's.
    /// - [`LogError::Signature`] if the key did not sign, or if anything that says to be by the key is not.
    ///
    /// # Source
    /// C2SP signed-note, "Format" and "Signatures"; tlog-checkpoint, "Note text".
    pub fn open(note: &[u8], key: &LogKey) -> Result<Self, LogError> {
        let checkpoint = Self::parse_kept(note)?;
        if checkpoint.origin != key.name {
            let found = checkpoint.origin.chars().take(100).collect();
            return Err(LogError::OtherLog { expected: key.name.clone(), found });
        }
        let refused = || LogError::Signature { log: key.name.clone() };
        let (text, lines) = split(note)?;
        let mut signed = false;
        for line in lines {
            let (name, bytes) = signature_line(line)?;
            let (id, signature) = bytes.split_at(4);
            if name != key.name || id != key.id().to_be_bytes() {
                continue;
            }
            let signature = Signature::from_slice(signature).map_err(|_| refused())?;
            key.key.verify_strict(text.as_bytes(), &signature).map_err(|_| refused())?;
            signed = true;
        }
        if signed { Ok(checkpoint) } else { Err(refused()) }
    }

    /// Reads a checkpoint that was verified before and kept, perhaps under a key that the log no longer uses. Signatures
    /// are not looked at.
    ///
    /// # Errors
    /// [`LogError::Malformed`].
    pub fn parse_kept(note: &[u8]) -> Result<Self, LogError> {
        let error = |reason| LogError::malformed("a checkpoint", reason);
        let (text, lines) = split(note)?;
        for line in lines {
            signature_line(line)?;
        }
        let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
        let mut line = || lines.next().filter(|line| !line.is_empty());
        let origin = line().ok_or_else(|| error("it has no origin"))?.to_owned();
        let size = line().ok_or_else(|| error("it has no size"))?;
        let root = line().ok_or_else(|| error("it has no root hash"))?;
        if lines.any(str::is_empty) {
            return Err(error("it has an empty line"));
        }
        let size = decimal(size).filter(|size| *size <= MAX_SIZE).ok_or_else(|| error("its size is no number"))?;
        let root = hash(root).ok_or_else(|| error("its root hash is no base64 of 32 bytes"))?;
        if size == 0 && root != super::empty_root() {
            return Err(error("it is empty and has a root hash all the same"));
        }
        Ok(Self { origin, size, root, note: note.to_vec() })
    }

    /// The whole note, as it was signed and is to be kept.
    pub fn note(&self) -> &[u8] {
        &self.note
    }

    /// Signs a checkpoint.
    ///
    /// # Errors
    /// [`SignError`] if the signer does not sign.
    #[cfg(feature = "authoring")]
    pub fn sign(origin: &str, size: u64, root: Sha256, signer: &dyn Signer) -> Result<Vec<u8>, SignError> {
        let text = format!("{origin}\n{size}\n{}\n", Base64::encode_string(root.as_bytes()));
        let key = LogKey { name: origin.to_owned(), key: *signer.public().verifying_key() };
        let signature = signer.sign(text.as_bytes())?;
        let signature = [&key.id().to_be_bytes()[..], &signature[..]].concat();
        Ok(format!("{text}\n{DASH}{origin} {}\n", Base64::encode_string(&signature)).into_bytes())
    }
}

/// A note's text, with its last newline, and its signature lines.
fn split(note: &[u8]) -> Result<(&str, impl Iterator<Item = &str>), LogError> {
    let error = |reason| LogError::malformed("a signed note", reason);
    if note.len() as u64 > MAX_CHECKPOINT.get() {
        return Err(error("it is over 64 KiB long"));
    }
    let note = std::str::from_utf8(note).map_err(|_| error("it is no UTF-8"))?;
    if note.bytes().any(|byte| byte < b' ' && byte != b'\n') {
        return Err(error("it has a control character"));
    }
    let end = note.rfind("\n\n").ok_or_else(|| error("it has no signatures"))?;
    let (text, rest) = note.split_at(end + 1);
    let lines = rest[1..].strip_suffix('\n').ok_or_else(|| error("its last line does not end"))?;
    Ok((text, lines.split('\n')))
}

/// The key's name, and the id and signature of at least 5 bytes together.
fn signature_line(line: &str) -> Result<(&str, Vec<u8>), LogError> {
    let error = |reason| LogError::malformed("a signed note", reason);
    let line = line.strip_prefix(DASH).ok_or_else(|| error("a signature line begins otherwise"))?;
    let (name, signature) = line.split_once(' ').ok_or_else(|| error("a signature line has no signature"))?;
    let bytes = Base64::decode_vec(signature).map_err(|_| error("a signature is no base64"))?;
    if !is_key_name(name) || bytes.len() < 5 {
        return Err(error("a signature line has no key name or no signature"));
    }
    Ok((name, bytes))
}

fn is_key_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c == '+' || c.is_whitespace() || c.is_control())
}

/// A number in the one way to write it.
pub(super) fn decimal(text: &str) -> Option<u64> {
    text.parse::<u64>().ok().filter(|number| number.to_string() == text)
}

/// A hash in base64.
pub(super) fn hash(text: &str) -> Option<Sha256> {
    let mut bytes = [0; 32];
    let decoded = Base64::decode(text, &mut bytes).ok()?;
    Some(Sha256::new(decoded.try_into().ok()?))
}
