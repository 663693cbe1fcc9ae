//! A repository in memory, for tests: real keys, real signatures, every file within reach to be broken.

pub mod fleet;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use relevo_types::{Codename, TargetPath, Vendor};
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::{
    Answer, Limits, Refresh, Scope, Step, Stored, TrustError, Trusted,
    author::{DeviceFile, RegistryFile, RootFile, SnapshotFile, TimestampFile, TopRole},
    keys::{PrivateKey, Signer},
    trusted::Target,
};

/// A repository in memory. [`Self::publish`] writes what changed; [`Self::metadata`] is what a source would serve.
#[derive(Debug)]
pub struct TestRepo {
    /// The files below `metadata/`, by name.
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// The files below `targets/`, by their consistent name.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The time at which everything is done; tests move it.
    pub now: Timestamp,
    /// The roles as they will be published next.
    pub root: RootFile,
    /// The registry of vendors.
    pub targets: RegistryFile,
    /// The registries of devices.
    pub vendors: BTreeMap<Vendor, RegistryFile>,
    /// The device roles.
    pub devices: BTreeMap<Codename, DeviceFile>,
    /// The snapshot.
    pub snapshot: SnapshotFile,
    /// The timestamp.
    pub timestamp: TimestampFile,
    /// Names of the keys that sign for a role, where they are not the one key of the role's own name.
    pub signers: BTreeMap<String, Vec<String>>,
}

/// How a refresh against a [`TestRepo`] went.
#[derive(Debug)]
pub struct Run {
    /// Its end.
    pub result: Result<Trusted, TrustError>,
    /// Names of the files that were asked for.
    pub requests: Vec<String>,
    /// What is stored now.
    pub stored: Stored,
}

/// The same key for the same name, always.
pub fn key(name: &str) -> PrivateKey {
    PrivateKey::from_random(sha2::Sha256::digest(format!("relevo test key {name}")).into())
}

impl TestRepo {
    /// A repository with root, no vendors and no devices, at 2026-01-01; nothing is published yet.
    pub fn new() -> Self {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a valid date");
        let expires = |days: i64| now + SignedDuration::from_hours(24 * days);
        let mut root = RootFile::new(expires(365));
        for role in TopRole::ALL {
            root.set_role(role, &[key(role.name()).public().clone()], 1).expect("one key, threshold 1");
        }
        let mut repo = Self {
            metadata: BTreeMap::new(),
            files: BTreeMap::new(),
            now,
            root,
            targets: RegistryFile::new(expires(365)),
            vendors: BTreeMap::new(),
            devices: BTreeMap::new(),
            snapshot: SnapshotFile::new(expires(60)),
            timestamp: TimestampFile::new(expires(7)),
            signers: BTreeMap::new(),
        };
        repo.write_root();
        repo
    }

    /// Adds a device, and its vendor if that is new, each with one key of its role's name.
    pub fn add_device(&mut self, vendor: &str, codename: &str) {
        let vendor = Vendor::parse(vendor).expect("a valid vendor");
        let codename = Codename::parse(codename).expect("a valid codename");
        let year = self.now + SignedDuration::from_hours(24 * 365);
        let half = self.now + SignedDuration::from_hours(24 * 180);
        let vendor_key = key(&format!("v-{vendor}")).public().clone();
        self.targets.put_vendor(&vendor, &[vendor_key], 1).expect("one key, threshold 1");
        let registry = self.vendors.entry(vendor.clone()).or_insert_with(|| RegistryFile::new(year));
        let device_key = key(&format!("d-{codename}")).public().clone();
        registry.put_device(&vendor, &codename, &[device_key], 1).expect("one key, threshold 1");
        self.devices.insert(codename, DeviceFile::new(half));
    }

    /// Lists a target and keeps its bytes.
    pub fn add_target(&mut self, path: &str, bytes: &[u8], custom: &Value) {
        let path = TargetPath::parse(path).expect("a valid path");
        let target = Target::of(bytes);
        let device = self.devices.get_mut(path.codename()).expect("a device of the repository");
        device.put_target(&path, target, custom).expect("a role of our own");
        self.files.insert(path.consistent(&target.sha256), bytes.to_vec());
    }

    /// Lists a native package and its chunk list; `from` is empty for a full package.
    pub fn add_package(&mut self, device: &str, channel: &str, from: &str, to: &str, timestamp: i64, bytes: &[u8]) {
        let codename = device.rsplit('/').next().unwrap_or(device);
        let file = if from.is_empty() {
            format!("{codename}-{to}-full.rvp")
        } else {
            format!("{codename}-{from}-to-{to}.rvp")
        };
        let mut custom = json!({
            "kind": "native", "to": to, "version": format!("build {to}"), "timestamp": timestamp,
            "size": {"install": 4096}, "rollout": 100, "withdrawn": false, "chunks": format!("{file}.chunks"),
        });
        if !from.is_empty() {
            custom["from"] = from.into();
        }
        let length = relevo_types::ByteLen::new(bytes.len() as u64);
        let list = crate::chunks::ChunkList::for_reader(bytes, length).expect("a small file").encode();
        self.add_target(&format!("{device}/{channel}/{file}"), bytes, &custom);
        self.add_target(&format!("{device}/{channel}/{file}.chunks"), &list, &json!({"kind": "chunks"}));
    }

