//! HTTP Message Signatures (RFC 9421) with Ed25519, and Content-Digest (RFC 9530): who sends a request, and that it is whole.
//!
//! One signature to a request, over method, authority, path and whichever fields its parameters name. What is read is
//! exactly what is written: a spelling that would be written in another way is refused, so nothing is signed twice.
//!
//! # Examples
//! ```
//! # use relevo_meta::testing::key;
//! use relevo_meta::http_signature::{Message, Parameters, Signed, content_digest};
//!
//! let key = key("maintainer");
//! let digest = content_digest(b"{}");
//! let field = |name: &str| (name == "content-digest").then(|| digest.clone());
//! let message = Message { method: "POST", authority: "updates.example", path: "/publish/v1/sessions", field: &field };
//! let parameters = Parameters {
//!     components: ["@method", "@authority", "@path", "content-digest"].map(str::to_owned).to_vec(),
//!     created: 1_767_225_600,
//!     expires: Some(1_767_225_720),
//!     nonce: Some("8f2c".to_owned()),
//!     key_id: Some(key.public().key_id()),
//!     algorithm: true,
//! };
//! let signed = parameters.sign("relevo", &message, &key)?;
//!
//! let read = Signed::parse(&signed.input_field(), &signed.signature_field())?;
//! read.verify(&message, key.public().verifying_key())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use base64ct::{Base64, Encoding as _};
use ed25519_dalek::{Signature, VerifyingKey};

use crate::keys::{SignError, Signer};

/// What of a request can be signed.
pub struct Message<'a> {
    /// `GET`, `PUT`, as it is on the wire.
    pub method: &'a str,
    /// Host and port as in the `Host` field; compared in lower case.
    pub authority: &'a str,
    /// The path as it is on the wire, without a query.
    pub path: &'a str,
    /// The value of a field by its name in lower case; several lines of one name joined by `, `.
    pub field: &'a dyn Fn(&str) -> Option<String>,
}

/// What a signature says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// What is covered, in order: `@method`, `@authority`, `@path`, or the name of a field.
    pub components: Vec<String>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// When it stops to count, the same.
    pub expires: Option<i64>,
    /// A word that is used once.
    pub nonce: Option<String>,
    /// Whose key it is.
    pub key_id: Option<String>,
    /// Whether it says `alg="ed25519"`.
    pub algorithm: bool,
}

/// A signature with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    label: String,
    parameters: Parameters,
    signature: [u8; 64],
}

/// Why a signature is none, or not of that request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// A field that is too long to be one.
    #[error("the field {field} has {len} bytes; at most {max} are read")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// `Signature-Input` is not in the one form that is read.
    #[error("Signature-Input cannot be read at byte {at}; expected {expected}")]
    Input {
        /// Where.
        at: usize,
        /// What belongs there.
        expected: &'static str,
    },
    /// `Signature` is not in the one form that is read.
    #[error("Signature is not `{label}=:…:` with 64 bytes in Base64")]
    Form {
        /// The label in `Signature-Input`.
        label: String,
    },
    /// A component that is not known.
    #[error("the component {0:?} is not known; @method, @authority, @path and fields are")]
    Component(String),
    /// A component that is covered twice.
    #[error("the component {0:?} is covered twice")]
    Twice(String),
    /// A covered field that the request does not have.
    #[error("the request has no field {0:?}, which its signature covers")]
    NoField(String),
    /// A value that could pass for two lines.
    #[error("the component {0:?} has a value that cannot be signed")]
    Value(String),
    /// Signed by another key, or another request.
    #[error("the signature is not of this request by this key")]
    Wrong,
    /// The signer did not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// Longest `Signature-Input` and `Signature` that are read, in bytes; ours have 300 and 100.
const MAX_FIELD: usize = 1024;

/// Most components; ours cover 4.
const MAX_COMPONENTS: usize = 16;

