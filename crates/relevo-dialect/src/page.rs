//! Answers that are more than a path and a shape of JSON.

use std::{borrow::Cow, collections::BTreeMap};

use relevo_types::Channel;
use serde_json::{Value, json};

use crate::{
    answer::{NoAnswer, Question, What},
    offer::{Build, Device, Offers, Package, Wanted},
    pattern::{Captures, Parts},
};

/// Which answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Page {
    /// `/api/v1/types/{device}`: the release types of a device.
    Types,
    /// `/api/v1/devices`: devices by version.
    Devices,
    /// `/api/v2/oems`: devices by vendor.
    Oems,
    /// `/api/v2/devices/{device}`: one device.
    Device,
    /// `/graphene/{device}-{channel}`: the newest build of a channel, in one line.
    GrapheneChannel,
    /// `/graphene/overview.json`: the newest build of every channel of every device.
    GrapheneOverview,
    /// `/custota/{device}.json`: Custota's update info. Its paths start from there, or from one directory further down if
    /// the channel is in the path.
    Custota {
        /// Whether it is.
        has_channel: bool,
    },
}

/// The page of a path.
pub(crate) fn find<'t, 'p>(path: &Parts<'p>) -> Option<Question<'t, 'p>> {
    let page = |page, device: &'p str| {
        let captures = Captures { device: Cow::Borrowed(device), ..Captures::default() };
        Some(Question { what: What::Page(page), captures })
    };
    match path.as_slice() {
        ["api", "v1", "types", device] => page(Page::Types, device),
        ["api", "v1", "devices"] => page(Page::Devices, ""),
        ["api", "v2", "oems"] => page(Page::Oems, ""),
        ["api", "v2", "devices", device] => page(Page::Device, device),
        ["graphene", "overview.json"] => page(Page::GrapheneOverview, ""),
        // A codename may have a dash in it, so a channel that has one cannot be asked for here.
        ["graphene", name] => {
            let (device, channel) = name.rsplit_once('-')?;
            Channel::parse(channel).ok()?;
            let (device, channel) = (Cow::Borrowed(device), Some(Cow::Borrowed(channel)));
            let captures = Captures { device, channel, ..Captures::default() };
            Some(Question { what: What::Page(Page::GrapheneChannel), captures })
        }
        ["custota", file] => page(Page::Custota { has_channel: false }, file.strip_suffix(".json")?),
        ["custota", channel, file] => {
            let (device, channel) = (Cow::Borrowed(file.strip_suffix(".json")?), Some(Cow::Borrowed(*channel)));
            let captures = Captures { device, channel, ..Captures::default() };
            Some(Question { what: What::Page(Page::Custota { has_channel: true }), captures })
        }
        _ => None,
    }
}

impl Page {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::GrapheneChannel => "text/plain; charset=utf-8",
            _ => "application/json",
        }
    }

    /// # Source
    /// `lineageos-infra/updater`, `api_v1.py` and `api_v2.py`, for the shapes of the first four.
    pub(crate) fn answer(self, name: Option<usize>, wanted: Wanted, offers: &Offers) -> Result<Vec<u8>, NoAnswer> {
        let named = name.map(|name| offers.named(name));
        let value = match self {
            Self::Types => json!({"response": named.map(|(_, device)| device.release_types()).unwrap_or_default()}),
            Self::Devices => {
                let mut by_version: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
                for device in offers.devices() {
                    for release in device.releases() {
                        by_version.entry(release).or_default().push(device.codename.as_str());
                    }
                }
                json!(by_version)
            }
            Self::Oems => {
                let mut by_vendor: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
                for device in offers.devices() {
                    let codename = device.codename.as_str();
                    let entry = json!({"model": codename, "name": codename});
                    by_vendor.entry(device.vendor.as_str()).or_default().push(entry);
                }
                let oems = by_vendor.into_iter().map(|(vendor, devices)| json!({"name": vendor, "devices": devices}));
                Value::Array(oems.collect())
            }
            Self::GrapheneChannel => {
                let (name, device) = named.ok_or(NoAnswer::Absent)?;
                let (channel, build) = newest(device, wanted).ok_or(NoAnswer::Absent)?;
                let (incremental, made) = (&build.incremental, build.made.as_second());
                return Ok(format!("{incremental} {made} {name} {channel}\n").into_bytes());
            }
            Self::Custota { has_channel } => {
                let (_, device) = named.ok_or(NoAnswer::Absent)?;
                update_info(device, wanted, if has_channel { "../../" } else { "../" }).ok_or(NoAnswer::Absent)?
            }
            Self::GrapheneOverview => {
                let mut overview: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
                for device in offers.devices() {
                    let channels =
                        (0..device.channels.len()).filter_map(|place| newest(device, Wanted::Channel(place)));
                    let channels = channels.map(|(channel, build)| (channel.as_str(), build.incremental.as_str()));
                    overview.insert(device.codename.as_str(), channels.collect());
                }
                json!(overview)
            }
            Self::Device => {
                let (_, device) = named.ok_or(NoAnswer::Absent)?;
                let (codename, vendor) = (device.codename.as_str(), device.vendor.as_str());
                let (versions, dependencies) = (device.releases(), Vec::<Value>::new());
                json!({
                    "model": codename, "name": codename, "oem": vendor, "info_url": "", "versions": versions,
                    "dependencies": dependencies,
                })
            }
        };
        Ok(value.to_string().into_bytes())
    }
}

/// The newest build that every phone of a channel may go to: with a full package, and without a floor.
fn newest(device: &Device, wanted: Wanted) -> Option<(&Channel, &Build)> {
    let offered = device.offered(wanted, None);
    offered.into_iter().find(|offered| offered.full.is_some()).map(|offered| (&offered.channel.channel, offered.build))
}

/// What Custota installs: the newest build whose full package has a signed message, and deltas to it or to a later one by
/// what their phones have booted. The app does not take an answer without a full package.
///
/// # Source
/// `chenxiaolong/Custota`, README, "Update info"; `UpdaterThread.kt`, `resolveUri` for what a path may be.
fn update_info(device: &Device, wanted: Wanted, up: &str) -> Option<Value> {
    let location = |package: &Package| {
        let (csig, sha256) = package.csig.as_ref()?;
        let ota = package.path.consistent(&package.sha256);
        let path = |path: &str| format!("{up}repo/targets/{path}");
        Some(json!({"location_ota": path(&ota), "location_csig": path(&csig.consistent(sha256))}))
    };
    let open = device.offered(wanted, None);
    let (made, full) = open.iter().find_map(|offered| Some((offered.build.made, location(offered.full?)?)))?;
    let Wanted::Channel(place) = wanted else { return None };
    let mut incremental = serde_json::Map::new();
    for build in device.channels.get(place)?.builds.iter().filter(|build| build.made >= made) {
        for delta in build.deltas.iter().filter(|delta| device.is_open(delta)) {
            let Some((digest, location)) = delta.from_vbmeta_digest.zip(location(delta)) else { continue };
            // The newest build comes first, and its smallest delta.
            incremental.entry(digest.to_string()).or_insert(location);
        }
    }
    Some(json!({"version": 2, "full": full, "incremental": incremental}))
}
