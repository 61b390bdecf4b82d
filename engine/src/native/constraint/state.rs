//! Where one sequence is in its grammar.

use llguidance::Matcher;

use crate::api::EngineError;

/// The longest reason that an error about a grammar repeats.
const REASON_CHARS_MAX: usize = 400;

/// The parser of one sequence. It moves with the chosen tokens alone: what the
/// cache holds, and whether it was lost, does not matter to it.
pub struct GrammarState {
    matcher: Matcher,
    param: &'static str,
    /// The tokens that may come next, in order of their ids.
    allowed: Vec<u32>,
    is_prepared: bool,
}

impl GrammarState {
    pub(super) fn new(matcher: Matcher, param: &'static str) -> Self {
        Self {
            matcher,
            param,
            allowed: Vec::new(),
            is_prepared: false,
        }
    }

    /// The same place in the same grammar for another sequence, with nothing
    /// shared: neither a lock nor a limit.
    pub(in crate::native) fn fork(&self) -> Self {
        Self {
            matcher: self.matcher.deep_clone(),
            param: self.param,
            allowed: self.allowed.clone(),
            is_prepared: self.is_prepared,
        }
    }

    /// Finds the tokens that may come next, unless it is known already.
    pub(in crate::native) fn prepare(&mut self) {
        if self.is_prepared {
            return;
        }
        self.is_prepared = true;
        self.allowed.clear();
        // an error stays in the matcher, and `allowed` tells it
        if let Ok(mask) = self.matcher.compute_mask() {
            let allowed = &mut self.allowed;
            mask.iter_set_entries(|id| allowed.extend(u32::try_from(id)));
        }
    }

    /// The tokens that may come next, never none.
    pub(in crate::native) fn allowed(&mut self) -> Result<&[u32], EngineError> {
        self.prepare();
        if self.allowed.is_empty() {
            return Err(self.failed());
        }
        Ok(&self.allowed)
    }

    /// Moves on by a token; true where the grammar allows no other to follow.
    pub(in crate::native) fn accept(&mut self, token: u32) -> Result<bool, EngineError> {
        self.is_prepared = false;
        match self.matcher.consume_token(token) {
            Ok(()) => Ok(self.matcher.is_stopped()),
            Err(_) => Err(self.failed()),
        }
    }

    fn failed(&self) -> EngineError {
        let error = self.matcher.get_error().unwrap_or_default();
        EngineError::InvalidRequest {
            param: self.param,
            reason: plain(&error),
        }
    }
}

/// What a client may read of the parser's words: its first lines, and nothing
/// of its insides.
pub(super) fn plain(error: &str) -> String {
    if error.starts_with("panic") {
        tracing::error!(error, "the grammar parser failed");
        return "the grammar cannot be used".to_owned();
    }
    let error = error.replace("<non-verbose/>", "");
    let reason: String = error.trim().chars().take(REASON_CHARS_MAX).collect();
    if reason.is_empty() {
        "the grammar allows nothing".to_owned()
    } else {
        reason
    }
}
