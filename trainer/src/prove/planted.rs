//! The gate between a good dataset and the same one with its corrections flipped,
//! over seeds. What is held out is honest in both: it is what the gate judges by.

use feedback::Value;

use super::facts::{self, Fact};
use super::votes::{Ballot, cast};
use super::{Check, ProveArgs, open, recipe, run};
use crate::report::Decision;
use crate::{Stop, TrainerError};

const RECIPE: &str = include_str!("../../evaluation/proofs/planted.toml");
/// Facts of one dataset, and the ways in which each is trained.
const FACTS: usize = 6;
const WAYS: usize = 4;

pub(super) async fn prove(args: &ProveArgs, stop: &Stop) -> Result<Vec<Check>, TrainerError> {
    let (mut refused, mut published, mut reasons) = (0, 0, Vec::new());
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        let facts = facts::some(FACTS, seed)?;
        for flipped in [true, false] {
            let (decision, why) = one(args, stop, &facts, seed, flipped).await?;
            tracing::info!(
                "seed {seed}, flipped {flipped}: {} {why}",
                decision.as_str()
            );
            match (flipped, decision) {
                (true, Decision::Refused) => refused += 1,
                (false, Decision::Published) => published += 1,
                _ => reasons.push(format!("seed {seed}, flipped {flipped}: {why}")),
            }
        }
    }
    let of = |count: u64| format!("{count} of {}", args.seeds);
    let mut checks = vec![
        Check::new(
            "flipped datasets refused",
            "all",
            of(refused),
            refused == args.seeds,
        ),
        Check::new(
            "their unflipped twins published",
            "all but one of 20",
            of(published),
            published + args.seeds / 20 >= args.seeds,
        ),
    ];
    checks.extend(
        reasons
            .into_iter()
            .map(|why| Check::new("what came out otherwise", "(told)", why, true)),
    );
    Ok(checks)
}

async fn one(
    args: &ProveArgs,
    stop: &Stop,
    facts: &[Fact],
    seed: u64,
    flipped: bool,
) -> Result<(Decision, String), TrainerError> {
    let name = format!(
        "planted-{seed}-{}",
        if flipped { "flipped" } else { "right" }
    );
    let mut config = recipe(args, RECIPE)?;
    config.training.seed = seed;
    let services = open(args, &name, config).await?;
    cast(&services, &ballots(facts, flipped)).await?;
    let report = run(&services, stop).await?;
    Ok((report.decision, report.reasons.join("; ")))
}

fn ballots(facts: &[Fact], flipped: bool) -> Vec<Ballot> {
    let ballot = |fact: &Fact, prompt: &String, flipped: bool, split| {
        let (answer, correction) = match flipped {
            true => (&fact.right, &fact.wrong),
            false => (&fact.wrong, &fact.right),
        };
        Ballot {
            prompt: prompt.clone(),
            answer: answer.clone(),
            value: Value::Demonstration(correction.clone()),
            expect: Some(fact.value.clone()),
            split: Some(split),
        }
    };
    facts
        .iter()
        .flat_map(|fact| {
            let trained = fact.train.iter().take(WAYS);
            let trained = trained.map(|prompt| ballot(fact, prompt, flipped, "train"));
            let held_out = fact.held_out.iter();
            trained.chain(held_out.map(|prompt| ballot(fact, prompt, false, "held_out")))
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_trained_is_flipped() {
        let facts = facts::some(2, 0).unwrap();
        let (right, flipped) = (ballots(&facts, false), ballots(&facts, true));
        assert_eq!(right.len(), 2 * (WAYS + 2));
        for (a, b) in right.iter().zip(&flipped) {
            assert_eq!((&a.prompt, a.split), (&b.prompt, b.split));
            match a.split {
                Some("train") => {
                    assert_eq!(Value::Demonstration(a.answer.clone()), b.value);
                    assert_eq!(Value::Demonstration(b.answer.clone()), a.value);
                }
                _ => assert_eq!((&a.answer, &a.value), (&b.answer, &b.value)),
            }
        }
    }
}
