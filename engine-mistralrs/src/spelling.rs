//! Tokens as text that comes back as the same tokens.
//!
//! Where the crate writes a sequence as text and reads it again with each token, what
//! a model says may come back as other tokens (half of a character does), and their
//! positions with it. So it is given a tokenizer that writes tokens by their names,
//! with a space between any two: in a byte-level vocabulary no name has one.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

/// A folder's `tokenizer.json` without what would add tokens to a prompt, or take
/// them away.
pub(crate) fn bare(folder: &Path) -> Result<Map<String, Json>, String> {
    let bytes = std::fs::read(folder.join("tokenizer.json")).map_err(|e| e.to_string())?;
    let mut tokenizer: Map<String, Json> =
        serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    for key in ["post_processor", "truncation", "padding"] {
        tokenizer.insert(key.to_owned(), Json::Null);
    }
    Ok(tokenizer)
}

/// `tokenizer.json` as the crate is given it: names and numbers of the tokens are
/// those of `own`, and so are the bytes that the crate takes from the names. `Err`
/// says why it cannot be.
pub(crate) fn spelled(own: &Map<String, Json>) -> Result<Map<String, Json>, String> {
    let decoder = own.get("decoder").and_then(|decoder| decoder.get("type"));
    if decoder.and_then(Json::as_str) != Some("ByteLevel") {
        return Err("its tokenizer is not byte-level".to_owned());
    }
    let vocabulary = own.get("model").and_then(|model| model.get("vocab"));
    let vocabulary = vocabulary.and_then(Json::as_object);
    let vocabulary = vocabulary.ok_or("its vocabulary is no map of names")?;
    let mut tokenizer = own.clone();
    let mut set = |key: &str, value: Json| tokenizer.insert(key.to_owned(), value);
    set("normalizer", Json::Null);
    let split = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": false});
    set("pre_tokenizer", split);
    // what is in no vocabulary is some token: without one the crate panics
    let any = vocabulary.keys().next();
    set(
        "model",
        json!({"type": "WordLevel", "vocab": vocabulary, "unk_token": any}),
    );
    // the last says how the names are to be taken, and changes no text with spaces
    let join = json!({"type": "WordPiece", "prefix": " ", "cleanup": false});
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    set(
        "decoder",
        json!({"type": "Sequence", "decoders": [join, {"type": "Fuse"}, bytes]}),
    );
    Ok(tokenizer)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_vocabulary_stays_and_all_else_is_names() {
        let own = json!({
            "added_tokens": [{"id": 2, "content": "<end>"}],
            "normalizer": {"type": "NFC"},
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": {"a": 0, "Ġa": 1}, "merges": ["Ġ a"]},
        });
        let found = Json::Object(spelled(own.as_object().unwrap()).unwrap());
        assert_eq!(found["model"]["vocab"], own["model"]["vocab"]);
        assert_eq!(found["added_tokens"], own["added_tokens"]);
        assert_eq!(found["model"]["type"], "WordLevel");
        assert_eq!(found["normalizer"], Json::Null);
        for (key, other) in [
            ("model", json!({"type": "Unigram", "vocab": [["a", 0.0]]})),
            ("decoder", json!({"type": "ByteFallback"})),
        ] {
            let mut other_own = own.as_object().unwrap().clone();
            other_own.insert(key.to_owned(), other);
            assert!(spelled(&other_own).is_err(), "{key}");
        }
    }
}
