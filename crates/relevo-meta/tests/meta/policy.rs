//! What a phone chooses.

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use relevo_meta::{
    Custom, Package, Size, TrustedDevice,
    policy::{Choice, PhoneState, Reason, choose, dice, present},
};
use relevo_types::{BuildId, ByteLen, Channel, Codename, PackageKind, Sha256, TargetPath, Vendor};

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn build(text: &str) -> BuildId {
    BuildId::parse(text).unwrap()
}

fn time(build: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + build).unwrap()
}

/// A package from a build (0: full) to a build, of a length.
fn package(from: i64, to: i64, length: u64) -> Package {
    let name = if from == 0 { format!("ginkgo-{to}-full.rvp") } else { format!("ginkgo-{from}-to-{to}.rvp") };
    Package {
        path: TargetPath::parse(&format!("xiaomi/ginkgo/stable/{name}")).unwrap(),
        length: ByteLen::new(length),
        sha256: Sha256::new([0; 32]),
        custom: Custom {
            kind: PackageKind::Native,
            from: (from != 0).then(|| build(&from.to_string())),
            to: build(&to.to_string()),
            version: to.to_string(),
            timestamp: time(to),
            sdk: None,
            spl: None,
            size: Size::default(),
            rollout: 100,
            floor: None,
            withdrawn: false,
            chunks: None,
            ab: None,
        },
    }
}

fn device(packages: Vec<Package>) -> TrustedDevice {
    TrustedDevice {
        vendor: Vendor::parse("xiaomi").unwrap(),
        codename: Codename::parse("ginkgo").unwrap(),
        keys: Vec::new(),
        threshold: 1,
        role_version: 1,
        roles: Vec::new(),
        expires: now() + SignedDuration::from_hours(24),
        fresh_until: now() + SignedDuration::from_hours(12),
        packages,
        targets: Default::default(),
        delegated: Default::default(),
        refused: Vec::new(),
    }
}

fn phone(running: i64) -> PhoneState {
    PhoneState {
        build: build(&running.to_string()),
        build_timestamp: time(running),
        channel: Channel::parse("stable").unwrap(),
        seed: 1,
        failed: Vec::new(),
        kinds: vec![PackageKind::Native],
    }
}

fn install(packages: &[Package]) -> Choice {
    Choice::Install(packages.to_vec())
}

fn nothing(reason: Reason) -> Choice {
    Choice::Nothing { reason }
}

fn with(mut package: Package, change: impl FnOnce(&mut Custom)) -> Package {
    change(&mut package.custom);
    package
}

#[test]
fn installs_the_newest_build_by_timestamp() {
    let packages = vec![package(0, 5, 10), package(0, 9, 10), package(0, 10, 10)];

    assert_eq!(choose(&device(packages.clone()), &phone(4), now()), install(&packages[2..]));
}

#[test]
fn a_phone_on_the_newest_build_is_up_to_date() {
    let device = device(vec![package(0, 5, 10), package(4, 5, 1)]);

    assert_eq!(choose(&device, &phone(5), now()), Choice::UpToDate);
    assert_eq!(choose(&device, &phone(6), now()), Choice::UpToDate);
}

#[test]
fn never_goes_back_not_even_over_a_step() {
    let back = with(package(8, 5, 1), |custom| custom.timestamp = time(5));
    let device = device(vec![back, package(5, 9, 1), package(0, 9, 100)]);

    let Choice::Install(path) = choose(&device, &phone(8), now()) else { panic!() };

    assert_eq!(path, [package(0, 9, 100)]);
}

#[test]
fn a_build_of_the_same_time_is_not_newer() {
    let twin = with(package(0, 6, 10), |custom| custom.timestamp = time(5));

    assert_eq!(choose(&device(vec![twin]), &phone(5), now()), Choice::UpToDate);
}

#[test]
fn one_package_with_a_later_time_does_not_make_an_old_build_new() {
    let packages = vec![package(0, 5, 10), with(package(4, 5, 1), |custom| custom.timestamp = time(99))];

    assert_eq!(choose(&device(packages), &phone(6), now()), Choice::UpToDate);
}

#[test]
fn takes_the_delta_where_it_is_smaller_and_the_full_one_where_that_is() {
    let delta = package(4, 5, 10);
    let full = package(0, 5, 100);
    assert_eq!(choose(&device(vec![full.clone(), delta.clone()]), &phone(4), now()), install(&[delta]));

    let delta = package(4, 5, 101);
    assert_eq!(choose(&device(vec![delta, full.clone()]), &phone(4), now()), install(&[full]));
}

