//! One store, several processes, and restarts.

use std::time::Duration;

use control::{ControlError, Expected};
use ids::Revision;
use serde_json::json;
use store::testing::Place;

use crate::sample::{NOW, by, key, open};

const SECOND: Duration = Duration::from_secs(1);

pub(crate) async fn changes_are_seen_elsewhere_within_a_second(place: Place) {
    let (here, there) = (open(&place).await, open(&place).await);
    let mut changes = there.changes();
    changes.mark_unchanged();
    // A lease is no change of a document.
    here.acquire_lease("train", "one", SECOND, NOW)
        .await
        .unwrap();
    assert!(
        tokio::time::timeout(SECOND / 2, changes.changed())
            .await
            .is_err()
    );
    here.put(&key("d"), json!(1), Expected::Absent, by("a"))
        .await
        .unwrap();
    tokio::time::timeout(SECOND, changes.changed())
        .await
        .expect("within a second")
        .unwrap();
    assert_eq!(there.get(&key("d")).await.unwrap().unwrap().body, json!(1));
    here.delete(&key("d"), Expected::Any, by("a"))
        .await
        .unwrap();
    tokio::time::timeout(SECOND, changes.changed())
        .await
        .expect("within a second")
        .unwrap();
    assert_eq!(there.get(&key("d")).await.unwrap(), None);
}

pub(crate) async fn everything_survives_a_restart(mut place: Place) {
    let store = open(&place).await;
    store
        .put(&key("d"), json!(1), Expected::Absent, by("a"))
        .await
        .unwrap();
    let lease = store
        .acquire_lease("train", "one", SECOND, NOW)
        .await
        .unwrap()
        .unwrap();
    drop(store);
    place.restart().unwrap();
    let store = open(&place).await;
    assert_eq!(
        store.get(&key("d")).await.unwrap().unwrap().revision,
        Revision(1)
    );
    assert_eq!(
        store
            .acquire_lease("train", "two", SECOND, NOW)
            .await
            .unwrap(),
        None
    );
    assert!(
        store
            .renew_lease(&lease, SECOND, NOW)
            .await
            .unwrap()
            .is_some()
    );
    assert_eq!(store.audit(0, 10).await.unwrap().len(), 1);
    assert!(*store.changes().borrow() > 0);
}

pub(crate) async fn of_two_writers_at_one_revision_one_wins(place: Place) {
    let (here, there) = (open(&place).await, open(&place).await);
    here.put(&key("d"), json!(0), Expected::Absent, by("a"))
        .await
        .unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..20 {
        let store = if i % 2 == 0 {
            here.clone()
        } else {
            there.clone()
        };
        let one = Expected::Revision(Revision(1));
        tasks.spawn(async move { store.put(&key("d"), json!(i), one, by("a")).await });
    }
    let results = tasks.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let conflicts = results
        .iter()
        .filter(|result| matches!(result, Err(ControlError::Conflict { .. })));
    assert_eq!(conflicts.count(), 19);
}
