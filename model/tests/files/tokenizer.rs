//! Token ids and prompts as transformers has them.

use model::gguf::Gguf;
use model::{ModelError, TemplateMessage, Tokenizer};
use serde::Deserialize;

use crate::{golden, real_model};

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Message>,
    generation: bool,
    prompt: String,
    ids: Vec<u32>,
}

fn rows<T: for<'de> Deserialize<'de>>(name: &str) -> Vec<T> {
    let file = std::fs::read_to_string(golden("tokenizer").join(name)).unwrap();
    file.split_terminator('\n')
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn ids_of_a_thousand_texts_equal_transformers() {
    let tokenizer = &real_model().tokenizer;
    let rows: Vec<Text> = rows("texts.jsonl");
    assert_eq!(rows.len(), 1000);
    for row in rows {
        let ids = tokenizer.encode(&row.text, true).unwrap();
        assert_eq!(ids, row.ids, "{:?}", row.text);
        let bytes: Vec<u8> = ids
            .iter()
            .flat_map(|id| tokenizer.token_bytes(*id))
            .copied()
            .collect();
        // Bytes for which the vocabulary has no token are dropped by transformers too.
        if bytes.len() == row.text.len() {
            assert_eq!(tokenizer.decode(&ids, false), row.text);
        } else {
            assert!(bytes.len() < row.text.len(), "{:?}", row.text);
        }
    }
}

#[test]
fn prompts_of_fifty_conversations_equal_transformers() {
    let model = real_model();
    let rows: Vec<Chat> = rows("chats.jsonl");
    assert_eq!(rows.len(), 50);
    for row in rows {
        let messages: Vec<TemplateMessage<'_>> = row
            .messages
            .iter()
            .map(|m| TemplateMessage {
                role: &m.role,
                content: &m.content,
            })
            .collect();
        assert_eq!(
            model.template.render(&messages, row.generation).unwrap(),
            row.prompt
        );
        assert_eq!(
            model.encode_chat(&messages, row.generation).unwrap(),
            row.ids
        );
    }
}

#[test]
fn special_tokens_are_recognized_where_that_is_asked_for() {
    let tokenizer = &real_model().tokenizer;
    let text = "a<|im_end|>b";
    let special = tokenizer.encode(text, true).unwrap();
    assert_eq!(special.iter().filter(|id| **id == 2).count(), 1);
    let plain = tokenizer.encode(text, false).unwrap();
    assert!(
        !plain.iter().any(|id| tokenizer.is_special(*id)),
        "{plain:?}"
    );
    assert_eq!(tokenizer.decode(&plain, true), text);
    assert_eq!(tokenizer.decode(&special, true), "ab");
    assert_eq!(tokenizer.id_of("<|im_end|>"), Some(2));
    assert_eq!(tokenizer.token_bytes(u32::MAX), b"");
}

#[test]
fn a_text_at_the_limit_is_encoded_and_one_above_is_not() {
    let tokenizer = &real_model().tokenizer;
    let spaces = " ".repeat(model::TEXT_BYTES_MAX - 1) + "x";
    let ids = tokenizer.encode(&spaces, true).unwrap();
    assert_eq!(tokenizer.decode(&ids, false), spaces);
    let longer = spaces + "x";
    assert!(matches!(
        tokenizer.encode(&longer, true),
        Err(model::ModelError::Limit { .. })
    ));
}

#[derive(Deserialize)]
struct SentencePieceText {
    text: String,
    ids: Vec<u32>,
    as_text: Vec<u32>,
    without_prefix: Vec<u32>,
    stripped: Vec<u32>,
}

/// The golden vocabulary as it is, as one of Gemma, and as one of Phi-3.
fn sentencepiece() -> [Tokenizer; 3] {
    let file = std::fs::read(golden("tokenizer/sentencepiece.gguf")).unwrap();
    let read = |file: &[u8]| Tokenizer::read(&Gguf::parse(file).unwrap()).unwrap();
    let after = |key: &[u8]| file.windows(key.len()).position(|w| w == key).unwrap() + key.len();
    let mut gemma = file.clone();
    let prefix = after(b"tokenizer.ggml.add_space_prefix\x07\0\0\0");
    assert_eq!(std::mem::replace(&mut gemma[prefix], 0), 1);
    let mut phi = file.clone();
    let name = after(b"tok-3 mini") - 10;
    phi[name..name + 5].copy_from_slice(b"Phi-3");
    [read(&file), read(&gemma), read(&phi)]
}

#[test]
fn a_sentencepiece_vocabulary_encodes_as_its_conversion_by_transformers() {
    let [tokenizer, gemmas, phis] = sentencepiece();
    let rows: Vec<SentencePieceText> = rows("sentencepiece.jsonl");
    assert_eq!(rows.len(), 211);
    let (mut bytes, mut merged) = (0, 0);
    for row in rows {
        let ids = tokenizer.encode(&row.text, true).unwrap();
        assert_eq!(ids, row.ids, "{:?}", row.text);
        let ids = tokenizer.encode(&row.text, false).unwrap();
        assert_eq!(ids, row.as_text, "as text: {:?}", row.text);
        let ids = phis.encode(&row.text, true).unwrap();
        assert_eq!(ids, row.stripped, "stripped: {:?}", row.text);
        let ids = gemmas.encode(&row.text, true).unwrap();
        assert_eq!(ids, row.without_prefix, "{:?}", row.text);
        assert_eq!(gemmas.decode(&ids, false), row.text);
        bytes += ids.iter().filter(|id| (3..259).contains(*id)).count();
        merged += ids
            .iter()
            .filter(|id| gemmas.token_bytes(**id).len() > 4)
            .count();
    }
    assert!(bytes > 500 && merged > 50, "{bytes} bytes, {merged} words");
    assert!(tokenizer.is_end_of_generation(tokenizer.eos()));
    assert_eq!(tokenizer.token_bytes(3 + 10), b"\n");
    assert!(!tokenizer.is_special(3 + 10));
}

#[test]
fn what_was_added_by_hand_is_text_in_a_sentencepiece_vocabulary_too() {
    let [_, tokenizer, _] = sentencepiece();
    for text in ["\n", "\n\n", "  ", "<b>"] {
        let id = tokenizer.id_of(text).unwrap();
        assert!(!tokenizer.is_special(id), "{text:?}");
        assert_eq!(tokenizer.token_bytes(id), text.as_bytes());
    }
    let end = tokenizer.id_of("<|end|>").unwrap();
    assert!(tokenizer.is_special(end));
    let code = "def f():\n\n  <b>return</b>\n";
    for special in [true, false] {
        let ids = tokenizer.encode(code, special).unwrap();
        assert!(ids.contains(&tokenizer.id_of("\n\n").unwrap()));
        assert_eq!(tokenizer.decode(&ids, true), code);
    }
    assert_eq!(tokenizer.decode(&[end], true), "");
}

#[test]
fn damaged_sentencepiece_vocabularies_are_refused() {
    let file = std::fs::read(golden("tokenizer/sentencepiece.gguf")).unwrap();
    let without = |key: &str| {
        let mut file = file.clone();
        let at = file
            .windows(key.len())
            .position(|w| w == key.as_bytes())
            .unwrap();
        file[at + key.len() - 1] = b'x';
        match Tokenizer::read(&Gguf::parse(&file).unwrap()) {
            Err(ModelError::Metadata { key, .. }) => key,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("was taken without {key}"),
        }
    };
    for key in [
        "tokenizer.ggml.scores",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.model",
    ] {
        assert_eq!(without(key), key);
    }
}
