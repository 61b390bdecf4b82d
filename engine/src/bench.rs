//! Speed of an engine as its callers see it: prompt and completion tokens a
//! second, alone and in a batch, with and without adapters.
//!
//! Knows no implementation. Clocks are read here and nowhere else in a
//! measurement; what is reported of several rounds is the caller's matter.

pub mod streams;

use std::time::Instant;

use futures::future::try_join_all;
use ids::AdapterDigest;
use serde::Serialize;

use crate::api::{ChatEvent, ChatMessage, ChatRequest, ChatStream, Engine, EngineError, Role};

/// Prompt tokens before a decoding measurement, at least.
const DECODE_PROMPT_TOKENS: u32 = 40;

/// Which adapters the sequences of a batch use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mix {
    /// None: the bare base.
    Base,
    /// All the same one.
    One,
    /// Each another one, as far as there are.
    Mixed,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "case", rename_all = "snake_case")]
pub enum Case {
    /// A prompt of so many tokens, to its first token.
    Prefill {
        /// Tokens of the prompt.
        tokens: u32,
    },
    /// So many sequences at once, so many tokens each, after their prompts.
    Decode {
        /// Sequences.
        batch: u32,
        /// Tokens of each.
        tokens: u32,
    },
}

/// One of the cases with its adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bench {
    /// What is measured.
    #[serde(flatten)]
    pub case: Case,
    /// With which adapters.
    pub adapters: Mix,
}

impl Bench {
    /// All that is measured by default: prompts of 32, 128 and 512 tokens, and
    /// 128 tokens decoded in batches of 1, 4, 8 and 16; each on the base and
    /// with one adapter, the batches with an adapter for each sequence too.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let prefill = [32, 128, 512].map(|tokens| Case::Prefill { tokens });
        let decode = [1, 4, 8, 16].map(|batch| Case::Decode { batch, tokens: 128 });
        let mut all = Vec::new();
        for case in prefill.into_iter().chain(decode) {
            let mixes: &[Mix] = match case {
                Case::Decode { batch: 2.., .. } => &[Mix::Base, Mix::One, Mix::Mixed],
                _ => &[Mix::Base, Mix::One],
            };
            all.extend(mixes.iter().map(|&adapters| Self { case, adapters }));
        }
        all
    }

    /// For people, for example `decode 128 × 8`.
    #[must_use]
    pub fn name(&self) -> String {
        match self.case {
            Case::Prefill { tokens } => format!("prefill {tokens}"),
            Case::Decode { batch, tokens } => format!("decode {tokens} × {batch}"),
        }
    }

    /// Measures once: tokens a second, all sequences together. `adapters` must
    /// be resident, and some where the mix needs them. `round` goes into the
    /// prompts, so that no cache knows them from an earlier round.
    ///
    /// # Errors
    /// As [`Engine::chat`], and [`EngineError::InvalidRequest`] without adapters.
    pub async fn measure(
        &self,
        engine: &dyn Engine,
        adapters: &[AdapterDigest],
        round: u32,
    ) -> Result<f64, EngineError> {
        match self.case {
            Case::Prefill { tokens } => {
                let messages = conversation(engine, tokens, round).await?;
                let adapter = self.adapter(adapters, 0)?;
                prefill_rate(engine, messages, adapter).await
            }
            Case::Decode { batch, tokens } => {
                let mut requests = Vec::new();
                for i in 0..batch {
                    let messages =
                        conversation(engine, DECODE_PROMPT_TOKENS, round * batch + i).await?;
                    requests.push(request(messages, self.adapter(adapters, i)?, tokens));
                }
                decode_rate(engine, requests).await
            }
        }
    }

    fn adapter(
        &self,
        adapters: &[AdapterDigest],
        sequence: u32,
    ) -> Result<Option<AdapterDigest>, EngineError> {
        let index = match self.adapters {
            Mix::Base => return Ok(None),
            Mix::One => 0,
            Mix::Mixed => sequence as usize,
        };
        adapters
            .get(index % adapters.len().max(1))
            .map(|digest| Some(*digest))
            .ok_or_else(|| EngineError::InvalidRequest {
                param: "adapters",
                reason: "the measurement needs resident adapters".to_owned(),
            })
    }
}

