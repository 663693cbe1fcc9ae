//! Looks for what contradicts itself in device manifests, and between those of a directory.
//!
//! None of it stops a manifest from being used: each rule holds for all devices that we know of, and not for all that
//! can be built.

use std::collections::BTreeMap;

use crate::{
    ByteLen, DeviceManifest, InstallKind, PartitionName,
    device::{Compression, DynamicPartitions, Guide},
    device_people::Variant,
    guide,
    manifest_reader::ManifestProblem,
};

/// Partitions with a file system of Android's, which are in `super` where there is one.
///
/// # Source
/// AOSP `build/tools/releasetools/common.py`, `AB_PARTITIONS` and `PARTITIONS_WITH_CARE_MAP`, without `vbmeta` and `boot`.
const IN_SUPER: [&str; 8] =
    ["odm", "odm_dlkm", "product", "system", "system_dlkm", "system_ext", "vendor", "vendor_dlkm"];

/// Partitions that the bootloader reads, which knows nothing of `super`.
const OF_BOOTLOADER: [&str; 10] = [
    "boot",
    "dtbo",
    "init_boot",
    "pvmfw",
    "recovery",
    "vbmeta",
    "vbmeta_system",
    "vbmeta_vendor",
    "vendor_boot",
    "vendor_kernel_boot",
];

/// Partitions with a device's or its owner's own data, which no build may bring.
const OWN: [&str; 11] =
    ["cache", "efs", "frp", "metadata", "misc", "modemst1", "modemst2", "nvdata", "persist", "super", "userdata"];

/// A manifest that was read, and what contradicts itself in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// The manifest.
    pub manifest: DeviceManifest,
    /// What contradicts itself, in the order of the file.
    pub contradictions: Vec<ManifestProblem>,
    /// Line of each key and entry of a list, by its path.
    lines: BTreeMap<String, usize>,
}

impl Examined {
    pub(crate) fn new(manifest: DeviceManifest, lines: BTreeMap<String, usize>) -> Self {
        let mut examined = Self { manifest, contradictions: Vec::new(), lines };
        let mut check = Check { examined: &examined, found: Vec::new() };
        check.words();
        check.partitions();
        if let Some(dynamic) = &examined.manifest.dynamic {
            check.dynamic(dynamic);
        }
        check.virtual_ab();
        check.recovery();
        check.guides("unlock", &examined.manifest.unlock);
        check.guides("install", &examined.manifest.install);
        let mut found = check.found;
        found.sort_by_key(ManifestProblem::order);
        examined.contradictions = found;
        examined
    }

    fn problem(&self, key: String, expected: impl Into<String>, actual: impl Into<String>) -> ManifestProblem {
        let line = self.lines.get(&key).copied().unwrap_or(0);
        ManifestProblem::Value { key, line, expected: expected.into(), actual: actual.into() }
    }

    /// Codenames and models by which a phone or its owner finds this device, with their keys.
    fn claims(&self) -> impl Iterator<Item = (String, Claim<'_>)> {
        let manifest = &self.manifest;
        let codename = [("codename".to_owned(), Claim::Codename(manifest.codename.as_str()))];
        let aliases = manifest.aliases.iter().enumerate().map(|(index, alias)| {
            let own = |variant: &Variant| variant.codename.as_ref() == Some(alias);
            (self.key("aliases", index, own, "codename"), Claim::Codename(alias.as_str()))
        });
        let models = manifest.models.iter().enumerate().map(|(index, model)| {
            let own = |variant: &Variant| variant.models.contains(model);
            (self.key("models", index, own, "models"), Claim::Model(model))
        });
        codename.into_iter().chain(aliases).chain(models)
    }

    /// Where an entry of a list stands that variants add to.
    fn key(&self, list: &str, index: usize, own: impl Fn(&Variant) -> bool, field: &str) -> String {
        let key = format!("{list}[{index}]");
        let of_variant = || Some(format!("variants[{}].{field}", self.manifest.variants.iter().position(own)?));
        if self.lines.contains_key(&key) { key } else { of_variant().unwrap_or(key) }
    }
}

