//! How requests to an origin are signed.

use relevo_meta::{
    http_signature::{Message, Parameters, SignatureError, content_digest},
    keys::{PrivateKey, Signer},
};

/// How long a signature counts, in seconds: as long as a request may wait on a slow line before its head is there.
const LIFETIME: i64 = 240;

/// What is signed of a request.
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) authority: &'a str,
    pub(super) path: &'a str,
    pub(super) body: &'a [u8],
}

/// The fields that a signed request has; `word` and `number` together are used once.
pub(super) fn sign(
    request: &Request<'_>,
    key: &PrivateKey,
    created: i64,
    word: &[u8; 16],
    number: u64,
) -> Result<[(&'static str, String); 3], SignatureError> {
    let digest = content_digest(request.body);
    let field = |name: &str| (name == "content-digest").then(|| digest.clone());
    let Request { method, authority, path, .. } = *request;
    let message = Message { method, authority, path, field: &field };
    let word: String = word.iter().map(|byte| format!("{byte:02x}")).collect();
    let parameters = Parameters {
        components: ["@method", "@authority", "@path", "content-digest"].map(str::to_owned).to_vec(),
        created,
        expires: Some(created + LIFETIME),
        nonce: Some(format!("{word}-{number}")),
        key_id: Some(key.key_id()),
        algorithm: true,
    };
    let signed = parameters.sign("relevo", &message, key)?;
    Ok([("content-digest", digest), ("signature-input", signed.input_field()), ("signature", signed.signature_field())])
}