/// A conversation of at least `tokens` tokens that begins with `number`.
///
/// # Errors
/// As [`Engine::count_prompt_tokens`].
pub async fn conversation(
    engine: &dyn Engine,
    tokens: u32,
    number: u32,
) -> Result<Vec<ChatMessage>, EngineError> {
    let message = |words: u32| {
        let content = "one two three four five six seven eight ".repeat(words as usize / 8);
        vec![ChatMessage::new(
            Role::System,
            format!("{number} {content}"),
        )]
    };
    // a word is about a token
    let mut words = tokens.saturating_sub(tokens / 8 + 40) / 8 * 8;
    while engine.count_prompt_tokens(&message(words), None).await? < tokens {
        words += 8;
    }
    Ok(message(words))
}

/// A greedy request for exactly so many tokens.
#[must_use]
pub fn request(
    messages: Vec<ChatMessage>,
    adapter: Option<AdapterDigest>,
    completion_tokens: u32,
) -> ChatRequest {
    ChatRequest {
        adapter,
        ignore_eos: true,
        ..ChatRequest::greedy(messages, completion_tokens)
    }
}

/// Prompt tokens a second, from the request to the first token.
async fn prefill_rate(
    engine: &dyn Engine,
    messages: Vec<ChatMessage>,
    adapter: Option<AdapterDigest>,
) -> Result<f64, EngineError> {
    let start = Instant::now();
    let mut stream = engine.chat(request(messages, adapter, 1)).await?;
    let prompt_tokens = stream.prompt_tokens;
    while let Some(event) = stream.events.recv().await {
        event?;
    }
    Ok(f64::from(prompt_tokens) / start.elapsed().as_secs_f64())
}

/// Completion tokens a second, all together, from when every sequence has its
/// first token until the last one ends.
async fn decode_rate(engine: &dyn Engine, requests: Vec<ChatRequest>) -> Result<f64, EngineError> {
    let mut streams = try_join_all(requests.into_iter().map(|r| engine.chat(r))).await?;
    for stream in &mut streams {
        first_text(stream).await?;
    }
    let (start, before) = (Instant::now(), engine.capacity().generation_tokens_total);
    for stream in &mut streams {
        while let Some(event) = stream.events.recv().await {
            event?;
        }
    }
    let tokens = engine.capacity().generation_tokens_total - before;
    Ok(tokens as f64 / start.elapsed().as_secs_f64())
}

async fn first_text(stream: &mut ChatStream) -> Result<(), EngineError> {
    while let Some(event) = stream.events.recv().await {
        if matches!(event?, ChatEvent::Delta { .. }) {
            return Ok(());
        }
    }
    Err(EngineError::Stopped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_the_cases_are_there_once() {
        let all = Bench::all();
        assert_eq!(all.len(), 3 * 2 + 2 + 3 * 3);
        for (i, bench) in all.iter().enumerate() {
            assert!(!all[..i].contains(bench), "{bench:?}");
        }
    }

    #[test]
    fn a_mix_deals_the_adapters_round_and_needs_some() {
        let digest = |n: u8| AdapterDigest(ids::Sha256Digest::from_bytes([n; 32]));
        let adapters = [digest(1), digest(2), digest(3)];
        let bench = |adapters| Bench {
            case: Case::Decode {
                batch: 4,
                tokens: 8,
            },
            adapters,
        };
        let deal = |mix, i| bench(mix).adapter(&adapters, i);
        assert_eq!(deal(Mix::Base, 2), Ok(None));
        assert_eq!(deal(Mix::One, 2), Ok(Some(digest(1))));
        assert_eq!(deal(Mix::Mixed, 1), Ok(Some(digest(2))));
        assert_eq!(deal(Mix::Mixed, 3), Ok(Some(digest(1))));
        assert!(bench(Mix::One).adapter(&[], 0).is_err());
    }
}
