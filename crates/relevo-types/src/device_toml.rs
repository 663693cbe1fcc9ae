//! Reads a device manifest: walks the TOML by hand, so that every complaint names its key and its line.

use std::{collections::BTreeMap, fmt};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    ByteLen, Channel, Codename, InstallKind, PartitionName, Vendor,
    device::{
        BuildRecipe, Compression, DeltaPolicy, DeviceManifest, DevicePartition, DynamicPartitions, Guide, MAX_MANIFEST,
        PayloadFacts, VirtualAb,
    },
};

/// Longest text in a manifest, in characters: a step of a guide is a sentence or three.
const MAX_TEXT: usize = 2_000;

/// Most entries of one list or table.
const MAX_ENTRIES: usize = 256;

/// Everything that is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ManifestError {
    /// What is wrong, in the order of the file; never empty.
    pub problems: Vec<ManifestProblem>,
}

/// One thing that is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestProblem {
    /// Over [`MAX_MANIFEST`].
    #[error("the manifest is {len} long; at most {MAX_MANIFEST} are read")]
    TooLong {
        /// Its length.
        len: ByteLen,
    },
    /// No TOML.
    #[error("line {line}: this is no TOML: {message}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// A key that means nothing here.
    #[error("line {line}: unknown key {key}; {}", Suggestion { nearest, known })]
    UnknownKey {
        /// The key with its path: `payload.minor_version`.
        key: String,
        /// Line, from 1.
        line: usize,
        /// The known key that is written most like it, if one is near.
        nearest: Option<String>,
        /// The keys that are known there.
        known: &'static [&'static str],
    },
    /// A key that must be there.
    #[error("{key} is missing; expected {expected}")]
    Missing {
        /// The key with its path.
        key: String,
        /// What it must hold.
        expected: &'static str,
    },
    /// A value that is not what its key needs.
    #[error("line {line}: {key} must be {expected}; it is {actual}")]
    Value {
        /// The key with its path.
        key: String,
        /// Line, from 1.
        line: usize,
        /// What it must hold.
        expected: String,
        /// What it holds, cut at 80 characters.
        actual: String,
    },
}

impl ManifestProblem {
    /// The line that it is about, from 1; 0 if it is about the whole file.
    pub fn line(&self) -> usize {
        match self {
            Self::TooLong { .. } | Self::Missing { .. } => 0,
            Self::Syntax { line, .. } | Self::UnknownKey { line, .. } | Self::Value { line, .. } => *line,
        }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// How an unknown key is answered.
struct Suggestion<'a> {
    nearest: &'a Option<String>,
    known: &'a [&'static str],
}

impl fmt::Display for Suggestion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nearest {
            Some(nearest) => write!(f, "did you mean {nearest}?"),
            None => write!(f, "known are {}", self.known.join(", ")),
        }
    }
}

impl DeviceManifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// [`ManifestError`] with every problem that was found: unknown keys with the nearest known one, missing keys, and
    /// values with what was expected and what is there.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let len = ByteLen::new(text.len() as u64);
        if len > MAX_MANIFEST {
            return Err(ManifestError { problems: vec![ManifestProblem::TooLong { len }] });
        }
        let mut reader = Reader { text, problems: Vec::new() };
        let table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(error) => {
                let line = reader.line(error.span().map_or(0, |span| span.start));
                let message = error.message().to_owned();
                return Err(ManifestError { problems: vec![ManifestProblem::Syntax { line, message }] });
            }
        };
        let manifest = reader.manifest(table.get_ref());
        match manifest {
            Some(manifest) if reader.problems.is_empty() => Ok(manifest),
            _ => {
                reader.problems.sort_by_key(|problem| match problem.line() {
                    0 => usize::MAX,
                    line => line,
                });
                Err(ManifestError { problems: reader.problems })
            }
        }
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
    "unlock",
    "install",
    "deltas",
    "build",
];

/// Gathers what is wrong while it reads.
struct Reader<'t> {
    text: &'t str,
    problems: Vec<ManifestProblem>,
}

/// A value with the path of its key.
struct At<'v> {
    key: String,
    value: &'v Spanned<DeValue<'v>>,
}

