//! Which command is possible in which state, and what comes out.
//!
//! A command that does not fit the state is an error and changes nothing, so
//! that two administrators cannot both believe that theirs was carried out.

use std::time::Duration;

use ids::{AdapterDigest, BasisPoints, UnixMillis};

use crate::state::SALT_BYTES_MAX;
use crate::{Previous, Rollout, Status, Verdict};

/// Something that an administrator, a schedule or a guard wants of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Puts a version on trial.
    SetCanary {
        /// The version.
        adapter: AdapterDigest,
        /// Its share.
        basis_points: BasisPoints,
        /// A salt that this rollout did not use for its last canary.
        new_salt: String,
    },
    /// Changes the share of the canary on trial; the salt stays.
    SetShare(BasisPoints),
    /// Holds the share where it is.
    Pause,
    /// Lets the schedule go on.
    Resume,
    /// Makes the canary stable.
    Promote,
    /// Moves everyone to stable.
    Abort {
        /// Why.
        reason: String,
    },
    /// Restores what was stable before the last promotion.
    Rollback,
}

impl Command {
    /// The command's name in routes and audit records.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::SetCanary { .. } => "set_canary",
            Self::SetShare(_) => "set_share",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Promote => "promote",
            Self::Abort { .. } => "abort",
            Self::Rollback => "rollback",
        }
    }
}

/// Why a command or a document was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    /// The command does not fit the state.
    #[error("{command} is not possible while the rollout is {}", status.as_str())]
    Impossible {
        /// The command's name.
        command: &'static str,
        /// The state.
        status: Status,
    },
    /// There was no promotion that could be undone.
    #[error("there is no earlier stable version to roll back to")]
    NothingToRollBack,
    /// The version on trial must differ from the stable one.
    #[error("{0} is already stable")]
    CanaryIsStable(AdapterDigest),
    /// A new canary needs a new salt, or the same users would always go first.
    #[error("the salt of the last canary cannot be used again")]
    SaltReused,
    /// A field is outside its limits.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field's name.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Rollout {
    /// The rollout after `command`.
    ///
    /// # Errors
    /// When the command does not fit the state; see [`TransitionError`].
    pub fn apply(&self, command: Command, now: UnixMillis) -> Result<Self, TransitionError> {
        let name = command.name();
        let impossible = || {
            Err(TransitionError::Impossible {
                command: name,
                status: self.status,
            })
        };
        let mut next = match (command, self.status) {
            (
                Command::SetCanary {
                    adapter,
                    basis_points,
                    new_salt,
                },
                Status::Idle | Status::Promoted | Status::Aborted,
            ) => self.with_canary(adapter, basis_points, new_salt)?,
            (Command::SetShare(basis_points), Status::Running | Status::Paused) => Self {
                basis_points,
                ..self.clone()
            },
            (Command::Pause, Status::Running) => Self {
                status: Status::Paused,
                ..self.clone()
            },
            (Command::Resume, Status::Paused) => Self {
                status: Status::Running,
                ..self.clone()
            },
            (Command::Promote, Status::Running | Status::Paused) => Self {
                stable: self.canary,
                previous_stable: Some(Previous {
                    adapter: self.stable,
                }),
                ..self.ended(Status::Promoted)
            },
            (Command::Abort { reason }, Status::Running | Status::Paused) => Self {
                abort_reason: Some(reason),
                ..self.ended(Status::Aborted)
            },
            (Command::Rollback, Status::Idle | Status::Promoted | Status::Aborted) => {
                self.rolled_back()?
            }
            _ => return impossible(),
        };
        next.updated_at = now;
        Ok(next)
    }

    /// What a guard's verdict or the schedule asks for now: a failure aborts,
    /// too few samples hold, and a pass takes the next step when it is due.
    /// Never promotes: good health is not yet a reason to.
    #[must_use]
    pub fn due(&self, verdict: &Verdict, now: UnixMillis) -> Option<Command> {
        if !self.in_flight() {
            return None;
        }
        match verdict {
            Verdict::Fail { reason } => Some(Command::Abort {
                reason: reason.clone(),
            }),
            Verdict::Inconclusive => None,
            Verdict::Pass => {
                let waited = now.since(self.updated_at);
                let is_time = waited >= Duration::from_millis(self.interval_ms);
                let next = self.steps.iter().find(|step| **step > self.basis_points);
                next.filter(|_| is_time && self.status == Status::Running)
                    .map(|step| Command::SetShare(*step))
            }
        }
    }

    fn with_canary(
        &self,
        adapter: AdapterDigest,
        basis_points: BasisPoints,
        salt: String,
    ) -> Result<Self, TransitionError> {
        if self.stable == Some(adapter) {
            return Err(TransitionError::CanaryIsStable(adapter));
        }
        if salt.is_empty() || salt.len() > SALT_BYTES_MAX {
            let reason = "it must have 1 to 128 bytes";
            return Err(TransitionError::Invalid {
                field: "salt",
                reason,
            });
        }
        if salt == self.salt {
            return Err(TransitionError::SaltReused);
        }
        Ok(Self {
            canary: Some(adapter),
            basis_points,
            salt,
            status: Status::Running,
            abort_reason: None,
            ..self.clone()
        })
    }

    /// The trial is over, whatever came of it.
    fn ended(&self, status: Status) -> Self {
        Self {
            canary: None,
            last_canary: self.canary,
            basis_points: BasisPoints::ZERO,
            status,
            abort_reason: None,
            ..self.clone()
        }
    }

    fn rolled_back(&self) -> Result<Self, TransitionError> {
        let previous = self
            .previous_stable
            .ok_or(TransitionError::NothingToRollBack)?;
        Ok(Self {
            stable: previous.adapter,
            previous_stable: None,
            status: Status::Idle,
            abort_reason: None,
            ..self.clone()
        })
    }
}