#[test]
fn takes_the_cheapest_path_over_several_deltas() {
    let chain = [package(1, 2, 10), package(2, 3, 10), package(3, 4, 10)];
    let mut packages = chain.to_vec();
    packages.extend([package(1, 4, 31), package(0, 4, 500), package(1, 3, 25)]);
    assert_eq!(choose(&device(packages.clone()), &phone(1), now()), install(&chain));

    packages.push(package(1, 4, 30));
    let Choice::Install(path) = choose(&device(packages), &phone(1), now()) else { panic!() };
    assert_eq!(path.len(), 1, "equal bytes: fewer installations");
}

#[test]
fn a_full_package_of_a_build_in_between_can_begin_the_path() {
    let path = [package(0, 3, 50), package(3, 4, 10)];
    let device = device(vec![path[0].clone(), path[1].clone(), package(0, 4, 70)]);

    assert_eq!(choose(&device, &phone(1), now()), install(&path));
}

#[test]
fn other_channels_and_kinds_do_not_count() {
    let mut nightly = package(0, 9, 1);
    nightly.path = TargetPath::parse("xiaomi/ginkgo/nightly/ginkgo-9-full.rvp").unwrap();
    let zip = with(package(0, 8, 1), |custom| custom.kind = PackageKind::Ab);

    let choice = choose(&device(vec![nightly.clone(), zip.clone()]), &phone(1), now());
    assert_eq!(choice, nothing(Reason::EmptyChannel { channel: phone(1).channel }));

    let full = package(0, 5, 10);
    assert_eq!(choose(&device(vec![nightly, zip, full.clone()]), &phone(1), now()), install(&[full]));
}

#[test]
fn the_phones_own_dice_decide_on_a_rollout() {
    let staged = with(package(0, 5, 10), |custom| custom.rollout = 50);
    let device = device(vec![staged.clone()]);
    let seed = |shown: u8| (0..).find(|seed| dice(*seed, &build("5")) == shown).unwrap();
    let with_dice = |shown| choose(&device, &PhoneState { seed: seed(shown), ..phone(1) }, now());

    assert_eq!(with_dice(0), install(std::slice::from_ref(&staged)));
    assert_eq!(with_dice(49), install(&[staged]));
    assert_eq!(with_dice(50), nothing(Reason::RolloutPending { build: build("5"), rollout: 50 }));
    assert_eq!(with_dice(99), nothing(Reason::RolloutPending { build: build("5"), rollout: 50 }));
    let everybody = self::device(vec![package(0, 5, 10)]);
    assert_eq!(choose(&everybody, &PhoneState { seed: seed(99), ..phone(1) }, now()), install(&[package(0, 5, 10)]));
}

#[test]
fn the_dice_are_fair_and_fall_anew_for_each_build() {
    let shown = |build_id: &str| (0..10_000).map(|seed| dice(seed, &build(build_id))).collect::<Vec<_>>();
    let (five, six) = (shown("5"), shown("6"));

    for percent in [1, 5, 50, 95] {
        let inside = five.iter().filter(|dice| **dice < percent).count();
        assert!(inside.abs_diff(usize::from(percent) * 100) < 200, "{percent} %: {inside} of 10000");
    }
    // Of those who are first with one build, no more than usual are first with the next.
    let both = five.iter().zip(&six).filter(|(five, six)| **five < 10 && **six < 10).count();
    assert!((50..150).contains(&both), "{both} of 10000");
    // What a phone got when it was offered to 10 %, it still gets at 11 %: fixed for ever, or rollouts would shrink.
    assert_eq!((dice(1, &build("5")), dice(2, &build("5"))), (28, 31));
}

#[test]
fn the_present_is_never_before_what_is_known() {
    let at = |hour: i64| now() + SignedDuration::from_hours(hour);

    assert_eq!(present(at(3), at(1), Some(at(2))), at(3));
    assert_eq!(present(Timestamp::UNIX_EPOCH, at(1), None), at(1));
    assert_eq!(present(Timestamp::UNIX_EPOCH, at(1), Some(at(2))), at(2));
}

#[test]
fn a_phone_outside_the_rollout_gets_the_build_before() {
    let staged = with(package(0, 6, 10), |custom| custom.rollout = 0);
    let full = package(0, 5, 10);

    assert_eq!(choose(&device(vec![staged, full.clone()]), &phone(1), now()), install(&[full]));
}

#[test]
fn a_withdrawn_build_is_passed_over() {
    let withdrawn = with(package(0, 6, 10), |custom| custom.withdrawn = true);
    let full = package(0, 5, 10);
    let device_with = |packages| device(packages);

    assert_eq!(choose(&device_with(vec![withdrawn.clone(), full.clone()]), &phone(1), now()), install(&[full]));
    let choice = choose(&device_with(vec![withdrawn]), &phone(5), now());
    assert_eq!(choice, nothing(Reason::Withdrawn { build: build("6") }));
}

