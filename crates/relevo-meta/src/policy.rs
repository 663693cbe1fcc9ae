//! What a phone installs: decided on the phone, from signed metadata and its own dice.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use relevo_types::{BuildId, ByteLen, Channel, PackageKind};

use crate::trusted::{Package, TrustedDevice};

/// What a phone knows about itself. None of it leaves the phone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhoneState {
    /// The build that it runs.
    pub build: BuildId,
    /// When that build was made.
    pub build_timestamp: Timestamp,
    /// The channel that it follows.
    pub channel: Channel,
    /// A number that it drew once by itself; its dice for staged rollouts come from it.
    pub seed: u64,
    /// Builds that it installed and that did not boot, or were reverted.
    pub failed: Vec<BuildId>,
    /// Kinds of packages that it can install.
    pub kinds: Vec<PackageKind>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The phone runs the newest build of its channel, or a newer one.
    UpToDate,
    /// Install these packages, in this order.
    Install(Vec<Package>),
    /// Nobody vouches for the device any more; what is out there is out there, but nothing new comes.
    Unmaintained {
        /// Since when.
        since: Timestamp,
    },
    /// There is a newer build, or there should be, but not for this phone now.
    Nothing {
        /// Why.
        reason: Reason,
    },
}

/// Why nothing is installed; of several newer builds the newest one's reason counts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The metadata are past their date, so that they cannot say that there is nothing newer.
    #[error("there was nothing newer on {until}; the metadata are from before then, and cannot say more")]
    Stale {
        /// Until when they were fresh.
        until: Timestamp,
    },
    /// The channel holds no packages that the phone can install.
    #[error("the channel {channel} has no packages that this phone can install")]
    EmptyChannel {
        /// The channel.
        channel: Channel,
    },
    /// All packages of the build were taken back.
    #[error("build {build} was withdrawn")]
    Withdrawn {
        /// The build.
        build: BuildId,
    },
    /// The phone's dice is not yet in the rollout.
    #[error("build {build} is rolled out to {rollout} % of phones so far, and this is not one of them")]
    RolloutPending {
        /// The build.
        build: BuildId,
        /// The percentage that it is offered to.
        rollout: u8,
    },
    /// The phone already tried.
    #[error("build {build} was installed before and failed")]
    FailedBefore {
        /// The build.
        build: BuildId,
    },
    /// Another build must come first, and no package leads there.
    #[error("build {build} needs build {floor} to be installed first, and no package leads there")]
    FloorUnreachable {
        /// The build.
        build: BuildId,
        /// The build that must come first.
        floor: BuildId,
    },
    /// No package leads from the running build to the new one.
    #[error("no package leads from the running build to build {build}")]
    NoPath {
        /// The build.
        build: BuildId,
    },
}

/// What a phone takes for the present: the latest of its clock, the date of the build that runs, and the time at which it
/// last verified metadata as fresh.
///
/// A clock in the past so revives nothing that has expired. A clock far ahead finds everything expired, and nothing that
/// it says is remembered: metadata that verify at a time vouch that this time is at most their own expiry.
pub fn present(clock: Timestamp, running_build: Timestamp, verified: Option<Timestamp>) -> Timestamp {
    clock.max(running_build).max(verified.unwrap_or(Timestamp::MIN))
}

/// A phone's dice for one build, 0 to 99: a package with a rollout of more than that is for it.
///
/// For each build they fall anew, so that not the same phones are the first every time; for one build they stay as they
/// fell, so that a growing rollout only ever adds phones.
pub fn dice(seed: u64, build: &BuildId) -> u8 {
    let text = format!("relevo rollout\n{seed:016x}\n{build}");
    let digest = crate::crypto::sha256(text.as_bytes());
    let number = digest.as_bytes().iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    u8::try_from(number % 100).expect("it is under 100")
}

/// Decides what the phone installs: the newest allowed build, by the path of packages with the fewest bytes.
///
/// A build is *newer* by its timestamp alone, and only newer builds are ever installed. A package is allowed if it is of
/// the phone's channel and of a kind that it can install, is not withdrawn, its rollout includes the phone's dice, its
/// build has not failed here, and its floor is already reached. On a chain of packages each step obeys the same rules.
pub fn choose(device: &TrustedDevice, phone: &PhoneState, now: Timestamp) -> Choice {
    if device.expires <= now {
        return Choice::Unmaintained { since: device.expires };
    }
    let offered: Vec<&Package> =
        device.channel(&phone.channel).filter(|package| phone.kinds.contains(&package.custom.kind)).collect();
    if offered.is_empty() {
        return Choice::Nothing { reason: Reason::EmptyChannel { channel: phone.channel.clone() } };
    }
    let made = build_times(&offered);
    let mut newer: Vec<(Timestamp, &BuildId)> = made
        .iter()
        .filter(|&(&build, &time)| time > phone.build_timestamp && *build != phone.build)
        .map(|(&build, &time)| (time, build))
        .collect();
    newer.sort_unstable_by(|a, b| b.cmp(a));
    if newer.is_empty() && device.fresh_until <= now {
        return Choice::Nothing { reason: Reason::Stale { until: device.fresh_until } };
    }
    if newer.is_empty() {
        return Choice::UpToDate;
    }
    let graph = Graph::new(&offered, phone, made);
    for (_, build) in &newer {
        if let Some(path) = graph.cheapest(build) {
            return Choice::Install(path.into_iter().cloned().collect());
        }
    }
    let (_, newest) = newer[0];
    Choice::Nothing { reason: graph.reason(newest) }
}

