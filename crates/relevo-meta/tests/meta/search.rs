//! The search for one target in a repository of any layout, as TUF 5.6.7 describes it.

use relevo_meta::{
    Answer, Found, Limits, Refresh, Scope, Step, TrustError,
    author::DeviceFile,
    testing::{TestRepo, key},
};
use serde_json::{Map, Value, json};

/// A repository of roles `(delegator, role, terminating, paths)`, each with a key of its name, listing `targets`.
fn repo(edges: &[(&str, &str, bool, &[&str])], targets: &[(&str, &str)]) -> TestRepo {
    let mut repo = TestRepo::new();
    let expires = repo.targets.expires().unwrap();
    let mut names = vec!["targets"];
    names.extend(edges.iter().map(|edge| edge.1));
    names.dedup();
    for name in names {
        let mut role = DeviceFile::new(expires);
        let (mut keys, mut roles) = (Map::new(), Vec::new());
        for (_, role, terminating, paths) in edges.iter().filter(|edge| edge.0 == name) {
            let public = key(role).public().clone();
            keys.insert(public.key_id(), public.to_value());
            roles.push(json!({
                "name": role, "keyids": [public.key_id()], "threshold": 1, "terminating": terminating, "paths": paths,
            }));
        }
        role.signed_mut().insert("delegations".to_owned(), json!({"keys": keys, "roles": roles}));
        for (_, path) in targets.iter().filter(|target| target.0 == name) {
            let found = relevo_meta::Target::of(content(name, path).as_bytes());
            role.signed_mut()["targets"][path] = json!({"length": found.length, "hashes": {"sha256": found.sha256}});
        }
        if name == "targets" {
            *repo.targets.signed_mut() = role.signed().clone();
        } else {
            repo.put(name, 1, &role);
            repo.snapshot.put_role(name, 1).unwrap();
        }
    }
    repo.publish();
    repo
}

fn content(role: &str, path: &str) -> String {
    format!("{path} by {role}")
}

/// What the searches in one run find, and the roles that were asked for.
fn search(repo: &TestRepo, paths: &[&str]) -> (Vec<Result<Option<Found>, TrustError>>, Vec<String>) {
    let limits = Limits { max_roles: 32, ..Limits::default() };
    let mut refresh = Refresh::start(repo.stored_root(), Scope::TopLevel, repo.now, limits).unwrap();
    let mut requests = Vec::new();
    follow(repo, &mut refresh, &mut requests).unwrap();
    requests.clear();
    let results = paths
        .iter()
        .map(|path| {
            refresh.search(path)?;
            follow(repo, &mut refresh, &mut requests)?;
            refresh.found()
        })
        .collect();
    (results, requests)
}

fn follow(repo: &TestRepo, refresh: &mut Refresh, requests: &mut Vec<String>) -> Result<(), TrustError> {
    loop {
        match refresh.next() {
            Step::Get(request) => {
                let bytes = repo.metadata.get(&request.name).cloned();
                requests.push(request.name);
                refresh.supply(bytes.map_or(Answer::Absent, Answer::Found))?;
            }
            Step::Keep { .. } => {}
            Step::Done => return Ok(()),
        }
    }
}

/// Roles visited on the search for a path that nobody lists.
fn visits(edges: &[(&str, &str, bool, &[&str])], path: &str) -> String {
    let (results, requests) = search(&repo(edges, &[]), &[path]);
    assert!(matches!(&results[..], [Ok(None)]), "{results:?}");
    requests.iter().map(|name| name.trim_start_matches("1.").trim_end_matches(".json")).collect()
}

const ALL: &[&str] = &["*"];

#[test]
fn goes_down_before_it_goes_on() {
    let edges = [
        ("targets", "A", false, ALL),
        ("targets", "B", false, ALL),
        ("A", "C", false, ALL),
        ("C", "D", false, ALL),
        ("A", "E", false, ALL),
    ];
    assert_eq!(visits(&edges, "x"), "ACDEB");
}

#[test]
fn a_terminating_delegation_ends_it() {
    let edges = [
        ("targets", "A", false, ALL),
        ("targets", "B", false, ALL),
        ("A", "C", true, ALL),
        ("A", "D", false, ALL),
        ("C", "E", false, ALL),
    ];
    assert_eq!(visits(&edges, "x"), "ACE");
}

#[test]
fn what_does_not_match_is_not_visited_nor_does_it_terminate() {
    let edges =
        [("targets", "A", true, &["*.py"][..]), ("targets", "B", false, &["b/*"]), ("targets", "C", false, &["?"])];
    assert_eq!(visits(&edges, "x"), "C");
    assert_eq!(visits(&edges, "b/x"), "B");
    assert_eq!(visits(&edges, "b/c/x"), "");
}

