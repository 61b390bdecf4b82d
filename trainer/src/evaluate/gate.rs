//! The gate: numbers in, reasons for a refusal out.

use std::fmt;

use ids::BaseDigest;
use serde::{Deserialize, Serialize};

use super::{Evaluation, Metric};

/// What sums of shares are off by at most, in points: a loss of just what is
/// allowed is allowed.
const ROUNDING_POINTS: f64 = 1e-9;
/// How refusals name the pairs that were held out.
const HELD_OUT_PAIRS: &str = "held-out pairs";

/// What a candidate must reach.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GateConfig {
    /// Least share of held-out pairs with a positive reward margin against
    /// the incumbent.
    pub preference_accuracy_min: f64,
    /// Least share of held-out prompts answered right.
    pub exact_match_min: f64,
    /// Least gain in that share over the incumbent, where somebody declared what a
    /// right answer contains.
    pub exact_match_gain_min: f64,
    /// Most percentage points of the base's right answers that may be lost on
    /// the replay set.
    pub replay_points_lost_max: f64,
    /// Most share of held-out answers that are empty or go round in circles,
    /// above the incumbent's; and of answers to the replay set, above the base's.
    pub degenerate_share_max: f64,
    /// Fewest held-out prompts, pairs, rated answers or tasks to judge by; without
    /// any a candidate is always refused.
    pub held_out_min: usize,
    /// Least gain over the incumbent, in points, of the mean of the evaluation
    /// files' goal.
    pub goal_points_gain_min: f64,
    /// Most points that any metric of the evaluation files, and the share of
    /// held-out pairs whose chosen answer is the likelier one, may lose against the
    /// incumbent.
    pub points_lost_max: f64,
    /// Most nat by which the chosen answers' mean margin over the rejected ones, of
    /// held-out pairs, may be below the incumbent's.
    pub margin_lost_max: f64,
    /// The same of any set of the evaluation files, in nat per token. Sets may be of a
    /// few pairs and beside the goal, so it is not 0 unless somebody says so.
    pub task_margin_lost_max: f64,
    /// Most factor by which answers to the replay set may be longer or shorter
    /// than the base's, all together; and held-out answers than the incumbent's and
    /// what is expected of them.
    pub length_factor_max: f64,
    /// Most share of held-out answers that decline to answer, above the
    /// incumbent's; and of answers to the replay set, above the base's.
    pub declined_share_max: f64,
    /// Refuse when chosen answers lost likelihood; otherwise it is only told.
    pub refuse_displacement: bool,
    /// Most nat per token that held-out good answers may lose in a run on thumbs
    /// alone; bad ones must lose some.
    pub good_answers_lost_max: f64,
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
            margin_lost_max: 0.0,
            task_margin_lost_max: 0.1,
            // two candidates that the demo published came to 0.67 and 0.77
            length_factor_max: 3.0,
            declined_share_max: 0.1,
            refuse_displacement: false,
            good_answers_lost_max: 0.0,
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
    /// Its answers are much longer or shorter than they were.
    LengthDrift {
        /// Where.
        #[serde(default)]
        of: Answers,
        /// Length by the base's, or by what it should be.
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
    /// Better answers lost likelihood against worse ones.
    Margin {
        /// The set of pairs.
        set: String,
        /// Nat lost against the incumbent.
        lost: f64,
        /// Nat that may be lost.
        max: f64,
    },
    /// The chosen answers lost likelihood.
    Displacement {
        /// Mean change of log-probability per token.
        shift: f64,
    },
    /// Held-out bad answers became no less likely, or good ones did.
    Thumbs {
        /// Mean change of the good answers' log-probability per token.
        good_shift: f64,
        /// The same of the bad ones.
        bad_shift: f64,
    },
}

