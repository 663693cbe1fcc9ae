//! What the fuzzer calls: one function for each parser of bytes from outside.
//!
//! Each panics where a rule is broken, and returns where it holds. `tests/replay.rs` runs all of them over
//! `corpus/<target>` on any toolchain; the fuzzer itself is run with
//! `cargo +nightly fuzz run --features libfuzzer <target>`.

use std::{io, ops::ControlFlow};

use relevo_dialect::{BaseUrl, Offers, Parts, Site, Table};
use relevo_format::{
    ReadAt, Section,
    apply::{apply_piece, body, check_source},
    fs,
    image::SparseImage,
    ops::{Decoder, Encoder, Op},
    ota_zip::{self, OtaZip},
    package::{Base, BaseKind, Codec, Engine, Front, Info, Limits, Manifest, Partition, Piece, Role, Stream},
    payload::{self, Certificate, Payload, PrivateKey, PublicKey, Sink, apply_operation, is_applied},
    target_files::{self, Properties},
};
use relevo_meta::chunks::ChunkList;
use relevo_types::{ByteLen, PartitionName, Sha256};
use sha2::Digest;

/// A function that the fuzzer calls.
pub type Target = fn(&[u8]);

/// All of them, by the names of their corpora.
pub const TARGETS: [(&str, Target); 25] = [
    ("front", front),
    ("manifest", manifest),
    ("ops", ops),
    ("apply", apply),
    ("sparse", sparse),
    ("chunks", chunks),
    ("bsdf2", patch::bsdf2),
    ("puffin", patch::puffin),
    ("lz4diff", patch::lz4diff),
    ("locate", patch::locate),
    ("zucchini", patch::zucchini),
    ("ext4", ext4),
    ("erofs", erofs),
    ("ota_zip", ota_zip),
    ("payload", payload),
    ("avb", avb),
    ("keys", keys),
    ("target_files", target_files),
    ("dialects", dialects),
    ("device", device),
    ("ceremony", ceremony),
    ("push", push),
    ("checkpoint", log::checkpoint),
    ("log_proof", log::log_proof),
    ("log_tiles", log::log_tiles),
];

mod avb;
mod ceremony;
mod device;
mod log;
mod patch;
mod push;

pub use avb::avb;
pub use ceremony::ceremony;
pub use device::device;
pub use log::{checkpoint, log_proof, log_tiles};
pub use patch::{bsdf2, locate, lz4diff, puffin, zucchini};
pub use push::push;

/// The front of a package: what is read is written back as it was.
pub fn front(data: &[u8]) {
    let limits = Limits::default();
    let mut reader = data;
    let Ok(front) = Front::read(&mut reader, &limits) else { return };

    let read = data.len() - reader.len();
    assert_eq!(front.encode(), data[..read]);
    assert_eq!(front.body_offset().get(), read as u64);
    assert!(front.package_len() >= front.body_offset());
    assert!(front.verify(&[], 1).is_err());
    check_manifest(front.manifest(), &limits);
}

/// A manifest, without the frame that keeps a fuzzer out.
pub fn manifest(data: &[u8]) {
    let limits = Limits::default();
    if let Ok(manifest) = Manifest::decode(data, &limits) {
        check_manifest(&manifest, &limits);
    }
}

/// What every manifest that was read holds to.
fn check_manifest(manifest: &Manifest, limits: &Limits) {
    let again = Manifest::decode(&manifest.encode(), limits).expect("what is written can be read");
    assert_eq!(again, *manifest);
    assert!(manifest.memory() <= manifest.info.memory && manifest.info.memory <= limits.memory);
    let mut offset = 0_u64;
    for partition in &manifest.partitions {
        let mut start = 0_u64;
        for piece in &partition.pieces {
            assert_eq!(piece.start, start);
            start = start.checked_add(piece.len).expect("pieces are within 64 bits");
            assert!(piece.bases.iter().all(|&base| (base as usize) < manifest.bases.len()));
            for stream in &piece.streams {
                assert_eq!(stream.offset, offset);
                offset = offset.checked_add(stream.stored_len).expect("streams are within 64 bits");
            }
        }
        assert_eq!(start, partition.size.get());
        assert!(partition.size <= limits.partition_size);
    }
}

