//! Who changed what, and when.

use ids::{Revision, UnixMillis};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// A page of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditList {
    /// The changes, oldest first.
    pub data: Vec<AuditRow>,
    /// Where the next page starts: give it back as `after`.
    pub next: Option<u64>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditRow {
    /// Its place in the log.
    pub sequence: u64,
    /// Milliseconds since 1970.
    #[schema(value_type = i64)]
    pub at: UnixMillis,
    /// Who did it.
    pub actor: String,
    /// What was done, for example `promote`.
    pub action: String,
    /// To what, for example `rollout/support`.
    pub subject: String,
    /// The revision that came of it.
    #[schema(value_type = Option<u64>)]
    pub revision: Option<Revision>,
    /// More about it.
    #[schema(value_type = Object)]
    pub detail: Value,
}
