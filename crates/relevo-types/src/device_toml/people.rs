//! What a manifest says for people.

use toml::de::DeTable;

use crate::{
    PartitionName,
    device::Guide,
    device_people::{Architecture, Button, Buttons, Firmware, Hardware, Links, Recovery, RecoveryStart, Variant},
    manifest_reader::{At, Reader, get, shorten},
};

impl Reader {
    pub(super) fn variants(&mut self, at: &At<'_>) -> Vec<Variant> {
        self.list(at).iter().filter_map(|at| self.variant(at)).collect()
    }

    fn variant(&mut self, at: &At<'_>) -> Option<Variant> {
        let table = self.table(at)?;
        self.unknown_keys(&at.key, table, &["name", "codename", "models", "markets", "released", "link"]);
        let name = self.required_in(table, &at.key, "name", "the name that it was sold under");
        let name = name.and_then(|at| self.text(&at));
        Some(Variant {
            codename: get(table, &at.key, "codename").and_then(|at| self.codename(&at)),
            models: self.texts(table, &at.key, "models"),
            markets: self.texts(table, &at.key, "markets"),
            released: get(table, &at.key, "released").and_then(|at| self.date(&at)),
            link: get(table, &at.key, "link").and_then(|at| self.link(&at)),
            name: name?,
        })
    }

    pub(super) fn hardware(&mut self, table: &DeTable<'_>) -> Hardware {
        let Some((path, table)) = self.part(table, "hardware", HARDWARE) else { return Hardware::default() };
        Hardware {
            soc: get(table, path, "soc").and_then(|at| self.text(&at)),
            architecture: get(table, path, "architecture").and_then(|at| self.choice(&at, &Architecture::ALL)),
            ram_gb: self.numbers(table, path, "ram_gb", 1, 64),
            storage_gb: self.numbers(table, path, "storage_gb", 1, 4_096),
            released: get(table, path, "released").and_then(|at| self.date(&at)),
        }
    }

    pub(super) fn links(&mut self, table: &DeTable<'_>) -> Links {
        let Some((path, table)) = self.part(table, "links", &["wiki", "source", "kernel"]) else {
            return Links::default();
        };
        Links {
            wiki: get(table, path, "wiki").and_then(|at| self.link(&at)),
            source: get(table, path, "source").and_then(|at| self.link(&at)),
            kernel: get(table, path, "kernel").and_then(|at| self.link(&at)),
        }
    }

    pub(super) fn firmware(&mut self, table: &DeTable<'_>) -> Firmware {
        let Some((path, table)) = self.part(table, "firmware", &["android", "shipped"]) else {
            return Firmware::default();
        };
        let shipped = get(table, path, "shipped").and_then(|at| {
            let shipped = at.value.get_ref().as_bool();
            if shipped.is_none() {
                self.value(&at, "true or false");
            }
            shipped
        });
        Firmware { android: self.numbers(table, path, "android", 4, 100), shipped }
    }

    pub(super) fn buttons(&mut self, table: &DeTable<'_>) -> Buttons {
        let Some((path, table)) = self.part(table, "buttons", &["bootloader", "recovery"]) else {
            return Buttons::default();
        };
        let mut held = |key| {
            let at = get(table, path, key);
            let items = at.map(|at| self.list(&at)).unwrap_or_default();
            items.iter().filter_map(|at| self.choice(at, &Button::ALL)).collect()
        };
        Buttons { bootloader: held("bootloader"), recovery: held("recovery") }
    }

    pub(super) fn recovery(&mut self, at: &At<'_>) -> Option<Recovery> {
        let table = self.table(at)?;
        self.unknown_keys(&at.key, table, &["partition", "flash_first", "start"]);
        let partition = self.required_in(table, &at.key, "partition", "the partition that the recovery lies in");
        let partition = partition.and_then(|at| self.partition_name(&at));
        let first = get(table, &at.key, "flash_first").map(|at| self.list(&at)).unwrap_or_default();
        Some(Recovery {
            flash_first: first.iter().filter_map(|at| self.partition_name(at)).collect(),
            start: get(table, &at.key, "start").and_then(|at| self.choice(&at, &RecoveryStart::ALL)),
            partition: partition?,
        })
    }

