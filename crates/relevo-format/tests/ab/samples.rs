//! What AOSP's tools made.

use std::ops::ControlFlow;

use relevo_format::{
    ota_zip::{Limits, OtaZip, PAYLOAD},
    payload::{ApplyError, SignatureError, is_applied},
};

use crate::fixture::{Memory, apply_all, images, key, other_key, read, sample, sha256};

const GO_ON: fn(u64) -> ControlFlow<()> = |_| ControlFlow::Continue(());

/// Applies all of a payload, byte for byte.
fn check(name: &str) {
    let bytes = sample(name);
    let payload = read(&bytes).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    let keys = [key("payload_key.pub.pem")];
    assert_eq!(payload.verify_metadata(&keys).unwrap(), &keys[0], "{name}");
    assert_eq!(payload.verify(&bytes, &keys, GO_ON).unwrap(), &keys[0], "{name}");
    let other = [other_key()];
    assert!(matches!(payload.verify_metadata(&other), Err(SignatureError::Unknown { signatures: 1, keys: 1, .. })));
    assert!(matches!(payload.verify(&bytes, &other, GO_ON), Err(SignatureError::Unknown { .. })));

    for partition in &payload.manifest().partitions {
        let old = &images()[&format!("old/{}.img", partition.name)];
        let new = &images()[&format!("new/{}.img", partition.name)];
        assert_eq!(partition.old.unwrap().sha256, sha256(old));
        assert_eq!(partition.new.sha256, sha256(new));
        let memory = Memory::new(partition.new.size.get());
        for (index, operation) in partition.operations.iter().enumerate() {
            assert!(is_applied(operation.kind), "{name}: {}", operation.kind);
            relevo_format::payload::apply_operation(&payload, &bytes, partition, index, Some(old), &memory)
                .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
        assert!(memory.0.into_inner().unwrap() == *new, "{name}: {} differs", partition.name);
    }
}

#[test]
fn payloads_of_minor_versions_2_to_4_make_the_new_images() {
    for name in ["delta2.bin", "delta3.bin", "delta4.bin"] {
        check(name);
    }
}

#[test]
fn payloads_of_minor_versions_5_to_9_make_the_new_images() {
    // Version 8 brings zucchini, version 9 lz4diff.
    for name in ["delta5.bin", "delta7.bin", "delta8.bin", "delta9.bin", "vabc.bin"] {
        check(name);
    }
}

#[test]
fn what_virtual_ab_is_told_is_read() {
    let payload = read(&sample("vabc.bin")).unwrap();

    let manifest = payload.manifest();
    let dynamic = manifest.dynamic.as_ref().unwrap();
    assert_eq!(dynamic.groups[0].name.as_deref(), Some("main"));
    assert_eq!(dynamic.groups[0].partition_names, ["system", "product"]);
    assert_eq!((dynamic.snapshot_enabled, dynamic.vabc_enabled), (Some(true), Some(true)));
    assert_eq!((dynamic.cow_version, dynamic.compression_factor), (Some(3), Some(65536)));
    assert_eq!(dynamic.vabc_compression_param.as_deref(), Some("lz4"));
    let system = &manifest.partitions[0];
    assert_eq!((system.merge_operations.len(), system.estimate_op_count_max), (151, Some(12106)));
    assert_eq!((manifest.minor_version, manifest.max_timestamp), (9, Some(1_700_000_000)));
}

#[test]
fn the_zip_of_releasetools_is_signed_and_its_parts_agree() {
    let bytes = sample("incremental_ota.zip");
    let zip = OtaZip::read(&bytes, &Limits::default()).unwrap();
    let keys = [key("payload_key.pub.pem"), other_key()];
    assert_eq!(key("ota_cert.x509.pem"), keys[0], "a certificate is its key");

    let whole = zip.signature().unwrap();
    assert_eq!(whole.verify(&bytes, &keys, GO_ON).unwrap(), &keys[0]);
    assert!(matches!(whole.verify(&bytes, &keys[1..], GO_ON), Err(SignatureError::Unknown { .. })));

    let stored = zip.stored(PAYLOAD).unwrap();
    let text = zip.metadata_text().unwrap();
    assert_eq!(stored.offset().get(), 1452);
    assert_eq!(text["ota-type"], "AB");
    assert!(text["ota-property-files"].contains("payload.bin:1452:1255562"));
    let metadata = zip.metadata().unwrap().unwrap();
    assert_eq!(metadata.kind, 1);
    assert_eq!(metadata.property_files["ota-property-files"].trim_end(), text["ota-property-files"].trim_end());
    assert_eq!(metadata.precondition.unwrap().build_incremental, "1");
    let after = metadata.postcondition.unwrap();
    assert_eq!((after.timestamp, after.sdk_level.as_str()), (1_700_100_000, "35"));
    assert_eq!(after.security_patch_level, "2025-02-05");

    let payload = relevo_format::payload::Payload::read(&stored, &Default::default()).unwrap();
    let properties = zip.properties().unwrap();
    assert_eq!(properties.file_size, payload.len());
    assert_eq!(properties.metadata_size, payload.metadata_len());
    assert_eq!(properties.metadata_sha256, payload.metadata_sha256());
    payload.verify_metadata(&keys).unwrap();
    payload.verify(&stored, &keys, GO_ON).unwrap();
}

#[test]
fn a_wrong_source_is_refused() {
    let bytes = sample("delta4.bin");
    let payload = read(&bytes).unwrap();

    let wrong = apply_all(&payload, &bytes, |name| images().get(&format!("new/{name}.img")));
    let none = apply_all(&payload, &bytes, |_| None);

    assert!(matches!(wrong, Err(ApplyError::Differs { what: "source", .. })), "{wrong:?}");
    assert!(matches!(none, Err(ApplyError::NoSource { .. })), "{none:?}");
}

#[test]
fn a_blob_that_was_changed_is_refused_before_it_is_decoded() {
    let mut bytes = sample("delta4.bin");
    let payload = read(&bytes).unwrap();
    let at = usize::try_from(payload.blobs_offset().get()).unwrap() + 100;
    bytes[at] ^= 1;

    let done = apply_all(&payload, &bytes, |name| images().get(&format!("old/{name}.img")));

    assert!(matches!(done, Err(ApplyError::Differs { what: "data", .. })), "{done:?}");
    assert!(payload.verify(&bytes, &[key("payload_key.pub.pem")], GO_ON).is_err());
}
