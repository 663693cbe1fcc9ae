//! What the manifest says of dynamic partitions.

use relevo_delta::ab::{
    cow::{Compression, Settings},
    dynamic::{self, BuildFacts, Choice, DynamicError, Options, SnapshotError, Updated, Warning},
};
use relevo_format::payload::wire::{DynamicPartitionGroup, DynamicPartitionMetadata};
use relevo_types::{ByteLen, PartitionName};

use crate::{
    build::BLOCK,
    merge::mixed,
    writer::{Phone, install},
};

fn metadata(compression: &str, version: u32) -> DynamicPartitionMetadata {
    DynamicPartitionMetadata {
        groups: vec![DynamicPartitionGroup {
            name: Some("main".to_owned()),
            size: Some(1 << 30),
            partition_names: vec!["system".to_owned(), "vendor".to_owned()],
        }],
        snapshot_enabled: Some(true),
        vabc_enabled: Some(true),
        vabc_compression_param: Some(compression.to_owned()),
        cow_version: Some(version),
        vabc_feature_set: None,
        compression_factor: Some(65536),
    }
}

fn facts(metadata: &DynamicPartitionMetadata) -> BuildFacts<'_> {
    BuildFacts { metadata: Some(metadata), sdk: Some(35), xor: true, suppressed: false }
}

const OPTIONS: Options =
    Options { minor: 9, partial: false, without_compression: false, compression: None, version: None, factor: None };

/// With `system`, `vendor` and `boot` in the update, or some of them.
fn choose_of(
    names: &[&str],
    source: &BuildFacts<'_>,
    target: &BuildFacts<'_>,
    options: &Options,
) -> Result<Choice, DynamicError> {
    let names: Vec<_> = names.iter().map(|name| PartitionName::parse(name).unwrap()).collect();
    let updated =
        names.iter().map(|name| Updated { name, size: ByteLen::mib(512), versioned: name.as_str() != "boot" });
    dynamic::choose(source, target, &updated.collect::<Vec<_>>(), options)
}

fn choose(source: &BuildFacts<'_>, target: &BuildFacts<'_>, options: &Options) -> Result<Choice, DynamicError> {
    choose_of(&["system", "vendor", "boot"], source, target, options)
}

#[test]
fn the_source_build_says_how_and_both_say_which_version() {
    let (old, new) = (metadata("lz4", 3), metadata("zstd", 2));

    let choice = choose(&facts(&old), &facts(&new), &OPTIONS).unwrap();

    let lz4 = Settings { version: 2, compression: Compression::Lz4, factor: 65536, xor: true };
    assert_eq!(choice.settings, Some(lz4));
    assert_eq!((choice.metadata, choice.warnings, choice.verity), (Some(metadata("lz4", 2)), vec![], true));

    let choice = choose(&facts(&old), &facts(&old), &OPTIONS).unwrap();
    assert_eq!(choice.settings, Some(Settings { version: 3, ..lz4 }));
    assert_eq!(choice.metadata, Some(old));
}

#[test]
fn what_is_not_said_is_as_phones_have_it() {
    let bare = DynamicPartitionMetadata {
        vabc_compression_param: None,
        cow_version: None,
        compression_factor: None,
        ..metadata("", 0)
    };

    let choice = choose(&facts(&bare), &facts(&bare), &OPTIONS).unwrap();

    let settings = Settings { version: 2, compression: Compression::Gz(9), factor: 4096, xor: true };
    assert_eq!(choice.settings, Some(settings));
}

#[test]
fn differences_take_both_builds() {
    let lz4 = metadata("lz4", 3);
    let both = facts(&lz4);
    let without = BuildFacts { xor: false, ..both };
    let old = BuildFacts { sdk: Some(32), ..facts(&lz4) };
    for (source, target, xor) in
        [(both, both, true), (without, both, false), (both, without, false), (old, both, false)]
    {
        let options = Options { compression: Some(Compression::Gz(9)), ..OPTIONS };
        assert_eq!(choose(&source, &target, &options).unwrap().settings.unwrap().xor, xor);
    }
    let none = Options { compression: Some(Compression::None), ..OPTIONS };
    assert!(!choose(&both, &both, &none).unwrap().settings.unwrap().xor);
}