#[test]
fn cycles_end() {
    let edges = [("targets", "B", false, ALL), ("B", "C", false, ALL), ("C", "B", false, ALL)];
    assert_eq!(visits(&edges, "x"), "BC");
}

#[test]
fn a_target_counts_only_where_every_delegation_on_the_way_matches() {
    let repo = repo(
        &[("targets", "A", false, &["r/*"][..]), ("A", "B", false, &["r/x*"])],
        &[("B", "r/x1"), ("B", "r/y"), ("A", "r/a"), ("targets", "t")],
    );

    let (results, _) = search(&repo, &["r/x1", "r/y", "r/a", "t"]);

    let [Ok(Some(x1)), Ok(None), Ok(Some(a)), Ok(Some(t))] = &results[..] else { panic!("{results:?}") };
    for (found, role) in [(x1, "B"), (a, "A"), (t, "targets")] {
        found.check(content(role, &found.path).as_bytes()).unwrap();
        assert!(matches!(found.check(b"other"), Err(TrustError::WrongLength { .. })));
    }
    assert_eq!(x1.file().unwrap(), format!("r/{}.x1", x1.hashes["sha256"]));
}

#[test]
fn a_role_that_is_loaded_is_still_held_against_each_of_its_delegators() {
    let mut repo = repo(
        &[
            ("targets", "A", false, &["a/*"][..]),
            ("targets", "B", false, &["b/*"]),
            ("A", "R", false, &["a/*"]),
            ("B", "R", false, &["b/*"]),
        ],
        &[("R", "a/x"), ("R", "b/x")],
    );
    // B wants R to be signed by another key than A wants.
    let stranger = key("stranger").public().clone();
    let mut b: Value = serde_json::from_slice(&repo.metadata["1.B.json"]).unwrap();
    let delegations = &mut b["signed"]["delegations"];
    delegations["keys"] = json!({stranger.key_id(): stranger.to_value()});
    delegations["roles"][0]["keyids"] = json!([stranger.key_id()]);
    let b = DeviceFile::edit(&serde_json::to_vec(&b).unwrap()).unwrap();
    repo.put("B", 1, &b);

    let (results, _) = search(&repo, &["a/x", "b/x"]);

    assert!(
        matches!(&results[..], [Ok(Some(_)), Err(TrustError::Threshold { role, .. })] if role == "R"),
        "{results:?}"
    );
}

#[test]
fn a_role_that_the_snapshot_does_not_list_is_not_asked_for() {
    let mut repo = repo(&[("targets", "A", false, ALL)], &[]);
    repo.snapshot.signed_mut()["meta"].as_object_mut().unwrap().remove("A.json");
    repo.publish_snapshot();
    repo.publish_timestamp();

    let (results, requests) = search(&repo, &["x"]);

    assert!(matches!(&results[..], [Err(TrustError::NotPinned { entry, .. })] if entry == "A.json"), "{results:?}");
    assert!(requests.is_empty());
}

#[test]
fn targets_with_other_hashes_are_checked_by_those_that_we_know() {
    let mut repo = TestRepo::new();
    let sha512 = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
    let entry = |hashes: Value| json!({"length": 3, "hashes": hashes});
    repo.targets.signed_mut()["targets"] = json!({
        "new": entry(json!({"sha512": sha512, "blake9": "00"})), "odd": entry(json!({"blake9": "00"})),
    });
    repo.publish();

    let (results, _) = search(&repo, &["new", "odd"]);

    let [Ok(Some(new)), Ok(Some(odd))] = &results[..] else { panic!("{results:?}") };
    new.check(b"abc").unwrap();
    assert!(matches!(new.check(b"abd"), Err(TrustError::WrongDigest { algorithm: "sha512", .. })));
    assert_eq!(new.file().unwrap(), format!("{sha512}.new"));
    assert!(matches!(odd.check(b"abc"), Err(TrustError::BadTarget { .. })));
    assert!(matches!(odd.file(), Err(TrustError::BadTarget { .. })));
}

#[test]
fn nothing_is_searched_before_the_top_level_stands() {
    let repo = repo(&[], &[]);
    let start = |scope| Refresh::start(repo.stored_root(), scope, repo.now, Limits::default()).unwrap();

    assert!(matches!(start(Scope::TopLevel).search("x"), Err(TrustError::Misuse(_))));
    let mut everything = start(Scope::Everything);
    follow(&repo, &mut everything, &mut Vec::new()).unwrap();
    assert!(matches!(everything.search("x"), Err(TrustError::Misuse(_))));
    assert!(matches!(everything.found(), Err(TrustError::Misuse(_))));
}
