//! The names of our own headers, and the groups of them that several replies
//! share.

use std::time::Duration;

use actix_web::HttpResponseBuilder;

use crate::auth::Charge;

/// On every reply.
pub(crate) const REQUEST_ID: &str = "x-request-id";
/// On every answer: the adapter version, or `none` for the bare base.
pub(crate) const ADAPTER_DIGEST: &str = "x-adapter-digest";
/// On every answer: attributes a vote even when the record is gone.
pub(crate) const FEEDBACK_TOKEN: &str = "x-feedback-token";
/// Where the administrator wants it: the public model name and its arm.
pub(crate) const ROLLOUT: &str = "x-rollout";
/// See [`ROLLOUT`].
pub(crate) const ARM: &str = "x-arm";
/// Names the unit of assignment.
pub(crate) const SESSION_ID: &str = "x-session-id";
/// What OpenAI's clients obey before anything else.
pub(crate) const SHOULD_RETRY: &str = "x-should-retry";

/// A duration as OpenAI writes it: `1.234s`.
fn seconds(duration: Duration) -> String {
    format!("{:.3}s", duration.as_secs_f64())
}

/// Says how full the caller's buckets are.
pub(crate) fn put_limits(response: &mut HttpResponseBuilder, charge: &Charge) {
    let levels = [("requests", &charge.requests), ("tokens", &charge.tokens)];
    for (what, level) in levels {
        let Some(level) = level else { continue };
        response.insert_header((format!("x-ratelimit-limit-{what}"), level.limit.to_string()));
        response.insert_header((
            format!("x-ratelimit-remaining-{what}"),
            level.remaining.to_string(),
        ));
        response.insert_header((format!("x-ratelimit-reset-{what}"), seconds(level.reset)));
    }
}
