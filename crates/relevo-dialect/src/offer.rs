//! What a repository offers to updater apps that cannot read its signed metadata.
//!
//! These apps have no dice, know no floors and take no keys but the one that signed the zip. So they are offered less than
//! a phone with `relevo-updater`: only zips, nothing that is rolled out to less than all, nothing that was withdrawn,
//! nothing of a device whose role expired, and what has a floor only to who says by the build that it runs that the floor
//! is behind it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use jiff::Timestamp;
use relevo_meta::{Ab, Custom, Trusted, TrustedDevice};
use relevo_types::{BuildId, ByteLen, Channel, Codename, PackageKind, Sha256, TargetPath, Vendor};

/// What a verified state of a repository offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offers {
    devices: Vec<Device>,
    /// Names that phones have for themselves, and the device that each one is.
    names: Vec<(String, usize)>,
    by_name: HashMap<String, usize>,
    packages: HashSet<(TargetPath, Sha256)>,
    /// Packages by the names that GrapheneOS's updater makes for them.
    graphene: HashMap<String, (TargetPath, Sha256)>,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its vendor.
    pub vendor: Vendor,
    /// Its codename.
    pub codename: Codename,
    /// When nobody vouches for its builds any more.
    pub expires: Timestamp,
    /// Its channels that hold anything, the one for who does not ask for another first.
    pub channels: Vec<ChannelOffer>,
    /// `ro.build.version.incremental` of every build that is known, and when it was made where that is known too.
    sources: Vec<Source>,
    by_source: HashMap<String, usize>,
}

/// A build that phones may run.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    incremental: String,
    made: Option<Timestamp>,
}

/// A channel of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelOffer {
    /// Its name.
    pub channel: Channel,
    /// When nobody vouches for its builds any more; before the device's own role, if another role speaks for them.
    pub expires: Timestamp,
    /// `ro.lineage.releasetype` of its newest build that says one, as it stands there.
    pub release_type: Option<String>,
    /// Its builds with something to offer, the newest first.
    pub builds: Vec<Build>,
}

/// A build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Its id.
    pub id: BuildId,
    /// `ro.build.version.incremental`, by which phones know it; its id unless the zip says another.
    pub incremental: String,
    /// Its version, for people.
    pub version: String,
    /// The version that LineageOS's updater compares: what the build says, or the first number of [`Self::version`].
    pub release: Option<String>,
    /// Its release type; the channel's name where no build of the channel says one.
    pub release_type: String,
    /// When it was made.
    pub made: Timestamp,
    /// Android API level.
    pub sdk: Option<u32>,
    /// Security patch level.
    pub spl: Option<jiff::civil::Date>,
    /// Its full package.
    pub full: Option<Package>,
    /// Deltas that lead to it and are smaller than the full package, smallest first.
    pub deltas: Vec<Package>,
}

/// A zip that is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Where it is in the repository.
    pub path: TargetPath,
    /// Its digest.
    pub sha256: Sha256,
    /// Its length.
    pub length: ByteLen,
    /// Its kind: `ab` or `block`.
    pub kind: PackageKind,
    /// `ro.build.version.incremental` of the build that it starts from; none for a full package.
    pub from: Option<String>,
    /// A build that must come first.
    pub floor: Option<BuildId>,
    /// `ota-property-files` of its metadata; none if they do not say.
    pub property_files: Option<String>,
    /// `ota-streaming-property-files`, the same.
    pub streaming_property_files: Option<String>,
    /// Fingerprint of the build that it makes.
    pub fingerprint: Option<String>,
    /// Where the message for Custota is, `<file>.csig`, and its digest.
    pub csig: Option<(TargetPath, Sha256)>,
    /// `ro.boot.vbmeta.digest` of the build that it starts from.
    pub from_vbmeta_digest: Option<Sha256>,
}

/// A build with what of it is for one phone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offered<'a> {
    /// The channel.
    pub channel: &'a ChannelOffer,
    /// The build.
    pub build: &'a Build,
    /// The delta from the build that the phone says it runs.
    pub delta: Option<&'a Package>,
    /// The full package.
    pub full: Option<&'a Package>,
}

