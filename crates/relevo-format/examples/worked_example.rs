//! Prints the worked example of docs/format.md.
//!
//! Written down byte by byte, without this crate's encoders, so that it is a second opinion on them. Run
//! `cargo run -p relevo-format --example worked_example` and put what it prints into docs/format.md; the test
//! `tests/golden.rs` then reads it from there.

use ed25519_dalek::{Signer, SigningKey};
use sha2::{Digest, Sha256};

/// Bytes with what they mean.
#[derive(Default)]
struct Listing {
    rows: Vec<(Vec<u8>, String)>,
}

impl Listing {
    fn put(&mut self, bytes: impl AsRef<[u8]>, meaning: impl Into<String>) {
        self.rows.push((bytes.as_ref().to_vec(), meaning.into()));
    }

    /// A length of one byte and a text.
    fn text(&mut self, text: &str, meaning: &str) {
        let mut bytes = vec![u8::try_from(text.len()).expect("a short text")];
        bytes.extend_from_slice(text.as_bytes());
        self.put(bytes, format!("{meaning}: {} bytes, \"{text}\"", text.len()));
    }

    fn section(&mut self, tag: &str, what: &str, content: Self) {
        let len = u32::try_from(content.bytes().len()).expect("a short section");
        self.put(tag, format!("section {what}"));
        self.put(len.to_le_bytes(), format!("{len} bytes of it follow"));
        self.rows.extend(content.rows);
    }

    fn bytes(&self) -> Vec<u8> {
        self.rows.iter().flat_map(|(bytes, _)| bytes).copied().collect()
    }

