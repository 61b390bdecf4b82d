//! Every error that a client can get. Handlers return [`ApiError`]; the one
//! table in `table.rs` says what each becomes on the wire.

mod response;
mod table;

use std::sync::Arc;

use adapter_store::AdapterStoreError;
use control::ControlError;
use engine::EngineError;
use feedback::FeedbackError;
use fine_tuning::FineTuningError;
use openapi::RequestError;
use rollout::TransitionError;

use crate::auth::Exceeded;
use crate::routing::ResidencyError;

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The body or a parameter is wrong.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// There is no `Authorization: Bearer` header.
    #[error("no API key was given: send it as Authorization: Bearer KEY")]
    MissingKey,
    /// The key is not one that may do this.
    #[error("the API key is not valid for this route")]
    WrongKey,
    /// Something that HTTP itself decides.
    #[error(transparent)]
    Http(#[from] HttpProblem),
    /// There is no such thing.
    #[error("the {what} {name:?} does not exist")]
    NotFound { what: Thing, name: String },
    /// The caller's limits do not allow it.
    #[error("the caller's limit")]
    Limit(Exceeded),
    /// An answer in the words that vLLM's clients look for.
    #[error("{1}")]
    Lora(LoraProblem, String),
    /// The change is based on a state that is not the present one.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// Not now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Feedback(#[from] FeedbackError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Adapter(#[from] AdapterStoreError),
    #[error(transparent)]
    FineTuning(#[from] FineTuningError),
    #[error(transparent)]
    Rollout(#[from] TransitionError),
    /// A stored version could not be made resident; told to all who waited.
    #[error(transparent)]
    Residency(#[from] Arc<ResidencyError>),
}

/// What can be asked for and not be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thing {
    Model,
    Adapter,
    Alias,
    Rollout,
    Feedback,
    File,
    Job,
}

impl std::fmt::Display for Thing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Model => "model",
            Self::Adapter => "adapter",
            Self::Alias => "alias",
            Self::Rollout => "rollout",
            Self::Feedback => "feedback",
            Self::File => "file",
            Self::Job => "fine-tuning job",
        })
    }
}

/// Something that HTTP itself decides.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HttpProblem {
    #[error("there is no route {0}")]
    NoRoute(String),
    #[error("{method} is not allowed on {path}")]
    Method { method: String, path: String },
    #[error("the body is longer than {bytes_max} bytes")]
    TooLarge { bytes_max: usize },
    #[error("the body must be sent with content-type: application/json")]
    MediaType,
    #[error("the body must be sent with content-type: multipart/form-data; boundary=…")]
    FormType,
    #[error("the body could not be read")]
    Broken,
    #[error("the header {0} cannot be read")]
    Header(&'static str),
}

/// Which of vLLM's errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoraProblem {
    InvalidUserInput,
    NotFound,
}

/// The change is based on a state that is not the present one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stale {
    #[error("If-Match with the revision, or If-None-Match: * to create, is needed")]
    RevisionNeeded,
    #[error("the {what} {name:?} is now {found}, not {expected}")]
    Changed {
        what: Thing,
        name: String,
        expected: String,
        found: String,
    },
    #[error("the adapter {0} is in use by {1}")]
    InUse(ids::AdapterDigest, String),
}

/// Not now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unavailable {
    #[error("Loading model")]
    Loading,
    #[error("the server is shutting down")]
    Draining,
    #[error("the adapter version that this model serves is not loaded")]
    AdapterMissing,
}

impl ApiError {
    pub(crate) fn not_found(what: Thing, name: impl Into<String>) -> Self {
        let name = name.into().chars().take(200).collect();
        Self::NotFound { what, name }
    }

    /// What the engine said, if it was the engine.
    fn engine_error(&self) -> Option<&EngineError> {
        match self {
            Self::Engine(error) => Some(error),
            Self::Residency(error) => match error.as_ref() {
                ResidencyError::Engine(error) => Some(error),
                ResidencyError::Store(_) => None,
            },
            _ => None,
        }
    }

    /// A 400 about one field.
    pub(crate) fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::Request(RequestError::new(openapi::code::VALUE, param, message))
    }
}