/// A build that a phone says it runs, and the repository knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SourceId(usize);

/// Which channels of a device are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// One that the device does not have.
    None,
    /// The one at this place of [`Device::channels`].
    Channel(usize),
    /// One for each release type, since the phone goes by those; of the channels whose bits are set.
    EachReleaseType(u64),
}

impl Offers {
    /// What a verified state offers.
    pub fn new(trusted: &Trusted) -> Self {
        let mut offers = Self::of(trusted.devices().values());
        for device in &mut offers.devices {
            if let Some(vendor) = trusted.roles().get(&format!("v-{}", device.vendor)) {
                device.expires = device.expires.min(vendor.expires);
            }
            let Some(signed) = trusted.device(&device.codename) else { continue };
            // Which of the roles below lists a package is not said; there is one of them, or the first that ends counts.
            let below = signed.roles.iter().skip(1).filter_map(|role| Some(trusted.roles().get(role)?.expires)).min();
            for channel in &mut device.channels {
                let is_below = signed.delegated.keys().any(|path| *path.channel() == channel.channel);
                channel.expires = below.filter(|_| is_below).map_or(device.expires, |below| below.min(device.expires));
            }
        }
        offers
    }

    /// What devices offer, whatever becomes of their vendors' roles.
    pub(crate) fn of<'a>(devices: impl IntoIterator<Item = &'a TrustedDevice>) -> Self {
        let devices: Vec<&TrustedDevice> = devices.into_iter().collect();
        let mut offers = Self::default();
        for device in &devices {
            offers.packages.extend(
                device
                    .packages
                    .iter()
                    .filter(|package| !package.custom.withdrawn)
                    .map(|package| (package.path.clone(), package.sha256)),
            );
            offers.devices.push(Device::new(device));
        }
        offers.name(&devices);
        offers.name_for_graphene();
        offers
    }

    /// The devices.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// Names that phones have for themselves, with the device that each one is.
    pub fn names(&self) -> impl Iterator<Item = (&str, &Device)> {
        self.names.iter().map(|(name, device)| (name.as_str(), &self.devices[*device]))
    }

    /// The place of a name among [`Self::names`], unless nobody vouches for its device any more.
    pub fn find(&self, name: &str, now: Timestamp) -> Option<usize> {
        let place = *self.by_name.get(name)?;
        (self.named(place).1.expires > now).then_some(place)
    }

    /// The name at a place, and its device.
    pub fn named(&self, place: usize) -> (&str, &Device) {
        let (name, device) = &self.names[place];
        (name, &self.devices[*device])
    }

    /// Whether the repository lists this file as a package that was not withdrawn.
    pub fn has_package(&self, path: &TargetPath, sha256: &Sha256) -> bool {
        self.packages.contains(&(path.clone(), *sha256))
    }

    /// The package that GrapheneOS's updater calls `file`, unless nobody vouches for its device any more.
    ///
    /// # Source
    /// `platform_packages_apps_Updater`, `Service.java`: `DEVICE-incremental-FROM-TO.zip`, then `DEVICE-ota_update-TO.zip`.
    pub fn graphene(&self, file: &str, now: Timestamp) -> Option<(&TargetPath, &Sha256)> {
        let (path, sha256) = self.graphene.get(file)?;
        let device = self.devices.iter().find(|device| device.codename == *path.codename())?;
        let wanted = device.vouched(device.channel(path.channel().as_str()), now);
        (device.expires > now && wanted != Wanted::None).then_some((path, sha256))
    }

    fn name_for_graphene(&mut self) {
        let mut files = HashMap::new();
        for (name, place) in &self.names {
            for build in self.devices[*place].channels.iter().flat_map(|channel| &channel.builds) {
                // The app goes by names alone, so it would take a package whose floor it does not know.
                for package in build.full.iter().chain(&build.deltas).filter(|package| package.floor.is_none()) {
                    let to = &build.incremental;
                    let file = match &package.from {
                        Some(from) => format!("{name}-incremental-{from}-{to}.zip"),
                        None => format!("{name}-ota_update-{to}.zip"),
                    };
                    files.entry(file).or_insert_with(|| (package.path.clone(), package.sha256));
                }
            }
        }
        self.graphene = files;
    }

    /// Gives each device its codename, and the other names that its zips have for it unless another device has them too.
    fn name(&mut self, devices: &[&TrustedDevice]) {
        let mut claims: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for (place, device) in devices.iter().enumerate() {
            let packages = device.packages.iter().filter_map(|package| package.custom.ab.as_ref());
            for alias in packages.flat_map(|ab| &ab.devices).filter(|alias| Codename::parse(alias).is_ok()) {
                claims.entry(alias).or_default().insert(place);
            }
        }
        for (place, device) in self.devices.iter().enumerate() {
            self.names.push((device.codename.to_string(), place));
        }
        for (alias, places) in claims {
            let taken = self.devices.iter().any(|device| device.codename.as_str() == alias);
            if let (false, 1, Some(place)) = (taken, places.len(), places.first()) {
                self.names.push((alias.to_owned(), *place));
            }
        }
        self.by_name = self.names.iter().enumerate().map(|(place, (name, _))| (name.clone(), place)).collect();
    }
}

