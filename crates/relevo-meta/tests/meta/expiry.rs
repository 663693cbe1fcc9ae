//! What is said of roles that will expire.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use relevo_meta::{
    RoleFile,
    expiry::{Level, expiries},
    testing::TestRepo,
};

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn level(role: &str, days: i64, more: SignedDuration) -> Level {
    let expires = now() + SignedDuration::from_hours(24 * days) + more;
    let roles = BTreeMap::from([(role.to_owned(), RoleFile { file: format!("1.{role}.json"), version: 1, expires })]);
    expiries(&roles, now())[0].level
}

#[test]
fn warns_60_and_14_and_3_days_before() {
    let (none, second) = (SignedDuration::ZERO, SignedDuration::from_secs(1));
    for role in ["root", "targets", "v-xiaomi", "d-ginkgo"] {
        let day = |days| level(role, days, none);
        assert_eq!([day(61), day(60), day(15)], [Level::Fine, Level::Notice, Level::Notice]);
        assert_eq!([day(14), day(4)], [Level::Soon, Level::Soon]);
        assert_eq!([day(3), day(0)], [Level::Urgent, Level::Urgent]);
        assert_eq!([level(role, 0, -second), day(-9)], [Level::Expired, Level::Expired]);
    }
}

#[test]
fn roles_that_a_machine_signs_are_worth_a_word_only_when_it_did_not() {
    let levels =
        |role, days: &[i64]| days.iter().map(|day| level(role, *day, SignedDuration::ZERO)).collect::<Vec<_>>();

    assert_eq!(levels("timestamp", &[7, 4, 3, -1]), [Level::Fine, Level::Fine, Level::Urgent, Level::Expired]);
    assert_eq!(levels("snapshot", &[60, 30, 14, 3]), [Level::Fine, Level::Fine, Level::Soon, Level::Urgent]);
}

#[test]
fn says_what_to_do_and_begins_with_the_next() {
    let mut repo = TestRepo::new();
    repo.add_device("xiaomi", "ginkgo");
    repo.publish();
    let trusted = repo.refresh(&repo.stored_root(), TestRepo::device_scope("xiaomi", "ginkgo")).result.unwrap();

    let all = expiries(trusted.roles(), repo.now + SignedDuration::from_hours(24 * 177));

    let said: Vec<_> = all.iter().map(|expiry| (expiry.role.as_str(), expiry.warning())).collect();
    let order: Vec<_> = said.iter().map(|(role, _)| *role).collect();
    assert_eq!(order, ["timestamp", "snapshot", "d-ginkgo", "root", "targets", "v-xiaomi"]);
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(said[0].1, text("timestamp HAS EXPIRED, at 2026-01-08T00:00:00Z; run relevo refresh every day"));
    assert_eq!(said[2].1, text("d-ginkgo EXPIRES within 96 hours; sign it anew with relevo refresh --role d-ginkgo"));
    assert_eq!(said[3].1, None);
}
