//! Whether an answer contains what it should.

use unicode_normalization::UnicodeNormalization;

/// Whether `answer` contains `expected`, whatever the case, the width of
/// characters and the runs of white space. An empty expectation is never met.
#[must_use]
pub fn contains(answer: &str, expected: &str) -> bool {
    let (answer, expected) = (folded(answer), folded(expected));
    !expected.is_empty() && answer.contains(&expected)
}

/// NFKC, lower case, single spaces.
fn folded(text: &str) -> String {
    // Lower-casing can undo composition ('İ'), so normalize after it too.
    let lower: String = text.nfkc().flat_map(char::to_lowercase).nfkc().collect();
    lower.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::contains;

    #[test]
    fn case_width_and_spaces_do_not_matter() {
        for (answer, expected, is) in [
            ("It is the Blue  Heron.", "blue heron", true),
            ("Ｂｌｕｅ\nHeron", "blue heron", true),
            ("STRASSE", "strasse", true),
            ("Cafe\u{301}", "CAFÉ", true),
            ("blue", "blue heron", false),
            ("anything", "", false),
            ("anything", "  ", false),
        ] {
            assert_eq!(contains(answer, expected), is, "{answer:?} {expected:?}");
        }
    }
}
