//! `tokenizer.json`, as the crate `tokenizers` reads it, with the checks that
//! the vocabulary of a GGUF file gets.

use serde_json::{Map, Value as Json};

use super::{parse, wrong};
use crate::ModelError;
use crate::config::VOCAB_SIZE_MAX;
use crate::tokenizer::{PublishedVocabulary, Tokenizer};

/// Makes the tokenizer; the ids of the first and last token are the model's,
/// or those of the texts in `tokenizer_config.json`, which come first.
pub(super) fn read(
    bytes: &[u8],
    config: &Map<String, Json>,
    (bos, eos): (Option<u32>, Option<u32>),
) -> Result<Tokenizer, ModelError> {
    let json = parse("tokenizer.json", bytes)?;
    let model = json.get("model").and_then(Json::as_object);
    let model = model.ok_or_else(|| wrong("model", "is missing in tokenizer.json"))?;
    if model.get("type").and_then(Json::as_str) != Some("BPE") {
        return Err(wrong("model.type", "is not BPE in tokenizer.json"));
    }
    let inner: tokenizers::Tokenizer = serde_json::from_slice(bytes)
        .map_err(|e: serde_json::Error| ModelError::Tokenizer(e.to_string()))?;
    let vocab = inner.get_vocab(true);
    let highest = vocab.values().copied().max().unwrap_or(0) as usize;
    if vocab.is_empty() || highest >= VOCAB_SIZE_MAX {
        return Err(ModelError::Limit {
            what: "number of tokens in the vocabulary",
            found: highest as u64 + 1,
            max: VOCAB_SIZE_MAX as u64,
        });
    }
    let named = |key: &str| {
        let value = config.get(key)?;
        let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
        vocab.get(text).copied()
    };
    let eos = named("eos_token").or(eos);
    let eos = eos.ok_or_else(|| wrong("eos_token", "is missing"))?;
    let bos = named("bos_token").or(bos);
    if [Some(eos), bos]
        .iter()
        .flatten()
        .any(|id| *id as usize > highest)
    {
        return Err(wrong("eos_token", "or bos_token is not in the vocabulary"));
    }
    let is_byte_fallback = model.get("byte_fallback").and_then(Json::as_bool);
    Ok(Tokenizer::of_published(PublishedVocabulary {
        inner,
        is_sentencepiece: is_byte_fallback.unwrap_or(false),
        len: highest + 1,
        bos,
        eos,
    }))
}
