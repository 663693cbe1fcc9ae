//! Proposals: their file, what they change in words, who signs them, and everything that is refused.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use relevo_meta::{
    Target,
    author::{DeviceFile, RegistryFile, RootFile, TopRole},
    ceremony::{Base, CeremonyError, Document, Ground, MAX_LEN, Mark, Proposal, Review, ShapeError},
    keys::{PublicKey, Signer as _},
    testing::{TestRepo, key},
};
use relevo_types::{Sha256, TargetPath};
use serde_json::{Map, Value, json};

/// A proposal as it is written, with one of two signatures.
const GOLDEN: &str = include_str!("ceremony.json");

fn repo() -> TestRepo {
    let mut repo = TestRepo::new();
    repo.add_device("xiaomi", "ginkgo");
    repo.add_package("xiaomi/ginkgo", "stable", "", "100", 1_700_000_000, b"a full package");
    repo.publish();
    repo
}

/// The repository as somebody verified it.
fn ground(repo: &TestRepo) -> Ground {
    let first = Target::of(&repo.metadata["1.root.json"]).sha256;
    let mut files: BTreeMap<String, (u64, Vec<u8>)> = BTreeMap::new();
    for (name, bytes) in &repo.metadata {
        let Some((version, role)) = name.split_once('.') else { continue };
        let (Ok(version), Some(role)) = (version.parse::<u64>(), role.strip_suffix(".json")) else { continue };
        if role != "snapshot" && files.get(role).is_none_or(|(known, _)| *known < version) {
            files.insert(role.to_owned(), (version, bytes.clone()));
        }
    }
    Ground::new(first, files.into_iter().map(|(role, (_, bytes))| (role, bytes)).collect())
}

fn public(names: &[&str]) -> Vec<PublicKey> {
    names.iter().map(|name| key(name).public().clone()).collect()
}

fn base(ground: &Ground, role: &str) -> Base {
    let bytes = ground.file(role).unwrap();
    let value: Value = serde_json::from_slice(bytes).unwrap();
    Base { version: value["signed"]["version"].as_u64().unwrap(), sha256: Target::of(bytes).sha256 }
}

fn document(ground: &Ground, role: &str, signed: &Map<String, Value>) -> Document {
    Document { role: role.to_owned(), base: Some(base(ground, role)), signed: signed.clone() }
}

/// The root with three keys of which two sign.
fn new_root(repo: &TestRepo) -> RootFile {
    let mut root = repo.root.clone();
    root.set_role(TopRole::Root, &public(&["root", "alice", "bob"]), 2).unwrap();
    root.bump().unwrap();
    root.set_expires(repo.now + SignedDuration::from_hours(24 * 300));
    root
}

fn proposal(repo: &TestRepo) -> Proposal {
    let ground = ground(repo);
    Proposal::new(ground.repository(), vec![document(&ground, "root", new_root(repo).signed())]).unwrap()
}

fn review(proposal: &Proposal, repo: &TestRepo) -> Result<Review, CeremonyError> {
    proposal.review(&ground(repo), &BTreeMap::new(), repo.now)
}

/// The root's proposal with something in it changed.
fn changed(repo: &TestRepo, change: impl FnOnce(&mut Map<String, Value>)) -> Result<Review, CeremonyError> {
    let mut root = new_root(repo);
    change(root.signed_mut());
    let ground = ground(repo);
    review(&Proposal::new(ground.repository(), vec![document(&ground, "root", root.signed())])?, repo)
}

#[test]
fn a_proposal_is_written_as_it_always_was() {
    let repo = repo();
    let mut proposal = proposal(&repo);
    proposal.sign("root", &key("alice")).unwrap();

    assert_eq!(proposal.to_text(), GOLDEN);
    assert_eq!(Proposal::parse(GOLDEN.as_bytes()).unwrap(), proposal);
}

#[test]
fn line_ends_and_indents_do_not_matter() {
    let loose = GOLDEN.replace('\n', "\r\n   ");
    let tight = serde_json::from_str::<Value>(GOLDEN).unwrap().to_string();

    for text in [loose, tight] {
        let proposal = Proposal::parse(text.as_bytes()).unwrap();
        assert_eq!(proposal.to_text(), GOLDEN);
        assert_eq!(proposal.id(), Proposal::parse(GOLDEN.as_bytes()).unwrap().id());
    }
}

