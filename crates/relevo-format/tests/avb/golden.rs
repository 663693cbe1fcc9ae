//! Images that AOSP's tools made. `golden/README.md` says how.

use std::{fmt::Write as _, fs, path::PathBuf};

use relevo_format::{
    ReadAt,
    avb::{self, Algorithm, Descriptor, Located, TestKey, VerifyError},
};

/// Their names.
pub(crate) const NAMES: [&str; 7] = ["boot", "odm", "product", "recovery", "system", "vbmeta", "vendor"];

pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/avb/golden").join(name)
}

/// The bytes of one of them.
pub(crate) fn image(name: &str) -> Vec<u8> {
    zstd::decode_all(fs::File::open(path(&format!("{name}.img.zst"))).unwrap()).unwrap()
}

pub(crate) fn located(name: &str) -> Located {
    avb::read(&image(name)).unwrap().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// What was read, as `avbtool info_image` prints it; without the lines that say how the blocks lie.
fn info(image: &[u8]) -> String {
    let mut out = String::new();
    let mut line = |label: &str, value: &dyn std::fmt::Display| writeln!(out, "{label} {value}").unwrap();
    let Located { footer, vbmeta } = avb::read(&image).unwrap().unwrap();
    if let Some(footer) = footer {
        line("Image size:", &format!("{} bytes", image.len()));
        line("Original image size:", &format!("{} bytes", footer.original_size.get()));
        line("VBMeta offset:", &footer.vbmeta_offset);
        line("VBMeta size:", &format!("{} bytes", footer.vbmeta_len));
    }
    line("Algorithm:", &vbmeta.algorithm.name());
    line("Rollback Index:", &vbmeta.rollback_index);
    line("Flags:", &vbmeta.flags);
    line("Rollback Index Location:", &vbmeta.rollback_index_location);
    line("Release String:", &format!("'{}'", vbmeta.release));
    for descriptor in &vbmeta.descriptors {
        match descriptor {
            Descriptor::Property(found) => {
                line("Prop:", &format!("{} -> '{}'", found.key, str::from_utf8(&found.value).unwrap()));
            }
            Descriptor::Hashtree(found) => {
                line("Version of dm-verity:", &found.version);
                line("Image Size:", &format!("{} bytes", found.image_size));
                line("Tree Offset:", &found.tree_offset);
                line("Tree Size:", &format!("{} bytes", found.tree_size));
                line("Data Block Size:", &format!("{} bytes", found.data_block_size));
                line("Hash Block Size:", &format!("{} bytes", found.hash_block_size));
                line("FEC num roots:", &found.fec_roots);
                line("FEC offset:", &found.fec_offset);
                line("FEC size:", &format!("{} bytes", found.fec_size));
                line("Hash Algorithm:", &found.algorithm);
                line("Partition Name:", &found.partition);
                line("Salt:", &hex(&found.salt));
                line("Root Digest:", &hex(&found.root_digest));
                line("Flags:", &found.flags);
            }
            Descriptor::Hash(found) => {
                line("Image Size:", &format!("{} bytes", found.image_size));
                line("Hash Algorithm:", &found.algorithm);
                line("Partition Name:", &found.partition);
                line("Salt:", &hex(&found.salt));
                line("Digest:", &hex(&found.digest));
                line("Flags:", &found.flags);
            }
            Descriptor::KernelCmdline(found) => {
                line("Flags:", &found.flags);
                line("Kernel Cmdline:", &format!("'{}'", found.text));
            }
            Descriptor::Chain(found) => {
                line("Partition Name:", &found.partition);
                line("Rollback Index Location:", &found.rollback_index_location);
                line("Flags:", &found.flags);
            }
            other => panic!("{other:?}"),
        }
    }
    out
}

#[test]
fn each_image_is_read_as_avbtool_reads_it() {
    let ours_alone = ["Footer version", "Minimum libavb", "Header Block", "Authentication", "Auxiliary", "Public key"];
    let text = fs::read_to_string(path("info.txt")).unwrap();
    let mut seen = 0;
    for part in text.split("== ").filter(|part| !part.is_empty()) {
        let (name, lines) = part.split_once(".img\n").unwrap();
        let mut wanted = String::new();
        for line in lines.lines().map(str::trim).filter(|line| !line.ends_with("escriptor:") && !line.is_empty()) {
            if line == "--" || line == "Descriptors:" || ours_alone.iter().any(|label| line.starts_with(label)) {
                continue;
            }
            let (label, value) = line.split_once(':').unwrap();
            writeln!(wanted, "{label}: {}", value.trim()).unwrap();
        }

        let found = info(&image(name));

        assert_eq!(found, wanted, "{name}");
        seen += 1;
    }
    assert_eq!(seen, NAMES.len());
}

#[test]
fn properties_of_the_build_are_found() {
    let vbmeta = located("vbmeta").vbmeta;

    let system = vbmeta.build_properties("system");
    assert_eq!(system.fingerprint, Some("a/b/c:14/X/1:user/release-keys"));
    assert_eq!(system.os_version, Some("14"));
    assert_eq!(system.security_patch, Some("2024-05-01"));
    assert_eq!(vbmeta.build_properties("boot").security_patch, Some("2024-05-01"));
    assert_eq!(vbmeta.build_properties("vendor"), avb::BuildProperties::default());
    assert_eq!(vbmeta.partitions(), ["boot", "recovery", "system", "vendor"]);
}

#[test]
fn a_signature_is_verified_and_a_test_key_is_known() {
    let (vbmeta, recovery) = (located("vbmeta").vbmeta, located("recovery").vbmeta);

    assert_eq!((vbmeta.algorithm, vbmeta.verify()), (Algorithm::Sha256Rsa2048, Ok(())));
    assert_eq!(vbmeta.test_key(), Some(TestKey::Rsa2048));
    assert_eq!((recovery.algorithm, recovery.verify()), (Algorithm::Sha512Rsa4096, Ok(())));
    assert_eq!(recovery.test_key(), None);
    let chain = vbmeta.descriptors.iter().find_map(|descriptor| match descriptor {
        Descriptor::Chain(chain) => Some(chain),
        _ => None,
    });
    assert_eq!(chain.unwrap().public_key, recovery.public_key);
    assert_eq!(located("system").vbmeta.verify(), Err(VerifyError::Unsigned));
}

#[test]
fn what_is_neither_footer_nor_vbmeta_is_none() {
    assert_eq!(avb::read(&vec![0; 8192]).unwrap(), None);
    assert_eq!(avb::read(&Vec::new()).unwrap(), None);
    assert_eq!(avb::read(&b"AVB0".to_vec()).unwrap(), None);
}

#[test]
fn a_builds_digest_is_the_one_that_bootloaders_hand_on() {
    let images: Vec<(&str, Vec<u8>)> = NAMES.iter().map(|name| (*name, image(name))).collect();
    let find = |name: &str| images.iter().find(|(known, _)| *known == name).map(|(_, image)| image as &dyn ReadAt);
    let expected = fs::read_to_string(path("vbmeta-digest.txt")).unwrap();

    let digest = avb::build_digest(find).unwrap();

    assert_eq!(digest.unwrap().to_string(), expected.trim());
    let without = |missing: &str| avb::build_digest(|name| find(name).filter(|_| name != missing)).unwrap();
    assert_eq!((without("vbmeta"), without("recovery")), (None, None), "nobody knows it then");
}

#[test]
fn a_damaged_build_has_no_digest_and_no_panic() {
    let vbmeta = image("vbmeta");
    let recovery = image("recovery");
    for at in (0..1_024).chain([vbmeta.len() - 1]) {
        let mut damaged = vbmeta.clone();
        damaged[at] ^= 0x80;
        damaged.truncate(vbmeta.len() - at);
        let find = |name: &str| match name {
            "vbmeta" => Some(&damaged as &dyn ReadAt),
            "recovery" => Some(&recovery as &dyn ReadAt),
            _ => None,
        };

        let _ = avb::build_digest(find);
    }
}