impl Device {
    fn new(device: &TrustedDevice) -> Self {
        let mut channels: BTreeMap<&Channel, Vec<&relevo_meta::Package>> = BTreeMap::new();
        for package in &device.packages {
            channels.entry(package.path.channel()).or_default().push(package);
        }
        let mut channels: Vec<_> =
            channels.into_iter().map(|(channel, packages)| ChannelOffer::new(device, channel, &packages)).collect();
        // Who says nothing gets the calmest channel that the device has, even while that has nothing to offer.
        let calm = |channel: &Channel| match channel.as_str() {
            "stable" => 0,
            "beta" => 2,
            "alpha" => 3,
            "nightly" => 4,
            _ => 1,
        };
        channels.sort_by(|a, b| (calm(&a.channel), &a.channel).cmp(&(calm(&b.channel), &b.channel)));
        let (sources, by_source) = sources(device);
        Self {
            vendor: device.vendor.clone(),
            codename: device.codename.clone(),
            expires: device.expires,
            channels,
            sources,
            by_source,
        }
    }

    /// The build that a phone says it runs.
    pub fn source(&self, incremental: &str) -> Option<SourceId> {
        self.by_source.get(incremental).map(|place| SourceId(*place))
    }

    /// The release types that its phones ask with, in lower case, each once.
    pub fn release_types(&self) -> Vec<String> {
        let mut types: Vec<String> = Vec::new();
        for channel in &self.channels {
            let text = channel.release_type().to_ascii_lowercase();
            if !types.contains(&text) {
                types.push(text);
            }
        }
        types
    }

    /// Versions of what it offers, the newest build's first, each once.
    pub fn releases(&self) -> Vec<&str> {
        let mut builds: Vec<&Build> = self.channels.iter().flat_map(|channel| &channel.builds).collect();
        builds.sort_by_key(|build| std::cmp::Reverse(build.made));
        let mut releases = Vec::new();
        for release in builds.iter().filter_map(|build| build.release.as_deref()) {
            if !releases.contains(&release) {
                releases.push(release);
            }
        }
        releases
    }

    /// The channel of a name.
    pub fn channel(&self, name: &str) -> Wanted {
        let place = self.channels.iter().position(|offer| offer.channel.as_str() == name);
        place.map_or(Wanted::None, Wanted::Channel)
    }

    /// The channel for phones of a release type: the one of that name, else the first whose builds are of that type.
    pub fn release_type(&self, text: &str) -> Wanted {
        let named = self.channels.iter().position(|offer| offer.channel.as_str().eq_ignore_ascii_case(text));
        let typed = || self.channels.iter().position(|offer| offer.release_type().eq_ignore_ascii_case(text));
        named.or_else(typed).map_or(Wanted::None, Wanted::Channel)
    }

    /// The channel for who does not ask for one.
    pub fn first(&self) -> Wanted {
        if self.channels.is_empty() { Wanted::None } else { Wanted::Channel(0) }
    }

