//! Documents, revisions and the audit log.

use control::{
    AUDIT_PAGE_MAX, ControlError, DOCUMENT_BYTES_MAX, DocKey, DocKind, Expected, Found,
    KEY_BYTES_MAX, aliases, rollouts,
};
use ids::{AdapterDigest, AliasName, BaseDigest, ModelName, Revision, Sha256Digest};
use serde_json::{Value, json};
use store::testing::Place;

use crate::sample::{NOW, by, key, open};

fn conflict(result: Result<Revision, ControlError>) -> Found {
    match result {
        Err(ControlError::Conflict { found, .. }) => found,
        other => panic!("{other:?} is no conflict"),
    }
}

pub(crate) async fn a_write_needs_the_right_revision(place: Place) {
    let store = open(&place).await;
    let (doc, two) = (key("d"), Expected::Revision(Revision(2)));
    assert_eq!(store.get(&doc).await.unwrap(), None);
    assert_eq!(
        conflict(
            store
                .put(&doc, json!(1), Expected::Revision(Revision(0)), by("a"))
                .await
        ),
        Found::Absent
    );
    assert_eq!(
        store
            .put(&doc, json!({"n": 1}), Expected::Absent, by("a"))
            .await
            .unwrap(),
        Revision(1)
    );
    assert_eq!(
        conflict(store.put(&doc, json!(2), Expected::Absent, by("a")).await),
        Found::At(Revision(1))
    );
    assert_eq!(
        conflict(store.put(&doc, json!(2), two, by("a")).await),
        Found::At(Revision(1))
    );
    assert_eq!(
        store.get(&doc).await.unwrap().unwrap().body,
        json!({"n": 1}),
        "a refused write was made"
    );
    assert_eq!(
        store
            .put(&doc, json!(2), Expected::Any, by("a"))
            .await
            .unwrap(),
        Revision(2)
    );
    assert_eq!(
        store
            .put(&doc, json!("3 你好"), two, by("a"))
            .await
            .unwrap(),
        Revision(3)
    );
    let found = store.get(&doc).await.unwrap().unwrap();
    assert_eq!((found.revision, found.body), (Revision(3), json!("3 你好")));
}

pub(crate) async fn a_removed_document_never_repeats_a_revision(place: Place) {
    let store = open(&place).await;
    let doc = key("d");
    let first = store
        .put(&doc, json!(1), Expected::Absent, by("a"))
        .await
        .unwrap();
    let stale = store
        .delete(&doc, Expected::Revision(Revision(7)), by("a"))
        .await;
    assert!(matches!(stale, Err(ControlError::Conflict { .. })));
    store
        .delete(&doc, Expected::Revision(first), by("a"))
        .await
        .unwrap();
    assert_eq!(store.get(&doc).await.unwrap(), None);
    store.delete(&doc, Expected::Any, by("a")).await.unwrap();
    store.delete(&doc, Expected::Absent, by("a")).await.unwrap();
    assert!(
        store
            .delete(&doc, Expected::Revision(first), by("a"))
            .await
            .is_err()
    );
    let again = store
        .put(&doc, json!(1), Expected::Absent, by("a"))
        .await
        .unwrap();
    assert!(again > first);
    assert_eq!(
        conflict(
            store
                .put(&doc, json!(2), Expected::Revision(first), by("a"))
                .await
        ),
        Found::At(again)
    );
}

