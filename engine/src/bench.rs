//! Speed of an engine as one caller sees it: prompt and completion tokens a
//! second. Clocks are read here and nowhere else in the measurement.

use std::time::{Duration, Instant};

use crate::api::{ChatEvent, ChatMessage, ChatRequest, Engine, EngineError, Role, SamplingParams};

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// From the request to its first token.
    pub first_token: Duration,
    /// Tokens after the first.
    pub decoded_tokens: u32,
    /// From the first token to the last.
    pub decoding: Duration,
}

impl Measured {
    /// Prompt tokens a second.
    #[must_use]
    pub fn prefill_rate(&self) -> f64 {
        f64::from(self.prompt_tokens) / self.first_token.as_secs_f64()
    }

    /// Completion tokens a second.
    #[must_use]
    pub fn decode_rate(&self) -> f64 {
        f64::from(self.decoded_tokens) / self.decoding.as_secs_f64()
    }
}

/// A conversation of about `tokens` tokens, at least as many.
///
/// # Errors
/// As [`Engine::count_prompt_tokens`].
pub async fn conversation(
    engine: &dyn Engine,
    tokens: u32,
) -> Result<Vec<ChatMessage>, EngineError> {
    let message = |words: u32| {
        let content = "one two three four five six seven eight ".repeat(words as usize / 8 + 1);
        vec![ChatMessage {
            role: Role::User,
            content,
        }]
    };
    let mut words = 8;
    while engine.count_prompt_tokens(&message(words)).await? < tokens {
        words += 8;
    }
    Ok(message(words))
}

/// Runs one request alone, greedily and past the end of its text.
///
/// # Errors
/// As [`Engine::chat`].
pub async fn measure(
    engine: &dyn Engine,
    messages: Vec<ChatMessage>,
    completion_tokens: u32,
) -> Result<Measured, EngineError> {
    let start = Instant::now();
    let request = ChatRequest {
        messages,
        adapter: None,
        sampling: SamplingParams::greedy(),
        max_tokens: Some(completion_tokens),
        stop: Vec::new(),
        n: 1,
        top_logprobs: None,
        ignore_eos: true,
        constraint: None,
    };
    let mut stream = engine.chat(request).await?;
    let mut first_token = None;
    while let Some(event) = stream.events.recv().await {
        match event? {
            ChatEvent::Done { usage } => {
                let first_token = first_token.unwrap_or(usage.time_to_first_token);
                return Ok(Measured {
                    prompt_tokens: usage.prompt_tokens,
                    first_token,
                    decoded_tokens: usage.completion_tokens.saturating_sub(1),
                    decoding: start.elapsed().saturating_sub(first_token),
                });
            }
            ChatEvent::Delta { .. } => {
                first_token.get_or_insert_with(|| start.elapsed());
            }
            ChatEvent::Finished { .. } => {}
        }
    }
    Err(EngineError::Stopped)
}