/// Operations over 0 to 3 bases: what can be read has no other encoding.
pub fn ops(data: &[u8]) {
    let Some((&first, data)) = data.split_first() else { return };
    let bases = usize::from(first % 4);
    let Some(ops) = decode(data, bases) else { return };

    let mut encoder = Encoder::new(bases);
    ops.iter().for_each(|&op| encoder.push(op));
    assert_eq!(encoder.finish(), data);
}

fn decode(bytes: &[u8], bases: usize) -> Option<Vec<Op>> {
    let mut decoder = Decoder::new(bytes, bases);
    let mut ops = Vec::new();
    while let Some(op) = decoder.next_op().ok()? {
        assert!(!op.is_empty());
        ops.push(op);
    }
    Some(ops)
}

/// Most bytes of a piece that the model is asked to make.
const MOST: u64 = 1 << 20;
const BASE_LEN: u16 = 4096;

/// A piece of a package over two bases, against the plainest way to make it.
///
/// The input is one byte with the kind of each stream (two bits: stored, compressed, or a frame as it comes), the
/// window log less 10 in the upper two bits, the lengths of the first two streams in two bytes each, the decoded length
/// of frames that come as they are in two, and then the streams: operations, differences, new bytes.
pub fn apply(data: &[u8]) {
    let Some((&[kinds, o0, o1, d0, d1, r0, r1], data)) = data.split_first_chunk() else { return };
    let cut = |low, high| usize::from(u16::from_le_bytes([low, high]));
    let (ops, rest) = data.split_at(cut(o0, o1).min(data.len()));
    let (diff, extra) = rest.split_at(cut(d0, d1).min(rest.len()));
    let window_log = 10 + u32::from(kinds >> 6);
    let bases: [Vec<u8>; 2] = [1, 7].map(|step| (0..BASE_LEN).map(|at| (at * step / 3).to_le_bytes()[0]).collect());

    let mut honest = true;
    let (mut body_bytes, mut streams) = (Vec::new(), Vec::new());
    for (shift, role, bytes) in [(0, Role::Ops, ops), (2, Role::Diff, diff), (4, Role::Extra, extra)] {
        let (codec, stored, raw_len) = match kinds >> shift & 3 {
            0 => (Codec::Store, bytes.to_vec(), bytes.len()),
            1 => (Codec::Zstd, compress(bytes, window_log), bytes.len()),
            _ => {
                honest = false;
                (Codec::Zstd, bytes.to_vec(), cut(r0, r1))
            }
        };
        if bytes.is_empty() && role != Role::Ops {
            continue;
        }
        streams.push(Stream {
            role,
            codec,
            offset: body_bytes.len() as u64,
            stored_len: stored.len() as u64,
            raw_len: raw_len as u64,
            window_log: if codec == Codec::Zstd { window_log } else { 0 },
            sha256: sha256(&stored),
        });
        body_bytes.extend(stored);
    }
    let expected = model(ops, diff, extra, &bases).filter(|made| honest && !made.is_empty());
    let len = expected.as_ref().map_or(u64::from(u16::from_le_bytes([r0, r1])), |made| made.len() as u64);
    let digest = sha256(expected.as_deref().unwrap_or_default());
    let name = |text: &str| PartitionName::parse(text).expect("a good name");
    let piece = Piece { start: 0, len, sha256: digest, engine: Engine::Bsdiff, bases: vec![0, 1], streams };
    let base = |(text, bytes): (&str, &Vec<u8>)| Base {
        kind: BaseKind::Source,
        partition: name(text),
        size: ByteLen::new(bytes.len() as u64),
        sha256: sha256(bytes),
    };
    let manifest = Manifest {
        info: Info { memory: ByteLen::mib(16), ..Info::default() },
        bases: ["a", "b"].into_iter().zip(&bases).map(base).collect(),
        partitions: vec![Partition { name: name("a"), size: ByteLen::new(len), sha256: digest, pieces: vec![piece] }],
        removed: Vec::new(),
    };
    let Ok(front) = Front::new(manifest, &Limits::default()) else {
        // More in the streams than a piece of that length can use.
        assert!(expected.is_none());
        return;
    };
    let package = [front.encode(), body_bytes].concat();
    let open =
        |partition: &PartitionName| Ok(Box::new(&bases[usize::from(partition.as_str() == "b")]) as Box<dyn ReadAt>);
    let source = check_source(front.manifest(), open, |_| ControlFlow::Continue(())).expect("these are the bases");
    let mut out = Vec::new();
    let made = apply_piece(&front, 0, 0, &source, &body(&front, &package).expect("nothing is missing"), &mut out);

    assert!(out.len() as u64 <= len);
    match expected {
        Some(expected) => {
            made.expect("the model made it");
            assert!(out == expected);
        }
        None => assert!(made.is_err(), "the model did not make it"),
    }
}

