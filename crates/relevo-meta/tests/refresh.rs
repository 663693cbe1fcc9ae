//! The client workflow against a repository in memory: one test per rule, each breaking only that rule.

use relevo_meta::{Scope, testing::TestRepo};

fn repo() -> TestRepo {
    let mut repo = TestRepo::new();
    repo.add_device("xiaomi", "ginkgo");
    repo.add_device("xiaomi", "willow");
    repo.add_device("samsung", "a5y17lte");
    repo.add_package("xiaomi/ginkgo", "stable", "", "100", 1_700_000_000, b"a full package");
    repo.publish();
    repo
}

fn ginkgo() -> Scope {
    TestRepo::device_scope("xiaomi", "ginkgo")
}

#[test]
fn a_new_phone_asks_for_its_own_roles_only() {
    let repo = repo();

    let run = repo.refresh(&repo.stored_root(), ginkgo());

    let trusted = run.result.unwrap();
    let names =
        ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json", "1.v-xiaomi.json", "1.d-ginkgo.json"];
    assert_eq!(run.requests, names);
    assert_eq!(trusted.devices().len(), 1);
    assert_eq!(trusted.devices().values().next().unwrap().packages.len(), 1);
}
