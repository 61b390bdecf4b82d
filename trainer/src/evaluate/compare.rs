//! Base, incumbent and candidate on the same tasks, with intervals.
//!
//! The interval of a difference is a paired bootstrap over tasks: the same
//! tasks are drawn for both, so that what is hard for both does not widen it.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::tasks::GOAL;
use super::text_scores::BleuCounts;

/// How often tasks are drawn anew.
const DRAWS: usize = 1000;
/// The share of draws inside an interval.
const CONFIDENCE: f64 = 0.95;

/// What a value says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Answers that contain what they should.
    ExactMatch,
    /// ROUGE-L against the best reference.
    RougeL,
    /// BLEU of all answers together.
    Bleu,
    /// Answers that match their expression.
    Regex,
    /// Answers that are JSON of their shape.
    Schema,
    /// Tasks whose most frequent sampled answer is right.
    SelfConsistency,
    /// Of a task's samples, ten or more, the share that is right as most are, or
    /// wrong as most are.
    Stability,
    /// Pairs whose better answer is the more likely one per token.
    PreferenceAccuracy,
    /// Log-probability per token of the better answer less that of the worse.
    PreferenceMargin,
    /// Right answers that stay right when the user insists on a wrong claim.
    HoldsAgainstClaim,
}

impl Metric {
    /// Whether it is a share, 0 to 1, of which a loss can be counted in points.
    #[must_use]
    pub fn is_share(self) -> bool {
        self != Self::PreferenceMargin
    }
}

/// Where a difference lies: a paired bootstrap's 95%.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval {
    /// Of the mean of `after` less that of `before`, of the same things.
    #[must_use]
    pub fn of(before: &[f64], after: &[f64], seed: u64) -> Self {
        let both = before.iter().zip(after);
        let both: Vec<(Part, Part)> = both
            .map(|(before, after)| (Part::Value(*before), Part::Value(*after)))
            .collect();
        if both.is_empty() {
            return Self::default();
        }
        let (low, high) = interval(&both, seed);
        Self { low, high }
    }

    /// Of the mean of `shifts`, each of which is one thing's change.
    #[must_use]
    pub fn of_shifts(shifts: &[f64], seed: u64) -> Self {
        Self::of(&vec![0.0; shifts.len()], shifts, seed)
    }
}

/// One task's part of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Part {
    /// Parts are averaged.
    Value(f64),
    /// Parts are added up before they are a score.
    Bleu(BleuCounts),
}

/// What one version scored: for each set and metric, each task's part; none
/// where the task does not have that metric.
pub type Measured = BTreeMap<(String, Metric), Vec<Option<Part>>>;

/// One metric of one set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The set.
    pub set: String,
    /// The metric.
    pub metric: Metric,
    /// Tasks that both incumbent and candidate have a value for.
    pub tasks: usize,
    /// The bare base's value.
    pub base: f64,
    /// The incumbent's.
    pub incumbent: f64,
    /// The candidate's.
    pub candidate: f64,
    /// Candidate less incumbent.
    pub difference: f64,
    /// The lower end of its interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// Three versions on the same tasks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// By set and metric.
    pub rows: Vec<Row>,
    /// The seed of the intervals.
    pub seed: u64,
    /// Seconds of a single answer: base, incumbent, candidate.
    pub latency_seconds_median: [f64; 3],
}

impl Comparison {
    /// The rows of what the candidate is to be better at.
    pub fn goals(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.set == GOAL)
    }
}

