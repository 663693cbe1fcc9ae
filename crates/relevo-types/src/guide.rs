//! Guides: steps for people that hold for many devices, from `manifests/guides/<id>.toml`.
//!
//! A manifest names the guides of its device in `[unlock]` and `[install]`. The texts are English patterns in the syntax of
//! Fluent, with `{ $name }` where a fact of the device goes; [`SharedGuide::message`] and [`GuideStep`]'s ids give each
//! text a message id that stays the same, by which a page finds its translation. Commands are the same in all languages.
//!
//! # Examples
//! ```
//! use relevo_types::{DeviceManifest, guide};
//!
//! let manifest = DeviceManifest::parse(
//!     r#"
//!     codename = "alioth"
//!     vendor = "xiaomi"
//!     kind = "ab"
//!     [recovery]
//!     partition = "vendor_boot"
//!     flash_first = ["boot", "dtbo"]
//!     [install]
//!     guides = ["recovery-fastboot"]
//!     "#,
//! )?;
//! let values = guide::values(&manifest);
//! let guide = guide::builtin("recovery-fastboot").expect("it is one of ours");
//! let step = guide.steps_for(&manifest).find(|step| step.id == "first").expect("it has to flash two first");
//! assert_eq!(guide.message(Some(step)), "guide-recovery-fastboot-first");
//! assert_eq!(
//!     step.commands(&values),
//!     ["fastboot flash boot boot.img", "fastboot flash dtbo dtbo.img"]
//! );
//! # Ok::<(), relevo_types::ManifestError>(())
//! ```

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Serialize;

use crate::{Button, DeviceManifest, InstallKind, RecoveryStart};

/// The guides of the project, by id.
const TEXTS: [(&str, &str); 9] = [
    ("first-install", include_str!("../../../manifests/guides/first-install.toml")),
    ("prepare", include_str!("../../../manifests/guides/prepare.toml")),
    ("recovery-fastboot", include_str!("../../../manifests/guides/recovery-fastboot.toml")),
    ("recovery-samsung", include_str!("../../../manifests/guides/recovery-samsung.toml")),
    ("unlock-fastboot", include_str!("../../../manifests/guides/unlock-fastboot.toml")),
    ("unlock-motorola", include_str!("../../../manifests/guides/unlock-motorola.toml")),
    ("unlock-samsung", include_str!("../../../manifests/guides/unlock-samsung.toml")),
    ("unlock-xiaomi", include_str!("../../../manifests/guides/unlock-xiaomi.toml")),
    ("xiaomi-anti-rollback", include_str!("../../../manifests/guides/xiaomi-anti-rollback.toml")),
];

static BUILTIN: LazyLock<Vec<SharedGuide>> = LazyLock::new(|| {
    let read = |&(_, text): &(_, &str)| SharedGuide::parse(text).expect("a test reads each of them");
    TEXTS.iter().map(read).collect()
});

/// All guides of the project, in the order of their ids.
pub fn all() -> &'static [SharedGuide] {
    &BUILTIN
}

/// The guide of the project with an id.
pub fn builtin(id: &str) -> Option<&'static SharedGuide> {
    all().iter().find(|guide| guide.id == id)
}

/// Steps for people that hold for many devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SharedGuide {
    /// Its id, and the name of its file.
    pub id: String,
    /// What it is about, in English.
    pub title: String,
    /// The steps in order; never empty, each with an id of its own.
    pub steps: Vec<GuideStep>,
}

/// One step of a guide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuideStep {
    /// Its id within the guide.
    pub id: String,
    /// What is to be done with it.
    pub kind: StepKind,
    /// The English text, with `{ $name }` for facts of the device.
    pub text: String,
    /// What is typed on the computer, with such names too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// A page or a program that the step needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// What has to hold of the device for the step to be there: all of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<Condition>,
}

/// What is to be done with a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepKind {
    /// Do it.
    Step,
    /// Know it, or lose something.
    Warning,
    /// Good to know.
    Note,
}

