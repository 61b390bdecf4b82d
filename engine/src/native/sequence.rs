//! One completion on its way: its tokens, how far they are computed, and how
//! it goes on.

use std::sync::Arc;

use model::Tokenizer;

use super::adapters::AdapterLease;
use super::blocks::PageTable;
use super::constraint::GrammarState;
use super::queue::Tenant;
use super::reading::Reading;
use super::request::{RequestId, Submission};
use super::sampler::{self, Sampler};
use crate::api::{EngineError, FinishReason, TokenLogprob};
use crate::tools::{Read, ToolReader};

/// One choice of a request.
pub(super) struct Sequence {
    pub(super) request: RequestId,
    pub(super) choice: u32,
    /// Prompt and completion.
    pub(super) tokens: Vec<u32>,
    /// Tokens whose keys and values are in the cache.
    pub(super) computed: usize,
    pub(super) pages: PageTable,
    /// Prompt tokens that were found in the cache; none before it first ran.
    pub(super) cached_tokens: Option<u32>,
    pub(super) prompt_tokens: usize,
    pub(super) lease: Option<AdapterLease>,
    pub(super) tenant: Tenant,
    /// The number of its first admission; none before.
    pub(super) ticket: Option<u64>,
    /// Tokens that its tenant was charged for.
    pub(super) served: usize,
    tokens_max: usize,
    sampler: Sampler,
    /// Where the grammar begins, until the sequence runs for the first time:
    /// those that wait share it.
    grammar_start: Option<Arc<GrammarState>>,
    grammar: Option<GrammarState>,
    reading: Reading,
    top_logprobs: Option<u8>,
    ignore_eos: bool,
}

/// What a sampled token means for a sequence.
pub(super) struct Advance {
    pub(super) read: Read,
    pub(super) logprobs: Vec<TokenLogprob>,
    pub(super) finished: Option<FinishReason>,
}

impl Sequence {
    /// The sequence of one choice.
    pub(super) fn new(request: RequestId, choice: u32, submission: &Submission) -> Self {
        let chat = &submission.request;
        let lease = submission.lease.as_ref();
        let adapter = lease.map(|lease| lease.adapter().digest);
        let tools = chat.tools.as_ref();
        let reader = tools.map(|tools| ToolReader::new(tools, submission.tool_markup));
        Self {
            request,
            choice,
            tokens: submission.prompt.clone(),
            computed: 0,
            pages: PageTable::new(adapter),
            cached_tokens: None,
            prompt_tokens: submission.prompt.len(),
            lease: submission.lease.clone(),
            tenant: chat.tenant.clone(),
            ticket: None,
            served: 0,
            tokens_max: submission.prompt.len() + submission.max_tokens as usize,
            sampler: Sampler::new(&chat.sampling, choice, &submission.prompt),
            grammar_start: submission.grammar.clone(),
            grammar: None,
            reading: Reading::new(&chat.stop, reader),
            top_logprobs: chat.top_logprobs,
            ignore_eos: chat.ignore_eos,
        }
    }

    /// Where it stands in the order of arrival.
    pub(super) fn order(&self) -> (RequestId, u32) {
        (self.request, self.choice)
    }

    /// Tokens that are to be computed before the next one can be chosen.
    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether it is held to a grammar.
    pub(super) fn is_constrained(&self) -> bool {
        self.grammar.is_some() || self.grammar_start.is_some()
    }

    /// Finds out which tokens its grammar allows next: the part of
    /// [`Self::advance`] that several sequences can do at once.
    pub(super) fn prepare(&mut self) {
        if let Some(start) = self.grammar_start.take() {
            self.grammar = Some(start.fork());
        }
        if let Some(grammar) = &mut self.grammar {
            grammar.prepare();
        }
    }

    /// Chooses the next token, within the grammar if there is one. Its
    /// log-probabilities are those before grammar and sampling parameters.
    pub(super) fn advance(
        &mut self,
        logits: &mut [f32],
        tokenizer: &Tokenizer,
    ) -> Result<Advance, EngineError> {
        self.prepare();
        let original = self.top_logprobs.map(|_| logits.to_vec());
        let not_finite = || EngineError::Failed("the model's output is not finite".to_owned());
        let (token, completed) = match &mut self.grammar {
            None => (
                self.sampler.next(logits, None).ok_or_else(not_finite)?,
                false,
            ),
            Some(grammar) => {
                let token = self.sampler.next(logits, Some(grammar.allowed()?));
                let token = token.ok_or_else(not_finite)?;
                (token, grammar.accept(token)?)
            }
        };
        self.tokens.push(token);
        let ended = tokenizer.is_end_of_generation(token) && !self.ignore_eos;
        let shown: &[u8] = if tokenizer.is_special(token) {
            &[]
        } else {
            tokenizer.token_bytes(token)
        };
        let mut read = self.reading.push(if ended { &[] } else { shown });
        if self.reading.is_done() || ended || completed || self.tokens.len() >= self.tokens_max {
            let rest = self.reading.finish();
            read.text.push_str(&rest.text);
            read.calls.extend(rest.calls);
        }
        let stopped = self.reading.is_done() || ended || completed;
        let finished = if stopped && self.reading.has_calls() {
            Some(FinishReason::ToolCalls)
        } else if stopped {
            Some(FinishReason::Stop)
        } else if self.tokens.len() >= self.tokens_max {
            Some(FinishReason::Length)
        } else {
            None
        };
        let logprobs = match (self.top_logprobs, original) {
            (Some(top), Some(logits)) if !ended => vec![describe(&logits, token, top, tokenizer)],
            _ => Vec::new(),
        };
        Ok(Advance {
            read,
            logprobs,
            finished,
        })
    }
}

fn describe(logits: &[f32], token: u32, top: u8, tokenizer: &Tokenizer) -> TokenLogprob {
    let found = sampler::logprobs(logits, token, top);
    let name = |token: u32| {
        let bytes = tokenizer.token_bytes(token).to_vec();
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
