//! The one table: which error of which crate has which status, type and code.
//! What is internal gets a fixed text; its detail goes to the log.

use actix_web::http::StatusCode;
use adapter_store::AdapterStoreError;
use control::ControlError;
use engine::{EngineError, Wait};
use feedback::FeedbackError;
use fine_tuning::FineTuningError;
use rollout::TransitionError;
use store::StoreError;

use super::{ApiError, HttpProblem, LoraProblem, Stale, Thing, Unavailable};
use crate::auth::Exceeded;
use crate::routing::ResidencyError;

/// What an error becomes on the wire.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    pub(super) code: Option<&'static str>,
    pub(super) param: Option<String>,
    /// None: the error's own words.
    pub(super) message: Option<String>,
}

const REQUEST: &str = "invalid_request_error";
const AUTH: &str = "authentication_error";
const LIMIT: &str = "rate_limit_error";
const CONFLICT: &str = "conflict_error";
const UNAVAILABLE: &str = "unavailable_error";
const SERVER: &str = "server_error";
const INTERNAL_TEXT: &str = "the server failed; the request id leads to the log";
const STORE_TEXT: &str = "the store is not available now";

fn row(status: StatusCode, kind: &'static str, code: &'static str) -> Row {
    Row {
        status,
        kind,
        code: Some(code),
        param: None,
        message: None,
    }
}

impl Row {
    fn param(self, param: &str) -> Self {
        Self {
            param: Some(param.to_owned()),
            ..self
        }
    }

    fn says(self, message: &str) -> Self {
        Self {
            message: Some(message.to_owned()),
            ..self
        }
    }
}

fn internal() -> Row {
    row(StatusCode::INTERNAL_SERVER_ERROR, SERVER, "internal_error").says(INTERNAL_TEXT)
}

pub(super) fn lookup(error: &ApiError) -> Row {
    use StatusCode as S;
    match error {
        ApiError::Request(error) => Row {
            param: error.param.clone(),
            ..row(S::BAD_REQUEST, REQUEST, error.code)
        },
        ApiError::MissingKey => row(S::UNAUTHORIZED, AUTH, "missing_api_key"),
        ApiError::WrongKey => row(S::UNAUTHORIZED, AUTH, "invalid_api_key"),
        ApiError::Http(problem) => http(problem),
        ApiError::NotFound { what, .. } => not_found(*what),
        ApiError::Limit(exceeded) => limit(exceeded),
        ApiError::Lora(problem, _) => lora(*problem),
        ApiError::Stale(Stale::RevisionNeeded) => {
            row(S::PRECONDITION_REQUIRED, REQUEST, "revision_needed").param("If-Match")
        }
        ApiError::Stale(Stale::Changed { .. }) => row(S::CONFLICT, CONFLICT, "conflict"),
        ApiError::Stale(Stale::InUse(..)) => row(S::CONFLICT, CONFLICT, "adapter_in_use"),
        ApiError::Unavailable(problem) => unavailable(*problem),
        ApiError::Engine(error) => engine(error),
        ApiError::Feedback(error) => feedback(error),
        ApiError::Control(error) => control(error),
        ApiError::Adapter(error) => adapter(error),
        ApiError::FineTuning(error) => fine_tuning(error),
        ApiError::Rollout(error) => transition(error),
        ApiError::Residency(error) => match error.as_ref() {
            ResidencyError::Store(error) => adapter(error),
            ResidencyError::Engine(error) => engine(error),
        },
    }
}

fn http(problem: &HttpProblem) -> Row {
    use StatusCode as S;
    match problem {
        HttpProblem::NoRoute(_) => row(S::NOT_FOUND, REQUEST, "unknown_route"),
        HttpProblem::Method { .. } => row(S::METHOD_NOT_ALLOWED, REQUEST, "method_not_allowed"),
        HttpProblem::TooLarge { .. } => row(S::PAYLOAD_TOO_LARGE, REQUEST, "body_too_large"),
        HttpProblem::MediaType | HttpProblem::FormType => {
            row(S::UNSUPPORTED_MEDIA_TYPE, REQUEST, "unsupported_media_type")
        }
        HttpProblem::Broken => row(S::BAD_REQUEST, REQUEST, "body_unreadable"),
        HttpProblem::Header(name) => row(S::BAD_REQUEST, REQUEST, "invalid_header").param(name),
    }
}

