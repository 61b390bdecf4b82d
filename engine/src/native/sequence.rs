//! One completion on its way: its tokens, how far they are computed, and how
//! it goes on.

use model::Tokenizer;

use super::adapters::AdapterLease;
use super::blocks::PageTable;
use super::request::{RequestId, Submission};
use super::sampler::{self, Sampler};
use super::text::TextStream;
use crate::api::{FinishReason, TokenLogprob};

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
    tokens_max: usize,
    sampler: Sampler,
    text: TextStream,
    top_logprobs: Option<u8>,
    ignore_eos: bool,
}

/// What a sampled token means for a sequence.
pub(super) struct Advance {
    pub(super) text: String,
    pub(super) logprobs: Vec<TokenLogprob>,
    pub(super) finished: Option<FinishReason>,
}

impl Sequence {
    /// The sequence of one choice.
    pub(super) fn new(request: RequestId, choice: u32, submission: &Submission) -> Self {
        let chat = &submission.request;
        let lease = submission.lease.as_ref();
        let adapter = lease.map(|lease| lease.adapter().digest);
        Self {
            request,
            choice,
            tokens: submission.prompt.clone(),
            computed: 0,
            pages: PageTable::new(adapter),
            cached_tokens: None,
            prompt_tokens: submission.prompt.len(),
            lease: submission.lease.clone(),
            tokens_max: submission.prompt.len() + submission.max_tokens as usize,
            sampler: Sampler::new(&chat.sampling, choice, &submission.prompt),
            text: TextStream::new(&chat.stop),
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

    /// Chooses the next token; `None` if the logits are not usable.
    pub(super) fn advance(&mut self, logits: &mut [f32], tokenizer: &Tokenizer) -> Option<Advance> {
        let original = self.top_logprobs.map(|_| logits.to_vec());
        let token = self.sampler.next(logits)?;
        self.tokens.push(token);
        let ended = tokenizer.is_end_of_generation(token) && !self.ignore_eos;
        let shown: &[u8] = if tokenizer.is_special(token) {
            &[]
        } else {
            tokenizer.token_bytes(token)
        };
        let visible = self.text.push(if ended { &[] } else { shown });
        let finished = if visible.stopped || ended {
            Some(FinishReason::Stop)
        } else if self.tokens.len() >= self.tokens_max {
            Some(FinishReason::Length)
        } else {
            None
        };
        let mut text = visible.text;
        if finished.is_some() && !visible.stopped {
            text.push_str(&self.text.finish());
        }
        let logprobs = match (self.top_logprobs, original) {
            (Some(top), Some(logits)) if !ended => vec![describe(&logits, token, top, tokenizer)],
            _ => Vec::new(),
        };
        Some(Advance {
            text,
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
