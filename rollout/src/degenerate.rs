//! Finds answers that loop, in any language, without knowing words.
//!
//! Three signs: an exact cycle of characters (`the the the the …`, `!!!!…`), a
//! text that is almost wholly copied from its own beginning (a list whose every
//! item is the same sentence), and many words of which nearly all are the same
//! two (`so  so so then so …`, which never cycles). Tables, rules of dashes,
//! code and refrains repeat too, so that a sign counts only when it is long and
//! makes up most of the text, or when letters cycle up to its very end, as they
//! do when a model is cut off by its token limit.

use std::collections::HashMap;

/// How much of a text's end is looked at, in characters.
const WINDOW_CHARS: usize = 4096;
/// The longest cycle looked for.
const PERIOD_CHARS_MAX: usize = 512;
/// The shortest cycling stretch with letters that counts.
const CYCLE_CHARS_MIN: usize = 80;
/// The shortest cycling stretch without letters that counts.
const SYMBOLS_CHARS_MIN: usize = 128;
/// How often a cycle must come round where it makes up most of the text.
const CYCLE_REPEATS_MIN: usize = 4;
/// How often a cycle must come round where it only ends the text.
const TAIL_REPEATS_MIN: usize = 6;
/// The shortest copied stretch that counts as copied.
const COPY_CHARS_MIN: usize = 16;
/// The fewest letters that a text needs before copies are looked at.
const COPY_LETTERS_MIN: usize = 200;

/// The fewest words, and the shortest text, that are looked at for two words
/// that make up nearly all.
const WORDS_MIN: usize = 20;
const WORDS_CHARS_MIN: usize = 80;
/// The share of the words, in percent, that two of them must make up.
const TWO_WORDS_PERCENT: usize = 80;

/// Whether a text repeats itself as a broken model does.
#[must_use]
pub fn is_degenerate(text: &str) -> bool {
    let mut chars: Vec<char> = text.trim().chars().rev().take(WINDOW_CHARS).collect();
    chars.reverse();
    has_cycle(&chars) || is_copied(&chars) || is_two_words(&chars)
}

/// Whether nearly all words are the same one or two.
fn is_two_words(chars: &[char]) -> bool {
    if chars.len() < WORDS_CHARS_MIN {
        return false;
    }
    let mut counts: HashMap<&[char], usize> = HashMap::new();
    let words = chars.split(|c| c.is_whitespace());
    for word in words.filter(|word| letters(word) > 0) {
        *counts.entry(word).or_default() += 1;
    }
    let all: usize = counts.values().sum();
    let mut counts: Vec<usize> = counts.into_values().collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let two: usize = counts.iter().take(2).sum();
    all >= WORDS_MIN && two * 100 >= all * TWO_WORDS_PERCENT
}

fn letters(chars: &[char]) -> usize {
    chars.iter().filter(|c| c.is_alphabetic()).count()
}

/// Whether some stretch repeats one cycle, long enough to count.
fn has_cycle(chars: &[char]) -> bool {
    let longest = PERIOD_CHARS_MAX.min(chars.len() / CYCLE_REPEATS_MIN);
    (1..=longest).any(|period| cycles_with(chars, period))
}

/// Goes through the stretches in which every character equals the one
/// `period` before it.
fn cycles_with(chars: &[char], period: usize) -> bool {
    let mut start = 0;
    for i in period..=chars.len() {
        let goes_on = i < chars.len() && chars[i] == chars[i - period];
        if goes_on {
            continue;
        }
        if counts(chars, start, i, period) {
            return true;
        }
        // The next stretch may begin right after the character that broke this one.
        start = i + 1 - period;
    }
    false
}

/// Whether the cycling stretch `start..end` is long enough.
fn counts(chars: &[char], start: usize, end: usize, period: usize) -> bool {
    let length = end - start;
    if length < CYCLE_CHARS_MIN || length / period < CYCLE_REPEATS_MIN {
        return false;
    }
    if letters(&chars[start..start + period]) == 0 {
        return length >= SYMBOLS_CHARS_MIN && length * 5 >= chars.len() * 4;
    }
    let ends_text = end == chars.len() && length / period >= TAIL_REPEATS_MIN;
    ends_text || length * 2 >= chars.len()
}

/// Whether at least 85% of the letters lie in stretches that occurred before.
fn is_copied(chars: &[char]) -> bool {
    let all = letters(chars);
    if all < COPY_LETTERS_MIN {
        return false;
    }
    let mut seen: HashMap<&[char], usize> = HashMap::new();
    let (mut at, mut copied) = (0, 0);
    let mut next_to_learn = 0;
    while at + COPY_CHARS_MIN <= chars.len() {
        while next_to_learn < at {
            seen.entry(&chars[next_to_learn..next_to_learn + COPY_CHARS_MIN])
                .or_insert(next_to_learn);
            next_to_learn += 1;
        }
        let Some(&from) = seen.get(&chars[at..at + COPY_CHARS_MIN]) else {
            at += 1;
            continue;
        };
        let length = chars[at..]
            .iter()
            .zip(&chars[from..])
            .take_while(|(a, b)| a == b)
            .count();
        let stretch = letters(&chars[at..at + length]);
        if stretch * 2 >= length {
            copied += stretch;
        }
        at += length;
    }
    copied * 100 >= all * 85
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_the_exact_cycle() {
        assert!(
            !is_degenerate(&"ha ".repeat(26)),
            "78 characters are too few"
        );
        assert!(is_degenerate(&"ha ".repeat(28)));
        assert!(!is_degenerate(&"!".repeat(SYMBOLS_CHARS_MIN - 1)));
        assert!(is_degenerate(&"!".repeat(SYMBOLS_CHARS_MIN)));
        assert!(!is_degenerate(""));
        assert!(!is_degenerate("x"));
    }

    #[test]
    fn two_words_without_a_cycle_are_found() {
        // what overdriven adapters said
        let spaces = "at   at    at  at    at  at  at at  at  at   at   at   at   at  at  at   at  at  at at at  at   at  at";
        assert!(is_degenerate(spaces));
        let pair = "rights rights while while rights rights rights rights while while rights rights rights rights while rights rights rights while rights while";
        assert!(is_degenerate(pair));
        assert!(!is_degenerate(
            &spaces.replace("  ", " ")[..WORDS_CHARS_MIN - 1]
        ));
    }

    #[test]
    fn words_that_recur_in_prose_and_lists_are_no_sign() {
        let prose = "The cat sat on the mat and the dog sat on the rug, and then the cat saw the dog \
                     and the dog saw the cat, so the two of them ran out of the house together.";
        assert!(!is_degenerate(prose));
        let list = "red: yes\ngreen: no\nblue: yes\nwhite: no\nblack: yes\npink: no\ngrey: yes\n\
                    brown: no\nviolet: yes\norange: no\nsilver: yes\ngold: no\nazure: yes";
        assert!(!is_degenerate(list));
    }

    #[test]
    fn long_input_is_cut_to_a_window() {
        assert!(is_degenerate(
            &"the same thing again and again. ".repeat(40_000)
        ));
    }
}
