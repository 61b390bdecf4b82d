//! Working through votes as events.

use std::time::Duration;

use feedback::{
    Change, DELIVERIES_MAX, EventId, FeedbackError, FeedbackStore, GROUP_BYTES_MAX, TRAINER_GROUP,
    Value,
};
use ids::UnixMillis;
use store::testing::Place;

use crate::sample::{NOW, vote, with_answer};

/// Redis measures idleness by its own clock, so that these tests really wait.
const IDLE: Duration = Duration::from_millis(150);
const LONG: Duration = Duration::from_secs(3600);

async fn idle_for_a_while(now: &mut UnixMillis) {
    let wait = IDLE + Duration::from_millis(50);
    tokio::time::sleep(wait).await;
    *now = now.plus(wait);
}

async fn votes(store: &dyn FeedbackStore, count: usize) {
    for i in 0..count {
        store
            .vote(
                vote("a", &format!("rater {i}"), Value::Thumbs(i % 2 == 0)),
                NOW,
            )
            .await
            .unwrap();
    }
}

pub(crate) async fn events_are_delivered_once_and_again_when_idle(place: Place) {
    let store = with_answer(&place).await;
    votes(store.as_ref(), 3).await;
    let mut now = NOW;
    let first = store.claim("g", "one", 2, LONG, now).await.unwrap();
    assert_eq!(
        first
            .iter()
            .map(|claimed| claimed.deliveries)
            .collect::<Vec<_>>(),
        [1, 1]
    );
    assert_eq!(first[0].vote.change, Change::Voted);
    assert_eq!(
        (first[0].vote.bad_case, first[1].vote.bad_case),
        (false, true)
    );
    assert_eq!(first[0].vote.inference.as_str(), "a");
    let second = store.claim("g", "two", 10, LONG, now).await.unwrap();
    assert_eq!(
        second.len(),
        1,
        "what another consumer has is not given again"
    );
    assert!(first[1].event < second[0].event);

    store.ack("g", &[first[0].event]).await.unwrap();
    idle_for_a_while(&mut now).await;
    let again = store.claim("g", "two", 10, IDLE, now).await.unwrap();
    let given: Vec<(EventId, u32)> = again
        .iter()
        .map(|claimed| (claimed.event, claimed.deliveries))
        .collect();
    assert_eq!(given, [(first[1].event, 2), (second[0].event, 2)]);
    store
        .ack("g", &[first[1].event, second[0].event])
        .await
        .unwrap();
    idle_for_a_while(&mut now).await;
    assert!(
        store
            .claim("g", "two", 10, IDLE, now)
            .await
            .unwrap()
            .is_empty()
    );

    let id = store.current_votes(&first[0].vote.inference).await.unwrap()[0]
        .id
        .clone();
    store.retract(&id, now).await.unwrap();
    let retracted = store.claim("g", "one", 10, LONG, now).await.unwrap();
    assert_eq!(
        (retracted[0].vote.change, &retracted[0].vote.vote),
        (Change::Retracted, &id)
    );
}

