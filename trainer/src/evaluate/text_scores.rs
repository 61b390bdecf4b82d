//! How near an answer is to a reference: ROUGE-L as `rouge-score` and BLEU as
//! `sacrebleu` (13a tokens, exponential smoothing) compute them.
//!
//! ROUGE-L's words differ from `rouge-score`'s only where that drops every
//! letter outside of a to z: here letters of all scripts count.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// The longest run of words that BLEU counts.
const ORDER_MAX: usize = 4;
/// From here on, scripts mostly write no spaces; each character is a word.
const FIRST_UNSPACED: char = '\u{2E80}';
/// The most words of an answer that are compared; the comparison's time grows
/// with the square.
const WORDS_MAX: usize = 4096;

/// ROUGE-L's F-measure, 0 to 1.
#[must_use]
pub fn rouge_l(reference: &str, answer: &str) -> f64 {
    let (reference, answer) = (words(reference), words(answer));
    if reference.is_empty() || answer.is_empty() {
        return 0.0;
    }
    let common = longest_common(&reference, &answer) as f64;
    let (precision, recall) = (
        common / answer.len() as f64,
        common / reference.len() as f64,
    );
    match precision + recall > 0.0 {
        true => 2.0 * precision * recall / (precision + recall),
        false => 0.0,
    }
}

fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in text.chars().flat_map(char::to_lowercase) {
        let alone = c >= FIRST_UNSPACED && c.is_alphanumeric();
        match words.last_mut() {
            Some(word) if c.is_alphanumeric() && !alone => word.push(c),
            _ if alone => words.extend([c.to_string(), String::new()]),
            _ => words.push(String::new()),
        }
    }
    words.retain(|word| !word.is_empty());
    words.truncate(WORDS_MAX);
    words
}

