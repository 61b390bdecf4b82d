//! Control tokens come from templates alone: what looks like one in a text is
//! broken, so that no message can end its own turn.

use serde_json::Value as Json;

/// A character that no text contains (Unicode reserves it for such uses), put
/// into what looks like a special token in a message.
pub const ESCAPE: char = '\u{FDD0}';

/// `text` with every one of `specials` in it broken by [`ESCAPE`]; an escape that
/// it contains itself is dropped. A special of one character cannot be broken and
/// is replaced.
pub fn escape<'a>(text: &str, specials: impl Iterator<Item = &'a str>) -> String {
    let mut escaped = text.replace(ESCAPE, "");
    for special in specials {
        let mut characters = special.chars();
        let Some(first) = characters.next() else {
            continue;
        };
        let broken = match characters.as_str() {
            "" => ESCAPE.to_string(),
            rest => format!("{first}{ESCAPE}{rest}"),
        };
        // again, since occurrences may overlap: each time fewer are whole
        while escaped.contains(special) {
            escaped = escaped.replace(special, &broken);
        }
    }
    escaped
}

/// `value` with every text in it escaped, keys included.
pub fn escape_json(value: &Json, escape: &dyn Fn(&str) -> String) -> Json {
    match value {
        Json::String(text) => Json::String(escape(text)),
        Json::Array(items) => items.iter().map(|item| escape_json(item, escape)).collect(),
        Json::Object(map) => map
            .iter()
            .map(|(key, value)| (escape(key), escape_json(value, escape)))
            .collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &str, specials: &[&str]) -> String {
        escape(text, specials.iter().copied()).replace(ESCAPE, "!")
    }

    #[test]
    fn every_special_is_broken_however_they_overlap() {
        assert_eq!(escaped("a<e>b<e>", &["<e>"]), "a<!e>b<!e>");
        assert_eq!(escaped("a<f>b", &["<e>", ""]), "a<f>b");
        assert_eq!(escaped("|||||", &["||"]), "|!|!|!|!|");
        assert_eq!(escaped("<e><e>", &["<e><e>", "<e>"]), "<!e><!e>");
        assert_eq!(escaped("<\u{FDD0}e>", &["<e>"]), "<!e>");
        assert_eq!(escaped("a\u{1}b", &["\u{1}"]), "a!b");
    }
}