pub(crate) async fn an_event_delivered_too_often_is_a_dead_letter(place: Place) {
    let store = with_answer(&place).await;
    votes(store.as_ref(), 2).await;
    let mut now = NOW;
    for delivery in 1..=DELIVERIES_MAX {
        let claimed = store
            .claim(TRAINER_GROUP, "c", 10, IDLE, now)
            .await
            .unwrap();
        assert_eq!(
            claimed.iter().map(|one| one.deliveries).collect::<Vec<_>>(),
            [delivery, delivery]
        );
        idle_for_a_while(&mut now).await;
    }
    assert_eq!(store.bad_case_backlog().await.unwrap(), 1);
    assert!(
        store
            .dead_letters(TRAINER_GROUP, 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(
        store
            .claim(TRAINER_GROUP, "c", 10, IDLE, now)
            .await
            .unwrap()
            .is_empty()
    );
    let dead = store.dead_letters(TRAINER_GROUP, 10).await.unwrap();
    assert_eq!(
        dead.iter().map(|one| one.deliveries).collect::<Vec<_>>(),
        [DELIVERIES_MAX, DELIVERIES_MAX]
    );
    assert!(dead[1].vote.bad_case);
    assert_eq!(store.dead_letters(TRAINER_GROUP, 1).await.unwrap().len(), 1);
    assert_eq!(store.backlog(TRAINER_GROUP).await.unwrap(), 0);
    assert_eq!(store.bad_case_backlog().await.unwrap(), 0);
}

pub(crate) async fn groups_are_independent_and_late_ones_miss_only_what_was_trimmed(place: Place) {
    let store = with_answer(&place).await;
    votes(store.as_ref(), 4).await;
    let one = store.claim("one", "c", 10, LONG, NOW).await.unwrap();
    let other = store.claim("other", "c", 1, LONG, NOW).await.unwrap();
    assert_eq!((one.len(), other.len()), (4, 1));
    let events: Vec<EventId> = one.iter().map(|claimed| claimed.event).collect();
    store.ack("one", &events).await.unwrap();
    // The other group was given one event and has it in its hands.
    assert_eq!(store.backlog("other").await.unwrap(), 4);
    assert_eq!(
        store
            .claim("other", "c", 10, LONG, NOW)
            .await
            .unwrap()
            .len(),
        3
    );
    // Nothing is trimmed while the first event is pending there.
    assert_eq!(
        store.claim("late", "c", 10, LONG, NOW).await.unwrap().len(),
        4
    );
    store.ack("late", &events).await.unwrap();
    store.ack("other", &events[..2]).await.unwrap();
    let later = store.claim("later", "c", 10, LONG, NOW).await.unwrap();
    assert_eq!(
        later
            .iter()
            .map(|claimed| claimed.event)
            .collect::<Vec<_>>(),
        events[2..]
    );
}

pub(crate) async fn backlogs_count_what_is_not_acknowledged(place: Place) {
    let store = with_answer(&place).await;
    assert_eq!(
        (
            store.backlog(TRAINER_GROUP).await.unwrap(),
            store.bad_case_backlog().await.unwrap()
        ),
        (0, 0)
    );
    votes(store.as_ref(), 4).await;
    store
        .vote(
            vote("a", "r", Value::Demonstration("Better.".to_owned())),
            NOW,
        )
        .await
        .unwrap();
    assert_eq!(
        (
            store.backlog(TRAINER_GROUP).await.unwrap(),
            store.bad_case_backlog().await.unwrap()
        ),
        (5, 3)
    );
    let claimed = store.claim(TRAINER_GROUP, "c", 2, LONG, NOW).await.unwrap();
    assert_eq!(
        (
            store.backlog(TRAINER_GROUP).await.unwrap(),
            store.bad_case_backlog().await.unwrap()
        ),
        (5, 3)
    );
    store
        .ack(TRAINER_GROUP, &[claimed[0].event, claimed[1].event])
        .await
        .unwrap();
    assert_eq!(
        (
            store.backlog(TRAINER_GROUP).await.unwrap(),
            store.bad_case_backlog().await.unwrap()
        ),
        (3, 2)
    );
    // Again, and of an event that was never delivered: nothing happens.
    store
        .ack(TRAINER_GROUP, &[claimed[1].event, EventId(99)])
        .await
        .unwrap();
    assert_eq!(
        (
            store.backlog(TRAINER_GROUP).await.unwrap(),
            store.bad_case_backlog().await.unwrap()
        ),
        (3, 2)
    );
    store.ack("nobody", &[claimed[0].event]).await.unwrap();
}

pub(crate) async fn names_of_groups_are_checked(place: Place) {
    let store = with_answer(&place).await;
    for bad in ["", "a b", "ü", &"x".repeat(GROUP_BYTES_MAX + 1)] {
        let refused = store.claim(bad, "c", 1, LONG, NOW).await;
        assert!(
            matches!(refused, Err(FeedbackError::GroupName(_))),
            "{bad:?}"
        );
        assert!(matches!(
            store.claim("g", bad, 1, LONG, NOW).await,
            Err(FeedbackError::GroupName(_))
        ));
    }
    assert!(
        store
            .claim("g", "c", 0, LONG, NOW)
            .await
            .unwrap()
            .is_empty()
    );
}
