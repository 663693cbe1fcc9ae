//! `relevo ota` with A/B zips and payloads.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::OnceLock};

use prost::Message as _;
use relevo_format::payload::wire;
use sha2::{Digest, Sha256};

use crate::support::{Machine, program};

pub(crate) fn sample(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/aosp").join(name);
    path.to_str().unwrap().to_owned()
}

/// Images of the samples by name, of `old` or `new`; unpacked once.
fn images(build: &str) -> Vec<(&'static str, Vec<u8>)> {
    static TAR: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    let files = TAR.get_or_init(|| {
        let tar = zstd::decode_all(&fs::read(sample("images.tar.zst")).unwrap()[..]).unwrap();
        let (mut rest, mut files) = (&tar[..], BTreeMap::new());
        while let Some((header, after)) = rest.split_first_chunk::<512>().filter(|(header, _)| header[0] != 0) {
            let text = |range: std::ops::Range<usize>| {
                str::from_utf8(&header[range]).unwrap().trim_end_matches(' ').split('\0').next().unwrap().to_owned()
            };
            let len = usize::from_str_radix(&text(124..136), 8).unwrap();
            files.insert(text(0..100).trim_start_matches("./").to_owned(), after[..len].to_vec());
            rest = &after[len.next_multiple_of(512)..];
        }
        files
    });
    ["system", "product", "boot"].map(|name| (name, files[&format!("{build}/{name}.img")].clone())).to_vec()
}

/// A full payload: pieces of 1 MiB, stored as they are, with Zstandard, or as zeros.
fn full(images: &[(&str, Vec<u8>)]) -> Vec<u8> {
    full_with(images, |_| {})
}

/// The same with what `edit` makes of its manifest.
pub(crate) fn full_with(images: &[(&str, Vec<u8>)], edit: impl Fn(&mut wire::DeltaArchiveManifest)) -> Vec<u8> {
    let (mut partitions, mut blobs) = (Vec::new(), Vec::new());
    let digest = |bytes: &[u8]| Some(Sha256::digest(bytes).to_vec());
    for (name, image) in images {
        let mut operations = Vec::new();
        for (number, piece) in image.chunks(1 << 20).enumerate() {
            let extent =
                wire::Extent { start_block: Some(number as u64 * 256), num_blocks: Some(piece.len() as u64 / 4096) };
            let mut operation = wire::InstallOperation { dst_extents: vec![extent], ..Default::default() };
            if piece.iter().all(|&byte| byte == 0) {
                operation.kind = Some(6);
            } else {
                let packed = number % 2 == 0;
                let data = if packed { zstd::encode_all(piece, 1).unwrap() } else { piece.to_vec() };
                operation.kind = Some(if packed { 14 } else { 0 });
                operation.data_offset = Some(blobs.len() as u64);
                operation.data_length = Some(data.len() as u64);
                operation.data_sha256_hash = digest(&data);
                blobs.extend(data);
            }
            operations.push(operation);
        }
        partitions.push(wire::PartitionUpdate {
            partition_name: Some((*name).to_owned()),
            new_partition_info: Some(wire::PartitionInfo { size: Some(image.len() as u64), hash: digest(image) }),
            operations,
            ..Default::default()
        });
    }
    let mut manifest = wire::DeltaArchiveManifest { block_size: Some(4096), partitions, ..Default::default() };
    edit(&mut manifest);
    let manifest = manifest.encode_to_vec();
    let mut bytes = b"CrAU".to_vec();
    bytes.extend(2_u64.to_be_bytes());
    bytes.extend((manifest.len() as u64).to_be_bytes());
    bytes.extend(0_u32.to_be_bytes());
    bytes.extend(manifest);
    bytes.extend(blobs);
    bytes
}

/// A zip with a payload in it, stored as it is; its CRC-32 is not looked at when it is read in place.
pub(crate) fn zip(payload: &[u8]) -> Vec<u8> {
    let name = b"payload.bin";
    let len = u32::try_from(payload.len()).unwrap().to_le_bytes();
    let header = [&[0; 12][..], &len, &len, &[11, 0, 0, 0]].concat();
    let local = [b"PK\x03\x04\x14\0", &header[..], name, payload].concat();
    let central = [b"PK\x01\x02\x14\0\x14\0", &header[..], &[0; 14], name].concat();
    let (at, size) = (u32::try_from(local.len()).unwrap(), u32::try_from(central.len()).unwrap());
    let end = [b"PK\x05\x06\0\0\0\0\x01\0\x01\0", &size.to_le_bytes()[..], &at.to_le_bytes(), &[0, 0]].concat();
    [local, central, end].concat()
}

pub(crate) fn small() -> Vec<(&'static str, Vec<u8>)> {
    let mut system = program(1, 700);
    system.extend(vec![0; 2 << 20]);
    vec![("system", system), ("boot", program(2, 8))]
}

