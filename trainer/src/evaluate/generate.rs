//! Greedy answers from the serving engine, many prompts in one batch.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::{
    AdapterPackage, ChatEvent, ChatMessage, ChatRequest, Engine, EngineError, FinishReason,
    SamplingParams,
};
use futures::{StreamExt, TryStreamExt};
use ids::{AdapterDigest, Sha256Digest};
use serde::{Deserialize, Serialize};

/// Requests that are in the engine at the same time.
pub const IN_FLIGHT_MAX: usize = 16;

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    cache: Option<PathBuf>,
}

impl Generator {
    /// Answers of at most `max_tokens` tokens. Greedy answers never change, so
    /// they are kept in the folder `cache` where one is given.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, max_tokens: u32, cache: Option<PathBuf>) -> Self {
        Self {
            engine,
            max_tokens,
            cache,
        }
    }

    /// Makes an adapter version resident.
    ///
    /// # Errors
    /// The engine's.
    pub async fn load(&self, package: AdapterPackage) -> Result<(), EngineError> {
        self.engine.load_adapter(package).await.map(|_| ())
    }

    /// The greedy answer to each conversation, in order.
    ///
    /// # Errors
    /// The first one of the engine.
    pub async fn answers(
        &self,
        adapter: Option<AdapterDigest>,
        prompts: &[Vec<ChatMessage>],
    ) -> Result<Vec<Answer>, EngineError> {
        let place = self
            .cache
            .as_ref()
            .map(|folder| folder.join(self.key(adapter, prompts)));
        if let Some(answers) = place
            .as_deref()
            .and_then(|path| cached(path, prompts.len()))
        {
            return Ok(answers);
        }
        let answers: Vec<Answer> = futures::stream::iter(prompts)
            .map(|messages| self.fresh_answer(adapter, messages.clone()))
            .buffered(IN_FLIGHT_MAX)
            .try_collect()
            .await?;
        if let Some(path) = place {
            keep(&path, &answers);
        }
        Ok(answers)
    }

    /// Names the answers of one version to these prompts.
    fn key(&self, adapter: Option<AdapterDigest>, prompts: &[Vec<ChatMessage>]) -> String {
        let prompts = serde_json::to_vec(prompts).unwrap_or_default();
        let adapter = adapter.map_or(String::new(), |digest| digest.to_string());
        let digest = Sha256Digest::of_parts(&[
            ("build", env!("CARGO_PKG_VERSION").as_bytes()),
            ("base", self.engine.base().digest.0.as_bytes()),
            ("adapter", adapter.as_bytes()),
            ("max_tokens", &self.max_tokens.to_le_bytes()),
            ("prompts", &prompts),
        ]);
        format!("answers-{}.json", digest.hex())
    }

    /// Several sampled answers to one conversation, with the seeds 0 and up.
    ///
    /// # Errors
    /// The first one of the engine.
    pub async fn samples(
        &self,
        adapter: Option<AdapterDigest>,
        messages: &[ChatMessage],
        count: u32,
        temperature: f32,
    ) -> Result<Vec<Answer>, EngineError> {
        futures::stream::iter(0..u64::from(count))
            .map(|seed| {
                let sampling = SamplingParams {
                    temperature,
                    seed,
                    ..SamplingParams::default()
                };
                self.answer(adapter, messages.to_vec(), sampling)
            })
            .buffered(IN_FLIGHT_MAX)
            .try_collect()
            .await
    }

    /// The greedy answer to one conversation, made now.
    ///
    /// # Errors
    /// The engine's.
    pub async fn fresh_answer(
        &self,
        adapter: Option<AdapterDigest>,
        messages: Vec<ChatMessage>,
    ) -> Result<Answer, EngineError> {
        self.answer(adapter, messages, SamplingParams::greedy())
            .await
    }

    async fn answer(
        &self,
        adapter: Option<AdapterDigest>,
        messages: Vec<ChatMessage>,
        sampling: SamplingParams,
    ) -> Result<Answer, EngineError> {
        let mut stream = self
            .engine
            .chat(ChatRequest {
                adapter,
                sampling,
                ..ChatRequest::greedy(messages, self.max_tokens)
            })
            .await?;
        let mut answer = Answer {
            text: String::new(),
            finish: FinishReason::Stop,
        };
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

/// Answers that were kept, if there are as many as asked for.
fn cached(path: &Path, prompts: usize) -> Option<Vec<Answer>> {
    let bytes = std::fs::read(path).ok()?;
    let answers: Vec<Answer> = serde_json::from_slice(&bytes).ok()?;
    (answers.len() == prompts).then_some(answers)
}

/// Keeps answers; without them the next evaluation only takes longer.
fn keep(path: &Path, answers: &[Answer]) {
    let Ok(bytes) = serde_json::to_vec(answers) else {
        return;
    };
    if let Some(folder) = path.parent()
        && let Err(error) = std::fs::create_dir_all(folder)
    {
        tracing::warn!(%error, "answers are not kept");
        return;
    }
    if let Err(error) = crate::journal::replace(path, &bytes) {
        tracing::warn!(%error, "answers are not kept");
    }
}
