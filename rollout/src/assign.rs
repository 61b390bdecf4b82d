//! Sticky assignment: a unit's bucket is a hash of the rollout's salt and the
//! unit, and the canary gets the buckets below its share.
//!
//! Invariant: while the salt stays, raising the share only ever moves units
//! from stable to canary, because no unit's bucket changes.

use ids::{AdapterDigest, UnitId};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Rollout, Status};

/// How many buckets there are: one for each basis point.
pub const BUCKETS: u16 = 10_000;

/// Which of a rollout's two versions answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arm {
    /// The version that everyone had before.
    Stable,
    /// The version on trial.
    Canary,
}

impl Arm {
    /// `stable` or `canary`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Canary => "canary",
        }
    }
}

/// Where one request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment {
    /// The arm.
    pub arm: Arm,
    /// The arm's adapter version; `None` is the bare base.
    pub adapter: Option<AdapterDigest>,
    /// Whether the request belongs in the rollout's statistics: a canary is on
    /// trial, and the request names a unit.
    pub counted: bool,
}

/// The bucket of a unit, 0 to 9999: the first 8 bytes, big-endian, of
/// `SHA-256(salt ‖ 0 ‖ unit)`, modulo 10000.
#[must_use]
pub fn bucket(salt: &str, unit: &str) -> u16 {
    let mut hasher = Sha256::new();
    hasher.update(salt.as_bytes());
    hasher.update([0]);
    hasher.update(unit.as_bytes());
    let digest: [u8; 32] = hasher.finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]) % u64::from(BUCKETS);
    // Always fits: it is below 10000.
    u16::try_from(number).unwrap_or(0)
}

impl Rollout {
    /// Which arm answers a request of `unit`. A request that names no unit is
    /// assigned by `random_draw` (0 to 9999) and not counted.
    #[must_use]
    pub fn assign(&self, unit: Option<&UnitId>, random_draw: u16) -> Assignment {
        let on_trial = matches!(self.status, Status::Running | Status::Paused);
        let Some(canary) = self.canary.filter(|_| on_trial) else {
            return Assignment {
                arm: Arm::Stable,
                adapter: self.stable,
                counted: false,
            };
        };
        let place = unit.map_or(random_draw % BUCKETS, |unit| {
            bucket(&self.salt, unit.as_str())
        });
        let counted = unit.is_some();
        if place < self.basis_points.get() {
            Assignment {
                arm: Arm::Canary,
                adapter: Some(canary),
                counted,
            }
        } else {
            Assignment {
                arm: Arm::Stable,
                adapter: self.stable,
                counted,
            }
        }
    }
}
