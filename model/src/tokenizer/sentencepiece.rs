//! SentencePiece's BPE, which GGUF calls `llama`: merges out of scores, spaces
//! as `▁`, and bytes for what has no token.
//!
//! The vocabulary has no merges. They are all ways to cut a token into two,
//! ordered by the token's score, as transformers converts such a vocabulary.

use std::collections::HashMap;

use tokenizers::NormalizerWrapper;
use tokenizers::normalizers::Sequence;
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::Replace;

use super::vocabulary::{TokenKind, wrong};
use crate::ModelError;
use crate::gguf::{Gguf, Value};

/// What stands for a space.
pub(crate) const SPACE: char = '▁';
/// The longest token that merges may make, in bytes; real ones are below 100.
const TOKEN_BYTES_MAX: usize = 512;

/// The merges that make the normal tokens, most important first.
pub(super) fn merges(
    gguf: &Gguf,
    tokens: &[String],
    kinds: &[TokenKind],
) -> Result<Vec<(String, String)>, ModelError> {
    let scores = scores(gguf, tokens.len())?;
    let normal = |id: &u32| kinds.get(*id as usize) == Some(&TokenKind::Normal);
    let ids: HashMap<&str, u32> = tokens.iter().map(String::as_str).zip(0u32..).collect();
    let mut cuts: Vec<Cut<'_>> = Vec::new();
    for ((token, kind), score) in tokens.iter().zip(kinds).zip(scores) {
        if *kind != TokenKind::Normal {
            continue;
        }
        if token.len() > TOKEN_BYTES_MAX {
            return Err(ModelError::Limit {
                what: "length of a token in bytes",
                found: token.len() as u64,
                max: TOKEN_BYTES_MAX as u64,
            });
        }
        let first = cuts.len();
        for (chars, (at, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(at);
            let part = |text| ids.get(text).copied().filter(normal);
            if let (Some(left_id), Some(right_id)) = (part(left), part(right)) {
                cuts.push(Cut {
                    left,
                    right,
                    score,
                    chars: (chars, token.chars().count() - chars),
                    ids: (left_id, right_id),
                });
            }
        }
        cuts[first..].sort_by_key(|cut| cut.ids);
    }
    // the sort is stable: of equals, the tokens' order decides
    cuts.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.chars.cmp(&a.chars)));
    let pair = |cut: Cut<'_>| (cut.left.to_owned(), cut.right.to_owned());
    Ok(cuts.into_iter().map(pair).collect())
}

/// A token cut into two others.
struct Cut<'a> {
    left: &'a str,
    right: &'a str,
    score: f64,
    /// Characters of both.
    chars: (usize, usize),
    ids: (u32, u32),
}

fn scores(gguf: &Gguf, count: usize) -> Result<Vec<f64>, ModelError> {
    let key = "tokenizer.ggml.scores";
    let values = gguf.required(key, Value::as_array)?;
    if values.len() != count {
        return Err(wrong(key, "is not as long as the list of tokens"));
    }
    let scores = values.iter().map(Value::as_f64);
    scores
        .collect::<Option<_>>()
        .ok_or_else(|| wrong(key, "is no list of numbers"))
}

/// Writes spaces as [`SPACE`], and one before the text where the vocabulary
/// wants it.
pub(super) fn normalizer(gguf: &Gguf) -> Result<NormalizerWrapper, ModelError> {
    let key = "tokenizer.ggml.add_space_prefix";
    let prefix = gguf.optional(key, Value::as_bool)?.unwrap_or(true);
    let spaces =
        Replace::new(" ", SPACE.to_string()).map_err(|e| ModelError::Tokenizer(e.to_string()))?;
    let prepend = prefix.then(|| Prepend::new(SPACE.to_string()).into());
    let steps = prepend.into_iter().chain([spaces.into()]).collect();
    Ok(Sequence::new(steps).into())
}

/// The byte of a token that stands for one, written `<0x0A>`.
pub(super) fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}
