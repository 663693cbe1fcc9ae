//! Reads a device manifest.

mod people;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use toml::de::DeTable;

use crate::{
    ByteLen, Channel, Codename, InstallKind, PartitionName, Vendor,
    device::{
        BuildRecipe, Compression, DeltaPolicy, DeviceManifest, DevicePartition, DynamicPartitions, PayloadFacts,
        VirtualAb,
    },
    device_check::Examined,
    manifest_reader::{At, ManifestError, Reader, get, read, shorten},
};

impl DeviceManifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// [`ManifestError`] with every problem that was found: unknown keys with the nearest known one, missing keys, and
    /// values with what was expected and what is there.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        Ok(read(text, Reader::manifest)?.value)
    }

    /// Reads a manifest, and looks for what contradicts itself in it.
    ///
    /// # Errors
    /// As of [`DeviceManifest::parse`]; contradictions are no errors, they are part of the answer.
    pub fn examine(text: &str) -> Result<Examined, ManifestError> {
        let read = read(text, Reader::manifest)?;
        Ok(Examined::new(read.value, read.lines))
    }
}

const KEYS: &[&str] = &[
    "codename",
    "vendor",
    "kind",
    "names",
    "models",
    "aliases",
    "channels",
    "partitions",
    "dynamic",
    "virtual_ab",
    "payload",
    "hardware",
    "links",
    "firmware",
    "buttons",
    "recovery",
    "unlock",
    "install",
    "deltas",
    "build",
    "variants",
];

const PARTITION: &str = "a partition's name, 1 to 36 of A-Z a-z 0-9 . _ - + with a letter or a digit first";

impl Reader {
    fn manifest(&mut self, table: &DeTable<'_>) -> Option<DeviceManifest> {
        self.unknown_keys("", table, KEYS);
        let codename = self.required(table, "codename", "the device's codename").and_then(|at| self.codename(&at));
        let vendor = self.required(table, "vendor", "who made the device, in lower case").and_then(|at| {
            let text = self.text(&at)?;
            let expected = "a vendor's name, 1 to 32 of a-z 0-9 . _ - with a letter or a digit first";
            Vendor::parse(&text).map_err(|_| self.value(&at, expected)).ok()
        });
        let kind = self.required(table, "kind", "one of ab, block and native").and_then(|at| {
            let text = self.text(&at)?;
            text.parse::<InstallKind>().map_err(|_| self.value(&at, "one of ab, block and native")).ok()
        });
        let mut names = self.texts(table, "", "names");
        let mut models = self.texts(table, "", "models");
        let mut aliases = match get(table, "", "aliases") {
            Some(at) => self.list(&at).iter().filter_map(|at| self.codename(at)).collect(),
            None => Vec::new(),
        };
        let channels = get(table, "", "channels").map(|at| self.channels(&at));
        let partitions = self.partitions(table);
        let dynamic = get(table, "", "dynamic").and_then(|at| self.dynamic(&at));
        let virtual_ab = get(table, "", "virtual_ab").and_then(|at| self.virtual_ab(&at));
        let payload = get(table, "", "payload").and_then(|at| self.payload(&at));
        let unlock = self.guide(table, "unlock");
        let install = self.guide(table, "install");
        let deltas = match get(table, "", "deltas") {
            Some(at) => self.deltas(&at),
            None => DeltaPolicy::default(),
        };
        let build = get(table, "", "build").and_then(|at| self.build(&at));
        let hardware = self.hardware(table);
        let links = self.links(table);
        let firmware = self.firmware(table);
        let buttons = self.buttons(table);
        let recovery = get(table, "", "recovery").and_then(|at| self.recovery(&at));
        let variants = get(table, "", "variants").map(|at| self.variants(&at)).unwrap_or_default();
        for variant in &variants {
            add(&mut names, &variant.name);
            variant.models.iter().for_each(|model| add(&mut models, model));
            if let Some(own) = variant.codename.as_ref().filter(|&own| codename.as_ref() != Some(own)) {
                add(&mut aliases, own);
            }
        }

        if let Some(kind) = kind.filter(|&kind| kind != InstallKind::Ab) {
            for key in ["virtual_ab", "payload"] {
                if let Some(at) = get(table, "", key) {
                    let actual = format!("there, and kind is {kind:?}", kind = kind.to_string());
                    self.problem(&at, "absent unless kind is \"ab\"".to_owned(), actual);
                }
            }
        }
        self.groups(table, &partitions, dynamic.as_ref());

        let mut manifest = DeviceManifest::new(codename?, vendor?, kind?);
        if let Some(channels) = channels {
            manifest.channels = channels;
        }
        Some(DeviceManifest {
            names,
            models,
            aliases,
            partitions,
            dynamic,
            virtual_ab,
            payload,
            hardware,
            links,
            firmware,
            buttons,
            recovery,
            unlock,
            install,
            deltas,
            build,
            variants,
            ..manifest
        })
    }

