//! Charges a request to its key before the engine sees it.

use engine::{ChatRequest, EngineError};

use crate::app::Serving;
use crate::auth::{Caller, Charge};
use crate::errors::ApiError;

/// Charges the prompt and everything that the completions may cost.
pub(super) async fn admit(
    serving: &Serving,
    caller: Option<&Caller>,
    question: &ChatRequest,
) -> Result<Charge, ApiError> {
    let prompt_tokens = serving
        .engine
        .count_prompt_tokens(&question.messages, question.tools.as_ref())
        .await?;
    let context_length = serving.engine.base().context_length;
    let room = context_length.saturating_sub(prompt_tokens);
    let cap = question.max_tokens.unwrap_or(room);
    if room == 0 || cap > room {
        // Refused before it is charged, as the engine would.
        return Err(EngineError::ContextOverflow {
            prompt_tokens,
            max_tokens: question.max_tokens.unwrap_or(1),
            context_length,
        }
        .into());
    }
    let Some(caller) = caller else {
        return Ok(Charge::default());
    };
    let cost = prompt_tokens.saturating_add(cap.saturating_mul(question.n));
    caller.budget.charge(cost).map_err(|exceeded| {
        tracing::info!(caller = caller.name, cost, "over the limit");
        ApiError::Limit(exceeded)
    })
}