#[test]
fn no_phone_is_asked_for_a_compression_that_it_does_not_know() {
    let zstd = metadata("zstd", 2);
    let source = BuildFacts { sdk: Some(34), ..facts(&zstd) };

    let choice = choose(&source, &facts(&zstd), &OPTIONS).unwrap();

    assert_eq!(choice.settings.unwrap().compression, Compression::Gz(9));
    assert_eq!(choice.warnings, [Warning::Compression { compression: Compression::Zstd(3), sdk: 34 }]);
    for (compression, since) in [(Compression::Zstd(3), 35), (Compression::Lz4, 34), (Compression::Gz(3), 35)] {
        let options = Options { compression: Some(compression), ..OPTIONS };
        let source = BuildFacts { sdk: Some(since - 1), ..source };
        let error = choose(&source, &facts(&zstd), &options).unwrap_err();
        assert!(matches!(error, DynamicError::Compression { since: found, .. } if found == since));
    }
    let unknown = metadata("xz", 2);
    assert!(matches!(choose(&facts(&unknown), &facts(&zstd), &OPTIONS), Err(DynamicError::Settings(_))));
}

#[test]
fn snapshots_are_compressed_only_if_both_builds_can() {
    let on = metadata("gz", 2);
    let off = DynamicPartitionMetadata { vabc_enabled: None, ..metadata("gz", 2) };
    let suppressed = BuildFacts { suppressed: true, ..facts(&on) };
    let without = Options { without_compression: true, ..OPTIONS };
    for (source, target, options) in [
        (facts(&on), facts(&off), OPTIONS),
        (facts(&off), facts(&on), OPTIONS),
        (facts(&on), suppressed, OPTIONS),
        (facts(&on), facts(&on), without),
    ] {
        let choice = choose(&source, &target, &options).unwrap();

        let metadata = choice.metadata.unwrap();
        assert_eq!(
            (choice.settings, metadata.snapshot_enabled, metadata.vabc_enabled),
            (None, Some(true), Some(false))
        );
        assert_eq!((metadata.cow_version, metadata.vabc_compression_param), (None, None));
    }
    let android_11 = BuildFacts { sdk: Some(30), ..facts(&off) };
    assert!(choose(&android_11, &facts(&on), &OPTIONS).unwrap().verity);
    let android_11 = BuildFacts { sdk: Some(30), ..facts(&on) };
    assert!(!choose(&android_11, &facts(&on), &OPTIONS).unwrap().verity);
}

#[test]
fn versions_and_factors_can_be_asked_for() {
    let (old, new) = (metadata("lz4", 3), metadata("lz4", 3));
    let with = |version, factor| {
        choose(&facts(&old), &facts(&new), &Options { version: Some(version), factor: Some(factor), ..OPTIONS })
    };

    assert_eq!(with(3, 262_144).unwrap().settings.unwrap().factor, 262_144);
    assert_eq!(with(2, 4096).unwrap().settings.unwrap().version, 2);
    assert!(matches!(with(4, 4096), Err(DynamicError::Version { asked: 4, known: 3 })));
    assert!(matches!(with(1, 4096), Err(DynamicError::Version { asked: 1, known: 3 })));
    assert!(matches!(with(3, 12288), Err(DynamicError::Settings(_))));
}

#[test]
fn partitions_that_phones_would_delete_are_missed() {
    let metadata = metadata("gz", 2);
    let facts = facts(&metadata);

    let error = choose_of(&["system", "boot"], &facts, &facts, &OPTIONS).unwrap_err();

    assert!(matches!(error, DynamicError::Missing(names) if names == ["vendor"]));
    let partial = Options { partial: true, ..OPTIONS };
    let choice = choose_of(&["system"], &facts, &facts, &partial).unwrap();
    assert_eq!(choice.metadata.unwrap().groups[0].partition_names, ["system"]);
}