    /// One channel of each release type, of those that somebody vouches for.
    pub fn each_release_type(&self, now: Timestamp) -> Wanted {
        // A device has a handful of channels; from the 65th on they are asked for by their names.
        let places = self.channels.iter().take(64).zip(0..).filter(|(channel, _)| channel.expires > now);
        Wanted::EachReleaseType(places.fold(0, |bits, (_, place)| bits | 1 << place))
    }

    /// The same channel, unless nobody vouches for it any more.
    pub fn vouched(&self, wanted: Wanted, now: Timestamp) -> Wanted {
        match wanted {
            Wanted::Channel(place) if self.channels.get(place).is_none_or(|channel| channel.expires <= now) => {
                Wanted::None
            }
            wanted => wanted,
        }
    }

    /// What of the device is for a phone, the newest build first.
    pub fn offered(&self, wanted: Wanted, source: Option<SourceId>) -> Vec<Offered<'_>> {
        let channels: Vec<&ChannelOffer> = match wanted {
            Wanted::None => Vec::new(),
            Wanted::Channel(place) => self.channels.get(place).into_iter().collect(),
            Wanted::EachReleaseType(vouched) => {
                let is_vouched = |place: usize| {
                    u32::try_from(place).is_ok_and(|place| vouched.checked_shr(place).is_some_and(|bits| bits & 1 == 1))
                };
                let same = |a: &ChannelOffer, b: &ChannelOffer| a.release_type().eq_ignore_ascii_case(b.release_type());
                let first = |place: usize| !self.channels[..place].iter().any(|one| same(one, &self.channels[place]));
                (0..self.channels.len())
                    .filter(|&place| first(place) && is_vouched(place))
                    .map(|place| &self.channels[place])
                    .collect()
            }
        };
        let source = source.and_then(|id| self.sources.get(id.0));
        let mut offered: Vec<Offered<'_>> = channels
            .iter()
            .flat_map(|&channel| channel.builds.iter().map(move |build| (channel, build)))
            .filter_map(|(channel, build)| {
                let starts_here = |package: &&Package| {
                    source.is_some_and(|source| package.from.as_ref() == Some(&source.incremental))
                };
                let delta = build.deltas.iter().find(|delta| starts_here(delta) && self.is_above(delta, source));
                let full = build.full.as_ref().filter(|full| self.is_above(full, source));
                (delta.is_some() || full.is_some()).then_some(Offered { channel, build, delta, full })
            })
            .collect();
        offered.sort_by_key(|offered| std::cmp::Reverse(offered.build.made));
        offered
    }

    /// Whether a delta may be installed upon the build that it starts from.
    pub(crate) fn is_open(&self, delta: &Package) -> bool {
        let source = delta.from.as_deref().and_then(|from| self.by_source.get(from));
        self.is_above(delta, source.map(|place| &self.sources[*place]))
    }

    /// All builds that phones may say they run.
    pub fn sources(&self) -> impl Iterator<Item = SourceId> {
        (0..self.sources.len()).map(SourceId)
    }

    /// Whether the floor of a package is behind a phone that runs `source`. Nobody knows that of a phone that does not say.
    fn is_above(&self, package: &Package, source: Option<&Source>) -> bool {
        let Some(floor) = &package.floor else { return true };
        let made = |incremental: &str| self.by_source.get(incremental).and_then(|place| self.sources[*place].made);
        source.is_some_and(|source| {
            source.incremental == floor.as_str()
                || source.made.zip(made(floor.as_str())).is_some_and(|(source, floor)| source >= floor)
        })
    }
}

impl ChannelOffer {
    fn new(device: &TrustedDevice, channel: &Channel, packages: &[&relevo_meta::Package]) -> Self {
        let mut builds: BTreeMap<&BuildId, Vec<&relevo_meta::Package>> = BTreeMap::new();
        for package in packages {
            builds.entry(&package.custom.to).or_default().push(package);
        }
        // Also of what is not offered: a withdrawn build says as well what the phones of the channel ask with.
        let release_type = packages
            .iter()
            .filter_map(|package| Some((package.custom.timestamp, package.custom.ab.as_ref()?.release_type.clone()?)))
            .max()
            .map(|(_, text)| text);
        let mut builds: Vec<Build> = builds
            .into_iter()
            .filter_map(|(id, packages)| {
                Build::new(device, id, &packages, release_type.as_deref().unwrap_or(channel.as_str()))
            })
            .collect();
        builds.sort_by(|a, b| (b.made, &b.id).cmp(&(a.made, &a.id)));
        Self { channel: channel.clone(), expires: device.expires, release_type, builds }
    }

