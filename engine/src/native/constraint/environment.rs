//! The model's tokens as a prefix tree, which masks are computed over.

use std::sync::Arc;

use crate::vocabulary::Vocabulary;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

/// How [`TokTrie`] marks control tokens; no text in UTF-8 has this byte.
const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

/// The tree of all tokens that are text. Control tokens are no text and are
/// left out, so that no grammar can ask for one; those that end an answer are
/// allowed by their ids where the grammar may end.
pub(super) fn token_environment(vocabulary: &dyn Vocabulary) -> Result<TokEnv, String> {
    let too_many = |_| "the vocabulary is too large".to_owned();
    let count = u32::try_from(vocabulary.len()).map_err(too_many)?;
    let word = |id: u32| match vocabulary.token_bytes(id) {
        bytes if vocabulary.is_special(id) || bytes.first() == Some(&MARKER) => Vec::new(),
        bytes => bytes.to_vec(),
    };
    let words: Vec<Vec<u8>> = (0..count).map(word).collect();
    let ends: Vec<u32> = (0..count)
        .filter(|id| vocabulary.is_end_of_generation(*id))
        .collect();
    let info = TokRxInfo::new(count, vocabulary.eos());
    let trie = TokTrie::from(&info, &words).with_eos_tokens(&ends);
    // What the model writes decides how a text is cut into tokens: nothing is
    // tokenized here.
    Ok(Arc::new(ApproximateTokEnv::new(trie)))
}