impl Parameters {
    /// Signs a request. `label` is the signature's name in both fields: letters, digits and `-`.
    ///
    /// # Errors
    /// [`SignatureError::NoField`], [`SignatureError::Component`], [`SignatureError::Value`], [`SignatureError::Sign`].
    pub fn sign(self, label: &str, message: &Message<'_>, signer: &dyn Signer) -> Result<Signed, SignatureError> {
        let signature = signer.sign(&self.base(message)?)?;
        Ok(Signed { label: label.to_owned(), parameters: self, signature })
    }

    /// The bytes that are signed: RFC 9421, section 2.5.
    fn base(&self, message: &Message<'_>) -> Result<Vec<u8>, SignatureError> {
        let mut base = String::new();
        for (index, name) in self.components.iter().enumerate() {
            if self.components[..index].contains(name) {
                return Err(SignatureError::Twice(name.clone()));
            }
            let value = match name.as_str() {
                "@method" => message.method.to_owned(),
                "@authority" => message.authority.to_ascii_lowercase(),
                "@path" => message.path.to_owned(),
                derived if derived.starts_with('@') => return Err(SignatureError::Component(name.clone())),
                field => (message.field)(field).ok_or_else(|| SignatureError::NoField(name.clone()))?,
            };
            let value = value.trim();
            if value.chars().any(char::is_control) {
                return Err(SignatureError::Value(name.clone()));
            }
            base.push_str(&format!("\"{name}\": {value}\n"));
        }
        base.push_str(&format!("\"@signature-params\": {}", self.text()));
        Ok(base.into_bytes())
    }

    /// As it stands in `Signature-Input`.
    fn text(&self) -> String {
        let components: Vec<String> = self.components.iter().map(|name| format!("\"{name}\"")).collect();
        let mut text = format!("({});created={}", components.join(" "), self.created);
        if let Some(expires) = self.expires {
            text.push_str(&format!(";expires={expires}"));
        }
        for (name, value) in [("nonce", &self.nonce), ("keyid", &self.key_id)] {
            if let Some(value) = value {
                text.push_str(&format!(";{name}=\"{value}\""));
            }
        }
        if self.algorithm {
            text.push_str(";alg=\"ed25519\"");
        }
        text
    }
}

impl Signed {
    /// Reads the two fields of a request. Nothing is verified yet.
    ///
    /// # Errors
    /// [`SignatureError::TooLong`], [`SignatureError::Input`], [`SignatureError::Form`] for all that is not exactly as
    /// [`Self::input_field`] and [`Self::signature_field`] write it.
    pub fn parse(input: &str, signature: &str) -> Result<Self, SignatureError> {
        for (field, text) in [("Signature-Input", input), ("Signature", signature)] {
            if text.len() > MAX_FIELD {
                return Err(SignatureError::TooLong { field, len: text.len(), max: MAX_FIELD });
            }
        }
        let mut reader = Reader { text: input, at: 0 };
        let label = reader.word("a label", |byte| byte.is_ascii_alphanumeric() || byte == b'-')?.to_owned();
        reader.expect("=(", "`=(`")?;
        let mut components = Vec::new();
        while components.len() < MAX_COMPONENTS {
            components.push(reader.quoted("the name of a component", |byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'@'
            })?);
            if !reader.take(" ") {
                break;
            }
        }
        reader.expect(")", "`)`, or fewer components")?;
        // In the one order in which they are written here: RFC 9421 leaves it to the signer.
        reader.expect(";created=", "`;created=`")?;
        let created = reader.number()?;
        let expires = reader.take(";expires=").then(|| reader.number()).transpose()?;
        let token = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        let nonce = reader.take(";nonce=").then(|| reader.quoted("a nonce", token)).transpose()?;
        let key_id = reader.take(";keyid=").then(|| reader.quoted("the id of a key", token)).transpose()?;
        let algorithm = reader.take(";alg=\"ed25519\"");
        reader.end()?;
        let parameters = Parameters { components, created, expires, nonce, key_id, algorithm };

