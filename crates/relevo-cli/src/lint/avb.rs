//! Whether the images are those that their build vouches for: Android Verified Boot.

use std::collections::BTreeMap;

use rayon::prelude::*;
use relevo_delta::Images;
use relevo_format::{
    ReadAt, Section,
    avb::{self, Algorithm, AvbError, Descriptor, Hash, Hashtree, Located, Vbmeta},
    verity,
};
use relevo_types::{InstallKind, PartitionName};
use sha2::Digest;

use super::{Finding, Level, error, warning};

const REBUILD: &str =
    "take all images from one build, and let the build sign them last (avbtool, sign_target_files_apks)";

/// What vbmeta images and footers say, held against the images.
pub(super) fn check(kind: InstallKind, images: &Images<'_>, findings: &mut Vec<Finding>) {
    let read: Vec<_> = images.par_iter().map(|(name, image)| (name, avb::read(image))).collect();
    let mut located: BTreeMap<&PartitionName, Located> = BTreeMap::new();
    let mut damaged = Vec::new();
    for (name, read) in read {
        match read {
            Ok(Some(found)) => {
                located.insert(name, found);
            }
            // An image that cannot be read stops the import by itself.
            Ok(None) | Err(AvbError::Read { .. }) => {}
            Err(problem) => damaged.push((name, problem)),
        }
    }
    test_keys(&located, findings);
    // Phones that verify nothing start whatever is there, and none verifies without a vbmeta image that says so.
    let top = || located.values().filter(|found| found.footer.is_none()).map(|found| &found.vbmeta);
    let off = kind != InstallKind::Ab || top().next().is_none() || top().any(Vbmeta::verification_disabled);
    let trees_off = off || top().any(Vbmeta::hashtree_disabled);
    let level = |off: bool| if off { Level::Warning } else { Level::Error };
    for (name, problem) in damaged {
        let text = format!("what {name} says of verified boot cannot be used: {problem}");
        findings.push(Finding { level: level(off), ..error("avb-footer", text, REBUILD) });
    }
    for (name, found) in &located {
        if found.vbmeta.algorithm != Algorithm::None
            && let Err(problem) = found.vbmeta.verify()
        {
            let text = format!("what {name} says of verified boot is not signed by its own key: {problem}");
            findings.push(Finding { level: level(off), ..error("avb-signature", text, REBUILD) });
        }
    }

    chains(images, &located, level(off), findings);

    // The same is often said twice: at the image's end and in vbmeta.
    let mut said: Vec<(&PartitionName, &PartitionName, &Descriptor)> = Vec::new();
    for (by, found) in &located {
        for descriptor in &found.vbmeta.descriptors {
            let (Descriptor::Hash(_) | Descriptor::Hashtree(_)) = descriptor else { continue };
            let of = descriptor.partition().and_then(|name| PartitionName::parse(name).ok());
            if let Some((of, _)) = of.and_then(|name| images.get_key_value(&name))
                && !said.iter().any(|(_, other, known)| *other == of && *known == descriptor)
            {
                said.push((by, of, descriptor));
            }
        }
    }
    let wrong: Vec<_> = said
        .par_iter()
        .filter_map(|(by, of, descriptor)| {
            let image = &images[*of];
            let (fits, off) = match descriptor {
                Descriptor::Hash(hash) => (hash_fits(image, hash), off),
                Descriptor::Hashtree(tree) => (tree_fits(image, tree), trees_off),
                _ => return None,
            };
            let by = if by == of { "its own AVB footer".to_owned() } else { by.to_string() };
            let text = format!("{of} is not the image that {by} describes; phones with verified boot do not start");
            (fits == Some(false)).then(|| Finding { level: level(off), ..error("avb-mismatch", text, REBUILD) })
        })
        .collect();
    findings.extend(wrong);
}

/// Partitions that have to vouch for themselves, with a key that another one names.
fn chains(images: &Images<'_>, located: &BTreeMap<&PartitionName, Located>, level: Level, findings: &mut Vec<Finding>) {
    for (by, found) in located {
        for descriptor in &found.vbmeta.descriptors {
            let Descriptor::Chain(chain) = descriptor else { continue };
            let of = PartitionName::parse(&chain.partition).ok();
            let Some(of) = of.filter(|name| images.contains_key(name)) else {
                findings.push(warning(
                    "avb-chain-missing",
                    format!("{by} leaves {} to a vbmeta of its own, and the build has no such image", chain.partition),
                    "add the image, unless phones keep the one that they have",
                ));
                continue;
            };
            let key = located.get(&of).map(|found| &found.vbmeta.public_key);
            if key != Some(&chain.public_key) {
                let text = format!(
                    "{of} is not signed with the key that {by} names for it; phones with verified boot do not start"
                );
                findings.push(Finding { level, ..error("avb-chain-key", text, REBUILD) });
            }
        }
    }
}

fn test_keys(located: &BTreeMap<&PartitionName, Located>, findings: &mut Vec<Finding>) {
    let mut keys: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for (name, found) in located {
        if let Some(key) = found.vbmeta.test_key() {
            keys.entry(key.file()).or_default().push(name.to_string());
        }
    }
    for (file, names) in keys {
        findings.push(warning(
            "avb-test-key",
            format!("{}: signed for verified boot with AOSP's {file}, which everybody has", names.join(", ")),
            "make a key of your own and set BOARD_AVB_KEY_PATH, if phones are to be locked again; else it does no harm",
        ));
    }
}

/// Whether an image has this digest; none if that cannot be said.
fn hash_fits(image: &dyn ReadAt, said: &Hash) -> Option<bool> {
    if said.digest.is_empty() {
        return None;
    }
    if said.image_size > image.len().get() {
        return Some(false);
    }
    let digest = match said.algorithm.as_str() {
        "sha256" => digest::<sha2::Sha256>(image, said)?,
        "sha512" => digest::<sha2::Sha512>(image, said)?,
        _ => return None,
    };
    Some(digest == said.digest)
}

fn digest<D: Digest>(image: &dyn ReadAt, said: &Hash) -> Option<Vec<u8>> {
    use std::io::Read;

    let mut section = Section::new(image, 0, said.image_size).ok()?;
    let mut hasher = D::new_with_prefix(&said.salt);
    let mut buffer = vec![0; 1 << 18];
    loop {
        match section.read(&mut buffer).ok()? {
            0 => return Some(hasher.finalize().to_vec()),
            len => hasher.update(&buffer[..len]),
        }
    }
}

/// Whether an image has this hash tree, from its blocks up to the digest; none if that cannot be said.
fn tree_fits(image: &dyn ReadAt, said: &Hashtree) -> Option<bool> {
    if said.root_digest.is_empty() || said.algorithm != "sha256" || said.tree_size == 0 {
        return None;
    }
    let mut first = vec![0; 4096];
    if said.hash_block_size != 4096 {
        return None;
    }
    if image.read_exact_at(&mut first, said.tree_offset).is_err() {
        return Some(false);
    }
    let root = sha2::Sha256::new_with_prefix(&said.salt).chain_update(&first).finalize();
    if root[..] != said.root_digest[..] {
        return Some(false);
    }
    // Error correction does not decide whether a phone starts.
    let tree = Hashtree { fec_size: 0, ..said.clone() };
    match verity::computable(image, &tree).ok()?.hash_tree {
        Ok(_) => Some(true),
        Err(verity::Plain::Differs { .. }) => Some(false),
        Err(_) => None,
    }
}
