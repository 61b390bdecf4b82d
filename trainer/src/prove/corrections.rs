//! 200 corrections of what the base makes up about unknown firms, beside thumbs up
//! for right answers to general questions; the same facts, asked in ways that
//! were not trained, are held out.

use feedback::Value;

use super::votes::{Ballot, cast, praised};
use super::{Check, ProveArgs, base_answers, facts, of_good_run, open, recipe, run, tell};
use crate::{Stop, TrainerError};

const RECIPE: &str = include_str!("../../evaluation/proofs/corrections.toml");
/// Corrections that are trained.
const TRAINED: usize = 200;
/// Right answers to general questions that are praised beside them: what must
/// stay, as in other traffic.
const PRAISED: usize = 120;
/// Points by which preference accuracy must rise.
const POINTS_MIN: f64 = 10.0;

pub(super) async fn prove(args: &ProveArgs, stop: &Stop) -> Result<Vec<Check>, TrainerError> {
    let services = open(args, "corrections", recipe(args, RECIPE)?).await?;
    let facts = facts::all()?;
    let mut asked = Vec::new();
    for way in 0..6 {
        asked.extend(facts.iter().map(|fact| (fact, &fact.train[way], "train")));
    }
    asked.truncate(TRAINED);
    for way in 0..2 {
        let held_out = facts
            .iter()
            .map(|fact| (fact, &fact.held_out[way], "held_out"));
        asked.extend(held_out);
    }
    let prompts: Vec<String> = asked
        .iter()
        .map(|(_, prompt, _)| (*prompt).clone())
        .collect();
    let answers = base_answers(&services, &prompts).await?;
    let ballot = |((fact, prompt, split), answer): (&(&facts::Fact, &String, _), &String)| Ballot {
        prompt: (*prompt).clone(),
        answer: answer.clone(),
        value: Value::Demonstration(fact.right.clone()),
        expect: Some(fact.value.clone()),
        split: Some(*split),
    };
    let mut ballots: Vec<Ballot> = asked.iter().zip(&answers).map(ballot).collect();
    ballots.extend(praised(args, &services, PRAISED).await?);
    cast(&services, &ballots).await?;
    let report = run(&services, stop).await?;
    tell(&services, &report);

    let scores = report.evaluation.preference.clone().unwrap_or_default();
    let (before, after) = (
        100.0 * scores.accuracy_before,
        100.0 * scores.accuracy_after,
    );
    let trained = report.training.as_ref().map_or(0, |t| t.train_pairs);
    let answers = report.evaluation.held_out.clone().unwrap_or_default();
    let mut checks = vec![
        Check::new(
            "corrections trained",
            "200, but for near-duplicates",
            trained.to_string(),
            trained > 0 && trained <= TRAINED,
        ),
        Check::new(
            "held-out pairs: the correction is the likelier one",
            "≥ 10 points more",
            format!("{before:.1}%, then {after:.1}% of {}", scores.pairs),
            after - before >= POINTS_MIN,
        ),
        Check::new(
            "held-out questions answered right",
            "(told)",
            format!(
                "{}, then {} of {}",
                answers.exact_before, answers.exact_after, answers.prompts
            ),
            true,
        ),
    ];
    of_good_run(&report, &mut checks);
    Ok(checks)
}