    fn print(&self) {
        let mut offset = 0;
        for (bytes, meaning) in &self.rows {
            for (index, line) in bytes.chunks(16).enumerate() {
                let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
                let meaning = if index == 0 { meaning } else { "" };
                println!("{}", format!("{offset:04x}  {:47}  ; {meaning}", hex.join(" ")).trim_end_matches([' ', ';']));
                offset += line.len();
            }
        }
    }
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

fn main() {
    // Names in the feature table, in the order of their bytes.
    const FEATURES: [&str; 7] =
        ["base/source", "codec/store", "codec/zstd", "engine/bsdiff", "stream/diff", "stream/extra", "stream/ops"];
    let feature = |name: &str| {
        let index = FEATURES.iter().position(|&other| other == name).expect("in the table");
        u8::try_from(index).expect("a short table")
    };

    let old_boot = b"kernel 6.1.0 of may, then its modules";
    let new_boot = b"kernel 6.1.2 of jun, then its modules\0\0\0\0\0\0\0\0";
    let vbmeta = b"AVB0\0\0\0\0";

    // boot: the first twelve bytes with a difference in the last, an insert, the rest as it was, and padding.
    let mut ops = Listing::default();
    ops.put([12 << 3 | 1, 0], "add 12 bytes (12 << 3 | 1) of base 0 at +0 from where its last copy ended, 0");
    ops.put([4 << 3, 0], "copy 4 bytes (4 << 3 | 0) at +0: \" of \"");
    ops.put([3 << 3 | 2], "insert 3 bytes (3 << 3 | 2): \"jun\"");
    ops.put([18 << 3 & 0x7f | 0x80, 18 >> 4, 6], "copy 18 bytes (144 = 90 01) at +3 (zigzag 6), past \"may\"");
    ops.put([8 << 3 | 3], "zero 8 bytes (8 << 3 | 3)");
    let mut diff = Listing::default();
    diff.put([0x28, 0xb5, 0x2f, 0xfd], "zstd magic number (RFC 8878, section 3.1.1)");
    diff.put([0x20], "frame header: single segment, content size in one byte");
    diff.put([12], "content size 12");
    diff.put([12 << 3 | 1, 0, 0], "block header, 3 bytes: last block, raw, 12 bytes (12 << 3 | 0 << 1 | 1)");
    diff.put([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2], "differences: the last byte, \"0\", becomes \"2\"");
    let mut extra = Listing::default();
    extra.put(b"jun", "\"jun\"");
    let mut vbmeta_ops = Listing::default();
    vbmeta_ops.put([4 << 3 | 2], "insert 4 bytes: \"AVB0\"");
    vbmeta_ops.put([4 << 3 | 3], "zero 4 bytes");
    let mut vbmeta_extra = Listing::default();
    vbmeta_extra.put(b"AVB0", "\"AVB0\"");

    let mut features = Listing::default();
    features.put([7], "7 names, in the order of their bytes");
    for (index, name) in FEATURES.iter().enumerate() {
        features.text(name, &format!("feature {index}"));
    }
    let mut info = Listing::default();
    info.put([5], "5 entries, in the order of their keys");
    info.text("device", "key");
    info.text("ginkgo", "the only device that may install it");
    info.text("from", "key");
    info.text("100", "build that it starts from");
    info.text("memory", "key");
    // 1 MiB of buffers, a window of 1 KiB and 512 KiB beside it: 1,573,888 bytes.
    let memory: u32 = (1 << 20) + (1 << 10) + (512 << 10);
    let low = |shift: u32| u8::try_from(memory >> shift & 0x7f).expect("7 bits");
    info.put([3, low(0) | 0x80, low(7) | 0x80, low(14)], "3 bytes: 1573888, memory to apply any piece");
    info.text("timestamp", "key");
    // 2025-05-05 00:00:00 UTC.
    let timestamp: u64 = 1_746_403_200;
    let low = |shift: u32| u8::try_from(timestamp >> shift & 0x7f).expect("7 bits");
    info.put(
        [5, low(0) | 0x80, low(7) | 0x80, low(14) | 0x80, low(21) | 0x80, low(28)],
        "5 bytes: 1746403200, 2025-05-05 00:00:00 UTC",
    );
    info.text("to", "key");
    info.text("101", "build that it makes");
    let mut bases = Listing::default();
    bases.put([1], "1 base");
    bases.put([feature("base/source")], "kind: feature 0, base/source");
    bases.text("boot", "partition");
    bases.put([37], "37 bytes long");
    bases.put(sha256(old_boot), "its SHA-256");
    let mut partitions = Listing::default();
    let stream = |out: &mut Listing, role: &str, codec: &str, window_log: u8, raw_len: u8, stored: &Listing| {
        let stored = stored.bytes();
        out.put([feature(role)], format!("role: feature {}, {role}", feature(role)));
        out.put([feature(codec)], format!("codec: feature {}, {codec}", feature(codec)));
        out.put([window_log], format!("window log {window_log}"));
        let stored_len = u8::try_from(stored.len()).expect("a short stream");
        out.put([stored_len], format!("{stored_len} bytes in the body"));
        out.put([raw_len], format!("{raw_len} bytes decoded"));
        out.put(sha256(&stored), "SHA-256 of the bytes in the body");
    };
    partitions.put([2], "2 partitions");
    partitions.text("boot", "name");
    partitions.put([45], "45 bytes long");
    partitions.put(sha256(new_boot), "its SHA-256");
    partitions.put([1], "1 piece");
    partitions.put([45], "45 bytes long");
    partitions.put(sha256(new_boot), "its SHA-256");
    partitions.put([feature("engine/bsdiff")], "engine: feature 3, engine/bsdiff");
    partitions.put([1, 0], "1 base: number 0 of the manifest");
    partitions.put([0], "no transforms");
    partitions.put([3], "3 streams");
    stream(&mut partitions, "stream/ops", "codec/store", 0, 9, &ops);
    stream(&mut partitions, "stream/diff", "codec/zstd", 10, 12, &diff);
    stream(&mut partitions, "stream/extra", "codec/store", 0, 3, &extra);
    partitions.text("vbmeta", "name");
    partitions.put([8], "8 bytes long");
    partitions.put(sha256(vbmeta), "its SHA-256");
    partitions.put([1], "1 piece");
    partitions.put([8], "8 bytes long");
    partitions.put(sha256(vbmeta), "its SHA-256");
    partitions.put([feature("engine/bsdiff")], "engine: feature 3, engine/bsdiff");
    partitions.put([0], "no bases: the piece is new");
    partitions.put([0], "no transforms");
    partitions.put([2], "2 streams");
    stream(&mut partitions, "stream/ops", "codec/store", 0, 2, &vbmeta_ops);
    stream(&mut partitions, "stream/extra", "codec/store", 0, 4, &vbmeta_extra);
    let mut removed = Listing::default();
    removed.put([1], "1 name");
    removed.text("splash", "partition that build 101 does not have any more");

    let mut manifest = Listing::default();
    manifest.section("FEAT", "features", features);
    manifest.section("INFO", "info", info);
    manifest.section("BASE", "bases", bases);
    manifest.section("PART", "partitions", partitions);
    manifest.section("GONE", "removed partitions", removed);
    let raw_len = u32::try_from(manifest.bytes().len()).expect("a short manifest");
    let mut frame = Listing::default();
    frame.put([0x28, 0xb5, 0x2f, 0xfd], "the manifest, one zstd frame: magic number");
    frame.put([0x60], "frame header: single segment, content size in two bytes, less 256");
    let size = u16::try_from(raw_len - 256).expect("a short manifest");
    frame.put(size.to_le_bytes(), format!("content size {size} + 256 = {raw_len}"));
    let block = (raw_len << 3 | 1).to_le_bytes();
    frame.put(&block[..3], format!("block header: last block, raw, {raw_len} bytes"));
    frame.rows.extend(manifest.rows);

    let mut package = Listing::default();
    package.put(b"RVP\r\n\x1a\n\0", "magic: \"RVP\", CR LF, Ctrl-Z, LF, NUL");
    package.put([1, 0], "version 1");
    package.put([0, 0], "reserved, 0");
    let stored_len = u32::try_from(frame.bytes().len()).expect("a short manifest");
    package.put(stored_len.to_le_bytes(), format!("{stored_len} bytes of manifest as stored"));
    package.put(raw_len.to_le_bytes(), format!("{raw_len} bytes of manifest decoded"));
    package.rows.extend(frame.rows);
    let key = SigningKey::from_bytes(&[0x2a; 32]);
    let message = [&b"relevo package v1\n"[..], &package.bytes()].concat();
    package.put([1, 0], "1 signature");
    package.put(sha256(key.verifying_key().as_bytes()), "key id: SHA-256 of the public key");
    package.put(key.sign(&message).to_bytes(), "ed25519 signature");
    let streams = [
        ("boot, stream/ops: ", ops),
        ("boot, stream/diff: ", diff),
        ("boot, stream/extra: ", extra),
        ("vbmeta, stream/ops: ", vbmeta_ops),
        ("vbmeta, stream/extra: ", vbmeta_extra),
    ];
    for (name, mut stream) in streams {
        let first = stream.rows.first_mut().expect("no stream is empty");
        first.1.insert_str(0, name);
        package.rows.extend(stream.rows);
    }
    package.print();
}
