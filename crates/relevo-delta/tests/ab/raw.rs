//! Images without a file system.

use relevo_delta::{
    DeltaError,
    ab::{Operations, Options},
};
use relevo_format::{ReadAt as _, payload::OperationKind};

use crate::support::{Build, contents, count, made, noise, refused};

const BLOCK: usize = 4096;

/// Blocks that stay, that move, that change a little, that are new, and zeros.
fn builds() -> (Build, Build) {
    let old = [noise(64 * BLOCK, 1), vec![0; 16 * BLOCK], noise(64 * BLOCK, 2)].concat();
    let mut new = [noise(16 * BLOCK, 3), old[64 * BLOCK..].to_vec(), old[..64 * BLOCK].to_vec()].concat();
    for at in (100 * BLOCK..140 * BLOCK).step_by(997) {
        new[at] ^= 0x55;
    }
    (Build::from([("boot", old)]), Build::from([("boot", new)]))
}

#[test]
fn every_minor_version_gets_what_it_knows() {
    let (old, new) = builds();

    for minor in 2..=9 {
        let generated = made(&old, &new, &Options { minor, ..Options::default() });

        let kind = if minor < 4 { OperationKind::SourceBsdiff } else { OperationKind::BrotliBsdiff };
        assert!(count(&generated, "boot", kind) > 0);
        assert_eq!(count(&generated, "boot", OperationKind::Zero) > 0, minor >= 4);
        assert!(generated.blobs.len().get() < 17 * 4096 + 2000, "{}", generated.blobs.len());
        assert_eq!(generated.report.warnings, [""; 0]);
    }
}

#[test]
fn switches_leave_operations_out() {
    let (old, new) = builds();
    let none = Operations { bsdiff: false, brotli: false, zero: false, xz: false, ..Operations::ALL };

    let generated = made(&old, &new, &Options { allowed: none, ..Options::default() });

    for kind in [OperationKind::BrotliBsdiff, OperationKind::Zero, OperationKind::ReplaceXz] {
        assert_eq!(count(&generated, "boot", kind), 0);
    }
    let bare = Operations { bz: false, ..none };
    let generated = made(&old, &new, &Options { allowed: bare, ..Options::default() });
    assert_eq!(count(&generated, "boot", OperationKind::ReplaceBz), 0);
}

#[test]
fn the_same_build_again_needs_no_data() {
    let (old, _) = builds();

    let generated = made(&old, &old, &Options::default());

    assert_eq!(generated.blobs.len().get(), 0);
    assert_eq!(generated.partitions[0].operations.len(), 2);
}

#[test]
fn a_partition_without_an_old_image_is_made_from_nothing() {
    let (mut old, mut new) = builds();
    new.insert("vendor", [noise(700 * BLOCK, 9), vec![0; 10 * BLOCK]].concat());
    old.insert("vendor", Vec::new());

    let generated = made(&old, &new, &Options::default());
    assert!(generated.partitions[1].operations.iter().all(|operation| !operation.kind.reads_source()));
    assert_eq!(count(&generated, "vendor", OperationKind::Zero), 1);
    assert!(generated.partitions[1].operations.iter().all(|operation| operation.target_len() <= 2 << 20));

    // Full payloads have no zeros.
    let generated = made(&Build::new(), &new, &Options::default());
    assert_eq!(count(&generated, "vendor", OperationKind::Zero), 0);
    assert!(generated.partitions.iter().all(|partition| partition.old.is_none()));
}

#[test]
fn partitions_may_be_empty_grow_and_shrink() {
    let bytes = noise(100 * BLOCK, 5);
    let build = |a: usize, b: usize| {
        Build::from([("a", bytes[..a * BLOCK].to_vec()), ("b", bytes[..b * BLOCK].to_vec()), ("c", Vec::new())])
    };

    let generated = made(&build(10, 100), &build(100, 10), &Options::default());

    assert!(generated.blobs.len().get() < 90 * 4096 + 500);
    assert!(generated.partitions[2].operations.is_empty());
}

#[test]
fn the_same_bytes_for_any_number_of_threads() {
    let (mut old, mut new) = builds();
    for (name, seed) in [("odm", 20), ("product", 21), ("vendor", 22)] {
        old.insert(name, noise(50 * BLOCK, seed));
        new.insert(name, noise(60 * BLOCK, seed).into_iter().rev().collect());
    }

    let one = contents(&made(&old, &new, &Options { threads: 1, ..Options::default() }));
    let many = contents(&made(&old, &new, &Options { threads: 5, ..Options::default() }));

    assert!(one == many);
}

#[test]
fn refuses_what_makes_no_sense() {
    let (old, new) = builds();
    let odd = Build::from([("boot", vec![1; 5000])]);

    assert!(matches!(refused(&old, &Build::new(), &Options::default()), DeltaError::NoTarget));
    assert!(matches!(refused(&odd, &new, &Options::default()), DeltaError::Size { build: "source", len: 5000, .. }));
    assert!(matches!(refused(&old, &odd, &Options::default()), DeltaError::Size { build: "target", len: 5000, .. }));
    for minor in [0, 1, 10] {
        let error = refused(&old, &new, &Options { minor, ..Options::default() });
        assert!(matches!(error, DeltaError::Minor(given) if given == minor));
    }
    let memory = relevo_types::ByteLen::mib(255);
    assert!(matches!(refused(&old, &new, &Options { memory, ..Options::default() }), DeltaError::Memory { .. }));
}
