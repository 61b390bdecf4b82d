//! One completion: which tokens it takes, what text and calls they are, and when
//! it ends. Knows nothing of where its logits come from.

use std::sync::Arc;

use model::ToolMarkup;

use super::constraint::GrammarState;
use super::reading::Reading;
use super::sampler::{self, Sampler};
use crate::api::{ChatRequest, EngineError, FinishReason, TokenLogprob};
use crate::tools::{Read, ToolReader};
use crate::vocabulary::Vocabulary;

/// How many events a request can make at most.
#[must_use]
pub fn events_max(choices: u32, max_tokens: u32) -> usize {
    // a delta for each token, what was held back, and the end; then Done or an error
    choices as usize * (max_tokens as usize + 2) + 2
}

/// What a completion begins with.
pub struct Beginning<'a> {
    /// The request that it answers.
    pub request: &'a ChatRequest,
    /// Which of its completions.
    pub choice: u32,
    /// The prompt's tokens.
    pub prompt: &'a [u32],
    /// The most tokens that it may have, resolved against the context.
    pub max_tokens: u32,
    /// Where it begins in the request's grammar.
    pub grammar: Option<Arc<GrammarState>>,
    /// How calls are written, where the request has functions.
    pub tool_markup: ToolMarkup,
}

/// A completion on its way.
pub struct Completion {
    tokens_left: u32,
    sampler: Sampler,
    /// Where the grammar begins, until the completion runs for the first time:
    /// those that wait share it.
    grammar_start: Option<Arc<GrammarState>>,
    grammar: Option<GrammarState>,
    reading: Reading,
    top_logprobs: Option<u8>,
    ignore_eos: bool,
}

/// What a chosen token means for a completion.
pub struct Advance {
    /// The token.
    pub token: u32,
    /// The text and the calls that became visible with it.
    pub read: Read,
    /// Its log-probabilities, where they were asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Why the completion ends with it, if it does.
    pub finished: Option<FinishReason>,
}

impl Completion {
    /// A completion without tokens.
    #[must_use]
    pub fn new(beginning: Beginning<'_>) -> Self {
        let Beginning {
            request, choice, ..
        } = beginning;
        let tools = request.tools.as_ref();
        let reader = tools.map(|tools| ToolReader::new(tools, beginning.tool_markup));
        Self {
            tokens_left: beginning.max_tokens,
            sampler: Sampler::new(&request.sampling, choice, beginning.prompt),
            grammar_start: beginning.grammar,
            grammar: None,
            reading: Reading::new(&request.stop, reader),
            top_logprobs: request.top_logprobs,
            ignore_eos: request.ignore_eos,
        }
    }

    /// Whether it is held to a grammar.
    #[must_use]
    pub fn is_constrained(&self) -> bool {
        self.grammar.is_some() || self.grammar_start.is_some()
    }

    /// Finds out which tokens its grammar allows next: the part of
    /// [`Self::advance`] that several completions can do at once.
    pub fn prepare(&mut self) {
        if let Some(start) = self.grammar_start.take() {
            self.grammar = Some(start.fork());
        }
        if let Some(grammar) = &mut self.grammar {
            grammar.prepare();
        }
    }

    /// Chooses the next token, within the grammar if there is one. Its
    /// log-probabilities are those before grammar and sampling parameters.
    ///
    /// # Errors
    /// [`EngineError::Failed`] if no logit is finite, or what the grammar says.
    pub fn advance(
        &mut self,
        logits: &mut [f32],
        vocabulary: &dyn Vocabulary,
    ) -> Result<Advance, EngineError> {
        self.prepare();
        let original = self.top_logprobs.map(|_| logits.to_vec());
        let (token, completed) = self.choose(logits)?;
        self.tokens_left = self.tokens_left.saturating_sub(1);
        let is_last = self.tokens_left == 0;
        let ended = vocabulary.is_end_of_generation(token) && !self.ignore_eos;
        let shown: &[u8] = if vocabulary.is_special(token) {
            &[]
        } else {
            vocabulary.token_bytes(token)
        };
        let mut read = self.reading.push(if ended { &[] } else { shown });
        if self.reading.is_done() || ended || completed || is_last {
            let rest = self.reading.finish();
            read.text.push_str(&rest.text);
            read.calls.extend(rest.calls);
        }
        let stopped = self.reading.is_done() || ended || completed;
        let finished = if stopped && self.reading.has_calls() {
            Some(FinishReason::ToolCalls)
        } else if stopped {
            Some(FinishReason::Stop)
        } else if is_last {
            Some(FinishReason::Length)
        } else {
            None
        };
        let logprobs = match (self.top_logprobs, original) {
            (Some(top), Some(logits)) if !ended => vec![describe(&logits, token, top, vocabulary)],
            _ => Vec::new(),
        };
        Ok(Advance {
            token,
            read,
            logprobs,
            finished,
        })
    }

    /// The next token, and whether the grammar allows none after it.
    fn choose(&mut self, logits: &mut [f32]) -> Result<(u32, bool), EngineError> {
        let not_finite = || EngineError::Failed("the model's output is not finite".to_owned());
        let Some(grammar) = &mut self.grammar else {
            let token = self.sampler.next(logits, None);
            return Ok((token.ok_or_else(not_finite)?, false));
        };
        let token = self.sampler.next(logits, Some(grammar.allowed()?));
        let token = token.ok_or_else(not_finite)?;
        Ok((token, grammar.accept(token)?))
    }
}

fn describe(logits: &[f32], token: u32, top: u8, vocabulary: &dyn Vocabulary) -> TokenLogprob {
    let found = sampler::logprobs(logits, token, top);
    let name = |token: u32| {
        let bytes = vocabulary.token_bytes(token).to_vec();
        (String::from_utf8_lossy(&bytes).into_owned(), bytes)
    };
    let (text, bytes) = name(token);
    let top = found.top.into_iter().map(|(token, logprob)| {
        let (text, bytes) = name(token);
        (text, bytes, logprob)
    });
    TokenLogprob {
        text,
        bytes,
        logprob: found.chosen,
        top: top.collect(),
    }
}
