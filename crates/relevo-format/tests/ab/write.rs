//! Payloads that we write: what comes out is what went in, and signed.

use std::ops::ControlFlow;

use proptest::prelude::*;
use relevo_format::payload::{
    Data, Extent, Fec, HashTree, ImageInfo, KeyKind, Manifest, MergeKind, MergeOperation, Operation, OperationKind,
    Partition, Payload, PayloadError, Postinstall, PrivateKey, Properties, Unsigned, Verity, WriteError, wire, write,
};
use relevo_types::{ByteLen, Sha256};

use crate::{
    fixture::{Writer, read, sample, sha256},
    keys,
};

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn written(manifest: &Manifest, blobs: &[u8], signers: &[PrivateKey]) -> (Vec<u8>, Properties) {
    let mut out = Vec::new();
    let properties = write(manifest, &blobs, signers, &mut out, go_on).unwrap();
    (out, properties)
}

/// The blobs of a payload.
fn blobs<'a>(payload: &Payload, bytes: &'a [u8]) -> &'a [u8] {
    let start = usize::try_from(payload.blobs_offset().get()).unwrap();
    &bytes[start..start + usize::try_from(payload.blobs_len().get()).unwrap()]
}

#[test]
fn the_manifests_of_aosp_come_out_byte_by_byte() {
    let keys = keys::all();
    let samples = ["delta2", "delta3", "delta4", "delta5", "delta7", "delta8", "delta9", "vabc"];
    for name in samples {
        let bytes = sample(&format!("{name}.bin"));
        let payload = read(&bytes).unwrap();

        let unsigned = Unsigned::new(payload.manifest(), &[KeyKind::Rsa2048]).unwrap();
        assert_eq!(unsigned.metadata_sha256(), payload.metadata_sha256(), "{name}");
        assert_eq!(unsigned.len(), payload.len());
        assert_eq!(unsigned.blobs_offset(), payload.blobs_offset());

        for key in &keys {
            let key = std::slice::from_ref(key);
            let (again, properties) = written(payload.manifest(), blobs(&payload, &bytes), key);
            let payload_again = read(&again).unwrap();
            assert_eq!(payload_again.manifest(), payload.manifest());
            assert_eq!(blobs(&payload_again, &again), blobs(&payload, &bytes));
            let public = [key[0].public().clone()];
            assert_eq!(payload_again.verify_metadata(&public).unwrap(), &public[0]);
            assert_eq!(payload_again.verify(&again, &public, go_on).unwrap(), &public[0]);
            let expected = Properties {
                file_sha256: sha256(&again),
                file_size: ByteLen::new(again.len() as u64),
                metadata_sha256: payload_again.metadata_sha256(),
                metadata_size: payload_again.metadata_len(),
            };
            assert_eq!(properties, expected);
        }
    }
}

#[test]
fn the_signatures_of_aosp_can_be_put_back() {
    let bytes = sample("delta9.bin");
    let payload = read(&bytes).unwrap();
    let unsigned = Unsigned::new(payload.manifest(), &[KeyKind::Rsa2048]).unwrap();
    let blobs = blobs(&payload, &bytes);

    // As if somebody had signed elsewhere: digests out, signatures in, and the file of the tool that has the key.
    let digest = unsigned.sha256(&blobs, go_on).unwrap();
    let key = crate::fixture::key("payload_key.pub.pem");
    assert!(key.verify(&digest, &payload.signatures()[0]));
    let mut out = Vec::new();
    let sign = |actual: &Sha256| {
        assert_eq!(*actual, digest);
        Ok(payload.signatures().to_vec())
    };
    unsigned.write(&blobs, payload.metadata_signatures(), sign, &mut out, go_on).unwrap();

    assert!(out == bytes);
}

#[test]
fn several_keys_sign_at_once() {
    let keys = keys::all();
    let bytes = sample("delta5.bin");
    let payload = read(&bytes).unwrap();
    let (out, _) = written(payload.manifest(), blobs(&payload, &bytes), &keys);
    let again = read(&out).unwrap();

    assert_eq!((again.metadata_signatures().len(), again.signatures().len()), (keys.len(), keys.len()));
    for key in &keys {
        let key = [key.public().clone()];
        assert!(again.verify_metadata(&key).is_ok());
        assert!(again.verify(&out, &key, go_on).is_ok());
    }
    // Nobody signs: readable, and refused by every phone.
    let (out, _) = written(payload.manifest(), blobs(&payload, &bytes), &[]);
    assert!(read(&out).unwrap().signatures().is_empty());
}

