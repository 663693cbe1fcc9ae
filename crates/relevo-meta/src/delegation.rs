//! Which paths a delegation is responsible for.

use relevo_types::{Codename, TargetPath, Vendor};
use sigstore_tuf::{DelegatedRole, Error};

/// Longest role name; it has to fit into a file name, escaped.
const MAX_ROLE: usize = 80;

/// How much of a device's paths a delegation is responsible for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cover {
    Nothing,
    /// Some, such as one channel.
    Some,
    /// Every path that the device can have.
    All,
}

/// Name of a vendor's role.
#[cfg(feature = "authoring")]
pub(crate) fn vendor_role(vendor: &Vendor) -> String {
    format!("v-{vendor}")
}

/// Name of a device's role.
pub(crate) fn device_role(codename: &Codename) -> String {
    format!("d-{codename}")
}

/// The channel that a device can leave to a build machine.
#[cfg(feature = "authoring")]
pub(crate) const NIGHTLY: &str = "nightly";

/// Name of the role that signs a device's nightly channel alone.
#[cfg(feature = "authoring")]
pub(crate) fn nightly_role(codename: &Codename) -> String {
    format!("d-{codename}-{NIGHTLY}")
}

/// Whether a delegation to this name is followed at all.
pub(crate) fn is_usable(name: &str) -> bool {
    let reserved = matches!(name, "root" | "timestamp" | "snapshot" | "targets");
    !reserved && !name.is_empty() && name.len() <= MAX_ROLE
}

/// The role's name as it stands in file names and URLs: everything outside RFC 3986's unreserved set is escaped.
pub(crate) fn encode_role(role: &str) -> String {
    let mut text = String::with_capacity(role.len());
    for byte in role.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => text.push(byte as char),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// How much of the device's paths `<vendor>/<codename>/<channel>/<file>` the delegation is responsible for.
///
/// Hash-prefix delegations count as none: they cannot group the files of a device, and nothing of ours makes them.
pub(crate) fn cover(role: &DelegatedRole, vendor: &Vendor, codename: &Codename) -> Result<Cover, Error> {
    if role.path_hash_prefixes.is_some() {
        return Ok(Cover::Nothing);
    }
    let mut cover = Cover::Nothing;
    for pattern in role.paths.iter().flatten() {
        let segments: Vec<&str> = pattern.split('/').collect();
        let [head_vendor, head_codename, tail @ ..] = segments.as_slice() else { continue };
        if tail.len() != 2
            || !segment_matches(role, head_vendor, vendor.as_str())?
            || !segment_matches(role, head_codename, codename.as_str())?
        {
            continue;
        }
        if tail == ["*", "*"] {
            return Ok(Cover::All);
        }
        cover = Cover::Some;
    }
    Ok(cover)
}

/// The device whose own role this delegation is: named `d-<codename>`, with paths `<vendor>/<codename>/…`.
pub(crate) fn device_of(role: &DelegatedRole) -> Option<(Vendor, Codename)> {
    let name = role.name.strip_prefix("d-")?;
    role.paths.iter().flatten().find_map(|pattern| {
        let segments: Vec<&str> = pattern.split('/').collect();
        match segments.as_slice() {
            [vendor, codename, _, _] if *codename == name => {
                Some((Vendor::parse(vendor).ok()?, Codename::parse(codename).ok()?))
            }
            _ => None,
        }
    })
}

/// Whether the delegation is responsible for `path`.
pub(crate) fn matches(role: &DelegatedRole, path: &TargetPath) -> Result<bool, Error> {
    if role.path_hash_prefixes.is_none() {
        // Most delegations name their vendor or device literally; comparing that first saves compiling patterns for
        // every other device of a large repository.
        let foreign = role.paths.iter().flatten().all(|pattern| {
            let mut segments = pattern.split('/');
            let mut differs =
                |text: &str| segments.next().is_some_and(|segment| is_literal(segment) && segment != text);
            differs(path.vendor().as_str()) || differs(path.codename().as_str())
        });
        if foreign {
            return Ok(false);
        }
    }
    role.matches_path(&path.to_string())
}

fn is_literal(segment: &str) -> bool {
    !segment.contains(['*', '?', '[', ']'])
}

fn segment_matches(role: &DelegatedRole, segment: &str, text: &str) -> Result<bool, Error> {
    if is_literal(segment) {
        return Ok(segment == text);
    }
    if segment == "*" {
        return Ok(true);
    }
    // The core's own patterns decide, so that this answer and the final one cannot differ.
    let mut probe = role.clone();
    probe.paths = Some(vec![segment.to_owned()]);
    probe.matches_path(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, paths: &[&str]) -> DelegatedRole {
        serde_json::from_value(serde_json::json!({"name": name, "keyids": [], "threshold": 1, "paths": paths})).unwrap()
    }

    fn device() -> (Vendor, Codename) {
        (Vendor::parse("xiaomi").unwrap(), Codename::parse("ginkgo").unwrap())
    }

    #[test]
    fn a_delegation_covers_a_device_by_its_first_two_parts() {
        let (vendor, codename) = device();
        let cover = |paths: &[&str]| cover(&role("x", paths), &vendor, &codename).unwrap();

        assert_eq!(cover(&["xiaomi/ginkgo/*/*"]), Cover::All);
        assert_eq!(cover(&["xiaomi/*/*/*"]), Cover::All);
        assert_eq!(cover(&["xia*/g?nkgo/*/*"]), Cover::All);
        assert_eq!(cover(&["xiaomi/ginkgo/nightly/*"]), Cover::Some);
        assert_eq!(cover(&["xiaomi/willow/*/*", "samsung/*/*/*"]), Cover::Nothing);
        assert_eq!(cover(&["xiaomi/ginkgo/*", "*"]), Cover::Nothing);
        assert_eq!(cover(&[]), Cover::Nothing);
    }

    #[test]
    fn a_device_role_is_known_by_name_and_path_together() {
        assert_eq!(device_of(&role("d-ginkgo", &["xiaomi/ginkgo/*/*"])), Some(device()));
        assert_eq!(device_of(&role("d-ginkgo", &["xiaomi/willow/*/*"])), None);
        assert_eq!(device_of(&role("ginkgo", &["xiaomi/ginkgo/*/*"])), None);
        assert_eq!(device_of(&role("d-ginkgo", &["*/ginkgo/*/*"])), None);
    }

    #[test]
    fn the_short_cut_answers_as_the_patterns_do() {
        let path = TargetPath::parse("xiaomi/ginkgo/stable/a.rvp").unwrap();

        for pattern in ["xiaomi/ginkgo/*/*", "*/*/*/*", "xiaomi/*/stable/*.rvp", "samsung/*/*/*", "xiaomi/ginkgo", "*"]
        {
            let role = role("x", &[pattern]);
            assert_eq!(matches(&role, &path).unwrap(), role.matches_path(&path.to_string()).unwrap(), "{pattern}");
        }
    }

    #[test]
    fn role_names_cannot_leave_their_directory() {
        assert_eq!(encode_role("d-ginkgo"), "d-ginkgo");
        assert_eq!(encode_role("../x y"), "..%2Fx%20y");
    }
}
