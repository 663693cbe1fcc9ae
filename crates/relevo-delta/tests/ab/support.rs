//! Builds in memory, and applying what was made of them.

use std::{collections::BTreeMap, sync::Mutex};

use relevo_delta::{
    DeltaError, Images, Silent,
    ab::{Generated, Options, generate},
};
use relevo_format::{
    ReadAt,
    payload::{Extent, OperationKind, Sink, apply_unpacked},
    verity,
};
use relevo_types::{ByteLen, PartitionName, Sha256};
use sha2::Digest as _;

/// Bytes of partitions by name.
pub(crate) type Build = BTreeMap<&'static str, Vec<u8>>;

pub(crate) fn images(build: &Build) -> Images<'_> {
    let image = |(name, bytes): (&&str, &'_ Vec<u8>)| {
        (PartitionName::parse(name).unwrap(), Box::new(bytes.clone()) as Box<dyn ReadAt>)
    };
    build.iter().map(image).collect()
}

/// Bytes that do not compress.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

/// An image, and how often each byte was written.
pub(crate) struct Out(Mutex<(Vec<u8>, Vec<u8>)>);

impl Out {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let counts = vec![0; bytes.len()];
        Self(Mutex::new((bytes, counts)))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().0.clone()
    }
}

impl ReadAt for Out {
    fn len(&self) -> ByteLen {
        ReadAt::len(&self.0.lock().unwrap().0)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.0.lock().unwrap().0.read_exact_at(buf, offset)
    }
}

impl Sink for Out {
    fn write_at(&self, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        let mut out = self.0.lock().unwrap();
        let at = usize::try_from(offset).unwrap();
        out.0[at..at + bytes.len()].copy_from_slice(bytes);
        out.1[at..at + bytes.len()].iter_mut().for_each(|count| *count += 1);
        Ok(())
    }
}

/// Generates, applies, compares, and checks what holds for all.
pub(crate) fn made(old: &Build, new: &Build, options: &Options) -> Generated {
    let scratch = tempfile::tempdir().unwrap();
    let generated = generate(&images(old), &images(new), options, scratch.path(), &Silent).unwrap();
    check(old, new, options, &generated);
    generated
}

pub(crate) fn refused(old: &Build, new: &Build, options: &Options) -> DeltaError {
    let scratch = tempfile::tempdir().unwrap();
    generate(&images(old), &images(new), options, scratch.path(), &Silent).unwrap_err()
}

fn check(old: &Build, new: &Build, options: &Options, generated: &Generated) {
    let names: Vec<_> = generated.partitions.iter().map(|partition| partition.name.to_string()).collect();
    assert_eq!(names, new.keys().copied().collect::<Vec<_>>());
    let mut offset = 0;
    for partition in &generated.partitions {
        let target = &new[&*partition.name.to_string()];
        let source = old.get(&*partition.name.to_string()).filter(|source| !source.is_empty());
        assert_eq!(partition.old.is_some(), source.is_some());
        assert_eq!(partition.new.sha256, Sha256::new(sha2::Sha256::digest(target).into()));
        let out = Out::new(vec![0xee; target.len()]);
        for (index, operation) in partition.operations.iter().enumerate() {
            let since = match operation.kind {
                OperationKind::SourceBsdiff | OperationKind::SourceCopy => 2,
                OperationKind::Replace | OperationKind::ReplaceBz | OperationKind::ReplaceXz => 0,
                OperationKind::BrotliBsdiff | OperationKind::Zero => 4,
                OperationKind::Puffdiff => 5,
                OperationKind::Zucchini => 8,
                OperationKind::Lz4diffBsdiff | OperationKind::Lz4diffPuffdiff => 9,
                kind => panic!("{kind} is never made"),
            };
            assert!(since <= options.minor, "{} for minor version {}", operation.kind, options.minor);
            assert_eq!(operation.data.is_some(), operation.kind.has_data());
            assert_eq!(operation.source_sha256.is_some(), operation.kind.reads_source());
            if let Some(data) = operation.data {
                assert_eq!(data.offset, offset);
                assert!(data.sha256.is_some());
                offset += data.len;
            }
            let joined = |extents: &[Extent]| extents.windows(2).all(|pair| pair[0].end() != pair[1].start);
            assert!(joined(&operation.target), "extents that follow each other are one");
            let image = source.map(|source| source as &dyn ReadAt);
            apply_unpacked(&generated.blobs, partition, index, image, &out).unwrap();
        }
        if let Some(left) = &partition.verity {
            assert!(options.minor >= 6);
            verity::compute(left, &out, &out).unwrap();
        }
        let (bytes, counts) = out.0.into_inner().unwrap();
        assert!(bytes == *target, "{} is another image", partition.name);
        assert!(counts.iter().all(|&count| count == 1), "a block of {} is not written once", partition.name);
    }
    assert_eq!(generated.blobs.len().get(), offset);
}

/// All data and all operations, to compare two runs.
pub(crate) fn contents(generated: &Generated) -> (String, Vec<u8>) {
    let mut bytes = vec![0; usize::try_from(generated.blobs.len().get()).unwrap()];
    generated.blobs.read_exact_at(&mut bytes, 0).unwrap();
    (format!("{:?}", generated.partitions), bytes)
}

/// How many operations of a kind a partition has.
pub(crate) fn count(generated: &Generated, partition: &str, kind: OperationKind) -> u64 {
    let report = generated.report.partitions.iter().find(|report| report.name.to_string() == partition).unwrap();
    report.operations.get(&kind).map_or(0, |tally| tally.count)
}
