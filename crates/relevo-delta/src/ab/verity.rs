//! What of a new image is left to phones: the hash tree of dm-verity and the error correction beside it.

use std::{error::Error, io};

use relevo_format::{
    ReadAt, payload,
    verity::{Computable, Plain, computable, described},
};
use relevo_types::PartitionName;

/// Minor version that can leave it.
pub(super) const SINCE: u32 = 6;

/// What phones compute of an image, and why of it only a part although a footer speaks of more.
///
/// What stands there is what decides: bytes that a phone would not compute exactly are carried like any others.
pub(super) fn left(name: &PartitionName, image: &dyn ReadAt) -> io::Result<(Option<payload::Verity>, Vec<String>)> {
    let hashtree = match described(image)? {
        Ok(hashtree) => hashtree,
        Err(Plain::NoFooter | Plain::NoHashtree) => return Ok((None, Vec::new())),
        Err(plain) => return Ok((None, vec![carries(name, "hash tree", &plain)])),
    };
    let Computable { hash_tree, fec } = computable(image, &hashtree)?;
    // Nothing is left of an image whose tree is carried: AOSP's generator leaves both or nothing.
    Ok(match (hash_tree, fec.transpose()) {
        (Err(plain), _) => (None, vec![carries(name, "hash tree", &plain)]),
        (Ok(tree), Ok(fec)) => (Some(payload::Verity { hash_tree: Some(tree), fec }), Vec::new()),
        (Ok(tree), Err(plain)) => {
            let verity = payload::Verity { hash_tree: Some(tree), fec: None };
            (Some(verity), vec![carries(name, "error correction", &plain)])
        }
    })
}

fn carries(name: &PartitionName, what: &str, plain: &Plain) -> String {
    let mut text = format!("{name} carries its {what}: {plain}");
    let mut source = plain.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}
