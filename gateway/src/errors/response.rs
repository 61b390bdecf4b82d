//! An error as a reply: its body, and the headers that clients' retries obey.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use control::ControlError;
use engine::EngineError;
use feedback::FeedbackError;
use openapi::{ErrorBody, ErrorDetail};

use super::table::lookup;
use super::{ApiError, Stale};
use crate::auth::{Charge, Exceeded};
use crate::headers;

/// What a client waits before it tries a full queue again.
const QUEUE_RETRY: Duration = Duration::from_secs(1);

impl ApiError {
    /// The body that says what is wrong; never anything internal.
    pub(crate) fn body(&self) -> ErrorBody {
        let row = lookup(self);
        ErrorBody {
            error: ErrorDetail {
                message: row.message.unwrap_or_else(|| self.to_string()),
                kind: row.kind.to_owned(),
                param: row.param,
                code: row.code.map(str::to_owned),
            },
        }
    }

    /// Whether the reply hides what happened, so that the log must tell it.
    pub(crate) fn is_internal(&self) -> bool {
        lookup(self).message.is_some() && lookup(self).status.is_server_error()
    }

    /// Trying the same again cannot help.
    fn is_final_conflict(&self) -> bool {
        matches!(
            self,
            Self::Stale(Stale::Changed { .. } | Stale::InUse(..))
                | Self::Control(ControlError::Conflict { .. })
                | Self::Feedback(FeedbackError::IdConflict(_))
                | Self::Rollout(_)
                | Self::FineTuning(
                    fine_tuning::FineTuningError::FileInUse { .. }
                        | fine_tuning::FineTuningError::TooManyFiles(_)
                        | fine_tuning::FineTuningError::Impossible { .. }
                )
        ) || matches!(self.engine_error(), Some(EngineError::AdapterMemory { .. }))
    }

    fn retry_after(&self) -> Option<(Duration, Option<&Charge>)> {
        if let Self::Limit(Exceeded::TryLater { after, levels, .. }) = self {
            return Some((*after, Some(levels)));
        }
        match self.engine_error() {
            Some(
                EngineError::QueueFull { .. }
                | EngineError::TenantQueueFull { .. }
                | EngineError::ImageMemory { .. }
                | EngineError::TimedOut { .. },
            ) => Some((QUEUE_RETRY, None)),
            _ => None,
        }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        lookup(self).status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponseBuilder::new(self.status_code());
        if let Some((after, levels)) = self.retry_after() {
            let seconds = after.as_millis().div_ceil(1000).max(1);
            response.insert_header((RETRY_AFTER, seconds.to_string()));
            if let Some(levels) = levels {
                headers::put_limits(&mut response, levels);
            }
        }
        if self.status_code() == StatusCode::CONFLICT && self.is_final_conflict() {
            response.insert_header((headers::SHOULD_RETRY, "false"));
        }
        response.json(self.body())
    }
}
