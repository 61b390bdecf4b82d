//! Pure rollout logic: who gets the canary, which state follows which, and
//! when a guard stops it.
//!
//! Does no IO and has neither a clock nor a source of randomness: times, salts
//! and random draws are passed in. Knows nothing of HTTP, stores or models.

mod assign;
mod degenerate;
mod guard;
mod state;
mod transition;

pub use assign::{Arm, Assignment, BUCKETS, bucket};
pub use degenerate::is_degenerate;
pub use guard::{GuardCounters, Guardrail, Verdict, verdict};
pub use state::{GUARDRAILS_MAX, Previous, Rollout, SALT_BYTES_MAX, STEPS_MAX, Status};
pub use transition::{Command, TransitionError};
