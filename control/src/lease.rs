//! A lease: the right of one process to do something alone, until it expires
//! by the clock that is passed in.

use ids::UnixMillis;

use crate::ControlError;

/// The longest name of a lease and of a holder.
pub const LEASE_NAME_BYTES_MAX: usize = 128;

/// A lease that was acquired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What it guards.
    pub name: String,
    /// Who has it.
    pub holder: String,
    /// Greater than that of every earlier acquisition of the same name.
    pub fence: u64,
    /// When it ends, unless it is renewed.
    pub expires_at: UnixMillis,
}

pub(crate) fn check(name: &str, holder: &str) -> Result<(), ControlError> {
    for text in [name, holder] {
        if text.is_empty() || text.len() > LEASE_NAME_BYTES_MAX {
            return Err(ControlError::LeaseName(
                text.chars().take(LEASE_NAME_BYTES_MAX).collect(),
            ));
        }
    }
    Ok(())
}