/// What only one device can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Claim<'m> {
    Codename(&'m str),
    Model(&'m str),
}

/// What two manifests claim both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clash {
    /// Which of the manifests the problem stands in.
    pub index: usize,
    /// What it is, with key and line.
    pub problem: ManifestProblem,
}

/// Codenames and models that several manifests claim; each is reported in all but the first. `names` are those of the
/// files, for the messages.
pub fn clashes(manifests: &[(&str, &Examined)]) -> Vec<Clash> {
    let mut first: BTreeMap<Claim<'_>, (usize, &str)> = BTreeMap::new();
    let mut clashes = Vec::new();
    for (index, (name, examined)) in manifests.iter().enumerate() {
        for (key, claim) in examined.claims() {
            let &mut (other, file) = first.entry(claim).or_insert((index, name));
            if other != index {
                let (what, text) = match claim {
                    Claim::Codename(text) => ("codename", text),
                    Claim::Model(text) => ("model", text),
                };
                let problem = examined.problem(
                    key,
                    format!("a {what} of one manifest alone"),
                    format!("{text:?}, which {file} has too"),
                );
                clashes.push(Clash { index, problem });
            }
        }
    }
    clashes
}

struct Check<'e> {
    examined: &'e Examined,
    found: Vec<ManifestProblem>,
}

