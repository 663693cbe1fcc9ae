//! The samples of `tests/data/aosp`, payloads and zips written by hand, and a partition in memory.

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    sync::{Mutex, OnceLock},
};

use prost::Message as _;
use relevo_format::payload::{ApplyError, Limits, Payload, PublicKey, Sink, apply_operation, wire};
use relevo_types::Sha256;
use sha2::Digest as _;

/// A sample's bytes.
pub(crate) fn sample(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/aosp").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn key(name: &str) -> PublicKey {
    PublicKey::parse(&sample(name)).unwrap()
}

/// A key on P-256 that signs in these tests alone.
pub(crate) fn signing_key() -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap()
}

/// Its public half: a key that signed nothing of the samples.
pub(crate) fn other_key() -> PublicKey {
    let point = signing_key().verifying_key().to_sec1_point(false);
    // SubjectPublicKeyInfo of a point on P-256 differs in the point alone.
    let mut der = vec![0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    der.extend([0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00]);
    der.extend(point.as_bytes());
    PublicKey::parse(&der).unwrap()
}

/// The samples' images by path, `new/boot.img` for one; unpacked once.
pub(crate) fn images() -> &'static BTreeMap<String, Vec<u8>> {
    static IMAGES: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let tar = zstd::decode_all(&sample("images.tar.zst")[..]).unwrap();
        let mut images = BTreeMap::new();
        let mut rest = &tar[..];
        while let Some((header, after)) = rest.split_first_chunk::<512>().filter(|(header, _)| header[0] != 0) {
            let text = |range: std::ops::Range<usize>| {
                let text = str::from_utf8(&header[range]).unwrap();
                text.trim_end_matches(' ').split('\0').next().unwrap().to_owned()
            };
            let len = usize::from_str_radix(&text(124..136), 8).unwrap();
            if header[156] == b'0' {
                images.insert(text(0..100).trim_start_matches("./").to_owned(), after[..len].to_vec());
            }
            rest = &after[len.next_multiple_of(512)..];
        }
        images
    })
}

/// A partition in memory that counts how often each block is written.
#[derive(Debug)]
pub(crate) struct Memory(pub(crate) Mutex<Vec<u8>>);

impl Memory {
    pub(crate) fn new(len: u64) -> Self {
        // Not zeros: what nobody writes shows.
        Self(Mutex::new(vec![0xa5; usize::try_from(len).unwrap()]))
    }
}

impl Sink for Memory {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        self.0.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256::new(sha2::Sha256::digest(bytes).into())
}

/// Makes all partitions, each operation on its own; `old` gives the source.
pub(crate) fn apply_all<'a>(
    payload: &Payload,
    file: &[u8],
    old: impl Fn(&str) -> Option<&'a Vec<u8>>,
) -> Result<BTreeMap<String, Vec<u8>>, ApplyError> {
    let mut made = BTreeMap::new();
    for partition in &payload.manifest().partitions {
        let memory = Memory::new(partition.new.size.get());
        let source = old(partition.name.as_str());
        // Backwards: no operation needs another one.
        for index in (0..partition.operations.len()).rev() {
            let source = source.map(|source| source as &dyn relevo_format::ReadAt);
            apply_operation(payload, &file, partition, index, source, &memory)?;
        }
        made.insert(partition.name.to_string(), memory.0.into_inner().unwrap());
    }
    Ok(made)
}

pub(crate) fn read(bytes: &[u8]) -> Result<Payload, relevo_format::payload::PayloadError> {
    Payload::read(&bytes, &Limits::default())
}

/// A payload that is written by hand, without signatures.
#[derive(Debug, Clone, Default)]
pub(crate) struct Writer {
    pub(crate) manifest: wire::DeltaArchiveManifest,
    pub(crate) blobs: Vec<u8>,
}

impl Writer {
    pub(crate) fn new() -> Self {
        let manifest =
            wire::DeltaArchiveManifest { block_size: Some(4096), minor_version: Some(0), ..Default::default() };
        Self { manifest, blobs: Vec::new() }
    }

    /// A partition whose image is `new`.
    pub(crate) fn partition(&mut self, name: &str, new: &[u8]) -> &mut Self {
        self.manifest.partitions.push(wire::PartitionUpdate {
            partition_name: Some(name.to_owned()),
            new_partition_info: Some(wire::PartitionInfo {
                size: Some(new.len() as u64),
                hash: Some(sha256(new).as_bytes().to_vec()),
            }),
            ..Default::default()
        });
        self
    }

    /// An operation of the last partition.
    pub(crate) fn operation(&mut self, kind: i32, data: &[u8], target: &[(u64, u64)]) -> &mut Self {
        let extent =
            |&(start, blocks): &(u64, u64)| wire::Extent { start_block: Some(start), num_blocks: Some(blocks) };
        let mut operation = wire::InstallOperation {
            kind: Some(kind),
            dst_extents: target.iter().map(extent).collect(),
            ..Default::default()
        };
        if !data.is_empty() {
            operation.data_offset = Some(self.blobs.len() as u64);
            operation.data_length = Some(data.len() as u64);
            operation.data_sha256_hash = Some(sha256(data).as_bytes().to_vec());
            self.blobs.extend_from_slice(data);
        }
        self.manifest.partitions.last_mut().unwrap().operations.push(operation);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        container(&self.manifest.encode_to_vec(), &self.blobs)
    }
}

/// A manifest and blobs in their frame.
pub(crate) fn container(manifest: &[u8], blobs: &[u8]) -> Vec<u8> {
    let mut bytes = b"CrAU".to_vec();
    bytes.extend(2_u64.to_be_bytes());
    bytes.extend((manifest.len() as u64).to_be_bytes());
    bytes.extend(0_u32.to_be_bytes());
    bytes.extend(manifest);
    bytes.extend(blobs);
    bytes
}

pub(crate) fn xz(bytes: &[u8]) -> Vec<u8> {
    use io::Read as _;

    let mut out = Vec::new();
    liblzma::read::XzEncoder::new(bytes, 1).read_to_end(&mut out).unwrap();
    out
}

pub(crate) fn bz2(bytes: &[u8]) -> Vec<u8> {
    use io::Read as _;

    let mut out = Vec::new();
    bzip2::read::BzEncoder::new(bytes, bzip2::Compression::fast()).read_to_end(&mut out).unwrap();
    out
}