    /// The release type that phones of the channel ask with.
    pub fn release_type(&self) -> &str {
        self.release_type.as_deref().unwrap_or(self.channel.as_str())
    }
}

impl Build {
    /// `None` if nothing of it is offered.
    fn new(
        device: &TrustedDevice,
        id: &BuildId,
        packages: &[&relevo_meta::Package],
        release_type: &str,
    ) -> Option<Self> {
        let mut offered: Vec<Package> = packages.iter().filter_map(|package| Package::new(device, package)).collect();
        offered.sort_by(|a, b| (a.kind, a.length, &a.path).cmp(&(b.kind, b.length, &b.path)));
        let place = offered.iter().position(|package| package.from.is_none());
        let full = place.map(|place| offered.remove(place));
        offered
            .retain(|package| package.from.is_some() && full.as_ref().is_none_or(|full| package.length < full.length));
        if full.is_none() && offered.is_empty() {
            return None;
        }
        // Packages of one build should agree. Where they do not, the earliest date counts, as it does on phones of ours.
        let any = |read: &dyn Fn(&Custom) -> Option<String>| packages.iter().find_map(|package| read(&package.custom));
        let of_ab =
            |read: fn(&Ab) -> &Option<String>| any(&|custom| custom.ab.as_ref().and_then(|ab| read(ab).clone()));
        let version = any(&|custom| Some(custom.version.clone())).unwrap_or_else(|| id.to_string());
        Some(Self {
            incremental: of_ab(|ab| &ab.incremental).unwrap_or_else(|| id.to_string()),
            release: of_ab(|ab| &ab.lineage_version).or_else(|| first_number(&version)),
            release_type: of_ab(|ab| &ab.release_type).unwrap_or_else(|| release_type.to_owned()),
            made: packages.iter().map(|package| package.custom.timestamp).min()?,
            sdk: packages.iter().find_map(|package| package.custom.sdk),
            spl: packages.iter().find_map(|package| package.custom.spl),
            id: id.clone(),
            version,
            full,
            deltas: offered,
        })
    }
}

impl Package {
    /// `None` if it is not offered to apps of this kind.
    fn new(device: &TrustedDevice, package: &relevo_meta::Package) -> Option<Self> {
        let custom = &package.custom;
        if custom.kind == PackageKind::Native || custom.withdrawn || custom.rollout < 100 {
            return None;
        }
        let ab = custom.ab.as_ref();
        let line = |text: fn(&Ab) -> &String| ab.map(text).filter(|text| !text.trim().is_empty()).cloned();
        Some(Self {
            path: package.path.clone(),
            sha256: package.sha256,
            length: package.length,
            kind: custom.kind,
            from: source_of(custom),
            floor: custom.floor.clone(),
            property_files: line(|ab| &ab.property_files),
            streaming_property_files: line(|ab| &ab.streaming_property_files),
            fingerprint: ab.and_then(|ab| ab.fingerprint.clone()),
            csig: csig(device, &package.path),
            from_vbmeta_digest: ab.and_then(|ab| ab.from_vbmeta_digest),
        })
    }
}

/// The message for Custota beside a package.
fn csig(device: &TrustedDevice, package: &TargetPath) -> Option<(TargetPath, Sha256)> {
    let file = format!("{}.csig", package.file());
    let path = TargetPath::new(package.vendor(), package.codename(), package.channel(), &file).ok()?;
    let target = device.targets.get(&path)?;
    Some((path, target.sha256))
}

/// `ro.build.version.incremental` of the build that a package starts from; none for a full package.
fn source_of(custom: &Custom) -> Option<String> {
    let from = custom.from.as_ref()?;
    let said = custom.ab.as_ref().and_then(|ab| ab.from_incremental.clone());
    Some(said.unwrap_or_else(|| from.to_string()))
}

