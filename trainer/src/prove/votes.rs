//! Answers and votes on them, put into the store as the gateway does.

use std::collections::BTreeMap;

use feedback::{Inference, Message, NewVote, Value};
use ids::{InferenceId, RaterId};

use super::{ProveArgs, base_answers};
use crate::TrainerError;
use crate::evaluate::{contains, read_replay};
use crate::services::Services;

/// Different people vote.
const RATERS: usize = 20;

/// An answer and what somebody said of it.
pub(super) struct Ballot {
    /// The question.
    pub(super) prompt: String,
    /// The answer that was given.
    pub(super) answer: String,
    /// The vote.
    pub(super) value: Value,
    /// What a right answer contains.
    pub(super) expect: Option<String>,
    /// `train` or `held_out`, where the asker declares it.
    pub(super) split: Option<&'static str>,
}

/// A thumb on an answer; the trainer holds some out by itself.
pub(super) fn rated(prompt: &str, answer: &str, is_good: bool) -> Ballot {
    Ballot {
        prompt: prompt.to_owned(),
        answer: answer.to_owned(),
        value: Value::Thumbs(is_good),
        expect: None,
        split: None,
    }
}

/// Thumbs up on so many of the base's right answers to general prompts.
pub(super) async fn praised(
    args: &ProveArgs,
    services: &Services,
    count: usize,
) -> Result<Vec<Ballot>, TrainerError> {
    let Some(general) = &args.general else {
        return Err(TrainerError::Config {
            key: "general",
            problem: "must be given for this proof".to_owned(),
        });
    };
    let known = read_replay(general)?;
    let prompts: Vec<String> = known
        .iter()
        .filter_map(|row| row.messages.last().map(|message| message.content.clone()))
        .collect();
    let answers = base_answers(services, &prompts).await?;
    let is_right = |expect: &[String], answer: &str| expect.iter().any(|e| contains(answer, e));
    let praised: Vec<Ballot> = known
        .iter()
        .zip(prompts.iter().zip(&answers))
        .filter(|(row, (_, answer))| is_right(&row.expect, answer))
        .map(|(_, (prompt, answer))| rated(prompt, answer, true))
        .take(count)
        .collect();
    match praised.len() {
        found if found == count => Ok(praised),
        found => {
            let problem = format!("the base answers {found} general prompts right");
            Err(TrainerError::NotEnoughData(problem))
        }
    }
}

/// Records the answers and takes the votes.
pub(super) async fn cast(services: &Services, ballots: &[Ballot]) -> Result<(), TrainerError> {
    let name = |error: ids::IdError| TrainerError::Config {
        key: "proof",
        problem: error.to_string(),
    };
    for (index, ballot) in ballots.iter().enumerate() {
        let now = services.clock.now();
        let id = InferenceId::new(format!("proof-{index:06}")).map_err(name)?;
        let split = ballot
            .split
            .map(|split| ("split".to_owned(), split.to_owned()));
        let inference = Inference {
            id: id.clone(),
            created: now,
            model: services.base.name.clone(),
            rollout: None,
            arm: None,
            unit: None,
            adapter: None,
            base: services.base.digest,
            messages: vec![Message::new("user", ballot.prompt.clone())],
            answer: ballot.answer.clone(),
            finish_reason: "stop".to_owned(),
            prompt_tokens: 0,
            completion_tokens: 0,
            seed: 0,
            metadata: split.into_iter().collect(),
        };
        services.feedback.record_inference(&inference).await?;
        let expect = ballot.expect.clone();
        let tags: BTreeMap<String, String> = expect
            .map(|text| ("expect".to_owned(), text))
            .into_iter()
            .collect();
        let vote = NewVote {
            id: None,
            inference: id,
            rater: Some(RaterId::new(format!("rater-{}", index % RATERS)).map_err(name)?),
            value: ballot.value.clone(),
            tags,
            attribution: None,
        };
        services.feedback.vote(vote, now).await?;
    }
    Ok(())
}
