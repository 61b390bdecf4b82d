//! The vocabulary as the GGUF file has it, checked.

use std::collections::HashMap;

use tokenizers::AddedToken;
use tokenizers::models::bpe::BPE;

use super::sentencepiece;
use super::split::Splitting;
use crate::ModelError;
use crate::config::VOCAB_SIZE_MAX;
use crate::gguf::{Gguf, Value};

/// The most merges; a vocabulary has fewer merges than tokens.
const MERGES_MAX: usize = VOCAB_SIZE_MAX;
/// Control tokens that end an answer in the chat formats that are in use.
const END_OF_GENERATION: [&str; 8] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "</s>",
];

/// Added tokens of Phi-3 that leave the white space after them in the text.
const PHI3_UNSTRIPPED: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

/// What stands for characters without tokens or bytes (SentencePiece).
const UNKNOWN: &str = "<unk>";

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    Normal,
    /// Steers the model; never part of a text.
    Control,
    /// Put into the vocabulary by hand, found before the merges.
    UserDefined,
    /// Stands for a byte that has no other token (SentencePiece).
    Byte,
}

impl TokenKind {
    /// Whether it is found in a text before the merges.
    pub(super) fn is_added(self) -> bool {
        matches!(self, Self::Control | Self::UserDefined)
    }
}

/// How the vocabulary writes texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// Every byte as a character of GPT-2's alphabet.
    ByteLevel,
    /// As they are, spaces as `▁`.
    SentencePiece,
}

/// A checked vocabulary.
pub(super) struct Vocabulary {
    pub(super) tokens: Vec<String>,
    pub(super) kinds: Vec<TokenKind>,
    pub(super) scheme: Scheme,
    merges: Vec<(String, String)>,
    pub(super) bos: Option<u32>,
    pub(super) eos: u32,
    splitting: Splitting,
    strips_right: bool,
}

pub(super) fn wrong(key: &str, problem: &'static str) -> ModelError {
    ModelError::Metadata {
        key: key.to_owned(),
        problem,
    }
}

impl Vocabulary {
    pub(super) fn read(gguf: &Gguf) -> Result<Self, ModelError> {
        let scheme = match gguf.required("tokenizer.ggml.model", Value::as_str)? {
            "gpt2" => Scheme::ByteLevel,
            "llama" => Scheme::SentencePiece,
            _ => {
                let problem = "is neither gpt2 (byte-level BPE) nor llama (SentencePiece)";
                return Err(wrong("tokenizer.ggml.model", problem));
            }
        };
        let tokens = strings(gguf, "tokenizer.ggml.tokens", VOCAB_SIZE_MAX)?;
        let kinds = kinds(gguf, tokens.len())?;
        let (splitting, merges) = match scheme {
            Scheme::ByteLevel => {
                let pre = gguf.optional("tokenizer.ggml.pre", Value::as_str)?;
                (Splitting::named(pre.unwrap_or("default"))?, merges(gguf)?)
            }
            Scheme::SentencePiece => (
                Splitting::none(sentencepiece::normalizer(gguf)?),
                sentencepiece::merges(gguf, &tokens, &kinds)?,
            ),
        };
        let special = |key: &str| {
            let in_range = |value: &Value| {
                let id = value.as_u64().and_then(|id| u32::try_from(id).ok())?;
                ((id as usize) < tokens.len()).then_some(id)
            };
            gguf.optional(key, in_range)
        };
        let bos = special("tokenizer.ggml.bos_token_id")?;
        let eos_key = "tokenizer.ggml.eos_token_id";
        let eos = special(eos_key)?.ok_or_else(|| wrong(eos_key, "is missing"))?;
        Ok(Self {
            tokens,
            kinds,
            scheme,
            merges,
            bos,
            eos,
            splitting,
            strips_right: scheme == Scheme::SentencePiece && is_phi3(gguf)?,
        })
    }

    pub(super) fn into_tokenizer(self) -> Result<tokenizers::Tokenizer, ModelError> {
        let special: Vec<AddedToken> = self
            .tokens
            .iter()
            .zip(&self.kinds)
            .filter(|(token, kind)| kind.is_added() && !token.is_empty())
            .map(|(token, kind)| {
                let strips = self.strips_right && !PHI3_UNSTRIPPED.contains(&token.as_str());
                AddedToken::from(token.as_str(), *kind == TokenKind::Control)
                    .normalized(false)
                    .rstrip(strips)
            })
            .collect();
        let count = self.tokens.len();
        let vocab: HashMap<String, u32> = self.tokens.into_iter().zip(0u32..).collect();
        if vocab.len() != count {
            return Err(wrong("tokenizer.ggml.tokens", "has one text twice"));
        }
        // The builder relies on this without checking it.
        let known = |(a, b): &(String, String)| {
            [a.as_str(), b.as_str(), &format!("{a}{b}")]
                .iter()
                .all(|t| vocab.contains_key(*t))
        };
        if !self.merges.iter().all(known) {
            return Err(wrong(
                "tokenizer.ggml.merges",
                "names a token that is not there",
            ));
        }
        let failed = |e: tokenizers::Error| ModelError::Tokenizer(e.to_string());
        let is_sentencepiece = self.scheme == Scheme::SentencePiece;
        let unknown = vocab.get_key_value(UNKNOWN).map(|(text, _)| text.clone());
        let mut bpe = BPE::builder()
            .vocab_and_merges(vocab.into_iter().collect::<VocabMap>(), self.merges)
            .ignore_merges(self.splitting.ignore_merges)
            .byte_fallback(is_sentencepiece)
            .fuse_unk(is_sentencepiece);
        if let Some(unknown) = unknown.filter(|_| is_sentencepiece) {
            bpe = bpe.unk_token(unknown);
        }
        let bpe = bpe.build().map_err(failed)?;
        let mut tokenizer = tokenizers::Tokenizer::new(bpe);
        tokenizer
            .with_normalizer(self.splitting.normalizer)
            .map_err(failed)?;
        tokenizer.with_pre_tokenizer(self.splitting.pre_tokenizer);
        tokenizer.add_tokens(special).map_err(failed)?;
        Ok(tokenizer)
    }
}

