//! One completion in the batch: its tokens, and how far they are computed.

use super::adapters::AdapterLease;
use super::blocks::PageTable;
use super::completion::{Advance, Beginning, Completion};
use super::queue::Tenant;
use super::request::{RequestId, Submission};
use crate::api::EngineError;
use crate::vocabulary::Vocabulary;

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
    completion: Completion,
}

impl Sequence {
    /// The sequence of one choice.
    pub(super) fn new(request: RequestId, choice: u32, submission: &Submission) -> Self {
        let chat = &submission.request;
        let lease = submission.lease.as_ref();
        let adapter = lease.map(|lease| lease.adapter().digest);
        let beginning = Beginning {
            request: chat,
            choice,
            prompt: &submission.prompt,
            max_tokens: submission.max_tokens,
            grammar: submission.grammar.clone(),
            tool_markup: submission.tool_markup,
        };
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
            completion: Completion::new(beginning),
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
        self.completion.is_constrained()
    }

    /// The part of [`Self::advance`] that several sequences can do at once.
    pub(super) fn prepare(&mut self) {
        self.completion.prepare();
    }

    /// Chooses the next token.
    pub(super) fn advance(
        &mut self,
        logits: &mut [f32],
        vocabulary: &dyn Vocabulary,
    ) -> Result<Advance, EngineError> {
        let advance = self.completion.advance(logits, vocabulary)?;
        self.tokens.push(advance.token);
        Ok(advance)
    }
}
