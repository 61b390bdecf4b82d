//! Token ids and prompts as transformers has them.

use model::TemplateMessage;
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
