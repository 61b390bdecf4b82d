//! `tokenizer.json`, as the crate `tokenizers` reads it, with the checks that
//! the vocabulary of a GGUF file gets.

use std::borrow::Cow;

use serde_json::{Map, Value as Json};
use tokenizers::AddedToken;

use super::{parse, wrong};
use crate::ModelError;
use crate::config::VOCAB_SIZE_MAX;
use crate::tokenizer::{PublishedVocabulary, SPACE, Tokenizer};

/// Makes the tokenizer; the ids of the first and last token are the model's,
/// or those of the texts in `tokenizer_config.json`, which come first. `rows` is how
/// many tokens the model has.
pub(super) fn read(
    bytes: &[u8],
    config: &Map<String, Json>,
    (bos, eos): (Option<u32>, Option<u32>),
    rows: usize,
) -> Result<Tokenizer, ModelError> {
    let mut json = parse("tokenizer.json", bytes)?;
    let bytes = match leave_out_rowless(&mut json, rows) {
        false => Cow::Borrowed(bytes),
        true => Cow::Owned(Json::Object(json.clone()).to_string().into_bytes()),
    };
    let model = json.get("model").and_then(Json::as_object);
    let model = model.ok_or_else(|| wrong("model", "is missing in tokenizer.json"))?;
    if model.get("type").and_then(Json::as_str) != Some("BPE") {
        return Err(wrong("model.type", "is not BPE in tokenizer.json"));
    }
    let mut inner: tokenizers::Tokenizer = serde_json::from_slice(&bytes)
        .map_err(|e: serde_json::Error| ModelError::Tokenizer(e.to_string()))?;
    let only_spaces = json.get("normalizer").is_none_or(only_marks_spaces);
    find_control_as_written(&mut inner, only_spaces)?;
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

/// Leaves out the added tokens that the model has no row for: Gemma 3 1B has one,
/// which stands for a picture. Says whether there are any.
fn leave_out_rowless(json: &mut Map<String, Json>, rows: usize) -> bool {
    let is_left_out = |id: Option<&Json>| id.and_then(Json::as_u64) >= Some(rows as u64);
    let Some(Json::Array(added)) = json.get_mut("added_tokens") else {
        return false;
    };
    let text = |token: Json| Some(token.get("content")?.as_str()?.to_owned());
    let left_out = added.extract_if(.., |token| is_left_out(token.get("id")));
    let left_out: Vec<String> = left_out.filter_map(text).collect();
    if let Some(Json::Object(vocab)) = json.get_mut("model").and_then(|m| m.get_mut("vocab")) {
        vocab.retain(|text, id| !(is_left_out(Some(&*id)) && left_out.contains(text)));
    }
    !left_out.is_empty()
}

/// Whether a normalizer changes nothing but spaces, so that it makes no control
/// token of what was not written as one.
fn only_marks_spaces(normalizer: &Json) -> bool {
    let text = |key: &str| normalizer.get(key).and_then(Json::as_str);
    match text("type") {
        None => normalizer.is_null(),
        Some("Prepend") => true,
        Some("Replace") => normalizer.pointer("/pattern/String") == Some(&" ".into()),
        Some("Sequence") => normalizer
            .get("normalizers")
            .and_then(Json::as_array)
            .is_some_and(|steps| steps.iter().all(only_marks_spaces)),
        Some(_) => false,
    }
}

/// Has control tokens found in the text before it is normalized, whatever
/// `normalized` says of them, where the normalizer might make one of what was not
/// written as one: [escapes](crate::escape) are put into what is written.
fn find_control_as_written(
    inner: &mut tokenizers::Tokenizer,
    only_spaces: bool,
) -> Result<(), ModelError> {
    let added = inner.get_added_vocabulary().get_added_tokens_decoder();
    let is_made = |token: &AddedToken| !only_spaces || token.content.contains([' ', SPACE]);
    let mut control: Vec<(u32, AddedToken)> = added
        .iter()
        .filter(|(_, token)| token.special && token.normalized && is_made(token))
        .map(|(id, token)| (*id, token.clone().normalized(false)))
        .collect();
    control.sort_unstable_by_key(|(id, _)| *id);
    let control: Vec<AddedToken> = control.into_iter().map(|(_, token)| token).collect();
    match inner.add_special_tokens(control) {
        Ok(_) => Ok(()),
        Err(error) => Err(ModelError::Tokenizer(error.to_string())),
    }
}
