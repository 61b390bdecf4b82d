//! Leases and the writes that they guard.

use std::time::Duration;

use control::{ControlError, Expected, LEASE_NAME_BYTES_MAX};
use serde_json::json;
use store::testing::Place;

use crate::sample::{NOW, by, key, open};

const TTL: Duration = Duration::from_secs(30);

pub(crate) async fn one_holder_at_a_time(place: Place) {
    let (here, there) = (open(&place).await, open(&place).await);
    let first = here
        .acquire_lease("train", "one", TTL, NOW)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((first.fence, first.expires_at), (1, NOW.plus(TTL)));
    assert_eq!(
        there.acquire_lease("train", "two", TTL, NOW).await.unwrap(),
        None
    );
    assert!(
        there
            .acquire_lease("other", "two", TTL, NOW)
            .await
            .unwrap()
            .is_some()
    );
    assert!(here.release_lease(&first).await.unwrap());
    assert!(
        !here.release_lease(&first).await.unwrap(),
        "it was given back already"
    );
    let second = there
        .acquire_lease("train", "two", TTL, NOW)
        .await
        .unwrap()
        .unwrap();
    assert!(second.fence > first.fence);
    assert!(
        !here.release_lease(&first).await.unwrap(),
        "it is another's now"
    );
    for (name, holder) in [
        ("", "h"),
        ("n", ""),
        ("n", &"x".repeat(LEASE_NAME_BYTES_MAX + 1)),
    ] {
        let refused = here.acquire_lease(name, holder, TTL, NOW).await;
        assert!(matches!(refused, Err(ControlError::LeaseName(_))));
    }
}

pub(crate) async fn a_lease_ends_by_the_clock_that_is_passed_in(place: Place) {
    let store = open(&place).await;
    let lease = store
        .acquire_lease("train", "one", TTL, NOW)
        .await
        .unwrap()
        .unwrap();
    let almost = NOW.plus(TTL - Duration::from_millis(1));
    assert_eq!(
        store
            .acquire_lease("train", "two", TTL, almost)
            .await
            .unwrap(),
        None
    );
    let renewed = store
        .renew_lease(&lease, TTL, almost)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (renewed.fence, renewed.expires_at),
        (lease.fence, almost.plus(TTL))
    );
    assert_eq!(
        store
            .acquire_lease("train", "two", TTL, NOW.plus(TTL))
            .await
            .unwrap(),
        None
    );

    let ended = renewed.expires_at;
    assert_eq!(
        store.renew_lease(&renewed, TTL, ended).await.unwrap(),
        None,
        "it ended"
    );
    let next = store
        .acquire_lease("train", "two", TTL, ended)
        .await
        .unwrap()
        .unwrap();
    assert!(next.fence > lease.fence);
    assert_eq!(
        store.renew_lease(&renewed, TTL, NOW).await.unwrap(),
        None,
        "it was lost"
    );
    // The same holder may ask again; its earlier acquisition is void then.
    let again = store
        .acquire_lease("train", "two", TTL, ended)
        .await
        .unwrap()
        .unwrap();
    assert!(again.fence > next.fence);
    assert_eq!(store.renew_lease(&next, TTL, ended).await.unwrap(), None);
}

pub(crate) async fn a_fenced_write_needs_the_lease_in_force(place: Place) {
    let store = open(&place).await;
    let doc = key("d");
    let old = store
        .acquire_lease("train", "one", TTL, NOW)
        .await
        .unwrap()
        .unwrap();
    store
        .put_fenced(&old, &doc, json!(1), Expected::Absent, by("one"))
        .await
        .unwrap();
    let new = store
        .acquire_lease("train", "two", TTL, old.expires_at)
        .await
        .unwrap()
        .unwrap();
    let refused = store
        .put_fenced(&old, &doc, json!(2), Expected::Any, by("one"))
        .await;
    assert!(matches!(refused, Err(ControlError::Fenced(name)) if name == "train"));
    assert_eq!(store.get(&doc).await.unwrap().unwrap().body, json!(1));
    store
        .put_fenced(&new, &doc, json!(3), Expected::Any, by("two"))
        .await
        .unwrap();
    store.release_lease(&new).await.unwrap();
    assert!(
        store
            .put_fenced(&new, &doc, json!(4), Expected::Any, by("two"))
            .await
            .is_err()
    );
    assert_eq!(store.audit(0, 10).await.unwrap().len(), 2);
}
