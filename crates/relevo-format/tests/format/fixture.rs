//! Packages made by code, and a model of what they make.

use std::{collections::BTreeMap, io, ops::ControlFlow};

use relevo_format::{
    ReadAt, Section,
    apply::{ApplyError, apply_piece, body, check_source},
    ops::{Encoder, Op},
    package::{
        Base, BaseKind, Codec, Engine, Front, Info, Limits, Manifest, PackageError, Partition, Piece, Role, Stream,
    },
};
use relevo_types::{BuildId, ByteLen, Codename, PartitionName, Sha256};
use sha2::Digest;

pub(crate) fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256::new(sha2::Sha256::digest(bytes).into())
}

pub(crate) fn name(text: &str) -> PartitionName {
    PartitionName::parse(text).unwrap()
}

/// What one piece is made of.
#[derive(Debug, Clone)]
pub(crate) struct PieceContent {
    /// Indices into the bases of the package.
    pub(crate) bases: Vec<u32>,
    pub(crate) ops: Vec<Op>,
    pub(crate) diff: Vec<u8>,
    pub(crate) extra: Vec<u8>,
    pub(crate) codec: Codec,
}

impl PieceContent {
    /// What the operations make, done in the plainest way.
    pub(crate) fn target(&self, bases: &[Vec<u8>]) -> Vec<u8> {
        let (mut diff, mut extra) = (&self.diff[..], &self.extra[..]);
        let mut next = |which: bool, len: u64| {
            let from = if which { &mut diff } else { &mut extra };
            from.split_off(..usize::try_from(len).unwrap()).unwrap().to_vec()
        };
        let mut out = Vec::new();
        for op in &self.ops {
            let base = |base: u32, start: u64, len: u64| {
                let (start, len) = (usize::try_from(start).unwrap(), usize::try_from(len).unwrap());
                bases[self.bases[base as usize] as usize][start..start + len].to_vec()
            };
            out.extend(match *op {
                Op::Copy { base: index, start, len } => base(index, start, len),
                Op::Add { base: index, start, len } => {
                    base(index, start, len).iter().zip(next(true, len)).map(|(a, b)| a.wrapping_add(b)).collect()
                }
                Op::Insert { len } => next(false, len),
                Op::Zero { len } => vec![0; usize::try_from(len).unwrap()],
            });
        }
        out
    }

    pub(crate) fn ops_bytes(&self) -> Vec<u8> {
        let mut encoder = Encoder::new(self.bases.len());
        self.ops.iter().for_each(|&op| encoder.push(op));
        encoder.finish()
    }
}

/// What a whole package is made of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    pub(crate) bases: Vec<(&'static str, Vec<u8>)>,
    pub(crate) partitions: Vec<(&'static str, Vec<PieceContent>)>,
    pub(crate) removed: Vec<&'static str>,
}

impl Content {
    /// Two partitions out of one base, with every kind of operation and both codecs.
    pub(crate) fn small() -> Self {
        let base: Vec<u8> = (0..=255).collect();
        let piece = |codec| PieceContent {
            bases: vec![0],
            ops: vec![
                Op::Copy { base: 0, start: 16, len: 32 },
                Op::Add { base: 0, start: 200, len: 40 },
                Op::Insert { len: 20 },
                Op::Zero { len: 12 },
                Op::Copy { base: 0, start: 3, len: 5 },
            ],
            diff: (0..40).map(|at| u8::from(at % 7 == 0)).collect(),
            extra: b"twenty bytes of news".to_vec(),
            codec,
        };
        Self {
            bases: vec![("boot", base)],
            partitions: vec![("boot", vec![piece(Codec::Zstd), piece(Codec::Store)]), ("empty", vec![])],
            removed: vec!["splash"],
        }
    }

    fn base_bytes(&self) -> Vec<Vec<u8>> {
        self.bases.iter().map(|(_, bytes)| bytes.clone()).collect()
    }

    /// What each partition is to be.
    pub(crate) fn targets(&self) -> Vec<Vec<u8>> {
        let bases = self.base_bytes();
        let target = |pieces: &[PieceContent]| pieces.iter().flat_map(|piece| piece.target(&bases)).collect();
        self.partitions.iter().map(|(_, pieces)| target(pieces)).collect()
    }

    /// Manifest and body.
    pub(crate) fn build(&self) -> (Manifest, Vec<u8>) {
        let bases = self.base_bytes();
        let mut body = Vec::new();
        let mut partitions = Vec::new();
        for (partition, contents) in &self.partitions {
            let mut pieces = Vec::new();
            let mut whole = Vec::new();
            for content in contents {
                let target = content.target(&bases);
                let mut streams = Vec::new();
                for (role, raw) in [
                    (Role::Ops, content.ops_bytes()),
                    (Role::Diff, content.diff.clone()),
                    (Role::Extra, content.extra.clone()),
                ] {
                    if role == Role::Ops || !raw.is_empty() {
                        let stored = encode(content.codec, &raw);
                        streams.push(stream(role, content.codec, &stored, raw.len(), body.len()));
                        body.extend(stored);
                    }
                }
                pieces.push(Piece {
                    start: whole.len() as u64,
                    len: target.len() as u64,
                    sha256: sha256(&target),
                    engine: Engine::Bsdiff,
                    bases: content.bases.clone(),
                    streams,
                });
                whole.extend(target);
            }
            let size = ByteLen::new(whole.len() as u64);
            partitions.push(Partition { name: name(partition), size, sha256: sha256(&whole), pieces });
        }
        let base = |(partition, bytes): &(&str, Vec<u8>)| Base {
            kind: BaseKind::Source,
            partition: name(partition),
            size: ByteLen::new(bytes.len() as u64),
            sha256: sha256(bytes),
        };
        let mut manifest = Manifest {
            info: Info {
                device: Some(Codename::parse("ginkgo").unwrap()),
                from: (!self.bases.is_empty()).then(|| BuildId::parse("100").unwrap()),
                to: Some(BuildId::parse("101").unwrap()),
                timestamp: Some(1_746_403_200),
                memory: ByteLen::ZERO,
            },
            bases: self.bases.iter().map(base).collect(),
            partitions,
            removed: self.removed.iter().map(|partition| name(partition)).collect(),
        };
        manifest.info.memory = manifest.memory();
        (manifest, body)
    }