/// Whether added tokens take the white space after them, which GGUF does not say:
/// those of Phi-3 do, which is known by the architecture or, as llama.cpp knows
/// it, by the model's name.
fn is_phi3(gguf: &Gguf) -> Result<bool, ModelError> {
    let text = |key| gguf.optional(key, Value::as_str);
    let architecture = text("general.architecture")?.unwrap_or_default();
    let name = text("general.name")?.unwrap_or_default().to_lowercase();
    Ok(architecture == "phi3" || name.contains("phi-3") || name.contains("phi3"))
}

/// The ids that end an answer: the end token, and control tokens that are
/// written like one.
pub(super) fn end_of_generation(tokens: &[String], kinds: &[TokenKind], eos: u32) -> Vec<u32> {
    let named = tokens.iter().zip(kinds).zip(0u32..);
    let named = named.filter(|((token, kind), _)| {
        **kind == TokenKind::Control && END_OF_GENERATION.contains(&token.as_str())
    });
    let mut ids: Vec<u32> = named.map(|(_, id)| id).chain([eos]).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

type VocabMap = tokenizers::models::bpe::Vocab;

fn array<'a>(gguf: &'a Gguf, key: &'static str, max: usize) -> Result<&'a [Value], ModelError> {
    let values = gguf.required(key, Value::as_array)?;
    if values.len() > max {
        let (found, max) = (values.len() as u64, max as u64);
        return Err(ModelError::Limit {
            what: key,
            found,
            max,
        });
    }
    Ok(values)
}

fn strings(gguf: &Gguf, key: &'static str, max: usize) -> Result<Vec<String>, ModelError> {
    let texts = array(gguf, key, max)?
        .iter()
        .map(|value| value.as_str().map(str::to_owned));
    texts
        .collect::<Option<_>>()
        .ok_or_else(|| wrong(key, "is no list of texts"))
}

/// The kind of each token; all are normal when the file does not say.
fn kinds(gguf: &Gguf, count: usize) -> Result<Vec<TokenKind>, ModelError> {
    let key = "tokenizer.ggml.token_type";
    let Some(values) = gguf.optional(key, Value::as_array)? else {
        return Ok(vec![TokenKind::Normal; count]);
    };
    if values.len() != count {
        return Err(wrong(key, "is not as long as the list of tokens"));
    }
    let kind = |value: &Value| match value.as_u64() {
        Some(2 | 3) => TokenKind::Control,
        Some(4) => TokenKind::UserDefined,
        Some(6) => TokenKind::Byte,
        _ => TokenKind::Normal,
    };
    Ok(values.iter().map(kind).collect())
}

/// The merges, most important first: two token texts with a space between.
fn merges(gguf: &Gguf) -> Result<Vec<(String, String)>, ModelError> {
    let key = "tokenizer.ggml.merges";
    let pair = |value: &Value| {
        let (a, b) = value.as_str()?.split_once(' ')?;
        (!a.is_empty() && !b.is_empty()).then(|| (a.to_owned(), b.to_owned()))
    };
    let pairs = array(gguf, key, MERGES_MAX)?.iter().map(pair);
    pairs
        .collect::<Option<_>>()
        .ok_or_else(|| wrong(key, "is no list of pairs of tokens"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_phi3_is_known_by_its_architecture_or_its_name() {
        let is = |architecture: &str, name: &str| {
            let text = |text: &str| Value::String(text.into());
            let metadata = HashMap::from([
                ("general.architecture".to_owned(), text(architecture)),
                ("general.name".to_owned(), text(name)),
            ]);
            is_phi3(&Gguf::of_metadata(metadata)).unwrap()
        };
        assert!(is("phi3", "Phi 3 Mini 4k Instruct"));
        assert!(is("llama", "Phi-3 mini as llama"));
        assert!(!is("llama", "phi 2"));
        assert!(!is_phi3(&Gguf::of_metadata(HashMap::new())).unwrap());
    }
}
