//! Taking votes.

use feedback::{
    Attribution, COMMENT_BYTES_MAX, DEMONSTRATION_BYTES_MAX, FeedbackError, TAG_VALUE_BYTES_MAX,
    TAGS_MAX, Value, VoteOutcome,
};
use ids::{FeedbackId, InferenceId, UnixMillis};
use store::Durability;
use store::testing::Place;

use crate::sample::{NOW, adapter, inference, open, vote, with_answer};

pub(crate) async fn same_vote_again_changes_nothing(place: Place) {
    let store = with_answer(&place).await;
    let first = store
        .vote(vote("a", "r", Value::Thumbs(false)), NOW)
        .await
        .unwrap();
    assert_eq!(first.outcome, VoteOutcome::Recorded);
    assert_eq!(first.durability, Durability::Fsynced);
    let second = store
        .vote(vote("a", "r", Value::Thumbs(false)), NOW)
        .await
        .unwrap();
    assert_eq!(second.outcome, VoteOutcome::Unchanged);
    assert_eq!(second.feedback_id, first.feedback_id);
    assert_eq!(store.export(None, 10).await.unwrap().len(), 1);
    assert_eq!(store.backlog("trainer").await.unwrap(), 1);
}

pub(crate) async fn a_flip_supersedes_and_keeps_the_history(place: Place) {
    let store = with_answer(&place).await;
    let down = store
        .vote(vote("a", "r", Value::Thumbs(false)), NOW)
        .await
        .unwrap();
    let up = store
        .vote(vote("a", "r", Value::Thumbs(true)), UnixMillis(NOW.0 + 1))
        .await
        .unwrap();
    assert_eq!(
        up.outcome,
        VoteOutcome::Superseded(down.feedback_id.clone())
    );
    let current = store
        .current_votes(&InferenceId::new("a").unwrap())
        .await
        .unwrap();
    assert_eq!(current.len(), 1);
    assert_eq!(
        (current[0].id.clone(), current[0].value.clone()),
        (up.feedback_id.clone(), Value::Thumbs(true))
    );
    let history = store.export(None, 10).await.unwrap();
    assert_eq!(history.len(), 2);
    assert_eq!(history[0].1.superseded_by, Some(up.feedback_id));
    assert_eq!(history[0].1.value, Value::Thumbs(false));
    assert!(!history[0].1.is_current());
    assert_eq!(history[1].1.created, UnixMillis(NOW.0 + 1));
}

pub(crate) async fn an_idempotency_id_stands_for_one_body(place: Place) {
    let store = with_answer(&place).await;
    let id = FeedbackId::new("my-id").unwrap();
    let mut first = vote("a", "r", Value::Thumbs(true));
    first.id = Some(id.clone());
    assert_eq!(
        store.vote(first.clone(), NOW).await.unwrap().feedback_id,
        id
    );
    let again = store.vote(first.clone(), NOW).await.unwrap();
    assert_eq!(
        (again.feedback_id, again.outcome),
        (id.clone(), VoteOutcome::Unchanged)
    );

    let mut other = first.clone();
    other.value = Value::Thumbs(false);
    let refused = store.vote(other.clone(), NOW).await.unwrap_err();
    assert!(matches!(refused, FeedbackError::IdConflict(conflicting) if conflicting == id));
    assert_eq!(
        store.export(None, 10).await.unwrap().len(),
        1,
        "a refused vote was kept"
    );

    // An id whose vote changed nothing stands for that body too.
    let second_id = FeedbackId::new("my-other-id").unwrap();
    let mut same = first.clone();
    same.id = Some(second_id.clone());
    assert_eq!(store.vote(same, NOW).await.unwrap().feedback_id, id);
    other.id = Some(second_id);
    assert!(matches!(
        store.vote(other, NOW).await,
        Err(FeedbackError::IdConflict(_))
    ));

    // A late repetition does not flip a vote back.
    store
        .vote(vote("a", "r", Value::Thumbs(false)), NOW)
        .await
        .unwrap();
    assert_eq!(
        store.vote(first, NOW).await.unwrap().outcome,
        VoteOutcome::Unchanged
    );
    let current = store
        .current_votes(&InferenceId::new("a").unwrap())
        .await
        .unwrap();
    assert_eq!(current[0].value, Value::Thumbs(false));
}