impl<'t> Reader<'t> {
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
        let names = self.texts(table, "names");
        let models = self.texts(table, "models");
        let aliases = match get(table, "", "aliases") {
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
            unlock,
            install,
            deltas,
            build,
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
                let expected = "a partition's name, 1 to 36 of A-Z a-z 0-9 . _ - + with a letter or a digit first";
                let actual = format!("{:?}", shorten(name));
                self.problem(&entry, format!("keyed by {expected}"), actual);
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
        let expected = "one of none, gz, brotli, lz4 and zstd";
        let compression = self.required_in(table, &at.key, "compression", expected).and_then(|at| {
            let text = self.text(&at)?;
            let found = Compression::ALL.iter().find(|(name, _)| *name == text).map(|&(_, compression)| compression);
            if found.is_none() {
                self.value(&at, expected);
            }
            found
        });
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

    fn guide(&mut self, table: &DeTable<'_>, key: &str) -> Guide {
        let mut guide = Guide::default();
        let Some(at) = get(table, "", key) else { return guide };
        let Some(table) = self.table(&at) else { return guide };
        self.unknown_keys(&at.key, table, &["link", "steps"]);
        if let Some(link) = get(table, &at.key, "link") {
            guide.link = self.text(&link);
            if let Some(text) = &guide.link
                && !(text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")))
                    .is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_graphic()))
            {
                self.value(&link, "a link that starts with https:// or http://");
            }
        }
        if let Some(steps) = get(table, &at.key, "steps") {
            for (language, entry) in self.entries(&steps) {
                if !is_language(language) {
                    let expected = "keyed by a language: en, es, pt-BR".to_owned();
                    self.problem(&entry, expected, format!("{:?}", shorten(language)));
                    continue;
                }
                let items = self.list(&entry);
                let texts: Vec<_> = items.iter().filter_map(|at| self.text(at)).collect();
                if items.is_empty() {
                    self.value(&entry, "a list of at least one step");
                }
                guide.steps.insert(language.to_owned(), texts);
            }
        }
        guide
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

    /// A text with something in it.
    fn text(&mut self, at: &At<'_>) -> Option<String> {
        let text = self.any_text(at)?;
        if text.is_empty() {
            self.value(at, "a text that is not empty");
            return None;
        }
        Some(text)
    }

    fn any_text(&mut self, at: &At<'_>) -> Option<String> {
        let text = at.value.get_ref().as_str();
        let fine = text.filter(|text| text.chars().count() <= MAX_TEXT && !text.chars().any(char::is_control));
        if fine.is_none() {
            self.value(at, "a text of one line, at most 2000 characters");
        }
        fine.map(str::to_owned)
    }

    fn texts(&mut self, table: &DeTable<'_>, key: &str) -> Vec<String> {
        match get(table, "", key) {
            Some(at) => self.list(&at).iter().filter_map(|at| self.text(at)).collect(),
            None => Vec::new(),
        }
    }

    fn number(&mut self, at: &At<'_>, min: u32, max: u32) -> Option<u32> {
        let number = at.value.get_ref().as_integer();
        let number = number.and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok());
        let fine = number.filter(|number| (min..=max).contains(number));
        if fine.is_none() {
            self.value(at, &format!("a number from {min} to {max}"));
        }
        fine
    }

    /// Bytes as a number, or a text such as `64 MiB`; whole blocks, since partitions are made of them.
    fn size(&mut self, at: &At<'_>) -> Option<ByteLen> {
        let size = match at.value.get_ref() {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok().map(ByteLen::new),
            DeValue::String(text) => ByteLen::parse(text).ok(),
            _ => None,
        };
        // TOML's integers are signed, so that a larger one could not be written back.
        let fine = size.filter(|size| {
            *size > ByteLen::ZERO && size.get() % crate::BLOCK.get() == 0 && i64::try_from(size.get()).is_ok()
        });
        if fine.is_none() {
            self.value(at, "a size in whole blocks of 4096 bytes: 67108864 or \"64 MiB\"");
        }
        fine
    }

