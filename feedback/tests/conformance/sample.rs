//! Answers and votes to test with.

use std::collections::BTreeMap;
use std::sync::Arc;

use feedback::{FeedbackStore, Inference, Message, NewVote, Value};
use ids::{
    AdapterDigest, BaseDigest, InferenceId, ModelName, RaterId, Sha256Digest, UnitId, UnixMillis,
};
use store::testing::Place;

pub(crate) const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

pub(crate) async fn open(place: &Place) -> Arc<dyn FeedbackStore> {
    feedback::open(&place.open().await.unwrap()).await.unwrap()
}

pub(crate) fn adapter() -> AdapterDigest {
    AdapterDigest(Sha256Digest::of(b"an adapter"))
}

pub(crate) fn inference(id: &str) -> Inference {
    Inference {
        id: InferenceId::new(id).unwrap(),
        created: NOW,
        model: "support".to_owned(),
        rollout: Some(ModelName::new("support").unwrap()),
        arm: Some("canary".to_owned()),
        unit: Some(UnitId::new("user 7").unwrap()),
        adapter: Some(adapter()),
        base: BaseDigest(Sha256Digest::of(b"a base")),
        messages: vec![Message::new("user", format!("What is {id}? 你好\0"))],
        answer: "I do not know.".to_owned(),
        finish_reason: "stop".to_owned(),
        prompt_tokens: 12,
        completion_tokens: 5,
        seed: u64::MAX,
        metadata: BTreeMap::from([("session_id".to_owned(), "s".to_owned())]),
    }
}

pub(crate) fn vote(inference: &str, rater: &str, value: Value) -> NewVote {
    NewVote {
        id: None,
        inference: InferenceId::new(inference).unwrap(),
        rater: (!rater.is_empty()).then(|| RaterId::new(rater).unwrap()),
        value,
        tags: BTreeMap::new(),
        attribution: None,
    }
}

/// A store with the answer `a` in it.
pub(crate) async fn with_answer(place: &Place) -> Arc<dyn FeedbackStore> {
    let store = open(place).await;
    store.record_inference(&inference("a")).await.unwrap();
    store
}
