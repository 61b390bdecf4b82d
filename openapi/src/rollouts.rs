//! Rollouts as administrators see them.

use ids::{AdapterDigest, BaseDigest, BasisPoints, ModelName, Revision, UnixMillis};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// All rollouts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutList {
    /// The rollouts, by id.
    pub data: Vec<RolloutResource>,
}

/// A public model name's way from one adapter version to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutResource {
    /// The public model name.
    #[schema(value_type = String)]
    pub id: ModelName,
    /// Counts its changes; also the `ETag`, and what `If-Match` compares.
    #[schema(value_type = u64)]
    pub revision: Revision,
    /// The base that every version belongs to.
    #[schema(value_type = String)]
    pub base: BaseDigest,
    /// What everyone gets who is not on the canary; null is the bare base.
    #[schema(value_type = Option<String>)]
    pub stable: Option<AdapterDigest>,
    /// What a rollback would restore.
    pub previous_stable: Option<PreviousStable>,
    /// The version on trial.
    #[schema(value_type = Option<String>)]
    pub canary: Option<AdapterDigest>,
    /// The canary of the last trial that ended.
    #[schema(value_type = Option<String>)]
    pub last_canary: Option<AdapterDigest>,
    /// The canary's share in ten-thousandths.
    #[schema(value_type = u32, maximum = 10_000)]
    pub basis_points: BasisPoints,
    /// Salt of the assignment; a new one for each canary.
    pub salt: String,
    /// Where the rollout stands.
    pub status: RolloutStatus,
    /// The shares that a schedule goes through, rising.
    #[schema(value_type = Vec<u32>, max_items = 32)]
    pub steps: Vec<BasisPoints>,
    /// The least milliseconds between two steps.
    pub interval_ms: u64,
    /// What stops the canary.
    #[schema(max_items = 16)]
    pub guardrails: Vec<Guardrail>,
    /// Why the last canary was aborted.
    pub abort_reason: Option<String>,
    /// When the last transition was, in milliseconds since 1970.
    #[schema(value_type = i64)]
    pub updated_at: UnixMillis,
}

/// What was stable before the last promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreviousStable {
    /// The version; null is the bare base.
    #[schema(value_type = Option<String>)]
    pub adapter: Option<AdapterDigest>,
}

/// Where a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RolloutStatus {
    /// No canary was tried since the last rollback, or ever.
    Idle,
    /// A canary is on trial and its share may rise by schedule.
    Running,
    /// A canary is on trial with its share held where it is.
    Paused,
    /// The last canary became stable.
    Promoted,
    /// The last canary was stopped; everyone is on stable.
    Aborted,
}

/// Which of a rollout's two versions answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ArmName {
    /// The version that everyone had before.
    Stable,
    /// The version on trial.
    Canary,
}

/// A limit on the share of the canary's requests that go wrong in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Guardrail {
    /// Requests that failed.
    Errors {
        /// The largest share that is let pass, in ten-thousandths.
        #[schema(value_type = u32, maximum = 10_000)]
        max_share: BasisPoints,
        /// How many requests a pass needs.
        min_samples: u64,
    },
    /// Answers without text.
    Empty {
        /// The largest share that is let pass, in ten-thousandths.
        #[schema(value_type = u32, maximum = 10_000)]
        max_share: BasisPoints,
        /// How many requests a pass needs.
        min_samples: u64,
    },
    /// Answers that repeat themselves.
    Repetition {
        /// The largest share that is let pass, in ten-thousandths.
        #[schema(value_type = u32, maximum = 10_000)]
        max_share: BasisPoints,
        /// How many requests a pass needs.
        min_samples: u64,
    },
    /// Any answer whose computation gave a number that is not finite.
    NonFinite,
}

/// `PUT /admin/v1/rollouts/{id}` with `If-Match: REVISION`, or `If-None-Match: *`
/// to create. What is left out stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutPut {
    /// Must be the served base, where given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub base: Option<BaseDigest>,
    /// The stable version, null for the bare base; it can be set while no
    /// canary is on trial. The outer level is whether the field is there.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::nullable"
    )]
    #[schema(value_type = Option<String>)]
    pub stable: Option<Option<AdapterDigest>>,
    /// Another version than the one on trial starts a new trial, which needs
    /// the last one to have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub canary: Option<AdapterDigest>,
    /// The canary's share in ten-thousandths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, maximum = 10_000)]
    pub basis_points: Option<BasisPoints>,
    /// The salt of a new trial; made up where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 128)]
    pub salt: Option<String>,
    /// The shares that the schedule goes through, rising.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<u32>>, max_items = 32)]
    pub steps: Option<Vec<BasisPoints>>,
    /// The least milliseconds between two steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
    /// What stops the canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 16)]
    pub guardrails: Option<Vec<Guardrail>>,
    /// `running` or `paused`, while a canary is on trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<RolloutStatus>,
}

/// `POST /admin/v1/rollouts/{id}/abort`; the body may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutAbort {
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 512)]
    pub reason: Option<String>,
}

/// What a rollout's two arms did since the trial began, as this replica saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutAnalysis {
    /// The public model name.
    #[schema(value_type = String)]
    pub id: ModelName,
    /// The revision that was looked at.
    #[schema(value_type = u64)]
    pub revision: Revision,
    /// Where the rollout stands.
    pub status: RolloutStatus,
    /// The share that was asked for, in ten-thousandths.
    #[schema(value_type = u32)]
    pub basis_points: BasisPoints,
    /// The canary's share of the counted requests, 0 to 1; null without any.
    pub observed_share: Option<f64>,
    /// What the guards say together.
    pub verdict: AnalysisVerdict,
    /// Which guard failed, with its numbers.
    pub reason: Option<String>,
    /// The version that everyone had before.
    pub stable: ArmAnalysis,
    /// The version on trial.
    pub canary: ArmAnalysis,
}

/// What the guards say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AnalysisVerdict {
    /// Every guard passes.
    Pass,
    /// At least one guard fails.
    Fail,
    /// Too little was seen: hold.
    Inconclusive,
}

/// What one arm did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct ArmAnalysis {
    /// The version; null is the bare base.
    #[schema(value_type = Option<String>)]
    pub adapter: Option<AdapterDigest>,
    /// All its requests.
    pub requests: u64,
    /// Those that named an end user.
    pub counted: u64,
    /// Those that failed.
    pub errors: u64,
    /// Answers without text.
    pub empty: u64,
    /// Answers that repeat themselves.
    pub repetitive: u64,
    /// Requests whose computation was not finite.
    pub non_finite: u64,
    /// Votes up.
    pub thumbs_up: u64,
    /// Votes down.
    pub thumbs_down: u64,
}