fn compress(bytes: &[u8], window_log: u32) -> Vec<u8> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).expect("an encoder");
    encoder.window_log(window_log).expect("a window that libzstd has");
    io::copy(&mut &bytes[..], &mut encoder).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}

fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256::new(sha2::Sha256::digest(bytes).into())
}

/// What operations make, if all of them can be done and all of each stream is used.
fn model(ops: &[u8], mut diff: &[u8], mut extra: &[u8], bases: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for op in decode(ops, bases.len())? {
        if out.len() as u64 + op.len() > MOST {
            return None;
        }
        let len = usize::try_from(op.len()).ok()?;
        let base = |base: u32, start: u64| {
            let start = usize::try_from(start).ok()?;
            bases[base as usize].get(start..start.checked_add(len)?)
        };
        match op {
            Op::Copy { base: index, start, .. } => out.extend_from_slice(base(index, start)?),
            Op::Add { base: index, start, .. } => {
                let differences = diff.split_off(..len)?;
                out.extend(base(index, start)?.iter().zip(differences).map(|(a, b)| a.wrapping_add(*b)));
            }
            Op::Insert { .. } => out.extend_from_slice(extra.split_off(..len)?),
            Op::Zero { .. } => out.resize(out.len() + len, 0),
        }
    }
    (diff.is_empty() && extra.is_empty()).then_some(out)
}

/// A sparse image: any part reads as it does in the whole.
pub fn sparse(data: &[u8]) {
    let Ok(image) = SparseImage::new(data) else { return };

    let len = image.len().get();
    assert!(len <= 1 << 40);
    let part = len.min(1 << 16);
    for start in [0, (len - part) / 2, len - part] {
        let mut whole = vec![0; usize::try_from(part).expect("64 KiB")];
        image.read_exact_at(&mut whole, start).expect("it is inside");
        let middle = whole.len() / 3;
        let (mut first, mut second) = (vec![1; middle], vec![2; whole.len() - middle]);
        image.read_exact_at(&mut first, start).expect("it is inside");
        image.read_exact_at(&mut second, start + middle as u64).expect("it is inside");
        assert_eq!([first, second].concat(), whole);
    }
    assert!(image.read_exact_at(&mut [0], len).is_err());
}

/// A chunk list, of a file of the length that it says and of another.
pub fn chunks(data: &[u8]) {
    let stated = data.get(8..16).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
    assert!(ChunkList::parse(data, ByteLen::new(stated.wrapping_add(1))).is_err());
    let Ok(list) = ChunkList::parse(data, ByteLen::new(stated)) else { return };

    assert_eq!(list.encode(), data);
    let mut end = 0;
    for index in 0..list.count() {
        let range = list.range(index).expect("it is below the count");
        assert!(range.start == end && range.end > end && range.end - end <= list.chunk_size().get());
        assert!(list.check(index, &[]).is_err());
        end = range.end;
    }
    assert_eq!(end, list.file_length().get());
    assert!(list.range(list.count()).is_err());
}

/// An ext4 image without the zeros at its end.
pub fn ext4(data: &[u8]) {
    files(data, &[(0x438, b"\x53\xef")]);
}