/// Compares; every value is of the tasks that candidate and incumbent share.
#[must_use]
pub fn compare(
    base: &Measured,
    incumbent: &Measured,
    candidate: &Measured,
    seed: u64,
) -> Comparison {
    let keys: BTreeSet<&(String, Metric)> = incumbent.keys().chain(candidate.keys()).collect();
    let empty = Vec::new();
    let mut rows = Vec::new();
    for (number, key) in (0u64..).zip(keys) {
        let of = |measured: &'_ Measured| measured.get(key).unwrap_or(&empty).clone();
        let (base, before, after) = (of(base), of(incumbent), of(candidate));
        let both: Vec<(Part, Part)> = before
            .iter()
            .zip(&after)
            .filter_map(|(before, after)| Some(((*before)?, (*after)?)))
            .collect();
        if both.is_empty() {
            continue;
        }
        let base: Vec<Part> = base.into_iter().flatten().collect();
        let value = |side: fn(&(Part, Part)) -> Part| score(both.iter().map(side));
        let (incumbent, candidate) = (value(|pair| pair.0), value(|pair| pair.1));
        let (low, high) = interval(&both, seed ^ number);
        rows.push(Row {
            set: key.0.clone(),
            metric: key.1,
            tasks: both.len(),
            base: score(base.into_iter()),
            incumbent,
            candidate,
            difference: candidate - incumbent,
            low,
            high,
        });
    }
    Comparison {
        rows,
        seed,
        latency_seconds_median: [0.0; 3],
    }
}

fn score(parts: impl Iterator<Item = Part>) -> f64 {
    let (mut sum, mut values) = (0.0, 0usize);
    let mut counts: Option<BleuCounts> = None;
    for part in parts {
        match part {
            Part::Value(value) => {
                sum += value;
                values += 1;
            }
            Part::Bleu(more) => counts.get_or_insert_default().add(&more),
        }
    }
    counts.map_or(sum / values.max(1) as f64, |counts| counts.score())
}

/// The interval of the difference when tasks are drawn with replacement.
fn interval(both: &[(Part, Part)], seed: u64) -> (f64, f64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut differences: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let drawn: Vec<&(Part, Part)> = (0..both.len())
                .map(|_| &both[random.random_range(0..both.len())])
                .collect();
            let before = score(drawn.iter().map(|pair| pair.0));
            score(drawn.iter().map(|pair| pair.1)) - before
        })
        .collect();
    differences.sort_by(f64::total_cmp);
    let tail = ((1.0 - CONFIDENCE) / 2.0 * DRAWS as f64) as usize;
    (differences[tail], differences[DRAWS - 1 - tail])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(values: &[Option<f64>]) -> Measured {
        let parts = values.iter().map(|value| value.map(Part::Value)).collect();
        Measured::from([((GOAL.to_owned(), Metric::ExactMatch), parts)])
    }

    #[test]
    fn a_difference_has_a_seeded_interval_around_it() {
        let before: Vec<Option<f64>> = (0..40).map(|i| Some(f64::from(i % 4 == 0))).collect();
        let after: Vec<Option<f64>> = (0..40).map(|i| Some(f64::from(i % 4 < 3))).collect();
        let (before, after) = (measured(&before), measured(&after));
        let compared = compare(&before, &before, &after, 7);
        let row = &compared.rows[0];
        assert_eq!(row.tasks, 40);
        assert!((row.difference - 0.5).abs() < 1e-12);
        assert!(
            row.low > 0.3 && row.low < 0.5 && row.high > 0.5 && row.high < 0.7,
            "{row:?}"
        );
        assert_eq!(compared, compare(&before, &before, &after, 7));
        assert_ne!(row.low, row.high);
        // The same answers differ by nothing, whatever is drawn.
        let same = compare(&before, &before, &before, 7);
        assert!(same.rows[0].low == 0.0 && same.rows[0].high == 0.0);
    }

    #[test]
    fn only_tasks_that_both_have_count() {
        let before = measured(&[Some(1.0), None, Some(0.0)]);
        let after = measured(&[Some(1.0), Some(1.0), None]);
        let compared = compare(&before, &before, &after, 1);
        assert_eq!(compared.rows[0].tasks, 1);
        assert!(compared.rows[0].difference.abs() < 1e-12);
    }
}
