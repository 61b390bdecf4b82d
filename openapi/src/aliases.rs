//! Moving names for adapter versions.

use ids::{AdapterDigest, AliasName, Revision};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// All aliases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AliasList {
    /// The aliases.
    pub data: Vec<AliasCard>,
}

/// One alias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AliasCard {
    /// The name.
    #[schema(value_type = String)]
    pub name: AliasName,
    /// The version that it names now.
    #[schema(value_type = String)]
    pub digest: AdapterDigest,
    /// Counts its changes; also the `ETag`.
    #[schema(value_type = u64)]
    pub revision: Revision,
}

/// `PUT /admin/v1/aliases/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AliasPut {
    /// The version to name.
    #[schema(value_type = String)]
    pub digest: AdapterDigest,
    /// Where given, the alias must name this version now (null: it must not
    /// exist), or it is a 409. The outer level is whether the field is there.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::nullable"
    )]
    #[schema(value_type = Option<String>)]
    pub expected_digest: Option<Option<AdapterDigest>>,
}
