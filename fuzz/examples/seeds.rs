//! Writes the inputs that the fuzzer starts from to `corpus/<target>/seed-*`; what it found besides is kept there too.
//!
//! `cargo run --manifest-path fuzz/Cargo.toml --example seeds`

use std::{fs, io, path::Path};

use relevo_format::{
    ops::{Encoder, Op},
    package::{Front, Manifest},
    patch::zucchini,
};
use relevo_meta::{
    chunks::{Builder, ChunkList},
    keys::PublicKey,
};
use relevo_types::ByteLen;
use serde_json::{Value, json};

#[path = "../../crates/relevo-format/tests/patch/program.rs"]
#[expect(dead_code, reason = "the tests of the crate build larger ones too")]
mod program;

fn main() -> io::Result<()> {
    let page = include_str!("../../docs/format.md");
    let listing = page.split_once("\n### Example\n").and_then(|(_, example)| example.split_once("```text\n"));
    let listing = listing.and_then(|(_, listing)| listing.split_once("```")).expect("the page has an example").0;
    let hex = |row: &str| row.split_once("  ").and_then(|(_, rest)| rest.split(';').next()).unwrap_or("").to_owned();
    let package: Vec<u8> = listing
        .lines()
        .flat_map(|row| hex(row).split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .map(|byte| u8::from_str_radix(&byte, 16).expect("the page has hexadecimal bytes"))
        .collect();
    let front = Front::read(&mut &package[..], &Default::default()).expect("the example is a package");
    seed("front", "example", &package)?;
    seed(
        "front",
        "written-again",
        &Front::new(front.manifest().clone(), &Default::default()).expect("it was read").encode(),
    )?;
    seed("manifest", "example", &front.manifest().encode())?;
    let mut full = Manifest { bases: Vec::new(), removed: Vec::new(), ..front.manifest().clone() };
    full.partitions.remove(0);
    full.info.from = None;
    seed("manifest", "full", &full.encode())?;

    let ops = |ops: &[Op]| {
        let mut encoder = Encoder::new(2);
        ops.iter().for_each(|&op| encoder.push(op));
        encoder.finish()
    };
    let lists = [
        ("copies", vec![Op::Copy { base: 0, start: 5, len: 900 }, Op::Copy { base: 1, start: 0, len: 4096 }]),
        ("add", vec![Op::Add { base: 1, start: 100, len: 30 }, Op::Insert { len: 7 }, Op::Zero { len: 300 }]),
        (
            "back",
            vec![
                Op::Copy { base: 0, start: 4000, len: 96 },
                Op::Add { base: 0, start: 1, len: 2 },
                Op::Insert { len: 1 },
            ],
        ),
        ("far", vec![Op::Copy { base: 0, start: u64::MAX >> 3, len: 1 << 60 }, Op::Zero { len: 1 << 60 }]),
        ("zeros", vec![Op::Zero { len: 100_000 }]),
    ];
    for (name, list) in lists {
        let bytes = ops(&list);
        seed("ops", name, &[&[2], &bytes[..]].concat())?;
        let sum = |wanted: fn(&Op) -> bool| list.iter().filter(|op| wanted(op)).map(|op| op.len() as usize).sum();
        let (diff, extra): (usize, usize) =
            (sum(|op| matches!(op, Op::Add { .. })), sum(|op| matches!(op, Op::Insert { .. })));
        // Stored, compressed, and the first two with new bytes as a frame that is none.
        for kinds in [0b00_00_00_00, 0b01_01_01_01, 0b10_10_01_00] {
            let mut input = vec![kinds];
            for len in [bytes.len(), diff, 500] {
                input.extend(u16::try_from(len).expect("short streams").to_le_bytes());
            }
            input.extend_from_slice(&bytes);
            input.extend(vec![1; diff]);
            input.extend(vec![b'x'; extra]);
            seed("apply", &format!("{name}-{kinds:08b}"), &input)?;
        }
    }
    let frame = zstd::bulk::compress(&[b'x'; 500], 1)?;
    let insert = ops(&[Op::Insert { len: 500 }]);
    let mut input = vec![0b00_10_00_00, u8::try_from(insert.len()).expect("short"), 0, 0, 0];
    input.extend(500_u16.to_le_bytes());
    seed("apply", "frame", &[input, insert, frame].concat())?;

    let word = |value: u32| value.to_le_bytes();
    let mut sparse = b"\x3a\xff\x26\xed\x01\0\0\0\x1c\0\x0c\0".to_vec();
    // Blocks of 8 bytes keep it small.
    sparse.extend([8, 7, 4, 0].map(word).concat());
    for (kind, blocks, data) in
        [(0xcac1_u32, 2, &b"sixteen bytes...."[..16]), (0xcac2, 3, b"fill"), (0xcac4, 0, b"crc."), (0xcac3, 2, b"")]
    {
        sparse.extend([word(kind), word(blocks), word(12 + u32::try_from(data.len()).expect("short"))].concat());
        sparse.extend_from_slice(data);
    }
    seed("sparse", "each-kind", &sparse)?;
    seed("sparse", "empty", &[&sparse[..16], &[0; 12]].concat())?;

    let checkpoint = include_bytes!("../../crates/relevo-meta/tests/meta/golden/checkpoint");
    seed("checkpoint", "specification", checkpoint)?;
    seed("checkpoint", "key", b"example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")?;
    let hashes: Vec<_> = (0..5).map(|n| relevo_types::Sha256::new([n; 32])).collect();
    seed("log_proof", "five", &relevo_meta::log::Proof::new(3, hashes, checkpoint).encode())?;
    let entry = relevo_meta::log::Entry::new("d-ginkgo", 12, b"{}").expect("a plain name").to_bytes();
    seed("log_proof", "entry", &entry)?;
    let mut bundle = vec![2];
    for entry in [&entry[..], b""] {
        relevo_meta::log::bundle(&mut bundle, entry).expect("short");
    }
    seed("log_proof", "bundle", &bundle)?;
    for (old, new, index) in [(1_u8, 2_u8, 0_u8), (3, 7, 6), (4, 8, 2), (100, 255, 254)] {
        let hashes = (0..new).flat_map(|n| [n; 32]);
        seed("log_tiles", &format!("{old}-{new}"), &[old, new, index].into_iter().chain(hashes).collect::<Vec<_>>())?;
    }

    let list = ChunkList::for_reader(&[7; 300_000][..], ByteLen::new(300_000)).expect("it is as long as it says");
    seed("chunks", "two", &list.encode())?;
    let empty = Builder::new(ByteLen::ZERO, ByteLen::kib(64)).and_then(Builder::finish).expect("no bytes are fine");
    seed("chunks", "empty", &empty.encode())?;

    let list = relevo_repo::push::CutList::whole(ByteLen::new(3), relevo_types::Sha256::new([7; 32])).expect("3 bytes");
    seed("push", "one", &[&[0], &list.encode()[..]].concat())?;
    // RFC 9421, appendix B.2.6.
    let fields = "sig-b26=(\"date\" \"@method\" \"@path\" \"@authority\" \"content-type\" \"content-length\")\
        ;created=1618884473;keyid=\"test-key-ed25519\"\n\
        sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:";
    seed("push", "signature", &[&[1], fields.as_bytes()].concat())?;
    let digest = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";
    seed("push", "digest", &[&[1], digest.as_bytes()].concat())?;
    let manifest = r#"{"protocol":1,"roles":[{"codename":"ginkgo","file":"{}"}],"targets":[{"path":
        "xiaomi/ginkgo/stable/x.zip","length":1,"sha256":
        "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"}]}"#;
    seed("push", "manifest", &[&[2], manifest.as_bytes()].concat())?;

    // Patches that AOSP's generator made, as they are: kind 0, the old file with its length, the patch.
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/relevo-format/tests/patch/golden");
    for (target, old, patch) in [
        ("bsdf2", "9.old", "9.bsdiff40"),
        ("bsdf2", "9.old", "9.bsdf2"),
        ("puffin", "17.old", "17.puf1"),
        ("lz4diff", "58.old", "58.lz4diff"),
    ] {
        let (old, bytes) = (fs::read(golden.join(old))?, fs::read(golden.join(patch))?);
        let len = u16::try_from(old.len()).expect("short").to_le_bytes();
        seed(target, patch, &[&[0], &len[..], &old, &bytes].concat())?;
    }
    let part = |bytes: &[u8]| [&u16::try_from(bytes.len()).expect("short").to_le_bytes()[..], bytes].concat();
    let control = [[2, 1, 3], [1, 2, 0]].concat().into_iter().flat_map(u64::to_le_bytes).collect::<Vec<_>>();
    seed("bsdf2", "parts", &[&[1], &part(b"old bytes")[..], &part(&control), &part(b"\0\0\x01"), b"new"].concat())?;
    // One block of fixed codes; a stored one.
    seed("puffin", "fixed", b"\x03\0\0\xa0\0a\x80\0\0\xff\x81")?;
    seed("puffin", "stored", b"\x05\0\0\x80\x02xyz\xff\x81")?;
    // A file with entries of a zip archive; a block of fixed codes; a stored one before it.
    seed("locate", "17.old", &[&[0x80], &fs::read(golden.join("17.old"))?[..]].concat())?;
    seed("locate", "fixed", b"\x01\x4b\x04\x02\0")?;
    seed("locate", "member", b"\xc2\0\x01\0\xfe\xffa\x4b\x04\x02\0\0\0\0\0\x04\0\0\0")?;
    let file = fs::read(golden.join("58.old"))?;
    seed("lz4diff", "parts", &[&[0b10_0111], &part(&file[..4096])[..], &part(&[b'x'; 900]), &[200]].concat())?;

    // A vbmeta image without its padding, and the end of an image whose footer points to its start then.
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/relevo-format/tests/avb/golden");
    let image = |name: &str| zstd::decode_all(fs::File::open(golden.join(name))?);
    seed("avb", "vbmeta", &image("vbmeta.img.zst")?[..256 + 320 + 2816])?;
    let system = image("system.img.zst")?;
    let (mut end, footer) = (system[1_261_568..][..832].to_vec(), &system[system.len() - 64..]);
    end.extend([&footer[..20], &[0; 8], &footer[28..]].concat());
    seed("avb", "footer", &end)?;
    // Three blocks of data, and one of their tree.
    seed("avb", "tree", &image("product.img.zst")?)?;
    target_files()?;
    dialects()?;
    programs()?;
    ab()
}