    fn channels(&mut self, at: &At<'_>) -> Vec<Channel> {
        let items = self.list(at);
        let mut channels = Vec::new();
        for item in &items {
            let Some(text) = self.text(item) else { continue };
            match Channel::parse(&text) {
                Ok(channel) if channels.contains(&channel) => self.value(item, "a channel that is not yet listed"),
                Ok(channel) => channels.push(channel),
                Err(_) => self.value(item, "a channel's name, 1 to 24 of a-z 0-9 . _ - with a letter or a digit first"),
            }
        }
        if items.is_empty() {
            self.value(at, "a list of at least one channel");
        }
        channels
    }

    fn partitions(&mut self, table: &DeTable<'_>) -> BTreeMap<PartitionName, DevicePartition> {
        let mut partitions = BTreeMap::new();
        let Some(at) = get(table, "", "partitions") else { return partitions };
        for (name, entry) in self.entries(&at) {
            let Ok(name) = PartitionName::parse(name) else {
                let actual = format!("{:?}", shorten(name));
                self.problem(&entry, format!("keyed by {PARTITION}"), actual);
                continue;
            };
            let Some(table) = self.table(&entry) else { continue };
            self.unknown_keys(&entry.key, table, &["size", "group"]);
            let size = get(table, &entry.key, "size").and_then(|at| self.size(&at));
            let group = get(table, &entry.key, "group").and_then(|at| self.text(&at));
            partitions.insert(name, DevicePartition { size, group });
        }
        partitions
    }

    fn dynamic(&mut self, at: &At<'_>) -> Option<DynamicPartitions> {
        let table = self.table(at)?;
        self.unknown_keys(&at.key, table, &["size", "groups"]);
        let size = self.required_in(table, &at.key, "size", "the size of the super partition");
        let size = size.and_then(|at| self.size(&at));
        let mut groups = BTreeMap::new();
        if let Some(at) = get(table, &at.key, "groups") {
            for (name, entry) in self.entries(&at) {
                if let Some(size) = self.size(&entry) {
                    groups.insert(name.to_owned(), size);
                }
            }
            let sum = groups.values().try_fold(ByteLen::ZERO, |sum, &size| sum.checked_add(size));
            if let Some(size) = size
                && sum.is_none_or(|sum| sum > size)
            {
                let actual = sum.map_or("over 2^64 bytes".to_owned(), |sum| sum.to_string());
                self.problem(&at, format!("groups that fit dynamic.size, {size}, together"), actual);
            }
        }
        Some(DynamicPartitions { size: size?, groups })
    }

    /// Every partition's group must be one of `dynamic.groups`.
    fn groups(
        &mut self,
        table: &DeTable<'_>,
        partitions: &BTreeMap<PartitionName, DevicePartition>,
        dynamic: Option<&DynamicPartitions>,
    ) {
        for (name, partition) in partitions {
            let Some(group) = &partition.group else { continue };
            if dynamic.is_some_and(|dynamic| dynamic.groups.contains_key(group)) {
                continue;
            }
            let groups = dynamic.map(|dynamic| dynamic.groups.keys().cloned().collect::<Vec<_>>().join(", "));
            let expected = match groups.filter(|groups| !groups.is_empty()) {
                Some(groups) => format!("a group that [dynamic] lists ({groups})"),
                None => "a group that [dynamic] lists, and there is none".to_owned(),
            };
            let at = get(table, "", "partitions")
                .and_then(|at| get(at.value.get_ref().as_table()?, "partitions", name.as_str()))
                .and_then(|at| {
                    let key = at.key.clone();
                    get(at.value.get_ref().as_table()?, &key, "group")
                });
            if let Some(at) = at {
                self.problem(&at, expected, format!("{group:?}"));
            }
        }
    }

