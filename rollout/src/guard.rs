//! Fast deterministic guards over counters of the canary's answers.
//!
//! They stop harm; they never say that a canary is better.

use ids::BasisPoints;
use serde::{Deserialize, Serialize};

/// A limit on the share of the canary's requests that go wrong in one way.
/// Above the share it fails; below `min_samples` requests it is inconclusive,
/// unless so many went wrong already that no further request could mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Guardrail {
    /// Requests that failed.
    Errors {
        /// The largest share that is let pass.
        max_share: BasisPoints,
        /// How many requests a pass needs.
        min_samples: u64,
    },
    /// Answers without text.
    Empty {
        /// The largest share that is let pass.
        max_share: BasisPoints,
        /// How many requests a pass needs.
        min_samples: u64,
    },
    /// Answers that [`crate::is_degenerate`] found to repeat themselves.
    Repetition {
        /// The largest share that is let pass.
        max_share: BasisPoints,
        /// How many requests a pass needs.
        min_samples: u64,
    },
    /// Any answer whose computation gave a number that is not finite.
    NonFinite,
}

/// What was counted of a canary's requests since its trial began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GuardCounters {
    /// All requests, the failed ones too.
    pub samples: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Answers without text.
    pub empty: u64,
    /// Answers that repeat themselves.
    pub repetitive: u64,
    /// Requests whose computation was not finite.
    pub non_finite: u64,
}

/// What the guards say together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every guard passes.
    Pass,
    /// At least one guard fails.
    Fail {
        /// Which, with its numbers.
        reason: String,
    },
    /// None fails and at least one has seen too little: hold.
    Inconclusive,
}

/// The verdict of all guards; without a single request it is inconclusive
/// whatever the guards are.
#[must_use]
pub fn verdict(guardrails: &[Guardrail], counters: &GuardCounters) -> Verdict {
    let verdicts: Vec<Verdict> = guardrails
        .iter()
        .map(|guardrail| guardrail.judge(counters))
        .collect();
    if let Some(fail) = verdicts.iter().find(|v| matches!(v, Verdict::Fail { .. })) {
        return fail.clone();
    }
    if counters.samples == 0 || verdicts.contains(&Verdict::Inconclusive) {
        return Verdict::Inconclusive;
    }
    Verdict::Pass
}

impl Guardrail {
    fn judge(self, counters: &GuardCounters) -> Verdict {
        let (name, bad, max_share, min_samples) = match self {
            Self::Errors {
                max_share,
                min_samples,
            } => ("errors", counters.errors, max_share, min_samples),
            Self::Empty {
                max_share,
                min_samples,
            } => ("empty answers", counters.empty, max_share, min_samples),
            Self::Repetition {
                max_share,
                min_samples,
            } => (
                "repetitive answers",
                counters.repetitive,
                max_share,
                min_samples,
            ),
            Self::NonFinite => (
                "non-finite numbers",
                counters.non_finite,
                BasisPoints::ZERO,
                1,
            ),
        };
        let samples = counters.samples;
        if exceeds(bad, samples.max(min_samples), max_share) {
            let reason = format!("{name}: {bad} of {samples} requests, more than {max_share}");
            return Verdict::Fail { reason };
        }
        if samples < min_samples {
            Verdict::Inconclusive
        } else {
            Verdict::Pass
        }
    }
}

/// Whether `bad` of `samples` is a larger share than `max_share`.
fn exceeds(bad: u64, samples: u64, max_share: BasisPoints) -> bool {
    let whole = u128::from(BasisPoints::WHOLE.get());
    u128::from(bad) * whole > u128::from(samples) * u128::from(max_share.get())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn repetition(max_share: u32, min_samples: u64) -> Guardrail {
        Guardrail::Repetition {
            max_share: BasisPoints::new(max_share).unwrap(),
            min_samples,
        }
    }

    fn counters(samples: u64, repetitive: u64) -> GuardCounters {
        GuardCounters {
            samples,
            repetitive,
            ..GuardCounters::default()
        }
    }

    #[test]
    fn verdicts_at_the_limits() {
        let guard = [repetition(2_000, 20)];
        let says = |samples, bad| match verdict(&guard, &counters(samples, bad)) {
            Verdict::Pass => "pass",
            Verdict::Fail { .. } => "fail",
            Verdict::Inconclusive => "hold",
        };
        assert_eq!(says(0, 0), "hold");
        assert_eq!(says(19, 0), "hold");
        assert_eq!(says(20, 0), "pass");
        assert_eq!(says(20, 4), "pass", "exactly the limit is let pass");
        assert_eq!(says(20, 5), "fail");
        assert_eq!(says(4, 4), "hold", "sixteen good ones could still follow");
        assert_eq!(says(5, 5), "fail", "beyond mending before twenty");
        assert_eq!(says(u64::MAX, u64::MAX), "fail");
    }

    #[test]
    fn one_failure_outweighs_any_pass_and_names_itself() {
        let guards = [repetition(10_000, 1), Guardrail::NonFinite];
        let bad = GuardCounters {
            samples: 50,
            non_finite: 1,
            ..GuardCounters::default()
        };
        let Verdict::Fail { reason } = verdict(&guards, &bad) else {
            panic!("not failed")
        };
        assert!(
            reason.contains("non-finite") && reason.contains("1 of 50"),
            "{reason}"
        );
    }

    #[test]
    fn no_samples_never_pass_even_without_guards() {
        assert_eq!(
            verdict(&[], &GuardCounters::default()),
            Verdict::Inconclusive
        );
        assert_eq!(verdict(&[], &counters(1, 1)), Verdict::Pass);
    }

    #[test]
    fn each_guard_looks_at_its_own_counter() {
        let max_share = BasisPoints::ZERO;
        let errors = Guardrail::Errors {
            max_share,
            min_samples: 1,
        };
        let empty = Guardrail::Empty {
            max_share,
            min_samples: 1,
        };
        let all = [errors, empty, repetition(0, 1), Guardrail::NonFinite];
        let base = GuardCounters {
            samples: 10,
            ..GuardCounters::default()
        };
        let each = [
            GuardCounters { errors: 1, ..base },
            GuardCounters { empty: 1, ..base },
            GuardCounters {
                repetitive: 1,
                ..base
            },
            GuardCounters {
                non_finite: 1,
                ..base
            },
        ];
        for (i, counters) in each.iter().enumerate() {
            for (j, guard) in all.iter().enumerate() {
                let failed = matches!(verdict(&[*guard], counters), Verdict::Fail { .. });
                assert_eq!(failed, i == j, "guard {j} on counters {i}");
            }
        }
    }

    #[test]
    fn guardrails_read_from_json() {
        let text = r#"{"kind":"repetition","max_share":500,"min_samples":20}"#;
        assert_eq!(
            serde_json::from_str::<Guardrail>(text).unwrap(),
            repetition(500, 20)
        );
        let text = r#"{"kind":"repetition","max_share":10001,"min_samples":20}"#;
        assert!(serde_json::from_str::<Guardrail>(text).is_err());
    }
}