impl Check<'_> {
    fn add(&mut self, key: String, expected: impl Into<String>, actual: impl Into<String>) {
        self.found.push(self.examined.problem(key, expected, actual));
    }

    /// Names, models and codenames that are given twice.
    fn words(&mut self) {
        let manifest = &self.examined.manifest;
        self.twice("names", "name", &manifest.names);
        self.twice("models", "model", &manifest.models);
        let aliases: Vec<_> = manifest.aliases.iter().map(ToString::to_string).collect();
        self.twice("aliases", "codename", &aliases);
        if let Some(index) = manifest.aliases.iter().position(|alias| *alias == manifest.codename) {
            self.add(
                format!("aliases[{index}]"),
                "another codename than the device's own",
                format!("{:?}", aliases[index]),
            );
        }
        for (index, variant) in manifest.variants.iter().enumerate() {
            let earlier = &manifest.variants[..index];
            // Makers sell several phones under one name: each has its own codename, or its own markets.
            let same = |other: &Variant| {
                other.name.eq_ignore_ascii_case(&variant.name)
                    && other.codename == variant.codename
                    && other.markets == variant.markets
            };
            if earlier.iter().any(same) {
                let expected = "of a variant that differs in name, codename or markets from the others";
                self.add(format!("variants[{index}].name"), expected, format!("{:?}", variant.name));
            }
            for model in variant.models.iter().filter(|model| earlier.iter().any(|other| other.models.contains(model)))
            {
                let key = format!("variants[{index}].models");
                self.add(key, "models that no other variant has", format!("with {model:?}"));
            }
        }
    }

    fn twice(&mut self, list: &str, what: &str, texts: &[String]) {
        for (index, text) in texts.iter().enumerate() {
            let given = self.examined.lines.contains_key(&format!("{list}[{index}]"));
            // What variants add is looked at there.
            if given && texts[..index].iter().any(|other| other.eq_ignore_ascii_case(text)) {
                self.add(format!("{list}[{index}]"), format!("a {what} that is not yet listed"), format!("{text:?}"));
            }
        }
    }

    fn partitions(&mut self) {
        let manifest = &self.examined.manifest;
        if manifest.kind == InstallKind::Native {
            return;
        }
        for (name, partition) in &manifest.partitions {
            let key = format!("partitions.{name}");
            if OWN.contains(&name.as_str()) {
                self.add(
                    key.clone(),
                    "a partition that builds bring",
                    format!("{name}, which holds data of the phone's own"),
                );
            }
            if manifest.kind == InstallKind::Ab
                && let Some(plain) = name.as_str().strip_suffix("_a").or_else(|| name.as_str().strip_suffix("_b"))
            {
                self.add(key.clone(), format!("a name without its slot, {plain}"), name.as_str());
            }
            if let Some(group) = &partition.group
                && OF_BOOTLOADER.contains(&name.as_str())
            {
                let key = format!("{key}.group");
                self.add(
                    key,
                    "absent: the bootloader reads this partition, and nothing in super",
                    format!("{group:?}"),
                );
            }
        }
    }

    fn dynamic(&mut self, dynamic: &DynamicPartitions) {
        let manifest = &self.examined.manifest;
        let grouped = |name: &str| {
            let name = PartitionName::parse(name).ok();
            name.and_then(|name| manifest.partitions.get(&name)).map(|partition| partition.group.is_some())
        };
        for name in IN_SUPER {
            if grouped(name) == Some(false) {
                let groups: Vec<_> = dynamic.groups.keys().map(String::as_str).collect();
                let expected =
                    format!("in a group ({}), for [dynamic] says that there is a super partition", groups.join(", "));
                self.add(format!("partitions.{name}"), expected, "in none");
            }
        }
        if manifest.partitions.is_empty() {
            return;
        }
        for (group, &most) in &dynamic.groups {
            let members = || manifest.partitions.values().filter(|partition| partition.group.as_ref() == Some(group));
            let key = format!("dynamic.groups.{group}");
            if members().next().is_none() {
                self.add(key.clone(), "the group of a partition of [partitions]", "that of none");
            }
            let sum = members().filter_map(|partition| partition.size).try_fold(ByteLen::ZERO, ByteLen::checked_add);
            if sum.is_none_or(|sum| sum > most) {
                let actual = sum.map_or("over 2^64 bytes".to_owned(), |sum| sum.to_string());
                self.add(key, format!("partitions that fit it, {most}, together"), actual);
            }
        }
    }

    fn virtual_ab(&mut self) {
        let manifest = &self.examined.manifest;
        let Some(facts) = &manifest.virtual_ab else { return };
        if manifest.dynamic.is_none() {
            let expected = "absent without [dynamic]: snapshots are made of dynamic partitions";
            self.add("virtual_ab".to_owned(), expected, "there");
        }
        match (facts.compression, facts.cow_version) {
            (Compression::None, Some(version)) => {
                let expected = "absent with compression = \"none\": the kernel's snapshots have no format of their own";
                self.add("virtual_ab.cow_version".to_owned(), expected, version.to_string());
            }
            (Compression::None, None) | (_, Some(_)) => {}
            (_, None) => {
                let key = "virtual_ab.compression".to_owned();
                self.add(key, "given together with virtual_ab.cow_version", "given alone");
            }
        }
        // VABC came with update_engine 12, whose payloads are of minor version 7.
        if let Some(payload) = manifest.payload.as_ref().filter(|_| facts.compression != Compression::None)
            && let Some(index) = payload.minor_versions.iter().position(|&minor| minor < 7)
        {
            let key = format!("payload.minor_versions[{index}]");
            self.add(key, "at least 7 where snapshots are compressed", payload.minor_versions[index].to_string());
        }
    }

    /// Guides are there, and are told all that they name.
    fn guides(&mut self, key: &str, guide: &Guide) {
        let manifest = &self.examined.manifest;
        for (index, id) in guide.guides.iter().enumerate() {
            let key = format!("{key}.guides[{index}]");
            match guide::builtin(id) {
                None => {
                    let known: Vec<_> = guide::all().iter().map(|guide| guide.id.as_str()).collect();
                    self.add(key, format!("one of {}", known.join(", ")), format!("{id:?}"));
                }
                Some(guide) => {
                    for name in guide.missing(manifest) {
                        let actual = format!("{id:?}, which names {name}, and this manifest does not");
                        self.add(key.clone(), "a guide that has all its facts", actual);
                    }
                }
            }
        }
    }

    /// Where a recovery can be: devices without slots have a partition for it, which updates of Android leave alone;
    /// on those with slots it is part of what an update brings.
    fn recovery(&mut self) {
        let manifest = &self.examined.manifest;
        let Some(recovery) = &manifest.recovery else { return };
        let key = || "recovery.partition".to_owned();
        let name = recovery.partition.as_str();
        match manifest.kind {
            InstallKind::Block if name != "recovery" => {
                let expected = "recovery on a device without slots: none can install its own update";
                self.add(key(), expected, format!("{name:?}"));
            }
            InstallKind::Ab
                if !manifest.partitions.is_empty() && !manifest.partitions.contains_key(&recovery.partition) =>
            {
                let expected = "among [partitions], for kind is \"ab\" and updates bring the recovery";
                self.add(key(), expected, format!("{name:?}, which is not"));
            }
            _ => {}
        }
        for (index, first) in recovery.flash_first.iter().enumerate() {
            let key = || format!("recovery.flash_first[{index}]");
            if *first == recovery.partition {
                self.add(key(), "another partition than the recovery's own", format!("{:?}", first.as_str()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AB: &str = r#"codename = "alioth"
vendor = "xiaomi"
kind = "ab"
[partitions]
boot = {}
system = { group = "main" }
vendor = { group = "main" }
[dynamic]
size = "1 GiB"
groups = { main = "1020 MiB" }
[virtual_ab]
compression = "none"
[recovery]
partition = "boot"
"#;

    fn examine(text: &str) -> Examined {
        DeviceManifest::examine(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    /// What is found after `from` was replaced by `to`.
    fn found(from: &str, to: &str) -> Vec<String> {
        assert!(AB.contains(from), "{from}");
        examine(&AB.replace(from, to)).contradictions.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn finds_nothing_in_a_manifest_that_holds_together() {
        assert_eq!(found("alioth", "alioth"), [""; 0]);
    }

    #[test]
    fn dynamic_partitions_and_groups_belong_together() {
        assert_eq!(
            found("vendor = { group = \"main\" }", "vendor = {}"),
            [
                "line 7: partitions.vendor must be in a group (main), for [dynamic] says that there is a super partition; \
              it is in none"
            ]
        );
        assert_eq!(
            found("groups = { main = \"1020 MiB\" }", "groups = { main = \"1000 MiB\", other = \"4 MiB\" }"),
            ["line 10: dynamic.groups.other must be the group of a partition of [partitions]; it is that of none"]
        );
        assert_eq!(
            found("system = { group", "system = { size = \"1021 MiB\", group"),
            [
                "line 10: dynamic.groups.main must be partitions that fit it, 1069547520 bytes, together; it is 1070596096 bytes"
            ]
        );
        assert_eq!(
            found("boot = {}", "boot = { group = \"main\" }"),
            [
                "line 5: partitions.boot.group must be absent: the bootloader reads this partition, and nothing in super; it \
              is \"main\""
            ]
        );
    }

    #[test]
    fn virtual_ab_needs_dynamic_partitions_and_a_format() {
        let bare =
            "codename = \"a\"\nvendor = \"b\"\nkind = \"ab\"\n[virtual_ab]\ncompression = \"gz\"\ncow_version = 2\n";
        let text: Vec<_> = examine(bare).contradictions.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "line 4: virtual_ab must be absent without [dynamic]: snapshots are made of dynamic partitions; it is there"
            ]
        );
        assert_eq!(
            found("\"none\"", "\"lz4\""),
            ["line 12: virtual_ab.compression must be given together with virtual_ab.cow_version; it is given alone"]
        );
        assert_eq!(
            found("\"none\"", "\"none\"\ncow_version = 2"),
            [
                "line 13: virtual_ab.cow_version must be absent with compression = \"none\": the kernel's snapshots have no \
              format of their own; it is 2"
            ]
        );
        assert_eq!(
            found("\"none\"", "\"gz\"\ncow_version = 2\n[payload]\nminor_versions = [8, 6]"),
            ["line 15: payload.minor_versions[1] must be at least 7 where snapshots are compressed; it is 6"]
        );
    }

    #[test]
    fn a_recovery_lies_where_its_kind_of_device_has_it() {
        assert_eq!(
            found("partition = \"boot\"", "partition = \"recovery\""),
            [
                "line 14: recovery.partition must be among [partitions], for kind is \"ab\" and updates bring the recovery; \
              it is \"recovery\", which is not"
            ]
        );
        let block = "codename = \"a\"\nvendor = \"b\"\nkind = \"block\"\n[recovery]\npartition = \"boot\"\nflash_first = [\"boot\"]\n";
        let text: Vec<_> = examine(block).contradictions.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "line 5: recovery.partition must be recovery on a device without slots: none can install its own update; it \
                 is \"boot\"",
                "line 6: recovery.flash_first[0] must be another partition than the recovery's own; it is \"boot\""
            ]
        );
    }

    #[test]
    fn guides_are_there_and_have_their_facts() {
        assert_eq!(
            found("partition = \"boot\"", "partition = \"boot\"\n[install]\nguides = [\"recovery-fastboot\"]"),
            [
                "line 16: install.guides[0] must be a guide that has all its facts; it is \"recovery-fastboot\", which names \
              bootloader-buttons, and this manifest does not"
            ]
        );
        let unknown = found("partition = \"boot\"", "partition = \"boot\"\n[unlock]\nguides = [\"mi-unlock\"]");
        assert!(
            unknown[0].starts_with("line 16: unlock.guides[0] must be one of first-install, prepare, ")
                && unknown[0].ends_with("; it is \"mi-unlock\""),
            "{unknown:?}"
        );
    }

    #[test]
    fn builds_bring_neither_data_nor_single_slots() {
        assert_eq!(
            found("boot = {}", "boot = {}\nuserdata = {}\nvbmeta_a = {}"),
            [
                "line 6: partitions.userdata must be a partition that builds bring; it is userdata, which holds data of the \
                 phone's own",
                "line 7: partitions.vbmeta_a must be a name without its slot, vbmeta; it is vbmeta_a"
            ]
        );
    }

    #[test]
    fn finds_what_is_said_twice() {
        let more = "names = [\"POCO F3\", \"Poco F3\"]\nmodels = [\"1\", \"1\"]\naliases = [\"alioth\", \"b\", \"b\"]\n\
                    variants = [{ name = \"A\", models = [\"2\"] }, { name = \"a\", models = [\"2\"] }]\n[partitions]";
        let text = examine(&AB.replace("[partitions]", more)).contradictions;
        let key = |problem: &ManifestProblem| match problem {
            ManifestProblem::Value { key, line, .. } => (key.clone(), *line),
            other => panic!("{other}"),
        };
        let keys: Vec<_> = text.iter().map(key).collect();
        let expected = [
            ("names[1]", 4),
            ("models[1]", 5),
            ("aliases[2]", 6),
            ("aliases[0]", 6),
            ("variants[1].name", 7),
            ("variants[1].models", 7),
        ];
        assert_eq!(keys, expected.map(|(key, line)| (key.to_owned(), line)));
    }

    #[test]
    fn one_device_has_a_model_or_a_codename() {
        let text = |codename: &str, more: &str| {
            examine(&format!("codename = \"{codename}\"\nvendor = \"xiaomi\"\nkind = \"ab\"\n{more}"))
        };
        let first = text("alioth", "models = [\"M2012K11AG\"]\naliases = [\"aliothin\"]");
        let second = text("munch", "[[variants]]\nname = \"x\"\ncodename = \"aliothin\"\nmodels = [\"M2012K11AG\"]");
        let third = text("aliothin", "");

        let found = clashes(&[("alioth.toml", &first), ("munch.toml", &second), ("aliothin.toml", &third)]);

        let found: Vec<_> = found.iter().map(|clash| (clash.index, clash.problem.to_string())).collect();
        let expected = [
            (
                1,
                "line 6: variants[0].codename must be a codename of one manifest alone; it is \"aliothin\", which alioth.toml has too",
            ),
            (
                1,
                "line 7: variants[0].models must be a model of one manifest alone; it is \"M2012K11AG\", which alioth.toml has too",
            ),
            (
                2,
                "line 1: codename must be a codename of one manifest alone; it is \"aliothin\", which alioth.toml has too",
            ),
        ];
        assert_eq!(found, expected.map(|(index, text)| (index, text.to_owned())));
    }
}