    /// Signs and publishes everything as it stands. Only what changed gets a new version.
    pub fn publish(&mut self) {
        let mut roles = vec![("targets".to_owned(), self.targets.clone().0)];
        roles.extend(self.vendors.iter().map(|(vendor, file)| (format!("v-{vendor}"), file.0.clone())));
        roles.extend(self.devices.iter().map(|(codename, file)| (format!("d-{codename}"), file.0.clone())));
        let mut changed = !self.metadata.contains_key("timestamp.json");
        for (name, mut draft) in roles {
            let current = format!("{}.{name}.json", draft.version());
            let known = self.metadata.get(&current).map(|bytes| signed_of(bytes));
            if known.as_ref() == Some(draft.signed()) {
                continue;
            }
            changed = true;
            if known.is_some() {
                draft.bump().expect("small versions");
            }
            self.put(&name, draft.version(), &draft);
            self.snapshot.put_role(&name, draft.version()).expect("a snapshot of our own");
            self.remember(&name, draft.version());
        }
        if changed {
            self.publish_snapshot();
        }
        self.publish_timestamp();
    }

    /// Publishes the snapshot as it stands, as its next version.
    pub fn publish_snapshot(&mut self) {
        if self.metadata.contains_key(&format!("{}.snapshot.json", self.snapshot.version())) {
            self.snapshot.bump().expect("small versions");
        }
        let draft = self.snapshot.clone();
        self.put("snapshot", draft.version(), &draft);
        let bytes = &self.metadata[&format!("{}.snapshot.json", draft.version())];
        self.timestamp.set_snapshot(draft.version(), bytes).expect("a timestamp of our own");
    }

    /// Publishes the timestamp as it stands, as its next version.
    pub fn publish_timestamp(&mut self) {
        if self.metadata.contains_key("timestamp.json") {
            self.timestamp.bump().expect("small versions");
        }
        let bytes = self.sign("timestamp", &self.timestamp);
        self.metadata.insert("timestamp.json".to_owned(), bytes);
    }

    /// Publishes the next version of the root, signed by what [`Self::signers`] names for it.
    pub fn publish_root(&mut self) {
        self.root.bump().expect("small versions");
        self.write_root();
    }

    /// Signs a draft as the role would.
    pub fn sign(&self, role: &str, draft: &crate::author::Draft) -> Vec<u8> {
        let own = vec![role.to_owned()];
        let keys: Vec<PrivateKey> = self.signers.get(role).unwrap_or(&own).iter().map(|name| key(name)).collect();
        let signers: Vec<&dyn Signer> = keys.iter().map(|key| key as &dyn Signer).collect();
        draft.sign(&signers).expect("keys in memory sign")
    }

    /// Writes one version of a role's file.
    pub fn put(&mut self, role: &str, version: u64, draft: &crate::author::Draft) {
        let bytes = self.sign(role, draft);
        self.metadata.insert(format!("{version}.{role}.json"), bytes);
    }

    /// What a new phone has: the first root.
    pub fn stored_root(&self) -> Stored {
        Stored::with_root(self.metadata["1.root.json"].clone())
    }

    /// The scope of a phone.
    pub fn device_scope(vendor: &str, codename: &str) -> Scope {
        Scope::Device {
            vendor: Vendor::parse(vendor).expect("a valid vendor"),
            codename: Codename::parse(codename).expect("a valid codename"),
        }
    }

    /// Refreshes against this repository, from what is stored.
    pub fn refresh(&self, stored: &Stored, scope: Scope) -> Run {
        self.refresh_with(stored, scope, &Limits::default(), |_, bytes| bytes)
    }

    /// As [`Self::refresh`], with every answer passing through `change` on its way: a mirror that lies.
    pub fn refresh_with(
        &self,
        stored: &Stored,
        scope: Scope,
        limits: &Limits,
        change: impl Fn(&str, Option<Vec<u8>>) -> Option<Vec<u8>>,
    ) -> Run {
        let mut run =
            Run { result: Err(TrustError::Misuse("not finished")), requests: Vec::new(), stored: stored.clone() };
        let mut refresh = match Refresh::start(stored.clone(), scope, self.now, limits.clone()) {
            Ok(refresh) => refresh,
            Err(error) => {
                run.result = Err(error);
                return run;
            }
        };
        loop {
            match refresh.next() {
                Step::Get(request) => {
                    let bytes = change(&request.name, self.metadata.get(&request.name).cloned());
                    run.requests.push(request.name);
                    if let Err(error) = refresh.supply(bytes.map_or(Answer::Absent, Answer::Found)) {
                        run.result = Err(error);
                        return run;
                    }
                }
                Step::Keep { name, bytes } => {
                    run.stored.0.insert(name, bytes);
                }
                Step::Done => {
                    run.result = refresh.finish();
                    return run;
                }
            }
        }
    }

    fn write_root(&mut self) {
        let draft = self.root.clone();
        self.put("root", draft.version(), &draft);
    }

    fn remember(&mut self, role: &str, version: u64) {
        if role == "targets" {
            self.targets.set_version(version);
        }
        for (vendor, file) in &mut self.vendors {
            if role == format!("v-{vendor}") {
                file.set_version(version);
            }
        }
        for (codename, file) in &mut self.devices {
            if role == format!("d-{codename}") {
                file.set_version(version);
            }
        }
    }
}

impl Default for TestRepo {
    fn default() -> Self {
        Self::new()
    }
}

fn signed_of(bytes: &[u8]) -> serde_json::Map<String, Value> {
    let value: Value = serde_json::from_slice(bytes).expect("a file of our own");
    value["signed"].as_object().cloned().expect("a file of our own")
}