#[test]
fn a_full_payload_is_extracted_from_a_zip_or_bare() {
    let machine = Machine::new();
    machine.images("new", &small());
    fs::write(machine.path("payload.bin"), full(&small())).unwrap();
    fs::write(machine.path("ota.zip"), zip(&full(&small()))).unwrap();

    for (file, out) in [("payload.bin", "bare"), ("ota.zip", "zipped")] {
        machine.run(["ota", "extract", &machine.text(file), "--out", &machine.text(out)]).expect(0);
        assert_eq!(machine.tree(out), machine.tree("new"));
    }
    let (zip, one) = (machine.text("ota.zip"), machine.text("one"));
    let run = machine.run(["ota", "extract", &zip, "--out", &one, "--partition", "boot", "--json"]).expect(0);
    assert_eq!(machine.tree("one").keys().collect::<Vec<_>>(), ["boot.img"]);
    assert_eq!(run.json()["partitions"].as_object().unwrap().len(), 1);
    let run = machine.run(["ota", "extract", &zip, "--out", &one, "--partition", "vendor"]).expect(1);
    assert!(run.err.contains("the payload has no partition vendor; it has system, boot"), "{}", run.err);
}

#[test]
fn a_delta_of_aosp_makes_the_new_images_from_a_directory_or_a_full_payload() {
    let machine = Machine::new();
    machine.images("new", &images("new"));
    let old = machine.images("old", &images("old"));
    fs::write(machine.path("old.zip"), zip(&full(&images("old")))).unwrap();
    let delta = sample("delta4.bin");

    for (source, out) in [(old, "from-images"), (machine.text("old.zip"), "from-zip")] {
        machine.run(["ota", "apply", &delta, "--source", &source, "--out", &machine.text(out)]).expect(0);
        assert!(machine.tree(out) == machine.tree("new"), "{out}");
    }
    // Nothing is left of what the zip was taken apart into.
    let names: Vec<_> = fs::read_dir(machine.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 5, "{names:?}");
}

#[test]
fn the_incremental_ota_of_releasetools_makes_the_new_images() {
    let machine = Machine::new();
    // It calls the images of boot dtbo.
    let renamed = |build: &str| {
        images(build).into_iter().map(|(name, image)| (if name == "boot" { "dtbo" } else { name }, image))
    };
    machine.images("new", &renamed("new").collect::<Vec<_>>());
    let old = machine.images("old", &renamed("old").collect::<Vec<_>>());

    let zip = sample("incremental_ota.zip");
    machine.run(["ota", "apply", &zip, "--source", &old, "--out", &machine.text("out")]).expect(0);

    assert!(machine.tree("out") == machine.tree("new"));
}

#[test]
fn what_cannot_be_made_is_refused_before_anything_is_written() {
    let machine = Machine::new();
    let (old, out) = (machine.images("new", &small()), machine.text("out"));

    let none = machine.run(["ota", "apply", &sample("delta4.bin"), "--out", &out]).expect(1);
    let wrong = machine.run(["ota", "apply", &sample("delta4.bin"), "--source", &old, "--out", &out]).expect(1);

    assert!(none.err.contains("no --source was given"), "{}", none.err);
    assert!(wrong.err.contains("product.img"), "{}", wrong.err);
    assert!(!machine.path("out").exists());
}

/// A payload of one partition as AOSP's avbtool ends it, that leaves hash tree and error correction to the phone.
fn left_to_the_phone(image: &[u8], change: impl FnOnce(&mut wire::PartitionUpdate)) -> Vec<u8> {
    let bytes = full(&[("system", image.to_vec())]);
    let len = u64::from_be_bytes(bytes[12..20].try_into().unwrap());
    let mut manifest = wire::DeltaArchiveManifest::decode(&bytes[24..24 + usize::try_from(len).unwrap()]).unwrap();
    let partition = &mut manifest.partitions[0];
    let extent = |start, blocks| wire::Extent { start_block: Some(start), num_blocks: Some(blocks) };
    // Data, and what stands behind the error correction: vbmeta and footer.
    let mut blobs = Vec::new();
    let operation = |(start, end): (usize, usize)| {
        let data = &image[start * 4096..end * 4096];
        let offset = blobs.len() as u64;
        blobs.extend_from_slice(data);
        wire::InstallOperation {
            kind: Some(0),
            data_offset: Some(offset),
            data_length: Some(data.len() as u64),
            data_sha256_hash: Some(Sha256::digest(data).to_vec()),
            dst_extents: vec![extent(start as u64, (end - start) as u64)],
            ..Default::default()
        }
    };
    partition.operations = [(0, 300), (308, 310)].map(operation).to_vec();
    partition.hash_tree_data_extent = Some(extent(0, 300));
    partition.hash_tree_extent = Some(extent(300, 4));
    partition.hash_tree_algorithm = Some("sha256".to_owned());
    partition.hash_tree_salt = Some((0x40..0x60).collect());
    partition.fec_data_extent = Some(extent(0, 304));
    partition.fec_extent = Some(extent(304, 4));
    partition.fec_roots = Some(2);
    change(partition);
    let manifest = manifest.encode_to_vec();
    [&bytes[..12], &(manifest.len() as u64).to_be_bytes(), &[0; 4], &manifest, &blobs].concat()
}

