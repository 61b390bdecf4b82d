//! What is kept of an answer so that votes on it can be credited.

use std::time::Duration;

use engine::FinishReason;
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
            messages: self.messages.iter().map(message).collect(),
            answer: first.map(super::answer::Choice::said).unwrap_or_default(),
            finish_reason: finish_reason.to_owned(),
            prompt_tokens: self.prompt_tokens,
            completion_tokens,
            seed: self.seed,
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