/// Texts of a zip of target files, and a message of one APEX.
fn target_files() -> io::Result<()> {
    let dynamic = "virtual_ab=true\nvirtual_ab_compression=true\nvirtual_ab_compression_method=lz4\n\
        virtual_ab_cow_version=3\nvirtual_ab_compression_factor=65536\nsuper_partition_groups=main extra\n\
        super_main_group_size=1073741824\nsuper_main_partition_list=system vendor\nextra_size=4096\n\
        PAYLOAD_MINOR_VERSION=8\n";
    seed("target_files", "dynamic", dynamic.as_bytes())?;
    seed("target_files", "partitions", b"boot\nsystem\nvendor_boot\n\nRUN_POSTINSTALL_system=true\n")?;
    seed("target_files", "apex", b"\x0a\x15\x0a\x0fcom.android.art\x10\x23\x18\x00")
}

/// Paths with and without a table of their own.
fn dialects() -> io::Result<()> {
    let table = "[[dialect]]\nname = \"a\"\npaths = [\"/x/{channel}/{device}/{incr}.json\"]\nunknown = \"empty\"\nbuilds = 2\n\
        channels = \"each-type\"\nbody = { list = [\"{items}\"], id = \"{null}\" }\n\
        item = { a = \"{file} of {size}\", b = \"{sdk?}\", c = [1, 2.5, true] }\n";
    seed("dialects", "table", format!("/x/beta/ginkgo/eng.7.json\n{table}").as_bytes())?;
    seed("dialects", "v1", b"/api/v1/gin%6bgo/nightly/eng.7/")?;
    seed("dialects", "v2", b"/api/v2/devices/ginkgo/builds")?;
    seed("dialects", "single", b"/pixelexperience/ota/ginkgo/thirteen")
}