#[test]
fn blobs_go_into_the_order_of_the_manifest() {
    let mut writer = Writer::new();
    writer.partition("boot", &[[1; 4096], [2; 4096], [3; 4096]].concat());
    writer.operation(0, &[1; 4096], &[(0, 1)]).operation(0, &[2; 4096], &[(1, 1)]).operation(0, &[3; 4096], &[(2, 1)]);
    let payload = read(&writer.bytes()).unwrap();
    let mut manifest = payload.manifest().clone();
    // In the writer's file: something unused, then the third, then the first and the second, one after the other.
    let store = [&[9; 100][..], &[3; 4096], &[1; 4096], &[2; 4096]].concat();
    for (operation, offset) in manifest.partitions[0].operations.iter_mut().zip([100 + 4096, 100 + 8192, 100]) {
        operation.data.as_mut().unwrap().offset = offset;
    }

    let (out, _) = written(&manifest, &store, &[]);

    assert_eq!(read(&out).unwrap().manifest(), payload.manifest());
    assert!(out == writer.bytes());
}

#[test]
fn what_phones_refuse_is_not_written() {
    let mut writer = Writer::new();
    writer.partition("boot", &[1; 4096]).operation(0, &[1; 4096], &[(0, 1)]);
    let manifest = read(&writer.bytes()).unwrap().manifest().clone();
    let refused = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = manifest.clone();
        change(&mut manifest);
        let error = Unsigned::new(&manifest, &[]).unwrap_err();
        assert!(matches!(error, WriteError::Manifest(PayloadError::Partition { .. })), "{error:?}");
    };
    let operation = |manifest: &mut Manifest, change: &dyn Fn(&mut Operation)| {
        change(&mut manifest.partitions[0].operations[0]);
    };
    refused(&|manifest| manifest.partitions.push(manifest.partitions[0].clone()));
    refused(&|manifest| operation(manifest, &|op| op.target[0].start = u64::MAX));
    refused(&|manifest| operation(manifest, &|op| op.data = None));
    refused(&|manifest| operation(manifest, &|op| op.data.as_mut().unwrap().len = 0));
    refused(&|manifest| operation(manifest, &|op| op.kind = OperationKind::Zero));
    refused(&|manifest| manifest.partitions[0].new.size = ByteLen::new(4095));
    refused(&|manifest| {
        operation(manifest, &|op| op.target.clear());
        let twice = manifest.partitions[0].operations[0].clone();
        manifest.partitions[0].operations.push(twice);
    });

    // Data that are not there; signatures that do not fit.
    let unsigned = Unsigned::new(&manifest, &[KeyKind::Rsa2048]).unwrap();
    let none = |_: &Sha256| Ok(vec![vec![1; 256]]);
    let short = unsigned.write(&vec![1; 4095], &[vec![1; 256]], none, &mut Vec::new(), go_on);
    assert!(matches!(short, Err(WriteError::Blobs { end: 4096, len: 4095 })));
    let blobs = vec![1; 4096];
    let signatures = [vec![], vec![vec![1; 255]], vec![vec![1; 257]], vec![vec![1; 256]; 2]];
    for metadata in signatures {
        assert!(unsigned.write(&blobs, &metadata, none, &mut Vec::new(), go_on).is_err());
        let sign = |_: &Sha256| Ok(metadata.clone());
        assert!(unsigned.write(&blobs, &[vec![1; 256]], sign, &mut Vec::new(), go_on).is_err());
    }
    let stop = |_| ControlFlow::Break(());
    let stopped = unsigned.write(&blobs, &[vec![1; 256]], none, &mut Vec::new(), stop);
    assert!(matches!(stopped, Err(WriteError::Stopped)));
}

fn image(blocks: u64, byte: u8) -> ImageInfo {
    ImageInfo { size: ByteLen::new(blocks * 4096), sha256: Sha256::new([byte; 32]) }
}