pub(crate) async fn a_retracted_vote_counts_no_longer(place: Place) {
    let store = with_answer(&place).await;
    let given = store
        .vote(vote("a", "r", Value::Thumbs(false)), NOW)
        .await
        .unwrap();
    assert!(store.retract(&given.feedback_id, NOW).await.unwrap());
    assert!(!store.retract(&given.feedback_id, NOW).await.unwrap());
    assert!(
        !store
            .retract(&FeedbackId::new("nobodys").unwrap(), NOW)
            .await
            .unwrap()
    );
    assert!(
        store
            .current_votes(&InferenceId::new("a").unwrap())
            .await
            .unwrap()
            .is_empty()
    );
    assert!(store.export(None, 10).await.unwrap()[0].1.retracted);
    // The same vote may be given anew, and is a new one.
    let anew = store
        .vote(vote("a", "r", Value::Thumbs(false)), NOW)
        .await
        .unwrap();
    assert_eq!(anew.outcome, VoteOutcome::Recorded);
    // A superseded vote cannot be taken back.
    store
        .vote(vote("a", "r", Value::Thumbs(true)), NOW)
        .await
        .unwrap();
    assert!(!store.retract(&anew.feedback_id, NOW).await.unwrap());
}

pub(crate) async fn an_unknown_answer_needs_a_token(place: Place) {
    let store = open(&place).await;
    let mut late = vote("gone", "", Value::Thumbs(true));
    let refused = store.vote(late.clone(), NOW).await.unwrap_err();
    assert!(matches!(refused, FeedbackError::UnknownInference(id) if id.as_str() == "gone"));
    assert!(store.export(None, 10).await.unwrap().is_empty());

    let made = inference("gone");
    late.attribution = Some(Attribution {
        inference: made.id.clone(),
        rollout: made.rollout.clone(),
        arm: made.arm.clone(),
        adapter: made.adapter,
        unit: made.unit.clone(),
    });
    store.vote(late.clone(), NOW).await.unwrap();
    let kept = &store.export(None, 10).await.unwrap()[0].1;
    assert_eq!(
        (kept.adapter, &kept.arm, &kept.rollout),
        (made.adapter, &made.arm, &made.rollout)
    );
    assert_eq!(kept.rater.as_str(), "user 7");

    late.inference = InferenceId::new("other").unwrap();
    assert!(matches!(
        store.vote(late, NOW).await,
        Err(FeedbackError::Token(_))
    ));
}

pub(crate) async fn a_vote_is_credited_to_what_is_stored_with_the_answer(place: Place) {
    let store = with_answer(&place).await;
    let mut lying = vote("a", "r", Value::Thumbs(true));
    lying.attribution = Some(Attribution {
        inference: lying.inference.clone(),
        rollout: None,
        arm: Some("stable".to_owned()),
        adapter: None,
        unit: None,
    });
    store.vote(lying, NOW).await.unwrap();
    let kept = &store
        .current_votes(&InferenceId::new("a").unwrap())
        .await
        .unwrap()[0];
    assert_eq!(
        (kept.adapter, kept.arm.as_deref()),
        (Some(adapter()), Some("canary"))
    );
    assert_eq!(kept.rollout.as_ref().unwrap().as_str(), "support");
    assert_eq!(kept.unit.as_ref().unwrap().as_str(), "user 7");

    // A pinned answer of the bare base has none of these.
    let mut bare = inference("bare");
    (bare.adapter, bare.arm, bare.rollout, bare.unit) = (None, None, None, None);
    store.record_inference(&bare).await.unwrap();
    store
        .vote(vote("bare", "r", Value::Rating(-0.5)), NOW)
        .await
        .unwrap();
    let kept = &store.current_votes(&bare.id).await.unwrap()[0];
    assert_eq!(
        (kept.adapter, &kept.arm, &kept.rollout, &kept.unit),
        (None, &None, &None, &None)
    );
}

pub(crate) async fn the_unit_is_the_rater_where_none_is_named(place: Place) {
    let store = with_answer(&place).await;
    store
        .vote(vote("a", "", Value::Thumbs(true)), NOW)
        .await
        .unwrap();
    let again = store
        .vote(vote("a", "user 7", Value::Thumbs(true)), NOW)
        .await
        .unwrap();
    assert_eq!(again.outcome, VoteOutcome::Unchanged);
    let mut nobodys = inference("b");
    nobodys.unit = None;
    store.record_inference(&nobodys).await.unwrap();
    let refused = store.vote(vote("b", "", Value::Thumbs(true)), NOW).await;
    assert!(matches!(refused, Err(FeedbackError::RaterRequired)));
}

