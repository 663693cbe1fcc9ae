//! What the apps of phones would refuse of a device's packages, or not see, said before phones notice.

use relevo_meta::TrustedDevice;
use relevo_types::{Channel, PackageKind};
use serde::Serialize;

use crate::{
    answer,
    offer::{Build, ChannelOffer, Device, Offers, Wanted},
    site::{BaseUrl, Site},
    table::{Dialect, Table},
};

/// Stands for a public address in answers that are only measured; about as long as one is.
const MEASURED: &str = "https://updates.example.org/";

/// One thing that apps would not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// What kind of thing, for programs.
    pub code: &'static str,
    /// The channel that it is about.
    pub channel: Channel,
    /// What is wrong.
    pub text: String,
    /// What to do about it.
    pub fix: &'static str,
}

/// What apps would refuse of the newest builds of a device, for each channel.
///
/// `has_zips` says whether the device is one whose phones install zips at all: kinds `ab` and `block`.
pub fn lint(device: &TrustedDevice, has_zips: bool, table: &Table) -> Vec<Warning> {
    if !has_zips {
        return Vec::new();
    }
    let offers = Offers::of([device]);
    let mut warnings = Vec::new();
    for (place, channel) in offers.devices().iter().flat_map(|device| device.channels.iter().enumerate()) {
        let mut found = Found { channel: &channel.channel, warnings: &mut warnings };
        zips(device, &mut found);
        facts(channel, &mut found);
        versions(channel, &mut found);
        release_types(device, &mut found);
        floors(channel, &mut found);
        lengths(&offers, place, table, &mut found);
    }
    warnings
}

struct Found<'a> {
    channel: &'a Channel,
    warnings: &'a mut Vec<Warning>,
}

impl Found<'_> {
    fn add(&mut self, code: &'static str, text: String, fix: &'static str) {
        self.warnings.push(Warning { code, channel: self.channel.clone(), text, fix });
    }
}

/// Packages that only `relevo-updater` installs, and zips that cannot be streamed.
fn zips(device: &TrustedDevice, found: &mut Found<'_>) {
    let packages = || device.packages.iter().filter(|package| package.path.channel() == found.channel);
    let Some(newest) = packages().max_by_key(|package| package.custom.timestamp) else { return };
    let of_newest: Vec<_> = packages().filter(|package| package.custom.to == newest.custom.to).collect();
    let build = newest.custom.to.clone();
    if of_newest.iter().all(|package| package.custom.kind == PackageKind::Native) {
        found.add(
            "no-zip",
            format!("build {build} has native packages alone; updater apps of ROMs are not told of it"),
            "give the device a key for OTA zips (`relevo device add --ota-key PEM --ota-cert PEM`), and make the packages anew",
        );
        return;
    }
    if !of_newest.iter().any(|package| package.custom.kind != PackageKind::Native && package.custom.from.is_none()) {
        found.add(
            "no-full-zip",
            format!("build {build} has no full zip; only phones with a build that a delta starts from are told of it"),
            "import the build without --no-full",
        );
    }
    let without = of_newest.iter().find(|package| {
        let said = |key: &str| package.custom.ab.as_ref().is_some_and(|ab| ab.properties.contains_key(key));
        package.custom.kind == PackageKind::Ab
            && !["FILE_HASH", "FILE_SIZE", "METADATA_HASH", "METADATA_SIZE"].into_iter().all(said)
    });
    if let Some(package) = without {
        let text = format!("{}: the properties of its payload are not known", package.path.file());
        found.add("properties-missing", text, "import the zip with this version of relevo");
    }
}

/// What LineageOS's updaters and streaming need to be told.
fn facts(channel: &ChannelOffer, found: &mut Found<'_>) {
    let Some(build) = channel.builds.first() else { return };
    let id = &build.id;
    if build.sdk.is_none() {
        found.add(
            "no-sdk",
            format!("build {id} does not say its API level; LineageOS's updater of 23.2 and later hides it"),
            "give `relevo import --sdk LEVEL`",
        );
    }
    if build.spl.is_none() {
        found.add(
            "no-patch-level",
            format!("build {id} does not say its security patch level; updaters show none"),
            "give `relevo import --spl YYYY-MM-DD`",
        );
    }
    if build.release.is_none() {
        found.add(
            "no-version",
            format!("no version is known of build {id}; LineageOS's updaters are not told of it"),
            "give `relevo import --version TEXT` with a number in it, such as 22.2",
        );
    }
    let package = build.full.iter().chain(&build.deltas).find(|package| package.property_files.is_none());
    if let Some(package) = package.filter(|package| package.kind == PackageKind::Ab) {
        found.add(
            "no-property-files",
            format!("{}: its metadata do not say where its parts are; it cannot be streamed", package.path.file()),
            "make the OTA with ota_from_target_files, or with `relevo delta`",
        );
    }
}