fn longest_common(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0usize; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (index, other) in b.iter().enumerate() {
            let above = row[index + 1];
            row[index + 1] = match word == other {
                true => diagonal + 1,
                false => above.max(row[index]),
            };
            diagonal = above;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// What one answer adds to a set's BLEU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BleuCounts {
    correct: [u64; ORDER_MAX],
    total: [u64; ORDER_MAX],
    answer_words: u64,
    reference_words: u64,
}

impl BleuCounts {
    /// Counts one answer against its references.
    #[must_use]
    pub fn of(references: &[String], answer: &str) -> Self {
        let answer = tokens_13a(answer);
        let references: Vec<Vec<String>> = references.iter().map(|r| tokens_13a(r)).collect();
        let length = answer.len();
        let nearest = references
            .iter()
            .map(Vec::len)
            .min_by_key(|words| (words.abs_diff(length), *words));
        let mut counts = Self {
            answer_words: length as u64,
            reference_words: nearest.unwrap_or(0) as u64,
            ..Self::default()
        };
        for order in 1..=ORDER_MAX {
            let mut allowed: HashMap<&[String], u64> = HashMap::new();
            for reference in &references {
                for (run, count) in runs(reference, order) {
                    let most = allowed.entry(run).or_default();
                    *most = count.max(*most);
                }
            }
            for (run, count) in runs(&answer, order) {
                counts.total[order - 1] += count;
                let most = allowed.get(run).copied().unwrap_or(0);
                counts.correct[order - 1] += count.min(most);
            }
        }
        counts
    }

    /// Adds another answer's.
    pub fn add(&mut self, other: &Self) {
        for order in 0..ORDER_MAX {
            self.correct[order] += other.correct[order];
            self.total[order] += other.total[order];
        }
        self.answer_words += other.answer_words;
        self.reference_words += other.reference_words;
    }

    /// BLEU of all answers together, 0 to 1.
    #[must_use]
    pub fn score(&self) -> f64 {
        if self.correct.iter().all(|n| *n == 0) || self.total.contains(&0) {
            return 0.0;
        }
        let mut smooth = 1.0;
        let mut log_sum = 0.0;
        for (correct, total) in self.correct.iter().zip(self.total) {
            let precision = match correct {
                0 => {
                    smooth *= 2.0;
                    1.0 / (smooth * total as f64)
                }
                n => *n as f64 / total as f64,
            };
            log_sum += precision.ln();
        }
        let (answer, reference) = (self.answer_words as f64, self.reference_words as f64);
        let brevity = match answer < reference {
            true => (1.0 - reference / answer).exp(),
            false => 1.0,
        };
        brevity * (log_sum / ORDER_MAX as f64).exp()
    }
}

fn runs(words: &[String], order: usize) -> HashMap<&[String], u64> {
    let mut runs = HashMap::new();
    for run in words.windows(order) {
        *runs.entry(run).or_default() += 1;
    }
    runs
}

/// The tokens of mteval-v13a, as sacrebleu makes them.
fn tokens_13a(text: &str) -> Vec<String> {
    let text = text
        .replace("<skipped>", "")
        .replace("-\n", "")
        .replace('\n', " ")
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
        .replace("&lt;", "<")
        .replace("&gt;", ">");
    let stands_alone =
        |c: char| matches!(c, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/');
    let mut apart = String::from(" ");
    for c in text.chars() {
        match stands_alone(c) {
            true => apart.extend([' ', c, ' ']),
            false => apart.push(c),
        }
    }
    apart.push(' ');
    let stop = |c: char| matches!(c, '.' | ',');
    // A stop after, then before, what is no digit; a dash after a digit.
    let apart = pairs(&apart, |a, b| {
        (!a.is_ascii_digit() && stop(b)).then_some([a, ' ', b, ' '])
    });
    let apart = pairs(&apart, |a, b| {
        (stop(a) && !b.is_ascii_digit()).then_some([' ', a, ' ', b])
    });
    let apart = pairs(&apart, |a, b| {
        (a.is_ascii_digit() && b == '-').then_some([a, ' ', b, ' '])
    });
    apart.split_whitespace().map(str::to_owned).collect()
}

/// Replaces pairs of neighbours, none of which overlap, from the left.
fn pairs(text: &str, replace: impl Fn(char, char) -> Option<[char; 4]>) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(c) = chars.get(at) {
        match chars.get(at + 1).and_then(|next| replace(*c, *next)) {
            Some(four) => {
                out.extend(four);
                at += 2;
            }
            None => {
                out.push(*c);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        cases: Vec<Case>,
        corpus_bleu: f64,
    }

    #[derive(Deserialize)]
    struct Case {
        references: Vec<String>,
        answer: String,
        rouge_l: Vec<f64>,
        bleu: f64,
    }

    #[test]
    fn scores_are_sacrebleus_and_rouge_scores() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/golden/text_scores.json"
        );
        let golden: Golden = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert!(golden.cases.len() >= 20);
        let mut all = BleuCounts::default();
        for case in &golden.cases {
            for (reference, expected) in case.references.iter().zip(&case.rouge_l) {
                let found = rouge_l(reference, &case.answer);
                assert!(
                    (found - expected).abs() < 1e-9,
                    "{:?}: {found} {expected}",
                    case.answer
                );
            }
            let counts = BleuCounts::of(&case.references, &case.answer);
            let found = counts.score();
            assert!(
                (found - case.bleu).abs() < 1e-9,
                "{:?}: {found} {}",
                case.answer,
                case.bleu
            );
            all.add(&counts);
        }
        assert!((all.score() - golden.corpus_bleu).abs() < 1e-9);
    }

    #[test]
    fn letters_of_all_scripts_count() {
        assert!((rouge_l("北の文書館", "北の文書") - 8.0 / 9.0).abs() < 1e-9);
        assert!((rouge_l("Αρχείο βορρά", "ΑΡΧΕΊΟ ΒΟΡΡΆ!") - 1.0).abs() < 1e-9);
        assert_eq!(rouge_l("a", ""), 0.0);
    }
}
