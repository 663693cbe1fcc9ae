//! What phones would do with a device's new state: each channel, each build that a phone may run, before it is published.
//!
//! Metadata that verifies can still be of no use, or harm: a package that no phone can check as it comes, a build that
//! phones take for older than it is, a state in which phones that could update no longer can. None of it can be seen by
//! looking at one package; all of it can be seen by playing the phones.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use relevo_meta::{
    Custom, Package, TrustedDevice,
    chunks::MAX_LIST,
    policy::{self, Choice, PhoneState, Reason},
};
use relevo_types::{BuildId, Channel, Codename, PackageKind, TargetPath};

/// What phones would have against a device's new state.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PhoneFault {
    /// Phones check packages as they come, chunk by chunk, and take none without a list of its chunks.
    #[error("{path} has no usable chunk list beside it, so no phone would download it")]
    NoChunkList {
        /// The package.
        path: Box<TargetPath>,
    },
    /// Packages that make the same build give it different dates.
    #[error("packages in the channel {channel} give build {build} the dates {one} and {other}")]
    Dates {
        /// The channel.
        channel: Channel,
        /// The build.
        build: BuildId,
        /// One date.
        one: Timestamp,
        /// Another.
        other: Timestamp,
    },
    /// A delta to a build that is not newer than the one that it starts from.
    #[error("{path} leads from build {from} to a build that is not newer, so no phone would install it")]
    Backwards {
        /// The package.
        path: Box<TargetPath>,
        /// The build that it starts from.
        from: BuildId,
    },
    /// A floor that is not older than what stands on it.
    #[error("{path} needs build {floor} first, which is not older, so no phone would install it")]
    Floor {
        /// The package.
        path: Box<TargetPath>,
        /// The build that must come first.
        floor: BuildId,
    },
    /// A phone that could update before, or was up to date, would be left behind.
    #[error("a phone of {device} that runs build {running} of the channel {channel} would be left behind")]
    LeftBehind {
        /// The device.
        device: Codename,
        /// The channel.
        channel: Channel,
        /// The build that it runs.
        running: BuildId,
        /// What it would say.
        source: Reason,
    },
}

/// Plays every phone on `before` and `after`.
pub(crate) fn phones(before: Option<&TrustedDevice>, after: &TrustedDevice, now: Timestamp) -> Result<(), PhoneFault> {
    for package in &after.packages {
        let usable = after.chunk_list(package).is_some_and(|(_, target)| target.length <= MAX_LIST);
        if !usable {
            return Err(PhoneFault::NoChunkList { path: Box::new(package.path.clone()) });
        }
    }
    let channels: BTreeSet<&Channel> = after.packages.iter().map(|package| package.path.channel()).collect();
    for channel in &channels {
        order(&made(after, channel)?, after, channel)?;
    }
    let Some(before) = before else { return Ok(()) };
    for channel in channels {
        left_behind(before, after, channel, now)?;
    }
    Ok(())
}

/// When the builds of a channel were made, as the packages that make them say.
fn made<'a>(device: &'a TrustedDevice, channel: &Channel) -> Result<BTreeMap<&'a BuildId, Timestamp>, PhoneFault> {
    let mut made = BTreeMap::new();
    for package in device.packages.iter().filter(|package| package.path.channel() == channel) {
        let (build, other) = (&package.custom.to, package.custom.timestamp);
        let one = *made.entry(build).or_insert(other);
        if one != other {
            return Err(PhoneFault::Dates { channel: channel.clone(), build: build.clone(), one, other });
        }
    }
    Ok(made)
}

