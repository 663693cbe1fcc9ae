//! Ceremonies without a meeting: changes of the repository as a file that travels from signer to signer.
//!
//! A [`Proposal`] holds new role files, whole, and the signatures that they have so far. It is text that survives mail
//! and chat: what is signed is the canonical JSON of what stands there, so spaces and line ends do not matter. Whoever
//! gets it believes nothing that it says about itself: [`Proposal::review`] compares it with the receiver's own verified
//! copy of the repository and says in words what would change.
//!
//! # Layout
//! A JSON object:
//! ```text
//! relevo_ceremony  1, the version of this form
//! read_me          words for people; nobody's tool believes them
//! repository       SHA-256 of the repository's 1.root.json
//! documents        [{role, base: {version, sha256} of the file that it replaces, or null, signed: the new file's content}]
//! signatures       [{role, keyid, sig}], as in metadata: Ed25519 over the canonical JSON of `signed`, in hexadecimal
//! ```

use std::collections::BTreeSet;

use relevo_types::Sha256;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    crypto,
    keys::{SignError, Signer},
};

mod review;
mod shape;
mod words;

pub use review::{Ground, Group, Review, Reviewed};
pub use shape::ShapeError;

/// Longest file that is read, in bytes: a few roles of at most 128 KiB each, with room for line ends.
pub const MAX_LEN: usize = 2 << 20;
/// Most documents in one; a device's change has four.
pub const MAX_DOCUMENTS: usize = 32;
/// Most signatures in one.
pub const MAX_SIGNATURES: usize = 256;

/// The version of the form that is read and written.
const VERSION: u64 = 1;

/// Why a file is no usable proposal, or does not fit to the repository or to another copy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CeremonyError {
    /// Too long to be one.
    #[error("the file is {len} bytes long; the longest ceremony file has {MAX_LEN}")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// No JSON of that form.
    #[error("the file is no ceremony file")]
    Malformed(#[source] serde_json::Error),
    /// Made by a later relevo.
    #[error("the file is of version {found} of ceremony files; this relevo knows {VERSION}")]
    Version {
        /// The version found.
        found: u64,
    },
    /// More than there can be.
    #[error("the file has {found} {what}; the most is {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many it has.
        found: usize,
        /// How many it may have.
        limit: usize,
    },
    /// Nothing to sign.
    #[error("the file proposes nothing")]
    Empty,
    /// Two documents of one role.
    #[error("the file has two documents for the role {role:?}")]
    TwoDocuments {
        /// The role.
        role: String,
    },
    /// One key signed twice, which nobody's tool does.
    #[error("the key {key_id} has two signatures for the role {role:?}")]
    TwoSignatures {
        /// The role.
        role: String,
        /// The key.
        key_id: String,
    },
    /// A signature for something that is not there.
    #[error("there is a signature for the role {role:?}, and no document")]
    NoDocument {
        /// The role.
        role: String,
    },
    /// No 64 bytes in hexadecimal.
    #[error("the signature by the key {key_id} for the role {role:?} is no Ed25519 signature")]
    SignatureForm {
        /// The role.
        role: String,
        /// The key.
        key_id: String,
    },
    /// Values that canonical JSON does not know.
    #[error(
        "the document of the role {role:?} cannot be signed: it holds a fraction or another value that JSON writes in two ways"
    )]
    NotCanonical {
        /// The role.
        role: String,
    },
    /// Copies of two proposals.
    #[error("the files are copies of two proposals, {one} and {other}; signatures of one do not count for the other")]
    OtherProposal {
        /// Id of one.
        one: Sha256,
        /// Id of the other.
        other: Sha256,
    },
    /// Another repository.
    #[error("the proposal is for the repository whose first root has SHA-256 {found}; this one's has {expected}")]
    OtherRepository {
        /// This repository's.
        expected: Sha256,
        /// The proposal's.
        found: Sha256,
    },
    /// The repository moved on.
    #[error(
        "the proposal is stale: it changes version {base} of the role {role:?}, and the repository has version {current}"
    )]
    Stale {
        /// The role.
        role: String,
        /// The version that it starts from; 0 if it makes the role.
        base: u64,
        /// The version that there is.
        current: u64,
    },
    /// This copy of the repository is behind.
    #[error(
        "this copy of the repository is old: the proposal changes version {base} of the role {role:?}, and it has {current}"
    )]
    Behind {
        /// The role.
        role: String,
        /// The version that it starts from.
        base: u64,
        /// The version that there is; 0 if there is none.
        current: u64,
    },
    /// The same version with other content.
    #[error("version {version} of the role {role:?} is another file here than where the proposal was made")]
    OtherBase {
        /// The role.
        role: String,
        /// The version.
        version: u64,
    },
    /// A date that has passed.
    #[error("the proposed {role:?} expired on {expires}: too much time went by; start a new ceremony")]
    Expired {
        /// The role.
        role: String,
        /// When.
        expires: jiff::Timestamp,
    },
    /// Something that Relevo never proposes.
    #[error("the proposed {role:?} is not as relevo makes it, so do not sign it")]
    Shape {
        /// The role.
        role: String,
        /// What is wrong.
        source: ShapeError,
    },
    /// A role that nothing names.
    #[error("neither the repository nor the proposal names the role {role:?}")]
    NoDelegator {
        /// The role.
        role: String,
    },
    /// The repository's own file cannot be used.
    #[error("the repository's role {role:?} cannot be compared with")]
    Ground {
        /// The role.
        role: String,
        /// Why.
        source: crate::author::AuthorError,
    },
    /// A signature by a key that has no say.
    #[error("the key {key_id} signed for the role {role:?} and is none of its keys")]
    Stranger {
        /// The role.
        role: String,
        /// The key.
        key_id: String,
    },
    /// A signature over something else: the file was changed after it was made.
    #[error(
        "the signature by the key {key_id} for the role {role:?} is not over what the file says; it was changed on the way"
    )]
    BadSignature {
        /// The role.
        role: String,
        /// The key.
        key_id: String,
    },
    /// The signer did not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// Changes that wait for signatures.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    repository: Sha256,
    documents: Vec<Document>,
    signatures: Vec<Mark>,
}