fn avbtools_image() -> Vec<u8> {
    let path = "../relevo-format/tests/avb/golden/system.img.zst";
    let file = fs::File::open(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    zstd::decode_all(file).unwrap()
}

#[test]
fn what_is_left_to_the_phone_is_computed() {
    let machine = Machine::new();
    let image = avbtools_image();
    machine.images("new", &[("system", image.clone())]);
    fs::write(machine.path("payload.bin"), left_to_the_phone(&image, |_| ())).unwrap();

    let (payload, made) = (machine.text("payload.bin"), machine.text("made"));
    machine.run(["ota", "extract", &payload, "--out", &made]).expect(0);
    assert!(machine.tree("made") == machine.tree("new"));
    let run = machine.run(["ota", "inspect", &payload, "--json"]).expect(0);
    assert_eq!(run.json()["partitions"][0]["computed"], 8 * 4096);
}

#[test]
fn what_is_left_to_the_phone_has_to_fit_together_and_to_be_what_was_promised() {
    let machine = Machine::new();
    let image = avbtools_image();
    let (payload, made) = (machine.text("payload.bin"), machine.text("made"));

    let bytes = left_to_the_phone(&image, |partition| partition.hash_tree_algorithm = Some("md5".to_owned()));
    fs::write(machine.path("payload.bin"), bytes).unwrap();
    let run = machine.run(["ota", "extract", &payload, "--out", &made]).expect(1);
    assert!(run.err.contains("could not compute what the payload leaves to the phone of system"), "{}", run.err);
    assert!(run.err.contains("the hash tree is made with \"md5\""), "{}", run.err);
    assert!(!machine.path("made").exists());

    let bytes = left_to_the_phone(&image, |partition| partition.hash_tree_salt = None);
    fs::write(machine.path("payload.bin"), bytes).unwrap();
    let run = machine.run(["ota", "extract", &payload, "--out", &made]).expect(1);
    assert!(run.err.contains("system"), "{}", run.err);
    assert!(machine.tree("made").is_empty(), "{:?}", machine.tree("made").keys());
}

#[test]
fn a_damaged_payload_leaves_no_image() {
    let machine = Machine::new();
    let mut bytes = full(&small());
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(machine.path("payload.bin"), bytes).unwrap();

    let run = machine.run(["ota", "extract", &machine.text("payload.bin"), "--out", &machine.text("out")]).expect(1);

    assert!(run.err.contains("the data of operation 0 of boot has SHA-256"), "{}", run.err);
    assert!(machine.tree("out").is_empty());
}

#[test]
fn stopping_an_extraction_leaves_no_image() {
    let machine = Machine::new();
    fs::write(machine.path("payload.bin"), full(&small())).unwrap();
    machine.stop(true);

    let run = machine.run(["ota", "extract", &machine.text("payload.bin"), "--out", &machine.text("out")]).expect(1);

    assert!(run.err.contains("stopped"), "{}", run.err);
    assert!(machine.tree("out").is_empty());
}

#[test]
fn inspect_shows_what_an_ota_holds() {
    let machine = Machine::new();

    let zip = machine.run(["ota", "inspect", &sample("incremental_ota.zip")]).expect(0).out;
    let bare = machine.run(["ota", "inspect", &sample("vabc.bin")]).expect(0).out;
    let json = machine.run(["ota", "inspect", &sample("vabc.bin"), "--json"]).expect(0).json();

    insta::assert_snapshot!("ab_inspect_zip", zip);
    insta::assert_snapshot!("ab_inspect_payload", bare);
    insta::assert_json_snapshot!("ab_inspect_json", json);
}

#[test]
fn verify_needs_every_signature_to_be_by_the_keys_given() {
    let machine = Machine::new();
    let (zip, cert, key) = (sample("incremental_ota.zip"), sample("ota_cert.x509.pem"), sample("payload_key.pub.pem"));

    let run = machine.run(["ota", "verify", &zip, "--cert", &cert]).expect(0);
    assert!(run.out.contains("metadata, payload and whole file are signed by the keys given"), "{}", run.out);
    assert!(run.out.contains("payload_properties.txt is right"), "{}", run.out);
    machine.run(["ota", "verify", &sample("delta9.bin"), "--key", &key]).expect(0);
    let run = machine.run(["ota", "verify", &zip]).expect(0);
    assert!(run.out.contains("its signatures were not checked"), "{}", run.out);

    let mut bytes = fs::read(&zip).unwrap();
    bytes[600_000] ^= 1;
    fs::write(machine.path("flipped.zip"), bytes).unwrap();
    machine.run(["ota", "verify", &machine.text("flipped.zip"), "--cert", &cert]).expect(1);
    machine.run(["ota", "verify", &machine.text("flipped.zip")]).expect(1);
    let run = machine.run(["ota", "verify", &zip, "--cert", &sample("delta2.bin")]).expect(1);
    assert!(run.err.contains("is no key or certificate"), "{}", run.err);
}