/// Small programs of each kind, with a patch between two and with what they have in common.
fn programs() -> io::Result<()> {
    let part = |bytes: &[u8]| [&u16::try_from(bytes.len()).expect("short").to_le_bytes()[..], bytes].concat();
    for (kind, thumb) in program::KINDS {
        // Few functions: an input is long enough as it is.
        let [old, new] = [&[1, 2, 3, 9][..], &[1, 7, 2, 3, 9]]
            .map(|functions| program::Source { functions: functions.to_vec(), thumb }.build(kind));
        let found = program::matches(&old, &new);
        let name = format!("{kind:?}{}", if thumb { "Thumb" } else { "" });
        let ensemble = zucchini::build(&old.bytes, &new.bytes, &found).expect("these are programs");
        seed("zucchini", &name, &[&[0], &part(&old.bytes)[..], &ensemble].concat())?;
        let places = found.iter().flat_map(|found| [found.old, found.new, found.len]);
        let matches: Vec<_> = places.flat_map(|place| u16::try_from(place).expect("short").to_le_bytes()).collect();
        let input = [&[1], &part(&old.bytes)[..], &part(&matches), &new.bytes].concat();
        seed("zucchini", &format!("{name}-parts"), &input)?;
    }
    Ok(())
}

/// A payload of two blocks, and an OTA zip around it; both by hand, as only readers are part of the crate.
fn ab() -> io::Result<()> {
    // Field 1: name; 7: the new image, of 2 blocks; 8: an operation each for the first and for the second block.
    let image = [&[0x08, 0x80, 0x40, 0x12, 0x20][..], &[7; 32]].concat();
    let extent = |start: u8| [0x08, start, 0x10, 0x01];
    let replace = [&[0x08, 0x00, 0x10, 0x00, 0x18, 0x80, 0x20, 0x32, 0x04][..], &extent(0)].concat();
    let zero = [&[0x08, 0x06, 0x32, 0x04][..], &extent(1)].concat();
    let field = |tag: u8, bytes: &[u8]| [&[tag, u8::try_from(bytes.len()).expect("short")], bytes].concat();
    let partition = [field(0x0a, b"boot"), field(0x3a, &image), field(0x42, &replace), field(0x42, &zero)].concat();
    let manifest = [&[0x18, 0x80, 0x20][..], &field(0x6a, &partition)].concat();
    let mut payload = b"CrAU".to_vec();
    payload.extend(2_u64.to_be_bytes());
    payload.extend((manifest.len() as u64).to_be_bytes());
    payload.extend([0; 4]);
    payload.extend(&manifest);
    payload.extend([5; 4096]);
    seed("payload", "two-blocks", &payload)?;

    let (mut zip, mut directory) = (Vec::new(), Vec::new());
    let files: [(&str, &[u8]); 2] = [("META-INF/com/android/metadata", b"ota-type=AB\n"), ("payload.bin", &payload)];
    for (name, bytes) in files {
        let at = u32::try_from(zip.len()).expect("short");
        let len = u32::try_from(bytes.len()).expect("short").to_le_bytes();
        let name_len = u16::try_from(name.len()).expect("short").to_le_bytes();
        let header = [&[0; 12][..], &len, &len, &name_len, &[0, 0]].concat();
        zip.extend([b"PK\x03\x04\x14\0", &header[..], name.as_bytes(), bytes].concat());
        directory
            .extend([b"PK\x01\x02\x14\0\x14\0", &header[..], &[0; 10], &at.to_le_bytes(), name.as_bytes()].concat());
    }
    let at = u32::try_from(zip.len()).expect("short");
    zip.extend(&directory);
    zip.extend(b"PK\x05\x06\0\0\0\0\x02\0\x02\0");
    zip.extend(u32::try_from(directory.len()).expect("short").to_le_bytes());
    zip.extend(at.to_le_bytes());
    zip.extend([0, 0]);
    seed("ota_zip", "two-entries", &zip)?;
    seed("keys", "p256", &p256())?;
    let certificate = include_bytes!("../../tests/data/aosp/ota_cert.x509.pem");
    seed("keys", "certificate", certificate)?;
    seed("device", "miatoll", include_bytes!("../../manifests/miatoll.toml"))?;
    seed("device", "bluejay", include_bytes!("../../manifests/bluejay.toml"))?;
    seed("device", "rpi4", include_bytes!("../../manifests/rpi4.toml"))?;
    seed("device", "guide", include_bytes!("../../manifests/guides/recovery-fastboot.toml"))?;
    seed("keys", "public", include_bytes!("../../tests/data/aosp/payload_key.pub.pem"))?;
    let root = include_bytes!("../../crates/relevo-meta/tests/meta/ceremony.json");
    seed("ceremony", "root", root)?;
    seed("ceremony", "device", device_proposal().as_bytes())
}