/// Versions as LineageOS's updater of up to 22.2 compares them: as text, and it installs only its own.
fn versions(channel: &ChannelOffer, found: &mut Found<'_>) {
    let release = |build: &Build| build.release.clone();
    for pair in channel.builds.windows(2) {
        let [newer, older] = pair else { continue };
        let (Some(new), Some(old)) = (release(newer), release(older)) else { continue };
        let (a, b) = (&newer.id, &older.id);
        if new < old {
            found.add(
                "version-order",
                format!(
                    "version {new} of build {a} comes before {old} of build {b} as text; phones with {b} do not list it"
                ),
                "keep the number of digits of the version, or give the new one a channel of its own",
            );
        } else if new != old {
            found.add(
                "version-change",
                format!("version {new} of build {a} is not {old} of build {b}; LineageOS's updater of up to 22.2 lists it and does \
                         not install it"),
                "tell users to install this build by hand, or by `relevo-updater`",
            );
        }
        // Older steps are behind everybody who updates.
        break;
    }
}

/// Phones ask with the release type that their build has.
fn release_types(device: &TrustedDevice, found: &mut Found<'_>) {
    let mut types: Vec<(jiff::Timestamp, &str)> = device
        .packages
        .iter()
        .filter(|package| package.path.channel() == found.channel)
        .filter_map(|package| Some((package.custom.timestamp, package.custom.ab.as_ref()?.release_type.as_deref()?)))
        .collect();
    types.sort_unstable();
    types.reverse();
    let Some((_, newest)) = types.first() else { return };
    if let Some((_, before)) = types.iter().find(|(_, other)| !other.eq_ignore_ascii_case(newest)) {
        let text = format!(
            "the release type goes from {before} to {newest}; phones of {before} are not told of the new builds"
        );
        found.add(
            "release-type",
            text,
            "build with the release type that the channel had, or give the new one a channel",
        );
    }
}

/// A floor counts only for phones that say what they run.
fn floors(channel: &ChannelOffer, found: &mut Found<'_>) {
    let Some(build) = channel.builds.first() else { return };
    if let Some(floor) = build.full.as_ref().and_then(|full| full.floor.as_ref()) {
        found.add(
            "floor",
            format!(
                "build {} needs {floor} first; apps that do not say which build they run are not told of it",
                build.id
            ),
            "have the ROM ask by a path with {incr}: docs/api.md, \"Dialects of other updaters\"",
        );
    }
}

/// Answers that are longer than apps take.
fn lengths(offers: &Offers, place: usize, table: &Table, found: &mut Found<'_>) {
    let Ok(public) = BaseUrl::parse(MEASURED) else { return };
    let site = Site { public: Some(public), mirrors: Vec::new() };
    let Some(device) = offers.devices().first() else { return };
    for dialect in table.dialects() {
        let Some(most) = dialect.max_bytes else { continue };
        let (longest, listed, all) = measure(dialect, device, place, &site);
        if listed < all {
            found.add(
                "too-long",
                format!(
                    "{}: an answer for {} has {longest} bytes, and its apps take {most}; of {all} packages it lists {listed}",
                    dialect.name, device.codename
                ),
                "withdraw old builds, or import zips whose `ota-property-files` are shorter",
            );
        }
    }
}

