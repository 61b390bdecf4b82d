//! A run's report, for machines and for people.

use std::fmt::Write as _;

use feedback::pairs::Report as DatasetReport;
use ids::{AdapterDigest, BaseDigest, DatasetDigest, Sha256Digest, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::evaluate::{Evaluation, GateConfig, Interval, Refusal};
use crate::mixture::Drawn;
use crate::recipe::Stage;
use crate::stage_files::FilesReport;
use crate::train::{EpochMetrics, TrainConfig};
use crate::trial::TrialReport;
use crate::vote_rows::VotesReport;

/// What came of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The candidate passed and was stored.
    Published,
    /// The candidate did not pass.
    Refused,
}

impl Decision {
    /// The word in status and events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Refused => "refused",
        }
    }
}

/// Everything about one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The run.
    pub run_id: String,
    /// When it was written.
    pub at: UnixMillis,
    /// What came of it.
    pub decision: Decision,
    /// The candidate's digest.
    pub candidate: AdapterDigest,
    /// The version that it was compared with; none is the bare base.
    pub incumbent: Option<AdapterDigest>,
    /// The base.
    pub base: BaseDigest,
    /// Why it was refused, in words.
    pub reasons: Vec<String>,
    /// The same for machines.
    pub refusals: Vec<Refusal>,
    /// What was measured.
    pub evaluation: Evaluation,
    /// What was demanded.
    pub gate: GateConfig,
    /// How it was trained; none for an adapter from elsewhere.
    pub training: Option<TrainingReport>,
}

/// What a stage trained.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StageReport {
    /// The stage as it was trained.
    pub stage: Stage,
    /// What decides its last bits beside the stage: the recipe as the memory was
    /// planned, and the instructions that computed.
    #[serde(default)]
    pub computed: Option<Computed>,
    /// Examples trained and validated with.
    pub examples: [usize; 2],
    /// Plain answers to mix in beside preferences, where the recipe retains.
    #[serde(default)]
    pub retained: usize,
    /// Examples left out for their length.
    pub too_long: usize,
    /// What its files came to.
    #[serde(default)]
    pub files: FilesReport,
    /// What the mixture came to.
    pub drawn: Option<Drawn>,
    /// The epoch whose adapter was taken.
    pub epoch: usize,
    /// What is held out, after that epoch; none without anything held out.
    #[serde(default)]
    pub held_out: Option<EpochMetrics>,
    /// Unpadded policy tokens.
    pub tokens: u64,
    /// Seconds of training.
    pub seconds: f64,
}

/// How a stage was computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Computed {
    /// The recipe with the micro-batches and packs that were planned.
    pub recipe: TrainConfig,
    /// The instructions that the CPU's kernels were chosen for.
    pub cpu: String,
    /// Threads; the result does not depend on them.
    pub threads: usize,
}

impl Computed {
    /// The way that this recipe is computed here.
    pub(crate) fn here(recipe: &TrainConfig) -> Self {
        Self {
            recipe: recipe.clone(),
            cpu: format!("{:?}", model::kernels::Level::detect()).to_lowercase(),
            threads: rayon::current_num_threads(),
        }
    }
}

impl StageReport {
    /// One line: the examples, and the mixture that was really drawn.
    #[must_use]
    pub fn text(&self) -> String {
        let [trained, validated] = self.examples;
        let mut text = format!("{trained} trained, {validated} to validate");
        if self.retained > 0 && self.stage.training.retention.weight > 0.0 {
            let _ = write!(text, "; {} general and praised to retain", self.retained);
        }
        let files = &self.files;
        if files.kept + files.refused > 0 {
            let (kept, refused) = (files.kept, files.refused);
            let _ = write!(text, "; {kept} rows of files, {refused} lines refused");
        }
        if let Some(drawn) = &self.drawn {
            let names = ["reasoning", "dialogue", "general"];
            let parts = names.iter().zip(drawn.drawn).zip(drawn.shares);
            let parts: Vec<String> = parts
                .map(|((name, count), share)| format!("{name} {count} ({:.0}%)", 100.0 * share))
                .collect();
            let _ = write!(text, "; drawn: {}", parts.join(", "));
        }
        text
    }
}

