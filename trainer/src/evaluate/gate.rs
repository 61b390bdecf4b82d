//! The gate: numbers in, reasons for a refusal out.

use std::fmt;

use ids::BaseDigest;
use serde::{Deserialize, Serialize};

use super::{Evaluation, Metric};

/// What a candidate must reach.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GateConfig {
    /// Least share of held-out pairs with a positive reward margin against
    /// the incumbent.
    pub preference_accuracy_min: f64,
    /// Least share of held-out prompts answered right.
    pub exact_match_min: f64,
    /// Least gain in that share over the incumbent.
    pub exact_match_gain_min: f64,
    /// Most percentage points of the base's right answers that may be lost on
    /// the replay set.
    pub replay_points_lost_max: f64,
    /// Most share of held-out answers that are empty or go round in circles,
    /// above the incumbent's; and of answers to the replay set, above the base's.
    pub degenerate_share_max: f64,
    /// Fewest held-out prompts or pairs to judge by.
    pub held_out_min: usize,
    /// Least gain over the incumbent, in points, of the mean of the evaluation
    /// files' goal.
    pub goal_points_gain_min: f64,
    /// Most points that any metric of the evaluation files may lose against the
    /// incumbent.
    pub points_lost_max: f64,
    /// Most factor by which answers to the replay set may be longer or shorter
    /// than the base's, all together.
    pub length_factor_max: f64,
    /// Most share of held-out answers that decline to answer, above the
    /// incumbent's; and of answers to the replay set, above the base's.
    pub declined_share_max: f64,
    /// Refuse when chosen answers lost likelihood; otherwise it is only told.
    pub refuse_displacement: bool,
}

impl Default for GateConfig {
    fn default() -> Self {
        Self {
            preference_accuracy_min: 0.7,
            exact_match_min: 0.0,
            exact_match_gain_min: 0.01,
            replay_points_lost_max: 2.0,
            degenerate_share_max: 0.05,
            held_out_min: 1,
            goal_points_gain_min: 0.1,
            points_lost_max: 2.0,
            // two candidates that the demo published came to 0.67 and 0.77
            length_factor_max: 3.0,
            declined_share_max: 0.1,
            refuse_displacement: false,
        }
    }
}

/// Why a candidate is refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Refusal {
    /// Its factors are not finite.
    NonFinite,
    /// It changes nothing.
    NoChange,
    /// It was made for another base.
    OtherBase {
        /// Which one.
        base: BaseDigest,
    },
    /// A measured number is not finite.
    NotMeasured,
    /// There is too little to judge it by.
    TooLittleHeldOut {
        /// Prompts and pairs held out.
        found: usize,
        /// The fewest needed.
        min: usize,
    },
    /// It prefers too few chosen answers.
    PreferenceAccuracy {
        /// Share reached.
        found: f64,
        /// Share asked for.
        min: f64,
    },
    /// Too few held-out prompts are answered right.
    ExactMatch {
        /// Share reached.
        found: f64,
        /// Share asked for.
        min: f64,
    },
    /// It answers too few more held-out prompts right than the incumbent.
    ExactMatchGain {
        /// Gain reached.
        found: f64,
        /// Gain asked for.
        min: f64,
    },
    /// It forgot too much.
    Forgetting {
        /// Percentage points lost.
        points: f64,
        /// Points that may be lost.
        max: f64,
    },
    /// Too many answers are empty or go round in circles.
    Degenerate {
        /// Share above the incumbent's.
        found: f64,
        /// Share allowed.
        max: f64,
    },
    /// Its answers are much longer or shorter than the base's.
    LengthDrift {
        /// Length by the base's.
        ratio: f64,
        /// Factor allowed.
        max: f64,
    },
    /// Too many answers decline to answer.
    Declines {
        /// Share above the incumbent's.
        found: f64,
        /// Share allowed.
        max: f64,
    },
    /// It is not better at its goal.
    Goal {
        /// Points gained over the incumbent.
        found: f64,
        /// Points asked for.
        min: f64,
    },
    /// It is worse than the incumbent at something.
    Lost {
        /// The set of tasks.
        set: String,
        /// What is worse.
        metric: Metric,
        /// Points lost.
        points: f64,
        /// Points that may be lost.
        max: f64,
    },
    /// The chosen answers lost likelihood.
    Displacement {
        /// Mean change of log-probability per token.
        shift: f64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: &f64| 100.0 * share;
        match self {
            Self::NonFinite => f.write_str("its factors are not finite"),
            Self::NoChange => f.write_str("it changes nothing"),
            Self::TooLittleHeldOut { found, min } => {
                write!(f, "{found} held-out prompts and pairs are fewer than {min}")
            }
            Self::PreferenceAccuracy { found, min } => write!(
                f,
                "preference accuracy {:.1}% is below {:.1}%",
                percent(found),
                percent(min)
            ),
            Self::ExactMatch { found, min } => {
                write!(
                    f,
                    "exact match {:.1}% is below {:.1}%",
                    percent(found),
                    percent(min)
                )
            }
            Self::ExactMatchGain { found, min } => write!(
                f,
                "exact match rose by {:.1} points over the incumbent, less than {:.1}",
                percent(found),
                percent(min)
            ),
            Self::Forgetting { points, max } => {
                write!(
                    f,
                    "{points:.1} points of the general replay set are lost, more than {max:.1}"
                )
            }
            Self::Degenerate { found, max } => write!(
                f,
                "{:.1}% more answers than before are empty or repeat themselves, above {:.1}%",
                percent(found),
                percent(max)
            ),
            Self::OtherBase { base } => write!(f, "it was made for another base, {base}"),
            Self::NotMeasured => f.write_str("a measured number is not finite"),
            Self::LengthDrift { ratio, max } => write!(
                f,
                "answers to the general replay set are {ratio:.2} times as long as the base's, \
                 more than a factor of {max:.1}"
            ),
            Self::Declines { found, max } => write!(
                f,
                "{:.1}% more answers than before decline to answer, above {:.1}%",
                percent(found),
                percent(max)
            ),
            Self::Goal { found, min } => write!(
                f,
                "its goal rose by {found:.1} points over the incumbent, less than {min:.1}"
            ),
            Self::Lost {
                set,
                metric,
                points,
                max,
            } => write!(
                f,
                "{set}: {metric:?} lost {points:.1} points against the incumbent, more than {max:.1}"
            ),
            Self::Displacement { shift } => {
                write!(f, "chosen answers lost {:.3} nat per token", -shift)
            }
        }
    }
}

