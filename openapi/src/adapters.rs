//! Loading, unloading and listing adapters.

use ids::{AdapterDigest, AliasName, BaseDigest, DatasetDigest, UnixMillis};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// `POST /v1/load_lora_adapter`, as vLLM has it. Both names are needed; they
/// are optional here so that their absence gets vLLM's message.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoadLoraAdapter {
    /// The alias.
    #[serde(default)]
    pub lora_name: Option<String>,
    /// A folder beneath the configured root.
    #[serde(default)]
    pub lora_path: Option<String>,
    /// Whether an alias that exists may move to these files.
    #[serde(default)]
    pub load_inplace: bool,
    /// Where given, the alias must name this version now, or nothing is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub expected_digest: Option<AdapterDigest>,
}

/// `POST /v1/unload_lora_adapter`, as vLLM has it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UnloadLoraAdapter {
    /// The alias.
    #[serde(default)]
    pub lora_name: Option<String>,
}

/// The texts that vLLM's clients look for.
pub mod lora_text {
    /// 400 when a load lacks its name or path.
    pub const BOTH_NEEDED: &str = "Both 'lora_name' and 'lora_path' must be provided.";
    /// 400 when an unload lacks its name.
    pub const NAME_NEEDED: &str = "'lora_name' needs to be provided to unload a LoRA adapter.";
    /// The error type of a 400.
    pub const INVALID_USER_INPUT: &str = "InvalidUserInput";
    /// The error type of a 404.
    pub const NOT_FOUND: &str = "NotFoundError";

    /// 200 after a load.
    #[must_use]
    pub fn added(name: &str) -> String {
        format!("Success: LoRA adapter '{name}' added successfully.")
    }

    /// 200 after an unload.
    #[must_use]
    pub fn removed(name: &str) -> String {
        format!("Success: LoRA adapter '{name}' removed successfully.")
    }

    /// 400 when the alias exists.
    #[must_use]
    pub fn already_loaded(name: &str) -> String {
        format!(
            "The lora adapter '{name}' has already been loaded. If you want to load the adapter \
             in place, set 'load_inplace' to True."
        )
    }

    /// 404 when the alias does not exist.
    #[must_use]
    pub fn not_found(name: &str) -> String {
        format!("The lora adapter '{name}' cannot be found.")
    }
}

/// `POST /admin/v1/adapters/load`: makes a stored version resident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdapterLoad {
    /// The version.
    #[schema(value_type = String)]
    pub digest: AdapterDigest,
    /// An alias to point at it as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub alias: Option<AliasName>,
}

/// All adapter versions, stored or resident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AdapterList {
    /// The versions.
    pub data: Vec<AdapterCard>,
}

/// One adapter version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AdapterCard {
    /// The version.
    #[schema(value_type = String)]
    pub digest: AdapterDigest,
    /// The aliases that name it now.
    #[schema(value_type = Vec<String>)]
    pub aliases: Vec<AliasName>,
    /// Whether the engine holds it.
    pub resident: bool,
    /// Whether new requests may use it; false also while its last request ends.
    pub accepts_requests: bool,
    /// Requests that use it now.
    pub leases: u32,
    /// Its largest rank, where resident.
    pub rank: Option<u32>,
    /// Memory that it holds, where resident.
    pub resident_bytes: Option<u64>,
    /// Size of its files, where stored.
    pub stored_bytes: Option<u64>,
    /// Whether it is known to belong to the served base.
    pub base: AdapterBase,
    /// The base that it was made for, where that is recorded.
    #[schema(value_type = Option<String>)]
    pub base_digest: Option<BaseDigest>,
    /// Where it came from.
    pub source: Option<AdapterSource>,
    /// The version that training started from.
    #[schema(value_type = Option<String>)]
    pub parent: Option<AdapterDigest>,
    /// What it was trained on.
    #[schema(value_type = Option<String>)]
    pub dataset: Option<DatasetDigest>,
    /// Milliseconds since 1970, where stored.
    #[schema(value_type = Option<i64>)]
    pub created: Option<UnixMillis>,
    /// What the evaluation before publication measured.
    #[schema(value_type = Option<Object>)]
    pub evaluation: Option<Value>,
}

/// Whether an adapter is known to belong to the served base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AdapterBase {
    /// Its lineage names the served base.
    Verified,
    /// Its lineage names none; modules and shapes fit.
    Unverified,
    /// Its lineage names another base; it cannot be loaded.
    Mismatch,
}

/// Where an adapter came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AdapterSource {
    /// This system trained it.
    Trained,
    /// It was brought in.
    Imported,
}
