//! What an origin reads of maintainers' machines.

use relevo_meta::http_signature::{Signed, content_digest_of, read_content_digest};
use relevo_repo::push::{CutList, Manifest};

/// By the first byte: a list of chunks, the two fields of a signature with a line between, or a manifest.
pub fn push(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 3 {
        0 => {
            let Ok(list) = CutList::parse(data) else { return };
            assert_eq!(list.encode(), data);
            let end = list.chunks().last().map_or(0, |chunk| chunk.offset + u64::from(chunk.length));
            assert_eq!(end, list.length().get());
        }
        1 => {
            let Ok(text) = std::str::from_utf8(data) else { return };
            if let Some(digest) = read_content_digest(text) {
                assert_eq!(content_digest_of(&digest), text);
            }
            let Some((input, signature)) = text.split_once('\n') else { return };
            let Ok(signed) = Signed::parse(input, signature) else { return };
            assert_eq!((signed.input_field().as_str(), signed.signature_field().as_str()), (input, signature));
        }
        _ => {
            let Ok(manifest) = serde_json::from_slice::<Manifest>(data) else { return };
            let text = serde_json::to_vec(&manifest).expect("what was read can be written");
            let again: Manifest = serde_json::from_slice(&text).expect("what is written can be read");
            assert_eq!(again, manifest);
        }
    }
}
