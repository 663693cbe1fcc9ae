//! The digest of all vbmeta images of a build, which bootloaders hand on as `ro.boot.vbmeta.digest`.

use relevo_types::Sha256;
use sha2::Digest as _;

use super::{AvbError, Descriptor, HEADER, MAX_VBMETA, Vbmeta, footer};
use crate::ReadAt;

/// The digest of a build's vbmeta image and of those that it hands on to, in its order; none if the build has no
/// partition `vbmeta`, or if one of those is missing.
///
/// # Errors
/// [`AvbError`], naming the first rule that is broken.
///
/// # Source
/// AOSP `external/avb`, `libavb/avb_slot_verify.c`, `avb_slot_verify_data_calculate_vbmeta_digest`: header, signature block
/// and data block of each image, without what fills the partition up.
pub fn build_digest<'i>(image: impl Fn(&str) -> Option<&'i dyn ReadAt>) -> Result<Option<Sha256>, AvbError> {
    let Some(first) = image("vbmeta") else { return Ok(None) };
    let Some((bytes, vbmeta)) = raw(first)? else { return Ok(None) };
    let mut hasher = sha2::Sha256::new_with_prefix(bytes);
    for descriptor in &vbmeta.descriptors {
        let Descriptor::Chain(chain) = descriptor else { continue };
        let Some(image) = image(&chain.partition) else { return Ok(None) };
        // One level: what is handed on to hands on to nobody.
        let Some((bytes, _)) = raw(image)? else { return Ok(None) };
        hasher.update(bytes);
    }
    Ok(Some(Sha256::new(hasher.finalize().into())))
}

/// The bytes of the vbmeta image that an image is, or ends in.
fn raw(image: &dyn ReadAt) -> Result<Option<(Vec<u8>, Vbmeta)>, AvbError> {
    let (offset, len) = match footer(image)? {
        Some(footer) => (footer.vbmeta_offset, footer.vbmeta_len),
        None => (0, image.len().get().min(MAX_VBMETA)),
    };
    if len > MAX_VBMETA {
        return Err(AvbError::TooLong(len));
    }
    if len < HEADER as u64 {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| AvbError::TooLong(len))?];
    image.read_exact_at(&mut bytes, offset).map_err(|source| AvbError::Read { source })?;
    let vbmeta = match Vbmeta::parse(&bytes) {
        Err(AvbError::Magic { .. }) => return Ok(None),
        vbmeta => vbmeta?,
    };
    bytes.truncate(vbmeta.len);
    Ok(Some((bytes, vbmeta)))
}