    fn list<'v>(&mut self, at: &At<'v>) -> Vec<At<'v>> {
        match at.value.get_ref().as_array() {
            Some(items) if items.len() <= MAX_ENTRIES => {
                let item = |(index, value)| At { key: format!("{}[{index}]", at.key), value };
                items.iter().enumerate().map(item).collect()
            }
            _ => {
                self.value(at, "a list of at most 256 entries");
                Vec::new()
            }
        }
    }

    fn table<'v>(&mut self, at: &At<'v>) -> Option<&'v DeTable<'v>> {
        let table = at.value.get_ref().as_table();
        if table.is_none() {
            self.value(at, "a table");
        }
        table
    }

    /// The entries of a table whose keys are names of the maintainer's.
    fn entries<'v>(&mut self, at: &At<'v>) -> Vec<(&'v str, At<'v>)> {
        match self.table(at) {
            Some(table) if table.len() <= MAX_ENTRIES => {
                let path = |name: &str| format!("{}.{name}", at.key);
                table.iter().map(|(key, value)| (&**key.get_ref(), At { key: path(key.get_ref()), value })).collect()
            }
            Some(_) => {
                self.value(at, "a table of at most 256 entries");
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    fn required<'v>(&mut self, table: &'v DeTable<'v>, key: &str, expected: &'static str) -> Option<At<'v>> {
        self.required_in(table, "", key, expected)
    }

    fn required_in<'v>(
        &mut self,
        table: &'v DeTable<'v>,
        path: &str,
        key: &str,
        expected: &'static str,
    ) -> Option<At<'v>> {
        let at = get(table, path, key);
        if at.is_none() {
            self.problems.push(ManifestProblem::Missing { key: join(path, key), expected });
        }
        at
    }

    fn unknown_keys(&mut self, path: &str, table: &DeTable<'_>, known: &'static [&'static str]) {
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) {
                let line = self.line(key.span().start);
                let nearest = nearest(name, known).map(|nearest| join(path, nearest));
                let key = join(path, &shorten(name));
                self.problems.push(ManifestProblem::UnknownKey { key, line, nearest, known });
            }
        }
    }

    fn value(&mut self, at: &At<'_>, expected: &str) {
        let actual = match at.value.get_ref() {
            DeValue::String(text) => format!("{:?}", shorten(text)),
            DeValue::Integer(number) => shorten(number.as_str()),
            DeValue::Float(number) => shorten(number.as_str()),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::Datetime(_) => "a date".to_owned(),
            DeValue::Array(items) => format!("a list of {}", items.len()),
            DeValue::Table(_) => "a table".to_owned(),
        };
        self.problem(at, expected.to_owned(), actual);
    }

    fn problem(&mut self, at: &At<'_>, expected: String, actual: String) {
        let line = self.line(at.value.span().start);
        self.problems.push(ManifestProblem::Value { key: shorten(&at.key), line, expected, actual });
    }

    fn line(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
        before.iter().filter(|&&byte| byte == b'\n').count() + 1
    }
}

fn get<'v>(table: &'v DeTable<'v>, path: &str, key: &str) -> Option<At<'v>> {
    table.get(key).map(|value| At { key: join(path, key), value })
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

/// `en`, `fil`, `pt-BR`: what BCP 47 asks of a language with a region, no more.
fn is_language(text: &str) -> bool {
    let (language, region) = text.split_once('-').map_or((text, None), |(language, region)| (language, Some(region)));
    (2..=3).contains(&language.len())
        && language.bytes().all(|b| b.is_ascii_lowercase())
        && region
            .is_none_or(|region| (2..=4).contains(&region.len()) && region.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// The known key that is written most like `key`: at most two changes away, or a third of its length.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let key: String = key.chars().take(64).collect::<String>().to_lowercase().replace('-', "_");
    known
        .iter()
        .map(|&candidate| (edit_distance(&key, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= (candidate.len() / 3).max(2) && distance < candidate.len())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words (optimal string alignment).
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            [unlock]
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
            "#,
        )
        .unwrap()
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
            manifest.names = names;
            prop_assert_eq!(DeviceManifest::parse(&manifest.to_toml()), Ok(manifest));
        }

        #[test]
        fn distance_is_symmetric_and_zero_for_the_same(a in "[a-c]{0,8}", b in "[a-c]{0,8}") {
            prop_assert_eq!(edit_distance(&a, &b), edit_distance(&b, &a));
            prop_assert_eq!(edit_distance(&a, &a), 0);
        }
    }
}
