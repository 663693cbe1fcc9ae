//! Taking back what is offered.

use serde_json::json;

use crate::support::Machine;

/// Three builds published, with full packages and deltas.
fn with_builds() -> Machine {
    let machine = Machine::with_device();
    for number in 1..=3 {
        machine.at_desk(["import", &machine.build(number), "--device", "ginkgo"]).expect(0);
        machine.at_desk(["delta", "ginkgo"]).expect(0);
        machine.at_desk(["publish"]).expect(0);
    }
    machine
}

fn offered(machine: &Machine) -> Vec<(String, bool)> {
    let shown = machine.at_desk(["device", "show", "ginkgo", "--json"]).expect(0).json();
    let packages = shown["published"].as_array().unwrap();
    let one = |package: &serde_json::Value| {
        let path = package["path"].as_str().unwrap().rsplit_once('/').unwrap().1.to_owned();
        (path, package["custom"]["withdrawn"] == json!(true))
    };
    packages.iter().map(one).collect()
}

fn all(packages: &[(&str, bool)]) -> Vec<(String, bool)> {
    packages.iter().map(|(name, withdrawn)| ((*name).to_owned(), *withdrawn)).collect()
}

#[test]
fn a_build_is_withdrawn_and_offered_again() {
    let machine = with_builds();

    let run = machine.at_desk(["withdraw", "ginkgo", "3", "--json"]).expect(0).json();
    let now = offered(&machine);
    machine.at_desk(["withdraw", "ginkgo", "3"]).expect(0);
    machine.at_desk(["withdraw", "ginkgo", "3", "--undo"]).expect(0);
    let unknown = machine.at_desk(["withdraw", "ginkgo", "9"]).expect(1);

    assert_eq!(run["signed"], json!(["d-ginkgo", "snapshot", "timestamp"]));
    let gone: Vec<&str> = now.iter().filter(|(_, withdrawn)| *withdrawn).map(|(name, _)| name.as_str()).collect();
    assert_eq!(gone, ["ginkgo-1-to-3.rvp", "ginkgo-2-to-3.rvp", "ginkgo-3-full.rvp"]);
    assert!(offered(&machine).iter().all(|(_, withdrawn)| !withdrawn));
    assert!(unknown.err.contains("no package of ginkgo leads to build 9; offered are 1, 2, 3"), "{}", unknown.err);
}

#[test]
fn old_builds_are_no_longer_offered_and_their_files_go_later() {
    let machine = with_builds();
    let files = |machine: &Machine| machine.tree("desk/repo/targets").len();
    let before = files(&machine);

    let kept = machine.at_desk(["repo", "retire", "ginkgo"]).expect(0).out;
    let run = machine.at_desk(["repo", "retire", "ginkgo", "--keep", "1", "--json"]).expect(0).json();
    machine.at_desk(["repo", "gc", "--keep", "0"]).expect(0);

    assert!(kept.contains("0 packages; the role of ginkgo has"), "{kept}");
    assert_eq!(run["packages"].as_array().unwrap().len(), 3);
    let names = [("ginkgo-1-to-3.rvp", false), ("ginkgo-2-to-3.rvp", false), ("ginkgo-3-full.rvp", false)];
    assert_eq!(offered(&machine), all(&names));
    assert_eq!((before, files(&machine)), (12, 6));
    machine.at_desk(["repo", "check"]).expect(0);
}

#[test]
fn others_sign_it_where_they_have_to() {
    let machine = with_builds();
    let file = machine.text("withdraw.json");

    let started = machine.at_desk(["withdraw", "ginkgo", "3", "--ceremony", &file]).expect(0);
    assert!(offered(&machine).iter().all(|(_, withdrawn)| !withdrawn), "nothing is published yet");
    machine.at_desk(["ceremony", "sign", &file, "--yes"]).expect(0);
    machine.at_desk(["ceremony", "finish", &file]).expect(0);

    assert!(started.out.contains("ginkgo-3-full.rvp: withdrawn is true, so far false"), "{}", started.out);
    assert_eq!(offered(&machine).iter().filter(|(_, withdrawn)| *withdrawn).count(), 3);
}
