//! The models that a client can name.

use ids::AdapterDigest;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// All models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    pub object: ListObject,
    /// Public names, the base, and the aliases.
    pub data: Vec<ModelCard>,
}

/// The `object` of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListObject {
    /// A list.
    #[default]
    List,
}

/// The `object` of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModelObject {
    /// A model.
    #[default]
    Model,
}

/// One model. Never shows a path of the file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelCard {
    /// The name that requests use.
    pub id: String,
    /// Always `model`.
    pub object: ModelObject,
    /// Seconds since 1970.
    pub created: i64,
    /// Who offers it.
    pub owned_by: String,
    /// The base that it is built on, for a base itself.
    pub root: Option<String>,
    /// An adapter's or a public name's base.
    pub parent: Option<String>,
    /// The adapter version that an alias or digest names, or that a public
    /// name's stable arm serves; null is the bare base.
    #[schema(value_type = Option<String>, required = true)]
    pub adapter_digest: Option<AdapterDigest>,
    /// What messages may hold: `text`, and `image` where the model looks at images.
    pub input_modalities: Vec<InputModality>,
}

/// What a message may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum InputModality {
    /// Text.
    Text,
    /// Images.
    Image,
}
