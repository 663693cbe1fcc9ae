//! Names that come from outside and end up in paths, URLs and role names.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is no such name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Empty, or longer than the limit.
    #[error("{what} {text:?} is {len} characters long; it must have 1 to {max}")]
    Length {
        /// What the name names.
        what: &'static str,
        /// The text, cut at 80 characters.
        text: String,
        /// Its length in bytes.
        len: usize,
        /// The longest allowed, in bytes.
        max: usize,
    },
    /// A character that would be unsafe in a path or a URL.
    #[error("{what} {text:?} holds {found:?}; allowed are {allowed}")]
    Character {
        /// What the name names.
        what: &'static str,
        /// The text, cut at 80 characters.
        text: String,
        /// The first character that is not allowed.
        found: char,
        /// The allowed ones, in words.
        allowed: &'static str,
    },
    /// It starts with `.` or `-`, so it could hide a file or pass for an option.
    #[error("{what} {text:?} starts with {found:?}; it must start with a letter or a digit")]
    Start {
        /// What the name names.
        what: &'static str,
        /// The text, cut at 80 characters.
        text: String,
        /// The first character.
        found: char,
    },
}

fn check(what: &'static str, text: &str, max: usize, lower: bool) -> Result<(), NameError> {
    let shown = || text.chars().take(80).collect::<String>();
    if text.is_empty() || text.len() > max {
        return Err(NameError::Length { what, text: shown(), len: text.len(), max });
    }
    let allowed = |c: char| match c {
        'a'..='z' | '0'..='9' | '_' | '-' | '.' => true,
        'A'..='Z' | '+' => !lower,
        _ => false,
    };
    if let Some(found) = text.chars().find(|&c| !allowed(c)) {
        let allowed = if lower { "a-z 0-9 . _ -" } else { "A-Z a-z 0-9 . _ - +" };
        return Err(NameError::Character { what, text: shown(), found, allowed });
    }
    match text.chars().next() {
        Some(found) if !found.is_ascii_alphanumeric() => Err(NameError::Start { what, text: shown(), found }),
        _ => Ok(()),
    }
}

/// Checks a file name as it stands in a target path.
pub(crate) fn check_file(text: &str, max: usize) -> Result<(), NameError> {
    check("file name", text, max, false)
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, max $max:literal, lower $lower:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks and takes over a name.
            ///
            /// # Errors
            /// [`NameError`] for an empty or too long name, an unsafe character or an unsafe start.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                check($what, text, $max, $lower)?;
                Ok(Self(text.to_owned()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name! {
    /// A device's codename, as in `ro.product.device`: `ginkgo`, `laurel_sprout`, `SM-A520F`.
    ///
    /// At most 48 characters; it becomes part of paths (`xiaomi/ginkgo/…`) and of the role name `d-ginkgo`.
    Codename, "codename", max 48, lower false
}
name! {
    /// A device's vendor, lower case: `xiaomi`. It becomes part of paths and of the role name `v-xiaomi`.
    Vendor, "vendor", max 32, lower true
}
name! {
    /// A channel: `stable`, `beta`, `nightly`.
    Channel, "channel", max 24, lower true
}
name! {
    /// A build's id, which is its `ro.build.version.incremental`: `eng.20250505`, `V12.0.3.0.QCOMIXM`.
    BuildId, "build", max 96, lower false
}
name! {
    /// A partition's name without slot suffix: `system`, `vendor_boot`.
    PartitionName, "partition", max 36, lower false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_would_leave_its_directory() {
        for text in ["", "..", "../x", "a/b", "a\\b", "-rf", ".hidden", "a b", "a\0", "ñ"] {
            assert!(Codename::parse(text).is_err(), "{text:?}");
            assert!(BuildId::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn says_which_character_is_wrong() {
        let error = Channel::parse("Stable").unwrap_err();

        assert_eq!(error.to_string(), "channel \"Stable\" holds 'S'; allowed are a-z 0-9 . _ -");
    }

    proptest! {
        #[test]
        fn what_parses_is_written_back_as_it_was(text in "[A-Za-z0-9][A-Za-z0-9._+-]{0,30}") {
            prop_assert_eq!(BuildId::parse(&text).unwrap().to_string(), text);
        }
    }
}
