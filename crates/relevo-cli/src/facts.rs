//! What the files beside the images say about a build.

use std::path::Path;

use relevo_types::{BuildId, Codename};
use serde::Deserialize;

use crate::{builds::MAX_FACTS, durable::read_text, error::CliError};

/// What `build.json` and `build.prop` beside the images say, the former first.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Facts {
    pub(crate) build: Option<BuildId>,
    pub(crate) device: Option<Codename>,
    pub(crate) timestamp: Option<u64>,
    pub(crate) version: Option<String>,
    pub(crate) sdk: Option<u32>,
    pub(crate) spl: Option<String>,
}

impl Facts {
    /// Reads both files, so far as they are there.
    pub(crate) fn read(dir: &Path) -> Result<Self, CliError> {
        let path = dir.join("build.json");
        let json: Self = match read_text(&path, MAX_FACTS)? {
            Some(text) => {
                serde_json::from_str(&text).map_err(|error| CliError::Damaged { path, reason: error.to_string() })?
            }
            None => Self::default(),
        };
        let path = dir.join("build.prop");
        let prop = match read_text(&path, MAX_FACTS)? {
            Some(text) => Self::from_properties(&text).map_err(|reason| CliError::Damaged { path, reason })?,
            None => Self::default(),
        };
        Ok(Self {
            build: json.build.or(prop.build),
            device: json.device.or(prop.device),
            timestamp: json.timestamp.or(prop.timestamp),
            version: json.version.or(prop.version),
            sdk: json.sdk.or(prop.sdk),
            spl: json.spl.or(prop.spl),
        })
    }

    /// Reads Android's properties. In a build.prop the first assignment of a `ro.` property counts, since the
    /// property cannot be changed once it is set.
    fn from_properties(text: &str) -> Result<Self, String> {
        let get = |keys: &[&str]| {
            keys.iter().find_map(|key| {
                let value = |line: &str| Some(line.trim().strip_prefix(key)?.strip_prefix('=')?.trim().to_owned());
                text.lines().find_map(value).filter(|value| !value.is_empty())
            })
        };
        let number = |key: &'static str, text: Option<String>| -> Result<Option<u64>, String> {
            let parse = |text: String| text.parse().map_err(|_| format!("{key} is {text:?}; expected a number"));
            text.map(parse).transpose()
        };
        let build = get(&["ro.build.version.incremental", "ro.system.build.version.incremental"]);
        let timestamp = get(&["ro.build.date.utc", "ro.system.build.date.utc"]);
        let sdk = number("ro.build.version.sdk", get(&["ro.build.version.sdk", "ro.system.build.version.sdk"]))?;
        Ok(Self {
            build: build.map(|text| BuildId::parse(&text).map_err(|error| error.to_string())).transpose()?,
            // A generic system image names no device that anybody added; it is compared, not required.
            device: get(&["ro.product.device", "ro.build.product", "ro.product.system.device"])
                .and_then(|text| Codename::parse(&text).ok()),
            timestamp: number("ro.build.date.utc", timestamp)?,
            version: get(&["ro.modversion", "ro.build.display.id"]),
            sdk: sdk.map(u32::try_from).transpose().map_err(|_| "ro.build.version.sdk is over 2^32".to_owned())?,
            spl: get(&["ro.build.version.security_patch"]),
        })
    }
}

/// Whether a text is a security patch level: `2025-05-05`.
pub(crate) fn is_patch_level(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_properties_of_a_build() {
        let text = "# begin\nro.build.version.incremental=eng.1\nro.build.date.utc=1746403200\n\
                    ro.build.version.sdk=35\nro.build.version.security_patch=2025-05-05\nro.product.device=ginkgo\n\
                    ro.build.version.incremental=eng.2\n";

        let facts = Facts::from_properties(text).unwrap();

        assert_eq!(facts.build, Some(BuildId::parse("eng.1").unwrap()));
        assert_eq!(facts.timestamp, Some(1_746_403_200));
        assert_eq!((facts.sdk, facts.spl.as_deref()), (Some(35), Some("2025-05-05")));
    }

    #[test]
    fn says_which_property_is_wrong() {
        assert_eq!(
            Facts::from_properties("ro.build.date.utc=today").unwrap_err(),
            "ro.build.date.utc is \"today\"; expected a number"
        );
        assert!(Facts::from_properties("ro.build.version.incremental=../x").is_err());
    }

    #[test]
    fn knows_a_patch_level() {
        assert!(is_patch_level("2025-05-05"));
        assert!(!is_patch_level("2025-13-05"));
        assert!(!is_patch_level("May 2025"));
    }
}