#[test]
fn a_truncated_file_is_refused_at_every_length() {
    for cut in 0..GOLDEN.trim_end().len() {
        assert!(Proposal::parse(&GOLDEN.as_bytes()[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_flipped_bit_is_never_accepted_as_the_same_proposal() {
    let repo = repo();
    let original = Proposal::parse(GOLDEN.as_bytes()).unwrap();
    for position in 0..GOLDEN.len() {
        let mut bytes = GOLDEN.as_bytes().to_vec();
        bytes[position] ^= 1;
        let Ok(read) = Proposal::parse(&bytes) else { continue };
        // The words for people are nobody's business, and a space may become another one.
        if read == original {
            continue;
        }
        assert!(review(&read, &repo).is_err(), "byte {position}");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(signers in proptest::collection::btree_set(0..20_u8, 0..8), version in 1..1000_u64) {
        let mut root = RootFile::new("2027-01-01T00:00:00Z".parse().unwrap());
        root.set_version(version);
        let document = Document { role: "root".to_owned(), base: None, signed: root.signed().clone() };
        let mut proposal = Proposal::new(Sha256::new([7; 32]), vec![document]).unwrap();
        for signer in signers {
            proposal.sign("root", &key(&signer.to_string())).unwrap();
        }
        prop_assert_eq!(Proposal::parse(proposal.to_text().as_bytes()).unwrap(), proposal);
    }

    #[test]
    fn nothing_that_is_no_proposal_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Proposal::parse(&bytes).is_err());
    }
}

#[test]
fn the_form_has_limits() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_str(GOLDEN).unwrap();
        change(&mut value);
        Proposal::parse(value.to_string().as_bytes()).unwrap_err()
    };
    let mark = |role: &str, id: &str| json!({"role": role, "keyid": id, "sig": "0".repeat(128)});

    let long = Proposal::parse(&vec![b' '; MAX_LEN + 1]).unwrap_err();
    assert!(matches!(long, CeremonyError::TooLong { len } if len == MAX_LEN + 1));
    assert!(matches!(with(&|value| value["relevo_ceremony"] = 2.into()), CeremonyError::Version { found: 2 }));
    assert!(matches!(with(&|value| value["other"] = 2.into()), CeremonyError::Malformed(_)));
    assert!(matches!(with(&|value| value["documents"] = json!([])), CeremonyError::Empty));
    let many = with(&|value| {
        let one = value["documents"][0].clone();
        value["documents"] = (0..40).map(|_| one.clone()).collect();
    });
    assert!(matches!(many, CeremonyError::TooMany { what: "documents", found: 40, .. }), "{many:?}");
    let many = with(&|value| value["signatures"] = (0..300).map(|id| mark("root", &id.to_string())).collect());
    assert!(matches!(many, CeremonyError::TooMany { what: "signatures", found: 300, .. }), "{many:?}");
    let two = with(&|value| {
        let one = value["documents"][0].clone();
        value["documents"].as_array_mut().unwrap().push(one);
    });
    assert!(matches!(two, CeremonyError::TwoDocuments { ref role } if role == "root"), "{two:?}");
    let two = with(&|value| {
        let one = value["signatures"][0].clone();
        value["signatures"].as_array_mut().unwrap().push(one);
    });
    assert!(matches!(two, CeremonyError::TwoSignatures { .. }), "{two:?}");
    let none = with(&|value| value["signatures"] = json!([mark("targets", "x")]));
    assert!(matches!(none, CeremonyError::NoDocument { ref role } if role == "targets"), "{none:?}");
    for sig in ["", "00", &"0".repeat(127), &"A".repeat(128), &"ä".repeat(64)] {
        let form = with(&|value| value["signatures"][0]["sig"] = sig.into());
        assert!(matches!(form, CeremonyError::SignatureForm { .. }), "{form:?}");
    }
    let fraction = with(&|value| value["documents"][0]["signed"]["extra"] = json!(1.5));
    assert!(matches!(fraction, CeremonyError::NotCanonical { ref role } if role == "root"), "{fraction:?}");
}

#[test]
fn signatures_of_copies_are_put_together() {
    let repo = repo();
    let (mut one, mut two, mut three) = (proposal(&repo), proposal(&repo), proposal(&repo));
    assert!(one.sign("root", &key("root")).unwrap());
    assert!(!one.sign("root", &key("root")).unwrap(), "once is enough");
    two.sign("root", &key("bob")).unwrap();
    three.sign("root", &key("bob")).unwrap();

    for other in [&two, &three, &two] {
        one.merge(other).unwrap();
    }
    let review = review(&one, &repo).unwrap();

    assert_eq!(one.signatures().len(), 2);
    assert!(review.is_complete());
    let groups = &review.documents[0].groups;
    assert_eq!(groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>(), ["root 1", "root 2"]);
    assert_eq!(groups.iter().map(|group| (group.signed.len(), group.missing())).collect::<Vec<_>>(), [(1, 0), (2, 0)]);
    let mut other = new_root(&repo);
    other.set_expires(repo.now + SignedDuration::from_hours(24 * 20));
    let ground = ground(&repo);
    let other = Proposal::new(ground.repository(), vec![document(&ground, "root", other.signed())]).unwrap();
    assert!(matches!(one.merge(&other), Err(CeremonyError::OtherProposal { .. })));
}

#[test]
fn old_and_new_keys_of_the_root_both_have_to_sign() {
    let repo = repo();
    let mut proposal = proposal(&repo);
    for name in ["alice", "bob"] {
        proposal.sign("root", &key(name)).unwrap();
    }

    let review = review(&proposal, &repo).unwrap();

    assert!(!review.is_complete());
    let missing: Vec<usize> = review.documents[0].groups.iter().map(|group| group.missing()).collect();
    assert_eq!(missing, [1, 0]);
    assert_eq!(review.waits_for(&key("root").key_id()), ["root"]);
    assert!(review.waits_for(&key("alice").key_id()).is_empty());
    assert!(review.knows(&key("alice").key_id()) && !review.knows(&key("mallory").key_id()));
}

#[test]
fn a_key_that_is_listed_twice_signs_once() {
    let repo = repo();
    let old = ground(&repo);
    let mut root: Value = serde_json::from_slice(old.file("root").unwrap()).unwrap();
    let id = root["signed"]["roles"]["root"]["keyids"][0].clone();
    root["signed"]["roles"]["root"] = json!({"keyids": [id, id], "threshold": 2});
    let files = BTreeMap::from([("root".to_owned(), root.to_string().into_bytes())]);
    let ground = Ground::new(old.repository(), files);
    let documents = vec![document(&ground, "root", new_root(&repo).signed())];
    let mut proposal = Proposal::new(ground.repository(), documents).unwrap();
    proposal.sign("root", &key("root")).unwrap();

    let review = proposal.review(&ground, &BTreeMap::new(), repo.now).unwrap();

    assert_eq!(review.documents[0].groups[0].missing(), 1);
}

#[test]
fn strangers_and_signatures_over_something_else_are_refused() {
    let repo = repo();
    let mut stranger = proposal(&repo);
    stranger.sign("root", &key("mallory")).unwrap();
    let mut signed = proposal(&repo);
    signed.sign("root", &key("bob")).unwrap();
    let mut value: Value = serde_json::from_str(&signed.to_text()).unwrap();
    value["documents"][0]["signed"]["roles"]["root"]["threshold"] = 1.into();
    let tampered = Proposal::parse(value.to_string().as_bytes()).unwrap();

    let stranger = review(&stranger, &repo).unwrap_err();
    let tampered = review(&tampered, &repo).unwrap_err();

    let id = |name: &str| key(name).key_id();
    assert!(matches!(stranger, CeremonyError::Stranger { key_id, .. } if key_id == id("mallory")));
    assert!(matches!(tampered, CeremonyError::BadSignature { key_id, .. } if key_id == id("bob")));
}

#[test]
fn a_proposal_fits_to_one_state_of_one_repository() {
    let mut repo = repo();
    let old = ground(&repo);
    let proposal = proposal(&repo);

    let mut other = TestRepo::new();
    other.now = repo.now + SignedDuration::from_hours(1);
    other.root.set_expires(other.now);
    other.root.set_version(0);
    other.publish_root();
    let error = review(&proposal, &other).unwrap_err();
    assert!(matches!(error, CeremonyError::OtherRepository { .. }), "{error:?}");

    let same = Ground::new(
        old.repository(),
        BTreeMap::from([("root".to_owned(), {
            let mut bytes = old.file("root").unwrap().to_vec();
            bytes.push(b' ');
            bytes
        })]),
    );
    let error = proposal.review(&same, &BTreeMap::new(), repo.now).unwrap_err();
    assert!(matches!(error, CeremonyError::OtherBase { version: 1, .. }), "{error:?}");

    repo.publish_root();
    let error = review(&proposal, &repo).unwrap_err();
    assert!(matches!(error, CeremonyError::Stale { base: 1, current: 2, .. }), "{error:?}");

    let newer = ground(&repo);
    let mut root = new_root(&repo);
    root.set_version(3);
    let later = Proposal::new(newer.repository(), vec![document(&newer, "root", root.signed())]).unwrap();
    let error = later.review(&old, &BTreeMap::new(), repo.now).unwrap_err();
    assert!(matches!(error, CeremonyError::Behind { base: 2, current: 1, .. }), "{error:?}");

    let late = later.review(&newer, &BTreeMap::new(), repo.now + SignedDuration::from_hours(24 * 300)).unwrap_err();
    assert!(matches!(late, CeremonyError::Expired { .. }), "{late:?}");
}

#[test]
fn a_root_that_is_not_as_ours_is_refused() {
    let repo = repo();
    let shape = |change: &dyn Fn(&mut Map<String, Value>)| match changed(&repo, change) {
        Err(CeremonyError::Shape { source, .. }) => source,
        other => panic!("{other:?}"),
    };
    let time = |days: i64| Value::from((repo.now + SignedDuration::from_hours(24 * days)).to_string());

    for field in ["_type", "version"] {
        let error = shape(&|signed| drop(signed.remove(field)));
        assert!(matches!(error, ShapeError::Keys(_)), "{field}: {error:?}");
    }
    for field in ["spec_version", "expires", "consistent_snapshot"] {
        let error = shape(&|signed| drop(signed.remove(field)));
        assert!(matches!(error, ShapeError::Field(named) if named == field), "{field}: {error:?}");
    }
    assert!(matches!(shape(&|signed| signed["spec_version"] = "2.0".into()), ShapeError::Field("spec_version")));
    assert!(matches!(shape(&|signed| signed["version"] = 3.into()), ShapeError::Version { found: 3, expected: 2 }));
    assert!(matches!(shape(&|signed| signed["version"] = 1.into()), ShapeError::Version { found: 1, expected: 2 }));
    assert!(matches!(shape(&|signed| signed["expires"] = time(4000)), ShapeError::Expiry { .. }));
    assert!(matches!(shape(&|signed| signed["roles"]["mirrors"] = json!({})), ShapeError::Field("roles")));
    assert!(matches!(shape(&|signed| signed["consistent_snapshot"] = false.into()), ShapeError::Field(_)));
    for threshold in [0, 4] {
        let error = shape(&|signed| signed["roles"]["root"]["threshold"] = threshold.into());
        assert!(matches!(error, ShapeError::Threshold { keys: 3, .. }), "{error:?}");
    }
    let twice = shape(&|signed| {
        let id = signed["roles"]["root"]["keyids"][0].clone();
        signed["roles"]["root"]["keyids"][1] = id;
    });
    assert!(matches!(twice, ShapeError::Threshold { keys: 2, .. }), "{twice:?}");
    let foreign = shape(&|signed| signed["roles"]["timestamp"]["keyids"][0] = "x".into());
    assert!(matches!(foreign, ShapeError::Keys(_)), "{foreign:?}");
    let large = shape(&|signed| drop(signed.insert("x".to_owned(), "x".repeat(40_000).into())));
    assert!(matches!(large, ShapeError::TooLong { .. }), "{large:?}");
}

/// A proposal of other files than the root's, unsigned.
fn propose(repo: &TestRepo, documents: Vec<(&str, &Map<String, Value>)>) -> Result<Review, CeremonyError> {
    let ground = ground(repo);
    let documents = documents.into_iter().map(|(role, signed)| Document {
        role: role.to_owned(),
        base: ground.file(role).map(|_| base(&ground, role)),
        signed: signed.clone(),
    });
    review(&Proposal::new(ground.repository(), documents.collect())?, repo)
}

#[test]
fn nobody_delegates_or_lists_what_is_not_theirs() {
    let repo = repo();
    let vendor = "xiaomi".parse().unwrap();
    let mut registry = repo.vendors[&vendor].clone();
    registry.bump().unwrap();
    let mut device = repo.devices[&"ginkgo".parse().unwrap()].clone();
    device.bump().unwrap();
    let registry = |change: &dyn Fn(&mut Value)| {
        let mut file = registry.clone();
        change(&mut file.signed_mut()["delegations"]["roles"][0]);
        propose(&repo, vec![("v-xiaomi", file.signed())])
    };
    let device = |path: &str| {
        let mut file = device.clone();
        file.signed_mut()["targets"][path] = json!({"length": 1, "hashes": {"sha256": "00"}});
        propose(&repo, vec![("d-ginkgo", file.signed())])
    };
    let refused = |review: Result<Review, CeremonyError>| match review {
        Err(CeremonyError::Shape { source, .. }) => source,
        other => panic!("{other:?}"),
    };

    for (field, value) in [
        ("paths", json!(["xiaomi/*/*/*"])),
        ("paths", json!(["xiaomi/ginkgo/*/*", "samsung/*/*/*"])),
        ("paths", json!([])),
        ("terminating", json!(false)),
        ("name", json!("v-samsung")),
        ("name", json!("d-../x")),
        ("path_hash_prefixes", json!(["00"])),
    ] {
        let error = refused(registry(&|role| role[field] = value.clone()));
        assert!(matches!(error, ShapeError::Delegation { .. }), "{field}: {error:?}");
    }
    for path in ["xiaomi/willow/stable/a.rvp", "samsung/ginkgo/stable/a.rvp", "xiaomi/ginkgo/a.rvp", "/etc/passwd"] {
        assert!(matches!(refused(device(path)), ShapeError::Target { .. }), "{path}");
    }
    let mut targets = repo.targets.clone();
    targets.bump().unwrap();
    targets.signed_mut()["targets"]["xiaomi/ginkgo/stable/a.rvp"] = json!({"length": 1, "hashes": {"sha256": "00"}});
    let error = refused(propose(&repo, vec![("targets", targets.signed())]));
    assert!(matches!(error, ShapeError::Target { .. }), "{error:?}");
    for role in ["snapshot", "timestamp", "x"] {
        let error = propose(&repo, vec![(role, repo.targets.signed())]).unwrap_err();
        assert!(matches!(error, CeremonyError::Shape { source: ShapeError::Role, .. }), "{error:?}");
    }
    for role in ["d-willow", "v-samsung", "d-willow-nightly", "d-", "v-/"] {
        let error = propose(&repo, vec![(role, repo.targets.signed())]).unwrap_err();
        assert!(matches!(error, CeremonyError::NoDelegator { .. }), "{role}: {error:?}");
    }
}

#[test]
fn a_new_device_needs_its_vendor_and_its_own_key() {
    let repo = repo();
    let (vendor, codename) = ("xiaomi".parse().unwrap(), "willow".parse().unwrap());
    let mut registry = repo.vendors[&vendor].clone();
    registry.bump().unwrap();
    registry.put_device(&vendor, &codename, &public(&["carol", "bob"]), 2).unwrap();
    let mut device = DeviceFile::new(repo.now + SignedDuration::from_hours(24 * 180));
    device.put_nightly(&vendor, &codename, &public(&["box"]), 1).unwrap();
    let mut nightly = DeviceFile::new(repo.now + SignedDuration::from_hours(24 * 45));
    let path = TargetPath::parse("xiaomi/willow/nightly/a.rvp").unwrap();
    nightly.put_target(&path, Target::of(b"a"), &json!(null)).unwrap();

    let review = propose(
        &repo,
        vec![("d-willow-nightly", nightly.signed()), ("d-willow", device.signed()), ("v-xiaomi", registry.signed())],
    )
    .unwrap();

    let groups: Vec<(&str, usize, usize)> = review
        .documents
        .iter()
        .map(|document| (document.role.as_str(), document.groups[0].keys.len(), document.groups[0].threshold))
        .collect();
    assert_eq!(groups, [("d-willow-nightly", 1, 1), ("d-willow", 2, 2), ("v-xiaomi", 1, 1)]);
    assert_eq!(review.documents[1].from, None);
    let said = |index: usize| review.documents[index].changes.join("\n");
    assert!(
        said(2).contains("the role d-willow is new; it speaks for [\"xiaomi/willow/*/*\"] and nothing else"),
        "{}",
        said(2)
    );
    assert!(said(2).contains("d-willow: 2 of 2 keys sign"), "{}", said(2));
    assert!(said(1).contains("the role d-willow-nightly is new"), "{}", said(1));
    assert!(said(0).contains("xiaomi/willow/nightly/a.rvp is offered: file, 1 B"), "{}", said(0));
    let mut outside = nightly.clone();
    let stable = TargetPath::parse("xiaomi/willow/stable/a.rvp").unwrap();
    outside.put_target(&stable, Target::of(b"a"), &json!(null)).unwrap();
    let error = propose(
        &repo,
        vec![("d-willow-nightly", outside.signed()), ("d-willow", device.signed()), ("v-xiaomi", registry.signed())],
    );
    assert!(matches!(error, Err(CeremonyError::Shape { source: ShapeError::Target { .. }, .. })), "{error:?}");
}

#[test]
fn every_change_is_said() {
    let repo = repo();
    let names = BTreeMap::from([(key("bob").key_id(), "bob".to_owned())]);
    let ground = ground(&repo);
    let explain = |role: &str, signed: &Map<String, Value>| {
        let proposal = Proposal::new(ground.repository(), vec![document(&ground, role, signed)]).unwrap();
        let mut review = proposal.review(&ground, &names, repo.now).unwrap();
        review.documents.remove(0)
    };

    let mut root = repo.root.clone();
    root.bump().unwrap();
    let same = explain("root", root.signed());
    assert_eq!(same.changes.len(), 2, "{:?}", same.changes);
    assert_eq!(same.changes[1], "nothing else changes: it is signed anew");
    root.set_offline_grace(45).unwrap();
    let log = crate::log::log_key("log");
    root.set_log(&log).unwrap();
    root.set_role(TopRole::Timestamp, &public(&["bob"]), 1).unwrap();
    root.set_role(TopRole::Root, &public(&["root", "bob"]), 1).unwrap();
    let said = explain("root", root.signed());
    let text = said.changes.join("\n");
    let bob = format!("key {} (bob)", key("bob").key_id());
    for words in [
        &format!("timestamp: {bob} may sign"),
        &format!("timestamp: key {} (not known here) may no longer sign", key("timestamp").key_id()),
        &format!("root: {bob} may sign"),
        "root: 1 of 2 keys sign, so far 1 of 1",
        "days for which an offline copy counts after its date: 45, so far 0",
        &format!("key of the transparency log: \"{log}\", so far none"),
    ] {
        assert!(text.contains(words), "{words} is not in: {text}");
    }
    let warnings = said.warnings.join("\n");
    assert!(warnings.contains("each of the root's keys alone could replace all others"), "{warnings}");
    assert!(warnings.contains("timestamp: none of the keys so far stays"), "{warnings}");

    let mut targets: RegistryFile = repo.targets.clone();
    targets.bump().unwrap();
    targets.set_expires(repo.now + SignedDuration::from_hours(24 * 900));
    targets.remove_role("v-xiaomi").unwrap();
    let said = explain("targets", targets.signed());
    assert!(said.changes.contains(&"the role v-xiaomi ends: nothing that it signs counts any more".to_owned()));
    assert!(said.warnings[0].contains("it would be valid for 900 days"), "{:?}", said.warnings);

    let codename = "ginkgo".parse().unwrap();
    let mut device = repo.devices[&codename].clone();
    device.bump().unwrap();
    let path = TargetPath::parse("xiaomi/ginkgo/stable/ginkgo-100-full.rvp").unwrap();
    device.edit_custom(&path, |custom| drop(custom.insert("rollout".to_owned(), 10.into()))).unwrap();
    device.edit_custom(&path, |custom| drop(custom.insert("version".to_owned(), "\u{1b}[2J\u{202e}x".into()))).unwrap();
    let list = TargetPath::parse("xiaomi/ginkgo/stable/ginkgo-100-full.rvp.chunks").unwrap();
    device.remove_target(&list).unwrap();
    let said = explain("d-ginkgo", device.signed()).changes.join("\n");
    assert!(said.contains(&format!("{path}: rollout is 10, so far 100")), "{said}");
    assert!(said.contains(&format!("{list} is no longer offered")), "{said}");
    assert!(!said.contains('\u{1b}') && !said.contains('\u{202e}'), "{said:?}");
}

#[test]
fn the_finished_file_is_what_was_signed() {
    let repo = repo();
    let mut proposal = proposal(&repo);
    for name in ["root", "bob"] {
        proposal.sign("root", &key(name)).unwrap();
    }

    let file: Value = serde_json::from_slice(&proposal.file("root").unwrap()).unwrap();

    assert_eq!(file["signed"], Value::Object(new_root(&repo).signed().clone()));
    let ids: Vec<&str> =
        file["signatures"].as_array().unwrap().iter().map(|mark| mark["keyid"].as_str().unwrap()).collect();
    let expected: Vec<&str> = proposal.signatures().iter().map(|Mark { key_id, .. }| key_id.as_str()).collect();
    assert_eq!(ids, expected);
    assert!(matches!(proposal.file("targets"), Err(CeremonyError::NoDocument { .. })));
    let now: Timestamp = repo.now;
    assert!(proposal.review(&ground(&repo), &BTreeMap::new(), now).unwrap().is_complete());
}
