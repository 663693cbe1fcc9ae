//! Bytes of packages and images: parse, emit, check, apply one piece.
//!
//! Everything here works on [`Read`](std::io::Read), [`Write`](std::io::Write) and [`ReadAt`]; the one place that
//! opens files is [`image`], which reads directories of `NAME.img`. Input is hostile: every length has a limit before
//! memory is taken for it, arithmetic is checked, and nothing panics.
//!
//! - [`package`]: the native container (`.rvp`), as specified in `docs/format.md`.
//! - [`ops`]: the operations of a piece (copy, add, insert, zero), as bytes.
//! - [`apply`]: makes one piece of a partition out of a source that was checked and a package.
//! - `patch`: patches of AOSP, behind the feature `ab`.
//! - [`image`]: raw and Android sparse images.
//! - `ota_zip`, `payload`: A/B OTA zips and what they hold, behind the feature `ab`; never on a phone.
//! - `target_files`: what a zip of target files says of a build, behind the same feature.
//! - `avb`, behind the feature `ab`: what Android Verified Boot says of an image.
//! - `verity`, behind the feature `ab`: hash trees of dm-verity and the error correction beside them.
//! - `fs`, behind the feature `ab`: the files in images of ext4 and EROFS. The phone never reads any.
//!
//! # Examples
//! ```
//! use relevo_format::ops::{Decoder, Encoder, Op};
//!
//! let mut encoder = Encoder::new(1);
//! encoder.push(Op::Copy { base: 0, start: 4096, len: 8192 });
//! encoder.push(Op::Insert { len: 5 });
//! let bytes = encoder.finish();
//!
//! let mut decoder = Decoder::new(&bytes[..], 1);
//! assert_eq!(decoder.next_op()?, Some(Op::Copy { base: 0, start: 4096, len: 8192 }));
//! assert_eq!(decoder.next_op()?, Some(Op::Insert { len: 5 }));
//! assert_eq!(decoder.next_op()?, None);
//! # Ok::<(), relevo_format::ops::OpsError>(())
//! ```

pub mod apply;
#[cfg(feature = "ab")]
pub mod avb;
#[cfg(feature = "ab")]
pub mod fs;
pub mod image;
pub mod ops;
#[cfg(feature = "ab")]
pub mod ota_zip;
pub mod package;
#[cfg(feature = "ab")]
pub mod patch;
#[cfg(feature = "ab")]
pub mod payload;
mod read_at;
#[cfg(feature = "ab")]
pub mod target_files;
mod varint;
#[cfg(feature = "ab")]
pub mod verity;

pub use read_at::{FileAt, ReadAt, Section};
