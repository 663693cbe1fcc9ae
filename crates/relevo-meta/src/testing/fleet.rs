//! A large repository: 300 devices of 25 vendors with 18 packages each, in three channels.

use relevo_types::{Codename, TargetPath, Vendor};
use serde_json::json;

use super::{TestRepo, key};
use crate::author::TopRole;

/// Seconds in a day.
const DAY: i64 = 86_400;

/// The repository, published, with keys and versions as different as they are in life.
pub fn fleet() -> TestRepo {
    let mut repo = TestRepo::new();
    // As advised for a project of that size: root 3 of 5, targets and vendors 2 of 3, two keys for a device.
    let several = |role: &str, count: usize| (0..count).map(|n| format!("{role} {n}")).collect::<Vec<_>>();
    let public = |names: &[String]| names.iter().map(|name| key(name).public().clone()).collect::<Vec<_>>();
    let (roots, registrars) = (several("root", 5), several("targets", 3));
    repo.root.set_role(TopRole::Root, &public(&roots), 3).expect("a fixture");
    repo.root.set_role(TopRole::Targets, &public(&registrars), 2).expect("a fixture");
    repo.signers.insert("root".to_owned(), roots[..3].to_vec());
    repo.signers.insert("targets".to_owned(), registrars[..2].to_vec());
    let root = repo.root.clone();
    repo.put("root", 1, &root);
    for device in 0..300_u64 {
        let (vendor, codename) = (format!("vendor{}", device / 12), format!("codename{device:03}"));
        repo.add_device(&vendor, &codename);
        let keys = public(&several(&format!("d-{codename}"), 2));
        let vendor = Vendor::parse(&vendor).expect("a fixture");
        let parsed = Codename::parse(&codename).expect("a fixture");
        repo.vendors.get_mut(&vendor).expect("a fixture").put_device(&vendor, &parsed, &keys, 1).expect("a fixture");
        repo.signers.insert(format!("d-{codename}"), vec![format!("d-{codename} 0")]);
        // Versions as different as they are in life: a snapshot of equal ones would compress to nothing.
        repo.devices.get_mut(&parsed).expect("a fixture").set_version(1 + device * 7_919 % 997);
        for (channel, every) in [("stable", 30), ("beta", 7), ("nightly", 1)] {
            build(&mut repo, &format!("{vendor}/{codename}"), channel, every, 100);
        }
    }
    repo.publish();
    repo
}

/// A full package and five deltas to a build, in place of those to the build before.
pub fn build(repo: &mut TestRepo, device: &str, channel: &str, every: i64, build: i64) {
    let codename = device.rsplit('/').next().expect("a fixture");
    let role = repo.devices.get_mut(&Codename::parse(codename).expect("a fixture")).expect("a fixture");
    for path in role.paths().iter().filter(|path| path.starts_with(&format!("{device}/{channel}/"))) {
        role.remove_target(&TargetPath::parse(path).expect("a fixture")).expect("a fixture");
    }
    let made = repo.now.as_second() - 100 * DAY + build * DAY / 2;
    for back in 0..6 {
        let id = |build: i64| format!("22.2-{}", 20_250_000 + build);
        let file = match back {
            0 => format!("{codename}-{}-full.rvp", id(build)),
            back => format!("{codename}-{}-to-{}.rvp", id(build - back * every), id(build)),
        };
        let mut custom = json!({
            "kind": "native", "to": id(build), "version": "LineageOS 22.2", "timestamp": made, "sdk": 35,
            "spl": "2025-12-05", "size": {"install": 3_221_225_472_u64}, "rollout": 100, "withdrawn": false,
            "chunks": format!("{file}.chunks"),
        });
        if back > 0 {
            custom["from"] = id(build - back * every).into();
        }
        let path = format!("{device}/{channel}/{file}");
        repo.add_target(&path, path.as_bytes(), &custom);
        repo.add_target(&format!("{path}.chunks"), format!("chunks of {path}").as_bytes(), &json!({"kind": "chunks"}));
    }
}