/// The votes that a dataset was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Votes {
    /// How many.
    pub count: usize,
    /// Names exactly these.
    pub digest: Sha256Digest,
    /// Their names, as many as a manifest has room for.
    pub ids: Vec<String>,
}

/// How a candidate was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingReport {
    /// The dataset: the votes' rows, and where stages have files theirs too.
    pub dataset: DatasetDigest,
    /// What was made of the votes.
    pub rows: DatasetReport,
    /// Which of their rows were refused, and why.
    #[serde(default)]
    pub refused: VotesReport,
    /// Pairs that were trained.
    pub train_pairs: usize,
    /// Pairs that were held out.
    pub held_out_pairs: usize,
    /// Praised answers that were mixed in, if the recipe says so.
    pub retained: usize,
    /// Examples left out for their length.
    pub too_long: usize,
    /// The votes behind it.
    pub votes: Votes,
    /// The recipe of the last stage.
    pub recipe: TrainConfig,
    /// All stages, with what each really trained.
    #[serde(default)]
    pub stages: Vec<StageReport>,
    /// The trial of the data on a smaller base, where there was one.
    #[serde(default)]
    pub trial: Option<TrialReport>,
    /// The epoch whose adapter was taken.
    pub epoch: usize,
    /// Unpadded policy tokens.
    pub tokens: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// Tokens a second.
    pub tokens_per_second: f64,
}