/// An EROFS image without the zeros at its end.
pub fn erofs(data: &[u8]) {
    files(data, &[(0x400, b"\xe2\xe1\xf5\xe0")]);
}

/// Files of an image that has this at these places: parts follow each other and lie in the image, and what is not
/// metadata belongs to a file.
fn files(data: &[u8], marks: &[(usize, &[u8])]) {
    const LEN: usize = 128 << 10;
    let limits = fs::Limits {
        files: 200,
        path_bytes: 20_000,
        depth: 20,
        extents: 5000,
        directory_bytes: 1 << 18,
        file_bytes: 1 << 20,
    };
    let mut image = data[..data.len().min(LEN)].to_vec();
    image.resize(LEN, 0);
    for (at, bytes) in marks {
        image[*at..].iter_mut().zip(*bytes).for_each(|(place, byte)| *place = *byte);
    }
    let Ok(listing) = fs::read(&image, &limits) else { return };

    let within = |start: u64, len: u64| assert!(start.checked_add(len).is_some_and(|end| end <= LEN as u64));
    let metadata = |at: u64| listing.metadata.iter().any(|range| range.contains(&at));
    let mut to_read: u64 = 4 << 20;
    for file in &listing.files {
        let mut reached = 0;
        match &file.content {
            fs::Content::Plain(extents) => {
                for extent in extents {
                    assert!(extent.file_offset == reached && extent.len > 0);
                    reached += extent.len;
                    match extent.stored {
                        fs::Stored::Blocks(start) => {
                            within(start, extent.len);
                            assert!(!metadata(start));
                        }
                        fs::Stored::Inline(start) => within(start, extent.len),
                        fs::Stored::Hole => (),
                    }
                }
            }
            fs::Content::Compressed(clusters) => {
                for cluster in clusters {
                    assert!(cluster.file_offset == reached && cluster.len > 0);
                    reached += cluster.len;
                    within(cluster.image_offset, cluster.stored_len);
                    assert!(cluster.inline || !metadata(cluster.image_offset));
                }
            }
        }
        assert_eq!(reached, file.size);
        if file.size <= to_read {
            to_read -= file.size;
            let _outcome = io::copy(&mut Section::whole(fs::open(&image, file)), &mut io::sink());
        }
    }
}

/// An OTA zip: what it says lies inside of it, and nothing takes more than it may.
pub fn ota_zip(data: &[u8]) {
    let Ok(zip) = OtaZip::read(data, &ota_zip::Limits::default()) else { return };

    let limit = ByteLen::kib(64);
    for entry in zip.entries() {
        let end = entry.offset.checked_add(entry.stored).expect("entries are within 64 bits");
        assert!(end <= data.len() as u64);
        if let Ok(bytes) = zip.small(&entry.name, limit) {
            assert_eq!(bytes.len() as u64, entry.len);
        }
        if let Ok(stored) = zip.stored(&entry.name) {
            let mut last = [0];
            assert!(stored.read_exact_at(&mut last, stored.len().get()).is_err());
        }
    }
    let _ = (zip.metadata_text(), zip.metadata(), zip.properties());
    if let Ok(signature) = zip.signature() {
        assert!(signature.signed().get() < data.len() as u64);
        assert!(signature.verify(&data, &[], |_| ControlFlow::Continue(())).is_err());
    }
}

/// A partition that looks at where it is written, and keeps nothing.
struct Bounds(u64);

impl Sink for Bounds {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        assert!(offset.checked_add(bytes.len() as u64).is_some_and(|end| end <= self.0));
        Ok(())
    }
}

/// What is read can be written, and is read as the same.
fn written_again(payload: &Payload, data: &[u8], limits: &payload::Limits) {
    let _ = payload.is_known_whole();
    let start = usize::try_from(payload.blobs_offset().get()).expect("it is in memory");
    let blobs = &data[start..start + usize::try_from(payload.blobs_len().get()).expect("so is its end")];
    let mut again = Vec::new();
    let written = payload::write(payload.manifest(), &blobs, &[], &mut again, |_| ControlFlow::Continue(()));
    written.expect("what was read is not refused");
    let again = Payload::read(&again, limits).expect("what was written is read");
    assert_eq!(again.manifest(), payload.manifest());
}

