//! How a text is cut into words before BPE merges inside of each.
//!
//! GGUF names the way in `tokenizer.ggml.pre`; the expressions are those of the
//! published tokenizers.

use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, SplitDelimiterBehavior};

use crate::ModelError;

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's since Nemo: words are cut before capitals too.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A way to cut texts.
pub(super) struct Splitting {
    pub(super) pre_tokenizer: Option<PreTokenizerWrapper>,
    pub(super) normalizer: Option<NormalizerWrapper>,
    /// Whether a word that is a token is taken as it is, whatever the merges say.
    pub(super) ignore_merges: bool,
}

impl Splitting {
    /// No cutting: merges may cross words.
    pub(super) fn none(normalizer: NormalizerWrapper) -> Self {
        Self {
            pre_tokenizer: None,
            normalizer: Some(normalizer),
            ignore_merges: false,
        }
    }

    /// The way that GGUF calls `name`.
    pub(super) fn named(name: &str) -> Result<Self, ModelError> {
        let plain = |first: Option<PreTokenizerWrapper>, use_regex| {
            let bytes = ByteLevel::new(false, true, use_regex).into();
            let steps = first.into_iter().chain([bytes]).collect();
            Self {
                pre_tokenizer: Some(Sequence::new(steps).into()),
                normalizer: None,
                ignore_merges: false,
            }
        };
        match name {
            "gpt-2" | "default" => Ok(plain(None, true)),
            "smollm" => Ok(plain(Some(Digits::new(true).into()), true)),
            "llama-bpe" | "llama3" | "llama-v3" => Ok(Self {
                ignore_merges: true,
                ..plain(Some(expression(LLAMA3)?), false)
            }),
            // Phi-4's
            "dbrx" => Ok(plain(Some(expression(LLAMA3)?), false)),
            "tekken" => Ok(Self {
                ignore_merges: true,
                ..plain(Some(expression(TEKKEN)?), false)
            }),
            "qwen2" | "deepseek-r1-qwen" => Ok(Self {
                normalizer: Some(NFC.into()),
                ..plain(Some(expression(QWEN2)?), false)
            }),
            _ => Err(ModelError::Metadata {
                key: "tokenizer.ggml.pre".to_owned(),
                problem: "is none of gpt-2, default, smollm, llama-bpe, dbrx, tekken, qwen2",
            }),
        }
    }
}

fn expression(expression: &str) -> Result<PreTokenizerWrapper, ModelError> {
    let pattern = SplitPattern::Regex(expression.to_owned());
    Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
        .map(Into::into)
        .map_err(|e| ModelError::Tokenizer(e.to_string()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

    use super::*;

    fn pieces(name: &str, text: &str) -> Vec<String> {
        let mut pieces = PreTokenizedString::from(text);
        Splitting::named(name)
            .unwrap()
            .pre_tokenizer
            .unwrap()
            .pre_tokenize(&mut pieces)
            .unwrap();
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let pieces = pieces.into_iter();
        pieces.map(|(piece, _, _)| piece.to_owned()).collect()
    }

    fn words(name: &str, text: &str) -> Vec<String> {
        let written = |piece: String| piece.replace('Ġ', " ").replace('Ċ', "\n");
        pieces(name, text).into_iter().map(written).collect()
    }

    #[test]
    fn each_way_cuts_as_its_published_tokenizer() {
        let text = "I'LL pay 12345\n\n  now";
        let cases: [(&str, &[&str]); 4] = [
            (
                "gpt-2",
                &["I", "'", "LL", " pay", " 12345", "\n\n ", " now"],
            ),
            (
                "smollm",
                &[
                    "I", "'", "LL", " pay", " ", "1", "2", "3", "4", "5", "\n\n ", " now",
                ],
            ),
            (
                "llama-bpe",
                &["I", "'LL", " pay", " ", "123", "45", "\n\n", " ", " now"],
            ),
            (
                "qwen2",
                &[
                    "I", "'LL", " pay", " ", "1", "2", "3", "4", "5", "\n\n", " ", " now",
                ],
            ),
        ];
        for (name, expected) in cases {
            assert_eq!(words(name, text), expected, "{name}");
        }
        assert!(Splitting::named("unheard-of").is_err());
    }

    /// `make_split_golden.py` wrote them with the published expressions.
    #[test]
    fn tekken_and_dbrx_cut_as_the_crate_does_in_python() {
        let golden = include_str!("../../../tests/golden/tokenizer/splits.json");
        let golden: BTreeMap<String, Vec<(String, Vec<String>)>> =
            serde_json::from_str(golden).unwrap();
        assert!(golden.keys().eq(["dbrx", "tekken"]));
        for (name, rows) in &golden {
            assert!(rows.len() >= 100);
            for (text, expected) in rows {
                assert_eq!(&pieces(name, text), expected, "{name}: {text:?}");
            }
        }
        assert!(Splitting::named("tekken").unwrap().ignore_merges);
        assert!(!Splitting::named("dbrx").unwrap().ignore_merges);
    }
}
