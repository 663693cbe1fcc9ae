//! What most of these tests start from: a published repository and a phone that runs the first build.

use std::path::{Path, PathBuf};

use relevo_tests::{
    images::{self, Images},
    maintainer::{CODENAME, Maintainer, VENDOR},
    phone::{Factory, Phone},
};
use relevo_types::{BuildId, Channel, Codename, Vendor};
use relevo_updater::boot::Slot;
use tempfile::TempDir;

/// Dates of the builds, in seconds since 1970.
pub(crate) const DATES: [i64; 3] = [1_746_403_200, 1_748_995_200, 1_751_587_200];

/// A maintainer with two builds of which the given ones are published, in a directory of its own.
pub(crate) struct World {
    pub(crate) base: TempDir,
    pub(crate) maintainer: Maintainer,
    pub(crate) builds: [Images; 3],
}

impl World {
    /// Builds 1 and 2 published, with full packages and a delta.
    pub(crate) fn published(builds: [Images; 3]) -> Self {
        let world = Self::first_published(builds);
        world.import(1);
        world.maintainer.publish();
        world
    }

    /// Build 1 published; build 2 not imported yet.
    pub(crate) fn first_published(builds: [Images; 3]) -> Self {
        let base = tempfile::tempdir().unwrap();
        let maintainer = Maintainer::new(base.path());
        let world = Self { base, maintainer, builds };
        world.import(0);
        world.maintainer.publish();
        world
    }

    /// Imports a build by its index.
    pub(crate) fn import(&self, index: usize) {
        let id = (index + 1).to_string();
        self.maintainer.import_images(self.base.path(), CODENAME, &self.builds[index], &id, DATES[index]);
    }

    /// A path below this world's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// A phone with build 1 that asks `mirrors`.
    pub(crate) fn phone(&self, name: &str, mirrors: &[String]) -> Phone {
        self.phone_of(name, mirrors, CODENAME, &self.maintainer.root())
    }

    /// A phone of a device that trusts a root.
    pub(crate) fn phone_of(&self, name: &str, mirrors: &[String], codename: &str, root: &Path) -> Phone {
        let images = self.path(&format!("factory-{name}"));
        images::write(&images, &self.builds[0]);
        let factory = Factory {
            vendor: Vendor::parse(VENDOR).unwrap(),
            codename: Codename::parse(codename).unwrap(),
            channel: Channel::parse("stable").unwrap(),
            mirrors: mirrors.to_vec(),
            root,
            images: &images,
            build: BuildId::parse("1").unwrap(),
            timestamp: DATES[0],
            // Faults are final in tests: what a mirror does wrong, it does wrong again.
            network: "retries = 1\nretry_wait_ms = 1",
        };
        Phone::make(&self.path(name), &factory).unwrap()
    }
}

/// Small builds for tests that repeat something hundreds of times.
pub(crate) fn tiny() -> [Images; 3] {
    let first: Images = [("boot", 16), ("system", 96), ("vendor", 24)]
        .into_iter()
        .enumerate()
        .map(|(number, (name, blocks))| (name.to_owned(), images::image(700 + number as u64, blocks)))
        .collect();
    let next = |images: &Images, seed: u64| -> Images {
        images
            .iter()
            .enumerate()
            .map(|(number, (name, image))| (name.clone(), images::update(image, seed + number as u64, 0)))
            .collect()
    };
    let second = next(&first, 800);
    let third = next(&second, 900);
    [first, second, third]
}

/// Asserts what holds for a phone at any moment: the slot that runs holds build 1 or, once booted, build 2, as a whole;
/// and boot control names no slot that does not hold a whole build.
#[track_caller]
pub(crate) fn assert_never_a_mix(phone: &Phone, builds: &[Images; 3], when: &str) {
    let control = phone.boot_control().unwrap_or_else(|error| panic!("{when}: {error:#}"));
    if let Some(difference) = images::difference(&phone.images(Slot::A), &builds[0]) {
        panic!("{when}: the slot that runs was written: {difference}");
    }
    let may_boot = control.slot(Slot::B).bootable || control.active == Slot::B;
    if let Some(difference) = may_boot.then(|| images::difference(&phone.images(Slot::B), &builds[1])).flatten() {
        panic!("{when}: slot b may be booted, but {difference}");
    }
}

/// Asserts that the phone, which is about to be booted, ends on build 2, confirmed.
#[track_caller]
pub(crate) fn assert_boots_build_2(phone: &Phone, builds: &[Images; 3]) {
    assert_eq!(phone.boot().unwrap(), Slot::B, "it booted the old slot");
    images::assert_same(&phone.images(Slot::B), &builds[1]);
    phone.run(&["confirm"]).ok();
    assert!(phone.boot_control().unwrap().slot(Slot::B).successful);
}