/// A role file that is proposed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The role.
    pub role: String,
    /// The file that it replaces; none for a role that is new.
    pub base: Option<Base>,
    /// The new content.
    pub signed: Map<String, Value>,
}

/// A file that a document replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// Its version.
    pub version: u64,
    /// SHA-256 of the whole file.
    pub sha256: Sha256,
}

/// A signature for one document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The role.
    pub role: String,
    /// Id of the key.
    pub key_id: String,
    /// The signature.
    pub signature: [u8; 64],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    relevo_ceremony: u64,
    #[serde(default)]
    read_me: Vec<String>,
    repository: Sha256,
    documents: Vec<Document>,
    #[serde(default)]
    signatures: Vec<WireMark>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireMark {
    role: String,
    keyid: String,
    sig: String,
}

impl Document {
    /// The version that is proposed.
    pub fn version(&self) -> u64 {
        self.signed.get("version").and_then(Value::as_u64).unwrap_or(0)
    }

    /// What is signed.
    fn message(&self) -> Result<Vec<u8>, CeremonyError> {
        let value = Value::Object(self.signed.clone());
        sigstore_tuf::canonical_json::to_canonical_bytes(&value)
            .map_err(|_| CeremonyError::NotCanonical { role: self.role.clone() })
    }
}

impl Proposal {
    /// A proposal for the repository whose first root has this SHA-256, nobody's signature on it yet.
    ///
    /// # Errors
    /// [`CeremonyError::Empty`], [`CeremonyError::TooMany`], [`CeremonyError::TwoDocuments`],
    /// [`CeremonyError::NotCanonical`].
    pub fn new(repository: Sha256, documents: Vec<Document>) -> Result<Self, CeremonyError> {
        let proposal = Self { repository, documents, signatures: Vec::new() };
        proposal.check()?;
        Ok(proposal)
    }