/// Keys and certificates: an error, or one that reads back as the same and signs nothing that it does not verify.
pub fn keys(data: &[u8]) {
    if let Ok(certificate) = Certificate::parse(data) {
        assert_eq!(Certificate::parse(certificate.to_pem().as_bytes()).as_ref(), Ok(&certificate));
        assert_eq!(PublicKey::parse(certificate.der()).as_ref(), Ok(certificate.key()));
    }
    let digest = Sha256::new([7; 32]);
    // Nothing is opened with a passphrase: that is meant to take long.
    if let Ok(key) = PrivateKey::parse(data, None)
        && let Ok(signature) = key.sign(&digest)
    {
        assert!(key.public().verify(&digest, &signature));
        assert!(signature.len() <= key.public().kind().signature_len());
    }
    if let Ok(key) = PublicKey::parse(data) {
        assert!(!key.verify(&digest, &[0; 256]));
    }
}

/// A payload: blocks are written once and inside, and every operation ends.
pub fn payload(data: &[u8]) {
    let limits = payload::Limits { memory: ByteLen::mib(16), partition: ByteLen::mib(1), ..payload::Limits::default() };
    let Ok(payload) = Payload::read(&data, &limits) else { return };

    assert_eq!(payload.len().get(), data.len() as u64);
    assert!(payload.verify_metadata(&[]).is_err());
    written_again(&payload, data, &limits);
    for partition in &payload.manifest().partitions {
        let computed: u64 = partition.computed().map(|extent| extent.len()).sum();
        let written: u64 = partition.operations.iter().map(payload::Operation::target_len).sum();
        assert_eq!(computed + written, partition.new.size.get());
        let old = vec![7; partition.old.map_or(0, |old| old.size.get().try_into().expect("at most 1 MiB"))];
        let sink = Bounds(partition.new.size.get());
        for (index, operation) in partition.operations.iter().enumerate() {
            let applied = apply_operation(&payload, &data, partition, index, Some(&old), &sink);
            assert!(applied.is_err() || is_applied(operation.kind));
        }
    }
}

/// What stands under `META` in a zip of target files: text for all of its readers, and the message of APEXes.
pub fn target_files(data: &[u8]) {
    if let Ok(apexes) = target_files::apexes(data) {
        let again = target_files::apexes(&target_files::apex_info(&apexes)).expect("what is written can be read");
        assert_eq!(again, apexes);
    }
    let text = String::from_utf8_lossy(data);
    let properties = Properties::parse(&text);
    let _ = target_files::minor_version(&properties);
    if let Ok(Some(dynamic)) = target_files::dynamic_partitions(&properties) {
        assert!(dynamic.groups.iter().all(|group| group.size.is_some()));
        assert_eq!(dynamic.vabc_enabled == Some(true), dynamic.cow_version.is_some());
    }
    if let Ok(partitions) = target_files::ab_partitions(&text) {
        assert!(partitions.is_sorted() && !partitions.is_empty());
        assert!(target_files::postinstall(&properties, &partitions).len() <= partitions.len());
    }
}

/// A path that somebody asks, and behind a line's end a table of dialects.
pub fn dialects(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (path, table) = text.split_once('\n').unwrap_or((&text, ""));
    let site = Site { public: BaseUrl::parse("https://ota.example").ok(), mirrors: Vec::new() };
    let (Ok(table), Some(parts)) = (Table::with(table), Parts::new(path)) else { return };
    let Some(question) = table.find(&parts) else { return };
    let offers = Offers::default();
    let key = question.key(&offers, jiff::Timestamp::UNIX_EPOCH);
    if let Ok(answer) = question.answer(&key, &offers, &site)
        && question.content_type() == "application/json"
    {
        serde_json::from_slice::<serde_json::Value>(&answer).expect("an answer is JSON");
    }
}