        let form = || SignatureError::Form { label: label.clone() };
        let bytes = signature
            .strip_prefix(label.as_str())
            .and_then(|rest| rest.strip_prefix("=:")?.strip_suffix(':'))
            .ok_or_else(form)?;
        let bytes = Base64::decode_vec(bytes).map_err(|_| form())?;
        let signature = <[u8; 64]>::try_from(bytes).map_err(|_| form())?;
        Ok(Self { label, parameters, signature })
    }

    /// What it says of itself; true only once [`Self::verify`] said so.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Verifies that the holder of `key` signed this request.
    ///
    /// # Errors
    /// [`SignatureError::Wrong`], and the errors of [`Parameters::sign`] for a request that cannot have been signed so.
    pub fn verify(&self, message: &Message<'_>, key: &VerifyingKey) -> Result<(), SignatureError> {
        let base = self.parameters.base(message)?;
        key.verify_strict(&base, &Signature::from_bytes(&self.signature)).map_err(|_| SignatureError::Wrong)
    }

    /// The field `Signature-Input`.
    pub fn input_field(&self) -> String {
        format!("{}={}", self.label, self.parameters.text())
    }

    /// The field `Signature`.
    pub fn signature_field(&self) -> String {
        format!("{}=:{}:", self.label, Base64::encode_string(&self.signature))
    }
}

/// The field `Content-Digest` of a body, by SHA-256.
pub fn content_digest(body: &[u8]) -> String {
    content_digest_of(&crate::crypto::sha256(body))
}

/// The field `Content-Digest` of a body with this SHA-256.
pub fn content_digest_of(sha256: &relevo_types::Sha256) -> String {
    format!("sha-256=:{}:", Base64::encode_string(sha256.as_bytes()))
}

/// Reads `Content-Digest`; `None` for anything but one digest by SHA-256.
pub fn read_content_digest(field: &str) -> Option<relevo_types::Sha256> {
    let text = field.strip_prefix("sha-256=:")?.strip_suffix(':')?;
    if text.len() != 44 {
        return None;
    }
    let bytes = <[u8; 32]>::try_from(Base64::decode_vec(text).ok()?).ok()?;
    Some(relevo_types::Sha256::new(bytes))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        // Only whole ASCII characters are stepped over.
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.rest().starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    fn expect(&mut self, word: &str, expected: &'static str) -> Result<(), SignatureError> {
        if self.take(word) { Ok(()) } else { Err(SignatureError::Input { at: self.at, expected }) }
    }

    fn word(&mut self, expected: &'static str, allowed: impl Fn(u8) -> bool) -> Result<&'a str, SignatureError> {
        let rest = self.rest();
        let len = rest.bytes().position(|byte| !allowed(byte)).unwrap_or(rest.len());
        if len == 0 {
            return Err(SignatureError::Input { at: self.at, expected });
        }
        self.at += len;
        Ok(&rest[..len])
    }

    fn quoted(&mut self, expected: &'static str, allowed: impl Fn(u8) -> bool) -> Result<String, SignatureError> {
        self.expect("\"", expected)?;
        let word = self.word(expected, allowed)?.to_owned();
        self.expect("\"", expected)?;
        Ok(word)
    }

    fn number(&mut self) -> Result<i64, SignatureError> {
        let at = self.at;
        let error = SignatureError::Input { at, expected: "seconds since 1970" };
        let digits = self.word("seconds since 1970", |byte| byte.is_ascii_digit())?;
        match digits.parse::<i64>() {
            // RFC 8941, section 3.3.1: at most 15 digits; and one spelling for each number.
            Ok(number) if digits.len() <= 15 && number.to_string() == digits => Ok(number),
            _ => Err(error),
        }
    }

    fn end(&self) -> Result<(), SignatureError> {
        if self.rest().is_empty() {
            Ok(())
        } else {
            Err(SignatureError::Input { at: self.at, expected: "the end, after created, expires, nonce, keyid, alg" })
        }
    }
}
