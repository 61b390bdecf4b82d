//! Answers and votes to test with, and what becomes of them in a run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use feedback::pairs::{Case, collect_within};
use feedback::{Inference, Message, NewVote, TRAINER_GROUP, Value, VoteRecord};
use ids::{BaseDigest, FeedbackId, InferenceId, RaterId, Sha256Digest, UnixMillis};
use model::{BaseModel, ChatTemplate};

use super::{golden, services, words};
use crate::data::Problem;
use crate::pipeline::read_of;
use crate::{Report, RunOutcome, Services, run_once};

/// An answer with votes, each named by the answer and its rater.
pub(crate) fn case(
    id: &str,
    prompt: &str,
    answer: &str,
    split: &str,
    votes: &[(&str, Value)],
) -> Case {
    let inference = Inference {
        id: InferenceId::new(id).unwrap(),
        created: UnixMillis(0),
        model: "m".to_owned(),
        rollout: None,
        arm: None,
        unit: None,
        adapter: None,
        base: BaseDigest(Sha256Digest::of(b"base")),
        messages: vec![Message::new("user", prompt)],
        answer: answer.to_owned(),
        finish_reason: "stop".to_owned(),
        prompt_tokens: 1,
        completion_tokens: 1,
        seed: 0,
        metadata: BTreeMap::from([("split".to_owned(), split.to_owned())]),
    };
    let vote = |(rater, value): &(&str, Value)| VoteRecord {
        id: FeedbackId::new(format!("{id}-{rater}")).unwrap(),
        inference: inference.id.clone(),
        rater: RaterId::new(*rater).unwrap(),
        value: value.clone(),
        tags: BTreeMap::new(),
        created: UnixMillis(0),
        adapter: None,
        arm: None,
        rollout: None,
        unit: None,
        superseded_by: None,
        retracted: false,
    };
    let votes = votes.iter().map(vote).collect();
    Case { inference, votes }
}

pub(crate) fn thumbs(rater: &str, is_good: bool) -> (&str, Value) {
    (rater, Value::Thumbs(is_good))
}

pub(crate) fn correction<'a>(rater: &'a str, text: &str) -> (&'a str, Value) {
    (rater, Value::Demonstration(text.to_owned()))
}

/// The tiny model with a template that does not take everything.
pub(crate) fn strict() -> BaseModel {
    let mut base = BaseModel::open(&golden("tiny_llama/model.gguf")).unwrap();
    let template = "{% for message in messages %}{% if 'odd' in message['content'] %}\
                    {{ raise_exception('odd') }}{% endif %}\
                    {{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}\
                    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    base.template = ChatTemplate::new(template, "", "").unwrap();
    base
}

/// Records answers and takes the votes on them.
async fn cast(services: &Services, cases: &[Case]) {
    for case in cases {
        let feedback = &services.feedback;
        feedback.record_inference(&case.inference).await.unwrap();
        for vote in &case.votes {
            let new = NewVote {
                id: Some(vote.id.clone()),
                inference: vote.inference.clone(),
                rater: Some(vote.rater.clone()),
                value: vote.value.clone(),
                tags: BTreeMap::new(),
                attribution: None,
            };
            feedback.vote(new, services.clock.now()).await.unwrap();
        }
    }
}

/// Numbered answers that have nothing in common, every fourth of them held out.
fn made_up(number: u64, question: &str, vote: (&str, Value)) -> Case {
    let split = match number % 4 {
        0 => "held_out",
        _ => "train",
    };
    let (id, answer) = (format!("answer-{number:03}"), words(10 * number, 5));
    case(&id, question, &answer, split, &[vote])
}

async fn run(services: &Services) -> RunOutcome {
    let stop = Arc::new(AtomicBool::new(false));
    run_once(services, stop, false).await.unwrap()
}

fn judged(outcome: RunOutcome) -> Box<Report> {
    match outcome {
        RunOutcome::Judged(report) => report,
        RunOutcome::Unchanged(digest) => panic!("unchanged: {digest}"),
    }
}

