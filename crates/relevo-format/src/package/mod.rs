//! The native container, `.rvp` (docs/format.md).
//!
//! ```text
//! header | manifest (one zstd frame) | signatures | body: the pieces' streams, in order
//! ```
//!
//! Everything before the body is its [`Front`]. The signatures cover header and manifest; the manifest holds the
//! SHA-256 of every stream and of every byte that it makes, so each can be checked alone.

mod feature;
mod front;
mod manifest;
mod sign;

pub use feature::{BaseKind, Codec, Engine, Role};
pub use front::{Front, Limits, MAGIC, PackageError, VERSION};
pub use manifest::{Base, Info, Manifest, Partition, Piece, Stream};
pub use sign::{KeyId, SIGNATURE_LEN, Signature, key_id, sign_file, sign_file_with};
