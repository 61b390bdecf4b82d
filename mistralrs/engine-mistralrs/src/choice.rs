//! One completion: which tokens it takes, what text they are, and when it ends.
//!
//! mistralrs asks for the next token in the form of a logits processor: it is
//! given the logits and the tokens so far, and what comes back leaves one token
//! to choose. So tokens are chosen, counted and shown exactly as by the native
//! engine, and the crate's own sampling has nothing left to decide.

use std::sync::Arc;

use engine::parts::{GrammarState, Sampler, TextStream, Vocabulary, logprobs};
use engine::{EngineError, FinishReason, TokenLogprob};
use mistralrs::{CustomLogitsProcessor, Device, Result, Tensor};
use parking_lot::Mutex;

use crate::request::RequestState;

/// A choice as mistralrs sees it.
pub(crate) struct Choice {
    request: Arc<RequestState>,
    vocabulary: Arc<dyn Vocabulary>,
    /// Ends the sequence in mistralrs; without one, dropping its responses does.
    stop_token: Option<u32>,
    state: Mutex<ChoiceState>,
}

/// What a choice begins with.
pub(crate) struct ChoiceState {
    pub(crate) choice: u32,
    pub(crate) sampler: Sampler,
    pub(crate) grammar: Option<GrammarState>,
    pub(crate) text: TextStream,
    pub(crate) tokens_left: u32,
    pub(crate) top_logprobs: Option<u8>,
    pub(crate) ignore_eos: bool,
    pub(crate) has_ended: bool,
}

impl Choice {
    pub(crate) fn new(
        request: Arc<RequestState>,
        vocabulary: Arc<dyn Vocabulary>,
        stop_token: Option<u32>,
        state: ChoiceState,
    ) -> Self {
        Self {
            request,
            vocabulary,
            stop_token,
            state: Mutex::new(state),
        }
    }

    /// Whether it has said its last.
    pub(crate) fn has_ended(&self) -> bool {
        self.state.lock().has_ended
    }

    /// The token that mistralrs is to take.
    fn next(&self, logits: &mut [f32]) -> u32 {
        let mut state = self.state.lock();
        let end = self.stop_token.unwrap_or_default();
        if state.has_ended || self.request.is_cancelled() {
            state.has_ended = true;
            return end;
        }
        match state.advance(logits, self.vocabulary.as_ref()) {
            Ok(advance) => {
                self.request
                    .token(state.choice, advance.text, advance.logprobs);
                if let Some(reason) = advance.finished {
                    state.has_ended = true;
                    self.request.finish(state.choice, reason);
                    return end;
                }
                advance.token
            }
            Err(error) => {
                state.has_ended = true;
                self.request.fail(error);
                end
            }
        }
    }
}

impl CustomLogitsProcessor for Choice {
    /// Never an error of its own: with one, the crate would pass over the other
    /// sequences of the batch in this step.
    fn apply(&self, logits: &Tensor, _context: &[u32]) -> Result<Tensor> {
        let mut values = logits.to_vec1::<f32>()?;
        let token = self.next(&mut values);
        values.fill(0.0);
        if let Some(chosen) = values.get_mut(token as usize) {
            *chosen = 1.0;
        }
        let len = values.len();
        Tensor::from_vec(values, len, &Device::Cpu)
    }
}

/// What a chosen token means.
struct Advance {
    token: u32,
    text: String,
    logprobs: Vec<TokenLogprob>,
    finished: Option<FinishReason>,
}

impl ChoiceState {
    /// Chooses the next token, within the grammar if there is one. Its
    /// log-probabilities are those before grammar and sampling parameters.
    fn advance(
        &mut self,
        logits: &mut [f32],
        vocabulary: &dyn Vocabulary,
    ) -> std::result::Result<Advance, EngineError> {
        let original = self.top_logprobs.map(|_| logits.to_vec());
        let not_finite = || EngineError::Failed("the model's output is not finite".to_owned());
        let (token, completed) = match &mut self.grammar {
            None => {
                let token = self.sampler.next(logits, None);
                (token.ok_or_else(not_finite)?, false)
            }
            Some(grammar) => {
                let token = self.sampler.next(logits, Some(grammar.allowed()?));
                let token = token.ok_or_else(not_finite)?;
                (token, grammar.accept(token)?)
            }
        };
        self.tokens_left = self.tokens_left.saturating_sub(1);
        let ended = vocabulary.is_end_of_generation(token) && !self.ignore_eos;
        let is_text = !ended && !vocabulary.is_special(token);
        let shown = if is_text {
            vocabulary.token_bytes(token)
        } else {
            &[]
        };
        let visible = self.text.push(shown);
        let finished = if visible.stopped || ended || completed {
            Some(FinishReason::Stop)
        } else if self.tokens_left == 0 {
            Some(FinishReason::Length)
        } else {
            None
        };
        let mut text = visible.text;
        if finished.is_some() && !visible.stopped {
            text.push_str(&self.text.finish());
        }
        let logprobs = match (self.top_logprobs, original) {
            (Some(top), Some(logits)) if !ended => vec![describe(&logits, token, top, vocabulary)],
            _ => Vec::new(),
        };
        Ok(Advance {
            token,
            text,
            logprobs,
            finished,
        })
    }
}

fn describe(logits: &[f32], token: u32, top: u8, vocabulary: &dyn Vocabulary) -> TokenLogprob {
    let found = logprobs(logits, token, top);
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
