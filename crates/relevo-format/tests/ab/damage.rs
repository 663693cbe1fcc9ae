//! Payloads that are cut, flipped or made up.

use p256::ecdsa::{Signature, signature::hazmat::PrehashSigner as _};
use prost::Message as _;
use relevo_format::payload::{
    Extent, Limits, OperationError, PartitionError, Payload, PayloadError, SignatureError, wire,
};
use sha2::Digest as _;

use crate::fixture::{Writer, container, key, other_key, read, sample, signing_key};

#[test]
fn a_payload_that_is_cut_anywhere_is_refused() {
    let bytes = sample("delta9.bin");
    let front = 24 + 4094 + 267;
    let lengths = (0..front + 2).chain((front..bytes.len()).step_by(10_007)).chain(bytes.len() - 300..bytes.len());
    for len in lengths {
        let error = read(&bytes[..len]).unwrap_err();
        assert!(matches!(error, PayloadError::Truncated { .. }), "{len}: {error:?}");
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(matches!(read(&longer), Err(PayloadError::Trailing { .. })));
}

#[test]
fn a_flipped_byte_of_header_manifest_or_signatures_is_refused() {
    let bytes = sample("delta9.bin");
    let keys = [key("payload_key.pub.pem")];
    let front = 24 + 4094 + 267;
    let mut flipped = bytes.clone();
    for at in (0..front).chain(bytes.len() - 267..bytes.len()) {
        flipped[at] ^= 1 << (at % 8);
        if let Ok(payload) = read(&flipped) {
            // Reading all of it for each flip would take minutes; each signature covers what is nearest to it.
            let refused = payload.verify_metadata(&keys).is_err();
            let changed = at >= front || at >= 24 + 4094;
            let outer = || payload.verify(&flipped, &keys, |_| std::ops::ControlFlow::Continue(())).is_err();
            assert!(refused || changed && (outer() || padding(&payload, &bytes)), "byte {at} does not matter");
        }
        flipped[at] ^= 1 << (at % 8);
    }
}

/// Whether what was flipped is nothing of a signature: a protobuf field that nobody reads, at most.
fn padding(payload: &Payload, bytes: &[u8]) -> bool {
    let whole = read(bytes).unwrap();
    payload.metadata_signatures() == whole.metadata_signatures() && payload.signatures() == whole.signatures()
}

#[test]
fn lengths_of_gigabytes_take_no_memory() {
    let header = |manifest: u64, signatures: u32| {
        let mut bytes = b"CrAU".to_vec();
        bytes.extend(2_u64.to_be_bytes());
        bytes.extend(manifest.to_be_bytes());
        bytes.extend(signatures.to_be_bytes());
        bytes.extend([0; 64]);
        bytes
    };
    for len in [(64 << 20) + 1, 4 << 30, u64::MAX] {
        assert!(matches!(read(&header(len, 0)), Err(PayloadError::TooLong { what: "manifest", .. })), "{len}");
    }
    assert!(matches!(read(&header(64 << 20, 0)), Err(PayloadError::Truncated { .. })));
    assert!(matches!(read(&header(0, u32::MAX)), Err(PayloadError::TooLong { what: "metadata signature", .. })));
    let mut other = header(1, 0);
    other[11] = 1;
    assert!(matches!(read(&other), Err(PayloadError::Version(1))));
    assert!(matches!(read(b"PK\x03\x04 and so on"), Err(PayloadError::Magic { .. })));
}

#[test]
fn a_manifest_that_grows_when_it_is_decoded_is_refused() {
    // A partition of a million empty operations: two bytes each here, some 200 each in memory.
    let operations = [0x42, 0].repeat(1 << 20);
    let mut manifest = vec![13 << 3 | 2];
    prost::encoding::encode_varint(operations.len() as u64, &mut manifest);
    manifest.extend(operations);
    let bytes = container(&manifest, &[]);

    let limits = Limits { memory: relevo_types::ByteLen::mib(64), ..Limits::default() };
    let small = Payload::read(&bytes, &limits);

    assert!(matches!(small, Err(PayloadError::Memory { what: "manifest", .. })), "{small:?}");
    assert!(matches!(read(&container(&[0x6b], &[])), Err(PayloadError::Wire { .. })), "a group");
}

/// What is wrong with the one partition.
fn partition(writer: &Writer) -> PartitionError {
    match read(&writer.bytes()) {
        Err(PayloadError::Partition { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

/// What is wrong with its first operation that is.
fn operation(writer: &Writer) -> OperationError {
    match partition(writer) {
        PartitionError::Operation { source, .. } => source,
        other => panic!("{other:?}"),
    }
}

fn writer(blocks: usize) -> Writer {
    let mut writer = Writer::new();
    writer.partition("x", &vec![0; blocks * 4096]);
    writer
}

fn extent(start: u64, blocks: u64) -> wire::Extent {
    wire::Extent { start_block: Some(start), num_blocks: Some(blocks) }
}

#[test]
fn extents_are_inside_and_apart() {
    assert!(matches!(operation(writer(2).operation(6, &[], &[(1, 2)])), OperationError::Beyond { .. }));
    assert!(matches!(operation(writer(2).operation(6, &[], &[(u64::MAX, 2)])), OperationError::Beyond { .. }));
    assert!(matches!(operation(writer(2).operation(6, &[], &[(1, u64::MAX)])), OperationError::Beyond { .. }));
    assert!(matches!(operation(writer(2).operation(6, &[], &[(0, 0)])), OperationError::EmptyExtent { start: 0 }));
    assert!(matches!(operation(writer(2).operation(6, &[], &[])), OperationError::NoTarget(_)));
    let twice = partition(writer(3).operation(6, &[], &[(0, 2)]).operation(6, &[], &[(1, 2)]));
    assert!(matches!(twice, PartitionError::Overlap { block: 1 }), "{twice:?}");
    let hole = partition(writer(3).operation(6, &[], &[(0, 1), (2, 1)]));
    assert!(matches!(hole, PartitionError::Uncovered { written: 2, blocks: 3 }), "{hole:?}");
}

#[test]
fn blobs_are_contiguous_and_belong_to_operations() {
    let two = || {
        let mut writer = writer(2);
        writer.operation(0, &[1; 4096], &[(0, 1)]).operation(0, &[2; 4096], &[(1, 1)]);
        writer
    };
    assert!(read(&two().bytes()).is_ok());
    for offset in [0, 4095, 4097, u64::MAX] {
        let mut writer = two();
        writer.manifest.partitions[0].operations[1].data_offset = Some(offset);
        assert!(matches!(operation(&writer), OperationError::DataOffset { expected: 4096, .. }), "{offset}");
    }
    let mut long = two();
    long.manifest.partitions[0].operations[1].data_length = Some(u64::MAX);
    assert!(matches!(operation(&long), OperationError::Overflow));
    assert!(matches!(operation(writer(1).operation(6, &[1], &[(0, 1)])), OperationError::Data { len: 1, .. }));
    assert!(matches!(operation(writer(1).operation(0, &[], &[(0, 1)])), OperationError::Data { len: 0, .. }));
    let mut signed = two();
    (signed.manifest.signatures_offset, signed.manifest.signatures_size) = (Some(4096), Some(1));
    assert!(matches!(read(&signed.bytes()), Err(PayloadError::SignaturesOffset { expected: 8192, actual: 4096 })));
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    assert!(matches!(operation(writer(1).operation(99, &[1], &[(0, 1)])), OperationError::Kind(99)));
    assert!(matches!(operation(writer(1).operation(2, &[], &[(0, 1)])), OperationError::InPlace("MOVE")));
    let mut blocks = writer(1);
    blocks.manifest.block_size = Some(512);
    assert!(matches!(read(&blocks.bytes()), Err(PayloadError::BlockSize(512))));
    assert!(matches!(read(&Writer::new().bytes()), Err(PayloadError::NoPartitions)));
}

#[test]
fn partitions_have_names_sizes_and_digests() {
    let change = |change: fn(&mut wire::PartitionUpdate)| {
        let mut writer = writer(1);
        writer.operation(6, &[], &[(0, 1)]);
        change(&mut writer.manifest.partitions[0]);
        partition(&writer)
    };
    let new = |partition: &mut wire::PartitionUpdate| partition.new_partition_info.take().unwrap();

    assert!(matches!(change(|p| p.partition_name = Some("../x".to_owned())), PartitionError::Name(_)));
    assert!(matches!(change(|p| p.new_partition_info = None), PartitionError::NoNew));
    for size in [4095, 1 << 50, u64::MAX] {
        let mut writer = writer(1);
        let partition_info = wire::PartitionInfo { size: Some(size), ..new(&mut writer.manifest.partitions[0]) };
        writer.manifest.partitions[0].new_partition_info = Some(partition_info);
        assert!(matches!(partition(&writer), PartitionError::Size { .. }), "{size}");
    }
    let short = change(|p| p.new_partition_info.as_mut().unwrap().hash = Some(vec![0; 31]));
    assert!(matches!(short, PartitionError::Digest { len: 31, .. }));
    let mut twice = writer(0);
    twice.partition("x", &[]);
    assert!(matches!(partition(&twice), PartitionError::Twice));
}

#[test]
fn sources_are_inside_the_old_image_and_as_long_as_their_copies() {
    let copy = |old: Option<u64>, source: &[(u64, u64)]| {
        let mut writer = writer(2);
        writer.operation(4, &[], &[(0, 2)]);
        let partition = &mut writer.manifest.partitions[0];
        partition.operations[0].src_extents = source.iter().map(|&(start, blocks)| extent(start, blocks)).collect();
        partition.old_partition_info =
            old.map(|blocks| wire::PartitionInfo { size: Some(blocks * 4096), hash: Some(vec![0; 32]) });
        writer
    };
    assert!(read(&copy(Some(2), &[(0, 2)]).bytes()).is_ok());
    assert!(matches!(operation(&copy(None, &[(0, 2)])), OperationError::NoOld));
    assert!(matches!(operation(&copy(Some(1), &[(0, 2)])), OperationError::Beyond { .. }));
    assert!(matches!(operation(&copy(Some(2), &[(0, 1)])), OperationError::CopyLength { .. }));
    assert!(matches!(operation(&copy(Some(2), &[])), OperationError::Source { .. }));
}

#[test]
fn a_merge_with_a_cycle_is_refused() {
    let merge = |steps: &[(u64, u64)]| {
        let mut writer = writer(2);
        writer.operation(6, &[], &[(0, 2)]);
        let step = |&(from, to): &(u64, u64)| wire::CowMergeOperation {
            kind: Some(0),
            src_extent: Some(extent(from, 1)),
            dst_extent: Some(extent(to, 1)),
            src_offset: None,
        };
        writer.manifest.partitions[0].merge_operations = steps.iter().map(step).collect();
        writer
    };
    assert!(read(&merge(&[(1, 0)]).bytes()).is_ok());
    assert!(matches!(partition(&merge(&[(1, 0), (0, 1)])), PartitionError::MergeOrder { index: 1 }));
    assert!(matches!(partition(&merge(&[(1, 2)])), PartitionError::MergeBeyond { index: 0 }));
}

#[test]
fn a_merge_whose_steps_do_not_fit_is_refused() {
    let merge = |kind, source: Option<(u64, u64)>, target: (u64, u64), offset| {
        let mut writer = writer(4);
        writer.operation(6, &[], &[(0, 4)]);
        let source = source.map(|(start, blocks)| extent(start, blocks));
        let (kind, target) = (Some(kind), Some(extent(target.0, target.1)));
        let step = wire::CowMergeOperation { kind, src_extent: source, dst_extent: target, src_offset: offset };
        writer.manifest.partitions[0].merge_operations.push(step);
        writer
    };
    let good = [
        merge(0, Some((1, 2)), (2, 2), None),
        merge(1, Some((1, 3)), (2, 2), Some(4095)),
        merge(1, Some((1, 2)), (2, 2), Some(0)),
        merge(2, None, (0, 4), None),
    ];
    for writer in good {
        assert!(read(&writer.bytes()).is_ok());
    }
    assert!(matches!(partition(&merge(3, None, (0, 1), None)), PartitionError::MergeKind { kind: 3, .. }));
    assert!(matches!(partition(&merge(-1, None, (0, 1), None)), PartitionError::MergeKind { .. }));
    assert!(matches!(partition(&merge(0, None, (0, 1), None)), PartitionError::MergeKind { .. }));
    let lengths = [
        merge(0, Some((0, 1)), (0, 2), None),
        merge(0, Some((0, 3)), (0, 2), None),
        merge(0, Some((0, 3)), (0, 2), Some(1)),
        merge(1, Some((0, 3)), (0, 2), None),
        merge(1, Some((0, 3)), (0, 2), Some(4096)),
        merge(1, Some((0, 4)), (0, 2), Some(1)),
    ];
    for writer in lengths {
        assert!(matches!(partition(&writer), PartitionError::MergeLength { .. }));
    }
    assert!(matches!(partition(&merge(0, Some((4, 1)), (0, 1), None)), PartitionError::MergeBeyond { .. }));
    assert!(matches!(partition(&merge(0, Some((0, 1)), (u64::MAX, 1), None)), PartitionError::MergeBeyond { .. }));
}

#[test]
fn verity_that_does_not_fit_is_refused() {
    let verity = |change: &dyn Fn(&mut wire::PartitionUpdate)| {
        let mut writer = writer(8);
        writer.operation(6, &[], &[(0, 5)]);
        let partition = &mut writer.manifest.partitions[0];
        partition.hash_tree_data_extent = Some(extent(0, 5));
        partition.hash_tree_extent = Some(extent(5, 1));
        partition.hash_tree_algorithm = Some("sha256".to_owned());
        partition.hash_tree_salt = Some(vec![7; 32]);
        partition.fec_data_extent = Some(extent(0, 6));
        partition.fec_extent = Some(extent(6, 2));
        partition.fec_roots = Some(2);
        change(partition);
        writer
    };
    let payload = read(&verity(&|_| {}).bytes()).unwrap();
    let read_back = &payload.manifest().partitions[0];
    let (tree, fec) = (Extent { start: 5, blocks: 1 }, Extent { start: 6, blocks: 2 });
    assert_eq!(read_back.computed().collect::<Vec<_>>(), [tree, fec]);
    let verity_read = read_back.verity.clone().unwrap();
    assert_eq!(verity_read.hash_tree.unwrap().salt, [7; 32]);
    assert_eq!(verity_read.fec.unwrap().data, Extent { start: 0, blocks: 6 });

    let broken = |change: &dyn Fn(&mut wire::PartitionUpdate)| partition(&verity(change));
    let extents: [&dyn Fn(&mut wire::PartitionUpdate); 4] = [
        &|p| p.hash_tree_extent = Some(extent(8, 1)),
        &|p| p.fec_extent = Some(extent(6, u64::MAX)),
        &|p| p.hash_tree_data_extent = None,
        &|p| p.fec_data_extent = Some(extent(7, 2)),
    ];
    for change in extents {
        assert!(matches!(broken(change), PartitionError::VerityExtent { .. }));
    }
    let order: [&dyn Fn(&mut wire::PartitionUpdate); 3] =
        [&|p| p.hash_tree_data_extent = Some(extent(0, 6)), &|p| p.fec_data_extent = Some(extent(0, 7)), &|p| {
            (p.hash_tree_extent, p.fec_extent) = (Some(extent(7, 1)), Some(extent(5, 2)))
        }];
    for change in order {
        assert!(matches!(broken(change), PartitionError::VerityOrder { .. }));
    }
    for roots in [0, 255, u32::MAX] {
        assert!(matches!(broken(&|p| p.fec_roots = Some(roots)), PartitionError::FecRoots(_)));
    }
    assert!(matches!(broken(&|p| p.hash_tree_salt = Some(vec![0; 257])), PartitionError::TooLong { .. }));
    assert!(matches!(broken(&|p| p.hash_tree_algorithm = Some("s".repeat(33))), PartitionError::TooLong { .. }));
    // The phone makes what operations leave out, and nothing else.
    assert!(matches!(broken(&|p| p.fec_extent = None), PartitionError::Uncovered { written: 6, blocks: 8 }));
    assert!(matches!(broken(&|p| p.operations[0].dst_extents[0] = extent(0, 6)), PartitionError::Overlap { block: 5 }));
}

#[test]
fn a_key_on_p256_signs_too() {
    let mut writer = writer(1);
    writer.operation(0, &[7; 4096], &[(0, 1)]);
    let sign = |signed: &[u8]| {
        let signature: Signature = signing_key().sign_prehash(&sha2::Sha256::digest(signed)).unwrap();
        let der = signature.to_der();
        let mut data = der.as_bytes().to_vec();
        let len = u32::try_from(data.len()).unwrap();
        data.resize(72, 0);
        let signature = wire::Signature { data: Some(data), unpadded_signature_size: Some(len) };
        wire::Signatures { signatures: vec![signature] }.encode_to_vec()
    };
    let size = sign(&[]).len();
    (writer.manifest.signatures_offset, writer.manifest.signatures_size) = (Some(4096), Some(size as u64));
    let manifest = writer.manifest.encode_to_vec();
    let mut metadata = b"CrAU".to_vec();
    metadata.extend(2_u64.to_be_bytes());
    metadata.extend((manifest.len() as u64).to_be_bytes());
    metadata.extend(u32::try_from(size).unwrap().to_be_bytes());
    metadata.extend(manifest);
    let all = [&metadata[..], &writer.blobs].concat();
    let bytes = [&metadata[..], &sign(&metadata), &writer.blobs, &sign(&all)].concat();
    let payload = read(&bytes).unwrap();
    let keys = [key("payload_key.pub.pem"), other_key()];

    assert_eq!(payload.verify_metadata(&keys).unwrap(), &keys[1]);
    let go_on = |_| std::ops::ControlFlow::Continue(());
    assert_eq!(payload.verify(&bytes, &keys, go_on).unwrap(), &keys[1]);
    assert!(payload.verify(&bytes, &keys[..1], go_on).is_err());
    let unsigned = read(&self::writer(0).bytes()).unwrap();
    assert!(matches!(unsigned.verify_metadata(&keys), Err(SignatureError::Unsigned { .. })));
}
