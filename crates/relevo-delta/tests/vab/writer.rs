//! A phone's other side: `update_engine` and `libsnapshot` writing a snapshot, byte by byte, and reading it again.
//!
//! Written from the format alone, one operation after the other, so that the estimate is held against something that
//! takes none of its short cuts.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
};

use flate2::{Compression as Level, read::ZlibDecoder, write::ZlibEncoder};
use relevo_delta::ab::cow::{Compression, Settings};
use relevo_format::payload::{MergeKind, OperationKind};

use crate::{
    build::{BLOCK, Build},
    device::{self, Direction},
};

const SCRATCH: usize = 2 << 20;
/// Where the header of format 3 has the number of entries of the order.
const SEQUENCE_COUNT: usize = 38;
const COPY: u8 = 1;
const REPLACE: u8 = 2;
const ZERO: u8 = 3;
const LABEL: u8 = 4;
const CLUSTER: u8 = 5;
const XOR: u8 = 6;
const SEQUENCE: u8 = 7;

/// A phone that writes snapshots.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phone {
    pub(crate) settings: Settings,
    /// Operations of a cluster, in format 2.
    pub(crate) cluster: usize,
    /// Operations that the manifest says there are at most, in format 3.
    pub(crate) op_count_max: u64,
    /// Whether blocks that stay and are not listed are stored, as Android 12 does it.
    pub(crate) stores_what_stays: bool,
}

struct Snapshot {
    phone: Phone,
    bytes: Vec<u8>,
    op: usize,
    data: usize,
    in_cluster: usize,
    cluster_data: usize,
    sequence: usize,
    count: u64,
    resume: Vec<(u64, u64)>,
}

fn compress(compression: Compression, longest: usize, data: &[u8]) -> Vec<u8> {
    let out = match compression {
        Compression::None => data.to_vec(),
        Compression::Gz(level) => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Level::new(level));
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Brotli(quality) => {
            let params = brotli::enc::BrotliEncoderParams {
                quality: quality.cast_signed(),
                lgwin: 22,
                size_hint: data.len(),
                ..Default::default()
            };
            let mut out = Vec::new();
            brotli::BrotliCompress(&mut &*data, &mut out, &params).unwrap();
            out
        }
        Compression::Lz4 => {
            let mut out = vec![0; 2 * data.len() + 100];
            let len = lzzzz::lz4::compress(data, &mut out, 1).unwrap();
            out.truncate(len);
            out
        }
        Compression::Zstd(level) => {
            let mut encoder = zstd::bulk::Compressor::new(level).unwrap();
            encoder.set_parameter(zstd::zstd_safe::CParameter::WindowLog(longest.ilog2())).unwrap();
            encoder.compress(data).unwrap()
        }
    };
    let whole = matches!(compression, Compression::Lz4 | Compression::Zstd(_)) && out.len() >= data.len();
    if whole { data.to_vec() } else { out }
}

fn decompress(compression: Compression, data: &[u8], len: usize) -> Vec<u8> {
    if data.len() == len {
        return data.to_vec();
    }
    let mut out = vec![0; len];
    match compression {
        Compression::None => panic!("{} bytes of {len}", data.len()),
        Compression::Gz(_) => ZlibDecoder::new(data).read_exact(&mut out).unwrap(),
        Compression::Brotli(_) => brotli::Decompressor::new(data, 4096).read_exact(&mut out).unwrap(),
        Compression::Lz4 => assert_eq!(lzzzz::lz4::decompress(data, &mut out).unwrap(), len),
        Compression::Zstd(_) => out = zstd::bulk::decompress(data, len).unwrap(),
    }
    out
}

impl Snapshot {
    fn new(phone: Phone) -> Self {
        let header = if phone.settings.version == 2 { 38 } else { 78 };
        let mut new = Self {
            phone,
            bytes: vec![0; header + SCRATCH],
            op: header + SCRATCH,
            data: 0,
            in_cluster: 0,
            cluster_data: 0,
            sequence: 0,
            count: 0,
            resume: Vec::new(),
        };
        new.data = match phone.settings.version {
            2 => new.op + phone.cluster * 20,
            _ => new.data_start(),
        };
        new
    }

