//! Wire types and the OpenAPI document.
//!
//! What goes over the wire, how it is checked, and which routes there are.
//! Does no IO and knows neither the server nor the engine nor any store.

mod adapters;
mod aliases;
mod audit;
mod body;
mod chat;
mod document;
mod error;
mod feedback;
mod fields;
mod fine_tuning;
mod kill;
mod models;
mod nullable;
mod rollouts;

pub use adapters::{
    AdapterBase, AdapterCard, AdapterList, AdapterLoad, AdapterSource, LoadLoraAdapter,
    UnloadLoraAdapter, lora_text,
};
pub use aliases::{AliasCard, AliasList, AliasPut};
pub use audit::{AuditList, AuditRow};
pub use body::parse_body;
pub use chat::*;
pub use document::{Access, Method, Route, document, document_json, routes};
pub use error::{ErrorBody, ErrorDetail, RequestError, code};
pub use feedback::{
    FeedbackExportRow, FeedbackOutcome, FeedbackRequest, FeedbackResponse, FeedbackRetracted,
    FeedbackValue, MetricName, feedback_limits,
};
pub use fine_tuning::*;
pub use kill::{KillRequest, KillState};
pub use models::{InputModality, ListObject, ModelCard, ModelList, ModelObject};
pub use rollouts::{
    AnalysisVerdict, ArmAnalysis, ArmName, Guardrail, PreviousStable, RolloutAbort,
    RolloutAnalysis, RolloutList, RolloutPut, RolloutResource, RolloutStatus,
};
