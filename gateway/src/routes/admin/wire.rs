//! Rollouts between our types and the wire's, which have the same shape and
//! are kept apart so that the one can change without the other.

use ids::Revision;
use openapi::{
    AnalysisVerdict, ArmAnalysis, ArmName, PreviousStable, RolloutAnalysis, RolloutResource,
    RolloutStatus,
};
use rollout::{Arm, Guardrail, Rollout, Status, Verdict, verdict};

use crate::routing::{ArmCounters, Trial, default_guardrails};

pub(super) fn arm_name(arm: &str) -> Option<ArmName> {
    match arm {
        "stable" => Some(ArmName::Stable),
        "canary" => Some(ArmName::Canary),
        _ => None,
    }
}

fn status(status: Status) -> RolloutStatus {
    match status {
        Status::Idle => RolloutStatus::Idle,
        Status::Running => RolloutStatus::Running,
        Status::Paused => RolloutStatus::Paused,
        Status::Promoted => RolloutStatus::Promoted,
        Status::Aborted => RolloutStatus::Aborted,
    }
}

fn guardrail(guardrail: Guardrail) -> openapi::Guardrail {
    use openapi::Guardrail as Wire;
    match guardrail {
        Guardrail::Errors {
            max_share,
            min_samples,
        } => Wire::Errors {
            max_share,
            min_samples,
        },
        Guardrail::Empty {
            max_share,
            min_samples,
        } => Wire::Empty {
            max_share,
            min_samples,
        },
        Guardrail::Repetition {
            max_share,
            min_samples,
        } => Wire::Repetition {
            max_share,
            min_samples,
        },
        Guardrail::NonFinite => Wire::NonFinite,
    }
}

pub(super) fn guardrail_of(wire: openapi::Guardrail) -> Guardrail {
    use openapi::Guardrail as Wire;
    match wire {
        Wire::Errors {
            max_share,
            min_samples,
        } => Guardrail::Errors {
            max_share,
            min_samples,
        },
        Wire::Empty {
            max_share,
            min_samples,
        } => Guardrail::Empty {
            max_share,
            min_samples,
        },
        Wire::Repetition {
            max_share,
            min_samples,
        } => Guardrail::Repetition {
            max_share,
            min_samples,
        },
        Wire::NonFinite => Guardrail::NonFinite,
    }
}

pub(super) fn resource(revision: Revision, rollout: Rollout) -> RolloutResource {
    RolloutResource {
        id: rollout.id,
        revision,
        base: rollout.base,
        stable: rollout.stable,
        previous_stable: rollout.previous_stable.map(|previous| PreviousStable {
            adapter: previous.adapter,
        }),
        canary: rollout.canary,
        last_canary: rollout.last_canary,
        basis_points: rollout.basis_points,
        salt: rollout.salt,
        status: status(rollout.status),
        steps: rollout.steps,
        interval_ms: rollout.interval_ms,
        guardrails: rollout.guardrails.into_iter().map(guardrail).collect(),
        abort_reason: rollout.abort_reason,
        updated_at: rollout.updated_at,
    }
}

fn arm(adapter: Option<ids::AdapterDigest>, counters: ArmCounters) -> ArmAnalysis {
    ArmAnalysis {
        adapter,
        requests: counters.guard.samples,
        counted: counters.counted,
        errors: counters.guard.errors,
        empty: counters.guard.empty,
        repetitive: counters.guard.repetitive,
        non_finite: counters.guard.non_finite,
        thumbs_up: counters.thumbs_up,
        thumbs_down: counters.thumbs_down,
    }
}

/// What the arms did, as this replica saw it.
pub(super) fn analysis(
    revision: Revision,
    rollout: &Rollout,
    trial: Option<&Trial>,
) -> RolloutAnalysis {
    let counters = |arm| trial.map(|trial| trial.counters(arm)).unwrap_or_default();
    let (stable, canary) = (counters(Arm::Stable), counters(Arm::Canary));
    let guardrails = match rollout.guardrails.as_slice() {
        [] => default_guardrails(),
        guardrails => guardrails.to_vec(),
    };
    let (verdict, reason) = match verdict(&guardrails, &canary.guard) {
        Verdict::Pass => (AnalysisVerdict::Pass, None),
        Verdict::Fail { reason } => (AnalysisVerdict::Fail, Some(reason)),
        Verdict::Inconclusive => (AnalysisVerdict::Inconclusive, None),
    };
    let counted = stable.counted.saturating_add(canary.counted);
    #[expect(clippy::cast_precision_loss, reason = "a share of requests")]
    let observed_share = (counted > 0).then(|| canary.counted as f64 / counted as f64);
    RolloutAnalysis {
        id: rollout.id.clone(),
        revision,
        status: status(rollout.status),
        basis_points: rollout.basis_points,
        observed_share,
        verdict,
        reason,
        stable: arm(rollout.stable, stable),
        canary: arm(rollout.canary.or(rollout.last_canary), canary),
    }
}