impl Report {
    /// The report as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("run {}: {}\n", self.run_id, self.decision.as_str());
        let incumbent = self
            .incumbent
            .map_or("the bare base".to_owned(), |d| d.short());
        let mut line = |label: &str, value: String| {
            let _ = writeln!(text, "  {label:<34} {value}");
        };
        line("candidate", self.candidate.short());
        line("incumbent", incumbent);
        let percent = |share: f64| format!("{:.1}%", 100.0 * share);
        let between = |gain: Interval| {
            let (low, high) = (100.0 * gain.low, 100.0 * gain.high);
            format!("95% of the gain in {low:+.1} to {high:+.1} points")
        };
        let within = |of: Interval| format!("95% in {:+.3} to {:+.3}", of.low, of.high);
        if let Some(h) = &self.evaluation.held_out {
            let judged = h.judged();
            let exact = |n: usize| {
                let share = percent(n as f64 / judged as f64);
                format!("{n} of {judged} ({share})")
            };
            if judged > 0 {
                line("held-out exact match, base", exact(h.exact_base));
                line("held-out exact match before", exact(h.exact_before));
                let gain = between(h.exact_gain);
                let after = format!("{}, {gain}", exact(h.exact_after));
                line("held-out exact match after", after);
            }
            line(
                "empty or repetitive after",
                format!("{}", h.empty + h.degenerate),
            );
        }
        if let Some(p) = &self.evaluation.preference {
            line(
                "preference accuracy",
                format!("{} of {} pairs", percent(p.reward_accuracy), p.pairs),
            );
            let likely = format!(
                "{} → {} (base {}), {}",
                percent(p.accuracy_before),
                percent(p.accuracy_after),
                percent(p.accuracy_base),
                between(p.accuracy_gain)
            );
            line("chosen more likely per token", likely);
            line(
                "log-probability margin",
                format!(
                    "{:.2} → {:.2}, 95% of the gain in {:+.2} to {:+.2}",
                    p.margin_before, p.margin_after, p.margin_gain.low, p.margin_gain.high
                ),
            );
            let displaced = if p.displaced { " (displaced!)" } else { "" };
            let shift = format!(
                "{:+.3} nat per token{displaced}, {}",
                p.chosen_shift_per_token,
                within(p.chosen_shift_interval)
            );
            line("chosen answers' shift", shift);
        }
        if let Some(r) = &self.evaluation.rated {
            let shift = |count: usize, shift: f64, interval: Interval| {
                let within = within(interval);
                format!("{shift:+.3} nat per token ({count} answers), {within}")
            };
            if r.good > 0 {
                let good = shift(r.good, r.good_shift_per_token, r.good_shift_interval);
                line("good answers' shift", good);
            }
            if r.bad > 0 {
                let bad = shift(r.bad, r.bad_shift_per_token, r.bad_shift_interval);
                line("bad answers' shift", bad);
            }
        }
        if let Some(r) = &self.evaluation.replay {
            let kept = format!(
                "{} of {} that the base knows",
                r.candidate_right, r.base_right
            );
            line(
                "general replay set",
                format!(
                    "{kept}, {:.1} points lost, {}",
                    r.points_lost(),
                    between(r.gain_on_base)
                ),
            );
            if self.incumbent.is_some() {
                let (before, after) = (r.incumbent_right, r.candidate_right);
                let gain = between(r.gain);
                line(
                    "the same, incumbent and candidate",
                    format!("{before}, then {after}, {gain}"),
                );
            }
        }
        if let Some(t) = &self.training {
            line(
                "pairs trained, held out",
                format!("{}, {}", t.train_pairs, t.held_out_pairs),
            );
            if t.refused.refused > 0 {
                let (kept, refused) = (t.refused.kept, t.refused.refused);
                line("rows of votes kept, refused", format!("{kept}, {refused}"));
            }
            let speed = format!(
                "{} tokens in {:.0} s: {:.1} tok/s",
                t.tokens, t.seconds, t.tokens_per_second
            );
            line("training", speed);
            if let Some(trial) = &t.trial {
                line("tried before on", trial.name.clone());
            }
            for (number, stage) in (1..).zip(&t.stages) {
                let kind = format!("{:?}", stage.stage.kind).to_lowercase();
                line(&format!("stage {number}, {kind}"), stage.text());
            }
        }
        for reason in &self.reasons {
            line("refused because", reason.clone());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::{PreferenceScores, RatedScores, Replay};

    const SOME: Interval = Interval {
        low: -0.025,
        high: 0.0,
    };

    fn report(evaluation: Evaluation) -> Report {
        Report {
            run_id: "run-1".to_owned(),
            at: UnixMillis(0),
            decision: Decision::Published,
            candidate: AdapterDigest(Sha256Digest::of(b"candidate")),
            incumbent: Some(AdapterDigest(Sha256Digest::of(b"incumbent"))),
            base: BaseDigest(Sha256Digest::of(b"base")),
            reasons: Vec::new(),
            refusals: Vec::new(),
            evaluation,
            gate: GateConfig::default(),
            training: None,
        }
    }

    #[test]
    fn each_gain_has_its_interval() {
        let text = report(Evaluation {
            held_out: None,
            preference: Some(PreferenceScores {
                pairs: 20,
                chosen_shift_per_token: -0.01,
                chosen_shift_interval: SOME,
                displaced: true,
                ..PreferenceScores::default()
            }),
            rated: Some(RatedScores {
                good: 3,
                good_shift_per_token: -0.01,
                good_shift_interval: SOME,
                ..RatedScores::default()
            }),
            replay: Some(Replay {
                base_right: 40,
                incumbent_right: 40,
                candidate_right: 39,
                gain: SOME,
                gain_on_base: SOME,
                ..Replay::default()
            }),
            tasks: None,
            foreign_base: None,
            finite: true,
            changed: true,
        })
        .text();
        for part in [
            "-0.010 nat per token (displaced!), 95% in -0.025 to +0.000",
            "-0.010 nat per token (3 answers), 95% in -0.025 to +0.000",
            "2.5 points lost, 95% of the gain in -2.5 to +0.0 points",
            "40, then 39, 95% of the gain in -2.5 to +0.0 points",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("bad answers"), "none were rated bad: {text}");
    }
}