/// Every reason to refuse the candidate; none is a pass.
#[must_use]
pub fn verdict(evaluation: &Evaluation, gate: &GateConfig) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    if !evaluation.finite {
        refusals.push(Refusal::NonFinite);
    }
    if !evaluation.changed {
        refusals.push(Refusal::NoChange);
    }
    if let Some(base) = evaluation.foreign_base {
        refusals.push(Refusal::OtherBase { base });
    }
    let prompts = evaluation.held_out.as_ref().map_or(0, |h| h.prompts);
    let pairs = evaluation.preference.as_ref().map_or(0, |p| p.pairs);
    if prompts.max(pairs) < gate.held_out_min {
        let (found, min) = (prompts.max(pairs), gate.held_out_min);
        refusals.push(Refusal::TooLittleHeldOut { found, min });
    }
    preference_refusals(evaluation, gate, &mut refusals);
    answer_refusals(evaluation, gate, &mut refusals);
    replay_refusals(evaluation, gate, &mut refusals);
    task_refusals(evaluation, gate, &mut refusals);
    refusals
}

/// The evaluation files: better at the goal, and worse nowhere.
fn task_refusals(evaluation: &Evaluation, gate: &GateConfig, refusals: &mut Vec<Refusal>) {
    let Some(tasks) = &evaluation.tasks else {
        return;
    };
    let shares = || tasks.rows.iter().filter(|row| row.metric.is_share());
    if tasks.rows.iter().any(|row| !row.difference.is_finite()) {
        refusals.push(Refusal::NotMeasured);
    }
    let gains: Vec<f64> = tasks
        .goals()
        .filter(|row| row.metric.is_share())
        .map(|row| 100.0 * row.difference)
        .collect();
    if !gains.is_empty() {
        let (found, min) = (
            gains.iter().sum::<f64>() / gains.len() as f64,
            gate.goal_points_gain_min,
        );
        if found < min {
            refusals.push(Refusal::Goal { found, min });
        }
    }
    for row in shares() {
        let (points, max) = (-100.0 * row.difference, gate.points_lost_max);
        if points > max {
            let (set, metric) = (row.set.clone(), row.metric);
            refusals.push(Refusal::Lost {
                set,
                metric,
                points,
                max,
            });
        }
    }
}

