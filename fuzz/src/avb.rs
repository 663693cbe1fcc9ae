//! AVB metadata, and what they leave to phones.

use relevo_format::{
    avb::{self, Descriptor, Vbmeta},
    verity,
};
use relevo_types::ByteLen;

/// An image, or a vbmeta image: what it says was in it, and a signature fits what it was made for alone.
pub fn avb(data: &[u8]) {
    if let Ok(Some(footer)) = avb::footer(&data) {
        let end = footer.vbmeta_offset.checked_add(footer.vbmeta_len).expect("it was checked");
        assert!(end + avb::FOOTER_LEN <= data.len() as u64);
    }
    let located = avb::read(&data);
    if let Ok(vbmeta) = Vbmeta::parse(data) {
        check(&vbmeta, data);
    }
    if let Ok(Some(located)) = located {
        check(&located.vbmeta, data);
    }
    // Memory can be read.
    if let Some(left) = verity::left_to_device(&data).expect("reading does not fail") {
        verity::check(&left, ByteLen::new(data.len() as u64)).expect("it was computed");
    }
}

fn check(vbmeta: &Vbmeta, data: &[u8]) {
    let mut said = vbmeta.release.len() + vbmeta.public_key.len();
    for descriptor in &vbmeta.descriptors {
        said += 16;
        said += match descriptor {
            Descriptor::Property(property) => property.key.len() + property.value.len(),
            Descriptor::Hashtree(tree) => tree.partition.len() + tree.salt.len() + tree.root_digest.len(),
            Descriptor::Hash(hash) => hash.partition.len() + hash.salt.len() + hash.digest.len(),
            Descriptor::KernelCmdline(line) => line.text.len(),
            Descriptor::Chain(chain) => chain.partition.len() + chain.public_key.len(),
            _ => 0,
        };
    }
    // Key and descriptors may lie over each other.
    assert!(said <= 2 * data.len());
    let _ = (vbmeta.partitions(), vbmeta.build_properties("system"), vbmeta.test_key());
    let _ = vbmeta.verify();
}