    /// Reads a file. Nothing is verified yet: that takes a repository, and [`Self::review`].
    ///
    /// # Errors
    /// [`CeremonyError::TooLong`], [`CeremonyError::Malformed`], [`CeremonyError::Version`],
    /// [`CeremonyError::SignatureForm`], [`CeremonyError::TwoSignatures`], [`CeremonyError::NoDocument`], and those of
    /// [`Self::new`].
    pub fn parse(bytes: &[u8]) -> Result<Self, CeremonyError> {
        if bytes.len() > MAX_LEN {
            return Err(CeremonyError::TooLong { len: bytes.len() });
        }
        // A later form may have other fields; that it is later says more than which field is unknown.
        #[derive(Deserialize)]
        struct Front {
            relevo_ceremony: u64,
        }
        let front: Front = serde_json::from_slice(bytes).map_err(CeremonyError::Malformed)?;
        if front.relevo_ceremony != VERSION {
            return Err(CeremonyError::Version { found: front.relevo_ceremony });
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(CeremonyError::Malformed)?;
        limit("signatures", wire.signatures.len(), MAX_SIGNATURES)?;
        let mut proposal = Self { repository: wire.repository, documents: wire.documents, signatures: Vec::new() };
        proposal.check()?;
        for WireMark { role, keyid: key_id, sig } in wire.signatures {
            let Some(signature) = from_hex(&sig) else {
                return Err(CeremonyError::SignatureForm { role: short(&role), key_id: short(&key_id) });
            };
            if proposal.document(&role).is_none() {
                return Err(CeremonyError::NoDocument { role: short(&role) });
            }
            if proposal.has_signed(&role, &key_id) {
                return Err(CeremonyError::TwoSignatures { role, key_id: short(&key_id) });
            }
            proposal.signatures.push(Mark { role, key_id, signature });
        }
        proposal.signatures.sort();
        Ok(proposal)
    }

    /// The file, for people and programs.
    pub fn to_text(&self) -> String {
        let roles: Vec<&str> = self.documents.iter().map(|document| document.role.as_str()).collect();
        let read_me = vec![
            format!("A proposal to change a Relevo repository: {}.", roles.join(", ")),
            "See what it would change: relevo ceremony show THIS-FILE".to_owned(),
            "Sign it with your own key: relevo ceremony sign THIS-FILE --key KEY".to_owned(),
            "Believe your own relevo and your own copy of the repository, not these words.".to_owned(),
        ];
        let mark = |mark: &Mark| WireMark {
            role: mark.role.clone(),
            keyid: mark.key_id.clone(),
            sig: mark.signature.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        let wire = Wire {
            relevo_ceremony: VERSION,
            read_me,
            repository: self.repository,
            documents: self.documents.clone(),
            signatures: self.signatures.iter().map(mark).collect(),
        };
        let mut text = serde_json::to_string_pretty(&wire).expect("text keys and plain values");
        text.push('\n');
        text
    }

    /// SHA-256 of the first root of the repository that it is for.
    pub fn repository(&self) -> Sha256 {
        self.repository
    }

    /// What is proposed.
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// The document of a role.
    pub fn document(&self, role: &str) -> Option<&Document> {
        self.documents.iter().find(|document| document.role == role)
    }

    /// The signatures so far, in the order of roles and keys.
    pub fn signatures(&self) -> &[Mark] {
        &self.signatures
    }

    /// Whether there is a signature by this key for the role.
    pub fn has_signed(&self, role: &str, key_id: &str) -> bool {
        self.signatures.iter().any(|mark| mark.role == role && mark.key_id == key_id)
    }

    /// Names the proposal, whoever signed it so far: what signers compare over the telephone.
    pub fn id(&self) -> Sha256 {
        let documents: Vec<Value> = self
            .documents
            .iter()
            .map(|document| json!({"role": document.role, "base": document.base, "signed": document.signed}))
            .collect();
        let value = json!({"repository": self.repository, "documents": documents});
        let bytes = sigstore_tuf::canonical_json::to_canonical_bytes(&value);
        crypto::sha256(&bytes.expect("every document was made canonical when it came in"))
    }

    /// Takes over the signatures of another copy of the same proposal.
    ///
    /// # Errors
    /// [`CeremonyError::OtherProposal`], [`CeremonyError::TooMany`]; [`CeremonyError::TwoSignatures`] if one key has
    /// another signature there, which an Ed25519 key that signed the same never has.
    pub fn merge(&mut self, other: &Self) -> Result<(), CeremonyError> {
        let (one, two) = (self.id(), other.id());
        if one != two {
            return Err(CeremonyError::OtherProposal { one, other: two });
        }
        for mark in &other.signatures {
            if self.signatures.contains(mark) {
                continue;
            }
            if self.has_signed(&mark.role, &mark.key_id) {
                return Err(CeremonyError::TwoSignatures { role: mark.role.clone(), key_id: short(&mark.key_id) });
            }
            self.signatures.push(mark.clone());
        }
        limit("signatures", self.signatures.len(), MAX_SIGNATURES)?;
        self.signatures.sort();
        Ok(())
    }

    /// Signs the document of a role; says whether that is new. Whether the key has a say is for [`Self::review`].
    ///
    /// # Errors
    /// [`CeremonyError::NoDocument`], [`CeremonyError::Sign`], [`CeremonyError::TooMany`].
    pub fn sign(&mut self, role: &str, signer: &dyn Signer) -> Result<bool, CeremonyError> {
        let document = self.document(role).ok_or_else(|| CeremonyError::NoDocument { role: short(role) })?;
        let key_id = signer.key_id();
        if self.has_signed(role, &key_id) {
            return Ok(false);
        }
        limit("signatures", self.signatures.len() + 1, MAX_SIGNATURES)?;
        let signature = signer.sign(&document.message()?)?;
        self.signatures.push(Mark { role: role.to_owned(), key_id, signature });
        self.signatures.sort();
        Ok(true)
    }

    /// The finished file of a role, with all signatures that it has.
    ///
    /// # Errors
    /// [`CeremonyError::NoDocument`].
    pub fn file(&self, role: &str) -> Result<Vec<u8>, CeremonyError> {
        let document = self.document(role).ok_or_else(|| CeremonyError::NoDocument { role: short(role) })?;
        let marks = self.signatures.iter().filter(|mark| mark.role == role);
        let signatures: Vec<Value> = marks
            .map(|mark| {
                let sig: String = mark.signature.iter().map(|byte| format!("{byte:02x}")).collect();
                json!({"keyid": mark.key_id, "sig": sig})
            })
            .collect();
        let file = json!({"signatures": signatures, "signed": document.signed});
        Ok(serde_json::to_vec(&file).expect("a JSON value can be written"))
    }

    fn check(&self) -> Result<(), CeremonyError> {
        if self.documents.is_empty() {
            return Err(CeremonyError::Empty);
        }
        limit("documents", self.documents.len(), MAX_DOCUMENTS)?;
        let mut roles = BTreeSet::new();
        for document in &self.documents {
            if !roles.insert(document.role.as_str()) {
                return Err(CeremonyError::TwoDocuments { role: short(&document.role) });
            }
            document.message()?;
        }
        Ok(())
    }
}

fn limit(what: &'static str, found: usize, limit: usize) -> Result<(), CeremonyError> {
    if found > limit { Err(CeremonyError::TooMany { what, found, limit }) } else { Ok(()) }
}

/// What an error shows of a text from outside.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

fn from_hex(text: &str) -> Option<[u8; 64]> {
    let digits = text.as_bytes();
    let mut bytes = [0; 64];
    if digits.len() != 128 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}