#[test]
fn no_path_leads_through_a_withdrawn_or_failed_build() {
    let chain = [package(1, 2, 10), package(2, 3, 10)];
    let full = package(0, 3, 500);
    let withdrawn = vec![with(chain[0].clone(), |custom| custom.withdrawn = true), chain[1].clone(), full.clone()];
    assert_eq!(choose(&device(withdrawn), &phone(1), now()), install(std::slice::from_ref(&full)));

    let device = device(vec![chain[0].clone(), chain[1].clone(), full.clone()]);
    let burnt = PhoneState { failed: vec![build("2")], ..phone(1) };
    assert_eq!(choose(&device, &burnt, now()), install(&[full]));
}

#[test]
fn a_build_that_failed_here_is_not_tried_again() {
    let device = device(vec![package(0, 5, 10)]);
    let burnt = PhoneState { failed: vec![build("5")], ..phone(1) };

    assert_eq!(choose(&device, &burnt, now()), nothing(Reason::FailedBefore { build: build("5") }));
}

#[test]
fn a_floor_comes_first() {
    let floored = with(package(0, 6, 10), |custom| custom.floor = Some(build("4")));
    let floor = package(0, 4, 100);
    let both = device(vec![floored.clone(), floor.clone()]);
    assert_eq!(choose(&both, &phone(1), now()), install(&[floor, floored.clone()]));
    assert_eq!(choose(&both, &phone(4), now()), install(std::slice::from_ref(&floored)));
    assert_eq!(choose(&both, &phone(5), now()), install(std::slice::from_ref(&floored)));

    let alone = device(vec![floored.clone()]);
    let reason = Reason::FloorUnreachable { build: build("6"), floor: build("4") };
    assert_eq!(choose(&alone, &phone(1), now()), nothing(reason));
    // Nothing says when build 4 was made; a phone that runs it needs no telling.
    assert_eq!(choose(&alone, &phone(4), now()), install(&[floored]));
}

#[test]
fn says_when_no_package_leads_there() {
    let device = device(vec![package(3, 5, 10)]);

    assert_eq!(choose(&device, &phone(1), now()), nothing(Reason::NoPath { build: build("5") }));
}

#[test]
fn an_expired_device_offers_nothing() {
    let device = device(vec![package(0, 5, 10)]);
    let expires = device.expires;

    assert_eq!(choose(&device, &phone(1), expires), Choice::Unmaintained { since: expires });
    // Not even to a phone that runs its newest build: up to date it is not.
    assert_eq!(choose(&device, &phone(5), expires), Choice::Unmaintained { since: expires });
}

#[test]
fn metadata_past_their_date_can_offer_a_build_but_not_say_that_there_is_none() {
    let device = device(vec![package(0, 5, 10)]);
    let until = device.fresh_until;

    assert_eq!(choose(&device, &phone(1), until), install(&[package(0, 5, 10)]));
    assert_eq!(choose(&device, &phone(5), until), nothing(Reason::Stale { until }));
    assert_eq!(choose(&device, &phone(5), until - SignedDuration::from_secs(1)), Choice::UpToDate);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Against trying every path.
    #[test]
    fn no_path_is_cheaper_than_the_chosen_one(
        edges in proptest::collection::vec((0i64..6, 1i64..7, 1u64..50), 1..14),
        running in 1i64..4,
    ) {
        let mut packages: Vec<Package> =
            edges.iter().filter(|(from, to, _)| from < to).map(|&(from, to, length)| package(from, to, length)).collect();
        packages.sort_by(|a, b| a.path.cmp(&b.path));
        packages.dedup_by(|a, b| a.path == b.path);

        let choice = choose(&device(packages.clone()), &phone(running), now());

        if let Choice::Install(path) = choice {
            let goal = path.last().unwrap().custom.to.clone();
            let cost: u64 = path.iter().map(|package| package.length.get()).sum();
            let mut at = build(&running.to_string());
            for step in &path {
                prop_assert!(step.custom.from.as_ref().is_none_or(|from| *from == at));
                at = step.custom.to.clone();
            }
            prop_assert_eq!(Some(cost), cheapest(&packages, running, &goal));
        }
    }
}

fn cheapest(packages: &[Package], at: i64, goal: &BuildId) -> Option<u64> {
    if build(&at.to_string()) == *goal {
        return Some(0);
    }
    let steps = packages.iter().filter_map(|package| {
        let to: i64 = package.custom.to.as_str().parse().ok()?;
        let fits = package.custom.from.as_ref().is_none_or(|from| *from == build(&at.to_string()));
        (fits && to > at).then(|| Some(package.length.get() + cheapest(packages, to, goal)?))?
    });
    steps.min()
}
