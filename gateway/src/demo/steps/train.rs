//! The trainer, by itself: from the votes to a published candidate.

use serde_json::Value;

use super::super::report::Report;
use super::super::setup::Stage;
use super::super::training;
use super::super::{DemoError, say};
use super::percent;
use super::promote::short;

/// Demands on the candidate, in percent and in points.
const PREFERENCE_MIN_PERCENT: f64 = 90.0;
const EXACT_MIN_PERCENT: f64 = 60.0;
const REPLAY_PROMPTS_MIN: usize = 100;
const REPLAY_POINTS_LOST_MAX: f64 = 2.0;

/// Waits for the run and puts what it measured into the table. The candidate's
/// digest, if there is one.
pub(crate) async fn run(
    stage: &mut Stage,
    report: &mut Report,
) -> Result<Option<String>, DemoError> {
    let data = stage.data.clone();
    let status = training::wait_for_run(&data, &mut stage.trainer).await?;
    let outcome = status.outcome.clone().unwrap_or_default();
    if status.report.is_some() {
        let measured = training::read_report(&status)?;
        training_speed(&measured);
        evaluation(report, &measured["evaluation"]);
    }
    let seen = match &status.digest {
        Some(digest) => format!("{outcome}: {}", short(digest)),
        None => format!("{outcome}: {}", status.reasons.join("; ")),
    };
    report.check(
        "the trainer's candidate",
        "published",
        &seen,
        status.digest.is_some(),
    );
    Ok(status.digest)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn count(value: &Value) -> usize {
    value
        .as_u64()
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(0)
}

fn training_speed(measured: &Value) {
    let training = &measured["training"];
    say(&format!(
        "    trained on {} pairs: {} tokens in {:.0} s, {:.0} tok/s",
        count(&training["train_pairs"]),
        count(&training["tokens"]),
        number(&training["seconds"]),
        number(&training["tokens_per_second"]),
    ));
}

fn evaluation(report: &mut Report, measured: &Value) {
    let preference = &measured["preference"];
    let pairs = count(&preference["pairs"]);
    let reward = 100.0 * number(&preference["reward_accuracy"]);
    let before = 100.0 * number(&preference["accuracy_before"]);
    report.check(
        "held-out preference accuracy",
        "≥ 90%",
        &format!("{reward:.0}% of {pairs} pairs (base prefers the chosen: {before:.0}%)"),
        reward >= PREFERENCE_MIN_PERCENT,
    );
    let held_out = &measured["held_out"];
    let (prompts, after) = (count(&held_out["prompts"]), count(&held_out["exact_after"]));
    report.check(
        "held-out exact match at the evaluation",
        "≥ 60%",
        &format!(
            "{after} of {prompts}, before {}",
            count(&held_out["exact_before"])
        ),
        percent(after, prompts) >= EXACT_MIN_PERCENT,
    );
    let replay = &measured["replay"];
    let (right, kept) = (
        count(&replay["base_right"]),
        count(&replay["candidate_right"]),
    );
    let lost = percent(right.saturating_sub(kept), right);
    report.check(
        "general replay prompts that the base answers right",
        "≥ 100, ≤ 2 points lost",
        &format!("{right}, then {kept}: {lost:.1} points lost"),
        right >= REPLAY_PROMPTS_MIN && lost <= REPLAY_POINTS_LOST_MAX,
    );
}
