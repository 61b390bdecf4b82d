//! Special tokens come from templates alone: what looks like one in a text is
//! broken, so that no message can end its own turn.

use serde_json::Value as Json;

/// A character that no text contains (Unicode reserves it for such uses), put
/// into what looks like a special token in a message.
pub const ESCAPE: char = '\u{FDD0}';

/// `text` with every one of `specials` in it broken by [`ESCAPE`]; an escape that
/// it contains itself is dropped.
pub fn escape<'a>(text: &str, specials: impl Iterator<Item = &'a str>) -> String {
    let mut escaped = text.replace(ESCAPE, "");
    for special in specials {
        let mut characters = special.chars();
        if let Some(first) = characters.next()
            && escaped.contains(special)
        {
            let broken = format!("{first}{ESCAPE}{}", characters.as_str());
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