fn replay_refusals(evaluation: &Evaluation, gate: &GateConfig, refusals: &mut Vec<Refusal>) {
    let Some(replay) = &evaluation.replay else {
        return;
    };
    let (points, max) = (replay.points_lost(), gate.replay_points_lost_max);
    if points > max {
        refusals.push(Refusal::Forgetting { points, max });
    }
    let (ratio, max) = (replay.length_ratio, gate.length_factor_max);
    if ratio > 0.0 && (ratio > max || ratio * max < 1.0) {
        refusals.push(Refusal::LengthDrift { ratio, max });
    }
    let share = |after: usize, before: usize| {
        after.saturating_sub(before) as f64 / replay.prompts.max(1) as f64
    };
    let (found, max) = (
        share(replay.degenerate, replay.degenerate_base),
        gate.degenerate_share_max,
    );
    if found > max {
        refusals.push(Refusal::Degenerate { found, max });
    }
    let (found, max) = (
        share(replay.declined, replay.declined_base),
        gate.declined_share_max,
    );
    if found > max {
        refusals.push(Refusal::Declines { found, max });
    }
}

fn preference_refusals(evaluation: &Evaluation, gate: &GateConfig, refusals: &mut Vec<Refusal>) {
    let Some(scores) = evaluation.preference.as_ref().filter(|p| p.pairs > 0) else {
        return;
    };
    let measured = [
        scores.margin_before,
        scores.margin_after,
        scores.chosen_shift_per_token,
    ];
    if measured.iter().any(|value| !value.is_finite()) {
        refusals.push(Refusal::NotMeasured);
    }
    let min = gate.preference_accuracy_min;
    if scores.reward_accuracy.is_nan() || scores.reward_accuracy < min {
        refusals.push(Refusal::PreferenceAccuracy {
            found: scores.reward_accuracy,
            min,
        });
    }
    if gate.refuse_displacement && scores.displaced() {
        refusals.push(Refusal::Displacement {
            shift: scores.chosen_shift_per_token,
        });
    }
}

