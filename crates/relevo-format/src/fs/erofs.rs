//! EROFS.

use super::{FileSystem, FsError, Kind, Limits, tree::Tree};
use crate::ReadAt;

/// `magic`.
pub(super) const MAGIC: [u8; 4] = [0xe2, 0xe1, 0xf5, 0xe0];

pub(super) fn read(image: &dyn ReadAt, limits: &Limits) -> Result<FileSystem, FsError> {
    Err(Tree::new(image, Kind::Erofs, limits).unsupported("EROFS"))
}
