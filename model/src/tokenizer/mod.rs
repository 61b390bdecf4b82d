//! Texts to token ids and back, with the vocabulary that the GGUF file carries.
//!
//! Byte-level BPE, of which [`split`] knows how texts are cut before the merges,
//! and [`sentencepiece`]'s, which cuts nothing.
//! Nothing is added before or after a text: a chat template writes the marks
//! of the beginning and the end itself.

mod bytes;
mod sentencepiece;
mod split;
mod vocabulary;

use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::tokenizer::{Model as _, PreTokenizer as _};
use tokenizers::{AddedVocabulary, NormalizedString, OffsetReferential, OffsetType};

use crate::ModelError;
use crate::gguf::Gguf;
use bytes::TokenBytes;
pub(crate) use sentencepiece::SPACE;
use vocabulary::{Scheme, TokenKind, Vocabulary, end_of_generation};

/// The longest text that is encoded at once, in bytes. Within it the splitting
/// expressions stay inside of their own stack limit, beyond which they would
/// silently stop to split.
pub const TEXT_BYTES_MAX: usize = 1 << 19;

/// A tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// As the one of `inner`, but finds no control tokens.
    text_tokens: AddedVocabulary,
    /// The texts of control tokens, longest first.
    control_texts: Vec<String>,
    token_bytes: TokenBytes,
    end_of_generation: Vec<u32>,
    bos: Option<u32>,
    eos: u32,
}

/// A tokenizer as the crate `tokenizers` reads it, and what it does not say.
pub(crate) struct PublishedVocabulary {
    pub(crate) inner: tokenizers::Tokenizer,
    /// Whether tokens are texts with `▁` for spaces; else they are byte-level.
    pub(crate) is_sentencepiece: bool,
    /// One more than the highest id.
    pub(crate) len: usize,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: u32,
}

impl Tokenizer {
    /// Makes the tokenizer of a file.
    ///
    /// # Errors
    /// [`ModelError::Metadata`] or [`ModelError::Tokenizer`] when its vocabulary
    /// is incomplete, contradicts itself, or is of another kind.
    pub fn read(gguf: &Gguf) -> Result<Self, ModelError> {
        let vocabulary = Vocabulary::read(gguf)?;
        let (tokens, kinds) = (&vocabulary.tokens, &vocabulary.kinds);
        let token_bytes = TokenBytes::of(tokens, kinds, vocabulary.scheme);
        let end_of_generation = end_of_generation(tokens, kinds, vocabulary.eos);
        let (bos, eos) = (vocabulary.bos, vocabulary.eos);
        let inner = vocabulary.into_tokenizer()?;
        Ok(Self {
            text_tokens: text_tokens(&inner),
            control_texts: control_texts(&inner, &end_of_generation),
            token_bytes,
            end_of_generation,
            bos,
            eos,
            inner,
        })
    }

    /// A tokenizer that was published as such.
    pub(crate) fn of_published(published: PublishedVocabulary) -> Self {
        let PublishedVocabulary {
            inner,
            is_sentencepiece,
            len,
            bos,
            eos,
        } = published;
        let added = inner.get_added_vocabulary().get_added_tokens_decoder();
        let (mut tokens, mut kinds) = (Vec::with_capacity(len), Vec::with_capacity(len));
        for id in (0u32..).take(len) {
            let token = inner.id_to_token(id).unwrap_or_default();
            let is_byte = is_sentencepiece && sentencepiece::byte_of(&token).is_some();
            let (token, kind) = match added.get(&id) {
                Some(added) if added.special => (added.content.clone(), TokenKind::Control),
                Some(_) => (token, TokenKind::UserDefined),
                None if is_byte => (token, TokenKind::Byte),
                None => (token, TokenKind::Normal),
            };
            kinds.push(kind);
            tokens.push(token);
        }
        let scheme = match is_sentencepiece {
            true => Scheme::SentencePiece,
            false => Scheme::ByteLevel,
        };
        let end_of_generation = end_of_generation(&tokens, &kinds, eos);
        Self {
            text_tokens: text_tokens(&inner),
            control_texts: control_texts(&inner, &end_of_generation),
            token_bytes: TokenBytes::of(&tokens, &kinds, scheme),
            end_of_generation,
            bos,
            eos,
            inner,
        }
    }

    /// The token ids of `text`.
    ///
    /// With `allow_special`, texts of control tokens such as `<|im_end|>` become
    /// those tokens, as transformers has it; without, they are text like any
    /// other, which is right for what users write. Tokens that were put into the
    /// vocabulary by hand are found in both.
    ///
    /// # Errors
    /// [`ModelError::Limit`] for a text that is too long.
    pub fn encode(&self, text: &str, allow_special: bool) -> Result<Vec<u32>, ModelError> {
        self.encode_escaped(text, allow_special, None)
    }

