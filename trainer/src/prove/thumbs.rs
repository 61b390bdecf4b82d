//! 100 thumbs and no correction: right answers to general questions are called
//! good, what the base makes up about unknown firms is called bad.

use super::votes::{cast, praised, rated};
use super::{Check, ProveArgs, base_answers, facts, of_good_run, open, recipe, run, tell};
use crate::{Stop, TrainerError};

const RECIPE: &str = include_str!("../../evaluation/proofs/thumbs.toml");
/// Thumbs of each kind.
const EACH: usize = 50;

pub(super) async fn prove(args: &ProveArgs, stop: &Stop) -> Result<Vec<Check>, TrainerError> {
    let services = open(args, "thumbs", recipe(args, RECIPE)?).await?;
    let mut ballots = praised(args, &services, EACH).await?;
    // one way to ask of each fact, then another
    let facts = facts::all()?;
    let questions = (0..2).flat_map(|way| facts.iter().map(move |fact| fact.train[way].clone()));
    let unknown: Vec<String> = questions.take(EACH).collect();
    let made_up = base_answers(&services, &unknown).await?;
    ballots.extend(
        unknown
            .iter()
            .zip(&made_up)
            .map(|(prompt, answer)| rated(prompt, answer, false)),
    );
    cast(&services, &ballots).await?;
    let report = run(&services, stop).await?;
    tell(&services, &report);

    let scores = report.evaluation.rated.clone().unwrap_or_default();
    let seen = |count: usize, shift: f64| format!("{shift:+.4} nat a token ({count} answers)");
    let (good, bad) = (scores.good_shift_per_token, scores.bad_shift_per_token);
    let mut checks = vec![
        Check::new(
            "held-out bad answers' log-probability",
            "falls",
            seen(scores.bad, bad),
            scores.bad > 0 && bad < 0.0,
        ),
        Check::new(
            "held-out good answers' log-probability",
            "does not fall",
            seen(scores.good, good),
            scores.good > 0 && good >= 0.0,
        ),
    ];
    of_good_run(&report, &mut checks);
    Ok(checks)
}
