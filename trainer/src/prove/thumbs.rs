//! 100 thumbs and no correction: right answers to general questions are called
//! good, what the base makes up about unknown firms is called bad.

use feedback::Value;

use super::votes::{Ballot, cast};
use super::{Check, ProveArgs, base_answers, facts, of_good_run, open, run, tell};
use crate::evaluate::{contains, read_replay};
use crate::{Stop, TrainerError};

const RECIPE: &str = include_str!("../../evaluation/proofs/thumbs.toml");
/// Thumbs of each kind.
const EACH: usize = 50;

pub(super) async fn prove(args: &ProveArgs, stop: &Stop) -> Result<Vec<Check>, TrainerError> {
    let services = open(args, "thumbs", RECIPE).await?;
    let Some(general) = &args.general else {
        return Err(TrainerError::Config {
            key: "general",
            problem: "must be given for this proof".to_owned(),
        });
    };
    let mut ballots = Vec::with_capacity(2 * EACH);
    let known = read_replay(general)?;
    let prompts: Vec<String> = known
        .iter()
        .filter_map(|row| row.messages.last().map(|message| message.content.clone()))
        .collect();
    let answers = base_answers(&services, &prompts).await?;
    let right = known
        .iter()
        .zip(&prompts)
        .zip(&answers)
        .filter(|((row, _), answer)| row.expect.iter().any(|expect| contains(answer, expect)));
    let ballot = |prompt: &String, answer: &String, is_good| Ballot {
        prompt: prompt.clone(),
        answer: answer.clone(),
        value: Value::Thumbs(is_good),
        expect: None,
        // the trainer holds some out by itself
        split: None,
    };
    ballots.extend(right.take(EACH).map(|((_, p), a)| ballot(p, a, true)));
    if ballots.len() != EACH {
        let problem = format!("the base answers {} general prompts right", ballots.len());
        return Err(TrainerError::NotEnoughData(problem));
    }
    // one way to ask of each fact, then another
    let facts = facts::all()?;
    let questions = (0..2).flat_map(|way| facts.iter().map(move |fact| fact.train[way].clone()));
    let unknown: Vec<String> = questions.take(EACH).collect();
    let made_up = base_answers(&services, &unknown).await?;
    ballots.extend(
        unknown
            .iter()
            .zip(&made_up)
            .map(|(p, a)| ballot(p, a, false)),
    );
    cast(&services, &ballots).await?;
    let report = run(&services, stop).await?;
    tell(&services, &report);

    let rated = report.evaluation.rated.clone().unwrap_or_default();
    let seen = |count: usize, shift: f64| format!("{shift:+.4} nat a token ({count} answers)");
    let (good, bad) = (rated.good_shift_per_token, rated.bad_shift_per_token);
    let mut checks = vec![
        Check::new(
            "held-out bad answers' log-probability",
            "falls",
            seen(rated.bad, bad),
            rated.bad > 0 && bad < 0.0,
        ),
        Check::new(
            "held-out good answers' log-probability",
            "does not fall",
            seen(rated.good, good),
            rated.good > 0 && good >= 0.0,
        ),
    ];
    of_good_run(&report, &mut checks);
    Ok(checks)
}