    fn data_start(&self) -> usize {
        78 + SCRATCH + 4 * self.sequence + 64 + 16 * self.phone.op_count_max as usize
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.bytes.len() < at + bytes.len() {
            self.bytes.resize(at + bytes.len(), 0);
        }
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn operation(&mut self, kind: u8, bits: u8, block: u64, source: u64, data: &[u8]) {
        if self.phone.settings.version == 2 {
            self.operation_v2(kind, block, source, data);
            if self.phone.cluster - self.in_cluster < 2 {
                self.close_cluster();
            }
        } else {
            assert!(self.count < self.phone.op_count_max, "more operations than {}", self.phone.op_count_max);
            let at = 78 + SCRATCH + 4 * self.sequence + 64 + 16 * self.count as usize;
            let mut op = Vec::from((data.len() as u32).to_le_bytes());
            op.extend((block as u32).to_le_bytes());
            let source = if kind == REPLACE { self.data as u64 } else { source };
            op.extend((u64::from(kind) << 60 | u64::from(bits) << 57 | source).to_le_bytes());
            self.put(at, &op);
            self.put(self.data, data);
            self.data += data.len();
            self.count += 1;
        }
    }

    fn operation_v2(&mut self, kind: u8, block: u64, source: u64, data: &[u8]) {
        let source = if matches!(kind, REPLACE | SEQUENCE) { self.data as u64 } else { source };
        let mut op = vec![kind, 1];
        op.extend(u16::try_from(data.len()).unwrap().to_le_bytes());
        op.extend(block.to_le_bytes());
        op.extend(source.to_le_bytes());
        self.put(self.op, &op);
        self.put(self.data, data);
        self.op += 20;
        self.data += data.len();
        self.in_cluster += 1;
        self.cluster_data += data.len();
        self.count += 1;
        if kind == CLUSTER {
            self.op += source as usize;
            self.data += self.phone.cluster * 20;
            (self.in_cluster, self.cluster_data) = (0, 0);
        }
    }

    fn close_cluster(&mut self) {
        let left = (self.phone.cluster - self.in_cluster) * 20 - 20;
        self.operation_v2(CLUSTER, 0, (left + self.cluster_data) as u64, &[]);
    }

    fn sequence(&mut self, blocks: &[u64]) {
        let entries: Vec<u8> = blocks.iter().flat_map(|&block| (block as u32).to_le_bytes()).collect();
        if self.phone.settings.version == 2 {
            entries.chunks(8192).for_each(|chunk| self.operation(SEQUENCE, 0, 0, 0, chunk));
        } else {
            self.sequence = blocks.len();
            self.data = self.data_start();
            self.put(SEQUENCE_COUNT, &(blocks.len() as u64).to_le_bytes());
            self.put(78 + SCRATCH, &entries);
        }
    }

    fn label(&mut self, label: u64) {
        if self.phone.settings.version == 2 {
            self.operation(LABEL, 0, 0, label, &[]);
        } else {
            self.resume.push((label, self.count));
        }
    }

    /// What is handed over at a time is stored in batches, and those in pieces of a power of two.
    fn blocks(&mut self, kind: u8, first: u64, data: &[u8], source: u64) {
        let settings = self.phone.settings;
        let longest = if settings.version == 2 { BLOCK } else { settings.factor as usize };
        let mut block = first;
        for batch in data.chunks(1024 * BLOCK) {
            let mut rest = batch;
            while !rest.is_empty() {
                let mut len = if kind == XOR { BLOCK } else { longest };
                while len > rest.len() {
                    len /= 2;
                }
                let mut stored = compress(settings.compression, longest, &rest[..len]);
                if settings.version == 3 && stored.len() >= len {
                    stored = rest[..len].to_vec();
                }
                let bits = (len / BLOCK).ilog2() as u8;
                let source = source + (block - first) * BLOCK as u64;
                self.operation(kind, bits, block, source, &stored);
                rest = &rest[len..];
                block += (len / BLOCK) as u64;
            }
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.phone.settings.version == 2 {
            if self.cluster_data > 0 {
                self.close_cluster();
            }
            self.put(self.op, &[0xff; 84]);
        } else {
            // The table of operations is there whether or not data follow it.
            self.bytes.resize(self.bytes.len().max(self.data_start()), 0);
            let last: Vec<_> = self.resume.iter().rev().take(4).copied().collect();
            for (index, (label, count)) in last.into_iter().enumerate() {
                self.put(78 + SCRATCH + 4 * self.sequence + 16 * index, &[label, count].map(u64::to_le_bytes).concat());
            }
        }
        self.bytes
    }
}

/// Installs an update: what the phone has written at the end.
pub(crate) fn install(build: &Build, phone: Phone) -> Vec<u8> {
    let merge = &build.partition.merge_operations;
    let mut snapshot = Snapshot::new(phone);
    let mut copies: BTreeMap<u64, u64> = BTreeMap::new();
    let mut stays: BTreeSet<u64> = BTreeSet::new();
    let mut xors: BTreeMap<u64, u64> = BTreeMap::new();
    let mut order = Vec::new();
    for step in merge {
        let source = step.source.unwrap();
        for block in device::blocks(step, Direction::Up) {
            let from = source.start + block - step.target.start;
            match step.kind {
                MergeKind::Copy if from == block => drop(stays.insert(block)),
                MergeKind::Copy => {
                    copies.insert(block, from);
                    order.push(block);
                }
                MergeKind::Xor if phone.settings.xor => {
                    xors.insert(block, from * BLOCK as u64 + u64::from(step.source_offset));
                    order.push(block);
                }
                _ => {}
            }
        }
    }
    if !merge.is_empty() {
        snapshot.sequence(&order);
        snapshot.label(0);
    }
    for (index, operation) in (1..).zip(&build.partition.operations) {
        for target in &operation.target {
            let blocks: Vec<u64> = (target.start..target.end()).collect();
            match operation.kind {
                OperationKind::Zero => blocks.iter().for_each(|&block| snapshot.operation(ZERO, 0, block, 0, &[])),
                OperationKind::SourceCopy => {
                    let sources = operation.source.iter().flat_map(|extent| extent.start..extent.end());
                    let mut run: Vec<(u64, u64)> = Vec::new();
                    for (from, to) in sources.zip(blocks) {
                        if let Some(&from) = copies.get(&to) {
                            snapshot.operation(COPY, 0, to, from, &[]);
                        } else if !stays.contains(&to) && (from != to || phone.stores_what_stays) {
                            if run.last().is_some_and(|last| *last != (from.wrapping_sub(1), to.wrapping_sub(1))) {
                                store(&mut snapshot, build, &std::mem::take(&mut run));
                            }
                            run.push((from, to));
                        }
                    }
                    store(&mut snapshot, build, &run);
                }
                _ => {
                    for chunk in blocks.chunks(256) {
                        written(&mut snapshot, build, chunk, &xors);
                    }
                }
            }
        }
        snapshot.label(index);
    }
    if let Some(verity) = &build.partition.verity {
        let tree = verity.hash_tree.iter().map(|tree| tree.tree);
        for extent in tree.chain(verity.fec.iter().map(|fec| fec.fec)) {
            let bytes = &build.new[extent.offset() as usize..][..extent.len() as usize];
            for (index, chunk) in bytes.chunks(1 << 20).enumerate() {
                snapshot.blocks(REPLACE, extent.start + 256 * index as u64, chunk, 0);
            }
        }
    }
    snapshot.label(u64::MAX);
    snapshot.finish()
}

fn store(snapshot: &mut Snapshot, build: &Build, run: &[(u64, u64)]) {
    if let Some(&(_, first)) = run.first() {
        let at = first as usize * BLOCK;
        snapshot.blocks(REPLACE, first, &build.new[at..at + run.len() * BLOCK], 0);
    }
}

/// Blocks that a patch or new data make: differences first, then the rest.
fn written(snapshot: &mut Snapshot, build: &Build, chunk: &[u64], xors: &BTreeMap<u64, u64>) {
    for &block in chunk {
        if let Some(&source) = xors.get(&block) {
            let new = &build.new[block as usize * BLOCK..][..BLOCK];
            let data: Vec<u8> = new.iter().zip(&build.old[source as usize..]).map(|(a, b)| a ^ b).collect();
            snapshot.blocks(XOR, block, &data, source);
        }
    }
    let rest: Vec<_> = chunk.iter().copied().filter(|block| !xors.contains_key(block)).collect();
    for run in rest.chunk_by(|a, b| a + 1 == *b) {
        store(snapshot, build, &run.iter().map(|&block| (block, block)).collect::<Vec<_>>());
    }
}

struct Op {
    kind: u8,
    bits: u8,
    block: u64,
    source: u64,
    data: Vec<u8>,
}

/// Reads a snapshot as the phone does, and merges it in place.
pub(crate) fn read_and_merge(build: &Build, phone: Phone, bytes: &[u8]) -> Vec<u8> {
    let (order, ops) = if phone.settings.version == 2 { read_v2(phone, bytes) } else { read_v3(phone, bytes) };
    let mut content = build.old.clone();
    content.resize(build.old.len().max(build.new.len()), 0);
    let by_block: BTreeMap<u64, &Op> = ops.iter().map(|op| (op.block, op)).collect();
    let ordered: BTreeSet<u64> = order.iter().copied().collect();
    let rest = ops.iter().filter(|op| !ordered.contains(&op.block));
    for op in order.iter().map(|block| by_block[block]).chain(rest) {
        let at = op.block as usize * BLOCK;
        let bytes = match op.kind {
            COPY => content[op.source as usize * BLOCK..][..BLOCK].to_vec(),
            ZERO => vec![0; BLOCK],
            REPLACE => decompress(phone.settings.compression, &op.data, BLOCK << op.bits),
            XOR => {
                let stored = decompress(phone.settings.compression, &op.data, BLOCK);
                stored.iter().zip(&content[op.source as usize..]).map(|(a, b)| a ^ b).collect()
            }
            other => panic!("operation of kind {other}"),
        };
        content[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    content.truncate(build.new.len());
    content
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn read_v2(phone: Phone, bytes: &[u8]) -> (Vec<u64>, Vec<Op>) {
    let (mut order, mut ops) = (Vec::new(), Vec::new());
    let mut at = 38 + SCRATCH;
    let mut data_at = at + phone.cluster * 20;
    while bytes[at] != 0xff {
        let op = &bytes[at..at + 20];
        let len = number(&op[2..4]) as usize;
        let (block, source) = (number(&op[4..12]), number(&op[12..20]));
        // Behind the last data there may be nothing at all.
        let data = bytes.get(data_at..data_at + len).unwrap_or_default().to_vec();
        assert_eq!(data.len(), len, "the data end early");
        at += 20;
        data_at += len;
        match op[0] {
            CLUSTER => {
                at += source as usize;
                data_at += phone.cluster * 20;
            }
            LABEL => {}
            SEQUENCE => order.extend(data.chunks(4).map(number)),
            kind => ops.push(Op { kind, bits: 0, block, source, data }),
        }
    }
    assert_eq!(at + 84, bytes.len(), "something is behind the footer");
    (order, ops)
}

fn read_v3(phone: Phone, bytes: &[u8]) -> (Vec<u64>, Vec<Op>) {
    let mut ops = Vec::new();
    let start = 78 + SCRATCH;
    let sequence = number(&bytes[SEQUENCE_COUNT..SEQUENCE_COUNT + 8]) as usize;
    let order = bytes[start..start + 4 * sequence].chunks(4).map(number).collect();
    let table = start + 4 * sequence + 64;
    let mut data_at = table + 16 * phone.op_count_max as usize;
    for op in bytes[table..data_at].chunks(16) {
        let (len, block, info) = (number(&op[..4]) as usize, number(&op[4..8]), number(&op[8..]));
        if info == 0 {
            break;
        }
        let data = bytes[data_at..data_at + len].to_vec();
        data_at += len;
        let (kind, bits) = ((info >> 60) as u8, (info >> 57 & 7) as u8);
        ops.push(Op { kind, bits, block, source: info & ((1 << 48) - 1), data });
    }
    assert_eq!(data_at, bytes.len(), "something is behind the data");
    (order, ops)
}
