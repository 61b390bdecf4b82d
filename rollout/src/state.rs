//! What a rollout is: the document that all replicas share.

use ids::{AdapterDigest, BaseDigest, BasisPoints, ModelName, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::{Guardrail, TransitionError};

/// The most steps of a schedule.
pub const STEPS_MAX: usize = 32;
/// The most guardrails of a rollout.
pub const GUARDRAILS_MAX: usize = 16;
/// The longest salt.
pub const SALT_BYTES_MAX: usize = 128;

/// Where a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
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

impl Status {
    /// The status in lower case, as documents have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Promoted => "promoted",
            Self::Aborted => "aborted",
        }
    }
}

/// What was stable before the last promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// The version; `None` is the bare base.
    pub adapter: Option<AdapterDigest>,
}

/// A public model name's way from one adapter version to the next.
///
/// Invariant: `canary` is there exactly while the status is running or paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The public model name.
    pub id: ModelName,
    /// The base model that every version belongs to.
    pub base: BaseDigest,
    /// What everyone gets who is not on the canary; `None` is the bare base.
    pub stable: Option<AdapterDigest>,
    /// What a rollback would restore; there after a promotion.
    #[serde(default)]
    pub previous_stable: Option<Previous>,
    /// The version on trial.
    #[serde(default)]
    pub canary: Option<AdapterDigest>,
    /// The canary of the last trial that ended, promoted or aborted.
    #[serde(default)]
    pub last_canary: Option<AdapterDigest>,
    /// The canary's share.
    #[serde(default)]
    pub basis_points: BasisPoints,
    /// Salt of the assignment; a new one for each canary.
    #[serde(default)]
    pub salt: String,
    /// Where the rollout stands.
    pub status: Status,
    /// The shares that a schedule goes through, rising.
    #[serde(default)]
    pub steps: Vec<BasisPoints>,
    /// The least time between two steps.
    #[serde(default)]
    pub interval_ms: u64,
    /// What stops the canary.
    #[serde(default)]
    pub guardrails: Vec<Guardrail>,
    /// Why the last canary was aborted.
    #[serde(default)]
    pub abort_reason: Option<String>,
    /// When the last transition was.
    pub updated_at: UnixMillis,
}

impl Rollout {
    /// A public name that serves `stable`, with no canary, no schedule and no
    /// guardrails.
    #[must_use]
    pub fn new(
        id: ModelName,
        base: BaseDigest,
        stable: Option<AdapterDigest>,
        now: UnixMillis,
    ) -> Self {
        Self {
            id,
            base,
            stable,
            previous_stable: None,
            canary: None,
            last_canary: None,
            basis_points: BasisPoints::ZERO,
            salt: String::new(),
            status: Status::Idle,
            steps: Vec::new(),
            interval_ms: 0,
            guardrails: Vec::new(),
            abort_reason: None,
            updated_at: now,
        }
    }

    /// Whether a canary is on trial.
    #[must_use]
    pub fn in_flight(&self) -> bool {
        matches!(self.status, Status::Running | Status::Paused)
    }

    /// The adapter versions that requests may need now, for whoever keeps them
    /// resident.
    pub fn adapters(&self) -> impl Iterator<Item = AdapterDigest> {
        self.stable
            .into_iter()
            .chain(self.canary.filter(|_| self.in_flight()))
    }

    /// Checks a document that came from outside: its limits, the rising steps,
    /// and that the canary is there exactly while one is on trial.
    ///
    /// # Errors
    /// What is wrong, as [`TransitionError::Invalid`].
    pub fn check(&self) -> Result<(), TransitionError> {
        let wrong = |field, reason| Err(TransitionError::Invalid { field, reason });
        if self.steps.len() > STEPS_MAX {
            return wrong("steps", "there are more than 32");
        }
        if self.steps.windows(2).any(|pair| pair[0] >= pair[1]) {
            return wrong("steps", "they must rise");
        }
        if self.guardrails.len() > GUARDRAILS_MAX {
            return wrong("guardrails", "there are more than 16");
        }
        if self.salt.len() > SALT_BYTES_MAX {
            return wrong("salt", "it is longer than 128 bytes");
        }
        if self.in_flight() != self.canary.is_some() {
            return wrong("canary", "it must be there exactly while running or paused");
        }
        if self.in_flight() && self.salt.is_empty() {
            return wrong("salt", "a canary needs one");
        }
        if self.canary.is_some() && self.canary == self.stable {
            return wrong("canary", "it is the stable version");
        }
        if !self.in_flight() && self.basis_points != BasisPoints::ZERO {
            return wrong("basis_points", "only a canary can have a share");
        }
        Ok(())
    }
}