    /// The whole package, unsigned.
    pub(crate) fn package(&self) -> Vec<u8> {
        let (manifest, body) = self.build();
        [Front::new(manifest, &Limits::default()).unwrap().encode(), body].concat()
    }

    /// The images of the source.
    pub(crate) fn source(&self) -> BTreeMap<PartitionName, Vec<u8>> {
        self.bases.iter().map(|(partition, bytes)| (name(partition), bytes.clone())).collect()
    }
}

/// Stores bytes; a zstd frame gets the smallest window.
pub(crate) fn encode(codec: Codec, raw: &[u8]) -> Vec<u8> {
    match codec {
        Codec::Zstd => {
            let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
            encoder.window_log(WINDOW_LOG).unwrap();
            io::copy(&mut &raw[..], &mut encoder).unwrap();
            encoder.finish().unwrap()
        }
        _ => raw.to_vec(),
    }
}

pub(crate) const WINDOW_LOG: u32 = 12;

pub(crate) fn stream(role: Role, codec: Codec, stored: &[u8], raw_len: usize, offset: usize) -> Stream {
    Stream {
        role,
        codec,
        offset: offset as u64,
        stored_len: stored.len() as u64,
        raw_len: raw_len as u64,
        window_log: if codec == Codec::Zstd { WINDOW_LOG } else { 0 },
        sha256: sha256(stored),
    }
}

#[derive(Debug)]
pub(crate) enum Error {
    Package(PackageError),
    Apply(ApplyError),
    /// The pieces passed, the whole did not.
    Partition,
}

impl From<PackageError> for Error {
    fn from(error: PackageError) -> Self {
        Self::Package(error)
    }
}

impl From<ApplyError> for Error {
    fn from(error: ApplyError) -> Self {
        Self::Apply(error)
    }
}

pub(crate) fn read(package: &[u8]) -> Result<Front, PackageError> {
    Front::read(&mut Section::whole(package), &Limits::default())
}

/// Every partition that a front makes.
pub(crate) fn apply(
    front: &Front,
    package: &[u8],
    source: &BTreeMap<PartitionName, Vec<u8>>,
) -> Result<Vec<Vec<u8>>, Error> {
    let body = body(front, package)?;
    let open = |partition: &PartitionName| {
        let image = source.get(partition).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(image) as Box<dyn ReadAt>)
    };
    let source = check_source(front.manifest(), open, |_| ControlFlow::Continue(()))?;
    let mut made = Vec::new();
    for (index, partition) in front.manifest().partitions.iter().enumerate() {
        let mut image = Vec::new();
        for piece in 0..partition.pieces.len() {
            apply_piece(front, index, piece, &source, &body, &mut image)?;
        }
        if sha256(&image) != partition.sha256 {
            return Err(Error::Partition);
        }
        made.push(image);
    }
    Ok(made)
}

/// A manifest as a row of sections, to be changed in ways that the crate's writer would not.
#[derive(Debug, Clone)]
pub(crate) struct Sections(pub(crate) Vec<([u8; 4], Vec<u8>)>);

impl Sections {
    pub(crate) fn of(manifest: &Manifest) -> Self {
        let bytes = manifest.encode();
        let mut rest = &bytes[..];
        let mut sections = Vec::new();
        while let Some((tag, after)) = rest.split_first_chunk::<4>() {
            let (len, after) = after.split_first_chunk::<4>().unwrap();
            let (content, after) = after.split_at(u32::from_le_bytes(*len) as usize);
            sections.push((*tag, content.to_vec()));
            rest = after;
        }
        Self(sections)
    }

    pub(crate) fn get(&mut self, tag: &[u8; 4]) -> &mut Vec<u8> {
        &mut self.0.iter_mut().find(|(other, _)| other == tag).unwrap().1
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, content) in &self.0 {
            out.extend_from_slice(tag);
            out.extend_from_slice(&u32::try_from(content.len()).unwrap().to_le_bytes());
            out.extend_from_slice(content);
        }
        out
    }

    pub(crate) fn decode(&self) -> Result<Manifest, PackageError> {
        Manifest::decode(&self.bytes(), &Limits::default())
    }
}

pub(crate) fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value > 0x7f {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
    out
}

/// A length and a text.
pub(crate) fn text(text: &str) -> Vec<u8> {
    [varint(text.len() as u64), text.as_bytes().to_vec()].concat()
}

/// Header, manifest and no signatures.
pub(crate) fn front_of(raw: &[u8]) -> Vec<u8> {
    let stored = zstd::bulk::compress(raw, 1).unwrap();
    let len = |len: usize| u32::try_from(len).unwrap().to_le_bytes();
    [&b"RVP\r\n\x1a\n\0\x01\0\0\0"[..], &len(stored.len()), &len(raw.len()), &stored, &[0, 0]].concat()
}