pub(crate) async fn values_and_tags_are_checked(place: Place) {
    let store = with_answer(&place).await;
    let bad = [
        Value::Rating(f64::NAN),
        Value::Rating(f64::INFINITY),
        Value::Comment(" \n".to_owned()),
        Value::Comment("x".repeat(COMMENT_BYTES_MAX + 1)),
        Value::Demonstration(String::new()),
        Value::Demonstration("x".repeat(DEMONSTRATION_BYTES_MAX + 1)),
    ];
    for value in bad {
        let refused = store.vote(vote("a", "r", value), NOW).await;
        assert!(
            matches!(refused, Err(FeedbackError::InvalidValue { .. })),
            "{refused:?}"
        );
    }
    let tagged = |count: usize, length: usize| {
        let mut tagged = vote("a", "r", Value::Thumbs(true));
        tagged.tags = (0..count)
            .map(|i| (format!("tag{i}"), "x".repeat(length)))
            .collect();
        tagged
    };
    for (count, length) in [(TAGS_MAX + 1, 1), (1, TAG_VALUE_BYTES_MAX + 1)] {
        let refused = store.vote(tagged(count, length), NOW).await;
        assert!(
            matches!(refused, Err(FeedbackError::InvalidTags(_))),
            "{refused:?}"
        );
    }
    assert!(
        store.export(None, 10).await.unwrap().is_empty(),
        "a refused vote was kept"
    );

    let good = [
        Value::Rating(1e300),
        Value::Comment("x".repeat(COMMENT_BYTES_MAX)),
        Value::Demonstration("é".repeat(DEMONSTRATION_BYTES_MAX / 2)),
    ];
    for value in good {
        store.vote(vote("a", "r", value), NOW).await.unwrap();
    }
    store
        .vote(tagged(TAGS_MAX, TAG_VALUE_BYTES_MAX), NOW)
        .await
        .unwrap();
    let kept = store
        .current_votes(&InferenceId::new("a").unwrap())
        .await
        .unwrap();
    assert_eq!(kept[0].value, Value::Rating(1e300));
    assert_eq!(kept[3].tags.len(), TAGS_MAX);
}

pub(crate) async fn each_metric_and_each_rater_has_its_own_vote(place: Place) {
    let store = with_answer(&place).await;
    // A rater may be called anything, so that no two places run together.
    for rater in ["r", "r s", "thumbs", "r\0s"] {
        for value in [
            Value::Thumbs(true),
            Value::Rating(2.0),
            Value::Comment("c".to_owned()),
        ] {
            let given = store.vote(vote("a", rater, value), NOW).await.unwrap();
            assert_eq!(given.outcome, VoteOutcome::Recorded, "{rater:?}");
        }
    }
    assert_eq!(
        store
            .current_votes(&InferenceId::new("a").unwrap())
            .await
            .unwrap()
            .len(),
        12
    );
    // Other tags make another vote.
    let mut tagged = vote("a", "r", Value::Thumbs(true));
    tagged.tags.insert("expect".to_owned(), "42".to_owned());
    let given = store.vote(tagged, NOW).await.unwrap();
    assert!(matches!(given.outcome, VoteOutcome::Superseded(_)));
}

pub(crate) async fn export_goes_on_from_a_cursor(place: Place) {
    let store = with_answer(&place).await;
    for i in 0..7 {
        store
            .vote(vote("a", &format!("r{i}"), Value::Thumbs(true)), NOW)
            .await
            .unwrap();
    }
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let page = store.export(after, 3).await.unwrap();
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        assert!(page.len() <= 3);
        seen.extend(
            page.into_iter()
                .map(|(_, vote)| vote.rater.as_str().to_owned()),
        );
    }
    assert_eq!(seen, (0..7).map(|i| format!("r{i}")).collect::<Vec<_>>());
    assert!(store.export(None, 0).await.unwrap().is_empty());
}

pub(crate) async fn answers_are_kept_once_and_forgotten_by_age(place: Place) {
    let store = with_answer(&place).await;
    assert_eq!(
        store.inference(&inference("a").id).await.unwrap(),
        Some(inference("a"))
    );
    let mut changed = inference("a");
    changed.answer = "another".to_owned();
    store.record_inference(&changed).await.unwrap();
    assert_eq!(
        store.inference(&changed.id).await.unwrap().unwrap().answer,
        "I do not know."
    );
    assert_eq!(
        store
            .inference(&InferenceId::new("b").unwrap())
            .await
            .unwrap(),
        None
    );

    store
        .vote(vote("a", "r", Value::Thumbs(true)), NOW)
        .await
        .unwrap();
    let mut newer = inference("n");
    newer.created = UnixMillis(NOW.0 + 10);
    store.record_inference(&newer).await.unwrap();
    assert_eq!(store.forget_inferences(NOW, 10).await.unwrap(), 0);
    assert_eq!(
        store
            .forget_inferences(UnixMillis(NOW.0 + 100), 1)
            .await
            .unwrap(),
        1
    );
    assert_eq!(store.inference(&inference("a").id).await.unwrap(), None);
    assert!(store.inference(&newer.id).await.unwrap().is_some());
    assert_eq!(store.export(None, 10).await.unwrap().len(), 1, "votes stay");
}