    fn virtual_ab(&mut self, at: &At<'_>) -> Option<VirtualAb> {
        let table = self.table(at)?;
        self.unknown_keys(&at.key, table, &["compression", "cow_version", "sdk"]);
        let expected = "one of none, gz, brotli, lz4, zstd";
        let compression = self.required_in(table, &at.key, "compression", expected);
        let compression = compression.and_then(|at| self.choice(&at, &Compression::ALL));
        let cow_version = get(table, &at.key, "cow_version").and_then(|at| self.number(&at, 2, 3));
        let cow_version = cow_version.and_then(|version| u8::try_from(version).ok());
        let sdk = get(table, &at.key, "sdk").and_then(|at| self.number(&at, 30, 1_000));
        Some(VirtualAb { compression: compression?, cow_version, sdk })
    }

    fn payload(&mut self, at: &At<'_>) -> Option<PayloadFacts> {
        let table = self.table(at)?;
        self.unknown_keys(&at.key, table, &["minor_versions"]);
        let at = self.required_in(table, &at.key, "minor_versions", "a list of numbers from 2 to 9")?;
        let items = self.list(&at);
        let minor_versions: Vec<_> = items.iter().filter_map(|at| self.number(at, 2, 9)).collect();
        if items.is_empty() {
            self.value(&at, "a list of numbers from 2 to 9");
        }
        Some(PayloadFacts { minor_versions })
    }

    fn deltas(&mut self, at: &At<'_>) -> DeltaPolicy {
        let default = DeltaPolicy::default();
        let Some(table) = self.table(at) else { return default };
        self.unknown_keys(&at.key, table, &["builds_back", "polled_within_days"]);
        let builds = get(table, &at.key, "builds_back");
        let days = get(table, &at.key, "polled_within_days");
        match (builds, days) {
            (Some(_), Some(days)) => {
                self.problem(
                    &days,
                    "absent beside deltas.builds_back".to_owned(),
                    "there; one of the two rules".into(),
                );
                default
            }
            (Some(at), None) => self.number(&at, 0, 1_000).map_or(default, DeltaPolicy::BuildsBack),
            (None, Some(at)) => self.number(&at, 1, 3_660).map_or(default, DeltaPolicy::PolledWithinDays),
            (None, None) => default,
        }
    }

    fn build(&mut self, at: &At<'_>) -> Option<BuildRecipe> {
        let table = self.table(at)?;
        self.unknown_keys(&at.key, table, &["command", "directory", "environment", "output"]);
        let expected = "a list: the program and its arguments";
        let command = self.required_in(table, &at.key, "command", expected).map(|at| {
            let items = self.list(&at);
            let words: Vec<_> = items.iter().filter_map(|at| self.text(at)).collect();
            if items.is_empty() {
                self.value(&at, expected);
            }
            words
        });
        let directory = get(table, &at.key, "directory").and_then(|at| self.text(&at));
        let mut environment = BTreeMap::new();
        if let Some(at) = get(table, &at.key, "environment") {
            for (name, entry) in self.entries(&at) {
                let mut characters = name.chars();
                if !characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
                    || !characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
                {
                    let expected = "keyed by a variable's name, A-Z a-z 0-9 _".to_owned();
                    self.problem(&entry, expected, format!("{:?}", shorten(name)));
                    continue;
                }
                if let Some(value) = self.any_text(&entry) {
                    environment.insert(name.to_owned(), value);
                }
            }
        }
        let output = self.required_in(table, &at.key, "output", "where the build comes out").and_then(|at| {
            let text = self.text(&at)?;
            if text.starts_with('/') || text.split('/').any(|part| part == "..") {
                self.value(&at, "a path below build.directory, without ..");
            }
            Some(text)
        });
        Some(BuildRecipe { command: command?, directory, environment, output: output? })
    }

    fn codename(&mut self, at: &At<'_>) -> Option<Codename> {
        let text = self.text(at)?;
        let expected = "a codename, 1 to 48 of A-Z a-z 0-9 . _ - + with a letter or a digit first";
        Codename::parse(&text).map_err(|_| self.value(at, expected)).ok()
    }
}

/// Adds what is not there yet.
fn add<T: Clone + PartialEq>(list: &mut Vec<T>, item: &T) {
    if !list.contains(item) {
        list.push(item.clone());
    }
}