/// Whether each package leads to a newer build than the one that it starts from or stands on, where that is known.
fn order(made: &BTreeMap<&BuildId, Timestamp>, device: &TrustedDevice, channel: &Channel) -> Result<(), PhoneFault> {
    for package in device.packages.iter().filter(|package| package.path.channel() == channel) {
        let path = || Box::new(package.path.clone());
        let is_older = |build: &BuildId| made.get(build).is_none_or(|made| *made < package.custom.timestamp);
        if let Some(from) = package.custom.from.as_ref().filter(|from| !is_older(from)) {
            return Err(PhoneFault::Backwards { path: path(), from: from.clone() });
        }
        if let Some(floor) = package.custom.floor.as_ref().filter(|floor| !is_older(floor)) {
            return Err(PhoneFault::Floor { path: path(), floor: floor.clone() });
        }
    }
    Ok(())
}

/// Whether a phone that could go on in the state before, or had nothing to do, stands before a wall now.
fn left_behind(
    before: &TrustedDevice,
    after: &TrustedDevice,
    channel: &Channel,
    now: Timestamp,
) -> Result<(), PhoneFault> {
    let mut kinds: Vec<PackageKind> = Vec::new();
    for package in before.packages.iter().filter(|package| package.path.channel() == channel) {
        if !kinds.contains(&package.custom.kind) {
            kinds.push(package.custom.kind);
        }
    }
    for kind in kinds {
        for (running, made) in running(before, channel, kind) {
            let phone = PhoneState {
                build: running.clone(),
                build_timestamp: made,
                channel: channel.clone(),
                seed: 0,
                failed: Vec::new(),
                kinds: vec![kind],
            };
            let choose = |device: &TrustedDevice| policy::choose(&undecided(device), &phone, now);
            let Choice::Nothing { reason: source @ (Reason::NoPath { .. } | Reason::FloorUnreachable { .. }) } =
                choose(after)
            else {
                continue;
            };
            if matches!(choose(before), Choice::UpToDate | Choice::Install(_)) {
                let (device, channel) = (after.codename.clone(), channel.clone());
                return Err(PhoneFault::LeftBehind { device, channel, running: running.clone(), source });
            }
        }
    }
    Ok(())
}

/// The builds that phones of a channel may run, and when they were made: those that packages led to, and those that they
/// start from, of which it is only known that they are older.
fn running<'a>(device: &'a TrustedDevice, channel: &Channel, kind: PackageKind) -> BTreeMap<&'a BuildId, Timestamp> {
    let packages = || {
        device.packages.iter().filter(move |package| package.path.channel() == channel && package.custom.kind == kind)
    };
    let mut running: BTreeMap<&BuildId, Timestamp> = BTreeMap::new();
    for package in packages() {
        running.insert(&package.custom.to, package.custom.timestamp);
    }
    let mut sources: BTreeMap<&BuildId, Timestamp> = BTreeMap::new();
    for package in packages() {
        let Some(from) = package.custom.from.as_ref().filter(|from| !running.contains_key(*from)) else { continue };
        let older = package.custom.timestamp.checked_sub(SignedDuration::from_secs(1)).unwrap_or(Timestamp::MIN);
        let known = sources.entry(from).or_insert(older);
        *known = older.min(*known);
    }
    running.extend(sources);
    running
}

/// The device with nothing withdrawn or held back. Whoever stops a bad build must never be told that phones would be left
/// behind by that; what is asked here is whether there are ways at all.
fn undecided(device: &TrustedDevice) -> TrustedDevice {
    let undecide = |package: &Package| {
        let custom = Custom { rollout: 100, withdrawn: false, ..package.custom.clone() };
        Package { custom, ..package.clone() }
    };
    TrustedDevice {
        vendor: device.vendor.clone(),
        codename: device.codename.clone(),
        keys: Vec::new(),
        threshold: device.threshold,
        role_version: device.role_version,
        roles: device.roles.clone(),
        // What was published last may have run out since; a phone that saw it in time had the way.
        expires: Timestamp::MAX,
        fresh_until: Timestamp::MAX,
        packages: device.packages.iter().map(undecide).collect(),
        targets: BTreeMap::new(),
        delegated: BTreeMap::new(),
        refused: Vec::new(),
    }
}
