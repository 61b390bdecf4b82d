//! One store, several processes, and restarts.

use std::sync::Arc;
use std::time::Duration;

use feedback::pairs::{self, PairOptions};
use feedback::{Inference, TRAINER_GROUP, Value, VoteOutcome};
use ids::InferenceId;
use store::testing::Place;

use crate::sample::{NOW, inference, open, vote, with_answer};

const SECOND: Duration = Duration::from_secs(1);

pub(crate) async fn changes_are_seen_elsewhere_within_a_second(place: Place) {
    let (here, there) = (with_answer(&place).await, open(&place).await);
    let mut changes = there.changes();
    changes.mark_unchanged();
    // An answer alone is no news.
    here.record_inference(&inference("b")).await.unwrap();
    assert!(
        tokio::time::timeout(SECOND / 2, changes.changed())
            .await
            .is_err()
    );
    here.vote(vote("a", "r", Value::Thumbs(true)), NOW)
        .await
        .unwrap();
    tokio::time::timeout(SECOND, changes.changed())
        .await
        .expect("within a second")
        .unwrap();
    assert_eq!(
        there
            .current_votes(&InferenceId::new("a").unwrap())
            .await
            .unwrap()
            .len(),
        1
    );
}

pub(crate) async fn everything_survives_a_restart(mut place: Place) {
    let store = with_answer(&place).await;
    store
        .vote(vote("a", "r", Value::Thumbs(false)), NOW)
        .await
        .unwrap();
    store
        .vote(vote("a", "s", Value::Thumbs(false)), NOW)
        .await
        .unwrap();
    let claimed = store
        .claim(TRAINER_GROUP, "c", 1, SECOND, NOW)
        .await
        .unwrap();
    store.ack(TRAINER_GROUP, &[claimed[0].event]).await.unwrap();
    place.restart().unwrap();
    // A process that was there before goes on once it has noticed.
    let mut found = store.inference(&inference("a").id).await;
    for _ in 0..50 {
        if found.is_ok() {
            break;
        }
        tokio::time::sleep(SECOND / 10).await;
        found = store.inference(&inference("a").id).await;
    }
    assert_eq!(found.unwrap(), Some(inference("a")));
    drop(store);

    let store = open(&place).await;
    let again = store
        .vote(vote("a", "r", Value::Thumbs(false)), NOW)
        .await
        .unwrap();
    assert_eq!(again.outcome, VoteOutcome::Unchanged);
    assert_eq!(store.export(None, 10).await.unwrap().len(), 2);
    assert_eq!(store.bad_case_backlog().await.unwrap(), 1);
    assert_eq!(
        store
            .claim(TRAINER_GROUP, "c", 10, SECOND, NOW)
            .await
            .unwrap()
            .len(),
        1
    );
}

pub(crate) async fn votes_from_two_sides_make_one_current_vote(place: Place) {
    let (here, there) = (with_answer(&place).await, open(&place).await);
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..40u32 {
        let store = if i % 2 == 0 {
            here.clone()
        } else {
            there.clone()
        };
        tasks.spawn(async move {
            store
                .vote(vote("a", "r", Value::Rating(f64::from(i))), NOW)
                .await
        });
    }
    let outcomes: Vec<_> = tasks
        .join_all()
        .await
        .into_iter()
        .map(|receipt| receipt.unwrap().outcome)
        .collect();
    assert_eq!(
        outcomes
            .iter()
            .filter(|outcome| **outcome == VoteOutcome::Recorded)
            .count(),
        1
    );
    let history = here.export(None, 100).await.unwrap();
    assert_eq!(history.len(), 40);
    assert_eq!(
        history.iter().filter(|(_, vote)| vote.is_current()).count(),
        1
    );
}

pub(crate) async fn pairs_are_made_of_what_is_stored(place: Place) {
    let store = with_answer(&place).await;
    store.record_inference(&inference("b")).await.unwrap();
    store
        .vote(
            vote("a", "r", Value::Demonstration("It is 42.".to_owned())),
            NOW,
        )
        .await
        .unwrap();
    store
        .vote(vote("b", "r", Value::Thumbs(false)), NOW)
        .await
        .unwrap();
    let retracted = store
        .vote(vote("b", "s", Value::Demonstration("No.".to_owned())), NOW)
        .await
        .unwrap();
    store.retract(&retracted.feedback_id, NOW).await.unwrap();
    let collected = pairs::collect(store.as_ref()).await.unwrap();
    assert_eq!(collected.cut, None);
    let dataset = pairs::build(&collected.cases, &PairOptions::default()).unwrap();
    assert_eq!(dataset.train.len() + dataset.held_out.len(), 1);
    assert_eq!((dataset.report.bad_cases, dataset.report.unpaired), (2, 1));
}

pub(crate) async fn what_is_collected_is_bounded_and_the_newest(place: Place) {
    let store = open(&place).await;
    // the votes take much of the first half, the answers of the second
    for (id, said, corrected) in [
        ("a", 10, 20_000),
        ("b", 10, 20_000),
        ("c", 20_000, 10),
        ("d", 20_000, 10),
    ] {
        let answer = Inference {
            answer: "x".repeat(said),
            ..inference(id)
        };
        store.record_inference(&answer).await.unwrap();
        let correction = Value::Demonstration("y".repeat(corrected));
        store.vote(vote(id, "r", correction), NOW).await.unwrap();
    }
    let ids = |cases: usize, bytes: usize| {
        let store = Arc::clone(&store);
        async move {
            let collected = pairs::collect_within(store.as_ref(), cases, bytes).await;
            let collected = collected.unwrap();
            let read: Vec<String> = ["a", "b", "c", "d"]
                .into_iter()
                .filter(|id| collected.has_read(&InferenceId::new(*id).unwrap()))
                .map(str::to_owned)
                .collect();
            let cases = collected.cases.iter();
            let ids: Vec<String> = cases.map(|case| case.inference.id.to_string()).collect();
            // what was not read is exactly what is to be told
            assert_eq!(ids, read);
            ids.concat()
        }
    };
    assert_eq!(ids(4, 1 << 20).await, "abcd");
    assert_eq!(ids(3, 1 << 20).await, "bcd");
    assert_eq!(ids(4, 70_000).await, "bcd");
    assert_eq!(ids(4, 45_000).await, "cd");
    assert_eq!(ids(4, 25_000).await, "d");
    assert_eq!(ids(4, 100).await, "");
}