/// The longest answer, and how many packages of it are listed in the end, of how many.
fn measure(dialect: &Dialect, device: &Device, place: usize, site: &Site) -> (usize, usize, usize) {
    let sources = std::iter::once(None).chain(device.sources().map(Some));
    let lengths = sources.map(|source| {
        let packages = format!("{}repo/targets/", site.public.as_ref().map_or("", BaseUrl::as_str));
        let entries =
            answer::list(device, device.codename.as_str(), Wanted::Channel(place), source, &packages, dialect.builds);
        let items: Vec<_> = entries.iter().filter_map(|entry| dialect.item.fill(entry).ok()).collect();
        let len = |items: &[serde_json::Value]| dialect.body.wrap(items).map_or(0, |body| body.to_string().len());
        let fits = |count: &usize| dialect.max_bytes.is_none_or(|most| len(&items[..*count]) <= most);
        let listed = (0..=items.len()).rev().find(fits).unwrap_or(0);
        (len(&items), listed, items.len())
    });
    lengths.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use relevo_meta::testing::TestRepo;
    use serde_json::{Value, json};

    use super::*;

    fn custom(to: u32) -> Value {
        let properties = ["FILE_HASH", "FILE_SIZE", "METADATA_HASH", "METADATA_SIZE"].map(|key| (key, "1"));
        json!({
            "kind": "ab", "to": to.to_string(), "version": "LineageOS 22.2", "timestamp": 1_767_000_000 + i64::from(to),
            "sdk": 35, "spl": "2026-01-05",
            "ab": {
                "payload": {"offset": 1, "size": 1, "sha256": "11".repeat(32)},
                "metadata": {"offset": 1, "size": 1, "sha256": "22".repeat(32)},
                "properties": std::collections::BTreeMap::from(properties),
                "property_files": "payload.bin:1:1", "lineage_version": "22.2", "release_type": "UNOFFICIAL",
            },
        })
    }

    /// Codes of what is said of two full packages on `stable`, after `change` was at the second.
    fn codes(change: impl FnOnce(&mut Value)) -> Vec<&'static str> {
        let mut second = custom(2);
        change(&mut second);
        codes_of(&[custom(1), second])
    }

    fn codes_of(packages: &[Value]) -> Vec<&'static str> {
        let mut repo = TestRepo::new();
        repo.add_device("xiaomi", "ginkgo");
        for (number, custom) in packages.iter().enumerate() {
            repo.add_target(&format!("xiaomi/ginkgo/stable/{number}.zip"), &[u8::try_from(number).unwrap()], custom);
        }
        repo.publish();
        let run = repo.refresh(&repo.stored_root(), TestRepo::device_scope("xiaomi", "ginkgo"));
        let trusted = run.result.unwrap();
        let device = trusted.devices().values().next().unwrap();
        assert_eq!(lint(device, false, &Table::built_in()), []);
        lint(device, true, &Table::built_in()).into_iter().map(|warning| warning.code).collect()
    }

    #[test]
    fn what_every_app_takes_has_nothing_wrong_with_it() {
        assert_eq!(codes(|_| {}), <[&str; 0]>::default());
        assert_eq!(codes_of(&[]), <[&str; 0]>::default());
    }

    #[test]
    fn each_thing_that_an_app_would_not_take_has_its_code() {
        let without = |pointer: &'static str, key: &'static str| {
            move |custom: &mut Value| {
                custom.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(key);
            }
        };
        let with = |pointer: &'static str, value: Value| {
            move |custom: &mut Value| *custom.pointer_mut(pointer).unwrap() = value
        };

        assert_eq!(codes(without("", "sdk")), ["no-sdk"]);
        assert_eq!(codes(without("", "spl")), ["no-patch-level"]);
        assert_eq!(codes(without("/ab", "property_files")), ["no-property-files"]);
        assert_eq!(codes(without("/ab/properties", "FILE_HASH")), ["properties-missing"]);
        assert_eq!(codes(with("/ab/lineage_version", "23.0".into())), ["version-change"]);
        assert_eq!(codes(with("/ab/lineage_version", "9.1".into())), ["version-change"]);
        assert_eq!(codes(with("/ab/lineage_version", "10".into())), ["version-order"]);
        assert_eq!(codes(with("/ab/release_type", "NIGHTLY".into())), ["release-type"]);
        assert_eq!(codes(with("/ab/release_type", "unofficial".into())), <[&str; 0]>::default());
        assert_eq!(codes(|custom| custom["floor"] = "1".into()), ["floor"]);
        assert_eq!(codes(|custom| custom["from"] = "1".into()), ["no-full-zip"]);
        assert_eq!(
            codes(|custom| {
                custom["kind"] = "native".into();
                custom.as_object_mut().unwrap().remove("ab");
            }),
            ["no-zip"]
        );
        assert_eq!(
            codes(|custom| {
                custom["version"] = "Lineage".into();
                custom["ab"].as_object_mut().unwrap().remove("lineage_version");
            }),
            ["no-version"]
        );
    }

    #[test]
    fn an_answer_that_an_app_would_refuse_is_told_of_with_its_length() {
        let long = |to| {
            let mut custom = custom(to);
            custom["ab"]["property_files"] = "x".repeat(12_000).into();
            custom
        };
        let packages = [long(1), long(2), long(3), long(4)];
        assert_eq!(codes_of(&packages), ["too-long"]);
        assert_eq!(codes_of(&packages[..2]), <[&str; 0]>::default());
    }
}