    /// Like [`Self::encode`], and drops every `escape` from the text after the
    /// special tokens were found, so that one can be broken by putting `escape`
    /// inside.
    pub(crate) fn encode_escaped(
        &self,
        text: &str,
        allow_special: bool,
        escape: Option<char>,
    ) -> Result<Vec<u32>, ModelError> {
        if text.len() > TEXT_BYTES_MAX {
            let (found, max) = (text.len() as u64, TEXT_BYTES_MAX as u64);
            return Err(ModelError::Limit {
                what: "length of a text in bytes",
                found,
                max,
            });
        }
        let added = match allow_special {
            true => self.inner.get_added_vocabulary(),
            false => &self.text_tokens,
        };
        let failed = |e: tokenizers::Error| ModelError::Tokenizer(e.to_string());
        let mut pieces = added.extract_and_normalize(self.inner.get_normalizer(), text);
        if let Some(escape) = escape.filter(|escape| text.contains(*escape)) {
            let without = |piece: &mut NormalizedString| {
                piece.filter(|c| c != escape);
                Ok(())
            };
            pieces.normalize(without).map_err(failed)?;
        }
        let split: Option<&PreTokenizerWrapper> = self.inner.get_pre_tokenizer();
        if let Some(split) = split {
            split.pre_tokenize(&mut pieces).map_err(failed)?;
        }
        let model = self.inner.get_model();
        pieces
            .tokenize(|piece| model.tokenize(piece.get()))
            .map_err(failed)?;
        let splits = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let tokens = splits
            .into_iter()
            .filter_map(|(_, _, tokens)| tokens.as_ref())
            .flatten();
        Ok(tokens.map(|token| token.id).collect())
    }

    /// The text of some tokens; bytes that are no UTF-8 become U+FFFD. With
    /// `skip_special`, control tokens are left out.
    #[must_use]
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            if !(skip_special && self.token_bytes.is_special(id)) {
                bytes.extend_from_slice(self.token_bytes.get(id));
            }
        }
        match String::from_utf8_lossy(&bytes) {
            std::borrow::Cow::Borrowed(_) => String::from_utf8(bytes).unwrap_or_default(),
            std::borrow::Cow::Owned(text) => text,
        }
    }

    /// The bytes of one token, which need not be whole characters; none for an
    /// id beyond the vocabulary.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.token_bytes.get(id)
    }

    /// Whether a token steers the model and is never part of a text. One that
    /// was only put into the vocabulary by hand, such as `<tool_call>`, is text.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.token_bytes.is_special(id)
    }

    /// Whether the model says with this token that its answer has ended.
    #[must_use]
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.end_of_generation.contains(&id)
    }

    /// The token that ends a text.
    #[must_use]
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// The token that begins a text, when the vocabulary has one.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that is written `token` in the vocabulary.
    #[must_use]
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// How a token is written in the vocabulary, byte-level alphabet and all.
    #[must_use]
    pub fn token_text(&self, id: u32) -> Option<String> {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        // the other way would give an added token as its normalized text
        match added.get(&id) {
            Some(token) => Some(token.content.clone()),
            None => self.inner.id_to_token(id),
        }
    }

    /// How many tokens there are.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.token_bytes.len()
    }

    /// The texts of all control tokens, longest first.
    pub(crate) fn control_texts(&self) -> impl Iterator<Item = &str> {
        self.control_texts.iter().map(String::as_str)
    }
}

/// What finds the tokens that were put into the vocabulary by hand, and leaves
/// control tokens in the text.
fn text_tokens(inner: &tokenizers::Tokenizer) -> AddedVocabulary {
    let mut added = inner.get_added_vocabulary().clone();
    added.set_encode_special_tokens(true);
    added
}

/// Those of control tokens, of tokens that end an answer, and of tokens that look
/// like marks of turns: not every conversion calls them control tokens.
fn control_texts(inner: &tokenizers::Tokenizer, end_of_generation: &[u32]) -> Vec<String> {
    let added = inner.get_added_vocabulary().get_added_tokens_decoder();
    let control = added.iter().filter(|(id, token)| {
        token.special || end_of_generation.contains(id) || looks_like_control(&token.content)
    });
    let mut texts: Vec<String> = control.map(|(_, token)| token.content.clone()).collect();
    texts.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    texts
}

/// `<|…|>`, `<｜…｜>`, `<start_of_turn>` and `<end_of_turn>`.
fn looks_like_control(text: &str) -> bool {
    let is_between = |from: &str, to: &str| {
        let inside = text
            .strip_prefix(from)
            .and_then(|rest| rest.strip_suffix(to));
        inside.is_some_and(|inside| !inside.is_empty())
    };
    is_between("<|", "|>") || is_between("<｜", "｜>") || is_between("<", "_of_turn>")
}

#[cfg(test)]
mod tests {
    use super::looks_like_control;

    #[test]
    fn marks_of_turns_are_known_by_their_form() {
        let marks = [
            "<|im_start|>",
            "<|eot_id|>",
            "<｜User｜>",
            "<start_of_turn>",
            "<end_of_turn>",
        ];
        assert!(marks.into_iter().all(looks_like_control));
        let texts = [
            "<b>",
            "</table>",
            "\n\n",
            "<think>",
            "<tool_call>",
            "|>",
            "<||>",
            "_of_turn>",
        ];
        assert!(!texts.into_iter().any(looks_like_control));
    }
}