fn not_found(what: Thing) -> Row {
    let code = match what {
        Thing::Model => "model_not_found",
        Thing::Adapter => "adapter_not_found",
        Thing::Alias => "alias_not_found",
        Thing::Rollout => "rollout_not_found",
        Thing::Feedback => "feedback_not_found",
        Thing::File => "file_not_found",
        Thing::Job => "fine_tuning_job_not_found",
    };
    let row = row(StatusCode::NOT_FOUND, REQUEST, code);
    match what {
        Thing::Model => row.param("model"),
        Thing::Adapter => row.param("adapter"),
        _ => row,
    }
}

fn limit(exceeded: &Exceeded) -> Row {
    match exceeded {
        Exceeded::LargerThanBucket { tokens, bucket } => {
            row(StatusCode::BAD_REQUEST, REQUEST, "request_exceeds_limit")
                .param("max_completion_tokens")
                .says(&format!(
                    "prompt and completion cap are {tokens} tokens together, more than this key's limit of {bucket} in a minute; ask for a smaller max_completion_tokens"
                ))
        }
        Exceeded::TryLater { what, after, .. } => {
            row(StatusCode::TOO_MANY_REQUESTS, LIMIT, "rate_limit_exceeded").says(&format!(
                "this key's limit of {what} in a minute is used up; try again in {:.1} s",
                after.as_secs_f64()
            ))
        }
    }
}

fn lora(problem: LoraProblem) -> Row {
    let (status, kind) = match problem {
        LoraProblem::InvalidUserInput => (
            StatusCode::BAD_REQUEST,
            openapi::lora_text::INVALID_USER_INPUT,
        ),
        LoraProblem::NotFound => (StatusCode::NOT_FOUND, openapi::lora_text::NOT_FOUND),
    };
    Row {
        status,
        kind,
        code: None,
        param: None,
        message: None,
    }
}

fn unavailable(problem: Unavailable) -> Row {
    let code = match problem {
        Unavailable::Loading => "model_loading",
        Unavailable::Draining => "shutting_down",
        Unavailable::AdapterMissing => "adapter_not_loaded",
    };
    row(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE, code)
}

fn engine(error: &EngineError) -> Row {
    use StatusCode as S;
    match error {
        EngineError::QueueFull { .. } => row(S::TOO_MANY_REQUESTS, LIMIT, "queue_full"),
        EngineError::ImageMemory { .. } => row(S::TOO_MANY_REQUESTS, LIMIT, "image_memory_full"),
        EngineError::TenantQueueFull { .. } => {
            row(S::TOO_MANY_REQUESTS, LIMIT, "tenant_queue_full")
        }
        EngineError::ContextOverflow { .. } => {
            row(S::BAD_REQUEST, REQUEST, "context_length_exceeded").param("messages")
        }
        EngineError::InvalidRequest { param, .. } => {
            row(S::BAD_REQUEST, REQUEST, "invalid_value").param(param)
        }
        EngineError::NoImages(_) => {
            row(S::BAD_REQUEST, REQUEST, "unsupported_parameter").param("messages")
        }
        EngineError::AdapterNotLoaded(_) => {
            row(S::NOT_FOUND, REQUEST, "adapter_not_found").param("adapter")
        }
        EngineError::AdapterRejected(_) => row(S::BAD_REQUEST, REQUEST, "adapter_rejected"),
        EngineError::AdapterMemory { .. } => row(S::CONFLICT, CONFLICT, "adapter_memory_full"),
        EngineError::TimedOut { wait, .. } => {
            let code = match wait {
                Wait::Batch => "queue_timeout",
                Wait::AdapterMemory => "adapter_memory_timeout",
            };
            row(S::SERVICE_UNAVAILABLE, UNAVAILABLE, code)
        }
        EngineError::Stopped => row(S::SERVICE_UNAVAILABLE, UNAVAILABLE, "shutting_down")
            .says("the server is shutting down"),
        EngineError::Failed(_) => internal(),
    }
}

