//! The body of every error, and why a request body was refused.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body of every reply with a 4xx or 5xx status, and of a stream's last
/// event when it fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// For people.
    pub message: String,
    /// The kind of error, for example `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The request field that is at fault, for example `messages[2].content`.
    #[schema(required = true)]
    pub param: Option<String>,
    /// For programs, for example `unknown_parameter`.
    #[schema(required = true)]
    pub code: Option<String>,
}

/// Why a request body was refused; always a 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// For people.
    pub message: String,
    /// The field that is at fault.
    pub param: Option<String>,
    /// Which of the [`code`]s.
    pub code: &'static str,
}

/// The codes of refused request bodies.
pub mod code {
    /// The body is not JSON, or not an object.
    pub const INVALID_JSON: &str = "invalid_json";
    /// A required field is not there.
    pub const MISSING: &str = "missing_required_parameter";
    /// No such field exists.
    pub const UNKNOWN: &str = "unknown_parameter";
    /// The field exists in the API and is not honoured here.
    pub const UNSUPPORTED: &str = "unsupported_parameter";
    /// A value of the wrong JSON type.
    pub const TYPE: &str = "invalid_type";
    /// A value outside its range.
    pub const VALUE: &str = "invalid_value";
}

impl RequestError {
    /// An error about one field.
    #[must_use]
    pub fn new(code: &'static str, param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            param: Some(param.into()),
            code,
        }
    }

    /// The body that says so.
    #[must_use]
    pub fn into_body(self) -> ErrorBody {
        ErrorBody {
            error: ErrorDetail {
                message: self.message,
                kind: "invalid_request_error".to_owned(),
                param: self.param,
                code: Some(self.code.to_owned()),
            },
        }
    }
}
