//! One canary's trial as this replica sees it: what each arm did, and whether
//! a guard has stopped it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use ids::{BasisPoints, ModelName};
use rollout::{Arm, GuardCounters, Guardrail, Verdict, verdict};

/// How many requests a guard sees before it can pass.
const GUARD_SAMPLES_MIN: u64 = 20;
/// The share of failed requests that a guard lets pass, in basis points.
const ERROR_SHARE_MAX: u32 = 1_000;
/// The share of empty or repetitive answers that a guard lets pass.
const BAD_ANSWER_SHARE_MAX: u32 = 2_500;

/// The guards of a rollout that names none.
pub(crate) fn default_guardrails() -> Vec<Guardrail> {
    let share = |points| BasisPoints::new(points).unwrap_or(BasisPoints::ZERO);
    let min_samples = GUARD_SAMPLES_MIN;
    vec![
        Guardrail::Errors {
            max_share: share(ERROR_SHARE_MAX),
            min_samples,
        },
        Guardrail::Empty {
            max_share: share(BAD_ANSWER_SHARE_MAX),
            min_samples,
        },
        Guardrail::Repetition {
            max_share: share(BAD_ANSWER_SHARE_MAX),
            min_samples,
        },
        Guardrail::NonFinite,
    ]
}

/// How one request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Good,
    Empty,
    Repetitive,
    Error,
}

impl Outcome {
    /// The outcome of a complete answer.
    pub(crate) fn of_text(text: &str) -> Self {
        if text.trim().is_empty() {
            Self::Empty
        } else if rollout::is_degenerate(text) {
            Self::Repetitive
        } else {
            Self::Good
        }
    }
}

/// What one arm did since the trial began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ArmCounters {
    pub(crate) guard: GuardCounters,
    /// Requests that named a unit.
    pub(crate) counted: u64,
    pub(crate) thumbs_up: u64,
    pub(crate) thumbs_down: u64,
}

/// A trial: the rollout's id and the salt that belongs to this canary alone.
pub(crate) struct Trial {
    pub(crate) model: ModelName,
    pub(crate) salt: String,
    stopped: AtomicBool,
    stable: Mutex<ArmCounters>,
    canary: Mutex<ArmCounters>,
}

impl Trial {
    pub(crate) fn new(model: ModelName, salt: String) -> Self {
        Self {
            model,
            salt,
            stopped: AtomicBool::new(false),
            stable: Mutex::default(),
            canary: Mutex::default(),
        }
    }

    /// Whether a guard has stopped the canary.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    fn arm(&self, arm: Arm) -> std::sync::MutexGuard<'_, ArmCounters> {
        let counters = match arm {
            Arm::Stable => &self.stable,
            Arm::Canary => &self.canary,
        };
        counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn counters(&self, arm: Arm) -> ArmCounters {
        *self.arm(arm)
    }

    /// Counts a request that was assigned to an arm.
    pub(crate) fn assigned(&self, arm: Arm, counted: bool) {
        let mut counters = self.arm(arm);
        counters.counted = counters.counted.saturating_add(u64::from(counted));
    }

    pub(crate) fn voted(&self, arm: Arm, up: bool) {
        let mut counters = self.arm(arm);
        let count = if up {
            &mut counters.thumbs_up
        } else {
            &mut counters.thumbs_down
        };
        *count = count.saturating_add(1);
    }

    /// Counts how a request ended. The first observation that fails a guard of
    /// the canary stops it at once, in memory, and gives the reason.
    pub(crate) fn observe(
        &self,
        arm: Arm,
        outcome: Outcome,
        guardrails: &[Guardrail],
    ) -> Option<String> {
        let counters = {
            let mut counters = self.arm(arm);
            let guard = &mut counters.guard;
            guard.samples = guard.samples.saturating_add(1);
            let bad = match outcome {
                Outcome::Good => None,
                Outcome::Empty => Some(&mut guard.empty),
                Outcome::Repetitive => Some(&mut guard.repetitive),
                Outcome::Error => Some(&mut guard.errors),
            };
            if let Some(bad) = bad {
                *bad = bad.saturating_add(1);
            }
            *guard
        };
        if arm == Arm::Stable {
            return None;
        }
        match verdict(guardrails, &counters) {
            Verdict::Fail { reason } if !self.stopped.swap(true, Ordering::AcqRel) => Some(reason),
            _ => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_failing_observation_stops_the_canary_once() {
        let trial = Trial::new(ModelName::new("m").unwrap(), "s".into());
        let guards = default_guardrails();
        for _ in 0..100 {
            assert_eq!(
                trial.observe(Arm::Stable, Outcome::Repetitive, &guards),
                None
            );
        }
        assert!(!trial.is_stopped(), "the stable arm is not judged");
        let reasons: Vec<String> = (0..20)
            .filter_map(|_| trial.observe(Arm::Canary, Outcome::Repetitive, &guards))
            .collect();
        assert_eq!(reasons.len(), 1, "{reasons:?}");
        assert!(reasons[0].contains("repetitive"), "{reasons:?}");
        assert!(trial.is_stopped());
        assert_eq!(trial.counters(Arm::Canary).guard.repetitive, 20);
    }
}