fn recipe(stage: &str) -> String {
    format!(
        "[eval]\nanswer_tokens_max = 4\n[training]\nepochs = 1\nsequence_tokens_max = 256\n\
         [training.lora]\nrank = 2\n{stage}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn new_thumbs_and_another_recipe_are_trained_and_their_votes_listed() {
    let data = tempfile::tempdir().unwrap();
    let mut services = services(data.path(), &recipe("[[stage]]\nkind = \"kto\"\n")).await;
    let thumbs = |numbers: std::ops::Range<u64>| -> Vec<Case> {
        let question = |number: u64| words(5000 + 10 * number, 6);
        numbers
            .map(|number| made_up(number, &question(number), thumbs("r", number % 2 == 0)))
            .collect()
    };
    cast(&services, &thumbs(0..8)).await;
    let first = judged(run(&services).await).training.unwrap();
    assert_eq!((first.votes.count, first.refused.kept), (8, 8 + 4));
    assert!(first.votes.ids.contains(&"answer-003-r".to_owned()));
    assert!(
        matches!(run(&services).await, RunOutcome::Unchanged(digest) if digest == first.dataset)
    );

    // bad ones alone, which make no pair
    cast(&services, &thumbs(8..12)).await;
    let second = judged(run(&services).await).training.unwrap();
    assert_ne!(second.dataset, first.dataset);
    assert_eq!(second.votes.count, 12);
    assert_eq!(services.feedback.backlog(TRAINER_GROUP).await.unwrap(), 0);
    assert!(matches!(run(&services).await, RunOutcome::Unchanged(_)));

    // the same rows by another recipe
    Arc::make_mut(&mut services.config).training.learning_rate = 2e-4;
    let third = judged(run(&services).await).training.unwrap();
    assert_eq!(third.dataset, second.dataset);
    assert!(matches!(run(&services).await, RunOutcome::Unchanged(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_that_the_template_refuses_does_not_end_the_run() {
    let data = tempfile::tempdir().unwrap();
    let mut services = services(data.path(), &recipe("")).await;
    services.base = Arc::new(strict());
    let pairs = |numbers: std::ops::Range<u64>, word: &str| -> Vec<Case> {
        let right = |number: u64| words(9000 + 10 * number, 5);
        numbers
            .map(|number| {
                let question = format!("{} {word}", words(5000 + 10 * number, 6));
                made_up(number, &question, correction("r", &right(number)))
            })
            .collect()
    };
    cast(&services, &pairs(0..12, "please?")).await;
    cast(&services, &pairs(12..14, "odd?")).await;
    let report = judged(run(&services).await);
    let training = report.training.as_ref().unwrap();
    assert_eq!((training.train_pairs, training.held_out_pairs), (9, 3));
    let refused = &training.refused;
    assert_eq!((refused.kept, refused.refused), (12, 2));
    for (row, name) in refused
        .refused_rows
        .iter()
        .zip(["answer-013", "answer-012"])
    {
        assert_eq!(row.inferences[0].as_str(), name);
        assert_eq!(row.votes[0].as_str(), format!("{name}-r"));
        assert!(matches!(&row.problem, Problem::Template { detail } if detail.contains("odd")));
    }
    assert!(report.text().contains("rows of votes kept, refused"));
    let run = data.path().join("trainer/runs").join(&report.run_id);
    let listed = read(&run.join("data-votes.json"));
    assert_eq!(listed["refused_rows"][1]["votes"][0], "answer-012-r");
    // they were looked at, and need not be again
    assert_eq!(services.feedback.backlog(TRAINER_GROUP).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_on_answers_that_there_was_no_room_for_stay() {
    let data = tempfile::tempdir().unwrap();
    let services = services(data.path(), "").await;
    let cases: Vec<Case> = (0..3)
        .map(|number| made_up(number, "what?", thumbs("r", false)))
        .collect();
    cast(&services, &cases).await;
    let (feedback, now) = (&services.feedback, services.clock.now());
    let claimed = feedback.claim(TRAINER_GROUP, "run-1", 10, Duration::from_secs(30), now);
    let claimed = claimed.await.unwrap();
    let collected = collect_within(&**feedback, 2, 1 << 20).await.unwrap();
    let read = read_of(&services, claimed, &collected).unwrap();
    assert_eq!((collected.cases.len(), read.len()), (2, 2));
    feedback.ack(TRAINER_GROUP, &read).await.unwrap();
    assert_eq!(feedback.backlog(TRAINER_GROUP).await.unwrap(), 1);
    let told = std::fs::read_to_string(data.path().join("trainer/events.jsonl")).unwrap();
    assert!(
        told.contains("\"cut\":\"answer-000\"") && told.contains("\"events_left\":1"),
        "{told}"
    );
}

fn read(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}
