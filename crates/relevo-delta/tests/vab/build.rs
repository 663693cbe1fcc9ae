//! Partitions with finished operations, made by code.

use relevo_format::{
    ReadAt,
    patch::{
        bsdiff::{self, Format, Match},
        zucchini,
    },
    payload::{Data, Extent, ImageInfo, Operation, OperationKind, Partition},
};
use relevo_types::{ByteLen, PartitionName, Sha256};

pub(crate) const BLOCK: usize = 4096;

/// Two images and what makes one of the other.
pub(crate) struct Build {
    pub(crate) old: Vec<u8>,
    pub(crate) new: Vec<u8>,
    pub(crate) blobs: Vec<u8>,
    pub(crate) partition: Partition,
}

impl Build {
    /// No blocks yet.
    pub(crate) fn new(old: Vec<u8>) -> Self {
        let info = |len: usize| ImageInfo { size: ByteLen::new(len as u64), sha256: Sha256::new([0; 32]) };
        let partition = Partition {
            name: PartitionName::parse("system").unwrap(),
            old: (!old.is_empty()).then(|| info(old.len())),
            new: info(0),
            operations: Vec::new(),
            verity: None,
            version: None,
            postinstall: None,
            merge_operations: Vec::new(),
            estimate_cow_size: None,
            estimate_op_count_max: None,
        };
        Self { old, new: Vec::new(), blobs: Vec::new(), partition }
    }

    fn end(&self) -> u64 {
        (self.new.len() / BLOCK) as u64
    }

    fn push(&mut self, kind: OperationKind, blob: &[u8], source: Vec<Extent>, new: &[u8]) {
        let target = vec![Extent { start: self.end(), blocks: (new.len() / BLOCK) as u64 }];
        self.push_to(kind, blob, source, target);
        self.new.extend_from_slice(new);
        self.partition.new.size = ByteLen::new(self.new.len() as u64);
    }

    fn push_to(&mut self, kind: OperationKind, blob: &[u8], source: Vec<Extent>, target: Vec<Extent>) {
        let data = Data { offset: self.blobs.len() as u64, len: blob.len() as u64, sha256: None };
        self.blobs.extend_from_slice(blob);
        let data = (!blob.is_empty()).then_some(data);
        self.partition.operations.push(Operation { kind, data, source, source_sha256: None, target });
    }

    /// Appends a copy of old blocks.
    pub(crate) fn copy(&mut self, sources: &[(u64, u64)]) {
        let source: Vec<_> = sources.iter().map(|&(start, blocks)| Extent { start, blocks }).collect();
        let mut new = Vec::new();
        for extent in &source {
            new.extend_from_slice(&self.old[extent.offset() as usize..][..extent.len() as usize]);
        }
        self.push(OperationKind::SourceCopy, &[], source, &new);
    }

    /// Appends new bytes.
    pub(crate) fn replace(&mut self, new: &[u8]) {
        self.push(OperationKind::Replace, &vec![1; new.len()], Vec::new(), new);
    }

    /// Appends zeros.
    pub(crate) fn zero(&mut self, blocks: usize) {
        self.push(OperationKind::Zero, &[], Vec::new(), &vec![0; blocks * BLOCK]);
    }

    /// Appends new bytes that are like the old bytes at `start`, as a patch.
    pub(crate) fn patch(&mut self, start: usize, new: &[u8]) {
        self.patch_by(false, start, new);
    }

    /// The same, as a patch of zucchini or of bsdiff.
    pub(crate) fn patch_by(&mut self, zucchini: bool, start: usize, new: &[u8]) {
        let first = start / BLOCK;
        let blocks = (start % BLOCK + new.len()).div_ceil(BLOCK).min(self.old.len() / BLOCK - first);
        let old = &self.old[first * BLOCK..(first + blocks) * BLOCK];
        let len = new.len().min(old.len() - start % BLOCK);
        let found = Match { old: start % BLOCK, new: 0, len, extra: new.len() - len };
        let source = vec![Extent { start: first as u64, blocks: blocks as u64 }];
        if zucchini {
            let patch = zucchini::compress(&zucchini::build_bytes(old, new, &[found]).unwrap());
            self.push(OperationKind::Zucchini, &patch, source, new);
        } else {
            let patch = bsdiff::write(old, new, &[found], Format::Bsdiff40);
            self.push(OperationKind::SourceBsdiff, &patch, source, new);
        }
    }

    pub(crate) fn old(&self) -> &dyn ReadAt {
        &self.old
    }

    pub(crate) fn new_image(&self) -> &dyn ReadAt {
        &self.new
    }
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(len).collect()
}

/// Bytes that compress somewhat: words of a small set.
pub(crate) fn text(seed: u64, len: usize) -> Vec<u8> {
    let words: Vec<Vec<u8>> = (0..64).map(|word| noise(word + 1, 3 + word as usize % 9)).collect();
    noise(seed, len).into_iter().flat_map(|byte| words[usize::from(byte) % 64].clone()).take(len).collect()
}
