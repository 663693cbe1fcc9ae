//! The path of a target in the repository.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::name::{Channel, Codename, NameError, Vendor};

/// A target's path: `<vendor>/<codename>/<channel>/<file>`.
///
/// Each of the four parts is a checked name, so the path can be joined to a directory or a URL as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetPath {
    vendor: Vendor,
    codename: Codename,
    channel: Channel,
    file: String,
}

impl TargetPath {
    /// Longest file name in bytes; with the 65 bytes of the hash prefix it stays under the 255 that file systems allow.
    pub const MAX_FILE: usize = 180;

    /// Puts a path together.
    ///
    /// # Errors
    /// [`NameError`] if `file` is no safe file name.
    pub fn new(vendor: &Vendor, codename: &Codename, channel: &Channel, file: &str) -> Result<Self, NameError> {
        crate::name::check_file(file, Self::MAX_FILE)?;
        Ok(Self { vendor: vendor.clone(), codename: codename.clone(), channel: channel.clone(), file: file.to_owned() })
    }

    /// Parses a path of four parts.
    ///
    /// # Errors
    /// [`NameError`] naming the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let mut parts = text.splitn(4, '/');
        let mut part = || parts.next().unwrap_or("");
        let vendor = Vendor::parse(part())?;
        let codename = Codename::parse(part())?;
        let channel = Channel::parse(part())?;
        Self::new(&vendor, &codename, &channel, part())
    }

    /// The vendor.
    pub fn vendor(&self) -> &Vendor {
        &self.vendor
    }

    /// The device.
    pub fn codename(&self) -> &Codename {
        &self.codename
    }

    /// The channel.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The file's name.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Where the file lies below `targets/` with consistent snapshots: the hash goes in front of the file name alone.
    ///
    /// # Source
    /// TUF 6.2: `HASH.FILENAME` in the same directory.
    pub fn consistent(&self, sha256: &crate::Sha256) -> String {
        format!("{}/{}/{}/{sha256}.{}", self.vendor, self.codename, self.channel, self.file)
    }
}

impl fmt::Display for TargetPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.vendor, self.codename, self.channel, self.file)
    }
}

impl FromStr for TargetPath {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for TargetPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TargetPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_paths_of_other_shapes() {
        for text in ["", "a", "a/b/c", "a/b/c/d/e", "a/b/c/", "/a/b/c/d", "a/../c/d", "a/b/c/..", "a/b/c/d\n"] {
            assert!(TargetPath::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn puts_the_hash_before_the_file_name_alone() {
        let path = TargetPath::parse("xiaomi/ginkgo/stable/x.rvp").unwrap();

        let stored = path.consistent(&crate::Sha256::new([0xab; 32]));

        assert_eq!(stored, format!("xiaomi/ginkgo/stable/{}.x.rvp", "ab".repeat(32)));
    }
}