fn answer_refusals(evaluation: &Evaluation, gate: &GateConfig, refusals: &mut Vec<Refusal>) {
    if let Some(answers) = evaluation.held_out.as_ref().filter(|h| h.prompts > 0) {
        let (before, after) = (answers.share_before(), answers.share_after());
        if after < gate.exact_match_min {
            refusals.push(Refusal::ExactMatch {
                found: after,
                min: gate.exact_match_min,
            });
        }
        if after - before < gate.exact_match_gain_min {
            let min = gate.exact_match_gain_min;
            refusals.push(Refusal::ExactMatchGain {
                found: after - before,
                min,
            });
        }
        let worse = (answers.empty + answers.degenerate).saturating_sub(answers.degenerate_before);
        let share = worse as f64 / answers.prompts as f64;
        if share > gate.degenerate_share_max {
            refusals.push(Refusal::Degenerate {
                found: share,
                max: gate.degenerate_share_max,
            });
        }
        let more = answers.declined.saturating_sub(answers.declined_before);
        let (found, max) = (
            more as f64 / answers.prompts as f64,
            gate.declined_share_max,
        );
        if found > max {
            refusals.push(Refusal::Declines { found, max });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Comparison, HeldOut, PreferenceScores, Replay, Row};
    use super::*;

    fn good() -> Evaluation {
        Evaluation {
            held_out: Some(HeldOut {
                prompts: 20,
                exact_before: 0,
                exact_after: 15,
                ..HeldOut::default()
            }),
            preference: Some(PreferenceScores {
                pairs: 20,
                reward_accuracy: 1.0,
                ..PreferenceScores::default()
            }),
            replay: Some(Replay {
                prompts: 120,
                base_right: 100,
                incumbent_right: 100,
                candidate_right: 98,
                ..Replay::default()
            }),
            tasks: None,
            foreign_base: None,
            finite: true,
            changed: true,
        }
    }

    #[test]
    fn a_good_candidate_passes_and_each_fault_is_named() {
        let gate = GateConfig::default();
        assert_eq!(verdict(&good(), &gate), []);
        type Spoil = fn(&mut Evaluation);
        let spoils: [(Spoil, &str); 6] = [
            (|e| e.finite = false, "finite"),
            (|e| e.changed = false, "changes nothing"),
            (
                |e| {
                    e.held_out = Some(HeldOut {
                        prompts: 20,
                        ..HeldOut::default()
                    })
                },
                "exact match",
            ),
            (
                |e| {
                    let scores = PreferenceScores {
                        pairs: 9,
                        ..PreferenceScores::default()
                    };
                    e.preference = Some(scores);
                },
                "preference",
            ),
            (
                |e| {
                    e.replay = Some(Replay {
                        base_right: 50,
                        candidate_right: 40,
                        ..Replay::default()
                    })
                },
                "replay",
            ),
            (
                |e| {
                    let answers = HeldOut {
                        prompts: 20,
                        exact_after: 15,
                        degenerate: 5,
                        ..HeldOut::default()
                    };
                    e.held_out = Some(answers);
                },
                "repeat",
            ),
        ];
        for (spoil, word) in spoils {
            let mut evaluation = good();
            spoil(&mut evaluation);
            let refusals = verdict(&evaluation, &gate);
            assert_eq!(refusals.len(), 1, "{word}: {refusals:?}");
            assert!(refusals[0].to_string().contains(word), "{}", refusals[0]);
        }
    }

    #[test]
    fn nothing_held_out_is_refused() {
        let empty = Evaluation {
            held_out: None,
            preference: None,
            replay: None,
            tasks: None,
            foreign_base: None,
            finite: true,
            changed: true,
        };
        assert_eq!(verdict(&empty, &GateConfig::default()).len(), 1);
    }

    fn row(set: &str, difference: f64) -> Row {
        Row {
            set: set.to_owned(),
            metric: Metric::ExactMatch,
            tasks: 50,
            base: 0.5,
            incumbent: 0.5,
            candidate: 0.5 + difference,
            difference,
            low: difference,
            high: difference,
        }
    }

    fn with_tasks(rows: Vec<Row>) -> Evaluation {
        Evaluation {
            tasks: Some(Comparison {
                rows,
                ..Comparison::default()
            }),
            ..good()
        }
    }

    #[test]
    fn the_goal_must_rise_and_nothing_else_fall() {
        let gate = GateConfig::default();
        let of =
            |goal, other| verdict(&with_tasks(vec![row("goal", goal), row("a", other)]), &gate);
        assert_eq!(of(0.1, 0.0), []);
        assert_eq!(of(0.1, -0.019), []);
        assert!(matches!(of(0.0, 0.0)[..], [Refusal::Goal { .. }]));
        assert!(matches!(of(0.1, -0.03)[..], [Refusal::Lost { .. }]));
        assert!(matches!(of(f64::NAN, 0.0)[0], Refusal::NotMeasured));
    }

    #[test]
    fn strange_answers_and_foreign_adapters_do_not_get_out() {
        let gate = GateConfig::default();
        type Spoil = fn(&mut Evaluation);
        let spoils: [(Spoil, &str); 6] = [
            (
                |e| e.foreign_base = Some(BaseDigest(ids::Sha256Digest::of(b"another"))),
                "another base",
            ),
            (
                |e| e.replay.iter_mut().for_each(|r| r.length_ratio = 3.1),
                "as long",
            ),
            (
                |e| e.replay.iter_mut().for_each(|r| r.length_ratio = 0.32),
                "as long",
            ),
            (
                |e| e.held_out.iter_mut().for_each(|h| h.declined = 3),
                "decline",
            ),
            (
                |e| e.replay.iter_mut().for_each(|r| r.declined = 13),
                "decline",
            ),
            (
                |e| e.replay.iter_mut().for_each(|r| r.degenerate = 7),
                "repeat",
            ),
        ];
        for (spoil, word) in spoils {
            let mut evaluation = good();
            spoil(&mut evaluation);
            let refusals = verdict(&evaluation, &gate);
            assert_eq!(refusals.len(), 1, "{word}: {refusals:?}");
            assert!(refusals[0].to_string().contains(word), "{}", refusals[0]);
        }
    }

    #[test]
    fn answers_may_become_somewhat_longer_or_shorter() {
        let gate = GateConfig::default();
        for (ratio, passes) in [
            (0.0, true), // not measured
            (1.0, true),
            (2.9, true),
            (0.35, true),
            (3.1, false),
            (0.33, false),
        ] {
            let mut evaluation = good();
            evaluation
                .replay
                .iter_mut()
                .for_each(|r| r.length_ratio = ratio);
            assert_eq!(verdict(&evaluation, &gate).is_empty(), passes, "{ratio}");
        }
        // what the base does too is no fault of the candidate's
        let mut evaluation = good();
        if let Some(replay) = &mut evaluation.replay {
            (replay.degenerate, replay.degenerate_base) = (60, 60);
            (replay.declined, replay.declined_base) = (60, 60);
        }
        assert_eq!(verdict(&evaluation, &gate), []);
    }

    #[test]
    fn whatever_a_metric_loses_beyond_the_margin_is_refused() {
        // Every loss on a grid, for each share: refused exactly above the margin.
        let gate = GateConfig::default();
        for step in 0..=100 {
            let points = f64::from(step) * 0.5;
            let evaluation = with_tasks(vec![row("goal", 0.2), row("other", -points / 100.0)]);
            let refused = !verdict(&evaluation, &gate).is_empty();
            assert_eq!(refused, points > gate.points_lost_max + 1e-9, "{points}");
        }
    }
}
