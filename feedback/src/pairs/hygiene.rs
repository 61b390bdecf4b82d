//! Texts as they are compared: for equality by NFKC and single spaces, for
//! overlap by runs of words.

use std::collections::HashSet;

use ids::Sha256Digest;
use unicode_normalization::UnicodeNormalization;

use crate::Message;

/// A training prompt that shares this many words in a row with a held-out one
/// is left out.
pub const NGRAM_WORDS: usize = 13;

/// From here on, most scripts write no spaces between words; each character
/// counts as one.
const FIRST_UNSPACED: char = '\u{2E80}';

/// The text with compatibility forms unified and white space collapsed.
pub(super) fn normal(text: &str) -> String {
    let unified: String = text.nfkc().collect();
    let words: Vec<&str> = unified.split_whitespace().collect();
    words.join(" ")
}

/// Names a prompt, by roles and normal contents.
pub(super) fn prompt_hash(messages: &[Message]) -> Sha256Digest {
    let normal: Vec<(&str, String)> = messages
        .iter()
        .map(|message| (message.role.as_str(), normal(&message.content)))
        .collect();
    let parts: Vec<(&str, &[u8])> = normal
        .iter()
        .map(|(role, text)| (*role, text.as_bytes()))
        .collect();
    Sha256Digest::of_parts(&parts)
}

/// What held-out prompts say, to look for it in training prompts.
#[derive(Default)]
pub struct Overlap {
    whole: HashSet<Vec<String>>,
    runs: HashSet<Vec<String>>,
}

impl Overlap {
    /// Adds a held-out prompt.
    pub fn add(&mut self, prompt: &[Message]) {
        let words = words(prompt);
        self.runs
            .extend(words.windows(NGRAM_WORDS).map(<[String]>::to_vec));
        self.whole.insert(words);
    }

    /// Whether a prompt shares [`NGRAM_WORDS`] in a row with one that was
    /// added, or, being shorter, is the same.
    #[must_use]
    pub fn holds(&self, prompt: &[Message]) -> bool {
        let words = words(prompt);
        self.whole.contains(&words)
            || words
                .windows(NGRAM_WORDS)
                .any(|run| self.runs.contains(run))
    }
}

/// The words that the user wrote. System prompts are left out, since all
/// prompts of an application share theirs.
fn words(prompt: &[Message]) -> Vec<String> {
    let mut words = Vec::new();
    for message in prompt.iter().filter(|message| message.role == "user") {
        let mut word = String::new();
        for c in message.content.nfkc().flat_map(char::to_lowercase) {
            let stands_alone = c >= FIRST_UNSPACED && c.is_alphanumeric();
            if (stands_alone || !c.is_alphanumeric()) && !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            if stands_alone {
                words.push(c.to_string());
            } else if c.is_alphanumeric() {
                word.push(c);
            }
        }
        if !word.is_empty() {
            words.push(word);
        }
    }
    words
}