fn feedback(error: &FeedbackError) -> Row {
    use StatusCode as S;
    match error {
        FeedbackError::UnknownInference(_) => {
            row(S::NOT_FOUND, REQUEST, "inference_not_found").param("inference_id")
        }
        FeedbackError::IdConflict(_) => row(S::CONFLICT, CONFLICT, "id_conflict").param("id"),
        FeedbackError::RaterRequired => {
            row(S::BAD_REQUEST, REQUEST, "missing_required_parameter").param("rater")
        }
        FeedbackError::InvalidValue { .. } => {
            row(S::BAD_REQUEST, REQUEST, "invalid_value").param("value")
        }
        FeedbackError::InvalidTags(_) => {
            row(S::BAD_REQUEST, REQUEST, "invalid_value").param("tags")
        }
        FeedbackError::Token(_) => row(S::BAD_REQUEST, REQUEST, "invalid_token").param("token"),
        FeedbackError::InferenceTooLarge { .. }
        | FeedbackError::GroupName(_)
        | FeedbackError::Corrupt { .. } => internal(),
        FeedbackError::Store(error) => store(error),
    }
}

fn control(error: &ControlError) -> Row {
    use StatusCode as S;
    match error {
        ControlError::Conflict { .. } => row(S::CONFLICT, CONFLICT, "conflict"),
        ControlError::Name(_) | ControlError::TooLarge { .. } => {
            row(S::BAD_REQUEST, REQUEST, "invalid_value")
        }
        ControlError::Store(error) => store(error),
        _ => internal(),
    }
}

fn store(error: &StoreError) -> Row {
    match error {
        StoreError::Corrupt { .. } => internal(),
        _ => row(
            StatusCode::SERVICE_UNAVAILABLE,
            UNAVAILABLE,
            "store_unavailable",
        )
        .says(STORE_TEXT),
    }
}

fn transition(error: &TransitionError) -> Row {
    use StatusCode as S;
    match error {
        TransitionError::Impossible { .. }
        | TransitionError::NothingToRollBack
        | TransitionError::CanaryIsStable(_)
        | TransitionError::SaltReused => row(S::CONFLICT, CONFLICT, "impossible_transition"),
        TransitionError::Invalid { field, .. } => {
            row(S::BAD_REQUEST, REQUEST, "invalid_value").param(field)
        }
    }
}

fn fine_tuning(error: &FineTuningError) -> Row {
    use FineTuningError as E;
    use StatusCode as S;
    match error {
        E::NoFile(_) => not_found(Thing::File),
        E::NoJob(_) => not_found(Thing::Job),
        E::FileSize { bytes: 0, .. } | E::FileName { .. } => {
            row(S::BAD_REQUEST, REQUEST, "invalid_value").param("file")
        }
        E::FileSize { .. } => row(S::PAYLOAD_TOO_LARGE, REQUEST, "body_too_large").param("file"),
        E::FileInUse { .. } => row(S::CONFLICT, CONFLICT, "file_in_use"),
        E::TooManyFiles(_) => row(S::CONFLICT, CONFLICT, "too_many_files"),
        E::TooManyJobs(_) => row(S::TOO_MANY_REQUESTS, LIMIT, "queue_full"),
        E::Impossible { .. } => row(S::CONFLICT, CONFLICT, "impossible_transition"),
        E::Contended(_) => row(S::CONFLICT, CONFLICT, "conflict"),
        E::Control(error) => control(error),
        E::Storage(_) => {
            row(S::SERVICE_UNAVAILABLE, UNAVAILABLE, "store_unavailable").says(STORE_TEXT)
        }
        E::Corrupt { .. } | E::Io(_) => internal(),
    }
}

fn adapter(error: &AdapterStoreError) -> Row {
    use AdapterStoreError as E;
    use StatusCode as S;
    match error {
        E::NotFound(_) => row(S::NOT_FOUND, REQUEST, "adapter_not_found").param("adapter"),
        E::PathNotFound(_) => row(S::NOT_FOUND, REQUEST, "path_not_found"),
        E::PathInvalid(_) | E::Pickle(_) | E::Size { .. } => {
            row(S::BAD_REQUEST, REQUEST, "adapter_rejected")
        }
        E::BaseMismatch { .. } => row(S::BAD_REQUEST, REQUEST, "adapter_base_mismatch"),
        E::Storage(_) => {
            row(S::SERVICE_UNAVAILABLE, UNAVAILABLE, "store_unavailable").says(STORE_TEXT)
        }
        E::Damaged { .. } | E::TooMany(_) | E::Location(_) | E::Lineage(_) | E::Io(_) => internal(),
    }
}