/// Answers to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answers {
    /// To general prompts.
    #[default]
    Replay,
    /// To prompts that were held out.
    HeldOut,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: &f64| 100.0 * share;
        match self {
            Self::NonFinite => f.write_str("its factors are not finite"),
            Self::NoChange => f.write_str("it changes nothing"),
            Self::TooLittleHeldOut { found, min } => {
                write!(
                    f,
                    "{found} held-out prompts, pairs, rated answers and tasks are fewer than {min}"
                )
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
            Self::LengthDrift { of, ratio, max } => {
                let (which, whose) = match of {
                    Answers::Replay => ("answers to the general replay set", "the base's"),
                    Answers::HeldOut => ("held-out answers", "the incumbent's and the expected"),
                };
                write!(
                    f,
                    "{which} are {ratio:.2} times as long as {whose}, more than a factor of {max:.1}"
                )
            }
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
            Self::Margin { set, lost, max } => write!(
                f,
                "{set}: the margin of better answers over worse ones is {lost:.3} nat below the \
                 incumbent's, more than {max:.3}"
            ),
            Self::Thumbs {
                good_shift,
                bad_shift,
            } => write!(
                f,
                "held-out good answers moved by {good_shift:+.3} nat per token, bad ones by \
                 {bad_shift:+.3}"
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
    let rated = evaluation.rated.as_ref().map_or(0, |r| r.good + r.bad);
    let tasks = evaluation.tasks.as_ref();
    let tasks = tasks.map_or(0, |t| t.goals().map(|row| row.tasks).max().unwrap_or(0));
    let found = prompts.max(pairs).max(rated).max(tasks);
    let min = gate.held_out_min.max(1);
    if found < min {
        refusals.push(Refusal::TooLittleHeldOut { found, min });
    }
    preference_refusals(evaluation, gate, &mut refusals);
    rated_refusals(evaluation, gate, &mut refusals);
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
    for row in &tasks.rows {
        let lost = -row.difference;
        refusals.extend(match row.metric.is_share() {
            true => points_lost(&row.set, row.metric, lost, gate.points_lost_max),
            false => margin_lost(&row.set, lost, gate.task_margin_lost_max),
        });
    }
}

/// The refusal of a share that is too far below the incumbent's.
fn points_lost(set: &str, metric: Metric, lost: f64, max: f64) -> Option<Refusal> {
    let points = 100.0 * lost;
    (points > max + ROUNDING_POINTS).then(|| Refusal::Lost {
        set: set.to_owned(),
        metric,
        points,
        max,
    })
}

/// The refusal of a margin that is too far below the incumbent's.
fn margin_lost(set: &str, lost: f64, max: f64) -> Option<Refusal> {
    (lost > max).then(|| Refusal::Margin {
        set: set.to_owned(),
        lost,
        max,
    })
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
    if drifts(ratio, max) {
        let of = Answers::Replay;
        refusals.push(Refusal::LengthDrift { of, ratio, max });
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

/// Whether a measured length is off by more than a factor.
fn drifts(ratio: f64, max: f64) -> bool {
    ratio > 0.0 && (ratio > max || ratio * max < 1.0)
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
    // what moved towards the chosen answers in most pairs may have lost more in the others
    let lost = scores.accuracy_before - scores.accuracy_after;
    let metric = Metric::PreferenceAccuracy;
    let max = gate.points_lost_max;
    refusals.extend(points_lost(HELD_OUT_PAIRS, metric, lost, max));
    let lost = scores.margin_before - scores.margin_after;
    refusals.extend(margin_lost(HELD_OUT_PAIRS, lost, gate.margin_lost_max));
    if gate.refuse_displacement && scores.displaced {
        refusals.push(Refusal::Displacement {
            shift: scores.chosen_shift_per_token,
        });
    }
}

fn rated_refusals(evaluation: &Evaluation, gate: &GateConfig, refusals: &mut Vec<Refusal>) {
    let Some(rated) = evaluation.rated.as_ref().filter(|r| r.good + r.bad > 0) else {
        return;
    };
    let (good_shift, bad_shift) = (rated.good_shift_per_token, rated.bad_shift_per_token);
    let good_kept = rated.good == 0 || good_shift >= -gate.good_answers_lost_max;
    // what good answers alone can show is that they became likelier
    let is_better = match rated.bad {
        0 => good_shift > 0.0,
        _ => bad_shift < 0.0,
    };
    // written so that what is no number is refused
    if !(good_kept && is_better) {
        refusals.push(Refusal::Thumbs {
            good_shift,
            bad_shift,
        });
    }
}

fn answer_refusals(evaluation: &Evaluation, gate: &GateConfig, refusals: &mut Vec<Refusal>) {
    if let Some(answers) = evaluation.held_out.as_ref().filter(|h| h.prompts > 0) {
        let (before, after) = (answers.share_before(), answers.share_after());
        if answers.judged() > 0 && after < gate.exact_match_min {
            refusals.push(Refusal::ExactMatch {
                found: after,
                min: gate.exact_match_min,
            });
        }
        if answers.declared() > 0 && after - before < gate.exact_match_gain_min {
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
        let (ratio, max) = (answers.length_ratio, gate.length_factor_max);
        if drifts(ratio, max) {
            let of = Answers::HeldOut;
            refusals.push(Refusal::LengthDrift { of, ratio, max });
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
mod tests;