pub(crate) async fn kinds_are_apart_and_listed_by_name(place: Place) {
    let store = open(&place).await;
    for name in ["b", "a", "c"] {
        store
            .put(&key(name), json!(name), Expected::Absent, by("a"))
            .await
            .unwrap();
    }
    let other = DocKey::new(DocKind::Adapter, "a").unwrap();
    store
        .put(&other, json!("other"), Expected::Absent, by("a"))
        .await
        .unwrap();
    store
        .delete(&key("c"), Expected::Any, by("a"))
        .await
        .unwrap();
    let listed = store.list(DocKind::Trainer).await.unwrap();
    let names: Vec<&str> = listed.iter().map(|(key, _)| key.name()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(
        (listed[1].1.revision, &listed[1].1.body),
        (Revision(1), &json!("b"))
    );
    assert_eq!(store.list(DocKind::Adapter).await.unwrap().len(), 1);
    assert!(store.list(DocKind::Rollout).await.unwrap().is_empty());
}

pub(crate) async fn names_and_sizes_are_checked(place: Place) {
    for bad in ["", "a b", "ü", &"x".repeat(KEY_BYTES_MAX + 1)] {
        assert!(
            matches!(DocKey::new(DocKind::Alias, bad), Err(ControlError::Name(_))),
            "{bad:?}"
        );
    }
    let store = open(&place).await;
    let longest = Value::String("x".repeat(DOCUMENT_BYTES_MAX - 2));
    store
        .put(
            &key(&"k".repeat(KEY_BYTES_MAX)),
            longest,
            Expected::Absent,
            by("a"),
        )
        .await
        .unwrap();
    let longer = Value::String("x".repeat(DOCUMENT_BYTES_MAX - 1));
    let refused = store
        .put(&key("d"), longer, Expected::Absent, by("a"))
        .await;
    assert!(matches!(
        refused,
        Err(ControlError::TooLarge {
            bytes_max: DOCUMENT_BYTES_MAX,
            ..
        })
    ));
    assert_eq!(store.get(&key("d")).await.unwrap(), None);
}

pub(crate) async fn each_change_is_audited(place: Place) {
    let store = open(&place).await;
    let doc = key("d");
    store
        .put(&doc, json!(1), Expected::Absent, by("ann"))
        .await
        .unwrap();
    store
        .put(&doc, json!(2), Expected::Absent, by("bob"))
        .await
        .unwrap_err();
    store
        .put(&doc, json!(2), Expected::Any, by("bob"))
        .await
        .unwrap();
    store.delete(&doc, Expected::Any, by("cem")).await.unwrap();
    store
        .delete(&doc, Expected::Any, by("nobody"))
        .await
        .unwrap();
    let log = store.audit(0, usize::MAX).await.unwrap();
    let lines: Vec<_> = log
        .iter()
        .map(|one| (one.actor.as_str(), one.before.clone(), one.after.clone()))
        .collect();
    let expected = [
        ("ann", None, Some(json!(1))),
        ("bob", Some(json!(1)), Some(json!(2))),
        ("cem", Some(json!(2)), None),
    ];
    assert_eq!(lines, expected);
    assert_eq!(
        (log[1].seq, log[1].revision, log[1].at),
        (2, Revision(2), NOW)
    );
    assert_eq!((&log[1].key, log[1].action.as_str()), (&doc, "test"));
    assert_eq!(store.audit(1, 1).await.unwrap(), log[1..2]);
    assert!(store.audit(3, AUDIT_PAGE_MAX).await.unwrap().is_empty());
}

pub(crate) async fn aliases_and_rollouts_are_typed(place: Place) {
    let store = open(&place).await;
    let store = store.as_ref();
    let (alias, adapter) = (
        AliasName::new("support/v2").unwrap(),
        AdapterDigest(Sha256Digest::of(b"one")),
    );
    assert_eq!(aliases::get(store, &alias).await.unwrap(), None);
    aliases::set(store, &alias, adapter, Expected::Absent, by("a"))
        .await
        .unwrap();
    assert_eq!(
        aliases::get(store, &alias).await.unwrap(),
        Some((Revision(1), adapter))
    );
    assert_eq!(
        aliases::list(store).await.unwrap(),
        [(alias.clone(), adapter)]
    );
    aliases::remove(store, &alias, by("a")).await.unwrap();
    assert!(aliases::list(store).await.unwrap().is_empty());

    let id = ModelName::new("support").unwrap();
    let body = json!({"id": id, "base": BaseDigest(Sha256Digest::of(b"b")), "stable": null, "status": "idle", "updated_at": NOW});
    let rollout: rollout::Rollout = serde_json::from_value(body).unwrap();
    let revision = rollouts::put(store, &rollout, Expected::Absent, by("a"))
        .await
        .unwrap();
    assert_eq!(
        rollouts::get(store, &id).await.unwrap(),
        Some((revision, rollout.clone()))
    );
    assert_eq!(rollouts::list(store).await.unwrap(), [(revision, rollout)]);
    store
        .put(
            &DocKey::rollout(&id),
            json!({"id": 7}),
            Expected::Any,
            by("a"),
        )
        .await
        .unwrap();
    assert!(matches!(
        rollouts::get(store, &id).await,
        Err(ControlError::Corrupt { .. })
    ));
}