/// A new vendor, device and nightly role, as one proposal that nobody signed.
fn device_proposal() -> String {
    let key = |byte: &str| {
        // Points of the curve: the base point, and twice it.
        let public = match byte {
            "a" => "5866666666666666666666666666666666666666666666666666666666666666",
            _ => "c9a3f86aae465f0e56513864510f3997561fa2c9e85ea21dc2292309f3cd6022",
        };
        PublicKey::from_value(&json!({"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": public}}))
            .expect("a point of the curve")
    };
    let role = |name: &str, path: &str, byte: &str| {
        let key = key(byte);
        json!({
            "keys": {key.key_id(): key.to_value()},
            "roles": [{"name": name, "keyids": [key.key_id()], "threshold": 1, "terminating": true, "paths": [path]}],
        })
    };
    let file = |role: &str, delegations: Value, targets: Value| {
        let mut signed = json!({
            "_type": "targets", "spec_version": "1.0.34", "version": 1, "expires": "2026-06-01T00:00:00Z",
            "targets": targets,
        });
        if !delegations.is_null() {
            signed["delegations"] = delegations;
        }
        json!({"role": role, "base": null, "signed": signed})
    };
    let target =
        json!({"length": 5, "hashes": {"sha256": "00"}, "custom": {"kind": "native", "to": "2", "rollout": 10}});
    let documents = json!([
        file("targets", role("v-xiaomi", "xiaomi/*/*/*", "a"), json!({})),
        file("v-xiaomi", role("d-ginkgo", "xiaomi/ginkgo/*/*", "b"), json!({})),
        file("d-ginkgo", role("d-ginkgo-nightly", "xiaomi/ginkgo/nightly/*", "a"), json!({})),
        file("d-ginkgo-nightly", Value::Null, json!({"xiaomi/ginkgo/nightly/a.rvp": target})),
    ]);
    json!({"relevo_ceremony": 1, "repository": "00".repeat(32), "documents": documents}).to_string()
}

/// A private key on P-256 that is a number everybody knows, in DER (PKCS#8).
fn p256() -> Vec<u8> {
    let mut der = vec![0x30, 0x41, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    der.extend([0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]);
    der.extend([0x04, 0x27, 0x30, 0x25, 0x02, 0x01, 0x01, 0x04, 0x20]);
    der.extend([7; 32]);
    der
}

fn seed(target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join(format!("seed-{name}")), bytes)
}
