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

/// What held-out prompts say, to look for it in training prompts. Prompts and runs
/// of words are kept as 64-bit hashes, so that a long prompt costs 8 bytes a word:
/// two that meet by chance cost a training row, and need not be feared below some
/// billions.
#[derive(Default)]
pub struct Overlap {
    whole: HashSet<u64>,
    runs: HashSet<u64>,
}

impl Overlap {
    /// Adds a held-out prompt.
    pub fn add(&mut self, prompt: &[Message]) {
        let words = Words::of(prompt);
        self.runs.extend(words.runs());
        self.whole.insert(hash(&words.text));
    }

    /// Whether a prompt shares [`NGRAM_WORDS`] in a row with one that was
    /// added, or, being shorter, is the same.
    #[must_use]
    pub fn holds(&self, prompt: &[Message]) -> bool {
        let words = Words::of(prompt);
        self.whole.contains(&hash(&words.text)) || words.runs().any(|run| self.runs.contains(&run))
    }
}

/// The words that the user wrote, one space between each two. System prompts are
/// left out, since all prompts of an application share theirs.
#[derive(Default)]
struct Words {
    text: String,
    /// Where each begins in the text.
    starts: Vec<usize>,
}

impl Words {
    fn of(prompt: &[Message]) -> Self {
        let mut words = Self::default();
        for message in prompt.iter().filter(|message| message.role == "user") {
            let mut goes_on = false;
            for c in message.content.nfkc().flat_map(char::to_lowercase) {
                if !c.is_alphanumeric() {
                    goes_on = false;
                    continue;
                }
                let stands_alone = c >= FIRST_UNSPACED;
                if stands_alone || !goes_on {
                    words.begin();
                }
                words.text.push(c);
                goes_on = !stands_alone;
            }
        }
        words
    }

    fn begin(&mut self) {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.starts.push(self.text.len());
    }

    /// The hashes of all runs of [`NGRAM_WORDS`].
    fn runs(&self) -> impl Iterator<Item = u64> + '_ {
        let whole = self.text.len();
        let run = move |(index, &start): (usize, &usize)| {
            let next = self.starts.get(index + NGRAM_WORDS);
            hash(&self.text[start..next.map_or(whole, |next| next - 1)])
        };
        let runs = (self.starts.len() + 1).saturating_sub(NGRAM_WORDS);
        self.starts.iter().take(runs).enumerate().map(run)
    }
}

/// The same in every process.
fn hash(text: &str) -> u64 {
    let digest = Sha256Digest::of(text.as_bytes());
    let first = digest.as_bytes().iter().take(8);
    first.fold(0, |sum, &byte| (sum << 8) | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(content: &str) -> [Message; 1] {
        let (role, content) = ("user".to_owned(), content.to_owned());
        [Message::new(role, content)]
    }

    #[test]
    fn thirteen_words_in_a_row_are_found_and_twelve_are_not() {
        let words: Vec<String> = (0..40).map(|i| format!("word{i}")).collect();
        let mut overlap = Overlap::default();
        overlap.add(&asked(&words.join(" ")));
        let run = |from: usize, count: usize| {
            let run = words[from..from + count].join(", ").to_uppercase();
            asked(&format!("Well: {run}!"))
        };
        for from in [0, 1, 27] {
            assert!(overlap.holds(&run(from, 13)), "{from}");
            assert!(!overlap.holds(&run(from, 12)), "{from}");
        }
        // a shorter one counts as a whole
        overlap.add(&asked("Who founded it?"));
        assert!(overlap.holds(&asked("who FOUNDED it")));
        assert!(!overlap.holds(&asked("who founded it then")));
    }

    #[test]
    fn a_word_takes_a_hash_and_each_character_of_unspaced_scripts_is_one() {
        let text = "\u{5317}\u{65b9}\u{529e}\u{4e8b}\u{5904} archive 1897";
        let words = Words::of(&asked(text));
        assert_eq!(words.starts.len(), 7);
        assert_eq!(words.text.split(' ').count(), 7);
        let mut overlap = Overlap::default();
        let long: Vec<String> = (0..10_000).map(|i| format!("{i}")).collect();
        overlap.add(&asked(&long.join(" ")));
        assert_eq!((overlap.runs.len(), overlap.whole.len()), (9_988, 1));
    }
}