impl StepKind {
    /// All of them, with their names in a guide.
    pub(crate) const ALL: [(&'static str, Self); 3] =
        [("step", Self::Step), ("warning", Self::Warning), ("note", Self::Note)];
}

/// What may have to hold of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// It has slots.
    Ab,
    /// Its models are known.
    Models,
    /// Builds need firmware of certain versions.
    Firmware,
    /// Other partitions are flashed before the recovery.
    First,
    /// The recovery is started by buttons.
    StartButtons,
    /// The recovery is started from the bootloader's menu.
    StartMenu,
    /// The recovery is started by `fastboot reboot`.
    StartReboot,
    /// The recovery is started by `fastboot boot`.
    StartBoot,
}

impl Condition {
    /// All of them, with their names in a guide.
    pub(crate) const ALL: [(&'static str, Self); 8] = [
        ("ab", Self::Ab),
        ("models", Self::Models),
        ("firmware", Self::Firmware),
        ("first", Self::First),
        ("start-buttons", Self::StartButtons),
        ("start-menu", Self::StartMenu),
        ("start-reboot", Self::StartReboot),
        ("start-boot", Self::StartBoot),
    ];

    fn holds(self, manifest: &DeviceManifest) -> bool {
        let start = manifest.recovery.as_ref().and_then(|recovery| recovery.start);
        match self {
            Self::Ab => manifest.kind == InstallKind::Ab,
            Self::Models => !manifest.models.is_empty(),
            Self::Firmware => !manifest.firmware.android.is_empty(),
            Self::First => manifest.recovery.as_ref().is_some_and(|recovery| !recovery.flash_first.is_empty()),
            Self::StartButtons => start == Some(RecoveryStart::Buttons),
            Self::StartMenu => start == Some(RecoveryStart::Menu),
            Self::StartReboot => start == Some(RecoveryStart::Reboot),
            Self::StartBoot => start == Some(RecoveryStart::Boot),
        }
    }
}

/// Facts of devices that texts and commands may name.
pub(crate) const NAMES: [&str; 11] = [
    "android",
    "bootloader-buttons",
    "codename",
    "codenames",
    "first",
    "first-upper",
    "models",
    "recovery",
    "recovery-buttons",
    "recovery-upper",
    "unlock-command",
];

/// A fact of a device for a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A word that is the same in all languages.
    Text(String),
    /// Several of such.
    List(Vec<String>),
    /// What is held down; each has a name in each language. Without the cable, which is no button: where it is needed,
    /// the text says when it is plugged in.
    Buttons(Vec<Button>),
}

impl Value {
    /// The value in English: `volume down + power`.
    pub fn english(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::List(texts) => texts.join(", "),
            Self::Buttons(buttons) => {
                let names: Vec<_> = buttons.iter().map(|button| button.name().replace('-', " ")).collect();
                names.join(" + ")
            }
        }
    }
}

/// The facts of a device that are known, by the names that texts have for them.
pub fn values(manifest: &DeviceManifest) -> BTreeMap<&'static str, Value> {
    let upper = |texts: &[String]| texts.iter().map(|text| text.to_uppercase()).collect::<Vec<_>>();
    let mut values = BTreeMap::from([("codename", Value::Text(manifest.codename.to_string()))]);
    let codenames = std::iter::once(&manifest.codename).chain(&manifest.aliases);
    let lists = [
        ("codenames", codenames.map(ToString::to_string).collect()),
        ("android", manifest.firmware.android.iter().map(ToString::to_string).collect()),
        ("models", manifest.models.clone()),
    ];
    values.extend(lists.into_iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| (name, Value::List(list))));
    for (name, buttons) in
        [("bootloader-buttons", &manifest.buttons.bootloader), ("recovery-buttons", &manifest.buttons.recovery)]
    {
        let held: Vec<_> = buttons.iter().copied().filter(|&button| button != Button::Cable).collect();
        if !held.is_empty() {
            values.insert(name, Value::Buttons(held));
        }
    }
    if let Some(recovery) = &manifest.recovery {
        let first: Vec<_> = recovery.flash_first.iter().map(ToString::to_string).collect();
        let partition = recovery.partition.to_string();
        values.insert("recovery-upper", Value::Text(partition.to_uppercase()));
        values.insert("recovery", Value::Text(partition));
        if !first.is_empty() {
            values.insert("first-upper", Value::List(upper(&first)));
            values.insert("first", Value::List(first));
        }
    }
    if let Some(command) = &manifest.unlock.command {
        values.insert("unlock-command", Value::Text(command.clone()));
    }
    values
}