/// When each build was made. Packages of one build should agree; where they do not, the earliest counts, so that a
/// mistake can hold an update back but never make an old build look new.
fn build_times<'a>(offered: &[&'a Package]) -> BTreeMap<&'a BuildId, Timestamp> {
    let mut times = BTreeMap::new();
    for package in offered {
        let custom = &package.custom;
        let time = times.entry(&custom.to).or_insert(custom.timestamp);
        *time = custom.timestamp.min(*time);
    }
    times
}

struct Graph<'a> {
    offered: &'a [&'a Package],
    phone: &'a PhoneState,
    made: BTreeMap<&'a BuildId, Timestamp>,
}

/// Cost of a path: bytes, then packages, then the paths themselves, so that equal costs are decided alike everywhere.
type Cost<'a> = (ByteLen, Vec<&'a Package>);

impl<'a> Graph<'a> {
    fn new(offered: &'a [&'a Package], phone: &'a PhoneState, mut made: BTreeMap<&'a BuildId, Timestamp>) -> Self {
        made.insert(&phone.build, phone.build_timestamp);
        Self { offered, phone, made }
    }

    /// The cheapest path from the running build to `goal`: Dijkstra over builds, packages as edges.
    fn cheapest(&self, goal: &BuildId) -> Option<Vec<&'a Package>> {
        let mut open: BTreeMap<&BuildId, Cost<'a>> = BTreeMap::from([(&self.phone.build, (ByteLen::ZERO, Vec::new()))]);
        let mut closed: BTreeSet<&BuildId> = BTreeSet::new();
        loop {
            let (&build, _) = open.iter().min_by(|a, b| compare(a.1, b.1))?;
            let (bytes, path) = open.remove(build).expect("it was just found there");
            if build == goal {
                return Some(path);
            }
            closed.insert(build);
            for &package in self.offered {
                let to = &package.custom.to;
                if closed.contains(to) || !self.leads_on(build, package) {
                    continue;
                }
                let Some(bytes) = bytes.checked_add(package.length) else { continue };
                let mut path = path.clone();
                path.push(package);
                let cost = (bytes, path);
                if open.get(to).is_none_or(|known| compare(&cost, known).is_lt()) {
                    open.insert(to, cost);
                }
            }
        }
    }

    /// Whether a phone that runs `build` may install `package`.
    fn leads_on(&self, build: &BuildId, package: &Package) -> bool {
        let custom = &package.custom;
        let forward = match (self.made.get(build), self.made.get(&custom.to)) {
            (Some(from), Some(to)) => to > from,
            _ => false,
        };
        forward
            && custom.from.as_ref().is_none_or(|from| from == build)
            && self.is_offered(package)
            && custom.floor.as_ref().is_none_or(|floor| self.has_reached(build, floor))
    }

    /// Whether a phone that runs `build` has `floor` behind it.
    fn has_reached(&self, build: &BuildId, floor: &BuildId) -> bool {
        match (self.made.get(build), self.made.get(floor)) {
            (Some(build), Some(floor)) => build >= floor,
            _ => build == floor,
        }
    }

    fn is_offered(&self, package: &Package) -> bool {
        let custom = &package.custom;
        !custom.withdrawn
            && dice(self.phone.seed, &custom.to) < custom.rollout
            && !self.phone.failed.contains(&custom.to)
    }

    /// Why nothing leads to `build`.
    fn reason(&self, build: &BuildId) -> Reason {
        let packages = || self.offered.iter().filter(|package| package.custom.to == *build);
        let standing = || packages().filter(|package| !package.custom.withdrawn);
        let build = build.clone();
        if standing().next().is_none() {
            return Reason::Withdrawn { build };
        }
        if self.phone.failed.contains(&build) {
            return Reason::FailedBefore { build };
        }
        let rollout = standing().map(|package| package.custom.rollout).max().unwrap_or(0);
        if dice(self.phone.seed, &build) >= rollout {
            return Reason::RolloutPending { build, rollout };
        }
        let floor = standing().filter_map(|package| package.custom.floor.as_ref()).next();
        match floor {
            Some(floor) if !self.has_reached(&self.phone.build, floor) => {
                Reason::FloorUnreachable { build, floor: floor.clone() }
            }
            _ => Reason::NoPath { build },
        }
    }
}

fn compare(a: &Cost<'_>, b: &Cost<'_>) -> std::cmp::Ordering {
    let paths = |cost: &Cost<'_>| cost.1.iter().map(|package| package.path.to_string()).collect::<Vec<_>>();
    a.0.cmp(&b.0).then(a.1.len().cmp(&b.1.len())).then_with(|| paths(a).cmp(&paths(b)))
}
