//! Users ask, get the base model's answers, correct the bad ones and praise the
//! good ones.

use serde_json::json;

use super::super::client::{Answer, Ask};
use super::super::domain::{self, Question, Split};
use super::super::report::Report;
use super::super::setup::{MODEL, Stage};
use super::super::{DemoError, say};
use super::{ask_all, exact, percent};

/// Long enough to see that an answer is wrong.
const DOMAIN_TOKENS_MAX: u32 = 24;
/// Long enough for most general answers to end.
const GENERAL_TOKENS_MAX: u32 = 48;
/// The share of held-out questions that the base may happen to answer.
const BASE_EXACT_MAX_PERCENT: f64 = 10.0;

pub(crate) async fn run(stage: &mut Stage, report: &mut Report) -> Result<(), DemoError> {
    let praised = praise(stage).await?;
    let questions = stage.domain.questions();
    let users: Vec<String> = (0..questions.len())
        .map(|n| format!("customer-{n}"))
        .collect();
    let asks: Vec<Ask<'_>> = questions
        .iter()
        .zip(&users)
        .enumerate()
        .map(|(n, (question, user))| Ask {
            model: MODEL,
            user,
            prompt: question.prompt,
            max_tokens: DOMAIN_TOKENS_MAX,
            stream: n % 2 == 0,
            metadata: json!({"split": question.split.as_str(), "fact": question.fact.id}),
        })
        .collect();
    let answers = ask_all(&stage.client, &asks).await?;
    show_one(&questions, &answers);

    let held_out = questions
        .iter()
        .zip(&answers)
        .filter(|(q, _)| q.split == Split::HeldOut);
    let held_out: Vec<_> = held_out.collect();
    let right = exact(
        held_out
            .iter()
            .map(|(q, answer)| (*answer, q.fact.expect.as_str())),
    );
    let share = percent(right, held_out.len());
    let bad = correct(stage, &questions, &answers, &users).await?;
    say(&format!(
        "    {bad} bad answers were corrected, {praised} good ones got a thumbs-up"
    ));
    let from_base = answers.iter().all(|answer| answer.adapter.is_none());
    report.check(
        "answered by, before training",
        "the bare base",
        if from_base {
            "the bare base"
        } else {
            "an adapter"
        },
        from_base,
    );
    report.check(
        "held-out exact match before",
        "≤ 10%",
        &format!("{right} of {} ({share:.0}%)", held_out.len()),
        share <= BASE_EXACT_MAX_PERCENT,
    );
    stage.base_exact = right;
    Ok(())
}

/// A thumbs-up for every general answer that is right and came to its end.
async fn praise(stage: &Stage) -> Result<usize, DemoError> {
    let general = domain::general()?;
    let users: Vec<String> = (0..general.len()).map(|n| format!("reader-{n}")).collect();
    let asks: Vec<Ask<'_>> = general
        .iter()
        .zip(&users)
        .enumerate()
        .map(|(n, (question, user))| Ask {
            model: MODEL,
            user,
            prompt: &question.prompt,
            max_tokens: GENERAL_TOKENS_MAX,
            stream: n % 2 == 1,
            metadata: json!({"split": "train"}),
        })
        .collect();
    let answers = ask_all(&stage.client, &asks).await?;
    let mut praised = 0;
    for ((question, answer), user) in general.iter().zip(&answers).zip(&users) {
        let is_right = |expect: &String| domain::contains(&answer.text, expect);
        if answer.ended && question.expect.iter().any(is_right) {
            stage
                .client
                .vote(&answer.id, user, "thumbs", json!(true), json!({}))
                .await?;
            praised += 1;
        }
    }
    Ok(praised)
}

/// A thumbs-down and a correction for every answer that lacks its fact.
async fn correct(
    stage: &Stage,
    questions: &[Question<'_>],
    answers: &[Answer],
    users: &[String],
) -> Result<usize, DemoError> {
    let mut bad = 0;
    for ((question, answer), user) in questions.iter().zip(answers).zip(users) {
        let fact = question.fact;
        if domain::contains(&answer.text, &fact.expect) {
            stage
                .client
                .vote(&answer.id, user, "thumbs", json!(true), json!({}))
                .await?;
            continue;
        }
        let tags = json!({"expect": fact.expect, "fact": fact.id});
        stage
            .client
            .vote(&answer.id, user, "thumbs", json!(false), tags.clone())
            .await?;
        stage
            .client
            .vote(&answer.id, user, "demonstration", json!(fact.answer), tags)
            .await?;
        bad += 1;
    }
    Ok(bad)
}

fn show_one(questions: &[Question<'_>], answers: &[Answer]) {
    if let (Some(question), Some(answer)) = (questions.first(), answers.first()) {
        say(&format!("    asked:      {}", question.prompt));
        say(&format!(
            "    answered:   {}",
            answer.text.replace('\n', " ")
        ));
        say(&format!("    corrected:  {}", question.fact.answer));
    }
}