    fn partition_name(&mut self, at: &At<'_>) -> Option<PartitionName> {
        let text = self.text(at)?;
        PartitionName::parse(&text).map_err(|_| self.value(at, super::PARTITION)).ok()
    }

    pub(super) fn guide(&mut self, table: &DeTable<'_>, key: &str) -> Guide {
        let mut guide = Guide::default();
        let Some(at) = get(table, "", key) else { return guide };
        let Some(table) = self.table(&at) else { return guide };
        match key {
            "unlock" => self.unknown_keys(&at.key, table, &["guides", "command", "link", "steps"]),
            _ => self.unknown_keys(&at.key, table, &["guides", "link", "steps"]),
        }
        guide.command = get(table, &at.key, "command").and_then(|at| self.text(&at));
        for item in get(table, &at.key, "guides").map(|at| self.list(&at)).unwrap_or_default() {
            guide.guides.extend(self.message_id(&item));
        }
        guide.link = get(table, &at.key, "link").and_then(|at| self.link(&at));
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

    /// An id out of which messages' ids are made.
    pub(crate) fn message_id(&mut self, at: &At<'_>) -> Option<String> {
        let text = self.text(at)?;
        let letters = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !letters || !text.starts_with(|c: char| c.is_ascii_lowercase()) || text.ends_with('-') || text.len() > 64 {
            self.value(at, "an id, 1 to 64 of a-z 0-9 - with a letter first and no - last");
            return None;
        }
        Some(text)
    }

    /// A date of one of three precisions.
    fn date(&mut self, at: &At<'_>) -> Option<String> {
        let text = self.text(at)?;
        if !is_date(&text) {
            self.value(at, "a year, a month or a day, as text: \"2019\", \"2019-08\", \"2019-08-29\"");
        }
        Some(text)
    }

    fn numbers(&mut self, table: &DeTable<'_>, path: &str, key: &str, min: u32, max: u32) -> Vec<u32> {
        let items = get(table, path, key).map(|at| self.list(&at)).unwrap_or_default();
        items.iter().filter_map(|at| self.number(at, min, max)).collect()
    }

    /// A table of the manifest, with its keys checked.
    fn part<'v, 'k>(
        &mut self,
        table: &'v DeTable<'v>,
        key: &'k str,
        known: &'static [&'static str],
    ) -> Option<(&'k str, &'v DeTable<'v>)> {
        let at = get(table, "", key)?;
        let table = self.table(&at)?;
        self.unknown_keys(key, table, known);
        Some((key, table))
    }
}

const HARDWARE: &[&str] = &["soc", "architecture", "ram_gb", "storage_gb", "released"];

/// `en`, `fil`, `pt-BR`: what BCP 47 asks of a language with a region, no more.
fn is_language(text: &str) -> bool {
    let (language, region) = text.split_once('-').map_or((text, None), |(language, region)| (language, Some(region)));
    (2..=3).contains(&language.len())
        && language.bytes().all(|b| b.is_ascii_lowercase())
        && region
            .is_none_or(|region| (2..=4).contains(&region.len()) && region.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// `2019`, `2019-08`, `2019-08-29`; a year of four digits, a month to 12, a day to 31.
fn is_date(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut number = |digits: usize, min: u32, max: u32| match parts.next() {
        None => true,
        Some(part) => {
            part.len() == digits
                && part.bytes().all(|b| b.is_ascii_digit())
                && part.parse().is_ok_and(|number| (min..=max).contains(&number))
        }
    };
    number(4, 1970, 9999) && number(2, 1, 12) && number(2, 1, 31) && parts.next().is_none()
}