#[test]
fn partial_updates_need_what_phones_ask_of_them() {
    let metadata = metadata("gz", 2);
    let plain = DynamicPartitionMetadata { snapshot_enabled: None, ..metadata.clone() };
    let facts_of = facts(&metadata);
    let partial = Options { partial: true, ..OPTIONS };

    let old = choose_of(&["system"], &facts_of, &facts_of, &Options { minor: 6, ..partial }).unwrap_err();
    assert!(matches!(old, DynamicError::Partial { minor: 6, .. }));
    let plain = choose_of(&["system"], &facts(&plain), &facts(&plain), &partial).unwrap_err();
    assert!(matches!(plain, DynamicError::Partial { minor: 9, snapshots: "no snapshots" }));
    let none = choose_of(&["system"], &BuildFacts::default(), &BuildFacts::default(), &partial).unwrap_err();
    assert!(matches!(none, DynamicError::Partial { .. }));
    let version = choose_of(&["system", "boot"], &facts_of, &facts_of, &partial).unwrap();
    assert_eq!(version.warnings, [Warning::Versions(vec!["boot".to_owned()])]);
}

#[test]
fn groups_hold_what_is_in_them() {
    let old = metadata("gz", 2);
    let mut new = metadata("gz", 2);
    new.groups[0].size = Some((1 << 30) - 1);
    let small = choose(&facts(&old), &facts(&new), &OPTIONS).unwrap_err();
    assert!(matches!(small, DynamicError::GroupSize { group, .. } if group == "main"));

    let mut new = metadata("gz", 2);
    new.groups[0].partition_names.push("system".to_owned());
    assert!(matches!(choose(&facts(&old), &facts(&new), &OPTIONS), Err(DynamicError::Twice(name)) if name == "system"));

    let mut new = metadata("gz", 2);
    new.groups[0].partition_names.pop();
    let gone = choose(&facts(&old), &facts(&new), &OPTIONS).unwrap_err();
    assert!(matches!(gone, DynamicError::NoGroup(names) if names == ["vendor"]));
    let removed = choose_of(&["system"], &facts(&old), &facts(&new), &OPTIONS).unwrap();
    assert_eq!(removed.warnings, [Warning::Removed("vendor".to_owned())]);

    new.groups.clear();
    assert!(matches!(choose(&facts(&old), &facts(&new), &OPTIONS), Err(DynamicError::NoGroups)));
}

#[test]
fn builds_without_dynamic_partitions_are_told_nothing() {
    let choice = choose(&BuildFacts::default(), &BuildFacts::default(), &OPTIONS).unwrap();

    assert_eq!(choice, Choice { metadata: None, settings: None, verity: true, warnings: vec![] });
    let metadata = metadata("gz", 2);
    let unknown = choose(&BuildFacts::default(), &facts(&metadata), &OPTIONS).unwrap();
    assert_eq!(unknown.warnings, [Warning::Source]);
}

#[test]
fn partitions_in_groups_are_described() {
    let metadata = metadata("lz4", 3);
    let choice = choose(&facts(&metadata), &facts(&metadata), &OPTIONS).unwrap();
    let settings = choice.settings.unwrap();
    let mut build = mixed(&[(0, 3, 40, 7), (2, 9, 30, 8), (0, 60, 30, 0)]);
    assert!(choice.is_dynamic(&build.partition.name));
    assert!(!choice.is_dynamic(&PartitionName::parse("boot").unwrap()));

    dynamic::describe(&mut build.partition, &build.blobs, &build.old, &build.new, &settings).unwrap();

    assert!(!build.partition.merge_operations.is_empty());
    let op_count_max = build.partition.estimate_op_count_max.unwrap();
    let len = install(&build, Phone { settings, cluster: 0, op_count_max, stores_what_stays: false }).len() as u64;
    assert!(len <= build.partition.estimate_cow_size.unwrap() && len > 30 * BLOCK as u64);
    let other = dynamic::describe(&mut build.partition, &build.blobs, &build.new, &build.new, &settings);
    assert!(matches!(other, Err(SnapshotError::Merge(_))));
}