impl SharedGuide {
    /// The id of the message of a step's text, or of the guide's title: `guide-prepare-data`, `guide-prepare`.
    pub fn message(&self, step: Option<&GuideStep>) -> String {
        match step {
            Some(step) => format!("guide-{}-{}", self.id, step.id),
            None => format!("guide-{}", self.id),
        }
    }

    /// The steps that hold for a device.
    pub fn steps_for(&self, manifest: &DeviceManifest) -> impl Iterator<Item = &GuideStep> {
        self.steps.iter().filter(|step| step.when.iter().all(|condition| condition.holds(manifest)))
    }

    /// Facts that its steps for a device name and that the device's manifest does not tell, each once.
    pub fn missing(&self, manifest: &DeviceManifest) -> Vec<&str> {
        let values = values(manifest);
        let mut missing = Vec::new();
        for name in self.steps_for(manifest).flat_map(GuideStep::names) {
            if !values.contains_key(name) && !missing.contains(&name) {
                missing.push(name);
            }
        }
        missing
    }
}

impl GuideStep {
    /// The facts that its text and its command name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let patterns = [Some(&self.text), self.command.as_ref()].into_iter().flatten();
        patterns.flat_map(|pattern| names(pattern))
    }

    /// The text in English, with the facts in it.
    pub fn english(&self, values: &BTreeMap<&'static str, Value>) -> String {
        fill(&self.text, |name| values.get(name).map(Value::english))
    }

    /// What is typed on the computer, line by line; where it names a list, a line for each entry.
    pub fn commands(&self, values: &BTreeMap<&'static str, Value>) -> Vec<String> {
        let Some(command) = &self.command else { return Vec::new() };
        let lists = names(command).filter_map(|name| match values.get(name) {
            Some(Value::List(list)) => Some(list.len()),
            _ => None,
        });
        let line = |index: usize| {
            fill(command, |name| match values.get(name) {
                Some(Value::List(list)) => list.get(index).cloned(),
                value => value.map(Value::english),
            })
        };
        (0..lists.max().unwrap_or(1)).map(line).collect()
    }
}

/// A part of a pattern.
pub(crate) enum Piece<'p> {
    /// As it is; with a brace in it, the pattern is none.
    Text(&'p str),
    /// The name of a fact.
    Name(&'p str),
}

/// The parts of a pattern: `Hold { $buttons }.` has three.
pub(crate) fn pieces(pattern: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once("{ $")
        && let Some((name, after)) = after.split_once(" }")
    {
        pieces.push(Piece::Text(before));
        pieces.push(Piece::Name(name));
        rest = after;
    }
    pieces.push(Piece::Text(rest));
    pieces
}

/// The names in a pattern.
fn names(pattern: &str) -> impl Iterator<Item = &str> {
    pieces(pattern).into_iter().filter_map(|piece| match piece {
        Piece::Name(name) => Some(name),
        Piece::Text(_) => None,
    })
}

/// A name whose fact is not known stays as it is.
fn fill(pattern: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let piece = |piece: Piece<'_>| match piece {
        Piece::Text(text) => text.to_owned(),
        Piece::Name(name) => value(name).unwrap_or_else(|| format!("{{ ${name} }}")),
    };
    pieces(pattern).into_iter().map(piece).collect()
}
