//! Kinds of packages and of installs.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What a package is, and so who can install it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageKind {
    /// AOSP A/B OTA zip with a payload.bin; update_engine installs it.
    Ab,
    /// Non-A/B OTA zip with block images; recovery installs it.
    Block,
    /// Relevo's own container (`.rvp`); the `block` backend of relevo-updater installs it.
    Native,
}

/// How a device installs updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstallKind {
    /// A/B or Virtual A/B, through update_engine.
    Ab,
    /// Non-A/B, through recovery.
    Block,
    /// Slots on block devices or files, through relevo-updater's own `block` backend.
    Native,
}

/// No such kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown kind {text:?}; known are ab, block and native")]
pub struct UnknownKind {
    text: String,
}

macro_rules! words {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    Self::Ab => "ab",
                    Self::Block => "block",
                    Self::Native => "native",
                })
            }
        }

        impl FromStr for $name {
            type Err = UnknownKind;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    "ab" => Ok(Self::Ab),
                    "block" => Ok(Self::Block),
                    "native" => Ok(Self::Native),
                    _ => Err(UnknownKind { text: text.chars().take(40).collect() }),
                }
            }
        }
    };
}

words!(PackageKind);
words!(InstallKind);
