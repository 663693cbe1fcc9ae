//! Publishing, refreshing, removing: what phones see afterwards.

use crate::support::{Fixture, builds};

#[test]
fn a_published_package_is_vouched_for_with_its_chunk_list() {
    let fixture = Fixture::with_device();

    let published = fixture.publish("100").unwrap();

    assert_eq!(published.roles, ["d-ginkgo", "snapshot", "timestamp"]);
    assert_eq!(builds(&fixture.open(), fixture.now), ["100"]);
    let report = fixture.open().check(fixture.now).unwrap();
    assert!(report.is_clean(), "{:?}", report.problems);
}
