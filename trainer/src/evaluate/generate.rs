//! Greedy answers from the serving engine, many prompts in one batch.

use std::sync::Arc;

use engine::{
    AdapterPackage, ChatEvent, ChatMessage, ChatRequest, Engine, EngineError, FinishReason,
    SamplingParams,
};
use futures::{StreamExt, TryStreamExt};
use ids::AdapterDigest;

/// Requests that are in the engine at the same time.
pub const IN_FLIGHT_MAX: usize = 16;

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its text.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
}

/// Asks an engine.
#[derive(Clone)]
pub struct Generator {
    engine: Arc<dyn Engine>,
    max_tokens: u32,
}

impl Generator {
    /// Answers of at most `max_tokens` tokens.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, max_tokens: u32) -> Self {
        Self { engine, max_tokens }
    }

    /// Makes an adapter version resident.
    ///
    /// # Errors
    /// The engine's.
    pub async fn load(&self, package: AdapterPackage) -> Result<(), EngineError> {
        self.engine.load_adapter(package).await.map(|_| ())
    }

    /// The greedy answer to each conversation, in order. `progress` hears how
    /// many are done.
    ///
    /// # Errors
    /// The first one of the engine.
    pub async fn answers(
        &self,
        adapter: Option<AdapterDigest>,
        prompts: &[Vec<ChatMessage>],
        mut progress: impl FnMut(usize),
    ) -> Result<Vec<Answer>, EngineError> {
        let mut done = 0;
        futures::stream::iter(prompts)
            .map(|messages| self.answer(adapter, messages.clone()))
            .buffered(IN_FLIGHT_MAX)
            .inspect(|_| {
                done += 1;
                progress(done);
            })
            .try_collect()
            .await
    }

    async fn answer(
        &self,
        adapter: Option<AdapterDigest>,
        messages: Vec<ChatMessage>,
    ) -> Result<Answer, EngineError> {
        let mut stream = self
            .engine
            .chat(ChatRequest {
                messages,
                adapter,
                sampling: SamplingParams::greedy(),
                max_tokens: Some(self.max_tokens),
                stop: Vec::new(),
                n: 1,
                top_logprobs: None,
                ignore_eos: false,
            })
            .await?;
        let mut answer = Answer { text: String::new(), finish: FinishReason::Stop };
        while let Some(event) = stream.events.recv().await {
            match event? {
                ChatEvent::Delta { text, .. } => answer.text.push_str(&text),
                ChatEvent::Finished { reason, .. } => answer.finish = reason,
                ChatEvent::Done { .. } => return Ok(answer),
            }
        }
        Err(EngineError::Stopped)
    }
}
