//! What a manifest may say and what it may not.

use proptest::prelude::*;

use super::*;
use crate::{Button, ManifestProblem, RecoveryStart};

const LEAST: &str = "codename = \"ginkgo\"\nvendor = \"xiaomi\"\nkind = \"ab\"\n";

fn problems(more: &str) -> Vec<String> {
    let error = DeviceManifest::parse(&format!("{LEAST}{more}")).expect_err(more);
    error.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn reads_the_least_and_fills_in_the_rest() {
    let manifest = DeviceManifest::parse(LEAST).unwrap();

    assert_eq!(manifest.channels, [Channel::parse("stable").unwrap()]);
    assert_eq!(manifest.deltas, DeltaPolicy::BuildsBack(3));
    assert!(manifest.partitions.is_empty());
}

#[test]
fn names_the_nearest_key_and_the_line() {
    assert_eq!(problems("chanels = []"), ["line 4: unknown key chanels; did you mean channels?"]);
    assert_eq!(
        problems("[payload]\nminor_version = [8]\nminor_versions = [8]"),
        ["line 5: unknown key payload.minor_version; did you mean payload.minor_versions?"]
    );
    assert_eq!(
        problems("[deltas]\nzzz = 1"),
        ["line 5: unknown key deltas.zzz; known are builds_back, polled_within_days"]
    );
}

#[test]
fn says_all_that_is_wrong_at_once_in_the_order_of_the_file() {
    let text = "vendor = \"Xiaomi\"\nkind = 3\n[partitions]\nsystem = { size = 5 }\n";

    let error = DeviceManifest::parse(text).unwrap_err();

    assert_eq!(
        error.to_string(),
        "line 1: vendor must be a vendor's name, 1 to 32 of a-z 0-9 . _ - with a letter or a digit first; it is \
         \"Xiaomi\"\nline 2: kind must be a text of one line, at most 2000 characters; it is 3\nline 4: \
         partitions.system.size must be a size in whole blocks of 4096 bytes: 67108864 or \"64 MiB\"; it is \
         5\ncodename is missing; expected the device's codename"
    );
}

#[test]
fn refuses_groups_that_are_not_there_or_do_not_fit() {
    let dynamic = "[dynamic]\nsize = \"8 MiB\"\ngroups = { main = \"4 MiB\" }\n";
    assert_eq!(
        problems(&format!("{dynamic}[partitions]\nsystem = {{ group = \"mian\" }}")),
        ["line 8: partitions.system.group must be a group that [dynamic] lists (main); it is \"mian\""]
    );
    assert_eq!(
        problems("[dynamic]\nsize = \"8 MiB\"\ngroups = { a = \"4 MiB\", b = \"8 MiB\" }\n"),
        ["line 6: dynamic.groups must be groups that fit dynamic.size, 8388608 bytes, together; it is 12582912 \
          bytes"]
    );
}

#[test]
fn refuses_facts_of_update_engine_on_a_device_without_it() {
    let text = "codename = \"a\"\nvendor = \"b\"\nkind = \"block\"\n[payload]\nminor_versions = [8]\n";

    let error = DeviceManifest::parse(text).unwrap_err();

    assert_eq!(
        error.to_string(),
        "line 4: payload must be absent unless kind is \"ab\"; it is there, and kind is \"block\""
    );
}

#[test]
fn refuses_values_out_of_range() {
    for (text, key) in [
        ("[payload]\nminor_versions = [10]", "payload.minor_versions[0]"),
        ("[payload]\nminor_versions = []", "payload.minor_versions"),
        ("[virtual_ab]\ncompression = \"xz\"", "virtual_ab.compression"),
        ("[virtual_ab]\ncompression = \"gz\"\ncow_version = 1", "virtual_ab.cow_version"),
        ("[deltas]\nbuilds_back = -1", "deltas.builds_back"),
        ("[deltas]\nbuilds_back = 1\npolled_within_days = 1", "deltas.polled_within_days"),
        ("[unlock]\nlink = \"javascript:1\"", "unlock.link"),
        ("[unlock]\nguides = [\"Mi-Unlock\"]", "unlock.guides[0]"),
        ("[install]\nguides = [\"fastboot-\"]", "install.guides[0]"),
        ("[unlock]\ncommand = \"\"", "unlock.command"),
        ("[hardware]\narchitecture = \"mips\"", "hardware.architecture"),
        ("[hardware]\nram_gb = [0]", "hardware.ram_gb[0]"),
        ("[hardware]\nreleased = 2019", "hardware.released"),
        ("[hardware]\nreleased = \"2019-13\"", "hardware.released"),
        ("[hardware]\nreleased = \"2019-1\"", "hardware.released"),
        ("[hardware]\nreleased = \"2019-01-01-01\"", "hardware.released"),
        ("[links]\nwiki = \"https://a b\"", "links.wiki"),
        ("[firmware]\nandroid = [\"12\"]", "firmware.android[0]"),
        ("[firmware]\nshipped = \"yes\"", "firmware.shipped"),
        ("[buttons]\nbootloader = [\"power\", \"volume\"]", "buttons.bootloader[1]"),
        ("[recovery]\npartition = \"../boot\"", "recovery.partition"),
        ("[recovery]\npartition = \"boot\"\nflash_first = [\"\"]", "recovery.flash_first[0]"),
        ("[recovery]\npartition = \"boot\"\nstart = \"key\"", "recovery.start"),
        ("[[variants]]\nname = \"A\"\nmodels = [1]", "variants[0].models[0]"),
        ("variants = [{ name = \"A\", codename = \"a b\" }]", "variants[0].codename"),
        ("[[variants]]\nname = \"A\"\nreleased = \"soon\"", "variants[0].released"),
        ("[unlock.steps]\nEnglish = [\"a\"]", "unlock.steps.English"),
        ("[build]\ncommand = []\noutput = \"x\"", "build.command"),
        ("[build]\ncommand = [\"x\"]\noutput = \"../x\"", "build.output"),
        ("[build]\ncommand = [\"x\"]\noutput = \"x\"\nenvironment = { \"A B\" = \"\" }", "build.environment.A B"),
        ("channels = []", "channels"),
        ("channels = [\"a\", \"a\"]", "channels[1]"),
        ("names = [\"a\\nb\"]", "names[0]"),
        ("[partitions]\n\"../x\" = {}", "partitions.../x"),
        ("dynamic = 1", "dynamic"),
    ] {
        let error = DeviceManifest::parse(&format!("{LEAST}{text}")).expect_err(text);

        assert_eq!(error.problems.len(), 1, "{text}: {error}");
        assert!(matches!(&error.problems[0], ManifestProblem::Value { key: k, .. } if k == key), "{text}: {error}");
    }
}

#[test]
fn says_where_the_toml_breaks() {
    assert!(matches!(
        DeviceManifest::parse("a = 1\nb = ").unwrap_err().problems[..],
        [ManifestProblem::Syntax { line: 2, .. }]
    ));
    assert!(matches!(
        DeviceManifest::parse(&" ".repeat(200_000)).unwrap_err().problems[..],
        [ManifestProblem::TooLong { .. }]
    ));
}

fn full() -> DeviceManifest {
    DeviceManifest::parse(
        r#"
        codename = "alioth"
        vendor = "xiaomi"
        kind = "ab"
        names = ["POCO F3", "Redmi \"K40\""]
        models = ["M2012K11AG"]
        aliases = ["aliothin"]
        channels = ["stable", "nightly"]
        [partitions]
        boot = { size = "192 MiB" }
        system = { group = "qti" }
        "vendor.x" = {}
        [dynamic]
        size = 9126805504
        groups = { qti = 9122611200, "a.b" = 4096 }
        [virtual_ab]
        compression = "lz4"
        cow_version = 3
        sdk = 34
        [payload]
        minor_versions = [8, 9]
        [hardware]
        soc = "Qualcomm SM8250-AC Snapdragon 870"
        architecture = "x86_64"
        ram_gb = [6, 8]
        storage_gb = [128]
        released = "2021-03"
        [links]
        wiki = "https://example.org/alioth"
        source = "https://example.org/tree"
        kernel = "https://example.org/kernel"
        [firmware]
        android = [13, 14]
        shipped = false
        [buttons]
        bootloader = ["volume-down", "power"]
        recovery = ["volume-up", "bixby", "home", "cable"]
        [recovery]
        partition = "vendor_boot"
        flash_first = ["boot", "dtbo"]
        start = "reboot"
        [unlock]
        guides = ["before", "mi-unlock"]
        command = "fastboot flashing unlock"
        link = "https://example.org/"
        [install.steps]
        en = ["One.", "Two."]
        pt-BR = ["Um."]
        [deltas]
        polled_within_days = 30
        [build]
        command = ["bash", "-c", "brunch alioth"]
        directory = "/srv/lineage"
        environment = { WITH_GMS = "false", EMPTY = "" }
        output = "out/target/product/alioth/lineage-*.zip"
        [[variants]]
        name = "Mi 11X"
        codename = "aliothin"
        models = ["M2012K11AI"]
        markets = ["India"]
        released = "2021-04-23"
        link = "https://example.org/11x"
        [[variants]]
        name = "POCO F3"
        "#,
    )
    .unwrap()
}

#[test]
fn variants_add_to_names_models_and_codenames() {
    let manifest = full();

    assert_eq!(manifest.names, ["POCO F3", "Redmi \"K40\"", "Mi 11X"]);
    assert_eq!(manifest.models, ["M2012K11AG", "M2012K11AI"]);
    assert_eq!(manifest.aliases, [Codename::parse("aliothin").unwrap()]);
    assert_eq!(
        problems("[[variants]]\nmodels = []"),
        ["variants[0].name is missing; expected the name that it was sold under"]
    );
    let own = DeviceManifest::parse(&format!("{LEAST}[[variants]]\nname = \"A\"\ncodename = \"ginkgo\"")).unwrap();
    assert!(own.aliases.is_empty(), "a device is no other name of itself");
}

#[test]
fn reads_how_people_get_into_a_device() {
    let manifest = full();

    assert_eq!(manifest.buttons.bootloader, [Button::VolumeDown, Button::Power]);
    assert_eq!(manifest.recovery.unwrap().start, Some(RecoveryStart::Reboot));
    assert_eq!(
        problems("[buttons]\nrecovery = [\"vol-up\"]"),
        [
            "line 5: buttons.recovery[0] must be one of power, volume-up, volume-down, home, bixby, cable; it is \"vol-up\""
        ]
    );
    assert_eq!(
        problems("[recovery]\nstart = \"menu\""),
        ["recovery.partition is missing; expected the partition that the recovery lies in"]
    );
}

#[test]
fn what_is_written_is_read_back_as_the_same() {
    let manifest = full();

    assert_eq!(DeviceManifest::parse(&manifest.to_toml()), Ok(manifest));
}

#[test]
fn damage_is_an_error_or_another_manifest_but_never_a_panic() {
    let text = full().to_toml();

    for end in 0..text.len() {
        if text.is_char_boundary(end) {
            let _ = DeviceManifest::parse(&text[..end]);
        }
    }
    for position in 0..text.len() {
        for byte in [b'"', b'[', b'\n', b'=', b'9', b'x'] {
            let mut bytes = text.clone().into_bytes();
            bytes[position] = byte;
            if let Ok(text) = String::from_utf8(bytes)
                && let Ok(manifest) = DeviceManifest::parse(&text)
            {
                assert_eq!(DeviceManifest::parse(&manifest.to_toml()), Ok(manifest));
            }
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in "\\PC{0,200}") {
        let _ = DeviceManifest::parse(&text);
    }

    #[test]
    fn names_of_all_scripts_survive(names in prop::collection::vec("\\PC{1,40}", 0..4)) {
        let mut manifest = full();
        // Theirs would be added.
        manifest.variants.clear();
        manifest.names = names;
        prop_assert_eq!(DeviceManifest::parse(&manifest.to_toml()), Ok(manifest));
    }
}
