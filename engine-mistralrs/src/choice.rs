//! One completion as mistralrs sees it.
//!
//! mistralrs asks for the next token in the form of a logits processor: it is
//! given the logits and the tokens so far, and what comes back leaves one token
//! to choose. So tokens are chosen, counted and shown by the same code as in the
//! native engine, and the crate's own sampling has nothing left to decide.

use std::sync::Arc;

use engine::parts::{Completion, Vocabulary};
use mistralrs::{CustomLogitsProcessor, Device, Result, Tensor};
use parking_lot::Mutex;

use crate::admission::Place;
use crate::request::RequestState;

/// A choice of a request.
pub(crate) struct Choice {
    request: Arc<RequestState>,
    number: u32,
    vocabulary: Arc<dyn Vocabulary>,
    /// Ends the sequence in mistralrs; without one, dropping its responses does.
    stop_token: Option<u32>,
    has_images: bool,
    state: Mutex<State>,
    /// Given back when mistralrs lets go of the sequence, which may be after the
    /// last event: until then it may still be in a step.
    _place: Place,
}

struct State {
    completion: Completion,
    has_begun: bool,
    has_ended: bool,
}

/// What a choice is made of.
pub(crate) struct ChoiceParts {
    pub(crate) request: Arc<RequestState>,
    pub(crate) number: u32,
    pub(crate) vocabulary: Arc<dyn Vocabulary>,
    pub(crate) stop_token: Option<u32>,
    pub(crate) has_images: bool,
    pub(crate) completion: Completion,
}

impl Choice {
    /// A choice whose turn has come.
    pub(crate) fn new(parts: ChoiceParts, place: Place) -> Self {
        Self {
            request: parts.request,
            number: parts.number,
            vocabulary: parts.vocabulary,
            stop_token: parts.stop_token,
            has_images: parts.has_images,
            state: Mutex::new(State {
                completion: parts.completion,
                has_begun: false,
                has_ended: false,
            }),
            _place: place,
        }
    }

    /// Whether it has said its last.
    pub(crate) fn has_ended(&self) -> bool {
        self.state.lock().has_ended
    }

    /// The token that mistralrs is to take after `tokens`.
    fn next(&self, logits: &mut [f32], tokens: usize) -> u32 {
        let mut state = self.state.lock();
        let end = self.stop_token.unwrap_or_default();
        if state.has_ended || self.request.is_cancelled() {
            state.has_ended = true;
            return end;
        }
        let begins = !std::mem::replace(&mut state.has_begun, true);
        if begins
            && self.has_images
            && let Err(error) = self.request.prompt(tokens)
        {
            state.has_ended = true;
            self.request.fail(error);
            return end;
        }
        match state.completion.advance(logits, self.vocabulary.as_ref()) {
            Ok(advance) => {
                let (token, finished) = (advance.token, advance.finished);
                self.request
                    .token(self.number, advance.read, advance.logprobs);
                if let Some(reason) = finished {
                    state.has_ended = true;
                    self.request.finish(self.number, reason);
                    return end;
                }
                token
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
    fn apply(&self, logits: &Tensor, context: &[u32]) -> Result<Tensor> {
        let mut values = logits.to_vec1::<f32>()?;
        let token = self.next(&mut values, context.len());
        values.fill(0.0);
        if let Some(chosen) = values.get_mut(token as usize) {
            *chosen = 1.0;
        }
        let len = values.len();
        Tensor::from_vec(values, len, &Device::Cpu)
    }
}
