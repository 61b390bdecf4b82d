//! The kill switch: everyone to stable, at once, whatever the store says.

use ids::{ModelName, UnixMillis};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /admin/v1/kill`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KillRequest {
    /// Whether the switch is thrown; true by default.
    #[serde(default = "thrown")]
    pub active: bool,
    /// Why; goes to the audit log and to the aborted rollouts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 512)]
    pub reason: Option<String>,
}

fn thrown() -> bool {
    true
}

/// How the kill switch stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KillState {
    /// While true, every public name answers with its stable arm.
    pub active: bool,
    /// Why.
    pub reason: Option<String>,
    /// When it was last thrown or released, in milliseconds since 1970.
    #[schema(value_type = Option<i64>)]
    pub since: Option<UnixMillis>,
    /// The rollouts whose canary was aborted by this request.
    #[schema(value_type = Vec<String>)]
    pub aborted: Vec<ModelName>,
}
