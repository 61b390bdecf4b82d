//! The candidate becomes stable, and users ask what was never trained on.

use serde_json::json;

use super::super::client::Ask;
use super::super::domain::Split;
use super::super::report::Report;
use super::super::setup::{MODEL, Stage};
use super::super::{DemoError, say};
use super::{ask_all, exact, percent};

/// The share of held-out questions that must be answered right.
const EXACT_MIN_PERCENT: f64 = 60.0;

pub(crate) async fn run(
    stage: &mut Stage,
    report: &mut Report,
    candidate: &str,
) -> Result<(), DemoError> {
    stage.flywheel(&["rollout", "promote", MODEL]).await?;
    let questions = stage.domain.questions();
    let questions: Vec<_> = questions
        .iter()
        .filter(|q| q.split == Split::HeldOut)
        .collect();
    let users: Vec<String> = (0..questions.len())
        .map(|n| format!("new-customer-{n}"))
        .collect();
    let asks: Vec<Ask<'_>> = questions
        .iter()
        .zip(&users)
        .enumerate()
        .map(|(n, (question, user))| Ask {
            model: MODEL,
            user,
            prompt: question.prompt,
            max_tokens: 32,
            stream: n % 2 == 0,
            metadata: json!({}),
        })
        .collect();
    let answers = ask_all(&stage.client, &asks).await?;
    for (question, answer) in questions.iter().zip(&answers).take(2) {
        say(&format!("    asked:      {}", question.prompt));
        say(&format!(
            "    answered:   {}",
            answer.text.replace('\n', " ")
        ));
    }
    let by_candidate = answers
        .iter()
        .filter(|a| a.adapter.as_deref() == Some(candidate))
        .count();
    report.check(
        "answered by, after the promotion",
        &short(candidate),
        &format!(
            "{} for {by_candidate} of {}",
            short(candidate),
            answers.len()
        ),
        by_candidate == answers.len(),
    );
    let pairs = questions.iter().zip(&answers);
    let right = exact(pairs.map(|(q, answer)| (answer, q.fact.expect.as_str())));
    let share = percent(right, answers.len());
    report.check(
        "held-out exact match after, through the gateway",
        "≥ 60%",
        &format!(
            "{right} of {} ({share:.0}%), before {}",
            answers.len(),
            stage.base_exact
        ),
        share >= EXACT_MIN_PERCENT,
    );
    Ok(())
}

/// A digest cut for a table.
pub(super) fn short(digest: &str) -> String {
    digest.chars().take("sha256:".len() + 12).collect()
}