/// All builds that packages of a device name, from or to, offered or not.
fn sources(device: &TrustedDevice) -> (Vec<Source>, HashMap<String, usize>) {
    let mut known: BTreeMap<String, Option<Timestamp>> = BTreeMap::new();
    for package in &device.packages {
        let custom = &package.custom;
        if let Some(from) = source_of(custom) {
            known.entry(from).or_default();
        }
        let said = custom.ab.as_ref().and_then(|ab| ab.incremental.clone());
        // Floors are named by the build's id, phones know the other: mostly they are the same.
        for name in [Some(custom.to.to_string()), said].into_iter().flatten() {
            let made = known.entry(name).or_default();
            *made = Some(made.map_or(custom.timestamp, |made| made.min(custom.timestamp)));
        }
    }
    let by_name = known.keys().cloned().zip(0..).collect();
    (known.into_iter().map(|(incremental, made)| Source { incremental, made }).collect(), by_name)
}

/// The first number with or without points in a text: `22.2` of `LineageOS 22.2-20250505`.
fn first_number(text: &str) -> Option<String> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let number: String = text[start..].chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    Some(number.trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use relevo_meta::{
        Target,
        author::DeviceFile,
        testing::{TestRepo, key},
    };
    use serde_json::json;

    use super::*;
    use crate::{BaseUrl, Parts, Site, Table};

    #[test]
    fn a_build_boxs_builds_end_with_its_own_role() {
        let mut repo = TestRepo::new();
        repo.add_device("xiaomi", "ginkgo");
        let custom = |to: &str| json!({"kind": "ab", "to": to, "version": "22.2", "timestamp": 1_767_000_000});
        repo.add_target("xiaomi/ginkgo/stable/1.zip", b"stable", &custom("1"));
        let (vendor, codename) = ("xiaomi".parse().unwrap(), "ginkgo".parse().unwrap());
        let box_key = key("d-ginkgo-nightly").public().clone();
        let device = repo.devices.get_mut(&codename).unwrap();
        device.put_nightly(&vendor, &codename, &[box_key], 1).unwrap();
        let mut nightly = DeviceFile::new(repo.now + SignedDuration::from_hours(24 * 45));
        let path = TargetPath::parse("xiaomi/ginkgo/nightly/2.zip").unwrap();
        nightly.put_target(&path, Target::of(b"nightly"), &custom("2")).unwrap();
        repo.put("d-ginkgo-nightly", 1, &nightly);
        repo.snapshot.put_role("d-ginkgo-nightly", 1).unwrap();
        repo.publish();
        let run = repo.refresh(&repo.stored_root(), TestRepo::device_scope("xiaomi", "ginkgo"));
        let offers = Offers::new(&run.result.unwrap());
        let (table, site) =
            (Table::built_in(), Site { public: BaseUrl::parse("https://ota.example").ok(), mirrors: Vec::new() });
        let listed = |path: &str, days: i64| {
            let question = table.find(&Parts::new(path).unwrap()).unwrap();
            let key = question.key(&offers, repo.now + SignedDuration::from_hours(24 * days));
            let answer = question.answer(&key, &offers, &site).map(|answer| String::from_utf8(answer).unwrap());
            let answer = answer.unwrap_or_default();
            (answer.contains("1.zip") || answer.starts_with("1 "), answer.contains("2.zip") || answer.starts_with("2 "))
        };

        for (path, before) in [
            ("/api/v1/ginkgo/stable/x", (true, false)),
            ("/api/v1/ginkgo/nightly/x", (false, true)),
            ("/api/v2/devices/ginkgo/builds", (true, true)),
            ("/graphene/ginkgo-nightly", (false, true)),
        ] {
            assert_eq!(listed(path, 44), before, "{path}");
            assert_eq!(listed(path, 45), (before.0, false), "{path}");
        }
        let file = "ginkgo-ota_update-2.zip";
        let at = |days: i64| offers.graphene(file, repo.now + SignedDuration::from_hours(24 * days)).is_some();
        assert_eq!((at(44), at(45)), (true, false));
    }
}
