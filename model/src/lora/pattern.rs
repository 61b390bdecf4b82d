//! The regular expressions with which PEFT's configurations name modules.
//!
//! They come with the adapter, so their number, their length and the work of
//! one match are bounded.

use fancy_regex::{Regex, RegexBuilder};

use super::LoraError;

/// The most entries of one list or map of patterns.
pub(super) const PATTERNS_MAX: usize = 4096;
/// The longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 256;
/// The most backtracking steps of one match.
const BACKTRACK_MAX: usize = 10_000;

/// A compiled pattern.
pub(super) struct Pattern {
    key: &'static str,
    regex: Regex,
}

impl Pattern {
    /// Matches a whole path, as `target_modules` given as one text does.
    pub(super) fn full(key: &'static str, pattern: &str) -> Result<Self, LoraError> {
        Self::compile(key, pattern, &format!("^(?:{pattern})$"))
    }

    /// Matches the last parts of a path, as `rank_pattern` does.
    pub(super) fn suffix(key: &'static str, pattern: &str) -> Result<Self, LoraError> {
        Self::compile(key, pattern, &format!(r"^(.*\.)?({pattern})$"))
    }

    fn compile(key: &'static str, pattern: &str, whole: &str) -> Result<Self, LoraError> {
        let wrong = |problem| LoraError::ConfigValue { key, problem };
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(wrong("has a pattern that is too long"));
        }
        RegexBuilder::new(whole)
            .backtrack_limit(BACKTRACK_MAX)
            .build()
            .map(|regex| Self { key, regex })
            .map_err(|_| wrong("has a pattern that is no regular expression"))
    }

    pub(super) fn matches(&self, path: &str) -> Result<bool, LoraError> {
        let problem = "has a pattern that takes too long to match";
        self.regex
            .is_match(path)
            .map_err(|_| LoraError::ConfigValue {
                key: self.key,
                problem,
            })
    }
}
