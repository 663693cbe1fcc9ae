//! What a manifest says of a device for those who own one: which it is, and how to get into it.

use serde::Serialize;

use crate::{Codename, PartitionName};

/// A member of a family of devices that share their builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Variant {
    /// The name that it was sold under: `Redmi Note 9S`.
    pub name: String,
    /// Its own codename, where it has one: `curtana`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codename: Option<Codename>,
    /// Its model numbers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Where it was sold, as its maker calls that: `India`, `Global`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub markets: Vec<String>,
    /// When it was first sold, see [`Hardware::released`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub released: Option<String>,
    /// A page about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// What is inside.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Hardware {
    /// The system on a chip, with its maker: `Qualcomm SM6125 Snapdragon 665`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soc: Option<String>,
    /// What apps and add-ons have to be made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    /// Sizes of memory that it was sold with, in GB as printed on the box.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ram_gb: Vec<u32>,
    /// Sizes of storage that it was sold with, in GB as printed on the box.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub storage_gb: Vec<u32>,
    /// When it was first sold, as precisely as is known: `2019`, `2019-08` or `2019-08-29`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub released: Option<String>,
}

impl Hardware {
    /// Says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a device's programs are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// ARM, 32 bits.
    Arm,
    /// ARM, 64 bits.
    Arm64,
    /// x86, 64 bits.
    #[serde(rename = "x86_64")]
    X86_64,
}

impl Architecture {
    /// All of them, with their names in a manifest.
    pub(crate) const ALL: [(&'static str, Self); 3] =
        [("arm", Self::Arm), ("arm64", Self::Arm64), ("x86_64", Self::X86_64)];
}

/// Pages about a device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Links {
    /// A page about the device itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wiki: Option<String>,
    /// The device tree that builds are made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The source code of the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
}

impl Links {
    /// Says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Firmware: modem, trusted environment and the like, which the maker signs and builds of others need.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Firmware {
    /// Versions of Android of the maker's system whose firmware fits; with several, each does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub android: Vec<u32>,
    /// Whether updates bring it themselves, so that it matters before the first install alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shipped: Option<bool>,
}

impl Firmware {
    /// Says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What is held down to get into a mode, with the device off. Empty: not known, or not by buttons.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Buttons {
    /// For the mode that takes images: fastboot, or Samsung's Download mode.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bootloader: Vec<Button>,
    /// For the recovery.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recovery: Vec<Button>,
}

impl Buttons {
    /// Says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What can be held down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Button {
    /// The one that switches it on.
    Power,
    /// Louder.
    VolumeUp,
    /// Quieter.
    VolumeDown,
    /// Below the screen.
    Home,
    /// The button for the assistant that Samsung devices of some years have.
    Bixby,
    /// No button: the cable to a computer, plugged in while the buttons are held.
    Cable,
}

impl Button {
    /// All of them, with their names in a manifest.
    pub(crate) const ALL: [(&'static str, Self); 6] = [
        ("power", Self::Power),
        ("volume-up", Self::VolumeUp),
        ("volume-down", Self::VolumeDown),
        ("home", Self::Home),
        ("bixby", Self::Bixby),
        ("cable", Self::Cable),
    ];

    /// Its name in a manifest, and in the ids of messages.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, button)| *button == self).expect("ALL has all of them").0
    }
}

/// Where a device has its recovery, and how it gets there and is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recovery {
    /// The partition that it lies in: `recovery`; `boot` or `vendor_boot` on devices with slots that have none.
    pub partition: PartitionName,
    /// Partitions of the same build that it does not start without, flashed before it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flash_first: Vec<PartitionName>,
    /// How it is started once it was flashed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<RecoveryStart>,
}

/// How a recovery is started from the bootloader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecoveryStart {
    /// Off, and then by [`Buttons::recovery`].
    Buttons,
    /// By an entry of the bootloader's menu.
    Menu,
    /// `fastboot reboot recovery`.
    Reboot,
    /// `fastboot boot`, with the image's file.
    Boot,
}

impl RecoveryStart {
    /// All of them, with their names in a manifest.
    pub(crate) const ALL: [(&'static str, Self); 4] =
        [("buttons", Self::Buttons), ("menu", Self::Menu), ("reboot", Self::Reboot), ("boot", Self::Boot)];
}