prop_compose! {
    /// A partition of runs of blocks, each of which one operation writes; what is left over at the end the phone computes.
    fn partition(name: &'static str)(
        runs in prop::collection::vec((0_usize..13, 1_u64..9, 1_u64..5000, any::<[u8; 2]>()), 1..12),
        verity in any::<Option<(bool, [u8; 4])>>(),
        old in 9_u64..40,
        version in prop::option::of("[0-9]{1,10}"),
        postinstall in prop::option::of(("[a-z/]{1,20}", "(ext4|erofs)?", any::<bool>())),
        cow in any::<(Option<u64>, Option<u64>)>(),
        merge in any::<Option<(bool, u16)>>(),
    ) -> Partition {
        use OperationKind::*;
        let kinds = [
            Replace, ReplaceBz, SourceCopy, SourceBsdiff, Zero, Discard, ReplaceXz, Puffdiff, BrotliBsdiff, Zucchini,
            Lz4diffBsdiff, Lz4diffPuffdiff, ReplaceZstd,
        ];
        let mut blocks = 0;
        let mut operations = Vec::new();
        for &(kind, len, data, [first, second]) in &runs {
            let kind = kinds[kind];
            operations.push(Operation {
                kind,
                data: kind.has_data().then(|| Data {
                    offset: 0,
                    len: data,
                    sha256: (first % 8 > 0).then(|| Sha256::new([first; 32])),
                }),
                source: kind
                    .reads_source()
                    .then(|| Extent { start: u64::from(second) % (old - len + 1), blocks: len })
                    .into_iter()
                    .collect(),
                source_sha256: (kind.reads_source() && second % 8 > 0).then(|| Sha256::new([second; 32])),
                target: vec![Extent { start: blocks, blocks: len }],
            });
            blocks += len;
        }
        let verity = verity.map(|(fec, salt)| {
            let data = Extent { start: 0, blocks };
            let tree = Extent { start: blocks, blocks: 1 };
            let salt = if salt[0] == 0 { Vec::new() } else { salt.to_vec() };
            let hash_tree = Some(HashTree { data, tree, algorithm: "sha256".to_owned(), salt });
            let (data, fec_extent) = (Extent { start: 0, blocks: blocks + 1 }, Extent { start: blocks + 1, blocks: 2 });
            let fec = fec.then_some(Fec { data, fec: fec_extent, roots: 2 });
            blocks += if fec.is_some() { 3 } else { 1 };
            Verity { hash_tree, fec }
        });
        let merge_operations = merge.map(|(xor, offset)| {
            let offset = if xor { u32::from(offset % 4096) } else { 0 };
            let kind = if xor { MergeKind::Xor } else { MergeKind::Copy };
            let source = Some(Extent { start: 1, blocks: if offset > 0 { 2 } else { 1 } });
            MergeOperation { kind, source, target: Extent { start: 0, blocks: 1 }, source_offset: offset }
        });
        Partition {
            name: name.parse().unwrap(),
            old: Some(image(old, 1)),
            new: image(blocks, 2),
            operations,
            verity,
            version,
            postinstall: postinstall.map(|(path, filesystem, optional)| Postinstall { path, filesystem, optional }),
            merge_operations: merge_operations.into_iter().collect(),
            estimate_cow_size: cow.0,
            estimate_op_count_max: cow.1,
        }
    }
}

prop_compose! {
    fn manifest()(
        system in partition("system"),
        vendor in prop::option::of(partition("vendor")),
        minor_version in 0_u32..10,
        max_timestamp in any::<Option<i64>>(),
        partial in any::<bool>(),
        security_patch_level in prop::option::of("20[0-9]{2}-0[1-9]-05"),
        dynamic in any::<Option<(bool, bool, u32, u64)>>(),
        apexes in prop::collection::vec(("[a-z.]{1,30}", any::<i64>(), any::<bool>()), 0..3),
    ) -> Manifest {
        Manifest {
            minor_version,
            max_timestamp,
            partial,
            security_patch_level,
            partitions: [Some(system), vendor].into_iter().flatten().collect(),
            dynamic: dynamic.map(|(snapshots, compressed, version, factor)| wire::DynamicPartitionMetadata {
                groups: vec![wire::DynamicPartitionGroup {
                    name: Some("main".to_owned()),
                    size: Some(factor),
                    partition_names: vec!["system".to_owned(), "vendor".to_owned()],
                }],
                snapshot_enabled: Some(snapshots),
                vabc_enabled: Some(compressed),
                vabc_compression_param: Some("lz4".to_owned()),
                cow_version: Some(version),
                vabc_feature_set: Some(wire::VabcFeatureSet { threaded: Some(snapshots), batch_writes: None }),
                compression_factor: Some(factor),
            }),
            apexes: apexes
                .into_iter()
                .map(|(name, version, compressed)| wire::ApexInfo {
                    package_name: Some(name),
                    version: Some(version),
                    is_compressed: Some(compressed),
                    decompressed_size: None,
                    source_version: Some(version),
                })
                .collect(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(mut manifest in manifest(), seed in any::<u8>()) {
        let all: u64 = manifest.partitions.iter().flat_map(|p| &p.operations).filter_map(|op| op.data).map(|d| d.len).sum();
        let blobs: Vec<u8> = (0..all).map(|at| u8::try_from(at % 251).unwrap() ^ seed).collect();
        let mut end = 0;
        for data in manifest.partitions.iter_mut().flat_map(|p| &mut p.operations).filter_map(|op| op.data.as_mut()) {
            data.offset = end;
            end += data.len;
        }
        let key = PrivateKey::parse(keys::p256_pem().as_bytes(), None).unwrap();
        let public = [key.public().clone()];

        let (out, properties) = written(&manifest, &blobs, &[key]);

        let payload = read(&out).unwrap();
        prop_assert_eq!(payload.manifest(), &manifest);
        prop_assert_eq!(self::blobs(&payload, &out), &blobs[..]);
        prop_assert!(payload.verify_metadata(&public).is_ok() && payload.verify(&out, &public, go_on).is_ok());
        prop_assert_eq!(properties.file_sha256, sha256(&out));
    }
}
