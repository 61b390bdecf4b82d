//! What is kept of an answer so that votes on it can be credited.

use std::time::Duration;

use engine::tools::flatten;
use engine::{ChatRequest, EngineError, FinishReason};
use feedback::{Inference, Message, MessageImage};

use super::SharedApp;
use super::answer::{Answer, End};

/// How long an answer waits for its record. Beyond that it goes out without:
/// its token still attributes votes.
const RECORD_LIMIT: Duration = Duration::from_secs(5);

pub(super) fn reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
    }
}

/// What is kept of a message: of an image only that it was there.
fn message(message: &engine::ChatMessage) -> Message {
    let image = |image: &engine::Image| MessageImage {
        digest: image.digest(),
        bytes: image.data.len() as u64,
        media_type: image.format.media_type().to_owned(),
    };
    Message {
        images: message.images.iter().map(image).collect(),
        ..Message::new(message.role.as_str(), message.content.as_str())
    }
}

/// What is kept of a question.
pub(super) struct Asked {
    /// As a plain conversation: what the model saw, and what it can learn from.
    pub(super) messages: Vec<Message>,
    pub(super) seed: u64,
}

impl Asked {
    /// Images are hashed outside of the async threads, and not held on to.
    ///
    /// # Errors
    /// [`EngineError::Failed`] if that panics.
    pub(super) async fn of(question: &ChatRequest) -> Result<Self, EngineError> {
        Ok(Self {
            messages: messages(question).await?,
            seed: question.sampling.seed,
        })
    }
}

async fn messages(question: &ChatRequest) -> Result<Vec<Message>, EngineError> {
    let plain = flatten(&question.messages, question.tools.as_ref());
    if plain.iter().all(|message| message.images.is_empty()) {
        return Ok(plain.iter().map(message).collect());
    }
    let plain = plain.into_owned();
    let kept = tokio::task::spawn_blocking(move || plain.iter().map(message).collect());
    kept.await
        .map_err(|error| EngineError::Failed(format!("a task ended: {error}")))
}

impl Answer {
    /// The record. With several completions it keeps the first, which is the
    /// one that clients show.
    pub(super) fn inference(&self, end: End) -> Inference {
        let first = self.choices.first();
        let (finish_reason, completion_tokens) = match end {
            End::Complete(usage) => (
                first
                    .and_then(|choice| choice.reason)
                    .map_or("stop", reason),
                usage.completion_tokens,
            ),
            End::Failed | End::Unserved => ("error", 0),
            End::Cancelled => ("cancelled", 0),
        };
        let assigned = self.assigned.as_ref();
        Inference {
            id: self.id.clone(),
            created: self.created,
            model: self.model.clone(),
            rollout: assigned.map(|assigned| assigned.model.clone()),
            arm: assigned.map(|assigned| assigned.arm.as_str().to_owned()),
            unit: self.unit.clone(),
            adapter: self.adapter,
            base: self.base,
            messages: self.asked.messages.clone(),
            answer: first.map(super::answer::Choice::said).unwrap_or_default(),
            finish_reason: finish_reason.to_owned(),
            prompt_tokens: self.prompt_tokens,
            completion_tokens,
            seed: self.asked.seed,
            metadata: self.metadata.clone(),
        }
    }
}

/// Writes the record; a failure is logged and counted, and the answer goes out.
pub(super) async fn write(app: &SharedApp, inference: Inference) {
    let write = app.feedback.record_inference(&inference);
    let failure = match tokio::time::timeout(RECORD_LIMIT, write).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", RECORD_LIMIT.as_secs()),
    };
    app.metrics.records_failed.inc();
    tracing::error!(id = %inference.id, error = failure, "an answer was not recorded");
}
